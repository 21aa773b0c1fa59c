/*
 * The table of extents of one window: which run of addresses has which state
 * and protection. A sorted array that covers the window without a gap; equal
 * neighbours are always merged. Pure data: no system call, no memory of its
 * own (the array is the caller's), so that it can be tested anywhere.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_EXTENT_H
#define COWFORK_EXTENT_H

#include <stddef.h>
#include <stdint.h>

/*
 *   FREE ----create----> OWNED ----freeze----> FROZEN
 *    ^                     | ^-----thaw-----------|
 *    |                     |                      |
 *    +------- unmap -------+------- unmap --------+
 *    |                     v                      v
 *    +------- unmap ----- NATIVE <--- a call that only plain memory can serve
 *
 * (NATIVE becomes FROZEN where memory is adopted: its content is in the store then, and
 * the program never had the store mapped shared there, see adopt.h.)
 * (FREE becomes NATIVE too, where the program maps there with MAP_FIXED. Where it
 * maps anonymous memory so, or asks for zeros, all of them become OWNED when no
 * descendant looks: a renewal.)
 * Every arrow is a call of extents_set(); extent_may_become() is the picture.
 */
enum extent_state {
	EXTENT_FREE,	/* reserved; in an inherited window, or one over memory that
			 * was adopted: not ours at all */
	EXTENT_OWNED,	/* shared mapping of the store, DONTFORK */
	EXTENT_FROZEN,	/* private mapping of the store, its table parked */
	EXTENT_NATIVE,	/* whatever the program put here; the kernel serves it */
};

/* The store holds bytes here that only descendants may still see: to be
 * punched when none lives; until then the offsets are not used again. */
#define EXTENT_STALE	1u
/* A private mapping that shows the store's bytes, but is the program's (it
 * locked it, or set advice that would not survive a thaw): never punch. */
#define EXTENT_PINNED	2u
/* Re-mapped behind the library's back, and our mapping perhaps moved elsewhere:
 * the kernel serves every call here, the store's bytes are never punched. */
#define EXTENT_FOREIGN	4u
/* Advice that the program gave on EXTENT_PINNED memory, to be given again to
 * what takes its place. */
#define EXTENT_DONTFORK	8u
#define EXTENT_DONTDUMP	16u
/* A mapping of the program's own making, not plain anonymous memory. */
#define EXTENT_PROGRAM	32u
/* Anonymous memory with something on it that the store cannot have. */
#define EXTENT_KEEP	64u

struct extent {
	uintptr_t start, end;
	uint8_t state;		/* enum extent_state */
	uint8_t prot;		/* PROT_READ | PROT_WRITE | PROT_EXEC */
	uint8_t flags;		/* EXTENT_STALE and so on */
};

struct extents {
	struct extent *at;
	size_t count, capacity;
};

const char *extent_state_string(enum extent_state state);
int extent_may_become(enum extent_state from, enum extent_state to);

/* One FREE extent over [start, end). capacity is at least 1. */
void extents_init(struct extents *set, struct extent *array, size_t capacity,
		  uintptr_t start, uintptr_t end);

/* Index of the extent that holds addr, which lies in the window. */
size_t extents_find(const struct extents *set, uintptr_t addr);

/* Is there room for one extents_set(), which can add two extents? */
int extents_have_room(const struct extents *set);

/* Give [start, end) of the window these attributes. Needs room. */
void extents_set(struct extents *set, uintptr_t start, uintptr_t end,
		 enum extent_state state, int prot, unsigned flags);

/* First fit: a FREE extent without flags that holds size bytes at a multiple
 * of align (a power of two). Returns the address, 0 when there is none. */
uintptr_t extents_fit(const struct extents *set, size_t size, size_t align);

/* The piece of the extent at addr that lies below end. */
struct extent extents_piece(const struct extents *set, uintptr_t addr,
			    uintptr_t end);

/* Walk the pieces of [from, to), re-finding the extent at every step, so that
 * the body may call extents_set() on the piece that it was given. */
#define extents_each(piece, set, from, to)					\
	for (struct extent piece = { .end = (from) };				\
	     piece.end < (to) && (piece = extents_piece(set, piece.end, to), 1);)

#endif
