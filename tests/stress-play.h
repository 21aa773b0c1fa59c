/*
 * One thread of stress-mover.c that makes memory calls of every kind on mappings of
 * its own, and knows of each page what it must say.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_STRESS_PLAY_H
#define COWFORK_TEST_STRESS_PLAY_H

#include "stress-pages.h"

/* One call or some writes; 1 after a complaint. */
int play_step(struct random *r);

/* All that can be read, as it was left between two steps. Also for a child. */
int play_check(const char *who);

void play_end(void);

#endif
