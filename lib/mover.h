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
#include <stddef.h>
#include <stdint.h>

/* What is to be adopted: candidates in [from, to), see candidates_find(). */
struct adopt_what {
	uintptr_t from, to;
	size_t min;
};

/* All zero in a new child, which has none. Under the process lock but where it says
 * that the field is read or waited for without. */
struct mover {
	atomic_int runs;	/* there is one; read without */
	atomic_int parked;	/* ... that waits for a fork; read without */
	atomic_int refused;	/* enum cow_reason: none can be had; read without */
	atomic_uint work;	/* counts what it must know of; it waits for that */
	atomic_int stop;	/* it is to end; read without */
	int tid;		/* its thread id */
	int probe;		/* child that was killed, but is not reaped: lift.h */
	int kept_why;		/* enum cow_reason: what its last thaw left frozen */
	struct mover_question {
		unsigned asked;		/* number of the last question */
		atomic_uint answered;	/* ... of the last that has an answer; waited for */
		int answer;
	} thaw, adopt;		/* of adopt there is one at a time */
	struct adopt_what what;	/* to adopt, or to release */
	int releases;
	int wanted;		/* adoption pays: all that there is */
	uint64_t table_ns;	/* cost of a table in its last thaw */
	struct mover_news {	/* for the log, which is not the mover's to call */
		int any;
		uint64_t tables, kept, ns, hold_ns, adopted;
		int why;	/* -errno, of what was kept */
	} news;
};

/* After a fork: tell it, if there is one. Safe anywhere. */
void mover_told(void);

/* After a fork: start it if there is work that it alone can do. Takes the lock. Not
 * for signal handlers and atfork handlers: it makes a thread. */
void mover_start(void);

/* Log what it did since the last call. The process lock is held, by a thread of the
 * program's: the log callback may use descriptors, of which the mover has others. */
void mover_tell(void);

/* Adopt or release, by the mover, and wait for that. 0, -EPERM: it cannot be had, -EAGAIN,
 * -ENOMEM. Not under the lock. */
int mover_adopt(const struct adopt_what *what, int releases);

/* End it, and wait for that. Not under the lock. */
void mover_stop(void);

#endif
