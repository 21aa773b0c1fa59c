/*
 * Memory that the library keeps its records in. It is a child's as well, and never adopted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_OWN_H
#define COWFORK_OWN_H

#include <stddef.h>
#include <stdint.h>

/* Whole pages of zeros, or -errno. The process lock is held. */
long own_map(size_t bytes);
void own_unmap(uintptr_t start, size_t bytes);

/* Where a store lies over memory that may be adopted: none of this is. */
void own_keep_out(void);

#endif
