/*
 * The table that people read: one block for each size, one line for each row.
 * Times are in microseconds. `review` and `server` have blocks of their own.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compare.h"

int colour(FILE *to)
{
	const char *no = getenv("NO_COLOR");

	return (!no || !*no) && isatty(fileno(to));
}

static const char *us(double value, char *buf, size_t size)
{
	if (isnan(value))
		snprintf(buf, size, "-");
	else
		snprintf(buf, size, "%.*f", value < 9.995 ? 2 : value < 99.95, value);
	return buf;
}

static const char *spread(struct series *s, char *buf, size_t size)
{
	char low[32], high[32];

	if (!s->n)
		snprintf(buf, size, "-");
	else
		snprintf(buf, size, "%s..%s", us(series_quantile(s, 0.1), low, sizeof(low)),
			 us(series_quantile(s, 0.9), high, sizeof(high)));
	return buf;
}

static void head(size_t size, FILE *to)
{
	const char *bold = colour(to) ? "\033[1m" : "", *plain = *bold ? "\033[0m" : "";
	char text[32];

	fprintf(to, "\n%s%s of memory, times in us%s\n", bold,
		size_string(size, text, sizeof(text)), plain);
	fprintf(to, "%s%-13s %-15s %-11s %4s %9s %17s %9s %9s %9s %17s%s\n", bold, "case",
		"touched", "engine", "n", "call", "p10..p90", "p99", "to wait", "cycle",
		"p10..p90", plain);
}

static double middle(const struct row *row, enum metric metric)
{
	struct row r = *row;

	return series_quantile(&r.series[metric], 0.5);
}

/* --- what stands behind a row -------------------------------------------- */

/* Why it failed, or how much was adopted and how fast. */
static void adopted_note(const struct row *row, FILE *to)
{
	double error = middle(row, METRIC_ERROR), rate = middle(row, METRIC_RATE);
	double percent = 100 * middle(row, METRIC_ADOPTED) / (double)row->size;
	unsigned reason = (unsigned)middle(row, METRIC_REASON);

	if (error > 0)
		fprintf(to, "  %s", strerror((int)error));
	else
		fprintf(to, "  adopted %.0f%%", percent);
	if (rate > 0)
		fprintf(to, ", %.2f GiB/s", rate);
	if (reason)
		fprintf(to, ": %s", adopt_reason(reason));
}

static void note(const struct row *row, FILE *to)
{
	if (row->series[METRIC_VMPTE].n)
		fprintf(to, "  VmPTE %.0f KiB", middle(row, METRIC_VMPTE));
	if (row->series[METRIC_ADOPTED].n)
		adopted_note(row, to);
	if (row->series[METRIC_STALL].n)
		fprintf(to, "; %.0f writes, none lost; longest stall %.1f ms "
			"(%.1f before), held %.1f ms", middle(row, METRIC_WRITES_DONE),
			middle(row, METRIC_STALL) / 1e3,
			middle(row, METRIC_STALL_BEFORE) / 1e3, middle(row, METRIC_HOLD) / 1e3);
	fputc('\n', to);
}

/* --- the table ------------------------------------------------------------ */

static void line(const struct row *row, int new_cell, FILE *to)
{
	struct row r = *row;
	struct series *fork = &r.series[METRIC_CALL], *cycle = &r.series[METRIC_CYCLE];
	char detail[64], median[32], p99[32], wait[32], whole[32], around[80], around_whole[80];

	cell_detail(&row->cell, row->part, detail, sizeof(detail));
	fprintf(to, "%-13s %-15s %-11s %4zu %9s %17s %9s %9s %9s %17s",
		new_cell ? cases[row->cell.id].name : "", new_cell ? detail : "",
		engines[row->engine].name, row_headline(row)->n,
		us(series_quantile(fork, 0.5), median, sizeof(median)),
		spread(fork, around, sizeof(around)),
		us(series_quantile(fork, 0.99), p99, sizeof(p99)),
		us(series_quantile(&r.series[METRIC_CHILD], 0.5), wait, sizeof(wait)),
		us(series_quantile(cycle, 0.5), whole, sizeof(whole)),
		spread(cycle, around_whole, sizeof(around_whole)));
	note(row, to);
}

void table_print(struct rows *rows, size_t size, FILE *to)
{
	const struct row *before = NULL;

	for (size_t i = 0; i < rows->n; i++) {
		const struct row *row = &rows->row[i];

		if (row->size != size || row->cell.id == CASE_REVIEW ||
		    row->cell.id == CASE_SERVER)
			continue;
		if (!before)
			head(size, to);
		line(row, !before || before->part != row->part ||
		     cell_rank(&before->cell) != cell_rank(&row->cell), to);
		before = row;
	}
	fflush(to);
}

/* Seconds for each fork and GiB, a line for each round, as the reviewer of the
 * kernel's copy-on-write page tables printed them for three runs. */
static void review_row(const struct row *row, FILE *to)
{
	const struct series *loop = &row->series[METRIC_CYCLE];
	double gib = (double)row->size / (double)(1u << 30);

	for (unsigned round = 0; round < series_rounds(loop); round++)
		fprintf(to, "%-11s %.9f\n", engines[row->engine].name,
			series_round(loop, round) / 1e6 / row->cell.children / gib);
}

void review_print(struct rows *rows, size_t size, FILE *to)
{
	char text[32];
	int any = 0;

	for (size_t i = 0; i < rows->n; i++) {
		const struct row *row = &rows->row[i];

		if (row->size != size || row->cell.id != CASE_REVIEW)
			continue;
		if (!any++)
			fprintf(to, "\nreview: %s touched, %u forks, children staying alive; "
				"seconds of fork latency per GiB\n",
				size_string(size, text, sizeof(text)), row->cell.children);
		review_row(row, to);
	}
	fflush(to);
}

/* --- server ------------------------------------------------------------- */

static void server_head(const struct row *row, FILE *to)
{
	const char *bold = colour(to) ? "\033[1m" : "", *plain = *bold ? "\033[0m" : "";
	const struct load *load = &row->cell.load;
	char size[32];

	fprintf(to, "\n%sserver: %s of memory, %u threads with %u writes/s each, times in us%s"
		"\n", bold, size_string(row->size, size, sizeof(size)), load->threads,
		load->rate, plain);
	fprintf(to, "%s%33s%47s |%39s |%s\n", bold, "",
		"writes from the fork until the child's end", "until the next fork", plain);
	fprintf(to, "%s%-9s %-10s %8s %9s", bold, "", "engine", "fork", "to wait");
	for (int i = 0; i < 2; i++)
		fprintf(to, " %7s %7s %7s %7s %7s |", "p50", "p99", "p99.9", "max", "store");
	fprintf(to, " %6s%s\n", "done", plain);
}

static void latencies(const struct row *row, enum metric first, FILE *to)
{
	char text[32];

	for (int i = 0; i < LATENCY_COUNT; i++)
		if (i != LATENCY_P90)
			fprintf(to, " %7s", us(middle(row, first + i), text, sizeof(text)));
	fputs(" |", to);
}

static void server_line(const struct row *row, int new_part, FILE *to)
{
	char detail[64], fork[32], wait[32];

	fprintf(to, "%-9s %-10s %8s %9s",
		new_part ? cell_detail(&row->cell, row->part, detail, sizeof(detail)) : "",
		engines[row->engine].name,
		us(middle(row, METRIC_CALL), fork, sizeof(fork)),
		us(middle(row, METRIC_CHILD), wait, sizeof(wait)));
	latencies(row, METRIC_DURING, to);
	latencies(row, METRIC_REST, to);
	fprintf(to, " %5.1f%%\n", 100 * middle(row, METRIC_WRITES_SHARE));
}

static void memory_line(const struct row *row, FILE *to)
{
	const struct curve *curve = meter_curve(row->engine, row->size);
	const double mib = 1 << 20;

	if (row->part != SERVER_WHOLE || !curve)
		return;
	fprintf(to, "%-9s %-10s MiB before forks %.0f, most %.0f, in the end %.0f (%.2f times); "
		"%.2f s of processor time%s\n", "memory", engines[row->engine].name,
		middle(row, METRIC_MEMORY_BEFORE) / mib, middle(row, METRIC_MEMORY_PEAK) / mib,
		middle(row, METRIC_MEMORY_AFTER) / mib, middle(row, METRIC_MEMORY_LEFT),
		middle(row, METRIC_CPU) / 1e6, curve->cgroup ? "" : " (whole machine)");
	if (row->series[METRIC_THAW].n)
		fprintf(to, "%-9s %-10s a thaw took %.0f ms, and held no part of memory longer "
			"than %.2f ms\n", "", "", middle(row, METRIC_THAW) / 1e3,
			middle(row, METRIC_HOLD) / 1e3);
}

void server_print(struct rows *rows, size_t size, FILE *to)
{
	const struct row *before = NULL;

	for (size_t i = 0; i < rows->n; i++) {
		const struct row *row = &rows->row[i];

		if (row->size != size || row->cell.id != CASE_SERVER)
			continue;
		if (!before)
			server_head(row, to);
		server_line(row, !before || before->part != row->part, to);
		before = row;
	}
	for (size_t i = 0; before && i < rows->n; i++)
		if (rows->row[i].size == size && rows->row[i].cell.id == CASE_SERVER)
			memory_line(&rows->row[i], to);
	fflush(to);
}
