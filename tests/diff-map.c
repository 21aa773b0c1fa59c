/*
 * Operations that make mappings: mmap(2) anywhere, over and beside what is there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "cowfork.h"
#include "diff-state.h"

#define LOCKED_PAGES 32		/* limits on locked memory are small */
#define ANYWHERE (MAP_PRIVATE | MAP_ANONYMOUS)

static int allowed_flags(int flags, int pages)
{
	const int known = MAP_POPULATE | MAP_NONBLOCK | MAP_NORESERVE | MAP_STACK |
			  MAP_GROWSDOWN | MAP_LOCKED;

	if (pages > LOCKED_PAGES)
		flags &= ~MAP_LOCKED;
	return flags & known;
}

static void note_locked(const struct range *r, int flags)
{
	if (flags & MAP_LOCKED)
		range_flag(r, PAGE_LOCKED, 0);
}

/* mmap(2) of one kind of backing, filled if it may be written only now. */
static void *map(void *at, size_t len, int prot, int flags, int back)
{
	void *p;

	if (back == BACK_FILE)
		return cow_mmap(at, len, prot, flags | MAP_PRIVATE, diff_file, 0);
	if (back != BACK_SHARED)
		return cow_mmap(at, len, prot, flags | ANYWHERE, -1, 0);
	flags &= ~MAP_GROWSDOWN;
	p = cow_mmap(at, len, prot, flags | MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p != MAP_FAILED && (prot & PROT_WRITE))
		memset(p, 0x5a, len);
	return p;
}

static int kept(int back)
{
	return back == BACK_FILE || back == BACK_SHARED ? back : BACK_ANON;
}

int do_map(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int pages = op->v[1], prot = op->v[2], back = op->v[4];
	const struct slot *near = op->v[5] < 0 ? NULL : slot_of(w, op->v[5]);
	struct range all = { .s = s, .count = pages };
	void *hint = NULL, *p;

	if (s->at || pages <= 0 || pages > PAGES_MAX)
		return SKIPPED;
	if (near && near->at && near->where != WHERE_BRK)	/* it must find room to grow */
		hint = near->at + (size_t)near->pages * PAGE;
	p = map(hint, (size_t)pages * PAGE, prot, allowed_flags(op->v[3], pages), back);
	if (p == MAP_FAILED)
		return errno;
	slot_take(s, p, pages);
	range_map(w, &all, prot, kept(back));
	note_locked(&all, op->v[3]);
	return 0;
}

int do_region(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int pages = op->v[1], ret;
	struct range all = { .s = s, .count = pages };
	void *p;

	if (s->at || pages <= 0 || pages > PAGES_MAX)
		return SKIPPED;
	ret = cow_region_create((size_t)pages * PAGE, (size_t)op->v[2], &p);
	if (ret < 0)
		return -ret;
	if (op->v[2] && (uintptr_t)p % (size_t)op->v[2])
		return WRONG;
	slot_take(s, p, pages);
	s->region = p;
	range_map(w, &all, PROT_READ | PROT_WRITE, BACK_ANON);
	range_flag(&all, PAGE_REGION, 0);
	return 0;
}

int do_destroy(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int ret;

	/* without its first page it has no name: another may be there by now */
	if (!s->region || s->at != s->region || !(s->page[0].flags & PAGE_REGION))
		return SKIPPED;
	/* what fork left out may be somebody else's by now */
	for (int i = 0; i < s->pages; i++)
		if (s->page[i].back == BACK_NONE && s->page[i].flags & PAGE_REGION)
			return SKIPPED;
	ret = -cow_region_destroy(s->region);
	if (ret == 0) {
		for (int i = 0; i < s->pages; i++)
			if (s->page[i].flags & PAGE_REGION)
				s->page[i] = (struct page){ 0 };
		s->region = NULL;
		slot_trim(s);
	}
	return ret;
}

int do_fixed(struct world *w, const struct op *op)
{
	int prot = op->v[3], back = op->v[5];
	int noreplace = op->v[4] & MAP_FIXED_NOREPLACE;
	struct range r;
	void *p;

	if (!range_of(w, op, &r))
		return SKIPPED;
	p = map(r.at, r.len, prot, allowed_flags(op->v[4], r.count) |
		(noreplace ? MAP_FIXED_NOREPLACE : MAP_FIXED), back);
	if (p == MAP_FAILED)
		return errno;
	if (p != r.at)
		return WRONG;
	range_map(w, &r, prot, kept(back));
	note_locked(&r, op->v[4]);
	return 0;
}

/* --- a hole, looked at and filled again --------------------------------- */

/* [first, first + count) was just unmapped; wide is that and a bit of what lies
 * beside it. Between here and there nothing may map anything. */
struct gap {
	struct world *w;
	struct range hole, wide;
	int prot;
};

static int protect_gap(const struct gap *g)
{
	struct range before = g->wide;
	int ret = outcome(cow_mprotect(g->wide.at, g->wide.len, g->prot));

	before.count = g->hole.first - g->wide.first;
	if (before.count)	/* the kernel goes as far as it can */
		range_protect(g->w, &before, g->prot);
	return ret;
}

static int lock_gap(const struct gap *g)
{
	size_t before = (size_t)(g->hole.first - g->wide.first) * PAGE;
	int ret = outcome(cow_mlock2(g->wide.at, g->wide.len, 0));

	if (before)
		munlock(g->wide.at, before);
	return ret;
}

/* Whether it can grow there is the engine's affair, but what is new is zero. EFAULT: what
 * looks like one mapping the kernel has in two, as it does not always merge what has been
 * written to apart (mm/vma.c, is_mergeable_anon_vma); seed 94 met that, the plain way. */
static int grow_gap(const struct gap *g)
{
	struct range before = g->wide;
	void *p;
	int ret = 0;

	before.count = g->hole.first - g->wide.first;
	if (!before.count || !is_one_mapping(&before) ||
	    before.s->page[before.first].back != BACK_ANON)
		return 0;
	p = cow_mremap(before.at, (size_t)before.count * PAGE,
		       (size_t)(before.count + g->hole.count) * PAGE, 0, NULL);
	if (p == MAP_FAILED)
		return errno == ENOMEM || errno == EFAULT ? 0 : errno;
	if (p != before.at)
		return WRONG;
	if (may_read(&g->wide.s->page[before.first]))
		for (size_t i = 0; i < g->hole.len; i += PAGE / 2)
			if (g->hole.at[i])
				ret = WRONG;
	return ret ? ret : outcome(cow_munmap(g->hole.at, g->hole.len));
}

static int noreplace_gap(const struct gap *g)
{
	void *p = cow_mmap(g->wide.at, g->wide.len, g->prot,
			   ANYWHERE | MAP_FIXED_NOREPLACE, -1, 0);
	int ret = failed(p);

	if (g->wide.len == g->hole.len)
		return ret;
	p = cow_mmap(g->hole.at, g->hole.len, g->prot,
		     ANYWHERE | MAP_FIXED_NOREPLACE, -1, 0);
	return p == g->hole.at ? ret : WRONG;
}

static int hint_gap(const struct gap *g)
{
	void *p = cow_mmap(g->hole.at, g->hole.len, g->prot, ANYWHERE, -1, 0);
	int ret = failed(p);

	if (!ret && p != g->hole.at)
		ret = outcome(cow_munmap(p, g->hole.len));
	return ret;
}

static int probe_gap(const struct gap *g, int what)
{
	switch (what) {
	case HOLE_ADVISE:
		return outcome(cow_madvise(g->wide.at, g->wide.len, MADV_DONTNEED));
	case HOLE_PROTECT:
		return protect_gap(g);
	case HOLE_LOCK:
		return lock_gap(g);
	case HOLE_REMAP:
		return failed(cow_mremap(g->wide.at, g->wide.len, g->wide.len,
				MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
	case HOLE_GROW:
		return grow_gap(g);
	case HOLE_NOREPLACE:
		return noreplace_gap(g);
	case HOLE_HINT:
		return hint_gap(g);
	default:
		return 0;
	}
}

/* Where the library heeded a hint there can be a window now. */
static int fill_gap(const struct gap *g, int wide, int what)
{
	const struct range *r = wide ? &g->wide : &g->hole;
	void *p = cow_mmap(r->at, r->len, g->prot, ANYWHERE | MAP_FIXED, -1, 0);

	if (p != r->at)
		return WRONG;
	range_map(g->w, r, g->prot, BACK_ANON);
	if (what == HOLE_HINT)
		range_flag(&g->wide, 0, PAGE_RAW);
	return 0;
}

int do_hole(struct world *w, const struct op *op)
{
	unsigned what = (unsigned)op->v[3] % HOLE_COUNT, edge = (unsigned)op->v[4] % 64;
	struct gap g = { .w = w, .prot = op->v[5] };
	int low, ret;

	if (!range_of(w, op, &g.hole))
		return SKIPPED;
	for (low = g.hole.first; low > 0 && low > g.hole.first - (int)edge; low--)
		if (g.hole.s->page[low - 1].back == BACK_NONE)
			break;
	range_at(g.hole.s, low, g.hole.first - low + g.hole.count + (int)edge, &g.wide);
	ret = outcome(cow_munmap(g.hole.at, g.hole.len));
	if (ret)
		return ret;
	range_split(w, &g.hole);
	range_unmap(&g.hole);
	ret = probe_gap(&g, (int)what);
	w->fold = fold(w->fold, (uint64_t)fill_gap(&g, edge & 1, (int)what));
	return ret;
}
