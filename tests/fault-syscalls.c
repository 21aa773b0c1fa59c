/*
 * Each thing that the library asks of the kernel is refused by a seccomp filter
 * with an errno: from the start, once memory is owned, and once it is frozen;
 * as root and as nobody, with and without a readable /proc/self. Some rules hit
 * one call alone, by its address: a single step of a freeze or a thaw. The
 * process must stay right: a fork gives a right child or fails with ENOMEM (a
 * plain fork's child ends with status 127); a memory call does what it says or
 * fails and leaves memory as it was; nothing hangs, nothing is left behind.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <unistd.h>

#include "compat.h"
#include "process.h"
#include "support.h"
#include "thaw.h"

#define PAGES 1300u
#define SIZE (PAGES * PAGE)
#define NOBODY 65534

enum where { ANY, WINDOW, SHADOW, TEMPLATE };	/* first argument */
enum when { FROM_START, OWNED, FROZEN, WHENS };
enum who { ROOT, ALMOST_NOBODY, JUST_NOBODY, WHOS };	/* the last without /proc/self */

struct fault {
	const char *name;
	int call, refusal;
	int argument;		/* 1 to 5: must have these bits, or be 0; 0: any */
	unsigned long bits;
	enum where where;
};

#define CALL(name) #name, SCMP_SYS(name)

static const struct fault faults[] = {
	{ CALL(memfd_create), ENOSYS, 0, 0, ANY },
	{ CALL(memfd_create), EINVAL, 1, MFD_NOEXEC_SEAL, ANY },
	{ CALL(ftruncate), EFBIG, 0, 0, ANY },
	{ CALL(newfstatat), EACCES, 0, 0, ANY },
	{ CALL(shmget), ENOSYS, 0, 0, ANY },
	{ CALL(shmget), ENOSPC, 0, 0, ANY },
	{ CALL(shmat), EACCES, 0, 0, ANY },
	{ CALL(shmctl), EPERM, 0, 0, ANY },
	{ CALL(shmctl), EPERM, 1, IPC_STAT, ANY },
	{ CALL(mlock), ENOMEM, 0, 0, ANY },
	{ CALL(mremap), ENOSYS, 0, 0, ANY },
	{ CALL(mremap), EINVAL, 3, MREMAP_DONTUNMAP, ANY },
	{ CALL(mremap), ENOMEM, 1, 0, ANY },
	{ CALL(mremap), ENOMEM, 0, 0, WINDOW },
	{ CALL(mremap), ENOMEM, 0, 0, SHADOW },
	{ CALL(mremap), ENOMEM, 0, 0, TEMPLATE },
	{ CALL(madvise), ENOSYS, 0, 0, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_DONTFORK, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_DOFORK, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_DONTDUMP, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_DODUMP, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_WIPEONFORK, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_REMOVE, ANY },
	{ CALL(madvise), EINVAL, 2, MADV_COLLAPSE, ANY },
	{ CALL(madvise), ENOMEM, 0, 0, WINDOW },
	{ CALL(madvise), ENOMEM, 0, 0, SHADOW },
	{ CALL(mprotect), ENOMEM, 0, 0, ANY },
	{ CALL(mprotect), ENOMEM, 2, 0, ANY },
	{ CALL(mprotect), ENOMEM, 2, PROT_READ | PROT_WRITE, ANY },
	{ CALL(mprotect), ENOMEM, 0, 0, WINDOW },
	{ CALL(mprotect), ENOMEM, 0, 0, SHADOW },
	{ CALL(mprotect), ENOMEM, 0, 0, TEMPLATE },
	{ CALL(mmap), ENOMEM, 0, 0, ANY },
	{ CALL(mmap), ENOMEM, 0, 0, WINDOW },
	{ CALL(openat), EACCES, 0, 0, ANY },
	{ CALL(openat), EMFILE, 0, 0, ANY },
	{ CALL(read), EIO, 0, 0, ANY },
	{ CALL(pread64), EIO, 0, 0, ANY },
	{ CALL(mincore), ENOSYS, 0, 0, ANY },
	{ CALL(unshare), EPERM, 0, 0, ANY },
	{ CALL(sysinfo), ENOSYS, 0, 0, ANY },
	{ CALL(prlimit64), EPERM, 0, 0, ANY },
	{ CALL(getrusage), ENOSYS, 0, 0, ANY },
	{ CALL(clone), EAGAIN, 0, 0, ANY },
};

struct scene {
	const struct fault *fault;
	enum when when;
	enum who who;
};

static char *area;

/* --- the filter --------------------------------------------------------- */

static uint64_t address_of(enum where where)
{
	const struct store *s = process_store_at((uintptr_t)area, 1);
	uintptr_t at = (uintptr_t)area;

	if (where == SHADOW)
		at = store_alias(s, at);
	if (where == TEMPLATE)
		at = at - s->base + s->template;
	return at;
}

static int take_away(const struct fault *f)
{
	struct scmp_arg_cmp args[2];
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	unsigned n = 0;

	NEED(filter);
	if (f->where != ANY)
		args[n++] = SCMP_A0_64(SCMP_CMP_EQ, address_of(f->where), 0);
	if (f->argument)
		args[n++] = SCMP_CMP64((unsigned)f->argument, SCMP_CMP_EQ, f->bits, 0);
	if (f->argument && f->bits && strcmp(f->name, "madvise") && strcmp(f->name, "mprotect"))
		args[n - 1] = SCMP_CMP64((unsigned)f->argument, SCMP_CMP_MASKED_EQ,
					 f->bits, f->bits);
	NEED(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((uint32_t)f->refusal), f->call,
				    n, args) == 0);
	NEED(seccomp_load(filter) == 0);
	return 0;
}

/* --- a life under it ---------------------------------------------------- */

/* What every page should be: a seed, ZERO, or not looked at. */
enum { ZERO = 0, UNKNOWN = 999 };
static unsigned page_is[PAGES];

static int is_right(void)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (page_is[i] == UNKNOWN)
			continue;
		if (page_is[i] == ZERO)
			NEED(is_zero(area + i * PAGE, PAGE));
		else
			NEED(is_page_filled(area, i, page_is[i]));
	}
	return 0;
}

static void write_pages(size_t from, size_t to, unsigned seed)
{
	for (size_t i = from; i < to; i++)
		if (page_is[i] != UNKNOWN) {
			fill_page(area, i, seed);
			page_is[i] = seed;
		}
}

static int child_life(void)
{
	void *own;
	pid_t pid;

	if (is_right())
		return 1;
	write_pages(0, PAGES, 50);
	if (area && cow_madvise(area + 90 * PAGE, 30 * PAGE, MADV_DONTNEED) == 0)
		for (size_t i = 90; i < 120; i++)
			page_is[i] = page_is[i] == UNKNOWN ? UNKNOWN : ZERO;
	if (cow_region_create(MIB, 0, &own) == 0)
		fill(own, MIB, 7);
	else
		own = NULL;
	pid = fork();
	if (pid == 0)
		_exit(is_right() || (own && !is_filled(own, MIB, 7)));
	if (pid > 0) {
		int status = wait_for(pid);

		NEED(status == 0 || status == 127);
	}
	return is_right() || (own && !is_filled(own, MIB, 7));
}

static int forks(int cow)
{
	uint64_t before = stats().forks;
	pid_t pid = cow ? cow_fork() : fork();
	int status;

	if (pid == 0)
		_exit(child_life());
	if (pid < 0) {
		NEED(errno == ENOMEM || errno == EAGAIN);
		/* a plain fork() cannot tell our handlers that it failed */
		NEED(!cow || stats().forks == before);
		return 0;
	}
	status = wait_for(pid);
	NEED(status == 0 || (!cow && status == 127));
	return 0;
}

/* As a refresh does it, but whenever we like. */
static void thaw(void)
{
	process_lock();
	if (thaw_allowed())
		thaw_all();
	process_unlock();
}

/* Each either does its work, or changes nothing. */
static int memory_calls(unsigned round)
{
	size_t at = 200 + 200 * round;
	void *p;

	if (cow_madvise(area + at * PAGE, 40 * PAGE, MADV_DONTNEED) == 0)
		memset(page_is + at, 0, 40 * sizeof(*page_is));
	NEED(is_right() == 0);
	if (cow_madvise(area + (at + 50) * PAGE, 2 * PAGE, MADV_DONTNEED) == 0)
		memset(page_is + at + 50, 0, 2 * sizeof(*page_is));
	NEED(is_right() == 0);
	if (cow_mprotect(area + (at + 60) * PAGE, 5 * PAGE, PROT_READ) == 0) {
		NEED(is_right() == 0);
		if (cow_mprotect(area + (at + 60) * PAGE, 5 * PAGE, 3) < 0)
			for (size_t i = 60; i < 65; i++)
				page_is[at + i] = UNKNOWN;	/* not writable now */
	}
	if (cow_munmap(area + (at + 70) * PAGE, 9 * PAGE) == 0)
		for (size_t i = 70; i < 79; i++)
			page_is[at + i] = UNKNOWN;
	NEED(is_right() == 0);
	p = cow_mremap(area + (at + 80) * PAGE, 9 * PAGE, 20 * PAGE, MREMAP_MAYMOVE, NULL);
	if (p != MAP_FAILED) {
		for (size_t i = 80; i < 89; i++) {
			NEED(((uint64_t *)p)[(i - 80) * 512] ==
			     *(uint64_t *)(p == area + (at + 80) * PAGE ? area + (at + i) * PAGE
					: (char *)p + (i - 80) * PAGE));
			page_is[at + i] = UNKNOWN;
		}
		NEED(is_zero((char *)p + 9 * PAGE, 11 * PAGE));
	}
	NEED(is_right() == 0);
	p = cow_mmap(area + (at + 110) * PAGE, 5 * PAGE, 3,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (p != MAP_FAILED)
		memset(page_is + at + 110, 0, 5 * sizeof(*page_is));
	NEED(is_right() == 0);
	if (cow_madvise(area + (at + 120) * PAGE, 5 * PAGE, MADV_WIPEONFORK) == 0)
		for (size_t i = 120; i < 125; i++)
			page_is[at + i] = UNKNOWN;
	if (cow_mlock2(area + (at + 130) * PAGE, 5 * PAGE, 0) < 0)
		NEED(errno == ENOMEM || errno == EPERM || errno == ENOSYS || errno == EAGAIN);
	return is_right();
}

static int live(int have_area)
{
	struct cow_facilities f = { .size = sizeof(f) };
	void *p;
	int ret;

	if (!have_area) {
		ret = cow_region_create(SIZE, 0, &p);
		NEED(ret == 0 || ret == -ENOMEM);
		for (size_t i = 0; ret < 0 && i < PAGES; i++)
			page_is[i] = UNKNOWN;
		if (ret < 0)
			return forks(1) || forks(0);
		area = p;
		NEED(is_zero(area, SIZE));
	}
	write_pages(0, PAGES, 2);
	for (unsigned round = 0; round < 3; round++) {
		NEED(forks(1) == 0);
		write_pages(5, 1000, 3 + round);
		NEED(forks(0) == 0);
		NEED(memory_calls(round) == 0);
		thaw();
		write_pages(900, PAGES, 10 + round);
		NEED(is_right() == 0);
		NEED(forks(1) == 0);
		NEED(is_right() == 0);
	}
	NEED(cow_facilities(&f) == 0);
	ret = cow_region_destroy(area);
	NEED(ret == 0 || ret == -ENOMEM);
	if (cow_region_create(SIZE, 0, &p) == 0)
		NEED(is_zero(p, SIZE));
	return 0;
}

static int become(enum who who)
{
	if (who == ROOT)
		return 0;
	NEED(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	NEED(prctl(PR_SET_DUMPABLE, who == ALMOST_NOBODY) == 0);
	return 0;
}

static int play(void *arg)
{
	const struct scene *s = arg;
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_ALWAYS, COW_THAW_AUTO, COW_ADOPT_NEVER };

	NEED(become(s->who) == 0);
	NEED(cow_options_set(&o) == 0);
	if (s->when != FROM_START) {
		area = region(SIZE);
		write_pages(0, PAGES, 1);
		write_pages(0, PAGES, 1);
	}
	for (size_t i = 0; i < PAGES; i++)
		page_is[i] = s->when == FROM_START ? ZERO : 1;
	if (s->when == FROZEN)
		NEED(forks(1) == 0);
	if (s->fault && take_away(s->fault))
		return 77;
	return live(s->when != FROM_START);
}

static int play_all(const struct fault *fault, const char *name)
{
	int bad = 0;

	for (int when = FROM_START; when < WHENS; when++)
		for (int who = ROOT; who < WHOS; who++) {
			struct scene s = { fault, (enum when)when, (enum who)who };
			pid_t pid;
			int status;

			if (fault && fault->where != ANY && when == FROM_START)
				continue;
			if (who != ROOT && geteuid() != 0)
				continue;
			pid = fork();
			if (pid == 0)
				_exit(play(&s));
			status = wait_for(pid);
			if (status || shm_segments(pid))
				fprintf(stderr, "%s, when %d, who %d: status %d, %d segments "
					"left\n", name, when, who, status, shm_segments(pid));
			bad += status || shm_segments(pid);
		}
	return bad;
}

START_TEST(refused)
{
	const struct fault *f = &faults[_i];
	char name[100];

	snprintf(name, sizeof(name), "%s (argument %d, %#lx; place %d) -> %s", f->name,
		 f->argument, f->bits, (int)f->where, strerror(f->refusal));
	ck_assert_msg(play_all(f, name) == 0, "%s", name);
}
END_TEST

START_TEST(nothing_refused)
{
	ck_assert_int_eq(play_all(NULL, "no fault"), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fault-syscalls");
	TCase *tc = tcase_create("refusals");

	tcase_set_timeout(tc, 400);
	tcase_add_test(tc, nothing_refused);
	tcase_add_loop_test(tc, refused, 0, COUNT(faults));
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
