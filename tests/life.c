/*
 * See life.h. Three lives in one file: they share the area and what is known of it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/io_uring.h>

#include "compat.h"
#include "lease.h"
#include "life.h"
#include "process.h"
#include "support.h"
#include "thaw.h"

#define PAGES LIFE_PAGES
#define SIZE (PAGES * PAGE)
#define OWN MIB			/* a child's own region */

/* What a page of the area should be: a seed, or one of these. GONE: unmapped, and
 * whatever came to lie there since is not ours. */
enum { ZERO = LIFE_ZERO, GONE = LIFE_GONE, UNKNOWN = LIFE_UNKNOWN };

static char *area;
static unsigned page_is[PAGES];

/* What a move made of a part of the area: pages [first, first + count) of it,
 * then zeros. Without pages: what could not be unmapped elsewhere. */
static struct moved {
	char *at;
	size_t first, count, pages;
	unsigned is[64];
} moved[16];
static int moves;

/* A page that was unmapped. In a region's window nothing else comes there, and what a
 * refusal left of it is to go in the end. */
static unsigned gone(void)
{
	struct store *s = process_store_at((uintptr_t)area, 1);

	return s && !s->adopted ? UNKNOWN : GONE;
}

char *life_take(char *at)
{
	area = at;
	for (size_t i = 0; i < PAGES; i++)
		page_is[i] = at ? ZERO : UNKNOWN;
	return at;
}

/* --- looking ------------------------------------------------------------ */

static int is_page_right(const char *base, size_t i, unsigned is)
{
	if (is == UNKNOWN || is == GONE)
		return 1;
	return is == ZERO ? is_zero(base + i * PAGE, PAGE) : is_page_filled(base, i, is);
}

int life_is_right(void)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!is_page_right(area, i, page_is[i])) {
			fprintf(stderr, "page %zu is not %u (is zero: %d)\n", i, page_is[i],
				is_zero(area + i * PAGE, PAGE));
			return 1;
		}
	for (int m = 0; m < moves; m++)
		for (size_t i = 0; i < moved[m].pages; i++)
			NEED(is_page_right(moved[m].at - moved[m].first * PAGE,
					   moved[m].first + i,
					   i < moved[m].count ? moved[m].is[i] : ZERO));
	return 0;
}

void life_note(size_t first, size_t count, unsigned is)
{
	for (size_t i = first; i < first + count; i++)
		if (page_is[i] != UNKNOWN && page_is[i] != GONE)
			page_is[i] = is;
}

void life_write(size_t from, size_t to, unsigned seed)
{
	for (size_t i = from; i < to; i++)
		if (page_is[i] != UNKNOWN && page_is[i] != GONE) {
			fill_page(area, i, seed);
			page_is[i] = seed;
		}
}

/* --- forks -------------------------------------------------------------- */

/* Not wait_for(): a life is short, and the alarm ends it when it hangs. */
static int end_of(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		NEED(errno == EINTR);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int grandchild(const char *own)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(life_is_right() || (own && !is_filled(own, OWN, 7)));
	if (pid > 0) {
		int status = end_of(pid);

		NEED(status == 0 || status == 127);
	}
	return life_is_right() || (own && !is_filled(own, OWN, 7));
}

static int child(void)
{
	void *own = NULL;

	if (life_is_right())
		return 1;
	life_write(0, PAGES, 50);
	if (area && cow_madvise(area + 90 * PAGE, 30 * PAGE, MADV_DONTNEED) == 0)
		life_note(90, 30, ZERO);
	if (area && cow_munmap(area + 130 * PAGE, 3 * PAGE) == 0)
		life_note(130, 3, gone());
	if (cow_region_create(OWN, 0, &own) == 0)
		fill(own, OWN, 7);
	else
		own = NULL;
	NEED(grandchild(own) == 0);
	NEED(!own || (cow_region_destroy(own) | -ENOMEM) == -ENOMEM);
	return life_is_right();
}

/* must: nothing is refused any more. */
int life_forks(int cow, int must)
{
	pid_t pid = cow ? cow_fork() : fork();
	int status;

	if (pid == 0) {
		alarm(20);
		_exit(child());
	}
	if (pid < 0) {
		NEED(errno == ENOMEM || errno == EAGAIN);
		NEED(!must);
		return life_is_right();
	}
	status = end_of(pid);
	NEED(status == 0 || (!must && !cow && status == 127));
	return life_is_right();
}

void life_want_refresh(void)
{
	process.life->meter.excess = (uint64_t)1 << 40;
	process.life->meter.retry_at = 0;
}

int life_thaw(void)
{
	process_lock();
	if (thaw_allowed())
		thaw_all();
	process_unlock();
	return life_is_right();
}

/* --- memory calls: done, or refused and nothing changed ------------------ */

static int refused_with(int a, int b, int c)
{
	NEED(errno == a || errno == b || errno == c);
	return 0;
}

static int zeros(size_t first, size_t count)
{
	if (cow_madvise(area + first * PAGE, count * PAGE, MADV_DONTNEED) == 0)
		life_note(first, count, ZERO);
	else
		NEED(refused_with(ENOMEM, EINVAL, EAGAIN) == 0);
	return life_is_right();
}

static int protects(size_t at)
{
	if (cow_mprotect(area + at * PAGE, 5 * PAGE, PROT_READ) < 0)
		return refused_with(ENOMEM, EACCES, ENOMEM) || life_is_right();
	NEED(life_is_right() == 0);
	if (cow_mprotect(area + at * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE) == 0)
		return life_is_right();
	NEED(refused_with(ENOMEM, EACCES, ENOMEM) == 0 && life_is_right() == 0);
	life_note(at, 5, UNKNOWN);	/* cannot be written now */
	return 0;
}

static int unmaps(size_t at)
{
	if (cow_munmap(area + at * PAGE, 9 * PAGE) == 0)
		life_note(at, 9, gone());
	else	/* some are those of the call that was refused */
		NEED(errno == EFAULT || errno == EPERM || errno == EACCES || errno == ENOMEM);
	return life_is_right();
}

void life_moved(char *to, size_t at, size_t count, size_t more)
{
	struct moved *m = &moved[moves++];

	*m = (struct moved){ .at = to, .first = at, .count = count, .pages = count + more };
	memcpy(m->is, page_is + at, count * sizeof(*m->is));
}

static int remaps(size_t at, size_t count, size_t more, int flags)
{
	void *p = cow_mremap(area + at * PAGE, count * PAGE, (count + more) * PAGE,
			     MREMAP_MAYMOVE | flags, NULL);

	if (p == MAP_FAILED)
		return refused_with(ENOMEM, EFAULT, EINVAL) || life_is_right();
	life_moved(p, at, count, more);
	life_note(at, count, flags & MREMAP_DONTUNMAP ? ZERO : gone());
	return life_is_right();
}

static int advises(size_t at)
{
	if (cow_madvise(area + at * PAGE, 5 * PAGE, MADV_WIPEONFORK) == 0)
		life_note(at, 5, UNKNOWN);	/* zeros in children */
	NEED(life_is_right() == 0);
	/* taken back, or else a child would not have it */
	if (cow_madvise(area + (at + 7) * PAGE, 5 * PAGE, MADV_DONTFORK) == 0 &&
	    cow_madvise(area + (at + 7) * PAGE, 5 * PAGE, MADV_DOFORK) < 0)
		life_note(at + 7, 5, UNKNOWN);
	NEED(life_is_right() == 0);
	if (cow_mlock2(area + (at + 14) * PAGE, 5 * PAGE, 0) < 0)
		NEED(refused_with(ENOMEM, EPERM, EAGAIN) == 0);
	return life_is_right();
}

static int maps_over(size_t at)
{
	void *p = cow_mmap(area + at * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (p != MAP_FAILED)
		life_note(at, 5, ZERO);
	else
		NEED(refused_with(ENOMEM, EAGAIN, ENOMEM) == 0);
	return life_is_right();
}

int life_calls(size_t at)
{
	return zeros(at, 40) || zeros(at + 50, 2) || protects(at + 60) || unmaps(at + 70) ||
	       remaps(at + 80, 9, 11, 0) || maps_over(at + 110) || advises(at + 120) ||
	       remaps(at + 150, 8, 0, MREMAP_DONTUNMAP);
}

/* What passes by the window: plain memory, and a mapping in the store. */
static int maps_elsewhere(void)
{
	char *p = cow_mmap(NULL, OWN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);

	if (p == MAP_FAILED)
		return refused_with(ENOMEM, EAGAIN, ENOMEM);
	NEED(is_zero(p, OWN));
	fill(p, OWN, 8);
	NEED(life_is_right() == 0);
	if (cow_munmap(p, OWN) < 0) {
		NEED(refused_with(ENOMEM, EPERM, EACCES) == 0);
		moved[moves++] = (struct moved){ .at = p, .pages = 0 };
	}
	return life_is_right();
}

/* --- the life ----------------------------------------------------------- */

static int make_area(void)
{
	void *p = NULL;
	int ret = cow_region_create(SIZE, 0, &p);

	NEED(ret == 0 || ret == -ENOMEM);
	return life_take(p) ? life_is_right() : 0;
}

static int one_year(unsigned year)
{
	int ret = cow_prepare();

	NEED(ret == 0 || ret == -ENOMEM);
	NEED(life_forks(1, 0) == 0);
	life_write(5, 1000, 3 + year);
	NEED(life_forks(0, 0) == 0);
	NEED(life_calls(200 + 400 * year) == 0);
	NEED(life_thaw() == 0);
	life_write(900, PAGES, 10 + year);
	NEED(life_is_right() == 0);
	NEED(life_calls(400 + 400 * year) == 0);
	life_want_refresh();
	NEED(life_forks(1, 0) == 0);
	return maps_elsewhere();
}

int life(void)
{
	struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_NEVER };
	struct cow_facilities f = { .size = sizeof(f) };

	alarm(20);
	NEED(cow_options_set(&o) == 0);
	NEED(make_area() == 0);
	if (!area)		/* the second time perhaps */
		NEED(make_area() == 0);
	if (!area)
		return life_forks(1, 0) || life_forks(0, 0) || maps_elsewhere();
	life_write(0, PAGES, 1);
	life_write(0, PAGES, 2);
	NEED(one_year(0) == 0);
	NEED(one_year(1) == 0);
	o.huge = COW_HUGE_ALWAYS;	/* only now: it takes half the time */
	NEED(cow_options_set(&o) == 0);
	NEED(life_forks(1, 0) == 0);
	life_write(0, 100, 40);
	return cow_facilities(&f) || life_is_right();
}

/* --- beside another thread ------------------------------------------------ */

#define WRITERS LIFE_WRITERS
#define THEIRS LIFE_THEIRS
#define HELD 10000		/* ms: nobody waits that long */

static atomic_int stop;
static atomic_uint rounds;	/* of the other thread */
static atomic_int lost;

/* Each page says how often it was written; nobody else writes here. */
static void *write_theirs(void *arg)
{
	for (uint64_t n = 1; !stop; n++) {
		for (size_t i = WRITERS; i < WRITERS + THEIRS; i++) {
			volatile uint64_t *p = (uint64_t *)(area + i * PAGE);

			lost |= n > 1 && (p[0] != n - 1 || p[511] != n - 1);
			p[0] = p[511] = n;
		}
		rounds++;
		usleep(20);
	}
	return arg;
}

/* The other thread goes on. */
int life_is_free(void)
{
	unsigned before = rounds;

	for (int ms = 0; rounds == before; ms++) {
		NEED(ms < HELD);
		usleep(1000);
	}
	NEED(!lost);
	return life_is_right();
}

static int live_thaw(void)
{
	int ret = cow_thaw();

	NEED(ret == 0 || ret == -EBUSY || ret == -EPERM || ret == -EAGAIN);
	return life_is_free();
}

/* While a child looks, zeros come by a mapping. */
static int lay_over(size_t first, size_t count)
{
	int ends[2], bad;
	pid_t pid;

	NEED(pipe(ends) == 0);
	pid = cow_fork();
	if (pid == 0) {
		char c;

		close(ends[1]);
		_exit(read(ends[0], &c, 1) != 0 || life_is_right());
	}
	close(ends[0]);
	bad = zeros(first, count);
	life_write(first + 5, first + 9, 60);
	close(ends[1]);
	NEED(pid < 0 || end_of(pid) == 0);
	return bad || life_is_right();
}

static int mover_rests(void)
{
	struct mover *m = &process.life->mover;

	for (int ms = 0; atomic_load(&m->runs) && !atomic_load(&m->parked); ms++) {
		NEED(ms < HELD);
		usleep(1000);
	}
	return life_is_free();
}

static void let_thaw(enum cow_thaw thaw)
{
	struct cow_options o = { .size = sizeof(o) };

	if (cow_options_get(&o) == 0) {
		o.thaw = thaw;
		(void)!cow_options_set(&o);
	}
}

/* A ring may pin memory: it is there while this is thawed. */
static int thaw_watched(void)
{
	struct io_uring_params p = { 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &p), bad;

	bad = life_forks(1, 0);
	life_write(100, 200, 61);
	bad = bad || live_thaw();
	if (ring >= 0)
		close(ring);
	return bad;
}

static int thaw_by_itself(void)
{
	let_thaw(COW_THAW_AUTO);
	NEED(life_forks(1, 0) == 0);
	life_write(200, 300, 62);
	usleep(70000);
	NEED(life_is_free() == 0);
	let_thaw(COW_THAW_NEVER);
	return live_thaw();
}

int life_thaws_often(void)
{
	return life_forks(1, 0) || live_thaw() || lay_over(300, 200) || live_thaw() ||
	       thaw_watched() || thaw_by_itself();
}

/* Do it while the other thread writes. */
int life_with_another(int (*fn)(void))
{
	pthread_t thread;
	int bad;

	stop = 0;
	if (pthread_create(&thread, NULL, write_theirs, NULL) != 0 &&
	    pthread_create(&thread, NULL, write_theirs, NULL) != 0)
		return life_is_right();
	bad = fn();
	stop = 1;
	pthread_join(thread, NULL);
	return bad;
}

int life_beside(void)
{
	struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_NEVER,
				 COW_THAW_NEVER, COW_ADOPT_NEVER };

	alarm(40);
	NEED(cow_options_set(&o) == 0);
	NEED(make_area() == 0);
	if (!area)
		NEED(make_area() == 0);
	if (!area)
		return 0;
	life_write(0, PAGES, 1);
	life_note(WRITERS, THEIRS, UNKNOWN);
	return life_with_another(life_thaws_often);
}

static int thaw_whole(void)
{
	int ret;

	NEED(life_forks(1, 1) == 0);
	process_each_own(s)
		if (!lease_free(&s->lease))	/* nobody can tell */
			return mover_rests();
	ret = cow_thaw();
	NEED(ret == 0);
	NEED(stats().bytes_frozen == 0);
	return mover_rests();
}

int life_thaws(void)
{
	if (!area)
		NEED(make_area() == 0);
	NEED(area);
	life_note(WRITERS, THEIRS, UNKNOWN);
	return life_with_another(thaw_whole);
}

/* --- what is left of it -------------------------------------------------- */

static int count_maps(void)
{
	static char text[1 << 16];
	int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY), count = 0;
	ssize_t n;

	while (fd >= 0 && (n = read(fd, text, sizeof(text))) > 0)
		for (ssize_t i = 0; i < n; i++)
			count += text[i] == '\n';
	close(fd);
	return fd < 0 ? 0 : count;
}

/* Pages that a store still holds in the part that a life uses. */
static size_t held(const struct store *s)
{
	static unsigned char present[8 * PAGES];
	size_t n = 0;

	if (syscall(SYS_mincore, s->shadow, sizeof(present) * PAGE, present) < 0)
		return 0;	/* part of it was given up */
	for (size_t i = 0; i < sizeof(present); i++)
		n += present[i] & 1;
	return n;
}

static int destroy_all(void)
{
	for (int m = 0; m < moves; m++)
		NEED(cow_munmap(moved[m].at, moved[m].pages ? moved[m].pages * PAGE
							   : OWN) == 0);
	for (size_t i = 0, end; i < PAGES; i = end + 1) {
		for (end = i; end < PAGES && page_is[end] != GONE; end++)
			;
		NEED(end == i || cow_munmap(area + i * PAGE, (end - i) * PAGE) == 0);
	}
	moves = 0;
	area = NULL;
	for (size_t i = 0; i < PAGES; i++)
		page_is[i] = UNKNOWN;
	return 0;
}

int life_afterwards(int *ret_maps)
{
	void *p = NULL;
	int rest = 0, tell = 1;

	if (!area)
		NEED(make_area() == 0);
	NEED(area);
	NEED(life_is_right() == 0);
	life_write(0, PAGES, 20);
	NEED(life_forks(1, 1) == 0 && life_forks(0, 1) == 0);
	NEED(life_thaw() == 0 && life_forks(1, 1) == 0);
	NEED(destroy_all() == 0);
	process.life->reaped = 0;	/* no need to wait: nobody looks */
	NEED(cow_region_create(2 * SIZE, 0, &p) == 0 && is_zero(p, 2 * SIZE));
	NEED(cow_region_destroy(p) == 0);
	process_each_own(s)
		tell &= lease_free(&s->lease);	/* else nobody can */
	process_each_own(s)
		if (lease_free(&s->lease))
			rest += held(s) || (tell && stats().bytes_deferred);
	NEED(rest == 0);
	NEED(stats().bytes_native == 0);
	NEED(stats().bytes_owned == 0 && stats().bytes_frozen == 0);
	NEED(stats().regions == 0 && store_descriptors() <= 0);
	*ret_maps = count_maps();
	process_each_own(s)
		*ret_maps -= (int)s->spare.held;	/* as many as there were extents */
	return 0;
}

int life_again(void)
{
	int ret;

	NEED(make_area() == 0);
	life_write(0, PAGES, 30);
	NEED(life_forks(1, 0) == 0);
	life_write(0, 600, 31);
	ret = cow_mlockall(MCL_CURRENT);
	NEED(ret == 0 || errno == ENOMEM || errno == EPERM);
	NEED(life_is_right() == 0);
	NEED(cow_munlockall() == 0 || errno == EPERM);
	life_write(300, PAGES, 32);
	NEED(life_calls(200) == 0);
	NEED(life_forks(1, 0) == 0 && life_forks(0, 0) == 0);
	return maps_elsewhere();
}
