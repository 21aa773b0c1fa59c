/*
 * A scripted life of a process that uses all of the library once: regions,
 * writes, forks of both kinds with children that look and write and fork
 * themselves, every memory call, a forced thaw, a refresh, huge pages, locking,
 * a look at the facilities. It may run where anything is refused: what a call
 * does, or that it failed with an errno that it may have, is taken down page by
 * page, and every page is looked at after every step, here and in the children.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_LIFE_H
#define COWFORK_TEST_LIFE_H

#include <stddef.h>

/* 0, or 1 after a complaint. Not for a process that lived once already. */
int life(void);

/* Once nothing is refused any more: forks work, and when all regions are gone
 * nothing is left of them. *ret_maps: how many maps there are then. */
int life_afterwards(int *ret_maps);

/* A life with a second thread, that writes while memory is thawed beside it: with plain
 * memory laid over, with pages watched for being pinned, by itself. Nobody is held
 * for good. Instead of life(). */
int life_beside(void);

/* Once nothing is refused any more: memory beside a thread thaws, all of it. */
int life_thaws(void);

/* Then lock all memory, which retires the stores, and begin anew. */
int life_again(void);

/* A life with memory that exists already: it is adopted, by a fork and when asked, changed
 * by calls that the library sees and by those that it does not, released, adopted again.
 * Instead of life(). The same beside a second thread. */
int life_adopts(void);
int life_adopts_beside(void);

/* Once nothing is refused any more: all of it can be adopted and released, alone or beside
 * a second thread. */
int life_adopted(int beside);

/* --- for life-adopt.c --------------------------------------------------- */

#define LIFE_PAGES 1300u	/* of the area: two tables and a bit */
#define LIFE_WRITERS 600u	/* the first of those that the second thread writes, */
#define LIFE_THEIRS 64u		/* ... and how many */

/* What a page is, if not filled with a seed. */
enum { LIFE_ZERO = 0, LIFE_GONE = 998, LIFE_UNKNOWN = 999 };

/* The area is there from now on, pages of zeros; NULL: there is none. Returns it. */
char *life_take(char *at);

/* Every page is what it should be: 0, or 1 after a complaint, as all of these. */
int life_is_right(void);
void life_note(size_t first, size_t count, unsigned is);
void life_moved(char *to, size_t first, size_t count, size_t more);
void life_write(size_t from, size_t to, unsigned seed);

/* must: nothing is refused any more. */
int life_forks(int cow, int must);
void life_want_refresh(void);
int life_thaw(void);
int life_calls(size_t at);

/* While the second thread writes. */
int life_with_another(int (*fn)(void));
int life_is_free(void);
int life_thaws_often(void);

#endif
