/*
 * Threads, signals and handlers around forks, by chance, for a while:
 *
 *   preload-threads [--seconds N] [--seed N] SCENARIO     or --list
 *
 * Workers make memory calls on areas of their own, each in a slot that is
 * marked steady while nobody changes it. A child sees steady slots as filled:
 * whatever was written before a slot was marked was written before the fork.
 * Areas that nobody ever changes lie among them. A child checks all of them,
 * scribbles on them and makes memory calls itself; the parent must not notice.
 *
 * Long, since all scenarios share the slots, their marks and the child's checks.
 *
 * It runs without the preload runtime too: what fails there is the test's fault.
 *
 * SPDX-License-Identifier: MIT
 */
#include <execinfo.h>
#include <grp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/time.h>

#include "preload-support.h"

enum { WORKERS = 3, SLOTS = 6, STILL = 5, MOST = 12 };

struct slot {
	char *at;
	size_t size;
	unsigned seed;
	atomic_int steady;
};

struct worker {
	struct slot slots[SLOTS];
	pthread_mutex_t lock;	/* in scenarios whose forks stop the workers */
	unsigned dice;
	pthread_t thread;
};

static struct worker workers[WORKERS];
static struct slot still[STILL];
static atomic_int failures, stop;
static int with_locks;
static unsigned seed0;
static double until;
extern char **environ;

static unsigned roll(unsigned *dice, unsigned sides)
{
	return (unsigned)rand_r(dice) % sides;
}

/* An own stream for each thread and each child. */
static unsigned new_dice(unsigned number)
{
	return seed0 * 7919 + number * 104729 + 1;
}

static int time_is_left(void)
{
	return seconds() < until && !atomic_load(&failures);
}

static void fail(const char *what, int value)
{
	char s[200];
	int n = snprintf(s, sizeof(s), "FAIL: %s: %d\n", what, value);

	(void)!write(STDERR_FILENO, s, (size_t)n);
	atomic_fetch_add(&failures, 1);
}

/* --- slots ---------------------------------------------------------------- */

static int is_right(const struct slot *s)
{
	return !s->at || is_filled(s->at, s->size, s->seed);
}

static void renew(struct slot *s)
{
	s->seed++;
	fill(s->at, s->size, s->seed);
}

static size_t some_size(unsigned *dice)
{
	return (1 + roll(dice, MOST)) * 64 * KIB;
}

static void must_be_zero(const char *call, const char *at, size_t len)
{
	if (!is_zero(at, len))
		fail(call, 0);
}

/* A call that Linux may refuse for want of maps only. */
static int refused(const char *call, int failed)
{
	if (failed && errno != ENOMEM)
		fail(call, errno);
	return failed;
}

static void map_anew(struct slot *s, unsigned *dice)
{
	const int prot[] = { PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ };
	unsigned kind = roll(dice, 4) ? 0 : 1 + roll(dice, 2);

	if (s->at && refused("munmap", munmap(s->at, s->size)))
		return;
	s->size = some_size(dice);
	s->at = map_with(s->size, prot[kind]);
	if (kind && refused("mprotect", mprotect(s->at, s->size, PROT_READ | PROT_WRITE))) {
		munmap(s->at, s->size);
		s->at = NULL;
		return;
	}
	must_be_zero("mmap", s->at, s->size);
	renew(s);
}

static void resize(struct slot *s, unsigned *dice)
{
	size_t size = some_size(dice);
	char *to = mremap(s->at, s->size, size, MREMAP_MAYMOVE);

	if (to == MAP_FAILED) {
		/* EFAULT: it is several mappings, as the kernel says too */
		if (errno != EFAULT)
			(void)refused("mremap", 1);
		return;
	}
	s->at = to;
	if (size > s->size)
		must_be_zero("mremap", to + s->size, size - s->size);
	if (!is_filled(to, size < s->size ? size : s->size, s->seed))
		fail("mremap lost contents", 0);
	s->size = size;
	renew(s);
}

static void advise(struct slot *s, unsigned *dice)
{
	size_t half = roll(dice, 2) ? s->size : s->size / 2;

	if (refused("madvise", madvise(s->at, half, MADV_DONTNEED)))
		return;
	must_be_zero("MADV_DONTNEED", s->at, half);
	renew(s);
}

static void protect(struct slot *s)
{
	size_t half = s->size / 2;

	if (refused("mprotect", mprotect(s->at, half, PROT_READ)))
		return;
	if (!is_right(s))
		fail("mprotect lost contents", 0);
	if (mprotect(s->at, half, PROT_READ | PROT_WRITE) < 0)
		fail("mprotect back", errno);
}

static void cut(struct slot *s)
{
	size_t half = s->size / 2;

	if (half < 64 * KIB || refused("munmap", munmap(s->at + half, s->size - half)))
		return;
	s->size = half;
}

static void map_over(struct slot *s)
{
	size_t half = s->size / 2;
	char *p = mmap(s->at, half, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (refused("mmap", p == MAP_FAILED))
		return;
	must_be_zero("MAP_FIXED", p, half);
	renew(s);
}

static void move_onto(struct slot *s)
{
	char *to = map(s->size);

	if (mremap(s->at, s->size, s->size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to) {
		s->at = to;
		return;
	}
	if (errno != EFAULT)
		(void)refused("mremap", 1);
	munmap(to, s->size);
}

static void one_call(struct slot *s, unsigned *dice)
{
	if (!is_right(s))
		fail("a slot", 0);
	if (!s->at) {
		map_anew(s, dice);
		return;
	}
	switch (roll(dice, 9)) {
	case 0: case 1: map_anew(s, dice); break;
	case 2: resize(s, dice); break;
	case 3: advise(s, dice); break;
	case 4: protect(s); break;
	case 5: cut(s); break;
	case 6: map_over(s); break;
	case 7: move_onto(s); break;
	default: renew(s); break;
	}
}

static void step(struct worker *w, unsigned *dice)
{
	struct slot *s = &w->slots[roll(dice, SLOTS)];

	if (with_locks)
		pthread_mutex_lock(&w->lock);
	atomic_store(&s->steady, 0);
	one_call(s, dice);
	atomic_store(&s->steady, 1);
	if (with_locks)
		pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop)) {
		step(w, &w->dice);
		if (!roll(&w->dice, 4))
			usleep(100);
	}
	return NULL;
}

static void start_workers(int count)
{
	atomic_store(&stop, 0);
	for (int i = 0; i < count; i++) {
		workers[i].dice = new_dice((unsigned)i);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			fail("pthread_create", i);
	}
}

static void stop_workers(int count)
{
	atomic_store(&stop, 1);
	for (int i = 0; i < count; i++)
		if (pthread_join(workers[i].thread, NULL))
			fail("pthread_join", i);
}

static void make_still(void)
{
	for (unsigned i = 0; i < STILL; i++) {
		still[i].size = (i + 2) * 192 * KIB;
		still[i].at = map(still[i].size);
		still[i].seed = 1000 + i;
		fill(still[i].at, still[i].size, still[i].seed);
		if (i % 2 && mprotect(still[i].at, still[i].size, PROT_READ))
			fail("mprotect", errno);
	}
}

/* --- what a child does ---------------------------------------------------- */

static int still_is_right(void)
{
	for (int i = 0; i < STILL; i++)
		NEED(is_right(&still[i]));
	return 0;
}

/* In a child, or where no worker runs: a slot must stay as it is meanwhile. */
static int all_is_right(void)
{
	if (still_is_right())
		return 1;
	for (int w = 0; w < WORKERS; w++)
		for (int i = 0; i < SLOTS; i++)
			if (atomic_load(&workers[w].slots[i].steady))
				NEED(is_right(&workers[w].slots[i]));
	return 0;
}

static void scribble(void)
{
	for (int i = 0; i < STILL; i += 2)
		for (size_t at = 0; at < still[i].size; at += 5 * PAGE)
			still[i].at[at] ^= 0x55;
}

/* Only slots that were steady: the others were in somebody's hands. */
static void some_calls(unsigned *dice, int count)
{
	for (int i = 0; i < count; i++) {
		struct worker *w = &workers[roll(dice, WORKERS)];
		struct slot *s = &w->slots[roll(dice, SLOTS)];

		if (atomic_load(&s->steady))
			one_call(s, dice);
	}
}

static int live_as_child(unsigned dice, int depth)
{
	int ret = all_is_right();
	pid_t pid = -1;

	some_calls(&dice, 6);
	if (depth && roll(&dice, 2)) {
		pid = fork();
		if (pid == 0)
			_exit(live_as_child(new_dice(dice), depth - 1));
		some_calls(&dice, 6);
	}
	ret |= all_is_right();
	scribble();
	if (depth && pid > 0)
		ret |= wait_for(pid);
	return ret || atomic_load(&failures) ? 1 : 0;
}

/* Forks until time is up, some children alive at a time. */
static long fork_on(unsigned number, int depth, int alive)
{
	unsigned dice = new_dice(number);
	pid_t kids[4] = { 0 };
	long forks = 0;

	while (time_is_left()) {
		int k = (int)(forks++ % alive), ret;
		unsigned d = new_dice((unsigned)forks ^ dice);

		if (kids[k] && (ret = wait_for(kids[k])))
			fail("a child", ret);
		kids[k] = fork();
		if (kids[k] == 0) {
			usleep(roll(&d, 3) * 1000);
			_exit(live_as_child(d, depth));
		}
		if (kids[k] < 0)
			fail("fork", errno);
		if (roll(&dice, 3) == 0)
			usleep(1000);
	}
	for (int k = 0; k < alive; k++)
		if (kids[k] > 0 && wait_for(kids[k]))
			fail("a child at the end", 0);
	if (still_is_right())
		fail("the parent's memory", 0);
	return forks;
}

/* --- scenarios: workers and forkers --------------------------------------- */

static long race(void)
{
	long forks;

	start_workers(WORKERS);
	forks = fork_on(100, 2, 3);
	stop_workers(WORKERS);
	return forks;
}

static void *fork_in_thread(void *arg)
{
	return (void *)fork_on((unsigned)(uintptr_t)arg, 1, 1);
}

static long forkers(void)
{
	pthread_t t[3];
	long forks;
	void *more;

	start_workers(2);
	for (uintptr_t i = 0; i < 3; i++)
		if (pthread_create(&t[i], NULL, fork_in_thread, (void *)(200 + i)))
			fail("pthread_create", 0);
	forks = fork_on(100, 1, 2);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], &more);
		forks += (long)more;
	}
	stop_workers(2);
	return forks;
}

static long nobody(void)
{
	if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(65534) < 0 ||
			       setuid(65534) < 0))
		fail("setuid", errno);
	return race();
}

/* A child of a threaded parent starts threads and forks again. */
static int next_generation(int left);

static long fork_generations(int left)
{
	long forks = 0;

	start_workers(2);
	do {
		pid_t pid = fork();
		int ret;

		if (pid == 0)
			_exit(next_generation(left - 1));
		ret = wait_for(pid);
		if (ret)
			fail("a generation", ret);
		forks++;
	} while (left == 4 && time_is_left());
	stop_workers(2);
	return forks;
}

/* What was in the hands of the parent's threads. */
static void forget_unsteady(void)
{
	for (int w = 0; w < WORKERS; w++)
		for (int i = 0; i < SLOTS; i++)
			if (!atomic_load(&workers[w].slots[i].steady))
				workers[w].slots[i].at = NULL;
}

static int next_generation(int left)
{
	seed0 += 17;
	if (all_is_right())
		return 1;
	forget_unsteady();
	if (left)
		fork_generations(left);
	else
		fork_on(300, 0, 1);
	return all_is_right() || atomic_load(&failures);
}

/* The last generation lives for a moment, not until the end. */
static long generations(void)
{
	double end = until;
	long forks = 0;

	while (seconds() < end && !atomic_load(&failures)) {
		until = seconds() + 0.05;
		forks += fork_generations(4);
	}
	return forks;
}

/* --- scenario: threads that come and go ----------------------------------- */

static void *come_and_go(void *arg)
{
	unsigned dice = new_dice((unsigned)(uintptr_t)arg), seed = dice;
	size_t size = some_size(&dice);
	char *p = map(size);
	int before;

	fill(p, size, seed);
	pthread_testcancel();
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	if (roll(&dice, 2)) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(!is_filled(p, size, seed) || live_as_child(dice, 0));
		if (wait_for(pid))
			fail("the child of a thread", 0);
	}
	if (!is_filled(p, size, seed))
		fail("memory of a thread", 0);
	munmap(p, size);
	pthread_setcancelstate(before, NULL);
	if (roll(&dice, 2))
		usleep(1000);
	pthread_testcancel();
	if (roll(&dice, 2))
		pthread_exit(NULL);
	return NULL;
}

static void *make_leavers(void *arg)
{
	unsigned dice = new_dice(400);
	char *stacks[2] = { map(256 * KIB), map(256 * KIB) };
	uintptr_t number = 1000;

	while (time_is_left()) {
		pthread_attr_t attr;
		pthread_t t[2];

		for (int i = 0; i < 2; i++) {
			pthread_attr_init(&attr);
			if (roll(&dice, 2))
				pthread_attr_setstack(&attr, stacks[i], 256 * KIB);
			if (pthread_create(&t[i], &attr, come_and_go, (void *)number++))
				fail("pthread_create", i);
		}
		if (roll(&dice, 2))
			usleep(roll(&dice, 1000));
		pthread_cancel(t[roll(&dice, 2)]);
		for (int i = 0; i < 2; i++)
			if (pthread_join(t[i], NULL))
				fail("pthread_join", i);
	}
	return arg;
}

static long leavers(void)
{
	pthread_t t;
	long forks;

	start_workers(1);
	pthread_create(&t, NULL, make_leavers, NULL);
	forks = fork_on(100, 1, 2);
	pthread_join(t, NULL);
	stop_workers(1);
	return forks;
}

/* --- scenario: handlers --------------------------------------------------- */

static __thread struct { char *at; unsigned depth; pid_t pid; } around;

/* Like an allocator's: its locks, under which threads map, are taken. */
static void take_locks(void)
{
	for (int i = 0; i < WORKERS; i++)
		pthread_mutex_lock(&workers[i].lock);
}

static void drop_locks(void)
{
	for (int i = WORKERS; i--;)
		pthread_mutex_unlock(&workers[i].lock);
}

/* Recursive, as a handler forks: in a child their owner is a stranger. */
static void make_locks(void)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	for (int i = 0; i < WORKERS; i++)
		pthread_mutex_init(&workers[i].lock, &attr);
}

static void use_memory(void)
{
	char *p = map(256 * KIB);

	fill(p, 256 * KIB, 7);
	if (!is_filled(p, 256 * KIB, 7) || munmap(p, 256 * KIB) < 0)
		fail("memory in a handler", errno);
	free(malloc(100000));
}

static void map_and_fork(void)
{
	pid_t pid;

	if (around.depth++)
		return;
	use_memory();
	around.at = map(128 * KIB);
	fill(around.at, 128 * KIB, 8);
	pid = fork();
	if (pid == 0)
		_exit(!is_filled(around.at, 128 * KIB, 8) || all_is_right());
	if (wait_for(pid))
		fail("a child of a handler", 0);
}

static void check_and_unmap(void)
{
	if (--around.depth)
		return;
	if (!is_filled(around.at, 128 * KIB, 8) || munmap(around.at, 128 * KIB) < 0)
		fail("what a handler mapped", errno);
	use_memory();
}

static int handlers_wanted;

static void early_prepare(void) { if (handlers_wanted) map_and_fork(); }
static void early_after(void) { if (handlers_wanted) check_and_unmap(); }

__attribute__((constructor)) static void register_early(void)
{
	pthread_atfork(early_prepare, early_after, early_after);
}

static long handlers(void)
{
	pthread_t t;
	long forks;
	void *more;

	with_locks = 1;
	make_locks();
	pthread_atfork(take_locks, drop_locks, make_locks);
	pthread_atfork(use_memory, use_memory, use_memory);
	handlers_wanted = 1;
	start_workers(WORKERS);
	pthread_create(&t, NULL, fork_in_thread, (void *)200);
	forks = fork_on(100, 1, 1);
	pthread_join(t, &more);
	stop_workers(WORKERS);
	return forks + (long)more;
}

/* --- scenarios: signals --------------------------------------------------- */

static volatile sig_atomic_t handled;
static pid_t (*fork_of_handler)(void);

static void on_timer(int number)
{
	int before = errno;
	char *p = map(192 * KIB);
	pid_t pid;

	(void)number;
	fill(p, 192 * KIB, 5);
	pid = fork_of_handler();
	if (pid == 0)
		_exit(!is_filled(p, 192 * KIB, 5) || all_is_right());
	if (wait_for(pid))
		fail("the child of a signal handler", 0);
	if (!is_filled(p, 192 * KIB, 5) || munmap(p, 192 * KIB) < 0)
		fail("memory of a signal handler", errno);
	handled++;
	errno = before;
}

static void start_timer(pid_t (*by)(void), int us)
{
	const struct sigaction act = { .sa_handler = on_timer, .sa_flags = SA_RESTART };
	const struct itimerval every = { { 0, us }, { 0, us } };

	fork_of_handler = by;
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static void stop_timer(void)
{
	const struct itimerval never = { { 0, 0 }, { 0, 0 } };

	setitimer(ITIMER_REAL, &never, NULL);
	if (!handled)
		fail("no signal came", 0);
}

static int start_of_clone(void *arg)
{
	(void)arg;
	return all_is_right();
}

static pid_t by_clone(void)
{
	static char stack[64 * 1024] __attribute__((aligned(16)));

	return clone(start_of_clone, stack + sizeof(stack), SIGCHLD, NULL);
}

static pid_t by_spawn(void)
{
	char *const argv[] = { (char *)"true", NULL };
	pid_t pid;

	return posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) ? -1 : pid;
}

static pid_t by_vfork(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(9);
	}
	return pid;
}

static pid_t by_forkpty(void)
{
	char drain[64];
	int terminal;
	pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
	ssize_t n;

	if (pid == 0)
		_exit(all_is_right());
	do
		n = read(terminal, drain, sizeof(drain));
	while (n > 0 || (n < 0 && errno == EINTR));
	close(terminal);
	return pid;
}

static pid_t by_bare_fork(void)
{
	pid_t pid = _Fork();

	if (pid == 0)
		_exit(all_is_right());
	return pid;
}

static pid_t (*const makers[])(void) = {
	by_bare_fork, by_clone, by_forkpty, by_spawn, by_vfork,
};

static long signals(void)
{
	unsigned dice = new_dice(100);
	long children = 0;

	start_timer(fork, 3000);
	while (time_is_left()) {
		int kind = (int)(children++ % COUNT(makers)), ret;

		for (int i = 0; i < 5; i++)
			step(&workers[0], &dice);
		ret = wait_for(makers[kind]());
		if (ret)
			fail("a child of kind", kind * 1000 + ret);
	}
	stop_timer();
	return children + handled;
}

/* With threads only _Fork() may be called in a handler. */
static long signals_and_threads(void)
{
	unsigned dice = new_dice(100);
	long children = 0;

	start_workers(2);
	start_timer(_Fork, 2000);
	while (time_is_left()) {
		pid_t pid = fork();
		int ret;

		if (pid == 0)
			_exit(all_is_right());
		ret = wait_for(pid);
		if (ret)
			fail("a child", ret);
		step(&workers[2], &dice);
		children++;
	}
	stop_timer();
	stop_workers(2);
	return children + handled;
}

/* --- scenarios: children that share memory -------------------------------- */

/* Our own wrappers, in the parent's memory, by a child with a pid of its own. */
static int calls_by_a_vfork_child(struct slot *s, unsigned *dice)
{
	volatile unsigned *d = dice;
	pid_t pid = vfork();

	if (pid == 0) {
		unsigned mine = *d;

		for (int i = 0; i < 4; i++)
			one_call(s, &mine);
		*d = mine;
		_exit(0);
	}
	return wait_for(pid);
}

static void *vfork_on(void *arg)
{
	struct worker *w = arg;
	long n = 0;

	for (; time_is_left(); n++) {
		struct slot *s = &w->slots[roll(&w->dice, SLOTS)];
		int ret;

		atomic_store(&s->steady, 0);
		ret = calls_by_a_vfork_child(s, &w->dice);
		if (ret || !is_right(s))
			fail("a vfork child", ret);
		atomic_store(&s->steady, 1);
	}
	return (void *)n;
}

static long vforks(void)
{
	void *more;
	long forks;

	workers[2].dice = new_dice(2);
	start_workers(2);
	pthread_create(&workers[2].thread, NULL, vfork_on, &workers[2]);
	forks = fork_on(100, 1, 2);
	pthread_join(workers[2].thread, &more);
	stop_workers(2);
	return forks + (long)more;
}

static void *spawn_on(void *arg)
{
	unsigned dice = new_dice((unsigned)(uintptr_t)arg);
	char line[8];
	long n = 0;
	FILE *f;
	int ret;

	for (; time_is_left(); n++) {
		switch (roll(&dice, 3)) {
		case 0:
			ret = wait_for(by_spawn());
			break;
		case 1:
			ret = system("exit 0");
			break;
		default:
			f = popen("echo hello", "re");
			ret = !f || !fgets(line, sizeof(line), f) || pclose(f) ||
			      strcmp(line, "hello\n");
			break;
		}
		if (ret)
			fail("a program was not run", ret);
	}
	return (void *)n;
}

static long spawns(void)
{
	pthread_t t[2];
	void *more;
	long forks;

	start_workers(1);
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, spawn_on, (void *)(500 + i));
	forks = fork_on(100, 1, 2);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &more);
		forks += (long)more;
	}
	stop_workers(1);
	return forks;
}

/* A crash tells where it was, then goes its way. */
static void on_crash(int number, siginfo_t *info, void *context)
{
	void *frames[30];
	char s[100];
	int n = snprintf(s, sizeof(s), "pid %d: signal %d at %p\n", (int)getpid(), number,
			 info->si_addr);

	(void)context;
	(void)!write(STDERR_FILENO, s, (size_t)n);
	backtrace_symbols_fd(frames, backtrace(frames, COUNT(frames)), STDERR_FILENO);
}

static void tell_of_crashes(void)
{
	const struct sigaction act = { .sa_sigaction = on_crash,
				       .sa_flags = SA_SIGINFO | SA_RESETHAND };
	void *frame;

	backtrace(&frame, 1);	/* loads what it needs now */
	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

/* --- main ----------------------------------------------------------------- */

static const struct { const char *name; long (*run)(void); } scenarios[] = {
	{ "forkers", forkers },
	{ "generations", generations },
	{ "handlers", handlers },
	{ "leavers", leavers },
	{ "nobody", nobody },
	{ "race", race },
	{ "signals", signals },
	{ "signals-and-threads", signals_and_threads },
	{ "spawns", spawns },
	{ "vforks", vforks },
};

static int run(const char *name, double length)
{
	for (int i = 0; i < COUNT(scenarios); i++) {
		long forks;

		if (strcmp(name, scenarios[i].name))
			continue;
		make_still();
		until = seconds() + length;
		forks = scenarios[i].run();
		if (all_is_right())
			fail("memory at the end", 0);
		printf("%s: seed %u, %ld children, %d failures\n", name, seed0, forks,
		       atomic_load(&failures));
		return atomic_load(&failures) != 0;
	}
	fprintf(stderr, "no scenario %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	double length = 1;
	int at = 1;

	tell_of_crashes();
	seed0 = (unsigned)time(NULL);
	for (; at + 1 < argc; at += 2) {
		if (!strcmp(argv[at], "--seconds"))
			length = atof(argv[at + 1]);
		else if (!strcmp(argv[at], "--seed"))
			seed0 = (unsigned)strtoul(argv[at + 1], NULL, 0);
		else
			break;
	}
	if (at + 1 == argc && !strcmp(argv[at], "--list")) {
		for (int i = 0; i < COUNT(scenarios); i++)
			puts(scenarios[i].name);
		return 0;
	}
	if (at + 1 == argc)
		return run(argv[at], length);
	fprintf(stderr, "usage: preload-threads [--seconds N] [--seed N] SCENARIO|--list\n");
	return 2;
}
