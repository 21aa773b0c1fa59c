/*
 * Heaps of stress-adopt.c: blocks of malloc of all sizes, each of which one thread
 * holds. What a block must hold is known by what stands elsewhere, so that a page
 * which comes back as it was once is seen. Blocks change hands, and so come from the
 * arenas of other threads, also of those that ended.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_STRESS_HEAP_H
#define COWFORK_TEST_STRESS_HEAP_H

#include "stress-pages.h"

#define HEAP_BLOCKS 80

struct block {
	unsigned char *at;	/* NULL: none */
	size_t size;
	uint32_t seed;
};

struct heap {
	struct block blocks[HEAP_BLOCKS];
	struct random random;
	int alone;		/* none changes hands */
};

/* A block comes, goes, grows, shrinks, changes hands or is written; 1 after a
 * complaint. */
int heap_step(struct heap *h, const char *who);

/* A large block goes and one comes, as a rule to the same place. */
int heap_churn(struct heap *h, const char *who);

/* All of it, as it was left between two steps. Also for a child. */
int heap_check(const struct heap *h, const char *who);

/* Its blocks go to whoever wants some, or are freed. */
void heap_leave(struct heap *h);

/* What nobody wanted. */
int heap_end(void);

#endif
