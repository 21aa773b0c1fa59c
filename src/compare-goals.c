/*
 * The project's goals: which ratio of which rows must reach what. A run prints
 * those that its rows allow; --goals runs the plans below, which are what all
 * of them need. A ratio is that of two medians; its spread is that of the same
 * ratio taken round by round. Beside it stands the ratio of the means: they hold
 * what only some forks of a row pay, which a median leaves out.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

#define GIB ((size_t)1 << 30)
#define MIB ((size_t)1 << 20)
#define FORKS_ONLY (ENGINE_BIT(ENGINE_FLOOR) | ENGINE_BIT(ENGINE_STORE) | \
		    ENGINE_BIT(ENGINE_STORE_HUGE))
#define NOT_THP (ENGINES_FLAT & ~ENGINE_BIT(ENGINE_FORK_THP))
#define NOT_STORE (ENGINES_FLAT & ENGINES_MEMORY & ~ENGINE_BIT(ENGINE_STORE))
#define IN_PLACE_4K (ENGINE_BIT(ENGINE_FORK_4K) | ENGINE_BIT(ENGINE_IN_PLACE))
#define IN_PLACE_HUGE (ENGINE_BIT(ENGINE_FORK_THP) | ENGINE_BIT(ENGINE_IN_PLACE_THP))

const struct plan goal_plans[] = {
	{ { 64 * MIB, GIB, 8 * GIB }, 3, CASE_BIT(CASE_FORK), FORKS_ONLY },
	{ { 4 * GIB }, 1, CASE_BIT(CASE_FORK) | CASE_BIT(CASE_CYCLE) | CASE_BIT(CASE_VMPTE),
	  NOT_THP },
	{ { 8 * GIB }, 1, CASE_BIT(CASE_REVIEW), 0 },
	{ { GIB }, 1, CASE_BIT(CASE_TAX), NOT_THP & ENGINES_MEMORY },
	{ { GIB }, 1, CASE_BIT(CASE_CALLS), 0 },
	{ { 2 * GIB }, 1, CASE_BIT(CASE_HEAP), 0 },
	{ { GIB }, 1, CASE_BIT(CASE_HEAP_ADOPT) | CASE_BIT(CASE_HEAP_FORKS), 0 },
	{ { 2 * GIB }, 1, CASE_BIT(CASE_OLD_CHILD), NOT_STORE },
	{ { 4 * GIB }, 1, CASE_BIT(CASE_SERVER), 0 },
	{ { GIB, 4 * GIB }, 2, CASE_BIT(CASE_CHILD_READ) | CASE_BIT(CASE_CHILD_WRITE),
	  NOT_STORE },
	{ { GIB, 4 * GIB }, 2, CASE_BIT(CASE_FORK), IN_PLACE_4K | IN_PLACE_HUGE },
	{ { GIB }, 1, CASE_BIT(CASE_CHILD_READ) | CASE_BIT(CASE_CHILD_WRITE) |
	  CASE_BIT(CASE_PARENT_WRITE), IN_PLACE_4K },
};

const size_t goal_plan_count = sizeof(goal_plans) / sizeof(goal_plans[0]);

enum kind {
	KIND_RATIO,	/* engine over / engine under */
	KIND_BEST,	/* engine over / the better of engine under and ENGINE_ADOPT */
	KIND_VALUE,	/* of engine over */
	KIND_WORST,	/* ... the greatest of all rounds */
	KIND_GROWTH,	/* of engine over, largest size / smallest size */
};

enum bound { AT_MOST, AT_LEAST };

struct goal {
	const char *what;
	enum case_id id;
	size_t size_min, size_max;
	unsigned permille_min, permille_max;
	unsigned part_min, part_max;
	enum kind kind;
	enum engine_id over, under;
	enum metric metric;
	enum bound bound;
	double target;
};

#define ALL_SIZES 64 * MIB, 8 * GIB
#define ONE_AND_FOUR GIB, 4 * GIB
#define ONLY(gib) (gib) * GIB, (gib) * GIB
#define PARTS(from, to) 0, 0, from, to
#define WHOLE_RUN PARTS(SERVER_WHOLE, SERVER_WHOLE)
#define SHARES(from, to) from, to, 0, 0
#define VERSUS(over, under) KIND_RATIO, ENGINE_##over, ENGINE_##under

static const struct goal goals[] = {
	{ "fork: store / floor", CASE_FORK, ALL_SIZES, PARTS(0, 0),
	  VERSUS(STORE, FLOOR), METRIC_CALL, AT_MOST, 1.5 },
	{ "fork: store-huge / floor", CASE_FORK, ALL_SIZES, PARTS(0, 0),
	  VERSUS(STORE_HUGE, FLOOR), METRIC_CALL, AT_MOST, 1.5 },
	{ "fork: store, largest / smallest size", CASE_FORK, ALL_SIZES, PARTS(0, 0),
	  KIND_GROWTH, ENGINE_STORE, 0, METRIC_CALL, AT_MOST, 1.5 },
	{ "fork: store-huge, largest / smallest", CASE_FORK, ALL_SIZES, PARTS(0, 0),
	  KIND_GROWTH, ENGINE_STORE_HUGE, 0, METRIC_CALL, AT_MOST, 1.5 },
	{ "cycle: store / floor", CASE_CYCLE, ONLY(4), PARTS(0, 0),
	  VERSUS(STORE, FLOOR), METRIC_CHILD, AT_MOST, 1.5 },
	{ "cycle: store-huge / floor", CASE_CYCLE, ONLY(4), PARTS(0, 0),
	  VERSUS(STORE_HUGE, FLOOR), METRIC_CHILD, AT_MOST, 1.5 },
	{ "fork: fork-4k / store", CASE_FORK, ONLY(4), PARTS(0, 0),
	  VERSUS(FORK_4K, STORE), METRIC_CALL, AT_LEAST, 300 },
	{ "fork: fork-4k / store-huge", CASE_FORK, ONLY(4), PARTS(0, 0),
	  VERSUS(FORK_4K, STORE_HUGE), METRIC_CALL, AT_LEAST, 300 },
	{ "review: fork-4k / store", CASE_REVIEW, ONLY(8), PARTS(0, 0),
	  VERSUS(FORK_4K, STORE), METRIC_CYCLE, AT_LEAST, 500 },
	{ "vmpte: store, KiB", CASE_VMPTE, ONLY(4), PARTS(0, 0),
	  KIND_VALUE, ENGINE_STORE, 0, METRIC_VMPTE, AT_MOST, 120 },
	{ "vmpte: store-huge, KiB", CASE_VMPTE, ONLY(4), PARTS(0, 0),
	  KIND_VALUE, ENGINE_STORE_HUGE, 0, METRIC_VMPTE, AT_MOST, 120 },
	{ "child-read: fork-4k / store-huge", CASE_CHILD_READ, ONE_AND_FOUR, SHARES(0, 1000),
	  VERSUS(FORK_4K, STORE_HUGE), METRIC_CHILD, AT_LEAST, 10 },
	{ "child-read: store-huge / fork-thp", CASE_CHILD_READ, ONE_AND_FOUR, SHARES(0, 1000),
	  VERSUS(STORE_HUGE, FORK_THP), METRIC_CHILD, AT_MOST, 1.6 },
	{ "child-write: fork-4k / store-huge", CASE_CHILD_WRITE, ONE_AND_FOUR, SHARES(0, 1),
	  VERSUS(FORK_4K, STORE_HUGE), METRIC_CHILD, AT_LEAST, 1 },
	{ "child-write: fork-4k / store-huge", CASE_CHILD_WRITE, ONE_AND_FOUR, SHARES(10, 10),
	  VERSUS(FORK_4K, STORE_HUGE), METRIC_CHILD, AT_LEAST, 2 },
	{ "child-write: fork-4k / store-huge", CASE_CHILD_WRITE, ONE_AND_FOUR, SHARES(100, 1000),
	  VERSUS(FORK_4K, STORE_HUGE), METRIC_CHILD, AT_LEAST, 1 },
	{ "child-write: store-huge / fork-thp", CASE_CHILD_WRITE, ONE_AND_FOUR, SHARES(0, 1000),
	  VERSUS(STORE_HUGE, FORK_THP), METRIC_CHILD, AT_MOST, 1 },
	{ "old-child: store-huge / fork-4k", CASE_OLD_CHILD, ONLY(2), PARTS(0, 0),
	  VERSUS(STORE_HUGE, FORK_4K), METRIC_CALL, AT_MOST, 0.1 },
	{ "old-child: store-huge / fork-4k", CASE_OLD_CHILD, ONLY(2),
	  PARTS(OLD_CHILD_FORKS - 1, OLD_CHILD_FORKS - 1),
	  VERSUS(STORE_HUGE, FORK_4K), METRIC_CALL, AT_MOST, 1 },
	{ "tax: store / fork-4k", CASE_TAX, ONLY(1), PARTS(1, 2),
	  VERSUS(STORE, FORK_4K), METRIC_CYCLE, AT_MOST, 1.03 },
	{ "tax: store / fork-4k", CASE_TAX, ONLY(1), PARTS(0, 0),
	  VERSUS(STORE, FORK_4K), METRIC_CYCLE, AT_MOST, 1.3 },
	{ "single calls: store / fork-4k", CASE_CALLS, ONLY(1),
	  PARTS(0, CALLS_OFF_PARTS - 1), VERSUS(STORE, FORK_4K), METRIC_CALL, AT_MOST, 1.5 },
	{ "calls in bursts: store / fork-4k", CASE_CALLS, ONLY(1),
	  PARTS(0, CALLS_OFF_PARTS - 1), VERSUS(STORE, FORK_4K), METRIC_CYCLE, AT_MOST, 1.5 },
	{ "fork: fork-4k / in-place", CASE_FORK, ONE_AND_FOUR, PARTS(0, 0),
	  VERSUS(FORK_4K, IN_PLACE), METRIC_CALL, AT_LEAST, 40 },
	{ "fork: fork-thp / in-place-thp", CASE_FORK, ONLY(4), PARTS(0, 0),
	  VERSUS(FORK_THP, IN_PLACE_THP), METRIC_CALL, AT_LEAST, 5 },
	{ "child-read: fork-4k / in-place", CASE_CHILD_READ, ONLY(1), SHARES(1, 1),
	  VERSUS(FORK_4K, IN_PLACE), METRIC_CHILD, AT_LEAST, 5 },
	{ "child-write: fork-4k / in-place", CASE_CHILD_WRITE, ONLY(1), SHARES(1000, 1000),
	  VERSUS(FORK_4K, IN_PLACE), METRIC_CHILD, AT_LEAST, 1 },
	{ "parent-write: fork-4k / in-place", CASE_PARENT_WRITE, ONLY(1), SHARES(1000, 1000),
	  VERSUS(FORK_4K, IN_PLACE), METRIC_CYCLE, AT_LEAST, 1 },
	{ "heap, fork + exit: adopt / floor", CASE_HEAP, ONLY(2), PARTS(0, HEAP_KINDS - 1),
	  VERSUS(ADOPT, FLOOR), METRIC_CHILD, AT_MOST, 1.6 },
	{ "heap-adopt: GiB/s", CASE_HEAP_ADOPT, ONLY(1), PARTS(0, 0),
	  KIND_VALUE, ENGINE_ADOPT, 0, METRIC_RATE, AT_LEAST, 2.5 },
	{ "heap-adopt: GiB/s", CASE_HEAP_ADOPT, ONLY(1), PARTS(1, HEAP_BUSY),
	  KIND_VALUE, ENGINE_ADOPT, 0, METRIC_RATE, AT_LEAST, 1.5 },
	{ "heap-adopt: longest stall, us", CASE_HEAP_ADOPT, ONLY(1), PARTS(1, HEAP_BUSY),
	  KIND_WORST, ENGINE_ADOPT, 0, METRIC_STALL, AT_MOST, 10000 },
	{ "heap-forks: adopt-auto / fork-4k", CASE_HEAP_FORKS, ONLY(1), PARTS(0, 0),
	  VERSUS(ADOPT_AUTO, FORK_4K), METRIC_CYCLE, AT_MOST, 1.05 },
	{ "heap-forks: adopt-auto / better other", CASE_HEAP_FORKS, ONLY(1),
	  PARTS(0, HEAP_FORKS - 1), KIND_BEST, ENGINE_ADOPT_AUTO, ENGINE_FORK_4K,
	  METRIC_CYCLE, AT_MOST, 2 },
	{ "server, fork: fork-4k / store", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(FORK_4K, STORE), METRIC_CALL, AT_LEAST, 30 },
	{ "server, p99.9: store / fork-4k", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(STORE, FORK_4K), METRIC_DURING + LATENCY_P999, AT_MOST, 1 },
	{ "server, longest: store / fork-4k", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(STORE, FORK_4K), METRIC_DURING + LATENCY_MAX, AT_MOST, 1 },
	{ "server, child: store / fork-4k", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(STORE, FORK_4K), METRIC_CHILD, AT_MOST, 1.1 },
	{ "server, writes done: fork-4k / store", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(FORK_4K, STORE), METRIC_WRITES_SHARE, AT_MOST, 1.1 },
	{ "server, peak memory: store / fork-4k", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  VERSUS(STORE, FORK_4K), METRIC_MEMORY_PEAK, AT_MOST, 1.1 },
	{ "server, memory after / before: store", CASE_SERVER, ONLY(4), WHOLE_RUN,
	  KIND_VALUE, ENGINE_STORE, 0, METRIC_MEMORY_LEFT, AT_MOST, 1.05 },
};

struct measured {
	double value, low, high, means;
};

/* --- computing ---------------------------------------------------------- */

static struct measured ratio(const struct row *over, const struct row *under,
			     enum metric metric)
{
	struct row a = *over, b = *under;
	struct series *x = &a.series[metric], *y = &b.series[metric];
	struct measured m = {
		series_quantile(x, 0.5) / series_quantile(y, 0.5), NAN, NAN,
		series_mean(x) / series_mean(y),
	};

	for (unsigned round = 0; round < series_rounds(x); round++) {
		double one = series_round(x, round) / series_round(y, round);

		m.low = fmin(m.low, one);
		m.high = fmax(m.high, one);
	}
	return m;
}

static struct measured value_of(const struct row *row, enum metric metric)
{
	struct row r = *row;
	struct series *s = &r.series[metric];

	return (struct measured){ series_quantile(s, 0.5), series_quantile(s, 0),
				  series_quantile(s, 1), series_mean(s) };
}

static int is_ratio(const struct goal *g)
{
	return g->kind != KIND_VALUE && g->kind != KIND_WORST;
}

static struct measured measured(const struct goal *g, const struct row *row,
				const struct row *under)
{
	struct measured m = is_ratio(g) ? ratio(row, under, g->metric)
		: value_of(row, g->metric);

	if (g->kind == KIND_WORST)
		m.value = m.high;
	return m;
}

static int concerns(const struct goal *g, const struct row *row)
{
	return row->cell.id == g->id && row->engine == g->over &&
		row->size >= g->size_min && row->size <= g->size_max &&
		row->cell.permille >= g->permille_min &&
		row->cell.permille <= g->permille_max &&
		row->part >= g->part_min && row->part <= g->part_max;
}

static const struct row *better(const struct row *a, const struct row *b,
				enum metric metric)
{
	if (!a || !b)
		return NULL;
	return value_of(a, metric).value < value_of(b, metric).value ? a : b;
}

/* The other row of the ratio: of the other engine, or for growth of the
 * smallest size that was run; NULL when it is the row itself. Any for a value. */
static const struct row *other(const struct rows *rows, const struct goal *g,
			       const struct row *row)
{
	struct row key = *row;
	const struct row *under;

	if (g->kind == KIND_RATIO || g->kind == KIND_BEST) {
		key.engine = g->under;
		under = rows_find(rows, &key);
		key.engine = ENGINE_ADOPT;
		return g->kind == KIND_RATIO ? under
			: better(under, rows_find(rows, &key), g->metric);
	}
	if (!is_ratio(g))
		return row;
	for (size_t i = 0; i < rows->n; i++) {	/* sorted by size */
		if (!concerns(g, &rows->row[i]))
			continue;
		return rows->row[i].size < row->size ? &rows->row[i] : NULL;
	}
	return NULL;
}

static int largest(const struct rows *rows, const struct goal *g, const struct row *row)
{
	for (size_t i = 0; i < rows->n; i++)
		if (concerns(g, &rows->row[i]) && rows->row[i].size > row->size)
			return 0;
	return 1;
}

/* --- printing ----------------------------------------------------------- */

static const char *goal_detail(const struct goal *g, const struct row *row, char *buf,
			       size_t size)
{
	cell_detail(&row->cell, row->part, buf, size);
	if (g->kind == KIND_GROWTH)
		snprintf(buf, size, "all sizes");
	return buf;
}

/* Three digits, never an exponent. */
static const char *number(double value, char *buf, size_t size)
{
	int digits = !(value < 100) ? 0 : value < 10 ? value < 1 ? 3 : 2 : 1;

	snprintf(buf, size, "%.*f", digits, value);
	return buf;
}

static void print_one(const struct goal *g, const struct row *row, struct measured m,
		      FILE *to)
{
	int met = g->bound == AT_MOST ? m.value <= g->target : m.value >= g->target;
	const char *on = !colour(to) ? "" : met ? "\033[32m" : "\033[31m";
	char size[32], detail[64], spread[80], value[32], low[32], high[32];
	char means[32];

	snprintf(spread, sizeof(spread), "%s..%s", number(m.low, low, sizeof(low)),
		 number(m.high, high, sizeof(high)));
	fprintf(to, "%-38s %5s %-15s %8s %17s %8s   %s %-5g %s%s%s\n", g->what,
		size_string(row->size, size, sizeof(size)),
		goal_detail(g, row, detail, sizeof(detail)),
		number(m.value, value, sizeof(value)), spread,
		number(m.means, means, sizeof(means)),
		g->bound == AT_MOST ? "at most " : "at least", g->target, on,
		met ? "ok" : "missed", *on ? "\033[0m" : "");
}

static void head(FILE *to)
{
	fprintf(to, "\n%-38s %5s %-15s %8s %17s %8s   %s\n", "goal: ratio of medians", "size",
		"touched", "ratio", "rounds min..max", "of means", "target");
}

static int print_goal(const struct rows *rows, const struct goal *g, int first, FILE *to)
{
	int n = 0;

	for (size_t i = 0; i < rows->n; i++) {
		const struct row *row = &rows->row[i], *under;

		if (!concerns(g, row) || !row->series[g->metric].n)
			continue;
		if (g->kind == KIND_GROWTH && !largest(rows, g, row))
			continue;
		under = other(rows, g, row);
		if (!under || !under->series[g->metric].n)
			continue;
		if (first && !n++)
			head(to);
		print_one(g, row, measured(g, row, under), to);
	}
	return n;
}

void goals_print(const struct rows *rows, FILE *to)
{
	int printed = 0;

	for (size_t i = 0; i < sizeof(goals) / sizeof(goals[0]); i++)
		printed += print_goal(rows, &goals[i], !printed, to);
	fflush(to);
}
