/*
 * A worker's memory over time, as the coordinator sees it: that of a control
 * group in which the worker is alone, page tables and children included, where
 * root can make one (version 1, or 2 where the controller is handed down), else
 * what is used on the whole machine. Of the system only that group is changed,
 * and it goes with the worker; a signal that asks to end waits for that.
 *
 * SPDX-License-Identifier: MIT
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compare.h"

#define CURVES_MAX (ENGINE_COUNT * LIST_MAX)

static struct curve curves[CURVES_MAX];
static char group[200];			/* its directory; empty: none */
static const char *usage;		/* its file that tells the bytes */
static volatile sig_atomic_t signalled;

/* --- the control group --------------------------------------------------- */

static int has_memory(const char *root, const char **ret_usage)
{
	char path[200], line[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/memory.usage_in_bytes", root);
	*ret_usage = "memory.usage_in_bytes";
	if (access(path, R_OK) == 0)
		return 1;
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", root);
	*ret_usage = "memory.current";
	f = fopen(path, "re");
	if (f && !fgets(line, sizeof(line), f))
		line[0] = '\0';
	if (f)
		fclose(f);
	return strstr(line, "memory") != NULL;
}

static void remove_group(void)
{
	for (int i = 0; group[0] && rmdir(group) < 0 && i < 20; i++)
		usleep(50000);
	group[0] = '\0';
}

static int join(pid_t pid)
{
	char path[256];
	FILE *f;
	int ok;

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	f = fopen(path, "we");
	if (!f)
		return -1;
	ok = fprintf(f, "%d\n", (int)pid) > 0;
	return fclose(f) == 0 && ok ? 0 : -1;
}

static void make_group(pid_t pid)
{
	static const char *const roots[] = {
		"/sys/fs/cgroup/memory", "/sys/fs/cgroup", "/sys/fs/cgroup/unified",
	};

	for (size_t i = 0; i < sizeof(roots) / sizeof(roots[0]); i++) {
		if (!has_memory(roots[i], &usage))
			continue;
		snprintf(group, sizeof(group), "%s/cowfork-compare.%d", roots[i],
			 (int)getpid());
		if (mkdir(group, 0755) == 0 && join(pid) == 0)
			return;
		remove_group();
	}
}

void meter_close(void)
{
	remove_group();
}

/* --- signals that end the program ---------------------------------------- */

static void on_signal(int number)
{
	signalled = number;
}

static void handle(void (*handler)(int number))
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void end_if_signalled(void)
{
	if (signalled)
		die(STATUS_FAILED, "ended by a signal: %s", strsignal(signalled));
}

/* --- looking ------------------------------------------------------------- */

static uint64_t bytes_now(void)
{
	char path[256];

	if (!group[0])
		return machine_used();
	snprintf(path, sizeof(path), "%s/%s", group, usage);
	return file_number(path, NULL, 0);
}

static void look(void *arg)
{
	struct curve *c = arg;

	end_if_signalled();
	if (c->n == c->room) {
		c->room = c->room ? 2 * c->room : 256;
		c->point = realloc(c->point, c->room * sizeof(*c->point));
		if (!c->point)
			die(STATUS_FAILED, "out of memory for the results");
	}
	c->point[c->n++] = (struct point){ clock_us(), (double)bytes_now() };
}

/* Keep what was seen from begin to end, counted from begin; without a group
 * what was there before the worker is not its. */
static void cut(struct curve *c, double begin, double end, double base)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++)
		if (c->point[i].at_us >= begin && c->point[i].at_us <= end)
			c->point[n++] = (struct point){
				c->point[i].at_us - begin, c->point[i].bytes - base,
			};
	c->n = n;
}

static double first_fork(const struct reply *reply)
{
	for (uint32_t i = 0; i < reply->n; i++)
		if (reply->sample[i].metric == METRIC_AT)
			return reply->sample[i].value;
	return 0;
}

static void sum_up(const struct curve *c, struct reply *reply)
{
	double fork_at = first_fork(reply), before = 0, peak = 0, after = 0;

	for (size_t i = 0; i < c->n; i++) {
		after = c->point[i].bytes;
		if (c->point[i].at_us < fork_at)
			before = after;
		else if (after > peak)
			peak = after;
	}
	if (!peak || !before)
		return;
	reply_add(reply, SERVER_WHOLE, METRIC_MEMORY_BEFORE, before);
	reply_add(reply, SERVER_WHOLE, METRIC_MEMORY_PEAK, peak);
	reply_add(reply, SERVER_WHOLE, METRIC_MEMORY_AFTER, after);
	reply_add(reply, SERVER_WHOLE, METRIC_MEMORY_LEFT, after / before);
}

/* --- curves -------------------------------------------------------------- */

static struct curve *curve_get(enum engine_id engine, size_t size)
{
	for (size_t i = 0; i < CURVES_MAX; i++) {
		struct curve *c = &curves[i];

		if (c->size && (c->engine != engine || c->size != size))
			continue;
		c->engine = engine;
		c->size = size;
		return c;
	}
	die(STATUS_FAILED, "more sizes than there is room for");
}

const struct curve *meter_curve(enum engine_id engine, size_t size)
{
	for (size_t i = 0; i < CURVES_MAX; i++)
		if (curves[i].size == size && curves[i].engine == engine && curves[i].n)
			return &curves[i];
	return NULL;
}

const struct reply *meter_ask(struct worker *w, const struct job *job)
{
	static struct reply reply;
	struct curve *c = curve_get(w->engine, job->size);
	double base;

	worker_stop(w);
	handle(on_signal);
	worker_start(w);
	make_group(w->pid);
	base = group[0] ? 0 : (double)bytes_now();
	c->n = 0;
	c->cgroup = group[0] != '\0';
	reply = *worker_watch(w, job, look, c);
	cut(c, reply.begin, reply.end, base);
	sum_up(c, &reply);
	worker_stop(w);
	remove_group();
	handle(SIG_DFL);
	end_if_signalled();
	return &reply;
}
