/*
 * cow_stats(): the counters, and what the extents say right now.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>

#include "in-place.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "region.h"
#include "thaw.h"

static void add_extent(const struct store *s, const struct extent *e,
		       struct cow_stats *st)
{
	uint64_t len = e->end - e->start;

	if (e->flags & EXTENT_STALE && !s->inherited)
		st->bytes_deferred += len;
	if (e->state == EXTENT_NATIVE && !(e->flags & EXTENT_FOREIGN))
		st->bytes_native += len;
	if (!memory_is_ours(s, e))
		return;
	if (s->inherited) {
		st->bytes_inherited += len;
		return;
	}
	if (e->state == EXTENT_OWNED)
		st->bytes_owned += len;
	else
		st->bytes_frozen += len;
	if (s->adopted)
		st->bytes_adopted += len;
	st->tables += (len + TABLE_SIZE - 1) / TABLE_SIZE;
}

static void add_store(const struct store *s, struct cow_stats *st)
{
	int64_t living = s->inherited ? 0 : lease_count(&s->lease);

	for (size_t i = 0; i < s->extents.count; i++)
		add_extent(s, &s->extents.at[i], st);
	st->extents += s->extents.count;
	if (s->inherited)
		return;
	st->bytes_reserved += (s->adopted ? 2 : 3) * (uint64_t)s->size;
	st->tables_huge += s->huge_count;
	/* every store's lease has the same descendants, but for those that were
	 * made before the store was */
	if (living < 0 || st->generation_live < 0)
		st->generation_live = -1;
	else if (living > st->generation_live)
		st->generation_live = living;
}

/* A program with one thread thaws inside a fork. */
static enum cow_reason frozen_reason(void)
{
	const struct mover *m = &process.life->mover;
	int refused = atomic_load(&m->refused);

	if (!thaw_pending())
		return COW_REASON_NONE;
	if (options.thaw == COW_THAW_NEVER)
		return COW_REASON_OFF;
	if (process.lock_future)
		return COW_REASON_LOCKED;
	return (enum cow_reason)(refused ? refused : m->kept_why);
}

static void add_pager(struct cow_stats *st)
{
	const struct pager_news *n = process.life->pager.news;

	st->bytes_armed = in_place_bytes();
	if (n)
		pager_count(st, n);
}

int cow_stats(struct cow_stats *stats)
{
	struct cow_stats st;
	size_t n = stats->size;

	if (n < sizeof(size_t))
		return -EINVAL;
	if (n > sizeof(st))
		n = sizeof(st);
	process_lock();
	mover_tell();
	st = process.life->stats;
	st.frozen_reason = frozen_reason();
	st.regions = region_total();
	add_pager(&st);
	for (unsigned i = 0; i < atomic_load(&process.store_count); i++)
		add_store(process.stores[i], &st);
	process_unlock();
	memcpy((char *)stats + sizeof(size_t), (char *)&st + sizeof(size_t),
	       n - sizeof(size_t));
	return 0;
}
