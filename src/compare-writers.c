/*
 * The writers of a server: threads that each store one word in a random page at
 * a steady rate. The schedule is open: a write that comes late does not delay
 * when the next is due, and its latency counts from when it was due, so a stall
 * weighs as much as there was to be done in it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

#include "compare-server.h"

#define SET_OUT_US 20000.0	/* until all threads are there */
#define ODD 0x9e3779b97f4a7c15u

/* --- writes ------------------------------------------------------------- */

size_t writers_page(const struct server *s, unsigned thread, uint64_t k)
{
	const struct memory *m = &s->bench->memory;
	uint64_t x = memory_pattern(m->seed + (thread + 1) * ODD, k, 0, 0);

	return (size_t)((x >> 32) * m->pages >> 32);
}

/* Released, so that no later write of the thread can be seen without it. */
static void write_one(const struct writer *w, uint64_t k)
{
	const struct memory *m = &w->server->bench->memory;
	size_t page = writers_page(w->server, w->nth, k);
	uint64_t *word = (uint64_t *)(void *)(m->base + page * m->page_size);

	__atomic_store_n(word + MEMORY_FREE_WORD + w->nth, k, __ATOMIC_RELEASE);
}

/* --- tallies ------------------------------------------------------------ */

struct tally *writers_tally(const struct server *s, unsigned thread, unsigned phase)
{
	return &s->side->tally[thread * (2 * s->load->forks + 1) + phase];
}

/* Of a child's life is what was due while it lived, and what was not done when
 * that began. */
static unsigned phase_of(const struct side *side, double due)
{
	unsigned phase = __atomic_load_n(&side->phase, __ATOMIC_ACQUIRE);

	return phase && phase % 2 == 0 && due < side->start[phase] ? phase - 1 : phase;
}

static void note(const struct writer *w, double due, double started, double done)
{
	const struct server *s = w->server;
	struct tally *tally = writers_tally(s, w->nth, phase_of(s->side, due));
	uint64_t store = (uint64_t)((done - started) * 1e3);

	histogram_add(&tally->latency, (uint64_t)((done - due) * 1e3));
	if (store > tally->store_max)
		tally->store_max = store;
}

/* --- threads ------------------------------------------------------------ */

static int stopped(const struct side *side)
{
	return __atomic_load_n(&side->stop, __ATOMIC_ACQUIRE);
}

/* Whether there is anything to be done then. */
static int wait_until(const struct side *side, double due)
{
	struct timespec t = { .tv_sec = (time_t)(due / 1e6) };

	t.tv_nsec = (long)((due - (double)t.tv_sec * 1e6) * 1e3);
	while (!stopped(side) && clock_us() < due)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	return !stopped(side);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	const struct side *side = w->server->side;
	double each = 1e6 / w->server->load->rate, started;
	double first = side->begin + each * w->nth / w->server->load->threads;

	prctl(PR_SET_TIMERSLACK, 1);
	for (uint64_t k = 1;; k++) {
		double due = first + each * (double)(k - 1);

		if (!wait_until(side, due))
			return NULL;
		started = clock_us();
		write_one(w, k);
		note(w, due, started, clock_us());
		__atomic_store_n(&w->done, k, __ATOMIC_RELEASE);
	}
}

int writers_start(struct server *s)
{
	s->side->begin = s->side->start[0] = clock_us() + SET_OUT_US;
	for (unsigned i = 0; i < s->load->threads; i++) {
		struct writer *w = &s->side->writer[i];
		int ret;

		w->server = s;
		w->nth = i;
		ret = pthread_create(&w->thread, NULL, writer_main, w);
		if (ret) {
			w->server = NULL;
			return -ret;
		}
	}
	return 0;
}

void writers_stop(struct server *s)
{
	__atomic_store_n(&s->side->stop, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < s->load->threads; i++)
		if (s->side->writer[i].server)
			pthread_join(s->side->writer[i].thread, NULL);
}

double writers_phase(struct server *s)
{
	unsigned next = s->side->phase + 1;

	s->side->start[next] = clock_us();
	__atomic_store_n(&s->side->phase, next, __ATOMIC_RELEASE);
	return s->side->start[next];
}

uint64_t writers_done(const struct server *s)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < s->load->threads; i++)
		sum += __atomic_load_n(&s->side->writer[i].done, __ATOMIC_ACQUIRE);
	return sum;
}
