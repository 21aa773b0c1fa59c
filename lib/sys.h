/*
 * System calls as the library makes them: straight to the kernel, never by a
 * libc name that the preload runtime (or anybody) interposes. Each returns the
 * kernel's value or -errno and leaves errno alone. All of them are
 * async-signal-safe.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_SYS_H
#define COWFORK_SYS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* An address from sys_mmap() and kin is an error when this says so. */
static inline int sys_failed(long ret)
{
	return (unsigned long)ret > -4096UL;
}

int sys_getpid(void);
size_t sys_page_size(void);
size_t sys_whole_pages(size_t len);	/* rounded up; 0 when that wraps around */
uint64_t sys_now_ns(void);		/* CLOCK_MONOTONIC */
uint64_t sys_cpu_ns(void);		/* that the calling thread has used */
uint64_t sys_ram_and_swap(void);	/* bytes */
int sys_has_swap(void);			/* 1 also when it cannot be told */

long sys_mmap(uintptr_t addr, size_t len, int prot, int flags, int fd, off_t off);
int sys_munmap(uintptr_t addr, size_t len);
int sys_mprotect(uintptr_t addr, size_t len, int prot);
int sys_madvise(uintptr_t addr, size_t len, int advice);
long sys_mremap(uintptr_t addr, size_t old_len, size_t new_len, int flags,
		uintptr_t new_addr);
int sys_mincore(uintptr_t addr, size_t len, unsigned char *vec);
int sys_msync(uintptr_t addr, size_t len, int flags);
int sys_mlock2(uintptr_t addr, size_t len, unsigned flags);
int sys_munlock(uintptr_t addr, size_t len);
int sys_mlockall(int flags);
int sys_munlockall(void);
int sys_memfd(const char *name);	/* closed on exec; not to be run, and it can be sealed */
int sys_seal(int fd, int seals);
int sys_ftruncate(int fd, off_t size);
int sys_open(const char *path, int flags);
int sys_open_at(int dir, const char *name, int flags);
long sys_pread(int fd, void *buf, size_t len, off_t off);
long sys_read(int fd, void *buf, size_t len);
long sys_write(int fd, const void *buf, size_t len);
long sys_getdents(int fd, void *buf, size_t len);
int sys_close(int fd);
int sys_close_range(unsigned first, unsigned last, unsigned flags);
int sys_ioctl(int fd, unsigned long request, void *arg);
int sys_userfaultfd(int flags);


/* memcpy(3), memset(3) and a comparison with zeros for memory of the program's, whole
 * pages of it. Not the C library's names, under which a sanitizer looks whether the
 * program may touch that. */
void sys_copy(void *to, const void *from, size_t len);
void sys_zero(void *at, size_t len);
int sys_is_zero(const void *at, size_t len);

/* Copy what may not be there, to memory that is; how much, or -errno. As fast as memcpy(3) where
 * that is a huge page, for the kernel looks up each page there, and not where it reads. */
long sys_fetch_some(int self, void *to, const void *from, size_t len);

/* Copy what may not be there; -EFAULT, or another -errno where the kernel has no such call
 * or a filter refuses it. */
int sys_look(void *to, const void *from, size_t len);

/* Copy what a caller points at, or -EFAULT where it points at nothing. */
int sys_peek(void *to, const void *from, size_t len);

/* Is no other task running in this address space, threads and CLONE_VM
 * helpers alike? unshare(CLONE_VM) changes nothing and succeeds only then
 * (kernel/fork.c, check_unshare_flags). */
int sys_alone_in_mm(void);

/* Where a thread of this process keeps its robust locks (get_robust_list(2)). */
int sys_robust_list(int tid, uintptr_t *ret_head);

int sys_gettid(void);
int sys_thread_lives(int tid);	/* of this process */
void sys_name_thread(const char *name);

/* Does the kernel merge equal pages of this process's (ksm_any(8), PR_SET_MEMORY_MERGE)? */
int sys_memory_merges(void);
void sys_hurry(void);			/* this thread runs ahead of others, if it may */

/* Is the kernel's version at least this? */
int sys_kernel_is(unsigned major, unsigned minor);

/* A child of the kernel's alone: no handler runs in it, it sends no signal when it
 * ends, and does nothing until then. Its pid or -errno. */
int sys_probe_start(void);
void sys_probe_kill(int pid);
void sys_probe_wait(int pid);	/* until it has ended; it is to be reaped still */
int sys_probe_reap(int pid);	/* the same, and reap it; as wait(2) tells it */
int sys_reap_within(int pid, int ms);	/* 0: it has not ended by then */

/* Run fn in such a child, and wait. 0 when it ended by itself. */
int sys_try(void (*fn)(void));

/* Wait until somebody wakes who waits for this word, unless it is another than
 * `value` already, or the time has passed (UINT64_MAX: never); or wake all. Private
 * to this process. */
void sys_futex_wait(atomic_uint *word, unsigned value, uint64_t timeout_ns);
void sys_futex_wake(atomic_uint *word);

/* For those who serve a userfaultfd. */
struct epoll_event;
int sys_epoll_create(void);
int sys_epoll_add(int epoll, int fd, uint64_t data);
int sys_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms);
struct pollfd;
int sys_poll(struct pollfd *fds, unsigned count, int timeout_ms);
int sys_pidfd_open(int pid);
int sys_pidfd_getfd(int pidfd, int fd);
int sys_pipe(int ret_ends[2]);		/* close-on-exec */
void sys_pidfd_kill(int pidfd);		/* SIGKILL */
void sys_new_session(void);
unsigned sys_many_files(unsigned most);	/* as the hard limit allows: how many */
void sys_go_to_root(void);		/* of the file system: no mount is kept busy */
int sys_getppid(void);
int sys_lives(int pid);			/* of a child that is not reaped: does it run? */
void sys_exit(int status) __attribute__((noreturn));

/* Of this thread: linux/capability.h, and a filter of linux/filter.h with no_new_privs. */
struct __user_cap_header_struct;
struct __user_cap_data_struct;
struct sock_fprog;
int sys_capget(struct __user_cap_header_struct *header, struct __user_cap_data_struct *ret);
int sys_capset(struct __user_cap_header_struct *header,
	       const struct __user_cap_data_struct *data);
int sys_filter(const struct sock_fprog *program);

/* A child with the same descriptor table, but memory of its own, where fn runs; nobody is
 * told when it ends. Its pid, -errno. */
int sys_fork_with_files(void (*fn)(void *arg), void *arg);
int sys_fork_bare(void (*fn)(void *arg), void *arg);	/* ... with one of its own */

/* Block every signal, those that glibc keeps for itself included; undo. */
void sys_block_signals(uint64_t *ret_old);
void sys_restore_signals(const uint64_t *old);

#endif
