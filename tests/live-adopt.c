/*
 * cow_adopt() and cow_release(), alone and beside a thread, by what can be seen of
 * them: the maps and the pagemap of the process, the pages that the kernel holds, what
 * children see. What they adopt and what not, each errno, when forks adopt by
 * themselves, what a refresh makes of memory that its owner changed unseen. Memory
 * calls on adopted memory are live-memory.c's. Longer than other files, since all tests
 * share the kinds of memory and these looks.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>

#include "process.h"
#include "support.h"

#define TABLE (2 * MIB)
#define SIZE (6 * TABLE)
#define PAGES (SIZE / PAGE)
#define ENOUGH 3000		/* forks, a hundred times what is expected */
#define LONG_ENOUGH 5000	/* ms: a hundred times what is expected */

enum { RW = PROT_READ | PROT_WRITE, PLAIN = MAP_PRIVATE | MAP_ANONYMOUS };

static char *area;

/* --- a beginning --------------------------------------------------------- */

static atomic_int stop;

static void nap(unsigned ms)
{
	const struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static void *sit(void *arg)
{
	(void)arg;
	while (!stop)
		nap(1);
	return NULL;
}

static void set_options(enum cow_adopt adopt, size_t min)
{
	const struct cow_options o = { sizeof(o), min, COW_ENGINE_STORE, COW_HUGE_AUTO,
				       COW_THAW_NEVER, adopt };

	ck_assert_int_eq(cow_options_set(&o), 0);
}

/* A mapping of its own: address space around it that nobody takes. */
static char *plain(size_t size)
{
	char *p = mmap(NULL, size + 3 * TABLE, PROT_NONE, PLAIN | MAP_NORESERVE, -1, 0);
	uintptr_t at = ((uintptr_t)p + 2 * TABLE - 1) & ~(TABLE - 1);

	ck_assert_ptr_ne(p, MAP_FAILED);
	ck_assert_int_eq(mprotect((char *)at, size, RW), 0);
	return (char *)at;
}

/* Adoption when asked alone, a filled area, and a thread if it is to be beside one. */
static void begin(int beside)
{
	pthread_t thread;

	set_options(COW_ADOPT_NEVER, 4 * MIB);
	area = plain(SIZE);
	fill(area, SIZE, 1);
	if (beside)
		ck_assert_int_eq(pthread_create(&thread, NULL, sit, NULL), 0);
}

/* Where the kernel puts nothing by itself, so that a hole next to it stays one. */
static void begin_apart(int beside)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	begin(beside);
	ck_assert_int_eq(munmap(area, SIZE), 0);
	area = mmap((void *)((uintptr_t)1 << 45), SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	fill(area, SIZE, 1);
}

/* --- looking -------------------------------------------------------------- */

/* One assertion for all: each costs Check a write to a file. */
static int is_all_of(const char *at, size_t len, char byte)
{
	for (size_t i = 0; i < len; i++)
		if (at[i] != byte)
			return 0;
	return 1;
}

static int are_pages_filled(size_t first, size_t end, unsigned seed)
{
	for (size_t i = first; i < end; i++)
		if (!is_page_filled(area, i, seed))
			return 0;
	return 1;
}

static int area_is(void *seed)
{
	return !is_filled(area, SIZE, *(unsigned *)seed);
}

static void must_be_right(unsigned seed)
{
	ck_assert(is_filled(area, SIZE, seed));
	ck_assert_int_eq(in_child(area_is, &seed), 0);
}

/* Every map there is the store's or none of it is, and nothing is shared. */
static int is_all(const char *at, size_t len, enum cow_state state)
{
	const char *from = at, *end = at + len;

	while (at < end) {
		struct map m;

		if (!map_at(at, &m) || m.is_store != (state == COW_STATE_FROZEN) ||
		    m.perms[3] != 'p' || cow_region_state(at) != (int)state) {
			fprintf(stderr, "%zu pages behind it is %s\n",
				(size_t)(at - from) / PAGE,
				cow_state_string((enum cow_state)cow_region_state(at)));
			return 0;
		}
		at = m.end;
	}
	return cow_region_state(end - 1) == (int)state;
}
#define must_be(at, len, state) ck_assert(is_all(at, len, state))

/* Pages that the store, or plain memory, holds there. */
static size_t held(const char *at, size_t len)
{
	static unsigned char present[256 * MIB / PAGE];
	size_t n = 0;

	ck_assert_uint_le(len, sizeof(present) * PAGE);
	ck_assert_int_eq(mincore((void *)(uintptr_t)at, len, present), 0);
	for (size_t i = 0; i < len / PAGE; i++)
		n += present[i] & 1;
	return n;
}

static void one_fork(void)
{
	pid_t pid = cow_fork();

	if (pid == 0)
		_exit(0);
	ck_assert_int_eq(wait_for(pid), 0);
}

/* A refresh: inside a fork when alone, else by the mover. */
static void refresh(int beside)
{
	one_fork();
	if (beside) {
		ck_assert_int_eq(cow_thaw(), 0);
		return;
	}
	process.life->meter.excess = (uint64_t)1 << 40;
	process.life->meter.retry_at = 0;
	one_fork();
}

/* --- what they say --------------------------------------------------------- */

START_TEST(arguments)
{
	int (*const calls[])(void *, size_t) = { cow_adopt, cow_release };
	int (*call)(void *, size_t) = calls[_i];

	begin(0);
	errno = ERANGE;
	ck_assert_int_eq(call(area + 1, PAGE), -EINVAL);
	ck_assert_int_eq(call(area, PAGE + 1), -EINVAL);
	ck_assert_int_eq(call(area, 1), -EINVAL);
	ck_assert_int_eq(call(area, 0), -EINVAL);
	ck_assert_int_eq(call(NULL, PAGE), -EINVAL);
	ck_assert_int_eq(call(area, SIZE_MAX & ~(PAGE - 1)), -EINVAL);
	ck_assert_int_eq(errno, ERANGE);
	must_be(area, SIZE, COW_STATE_NATIVE);
}
END_TEST

START_TEST(nothing_to_do)
{
	begin(_i);
	set_options(COW_ADOPT_NEVER, GIB);
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	ck_assert_int_eq(cow_adopt(area - TABLE, TABLE), 0);	/* inaccessible */
	ck_assert_int_eq(munmap(area, SIZE), 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_uint_eq(stats().adoptions, 0);
	ck_assert_uint_eq(stats().bytes_adopted, 0);
	ck_assert_int_eq(store_mappings(0), 0);
}
END_TEST

START_TEST(there_and_back)
{
	begin(_i);
	errno = ERANGE;
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	ck_assert_uint_eq(private_pages(area, SIZE), 0);
	ck_assert_uint_eq(held(area, SIZE), PAGES);
	ck_assert_uint_eq(stats().bytes_adopted, SIZE);
	ck_assert_uint_eq(stats().bytes_frozen, SIZE);
	ck_assert_uint_eq(stats().adoptions, 1);
	ck_assert_uint_eq(stats().adopt_reason, COW_REASON_NONE);
	ck_assert_uint_gt(stats().adopt_ns_total, 0);
	ck_assert(_i ? stats().adopt_hold_ns_max > 0 : 1);
	must_be_right(1);
	fill(area, SIZE, 2);
	must_be_right(2);

	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be_right(2);
	ck_assert_uint_eq(stats().bytes_adopted, SIZE);

	ck_assert_int_eq(cow_release(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_NATIVE);
	must_be_right(2);
	ck_assert_uint_eq(stats().bytes_adopted, 0);
	ck_assert_uint_eq(stats().bytes_frozen, 0);
	ck_assert_int_eq(errno, ERANGE);
	ck_assert_int_eq(store_descriptors(), 0);
}
END_TEST

START_TEST(again_and_again)
{
	begin(_i);
	for (unsigned i = 2; i < 12; i++) {
		ck_assert_int_eq(cow_adopt(area, SIZE), 0);
		must_be(area, SIZE, COW_STATE_FROZEN);
		must_be_right(i - 1);
		fill(area, SIZE, i);
		ck_assert_int_eq(cow_release(i % 2 ? area : NULL, i % 2 ? SIZE : 0), 0);
		must_be(area, SIZE, COW_STATE_NATIVE);
		must_be_right(i);
	}
	ck_assert_uint_eq(stats().adoptions, 10);
}
END_TEST

/* While a child looks the old offsets cannot be used again. */
START_TEST(again_while_a_child_looks)
{
	unsigned one = 1;
	struct reader child;
	int ret;

	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	child = reader_start(area_is, &one);
	fill(area, SIZE, 2);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_NATIVE);
	ret = cow_adopt(area, SIZE);
	ck_assert_int_eq(ret, cow_region_state(area) == COW_STATE_FROZEN ? 0 : -EAGAIN);
	must_be_right(2);
	ck_assert_int_eq(reader_ask(&child), 0);
	ck_assert_int_eq(reader_end(&child), 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be_right(2);
}
END_TEST

START_TEST(parts)
{
	char *middle;

	begin(_i);
	middle = area + TABLE + 5 * PAGE;
	ck_assert_int_eq(cow_adopt(middle, TABLE), 0);
	must_be(area, (size_t)(middle - area), COW_STATE_NATIVE);
	must_be(middle, TABLE, COW_STATE_FROZEN);
	must_be(middle + TABLE, SIZE - TABLE - (size_t)(middle - area), COW_STATE_NATIVE);
	must_be_right(1);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be_right(1);
	fill(area, SIZE, 2);
	ck_assert_int_eq(cow_release(middle + PAGE, 2 * PAGE), 0);
	must_be(middle + PAGE, 2 * PAGE, COW_STATE_NATIVE);
	must_be(middle, PAGE, COW_STATE_FROZEN);
	must_be_right(2);
	ck_assert_uint_eq(stats().bytes_adopted, SIZE - 2 * PAGE);
	refresh(_i);
	must_be_right(2);
}
END_TEST

/* Regions are in the store, and can be released by their address. */
START_TEST(a_region_is_released)
{
	begin(_i);
	area = region(SIZE);
	fill(area, SIZE, 3);
	one_fork();
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_NATIVE);
	must_be_right(3);
	ck_assert_int_eq(cow_region_destroy(area), 0);
}
END_TEST

/* --- pages ------------------------------------------------------------------ */

START_TEST(holes_stay_holes)
{
	const size_t size = 64 * MIB, each = 16;
	int bad = 0;
	char *p;

	begin(_i);
	p = plain(size);
	for (size_t i = 0; i < size / PAGE; i += each)
		fill_page(p, i, 1);
	for (size_t i = 1; i < size / PAGE; i += each)
		bad |= ((volatile char *)p)[i * PAGE];	/* the zero page */
	memset(p + 2 * PAGE, 0, PAGE);
	ck_assert_int_eq(cow_adopt(p, size), 0);
	must_be(p, size, COW_STATE_FROZEN);
	ck_assert_uint_eq(held(p, size), size / PAGE / each);
	for (size_t i = 0; i < size / PAGE; i++)
		bad |= !(i % each ? is_zero(p + i * PAGE, PAGE) : is_page_filled(p, i, 1));
	ck_assert_int_eq(bad, 0);
}
END_TEST

/* It takes no more memory, before a refresh and after. */
START_TEST(held_once)
{
	const size_t size = 64 * MIB;
	const long eighth = (long)(size / KIB / 8);
	long before;
	char *p;

	begin(_i);
	p = plain(size);
	fill(p, size, 1);
	before = rollup_kib("Pss");
	ck_assert_int_eq(cow_adopt(p, size), 0);
	ck_assert(is_filled(p, size, 1));
	ck_assert_int_lt(rollup_kib("Pss"), before + eighth);
	fill(p, size, 2);
	refresh(_i);
	ck_assert_uint_eq(private_pages(p, size), 0);
	ck_assert(is_filled(p, size, 2));
	ck_assert_int_lt(rollup_kib("Pss"), before + eighth);
	ck_assert_int_eq(cow_release(p, size), 0);
	ck_assert_int_lt(rollup_kib("Pss"), before + eighth);
	ck_assert_uint_eq(private_pages(p, size), size / PAGE);
	ck_assert(is_filled(p, size, 2));
}
END_TEST

START_TEST(a_refresh_merges)
{
	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	for (unsigned round = 2; round < 6; round++) {
		fill(area, SIZE, round);
		ck_assert_uint_eq(private_pages(area, SIZE), PAGES);
		refresh(_i);
		must_be(area, SIZE, COW_STATE_FROZEN);
		ck_assert_uint_eq(private_pages(area, SIZE), 0);
		must_be_right(round);
	}
}
END_TEST

/* Once it is merged a child may look again, and nothing changes for it. */
START_TEST(no_refresh_while_a_child_looks)
{
	unsigned two = 2;
	struct reader child;

	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	fill(area, SIZE, 2);
	child = reader_start(area_is, &two);
	fill(area, SIZE, 3);
	if (_i)
		ck_assert_int_eq(cow_thaw(), -EBUSY);
	process.life->meter.excess = (uint64_t)1 << 40;
	process.life->meter.retry_at = 0;
	one_fork();
	ck_assert_uint_eq(private_pages(area, SIZE), PAGES);
	ck_assert_int_eq(reader_ask(&child), 0);
	ck_assert_int_eq(reader_end(&child), 0);
	refresh(_i);
	ck_assert_uint_eq(private_pages(area, SIZE), 0);
	must_be_right(3);
}
END_TEST

static atomic_int seen_shared;
static atomic_uint looks;

static void *watch_maps(void *arg)
{
	(void)arg;
	while (!stop) {
		FILE *f = fopen("/proc/self/maps", "r");
		unsigned long start, end;
		char line[512], perms[5];

		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3 &&
			    end > (uintptr_t)area && start < (uintptr_t)area + SIZE)
				seen_shared |= perms[3] != 'p';
		if (f)
			fclose(f);
		looks++;
	}
	return NULL;
}

START_TEST(never_shared)
{
	pthread_t thread;

	begin(1);
	ck_assert_int_eq(pthread_create(&thread, NULL, watch_maps, NULL), 0);
	for (unsigned i = 2; i < 50 || looks < 100; i++) {
		ck_assert_int_eq(cow_adopt(area, SIZE), 0);
		fill(area, SIZE, i);
		refresh(1);
		ck_assert_int_eq(cow_release(area, SIZE), 0);
	}
	stop = 1;
	pthread_join(thread, NULL);
	ck_assert_int_eq(seen_shared, 0);
}
END_TEST

/* --- children ---------------------------------------------------------------- */

static int writes_and_forks(void *seed)
{
	unsigned old = *(unsigned *)seed, own = old + 100;

	NEED(is_filled(area, SIZE, old));
	fill(area, SIZE, own);
	NEED(in_child(area_is, &own) == 0);
	NEED(is_filled(area, SIZE, own));
	return 0;
}

START_TEST(children)
{
	unsigned one = 1, two = 2, three = 3;
	struct reader before, after, late;
	pid_t raw;

	begin(_i);
	before = reader_start(area_is, &one);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	after = reader_start(area_is, &one);
	fill(area, SIZE, 2);
	ck_assert_int_eq(in_child(writes_and_forks, &two), 0);
	late = reader_start(area_is, &two);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	fill(area, SIZE, 3);
	ck_assert_int_eq(in_child(writes_and_forks, &three), 0);
	ck_assert_int_eq(reader_ask(&before), 0);
	ck_assert_int_eq(reader_ask(&after), 0);
	ck_assert_int_eq(reader_ask(&late), 0);
	ck_assert_int_eq(reader_end(&after), 0);
	ck_assert_int_eq(reader_end(&late), 0);
	(void)!cow_adopt(area, SIZE);
	raw = raw_fork();	/* what is private needs no handler */
	if (raw == 0)
		_exit(area_is(&three));
	ck_assert_int_eq(wait_for(raw), 0);
	ck_assert_int_eq(reader_ask(&before), 0);
	ck_assert_int_eq(reader_end(&before), 0);
	must_be_right(3);
}
END_TEST

/* A child's own memory goes to a store of its own; what it inherited stays. */
static int adopts_too(void *arg)
{
	unsigned one = 1, seven = 7;
	char *inherited = area, *own = plain(SIZE);

	(void)arg;
	fill(own, SIZE, 7);
	NEED(cow_adopt(inherited, SIZE) == 0);
	NEED(cow_adopt(own, SIZE) == 0);
	NEED(cow_region_state(own) == COW_STATE_FROZEN);
	NEED(stats().bytes_adopted == SIZE && stats().bytes_inherited == SIZE);
	area = own;
	NEED(is_filled(own, SIZE, 7) && in_child(area_is, &seven) == 0);
	area = inherited;
	NEED(is_filled(area, SIZE, 1) && in_child(area_is, &one) == 0);
	fill(area, SIZE, 3);
	NEED(cow_release(NULL, 0) == 0 && cow_release(area, SIZE) == 0);
	NEED(cow_region_state(own) == COW_STATE_NATIVE);
	NEED(is_filled(own, SIZE, 7) && is_filled(area, SIZE, 3));
	return munmap(area, SIZE);
}

START_TEST(a_child_adopts)
{
	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(in_child(adopts_too, NULL), 0);
	must_be_right(1);
	must_be(area, SIZE, COW_STATE_FROZEN);
}
END_TEST

/* --- what is passed over ------------------------------------------------------ */

#define SPOT (2 * TABLE)		/* of the area, where another kind of memory is */
#define SPOT_SIZE TABLE

static int no_file(void)
{
	int fd = memfd_create("program", MFD_CLOEXEC);

	ck_assert(fd >= 0 && ftruncate(fd, SPOT_SIZE) == 0);
	return fd;
}

static int lay(char *at, int prot, int flags, int fd)
{
	return mmap(at, SPOT_SIZE, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}

static int advise(char *at, int advice)
{
	return madvise(at, SPOT_SIZE, advice) < 0 ? -errno : 0;
}

static int uffd_of_ours(char *at)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		{ (uintptr_t)at, SPOT_SIZE }, UFFDIO_REGISTER_MODE_MISSING, 0,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return 0;	/* it stays open */
}

static int locked(char *at) { return mlock(at, SPOT_SIZE) < 0 ? -errno : 0; }
static int dontfork(char *at) { return advise(at, MADV_DONTFORK); }
static int wipeonfork(char *at) { return advise(at, MADV_WIPEONFORK); }
static int dontdump(char *at) { return advise(at, MADV_DONTDUMP); }
static int mergeable(char *at) { return advise(at, MADV_MERGEABLE); }
static int code(char *at) { return mprotect(at, SPOT_SIZE, RW | PROT_EXEC) < 0 ? -errno : 0; }
static int constant(char *at) { return mprotect(at, SPOT_SIZE, PROT_READ) < 0 ? -errno : 0; }
static int none(char *at) { return mprotect(at, SPOT_SIZE, PROT_NONE) < 0 ? -errno : 0; }
static int stack(char *at) { return lay(at, RW, PLAIN | MAP_GROWSDOWN, -1); }
static int file(char *at) { return lay(at, RW, MAP_PRIVATE, no_file()); }
static int shared_file(char *at) { return lay(at, RW, MAP_SHARED, no_file()); }
static int shared(char *at) { return lay(at, RW, MAP_SHARED | MAP_ANONYMOUS, -1); }
static int huge(char *at) { return lay(at, RW, PLAIN | MAP_HUGETLB, -1); }

static const struct kind {
	const char *name;
	int (*make)(char *at);	/* or -errno: this machine has none */
	int prot;
	int is_shared;
} kinds[] = {
	{ "locked", locked, RW, 0 },
	{ "left out of forks", dontfork, RW, 0 },
	{ "wiped by forks", wipeonfork, RW, 0 },
	{ "left out of core files", dontdump, RW, 0 },
	{ "to be merged", mergeable, RW, 0 },
	{ "executable", code, RW | PROT_EXEC, 0 },
	{ "read-only", constant, PROT_READ, 0 },
	{ "inaccessible", none, PROT_NONE, 0 },
	{ "growing down", stack, RW, 0 },
	{ "of a file", file, RW, 0 },
	{ "of a shared file", shared_file, RW, 1 },
	{ "shared", shared, RW, 1 },
	{ "of hugetlbfs", huge, RW, 0 },
	{ "of a userfaultfd", uffd_of_ours, RW, 0 },
};

static void must_be_kind(const struct kind *k)
{
	const char perms[] = {
		k->prot & PROT_READ ? 'r' : '-', k->prot & PROT_WRITE ? 'w' : '-',
		k->prot & PROT_EXEC ? 'x' : '-', k->is_shared ? 's' : 'p', 0,
	};
	struct map m;

	for (size_t i = 0; i < SPOT_SIZE; i += PAGE) {
		ck_assert(map_at(area + SPOT + i, &m));
		ck_assert_str_eq(m.perms, perms);
		ck_assert(!m.is_store);
		ck_assert_int_eq(cow_region_state(area + SPOT + i), COW_STATE_NATIVE);
		i = m.end > area + SPOT + SPOT_SIZE ? SPOT_SIZE
						    : (size_t)(m.end - area) - SPOT - PAGE;
	}
}

static void others_must_be_adopted(void)
{
	must_be(area, SPOT, COW_STATE_FROZEN);
	must_be(area + SPOT + SPOT_SIZE, SIZE - SPOT - SPOT_SIZE, COW_STATE_FROZEN);
	ck_assert(is_filled(area, SPOT, 1));
	ck_assert(are_pages_filled((SPOT + SPOT_SIZE) / PAGE, PAGES, 1));
}

START_TEST(other_kinds)
{
	const struct kind *k = &kinds[_i / 2];
	int ret;

	begin(_i % 2);
	ret = k->make(area + SPOT);
	if (ret < 0) {
		fprintf(stderr, "no memory %s: %s\n", k->name, strerror(-ret));
		return;
	}
	if (k->prot & PROT_WRITE && k->make != huge)
		memset(area + SPOT, 3, SPOT_SIZE);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be_kind(k);
	others_must_be_adopted();
	ck_assert_int_eq(cow_adopt(area + SPOT, SPOT_SIZE), 0);
	must_be_kind(k);
	refresh(_i % 2);
	must_be_kind(k);
	others_must_be_adopted();
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	must_be_kind(k);
	if (k->prot & PROT_WRITE && k->make != huge)
		ck_assert(is_all_of(area + SPOT, SPOT_SIZE, 3));
}
END_TEST

/* Within one table, so that what lies around it shares a window. */
START_TEST(small_spots)
{
	char *spots[3];

	begin(_i);
	for (size_t i = 0, at = 0; i < 3; i++, at += 130 * PAGE) {
		spots[i] = area + TABLE + 40 * PAGE + at;
		ck_assert_int_eq(mlock(spots[i], PAGE), 0);
	}
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, (size_t)(spots[0] - area), COW_STATE_FROZEN);
	for (int i = 0; i < 3; i++) {
		char *next = i < 2 ? spots[i + 1] : area + SIZE;

		must_be(spots[i], PAGE, COW_STATE_NATIVE);
		must_be(spots[i] + PAGE, (size_t)(next - spots[i]) - PAGE, COW_STATE_FROZEN);
	}
	must_be_right(1);
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	must_be(area, SIZE, COW_STATE_NATIVE);
}
END_TEST

START_TEST(hints_are_no_kind)
{
	begin(_i);
	madvise(area, TABLE, MADV_HUGEPAGE);
	madvise(area + TABLE, TABLE, MADV_NOHUGEPAGE);
	madvise(area + 2 * TABLE, TABLE, MADV_RANDOM);
	madvise(area + 3 * TABLE, TABLE, MADV_SEQUENTIAL);
	ck_assert_int_eq(cow_adopt(area, TABLE * 2), 0);
	must_be(area, 2 * TABLE, COW_STATE_FROZEN);
	must_be_right(1);
}
END_TEST

START_TEST(stacks)
{
	char here[PAGE];
	char *at = (char *)((uintptr_t)here & ~(PAGE - 1));
	struct map m;

	begin(_i);
	memset(here, 5, sizeof(here));
	ck_assert_int_eq(cow_adopt(at, PAGE), 0);
	ck_assert(map_at(at, &m));
	ck_assert_int_eq(cow_adopt(m.start, (size_t)(m.end - m.start)), 0);
	ck_assert(map_at(at, &m) && !m.is_store);
	ck_assert_int_eq(cow_region_state(at), COW_STATE_NATIVE);
}
END_TEST

/* It uses its stack as long as that may be adopted, and its end is seen. */
static void *lives(void *ret_stack)
{
	volatile char big[64 * KIB];

	*(char *volatile *)ret_stack = (char *)big;
	while (!stop)
		for (size_t i = 0; i < sizeof(big); i++)
			big[i]++;
	return NULL;
}

START_TEST(a_thread_s_stack)
{
	char *volatile at = NULL;
	pthread_t thread;
	struct map m;

	begin(0);
	ck_assert_int_eq(pthread_create(&thread, NULL, lives, (void *)&at), 0);
	while (!at)
		nap(1);
	ck_assert(map_at(at, &m));
	for (int i = 0; i < 20; i++) {
		int ret = cow_adopt(m.start, (size_t)(m.end - m.start));

		ck_assert(ret == 0 || ret == -EAGAIN);
		ret = cow_release(m.start, (size_t)(m.end - m.start));
		ck_assert(ret == 0 || ret == -EAGAIN);
	}
	ck_assert(map_at((void *)thread, &m) && !m.is_store);
	stop = 1;
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

/* --- pages that are pinned ----------------------------------------------------- */

#define PINNED (SPOT + 40 * PAGE)
#define PINNED_LEN (8 * PAGE)

static int ring_pins(void)
{
	const struct iovec buffer = { area + PINNED, PINNED_LEN };
	struct io_uring_params p = { 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &p);

	ck_assert_int_ge(ring, 0);
	ck_assert_int_eq((int)syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS,
				      &buffer, 1), 0);
	return ring;
}

/* The kernel unpins a little after the ring is closed. */
static void must_be_adopted_at_last(void)
{
	int ret = -EAGAIN;

	for (int ms = 0; ms < LONG_ENOUGH && ret == -EAGAIN; ms += 10) {
		process.life->pins_next = 0;	/* looked at once a second */
		nap(10);
		ret = cow_adopt(area, SIZE);
	}
	ck_assert_int_eq(ret, 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
}

/* A descriptor that pins is seen first: nothing is adopted then. */
START_TEST(pinned)
{
	int ring;

	begin(_i);
	ring = ring_pins();
	process.life->pins_next = 0;	/* it looks */
	ck_assert_int_eq(cow_adopt(area, SIZE), -EAGAIN);
	ck_assert_uint_eq(stats().adopt_reason, COW_REASON_PINNED);
	must_be(area, SIZE, COW_STATE_NATIVE);
	close(ring);
	must_be_adopted_at_last();
	must_be_right(1);
}
END_TEST

/* Else the table of the page stays. */
START_TEST(pinned_meanwhile)
{
	int ring;

	begin(_i);
	process.life->pins_next = UINT64_MAX;	/* it has looked */
	ring = ring_pins();
	ck_assert_int_eq(cow_adopt(area, SIZE), -EAGAIN);
	ck_assert_uint_eq(stats().adopt_reason, COW_REASON_PINNED);
	must_be(area + SPOT, SPOT_SIZE, COW_STATE_NATIVE);
	must_be(area, TABLE, COW_STATE_FROZEN);
	must_be(area + SIZE - TABLE, TABLE, COW_STATE_FROZEN);
	must_be_right(1);
	close(ring);
	must_be_adopted_at_last();
	must_be_right(1);
}
END_TEST

/* --- each errno ------------------------------------------------------------------ */

static void filter(int call, int refusal, unsigned arg, uint64_t mask, uint64_t value)
{
	struct scmp_arg_cmp cmp = SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value);
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

	ck_assert(f && seccomp_rule_add_array(f, SCMP_ACT_ERRNO((uint32_t)refusal), call,
					      mask != 0, &cmp) == 0);
	ck_assert_int_eq(seccomp_load(f), 0);
	seccomp_release(f);
}

static void must_refuse(int ret, enum cow_reason reason)
{
	uint64_t before = stats().native[reason];

	ck_assert_int_eq(cow_adopt(area, SIZE), ret);
	ck_assert_uint_eq(stats().adopt_reason, reason);
	ck_assert_uint_gt(stats().native[reason], before);
	must_be(area, SIZE, COW_STATE_NATIVE);
	must_be_right(1);
	ck_assert_uint_eq(stats().adoptions, 0);
}

START_TEST(no_engine)
{
	struct cow_options o = { .size = sizeof(o) };

	begin(_i);
	ck_assert_int_eq(cow_options_get(&o), 0);
	o.engine = COW_ENGINE_OFF;
	ck_assert_int_eq(cow_options_set(&o), 0);
	must_refuse(-EPERM, COW_REASON_OFF);
}
END_TEST

START_TEST(limits)
{
	static const struct { int resource; enum cow_reason reason; } limited[] = {
		{ RLIMIT_FSIZE, COW_REASON_FSIZE }, { RLIMIT_AS, COW_REASON_ADDRESS },
		{ RLIMIT_DATA, COW_REASON_ADDRESS },
	};
	const struct rlimit limit = { 8 * GIB, RLIM_INFINITY };

	begin(_i % 2);
	ck_assert_int_eq(setrlimit((__rlimit_resource_t)limited[_i / 2].resource, &limit), 0);
	must_refuse(-EPERM, limited[_i / 2].reason);
}
END_TEST

START_TEST(no_memfd)
{
	begin(_i);
	filter(SCMP_SYS(memfd_create), ENOSYS, 0, 0, 0);
	must_refuse(-EPERM, COW_REASON_MEMFD);
}
END_TEST

START_TEST(all_memory_is_to_be_locked)
{
	begin(_i);
	ck_assert_int_eq(cow_mlockall(MCL_FUTURE), 0);
	must_refuse(-EPERM, COW_REASON_LOCKED);
	ck_assert_int_eq(cow_munlockall(), 0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be_right(1);
}
END_TEST

/* The stores are retired; what comes later has others. */
START_TEST(all_memory_was_locked)
{
	char *old;

	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	fill(area, SIZE, 2);
	ck_assert_int_eq(cow_mlockall(MCL_CURRENT), 0);
	ck_assert(is_filled(area, SIZE, 2));
	ck_assert_int_eq(cow_munlockall(), 0);
	must_be_right(2);
	(void)!cow_adopt(area, SIZE);
	must_be_right(2);
	old = area;
	area = plain(SIZE);
	fill(area, SIZE, 3);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be_right(3);
	ck_assert(is_filled(old, SIZE, 2));
}
END_TEST

/* In this thread and its children, of which the mover is one. */
static void refuse_userfaultfd(void)
{
	filter(SCMP_SYS(userfaultfd), EPERM, 0, 0, 0);
	filter(SCMP_SYS(openat), EACCES, 2, O_ACCMODE, O_RDWR);
}

START_TEST(no_userfaultfd)
{
	begin(1);
	refuse_userfaultfd();
	must_refuse(-EPERM, COW_REASON_UFFD);
}
END_TEST

START_TEST(no_userfaultfd_for_a_release)
{
	pthread_t thread;

	begin(0);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, sit, NULL), 0);
	refuse_userfaultfd();
	fill(area, SIZE, 2);
	ck_assert_int_eq(cow_release(area, SIZE), -EPERM);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be_right(2);
	stop = 1;
	pthread_join(thread, NULL);
	ck_assert_int_eq(cow_release(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_NATIVE);
	must_be_right(2);
}
END_TEST

START_TEST(no_thread)
{
	begin(1);
	filter(SCMP_SYS(clone3), ENOSYS, 0, 0, 0);
	filter(SCMP_SYS(clone), EAGAIN, 0, CLONE_VM, CLONE_VM);
	ck_assert_int_eq(cow_adopt(area, SIZE), -EAGAIN);
	must_be(area, SIZE, COW_STATE_NATIVE);
	must_be_right(1);
}
END_TEST

/* What the kernel refuses at last leaves memory as it was. */
START_TEST(no_maps)
{
	static const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	int ret;

	begin(_i % 2);
	if (_i / 2)
		ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	fill(area, SIZE, 2);
	filter(SCMP_SYS(mremap), ENOMEM, 3, (uint64_t)flags, (uint64_t)flags);
	ret = _i / 2 ? cow_release(area, SIZE) : cow_adopt(area, SIZE);
	ck_assert_msg(ret == -EAGAIN || ret == (_i / 2 ? -ENOMEM : -EPERM), "%d", ret);
	must_be(area, SIZE, _i / 2 ? COW_STATE_FROZEN : COW_STATE_NATIVE);
	must_be_right(2);
	if (!(_i / 2))	/* the first store is tried before */
		ck_assert_uint_eq(stats().adopt_reason, COW_REASON_REMAP);
}
END_TEST

START_TEST(no_proc)
{
	begin(_i);
	filter(SCMP_SYS(openat), EACCES, 0, 0, 0);
	ck_assert_int_lt(cow_adopt(area, SIZE), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_NATIVE);
	must_be_right(1);
}
END_TEST

/* --- which, when everything is asked for ------------------------------------------- */

START_TEST(all_that_is_large)
{
	char *small, *sparse;

	begin(_i);
	small = plain(MIB / 2);
	fill(small, MIB / 2, 2);
	sparse = plain(64 * MIB);
	fill(sparse, MIB / 64, 3);	/* an eighth of what would be enough */
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	must_be(small, MIB / 2, COW_STATE_NATIVE);
	must_be(sparse, 64 * MIB, COW_STATE_NATIVE);
	fill(sparse, 8 * MIB, 3);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be(sparse, 64 * MIB, COW_STATE_FROZEN);
	must_be(small, MIB / 2, COW_STATE_NATIVE);
	ck_assert_int_eq(cow_adopt(small, MIB / 2), 0);
	must_be(small, MIB / 2, COW_STATE_FROZEN);
	must_be_right(1);
	ck_assert(is_filled(small, MIB / 2, 2) && is_filled(sparse, 8 * MIB, 3));
	ck_assert_int_eq(cow_release(NULL, 0), 0);
	must_be(small, MIB / 2, COW_STATE_NATIVE);
	must_be(sparse, 64 * MIB, COW_STATE_NATIVE);
	must_be_right(1);
}
END_TEST

/* Behind what was adopted 256 KiB are enough. */
START_TEST(what_grew)
{
	const size_t more = MIB / 4;

	begin_apart(_i);
	ck_assert_int_eq(munmap(area + SIZE - TABLE, TABLE), 0);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be(area, SIZE - TABLE, COW_STATE_FROZEN);
	for (size_t at = SIZE - TABLE; at < SIZE; at += more) {
		ck_assert_ptr_eq(mmap(area + at, more, RW, PLAIN | MAP_FIXED, -1, 0), area + at);
		for (size_t i = at / PAGE; i < (at + more) / PAGE; i++)
			fill_page(area, i, 1);
		ck_assert_int_eq(cow_adopt(NULL, 0), 0);
		must_be(area, at + more, COW_STATE_FROZEN);
		one_fork();
	}
	must_be_right(1);
}
END_TEST

/* --- by itself ----------------------------------------------------------------------- */

#define LARGE (64 * MIB)

static void large(enum cow_adopt adopt)
{
	set_options(adopt, 32 * MIB);
	area = plain(LARGE);
	fill(area, LARGE, 1);
}

START_TEST(auto_waits_until_it_pays)
{
	unsigned n;

	large(COW_ADOPT_AUTO);
	one_fork();
	must_be(area, LARGE, COW_STATE_NATIVE);
	for (n = 1; n < ENOUGH && !stats().bytes_adopted; n++)
		one_fork();
	ck_assert_uint_lt(n, ENOUGH);
	must_be(area, LARGE, COW_STATE_FROZEN);
	ck_assert_uint_eq(stats().adoptions, 1);
	ck_assert_uint_eq(stats().forks, n);
	ck_assert(is_filled(area, LARGE, 1));
}
END_TEST

START_TEST(auto_passes_small_memory_over)
{
	set_options(COW_ADOPT_AUTO, 128 * MIB);
	area = plain(LARGE);
	fill(area, LARGE, 1);
	for (unsigned n = 0; n < 100; n++)
		one_fork();
	must_be(area, LARGE, COW_STATE_NATIVE);
	ck_assert_int_eq(store_mappings(0), 0);
}
END_TEST

START_TEST(first_adopts_first)
{
	char *more;

	set_options(COW_ADOPT_FIRST, 32 * MIB);
	one_fork();	/* nothing is there yet */
	ck_assert_uint_eq(stats().adoptions, 0);
	large(COW_ADOPT_FIRST);
	one_fork();
	must_be(area, LARGE, COW_STATE_FROZEN);
	ck_assert_uint_eq(stats().adoptions, 1);
	one_fork();
	ck_assert_uint_eq(stats().adoptions, 1);
	more = plain(LARGE);	/* from then on it is to pay, as with auto */
	fill(more, LARGE, 2);
	one_fork();
	must_be(more, LARGE, COW_STATE_NATIVE);
	ck_assert_uint_eq(stats().adoptions, 1);
	ck_assert(is_filled(area, LARGE, 1) && is_filled(more, LARGE, 2));
}
END_TEST

START_TEST(never_adopts)
{
	large(COW_ADOPT_NEVER);
	for (unsigned n = 0; n < 200; n++)
		one_fork();
	must_be(area, LARGE, COW_STATE_NATIVE);
	ck_assert_uint_eq(stats().adoptions, 0);
	ck_assert_int_eq(store_mappings(0), 0);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be(area, LARGE, COW_STATE_FROZEN);
}
END_TEST

/* The library alone does not see what other threads' malloc does. */
START_TEST(not_beside_threads_by_itself)
{
	pthread_t thread;

	large(_i ? COW_ADOPT_FIRST : COW_ADOPT_AUTO);
	ck_assert_int_eq(pthread_create(&thread, NULL, sit, NULL), 0);
	for (unsigned n = 0; n < 200; n++)
		one_fork();
	must_be(area, LARGE, COW_STATE_NATIVE);
	ck_assert_uint_eq(stats().adoptions, 0);
	ck_assert_int_eq(cow_adopt(NULL, 0), 0);
	must_be(area, LARGE, COW_STATE_FROZEN);
}
END_TEST

static int is_large(void *arg)
{
	(void)arg;
	return !is_filled(area, LARGE, 1);
}

/* A plain fork(), by its handlers; in a child that forks itself. */
static int child_adopts(void *arg)
{
	NEED(stats().adoptions == 0);
	NEED(in_child(is_large, arg) == 0);
	NEED(stats().adoptions == 1 && cow_region_state(area) == COW_STATE_FROZEN);
	return is_large(arg);
}

START_TEST(a_child_adopts_first)
{
	large(COW_ADOPT_NEVER);
	set_options(COW_ADOPT_NEVER, 32 * MIB);
	one_fork();
	if (_i)
		set_options(COW_ADOPT_FIRST, 32 * MIB);
	/* the child knows of no fork before; without adoption here there is one there */
	ck_assert_int_eq(in_child(_i ? is_large : child_adopts, NULL), _i ? 0 : 1);
	ck_assert_uint_eq(stats().adoptions, _i ? 1 : 0);
}
END_TEST

/* --- its owner changes it unseen ------------------------------------------------------ */

START_TEST(the_break)
{
	char *base = sbrk(0), *end;
	size_t size;

	begin(_i);
	base = (char *)(((uintptr_t)base + TABLE - 1) & ~(TABLE - 1));
	ck_assert_int_eq(brk(base + SIZE), 0);
	area = base;
	fill(area, SIZE, 1);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	must_be(area, SIZE, COW_STATE_FROZEN);
	for (unsigned round = 2; round < 8; round++) {
		size = SIZE / round & ~(PAGE - 1);
		ck_assert_int_eq(brk(base + size), 0);
		ck_assert(!map_at(base + size, &(struct map){ 0 }));
		ck_assert(is_filled(area, size, round - 1));
		if (round % 2)
			refresh(_i);
		end = sbrk((intptr_t)(SIZE - size));
		ck_assert_ptr_eq(end, base + size);
		ck_assert(is_zero(end, SIZE - size));
		fill(area, SIZE, round);
		must_be_right(round);
		refresh(_i);
		must_be_right(round);
		if (round % 3 == 0)
			ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	}
}
END_TEST

/* What was moved unseen is plain memory before advice empties it: of a part of a page, which
 * stands for all of it, and of none, which is no advice. */
START_TEST(part_of_a_moved_page)
{
	char *to = (char *)((uintptr_t)1 << 44);	/* in no window */

	begin_apart(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	for (size_t i = 0; i < 2; i++)	/* two mappings */
		ck_assert_ptr_eq(mremap(area + (9 - i) * PAGE, PAGE, PAGE,
					MREMAP_MAYMOVE | MREMAP_FIXED, to + i * PAGE),
				 to + i * PAGE);
	ck_assert_int_eq(cow_madvise(to + 1, PAGE, MADV_DONTNEED), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert(is_page_filled(to - 9 * PAGE, 9, 1));
	ck_assert(is_page_filled(to - 7 * PAGE, 8, 1));
	ck_assert_int_eq(cow_madvise(to, PAGE + 100, MADV_DONTNEED), 0);
	ck_assert(is_zero(to, 2 * PAGE));
}
END_TEST

/* Unmapped, moved, protected, mapped over: it is found before the next re-mapping, and
 * the place stays the owner's. */
static void change(int beside)
{
	char *t = area + TABLE;

	ck_assert_int_eq(munmap(t, 9 * PAGE), 0);
	ck_assert_int_eq(munmap(t + 20 * PAGE, 9 * PAGE), 0);
	ck_assert_ptr_eq(mmap(t + 20 * PAGE, 9 * PAGE, RW, PLAIN | MAP_FIXED, -1, 0),
			 t + 20 * PAGE);
	ck_assert_ptr_eq(mmap(t + 40 * PAGE, 9 * PAGE, PROT_NONE, PLAIN | MAP_FIXED, -1, 0),
			 t + 40 * PAGE);
	ck_assert_int_eq(mprotect(t + 60 * PAGE, 9 * PAGE, PROT_READ), 0);
	ck_assert_int_eq(mprotect(t + 80 * PAGE, 9 * PAGE, PROT_NONE), 0);
	ck_assert_int_eq(mprotect(t + 100 * PAGE, 9 * PAGE, RW | PROT_EXEC), 0);
	ck_assert_ptr_eq(mmap(t + 120 * PAGE, 9 * PAGE, RW, MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
			      -1, 0), t + 120 * PAGE);
	ck_assert_ptr_eq(mremap(t + 140 * PAGE, 9 * PAGE, 9 * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, area + SIZE + 9 * PAGE),
			 area + SIZE + 9 * PAGE);
	for (size_t i = 20; i < 29; i++)
		fill_page(t, i, 7);
	fill(t + 120 * PAGE, 9 * PAGE, 8);
	if (!beside)
		ck_assert_int_eq(munmap(t + 160 * PAGE, 2 * TABLE), 0);
}

static const struct { size_t first, count; const char *perms; } changed[] = {
	{ 0, 9, NULL }, { 20, 9, "rw-p" }, { 40, 9, "---p" }, { 60, 9, "r--p" },
	{ 80, 9, "---p" }, { 100, 9, "rwxp" }, { 120, 9, "rw-s" }, { 140, 9, NULL },
};

static int is_changed(size_t page)
{
	for (int i = 0; i < COUNT(changed); i++)
		if (page - TABLE / PAGE - changed[i].first < changed[i].count)
			return 1;
	return 0;
}

static int is_hole(size_t page, int beside)
{
	return !beside && page >= TABLE / PAGE + 160 && page < 3 * TABLE / PAGE + 160;
}

static int is_as_changed(void *beside)
{
	char *t = area + TABLE;

	for (size_t i = 0; i < PAGES; i++)
		if (!is_changed(i) && !is_hole(i, beside != NULL))
			NEED(is_page_filled(area, i, 1));
	for (size_t i = 20; i < 29; i++)
		NEED(is_page_filled(t, i, 7));
	for (size_t i = 60; i < 69; i++)
		NEED(is_page_filled(area, TABLE / PAGE + i, 1));
	NEED(is_filled(t + 120 * PAGE, 9 * PAGE, 8));
	for (size_t i = 140; i < 149; i++)
		NEED(is_page_filled(area + SIZE + 9 * PAGE - 140 * PAGE - TABLE,
				    TABLE / PAGE + i, 1));
	return 0;
}

static void must_be_as_changed(int beside)
{
	char *t = area + TABLE;
	struct map m;

	for (int i = 0; i < COUNT(changed); i++)
		for (size_t k = 0; k < changed[i].count; k++) {
			int is = map_at(t + (changed[i].first + k) * PAGE, &m);

			ck_assert_int_eq(is, changed[i].perms != NULL);
			if (is)
				ck_assert_str_eq(m.perms, changed[i].perms);
		}
	ck_assert_int_eq(is_as_changed(beside ? area : NULL), 0);
	ck_assert_int_eq(in_child(is_as_changed, beside ? area : NULL), 0);
	ck_assert_int_eq(beside ? 0 : map_at(t + 160 * PAGE, &m), 0);
}

START_TEST(changed_unseen)
{
	begin(_i);
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	one_fork();
	change(_i);
	for (int round = 0; round < 3; round++) {
		must_be_as_changed(_i);
		if (_i)
			(void)!cow_thaw();
		else
			refresh(0);
		must_be_as_changed(_i);
		(void)!cow_adopt(area, SIZE);
		must_be_as_changed(_i);
	}
	(void)!cow_release(NULL, 0);
	must_be_as_changed(_i);
}
END_TEST

/* Zeros, and no neighbour: as realloc() grows a large block. */
START_TEST(grown_unseen)
{
	char *p;

	begin_apart(_i);
	ck_assert_int_eq(munmap(area + SIZE, TABLE), 0);	/* room */
	ck_assert_int_eq(cow_adopt(area, SIZE), 0);
	p = mremap(area, SIZE, SIZE + TABLE / 2, 0);
	ck_assert_ptr_eq(p, area);
	ck_assert(is_zero(area + SIZE, TABLE / 2));
	must_be_right(1);
	memset(area + SIZE, 9, TABLE / 2);
	refresh(_i);
	must_be_right(1);
	ck_assert(area[SIZE] == 9 && area[SIZE + TABLE / 2 - 1] == 9);

	p = mremap(area, SIZE + TABLE / 2, SIZE + 8 * TABLE, MREMAP_MAYMOVE);
	ck_assert_ptr_ne(p, MAP_FAILED);
	area = p;
	ck_assert(is_zero(area + SIZE + TABLE / 2, 7 * TABLE + TABLE / 2));
	must_be_right(1);
	ck_assert(area[SIZE] == 9 && area[SIZE + TABLE / 2 - 1] == 9);
	fill(area, SIZE, 2);
	refresh(_i);
	(void)!cow_adopt(area, SIZE);
	must_be_right(2);
	ck_assert(is_zero(area + SIZE + TABLE / 2, 7 * TABLE + TABLE / 2));
	ck_assert_int_eq(munmap(area, SIZE + 8 * TABLE), 0);
	refresh(_i);
}
END_TEST

/* Where memory was given back another mapping comes: nothing of the old shows. */
START_TEST(given_back_and_anew)
{
	begin(_i);
	for (unsigned round = 1; round < 8; round++) {
		ck_assert_int_eq(cow_adopt(area, SIZE), 0);
		must_be_right(round);
		if (round % 2)
			one_fork();
		ck_assert_int_eq(munmap(area, SIZE), 0);
		ck_assert_ptr_eq(mmap(area, SIZE, RW, PLAIN | MAP_FIXED_NOREPLACE, -1, 0), area);
		ck_assert(is_zero(area, SIZE));
		if (round % 3 == 0)
			refresh(_i);
		fill(area, SIZE, round + 1);
		must_be_right(round + 1);
	}
}
END_TEST

/* --- odd places ------------------------------------------------------------------------- */

static ucontext_t back;
static int adopt_ret, state_there;

static void on_that_stack(void)
{
	volatile char there[KIB];

	memset((char *)there, 7, sizeof(there));
	adopt_ret = cow_adopt(area, SIZE);
	state_there = cow_region_state((const char *)there);
	for (size_t i = 0; i < sizeof(there); i++)
		adopt_ret |= there[i] != 7;
}

/* A coroutine's stack in the midst of it: that part stays. */
START_TEST(on_a_stack_there)
{
	ucontext_t there;

	begin(_i);
	getcontext(&there);
	there.uc_stack.ss_sp = area + SPOT;
	there.uc_stack.ss_size = SPOT_SIZE;
	there.uc_link = &back;
	makecontext(&there, on_that_stack, 0);
	swapcontext(&back, &there);
	ck_assert_int_eq(adopt_ret, 0);
	if (!_i)
		ck_assert_int_eq(state_there, COW_STATE_NATIVE);
	must_be(area, SPOT, COW_STATE_FROZEN);
	ck_assert(is_filled(area, SPOT, 1));
	one_fork();
}
END_TEST

static int handled;

static void forks(int sig)
{
	pid_t pid = fork();

	(void)sig;
	if (pid == 0)
		_exit(!is_filled(area, SPOT, 1));
	handled = wait_for(pid) + 1;
}

START_TEST(in_a_handler_on_its_stack)
{
	struct sigaction action = { .sa_handler = forks, .sa_flags = SA_ONSTACK };
	stack_t there;

	begin(0);
	set_options(COW_ADOPT_FIRST, 4 * MIB);
	there = (stack_t){ .ss_sp = area + SPOT, .ss_size = SPOT_SIZE };
	ck_assert_int_eq(sigaltstack(&there, NULL), 0);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	raise(SIGUSR1);
	ck_assert_int_eq(handled, 1);
	must_be(area, SPOT, COW_STATE_FROZEN);
	ck_assert_uint_eq(stats().adoptions, 1);
	raise(SIGUSR1);
	ck_assert_int_eq(handled, 1);
}
END_TEST

/* The library's own memory, malloc's, what the loader made: it all goes on. */
START_TEST(all_that_there_is)
{
	char *blocks[1000], text[64];
	pthread_t thread;

	begin(_i);
	set_options(COW_ADOPT_NEVER, PAGE);
	for (int i = 0; i < COUNT(blocks); i++) {
		blocks[i] = malloc(1000 + (size_t)i);
		memset(blocks[i], i, 1000);
	}
	for (int round = 0; round < 3; round++) {
		int ret = cow_adopt(NULL, 0);

		ck_assert_msg(ret == 0 || ret == -EAGAIN, "%d, %s", ret,
			      cow_reason_string((enum cow_reason)stats().adopt_reason));
		must_be_right(1);
		for (int i = 0; i < COUNT(blocks); i++) {
			ck_assert(blocks[i][0] == (char)i && blocks[i][999] == (char)i);
			blocks[i] = realloc(blocks[i], 1000 + (size_t)(i * (round + 1)));
		}
		snprintf(text, sizeof(text), "%d %s", round, "text");
		ck_assert_str_eq(text + 2, "text");
		ck_assert_int_eq(pthread_create(&thread, NULL, sit, NULL), 0);
		stop = 1;
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
		stop = !_i;
		refresh(_i);
		ret = cow_release(NULL, 0);
		ck_assert(ret == 0 || ret == -EAGAIN);
		must_be_right(1);
	}
}
END_TEST

/* --- main --------------------------------------------------------------------------------- */

static int can_move(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	return cow_facilities(&f) == 0 && f.userfaultfd;
}

int main(void)
{
	const TTest *const both[] = {	/* alone, and beside a thread */
		arguments, nothing_to_do, there_and_back, again_and_again,
		again_while_a_child_looks, parts, a_region_is_released, holes_stay_holes,
		held_once, a_refresh_merges, no_refresh_while_a_child_looks, children,
		a_child_adopts, hints_are_no_kind, small_spots, stacks, pinned, pinned_meanwhile,
		no_engine, no_memfd, all_memory_is_to_be_locked, all_memory_was_locked,
		no_proc, all_that_is_large, what_grew, the_break, changed_unseen,
		part_of_a_moved_page,
		grown_unseen, given_back_and_anew, on_a_stack_there, all_that_there_is,
		not_beside_threads_by_itself, a_child_adopts_first,
	};
	const TTest *const once[] = {
		never_shared, a_thread_s_stack, no_userfaultfd, no_userfaultfd_for_a_release,
		no_thread, auto_waits_until_it_pays, auto_passes_small_memory_over,
		first_adopts_first, never_adopts, in_a_handler_on_its_stack,
	};
	const TTest *const limited[] = { limits };
	const TTest *const three[] = { no_maps };
	const TTest *const each_kind[] = { other_kinds };
	Suite *suite = suite_create("live-adopt");

	if (!can_move()) {
		printf("skip: no userfaultfd that sees the kernel's faults\n");
		return 77;
	}
	support_add(suite, "both", 60, both, COUNT(both), 2);
	support_add(suite, "once", 60, once, COUNT(once), 1);
	support_add(suite, "limits", 60, limited, 1, 6);
	support_add(suite, "maps", 60, three, 1, 3);
	support_add(suite, "kinds", 60, each_kind, 1, 2 * COUNT(kinds));
	return support_run(suite);
}
