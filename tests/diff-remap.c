/*
 * mremap(2). The kernel wants one mapping as its source (several since 6.17,
 * when they move to a fixed address at their size), and whether pages are one
 * mapping hangs on what it has merged: so a range is used where that is certain.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "cowfork.h"
#include "diff-state.h"
#include "procfs.h"

struct move {
	struct world *w;
	struct range from;
	int pages;		/* that it shall have */
	int how;
	struct slot *dest;
	int dfirst;
	int flags;
	int raw;		/* the library does not see it */
};

/* What was armed in part is several mappings that the kernel does not move at once: see
 * cowfork(7). Those before the first such one it has moved. */
static void *raw_mappings(unsigned char *from, size_t len, unsigned char *to)
{
	unsigned char *at = from, *end = from + len, *next;
	struct procfs_map map;

	for (; at < end; at = next) {
		next = at + PAGE;
		if (procfs_map_at((uintptr_t)at, &map) < 0)
			continue;
		next = map.end < (uintptr_t)end ? (unsigned char *)map.end : end;
		if (raw_mremap(at, (size_t)(next - at), (size_t)(next - at),
			       MREMAP_MAYMOVE | MREMAP_FIXED, to + (at - from)) == MAP_FAILED)
			return MAP_FAILED;
	}
	return to;
}

static void *raw_move(unsigned char *from, size_t len, unsigned char *to)
{
	void *p = raw_mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	return p == MAP_FAILED && errno == EFAULT ? raw_mappings(from, len, to) : p;
}

static void *call(const struct move *m, size_t old_len)
{
	void *to = m->how & REMAP_FIXED ? m->dest->at + (size_t)m->dfirst * PAGE : NULL;

	if (m->raw && to)
		return raw_move(m->from.at, old_len, to);
	if (m->raw)
		return raw_mremap(m->from.at, old_len, (size_t)m->pages * PAGE, m->flags,
				  to);
	return cow_mremap(m->from.at, old_len, (size_t)m->pages * PAGE, m->flags, to);
}

/* Pages at the target are what the source was; new ones are like its last. */
static void arrive(const struct move *m, const struct page *source, int count)
{
	struct page *to = m->dest->page + m->dfirst, last = source[count - 1];

	last.flags &= (uint16_t)~PAGE_GUARD;
	if (last.back == BACK_SHARED)
		last.flags |= PAGE_UNKNOWN;	/* nothing is behind its end */
	for (int i = 0; i < m->pages; i++) {
		struct page old = i < count ? source[i] : last;
		int place = m->how & REMAP_FIXED ? to[i].flags & PAGE_PLACE :
			    m->raw ? PAGE_RAW : 0;

		if (i == 0 || (i < count && source[i].map != source[i - 1].map))
			m->w->maps++;
		to[i] = old;
		to[i].map = m->w->maps;
		to[i].flags = (uint16_t)((old.flags & ~PAGE_PLACE) | place);
	}
}

/* The source after it: gone, or there without what it held. */
static void depart(const struct move *m)
{
	range_split(m->w, &m->from);
	if (m->how & REMAP_DONTUNMAP)
		range_flag(&m->from, 0, PAGE_GUARD);
	else
		range_unmap(&m->from);
}

static void settle(const struct move *m, void *p)
{
	static struct page source[PAGES_MAX];
	int count = m->from.count < m->pages ? m->from.count : m->pages;
	struct range to = { m->dest, m->dfirst, m->pages, NULL, 0 };

	memcpy(source, m->from.s->page + m->from.first,
	       (size_t)m->from.count * sizeof(*source));
	if (!(m->how & REMAP_ZERO))
		depart(m);
	if (m->how & REMAP_FIXED) {
		range_split(m->w, &to);
	} else {
		m->dest->at = p;
		m->dest->pages = m->pages;
		m->dest->region = NULL;
		m->dest->where = WHERE_MAP;
	}
	m->dest->alone = 0;
	arrive(m, source, count);
	slot_trim(m->from.s);
}

/* Its own size or less, where it is. */
static int shrink(const struct move *m)
{
	struct range tail = m->from;
	void *p = call(m, m->from.len);

	if (p == MAP_FAILED)
		return errno;
	if (p != m->from.at)
		return WRONG;
	tail.first += m->pages;
	tail.count -= m->pages;
	if (tail.count) {
		range_split(m->w, &tail);
		range_unmap(&tail);
		slot_trim(tail.s);
	}
	return 0;
}

static int is_next_live(const struct range *r)
{
	int next = r->first + r->count;

	return next < r->s->pages && r->s->page[next].back != BACK_NONE;
}

static int is_whole(const struct range *r)
{
	return r->count == r->s->pages;
}

/* To a place of the kernel's choice: only where it must move, or where nobody
 * can tell whether it did. */
static int move_anywhere(struct move *m)
{
	int grows = m->pages > m->from.count;
	void *p;

	if (grows && !is_whole(&m->from) && !is_next_live(&m->from))
		return SKIPPED;
	if (grows && !(m->how & REMAP_MAYMOVE) && !is_next_live(&m->from))
		return SKIPPED;
	if (!is_whole(&m->from) || !grows) {
		if (m->dest->at)
			return SKIPPED;
	} else {
		m->dest = m->from.s;
	}
	p = call(m, m->from.len);
	if (p == MAP_FAILED)
		return errno;
	m->dfirst = 0;
	settle(m, p);
	return 0;
}

/* A second view of a shared mapping; of private memory there is none. */
static int view(struct move *m)
{
	struct range r = m->from;
	void *p;

	if (r.s->page[r.first].back == BACK_SHARED) {
		r.count = m->pages;
		if (r.count > m->from.count || !is_one_mapping(&r))
			return SKIPPED;
	}
	p = call(m, 0);
	if (p == MAP_FAILED)
		return errno;
	if (r.s->page[r.first].back != BACK_SHARED)
		return WRONG;
	m->from = r;
	if (!(m->how & REMAP_FIXED))
		m->dfirst = 0;
	settle(m, p);
	return 0;
}

static int overlaps(const struct move *m)
{
	return m->dest == m->from.s && m->dfirst < m->from.first + m->from.count &&
	       m->from.first < m->dfirst + m->pages;
}

/* Cut to what is live at the target. */
static int aim(struct move *m, const struct op *op)
{
	struct range to;

	if (!m->dest->at || !range_at(m->dest, (int)((unsigned)op->v[6] %
				      (unsigned)m->dest->pages), m->pages, &to))
		return 0;
	m->dfirst = to.first;
	/* the same size for both if that was meant */
	if (m->pages == m->from.count && to.count < m->from.count) {
		m->from.count = to.count;
		m->from.len = (size_t)to.count * PAGE;
	}
	m->pages = to.count;
	return 1;
}

static int move_to(struct move *m)
{
	void *p;

	if (overlaps(m))
		return call(m, m->from.len) == MAP_FAILED ? errno : WRONG;
	p = call(m, m->from.len);
	if (p == MAP_FAILED)
		return errno;
	settle(m, p);
	return 0;
}

static int is_certain(const struct move *m)
{
	int same = m->pages == m->from.count;

	if (is_one_mapping(&m->from) || (m->how & REMAP_ZERO))
		return 1;
	if (!(m->how & (REMAP_FIXED | REMAP_DONTUNMAP)) && m->pages <= m->from.count)
		return 1;
	if (m->how & REMAP_FIXED)
		return same && diff_multi_move;
	return is_many_mappings(&m->from);
}

int do_remap(struct world *w, const struct op *op)
{
	struct move m = { .w = w, .how = op->v[4], .dest = slot_of(w, op->v[5]),
			   .dfirst = 0, .pages = op->v[3] };

	if (!range_of(w, op, &m.from))
		return SKIPPED;
	if (m.pages <= 0 || m.how & REMAP_DONTUNMAP)
		m.pages = m.from.count;
	if (m.pages > PAGES_MAX)
		m.pages = PAGES_MAX;
	if (m.how & REMAP_FIXED && !aim(&m, op))
		return SKIPPED;
	/* the kernel unlocks all of the mapping then, however little of it moves */
	if (m.how & REMAP_DONTUNMAP && has_flag(&m.from, PAGE_LOCKED))
		return SKIPPED;
	if (!is_certain(&m) || known_remap(&m.from, m.how))
		return SKIPPED;
	/* brk(2) must find room to grow */
	if (m.from.s->where == WHERE_BRK && m.pages > m.from.count)
		return SKIPPED;
	m.flags = (m.how & REMAP_MAYMOVE ? MREMAP_MAYMOVE : 0) |
		  (m.how & REMAP_FIXED ? MREMAP_FIXED : 0) |
		  (m.how & REMAP_DONTUNMAP ? MREMAP_DONTUNMAP : 0);
	if (m.how & REMAP_ZERO) {
		if (!(m.how & REMAP_FIXED) && m.dest->at)
			return SKIPPED;
		if (m.how & REMAP_FIXED && overlaps(&m))
			return SKIPPED;
		return view(&m);
	}
	if (m.how & REMAP_FIXED)
		return move_to(&m);
	if (!(m.how & REMAP_DONTUNMAP) && m.pages <= m.from.count)
		return shrink(&m);
	return move_anywhere(&m);
}

/* --- behind the library's back ------------------------------------------ */

/* Somewhere else, of the size of the source. */
static int make_room(struct move *m)
{
	struct range all = { .s = m->dest, .count = m->pages };
	void *p = raw_mmap(NULL, (size_t)m->pages * PAGE, PROT_NONE,
			   MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if (p == MAP_FAILED)
		return errno;
	slot_take(m->dest, p, m->pages);
	range_map(m->w, &all, PROT_NONE, BACK_ANON);
	range_flag(&all, PAGE_RAW, 0);
	m->dfirst = 0;
	return 0;
}

int do_raw_move(struct world *w, const struct op *op)
{
	struct move m = { .w = w, .how = REMAP_MAYMOVE | REMAP_FIXED, .raw = 1,
			  .flags = MREMAP_MAYMOVE | MREMAP_FIXED,
			  .dest = slot_of(w, op->v[5]) };
	struct range to;
	int ret;

	/* what was adopted may be several mappings where there was one */
	if (!range_of(w, op, &m.from) || !is_raw(&m.from) || !diff_multi_move)
		return SKIPPED;
	m.pages = m.from.count;
	if (m.dest->at && !aim(&m, op))
		return SKIPPED;
	if (m.dest->at && (!range_at(m.dest, m.dfirst, m.pages, &to) || !is_raw(&to) ||
			   overlaps(&m)))
		return SKIPPED;
	ret = m.dest->at ? 0 : make_room(&m);
	return ret ? ret : move_to(&m);
}

/* What it grew by may show what its neighbours in the store were: see cowfork(7). */
static int clear(const struct slot *s, int first)
{
	unsigned char *at = s->at + (size_t)first * PAGE;
	size_t len = (size_t)(s->pages - first) * PAGE;
	int prot = s->page[first].prot;

	if (raw_mprotect(at, len, PROT_READ | PROT_WRITE) < 0)
		return errno;
	memset(at, 0, len);
	return outcome(raw_mprotect(at, len, prot));
}

/* What was adopted in part is several mappings, which the kernel moves but does not grow. */
static int grow_pieces(struct move *m)
{
	void *p = raw_mmap(NULL, (size_t)m->pages * PAGE, m->from.s->page[0].prot,
			   MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if (p == MAP_FAILED || raw_move(m->from.at, m->from.len, p) == MAP_FAILED)
		return errno;
	settle(m, p);
	return 0;
}

/* Only of a mapping that is whole: behind a part of one lies the rest of it. */
int do_raw_grow(struct world *w, const struct op *op)
{
	struct move m = { .w = w, .how = REMAP_MAYMOVE, .raw = 1,
			  .flags = MREMAP_MAYMOVE, .dest = slot_of(w, op->v[0]) };
	struct slot *s = m.dest;
	int first = s->pages, ret;

	if (!s->at || s->alone != s->pages || !range_at(s, 0, s->pages, &m.from) ||
	    !is_whole(&m.from) || !is_one_mapping(&m.from) || !is_raw(&m.from) ||
	    has_backing(&m.from, BACK_FILE) || has_backing(&m.from, BACK_SHARED))
		return SKIPPED;
	m.pages = s->pages + (int)((unsigned)op->v[2] % PAGES_MAX) + 1;
	if (m.pages > PAGES_MAX)
		return SKIPPED;
	ret = move_anywhere(&m);
	if (ret == EFAULT && diff_multi_move)
		ret = grow_pieces(&m);
	return ret ? ret : clear(s, first);
}
