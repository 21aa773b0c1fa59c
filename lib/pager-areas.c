/*
 * What the pager knows of the program's memory: what of it is armed, what was written since
 * the last fork, and what was emptied once. Pure data.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>

#include "pager-run.h"

struct pager_areas pager_areas;

/* --- the list ----------------------------------------------------------- */

/* Also to those who have it when the pager is lost. */
static void publish(struct pager *p)
{
	p->shared->areas = pager_areas;
}

int area_add(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct pager_areas *a = &pager_areas;
	unsigned i = a->count;

	if (a->count == PAGER_AREAS)
		return -ENOSPC;
	while (i && a->at[i - 1].start > start)
		i--;
	memmove(&a->at[i + 1], &a->at[i], (a->count - i) * sizeof(a->at[0]));
	a->at[i] = (struct pager_area){ start, end };
	a->count++;
	publish(p);
	return 0;
}

int area_remove(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct pager_areas *a = &pager_areas;

	for (unsigned i = 0; i < a->count; i++) {
		struct pager_area was = a->at[i];

		if (start >= was.end || end <= was.start)
			continue;
		if (start > was.start && end < was.end) {
			if (a->count == PAGER_AREAS)
				return -ENOSPC;
			a->at[i].end = start;
			return area_add(p, end, was.end);
		}
		if (start > was.start)
			a->at[i].end = start;
		else if (end < was.end)
			a->at[i].start = end;
		else
			memmove(&a->at[i], &a->at[i + 1],
				(--a->count - i) * sizeof(a->at[0])), i--;
	}
	publish(p);
	return 0;
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

/* --- holes -------------------------------------------------------------- */

void area_vacate(struct pager *p, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < p->vacated_count; i++) {
		struct pager_area *v = &p->vacated[i];

		if (start <= v->end && end >= v->start) {
			v->start = start < v->start ? start : v->start;
			v->end = end > v->end ? end : v->end;
			return;
		}
	}
	if (p->vacated_count == VACATED) {
		p->vacated_count = 0;
		start = 0;
		end = UINTPTR_MAX;
	}
	p->vacated[p->vacated_count++] = (struct pager_area){ start, end };
}

uintptr_t area_solid(const struct pager *p, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < p->vacated_count; i++) {
		const struct pager_area *v = &p->vacated[i];

		if (start >= v->start && start < v->end)
			return 0;
		if (v->start > start && v->start < end)
			end = v->start;
	}
	return end;
}
