/*
 * mmap(2). What belongs in the store is put there: private anonymous memory of
 * at least the option min_size, or of JOIN_SIZE once the store is in use, so that
 * an allocator that grows in steps has all its memory there. What lands in a
 * window with MAP_FIXED stays in the store if it is of that kind, else the window
 * is the program's there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "call.h"
#include "compat.h"
#include "gate.h"
#include "in-place.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "sys.h"
#include "verify.h"

#define JOIN_SIZE ((size_t)256 << 10)

enum { FIXED = MAP_FIXED | MAP_FIXED_NOREPLACE };

struct request {
	uintptr_t start;	/* 0, a hint, or where it must be */
	size_t len;		/* as asked */
	size_t size;		/* whole pages */
	int prot, flags, fd;
	off_t off;
};

static long map_natively(const struct request *r)
{
	return sys_mmap(r->start, r->len, r->prot, r->flags, r->fd, r->off);
}

/* The mover may be about to adopt what is there. */
static long map_replacing(const struct request *r)
{
	uint64_t signals;
	long ret;

	if (!gate_is_needed())
		return map_natively(r);
	gate_enter(&signals);
	ret = map_natively(r);
	gate_leave(&signals);
	return ret;
}

/* --- what belongs in the store ------------------------------------------ */

/* Of a kind that the store can serve. What the default overcommit heuristic
 * refuses is the kernel's to refuse. */
static int belongs(const struct request *r)
{
	const int fine = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE |
			 MAP_NONBLOCK | FIXED;

	return r->size && (r->flags & MAP_ANONYMOUS) &&
	       (r->flags & MAP_TYPE) == MAP_PRIVATE && !(r->flags & ~fine) &&
	       !(r->prot & ~(PROT_READ | PROT_WRITE)) &&
	       (r->flags & MAP_NORESERVE || !(r->prot & PROT_WRITE) ||
		r->size <= sys_ram_and_swap());
}

static size_t smallest(void)
{
	return atomic_load(&process.in_use) && JOIN_SIZE < options.min_size ?
	       JOIN_SIZE : options.min_size;
}

/* Large and anonymous, but of a kind that stays native: worth a count. */
static void count_kind(const struct request *r)
{
	if (r->size >= options.min_size && (r->flags & MAP_ANONYMOUS) &&
	    (r->flags & MAP_TYPE) == MAP_PRIVATE && process_lock_unless_forking()) {
		process_native(COW_REASON_KIND);
		process_unlock();
	}
}

static void populate(const struct request *r, uintptr_t at)
{
	if (r->flags & MAP_POPULATE && !(r->flags & MAP_NONBLOCK))
		sys_madvise(at, r->size, r->prot & PROT_WRITE ? MADV_POPULATE_WRITE
							     : MADV_POPULATE_READ);
}

/* Anywhere in the store; 0 when it has to be native. */
static uintptr_t place(const struct request *r)
{
	uintptr_t at = 0;
	int why;

	if (!process_lock_unless_forking())
		return 0;
	why = COW_REASON_KIND;
	if (r->size >= smallest())	/* again: a child knows only now */
		why = memory_place(r->size, 0, r->prot, &at);
	if (why && r->size >= options.min_size)
		process_native((enum cow_reason)why);
	process_unlock();
	if (why)
		return 0;
	populate(r, at);
	return at;
}

/* --- in a window -------------------------------------------------------- */

static int is_within(const struct store *s, const struct request *r)
{
	return r->start >= s->base && r->start + r->size <= s->base + s->size;
}

/* To the program, what is FREE is not mapped. */
static int is_vacant(struct store *s, const struct request *r)
{
	if (!store_reserves(s) || !is_within(s, r))
		return 0;
	extents_each(e, &s->extents, r->start, r->start + r->size)
		if (e.state != EXTENT_FREE)
			return 0;
	return 1;
}

/* What was moved away from adopted memory shows the store elsewhere. */
static void verify_windows(const struct request *r)
{
	uintptr_t to = r->start, end = r->start + r->size, from;
	struct store *s;

	while ((s = process_next_window(&to, end, &from)))
		if (s->adopted)
			(void)verify_range(s, from, to);
}

static void yield_windows(const struct request *r)
{
	uintptr_t to = r->start, end = r->start + r->size, from;
	unsigned flags = belongs(r) ? 0 : EXTENT_PROGRAM;
	struct store *s;

	while ((s = process_next_window(&to, end, &from)))
		memory_yield(s, from, to, r->prot, flags);
}

/* MAP_FIXED. The process lock is held. */
static long map_over(struct request *r)
{
	struct store *s = process_store_at(r->start, r->size);
	long ret;

	if (!s)		/* a new child's windows are smaller */
		return map_natively(r);
	if (!store_have_room(s))
		return -ENOMEM;
	verify_windows(r);
	/* a range that is not all in this window would need more than one call
	 * to the kernel to be refused as a whole */
	if (r->flags & MAP_FIXED_NOREPLACE && store_reserves(s)) {
		if (!is_vacant(s, r))
			return -EEXIST;
		r->flags = (r->flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
	}
	if (belongs(r) && is_within(s, r) &&
	    memory_renew(s, r->start, r->start + r->size, r->prot) == 0)
		return (long)r->start;
	ret = map_natively(r);
	if (!sys_failed(ret))
		yield_windows(r);
	return ret;
}

static long map_fixed(struct request *r)
{
	long ret;

	process_lock();
	ret = map_over(r);
	process_unlock();
	if (!sys_failed(ret) && process_store_at(r->start, 1))
		populate(r, r->start);
	return ret;
}

/* --- a hint ------------------------------------------------------------- */

/* A window is not in the way of a hint: to the program it is not there. */
static long map_in_vacancy(struct request *r)
{
	struct store *s;
	long ret = -EEXIST;

	if (!process_lock_unless_forking())
		return ret;
	s = process_store_at(r->start, r->size);
	if (s && is_vacant(s, r)) {
		struct request there = *r;

		there.flags |= MAP_FIXED;
		ret = map_over(&there);
	}
	process_unlock();
	if (!sys_failed(ret))
		populate(r, r->start);
	return ret;
}

/* Large memory brings its window along. */
static long map_with_window(const struct request *r)
{
	int why = COW_REASON_FORKING;

	if (!process_lock_unless_forking())
		return -EEXIST;
	why = memory_place_at(r->start, r->size, r->prot);
	process_unlock();
	if (why)
		return -EEXIST;
	populate(r, r->start);
	return (long)r->start;
}

/* Where the kernel would heed the hint so does the library. */
static long map_near(struct request *r)
{
	uintptr_t at;
	long ret = -EEXIST;

	r->start &= ~(sys_page_size() - 1);
	if (r->size && call_in_window(r->start, r->size))
		ret = map_in_vacancy(r);
	else if (r->size >= options.min_size && belongs(r))
		ret = map_with_window(r);
	if (!sys_failed(ret))
		return ret;
	ret = map_natively(r);
	if (sys_failed(ret) || (uintptr_t)ret == r->start || r->size < smallest() ||
	    !belongs(r)) {
		count_kind(r);
		return ret;
	}
	at = place(r);
	if (!at)
		return ret;
	sys_munmap((uintptr_t)ret, r->size);
	return (long)at;
}

/* --- public ------------------------------------------------------------- */

static long map(struct request *r)
{
	uintptr_t at;

	if (r->flags & FIXED)
		return call_in_window(r->start, r->size) ? map_fixed(r)
							 : map_replacing(r);
	if (r->start)
		return map_near(r);
	if (r->size < smallest())	/* before belongs(), which asks the kernel */
		return map_natively(r);
	if (!belongs(r)) {
		count_kind(r);
		return map_natively(r);
	}
	at = place(r);
	return at ? (long)at : map_natively(r);
}

static long map_there(struct request *r)
{
	int held = r->flags & MAP_FIXED ? in_place_leave(r->start, r->size) : 0;
	long ret = map(r);

	in_place_left(held);
	return ret;
}

void *cow_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	struct request r = {
		.start = (uintptr_t)addr, .len = len, .size = sys_whole_pages(len),
		.prot = prot, .flags = flags, .fd = fd, .off = off,
	};

	process_start();
	return call_address(map_there(&r));
}
