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

/* Anonymous memory that is put in place of locked memory is not locked; and what
 * is refused on locked memory is refused on what lies before it. */
int known_advice(const struct range *r, int advice)
{
	if (diff_strict || !has_flag(r, PAGE_LOCKED))
		return 0;
	switch (advice) {
	case MADV_WIPEONFORK: case MADV_DONTNEED_LOCKED:
		return 1;
	case MADV_DONTNEED: case MADV_FREE: case MADV_GUARD_INSTALL:
		return !has_flag_all(r, PAGE_LOCKED);
	default:
		return 0;
	}
}

/* All that the library maps then is locked, also in place of what was not. */
int known_lockall(int flags)
{
	return !diff_strict && flags & MCL_FUTURE;
}

int known_remap(const struct world *w, const struct range *from, int pages, int how)
{
	if (diff_strict)
		return 0;
	/* protections of the kernel's own memory in a window are not kept */
	if (has_flag(from, PAGE_PROTECTED))
		return 1;
	/* what the kernel put into an inherited window */
	if (w->proc && has_flag(from, PAGE_NATIVE))
		return 1;
	/* private mappings of one protection count as one */
	if (!(how & REMAP_ZERO) && !is_one_mapping(from) && is_many_mappings(from))
		return 1;
	/* a hole of an inherited window that was filled again */
	if (has_flag(from, PAGE_REFILLED))
		return 1;
	/* several mappings at their size */
	if (!(how & REMAP_ZERO) && pages == from->count && !is_one_mapping(from))
		return 1;
	/* a lock is lost where memory is copied */
	if (has_flag(from, PAGE_LOCKED))
		return 1;
	/* plain memory: the region does not know */
	if (has_flag(from, PAGE_REGION) && !(how & REMAP_ZERO))
		return 1;
	/* a refused move has destroyed its target */
	return how & REMAP_ZERO && how & REMAP_FIXED &&
	       from->s->page[from->first].back != BACK_SHARED;
}
