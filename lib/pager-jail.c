/*
 * What pager and keeper can still do once they run: their job. The pager shares memory with
 * the program, so whoever takes over the program can make it do anything that it may. So it
 * may read and write what it has open, ask of userfaultfds, read its own memory by
 * process_vm_readv(2), and give advice on it; it
 * opens no file, kills nobody but whose pidfd it has, which are keeper and program, makes no
 * process, becomes no other, and has no capability. The keeper, which shares no memory, may
 * open files for reading, take a descriptor of a process that it may trace, fork, and kill;
 * it keeps the capabilities for that, since children change their user.
 *
 * Anything else fails with EPERM, rather than end the process with a core file, for which
 * older kernels end all that share its memory (fs/coredump.c before 5.16). The filter is
 * written out here, since libseccomp would be a library more in each program that is run
 * with the runtime: five mappings, which every fork copies.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

/* An argument may be asked for, where there is a mask. */
struct allowed {
	unsigned nr, arg, mask, value;
	int who;
};

enum { PAGER = 1, KEEPER = 2, BOTH = 3 };

#define SELF ~0u	/* its own number */

static const struct allowed allowed[] = {
	{ SYS_read, 0, 0, 0, BOTH },
	{ SYS_ioctl, 1, 0xff00, UFFDIO << 8, BOTH },
	{ SYS_process_vm_writev, 0, ~0u, SELF, PAGER },
	{ SYS_epoll_pwait, 0, 0, 0, PAGER },
	{ SYS_pread64, 0, 0, 0, BOTH },
	{ SYS_madvise, 0, 0, 0, PAGER },
	{ SYS_ppoll, 0, 0, 0, BOTH },
	{ SYS_mincore, 0, 0, 0, PAGER },
	{ SYS_msync, 2, ~0u, MS_ASYNC, PAGER },
	{ SYS_write, 0, 0, 0, BOTH },
	{ SYS_close, 0, 0, 0, BOTH },
	{ SYS_epoll_ctl, 0, 0, 0, PAGER },
	{ SYS_clock_gettime, 0, 0, 0, BOTH },	/* where the vDSO cannot tell */
	{ SYS_getppid, 0, 0, 0, BOTH },
	{ SYS_getdents64, 0, 0, 0, KEEPER },
	{ SYS_unshare, 0, ~0u, CLONE_VM, PAGER },	/* a question, see sys_alone_in_mm() */
	{ SYS_pidfd_send_signal, 1, ~0u, SIGKILL, BOTH },
	{ SYS_wait4, 0, 0, 0, BOTH },
	{ SYS_openat, 2, ~0u, O_RDONLY | O_CLOEXEC, KEEPER },
	{ SYS_clone, 0, ~0u, 0, KEEPER },
	{ SYS_close_range, 0, 0, 0, KEEPER },
	{ SYS_pidfd_open, 0, 0, 0, KEEPER },
	{ SYS_pidfd_getfd, 0, 0, 0, KEEPER },
	{ SYS_futex, 0, 0, 0, PAGER },
	{ SYS_restart_syscall, 0, 0, 0, BOTH },
	{ SYS_exit, 0, 0, 0, BOTH },
	{ SYS_exit_group, 0, 0, 0, BOTH },
};

enum { ALLOWED = sizeof(allowed) / sizeof(*allowed) };

static int keep_capabilities(uint32_t kept_ones)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct kept[2];
	int ret = sys_capget(&header, kept);

	if (ret < 0)
		return ret;
	kept[0].permitted &= kept_ones;
	kept[0].effective &= kept_ones;
	kept[1].effective = kept[1].permitted = 0;
	kept[0].inheritable = kept[1].inheritable = 0;
	return sys_capset(&header, kept);
}

#ifdef ARCH
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define UNLESS(what, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, what, 0, skip)

/* Of the lower half: what is in the upper one of these is refused by the kernel, or not
 * looked at. */
static struct sock_filter *allow(struct sock_filter *at, const struct allowed *a, uint32_t self)
{
	if (!a->mask) {
		*at++ = (struct sock_filter)UNLESS(a->nr, 1);
		*at++ = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
		return at;
	}
	*at++ = (struct sock_filter)UNLESS(a->nr, 5);
	*at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					     (uint32_t)(offsetof(struct seccomp_data, args) +
							8 * a->arg));
	*at++ = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, a->mask);
	*at++ = (struct sock_filter)UNLESS(a->value == SELF ? self : a->value, 1);
	*at++ = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	*at++ = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
	return at;
}

/* The x32 calls of x86-64 have numbers of their own, which are not in the list. */
static int filter(int who)
{
	struct sock_filter program[4 + 6 * ALLOWED], *at = program;
	struct sock_fprog all;

	*at++ = (struct sock_filter)LOAD(arch);
	*at++ = (struct sock_filter)UNLESS(ARCH, 0);
	*at++ = (struct sock_filter)LOAD(nr);
	for (unsigned i = 0; i < ALLOWED; i++)
		if (allowed[i].who & who)
			at = allow(at, &allowed[i], (uint32_t)sys_getpid());
	*at++ = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
	program[1].jf = (uint8_t)(at - program - 3);	/* to the last */
	all = (struct sock_fprog){ (unsigned short)(at - program), program };
	return sys_filter(&all);
}
#else
static int filter(int who)
{
	(void)who;
	return 0;
}
#endif

static int jail(int who, uint32_t capabilities)
{
	int ret = keep_capabilities(capabilities);

	return ret < 0 ? ret : filter(who);
}

int jail_pager(void)
{
	return jail(PAGER, 0);
}

int jail_keeper(void)
{
	return jail(KEEPER, 1u << CAP_KILL | 1u << CAP_SYS_PTRACE | 1u << CAP_DAC_READ_SEARCH);
}
