/*
 * Adoption and release beside live threads: by the mover, some tables at a time, each
 * lifted meanwhile (lift.h).
 *
 * While a table is lifted nobody may unmap or replace what is there: calls through this
 * library wait for its lock. Malloc's own unmapping is seen to by the preload
 * runtime (src/preload-malloc.c), but for arenas other than the first. So those are
 * never lifted. Nor are the tables of threads' control blocks: what the kernel writes
 * there at a thread's end does not wait (fs/userfaultfd.c, PF_EXITING), and a
 * pthread_join(3) would wait for ever. Whoever makes a thread passes the gate, so that none
 * begins meanwhile. All that holds for a refresh too.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <gnu/libc-version.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "adopt.h"
#include "candidate.h"
#include "freeze.h"
#include "gate.h"
#include "huge.h"
#include "memory.h"
#include "merge.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"
#include "verify.h"

#define SLACK ((uint64_t)64 << 20)	/* stacks, .bss and the like */
#define TRIES 50u			/* at 2 ms, for threads to have begun */
#define TABLES 4u			/* at once: nobody waits much longer than 3 ms */
#define BLOCK ((uintptr_t)8 << 10)	/* around a control block */

/* --- what cannot be lifted ---------------------------------------------- */

struct area {
	uintptr_t start, end;
};

static int is_inside(void *arg, uintptr_t block)
{
	const struct area *a = arg;

	if (!block)	/* it begins just now, or ends, or has none */
		return -ESRCH;
	return block + BLOCK > a->start && block < a->end + BLOCK ? -EDOM : 0;
}

int adopt_has_control_block(uintptr_t start, uintptr_t end)
{
	struct area a = { start, end };

	return procfs_threads(is_inside, &a);
}

/* glibc from 2.42 on has guards that are no mappings of their own. */
static int has_guard(uintptr_t start)
{
	struct procfs_map m;
	unsigned major, minor;

	if (sscanf(gnu_get_libc_version(), "%u.%u", &major, &minor) != 2 || minor >= 42)
		return 1;
	return procfs_map_at(start - 1, &m) == 0 && !m.prot && !m.shared && !m.ino;
}

/* The C library's stacks lie above a guard, can have become one mapping with what lies
 * above them, and are unmapped by it unseen once their threads have ended. */
int adopt_may_be_stack(uintptr_t start)
{
	size_t size = (size_t)8 << 20, most = atomic_load(&process.stack_most);
	struct procfs_map m;
	pthread_attr_t attr;

	if (procfs_map_at(start, &m) < 0)
		return 1;
	if (pthread_getattr_default_np(&attr) == 0) {
		(void)pthread_attr_getstacksize(&attr, &size);
		pthread_attr_destroy(&attr);
	}
	size = size > most ? size : most;
	return start < m.start + size - sys_page_size() && has_guard(m.start);
}

int adopt_may_lift(const struct extent *e)
{
	if (!process.malloc_tamed)
		return 0;
	if (candidate_has_arena(e->start, e->end))
		return -EADDRINUSE;
	return adopt_may_be_stack(e->start) ? -EDOM : 0;
}

int adopt_lift(store_step *step, struct lift *l, struct store *s, struct extent *e)
{
	int ret = gate_close();

	if (ret < 0)
		return ret;
	ret = adopt_has_control_block(e->start, e->end);
	if (ret == 0 && !verify_piece(s, e))
		ret = -EEXIST;
	if (ret == 0)
		ret = store_by_halves(step, s, e->start, e->end - e->start, l);
	gate_open();
	return ret;
}

static void unmark_all(void)
{
	process_each_own(s)
		if (s->adopted)
			(void)adopt_unmark(s, s->base, s->base + s->size);
}

/* --- piece by piece ----------------------------------------------------- */

static enum cow_reason reason_of(int error)
{
	switch (error) {
	case -EPERM: return COW_REASON_PINNED;
	case -ENOMEM: return COW_REASON_MAPS;
	case -ESRCH:
	case -EADDRINUSE: return COW_REASON_OWNER;
	case -EDOM: return COW_REASON_NONE;
	default: return COW_REASON_CALL;
	}
}

static int release_step(struct store *s, uintptr_t start, size_t len, void *arg)
{
	struct extent e = extents_piece(&s->extents, start, start + len);
	int ret = lift_and_release(arg, s, &e);

	if (ret == 0)
		memory_yield(s, e.start, e.end, e.prot, EXTENT_KEEP);
	return ret;
}

/* One page tells: what spans more than one mapping is not lifted. */
static int adopt_step(struct store *s, uintptr_t start, size_t len, void *arg)
{
	if (memory_is_locked(start, sys_page_size()))
		return -EACCES;
	return thaw_lift(s, start, len, arg);
}

/* Some lifts ahead, of what is marked as a whole. */
static void prepare(struct adopt *a, struct store *s, const struct extent *whole)
{
	uintptr_t edge = (whole->start & ~(TABLE_SIZE - 1)) + MERGE_RUN * TABLE_SIZE;
	struct extent run = *whole;

	if (whole->start < a->prepared)
		return;
	run.end = run.end < edge ? run.end : edge;
	merge_prepare(s, &run);
	a->prepared = run.end;
}

static int lift_piece(struct adopt *a, struct lift *l, struct store *s,
		      const struct extent *whole, struct extent *e)
{
	store_step *step = a->releases ? release_step : adopt_step;
	uintptr_t edge = (e->start & ~(TABLE_SIZE - 1)) + TABLES * TABLE_SIZE;
	int ret;

	lift_reap();
	e->end = e->end < edge ? e->end : edge;
	ret = s->adopted ? adopt_may_lift(e) : 0;
	if (ret < 0)
		return ret;
	if (!store_may_move(s, e->end - e->start) || !store_have_room(s) ||
	    freeze_reserve(s, 2 + LIFT_MAPS / 2) < 0)
		return -ENOMEM;
	if (!a->releases)
		prepare(a, s, whole);
	if (e->state == EXTENT_OWNED && freeze_range(s, e->start, e->end - e->start) < 0)
		return -ENOMEM;
	spare_lend(&s->spare, LIFT_MAPS);
	ret = adopt_lift(step, l, s, e);
	if (ret < 0 && ret != -EINPROGRESS && ret != -ESRCH && !a->releases)
		extents_each(left, &s->extents, e->start, e->end)
			if (adopt_is_marked(&left))
				(void)store_punch(s, left.start, left.end - left.start);
	if (s->adopted)		/* it is never frozen */
		spare_release(&s->spare);
	else
		(void)freeze_reserve(s, 0);
	return ret;
}

static int is_wanted(const struct adopt *a, const struct store *s, const struct extent *e)
{
	if (a->releases)
		return adopt_can_release(s, e) && (s->adopted || a->what.to != UINTPTR_MAX);
	return s->adopted && adopt_is_marked(e);
}

static int next_piece(const struct adopt *a, struct store *s, struct extent *ret_piece)
{
	uintptr_t from = a->at > s->base ? a->at : s->base;
	uintptr_t to = s->base + s->size;

	if (a->releases && a->what.from > from)
		from = a->what.from;
	if (a->releases && a->what.to < to)
		to = a->what.to;
	extents_each(e, &s->extents, from, to) {
		if (!is_wanted(a, s, &e))
			continue;
		*ret_piece = e;
		return 1;
	}
	return 0;
}

static void move_piece(struct adopt *a, struct lift *l, struct store *s, struct extent *e)
{
	struct extent whole = *e;
	int ret = lift_piece(a, l, s, &whole, e);

	if ((ret == -EDOM || ret == -EPERM) && e->end > (e->start | (TABLE_SIZE - 1)) + 1) {
		e->end = (e->start | (TABLE_SIZE - 1)) + 1;
		ret = lift_piece(a, l, s, &whole, e);
	}
	a->tries = ret == -ESRCH ? a->tries + 1 : 0;
	a->again = ret == -EINPROGRESS || (a->tries && a->tries < TRIES);
	if (a->again)
		return;
	if (ret == -EDOM && a->releases)	/* adopted while nobody else was here */
		ret = -EADDRINUSE;
	if (ret == 0)
		a->bytes += e->end - e->start;
	else if (reason_of(ret))
		a->why = (int)reason_of(ret);
	if (ret < 0 && !a->releases)
		(void)adopt_unmark(s, e->start, e->end);
	if (l->held_ns > a->longest_ns)
		a->longest_ns = l->held_ns;
	a->at = e->end;
	huge_restart(s);
}

/* Can all that is marked be glibc's malloc's, as the runtime believes? Another allocator
 * of the program may not be seen, nor what it unmaps. */
static int is_mallocs(void)
{
	uint64_t bytes = 0, malloc_bytes = process.malloc_bytes;

	process_each_own(s)
		for (size_t i = 0; s->adopted && i < s->extents.count; i++)
			if (adopt_is_marked(&s->extents.at[i]))
				bytes += s->extents.at[i].end - s->extents.at[i].start;
	if (bytes <= malloc_bytes + malloc_bytes / 4 + SLACK)
		return 1;
	unmark_all();
	return 0;
}

static int next(struct adopt *a, struct lift *l)
{
	lift_reap();	/* a probe counts as a descendant */
	if (!a->releases && !a->marked) {
		a->why = adopt_mark(&a->what);
		a->marked = 1;
		if (process.malloc_tamed && a->what.to == UINTPTR_MAX && !is_mallocs())
			a->why = COW_REASON_OWNER;
		return a->why != COW_REASON_OWNER;
	}
	for (; a->store < atomic_load(&process.store_count); a->store++, a->at = a->prepared = 0) {
		struct store *s = process.stores[a->store];
		struct extent e;

		if (s->inherited || !next_piece(a, s, &e))
			continue;
		move_piece(a, l, s, &e);
		return 1;
	}
	unmark_all();
	while (a->releases && freeze_reap_some())
		;
	return 0;
}

int adopt_next(struct adopt *a, struct lift *l)
{
	uint64_t start = sys_now_ns();
	int ret = next(a, l);

	a->ns += sys_now_ns() - start;
	return ret;
}
