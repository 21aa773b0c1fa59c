/*
 * See life.h. The area is plain memory of the process's own, at a place where the kernel
 * puts nothing by itself.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lease.h"
#include "life.h"
#include "process.h"
#include "support.h"

#define SIZE (LIFE_PAGES * PAGE)

static char *area;
static char *elsewhere;		/* a place for what is moved away */

/* --- calls ---------------------------------------------------------------- */

static int take_area(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	char *p = mmap((void *)((uintptr_t)1 << 45), SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);

	NEED(p != MAP_FAILED);
	area = life_take(p);
	elsewhere = area + GIB;
	life_write(0, LIFE_PAGES, 1);
	return 0;
}

static int set_options(enum cow_huge huge, enum cow_thaw thaw, enum cow_adopt adopt)
{
	const struct cow_options o = { sizeof(o), MIB, COW_ENGINE_STORE, huge, thaw, adopt };

	NEED(cow_options_set(&o) == 0);
	return 0;
}

/* NULL: everything */
static int adopts(char *at, size_t len)
{
	int ret = cow_adopt(at, len);

	NEED(ret == 0 || ret == -EAGAIN || ret == -EPERM);
	return life_is_right();
}

static int releases(char *at, size_t len)
{
	int ret = cow_release(at, len);

	NEED(ret == 0 || ret == -EAGAIN || ret == -EPERM || ret == -ENOMEM);
	return life_is_right();
}

static int refreshes(void)
{
	NEED(life_forks(1, 0) == 0);
	life_want_refresh();
	return life_forks(1, 0);
}

/* By calls that the library does not see; so none is refused. */
static int changes_unseen(size_t at)
{
	char *p = area + at * PAGE;

	NEED(munmap(p, 3 * PAGE) == 0);
	life_note(at, 3, LIFE_GONE);
	NEED(mprotect(p + 10 * PAGE, 4 * PAGE, PROT_READ) == 0);
	NEED(adopts(area, SIZE) == 0);
	NEED(mprotect(p + 10 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
	NEED(mmap(p + 20 * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 20 * PAGE);
	life_note(at + 20, 5, LIFE_ZERO);
	NEED(mremap(p + 30 * PAGE, 6 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    elsewhere + at * PAGE) == elsewhere + at * PAGE);
	life_moved(elsewhere + at * PAGE, at + 30, 6, 0);
	life_note(at + 30, 6, LIFE_GONE);
	NEED(life_is_right() == 0);
	NEED(refreshes() == 0);
	NEED(adopts(area, SIZE) == 0);
	life_write(at, at + 40, 9);
	return refreshes();
}

/* --- alone ---------------------------------------------------------------- */

static int one_year(unsigned year)
{
	size_t at = 200 + 500 * year;	/* children make calls below */

	life_write(5, 1000, 2 + 10 * year);
	NEED(life_forks(0, 0) == 0);
	NEED(releases(area + 90 * PAGE, 500 * PAGE) == 0);
	life_write(300, LIFE_PAGES, 3 + 10 * year);
	NEED(adopts(area + 100 * PAGE, 700 * PAGE) == 0);
	NEED(life_calls(at) == 0);
	NEED(refreshes() == 0);
	NEED(adopts(NULL, 0) == 0);
	NEED(changes_unseen(at + 180) == 0);
	NEED(life_calls(at + 230) == 0);
	NEED(life_thaw() == 0);
	NEED(releases(NULL, 0) == 0);
	life_write(0, LIFE_PAGES, 4 + 10 * year);
	return adopts(area, SIZE) || life_forks(1, 0);
}

int life_adopts(void)
{
	alarm(20);
	NEED(set_options(COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_FIRST) == 0);
	NEED(take_area() == 0);
	NEED(life_forks(1, 0) == 0);	/* this one adopts */
	NEED(one_year(0) == 0);
	NEED(set_options(COW_HUGE_ALWAYS, COW_THAW_AUTO, COW_ADOPT_NEVER) == 0);
	NEED(one_year(1) == 0);
	return life_is_right();
}

/* --- beside another thread ------------------------------------------------ */

static int works_beside(void)
{
	NEED(adopts(NULL, 0) == 0 && life_is_free() == 0);
	NEED(life_thaws_often() == 0);
	NEED(releases(area + 90 * PAGE, 500 * PAGE) == 0 && life_is_free() == 0);
	NEED(adopts(area, SIZE) == 0 && life_is_free() == 0);
	NEED(life_calls(800) == 0);
	NEED(adopts(area, SIZE) == 0 && life_is_free() == 0);
	life_write(100, 900, 70);
	NEED(life_forks(1, 0) == 0);
	return releases(NULL, 0) || life_is_free();
}

int life_adopts_beside(void)
{
	alarm(40);
	NEED(set_options(COW_HUGE_NEVER, COW_THAW_NEVER, COW_ADOPT_NEVER) == 0);
	NEED(take_area() == 0);
	life_note(LIFE_WRITERS, LIFE_THEIRS, LIFE_UNKNOWN);
	return life_with_another(works_beside);
}

/* --- afterwards ------------------------------------------------------------ */

static int is_adopted(void)
{
	int ret = cow_adopt(area, SIZE);

	if (ret == -EPERM && process.native_for_good)	/* what was refused never passes */
		return life_is_right();
	process_each_own(s)
		if (!lease_tells(&s->lease))	/* what a child may see is not used again */
			return life_is_right();
	if (ret)
		fprintf(stderr, "cow_adopt: %s: %s\n", strerror(-ret),
			cow_reason_string((enum cow_reason)stats().adopt_reason));
	NEED(ret == 0);
	NEED(stats().bytes_adopted > SIZE / 2);
	NEED(life_forks(1, 1) == 0);
	life_write(0, LIFE_PAGES, 80);
	NEED(life_forks(0, 1) == 0);
	NEED(cow_release(NULL, 0) == 0);
	NEED(stats().bytes_adopted == 0);
	return life_is_right();
}

int life_adopted(int beside)
{
	return beside ? life_with_another(is_adopted) : is_adopted();
}
