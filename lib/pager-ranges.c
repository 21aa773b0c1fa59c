/*
 * What a child lacks: ranges of its memory, each with where that lay at the fork. Pure data.
 * What can be had no more is no gap among them: it stays a range, and says why.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>

#include "pager-run.h"

static const struct kid_range nothing;

/* r without what lies outside of [from, to). */
static struct kid_range part_of(const struct kid_range *r, uintptr_t from, uintptr_t to)
{
	uintptr_t start = r->start > from ? r->start : from;
	uintptr_t end = r->end < to ? r->end : to;

	return start < end ? (struct kid_range){ start, end, r->source + (start - r->start) }
			   : nothing;
}

static int first(const struct kid *k, uintptr_t from, uintptr_t to, int lost,
		 struct kid_range *ret_part)
{
	*ret_part = nothing;
	for (unsigned i = 0; i < k->count; i++) {
		struct kid_range part = part_of(&k->open[i], from, to);

		if (part.end && (lost || !range_lost(&part)) &&
		    (!ret_part->end || part.start < ret_part->start))
			*ret_part = part;
	}
	return ret_part->end != 0;
}

int range_open(const struct kid *k, uintptr_t from, uintptr_t to, struct kid_range *ret_part)
{
	return first(k, from, to, 1, ret_part);
}

int range_kept(const struct kid *k, uintptr_t from, uintptr_t to, struct kid_range *ret_part)
{
	return first(k, from, to, 0, ret_part);
}

int range_by_source(const struct kid *k, uintptr_t from, uintptr_t to,
		    struct kid_range *ret_part)
{
	*ret_part = nothing;
	for (unsigned i = 0; i < k->count; i++) {
		const struct kid_range *r = &k->open[i];
		struct kid_range there = { r->source, r->source + (r->end - r->start), r->start };
		struct kid_range part = part_of(&there, from, to);

		if (part.end && !range_lost(r) &&
		    (!ret_part->end || part.start < ret_part->source))
			*ret_part = (struct kid_range){ part.source,
				part.source + (part.end - part.start), part.start };
	}
	return ret_part->end != 0;
}

void range_lose_all(struct kid *k)
{
	k->count = 1;
	k->open[0] = (struct kid_range){ 0, UINTPTR_MAX, LOST_UNMAPPED };
}

static void use(struct kid *k, struct kid_range *table, unsigned room)
{
	memmove(table, k->open, k->count * sizeof(*table));
	k->open = table;
	k->room = room;
}

static int grow(struct kid *k)
{
	for (struct large_table *t = k->large; t < k->large + LARGE_TABLES; t++)
		if (k->open == k->own && !t->of) {
			t->of = k;
			use(k, t->at, LARGE_RANGES);
			return 1;
		}
	return 0;
}

void range_end(struct kid *k)
{
	for (struct large_table *t = k->large; t < k->large + LARGE_TABLES; t++)
		if (t->of == k)
			t->of = NULL;
}

void range_shrink(struct kid *k)
{
	if (k->open == k->own || k->count > KID_RANGES / 2)
		return;
	use(k, k->own, KID_RANGES);
	range_end(k);
}

/* Too many: what it lacks is not known any more, so it may be all. */
static void add(struct kid *k, const struct kid_range *r)
{
	if (!r->end)
		return;
	if (k->count < k->room || grow(k))
		k->open[k->count++] = *r;
	else
		range_lose_all(k);
}

void range_add(struct kid *k, uintptr_t start, uintptr_t end, uintptr_t source)
{
	add(k, &(struct kid_range){ start, end, source });
}

void range_begin(struct kid *k, struct large_table *large, const struct kid *of)
{
	k->large = large;
	k->open = k->own;
	k->room = KID_RANGES;
	k->count = 0;
	for (unsigned i = 0; of && i < of->count; i++) {
		if (k->count == k->room && !grow(k)) {
			range_lose_all(k);
			return;
		}
		add(k, &of->open[i]);
	}
}

void range_close(struct kid *k, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < k->count; i++) {
		struct kid_range was = k->open[i];
		struct kid_range left = part_of(&was, 0, start);
		struct kid_range right = part_of(&was, end, UINTPTR_MAX);

		if (start >= was.end || end <= was.start)
			continue;
		k->open[i] = left.end ? left : right;
		if (left.end)
			add(k, &right);
		else if (!right.end)
			k->open[i--] = k->open[--k->count];
	}
}

/* Page by page mostly, in order, which makes one range. */
void range_lose(struct kid *k, uintptr_t start, uintptr_t end, unsigned why)
{
	struct kid_range all = { start, end, why };

	range_close(k, start, end);
	for (unsigned i = 0; i < k->count; i++)
		if (k->open[i].end == start && range_lost(&k->open[i]) == why) {
			k->open[i].end = end;
			return;
		}
	add(k, &all);
}

void range_move(struct kid *k, uintptr_t from, uintptr_t to, size_t len)
{
	unsigned n;

	range_close(k, to, to + len);
	n = k->count;
	for (unsigned i = 0; i < n && i < k->count; i++) {
		struct kid_range was = k->open[i];
		struct kid_range left = part_of(&was, 0, from);
		struct kid_range moved = part_of(&was, from, from + len);
		struct kid_range right = part_of(&was, from + len, UINTPTR_MAX);

		if (!moved.end)
			continue;
		moved.start += to - from;
		moved.end += to - from;
		k->open[i] = moved;
		add(k, &left);
		add(k, &right);
	}
}
