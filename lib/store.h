/*
 * A store: one memfd that memory lives in, and the three address ranges of
 * equal size through which this process reaches it once its descriptor is
 * closed. Offset in the file = address - base, in all three:
 *
 *   window    where the program's memory is. Shared PROT_NONE where FREE,
 *             shared and readable where OWNED, private where FROZEN.
 *   shadow    shared. Page tables parked by a freeze; holes are punched here.
 *   template  private, PROT_NONE, never touched: a piece of it is laid over the
 *             window.
 *
 * None of the three is ever seen by a child (MADV_DONTFORK), except for the
 * FROZEN parts of the window. This file makes single steps; which steps, when
 * and what on failure is freeze.c's and memory.c's. The process lock is held
 * by every caller.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_STORE_H
#define COWFORK_STORE_H

#include <sys/types.h>

#include "cowfork.h"
#include "extent.h"
#include "lease.h"
#include "spare.h"

#define TABLE_SIZE ((size_t)2 << 20)	/* what one page-table page maps */

struct store {
	uintptr_t base;			/* of the window */
	size_t size;			/* of window, shadow and template each */
	uintptr_t shadow, template;
	dev_t dev;			/* the memfd's, to know it in maps */
	ino_t ino;
	int inherited;			/* of an ancestor, or retired: only the FROZEN
					 * parts exist */
	int adopted;			/* its window lies over memory that existed */
	uint64_t settled;		/* ... and was refreshed after so many forks */
	int owns;			/* something may be OWNED: freeze has work */
	int stale;			/* something may be EXTENT_STALE */
	int closed;			/* private parts may be MADV_DONTFORK */
	struct extents extents;
	struct spare spare;
	struct lease lease;
	size_t huge_cursor;		/* next table to look at; see huge.c */
	size_t huge_count;
	unsigned char *huge;		/* one byte a table: collapsed already; NULL
					 * before the first */
};

/* Make a store whose window has room for size bytes at a multiple of align,
 * and add it to the process. 0, or the enum cow_reason why not. */
int store_open(size_t size, size_t align, struct store **ret_store);

/* The same with a window that holds [at, at + size), pages where nothing is
 * mapped. COW_REASON_ADDRESS: something is, or there are enough such stores. */
int store_open_at(uintptr_t at, size_t size, struct store **ret_store);

/* A store over memory that exists: all of its window is FREE. The window is cut where
 * another begins. [low, high) is room around it, for what may grow there. Its offsets are
 * nobody else's, with a hole behind. */
int store_open_over(uintptr_t start, uintptr_t end, uintptr_t low, uintptr_t high,
		    struct store **ret_store);

/* Are its FREE parts address space that this process keeps for it? */
static inline int store_reserves(const struct store *s)
{
	return !s->inherited && !s->adopted;
}

/* What speaks against another one now: an enum cow_reason. */
int store_why_not(void);
/* Here is memory of the library's own, which is not to be moved. Where the owner of adopted
 * memory, or of what is marked to be, unmapped some of it unseen, the kernel puts others'. */
void store_keep_out(uintptr_t start, size_t len);

/* The same for what stores are made of. */
void store_keep_records_out(void);

/* What speaks for and against a store on this machine; for cow_facilities(). */
int store_kernel_can(void);
int store_strict_overcommit(void);
int store_unlimited(void);

/* Is there room for one extents_set()? Makes room when it can. */
int store_have_room(struct store *s);

/* s->huge, mapped when needed; NULL when it cannot be. */
unsigned char *store_huge_map(struct store *s);

/* The forked child's view: nothing but the FROZEN parts is left of it. */
void store_inherit(struct store *s);

/* The same for the process that made it, when nothing is OWNED any more: its
 * reserved address space goes back, and it never thaws. */
void store_retire(struct store *s);

/* FREE -> readable memory. -ENOMEM: no map left; nothing changed. */
int store_commit(struct store *s, uintptr_t start, size_t len, int prot);

/* Readable shared memory -> FREE, not yet empty. */
int store_decommit(struct store *s, uintptr_t start, size_t len);

/* Anything at all -> FREE, the store's bytes kept. */
int store_reserve(struct store *s, uintptr_t start, size_t len);

/* Anything at all -> OWNED, with what the store holds there. */
int store_renew(struct store *s, uintptr_t start, size_t len, int prot);

/* Zero the store there and free its memory, whatever maps it. */
int store_punch(struct store *s, uintptr_t start, size_t len);

/* Anything at all -> FROZEN, with what the store holds there and the protection that
 * the extents tell of. Page tables are empty. */
int store_cover(struct store *s, uintptr_t start, size_t len);

/* The step of a freeze, over neighbouring OWNED extents, and the way back, over
 * one. On failure memory is as it was before the call. -EFAULT from the first:
 * the kernel wants one mapping at a time (before Linux 6.17). */
int store_park(struct store *s, uintptr_t start, size_t len);
int store_unpark(struct store *s, uintptr_t start, size_t len, int prot);

/* A shared mapping of the store at `offset`, which the program moved: the same there, so that
 * a fork has it too. On failure it is as it was, to all but forks. */
int store_park_moved(struct store *s, uintptr_t at, size_t len, size_t offset, int prot);

/* One step over a range. Where the kernel has more than one map there it says
 * EFAULT (mremap(2) takes one): then over its halves. */
typedef int store_step(struct store *s, uintptr_t start, size_t len, void *arg);
int store_by_halves(store_step *step, struct store *s, uintptr_t start, size_t len,
		    void *arg);

/* No fork sees what is FROZEN in the window, unless that is in too many pieces; and
 * again it does, but for [but_from, but_to). The second can fail (-ENOMEM): then the store is marked so,
 * and the next freeze tries again. */
void store_close(struct store *s);
int store_reopen(struct store *s, uintptr_t but_from, uintptr_t but_to);

/* The same for one piece. */
void store_reopen_piece(struct store *s, uintptr_t start, size_t len);

/* Does the address space limit allow to move len bytes now? A limit set since
 * the store was made is met by giving up unused address space first. Asked
 * ahead because mremap(2) unmaps its target before it looks at the limit. */
int store_may_move(struct store *s, size_t len);

/* Give up the window's unused tail. */
void store_shrink(struct store *s);

/* Where the store's bytes for an address of the window can be written while it
 * is FROZEN. */
static inline uintptr_t store_alias(const struct store *s, uintptr_t addr)
{
	return addr - s->base + s->shadow;
}

#endif
