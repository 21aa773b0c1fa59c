/*
 * What the library does on its own inside a fork: refresh (thaw and freeze at
 * once) when forks have become dear, never while a descendant could see it or
 * another thread runs; punching freed memory once nobody looks; collapsing
 * tables into huge pages. Contents, guard pages and what children see are right
 * before, during and after; memory is counted by mincore(2) on the store, not
 * by our own counters.
 *
 * A refresh comes when forks have cost enough, so loops go on until it was
 * seen, up to a number of forks that no machine should need.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"
#include "support.h"

#define SIZE (128 * MIB)
#define PAGES (SIZE / PAGE)
#define ENOUGH 3000		/* forks, a hundred times what is expected */

/* Page 0 .. PAGES-1 of `area`; the special ones are left out of the pattern. */
static char *area;
static unsigned seeds[PAGES];

enum { GUARD = 700, READ_ONLY = 5000, HOLE = 9000, SPECIAL = 40 };

static int is_special(size_t page)
{
	return (page >= GUARD && page < GUARD + SPECIAL) ||
	       (page >= READ_ONLY && page < READ_ONLY + SPECIAL) ||
	       (page >= HOLE && page < HOLE + SPECIAL);
}

static void set_huge(enum cow_huge huge)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, huge, COW_THAW_AUTO, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
}

static void make_area(void)
{
	area = region(SIZE);
	for (size_t i = 0; i < PAGES; i++) {
		seeds[i] = 1;
		fill_page(area, i, 1);
	}
	ck_assert_int_eq(cow_mprotect(area + GUARD * PAGE, SPECIAL * PAGE, PROT_NONE), 0);
	ck_assert_int_eq(cow_mprotect(area + READ_ONLY * PAGE, SPECIAL * PAGE, PROT_READ), 0);
	ck_assert_int_eq(cow_munmap(area + HOLE * PAGE, SPECIAL * PAGE), 0);
}

static int is_right(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < PAGES; i++)
		if (!is_special(i))
			NEED(is_page_filled(area, i, seeds[i]));
	for (size_t i = 0; i < SPECIAL; i++)
		NEED(is_page_filled(area, READ_ONLY + i, 1));
	return 0;
}

static int poke(void *at)
{
	signal(SIGSEGV, SIG_DFL);
	*(volatile char *)at = 1;
	return 0;
}

static int peek(void *at)
{
	signal(SIGSEGV, SIG_DFL);
	return *(volatile char *)at & 1;
}

static void check_special(void)
{
	ck_assert_int_eq(in_child(peek, area + GUARD * PAGE), 128 + SIGSEGV);
	ck_assert_int_eq(in_child(peek, area + (GUARD + SPECIAL) * PAGE - 1), 128 + SIGSEGV);
	ck_assert_int_eq(in_child(poke, area + READ_ONLY * PAGE), 128 + SIGSEGV);
	ck_assert_int_eq(in_child(peek, area + HOLE * PAGE), 128 + SIGSEGV);
	ck_assert_int_eq(in_child(poke, area + (GUARD - 1) * PAGE), 0);
	/* what the guard hid is still there */
	ck_assert_int_eq(cow_mprotect(area + GUARD * PAGE, SPECIAL * PAGE, PROT_READ), 0);
	for (size_t i = 0; i < SPECIAL; i++)
		ck_assert(is_page_filled(area, GUARD + i, 1));
	ck_assert_int_eq(cow_mprotect(area + GUARD * PAGE, SPECIAL * PAGE, PROT_NONE), 0);
}

/* What makes forks dear: entries for everything, and private pages. */
static void dirty(unsigned round)
{
	unsigned sum = 0;

	for (size_t i = 0; i < PAGES; i++)
		if (!is_special(i))
			sum += (unsigned char)area[i * PAGE + 8];
	ck_assert_uint_eq(sum, 0);
	for (size_t i = round % 97; i < PAGES; i += 997)
		if (!is_special(i)) {
			seeds[i] = round + 2;
			fill_page(area, i, seeds[i]);
		}
}

static void one_fork(unsigned round)
{
	pid_t pid = cow_fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(round % 16 == 0 ? is_right(NULL) : 0);
	ck_assert_int_eq(wait_for(pid), 0);
}

/* Forks until there was a thaw more; returns how many it took. */
static unsigned until_thaw(void)
{
	uint64_t before = stats().thaws;
	unsigned round = 0;

	while (stats().thaws == before && round < ENOUGH) {
		dirty(round);
		one_fork(round++);
	}
	return round;
}

/* The same whatever forks really cost: the meter reads far too much. */
static void want_refresh(void)
{
	process.life->meter.excess = (uint64_t)1 << 40;
	process.life->meter.retry_at = 0;
}

/* --- refresh ------------------------------------------------------------ */

START_TEST(refresh_keeps_everything)
{
	set_huge(_i ? COW_HUGE_ALWAYS : COW_HUGE_NEVER);
	make_area();
	for (unsigned cycle = 0; cycle < 3; cycle++) {
		/* huge tables stay flat by themselves: then none is due */
		if (_i)
			for (unsigned i = 0; i < 100; i++) {
				dirty(i);
				one_fork(i);
			}
		else
			ck_assert_uint_lt(until_thaw(), ENOUGH);
		ck_assert_int_eq(is_right(NULL), 0);
		ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
		check_special();
		ck_assert_int_eq(in_child(is_right, NULL), 0);
	}
	if (_i)
		return;
	ck_assert_uint_ge(stats().thaws, 3);
	ck_assert_uint_ge(stats().forks_refresh, 3);
	ck_assert_uint_gt(stats().generation, 3);
}
END_TEST

/* What was zeroed under a living child is plain memory until a refresh takes it
 * back; what has an attribute of its own stays. */
START_TEST(refresh_takes_overlays_in)
{
	const size_t part = 4 * MIB;
	struct reader child;
	char *p = region(64 * MIB);

	fill(p, 64 * MIB, 1);
	child = reader_start(NULL, NULL);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(cow_madvise(p + (size_t)(2 * i + 1) * part, part,
					     MADV_DONTNEED), 0);
	fill(p + part, part, 2);		/* of which half is never touched: */
	fill(p + 3 * part, part / 2, 3);
	ck_assert_int_eq(cow_mprotect(p + 3 * part, part, PROT_READ), 0);
	ck_assert_int_eq(cow_madvise(p + 5 * part, part, MADV_WIPEONFORK), 0);
	ck_assert_uint_eq(stats().bytes_native, 3 * part);
	reader_end(&child);
	want_refresh();
	one_fork(1);
	ck_assert_uint_eq(stats().bytes_native, part);
	ck_assert_int_eq(cow_region_state(p + part), COW_STATE_FROZEN);
	ck_assert(is_filled(p, part, 1));
	ck_assert(is_filled(p + part, part, 2));
	ck_assert(is_filled(p + 3 * part, part / 2, 3));
	ck_assert(is_zero(p + 3 * part + part / 2, part / 2));
	ck_assert_int_eq(in_child(poke, p + 3 * part), 128 + SIGSEGV);
	ck_assert_int_eq(in_child(poke, p + part), 0);
	ck_assert(is_filled(p + part, part, 2));
}
END_TEST

/* Each of these is there while every fork would like a refresh; none may come.
 * Then it goes, and one must. */
static struct reader witness;
static pthread_t thread;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static unsigned seeds_then[PAGES];

static int as_it_was(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < PAGES; i++)
		if (!is_special(i))
			NEED(is_page_filled(area, i, seeds_then[i]));
	return 0;
}

static void child_lives(void)
{
	witness = reader_start(as_it_was, NULL);
}

static int drop_attachments(void *arg)
{
	static int dropped;
	unsigned long start, end;
	char line[512];
	FILE *f;

	if (dropped++)
		return as_it_was(arg);
	f = fopen("/proc/self/maps", "r");
	NEED(f);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "/SYSV") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			syscall(SYS_munmap, start, end - start);
	fclose(f);
	return 0;
}

static void child_dropped_its_attachment(void)
{
	witness = reader_start(drop_attachments, NULL);
	ck_assert_int_eq(reader_ask(&witness), 0);
	ck_assert_int_eq((int)stats().generation_live, 0);
}

static int drop_marker(void *arg)
{
	static int dropped;

	if (dropped++)
		return as_it_was(arg);
	return (int)syscall(SYS_munmap, process.stores[0]->lease.marker, PAGE);
}

static void child_dropped_its_marker(void)
{
	witness = reader_start(drop_marker, NULL);
	ck_assert_int_eq(reader_ask(&witness), 0);
}

/* The child exits, its child stays: through pipes made here. */
static void grandchild_lives(void)
{
	int ask[2], answer[2];
	pid_t pid;

	ck_assert_int_eq(pipe(ask) | pipe(answer), 0);
	pid = cow_fork();
	if (pid == 0) {
		char c;

		pid = cow_fork();
		if (pid)
			_exit(pid < 0);
		while (read(ask[0], &c, 1) == 1 && c != 'q') {
			c = (char)as_it_was(NULL);
			if (write(answer[1], &c, 1) != 1)
				break;
		}
		_exit(0);
	}
	ck_assert_int_eq(wait_for(pid), 0);
	witness = (struct reader){ .pid = 0, .ask = ask[1], .answer = answer[0] };
}

static void *hold_on(void *arg)
{
	pthread_mutex_lock(&held);
	pthread_mutex_unlock(&held);
	return arg;
}

/* Beside which the mover would thaw. */
static void thread_lives(void)
{
	struct cow_options o = { .size = sizeof(o) };

	ck_assert_int_eq(cow_options_get(&o), 0);
	o.thaw = COW_THAW_NEVER;
	ck_assert_int_eq(cow_options_set(&o), 0);
	pthread_mutex_lock(&held);
	ck_assert_int_eq(pthread_create(&thread, NULL, hold_on, NULL), 0);
}

static void thread_ends(void)
{
	pthread_mutex_unlock(&held);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

static void reader_ends(void)
{
	ck_assert_int_eq(reader_ask(&witness), 0);
	if (witness.pid > 0)
		ck_assert_int_eq(reader_end(&witness), 0);
	else
		ck_assert_int_eq(write(witness.ask, "q", 1), 1);
}

static const struct { void (*begin)(void), (*end)(void); } hindrances[] = {
	{ child_lives, reader_ends }, { child_dropped_its_attachment, reader_ends },
	{ child_dropped_its_marker, reader_ends }, { grandchild_lives, reader_ends },
	{ thread_lives, thread_ends },
};

START_TEST(no_refresh_while)
{
	uint64_t thaws;

	set_huge(COW_HUGE_NEVER);
	make_area();
	one_fork(0);
	dirty(0);
	want_refresh();
	one_fork(0);
	ck_assert_uint_eq(stats().thaws, 1);
	for (size_t i = 0; i < PAGES; i++)
		seeds_then[i] = seeds[i];
	hindrances[_i].begin();
	thaws = stats().thaws;
	for (unsigned i = 0; i < 40; i++) {
		dirty(i + 50000);
		want_refresh();
		one_fork(i);
	}
	ck_assert_uint_eq(stats().thaws, thaws);
	hindrances[_i].end();
	ck_assert_int_eq(is_right(NULL), 0);
	/* a grandchild ends when it likes */
	for (unsigned i = 0; i < ENOUGH && stats().thaws == thaws; i++) {
		want_refresh();
		one_fork(i);
		usleep(1000);
	}
	ck_assert_uint_gt(stats().thaws, thaws);
	ck_assert_int_eq(is_right(NULL), 0);
	check_special();
}
END_TEST

/* --- memory ------------------------------------------------------------- */

/* Pages of the store that take memory there, asked of the kernel. */
static size_t resident(const char *start, size_t len)
{
	static unsigned char present[PAGES];
	const struct store *s = process_store_at((uintptr_t)start, len);
	size_t n = 0;

	ck_assert_ptr_nonnull(s);
	ck_assert_int_eq(mincore((void *)store_alias(s, (uintptr_t)start), len, present), 0);
	for (size_t i = 0; i < len / PAGE; i++)
		n += present[i] & 1;
	return n;
}

static int first_megabytes(void *arg)
{
	return !is_filled(arg, 20 * MIB, 1);
}

START_TEST(freed_memory_is_punched_later)
{
	char *p = region(20 * MIB);
	struct reader child;

	set_huge(_i ? COW_HUGE_ALWAYS : COW_HUGE_NEVER);
	fill(p, 20 * MIB, 1);
	child = reader_start(first_megabytes, p);
	ck_assert_int_eq(cow_munmap(p, 4 * MIB), 0);
	ck_assert_int_eq(cow_madvise(p + 4 * MIB, 4 * MIB, MADV_DONTNEED), 0);
	ck_assert_ptr_eq(cow_mmap(p + 8 * MIB, 4 * MIB, PROT_READ, MAP_PRIVATE |
				  MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + 8 * MIB);
	ck_assert_ptr_ne(cow_mremap(p + 16 * MIB, 4 * MIB, 8 * MIB, MREMAP_MAYMOVE, NULL),
			 MAP_FAILED);
	for (int i = 0; i < 5; i++) {
		usleep(60000);
		region(PAGE);	/* would reap */
		one_fork(1);
		ck_assert_int_eq(reader_ask(&child), 0);
	}
	ck_assert_uint_eq(resident(p, 20 * MIB), 20 * MIB / PAGE);
	ck_assert_uint_eq(stats().bytes_deferred, 16 * MIB);
	ck_assert_int_eq(reader_end(&child), 0);
	for (int i = 0; i < 500 && stats().bytes_deferred; i++) {
		usleep(10000);
		one_fork(1);
	}
	ck_assert_uint_eq(stats().bytes_deferred, 0);
	ck_assert_uint_eq(resident(p, 12 * MIB), 0);
	ck_assert_uint_eq(resident(p + 12 * MIB, 4 * MIB), 4 * MIB / PAGE);
	ck_assert(is_zero(p + 4 * MIB, 8 * MIB));
}
END_TEST

/* --- huge pages --------------------------------------------------------- */

static long *faults;

static int read_all(void *arg)
{
	*faults = minor_faults();
	if (!is_filled(arg, 32 * MIB, 1))
		return 1;
	*faults = minor_faults() - *faults;
	return 0;
}

static int can_collapse(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	return cow_facilities(&f) == 0 && f.collapse;
}

START_TEST(collapse_when_asked)
{
	char *p = region(32 * MIB), *part = region(8 * MIB);
	unsigned want = _i ? 1 : 16;	/* auto does what it was paid for */
	size_t before;

	if (!can_collapse())
		return;
	faults = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	set_huge(_i ? COW_HUGE_AUTO : COW_HUGE_ALWAYS);
	fill(p, 32 * MIB, 1);
	/* half a table, all but one page of the next, one page, none */
	fill(part, 1 * MIB, 2);
	fill(part + 2 * MIB, 2 * MIB - PAGE, 2);
	fill(part + 4 * MIB, PAGE, 2);
	before = resident(p, 32 * MIB) + resident(part, 8 * MIB);
	for (unsigned i = 0; i < ENOUGH && stats().tables_huge < want; i++)
		ck_assert_int_eq(in_child(read_all, p), 0);
	ck_assert_uint_ge(stats().tables_huge, want);
	ck_assert_uint_le(stats().tables_huge, 16);
	ck_assert_uint_eq(resident(p, 32 * MIB) + resident(part, 8 * MIB), before);
	ck_assert_int_eq(in_child(read_all, p), 0);
	if (!_i)
		ck_assert_int_lt(*faults, 100);	/* 16 tables, not 512 times 16 */
	ck_assert(is_filled(p, 32 * MIB, 1));
	ck_assert(is_filled(part, MIB, 2) && is_zero(part + MIB, MIB));
	ck_assert(is_filled(part + 2 * MIB, 2 * MIB - PAGE, 2));
	/* a huge table gives its pages back, too */
	fill(p, 2 * MIB, 7);
	ck_assert_int_eq(in_child(read_all, p), 1);
	ck_assert_int_eq(cow_region_destroy(p), 0);
	ck_assert_int_eq(cow_region_destroy(part), 0);
	ck_assert(is_zero(region(32 * MIB), 32 * MIB));
}
END_TEST

START_TEST(never_means_never)
{
	char *p = region(32 * MIB);

	faults = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	set_huge(COW_HUGE_NEVER);
	fill(p, 32 * MIB, 1);
	for (int i = 0; i < 200; i++)
		ck_assert_int_eq(in_child(read_all, p), 0);
	ck_assert_uint_eq(stats().tables_huge, 0);
	ck_assert_uint_eq(stats().collapse_ns_total, 0);
	ck_assert_int_ge(*faults, 200);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-refresh");
	TCase *tc = tcase_create("refresh");

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, refresh_keeps_everything, 0, 2);
	tcase_add_test(tc, refresh_takes_overlays_in);
	tcase_add_loop_test(tc, no_refresh_while, 0, COUNT(hindrances));
	tcase_add_loop_test(tc, freed_memory_is_punched_later, 0, 2);
	tcase_add_loop_test(tc, collapse_when_asked, 0, 2);
	tcase_add_test(tc, never_means_never);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
