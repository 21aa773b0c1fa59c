/*
 * Forks from odd places, and programs that do odd things around them: from many
 * threads while others write, from signal handlers, from within and around
 * atfork handlers that use the library themselves, after closing every
 * descriptor, by daemon(3); vfork and posix_spawn, which must stay as they are.
 * What is left in the system when a process ends, however it ended: nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define SIZE (6 * MIB)

static char *area;

static int clean_child(void *seed)
{
	NEED(store_mappings(1) == 0);
	NEED(is_filled(area, SIZE, *(unsigned *)seed));
	fill(area, SIZE, 99);
	return 0;
}

static void filled_region(unsigned seed)
{
	area = region(SIZE);
	fill(area, SIZE, seed);
}

/* --- threads ------------------------------------------------------------ */

/* A writer counts upward in two words of every page of its own region, the
 * first before the second. A child sees all of it at one moment: no page of
 * the second count is ahead of the first, and nothing goes back. */
#define WRITERS 2
#define FORKERS 4
#define WPAGES 600

static char *written[WRITERS];
static atomic_int stop;

static void *write_on(void *arg)
{
	char *p = arg;

	for (uint64_t n = 1; !atomic_load(&stop); n++)
		for (size_t i = 0; i < WPAGES; i++) {
			volatile uint64_t *w = (uint64_t *)(p + i * PAGE);

			w[0] = n;
			w[511] = n;
		}
	return NULL;
}

static int is_one_moment(const char *p)
{
	uint64_t previous = UINT64_MAX, first = 0;

	for (size_t i = 0; i < WPAGES; i++) {
		const uint64_t *w = (const uint64_t *)(p + i * PAGE);

		first = i ? first : w[0];
		NEED(w[0] == w[511] || w[0] == w[511] + 1);
		NEED(w[0] <= previous && first - w[0] <= 1);
		previous = w[0];
	}
	return 0;
}

static int look_from_child(void)
{
	char *mine;

	for (int i = 0; i < WRITERS; i++)
		if (is_one_moment(written[i]))
			return 1;
	NEED(store_mappings(1) == 0);
	mine = region(MIB);
	fill(mine, MIB, 3);
	NEED(is_filled(mine, MIB, 3));
	return 0;
}

static void *fork_on(void *arg)
{
	long bad = 0;

	(void)arg;
	for (int i = 0; i < 25; i++) {
		char *mine = region(MIB);
		pid_t pid;

		fill(mine, MIB, (unsigned)i + 1);
		pid = i % 2 ? cow_fork() : fork();
		if (pid == 0)
			_exit(look_from_child() || !is_filled(mine, MIB, (unsigned)i + 1));
		bad += wait_for(pid) != 0;
		bad += !is_filled(mine, MIB, (unsigned)i + 1);
		bad += cow_region_destroy(mine) != 0;
	}
	return (void *)bad;
}

/* With a mover beside them, and without. */
START_TEST(forks_by_threads)
{
	struct cow_options o = { .size = sizeof(o) };
	pthread_t writers[WRITERS], forkers[FORKERS];
	void *bad;

	ck_assert_int_eq(cow_options_get(&o), 0);
	o.thaw = _i ? COW_THAW_NEVER : COW_THAW_AUTO;
	ck_assert_int_eq(cow_options_set(&o), 0);
	for (int i = 0; i < WRITERS; i++) {
		written[i] = region(WPAGES * PAGE);
		ck_assert_int_eq(pthread_create(&writers[i], NULL, write_on, written[i]), 0);
	}
	for (int i = 0; i < FORKERS; i++)
		ck_assert_int_eq(pthread_create(&forkers[i], NULL, fork_on, NULL), 0);
	for (int i = 0; i < FORKERS; i++) {
		ck_assert_int_eq(pthread_join(forkers[i], &bad), 0);
		ck_assert_ptr_null(bad);
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < WRITERS; i++) {
		ck_assert_int_eq(pthread_join(writers[i], NULL), 0);
		ck_assert_int_eq(is_one_moment(written[i]), 0);
	}
	ck_assert_uint_eq(stats().forks, FORKERS * 25);
	ck_assert(!_i || stats().thaws == 0);
}
END_TEST

/* --- signal handlers ---------------------------------------------------- */

static volatile sig_atomic_t handled, handler_bad;

static void fork_in_handler(int number)
{
	unsigned seed = 1;
	int before = errno;
	pid_t pid = number == SIGUSR1 ? fork() : cow_fork();

	if (pid == 0)
		_exit(clean_child(&seed));
	handler_bad |= wait_for(pid) != 0;
	handled++;
	errno = before;
}

START_TEST(fork_in_a_signal_handler)
{
	const struct sigaction act = { .sa_handler = fork_in_handler };
	pthread_t self_thread = pthread_self();

	filled_region(1);
	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
	for (int i = 0; i < 5; i++) {
		pthread_kill(self_thread, SIGUSR1);
		pthread_kill(self_thread, SIGUSR2);
	}
	ck_assert_int_eq(handled, 10);
	ck_assert_int_eq(handler_bad, 0);
}
END_TEST

static void *send_signals(void *arg)
{
	pthread_t to = *(pthread_t *)arg;

	/* where a fork takes longer than the pause, nothing else gets on */
	while (!atomic_load(&stop) && handled < 50) {
		pthread_kill(to, SIGUSR1);
		usleep(500);
	}
	return NULL;
}

/* Signals that fork, falling into calls of the library. */
START_TEST(signals_during_calls)
{
	const struct sigaction act = { .sa_handler = fork_in_handler };
	pthread_t me = pthread_self(), sender;

	filled_region(1);
	sigaction(SIGUSR1, &act, NULL);
	ck_assert_int_eq(pthread_create(&sender, NULL, send_signals, &me), 0);
	for (int i = 0; handled < 50 && i < 100000; i++) {
		char *p = region(300 * KIB);

		fill(p, 300 * KIB, (unsigned)i);
		if (cow_madvise(p, 100 * KIB, MADV_DONTNEED) < 0 ||
		    !is_zero(p, 100 * KIB) || cow_region_destroy(p) < 0)
			handler_bad = 1;
	}
	atomic_store(&stop, 1);
	ck_assert_int_eq(pthread_join(sender, NULL), 0);
	ck_assert_int_ge(handled, 50);
	ck_assert_int_eq(handler_bad, 0);
}
END_TEST

/* --- atfork handlers ---------------------------------------------------- */

static char *made[6];		/* by the prepare, parent and child handlers, of
				 * the sets registered before and after ours */
static char *to_free, *to_write;

static void use_the_library(int slot)
{
	made[slot] = region(200 * KIB);
	fill(made[slot], 200 * KIB, 20u + (unsigned)slot);
	fill(to_write, PAGE * 3, 30u + (unsigned)slot);
}

static void early_prepare(void) { use_the_library(0); }
static void early_parent(void) { use_the_library(1); }
static void early_child(void) { use_the_library(2); }
static void late_parent(void) { use_the_library(4); }
static void late_child(void) { use_the_library(5); }

static void late_prepare(void)
{
	use_the_library(3);
	if (to_free && cow_region_destroy(to_free) < 0)
		abort();
	to_free = NULL;
}

static int right_in(int first, int second, int other)
{
	sigset_t set;

	NEED(is_filled(made[0], 200 * KIB, 20));
	NEED(is_filled(made[3], 200 * KIB, 23));
	NEED(is_filled(made[first], 200 * KIB, 20u + (unsigned)first));
	NEED(is_filled(made[second], 200 * KIB, 20u + (unsigned)second));
	NEED(made[other] == NULL);
	NEED(is_filled(area, SIZE, 1));
	NEED(has_state(area, COW_STATE_FROZEN));
	sigprocmask(SIG_BLOCK, NULL, &set);
	NEED(!sigismember(&set, SIGUSR1));
	NEED(has_state(region(MIB), COW_STATE_OWNED));
	return 0;
}

static int child_of_handlers(void)
{
	pid_t pid;

	if (right_in(2, 5, 1))
		return 1;
	made[1] = made[4] = NULL;
	made[2] = made[5] = NULL;
	pid = cow_fork();
	if (pid == 0)
		_exit(right_in(2, 5, 1));
	NEED(right_in(1, 4, 2) == 0);
	return wait_for(pid);
}

START_TEST(atfork_handlers_use_the_library)
{
	pid_t pid;

	/* before the first use of the library, which registers its own */
	if (_i)
		ck_assert_int_eq(pthread_atfork(early_prepare, early_parent, early_child), 0);
	filled_region(1);
	to_free = region(MIB);
	to_write = region(MIB);
	ck_assert_int_eq(pthread_atfork(late_prepare, late_parent, late_child), 0);
	if (!_i)
		ck_assert_int_eq(pthread_atfork(early_prepare, early_parent, early_child), 0);
	for (int round = 0; round < 3; round++) {
		memset(made, 0, sizeof(made));
		pid = round % 2 ? cow_fork() : fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0)
			_exit(child_of_handlers());
		ck_assert_int_eq(wait_for(pid), 0);
		ck_assert_int_eq(right_in(1, 4, 2), 0);
		ck_assert_uint_eq(stats().forks, (unsigned)round + 1);
	}
}
END_TEST

static atomic_int in_handler;

static void fork_within(void)
{
	pid_t pid;

	if (atomic_fetch_add(&in_handler, 1) == 0) {
		unsigned seed = 1;

		pid = fork();
		if (pid == 0)
			_exit(clean_child(&seed));
		if (wait_for(pid))
			abort();
	}
	atomic_fetch_sub(&in_handler, 1);
}

START_TEST(fork_in_an_atfork_handler)
{
	unsigned seed = 1;

	if (_i)
		ck_assert_int_eq(pthread_atfork(fork_within, NULL, NULL), 0);
	filled_region(1);
	if (!_i)
		ck_assert_int_eq(pthread_atfork(fork_within, NULL, NULL), 0);
	for (int round = 0; round < 3; round++) {
		fill(area, PAGE, 1);
		ck_assert_int_eq(in_child(clean_child, &seed), 0);
	}
	ck_assert(has_state(region(MIB), COW_STATE_OWNED));
}
END_TEST

/* --- descriptors -------------------------------------------------------- */

static int without_descriptors(void *arg)
{
	unsigned seed = 1;
	int file;

	(void)arg;
	filled_region(1);
	NEED(store_descriptors() == 0);
	close_range(3, ~0u, 0);
	/* the numbers come back as something else, and get written to */
	file = memfd_create("scribble", 0);
	for (int fd = 3; fd < 100; fd++)
		if (fd != file)
			dup2(file, fd);
	for (int fd = 3; fd < 100; fd++)
		if (ftruncate(fd, 1 << 20) < 0 || pwrite(fd, "garbage", 7, 0) != 7)
			return 1;
	for (int round = 0; round < 3; round++) {
		NEED(in_child(clean_child, &seed) == 0);
		NEED(is_filled(area, SIZE, 1));
		fill(area, SIZE / 2, 1);
	}
	close_range(0, ~0u, 0);
	if (in_child(clean_child, &seed))
		return 1;
	area = region(SIZE);
	fill(area, SIZE, 1);
	return in_child(clean_child, &seed) || !is_filled(area, SIZE, 1);
}

START_TEST(all_descriptors_closed)
{
	ck_assert_int_eq(in_child(without_descriptors, NULL), 0);
}
END_TEST

static int become_daemon(void *verdict)
{
	filled_region(1);
	if (daemon(1, 1) < 0)
		return 1;
	*(volatile char *)verdict = (char)(clean_child(&(unsigned){ 1 }) ? 2 : 3);
	return 0;
}

START_TEST(daemon_keeps_memory)
{
	volatile char *verdict = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_int_eq(in_child(become_daemon, (void *)verdict), 0);
	for (int i = 0; i < 10000 && !*verdict; i++)
		usleep(1000);
	ck_assert_int_eq(*verdict, 3);
}
END_TEST

/* --- children that share memory until exec ------------------------------ */

START_TEST(vfork_and_spawn)
{
	char *const argv[] = { (char *)"true", NULL };
	char *const empty[] = { NULL };
	struct cow_stats before;
	pid_t pid;
	FILE *f;
	char line[8] = "";

	filled_region(1);
	before = stats();
	pid = vfork();
	if (pid == 0) {
		area[0] = 'v';	/* memory is the parent's */
		_exit(!has_state(area, COW_STATE_OWNED));
	}
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_int_eq(area[0], 'v');
	ck_assert_int_eq(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, empty), 0);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_int_eq(system("exit 3") >> 8, 3);
	f = popen("echo hello", "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), f));
	ck_assert_int_eq(pclose(f), 0);
	ck_assert_str_eq(line, "hello\n");
	ck_assert(has_state(area, COW_STATE_OWNED));
	ck_assert_uint_eq(stats().forks, before.forks);
	fill_page(area, 0, 1);
	ck_assert_int_eq(in_child(clean_child, &(unsigned){ 1 }), 0);
}
END_TEST

/* --- nothing is left ---------------------------------------------------- */

static int use_and_end(void *how)
{
	filled_region(1);
	if (in_child(clean_child, &(unsigned){ 1 }) || shm_segments(getpid()) != 1)
		return 1;
	if (!strcmp(how, "kill"))
		raise(SIGKILL);
	if (!strcmp(how, "exec"))
		execl("/bin/true", "true", (char *)NULL);
	return !strcmp(how, "exit") ? 0 : 1;
}

static const struct { const char *how; int status; } ends[] = {
	{ "exit", 0 }, { "exec", 0 }, { "kill", 128 + SIGKILL },
};

START_TEST(no_segment_is_left)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(use_and_end((void *)(uintptr_t)ends[_i].how));
	ck_assert_int_eq(wait_for(pid), ends[_i].status);
	ck_assert_int_eq(shm_segments(pid), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-odd");
	TCase *tc = tcase_create("odd places");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, forks_by_threads, 0, 2);
	tcase_add_test(tc, fork_in_a_signal_handler);
	tcase_add_test(tc, signals_during_calls);
	tcase_add_loop_test(tc, atfork_handlers_use_the_library, 0, 2);
	tcase_add_loop_test(tc, fork_in_an_atfork_handler, 0, 2);
	tcase_add_test(tc, all_descriptors_closed);
	tcase_add_test(tc, daemon_keeps_memory);
	tcase_add_test(tc, vfork_and_spawn);
	tcase_add_loop_test(tc, no_segment_is_left, 0, COUNT(ends));
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
