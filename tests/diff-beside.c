/*
 * What the thread does, round by round: write a slot and look whether what it wrote
 * the round before is there; map and unmap; or use the C library's heap.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-beside.h"

#define STACK_SIZE (128ul << 10)
#define BLOCKS_OWN 6

/* --- writer ------------------------------------------------------------- */

/* before: what was written the last time, -1: nothing. */
static int write_slot(struct slot *s, int value, int before)
{
	int wrong = 0;

	for (int i = 0; i < s->pages; i++) {
		unsigned char *at = s->at + (size_t)i * PAGE + 64;

		if (!may_write(&s->page[i]))
			continue;
		if (before >= 0)
			wrong |= at[0] != (unsigned char)before ||
				 at[255] != (unsigned char)before;
		memset(at, value, 256);
	}
	return wrong;
}

/* --- mapper ------------------------------------------------------------- */

static int map_and_unmap(int round)
{
	size_t len = (size_t)(1 + round % 90) * PAGE;
	unsigned char *p = cow_mmap(NULL, len, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int wrong = 0;

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < len; i += PAGE) {
		wrong |= p[i];
		p[i] = (unsigned char)(round | 1);
	}
	if (round & 1 && cow_madvise(p, len, MADV_DONTNEED) == 0)
		wrong |= p[0] | p[len - PAGE];
	return wrong | (cow_munmap(p, len) < 0);
}

/* --- allocator ---------------------------------------------------------- */

struct own {
	unsigned char *at;
	size_t size;
	unsigned char value;
};

static int is_filled(const unsigned char *p, size_t size, unsigned char value)
{
	for (size_t i = 0; i < size; i += 509)
		if (p[i] != value)
			return 0;
	return !size || p[size - 1] == value;
}

/* Sizes on both sides of the one from which malloc maps. */
static size_t size_in(unsigned round)
{
	unsigned h = round * 2654435761u;

	return 1 + (h >> 8) % (h & 15 ? 20000u : 300000u);
}

static int allocate(struct own *o, unsigned round)
{
	size_t size = size_in(round), keep = o->size < size ? o->size : size;
	int wrong = o->at && !is_filled(o->at, o->size, o->value);
	unsigned char *p;

	if (round % 3) {
		free(o->at);
		p = round % 3 == 1 ? malloc(size) : calloc(1, size);
		wrong |= p && round % 3 == 2 && !is_filled(p, size, 0);
	} else {
		p = realloc(o->at, size);
		wrong |= p && o->at && !is_filled(p, keep, o->value);
	}
	if (!p)
		abort();
	o->at = p;
	o->size = size;
	o->value = (unsigned char)(round | 1);
	memset(p, o->value, size);
	return wrong;
}

/* --- the thread --------------------------------------------------------- */

static void *work(void *arg)
{
	struct own own[BLOCKS_OWN] = { 0 };
	struct beside *b = arg;

	for (int i = 0; !atomic_load(&b->stop); i++) {
		switch (b->kind) {
		case BESIDE_WRITER:
			b->wrong |= write_slot(b->slot, i, i - 1);
			break;
		case BESIDE_MAPPER:
			b->wrong |= map_and_unmap(i);
			break;
		default:
			b->wrong |= allocate(&own[i % BLOCKS_OWN], (unsigned)i);
			break;
		}
		atomic_fetch_add(&b->rounds, 1);
	}
	for (int i = 0; i < BLOCKS_OWN; i++)
		free(own[i].at);
	return NULL;
}

int beside_start(struct beside *b)
{
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	ret = pthread_create(&b->thread, &attr, work, b);
	pthread_attr_destroy(&attr);
	while (!ret && !atomic_load(&b->rounds))
		usleep(20);
	return ret;
}

/* How many rounds it made is not for anybody to know: so it is written again. */
int beside_end(struct beside *b)
{
	atomic_store(&b->stop, 1);
	pthread_join(b->thread, NULL);
	if (b->kind == BESIDE_WRITER)
		b->wrong |= write_slot(b->slot, 99, atomic_load(&b->rounds) - 1);
	return b->wrong;
}
