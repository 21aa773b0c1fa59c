/*
 * A list of ranges in no order. With no room for one more, all memory is kept: programs that
 * make so many process-shared or robust objects in private memory are not known.
 *
 * SPDX-License-Identifier: MIT
 */
#include "kept.h"

#define KEPT 128u

static struct kept {
	uintptr_t start, end;
} list[KEPT];
static unsigned count;

void kept_add(uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < count; i++) {
		struct kept *k = &list[i];

		if (start > k->end || end < k->start)
			continue;
		k->start = start < k->start ? start : k->start;
		k->end = end > k->end ? end : k->end;
		return;
	}
	if (count < KEPT)
		list[count++] = (struct kept){ start, end };
	else
		list[0] = (struct kept){ 0, UINTPTR_MAX };
}

int kept_part(uintptr_t start, uintptr_t end, uintptr_t *ret_start, uintptr_t *ret_end)
{
	*ret_start = end;
	for (unsigned i = 0; i < count; i++) {
		const struct kept *k = &list[i];
		uintptr_t from = k->start > start ? k->start : start;

		if (from >= k->end || from >= *ret_start)
			continue;
		*ret_start = from;
		*ret_end = k->end < end ? k->end : end;
	}
	return *ret_start < end;
}
