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

/* A child takes what MADV_DONTFORK kept from it for its parent's still. */
int known_advice(const struct world *w, const struct range *r, int advice)
{
	(void)w;
	(void)r;
	return !diff_strict && advice == MADV_DONTFORK;
}

/* A refresh reads guards that moved; and locks are lost on the way. */
int known_remap(const struct world *w, const struct range *from, int pages, int how)
{
	(void)w;
	(void)pages;
	return !diff_strict && !(how & REMAP_ZERO) &&
	       has_flag(from, PAGE_GUARD | PAGE_LOCKED);
}

/* A refresh loses locks. */
int known_credit(const struct world *w)
{
	int locked = w->lock_future;

	for (int i = 0; i < SLOTS; i++)
		for (int page = 0; page < w->slot[i].pages; page++)
			locked |= w->slot[i].page[page].flags & PAGE_LOCKED;
	return !diff_strict && locked;
}
