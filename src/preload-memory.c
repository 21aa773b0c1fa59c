/*
 * The memory calls. Nothing but a name for each: what they mean on memory in
 * the store is libcowfork's.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cowfork.h"
#include "in-place.h"
#include "kept.h"
#include "memory.h"
#include "preload.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

/* mman.h declares some of these with attributes of its own. */
INTERPOSED void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	preload_start();
	return cow_mmap(addr, len, prot, flags, fd, off);
}

INTERPOSED void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
	preload_start();
	return cow_mmap(addr, len, prot, flags, fd, off);
}

INTERPOSED int munmap(void *addr, size_t len)
{
	return cow_munmap(addr, len);
}

INTERPOSED int mprotect(void *addr, size_t len, int prot)
{
	return cow_mprotect(addr, len, prot);
}

INTERPOSED int madvise(void *addr, size_t len, int advice)
{
	return cow_madvise(addr, len, advice);
}

INTERPOSED void *mremap(void *addr, size_t old_len, size_t new_len, int flags, ...)
{
	void *new_addr = NULL;
	va_list args;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(args, flags);
		new_addr = va_arg(args, void *);
		va_end(args);
	}
	return cow_mremap(addr, old_len, new_len, flags, new_addr);
}

INTERPOSED int mlock(const void *addr, size_t len)
{
	return cow_mlock2(addr, len, 0);
}

INTERPOSED int mlock2(const void *addr, size_t len, unsigned flags)
{
	return cow_mlock2(addr, len, flags);
}

INTERPOSED int mlockall(int flags)
{
	return cow_mlockall(flags);
}

INTERPOSED int munlockall(void)
{
	return cow_munlockall();
}

/* The kernel tells nobody what that replaces (ipc/shm.c, do_shmat). */
INTERPOSED void *shmat(int id, const void *addr, int flags)
{
	uintptr_t start = (uintptr_t)addr - (uintptr_t)addr % (uintptr_t)SHMLBA;
	struct shmid_ds ds = { .shm_segsz = 0 };
	int error = errno, held = 0;
	long at;

	if (flags & SHM_REMAP && addr)
		held = in_place_leave(start, shmctl(id, IPC_STAT, &ds) < 0 ? UINTPTR_MAX - start
									  : ds.shm_segsz);
	errno = error;
	at = syscall(SYS_shmat, id, addr, flags);
	in_place_left(held);
	return (void *)at;
}

void preload_detach(void *addr, size_t len)
{
	uintptr_t page = sys_page_size();
	uintptr_t start = (uintptr_t)addr & ~(page - 1), from;
	uintptr_t end = start + sys_whole_pages((uintptr_t)addr - start + len);
	struct store *s;

	if (!len || end <= start)
		return;
	in_place_left(in_place_leave(start, end - start));	/* the kernel cannot wait either */
	process_lock();
	kept_add(start, end);
	while ((s = process_next_window(&start, end, &from)))
		(void)memory_detach(s, from, start, COW_REASON_CALL);
	process_unlock();
}

/* Does the descriptor stand for this process? Its fdinfo tells; negative numbers
 * below -9999 are the kernel's PIDFD_SELF and its kin (6.14). */
static int is_self(int pidfd)
{
	return pidfd < 0 ? pidfd <= -10000 : procfs_pid_of(pidfd) == sys_getpid();
}

/* A vector without elements asks the kernel whether it would. */
INTERPOSED ssize_t process_madvise(int pidfd, const struct iovec *iov, size_t count,
				   int advice, unsigned flags)
{
	ssize_t done = 0;
	int before = errno;

	if (flags || !is_self(pidfd) ||
	    syscall(SYS_process_madvise, pidfd, iov, 0, advice, flags) < 0) {
		errno = before;
		return syscall(SYS_process_madvise, pidfd, iov, count, advice, flags);
	}
	for (size_t i = 0; i < count; i++) {
		struct iovec v;
		int ret = sys_peek(&v, &iov[i], sizeof(v));

		if (ret < 0)
			errno = -ret;
		if (ret < 0 || cow_madvise(v.iov_base, v.iov_len, advice) < 0)
			return done ? done : -1;
		done += (ssize_t)v.iov_len;
	}
	return done;
}

/* What the kernel alone can serve is asked for: the range becomes plain memory. Returns what
 * in_place_left() is told when that was done. */
static int make_plain(uintptr_t start, size_t len)
{
	int before = errno, held = in_place_leave(start, len);

	if (process_store_at(start, len) &&
	    cow_madvise((void *)start, len, MADV_WIPEONFORK) == 0)
		(void)!cow_madvise((void *)start, len, MADV_KEEPONFORK);
	errno = before;
	return held;
}

INTERPOSED int pkey_mprotect(void *addr, size_t len, int prot, int pkey)
{
	int held, ret;

	if (pkey == -1)
		return cow_mprotect(addr, len, prot);
	held = make_plain((uintptr_t)addr, len);
	ret = (int)syscall(SYS_pkey_mprotect, addr, len, prot, pkey);
	in_place_left(held);
	return ret;
}

/* A registration with a userfaultfd would be lost when memory is re-mapped. */
INTERPOSED int ioctl(int fd, unsigned long request, ...)
{
	struct uffdio_register reg;
	va_list args;
	void *arg;
	int held = 0, ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (request == UFFDIO_REGISTER && sys_peek(&reg, arg, sizeof(reg)) == 0)
		held = make_plain((uintptr_t)reg.range.start, reg.range.len);
	ret = (int)syscall(SYS_ioctl, fd, request, arg);
	in_place_left(held);
	return ret;
}
