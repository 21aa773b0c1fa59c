/*
 * 04-redis-check: is what a server holds the data of one moment? Each value names
 * the write that made it, and the last write of each connection tells which others
 * must be there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "04-redis-load.h"

static void ask_batch(int fd, uint64_t key)
{
	char data[BATCH * 40];
	int n = 0;

	for (uint64_t end = key + BATCH; key < end && key < keys; key++)
		n += sprintf(data + n, "*2\r\n$3\r\nGET\r\n$12\r\nkey:%08lu\r\n", key);
	put(fd, data, (size_t)n);
}

/* The number of the value that a key has, which must be the whole of it. */
static uint64_t get_number(FILE *in, uint64_t key)
{
	static char line[64], data[VALUE_MAX + 2], right[VALUE_MAX];
	uint64_t k;

	if (!fgets(line, sizeof(line), in))
		errx(1, "the server is gone");
	if (line[0] != '$' || strtoul(line + 1, NULL, 10) != size ||
	    fread(data, 1, size + 2, in) != size + 2)
		errx(1, "WRONG: key %lu: %s", key, line);
	memcpy(&k, data, sizeof(k));
	make_value(right, key, k);
	if (memcmp(data, right, size))
		errx(1, "WRONG: key %lu is not as write %lu made it", key, k);
	return k;
}

/* The number of each key, and the last of each connection. */
static void get_all(uint64_t *number, uint64_t *last)
{
	int fd = dial();
	FILE *in = fdopen(fd, "r");

	for (uint64_t key = 0; in && key < keys; key++) {
		uint64_t c = key % (2 * conns);

		if (key % BATCH == 0)
			ask_batch(fd, key);
		number[key] = get_number(in, key);
		if (c < conns && number[key] > last[c])
			last[c] = number[key];
	}
}

/* Go backwards through the writes: the first to name a key is the last that set it.
 * What is as it must be becomes 0, the number of keys that nobody wrote. */
static void check_writes(uint64_t *number, uint64_t c, uint64_t last, char *seen)
{
	for (uint64_t k = last; k > 0; k--) {
		uint64_t key = key_of(c, k);

		if (seen[key])
			continue;
		if (number[key] != k)
			errx(1, "WRONG: key %lu has write %lu, not %lu of %lu",
			     key, number[key], k, last);
		number[key] = 0;
		seen[key] = 1;
	}
}

void check(uint64_t low)
{
	uint64_t *number = calloc(keys, sizeof(*number));
	uint64_t last[CONNS_MAX] = { 0 }, sum = 0;
	char *seen = calloc(keys, 1);

	if (!number || !seen)
		err(1, NULL);
	get_all(number, last);
	for (uint64_t c = 0; c < conns; sum += last[c++])
		check_writes(number, c, last[c], seen);
	for (uint64_t key = 0; key < keys; key++)
		if (number[key])
			errx(1, "WRONG: key %lu has write %lu", key, number[key]);
	if (sum < low)
		errx(1, "WRONG: %lu writes, but %lu were made before", sum, low);
	printf("right: %lu keys after %lu writes\n", keys, sum);
}
