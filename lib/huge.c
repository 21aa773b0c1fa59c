/*
 * A table is collapsed only when all its pages are in memory (mincore), so
 * that memory never grows by it; holes stay holes. Contents stay too, children
 * included: their page tables are emptied and refault (mm/khugepaged.c,
 * collapse_file). MADV_COLLAPSE ignores shmem_enabled=never.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>

#include "compat.h"
#include "huge.h"
#include "process.h"
#include "sys.h"

enum { TABLE_SMALL, TABLE_HUGE };

static int populated(uintptr_t at)
{
	unsigned char present[TABLE_SIZE / 4096];
	size_t pages = TABLE_SIZE / sys_page_size();

	if (pages > sizeof(present) || sys_mincore(at, TABLE_SIZE, present) < 0)
		return 0;
	for (size_t i = 0; i < pages; i++)
		if (!(present[i] & 1))
			return 0;
	return 1;
}

static void collapse(struct store *s, size_t table, enum extent_state state)
{
	uintptr_t at = s->base + table * TABLE_SIZE;

	if (state == EXTENT_FROZEN)
		at = store_alias(s, at);
	if (store_huge_map(s) && populated(at) && sys_madvise(at, TABLE_SIZE, MADV_COLLAPSE) == 0) {
		s->huge[table] = TABLE_HUGE;
		s->huge_count++;
	}
}

/* Advance the cursor to the next table that lies in one owned or frozen extent
 * and is small; 0 when there is none. */
static int find(struct store *s, enum extent_state *ret_state)
{
	size_t tables = s->size / TABLE_SIZE;

	while (s->huge_cursor < tables) {
		uintptr_t at = s->base + s->huge_cursor * TABLE_SIZE;
		struct extent e = extents_piece(&s->extents, at, s->base + s->size);
		int ours = e.state == EXTENT_OWNED || e.state == EXTENT_FROZEN;

		if (ours && e.end - at >= TABLE_SIZE) {
			*ret_state = (enum extent_state)e.state;
			if (!s->huge || s->huge[s->huge_cursor] == TABLE_SMALL)
				return 1;
			s->huge_cursor++;
		} else {
			s->huge_cursor = (e.end - s->base + TABLE_SIZE - 1) / TABLE_SIZE;
		}
	}
	return 0;
}

uint64_t huge_collapse(uint64_t budget_ns)
{
	uint64_t start = sys_now_ns(), spent = 0;

	process_each_own(s) {
		enum extent_state state;

		while (spent < budget_ns && find(s, &state)) {
			collapse(s, s->huge_cursor++, state);
			spent = sys_now_ns() - start;
		}
	}
	process.life->stats.collapse_ns_total += spent;
	return spent;
}

int huge_pending(void)
{
	enum extent_state state;

	process_each_own(s)
		if (find(s, &state))
			return 1;
	return 0;
}

void huge_restart(struct store *s)
{
	s->huge_cursor = 0;
}
