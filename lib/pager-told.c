/*
 * What the kernel tells of the program's memory: who touches it, and what was done with it by
 * calls that nobody announced. What it tells of before it does that (removals) goes on when it
 * was read, so children get first what they lack; what it tells of afterwards (moves) is served
 * from where it is now, until it is plain memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define DEPTH 64u		/* threads that move memory at once, each a piece of the stack */
#define REFUSED_MS 50u		/* that no fault is served */

/* What was moved, and is not plain memory yet: the last, and what was told before that. */
static int is_moving(const struct pager *p, uintptr_t page)
{
	for (const struct moving *m = p->moving; m; m = m->before)
		if (page >= m->start && page < m->end)
			return 1;
	return 0;
}

/* -EAGAIN: it faults again, and an event comes first. */
static int write_fault(struct pager *p, uintptr_t page)
{
	struct pager_area r = track_range(&p->tracks, page);
	size_t size = sys_page_size();
	int ret;

	atomic_fetch_add(&p->news.faults, 1);
	if (is_moving(p, page))
		return kids_give(p, page, page + size) < 0
			       ? -EAGAIN : uffd_protect(p->uffd, page, size, 0);
	if (!area_cut(page, &r)) {	/* it left meanwhile, or it grew */
		area_leave_growth(p);
		return uffd_protect(p->uffd, page, size, 0);
	}
	if (kids_give(p, r.start, r.end) < 0)
		return -EAGAIN;
	area_dirty(p, r.start, r.end);
	ret = uffd_protect(p->uffd, r.start, r.end - r.start, 0);
	if (ret < 0 && ret != -EAGAIN)		/* of several mappings, say */
		ret = uffd_protect(p->uffd, page, size, 0);
	return ret;
}

/* What was emptied is touched again, or what the program made armed memory grow by unseen. The
 * same. */
static int missing_fault(struct pager *p, uintptr_t page)
{
	struct pager_area r = track_range(&p->tracks, page);
	size_t done;
	int ret;

	atomic_fetch_add(&p->news.faults, 1);
	if (!area_cut(page, &r)) {
		if (is_moving(p, page) && kids_give(p, page, page + sys_page_size()) < 0)
			return -EAGAIN;
		area_leave_growth(p);
		return uffd_zero(p->uffd, page, sys_page_size(), &done);
	}
	if (kids_give(p, r.start, r.end) < 0)
		return -EAGAIN;
	area_dirty(p, r.start, r.end);
	ret = area_zero(p, &r.start, r.end);
	return r.start <= page ? ret : 0;
}

void parent_wake(struct pager *p)
{
	waiting_wake(p->uffd, &p->waits);
}

/* Once and again for so long. */
static int is_starved(struct pager *p, int ret)
{
	const uint64_t most = REFUSED_MS * 1000000u;
	uint64_t now;

	if (ret != -EAGAIN) {
		p->refused = 0;
		return 0;
	}
	now = sys_now_ns();
	if (!p->refused || now - p->refused_last > most)
		p->refused = now;
	p->refused_last = now;
	return now - p->refused > most;
}

/* Of threads that remove on and on one is always about to be told of, and the kernel changes no
 * page then; but it lets go. Whatever comes in the midst of that waits. */
static void leave_table(struct pager *p, uintptr_t page)
{
	struct pager_area r = { page & ~(TABLE_SIZE - 1), (page | (TABLE_SIZE - 1)) + 1 };

	if (area_cut(page, &r))
		area_leave(p, r.start, r.end);
	else
		area_make_plain(p, page, page + sys_page_size());
}

static int serve_starved(struct pager *p, uintptr_t page)
{
	if (p->leaving || is_moving(p, page))
		return -EAGAIN;
	p->leaving = 1;
	leave_table(p, page);
	p->leaving = 0;
	return 0;
}

/* Faults are told before events: whoever faults again at once hides what has to come first. So
 * those wait until that was read, or until nothing is to be read. */
static void fault(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t page = uffd_page(m);
	int is_there = (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
	int later = p->opens && !is_there;	/* a fork is to find that hole empty */
	int ret = later ? -EAGAIN : is_there ? write_fault(p, page) : missing_fault(p, page);

	if (!later && is_starved(p, ret))
		ret = serve_starved(p, page);
	if (ret == -EAGAIN && !is_there)
		fault_let_grow(p, p->uffd, m);
	if (ret == -EAGAIN)
		waiting_add(&p->waits, page);
	else if (ret < 0 || !is_there)	/* whose page is let go is woken by that */
		uffd_wake(p->uffd, page, sys_page_size());
}

static int something_comes(const struct pager *p)
{
	struct pollfd poll = { p->uffd, POLLIN, 0 };

	return sys_poll(&poll, 1, 0) > 0;
}

/* Where its length is not known: what else lies there may be armed. */
static void make_plain_beside_areas(struct pager *p, uintptr_t start, uintptr_t end)
{
	for (uintptr_t next; start < end; start = next) {
		next = area_part(start, end);
		if (next)
			continue;
		next = start + sys_page_size();
		area_make_plain(p, start, next);
	}
}

static int is_deep(const struct moving *m)
{
	unsigned n = 0;

	while (m && n <= DEPTH) {
		m = m->before;
		n++;
	}
	return n > DEPTH;
}

/* Moved memory is plain memory. Children get all of it before, whatever the program does with it
 * next: that is told, since it is not plain memory yet, and may move it on. */
static int remapped(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t from = (uintptr_t)m->arg.remap.from, to = (uintptr_t)m->arg.remap.to;
	size_t told = (size_t)m->arg.remap.len;
	struct uffd_msg next;
	size_t known = move_length(p, p->uffd, m, &next), len = known ? known : told;
	const struct moving moving = { to, to + len, from, p->moving };

	if (known)
		areas_move(p, &moving);
	area_holes_moved(p, from, to, len);
	kids_lose(p, to, to + len);	/* what was there is gone, and may be told of later */
	if (p->shared->open || !known || is_deep(&moving)) {
		kids_lose(p, from, from + len);
	} else {
		kids_moved(p, from, to, len);
		area_hand_over(p, to, to + len, kids_leave);
	}
	if (p->shared->open) {
		area_left(p, from, from + told);
		area_left(p, to, to + len);	/* a fork since the move wipes it there */
	}
	area_make_plain(p, from, from + len);	/* it may have stayed: MREMAP_DONTUNMAP */
	if (known)
		area_make_plain(p, to, to + len);
	else
		make_plain_beside_areas(p, to, to + len);
	area_gone(p, from, from + len);
	areas_move(p, moving.before);
	return next.event ? parent_told(p, &next) : 0;
}

/* Is there no fork that is still to be told of? As long as anything is, and until who did
 * that goes on, the kernel says that memory changes (fs/userfaultfd.c, mmap_changing). */
int parent_settles(const struct pager *p, int ms)
{
	for (int i = 0; i < LOOKS + ms && uffd_memory_changes(p->uffd); i++)
		sys_poll(NULL, 0, i >= LOOKS);
	return !uffd_memory_changes(p->uffd);
}

/* Before the fork or after it, nobody knows; or surely before, and children lack nothing else
 * there. */
static void emptied_in_window(struct pager *p, uintptr_t start, uintptr_t end)
{
	if (!parent_settles(p, SETTLE_MS))
		area_left(p, start, end);
	kids_lose_solid(p, start, end);
	if (p->opens)
		area_unfilled(p, start, end);
	else
		area_is_hollow(p, start, end);
}

/* It is let go on as soon as this was read; what it removes is there until then. What was
 * announced is some of it, where another thread removes something too. */
static void removed(struct pager *p, uintptr_t start, uintptr_t end)
{
	const struct pager_area *a = &p->announced;

	if (!p->prepared && (start < a->start || !a->end))
		kids_lose(p, start, a->end && a->start < end ? a->start : end);
	if (!p->prepared && end > a->end && a->end)
		kids_lose(p, start > a->end ? start : a->end, end);
	if (p->shared->open || p->opens)
		emptied_in_window(p, start, end);
	p->late[p->late_count++ % LEFT] = (struct pager_area){ start, end };
	area_vacate(p, start, end);
	area_dirty(p, start, end);
}

/* 1: the program forked. */
int parent_told(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t start = (uintptr_t)m->arg.remove.start, end = (uintptr_t)m->arg.remove.end;
	struct kid *k;

	if (m->event != UFFD_EVENT_PAGEFAULT) {
		p->asking = 0;
		p->unanswered = 0;
	}
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		if (p->shared->open)
			window_put_off(p, m);
		else
			fault(p, m);
		break;
	case UFFD_EVENT_FORK:
		k = kid_new(p, (int)m->arg.fork.ufd, NULL);
		if (!p->shared->open && p->newest)
			p->newest->suspect = 1;
		p->newest = k;
		return 1;
	case UFFD_EVENT_REMOVE:
		removed(p, start, end);
		break;
	case UFFD_EVENT_UNMAP:
		kids_lose(p, start, end);
		if (p->shared->open)
			area_left(p, start, end);
		area_gone(p, start, end);
		break;
	case UFFD_EVENT_REMAP:
		return remapped(p, m);
	default:
		break;
	}
	return 0;
}

static int fault_comes(const struct pager *p)
{
	char text[64] = "";

	return sys_pread(p->fdinfo, text, sizeof(text) - 1, 0) > 0 &&
	       strstr(text, "pending:\t") && !strstr(text, "pending:\t0\n");
}

/* While a question is answered, one is about to tell of who asked, or of a fork. Who else waits may
 * be about to remove something. */
static int others_wait(const struct pager *p)
{
	const struct keeper_question q = {
		.op = KEEPER_WAITS, .tid = p->parent, .but = p->asker,
	};

	return !p->alone && keeper_ask(p, &q) != 0;
}

/* A removal goes on when it has been read: whoever lacks something gets all of it before, but
 * for holes, of which a removal makes nothing else. So nothing is read that came after the
 * look. */
static void prepare(struct pager *p)
{
	p->stale = 0;
	kids_complete(p);
	p->prepared = !p->stale;
}

int parent_read(struct pager *p, struct uffd_msg *ret_msg)
{
	p->prepared = 0;
	if (!something_comes(p))
		return 0;
	if (kids_lack(p) && !fault_comes(p) && others_wait(p))
		prepare(p);
	return uffd_read(p->uffd, ret_msg);
}

/* They get the holes when it is over, or the next event would find all of that open. */
int parent_event(struct pager *p)
{
	int lack = !p->shared->open && kids_lack(p), outer = p->prepared;
	struct uffd_msg m;
	int tried;

	if (lack && !something_comes(p)) {
		parent_wake(p);
		return 0;
	}
	p->prepared = 0;
	tried = lack && (!fault_comes(p) || uffd_memory_changes(p->uffd)) &&
		(!p->announced.end || others_wait(p));
	if (tried)
		prepare(p);
	if (!uffd_read(p->uffd, &m)) {
		parent_wake(p);
		p->prepared = outer;
		return 0;
	}
	(void)parent_told(p, &m);
	if (m.event != UFFD_EVENT_PAGEFAULT)
		parent_wake(p);
	if (tried && kids_lack(p) && parent_settles(p, 0))
		kids_complete(p);
	p->prepared = outer;
	return 1;
}
