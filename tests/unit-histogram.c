/*
 * The histogram of cowfork-compare: where a bucket ends, that a quantile is never
 * below the true one nor above it by more than a sixteenth, the exact maximum,
 * merging, and values beyond the last bucket.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <math.h>

#include "../src/compare-histogram.h"
#include "support.h"

static struct histogram h;

START_TEST(nothing_is_nan)
{
	ck_assert(isnan(histogram_quantile(&h, 0.5)));
}
END_TEST

/* One value alone is exact: its maximum cuts the bucket. A greater one beside it
 * shows the bucket's end. */
START_TEST(ends_of_buckets)
{
	for (uint64_t v = 0; v >> 39 == 0; v = v < 40 ? v + 1 : v + v / 7) {
		struct histogram one = { 0 }, two;
		double end;

		histogram_add(&one, v);
		ck_assert(histogram_quantile(&one, 0.999) == (double)v);
		two = one;
		histogram_add(&two, (uint64_t)1 << 39);
		end = histogram_quantile(&two, 0.5);
		ck_assert(end >= (double)v);
		ck_assert(end <= (double)v * (1 + 1.0 / 16));
	}
}
END_TEST

START_TEST(quantiles_of_a_range)
{
	static const double q[] = { 0.01, 0.5, 0.9, 0.99, 0.999 };

	for (uint64_t v = 1; v <= 100000; v++)
		histogram_add(&h, v);
	for (int i = 0; i < COUNT(q); i++) {
		double exact = q[i] * 100000, found = histogram_quantile(&h, q[i]);

		ck_assert(found >= exact - 1);
		ck_assert(found <= exact * (1 + 1.0 / 16));
	}
	ck_assert(histogram_quantile(&h, 1) == 100000);
	ck_assert_uint_eq(h.max, 100000);
}
END_TEST

START_TEST(merged_as_if_added)
{
	struct histogram all = { 0 }, other = { 0 };

	for (uint64_t v = 1; v < 5000; v++) {
		histogram_add(&all, v * v);
		histogram_add(v % 3 ? &h : &other, v * v);
	}
	histogram_merge(&h, &other);
	ck_assert_mem_eq(&h, &all, sizeof(h));
}
END_TEST

START_TEST(beyond_the_last_bucket)
{
	uint64_t v = (uint64_t)1 << 50;

	histogram_add(&h, 1);
	histogram_add(&h, v);
	histogram_add(&h, v + 1);
	ck_assert(histogram_quantile(&h, 0.3) == 1);
	ck_assert(histogram_quantile(&h, 0.5) == (double)(v + 1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("histogram");
	TCase *all = tcase_create("all");

	tcase_add_test(all, nothing_is_nan);
	tcase_add_test(all, ends_of_buckets);
	tcase_add_test(all, quantiles_of_a_range);
	tcase_add_test(all, merged_as_if_added);
	tcase_add_test(all, beyond_the_last_bucket);
	suite_add_tcase(suite, all);
	return support_run(suite);
}
