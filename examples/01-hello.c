/*
 * 01-hello: the library called directly. A region of N MiB (default 1024), a
 * child that sees its contents and changes its own copy, and what it cost.
 *
 * Use: 01-hello [MiB]
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cowfork.h>

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int child(char *memory, size_t size)
{
	int right = memory[0] == 'p' && memory[size - 1] == 'p';

	memset(memory, 'c', 4096);	/* the parent will not see this */
	return right ? 0 : 1;
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) << 20;
	void *memory;
	int ret = cow_region_create(size, 0, &memory);

	if (ret < 0) {
		fprintf(stderr, "cow_region_create: %s\n", strerror(-ret));
		return 1;
	}
	memset(memory, 'p', size);
	for (int i = 1; i <= 5; i++) {
		double start = now_us(), forked;
		int status;
		pid_t pid = cow_fork();

		if (pid < 0) {
			perror("cow_fork");
			return 1;
		}
		if (pid == 0)
			_exit(child(memory, size));
		forked = now_us();
		waitpid(pid, &status, 0);
		printf("fork %d: %.0f us, with exit and wait %.0f us; child %s, "
		       "parent's memory %s\n", i, forked - start, now_us() - start,
		       status ? "WRONG" : "right",
		       *(char *)memory == 'p' ? "unchanged" : "CHANGED");
		if (status || *(char *)memory != 'p')
			return 1;
	}
	return cow_region_destroy(memory) < 0;
}
