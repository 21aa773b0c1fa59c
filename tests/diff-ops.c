/*
 * Running a process of a program: one operation after the other, each with a
 * record of what came of it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-state.h"
#include "process.h"

static int do_write(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int count = op->v[2], step = op->v[3], value = op->v[4], done = 0;

	if (!s->at || step <= 0)
		return SKIPPED;
	for (int i = 0; i < count && i * step < 4 * PAGES_MAX; i++) {
		int page = (int)((unsigned)(op->v[1] + i * step) % (unsigned)s->pages);
		unsigned char *at = s->at + (size_t)page * PAGE;

		if (i >= s->pages || !may_write(&s->page[page]))
			continue;
		memset(at + value % 64 * 8, value + i, 64);
		at[0] = at[PAGE / 2] = at[PAGE - 1] = (unsigned char)(value + i);
		done++;
	}
	return done;
}

static int do_hash(struct world *w, const struct op *op)
{
	struct range r;

	if (!range_of(w, op, &r))
		return SKIPPED;
	w->fold = fold(w->fold, range_hash(&r));
	return 0;
}

static int do_unmap(struct world *w, const struct op *op)
{
	struct range r;
	int ret;

	if (!range_of(w, op, &r))
		return SKIPPED;
	ret = outcome(cow_munmap(r.at, r.len));
	if (ret == 0) {
		range_unmap(&r);
		slot_trim(r.s);
	}
	return ret;
}

static int do_protect(struct world *w, const struct op *op)
{
	struct range r;
	int ret;

	if (!range_of(w, op, &r))
		return SKIPPED;
	ret = outcome(cow_mprotect(r.at, r.len, op->v[3]));
	if (ret == 0)
		range_protect(w, &r, op->v[3]);
	return ret;
}

static int do_prepare(struct world *w, const struct op *op)
{
	(void)w;
	(void)op;
	return -cow_prepare();
}

static int do_stats(struct world *w, const struct op *op)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	(void)w;
	(void)op;
	return -cow_stats(&stats);
}

/* As if forks had cost enough for anything: the next one adopts and refreshes, if it
 * may, and collapses. */
static int do_credit(struct world *w, const struct op *op)
{
	(void)w;
	(void)op;
	process_lock();
	process.life->meter.excess = process.life->meter.credit = (uint64_t)1 << 50;
	process.life->meter.retry_at = 0;
	process.life->adopt.cost = (uint64_t)1 << 50;
	process.life->adopt.next = 0;
	process_unlock();
	return 0;
}

static int do_unlockall(struct world *w, const struct op *op)
{
	(void)op;
	world_lock(w, 0);
	return outcome(cow_munlockall());
}

static int do_leave(struct world *w, const struct op *op)
{
	(void)op;
	w->done = 1;
	return 0;
}

static int (*const doers[OP_COUNT])(struct world *, const struct op *) = {
	[OP_MAP] = do_map, [OP_REGION] = do_region, [OP_DESTROY] = do_destroy,
	[OP_WRITE] = do_write, [OP_HASH] = do_hash, [OP_UNMAP] = do_unmap,
	[OP_PROTECT] = do_protect, [OP_ADVISE] = do_advise, [OP_FIXED] = do_fixed,
	[OP_HOLE] = do_hole, [OP_REMAP] = do_remap, [OP_LOCK] = do_lock,
	[OP_UNLOCK] = do_unlock, [OP_LOCKALL] = do_lockall,
	[OP_UNLOCKALL] = do_unlockall, [OP_SYNC] = do_sync,
	[OP_RESIDENT] = do_resident, [OP_SYSCALL] = do_syscall, [OP_FORK] = do_fork,
	[OP_WAIT] = do_wait, [OP_EXEC] = do_exec, [OP_PREPARE] = do_prepare,
	[OP_STATS] = do_stats, [OP_BAD] = do_bad, [OP_LEAVE] = do_leave,
	[OP_CREDIT] = do_credit, [OP_THAW] = do_thaw, [OP_NATIVE] = do_native,
	[OP_RAW] = do_raw, [OP_BRK] = do_brk, [OP_MALLOC] = do_malloc,
	[OP_REALLOC] = do_realloc, [OP_FREE] = do_free, [OP_FILL] = do_fill,
	[OP_TRIM] = do_trim, [OP_ADOPT] = do_adopt, [OP_RELEASE] = do_release,
};

/* Which pages may be touched must not depend on the engine. */
static uint64_t shape(const struct slot *s)
{
	uint64_t h = (uint64_t)s->pages;

	for (int i = 0; i < s->pages; i++)
		h = fold(h, s->page[i].prot | s->page[i].back << 8 |
			    (unsigned)s->page[i].flags << 16);
	return h;
}

static void look(struct world *w, const struct op *op)
{
	struct op copy = *op;
	const int *dest = op_field(&copy, "dest");

	for (int i = 0; i < SLOTS; i++) {
		const struct slot *s = &w->slot[i];

		w->fold = fold(w->fold, shape(s));
		if (w->program->check == 1 && op_field(&copy, "slot") &&
		    (s == slot_of(w, op->v[0]) || (dest && s == slot_of(w, *dest))))
			w->fold = fold(w->fold, slot_hash(s, 0));
	}
	if (w->program->check == 1 && op_field(&copy, "block"))
		w->fold = fold(w->fold, block_hash(block_of(w, op->v[0]), 0));
	if (w->program->check == 2)
		w->fold = fold(w->fold, world_hash(w, 0));
}

static void step(struct world *w, int i)
{
	const struct op *op = &w->program->op[i];
	struct record *record = &w->out->op[i];
	int proc = w->proc, result;

	record->state = 1;
	w->fold = 0;
	result = doers[op->kind](w, op);
	if (w->proc != proc)	/* the child of a fork: the parent notes it */
		return;
	look(w, op);
	*record = (struct record){ 2, result, w->fold };
}

static void count_forks(struct world *w)
{
	struct cow_stats stats = { .size = sizeof(stats) };

	if (cow_stats(&stats) < 0)
		return;
	atomic_fetch_add(&w->out->forks, stats.forks);
	atomic_fetch_add(&w->out->refreshed, stats.forks_refresh);
	atomic_fetch_add(&w->out->thawed, stats.thaw_tables);
	atomic_fetch_add(&w->out->adopted, stats.adoptions);
	atomic_fetch_add(&w->out->in_place, stats.forks_in_place);
}

void process_run(struct world *w)
{
	int wait = 0, proc = w->proc;
	uint64_t h;

	for (int i = 0; i < w->program->count && !w->done; i++)
		if (w->program->op[i].proc == proc)
			step(w, i);
	h = world_hash(w, 1);
	if (!w->done)
		wait = do_wait(w, NULL);
	count_forks(w);
	w->out->end[proc] = (struct record){ 2, wait, h };
}
