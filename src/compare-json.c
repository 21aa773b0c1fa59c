/*
 * Rows for programs: one JSON object a line. Times are in microseconds, null
 * where a case has no such time; touched is in percent of the pages.
 *
 * SPDX-License-Identifier: MIT
 */
#include <json-c/json.h>
#include <math.h>

#include "compare.h"

static void add_number(struct json_object *o, const char *key, double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3f", value);
	json_object_object_add(o, key, isnan(value) ? NULL
			       : json_object_new_double_s(value, text));
}

static void add_text(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

static void add_cell(struct json_object *o, const struct row *row)
{
	static const char *const orders[] = { "in order", "random" };
	int matrix = cases[row->cell.id].flags & CASE_MATRIX;
	char detail[64];

	add_text(o, "case", cases[row->cell.id].name);
	add_text(o, "engine", engines[row->engine].name);
	json_object_object_add(o, "size_bytes", json_object_new_int64((int64_t)row->size));
	json_object_object_add(o, "page",
			       json_object_new_int64((int64_t)engines[row->engine].page));
	snprintf(detail, sizeof(detail), "%g", row->cell.permille / 10.0);
	json_object_object_add(o, "touched", json_object_new_double_s(
		row->cell.permille / 10.0, detail));
	add_text(o, "order", matrix && row->cell.permille ? orders[row->cell.order] : NULL);
	add_text(o, "part", cases[row->cell.id].parts > 1
		 ? cell_detail(&row->cell, row->part, detail, sizeof(detail)) : NULL);
	json_object_object_add(o, "children",
			       json_object_new_int64(row->cell.children));
}

static void add_times(struct json_object *o, const struct row *row)
{
	struct row r = *row;
	struct series *fork = row_headline(&r), *cycle = &r.series[METRIC_CYCLE];

	json_object_object_add(o, "n", json_object_new_int64((int64_t)fork->n));
	add_number(o, "median_us", series_quantile(fork, 0.5));
	add_number(o, "mean_us", series_mean(fork));
	add_number(o, "p99_us", series_quantile(fork, 0.99));
	add_number(o, "min_us", series_quantile(fork, 0));
	add_number(o, "p10_us", series_quantile(fork, 0.1));
	add_number(o, "p90_us", series_quantile(fork, 0.9));
	add_number(o, "max_us", series_quantile(fork, 1));
	add_number(o, "reaped_us", series_quantile(&r.series[METRIC_CHILD], 0.5));
	add_number(o, "cycle_us", series_quantile(cycle, 0.5));
	add_number(o, "cycle_mean_us", series_mean(cycle));
	add_number(o, "cycle_p99_us", series_quantile(cycle, 0.99));
	add_number(o, "cycle_min_us", series_quantile(cycle, 0));
	add_number(o, "cycle_max_us", series_quantile(cycle, 1));
	add_number(o, "vmpte_kib", series_quantile(&r.series[METRIC_VMPTE], 0.5));
}

void json_print(struct rows *rows, size_t size, FILE *to)
{
	for (size_t i = 0; i < rows->n; i++) {
		struct json_object *o;

		if (size && rows->row[i].size != size)
			continue;
		o = json_object_new_object();
		if (!o)
			die(STATUS_FAILED, "out of memory for JSON");
		add_cell(o, &rows->row[i]);
		add_times(o, &rows->row[i]);
		fprintf(to, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
		json_object_put(o);
	}
	fflush(to);
}
