/*
 * Live thaws under all that threads do: some write, by hand and by system calls,
 * some read, some sleep and wake each other by mutexes and condition variables that
 * lie in the memory, one makes memory calls, some fork, and children and
 * grandchildren look at all of it, while the kernel moves pages about. Storms of
 * forks and quiet times take turns, so that there is something to thaw and time for
 * it. Nothing may be lost, torn, short or hang; nothing may be left at the end; and
 * tables must have been thawed. Longer than other files: pages, and the thread that
 * makes memory calls, have their own; what is left needs all of the threads' state.
 *
 * Use: stress-mover [--seconds N] [--seed N]
 * Default: 8 seconds.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
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
#include "stress-pages.h"
#include "stress-play.h"

#define FORKERS 2
#define LOCKERS 3
#define ALIVE 4u		/* children of a forker at a time */
#define STACK (256ul << 10)
#define PATIENCE 30		/* seconds without progress are a hang */

/* Children that ended badly, and threads that saw something wrong. */
static atomic_int bad;
static atomic_int stop, storm, forkers_idle;
static uint64_t seed;

/* Those who write hold it for reading, a fork that wants an exact moment for
 * writing. Nobody else needs it. */
static pthread_rwlock_t moment;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void nap(unsigned us)
{
	const struct timespec ts = { us / 1000000, (long)(us % 1000000) * 1000 };

	nanosleep(&ts, NULL);
}

static struct cow_stats stats(void)
{
	struct cow_stats st = { .size = sizeof(st) };

	if (cow_stats(&st) < 0)
		die("cow_stats");
	return st;
}

/* --- threads ------------------------------------------------------------ */

enum kind { OWNER, READER, LOCKER, PLAYER, FORKER, THAWER, SIGNALLER, KINDS };

static struct thread {
	pthread_t thread;
	enum kind kind;
	unsigned number;	/* of its kind */
	struct random random;
	atomic_uint steps;
} threads[OWNERS + LOCKERS + FORKERS + 4];
static unsigned thread_count;

static const char *const kind_names[KINDS] = { "owner", "reader", "locker", "player", "forker",
					       "thawer", "signaller" };

/* --- locks in the memory ------------------------------------------------- */

/* On a page of its own, in a region that is not of the pages. */
static struct shared {
	pthread_mutex_t mutex;
	pthread_cond_t turned;
	unsigned turn;
	sem_t sem;
	uint64_t a;
	char far[3 * 4096];
	uint64_t b;
} *shared;

static void *stack;		/* of the first owner, in a region of its own */

/* Each waits for its turn, so a wake-up that is lost is a hang. */
static int lock_step(struct thread *t)
{
	int wrong;

	pthread_mutex_lock(&shared->mutex);
	while (shared->turn % LOCKERS != t->number && !stop)
		pthread_cond_wait(&shared->turned, &shared->mutex);
	wrong = shared->a != shared->b;
	shared->a++;
	shared->turn++;
	shared->b++;
	pthread_cond_broadcast(&shared->turned);
	pthread_mutex_unlock(&shared->mutex);
	if (wrong)
		printf("two numbers under a mutex differ\n");
	sem_wait(&shared->sem);
	sem_post(&shared->sem);
	if (draw(&t->random, 20) == 0)
		nap(1000);
	return wrong;
}

static void *make_region(int number, size_t size)
{
	void *p = NULL;

	(void)number;
	errno = 0;
	if (cow_region_create(size, 0, &p) < 0)
		die("cow_region_create");
	return p;
}

static void destroy_region(void *at)
{
	if (cow_region_destroy(at) < 0)
		die("cow_region_destroy");
}

static void make_shared(void)
{
	shared = make_region(0, sizeof(*shared));
	pthread_mutex_init(&shared->mutex, NULL);
	pthread_cond_init(&shared->turned, NULL);
	sem_init(&shared->sem, 0, 1);
	stack = make_region(0, STACK);
}

/* --- children ----------------------------------------------------------- */

/* What a child may see: filled by its parent before and after the fork, the latter
 * in shared memory. */
static struct slot {
	atomic_int ready;
	uint32_t after[5000];
} *slots;			/* one for each child that a forker can have */

struct fork {
	uint32_t before[5000];
	struct slot *slot;
	int exact;
	struct random random;
};

static void look_up(const struct fork *f, uint32_t *after)
{
	for (int i = 0; !atomic_load(&f->slot->ready); i++) {
		if (i > PATIENCE * 1000)
			die("a child's parent went away");
		nap(1000);
	}
	memcpy(after, f->slot->after, pages * sizeof(*after));
}

/* It looks like a version of the owner's, but far ahead. */
#define CHILDS (1u << 30)

static int write_and_check(struct fork *f, uint32_t *before, uint32_t *after)
{
	unsigned n = draw(&f->random, 4) ? 50 : 1500;

	for (unsigned k = 0; k < n; k++) {
		size_t i = draw(&f->random, pages);
		volatile uint64_t *p = (uint64_t *)page_at(i);

		if (cow_mprotect(page_at(i), PAGE, PROT_READ | PROT_WRITE) < 0)
			die("a child's cow_mprotect");
		before[i] = after[i] = CHILDS + k * 4;
		p[0] = p[8] = p[255] = p[511] = (uint64_t)(i + 1) << 32 | before[i] >> 2;
	}
	return pages_check(before, after, "child that wrote");
}

static int end_of(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	if (status)
		printf("%d ended with status %#x\n", (int)pid, status);
	return status != 0;
}

/* It sees what the child left, also when that goes on. */
static int grandchild(struct fork *f, const uint32_t *before, const uint32_t *after,
		      int *ret_bad)
{
	pid_t pid = cow_fork();

	if (pid == 0) {
		nap(draw(&f->random, 20000));
		_exit(pages_check(before, after, "grandchild") != 0);
	}
	if (pid < 0)
		die("a child's cow_fork");
	if (draw(&f->random, 2))
		*ret_bad |= end_of(pid);
	return pid;
}

static int child(struct fork *f)
{
	static uint32_t after[5000];
	uint64_t sum = pages_sum();
	int wrong = f->exact && play_check("child");
	unsigned us = draw(&f->random, 5) ? 0 : draw(&f->random, 100000);

	look_up(f, after);
	wrong |= pages_check(f->before, after, "child");
	nap(us);
	if (sum != pages_sum()) {
		printf("a child's memory changed\n");
		wrong = 1;
	}
	if (draw(&f->random, 4) == 0)
		wrong |= cow_thaw() != 0;	/* nothing here is its own */
	if (draw(&f->random, 2))
		wrong |= write_and_check(f, f->before, after);
	if (draw(&f->random, 5) == 0)
		grandchild(f, f->before, after, &wrong);
	return wrong;
}

/* --- forks -------------------------------------------------------------- */

static struct forker {
	struct fork fork;
	struct { pid_t pid; struct slot *slot; } alive[ALIVE];
} forkers[FORKERS];

static int reap(struct forker *f, unsigned i)
{
	int wrong = f->alive[i].pid && end_of(f->alive[i].pid);

	f->alive[i].pid = 0;
	return wrong;
}

static int reap_all(struct forker *f)
{
	int wrong = 0;

	for (unsigned i = 0; i < ALIVE; i++)
		wrong |= reap(f, i);
	return wrong;
}

static int one_fork(struct thread *t)
{
	struct forker *f = &forkers[t->number];
	unsigned i = draw(&t->random, ALIVE);
	int wrong = reap(f, i);
	struct fork *k = &f->fork;
	pid_t pid;

	k->slot = &slots[t->number * ALIVE + i];
	k->slot->ready = 0;
	k->exact = draw(&t->random, 3) == 0;
	k->random.state = t->random.state ^ 77;
	if (k->exact)
		pthread_rwlock_wrlock(&moment);
	pages_note(k->before);
	pid = draw(&t->random, 3) ? cow_fork() : fork();
	if (pid == 0)
		_exit(child(k));
	pages_note(k->slot->after);
	k->slot->ready = 1;
	if (k->exact)
		pthread_rwlock_unlock(&moment);
	if (pid < 0)
		die("fork");
	f->alive[i].pid = pid;
	if (draw(&t->random, 3))
		wrong |= reap(f, i);
	return wrong;
}

static int fork_step(struct thread *t)
{
	int wrong = 0;

	if (storm)
		return one_fork(t);
	wrong = reap_all(&forkers[t->number]);
	forkers_idle++;
	while (!storm && !stop) {
		nap(1000);
		t->steps++;
	}
	forkers_idle--;
	return wrong;
}

/* --- what threads do ----------------------------------------------------- */

static int thaw_step(struct thread *t)
{
	int ret;

	nap(draw(&t->random, 60000));
	if (draw(&t->random, 5) == 0)
		return cow_prepare() != 0;
	ret = cow_thaw();
	if (ret == 0 || ret == -EBUSY)
		return 0;
	if (ret == -EAGAIN && stats().frozen_reason == COW_REASON_PINNED)
		return 0;	/* by process_vm_writev() */
	printf("cow_thaw: %s: %s\n", strerror(-ret),
	       cow_reason_string((enum cow_reason)stats().frozen_reason));
	return 1;
}

/* The handler runs on whatever stack there is, and looks at the memory. */
static void on_signal(int sig)
{
	(void)sig;
	if (((volatile struct shared *)shared)->turn == UINT32_MAX)
		bad = 1;
}

/* Only to those who make no call that a signal would cut short. */
static int signal_step(struct thread *t)
{
	pthread_kill(threads[draw(&t->random, USERS)].thread, SIGUSR1);
	nap(draw(&t->random, 3000));
	return 0;
}

static int step(struct thread *t, struct owner *o)
{
	int wrong = 0;

	switch (t->kind) {
	case OWNER:
	case PLAYER:
		pthread_rwlock_rdlock(&moment);
		wrong = t->kind == OWNER ? owner_step(o) : play_step(&t->random);
		pthread_rwlock_unlock(&moment);
		break;
	case READER: return pages_look(&t->random, 500);
	case LOCKER: return lock_step(t);
	case FORKER: return fork_step(t);
	case THAWER: return thaw_step(t);
	case SIGNALLER: return signal_step(t);
	case KINDS: break;
	}
	if (draw(&t->random, 8) == 0)
		nap(draw(&t->random, 2000));
	return wrong;
}

static void *run(void *arg)
{
	struct thread *t = arg;
	struct owner *o = NULL;

	if (t->kind == OWNER) {
		o = malloc(sizeof(*o));
		if (!o)
			die("malloc");
		owner_open(o, t->number, seed);
	}
	while (!stop && !bad) {
		if (step(t, o)) {
			printf("%s %u complains\n", kind_names[t->kind], t->number);
			bad = 1;
		}
		t->steps++;
	}
	if (t->kind == FORKER)
		bad |= reap_all(&forkers[t->number]);
	if (o)
		owner_close(o);
	free(o);
	return NULL;
}

static void start(enum kind kind, unsigned number)
{
	struct thread *t = &threads[thread_count++];
	pthread_attr_t attr;

	*t = (struct thread){ .kind = kind, .number = number };
	t->random.state = seed * 31 + thread_count;
	pthread_attr_init(&attr);
	if (kind == OWNER && number == 0)
		pthread_attr_setstack(&attr, stack, STACK);
	if (pthread_create(&t->thread, &attr, run, t) != 0)
		die("pthread_create");
	pthread_attr_destroy(&attr);
}

static void start_all(void)
{
	thread_count = 0;
	for (unsigned i = 0; i < OWNERS; i++)
		start(OWNER, i);
	for (unsigned i = 0; i < LOCKERS; i++)
		start(LOCKER, i);
	for (unsigned i = 0; i < FORKERS; i++)
		start(FORKER, i);
	start(READER, 0);
	start(PLAYER, 0);
	start(THAWER, 0);
	start(SIGNALLER, 0);
}

static void wake_lockers(void)
{
	pthread_mutex_lock(&shared->mutex);
	pthread_cond_broadcast(&shared->turned);
	pthread_mutex_unlock(&shared->mutex);
}

/* Nobody sleeps for an end: the kernel tells it by a shared futex, which must not lie
 * in a region (cowfork(7)), and one has its stack there. */
static void join_all(void)
{
	for (unsigned i = 0; i < thread_count; i++) {
		while (pthread_tryjoin_np(threads[i].thread, NULL) != 0) {
			wake_lockers();
			nap(1000);
		}
	}
}

/* --- what watches -------------------------------------------------------- */

static void report_hang(void)
{
	for (unsigned i = 0; i < thread_count; i++)
		printf("%s %u: %u steps\n", kind_names[threads[i].kind], threads[i].number,
		       threads[i].steps);
	die("a thread hangs");
}

/* Called often; each thread must have moved within PATIENCE. */
static void watch(void)
{
	static unsigned last[sizeof(threads) / sizeof(*threads)];
	static double moved[sizeof(threads) / sizeof(*threads)];

	for (unsigned i = 0; i < thread_count; i++) {
		if (threads[i].steps != last[i] || !moved[i])
			moved[i] = now();
		last[i] = threads[i].steps;
		errno = 0;
		if (!bad && now() - moved[i] > PATIENCE)
			report_hang();
	}
}

static void rest(unsigned ms)
{
	double end = now() + ms / 1e3;

	while (now() < end && !bad) {
		watch();
		nap(2000);
	}
}

/* --- storms and quiet times ---------------------------------------------- */

static void short_fork(void)
{
	pid_t pid = cow_fork();

	if (pid == 0)
		_exit(0);
	if (pid < 0)
		die("fork");
	bad |= end_of(pid);
}

/* A grandchild may outlive its parent for a moment, and a page be pinned. */
static int thaw_in_the_end(void)
{
	double end = now() + PATIENCE;
	int ret;

	while (((ret = cow_thaw()) == -EBUSY || ret == -EAGAIN) && now() < end)
		nap(1000);
	return ret;
}

static int quiet_time(struct random *r)
{
	int ret = 0;

	storm = 0;
	while (forkers_idle < FORKERS && !bad)
		rest(1);
	switch (draw(r, 4)) {
	case 0:
		ret = thaw_in_the_end();
		break;
	case 1:		/* into the middle of a thaw */
		rest(50 + draw(r, 20));
		short_fork();
		break;
	default:
		break;
	}
	rest(draw(r, 3) ? 80 + draw(r, 150) : draw(r, 30));
	if (ret)
		printf("cow_thaw in a quiet time: %s\n", strerror(-ret));
	return ret != 0;
}

static void weather(struct random *r, double seconds)
{
	static const enum cow_huge huge[] = { COW_HUGE_AUTO, COW_HUGE_ALWAYS, COW_HUGE_NEVER };
	double end = now() + seconds;

	while (now() < end && !bad) {
		const struct cow_options o = { sizeof(o), 64 << 10, COW_ENGINE_STORE,
					       huge[draw(r, 3)], COW_THAW_AUTO, COW_ADOPT_NEVER };

		if (cow_options_set(&o) < 0)
			die("options");
		storm = 1;
		rest(20 + draw(r, 150));
		bad |= quiet_time(r);
	}
}

/* --- what is left --------------------------------------------------------- */

struct left {
	int maps, threads, descriptors;
};

/* But for the store's shared maps, which are as many as its shadow had protections. */
static int count_maps(void)
{
	char line[512];
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && fgets(line, sizeof(line), f)) {
		const char *perms = strchr(line, ' ');

		n += !strstr(line, "/memfd:cowfork") || (perms && perms[4] == 'p');
	}
	if (f)
		fclose(f);
	return n;
}

static int count_threads(void)
{
	char line[512];
	int n = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "Threads:", 8))
			n = atoi(line + 8);
	if (f)
		fclose(f);
	return n;
}

static int count_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static struct left count_all(void)
{
	struct left l = { .descriptors = count_descriptors() };
	double end = now() + PATIENCE;

	while ((l.threads = count_threads()) > 2 && now() < end)
		nap(1000);	/* this one, and the mover that rests */
	l.maps = count_maps();
	process_each_own(s)
		l.maps -= (int)s->spare.held;
	return l;
}

/* Stacks of threads that ended stay with the C library, two maps each. */
static int is_left(const struct left *before, const struct left *after)
{
	if (after->threads <= 2 && after->descriptors == before->descriptors &&
	    after->maps <= before->maps + 10)
		return 0;
	printf("left: %d maps after %d, %d threads, %d descriptors after %d\n", after->maps,
	       before->maps, after->threads, after->descriptors, before->descriptors);
	return 1;
}

static void *sleep_on(void *arg)
{
	while (!*(atomic_int *)arg)
		nap(1000);
	return NULL;
}

/* Beside a thread that lives, all is thawed; nothing else is left frozen. */
static int thaw_all_of_it(void)
{
	struct random r = { seed };
	atomic_int done = 0;
	pthread_t other;
	uint64_t frozen;
	int ret;

	if (pthread_create(&other, NULL, sleep_on, &done) != 0)
		die("pthread_create");
	ret = thaw_in_the_end();
	frozen = stats().bytes_frozen;
	done = 1;
	pthread_join(other, NULL);
	if (ret || frozen)
		printf("at the end cow_thaw says %d and %llu bytes are frozen\n", ret,
		       (unsigned long long)frozen);
	return ret || frozen || pages_look(&r, 3 * pages) || play_check("at the end");
}

/* All but the helper, which is of another process group. */
static int wait_for_orphans(void)
{
	int status, wrong = 0;
	pid_t pid;

	while ((pid = waitpid(0, &status, 0)) > 0 || (pid < 0 && errno == EINTR))
		if (pid > 0 && status) {
			printf("orphan %d ended with status %#x\n", (int)pid, status);
			wrong = 1;
		}
	return wrong;
}

/* --- main --------------------------------------------------------------- */

static void one_life(struct random *r, double seconds, struct left *ret_left)
{
	stop = 0;
	pages_create(make_region);
	make_shared();
	start_all();
	weather(r, seconds);
	stop = 1;
	join_all();
	storm = 0;
	bad |= wait_for_orphans();
	if (!bad)
		bad |= thaw_all_of_it();
	if (bad)
		return;
	play_end();
	destroy_region(shared);
	destroy_region(stack);
	pages_destroy(destroy_region);
	*ret_left = count_all();
}

static void provoke(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	for (;;) {
		int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

		if (fd >= 0) {
			(void)!write(fd, "1", 1);
			close(fd);
		}
		usleep(20000);
	}
}

static void prepare(void)
{
	pthread_rwlockattr_t attr;
	const struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigaction(SIGUSR1, &action, NULL);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&moment, &attr);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	slots = mmap(NULL, FORKERS * ALIVE * sizeof(*slots), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED)
		die("mmap");
}

static int stress(double seconds)
{
	struct random r = { seed };
	struct left before, after;
	struct cow_stats st;

	prepare();
	one_life(&r, 0.3, &before);	/* the C library has its stacks then */
	if (!bad)
		one_life(&r, seconds, &after);
	st = stats();
	printf("%llu forks, %llu thaws of %llu tables, none held longer than %llu us\n",
	       (unsigned long long)st.forks, (unsigned long long)st.thaws,
	       (unsigned long long)st.thaw_tables,
	       (unsigned long long)st.thaw_hold_ns_max / 1000);
	if (bad)
		return 1;
	if (!st.thaw_tables)
		printf("nothing was thawed\n");
	return !st.thaw_tables || is_left(&before, &after);
}

int main(int argc, char **argv)
{
	struct cow_facilities f = { .size = sizeof(f) };
	double seconds = 8;
	pid_t helper;
	int ret;

	seed = (uint64_t)time(NULL);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 10);
	}
	setvbuf(stdout, NULL, _IONBF, 0);
	if (cow_facilities(&f) < 0 || !f.userfaultfd) {
		printf("skip: no userfaultfd that sees the kernel's faults\n");
		return 77;
	}
	printf("seed %llu\n", (unsigned long long)seed);
	alarm((unsigned)seconds + 2 * PATIENCE);
	helper = fork();
	if (helper == 0)
		provoke();
	setpgid(helper, helper);
	ret = stress(seconds);
	kill(helper, SIGKILL);
	return ret;
}
