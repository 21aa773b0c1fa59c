/*
 * A fork server: many forks one after the other, each child writing a little, the
 * server too. Nothing may grow: maps, resident memory, page tables, descriptors,
 * segments of shared memory. What forks cost is printed, never judged.
 *
 * Use: soak-forks [--forks N] [--megabytes N]
 * Default 4000 forks of 64 MiB; a million take some minutes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define SAMPLES 10
#define PARTS 16		/* of which the server writes one between two forks */

struct sample {
	long maps, rss, pte, fds, segments;
	double us;		/* mean of fork, exit and wait since the last */
};

static char *area;
static size_t pages;

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static long count_lines(const char *path)
{
	static char text[1 << 16];
	FILE *f = fopen(path, "re");
	long n = 0;
	size_t got;

	while (f && (got = fread(text, 1, sizeof(text), f)) > 0)
		for (size_t i = 0; i < got; i++)
			n += text[i] == '\n';
	if (f)
		fclose(f);
	return n;
}

static long count_descriptors(void)
{
	long n = 0;

	for (int fd = 0; fd < 1024; fd++) {
		int copy = dup(fd);

		n += copy >= 0;
		if (copy >= 0)
			close(copy);
	}
	return n;
}

static struct sample take(double us)
{
	return (struct sample){
		.maps = count_lines("/proc/self/maps"), .rss = status_kib("VmRSS"),
		.pte = status_kib("VmPTE"), .fds = count_descriptors(),
		.segments = shm_segments(getpid()), .us = us,
	};
}

static void print(unsigned long forks, const struct sample *s)
{
	printf("%8lu forks: %ld maps, VmRSS %ld KiB, VmPTE %ld KiB, %ld descriptors, "
	       "%ld segments, %.1f us\n", forks, s->maps, s->rss, s->pte, s->fds, s->segments,
	       s->us);
}

/* --- forks -------------------------------------------------------------- */

/* Every 64th page is written again when its part has its turn. */
static unsigned seed_of(size_t page, unsigned long round)
{
	unsigned long turn = page * PARTS / pages;
	unsigned long since = (round % PARTS + PARTS - turn) % PARTS;

	return page % 64 || round < since ? 1 : (unsigned)((round - since) % 1000) + 2;
}

static int child(unsigned long round)
{
	size_t page = round * 7919 % pages;

	NEED(is_page_filled(area, page, seed_of(page, round)));
	fill_page(area, page, 5000);
	NEED(is_page_filled(area, page, 5000));
	return 0;
}

static void serve(unsigned long round)
{
	size_t first = round % PARTS * pages / PARTS;

	for (size_t i = 0; i < pages / PARTS; i += 64)
		fill_page(area, first + i, seed_of(first + i, round));
}

static int one_fork(unsigned long round)
{
	int status = 0;
	pid_t pid;

	serve(round);
	pid = cow_fork();
	if (pid == 0)
		_exit(child(round));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
		printf("fork %lu: pid %d, %s, status %#x\n", round, (int)pid, strerror(errno),
		       pid > 0 ? (unsigned)status : 0);
		return 1;
	}
	return 0;
}

/* --- the whole ---------------------------------------------------------- */

static int grew(const char *what, long first, long last, long slack)
{
	if (last <= first + slack)
		return 0;
	printf("%s grew from %ld to %ld\n", what, first, last);
	return 1;
}

/* The first sample is taken when the first refresh and collapse are long past. */
static int compare(const struct sample *a, const struct sample *b)
{
	return grew("maps", a->maps, b->maps, 4) +
	       grew("VmRSS", a->rss, b->rss, 2048 + a->rss / 10) +
	       /* a refresh empties the region's page tables, between two they fill */
	       grew("VmPTE", a->pte, b->pte, 64 + (long)(pages / 512 * 4)) +
	       grew("descriptors", a->fds, b->fds, 0) +
	       grew("segments", a->segments, b->segments, 0);
}

static int soak(unsigned long forks)
{
	struct sample first = { 0 }, last = { 0 };
	double before = now_us();
	unsigned long step = forks / SAMPLES ? forks / SAMPLES : 1;

	for (unsigned long i = 0; i < forks; i++) {
		NEED(one_fork(i) == 0);
		if ((i + 1) % step)
			continue;
		last = take((now_us() - before) / (double)step);
		print(i + 1, &last);
		if (i + 1 == step)
			first = last;
		before = now_us();
	}
	for (size_t i = 0; i < pages; i++)
		NEED(is_page_filled(area, i, seed_of(i, forks - 1)));
	printf("%llu refreshes, %llu freezes\n", (unsigned long long)stats().thaws,
	       (unsigned long long)stats().freezes);
	return compare(&first, &last);
}

int main(int argc, char **argv)
{
	unsigned long forks = 4000;
	size_t megabytes = 64;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--forks"))
			forks = strtoul(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--megabytes"))
			megabytes = strtoul(argv[i + 1], NULL, 10);
	}
	setvbuf(stdout, NULL, _IONBF, 0);
	pages = megabytes * MIB / PAGE;
	area = region(pages * PAGE);
	fill(area, pages * PAGE, 1);
	return soak(forks);
}
