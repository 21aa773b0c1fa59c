/*
 * Regions that cow_region_create() handed out.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_REGION_H
#define COWFORK_REGION_H

#include <stddef.h>
#include <stdint.h>

/* How many pieces of regions there are. */
size_t region_total(void);

/* Can there be part of a region in [start, end), outside of windows? Takes no
 * lock. */
int region_near(uintptr_t start, uintptr_t end);

/* The program unmapped [start, end). The process lock is held. */
void region_cut(uintptr_t start, uintptr_t end);

#endif
