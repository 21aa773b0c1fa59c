/*
 * /proc/self/maps held against the table of extents: the store's mappings are
 * known by the file's device and inode, by their offset, and by being shared or
 * private.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include "log.h"
#include "process.h"
#include "procfs.h"
#include "verify.h"

enum kind { KIND_OTHER, KIND_SHARED, KIND_PRIVATE };

struct walk {
	struct store *s;
	uintptr_t next;		/* everything below has been looked at */
};

static enum kind expected(const struct extent *e)
{
	switch ((enum extent_state)e->state) {
	case EXTENT_OWNED: return KIND_SHARED;
	case EXTENT_FROZEN: return KIND_PRIVATE;
	case EXTENT_FREE:
	case EXTENT_NATIVE: break;
	}
	return KIND_OTHER;
}

static enum kind kind_of(const struct store *s, const struct procfs_map *m)
{
	if (m->dev != s->dev || m->ino != s->ino || m->offset != m->start - s->base)
		return KIND_OTHER;
	return m->shared ? KIND_SHARED : KIND_PRIVATE;
}

/* [from, to) of the window is a mapping of this kind: what should be another
 * one is the program's from now on. */
static int look(struct store *s, uintptr_t from, uintptr_t to, enum kind kind)
{
	extents_each(e, &s->extents, from, to) {
		if (expected(&e) == KIND_OTHER || expected(&e) == kind)
			continue;
		if (!store_have_room(s))
			return -ENOMEM;
		log_line(COW_LOG_WARN, "%#lx-%#lx was re-mapped behind the library",
			 (unsigned long)e.start, (unsigned long)e.end);
		process_native(COW_REASON_FOREIGN);
		extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
			    EXTENT_FOREIGN);
	}
	return 0;
}

static int look_at_map(void *arg, const struct procfs_map *m)
{
	struct walk *w = arg;
	struct store *s = w->s;
	uintptr_t limit = s->base + s->size;
	uintptr_t start = m->start < s->base ? s->base : m->start;
	uintptr_t end = m->end < limit ? m->end : limit;
	int ret;

	if (m->end <= s->base || m->start >= limit)
		return 0;
	ret = look(s, w->next, start, KIND_OTHER);
	if (!ret)
		ret = look(s, start, end, kind_of(s, m));
	w->next = end;
	return ret;
}

int verify_store(struct store *s)
{
	struct walk w = { .s = s, .next = s->base };
	uintptr_t end = s->base + s->size;
	int ret = procfs_maps(look_at_map, &w);

	if (ret < 0 && ret != -ENOMEM)	/* no /proc */
		return 0;
	if (!ret && w.next < end)
		ret = look(s, w.next, end, KIND_OTHER);
	return ret;
}

int verify_piece(const struct store *s, struct extent *e)
{
	struct procfs_map m;
	int ret = procfs_map_at(e->start, &m);

	if (ret < 0)
		return ret != -ENOENT;	/* no /proc, or no map */
	if (m.end < e->end)
		e->end = m.end;
	if (e->state == EXTENT_NATIVE)	/* anonymous memory laid over a window */
		return !m.ino && !m.shared;
	return kind_of(s, &m) == expected(e);
}
