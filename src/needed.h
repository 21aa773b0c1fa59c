/*
 * Which file a program is, and which sanitizer's runtime it will ask the loader
 * for.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_NEEDED_H
#define COWFORK_NEEDED_H

#include <limits.h>
#include <stddef.h>

/* Where execvp(3) will find the program: name itself or path; NULL when nowhere. */
const char *needed_program(const char *name, char path[PATH_MAX]);

/* Is this the file name of a runtime that has to stand before all that is
 * preloaded? The name is len bytes long and can have directories in front. */
int needed_is_sanitizer(const char *name, size_t len);

/* The runtime of that kind that an executable file asks for, of a script its
 * interpreter. Returns 1 and what to put into LD_PRELOAD, 0 when there is none.
 * A file that cannot be read or makes no sense has none. */
int needed_sanitizer(const char *path, char ret_name[PATH_MAX]);

#endif
