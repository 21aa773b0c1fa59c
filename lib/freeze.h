/*
 * From OWNED to FROZEN, of everything that this process has in its own stores;
 * and what was freed while descendants looked. The process lock is held by every
 * caller.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_FREEZE_H
#define COWFORK_FREEZE_H

#include <stdint.h>

#include "store.h"

/* Freeze what is OWNED. Returns how many runs of it moved, or -ENOMEM: what could
 * not be frozen stays OWNED and no fork may follow. */
int freeze_all(void);

/* Freeze [start, start + len), all of it OWNED. */
int freeze_range(struct store *s, uintptr_t start, size_t len);

/* Freeze for good, and let go of all address space that is not the program's.
 * As freeze_all(). What children still see of freed memory, and what was freed,
 * is then kept until the process ends. */
int freeze_retire(void);

/* Punch what was freed while descendants looked, if none does any more. Asks
 * the kernel at most every 50 ms. */
void freeze_reap(void);

/* The same at once, but no more than 64 MiB. 1 when something was punched. */
int freeze_reap_some(void);

/* Freeze for good and let go of the reserve, so that the program has the maps; no
 * memory enters a store any more. 0 or -ENOMEM. */
int freeze_relieve(void);

/* Hold as many maps in reserve as freezing this store may need once it has so
 * many more extents. 0 or -ENOMEM. */
int freeze_reserve(struct store *s, size_t more);

#endif
