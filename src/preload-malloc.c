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
#include <string.h>
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

#define FORK_MS 100		/* that a fork may take, while what cannot be put off waits */
#define LATER 256u		/* blocks whose free(3) is put off */
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

/* --- while another thread forks ----------------------------------------- */

/* In place, memory that is unmapped in the window of a fork is lost to the children that lack
 * it: they are killed, and the kernel may tell of that fork after it has told of the
 * unmapping, so that the newest child would be shown zeros. So it waits for the fork to end;
 * but not the thread: it may hold a lock of the C library's, or of a handler of the program's,
 * that the fork waits for. Its block is freed later. */

static _Atomic(void *) later[LATER];
static atomic_uint later_count;

static int free_later(void *p)
{
	for (unsigned i = 0; i < LATER; i++) {
		void *none = NULL;

		if (atomic_compare_exchange_strong(&later[i], &none, p)) {
			atomic_fetch_add(&later_count, 1);
			return 1;
		}
	}
	return 0;
}

/* Children get what they lack of what is to be unmapped or moved, and until in_place_left()
 * no thread forks. What the result is for that; -EAGAIN: one forks now. What is not armed yet
 * may be a moment later, by a thread that forks. */
static int let_children_have(uintptr_t start, size_t len)
{
	if (in_place_is_plain(start, len))
		return 0;
	if (process_forking() || !process_lock_unless_forking())
		return -EAGAIN;
	in_place_left(in_place_leave(start, len));
	return 1;
}

/* The same for what cannot be put off. */
static int let_children_have_soon(uintptr_t start, size_t len)
{
	int held = let_children_have(start, len);

	for (int i = 0; i < FORK_MS && held < 0; i++) {
		sys_poll(NULL, 0, 1);
		held = let_children_have(start, len);
	}
	return held;
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

/* 0, or -EAGAIN: another thread forks now. */
static int free_mapping(void *p)
{
	size_t len;
	uintptr_t start = mapping_of(p, &len);
	int gate = !__libc_single_threaded, held = let_children_have(start, len);
	uint64_t signals;

	if (held < 0)
		return held;
	if (gate)
		gate_enter(&signals);
	atomic_load(&real_free)(p);
	if (gate)
		gate_leave(&signals);
	in_place_left(held);
	adopt_unmapped(start, start + len);
	return 0;
}

void preload_free_put_off(void)
{
	if (!atomic_load(&later_count) || process_forking())
		return;
	for (unsigned i = 0; i < LATER; i++) {
		void *p = atomic_exchange(&later[i], NULL);

		if (!p)
			continue;
		atomic_fetch_sub(&later_count, 1);
		if (free_mapping(p) < 0)
			(void)free_later(p);
	}
}

/* Where so many are put off that there is no place for one more, its memory is not given back
 * at all, if the fork does not end soon. */
static void free_mapping_some_time(void *p)
{
	preload_free_put_off();
	for (int i = 0; free_mapping(p) < 0 && !free_later(p) && i < FORK_MS; i++)
		sys_poll(NULL, 0, 1);
}

INTERPOSED IN_CHILD void free(void *p)
{
	if (!atomic_load(&real_free))
		preload_bind_malloc();
	if (!atomic_load(&real_free))	/* dlsym(3) itself frees: it is little */
		return;
	if (is_mapping(p))
		free_mapping_some_time(p);
	else
		atomic_load(&real_free)(p);
	look_at_heap();
}

/* In the window of a fork a block is not moved but copied. */
static void *realloc_later(void *p, size_t size)
{
	size_t usable = (size_of(p) & ~(size_t)7) - 2 * sizeof(size_t);
	void *now = p;

	if (size > usable) {
		now = malloc(size);
		if (!now)
			return NULL;
		memcpy(now, p, usable);
	}
	if (now != p || !size)
		free_mapping_some_time(p);
	return size ? now : NULL;
}

static void *realloc_mapping(void *p, size_t size)
{
	size_t len;
	uintptr_t start = mapping_of(p, &len);
	int gate = !__libc_single_threaded, held = let_children_have(start, len);
	uint64_t signals;
	void *ret;

	if (held < 0)
		return realloc_later(p, size);
	prepare_to_grow(p, size);
	if (gate)
		gate_enter(&signals);
	ret = atomic_load(&real_realloc)(p, size);
	if (gate)
		gate_leave(&signals);
	in_place_left(held);
	return ret;
}

INTERPOSED void *realloc(void *p, size_t size)
{
	if (!atomic_load(&real_realloc))
		preload_bind_malloc();
	if (!atomic_load(&real_realloc))
		return NULL;
	return is_mapping(p) ? realloc_mapping(p, size) : atomic_load(&real_realloc)(p, size);
}

/* Before the heap shrinks. */
static int heap_ends(uintptr_t end)
{
	uintptr_t now = (uintptr_t)__curbrk;

	return end < now ? let_children_have_soon(end, now - end) : 0;
}

INTERPOSED int malloc_trim(size_t pad)
{
	size_t keep = process.malloc_tamed ? mallinfo2().keepcost : 0;
	int ret, held = heap_ends((uintptr_t)__curbrk - keep);
	uint64_t signals;

	if (held < 0)		/* nothing was released */
		return 0;
	gate_enter(&signals);
	ret = preload_real()->trim(pad);
	gate_leave(&signals);
	in_place_left(held);
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
	int ret, held = heap_ends((uintptr_t)end);
	uint64_t signals;

	if (held < 0) {
		errno = ENOMEM;
		return -1;
	}
	gate_enter(&signals);
	ret = preload_real()->brk(end);
	gate_leave(&signals);
	in_place_left(held);
	look_at_heap();
	return ret;
}

INTERPOSED void *sbrk(intptr_t increment)
{
	uintptr_t end = (uintptr_t)__curbrk + (uintptr_t)increment;
	int held = increment < 0 ? heap_ends(end) : 0;
	uint64_t signals;
	void *ret;

	if (held < 0) {
		errno = ENOMEM;
		return (void *)-1;
	}
	gate_enter(&signals);
	ret = preload_real()->sbrk(increment);
	gate_leave(&signals);
	in_place_left(held);
	look_at_heap();
	return ret;
}
