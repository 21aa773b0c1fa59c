/*
 * Freeze: park an extent's page tables in the shadow, lay a piece of the
 * template over it. Thaw: copy the pages that this process changed into the
 * shadow, move the parked tables back.
 *
 * Invariants: the store at an offset is written only through an OWNED mapping,
 * or here while no descendant lives. Before anything is re-mapped, /proc/self/
 * maps says that it is still what we put there; where /proc is missing, raw
 * system calls on regions go unnoticed (cowfork(7)).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "freeze.h"
#include "log.h"
#include "memory.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

/* --- is it still ours? -------------------------------------------------- */

enum kind { KIND_OTHER, KIND_SHARED, KIND_PRIVATE };

struct walk {
	struct store *s;
	uintptr_t next;		/* everything below has been looked at */
};

static enum kind expected(const struct extent *e)
{
	switch ((enum extent_state)e->state) {
	case EXTENT_OWNED: return KIND_SHARED;
	case EXTENT_FROZEN: return KIND_PRIVATE;
	case EXTENT_FREE:
	case EXTENT_NATIVE: break;
	}
	return KIND_OTHER;
}

/* [from, to) of the window is a mapping of this kind: what should be another
 * one is the program's from now on. */
static int look(struct store *s, uintptr_t from, uintptr_t to, enum kind kind)
{
	extents_each(e, &s->extents, from, to) {
		if (expected(&e) == KIND_OTHER || expected(&e) == kind)
			continue;
		if (!store_have_room(s))
			return -ENOMEM;
		log_line(COW_LOG_WARN, "%#lx-%#lx was re-mapped behind the library",
			 (unsigned long)e.start, (unsigned long)e.end);
		process_native(COW_REASON_FOREIGN);
		extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
			    EXTENT_FOREIGN);
	}
	return 0;
}

static int look_at_map(void *arg, const struct procfs_map *m)
{
	struct walk *w = arg;
	struct store *s = w->s;
	uintptr_t limit = s->base + s->size;
	uintptr_t start = m->start < s->base ? s->base : m->start;
	uintptr_t end = m->end < limit ? m->end : limit;
	enum kind kind = KIND_OTHER;
	int ret;

	if (m->end <= s->base || m->start >= limit)
		return 0;
	if (m->dev == s->dev && m->ino == s->ino && m->offset == m->start - s->base)
		kind = m->shared ? KIND_SHARED : KIND_PRIVATE;
	ret = look(s, w->next, start, KIND_OTHER);
	if (!ret)
		ret = look(s, start, end, kind);
	w->next = end;
	return ret;
}

static int verify(struct store *s)
{
	struct walk w = { .s = s, .next = s->base };
	uintptr_t end = s->base + s->size;
	int ret = procfs_maps(look_at_map, &w);

	if (ret < 0 && ret != -ENOMEM)	/* no /proc */
		return 0;
	if (!ret && w.next < end)
		ret = look(s, w.next, end, KIND_OTHER);
	return ret;
}

/* --- deferred punches --------------------------------------------------- */

static void reap_store(struct store *s)
{
	int left = 0;

	extents_each(e, &s->extents, s->base, s->base + s->size) {
		if (!(e.flags & EXTENT_STALE))
			continue;
		left |= !store_have_room(s) ||
			store_punch(s, e.start, e.end - e.start) < 0;
		if (!left)
			extents_set(&s->extents, e.start, e.end,
				    (enum extent_state)e.state, e.prot,
				    e.flags & ~EXTENT_STALE);
	}
	s->stale = left;
}

void freeze_reap(void)
{
	struct life *life = process.life;
	uint64_t now = 0;

	process_each_own(s) {
		if (!s->stale)
			continue;
		now = now ? now : sys_now_ns();
		if (now - life->reaped < 50000000u)
			return;
		if (lease_free(&s->lease))
			reap_store(s);
	}
	if (now)
		life->reaped = now;
}

/* --- freeze ------------------------------------------------------------- */

/* A quarter of the kernel's default limit: guards by the thousand must not take
 * the maps that the program needs. */
#define RESERVE_MAX 16384u

int freeze_reserve(struct store *s, size_t more)
{
	/* parking an extent cuts the shadow's map in three, and mremap wants
	 * five maps of headroom (mm/mremap.c) */
	size_t count = 2 * (s->extents.count + more) + 8;
	int ret = count > RESERVE_MAX ? -ENOMEM : spare_hold(&s->spare, count);

	if (ret < 0)
		process.maps_short = 1;
	return ret;
}

typedef int step_fn(struct store *, uintptr_t, size_t);

/* One step over a range. Where the kernel has more than one map there it says
 * EFAULT (mremap takes one): then over its halves. */
static int by_halves(step_fn *step, struct store *s, uintptr_t start, size_t len)
{
	size_t half = len / 2 & ~(sys_page_size() - 1);
	int ret = step(s, start, len);

	if (ret != -EFAULT || !half)
		return ret;
	ret = by_halves(step, s, start, half);
	return ret ? ret : by_halves(step, s, start + half, len - half);
}

static int freeze_step(struct store *s, uintptr_t start, size_t len)
{
	int ret = store_park(s, start, len);

	if (ret == 0)
		extents_each(e, &s->extents, start, start + len)
			extents_set(&s->extents, e.start, e.end, EXTENT_FROZEN,
				    e.prot, 0);
	return ret;
}

int freeze_range(struct store *s, uintptr_t start, size_t len)
{
	int ret;

	if (!store_may_move(s, len) || !store_have_room(s))
		return -ENOMEM;
	spare_release(&s->spare);
	ret = freeze_step(s, start, len);
	if (ret != -EFAULT)
		return ret;
	extents_each(e, &s->extents, start, start + len) {
		ret = by_halves(freeze_step, s, e.start, e.end - e.start);
		if (ret < 0)
			break;
	}
	return ret;
}

/* The end of the run of OWNED extents from start on. */
static uintptr_t run_end(const struct store *s, uintptr_t start)
{
	uintptr_t end = start, limit = s->base + s->size;

	while (end < limit) {
		struct extent e = extents_piece(&s->extents, end, limit);

		if (e.state != EXTENT_OWNED)
			break;
		end = e.end;
	}
	return end;
}

static int freeze_store(struct store *s)
{
	int ret = verify(s), moved = 0;

	if (ret < 0)
		return ret;
	extents_each(e, &s->extents, s->base, s->base + s->size) {
		if (e.state != EXTENT_OWNED)
			continue;
		e.end = run_end(s, e.start);
		ret = freeze_range(s, e.start, e.end - e.start);
		if (ret < 0)
			break;
		moved++;
	}
	if (ret < 0) {
		log_line(COW_LOG_ERROR, "freeze: %s", strerror(-ret));
		(void)freeze_reserve(s, 0);
		return -ENOMEM;
	}
	s->owns = 0;
	return moved;
}

int freeze_all(void)
{
	uint64_t start = 0;
	int moved = 0;

	process_each_own(s) {
		int ret;

		if (!s->owns)
			continue;
		start = start ? start : sys_now_ns();
		ret = freeze_store(s);
		if (ret < 0)
			return ret;
		moved += ret;
	}
	if (moved) {
		process.life->stats.freezes++;
		process.life->stats.freeze_ns_last = sys_now_ns() - start;
		process.life->stats.freeze_ns_total += process.life->stats.freeze_ns_last;
		if (!process.life->stats.generation_forks)
			process.life->stats.generation = process.life->stats.thaws + 1;
	}
	return moved;
}

int freeze_relieve(void)
{
	int ret = freeze_all();

	if (ret < 0)
		return ret;
	process_each_own(s)
		spare_release(&s->spare);
	atomic_store(&process.in_use, 0);
	process.native_for_good = COW_REASON_MAPS;
	return 0;
}

int freeze_retire(void)
{
	int ret = freeze_all();

	if (ret < 0)
		return ret;
	process_each_own(s) {
		if (lease_free(&s->lease))
			reap_store(s);
		store_retire(s);
	}
	atomic_store(&process.in_use, 0);
	return ret;
}

/* --- thaw --------------------------------------------------------------- */

#define TAKE_IN (16 * TABLE_SIZE)
#define STACK_ROOM ((uintptr_t)64 << 10)	/* what a thaw needs, many times over */

static int copy_back(void *arg, uintptr_t start, size_t len)
{
	const struct store *s = arg;

	memcpy((void *)store_alias(s, start), (const void *)start, len);
	return 0;
}

static int copy_private_pages(struct store *s, uintptr_t start, size_t len, int prot)
{
	int ret = sys_mprotect(store_alias(s, start), len, PROT_READ | PROT_WRITE);

	if (ret == 0 && !(prot & PROT_READ))
		ret = sys_mprotect(start, len, prot | PROT_READ);
	if (ret < 0)
		return ret;
	ret = procfs_private(start, len, copy_back, s);
	if (!(prot & PROT_READ))
		sys_mprotect(start, len, prot);
	return ret;
}

static int thaw_step(struct store *s, uintptr_t start, size_t len)
{
	int prot = extents_piece(&s->extents, start, start + len).prot;
	int ret = store_unpark(s, start, len, prot);

	if (ret == 0)
		extents_set(&s->extents, start, start + len, EXTENT_OWNED, prot, 0);
	return ret;
}

static int is_overlay(const struct extent *e)
{
	return e->state == EXTENT_NATIVE && !(e->flags & ~EXTENT_STALE);
}

/* Anonymous memory that was laid over a window while descendants looked goes back
 * into the store, some tables at a time, so that little of it is held twice. */
static int take_in(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	int ret = 0;

	for (uintptr_t at = start; ret == 0 && at < end; at += TAKE_IN) {
		size_t len = end - at < TAKE_IN ? end - at : TAKE_IN;

		ret = store_have_room(s) ? store_punch(s, at, len) : -ENOMEM;
		if (ret == 0)
			ret = copy_private_pages(s, at, len, prot);
		if (ret == 0)
			ret = store_renew(s, at, len, prot);
		if (ret == 0)
			extents_set(&s->extents, at, at + len, EXTENT_OWNED, prot, 0);
		else	/* what was copied must not show when the place is used again */
			(void)store_punch(s, at, len);
	}
	return ret;
}

/* Returns 1 when it thawed. */
static int thaw_part(struct store *s, uintptr_t start, uintptr_t end,
		     const struct extent *e)
{
	size_t len = end - start;

	if (start >= end || !store_may_move(s, len) || !store_have_room(s))
		return 0;
	s->owns = 1;
	if (is_overlay(e))
		return take_in(s, start, end, e->prot) == 0;
	return copy_private_pages(s, start, len, e->prot) == 0 &&
	       by_halves(thaw_step, s, start, len) == 0;
}

/* Memory can hold a stack of the program's making (coroutines), and ours now:
 * what runs here writes to it while it is copied, so that part stays frozen. */
static int thaw_extent(struct store *s, const struct extent *e)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~(sys_page_size() - 1);
	uintptr_t low = here - STACK_ROOM, high = here + STACK_ROOM;

	if (here < e->start || here >= e->end)
		return thaw_part(s, e->start, e->end, e);
	return thaw_part(s, e->start, low, e) | thaw_part(s, high, e->end, e);
}

static int thaw_store(struct store *s)
{
	int thawed = 0;

	if (verify(s) < 0 || freeze_reserve(s, 2) < 0)
		return 0;
	extents_each(e, &s->extents, s->base, s->base + s->size)
		if (e.state == EXTENT_FROZEN ||
		    (is_overlay(&e) && !memory_is_locked(e.start, e.end - e.start)))
			thawed += thaw_extent(s, &e);
	return thawed;
}

int thaw_allowed(void)
{
	process_each_own(s)
		if (!lease_free(&s->lease))
			return 0;
	return sys_alone_in_mm();
}

int thaw_all(void)
{
	uint64_t start = sys_now_ns();
	int thawed = 0;

	process_each_own(s)
		thawed += thaw_store(s);
	if (thawed) {
		process.life->stats.thaws++;
		process.life->stats.thaw_ns_total += sys_now_ns() - start;
		process.life->stats.generation_forks = 0;
	}
	return thawed;
}
