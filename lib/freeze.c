/*
 * Freeze: park an extent's page tables in the shadow, lay a piece of the
 * template over it. And the end of what was freed meanwhile: the store's bytes
 * that descendants may have seen go when none lives.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "freeze.h"
#include "log.h"
#include "process.h"
#include "sys.h"
#include "verify.h"

/* --- deferred punches --------------------------------------------------- */

#define REAP_STEP ((size_t)64 << 20)	/* bytes; some 10 ms */

static int reap_piece(struct store *s, const struct extent *e)
{
	if (!store_have_room(s) || store_punch(s, e->start, e->end - e->start) < 0)
		return -ENOMEM;
	extents_set(&s->extents, e->start, e->end, (enum extent_state)e->state,
		    e->prot, e->flags & ~EXTENT_STALE);
	return 0;
}

static void reap_store(struct store *s)
{
	int left = 0;

	extents_each(e, &s->extents, s->base, s->base + s->size)
		if (e.flags & EXTENT_STALE)
			left |= reap_piece(s, &e) < 0;
	s->stale = left;
}

int freeze_reap_some(void)
{
	process_each_own(s) {
		int left = 0;

		if (!s->stale || !lease_free(&s->lease))
			continue;
		extents_each(e, &s->extents, s->base, s->base + s->size) {
			if (!(e.flags & EXTENT_STALE))
				continue;
			if (e.end - e.start > REAP_STEP)
				e.end = e.start + REAP_STEP;
			if (reap_piece(s, &e) == 0)
				return 1;
			left = 1;
		}
		s->stale = left;
	}
	return 0;
}

void freeze_reap(void)
{
	struct life *life = process.life;
	uint64_t now = 0;

	process_each_own(s) {
		if (!s->stale && !s->adopted)
			continue;
		now = now ? now : sys_now_ns();
		if (now - life->reaped < 50000000u)
			return;
		if (s->adopted)		/* its owner may have unmapped some */
			(void)verify_store(s);
		if (s->stale && lease_free(&s->lease))
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

static int freeze_step(struct store *s, uintptr_t start, size_t len, void *arg)
{
	int ret = store_park(s, start, len);

	(void)arg;
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
	ret = freeze_step(s, start, len, NULL);
	if (ret != -EFAULT)
		return ret;
	extents_each(e, &s->extents, start, start + len) {
		ret = store_by_halves(freeze_step, s, e.start, e.end - e.start, NULL);
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
	int ret = s->adopted ? 0 : verify_store(s), moved = 0;	/* else nothing moves */

	if (ret == 0 && s->closed) {
		spare_release(&s->spare);
		ret = store_reopen(s, 0, 0);
	}
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
