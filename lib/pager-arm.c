/*
 * The program's memory, as the pager arms it: registered with a userfaultfd, write-protected,
 * and marked so that a child finds it empty (MADV_WIPEONFORK). Outside of the window of a
 * fork it is not in a child at all (MADV_DONTFORK): one that is made by a call which the
 * library does not see crashes there rather than reads zeros.
 *
 *   arm      register for write-protect, WIPEONFORK, DONTFORK, no holes, register for missing
 *            pages too, which a child inherits; protect
 *   open     protect again what was written since; DOFORK
 *            (the kernel's fork: the child's memory has a userfaultfd of its own before it
 *            runs, UFFD_EVENT_FORK, and the fork waits until that is read)
 *   close    DONTFORK
 *
 * Who writes while the window is open waits: no child of it is known yet that had to be given
 * what is changed. But the fork may wait for that writer (for its lock of malloc's), and the
 * forking thread itself takes locks that may lie in armed memory. What these write becomes
 * plain memory, page by page, which the kernel's fork copies.
 *
 * What another thread does by calls of its own meanwhile may be told after the fork was made
 * and before that is told (dup_mmap, kernel/fork.c, lets go of the memory first): a child has
 * lost what was unmapped or moved in the window, and what was emptied if it may be so.
 *
 * A registration for missing pages stays (the kernel adds modes, and takes none away), so
 * the pager must never read a hole of the program's itself: it would wait for itself. So it
 * looks before it copies (pager-copy.c), and reads holes in a way that does not wait. They get
 * the zero page when memory is armed, and before each fork what was emptied since and is
 * remembered as vacated: so a hole that nobody told of is no zeros (a thread that is killed in
 * such a call empties memory untold). What the program gave to the kernel to take when memory
 * is short (MADV_FREE), of which nobody tells, may have holes at any time. For that the
 * registration comes as soon as holes are filled: nobody else would tell that those are that
 * come later.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define STEP ((size_t)32 << 20)	/* to protect at once: 0.3 ms, in which writers wait */
#define LOOK_MS 100		/* whether the program lives still */
#define PATIENCE_MS 2		/* of a writer, while the program should be forking */
#define LOOKS 100		/* whether a thread goes on whose call was told of, at once */
#define SETTLE_MS 5		/* ... and every ms */
#define DEPTH 64u		/* threads that move memory at once, each a piece of the stack */
#define GIVE_MS 1000u		/* ... what children lack, whatever other threads do */

enum {
	WP = UFFDIO_REGISTER_MODE_WP,
	WP_MISSING = UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING,
};

/* --- what was written --------------------------------------------------- */

/* What is armed of [start, end). Events of the program's own come first, after which less may
 * be; and older kernels take one mapping at a time. -ENOENT: something else lies at a page of it
 * by now, which the event tells later. */
static int protect(struct pager *p, uintptr_t start, uintptr_t end)
{
	size_t page = sys_page_size(), most = end - start;
	int result = 0;

	while (start < end) {
		uintptr_t part = area_part(start, end);
		int ret = 0;

		if (!part) {
			start += page;
			continue;
		}
		if (part - start > most)
			part = start + most;
		ret = uffd_protect(p->uffd, start, part - start, 1);
		if (ret == -EAGAIN) {
			(void)parent_event(p);
			continue;
		}
		if (ret == -ENOENT && part - start > page) {
			most = (part - start) / 2 & ~(page - 1);
			continue;
		}
		result = ret < 0 ? ret : result;
		start = part;
		most = end - start;
	}
	return result;
}

static int area_rearm(struct pager *p)
{
	while (p->dirty_count) {
		struct pager_area d = p->dirty[--p->dirty_count];
		int ret = protect(p, d.start, d.end);

		if (ret < 0 && ret != -ENOENT) {
			area_dirty(p, d.start, d.end);
			return ret;
		}
	}
	return 0;
}

/* --- holes -------------------------------------------------------------- */

/* The zero page costs no memory but an entry, of a table that is there. */
static int fill_holes(uintptr_t start, uintptr_t end)
{
	unsigned char there[TABLE_SIZE / 4096];
	size_t page = sys_page_size();

	for (uintptr_t at = start, next; at < end; at = next) {
		uintptr_t hole = 0;
		int ret;

		next = end - at < sizeof(there) * page ? end : at + sizeof(there) * page;
		ret = sys_mincore(at, next - at, there);
		for (uintptr_t a = at; ret == 0 && a <= next; a += page) {
			if (a < next && !(there[(a - at) / page] & 1)) {
				hole = hole ? hole : a;
			} else if (hole) {
				ret = sys_madvise(hole, a - hole, MADV_POPULATE_READ);
				hole = 0;
			}
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* --- arm and leave ------------------------------------------------------ */

/* In this order: a fork can come at any moment, and copies what is not wiped. */
static void make_plain(struct pager *p, uintptr_t start, uintptr_t end)
{
	sys_madvise(start, end - start, MADV_KEEPONFORK);
	sys_madvise(start, end - start, MADV_DOFORK);
	uffd_let_go(p->uffd, start, end - start);
}

static int arm(struct pager *p, uintptr_t start, uintptr_t end)
{
	int ret = uffd_register(p->uffd, start, end - start, WP);

	if (ret == 0)
		ret = sys_madvise(start, end - start, MADV_WIPEONFORK);
	if (ret == 0)
		ret = sys_madvise(start, end - start, MADV_DONTFORK);
	if (ret == 0)
		ret = fill_holes(start, end);
	if (ret == 0)	/* and what is filled while the rest is protected would not be */
		ret = uffd_register(p->uffd, start, end - start, WP_MISSING);
	for (uintptr_t at = start; ret == 0 && at < end; at += STEP) {
		ret = protect(p, at, end - at < STEP ? end : at + STEP);
		while (ret == 0 && parent_event(p))
			;
	}
	return ret;
}

int area_arm(struct pager *p, uintptr_t start, uintptr_t end)
{
	int ret = area_add(p, start, end);

	if (ret < 0)
		return ret;
	ret = arm(p, start, end);
	if (ret < 0) {
		make_plain(p, start, end);
		(void)area_remove(p, start, end);
	}
	return ret;
}

/* A fork copies [start, end) from now on. With no room for one more piece, here or among the
 * process's maps, all of its area. */
static struct pager_area unwipe(uintptr_t start, uintptr_t end)
{
	struct pager_area part = { start, end };

	each_area(a) {
		int full = areas_now(&pager_lists)->count == PAGER_AREAS &&
			   start > a->start && end < a->end;

		if (start < a->start || end > a->end)
			continue;
		if (full || sys_madvise(start, end - start, MADV_KEEPONFORK) < 0)
			part = *a;
		sys_madvise(part.start, part.end - part.start, MADV_KEEPONFORK);
	}
	return part;
}

static void until_given(struct pager *p, uintptr_t start, uintptr_t end,
			int (*give)(struct pager *, uintptr_t, uintptr_t))
{
	uint64_t until = sys_now_ns() + GIVE_MS * 1000000u;

	for (int i = 0; give(p, start, end) < 0; i++) {
		if (p->shared->open || sys_now_ns() > until) {
			kids_lose(p, start, end);
			return;
		}
		if (!parent_event(p))
			sys_poll(NULL, 0, i >= LOOKS);
	}
}

void area_give(struct pager *p, uintptr_t start, uintptr_t end)
{
	until_given(p, start, end, kids_give);
}

/* Out of the list last of all: other threads unmap at once what they do not find there. */
void area_leave(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct pager_area parts[PAGER_AREAS];
	unsigned count = 0;

	each_area(a)
		if (start < a->end && end > a->start)
			parts[count++] = (struct pager_area){
				start > a->start ? start : a->start,
				end < a->end ? end : a->end };
	for (unsigned i = 0; i < count; i++) {
		struct pager_area part = unwipe(parts[i].start, parts[i].end);

		until_given(p, part.start, part.end, kids_leave);
		make_plain(p, part.start, part.end);
		(void)area_remove(p, part.start, part.end);
	}
}

static void area_gone(struct pager *p, uintptr_t start, uintptr_t end)
{
	if (area_remove(p, start, end) == 0)
		return;
	each_area(a)
		if (start >= a->start && start < a->end) {
			struct pager_area whole = *a;

			if (kids_leave(p, whole.start, whole.end) < 0)
				kids_lose(p, whole.start, whole.end);
			area_left(p, whole.start, whole.end);
			(void)area_remove(p, whole.start, whole.end);
			make_plain(p, whole.start, start);
			make_plain(p, end, whole.end);
			return;
		}
}

/* What grew in place by a bare mremap(2) is registered and marked as its area is, but not of
 * it: plain memory from now on. */
static void leave_growth(struct pager *p)
{
	size_t page = sys_page_size();

	if (p->moving)
		return;
	each_area(a) {
		uintptr_t end = a->end;

		while (!area_part(end, end + page) && uffd_protect(p->uffd, end, page, 0) == 0)
			end += page;
		if (end > a->end)
			make_plain(p, a->end, end);
	}
}

/* --- what comes from the program ---------------------------------------- */

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
		leave_growth(p);
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

	atomic_fetch_add(&p->news.faults, 1);
	if (!area_cut(page, &r)) {
		if (is_moving(p, page) && kids_give(p, page, page + sys_page_size()) < 0)
			return -EAGAIN;
		leave_growth(p);
		return uffd_zero(p->uffd, page, sys_page_size(), &done);
	}
	if (kids_give(p, r.start, r.end) < 0)
		return -EAGAIN;
	area_dirty(p, r.start, r.end);
	for (; r.start < r.end; r.start += done) {
		int ret = uffd_zero(p->uffd, r.start, r.end - r.start, &done);

		if (ret == -EEXIST && !done)
			done = sys_page_size();
		else if (ret < 0 && !done)
			return r.start <= page ? ret : 0;
	}
	return 0;
}

/* Faults are told before events: whoever faults again at once hides what has to come first. So
 * those wait until that was read, or until nothing is to be read. */
static void wait_on(struct pager *p, uintptr_t page)
{
	if (!p->wait_end || page < p->wait_start)
		p->wait_start = page;
	if (page >= p->wait_end)
		p->wait_end = page + sys_page_size();
}

void parent_wake(struct pager *p)
{
	if (p->wait_end)
		uffd_wake(p->uffd, p->wait_start, p->wait_end - p->wait_start);
	p->wait_end = 0;
}

static void fault(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t page = (uintptr_t)m->arg.pagefault.address & ~(sys_page_size() - 1);
	int is_there = (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
	int ret = is_there ? write_fault(p, page) : missing_fault(p, page);

	if (ret == -EAGAIN && !is_there)
		fault_let_grow(p, p->uffd, m);
	if (ret == -EAGAIN)
		wait_on(p, page);
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
		make_plain(p, start, next);
	}
}

static int handle(struct pager *p, const struct uffd_msg *m);

/* Moved memory is plain memory. Children get all of it before, whatever the program does with it
 * next: that is told, since it is not plain memory yet, and may move it on. */
static int remapped(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t from = (uintptr_t)m->arg.remap.from, to = (uintptr_t)m->arg.remap.to;
	size_t told = (size_t)m->arg.remap.len;
	struct uffd_msg next;
	size_t known = move_length(p, p->uffd, m, &next), len = known ? known : told;
	const struct moving moving = { to, to + len, p->moving };

	if (known)
		areas_move(p, &moving);
	if (!area_is_solid(p, from, from + len))	/* its holes moved too */
		area_vacate(p, to, to + len);
	if (p->shared->open || !known || p->depth == DEPTH) {
		kids_lose(p, from, from + len);
	} else {
		kids_moved(p, from, to, len);
		p->depth++;
		until_given(p, to, to + len, kids_leave);
		p->depth--;
	}
	area_left(p, from, from + told);
	area_left(p, to, to + len);	/* a fork since the move wipes it there */
	area_gone(p, from, from + len);
	make_plain(p, from, from + len);	/* it may have stayed: MREMAP_DONTUNMAP */
	if (known)
		make_plain(p, to, to + len);
	else
		make_plain_beside_areas(p, to, to + len);
	areas_move(p, moving.before);
	return next.event ? handle(p, &next) : 0;
}

/* Is there no fork that is still to be told of? As long as anything is, and until who did
 * that goes on, the kernel says that memory changes (fs/userfaultfd.c, mmap_changing). */
static int settles(const struct pager *p, int ms)
{
	for (int i = 0; i < LOOKS + ms && uffd_memory_changes(p->uffd); i++)
		sys_poll(NULL, 0, i >= LOOKS);
	return !uffd_memory_changes(p->uffd);
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
	if (p->shared->open && !settles(p, SETTLE_MS))
		area_left(p, start, end);
	area_vacate(p, start, end);
	area_dirty(p, start, end);
}

static void put_off(struct pager *p, const struct uffd_msg *m);

/* 1: the program forked. */
static int handle(struct pager *p, const struct uffd_msg *m)
{
	struct kid *k;

	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		if (p->shared->open)
			put_off(p, m);
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
		removed(p, (uintptr_t)m->arg.remove.start, (uintptr_t)m->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		kids_lose(p, (uintptr_t)m->arg.remove.start, (uintptr_t)m->arg.remove.end);
		area_left(p, (uintptr_t)m->arg.remove.start, (uintptr_t)m->arg.remove.end);
		area_gone(p, (uintptr_t)m->arg.remove.start, (uintptr_t)m->arg.remove.end);
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

/* A removal goes on when it has been read: whoever lacks something gets all of it before, but
 * for holes, of which a removal makes nothing else. So nothing is read that came after the
 * look. They get the holes when it is over, or the next event would find all of that open. */
int parent_event(struct pager *p)
{
	int lack = !p->shared->open && !p->announced.end && kids_lack(p), outer = p->prepared;
	struct uffd_msg m;

	if (lack && !something_comes(p)) {
		parent_wake(p);
		return 0;
	}
	p->prepared = 0;
	if (lack && (!fault_comes(p) || uffd_memory_changes(p->uffd))) {
		kids_complete(p);
		p->prepared = 1;
	}
	if (!uffd_read(p->uffd, &m)) {
		parent_wake(p);
		p->prepared = outer;
		return 0;
	}
	if (m.event != UFFD_EVENT_PAGEFAULT)
		p->moves = 0;
	(void)handle(p, &m);
	if (m.event != UFFD_EVENT_PAGEFAULT)
		parent_wake(p);
	if (p->prepared && kids_lack(p) && settles(p, 0))
		kids_complete(p);
	p->prepared = outer;
	return 1;
}

/* --- the window --------------------------------------------------------- */

/* What was emptied since the last fork, as holes are filled when memory is armed; but who read
 * them by a fault would wait for the pager. */
static int fill_run(struct pager *p, uintptr_t start, uintptr_t end)
{
	for (size_t done; start < end; start += done) {
		int ret = uffd_zero(p->uffd, start, end - start, &done);

		if (ret < 0 && !done && ret != -EEXIST)
			return ret;
		done = done ? done : sys_page_size();
	}
	return 0;
}

static int fill_area(struct pager *p, uintptr_t start, uintptr_t end)
{
	unsigned char there[TABLE_SIZE / 4096];
	size_t page = sys_page_size();
	int ret = 0;

	for (uintptr_t next; ret == 0 && start < end; start = next) {
		size_t n = 0, from = 0;

		next = end - start < sizeof(there) * page ? end : start + sizeof(there) * page;
		if (sys_mincore(start, next - start, there) < 0)
			return -ENOMEM;
		for (; ret == 0 && n <= (next - start) / page; n++) {
			if (n < (next - start) / page && !(there[n] & 1))
				continue;
			if (n > from)
				ret = fill_run(p, start + from * page, start + n * page);
			from = n + 1;
		}
	}
	return ret;
}

static void fill_vacated(struct pager *p)
{
	unsigned left = 0;

	for (unsigned i = 0; i < p->vacated_count; i++) {
		struct pager_area v = p->vacated[i];
		int ret = 0;

		each_area(a)
			if (v.start < a->end && v.end > a->start)
				ret |= fill_area(p, v.start > a->start ? v.start : a->start,
						 v.end < a->end ? v.end : a->end);
		if (ret < 0)
			p->vacated[left++] = v;
	}
	p->vacated_count = left;
}

static int open_window(struct pager *p)
{
	int ret = 0;

	leave_growth(p);
	fill_vacated(p);
	ret = area_rearm(p);
	each_area(a)
		if (ret == 0)
			ret = sys_madvise(a->start, a->end - a->start, MADV_DOFORK);
	return ret;
}

static void close_window(struct pager *p)
{
	each_area(a) {
		sys_madvise(a->start, a->end - a->start, MADV_DONTFORK);
		uffd_wake(p->uffd, a->start, a->end - a->start);
	}
	while (p->waiting_count)	/* some are of no area any more */
		uffd_wake(p->uffd, p->waiting[--p->waiting_count], sys_page_size());
}

/* A child may have been made before the page is copied, and lack it: of that fork, as of
 * anything that the kernel is about to tell, -EAGAIN warns (fs/userfaultfd.c,
 * mmap_changing). 0: not now, then. */
static int leave_page(struct pager *p, uintptr_t page, uintptr_t end)
{
	struct pager_area part = unwipe(page, end);

	if (uffd_protect(p->uffd, page, sys_page_size(), 1) == -EAGAIN) {
		sys_madvise(part.start, part.end - part.start, MADV_WIPEONFORK);
		return 0;
	}
	area_leave(p, part.start, part.end);
	return 1;
}

static int let_write(struct pager *p, uintptr_t page)
{
	uintptr_t end = area_part(page, page + sys_page_size());

	if (!end)	/* of what a bare mremap(2) made it grow by */
		leave_growth(p);
	else if (!leave_page(p, page, end))
		return 0;
	uffd_wake(p->uffd, page, sys_page_size());
	return 1;
}

/* In the window; it is woken when that closes. Too many wait: no matter, they are as if
 * each had come later. */
static void put_off(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t page = (uintptr_t)m->arg.pagefault.address & ~(sys_page_size() - 1);
	int hurries = (int)m->arg.pagefault.feat.ptid == p->asker ||
		      sys_now_ns() > p->patience || p->waiting_count == WAITING;

	if (hurries && let_write(p, page))
		return;
	if (p->waiting_count < WAITING)
		p->waiting[p->waiting_count++] = page;
	else			/* it faults again */
		uffd_wake(p->uffd, page, sys_page_size());
}

static void lose_patience(struct pager *p)
{
	while (p->waiting_count && let_write(p, p->waiting[p->waiting_count - 1]))
		p->waiting_count--;
}

/* The program forks, or rings once more, or is no more, or another by execve(2). */
static void wait_for_fork(struct pager *p)
{
	struct pollfd fds[] = { { p->uffd, POLLIN, 0 }, { p->bell, POLLIN, 0 } };
	struct uffd_msg m;
	int forked = 0;

	p->patience = sys_now_ns() + PATIENCE_MS * 1000000u;
	p->waiting_count = 0;
	while (!forked && !fds[1].revents) {
		if (sys_poll(fds, 2, p->waiting_count ? PATIENCE_MS : LOOK_MS) == 0) {
			if (sys_getppid() != p->parent || sys_alone_in_mm())
				return;
			lose_patience(p);
		}
		if (uffd_read(p->uffd, &m))
			forked = handle(p, &m);
	}
}

void window(struct pager *p)
{
	int ret;

	p->left_count = 0;
	if (p->kids > p->most / 2)
		kids_sweep(p);
	ret = p->kids > p->most / 2 ? -EMFILE : open_window(p);
	parent_wake(p);		/* and is put off, as others are */
	atomic_store(&p->shared->open, ret == 0);
	pager_answer(p, ret);
	if (ret == 0)
		wait_for_fork(p);
	close_window(p);
	atomic_store(&p->shared->open, 0);
}
