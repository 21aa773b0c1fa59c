/*
 * Differences that are known and not mended yet: operations that meet them are
 * left out, so that the rest is looked at. To be empty. --strict leaves in all.
 *
 * SPDX-License-Identifier: MIT
 */
#include <sys/mman.h>

#include "compat.h"
#include "diff-state.h"

int diff_strict;

int known_advice(const struct world *w, const struct range *r, int advice)
{
	(void)w;
	/* refused half-way */
	return !diff_strict && advice == MADV_GUARD_INSTALL && has_flag(r, PAGE_LOCKED);
}

int known_remap(const struct world *w, const struct range *from, int pages, int how)
{
	(void)pages;
	if (diff_strict)
		return 0;
	if (how & REMAP_ZERO)
		return 0;
	/* a copy reads a guard; advice on a part is given to all; and a child
	 * unmaps what its parent kept in reserve */
	return has_flag(from, PAGE_GUARD | PAGE_DONTFORK | PAGE_WIPED) ||
	       w->proc;
}
