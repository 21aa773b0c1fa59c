/*
 * Privileges that a program gives up, and namespaces that it enters. The pager of the
 * in-place engine (lib/pager.h) shares its memory, but not what becomes of its privileges: so
 * it ends before. unshare(2) also refuses a new user namespace to who shares memory.
 *
 * The C library's own functions do the work: they see to it that all threads follow.
 *
 * SPDX-License-Identifier: MIT
 */
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <unistd.h>

#include "in-place.h"
#include "preload.h"

int capset(cap_user_header_t header, const cap_user_data_t data);	/* in no header */

/* What keeps the file system, descriptors and semaphores apart changes no privilege. */
#define HARMLESS (CLONE_FILES | CLONE_FS | CLONE_SYSVSEM)

static int parted(int parting, int ret)
{
	in_place_parted(parting);
	return ret;
}

INTERPOSED int setuid(uid_t uid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setuid(uid));
}

INTERPOSED int setgid(gid_t gid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setgid(gid));
}

INTERPOSED int seteuid(uid_t uid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->seteuid(uid));
}

INTERPOSED int setegid(gid_t gid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setegid(gid));
}

INTERPOSED int setreuid(uid_t real, uid_t effective)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setreuid(real, effective));
}

INTERPOSED int setregid(gid_t real, gid_t effective)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setregid(real, effective));
}

INTERPOSED int setresuid(uid_t real, uid_t effective, uid_t saved)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setresuid(real, effective, saved));
}

INTERPOSED int setresgid(gid_t real, gid_t effective, gid_t saved)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setresgid(real, effective, saved));
}

INTERPOSED int setfsuid(uid_t uid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setfsuid(uid));
}

INTERPOSED int setfsgid(gid_t gid)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setfsgid(gid));
}

INTERPOSED int setgroups(size_t count, const gid_t *groups)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setgroups(count, groups));
}

INTERPOSED int initgroups(const char *user, gid_t group)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->initgroups(user, group));
}

INTERPOSED int capset(cap_user_header_t header, const cap_user_data_t data)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->capset(header, data));
}

INTERPOSED int chroot(const char *path)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->chroot(path));
}

INTERPOSED int unshare(int flags)
{
	int parting = flags & ~HARMLESS ? in_place_part() : 0;

	return parted(parting, preload_real()->unshare(flags));
}

INTERPOSED int setns(int fd, int type)
{
	int parting = in_place_part();

	return parted(parting, preload_real()->setns(fd, type));
}
