/*
 * The case `tax`: what an engine's memory costs a program that never forks.
 * New memory is touched page by page, read from end to end and written from
 * end to end, then given back; the sums prove that it held what was written.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <unistd.h>

#include "compare.h"

#define PASSES 2		/* of each kind of streaming */

enum part { PART_TOUCH, PART_READ, PART_WRITE };

struct stream {
	uint64_t *word;
	size_t words, step;	/* step: words in a page */
};

static void add(struct reply *reply, enum part part, double start)
{
	double us = clock_us() - start;

	reply_add(reply, part, METRIC_CYCLE, us);
}

static uint64_t touch(const struct stream *s, uint64_t seed)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->words; i += s->step)
		sum += s->word[i] = memory_pattern(seed, i / s->step, 0, 0);
	return sum;
}

static uint64_t read_all(const struct stream *s)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->words; i++)
		sum += s->word[i];
	return sum;
}

static void write_all(const struct stream *s, uint64_t value)
{
	for (size_t i = 0; i < s->words; i++)
		s->word[i] = value;
	__asm__ volatile("" ::: "memory");
}

static int compare_sums(struct reply *reply, uint64_t expected, uint64_t found)
{
	if (expected == found)
		return 0;
	reply->status = STATUS_WRONG_BYTE;
	reply->wrong = (struct wrong){ .expected = expected, .found = found };
	return -1;
}

static int one_round(const struct stream *s, uint64_t seed, struct reply *reply)
{
	double start = clock_us();
	uint64_t sum = touch(s, seed);

	add(reply, PART_TOUCH, start);
	for (int i = 0; i < PASSES; i++) {
		start = clock_us();
		if (compare_sums(reply, sum, read_all(s)) < 0)
			return -1;
		add(reply, PART_READ, start);
	}
	for (int i = 0; i < PASSES; i++) {
		start = clock_us();
		write_all(s, seed + (uint64_t)i);
		add(reply, PART_WRITE, start);
	}
	return compare_sums(reply, s->words * (seed + PASSES - 1), read_all(s));
}

int measure_tax(struct bench *b, const struct job *job, struct reply *reply)
{
	const char *why = NULL;
	void *base;
	int ret = b->engine->create(job->size, &base, &why);
	struct stream s = { .words = job->size / sizeof(uint64_t) };

	if (ret < 0)
		return reply_fail(reply, "memory: %s", why ? why : strerror(-ret));
	s.word = base;
	s.step = (size_t)sysconf(_SC_PAGESIZE) / sizeof(uint64_t);
	ret = one_round(&s, job->seed, reply);
	if (b->engine->destroy(base, job->size) < 0 && ret == 0)
		ret = reply_fail(reply, "giving memory back failed");
	return ret;
}
