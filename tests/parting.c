/*
 * A program that parts with privileges or with its place, for preload-part.sh; it knows
 * nothing of the library. A child lives meanwhile that has not yet touched what it shares
 * with its parent.
 *
 * Use: parting PAGERS uid|caps|nnp|filter|chroot|newuser|fsuid|bound|merge|files
 * PAGERS: how many of the library's processes there must be before; none afterwards, but for
 * files.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCKS 1024u
#define BLOCK ((size_t)16 << 10)	/* in the heap, no mapping of its own */
#define NOBODY 65534u

int capset(cap_user_header_t header, const cap_user_data_t data);	/* in no header */

#define NEED(condition) do {							\
		if (!(condition)) {						\
			fprintf(stderr, "%d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
			exit(1);						\
		}								\
	} while (0)

static unsigned char *block[BLOCKS];

static void fill(unsigned value)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(block[i], (int)(value + i) & 255, BLOCK);
}

static int is_filled(unsigned value)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		for (size_t at = 0; at < BLOCK; at += 512)
			if (block[i][at] != ((value + i) & 255))
				return 0;
	return 1;
}

/* --- the child ------------------------------------------------------------ */

struct child {
	pid_t pid;
	int go;
};

/* It looks when told to. */
static struct child start(unsigned value)
{
	struct child c;
	int both[2];
	char byte;

	NEED(pipe(both) == 0);
	c.go = both[1];
	c.pid = fork();
	NEED(c.pid >= 0);
	if (c.pid)
		return c;
	if (read(both[0], &byte, 1) != 1 || !is_filled(value))
		_exit(1);
	fill(77);
	_exit(is_filled(77) ? 0 : 2);
}

static void end(struct child c)
{
	int status;

	NEED(write(c.go, "", 1) == 1);
	NEED(waitpid(c.pid, &status, 0) == c.pid && status == 0);
}

/* --- whom it shares memory with ------------------------------------------- */

/* "PID (NAME) STATE PARENT", proc_pid_stat(5) */
static int is_pager(const char *pid)
{
	char path[300], name[64] = "";
	int parent = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (fscanf(f, "%*d (%63[^)]) %*c %d", name, &parent) != 2)
		parent = 0;
	fclose(f);
	return parent == getpid() && !strcmp(name, "cowfork-pager");
}

static int pagers(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	int n = 0;

	NEED(dir);
	while ((e = readdir(dir)))
		n += e->d_name[0] >= '1' && e->d_name[0] <= '9' && is_pager(e->d_name);
	closedir(dir);
	return n;
}

/* --- the ways ------------------------------------------------------------- */

static int part_uid(void)
{
	return setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setuid(NOBODY);
}

static int part_caps(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0 } };

	return capset(&header, none);
}

static int part_nnp(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL);
}

static int part_filter(void)
{
	struct sock_filter allow = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW };
	struct sock_fprog program = { 1, &allow };

	return prctl(PR_SET_SECCOMP, (unsigned long)SECCOMP_MODE_FILTER, &program, 0UL, 0UL);
}

static int part_chroot(void)
{
	return chroot(".");
}

/* EINVAL to who shares memory with another process. EPERM, ENOSPC: not on this machine. */
static int part_newuser(void)
{
	return unshare(CLONE_NEWUSER) && errno != EPERM && errno != ENOSPC && errno != ENOSYS;
}

static int part_fsuid(void)
{
	return setfsuid(NOBODY) < 0;
}

static int part_bound(void)
{
	return prctl(PR_CAPBSET_DROP, (unsigned long)CAP_SYS_TIME, 0UL, 0UL, 0UL);
}

#ifndef PR_SET_MEMORY_MERGE	/* Linux 6.4 */
#define PR_SET_MEMORY_MERGE 67
#endif

/* EINVAL: not with this kernel, which nobody asks before. */
static int part_merge(void)
{
	return prctl(PR_SET_MEMORY_MERGE, 1UL, 0UL, 0UL, 0UL) && errno != EINVAL;
}

/* Nothing is given up by that: the engine goes on. */
static int part_files(void)
{
	return unshare(CLONE_FILES | CLONE_FS);
}

static const struct way {
	const char *name;
	int (*part)(void);
} ways[] = {
	{ "uid", part_uid }, { "caps", part_caps }, { "nnp", part_nnp },
	{ "filter", part_filter }, { "chroot", part_chroot }, { "newuser", part_newuser },
	{ "fsuid", part_fsuid }, { "bound", part_bound }, { "merge", part_merge },
	{ "files", part_files },
};

int main(int argc, char **argv)
{
	const struct way *way = NULL;
	struct child first, second;

	for (size_t i = 0; argc == 3 && i < sizeof(ways) / sizeof(*ways); i++)
		if (!strcmp(ways[i].name, argv[2]))
			way = &ways[i];
	if (!way)
		return 99;
	for (unsigned i = 0; i < BLOCKS; i++)
		NEED((block[i] = malloc(BLOCK)));
	fill(1);
	first = start(1);
	NEED(pagers() == atoi(argv[1]));
	NEED(way->part() == 0);
	if (way->part != part_chroot)
		NEED(pagers() == (way->part == part_files ? atoi(argv[1]) : 0));
	fill(2);
	second = start(2);
	fill(3);
	end(first);
	end(second);
	NEED(is_filled(3));
	return 0;
}
