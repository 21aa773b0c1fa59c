/*
 * The debug callback. The library itself never prints.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_LOG_H
#define COWFORK_LOG_H

#include "cowfork.h"

void log_line(enum cow_log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
