/*
 * What the library knows of this process, and the one lock around it.
 *
 * The lock nests. It is held with all signals blocked, so that no handler can
 * meet it half-way. A fork keeps it from the last atfork prepare handler to the
 * first parent and child handlers.
 * Order: the program's locks, then this one; the library takes no other.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PROCESS_H
#define COWFORK_PROCESS_H

#include <stdatomic.h>

#include "cowfork.h"
#include "store.h"

#define PROCESS_STORES 64	/* own stores and those of ancestors */

struct process {
	struct store *stores[PROCESS_STORES];
	atomic_uint store_count;	/* only grows; read without the lock */
	int native_for_good;		/* enum cow_reason: no store can be made */
	int lock_future;		/* mlockall(MCL_FUTURE) is in force */
	struct cow_stats stats;		/* counters only; see cow_stats() */
};

extern struct process process;

void process_lock(void);
void process_unlock(void);

/* Called by the fork's thread. process_fork_begin() locks (nesting); the
 * others undo one level. process_fork_child() also makes all stores inherited
 * and starts the counters afresh. */
void process_fork_begin(void);
void process_fork_parent(void);
void process_fork_child(void);

/* Is any thread inside a fork, so that nothing new may enter the store? */
int process_forking(void);

/* The store whose window holds part of [addr, addr + len), or NULL; the first
 * by address. Takes no lock: a store is never removed. */
struct store *process_store_at(uintptr_t addr, size_t len);

/* Walk the stores that this process made itself. */
#define process_each_own(s)							\
	for (unsigned s##_i = 0; s##_i < atomic_load(&process.store_count); s##_i++) \
		for (struct store *s = process.stores[s##_i]; s && !s->inherited; s = NULL)

/* Count memory that stays or becomes plain, and why. */
void process_native(enum cow_reason reason);

#endif
