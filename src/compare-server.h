/*
 * The case `server` as its files in a worker share it: writers with their tallies
 * and what must stand in memory because of them.
 *
 * Write k of a thread (1, 2, ...) stores k in a page that seed, thread and k
 * choose, in the thread's word of that page. So memory as of a moment is what
 * the first so many writes of each thread have left, and whoever reads all of it
 * can tell both how many and whether that is so.
 *
 * All of this lies in one shared mapping. Children leave what they found there,
 * and no fork makes a writer pay for a page that only the measurement writes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COMPARE_SERVER_H
#define COMPARE_SERVER_H

#include <pthread.h>

#include "compare-histogram.h"
#include "compare.h"

/* Phase 0 is before the first fork; then each fork has one while its child
 * lives, which is odd, and one from then on. */
#define PHASES_MAX (2 * SERVER_FORKS_MAX + 1)

struct tally {
	struct histogram latency;
	uint64_t store_max;	/* ns */
};

struct server;

struct writer {
	const struct server *server;
	unsigned nth;
	pthread_t thread;
	uint64_t done;		/* writes that stand in memory */
	uint64_t least, most;	/* that a child must and may see */
	uint64_t seen;		/* that the last check came upon */
	uint64_t replayed;	/* that server->expected knows */
} __attribute__((aligned(64)));

struct side {
	unsigned phase;		/* that has begun last */
	int stop;
	double begin;		/* of the load */
	double start[PHASES_MAX];
	struct writer writer[SERVER_THREADS_MAX];
	struct tally tally[];	/* by thread and phase */
};

struct server {
	struct bench *bench;
	const struct load *load;
	struct reply *reply;
	struct side *side;
	size_t side_size;
	uint32_t *expected, *found;	/* by page and thread */
};

/* --- compare-writers.c --------------------------------------------------- */

/* 0 or -errno. */
int writers_start(struct server *s);
/* All have ended then; none may have started. */
void writers_stop(struct server *s);
/* Begin the next phase, now, and return when that is. */
double writers_phase(struct server *s);
struct tally *writers_tally(const struct server *s, unsigned thread, unsigned phase);
uint64_t writers_done(const struct server *s);
/* Where write k of a thread goes. */
size_t writers_page(const struct server *s, unsigned thread, uint64_t k);

/* --- compare-snapshot.c -------------------------------------------------- */

/* The side mapping; 0 or -errno. */
int snapshot_open(struct server *s);
void snapshot_close(struct server *s);
/* Read all memory: is it that of one moment, not before writer->least? Those
 * seen are noted. 0, or -1 with memory.wrong filled. */
int snapshot_check(struct server *s);
/* What a check has seen must not be later than writer->most. */
int snapshot_check_most(const struct server *s);

#endif
