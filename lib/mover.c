/*
 * What the mover does, and when:
 *
 *   fork --> WAIT until no descendant looks and forks have been quiet for a while
 *              |   (or forks have cost what a thaw costs, or cow_thaw() asks)
 *            THAW, a table at a time, the lock given up between tables
 *              |   a fork in between: back to WAIT
 *            PARK, when nothing is left that can be thawed, until the next fork
 *
 * It has a descriptor table of its own, so that nothing it opens takes a number
 * from the program or a child, and nothing that the program closes is its. It is
 * not woken when a descendant ends: asking costs 0.2 us, at intervals that grow with
 * the descendant's age from 2 ms to a quarter of a second, and a thaw is to wait
 * for quiet anyway.
 *
 * It allocates nothing by malloc, takes no lock but the process lock, and touches no
 * memory of the program's but through shadow and scratch: threads may wait for it.
 * Nor does it call the log, whose callback may write to a descriptor.
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
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include "compat.h"
#include "fork.h"
#include "freeze.h"
#include "log.h"
#include "mover.h"
#include "options.h"
#include "pin.h"
#include "process.h"
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
#define TRIES 10u		/* while pages are pinned, */
#define TRY_NS 20000000u	/* ... which rarely lasts */
#define PROBE_NS 1000000u	/* a probe's fork (pin.h) that takes longer, */
#define PROBES 4u		/* ... is followed by a rest as long as that many */
#define GIVE_WAY 1000		/* times, to threads that wait for the lock */

enum next { NEXT_END, NEXT_PARK, NEXT_WAIT, NEXT_AGAIN };

struct run {
	struct lift lift;
	struct thaw thaw;
	int thawing;
	unsigned tries;		/* passes that met pinned pages */
	unsigned work;		/* what it knows of */
	uint64_t wait_ns;
};

static struct mover *self(void)
{
	return &process.life->mover;
}

static int is_asked(void)
{
	return atomic_load(&self()->answered) != self()->asked;
}

/* What mlockall(2) would lock must not be moved about. */
static int worth_thawing(void)
{
	return !process.lock_future && thaw_pending();
}

static void answer(int result)
{
	struct mover *m = self();

	m->answer = result;
	if (!is_asked())
		return;
	atomic_store(&m->answered, m->asked);
	sys_futex_wake(&m->answered);
}

/* --- when --------------------------------------------------------------- */

static uint64_t quiet_time(const struct mover *m)
{
	uint64_t tables = thaw_accessible() / TABLE_SIZE + 1;

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

	if (!thaw_can_tell()) {
		self()->kept_why = COW_REASON_LEASE;
		answer(-EPERM);
		return NEXT_PARK;
	}
	if (!thaw_unseen()) {
		answer(-EBUSY);
		r->wait_ns = poll_time(age);
		return NEXT_WAIT;
	}
	if (is_asked() || fork_thaw_pays())
		return NEXT_AGAIN;
	quiet = quiet_time(self());
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
	struct mover *m = self();

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

	/* a fork that takes long, for much memory elsewhere, is not to be all there is */
	r->wait_ns = PROBES * r->lift.probe_ns;
	r->lift.probe_ns = 0;
	if (ret == 1)
		return r->wait_ns > PROBES * PROBE_NS ? NEXT_WAIT : NEXT_AGAIN;
	finish(r);
	/* forked meanwhile, and what had thawed was frozen again */
	if (ret < 0 || thaw_pending() > r->thaw.kept)
		return NEXT_AGAIN;
	if (r->thaw.why == -EPERM && ++r->tries < TRIES) {
		r->wait_ns = TRY_NS;
		return NEXT_WAIT;
	}
	r->tries = 0;
	answer(r->thaw.kept ? -EAGAIN : 0);
	return NEXT_PARK;
}

static void begin(struct run *r)
{
	memset(&r->thaw, 0, sizeof(r->thaw));
	r->lift.held_ns = 0;
	r->thawing = 1;
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

	r->work = atomic_load(&self()->work);
	if (self()->stop)
		return NEXT_END;
	if (r->thawing)
		return thaw_some(r);
	if (freeze_reap_some())
		return NEXT_AGAIN;
	if (!anything_left()) {
		answer(0);
		return NEXT_PARK;
	}
	next = when(r);
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

static void park(struct run *r)
{
	atomic_store(&self()->parked, 1);
	sys_futex_wait(&self()->work, r->work, UINT64_MAX);
	atomic_store(&self()->parked, 0);
}

static void act(struct run *r, enum next next)
{
	switch (next) {
	case NEXT_PARK: park(r); break;
	case NEXT_WAIT: sys_futex_wait(&self()->work, r->work, r->wait_ns); break;
	case NEXT_AGAIN: give_way(); break;
	case NEXT_END: break;
	}
}

static void run(struct run *r)
{
	enum next next;

	do {
		process_lock();
		next = step(r);
		process_unlock();
		lift_reap(&r->lift);
		act(r, next);
	} while (next != NEXT_END);
}

static int open_all(struct run *r)
{
	/* nothing of the program's is in the new table, not even for an instant */
	int ret = sys_close_range(0, ~0u, CLOSE_RANGE_UNSHARE);

	if (ret == 0)
		ret = r->lift.uffd = uffd_open();
	return ret < 0 ? ret : lift_open(&r->lift);
}

static void close_all(struct run *r)
{
	lift_close(&r->lift);
	if (r->lift.uffd >= 0)
		sys_close(r->lift.uffd);
	r->lift.uffd = -1;
}

/* It does not end now: see count_of_threads(). */
static int refuse(struct run *r)
{
	int stop;

	process_lock();
	atomic_store(&self()->refused, COW_REASON_UFFD);
	process_native(COW_REASON_UFFD);
	self()->news.any = 1;
	answer(-EPERM);
	r->work = atomic_load(&self()->work);
	stop = self()->stop;
	process_unlock();
	return !stop;
}

/* What failed may have been for want of memory: each fork and each question is
 * another try. Returns 0 when it is to end. */
static int open_at_last(struct run *r)
{
	while (open_all(r) < 0) {
		close_all(r);
		if (!refuse(r))
			return 0;
		park(r);
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
	struct run r = { .lift.uffd = -1 };

	(void)arg;
	sys_name_thread("cowfork-mover");
	note_tid();
	if (open_at_last(&r))
		run(&r);
	close_all(&r);
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
	(void)sys_close_range(~0u, ~0u, 0);
	(void)sys_thread_lives(0);
}

/* Here, so that no thread is made where there is no use for it. */
static int is_refused(void)
{
	int uffd;

	if (sys_is_filtered() && sys_try(try_calls) != 0)
		return COW_REASON_SANDBOX;
	if (!pin_can_tell())
		return COW_REASON_PINNED;
	uffd = uffd_open();
	if (uffd < 0)
		return COW_REASON_UFFD;
	sys_close(uffd);
	return count_of_threads() ? COW_REASON_NONE : COW_REASON_THREAD;
}

/* Under the lock: is it this thread's to make one? */
static int claim(struct mover *m)
{
	if (atomic_load(&m->runs) || atomic_load(&m->refused) || !worth_thawing())
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

/* Of a fork. Where it waits for time to pass it need not know at once. */
static void tell(struct mover *m)
{
	atomic_fetch_add(&m->work, 1);
	if (atomic_load(&m->parked))
		sys_futex_wake(&m->work);
}

void mover_start(void)
{
	struct mover *m = self();

	if (atomic_load(&m->runs))
		tell(m);
	else if (!process_borrowed() && !__libc_single_threaded && !atomic_load(&m->refused) && options.thaw == COW_THAW_AUTO &&
		 !sys_alone_in_mm())
		start();
}

void mover_stop(void)
{
	struct mover *m = self();
	int tid = 0;

	while (atomic_load(&m->runs) && !tid) {	/* it may be about to begin */
		process_lock();
		tid = atomic_load(&m->runs) ? m->tid : 0;
		m->stop = tid != 0;
		process_unlock();
		sched_yield();
	}
	if (!tid)
		return;
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

/* Wait for the mover's answer. */
static int ask(struct mover *m)
{
	unsigned question, answered;

	process_lock();
	question = ++m->asked;
	process_unlock();
	wake(m);
	for (;;) {
		answered = atomic_load(&m->answered);
		if ((int)(answered - question) >= 0)
			return m->answer;
		sys_futex_wait(&m->answered, answered, WAIT_MAX_NS);
		if (!atomic_load(&m->runs))
			return -EAGAIN;
	}
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
	if (!sys_alone_in_mm())
		return 1;
	thaw_all();
	return thaw_pending() ? -EAGAIN : 0;
}

int cow_thaw(void)
{
	struct mover *m = self();
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
	return atomic_load(&m->runs) ? ask(m) : -EAGAIN;
}
