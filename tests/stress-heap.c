/*
 * See stress-heap.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress-heap.h"

#define OFFERS 40

/* Blocks that nobody holds just now. */
static struct block offers[OFFERS];
static pthread_mutex_t market = PTHREAD_MUTEX_INITIALIZER;

/* --- what is in a block -------------------------------------------------- */

static unsigned char byte_at(const struct block *b, size_t i)
{
	return (unsigned char)((b->seed + (uint32_t)i) * 2654435761u >> 24);
}

static size_t step_in(const struct block *b)
{
	return b->size < 20000 ? 61 : b->size < 1 << 20 ? 1021 : 16411;
}

static void fill(struct block *b, struct random *r)
{
	b->seed = draw(r, UINT32_MAX);
	for (size_t i = 0; i < b->size; i += step_in(b))
		b->at[i] = byte_at(b, i);
}

/* step: of what it was filled with */
static int is_whole(const struct block *b, size_t step, const char *who)
{
	for (size_t i = 0; i < b->size; i += step) {
		if (b->at[i] == byte_at(b, i))
			continue;
		printf("%s: byte %zu of a block of %zu at %p is %#x, not %#x\n", who, i, b->size,
		       (void *)b->at, b->at[i], byte_at(b, i));
		return 0;
	}
	return 1;
}

static int is_zero(const struct block *b, const char *who)
{
	for (size_t i = 0; i < b->size; i++) {
		if (!b->at[i])
			continue;
		printf("%s: byte %zu of %zu from calloc at %p is %#x\n", who, i, b->size,
		       (void *)b->at, b->at[i]);
		return 0;
	}
	return 1;
}

int heap_check(const struct heap *h, const char *who)
{
	for (int i = 0; i < HEAP_BLOCKS; i++)
		if (!is_whole(&h->blocks[i], step_in(&h->blocks[i]), who))
			return 1;
	return 0;
}

/* --- steps -------------------------------------------------------------- */

/* Most are small; from 128 KiB on malloc maps them. */
static size_t some_size(struct random *r)
{
	switch (draw(r, 8)) {
	case 0: return 1 + draw(r, 1500000);
	case 1: return 1 + draw(r, 250000);
	case 2:
	case 3: return 1 + draw(r, 20000);
	default: return 1 + draw(r, 800);
	}
}

/* calloc'ed memory is not always looked at, so that it can stay empty. */
static int allocate(struct block *b, struct random *r, const char *who)
{
	size_t size = some_size(r);
	int how = (int)draw(r, 3), wrong = 0;

	b->at = how == 0 ? malloc(size) : how == 1 ? calloc(1, size) :
		aligned_alloc(PAGE, (size + PAGE - 1) & ~(PAGE - 1));
	b->size = size;
	errno = 0;
	if (!b->at)
		die("malloc");
	if (how == 1 && draw(r, 2))
		wrong = !is_zero(b, who);
	fill(b, r);
	return wrong;
}

static int resize(struct block *b, struct random *r, const char *who)
{
	struct block kept = *b;
	size_t size = draw(r, 3) ? some_size(r) : b->size + b->size / 2;

	kept.at = realloc(b->at, size);
	errno = 0;
	if (!kept.at)
		die("realloc");
	kept.size = size < b->size ? size : b->size;
	if (!is_whole(&kept, step_in(b), who))
		return 1;
	*b = (struct block){ kept.at, size, 0 };
	fill(b, r);
	return 0;
}

static void change_hands(struct block *b, struct random *r)
{
	unsigned i = draw(r, OFFERS);
	struct block mine = *b;

	pthread_mutex_lock(&market);
	*b = offers[i];
	offers[i] = mine;
	pthread_mutex_unlock(&market);
}

int heap_step(struct heap *h, const char *who)
{
	struct random *r = &h->random;
	struct block *b = &h->blocks[draw(r, HEAP_BLOCKS)];

	if (!b->at)
		return allocate(b, r, who);
	if (!is_whole(b, step_in(b), who))
		return 1;
	switch (draw(r, 6)) {
	case 0:
	case 1:
		free(b->at);
		*b = (struct block){ 0 };
		return 0;
	case 2:
	case 3:
		return resize(b, r, who);
	case 4:
		if (!h->alone)
			change_hands(b, r);
		return 0;
	default:
		fill(b, r);
		return 0;
	}
}

/* Not all are looked at: who touches what is moved just now waits for that. */
int heap_churn(struct heap *h, const char *who)
{
	struct random *r = &h->random;
	struct block *b = &h->blocks[draw(r, 4)];

	if (draw(r, 2) && !is_whole(b, step_in(b), who))
		return 1;
	free(b->at);
	b->size = (1100 + 200 * draw(r, 3)) << 10;
	b->at = malloc(b->size);
	errno = 0;
	if (!b->at)
		die("malloc");
	fill(b, r);
	return 0;
}

/* --- the end ------------------------------------------------------------ */

void heap_leave(struct heap *h)
{
	for (int i = 0; i < HEAP_BLOCKS; i++) {
		change_hands(&h->blocks[i], &h->random);
		free(h->blocks[i].at);
		h->blocks[i] = (struct block){ 0 };
	}
}

int heap_end(void)
{
	int wrong = 0;

	for (int i = 0; i < OFFERS; i++) {
		wrong |= !is_whole(&offers[i], step_in(&offers[i]), "at the end");
		free(offers[i].at);
		offers[i] = (struct block){ 0 };
	}
	return wrong;
}
