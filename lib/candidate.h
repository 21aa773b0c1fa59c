/*
 * Which memory of the process could be adopted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_CANDIDATE_H
#define COWFORK_CANDIDATE_H

#include <stdint.h>

#include "store.h"

#define CANDIDATES 64u	/* the largest, if there are more */

struct candidate {
	uintptr_t start, end;
	uintptr_t floor, limit;	/* where the mapping before ends, the next one begins */
	uint64_t bytes;		/* in memory or swap */
	uint64_t lazy;		/* ... that the kernel may take (MADV_FREE) */
	struct store *s;	/* whose window it lies in; NULL: none */
};

struct candidates {
	struct candidate at[CANDIDATES];
	unsigned count;
	int stale;		/* some lies where descendants look at what was there */
};

/* Those in [from, to), sorted by address; min: bytes, smaller mappings only where they
 * touch what was adopted; 0: of any size. As dear as a fork. The process lock is held. 0,
 * -errno: what /proc does not tell. */
int candidates_find(struct candidates *c, uintptr_t from, uintptr_t to, size_t min);

/* Does a part of it lie in one of the heaps of an arena of malloc's? */
int candidate_has_arena(uintptr_t start, uintptr_t end);

/* Once something is adopted, mappings of this size are worth it too: each fork copies
 * their page tables. */
#define CANDIDATE_LEAST ((size_t)1 << 20)

/* Could there be any? By size alone, and cheap: the bytes of mappings. -errno. */
int64_t candidates_mapped(size_t min);

#endif
