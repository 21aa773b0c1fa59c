/*
 * /proc/self/smaps, read for private anonymous memory, readable and writable, of which
 * the kernel tells nothing special: no stack, not locked, not left out of a fork or of
 * core files (the library's own memory is), no huge pages of hugetlbfs, of no
 * userfaultfd.
 *
 * Nor the first of what lies behind libc's data (its .bss): who moves a table beside
 * threads may read that meanwhile (memcpy(3) asks it how).
 *
 * A window is cut out, but where memory grew next to what was adopted and room was
 * left for that: there its offsets are fresh.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <gnu/libc-version.h>
#include <string.h>
#include <sys/mman.h>

#include "candidate.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

#define ARENA_SIZE ((uintptr_t)64 << 20)	/* glibc's HEAP_MAX_SIZE, and alignment */
#define JOIN_SIZE ((size_t)256 << 10)	/* next to adopted memory */
#define LIBC_SIZE ((size_t)1 << 20)	/* of its .bss, and more */

struct search {
	struct candidates *found;
	uintptr_t from, to;
	size_t min;
	uint64_t sparse;	/* mappings above this are address space, not memory */
	int64_t mapped;
	uintptr_t before;	/* where the mapping before ends */
	struct procfs_map libc;	/* its last mapping so far */
};

/* glibc's struct heap_info (malloc/arena.c). Read as another process would: it may be
 * gone by now. */
static int is_arena(uintptr_t at)
{
	uint64_t heap[4];	/* arena, previous heap, size, accessible size */
	size_t page = sys_page_size();
	int ret = sys_look(heap, (const void *)at, sizeof(heap));

	if (ret < 0)
		return ret != -EFAULT;	/* it cannot be told */
	return heap[0] && heap[2] && heap[2] <= heap[3] && heap[3] <= ARENA_SIZE &&
	       !(heap[2] % page) && !(heap[3] % page) &&
	       (heap[0] & (ARENA_SIZE - 1)) < page;
}

int candidate_has_arena(uintptr_t start, uintptr_t end)
{
	for (uintptr_t at = start & ~(ARENA_SIZE - 1); at < end; at += ARENA_SIZE)
		if (is_arena(at))
			return 1;
	return 0;
}

static int is_memory(const struct procfs_map *m)
{
	return !m->ino && !m->shared && m->prot == (PROT_READ | PROT_WRITE);
}

/* An arena's heaps lie side by side, and nobody moves them: they need no holes between. */
static void put(struct candidates *c, const struct candidate *new)
{
	struct candidate *last = c->count ? &c->at[c->count - 1] : NULL, *least = c->at;

	if (last && last->end == new->start && !last->s && !new->s &&
	    !(new->start % ARENA_SIZE) && is_arena(new->start)) {
		last->end = new->end;
		last->limit = new->limit;
		last->bytes += new->bytes;
		last->lazy += new->lazy;
		return;
	}
	if (c->count == CANDIDATES) {
		for (unsigned i = 1; i < CANDIDATES; i++)
			if (c->at[i].bytes < least->bytes)
				least = &c->at[i];
		if (least->bytes >= new->bytes)
			return;
		memmove(least, least + 1, (size_t)(c->at + CANDIDATES - (least + 1)) *
			sizeof(*least));
		c->count--;
	}
	c->at[c->count++] = *new;
}

static int touches(const struct store *s, uintptr_t start)
{
	return start > s->base &&
	       extents_piece(&s->extents, start - 1, start).state == EXTENT_FROZEN;
}

/* A part of a mapping that lies in a window of adopted memory. */
static void put_growth(struct search *f, struct store *s, struct candidate *c)
{
	extents_each(e, &s->extents, c->start, c->end) {
		struct candidate part = { e.start, e.end, 0, 0, c->bytes, c->lazy, s };
		size_t len = e.end - e.start;

		if (e.state == EXTENT_FREE && e.flags & EXTENT_STALE && len >= f->min)
			f->found->stale = 1;
		if (e.state == EXTENT_FREE && !e.flags &&
		    (len >= f->min || (len >= JOIN_SIZE && touches(s, e.start))))
			put(f->found, &part);
	}
}

/* Of what is mostly not in memory, little would be gained. */
static void put_parts(struct search *f, uintptr_t start, uintptr_t end,
		      const struct procfs_smap *m)
{
	uint64_t bytes = m->anonymous;

	while (start < end) {
		struct store *s = process_store_at(start, end - start);
		struct candidate c = { start, end, f->before, UINTPTR_MAX, bytes, m->lazy,
				       NULL };

		if (s && s->base > start) {
			c.end = s->base;
			s = NULL;
		} else if (s && s->base + s->size < end) {
			c.end = s->base + s->size;
		}
		if (c.bytes > c.end - c.start)
			c.bytes = c.end - c.start;
		if (!s && c.end - c.start >= f->min && bytes >= f->min / 8)
			put(f->found, &c);
		else if (s && s->adopted && !s->inherited)
			put_growth(f, s, &c);
		start = c.end;
	}
}

/* How much of a mapping, from its start on, is libc's. */
static size_t libc_part(struct search *f, const struct procfs_map *m)
{
	uintptr_t here = (uintptr_t)gnu_get_libc_version();

	if ((m->start <= here && here < m->end) ||
	    (m->ino && m->ino == f->libc.ino && m->dev == f->libc.dev))
		f->libc = *m;
	if (!is_memory(m) || !f->libc.end || f->libc.end != m->start)
		return 0;
	return m->end - m->start < LIBC_SIZE ? m->end - m->start : LIBC_SIZE;
}

static int look(void *arg, const struct procfs_smap *m)
{
	struct search *f = arg;
	uintptr_t from = m->map.start + libc_part(f, &m->map);
	struct candidate *last = f->found->count ? &f->found->at[f->found->count - 1] : NULL;
	uintptr_t start = from > f->from ? from : f->from;
	uintptr_t end = m->map.end < f->to ? m->map.end : f->to;

	if (last && last->limit == UINTPTR_MAX)
		last->limit = m->map.start > last->end ? m->map.start : last->end;
	if (start < end && is_memory(&m->map) && !m->special && m->anonymous &&
	    m->map.end - m->map.start <= f->sparse)
		put_parts(f, start, end, m);
	f->before = m->map.end;
	return 0;
}

int candidates_find(struct candidates *c, uintptr_t from, uintptr_t to, size_t min)
{
	struct search f = { .found = c, .from = from, .to = to, .min = min,
			    .sparse = sys_ram_and_swap() * 4 };

	c->count = 0;
	c->stale = 0;
	return procfs_smaps(look, &f);
}

static int add_up(void *arg, const struct procfs_map *m)
{
	struct search *f = arg;
	size_t len = m->end - m->start;
	struct store *s = is_memory(m) ? process_store_at(m->start, len) : NULL;

	if (is_memory(m) && len <= f->sparse &&
	    ((!s && len >= f->min) ||
	     (s && s->adopted && (len >= f->min ||
				  (len >= JOIN_SIZE && touches(s, m->start))))))
		f->mapped += (int64_t)len;
	return 0;
}

int64_t candidates_mapped(size_t min)
{
	struct search f = { .min = min, .sparse = sys_ram_and_swap() * 4 };
	int ret = procfs_maps(add_up, &f);

	return ret < 0 ? ret : f.mapped;
}
