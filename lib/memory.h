/*
 * Memory calls on memory in the store, and putting new memory there.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_MEMORY_H
#define COWFORK_MEMORY_H

#include "store.h"

/* The alignment of memory for which nothing else was asked. */
size_t memory_align(size_t size);

/* Put size bytes of zeros (whole pages) into a store of this process. The process
 * lock is held. 0, or the enum cow_reason why not. */
int memory_place(size_t size, size_t align, int prot, uintptr_t *ret_addr);

/* The same at an address where nothing is mapped, in a store made for it. */
int memory_place_at(uintptr_t at, size_t size, int prot);

/* Put memory where the window of a store of this process is FREE and clean. As
 * memory_place(). */
int memory_commit(struct store *s, uintptr_t at, size_t size, int prot);

/* Zeros in the store for part of a window, whatever was there. -EAGAIN when
 * descendants look, a fork is under way, or the store is not ours: then parts may
 * be zeros already, and the caller maps something else there. Likewise. */
int memory_renew(struct store *s, uintptr_t start, uintptr_t end, int prot);

/* The program put something of its own over part of a window; flags: 0 for plain
 * anonymous memory, else EXTENT_PROGRAM. Likewise. */
void memory_yield(struct store *s, uintptr_t start, uintptr_t end, int prot,
		  unsigned flags);

/* A flag of mmap(2) without effect, but that such a mapping stays native. */
#define MEMORY_NATIVE MAP_STACK

/* Unmap part of a store's window. 0 or -errno. The process lock is held. */
int memory_unmap(struct store *s, uintptr_t start, uintptr_t end);

/* Zero part of a window, as MADV_DONTNEED does; likewise. */
int memory_zero(struct store *s, uintptr_t start, uintptr_t end);

/* Lay plain anonymous memory over a piece of a window; flags: 0 or EXTENT_KEEP.
 * Likewise. */
int memory_empty(struct store *s, const struct extent *e, unsigned flags);

/* Copy part of a window elsewhere, holes left out; it is readable. What is OWNED is
 * given back as it goes when `gone` says that nobody needs it there any more.
 * Likewise. */
void memory_copy(struct store *s, uintptr_t to, uintptr_t from, size_t len, int gone);

/* The same for len bytes of any mapping, nothing given back. */
void memory_copy_pages(uintptr_t to, uintptr_t from, size_t len);

/* Put anonymous memory at `to` with a copy of what is at `from`, that place as a rule: one
 * mapping, of protection prot. 0 or -errno: nothing changed. */
int memory_lay_copy(uintptr_t to, uintptr_t from, size_t len, int prot);

/* Copy a piece to anonymous memory and put that in its place; flags: EXTENT_PROGRAM if
 * to the program it is another mapping than its neighbours from now on, else EXTENT_KEEP.
 * What another thread writes to the piece during the call can be lost. Likewise. */
int memory_make_anonymous(struct store *s, const struct extent *e, unsigned flags);

/* Write zeros to a piece. Likewise. */
int memory_zero_by_hand(const struct extent *e);

/* Is part of it locked? Only PINNED memory can be. */
int memory_is_locked(uintptr_t start, size_t len);

/* What took the place of a piece is to be locked as that was, whatever
 * mlockall(MCL_FUTURE) made of it. */
void memory_lock_as(uintptr_t start, size_t len, int locked);

/* Make part of a window the kernel's to serve, its contents kept. Likewise. */
int memory_detach(struct store *s, uintptr_t start, uintptr_t end,
		  enum cow_reason reason);

/* Give the advice that an extent's flags tell of to plain memory. */
void memory_advise_again(uintptr_t start, size_t len, unsigned flags);

/* Does the program hold descriptors through which devices write to memory? */
int memory_may_be_pinned(void);

/* What the window is to the program there. An inherited window exists only
 * where it is FROZEN or was since handed to the kernel. */
static inline int memory_is_ours(const struct store *s, const struct extent *e)
{
	return e->state == EXTENT_FROZEN || (e->state == EXTENT_OWNED && !s->inherited);
}

#endif
