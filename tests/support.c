/*
 * See support.h. No function here maps memory through the library except
 * region(), and none allocates in a forked child.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

void support_complain(const char *file, int line, const char *text)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
}

void support_add(Suite *suite, const char *name, int seconds, const TTest *const *tests,
		 int count, int loop)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, seconds);
	for (int i = 0; i < count; i++)
		tcase_add_loop_test(tc, tests[i], 0, loop);
	suite_add_tcase(suite, tc);
}

int support_run(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

char *region(size_t size)
{
	void *p = NULL;
	int ret = cow_region_create(size, 0, &p);

	if (ret < 0) {
		fprintf(stderr, "cow_region_create: %s\n", strerror(-ret));
		abort();
	}
	return p;
}

/* --- patterns ----------------------------------------------------------- */

static uint64_t word(size_t at, unsigned seed)
{
	uint64_t x = (at + 1) * 0x9e3779b97f4a7c15u + seed * 0xff51afd7ed558ccdu;

	return (x ^ x >> 29) | 1;	/* never zero */
}

void fill_page(void *area, size_t page, unsigned seed)
{
	volatile uint64_t *p = (uint64_t *)((char *)area + page * PAGE);

	/* ends and middle tell as much as all, and cost less */
	p[0] = word(page * 3, seed);
	p[255] = word(page * 3 + 1, seed);
	p[511] = word(page * 3 + 2, seed);
}

void fill(void *area, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len / PAGE; i++)
		fill_page(area, i, seed);
}

int is_page_filled(const void *area, size_t page, unsigned seed)
{
	const uint64_t *p = (const uint64_t *)((const char *)area + page * PAGE);

	return p[0] == word(page * 3, seed) && p[255] == word(page * 3 + 1, seed) &&
	       p[511] == word(page * 3 + 2, seed) && !p[1] && !p[256] && !p[510];
}

int is_filled(const void *area, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len / PAGE; i++)
		if (!is_page_filled(area, i, seed)) {
			fprintf(stderr, "page %zu of %p is not as filled by %u\n", i,
				area, seed);
			return 0;
		}
	return 1;
}

int is_zero(const void *area, size_t len)
{
	const uint64_t *p = area;

	for (size_t i = 0; i < len / sizeof(*p); i++)
		if (p[i])
			return 0;
	return 1;
}

int has_state(const void *at, enum cow_state state)
{
	struct cow_options o = { .size = sizeof(o) };

	if (cow_options_get(&o) < 0)	/* no assertion: some children may write no file */
		return 0;
	return o.engine == COW_ENGINE_OFF || o.engine == COW_ENGINE_IN_PLACE ||
	       cow_region_state(at) == (int)state;
}

struct cow_stats stats(void)
{
	struct cow_stats s = { .size = sizeof(s) };

	if (cow_stats(&s) < 0)
		abort();
	return s;
}

/* --- children ----------------------------------------------------------- */

int wait_for(pid_t pid)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	int status;

	if (pid < 0)
		return 126;
	for (int i = 0; i < 30000; i++) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got < 0 && errno != EINTR)
			return 126;
		if (got == pid)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status)
						   : WEXITSTATUS(status);
		nanosleep(&nap, NULL);
	}
	fprintf(stderr, "child %d hangs: killed\n", (int)pid);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 126;
}

int in_child(child_fn *fn, void *arg)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn(arg));
	return wait_for(pid);
}

pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

struct reader reader_start(child_fn *fn, void *arg)
{
	struct reader r = { .pid = -1 };
	int ask[2], answer[2];
	char c;

	if (pipe(ask) < 0 || pipe(answer) < 0)
		abort();
	r.pid = fork();
	if (r.pid == 0) {
		close(ask[1]);
		close(answer[0]);
		/* later readers inherit our ends: so an end of file is no sign */
		while (read(ask[0], &c, 1) == 1 && c != 'q') {
			c = fn ? (char)fn(arg) : 0;
			if (write(answer[1], &c, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(ask[0]);
	close(answer[1]);
	r.ask = ask[1];
	r.answer = answer[0];
	return r;
}

int reader_ask(const struct reader *r)
{
	char c = 0;

	if (write(r->ask, &c, 1) != 1 || read(r->answer, &c, 1) != 1)
		return 127;	/* it died */
	return c;
}

int reader_end(const struct reader *r)
{
	const char quit = 'q';
	ssize_t n = write(r->ask, &quit, 1);

	close(r->ask);
	close(r->answer);
	return n == 1 ? wait_for(r->pid) : 127;
}

/* --- the kernel's side -------------------------------------------------- */

static char *read_file(const char *path)
{
	static char text[8 << 20];
	size_t have = 0;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	while ((n = read(fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)n;
	close(fd);
	text[have] = 0;
	return text;
}

int store_mappings(int shared)
{
	char *text = read_file("/proc/self/maps"), *next;
	int count = 0;

	if (!text)
		return -1;
	for (char *line = text; line && *line; line = next) {
		char *perms = strchr(line, ' ');

		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (perms && strstr(line, "/memfd:cowfork"))
			count += (perms[4] == 's') == shared;
	}
	return count;
}

static char *after(char *text, char c)
{
	char *found = text ? strchr(text, c) : NULL;

	return found ? found + 1 : NULL;
}

int map_at(const void *at, struct map *ret_map)
{
	char *text = read_file("/proc/self/maps");

	for (char *line = text; line && *line; line = after(line, '\n')) {
		unsigned long start, end;
		struct map m = { 0 };
		char *next = after(line, '\n');

		if (sscanf(line, "%lx-%lx %4s", &start, &end, m.perms) != 3)
			break;
		if ((uintptr_t)at < start || (uintptr_t)at >= end)
			continue;
		if (next)
			next[-1] = 0;
		m.start = (char *)start;
		m.end = (char *)end;
		m.is_store = strstr(line, "/memfd:cowfork") != NULL;
		*ret_map = m;
		return 1;
	}
	return 0;
}

/* Bits of an entry: Documentation/admin-guide/mm/pagemap.rst. */
static size_t count_pages(const void *at, size_t len, int own)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entries[512];
	size_t count = 0;

	for (size_t i = 0; i < len / PAGE; i++) {
		off_t where = (off_t)(((uintptr_t)at / PAGE + i) * sizeof(*entries));
		uint64_t e;

		if (i % 512 == 0 && pread(fd, entries, sizeof(entries), where) < 0)
			abort();
		e = entries[i % 512];
		count += e >> 62 && !(own && e >> 61 & 1);
	}
	close(fd);
	return count;
}

size_t private_pages(const void *at, size_t len)
{
	return count_pages(at, len, 1);
}

size_t present_pages(const void *at, size_t len)
{
	return count_pages(at, len, 0);
}

int store_descriptors(void)
{
	char target[256];
	int count = 0;
	ssize_t n;

	/* by number, since opendir() allocates */
	for (int fd = 0; fd < 4096; fd++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = 0;
		count += strstr(target, "memfd:cowfork") != NULL;
	}
	return count;
}

static long field_of(const char *path, const char *field)
{
	char *text = read_file(path), name[64];

	snprintf(name, sizeof(name), "\n%s:", field);
	text = text ? strstr(text, name) : NULL;
	return text ? atol(text + strlen(name)) : -1;
}

pid_t support_child(const char *name)
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	pid_t found = 0;

	while (dir && !found && (d = readdir(dir))) {
		char path[300], line[512];
		int pid = atoi(d->d_name), parent = 0;
		char comm[64] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/stat", d->d_name);
		f = pid ? fopen(path, "r") : NULL;
		if (f && fgets(line, sizeof(line), f))
			(void)!sscanf(line, "%*d (%63[^)]) %*c %d", comm, &parent);
		if (f)
			fclose(f);
		if (!strcmp(comm, name) && parent == getpid())
			found = pid;
	}
	if (dir)
		closedir(dir);
	return found;
}

long status_kib(const char *field)
{
	return field_of("/proc/self/status", field);
}

long rollup_kib(const char *field)
{
	return field_of("/proc/self/smaps_rollup", field);
}

long minor_faults(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) < 0 ? -1 : usage.ru_minflt;
}

static time_t began;

__attribute__((constructor)) static void note_the_time(void)
{
	began = time(NULL);
}

/* A line of /proc/sysvipc/shm: key shmid perms size cpid lpid nattch uid gid cuid
 * cgid atime dtime ctime ... Older ones are of another process of that number. */
int shm_segments(pid_t creator)
{
	char *text = read_file("/proc/sysvipc/shm");
	int count = 0, cpid;
	long created;

	if (!text)
		return -1;
	for (char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
		if (sscanf(line + 1, "%*d %*d %*o %*u %d %*d %*d %*d %*d %*d %*d %*d %*d %ld",
			   &cpid, &created) == 2)
			count += cpid == (int)creator && created >= began;
	return count;
}
