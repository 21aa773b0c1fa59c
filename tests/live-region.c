/*
 * Regions: sizes from a byte to terabytes of address space, alignments to
 * gigabytes, zeros when fresh and after reuse, states along their life, and
 * every error that cowfork.h documents for them, provoked. Also what only the
 * store can get wrong: freed parts that are handed out again, windows of an
 * ancestor that overlap a child's own, limits set after a region was made,
 * memory that was re-mapped behind the library's back.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compat.h"
#include "support.h"

static void small_is_managed(void)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
}

static void set_limit(int resource, rlim_t limit)
{
	struct rlimit r;

	/* no ck_assert here: it writes to a file */
	if (getrlimit((__rlimit_resource_t)resource, &r) < 0)
		abort();
	r.rlim_cur = limit;
	if (setrlimit((__rlimit_resource_t)resource, &r) < 0)
		abort();
}

/* --- create ------------------------------------------------------------- */

static const struct { size_t size, align; } shapes[] = {
	{ 1, 0 }, { 4095, 0 }, { 4096, 0 }, { 4097, 0 }, { 1, 4096 }, { 5 * MIB, 0 },
	{ 2 * MIB, 4096 }, { 2 * MIB - 1, 0 }, { 3 * MIB, 8192 }, { 1, 2 * MIB },
	{ 1, GIB }, { 7 * MIB, 64 * MIB }, { 3 * GIB, GIB }, { 1, 4 * GIB },
	{ 5 * GIB, 4 * GIB }, { 64 * GIB, 0 }, { 1024 * GIB, 0 }, { 4096 * GIB, 0 },
	{ 4096 * GIB, 4 * GIB },
};

START_TEST(shapes_in_the_store)
{
	size_t size = shapes[_i].size, align = shapes[_i].align;
	size_t want = align ? align : size >= 2 * MIB ? 2 * MIB : PAGE;
	size_t last = (size - 1) & ~(PAGE - 1);
	void *p = (void *)1;

	small_is_managed();
	ck_assert_int_eq(cow_region_create(size, align, &p), 0);
	ck_assert_uint_eq((uintptr_t)p % want, 0);
	ck_assert(has_state(p, COW_STATE_OWNED));
	ck_assert(has_state((char *)p + last + PAGE - 1, COW_STATE_OWNED));
	ck_assert(has_state((char *)p + last + PAGE, COW_STATE_NATIVE));
	ck_assert(is_zero(p, PAGE) && is_zero((char *)p + last, PAGE));
	fill_page(p, 0, 1);
	fill_page(p, last / PAGE, 1);
	ck_assert_int_eq(cow_prepare(), 0);
	ck_assert(has_state(p, COW_STATE_FROZEN));
	ck_assert(is_page_filled(p, 0, 1) && is_page_filled(p, last / PAGE, 1));
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert(has_state(p, COW_STATE_NATIVE));
	ck_assert_int_eq(stats().regions, 0);
}
END_TEST

START_TEST(shapes_as_plain_memory)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_OFF, COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_NEVER };
	size_t align = shapes[_i].align;
	void *p;

	ck_assert_int_eq(cow_options_set(&o), 0);
	ck_assert_int_eq(cow_region_create(shapes[_i].size, align, &p), 0);
	ck_assert_uint_eq((uintptr_t)p % (align ? align : PAGE), 0);
	ck_assert(has_state(p, COW_STATE_NATIVE));
	fill_page(p, 0, 1);
	ck_assert_uint_eq(stats().native[COW_REASON_OFF], 1);
	ck_assert_int_eq(store_mappings(1), 0);
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert_int_eq(cow_region_destroy(p), -EINVAL);
}
END_TEST

static const struct { size_t size, align; int ret; } wrong[] = {
	{ 0, 0, -EINVAL }, { 0, 4096, -EINVAL }, { 4096, 1, -EINVAL },
	{ 4096, 2048, -EINVAL }, { 4096, 4097, -EINVAL }, { 4096, 12288, -EINVAL },
	{ 4096, SIZE_MAX, -EINVAL }, { SIZE_MAX, 0, -ENOMEM },
	{ SIZE_MAX / 2 + 1, 0, -ENOMEM }, { SIZE_MAX / 2, 0, -ENOMEM },
	{ (size_t)1 << 47, 0, -ENOMEM }, { 4096, (size_t)1 << 63, -ENOMEM },
	{ 4096, (size_t)1 << 61, -ENOMEM }, { 4096, (size_t)1 << 47, -ENOMEM },
	{ (size_t)1 << 46, (size_t)1 << 46, -ENOMEM },
};

START_TEST(create_refuses)
{
	void *p = (void *)&p;

	errno = 4711;
	ck_assert_int_eq(cow_region_create(wrong[_i].size, wrong[_i].align, &p),
			 wrong[_i].ret);
	ck_assert_ptr_eq(p, (void *)&p);
	ck_assert_int_eq(errno, 4711);
	ck_assert_int_eq(stats().regions, 0);
	fill(region(5 * MIB), 5 * MIB, 1);	/* and all is well after it */
}
END_TEST

/* --- destroy ------------------------------------------------------------ */

START_TEST(destroy_refuses)
{
	char *p = region(4 * MIB), *q = region(PAGE);
	int mine;

	ck_assert_int_eq(cow_region_destroy(NULL), -EINVAL);
	ck_assert_int_eq(cow_region_destroy(&mine), -EINVAL);
	ck_assert_int_eq(cow_region_destroy(p + 1), -EINVAL);
	ck_assert_int_eq(cow_region_destroy(p + PAGE), -EINVAL);
	ck_assert_int_eq(cow_region_destroy(p - PAGE), -EINVAL);
	ck_assert_uint_eq(stats().regions, 2);
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert_int_eq(cow_region_destroy(p), -EINVAL);
	ck_assert_int_eq(cow_region_destroy(q), 0);
	ck_assert_int_eq(cow_region_destroy(q), -EINVAL);
	ck_assert_uint_eq(stats().regions, 0);
	ck_assert_uint_eq(stats().bytes_owned, 0);
}
END_TEST

/* What a program unmapped itself is no longer the region's to destroy. */
START_TEST(destroy_leaves_what_was_unmapped)
{
	char *a = region(4 * MIB), *b;

	fill(a, 4 * MIB, 1);
	ck_assert_int_eq(cow_munmap(a + 2 * MIB, 2 * MIB), 0);
	b = region(2 * MIB);
	fill(b, 2 * MIB, 2);
	ck_assert_int_eq(cow_region_destroy(a), 0);
	ck_assert_msg(has_state(b, COW_STATE_OWNED),
		      "destroying one region took another away");
	ck_assert(is_filled(b, 2 * MIB, 2));
}
END_TEST

START_TEST(unmapped_whole_is_destroyed)
{
	char *a = region(4 * MIB), *b;

	ck_assert_int_eq(cow_munmap(a, 4 * MIB), 0);
	b = region(4 * MIB);
	ck_assert_ptr_eq(a, b);
	ck_assert_int_eq(cow_region_destroy(b), 0);
	ck_assert_int_eq(cow_region_destroy(b), -EINVAL);
	ck_assert_uint_eq(stats().regions, 0);
}
END_TEST

static int filled_by_one(void *p)
{
	return !is_filled(p, 6 * MIB, 1);
}

static void until_not_deferred(void)
{
	for (int i = 0; i < 1000 && stats().bytes_deferred; i++) {
		usleep(10000);	/* it is looked at again when memory is asked for */
		ck_assert_int_eq(cow_region_destroy(region(PAGE)), 0);
	}
	ck_assert_uint_eq(stats().bytes_deferred, 0);
}

START_TEST(destroy_while_children_live)
{
	char *p = region(6 * MIB), *q;
	struct reader one, two;
	long before;

	fill(p, 6 * MIB, 1);
	one = reader_start(filled_by_one, p);
	two = reader_start(filled_by_one, p);
	fill(p, 3 * MIB, 2);
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert_uint_eq(stats().bytes_deferred, 6 * MIB);
	q = region(6 * MIB);
	ck_assert(is_zero(q, 6 * MIB));
	fill(q, 6 * MIB, 3);
	ck_assert_int_eq(reader_ask(&one), 0);
	ck_assert_int_eq(reader_end(&one), 0);
	usleep(100000);
	ck_assert_int_eq(cow_region_destroy(region(PAGE)), 0);
	ck_assert_uint_eq(stats().bytes_deferred, 6 * MIB);
	ck_assert_int_eq(reader_ask(&two), 0);
	ck_assert_int_eq(reader_end(&two), 0);
	until_not_deferred();
	ck_assert(is_filled(q, 6 * MIB, 3));
	/* the kernel has the memory back: what is used again starts as zeros */
	before = minor_faults();
	p = region(6 * MIB);
	ck_assert(is_zero(p, 6 * MIB));
	ck_assert_int_gt(minor_faults(), before);
}
END_TEST

START_TEST(child_destroys_what_it_inherited)
{
	char *p = region(6 * MIB);

	fill(p, 6 * MIB, 1);
	if (check_fork() == 0) {
		ck_assert(has_state(p, COW_STATE_FROZEN));
		ck_assert_uint_eq(stats().regions, 1);
		ck_assert_int_eq(cow_region_destroy(p), 0);
		ck_assert_int_eq(cow_region_destroy(p), -EINVAL);
		ck_assert_int_eq(store_mappings(0) + store_mappings(1), 0);
		ck_assert_uint_eq(stats().bytes_inherited, 0);
		ck_assert(is_zero(region(6 * MIB), 6 * MIB));
		_exit(0);
	}
	usleep(50000);
	ck_assert(is_filled(p, 6 * MIB, 1));
	check_waitpid_and_exit(0);
}
END_TEST

/* The window of a store with terabytes leaves room, in a child, for a window
 * of the child's own right inside it. */
static int own_store_in_child(void *huge)
{
	char *q;

	NEED(is_page_filled(huge, 0, 1));
	q = region(6 * MIB);
	NEED(has_state(q, COW_STATE_OWNED));
	fill(q, 6 * MIB, 2);
	NEED(cow_madvise(q, 6 * MIB, MADV_DONTNEED) == 0);
	NEED(is_zero(q, 6 * MIB));
	fill(q, 6 * MIB, 3);
	NEED(cow_prepare() == 0);
	NEED(has_state(q, COW_STATE_FROZEN));
	NEED(cow_madvise(q, 6 * MIB, MADV_DONTNEED) == 0);
	NEED(is_zero(q, 6 * MIB));
	NEED(is_page_filled(huge, 0, 1));
	NEED(cow_region_destroy(q) == 0);
	q = region(6 * MIB);
	NEED(is_zero(q, 6 * MIB));
	return 0;
}

START_TEST(window_within_an_ancestors)
{
	char *small, *huge;

	if (_i)			/* with and without a first, smaller window */
		small = region(6 * MIB);
	huge = region((size_t)4 << 40);
	fill_page(huge, 0, 1);
	if (_i)
		fill(small, 6 * MIB, 4);
	ck_assert_int_eq(in_child(own_store_in_child, huge), 0);
}
END_TEST

/* --- limits and locks set after a region was made ----------------------- */

static const struct { int resource; rlim_t limit; } limits[] = {
	{ RLIMIT_FSIZE, 0 }, { RLIMIT_FSIZE, 64 * KIB },
	{ RLIMIT_AS, 1024 * MIB }, { RLIMIT_DATA, 1024 * MIB },
	{ RLIMIT_AS, 4 * MIB }, { RLIMIT_DATA, 4 * MIB },
};

/* Check writes files of its own, so the limits hold in a child only. A fork is
 * right or refused; what was made before stays right. */
static int under_limit(void *arg)
{
	const int i = *(int *)arg;
	char *p = region(40 * MIB), *q = region(20 * MIB);
	void *fresh;
	pid_t pid;

	fill(p, 40 * MIB, 1);
	fill(q, 20 * MIB, 2);
	set_limit(limits[i].resource, limits[i].limit);
	pid = cow_fork();
	if (pid == 0)
		_exit(!is_filled(p, 40 * MIB, 1) || !is_filled(q, 20 * MIB, 2));
	NEED(pid > 0 || errno == ENOMEM);
	NEED(pid < 0 || wait_for(pid) == 0);
	NEED(pid > 0 || limits[i].limit < 64 * MIB);
	fill(p, 20 * MIB, 3);
	NEED(is_filled(p, 20 * MIB, 3) && is_filled(q, 20 * MIB, 2));
	NEED(cow_madvise(q, 20 * MIB, MADV_DONTNEED) == 0 || errno == ENOMEM);
	NEED(cow_region_destroy(p) == 0);
	NEED(cow_region_destroy(q) == 0);
	set_limit(limits[i].resource, RLIM_INFINITY);
	NEED(cow_region_create(4 * MIB, 0, &fresh) == 0);
	NEED(is_zero(fresh, 4 * MIB));
	return 0;
}

START_TEST(limit_after)
{
	ck_assert_int_eq(in_child(under_limit, &_i), 0);
}
END_TEST

static int limited_from_birth(void *arg)
{
	const int i = *(int *)arg;
	int why = limits[i].resource == RLIMIT_FSIZE ? COW_REASON_FSIZE
						     : COW_REASON_ADDRESS;
	char *p;
	void *more;

	set_limit(limits[i].resource, limits[i].limit);
	p = region(6 * MIB);
	NEED(has_state(p, COW_STATE_NATIVE));
	NEED(stats().native[why] == 1);
	fill(p, 6 * MIB, 1);
	NEED(in_child(filled_by_one, p) == 0);
	NEED(store_mappings(1) == 0);
	if (limits[i].resource == RLIMIT_AS)
		NEED(cow_region_create(2 * GIB, 0, &more) == -ENOMEM);
	return 0;
}

START_TEST(limit_before)
{
	ck_assert_int_eq(in_child(limited_from_birth, &_i), 0);
}
END_TEST

static int filled_by_three(void *area)
{
	return !is_filled(area, 1 * MIB, 3);
}

/* mlockall() locks what exists: reservations are not to be part of it, and new
 * memory comes from a new store. */
static int lock_all(void *with_limit)
{
	char *a = region(4 * MIB), *hole = region(1 * MIB), *b = region(4 * MIB), *c;

	fill(a, 4 * MIB, 1);
	fill(b, 4 * MIB, 2);
	NEED(cow_region_destroy(hole) == 0);
	if (with_limit)
		set_limit(RLIMIT_AS, (rlim_t)1 << 46);
	if (cow_mlockall(MCL_CURRENT) < 0) {	/* RLIMIT_MEMLOCK, when not root */
		NEED(errno == ENOMEM && geteuid() != 0);
		NEED(cow_prepare() == 0);
		return !is_filled(a, 4 * MIB, 1) || !is_filled(b, 4 * MIB, 2);
	}
	NEED(has_state(a, COW_STATE_NATIVE));
	NEED(status_kib("VmLck") >= 8 * 1024);
	NEED(cow_munlockall() == 0);
	NEED(status_kib("VmLck") <= 64);
	NEED(status_kib("VmSize") < 1024 * 1024);
	if (with_limit)
		set_limit(RLIMIT_AS, RLIM_INFINITY);
	c = region(1 * MIB);
	fill(c, 1 * MIB, 3);
	NEED(has_state(c, COW_STATE_OWNED));
	NEED(in_child(filled_by_three, c) == 0);
	NEED(is_filled(a, 4 * MIB, 1) && is_filled(b, 4 * MIB, 2));
	NEED(is_filled(c, 1 * MIB, 3));
	NEED(cow_region_destroy(a) == 0 && cow_region_destroy(c) == 0);
	NEED(is_filled(b, 4 * MIB, 2));
	return 0;
}

START_TEST(mlockall_current)
{
	ck_assert_int_eq(in_child(lock_all, _i ? &_i : NULL), 0);
}
END_TEST

START_TEST(mlockall_future)
{
	char *p = region(4 * MIB);
	void *q;

	fill(p, 4 * MIB, 1);
	ck_assert_int_eq(cow_mlockall(MCL_FUTURE), 0);
	ck_assert_int_eq(cow_region_create(4 * MIB, 0, &q), 0);
	ck_assert(has_state(q, COW_STATE_NATIVE));
	ck_assert_uint_eq(stats().native[COW_REASON_LOCKED], 1);
	ck_assert_int_eq(cow_prepare(), 0);
	ck_assert(is_filled(p, 4 * MIB, 1) && is_zero(q, 4 * MIB));
	ck_assert_int_eq(cow_munlockall(), 0);
	ck_assert_int_eq(cow_region_create(4 * MIB, 0, &q), 0);
	ck_assert(has_state(q, COW_STATE_OWNED));
	errno = 0;
	ck_assert_int_eq(cow_mlockall(64), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

/* --- behind the library's back ------------------------------------------ */

START_TEST(remapped_behind_our_back)
{
	char *p = region(8 * MIB), *elsewhere;
	pid_t pid;

	fill(p, 8 * MIB, 1);
	ck_assert_ptr_eq((void *)syscall(SYS_mmap, p + 2 * MIB, MIB, 3, MAP_PRIVATE |
			 MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + 2 * MIB);
	memset(p + 2 * MIB, 'x', MIB);
	ck_assert_int_eq((int)syscall(SYS_munmap, p + 5 * MIB, MIB), 0);
	elsewhere = (char *)syscall(SYS_mremap, p + 6 * MIB, MIB, MIB, MREMAP_MAYMOVE |
				    MREMAP_FIXED, (char *)((uintptr_t)1 << 37));
	ck_assert_ptr_eq(elsewhere, (char *)((uintptr_t)1 << 37));
	for (int round = 0; round < 3; round++) {
		pid = cow_fork();
		if (pid == 0)
			_exit(!is_filled(p, 2 * MIB, 1) || p[2 * MIB] != 'x' ||
			      p[3 * MIB - 1] != 'x' || !is_page_filled(p, 3 * 256, 1) ||
			      !is_page_filled(p, 5 * 256 - 1, 1) ||
			      !is_page_filled(p, 8 * 256 - 1, 1));
		ck_assert_int_eq(wait_for(pid), 0);
		ck_assert(p[2 * MIB] == 'x' && is_page_filled(elsewhere - 6 * MIB, 6 * 256, 1));
	}
	ck_assert_uint_ge(stats().native[COW_REASON_FOREIGN], 1);
	ck_assert(has_state(p + 2 * MIB, COW_STATE_NATIVE));
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert(is_page_filled(elsewhere - 6 * MIB, 6 * 256, 1));
}
END_TEST

/* --- reports ------------------------------------------------------------ */

START_TEST(sizes_of_structs)
{
	struct cow_stats s = { .size = sizeof(size_t) - 1 };
	struct cow_facilities f = { .size = sizeof(size_t) - 1 };

	ck_assert_int_eq(cow_stats(&s), -EINVAL);
	ck_assert_int_eq(cow_facilities(&f), -EINVAL);
	s.size = 0;
	ck_assert_int_eq(cow_stats(&s), -EINVAL);
	memset(&s, 0x55, sizeof(s));
	s.size = offsetof(struct cow_stats, regions);
	region(4 * MIB);
	ck_assert_int_eq(cow_stats(&s), 0);
	ck_assert_uint_eq(s.forks, 0);
	ck_assert_uint_eq(s.regions, 0x5555555555555555u);
	memset(&f, 0x55, sizeof(f));
	f.size = offsetof(struct cow_facilities, remap);
	ck_assert_int_eq(cow_facilities(&f), 0);
	ck_assert_int_eq(f.memfd, 1);
	ck_assert_int_eq(f.remap, 0x55555555);
}
END_TEST

START_TEST(strings)
{
	ck_assert_str_eq(cow_version(), COW_VERSION);
	ck_assert_str_eq(cow_state_string(COW_STATE_NATIVE), "native");
	ck_assert_str_eq(cow_state_string(COW_STATE_OWNED), "owned");
	ck_assert_str_eq(cow_state_string(COW_STATE_FROZEN), "frozen");
	ck_assert_str_eq(cow_state_string(COW_STATE_ARMED), "armed");
	ck_assert_str_eq(cow_state_string((enum cow_state)4), "?");
	for (int i = 0; i < COW_REASON_COUNT; i++)
		ck_assert_uint_gt(strlen(cow_reason_string((enum cow_reason)i)), 5);
	ck_assert_str_eq(cow_reason_string(COW_REASON_COUNT), "?");
	ck_assert_str_eq(cow_reason_string((enum cow_reason)-1), "?");
}
END_TEST

/* --- the first use, from many threads at once --------------------------- */

static pthread_barrier_t gate;

static void *first_use(void *arg)
{
	char **ret = arg;

	pthread_barrier_wait(&gate);
	*ret = region(PAGE * 3);
	fill(*ret, PAGE * 3, 1);
	return NULL;
}

static int race(void *arg)
{
	pthread_t threads[4];
	char *regions[4];

	(void)arg;
	pthread_barrier_init(&gate, NULL, 4);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, first_use, &regions[i]) == 0);
	for (int i = 0; i < 4; i++)
		NEED(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < 4; i++)
		NEED(has_state(regions[i], COW_STATE_OWNED));
	NEED(stats().regions == 4);
	return 0;
}

START_TEST(first_use_by_threads)
{
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(in_child(race, NULL), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-region");
	TCase *tc = tcase_create("regions");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, shapes_in_the_store, 0, COUNT(shapes));
	tcase_add_loop_test(tc, shapes_as_plain_memory, 0, COUNT(shapes));
	tcase_add_loop_test(tc, create_refuses, 0, COUNT(wrong));
	tcase_add_test(tc, destroy_refuses);
	tcase_add_test(tc, destroy_leaves_what_was_unmapped);
	tcase_add_test(tc, unmapped_whole_is_destroyed);
	tcase_add_test(tc, destroy_while_children_live);
	tcase_add_test(tc, child_destroys_what_it_inherited);
	tcase_add_loop_test(tc, window_within_an_ancestors, 0, 2);
	tcase_add_loop_test(tc, limit_after, 0, COUNT(limits));
	/* the last two leave too little for a process */
	tcase_add_loop_test(tc, limit_before, 0, COUNT(limits) - 2);
	tcase_add_loop_test(tc, mlockall_current, 0, 2);
	tcase_add_test(tc, mlockall_future);
	tcase_add_test(tc, remapped_behind_our_back);
	tcase_add_test(tc, sizes_of_structs);
	tcase_add_test(tc, strings);
	tcase_add_test(tc, first_use_by_threads);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
