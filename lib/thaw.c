/*
 * Two ways back, but for adopted memory, which stays FROZEN: there a thaw merges what
 * changed and empties the page tables. Alone in the address space: a whole extent at once, the pages
 * that this process changed copied into the shadow, the parked tables moved back.
 * Beside live threads: the same table by table, each lifted meanwhile (lift.h).
 *
 * Invariant: the store at an offset is written only through an OWNED mapping, or
 * here while no descendant lives. Before anything is re-mapped it is verified that
 * it is still what we put there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "adopt.h"
#include "freeze.h"
#include "memory.h"
#include "merge.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"
#include "verify.h"

#define TAKE_IN (16 * TABLE_SIZE)
#define RESERVATION ((size_t)1 << 30)		/* that is looked at under one lock */
#define STACK_ROOM ((uintptr_t)64 << 10)	/* what a thaw needs, many times over */

int thaw_unseen(void)
{
	process_each_own(s)
		if (!lease_free(&s->lease))
			return 0;
	return 1;
}

int thaw_allowed(void)
{
	return thaw_unseen() && sys_alone_in_mm() && procfs_rings() <= 0 &&
	       procfs_pins() <= 0;
}

static int can_thaw(const struct extent *e)
{
	return e->state == EXTENT_FROZEN || merge_is_overlay(e);
}

/* What was adopted has no more to do until the next fork. */
static int is_settled(const struct store *s)
{
	return s->adopted && s->settled == process.life->stats.forks;
}

static uint64_t pending(int prot)
{
	uint64_t bytes = 0;

	process_each_own(s)
		for (size_t i = 0; i < s->extents.count; i++) {
			const struct extent *e = &s->extents.at[i];

			if (can_thaw(e) && (!prot || e->prot & prot) && !is_settled(s))
				bytes += e->end - e->start;
		}
	return bytes;
}

uint64_t thaw_pending(void)
{
	return pending(0);
}

uint64_t thaw_accessible(void)
{
	return pending(PROT_READ | PROT_WRITE);
}

int thaw_can_tell(void)
{
	process_each_own(s)
		if (!lease_tells(&s->lease))
			return 0;
	return 1;
}

static void begin_generation(void)
{
	process.life->stats.thaws++;
	process.life->stats.generation_forks = 0;
}

/* --- alone -------------------------------------------------------------- */

static int unpark_step(struct store *s, uintptr_t start, size_t len, void *arg)
{
	int prot = extents_piece(&s->extents, start, start + len).prot;
	int ret = store_unpark(s, start, len, prot);

	(void)arg;
	if (ret == 0)
		extents_set(&s->extents, start, start + len, EXTENT_OWNED, prot, 0);
	return ret;
}

/* The store over what was copied. Adopted memory must not become a hole: if the kernel
 * unmapped it and had no memory for the new mapping, that is tried again. */
static int lay(struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;
	unsigned char vec;
	int ret;

	if (!s->adopted)
		return store_renew(s, e->start, len, e->prot);
	while ((ret = store_cover(s, e->start, len)) < 0 &&
	       sys_mincore(e->start, sys_page_size(), &vec) == -ENOMEM)
		sched_yield();
	return ret;
}

int thaw_take_in(struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;
	int ret = store_have_room(s) ? merge_piece(s, e, e->start) : -ENOMEM;

	if (ret == 0)
		ret = lay(s, e);
	if (s->adopted)
		sys_mprotect(store_alias(s, e->start), len, PROT_NONE);
	if (ret < 0 && merge_is_overlay(e))	/* must not show later */
		(void)store_punch(s, e->start, len);
	if (ret == 0)
		extents_set(&s->extents, e->start, e->end,
			    s->adopted ? EXTENT_FROZEN : EXTENT_OWNED, e->prot, 0);
	return ret;
}

/* Some tables at a time, so that little of it is held twice. */
static int take_in(struct store *s, const struct extent *e)
{
	extents_each(p, &s->extents, e->start, e->end) {
		int ret;

		if (p.end - p.start > TAKE_IN)
			p.end = p.start + TAKE_IN;
		ret = thaw_take_in(s, &p);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Returns 1 when it thawed. */
static int thaw_part(struct store *s, uintptr_t start, uintptr_t end,
		     const struct extent *e)
{
	struct extent part = *e;
	size_t len = end - start;

	if (start >= end || !store_may_move(s, len) || !store_have_room(s))
		return 0;
	part.start = start;
	part.end = end;
	s->owns |= !s->adopted;
	if (s->adopted || merge_is_overlay(e))
		return take_in(s, &part) == 0;
	return merge_piece(s, &part, start) == 0 &&
	       store_by_halves(unpark_step, s, start, len, NULL) == 0;
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

	if (verify_store(s) < 0 || (!s->adopted && freeze_reserve(s, 2) < 0))
		return 0;
	extents_each(e, &s->extents, s->base, s->base + s->size)
		if (e.state == EXTENT_FROZEN ||
		    (merge_is_overlay(&e) && !memory_is_locked(e.start, e.end - e.start)))
			thawed += thaw_extent(s, &e);
	return thawed;
}

int thaw_all(void)
{
	uint64_t start = sys_now_ns();
	int thawed = 0;

	process_each_own(s) {
		thawed += thaw_store(s);
		s->settled = process.life->stats.forks;
	}
	if (thawed) {
		begin_generation();
		process.life->stats.thaw_ns_total += sys_now_ns() - start;
	}
	return thawed;
}

/* --- beside live threads ------------------------------------------------ */

int thaw_lift(struct store *s, uintptr_t start, size_t len, void *arg)
{
	struct extent e = extents_piece(&s->extents, start, start + len);
	int ret = lift_and_thaw(arg, s, &e);

	if (ret == 0) {
		s->owns |= !s->adopted;
		extents_set(&s->extents, start, start + len,
			    s->adopted ? EXTENT_FROZEN : EXTENT_OWNED, e.prot, 0);
	}
	return ret;
}

/* Inaccessible and without pages of this process: a reservation. Nobody can touch it,
 * so nobody needs to be held, and it may be large. */
static int is_reservation(const struct extent *e)
{
	return e->state == EXTENT_FROZEN && !e->prot && !merge_has_pages(e);
}

static int thaw_reservation(struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;
	int ret = sys_madvise(e->start, len, MADV_DONTFORK);

	if (ret == 0 && !lease_free(&s->lease))
		ret = -EBUSY;
	if (ret == 0)
		ret = store_by_halves(unpark_step, s, e->start, len, NULL);
	if (ret < 0)
		store_reopen_piece(s, e->start, len);
	else
		s->owns = 1;
	return ret;
}

/* The owner of adopted memory changes it unseen. Where this process has no pages of its
 * own, a lift would change nothing; or it may not be lifted beside threads. */
static int is_as_thawed(const struct thaw *t, struct store *s, struct extent *e)
{
	uintptr_t edge = (e->start & ~(TABLE_SIZE - 1)) + LIFT_TABLES * TABLE_SIZE;

	e->end = e->end < edge ? e->end : edge;
	if (verify_range(s, e->start, e->end) < 0)
		return 0;
	*e = extents_piece(&s->extents, e->start, e->end);
	return !can_thaw(e) || (e->state == EXTENT_FROZEN && !merge_has_pages(e)) ||
	       !(process.malloc_tamed || t->asked) || adopt_may_lift(e) < 0;
}

/* 0; 1: there was nothing to do; -errno. */
static int lift_piece(const struct thaw *t, struct lift *l, struct store *s,
		      struct extent *e)
{
	int ret, nobody;

	lift_reap();
	if (!lease_free(&s->lease))
		return -EBUSY;
	if (s->adopted && is_as_thawed(t, s, e))
		return 1;
	if (merge_is_overlay(e) && memory_is_locked(e->start, e->end - e->start))
		return -EACCES;
	if (!s->adopted && !verify_piece(s, e))
		return -EEXIST;
	if (!e->prot && e->end - e->start > RESERVATION)
		e->end = e->start + RESERVATION;
	nobody = !s->adopted && is_reservation(e);
	if (!nobody)
		e->end = merge_edge(e, LIFT_TABLES, LIFT_PAGES);
	if (!store_may_move(s, e->end - e->start) || !store_have_room(s) ||
	    freeze_reserve(s, 2 + LIFT_MAPS / 2) < 0)
		return -ENOMEM;
	if (nobody)
		return thaw_reservation(s, e);
	spare_lend(&s->spare, LIFT_MAPS);
	if (s->adopted) {
		ret = adopt_lift(thaw_lift, l, s, e);
		spare_release(&s->spare);
		return ret;
	}
	ret = store_by_halves(thaw_lift, s, e->start, e->end - e->start, l);
	if (freeze_reserve(s, 0) == 0)
		return ret;
	/* somebody took the maps: frozen memory needs none */
	(void)freeze_all();
	return -ENOMEM;
}

/* The next piece, and its first table only if it has a pinned page. */
static int thaw_piece(struct thaw *t, struct lift *l, struct store *s, struct extent *e)
{
	int ret = lift_piece(t, l, s, e);
	size_t len;

	if (ret == -EPERM && e->end > (e->start | (TABLE_SIZE - 1)) + 1) {
		e->end = (e->start | (TABLE_SIZE - 1)) + 1;
		ret = lift_piece(t, l, s, e);
	}
	if (ret == -EBUSY || ret == 1 || ret == -EINPROGRESS)
		return ret;
	len = e->end - e->start;
	if (ret < 0) {
		t->kept += len;
		t->why = ret;
		return 1;
	}
	if (!t->tables)
		begin_generation();
	t->tables += (len + TABLE_SIZE - 1) / TABLE_SIZE;
	return 1;
}

static int next_piece(const struct thaw *t, struct store *s, struct extent *ret_piece)
{
	extents_each(e, &s->extents, t->at < s->base ? s->base : t->at, s->base + s->size) {
		if (!can_thaw(&e))
			continue;
		*ret_piece = e;
		return 1;
	}
	return 0;
}

int thaw_next(struct thaw *t, struct lift *l)
{
	uint64_t start = sys_now_ns();

	for (; t->store < atomic_load(&process.store_count); t->store++, t->at = 0) {
		struct store *s = process.stores[t->store];
		struct extent e;
		int ret;

		if (s->inherited || !next_piece(t, s, &e))
			continue;
		ret = thaw_piece(t, l, s, &e);
		if (ret == 1)
			t->at = e.end;
		t->again = ret == -EINPROGRESS;
		if (t->again)
			ret = 1;
		t->ns += sys_now_ns() - start;
		if (l->held_ns > t->longest_ns)
			t->longest_ns = l->held_ns;
		return ret;
	}
	return 0;
}
