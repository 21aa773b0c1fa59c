/*
 * The table of extents against a model that holds one entry for each page:
 * after every random change both must say the same of every page, the array
 * must cover the window without a gap, equal neighbours must be merged, and
 * searching (find, piece, fit, the walk) must agree with a plain loop over the
 * model. The transitions that the picture in extent.h allows are written down
 * here a second time; every other one must end in the assertion.
 *
 * Links lib/extent.c alone. UNIT_SEED=N in the environment replays a seed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "extent.h"
#include "support.h"

#define PAGES 96
#define BASE (PAGE * 0x1234)
#define LIMIT (BASE + PAGES * PAGE)
#define STEPS 20000

struct page {
	int state, prot;
	unsigned flags;
};

static struct page model[PAGES];
static struct extent array[PAGES + 4];
static struct extents set;

static const int legal[4][4] = {	/* [from][to] */
	[EXTENT_FREE]	= { [EXTENT_FREE] = 1, [EXTENT_OWNED] = 1, [EXTENT_NATIVE] = 1 },
	[EXTENT_OWNED]	= { 1, 1, 1, 1 },
	[EXTENT_FROZEN]	= { 1, 1, 1, 1 },
	[EXTENT_NATIVE]	= { [EXTENT_FREE] = 1, [EXTENT_OWNED] = 1, [EXTENT_FROZEN] = 1, [EXTENT_NATIVE] = 1 },
};

static uint64_t random_state;

static unsigned below(unsigned n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 33) % n;
}

static void start(size_t capacity)
{
	memset(model, 0, sizeof(model));
	extents_init(&set, array, capacity, BASE, LIMIT);
}

static int alike(const struct page *a, const struct page *b)
{
	return a->state == b->state && a->prot == b->prot && a->flags == b->flags;
}

static uintptr_t address(unsigned page)
{
	return BASE + page * PAGE;
}

/* --- the checks --------------------------------------------------------- */

static void check_array(void)
{
	ck_assert_uint_ge(set.count, 1);
	ck_assert_uint_le(set.count, set.capacity);
	ck_assert_uint_eq(set.at[0].start, BASE);
	ck_assert_uint_eq(set.at[set.count - 1].end, LIMIT);
	for (size_t i = 0; i < set.count; i++) {
		const struct extent *e = &set.at[i];

		ck_assert_uint_lt(e->start, e->end);
		if (i == 0)
			continue;
		ck_assert_uint_eq(e[-1].end, e->start);
		ck_assert_msg(e[-1].state != e->state || e[-1].prot != e->prot ||
			      e[-1].flags != e->flags, "equal neighbours at %#lx",
			      (unsigned long)e->start);
	}
}

static void check_pages(void)
{
	for (unsigned i = 0; i < PAGES; i++) {
		const struct extent *e = &set.at[extents_find(&set, address(i))];

		ck_assert_uint_le(e->start, address(i));
		ck_assert_uint_gt(e->end, address(i));
		ck_assert_int_eq(e->state, model[i].state);
		ck_assert_int_eq(e->prot, model[i].prot);
		ck_assert_uint_eq(e->flags, model[i].flags);
		e = &set.at[extents_find(&set, address(i) + PAGE - 1)];
		ck_assert_uint_gt(e->end, address(i));
	}
}

static void check_walk(unsigned from, unsigned to)
{
	unsigned at = from;

	extents_each(e, &set, address(from), address(to)) {
		ck_assert_uint_eq(e.start, address(at));
		for (; at < to && address(at) < e.end; at++)
			ck_assert_int_eq(e.state, model[at].state);
		ck_assert_uint_eq(e.end, address(at));
		ck_assert_msg(at == to || !alike(&model[at], &model[at - 1]),
			      "the piece that ends at page %u is short", at);
	}
	ck_assert_uint_eq(at, to);
}

static int fits(unsigned page, unsigned pages)
{
	for (unsigned i = page; i < page + pages; i++)
		if (i >= PAGES || model[i].state != EXTENT_FREE || model[i].flags)
			return 0;
	return 1;
}

static void check_fit(unsigned pages, uintptr_t align)
{
	uintptr_t want = 0;

	for (unsigned i = 0; i < PAGES && !want; i++)
		if (address(i) % align == 0 && fits(i, pages))
			want = address(i);
	ck_assert_uint_eq(extents_fit(&set, pages * PAGE, align), want);
}

/* --- one random change -------------------------------------------------- */

static void change(void)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	static const unsigned flags[] = { 0, 0, 0, EXTENT_STALE, EXTENT_PINNED };
	unsigned from = below(PAGES), to = from + 1 + below(PAGES - from);
	struct page new = { (int)below(4), prots[below(3)], flags[below(5)] };

	if (new.state == EXTENT_FREE)
		new.prot = PROT_NONE;	/* as the library does */
	if (below(3))		/* mostly short runs, so that there are many */
		to = from + 1 + below(to - from < 6 ? to - from : 6);
	for (unsigned i = from; i < to; i++)
		if (!legal[model[i].state][new.state])
			return;
	if (!extents_have_room(&set))
		return;
	extents_set(&set, address(from), address(to),
		    (enum extent_state)new.state, new.prot, new.flags);
	for (unsigned i = from; i < to; i++)
		model[i] = new;
	check_array();
	check_pages();
	check_walk(from, to);
	from = below(PAGES);
	check_walk(from, from + 1 + below(PAGES - from));
	check_fit(1 + below(12), PAGE << below(5));
}

START_TEST(random_changes)
{
	/* the second run lives at the edge of its array */
	static const size_t capacities[] = { PAGES + 4, 12 };
	const char *given = getenv("UNIT_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : 20241124;
	size_t most = 0;

	printf("unit-extent: UNIT_SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	random_state = seed * 2654435761u + 1;
	start(capacities[_i]);
	for (unsigned i = 0; i < STEPS; i++) {
		change();
		most = set.count > most ? set.count : most;
	}
	/* the test means nothing if the table never got full of pieces */
	ck_assert_uint_ge(most, _i ? capacities[1] - 1 : 20);
}
END_TEST

/* --- fixed cases -------------------------------------------------------- */

START_TEST(set_merges_both_sides)
{
	start(PAGES);
	extents_set(&set, address(0), address(10), EXTENT_OWNED, 3, 0);
	extents_set(&set, address(20), address(30), EXTENT_OWNED, 3, 0);
	ck_assert_uint_eq(set.count, 4);
	extents_set(&set, address(10), address(20), EXTENT_OWNED, 3, 0);
	ck_assert_uint_eq(set.count, 2);
	extents_set(&set, address(4), address(5), EXTENT_OWNED, 1, 0);
	ck_assert_uint_eq(set.count, 4);
	extents_set(&set, address(4), address(5), EXTENT_OWNED, 3, 0);
	ck_assert_uint_eq(set.count, 2);
	extents_set(&set, BASE, LIMIT, EXTENT_FREE, 0, 0);
	ck_assert_uint_eq(set.count, 1);
}
END_TEST

START_TEST(room_is_two_more)
{
	start(3);
	ck_assert_int_eq(extents_have_room(&set), 1);
	extents_set(&set, address(1), address(2), EXTENT_OWNED, 3, 0);
	ck_assert_uint_eq(set.count, 3);
	ck_assert_int_eq(extents_have_room(&set), 0);
	extents_init(&set, array, 1, BASE, LIMIT);
	ck_assert_int_eq(extents_have_room(&set), 0);
}
END_TEST

/* Stale addresses are never handed out, and sums do not wrap. */
START_TEST(fit_is_careful)
{
	start(PAGES);
	extents_set(&set, address(0), address(50), EXTENT_FREE, 0, EXTENT_STALE);
	ck_assert_uint_eq(extents_fit(&set, PAGE, PAGE), address(50));
	ck_assert_uint_eq(extents_fit(&set, 46 * PAGE, PAGE), address(50));
	ck_assert_uint_eq(extents_fit(&set, 47 * PAGE, PAGE), 0);
	ck_assert_uint_eq(extents_fit(&set, PAGE, (uintptr_t)1 << 63), 0);
	ck_assert_uint_eq(extents_fit(&set, SIZE_MAX & ~(PAGE - 1), PAGE), 0);
}
END_TEST

START_TEST(names)
{
	ck_assert_str_eq(extent_state_string(EXTENT_FREE), "free");
	ck_assert_str_eq(extent_state_string(EXTENT_OWNED), "owned");
	ck_assert_str_eq(extent_state_string(EXTENT_FROZEN), "frozen");
	ck_assert_str_eq(extent_state_string(EXTENT_NATIVE), "native");
	ck_assert_str_eq(extent_state_string((enum extent_state)4), "?");
	ck_assert_str_eq(extent_state_string((enum extent_state)-1), "?");
}
END_TEST

START_TEST(transitions)
{
	for (int from = 0; from < 4; from++)
		for (int to = 0; to < 4; to++)
			ck_assert_msg(!!extent_may_become((enum extent_state)from,
							  (enum extent_state)to) ==
				      legal[from][to], "%s to %s",
				      extent_state_string((enum extent_state)from),
				      extent_state_string((enum extent_state)to));
}
END_TEST

static const struct { enum extent_state from, to; } illegal[] = {
	{ EXTENT_FREE, EXTENT_FROZEN },
};

START_TEST(illegal_transition_asserts)
{
	start(PAGES);
	if (illegal[_i].from != EXTENT_FREE)
		extents_set(&set, address(3), address(9), illegal[_i].from, 3, 0);
	if (freopen("/dev/null", "w", stderr))
		extents_set(&set, address(2), address(8), illegal[_i].to, 3, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("unit-extent");
	TCase *tc = tcase_create("extents");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, set_merges_both_sides);
	tcase_add_test(tc, room_is_two_more);
	tcase_add_test(tc, fit_is_careful);
	tcase_add_test(tc, names);
	tcase_add_test(tc, transitions);
#ifndef NDEBUG
	tcase_add_loop_test_raise_signal(tc, illegal_transition_asserts, SIGABRT, 0,
				(int)(sizeof(illegal) / sizeof(*illegal)));
#endif
	tcase_add_loop_test(tc, random_changes, 0, 2);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
