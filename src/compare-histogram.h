/*
 * A histogram of nanoseconds: each power of two in 16 buckets, so that a figure
 * is right to a sixteenth from 16 ns to 18 minutes. Plain memory that is never
 * allocated, a few stores for each value.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COMPARE_HISTOGRAM_H
#define COMPARE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 40		/* values that need more count as the greatest */
#define HISTOGRAM_SHIFT 4		/* 16 buckets */
#define HISTOGRAM_BUCKETS ((HISTOGRAM_BITS - HISTOGRAM_SHIFT + 1) << HISTOGRAM_SHIFT)

struct histogram {
	uint64_t n, max;		/* max is exact */
	uint32_t count[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t ns);
void histogram_merge(struct histogram *h, const struct histogram *other);
/* The least value that a share q of all values does not exceed, rounded up to
 * its bucket's end; NAN of nothing. */
double histogram_quantile(const struct histogram *h, double q);

#endif
