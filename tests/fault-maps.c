/*
 * The kernel's limit of maps (vm.max_map_count) reached: all maps but a few are
 * used up, for every count of few, and then the process forks, frees, protects
 * and maps. What a freeze needs was reserved when the memory was made, so the
 * first fork must succeed even with no map left; whatever fails afterwards
 * fails with ENOMEM and changes nothing.
 *
 * And a refresh that is cut in two: the thaw works, the freeze after it does
 * not. Then no child may be made that lacks the memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"
#include "support.h"

#define SIZE (6 * MIB)
#define PAGES (SIZE / PAGE)
#define LEFT_MAX 24
#define MAPS_MAX 300000

/* Guards in the region make it many extents, so that a freeze needs many. */
#define GUARDS 12
#define GUARD_STEP 100

static char *area;

static void make_area(void)
{
	area = region(SIZE);
	fill(area, SIZE, 1);
	for (size_t i = 1; i <= GUARDS; i++)
		if (cow_mprotect(area + i * GUARD_STEP * PAGE, PAGE, PROT_READ) < 0)
			abort();
}

/* Every second page of a mapping gets another protection until the kernel has
 * no map left; then some are given back. */
static int use_up_maps(size_t left)
{
	static char *p;
	size_t used;

	p = (char *)syscall(SYS_mmap, NULL, MAPS_MAX * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	for (used = 1; used < MAPS_MAX; used += 2)
		if (syscall(SYS_mprotect, p + used * PAGE, PAGE, PROT_READ) < 0)
			break;
	NEED(used < MAPS_MAX);		/* else vm.max_map_count is too large */
	/* an odd one may be left: the end of a mapping splits it only once */
	for (size_t i = 0; i < left / 2; i++) {
		used -= 2;
		NEED(syscall(SYS_mprotect, p + used * PAGE, PAGE, PROT_NONE) == 0);
	}
	return 0;
}

static int is_right(unsigned seed)
{
	for (size_t i = 0; i < PAGES; i++)
		if (i % GUARD_STEP || !i || i > GUARDS * GUARD_STEP)
			NEED(is_page_filled(area, i, seed));
		else
			NEED(is_page_filled(area, i, 1));
	return 0;
}

static int write_all(unsigned seed)
{
	for (size_t i = 0; i < PAGES; i++)
		if (i % GUARD_STEP || !i || i > GUARDS * GUARD_STEP)
			fill_page(area, i, seed);
	return 0;
}

static int fork_once(unsigned seed, int must)
{
	pid_t pid = cow_fork();

	if (pid == 0) {
		int bad = is_right(seed);

		write_all(77);
		_exit(bad || is_right(77));
	}
	NEED(pid > 0 || (!must && errno == ENOMEM));
	NEED(pid < 0 || wait_for(pid) == 0);
	return is_right(seed);
}

static int at_the_limit(void *arg)
{
	size_t left = *(const size_t *)arg;
	char *again;
	void *p;
	int ret;

	make_area();
	NEED(use_up_maps(left) == 0);
	NEED(fork_once(1, 1) == 0);
	write_all(2);
	NEED(fork_once(2, 0) == 0);
	ret = cow_mprotect(area + 50 * PAGE, PAGE, PROT_READ);
	NEED(ret == 0 || errno == ENOMEM);
	NEED(is_right(2) == 0);
	NEED(ret < 0 || cow_mprotect(area + 50 * PAGE, PAGE, 3) == 0);
	ret = cow_madvise(area + 410 * PAGE, 40 * PAGE, MADV_DONTNEED);
	NEED(ret == 0 || errno == ENOMEM);
	if (ret == 0)
		NEED(is_zero(area + 410 * PAGE, 40 * PAGE));
	for (size_t i = 410; i < 450; i++)
		fill_page(area, i, 2);
	NEED(is_right(2) == 0);
	ret = cow_region_create(MIB, 0, &p);
	NEED(ret == 0 || ret == -ENOMEM);
	if (ret == 0)
		fill(p, MIB, 4);
	NEED(fork_once(2, 0) == 0);
	NEED(ret < 0 || is_filled(p, MIB, 4));
	again = cow_mremap(area + 1400 * PAGE, 20 * PAGE, 40 * PAGE, MREMAP_MAYMOVE, NULL);
	NEED(again != MAP_FAILED || errno == ENOMEM);
	if (again == MAP_FAILED)
		NEED(is_right(2) == 0);
	NEED(ret < 0 || (cow_region_destroy(p) | -ENOMEM) == -ENOMEM);
	return 0;
}

START_TEST(maps_left)
{
	size_t left = (size_t)_i;

	ck_assert_int_eq(in_child(at_the_limit, &left), 0);
}
END_TEST

/* Memory that was made at the limit is plain, or can be frozen. */
static int made_at_the_limit(void *arg)
{
	size_t left = *(const size_t *)arg, made = 0;
	void *p[8];

	fill(region(MIB), MIB, 9);
	NEED(use_up_maps(left) == 0);
	while (made < 8 && cow_region_create(2 * MIB, 0, &p[made]) == 0) {
		if (made % 2 && cow_mprotect((char *)p[made] + MIB, PAGE, PROT_READ) < 0)
			NEED(errno == ENOMEM);
		fill(p[made++], MIB, 5);
	}
	for (int round = 0; round < 2; round++) {
		pid_t pid = cow_fork();

		if (pid == 0) {
			for (size_t i = 0; i < made; i++)
				if (!is_filled(p[i], MIB, 5))
					_exit(1);
			_exit(0);
		}
		NEED(pid > 0);
		NEED(wait_for(pid) == 0);
	}
	return 0;
}

START_TEST(made_with_maps_left)
{
	size_t left = 9 * (size_t)_i;

	ck_assert_int_eq(in_child(made_at_the_limit, &left), 0);
}
END_TEST

/* --- a refresh cut in two ----------------------------------------------- */

#define BIG (8 * MIB)

static int refresh_then_no_freeze(void *arg)
{
	const int with_cow_fork = arg != NULL;
	scmp_filter_ctx filter;
	struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_NEVER };
	char *p = region(BIG);
	int status = 0;
	pid_t pid;

	NEED(cow_options_set(&o) == 0);
	fill(p, BIG, 1);
	NEED(cow_prepare() == 0);
	filter = seccomp_init(SCMP_ACT_ALLOW);
	NEED(filter && seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOMEM), SCMP_SYS(mremap), 1,
			SCMP_A0_64(SCMP_CMP_EQ, (uintptr_t)p, 0)) == 0);
	NEED(seccomp_load(filter) == 0);
	for (unsigned i = 0; i < 4; i++) {
		NEED(is_filled(p, BIG, i + 1));
		fill(p, BIG, i + 2);
		/* the meter says that forks have become dear */
		process.life->meter.excess = (uint64_t)1 << 40;
		process.life->meter.retry_at = 0;
		pid = with_cow_fork ? cow_fork() : fork();
		if (pid == 0)
			_exit(!is_filled(p, BIG, i + 2));
		if (pid < 0) {
			NEED(errno == ENOMEM);
			continue;
		}
		status = wait_for(pid);
		NEED(status == 0 || (!with_cow_fork && status == 127));
	}
	NEED(stats().thaws > 0);
	return 0;
}

START_TEST(refresh_without_freeze)
{
	ck_assert_int_eq(in_child(refresh_then_no_freeze, _i ? &_i : NULL), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fault-maps");
	TCase *tc = tcase_create("limits");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, maps_left, 0, LEFT_MAX);
	tcase_add_loop_test(tc, made_with_maps_left, 0, 14);
	tcase_add_loop_test(tc, refresh_without_freeze, 0, 2);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
