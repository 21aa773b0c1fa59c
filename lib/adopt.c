/*
 * Marking and taking in; see adopt.h for the picture.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adopt.h"
#include "adopt-when.h"
#include "candidate.h"
#include "freeze.h"
#include "huge.h"
#include "in-place.h"
#include "kept.h"
#include "log.h"
#include "memory.h"
#include "merge.h"
#include "options.h"
#include "pin.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"
#include "verify.h"

#define STORES_ADOPTED 32u		/* of PROCESS_STORES */
#define MANY 16u			/* candidates, that share stores */
#define GAP ((uintptr_t)1 << 30)	/* between those that do, at most */
#define STEP (MERGE_RUN / 2 * TABLE_SIZE)		/* that is held twice meanwhile */
#define APART ((uintptr_t)64 << 10)	/* what adoption itself writes to: stack, control
					 * block, this library's data */

struct adopt_what adopt_everything(void)
{
	return (struct adopt_what){ 0, UINTPTR_MAX, options.min_size };
}

/* What is stale was adopted before. */
int adopt_is_marked(const struct extent *e)
{
	return merge_is_overlay(e) && !(e->flags & EXTENT_STALE);
}

/* --- mark --------------------------------------------------------------- */

/* What a fork would leave out is seen to before the next one, as long as it is marked. */
int adopt_unmark(struct store *s, uintptr_t start, uintptr_t end)
{
	if (s->closed && store_reopen(s, 0, 0) < 0)
		return -ENOMEM;
	extents_each(e, &s->extents, start, end) {
		if (!adopt_is_marked(&e))
			continue;
		if (!store_have_room(s))
			return -ENOMEM;
		extents_set(&s->extents, e.start, e.end, EXTENT_FREE, 0, 0);
	}
	return 0;
}

static void keep_apart(struct store *s, const void *what)
{
	uintptr_t page = sys_page_size(), at = (uintptr_t)what & ~(page - 1);
	uintptr_t from = at - APART, to = at + APART + page;

	from = from > s->base ? from : s->base;
	to = to < s->base + s->size ? to : s->base + s->size;
	if (from >= to || to <= s->base || from >= s->base + s->size)
		return;
	(void)adopt_unmark(s, from, to);
}

static void keep_kept(struct store *s)
{
	uintptr_t end = s->base + s->size;

	for (uintptr_t at = s->base, from, to; kept_part(at, end, &from, &to); at = to)
		(void)adopt_unmark(s, from, to);
}

/* The library's variables lie in two places, where it is part of a program. */
static char in_bss;

/* One store for all candidates up to *last, if there are so many that each cannot have
 * its own. */
static int open_store(struct candidates *found, unsigned first, unsigned *last)
{
	uintptr_t gap = found->count > MANY ? GAP : 0, start = found->at[first].start;
	uintptr_t room = (uintptr_t)sys_ram_and_swap(), below, behind;
	const struct candidate *c = &found->at[first];
	unsigned own = 0;
	struct store *s;
	int why;

	for (; *last + 1 < found->count; c = &found->at[++*last]) {
		const struct candidate *n = c + 1;

		if (!gap || n->s || n->start - c->end > gap ||
		    process_store_at(c->end, n->start - c->end))
			break;
	}
	process_each_own(other)
		own += other->adopted != 0;
	if (own >= STORES_ADOPTED)
		return COW_REASON_STORES;
	c = &found->at[*last];
	below = start - found->at[first].floor;
	behind = c->limit - c->end;
	why = store_open_over(start, c->end, start - (below < room ? below : room),
			      c->end + (behind < room ? behind : room), &s);
	if (why == COW_REASON_ADDRESS)	/* another window is in the way */
		why = COW_REASON_MAPS;
	for (unsigned i = first; !why && i <= *last; i++)
		found->at[i].s = s;
	return why;
}

/* cut: there is more of it. */
static int mark(const struct candidate *c, int *cut)
{
	struct store *s = c->s;
	uintptr_t start = c->start > s->base ? c->start : s->base;
	uintptr_t end = c->end < s->base + s->size ? c->end : s->base + s->size;

	*cut |= start > c->start || end < c->end;
	if (start >= end)
		return COW_REASON_NONE;
	if (!store_have_room(s))
		return COW_REASON_MAPS;
	extents_set(&s->extents, start, end, EXTENT_NATIVE, PROT_READ | PROT_WRITE, 0);
	if (end == (uintptr_t)sbrk(0))
		atomic_store(&process.heap_end, end);
	return COW_REASON_NONE;
}

static int mark_candidates(struct candidates *found, int *cut)
{
	int why = COW_REASON_NONE;

	for (unsigned i = 0, last; i < found->count; i = last + 1) {
		int ret = COW_REASON_NONE;

		last = i;
		if (!found->at[i].s)
			ret = open_store(found, i, &last);
		*cut |= ret == COW_REASON_MAPS;
		for (unsigned k = i; !ret && k <= last; k++)
			ret = mark(&found->at[k], cut);
		why = ret ? ret : why;
	}
	return why;
}

/* Windows are of whole tables: what lies in the window of another one that was opened just
 * now is found there the second time. */
static int find_and_mark(const struct adopt_what *what, size_t min)
{
	struct candidates found;
	int why, cut, tries = 0;

	do {
		cut = 0;
		if (candidates_find(&found, what->from, what->to, min) < 0)
			return COW_REASON_CALL;
		why = mark_candidates(&found, &cut);
	} while (cut && !tries++);
	return found.stale && !why ? COW_REASON_CALL : why;
}

/* --- pins --------------------------------------------------------------- */

struct unmark {
	struct store *s;
	int found;
};

static int unmark_table(void *arg, uintptr_t start, size_t len)
{
	uintptr_t from = start & ~(TABLE_SIZE - 1);
	uintptr_t to = (start + len + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);
	struct unmark *u = arg;
	struct store *s = u->s;

	from = from > s->base ? from : s->base;
	to = to < s->base + s->size ? to : s->base + s->size;
	if (adopt_unmark(s, from, to) < 0)
		return -ENOMEM;
	u->found = 1;
	return 0;
}

/* 1: there are some. One probe for all: nobody else runs here who could pin a page
 * meanwhile. (With an io_uring somebody does.) */
static int unmark_pinned(void)
{
	int pid, ret = 0, found = 0;

	if (!pin_can_tell())
		return 0;
	pid = sys_probe_start();
	if (pid < 0)
		return pid;
	process_each_own(s) {
		struct unmark u = { s, 0 };

		extents_each(e, &s->extents, s->base, s->base + s->size)
			if (s->adopted && adopt_is_marked(&e))
				ret |= procfs_unshared(e.start, e.end - e.start,
						       unmark_table, &u);
		found |= u.found;
	}
	sys_probe_kill(pid);
	(void)sys_probe_reap(pid);
	return ret < 0 ? -EAGAIN : found;
}

/* --- take in ------------------------------------------------------------ */

/* Some tables at a time, so that little of it is held twice. */
static int take_in_store(struct store *s, uint64_t *bytes)
{
	extents_each(e, &s->extents, s->base, s->base + s->size) {
		uintptr_t edge = (e.start & ~(TABLE_SIZE - 1)) + STEP;
		int ret;

		if (!adopt_is_marked(&e))
			continue;
		e.end = e.end < edge ? e.end : edge;
		ret = store_may_move(s, e.end - e.start) ? 0 : -ENOMEM;
		if (ret == 0) {
			merge_prepare(s, &e);
			ret = thaw_take_in(s, &e);
		}
		if (ret < 0)
			return ret;
		*bytes += e.end - e.start;
	}
	huge_restart(s);
	return 0;
}

static int take_in_all(uint64_t *bytes)
{
	int ret = 0;

	process_each_own(s) {
		if (!s->adopted)
			continue;
		if (ret == 0)
			ret = take_in_store(s, bytes);
		(void)adopt_unmark(s, s->base, s->base + s->size);
	}
	return ret;
}

/* --- all of it ---------------------------------------------------------- */

static int why_not(void)
{
	int why;

	if (!options_use_store())
		return COW_REASON_OFF;
	why = store_why_not();
	if (!why && !atomic_load(&process.store_count) && !store_kernel_can())
		why = process.native_for_good ? process.native_for_good : COW_REASON_MEMFD;
	return why;
}

static int has_adopted(void)
{
	process_each_own(s)
		if (s->adopted)
			return 1;
	return 0;
}

int adopt_mark(const struct adopt_what *what)
{
	size_t min = what->min;
	int why = why_not();

	if (why)
		return why;
	process_each_own(s)
		if (s->adopted && (verify_store(s) < 0 || store_reopen(s, 0, 0) < 0))
			return COW_REASON_MAPS;
	while (freeze_reap_some())
		;
	if (min > CANDIDATE_LEAST && (has_adopted() || candidates_mapped(min) > 0))
		min = CANDIDATE_LEAST;
	why = find_and_mark(what, min);
	store_keep_records_out();
	process_each_own(s) {
		if (!s->adopted)
			continue;
		keep_apart(s, __builtin_frame_address(0));
		keep_apart(s, (void *)pthread_self());
		keep_apart(s, &process);
		keep_apart(s, &in_bss);
		keep_kept(s);
	}
	return why;
}

/* A filter may kill for what a probe takes: so a child tries it. */
static void try_probe(void)
{
	int pid = sys_probe_start();

	if (pid <= 0)
		return;
	sys_probe_kill(pid);
	(void)sys_probe_reap(pid);
}

static int why_not_alone(void)
{
	if (procfs_rings() > 0 || memory_may_be_pinned())
		return COW_REASON_PINNED;
	if (pin_can_tell() && procfs_is_filtered() && sys_try(try_probe) > 0)
		return COW_REASON_SANDBOX;
	return COW_REASON_NONE;
}

int adopt_alone(const struct adopt_what *what)
{
	struct cow_stats *st = &process.life->stats;
	uint64_t start = sys_now_ns(), bytes = 0;
	int why = why_not_alone(), pinned = 0;

	if (!why) {
		why = adopt_mark(what);
		pinned = unmark_pinned();
	}
	if (pinned > 0)
		why = COW_REASON_PINNED;
	if (pinned < 0 || take_in_all(&bytes) < 0)
		why = COW_REASON_MAPS;
	if (bytes) {
		st->adoptions++;
		st->adopt_ns_total += sys_now_ns() - start;
		process.life->flat = 1;
		log_line(COW_LOG_INFO, "adopted %llu MiB in %llu us",
			 (unsigned long long)bytes >> 20,
			 (unsigned long long)(sys_now_ns() - start) / 1000);
	}
	if (why)
		process_native((enum cow_reason)why);
	st->adopt_reason = (uint64_t)why;
	adopt_when_done(why, bytes);
	return why;
}

/* --- release ------------------------------------------------------------ */

int adopt_can_release(const struct store *s, const struct extent *e)
{
	return memory_is_ours(s, e) && !(e->flags & EXTENT_PINNED);
}

static int give_back(struct store *s, const struct extent *e)
{
	return store_have_room(s) ? memory_make_anonymous(s, e, EXTENT_KEEP) : -ENOMEM;
}

/* Not the stack that this runs on, which may be of the program's making. */
static int release_piece(struct store *s, struct extent *e)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~(sys_page_size() - 1);

	if (e->start < here + APART && e->end > here - APART) {
		if (e->start >= here - APART) {
			e->end = e->end < here + APART ? e->end : here + APART;
			return -EAGAIN;
		}
		e->end = here - APART;
	}
	return give_back(s, e);
}

int adopt_release(const struct adopt_what *what)
{
	int result = 0;

	process_each_own(s) {
		uintptr_t from = what->from > s->base ? what->from : s->base;
		uintptr_t to = what->to < s->base + s->size ? what->to : s->base + s->size;

		if (!s->adopted && what->to == UINTPTR_MAX)
			continue;
		if (s->adopted && verify_store(s) < 0)
			return -ENOMEM;
		extents_each(e, &s->extents, from, to) {
			uintptr_t edge = e.start + STEP;
			int ret = 0;

			e.end = e.end < edge ? e.end : edge;
			if (adopt_can_release(s, &e))
				ret = release_piece(s, &e);
			if (ret < 0)
				result = ret == -EAGAIN ? ret : -ENOMEM;
		}
	}
	while (freeze_reap_some())
		;
	return result;
}

static int is_adopted(const struct procfs_map *m)
{
	for (unsigned i = 0; i < atomic_load(&process.store_count); i++) {
		const struct store *s = process.stores[i];

		if (s->adopted && m->dev == s->dev && m->ino == s->ino)
			return 1;
	}
	return 0;
}

static int any_adopted(void)
{
	for (unsigned i = 0; i < atomic_load(&process.store_count); i++)
		if (process.stores[i]->adopted)
			return 1;
	return 0;
}

void adopt_give_back_moved(uintptr_t start, uintptr_t end)
{
	struct procfs_map m;
	int locked;

	start &= ~(sys_page_size() - 1);
	end = sys_whole_pages(end);
	for (; any_adopted() && start < end && procfs_map_at(start, &m) == 0; start = m.end) {
		if (!is_adopted(&m))
			continue;
		m.end = m.end < end ? m.end : end;
		process_lock();
		locked = memory_is_locked(start, m.end - start);
		if (memory_lay_copy(start, start, m.end - start, m.prot) == 0)
			memory_lock_as(start, m.end - start, locked);
		process_unlock();
	}
}

void adopt_give_back(uintptr_t start, uintptr_t end)
{
	uintptr_t at = start, from;
	struct store *s;

	while ((s = process_next_window(&at, end, &from))) {
		if (!s->adopted || verify_range(s, from, at) < 0)
			continue;
		extents_each(e, &s->extents, from, at)
			if ((memory_is_ours(s, &e) || e.flags & EXTENT_PINNED) &&
			    give_back(s, &e) == 0)
				adopt_when_given_back(e.end - e.start);
	}
	adopt_give_back_moved(start, end);
}

void adopt_unmapped(uintptr_t start, uintptr_t end)
{
	uintptr_t from;
	struct store *s;

	if (start >= end || !process_store_at(start, end - start) ||
	    !process_lock_unless_forking())
		return;
	while ((s = process_next_window(&start, end, &from)))
		if (s->adopted)
			(void)verify_range(s, from, start);
	while (freeze_reap_some())
		;
	process_unlock();
}

/* --- public ------------------------------------------------------------- */

int adopt_error(int why)
{
	switch ((enum cow_reason)why) {
	case COW_REASON_NONE:
		return 0;
	case COW_REASON_KIND: case COW_REASON_CALL: case COW_REASON_PINNED:
	case COW_REASON_MAPS: case COW_REASON_OWNER: case COW_REASON_STORES:
		return -EAGAIN;
	default:
		return -EPERM;
	}
}

static int refuse(int why)
{
	process_native((enum cow_reason)why);
	process.life->stats.adopt_reason = (uint64_t)why;
	return adopt_error(why);
}

/* 0 or -errno; 1: others run here, so that it is for the mover to do. No mover is made to
 * say no. With the lock held. */
static int adopt_now(const struct adopt_what *what)
{
	int why = why_not();

	if (!why && sys_alone_in_mm() && procfs_rings() <= 0)
		return adopt_error(adopt_alone(what));
	if (!why && memory_may_be_pinned())	/* the mover has other descriptors */
		why = COW_REASON_PINNED;
	return why ? refuse(why) : 1;
}

/* Likewise. */
static int release_now(const struct adopt_what *what)
{
	int any = 0;

	process_each_own(s)
		any = 1;
	return !any || (sys_alone_in_mm() && procfs_rings() <= 0) ? adopt_release(what) : 1;
}

static int call(void *addr, size_t len, int releases)
{
	uintptr_t start = (uintptr_t)addr;
	struct adopt_what what = { start, start + len, 0 };
	int ret;

	if (!addr != !len || (start | len) & (sys_page_size() - 1) || start + len < start)
		return -EINVAL;
	process_start();
	if (!addr)
		what = adopt_everything();
	in_place_tame();
	process_lock();
	if (releases)
		(void)in_place_release(what.from, what.to);
	if (!releases && in_place_wanted())
		ret = adopt_error(in_place_arm(&what));
	else
		ret = releases ? release_now(&what) : adopt_now(&what);
	process_unlock();
	return ret > 0 ? mover_adopt(&what, releases) : ret;
}

int cow_adopt(void *addr, size_t len)
{
	return call(addr, len, 0);
}

int cow_release(void *addr, size_t len)
{
	return call(addr, len, 1);
}
