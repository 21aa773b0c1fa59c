/*
 * A heap that threads use hard while the process forks: each child finds every block
 * as it was at the fork, goes on using the heap, and leaves the parent's alone. Run
 * with whatever allocator is preloaded, by preload-programs.sh and programs-long.sh.
 *
 * usage: heap-threads THREADS FORKS MIB
 *
 * SPDX-License-Identifier: MIT
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCKS = 400, THREADS_MAX = 16 };

struct block {
	unsigned char *at;
	size_t size;
	uint32_t seed;
};

/* What a thread holds; whole whenever the lock is free. */
struct heap {
	pthread_mutex_t lock;
	struct block blocks[BLOCKS];
	uint32_t random;
	size_t mean;
};

static struct heap heaps[THREADS_MAX];
static atomic_int stop;

static uint32_t next(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static unsigned char byte_at(const struct block *b, size_t i)
{
	return (unsigned char)((b->seed + i) * 2654435761u >> 24);
}

static void fill(struct block *b)
{
	for (size_t i = 0; i < b->size; i += 509)
		b->at[i] = byte_at(b, i);
}

static int is_whole(const struct block *b)
{
	for (size_t i = 0; i < b->size; i += 509)
		if (b->at[i] != byte_at(b, i))
			return 0;
	return 1;
}

/* One step: a block goes, grows, moves or comes. */
static int step(struct heap *h)
{
	struct block *b = &h->blocks[next(&h->random) % BLOCKS];
	size_t size = 1 + next(&h->random) % (2 * h->mean);
	int how = next(&h->random) % 4;

	if (b->at && !is_whole(b))
		return 0;
	if (how == 0 && b->at) {
		unsigned char *p = realloc(b->at, size);
		size_t kept = size < b->size ? size : b->size;

		if (!p)
			return 1;
		b->at = p;
		b->size = kept;
		if (!is_whole(b))
			return 0;
		b->size = size;
	} else {
		free(b->at);
		b->at = how == 1 ? calloc(1, size) : malloc(size);
		b->size = b->at ? size : 0;
		for (size_t i = 0; how == 1 && i < b->size; i += 61)
			if (b->at[i])
				return 0;
	}
	b->seed = next(&h->random);
	fill(b);
	return 1;
}

static int all_whole(int threads)
{
	for (int t = 0; t < threads; t++)
		for (int i = 0; i < BLOCKS; i++)
			if (heaps[t].blocks[i].at && !is_whole(&heaps[t].blocks[i]))
				return 0;
	return 1;
}

static void fail(const char *where)
{
	(void)!write(STDERR_FILENO, where, strlen(where));
	_exit(1);
}

static void *work(void *arg)
{
	struct heap *h = arg;

	while (!atomic_load(&stop)) {
		pthread_mutex_lock(&h->lock);
		if (!step(h))
			fail("a thread found a wrong block\n");
		pthread_mutex_unlock(&h->lock);
	}
	return NULL;
}

/* A child has one thread; the locks were held over the fork for it. */
static void go_on(int threads)
{
	if (!all_whole(threads))
		fail("a child found a wrong block\n");
	for (int k = 0; k < 300; k++)
		for (int t = 0; t < threads; t++)
			if (!step(&heaps[t]))
				fail("a child found a block changed\n");
	if (!all_whole(threads))
		fail("a child's blocks differ\n");
}

static void child(int threads, int has_child)
{
	pid_t pid;
	int status;

	go_on(threads);
	if (has_child) {
		pid = fork();
		if (!pid) {
			go_on(threads);
			exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			fail("a grandchild failed\n");
		if (!all_whole(threads))
			fail("a grandchild changed its parent\n");
	}
	exit(0);
}

static void fork_once(int threads, int k)
{
	pid_t pid;
	int status;

	for (int t = 0; t < threads; t++)
		pthread_mutex_lock(&heaps[t].lock);
	pid = fork();
	if (!pid)
		child(threads, k % 4 == 0);
	if (k % 2)	/* else the child lives beside the threads */
		if (waitpid(pid, &status, 0) != pid || status || !all_whole(threads))
			fail("the child failed or changed its parent\n");
	for (int t = 0; t < threads; t++)
		pthread_mutex_unlock(&heaps[t].lock);
	if (pid < 0 || (k % 2 == 0 && (waitpid(pid, &status, 0) != pid || status)))
		fail("the child failed\n");
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 2, forks = argc > 2 ? atoi(argv[2]) : 20;
	size_t mib = argc > 3 ? (size_t)atoi(argv[3]) : 64;
	pthread_t ids[THREADS_MAX];

	if (threads < 1 || threads > THREADS_MAX || forks < 0 || !mib)
		return 2;
	for (int t = 0; t < threads; t++) {
		pthread_mutex_init(&heaps[t].lock, NULL);
		heaps[t].random = 88172645u + (uint32_t)t;
		heaps[t].mean = (mib << 20) / (BLOCKS * (size_t)threads);
		if (pthread_create(&ids[t], NULL, work, &heaps[t]))
			return 2;
	}
	for (int k = 0; k < forks; k++)
		fork_once(threads, k);
	atomic_store(&stop, 1);
	for (int t = 0; t < threads; t++)
		pthread_join(ids[t], NULL);
	puts(all_whole(threads) ? "whole" : "broken");
	return all_whole(threads) ? 0 : 1;
}
