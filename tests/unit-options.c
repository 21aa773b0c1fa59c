/*
 * Options: every value of the three environment variables, good and bad. A bad
 * one keeps the default and makes exactly one line of the log that names the
 * variable and the value; a good one makes none. Then cow_options_set() and
 * _get(): what they refuse, and that a refusal changes nothing. The environment
 * is read by the first use of the library, which is why each case needs the
 * process of its own that Check gives it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cowfork.h"
#include "support.h"

#define KIB ((size_t)1 << 10)
#define GIB ((size_t)1 << 30)

static int lines;
static char last_line[256];

static void on_line(void *arg, enum cow_log_level level, const char *text)
{
	ck_assert_ptr_eq(arg, &lines);
	ck_assert_int_le(level, COW_LOG_WARN);
	lines++;
	strncpy(last_line, text, sizeof(last_line) - 1);
}

static struct cow_options get(void)
{
	struct cow_options o = { .size = sizeof(o) };

	cow_set_log(on_line, &lines);
	ck_assert_int_eq(cow_options_get(&o), 0);
	ck_assert_uint_eq(o.size, sizeof(o));
	return o;
}

static void only(const char *name, const char *value)
{
	unsetenv("COWFORK_ENGINE");
	unsetenv("COWFORK_MIN_SIZE");
	unsetenv("COWFORK_HUGE");
	if (name)
		ck_assert_int_eq(setenv(name, value, 1), 0);
}

static void is_default(const struct cow_options *o)
{
	ck_assert_uint_eq(o->min_size, 32 * MIB);
	ck_assert_int_eq(o->engine, COW_ENGINE_AUTO);
	ck_assert_int_eq(o->huge, COW_HUGE_AUTO);
}

/* --- the environment ---------------------------------------------------- */

static const struct {
	const char *name, *value;
	size_t min_size;
	int engine, huge;
} good[] = {
	{ NULL, NULL, 32 * MIB, COW_ENGINE_AUTO, COW_HUGE_AUTO },
	{ "COWFORK_MIN_SIZE", "4096", 4096, 0, 0 },
	{ "COWFORK_MIN_SIZE", "64k", 64 * KIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "64K", 64 * KIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "1m", MIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "007M", 7 * MIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "2g", 2 * GIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "3G", 3 * GIB, 0, 0 },
	{ "COWFORK_MIN_SIZE", "8589934591G", SIZE_MAX / 2 >> 30 << 30, 0, 0 },
	{ "COWFORK_MIN_SIZE", "9223372036854775807", SIZE_MAX / 2, 0, 0 },
	{ "COWFORK_ENGINE", "auto", 32 * MIB, COW_ENGINE_AUTO, 0 },
	{ "COWFORK_ENGINE", "store", 32 * MIB, COW_ENGINE_STORE, 0 },
	{ "COWFORK_ENGINE", "off", 32 * MIB, COW_ENGINE_OFF, 0 },
	{ "COWFORK_ENGINE", "in-place", 32 * MIB, COW_ENGINE_IN_PLACE, 0 },
	{ "COWFORK_HUGE", "auto", 32 * MIB, 0, COW_HUGE_AUTO },
	{ "COWFORK_HUGE", "always", 32 * MIB, 0, COW_HUGE_ALWAYS },
	{ "COWFORK_HUGE", "never", 32 * MIB, 0, COW_HUGE_NEVER },
	/* neighbours in name are not ours */
	{ "COWFORK_HUGEX", "never", 32 * MIB, 0, 0 },
	{ "COWFORK_", "x", 32 * MIB, 0, 0 },
};

START_TEST(good_values)
{
	struct cow_options o;

	only(good[_i].name, good[_i].value);
	o = get();
	ck_assert_uint_eq(o.min_size, good[_i].min_size);
	ck_assert_int_eq(o.engine, good[_i].engine);
	ck_assert_int_eq(o.huge, good[_i].huge);
	ck_assert_int_eq(lines, 0);
}
END_TEST

static const struct { const char *name, *value; } bad[] = {
	{ "COWFORK_MIN_SIZE", "" },
	{ "COWFORK_MIN_SIZE", "0" },
	{ "COWFORK_MIN_SIZE", "0M" },
	{ "COWFORK_MIN_SIZE", "M" },
	{ "COWFORK_MIN_SIZE", "-1" },
	{ "COWFORK_MIN_SIZE", "+1" },
	{ "COWFORK_MIN_SIZE", " 1" },
	{ "COWFORK_MIN_SIZE", "1 " },
	{ "COWFORK_MIN_SIZE", "1KB" },
	{ "COWFORK_MIN_SIZE", "1T" },
	{ "COWFORK_MIN_SIZE", "0x1000" },
	{ "COWFORK_MIN_SIZE", "1.5M" },
	{ "COWFORK_MIN_SIZE", "many" },
	{ "COWFORK_MIN_SIZE", "9223372036854775808" },
	{ "COWFORK_MIN_SIZE", "18446744073709551615" },
	{ "COWFORK_MIN_SIZE", "18446744073709551616" },
	{ "COWFORK_MIN_SIZE", "99999999999999999999999999" },
	{ "COWFORK_MIN_SIZE", "8589934592G" },
	{ "COWFORK_MIN_SIZE", "18446744073709551617K" },
	{ "COWFORK_ENGINE", "" },
	{ "COWFORK_ENGINE", "AUTO" },
	{ "COWFORK_ENGINE", "on" },
	{ "COWFORK_ENGINE", "store " },
	{ "COWFORK_ENGINE", "0" },
	{ "COWFORK_HUGE", "" },
	{ "COWFORK_HUGE", "yes" },
	{ "COWFORK_HUGE", "alwaysnever" },
};

START_TEST(bad_values)
{
	struct cow_options o;

	only(bad[_i].name, bad[_i].value);
	o = get();
	is_default(&o);
	ck_assert_int_eq(lines, 1);
	ck_assert_ptr_nonnull(strstr(last_line, bad[_i].name));
	ck_assert_ptr_nonnull(strstr(last_line, bad[_i].value));
	o = get();		/* read once, reported once */
	ck_assert_int_eq(lines, 1);
}
END_TEST

START_TEST(bad_values_do_not_hide_good_ones)
{
	struct cow_options o;

	only("COWFORK_MIN_SIZE", "plenty");
	setenv("COWFORK_ENGINE", "perhaps", 1);
	setenv("COWFORK_HUGE", "never", 1);
	o = get();
	ck_assert_uint_eq(o.min_size, 32 * MIB);
	ck_assert_int_eq(o.engine, COW_ENGINE_AUTO);
	ck_assert_int_eq(o.huge, COW_HUGE_NEVER);
	ck_assert_int_eq(lines, 2);
}
END_TEST

/* A value longer than a line of the log must not overrun it. */
START_TEST(long_value)
{
	static char text[100000];
	struct cow_options o;

	memset(text, '9', sizeof(text) - 1);
	only("COWFORK_MIN_SIZE", text);
	setenv("COWFORK_HUGE", text, 1);
	o = get();
	is_default(&o);
	ck_assert_int_eq(lines, 2);
	ck_assert_uint_lt(strlen(last_line), 256);
}
END_TEST

START_TEST(environment_is_read_once)
{
	struct cow_options o;

	only("COWFORK_HUGE", "never");
	o = get();
	setenv("COWFORK_HUGE", "always", 1);
	o = get();
	ck_assert_int_eq(o.huge, COW_HUGE_NEVER);
}
END_TEST

/* --- calls -------------------------------------------------------------- */

START_TEST(set_then_get)
{
	struct cow_options o = { sizeof(o), 4096, COW_ENGINE_STORE, COW_HUGE_ALWAYS, COW_THAW_AUTO, COW_ADOPT_NEVER };

	only("COWFORK_HUGE", "never");
	ck_assert_int_eq(cow_options_set(&o), 0);
	memset(&o, 0, sizeof(o));
	o = get();
	ck_assert_uint_eq(o.min_size, 4096);
	ck_assert_int_eq(o.engine, COW_ENGINE_STORE);
	ck_assert_int_eq(o.huge, COW_HUGE_ALWAYS);
}
END_TEST

static const struct cow_options refused[] = {
	{ 0, 4096, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options) - 1, 4096, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options) + 8, 4096, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 0, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), SIZE_MAX / 2 + 1, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), SIZE_MAX, 0, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 4096, (enum cow_engine)4, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 4096, (enum cow_engine)-1, 0, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 4096, 0, (enum cow_huge)3, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 4096, 0, (enum cow_huge)-1, COW_THAW_AUTO, COW_ADOPT_NEVER },
	{ sizeof(struct cow_options), 4096, 0, 0, (enum cow_thaw)2, 0 },
	{ sizeof(struct cow_options), 4096, 0, 0, 0, (enum cow_adopt)3 },
	{ sizeof(struct cow_options), 4096, 0, 0, 0, (enum cow_adopt)-1 },
	{ sizeof(struct cow_options), 4096, 0, 0, (enum cow_thaw)-1, 0 },
};

START_TEST(set_refuses)
{
	struct cow_options o;

	only(NULL, NULL);
	errno = 4711;
	ck_assert_int_eq(cow_options_set(&refused[_i]), -EINVAL);
	ck_assert_int_eq(errno, 4711);
	o = get();
	is_default(&o);
}
END_TEST

START_TEST(get_by_size)
{
	struct cow_options o = { .size = sizeof(size_t) - 1 };

	only(NULL, NULL);
	ck_assert_int_eq(cow_options_get(&o), -EINVAL);
	/* an older caller's struct: not a byte behind it is written */
	memset(&o, 0x55, sizeof(o));
	o.size = offsetof(struct cow_options, engine);
	ck_assert_int_eq(cow_options_get(&o), 0);
	ck_assert_uint_eq(o.min_size, 32 * MIB);
	ck_assert_int_eq((int)o.engine, 0x55555555);
	ck_assert_int_eq((int)o.huge, 0x55555555);
	o.size = sizeof(size_t);
	ck_assert_int_eq(cow_options_get(&o), 0);
	ck_assert_uint_eq(o.size, sizeof(size_t));
	/* a newer caller's: what we do not know stays */
	struct { struct cow_options o; char more[16]; } newer;

	memset(&newer, 0x55, sizeof(newer));
	newer.o.size = sizeof(newer);
	ck_assert_int_eq(cow_options_get(&newer.o), 0);
	is_default(&newer.o);
	for (size_t i = 0; i < sizeof(newer.more); i++)
		ck_assert_int_eq(newer.more[i], 0x55);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("unit-options");
	TCase *tc = tcase_create("options");

	tcase_add_loop_test(tc, good_values, 0, COUNT(good));
	tcase_add_loop_test(tc, bad_values, 0, COUNT(bad));
	tcase_add_test(tc, bad_values_do_not_hide_good_ones);
	tcase_add_test(tc, long_value);
	tcase_add_test(tc, environment_is_read_once);
	tcase_add_test(tc, set_then_get);
	tcase_add_loop_test(tc, set_refuses, 0, COUNT(refused));
	tcase_add_test(tc, get_by_size);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
