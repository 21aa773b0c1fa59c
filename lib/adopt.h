/*
 * Adoption: memory that exists moves into the store.
 *
 *   plain memory ---mark---> NATIVE ---take in---> FROZEN ---release---> plain memory
 *
 * A store of its own is laid over each range (store_open_over()): what is marked there is
 * an overlay like any other, and its pages are merged into the store table by table.
 *
 * Adopted memory is never mapped shared while the program runs; a refresh goes through
 * OWNED, but ends FROZEN. So the owner's system calls that nobody sees (the C
 * library's malloc unmaps, moves, protects by itself) meet a private mapping, on which
 * they do what they do on anonymous memory; what they changed is found before the next
 * transition (verify.h). And there is no futex whose key changes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_ADOPT_H
#define COWFORK_ADOPT_H

#include <stddef.h>
#include <stdint.h>

/* What is to be adopted: candidates in [from, to), see candidates_find(). */
struct adopt_what {
	uintptr_t from, to;
	size_t min;
};

/* All that the policy would take. */
struct adopt_what adopt_everything(void);

/* Adopt it now, alone in the address space. The process lock is held. 0 also when
 * there was nothing; or the enum cow_reason for which some of it stays native. */
int adopt_alone(const struct adopt_what *what);

/* Release what was adopted in [from, to), likewise. 0 or -errno. */
int adopt_release(uintptr_t from, uintptr_t to);

#endif
