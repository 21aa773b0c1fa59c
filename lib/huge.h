/*
 * Huge pages for the store, table by table, by MADV_COLLAPSE.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_HUGE_H
#define COWFORK_HUGE_H

#include <stdint.h>

#include "store.h"

#define HUGE_TABLE_NS 800000u	/* cost of one table, in a run */
#define HUGE_RUN 4u		/* fewer at once are not worth a call */

/* Collapse fully populated tables of this process's own stores until they are
 * done or about budget_ns is spent, HUGE_RUN tables at least. Returns the
 * nanoseconds spent. The process lock is held. */
uint64_t huge_collapse(uint64_t budget_ns);

/* Is there a table that was not looked at yet? */
int huge_pending(void);

/* Memory was added or filled: look at all tables again. */
void huge_restart(struct store *s);

#endif
