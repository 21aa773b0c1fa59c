/*
 * A part of a window lifted: its pages lie where nobody else reaches them, and
 * whoever touches the place waits in the kernel, by userfaultfd(2), until the store
 * is back there with all that they held. How a thaw works beside live threads.
 *
 * The process lock is held by every caller. While something is lifted nobody here
 * touches memory of the program, allocates, or waits for another thread.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_LIFT_H
#define COWFORK_LIFT_H

#include "store.h"

struct lift {
	int uffd;		/* that holds faults of kernel and program alike */
	uintptr_t scratch;	/* room for a table, PROT_NONE when empty */
	int watch_pins;		/* pages may be pinned for devices: look for them */
	uint64_t held_ns;	/* how long the last one was lifted */
};

/* Reserve the scratch. 0 or -ENOMEM. */
int lift_open(struct lift *l);
void lift_close(struct lift *l);

/*
 * Put the store's memory back over a piece of one table, FROZEN or overlay, with
 * what this process changed there. 0; on failure memory is as it was:
 * -EBUSY	a descendant looks
 * -EPERM	a page is pinned for a device
 * -EFAULT	more than one mapping lies there; try its halves
 * other	what the kernel refused
 */
int lift_and_thaw(struct lift *l, struct store *s, const struct extent *e);

#endif
