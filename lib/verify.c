/*
 * /proc/self/maps held against the table of extents: the store's mappings are
 * known by the file's device and inode, by their offset, and by being shared or
 * private.
 *
 * Over adopted memory that is everyday: its owner may unmap, move or protect it by
 * system calls that nobody sees (the C library's malloc does). What is not there any
 * more is the kernel's, and its offsets are free again when no descendant looks; but
 * where it was moved to, the store's bytes still show, and so are left alone.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/single_threaded.h>

#include "log.h"
#include "process.h"
#include "procfs.h"
#include "verify.h"

enum kind { KIND_OTHER, KIND_SHARED, KIND_PRIVATE, KIND_ANONYMOUS };

struct walk {
	struct store *s;
	uintptr_t next;		/* everything below has been looked at */
	int lost;		/* something was found re-mapped just now */
};

static int is_of(const struct store *s, const struct procfs_map *m)
{
	return m->dev == s->dev && m->ino == s->ino;
}

static enum kind kind_of(const struct store *s, const struct procfs_map *m)
{
	if (!m->ino && !m->shared)
		return KIND_ANONYMOUS;
	if (!is_of(s, m) || m->offset != m->start - s->base)
		return KIND_OTHER;
	return m->shared ? KIND_SHARED : KIND_PRIVATE;
}

/* --- memory that was born in the store ---------------------------------- */

static int expected(const struct extent *e, enum kind kind)
{
	switch ((enum extent_state)e->state) {
	case EXTENT_OWNED: return kind == KIND_SHARED;
	case EXTENT_FROZEN: return kind == KIND_PRIVATE;
	case EXTENT_FREE:
	case EXTENT_NATIVE: break;
	}
	return 1;
}

static int is_ours(const struct extent *e)
{
	return e->state == EXTENT_OWNED || e->state == EXTENT_FROZEN;
}

/* What should be another mapping is the program's from now on; it is STALE until it is
 * known to be elsewhere. A protection of the program's own is to outlive the next
 * transition. */
static void look_at_born(struct walk *w, const struct extent *e, enum kind kind, int prot)
{
	struct store *s = w->s;

	if (expected(e, kind)) {
		if (is_ours(e) && e->prot != prot)
			extents_set(&s->extents, e->start, e->end,
				    (enum extent_state)e->state, prot, e->flags);
		return;
	}
	log_line(COW_LOG_WARN, "%#lx-%#lx was re-mapped behind the library",
		 (unsigned long)e->start, (unsigned long)e->end);
	process_native(COW_REASON_FOREIGN);
	extents_set(&s->extents, e->start, e->end, EXTENT_NATIVE, e->prot,
		    EXTENT_FOREIGN | EXTENT_STALE);
	w->lost = 1;
}

static int is_within(const struct procfs_map *m, uintptr_t start, size_t size)
{
	return m->start >= start && m->end <= start + size;
}

/* A mapping of the store that the program moved there, or that grew. */
static int is_elsewhere(const struct store *s, const struct procfs_map *m)
{
	return is_of(s, m) && m->start != s->base + m->offset && m->offset < s->size &&
	       !is_within(m, s->shadow, s->size) && !is_within(m, s->template, s->size);
}

/* Its bytes are to stay. */
static int keep_lost(struct store *s, uintptr_t from, uintptr_t to)
{
	extents_each(e, &s->extents, from, to) {
		if (!(e.flags & EXTENT_FOREIGN))
			continue;
		if (!store_have_room(s))
			return -ENOMEM;
		extents_set(&s->extents, e.start, e.end, (enum extent_state)e.state, e.prot,
			    e.flags & ~EXTENT_STALE);
	}
	return 0;
}

/* Whole extents need no room. */
static void keep_all_lost(struct store *s)
{
	extents_each(e, &s->extents, s->base, s->base + s->size)
		if (e.flags & EXTENT_FOREIGN)
			extents_set(&s->extents, e.start, e.end, (enum extent_state)e.state,
				    e.prot, e.flags & ~EXTENT_STALE);
}

static int keep_what_moved(void *arg, const struct procfs_map *m)
{
	struct store *s = arg;
	uintptr_t from = s->base + m->offset, to = from + (m->end - m->start);

	if (!is_elsewhere(s, m))
		return 0;
	if (m->shared && s->base + s->size >= to)	/* children are to have it */
		(void)store_park_moved(s, m->start, m->end - m->start, m->offset, m->prot);
	return keep_lost(s, from, to < s->base + s->size ? to : s->base + s->size);
}

/* What was unmapped, or mapped over, nobody but descendants can see any more: its bytes
 * go. Where that cannot be told they stay: another thread may move a mapping past where
 * /proc/self/maps is being read. */
static void give_up_lost(struct store *s)
{
	if (procfs_maps(keep_what_moved, s) < 0 || !__libc_single_threaded)
		keep_all_lost(s);
	else
		s->stale = 1;
}

/* --- adopted memory ----------------------------------------------------- */

static int is_watched(const struct extent *e)
{
	return e->state != EXTENT_FREE && !(e->flags & EXTENT_FOREIGN);
}

static int shows_store(const struct extent *e)
{
	return e->state == EXTENT_FROZEN || e->flags & EXTENT_PINNED;
}

static int is_adopted_still(const struct extent *e, enum kind kind)
{
	return kind == (shows_store(e) ? KIND_PRIVATE : KIND_ANONYMOUS);
}

static void look_at_adopted(struct store *s, const struct extent *e, enum kind kind, int prot)
{
	int stale = !s->inherited && (shows_store(e) || e->flags & EXTENT_STALE);

	if (!is_watched(e))
		return;
	if (is_adopted_still(e, kind)) {
		if (e->prot != prot)
			extents_set(&s->extents, e->start, e->end,
				    (enum extent_state)e->state, prot, e->flags);
		return;
	}
	extents_set(&s->extents, e->start, e->end, EXTENT_FREE, 0,
		    stale ? EXTENT_STALE : 0);
	s->stale |= stale;
}

/* The program moved a mapping of the store away by itself, or it grew there and shows
 * what is behind: bytes that must stay as they are. Their own place can be there
 * still. */
static int look_elsewhere(void *arg, const struct procfs_map *m)
{
	struct store *s = arg;
	uintptr_t from = s->base + m->offset, to = from + (m->end - m->start);

	if (!is_elsewhere(s, m))
		return 0;
	if (to > s->base + s->size)
		to = s->base + s->size;
	extents_each(e, &s->extents, from, to) {
		if (!store_have_room(s))
			return -ENOMEM;
		if (shows_store(&e))
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
				    e.flags | EXTENT_PINNED);
		else
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
				    EXTENT_FOREIGN);
	}
	return 0;
}

/* What was elsewhere before may be gone: FOREIGN becomes FREE, and is found anew; or
 * back again, all that may be FOREIGN. */
static int forget_elsewhere(struct store *s, int back)
{
	extents_each(e, &s->extents, s->base, s->base + s->size) {
		int may_be = e.state == EXTENT_FREE && e.flags & EXTENT_STALE;

		if (back ? !may_be : !(e.flags & EXTENT_FOREIGN))
			continue;
		if (!store_have_room(s))
			return -ENOMEM;
		if (back)
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, 0,
				    EXTENT_FOREIGN);
		else
			extents_set(&s->extents, e.start, e.end, EXTENT_FREE, 0,
				    s->inherited ? 0 : EXTENT_STALE);
		s->stale |= !s->inherited;
	}
	return 0;
}

static int find_elsewhere(struct store *s)
{
	int ret = forget_elsewhere(s, 0);

	if (!ret)
		ret = procfs_maps(look_elsewhere, s);
	return ret < 0 && ret != -ENOMEM ? forget_elsewhere(s, 1) : ret;
}

/* --- the walk ----------------------------------------------------------- */

/* [from, to) of the window is a mapping of this kind. */
static int look(struct walk *w, uintptr_t from, uintptr_t to, enum kind kind, int prot)
{
	struct store *s = w->s;

	extents_each(e, &s->extents, from, to) {
		if (!store_have_room(s))
			return -ENOMEM;
		if (s->adopted)
			look_at_adopted(s, &e, kind, prot);
		else
			look_at_born(w, &e, kind, prot);
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
	ret = look(w, w->next, start, KIND_OTHER, 0);
	if (!ret)
		ret = look(w, start, end, kind_of(s, m), m->prot);
	w->next = end;
	return ret;
}

int verify_store(struct store *s)
{
	struct walk w = { .s = s, .next = s->base };
	uintptr_t end = s->base + s->size;
	int ret = procfs_maps(look_at_map, &w);

	if (ret < 0 && ret != -ENOMEM && s->adopted)	/* what was seen may be elsewhere */
		(void)forget_elsewhere(s, 1);
	if (ret < 0 && ret != -ENOMEM && w.lost)
		keep_all_lost(s);
	if (ret < 0 && ret != -ENOMEM)	/* no /proc */
		return s->adopted ? -ENOMEM : 0;
	if (!ret && w.next < end)
		ret = look(&w, w.next, end, KIND_OTHER, 0);
	if (w.lost)
		give_up_lost(s);
	if (!ret && s->adopted)
		ret = find_elsewhere(s);
	return ret;
}

int verify_range(struct store *s, uintptr_t start, uintptr_t end)
{
	struct procfs_map m = { 0 };

	extents_each(e, &s->extents, start, end) {
		int ret;

		if (!is_watched(&e))
			continue;
		ret = procfs_map_at(e.start, &m);
		if (ret == -ENOENT || (ret == 0 && (m.prot != e.prot ||
						    !is_adopted_still(&e, kind_of(s, &m)))))
			return verify_store(s);
		if (ret < 0)	/* no /proc */
			return 0;
		if (m.end < e.end)
			e.end = m.end;
	}
	return 0;
}

int verify_piece(const struct store *s, struct extent *e)
{
	struct procfs_map m;
	int ret = procfs_map_at(e->start, &m);

	if (ret < 0)
		return ret != -ENOENT;	/* no /proc, or no map */
	if (m.end < e->end)
		e->end = m.end;
	if ((s->adopted || is_ours(e)) && m.prot != e->prot)	/* its owner's mprotect(2) */
		return 0;
	if (e->state == EXTENT_NATIVE)	/* anonymous memory laid over a window */
		return kind_of(s, &m) == KIND_ANONYMOUS;
	return expected(e, kind_of(s, &m));
}
