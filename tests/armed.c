/*
 * Armed memory at fixed places, and children that look at it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "armed.h"
#include "compat.h"

char *const area = (char *)((uintptr_t)1 << 45);
char *const other = (char *)((uintptr_t)1 << 45) + 64 * MIB;
char *const far = (char *)((uintptr_t)1 << 45) + 8 * GIB;

static int map(char *at, size_t size)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	return mmap(at, size, PROT_READ | PROT_WRITE, flags, -1, 0) == at;
}

int arm(char *at, size_t size, unsigned seed)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_IN_PLACE, COW_HUGE_NEVER,
				       COW_THAW_AUTO, COW_ADOPT_NEVER };

	NEED(cow_options_set(&o) == 0);
	NEED(map(at, size));
	fill(at, size, seed);
	NEED(cow_adopt(at, size) == 0);
	NEED(cow_region_state(at) == COW_STATE_ARMED);
	return 0;
}

int is_moved(char *from, size_t old, size_t len, int flags, char *to)
{
	return (char *)syscall(SYS_mremap, from, old, len, flags, to) == to;
}

int does_nothing(void *arg)
{
	(void)arg;
	return 0;
}

int sees(void *arg)
{
	const struct sight *s = arg;

	for (size_t i = 0; i < s->pages; i++)
		if (i % s->step ? !is_zero(s->at + i * PAGE, PAGE) : !is_page_filled(s->at, i, 1)) {
			fprintf(stderr, "page %zu is not as it was\n", i);
			return WRONG;
		}
	return 0;
}

const struct sight all_of_it = { (char *)((uintptr_t)1 << 45), PAGES, 1 };

void looks(const struct reader *r)
{
	const char c = 0;

	(void)!write(r->ask, &c, 1);	/* it may be dead */
}

int was_killed(struct reader *r)
{
	char c = 0;
	int status;

	if (read(r->answer, &c, 1) == 1) {
		ck_assert_int_eq(c, 0);
		ck_assert_int_eq(reader_end(r), 0);
		return 0;
	}
	status = wait_for(r->pid);
	close(r->ask);
	close(r->answer);
	ck_assert_int_eq(status, KILLED);
	return 1;
}

int is_killed(struct reader *r)
{
	looks(r);
	return was_killed(r);
}

int was_guarded(char *page)
{
	return syscall(SYS_madvise, page, PAGE, MADV_GUARD_INSTALL) == 0 &&
	       syscall(SYS_madvise, page, PAGE, MADV_GUARD_REMOVE) == 0;
}

void empty(char *at, size_t size)
{
	ck_assert_int_eq(cow_madvise(at, size, MADV_DONTNEED), 0);
	for (size_t p = 0; p < size / PAGE; p += STEP)
		fill_page(at, p, 1);
}

void outlives(const struct ends *e, const struct sight *s, unsigned us)
{
	char c;

	close(e->go[1]);
	(void)!read(e->go[0], &c, 1);
	usleep(us);
	c = sees((void *)s) ? 'w' : 'r';
	_exit(write(e->say[1], &c, 1) != 1);
}

char said_after(int (*program)(const struct ends *e, unsigned us), unsigned us, int status)
{
	struct ends e;
	char c = 0;
	pid_t pid;

	ck_assert(pipe(e.go) == 0 && pipe(e.say) == 0);
	pid = fork();
	if (pid == 0) {
		close(e.say[0]);
		_exit(program(&e, us));
	}
	close(e.go[1]);
	close(e.say[1]);
	ck_assert_int_eq(wait_for(pid), status);
	(void)!read(e.say[0], &c, 1);
	close(e.go[0]);
	close(e.say[0]);
	return c;
}

atomic_int stop;

void *runs(void *arg)
{
	(void)arg;
	while (!stop)
		;
	return NULL;
}

int armed_run(Suite *s)
{
	struct cow_facilities f = { .size = sizeof(f) };

	if (cow_facilities(&f) < 0 || !f.in_place) {
		printf("skip: no userfaultfd that tells of forks\n");
		return 77;
	}
	return support_run(s);
}
