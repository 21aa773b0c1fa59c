/*
 * A reserve of memory maps, so that a freeze cannot meet vm.max_map_count.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_SPARE_H
#define COWFORK_SPARE_H

#include <stddef.h>
#include <stdint.h>

struct spare {
	uintptr_t at;		/* pages of which every second is another map */
	size_t pages, held;	/* held: maps in reserve, even */
};

/* Reserve address space for up to limit maps; none is held yet. */
int spare_open(struct spare *sp, size_t limit);
void spare_close(struct spare *sp);

/* Hold at least count maps. -ENOMEM: the kernel's limit is reached. */
int spare_hold(struct spare *sp, size_t count);

/* Let all go, for the freeze to use. Cannot fail. */
void spare_release(struct spare *sp);

#endif
