/*
 * A page is copied unless it is (present and the file's) or nothing at all: what
 * is in swap or under migration counts as private (procfs.c). The copy goes through
 * the shadow, whose protection is nobody else's business.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "merge.h"
#include "options.h"
#include "procfs.h"
#include "sys.h"

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

static int copy_run(void *arg, uintptr_t start, size_t len)
{
	const struct merge *m = arg;

	for (size_t at = 0, step; at < len; at += step) {
		const void *from = (const void *)(start + at);
		uintptr_t to = start + at - m->from + m->to;
		int sparse = m->sparse && !is_huge(m->store, to);

		step = sparse ? sys_page_size() : TABLE_SIZE - to % TABLE_SIZE;
		step = step < len - at ? step : len - at;
		if (!sparse || !sys_is_zero(from, step))
			sys_copy((void *)to, from, step);
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

/* One page of each is there: the rest of a huge page is filled with zeros by the one
 * call, cheaper than by a fault for each page. */
static void make_huge(struct store *s, uintptr_t start, size_t count)
{
	uintptr_t to = store_alias(s, start);
	unsigned char *huge = store_huge_map(s);

	for (size_t i = 0; i < count; i++)
		*(volatile char *)(to + i * TABLE_SIZE) = 0;
	if (!huge || sys_madvise(to, count * TABLE_SIZE, MADV_COLLAPSE) < 0)
		return;
	memset(huge + (start - s->base) / TABLE_SIZE, 1, count);
	s->huge_count += count;
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
			make_huge(s, f.first + (t - run) * TABLE_SIZE, run);
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
