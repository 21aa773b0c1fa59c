/*
 * 02-snapshot-server: an in-memory table of counters that keeps counting while
 * a forked child writes a snapshot of it, as in-memory databases do. Each
 * snapshot must be a state that the table really had at the fork: the parent
 * notes a checksum, the child verifies it while the parent goes on writing.
 *
 * Use: 02-snapshot-server [MiB [SNAPSHOTS]]     (default 512, 5)
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cowfork.h>

struct table {
	uint64_t *at;
	size_t count;
	uint64_t sum;		/* of all counters, kept up to date */
	uint64_t seed;
};

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static void update(struct table *t)
{
	t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
	t->at[(t->seed >> 20) % t->count]++;
	t->sum++;
}

/* The child: the table as it was at the fork, whatever the parent does now. */
static int save(const struct table *t)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < t->count; i++)
		sum += t->at[i];
	return sum == t->sum ? 0 : 1;
}

static int snapshot(struct table *t, int number)
{
	double start = now_us(), forked;
	unsigned long updates = 0;
	int status;
	pid_t pid = cow_fork();

	if (pid < 0) {
		perror("cow_fork");
		return -1;
	}
	if (pid == 0)
		_exit(save(t));
	forked = now_us();
	while (waitpid(pid, &status, WNOHANG) == 0)
		for (int i = 0; i < 1000; i++, updates++)
			update(t);
	printf("snapshot %d: stopped for %.0f us, %lu updates until it was saved, "
	       "contents %s\n", number, forked - start, updates,
	       status ? "WRONG" : "right");
	return status ? -1 : 0;
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 512) << 20;
	int snapshots = argc > 2 ? atoi(argv[2]) : 5;
	struct table t = { .count = size / sizeof(uint64_t), .seed = 1 };
	void *memory;
	int ret = cow_region_create(size, 0, &memory);

	if (ret < 0) {
		fprintf(stderr, "cow_region_create: %s\n", strerror(-ret));
		return 1;
	}
	t.at = memory;
	memset(memory, 0, size);
	for (int i = 1; i <= snapshots; i++) {
		for (int k = 0; k < 100000; k++)
			update(&t);
		if (snapshot(&t, i) < 0)
			return 1;
	}
	return cow_region_destroy(memory) < 0;
}
