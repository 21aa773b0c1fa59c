/*
 * A thread that is busy while its process forks, thaws or adopts.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_DIFF_BESIDE_H
#define COWFORK_DIFF_BESIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "diff-state.h"

struct beside {
	enum beside_kind kind;
	struct slot *slot;	/* for the writer */
	pthread_t thread;
	atomic_int stop, rounds;
	int wrong;		/* it saw what it should not */
};

/* 0, or an errno. Returns when it is at work. */
int beside_start(struct beside *b);

/* Ends it; what it wrote to the slot is known again. 0: it saw nothing wrong. */
int beside_end(struct beside *b);

#endif
