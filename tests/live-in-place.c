/*
 * The in-place engine: what children see whatever the parent, they themselves or somebody
 * outside do, and what is left when the pager is lost. Longer than other files, since all
 * tests share the armed area and the children that look at it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "in-place.h"
#include "compat.h"
#include "support.h"

#define SIZE (8 * MIB)
#define PAGES (SIZE / PAGE)
#define WIDE (128 * MIB)
#define KILLED (128 + SIGKILL)
#define CRASHED (128 + SIGSEGV)

static char *area;

static void nap(unsigned ms)
{
	const struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static void map_filled(size_t size)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_IN_PLACE, COW_HUGE_NEVER,
				       COW_THAW_AUTO, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
	area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	fill(area, size, 1);
}

/* Filled, and armed. */
static void begin_with(size_t size)
{
	map_filled(size);
	ck_assert_int_eq(cow_adopt(area, size), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_ARMED);
}

static void begin(void)
{
	begin_with(SIZE);
}

static int sees_first(void *arg)
{
	(void)arg;
	return is_filled(area, SIZE, 1) ? 0 : 1;
}

static int does_nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* --- what children see --------------------------------------------------- */

START_TEST(child_begins_empty)
{
	begin();
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	pid_t pid = cow_fork();
	if (pid == 0)
		_exit(present_pages(area, SIZE) ? 1 : 0);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_uint_eq(stats().forks_in_place, 2);
	ck_assert_uint_eq(stats().bytes_armed, SIZE);
}
END_TEST

static int writes_all(void *arg)
{
	(void)arg;
	fill(area, SIZE, 2);
	return is_filled(area, SIZE, 2) ? 0 : 1;
}

START_TEST(neither_sees_the_other)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(writes_all, NULL), 0);
	ck_assert(is_filled(area, SIZE, 1));
	r = reader_start(sees_first, NULL);
	fill(area, SIZE, 3);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
	ck_assert(is_filled(area, SIZE, 3));
}
END_TEST

/* Where the first large block of a program lies. It stayed plain for that. */
START_TEST(below_a_control_block)
{
	const uintptr_t block = (uintptr_t)pthread_self() & ~(uintptr_t)(PAGE - 1);

	begin();
	ck_assert_int_eq(cow_munmap(area, SIZE), 0);
	area = MAP_FAILED;
	for (size_t n = 0; n < 16 && area == MAP_FAILED; n++)
		area = mmap((void *)(block - n * PAGE - SIZE), SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
#ifdef WITH_UBSAN_LIBRARY	/* may lie there */
	if (area == MAP_FAILED)
		return;
#endif
	ck_assert_ptr_ne(area, MAP_FAILED);
	fill(area, SIZE, 1);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_uint_ge(stats().bytes_armed, SIZE - 4 * PAGE);
	ck_assert_int_eq(in_child(writes_all, NULL), 0);
	ck_assert(is_filled(area, SIZE, 1));
}
END_TEST

/* How the parent's memory goes. */
static void *cut_moved;

static void go(int how)
{
	switch (how) {
	case 0:
		ck_assert_int_eq(cow_madvise(area, SIZE / 2, MADV_DONTNEED), 0);
		ck_assert(is_zero(area, SIZE / 2));
		break;
	case 1:
		ck_assert_int_eq((int)syscall(SYS_madvise, area, SIZE / 2, MADV_DONTNEED), 0);
		ck_assert(is_zero(area, SIZE / 2));
		break;
	case 2:
		ck_assert_int_eq(cow_munmap(area, SIZE / 2), 0);
		break;
	case 3:
		cut_moved = cow_mremap(area, SIZE, SIZE * 2, MREMAP_MAYMOVE, NULL);
		ck_assert_ptr_ne(cut_moved, MAP_FAILED);
		fill(cut_moved, SIZE, 7);
		break;
	case 4:
		cut_moved = (void *)syscall(SYS_mremap, area, SIZE, SIZE,
					    MREMAP_MAYMOVE | MREMAP_FIXED, area + 4 * GIB);
		ck_assert_ptr_eq(cut_moved, area + 4 * GIB);
		fill(cut_moved, SIZE, 7);
		break;
	case 5:
		ck_assert_ptr_eq(cow_mmap(area, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS |
					  MAP_FIXED, -1, 0), area);
		break;
	case 6:
		ck_assert_int_eq(cow_mprotect(area, SIZE, PROT_NONE), 0);
		break;
	case 7:
		cut_moved = (void *)syscall(SYS_mremap, area, SIZE, SIZE, MREMAP_MAYMOVE |
					    MREMAP_FIXED | MREMAP_DONTUNMAP, area + 4 * GIB);
		ck_assert_ptr_eq(cut_moved, area + 4 * GIB);
		ck_assert(is_zero(area, SIZE));
		fill(cut_moved, SIZE, 7);
		fill(area, SIZE, 8);
		break;
	default:
		ck_assert_int_eq(cow_release(NULL, 0), 0);
		fill(area, SIZE, 4);
		break;
	}
}

#define WAYS_TO_GO 9

START_TEST(memory_goes)
{
	struct reader r;

	begin();
	r = reader_start(sees_first, NULL);
	go(_i);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* ... when it was emptied and filled again before the fork: what is a hole where it was is
 * none where it went. */
START_TEST(refilled_memory_goes)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	ck_assert_int_eq(cow_madvise(area, SIZE, MADV_DONTNEED), 0);
	fill(area, SIZE, 1);
	r = reader_start(sees_first, NULL);
	go(_i);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

static int sees_first_or_zero(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p++)
		NEED(is_zero(area + p * PAGE, PAGE) || is_page_filled(area, p, 1));
	return 0;
}

/* Given to the kernel before it was armed, which takes it, in or before a child's life. */
START_TEST(kernel_takes_pages)
{
	struct reader r;

	map_filled(SIZE);
	ck_assert_int_eq(madvise(area, SIZE, MADV_FREE), 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	if (_i)
		r = reader_start(sees_first_or_zero, NULL);
	ck_assert_int_eq((int)syscall(SYS_madvise, area, SIZE, MADV_PAGEOUT), 0);
	fprintf(stderr, "the kernel took %zu pages of %zu\n", PAGES - present_pages(area, SIZE),
		PAGES);
	if (!_i) {
		fill(area, SIZE, 1);
		r = reader_start(sees_first, NULL);
		fill(area, SIZE, 2);
	}
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* Rather than zeros. */
START_TEST(memory_goes_unseen)
{
	struct reader r;

	begin();
	r = reader_start(sees_first, NULL);
	ck_assert_int_eq((int)syscall(SYS_munmap, area, SIZE), 0);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	ck_assert_uint_eq(stats().pager_killed, 1);
}
END_TEST

static int sees_guarded(void *arg)
{
	(void)arg;
	return is_page_filled(area, 3, 1) ? 0 : 1;
}

/* What the kernel has no more is no hole, in memory that was emptied before or not: a guard is
 * such a page, as are a poisoned one and one that cannot be swapped in. */
START_TEST(page_is_unreadable)
{
	struct reader r;

	begin();
	if (_i) {
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
		ck_assert_int_eq(cow_madvise(area, SIZE, MADV_DONTNEED), 0);
		fill(area, SIZE, 1);
	}
	r = reader_start(sees_guarded, NULL);
	if (syscall(SYS_madvise, area + 3 * PAGE, PAGE, MADV_GUARD_INSTALL) < 0) {
		ck_assert_int_eq(errno, EINVAL);	/* an older kernel */
		ck_assert_int_eq(reader_ask(&r), 0);
		ck_assert_int_eq(reader_end(&r), 0);
		return;
	}
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	ck_assert_uint_eq(stats().pager_killed, 1);
}
END_TEST

/* --- what children do ---------------------------------------------------- */

static int calls_on_it(void *arg)
{
	char *moved;

	(void)arg;
	NEED(syscall(SYS_madvise, area, 16 * PAGE, MADV_DONTNEED) == 0);
	NEED(is_zero(area, 16 * PAGE));
	moved = (char *)syscall(SYS_mremap, area + MIB, MIB, 2 * MIB, MREMAP_MAYMOVE);
	NEED(moved != MAP_FAILED);
	for (size_t i = 0; i < MIB / PAGE; i++)
		NEED(is_page_filled(moved - MIB, MIB / PAGE + i, 1));
	NEED(is_zero(moved + MIB, MIB));
	NEED(syscall(SYS_munmap, area + 2 * MIB, MIB) == 0);
	NEED(mmap(area + 2 * MIB, MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		  0) == area + 2 * MIB);
	NEED(is_zero(area + 2 * MIB, MIB));
	for (size_t p = 3 * MIB / PAGE; p < PAGES; p++)
		NEED(is_page_filled(area, p, 1));
	return 0;
}

START_TEST(child_calls)
{
	begin();
	ck_assert_int_eq(in_child(calls_on_it, NULL), 0);
	ck_assert(is_filled(area, SIZE, 1));
}
END_TEST

static int page_moved(void *arg)
{
	char *moved = (char *)syscall(SYS_mremap, area, SIZE, SIZE,
				      MREMAP_MAYMOVE | MREMAP_FIXED, area + 4 * GIB);

	(void)arg;
	NEED(moved == area + 4 * GIB);
	return is_filled(moved, SIZE, 1) ? 0 : 1;
}

START_TEST(child_moves)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(page_moved, NULL), 0);
	r = reader_start(page_moved, NULL);
	fill(area, SIZE, 5);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* What the child has changed is the grandchild's, the rest comes from the grandparent. */
static int forks_again(void *arg)
{
	pid_t pid;
	int status;

	fill(area, SIZE / 2, 9);
	pid = arg ? raw_fork() : fork();
	if (pid == 0) {
		int good = is_filled(area, SIZE / 2, 9);

		for (size_t p = PAGES / 2; p < PAGES; p++)
			good &= is_page_filled(area, p, 1);
		fill(area, SIZE, 10);
		_exit(good ? 0 : 1);
	}
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	return is_filled(area, SIZE / 2, 9) ? 0 : 1;
}

START_TEST(grandchild)
{
	begin();
	ck_assert_int_eq(in_child(forks_again, _i ? &area : NULL), 0);
}
END_TEST

static int through_the_kernel(void *arg)
{
	int fd[2];
	static char buffer[PAGE];

	(void)arg;
	NEED(pipe(fd) == 0);
	NEED(write(fd[1], area + 5 * PAGE, PAGE) == (ssize_t)PAGE);
	NEED(read(fd[0], buffer, PAGE) == (ssize_t)PAGE);
	memcpy(area, buffer, PAGE);
	fill_page(area, 5, 1);
	NEED(!memcmp(area, area + 5 * PAGE, PAGE));
	NEED(write(fd[1], buffer, PAGE) == (ssize_t)PAGE);
	NEED(read(fd[0], area + 7 * PAGE, PAGE) == (ssize_t)PAGE);
	return memcmp(area + 7 * PAGE, buffer, PAGE) ? 1 : 0;
}

START_TEST(kernel_touches)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(through_the_kernel, NULL), 0);
	r = reader_start(sees_first, NULL);
	ck_assert_int_eq(through_the_kernel(NULL), 0);	/* and here */
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* --- who is killed ------------------------------------------------------- */

START_TEST(pager_is_killed)
{
	struct reader lacks, has;
	pid_t pager;

	begin();
	has = reader_start(sees_first, NULL);
	ck_assert_int_eq(reader_ask(&has), 0);
	lacks = reader_start(sees_first, NULL);
	pager = support_child("cowfork-pager");
	ck_assert_int_gt(pager, 0);
	ck_assert_int_eq(kill(pager, SIGKILL), 0);
	ck_assert_int_ne(reader_ask(&lacks), 0);
	ck_assert_int_eq(wait_for(lacks.pid), KILLED);
	ck_assert_int_eq(reader_ask(&has), 0);
	ck_assert_int_eq(reader_end(&has), 0);
	fill(area, SIZE / 2, 1);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	ck_assert_uint_gt(stats().native[COW_REASON_PAGER], 0);
	ck_assert_uint_eq(stats().bytes_armed, 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), -EPERM);
}
END_TEST

/* Moved or where it is, locked or not: what it grew by is there for the program itself. */
START_TEST(grows_unseen)
{
	char *room, *now;

	begin();
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	room = mmap(NULL, 3 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(room, MAP_FAILED);
	now = (char *)syscall(SYS_mremap, area, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
				room);
	ck_assert_ptr_eq(now, room);
	area = now;
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	if (_i & 1)
		(void)!syscall(SYS_mlock, area, SIZE);
	if (!(_i & 2))
		ck_assert_int_eq(munmap(room + SIZE, 2 * SIZE), 0);
	now = (char *)syscall(SYS_mremap, area, SIZE, 2 * SIZE, _i & 2 ? MREMAP_MAYMOVE : 0);
	ck_assert_ptr_ne(now, MAP_FAILED);
	area = now;
	ck_assert(is_zero(area + SIZE, SIZE));
	fill(area + SIZE, SIZE, 3);
	ck_assert(is_filled(area + SIZE, SIZE, 3));
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
}
END_TEST

START_TEST(everything_is_locked)
{
	begin();
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	(void)!syscall(SYS_mlockall, MCL_CURRENT);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(in_child(sees_first, NULL), 0);
	ck_assert_uint_eq(stats().bytes_armed, SIZE);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
}
END_TEST

/* How a parent ends while its child lacks everything; what the child says comes by a pipe. */
static void end_of_parent(int how)
{
	char *const argv[] = { (char *)"true", NULL };

	switch (how) {
	case 0: kill(getpid(), SIGKILL); break;
	case 1: _exit(0);
	case 2: execv("/bin/true", argv); break;
	default: *(volatile int *)0 = 0; break;
	}
}

START_TEST(parent_ends)
{
	int fd[2];
	char answer = 0;
	pid_t pid;

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		begin();
		if (cow_fork() == 0) {
			while (getppid() == pid)
				nap(1);
			nap(1500);	/* the pager has looked around */
			answer = is_filled(area, SIZE, 1) ? 'y' : 'n';
			(void)!write(fd[1], &answer, 1);
			_exit(0);
		}
		end_of_parent(_i);
	}
	close(fd[1]);
	ck_assert_int_eq((int)read(fd[0], &answer, 1), 1);
	ck_assert_int_eq(answer, 'y');
	close(fd[0]);
	wait_for(pid);
}
END_TEST

/* Nor is its memory kept when no child needs it. */
START_TEST(nobody_stays)
{
	pid_t pid, pager = 0;
	int fd[2];

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		begin();
		pager = support_child("cowfork-pager");
		(void)!write(fd[1], &pager, sizeof(pager));
		end_of_parent(_i);
	}
	ck_assert_int_eq((int)read(fd[0], &pager, sizeof(pager)), (int)sizeof(pager));
	wait_for(pid);
	for (int i = 0; i < 500 && kill(pager, 0) == 0; i++)
		nap(10);
	ck_assert_int_ne(kill(pager, 0), 0);
}
END_TEST

START_TEST(unseen_fork)
{
	pid_t pid;

	begin();
	pid = raw_fork();
	if (pid == 0)
		_exit(((volatile char *)area)[0] == 0);
	ck_assert_int_eq(wait_for(pid), CRASHED);
	ck_assert(is_filled(area, SIZE, 1));
}
END_TEST

static atomic_int stop_writer;

static void *writes_on(void *arg)
{
	(void)arg;
	for (unsigned n = 1; !stop_writer; n++)
		*(volatile unsigned *)(area + SIZE / 2) = 0x80000000u | n;
	return NULL;
}

static int knows_written(void *arg)
{
	(void)arg;
	return *(volatile unsigned *)(area + SIZE / 2) & 0x80000000u ? 0 : 1;
}

/* A writer waits no longer than some milliseconds, and a fork that copies page tables of
 * other memory takes longer. */
START_TEST(slow_fork)
{
	char *other = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	ck_assert_ptr_ne(other, MAP_FAILED);
	ck_assert_int_eq(madvise(other, GIB, MADV_NOHUGEPAGE), 0);
	memset(other, 1, GIB);
	begin();
	ck_assert_int_eq(pthread_create(&thread, NULL, writes_on, NULL), 0);
	while (knows_written(NULL))
		;
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(in_child(knows_written, NULL), 0);
	stop_writer = 1;
	pthread_join(thread, NULL);
}
END_TEST

START_TEST(maps_run_out)
{
	const size_t most = 80000;
	char *many = mmap(NULL, most * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t n = 0;

	ck_assert_ptr_ne(many, MAP_FAILED);
	begin();
	while (n < most && mprotect(many + n * PAGE, PAGE, PROT_READ) == 0)
		n += 2;
	ck_assert_int_lt(cow_munmap(area + MIB, PAGE), 0);
	ck_assert_int_eq(munmap(many, most * PAGE), 0);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
}
END_TEST

static int empties_every_other(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p += 2)
		NEED(madvise(area + p * PAGE, PAGE, MADV_DONTNEED) == 0);
	for (size_t p = 0; p < PAGES; p++)
		NEED(p % 2 ? is_page_filled(area, p, 1) : is_zero(area + p * PAGE, PAGE));
	return 0;
}

/* One call right after the other, before children have what the first has moved; and what it
 * left is something else's. */
static int moves_on_and_on(void *arg)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (*(int *)arg ? MREMAP_DONTUNMAP : 0);
	char *now = area;

	for (size_t n = 1; n <= 3; n++) {
		char *to = area + n * 4 * GIB;

		NEED((char *)syscall(SYS_mremap, now, WIDE, WIDE, flags, to) == to);
		if (!*(int *)arg)
			NEED(mmap(now, WIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
				  MAP_FIXED | MAP_POPULATE, -1, 0) == now);
		now = to;
	}
	fill(now, WIDE, 5);
	return 0;
}

static int sees_wide(void *arg)
{
	(void)arg;
	return is_filled(area, WIDE, 1) ? 0 : 1;
}

START_TEST(moves_twice)
{
	struct reader r[4];
	int how = _i;

	begin_with(WIDE);
	for (int i = 0; i < COUNT(r); i++)
		r[i] = reader_start(sees_wide, NULL);
	ck_assert_int_eq(moves_on_and_on(&how), 0);
	for (int i = 0; i < COUNT(r); i++) {
		ck_assert_int_eq(reader_ask(&r[i]), 0);
		ck_assert_int_eq(reader_end(&r[i]), 0);
	}
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

/* A child in pieces, which makes more, while its parent's memory moves. */
static int empties_slowly(void *arg)
{
	for (size_t p = 0; p < WIDE / PAGE; p += 2)
		NEED(madvise(area + p * PAGE, PAGE, MADV_DONTNEED) == 0);
	for (size_t p = 1; p < WIDE / PAGE; p += 2)
		NEED(is_page_filled(area, p, 1));
	return arg != NULL;
}

START_TEST(moves_beside_pieces)
{
	int how = 0;	/* else the pager may be lost, see moves_while_served */
	pid_t pid;

	begin_with(WIDE);
	pid = cow_fork();
	if (pid == 0)
		_exit(empties_slowly(NULL));
	usleep(3000);
	ck_assert_int_eq(moves_on_and_on(&how), 0);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

/* Faster than the pager can give it what it lacks: pieces of it become many. */
enum { EMPTIERS = 4 };
static void *empties_its_share(void *arg)
{
	for (size_t p = (size_t)arg * 2; p < WIDE / PAGE; p += 2 * (size_t)EMPTIERS)
		if (madvise(area + p * PAGE, PAGE, MADV_DONTNEED))
			return arg;
	return NULL;
}

static int threads_empty_every_other(void *arg)
{
	pthread_t thread[EMPTIERS];

	(void)arg;
	for (size_t i = 0; i < EMPTIERS; i++)
		NEED(!pthread_create(&thread[i], NULL, empties_its_share, (void *)i));
	for (size_t i = 0; i < EMPTIERS; i++)
		NEED(!pthread_join(thread[i], NULL));
	for (size_t p = 0; p < WIDE / PAGE; p++)
		NEED(p % 2 ? is_page_filled(area, p, 1) : is_zero(area + p * PAGE, PAGE));
	return 0;
}

START_TEST(child_in_many_pieces)
{
	begin_with(WIDE);
	ck_assert_int_eq(in_child(threads_empty_every_other, NULL), 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

START_TEST(child_in_pieces)
{
	begin();
	ck_assert_int_eq(in_child(empties_every_other, NULL), 0);
}
END_TEST

static int moves_every_other(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p += 2)
		NEED((void *)syscall(SYS_mremap, area + p * PAGE, PAGE, PAGE,
				     MREMAP_MAYMOVE | MREMAP_FIXED,
				     area + 4 * GIB + (PAGES - p) * PAGE) != MAP_FAILED);
	for (size_t p = 0; p < PAGES; p++)
		NEED(!memcmp(area + (p % 2 ? p * PAGE : 4 * GIB + (PAGES - p) * PAGE),
			     (char *)arg + p * PAGE, PAGE));
	return 0;
}

START_TEST(child_moves_pieces)
{
	char *copy;

	begin();
	copy = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(copy, SIZE, 1);
	ck_assert_int_eq(in_child(moves_every_other, copy), 0);
}
END_TEST

/* What is gone ends a child that touches it, and nothing else does: its children neither. */
static int sees_second_half(void *arg)
{
	(void)arg;
	for (size_t p = PAGES / 2; p < PAGES; p++)
		NEED(is_page_filled(area, p, 1));
	return 0;
}

static const struct part {
	size_t start, end;	/* pages */
	int guarded;
} lost_part[] = { { 0, PAGES / 2, 0 }, { 3, 4, 1 } };

static int sees_rest(void *arg)
{
	const struct part *lost = arg;

	for (size_t p = 0; p < PAGES; p++)
		NEED((p >= lost->start && p < lost->end) || is_page_filled(area, p, 1));
	return 0;
}

static int sees_rest_first(void *arg)
{
	static int asked;

	return asked++ ? sees_first(NULL) : sees_rest(arg);
}

static int its_child_sees_rest(void *arg)
{
	NEED(in_child(sees_rest, arg) == 0);
	NEED(in_child(sees_first, NULL) == KILLED);
	return 0;
}

static int lose_part(const struct part *lost)
{
	char *start = area + lost->start * PAGE;
	size_t len = (lost->end - lost->start) * PAGE;

	return (int)(lost->guarded ? syscall(SYS_madvise, start, len, MADV_GUARD_INSTALL)
				   : syscall(SYS_munmap, start, len));
}

START_TEST(memory_goes_in_part)
{
	void *lost = (void *)&lost_part[_i];
	struct reader child, parent;

	begin();
	child = reader_start(sees_rest_first, lost);
	parent = reader_start(its_child_sees_rest, lost);
	if (lose_part(lost) < 0) {
		ck_assert_int_eq(errno, EINVAL);	/* an older kernel */
		reader_end(&child);
		reader_end(&parent);
		return;
	}
	ck_assert_int_eq(reader_ask(&child), 0);
	ck_assert_int_eq(reader_ask(&parent), 0);
	ck_assert_int_eq(reader_end(&parent), 0);
	ck_assert_int_ne(reader_ask(&child), 0);
	ck_assert_int_eq(wait_for(child.pid), KILLED);
	ck_assert_uint_eq(stats().pager_killed, 2);
}
END_TEST

static int unreadable_in_pieces(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p += 2)
		NEED(madvise(area + p * PAGE, PAGE, MADV_DONTNEED) == 0);
	for (size_t p = 5; p < PAGES; p += 2)
		NEED(is_page_filled(area, p, 1));
	return sees_guarded(NULL);
}

/* Nor is it zeros for a child that has got all the rest. */
START_TEST(unreadable_piece)
{
	struct reader r;

	begin();
	r = reader_start(unreadable_in_pieces, NULL);
	if (syscall(SYS_madvise, area + 3 * PAGE, PAGE, MADV_GUARD_INSTALL) < 0) {
		ck_assert_int_eq(errno, EINVAL);	/* an older kernel */
		ck_assert_int_eq(reader_ask(&r), 0);
		ck_assert_int_eq(reader_end(&r), 0);
		return;
	}
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	ck_assert_uint_eq(stats().pager_killed, 1);
}
END_TEST

/* A guard that is no more has left a hole, of which nothing tells. */
START_TEST(guard_that_was)
{
	struct reader r;

	begin();
	r = reader_start(_i ? sees_guarded : sees_first, NULL);
	if (syscall(SYS_madvise, area + 3 * PAGE, PAGE, MADV_GUARD_INSTALL) < 0) {
		ck_assert_int_eq(errno, EINVAL);	/* an older kernel */
		ck_assert_int_eq(reader_ask(&r), 0);
		ck_assert_int_eq(reader_end(&r), 0);
		return;
	}
	ck_assert_int_eq((int)syscall(SYS_madvise, area + 3 * PAGE, PAGE, MADV_GUARD_REMOVE), 0);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
}
END_TEST

/* ... and comes after the pager has looked: it waits for itself, and is lost. */
static int sees_no_holes;

int __real_sys_mincore(uintptr_t addr, size_t len, unsigned char *there);
int __wrap_sys_mincore(uintptr_t addr, size_t len, unsigned char *there);
int __wrap_sys_mincore(uintptr_t addr, size_t len, unsigned char *there)
{
	int ret = __real_sys_mincore(addr, len, there);

	if (sees_no_holes)
		memset(there, 1, len / PAGE);
	return ret;
}

START_TEST(pager_waits_for_itself)
{
	struct reader r;

	begin();
	r = reader_start(sees_guarded, NULL);
	sees_no_holes = 1;
	if (syscall(SYS_madvise, area + 3 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0)
		ck_assert_int_eq((int)syscall(SYS_madvise, area + 3 * PAGE, PAGE,
					      MADV_GUARD_REMOVE), 0);
	else
		ck_assert_int_eq(kill(support_child("cowfork-pager"), SIGKILL), 0);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
	fill(area, SIZE, 1);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	ck_assert_uint_gt(stats().native[COW_REASON_PAGER], 0);
}
END_TEST

/* Before Linux 6.15 the kernel tells of more than was moved, where the rest went; and before it
 * tells of the rest, there may be something of another thread's. */
static char *other;
static int tells_lies, tells_another;

int __real_sys_kernel_is(unsigned major, unsigned minor);
int __wrap_sys_kernel_is(unsigned major, unsigned minor);
int __wrap_sys_kernel_is(unsigned major, unsigned minor)
{
	return !tells_lies && __real_sys_kernel_is(major, minor);
}

int __real_uffd_read(int uffd, struct uffd_msg *ret_msg);
int __wrap_uffd_read(int uffd, struct uffd_msg *ret_msg);
int __wrap_uffd_read(int uffd, struct uffd_msg *ret_msg)
{
	static int is_next;
	int ret;

	if (tells_another && is_next) {
		ret_msg->event = UFFD_EVENT_UNMAP;
		ret_msg->arg.remove.start = ret_msg->arg.remove.end = PAGE;
		is_next = 0;
		return 1;
	}
	ret = __real_uffd_read(uffd, ret_msg);
	is_next = ret && ret_msg->event == UFFD_EVENT_REMAP;
	if (ret && tells_lies && ret_msg->event == UFFD_EVENT_REMAP &&
	    ret_msg->arg.remap.to == (uintptr_t)other - SIZE / 2)
		ret_msg->arg.remap.len = SIZE;
	return ret;
}

/* Right below other, which is armed as well. */
static void shrinks(void)
{
	char *to = other - SIZE / 2;

	ck_assert_ptr_eq((void *)syscall(SYS_mremap, area, SIZE, SIZE / 2,
					 MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
}

static int sees_other(void *arg)
{
	(void)arg;
	return is_filled(other, SIZE / 2, 9) ? 0 : 1;
}

static int shrinks_and_sees(void *arg)
{
	shrinks();
	NEED(is_filled(other - SIZE / 2, SIZE / 2, 1));
	return sees_other(arg);
}

static void begin_with_other(int another)
{
	tells_lies = 1;
	tells_another = another;
	begin();
	other = mmap(area + 4 * GIB, SIZE / 2, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ck_assert_ptr_eq(other, area + 4 * GIB);
	fill(other, SIZE / 2, 9);
	ck_assert_int_eq(cow_adopt(other, SIZE / 2), 0);
}

START_TEST(shrinks_as_it_moves)
{
	struct reader first, second;

	begin_with_other(_i);
	first = reader_start(sees_first, NULL);
	second = reader_start(sees_other, NULL);
	shrinks();
	fill(other, SIZE / 2, 4);
	fill(other - SIZE / 2, SIZE / 2, 5);
	ck_assert_int_ne(reader_ask(&first), 0);
	ck_assert_int_eq(wait_for(first.pid), KILLED);
	ck_assert_int_eq(reader_ask(&second), 0);
	ck_assert_int_eq(reader_end(&second), 0);
	fill(other, SIZE / 2, 9);
	ck_assert_int_eq(in_child(sees_other, NULL), 0);
	ck_assert(is_filled(other - SIZE / 2, SIZE / 2, 5));
}
END_TEST

START_TEST(child_shrinks_as_it_moves)
{
	begin_with_other(_i);
	ck_assert_int_eq(in_child(shrinks_and_sees, NULL), _i ? KILLED : 0);
	ck_assert_int_eq(in_child(sees_other, NULL), 0);
}
END_TEST

/* A move that does not shrink is told in truth there as well. */
START_TEST(moves_on_an_old_kernel)
{
	struct reader r;

	tells_lies = 1;
	begin();
	ck_assert_int_eq(in_child(page_moved, NULL), 0);
	r = reader_start(sees_first, NULL);
	ck_assert_int_eq(page_moved(NULL), 0);
	fill(area + 4 * GIB, SIZE, 5);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

static int moves_on;

static void *moves(void *arg)
{
	(void)arg;
	nap(2);
	moves_on = (char *)syscall(SYS_mremap, area, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED |
				   MREMAP_DONTUNMAP, area + 4 * GIB) == area + 4 * GIB;
	fill(area + 4 * GIB, SIZE, 7);
	return NULL;
}

static int reads_on(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 20; i++)
		NEED(sees_first(NULL) == 0);
	return 0;
}

/* In the midst of a copy, or not: nobody waits for ever, or reads what it was not. */
START_TEST(moves_while_served)
{
	struct reader r;
	pthread_t thread;
	int ret;

	begin();
	r = reader_start(reads_on, NULL);
	ck_assert_int_eq(pthread_create(&thread, NULL, moves, NULL), 0);
	ret = reader_ask(&r);
	pthread_join(thread, NULL);
	ck_assert(moves_on);
	if (ret == 0)
		ck_assert_int_eq(reader_end(&r), 0);
	else
		ck_assert_int_eq(wait_for(r.pid), KILLED);
	fill(area, SIZE, 1);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	area += 4 * GIB;
	fill(area, SIZE, 1);
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
}
END_TEST

static void *unmaps(void *arg)
{
	(void)arg;
	(void)!syscall(SYS_munmap, area, SIZE / 2);
	return NULL;
}

static void *moves_half(void *arg)
{
	(void)arg;
	(void)!syscall(SYS_mremap, area, SIZE / 2, SIZE / 2, MREMAP_MAYMOVE | MREMAP_FIXED,
		       area + 4 * GIB);
	return NULL;
}

/* Another thread has mapped something there before the pager was told that it went. */
START_TEST(replaced_before_it_is_told)
{
	void *(*const goes[])(void *) = { unmaps, moves_half };
	struct reader r;
	pthread_t thread;
	pid_t pager;
	int ret;

	begin();
	r = reader_start(sees_first, NULL);
	pager = support_child("cowfork-pager");
	ck_assert_int_eq(kill(pager, SIGSTOP), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, goes[_i], NULL), 0);
	while (mmap(area, SIZE / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		nap(1);
	fill(area, SIZE / 2, 9);
	ck_assert_int_eq(kill(pager, SIGCONT), 0);
	pthread_join(thread, NULL);
	ret = reader_ask(&r);
	if (_i)		/* it only moved */
		ck_assert_int_eq(ret, 0);
	if (ret == 0)
		ck_assert_int_eq(reader_end(&r), 0);
	else
		ck_assert_int_eq(wait_for(r.pid), KILLED);
}
END_TEST

/* Emptied again by calls of its own, with a child that lacks the holes. */
/* A hole that was found stands for itself, not for what was behind it then. */
static int sees_refilled(void *arg)
{
	(void)arg;
	NEED(is_zero(area, PAGE));
	for (size_t p = 1; p < MIB / PAGE; p++)
		NEED(is_page_filled(area, p, 4));
	return 0;
}

START_TEST(hole_before_what_was_filled)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	ck_assert_int_eq((int)syscall(SYS_madvise, area, MIB, MADV_DONTNEED), 0);
	r = reader_start(does_nothing, NULL);
	ck_assert_int_eq((int)syscall(SYS_madvise, area, MIB, MADV_DONTNEED), 0);
	ck_assert_int_eq(reader_end(&r), 0);
	for (size_t p = 1; p < MIB / PAGE; p++)
		fill_page(area, p, 4);
	r = reader_start(sees_refilled, NULL);
	ck_assert_int_eq((int)syscall(SYS_madvise, area + PAGE, MIB - PAGE, MADV_DONTNEED), 0);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

START_TEST(emptied_twice)
{
	struct reader r;

	begin();
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq((int)syscall(SYS_madvise, area, SIZE / 2, MADV_DONTNEED), 0);
		if (i & 1)
			fill(area, SIZE / 4, 3);
		r = reader_start(sees_second_half, NULL);
		ck_assert_int_eq((int)syscall(SYS_madvise, area, SIZE / 4, MADV_DONTNEED), 0);
		ck_assert_int_eq(reader_ask(&r), 0);
		ck_assert_int_eq(reader_end(&r), 0);
	}
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

START_TEST(armed_again)
{
	struct reader r;

	begin();
	r = reader_start(sees_first, NULL);
	ck_assert_int_eq((int)syscall(SYS_munmap, area, SIZE), 0);
	ck_assert_ptr_eq(mmap(area, SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), area);
	fill(area, SIZE, 2);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	fill(area, SIZE, 3);
	ck_assert_int_ne(reader_ask(&r), 0);
	ck_assert_int_eq(wait_for(r.pid), KILLED);
}
END_TEST

static void *empties_seen(void *arg)
{
	(void)arg;
	while (!stop_writer)
		(void)!cow_madvise(area, PAGE, MADV_DONTNEED);
	return NULL;
}

/* By a call of the library's, and by bare ones at the same time: better no child than zeros. */
START_TEST(emptied_both_ways)
{
	struct reader r;
	pthread_t thread;
	int ret;

	begin();
	r = reader_start(sees_second_half, NULL);
	stop_writer = 0;
	ck_assert_int_eq(pthread_create(&thread, NULL, empties_seen, NULL), 0);
	for (size_t p = PAGES / 2; p < PAGES; p++)
		ck_assert_int_eq((int)syscall(SYS_madvise, area + p * PAGE, PAGE,
					      MADV_DONTNEED), 0);
	stop_writer = 1;
	pthread_join(thread, NULL);
	ret = reader_ask(&r);
	if (ret == 0)
		ck_assert_int_eq(reader_end(&r), 0);
	else
		ck_assert_int_eq(wait_for(r.pid), KILLED);
}
END_TEST

/* What was emptied and then moved. */
START_TEST(holes_move)
{
	struct reader r;
	char *moved;

	begin();
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	ck_assert_int_eq(cow_madvise(area, SIZE / 2, MADV_DONTNEED), 0);
	r = reader_start(sees_second_half, NULL);
	moved = (char *)syscall(SYS_mremap, area, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
				area + 4 * GIB);
	ck_assert_ptr_eq(moved, area + 4 * GIB);
	fill(moved, SIZE, 3);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

static int only_forks(void *arg)
{
	(void)arg;
	return in_child(sees_first, NULL);
}

START_TEST(forks_without_pager)
{
	struct reader r;

	begin();
	r = reader_start(only_forks, NULL);
	ck_assert_int_eq(reader_ask(&r), 0);
	fill(area, SIZE, 2);
	ck_assert_int_eq(kill(support_child("cowfork-pager"), SIGKILL), 0);
	nap(100);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

static int sees_little(void *arg)
{
	(void)arg;
	return is_page_filled(area, 5, 1) ? 0 : 1;
}

static int forks_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100; i++)
		NEED(in_child(sees_little, NULL) == 0);
	return 0;
}

/* Each child that has not been seen to end takes one of the pager's. */
START_TEST(few_descriptors)
{
	const struct rlimit limit = { 64, 64 };

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	begin();
	ck_assert_int_eq(forks_often(NULL), 0);
	ck_assert_int_eq(in_child(forks_often, NULL), 0);
	ck_assert_uint_eq(stats().forks_in_place, 101);
}
END_TEST

#define LARGE (512 * MIB)
#define HOLES SIZE

static void *fills_holes(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < HOLES / PAGE; p++) {
		*(volatile unsigned *)(area + p * PAGE) = 1;
		for (volatile int i = 0; i < 5000; i++)
			;
	}
	return NULL;
}

static int sees_no_second(void *arg)
{
	unsigned bad = 0;

	(void)arg;
	for (size_t p = 0; p < HOLES / PAGE; p++)
		bad += *(volatile unsigned *)(area + p * PAGE) > 1;
	return bad ? 1 : 0;
}

/* What was emptied since it was armed is filled while the first window opens. */
START_TEST(holes_before_first_fork)
{
	pthread_t thread;
	struct reader r;

	begin_with(LARGE);
	memset(area + HOLES, 2, LARGE - HOLES);
	ck_assert_int_eq(cow_madvise(area, HOLES, MADV_DONTNEED), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, fills_holes, NULL), 0);
	nap(1);
	r = reader_start(sees_no_second, NULL);
	pthread_join(thread, NULL);
	for (size_t p = 0; p < HOLES / PAGE; p++)
		*(volatile unsigned *)(area + p * PAGE) = 2;
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

#define BLOCKS 2000u		/* several heaps */
#define BLOCK (100 * KIB)
#define HEAP (64 * MIB)

static char *block[BLOCKS];

static void *allocates(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < BLOCKS; i++) {
		block[i] = malloc(BLOCK);
		memset(block[i], 1, BLOCK);
	}
	return NULL;
}

/* free(3) unmaps heaps of a thread's unseen. */
START_TEST(arena_stays_plain)
{
	pthread_t thread;
	char *heap;

	begin();
	ck_assert_int_eq(pthread_create(&thread, NULL, allocates, NULL), 0);
	pthread_join(thread, NULL);
	heap = block[BLOCKS / 2] - (uintptr_t)block[BLOCKS / 2] % HEAP;
	(void)!cow_adopt(heap + HEAP / 4, HEAP / 2);
	ck_assert_int_ne(cow_region_state(heap + HEAP / 4), COW_STATE_ARMED);
	for (unsigned i = 0; i < BLOCKS; i++)
		free(block[i]);
}
END_TEST

/* Who reads what a program prints waits for the end of all that could. */
START_TEST(standard_error_ends)
{
	struct pollfd end = { .events = POLLIN };
	int fd[2];
	pid_t pid;
	char b;

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		dup2(fd[1], 2);
		close(fd[0]);
		close(fd[1]);
		begin();
		close(2);
		pause();
	}
	close(fd[1]);
	end.fd = fd[0];
	ck_assert_int_eq(poll(&end, 1, 5000), 1);
	ck_assert_int_eq((int)read(fd[0], &b, 1), 0);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	wait_for(pid);
}
END_TEST

/* A device writes to what was registered with it without a fault that anybody sees. */
START_TEST(pinned_since)
{
	int fd;

	begin();
	ck_assert_int_eq(in_child(sees_first, NULL), 0);
	fd = open("/proc/self/exe", O_RDONLY | O_DIRECT);
	ck_assert_int_ge(fd, 0);
	/* descriptors are looked at once a second, or more seldom where that takes long */
	for (int i = 0; i < 20 && !stats().native[COW_REASON_PINNED]; i++) {
		nap(1100);
		ck_assert_int_eq(in_child(sees_first, NULL), 0);
	}
	ck_assert_uint_eq(stats().native[COW_REASON_PINNED], 1);
	ck_assert_uint_eq(stats().bytes_armed, 0);
}
END_TEST

static int end_is_there(void *arg)
{
	char *end = area + SIZE / 2;

	(void)arg;
	return end[0] == 5 && !end[MIB - 1] ? 0 : 1;
}

/* Memory that grows in place, of which nothing tells: before and after the first fork. */
START_TEST(grows_in_place)
{
	begin();
	ck_assert_int_eq(cow_munmap(area + SIZE / 2, SIZE / 2), 0);
	if (_i)
		ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	ck_assert_ptr_eq((void *)syscall(SYS_mremap, area, SIZE / 2, SIZE / 2 + MIB, 0), area);
	area[SIZE / 2] = 5;
	ck_assert_int_eq(in_child(end_is_there, NULL), 0);
}
END_TEST

static int begins_empty(void *arg)
{
	size_t there = present_pages(area, SIZE / 2);

	return there ? 1 : end_is_there(arg);
}

/* ... and while a window is open, for the thread that forks too. */
START_TEST(grows_in_window)
{
	pid_t pid;

	begin();
	ck_assert_int_eq(cow_munmap(area + SIZE / 2, SIZE / 2), 0);
	ck_assert_int_eq(cow_fork_enter(), 0);
	ck_assert_ptr_eq((void *)syscall(SYS_mremap, area, SIZE / 2, SIZE / 2 + MIB, 0), area);
	area[SIZE / 2] = 5;
	pid = raw_fork();
	if (pid == 0) {
		cow_fork_child();
		_exit(begins_empty(NULL));
	}
	cow_fork_parent();
	ck_assert_int_eq(wait_for(pid), 0);
}
END_TEST

/* Another thread's execve(2), say. */
START_TEST(exec_instead_of_fork)
{
	char *const argv[] = { (char *)"sleep", (char *)"60", NULL };
	char path[64], target[64];
	pid_t pid, pager = 0;
	int fd[2];

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		begin();
		pager = support_child("cowfork-pager");
		(void)!write(fd[1], &pager, sizeof(pager));
		(void)!cow_fork_enter();
		execv("/bin/sleep", argv);
		_exit(1);
	}
	ck_assert_int_eq((int)read(fd[0], &pager, sizeof(pager)), (int)sizeof(pager));
	snprintf(path, sizeof(path), "/proc/%d/exe", pager);
	for (int i = 0; i < 300 && readlink(path, target, sizeof(target)) > 0; i++)
		nap(10);
	ck_assert_int_lt((int)readlink(path, target, sizeof(target)), 0);
	kill(pid, SIGKILL);
	wait_for(pid);
}
END_TEST

static atomic_int stop_looking;

/* How often was memory not found that is armed all the time? */
static void *looks(void *arg)
{
	unsigned long missed = 0;

	(void)arg;
	while (!atomic_load(&stop_looking))
		missed += !in_place_at((uintptr_t)area + SIZE - PAGE, PAGE);
	return (void *)missed;
}

/* Any thread asks whether it is, while the list of that changes. */
START_TEST(list_changes)
{
	pthread_t thread;
	void *missed;

	begin();
	for (size_t at = 0; at < SIZE; at += 2 * MIB)	/* some more in the list */
		ck_assert_int_eq(cow_release(area + at, PAGE), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, looks, NULL), 0);
	for (int i = 0; i < 3000; i++) {
		ck_assert_int_eq(cow_release(area + MIB, PAGE), 0);
		ck_assert_int_eq(cow_release(area, MIB), 0);
		ck_assert_int_eq(cow_adopt(area, MIB), 0);
	}
	atomic_store(&stop_looking, 1);
	pthread_join(thread, &missed);
	ck_assert_ptr_null(missed);
}
END_TEST

/* While the library unmaps what it has let go: another thread wants it armed, and forks. */
static atomic_int meddling;	/* 1: it may begin, 2: it has forked, or cannot */
static pthread_t meddler;
static int meddled;		/* what its child saw */

static void *meddles(void *arg)
{
	pid_t pid = 0;

	(void)arg;
	if (cow_adopt(area, SIZE) == 0 && cow_region_state(area) == COW_STATE_ARMED) {
		pid = cow_fork();
		if (pid == 0) {
			nap(500);
			_exit(sees_first(NULL));
		}
	}
	atomic_store(&meddling, 2);
	meddled = pid ? wait_for(pid) : 0;
	return NULL;
}

int __real_sys_munmap(uintptr_t addr, size_t len);
int __wrap_sys_munmap(uintptr_t addr, size_t len);

int __wrap_sys_munmap(uintptr_t addr, size_t len)
{
	int may = 1;

	if (addr == (uintptr_t)area && atomic_compare_exchange_strong(&meddling, &may, 0)) {
		ck_assert_int_eq(pthread_create(&meddler, NULL, meddles, NULL), 0);
		for (int i = 0; i < 300 && atomic_load(&meddling) != 2; i++)
			nap(1);
	}
	return __real_sys_munmap(addr, len);
}

/* Its child has all of it, or it comes too late: then nothing is there to be armed. */
START_TEST(armed_while_unmapped)
{
	begin();
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	atomic_store(&meddling, 1);
	ck_assert_int_eq(cow_munmap(area, SIZE), 0);
	ck_assert_int_eq(pthread_join(meddler, NULL), 0);
	ck_assert_int_eq(meddled, 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

/* --- between a fork and what is told of it -------------------------------- */

/* Forks are told of in the order in which the userfaultfds' memory lies, and each waits until
 * that was read. So one of the test's own, below all that is armed, holds a fork that was
 * made. */
static int hold_forks(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	char *low = mmap(area - GIB, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert(low < area);
	low[0] = 1;
	reg.range.start = (uintptr_t)low;
	reg.range.len = PAGE;
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	return fd;
}

#define GO_UNSEEN 4

/* No assertion: that takes a lock, which who forks has. */
static int go_unseen(int how)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (how == 3 ? MREMAP_DONTUNMAP : 0);

	switch (how) {
	case 0:
		return syscall(SYS_munmap, area, SIZE / 2) == 0;
	case 1:
		return syscall(SYS_madvise, area, SIZE / 2, MADV_DONTNEED) == 0;
	default:
		return (char *)syscall(SYS_mremap, area, SIZE / 2, SIZE / 2, flags,
				       area + 4 * GIB) == area + 4 * GIB;
	}
}

struct held {
	int fd, how, went;
};

static void *goes_in_fork(void *arg)
{
	struct held *h = arg;
	struct pollfd made = { h->fd, POLLIN, 0 };
	struct uffd_msg m;

	if (poll(&made, 1, 5000) == 1)
		h->went = go_unseen(h->how);
	(void)!read(h->fd, &m, sizeof(m));
	return NULL;
}

/* It needs what nobody has any more; it is not zeros. */
START_TEST(memory_goes_in_fork)
{
	struct held h;
	pthread_t thread;
	pid_t pid;

	begin();
	h = (struct held){ hold_forks(), _i, 0 };
	ck_assert_int_eq(pthread_create(&thread, NULL, goes_in_fork, &h), 0);
	pid = cow_fork();
	if (pid == 0)
		_exit(sees_second_half(NULL) || sees_first(NULL));
	ck_assert_int_eq(wait_for(pid), KILLED);
	pthread_join(thread, NULL);
	ck_assert(h.went);
	ck_assert_uint_eq(stats().pager_killed, 1);
}
END_TEST

/* Before it, a child has none of it, and zeros where it was emptied. */
START_TEST(memory_goes_before_fork)
{
	pid_t pid;

	begin();
	ck_assert_int_eq(cow_fork_enter(), 0);
	ck_assert(go_unseen(_i));
	nap(20);	/* the pager has seen this thread go on */
	pid = raw_fork();
	if (pid == 0) {
		cow_fork_child();
		_exit(sees_second_half(NULL) || (_i && !is_zero(area, SIZE / 2)));
	}
	cow_fork_parent();
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

/* --- many ----------------------------------------------------------------- */

#define CHILDREN 64
#define GENERATIONS 16
#define WRITERS 3

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned written[PAGES];
static atomic_int stop;

static void *hammer(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (unsigned n = 1; !stop; n++) {
		size_t p = (size_t)rand_r(&seed) % PAGES;
		volatile unsigned *at = (volatile unsigned *)(area + p * PAGE);

		pthread_mutex_lock(&lock);
		written[p] = n;
		at[0] = n;
		at[PAGE / sizeof(*at) - 1] = n;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void check_snapshot(unsigned number)
{
	unsigned seed = number;

	for (size_t i = 0; i < PAGES; i++) {
		size_t p = (size_t)rand_r(&seed) % PAGES;
		const unsigned *at = (const unsigned *)(area + p * PAGE);

		if (at[0] != written[p] || at[PAGE / sizeof(*at) - 1] != written[p])
			_exit(1);
	}
	_exit(0);
}

START_TEST(writers_and_generations)
{
	pthread_t thread[WRITERS];
	pid_t pid[CHILDREN];
	int bad = 0;

	begin();
	memset(area, 0, SIZE);
	for (uintptr_t i = 0; i < WRITERS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, hammer, (void *)(i + 1)), 0);
	for (int i = 0; i < CHILDREN; i++) {
		pthread_mutex_lock(&lock);
		pid[i] = cow_fork();
		if (pid[i] == 0) {
			nap(20u + (unsigned)i % 7 * 30);
			check_snapshot((unsigned)i);
		}
		pthread_mutex_unlock(&lock);
		ck_assert_int_gt(pid[i], 0);
		if (i % (CHILDREN / GENERATIONS) == 0)
			nap(2);
	}
	for (int i = 0; i < CHILDREN; i++)
		bad += wait_for(pid[i]) != 0;
	stop = 1;
	for (int i = 0; i < WRITERS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(bad, 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
	for (size_t p = 0; p < PAGES; p++)
		ck_assert_uint_eq(*(unsigned *)(area + p * PAGE), written[p]);
}
END_TEST

/* More than the pager has room for, grandchildren's too. */
START_TEST(more_children_than_fit)
{
	enum { MANY = 600 };
	static pid_t pid[MANY];
	int fd[2], bad = 0;
	char b;

	begin();
	ck_assert_int_eq(pipe(fd), 0);
	for (int i = 0; i < MANY; i++) {
		pid[i] = cow_fork();
		if (pid[i] == 0) {
			close(fd[1]);
			(void)!read(fd[0], &b, 1);
			_exit(is_page_filled(area, (size_t)i, 1) ? 0 : 1);
		}
		ck_assert_int_gt(pid[i], 0);
	}
	close(fd[1]);
	fill(area, SIZE, 2);
	for (int i = 0; i < MANY; i++)
		bad += wait_for(pid[i]) != 0;
	ck_assert_int_eq(bad, 0);
	ck_assert_uint_gt(stats().native[COW_REASON_CHILDREN], 0);
}
END_TEST

/* More grandchildren than there is room for; with an argument none of them can have half of the
 * memory any more. */
enum { TOO_MANY = 1200 };

static int has_many(void *arg)
{
	static pid_t pid[TOO_MANY];
	int fd[2], good = 0, ended = 0, n = 0;
	char b;

	NEED(pipe(fd) == 0 && freopen("/dev/null", "w", stderr));
	while (n < TOO_MANY && (pid[n] = raw_fork()) > 0)
		n++;
	if (n < TOO_MANY && pid[n] == 0) {
		close(fd[1]);
		(void)!read(fd[0], &b, 1);
		_exit(is_page_filled(area, (size_t)n % (PAGES / 2), 1) ? 0 : 1);
	}
	close(fd[1]);
	for (int i = 0; i < n; i++) {
		int ret = wait_for(pid[i]);

		good += ret == 0;
		ended += ret == KILLED;
	}
	return n >= TOO_MANY / 2 && good + ended == n && (arg ? !good : good >= n / 2) ? 0 : 1;
}

START_TEST(more_have_lost_than_fit)
{
	struct reader r;

	begin();
	r = reader_start(has_many, area);
	ck_assert_int_eq((int)syscall(SYS_munmap, area, SIZE / 2), 0);
	ck_assert_int_eq(reader_ask(&r), 0);
	ck_assert_int_eq(reader_end(&r), 0);
}
END_TEST

/* Those that come last get all that they lack at once. */
START_TEST(more_grandchildren_than_fit)
{
	begin();
	ck_assert_int_eq(in_child(has_many, NULL), 0);
	ck_assert_uint_eq(stats().pager_killed, 0);
}
END_TEST

static Suite *in_place_suite(void)
{
	Suite *s = suite_create("in-place");
	TCase *sees = tcase_create("what children see");
	TCase *does = tcase_create("what children do");
	TCase *killed = tcase_create("who is killed");
	TCase *many = tcase_create("many");

	tcase_add_test(sees, child_begins_empty);
	tcase_add_test(sees, neither_sees_the_other);
	tcase_add_test(sees, below_a_control_block);
	tcase_add_loop_test(sees, memory_goes, 0, WAYS_TO_GO);
	tcase_add_loop_test(sees, refilled_memory_goes, 0, WAYS_TO_GO);
	tcase_add_loop_test(sees, kernel_takes_pages, 0, 2);
	tcase_add_loop_test(sees, guard_that_was, 0, 2);
	tcase_add_test(killed, pager_waits_for_itself);
	tcase_add_loop_test(killed, shrinks_as_it_moves, 0, 2);
	tcase_add_loop_test(killed, child_shrinks_as_it_moves, 0, 2);
	tcase_add_test(killed, moves_on_an_old_kernel);
	tcase_add_loop_test(killed, moves_while_served, 0, 8);
	tcase_add_test(sees, emptied_twice);
	tcase_add_test(sees, hole_before_what_was_filled);
	tcase_add_loop_test(sees, replaced_before_it_is_told, 0, 2);
	tcase_add_test(sees, memory_goes_unseen);
	tcase_add_loop_test(sees, page_is_unreadable, 0, 2);
	tcase_add_loop_test(sees, memory_goes_in_part, 0, COUNT(lost_part));
	tcase_add_test(sees, unreadable_piece);
	tcase_add_loop_test(sees, memory_goes_in_fork, 0, GO_UNSEEN);
	tcase_add_loop_test(sees, memory_goes_before_fork, 0, 2);
	tcase_add_test(sees, armed_again);
	tcase_add_test(sees, emptied_both_ways);
	tcase_add_test(sees, holes_move);
	tcase_add_test(sees, arena_stays_plain);
	tcase_add_test(killed, standard_error_ends);
	tcase_add_loop_test(sees, grows_in_place, 0, 2);
	tcase_add_test(sees, grows_in_window);
	tcase_add_test(does, child_calls);
	tcase_add_test(does, child_moves);
	tcase_add_loop_test(does, grandchild, 0, 2);
	tcase_add_test(does, kernel_touches);
	tcase_add_test(does, child_in_pieces);
	tcase_add_test(does, child_moves_pieces);
	tcase_add_test(killed, pager_is_killed);
	tcase_add_loop_test(does, grows_unseen, 0, 4);
	tcase_add_test(killed, everything_is_locked);
	tcase_add_loop_test(killed, parent_ends, 0, 4);
	tcase_add_loop_test(killed, nobody_stays, 0, 3);
	tcase_add_test(killed, unseen_fork);
	tcase_add_test(killed, forks_without_pager);
	tcase_add_test(killed, exec_instead_of_fork);
	tcase_add_test(many, writers_and_generations);
	tcase_add_test(many, more_children_than_fit);
	tcase_add_test(many, more_have_lost_than_fit);
	tcase_add_test(many, more_grandchildren_than_fit);
	tcase_add_test(many, armed_while_unmapped);
	tcase_add_test(many, child_in_many_pieces);
	tcase_add_loop_test(many, moves_twice, 0, 2);
	tcase_add_test(many, moves_beside_pieces);
	tcase_add_test(many, pinned_since);
	tcase_add_test(many, list_changes);
	tcase_add_test(many, slow_fork);
	tcase_add_test(many, maps_run_out);
	tcase_add_test(many, few_descriptors);
	tcase_add_loop_test(many, holes_before_first_fork, 0, 4);
	tcase_set_timeout(many, 60);
	suite_add_tcase(s, sees);
	suite_add_tcase(s, does);
	suite_add_tcase(s, killed);
	suite_add_tcase(s, many);
	return s;
}

int main(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	if (cow_facilities(&f) < 0 || !f.in_place) {
		printf("skip: no userfaultfd that tells of forks\n");
		return 77;
	}
	return support_run(in_place_suite());
}
