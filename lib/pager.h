/*
 * The pager: the process that serves memory where it lies (in-place.c) to the children of
 * this one. It shares the program's memory (CLONE_VM), but nothing else: descriptors,
 * signals, working directory and session are its own, and it outlives the program for as
 * long as a child needs what is there.
 *
 * The program asks it by a bell: a page of a userfaultfd of its own. Who touches that waits
 * until the pager has answered, or is no more. So the program holds no descriptor that it
 * could lose.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PAGER_H
#define COWFORK_PAGER_H

#include <stdatomic.h>
#include <stdint.h>

#include "cowfork.h"

#define PAGER_AREAS 64u

struct pager_area {
	uintptr_t start, end;
};

/* What is armed, sorted. */
struct pager_areas {
	unsigned count;
	struct pager_area at[PAGER_AREAS];
};

/* Two of it: the pager writes the one that is not `turn & 1`, and then turns. So whoever is
 * killed in the midst of that leaves a list that is whole, and so does a fork, since both
 * lie in one page. A child has what was armed when it was made, which is nothing of its
 * own. */
struct pager_lists {
	atomic_uint turn;
	struct pager_areas list[2];
};

#define PAGER_LISTS_ALIGN 4096
_Static_assert(sizeof(struct pager_lists) <= PAGER_LISTS_ALIGN, "a fork copies it at once");
extern struct pager_lists pager_lists;

/* The list of now: for the pager, or while none runs that could write it. */
static inline const struct pager_areas *areas_now(const struct pager_lists *lists)
{
	return &lists->list[atomic_load(&lists->turn) & 1];
}

/* Make `areas` that. For the same. */
void areas_set(struct pager_lists *lists, const struct pager_areas *areas);

/* Is a byte of [start, end) armed; how many bytes are? For any thread: another who writes the
 * list meanwhile is not waited for. */
int areas_meet(uintptr_t start, uintptr_t end);
uint64_t areas_bytes(void);

/* How many this process has had, with its ancestors. Mappings may be more than they were
 * then. */
extern int pager_ever;

/* Had an ancestor one? Then this one's may serve memory here. */
int pager_is_inherited(void);

enum pager_op {
	PAGER_NOTHING,
	PAGER_ARM,	/* protect a range: it is part of the next forks */
	PAGER_ARM_LAZY,	/* ... of which the kernel may take pages until then (MADV_FREE) */
	PAGER_GIVE,	/* let children have it: it is about to be emptied */
	PAGER_GIVEN,	/* it was */
	PAGER_LEAVE,	/* the same, and it is plain memory again */
	PAGER_END,	/* that of all; -EBUSY: a child needs the pager still */
	PAGER_OPEN,	/* a fork follows; all is protected, and nobody served meanwhile */
	PAGER_CLOSE,	/* the fork is over */
};

/* For cow_stats(). Written by the pager. */
struct pager_news {
	_Atomic(uint64_t) faults;	/* answered, of children and of the program */
	_Atomic(uint64_t) bytes;	/* copied to children */
	_Atomic(uint64_t) ns;		/* busy with that */
	_Atomic(uint64_t) killed;	/* children that could not be served */
};

struct pager;

/* All zero in a new child, which has none. */
struct pager_of_life {
	struct pager *it;
	const struct pager_news *news;
	int reason;		/* enum cow_reason: why none can be had, or why this one is to
				 * end as soon as no child needs it */
	uint64_t lost;		/* how many were */
};

/* Add what one has done. */
void pager_count(struct cow_stats *st, const struct pager_news *n);

/* Can none be had? An enum cow_reason; asked before memory is touched for it. */
int pager_why_not(void);

/* Make one. 0, or an enum cow_reason. The process lock is held for all that follows. */
int pager_start(void);

/* Ask it. What it says: 0 or -errno; -EPIPE: it is no more, and its memory is plain
 * memory again. */
int pager_ask(enum pager_op op, uintptr_t start, uintptr_t end);

/* All of it becomes plain memory, and the pager ends: for that reason there is none from now
 * on. 0; -EBUSY: a child needs it still, and it arms nothing more; -EPIPE. */
int pager_end(enum cow_reason why);

/* Is there memory that was moved, and is not plain memory yet? In no list, and in no child. */
int pager_moves(void);

/* Is the window open that PAGER_OPEN opened? */
int pager_is_open(void);

/* Does a fork follow with the window open, or one without? Its child is to know. */
void pager_opens(int it_does);

/* In a new child, first of all: does not return if the pager was lost while the child was
 * made. Safe anywhere, takes no lock. */
void pager_in_child(void);

#endif
