/*
 * cowfork-compare(1): the whole run in one view. Arguments, what does not fit
 * or cannot be drawn is said before anything runs, then the plan, then reports.
 * With the hidden first argument --worker=ENGINE the program is a worker.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>

#include "compare.h"

static struct options opt;
static FILE *people, *json;	/* where text and JSON rows go; json may be NULL */

static void open_outputs(void)
{
	int json_on_stdout = opt.json && !opt.json_file;

	people = json_on_stdout ? stderr : stdout;
	json = json_on_stdout ? stdout : NULL;
	if (!opt.json_file)
		return;
	json = fopen(opt.json_file, "we");
	if (!json)
		die(STATUS_FAILED, "--json: %s: %s", opt.json_file, strerror(errno));
}

static void close_outputs(void)
{
	if (json && (ferror(json) || fclose(json) != 0))
		die(STATUS_FAILED, "--json: writing failed");
	if (people == stdout && (ferror(stdout) || fclose(stdout) != 0))
		die(STATUS_FAILED, "writing to stdout failed");
}

static void size_done(struct rows *rows, size_t size)
{
	if (!opt.goals && people == stdout) {
		table_print(rows, size, people);
		review_print(rows, size, people);
		server_print(rows, size, people);
	}
	if (json && !opt.goals)
		json_print(rows, size, json);
}

static void refuse(const struct plan *plans, size_t count)
{
	for (size_t i = 0; i < count; i++)
		plan_refuse(&plans[i], &opt);
}

static void run(const struct plan *plans, size_t count, struct rows *rows)
{
	for (size_t i = 0; i < count; i++)
		run_plan(&plans[i], &opt, rows, size_done);
}

int main(int argc, char **argv)
{
	const struct plan *plans = &opt.plan;
	struct rows rows = { 0 };
	size_t count = 1;

	if (argc == 2 && strncmp(argv[1], WORKER_OPTION, strlen(WORKER_OPTION)) == 0)
		return worker_main(argv[1] + strlen(WORKER_OPTION));
	options_parse(argc, argv, &opt);
	if (opt.goals) {
		plans = goal_plans;
		count = goal_plan_count;
	}
	refuse(plans, count);
	if (opt.plot_file)
		plot_probe(opt.plot_file);
	open_outputs();
	machine_print(people, opt.seed);
	run(plans, count, &rows);
	if (opt.goals && json)
		json_print(&rows, 0, json);
	goals_print(&rows, people);
	if (opt.plot_file)
		plot_write(&rows, opt.plan.cases & CASE_BIT(CASE_FORK) ? CASE_FORK :
			   CASE_SERVER, opt.plot_file);
	close_outputs();
	rows_free(&rows);
	return STATUS_OK;
}
