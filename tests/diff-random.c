/*
 * The differential test: programs drawn from a seed (map, write, unmap, protect,
 * advise, lock, move, fork, wait, ...) run on plain memory under the kernel's
 * fork (engine off) and in the store. Every process of the tree notes results,
 * errnos and content hashes; the two must be equal operation by operation.
 * Addresses are never noted. A program that differs is cut down and printed.
 *
 * Use: diff-random [option...]
 *	--seed N, --seeds A-B	which programs (default 1-300)
 *	--steps N		operations of the first process (120)
 *	--soak MINUTES		go on for so long; --from N: starting there
 *	--limit SECONDS		stop then, although seeds are left
 *	--replay FILE		run a written program, --times N: so often
 *	--cases DIR		run all written programs (*.txt) there first
 *	--keep FILE		write the cut-down program there
 *	--print			print the program of --seed, run nothing
 *	--engine in-place	instead of the store
 *	--strict		also what is known to differ (diff-known.c)
 *	--no-shrink, --verbose	every operation's result
 * Ends with 0: all the same, 1: a difference, 2: it could not run, 77: not here.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-shrink.h"

#define RUN_SECONDS 20		/* for one engine: the machine may be busy */
#define SHRINK_SECONDS 90
#define DIFFERENCES_MAX 5	/* enough to look at */

static struct {
	unsigned long long from, to;
	int steps, soak, limit, times, verbose, print, no_shrink;
	const char *replay, *cases, *keep;
} want = { .from = 1, .to = 300, .steps = 120, .times = 1 };

static struct program program;
static time_t started;

/* --- one program -------------------------------------------------------- */

static void keep(const struct program *p)
{
	FILE *to = want.keep ? fopen(want.keep, "w") : NULL;

	if (!to)
		return;
	program_print(to, p);
	fclose(to);
}

static void show_small(struct program *p, enum verdict verdict)
{
	if (program_shrink(p, verdict, SHRINK_SECONDS) == VERDICT_SAME) {
		printf("did not differ again\n");
		return;
	}
	printf("cut down to %d operations:\n", p->count);
	program_print(stdout, p);
	printf("where the difference is:\n");
	run_report(stdout, p, 0);
}

/* 0: the same; 1: not. What is *p is spoiled. */
static int try_program(struct program *p, const char *name)
{
	enum verdict verdict = run_program(p, RUN_SECONDS);

	if (want.verbose)
		run_report(stdout, p, 1);
	if (verdict == VERDICT_SAME || verdict == VERDICT_STOPPED)
		return 0;
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\n");
	printf("%s %s\n", name, verdict == VERDICT_BROKEN ?
	       "does not run on plain memory: a fault of the test" : "differs:");
	run_report(stdout, p, 0);
	if (!want.no_shrink)
		show_small(p, verdict);
	keep(p);
	return 1;
}

static int try_seed(unsigned long long seed)
{
	char name[64];

	snprintf(name, sizeof(name), "seed %llu (steps %d)", seed, want.steps);
	program_draw(&program, seed, want.steps);
	return try_program(&program, name);
}

/* --- written programs --------------------------------------------------- */

static int try_file(const char *name)
{
	FILE *from = fopen(name, "r");
	int line, bad = 0;

	if (!from) {
		perror(name);
		return -1;
	}
	line = program_read(from, &program);
	if (line)
		fprintf(stderr, "%s:%d: not understood\n", name, line);
	for (int i = 0; !line && i < want.times && !bad && !run_stopped; i++) {
		rewind(from);
		if (program_read(from, &program) == 0)
			bad = try_program(&program, name);
	}
	fclose(from);
	return line ? -1 : bad;
}

static int is_case(const struct dirent *entry)
{
	const char *end = strrchr(entry->d_name, '.');

	return end && !strcmp(end, ".txt");
}

/* How many differ; -1 when one could not be read. */
static int try_cases(const char *dir)
{
	struct dirent **entry;
	int n = scandir(dir, &entry, is_case, alphasort), bad = 0;

	if (n < 0) {
		perror(dir);
		return -1;
	}
	for (int i = 0; i < n; i++) {
		char name[4096];
		int ret;

		snprintf(name, sizeof(name), "%s/%s", dir, entry[i]->d_name);
		ret = bad < 0 || run_stopped ? 0 : try_file(name);
		bad = ret < 0 ? -1 : bad + ret;
		free(entry[i]);
	}
	free(entry);
	if (bad >= 0)
		printf("written programs: %d, %d differ\n", n, bad);
	return bad;
}

/* --- many seeds --------------------------------------------------------- */

static int is_time_up(void)
{
	time_t spent = time(NULL) - started;

	return run_stopped || (want.soak && spent >= 60 * (time_t)want.soak) ||
	       (want.limit && spent >= want.limit);
}

static int try_seeds(void)
{
	unsigned long long seed = want.from, bad = 0;
	time_t told = 0;

	while ((want.soak || seed <= want.to) && bad < DIFFERENCES_MAX && !is_time_up()) {
		if (isatty(STDERR_FILENO) && time(NULL) != told) {
			told = time(NULL);
			fprintf(stderr, "\rseed %llu, %llu differ ", seed, bad);
		}
		bad += (unsigned long long)try_seed(seed);
		seed += !run_stopped;
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\n");
	printf("seeds run: %llu from %llu in %ld s, %llu differ; next: --from %llu\n",
	       seed - want.from, want.from, (long)(time(NULL) - started), bad, seed);
	printf("forks with the store: %llu, with a refresh: %llu; tables thawed beside "
	       "threads: %llu; adoptions: %llu; forks in place: %llu\n", run_forks,
	       run_refreshed, run_thawed, run_adopted, run_in_place);
	return bad != 0;
}

/* --- options ------------------------------------------------------------ */

static int usage(void)
{
	fprintf(stderr, "usage: diff-random [--seed N | --seeds A-B | --soak MINUTES "
		"[--from N]] [--steps N]\n\t[--limit SECONDS] [--cases DIR] "
		"[--replay FILE [--times N]] [--keep FILE]\n\t[--print] [--no-shrink] "
		"[--strict] [--verbose]\n");
	return 2;
}

static int parse_switch(const char *name)
{
	if (!strcmp(name, "--verbose"))
		want.verbose = 1;
	else if (!strcmp(name, "--print"))
		want.print = 1;
	else if (!strcmp(name, "--strict"))
		diff_strict = 1;
	else if (!strcmp(name, "--no-shrink"))
		want.no_shrink = 1;
	else
		return -1;
	return 0;
}

/* 0, or -1 for what is not understood. */
static int parse_option(const char *name, const char *value)
{
	if (!strcmp(name, "--seed"))
		want.from = want.to = strtoull(value, NULL, 10);
	else if (!strcmp(name, "--from"))
		want.from = strtoull(value, NULL, 10);
	else if (!strcmp(name, "--seeds"))
		return sscanf(value, "%llu-%llu", &want.from, &want.to) == 2 ? 0 : -1;
	else if (!strcmp(name, "--steps"))
		want.steps = atoi(value);
	else if (!strcmp(name, "--soak"))
		want.soak = atoi(value);
	else if (!strcmp(name, "--limit"))
		want.limit = atoi(value);
	else if (!strcmp(name, "--times"))
		want.times = atoi(value);
	else if (!strcmp(name, "--replay"))
		want.replay = value;
	else if (!strcmp(name, "--cases"))
		want.cases = value;
	else if (!strcmp(name, "--keep"))
		want.keep = value;
	else if (!strcmp(name, "--engine") && !strcmp(value, "in-place"))
		run_engine = COW_ENGINE_IN_PLACE;
	else
		return -1;
	return 0;
}

static int parse(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (parse_switch(argv[i]) == 0)
			continue;
		if (i + 1 == argc || parse_option(argv[i], argv[i + 1]) < 0)
			return -1;
		i++;
	}
	return want.steps > 0 && want.steps < OPS_MAX ? 0 : -1;
}

/* Under make check: what was found before, and as many seeds as fit the time. */
static void check_defaults(void)
{
	static char cases[4096];
	const char *srcdir = getenv("srcdir");

	if (!srcdir)
		return;
	snprintf(cases, sizeof(cases), "%s/tests/diff-cases", srcdir);
	want.cases = cases;
	want.limit = 40;
}

static int is_engine_here(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	return run_engine != COW_ENGINE_IN_PLACE || (cow_facilities(&f) == 0 && f.in_place);
}

int main(int argc, char **argv)
{
	int cases = 0, ret;

	if (argc == 1)
		check_defaults();
	if (parse(argc, argv) < 0)
		return usage();
	if (want.print) {
		program_draw(&program, want.from, want.steps);
		program_print(stdout, &program);
		return 0;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!is_engine_here())
		return printf("skip: no userfaultfd that tells of forks\n"), 77;
	ret = run_setup();
	if (ret < 0)
		return fprintf(stderr, "diff-random: %s\n", strerror(-ret)), 2;
	started = time(NULL);
	if (want.replay)
		ret = try_file(want.replay);
	else if (want.cases)
		cases = try_cases(want.cases);
	if (ret < 0 || cases < 0)
		return 2;
	if (!want.replay)
		ret = try_seeds();
	return ret || cases;
}
