/*
 * The memory of stress-mover.c and stress-adopt.c: pages that each have one owner who
 * writes them, and a word of plain shared memory for each that tells what a page must
 * say. So every process knows, of every page and without a lock, what it may see:
 *
 *   - the owner: exactly what it wrote last;
 *   - a reader: what the word said before it looked, or after, or between;
 *   - a child: the same of the moments before and after the fork that made it, and
 *     what it saw first for as long as it lives.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_STRESS_PAGES_H
#define COWFORK_TEST_STRESS_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul
#define REGIONS 3
#define USERS 3			/* owners that write from user space */
#define KERNELS 2		/* ... and by system calls */
#define OWNERS (USERS + KERNELS)
#define RUN 16u			/* pages in one system call */

/* The word of a page: version << 2, and these. */
enum { IN_FLIGHT = 1, IS_ZERO = 2 };

struct random { uint64_t state; };
unsigned draw(struct random *r, size_t below);

/* Print it, with errno if that is set, and end the test. */
_Noreturn void die(const char *what);

extern size_t pages;		/* of all regions */
extern unsigned char *owner_of;

/* Where the memory of a region comes from, pages of zeros, and goes. */
typedef void *pages_get(int region, size_t size);
typedef void pages_put(void *at);
void pages_create(pages_get *get);
void pages_destroy(pages_put *put);
char *page_at(size_t i);

/* What all words say now. */
void pages_note(uint32_t *ret_words);

/* Is page i what its word said at some moment between the two? */
int page_check(size_t i, uint32_t before, uint32_t after, const char *who);
int pages_check(const uint32_t *before, const uint32_t *after, const char *who);

/* Pages as they are now, of this process. */
int pages_look(struct random *r, size_t count);
uint64_t pages_sum(void);

/* Something that an owner does with its pages; 1 after a complaint. */
struct owner {
	unsigned number;
	struct random random;
	int pipe[2], pair[2], file;
	uint64_t buffer[RUN * PAGE / 8];
};
void owner_open(struct owner *o, unsigned number, uint64_t seed);
void owner_close(struct owner *o);
int owner_step(struct owner *o);

#endif
