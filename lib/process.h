/*
 * What the library knows of this process, and the one lock around it.
 *
 * The lock nests. It is held with all signals blocked, so that no handler can
 * meet it half-way. A fork keeps it from the last atfork prepare handler to the
 * first parent and child handlers.
 * Order: the program's locks, then this one; the library takes no other.
 *
 * What changes with every fork lives in one page, `life`, that the kernel wipes
 * in a child (MADV_WIPEONFORK). So a fork makes neither side copy a page for
 * it, a child begins with an open lock and counters at zero, and it knows by
 * the wiped page that it is a child, however it was made. Never by pid: a vfork
 * child has a pid of its own in its parent's memory.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PROCESS_H
#define COWFORK_PROCESS_H

#include <pthread.h>
#include <stdatomic.h>

#include "adopt-when.h"
#include "cowfork.h"
#include "gate.h"
#include "mover.h"
#include "pager.h"
#include "store.h"

#define PROCESS_STORES 64	/* own stores and those of ancestors */

enum made { MADE_NATIVE, MADE_FROZEN, MADE_FREEZE, MADE_REFRESH, MADE_IN_PLACE };

/* All zero in a new child. */
struct life {
	atomic_uchar known;		/* LIFE_NEW until the child was noticed */
	pthread_mutex_t mutex;
	_Atomic(uintptr_t) owner;	/* thread that holds it, 0 for none */
	unsigned depth;			/* its nested locks */
	atomic_uint forking;		/* its nested forks */
	atomic_uint waiting;		/* threads that wait for it */
	uint64_t signals;		/* its signal mask before */
	struct cow_stats stats;		/* counters only; see cow_stats() */
	struct meter {			/* see fork.c; times in ns */
		uint64_t before;	/* the kernel's fork began */
		uint64_t last[2];	/* cost of the two forks before, 0 for none */
		uint64_t floor;		/* cost of a flat fork, 0 before one is known */
		uint64_t excess;	/* above that, since the last refresh */
		uint64_t retry_at;	/* excess at which to ask again */
		uint64_t credit;	/* that collapsing may use */
		uint64_t run_ns;	/* what the last run of tables took */
		uint64_t faults;	/* children's, at the last look */
		int looked;		/* an exec'd program inherits a count */
	} meter;
	struct adopt_meter adopt;
	struct gate gate;
	enum made made;			/* the fork under way */
	int frozen_ahead;		/* cow_prepare() did its freeze */
	int flat;			/* its page tables were parked just now */
	int32_t pid;			/* whose memory this is; see process_borrowed() */
	uint64_t reaped;		/* when freeze_reap() last asked */
	uint64_t pins_next;		/* when pinned() looks again, and what it saw */
	int pins;
	struct mover mover;
	struct pager_of_life pager;
	atomic_uint parting;		/* threads that change the program's privileges */
	struct in_place_meter {	/* since the last look at what serving costs */
		uint64_t forks, ns;
	} in_place;
};

struct process {
	struct life *life;
	struct store *stores[PROCESS_STORES];
	atomic_uint store_count;	/* only grows; read without the lock */
	atomic_int in_use;		/* a store of its own holds memory */
	int native_for_good;		/* enum cow_reason: no store can be made */
	int lock_future;		/* mlockall(MCL_FUTURE) is in force */
	int maps_short;			/* freeze_reserve() has failed */
	_Atomic(uintptr_t) heap_end;	/* of the brk heap when it was adopted, 0: it was not */
	int malloc_tamed;		/* the runtime sees to what malloc unmaps, */
	atomic_int trim_tamed;		/* ... and the heap does not shrink by itself */
	uint64_t malloc_bytes;		/* what malloc had then */
	_Atomic(size_t) stack_most;	/* size of a thread's stack that was asked for */
	unsigned stores_at;		/* stores made for a hint, ancestors' too */
};

extern struct process process;

void process_lock(void);
void process_unlock(void);

/* Lock, but leave the options unread, so that a log callback that is set now
 * hears of bad ones. */
void process_lock_bare(void);

/* Lock, unless another thread is inside a fork: 0 then. For calls that can do
 * without: their thread may hold what a later atfork handler waits for. */
int process_lock_unless_forking(void);

/* Does another thread wait for the lock? */
int process_waited_for(void);

/* Does the memory belong to another process, which waits for this vfork child? */
int process_borrowed(void);

/* Is there no page that the kernel wipes in a child? No store then, and no mover, which
 * a child would believe to be its own. */
int process_is_plain(void);

/* Read the options if nobody did yet. */
void process_start(void);

/* Called by the fork's thread. process_fork_begin() locks (nesting) and returns
 * 1 at the outermost level, else 0; the others undo one level. */
int process_fork_begin(void);
void process_fork_parent(void);
void process_fork_child(void);

/* Is any thread inside a fork, so that nothing new may enter the store? */
int process_forking(void);

/* The store whose window holds part of [addr, addr + len), or NULL; the first
 * by address. Takes no lock: a store is never removed. */
struct store *process_store_at(uintptr_t addr, size_t len);

/* A walk over the windows in [*start, end): the next one, its part in *ret_from and
 * *start, which moves to the part's end; NULL when there is none left. */
struct store *process_next_window(uintptr_t *start, uintptr_t end, uintptr_t *ret_from);

/* Walk the stores that this process made itself. */
#define process_each_own(s)							\
	for (unsigned s##_i = 0; s##_i < atomic_load(&process.store_count); s##_i++) \
		for (struct store *s = process.stores[s##_i]; s && !s->inherited; s = NULL)

/* Count memory that stays or becomes plain, and why. */
void process_native(enum cow_reason reason);

#endif
