/*
 * The system calls of sys.h. syscall(3) is used, which sets errno on failure;
 * it is put back, since errno is no part of the library's interface.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

static long finish(int before, long ret)
{
	if (ret == -1) {
		ret = -errno;
		errno = before;
	}
	return ret;
}

#define CALL(...) __extension__ ({ \
	int before_ = errno; \
	finish(before_, syscall(__VA_ARGS__)); })

size_t sys_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

uint64_t sys_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t sys_ram_and_swap(void)
{
	struct sysinfo info;

	if (CALL(SYS_sysinfo, &info) < 0)
		return 0;
	return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

long sys_mmap(uintptr_t addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return CALL(SYS_mmap, addr, len, prot, flags, fd, off);
}

int sys_munmap(uintptr_t addr, size_t len)
{
	return (int)CALL(SYS_munmap, addr, len);
}

int sys_mprotect(uintptr_t addr, size_t len, int prot)
{
	return (int)CALL(SYS_mprotect, addr, len, prot);
}

int sys_madvise(uintptr_t addr, size_t len, int advice)
{
	return (int)CALL(SYS_madvise, addr, len, advice);
}

long sys_mremap(uintptr_t addr, size_t old_len, size_t new_len, int flags,
		uintptr_t new_addr)
{
	return CALL(SYS_mremap, addr, old_len, new_len, flags, new_addr);
}

int sys_mincore(uintptr_t addr, size_t len, unsigned char *vec)
{
	return (int)CALL(SYS_mincore, addr, len, vec);
}

int sys_mlock2(uintptr_t addr, size_t len, unsigned flags)
{
	/* mlock(2) for flags 0, so that kernels before 4.4 and filters that do
	 * not know mlock2 serve plain locks */
	if (!flags)
		return (int)CALL(SYS_mlock, addr, len);
	return (int)CALL(SYS_mlock2, addr, len, flags);
}

int sys_munlock(uintptr_t addr, size_t len)
{
	return (int)CALL(SYS_munlock, addr, len);
}

int sys_mlockall(int flags)
{
	return (int)CALL(SYS_mlockall, flags);
}

int sys_munlockall(void)
{
	return (int)CALL(SYS_munlockall);
}

int sys_memfd_create(const char *name, unsigned flags)
{
	return (int)CALL(SYS_memfd_create, name, flags);
}

int sys_ftruncate(int fd, off_t size)
{
	return (int)CALL(SYS_ftruncate, fd, size);
}

int sys_open(const char *path, int flags)
{
	return (int)CALL(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC);
}

long sys_pread(int fd, void *buf, size_t len, off_t off)
{
	return CALL(SYS_pread64, fd, buf, len, off);
}

long sys_read(int fd, void *buf, size_t len)
{
	return CALL(SYS_read, fd, buf, len);
}

int sys_close(int fd)
{
	return (int)CALL(SYS_close, fd);
}

int sys_alone_in_mm(void)
{
	return CALL(SYS_unshare, CLONE_VM) == 0;
}

void sys_block_signals(uint64_t *ret_old)
{
	const uint64_t all = ~(uint64_t)0;

	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &all, ret_old, sizeof(all));
}

void sys_restore_signals(const uint64_t *old)
{
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, old, NULL, sizeof(*old));
}
