/*
 * The C library's heap: blocks of malloc, made in the program's own arena or in that of
 * a thread that ends. Its system calls pass the library by; what the preload runtime does
 * about that, src/preload-malloc.c, is part of this program.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "diff-state.h"

/* --- one call, in a thread or here --------------------------------------- */

struct job {
	enum { JOB_FREE, JOB_REALLOC, JOB_ALLOCATE } kind;
	enum allocate how;
	void *at;		/* and what comes of it */
	size_t size;
};

static void *allocate(enum allocate how, size_t size)
{
	switch (how) {
	case ALLOCATE_CALLOC:
		return calloc(1, size);
	case ALLOCATE_ALIGNED:
		return aligned_alloc(PAGE, (size + PAGE - 1) & ~(PAGE - 1));
	default:
		return malloc(size);
	}
}

static void *work(void *arg)
{
	struct job *j = arg;

	if (j->kind == JOB_FREE)
		free(j->at);
	else if (j->kind == JOB_REALLOC)
		j->at = realloc(j->at, j->size);
	else
		j->at = allocate(j->how, j->size);
	return NULL;
}

/* 0, or an errno. */
static int run(struct job *j, int in_thread)
{
	pthread_t thread;
	int ret;

	if (!in_thread) {
		work(j);
	} else {
		ret = pthread_create(&thread, NULL, work, j);
		if (ret)
			return ret;
		pthread_join(thread, NULL);
	}
	return j->kind == JOB_FREE || j->at ? 0 : ENOMEM;
}

/* --- operations --------------------------------------------------------- */

/* No two pages the same. */
static void fill(struct block *b, size_t from, int value)
{
	memset(b->at + from, value, b->size - from);
	for (size_t i = (from + PAGE - 1) & ~(PAGE - 1); i < b->size; i += PAGE)
		b->at[i] = (unsigned char)(value + (int)(i / PAGE));
}

static int is_zero(const struct block *b)
{
	for (size_t i = 0; i < b->size; i++)
		if (b->at[i])
			return 0;
	return 1;
}

/* Of calloc'ed memory every second is not looked at now, so that it stays empty. */
int do_malloc(struct world *w, const struct op *op)
{
	struct block *b = block_of(w, op->v[0]);
	struct job j = { .kind = JOB_ALLOCATE, .size = (size_t)op->v[1],
			 .how = (enum allocate)((unsigned)op->v[2] % ALLOCATE_COUNT) };
	int ret;

	if (b->at || op->v[1] <= 0 || op->v[1] > BLOCK_MAX)
		return SKIPPED;
	ret = run(&j, op->v[3]);
	if (ret)
		return ret;
	*b = (struct block){ j.at, j.size };
	if (j.how != ALLOCATE_CALLOC)
		fill(b, 0, op->v[4]);
	else if (op->v[4] & 1 && !is_zero(b))
		return WRONG;
	return 0;
}

int do_realloc(struct world *w, const struct op *op)
{
	struct block *b = block_of(w, op->v[0]), kept = *b;
	struct job j = { .kind = JOB_REALLOC, .at = b->at, .size = (size_t)op->v[1] };
	int ret;

	if (!b->at || op->v[1] <= 0 || op->v[1] > BLOCK_MAX)
		return SKIPPED;
	ret = run(&j, op->v[2]);
	if (ret)
		return ret;
	kept = (struct block){ j.at, b->size < j.size ? b->size : j.size };
	w->fold = fold(w->fold, block_hash(&kept, op->v[3] & 1));
	*b = (struct block){ j.at, j.size };
	fill(b, kept.size, op->v[3]);
	return 0;
}

int do_free(struct world *w, const struct op *op)
{
	struct block *b = block_of(w, op->v[0]);
	struct job j = { .kind = JOB_FREE, .at = b->at };

	if (!b->at)
		return SKIPPED;
	*b = (struct block){ NULL, 0 };
	return run(&j, op->v[1]);
}

/* Some bytes in some of its pages. */
int do_fill(struct world *w, const struct op *op)
{
	struct block *b = block_of(w, op->v[0]);
	unsigned pages = (unsigned)(b->size / PAGE) + 1, count = (unsigned)op->v[2];
	unsigned value = (unsigned)op->v[4];

	if (!b->at || op->v[2] <= 0 || op->v[3] <= 0)
		return SKIPPED;
	for (unsigned i = 0; i < count && i < pages; i++) {
		unsigned page = ((unsigned)op->v[1] + i * (unsigned)op->v[3]) % pages;
		size_t at = page * PAGE + value % 64 * 8;

		if (at < b->size)
			memset(b->at + at, (int)(value + i),
			       b->size - at < 64 ? b->size - at : 64);
	}
	return 0;
}

/* Whether there was anything to give back is malloc's affair. */
int do_trim(struct world *w, const struct op *op)
{
	(void)w;
	malloc_trim((size_t)op->v[0]);
	return 0;
}
