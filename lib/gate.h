/*
 * The gate between those who unmap or replace memory that may be adopted, and the mover,
 * which must not be met by that while it has a table lifted. Who makes threads passes it
 * too.
 *
 * Not the process lock, which a fork holds while the C library takes its stream locks: who
 * frees a large block may hold one of those. The order: the process lock, then the gate,
 * which the mover closes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_GATE_H
#define COWFORK_GATE_H

#include <stdatomic.h>
#include <stdint.h>

/* All zero in a new child. */
struct gate {
	atomic_uint inside;	/* how many are */
	atomic_uint closed;	/* waited for */
};

/* Can there be a mover to meet? */
int gate_is_needed(void);

/* In and out, with all signals blocked meanwhile; with NULL they are not: then no handler
 * may fork. */
void gate_enter(uint64_t *ret_signals);
void gate_leave(const uint64_t *signals);

/* By the mover, with the process lock: waits until nobody is inside, but not for long.
 * -EINPROGRESS: it stays open. Who is inside may wait for the lock (an allocator that
 * makes a thread's storage maps memory), or for another who wants in (a page that the
 * program's own userfaultfd serves). */
int gate_close(void);
void gate_open(void);

#endif
