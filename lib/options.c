/*
 * Option values: parsing from the environment, checking what callers set.
 * getenv() is not used: the first mapping of a program can come before libc
 * has set environ, and a privileged program (AT_SECURE) must not listen.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "log.h"
#include "options.h"
#include "process.h"

struct cow_options options = {
	.size = sizeof(struct cow_options),
	.min_size = (size_t)32 << 20,
	.engine = COW_ENGINE_AUTO,
	.huge = COW_HUGE_AUTO,
	.thaw = COW_THAW_AUTO,
	.adopt = COW_ADOPT_AUTO,
};

static const char *const engine_names[] = { "auto", "store", "off", "in-place" };
static const char *const huge_names[] = { "auto", "always", "never" };
static const char *const thaw_names[] = { "auto", "never" };
static const char *const adopt_names[] = { "auto", "first", "never" };

static const char *variable(const char *name)
{
	size_t n = strlen(name);

	for (char **e = environ; *e; e++)
		if (!strncmp(*e, name, n) && (*e)[n] == '=')
			return *e + n + 1;
	return NULL;
}

static int parse_size(const char *text, size_t *ret_size)
{
	unsigned long long n = 0;
	int shift = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (n > ULLONG_MAX / 10 - 1)
			return -ERANGE;
		n = n * 10 + (unsigned)(*p - '0');
	}
	if (p == text)
		return -EINVAL;
	switch (*p) {
	case 'k': case 'K': shift = 10; p++; break;
	case 'm': case 'M': shift = 20; p++; break;
	case 'g': case 'G': shift = 30; p++; break;
	default: break;
	}
	if (*p || !n || n > (SIZE_MAX / 2) >> shift)
		return -EINVAL;
	*ret_size = (size_t)n << shift;
	return 0;
}

static void read_size(const char *name, size_t *size)
{
	const char *text = variable(name);

	if (text && parse_size(text, size) < 0)
		log_line(COW_LOG_WARN, "%s=%.40s is no size (a number above 0, "
			 "then nothing, K, M or G): using %zu bytes",
			 name, text, *size);
}

static int read_choice(const char *name, const char *const *names, int count,
		       int value)
{
	const char *text = variable(name);

	if (!text)
		return value;
	for (int i = 0; i < count; i++)
		if (!strcmp(text, names[i]))
			return i;
	log_line(COW_LOG_WARN, "%s=%.40s is none of %s, %s%s%s: using %s", name,
		 text, names[0], names[1], count > 2 ? ", " : "",
		 count > 2 ? names[2] : "", names[value]);
	return value;
}

int options_read_environment(void)
{
	if (!environ)
		return 0;
	if (getauxval(AT_SECURE))
		return 1;
	read_size("COWFORK_MIN_SIZE", &options.min_size);
	options.engine = (enum cow_engine)read_choice("COWFORK_ENGINE",
				engine_names, 4, (int)options.engine);
	options.huge = (enum cow_huge)read_choice("COWFORK_HUGE", huge_names, 3,
				(int)options.huge);
	options.thaw = (enum cow_thaw)read_choice("COWFORK_THAW", thaw_names, 2,
				(int)options.thaw);
	options.adopt = (enum cow_adopt)read_choice("COWFORK_ADOPT", adopt_names, 3,
				(int)options.adopt);
	return 1;
}

int cow_options_get(struct cow_options *opts)
{
	size_t n = opts->size;

	if (n < sizeof(size_t))
		return -EINVAL;
	if (n > sizeof(options))
		n = sizeof(options);
	process_lock();
	memcpy((char *)opts + sizeof(size_t), (char *)&options + sizeof(size_t),
	       n - sizeof(size_t));
	process_unlock();
	return 0;
}

int cow_options_set(const struct cow_options *opts)
{
	if (opts->size != sizeof(*opts) || !opts->min_size ||
	    opts->min_size > SIZE_MAX / 2 || (unsigned)opts->engine > COW_ENGINE_IN_PLACE ||
	    (unsigned)opts->huge > COW_HUGE_NEVER ||
	    (unsigned)opts->thaw > COW_THAW_NEVER ||
	    (unsigned)opts->adopt > COW_ADOPT_NEVER)
		return -EINVAL;
	process_lock();
	options = *opts;
	process_unlock();
	return 0;
}
