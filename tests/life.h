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

#endif
