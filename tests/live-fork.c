/*
 * Forks, seen from the kernel's side: no shared mapping of a store and no
 * descriptor of one in any child, page tables of a child stay small, contents
 * never change under anybody by what a relative does, however the child was
 * made (fork, _Fork, clone, forkpty, by system calls that the library cannot
 * see) and however the family grew: nested, many at once, orphaned, exec'd.
 * Odd places to fork from: live-odd.c. Thaws and huge pages: live-refresh.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support.h"

#define SIZE (6 * MIB)

static char *shared_word(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

/* What must hold in every child, at once and after it used its memory. */
static int clean_child(void *area)
{
	NEED(store_mappings(1) == 0);
	NEED(store_descriptors() == 0);
	NEED(is_filled(area, SIZE, 1));
	fill(area, SIZE, 2);
	NEED(is_filled(area, SIZE, 2));
	NEED(store_mappings(1) == 0);
	return 0;
}

static char *filled_region(void)
{
	char *p = region(SIZE);

	fill(p, SIZE, 1);
	return p;
}

/* --- ways to make a child ----------------------------------------------- */

static pid_t by_cow_fork(void)
{
	return cow_fork();
}

static pid_t by_enter(pid_t (*make)(void))
{
	pid_t pid;

	if (cow_fork_enter() < 0)
		return -1;
	pid = make();
	if (pid == 0)
		cow_fork_child();
	else
		cow_fork_parent();
	return pid;
}

static pid_t by_libc_fork(void)
{
	return by_enter(_Fork);
}

static pid_t by_clone(void)
{
	return by_enter(raw_fork);
}

static pid_t by_nested_enter(void)
{
	pid_t pid;

	if (cow_fork_enter() < 0)
		return -1;
	pid = by_enter(_Fork);
	if (pid == 0)
		cow_fork_child();
	else
		cow_fork_parent();
	return pid;
}

static pid_t by_enter_and_fork(void)
{
	return by_enter(fork);
}

static pid_t by_prepare_and_raw(void)
{
	return cow_prepare() < 0 ? -1 : raw_fork();
}

static pid_t by_forkpty(void)
{
	int terminal;

	return forkpty(&terminal, NULL, NULL, NULL);
}

static const struct { const char *name; pid_t (*make)(void); } ways[] = {
	{ "fork", fork }, { "cow_fork", by_cow_fork }, { "_Fork", by_libc_fork },
	{ "clone", by_clone }, { "nested enter", by_nested_enter },
	{ "enter and fork", by_enter_and_fork }, { "forkpty", by_forkpty },
	{ "prepare and raw clone", by_prepare_and_raw },
};

static int signals_blocked(void)
{
	sigset_t set;

	sigprocmask(SIG_BLOCK, NULL, &set);
	return sigismember(&set, SIGUSR1) * 2 + sigismember(&set, SIGTERM);
}

START_TEST(every_way)
{
	char *p = filled_region(), *q;

	for (int round = 0; round < 3; round++) {
		pid_t pid = ways[_i].make();

		ck_assert_msg(pid >= 0, "%s: %s", ways[_i].name, strerror(errno));
		if (pid == 0) {
			int bad = clean_child(p) || signals_blocked();

			/* and the child is a full citizen */
			q = region(SIZE);
			bad |= !has_state(q, COW_STATE_OWNED);
			fill(q, SIZE, 5);
			pid = ways[_i].make();
			if (pid == 0)
				_exit(bad || !is_filled(p, SIZE, 2) || store_mappings(1) ||
				      !is_filled(q, SIZE, 5));
			_exit(wait_for(pid));
		}
		ck_assert_msg(wait_for(pid) == 0, "%s", ways[_i].name);
		ck_assert_int_eq(signals_blocked(), 0);
		ck_assert(is_filled(p, SIZE, 1));
		ck_assert(has_state(p, COW_STATE_FROZEN));
		fill(p, PAGE, 1);
	}
	ck_assert(has_state(region(SIZE), COW_STATE_OWNED));
}
END_TEST

START_TEST(enter_without_a_child)
{
	char *p = filled_region();

	ck_assert_int_eq(cow_fork_enter(), 0);
	ck_assert_int_eq(signals_blocked(), 3);
	cow_fork_parent();
	ck_assert_int_eq(signals_blocked(), 0);
	ck_assert(is_filled(p, SIZE, 1));
	ck_assert_int_eq(in_child(clean_child, p), 0);
}
END_TEST

/* A child that the library never saw being made dies on what was owned (as by
 * any unmapped address) and reads what was frozen; never a wrong byte. */
static int touch(void *p)
{
	return !is_page_filled(p, 0, 1);
}

START_TEST(unseen_child)
{
	char *p = filled_region(), *q;
	pid_t pid = raw_fork();

	if (pid == 0) {
		/* Check's and the sanitizers' handlers are not wanted here */
		signal(SIGSEGV, SIG_DFL);
		_exit(touch(p));
	}
	ck_assert_int_eq(wait_for(pid), 128 + SIGSEGV);
	pid = raw_fork();
	if (pid == 0) {
		int bad = !has_state(p, COW_STATE_NATIVE) || store_mappings(1);

		q = region(SIZE);	/* it may use the library */
		fill(q, SIZE, 3);
		_exit(bad || in_child(touch, q) != 1 ||
		      !is_filled(q, SIZE, 3));
	}
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_int_eq(cow_prepare(), 0);
	q = region(SIZE);
	fill(q, SIZE, 4);
	pid = raw_fork();
	if (pid == 0)
		_exit(!is_filled(p, SIZE, 1) || cow_munmap(p, SIZE) < 0);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert(is_filled(p, SIZE, 1) && is_filled(q, SIZE, 4));
}
END_TEST

/* --- flat --------------------------------------------------------------- */

/* Page tables and faults: what a fork copies is not in proportion to memory. */
START_TEST(child_has_few_page_tables)
{
	size_t size = 512 * MIB;
	char *p = region(size);
	long *seen = (long *)(void *)shared_word();
	long before;

	fill(p, size, 1);
	before = minor_faults();
	for (int round = 0; round < 4; round++) {
		pid_t pid = cow_fork();

		if (pid == 0) {
			seen[0] = status_kib("VmPTE");
			seen[1] = rollup_kib("Rss");
			_exit(!is_page_filled(p, size / PAGE - 1, 1));
		}
		ck_assert_int_eq(wait_for(pid), 0);
		ck_assert_int_le(seen[0], 120);
		ck_assert_int_lt(seen[1], 16 * 1024);
	}
	ck_assert_int_lt(minor_faults() - before, 1000);
	ck_assert_uint_eq(stats().forks_freeze, 1);
	ck_assert_uint_eq(stats().forks_frozen, 3);
	ck_assert_uint_eq(stats().forks, 4);
}
END_TEST

/* --- nobody sees another's writes --------------------------------------- */

static int still_first(void *p)
{
	return !is_filled(p, SIZE, 1);
}

static int still_first_then_own(void *p)
{
	static int round;

	NEED(is_filled(p, SIZE, round ? (unsigned)getpid() : 1));
	fill(p, SIZE, (unsigned)getpid());
	round++;
	return 0;
}

START_TEST(writes_stay_at_home)
{
	char *p = filled_region();
	struct reader idle = reader_start(still_first, p);
	struct reader one = reader_start(still_first_then_own, p);
	struct reader two = reader_start(still_first_then_own, p);

	for (unsigned round = 0; round < 3; round++) {
		fill(p, SIZE, 100 + round);
		ck_assert_int_eq(reader_ask(&one), 0);
		ck_assert_int_eq(reader_ask(&two), 0);
		ck_assert_int_eq(reader_ask(&idle), 0);
		ck_assert(is_filled(p, SIZE, 100 + round));
	}
	ck_assert_int_eq(reader_end(&one) + reader_end(&two) + reader_end(&idle), 0);
}
END_TEST

/* --- families ----------------------------------------------------------- */

#define DEPTH 6

static int descend(char **own, int depth)
{
	pid_t pid;

	for (int i = 0; i < depth; i++) {
		NEED(is_filled(own[i], SIZE, (unsigned)(depth * 10 + i)));
		fill(own[i], SIZE, (unsigned)(depth * 10 + 10 + i));
	}
	NEED(store_mappings(1) == 0 || depth == 0);
	if (depth == DEPTH)
		return 0;
	own[depth] = region(SIZE);
	NEED(has_state(own[depth], COW_STATE_OWNED));
	fill(own[depth], SIZE, (unsigned)(depth * 10 + 10 + depth));
	pid = cow_fork();
	if (pid == 0)
		_exit(descend(own, depth + 1));
	/* the child writes everything: nothing of it may show here */
	NEED(wait_for(pid) == 0);
	for (int i = 0; i <= depth; i++)
		NEED(is_filled(own[i], SIZE, (unsigned)(depth * 10 + 10 + i)));
	NEED(stats().generation_live == 0);
	return 0;
}

START_TEST(nested)
{
	char *own[DEPTH];

	ck_assert_int_eq(descend(own, 0), 0);
}
END_TEST

/* Each generation that allocates has a store; beyond the limit: plain memory. */
static int many_generations(int left)
{
	char *p = region(PAGE);
	pid_t pid;

	fill_page(p, 0, (unsigned)left);
	if (left == 0) {
		NEED(has_state(p, COW_STATE_NATIVE));
		NEED(stats().native[COW_REASON_STORES] == 1);
		return 0;
	}
	pid = cow_fork();
	if (pid == 0)
		_exit(is_page_filled(p, 0, (unsigned)left) ? many_generations(left - 1) : 1);
	return wait_for(pid);
}

START_TEST(seventy_generations)
{
	ck_assert_int_eq(many_generations(70), 0);
}
END_TEST

START_TEST(sixty_four_at_once)
{
	char *p = filled_region();
	struct reader r[64];

	for (int i = 0; i < 64; i++)
		r[i] = reader_start(i % 4 ? still_first : still_first_then_own, p);
	ck_assert_int_eq((int)stats().generation_live, 64);
	fill(p, SIZE, 7);
	for (int i = 0; i < 64; i++)
		ck_assert_int_eq(reader_ask(&r[i]), 0);
	for (int i = 0; i < 64; i++)
		ck_assert_int_eq(reader_end(&r[i]), 0);
	ck_assert(is_filled(p, SIZE, 7));
	ck_assert_int_eq((int)stats().generation_live, 0);
}
END_TEST

START_TEST(child_outlives_parent)
{
	char *verdict = shared_word();
	pid_t parent = fork();

	if (parent == 0) {
		char *p = filled_region();

		if (cow_fork() == 0) {
			while (*(volatile char *)verdict == 0)
				usleep(1000);	/* until it was reaped */
			*verdict = (char)(clean_child(p) ? 3 : 2);
			_exit(0);
		}
		fill(p, SIZE, 9);
		_exit(cow_region_destroy(p) != 0);
	}
	ck_assert_int_eq(wait_for(parent), 0);
	*verdict = 1;
	for (int i = 0; i < 10000 && *(volatile char *)verdict == 1; i++)
		usleep(1000);
	ck_assert_int_eq(*verdict, 2);
}
END_TEST

START_TEST(exec_lets_go)
{
	char *p = filled_region();
	pid_t pid = cow_fork();
	int from[2];

	ck_assert_int_eq(pipe(from), 0);
	if (pid == 0)
		_exit(execl("/bin/true", "true", (char *)NULL));
	ck_assert_int_eq(wait_for(pid), 0);
	pid = cow_fork();
	if (pid == 0) {
		dup2(from[0], 0);
		close(from[1]);
		close(from[0]);
		_exit(execl("/bin/cat", "cat", (char *)NULL));
	}
	for (int i = 0; i < 10000 && stats().generation_live; i++)
		usleep(1000);
	ck_assert_int_eq((int)stats().generation_live, 0);
	close(from[1]);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert(is_filled(p, SIZE, 1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-fork");
	TCase *tc = tcase_create("forks");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, every_way, 0, COUNT(ways));
	tcase_add_test(tc, enter_without_a_child);
	tcase_add_test(tc, unseen_child);
	tcase_add_test(tc, child_has_few_page_tables);
	tcase_add_test(tc, writes_stay_at_home);
	tcase_add_test(tc, nested);
	tcase_add_test(tc, seventy_generations);
	tcase_add_test(tc, sixty_four_at_once);
	tcase_add_test(tc, child_outlives_parent);
	tcase_add_test(tc, exec_lets_go);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
