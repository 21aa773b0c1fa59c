/*
 * The program's memory, as the pager arms it: registered with a userfaultfd, write-protected,
 * and marked so that a child finds it empty (MADV_WIPEONFORK). Outside of the window of a
 * fork it is not in a child at all (MADV_DONTFORK): one that is made by a call which the
 * library does not see crashes there rather than reads zeros.
 *
 *   arm      register for write-protect, WIPEONFORK, DONTFORK, no holes, register for missing
 *            pages too, which a child inherits; protect
 *   open     fill holes, protect again what was written since; DOFORK (pager-window.c)
 *   close    DONTFORK
 *
 * A registration for missing pages stays (the kernel adds modes, and takes none away), so
 * the pager must never read a hole of the program's itself: it would wait for itself. So it
 * looks before it copies (pager-copy.c), and reads holes in a way that does not wait. They get
 * the zero page when memory is armed, and before each fork where it was emptied since (vacated),
 * unless it is much, which is noted (hollow). Any other hole is no zeros: a thread that is
 * killed in such a call empties memory untold, and so does a guard. What the program gave to
 * the kernel to take when memory is short (MADV_FREE), of which nobody tells, may have holes at
 * any time. So that becomes the program's for good before it is armed, and a call of the
 * library's empties such memory at once. The registration for missing pages comes as soon as
 * holes are filled: nobody else would tell that those are that come later.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define STEP ((size_t)32 << 20)	/* to protect at once: 0.3 ms, in which writers wait */
#define FILL_MOST ((size_t)64 << 20)	/* holes before a fork: 3 ms */
#define GIVE_MS 3000u		/* for what children lack, whatever other threads do: more than
				 * the keeper may look for them (pager-movers.c, LOOK_MS) */
#define PROTECT_MS 200u		/* the same for what is to be protected */
#define BUDGET 64u		/* of events between two steps */

enum {
	WP = UFFDIO_REGISTER_MODE_WP,
	WP_MISSING = UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING,
};

/* --- what was written --------------------------------------------------- */

/* What is armed of [start, end). Events of the program's own come first, after which less may
 * be; and older kernels take one mapping at a time. -ENOENT: something else lies at a page of it
 * by now, which the event tells later. -EAGAIN: events come on and on. */
static int protect(struct pager *p, uintptr_t start, uintptr_t end, uint64_t until)
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
		if (ret == -EAGAIN && sys_now_ns() < until) {
			(void)parent_event(p);
			continue;
		}
		if (ret == -EAGAIN)
			return ret;
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

static uint64_t in_time(void)
{
	return sys_now_ns() + PROTECT_MS * 1000000u;
}

int area_rearm(struct pager *p)
{
	uint64_t until = in_time();

	while (p->dirty_count) {
		struct pager_area d = p->dirty[--p->dirty_count];
		int ret = protect(p, d.start, d.end, until);

		if (ret < 0 && ret != -ENOENT) {
			area_dirty(p, d.start, d.end);
			return ret;
		}
	}
	return 0;
}

/* --- holes -------------------------------------------------------------- */

/* For each run of holes, or of what is none. */
static int each_run(struct pager *p, uintptr_t start, uintptr_t end, int of_holes,
		    int (*fn)(struct pager *p, uintptr_t start, uintptr_t end))
{
	unsigned char there[TABLE_SIZE / 4096];
	size_t page = sys_page_size();

	for (uintptr_t at = start, next; at < end; at = next) {
		uintptr_t run = 0;
		int ret = 0;

		next = end - at < sizeof(there) * page ? end : at + sizeof(there) * page;
		copies_find_holes(p, at, next - at, there);
		for (uintptr_t a = at; ret == 0 && a <= next; a += page) {
			if (a < next && (there[(a - at) / page] == 0) == of_holes) {
				run = run ? run : a;
			} else if (run) {
				ret = fn(p, run, a);
				run = 0;
			}
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The zero page costs no memory but an entry, of a table that is there. */
static int populate(struct pager *p, uintptr_t start, uintptr_t end)
{
	(void)p;
	return sys_madvise(start, end - start, MADV_POPULATE_READ);
}

/* As if it were written, so that the kernel does not take it. */
static int keep(struct pager *p, uintptr_t start, uintptr_t end)
{
	(void)p;
	return sys_madvise(start, end - start, MADV_POPULATE_WRITE);
}

int area_zero(struct pager *p, uintptr_t *start, uintptr_t end)
{
	for (size_t done; *start < end; *start += done) {
		int ret = uffd_zero(p->uffd, *start, end - *start, &done);

		if (ret == -EEXIST && !done)
			done = sys_page_size();
		else if (ret < 0 && !done)
			return ret;
	}
	return 0;
}

/* The same, where who reads a hole waits for the pager. It may have been emptied, and protected,
 * before an earlier fork, whose child gets zeros first. What is not filled children of the next
 * fork get as zeros; none lacks anything else there. */
static int zero(struct pager *p, uintptr_t start, uintptr_t end)
{
	size_t n = end - start < p->fill_left ? end - start : p->fill_left;

	if (p->unfilled_count == HOLES)
		n = end - start;
	if (n && kids_give(p, start, start + n) == 0) {
		uintptr_t from = start;

		area_dirty(p, start, start + n);
		(void)area_zero(p, &start, start + n);
		p->fill_left -= start - from < p->fill_left ? start - from : p->fill_left;
	}
	if (start == end)
		return 0;
	kids_lose_solid(p, start, end);
	area_unfilled(p, start, end);
	return 0;
}

/* No more than takes some milliseconds; the next fork fills on. */
void area_fill(struct pager *p)
{
	p->fill_left = FILL_MOST;
	p->unfilled_count = 0;
	p->unfilled_full = 0;
	for (const struct pager_area *v = p->vacated; v < p->vacated + p->vacated_count; v++)
		each_area(a) {
			uintptr_t start = v->start > a->start ? v->start : a->start;
			uintptr_t end = v->end < a->end ? v->end : a->end;

			if (start < end)
				(void)each_run(p, start, end, 1, zero);
		}
	area_filled(p);
}

/* --- arm and leave ------------------------------------------------------ */

/* In this order: a fork can come at any moment, and copies what is not wiped. */
void area_make_plain(struct pager *p, uintptr_t start, uintptr_t end)
{
	sys_madvise(start, end - start, MADV_KEEPONFORK);
	sys_madvise(start, end - start, MADV_DOFORK);
	uffd_let_go(p->uffd, start, end - start);
}

static int arm(struct pager *p, uintptr_t start, uintptr_t end, int lazily)
{
	int ret;

	/* what it merges it would protect for itself, and say nothing when that is written */
	(void)sys_madvise(start, end - start, MADV_UNMERGEABLE);
	ret = uffd_register(p->uffd, start, end - start, WP);
	if (ret == 0)
		ret = sys_madvise(start, end - start, MADV_WIPEONFORK);
	if (ret == 0)
		ret = sys_madvise(start, end - start, MADV_DONTFORK);
	if (ret == 0 && lazily)
		ret = each_run(p, start, end, 0, keep);
	if (ret == 0)
		ret = each_run(p, start, end, 1, populate);
	if (ret == 0)	/* and what is filled while the rest is protected would not be */
		ret = uffd_register(p->uffd, start, end - start, WP_MISSING);
	for (uintptr_t at = start; ret == 0 && at < end; at += STEP) {
		ret = protect(p, at, end - at < STEP ? end : at + STEP, in_time());
		for (unsigned i = 0; ret == 0 && i < BUDGET && parent_event(p); i++)
			;
	}
	return ret;
}

int area_arm(struct pager *p, uintptr_t start, uintptr_t end, int lazily)
{
	int ret = area_add(p, start, end);

	if (ret < 0)
		return ret;
	ret = arm(p, start, end, lazily);
	if (ret < 0) {
		area_make_plain(p, start, end);
		(void)area_remove(p, start, end);
	}
	return ret;
}

/* A fork copies [start, end) from now on. With no room for one more piece, here or among the
 * process's maps, all of its area. */
struct pager_area area_unwipe(uintptr_t start, uintptr_t end)
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

void area_hand_over(struct pager *p, uintptr_t start, uintptr_t end,
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
	area_hand_over(p, start, end, kids_give);
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
		struct pager_area part = area_unwipe(parts[i].start, parts[i].end);

		area_hand_over(p, part.start, part.end, kids_leave);
		area_make_plain(p, part.start, part.end);
		(void)area_remove(p, part.start, part.end);
	}
}

void area_gone(struct pager *p, uintptr_t start, uintptr_t end)
{
	if (area_remove(p, start, end) == 0)
		return;
	each_area(a)
		if (start >= a->start && start < a->end) {
			struct pager_area whole = *a;

			p->going = 1;
			if (kids_leave(p, whole.start, whole.end) < 0)
				kids_lose(p, whole.start, whole.end);
			p->going = 0;
			if (p->shared->open)
				area_left(p, whole.start, whole.end);
			(void)area_remove(p, whole.start, whole.end);
			area_make_plain(p, whole.start, start);
			area_make_plain(p, end, whole.end);
			return;
		}
}

/* What grew in place by a bare mremap(2) is registered and marked as its area is, but not of
 * it: plain memory from now on. */
void area_leave_growth(struct pager *p)
{
	size_t page = sys_page_size();

	if (p->moving)
		return;
	each_area(a) {
		uintptr_t end = a->end;

		while (!area_part(end, end + page) && uffd_protect(p->uffd, end, page, 0) == 0)
			end += page;
		if (end > a->end)
			area_make_plain(p, a->end, end);
	}
}
