/*
 * Is what a child of a server sees the memory of one moment? One pass adds up
 * all words of each page and copies the writers' aside. The greatest of a
 * thread's tells how many of its writes happened, and replaying these must give
 * each of the others. The replay goes on from where the last check ended, so that
 * it costs the same for every fork and every engine: next to nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compare-server.h"

static size_t per_array(const struct server *s)
{
	return s->bench->memory.pages * s->load->threads;
}

int snapshot_open(struct server *s)
{
	size_t tallies = s->load->threads * (2 * s->load->forks + 1);
	size_t head = sizeof(*s->side) + tallies * sizeof(s->side->tally[0]);
	void *p;

	s->side_size = head + 2 * per_array(s) * sizeof(*s->expected);
	p = mmap(NULL, s->side_size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	s->side = p;
	s->expected = (uint32_t *)(void *)((unsigned char *)p + head);
	s->found = s->expected + per_array(s);
	return 0;
}

void snapshot_close(struct server *s)
{
	if (s->side)
		munmap(s->side, s->side_size);
	s->side = NULL;
}

/* --- what is wrong ------------------------------------------------------ */

static int wrong(const struct server *s, uint64_t page, uint64_t word, uint64_t expected,
		 uint64_t found)
{
	*s->bench->memory.wrong = (struct wrong){
		.page = page, .word = word, .expected = expected, .found = found,
	};
	return -1;
}

static int wrong_write(const struct server *s, unsigned thread, uint64_t k,
		       uint64_t expected, uint64_t found)
{
	return wrong(s, writers_page(s, thread, k), MEMORY_FREE_WORD + thread, expected,
		     found);
}

/* A page whose sum is wrong: a word of the pattern, or any other, which has to
 * be zero. */
static int wrong_page(const struct server *s, size_t page, const uint64_t *word,
		      uint64_t sum)
{
	const struct memory *m = &s->bench->memory;
	size_t last = m->page_size / sizeof(*word) - 1;

	if (memory_check(m, m->now) < 0)
		return -1;
	for (size_t i = MEMORY_FREE_WORD + s->load->threads; i < last; i++)
		if (word[i])
			return wrong(s, page, i, 0, word[i]);
	return wrong(s, page, 0, memory_page_sum(m, page), sum);
}

/* --- one pass ----------------------------------------------------------- */

static uint64_t sum_of(const uint64_t *word, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += word[i];
	return sum;
}

static int read_page(struct server *s, size_t page)
{
	const struct memory *m = &s->bench->memory;
	const uint64_t *word = (uint64_t *)(void *)(m->base + page * m->page_size);
	uint64_t sum = sum_of(word, m->page_size / sizeof(*word));
	uint32_t *found = s->found + page * s->load->threads;

	for (unsigned i = 0; i < s->load->threads; i++) {
		uint64_t k = word[MEMORY_FREE_WORD + i];

		found[i] = (uint32_t)k;
		sum -= k;
		if (k > s->side->writer[i].seen)
			s->side->writer[i].seen = k;
	}
	return sum == memory_page_sum(m, page) ? 0 : wrong_page(s, page, word, sum);
}

static int read_all(struct server *s)
{
	for (unsigned i = 0; i < s->load->threads; i++)
		s->side->writer[i].seen = 0;
	for (size_t page = 0; page < s->bench->memory.pages; page++)
		if (read_page(s, page) < 0)
			return -1;
	return 0;
}

/* --- the moment --------------------------------------------------------- */

/* A number that no write has had yet is no reason to replay up to it. */
static int replay(struct server *s, struct writer *w)
{
	uint64_t most = __atomic_load_n(&w->done, __ATOMIC_ACQUIRE) + 1;

	if (w->seen < w->least)
		return wrong_write(s, w->nth, w->least, w->least, w->seen);
	if (w->seen > most)
		return wrong_write(s, w->nth, w->seen, most, w->seen);
	for (uint64_t k = w->replayed + 1; k <= w->seen; k++)
		s->expected[writers_page(s, w->nth, k) * s->load->threads + w->nth] =
			(uint32_t)k;
	w->replayed = w->seen;
	return 0;
}

int snapshot_check(struct server *s)
{
	if (read_all(s) < 0)
		return -1;
	for (unsigned i = 0; i < s->load->threads; i++)
		if (replay(s, &s->side->writer[i]) < 0)
			return -1;
	if (memcmp(s->expected, s->found, per_array(s) * sizeof(*s->found)) == 0)
		return 0;
	for (size_t i = 0; i < per_array(s); i++)
		if (s->expected[i] != s->found[i])
			return wrong(s, i / s->load->threads,
				     MEMORY_FREE_WORD + i % s->load->threads,
				     s->expected[i], s->found[i]);
	return 0;
}

int snapshot_check_most(const struct server *s)
{
	for (unsigned i = 0; i < s->load->threads; i++) {
		const struct writer *w = &s->side->writer[i];

		if (w->seen > w->most)
			return wrong_write(s, i, w->seen, w->most, w->seen);
	}
	return 0;
}
