/*
 * The coordinator's order of work. Within a cell the engines take turns, round
 * by round, so that a ratio compares what was measured under the same
 * conditions; every other round goes backward, so that neither who comes before
 * whom nor a drift of the machine is for or against one. Cells that follow one
 * another share a batch when they can all run side by side, or all need one
 * engine's memory at a time; there the floor takes turns with each engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <unistd.h>

#include "compare.h"

#define BURST_US 100000.0	/* one engine's turn takes about as long at most */
#define BURST_MAX 50
#define ROUNDS 5		/* when nobody says */
#define FEW_ROUNDS 3		/* ... where a round takes long */
#define SLOW_US 400000.0
#define MANY_ROUNDS 9		/* ... where it measures once or hardly more */
#define FEW_FORKS 10

struct run {
	const struct plan *plan;
	const struct options *opt;
	struct rows *rows;
	size_t size;
	struct cell cell[CELLS_MAX];
	size_t cells, at;	/* at: the cell that runs */
	unsigned engines;	/* bits: those of the batch */
	double slowest;		/* us of the slowest cycle of this cell */
	int backward;		/* this round's order of the engines */
};

#define each_worker(w, run) \
	for (struct worker *w = next_worker(run, NULL); w; w = next_worker(run, w))

static unsigned turn(const struct run *r)
{
	return r->engines & plan_engines(r->plan, r->cell[r->at].id);
}

static struct worker *next_worker(const struct run *r, const struct worker *after)
{
	int step = r->backward ? -1 : 1, first = r->backward ? ENGINE_COUNT - 1 : 0;

	for (int id = after ? (int)after->engine + step : first;
	     id >= 0 && id < ENGINE_COUNT; id += step)
		if (turn(r) & ENGINE_BIT(id))
			return worker_get((enum engine_id)id);
	return NULL;
}

/* --- progress ----------------------------------------------------------- */

static void progress(const struct run *r, const char *engine, const char *doing)
{
	char size[32], detail[64];
	const struct cell *cell = &r->cell[r->at];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[K[%zu/%zu] %s %s %s: %s %s", r->at + 1, r->cells,
		size_string(r->size, size, sizeof(size)), cases[cell->id].name,
		cell_detail(cell, cell->part, detail, sizeof(detail)), engine, doing);
	fflush(stderr);
}

static void progress_end(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

/* --- memory ------------------------------------------------------------- */

static struct job job_for(const struct run *r, enum op op)
{
	return (struct job){
		.op = op, .size = r->size, .seed = r->opt->seed,
		.cell = r->cell[r->at], .reps = 1,
	};
}

static const struct reply *ask(const struct run *r, struct worker *w, enum op op)
{
	struct job job = job_for(r, op);

	return worker_ask(w, &job);
}

static void drop(const struct run *r, struct worker *w)
{
	if (w->filled)
		ask(r, w, OP_FREE);
	w->filled = 0;
}

static void fill(const struct run *r, struct worker *w)
{
	progress(r, engines[w->engine].name, "fills memory");
	ask(r, w, OP_FILL);
	w->filled = r->size;
	w->prepared = w->dirty = 0;
}

static void prepare(const struct run *r, struct worker *w)
{
	static unsigned told;
	char huge[32], size[32];
	uint64_t bytes;

	progress(r, engines[w->engine].name, "prepares");
	bytes = ask(r, w, OP_PREPARE)->huge;
	w->prepared = 1;
	if (!engines[w->engine].huge_bytes || bytes >= r->size / 10 * 9 ||
	    told & ENGINE_BIT(w->engine))
		return;
	told |= ENGINE_BIT(w->engine);
	warn("engine %s: only %s of %s lie in huge pages; the numbers are those of such memory",
	     engines[w->engine].name, size_string(bytes, huge, sizeof(huge)),
	     size_string(r->size, size, sizeof(size)));
}

/* A case that changes memory starts each order of pages with new memory. */
static int needs_new(const struct run *r, const struct worker *w)
{
	const struct cell *cell = &r->cell[r->at];
	const struct cell *before = r->at ? cell - 1 : NULL;
	int first = !before || before->id != cell->id || before->order != cell->order;

	if (w->filled != r->size)
		return 1;
	return cases[cell->id].flags & CASE_DIRTY ? first : w->dirty;
}

static void ready(const struct run *r, struct worker *w, int new)
{
	unsigned flags = cases[r->cell[r->at].id].flags;

	if (flags & CASE_NO_MEMORY) {
		drop(r, w);
		return;
	}
	if (new)
		fill(r, w);
	if (!(flags & CASE_RAW) && !w->prepared)
		prepare(r, w);
	w->dirty |= (flags & CASE_DIRTY) != 0;
}

/* --- one cell ----------------------------------------------------------- */

static void gather(const struct run *r, const struct worker *w, unsigned round,
		   const struct reply *reply)
{
	struct row key = { .cell = r->cell[r->at], .engine = w->engine, .size = r->size };

	for (uint32_t i = 0; i < reply->n; i++) {
		key.part = key.cell.part + reply->sample[i].part;
		rows_add(r->rows, &key, (enum metric)reply->sample[i].metric, round,
			 reply->sample[i].value);
	}
}

static double slowest(const struct reply *reply)
{
	double us = 0;

	for (uint32_t i = 0; i < reply->n; i++)
		if (reply->sample[i].metric == METRIC_CYCLE && reply->sample[i].value > us)
			us = reply->sample[i].value;
	return us;
}

/* A turn that does not count; it tells how often each turn can repeat. */
static void warm_up(struct run *r)
{
	each_worker(w, r) {
		double us;

		progress(r, engines[w->engine].name, "warms up");
		us = slowest(ask(r, w, OP_RUN));
		r->slowest = us > r->slowest ? us : r->slowest;
		w->reps = us * BURST_MAX <= BURST_US ? BURST_MAX
			: us < BURST_US ? (unsigned)(BURST_US / us) : 1;
	}
}

static const struct reply *ask_alone(struct worker *w, const struct job *job)
{
	const struct reply *reply;

	worker_stop(w);
	reply = worker_ask(w, job);
	worker_stop(w);
	return reply;
}

static void one_round(struct run *r, unsigned round)
{
	unsigned flags = cases[r->cell[r->at].id].flags;
	struct job job = job_for(r, OP_RUN);
	const struct reply *(*run)(struct worker *w, const struct job *job) =
		flags & CASE_METERED ? meter_ask : flags & CASE_ALONE ? ask_alone : worker_ask;
	char doing[32];

	snprintf(doing, sizeof(doing), "round %u", round + 1);
	r->backward = round % 2;
	each_worker(w, r) {
		if (flags & CASE_FRESH)
			ready(r, w, 1);
		progress(r, engines[w->engine].name, doing);
		job.reps = flags & CASE_BURST ? w->reps : 1;
		gather(r, w, round, run(w, &job));
	}
	r->backward = 0;
}

/* Children look at everything once; at the end of the case parents do. */
static void check(const struct run *r)
{
	const struct cell *cell = &r->cell[r->at];
	unsigned flags = cases[cell->id].flags;
	int last = r->at + 1 == r->cells || cell[1].id != cell->id;
	struct job job = job_for(r, OP_RUN);

	job.check = 1;
	each_worker(w, r) {
		progress(r, engines[w->engine].name, "checks");
		if (flags & CASE_BURST)
			worker_ask(w, &job);
		if (last && !(flags & CASE_DIRTY) && w->filled)
			ask(r, w, OP_CHECK);
	}
}

static unsigned rounds_of(const struct run *r)
{
	const struct cell *cell = &r->cell[r->at];

	if (r->opt->rounds)
		return r->opt->rounds;
	if (cell->id == CASE_HEAP_ADOPT ||
	    (cell->id == CASE_HEAP_FORKS && heap_forks[cell->part] <= FEW_FORKS))
		return MANY_ROUNDS;
	if (cases[cell->id].flags & CASE_FRESH || r->slowest > SLOW_US)
		return FEW_ROUNDS;
	return ROUNDS;
}

static void run_cell(struct run *r)
{
	unsigned flags = cases[r->cell[r->at].id].flags;

	if (!(flags & CASE_FRESH))
		each_worker(w, r)
			ready(r, w, needs_new(r, w));
	r->slowest = 0;
	if (flags & (CASE_BURST | CASE_NO_MEMORY) && !(flags & CASE_FRESH))
		warm_up(r);
	for (unsigned round = 0; round < rounds_of(r); round++)
		one_round(r, round);
	check(r);
}

/* --- batches ------------------------------------------------------------ */

/* Memory that no engine of the batch needs is given back first. */
static void run_batch(struct run *r, unsigned engine_bits, size_t from, size_t to)
{
	r->at = from;
	for (int id = 0; id < ENGINE_COUNT; id++)
		if (!(engine_bits & ENGINE_BIT(id)) && worker_get((enum engine_id)id)->filled)
			drop(r, worker_get((enum engine_id)id));
	r->engines = engine_bits;
	for (r->at = from; r->at < to; r->at++)
		run_cell(r);
}

/* Engines that sit a case out keep their memory meanwhile. */
static int fits(const struct run *r, size_t at, uint64_t available)
{
	return plan_need(&r->cell[at], plan_all_engines(r->plan), r->size) <= available;
}

static void one_at_a_time(struct run *r, size_t from, size_t to)
{
	for (int id = ENGINE_FLOOR + 1; id < ENGINE_COUNT; id++) {
		unsigned bits = ENGINE_BIT(id) | ENGINE_BIT(ENGINE_FLOOR);

		for (size_t at = from; at < to; at++)
			if (plan_engines(r->plan, r->cell[at].id) & ENGINE_BIT(id)) {
				run_batch(r, bits, from, to);
				break;
			}
	}
}

static void run_size(struct run *r)
{
	uint64_t available = machine_available();
	size_t from = 0, to;
	char size[32];

	for (; from < r->cells; from = to) {
		int together = fits(r, from, available);

		for (to = from + 1; to < r->cells; to++)
			if (fits(r, to, available) != together)
				break;
		if (together) {
			run_batch(r, ENGINES_EACH, from, to);
			continue;
		}
		warn("%s, from case %s to %s: one engine's memory at a time",
		     size_string(r->size, size, sizeof(size)),
		     cases[r->cell[from].id].name, cases[r->cell[to - 1].id].name);
		one_at_a_time(r, from, to);
	}
	run_batch(r, 0, 0, 0);
}

void run_plan(const struct plan *plan, const struct options *opt, struct rows *rows,
	      void (*done)(struct rows *rows, size_t size))
{
	struct run r = { .plan = plan, .opt = opt, .rows = rows };

	r.cells = cells_make(plan->cases, opt, r.cell);
	for (size_t i = 0; i < plan->sizes; i++) {
		r.size = plan->size[i];
		run_size(&r);
		progress_end();
		rows_sort(rows);
		done(rows, r.size);
	}
}
