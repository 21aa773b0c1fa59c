/*
 * What the live and fault tests share: patterns that tell a wrong byte, a view
 * of the kernel's side of a process, and children that cannot hang a test.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_SUPPORT_H
#define COWFORK_TEST_SUPPORT_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cowfork.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)
#define PAGE ((size_t)4096)
#define COUNT(array) ((int)(sizeof(array) / sizeof(*(array))))

/* In a function that returns int, of a child mostly: 0 is fine, 1 is not. */
#define NEED(condition) do {						\
		if (!(condition)) {					\
			support_complain(__FILE__, __LINE__, #condition); \
			return 1;					\
		}							\
	} while (0)

void support_complain(const char *file, int line, const char *text);

/* A case of `count` tests, each run `loop` times, none for longer than that. */
void support_add(Suite *suite, const char *name, int seconds, const TTest *const *tests,
		 int count, int loop);

/* Run all of it; what main() returns. */
int support_run(Suite *suite);

/* A region, or the end of the test. */
char *region(size_t size);

/* Every word of a page depends on its offset in the area and on the seed. */
void fill(void *area, size_t len, unsigned seed);
void fill_page(void *area, size_t page, unsigned seed);
int is_filled(const void *area, size_t len, unsigned seed);
int is_page_filled(const void *area, size_t page, unsigned seed);
int is_zero(const void *area, size_t len);

/* Is it in that state? With an engine that is not the store's it has none of these, and is
 * memory all the same. */
int has_state(const void *at, enum cow_state state);

struct cow_stats stats(void);

/* Run fn in a forked child and wait. Its result (0 to 125), 128 + the signal
 * that ended it, or 126 when it had to be killed after half a minute. */
typedef int child_fn(void *arg);
int in_child(child_fn *fn, void *arg);
int wait_for(pid_t pid);

/* A child that does nothing until told, as a reader of what it inherited. */
struct reader {
	pid_t pid;
	int ask, answer;	/* ends of two pipes */
};
/* Fork it; with fn == NULL it only lives. fn runs once for each question. */
struct reader reader_start(child_fn *fn, void *arg);
int reader_ask(const struct reader *r);
int reader_end(const struct reader *r);

/* The kernel's side. Numbers of the calling process. */
struct map {
	char *start, *end;
	char perms[5];		/* "rw-p" */
	int is_store;		/* of any store */
};
/* The map at an address; 0: none is there. */
int map_at(const void *at, struct map *ret_map);
/* Pages of this process's own, rather than a file's or none. */
size_t private_pages(const void *at, size_t len);
/* Pages in memory, whosever. */
size_t present_pages(const void *at, size_t len);
int store_mappings(int shared);		/* maps of any store, 's' or 'p' */
int store_descriptors(void);		/* in /proc/self/fd */
long status_kib(const char *field);	/* "VmPTE" */
long rollup_kib(const char *field);	/* "Pss", of smaps_rollup */
long minor_faults(void);
pid_t support_child(const char *name);	/* a child, or 0 */
int shm_segments(pid_t creator);	/* of System V, in the whole system */

/* Raw fork: no atfork handler sees it. */
pid_t raw_fork(void);

#endif
