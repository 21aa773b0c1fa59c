/*
 * Pages that stay as they are, whatever else is adopted or armed: with objects that the
 * kernel itself writes to, or wakes threads by, and stacks that the program gave to threads.
 * The preload runtime tells of them when they are made, which may be long before.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_KEPT_H
#define COWFORK_KEPT_H

#include <stdint.h>

/* Whole pages. They stay listed, also when the object is gone. The process lock is held. */
void kept_add(uintptr_t start, uintptr_t end);

/* The first part of [start, end) that is kept; 0: none of it is. */
int kept_part(uintptr_t start, uintptr_t end, uintptr_t *ret_start, uintptr_t *ret_end);

#endif
