/*
 * The in-place engine beside system calls of the program's own, which nobody announces: several
 * at once, in the midst of copies, of threads that are killed in them. A child finds what was
 * there at the fork, or is killed; nobody waits for ever.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define SIZE (8 * MIB)
#define PAGES (SIZE / PAGE)
#define KILLED (128 + SIGKILL)
#define THREADS 4
#define WRONG 3

enum { ONTO = MREMAP_MAYMOVE | MREMAP_FIXED };

static char *const area = (char *)((uintptr_t)1 << 45);
static char *const other = (char *)((uintptr_t)1 << 45) + 64 * MIB;
static char *const far = (char *)((uintptr_t)1 << 45) + 8 * GIB;

/* --- a beginning --------------------------------------------------------- */

static int map(char *at, size_t size)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	return mmap(at, size, PROT_READ | PROT_WRITE, flags, -1, 0) == at;
}

/* Filled, and armed. */
static int arm(char *at, size_t size, unsigned seed)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_IN_PLACE, COW_HUGE_NEVER,
				       COW_THAW_AUTO, COW_ADOPT_NEVER };

	NEED(cow_options_set(&o) == 0);
	NEED(map(at, size));
	fill(at, size, seed);
	NEED(cow_adopt(at, size) == 0);
	NEED(cow_region_state(at) == COW_STATE_ARMED);
	return 0;
}

static int is_moved(char *from, size_t old, size_t len, int flags, char *to)
{
	return (char *)syscall(SYS_mremap, from, old, len, flags, to) == to;
}

static int does_nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* Some memory, page by page: every `step`-th was filled, and others were empty. */
struct sight {
	char *at;
	size_t pages, step;
};

/* It may be killed before it has seen all, but nothing else than what was there. */
static int sees(void *arg)
{
	const struct sight *s = arg;

	for (size_t i = 0; i < s->pages; i++)
		if (i % s->step ? !is_zero(s->at + i * PAGE, PAGE) : !is_page_filled(s->at, i, 1)) {
			fprintf(stderr, "page %zu is not as it was\n", i);
			return WRONG;
		}
	return 0;
}

static const struct sight all_of_it = { (char *)((uintptr_t)1 << 45), PAGES, 1 };

/* 1: it was killed. */
static int is_killed(struct reader *r)
{
	int answer = reader_ask(r), status;

	ck_assert_int_ne(answer, WRONG);
	if (answer == 0) {
		ck_assert_int_eq(reader_end(r), 0);
		return 0;
	}
	status = wait_for(r->pid);
	close(r->ask);
	close(r->answer);
	ck_assert_int_eq(status, KILLED);
	return 1;
}

/* --- onto armed memory --------------------------------------------------- */

/* Armed memory itself, write-protected as what was there. */
START_TEST(armed_memory)
{
	struct reader r;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	ck_assert_int_eq(arm(other, SIZE, 2), 0);
	r = reader_start(sees, (void *)&all_of_it);
	ck_assert(is_moved(other, SIZE, SIZE, ONTO | (_i ? MREMAP_DONTUNMAP : 0), area));
	ck_assert_int_eq(is_killed(&r), 1);
	ck_assert(is_filled(area, SIZE, 2));
}
END_TEST

static int file_of(size_t size)
{
	int fd = memfd_create("other", 0);
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ck_assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	ck_assert_ptr_ne(at, MAP_FAILED);
	fill(at, size, 7);
	munmap(at, size);
	return fd;
}

/* A file, in the midst of a copy or not. */
START_TEST(a_file)
{
	const struct sight wide = { area, 4 * PAGES, 1 };
	int fd = file_of(4 * SIZE);

	for (unsigned round = 0; round < 10; round++) {
		struct reader r;
		char c = 0;
		int status;

		ck_assert_int_eq(arm(area, 4 * SIZE, 1), 0);
		r = reader_start(sees, (void *)&wide);
		ck_assert_int_eq((int)write(r.ask, &c, 1), 1);
		usleep(2000 + round * 700);
		ck_assert_ptr_eq((void *)syscall(SYS_mmap, area, 4 * SIZE, PROT_READ, MAP_PRIVATE |
						 MAP_FIXED | MAP_POPULATE, fd, 0), area);
		if (read(r.answer, &c, 1) == 1) {
			ck_assert_int_eq(c, 0);
			status = reader_end(&r);
		} else {
			status = wait_for(r.pid);
		}
		ck_assert(status == 0 || status == KILLED);
	}
}
END_TEST

/* Locked memory that grows: that is populated before anything is told. */
static int grows(void *arg)
{
	(void)arg;
	NEED(syscall(SYS_mlock, other, SIZE) == 0);
	NEED(is_moved(other, SIZE, 2 * SIZE, ONTO, area));
	NEED(is_filled(area, SIZE, 2) && is_zero(area + SIZE, SIZE));
	return 0;
}

START_TEST(locked_memory_that_grows)
{
	struct reader r;

	ck_assert_int_eq(arm(area, 2 * SIZE, 1), 0);
	ck_assert_int_eq(arm(other, SIZE, 2), 0);
	if (_i) {
		r = reader_start(sees, (void *)&all_of_it);
		ck_assert_int_eq(grows(NULL), 0);
		ck_assert_int_eq(is_killed(&r), 1);
	} else {
		ck_assert_int_eq(in_child(grows, NULL), 0);
		fill(area, 2 * SIZE, 5);
	}
}
END_TEST

/* What moved is handed over before who moved it goes on, and unmaps it. */
START_TEST(moved_and_unmapped)
{
	struct reader r;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	r = reader_start(sees, (void *)&all_of_it);
	ck_assert(is_moved(area, SIZE, SIZE, ONTO, far));
	ck_assert_int_eq((int)syscall(SYS_munmap, far, SIZE), 0);
	ck_assert_int_eq(is_killed(&r), 0);
}
END_TEST

/* --- several at once ------------------------------------------------------ */

#define PIECE (2 * MIB)
#define STEP 100

static pthread_barrier_t barrier;
static char *piece[THREADS];

static void *moves_a_piece(void *arg)
{
	char **mine = arg, *to = *mine + 8 * GIB;
	int ok;

	pthread_barrier_wait(&barrier);
	ok = is_moved(*mine, PIECE, PIECE, ONTO, to);
	for (size_t p = 1; ok && p < PIECE / PAGE; p += 7)
		to[p * PAGE] = 1;
	*mine = to;
	return (void *)(intptr_t)ok;
}

static int sees_pieces(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < THREADS; i++) {
		struct sight s = { piece[i], PIECE / PAGE, STEP };

		if (sees(&s))
			return WRONG;
	}
	return 0;
}

/* Filled here and there, and empty in between. */
static void empty(char *at, size_t size)
{
	ck_assert_int_eq(cow_madvise(at, size, MADV_DONTNEED), 0);
	for (size_t p = 0; p < size / PAGE; p += STEP)
		fill_page(at, p, 1);
}

static void round_of_moves(void)
{
	pthread_t thread[THREADS];
	struct reader r;

	for (size_t i = 0; i < THREADS; i++) {
		piece[i] = area + i * 4 * PIECE;
		ck_assert_int_eq(arm(piece[i], PIECE, 1), 0);
	}
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	for (size_t i = 0; i < THREADS; i++)
		empty(piece[i], PIECE);
	r = reader_start(sees_pieces, NULL);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, moves_a_piece, &piece[i]), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *ok = NULL;

		pthread_join(thread[i], &ok);
		ck_assert_ptr_nonnull(ok);
	}
	(void)is_killed(&r);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(cow_munmap(piece[i], PIECE), 0);
}

START_TEST(moves)
{
	for (int round = 0; round < 40; round++)
		round_of_moves();
}
END_TEST

static atomic_int stop;

static void *touches(void *arg)
{
	for (size_t p = (size_t)(intptr_t)arg; !stop; p = (p + THREADS) % (PAGES / 2)) {
		*(volatile char *)(area + p * PAGE + 8) = 1;
		if (p + THREADS >= PAGES / 2)
			usleep(1000);
	}
	return NULL;
}

/* Faults are told before events: those that cannot be served before must not hide them. */
START_TEST(faults_beside_an_event)
{
	pthread_t thread[THREADS];
	struct reader r;

	ck_assert_int_eq(arm(area, SIZE, 1), 0);
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	empty(area, SIZE);
	r = reader_start(does_nothing, NULL);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, touches, (void *)i), 0);
	for (size_t i = 0; i < 40; i++) {
		char *at = area + SIZE / 2 + i * 16 * PAGE;

		usleep(500);
		ck_assert_int_eq((int)(_i ? syscall(SYS_munmap, at, PAGE)
					  : syscall(SYS_madvise, at, PAGE, MADV_DONTNEED)), 0);
	}
	stop = 1;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(is_killed(&r), 0);
}
END_TEST

/* --- emptied --------------------------------------------------------------- */

/* After a removal was read, and before it is done, nothing says that memory changes. */
START_TEST(emptied_after_it_was_written)
{
	for (int round = 0; round < 30; round++) {
		struct reader r;

		ck_assert_int_eq(arm(area, SIZE, 1), 0);
		r = reader_start(sees, (void *)&all_of_it);
		fill(area, SIZE, 5);
		ck_assert_int_eq((int)syscall(SYS_madvise, area, SIZE, MADV_DONTNEED), 0);
		ck_assert_int_eq(is_killed(&r), 0);
		ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
	}
}
END_TEST

/* Emptied ahead of a child that reads in order, by the library's call. */
static _Atomic(size_t) *read_so_far;

static int reads_in_order(void *arg)
{
	(void)arg;
	for (size_t p = 0; p < PAGES; p++) {
		atomic_store(read_so_far, p);
		NEED(is_page_filled(area, p, 1));
	}
	atomic_store(read_so_far, PAGES);
	return 0;
}

START_TEST(emptied_beside_a_reader)
{
	read_so_far = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int round = 0; round < 20; round++) {
		struct reader r;
		char c = 0;
		size_t at;

		ck_assert_int_eq(arm(area, SIZE, 1), 0);
		atomic_store(read_so_far, 0);
		r = reader_start(reads_in_order, NULL);
		ck_assert_int_eq((int)write(r.ask, &c, 1), 1);
		while ((at = atomic_load(read_so_far)) + 600 < PAGES)
			ck_assert_int_eq(cow_madvise(area + (at + 1 + (size_t)rand() % 500) * PAGE,
						     4 * PAGE, MADV_DONTNEED), 0);
		ck_assert(read(r.answer, &c, 1) == 1 && c == 0);
		ck_assert_int_eq(reader_end(&r), 0);
		ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
	}
}
END_TEST

/* --- threads that are killed in it ------------------------------------------ */

struct ends {
	int go, say;
};

/* More than is filled before one fork. */
#define EMPTIED (9 * SIZE)

/* A child of a program that is gone. */
static void outlives(const struct ends *e)
{
	const struct sight s = { area, EMPTIED / PAGE, STEP };
	char c;

	(void)!read(e->go, &c, 1);
	usleep(20000);
	c = (char)sees((void *)&s);
	_exit(write(e->say, &c, 1) != 1);
}

/* Whoever is killed in the call is not waited for until that was told. */
static int is_killed_emptying(unsigned us, int go[2], int say)
{
	NEED(arm(area, EMPTIED, 1) == 0);
	NEED(in_child(does_nothing, NULL) == 0);
	NEED((us % 2 ? cow_madvise(area, EMPTIED, MADV_DONTNEED)
		     : (int)syscall(SYS_madvise, area, EMPTIED, MADV_DONTNEED)) == 0);
	for (size_t p = 0; p < EMPTIED / PAGE; p += STEP)
		fill_page(area, p, 1);
	if (cow_fork() == 0) {
		close(go[1]);
		outlives(&(struct ends){ go[0], say });
	}
	signal(SIGALRM, SIG_DFL);
	ualarm(us, 0);
	syscall(SYS_madvise, area, EMPTIED, MADV_DONTNEED);
	for (;;)
		pause();
}

START_TEST(killed_while_it_empties)
{
	for (unsigned round = 0; round < 20; round++) {
		int go[2], say[2];
		char c = 0;
		pid_t pid;

		ck_assert(pipe(go) == 0 && pipe(say) == 0);
		pid = fork();
		if (pid == 0) {
			close(say[0]);
			_exit(is_killed_emptying(100 + round * 121, go, say[1]));
		}
		close(go[1]);
		close(say[1]);
		ck_assert_int_eq(wait_for(pid), 128 + SIGALRM);
		(void)!read(say[0], &c, 1);	/* or it was killed */
		ck_assert_int_eq(c, 0);
		close(go[0]);
		close(say[0]);
	}
}
END_TEST

/* --- what is there, and what is not ------------------------------------------ */

/* A page that the program has written since, and a child that outlives it: it lacks the rest. */
static int writes_and_ends(int go[2], int say)
{
	struct sight s = { area, PAGES, 1 };
	char c = 0;

	NEED(arm(area, SIZE, 1) == 0);
	if (cow_fork() == 0) {
		close(go[1]);
		(void)!read(go[0], &c, 1);
		usleep(100000);		/* until the pager knows */
		c = sees(&s) ? 'w' : 'r';
		_exit(write(say, &c, 1) != 1);
	}
	for (size_t p = 100; p < PAGES; p += 43)
		area[p * PAGE] = 7;
	_exit(0);
}

START_TEST(outlives_who_wrote)
{
	int go[2], say[2];
	char c = 0;
	pid_t pid;

	ck_assert(pipe(go) == 0 && pipe(say) == 0);
	pid = fork();
	if (pid == 0)
		_exit(writes_and_ends(go, say[1]));
	close(go[1]);
	close(say[1]);
	ck_assert_int_eq(wait_for(pid), 0);
	ck_assert_int_eq((int)read(say[0], &c, 1), 1);
	ck_assert_int_eq(c, 'r');
	close(go[0]);
	close(say[0]);
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

static void *runs(void *arg)
{
	(void)arg;
	while (!stop)
		;
	return NULL;
}

/* Of who runs nobody can see whether it moves memory. */
START_TEST(emptied_beside_the_busy)
{
	pthread_t thread[THREADS];
	struct reader r;

	ck_assert_int_eq(arm(area, 4 * SIZE, 1), 0);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, runs, NULL), 0);
	r = reader_start(sees, (void *)&all_of_it);
	ck_assert_int_eq((int)syscall(SYS_madvise, area, 4 * SIZE, MADV_DONTNEED), 0);
	stop = 1;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(is_killed(&r), 0);
}
END_TEST

static void *empties_all(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
	return (void *)(intptr_t)(syscall(SYS_madvise, area, SIZE, MADV_DONTNEED) == 0);
}

/* While one thread moves, another empties: a child has got what it lacked of that before. */
START_TEST(emptied_beside_a_move)
{
	for (int round = 0; round < 60; round++) {
		pthread_t thread;
		struct reader r;
		char *to;

		ck_assert_int_eq(arm(area, SIZE, 1), 0);
		ck_assert_int_eq(arm(other, SIZE, 2), 0);
		r = reader_start(sees, (void *)&all_of_it);
		pthread_barrier_init(&barrier, NULL, 2);
		ck_assert_int_eq(pthread_create(&thread, NULL, empties_all, NULL), 0);
		pthread_barrier_wait(&barrier);
		to = (char *)syscall(SYS_mremap, other, SIZE, SIZE,
				     _i ? ONTO : MREMAP_MAYMOVE | MREMAP_DONTUNMAP, far);
		ck_assert_ptr_ne(to, MAP_FAILED);
		pthread_join(thread, NULL);
		ck_assert_int_eq(is_killed(&r), 0);
		ck_assert_int_eq(cow_munmap(area, SIZE), 0);
		ck_assert_int_eq(cow_munmap(to, SIZE), 0);
	}
}
END_TEST

static void *removes_on_and_on(void *arg)
{
	char *at = other + (size_t)(intptr_t)arg * PIECE;

	while (!stop)
		syscall(SYS_madvise, at, PAGE, MADV_DONTNEED);
	return NULL;
}

static int sees_after_zeros(void *arg)
{
	(void)arg;
	if (!is_zero(area, SIZE))
		return WRONG;
	for (size_t p = PAGES; p < 2 * PAGES; p++)
		if (!is_page_filled(area, p, 1))
			return WRONG;
	return 0;
}

/* Of several one is always about to be told of. Others write and fork nevertheless. */
START_TEST(removed_on_and_on)
{
	pthread_t thread[2 * THREADS];
	struct reader r;

	ck_assert_int_eq(arm(area, 2 * SIZE, 1), 0);
	ck_assert_int_eq(arm(other, 2 * THREADS * PIECE, 2), 0);
	ck_assert_int_eq(cow_madvise(area, SIZE, MADV_DONTNEED), 0);
	r = reader_start(sees_after_zeros, NULL);
	for (size_t i = 0; i < 2 * THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, removes_on_and_on, (void *)i), 0);
	for (size_t p = 0; p < 2 * PAGES; p += 7)
		fill_page(area, p, 3);
	ck_assert_int_eq(in_child(does_nothing, NULL), 0);
	fill(area, 2 * SIZE, 4);
	stop = 1;
	for (size_t i = 0; i < 2 * THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(is_killed(&r), 0);
	ck_assert(is_filled(area, 2 * SIZE, 4));
	ck_assert_uint_eq(stats().native[COW_REASON_PAGER], 0);
}
END_TEST

static char *low, *high;

static void *unmaps_high(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
	usleep(3000);
	return (void *)(intptr_t)(syscall(SYS_munmap, high, SIZE) == 0);
}

static void *moves_low(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
	usleep(6000);
	return (void *)syscall(SYS_mremap, low, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
}

/* The kernel finds room for armed memory where other armed memory was, of which it has not told
 * yet, for the pager is busy. */
START_TEST(moved_to_where_room_was_made)
{
	unsigned met = 0;

	for (int round = 0; round < 60; round++) {
		pthread_t unmapper, mover;
		struct reader r;
		struct sight s = { NULL, PAGES, 1 };
		void *to;

		high = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		low = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ck_assert_int_eq(arm(high, SIZE, 1), 0);
		ck_assert_int_eq(arm(low, SIZE, 2), 0);
		ck_assert_int_eq(arm(area, 16 * SIZE, 3), 0);
		s.at = high;
		r = reader_start(sees, &s);
		pthread_barrier_init(&barrier, NULL, 3);
		ck_assert_int_eq(pthread_create(&unmapper, NULL, unmaps_high, NULL), 0);
		ck_assert_int_eq(pthread_create(&mover, NULL, moves_low, NULL), 0);
		pthread_barrier_wait(&barrier);
		syscall(SYS_madvise, area, PAGE, MADV_DONTNEED);
		pthread_join(unmapper, NULL);
		pthread_join(mover, &to);
		met += to == high;
		(void)is_killed(&r);
		ck_assert_int_eq(cow_munmap(area, 16 * SIZE), 0);
		ck_assert_int_eq(cow_munmap(low, SIZE), 0);
		ck_assert_int_eq(cow_munmap(to, SIZE), 0);
	}
	printf("%u moved to where room was made\n", met);
	ck_assert_uint_gt(met, 0);
}
END_TEST

/* --- the pager is lost meanwhile --------------------------------------------- */

static void *kills(void *arg)
{
	usleep(15000);
	kill(*(pid_t *)arg, SIGKILL);
	return NULL;
}

/* What was moved, and was not plain memory yet. */
START_TEST(pager_lost_in_a_move)
{
	pid_t pager;
	pthread_t thread;
	struct reader r;

	ck_assert_int_eq(arm(area, 16 * SIZE, 1), 0);
	pager = support_child("cowfork-pager");
	r = reader_start(sees, (void *)&all_of_it);
	ck_assert_int_eq(pthread_create(&thread, NULL, kills, &pager), 0);
	ck_assert(is_moved(area, 16 * SIZE, 16 * SIZE, ONTO, far));
	pthread_join(thread, NULL);
	fill(far, 16 * SIZE, 4);
	(void)is_killed(&r);
}
END_TEST

int main(void)
{
	const TTest *const twice[] = { armed_memory, locked_memory_that_grows,
				       faults_beside_an_event, taken_after_a_fork,
				       emptied_beside_a_move };
	const TTest *const once[] = { a_file, moves, moved_and_unmapped, emptied_after_it_was_written,
				      emptied_beside_a_reader, killed_while_it_empties,
				      outlives_who_wrote, filled_later,
				      emptied_beside_the_busy, removed_on_and_on,
				      moved_to_where_room_was_made, pager_lost_in_a_move };
	struct cow_facilities f = { .size = sizeof(f) };
	Suite *s = suite_create("untold");

	if (cow_facilities(&f) < 0 || !f.in_place) {
		printf("skip: no userfaultfd that tells of forks\n");
		return 77;
	}
	support_add(s, "in two ways", 20, twice, COUNT(twice), 2);
	support_add(s, "once", 20, once, COUNT(once), 1);
	return support_run(s);
}
