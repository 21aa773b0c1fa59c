/*
 * Regions that cow_region_create() handed out.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_REGION_H
#define COWFORK_REGION_H

#include <stddef.h>

/* How many are alive. The process lock is held. */
size_t region_total(void);

#endif
