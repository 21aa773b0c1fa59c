/*
 * The calls; each by syscall(2), and so past every wrapper.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compat.h"
#include "raw-calls.h"

/* What the C library's or the kernel's headers may lack. */
#define PIDFD_OPEN 434
#define PROCESS_MADVISE 440
#define CLONE3 435
#define URING_SETUP 425
#define URING_ENTER 426
#define URING_REGISTER 427
#define MSEAL 462

static long result(long ret)
{
	return ret < 0 ? -errno : ret;
}

/* --- madvise ------------------------------------------------------------ */

static long advise(struct cell *c, int advice)
{
	return result(syscall(SYS_madvise, c->area + PART, PART_SIZE, advice));
}

static long dontneed(struct cell *c) { return advise(c, MADV_DONTNEED); }
static long free_lazily(struct cell *c) { return advise(c, MADV_FREE); }
static long remove_pages(struct cell *c) { return advise(c, MADV_REMOVE); }
static long dontneed_locked(struct cell *c) { return advise(c, MADV_DONTNEED_LOCKED); }
static long dontfork(struct cell *c) { return advise(c, MADV_DONTFORK); }
static long dofork(struct cell *c) { return advise(c, MADV_DOFORK); }
static long wipeonfork(struct cell *c) { return advise(c, MADV_WIPEONFORK); }
static long keeponfork(struct cell *c) { return advise(c, MADV_KEEPONFORK); }
static long hugepage(struct cell *c) { return advise(c, MADV_HUGEPAGE); }
static long guard(struct cell *c) { return advise(c, MADV_GUARD_INSTALL); }
static long unguard(struct cell *c) { return advise(c, MADV_GUARD_REMOVE); }
static long populate(struct cell *c) { return advise(c, MADV_POPULATE_WRITE); }
static long pageout(struct cell *c) { return advise(c, MADV_PAGEOUT); }

static long collapse(struct cell *c)
{
	return result(syscall(SYS_madvise, c->area, AREA, MADV_COLLAPSE));
}

static long dontneed_by_process(struct cell *c)
{
	const struct iovec part = { c->area + PART, PART_SIZE };
	int fd = (int)syscall(PIDFD_OPEN, getpid(), 0);
	long ret = result(syscall(PROCESS_MADVISE, fd, &part, 1, MADV_DONTNEED, 0));

	close(fd);
	return ret;
}

static long dontneed_all(struct cell *c)
{
	return result(syscall(SYS_madvise, c->area, AREA, MADV_DONTNEED));
}

/* --- mappings ----------------------------------------------------------- */

static long map_over(struct cell *c, int prot)
{
	return syscall(SYS_mmap, c->area + PART, PART_SIZE, prot,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0L) < 0 ? -errno : 0;
}

static long map_fixed(struct cell *c) { return map_over(c, PROT_READ | PROT_WRITE); }
static long map_none(struct cell *c) { return map_over(c, PROT_NONE); }

/* Another's memory: its children share it. */
static long map_shared(struct cell *c)
{
	return syscall(SYS_mmap, c->area + PART, PART_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED |
		       MAP_ANONYMOUS | MAP_FIXED, -1, 0L) < 0 ? -errno : 0;
}

/* The kernel tells nobody what that replaces. */
static long attach(struct cell *c)
{
	int id = shmget(IPC_PRIVATE, PART_SIZE, IPC_CREAT | 0600);
	long at = syscall(SYS_shmat, id, c->area + PART, SHM_REMAP);
	int error = errno;

	shmctl(id, IPC_RMID, NULL);
	return at == -1 ? -error : 0;
}

static long seal(struct cell *c)
{
	return result(syscall(MSEAL, c->area + PART, PART_SIZE, 0));
}

static long map_behind(struct cell *c)
{
	return syscall(SYS_mmap, c->area + AREA, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		       MAP_ANONYMOUS | MAP_FIXED, -1, 0L) < 0 ? -errno : 0;
}

static long unmap(struct cell *c)
{
	return result(syscall(SYS_munmap, c->area + PART, PART_SIZE));
}

static long unmap_all(struct cell *c)
{
	return result(syscall(SYS_munmap, c->area, AREA));
}

static long protect(struct cell *c, int prot)
{
	return result(syscall(SYS_mprotect, c->area + PART, PART_SIZE, prot));
}

static long protect_none(struct cell *c) { return protect(c, PROT_NONE); }
static long protect_read(struct cell *c) { return protect(c, PROT_READ); }
static long protect_exec(struct cell *c)
{
	return protect(c, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static long protect_back(struct cell *c) { return protect(c, PROT_READ | PROT_WRITE); }

static long none_and_back(struct cell *c)
{
	long ret = protect_none(c);

	return ret ? ret : protect_back(c);
}

/* Shrunk and grown: not by what is beyond. */
static long break_moves(struct cell *c)
{
	uintptr_t end = (uintptr_t)c->area + ALL, low = end - BEYOND / 2;

	if ((uintptr_t)syscall(SYS_brk, 0) != end)
		return -EINVAL;
	return (uintptr_t)syscall(SYS_brk, low) == low &&
	       (uintptr_t)syscall(SYS_brk, end) == end ? 0 : -ENOMEM;
}

/* --- mremap ------------------------------------------------------------- */

static long remap(struct cell *c, size_t from, size_t len, size_t size, int flags, char *to)
{
	char *now = (char *)syscall(SYS_mremap, c->area + from, len, size, flags, to);

	if (now == MAP_FAILED)
		return -errno;
	if (now != c->area + from) {
		c->elsewhere = now;
		c->elsewhere_size = size;
		c->shift = from;
	}
	return 0;
}

static long grow(struct cell *c) { return remap(c, 0, AREA, AREA + ROOM, 0, NULL); }

static long grow_moving(struct cell *c)
{
	return remap(c, 0, AREA, AREA + 2 * MIB, MREMAP_MAYMOVE, NULL);
}

static long grow_part(struct cell *c)
{
	return remap(c, PART, PART_SIZE, PART_SIZE + 2 * MIB, MREMAP_MAYMOVE, NULL);
}

static long grow_end(struct cell *c)
{
	return remap(c, AREA - MIB / 2, MIB / 2, MIB / 2 + ROOM, 0, NULL);
}

static long shrink(struct cell *c) { return remap(c, 0, AREA, AREA - MIB, 0, NULL); }

static long shrink_and_grow(struct cell *c)
{
	long ret = shrink(c);

	return ret ? ret : remap(c, 0, AREA - MIB, AREA, 0, NULL);
}

static long move(struct cell *c)
{
	return remap(c, 0, AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, c->elsewhere);
}

static long move_part(struct cell *c)
{
	return remap(c, PART, PART_SIZE, PART_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, c->elsewhere);
}

static long move_and_map(struct cell *c)
{
	long ret = move_part(c);

	return ret ? ret : map_fixed(c);
}

static long move_leaving(struct cell *c)
{
	return remap(c, PART, PART_SIZE, PART_SIZE,
		     MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, c->elsewhere);
}

static long duplicate(struct cell *c)
{
	return remap(c, PART, 0, PART_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, c->elsewhere);
}

static long move_onto(struct cell *c)
{
	return remap(c, PART, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, c->area);
}

/* --- locks and others --------------------------------------------------- */

static long lock(struct cell *c)
{
	return result(syscall(SYS_mlock, c->area + PART, PART_SIZE));
}

static long lock_on_fault(struct cell *c)
{
	return result(syscall(SYS_mlock2, c->area + PART, PART_SIZE, MLOCK_ONFAULT));
}

static long unlock(struct cell *c)
{
	return result(syscall(SYS_munlock, c->area + PART, PART_SIZE));
}

static long lock_and_dontneed(struct cell *c)
{
	long ret = lock(c);

	return ret ? ret : dontneed_locked(c);
}

static long lock_all(struct cell *c)
{
	(void)c;
	return result(syscall(SYS_mlockall, MCL_CURRENT));
}

static long lock_all_to_come(struct cell *c)
{
	(void)c;
	return result(syscall(SYS_mlockall, MCL_CURRENT | MCL_FUTURE));
}

static long unlock_all(struct cell *c)
{
	(void)c;
	return result(syscall(SYS_munlockall));
}

static long remap_pages(struct cell *c)
{
	return result(syscall(SYS_remap_file_pages, c->area + PART, 16 * PAGE, 0, 0, 0));
}

/* How many quarters of it are in memory. */
static long ask_core(struct cell *c)
{
	static unsigned char in[AREA / PAGE];
	long ret = result(syscall(SYS_mincore, c->area, AREA, in)), n = 0;

	for (size_t i = 0; i < AREA / PAGE; i++)
		n += in[i] & 1;
	return ret ? ret : n / (long)(AREA / PAGE / 4);
}

static long sync_it(struct cell *c)
{
	return result(syscall(SYS_msync, c->area + PART, PART_SIZE, MS_SYNC | MS_INVALIDATE));
}

/* --- userfaultfd -------------------------------------------------------- */

/* What is missing is SIGBUS, so that nobody needs to answer. */
static long watch(struct cell *c)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_SIGBUS };
	struct uffdio_register r = {
		.range = { (uintptr_t)c->area + PART, PART_SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	c->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (c->fd < 0 || ioctl(c->fd, UFFDIO_API, &api) < 0 ||
	    ioctl(c->fd, UFFDIO_REGISTER, &r) < 0)
		return -errno;
	return 0;
}

static long watch_and_dontneed(struct cell *c)
{
	long ret = watch(c);

	return ret ? ret : dontneed(c);
}

static long unwatch(struct cell *c)
{
	struct uffdio_range r = { (uintptr_t)c->area + PART, PART_SIZE };
	int ret = ioctl(c->fd, UFFDIO_UNREGISTER, &r);

	close(c->fd);
	return ret < 0 ? -errno : 0;
}

/* --- pages that somebody else holds ------------------------------------- */

#define HELD (4 * PAGE)

static int file_of_pages(void)
{
	static char pages[HELD];
	int fd = (int)syscall(SYS_memfd_create, "pages", 0);

	for (size_t at = 0; at < HELD; at += PAGE)
		write_page(pages + at, (PART + at) / PAGE, '9');
	return write(fd, pages, HELD) == (ssize_t)HELD ? fd : -1;
}

/* Rings and registered buffers of one ring of one entry. */
static long ring_register(struct cell *c)
{
	const struct iovec held = { c->area + PART, HELD };
	struct io_uring_params p = { 0 };
	const off_t at[3] = { IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES };

	c->fd = (int)syscall(URING_SETUP, 1, &p);
	if (c->fd < 0)
		return -errno;
	for (int i = 0; i < 3; i++) {
		c->rings[i] = (char *)syscall(SYS_mmap, NULL, PAGE, PROT_READ | PROT_WRITE,
					      MAP_SHARED, c->fd, at[i]);
		if (c->rings[i] == MAP_FAILED)
			return -errno;
	}
	*(volatile unsigned *)(c->rings[0] + p.sq_off.array) = 0;
	c->rings[0] += p.sq_off.tail;
	return result(syscall(URING_REGISTER, c->fd, IORING_REGISTER_BUFFERS, &held, 1));
}

static long ring_read(struct cell *c)
{
	struct io_uring_sqe *sqe = (struct io_uring_sqe *)c->rings[2];

	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_READ_FIXED, .fd = file_of_pages(),
				      .addr = (uintptr_t)c->area + PART, .len = HELD };
	__atomic_add_fetch((unsigned *)c->rings[0], 1, __ATOMIC_SEQ_CST);
	return result(syscall(URING_ENTER, c->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
}

static int to_read;

static long splice_out(struct cell *c)
{
	const struct iovec held = { c->area + PART, HELD };
	int ends[2];

	if (pipe(ends) < 0)
		return -errno;
	to_read = ends[0];
	return result(syscall(SYS_vmsplice, ends[1], &held, 1, 0));
}

/* Whose page the reader gets. */
static long splice_in(struct cell *c)
{
	static char page[PAGE];

	(void)c;
	return read(to_read, page, PAGE) == (ssize_t)PAGE ? page[0] : -errno;
}

static long write_from_outside(struct cell *c)
{
	static char page[PAGE];
	const struct iovec from = { page, PAGE }, to = { c->area + PART, PAGE };

	write_page(page, PART / PAGE, '9');
	return result(syscall(SYS_process_vm_writev, getpid(), &from, 1, &to, 1, 0));
}

static long write_by_mem(struct cell *c)
{
	static char page[PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	long ret;

	write_page(page, PART / PAGE, '9');
	ret = result(pwrite(fd, page, PAGE, (off_t)(uintptr_t)(c->area + PART)));
	close(fd);
	return ret;
}

/* --- forks -------------------------------------------------------------- */

#ifdef SYS_fork
static pid_t raw_fork(void) { return (pid_t)syscall(SYS_fork); }
#endif
static pid_t raw_clone(void) { return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }

static pid_t raw_clone3(void)
{
	const struct { uint64_t flags, pidfd, child, parent, signal, more[6]; } args = {
		.signal = SIGCHLD,
	};

	return (pid_t)syscall(CLONE3, &args, sizeof(args));
}

static int writes_there(void *arg)
{
	struct cell *c = arg;

	for (size_t i = 0; i < AREA / PAGE; i += 5)
		write_page(c->area + i * PAGE, i, '9');
	return 0;
}

/* No thread, but in the same memory. */
static long clone_sharing(struct cell *c, int flags)
{
	static char stack[65536] __attribute__((aligned(16)));
	pid_t pid = clone(writes_there, stack + sizeof(stack), flags | CLONE_VM | SIGCHLD, c);
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return status;
}

static long clone_vm(struct cell *c) { return clone_sharing(c, 0); }
static long vfork_like(struct cell *c) { return clone_sharing(c, CLONE_VFORK); }

/* --- all of them -------------------------------------------------------- */

const struct call calls[] = {
	{ "dontneed", dontneed, NULL, NULL, FREES, NULL },
	{ "dontneed all", dontneed_all, NULL, NULL, FREES, NULL },
	{ "free", free_lazily, NULL, NULL, MAY_STAY, NULL },
	{ "remove", remove_pages, NULL, NULL, REFUSED, NULL },
	{ "dontneed locked", lock_and_dontneed, NULL, unlock, FREES, NULL },
	{ "dontneed by process", dontneed_by_process, NULL, NULL, FREES | LOOSE, NULL },
	{ "dontfork", dontfork, NULL, dofork, 0, NULL },
	{ "wipeonfork", wipeonfork, NULL, keeponfork, 0, NULL },
	{ "hugepage", hugepage, NULL, NULL, 0, NULL },
	{ "guard", guard, NULL, unguard, FREES, NULL },
	{ "guard, kept", guard, NULL, NULL, 0, NULL },
	{ "populate", populate, NULL, NULL, 0, NULL },
	{ "pageout", pageout, NULL, NULL, 0, NULL },
	{ "collapse", collapse, NULL, NULL, LOOSE, NULL },
	{ "mmap fixed", map_fixed, NULL, NULL, FREES, NULL },
	{ "mmap none", map_none, NULL, protect_back, FREES, NULL },
	{ "mmap shared", map_shared, NULL, NULL, FREES, NULL },
	{ "shmat", attach, NULL, NULL, FREES, NULL },
	{ "mmap behind", map_behind, NULL, NULL, 0, NULL },
	{ "munmap", unmap, NULL, map_fixed, FREES, NULL },
	{ "munmap all", unmap_all, NULL, NULL, FREES, NULL },
	{ "brk", break_moves, NULL, NULL, 0, NULL },
	{ "grow", grow, NULL, NULL, 0, NULL },
	{ "grow moving", grow_moving, NULL, NULL, 0, NULL },
	{ "grow part", grow_part, NULL, NULL, 0, NULL },
	{ "grow end", grow_end, NULL, NULL, 0, NULL },
	{ "shrink", shrink, NULL, NULL, FREES, NULL },
	{ "shrink, grow", shrink_and_grow, NULL, NULL, 0, NULL },
	{ "move", move, NULL, NULL, 0, NULL },
	{ "move part", move_part, NULL, map_fixed, 0, NULL },
	{ "move, map", move_and_map, NULL, NULL, 0, NULL },
	{ "move onto", move_onto, NULL, NULL, FREES, NULL },
	{ "move leaving", move_leaving, NULL, NULL, 0, NULL },
	{ "duplicate", duplicate, NULL, NULL, REFUSED, NULL },
	{ "protect none", protect_none, NULL, protect_back, 0, NULL },
	{ "protect read", protect_read, NULL, protect_back, 0, NULL },
	{ "protect, back", none_and_back, NULL, NULL, 0, NULL },
	{ "protect exec", protect_exec, NULL, protect_back, 0, NULL },
	{ "mseal", seal, NULL, NULL, 0, NULL },
	{ "mlock", lock, NULL, unlock, 0, NULL },
	{ "mlock on fault", lock_on_fault, NULL, unlock, 0, NULL },
	{ "mlockall", lock_all, NULL, unlock_all, 0, NULL },
	{ "mlockall future", lock_all_to_come, NULL, unlock_all, 0, NULL },
	{ "remap_file_pages", remap_pages, NULL, NULL, REFUSED, NULL },
	{ "mincore", ask_core, NULL, NULL, 0, NULL },
	{ "msync", sync_it, NULL, NULL, 0, NULL },
	{ "userfaultfd", watch, NULL, unwatch, 0, NULL },
	{ "userfaultfd missing", watch_and_dontneed, NULL, unwatch, 0, NULL },
	{ "io_uring", ring_register, ring_read, NULL, 0, NULL },
	{ "vmsplice", splice_out, splice_in, NULL, 0, NULL },
	{ "process_vm_writev", write_from_outside, write_from_outside, NULL, 0, NULL },
	{ "/proc/self/mem", write_by_mem, write_by_mem, NULL, 0, NULL },
#ifdef SYS_fork
	{ "fork", NULL, NULL, NULL, 0, raw_fork },
#endif
	{ "clone", NULL, NULL, NULL, 0, raw_clone },
	{ "clone3", NULL, NULL, NULL, 0, raw_clone3 },
	{ "clone vm", clone_vm, NULL, NULL, 0, NULL },
	{ "vfork", vfork_like, NULL, NULL, 0, NULL },
};

const int calls_count = COUNT(calls);
