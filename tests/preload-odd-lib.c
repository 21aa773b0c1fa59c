/*
 * A library whose constructor and destructor map memory, fork and register
 * atfork handlers that do so too; loaded before and after the preload runtime,
 * and by dlopen(3). See preload-odd.sh.
 *
 * SPDX-License-Identifier: MIT
 */
#include <pthread.h>

#include "preload-support.h"

#define SIZE (3 * MIB)

static char *area;

static void must(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "library, pid %d: %s\n", (int)getpid(), what);
	_exit(99);
}

static void look_in_a_child(const char *what)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(!is_filled(area, SIZE, 1));
	must(wait_for(pid) == 0, what);
}

static void use_memory(void)
{
	char *p = map(2 * MIB);

	must(is_filled(area, SIZE, 1), "the library's memory in a handler");
	fill(p, 2 * MIB, 2);
	must(is_filled(p, 2 * MIB, 2) && munmap(p, 2 * MIB) == 0, "memory of a handler");
}

__attribute__((constructor)) static void begin(void)
{
	area = map(SIZE);
	fill(area, SIZE, 1);
	look_in_a_child("a child of the constructor");
	must(pthread_atfork(use_memory, use_memory, use_memory) == 0, "pthread_atfork");
	look_in_a_child("the second child of the constructor");
}

__attribute__((destructor)) static void end(void)
{
	must(is_filled(area, SIZE, 1), "the library's memory at its end");
	look_in_a_child("a child of the destructor");
	must(munmap(area, SIZE) == 0, "munmap");
}
