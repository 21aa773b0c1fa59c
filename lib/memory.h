/*
 * Memory calls on memory in the store, and putting new memory there.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_MEMORY_H
#define COWFORK_MEMORY_H

#include "store.h"

/* Put size bytes of zeros (whole pages), readable and writable, into a store of
 * this process. The process lock is held. 0, or the enum cow_reason why not. */
int memory_place(size_t size, size_t align, uintptr_t *ret_addr);

/* Unmap part of a store's window. 0 or -errno. The process lock is held. */
int memory_unmap(struct store *s, uintptr_t start, uintptr_t end);

/* Zero part of a window, as MADV_DONTNEED does; likewise. */
int memory_zero(struct store *s, uintptr_t start, uintptr_t end);

/* Make part of a window the kernel's to serve, its contents kept. Likewise. */
int memory_detach(struct store *s, uintptr_t start, uintptr_t end,
		  enum cow_reason reason);

/* Give the advice that an extent's flags tell of to plain memory. */
void memory_advise_again(uintptr_t start, size_t len, unsigned flags);

/* What the window is to the program there. An inherited window exists only
 * where it is FROZEN or was since handed to the kernel. */
static inline int memory_is_ours(const struct store *s, const struct extent *e)
{
	return e->state == EXTENT_FROZEN || (e->state == EXTENT_OWNED && !s->inherited);
}

#endif
