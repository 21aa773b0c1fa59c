/*
 * The first pages come out of .bss, which is there anyway, for each mapping more costs a
 * fork and its child some us. What does not fit has mappings of its own, and is told from
 * the program's memory by not being in core files.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <sys/mman.h>

#include "own.h"
#include "store.h"
#include "sys.h"

#define ROOM ((size_t)128 << 10)	/* a store takes some 20 KiB */

static char room[ROOM] __attribute__((aligned(4096)));
static size_t used;

static long take(size_t len)
{
	uintptr_t start = sys_whole_pages((uintptr_t)room + used);

	if (len > ROOM || start + len > (uintptr_t)room + ROOM)
		return 0;
	used = start + len - (uintptr_t)room;
	return (long)start;
}

long own_map(size_t bytes)
{
	size_t len = sys_whole_pages(bytes);
	long p = take(len);

	if (!p) {
		p = sys_mmap(0, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (sys_failed(p))
			return p;
		sys_madvise((uintptr_t)p, len, MADV_DONTDUMP);
	}
	store_keep_out((uintptr_t)p, len);
	return p;
}

/* Of the room, only what was taken last comes back. */
void own_unmap(uintptr_t start, size_t bytes)
{
	size_t len = sys_whole_pages(bytes);

	if (start < (uintptr_t)room || start >= (uintptr_t)room + ROOM) {
		sys_munmap(start, len);
	} else if (start + len == (uintptr_t)room + used) {
		memset((void *)start, 0, len);
		used -= len;
	}
}

void own_keep_out(void)
{
	store_keep_out((uintptr_t)room, ROOM);
}
