/*
 * What the pager and the keeper of the in-place engine may do, and to whom: they are locked
 * in, children cannot write what they share, nobody is killed but the child that is meant, and
 * they end when the program gives up privileges. Longer than other files, since all tests share
 * the armed area and the children that lack half of it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "in-place.h"
#include "pager-run.h"
#include "process.h"
#include "support.h"
#include "uffd.h"

#define SIZE (8 * MIB)
#define KILLED (128 + SIGKILL)
#define POISONED (128 + SIGBUS)

#define CAP(number) (1ull << (number))	/* linux/capability.h */
#define READ_SEARCH CAP(2)
#define KILL CAP(5)
#define PTRACE CAP(19)

static char *area;

/* As before Linux 6.6. Set before there is a pager, which shares it. */
static int no_poison;

int __real_uffd_poison(int uffd, uintptr_t start, size_t len, size_t *ret_done);
int __wrap_uffd_poison(int uffd, uintptr_t start, size_t len, size_t *ret_done);
int __wrap_uffd_poison(int uffd, uintptr_t start, size_t len, size_t *ret_done)
{
	*ret_done = 0;
	return no_poison ? -EINVAL : __real_uffd_poison(uffd, start, len, ret_done);
}

/* Epoll takes nobody more. Shared with the pager. */
static int no_room;

int __real_sys_epoll_add(int epoll, int fd, uint64_t data);
int __wrap_sys_epoll_add(int epoll, int fd, uint64_t data);
int __wrap_sys_epoll_add(int epoll, int fd, uint64_t data)
{
	return no_room ? -ENOSPC : __real_sys_epoll_add(epoll, fd, data);
}

/* Filled, and armed. */
static void begin(void)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_IN_PLACE, COW_HUGE_NEVER,
				       COW_THAW_AUTO, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	fill(area, SIZE, 1);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_ARMED);
}

static int sees_first(void *arg)
{
	(void)arg;
	return is_filled(area, SIZE, 1) ? 0 : 1;
}

static int sees_half(void *arg)
{
	(void)arg;
	return is_filled(area, SIZE / 2, 1) ? 0 : 1;
}

/* The second half goes unseen: who lacks it cannot be served. */
static void lose_half(void)
{
	ck_assert_int_eq((int)syscall(SYS_munmap, area + SIZE / 2, SIZE / 2), 0);
}

/* --- locked in ------------------------------------------------------------ */

static unsigned long long status_of(pid_t pid, const char *name)
{
	char path[64], line[200];
	unsigned long long value = ~0ull;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			value = strtoull(line + strlen(name), NULL, 16);
	fclose(f);
	return value;
}

static void is_jailed(pid_t pid, unsigned long long capabilities)
{
	ck_assert_int_gt(pid, 0);
	ck_assert_uint_eq(status_of(pid, "Seccomp:"), 2);	/* a filter */
	ck_assert_uint_eq(status_of(pid, "NoNewPrivs:"), 1);
	ck_assert_uint_eq(status_of(pid, "CapEff:") & ~capabilities, 0);
	ck_assert_uint_eq(status_of(pid, "CapPrm:") & ~capabilities, 0);
	ck_assert_uint_eq(status_of(pid, "CapInh:"), 0);
}

static pid_t child_of(pid_t parent)
{
	char path[64];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	f = fopen(path, "r");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

START_TEST(both_are_jailed)
{
	pid_t pager, keeper;

	begin();
	pager = support_child("cowfork-pager");
	is_jailed(pager, 0);
	keeper = child_of(pager);
	if (keeper)	/* CONFIG_PROC_CHILDREN */
		is_jailed(keeper, READ_SEARCH | KILL | PTRACE);
}
END_TEST

/* Their mapping of what pager and keeper share: none that can be written. */
static int cannot_write(void *arg)
{
	char line[512];
	int seen = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	(void)arg;
	NEED(f);
	while (fgets(line, sizeof(line), f)) {
		char *end, *start = (char *)strtoul(line, &end, 16);

		if (!strstr(line, "/memfd:pager-cowfork"))
			continue;
		seen++;
		NEED(strstr(line, " r--s "));
		NEED(mprotect(start, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
	}
	fclose(f);
	NEED(seen == 1);
	return 0;
}

START_TEST(children_cannot_write)
{
	begin();
	ck_assert_int_eq(in_child(cannot_write, NULL), 0);
}
END_TEST

/* --- who is ended --------------------------------------------------------- */

/* A child finds what is not lost; and ends at what is, also where that is not told by poison
 * but by a thread that waits. */
START_TEST(only_lost_memory_kills)
{
	struct reader half, all;

	no_poison = _i;
	begin();
	half = reader_start(sees_half, NULL);
	all = reader_start(sees_first, NULL);
	ck_assert_int_eq(reader_ask(&half), 0);
	lose_half();
	ck_assert_int_ne(reader_ask(&all), 0);
	ck_assert_int_eq(wait_for(all.pid), KILLED);
	ck_assert_int_eq(reader_ask(&half), 0);
	ck_assert_int_eq(reader_end(&half), 0);
	ck_assert_uint_eq(stats().pager_killed, 1);
}
END_TEST

/* The number of a process that waits to be served, in a PID namespace of its own. */
static pid_t fork_with_number(pid_t number)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&number, .set_tid_size = 1,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

struct stranger {
	pid_t pid;
	int go[2];
};

/* It gets SIGBUS, or, before Linux 6.6, waits; whoever has its number here lives on. */
static int in_namespace(const struct stranger *s)
{
	char byte = 0;
	pid_t pid;

	if (unshare(CLONE_NEWPID) < 0)
		return 77;
	pid = raw_fork();
	NEED(pid >= 0);
	if (pid)
		return wait_for(pid);
	pid = fork_with_number(s->pid);
	if (pid < 0)
		_exit(77);
	if (pid)
		_exit(wait_for(pid));
	if (read(s->go[0], &byte, 1) != 1)
		_exit(2);
	_exit(sees_first(NULL));
}

START_TEST(numbers_of_a_namespace)
{
	struct stranger s;
	struct reader r;
	pid_t pid;
	int status;

	begin();
	r = reader_start(sees_half, NULL);
	s.pid = r.pid;
	ck_assert_int_eq(pipe(s.go), 0);
	pid = cow_fork();
	if (pid == 0)
		_exit(in_namespace(&s));
	ck_assert_int_gt(pid, 0);
	lose_half();
	ck_assert_int_eq((int)write(s.go[1], "", 1), 1);
	status = wait_for(pid);
	if (status != 77)	/* is it allowed here? */
		ck_assert_int_eq(status, POISONED);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* Another process that reads a child's memory waits for the pager as the child does: before
 * Linux 6.6 it waits on, and is not killed. */
static int reads_of(pid_t pid)
{
	char byte;
	struct iovec to = { &byte, 1 }, from = { area + SIZE / 2, 1 };
	long n = process_vm_readv(pid, &to, 1, &from, 1, 0);

	return n < 0 && errno == EFAULT ? 3 : 4;
}

START_TEST(foreign_reader)
{
	struct reader r;
	pid_t pid;

	no_poison = _i;
	begin();
	r = reader_start(sees_half, NULL);
	lose_half();
	pid = fork();	/* the test's own, of the kernel's alone */
	if (pid == 0)
		_exit(reads_of(r.pid));
	if (_i) {
		usleep(300000);
		ck_assert_int_eq(kill(pid, 0), 0);
		ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0);
		kill(pid, SIGKILL);
		ck_assert_int_eq(wait_for(pid), KILLED);
	} else {
		ck_assert_int_eq(wait_for(pid), 3);
	}
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* Another user, whom others may look at. */
static int changes_user(void *arg)
{
	(void)arg;
	NEED(syscall(SYS_setresuid, 65534, 65534, 65534) == 0);
	NEED(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	return sees_first(NULL);
}

START_TEST(child_of_another_user)
{
	struct reader r;

	begin();
	r = reader_start(changes_user, NULL);
	lose_half();
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
}
END_TEST

/* A pager that is lost in the window of a fork ends that one's child, and nobody else's. */
static int forks_again(void *arg)
{
	pid_t pid;

	NEED(sees_first(arg) == 0);
	pid = cow_fork();
	if (pid == 0)
		_exit(0);
	NEED(wait_for(pid) == 0);
	return 0;
}

START_TEST(lost_in_a_window)
{
	struct reader older;

	begin();
	older = reader_start(forks_again, NULL);
	ck_assert_int_eq(reader_ask(&older), 0);
	process_lock();
	ck_assert_int_eq(in_place_open(), 1);
	ck_assert_int_eq(kill(support_child("cowfork-pager"), SIGKILL), 0);
	in_place_close();
	process_unlock();
	ck_assert_int_eq(reader_ask(&older), 0);
	ck_assert_int_eq(reader_end(&older), 0);
}
END_TEST

/* Its standard error is full, or can only be read: it ends without words, and others are
 * served. */
static int ends_speechless(void *arg)
{
	int how = *(int *)arg, ends[2];

	if (how) {
		NEED(dup2(open("/dev/null", O_RDONLY), 2) == 2);
		return sees_first(NULL);
	}
	NEED(pipe2(ends, O_NONBLOCK) == 0);
	while (write(ends[1], "", 1) == 1)
		;
	NEED(fcntl(ends[1], F_SETFL, 0) == 0);
	NEED(dup2(ends[1], 2) == 2);
	return sees_first(NULL);
}

START_TEST(without_words)
{
	struct reader half, mute;
	int how = _i;

	begin();
	half = reader_start(sees_half, NULL);
	mute = reader_start(ends_speechless, &how);
	lose_half();
	ck_assert_int_ne(reader_ask(&mute), 0);
	ck_assert_int_eq(wait_for(mute.pid), KILLED);
	ck_assert_int_eq(reader_ask(&half), 0);
	ck_assert_int_eq(reader_end(&half), 0);
}
END_TEST

/* Whom epoll has no room for is served nevertheless, or ended. */
static int has_children(void *arg)
{
	pid_t half = raw_fork(), all;

	if (half == 0)
		_exit(sees_half(arg));
	all = raw_fork();
	if (all == 0)
		_exit(sees_first(arg));
	NEED(wait_for(half) == 0);
	NEED(wait_for(all) == KILLED);
	return 0;
}

START_TEST(without_epoll)
{
	struct reader r;

	begin();
	no_room = 1;
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	no_room = 0;
	r = reader_start(has_children, NULL);
	lose_half();
	no_room = 1;
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* More than have a place lack what is lost, when the pager is killed. */
#define CROWD (KIDS + 8)

static int is_killed_as_all(void *arg)
{
	static pid_t pids[CROWD];
	int go[2], killed = 0;
	char byte;

	NEED(pipe(go) == 0);
	NEED(dup2(open("/dev/null", O_WRONLY), 2) == 2);	/* that many last words */
	for (unsigned i = 0; i < CROWD; i++) {
		pids[i] = raw_fork();
		NEED(pids[i] >= 0);
		if (pids[i])
			continue;
		close(go[1]);
		_exit(read(go[0], &byte, 1) == 0 ? sees_first(NULL) : 2);
	}
	NEED(kill(*(pid_t *)arg, SIGKILL) == 0);
	close(go[1]);
	for (unsigned i = 0; i < CROWD; i++)
		killed += wait_for(pids[i]) == KILLED;
	NEED(killed == CROWD);
	return 0;
}

START_TEST(a_crowd_is_ended)
{
	struct reader r;
	pid_t pager;

	begin();
	pager = support_child("cowfork-pager");
	r = reader_start(is_killed_as_all, &pager);
	lose_half();
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* --- privileges are given up ----------------------------------------------- */

/* The runtime's setuid(2) does so. */
static void part(void)
{
	in_place_parted(in_place_part());
}

START_TEST(ends_for_good)
{
	struct reader r;
	pid_t pager;

	begin();
	r = reader_start(sees_first, NULL);
	pager = support_child("cowfork-pager");
	ck_assert_int_gt(pager, 0);
	part();
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
	ck_assert(kill(pager, 0) < 0 && errno == ESRCH);
	fill(area, SIZE, 2);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
	ck_assert_uint_eq(stats().adopt_reason, COW_REASON_PRIVILEGES);
	ck_assert_int_lt(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
}
END_TEST

/* A child that cannot be served does not keep it here. */
START_TEST(ends_beside_the_lost)
{
	struct reader r;

	begin();
	r = reader_start(sees_first, NULL);
	lose_half();
	part();
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), POISONED);
}
END_TEST

/* A zombie does not. */
static int pager_runs(void)
{
	char path[64], state = 'Z';
	pid_t pid = support_child("cowfork-pager");
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = pid ? fopen(path, "r") : NULL;
	if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = '?';
	if (f)
		fclose(f);
	return state != 'Z';
}

/* Also where what it lacks lies in several mappings, by now, and some of it in none. */
static int cut_up(void *arg)
{
	(void)arg;
	NEED(mprotect(area + SIZE - MIB, PAGE, PROT_NONE) == 0);
	NEED(munmap(area + SIZE - 2 * MIB, 4 * PAGE) == 0);
	return 0;
}

START_TEST(ends_beside_the_lost_in_pieces)
{
	struct reader r;

	begin();
	r = reader_start(cut_up, NULL);
	ck_assert_int_eq(reader_ask(&r), 0);
	lose_half();
	part();
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* Whatever engine is chosen by then. */
START_TEST(ends_when_another_is_chosen)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_AUTO, COW_HUGE_NEVER,
				       COW_THAW_AUTO, COW_ADOPT_NEVER };

	begin();
	ck_assert_int_eq(cow_options_set(&o), 0);
	part();
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
}
END_TEST

/* Before Linux 6.6 it does, for as long as that lives; nothing is armed meanwhile. */
START_TEST(ends_after_the_lost)
{
	struct reader r;

	no_poison = 1;
	begin();
	r = reader_start(sees_first, NULL);
	lose_half();
	part();
	ck_assert_int_gt(support_child("cowfork-pager"), 0);
	ck_assert_uint_eq(stats().bytes_armed, 0);
	ck_assert_uint_eq(stats().adopt_reason, COW_REASON_PRIVILEGES);
	ck_assert_int_lt(cow_adopt(area, SIZE / 2), 0);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	if (_i)		/* by itself, too, within a second or two */
		sleep(3);
	else
		ck_assert_int_eq(in_child(sees_half, NULL), 0);
	ck_assert_int_eq(pager_runs(), 0);
	ck_assert_int_eq(in_child(sees_half, NULL), 0);
	ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
}
END_TEST

/* By a call that nobody saw: the program may not even kill it any more. */
START_TEST(ends_for_another_user)
{
	begin();
	ck_assert_int_eq((int)syscall(SYS_setresuid, 65534, 65534, 65534), 0);
	part();
	ck_assert_int_eq(support_child("cowfork-pager"), 0);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
}
END_TEST

/* Nobody's call begins one between a part and what it is for. */
START_TEST(none_begins_meanwhile)
{
	int parting;

	begin();
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	parting = in_place_part();
	ck_assert_int_gt(parting, 0);
	process.life->pager.reason = 0;	/* as if there had been none yet */
	ck_assert_int_lt(cow_adopt(area, SIZE), 0);
	in_place_parted(parting);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
}
END_TEST

static Suite *pager_suite(void)
{
	Suite *s = suite_create("pager");
	TCase *jailed = tcase_create("locked in");
	TCase *ended = tcase_create("who is ended");
	TCase *parts = tcase_create("privileges are given up");

	tcase_add_test(jailed, both_are_jailed);
	tcase_add_test(jailed, children_cannot_write);
	tcase_add_loop_test(ended, only_lost_memory_kills, 0, 2);
	tcase_add_test(ended, numbers_of_a_namespace);
	tcase_add_loop_test(ended, foreign_reader, 0, 2);
	tcase_add_test(ended, child_of_another_user);
	tcase_add_test(ended, lost_in_a_window);
	tcase_add_loop_test(ended, without_words, 0, 2);
	tcase_add_test(ended, without_epoll);
	tcase_add_test(ended, a_crowd_is_ended);
	tcase_add_test(parts, ends_for_good);
	tcase_add_test(parts, ends_beside_the_lost);
	tcase_add_test(parts, ends_beside_the_lost_in_pieces);
	tcase_add_test(parts, ends_when_another_is_chosen);
	tcase_add_loop_test(parts, ends_after_the_lost, 0, 2);
	tcase_add_test(parts, ends_for_another_user);
	tcase_add_test(parts, none_begins_meanwhile);
	suite_add_tcase(s, jailed);
	suite_add_tcase(s, ended);
	suite_add_tcase(s, parts);
	return s;
}

int main(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	if (cow_facilities(&f) < 0 || !f.in_place) {
		printf("skip: no userfaultfd that tells of forks\n");
		return 77;
	}
	return support_run(pager_suite());
}
