/*
 * What a run takes: which engines take part in a case, and how much memory
 * they need. Engines run side by side where the sum fits into what the machine
 * has available, one engine's memory at a time where it does not; what does not
 * fit even then is refused before anything runs.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdlib.h>

#include "compare.h"

unsigned plan_engines(const struct plan *plan, enum case_id id)
{
	return plan->engines ? plan->engines & cases[id].engines : cases[id].usual;
}

unsigned plan_all_engines(const struct plan *plan)
{
	unsigned bits = 0;

	for (int id = 0; id < CASE_COUNT; id++)
		if (plan->cases & CASE_BIT(id))
			bits |= plan_engines(plan, (enum case_id)id);
	return bits;
}

/* Held from job to job. A frozen store keeps what its parent wrote apart from
 * what children may still see. */
static uint64_t held(const struct cell *cell, enum engine_id id, uint64_t size)
{
	int store = id == ENGINE_STORE || id == ENGINE_STORE_HUGE;

	if (id == ENGINE_FLOOR || cases[cell->id].flags & CASE_NO_MEMORY)
		return 0;
	return store && cell->id == CASE_PARENT_WRITE ? 2 * size : size;
}

/* Used within a job, by one engine at a time. */
static uint64_t used(const struct cell *cell, uint64_t size)
{
	uint64_t page_tables = (cell->children + 1) * (size / 512);

	switch (cell->id) {
	case CASE_TAX: case CASE_CHILD_WRITE: case CASE_PARENT_WRITE:
		return size + page_tables;
	case CASE_OLD_CHILD:
		return size / 32 + page_tables;
	case CASE_HEAP: case CASE_HEAP_FORKS:	/* with as much kept warm */
		return 2 * size + size / 4 + page_tables;
	case CASE_HEAP_ADOPT:	/* and writers may copy all */
		return 3 * size + size / 4 + page_tables;
	case CASE_SERVER:	/* writers may copy all, and two numbers for each word */
		return 2 * size + page_tables + cell->load.threads * (size / 512);
	default:
		return page_tables;
	}
}

/* In place, a child that looks at everything has a copy of it in the end. */
uint64_t plan_need(const struct cell *cell, unsigned engine_bits, size_t size)
{
	uint64_t need = used(cell, size), copy = size + size / 512;

	if (engine_bits & ENGINES_IN_PLACE && need < copy)
		need = copy;
	for (int id = 0; id < ENGINE_COUNT; id++)
		if (engine_bits & ENGINE_BIT(id))
			need += held(cell, (enum engine_id)id, size) + (size >> 7);
	return need;
}

static void refuse(const struct cell *cell, unsigned engine_bits, size_t size,
		   uint64_t available)
{
	char a[32], b[32], c[32], d[32];

	for (int id = 0; id < ENGINE_COUNT; id++) {
		uint64_t need;

		if (!(engine_bits & ENGINE_BIT(id)))
			continue;
		need = plan_need(cell, ENGINE_BIT(id), size);
		if (id == ENGINE_FLOOR || need <= available)
			continue;
		die(STATUS_FAILED, "does not fit: case %s at %s needs %s for engine %s alone; "
		    "%s can be used (%s are kept free)", cases[cell->id].name,
		    size_string(size, a, sizeof(a)), size_string(need, b, sizeof(b)),
		    engines[id].name, size_string(available, c, sizeof(c)),
		    size_string(machine_reserve(), d, sizeof(d)));
	}
}

void plan_refuse(const struct plan *plan, const struct options *opt)
{
	struct cell cell[CELLS_MAX];
	size_t n = cells_make(plan->cases, opt, cell);
	uint64_t available = machine_available();

	for (size_t s = 0; s < plan->sizes; s++)
		for (size_t i = 0; i < n; i++)
			refuse(&cell[i], plan_engines(plan, cell[i].id), plan->size[s],
			       available);
}
