/*
 * What the mover's thread does; for mover.c, which makes and ends it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_MOVER_RUN_H
#define COWFORK_MOVER_RUN_H

#include "lift.h"
#include "mover.h"

/* Until it is told to stop. */
void mover_run(struct lift *lift);

/* Is there memory that a mover could thaw, adopt or release? The process lock is held. */
int mover_has_work(void);

/* Answer the questions of a kind that there are. Likewise. */
void mover_answer(struct mover_question *q, int result);

/* Wait until there is more to know of than `work` (struct mover). */
void mover_park(unsigned work);

#endif
