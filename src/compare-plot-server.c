/*
 * What gnuplot draws of the case `server`, of the largest size that was run: an
 * engine's memory over time, with a mark at each fork, and below it the latency
 * of writes by percentile, a full line while children live and a broken one
 * from then on.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "compare.h"

#define GIB ((double)(1u << 30))

static const char memory_panel[] =
	"set terminal svg size 760,860 background rgb 'white' font 'sans-serif,13'\n"
	"set multiplot layout 2,1\n"
	"set grid\n"
	"set key right bottom\n"
	"set xlabel 'seconds; a mark is a fork'\n"
	"set ylabel 'memory, GiB'\n"
	"set yrange [0:*]\n";

static const char latency_panel[] =
	"set key left top\n"
	"set xlabel 'writes: full line from a fork until its child has ended, '"
	".'broken from then on'\n"
	"set ylabel 'latency from when a write was due, us'\n"
	"set xrange [-0.3:4.3]\n"
	"set yrange [*:*]\n"
	"set logscale y\n"
	"set xtics ('p50' 0, 'p90' 1, 'p99' 2, 'p99.9' 3, 'longest' 4)\n";

static size_t largest(const struct rows *rows)
{
	size_t size = 0;

	for (size_t i = 0; i < rows->n; i++)
		if (rows->row[i].cell.id == CASE_SERVER && rows->row[i].size > size)
			size = rows->row[i].size;
	return size;
}

/* --- data --------------------------------------------------------------- */

static void memory_data(const struct curve *c, FILE *to)
{
	fprintf(to, "$memory%d << EOD\n", (int)c->engine);
	for (size_t i = 0; i < c->n; i++)
		fprintf(to, "%.3f %.5f\n", c->point[i].at_us / 1e6, c->point[i].bytes / GIB);
	fputs("EOD\n", to);
}

static double memory_at(const struct curve *c, double at_us)
{
	size_t i = 0;

	while (i + 1 < c->n && c->point[i + 1].at_us <= at_us)
		i++;
	return c->point[i].bytes / GIB;
}

static void fork_data(const struct rows *rows, const struct curve *c, FILE *to)
{
	fprintf(to, "$forks%d << EOD\n", (int)c->engine);
	for (size_t i = 0; i < rows->n; i++) {
		const struct row *row = &rows->row[i];
		const struct series *at = &row->series[METRIC_AT];
		const struct value *last = at->v;

		if (row->cell.id != CASE_SERVER || row->size != c->size ||
		    row->engine != c->engine || !at->n)
			continue;
		for (size_t k = 1; k < at->n; k++)
			if (at->v[k].round > last->round)
				last = &at->v[k];
		fprintf(to, "%.3f %.5f\n", last->value / 1e6, memory_at(c, last->value));
	}
	fputs("EOD\n", to);
}

static void latency_data(const struct rows *rows, const struct curve *c, FILE *to)
{
	struct row key = { .cell = { .id = CASE_SERVER }, .part = SERVER_WHOLE,
			   .engine = c->engine, .size = c->size };
	struct row row = *rows_find(rows, &key);

	fprintf(to, "$latency%d << EOD\n", (int)c->engine);
	for (int i = 0; i <= LATENCY_MAX; i++)
		fprintf(to, "%d %.3f %.3f\n", i,
			series_quantile(&row.series[METRIC_DURING + i], 0.5),
			series_quantile(&row.series[METRIC_REST + i], 0.5));
	fputs("EOD\n", to);
}

/* --- the drawing -------------------------------------------------------- */

static void each_engine(size_t size, const char *format, FILE *to)
{
	int any = 0;

	for (int id = 0; id < ENGINE_COUNT; id++) {
		if (!meter_curve((enum engine_id)id, size))
			continue;
		fputs(any++ ? ", " : "plot ", to);
		for (const char *p = format; *p; p++) {
			if (*p == '#')
				fprintf(to, "%d", id);
			else if (*p == '@')
				fputs(plot_colours[id], to);
			else if (*p == '%')
				fputs(engines[id].name, to);
			else
				fputc(*p, to);
		}
	}
	fputc('\n', to);
}

void plot_server_draw(struct rows *rows, FILE *to)
{
	size_t size = largest(rows);

	for (int id = 0; id < ENGINE_COUNT; id++) {
		const struct curve *c = meter_curve((enum engine_id)id, size);

		if (!c)
			continue;
		memory_data(c, to);
		fork_data(rows, c, to);
		latency_data(rows, c, to);
	}
	fputs(memory_panel, to);
	each_engine(size, "$memory# with lines lw 2 lc rgb '@' title '%', "
		    "$forks# with points pt 9 ps 0.9 lc rgb '@' notitle", to);
	fputs(latency_panel, to);
	each_engine(size, "$latency# using 1:2 with linespoints lw 2 pt 7 ps 0.6 lc rgb '@' "
		    "title '%', '' using 1:3 with linespoints lw 2 dt 2 pt 6 ps 0.6 "
		    "lc rgb '@' notitle", to);
	fputs("unset multiplot\n", to);
}
