/*
 * The policy. A native fork copies page tables every time, and its child's end costs as
 * much again; adoption copies memory once. What forks cost above those of a small process
 * adds up, and when the sum has reached what the copy will cost, memory is adopted. So
 * nobody pays more than twice the best choice in hindsight (ski rental), and who forks once
 * pays nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <link.h>
#include <string.h>

#include "adopt-when.h"
#include "candidate.h"
#include "options.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

#define SMALL_NS 150000u	/* a fork of a small process */
#define LEAST_NS 5000000u	/* ... above which a look is worth it */
#define PASS_NS 3000000u	/* reading smaps, a store */
#define COPY_NS_PER_KIB 320u	/* 0.33 s a GiB; cowfork-compare heap-adopt */
#define ARM_NS_PER_KIB 10u	/* write-protecting, in place */

/* Of runtimes that own all of malloc's memory and unmap it by system calls of their
 * own (compiler-rt's sanitizer/allocator_interface.h). */
void __sanitizer_get_ownership(void) __attribute__((weak));

void adopt_when_forked(uint64_t ns)
{
	if (ns > SMALL_NS)
		process.life->adopt.cost += 2 * (ns - SMALL_NS);
}

static uint64_t anonymous_bytes(void)
{
	long pages = procfs_anonymous_pages();

	return pages > 0 ? (uint64_t)pages * sys_page_size() : 0;
}

static uint64_t price(uint64_t mapped, uint64_t in_memory)
{
	uint64_t bytes = mapped < in_memory ? mapped : in_memory;

	return PASS_NS + (bytes >> 10) * (options_use_store() ? COPY_NS_PER_KIB : ARM_NS_PER_KIB);
}

/* A program that gcc has linked such a runtime into does not export it, but asks for
 * the hook that it would call. */
static int asks_for_hook(void)
{
	static const char name[] = "\0__sanitizer_malloc_hook";
	const struct link_map *program = _r_debug.r_map;
	const char *strings = NULL;
	size_t len = 0;

	if (!program || !program->l_ld)
		return 0;
	for (const ElfW(Dyn) *d = program->l_ld; d->d_tag != DT_NULL; d++)
		if (d->d_tag == DT_STRTAB)	/* relocated by most loaders */
			strings = (const char *)d->d_un.d_ptr +
				(d->d_un.d_ptr < program->l_addr ? program->l_addr : 0);
		else if (d->d_tag == DT_STRSZ)
			len = d->d_un.d_val;
	return strings && memmem(strings, len, name, sizeof(name));
}

static int is_sanitized(void)
{
	return &__sanitizer_get_ownership || asks_for_hook();
}

static int due_by_cost(struct adopt_meter *m)
{
	uint64_t next = m->next ? m->next : LEAST_NS, cost;
	int64_t mapped;

	if (m->cost < next)
		return 0;
	mapped = candidates_mapped(options.min_size);
	m->next = m->cost * 2;
	if (mapped <= 0)
		return 0;
	if (options.adopt == COW_ADOPT_AUTO && options_use_store() && is_sanitized()) {
		process.life->stats.adopt_reason = COW_REASON_OWNER;
		process_native(COW_REASON_OWNER);
		m->next = UINT64_MAX;
		return 0;
	}
	cost = price((uint64_t)mapped, anonymous_bytes()) + m->debt;
	if (m->cost < cost)
		m->next = cost;
	return m->cost >= cost;
}

/* The first fork that finds enough memory. */
static int due_first(struct adopt_meter *m)
{
	uint64_t now;

	if (m->first_at == UINT64_MAX)
		return 0;
	now = anonymous_bytes();
	if (now < options.min_size || now < m->first_at)
		return 0;
	m->first_at = 2 * now;
	return candidates_mapped(options.min_size) > 0;
}

int adopt_when_due(void)
{
	struct adopt_meter *m = &process.life->adopt;

	if (options.engine == COW_ENGINE_OFF || options.adopt == COW_ADOPT_NEVER)
		return 0;
	if (options.adopt == COW_ADOPT_FIRST && due_first(m))
		return 1;
	return due_by_cost(m);
}

void adopt_when_given_back(uint64_t bytes)
{
	process.life->adopt.debt += (bytes >> 10) * COPY_NS_PER_KIB;
}

void adopt_when_done(int why, uint64_t bytes)
{
	struct adopt_meter *m = &process.life->adopt;

	if (why || !bytes)	/* a look that brings little is to be rare */
		m->next = m->cost > LEAST_NS ? 2 * m->cost : 2 * LEAST_NS;
	if (!bytes)
		return;
	if (!why)
		m->cost = m->next = 0;
	m->debt = 0;
	m->first_at = UINT64_MAX;	/* then it is as auto */
}
