/*
 * Threads that write to memory while it is adopted: each adds one to a word of its own
 * in a random unit and to its own count for that unit, again and again. A write that
 * was lost stays missing in the sum. The time from the end of a write to the end of
 * the next is what a writer can have stood still: all of it counts, the scheduler's
 * part too, so the longest from before the mark stands beside the one from then on.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

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

static void *write_on(void *arg)
{
	struct writer *w = arg;
	struct heap_writers *all = w->all;
	const struct heap *h = all->heap;
	size_t word = 1 + (size_t)(w - all->writer);
	uint64_t state = memory_pattern(h->bench->memory.seed, word, 1, 0) | 1;
	double last = clock_us(), now;

	while (!__atomic_load_n(&all->stop, __ATOMIC_ACQUIRE)) {
		size_t unit = (size_t)((next_random(&state) >> 32) * h->units >> 32);
		volatile uint64_t *at = heap_word(h, unit, word);
		double *longest;

		*at = *at + 1;
		w->count[unit]++;
		now = clock_us();
		longest = &w->longest[__atomic_load_n(&all->marked, __ATOMIC_ACQUIRE)];
		if (now - last > *longest)
			*longest = now - last;
		last = now;
		__atomic_store_n(&w->done, w->done + 1, __ATOMIC_RELEASE);
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

int heap_writers_start(struct heap *h, struct heap_writers **ret)
{
	size_t size = sizeof(**ret) + HEAP_WRITERS * h->units * sizeof(uint32_t);
	struct heap_writers *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED |
					MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (all == MAP_FAILED)
		return -errno;
	all->heap = h;
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
