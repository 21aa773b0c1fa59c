/*
 * Adoption under all that threads do to malloc's memory: they allocate, free, resize
 * and hand over blocks, write pages by hand and by system calls, trim the heap, come
 * and go, while one thread adopts, releases, thaws and forks and another one adopts
 * and releases too. Children and grandchildren look at all that they inherited, use
 * the heap and adopt themselves. The preload runtime is part of this program. Nothing
 * may be lost, torn, wrong or hang, and in the end all of it is released.
 *
 * Each life is a process of its own: the threads of one share the main arena, the
 * brk heap, those of the other have arenas. Longer than other files: heaps and pages
 * have their own; what is left needs all of the threads' state.
 *
 * Use: stress-adopt [--seconds N] [--seed N]
 * Default: 4 seconds.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
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

#include "adopt.h"
#include "cowfork.h"
#include "process.h"
#include "stress-heap.h"
#include "stress-pages.h"

#define HEAPS 4			/* the last is a churner's */
#define ALIVE 3u		/* children at a time */
#define PATIENCE 30		/* seconds without progress are a hang */

static atomic_int bad, stop;
static uint64_t seed;
static struct heap heaps[HEAPS];

/* Those who change heaps or pages hold it for reading, a fork that wants an exact
 * moment for writing. */
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

/* --- where the pages lie -------------------------------------------------- */

static void *get_pages(void *size)
{
	void *p = aligned_alloc(PAGE, *(size_t *)size);

	errno = 0;
	if (!p)
		die("aligned_alloc");
	memset(p, 0, *(size_t *)size);
	return p;
}

/* A mapping of malloc's, the heap of this thread, and that of one that ends. */
static void *get_region(int region, size_t size)
{
	pthread_t thread;
	void *p;

	mallopt(M_MMAP_MAX, region ? 0 : 65536);
	if (region < 2) {
		p = get_pages(&size);
	} else if (pthread_create(&thread, NULL, get_pages, &size) ||
		   pthread_join(thread, &p)) {
		die("pthread_create");
	}
	mallopt(M_MMAP_MAX, 65536);
	return p;
}

/* --- adoption ------------------------------------------------------------- */

static int is_fine(const char *what, int ret)
{
	if (ret == 0 || ret == -EAGAIN)
		return 1;
	printf("%s: %s: %s\n", what, strerror(-ret),
	       cow_reason_string((enum cow_reason)stats().adopt_reason));
	return 0;
}

static int adopt_something(struct random *r)
{
	size_t first = draw(r, pages), count = 1 + draw(r, 600);
	char *at = page_at(first);

	while (first + count > pages || page_at(first + count - 1) != at + (count - 1) * PAGE)
		count--;
	switch (draw(r, 6)) {
	case 0: return !is_fine("cow_release", cow_release(NULL, 0));
	case 1: return !is_fine("cow_release of a range", cow_release(at, count * PAGE));
	case 2: return !is_fine("cow_adopt of a range", cow_adopt(at, count * PAGE));
	default: return !is_fine("cow_adopt", cow_adopt(NULL, 0));
	}
}

static void choose_options(struct random *r)
{
	const struct cow_options o = { sizeof(o), (size_t)(64 << draw(r, 7)) << 10,
				       COW_ENGINE_STORE, (enum cow_huge)draw(r, 3),
				       (enum cow_thaw)draw(r, 2), (enum cow_adopt)draw(r, 3) };

	if (cow_options_set(&o) < 0)
		die("options");
}

/* --- children ------------------------------------------------------------- */

/* What a child may see: filled by its parent before and after the fork, the latter
 * in shared memory. */
static struct slot {
	atomic_int ready;
	uint32_t after[5000];
} *slots;

static struct fork {
	uint32_t before[5000];
	struct slot *slot;
	int exact;
	struct random random;
} next_fork;

static struct { pid_t pid; int exact; } alive[ALIVE];

static int check_heaps(const char *who)
{
	for (int i = 0; i < HEAPS; i++)
		if (heap_check(&heaps[i], who))
			return 1;
	return 0;
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

static void look_up(const struct fork *f, uint32_t *after)
{
	for (int i = 0; !atomic_load(&f->slot->ready); i++) {
		if (i > PATIENCE * 1000)
			die("a child's parent went away");
		nap(1000);
	}
	memcpy(after, f->slot->after, pages * sizeof(*after));
}

/* The threads' heaps, if they were whole; else only malloc itself. */
static int use_heaps(struct fork *f, const char *who)
{
	static struct heap own = { .alone = 1 };
	int wrong = 0;

	own.random = f->random;
	for (int i = 0; i < 100 && !wrong; i++)
		wrong = heap_step(f->exact ? &heaps[draw(&f->random, HEAPS)] : &own, who);
	return wrong || (f->exact && check_heaps(who));
}

/* It looks like a version of the owner's, but far ahead. */
#define CHILDS (1u << 30)

static int write_pages(struct fork *f, uint32_t *before, uint32_t *after)
{
	for (unsigned k = 0; k < 300; k++) {
		size_t i = draw(&f->random, pages);
		volatile uint64_t *p = (uint64_t *)page_at(i);

		if (mprotect(page_at(i), PAGE, PROT_READ | PROT_WRITE) < 0)
			die("a child's mprotect");
		before[i] = after[i] = CHILDS + k * 4;
		p[0] = p[8] = p[255] = p[511] = (uint64_t)(i + 1) << 32 | before[i] >> 2;
	}
	return pages_check(before, after, "child that wrote");
}

/* It sees what the child left, also when that goes on. */
static int grandchild(struct fork *f, const uint32_t *after)
{
	pid_t pid = cow_fork();

	if (pid == 0)
		_exit(pages_check(f->before, after, "grandchild") ||
		      use_heaps(f, "grandchild"));
	if (pid < 0)
		die("a child's cow_fork");
	return use_heaps(f, "child with a child") || end_of(pid);
}

static int child(struct fork *f)
{
	static uint32_t after[5000];
	uint64_t sum = pages_sum();
	int wrong = f->exact && check_heaps("child");

	alarm(2 * PATIENCE);
	look_up(f, after);
	wrong = wrong || pages_check(f->before, after, "child");
	nap(draw(&f->random, 3) ? 0 : draw(&f->random, 60000));
	if (sum != pages_sum()) {
		printf("a child's memory changed\n");
		wrong = 1;
	}
	if (draw(&f->random, 3) == 0)
		wrong = wrong || adopt_something(&f->random);
	wrong = wrong || (f->exact && check_heaps("child later")) || use_heaps(f, "child");
	if (draw(&f->random, 2))
		wrong = wrong || write_pages(f, f->before, after);
	if (draw(&f->random, 3) == 0)
		wrong = wrong || adopt_something(&f->random) || grandchild(f, after);
	return wrong || pages_check(f->before, after, "child in the end");
}

static int reap(unsigned i)
{
	int wrong = alive[i].pid && end_of(alive[i].pid);

	if (wrong)
		printf("... a child of %s moment\n", alive[i].exact ? "an exact" : "no exact");
	alive[i].pid = 0;
	return wrong;
}

static int reap_all(void)
{
	int wrong = 0;

	for (unsigned i = 0; i < ALIVE; i++)
		wrong |= reap(i);
	return wrong;
}

/* While children live there is nothing to merge; a grandchild never lives longer. */
static int thaw(struct random *r)
{
	int quiet = draw(r, 3) != 0, wrong = quiet && reap_all(), ret = cow_thaw();

	return wrong || ((quiet || ret != -EBUSY) && !is_fine("cow_thaw", ret));
}

static int one_fork(struct random *r)
{
	unsigned i = draw(r, ALIVE);
	struct fork *f = &next_fork;
	int wrong = reap(i);
	pid_t pid;

	f->slot = &slots[i];
	f->slot->ready = 0;
	f->exact = (int)draw(r, 2);
	f->random.state = r->state ^ 77;
	if (f->exact)
		pthread_rwlock_wrlock(&moment);
	pages_note(f->before);
	pid = draw(r, 3) ? fork() : cow_fork();
	if (pid == 0)
		_exit(child(f));
	pages_note(f->slot->after);
	f->slot->ready = 1;
	if (f->exact)
		pthread_rwlock_unlock(&moment);
	if (pid < 0)
		die("fork");
	alive[i].pid = pid;
	alive[i].exact = f->exact;
	return wrong || (draw(r, 2) && reap(i));
}

/* --- threads ------------------------------------------------------------ */

enum kind { LEADER, OWNER, HEAPER, CHURNER, READER, RECRUITER, TRIMMER, ADOPTER, KINDS };

static struct thread {
	pthread_t thread;
	enum kind kind;
	unsigned number;	/* of its kind */
	struct random random;
	atomic_uint steps;
} threads[OWNERS + HEAPS + 5];
static unsigned thread_count;

static const char *const kind_names[KINDS] = { "leader", "owner", "heaper", "churner", "reader",
					       "recruiter", "trimmer", "adopter" };

/* A short life, on a stack that is written to. */
static void *recruit(void *arg)
{
	static __thread struct heap own;
	volatile uint64_t there[512];
	intptr_t wrong = 0;

	own.random = *(struct random *)arg;
	for (unsigned i = 0; i < 512; i++)
		there[i] = own.random.state + i;
	for (int n = 0; n < 30 && !wrong; n++) {
		pthread_rwlock_rdlock(&moment);
		wrong = heap_step(&own, "recruit");
		pthread_rwlock_unlock(&moment);
		if (draw(&own.random, 4) == 0)
			nap(draw(&own.random, 500));
	}
	pthread_rwlock_rdlock(&moment);
	wrong |= heap_check(&own, "recruit that leaves");
	heap_leave(&own);
	pthread_rwlock_unlock(&moment);
	for (unsigned i = 1; i < 512; i++)
		wrong |= there[i] != there[0] + i;
	if (wrong)
		printf("a short thread complains\n");
	return (void *)wrong;
}

static int recruit_some(struct thread *t)
{
	static const size_t stacks[] = { 64 << 10, 256 << 10, 8 << 20 };
	struct random r[3];
	pthread_t them[3];
	pthread_attr_t attr;
	int n = 1 + (int)draw(&t->random, 3), wrong = 0;

	for (int i = 0; i < n; i++) {
		r[i].state = t->random.state + (unsigned)i;
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, stacks[draw(&t->random, 3)]);
		if (pthread_create(&them[i], &attr, recruit, &r[i]) != 0)
			die("pthread_create");
		pthread_attr_destroy(&attr);
	}
	for (int i = 0; i < n; i++) {
		void *ret;

		if (pthread_join(them[i], &ret) != 0)
			die("pthread_join");
		wrong |= ret != NULL;
	}
	nap(draw(&t->random, 20000));
	return wrong;
}

static int lead(struct thread *t)
{
	struct random *r = &t->random;
	int wrong = 0;

	switch (draw(r, 12)) {
	case 0:
		choose_options(r);
		break;
	case 1:
		wrong = thaw(r);
		break;
	case 2:
	case 3:
		wrong = adopt_something(r);
		break;
	default:
		wrong = one_fork(r);
	}
	nap(draw(r, 4) ? draw(r, 1000) : draw(r, 60000));
	return wrong;
}

static int step(struct thread *t, struct owner *o)
{
	int wrong = 0;

	if (t->kind == OWNER || t->kind == HEAPER || t->kind == CHURNER)
		pthread_rwlock_rdlock(&moment);
	switch (t->kind) {
	case OWNER:
		wrong = owner_step(o);
		break;
	case HEAPER:
		wrong = heap_step(&heaps[t->number], "heaper");
		break;
	case CHURNER:
		for (int i = 0; i < 20 && !wrong; i++)
			wrong = heap_churn(&heaps[t->number], "churner");
		break;
	case READER: return pages_look(&t->random, 300);
	case RECRUITER: return recruit_some(t);
	case LEADER: return lead(t);
	case TRIMMER:
		malloc_trim(draw(&t->random, 1 << 20));
		nap(draw(&t->random, 10000));
		return 0;
	case ADOPTER:
		nap(draw(&t->random, 50000));
		return adopt_something(&t->random);
	case KINDS: break;
	}
	pthread_rwlock_unlock(&moment);
	if (draw(&t->random, 3) == 0)
		nap(draw(&t->random, 2000));
	return wrong;
}

static void *run(void *arg)
{
	struct thread *t = arg;
	struct owner *o = NULL;

	errno = 0;
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
	if (o)
		owner_close(o);
	free(o);
	return NULL;
}

static struct thread *add(enum kind kind, unsigned number)
{
	struct thread *t = &threads[thread_count++];

	t->kind = kind;
	t->number = number;
	t->random.state = seed * 31 + thread_count;
	return t;
}

static void start_all(void)
{
	add(LEADER, 0);		/* this one */
	for (unsigned i = 0; i < OWNERS; i++)
		add(OWNER, i);
	for (unsigned i = 0; i < HEAPS; i++) {
		heaps[i].random.state = seed * 17 + i;
		add(i < HEAPS - 1 ? HEAPER : CHURNER, i);
	}
	add(READER, 0);
	add(RECRUITER, 0);
	add(TRIMMER, 0);
	add(ADOPTER, 0);
	for (unsigned i = 1; i < thread_count; i++)
		if (pthread_create(&threads[i].thread, NULL, run, &threads[i]) != 0)
			die("pthread_create");
}

/* --- what watches --------------------------------------------------------- */

static void report_hang(void)
{
	for (unsigned i = 0; i < thread_count; i++)
		printf("%s %u: %u steps\n", kind_names[threads[i].kind], threads[i].number,
		       threads[i].steps);
	errno = 0;
	die("a thread hangs");
}

/* Each must have moved within PATIENCE. */
static void *watch(void *seconds)
{
	unsigned last[sizeof(threads) / sizeof(*threads)] = { 0 };
	double moved[sizeof(threads) / sizeof(*threads)] = { 0 };
	double end = now() + *(double *)seconds;

	while (now() < end && !bad) {
		for (unsigned i = 0; i < thread_count; i++) {
			if (threads[i].steps != last[i] || !moved[i])
				moved[i] = now();
			last[i] = threads[i].steps;
			if (now() - moved[i] > PATIENCE)
				report_hang();
		}
		nap(10000);
	}
	stop = 1;
	return NULL;
}

/* --- a life --------------------------------------------------------------- */

/* Stacks and arenas that were adopted before there were threads are left alone. */
static int may_stay(struct store *s)
{
	extents_each(e, &s->extents, s->base, s->base + s->size) {
		if (e.state != EXTENT_FROZEN)
			continue;
		if (e.end > (e.start | (TABLE_SIZE - 1)) + 1)
			e.end = (e.start | (TABLE_SIZE - 1)) + 1;
		if (adopt_may_lift(&e) < 0)
			continue;
		printf("%#lx-%#lx is adopted\n", (unsigned long)e.start, (unsigned long)e.end);
		return 0;
	}
	return 1;
}

/* Nothing is pinned any more, and nobody else lives. */
static int release_all(void)
{
	int ret = cow_release(NULL, 0), wrong = 0;

	process_each_own(s)
		wrong |= s->adopted && !may_stay(s);
	if (!wrong && ret == (stats().bytes_adopted ? -EAGAIN : 0))
		return 0;
	printf("at the end cow_release says %d and %llu bytes are adopted\n", ret,
	       (unsigned long long)stats().bytes_adopted);
	return 1;
}

static int look_at_all(const char *who)
{
	static uint32_t all[5000];

	pages_note(all);
	return check_heaps(who) || pages_check(all, all, who);
}

static int end_all(void)
{
	int wrong = 0;

	for (unsigned i = 1; i < thread_count; i++)
		pthread_join(threads[i].thread, NULL);
	wrong |= reap_all();
	wrong = wrong || look_at_all("in the end") || release_all() || look_at_all("released");
	for (unsigned i = 0; i < HEAPS && !wrong; i++)
		heap_leave(&heaps[i]);
	return wrong || heap_end();
}

static int life(int one_arena, double seconds)
{
	struct random r = { seed + (uint64_t)one_arena };
	pthread_t watcher;
	struct cow_stats st;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm((unsigned)seconds + 2 * PATIENCE);
	if (one_arena)
		mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, draw(&r, 2) ? 128 << 10 : 1 << 20);
	pages_create(get_region);
	choose_options(&r);
	if (draw(&r, 2) && adopt_something(&r))	/* alone */
		return 1;
	start_all();
	if (pthread_create(&watcher, NULL, watch, &seconds) != 0)
		die("pthread_create");
	run(&threads[0]);
	pthread_join(watcher, NULL);
	if (bad)
		return 1;
	bad = end_all();
	pages_destroy(free);
	st = stats();
	printf("%s: %llu forks, %llu adoptions, %llu tables merged, none held longer than %llu "
	       "us\n", one_arena ? "one arena" : "arenas", (unsigned long long)st.forks,
	       (unsigned long long)st.adoptions, (unsigned long long)st.thaw_tables,
	       (unsigned long long)(st.adopt_hold_ns_max > st.thaw_hold_ns_max ?
				    st.adopt_hold_ns_max : st.thaw_hold_ns_max) / 1000);
	if (!st.adoptions || !st.forks)
		printf("nothing was adopted\n");
	return bad || !st.adoptions || !st.forks;
}

int main(int argc, char **argv)
{
	struct cow_facilities f = { .size = sizeof(f) };
	pthread_rwlockattr_t attr;
	double seconds = 4;
	int wrong = 0;

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
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&moment, &attr);
	slots = mmap(NULL, ALIVE * sizeof(*slots), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED)
		die("mmap");
	for (int one_arena = 0; one_arena < 2; one_arena++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(life(one_arena, seconds / 2));
		if (pid < 0)
			die("fork");
		wrong |= end_of(pid);
	}
	return wrong;
}
