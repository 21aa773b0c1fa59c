/*
 * Rows for programs: one JSON object a line. Times are in microseconds, null
 * where a case has no such time; touched is in percent of the pages.
 *
 * SPDX-License-Identifier: MIT
 */
#include <json-c/json.h>
#include <math.h>
#include <string.h>

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

/* --- what only `heap` and its kin have ------------------------------------ */

static void add_heap(struct json_object *o, const struct row *row)
{
	static const struct {
		const char *key;
		enum metric metric;
	} single[] = {
		{ "first_us", METRIC_FIRST },
		{ "adopted_bytes", METRIC_ADOPTED },
		{ "adopted_gib_s", METRIC_RATE },
		{ "hold_us", METRIC_HOLD },
		{ "stall_us", METRIC_STALL },
		{ "stall_before_us", METRIC_STALL_BEFORE },
		{ "writes_done", METRIC_WRITES_DONE },
	};
	struct row r = *row;
	double error = series_quantile(&r.series[METRIC_ERROR], 0.5);
	double reason = series_quantile(&r.series[METRIC_REASON], 0.5);

	for (size_t i = 0; i < sizeof(single) / sizeof(single[0]); i++)
		add_number(o, single[i].key,
			   series_quantile(&r.series[single[i].metric], 0.5));
	add_text(o, "error", error > 0 ? strerror((int)error) : NULL);
	add_text(o, "reason", reason > 0 ? adopt_reason((unsigned)reason) : NULL);
}

/* --- what only `server` has ---------------------------------------------- */

static void add_latencies(struct json_object *o, const struct row *row, const char *when,
			  enum metric first)
{
	static const char *const names[LATENCY_COUNT] = {
		"p50", "p90", "p99", "p999", "max", "store_max",
	};
	struct row r = *row;
	char key[64];

	for (int i = 0; i < LATENCY_COUNT; i++) {
		snprintf(key, sizeof(key), "%s_%s_us", when, names[i]);
		add_number(o, key, series_quantile(&r.series[first + i], 0.5));
	}
}

/* Pairs of seconds and bytes, in the row of the whole run. */
static void add_curve(struct json_object *o, const struct row *row)
{
	const struct curve *curve = meter_curve(row->engine, row->size);
	struct json_object *all = NULL;
	char text[32];

	if (row->part == SERVER_WHOLE && curve)
		all = json_object_new_array();
	for (size_t i = 0; all && i < curve->n; i++) {
		struct json_object *pair = json_object_new_array();
		double at = curve->point[i].at_us / 1e6;

		snprintf(text, sizeof(text), "%.3f", at);
		json_object_array_add(pair, json_object_new_double_s(at, text));
		json_object_array_add(pair, json_object_new_int64(
			(int64_t)curve->point[i].bytes));
		json_object_array_add(all, pair);
	}
	add_text(o, "memory_of", !all ? NULL : curve->cgroup ? "cgroup" : "machine");
	json_object_object_add(o, "memory_curve", all);
}

static void add_server(struct json_object *o, const struct row *row)
{
	static const struct {
		const char *key;
		enum metric metric;
	} single[] = {
		{ "at_us", METRIC_AT },
		{ "writes_due", METRIC_WRITES_DUE },
		{ "writes_done", METRIC_WRITES_DONE },
		{ "writes_share", METRIC_WRITES_SHARE },
		{ "memory_before_bytes", METRIC_MEMORY_BEFORE },
		{ "memory_peak_bytes", METRIC_MEMORY_PEAK },
		{ "memory_after_bytes", METRIC_MEMORY_AFTER },
		{ "memory_left", METRIC_MEMORY_LEFT },
		{ "cpu_us", METRIC_CPU },
		{ "thaw_us", METRIC_THAW },
		{ "thaw_hold_us", METRIC_HOLD },
	};
	const struct load *load = &row->cell.load;
	struct row r = *row;

	json_object_object_add(o, "threads", json_object_new_int64(load->threads));
	json_object_object_add(o, "rate", json_object_new_int64(load->rate));
	for (size_t i = 0; i < sizeof(single) / sizeof(single[0]); i++)
		add_number(o, single[i].key,
			   series_quantile(&r.series[single[i].metric], 0.5));
	add_latencies(o, row, "during", METRIC_DURING);
	add_latencies(o, row, "rest", METRIC_REST);
	add_curve(o, row);
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
		if (cases[rows->row[i].cell.id].flags & CASE_PARTS)
			add_heap(o, &rows->row[i]);
		if (rows->row[i].cell.id == CASE_SERVER)
			add_server(o, &rows->row[i]);
		fprintf(to, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
		json_object_put(o);
	}
	fflush(to);
}
