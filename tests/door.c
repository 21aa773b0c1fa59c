/*
 * See door.h. The close(2) that fails has closed, as the kernel's has.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compat.h"
#include "door.h"
#include "sys.h"

static struct order {
	enum door door;
	unsigned nth;
	enum how how;
	atomic_uint calls[DOOR_COUNT], failed;
	atomic_ulong caller;
} *order;

extern const char __executable_start[];

#define DOOR(name, error, other) { #name, { error, other } },
static const struct { const char *name; int error[2]; } doors[] = { DOORS(DOOR) };
#undef DOOR

const char *door_name(enum door door)
{
	return doors[door].name;
}

void door_begin(void)
{
	if (!order)
		order = (void *)syscall(SYS_mmap, NULL, sizeof(*order), PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (order == MAP_FAILED)
		abort();
}

void door_order(enum door door, unsigned nth, enum how how)
{
	order->nth = 0;
	for (int i = 0; nth && i < DOOR_COUNT; i++)
		order->calls[i] = 0;
	if (nth) {
		order->failed = 0;
		order->caller = 0;
	}
	order->door = door;
	order->how = how;
	order->nth = nth;
}

unsigned door_calls(enum door door)
{
	return order->calls[door];
}

unsigned door_failed(void)
{
	return order->failed;
}

unsigned long door_caller(void)
{
	return order->caller;
}

/* Before any constructor: the library's own comes very early. */
static void begin_early(int argc, char **argv, char **env)
{
	static const char name[] = "COWFORK_TEST_DOOR=";

	(void)argc, (void)argv;
	for (; *env; env++)
		for (int i = 0; i < DOOR_COUNT; i++) {
			size_t n = strlen(doors[i].name);
			const char *value = *env + sizeof(name) - 1;

			if (strncmp(*env, name, sizeof(name) - 1) ||
			    strncmp(value, doors[i].name, n) || value[n] != ' ')
				continue;
			door_begin();
			door_order((enum door)i, (unsigned)atoi(value + n), HOW_ONCE);
		}
}

__attribute__((section(".preinit_array"), used))
static void (*const early)(int, char **, char **) = begin_early;

/* 0, or the error to fail with. */
static int refuse(enum door door, void *caller)
{
	unsigned n;

	if (!order || !order->nth)
		return 0;
	n = atomic_fetch_add(&order->calls[door], 1) + 1;
	if (door != order->door || n < order->nth ||
	    (n > order->nth && order->how != HOW_EVER))
		return 0;
	if (!atomic_fetch_add(&order->failed, 1))
		order->caller = (uintptr_t)caller - (uintptr_t)__executable_start;
	return doors[door].error[order->how == HOW_OTHER];
}

/* Those that return -errno, and those that set it. */
#define WRAP(type, name, parameters, arguments, before)			\
	type __real_##name parameters;					\
	type __wrap_##name parameters;					\
	type __wrap_##name parameters					\
	{								\
		int error = refuse(DOOR_##name, __builtin_return_address(0)); \
									\
		if (!error)						\
			return __real_##name arguments;			\
		before;							\
		return (type)-error;					\
	}
#define WRAP_POSIX(type, name, parameters, arguments)			\
	type __real_##name parameters;					\
	type __wrap_##name parameters;					\
	type __wrap_##name parameters					\
	{								\
		int error = refuse(DOOR_##name, __builtin_return_address(0)); \
									\
		if (!error)						\
			return __real_##name arguments;			\
		errno = error;						\
		return (type)-1;					\
	}

static void unmap_target(int flags, uintptr_t target, size_t len)
{
	if (order->how == HOW_UNMAPPED && flags & MREMAP_FIXED)
		syscall(SYS_munmap, target, len);
}

WRAP(long, sys_mmap, (uintptr_t at, size_t len, int prot, int flags, int fd, off_t off),
     (at, len, prot, flags, fd, off), (void)0)
WRAP(int, sys_mprotect, (uintptr_t at, size_t len, int prot), (at, len, prot), (void)0)
WRAP(int, sys_madvise, (uintptr_t at, size_t len, int advice), (at, len, advice), (void)0)
WRAP(long, sys_mremap, (uintptr_t at, size_t old, size_t len, int flags, uintptr_t to),
     (at, old, len, flags, to), unmap_target(flags, to, len))
WRAP(int, sys_mincore, (uintptr_t at, size_t len, unsigned char *vec), (at, len, vec), (void)0)
WRAP(int, sys_mlock2, (uintptr_t at, size_t len, unsigned flags), (at, len, flags), (void)0)
WRAP(int, sys_munlock, (uintptr_t at, size_t len), (at, len), (void)0)
WRAP(int, sys_mlockall, (int flags), (flags), (void)0)
WRAP(int, sys_munlockall, (void), (), (void)0)
WRAP(int, sys_memfd, (const char *name), (name), (void)0)
WRAP(int, sys_ftruncate, (int fd, off_t size), (fd, size), (void)0)
WRAP(int, sys_open, (const char *path, int flags), (path, flags), (void)0)
WRAP(long, sys_pread, (int fd, void *buf, size_t len, off_t off), (fd, buf, len, off), (void)0)
WRAP(long, sys_read, (int fd, void *buf, size_t len), (fd, buf, len), (void)0)
WRAP(int, sys_close, (int fd), (fd), __real_sys_close(fd))
WRAP(int, sys_close_range, (unsigned first, unsigned last, unsigned flags),
     (first, last, flags), (void)0)
WRAP(long, sys_getdents, (int fd, void *buf, size_t len), (fd, buf, len), (void)0)
WRAP(int, sys_probe_start, (void), (), (void)0)
WRAP(int, sys_userfaultfd, (int flags), (flags), (void)0)
WRAP_POSIX(pid_t, fork, (void), ())
WRAP_POSIX(int, fstat, (int fd, struct stat *st), (fd, st))
WRAP_POSIX(int, getrlimit, (__rlimit_resource_t what, struct rlimit *limit), (what, limit))
WRAP_POSIX(int, getrusage, (__rusage_who_t who, struct rusage *usage), (who, usage))
WRAP_POSIX(void *, shmat, (int id, const void *at, int flags), (id, at, flags))
WRAP_POSIX(int, shmget, (key_t key, size_t size, int flags), (key, size, flags))

int __real_sys_alone_in_mm(void);
int __wrap_sys_alone_in_mm(void);
int __wrap_sys_alone_in_mm(void)
{
	return !refuse(DOOR_sys_alone_in_mm, __builtin_return_address(0)) &&
	       __real_sys_alone_in_mm();
}

uint64_t __real_sys_ram_and_swap(void);
uint64_t __wrap_sys_ram_and_swap(void);
uint64_t __wrap_sys_ram_and_swap(void)
{
	return refuse(DOOR_sys_ram_and_swap, __builtin_return_address(0)) ?
	       0 : __real_sys_ram_and_swap();
}

/* What is probed with more than all memory must go, or mlockall(2) would fill it;
 * the kernel does not refuse to unmap whole mappings. */
int __real_sys_munmap(uintptr_t at, size_t len);
int __wrap_sys_munmap(uintptr_t at, size_t len);
int __wrap_sys_munmap(uintptr_t at, size_t len)
{
	int error = len >> 40 ? 0 : refuse(DOOR_sys_munmap, __builtin_return_address(0));

	return error ? -error : __real_sys_munmap(at, len);
}

/* The kernel does not refuse the maker of a segment to remove it. */
int __real_shmctl(int id, int what, struct shmid_ds *ds);
int __wrap_shmctl(int id, int what, struct shmid_ds *ds);
int __wrap_shmctl(int id, int what, struct shmid_ds *ds)
{
	int error = what == IPC_RMID && id >= 0 ? 0 :
		    refuse(DOOR_shmctl, __builtin_return_address(0));

	if (!error)
		return __real_shmctl(id, what, ds);
	errno = error;
	return -1;
}

/* The kernel does not refuse to wake who waits in a range that is one. */
int __real_sys_ioctl(int fd, unsigned long request, void *arg);
int __wrap_sys_ioctl(int fd, unsigned long request, void *arg);
int __wrap_sys_ioctl(int fd, unsigned long request, void *arg)
{
	int error = request == UFFDIO_WAKE ? 0 :
		    refuse(DOOR_sys_ioctl, __builtin_return_address(0));

	return error ? -error : __real_sys_ioctl(fd, request, arg);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*fn)(void *), void *arg)
{
	int error = refuse(DOOR_pthread_create, __builtin_return_address(0));

	return error ? error : __real_pthread_create(thread, attr, fn, arg);
}

typedef void handler(void);
int __real_pthread_atfork(handler *prepare, handler *parent, handler *child);
int __wrap_pthread_atfork(handler *prepare, handler *parent, handler *child);
int __wrap_pthread_atfork(handler *prepare, handler *parent, handler *child)
{
	int error = refuse(DOOR_pthread_atfork, __builtin_return_address(0));

	return error ? error : __real_pthread_atfork(prepare, parent, child);
}
