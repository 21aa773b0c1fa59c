/*
 * Holes in armed memory: what was empty at a fork, children find empty, and what is empty since
 * does not count. Whoever needs something else there is killed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "armed.h"
#include "compat.h"
#include "support.h"

/* --- threads that are killed in it ------------------------------------------ */

/* More than is filled before one fork. */
#define EMPTIED (9 * SIZE)

/* In the midst of a removal. */
static _Noreturn void is_killed_in(unsigned us, char *at, size_t size)
{
	signal(SIGALRM, SIG_DFL);
	ualarm(us, 0);
	syscall(SYS_madvise, at, size, MADV_DONTNEED);
	for (;;)
		pause();
}

/* Whoever is killed in the call is not waited for until that was told. */
static int is_killed_emptying(const struct ends *e, unsigned us)
{
	const struct sight s = { area, EMPTIED / PAGE, STEP };

	NEED(arm(area, EMPTIED, 1) == 0);
	NEED(in_child(does_nothing, NULL) == 0);
	NEED((us % 2 ? cow_madvise(area, EMPTIED, MADV_DONTNEED)
		     : (int)syscall(SYS_madvise, area, EMPTIED, MADV_DONTNEED)) == 0);
	for (size_t p = 0; p < EMPTIED / PAGE; p += STEP)
		fill_page(area, p, 1);
	if (cow_fork() == 0)
		outlives(e, &s, 20000);
	is_killed_in(us, area, EMPTIED);
}

START_TEST(killed_while_it_empties)
{
	for (unsigned round = 0; round < 20; round++)
		ck_assert_int_ne(said_after(is_killed_emptying, 100 + round * 121,
					    128 + SIGALRM), 'w');
}
END_TEST

/* --- what is there, and what is not ------------------------------------------ */

#define PAGER_KNOWS_US 100000	/* that the program has ended */

/* A page that the program has written since, and a child that outlives it: it lacks the rest. */
static int writes_and_ends(const struct ends *e, unsigned us)
{
	const struct sight s = { area, PAGES, 1 };

	NEED(arm(area, SIZE, 1) == 0);
	if (cow_fork() == 0)
		outlives(e, &s, us);
	for (size_t p = 100; p < PAGES; p += 43)
		area[p * PAGE] = 7;
	_exit(0);
}

START_TEST(outlives_who_wrote)
{
	ck_assert_int_eq(said_after(writes_and_ends, PAGER_KNOWS_US, 0), 'r');
}
END_TEST

static int sees_zeros(void *arg)
{
	(void)arg;
	NEED(is_zero(area, SIZE / 2));
	return 0;
}

/* What could not be filled before one fork, of several mappings, is before the next. */
START_TEST(filled_later)
{
	struct reader r;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	ck_assert_int_eq(mprotect(area + SIZE / 4, PAGE, PROT_READ), 0);
	ck_assert_int_eq(cow_madvise(area, SIZE / 2, MADV_DONTNEED), 0);
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	ck_assert_int_eq(mprotect(area + SIZE / 4, PAGE, PROT_READ | PROT_WRITE), 0);
	r = reader_start(sees_zeros, NULL);
	fill(area, SIZE / 2, 5);
	ck_assert_int_eq(is_killed(&r), 0);
}
END_TEST

static int reads_all(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p++)
		(void)*(volatile char *)(area + p * PAGE);
	return 0;
}

/* Nobody tells when the kernel takes what it was given; by a raw call, nobody knows that it may,
 * and such a hole is no zeros. */
START_TEST(taken_after_a_fork)
{
	struct reader r;
	int status;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	ck_assert_int_eq(_i ? cow_madvise(area, SIZE / 2, MADV_FREE)
			    : (int)syscall(SYS_madvise, area, SIZE / 2, MADV_FREE), 0);
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	(void)!madvise(area, SIZE / 2, MADV_PAGEOUT);
	r = reader_start(does_nothing, NULL);
	status = in_child(reads_all, NULL);
	ck_assert(status == 0 || (!_i && status == KILLED));
	ck_assert_int_eq(is_killed(&r), 0);
	ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
}
END_TEST

static void *writes_at_the_end(void *arg)
{
	(void)arg;
	for (size_t p = EMPTIED / PAGE - PAGES; p < EMPTIED / PAGE && !stop; p++)
		*(volatile char *)(area + p * PAGE) = 7;
	return NULL;
}

static int sees_zeros_everywhere(void *arg)
{
	(void)arg;
	return is_zero(area, EMPTIED) ? 0 : WRONG;
}

/* What one fork left unfilled is filled before the next: the first one's child gets it before. */
START_TEST(filled_for_an_older_child)
{
	for (int round = 0; round < 20; round++) {
		pthread_t thread;
		struct reader r;

		ck_assert_int_eq(arm(area, EMPTIED, 1), 0);
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
		ck_assert_int_eq(cow_madvise(area, EMPTIED, MADV_DONTNEED), 0);
		r = reader_start(sees_zeros_everywhere, NULL);
		stop = 0;
		ck_assert_int_eq(pthread_create(&thread, NULL, writes_at_the_end, NULL), 0);
		usleep((unsigned)round * 15);
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
		stop = 1;
		pthread_join(thread, NULL);
		ck_assert_int_eq(is_killed(&r), 0);
		ck_assert_int_eq(cow_munmap(area, EMPTIED), 0);
	}
}
END_TEST

static void *unmaps_a_page(void *arg)
{
	pthread_barrier_t *met = arg;

	pthread_barrier_wait(met);
	for (volatile int i = rand() % 60000; i; i--)
		;
	syscall(SYS_munmap, area + EMPTIED, PAGE);
	return NULL;
}

static int sees_zeros_behind(void *arg)
{
	(void)arg;
	return is_zero(area + EMPTIED + PAGE, EMPTIED - PAGE) ? 0 : WRONG;
}

/* So that the engine does not think it dear. */
static void fork_often(void)
{
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
}

/* A page that is unmapped just before the next fork takes no hole from who was there before. */
START_TEST(unmapped_before_a_fork)
{
	for (int round = 0; round < 20; round++) {
		pthread_barrier_t met;
		pthread_t thread;
		struct reader r;

		ck_assert_int_eq(arm(area, 2 * EMPTIED, 1), 0);
		ck_assert_int_eq(cow_madvise(area, 2 * EMPTIED, MADV_DONTNEED), 0);
		r = reader_start(sees_zeros_behind, NULL);
		pthread_barrier_init(&met, NULL, 2);
		ck_assert_int_eq(pthread_create(&thread, NULL, unmaps_a_page, &met), 0);
		pthread_barrier_wait(&met);
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
		pthread_join(thread, NULL);
		ck_assert_int_eq(is_killed(&r), 0);
		ck_assert_int_eq(cow_munmap(area, 2 * EMPTIED), 0);
	}
}
END_TEST

/* Many holes, while it cannot be seen whether a thread moves memory. */
START_TEST(emptied_beside_the_busy)
{
	const struct sight s = { area + EMPTIED, 3 * PAGES, 2 };
	pthread_t thread;
	struct reader r;

	ck_assert_int_eq(arm(area, EMPTIED + 4 * SIZE, 1), 0);
	fork_often();
	ck_assert_int_eq(cow_madvise(area, EMPTIED, MADV_DONTNEED), 0);
	fill(s.at, 3 * SIZE, 1);
	for (size_t p = 1; p < s.pages; p += s.step)
		ck_assert_int_eq(cow_madvise(s.at + p * PAGE, PAGE, MADV_DONTNEED), 0);
	r = reader_start(sees, (void *)&s);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_ARMED);
	ck_assert_int_eq(pthread_create(&thread, NULL, runs, NULL), 0);
	syscall(SYS_madvise, area + EMPTIED + 3 * SIZE, PAGE, MADV_DONTNEED);
	stop = 1;
	pthread_join(thread, NULL);
	ck_assert_int_eq(is_killed(&r), 0);
}
END_TEST

static pthread_barrier_t barrier;

static void *empties_half(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
	syscall(SYS_madvise, area, SIZE / 8, MADV_DONTNEED);
	return NULL;
}

/* By calls that are told of later, or never. */
static void *replaces_half(void *arg)
{
	char *at = area + SIZE / 8;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	pthread_barrier_wait(&barrier);
	usleep((unsigned)rand() % 800);
	switch ((int)(intptr_t)arg) {
	case 0:
		syscall(SYS_munmap, at, SIZE / 8);
		break;
	case 1:
		syscall(SYS_mmap, at, SIZE / 8, PROT_READ, flags, -1, 0);
		break;
	default:
		syscall(SYS_madvise, at, SIZE / 8, MADV_GUARD_INSTALL);
	}
	return NULL;
}

/* Two halves of one table: what happens to one says nothing about the other. */
START_TEST(half_is_replaced)
{
	const struct sight half = { area, PAGES / 8, 1 };

	for (int round = 0; round < 60; round++) {
		pthread_t empties, replaces;
		struct reader r;

		ck_assert_int_eq(arm(area, SIZE / 4, 1), 0);
		r = reader_start(sees, (void *)&half);
		pthread_barrier_init(&barrier, NULL, 2);
		ck_assert_int_eq(pthread_create(&empties, NULL, empties_half, NULL), 0);
		ck_assert_int_eq(pthread_create(&replaces, NULL, replaces_half,
						(void *)(intptr_t)_i), 0);
		pthread_join(empties, NULL);
		pthread_join(replaces, NULL);
		(void)is_killed(&r);
		ck_assert_int_eq(cow_munmap(area, SIZE / 4), 0);
	}
}
END_TEST

/* Where a guard was is no hole of the fork's, whatever is emptied around it. */
START_TEST(emptied_where_a_guard_was)
{
	struct reader r;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	r = reader_start(sees, (void *)&all_of_it);
	if (was_guarded(area + 100 * PAGE)) {
		syscall(SYS_madvise, area, SIZE / 2, MADV_DONTNEED);
		ck_assert_int_eq(is_killed(&r), 1);
	} else {
		ck_assert_int_eq(is_killed(&r), 0);
	}
}
END_TEST

/* More pieces than are noted, emptied after the fork; and the rest in the call that kills. */
static int is_killed_after_pieces(const struct ends *e, unsigned us)
{
	const struct sight s = { area, 8 * PAGES, 1 };

	NEED(arm(area, 8 * SIZE, 1) == 0);
	NEED(arm(far, 5 * SIZE, 1) == 0);
	if (cow_fork() == 0)
		outlives(e, &s, PAGER_KNOWS_US);
	for (size_t p = 0; p < 5 * PAGES; p += 2)
		NEED(cow_madvise(far + p * PAGE, PAGE, MADV_DONTNEED) == 0);
	is_killed_in(us, area, 8 * SIZE);
}

START_TEST(killed_after_many_pieces)
{
	for (unsigned round = 0; round < 8; round++)
		ck_assert_int_ne(said_after(is_killed_after_pieces, 100 + round * 300,
					    128 + SIGALRM), 'w');
}
END_TEST

int main(void)
{
	const TTest *const thrice[] = { half_is_replaced };
	const TTest *const twice[] = { taken_after_a_fork };
	const TTest *const once[] = { killed_while_it_empties, killed_after_many_pieces,
				      outlives_who_wrote, filled_later, filled_for_an_older_child,
				      unmapped_before_a_fork, emptied_beside_the_busy,
				      emptied_where_a_guard_was };
	Suite *s = suite_create("holes");

	support_add(s, "in three ways", 20, thrice, COUNT(thrice), 3);
	support_add(s, "in two ways", 20, twice, COUNT(twice), 2);
	support_add(s, "once", 30, once, COUNT(once), 1);
	return armed_run(s);
}
