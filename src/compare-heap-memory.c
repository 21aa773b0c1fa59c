/*
 * Memory as programs have it: where it comes from, what stands in it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compare-heap.h"

#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)

/* As a program does it whose allocator bypasses the C library. */
static void *map_raw(size_t size)
{
	long at = syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);

	return at == -1 ? NULL : (void *)at;
}

const struct heap_kind heap_kinds[HEAP_KINDS] = {
	{ "brk 1K", 1024, malloc, 0, 1 },
	{ "malloc 1M", MIB, malloc, 0, 0 },
	{ "malloc whole", 0, malloc, 0, 0 },
	{ "arena 1K", 1024, malloc, 1, 0 },
	{ "raw mmap", 0, map_raw, 0, 0 },
};

/* --- what stands in it --------------------------------------------------- */

uint64_t *heap_word(const struct heap *h, size_t unit, size_t word)
{
	size_t per_block = h->block_size / h->unit;
	unsigned char *at = h->block[unit / per_block] + unit % per_block * h->unit;

	return (uint64_t *)(void *)at + word;
}

int heap_wrong(const struct heap *h, size_t unit, size_t word, uint64_t expected,
	       uint64_t found)
{
	*h->bench->memory.wrong = (struct wrong){
		.page = unit, .word = word, .expected = expected, .found = found,
	};
	return -1;
}

static uint64_t pattern(const struct heap *h, size_t unit, int last)
{
	return memory_pattern(h->bench->memory.seed, unit, last ? 2 : 0, 0);
}

static size_t last_word(const struct heap *h)
{
	return h->unit / sizeof(uint64_t) - 1;
}

static void fill_block(const struct heap *h, size_t block)
{
	size_t per_block = h->block_size / h->unit;

	for (size_t unit = block * per_block; unit < (block + 1) * per_block; unit++) {
		uint64_t *word = heap_word(h, unit, 0);

		memset(word + 1, 0, HEAP_WRITERS * sizeof(*word));
		word[0] = pattern(h, unit, 0);
		word[last_word(h)] = pattern(h, unit, 1);
	}
}

int heap_look(void *heap)
{
	const struct heap *h = heap;

	for (size_t unit = 0; unit < h->units; unit++)
		for (int last = 0; last < 2; last++) {
			size_t word = last ? last_word(h) : 0;
			uint64_t found = *heap_word(h, unit, word);

			if (found != pattern(h, unit, last))
				return heap_wrong(h, unit, word, pattern(h, unit, last),
						  found);
		}
	return 0;
}

int heap_check(struct heap *h)
{
	pid_t pid = child_start(h->bench, h->reply, heap_look, h);

	if (pid < 0 || child_end(h->bench, h->reply, pid) < 0)
		return -1;
	return heap_look(h) < 0 ? reply_wrong(h->reply, &h->bench->memory) : 0;
}

/* --- where it comes from -------------------------------------------------- */

static void *fill(void *heap)
{
	struct heap *h = heap;

	for (size_t i = 0; i < h->blocks; i++) {
		h->block[i] = h->kind->get(h->block_size);
		if (!h->block[i]) {
			h->error = ENOMEM;
			return NULL;
		}
		fill_block(h, i);
	}
	return NULL;
}

static int fill_by_thread(struct heap *h)
{
	pthread_t thread;
	int ret = pthread_create(&thread, NULL, fill, h);

	return ret ? ret : pthread_join(thread, NULL);
}

static int in_brk(const void *at)
{
	extern const char end;	/* of the program's data */

	return at > (const void *)&end && at < sbrk(0);
}

/* Each block as malloc counts it: with the header of a chunk, or of a mapping. */
static void set_counts(struct heap *h, size_t size)
{
	size_t head = h->kind->block < MIB ? 16 : PAGE;

	h->block_size = h->kind->block ? h->kind->block : size;
	h->blocks = h->kind->block ? size / (h->kind->block + head) : 1;
	h->unit = h->block_size < PAGE ? h->block_size : PAGE;
	h->units = h->blocks * (h->block_size / h->unit);
}

int heap_open(struct heap *h, size_t size, uint64_t seed)
{
	int ret = memory_fill(&h->bench->memory, NULL, 0, seed);

	set_counts(h, size);
	if (ret == 0)
		h->block = mmap(NULL, h->blocks * sizeof(*h->block), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ret < 0 || h->block == MAP_FAILED)
		return reply_fail(h->reply, "memory: %s", strerror(ret ? -ret : errno));
	if (h->kind->thread)
		ret = fill_by_thread(h);
	else
		fill(h);
	if (ret || h->error)
		return reply_fail(h->reply, "memory: %s", strerror(ret ? ret : h->error));
	if (in_brk(h->block[h->blocks - 1]) != h->kind->brk)
		return reply_fail(h->reply, "malloc gives no such memory here: another "
				  "allocator, or GLIBC_TUNABLES?");
	return 0;
}
