/*
 * mremap(2) whose source or target the library did not make, but that lies in one
 * of its windows: from a hole of an inherited window into an own one, a second
 * view (old size 0) of a shared mapping within a window, and their likes. Then
 * forks, since the table of the window must say what is there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"
#include "support.h"

#define SIZE (6 * MIB)
#define PART (64 * PAGE)

static char *area, *target;

enum { RW = PROT_READ | PROT_WRITE };

/* The area is as it was but for [but, but + PART), which is like `part`. */
static int is_right(const char *but, unsigned part)
{
	for (size_t i = 0; i < SIZE / PAGE; i++) {
		size_t in = (size_t)(area + i * PAGE - but) / PAGE;

		if (area + i * PAGE >= but && in < PART / PAGE)
			NEED(is_page_filled(but, in, part));
		else
			NEED(is_page_filled(area, i, 1));
	}
	return 0;
}

static int look_at_target(void *seed)
{
	if (is_right(target, *(unsigned *)seed))
		return 1;
	fill(target, PART, 60);
	return is_right(target, 60);
}

/* Forks see it right, whatever they write; so does this process after writing. */
static int forks_are_right(unsigned seed)
{
	NEED(in_child(look_at_target, &seed) == 0);
	NEED(is_right(target, seed) == 0);
	fill(target, PART, seed + 1);
	seed++;
	NEED(in_child(look_at_target, &seed) == 0);
	return is_right(target, seed);
}

/* --- from a hole of an inherited window ----------------------------------- */

/* A plain mapping of the program's in a window that is not ours any more. */
static char *map_in_hole(const char *inherited)
{
	const struct store *s = process_store_at((uintptr_t)inherited, 1);
	char *hole = (char *)s->base + s->size / 2;
	void *p = cow_mmap(hole, PART, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int from_hole(void *arg)
{
	char *parents = area, *source = map_in_hole(parents);
	int frozen = *(int *)arg;

	NEED(source);
	fill(source, PART, 5);
	area = region(SIZE);
	fill(area, SIZE, 1);
	target = area + 2 * MIB;
	if (frozen)
		NEED(cow_prepare() == 0);
	NEED(cow_mremap(source, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
	NEED(forks_are_right(5) == 0);
	/* the source is gone, its place free again */
	NEED(cow_mmap(source, PART, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		      -1, 0) == source);
	NEED(is_zero(source, PART));
	NEED(cow_region_destroy(area) == 0);
	return !is_filled(parents, SIZE, 9);
}

START_TEST(hole_to_own_window)
{
	area = region(SIZE);
	fill(area, SIZE, 9);
	ck_assert_int_eq(in_child(from_hole, &_i), 0);
	ck_assert(is_filled(area, SIZE, 9));
}
END_TEST

/* The same without a move: growing and shrinking in the hole. */
static int grow_in_hole(void *arg)
{
	char *source = map_in_hole(area), *p;

	(void)arg;
	NEED(source);
	fill(source, PART, 5);
	p = cow_mremap(source, PART, 3 * PART, MREMAP_MAYMOVE, NULL);
	NEED(p != MAP_FAILED && is_filled(p, PART, 5) && is_zero(p + PART, 2 * PART));
	NEED(cow_mremap(p, 3 * PART, PART, 0, NULL) == p);
	NEED(is_filled(p, PART, 5) && cow_munmap(p, PART) == 0);
	return !is_filled(area, SIZE, 9);
}

START_TEST(hole_grows)
{
	area = region(SIZE);
	fill(area, SIZE, 9);
	ck_assert_int_eq(in_child(grow_in_hole, NULL), 0);
}
END_TEST

/* --- a shared mapping in a window ----------------------------------------- */

static int write_second(void *view)
{
	fill(view, PART, 33);
	return 0;
}

/* Two views of one memory, also for children. */
static int are_one(char *a, char *b)
{
	fill(a, PART, 31);
	NEED(is_filled(b, PART, 31));
	NEED(in_child(write_second, b) == 0);
	NEED(is_filled(a, PART, 33) && is_filled(b, PART, 33));
	return 0;
}

START_TEST(second_view)
{
	char *shared, *view;

	area = region(SIZE);
	fill(area, SIZE, 1);
	if (_i & 1)
		ck_assert_int_eq(cow_prepare(), 0);
	target = area + 1 * MIB;
	shared = cow_mmap(target, PART, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ck_assert_ptr_eq(shared, target);
	view = _i & 2 ? area + 3 * MIB : NULL;
	view = cow_mremap(shared, 0, PART, MREMAP_MAYMOVE | (view ? MREMAP_FIXED : 0), view);
	ck_assert_ptr_ne(view, MAP_FAILED);
	ck_assert_int_eq(are_one(shared, view), 0);
	ck_assert_int_eq(cow_prepare(), 0);
	ck_assert_int_eq(are_one(view, shared), 0);
	if (_i & 2)	/* within the area: put it right */
		for (size_t i = 0; i < PART / PAGE; i++) {
			ck_assert_ptr_eq(cow_mmap(view + i * PAGE, PAGE, RW, MAP_PRIVATE |
						  MAP_ANONYMOUS | MAP_FIXED, -1, 0),
					 view + i * PAGE);
			fill_page(area, (size_t)(view - area) / PAGE + i, 1);
		}
	else
		ck_assert_int_eq(cow_munmap(view, PART), 0);
	ck_assert_int_eq(is_right(target, 33), 0);
	ck_assert_int_eq(cow_munmap(area, SIZE), 0);
}
END_TEST

/* What is asked of memory in the store itself must not make it shared. */
START_TEST(no_second_view_of_the_store)
{
	void *p;

	area = region(SIZE);
	fill(area, SIZE, 1);
	if (_i)
		ck_assert_int_eq(cow_prepare(), 0);
	errno = 0;
	p = cow_mremap(area, 0, PART, MREMAP_MAYMOVE, NULL);
	ck_assert_ptr_eq(p, MAP_FAILED);
	ck_assert_int_eq(errno, EINVAL);
	target = area;
	ck_assert_int_eq(is_right(area, 1), 0);
}
END_TEST

/* --- from outside into a window ------------------------------------------- */

START_TEST(outside_to_window)
{
	char *outside = mmap(NULL, PART, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	area = region(SIZE);
	fill(area, SIZE, 1);
	if (_i)
		ck_assert_int_eq(cow_prepare(), 0);
	fill(outside, PART, 5);
	target = area + 2 * MIB - 16 * PAGE;	/* across tables */
	ck_assert_ptr_eq(cow_mremap(outside, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, target),
			 target);
	ck_assert_int_eq(forks_are_right(5), 0);
	/* refused: what was there is as it was */
	ck_assert_ptr_eq(cow_mremap(outside, PART, PART, MREMAP_FIXED, area), MAP_FAILED);
	ck_assert_int_eq(is_right(target, 6), 0);
	ck_assert_ptr_eq(cow_mremap(target, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, outside),
			 outside);
	ck_assert(is_filled(outside, PART, 6));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-remap");
	TCase *tc = tcase_create("remap");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, hole_to_own_window, 0, 2);
	tcase_add_test(tc, hole_grows);
	tcase_add_loop_test(tc, second_view, 0, 4);
	tcase_add_loop_test(tc, no_second_view_of_the_store, 0, 2);
	tcase_add_loop_test(tc, outside_to_window, 0, 2);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
