/*
 * The engines that are compared: where a worker's memory comes from and which
 * call forks it. Only this file calls libcowfork. It is linked, so its atfork
 * handlers run in the workers that measure real fork too, and would adopt their
 * memory: there it is switched off first of all.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compare.h"
#include "cowfork.h"

#define MIN_SIZE ((size_t)32 << 20)

/* --- memory calls ------------------------------------------------------- */

static void *native_mremap(void *addr, size_t old_len, size_t new_len, int flags)
{
	return mremap(addr, old_len, new_len, flags);
}

static void *store_mremap(void *addr, size_t old_len, size_t new_len, int flags)
{
	return cow_mremap(addr, old_len, new_len, flags, NULL);
}

static const struct calls native_calls = {
	mmap, munmap, mprotect, madvise, native_mremap,
};

static const struct calls store_calls = {
	cow_mmap, cow_munmap, cow_mprotect, cow_madvise, store_mremap,
};

/* --- an empty process --------------------------------------------------- */

static int floor_create(size_t size, void **ret_addr, const char **ret_why)
{
	(void)size;
	(void)ret_why;
	*ret_addr = NULL;
	return 0;
}

static int floor_destroy(void *addr, size_t size)
{
	(void)addr;
	(void)size;
	return 0;
}

static int nothing_to_prepare(void)
{
	return 0;
}

/* --- plain anonymous memory --------------------------------------------- */

/* Aligned to a table, as huge pages need it. */
static int map_aligned(size_t size, int advice, void **ret_addr)
{
	size_t room = size + TABLE_BYTES, head;
	unsigned char *p = mmap(NULL, room, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	head = -(uintptr_t)p & (TABLE_BYTES - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + size, TABLE_BYTES - head);
	if (madvise(p + head, size, advice) < 0 && errno != EINVAL)
		return -errno;
	*ret_addr = p + head;
	return 0;
}

static int small_create(size_t size, void **ret_addr, const char **ret_why)
{
	(void)ret_why;
	return map_aligned(size, MADV_NOHUGEPAGE, ret_addr);
}

static int thp_create(size_t size, void **ret_addr, const char **ret_why)
{
	(void)ret_why;
	return map_aligned(size, MADV_HUGEPAGE, ret_addr);
}

static int plain_destroy(void *addr, size_t size)
{
	return munmap(addr, size) < 0 ? -errno : 0;
}

static size_t thp_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	char line[128];
	size_t kib = 0;

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %zu", &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

/* --- the store ---------------------------------------------------------- */

static const char *native_reason(void)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	if (cow_stats(&stats) < 0)
		return "cow_stats failed";
	for (int i = 0; i < COW_REASON_COUNT; i++)
		if (stats.native[i])
			return cow_reason_string((enum cow_reason)i);
	return "the library does not say why";
}

/* min_size 0: leave that. */
static int set_options(enum cow_huge huge, enum cow_adopt adopt, size_t min_size)
{
	struct cow_options opts = { .size = sizeof(opts) };
	int ret = cow_options_get(&opts);

	if (ret < 0)
		return ret;
	opts.engine = COW_ENGINE_STORE;
	opts.huge = huge;
	opts.adopt = adopt;
	if (min_size)
		opts.min_size = min_size;
	return cow_options_set(&opts);
}

static int region_create(size_t size, enum cow_huge huge, void **ret_addr,
			 const char **ret_why)
{
	int ret = set_options(huge, COW_ADOPT_AUTO, 0);

	if (ret == 0)
		ret = cow_region_create(size, 0, ret_addr);
	if (ret == 0 && cow_region_state(*ret_addr) == COW_STATE_NATIVE) {
		*ret_why = native_reason();
		return -ENOTSUP;
	}
	return ret;
}

static int store_create(size_t size, void **ret_addr, const char **ret_why)
{
	return region_create(size, COW_HUGE_NEVER, ret_addr, ret_why);
}

static int store_huge_create(size_t size, void **ret_addr, const char **ret_why)
{
	return region_create(size, COW_HUGE_ALWAYS, ret_addr, ret_why);
}

static int region_destroy(void *addr, size_t size)
{
	(void)size;
	return cow_region_destroy(addr);
}

static size_t store_huge_bytes(void)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	return cow_stats(&stats) < 0 ? 0 : stats.tables_huge * TABLE_BYTES;
}

static unsigned store_thaws(double *ret_us, double *ret_hold_us)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	if (cow_stats(&stats) < 0)
		return 0;
	*ret_us = (double)stats.thaw_ns_total / 1e3;
	*ret_hold_us = (double)stats.thaw_hold_ns_max / 1e3;
	return (unsigned)stats.thaws;
}

/* --- in place ----------------------------------------------------------- */

static int in_place_begin(size_t size, const char **ret_why)
{
	struct cow_facilities f = { .size = sizeof(f) };
	struct cow_options opts = { .size = sizeof(opts) };
	int ret = cow_facilities(&f);

	if (ret == 0)
		ret = cow_options_get(&opts);
	if (ret == 0 && !f.in_place) {
		*ret_why = "no userfaultfd(2) that tells of forks (CAP_SYS_PTRACE)";
		ret = -ENOTSUP;
	}
	if (ret < 0)
		return ret;
	opts.engine = COW_ENGINE_IN_PLACE;
	opts.adopt = COW_ADOPT_FIRST;	/* where nothing is prepared */
	opts.min_size = size < MIN_SIZE ? size : MIN_SIZE;
	return cow_options_set(&opts);
}

static int in_place_create(size_t size, void **ret_addr, const char **ret_why)
{
	int ret = in_place_begin(size, ret_why);

	return ret < 0 ? ret : small_create(size, ret_addr, ret_why);
}

static int in_place_thp_create(size_t size, void **ret_addr, const char **ret_why)
{
	int ret = in_place_begin(size, ret_why);

	return ret < 0 ? ret : thp_create(size, ret_addr, ret_why);
}

/* Again where it was left, because that cost too much. */
static int in_place_prepare(void)
{
	struct cow_stats stats = { .size = sizeof(stats) };
	int ret = cow_stats(&stats);

	return ret < 0 || stats.bytes_armed ? ret : cow_adopt(NULL, 0);
}

static int in_place_destroy(void *addr, size_t size)
{
	return cow_munmap(addr, size) < 0 ? -errno : 0;
}

/* --- the begin of a worker ---------------------------------------------- */

int engine_begin(const struct engine *engine)
{
	struct cow_options opts = { .size = sizeof(opts) };
	int ret = cow_options_get(&opts);

	if (ret < 0 || engine->fork == cow_fork)
		return ret;
	opts.engine = COW_ENGINE_OFF;
	return cow_options_set(&opts);
}

/* --- adoption ----------------------------------------------------------- */

/* Of little memory none would be of the usual least size. */
static int adopt_start(size_t size, enum cow_adopt adopt)
{
	return set_options(COW_HUGE_AUTO, adopt, size / 4 < MIN_SIZE ? size / 4 : MIN_SIZE);
}

static int adopt_first(size_t size)
{
	return adopt_start(size, COW_ADOPT_FIRST);
}

static int adopt_auto(size_t size)
{
	return adopt_start(size, COW_ADOPT_AUTO);
}

static int adopt_now(void)
{
	return cow_adopt(NULL, 0);
}

static void adopt_look(struct adopted *ret)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	if (cow_stats(&stats) < 0)
		return;
	*ret = (struct adopted){
		.bytes = (double)stats.bytes_adopted,
		.us = (double)stats.adopt_ns_total / 1e3,
		.hold_us = (double)stats.adopt_hold_ns_max / 1e3,
		.reason = (unsigned)stats.adopt_reason,
	};
}

const char *adopt_reason(unsigned reason)
{
	return cow_reason_string((enum cow_reason)reason);
}

static const struct adopting adopting_first = { adopt_first, adopt_now, adopt_look };
static const struct adopting adopting_auto = { adopt_auto, adopt_now, adopt_look };

/* --- the table ---------------------------------------------------------- */

const struct engine engines[ENGINE_COUNT] = {
	[ENGINE_FLOOR] = {
		"floor", "an empty process and fork(2): nothing is faster",
		4096, floor_create, nothing_to_prepare, fork, floor_destroy, NULL, NULL,
		NULL, NULL,
	},
	[ENGINE_FORK_4K] = {
		"fork-4k", "anonymous memory on 4 KiB pages and fork(2)",
		4096, small_create, nothing_to_prepare, fork, plain_destroy, NULL,
		&native_calls, NULL, NULL,
	},
	[ENGINE_FORK_THP] = {
		"fork-thp", "anonymous memory on transparent huge pages and fork(2)",
		TABLE_BYTES, thp_create, nothing_to_prepare, fork, plain_destroy,
		thp_bytes, NULL, NULL, NULL,
	},
	[ENGINE_STORE] = {
		"store", "a cowfork region on 4 KiB pages and cow_fork(3)",
		4096, store_create, cow_prepare, cow_fork, region_destroy, NULL,
		&store_calls, store_thaws, NULL,
	},
	[ENGINE_STORE_HUGE] = {
		"store-huge", "a cowfork region collapsed into huge pages, cow_fork(3)",
		TABLE_BYTES, store_huge_create, cow_prepare, cow_fork, region_destroy,
		store_huge_bytes, NULL, store_thaws, NULL,
	},
	[ENGINE_IN_PLACE] = {
		"in-place", "anonymous 4 KiB pages where they are, filled on demand, cow_fork(3)",
		4096, in_place_create, in_place_prepare, cow_fork, in_place_destroy,
		NULL, NULL, NULL, NULL,
	},
	[ENGINE_IN_PLACE_THP] = {
		"in-place-thp", "the same on transparent huge pages",
		TABLE_BYTES, in_place_thp_create, in_place_prepare, cow_fork,
		in_place_destroy, thp_bytes, NULL, NULL, NULL,
	},
	[ENGINE_ADOPT] = {
		"adopt", "memory that exists, adopted by the first cow_fork(3)",
		4096, small_create, nothing_to_prepare, cow_fork, plain_destroy, NULL,
		NULL, NULL, &adopting_first,
	},
	[ENGINE_ADOPT_AUTO] = {
		"adopt-auto", "memory that exists, adopted when forks have paid for it",
		4096, small_create, nothing_to_prepare, cow_fork, plain_destroy, NULL,
		NULL, NULL, &adopting_auto,
	},
};
