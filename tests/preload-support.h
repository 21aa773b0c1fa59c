/*
 * What programs that run under the preload runtime share. They run without it
 * too: the library's own names are weak, so nothing of it is linked in.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_PRELOAD_SUPPORT_H
#define COWFORK_TEST_PRELOAD_SUPPORT_H

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cowfork.h"

#pragma weak cow_prepare
#pragma weak cow_region_create
#pragma weak cow_region_destroy
#pragma weak cow_region_state
#pragma weak cow_state_string
#pragma weak cow_stats

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define COUNT(array) ((int)(sizeof(array) / sizeof(*(array))))

/* In a function that returns int: 0 is fine, 1 is not. */
#define NEED(condition) do {						\
		if (!(condition)) {					\
			complain(__FILE__, __LINE__, #condition);	\
			return 1;					\
		}							\
	} while (0)

static inline void complain(const char *file, int line, const char *text)
{
	char s[300];
	int n = snprintf(s, sizeof(s), "%s:%d: pid %d: not so: %s\n", file, line,
			 (int)getpid(), text);

	(void)!write(STDERR_FILENO, s, n < (int)sizeof(s) ? (size_t)n : sizeof(s) - 1);
}

static inline int is_preloaded(void)
{
	return cow_stats != NULL;
}

static inline struct cow_stats stats(void)
{
	struct cow_stats s = { .size = sizeof(s) };

	if (is_preloaded() && cow_stats(&s) < 0)
		abort();
	return s;
}

/* In the store, where there is one: else a case shows nothing. */
static inline int is_managed(const void *p)
{
	return !is_preloaded() || cow_region_state(p) != COW_STATE_NATIVE;
}

static inline char *map_with(size_t size, int prot)
{
	char *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		abort();
	}
	return p;
}

static inline char *map(size_t size)
{
	return map_with(size, PROT_READ | PROT_WRITE);
}

/* --- contents: every word depends on its place in the area and on a seed ---- */

static inline uint64_t word_at(size_t i, unsigned seed)
{
	return ((uint64_t)i * 0x9e3779b97f4a7c15u ^ (uint64_t)seed << 32) | 1;
}

static inline void fill(void *area, size_t len, unsigned seed)
{
	volatile uint64_t *p = area;

	for (size_t i = 0; i < len / sizeof(*p); i++)
		p[i] = word_at(i, seed);
}

static inline int is_filled(const void *area, size_t len, unsigned seed)
{
	const uint64_t *p = area;

	for (size_t i = 0; i < len / sizeof(*p); i++)
		if (p[i] != word_at(i, seed)) {
			fprintf(stderr, "pid %d: %p+%#zx of %#zx: %#llx, not %#llx\n",
				(int)getpid(), area, i * sizeof(*p), len,
				(unsigned long long)p[i],
				(unsigned long long)word_at(i, seed));
			return 0;
		}
	return 1;
}

static inline int is_zero(const void *area, size_t len)
{
	const uint64_t *p = area;

	for (size_t i = 0; i < len / sizeof(*p); i++)
		if (p[i]) {
			fprintf(stderr, "pid %d: %p+%#zx of %#zx: %#llx, not 0\n",
				(int)getpid(), area, i * sizeof(*p), len,
				(unsigned long long)p[i]);
			return 0;
		}
	return 1;
}

/* --- children and time ---------------------------------------------------- */

/* The child's result (0 to 125), or 128 + the signal that ended it. */
static inline int wait_for(pid_t pid)
{
	int status;

	if (pid < 0)
		return 126;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 126;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

typedef int child_fn(void *arg);

static inline int in_child(child_fn *fn, void *arg)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn ? fn(arg) : 0);
	return wait_for(pid);
}

static inline double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#endif
