/*
 * What malloc gives back by system calls of its own. While the mover moves a table,
 * nobody may unmap what is there; so calls that can unmap memory of glibc's malloc pass
 * the gate (lib/gate.h): of free() and realloc() those on blocks with a mapping of
 * their own, malloc_trim(), brk() and sbrk(). That the heap shrinks inside of free()
 * the mover ends by M_TRIM_THRESHOLD (mallopt(3)) before it begins; arenas other than
 * the first it leaves alone. Programs with one thread need nothing of this.
 *
 * Other allocators, and sanitizers, are not touched: there everything passes through.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/single_threaded.h>
#include <unistd.h>

#include "adopt.h"
#include "compat.h"
#include "cowfork.h"
#include "gate.h"
#include "in-place.h"
#include "preload.h"
#include "process.h"
#include "sys.h"

#define FORK_MS 100		/* that a fork may take, while a block waits to be freed */
#define IS_MMAPPED ((size_t)2)	/* in the word before a block (malloc/malloc.c) */

typedef void free_fn(void *p);
typedef void *realloc_fn(void *p, size_t size);

extern void *__curbrk;			/* the C library's break */

static _Atomic(free_fn *) real_free;
static _Atomic(realloc_fn *) real_realloc;
static __thread int binding __attribute__((tls_model("initial-exec")));

void preload_bind_malloc(void)
{
	void *libc_free;

	if (atomic_load(&real_free) || binding)
		return;
	binding = 1;
	libc_free = dlsym(RTLD_DEFAULT, "__libc_free");
	atomic_store(&real_realloc, (realloc_fn *)(uintptr_t)dlsym(RTLD_NEXT, "realloc"));
	atomic_store(&real_free, (free_fn *)(uintptr_t)dlsym(RTLD_NEXT, "free"));
	binding = 0;
	process.malloc_tamed = libc_free &&
			       (uintptr_t)libc_free == (uintptr_t)atomic_load(&real_free) &&
			       dlsym(RTLD_DEFAULT, "free") == (void *)(uintptr_t)free &&
			       dlsym(RTLD_DEFAULT, "malloc") ==
			       dlsym(RTLD_DEFAULT, "__libc_malloc");
}

IN_CHILD static size_t size_of(const void *p)
{
	return ((const size_t *)p)[-1];
}

IN_CHILD static int is_mapping(const void *p)
{
	return p && process.malloc_tamed && size_of(p) & IS_MMAPPED;
}

/* Its mapping begins before the block, where that was to be aligned. */
static uintptr_t mapping_of(const void *p, size_t *ret_len)
{
	size_t before = ((const size_t *)p)[-2];

	*ret_len = before + (size_of(p) & ~(size_t)7);
	return (uintptr_t)p - 2 * sizeof(size_t) - before;
}

/* A block that grows is moved by a bare mremap(2): out of its window it would be the
 * store's bytes that nobody looks after. So it is plain memory before, unless a fork is
 * under way: who is here may hold a lock of stdio's that the fork waits for. */
static void prepare_to_grow(void *p, size_t size)
{
	size_t usable = (size_of(p) & ~(size_t)7) - 2 * sizeof(size_t), len;
	uintptr_t start = mapping_of(p, &len);

	if (size <= usable || !process_store_at(start, len) || !process_lock_unless_forking())
		return;
	adopt_give_back(start, start + len);
	process_unlock();
}

/* Children of the in-place engine that have not touched what is to be unmapped or moved get
 * it before. A fork that is under way may wait for a lock that is held here: for a
 * moment it is let go first. */
static void let_children_have(uintptr_t start, size_t len)
{
	if (!in_place_at(start, len))
		return;
	for (int i = 0; i < FORK_MS && process_forking(); i++)
		sys_poll(NULL, 0, 1);
	if (!process_lock_unless_forking())
		return;
	in_place_left(in_place_leave(start, len));
	process_unlock();
}

/* The heap shrinks by itself inside of free(), in programs with one thread. */
IN_CHILD static void look_at_heap(void)
{
	uintptr_t end = atomic_load(&process.heap_end), now = end ? (uintptr_t)__curbrk : 0;

	if (now >= end)
		return;
	atomic_store(&process.heap_end, now);
	adopt_unmapped(now, end);
}

INTERPOSED IN_CHILD void free(void *p)
{
	int is = is_mapping(p), gate = is && !__libc_single_threaded;
	size_t len = 0;
	uintptr_t start = is ? mapping_of(p, &len) : 0;
	uint64_t signals;

	if (!atomic_load(&real_free))
		preload_bind_malloc();
	if (!atomic_load(&real_free))	/* dlsym(3) itself frees: it is little */
		return;
	if (is)
		let_children_have(start, len);
	if (gate)
		gate_enter(&signals);
	atomic_load(&real_free)(p);
	if (gate)
		gate_leave(&signals);
	if (is)
		adopt_unmapped(start, start + len);
	look_at_heap();
}

INTERPOSED void *realloc(void *p, size_t size)
{
	int is = is_mapping(p), gate = is && !__libc_single_threaded;
	size_t len = 0;
	uintptr_t start = is ? mapping_of(p, &len) : 0;
	uint64_t signals;
	void *ret;

	if (!atomic_load(&real_realloc))
		preload_bind_malloc();
	if (!atomic_load(&real_realloc))
		return NULL;
	if (is) {
		let_children_have(start, len);
		prepare_to_grow(p, size);
	}
	if (gate)
		gate_enter(&signals);
	ret = atomic_load(&real_realloc)(p, size);
	if (gate)
		gate_leave(&signals);
	return ret;
}

/* Before the heap shrinks. */
static void heap_ends(uintptr_t end)
{
	if (end < (uintptr_t)__curbrk)
		let_children_have(end, (uintptr_t)__curbrk - end);
}

INTERPOSED int malloc_trim(size_t pad)
{
	uint64_t signals;
	int ret;

	heap_ends((uintptr_t)__curbrk - (process.malloc_tamed ? mallinfo2().keepcost : 0));
	gate_enter(&signals);
	ret = preload_real()->trim(pad);
	gate_leave(&signals);
	look_at_heap();
	return ret;
}

INTERPOSED int mallopt(int param, int value)
{
	if (param == M_TRIM_THRESHOLD && atomic_load(&process.trim_tamed))
		return 1;
	return preload_real()->mallopt(param, value);
}

INTERPOSED int brk(void *end)
{
	uint64_t signals;
	int ret;

	heap_ends((uintptr_t)end);
	gate_enter(&signals);
	ret = preload_real()->brk(end);
	gate_leave(&signals);
	look_at_heap();
	return ret;
}

INTERPOSED void *sbrk(intptr_t increment)
{
	uint64_t signals;
	void *ret;

	if (increment < 0)
		heap_ends((uintptr_t)__curbrk + (uintptr_t)increment);
	gate_enter(&signals);
	ret = preload_real()->sbrk(increment);
	gate_leave(&signals);
	look_at_heap();
	return ret;
}
