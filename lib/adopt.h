/*
 * Adoption: memory that exists moves into the store.
 *
 *   plain memory ---mark---> NATIVE ---take in---> FROZEN ---release---> plain memory
 *
 * A store of its own is laid over each range (store_open_over()): what is marked there is
 * an overlay like any other, and its pages are merged into the store table by table.
 *
 * Adopted memory is never mapped shared: a refresh merges what changed and lays the
 * private mapping anew. So the owner's system calls that nobody sees (the C
 * library's malloc unmaps, moves, protects by itself) meet a private mapping, on which
 * they do what they do on anonymous memory; what they changed is found before the next
 * transition (verify.h). And there is no futex whose key changes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_ADOPT_H
#define COWFORK_ADOPT_H

#include <stddef.h>
#include <stdint.h>

#include "lift.h"
#include "mover.h"

/* All that the policy would take. */
struct adopt_what adopt_everything(void);

/* Adopt it now, alone in the address space. The process lock is held. 0 also when
 * there was nothing; or the enum cow_reason for which some of it stays native. */
int adopt_alone(const struct adopt_what *what);

/* Release what lies in the store there; likewise. With adopt_everything() what was
 * adopted alone. 0 or -errno. */
int adopt_release(const struct adopt_what *what);

/* The same for adopted memory of this process's ancestors too, at any time: its owner is
 * about to move it and nobody else touches it. */
void adopt_give_back(uintptr_t start, uintptr_t end);

/* Where no window tells of it: what adopted memory's owner moved there unseen becomes plain
 * memory. What another thread writes to it during the call can be lost. */
void adopt_give_back_moved(uintptr_t start, uintptr_t end);

/* Its owner has just unmapped something there: the store gives it back, as far as no
 * descendant looks. Not under a lock that a fork waits for longer than this takes. */
void adopt_unmapped(uintptr_t start, uintptr_t end);

/* What cow_adopt() returns for a reason. */
int adopt_error(int why);

/* --- beside live threads, table by table -------------------------------- */

struct adopt {			/* all zero at its start */
	struct adopt_what what;
	int releases;
	int marked;
	unsigned store;		/* where it is */
	uintptr_t at;
	uintptr_t prepared;	/* up to there memory waits for what will be copied */
	uint64_t bytes;		/* that moved */
	unsigned tries;		/* while a thread's control block is not known */
	int again;		/* not now: the same once more, later */
	int why;		/* enum cow_reason: what kept some from it */
	uint64_t ns;		/* with the lock held */
	uint64_t longest_ns;	/* that a writer may have been held */
};

/* May what was adopted there, or is about to be, be lifted at all? 0; -EADDRINUSE: it is an
 * arena's; -EDOM: it may be a stack. Without the runtime that is the caller's to know. */
int adopt_may_lift(const struct extent *e);

/* Does a thread's control block lie there? -EDOM; -ESRCH: it cannot be told just now; 0.
 * May a stack of the C library's begin there? */
int adopt_has_control_block(uintptr_t start, uintptr_t end);
int adopt_may_be_stack(uintptr_t start);

/* Lift it by a step. 0; -EINPROGRESS: not now, give up the lock; -EDOM: a thread's control
 * block lies there; -EEXIST: it is not what it was; what the step says. */
int adopt_lift(store_step *step, struct lift *l, struct store *s, struct extent *e);

/* The next tables, by the mover. 1: there may be more; 0: that was all. */
int adopt_next(struct adopt *a, struct lift *l);

/* --- for adopt-beside.c ------------------------------------------------- */

/* Mark all candidates. 0 or the enum cow_reason. */
int adopt_mark(const struct adopt_what *what);
int adopt_is_marked(const struct extent *e);
int adopt_unmark(struct store *s, uintptr_t start, uintptr_t end);
int adopt_can_release(const struct store *s, const struct extent *e);

#endif
