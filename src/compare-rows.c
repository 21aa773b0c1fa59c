/*
 * The rows of a run: for each a series of numbers per metric, each number with
 * the round that it comes from, and the statistics over them.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

static void *grow(void *p, size_t n, size_t *room, size_t each)
{
	if (n < *room)
		return p;
	*room = *room ? 2 * *room : 16;
	p = realloc(p, *room * each);
	if (!p)
		die(STATUS_FAILED, "out of memory for the results");
	return p;
}

/* --- rows --------------------------------------------------------------- */

static int compare_keys(const struct row *a, const struct row *b)
{
	unsigned x = cell_rank(&a->cell), y = cell_rank(&b->cell);

	if (a->size != b->size)
		return a->size < b->size ? -1 : 1;
	if (x != y)
		return x < y ? -1 : 1;
	if (a->part != b->part)
		return a->part < b->part ? -1 : 1;
	return (int)a->engine - (int)b->engine;
}

static int compare_rows(const void *a, const void *b)
{
	return compare_keys(a, b);
}

const struct row *rows_find(const struct rows *rows, const struct row *key)
{
	for (size_t i = 0; i < rows->n; i++)
		if (compare_keys(&rows->row[i], key) == 0)
			return &rows->row[i];
	return NULL;
}

static struct row *row_get(struct rows *rows, const struct row *key)
{
	const struct row *found = rows_find(rows, key);
	struct row *row;

	if (found)
		return &rows->row[found - rows->row];
	rows->row = grow(rows->row, rows->n, &rows->room, sizeof(*rows->row));
	row = &rows->row[rows->n++];
	*row = *key;
	memset(row->series, 0, sizeof(row->series));
	return row;
}

void rows_add(struct rows *rows, const struct row *key, enum metric metric,
	      unsigned round, double value)
{
	struct series *s = &row_get(rows, key)->series[metric];

	s->v = grow(s->v, s->n, &s->room, sizeof(*s->v));
	s->v[s->n++] = (struct value){ value, round };
}

void rows_sort(struct rows *rows)
{
	if (rows->n)
		qsort(rows->row, rows->n, sizeof(*rows->row), compare_rows);
}

void rows_free(struct rows *rows)
{
	for (size_t i = 0; i < rows->n; i++)
		for (int metric = 0; metric < METRIC_COUNT; metric++)
			free(rows->row[i].series[metric].v);
	free(rows->row);
	*rows = (struct rows){ 0 };
}

struct series *row_headline(const struct row *row)
{
	const struct series *s = &row->series[METRIC_CALL];

	return (struct series *)(uintptr_t)(s->n ? s : &row->series[METRIC_CYCLE]);
}

/* --- statistics --------------------------------------------------------- */

static int compare_values(const void *a, const void *b)
{
	double x = ((const struct value *)a)->value, y = ((const struct value *)b)->value;

	return x < y ? -1 : x > y;
}

/* Linear between the two nearest values; NAN of nothing. */
double series_quantile(struct series *s, double q)
{
	double at;
	size_t i;

	if (!s->n)
		return NAN;
	at = q * (double)(s->n - 1);
	i = (size_t)at;
	qsort(s->v, s->n, sizeof(*s->v), compare_values);
	if (i + 1 >= s->n)
		return s->v[s->n - 1].value;
	return s->v[i].value + (at - (double)i) * (s->v[i + 1].value - s->v[i].value);
}

double series_mean(const struct series *s)
{
	double sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += s->v[i].value;
	return s->n ? sum / (double)s->n : NAN;
}

double series_round(const struct series *s, unsigned round)
{
	struct series of = { 0 };
	double median;

	of.v = malloc((s->n + 1) * sizeof(*of.v));
	if (!of.v)
		die(STATUS_FAILED, "out of memory for the results");
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].round == round)
			of.v[of.n++] = s->v[i];
	median = series_quantile(&of, 0.5);
	free(of.v);
	return median;
}

unsigned series_rounds(const struct series *s)
{
	unsigned rounds = 0;

	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].round >= rounds)
			rounds = s->v[i].round + 1;
	return rounds;
}
