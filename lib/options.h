/*
 * The options in force: defaults, then the environment (once), then calls.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_OPTIONS_H
#define COWFORK_OPTIONS_H

#include "cowfork.h"

/* Read with the process lock held or before there are threads. */
extern struct cow_options options;

/* May memory come into the store from now on? */
static inline int options_use_store(void)
{
	return options.engine == COW_ENGINE_AUTO || options.engine == COW_ENGINE_STORE;
}

/* Parse the environment into options; every bad value is logged. Nothing
 * happens before the C library has set environ. Returns 1 once done. */
int options_read_environment(void);

#endif
