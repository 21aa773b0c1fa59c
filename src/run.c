/*
 * cowfork-run: run a program under the preload runtime. Sets the environment,
 * looks whether the program can be reached at all, and execs it.
 *
 * Exit status as env(1): 125 when cowfork-run itself fails, 126 when the program
 * cannot be run, 127 when it is not found.
 *
 * SPDX-License-Identifier: MIT
 */
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cowfork.h"
#include "explain.h"
#include "needed.h"

#define PRELOAD "libcowfork-preload.so"

const char *argp_program_version = "cowfork-run " COW_VERSION;

enum { OPT_STATS = 256, OPT_EXPLAIN, OPT_MIN_SIZE, OPT_ENGINE, OPT_HUGE, OPT_THAW, OPT_ADOPT,
       OPT_LOG };

static const struct argp_option options[] = {
	{ "stats", OPT_STATS, "FILE", OPTION_ARG_OPTIONAL,
	  "Report at exit: a few lines on standard error, or JSON to FILE "
	  "(%p in it becomes the process id)", 0 },
	{ "explain", OPT_EXPLAIN, NULL, 0,
	  "Say what this machine and user have and what follows; run nothing", 0 },
	{ "min-size", OPT_MIN_SIZE, "SIZE", 0,
	  "Smallest mapping to take, in bytes or with K, M, G (default 32M)", 0 },
	{ "engine", OPT_ENGINE, "ENGINE", 0, "auto (default), store, in-place or off", 0 },
	{ "huge", OPT_HUGE, "MODE", 0,
	  "Huge pages: auto (default), always or never", 0 },
	{ "thaw", OPT_THAW, "MODE", 0,
	  "Thaw beside running threads: auto (default) or never", 0 },
	{ "adopt", OPT_ADOPT, "MODE", 0,
	  "Move memory that exists into the store: auto (default), first or never", 0 },
	{ "log", OPT_LOG, "LEVEL", OPTION_ARG_OPTIONAL,
	  "Log to standard error: error, warn, info (default) or debug", 0 },
	{ NULL, 0, NULL, 0, NULL, 0 },
};

struct run {
	int explain;
	char **program;		/* NULL-terminated, or NULL */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;

	switch (key) {
	case OPT_STATS: setenv("COWFORK_STATS", arg ? arg : "1", 1); break;
	case OPT_EXPLAIN: run->explain = 1; break;
	case OPT_MIN_SIZE: setenv("COWFORK_MIN_SIZE", arg, 1); break;
	case OPT_ENGINE: setenv("COWFORK_ENGINE", arg, 1); break;
	case OPT_HUGE: setenv("COWFORK_HUGE", arg, 1); break;
	case OPT_THAW: setenv("COWFORK_THAW", arg, 1); break;
	case OPT_ADOPT: setenv("COWFORK_ADOPT", arg, 1); break;
	case OPT_LOG: setenv("COWFORK_LOG", arg ? arg : "info", 1); break;
	case ARGP_KEY_ARG:
		run->program = &state->argv[state->next - 1];
		state->next = state->argc;
		break;
	case ARGP_KEY_END:
		if (!run->program && !run->explain)
			argp_error(state, "no program to run");
		break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "[--] PROGRAM [ARG...]\n--explain [PROGRAM]",
	.doc = "Run PROGRAM with forks that do not copy page tables for large "
	       "anonymous memory.\vSee cowfork-run(1) and cowfork(7).",
};

/* The library checks the values; it says what is wrong through its log. */
static void complain(void *arg, enum cow_log_level level, const char *text)
{
	if (level > COW_LOG_WARN)
		return;
	fprintf(stderr, "cowfork-run: %s\n", text);
	*(int *)arg = 1;
}

/* The library knows nothing of this one: it is the runtime's. */
static int log_level_is_wrong(void)
{
	static const char *const levels[] = { "", "1", "error", "warn", "info", "debug" };
	const char *level = getenv("COWFORK_LOG");

	if (!level)
		return 0;
	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
		if (!strcmp(level, levels[i]))
			return 0;
	fprintf(stderr, "cowfork-run: COWFORK_LOG=%s is none of error, warn, info, "
		"debug\n", level);
	return 1;
}

static int options_are_wrong(void)
{
	struct cow_options opts = { .size = sizeof(opts) };
	int wrong = log_level_is_wrong();

	cow_set_log(complain, &wrong);
	if (cow_options_get(&opts) < 0)
		wrong = 1;
	cow_set_log(NULL, NULL);
	return wrong;
}

/* The runtime lies in a build tree beside this program, or is installed. */
static int find_preload(char path[PATH_MAX])
{
	static const char *const places[] = {
		"/../../lib/.libs/" PRELOAD, "/../lib/.libs/" PRELOAD,
		"/../lib/" PRELOAD,
	};
	char self[PATH_MAX], *slash, trial[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		*slash = '\0';
		for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
			snprintf(trial, sizeof(trial), "%s%s", self, places[i]);
			if (access(trial, R_OK) == 0 && realpath(trial, path))
				return 0;
		}
	}
	if (!realpath(LIBDIR "/" PRELOAD, path))
		return -errno;
	return 0;
}

/* Append an element to a list that has room for it. */
static void append(char *list, const char *element, size_t len)
{
	size_t n = strlen(list);

	if (n)
		list[n++] = ':';
	memcpy(list + n, element, len);
	list[n + len] = '\0';
}

/* Append those elements of a list that are sanitizers' runtimes. */
static void append_sanitizers(char *list, const char *others)
{
	for (size_t len; *others; others += len) {
		others += strspn(others, ": ");
		len = strcspn(others, ": ");
		if (len && needed_is_sanitizer(others, len))
			append(list, others, len);
	}
}

/* Sanitizers' runtimes stand before ours, see needed.c. What we put there is for
 * this program alone (preload-sanitizer.c); what was there is inherited as ever. */
static char *preload_list(const char *ours, const char *program)
{
	const char *others = getenv("LD_PRELOAD"), *found;
	char path[PATH_MAX], first[PATH_MAX], *list;

	others = others ? others : "";
	list = calloc(1, strlen(ours) + 2 * strlen(others) + sizeof(first) + 4);
	if (!list)
		return NULL;
	found = needed_program(program, path);
	if (found && needed_sanitizer(found, first))
		append(list, first, strlen(first));
	append_sanitizers(list, others);
	append(list, ours, strlen(ours));
	if (*others)
		append(list, others, strlen(others));
	return list;
}

static int set_preload(const char *program)
{
	char path[PATH_MAX], *list;
	int ret;

	if (find_preload(path) < 0) {
		fprintf(stderr, "cowfork-run: %s is neither beside this program nor "
			"in %s\n", PRELOAD, LIBDIR);
		return -ENOENT;
	}
	if (strpbrk(path, ": ")) {
		fprintf(stderr, "cowfork-run: the loader cannot preload %s: there is a "
			"space or colon in the path\n", path);
		return -EINVAL;
	}
	list = preload_list(path, program);
	if (!list)
		return -ENOMEM;
	ret = setenv("LD_PRELOAD", list, 1) < 0 ? -errno : 0;
	free(list);
	return ret;
}

static void warn_out_of_reach(const char *name)
{
	char path[PATH_MAX];
	const char *found = needed_program(name, path), *why;

	why = found ? explain_out_of_reach(found) : NULL;
	if (why)
		fprintf(stderr, "cowfork-run: %s is out of reach: %s; it runs with "
			"plain fork\n", name, why);
}

/* Programs that the program starts inherit COWFORK_STATS; see preload-start.c. */
static void name_reporter(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("COWFORK_STATS_PID", pid, 1);
}

int main(int argc, char **argv)
{
	struct run run = { 0 };

	argp_err_exit_status = 125;
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &run);
	if (options_are_wrong())
		return 125;
	if (run.explain) {
		if (explain_machine() < 0)
			return 125;
		if (run.program)
			warn_out_of_reach(run.program[0]);
		return 0;
	}
	if (set_preload(run.program[0]) < 0)
		return 125;
	warn_out_of_reach(run.program[0]);
	name_reporter();
	execvp(run.program[0], run.program);
	fprintf(stderr, "cowfork-run: %s: %s\n", run.program[0], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
