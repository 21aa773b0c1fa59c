/*
 * What mmap(2) and zeroing put into the store, and where: reservations, hints,
 * MAP_FIXED within windows, small mappings that join, and what stays native.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compat.h"
#include "support.h"

#define FAR ((char *)((uintptr_t)2 << 40))	/* nothing is ever there */
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static size_t size_now;		/* that is_filled_child() looks at */

static char *map(void *addr, size_t len, int prot, int flags)
{
	return cow_mmap(addr, len, prot, flags, -1, 0);
}

static int is_filled_child(void *area)
{
	return !is_filled(area, size_now, 5);
}

/* Writable, flat to fork, right in a child; the parent's change stays its own. */
static void check_memory(char *p, size_t len)
{
	fill(p, len, 5);
	size_now = len;
	ck_assert_int_eq(cow_prepare(), 0);
	ck_assert(has_state(p, COW_STATE_FROZEN));
	ck_assert_int_eq(in_child(is_filled_child, p), 0);
	ck_assert(is_filled(p, len, 5));
}

START_TEST(reservation)
{
	char *p = map(NULL, GIB, PROT_NONE, PLAIN | MAP_NORESERVE);

	ck_assert(has_state(p, COW_STATE_OWNED));
	ck_assert_int_eq(cow_mprotect(p + MIB, 8 * MIB, RW), 0);
	check_memory(p + MIB, 8 * MIB);
	/* committed while frozen: the reservation's rest froze too */
	ck_assert_int_eq(cow_mprotect(p + 100 * MIB, 8 * MIB, RW), 0);
	ck_assert(is_zero(p + 100 * MIB, 8 * MIB));
	check_memory(p + 100 * MIB, 8 * MIB);
	ck_assert_ptr_eq(map(p + 300 * MIB, MIB, RW, PLAIN | MAP_FIXED), p + 300 * MIB);
	check_memory(p + 300 * MIB, MIB);
	ck_assert_int_eq(cow_munmap(p, GIB), 0);
}
END_TEST

START_TEST(fixed_stays)
{
	char *p = map(NULL, 64 * MIB, RW, PLAIN);

	fill(p, 64 * MIB, 5);
	for (int frozen = 0; frozen < 2; frozen++) {
		char *at = p + (size_t)(1 + frozen) * 8 * MIB;

		ck_assert_ptr_eq(map(at, 4 * MIB, RW, PLAIN | MAP_FIXED), at);
		ck_assert(has_state(at, COW_STATE_OWNED));
		ck_assert(is_zero(at, 4 * MIB));
		ck_assert(is_page_filled(p, (size_t)(at - p) / PAGE - 1, 5));
		check_memory(at, 4 * MIB);
	}
	/* of another kind: the window is the program's there */
	ck_assert_ptr_eq(map(p, MIB, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), p);
	ck_assert(has_state(p, COW_STATE_NATIVE));
	/* and then it is the store's again */
	ck_assert_ptr_eq(map(p, MIB, RW, PLAIN | MAP_FIXED), p);
	ck_assert(has_state(p, COW_STATE_OWNED));
	check_memory(p, MIB);
}
END_TEST

static int map_over(char *p)
{
	return map(p, 4 * MIB, RW, PLAIN | MAP_FIXED) != p;
}

static int ask_for_zeros(char *p)
{
	return cow_madvise(p, 4 * MIB, MADV_DONTNEED);
}

/* What a child looks at may not go, so the place is native until it is gone. */
static const struct { int (*zero)(char *p); } zeroes[] = { { map_over }, { ask_for_zeros } };

START_TEST(zeros_under_a_child)
{
	char *p = map(NULL, 64 * MIB, RW, PLAIN);
	struct reader child;

	fill(p, 64 * MIB, 5);
	size_now = 64 * MIB;
	child = reader_start(is_filled_child, p);
	ck_assert_int_eq(zeroes[_i].zero(p), 0);
	ck_assert(has_state(p, COW_STATE_NATIVE));
	ck_assert(is_zero(p, 4 * MIB));
	fill(p, 4 * MIB, 6);
	ck_assert_int_eq(reader_ask(&child), 0);
	ck_assert_int_eq(reader_end(&child), 0);
	ck_assert(is_filled(p, 4 * MIB, 6));
	ck_assert_int_eq(zeroes[_i].zero(p + 8 * MIB), 0);
	ck_assert(has_state(p + 8 * MIB, COW_STATE_OWNED));
	ck_assert(is_zero(p + 8 * MIB, 4 * MIB));
	check_memory(p + 8 * MIB, 4 * MIB);
	ck_assert(is_filled(p, 4 * MIB, 6));
}
END_TEST

/* --- hints -------------------------------------------------------------- */

START_TEST(hint_is_heeded)
{
	char *p = map(FAR, 64 * MIB, RW, PLAIN), *q;

	ck_assert_ptr_eq(p, FAR);
	check_memory(p, 64 * MIB);
	/* the window that came along is not in the way of others */
	q = map(p + 64 * MIB, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS);
	ck_assert_ptr_eq(q, p + 64 * MIB);
	ck_assert(has_state(q, COW_STATE_NATIVE));
	q = map(p + 80 * MIB, MIB, RW, PLAIN);
	ck_assert_ptr_eq(q, p + 80 * MIB);
	check_memory(q, MIB);
	q = map(p + 100 * MIB + 1, PAGE, PROT_READ, PLAIN);
	ck_assert_ptr_eq(q, p + 100 * MIB);
	/* occupied: anywhere */
	q = map(p, 64 * MIB, RW, PLAIN);
	ck_assert_ptr_ne(q, p);
	check_memory(q, 64 * MIB);
	ck_assert(is_filled(p, 64 * MIB, 5));
}
END_TEST

START_TEST(hint_out_of_reach)
{
	char *p = map((void *)PAGE, 64 * MIB, RW, PLAIN);

	ck_assert_ptr_ne(p, MAP_FAILED);
	fill(p, 64 * MIB, 5);
	for (uintptr_t i = 1; i <= 10; i++) {
		char *at = FAR + i * 256 * GIB;

		p = map(at, 64 * MIB, RW, PLAIN);
		ck_assert_ptr_eq(p, at);
		fill(p, MIB, 5);
	}
	size_now = MIB;
	ck_assert_int_eq(in_child(is_filled_child, p), 0);
}
END_TEST

/* --- joining ------------------------------------------------------------ */

START_TEST(small_ones_join)
{
	char *p = map(NULL, MIB, RW, PLAIN), *q;

	ck_assert(has_state(p, COW_STATE_NATIVE));
	q = map(NULL, 64 * MIB, RW, PLAIN);
	ck_assert(has_state(q, COW_STATE_OWNED));
	p = map(NULL, MIB, RW, PLAIN);
	check_memory(p, MIB);
	p = map(NULL, 64 * KIB, RW, PLAIN);
	ck_assert(has_state(p, COW_STATE_NATIVE));
}
END_TEST

static int nothing_joins_in_a_child(void *arg)
{
	char *p = map(NULL, MIB, RW, PLAIN);

	(void)arg;
	NEED(has_state(p, COW_STATE_NATIVE));
	NEED(is_zero(p, MIB));
	p = map(NULL, 64 * MIB, RW, PLAIN);
	NEED(has_state(p, COW_STATE_OWNED));
	return 0;
}

START_TEST(child_starts_anew)
{
	char *p = map(NULL, 64 * MIB, RW, PLAIN);

	fill(p, 64 * MIB, 5);
	ck_assert_int_eq(in_child(nothing_joins_in_a_child, NULL), 0);
	ck_assert(is_filled(p, 64 * MIB, 5));
}
END_TEST

/* --- maps and memory that the program needs itself ----------------------- */

START_TEST(thousands_of_guards)
{
	const size_t step = 8 * PAGE, count = 12000;
	char *p = map(NULL, count * step, RW, PLAIN);

	fill(p, 7 * PAGE, 5);
	for (size_t i = 0; i < count; i++)
		ck_assert_int_eq(cow_mprotect(p + i * step + 7 * PAGE, PAGE, PROT_NONE), 0);
	for (int i = 0; i < 2000; i++)
		ck_assert_ptr_ne(mmap(NULL, PAGE, i % 2 ? PROT_READ : PROT_NONE, PLAIN,
				      -1, 0), MAP_FAILED);
	size_now = 7 * PAGE;
	ck_assert_int_eq(in_child(is_filled_child, p), 0);
}
END_TEST

START_TEST(many_purges)
{
	const size_t len = 17 * PAGE, count = 1800;
	char *p = map(NULL, 2 * count * len, RW, PLAIN);

	fill(p, 2 * count * len, 5);
	ck_assert_int_eq(cow_prepare(), 0);
	for (size_t i = 0; i < count; i++)
		ck_assert_int_eq(cow_madvise(p + 2 * i * len, len, MADV_DONTNEED), 0);
	ck_assert_uint_lt(stats().extents, 1200);
	for (size_t i = 0; i < count; i++) {
		ck_assert(is_zero(p + 2 * i * len, len));
		ck_assert(is_page_filled(p, (2 * i + 1) * len / PAGE, 5));
	}
}
END_TEST

START_TEST(moved_holes_stay_holes)
{
	char *p = map(NULL, GIB, RW, PLAIN | MAP_NORESERVE), *q;

	fill(p + 512 * MIB, MIB, 5);
	q = cow_mremap(p, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, FAR);
	ck_assert_ptr_eq(q, FAR);
	ck_assert(is_filled(q + 512 * MIB, MIB, 5));
	ck_assert_int_lt(status_kib("VmRSS"), 256 * 1024);
}
END_TEST

/* --- what stays native -------------------------------------------------- */

static const struct { int prot, flags; } kinds[] = {
	{ RW | PROT_EXEC, PLAIN }, { RW, PLAIN | MAP_STACK }, { RW, PLAIN | MAP_32BIT },
	{ RW, PLAIN | MAP_GROWSDOWN }, { RW, MAP_SHARED | MAP_ANONYMOUS },
};

START_TEST(other_kinds)
{
	char *p = map(NULL, 64 * MIB, kinds[_i].prot, kinds[_i].flags);

	ck_assert_ptr_ne(p, MAP_FAILED);
	ck_assert(has_state(p, COW_STATE_NATIVE));
}
END_TEST

START_TEST(guards)
{
	char *p = map(NULL, 64 * MIB, RW, PLAIN);
	int ret;

	fill(p, 64 * MIB, 5);
	ret = cow_madvise(p + MIB, MIB, MADV_GUARD_INSTALL);
	if (ret < 0) {
		ck_assert_int_eq(errno, EINVAL);	/* before Linux 6.13 */
		return;
	}
	ck_assert_int_eq(cow_prepare(), 0);
	ck_assert_int_eq((int)write(STDOUT_FILENO, p + MIB, 1), -1);
	ck_assert_int_eq(errno, EFAULT);
	ck_assert(is_filled(p, MIB, 5));
	ck_assert_int_eq(cow_madvise(p + MIB, MIB, MADV_GUARD_REMOVE), 0);
	ck_assert(is_zero(p + MIB, MIB));
	ck_assert_int_eq(cow_madvise(p, MIB, MADV_GUARD_REMOVE), 0);
	ck_assert(is_filled(p, MIB, 5));
}
END_TEST

static int direct_io_is_open(void *arg)
{
	char name[] = "direct-XXXXXX";
	int fd = mkostemp(name, O_DIRECT);
	void *p;

	(void)arg;
	if (fd < 0)
		return 77;	/* this file system has none */
	unlink(name);
	p = map(NULL, 64 * MIB, RW, PLAIN);
	NEED(has_state(p, COW_STATE_NATIVE));
	NEED(stats().native[COW_REASON_PINNED] == 1);
	close(fd);
	usleep(1100000);
	p = map(NULL, 64 * MIB, RW, PLAIN);
	NEED(has_state(p, COW_STATE_OWNED));
	return 0;
}

START_TEST(pinned_for_devices)
{
	int ret = in_child(direct_io_is_open, NULL);

	ck_assert(ret == 0 || ret == 77);
}
END_TEST

START_TEST(core_files_hold_frozen_memory)
{
	unsigned filter = 0;
	FILE *f;

	ck_assert_ptr_ne(map(NULL, 64 * MIB, RW, PLAIN), MAP_FAILED);
	f = fopen("/proc/self/coredump_filter", "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%x", &filter), 1);
	fclose(f);
	ck_assert_uint_eq(filter & 4, filter & 1 ? 4 : 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-map");
	TCase *tc = tcase_create("mappings");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, reservation);
	tcase_add_test(tc, fixed_stays);
	tcase_add_loop_test(tc, zeros_under_a_child, 0, COUNT(zeroes));
	tcase_add_test(tc, hint_is_heeded);
	tcase_add_test(tc, hint_out_of_reach);
	tcase_add_test(tc, small_ones_join);
	tcase_add_test(tc, child_starts_anew);
	tcase_add_test(tc, thousands_of_guards);
	tcase_add_test(tc, many_purges);
	tcase_add_test(tc, moved_holes_stay_holes);
	tcase_add_loop_test(tc, other_kinds, 0, COUNT(kinds));
	tcase_add_test(tc, guards);
	tcase_add_test(tc, pinned_for_devices);
	tcase_add_test(tc, core_files_hold_frozen_memory);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
