/*
 * From FROZEN back to OWNED, of what this process has in its own stores, and
 * overlays back into the store. The process lock is held by every caller.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_THAW_H
#define COWFORK_THAW_H

#include <stdint.h>

#include "lift.h"
#include "store.h"

/* No living descendant sees a store of this process. */
int thaw_unseen(void);

/* Can that be told at all? */
int thaw_can_tell(void);

/* Bytes that a thaw would take back; and of these, those that are no reservations. */
uint64_t thaw_pending(void);
uint64_t thaw_accessible(void);

/* May thaw_all() be called now: nobody looks, and nobody else runs here? */
int thaw_allowed(void);

/* Thaw all at once. Extents that fail stay FROZEN; returns how many thawed. */
int thaw_all(void);

/* A thaw beside live threads, some tables at a time; all zero at its start. */
struct thaw {
	unsigned store;		/* where it is */
	uintptr_t at;
	uint64_t forks;		/* that there had been at its start */
	uint64_t tables;	/* thawed */
	uint64_t kept;		/* bytes that could not be, */
	int why;		/* and the last -errno of that */
	int asked;		/* by the program */
	int again;		/* not now: the same once more, later */
	uint64_t ns;		/* with the lock held */
	uint64_t longest_ns;	/* that a writer may have been held */
};

/* Merge a piece into the store, alone in the address space: an overlay, or FROZEN memory
 * that was adopted. It is OWNED then, adopted memory FROZEN. 0 or -errno. */
int thaw_take_in(struct store *s, const struct extent *e);

/* A step: lift [start, start + len), in one extent; arg: the struct lift. What was born
 * in the store is OWNED then, what was adopted FROZEN. */
int thaw_lift(struct store *s, uintptr_t start, size_t len, void *arg);

/* The next tables. 1: there may be more; 0: that was all; -EBUSY: a descendant
 * looks, begin anew when none does. */
int thaw_next(struct thaw *t, struct lift *l);

#endif
