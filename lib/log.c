/*
 * One line of text to the callback that cow_set_log() installed. errno is put
 * back, since a callback will mostly write(2).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "process.h"

static cow_log_fn *callback;
static void *callback_arg;

void log_line(enum cow_log_level level, const char *format, ...)
{
	int before = errno;
	char text[256];
	va_list args;

	if (!callback)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	callback(callback_arg, level, text);
	errno = before;
}

void cow_set_log(cow_log_fn *fn, void *arg)
{
	process_lock_bare();
	callback_arg = arg;
	callback = fn;
	process_unlock();
}
