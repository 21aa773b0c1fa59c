/*
 * The in-place engine where nobody tells: threads that are killed in a system call of their own
 * on armed memory, what the kernel does by itself, and processes that share the memory and are
 * no threads. A child finds what was there at the fork, or is killed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "armed.h"
#include "support.h"

/* --- killed in it ----------------------------------------------------------- */

enum { ZEROS, FILE_OVER, MOVE, EMPTIES };	/* what is done to armed memory */

static int what;

static void does(void)
{
	const int flags = MAP_PRIVATE | MAP_FIXED;
	int fd;

	switch (what) {
	case ZEROS:
		syscall(SYS_mmap, area, SIZE, PROT_READ, flags | MAP_ANONYMOUS, -1, 0);
		break;
	case FILE_OVER:
		fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
		syscall(SYS_mmap, area, SIZE, PROT_READ, flags, fd, 0);
		break;
	case MOVE:
		syscall(SYS_mremap, other, SIZE, SIZE, ONTO, area);
		break;
	default:
		syscall(SYS_madvise, area, SIZE, MADV_DONTNEED);
		break;
	}
}

/* With a child that lacks so much that the pager does not read at once what it is told. */
static int leaves_child(const struct ends *e, unsigned us)
{
	NEED(arm(area, SIZE, 1) == 0 && arm(other, SIZE, 2) == 0 && arm(far, 4 * SIZE, 3) == 0);
	if (what == EMPTIES) {
		NEED(cow_madvise(area, SIZE, MADV_FREE) == 0);
		fill(area, SIZE, 1);
	}
	if (cow_fork() == 0)
		outlives(e, &all_of_it, us % 2 ? 20000 : 0);
	return 0;
}

static int is_killed_in_it(const struct ends *e, unsigned us)
{
	NEED(leaves_child(e, us) == 0);
	signal(SIGALRM, SIG_DFL);
	ualarm(us, 0);
	does();
	for (;;)
		pause();
}

START_TEST(killed)
{
	what = _i;
	for (unsigned round = 0; round < 12; round++)
		ck_assert_int_ne(said_after(is_killed_in_it, 100 + round * 373, 128 + SIGALRM), 'w');
}
END_TEST

static void *does_in_thread(void *arg)
{
	does();
	return arg;
}

/* By another thread that ends the program. */
static int ends_meanwhile(const struct ends *e, unsigned us)
{
	pthread_t thread;

	NEED(leaves_child(e, us) == 0);
	NEED(pthread_create(&thread, NULL, does_in_thread, NULL) == 0);
	usleep(us);
	_exit(0);
}

START_TEST(ended_meanwhile)
{
	what = _i;
	for (unsigned round = 0; round < 12; round++)
		ck_assert_int_ne(said_after(ends_meanwhile, 50 + round * 173, 0), 'w');
}
END_TEST

/* --- whom nobody looks at ------------------------------------------------------- */

static char stack[64 << 10] __attribute__((aligned(16)));

static int moves_it(void *arg)
{
	(void)arg;
	syscall(SYS_mremap, other, SIZE, SIZE, ONTO, area);
	syscall(SYS_exit, 0);
	return 0;
}

/* A process that shares the memory, and is no thread. */
START_TEST(moved_by_a_helper)
{
	for (unsigned round = 0; round < 10; round++) {
		struct reader r;
		pid_t pid;

		ck_assert_int_eq(arm(area, SIZE, 1), 0);
		ck_assert_int_eq(arm(other, SIZE, 2), 0);
		r = reader_start(sees, (void *)&all_of_it);
		looks(&r);
		usleep(round * 137);
		pid = clone(moves_it, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		ck_assert_int_gt(pid, 0);
		ck_assert_int_eq(wait_for(pid), 0);
		(void)was_killed(&r);
	}
}
END_TEST

/* So many that hardly a descriptor is left, or none. */
static int crowd;
static atomic_int *is_crowded;

static int has_a_crowd(void *arg)
{
	for (int i = 0; i < crowd; i++)
		if (fork() == 0)
			for (;;)
				pause();
	atomic_store(is_crowded, 1);
	usleep(20000);
	return sees(arg);
}

static int moves_beside_a_crowd(void)
{
	const struct rlimit few = { 64, 64 };
	pid_t pid;

	setpgid(0, 0);
	NEED(setrlimit(RLIMIT_NOFILE, &few) == 0);
	NEED(arm(area, SIZE, 1) == 0 && arm(other, SIZE, 2) == 0);
	pid = cow_fork();
	if (pid == 0)
		_exit(has_a_crowd((void *)&all_of_it));
	while (!atomic_load(is_crowded))
		usleep(1000);
	NEED(is_moved(other, SIZE, SIZE, ONTO, area));
	return wait_for(pid);
}

START_TEST(few_descriptors)
{
	is_crowded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (crowd = 44; crowd < 56; crowd += 2) {
		pid_t pid;
		int status;

		atomic_store(is_crowded, 0);
		pid = fork();
		if (pid == 0)
			_exit(moves_beside_a_crowd());
		status = wait_for(pid);
		kill(-pid, SIGKILL);
		if (status != 0 && status != KILLED)	/* nobody could look who it is */
			ck_assert_int_eq(status, 128 + SIGBUS);
	}
}
END_TEST

/* --- what the kernel does by itself ---------------------------------------------- */

/* A table of holes, of which it makes one huge page of zeros. */
static int sees_a_hole(void *arg)
{
	(void)arg;
	NEED(is_zero(area, SIZE / 2));
	for (size_t p = PAGES / 2; p < PAGES; p++)
		NEED(is_page_filled(area, p, 1));
	return 0;
}

START_TEST(huge_page_of_zeros)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	struct reader early, late;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	ck_assert_ptr_eq(mmap(area, SIZE / 2, PROT_READ | PROT_WRITE, flags, -1, 0), area);
	ck_assert_int_eq(madvise(area, SIZE, MADV_HUGEPAGE), 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_ARMED);
	early = reader_start(sees_a_hole, NULL);
	late = reader_start(sees_a_hole, NULL);
	ck_assert_int_eq(is_killed(&early), 0);
	fill(area, SIZE, 5);
	ck_assert_int_eq(is_killed(&late), 0);
}
END_TEST

/* Thousands of mappings: it takes long to see that all of them are there. */
static int sees_every_seventh(void *arg)
{
	(void)arg;
	for (size_t i = 0, p = 0; i < 4 * PAGES / 7; i++, p = (p + 7 * 577) % (4 * PAGES))
		NEED(is_page_filled(area, p, 1));
	return 0;
}

START_TEST(many_mappings)
{
	struct reader early, late;

	ck_assert_int_eq(arm(area, 4 * SIZE, 1), 0);
	for (size_t p = 0; p < 4 * PAGES; p += 2)
		ck_assert_int_eq(mprotect(area + p * PAGE, PAGE, PROT_READ), 0);
	early = reader_start(sees_every_seventh, NULL);
	late = reader_start(sees_every_seventh, NULL);
	ck_assert_int_eq(is_killed(&early), 0);
	for (size_t p = 1; p < 4 * PAGES; p += 34)
		fill_page(area, p, 5);
	ck_assert_int_eq(is_killed(&late), 0);
}
END_TEST

/* --- what nobody is told of ------------------------------------------------------ */

/* Where a guard was is no place of zeros, also if the kernel might once have taken that page, or
 * another of that memory. */
START_TEST(guarded_after_it_was_freed)
{
	struct reader r;
	int guarded;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	if (_i) {
		ck_assert_int_eq(cow_madvise(area, SIZE, MADV_FREE), 0);
		fill(area, SIZE, 1);
	} else {
		ck_assert_int_eq(cow_release(area, SIZE), 0);
		ck_assert_int_eq(madvise(area + SIZE / 2, SIZE / 2, MADV_FREE), 0);
		ck_assert_int_eq(cow_adopt(area, SIZE), 0);
		ck_assert_int_eq(cow_region_state(area), COW_STATE_ARMED);
	}
	r = reader_start(sees, (void *)&all_of_it);
	guarded = was_guarded(area + 100 * PAGE);
	ck_assert_int_eq(is_killed(&r), guarded);
}
END_TEST

/* Shared memory over it. */
START_TEST(attached_over)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	struct reader r;

	ck_assert_int_ge(id, 0);
	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	r = reader_start(sees, (void *)&all_of_it);
	ck_assert_ptr_eq((void *)syscall(SYS_shmat, id, area, SHM_REMAP), area);
	shmctl(id, IPC_RMID, NULL);
	fill(area, SIZE, 5);
	ck_assert_int_eq(is_killed(&r), 1);
}
END_TEST

int main(void)
{
	const TTest *const fourfold[] = { killed, ended_meanwhile };
	const TTest *const twice[] = { guarded_after_it_was_freed };
	const TTest *const once[] = { moved_by_a_helper, few_descriptors, attached_over,
				      huge_page_of_zeros, many_mappings };
	Suite *s = suite_create("dying");

	support_add(s, "in four ways", 30, fourfold, COUNT(fourfold), 4);
	support_add(s, "in two ways", 20, twice, COUNT(twice), 2);
	support_add(s, "once", 30, once, COUNT(once), 1);
	return armed_run(s);
}
