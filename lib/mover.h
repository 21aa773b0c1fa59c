/*
 * The mover: a thread that thaws what is frozen, beside the program's threads, when
 * nobody looks at it any more. Programs with one thread have none: they thaw inside
 * a fork.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_MOVER_H
#define COWFORK_MOVER_H

#include <stdatomic.h>
#include <stdint.h>

/* All zero in a new child, which has none. Under the process lock. */
struct mover {
	atomic_int runs;	/* or is about to, or is asked to end; read without */
	atomic_int busy;	/* its thread has not cleaned up yet; without */
	atomic_int refused;	/* enum cow_reason: no mover can be had; without */
	int stop;		/* it is to end */
	int kept_why;		/* enum cow_reason: what its last thaw left frozen */
	int starter;		/* thread id: whose descriptors may pin memory */
	uintptr_t bell;		/* two pages: touching the first asks the mover */
	unsigned asked;		/* number of the last question */
	unsigned answered;	/* of the last that was answered */
	int answer;		/* ... and how */
	uint64_t table_ns;	/* cost of a table in its last thaw */
	struct mover_news {	/* for the log, which is not the mover's to call */
		int any;
		uint64_t tables, kept, ns, hold_ns;
		int why;	/* -errno, of what was kept */
	} news;
};

/* After a fork: start it if there is work that it alone can do. Takes the lock. Not
 * for signal handlers and atfork handlers: it makes a thread. */
void mover_start(void);

/* Log what it did since the last call. The process lock is held, by a thread of the
 * program's: the log callback may use descriptors, of which the mover has others. */
void mover_tell(void);

/* End it, and wait for that. Not under the lock. */
void mover_stop(void);

/* Take the lock at a moment when there is no mover. */
void mover_lock_without(void);

#endif
