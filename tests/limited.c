/*
 * A program that limits itself, for preload-limited.sh; it knows nothing of the
 * library. With memory, perhaps children, and freed memory, it sets a limit that
 * leaves it its size and some more, then must get what the limit allows, no more,
 * and have right memory and right children.
 *
 * Use: limited as|data|lock|nnp|seccomp early|late|child|freed
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define SIZE (40 * MIB)
#define PAGE 4096

#define NEED(condition) do {							\
		if (!(condition)) {						\
			fprintf(stderr, "%d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
			exit(1);						\
		}								\
	} while (0)

static unsigned char *area, *gone;

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void fill(unsigned char *p, size_t size, unsigned value)
{
	for (size_t i = 0; i < size; i += PAGE)
		p[i] = (unsigned char)(value + i / PAGE);
}

static int is_filled(const unsigned char *p, size_t size, unsigned value)
{
	for (size_t i = 0; i < size; i += PAGE)
		if (p[i] != (unsigned char)(value + i / PAGE))
			return 0;
	return 1;
}

/* A child that looks and writes, and maps memory of its own. */
static void forks_are_right(unsigned value)
{
	int status;
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		unsigned char *own;

		NEED(is_filled(area, SIZE, value));
		fill(area, SIZE, value + 3);
		own = map(40 * MIB);
		NEED(own && !own[PAGE]);
		fill(own, 40 * MIB, 9);
		NEED(is_filled(area, SIZE, value + 3) && is_filled(own, 40 * MIB, 9));
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	NEED(is_filled(area, SIZE, value));
}

static void limit(int resource, rlim_t n)
{
	struct rlimit l;

	NEED(getrlimit((__rlimit_resource_t)resource, &l) == 0);
	l.rlim_cur = n;
	if (n % 2)
		NEED(prlimit(0, (__rlimit_resource_t)resource, &l, NULL) == 0);
	else
		NEED(setrlimit((__rlimit_resource_t)resource, &l) == 0);
}

/* What the limit must allow, and what it must not. */
static void allocations(int limited)
{
	unsigned char *p = calloc(700, MIB), *q = map(64 * MIB);

	NEED(p && q);
	NEED(!p[PAGE] && !q[PAGE]);
	fill(q, 64 * MIB, 5);
	fill(p, 8 * MIB, 6);
	if (limited) {
		NEED(!map((size_t)3 << 30));
		NEED(errno == ENOMEM);
	}
	forks_are_right(2);
	NEED(is_filled(q, 64 * MIB, 5) && is_filled(p, 8 * MIB, 6));
	free(p);
	NEED(munmap(q, 64 * MIB) == 0);
}

/* A filter that kills for what a store or a freeze would do. */
static void lock_in(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	const struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int take(const char *what)
{
	if (!strcmp(what, "as"))
		limit(RLIMIT_AS, (rlim_t)1536 << 20);
	else if (!strcmp(what, "data"))
		limit(RLIMIT_DATA, ((rlim_t)1536 << 20) + 1);
	else if (!strcmp(what, "lock"))
		NEED(mlockall(MCL_CURRENT) == 0 || errno == ENOMEM || errno == EPERM);
	else if (!strcmp(what, "nnp"))
		NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	else
		lock_in();
	return !strcmp(what, "as") || !strcmp(what, "data");
}

static void give_back(const char *what)
{
	if (!strcmp(what, "as"))
		limit(RLIMIT_AS, RLIM_INFINITY);
	else if (!strcmp(what, "data"))
		limit(RLIMIT_DATA, RLIM_INFINITY);
	else if (!strcmp(what, "lock"))
		NEED(munlockall() == 0);
}

int main(int argc, char **argv)
{
	pid_t child = 0;
	int limited, status = 0, ask[2];

	if (argc != 3)
		return 2;
	NEED(pipe(ask) == 0);
	area = map(SIZE);
	gone = map(64 * MIB);
	NEED(area && gone);
	fill(area, SIZE, 1);
	fill(gone, 64 * MIB, 1);
	if (!strcmp(argv[2], "late"))
		forks_are_right(1);
	if (!strcmp(argv[2], "child") || !strcmp(argv[2], "freed")) {
		child = fork();
		if (child == 0) {
			char c;

			close(ask[1]);
			_exit(read(ask[0], &c, 1) != 0 || !is_filled(area, SIZE, 1) ||
			      !is_filled(gone, 64 * MIB, 1));
		}
	}
	if (!strcmp(argv[2], "freed"))
		NEED(munmap(gone, 64 * MIB) == 0);
	fill(area, SIZE, 2);
	limited = take(argv[1]);
	NEED(is_filled(area, SIZE, 2));
	allocations(limited);
	give_back(argv[1]);
	allocations(0);
	close(ask[1]);
	NEED(!child || (waitpid(child, &status, 0) == child && status == 0));
	return 0;
}
