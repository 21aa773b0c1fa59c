/*
 * The cases of memory that exists before cowfork hears of it, as their files in a
 * worker share it: blocks from malloc or the bare system call, seen as units of equal
 * size. A unit's first and last word carry a pattern; the words behind the first are
 * the writers', one each, and count how often it wrote there.
 *
 * What tells where the blocks are and what must stand in them lies in shared mappings:
 * no fork copies page tables for it, and it is no memory that could be adopted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COMPARE_HEAP_H
#define COMPARE_HEAP_H

#include "compare.h"

struct heap_kind {
	const char *name;
	size_t block;		/* bytes of each; 0: all in one */
	void *(*get)(size_t size);
	int thread;		/* by a thread that ends then */
	int brk;		/* must lie between the program and the break */
};

extern const struct heap_kind heap_kinds[HEAP_KINDS];

struct heap {
	struct bench *bench;
	const struct heap_kind *kind;
	struct reply *reply;
	unsigned char **block;
	size_t blocks, block_size, unit, units;
	int error;		/* errno of the thread that filled it */
	unsigned char *warm;	/* in use, until memory is needed */
	size_t warm_size;
};

/* --- compare-heap-memory.c ------------------------------------------------ */

/* New memory of about that size, filled; it goes with the process. Each returns 0, or
 * -1 with the reply telling why. */
int heap_open(struct heap *h, size_t size, uint64_t seed);
/* Also in a child: a child_body that looks at everything. */
int heap_look(void *heap);
int heap_check(struct heap *h);
uint64_t *heap_word(const struct heap *h, size_t unit, size_t word);
int heap_wrong(const struct heap *h, size_t unit, size_t word, uint64_t expected,
	       uint64_t found);

/* --- compare-heap-writers.c ----------------------------------------------- */

struct heap_writers;

/* Threads that write so many random words a second, 0: without a pause; 0 or -errno. */
int heap_writers_start(struct heap *h, unsigned rate, struct heap_writers **ret);
/* From now on, until heap_writers_stop(), is what is measured. */
void heap_writers_mark(struct heap_writers *w);
/* Once each has written again. Look for lost writes, tell what was measured. */
int heap_writers_stop(struct heap_writers *w, double *ret_before_us, double *ret_us,
		      double *ret_writes);

#endif
