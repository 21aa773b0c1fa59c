/*
 * What the mover does, and when:
 *
 *   fork --> WAIT until no descendant looks and forks have been quiet for a while
 *              |   (or forks have cost what a thaw costs, or cow_thaw() asks)
 *            THAW, some tables at a time, the lock given up between them
 *              |   a fork in between: back to WAIT
 *            PARK, when nothing is left that can be thawed, until the next fork
 *
 * Adoption and release go first, and wait for nobody: what is marked was never seen by a
 * descendant, and what is released none sees any more.
 *
 * It has a descriptor table of its own, so that nothing it opens takes a number
 * from the program or a child, and nothing that the program closes is its. It is
 * not woken when a descendant ends: asking costs some us, at intervals that grow with
 * the descendant's age from 2 ms to a quarter of a second, and a thaw is to wait
 * for quiet anyway.
 *
 * It allocates nothing by malloc, takes no lock but the process lock (and malloc's once,
 * before anything is lifted and without the process lock), and touches no
 * memory of the program's but through shadow and scratch: threads may wait for it.
 * Nor does it call the log, whose callback may write to a descriptor.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <malloc.h>
#include <sched.h>
#include <string.h>

#include "adopt.h"
#include "adopt-when.h"
#include "fork.h"
#include "freeze.h"
#include "mover.h"
#include "mover-run.h"
#include "options.h"
#include "process.h"
#include "sys.h"
#include "thaw.h"

#define QUIET_NS 50000000u	/* without forks, at least */
#define QUIET_THAWS 4u		/* ... and as long as that many thaws take: so one
				 * takes a fifth of one processor at most */
#define TABLE_NS 100000u	/* first guess of what a table costs */
#define WAIT_MIN_NS 2000000u
#define WAIT_MAX_NS 256000000u
#define TRIES 10u		/* in a row while pages are pinned, then once a fork */
#define TRY_NS 20000000u	/* ... since that rarely lasts */
#define PROBE_NS 1000000u	/* a probe's fork (pin.h) that takes longer, */
#define PROBES 4u		/* ... is followed by a rest as long as that many */
#define GIVE_WAY 1000		/* times, to threads that wait for the lock */

enum next { NEXT_END, NEXT_PARK, NEXT_WAIT, NEXT_AGAIN, NEXT_TAME };

struct run {
	struct lift *lift;
	struct thaw thaw;
	int thawing;
	struct adopt adopt;
	int adopting;
	int tamed;		/* malloc does not trim the heap any more */
	int counted;		/* ... and told how much it has, for this adoption */
	unsigned tries;		/* passes that met pinned pages */
	unsigned work;		/* what it knows of */
	uint64_t wait_ns;
};

static struct mover *self(void)
{
	return &process.life->mover;
}

static int is_asked(const struct mover_question *q)
{
	return atomic_load(&q->answered) != q->asked;
}

static int has_adoption(void)
{
	return self()->wanted || is_asked(&self()->adopt);
}

/* What mlockall(2) would lock must not be moved about. */
static int has_thaw(void)
{
	return !process.lock_future && thaw_pending();
}

int mover_has_work(void)
{
	return has_thaw() || has_adoption();
}

void mover_answer(struct mover_question *q, int result)
{
	q->answer = result;
	if (!is_asked(q))
		return;
	atomic_store(&q->answered, q->asked);
	sys_futex_wake(&q->answered);
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
		mover_answer(&self()->thaw, -EPERM);
		return NEXT_PARK;
	}
	if (!thaw_unseen()) {
		mover_answer(&self()->thaw, -EBUSY);
		r->wait_ns = poll_time(age);
		return NEXT_WAIT;
	}
	if (is_asked(&self()->thaw) || fork_thaw_pays())
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
	m->news = (struct mover_news){
		.any = 1, .tables = t->tables, .kept = t->kept, .ns = t->ns,
		.hold_ns = t->longest_ns, .why = t->why,
	};
	process_each_own(s)
		s->settled = t->forks;
	r->thawing = 0;
}

static enum next thaw_some(struct run *r)
{
	int ret = thaw_next(&r->thaw, r->lift);

	/* a fork that takes long, for much memory elsewhere, is not to be all there is */
	r->wait_ns = PROBES * r->lift->probe_ns;
	r->lift->probe_ns = 0;
	if (ret == 1 && r->thaw.again) {
		r->wait_ns = WAIT_MIN_NS;
		return NEXT_WAIT;
	}
	if (ret == 1 && r->thaw.why != -ENOMEM)
		return r->wait_ns > PROBES * PROBE_NS ? NEXT_WAIT : NEXT_AGAIN;
	finish(r);
	/* forked meanwhile, and what had thawed was frozen again */
	if (ret < 0 || (thaw_pending() > r->thaw.kept && r->thaw.why != -ENOMEM))
		return NEXT_AGAIN;
	r->tries = r->thaw.why == -EPERM ? r->tries + 1 : 0;
	if (r->tries && r->tries < TRIES) {
		r->wait_ns = TRY_NS;
		return NEXT_WAIT;
	}
	mover_answer(&self()->thaw, r->thaw.kept ? -EAGAIN : 0);
	return has_adoption() ? NEXT_AGAIN : NEXT_PARK;
}

static void begin(struct run *r)
{
	memset(&r->thaw, 0, sizeof(r->thaw));
	r->thaw.forks = process.life->stats.forks;
	r->thaw.asked = is_asked(&self()->thaw);
	r->lift->held_ns = 0;
	r->thawing = 1;
}

/* --- adoption ----------------------------------------------------------- */

static void begin_adoption(struct run *r)
{
	struct mover *m = self();
	int asked = is_asked(&m->adopt);

	memset(&r->adopt, 0, sizeof(r->adopt));
	r->adopt.what = asked ? m->what : adopt_everything();
	r->adopt.releases = asked && m->releases;
	r->lift->held_ns = 0;
	r->adopting = 1;
}

static void finish_adoption(struct run *r)
{
	const struct adopt *a = &r->adopt;
	struct cow_stats *st = &process.life->stats;
	struct mover *m = self();

	r->adopting = r->counted = 0;
	if (a->longest_ns > st->adopt_hold_ns_max)
		st->adopt_hold_ns_max = a->longest_ns;
	if (!a->releases) {
		st->adoptions += a->bytes > 0;
		st->adopt_ns_total += a->bytes ? a->ns : 0;
		st->adopt_reason = (uint64_t)a->why;
		if (a->why)
			process_native((enum cow_reason)a->why);
		adopt_when_done(a->why, a->bytes);
		m->wanted = 0;
	}
	if (a->bytes)
		fork_thawed();
	m->news = (struct mover_news){ .any = 1, .adopted = a->bytes, .hold_ns = a->longest_ns };
	mover_answer(&m->adopt, adopt_error(a->why));
}

static enum next adopt_some(struct run *r)
{
	int ret;

	if (!r->adopting)
		begin_adoption(r);
	ret = adopt_next(&r->adopt, r->lift);
	r->lift->probe_ns = 0;
	if (ret == 0)
		finish_adoption(r);
	r->wait_ns = WAIT_MIN_NS;
	return ret && r->adopt.again ? NEXT_WAIT : NEXT_AGAIN;
}

static int anything_left(void)
{
	if (has_thaw() && (is_asked(&self()->thaw) || options.thaw == COW_THAW_AUTO))
		return 1;
	process_each_own(s)
		if (s->stale)
			return 1;
	return 0;
}

/* Before that, the heap is told not to shrink by itself. Not under the lock: it takes
 * malloc's. */
static int may_lift_adopted(void)
{
	process_each_own(s)
		if (s->adopted)
			return 1;
	return has_adoption();
}

static enum next step(struct run *r)
{
	enum next next;

	r->work = atomic_load(&self()->work);
	if (self()->stop)
		return NEXT_END;
	if (may_lift_adopted() && (!r->tamed || (has_adoption() && !r->adopting && !r->counted)))
		return NEXT_TAME;
	if (r->thawing)
		return thaw_some(r);
	if (r->adopting || has_adoption())
		return adopt_some(r);
	if (freeze_reap_some())
		return NEXT_AGAIN;
	if (!anything_left()) {
		mover_answer(&self()->thaw, 0);
		return NEXT_PARK;
	}
	next = when(r);
	if (next == NEXT_AGAIN)
		begin(r);
	return next;
}

/* --- step by step ------------------------------------------------------- */

/* The next table takes the lock again at once, and a mutex is not fair. */
static void give_way(void)
{
	for (int i = 0; process_waited_for() && i < GIVE_WAY; i++)
		sched_yield();
}

void mover_park(unsigned work)
{
	atomic_store(&self()->parked, 1);
	sys_futex_wait(&self()->work, work, UINT64_MAX);
	atomic_store(&self()->parked, 0);
}

static void tame(struct run *r)
{
	if (process.malloc_tamed) {
		struct mallinfo2 info = mallinfo2();

		mallopt(M_TRIM_THRESHOLD, -1);
		atomic_store(&process.trim_tamed, 1);
		process.malloc_bytes = info.arena + info.hblkhd;
	}
	r->tamed = r->counted = 1;
}

static void act(struct run *r, enum next next)
{
	switch (next) {
	case NEXT_PARK: mover_park(r->work); break;
	case NEXT_WAIT: sys_futex_wait(&self()->work, r->work, r->wait_ns); break;
	case NEXT_AGAIN: give_way(); break;
	case NEXT_TAME: tame(r); break;
	case NEXT_END: break;
	}
}

/* Wait for the end of a probe without the lock; who takes it meanwhile waits too. */
static void reap(void)
{
	if (!self()->probe)
		return;
	lift_wait();
	process_lock();
	lift_reap();
	process_unlock();
}

void mover_run(struct lift *lift)
{
	struct run r = { .lift = lift };
	enum next next;

	do {
		process_lock();
		next = step(&r);
		process_unlock();
		reap();
		act(&r, next);
	} while (next != NEXT_END);
}
