/*
 * The cases: what is measured, for which engines, and the rows that come of
 * it. They run in this order. What frees many pages at random comes late: the
 * kernel hands such pages out again in that order, and to fork memory that is
 * strewn about costs several times as much.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>

#include "compare.h"

#define CASES_HEAP (CASE_NO_MEMORY | CASE_FRESH | CASE_ALONE | CASE_PARTS)

const struct case_kind cases[CASE_COUNT] = {
	[CASE_TAX] = {
		"tax", "no fork at all: first touch, then streaming over the memory",
		ENGINES_MEMORY, ENGINES_FLAT & ENGINES_MEMORY, CASE_NO_MEMORY, 3, measure_tax,
	},
	[CASE_CALLS] = {
		"calls", "memory calls, single and in bursts, off regions and on them",
		ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_STORE),
		ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_STORE),
		CASE_NO_MEMORY, CALLS_PARTS, measure_calls,
	},
	[CASE_HEAP] = {
		"heap", "forks of memory that programs have already, adopted by the first one",
		ENGINE_BIT(ENGINE_FLOOR) | ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_ADOPT),
		ENGINE_BIT(ENGINE_FLOOR) | ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_ADOPT),
		CASES_HEAP, HEAP_KINDS, measure_heap,
	},
	[CASE_HEAP_ADOPT] = {
		"heap-adopt", "how fast it is adopted, alone and beside threads that write",
		ENGINE_BIT(ENGINE_ADOPT), ENGINE_BIT(ENGINE_ADOPT), CASES_HEAP, HEAP_BUSY + 1,
		measure_heap_adopt,
	},
	[CASE_HEAP_FORKS] = {
		"heap-forks", "what so many forks cost from the first one on, adoption included",
		ENGINE_BIT(ENGINE_FORK_4K) | ENGINES_ADOPT,
		ENGINE_BIT(ENGINE_FORK_4K) | ENGINES_ADOPT, CASES_HEAP | CASE_EXTRA,
		HEAP_FORKS, measure_heap_forks,
	},
	[CASE_FIRST] = {
		"first", "the first fork of new memory, told apart from forks 2 to 50",
		ENGINES_ALL, ENGINES_FLAT, CASE_FRESH | CASE_RAW, 2, measure_first,
	},
	[CASE_FORK] = {
		"fork", "the fork call alone: the child sleeps until it has returned",
		ENGINES_ALL, ENGINES_USUAL, CASE_BURST, 1, measure_fork,
	},
	[CASE_CYCLE] = {
		"cycle", "fork, exit, wait",
		ENGINES_ALL, ENGINES_USUAL, CASE_BURST, 1, measure_cycle,
	},
	[CASE_VMPTE] = {
		"vmpte", "page tables of a child that has touched nothing",
		ENGINES_ALL, ENGINES_FLAT, CASE_BURST, 1, measure_vmpte,
	},
	[CASE_CHILDREN] = {
		"children-16", "16 children alive at once; the cycle is that of all",
		ENGINES_ALL, ENGINES_USUAL, CASE_BURST, 1, measure_children,
	},
	[CASE_OLD_CHILD] = {
		"old-child", "the parent reads all and writes 0.1 % between forks 1 to 12 "
		"while an old child lives",
		ENGINES_MEMORY, ENGINES_FLAT & ENGINES_MEMORY, CASE_FRESH | CASE_DIRTY,
		OLD_CHILD_FORKS, measure_old_child,
	},
	[CASE_CHILD_READ] = {
		"child-read", "fork, the child reads a share of the pages, exit, wait",
		ENGINES_MEMORY, ENGINES_USUAL & ENGINES_MEMORY, CASE_MATRIX | CASE_BURST, 1,
		measure_child_read,
	},
	[CASE_CHILD_WRITE] = {
		"child-write", "fork, the child writes a share of the pages, exit, wait",
		ENGINES_MEMORY, ENGINES_USUAL & ENGINES_MEMORY, CASE_MATRIX | CASE_BURST, 1,
		measure_child_write,
	},
	[CASE_PARENT_WRITE] = {
		"parent-write", "fork, the parent writes while the child lives, exit, wait",
		ENGINES_MEMORY, ENGINES_USUAL & ENGINES_MEMORY, CASE_MATRIX | CASE_BURST | CASE_DIRTY,
		1, measure_parent_write,
	},
	[CASE_REVIEW] = {
		"review", "seconds of fork latency for each GiB, all children staying alive",
		ENGINES_ALL, ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_STORE),
		CASE_RAW | CASE_EXTRA, 1, measure_review,
	},
	[CASE_SERVER] = {
		"server", "writers' latency and memory while children read snapshots",
		ENGINES_MEMORY, ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_STORE),
		CASE_NO_MEMORY | CASE_FRESH | CASE_METERED | CASE_EXTRA, SERVER_WHOLE + 1,
		measure_server,
	},
};

const unsigned shares_permille[5] = { 0, 1, 10, 100, 1000 };

#define SHARES (sizeof(shares_permille) / sizeof(shares_permille[0]))

/* Shares rise within an order, and the pages of a share are among those of the
 * next: what a parent has written for one row does not weigh on the next. */
static size_t matrix_cells(enum case_id id, struct cell *ret_cells)
{
	size_t n = 0;

	for (int order = ORDER_LINEAR; order <= ORDER_RANDOM; order++)
		for (size_t i = order == ORDER_LINEAR ? 0 : 1; i < SHARES; i++)
			ret_cells[n++] = (struct cell){
				.id = id, .order = (enum order)order,
				.permille = shares_permille[i], .children = 1,
			};
	return n;
}

static size_t part_cells(enum case_id id, const struct options *opt, struct cell *ret_cells)
{
	for (unsigned part = 0; part < cases[id].parts; part++)
		ret_cells[part] = (struct cell){
			.id = id, .children = 1, .part = part,
			.load.rate = part == HEAP_BUSY ? 0 : opt->load.rate,
		};
	return cases[id].parts;
}

static struct cell cell_make(enum case_id id, const struct options *opt)
{
	struct cell cell = { .id = id, .order = ORDER_LINEAR, .children = 1 };

	switch (id) {
	case CASE_CHILDREN: cell.children = 16; break;
	case CASE_REVIEW: cell.children = opt->forks ? opt->forks : REVIEW_FORKS; break;
	case CASE_SERVER: cell.load = opt->load; break;
	default: break;
	}
	return cell;
}

size_t cells_make(unsigned case_bits, const struct options *opt, struct cell *ret_cells)
{
	size_t n = 0;

	for (int id = 0; id < CASE_COUNT; id++) {
		if (!(case_bits & CASE_BIT(id)))
			continue;
		if (cases[id].flags & CASE_MATRIX)
			n += matrix_cells((enum case_id)id, ret_cells + n);
		else if (cases[id].flags & CASE_PARTS)
			n += part_cells((enum case_id)id, opt, ret_cells + n);
		else
			ret_cells[n++] = cell_make((enum case_id)id, opt);
	}
	return n;
}

unsigned cell_rank(const struct cell *cell)
{
	return ((unsigned)cell->id << 16) | ((unsigned)cell->order << 12) | cell->permille |
		cell->part;
}

const char *cell_detail(const struct cell *cell, unsigned part, char *buf, size_t size)
{
	static const char *const passes[] = { "first touch", "stream read", "stream write" };
	const char *order = cell->order == ORDER_RANDOM ? "random" : "in order";

	if (cases[cell->id].flags & CASE_MATRIX && cell->permille)
		snprintf(buf, size, "%g%% %s", cell->permille / 10.0, order);
	else if (cases[cell->id].flags & CASE_MATRIX)
		snprintf(buf, size, "0%%");
	else if (cell->id == CASE_TAX)
		snprintf(buf, size, "%s", passes[part]);
	else if (cell->id == CASE_CALLS)
		calls_part(part, buf, size);
	else if (cases[cell->id].flags & CASE_PARTS)
		heap_part(cell->id, part, buf, size);
	else if (cell->id == CASE_FIRST)
		snprintf(buf, size, part ? "forks 2-%d" : "fork 1", FIRST_FORKS);
	else if (cell->id == CASE_SERVER && (!part || part == SERVER_WHOLE))
		snprintf(buf, size, part ? "whole run" : "before");
	else if (cell->id == CASE_SERVER)
		snprintf(buf, size, "fork %u", part);
	else if (cell->id == CASE_OLD_CHILD)
		snprintf(buf, size, "fork %u", part + 1);
	else
		snprintf(buf, size, "-");
	return buf;
}
