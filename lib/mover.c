/*
 * What the mover does, and when:
 *
 *   fork --> WAIT until no descendant looks and forks have been quiet for a while
 *              |   (or forks have cost what a thaw costs, or cow_thaw() asks)
 *            THAW, a table at a time, the lock given up between tables
 *              |   a fork in between: back to WAIT
 *            END, when nothing is left that can be thawed; the next fork starts anew
 *
 * It has a descriptor table of its own, so that nothing it opens takes a number
 * from the program or a child, and nothing that the program closes is its. It is
 * not woken when a descendant ends: asking costs 0.2 us, at intervals that grow with
 * the descendant's age from 2 ms to a quarter of a second, and a thaw is to wait
 * for quiet anyway. Who wants an answer touches the bell, a missing page of the
 * userfaultfd that it waits on.
 *
 * Nor does it call the log, whose callback may write to a descriptor.
 *
 * It allocates nothing by malloc, takes no lock but the process lock, and touches no
 * memory of the program's but through shadow and scratch: threads may wait for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include "compat.h"
#include "fork.h"
#include "freeze.h"
#include "log.h"
#include "loop.h"
#include "mover.h"
#include "options.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"
#include "uffd.h"

#define STACK_SIZE ((size_t)256 << 10)
#define QUIET_NS 50000000u	/* without forks, at least */
#define QUIET_THAWS 4u		/* ... and as long as that many thaws take: so one
				 * takes a fifth of one processor at most */
#define TABLE_NS 100000u	/* first guess of what a table costs */
#define WAIT_MIN_NS 2000000u
#define WAIT_MAX_NS 256000000u
#define GIVE_WAY 1000		/* times, to threads that wait for the lock */

enum next { NEXT_END, NEXT_WAIT, NEXT_LOOK, NEXT_AGAIN };

struct run {
	struct lift lift;
	struct loop loop;
	struct thaw thaw;
	int thawing;
	int looked;		/* for descriptors that may pin memory */
	uint64_t wait_ns;
};

static int is_asked(void)
{
	return process.life->mover.answered != process.life->mover.asked;
}

/* What mlockall(2) would lock must not be moved about. */
static int worth_thawing(void)
{
	return !process.lock_future && thaw_pending();
}

/* --- the bell ----------------------------------------------------------- */

/* A page that is missing while there is a mover: who touches it waits until the
 * mover, which its fault has woken, gives it. What was asked stands elsewhere. */
static int make_bell(struct mover *m)
{
	long p;

	if (m->bell)
		return 0;
	p = sys_mmap(0, sys_page_size(), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sys_failed(p))
		return -ENOMEM;
	sys_madvise((uintptr_t)p, sys_page_size(), MADV_DONTFORK);
	m->bell = (uintptr_t)p;
	return 0;
}

static int hang_bell(int uffd)
{
	uintptr_t bell = process.life->mover.bell;
	int ret = uffd_hold(uffd, bell, sys_page_size(), 0);

	return ret ? ret : sys_madvise(bell, sys_page_size(), MADV_DONTNEED);
}

/* Also for those who touch all memory there is, like mlockall(2). */
static void stop_ringing(int uffd)
{
	while (uffd_next_fault(uffd))
		uffd_give_zeros(uffd, process.life->mover.bell);
}

static void ring(uintptr_t bell)
{
	sys_madvise(bell, sys_page_size(), MADV_DONTNEED);
	(void)*(volatile char *)bell;
}

static void answer(int result)
{
	process.life->mover.answer = result;
	process.life->mover.answered = process.life->mover.asked;
}

/* --- when --------------------------------------------------------------- */

static uint64_t quiet_time(const struct mover *m)
{
	uint64_t tables = thaw_pending() / TABLE_SIZE + 1;

	return QUIET_NS + QUIET_THAWS * tables * (m->table_ns ? m->table_ns : TABLE_NS);
}

static uint64_t at_most(uint64_t ns, uint64_t most)
{
	return ns < most ? ns : most;
}

/* A descendant that has lived long will live on. */
static uint64_t poll_time(uint64_t age)
{
	return age / 8 < WAIT_MIN_NS ? WAIT_MIN_NS : at_most(age / 8, WAIT_MAX_NS);
}

/* NEXT_AGAIN: now. */
static enum next when(struct run *r)
{
	uint64_t age = sys_now_ns() - process.life->meter.before, quiet;

	if (!thaw_unseen()) {
		answer(-EBUSY);
		r->wait_ns = poll_time(age);
		return NEXT_WAIT;
	}
	if (is_asked() || fork_thaw_pays())
		return NEXT_AGAIN;
	quiet = quiet_time(&process.life->mover);
	if (age >= quiet)
		return NEXT_AGAIN;
	r->wait_ns = at_most(quiet - age, WAIT_MAX_NS);
	return NEXT_WAIT;
}

/* --- one step, with the lock held --------------------------------------- */

static enum cow_reason reason_of(const struct thaw *t)
{
	if (!t->kept)
		return COW_REASON_NONE;
	switch (t->why) {
	case -EPERM: return COW_REASON_PINNED;
	case -EEXIST: return COW_REASON_FOREIGN;
	case -ENOMEM: return COW_REASON_MAPS;
	default: return COW_REASON_CALL;
	}
}

static void finish(struct run *r)
{
	const struct thaw *t = &r->thaw;
	struct mover *m = &process.life->mover;

	m->kept_why = reason_of(t);
	if (t->tables) {
		m->table_ns = t->ns / t->tables;
		process.life->stats.thaw_ns_total += t->ns;
		process.life->stats.thaw_tables += t->tables;
		fork_thawed();
	}
	if (t->longest_ns > process.life->stats.thaw_hold_ns_max)
		process.life->stats.thaw_hold_ns_max = t->longest_ns;
	m->news = (struct mover_news){ 1, t->tables, t->kept, t->ns, t->longest_ns, t->why };
	r->thawing = 0;
}

static enum next thaw_some(struct run *r)
{
	int ret = thaw_next(&r->thaw, &r->lift);

	if (ret == 1)
		return NEXT_AGAIN;
	finish(r);
	if (ret < 0)
		return NEXT_AGAIN;	/* forked meanwhile */
	answer(r->thaw.kept ? -EAGAIN : 0);
	return NEXT_END;
}

static void begin(struct run *r)
{
	memset(&r->thaw, 0, sizeof(r->thaw));
	r->lift.held_ns = 0;
	r->thawing = 1;
	r->looked = 0;
}

/* What a thread is told to do before the rest of the program is gone: it ends, so
 * that the C library sees the last thread end. */
static int must_end(void)
{
	return process.life->mover.stop || sys_alone_in_mm();
}

static int anything_left(void)
{
	if (worth_thawing() && (is_asked() || options.thaw == COW_THAW_AUTO))
		return 1;
	process_each_own(s)
		if (s->stale)
			return 1;
	return 0;
}

static enum next step(struct run *r)
{
	enum next next;

	if (must_end())
		return NEXT_END;
	if (r->thawing)
		return thaw_some(r);
	if (freeze_reap_some())
		return NEXT_AGAIN;
	if (!anything_left()) {
		answer(0);
		return NEXT_END;
	}
	next = when(r);
	if (next == NEXT_AGAIN && !r->looked)
		return NEXT_LOOK;
	if (next == NEXT_AGAIN)
		begin(r);
	return next;
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
	if (n->kept)
		log_line(COW_LOG_WARN, "thaw: %llu KiB stay frozen: %s",
			 (unsigned long long)n->kept >> 10, strerror(-n->why));
	if (refused)
		log_line(COW_LOG_WARN, "thaw: frozen memory stays so: %s",
			 cow_reason_string((enum cow_reason)refused));
	m->news = (struct mover_news){ 0 };
}

/* --- the thread --------------------------------------------------------- */

/* The next table takes the lock again at once, and a mutex is not fair. */
static void give_way(void)
{
	for (int i = 0; process_waited_for() && i < GIVE_WAY; i++)
		sched_yield();
}

static void wait(struct run *r)
{
	if (loop_wait(&r->loop, r->wait_ns) < 0)
		sched_yield();
	stop_ringing(r->lift.uffd);
}

/* Some microseconds a descriptor, so not under the lock. */
static void look(struct run *r)
{
	r->lift.watch_pins = procfs_may_pin(process.life->mover.starter);
	r->looked = 1;
}

static void end(void)
{
	process.life->mover.stop = 0;
	atomic_store(&process.life->mover.runs, 0);
}

static void run(struct run *r)
{
	for (;;) {
		enum next next;

		process_lock();
		next = step(r);
		if (next == NEXT_END)
			end();
		process_unlock();
		if (next == NEXT_END)
			return;
		if (next == NEXT_LOOK)
			look(r);
		else if (next == NEXT_WAIT)
			wait(r);
		else
			give_way();
	}
}

/* 0, or the enum cow_reason why there can be no mover. */
static int open_all(struct run *r)
{
	/* nothing of the program's is in the new table, not even for an instant */
	if (sys_close_range(0, ~0u, CLOSE_RANGE_UNSHARE) < 0)
		return COW_REASON_UFFD;
	r->lift.uffd = uffd_open();
	if (r->lift.uffd < 0)
		return COW_REASON_UFFD;
	if (lift_open(&r->lift) < 0 || hang_bell(r->lift.uffd) < 0)
		return COW_REASON_UFFD;
	loop_open(&r->loop, r->lift.uffd, 1);
	return COW_REASON_NONE;
}

static void close_all(struct run *r)
{
	uintptr_t bell = process.life->mover.bell;

	loop_close(&r->loop);
	lift_close(&r->lift);
	if (r->lift.uffd >= 0) {
		uffd_let_go(r->lift.uffd, bell, sys_page_size());
		sys_close(r->lift.uffd);
	}
}

static void refuse(int why)
{
	process_lock();
	atomic_store(&process.life->mover.refused, why);
	process_native((enum cow_reason)why);
	process.life->mover.news.any = 1;
	end();
	process_unlock();
}

static void *main_of_mover(void *arg)
{
	struct mover *m = &process.life->mover;
	struct run r = { .lift.uffd = -1 };
	int why;

	(void)arg;
	sys_name_thread("cowfork-mover");
	while (atomic_exchange(&m->busy, 1))	/* the one before cleans up */
		sched_yield();
	why = open_all(&r);
	if (why)
		refuse(why);
	else
		run(&r);
	close_all(&r);
	atomic_store(&m->busy, 0);
	return NULL;
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

/* Under the lock: is it this thread's to start one? */
static int claim(struct mover *m)
{
	if (atomic_load(&m->runs) || atomic_load(&m->refused) || !worth_thawing() ||
	    make_bell(m) < 0)
		return 0;
	m->starter = sys_gettid();
	atomic_store(&m->runs, 1);
	return 1;
}

static void start(void)
{
	struct mover *m = &process.life->mover;
	int claimed;

	process_lock();
	claimed = claim(m);
	process_unlock();
	if (!claimed || create() == 0)
		return;
	process_lock();
	atomic_store(&m->refused, COW_REASON_THREAD);
	process_native(COW_REASON_THREAD);
	end();
	process_unlock();
}

void mover_start(void)
{
	struct mover *m = &process.life->mover;

	if (!__libc_single_threaded && !atomic_load(&m->runs) &&
	    !atomic_load(&m->refused) && options.thaw == COW_THAW_AUTO &&
	    !sys_alone_in_mm())
		start();
}

/* --- questions ---------------------------------------------------------- */

static int has_ended(const struct mover *m)
{
	return !atomic_load(&m->runs) && !atomic_load(&m->busy);
}

void mover_stop(void)
{
	struct mover *m = &process.life->mover;

	while (!has_ended(m)) {
		process_lock();
		m->stop = atomic_load(&m->runs);
		process_unlock();
		ring(m->bell);
		sched_yield();
	}
}

void mover_lock_without(void)
{
	for (;;) {
		process_lock();
		if (has_ended(&process.life->mover))
			return;
		process_unlock();
		mover_stop();
	}
}

/* 1 when *ret_result is the answer. */
static int is_answered(const struct mover *m, unsigned question, int *ret_result)
{
	int answered;

	process_lock();
	answered = (int)(m->answered - question) >= 0;
	*ret_result = m->answer;
	process_unlock();
	return answered;
}

/* Wait for the answer: 1. 0: the mover has ended without one. */
static int ask(struct mover *m, int *ret_result)
{
	unsigned question;

	process_lock();
	question = ++m->asked;
	process_unlock();
	do {
		if (m->bell)
			ring(m->bell);
		if (is_answered(m, question, ret_result))
			return 1;
	} while (atomic_load(&m->runs));
	return is_answered(m, question, ret_result);
}

/* --- public ------------------------------------------------------------- */

/* 0 or -errno; 1: others run here. With the lock held. */
static int thaw_alone(void)
{
	if (!thaw_pending())
		return 0;
	if (process.lock_future)
		return -EPERM;
	if (!thaw_unseen())
		return -EBUSY;
	if (!sys_alone_in_mm())
		return 1;
	thaw_all();
	return thaw_pending() ? -EAGAIN : 0;
}

int cow_thaw(void)
{
	struct mover *m = &process.life->mover;
	int ret, result;

	process_lock();
	atomic_store(&m->refused, COW_REASON_NONE);
	ret = thaw_alone();
	process_unlock();
	while (ret == 1) {
		start();
		if (ask(m, &result))
			return result;
		if (atomic_load(&m->refused) == COW_REASON_THREAD)
			return -EAGAIN;
		if (atomic_load(&m->refused))
			return -EPERM;
		sched_yield();
		process_lock();
		ret = thaw_alone();	/* it ended meanwhile, or does just now */
		process_unlock();
	}
	return ret;
}
