/*
 * Each run is a process group of its own under a subreaper, so that children that
 * outlive their parent are awaited too, and a hang ends with all of it killed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-run.h"
#include "preload.h"

#define TIMED_OUT (-2)

volatile sig_atomic_t run_stopped;
enum cow_engine run_engine = COW_ENGINE_STORE;
unsigned long long run_forks, run_refreshed, run_thawed, run_adopted, run_in_place;

static struct transcript *out;	/* two: plain memory, store */
static int status_of[2], time_limit;

static void stop(int number)
{
	(void)number;
	run_stopped = 1;
}

int run_setup(void)
{
	struct sigaction action = { .sa_handler = stop };
	const struct rlimit none = { 0, 0 };
	sigset_t set;

	out = mmap(NULL, 2 * sizeof(*out), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (out == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return -errno;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	setrlimit(RLIMIT_CORE, &none);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);	/* for sigtimedwait() */
	sigprocmask(SIG_BLOCK, &set, NULL);
	preload_bind_malloc();
	diff_probe();
	return diff_file < 0 ? -EIO : 0;
}

void run_in_time(void)
{
	alarm((unsigned)time_limit + 2);
}

/* --- the inside --------------------------------------------------------- */

static void start(const struct program *p, struct transcript *transcript,
		  enum cow_engine engine)
{
	static struct world w;
	struct cow_options opts = { .size = sizeof(opts), .engine = engine,
				    .min_size = (size_t)p->min * PAGE,
				    .huge = (enum cow_huge)p->huge,
				    .adopt = (enum cow_adopt)p->adopt };
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	run_in_time();
	if (cow_options_set(&opts) < 0)
		_exit(9);
	w.program = p;
	w.out = transcript;
	process_run(&w);
	_exit(0);
}

/* --- the outside -------------------------------------------------------- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Until no process of the run is left. Its first one's status, or TIMED_OUT. */
static int await_all(pid_t first, double end)
{
	const struct timespec tick = { 0, 50000000 };
	int result = -1, killed = 0, status;
	sigset_t set;
	pid_t pid;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == first)
				result = status;
		if (pid < 0)
			return killed ? TIMED_OUT : result;
		if (!killed && (run_stopped || now() > end))
			killed = 1;
		if (killed)
			kill(-first, SIGKILL);
		sigtimedwait(&set, NULL, &tick);
	}
}

static int run_once(const struct program *p, int which, enum cow_engine engine)
{
	pid_t pid;

	memset(&out[which], 0, sizeof(out[which]));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		start(p, &out[which], engine);
	if (pid < 0)
		return -1;
	setpgid(pid, pid);
	return await_all(pid, now() + time_limit);
}

static int is_same(const struct record *a, const struct record *b)
{
	return a->state == b->state && a->result == b->result && a->hash == b->hash;
}

static int first_difference(const struct program *p)
{
	for (int i = 0; i < p->count; i++)
		if (!is_same(&out[0].op[i], &out[1].op[i]))
			return i;
	return -1;
}

static int differing_end(void)
{
	for (int i = 0; i < PROCS_MAX; i++)
		if (!is_same(&out[0].end[i], &out[1].end[i]))
			return i;
	return -1;
}

/* Plain memory with a touch that kills, or a result that nothing may give. */
static int is_broken(const struct program *p, const struct transcript *t, int status)
{
	if (status)
		return 1;
	for (int i = 0; i < p->count; i++)
		if (t->op[i].state == 1 || t->op[i].result == WRONG)
			return 1;
	return 0;
}

enum verdict run_program(const struct program *p, int seconds)
{
	time_limit = seconds;
	status_of[0] = run_once(p, 0, COW_ENGINE_OFF);
	if (!run_stopped)
		status_of[1] = run_once(p, 1, run_engine);
	run_forks += out[1].forks;
	run_refreshed += out[1].refreshed;
	run_thawed += out[1].thawed;
	run_adopted += out[1].adopted;
	run_in_place += out[1].in_place;
	if (run_stopped)
		return VERDICT_STOPPED;
	if (is_broken(p, &out[0], status_of[0]))
		return VERDICT_BROKEN;
	return status_of[0] == status_of[1] && first_difference(p) < 0 &&
	       differing_end() < 0 ? VERDICT_SAME : VERDICT_DIFFERS;
}

/* --- report ------------------------------------------------------------- */

static void print_record(FILE *to, const char *engine, const struct record *r)
{
	static const char *const states[] = { "not reached", "not survived", "" };

	fprintf(to, "    %-5s: %s", engine, states[r->state]);
	if (r->state == 2 && r->result == SKIPPED)
		fprintf(to, "nothing to do");
	else if (r->state == 2 && r->result == WRONG)
		fprintf(to, "wrong in itself");
	else if (r->state == 2)
		fprintf(to, "result %d", r->result);
	if (r->state == 2)
		fprintf(to, ", hash %016llx", (unsigned long long)r->hash);
	fputc('\n', to);
}

static void print_pair(FILE *to, const struct record *a, const struct record *b)
{
	print_record(to, "plain", a);
	print_record(to, "store", b);
}

void run_report(FILE *to, const struct program *p, int verbose)
{
	int first = first_difference(p), end = differing_end();

	for (int i = 0; i < p->count; i++) {
		if (!verbose && i != first && out[0].op[i].state != 1 &&
		    out[1].op[i].state != 1)
			continue;
		op_print(to, &p->op[i]);
		print_pair(to, &out[0].op[i], &out[1].op[i]);
	}
	if (first < 0 && end >= 0) {
		fprintf(to, "the end of process %d\n", end);
		print_pair(to, &out[0].end[end], &out[1].end[end]);
	}
	for (int i = 0; i < 2; i++)
		if (status_of[i] == TIMED_OUT)
			fprintf(to, "%s hung\n", i ? "store" : "plain memory");
		else if (status_of[i])
			fprintf(to, "%s: wait status %#x\n", i ? "store" : "plain memory",
				status_of[i]);
}
