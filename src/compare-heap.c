/*
 * The cases of memory that exists before cowfork hears of it: forks of it, how fast it
 * is adopted, and what so many forks cost from the first one on, adoption included.
 * Each runs in a new process, as what was adopted stays so.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compare-heap.h"

#define FORKS_US 200000.0	/* all forks of a row take about as long */
#define FORKS_MIN 10
#define FORKS_MOST 100
#define BEFORE_US 2500000.0	/* writers alone, but for a third busy thread; and longer
				 * than it takes until free memory goes to the host */

const unsigned heap_forks[HEAP_FORKS] = { 1, 10, 100, 1000 };

const char *heap_part(enum case_id id, unsigned part, char *buf, size_t size)
{
	if (id == CASE_HEAP)
		snprintf(buf, size, "%s", heap_kinds[part].name);
	else if (id == CASE_HEAP_ADOPT && part)
		snprintf(buf, size, part == HEAP_BUSY ? "%d busy writers" : "%d writers",
			 HEAP_WRITERS);
	else if (id == CASE_HEAP_ADOPT)
		snprintf(buf, size, "alone");
	else
		snprintf(buf, size, heap_forks[part] == 1 ? "%u fork" : "%u forks",
			 heap_forks[part]);
	return buf;
}

/* --- what all need -------------------------------------------------------- */

/* A virtual machine gives free memory back to its host, huge pages first, 2 s after some
 * was freed (mm/page_reporting.c), and to get that again costs several times what the
 * copy does. So as much as will be needed is in use until just before, and where the
 * copy is what is measured, for longer than that. */
static int fill_warm(struct heap *h, const struct job *job, size_t warm)
{
	h->warm = mmap(NULL, warm, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (h->warm == MAP_FAILED)
		return reply_fail(h->reply, "memory: %s", strerror(errno));
	h->warm_size = warm;
	(void)madvise(h->warm, warm, MADV_HUGEPAGE);
	(void)madvise(h->warm, warm, MADV_DONTFORK);
	for (size_t i = 0; i < warm; i += 4096)
		*(volatile unsigned char *)(h->warm + i) = 1;
	return heap_open(h, job->size, job->seed);
}

static void free_warm(struct heap *h)
{
	if (h->warm_size)
		munmap(h->warm, h->warm_size);
	h->warm_size = 0;
}

/* copies: how often memory will be held beside the first time. */
static int set_up(struct heap *h, const struct job *job, unsigned copies)
{
	const struct adopting *adopting = h->bench->engine->adopting;
	int ret = adopting ? adopting->start(job->size) : 0;

	if (ret < 0)
		return reply_fail(h->reply, "cow_options_set: %s", strerror(-ret));
	if (h->bench->engine != &engines[ENGINE_FLOOR])
		return fill_warm(h, job, job->size / 8 + copies * job->size);
	ret = memory_fill(&h->bench->memory, NULL, 0, job->seed);
	return ret < 0 ? reply_fail(h->reply, "memory: %s", strerror(-ret)) : 0;
}

static void add_adopted(const struct heap *h)
{
	const struct adopting *adopting = h->bench->engine->adopting;
	struct adopted a = { 0 };

	if (!adopting)
		return;
	adopting->look(&a);
	reply_add(h->reply, 0, METRIC_ADOPTED, a.bytes);
	reply_add(h->reply, 0, METRIC_REASON, a.reason);
	if (a.bytes > 0 && a.us > 0)
		reply_add(h->reply, 0, METRIC_RATE, a.bytes / (1u << 30) / (a.us / 1e6));
}

static int leave(void *arg)
{
	(void)arg;
	return 0;
}

static int cycles(struct heap *h, unsigned n, double *ret_us)
{
	double start = clock_us();

	for (unsigned i = 0; i < n; i++) {
		pid_t pid = child_start(h->bench, h->reply, leave, NULL);

		if (pid < 0 || child_end(h->bench, h->reply, pid) < 0)
			return -1;
	}
	*ret_us = clock_us() - start;
	return 0;
}

/* --- forks of a kind of memory --------------------------------------------- */

/* Of what was added from there on only these metrics count. */
static void keep(struct reply *reply, uint32_t from, unsigned metric_bits)
{
	uint32_t n = from;

	for (uint32_t i = from; i < reply->n; i++)
		if (metric_bits & 1u << reply->sample[i].metric)
			reply->sample[n++] = reply->sample[i];
	reply->n = n;
}

/* The call while the child sleeps, and the whole while it does not. */
static int forks(struct heap *h, const struct job *job, unsigned reps)
{
	struct job some = *job;
	uint32_t from = h->reply->n;

	some.reps = reps;
	if (measure_fork(h->bench, &some, h->reply) < 0)
		return -1;
	keep(h->reply, from, 1u << METRIC_CALL);
	from = h->reply->n;
	if (measure_cycle(h->bench, &some, h->reply) < 0)
		return -1;
	keep(h->reply, from, 1u << METRIC_CHILD | 1u << METRIC_CYCLE);
	return 0;
}

/* The first fork adopts; the second tells how many more there is time for. */
int measure_heap(struct bench *b, const struct job *job, struct reply *reply)
{
	struct heap h = { b, &heap_kinds[job->cell.part], reply, NULL, 0, 0, 0, 0, 0, NULL, 0 };
	double first, second;
	unsigned reps;

	if (set_up(&h, job, 1) < 0)
		return -1;
	free_warm(&h);
	if (cycles(&h, 1, &first) < 0 || cycles(&h, 1, &second) < 0)
		return -1;
	reply_add(reply, 0, METRIC_FIRST, first);
	reps = second * FORKS_MOST < FORKS_US / 2 ? FORKS_MOST
		: second * FORKS_MIN < FORKS_US / 2 ? (unsigned)(FORKS_US / 2 / second)
		: FORKS_MIN;
	if (forks(&h, job, reps) < 0)
		return -1;
	add_adopted(&h);
	return heap_check(&h);
}

/* --- how fast -------------------------------------------------------------- */

/* What it refuses to do is done at no speed at all; why stands beside it. */
static int adopt(struct heap *h)
{
	double start = clock_us(), us;
	struct adopted a = { 0 };
	int ret = h->bench->engine->adopting->now();

	us = clock_us() - start;
	h->bench->engine->adopting->look(&a);
	reply_add(h->reply, 0, METRIC_ADOPTED, a.bytes);
	reply_add(h->reply, 0, METRIC_REASON, a.reason);
	reply_add(h->reply, 0, METRIC_ERROR, -ret);
	reply_add(h->reply, 0, METRIC_RATE, a.bytes / (1u << 30) / (us / 1e6));
	if (ret < 0 || a.bytes <= 0)
		return -1;
	reply_add(h->reply, 0, METRIC_CALL, us);
	reply_add(h->reply, 0, METRIC_HOLD, a.hold_us);
	return 0;
}

static void be_busy(double us)
{
	for (double until = clock_us() + us; clock_us() < until;)
		;
}

static int adopt_beside_writers(struct heap *h, unsigned rate)
{
	double before_us, us, writes;
	struct heap_writers *w;
	int ret, adopted;

	worker_unpin();
	ret = heap_writers_start(h, rate, &w);
	if (ret < 0)
		return reply_fail(h->reply, "threads: %s", strerror(-ret));
	be_busy(BEFORE_US);
	free_warm(h);
	heap_writers_mark(w);
	adopted = adopt(h);
	if (heap_writers_stop(w, &before_us, &us, &writes) < 0)
		return reply_wrong(h->reply, &h->bench->memory);
	reply_add(h->reply, 0, METRIC_WRITES_DONE, writes);
	reply_add(h->reply, 0, METRIC_STALL_BEFORE, before_us);
	if (adopted == 0)
		reply_add(h->reply, 0, METRIC_STALL, us);
	return 0;
}

int measure_heap_adopt(struct bench *b, const struct job *job, struct reply *reply)
{
	struct heap h = { b, &heap_kinds[0], reply, NULL, 0, 0, 0, 0, 0, NULL, 0 };

	/* writers may copy all once more */
	if (set_up(&h, job, job->cell.part ? 2 : 1) < 0)
		return -1;
	if (!job->cell.part) {
		be_busy(BEFORE_US);
		free_warm(&h);
		adopt(&h);
	} else if (adopt_beside_writers(&h, job->cell.load.rate) < 0) {
		return -1;
	}
	return heap_check(&h);
}

/* --- so many forks --------------------------------------------------------- */

int measure_heap_forks(struct bench *b, const struct job *job, struct reply *reply)
{
	struct heap h = { b, &heap_kinds[0], reply, NULL, 0, 0, 0, 0, 0, NULL, 0 };
	double us;

	if (set_up(&h, job, 1) < 0)
		return -1;
	free_warm(&h);
	if (cycles(&h, heap_forks[job->cell.part], &us) < 0)
		return -1;
	reply_add(reply, 0, METRIC_CYCLE, us);
	add_adopted(&h);
	return heap_check(&h);
}
