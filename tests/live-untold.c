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

#include "armed.h"
#include "support.h"

#define THREADS 4

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

		ck_assert_int_eq(arm(area, 4 * SIZE, 1), 0);
		r = reader_start(sees, (void *)&wide);
		looks(&r);
		usleep(2000 + round * 700);
		ck_assert_ptr_eq((void *)syscall(SYS_mmap, area, 4 * SIZE, PROT_READ, MAP_PRIVATE |
						 MAP_FIXED | MAP_POPULATE, fd, 0), area);
		(void)was_killed(&r);
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

/* --- and others run, or do the same ---------------------------------------------- */

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

static void *empties_later(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
	for (volatile int i = rand() % 400000; i; i--)
		;
	return (void *)(intptr_t)(syscall(SYS_madvise, area + SIZE / 2, SIZE / 2,
					  MADV_DONTNEED) == 0);
}

/* ... as another does by name, or while it forks: who has been made before lacks nothing. Whoever
 * is woken in the very moment of the look is not seen. */
START_TEST(emptied_beside_a_named_call)
{
	int killed = 0;

	for (int round = 0; round < 40; round++) {
		pthread_t thread;
		struct reader r;

		ck_assert_int_eq(arm(area, SIZE, 1), 0);
		r = reader_start(sees, (void *)&all_of_it);
		pthread_barrier_init(&barrier, NULL, 2);
		ck_assert_int_eq(pthread_create(&thread, NULL, empties_later, NULL), 0);
		pthread_barrier_wait(&barrier);
		if (_i)
			ck_assert_int_eq(cow_madvise(area, SIZE / 4, MADV_DONTNEED), 0);
		else
			ck_assert_int_eq(in_child(does_nothing, NULL), 0);
		pthread_join(thread, NULL);
		killed += is_killed(&r);
		ck_assert_int_eq(cow_munmap(area, SIZE), 0);
	}
	ck_assert_int_le(killed, 10);
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
				       faults_beside_an_event, emptied_beside_a_move,
				       emptied_beside_a_named_call };
	const TTest *const once[] = { a_file, moves, moved_and_unmapped, emptied_after_it_was_written,
				      emptied_beside_a_reader, emptied_beside_the_busy,
				      removed_on_and_on, moved_to_where_room_was_made,
				      pager_lost_in_a_move };
	Suite *s = suite_create("untold");

	support_add(s, "in two ways", 20, twice, COUNT(twice), 2);
	support_add(s, "once", 20, once, COUNT(once), 1);
	return armed_run(s);
}
