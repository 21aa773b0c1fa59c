/*
 * The memory of a worker and what must stand in it. Each page carries three
 * words derived from its number: the first and the last never change, the
 * second also from a version that grows when the parent writes the page.
 *
 * Page lists and versions lie in a shared mapping on the side: fork copies no
 * page tables for it, so that the floor's fork stays that of an empty process.
 * A write stores its word before it looks at another one, so that a page is
 * faulted in once, by the write.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compare.h"

enum slot { SLOT_FIRST, SLOT_VERSION, SLOT_LAST };

uint64_t memory_pattern(uint64_t seed, uint64_t page, unsigned slot, unsigned version)
{
	uint64_t x = (page << 18 | (uint64_t)slot << 16 | version) + seed;

	x *= 0x9e3779b97f4a7c15u;
	x ^= x >> 32;
	return x * 0xd6e8feb86659fd93u;
}

static uint64_t *slot_at(const struct memory *m, size_t page, enum slot slot)
{
	uint64_t *word = (uint64_t *)(void *)(m->base + page * m->page_size);

	return slot == SLOT_LAST ? word + m->page_size / sizeof(*word) - 1 : word + slot;
}

static int look(const struct memory *m, size_t page, enum slot slot, unsigned version)
{
	const uint64_t *word = slot_at(m, page, slot);
	uint64_t expected = memory_pattern(m->seed, page, slot, version), found = *word;

	if (__builtin_expect(found == expected, 1))
		return 0;
	m->wrong->page = page;
	m->wrong->word = slot == SLOT_LAST ? m->page_size / sizeof(*word) - 1 : slot;
	m->wrong->expected = expected;
	m->wrong->found = found;
	return -1;
}

uint64_t memory_page_sum(const struct memory *m, size_t page)
{
	uint64_t sum = 0;

	for (unsigned slot = SLOT_FIRST; slot <= SLOT_LAST; slot++)
		sum += memory_pattern(m->seed, page, slot, 0);
	return sum;
}

/* --- the side mapping --------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void shuffle(uint32_t *page, size_t n, uint64_t seed)
{
	for (size_t i = n; i > 1; i--) {
		size_t j = next_random(&seed) % i;
		uint32_t swap = page[i - 1];

		page[i - 1] = page[j];
		page[j] = swap;
	}
}

static int map_side(struct memory *m)
{
	size_t head = 4096, per_page = 2 * sizeof(uint32_t) + 2 * sizeof(uint16_t);
	unsigned char *p;

	m->side_size = head + m->pages * per_page;
	p = mmap(NULL, m->side_size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->wrong = (struct wrong *)(void *)p;
	m->order[ORDER_RANDOM] = (uint32_t *)(void *)(p + head);
	m->order[ORDER_LINEAR] = m->order[ORDER_RANDOM] + m->pages;
	m->now = (uint16_t *)(void *)(m->order[ORDER_LINEAR] + m->pages);
	m->then = m->now + m->pages;
	return 0;
}

int memory_fill(struct memory *m, void *base, size_t size, uint64_t seed)
{
	int ret;

	*m = (struct memory){ .base = base, .seed = seed, .size = size };
	m->page_size = (size_t)sysconf(_SC_PAGESIZE);
	m->pages = base ? size / m->page_size : 0;
	ret = map_side(m);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < m->pages; i++)
		m->order[ORDER_RANDOM][i] = m->order[ORDER_LINEAR][i] = (uint32_t)i;
	shuffle(m->order[ORDER_RANDOM], m->pages, seed);
	for (size_t i = 0; i < m->pages; i++)
		for (int slot = SLOT_FIRST; slot <= SLOT_LAST; slot++)
			*slot_at(m, i, (enum slot)slot) =
				memory_pattern(seed, i, (unsigned)slot, 0);
	return 0;
}

void memory_forget(struct memory *m)
{
	if (m->wrong)
		munmap(m->wrong, m->side_size);
	*m = (struct memory){ 0 };
}

/* --- lists of pages ----------------------------------------------------- */

struct list memory_list(const struct memory *m, enum order order, unsigned permille)
{
	size_t count = m->pages * permille / 1000;

	if (permille && m->pages && !count)
		count = 1;
	return (struct list){ m->order[order], count };
}

/* The nth list of this length; past the end they start again. */
struct list memory_slice(const struct memory *m, struct list list, size_t nth)
{
	size_t fit = list.count ? m->pages / list.count : 1;

	return (struct list){ list.page + nth % fit * list.count, list.count };
}

/* --- touching ----------------------------------------------------------- */

int memory_read(const struct memory *m, struct list list)
{
	for (size_t i = 0; i < list.count; i++)
		if (look(m, list.page[i], SLOT_FIRST, 0) < 0)
			return -1;
	return 0;
}

int memory_write(const struct memory *m, struct list list, uint16_t version)
{
	for (size_t i = 0; i < list.count; i++) {
		size_t page = list.page[i];

		*(volatile uint64_t *)slot_at(m, page, SLOT_VERSION) =
			memory_pattern(m->seed, page, SLOT_VERSION, version);
		if (look(m, page, SLOT_FIRST, 0) < 0)
			return -1;
	}
	return 0;
}

int memory_read_versions(const struct memory *m, struct list list)
{
	for (size_t i = 0; i < list.count; i++)
		if (look(m, list.page[i], SLOT_FIRST, 0) < 0 ||
		    look(m, list.page[i], SLOT_VERSION, m->now[list.page[i]]) < 0)
			return -1;
	return 0;
}

int memory_check(const struct memory *m, const uint16_t *versions)
{
	for (size_t i = 0; i < m->pages; i++)
		if (look(m, i, SLOT_FIRST, 0) < 0 ||
		    look(m, i, SLOT_VERSION, versions[i]) < 0 ||
		    look(m, i, SLOT_LAST, 0) < 0)
			return -1;
	return 0;
}

/* For a child that has written: its own writes stand, all else is as it was.
 * Nothing is put back, so that the parent can see what leaked. */
int memory_check_own(const struct memory *m, struct list own, uint16_t version)
{
	size_t size = m->pages * sizeof(*m->now);
	uint16_t *mine = mmap(NULL, size + 1, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mine == MAP_FAILED)
		_exit(CHILD_NO_MEMORY);
	memcpy(mine, m->now, size);
	for (size_t i = 0; i < own.count; i++)
		mine[own.page[i]] = version;
	return memory_check(m, mine);
}

/* --- versions ----------------------------------------------------------- */

/* Those from 0x8000 on belong to children. */
uint16_t memory_next(struct memory *m)
{
	m->version = m->version < 0x7fff ? m->version + 1 : 1;
	return m->version;
}

void memory_commit(struct memory *m, struct list list)
{
	for (size_t i = 0; i < list.count; i++)
		m->now[list.page[i]] = m->version;
}

void memory_snapshot(struct memory *m)
{
	memcpy(m->then, m->now, m->pages * sizeof(*m->now));
}
