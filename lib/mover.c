/*
 * The mover's thread: how it is made, told, asked and ended, by threads of the
 * program. What it does is in mover-run.c.
 *
 * The C library does not count it among the threads whose last one ends the
 * process: see count_of_threads().
 *
 * SPDX-License-Identifier: MIT
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/single_threaded.h>

#include "compat.h"
#include "log.h"
#include "mover.h"
#include "mover-run.h"
#include "options.h"
#include "pin.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"
#include "uffd.h"

#define STACK_SIZE ((size_t)256 << 10)
#define ASK_AGAIN_NS 256000000u	/* whether there still is a mover to answer */

static struct mover *self(void)
{
	return &process.life->mover;
}

void mover_tell(void)
{
	struct mover *m = &process.life->mover;
	const struct mover_news *n = &m->news;
	int refused = atomic_load(&m->refused);

	if (!n->any)
		return;
	if (n->tables || n->kept)
		log_line(COW_LOG_INFO, "thaw: %llu tables in %llu us, none held longer "
			 "than %llu us", (unsigned long long)n->tables,
			 (unsigned long long)n->ns / 1000,
			 (unsigned long long)n->hold_ns / 1000);
	if (n->adopted)
		log_line(COW_LOG_INFO, "adopted or released %llu MiB, none held longer than "
			 "%llu us", (unsigned long long)n->adopted >> 20,
			 (unsigned long long)n->hold_ns / 1000);
	if (n->kept)
		log_line(COW_LOG_WARN, "thaw: %llu KiB stay frozen: %s",
			 (unsigned long long)n->kept >> 10, strerror(-n->why));
	if (refused)
		log_line(COW_LOG_WARN, "thaw: frozen memory stays so: %s",
			 cow_reason_string((enum cow_reason)refused));
	m->news = (struct mover_news){ 0 };
}

/* --- the thread --------------------------------------------------------- */

static int open_all(struct lift *l)
{
	/* nothing of the program's is in the new table, not even for an instant */
	int ret = sys_close_range(0, ~0u, CLOSE_RANGE_UNSHARE);

	if (ret == 0)
		ret = l->uffd = uffd_open();
	return ret < 0 ? ret : lift_open(l);
}

static void close_all(struct lift *l)
{
	lift_close(l);
	if (l->uffd >= 0)
		sys_close(l->uffd);
	l->uffd = -1;
}

/* It does not end now: see count_of_threads(). */
static int refuse(unsigned *ret_work)
{
	int stop;

	process_lock();
	atomic_store(&self()->refused, COW_REASON_UFFD);
	process_native(COW_REASON_UFFD);
	self()->news.any = 1;
	mover_answer(&self()->thaw, -EPERM);
	mover_answer(&self()->adopt, -EPERM);
	self()->wanted = 0;
	*ret_work = atomic_load(&self()->work);
	stop = self()->stop;
	process_unlock();
	return !stop;
}

/* What failed may have been for want of memory: each fork and each question is
 * another try. Returns 0 when it is to end. */
static int open_at_last(struct lift *l)
{
	unsigned work;

	while (open_all(l) < 0) {
		close_all(l);
		if (!refuse(&work))
			return 0;
		mover_park(work);
	}
	atomic_store(&self()->refused, COW_REASON_NONE);
	return 1;
}

static void note_tid(void)
{
	process_lock();
	self()->tid = sys_gettid();
	process_unlock();
}

static void *main_of_mover(void *arg)
{
	struct lift lift = { .uffd = -1 };

	(void)arg;
	sys_name_thread("cowfork-mover");
	sys_hurry();	/* who waits for a table that is held waits for this thread */
	note_tid();
	if (open_at_last(&lift))
		mover_run(&lift);
	close_all(&lift);
	return NULL;
}

/* --- start and end ------------------------------------------------------ */

/* The C library's count of threads, which it exports for libthread_db(3). The last
 * of them runs exit(3). That must not be the mover, which has none of the program's
 * descriptors to flush output to. So it is not counted, which those who make and end
 * it see to: threads of the program, which do not end meanwhile. */
static _Atomic(unsigned) *count_of_threads(void)
{
	return (_Atomic(unsigned) *)dlsym(RTLD_DEFAULT, "__nptl_nthreads");
}

/* Signals of the program's are none of its business; the C library's own, by which
 * setuid(2) reaches all threads, cannot be blocked by this call. */
static int create(void)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	size_t usual = 0;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_attr_getstacksize(&attr, &usual) == 0 && usual > STACK_SIZE)
		pthread_attr_setstacksize(&attr, STACK_SIZE);
	ret = pthread_create(&thread, &attr, main_of_mover, NULL);
	if (ret == EINVAL) {	/* much thread-local storage */
		pthread_attr_setstacksize(&attr, usual);
		ret = pthread_create(&thread, &attr, main_of_mover, NULL);
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

/* A filter may kill for what a mover does: so a child tries it. */
static void try_calls(void)
{
	int uffd = uffd_open();

	if (uffd >= 0)
		sys_close(uffd);
	sys_name_thread("cowfork-try");
	(void)sys_close_range(~0u, ~0u, 0);
	(void)sys_thread_lives(0);
	(void)sys_robust_list(0, &(uintptr_t){ 0 });
	(void)sys_look(&uffd, &uffd, sizeof(uffd));
}

/* Not for want of a descriptor or of memory, which passes. */
static int is_for_good(int error)
{
	return error == -EPERM || error == -EACCES || error == -ENOSYS || error == -ENOENT ||
	       error == -EINVAL;
}

/* Here, so that no thread is made where there is no use for it. */
static int is_refused(void)
{
	int uffd;

	if (procfs_is_filtered() && sys_try(try_calls) > 0)
		return COW_REASON_SANDBOX;
	if (!pin_can_tell())
		return COW_REASON_PINNED;
	uffd = uffd_open();
	if (uffd >= 0)
		sys_close(uffd);
	else if (is_for_good(uffd))
		return COW_REASON_UFFD;
	return count_of_threads() ? COW_REASON_NONE : COW_REASON_THREAD;
}

/* Under the lock: is it this thread's to make one? */
static int claim(struct mover *m)
{
	if (atomic_load(&m->runs) || atomic_load(&m->refused) || !mover_has_work() ||
	    process_is_plain() ||
	    process_borrowed())	/* it would die with the helper that asks */
		return 0;
	atomic_store(&m->runs, 1);
	return 1;
}

static void start(void)
{
	struct mover *m = self();
	int claimed, why;

	process_lock();
	claimed = claim(m);
	process_unlock();
	if (!claimed)
		return;
	why = is_refused();
	if (!why && create() == 0) {
		atomic_fetch_sub(count_of_threads(), 1);
		return;
	}
	process_lock();
	atomic_store(&m->refused, why);	/* for want of a thread the next fork tries */
	m->kept_why = why ? why : COW_REASON_THREAD;
	m->news.any = 1;
	process_native((enum cow_reason)m->kept_why);
	atomic_store(&m->runs, 0);
	process_unlock();
}

static void wake(struct mover *m)
{
	atomic_fetch_add(&m->work, 1);
	sys_futex_wake(&m->work);
}

/* Where it waits for time to pass it need not know at once. */
void mover_told(void)
{
	struct mover *m = self();

	if (!atomic_load(&m->runs))
		return;
	atomic_fetch_add(&m->work, 1);
	if (atomic_load(&m->parked))
		sys_futex_wake(&m->work);
}

void mover_start(void)
{
	struct mover *m = self();

	if (!__libc_single_threaded && !atomic_load(&m->runs) && !process_borrowed() &&
	    !atomic_load(&m->refused) && (options.thaw == COW_THAW_AUTO || m->wanted) &&
	    !sys_alone_in_mm())
		start();
}

/* The thread that is to end, if it is this call that ends it; 0: there is none, or
 * another call does; -1: it is about to begin. */
static int claim_end(struct mover *m)
{
	int tid = 0;

	process_lock();
	if (atomic_load(&m->runs) && !m->stop) {
		tid = m->tid ? m->tid : -1;
		m->stop = tid > 0;
	}
	process_unlock();
	return tid;
}

void mover_stop(void)
{
	struct mover *m = self();
	int tid;

	while ((tid = claim_end(m)) < 0)
		sched_yield();
	if (!tid) {
		while (m->stop && atomic_load(&m->runs))
			sched_yield();
		return;
	}
	atomic_fetch_add(count_of_threads(), 1);
	wake(m);
	while (sys_thread_lives(tid))
		sched_yield();
	process_lock();
	m->stop = m->tid = 0;
	atomic_store(&m->runs, 0);
	process_unlock();
}

/* --- public ------------------------------------------------------------- */

/* Wait for the mover's answer to the question of that number. */
static int wait_for(struct mover *m, struct mover_question *q, unsigned number)
{
	unsigned answered;

	wake(m);
	for (;;) {
		answered = atomic_load(&q->answered);
		if ((int)(answered - number) >= 0)
			return q->answer;
		sys_futex_wait(&q->answered, answered, ASK_AGAIN_NS);
		if (!atomic_load(&m->runs))
			return -EAGAIN;
	}
}

/* One at a time: the answer is for what was asked last. The lock is held, and given up
 * meanwhile. */
static void wait_for_turn(struct mover *m)
{
	unsigned answered;

	while ((answered = atomic_load(&m->adopt.answered)) != m->adopt.asked &&
	       atomic_load(&m->runs)) {
		process_unlock();
		sys_futex_wait(&m->adopt.answered, answered, ASK_AGAIN_NS);
		process_lock();
	}
}

int mover_adopt(const struct adopt_what *what, int releases)
{
	struct mover *m = self();
	unsigned number;

	process_lock();
	wait_for_turn(m);
	m->what = *what;
	m->releases = releases;
	number = ++m->adopt.asked;
	atomic_store(&m->refused, COW_REASON_NONE);
	process_unlock();
	start();
	if (atomic_load(&m->runs))
		return wait_for(m, &m->adopt, number);
	atomic_store(&m->adopt.answered, number);
	process.life->stats.adopt_reason = (uint64_t)atomic_load(&m->refused);
	return atomic_load(&m->refused) ? -EPERM : -EAGAIN;
}

/* 0 or -errno; 1: others run here. With the lock held. */
static int thaw_alone(void)
{
	if (!thaw_pending())
		return 0;
	if (process.lock_future || !thaw_can_tell())
		return -EPERM;
	if (!thaw_unseen())
		return -EBUSY;
	if (!sys_alone_in_mm() || procfs_rings() > 0)
		return 1;
	thaw_all();
	return thaw_pending() ? -EAGAIN : 0;
}

int cow_thaw(void)
{
	struct mover *m = self();
	unsigned number;
	int ret;

	process_lock();
	ret = thaw_alone();
	atomic_store(&m->refused, COW_REASON_NONE);
	process_unlock();
	if (ret < 1)
		return ret;
	start();
	if (atomic_load(&m->refused))
		return -EPERM;
	if (!atomic_load(&m->runs))
		return -EAGAIN;
	process_lock();
	number = ++m->thaw.asked;
	process_unlock();
	return wait_for(m, &m->thaw, number);
}
