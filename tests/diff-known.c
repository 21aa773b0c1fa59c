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
	(void)r;
	(void)advice;
	return 0;
}

int known_remap(const struct world *w, const struct range *from, int pages, int how)
{
	(void)w;
	(void)from;
	(void)pages;
	(void)how;
	return 0;
}
