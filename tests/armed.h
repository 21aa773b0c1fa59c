/*
 * Armed memory at fixed places, and children that look at it, for tests of the in-place engine.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TESTS_ARMED_H
#define COWFORK_TESTS_ARMED_H

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#include "support.h"

#define SIZE (8 * MIB)
#define PAGES (SIZE / PAGE)
#define STEP 100
#define KILLED (128 + SIGKILL)
#define WRONG 3

enum { ONTO = MREMAP_MAYMOVE | MREMAP_FIXED };

extern char *const area, *const other, *const far;

/* Plain memory there, filled, and armed. */
int arm(char *at, size_t size, unsigned seed);

/* Armed memory is filled here and there (STEP), and empty in between. */
void empty(char *at, size_t size);

/* By a raw call. */
int is_moved(char *from, size_t old, size_t len, int flags, char *to);

/* Some memory, page by page: every `step`-th was filled, and others were empty. */
struct sight {
	char *at;
	size_t pages, step;
};

extern const struct sight all_of_it;

/* For children: they may be killed before they have seen all, but find nothing else than what was
 * there: WRONG. */
int sees(void *sight);
int does_nothing(void *arg);

/* A thread that does nothing else until it is to stop. */
extern atomic_int stop;
void *runs(void *arg);

/* 1: it was killed. The same of who was told before to look. */
int is_killed(struct reader *r);
void looks(const struct reader *r);
int was_killed(struct reader *r);

/* By raw calls a page is guarded, and no more. 0: the kernel has no such thing. */
int was_guarded(char *page);

/* For programs that end: */
struct ends {
	int go[2], say[2];
};

/* A child waits until its parent is gone, and so long, and looks after that; 'r': it was right. */
void outlives(const struct ends *e, const struct sight *s, unsigned us);

/* A program that leaves such a child: what that says, or 0, for it was killed. */
char said_after(int (*program)(const struct ends *e, unsigned us), unsigned us, int status);

/* Runs them, if this machine can. */
int armed_run(Suite *s);

#endif
