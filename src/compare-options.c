/*
 * The arguments, and the help that explains cases, engines and the columns of
 * the table. A bad argument ends the program with one line (and argp's hint at
 * --help) and status 2.
 *
 * SPDX-License-Identifier: MIT
 */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare.h"
#include "cowfork.h"

#define GIB ((size_t)1 << 30)
#define MIB ((size_t)1 << 20)

const char *argp_program_version = "cowfork-compare " COW_VERSION;

#define SECOND 1e6		/* us */

/* Those that tell little of small memory. */
#define CASES_LARGE (CASE_BIT(CASE_REVIEW) | CASE_BIT(CASE_SERVER) | \
		     CASE_BIT(CASE_HEAP_FORKS))

enum key {
	KEY_SEED = 0x100, KEY_JSON, KEY_PLOT, KEY_LIST, KEY_GOALS, KEY_FORKS, KEY_THREADS,
	KEY_RATE,
};

static const struct argp_option options[] = {
	{ "size", 's', "LIST", 0, "Sizes of memory, as 64M,1G,4G (K, M, G or T; default "
	  "64M,1G; review, server and heap-forks 1G)", 0 },
	{ "engine", 'e', "LIST", 0, "Engines to compare (default all that a case is for; "
	  "review and server fork-4k,store)", 0 },
	{ "rounds", 'r', "N", 0, "Rounds of each case (default 5, but 3 where a round takes "
	  "long; given, N holds for all)", 0 },
	{ "seed", KEY_SEED, "N", 0, "What random pages come from (default: the clock)", 0 },
	{ "forks", KEY_FORKS, "K", 0, "Forks of the case review, 1 to 1000 (default 16), and "
	  "of server, 1 to 100 (default 4)", 0 },
	{ "threads", KEY_THREADS, "N", 0, "Writers of the case server, 1 to 64 (default 2)", 0 },
	{ "rate", KEY_RATE, "N", 0, "Writes a second of each of them, and of the two of "
	  "heap-adopt (default 10000)", 0 },
	{ "quick", 'q', NULL, 0, "64M, two rounds, short pauses: does it work at all?", 0 },
	{ "goals", KEY_GOALS, NULL, 0, "Run what the project's goals need, at their sizes (16 "
	  "to 25 minutes), and print only how they are met", 0 },
	{ "json", KEY_JSON, "FILE", OPTION_ARG_OPTIONAL, "Rows as JSON, one object a line: to "
	  "FILE, or to stdout in place of the table", 0 },
	{ "plot", KEY_PLOT, "FILE.svg", 0, "Draw fork latency against size (needs gnuplot, the "
	  "case fork, two sizes), or without that case what server measured", 0 },
	{ "list", 'l', NULL, 0, "List cases and engines, run nothing", 0 },
	{ 0 },
};

static const char text[] =
	"Measure cowfork against real fork, side by side.\n\n"
	"Each engine has a process of its own; the engines take turns round by round, as far "
	"as memory allows, so that ratios hold on a noisy machine. CASE is one or more of "
	"those that --list names (default all but review, server and heap-forks).\v"
	"The columns: n forks; latency of the call, the fork in the parent; from there until "
	"the child is reaped; the whole cycle, which adds what the parent does between forks. "
	"After each wait the parent reads again the pages that the row is about, so that its "
	"own faults are counted, for every engine alike. Shares are of all pages; random "
	"pages are the same for each engine and each round. The calls are of memory, without "
	"a fork: single ones, and as the cycle what one of a burst takes. parent-write writes the same "
	"pages each time, old-child other ones before each fork.\n\n"
	"heap and its kin are about memory that exists before cowfork hears of it, each turn "
	"in a new process. Behind a row stands how much was adopted and how fast. heap-adopt "
	"tells as the call how long adoption takes, and the longest time from one write of a "
	"thread to its next; heap-forks as the cycle what all forks took together.\n\n"
	"review takes --size and --forks, and tells seconds of fork latency for each GiB of "
	"touched memory while all children stay alive.\n\n"
	"server takes --size, --forks, --threads and --rate, and tells the latency of writes "
	"to random pages, from when they were due, while a child that reads everything lives "
	"and from then on; the longest store alone; the share of writes that were done; and "
	"the worker's memory.\n\n"
	"Every page carries a pattern; children and parents compare what they read. A wrong "
	"byte ends the run.\n\n"
	"Exit status: 0 all went well, 1 a wrong byte, 2 anything else (bad arguments, memory "
	"that does not fit, a worker that died). Goals that are missed do not change it.\n\n"
	"Environment: NO_COLOR forbids colours, which are used on terminals only.";

struct parse {
	struct options *opt;
	int sizes_given, engines_given, cases_given;
};

/* --- values ------------------------------------------------------------- */

static uint64_t number(const struct argp_state *state, const char *arg, uint64_t min,
		       uint64_t max, const char *what)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(arg, &end, 0);
	if (errno || end == arg || *end || *arg == '-' || value < min || value > max)
		argp_error(state, "%s: \"%s\" is no number from %llu to %llu", what, arg,
			   (unsigned long long)min, (unsigned long long)max);
	return value;
}

static int unit_shift(const char *unit)
{
	static const char units[] = "KMGT";
	const char *at = *unit ? strchr(units, *unit & ~0x20) : NULL;

	if (!*unit)
		return 0;
	return at && !unit[1] ? 10 * (int)(at - units + 1) : -1;
}

static size_t size_value(const struct argp_state *state, const char *arg)
{
	char *unit;
	unsigned long long value = strtoull(arg, &unit, 10);
	int shift = unit_shift(unit);

	if (unit == arg || *arg == '-' || shift < 0 || value > (1ull << 44) >> shift ||
	    value << shift < TABLE_BYTES)
		argp_error(state, "\"%s\" is no size from 2M to 16T, as 64M or 4G", arg);
	return (value << shift) & ~(TABLE_BYTES - 1);
}

static void add_size(const struct argp_state *state, struct plan *plan, const char *arg)
{
	if (plan->sizes == LIST_MAX)
		argp_error(state, "more than %d sizes", LIST_MAX);
	plan->size[plan->sizes++] = size_value(state, arg);
}

static void add_engine(const struct argp_state *state, struct plan *plan, const char *arg)
{
	for (int id = 0; id < ENGINE_COUNT; id++)
		if (strcmp(engines[id].name, arg) == 0) {
			plan->engines |= ENGINE_BIT(id);
			return;
		}
	argp_error(state, "\"%s\" is no engine; see --list", arg);
}

static void add_case(const struct argp_state *state, struct plan *plan, const char *arg)
{
	for (int id = 0; id < CASE_COUNT; id++)
		if (strcmp(cases[id].name, arg) == 0) {
			plan->cases |= CASE_BIT(id);
			return;
		}
	argp_error(state, "\"%s\" is no case; see --list", arg);
}

static void each_item(const struct argp_state *state, char *list, struct plan *plan,
		      void (*add)(const struct argp_state *, struct plan *, const char *))
{
	for (char *item = strtok(list, ","); item; item = strtok(NULL, ","))
		add(state, plan, item);
}

static void list_all(void)
{
	puts("cases, in the order of running:");
	for (int id = 0; id < CASE_COUNT; id++)
		printf("  %-13s %s%s\n", cases[id].name, cases[id].about,
		       cases[id].flags & CASE_EXTRA ? " (only by name)" : "");
	puts("engines:");
	for (int id = 0; id < ENGINE_COUNT; id++)
		printf("  %-13s %s\n", engines[id].name, engines[id].about);
	exit(STATUS_OK);
}

/* --- what was left out -------------------------------------------------- */

static void set_load(struct options *opt)
{
	struct load *load = &opt->load;

	load->forks = opt->forks ? opt->forks : SERVER_FORKS;
	load->before_us = opt->quick ? SECOND / 4 : SECOND;
	load->gap_us = opt->quick ? SECOND / 4 : 3 * SECOND;
	load->after_us = opt->quick ? SECOND : 5 * SECOND;
}

static void set_defaults(const struct parse *p)
{
	struct options *opt = p->opt;
	struct plan *plan = &opt->plan;

	for (int id = 0; !p->cases_given && id < CASE_COUNT; id++)
		if (!(cases[id].flags & CASE_EXTRA))
			plan->cases |= CASE_BIT(id);
	if (!opt->rounds && opt->quick)
		opt->rounds = 2;
	set_load(opt);
	if (p->sizes_given)
		return;
	plan->sizes = 0;
	if (plan->cases & ~CASES_LARGE || opt->quick)
		plan->size[plan->sizes++] = 64 * MIB;
	if (!opt->quick)
		plan->size[plan->sizes++] = GIB;
}

static int can_plot(const struct plan *plan)
{
	if (plan->cases & CASE_BIT(CASE_FORK))
		return plan->sizes >= 2;
	return (plan->cases & CASE_BIT(CASE_SERVER)) != 0;
}

static void refuse_nonsense(const struct argp_state *state, const struct parse *p)
{
	const struct options *opt = p->opt;

	if (opt->goals && (p->cases_given || p->sizes_given || opt->plan.engines || opt->quick))
		argp_error(state, "--goals chooses cases, sizes and engines itself");
	if (!opt->goals && opt->plot_file && !can_plot(&opt->plan))
		argp_error(state, "--plot needs the case fork and at least two sizes, or the "
			   "case server without fork");
	if (opt->plan.cases & CASE_BIT(CASE_SERVER) && opt->forks > SERVER_FORKS_MAX)
		argp_error(state, "forks: \"%u\" are more than the %d that server can have",
			   opt->forks, SERVER_FORKS_MAX);
	for (int id = 0; id < CASE_COUNT; id++)
		if (opt->plan.cases & CASE_BIT(id) && p->cases_given &&
		    !plan_engines(&opt->plan, (enum case_id)id))
			argp_error(state, "no engine that was asked for takes part in case %s",
				   cases[id].name);
}

static error_t parse_one(int key, char *arg, struct argp_state *state)
{
	struct parse *p = state->input;
	struct options *opt = p->opt;

	switch (key) {
	case 's': p->sizes_given = 1; each_item(state, arg, &opt->plan, add_size); break;
	case 'e': p->engines_given = 1; each_item(state, arg, &opt->plan, add_engine); break;
	case 'r': opt->rounds = (unsigned)number(state, arg, 1, 10000, "rounds"); break;
	case 'q': opt->quick = 1; break;
	case 'l': list_all(); break;
	case KEY_SEED: opt->seed = number(state, arg, 0, UINT64_MAX, "seed"); break;
	case KEY_FORKS: opt->forks = (unsigned)number(state, arg, 1, FORKS_MAX, "forks"); break;
	case KEY_THREADS: opt->load.threads = (unsigned)number(state, arg, 1,
			SERVER_THREADS_MAX, "threads"); break;
	case KEY_RATE: opt->load.rate = (unsigned)number(state, arg, 1,
			SERVER_RATE_MAX, "rate"); break;
	case KEY_GOALS: opt->goals = 1; break;
	case KEY_JSON: opt->json = 1; opt->json_file = arg; break;
	case KEY_PLOT: opt->plot_file = arg; break;
	case ARGP_KEY_ARG: p->cases_given = 1; add_case(state, &opt->plan, arg); break;
	case ARGP_KEY_END:
		if (p->sizes_given && !opt->plan.sizes)
			argp_error(state, "--size: the list is empty");
		if (p->engines_given && !opt->plan.engines)
			argp_error(state, "--engine: the list is empty");
		set_defaults(p);
		refuse_nonsense(state, p);
		break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

void options_parse(int argc, char **argv, struct options *ret_opt)
{
	static const struct argp argp = {
		.options = options, .parser = parse_one, .args_doc = "[CASE...]", .doc = text,
	};
	struct parse p = { .opt = ret_opt };
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	*ret_opt = (struct options){
		.load = { .threads = 2, .rate = 10000 },
		.seed = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
	};
	argp_err_exit_status = STATUS_FAILED;
	argp_parse(&argp, argc, argv, 0, NULL, &p);
}
