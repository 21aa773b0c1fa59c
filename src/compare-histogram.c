/*
 * Log-linear histograms: below 16 a bucket for each value, above that the
 * highest bit and the four behind it tell the bucket.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "compare-histogram.h"

#define SUB (1u << HISTOGRAM_SHIFT)

static unsigned bucket_of(uint64_t value)
{
	unsigned high;

	if (value < SUB)
		return (unsigned)value;
	if (value >> HISTOGRAM_BITS)
		return HISTOGRAM_BUCKETS - 1;
	high = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_SHIFT;
	return ((high + 1) << HISTOGRAM_SHIFT) + ((unsigned)(value >> high) & (SUB - 1));
}

/* The greatest value of a bucket. */
static uint64_t bucket_end(unsigned bucket)
{
	unsigned high = bucket >> HISTOGRAM_SHIFT;

	if (!high)
		return bucket;
	return ((uint64_t)((bucket & (SUB - 1)) + SUB + 1) << (high - 1)) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
	h->n++;
	h->count[bucket_of(ns)]++;
	if (ns > h->max)
		h->max = ns;
}

void histogram_merge(struct histogram *h, const struct histogram *other)
{
	h->n += other->n;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->count[i] += other->count[i];
	if (other->max > h->max)
		h->max = other->max;
}

double histogram_quantile(const struct histogram *h, double q)
{
	double rank = ceil(q * (double)h->n);
	uint64_t sum = 0;

	if (!h->n)
		return NAN;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		sum += h->count[i];
		if (sum && (double)sum >= rank)
			return fmin((double)bucket_end(i), (double)h->max);
	}
	return (double)h->max;
}
