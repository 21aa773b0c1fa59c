/*
 * Threads that write to memory while it is adopted: each adds one to a word of its own
 * in a random unit and to its own count for that unit, at a rate or without a pause. A
 * write that was lost stays missing in the sum. The time from the end of a write, or of
 * the pause after it, to the end of the next is what a writer can have stood still: all
 * of it counts, the scheduler's part too, so the longest from before the mark stands
 * beside the one from then on.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "compare-heap.h"

struct writer {
	struct heap_writers *all;
	pthread_t thread;
	uint32_t *count;	/* by unit */
	double longest[2];	/* us; before the mark, and from then on */
	uint64_t done;
} __attribute__((aligned(64)));

struct heap_writers {
	struct heap *heap;
	double pause;		/* us from write to write; 0: none */
	int marked, stop;
	size_t size;		/* of this mapping */
	struct writer writer[HEAP_WRITERS];
	uint32_t count[];
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/* When that is over. */
static double sleep_until(double due)
{
	double left;

	while ((left = due - clock_us()) > 0) {
		struct timespec t = { .tv_sec = (time_t)(left / 1e6) };

		t.tv_nsec = (long)((left - (double)t.tv_sec * 1e6) * 1e3);
		nanosleep(&t, NULL);
	}
	return clock_us();
}

static void write_one(struct writer *w, size_t unit, double since)
{
	const struct heap_writers *all = w->all;
	volatile uint64_t *at = heap_word(all->heap, unit, 1 + (size_t)(w - all->writer));
	double *longest, us;

	*at = *at + 1;
	w->count[unit]++;
	us = clock_us() - since;
	longest = &w->longest[__atomic_load_n(&all->marked, __ATOMIC_ACQUIRE)];
	*longest = us > *longest ? us : *longest;
	__atomic_store_n(&w->done, w->done + 1, __ATOMIC_RELEASE);
}

static void *write_on(void *arg)
{
	struct writer *w = arg;
	struct heap_writers *all = w->all;
	uint64_t state = memory_pattern(all->heap->bench->memory.seed,
					(uint64_t)(w - all->writer), 1, 0) | 1;
	double begin = clock_us(), since = begin;

	prctl(PR_SET_TIMERSLACK, 1);
	while (!__atomic_load_n(&all->stop, __ATOMIC_ACQUIRE)) {
		uint64_t random = next_random(&state) >> 32;

		write_one(w, (size_t)(random * all->heap->units >> 32), since);
		since = all->pause > 0 ? sleep_until(begin + (double)w->done * all->pause)
			: clock_us();
	}
	return NULL;
}

/* Until each has begun and ended a write. */
static void wait_for_all(const struct heap_writers *all)
{
	for (int i = 0; i < HEAP_WRITERS; i++) {
		const uint64_t *done = &all->writer[i].done;
		uint64_t before = __atomic_load_n(done, __ATOMIC_ACQUIRE);

		while (__atomic_load_n(done, __ATOMIC_ACQUIRE) < before + 2)
			sched_yield();
	}
}

static void stop(struct heap_writers *all)
{
	__atomic_store_n(&all->stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < HEAP_WRITERS; i++)
		if (all->writer[i].all)
			pthread_join(all->writer[i].thread, NULL);
}

int heap_writers_start(struct heap *h, unsigned rate, struct heap_writers **ret)
{
	size_t size = sizeof(**ret) + HEAP_WRITERS * h->units * sizeof(uint32_t);
	struct heap_writers *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED |
					MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (all == MAP_FAILED)
		return -errno;
	all->heap = h;
	all->pause = rate ? 1e6 / rate : 0;
	all->size = size;
	for (int i = 0; i < HEAP_WRITERS; i++) {
		struct writer *w = &all->writer[i];
		int error;

		w->all = all;
		w->count = all->count + (size_t)i * h->units;
		error = pthread_create(&w->thread, NULL, write_on, w);
		if (error) {
			w->all = NULL;
			stop(all);
			munmap(all, size);
			return -error;
		}
	}
	wait_for_all(all);
	*ret = all;
	return 0;
}

void heap_writers_mark(struct heap_writers *all)
{
	__atomic_store_n(&all->marked, 1, __ATOMIC_RELEASE);
}

static int look(const struct heap_writers *all)
{
	const struct heap *h = all->heap;

	for (size_t i = 0; i < HEAP_WRITERS; i++)
		for (size_t unit = 0; unit < h->units; unit++) {
			uint64_t found = *heap_word(h, unit, 1 + i);

			if (found != all->writer[i].count[unit])
				return heap_wrong(h, unit, 1 + i,
						  all->writer[i].count[unit], found);
		}
	return 0;
}

int heap_writers_stop(struct heap_writers *all, double *ret_before_us, double *ret_us,
		      double *ret_writes)
{
	int ret;

	wait_for_all(all);
	stop(all);
	*ret_before_us = *ret_us = *ret_writes = 0;
	for (int i = 0; i < HEAP_WRITERS; i++) {
		const struct writer *w = &all->writer[i];

		*ret_before_us = w->longest[0] > *ret_before_us ? w->longest[0] : *ret_before_us;
		*ret_us = w->longest[1] > *ret_us ? w->longest[1] : *ret_us;
		*ret_writes += (double)w->done;
	}
	ret = look(all);
	munmap(all, all->size);
	return ret;
}
