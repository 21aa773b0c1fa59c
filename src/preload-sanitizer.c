/*
 * Living with sanitizers. Their runtimes want to be first of all libraries, and
 * gcc's AddressSanitizer ends a program in which it is not: cowfork-run(1) puts it
 * first in LD_PRELOAD. What the program starts must not inherit that, and a
 * sanitized program that an ordinary one starts has us first: it is told that
 * this order is meant.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <unistd.h>

#include "preload.h"

/* Asked for by AddressSanitizer's runtime; a program's own one comes before. */
const char *__asan_default_options(void);

INTERPOSED const char *__asan_default_options(void)
{
	return "verify_asan_link_order=0";
}

static int is_sanitizer(const char *path, size_t len)
{
	static const char *const names[] = { "libasan.so", "liblsan.so", "libtsan.so",
					     "libhwasan.so", "libclang_rt." };
	const char *name = path + len;

	while (name > path && name[-1] != '/')
		name--;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if ((size_t)(path + len - name) >= strlen(names[i]) &&
		    !strncmp(name, names[i], strlen(names[i])))
			return 1;
	return 0;
}

/* What stands before our own object, cowfork-run put there. In place: the text
 * gets shorter. */
static void drop(char *list)
{
	static const char ours[] = "libcowfork-preload.so";

	while (*list) {
		size_t len = strcspn(list, ": "), n = sizeof(ours) - 1;

		if (len >= n && !strncmp(list + len - n, ours, n))
			return;
		if (is_sanitizer(list, len)) {
			len += list[len] != '\0';
			memmove(list, list + len, strlen(list + len) + 1);
		} else {
			list += len + (list[len] != '\0');
		}
	}
}

void preload_drop_sanitizers(void)
{
	static const char name[] = "LD_PRELOAD=";

	for (char **e = environ; e && *e; e++)
		if (!strncmp(*e, name, sizeof(name) - 1))
			drop(*e + sizeof(name) - 1);
}
