/*
 * A reserve of memory maps, so that a freeze cannot meet vm.max_map_count.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_SPARE_H
#define COWFORK_SPARE_H

#include <stddef.h>
#include <stdint.h>

#define SPARE_MAX 131072	/* maps; twice what a process can have */

/* All zero: nothing is held. */
struct spare {
	uintptr_t at;		/* pages of which every second is another map */
	size_t held;		/* maps in reserve, even */
};

/* Hold at least count maps. -ENOMEM: the kernel's limit is reached. */
int spare_hold(struct spare *sp, size_t count);

/* Let at least count go, or all that are left, for a moment. */
void spare_lend(struct spare *sp, size_t count);

/* Let all go, for the freeze to use. Cannot fail. */
void spare_release(struct spare *sp);

#endif
