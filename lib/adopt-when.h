/*
 * When adoption pays.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_ADOPT_WHEN_H
#define COWFORK_ADOPT_WHEN_H

#include <stdint.h>

/* All zero in a new child; times in ns. */
struct adopt_meter {
	uint64_t cost;		/* of native page tables in forks, since the last adoption */
	uint64_t next;		/* cost at which to look again; 0: the least */
	uint64_t first_at;	/* bytes of anonymous memory at which `first` looks again */
	uint64_t debt;		/* what giving adopted memory back has cost */
};

/* A fork took so long, though nothing of the store made it dear. */
void adopt_when_forked(uint64_t ns);

/* So many adopted bytes were copied back, for the program to move them. */
void adopt_when_given_back(uint64_t bytes);

/* Ahead of a fork: is it time? */
int adopt_when_due(void);

/* Adoption was tried, and so many bytes moved; why: the enum cow_reason for which some
 * stayed native. */
void adopt_when_done(int why, uint64_t bytes);

#endif
