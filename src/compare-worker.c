/*
 * The worker process: holds one engine's memory and does the jobs that come
 * over the socket until the coordinator closes it. It dies with the
 * coordinator, and prints nothing: what goes wrong is in the answer.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "compare.h"

double clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* --- answers ------------------------------------------------------------ */

void reply_add(struct reply *reply, unsigned part, enum metric metric, double value)
{
	if (reply->n < SAMPLES_MAX)
		reply->sample[reply->n++] = (struct sample){ part, metric, value };
}

int reply_fail(struct reply *reply, const char *fmt, ...)
{
	va_list ap;

	reply->status = STATUS_FAILED;
	va_start(ap, fmt);
	vsnprintf(reply->text, sizeof(reply->text), fmt, ap);
	va_end(ap);
	return -1;
}

int reply_wrong(struct reply *reply, const struct memory *m)
{
	reply->status = STATUS_WRONG_BYTE;
	reply->wrong = *m->wrong;
	return -1;
}

/* --- jobs --------------------------------------------------------------- */

static int do_check(struct bench *b, struct reply *reply)
{
	if (memory_check(&b->memory, b->memory.now) < 0)
		return reply_wrong(reply, &b->memory);
	return 0;
}

/* Memory is never given back unlooked at. */
int bench_free(struct bench *b, struct reply *reply)
{
	int ret;

	if (!b->memory.wrong)
		return 0;
	if (do_check(b, reply) < 0)
		return -1;
	ret = b->engine->destroy(b->memory.base, b->memory.size);
	if (ret < 0)
		return reply_fail(reply, "giving memory back: %s", strerror(-ret));
	memory_forget(&b->memory);
	return 0;
}

int bench_fill(struct bench *b, const struct job *job, struct reply *reply)
{
	const char *why = NULL;
	void *base = NULL;
	int ret;

	if (bench_free(b, reply) < 0)
		return -1;
	ret = b->engine->create(job->size, &base, &why);
	if (ret == 0)
		ret = memory_fill(&b->memory, base, job->size, job->seed);
	if (ret < 0)
		return reply_fail(reply, "memory: %s", why ? why : strerror(-ret));
	return 0;
}

static int do_prepare(struct bench *b, struct reply *reply)
{
	int ret = b->engine->prepare();

	if (ret < 0)
		return reply_fail(reply, "cow_prepare: %s", strerror(-ret));
	reply->huge = b->engine->huge_bytes ? b->engine->huge_bytes() : 0;
	return 0;
}

static void do_job(struct bench *b, const struct job *job, struct reply *reply)
{
	switch (job->op) {
	case OP_FILL: bench_fill(b, job, reply); break;
	case OP_PREPARE: do_prepare(b, reply); break;
	case OP_RUN: cases[job->cell.id].measure(b, job, reply); break;
	case OP_CHECK: do_check(b, reply); break;
	case OP_FREE: bench_free(b, reply); break;
	}
}

/* --- the process -------------------------------------------------------- */

static cpu_set_t allowed;

/* All workers and their children on one processor, the last that is allowed:
 * where a child lands, and whether that one sleeps, would weigh more in a fork
 * of 25 us than the engine does (a factor of two, measured). */
static void pin(void)
{
	cpu_set_t one;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return;
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		(void)sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

void worker_unpin(void)
{
	if (CPU_COUNT(&allowed))
		(void)sched_setaffinity(0, sizeof(allowed), &allowed);
}

static void answer(const struct reply *reply)
{
	size_t len = offsetof(struct reply, sample) + reply->n * sizeof(reply->sample[0]);

	while (send(WORKER_FD, reply, len, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			_exit(STATUS_FAILED);
}

static const struct engine *engine_named(const char *name)
{
	for (int i = 0; i < ENGINE_COUNT; i++)
		if (strcmp(engines[i].name, name) == 0)
			return &engines[i];
	return NULL;
}

int worker_main(const char *engine_name)
{
	static struct reply reply;
	struct bench b = { .engine = engine_named(engine_name), .pid = getpid() };
	struct job job;
	ssize_t len;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin();
	if (!b.engine || engine_begin(b.engine) < 0 || pipe(b.go) < 0)
		return STATUS_FAILED;
	while ((len = recv(WORKER_FD, &job, sizeof(job), 0)) != 0) {
		if (len < 0 && errno == EINTR)
			continue;
		if (len != (ssize_t)sizeof(job))
			return STATUS_FAILED;
		reply.status = STATUS_OK;
		reply.n = 0;
		reply.huge = 0;
		do_job(&b, &job, &reply);
		answer(&reply);
	}
	return STATUS_OK;
}
