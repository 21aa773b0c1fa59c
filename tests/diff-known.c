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

/* Anonymous memory that is put in place of locked memory is not locked. */
int known_advice(const struct range *r, int advice)
{
	return !diff_strict && has_flag(r, PAGE_LOCKED) &&
	       (advice == MADV_WIPEONFORK || advice == MADV_DONTNEED_LOCKED);
}

/* All that the library maps then is locked, also in place of what was not. */
int known_lockall(int flags)
{
	return !diff_strict && flags & MCL_FUTURE;
}

int known_remap(const struct range *from, int pages, int how)
{
	if (diff_strict)
		return 0;
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
