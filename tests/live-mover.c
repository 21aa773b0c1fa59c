/*
 * The thread that thaws beside others, by what can be seen of it: the maps and the
 * pagemap of the process, its threads and descriptors, the memory that it takes. Each
 * errno of cow_thaw(). That nothing is lost on the way is for stress-mover.c. Longer
 * than other files, since all tests share the area, a second thread and these looks.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/io_uring.h>

#include "process.h"
#include "support.h"

#define TABLE (2 * MIB)
#define SIZE (4 * TABLE)
#define PAGES (SIZE / PAGE)
#define NOBODY 65534
#define LONG_ENOUGH 5000	/* ms: a hundred times what is expected */

static char *area;

/* --- another thread ------------------------------------------------------ */

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

static pthread_t other_thread(void)
{
	pthread_t thread;

	stop = 0;
	ck_assert_int_eq(pthread_create(&thread, NULL, sit, NULL), 0);
	return thread;
}

static void set_options(enum cow_huge huge, enum cow_thaw thaw)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, huge, thaw, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
}

/* A filled area, and a second thread. */
static void begin(enum cow_thaw thaw)
{
	set_options(COW_HUGE_NEVER, thaw);
	area = region(SIZE);
	fill(area, SIZE, 1);
	other_thread();
}

static void fill_table(size_t table, unsigned seed)
{
	for (size_t i = 0; i < TABLE / PAGE; i++)
		fill_page(area, table * TABLE / PAGE + i, seed);
}

/* What each of the area's tables was filled by, the first one first. */
static int is_area(const char *seeds)
{
	for (size_t i = 0; i < PAGES; i++)
		NEED(is_page_filled(area, i, (unsigned)(seeds[i / (TABLE / PAGE)] - '0')));
	return 0;
}

/* --- children ----------------------------------------------------------- */

static pid_t child_that_lives(void)
{
	pid_t pid = cow_fork();

	if (pid == 0)
		for (;;)
			pause();
	ck_assert_int_gt(pid, 0);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* All is frozen, and nobody looks. */
static void freeze(void)
{
	end(child_that_lives());
	ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
}

/* --- the kernel's side ---------------------------------------------------- */

static int threads(void)
{
	return (int)status_kib("Threads");
}

/* Whether the map at an address is shared; -1: no map. */
static int is_shared(const char *at)
{
	struct map m;

	return map_at(at, &m) ? m.perms[3] == 's' : -1;
}

static void must_be_thawed(void)
{
	for (size_t i = 0; i < PAGES; i += TABLE / PAGE) {
		ck_assert_int_eq(is_shared(area + i * PAGE), 1);
		ck_assert_int_eq(cow_region_state(area + i * PAGE), COW_STATE_OWNED);
	}
	ck_assert_uint_eq(private_pages(area, SIZE), 0);
	ck_assert_uint_eq(stats().bytes_frozen, 0);
}

static int lowest_free(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

static int descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* The thread id of the mover; 0: there is none. */
static int mover(void)
{
	char path[300], name[32];
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;
	int found = 0;

	while (dir && (e = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
		f = fopen(path, "r");
		if (f && fgets(name, sizeof(name), f) && !strcmp(name, "cowfork-mover\n"))
			found = atoi(e->d_name);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return found;
}

#define WAIT_UNTIL(condition)						\
	for (int ms_ = 0; !(condition); ms_++) {			\
		ck_assert_msg(ms_ < LONG_ENOUGH, "not so: %s", #condition); \
		nap(1);							\
	}

/* --- what cow_thaw() says ------------------------------------------------- */

START_TEST(nothing_is_frozen)
{
	ck_assert_int_eq(cow_thaw(), 0);
	begin(COW_THAW_AUTO);
	ck_assert_int_eq(cow_thaw(), 0);
	ck_assert_int_eq(mover(), 0);
}
END_TEST

START_TEST(thaws_beside_a_thread)
{
	begin(COW_THAW_AUTO);
	freeze();
	ck_assert_int_eq(is_shared(area), 0);
	fill_table(1, 2);
	ck_assert_uint_eq(private_pages(area, SIZE), TABLE / PAGE);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert_int_eq(is_area("1211"), 0);
	ck_assert_uint_eq(stats().thaw_tables, 4);
	ck_assert_uint_gt(stats().thaw_hold_ns_max, 0);
}
END_TEST

START_TEST(thaws_alone)
{
	pthread_t thread;

	set_options(COW_HUGE_NEVER, COW_THAW_AUTO);
	area = region(SIZE);
	fill(area, SIZE, 1);
	freeze();
	fill_page(area, 7, 2);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert(is_page_filled(area, 7, 2));
	freeze();
	thread = other_thread();	/* that ends: alone again */
	stop = 1;
	pthread_join(thread, NULL);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert_uint_eq(stats().thaw_tables, 0);
}
END_TEST

static int make_grandchild(void *pipe)
{
	pid_t pid = fork();
	const int *ends = pipe;

	if (pid > 0)
		return write(ends[1], &pid, sizeof(pid)) != sizeof(pid);
	for (;;)
		pause();
}

START_TEST(a_descendant_looks)
{
	pid_t pid, grandchild = 0;
	int ends[2];

	begin(COW_THAW_AUTO);
	pid = child_that_lives();
	ck_assert_int_eq(cow_thaw(), -EBUSY);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
	end(pid);
	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(in_child(make_grandchild, ends), 0);
	ck_assert_int_eq(read(ends[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
	ck_assert_int_eq(cow_thaw(), -EBUSY);
	kill(grandchild, SIGKILL);
	WAIT_UNTIL(cow_thaw() == 0);
	must_be_thawed();
}
END_TEST

static void filter(int call, int refusal, unsigned arg, uint64_t mask, uint64_t value)
{
	struct scmp_arg_cmp cmp = SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value);
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

	ck_assert(f && seccomp_rule_add_array(f, SCMP_ACT_ERRNO((uint32_t)refusal), call,
					      mask != 0, &cmp) == 0);
	ck_assert_int_eq(seccomp_load(f), 0);
	seccomp_release(f);
}

START_TEST(no_userfaultfd)
{
	begin(COW_THAW_NEVER);
	freeze();
	/* in this thread and its children, of which the mover is one */
	filter(SCMP_SYS(userfaultfd), EPERM, 0, 0, 0);
	filter(SCMP_SYS(openat), EACCES, 2, O_ACCMODE, O_RDWR);
	fill_table(0, 2);
	ck_assert_int_eq(cow_thaw(), -EPERM);
	set_options(COW_HUGE_NEVER, COW_THAW_AUTO);
	ck_assert_int_eq(stats().frozen_reason, COW_REASON_UFFD);
	ck_assert_int_eq(mover(), 0);
	ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
	ck_assert_int_eq(is_area("2111"), 0);
	freeze();
	ck_assert_int_eq(mover(), 0);
}
END_TEST

START_TEST(no_thread)
{
	begin(COW_THAW_NEVER);
	freeze();
	filter(SCMP_SYS(clone3), ENOSYS, 0, 0, 0);
	filter(SCMP_SYS(clone), EAGAIN, 0, CLONE_VM, CLONE_VM);
	ck_assert_int_eq(cow_thaw(), -EAGAIN);
	ck_assert(is_filled(area, SIZE, 1));
	ck_assert_int_eq(cow_region_state(area), COW_STATE_FROZEN);
	freeze();
}
END_TEST

START_TEST(all_memory_is_to_be_locked)
{
	begin(COW_THAW_NEVER);
	freeze();
	ck_assert_int_eq(cow_mlockall(MCL_FUTURE), 0);
	ck_assert_int_eq(cow_thaw(), -EPERM);
	ck_assert_int_eq(cow_munlockall(), 0);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
}
END_TEST

/* --- pages that are pinned ------------------------------------------------ */

#define PINNED (TABLE + 40 * PAGE)
#define PINNED_LEN (8 * PAGE)

static int file_of(unsigned char byte)
{
	static unsigned char text[PINNED_LEN];
	char name[] = "/tmp/cowfork-test.XXXXXX";
	int fd = mkstemp(name);

	memset(text, byte, sizeof(text));
	ck_assert(fd >= 0 && unlink(name) == 0);
	ck_assert_int_eq(write(fd, text, sizeof(text)), sizeof(text));
	return fd;
}

static int is_all(const char *at, int byte)
{
	for (size_t i = 0; i < PINNED_LEN; i++)
		if (at[i] != byte)
			return 0;
	return 1;
}

/* A ring of one request at a time, by hand: what it takes to have pages pinned. */
struct ring {
	int fd;
	char *rings;
	struct io_uring_params p;
	struct io_uring_sqe *sqe;
};

static void *map_ring(const struct ring *r, size_t len, off_t what)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, what);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

static void ring_open(struct ring *r)
{
	memset(r, 0, sizeof(*r));
	r->fd = (int)syscall(SYS_io_uring_setup, 1, &r->p);
	ck_assert_int_ge(r->fd, 0);
	r->rings = map_ring(r, 64 * KIB, IORING_OFF_SQ_RING);
	r->sqe = map_ring(r, PAGE, IORING_OFF_SQES);
}

static int ring_register(struct ring *r, unsigned what, const void *arg, unsigned n)
{
	return (int)syscall(SYS_io_uring_register, r->fd, what, arg, n);
}

static void pin(struct ring *r)
{
	const struct iovec buffer = { area + PINNED, PINNED_LEN };

	ring_open(r);
	ck_assert_int_eq(ring_register(r, IORING_REGISTER_BUFFERS, &buffer, 1), 0);
}

/* The file's bytes, to the pages that the ring has. */
static void read_into_pinned(struct ring *r, int file)
{
	unsigned *tail = (unsigned *)(r->rings + r->p.sq_off.tail);
	unsigned *head = (unsigned *)(r->rings + r->p.cq_off.head);
	const struct io_uring_cqe *cqe = (void *)(r->rings + r->p.cq_off.cqes);
	unsigned at = *head & (r->p.cq_entries - 1);

	*r->sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_READ_FIXED, .fd = file, .len = PINNED_LEN,
		.addr = (uintptr_t)(area + PINNED),
	};
	*(unsigned *)(r->rings + r->p.sq_off.array) = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	ck_assert_int_eq((int)syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS,
				      NULL, 0), 1);
	ck_assert_int_eq(cqe[at].res, (int)PINNED_LEN);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
}

START_TEST(pinned_by_io_uring)
{
	struct ring ring;

	begin(COW_THAW_NEVER);
	freeze();
	pin(&ring);
	fill_table(2, 2);
	ck_assert_int_eq(cow_thaw(), -EAGAIN);
	ck_assert_int_eq(is_shared(area), 1);
	ck_assert_int_eq(is_shared(area + TABLE), 0);
	ck_assert_int_eq(is_shared(area + 2 * TABLE), 1);
	ck_assert_int_eq(cow_region_state(area + TABLE), COW_STATE_FROZEN);
	set_options(COW_HUGE_NEVER, COW_THAW_AUTO);
	ck_assert_int_eq(stats().frozen_reason, COW_REASON_PINNED);

	read_into_pinned(&ring, file_of(5));
	ck_assert(is_all(area + PINNED, 5));
	ck_assert_int_eq(cow_thaw(), -EAGAIN);
	read_into_pinned(&ring, file_of(6));
	ck_assert(is_all(area + PINNED, 6));

	ck_assert_int_eq(ring_register(&ring, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
	WAIT_UNTIL(cow_thaw() == 0);	/* the kernel unpins a little later */
	must_be_thawed();
	ck_assert(is_all(area + PINNED, 6));
	close(ring.fd);
	memset(area + PINNED, 0, PINNED_LEN);
	fill_table(1, 3);
	ck_assert_int_eq(is_area("1321"), 0);
}
END_TEST

static void *do_thaw(void *ret)
{
	*(atomic_int *)ret = cow_thaw();
	return NULL;
}

#define MANY (400 * MIB)	/* some 20 ms */

/* Pinned when the thaw is under way, at its end. */
START_TEST(pinned_meanwhile)
{
	atomic_int ret = 1;
	pthread_t thread;
	struct ring ring;
	char *first;

	set_options(COW_HUGE_NEVER, COW_THAW_NEVER);
	first = region(MANY);
	for (size_t i = 0; i < MANY; i += PAGE)
		first[i] = 1;
	area = region(SIZE);
	fill(area, SIZE, 1);
	freeze();
	ck_assert(area > first);
	ck_assert_int_eq(pthread_create(&thread, NULL, do_thaw, &ret), 0);
	while (cow_region_state(first) == COW_STATE_FROZEN)
		sched_yield();
	pin(&ring);
	/* else it came too late, and there was nothing to see */
	if (cow_region_state(area + TABLE) == COW_STATE_FROZEN) {
		pthread_join(thread, NULL);
		read_into_pinned(&ring, file_of(7));
		ck_assert(is_all(area + PINNED, 7));
		ck_assert_int_eq(ret, -EAGAIN);
	}
	close(ring.fd);
}
END_TEST

static int direct;
static atomic_int reads, read_wrong;

/* Each read must be there, wherever its pages went meanwhile. */
static void *read_directly(void *arg)
{
	char *at = area + PINNED;

	(void)arg;
	while (!stop) {
		memset(at, 0, PINNED_LEN);
		read_wrong |= pread(direct, at, PINNED_LEN, 0) != (ssize_t)PINNED_LEN ||
			      !is_all(at, 9);
		reads++;
	}
	return NULL;
}

START_TEST(direct_reads)
{
	pthread_t thread;
	char path[64];
	int ret;

	begin(COW_THAW_NEVER);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file_of(9));
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	ck_assert_int_ge(direct, 0);
	stop = 0;
	ck_assert_int_eq(pthread_create(&thread, NULL, read_directly, NULL), 0);
	for (int i = 0; i < 100 || reads < 1000; i++) {
		ck_assert_int_eq(cow_prepare(), 0);
		ret = cow_thaw();
		ck_assert(ret == 0 || ret == -EAGAIN);
	}
	stop = 1;
	pthread_join(thread, NULL);
	ck_assert_int_eq(read_wrong, 0);
}
END_TEST

/* --- memory that comes back ----------------------------------------------- */

START_TEST(overlays_come_back)
{
	pid_t pid;

	begin(COW_THAW_NEVER);
	pid = child_that_lives();
	ck_assert_int_eq(cow_madvise(area + TABLE / 2, TABLE, MADV_DONTNEED), 0);
	ck_assert_int_eq(cow_region_state(area + TABLE), COW_STATE_NATIVE);
	fill_page(area, 300, 3);
	end(pid);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert_uint_eq(stats().bytes_native, 0);
	ck_assert(is_page_filled(area, 300, 3) && is_zero(area + 301 * PAGE, TABLE / 2));
	ck_assert(is_filled(area, TABLE / 2, 1));
}
END_TEST

/* Plain memory that the kernel keeps in several maps, since each part was written
 * before its neighbours came. */
START_TEST(overlays_in_parts)
{
	const size_t part = 32 * PAGE;
	pid_t pid;

	begin(COW_THAW_NEVER);
	pid = child_that_lives();
	for (size_t i = 0; i < 16; i++) {
		char *at = area + (i % 2 ? 16 - i : i) * part;

		ck_assert_int_eq(cow_madvise(at, part, MADV_DONTNEED), 0);
		at[0] = 1;
	}
	end(pid);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert_uint_eq(stats().bytes_native, 0);
}
END_TEST

START_TEST(huge_tables_stay_huge)
{
	set_options(COW_HUGE_ALWAYS, COW_THAW_NEVER);
	area = region(SIZE);
	memset(area, 1, SIZE);
	other_thread();
	freeze();
	if (!stats().tables_huge)
		return;		/* the kernel had none to give */
	area[TABLE + 5 * PAGE] = 2;
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
	ck_assert_int_eq(rollup_kib("ShmemPmdMapped"),
			 (long)(stats().tables_huge * TABLE / KIB));
	ck_assert(area[TABLE + 5 * PAGE] == 2 && area[TABLE + 6 * PAGE] == 1);
}
END_TEST

START_TEST(memory_is_held_once)
{
	const long half = (long)(32 * MIB / KIB);
	long before, twice;
	char *big;

	set_options(COW_HUGE_NEVER, COW_THAW_NEVER);
	big = area = region(64 * MIB);
	fill(big, 64 * MIB, 1);
	other_thread();
	before = rollup_kib("Pss");
	freeze();
	fill(big, 64 * MIB, 2);
	twice = rollup_kib("Pss");
	ck_assert_int_gt(twice, before + half);
	ck_assert_int_eq(cow_thaw(), 0);
	ck_assert_int_lt(rollup_kib("Pss"), before + half / 8);
	ck_assert_uint_eq(private_pages(big, 64 * MIB), 0);
	ck_assert(is_filled(big, 64 * MIB, 2));
}
END_TEST

/* Nobody calls the library once the child is gone. */
START_TEST(freed_memory_goes_by_itself)
{
	static unsigned char present[PAGES];
	struct store *s;
	size_t held;
	pid_t pid;

	begin(COW_THAW_AUTO);
	pid = child_that_lives();
	s = process_store_at((uintptr_t)area, 1);
	ck_assert_int_eq(cow_munmap(area, SIZE), 0);
	ck_assert_uint_eq(stats().bytes_deferred, SIZE);
	end(pid);
	for (int ms = 0; ms < LONG_ENOUGH; ms++) {
		held = 0;
		ck_assert_int_eq(mincore((void *)store_alias(s, (uintptr_t)area), SIZE,
					 present), 0);
		for (size_t i = 0; i < PAGES; i++)
			held += present[i] & 1;
		if (!held)
			break;
		nap(1);
	}
	ck_assert_uint_eq(held, 0);
}
END_TEST

/* --- by itself ------------------------------------------------------------ */

/* How often a thread went to sleep. */
static long sleeps(int tid)
{
	char path[64], line[256];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

START_TEST(thaws_by_itself_and_rests)
{
	int before, fds;
	pid_t pid;
	long n;

	begin(COW_THAW_AUTO);
	before = threads();
	fds = descriptors();
	pid = child_that_lives();
	WAIT_UNTIL(mover());
	nap(20);
	ck_assert_int_eq(threads(), before + 1);
	ck_assert_int_eq(descriptors(), fds);
	fill_table(0, 2);
	end(pid);
	WAIT_UNTIL(is_shared(area + 3 * TABLE) == 1);
	nap(50);
	ck_assert_int_eq(threads(), before + 1);
	n = sleeps(mover());
	nap(500);
	ck_assert_int_eq(sleeps(mover()), n);
	must_be_thawed();
	ck_assert_int_eq(is_area("2111"), 0);
}
END_TEST

START_TEST(uses_no_descriptor_of_ours)
{
	int low, before, thaws = (int)stats().thaw_tables;

	begin(COW_THAW_AUTO);
	low = lowest_free();
	before = descriptors();
	for (int i = 0; i < 20; i++) {
		freeze();
		for (int k = 0; k < 100; k++) {
			ck_assert_int_eq(lowest_free(), low);
			ck_assert_int_eq(descriptors(), before);
		}
		nap(5);
	}
	WAIT_UNTIL((int)stats().thaw_tables > thaws);
	ck_assert_int_eq(descriptors(), before);
}
END_TEST

/* Nor does it mind if the program closes all that it does not know. */
START_TEST(closing_all_is_no_harm)
{
	begin(COW_THAW_AUTO);
	freeze();
	for (int i = 0; i < 200; i++) {
		syscall(SYS_close_range, 3u, ~0u, 0u);
		nap(1);
	}
	WAIT_UNTIL(is_shared(area) == 1);
	ck_assert(is_filled(area, SIZE, 1));
}
END_TEST

static int maps_of_this(void)
{
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	for (int c; f && (c = getc(f)) != EOF;)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* A child of a process with a mover looks like one of a process without, but for
 * the mover's stack, which is the C library's. */
START_TEST(is_not_in_children)
{
	int ends[2], with, without;
	pid_t pid, other;

	begin(COW_THAW_NEVER);
	ck_assert_int_eq(pipe(ends), 0);
	for (int round = 0; round < 2; round++) {
		set_options(COW_HUGE_NEVER, round ? COW_THAW_AUTO : COW_THAW_NEVER);
		other = child_that_lives();
		if (round)
			WAIT_UNTIL(mover());
		nap(20);
		pid = cow_fork();
		if (pid == 0) {
			int n = threads() == 1 && !mover() ? maps_of_this() : -1;

			_exit(write(ends[1], &n, sizeof(n)) != sizeof(n));
		}
		ck_assert_int_eq(wait_for(pid), 0);
		ck_assert_int_eq(read(ends[0], round ? &with : &without, sizeof(with)),
				 sizeof(with));
		end(other);
	}
	ck_assert_int_gt(without, 0);
	ck_assert_int_gt(with, 0);
	ck_assert_int_le(with, without + 2);
}
END_TEST

START_TEST(never_by_itself)
{
	begin(COW_THAW_NEVER);
	freeze();
	nap(300);
	ck_assert_int_eq(mover(), 0);
	ck_assert_int_eq(is_shared(area), 0);
	ck_assert_int_eq(stats().frozen_reason, COW_REASON_OFF);
	ck_assert_int_eq(cow_thaw(), 0);
	must_be_thawed();
}
END_TEST

static void *thaw_when_told(void *go)
{
	while (!*(atomic_int *)go)
		sched_yield();
	return (void *)(intptr_t)cow_thaw();
}

/* Forks in the middle of a thaw, of children that do not live to be seen by it. */
START_TEST(a_fork_meanwhile)
{
	atomic_int go = 0;
	pthread_t thread;
	int whole = 0;

	set_options(COW_HUGE_NEVER, COW_THAW_AUTO);
	area = region(256 * MIB);
	for (size_t i = 0; i < 256 * MIB; i += PAGE)
		area[i] = 1;
	freeze();
	ck_assert_int_eq(pthread_create(&thread, NULL, thaw_when_told, &go), 0);
	go = 1;
	while (cow_region_state(area) == COW_STATE_FROZEN)
		sched_yield();
	while (!whole && cow_region_state(area + 256 * MIB - 1) == COW_STATE_FROZEN) {
		pid_t pid;

		ck_assert_int_eq(cow_fork_enter(), 0);
		pid = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0) {
			cow_fork_child();
			_exit(0);
		}
		cow_fork_parent();
		ck_assert_int_eq(wait_for(pid), 0);
		whole = 1;
	}
	pthread_join(thread, NULL);
	WAIT_UNTIL(stats().bytes_frozen == 0);
	ck_assert_int_eq(is_shared(area), 1);
}
END_TEST

/* The last word of a fork that the kernel refused: all is frozen, nobody looks. */
START_TEST(a_fork_that_fails)
{
	begin(COW_THAW_AUTO);
	/* of glibc's fork(), by its flags; threads come by clone3() */
	filter(SCMP_SYS(clone), EAGAIN, 0, 0xff, SIGCHLD);
	ck_assert_int_eq(cow_fork(), -1);
	ck_assert_int_eq(errno, EAGAIN);
	WAIT_UNTIL(is_shared(area) == 1);
	ck_assert_uint_eq(stats().bytes_frozen, 0);
	ck_assert(is_filled(area, SIZE, 1));
}
END_TEST

/* --- the program's other doings --------------------------------------------- */

static void *sit_a_while(void *arg)
{
	nap(100);
	return arg;
}

/* The status of a process whose main thread has ended: how long it lives then. */
static int ends_without_main(void *arg)
{
	pthread_t thread;
	pid_t pid;

	(void)arg;
	area = region(SIZE);
	fill(area, SIZE, 1);
	if (pthread_create(&thread, NULL, sit_a_while, NULL) != 0)
		return 1;
	pid = cow_fork();
	if (pid == 0) {
		nap(2 * LONG_ENOUGH);
		_exit(0);
	}
	if (pid < 0)
		return 1;
	pthread_exit(NULL);
}

START_TEST(the_last_thread_ends)
{
	struct timespec before, after;

	set_options(COW_HUGE_NEVER, COW_THAW_AUTO);
	clock_gettime(CLOCK_MONOTONIC, &before);
	ck_assert_int_eq(in_child(ends_without_main, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	ck_assert_int_lt((int)(after.tv_sec - before.tv_sec), LONG_ENOUGH / 1000);
}
END_TEST

static int uid_of(int tid)
{
	char path[64], line[256];
	int uid = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Uid: %d", &uid) == 1)
			break;
	if (f)
		fclose(f);
	return uid;
}

START_TEST(all_threads_change_user)
{
	pid_t pid;

	if (geteuid() != 0)
		return;
	begin(COW_THAW_AUTO);
	pid = child_that_lives();
	WAIT_UNTIL(mover());
	nap(20);
	ck_assert_int_eq(setuid(NOBODY), 0);
	ck_assert_int_eq(uid_of(mover()), NOBODY);
	kill(pid, SIGKILL);		/* which is root's still */
	fill_table(0, 2);
	nap(300);
	ck_assert_int_eq(is_area("2111"), 0);
}
END_TEST

START_TEST(all_memory_is_locked)
{
	const int flags = _i ? MCL_CURRENT | MCL_FUTURE : MCL_CURRENT;
	pid_t pid;

	begin(COW_THAW_AUTO);
	pid = child_that_lives();
	WAIT_UNTIL(mover());
	ck_assert_int_eq(cow_mlockall(flags), 0);
	fill_table(0, 2);
	end(pid);
	ck_assert_int_eq(cow_munlockall(), 0);
	ck_assert_int_eq(is_area("2111"), 0);
	ck_assert_int_eq(cow_thaw(), 0);
	area = region(SIZE);
	fill(area, SIZE, 3);
	freeze();
	WAIT_UNTIL(is_shared(area) == 1);
	ck_assert(is_filled(area, SIZE, 3));
}
END_TEST

/* --- main --------------------------------------------------------------- */

static Suite *mover_suite(void)
{
	Suite *s = suite_create("mover");
	TCase *says = tcase_create("cow_thaw"), *comes = tcase_create("what comes back");
	TCase *itself = tcase_create("by itself"), *others = tcase_create("beside others");

	tcase_set_timeout(says, 60);
	tcase_set_timeout(itself, 60);
	tcase_set_timeout(others, 60);
	tcase_add_test(says, nothing_is_frozen);
	tcase_add_test(says, thaws_beside_a_thread);
	tcase_add_test(says, thaws_alone);
	tcase_add_test(says, a_descendant_looks);
	tcase_add_test(says, no_userfaultfd);
	tcase_add_test(says, no_thread);
	tcase_add_test(says, all_memory_is_to_be_locked);
	tcase_add_test(says, pinned_by_io_uring);
	tcase_add_test(says, pinned_meanwhile);
	tcase_add_test(says, direct_reads);
	tcase_add_test(comes, overlays_come_back);
	tcase_add_test(comes, overlays_in_parts);
	tcase_add_test(comes, huge_tables_stay_huge);
	tcase_add_test(comes, memory_is_held_once);
	tcase_add_test(comes, freed_memory_goes_by_itself);
	tcase_add_test(itself, thaws_by_itself_and_rests);
	tcase_add_test(itself, uses_no_descriptor_of_ours);
	tcase_add_test(itself, closing_all_is_no_harm);
	tcase_add_test(itself, is_not_in_children);
	tcase_add_test(itself, never_by_itself);
	tcase_add_test(itself, a_fork_meanwhile);
	tcase_add_test(itself, a_fork_that_fails);
	tcase_add_test(others, the_last_thread_ends);
	tcase_add_test(others, all_threads_change_user);
	tcase_add_loop_test(others, all_memory_is_locked, 0, 2);
	suite_add_tcase(s, says);
	suite_add_tcase(s, comes);
	suite_add_tcase(s, itself);
	suite_add_tcase(s, others);
	return s;
}

int main(void)
{
	struct cow_facilities f = { .size = sizeof(f) };

	if (cow_facilities(&f) < 0 || !f.userfaultfd) {
		printf("skip: no userfaultfd that sees the kernel's faults\n");
		return 77;
	}
	return support_run(mover_suite());
}
