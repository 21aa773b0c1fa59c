/*
 * The library's doors to the kernel (lib/sys.h, and the C library's calls that
 * it makes), each behind a wrapper of the linker's (--wrap): every call is
 * counted, and the n-th of a kind, or all from the n-th on, can be made to fail
 * without being made. Counts and orders lie in shared memory, so that a call in
 * a child counts as one in its parent.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_DOOR_H
#define COWFORK_TEST_DOOR_H

/* name of the function, what it fails with, and with what else it could */
#define DOORS(X)							\
	X(sys_mmap, ENOMEM, EAGAIN)					\
	X(sys_munmap, ENOMEM, EPERM)					\
	X(sys_mprotect, ENOMEM, EACCES)					\
	X(sys_madvise, EINVAL, EAGAIN)					\
	X(sys_mremap, ENOMEM, EFAULT)					\
	X(sys_mincore, ENOMEM, EAGAIN)					\
	X(sys_mlock2, ENOMEM, EPERM)					\
	X(sys_munlock, ENOMEM, EPERM)					\
	X(sys_mlockall, ENOMEM, EPERM)					\
	X(sys_munlockall, EPERM, ENOMEM)				\
	X(sys_memfd, EMFILE, ENOSYS)					\
	X(sys_ftruncate, EFBIG, EINVAL)					\
	X(sys_open, EMFILE, EACCES)					\
	X(sys_pread, EIO, EPERM)					\
	X(sys_read, EIO, EPERM)						\
	X(sys_close, EIO, EINTR)					\
	X(sys_close_range, ENOSYS, EMFILE)				\
	X(sys_getdents, EIO, EACCES)					\
	X(sys_ioctl, EINVAL, ENOMEM)					\
	X(sys_probe_start, EAGAIN, ENOMEM)				\
	X(sys_userfaultfd, EPERM, EMFILE)				\
	X(sys_alone_in_mm, EINVAL, EPERM)				\
	X(sys_ram_and_swap, ENOSYS, EPERM)				\
	X(fork, EAGAIN, ENOMEM)						\
	X(fstat, EBADF, EACCES)						\
	X(getrlimit, EPERM, EINVAL)					\
	X(getrusage, EINVAL, EPERM)					\
	X(pthread_atfork, ENOMEM, EAGAIN)				\
	X(pthread_create, EAGAIN, EINVAL)				\
	X(shmat, ENOMEM, EACCES)					\
	X(shmctl, EPERM, EINVAL)					\
	X(shmget, ENOSPC, ENOSYS)

#define DOOR(name, error, other) DOOR_##name,
enum door { DOORS(DOOR) DOOR_COUNT };
#undef DOOR

enum how {
	HOW_ONCE,
	HOW_OTHER,	/* once, with the other error */
	HOW_EVER,	/* from the n-th on */
	HOW_UNMAPPED,	/* mremap alone: fails after its target was unmapped, as
			 * the kernel may where it runs out of memory half-way */
	HOW_COUNT
};

const char *door_name(enum door door);

/* Call first. A program that was started with the name of a door and a number in
 * COWFORK_TEST_DOOR has that order from its very start. */
void door_begin(void);

/* The nth call of this door from now on fails. nth == 0: no call fails or is
 * counted any more. */
void door_order(enum door door, unsigned nth, enum how how);
unsigned door_calls(enum door door);
unsigned door_failed(void);

/* Who made the call that failed first: an address for addr2line(1). */
unsigned long door_caller(void);

#endif
