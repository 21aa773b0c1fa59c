/*
 * Stores that were retired (freeze_retire(): before limits on address space, all
 * memory locked, a sandbox): what they hold stays right, for this process and all
 * children, whoever lives and whatever was freed before; their address space is
 * free again for anybody; new regions go to a new store.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "freeze.h"
#include "process.h"
#include "support.h"

#define SIZE (5 * MIB)
#define MORE_STORES (PROCESS_STORES + 6)

static int retire(void)
{
	int ret;

	process_lock();
	ret = freeze_retire();
	process_unlock();
	return ret < 0 ? ret : 0;
}

struct piece {
	char *at;
	size_t size;
	unsigned seed;
};

/* Of the tail of something that was filled as a whole. */
static int is_tail_right(void *arg)
{
	const struct piece *p = arg;

	for (size_t i = p->size / PAGE - 64; i < p->size / PAGE; i++)
		NEED(is_page_filled(p->at, i, p->seed));
	return 0;
}

static int is_right(void *arg)
{
	const struct piece *p = arg;

	return !is_filled(p->at, p->size, p->seed);
}

static struct piece piece(size_t size, unsigned seed)
{
	struct piece p = { region(size), size, seed };

	fill(p.at, size, seed);
	return p;
}

static int write_and_look(void *arg)
{
	struct piece *p = arg;

	if (is_right(p))
		return 1;
	p->seed += 50;
	fill(p->at, p->size, p->seed);
	return is_right(p);
}

/* Nothing but the program's memory is left of the store. */
static void check_gone(int readers)
{
	ck_assert_int_eq(store_mappings(1), 0);
	ck_assert_int_eq(shm_segments(getpid()), readers);	/* theirs */
	ck_assert_int_lt(status_kib("VmSize"), 1024 * 1024);
}

/* --- who looks meanwhile ------------------------------------------------- */

START_TEST(children_live)
{
	struct piece a = piece(SIZE, 1), then = a, b;
	struct reader first = reader_start(is_right, &then), second;

	a.seed = 2;
	fill(a.at, SIZE / 2, 2);
	a.size = SIZE / 2;
	second = reader_start(is_right, &a);
	ck_assert_int_eq(retire(), 0);
	check_gone(1);
	fill(a.at, SIZE, 3);
	a.size = SIZE;
	a.seed = 3;
	ck_assert_int_eq(reader_ask(&first) | reader_ask(&second), 0);
	b = piece(SIZE, 4);
	ck_assert(has_state(b.at, COW_STATE_OWNED));
	ck_assert_int_eq(in_child(write_and_look, &a) | in_child(write_and_look, &b), 0);
	ck_assert_int_eq(reader_ask(&first) | reader_ask(&second), 0);
	ck_assert_int_eq(cow_region_destroy(a.at), 0);
	ck_assert_int_eq(reader_ask(&first) | reader_ask(&second), 0);
	ck_assert_int_eq(reader_end(&first) | reader_end(&second), 0);
	ck_assert_int_eq(is_right(&b), 0);
}
END_TEST

START_TEST(freed_memory_is_pending)
{
	struct piece a = piece(SIZE, 1), all = a;
	struct reader child = reader_start(is_right, &all);

	ck_assert_int_eq(cow_munmap(a.at, MIB), 0);
	ck_assert_int_eq(cow_madvise(a.at + MIB, MIB, MADV_DONTNEED), 0);
	ck_assert_ptr_eq(cow_mmap(a.at + 2 * MIB, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				  MAP_ANONYMOUS | MAP_FIXED, -1, 0), a.at + 2 * MIB);
	ck_assert_uint_gt(stats().bytes_deferred, 0);
	if (_i)
		ck_assert_int_eq(reader_end(&child), 0);
	ck_assert_int_eq(retire(), 0);
	check_gone(!_i);
	ck_assert(is_zero(a.at + MIB, 2 * MIB));
	fill(a.at + MIB, 2 * MIB, 8);
	for (int i = 0; i < 4; i++) {
		struct piece b = piece(SIZE, 10 + (unsigned)i);

		if (!_i)
			ck_assert_int_eq(reader_ask(&child), 0);
		ck_assert_int_eq(in_child(write_and_look, &b), 0);
		ck_assert_int_eq(in_child(is_tail_right, &a), 0);
		ck_assert_int_eq(cow_region_destroy(b.at), 0);
	}
	ck_assert(is_filled(a.at + MIB, 2 * MIB, 8));
	if (!_i)
		ck_assert_int_eq(reader_end(&child), 0);
}
END_TEST

/* Every generation retires what it made, and looks at all before it. */
static struct piece line[4];

static int next_of_line(void *arg)
{
	unsigned depth = *(unsigned *)arg, next = depth + 1;

	for (unsigned i = 0; i < depth; i++)
		NEED(write_and_look(&line[i]) == 0);
	if (depth == COUNT(line))
		return 0;
	line[depth] = piece(SIZE, depth + 1);
	if (depth % 2)
		NEED(in_child(is_right, &line[depth]) == 0);
	NEED(retire() == 0);
	NEED(store_mappings(1) == 0);
	for (int i = 0; i < 2; i++)
		NEED(in_child(next_of_line, &next) == 0);
	for (unsigned i = 0; i <= depth; i++)
		NEED(is_right(&line[i]) == 0);
	return 0;
}

START_TEST(nested)
{
	unsigned depth = 0;

	ck_assert_int_eq(next_of_line(&depth), 0);
}
END_TEST

START_TEST(again_and_again)
{
	static struct piece all[MORE_STORES];

	for (unsigned i = 0; i < MORE_STORES; i++) {
		all[i] = piece(MIB, i + 1);
		if (i % 3 == 0)
			ck_assert_int_eq(in_child(write_and_look, &all[i]), 0);
		ck_assert_int_eq(retire(), 0);
	}
	check_gone(0);
	ck_assert_uint_gt(stats().native[COW_REASON_STORES], 0);
	for (unsigned i = 0; i < MORE_STORES; i++) {
		ck_assert_int_eq(is_right(&all[i]), 0);
		if (i % 10 == 0)
			ck_assert_int_eq(in_child(write_and_look, &all[i]), 0);
	}
	for (unsigned i = 0; i < MORE_STORES; i++)
		ck_assert_int_eq(cow_region_destroy(all[i].at), 0);
}
END_TEST

/* --- threads ------------------------------------------------------------ */

static atomic_int stop;

static void *count_up(void *arg)
{
	volatile uint64_t *p = arg;

	for (uint64_t n = 1; !atomic_load(&stop); n++)
		for (size_t i = 0; i < SIZE / 8; i += 512) {
			if (p[i] != n - 1)
				return arg;	/* a write was lost */
			p[i] = n;
		}
	return NULL;
}

START_TEST(threads_write)
{
	pthread_t thread[2];
	void *lost;

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, count_up, region(SIZE)), 0);
	for (int i = 0; i < 30; i++) {
		struct piece p = piece(MIB, (unsigned)i + 1);

		usleep(3000);
		ck_assert_int_eq(retire(), 0);
		ck_assert_int_eq(in_child(write_and_look, &p), 0);
		ck_assert_int_eq(cow_region_destroy(p.at), 0);
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(pthread_join(thread[i], &lost), 0);
		ck_assert_ptr_null(lost);
	}
}
END_TEST

/* --- memory calls afterwards --------------------------------------------- */

static int calls_on(char *p)
{
	const size_t quarter = 16 * PAGE;
	char *q;

	NEED(cow_madvise(p, quarter, MADV_DONTNEED) == 0 && is_zero(p, quarter));
	NEED(cow_mprotect(p + quarter, PAGE, PROT_READ) == 0);
	NEED(cow_mprotect(p + quarter, PAGE, PROT_READ | PROT_WRITE) == 0);
	NEED(cow_munmap(p + 2 * quarter, quarter) == 0);
	/* its place is anybody's: a mapping of the kernel's choice, then ours */
	NEED(cow_mmap(p + 2 * quarter, quarter, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		      MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 2 * quarter);
	NEED(is_zero(p + 2 * quarter, quarter));
	fill(p + 2 * quarter, quarter, 6);
	q = cow_mremap(p + 3 * quarter, quarter, 2 * quarter, MREMAP_MAYMOVE, NULL);
	NEED(q != MAP_FAILED && is_zero(q + quarter, quarter));
	for (size_t i = 0; i < 16; i++)
		NEED(is_page_filled(q - 3 * quarter, 48 + i, 1));
	NEED(cow_mlock2(p, PAGE, 0) == 0 || errno == ENOMEM || errno == EPERM);
	NEED(is_filled(p + 2 * quarter, quarter, 6));
	return !is_zero(p, quarter);
}

static int calls_in_child(void *p)
{
	return calls_on(p);
}

START_TEST(memory_calls)
{
	struct piece a = piece(SIZE, 1);

	if (_i)
		ck_assert_int_eq(in_child(is_right, &a), 0);
	ck_assert_int_eq(retire(), 0);
	ck_assert_int_eq(in_child(calls_in_child, a.at), 0);
	ck_assert_int_eq(is_right(&a), 0);
	ck_assert_int_eq(calls_on(a.at), 0);
	for (size_t i = 64; i < SIZE / PAGE; i++)
		ck_assert(is_page_filled(a.at, i, 1));
	ck_assert_int_eq(retire(), 0);	/* nothing to do */
	ck_assert_int_eq(cow_munmap(a.at, SIZE), 0);
}
END_TEST

START_TEST(others_map_in_the_window)
{
	struct piece a = piece(SIZE, 1), b;
	const struct store *s = process_store_at((uintptr_t)a.at, 1);
	char *hole = (char *)s->base + (s->size / 2);

	ck_assert_int_eq(retire(), 0);
	ck_assert_ptr_eq(cow_mmap(hole, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				  MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), hole);
	fill(hole, SIZE, 7);
	b = piece(SIZE, 2);
	ck_assert_int_eq(in_child(write_and_look, &b), 0);
	ck_assert(is_filled(hole, SIZE, 7) && is_filled(a.at, SIZE, 1));
	ck_assert_int_eq(retire(), 0);
	ck_assert(is_filled(hole, SIZE, 7) && is_filled(b.at, SIZE, 2));
	ck_assert_int_eq(cow_madvise(hole, SIZE, MADV_DONTNEED), 0);
	ck_assert(is_zero(hole, SIZE));
	ck_assert_int_eq(cow_munmap(hole, SIZE), 0);
	ck_assert_int_eq(is_right(&a) | is_right(&b), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-retire");
	TCase *tc = tcase_create("retire");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, children_live);
	tcase_add_loop_test(tc, freed_memory_is_pending, 0, 2);
	tcase_add_test(tc, nested);
	tcase_add_test(tc, again_and_again);
	tcase_add_test(tc, threads_write);
	tcase_add_loop_test(tc, memory_calls, 0, 2);
	tcase_add_test(tc, others_map_in_the_window);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
