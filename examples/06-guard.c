/*
 * What a guard would cost: a system call filter that tells a supervisor of the zeroing
 * advices (madvise(2)) on a few ranges of addresses, so that raw calls on managed memory were
 * seen. cowfork has none; this is why, on any machine, in one run:
 *
 *   - the cheapest system calls that the filter does not name take that much longer,
 *   - a call that it names waits for another thread,
 *   - and after the supervisor's end, in whoever inherited the filter, the same call
 *     fails with ENOSYS: in an orphan, and in any program that it becomes by execve(2).
 *
 * Each round measures a process without and one with the filter, in turns; medians of the
 * rounds, and the least and greatest ratio of a round. By libseccomp's notify interface.
 *
 * Use: 06-guard [ROUNDS [RANGES]]	(default 9 rounds, 4 ranges of 16 MiB)
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANGE ((size_t)16 << 20)
#define RANGES_MOST 64
#define ROUNDS_MOST 99
#define PAGE 4096

enum what { GETPPID, READ, ELSEWHERE, NAMED, FORK, WHATS };

static const struct {
	const char *name;
	unsigned calls;
} whats[WHATS] = {
	[GETPPID] = { "getppid, not named", 100000 },
	[READ] = { "read of a byte, not named", 50000 },
	[ELSEWHERE] = { "madvise of other memory", 50000 },
	[NAMED] = { "madvise of a range, named", 3000 },
	[FORK] = { "fork, exit, wait", 200 },
};

static int zero, listener, ranges = 4;
static char *range, *other;

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void die(const char *what, int error)
{
	fprintf(stderr, "06-guard: %s: %s\n", what, strerror(error));
	exit(1);
}

/* --- the guard ------------------------------------------------------------ */

/* As a guard would: zeros, and the call is done. */
static void *supervise(void *arg)
{
	struct seccomp_notif *call;
	struct seccomp_notif_resp *answer;

	(void)arg;
	if (seccomp_notify_alloc(&call, &answer) < 0)
		return NULL;
	for (;;) {
		memset(call, 0, sizeof(*call));
		if (seccomp_notify_receive(listener, call) < 0)
			continue;
		memset((void *)(uintptr_t)call->data.args[0], 0, PAGE);
		*answer = (struct seccomp_notif_resp){ .id = call->id };
		(void)seccomp_notify_respond(listener, answer);
	}
	return NULL;
}

static int name_range(scmp_filter_ctx filter, uintptr_t start)
{
	static const unsigned advices[] = { MADV_DONTNEED, MADV_FREE, MADV_REMOVE,
					    24 /* MADV_DONTNEED_LOCKED */ };
	int ret = 0;

	for (size_t i = 0; i < sizeof(advices) / sizeof(*advices); i++)
		if (ret == 0)
			ret = seccomp_rule_add(filter, SCMP_ACT_NOTIFY, SCMP_SYS(madvise), 2,
					       SCMP_A0(SCMP_CMP_MASKED_EQ, ~(RANGE - 1), start),
					       SCMP_A2(SCMP_CMP_EQ, advices[i], 0));
	return ret;
}

/* The first of them is mapped, the others are farther up. */
static void guard(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	pthread_t thread;
	int ret = filter ? 0 : -ENOMEM;

	if (ret == 0)		/* the fastest that it can do */
		ret = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (int i = 0; ret == 0 && i < ranges; i++)
		ret = name_range(filter, (uintptr_t)range + (uintptr_t)i * 64 * RANGE);
	if (ret == 0)
		ret = seccomp_load(filter);
	if (ret < 0)
		die("no filter", -ret);
	listener = seccomp_notify_fd(filter);
	seccomp_release(filter);
	ret = pthread_create(&thread, NULL, supervise, NULL);
	if (ret)
		die("no thread", ret);
}

/* --- what it costs -------------------------------------------------------- */

static void call(enum what what)
{
	char byte;
	pid_t pid;

	switch (what) {
	case GETPPID:
		(void)syscall(SYS_getppid);
		break;
	case READ:
		(void)!read(zero, &byte, 1);
		break;
	case ELSEWHERE:
		(void)syscall(SYS_madvise, other, PAGE, MADV_DONTNEED);
		break;
	case NAMED:
		(void)syscall(SYS_madvise, range, PAGE, MADV_DONTNEED);
		break;
	default:
		pid = fork();
		if (pid == 0)
			_exit(0);
		(void)waitpid(pid, NULL, 0);
	}
}

/* ns a call, the least of a few tries. */
static double measure(enum what what)
{
	double least = 0;

	for (int try = 0; try < 5; try++) {
		double start = now_ns(), each;

		for (unsigned i = 0; i < whats[what].calls; i++)
			call(what);
		each = (now_ns() - start) / whats[what].calls;
		least = try && least < each ? least : each;
	}
	return least;
}

/* In a process of its own: who has a filter keeps it. */
static void run(int guarded, double *ret_ns)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (guarded)
			guard();
		for (enum what w = 0; w < WHATS; w++)
			ret_ns[w] = measure(w);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		exit(1);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *of, int n)
{
	qsort(of, (size_t)n, sizeof(*of), compare);
	return n % 2 ? of[n / 2] : (of[n / 2 - 1] + of[n / 2]) / 2;
}

static void tell(enum what what, int n, double (*all)[2][WHATS])
{
	double plain[ROUNDS_MOST], guarded[ROUNDS_MOST], ratio[ROUNDS_MOST];

	for (int i = 0; i < n; i++) {
		plain[i] = all[i][0][what];
		guarded[i] = all[i][1][what];
		ratio[i] = guarded[i] / plain[i];
	}
	printf("%-26s %10.0f %10.0f %8.3f", whats[what].name, median(plain, n),
	       median(guarded, n), median(ratio, n));
	printf("  %.3f..%.3f\n", ratio[0], ratio[n - 1]);	/* sorted by now */
}

/* --- when the supervisor is gone ------------------------------------------ */

/* The orphan waits for its end, and calls then. */
static void tell_of_orphan(void)
{
	int ends[2], status;
	char byte;
	pid_t pid;

	if (pipe(ends) < 0)
		die("pipe", errno);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		guard();
		if (fork() != 0)
			_exit(0);
		close(listener);
		(void)!read(ends[0], &byte, 1);
		if (syscall(SYS_madvise, range, PAGE, MADV_DONTNEED) == 0)
			printf("after the supervisor's end: the call works\n");
		else
			printf("after the supervisor's end: %s\n", strerror(errno));
		fflush(stdout);
		_exit(0);
	}
	(void)waitpid(pid, &status, 0);
	close(ends[0]);
	(void)!write(ends[1], "", 1);
	close(ends[1]);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 9;
	double(*all)[2][WHATS];
	size_t size = sizeof(*all) * ROUNDS_MOST;
	char *p = mmap(NULL, 2 * RANGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	ranges = argc > 2 ? atoi(argv[2]) : ranges;
	if (rounds < 1 || rounds > ROUNDS_MOST || ranges < 1 || ranges > RANGES_MOST) {
		fprintf(stderr, "use: 06-guard [ROUNDS (1..%d) [RANGES (1..%d)]]\n",
			ROUNDS_MOST, RANGES_MOST);
		return 2;
	}
	all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || (void *)all == MAP_FAILED || other == MAP_FAILED)
		die("memory", errno);
	range = (char *)(((uintptr_t)p + RANGE - 1) & ~(uintptr_t)(RANGE - 1));
	zero = open("/dev/zero", O_RDONLY);
	for (int i = 0; i < rounds; i++)
		for (int guarded = 0; guarded < 2; guarded++)
			run(guarded, all[i][guarded]);
	printf("%-26s %10s %10s %8s  %s\n", "ns, median", "plain", "guarded", "ratio",
	       "rounds");
	for (enum what w = 0; w < WHATS; w++)
		tell(w, rounds, all);
	tell_of_orphan();
	return 0;
}
