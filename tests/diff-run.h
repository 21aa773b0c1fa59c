/*
 * Running a program under both engines, in time, and telling the two apart.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_DIFF_RUN_H
#define COWFORK_DIFF_RUN_H

#include <signal.h>

#include "cowfork.h"
#include "diff-state.h"

/* What a difference is. */
enum verdict {
	VERDICT_SAME,
	VERDICT_DIFFERS,
	VERDICT_BROKEN,		/* plain memory did not survive: a fault of the test */
	VERDICT_STOPPED,	/* by a signal to us */
};

/* Set by SIGINT and SIGTERM. */
extern volatile sig_atomic_t run_stopped;

/* Once, before all else. 0 or -errno. */
int run_setup(void);

/* seconds: what one engine may take. The transcripts are kept for run_report(). */
enum verdict run_program(const struct program *p, int seconds);

/* The first difference of the last run; all lines if asked. */
void run_report(FILE *to, const struct program *p, int verbose);

/* What is compared with plain memory. */
extern enum cow_engine run_engine;

/* What all runs of it came to. */
extern unsigned long long run_forks, run_refreshed, run_thawed, run_adopted, run_in_place;

/* In a process of a program: it must not outlive the time by much. */
void run_in_time(void);

#endif
