/*
 * Programs that do odd things, one case each, to run under the preload runtime
 * and without it: `preload-odd NAME`. Each says in its comment what once went
 * wrong. A case returns 0, or complains; tests/preload-odd.sh runs them all.
 *
 * Long, since each case is a short program of its own, and all share one table,
 * one area and its patterns.
 *
 *   preload-odd --list            the names
 *   preload-odd --list-native     ... of those that make sense without it too
 *
 * SPDX-License-Identifier: MIT
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#include "preload-support.h"

#define SKIP 77
#define SIZE (8 * MIB)

static char *area;

static int area_is_right(void *seed)
{
	NEED(is_filled(area, SIZE, *(unsigned *)seed));
	fill(area, PAGE, 99);
	return 0;
}

static int area_in_child(unsigned seed)
{
	return in_child(area_is_right, &seed);
}

static void make_area(unsigned seed)
{
	area = map(SIZE);
	fill(area, SIZE, seed);
}

/* --- stacks --------------------------------------------------------------- */

/* A thaw copied the stack that it ran on, and then went on with the copy. The
 * stack is an extent of its own, by a guard: the rest thaws. */
#define STACK MIB

static char *make_stack(void)
{
	area = map(SIZE * 4);
	memset(area, 1, SIZE * 4);
	if (mprotect(area + STACK, PAGE, PROT_NONE) < 0 || !is_managed(area))
		abort();
	return area;
}


static int dirty_and_fork(void)
{
	char *pages = area + STACK + PAGE;
	size_t len = SIZE * 4 - STACK - PAGE;
	volatile uint64_t local[64];
	double end = seconds() + (is_preloaded() ? 20 : 0.2);

	for (unsigned round = 1; seconds() < end && stats().thaws < 3; round++) {
		for (size_t i = 0; i < len; i += PAGE)
			pages[i] = (char)round;
		for (unsigned i = 0; i < 64; i++)
			local[i] = round * 1000 + i;
		NEED(in_child(NULL, NULL) == 0);
		for (unsigned i = 0; i < 64; i++)
			NEED(local[i] == round * 1000 + i);
	}
	NEED(!is_preloaded() || stats().thaws >= 1);
	return 0;
}

static ucontext_t outside, inside;
static int coroutine_bad;

static void coroutine(void)
{
	coroutine_bad = dirty_and_fork();
}

static int stack_of_a_coroutine(void)
{
	getcontext(&inside);
	inside.uc_stack.ss_sp = make_stack();
	inside.uc_stack.ss_size = STACK;
	inside.uc_link = &outside;
	makecontext(&inside, coroutine, 0);
	NEED(swapcontext(&outside, &inside) == 0);
	return coroutine_bad;
}

/* Signal handlers on an alternate stack in a region. */
static volatile sig_atomic_t handled;

static void fork_in_handler(int number)
{
	volatile uint64_t local[64];

	(void)number;
	for (unsigned i = 0; i < 64; i++)
		local[i] = i;
	handled = dirty_and_fork() ? -1 : 1;
	for (unsigned i = 0; i < 64; i++)
		if (local[i] != i)
			handled = -1;
}

static int stack_of_a_signal(void)
{
	const struct sigaction act = { .sa_handler = fork_in_handler,
				       .sa_flags = SA_ONSTACK };
	const stack_t stack = { .ss_sp = make_stack(), .ss_size = STACK };

	NEED(sigaltstack(&stack, NULL) == 0);
	sigaction(SIGUSR1, &act, NULL);
	raise(SIGUSR1);
	NEED(handled == 1);
	return 0;
}

/* pthread_join() waits in a futex on the stack, by a key that a freeze changes. */
static atomic_int go;

static void *wait_to_go(void *arg)
{
	while (!atomic_load(&go))
		usleep(1000);
	return arg;
}

static void *fork_and_go(void *arg)
{
	usleep(100000);	/* the first thread waits in pthread_join() */
	(void)in_child(NULL, NULL);
	atomic_store(&go, 1);
	return arg;
}

static int stack_of_a_thread(void)
{
	pthread_t waits, forks;
	pthread_attr_t attr;

	area = map(4 * MIB);
	NEED(is_managed(area));
	pthread_attr_init(&attr);
	NEED(pthread_attr_setstack(&attr, area, MIB) == 0);
	NEED(pthread_create(&waits, &attr, wait_to_go, NULL) == 0);
	NEED(pthread_create(&forks, NULL, fork_and_go, NULL) == 0);
	NEED(pthread_join(waits, NULL) == 0);
	NEED(pthread_join(forks, NULL) == 0);
	return 0;
}

/* --- locks whose futexes are shared ------------------------------------------ */

/* Known by the page's owner, so that a thread that slept before a freeze was not
 * woken after it. Robust mutexes are such too, by the C library's choice. */
enum { SLEEPERS = 3 };

struct locks {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_rwlock_t rwlock;
	pthread_barrier_t barrier;
	sem_t sem;
	int ready;
};

static struct locks *locks;
static atomic_int asleep, awake, died;

static void sleep_in_mutex(void)
{
	int ret = pthread_mutex_lock(&locks->mutex);

	if (ret == EOWNERDEAD) {
		atomic_fetch_add(&died, 1);
		pthread_mutex_consistent(&locks->mutex);
	}
	pthread_mutex_unlock(&locks->mutex);
}

static void sleep_in_cond(void)
{
	pthread_mutex_lock(&locks->mutex);
	while (!locks->ready)
		pthread_cond_wait(&locks->cond, &locks->mutex);
	pthread_mutex_unlock(&locks->mutex);
}

static void sleep_in_rwlock(void)
{
	pthread_rwlock_rdlock(&locks->rwlock);
	pthread_rwlock_unlock(&locks->rwlock);
}

static void sleep_in_barrier(void)
{
	pthread_barrier_wait(&locks->barrier);
}

static void sleep_in_sem(void)
{
	sem_wait(&locks->sem);
}

static void wake_mutex(void)
{
	pthread_mutex_unlock(&locks->mutex);
}

static void wake_cond(void)
{
	pthread_mutex_lock(&locks->mutex);
	locks->ready = 1;
	pthread_cond_broadcast(&locks->cond);
	pthread_mutex_unlock(&locks->mutex);
}

static void wake_rwlock(void)
{
	pthread_rwlock_unlock(&locks->rwlock);
}

static void wake_sem(void)
{
	for (int i = 0; i < SLEEPERS; i++)
		sem_post(&locks->sem);
}

/* Over the boundary of two pages, in the second the first part of the next. */
static void make_locks(int shared, int robust, int protocol)
{
	pthread_barrierattr_t barrier;
	pthread_rwlockattr_t rwlock;
	pthread_mutexattr_t mutex;
	pthread_condattr_t cond;

	locks = (struct locks *)(map(SIZE) + PAGE - 64);
	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_setpshared(&mutex, shared);
	pthread_mutexattr_setrobust(&mutex, robust);
	pthread_mutexattr_setprotocol(&mutex, protocol);
	pthread_mutex_init(&locks->mutex, &mutex);
	pthread_condattr_init(&cond);
	pthread_condattr_setpshared(&cond, shared);
	pthread_cond_init(&locks->cond, &cond);
	pthread_rwlockattr_init(&rwlock);
	pthread_rwlockattr_setpshared(&rwlock, shared);
	pthread_rwlock_init(&locks->rwlock, &rwlock);
	pthread_barrierattr_init(&barrier);
	pthread_barrierattr_setpshared(&barrier, shared);
	pthread_barrier_init(&locks->barrier, &barrier, SLEEPERS + 1);
	sem_init(&locks->sem, shared, 0);
}

static void *sleep_by(void *how)
{
	atomic_fetch_add(&asleep, 1);
	(*(void (**)(void))how)();
	atomic_fetch_add(&awake, 1);
	return NULL;
}

static int sleep_fork_and_wake(const char *name, void (*sleeper)(void), void (*wake)(void))
{
	pthread_t threads[SLEEPERS];

	atomic_store(&asleep, 0);
	atomic_store(&awake, 0);
	for (int i = 0; i < SLEEPERS; i++)
		NEED(pthread_create(&threads[i], NULL, sleep_by, &sleeper) == 0);
	while (atomic_load(&asleep) < SLEEPERS)
		usleep(1000);
	usleep(30000);
	NEED(in_child(NULL, NULL) == 0);
	wake();
	for (int i = 0; i < 3000 && atomic_load(&awake) < SLEEPERS; i++)
		usleep(1000);
	if (atomic_load(&awake) != SLEEPERS) {
		fprintf(stderr, "%s: %d of %d woken\n", name, atomic_load(&awake), SLEEPERS);
		return 1;
	}
	for (int i = 0; i < SLEEPERS; i++)
		NEED(pthread_join(threads[i], NULL) == 0);
	return 0;
}

static int locks_are_shared(void)
{
	const int shared = PTHREAD_PROCESS_SHARED;
	int bad = 0;

	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	pthread_mutex_lock(&locks->mutex);
	bad |= sleep_fork_and_wake("mutex", sleep_in_mutex, wake_mutex);
	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT);
	pthread_mutex_lock(&locks->mutex);
	bad |= sleep_fork_and_wake("PI mutex", sleep_in_mutex, wake_mutex);
	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	bad |= sleep_fork_and_wake("cond", sleep_in_cond, wake_cond);
	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	pthread_rwlock_wrlock(&locks->rwlock);
	bad |= sleep_fork_and_wake("rwlock", sleep_in_rwlock, wake_rwlock);
	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	bad |= sleep_fork_and_wake("barrier", sleep_in_barrier, sleep_in_barrier);
	make_locks(shared, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
	bad |= sleep_fork_and_wake("semaphore", sleep_in_sem, wake_sem);
	return bad;
}

static pthread_t holder;

static void *hold_until_told(void *arg)
{
	pthread_mutex_lock(&locks->mutex);
	atomic_store(&go, 1);
	while (atomic_load(&go) == 1)
		usleep(1000);
	return arg;
}

static void let_holder_die(void)
{
	atomic_store(&go, 2);
	pthread_join(holder, NULL);
}

static int locks_are_robust(void)
{
	const int protocols[] = { PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT };
	int bad = 0;

	for (int i = 0; i < COUNT(protocols); i++) {
		const char *name = i ? "robust PI mutex" : "robust mutex";

		make_locks(PTHREAD_PROCESS_PRIVATE, PTHREAD_MUTEX_ROBUST, protocols[i]);
		pthread_mutex_lock(&locks->mutex);
		bad |= sleep_fork_and_wake(name, sleep_in_mutex, wake_mutex);
		make_locks(PTHREAD_PROCESS_PRIVATE, PTHREAD_MUTEX_ROBUST, protocols[i]);
		atomic_store(&go, 0);
		atomic_store(&died, 0);
		NEED(pthread_create(&holder, NULL, hold_until_told, NULL) == 0);
		while (!atomic_load(&go))
			usleep(1000);
		bad |= sleep_fork_and_wake(name, sleep_in_mutex, let_holder_die);
		NEED(bad || atomic_load(&died) == 1);
	}
	return bad;
}

static int init_robust(void)
{
	pthread_mutexattr_t robust;

	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	return pthread_mutex_init(&locks->mutex, &robust);
}

/* Small blocks, which lie in the heap: memory that is adopted, or armed in place, before the
 * mutex is made or after that. */
static int robust_in_memory(int before)
{
	char *block = NULL, *middle = NULL;
	int i, ret;

	for (i = 0; i < 16384; i++) {
		block = malloc(1000);
		NEED(block);
		memset(block, 1, 1000);
		middle = i == 8192 ? block : middle;
	}
	locks = (struct locks *)middle;
	NEED(before || in_child(NULL, NULL) == 0);
	NEED(init_robust() == 0);
	NEED(in_child(NULL, NULL) == 0);
	atomic_store(&go, 0);
	NEED(pthread_create(&holder, NULL, hold_until_told, NULL) == 0);
	while (!atomic_load(&go))
		usleep(1000);
	NEED(in_child(NULL, NULL) == 0);
	let_holder_die();
	ret = pthread_mutex_lock(&locks->mutex);
	NEED(ret == EOWNERDEAD);
	return 0;
}

static int robust_in_the_heap(void)
{
	return robust_in_memory(0);
}

static int robust_from_before(void)
{
	return robust_in_memory(1);
}

/* --- who frees while another forks ---------------------------------------- */

#define BLOCK (20 * MIB)		/* 8 could be a stack */

static pid_t pager(void)
{
	pid_t found = 0;
	DIR *dir = opendir("/proc");
	struct dirent *d;

	while (dir && !found && (d = readdir(dir))) {
		char path[300], line[256] = "";
		int fd, parent = 0, pid = atoi(d->d_name);

		snprintf(path, sizeof(path), "/proc/%s/stat", d->d_name);
		fd = pid ? open(path, O_RDONLY) : -1;
		if (fd >= 0 && read(fd, line, sizeof(line) - 1) > 0 &&
		    sscanf(line, "%*d (cowfork-pager) %*c %d", &parent) == 1 &&
		    parent == getpid())
			found = pid;
		close(fd);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void *forks_once(void *arg)
{
	return (void *)(intptr_t)in_child(NULL, arg);
}

/* Who is asked before each fork is stopped for a second. */
static int stop_pager(void)
{
	char text[16];
	pid_t pid = pager();

	snprintf(text, sizeof(text), "%d", (int)pid);
	NEED(pid > 0 && kill(pid, SIGSTOP) == 0);
	if (vfork() == 0) {
		execl("/bin/sh", "sh", "-c", "(sleep 1; kill -CONT $0) &", text, NULL);
		_exit(1);
	}
	return 0;
}

/* Another thread's fork takes longer than free() had patience: the memory was unmapped below
 * it, and a child that had not read it was killed. */
static int freed_while_forking(int moves)
{
	char *apart = map_with(MIB, PROT_NONE);	/* from the control block of the thread */
	char *block = malloc(BLOCK), *now = NULL, word;
	unsigned char there;
	int fd[2], ret;
	pthread_t forks;
	pid_t reads;

	NEED(apart && block);
	fill(block, BLOCK, 1);
	NEED(in_child(NULL, NULL) == 0);
	if (!is_preloaded() || cow_region_state(block) != COW_STATE_ARMED)
		return SKIP;
	NEED(pipe(fd) == 0);
	reads = fork();
	if (reads == 0)
		_exit(read(fd[0], &word, 1) != 1 || !is_filled(block, BLOCK, 1));
	NEED(stop_pager() == 0);
	NEED(pthread_create(&forks, NULL, forks_once, NULL) == 0);
	usleep(200000);
	if (moves)
		now = realloc(block, 2 * BLOCK);
	else
		free(block);
	NEED(!moves || is_filled(now, BLOCK, 1));
	NEED(pthread_join(forks, (void **)&now) == 0 && !now);
	ret = mincore((void *)((uintptr_t)block & ~(PAGE - 1)), PAGE, &there);
	NEED(ret == -1 && errno == ENOMEM);	/* it was freed at last */
	NEED(write(fd[1], "x", 1) == 1);
	NEED(wait_for(reads) == 0);
	return 0;
}

static int free_while_forking(void) { return freed_while_forking(0); }
static int realloc_while_forking(void) { return freed_while_forking(1); }

/* --- who forks ------------------------------------------------------------ */

/* /proc/self is empty once the first thread has left. */
static void *fork_alone(void *arg)
{
	usleep(50000);
	exit(area_in_child(1) || !is_filled(area, SIZE, 1));
	return arg;
}

static int first_thread_leaves(void)
{
	pthread_t t;

	make_area(1);
	NEED(is_managed(area));
	NEED(pthread_create(&t, NULL, fork_alone, NULL) == 0);
	pthread_exit(NULL);
}

/* A process that lost what the library uses: each way a child of its own. */
static int few_descriptors(void)
{
	const struct rlimit none = { 3, 3 };

	return setrlimit(RLIMIT_NOFILE, &none);
}

static int no_descriptors(void)
{
	int fd;

	closefrom(0);
	fd = open("/dev/null", O_RDWR);
	return dup2(fd, 1) < 0 || dup2(fd, 2) < 0;
}

static int is_nobody(void)
{
	const struct rlimit none = { 0, 0 };

	return setrlimit(RLIMIT_MEMLOCK, &none) < 0 || setgroups(0, NULL) < 0 ||
	       setgid(65534) < 0 || setuid(65534) < 0;
}

static int in_a_new_root(void)
{
	return chdir("/tmp") < 0 || chroot("/tmp") < 0 || chdir("/") < 0;
}

static int in_new_namespaces(void)
{
	return unshare(CLONE_NEWIPC | CLONE_NEWNS) < 0;
}

static const struct loss {
	const char *name;
	int (*happens)(void);
	int root;	/* only root can lose it so */
} losses[] = {
	{ "few descriptors", few_descriptors, 0 },
	{ "no descriptors", no_descriptors, 0 },
	{ "privileges", is_nobody, 1 },
	{ "the root directory", in_a_new_root, 1 },
	{ "namespaces", in_new_namespaces, 1 },
};

static int forks_go_on(void)
{
	for (unsigned round = 1; round < 6; round++) {
		char *more = map(2 * MIB);

		fill(area, SIZE, round);
		fill(more, 2 * MIB, round);
		NEED(area_in_child(round) == 0);
		NEED(is_filled(area, SIZE, round));
		NEED(is_filled(more, 2 * MIB, round));
		NEED(munmap(more, 2 * MIB) == 0);
	}
	return 0;
}

/* After some memory, or before any. */
static int lose(const struct loss *loss, int late)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (late)
			make_area(1);
		if (late == 2 && area_in_child(1))
			_exit(1);
		if (loss->happens())
			_exit(2);
		if (!late)
			make_area(1);
		_exit(forks_go_on());
	}
	return wait_for(pid);
}

static int facilities_are_lost(void)
{
	int bad = 0;

	for (int i = 0; i < COUNT(losses); i++)
		for (int late = 0; late < 3; late++) {
			int ret = losses[i].root && geteuid() ? 0 : lose(&losses[i], late);

			if (ret)
				fprintf(stderr, "without %s, %d: %d\n", losses[i].name,
					late, ret);
			bad |= ret;
		}
	return bad;
}

/* --- protection ----------------------------------------------------------- */

static ssize_t read_into(void *to)
{
	int ends[2];
	ssize_t n;

	if (pipe(ends) < 0 || write(ends[1], "x", 1) != 1)
		return -2;
	n = read(ends[0], to, 1);
	close(ends[0]);
	close(ends[1]);
	return n;
}

/* The extent was still writable to the library, and so after a freeze. */
static int read_only_by_key(void)
{
	make_area(1);
	NEED(pkey_mprotect(area, PAGE, PROT_READ, -1) == 0);
	NEED(area_in_child(1) == 128 + SIGSEGV);
	NEED(read_into(area) == -1 && errno == EFAULT);
	NEED(pkey_mprotect(area, PAGE, PROT_READ | PROT_WRITE, -1) == 0);
	NEED(area_in_child(1) == 0);
	return 0;
}

static int read_only_by_a_real_key(void)
{
	int key = pkey_alloc(0, 0);

	if (key < 0)
		return SKIP;
	make_area(1);
	NEED(pkey_mprotect(area, SIZE / 2, PROT_READ | PROT_WRITE, key) == 0);
	NEED(area_in_child(1) == 0);
	NEED(pkey_set(key, PKEY_DISABLE_WRITE) == 0);
	NEED(read_into(area) == -1 && errno == EFAULT);
	NEED(area_in_child(1) == 128 + SIGSEGV);
	NEED(read_into(area) == -1 && errno == EFAULT);
	NEED(pkey_set(key, 0) == 0);
	NEED(area_in_child(1) == 0);
	return 0;
}

/* --- mremap --------------------------------------------------------------- */

static int shrink_over_a_guard(void)
{
	make_area(1);
	NEED(mprotect(area + SIZE / 2, PAGE, PROT_NONE) == 0);
	NEED(mremap(area, SIZE, SIZE / 4, 0) == area);
	NEED(is_filled(area, SIZE / 4, 1));
	NEED(mremap(area, SIZE / 4, SIZE / 4, 0) == area);
	return 0;
}

static int first_byte(int fd, off_t at)
{
	char c = 0;

	return pread(fd, &c, 1, at) == 1 ? c : -1;
}

/* It was copied to anonymous memory: writes no longer reached the file. */
static int move_a_file_from_a_window(void)
{
	char *r = map(SIZE), *file;
	int fd = memfd_create("odd", 0);

	NEED(is_managed(r));
	NEED(fd >= 0 && ftruncate(fd, 4 * (off_t)MIB) == 0);
	file = mmap(r + MIB, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	NEED(file == r + MIB);
	file[0] = 'A';
	file = mremap(file, MIB, 2 * MIB, MREMAP_MAYMOVE);
	NEED(file != MAP_FAILED);
	file[0] = 'B';
	file[MIB + 5] = 'C';
	NEED(first_byte(fd, 0) == 'B' && first_byte(fd, (off_t)MIB + 5) == 'C');
	return 0;
}

static int write_nine(void *to)
{
	*(volatile char *)to = 9;
	return 0;
}

static int move_shared_memory_from_a_window(void)
{
	char *r = map(SIZE), *to = map_with(MIB, PROT_NONE), *p;

	NEED(is_managed(r));
	p = mmap(r + MIB, MIB, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	NEED(p == r + MIB);
	p = mremap(p, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	NEED(p == to);
	NEED(in_child(write_nine, p) == 0);
	NEED(*p == 9);
	return 0;
}

/* A crash: the copy read a source that was taken for readable. */
static int move_what_was_a_guard(void)
{
	char *r = map(SIZE), *p;

	NEED(is_managed(r));
	p = mmap(r, MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	NEED(p == r);
	NEED(mprotect(r, MIB, PROT_READ | PROT_WRITE) == 0);
	fill(r, MIB, 7);
	p = mremap(r, MIB, 2 * MIB, MREMAP_MAYMOVE);
	NEED(p != MAP_FAILED);
	NEED(is_filled(p, MIB, 7));
	NEED(is_zero(p + MIB, MIB));
	return 0;
}

/* EFAULT: zeros by an overlay made several mappings of one. */
static int remap_after_dontneed(void)
{
	char *p;

	for (int shrinks = 0; shrinks < 2; shrinks++) {
		size_t len = shrinks ? SIZE / 2 : SIZE * 2;

		make_area(1);
		NEED(in_child(NULL, NULL) == 0);
		NEED(madvise(area + MIB, MIB, MADV_DONTNEED) == 0);
		p = mremap(area, SIZE, len, shrinks ? 0 : MREMAP_MAYMOVE);
		NEED(p != MAP_FAILED);
		NEED(is_filled(p, MIB, 1));
		NEED(is_zero(p + MIB, MIB));
		NEED(munmap(p, len) == 0);
	}
	return 0;
}

/* A child found the segment that its parent attached over memory: the kernel tells nobody. */
static int attach_over_memory(void)
{
	int id = shmget(IPC_PRIVATE, SIZE / 2, IPC_CREAT | 0600), ask[2], status;
	unsigned seed = 1;
	pid_t pid;
	char c;

	make_area(seed);
	for (int i = 0; i < 3; i++)
		NEED(in_child(NULL, NULL) == 0);
	NEED(id >= 0 && pipe(ask) == 0);
	pid = fork();
	if (pid == 0)
		_exit(read(ask[0], &c, 1) != 1 || area_is_right(&seed));
	NEED(shmat(id, area + SIZE / 4, SHM_REMAP) == area + SIZE / 4);
	shmctl(id, IPC_RMID, NULL);
	fill(area, SIZE, 2);
	NEED(write(ask[1], &c, 1) == 1);
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	NEED(is_filled(area, SIZE, 2));
	return 0;
}

static int wait_for_a_signal(void *arg)
{
	pause();
	return arg != NULL;
}

/* What children still see is zeroed by plain memory over it, in pieces that the
 * kernel does not merge: the pages had moved when growing was refused. */
static int grow_over_overlays(void)
{
	static const size_t order[] = { 0, 2, 1, 3 };
	pid_t looks;
	char *p;

	make_area(1);
	looks = fork();
	if (looks == 0)
		_exit(wait_for_a_signal(NULL));
	for (int i = 0; i < COUNT(order); i++) {
		char *piece = area + order[i] * MIB;

		NEED(madvise(piece, MIB, MADV_DONTNEED) == 0);
		NEED(is_zero(piece, MIB));
		fill(piece, MIB, 10 + (unsigned)i);
	}
	p = mremap(area, 4 * MIB, 5 * MIB, MREMAP_MAYMOVE);
	kill(looks, SIGKILL);
	for (int i = 0; i < COUNT(order); i++)
		NEED(is_filled((p == MAP_FAILED ? area : p) + order[i] * MIB, MIB,
			       10 + (unsigned)i));
	NEED(p != MAP_FAILED);
	return 0;
}

/* A parent's window is foreign to a child: what it moved from there into a window
 * of its own was taken for inaccessible, and so was what it grew by. */
static int move_and_grow(void *arg)
{
	static const size_t order[] = { 0, 2, 1, 3 };
	char *to, *p;

	for (int i = 0; i < COUNT(order); i++) {
		NEED(madvise(area + order[i] * MIB, MIB, MADV_DONTNEED) == 0);
		fill(area + order[i] * MIB, MIB, 3);
	}
	to = map(4 * MIB);
	p = mremap(area, 4 * MIB, 4 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	NEED(p == to);
	p = mremap(to, 4 * MIB, 6 * MIB, MREMAP_MAYMOVE);
	NEED(p != MAP_FAILED);
	for (int i = 0; i < COUNT(order); i++)
		NEED(is_filled(p + order[i] * MIB, MIB, 3));
	NEED(is_zero(p + 4 * MIB, 2 * MIB));
	fill(p, 6 * MIB, 4);
	return arg != NULL;
}

static int grow_what_came_from_a_parent(void)
{
	make_area(1);
	NEED(in_child(move_and_grow, NULL) == 0);
	return !is_filled(area, SIZE, 1);
}

/* --- limits and locks ----------------------------------------------------- */

/* The reservations of the windows were locked, so filled, too. */
static int lock_all_under_a_limit(void)
{
	const struct rlimit limit = { 1ul << 45, 1ul << 45 };

	make_area(1);
	NEED(setrlimit(RLIMIT_AS, &limit) == 0);
	NEED(mlockall(MCL_CURRENT) == 0);
	NEED(area_in_child(1) == 0);
	return 0;
}

/* It filled the template, whose zeros then hid the store's bytes. */
static int map_after_lock_all(void)
{
	char *p, *q = map(MIB), *r = map(MIB);

	fill(q, MIB, 2);
	fill(r, MIB, 3);
	NEED(munmap(q, MIB) == 0);
	NEED(mlockall(MCL_CURRENT) == 0);
	NEED(munlockall() == 0);
	make_area(4);
	p = map(MIB);
	fill(p, MIB, 5);
	NEED(area_in_child(4) == 0);
	NEED(is_filled(area, SIZE, 4) && is_filled(p, MIB, 5) && is_filled(r, MIB, 3));
	return 0;
}

static int go_on_within(int which, rlim_t most)
{
	const struct rlimit limit = { most, most };
	void *p;

	make_area(1);
	NEED(setrlimit((__rlimit_resource_t)which, &limit) == 0);
	p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(p != MAP_FAILED);
	fill(p, MIB, 3);
	p = malloc(300000);
	NEED(p);
	NEED(area_in_child(1) == 0);
	NEED(is_filled(area, SIZE, 1));
	return 0;
}

/* The reservations were counted: every later mapping failed. */
static int limit_on_addresses(void)
{
	return go_on_within(RLIMIT_AS, 4ul << 30);
}

static int limit_on_data(void)
{
	return go_on_within(RLIMIT_DATA, 4ul << 30);
}

/* Half of what the limit allows is mapped: shadow and template would be more. */
static int limit_near_what_is_mapped(void)
{
	const struct rlimit limit = { 2ul << 30, 2ul << 30 };
	char *p = map(1ul << 30);

	fill(p, MIB, 1);
	make_area(1);
	NEED(setrlimit(RLIMIT_AS, &limit) == 0);
	NEED(area_in_child(1) == 0);
	NEED(is_filled(p, MIB, 1));
	return 0;
}

/* --- what is freed -------------------------------------------------------- */

/* All of the store's bytes, by the file itself: 0 where it cannot be told. */
static long store_kib(void)
{
	char line[600], name[300], path[400];
	unsigned long start, end;
	struct stat st;
	FILE *f = fopen("/proc/self/maps", "re");
	long kib = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (!strstr(line, "/memfd:cowfork") ||
		    sscanf(line, "%lx-%lx %*s %*s %*s %*s %299s", &start, &end, name) != 3)
			continue;
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", start, end);
		if (stat(path, &st) == 0 && (long)st.st_blocks / 2 > kib)
			kib = (long)st.st_blocks / 2;
	}
	if (f)
		fclose(f);
	return kib;
}

/* Freed while children looked at it, once they are gone. */
static int memory_comes_back(void)
{
	NEED(!is_preloaded() || geteuid() || (make_area(1), store_kib()) >= (long)(SIZE / KIB));
	for (int i = 0; i < 12; i++) {
		char *p = map(SIZE);

		fill(p, SIZE, 1);
		NEED(in_child(NULL, NULL) == 0);
		NEED(munmap(p, SIZE) == 0);
		usleep(60000);
	}
	NEED(store_kib() <= (long)(4 * SIZE / KIB));
	return 0;
}

/* Half of a destroyed region's addresses were another's by then. */
static int destroy_what_was_cut(void)
{
	void *first, *second;

	NEED(cow_region_create(4 * MIB, 0, &first) == 0);
	NEED(munmap((char *)first + 2 * MIB, 2 * MIB) == 0);
	NEED(cow_region_create(2 * MIB, 0, &second) == 0);
	fill(second, 2 * MIB, 5);
	(void)!cow_region_destroy(first);
	NEED(is_filled(second, 2 * MIB, 5));
	return 0;
}

/* Every second page is unmapped: as many maps as the kernel allows. */
static int holes_are_right(void *end)
{
	for (size_t i = 0; i < *(size_t *)end; i++)
		NEED(area[i * 2 * PAGE + PAGE] == (char)i);
	return 0;
}

static int holes_until_the_limit(void)
{
	size_t most = 20000, n;
	char *p;

	area = map(most * 2 * PAGE);
	for (size_t i = 0; i < most; i++)
		area[i * 2 * PAGE + PAGE] = (char)i;
	for (n = 0; n < most; n++)
		if (munmap(area + n * 2 * PAGE, PAGE) < 0)
			break;
	NEED(n == most || errno == ENOMEM);
	NEED(n >= 5000);
	NEED(in_child(holes_are_right, &most) == 0);
	p = map(MIB);
	fill(p, MIB, 1);
	NEED(in_child(holes_are_right, &most) == 0);
	NEED(is_filled(p, MIB, 1));
	return holes_are_right(&most);
}

/* --- locks of the program around forks ------------------------------------ */

static pthread_mutex_t program_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int stop;

static void lock(void)
{
	pthread_mutex_lock(&program_lock);
}

static void unlock(void)
{
	pthread_mutex_unlock(&program_lock);
}

static void *advise_under_lock(void *bad)
{
	while (!atomic_load(&stop)) {
		lock();
		if (madvise(area, PAGE, MADV_DONTNEED) < 0 || area[0])
			*(int *)bad = 1;
		area[0] = 1;
		unlock();
		sched_yield();
	}
	return NULL;
}

/* A prepare handler takes a lock under which another thread makes memory calls:
 * ours waited for the lock's holder, who waited for ours. */
static int handlers_take_a_lock(void)
{
	int bad = 0;
	pthread_t t;

	NEED(pthread_atfork(lock, unlock, unlock) == 0);
	make_area(1);
	NEED(pthread_create(&t, NULL, advise_under_lock, &bad) == 0);
	for (int i = 0; i < 500; i++)
		NEED(in_child(NULL, NULL) == 0);
	atomic_store(&stop, 1);
	NEED(pthread_join(t, NULL) == 0);
	NEED(!bad);
	return 0;
}

/* --- cancellation --------------------------------------------------------- */

/* Memory calls and fork() are no cancellation points, nor is what they log: a
 * thread that ended there kept the library's lock. */
static void *call_when_cancelled(void *arg)
{
	struct iovec piece = { area, PAGE };
	pid_t pid;
	char *p;

	pthread_cancel(pthread_self());
	p = map(2 * MIB);	/* the first: it makes a store, and a line of log */
	(void)!process_madvise(*(int *)arg, &piece, 1, MADV_COLD, 0);
	pid = fork();
	if (pid == 0)
		_exit(0);
	(void)!madvise(p, MIB, MADV_DONTNEED);
	(void)!mprotect(p, MIB, PROT_READ);
	munmap(p, 2 * MIB);
	atomic_store(&go, 1);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	return (void *)(intptr_t)wait_for(pid);
}

static int no_cancellation_points(void)
{
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pthread_t t;
	void *ret;

	area = malloc(PAGE * 2);
	NEED(pthread_create(&t, NULL, call_when_cancelled, &self) == 0);
	NEED(pthread_join(t, &ret) == 0);
	NEED(atomic_load(&go) && !ret);
	make_area(1);
	return area_in_child(1);
}

/* --- libraries that fork where they begin and end --------------------------- */

/* preload-odd.sh also preloads some of them, before and after the runtime. */
static int libraries_fork(void)
{
	const char *path = getenv("ODD_LIBRARY");
	void *library;

	if (!path)
		return SKIP;
	make_area(1);
	for (int i = 0; i < 3; i++) {
		library = dlopen(path, RTLD_NOW);
		NEED(library);
		NEED(area_in_child(1) == 0);
		NEED(i == 2 || dlclose(library) == 0);
		NEED(area_in_child(1) == 0);
	}
	return 0;
}

/* --- a thaw keeps contents and protections -------------------------------- */

enum { MANY = 32 * 256, NONE_AT = 10 * 256, RO_AT = 20 * 256, SPECIAL = 256 };

static unsigned counts[MANY];

static volatile unsigned *page_of(size_t i)
{
	return (volatile unsigned *)(area + i * PAGE);
}

static int counts_are_right(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < MANY; i++)
		if (i < NONE_AT || i >= NONE_AT + SPECIAL)
			NEED(page_of(i)[0] == counts[i] && page_of(i)[1023] == counts[i]);
	return 0;
}

static int change_some(unsigned *seed)
{
	size_t at = (size_t)(rand_r(seed) % (MANY - 16));
	int zeroes = rand_r(seed) % 3 == 0;

	for (size_t i = 0; i < MANY; i++) {
		if ((i >= NONE_AT && i < NONE_AT + SPECIAL) ||
		    (i >= RO_AT && i < RO_AT + SPECIAL) || rand_r(seed) % 4)
			continue;
		counts[i]++;
		page_of(i)[0] = page_of(i)[1023] = counts[i];
	}
	if (!zeroes || (at < NONE_AT + SPECIAL && at + 16 > NONE_AT) ||
	    (at < RO_AT + SPECIAL && at + 16 > RO_AT))
		return 0;
	memset(counts + at, 0, 16 * sizeof(*counts));
	return madvise(area + at * PAGE, 16 * PAGE, MADV_DONTNEED);
}

static int refreshes_keep_everything(void)
{
	unsigned seed = 1;
	double end = seconds() + (is_preloaded() ? 20 : 0.2);

	area = map(MANY * PAGE);
	for (size_t i = RO_AT; i < RO_AT + SPECIAL; i++)
		page_of(i)[0] = page_of(i)[1023] = counts[i] = 5;
	NEED(mprotect(area + NONE_AT * PAGE, SPECIAL * PAGE, PROT_NONE) == 0);
	NEED(mprotect(area + RO_AT * PAGE, SPECIAL * PAGE, PROT_READ) == 0);
	while (seconds() < end && stats().thaws < 5) {
		NEED(change_some(&seed) == 0);
		NEED(in_child(counts_are_right, NULL) == 0);
		NEED(counts_are_right(NULL) == 0);
		NEED(read_into(area + RO_AT * PAGE) == -1 && errno == EFAULT);
		NEED(read_into(area + NONE_AT * PAGE) == -1 && errno == EFAULT);
	}
	NEED(!is_preloaded() || stats().thaws >= 1);
	return 0;
}

/* --- the table ------------------------------------------------------------ */

static const struct odd {
	const char *name;
	int (*run)(void);
	int preload_only;
} cases[] = {
	{ "attach-over-memory", attach_over_memory, 1 },
	{ "destroy-what-was-cut", destroy_what_was_cut, 1 },
	{ "facilities-are-lost", facilities_are_lost, 0 },
	{ "first-thread-leaves", first_thread_leaves, 0 },
	{ "free-while-forking", free_while_forking, 1 },
	{ "grow-over-overlays", grow_over_overlays, 0 },
	{ "grow-what-came-from-a-parent", grow_what_came_from_a_parent, 0 },
	{ "handlers-take-a-lock", handlers_take_a_lock, 0 },
	{ "holes-until-the-limit", holes_until_the_limit, 0 },
	{ "libraries-fork", libraries_fork, 0 },
	{ "limit-near-what-is-mapped", limit_near_what_is_mapped, 0 },
	{ "limit-on-addresses", limit_on_addresses, 0 },
	{ "limit-on-data", limit_on_data, 0 },
	{ "lock-all-under-a-limit", lock_all_under_a_limit, 0 },
	{ "locks-are-robust", locks_are_robust, 0 },
	{ "locks-are-shared", locks_are_shared, 0 },
	{ "map-after-lock-all", map_after_lock_all, 0 },
	{ "memory-comes-back", memory_comes_back, 0 },
	{ "move-a-file-from-a-window", move_a_file_from_a_window, 0 },
	{ "move-shared-memory-from-a-window", move_shared_memory_from_a_window, 0 },
	{ "move-what-was-a-guard", move_what_was_a_guard, 0 },
	{ "no-cancellation-points", no_cancellation_points, 0 },
	{ "read-only-by-a-real-key", read_only_by_a_real_key, 0 },
	{ "read-only-by-key", read_only_by_key, 0 },
	{ "realloc-while-forking", realloc_while_forking, 1 },
	{ "refreshes-keep-everything", refreshes_keep_everything, 0 },
	{ "remap-after-dontneed", remap_after_dontneed, 0 },
	{ "robust-from-before", robust_from_before, 0 },
	{ "robust-in-the-heap", robust_in_the_heap, 0 },
	{ "shrink-over-a-guard", shrink_over_a_guard, 0 },
	{ "stack-of-a-coroutine", stack_of_a_coroutine, 0 },
	{ "stack-of-a-signal", stack_of_a_signal, 0 },
	{ "stack-of-a-thread", stack_of_a_thread, 0 },
};

static int list(int native)
{
	for (int i = 0; i < COUNT(cases); i++)
		if (!native || !cases[i].preload_only)
			puts(cases[i].name);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";

	if (!strcmp(what, "--list") || !strcmp(what, "--list-native"))
		return list(!strcmp(what, "--list-native"));
	for (int i = 0; i < COUNT(cases); i++)
		if (!strcmp(what, cases[i].name))
			return cases[i].run();
	fprintf(stderr, "usage: preload-odd NAME|--list|--list-native\n");
	return 2;
}
