/*
 * Regions for direct callers: a table of what cow_region_create() handed out and
 * what is left of it, sorted by address. munmap can cut a region; its pieces keep
 * the address it was created with, which is what destroys them all.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "in-place.h"
#include "memory.h"
#include "own.h"
#include "process.h"
#include "region.h"
#include "sys.h"

#define REGION_MAX 65536	/* more than vm.max_map_count allows */

struct region {
	uintptr_t base, end;
	uintptr_t name;		/* what cow_region_create() returned; 0: nobody can
				 * destroy it, since its name was given again */
};

static struct region *regions;	/* address space for all, mapped when needed */
static size_t region_count;
static _Atomic(uintptr_t) lowest = UINTPTR_MAX, highest; /* of plain ones, ever */

static int make_table(void)
{
	long p;

	if (regions)
		return 0;
	p = own_map(REGION_MAX * sizeof(*regions));
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

static void insert(uintptr_t base, uintptr_t end, uintptr_t name)
{
	size_t i = position(base);

	if (!process_store_at(base, 1)) {
		if (base < atomic_load(&lowest))
			atomic_store(&lowest, base);
		if (end > atomic_load(&highest))
			atomic_store(&highest, end);
	}
	memmove(&regions[i + 1], &regions[i], (region_count - i) * sizeof(*regions));
	regions[i] = (struct region){ base, end, name };
	region_count++;
}

static void erase(size_t i)
{
	region_count--;
	memmove(&regions[i], &regions[i + 1], (region_count - i) * sizeof(*regions));
}

/* Cut [start, end) out of piece i. Returns 1 when nothing is left of it. */
static int cut(size_t i, uintptr_t start, uintptr_t end)
{
	struct region r = regions[i];

	if (start <= r.base && end >= r.end) {
		erase(i);
		return 1;
	}
	if (start <= r.base) {
		regions[i].base = end;
	} else {
		regions[i].end = start;
		if (end < r.end && region_count < REGION_MAX)
			insert(end, r.end, r.name);
	}
	return 0;
}

void region_cut(uintptr_t start, uintptr_t end)
{
	size_t i = position(start);

	i -= i > 0 && regions[i - 1].end > start;
	while (i < region_count && regions[i].base < end)
		i += !cut(i, start, end);
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
		align = memory_align(size);
	if (make_table() < 0 || region_count == REGION_MAX)
		return -ENOMEM;
	why = memory_place(size, align, PROT_READ | PROT_WRITE, ret_base);
	if (why) {
		process_native((enum cow_reason)why);
		p = map_plain(size, align);
		if (sys_failed(p))
			return -ENOMEM;
		*ret_base = (uintptr_t)p;
	}
	for (size_t i = 0; i < region_count; i++)
		if (regions[i].name == *ret_base)
			regions[i].name = 0;
	insert(*ret_base, *ret_base + size, *ret_base);
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

/* Parts of a plain region may have been adopted. */
static int unmap(uintptr_t start, uintptr_t end)
{
	uintptr_t at = start, from;
	struct store *s;
	int ret = 0;

	while (ret == 0 && (s = process_next_window(&at, end, &from))) {
		if (from > start)
			ret = sys_munmap(start, from - start);
		if (ret == 0)
			ret = memory_unmap(s, from, at);
		start = at;
	}
	return ret < 0 || start == end ? ret : sys_munmap(start, end - start);
}

static int destroy(uintptr_t name)
{
	int ret = -EINVAL;

	for (size_t i = 0; name && i < region_count;) {
		if (regions[i].name != name) {
			i++;
			continue;
		}
		if (in_place_at(regions[i].base, regions[i].end - regions[i].base))
			(void)in_place_release(regions[i].base, regions[i].end);
		if (unmap(regions[i].base, regions[i].end) < 0)
			return -ENOMEM;
		erase(i);
		ret = 0;
	}
	return ret;
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
	} else if (in_place_at(at, 1)) {
		state = COW_STATE_ARMED;
	}
	process_unlock();
	return state;
}

size_t region_total(void)
{
	return region_count;
}

int region_near(uintptr_t start, uintptr_t end)
{
	return start < atomic_load(&highest) && end > atomic_load(&lowest);
}
