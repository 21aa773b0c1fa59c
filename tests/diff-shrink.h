/*
 * Making a program that shows a difference smaller.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_DIFF_SHRINK_H
#define COWFORK_DIFF_SHRINK_H

#include "diff-run.h"

/* Cut *p for up to that many seconds while the verdict stays what it is. Returns
 * that verdict, or VERDICT_SAME when it did not come again. */
enum verdict program_shrink(struct program *p, enum verdict verdict, int seconds);

#endif
