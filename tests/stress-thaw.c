/*
 * A process writes, forks, has its memory thawed and frozen again, and looks at
 * every page, here and in its children, while the kernel moves pages about under
 * it: compaction, page-out, migration to and from swap where there is some, and
 * memory pressure. Every page tells its place and how often it was written; a page
 * lost on the way has an older count. A helper that was forked before there was
 * memory provokes the kernel, so that it is no descendant that hinders a thaw.
 *
 * Use: stress-thaw [--seconds N] [--seed N] [--megabytes N] [--pressure N]
 * Default: 6 seconds, 64 MiB, no pressure. --pressure makes the helper touch so
 * many MiB in turn: for a memory cgroup of its own, as in tests/fault-cgroup.sh
 * and, with swap, tests/hand-swap.sh.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "compat.h"
#include "cowfork.h"
#include "process.h"

#define PAGE 4096ul

static uint64_t random_state;
static size_t pages;
static char *area;
static uint32_t *count;		/* how often each page was written; in plain memory */

static unsigned draw(size_t below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((random_state >> 33) % below);
}

static void die(const char *what)
{
	perror(what);
	_exit(99);
}

/* --- pages -------------------------------------------------------------- */

static void write_page(size_t i)
{
	uint64_t *p = (uint64_t *)(area + i * PAGE);

	count[i]++;
	p[0] = p[511] = (uint64_t)i << 32 | count[i];
}

static int is_page_right(size_t i)
{
	const uint64_t *p = (const uint64_t *)(area + i * PAGE);
	uint64_t want = count[i] ? (uint64_t)i << 32 | count[i] : 0;

	return p[0] == want && p[511] == want;
}

static int look(const char *who)
{
	int bad = 0;

	for (size_t i = 0; i < pages && bad < 5; i++)
		if (!is_page_right(i)) {
			const uint64_t *p = (const uint64_t *)(area + i * PAGE);

			printf("%s: page %zu, written %u times, says %#llx and %#llx\n", who, i,
			       count[i], (unsigned long long)p[0], (unsigned long long)p[511]);
			bad++;
		}
	return bad;
}

static void write_some(void)
{
	size_t n = draw(4) ? draw(200) : draw(pages);
	size_t first = draw(pages);
	int in_line = draw(2) != 0;

	for (size_t i = 0; i < n; i++)
		write_page(in_line ? (first + i) % pages : draw(pages));
}

static void free_some(void)
{
	size_t first = draw(pages), n = 1 + draw(100);

	if (first + n > pages)
		n = pages - first;
	if (cow_madvise(area + first * PAGE, n * PAGE, MADV_DONTNEED) == 0)
		memset(count + first, 0, n * sizeof(*count));
}

static void page_out(void)
{
	size_t first = draw(pages), n = 1 + draw(pages - first);

	madvise(area + first * PAGE, n * PAGE, draw(2) ? MADV_PAGEOUT : MADV_COLD);
}

/* --- forks -------------------------------------------------------------- */

static void want_refresh(void)
{
	process.life->meter.excess = (uint64_t)1 << 40;
	process.life->meter.retry_at = 0;
}

static int child(void)
{
	int bad = look("child");

	for (int i = 0; i < 50; i++)
		write_page(draw(pages));
	if (draw(8) == 0)
		write_some();
	return bad || look("child that wrote");
}

static int one_fork(void)
{
	int status;
	pid_t pid;

	want_refresh();
	pid = cow_fork();
	if (pid == 0)
		_exit(child() != 0);
	if (pid < 0)
		return errno != ENOMEM;
	/* the parent writes while the child lives */
	if (draw(2))
		write_some();
	if (waitpid(pid, &status, 0) < 0)
		return 1;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return 0;	/* for want of memory */
	if (status)
		printf("a child ended with status %#x\n", status);
	return status != 0;
}

/* --- the helper ---------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!write(fd, text, strlen(text));
	close(fd);
}

static void provoke(size_t pressure)
{
	size_t size = pressure << 20;
	char *p = size ? mmap(NULL, size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : NULL;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t at = 0;; at += 16 << 20) {
		write_file("/proc/sys/vm/compact_memory", "1");
		for (size_t i = 0; size && i < 16 << 20; i += PAGE)
			p[(at + i) % size] = 1;
		usleep(10000);
	}
}

/* --- main --------------------------------------------------------------- */

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int stress(double seconds)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE,
				       (enum cow_huge)draw(3), COW_THAW_AUTO, COW_ADOPT_NEVER };
	struct cow_stats st = { .size = sizeof(st) };
	double end = now() + seconds;
	int bad = 0;
	void *p = NULL;

	if (cow_options_set(&o) < 0 || cow_region_create(pages * PAGE, 0, &p) < 0)
		die("region");
	area = p;
	count = mmap(NULL, pages * sizeof(*count), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (!bad && now() < end) {
		write_some();
		if (draw(3) == 0)
			page_out();
		if (draw(9) == 0)
			free_some();
		bad = one_fork();
		if (draw(4) == 0)
			bad |= look("parent");
	}
	bad |= look("parent at the end");
	if (cow_stats(&st) == 0)
		printf("%llu forks, %llu thaws, %llu of %llu tables huge\n",
		       (unsigned long long)st.forks, (unsigned long long)st.thaws,
		       (unsigned long long)st.tables_huge, (unsigned long long)st.tables);
	if (st.thaws == 0)
		printf("nothing was thawed\n");
	return bad || st.thaws == 0;
}

int main(int argc, char **argv)
{
	double seconds = 6;
	size_t megabytes = 64, pressure = 0;
	pid_t helper;
	int bad;

	random_state = (uint64_t)time(NULL);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			random_state = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--megabytes"))
			megabytes = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--pressure"))
			pressure = strtoull(argv[i + 1], NULL, 10);
	}
	setvbuf(stdout, NULL, _IONBF, 0);
	printf("seed %llu\n", (unsigned long long)random_state);
	pages = megabytes << 20 >> 12;
	helper = fork();
	if (helper == 0)
		provoke(pressure);
	bad = stress(seconds);
	kill(helper, SIGKILL);
	waitpid(helper, NULL, 0);
	return bad;
}
