/*
 * The case `server`: a model of an in-memory server that writes snapshots.
 * Threads write all the while; the main thread forks now and then, and each
 * child reads all memory, finds it to be that of one moment, and exits. Then the
 * load goes on for a while, in which whatever an engine has put off shows.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "compare-server.h"

static void sleep_until(double at)
{
	double left;

	while ((left = at - clock_us()) > 0) {
		struct timespec t = { .tv_sec = (time_t)(left / 1e6) };

		t.tv_nsec = (long)((left - (double)t.tv_sec * 1e6) * 1e3);
		nanosleep(&t, NULL);
	}
}

static double processor_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
		(double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* --- results ------------------------------------------------------------ */

static void add(struct server *s, unsigned part, enum metric metric, double value)
{
	reply_add(s->reply, part, metric, value);
}

static void add_writes(struct server *s, unsigned part, double us, uint64_t done)
{
	double due = us / 1e6 * s->load->rate * s->load->threads;

	add(s, part, METRIC_WRITES_DUE, due);
	add(s, part, METRIC_WRITES_DONE, (double)done);
	add(s, part, METRIC_WRITES_SHARE, (double)done / due);
}

/* Of all threads, in phases from, from + 2, ... */
static void add_latencies(struct server *s, unsigned part, enum metric metric,
			  unsigned from, unsigned phases)
{
	static const double q[LATENCY_MAX] = { 0.5, 0.9, 0.99, 0.999 };
	struct tally all = { 0 };

	for (unsigned i = 0; i < s->load->threads; i++)
		for (unsigned n = 0; n < phases; n++) {
			const struct tally *t = writers_tally(s, i, from + 2 * n);

			histogram_merge(&all.latency, &t->latency);
			if (t->store_max > all.store_max)
				all.store_max = t->store_max;
		}
	if (!all.latency.n)
		return;
	for (int i = 0; i < LATENCY_MAX; i++)
		add(s, part, metric + i, histogram_quantile(&all.latency, q[i]) / 1e3);
	add(s, part, metric + LATENCY_MAX, (double)all.latency.max / 1e3);
	add(s, part, metric + LATENCY_STORE_MAX, (double)all.store_max / 1e3);
}

static void report(struct server *s)
{
	unsigned forks = s->load->forks;

	add_latencies(s, 0, METRIC_REST, 0, 1);
	for (unsigned nth = 1; nth <= forks; nth++) {
		add_latencies(s, nth, METRIC_DURING, 2 * nth - 1, 1);
		add_latencies(s, nth, METRIC_REST, 2 * nth, 1);
	}
	add_latencies(s, SERVER_WHOLE, METRIC_DURING, 1, forks);
	add_latencies(s, SERVER_WHOLE, METRIC_REST, 2, forks);
}

/* --- forks -------------------------------------------------------------- */

static int child_look(void *arg)
{
	return snapshot_check(arg);
}

/* Around the call: what is done before it is in the child's memory; beyond what
 * is done after it, only a write that was just under way can be. */
static pid_t fork_one(struct server *s, double *ret_us)
{
	struct writer *w = s->side->writer;
	double start;
	pid_t pid;

	for (unsigned i = 0; i < s->load->threads; i++)
		w[i].least = __atomic_load_n(&w[i].done, __ATOMIC_ACQUIRE);
	start = clock_us();
	pid = child_start(s->bench, s->reply, child_look, s);
	*ret_us = clock_us() - start;
	for (unsigned i = 0; i < s->load->threads; i++)
		w[i].most = __atomic_load_n(&w[i].done, __ATOMIC_ACQUIRE) + 1;
	return pid;
}

static int snapshot(struct server *s, unsigned nth)
{
	double start = writers_phase(s), fork_us, end;
	pid_t pid = fork_one(s, &fork_us);

	if (pid < 0 || child_end(s->bench, s->reply, pid) < 0)
		return -1;
	end = writers_phase(s);
	if (snapshot_check_most(s) < 0) {
		s->bench->memory.wrong->in_child = 1;
		return reply_wrong(s->reply, &s->bench->memory);
	}
	for (int whole = 0; whole < 2; whole++) {
		add(s, whole ? SERVER_WHOLE : nth, METRIC_CALL, fork_us);
		add(s, whole ? SERVER_WHOLE : nth, METRIC_CHILD, end - start);
	}
	add(s, nth, METRIC_AT, start - s->side->begin);
	sleep_until(end + (nth < s->load->forks ? s->load->gap_us : s->load->after_us));
	return 0;
}

/* --- the whole ---------------------------------------------------------- */

static void add_thaws(struct server *s)
{
	const struct engine *engine = s->bench->engine;
	double us, hold_us;
	unsigned n = engine->thaws ? engine->thaws(&us, &hold_us) : 0;

	if (!n)
		return;
	add(s, SERVER_WHOLE, METRIC_THAW, us / n);
	add(s, SERVER_WHOLE, METRIC_HOLD, hold_us);
}

static int put_under_load(struct server *s)
{
	double begin = s->side->begin, processor, since = begin;
	uint64_t done = 0;

	sleep_until(begin);
	processor = processor_us();
	sleep_until(begin + s->load->before_us);
	for (unsigned nth = 0; nth <= s->load->forks; nth++) {
		uint64_t before = done;

		if (nth && snapshot(s, nth) < 0)
			return -1;
		done = writers_done(s);
		s->reply->end = clock_us();
		add_writes(s, nth, s->reply->end - since, done - before);
		since = s->reply->end;
	}
	s->reply->begin = begin;
	add_writes(s, SERVER_WHOLE, since - begin, done);
	add(s, SERVER_WHOLE, METRIC_CPU, processor_us() - processor);
	add_thaws(s);
	return 0;
}

/* Nobody writes any more: memory is exactly that of the last write. */
static int check_own(struct server *s)
{
	for (unsigned i = 0; i < s->load->threads; i++)
		s->side->writer[i].least = s->side->writer[i].most =
			s->side->writer[i].done;
	if (snapshot_check(s) < 0 || snapshot_check_most(s) < 0)
		return reply_wrong(s->reply, &s->bench->memory);
	return 0;
}

static int serve(struct server *s)
{
	int ret = writers_start(s);

	if (ret < 0)
		reply_fail(s->reply, "threads: %s", strerror(-ret));
	else
		ret = put_under_load(s);
	writers_stop(s);
	if (ret < 0 || check_own(s) < 0)
		return -1;
	report(s);
	return 0;
}

int measure_server(struct bench *b, const struct job *job, struct reply *reply)
{
	struct server s = { .bench = b, .load = &job->cell.load, .reply = reply };
	int ret;

	worker_unpin();
	if (bench_fill(b, job, reply) < 0)
		return -1;
	ret = snapshot_open(&s);
	if (ret < 0)
		return reply_fail(reply, "memory: %s", strerror(-ret));
	ret = serve(&s);
	snapshot_close(&s);
	return ret < 0 ? -1 : bench_free(b, reply);
}
