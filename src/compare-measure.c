/*
 * The cases as a worker runs them. A cycle is, for every engine alike: the
 * fork, what child and parent do, exit, wait, and then the parent reading once
 * more the pages that the row is about, its refaults included.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "compare.h"

#define CHILD_VERSION 0x8000

struct cycle;
typedef int child_fn(const struct cycle *c);
typedef int parent_fn(struct cycle *c, pid_t pid);

struct cycle {
	struct bench *b;
	const struct job *job;
	struct reply *reply;
	struct list list;
	unsigned part;		/* row that the samples belong to */
	unsigned child;		/* number of the next child */
	int wrote;		/* the parent did, under a new version */
	child_fn *body;		/* of the next child */
};

static struct cycle cycle_of(struct bench *b, const struct job *job, struct reply *reply)
{
	return (struct cycle){
		.b = b, .job = job, .reply = reply,
		.list = memory_list(&b->memory, job->cell.order, job->cell.permille),
	};
}

/* --- what a child does -------------------------------------------------- */

static int child_leave(const struct cycle *c)
{
	(void)c;
	return 0;
}

static int wait_for_go(const struct cycle *c)
{
	char byte;

	while (read(c->b->go[0], &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}

/* While it sleeps, nobody may change what it sees: neither the parent that
 * writes now, nor a sibling that writes these pages too. */
static int child_sleep(const struct cycle *c)
{
	const struct memory *m = &c->b->memory;
	uint16_t version = (uint16_t)(CHILD_VERSION | c->child);
	struct list own = memory_list(m, ORDER_RANDOM, 1);

	if (!c->job->check)
		return wait_for_go(c);
	if (memory_write(m, own, version) < 0)
		return -1;
	wait_for_go(c);
	return memory_check_own(m, own, version);
}

static int child_read(const struct cycle *c)
{
	const struct memory *m = &c->b->memory;

	if (memory_read(m, c->list) < 0)
		return -1;
	return c->job->check ? memory_check(m, m->now) : 0;
}

static int child_write(const struct cycle *c)
{
	const struct memory *m = &c->b->memory;

	if (memory_write(m, c->list, CHILD_VERSION) < 0)
		return -1;
	return c->job->check ? memory_check_own(m, c->list, CHILD_VERSION) : 0;
}

static int child_look(const struct cycle *c)
{
	return memory_check(&c->b->memory, c->b->memory.now);
}

/* The parent has written many versions since: this child knows the old ones. */
static int child_grow_old(const struct cycle *c)
{
	const struct memory *m = &c->b->memory;

	wait_for_go(c);
	return memory_check(m, m->then);
}

/* --- starting and ending one -------------------------------------------- */

static int child_run(void *arg)
{
	const struct cycle *c = arg;

	return c->body(c);
}

static pid_t start_child(struct cycle *c, child_fn *body)
{
	pid_t pid;

	c->body = body;
	pid = child_start(c->b, c->reply, child_run, c);
	c->child += pid > 0;
	return pid;
}

static int end_child(const struct cycle *c, pid_t pid)
{
	return child_end(c->b, c->reply, pid);
}

/* One more child, after the timed ones, that looks at everything. */
static int look_once(struct cycle *c)
{
	pid_t pid = start_child(c, child_look);

	return pid < 0 ? -1 : end_child(c, pid);
}

static int let_go(struct cycle *c, unsigned children)
{
	for (unsigned i = 0; i < children; i++)
		if (write(c->b->go[1], "", 1) != 1)
			return reply_fail(c->reply, "pipe: %s", strerror(errno));
	return 0;
}

/* --- what the parent does meanwhile ------------------------------------- */

static int parent_wait(struct cycle *c, pid_t pid)
{
	(void)c;
	(void)pid;
	return 0;
}

static int parent_let_go(struct cycle *c, pid_t pid)
{
	(void)pid;
	return let_go(c, 1);
}

static int parent_write(struct cycle *c, pid_t pid)
{
	struct memory *m = &c->b->memory;

	(void)pid;
	c->wrote = 1;
	if (memory_write(m, c->list, memory_next(m)) < 0)
		return reply_wrong(c->reply, m);
	return let_go(c, 1);
}

static int parent_look(struct cycle *c, pid_t pid)
{
	char path[64], line[128];
	double kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && kib < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPTE: %lf", &kib) != 1)
			kib = -1;
	if (f)
		fclose(f);
	if (kib < 0)
		return reply_fail(c->reply, "%s: no VmPTE", path);
	reply_add(c->reply, c->part, METRIC_VMPTE, kib);
	return let_go(c, 1);
}

/* --- one cycle of one child --------------------------------------------- */

static int one_child(struct cycle *c, child_fn *child, parent_fn *parent)
{
	double start = clock_us(), forked, reaped, again;
	struct memory *m = &c->b->memory;
	pid_t pid = start_child(c, child);

	forked = clock_us();
	if (pid < 0 || parent(c, pid) < 0 || end_child(c, pid) < 0)
		return -1;
	reaped = clock_us();
	if (c->wrote)
		memory_commit(m, c->list);
	again = clock_us();
	if (memory_read_versions(m, c->list) < 0)
		return reply_wrong(c->reply, m);
	reply_add(c->reply, c->part, METRIC_CALL, forked - start);
	reply_add(c->reply, c->part, METRIC_CHILD, reaped - start);
	reply_add(c->reply, c->part, METRIC_CYCLE, clock_us() - again + reaped - start);
	return 0;
}

static int repeat(struct bench *b, const struct job *job, struct reply *reply,
		  child_fn *child, parent_fn *parent)
{
	struct cycle c = cycle_of(b, job, reply);

	for (unsigned i = 0; i < job->reps; i++)
		if (one_child(&c, child, parent) < 0)
			return -1;
	return 0;
}

int measure_fork(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_sleep, parent_let_go);
}

/* Of no pages: the child leaves at once, unless it is to check. */
int measure_cycle(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_read, parent_wait);
}

int measure_vmpte(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_sleep, parent_look);
}

int measure_child_read(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_read, parent_wait);
}

int measure_child_write(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_write, parent_wait);
}

int measure_parent_write(struct bench *b, const struct job *job, struct reply *reply)
{
	return repeat(b, job, reply, child_sleep, parent_write);
}

int measure_first(struct bench *b, const struct job *job, struct reply *reply)
{
	struct cycle c = cycle_of(b, job, reply);

	for (unsigned i = 0; i < FIRST_FORKS; i++) {
		c.part = i > 0;
		if (one_child(&c, child_leave, parent_wait) < 0)
			return -1;
	}
	return look_once(&c);
}

/* --- many children ------------------------------------------------------ */

static int start_children(struct cycle *c, pid_t *pid)
{
	for (unsigned i = 0; i < c->job->cell.children; i++) {
		double start = clock_us();

		pid[i] = start_child(c, child_sleep);
		if (pid[i] < 0)
			return -1;
		reply_add(c->reply, 0, METRIC_CALL, clock_us() - start);
	}
	return 0;
}

/* Those that check do so in turns: where a child's memory is a copy of its own, one has to fit. */
static int end_children(struct cycle *c, const pid_t *pid)
{
	int in_turns = c->job->check;

	if (!in_turns && let_go(c, c->job->cell.children) < 0)
		return -1;
	for (unsigned i = 0; i < c->job->cell.children; i++) {
		if (in_turns && let_go(c, 1) < 0)
			return -1;
		if (end_child(c, in_turns ? -1 : pid[i]) < 0)	/* any */
			return -1;
	}
	return 0;
}

int measure_children(struct bench *b, const struct job *job, struct reply *reply)
{
	struct cycle c = cycle_of(b, job, reply);
	pid_t pid[FORKS_MAX];

	for (unsigned i = 0; i < job->reps; i++) {
		double start = clock_us();

		c.child = 0;
		if (start_children(&c, pid) < 0 || end_children(&c, pid) < 0)
			return -1;
		reply_add(reply, 0, METRIC_CHILD, clock_us() - start);
		reply_add(reply, 0, METRIC_CYCLE, clock_us() - start);
	}
	return 0;
}

/* The cycle is here, as in the reviewer's program, the time of all forks. */
int measure_review(struct bench *b, const struct job *job, struct reply *reply)
{
	struct cycle c = cycle_of(b, job, reply);
	pid_t pid[FORKS_MAX];
	double start = clock_us();

	if (start_children(&c, pid) < 0)
		return -1;
	reply_add(reply, 0, METRIC_CYCLE, clock_us() - start);
	return end_children(&c, pid) < 0 ? -1 : look_once(&c);
}

/* --- an old child ------------------------------------------------------- */

/* Read all, write other pages than before, fork; the nth fork is a row. */
static int age(struct cycle *c, unsigned nth)
{
	struct memory *m = &c->b->memory;
	struct list all = memory_list(m, ORDER_LINEAR, 1000);
	struct list some = memory_slice(m, memory_list(m, ORDER_RANDOM, 1), nth);
	double start = clock_us(), fork_at, forked, reaped;
	pid_t pid;

	if (memory_read(m, all) < 0 || memory_write(m, some, memory_next(m)) < 0)
		return reply_wrong(c->reply, m);
	fork_at = clock_us();
	pid = start_child(c, child_leave);
	forked = clock_us();
	if (pid < 0 || end_child(c, pid) < 0)
		return -1;
	reaped = clock_us();
	memory_commit(m, some);
	reply_add(c->reply, nth, METRIC_CALL, forked - fork_at);
	reply_add(c->reply, nth, METRIC_CHILD, reaped - fork_at);
	reply_add(c->reply, nth, METRIC_CYCLE, reaped - start);
	return 0;
}

int measure_old_child(struct bench *b, const struct job *job, struct reply *reply)
{
	struct cycle c = cycle_of(b, job, reply);
	pid_t old;

	memory_snapshot(&b->memory);
	old = start_child(&c, child_grow_old);
	if (old < 0)
		return -1;
	for (unsigned nth = 0; nth < OLD_CHILD_FORKS; nth++)
		if (age(&c, nth) < 0)
			return -1;
	return let_go(&c, 1) < 0 ? -1 : end_child(&c, old);
}
