/*
 * Beginning and end: the log callback, the report at exit.
 *
 * COWFORK_LOG=error|warn|info|debug (1 means info) writes lines to standard
 * error. Without it only what is wrong with an option is said, at the start.
 * COWFORK_STATS=1 or - reports there at exit, any other value names a file for
 * JSON, in which %p stands for the process id. Programs report, their forked
 * children do not; a program that had no memory to manage reports only when it
 * is the one that cowfork-run started (COWFORK_STATS_PID).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compat.h"
#include "cowfork.h"
#include "preload.h"
#include "sys.h"

static int log_level;
static pid_t program;

static void write_line(void *arg, enum cow_log_level level, const char *text)
{
	char line[300];
	int n;

	(void)arg;
	if ((int)level > log_level)
		return;
	n = snprintf(line, sizeof(line), "cowfork: %s\n", text);
	/* not write(3): that is a cancellation point, and this holds the lock */
	(void)sys_write(STDERR_FILENO, line, (size_t)n);
}

static int wanted_level(const char *text)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };

	if (!text || !*text)
		return -1;
	if (!strcmp(text, "1"))
		return COW_LOG_INFO;
	for (int i = 0; i < 4; i++)
		if (!strcmp(text, names[i]))
			return i;
	write_line(NULL, COW_LOG_WARN, "COWFORK_LOG is none of error, warn, info, "
		   "debug: nothing is logged");
	return -1;
}

void preload_start(void)
{
	static int started;
	struct cow_options opts = { .size = sizeof(opts) };
	int before = errno;

	if (started || !environ)
		return;
	started = 1;
	log_level = COW_LOG_WARN;
	cow_set_log(write_line, NULL);
	(void)!cow_options_get(&opts);	/* reads the environment */
	log_level = wanted_level(secure_getenv("COWFORK_LOG"));
	program = getpid();
	errno = before;
}

__attribute__((constructor)) static void begin(void)
{
	preload_start();
	preload_real();
	preload_bind_malloc();
	preload_drop_sanitizers();
}

/* --- the report --------------------------------------------------------- */

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static void report_text(const struct cow_stats *s)
{
	dprintf(STDERR_FILENO,
		"cowfork: %llu forks: %llu found everything frozen, %llu froze, "
		"%llu refreshed, %llu native, %llu refused\n"
		"cowfork: fork %.3f ms mean, %.3f ms least; %llu freezes %.3f ms; "
		"%llu thaws %.3f ms; collapsing %.3f ms\n"
		"cowfork: %llu MiB owned, %llu MiB frozen, %llu of %llu tables huge\n",
		(unsigned long long)s->forks, (unsigned long long)s->forks_frozen,
		(unsigned long long)s->forks_freeze,
		(unsigned long long)s->forks_refresh,
		(unsigned long long)s->forks_native,
		(unsigned long long)s->forks_refused,
		ms(s->fork_ns_total) / (double)(s->forks ? s->forks : 1),
		ms(s->fork_ns_min), (unsigned long long)s->freezes,
		ms(s->freeze_ns_total), (unsigned long long)s->thaws,
		ms(s->thaw_ns_total), ms(s->collapse_ns_total),
		(unsigned long long)(s->bytes_owned >> 20),
		(unsigned long long)(s->bytes_frozen >> 20),
		(unsigned long long)s->tables_huge, (unsigned long long)s->tables);
	if (s->forks_in_place)
		dprintf(STDERR_FILENO,
			"cowfork: in place: %llu forks, %llu MiB armed; %llu faults, %llu MiB in "
			"%.3f ms\n", (unsigned long long)s->forks_in_place,
			(unsigned long long)(s->bytes_armed >> 20),
			(unsigned long long)s->pager_faults,
			(unsigned long long)(s->pager_bytes >> 20), ms(s->pager_ns));
	for (int i = 1; i < COW_REASON_COUNT; i++)
		if (s->native[i])
			dprintf(STDERR_FILENO, "cowfork: native %llu times: %s\n",
				(unsigned long long)s->native[i],
				cow_reason_string((enum cow_reason)i));
}

#define NUMBERS(X) \
	X(forks) X(forks_native) X(forks_frozen) X(forks_freeze) X(forks_refresh) \
	X(forks_refused) X(fork_ns_total) X(fork_ns_last) X(fork_ns_min) \
	X(freezes) X(freeze_ns_total) X(freeze_ns_last) X(thaws) X(thaw_ns_total) \
	X(regions) X(bytes_owned) X(bytes_frozen) X(bytes_inherited) \
	X(bytes_native) X(bytes_deferred) X(bytes_reserved) X(extents) X(tables) \
	X(tables_huge) X(collapse_ns_total) X(generation) X(generation_forks) \
	X(thaw_tables) X(thaw_hold_ns_max) X(bytes_adopted) X(adoptions) \
	X(adopt_ns_total) X(adopt_hold_ns_max) X(forks_in_place) X(bytes_armed) \
	X(pager_faults) X(pager_bytes) X(pager_ns) X(pager_killed)

static const char *reason(uint64_t why)
{
	return why ? cow_reason_string((enum cow_reason)why) : "";
}

/* Flat numbers and fixed sentences: nothing here needs escaping. */
static void report_json(int fd, const struct cow_stats *s)
{
	const char *comma = "";

	dprintf(fd, "{\"version\": \"%s\", \"pid\": %d", cow_version(), (int)program);
#define NUMBER(name) dprintf(fd, ", \"" #name "\": %llu", (unsigned long long)s->name);
	NUMBERS(NUMBER)
#undef NUMBER
	dprintf(fd, ", \"generation_live\": %lld, \"frozen_reason\": \"%s\", "
		"\"adopt_reason\": \"%s\", \"native\": {", (long long)s->generation_live,
		reason(s->frozen_reason), reason(s->adopt_reason));
	for (int i = 1; i < COW_REASON_COUNT; i++) {
		if (!s->native[i])
			continue;
		dprintf(fd, "%s\"%s\": %llu", comma,
			cow_reason_string((enum cow_reason)i),
			(unsigned long long)s->native[i]);
		comma = ", ";
	}
	dprintf(fd, "}}\n");
}

static void file_name(const char *pattern, char *name, size_t size)
{
	const char *mark = strstr(pattern, "%p");

	if (mark)
		snprintf(name, size, "%.*s%d%s", (int)(mark - pattern), pattern,
			 (int)program, mark + 2);
	else
		snprintf(name, size, "%s", pattern);
}

static int is_worth_it(const struct cow_stats *s)
{
	const char *started = secure_getenv("COWFORK_STATS_PID");

	if (started && atoi(started) == (int)program)
		return 1;
	for (int i = 1; i < COW_REASON_COUNT; i++)
		if (s->native[i])
			return 1;
	return s->bytes_reserved || s->forks_in_place;
}

static void report(const char *where)
{
	struct cow_stats stats = { .size = sizeof(stats) };
	char name[4096];
	int fd;

	if (cow_stats(&stats) < 0 || !is_worth_it(&stats))
		return;
	if (!strcmp(where, "1") || !strcmp(where, "-")) {
		report_text(&stats);
		return;
	}
	file_name(where, name, sizeof(name));
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) {
		dprintf(STDERR_FILENO, "cowfork: cannot write %s: %s\n", name,
			strerror(errno));
		return;
	}
	report_json(fd, &stats);
	close(fd);
}

/* What pthread_atfork(3) knows this object by: the runtime is linked without crtbeginS.o
 * (Makefile.am), which has it else. */
extern void *const __dso_handle __attribute__((weak, visibility("hidden")));
void *const __dso_handle = (void *)&__dso_handle;

/* A child that ends looks no further than at its number. */
__attribute__((destructor)) IN_CHILD static void end(void)
{
	const char *where = sys_getpid() == program ? secure_getenv("COWFORK_STATS") : NULL;

	if (where && *where && strcmp(where, "0"))
		report(where);
}
