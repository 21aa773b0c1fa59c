/*
 * The coordinator's side of a worker: start it (this program again, through
 * /proc/self/exe, so with an address space of its own), have jobs done, end it.
 * Whatever a worker finds wrong ends the program here, with engine and case.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compare.h"

#define LOOK_MS 50

extern char **environ;

static struct worker workers[ENGINE_COUNT];

/* --- start and end ------------------------------------------------------ */

static void stop_all(void)
{
	for (int i = 0; i < ENGINE_COUNT; i++)
		if (workers[i].pid > 0)
			kill(workers[i].pid, SIGKILL);
	for (int i = 0; i < ENGINE_COUNT; i++)
		if (workers[i].pid > 0)
			waitpid(workers[i].pid, NULL, 0);
	meter_close();
}

/* The preload runtime would put cowfork under the engines without it. */
static void clean_environment(void)
{
	const char *preload = getenv("LD_PRELOAD");

	if (preload && strstr(preload, "libcowfork-preload"))
		unsetenv("LD_PRELOAD");
}

static int spawn(struct worker *w, int fd)
{
	char option[64];
	char name[] = "cowfork-compare";
	char *argv[] = { name, option, NULL };
	posix_spawn_file_actions_t actions;
	int ret;

	snprintf(option, sizeof(option), WORKER_OPTION "%s", engines[w->engine].name);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fd, WORKER_FD);
	ret = posix_spawn(&w->pid, "/proc/self/exe", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return ret;
}

void worker_start(struct worker *w)
{
	static int registered;
	int fd[2], ret;

	if (w->pid)
		return;
	if (!registered++) {
		clean_environment();
		atexit(stop_all);
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
		die(STATUS_FAILED, "socketpair: %s", strerror(errno));
	ret = spawn(w, fd[1]);
	if (ret) {
		w->pid = 0;
		die(STATUS_FAILED, "/proc/self/exe cannot be started again: %s", strerror(ret));
	}
	close(fd[1]);
	w->fd = fd[0];
}

/* A closed socket ends a worker. */
void worker_stop(struct worker *w)
{
	pid_t pid = w->pid;

	if (!pid)
		return;
	close(w->fd);
	w->pid = 0;
	w->filled = 0;
	waitpid(pid, NULL, 0);
}

struct worker *worker_get(enum engine_id id)
{
	workers[id].engine = id;
	return &workers[id];
}

/* --- ask ---------------------------------------------------------------- */

static const char *cell_text(const struct cell *cell, char *buf, size_t size)
{
	char detail[64];

	int told = cases[cell->id].flags & (CASE_MATRIX | CASE_PARTS);

	cell_detail(cell, cell->part, detail, sizeof(detail));
	snprintf(buf, size, "case %s%s%s", cases[cell->id].name, told ? " " : "",
		 told ? detail : "");
	return buf;
}

/* What the worker was about; wrong bytes that a job only comes upon belong to
 * the case that ran before it. */
static const char *where(const struct worker *w, const struct job *job, int wrong)
{
	static char text[256];
	char size[32], cell[128];
	const char *name = engines[w->engine].name;

	size_string(job->size, size, sizeof(size));
	if (job->op == OP_RUN)
		snprintf(text, sizeof(text), "engine %s, %s, %s", name, size,
			 cell_text(&job->cell, cell, sizeof(cell)));
	else if (wrong || job->op == OP_CHECK || job->op == OP_FREE)
		snprintf(text, sizeof(text), "engine %s, %s, after %s", name, size,
			 cell_text(&w->last, cell, sizeof(cell)));
	else
		snprintf(text, sizeof(text), "engine %s, %s, filling memory", name, size);
	return text;
}

static void lost(struct worker *w, const struct job *job)
{
	int status = 0;
	pid_t pid = w->pid;

	kill(pid, SIGKILL);
	w->pid = 0;
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		die(STATUS_FAILED, "%s: the worker was killed: %s%s", where(w, job, 0),
		    strsignal(WTERMSIG(status)),
		    WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
	die(STATUS_FAILED, "%s: the worker ended with status %d", where(w, job, 0),
	    WEXITSTATUS(status));
}

static void refuse(const struct worker *w, const struct job *job, const struct reply *reply)
{
	const struct wrong *wrong = &reply->wrong;

	if (reply->status == STATUS_FAILED)
		die(STATUS_FAILED, "%s: %s", where(w, job, 0), reply->text);
	if (job->cell.id == CASE_TAX && job->op == OP_RUN)
		die(STATUS_WRONG_BYTE, "WRONG CONTENT: %s: the sum of all words: "
		    "expected %#" PRIx64 ", found %#" PRIx64, where(w, job, 1),
		    wrong->expected, wrong->found);
	die(STATUS_WRONG_BYTE, "WRONG BYTE: %s: in the %s, page %" PRIu64 " word %" PRIu64
	    ": expected %#" PRIx64 ", found %#" PRIx64, where(w, job, 1),
	    wrong->in_child ? "child" : "parent", wrong->page, wrong->word,
	    wrong->expected, wrong->found);
}

static ssize_t receive(const struct worker *w, struct reply *reply,
		       void (*look)(void *arg), void *arg)
{
	struct pollfd fd = { .fd = w->fd, .events = POLLIN };
	ssize_t len;

	while (look && poll(&fd, 1, LOOK_MS) <= 0)
		look(arg);
	do
		len = recv(w->fd, reply, sizeof(*reply), 0);
	while (len < 0 && errno == EINTR);
	return len;
}

const struct reply *worker_watch(struct worker *w, const struct job *job,
				 void (*look)(void *arg), void *arg)
{
	static struct reply reply;
	ssize_t len;

	worker_start(w);
	len = send(w->fd, job, sizeof(*job), MSG_NOSIGNAL);
	if (len >= 0)
		len = receive(w, &reply, look, arg);
	if (len < (ssize_t)offsetof(struct reply, sample))
		lost(w, job);
	if (reply.status != STATUS_OK)
		refuse(w, job, &reply);
	if (job->op == OP_RUN)
		w->last = job->cell;
	return &reply;
}

const struct reply *worker_ask(struct worker *w, const struct job *job)
{
	return worker_watch(w, job, NULL, NULL);
}
