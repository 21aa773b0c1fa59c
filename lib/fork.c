/*
 * A fork in order:
 *
 *   prepare   lock, signals blocked; adopt or refresh if it pays; freeze what is owned
 *   (the C library's and the kernel's own fork)
 *   parent    read the meter, unlock; collapse tables that forks have paid for
 *   child     all stores become inherited, unlock
 *
 * The meter: a flat fork of this process costs fork_ns_min. What a fork costs
 * above that is page tables that were filled since the freeze, and adds up in
 * `excess`; what children pay in page faults adds up in `faults`. When the sum
 * has reached what a cure costs, the cure is taken: a refresh (thaw and freeze
 * at once, page tables parked again) or collapsing tables. So a cure never
 * costs more than the evil has cost already, and the sum is at most twice the
 * best choice in hindsight (ski rental). In a program with threads the mover does
 * what a refresh does (mover.c).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adopt.h"
#include "adopt-when.h"
#include "compat.h"
#include "fork.h"
#include "freeze.h"
#include "huge.h"
#include "in-place.h"
#include "log.h"
#include "memory.h"
#include "mover.h"
#include "options.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "thaw.h"

/* First guesses, from measurements that cowfork-compare repeats. */
#define REFRESH_NS_PER_TABLE 60000u	/* thaw, freeze, and faulting in again */
#define REFRESH_NS_PER_HUGE 3000u	/* ... of a huge one */
#define REFRESH_NS_PER_PAGE 800u	/* copying back a changed page */
#define NOISE_NS 10000u			/* forks differ by that much */
#define FAULT_NS 500u			/* saved by a fault on a huge page */
#define CHILD_FAULTS 256u		/* that a child takes whatever we do */
#define LOOK_EVERY 8u			/* forks between two looks at that */
#define COLLAPSE_NS ((uint64_t)HUGE_RUN * HUGE_TABLE_NS)
#define GUESS_NS 150000u		/* a flat fork of a small process */
#define GUESS_NS_PER_PAGE 30u		/* copying the entry of a native page */

static __thread int refused;	/* this thread's last fork */
static __thread enum made counted;	/* ... and how it was counted */
static int must_die;		/* the fork under way must not happen */

/* --- refresh ------------------------------------------------------------ */

static uint64_t tables_frozen(uint64_t *ret_huge)
{
	uint64_t n = 0;

	*ret_huge = 0;
	process_each_own(s) {
		for (size_t i = 0; i < s->extents.count; i++)
			if (s->extents.at[i].state == EXTENT_FROZEN)
				n += (s->extents.at[i].end - s->extents.at[i].start) /
				     TABLE_SIZE + 1;
		*ret_huge += s->huge_count;
	}
	return n;
}

static uint64_t refresh_cost(void)
{
	long anonymous = procfs_anonymous_pages();
	uint64_t pages = anonymous > 0 ? (uint64_t)anonymous : 0;
	uint64_t huge, tables = tables_frozen(&huge);
	uint64_t small = tables > huge ? tables - huge : 0;

	return small * REFRESH_NS_PER_TABLE + huge * REFRESH_NS_PER_HUGE +
	       pages * REFRESH_NS_PER_PAGE;
}

static void forget_costs(struct meter *m)
{
	m->excess = m->retry_at = m->last[0] = m->last[1] = 0;
}

/* -ENOMEM: what was thawed could not be frozen again, so no fork may follow. */
static int refresh(struct meter *m)
{
	uint64_t start = sys_now_ns();
	int thawed = thaw_all();
	int ret = freeze_all();	/* also what a thaw left half-way */

	if (ret < 0) {
		process.life->stats.forks_refused++;
		return ret;
	}
	if (thawed) {
		process.life->made = MADE_REFRESH;
		process.life->flat = 1;
	}
	log_line(COW_LOG_INFO, "refresh: forks cost %llu us too much, it took %llu us",
		 (unsigned long long)m->excess / 1000,
		 (unsigned long long)(sys_now_ns() - start) / 1000);
	forget_costs(m);
	return 0;
}

int fork_thaw_pays(void)
{
	const struct meter *m = &process.life->meter;

	return m->excess && m->excess >= refresh_cost();
}

void fork_thawed(void)
{
	forget_costs(&process.life->meter);
	process.life->flat = 1;
}

static int maybe_refresh(struct meter *m)
{
	if (!m->excess || m->excess < m->retry_at)
		return 0;
	if (m->excess >= refresh_cost() && thaw_allowed())
		return refresh(m);
	m->retry_at = m->excess + m->excess / 4;
	return 0;
}

/* --- collapse ----------------------------------------------------------- */

static void earn_credit(struct meter *m, uint64_t excess)
{
	struct rusage usage;
	uint64_t faults;

	m->credit += excess;
	if (process.life->stats.forks % LOOK_EVERY ||
	    getrusage(RUSAGE_CHILDREN, &usage) < 0)
		return;
	faults = (uint64_t)usage.ru_minflt;
	if (m->looked && faults > m->faults + LOOK_EVERY * CHILD_FAULTS)
		m->credit += (faults - m->faults - LOOK_EVERY * CHILD_FAULTS) * FAULT_NS;
	m->faults = faults;
	m->looked = 1;
}

/* A run of tables at a time, when the credit covers what the last run took (a
 * call of MADV_COLLAPSE costs 3 to 30 ms, depending on what else runs). */
static void maybe_collapse(struct meter *m, uint64_t excess)
{
	uint64_t spent;

	if (options.huge != COW_HUGE_AUTO || !huge_pending())
		return;
	earn_credit(m, excess);
	if (m->credit < (m->run_ns ? m->run_ns : COLLAPSE_NS))
		return;
	spent = huge_collapse(1);
	m->run_ns = spent > COLLAPSE_NS ? spent : COLLAPSE_NS;
	m->credit -= spent < m->credit ? spent : m->credit;
}

/* --- the handlers ------------------------------------------------------- */

static int manages_anything(void)
{
	process_each_own(s)
		if (s->extents.count > 1)
			return 1;
	return 0;
}

/* Returns 0 or -ENOMEM. */
static int make_ready(void)
{
	struct life *life = process.life;
	int ret = freeze_all();

	if (ret < 0) {
		life->stats.forks_refused++;
		return ret;
	}
	life->frozen_ahead |= ret > 0;
	if (life->frozen_ahead)
		life->made = MADE_FREEZE;
	else
		life->made = manages_anything() ? MADE_FROZEN : MADE_NATIVE;
	if (options.huge == COW_HUGE_ALWAYS && huge_pending())
		huge_collapse(UINT64_MAX);
	return 0;
}

static void maybe_adopt(void)
{
	const struct adopt_what what = adopt_everything();

	if (!adopt_when_due())
		return;
	if (in_place_wanted())
		(void)in_place_arm(&what);
	else if (sys_alone_in_mm())
		(void)adopt_alone(&what);
	else if (memory_may_be_pinned())
		adopt_when_done(COW_REASON_PINNED, 0);
	else if (process.malloc_tamed)
		process.life->mover.wanted = 1;
	else
		adopt_when_done(COW_REASON_OWNER, 0);
}

/* Only the outermost level has work, and only it can fail. */
static int enter(void)
{
	int ret;

	if (!process_fork_begin())
		return 0;
	mover_tell();
	maybe_adopt();
	ret = make_ready();
	if (ret < 0)
		return ret;
	freeze_reap();
	ret = maybe_refresh(&process.life->meter);
	if (ret == 0 && in_place_open() && process.life->made == MADE_NATIVE)
		process.life->made = MADE_IN_PLACE;
	process.life->meter.before = sys_now_ns();
	return ret;
}

/* What a flat fork may cost before one was seen: a small process, and the page
 * tables of its other memory. */
static uint64_t guessed_floor(void)
{
	long pages = procfs_anonymous_pages();

	return GUESS_NS + (pages > 0 ? (uint64_t)pages * GUESS_NS_PER_PAGE : 0);
}

/* What this fork cost above a flat one. A fork right after a freeze is flat,
 * but it may have been scheduled away: no floor is above the guess. The least of
 * the last three counts, for the same reason. */
static uint64_t read_meter(struct meter *m, uint64_t ns, int flat)
{
	uint64_t least = ns;

	for (int i = 0; i < 2; i++)
		if (m->last[i] && m->last[i] < least)
			least = m->last[i];
	if (!m->floor || flat)
		m->floor = guessed_floor();
	if (least < m->floor)
		m->floor = least;
	if (!m->last[1])
		least = 0;
	m->last[1] = m->last[0];
	m->last[0] = ns;
	return least > m->floor + m->floor / 2 + NOISE_NS ? least - m->floor : 0;
}

static void count_fork(struct life *life)
{
	struct cow_stats *st = &life->stats;
	uint64_t ns = sys_now_ns() - life->meter.before, excess;

	if (counted != life->made)
		counted = life->made;
	st->forks++;
	st->forks_native += life->made == MADE_NATIVE;
	st->forks_frozen += life->made == MADE_FROZEN;
	st->forks_freeze += life->made == MADE_FREEZE;
	st->forks_refresh += life->made == MADE_REFRESH;
	st->forks_in_place += life->made == MADE_IN_PLACE;
	st->generation_forks++;
	st->fork_ns_last = ns;
	st->fork_ns_total += ns;
	if (!st->fork_ns_min || ns < st->fork_ns_min)
		st->fork_ns_min = ns;
	life->frozen_ahead = 0;
	if (life->made != MADE_FREEZE && life->made != MADE_REFRESH)
		adopt_when_forked(ns);
	if (life->made == MADE_NATIVE || life->made == MADE_IN_PLACE)
		return;
	excess = read_meter(&life->meter, ns, life->flat);
	life->flat = 0;
	life->meter.excess += excess;
	maybe_collapse(&life->meter, excess);
}

static void prepare(void)
{
	if (enter() < 0)
		must_die = 1;	/* nobody can be told here */
}

/* Written only when they change: a write after a fork copies a page. */
IN_CHILD static void note_refused(int value)
{
	if (refused != value)
		refused = value;
	if (must_die)
		must_die = 0;
}

static void parent(void)
{
	int was_refused = must_die;

	note_refused(was_refused);
	in_place_close();
	if (!was_refused && atomic_load(&process.life->forking) == 1)
		count_fork(process.life);
	mover_told();
	process_fork_parent();
}

IN_CHILD static void child(void)
{
	/* memory that could not be frozen is missing here: better no child than
	 * a wrong one. The parent's cow_fork() reports it. */
	if (must_die)
		_exit(127);
	in_place_child();
	note_refused(0);
	process_fork_child();
}

int fork_register(void)
{
	return pthread_atfork(prepare, parent, child);
}

/* --- public ------------------------------------------------------------- */

int cow_prepare(void)
{
	int ret;

	process_lock();
	ret = make_ready();
	process_unlock();
	return ret;
}

int cow_fork_enter(void)
{
	int ret = enter();

	if (ret < 0)
		process_fork_parent();
	return ret;
}

void cow_fork_parent(void)
{
	parent();
}

IN_CHILD void cow_fork_child(void)
{
	child();
}

/* The handlers cannot know that the kernel made no child. */
static void take_back(void)
{
	struct cow_stats *st = &process.life->stats;
	int error = errno;

	process_lock();
	st->forks--;
	st->forks_native -= counted == MADE_NATIVE;
	st->forks_frozen -= counted == MADE_FROZEN;
	st->forks_freeze -= counted == MADE_FREEZE;
	st->forks_refresh -= counted == MADE_REFRESH;
	st->forks_in_place -= counted == MADE_IN_PLACE;
	st->generation_forks -= st->generation_forks > 0;
	process_unlock();
	errno = error;
}

/* Here all atfork handlers have run, and allocators have their locks back. */
static void start_mover(void)
{
	int error = errno;

	mover_start();
	if (errno != error)	/* a write after a fork copies a page */
		errno = error;
}

/* Beside other threads the first fork waits for the mover here, where no lock is held. */
static void adopt_first(void)
{
	const struct adopt_what what = adopt_everything();
	int due = 0;

	if (options.adopt != COW_ADOPT_FIRST || !options_use_store() || __libc_single_threaded ||
	    !process.malloc_tamed)
		return;
	process_lock();
	if (!process_forking() && !process_borrowed() && !sys_alone_in_mm())
		due = adopt_when_due();
	process_unlock();
	if (due)
		(void)mover_adopt(&what, 0);
}

IN_CHILD pid_t fork_by(pid_t (*libc_fork)(void))
{
	pid_t pid;
	int ret;

	in_place_tame();
	adopt_first();
	ret = cow_prepare();
	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	pid = libc_fork();
	if (pid < 0)
		take_back();
	if (pid > 0 && refused) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		errno = ENOMEM;
		pid = -1;
	}
	if (pid)
		start_mover();
	return pid;
}

IN_CHILD pid_t cow_fork(void)
{
	return fork_by(fork);
}
