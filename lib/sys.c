/*
 * The system calls of sys.h, made by the instruction itself where we know it:
 * no errno to put back, and nothing of libc's that a new child would have to
 * fault in before it can run (a fault is a hundredth of a small fork). (Longer than others: a
 * small function for each call.)
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "compat.h"
#include "sys.h"

#define HURRY (-10)	/* nice(2): ten times the usual share of a processor */

#if defined(__x86_64__)
static inline long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
#else
static inline long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	int before = errno;
	long ret = syscall(nr, a, b, c, d, e, f);

	if (ret == -1) {
		ret = -errno;
		errno = before;
	}
	return ret;
}
#endif

#define RAW6(nr, a, b, c, d, e, f, ...) \
	raw(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(nr, ...) RAW6(nr, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

size_t sys_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

size_t sys_whole_pages(size_t len)
{
	size_t page = sys_page_size();

	return len > SIZE_MAX - page ? 0 : (len + page - 1) & ~(page - 1);
}

uint64_t sys_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t sys_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

IN_CHILD int sys_getpid(void)
{
	return (int)CALL(SYS_getpid, 0);
}

int sys_has_swap(void)
{
	struct sysinfo info;

	return CALL(SYS_sysinfo, &info) < 0 || info.totalswap;
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

int sys_msync(uintptr_t addr, size_t len, int flags)
{
	return (int)CALL(SYS_msync, addr, len, flags);
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
	return (int)CALL(SYS_munlockall, 0);
}

static int memfd_create_with(const char *name, unsigned flags)
{
	return (int)CALL(SYS_memfd_create, name, flags);
}

int sys_memfd(const char *name)
{
	int fd = memfd_create_with(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);

	if (fd == -EINVAL)	/* before Linux 6.3 */
		fd = memfd_create_with(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd;
}

int sys_seal(int fd, int seals)
{
	return (int)CALL(SYS_fcntl, fd, F_ADD_SEALS, seals);
}

int sys_ftruncate(int fd, off_t size)
{
	return (int)CALL(SYS_ftruncate, fd, size);
}

int sys_open_at(int dir, const char *name, int flags)
{
	return (int)CALL(SYS_openat, dir, name, flags | O_CLOEXEC);
}

int sys_open(const char *path, int flags)
{
	return sys_open_at(AT_FDCWD, path, flags);
}

long sys_pread(int fd, void *buf, size_t len, off_t off)
{
	return CALL(SYS_pread64, fd, buf, len, off);
}

long sys_read(int fd, void *buf, size_t len)
{
	return CALL(SYS_read, fd, buf, len);
}

long sys_write(int fd, const void *buf, size_t len)
{
	return CALL(SYS_write, fd, buf, len);
}

long sys_getdents(int fd, void *buf, size_t len)
{
	return CALL(SYS_getdents64, fd, buf, len);
}

int sys_close(int fd)
{
	return (int)CALL(SYS_close, fd);
}

int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)CALL(SYS_close_range, first, last, flags);
}

int sys_ioctl(int fd, unsigned long request, void *arg)
{
	return (int)CALL(SYS_ioctl, fd, request, arg);
}

int sys_userfaultfd(int flags)
{
	return (int)CALL(SYS_userfaultfd, flags);
}

#if defined(__x86_64__)
void sys_copy(void *to, const void *from, size_t len)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
}

void sys_zero(void *at, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(0) : "memory");
}
#else
/* The barriers keep the compiler from making calls of it. */
void sys_copy(void *to, const void *from, size_t len)
{
	uint64_t *t = to;
	const uint64_t *f = from;

	for (size_t i = 0; i < len / sizeof(*t); i += 4) {
		t[i] = f[i];
		t[i + 1] = f[i + 1];
		t[i + 2] = f[i + 2];
		t[i + 3] = f[i + 3];
		__asm__ volatile("" : : : "memory");
	}
}

void sys_zero(void *at, size_t len)
{
	uint64_t *t = at;

	for (size_t i = 0; i < len / sizeof(*t); i++) {
		t[i] = 0;
		__asm__ volatile("" : : : "memory");
	}
}
#endif

int sys_is_zero(const void *at, size_t len)
{
	const uint64_t *p = at;

	for (size_t i = 0; i < len / sizeof(*p); i += 4)
		if (p[i] | p[i + 1] | p[i + 2] | p[i + 3])
			return 0;
	return 1;
}

long sys_fetch_some(int self, void *to, const void *from, size_t len)
{
	struct iovec local = { (void *)(uintptr_t)from, len }, remote = { to, len };

	return CALL(SYS_process_vm_writev, self, &local, 1, &remote, 1, 0);
}

int sys_look(void *to, const void *from, size_t len)
{
	struct iovec local = { to, len }, remote = { (void *)(uintptr_t)from, len };
	long n = CALL(SYS_process_vm_readv, sys_getpid(), &local, 1, &remote, 1, 0);

	if (n == (long)len)
		return 0;
	return n < 0 ? (int)n : -EFAULT;
}

int sys_peek(void *to, const void *from, size_t len)
{
	int ret = sys_look(to, from, len);

	if (ret == 0 || ret == -EFAULT)
		return ret;
	memcpy(to, from, len);
	return 0;
}

int sys_alone_in_mm(void)
{
	return CALL(SYS_unshare, CLONE_VM) == 0;
}

int sys_robust_list(int tid, uintptr_t *ret_head)
{
	size_t len;

	return (int)CALL(SYS_get_robust_list, tid, ret_head, &len);
}

int sys_gettid(void)
{
	return (int)CALL(SYS_gettid, 0);
}

int sys_thread_lives(int tid)
{
	return CALL(SYS_tgkill, sys_getpid(), tid, 0) == 0;
}

int sys_epoll_create(void)
{
	return (int)CALL(SYS_epoll_create1, EPOLL_CLOEXEC);
}

int sys_epoll_add(int epoll, int fd, uint64_t data)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = data };

	return (int)CALL(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &e);
}

int sys_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms)
{
	return (int)CALL(SYS_epoll_pwait, epoll, events, max, timeout_ms, NULL, 8);
}

int sys_poll(struct pollfd *fds, unsigned count, int timeout_ms)
{
	struct timespec ts = {
		.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L,
	};

	return (int)CALL(SYS_ppoll, fds, count, timeout_ms < 0 ? NULL : &ts, NULL, 8);
}

int sys_pidfd_open(int pid)
{
	return (int)CALL(SYS_pidfd_open, pid, 0);
}

int sys_pidfd_getfd(int pidfd, int fd)
{
	return (int)CALL(SYS_pidfd_getfd, pidfd, fd, 0);
}

int sys_pipe(int ret_ends[2])
{
	return (int)CALL(SYS_pipe2, ret_ends, O_CLOEXEC);
}

int sys_capget(struct __user_cap_header_struct *header, struct __user_cap_data_struct *ret)
{
	return (int)CALL(SYS_capget, header, ret);
}

int sys_capset(struct __user_cap_header_struct *header,
	       const struct __user_cap_data_struct *data)
{
	return (int)CALL(SYS_capset, header, data);
}

int sys_filter(const struct sock_fprog *program)
{
	int ret = (int)CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);

	return ret < 0 ? ret : (int)CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program);
}

int sys_lives(int pid)
{
	siginfo_t info = { .si_pid = 0 };

	return CALL(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL,
		    NULL) == 0 && !info.si_pid;
}

void sys_pidfd_kill(int pidfd)
{
	CALL(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

void sys_new_session(void)
{
	CALL(SYS_setsid, 0);
}

unsigned sys_many_files(unsigned most)
{
	struct rlimit64 limit;

	if (CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) < 0)
		return 0;
	limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
	CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
	return (unsigned)limit.rlim_cur;
}

void sys_go_to_root(void)
{
	CALL(SYS_chdir, "/");
}

int sys_getppid(void)
{
	return (int)CALL(SYS_getppid, 0);
}

void sys_exit(int status)
{
	for (;;)
		CALL(SYS_exit_group, status);
}

static int fork_to(void (*fn)(void *arg), void *arg, unsigned long flags)
{
	int pid = (int)CALL(SYS_clone, flags, 0, 0, 0, 0);

	if (pid)
		return pid;
	fn(arg);
	sys_exit(0);
}

int sys_fork_with_files(void (*fn)(void *arg), void *arg)
{
	return fork_to(fn, arg, CLONE_FILES);
}

int sys_fork_bare(void (*fn)(void *arg), void *arg)
{
	return fork_to(fn, arg, 0);
}

void sys_futex_wait(atomic_uint *word, unsigned value, uint64_t timeout_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long)(timeout_ns % 1000000000u),
	};

	CALL(SYS_futex, word, FUTEX_WAIT_PRIVATE, value,
	     timeout_ns == UINT64_MAX ? NULL : &ts, NULL, 0);
}

void sys_futex_wake(atomic_uint *word)
{
	CALL(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void sys_name_thread(const char *name)
{
	CALL(SYS_prctl, PR_SET_NAME, name);
}

#ifndef PR_GET_MEMORY_MERGE	/* Linux 6.4 */
#define PR_GET_MEMORY_MERGE 68
#endif

int sys_memory_merges(void)
{
	return CALL(SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1;
}

void sys_hurry(void)
{
	CALL(SYS_setpriority, PRIO_PROCESS, 0, HURRY);
}

static void wait_for_the_end(int parent)
{
	CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	while ((int)CALL(SYS_getppid, 0) == parent)
		CALL(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

static int make_child(void (*fn)(void))
{
	int self = sys_getpid(), pid;
	uint64_t before;

	sys_block_signals(&before);
	pid = (int)CALL(SYS_clone, 0, 0, 0, 0, 0);
	if (pid == 0) {
		if (fn)
			fn();
		else
			wait_for_the_end(self);
		CALL(SYS_exit_group, 0);
	}
	sys_restore_signals(&before);
	return pid;
}

void sys_probe_wait(int pid)
{
	while (CALL(SYS_waitid, P_PID, pid, NULL, WEXITED | WNOWAIT | __WALL, NULL) == -EINTR)
		;
}

int sys_probe_reap(int pid)
{
	int status = -1;

	while (CALL(SYS_wait4, pid, &status, __WALL, NULL) == -EINTR)
		;
	return status;
}

int sys_reap_within(int pid, int ms)
{
	uint64_t end = sys_now_ns() + (uint64_t)ms * 1000000u;
	int ret;

	while ((ret = (int)CALL(SYS_wait4, pid, NULL, WNOHANG | __WALL, NULL)) == 0 &&
	       sys_now_ns() < end)
		sys_poll(NULL, 0, 1);
	return ret != 0;
}

int sys_probe_start(void)
{
	return make_child(NULL);
}

void sys_probe_kill(int pid)
{
	CALL(SYS_tgkill, pid, pid, SIGKILL);
}

int sys_try(void (*fn)(void))
{
	int pid = make_child(fn);

	return pid < 0 ? pid : sys_probe_reap(pid);
}

int sys_kernel_is(unsigned major, unsigned minor)
{
	struct utsname name;
	unsigned is_major, is_minor;

	if (CALL(SYS_uname, &name) < 0 ||
	    sscanf(name.release, "%u.%u", &is_major, &is_minor) != 2)
		return 0;
	return is_major > major || (is_major == major && is_minor >= minor);
}

void sys_block_signals(uint64_t *ret_old)
{
	const uint64_t all = ~(uint64_t)0;

	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &all, ret_old, sizeof(all));
}

IN_CHILD void sys_restore_signals(const uint64_t *old)
{
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, old, NULL, sizeof(*old));
}
