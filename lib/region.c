/*
 * Regions for direct callers: a table of what cow_region_create() handed out,
 * sorted by address, so that a base can be told from any other address.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "memory.h"
#include "process.h"
#include "region.h"
#include "sys.h"

#define REGION_MAX 65536	/* more than vm.max_map_count allows */

struct region {
	uintptr_t base;
	size_t size;
};

static struct region *regions;	/* address space for all, mapped when needed */
static size_t region_count;

static int make_table(void)
{
	long p;

	if (regions)
		return 0;
	p = sys_mmap(0, REGION_MAX * sizeof(*regions), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sys_failed(p))
		return (int)p;
	regions = (struct region *)p;
	return 0;
}

/* Index of the first region at or above base. */
static size_t position(uintptr_t base)
{
	size_t lo = 0, hi = region_count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (regions[mid].base < base)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void insert(uintptr_t base, size_t size)
{
	size_t i = position(base);

	memmove(&regions[i + 1], &regions[i], (region_count - i) * sizeof(*regions));
	regions[i] = (struct region){ base, size };
	region_count++;
}

static void erase(size_t i)
{
	region_count--;
	memmove(&regions[i], &regions[i + 1], (region_count - i) * sizeof(*regions));
}

/* Plain anonymous memory at a multiple of align. */
static long map_plain(size_t size, size_t align)
{
	size_t page = sys_page_size(), whole = size + align - page;
	uintptr_t start, at;
	long p;

	if (whole < size)
		return -ENOMEM;
	p = sys_mmap(0, whole, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sys_failed(p))
		return p;
	start = (uintptr_t)p;
	at = (start + align - 1) & ~(align - 1);
	if (at > start)
		sys_munmap(start, at - start);
	if (start + whole > at + size)
		sys_munmap(at + size, start + whole - at - size);
	return (long)at;
}

static int create(size_t size, size_t align, uintptr_t *ret_base)
{
	int why;
	long p;

	if (!align)
		align = size >= TABLE_SIZE ? TABLE_SIZE : sys_page_size();
	if (make_table() < 0 || region_count == REGION_MAX)
		return -ENOMEM;
	why = memory_place(size, align, ret_base);
	if (why) {
		process_native((enum cow_reason)why);
		p = map_plain(size, align);
		if (sys_failed(p))
			return -ENOMEM;
		*ret_base = (uintptr_t)p;
	}
	insert(*ret_base, size);
	return 0;
}

int cow_region_create(size_t size, size_t align, void **ret_addr)
{
	size_t page = sys_page_size();
	uintptr_t base;
	int ret;

	if (!size || (align && (align & (align - 1) || align < page)))
		return -EINVAL;
	if (size > SIZE_MAX / 2 || align > SIZE_MAX / 4)
		return -ENOMEM;
	size = (size + page - 1) & ~(page - 1);
	process_lock();
	ret = create(size, align, &base);
	process_unlock();
	if (ret == 0)
		*ret_addr = (void *)base;
	return ret;
}

static int destroy(uintptr_t base)
{
	size_t i = position(base);
	struct store *s;
	int ret;

	if (i == region_count || regions[i].base != base)
		return -EINVAL;
	s = process_store_at(base, regions[i].size);
	if (s)
		ret = memory_unmap(s, base, base + regions[i].size);
	else
		ret = sys_munmap(base, regions[i].size);
	if (ret == 0)
		erase(i);
	return ret < 0 ? -ENOMEM : 0;
}

int cow_region_destroy(void *addr)
{
	int ret;

	process_lock();
	ret = destroy((uintptr_t)addr);
	process_unlock();
	return ret;
}

int cow_region_state(const void *addr)
{
	enum cow_state state = COW_STATE_NATIVE;
	uintptr_t at = (uintptr_t)addr;
	struct store *s;

	process_lock();
	s = process_store_at(at, 1);
	if (s) {
		struct extent e = extents_piece(&s->extents, at, at + 1);

		if (memory_is_ours(s, &e))
			state = e.state == EXTENT_OWNED ? COW_STATE_OWNED
							: COW_STATE_FROZEN;
	}
	process_unlock();
	return state;
}

size_t region_total(void)
{
	return region_count;
}
