/*
 * A page is copied unless it is (present and the file's) or nothing at all: what
 * is in swap or under migration counts as private (procfs.c). The copy goes through
 * the shadow, whose protection is nobody else's business.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "merge.h"
#include "options.h"
#include "procfs.h"
#include "sys.h"

#define SMALL_TABLE_NS 1500000u	/* of the processor's: to have a table of small pages */
#define DEAR_CALLS 64u		/* before huge pages are tried again, 2 GiB */

struct merge {
	const struct store *store;
	uintptr_t to, from;	/* the same byte, in the shadow and where it is */
	int sparse;		/* pages of zeros are not copied, where holes stay holes */
};

int merge_is_overlay(const struct extent *e)
{
	return e->state == EXTENT_NATIVE && !(e->flags & ~EXTENT_STALE);
}

static int is_huge(const struct store *s, uintptr_t alias)
{
	return s->huge && s->huge[(alias - store_alias(s, s->base)) / TABLE_SIZE];
}

/* Pages of zeros at the start of [from, from + len), or, if not `zero`, others. */
static size_t run_of(uintptr_t from, size_t len, int zero)
{
	size_t page = sys_page_size(), n = 0;

	while (n < len && sys_is_zero((const void *)(from + n), page) == zero)
		n += page;
	return n;
}

/* One call takes the pages that a fault for each would. */
static void copy_sparse(uintptr_t to, uintptr_t from, size_t len)
{
	for (size_t at = 0, n; at < len; at += n) {
		at += run_of(from + at, len - at, 1);
		n = run_of(from + at, len - at, 0);
		if (n)
			sys_madvise(to + at, n, MADV_POPULATE_WRITE);
		sys_copy((void *)(to + at), (const void *)(from + at), n);
	}
}

static int copy_run(void *arg, uintptr_t start, size_t len)
{
	const struct merge *m = arg;

	for (size_t at = 0, step; at < len; at += step) {
		uintptr_t from = start + at, to = from - m->from + m->to;

		step = TABLE_SIZE - to % TABLE_SIZE;
		step = step < len - at ? step : len - at;
		if (m->sparse && !is_huge(m->store, to))
			copy_sparse(to, from, step);
		else
			sys_copy((void *)to, (const void *)from, step);
	}
	return 0;
}

int merge_has_pages(const struct extent *e)
{
	return procfs_private(e->start, e->end - e->start, NULL, NULL) != 0;
}

struct work {
	uintptr_t first_edge, edge;
	size_t bytes;		/* that may still be copied */
};

static int weigh(void *arg, uintptr_t start, size_t len)
{
	struct work *w = arg;

	if (len <= w->bytes) {
		w->bytes -= len;
		return 0;
	}
	w->edge = (start + w->bytes) & ~(TABLE_SIZE - 1);
	if (w->edge < w->first_edge)
		w->edge = w->first_edge;
	return 1;
}

uintptr_t merge_edge(const struct extent *e, size_t tables, size_t pages)
{
	uintptr_t first = (e->start | (TABLE_SIZE - 1)) + 1;
	struct work w = { first, first + (tables - 1) * TABLE_SIZE, pages * sys_page_size() };

	if (w.edge < e->end)
		w.first_edge = first;
	else
		w.edge = e->end;
	if (e->end > first)
		(void)procfs_private(e->start, w.edge - e->start, weigh, &w);
	return w.edge < e->end ? w.edge : e->end;
}

/* --- memory ahead of a copy --------------------------------------------- */

struct full {
	uintptr_t first;
	size_t count, bytes[MERGE_RUN];
};

/* Bytes of a run of pages in each whole table. */
static int add_run(void *arg, uintptr_t start, size_t len)
{
	struct full *f = arg;

	while (len) {
		size_t n = TABLE_SIZE - start % TABLE_SIZE;

		n = n < len ? n : len;
		if (start >= f->first && (start - f->first) / TABLE_SIZE < f->count)
			f->bytes[(start - f->first) / TABLE_SIZE] += n;
		start += n;
		len -= n;
	}
	return 0;
}

/* Huge pages cost 0.3 ms of the processor's time where memory is warm, small ones 1.5 ms. But
 * where the host of a virtual machine has taken free memory back, to clear a new huge page
 * takes 5 ms; and what adoption itself frees are small pages, which the kernel keeps apart for
 * whoever wants such (mm/page_alloc.c, nr_pcp_high). Where there is none, to look for one is
 * as dear. */
static unsigned dear;		/* calls for which small pages are to do */

/* One page of each is there: the rest of a huge page is filled with zeros by the one
 * call, cheaper than by a fault for each page. */
static void make_huge(struct store *s, uintptr_t start, size_t count)
{
	uintptr_t to = store_alias(s, start);
	unsigned char *huge = store_huge_map(s);
	uint64_t before = sys_cpu_ns();
	int ret;

	for (size_t i = 0; i < count; i++)
		*(volatile char *)(to + i * TABLE_SIZE) = 0;
	if (!huge)
		return;
	ret = sys_madvise(to, count * TABLE_SIZE, MADV_COLLAPSE);
	if (options.huge != COW_HUGE_ALWAYS &&
	    (ret == -ENOMEM || sys_cpu_ns() - before > count * SMALL_TABLE_NS))
		dear = DEAR_CALLS;
	if (ret < 0)
		return;
	memset(huge + (start - s->base) / TABLE_SIZE, 1, count);
	s->huge_count += count;
}

static void make_ready(struct store *s, uintptr_t start, size_t count)
{
	if (!dear) {
		make_huge(s, start, count);
		return;
	}
	dear--;
	sys_madvise(store_alias(s, start), count * TABLE_SIZE, MADV_POPULATE_WRITE);
}

void merge_prepare(struct store *s, const struct extent *e)
{
	struct full f = { .first = (e->start + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1) };
	size_t run = 0;

	f.count = f.first < e->end ? (e->end - f.first) / TABLE_SIZE : 0;
	f.count = f.count < MERGE_RUN ? f.count : MERGE_RUN;
	if (options.huge == COW_HUGE_NEVER || !f.count ||
	    procfs_private(e->start, e->end - e->start, add_run, &f) < 0 ||
	    sys_mprotect(store_alias(s, f.first), f.count * TABLE_SIZE,
			 PROT_READ | PROT_WRITE) < 0)
		return;
	for (size_t t = 0; t <= f.count; t++) {
		if (t < f.count && f.bytes[t] == TABLE_SIZE) {
			run++;
			continue;
		}
		if (run)
			make_ready(s, f.first + (t - run) * TABLE_SIZE, run);
		run = 0;
	}
	sys_mprotect(store_alias(s, f.first), f.count * TABLE_SIZE, PROT_NONE);
}

/* --- merge -------------------------------------------------------------- */

int merge_piece(struct store *s, const struct extent *e, uintptr_t from)
{
	struct merge m = { s, store_alias(s, e->start), from, merge_is_overlay(e) };
	size_t len = e->end - e->start;
	int closed = !(e->prot & PROT_READ);
	int ret = e->flags & EXTENT_STALE ? store_punch(s, e->start, len) : 0;

	if (ret == 0)
		ret = sys_mprotect(m.to, len, PROT_READ | PROT_WRITE);
	if (ret == 0)	/* the program's own, which a freeze parked */
		sys_madvise(m.to, len, MADV_GUARD_REMOVE);
	if (ret == 0 && closed)
		ret = sys_mprotect(from, len, e->prot | PROT_READ);
	if (ret < 0)
		return ret;
	ret = procfs_private(from, len, copy_run, &m);
	if (closed)
		sys_mprotect(from, len, e->prot);
	if (ret < 0)
		sys_mprotect(m.to, len, PROT_NONE);
	if (ret < 0 && m.sparse)
		(void)store_punch(s, e->start, len);
	return ret;
}
