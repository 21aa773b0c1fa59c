/*
 * A fork in order:
 *
 *   prepare   lock, signals blocked; refresh if it pays; freeze what is owned
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
 * best choice in hindsight (ski rental).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fork.h"
#include "freeze.h"
#include "huge.h"
#include "log.h"
#include "options.h"
#include "process.h"
#include "sys.h"

/* First guesses, from measurements that cowfork-compare repeats. */
#define REFRESH_NS_PER_TABLE 5000u	/* thaw and freeze of one table */
#define FAULT_NS 500u			/* saved by a fault on a huge page */
#define CHILD_FAULTS 256u		/* that a child takes whatever we do */
#define COLLAPSE_BURST_NS 8000000u	/* at most this in one fork */

static struct {
	uint64_t before;		/* the kernel's fork began */
	uint64_t excess;		/* ns since the last refresh */
	uint64_t refresh_cost;		/* ns, of the last one */
	uint64_t retry_at;		/* excess at which to ask again */
	uint64_t credit;		/* ns that collapsing may use */
	uint64_t faults;		/* children's, at the last look */
	int looked;			/* an exec'd program inherits a count */
} meter;

enum made { MADE_NATIVE, MADE_FROZEN, MADE_FREEZE, MADE_REFRESH };
static enum made made;			/* the fork under way */
static int frozen_ahead;		/* cow_prepare() did its freeze */
static __thread int refused;
static int refused_here;		/* the fork under way must not happen */

/* --- refresh ------------------------------------------------------------ */

static uint64_t tables_held(void)
{
	uint64_t n = 0;

	process_each_own(s)
		for (size_t i = 0; i < s->extents.count; i++)
			if (s->extents.at[i].state == EXTENT_FROZEN)
				n += (s->extents.at[i].end - s->extents.at[i].start) /
				     TABLE_SIZE + 1;
	return n;
}

static uint64_t refresh_cost(void)
{
	uint64_t guess = tables_held() * REFRESH_NS_PER_TABLE;

	return meter.refresh_cost > guess ? meter.refresh_cost : guess;
}

static void refresh(void)
{
	uint64_t start = sys_now_ns();

	if (thaw_all() && freeze_all() >= 0)
		made = MADE_REFRESH;
	meter.refresh_cost = sys_now_ns() - start;
	meter.excess = 0;
	meter.retry_at = 0;
}

static void maybe_refresh(void)
{
	if (!process.stats.fork_ns_min || meter.excess < meter.retry_at ||
	    meter.excess < refresh_cost())
		return;
	if (thaw_allowed())
		refresh();
	else
		meter.retry_at = meter.excess + meter.excess / 4;
}

/* --- collapse ----------------------------------------------------------- */

static void earn_credit(uint64_t excess)
{
	struct rusage usage;
	uint64_t faults;

	if (getrusage(RUSAGE_CHILDREN, &usage) < 0)
		return;
	faults = (uint64_t)usage.ru_minflt;
	if (meter.looked && faults > meter.faults + CHILD_FAULTS)
		meter.credit += (faults - meter.faults - CHILD_FAULTS) * FAULT_NS;
	meter.faults = faults;
	meter.looked = 1;
	meter.credit += excess;
}

static void maybe_collapse(uint64_t excess)
{
	uint64_t budget, spent;

	if (options.huge != COW_HUGE_AUTO || !huge_pending())
		return;
	earn_credit(excess);
	budget = meter.credit < COLLAPSE_BURST_NS ? meter.credit : COLLAPSE_BURST_NS;
	/* about one table, so that small change adds up to a whole one */
	if (budget < COLLAPSE_BURST_NS / 8)
		return;
	spent = huge_collapse(budget);
	meter.credit -= spent < meter.credit ? spent : meter.credit;
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
	int ret = freeze_all();

	if (ret < 0)
		return ret;
	frozen_ahead |= ret > 0;
	if (frozen_ahead)
		made = MADE_FREEZE;
	else
		made = manages_anything() ? MADE_FROZEN : MADE_NATIVE;
	if (options.huge == COW_HUGE_ALWAYS && huge_pending())
		huge_collapse(UINT64_MAX);
	return 0;
}

static int enter(void)
{
	int ret = 0;

	if (!process_forking()) {
		process_fork_begin();
		ret = make_ready();
		if (ret == 0) {
			freeze_reap();
			maybe_refresh();
		}
		meter.before = sys_now_ns();
	} else {
		process_fork_begin();
	}
	return ret;
}

static void count_fork(void)
{
	struct cow_stats *st = &process.stats;
	uint64_t ns = sys_now_ns() - meter.before, excess;

	st->forks++;
	st->forks_native += made == MADE_NATIVE;
	st->forks_frozen += made == MADE_FROZEN;
	st->forks_freeze += made == MADE_FREEZE;
	st->forks_refresh += made == MADE_REFRESH;
	st->fork_ns_last = ns;
	st->fork_ns_total += ns;
	st->generation_forks++;
	frozen_ahead = 0;
	if (made == MADE_NATIVE)
		return;
	if (!st->fork_ns_min || ns < st->fork_ns_min)
		st->fork_ns_min = ns;
	excess = ns - st->fork_ns_min;
	/* a fork is never exactly flat: noise is no page table */
	if (excess > st->fork_ns_min) {
		meter.excess += excess;
		maybe_collapse(excess);
	} else {
		maybe_collapse(0);
	}
}

static void prepare(void)
{
	/* only the outermost call can fail, and nobody can be told here */
	int ret = enter();

	if (ret < 0) {
		refused_here = 1;
		process.stats.forks_refused++;
	}
}

static void parent(void)
{
	refused = refused_here;
	if (!refused)
		count_fork();
	refused_here = 0;
	process_fork_parent();
}

static void child(void)
{
	int die = refused_here;

	refused_here = 0;
	refused = 0;
	frozen_ahead = 0;
	meter.excess = meter.credit = meter.faults = meter.retry_at = 0;
	meter.looked = 0;
	process_fork_child();
	/* memory that could not be frozen is missing here: better no child than
	 * a wrong one. The parent's cow_fork() reports it. */
	if (die)
		_exit(127);
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

	if (ret < 0) {
		process.stats.forks_refused++;
		process_fork_parent();
	}
	return ret;
}

void cow_fork_parent(void)
{
	parent();
}

void cow_fork_child(void)
{
	child();
}

pid_t cow_fork(void)
{
	pid_t pid;
	int ret = cow_prepare();

	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	pid = fork();
	if (pid > 0 && refused) {
		waitpid(pid, NULL, 0);
		errno = ENOMEM;
		return -1;
	}
	return pid;
}
