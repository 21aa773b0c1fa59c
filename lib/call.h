/*
 * What the public memory calls share: their POSIX face, and the walk over a
 * range that is cut into what lies in a window and what does not.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_CALL_H
#define COWFORK_CALL_H

#include <stddef.h>
#include <stdint.h>

#include "store.h"

/* -errno becomes errno and -1, or MAP_FAILED. */
int call_result(int ret);
void *call_address(long ret);

/* Page-aligned, not empty, no wrap-around: what is worth looking at. The rest
 * is the kernel's to refuse (or to ignore). */
int call_is_proper(uintptr_t start, size_t len);

/* Is it proper, and does a window hold part of it? Takes no lock. */
int call_in_window(uintptr_t start, size_t len);

/* The call outside of windows. The mover may be about to adopt what it is about, so
 * beside threads it passes the gate. The POSIX result. */
int call_natively(int (*native)(uintptr_t start, size_t len, int value), uintptr_t start,
		  size_t len, int value);

struct call {
	int (*native)(uintptr_t start, size_t len, int value);
	int (*managed)(struct store *s, uintptr_t start, uintptr_t end, int value);
	int value;
	int goes_on;	/* past ENOMEM, as madvise(2) does past holes */
};

/* Make the call over a range, with the process lock held meanwhile. The POSIX
 * result. */
int call_over_range(const struct call *call, uintptr_t start, size_t len);

#endif
