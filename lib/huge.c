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

#define RUN_MAX 32u	/* 64 MiB in one call */
#define LOOK 128u	/* tables to look at before the clock; 0.3 us each */

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

/* One call for a run of tables: each call waits for every processor once
 * (lru_add_drain_all), 1 to 5 ms. Where a run fails (a page is in use just now,
 * no free huge page), its tables one by one if asked to be thorough. */
static void collapse(struct store *s, size_t table, size_t count,
		     enum extent_state state, int thorough)
{
	uintptr_t at = s->base + table * TABLE_SIZE;

	if (state == EXTENT_FROZEN)
		at = store_alias(s, at);
	if (sys_madvise(at, count * TABLE_SIZE, MADV_COLLAPSE) == 0) {
		memset(s->huge + table, TABLE_HUGE, count);
		s->huge_count += count;
	} else if (thorough && count > 1) {
		for (size_t i = 0; i < count; i++)
			collapse(s, table + i, 1, state, 0);
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

		/* inaccessible memory is a reservation, nothing is there */
		if (ours && e.prot && e.end - at >= TABLE_SIZE) {
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

/* Tables that a budget is likely to allow in one call. */
static size_t run_length(uint64_t budget_ns)
{
	uint64_t n = budget_ns / HUGE_TABLE_NS;

	return n < HUGE_RUN ? HUGE_RUN : n > RUN_MAX ? RUN_MAX : (size_t)n;
}

/* Tables from the cursor on that can be collapsed together; the cursor moves
 * past them, and past one that is not populated. */
static size_t take_run(struct store *s, enum extent_state state, size_t most)
{
	size_t first = s->huge_cursor, n = 0;
	uintptr_t at = s->base + first * TABLE_SIZE;
	struct extent e = extents_piece(&s->extents, at, s->base + s->size);

	while (n < most && e.end - at >= TABLE_SIZE && s->huge[first + n] == TABLE_SMALL &&
	       populated(state == EXTENT_FROZEN ? store_alias(s, at) : at)) {
		at += TABLE_SIZE;
		n++;
	}
	s->huge_cursor = first + (n ? n : 1);
	return n;
}

uint64_t huge_collapse(uint64_t budget_ns)
{
	uint64_t start = sys_now_ns(), spent = 0;

	process_each_own(s) {
		enum extent_state state;
		unsigned empty = 0;

		while (spent < budget_ns && find(s, &state) && store_huge_map(s)) {
			size_t first = s->huge_cursor;
			size_t n = take_run(s, state, run_length(budget_ns - spent));

			if (n)
				collapse(s, first, n, state, budget_ns == UINT64_MAX);
			else if (++empty % LOOK)
				continue;
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
