/*
 * What the pager knows of the program's memory: what of it is armed, what was written since
 * the last fork, where holes may be, and what left while a window was open. Pure data.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>

#include "pager-run.h"

struct pager_lists pager_lists __attribute__((aligned(PAGER_LISTS_ALIGN)));

/* --- the lists ---------------------------------------------------------- */

void areas_set(struct pager_lists *lists, const struct pager_areas *areas)
{
	unsigned next = atomic_load(&lists->turn) + 1;

	/* who reads what is written here must see that it is not its turn any more */
	atomic_thread_fence(memory_order_seq_cst);
	lists->list[next & 1] = *areas;
	atomic_store(&lists->turn, next);
}

/* What was read since `turn` holds if that has not changed: the list of then is written
 * only after it has. */
static int has_turned(unsigned turn)
{
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load(&pager_lists.turn) != turn;
}

static int meets(const struct pager_areas *a, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < a->count && i < PAGER_AREAS; i++)
		if (start < a->at[i].end && end > a->at[i].start)
			return 1;
	return 0;
}

int areas_meet(uintptr_t start, uintptr_t end)
{
	unsigned turn;
	int found;

	do {
		turn = atomic_load(&pager_lists.turn);
		found = meets(&pager_lists.list[turn & 1], start, end);
	} while (has_turned(turn));
	return found;
}

static uint64_t bytes_of(const struct pager_areas *a)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < a->count && i < PAGER_AREAS; i++)
		bytes += a->at[i].end - a->at[i].start;
	return bytes;
}

uint64_t areas_bytes(void)
{
	unsigned turn;
	uint64_t bytes;

	do {
		turn = atomic_load(&pager_lists.turn);
		bytes = bytes_of(&pager_lists.list[turn & 1]);
	} while (has_turned(turn));
	return bytes;
}

/* --- what is armed ------------------------------------------------------ */

static int insert(struct pager_areas *a, uintptr_t start, uintptr_t end)
{
	unsigned i = a->count;

	if (a->count == PAGER_AREAS)
		return -ENOSPC;
	while (i && a->at[i - 1].start > start)
		i--;
	memmove(&a->at[i + 1], &a->at[i], (a->count - i) * sizeof(a->at[0]));
	a->at[i] = (struct pager_area){ start, end };
	a->count++;
	return 0;
}

/* Also to those who have it when the pager is lost, with what is not plain memory yet. */
static void publish(struct pager *p, const struct pager_areas *a)
{
	struct pager_areas all = *a;

	for (const struct moving *m = p->moving; m; m = m->before)
		(void)insert(&all, m->start, m->end);
	areas_set(&pager_lists, a);
	areas_set(&p->shared->areas, &all);
}

void areas_move(struct pager *p, const struct moving *moving)
{
	const struct pager_areas a = *areas_now(&pager_lists);

	p->moving = moving;
	publish(p, &a);
}

/* What lies in the midst of an area lies in no other. */
static int cut_out(struct pager_areas *a, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < a->count; i++) {
		struct pager_area was = a->at[i];

		if (start >= was.end || end <= was.start)
			continue;
		if (start > was.start && end < was.end) {
			if (a->count == PAGER_AREAS)
				return -ENOSPC;
			a->at[i].end = start;
			return insert(a, end, was.end);
		}
		if (start > was.start)
			a->at[i].end = start;
		else if (end < was.end)
			a->at[i].start = end;
		else
			memmove(&a->at[i], &a->at[i + 1],
				(--a->count - i) * sizeof(a->at[0])), i--;
	}
	return 0;
}

int area_add(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct pager_areas a = *areas_now(&pager_lists);
	int ret = insert(&a, start, end);

	if (ret == 0)
		publish(p, &a);
	return ret;
}

int area_remove(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct pager_areas a = *areas_now(&pager_lists);
	int ret = cut_out(&a, start, end);

	if (ret == 0)
		publish(p, &a);
	return ret;
}

int area_cut(uintptr_t page, struct pager_area *range)
{
	each_area(a) {
		if (page < a->start || page >= a->end)
			continue;
		range->start = range->start > a->start ? range->start : a->start;
		range->end = range->end < a->end ? range->end : a->end;
		return 1;
	}
	return 0;
}

uintptr_t area_part(uintptr_t start, uintptr_t end)
{
	struct pager_area r = { start, end };

	return area_cut(start, &r) ? r.end : 0;
}

/* --- what was written --------------------------------------------------- */

void area_dirty(struct pager *p, uintptr_t start, uintptr_t end)
{
	for (unsigned i = p->dirty_count; i-- && i + 8 >= p->dirty_count;) {
		struct pager_area *d = &p->dirty[i];

		if (start <= d->end && end >= d->start) {
			d->start = start < d->start ? start : d->start;
			d->end = end > d->end ? end : d->end;
			return;
		}
	}
	if (p->dirty_count == DIRTY) {	/* all, then */
		p->dirty_count = 0;
		each_area(a)
			p->dirty[p->dirty_count++] = *a;
		return;
	}
	p->dirty[p->dirty_count++] = (struct pager_area){ start, end };
}

/* --- holes, and what left ------------------------------------------------ */

static int note(struct pager_area *list, unsigned *count, unsigned most, uintptr_t start,
		uintptr_t end)
{
	for (struct pager_area *a = list; a < list + *count; a++)
		if (start <= a->end && end >= a->start) {
			a->start = start < a->start ? start : a->start;
			a->end = end > a->end ? end : a->end;
			return 0;
		}
	if (*count == most)
		return -ENOSPC;
	list[(*count)++] = (struct pager_area){ start, end };
	return 0;
}

/* The same, where it may be more: of too many it is all there is. */
static void note_amply(struct pager_area *list, unsigned *count, unsigned most, uintptr_t start,
		       uintptr_t end)
{
	if (note(list, count, most, start, end) == 0)
		return;
	list[0] = (struct pager_area){ 0, UINTPTR_MAX };
	*count = 1;
}

void area_vacate(struct pager *p, uintptr_t start, uintptr_t end)
{
	note_amply(p->vacated, &p->vacated_count, HOLES, start, end);
}

/* Of too many nobody gets zeros. */
void area_is_hollow(struct pager *p, uintptr_t start, uintptr_t end)
{
	(void)note(p->hollow, &p->hollow_count, HOLES, start, end);
}

void area_unfilled(struct pager *p, uintptr_t start, uintptr_t end)
{
	p->unfilled_full |= note(p->unfilled, &p->unfilled_count, HOLES, start, end) < 0;
}

void area_filled(struct pager *p)
{
	memcpy(p->vacated, p->unfilled, p->unfilled_count * sizeof(p->unfilled[0]));
	p->vacated_count = p->unfilled_count;
	if (p->unfilled_full)
		area_vacate(p, 0, UINTPTR_MAX);
}

void area_forks(struct pager *p)
{
	memcpy(p->hollow, p->unfilled, p->unfilled_count * sizeof(p->unfilled[0]));
	p->hollow_count = p->unfilled_count;
}

static int is_in_list(const struct pager_area *list, unsigned count, uintptr_t start,
		      uintptr_t end)
{
	for (const struct pager_area *a = list; a < list + count; a++)
		if (start < a->end && end > a->start)
			return 1;
	return 0;
}

size_t area_hollow(const struct pager *p, uintptr_t start, size_t len)
{
	for (const struct pager_area *a = p->hollow; a < p->hollow + p->hollow_count; a++)
		if (start >= a->start && start < a->end)
			return len < a->end - start ? len : a->end - start;
	return 0;
}

uintptr_t area_next_hollow(const struct pager *p, uintptr_t start, uintptr_t end)
{
	for (const struct pager_area *a = p->hollow; a < p->hollow + p->hollow_count; a++)
		if (a->end > start && a->start < end)
			end = a->start > start ? a->start : start;
	return end;
}

int area_is_solid(const struct pager *p, uintptr_t start, uintptr_t end)
{
	return !is_in_list(p->vacated, p->vacated_count, start, end) &&
	       !is_in_list(p->hollow, p->hollow_count, start, end);
}

void area_holes_moved(struct pager *p, uintptr_t from, uintptr_t to, size_t len)
{
	if (!area_is_solid(p, from, from + len))
		area_vacate(p, to, to + len);
	for (unsigned i = 0, n = p->hollow_count; i < n; i++) {
		const struct pager_area *a = &p->hollow[i];
		uintptr_t start = a->start > from ? a->start : from;
		uintptr_t end = a->end < from + len ? a->end : from + len;

		if (start < end)
			area_is_hollow(p, start - from + to, end - from + to);
	}
}

void area_left(struct pager *p, uintptr_t start, uintptr_t end)
{
	note_amply(p->left, &p->left_count, LEFT, start, end);
}
