/*
 * Locks in regions keep their wake-ups while forks freeze the memory below them:
 * a thread sleeps in each kind of lock, the region is frozen, then it is woken.
 * Private futexes are named by address, so nothing may be lost. Those that the C
 * library shares (process-shared locks, but robust ones too: the kernel wakes
 * those by their shared name, kernel/futex/core.c) are named by the page's file
 * or owner, which a freeze changes: cowfork(7), LIMITS.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

/* All in the region. */
struct locks {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_rwlock_t rwlock;
	pthread_barrier_t barrier;
	pthread_spinlock_t spin;
	sem_t sem;
	int ready;		/* by mutex and cond */
	atomic_uint count;	/* woken so far */
};

static struct locks *locks;

struct kind {
	const char *name;
	void (*init)(void);
	void (*hold)(void);	/* so that a waiter sleeps */
	void (*wait)(void);
	void (*wake)(void);
};

/* --- the kinds ------------------------------------------------------------ */

static int protocol = PTHREAD_PRIO_NONE, robust = PTHREAD_MUTEX_STALLED,
	   type = PTHREAD_MUTEX_DEFAULT;

static void init_mutex(void)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, type);
	pthread_mutexattr_setprotocol(&attr, protocol);
	pthread_mutexattr_setrobust(&attr, robust);
	ck_assert_int_eq(pthread_mutex_init(&locks->mutex, &attr), 0);
}

static void init_pi(void) { protocol = PTHREAD_PRIO_INHERIT; init_mutex(); }
static void init_checked(void) { type = PTHREAD_MUTEX_ERRORCHECK; init_mutex(); }
static void init_recursive(void) { type = PTHREAD_MUTEX_RECURSIVE; init_mutex(); }
static void init_adaptive(void) { type = PTHREAD_MUTEX_ADAPTIVE_NP; init_mutex(); }

static void hold_mutex(void) { pthread_mutex_lock(&locks->mutex); }
static void wait_mutex(void)
{
	if (pthread_mutex_lock(&locks->mutex) == EOWNERDEAD)
		pthread_mutex_consistent(&locks->mutex);
	pthread_mutex_unlock(&locks->mutex);
}
static void wake_mutex(void) { pthread_mutex_unlock(&locks->mutex); }

static void init_cond(void)
{
	init_mutex();
	pthread_cond_init(&locks->cond, NULL);
}
static void hold_nothing(void) { }
static void wait_cond(void)
{
	pthread_mutex_lock(&locks->mutex);
	while (!locks->ready)
		pthread_cond_wait(&locks->cond, &locks->mutex);
	pthread_mutex_unlock(&locks->mutex);
}
static void wake_cond(void)
{
	pthread_mutex_lock(&locks->mutex);
	locks->ready = 1;
	pthread_cond_broadcast(&locks->cond);
	pthread_mutex_unlock(&locks->mutex);
}

static void init_rwlock(void) { pthread_rwlock_init(&locks->rwlock, NULL); }
static void hold_to_write(void) { pthread_rwlock_wrlock(&locks->rwlock); }
static void hold_to_read(void) { pthread_rwlock_rdlock(&locks->rwlock); }
static void wait_to_read(void)
{
	pthread_rwlock_rdlock(&locks->rwlock);
	pthread_rwlock_unlock(&locks->rwlock);
}
static void wait_to_write(void)
{
	pthread_rwlock_wrlock(&locks->rwlock);
	pthread_rwlock_unlock(&locks->rwlock);
}
static void wake_rwlock(void) { pthread_rwlock_unlock(&locks->rwlock); }

#define WAITERS 3

static void init_barrier(void) { pthread_barrier_init(&locks->barrier, NULL, WAITERS + 1); }
static void wait_barrier(void) { pthread_barrier_wait(&locks->barrier); }

static void init_sem(void) { sem_init(&locks->sem, 0, 0); }
static void wait_sem(void) { sem_wait(&locks->sem); }
static void wake_sem(void)
{
	for (int i = 0; i < WAITERS; i++)
		sem_post(&locks->sem);
}

static const struct kind kinds[] = {
	{ "mutex", init_mutex, hold_mutex, wait_mutex, wake_mutex },
	{ "checked mutex", init_checked, hold_mutex, wait_mutex, wake_mutex },
	{ "recursive mutex", init_recursive, hold_mutex, wait_mutex, wake_mutex },
	{ "adaptive mutex", init_adaptive, hold_mutex, wait_mutex, wake_mutex },
	{ "PI mutex", init_pi, hold_mutex, wait_mutex, wake_mutex },
	{ "condition", init_cond, hold_nothing, wait_cond, wake_cond },
	{ "reader", init_rwlock, hold_to_write, wait_to_read, wake_rwlock },
	{ "writer", init_rwlock, hold_to_read, wait_to_write, wake_rwlock },
	{ "barrier", init_barrier, hold_nothing, wait_barrier, wait_barrier },
	{ "semaphore", init_sem, hold_nothing, wait_sem, wake_sem },
};

/* --- sleepers ------------------------------------------------------------- */

static const struct kind *kind;
static pid_t sleepers[WAITERS];
static atomic_int arrived;

static void *sleep_in_lock(void *arg)
{
	sleepers[(uintptr_t)arg] = (pid_t)syscall(SYS_gettid);
	atomic_fetch_add(&arrived, 1);
	kind->wait();
	atomic_fetch_add(&locks->count, 1);
	return NULL;
}

/* The kernel says in which call a thread sleeps. */
static int is_in_futex(pid_t tid)
{
	char path[64], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return -1;
	close(fd);
	return atoi(text) == SYS_futex;
}

static void start_sleepers(pthread_t *threads)
{
	atomic_store(&arrived, 0);
	for (uintptr_t i = 0; i < WAITERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, sleep_in_lock, (void *)i), 0);
	while (atomic_load(&arrived) < WAITERS)
		usleep(200);
	for (int i = 0; i < WAITERS; i++)
		for (int tries = 0; !is_in_futex(sleepers[i]) && tries < 5000; tries++)
			usleep(200);
}

static int woken_within(int ms)
{
	for (int i = 0; i < ms && atomic_load(&locks->count) < WAITERS; i++)
		usleep(1000);
	return (int)atomic_load(&locks->count);
}

static int see_sleepers(void *arg)
{
	(void)arg;
	NEED(atomic_load(&locks->count) == 0);
	return 0;
}

static int see_nothing(void *arg)
{
	return arg != NULL;
}

/* --- private futexes ------------------------------------------------------ */

/* Frozen after they fell asleep: by a fork, by cow_prepare(), by a fork of
 * another thread; or frozen, thawed by nobody, and changed since. */
static void *fork_elsewhere(void *arg)
{
	*(int *)arg = in_child(see_sleepers, NULL);
	return NULL;
}

static void freeze_by(int how)
{
	pthread_t forker;
	int ret = 0;

	if (how == 0)
		ret = in_child(see_sleepers, NULL);
	if (how == 1)
		ret = cow_prepare();
	if (how == 2) {
		ck_assert_int_eq(pthread_create(&forker, NULL, fork_elsewhere, &ret), 0);
		ck_assert_int_eq(pthread_join(forker, NULL), 0);
	}
	ck_assert_int_eq(ret, 0);
	ck_assert(has_state(locks, COW_STATE_FROZEN));
}

START_TEST(private_locks_wake)
{
	pthread_t threads[WAITERS];

	kind = &kinds[_i];
	for (int how = 0; how < 3; how++) {
		locks = (struct locks *)region(MIB);
		kind->init();
		kind->hold();
		start_sleepers(threads);
		ck_assert(has_state(locks, COW_STATE_OWNED));
		freeze_by(how);
		kind->wake();
		ck_assert_msg(woken_within(20000) == WAITERS, "%s, %d: %u woken", kind->name,
			      how, atomic_load(&locks->count));
		for (int i = 0; i < WAITERS; i++)
			ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
		/* and once more where it is frozen already */
		atomic_store(&locks->count, 0);
		locks->ready = 0;
		kind->hold();
		start_sleepers(threads);
		ck_assert_int_eq(in_child(see_sleepers, NULL), 0);
		kind->wake();
		ck_assert_int_eq(woken_within(20000), WAITERS);
		for (int i = 0; i < WAITERS; i++)
			ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
	}
}
END_TEST

/* --- no wake-up is lost in passing ----------------------------------------- */

/* Two threads hand a number to and fro by lock and condition, in region after
 * region, while a third forks: every hand-over needs a wake-up. */
struct table_tennis {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	sem_t sems[2];
	unsigned turn;
};

static struct table_tennis *table;
static atomic_int stop;
static atomic_ulong passes;

static void *play(void *arg)
{
	unsigned side = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&stop)) {
		pthread_mutex_lock(&table->mutex);
		while (table->turn % 2 != side && !atomic_load(&stop))
			pthread_cond_wait(&table->cond, &table->mutex);
		table->turn++;
		pthread_cond_signal(&table->cond);
		pthread_mutex_unlock(&table->mutex);
		sem_post(&table->sems[!side]);
		while (sem_wait(&table->sems[side]) && errno == EINTR)
			;
		atomic_fetch_add(&passes, 1);
	}
	pthread_cond_broadcast(&table->cond);
	sem_post(&table->sems[!side]);
	return NULL;
}

START_TEST(games_go_on)
{
	pthread_t players[2];

	for (int round = 0; round < 40; round++) {
		unsigned long before;

		table = (struct table_tennis *)region(MIB);
		pthread_mutex_init(&table->mutex, NULL);
		pthread_cond_init(&table->cond, NULL);
		sem_init(&table->sems[0], 0, 0);
		sem_init(&table->sems[1], 0, 0);
		atomic_store(&stop, 0);
		for (uintptr_t i = 0; i < 2; i++)
			ck_assert_int_eq(pthread_create(&players[i], NULL, play, (void *)i), 0);
		for (int fork = 0; fork < 3; fork++) {
			before = atomic_load(&passes);
			ck_assert_int_eq(in_child(see_nothing, NULL), 0);
			for (int i = 0; atomic_load(&passes) < before + 20; i++) {
				ck_assert_int_lt(i, 50000);
				usleep(200);
			}
		}
		atomic_store(&stop, 1);
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(pthread_join(players[i], NULL), 0);
		ck_assert_int_eq(cow_region_destroy(table), 0);
	}
}
END_TEST

/* --- a child's copies ------------------------------------------------------ */

/* The child of a thread that holds a lock unlocks its copy, and uses all. */
static int use_copies(void *arg)
{
	(void)arg;
	NEED(pthread_mutex_unlock(&locks->mutex) == 0);
	NEED(pthread_mutex_lock(&locks->mutex) == 0);
	NEED(sem_trywait(&locks->sem) == 0);
	NEED(pthread_rwlock_unlock(&locks->rwlock) == 0);
	return 0;
}

START_TEST(copies_in_a_child)
{
	locks = (struct locks *)region(MIB);
	init_mutex();
	init_rwlock();
	sem_init(&locks->sem, 0, 1);
	pthread_mutex_lock(&locks->mutex);
	pthread_rwlock_wrlock(&locks->rwlock);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(in_child(use_copies, NULL), 0);
		ck_assert_int_eq(pthread_mutex_trylock(&locks->mutex), EBUSY);
		ck_assert_int_eq(pthread_rwlock_tryrdlock(&locks->rwlock), EBUSY);
	}
	ck_assert_int_eq(sem_trywait(&locks->sem), 0);
}
END_TEST

/* --- robust mutexes -------------------------------------------------------- */

static void *hold_and_die(void *arg)
{
	pthread_mutex_lock(&locks->mutex);
	atomic_store(&arrived, 1);
	while (atomic_load(&arrived) == 1)
		usleep(200);
	return arg;
}

/* The holder's death is told to who asks later, whatever was frozen between. */
START_TEST(a_holder_dies)
{
	pthread_t holder;

	robust = PTHREAD_MUTEX_ROBUST;
	protocol = _i ? PTHREAD_PRIO_INHERIT : PTHREAD_PRIO_NONE;
	locks = (struct locks *)region(MIB);
	init_mutex();
	atomic_store(&arrived, 0);
	ck_assert_int_eq(pthread_create(&holder, NULL, hold_and_die, NULL), 0);
	while (!atomic_load(&arrived))
		usleep(200);
	ck_assert_int_eq(in_child(see_nothing, NULL), 0);
	atomic_store(&arrived, 2);
	ck_assert_int_eq(pthread_join(holder, NULL), 0);
	ck_assert_int_eq(pthread_mutex_lock(&locks->mutex), EOWNERDEAD);
	ck_assert_int_eq(pthread_mutex_consistent(&locks->mutex), 0);
	ck_assert_int_eq(in_child(see_nothing, NULL), 0);
	ck_assert_int_eq(pthread_mutex_unlock(&locks->mutex), 0);
	ck_assert_int_eq(pthread_mutex_lock(&locks->mutex), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-futex");
	TCase *tc = tcase_create("locks in regions");

	tcase_set_timeout(tc, 100);
	tcase_add_loop_test(tc, private_locks_wake, 0, COUNT(kinds));
	tcase_add_test(tc, games_go_on);
	tcase_add_test(tc, copies_in_a_child);
	tcase_add_loop_test(tc, a_holder_dies, 0, 2);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
