/*
 * Differences that are known and not mended yet: operations that meet them are
 * left out, so that the rest is looked at. To be empty. --strict leaves in all.
 *
 * SPDX-License-Identifier: MIT
 */
#include "diff-state.h"

int diff_strict;

/* Where a part is locked, all is locked after a move. */
int known_remap(const struct range *from, int how)
{
	int locked = 0;

	for (int i = 0; i < from->count; i++)
		locked += (from->s->page[from->first + i].flags & PAGE_LOCKED) != 0;
	return !diff_strict && !(how & REMAP_ZERO) && locked && locked < from->count;
}
