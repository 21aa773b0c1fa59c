/*
 * A part of a window, some tables, lifted: its pages lie where nobody else reaches them, and
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

/* What is lifted at once, at most: the probe for pinned pages is shared, and nobody
 * waits much longer than a millisecond. */
#define LIFT_TABLES 16u
#define LIFT_PAGES 512u	/* to copy; the first table may have more */

/* Maps that the steps take at most, mremap's headroom too: the caller holds them in
 * reserve and lends them. */
#define LIFT_MAPS 12u

struct lift {
	int uffd;		/* that holds faults of kernel and program alike */
	uintptr_t scratch;	/* room for LIFT_TABLES, PROT_NONE when empty */
	uint64_t probe_ns;	/* what it took to make one */
	uint64_t held_ns;	/* how long the last one was lifted */
	int releases;		/* what lift_and_release() does */
};

/* Reserve the scratch. 0 or -ENOMEM. */
int lift_open(struct lift *l);
void lift_close(struct lift *l);

/*
 * Put the store's memory back over a piece, FROZEN or overlay, with what this process
 * changed there; of adopted memory as a private mapping again. 0; on failure memory is as
 * it was:
 * -EBUSY	a descendant looks (at fresh offsets none does)
 * -EPERM	a page is pinned
 * -EFAULT	more than one mapping lies there; try its halves
 * other	what the kernel refused
 */
int lift_and_thaw(struct lift *l, struct store *s, const struct extent *e);

/* Plain anonymous memory over a FROZEN piece, with its content. Likewise. */
int lift_and_release(struct lift *l, struct store *s, const struct extent *e);

/* Reap the probe that the last one made. Its end takes as long as its turn on a
 * processor, so wait for that without the lock before. */
void lift_wait(void);
void lift_reap(void);

#endif
