/*
 * Runs a program from whose life something was taken away:
 *
 *	without FACILITY program [argument...]
 *
 * Exit status 77 and a reason where this machine or user cannot take it away,
 * else the program's. `without --list` names them all.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "compat.h"

#define NOBODY 65534
#define COUNT(array) ((int)(sizeof(array) / sizeof(*(array))))

static int skip(const char *why)
{
	printf("skip: %s: %s\n", why, strerror(errno));
	return 77;
}

/* --- by a filter -------------------------------------------------------- */

struct rule {
	int call, refusal;
	unsigned arg;		/* 0: none; must be, have, or reach the value */
	enum { IS, HAS, REACHES } test;
	uint64_t value;
};

static int filter_out(const struct rule *r)
{
	static const enum scmp_compare ops[] = { SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ, SCMP_CMP_GE };
	struct scmp_arg_cmp cmp = SCMP_CMP64(r->arg, ops[r->test], r->value, r->value);
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

	if (!filter || seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((uint32_t)r->refusal),
					      r->call, r->arg != 0, &cmp) < 0 ||
	    seccomp_load(filter) < 0)
		return skip("no system call filter");
	seccomp_release(filter);
	return 0;
}

/* --- by other means ------------------------------------------------------ */

static int no_proc(void)
{
	if (unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return skip("no mount namespace");
	while (umount2("/proc", MNT_DETACH) == 0)
		;
	return access("/proc/self", F_OK) == 0 ? skip("/proc stays") : 0;
}

static int become_nobody(void)
{
	if (geteuid() != 0)
		return 0;
	return setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0 ?
	       skip("cannot become nobody") : 0;
}

static int limit(int resource, rlim_t n)
{
	const struct rlimit l = { n, n };

	return setrlimit((__rlimit_resource_t)resource, &l) < 0 ? skip("no such limit") : 0;
}

static int no_locked_memory(void)
{
	int ret = limit(RLIMIT_MEMLOCK, 0);

	return ret ? ret : become_nobody();	/* root may lock all the same */
}

static int limit_address_space(void)
{
	return limit(RLIMIT_AS, (rlim_t)1 << 30);
}

static int limit_data(void)
{
	return limit(RLIMIT_DATA, (rlim_t)1 << 30);
}

static int limit_files(void)
{
	return limit(RLIMIT_FSIZE, (rlim_t)64 << 20);
}

/* Neither the call nor the device: the library opens nothing else for reading and
 * writing but the filter of core files, and does without. */
static int no_userfaultfd(void)
{
	static const struct rule rules[] = {
		{ SCMP_SYS(userfaultfd), EPERM, 0, IS, 0 },
		{ SCMP_SYS(openat), EACCES, 2, IS, O_RDWR | O_CLOEXEC },
	};
	int ret = filter_out(&rules[0]);

	return ret ? ret : filter_out(&rules[1]);
}

/* --- the list ----------------------------------------------------------- */

static const struct facility {
	const char *name;
	int (*take)(void);	/* or by the rule */
	struct rule rule;
} facilities[] = {
	{ "nothing", become_nobody, { 0 } },	/* but privileges */
	{ "proc", no_proc, { 0 } },
	{ "userfaultfd", no_userfaultfd, { 0 } },
	{ "mlock", no_locked_memory, { 0 } },
	{ "address-space", limit_address_space, { 0 } },
	{ "data", limit_data, { 0 } },
	{ "file-size", limit_files, { 0 } },
	/* by its offsets: the loader preads too */
	{ "pagemap", NULL, { SCMP_SYS(pread64), EPERM, 3, REACHES, 1 << 30 } },
	{ "memfd", NULL, { SCMP_SYS(memfd_create), ENOSYS, 0, IS, 0 } },
	/* as where vm.overcommit_memory is 2, see hand-overcommit.sh */
	{ "overcommit", NULL, { SCMP_SYS(mmap), ENOMEM, 1, REACHES, (uint64_t)1 << 40 } },
	{ "collapse", NULL, { SCMP_SYS(madvise), EINVAL, 2, IS, MADV_COLLAPSE } },
	{ "wipeonfork", NULL, { SCMP_SYS(madvise), EINVAL, 2, IS, MADV_WIPEONFORK } },
	{ "dontfork", NULL, { SCMP_SYS(madvise), EINVAL, 2, IS, MADV_DONTFORK } },
	{ "remove", NULL, { SCMP_SYS(madvise), EINVAL, 2, IS, MADV_REMOVE } },
	{ "dontunmap", NULL, { SCMP_SYS(mremap), EINVAL, 3, HAS, MREMAP_DONTUNMAP } },
	{ "close-range", NULL, { SCMP_SYS(close_range), ENOSYS, 0, IS, 0 } },
	{ "ioctl", NULL, { SCMP_SYS(ioctl), ENOTTY, 0, IS, 0 } },
	{ "sysvshm", NULL, { SCMP_SYS(shmget), ENOSYS, 0, IS, 0 } },
	{ "shmctl", NULL, { SCMP_SYS(shmctl), EPERM, 0, IS, 0 } },
	{ "unshare", NULL, { SCMP_SYS(unshare), EPERM, 0, IS, 0 } },
	{ "mincore", NULL, { SCMP_SYS(mincore), ENOSYS, 0, IS, 0 } },
	{ "sysinfo", NULL, { SCMP_SYS(sysinfo), ENOSYS, 0, IS, 0 } },
};

static int take(const char *name)
{
	for (int i = 0; i < COUNT(facilities); i++)
		if (!strcmp(name, facilities[i].name))
			return facilities[i].take ? facilities[i].take()
						  : filter_out(&facilities[i].rule);
	fprintf(stderr, "without: no facility %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	int ret;

	if (argc == 2 && !strcmp(argv[1], "--list")) {
		for (int i = 0; i < COUNT(facilities); i++)
			puts(facilities[i].name);
		return 0;
	}
	if (argc < 3)
		return fprintf(stderr, "usage: without FACILITY program [argument...]\n"), 2;
	ret = take(argv[1]);
	if (ret)
		return ret;
	fflush(stdout);
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 99;
}
