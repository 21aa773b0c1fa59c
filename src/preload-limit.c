/*
 * Limits and sandboxes that a program puts on itself. A store reserves address
 * space many times the size of memory, which RLIMIT_AS would count; a system
 * call filter may refuse, or kill for, what a freeze needs. So before one takes
 * hold, memory is frozen for good and the reservations go.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cowfork.h"
#include "freeze.h"
#include "in-place.h"
#include "preload.h"
#include "process.h"
#include "sys.h"

static void make_room(pid_t pid, int resource, const struct rlimit64 *new)
{
	struct rlimit64 limit;

	if ((resource != RLIMIT_AS && resource != RLIMIT_DATA) || !new ||
	    (pid && pid != getpid()) || process_borrowed() ||
	    sys_peek(&limit, new, sizeof(limit)) < 0 || limit.rlim_cur == RLIM64_INFINITY)
		return;
	process_lock();
	(void)freeze_retire();
	process_unlock();
}

static int limit_by(pid_t pid, int resource, const struct rlimit64 *new,
		    struct rlimit64 *old)
{
	make_room(pid, resource, new);
	return (int)syscall(SYS_prlimit64, pid, resource, new, old);
}

/* On 64-bit machines struct rlimit and struct rlimit64 are the same. */
INTERPOSED int prlimit64(pid_t pid, enum __rlimit_resource resource,
			 const struct rlimit64 *new, struct rlimit64 *old)
{
	return limit_by(pid, (int)resource, new, old);
}

INTERPOSED int prlimit(pid_t pid, enum __rlimit_resource resource,
		       const struct rlimit *new, struct rlimit *old)
{
	return limit_by(pid, (int)resource, (const struct rlimit64 *)new,
			(struct rlimit64 *)old);
}

INTERPOSED int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *new)
{
	return limit_by(0, (int)resource, new, NULL);
}

INTERPOSED int setrlimit(__rlimit_resource_t resource, const struct rlimit *new)
{
	return limit_by(0, (int)resource, (const struct rlimit64 *)new, NULL);
}

#ifndef PR_SET_MEMORY_MERGE	/* Linux 6.4 */
#define PR_SET_MEMORY_MERGE 67
#endif

/* PR_SET_NO_NEW_PRIVS is what comes before a filter, and all that libseccomp does
 * by prctl(2). New memory then stays native: a call that the filter kills for must
 * not be tried. */
INTERPOSED int prctl(int option, ...)
{
	unsigned long arg[4];
	int parting = 0, ret;
	va_list args;

	va_start(args, option);
	for (int i = 0; i < 4; i++)
		arg[i] = va_arg(args, unsigned long);
	va_end(args);
	if (option == PR_CAPBSET_DROP || option == PR_SET_SECUREBITS)
		parting = in_place_part();
	if (option == PR_SET_MEMORY_MERGE)	/* that takes the protection away (mm/ksm.c) */
		parting = in_place_end(COW_REASON_CALL);
	if ((option == PR_SET_NO_NEW_PRIVS || option == PR_SET_SECCOMP) &&
	    !process_borrowed()) {
		mover_stop();	/* a filter may be for its system calls too */
		parting = in_place_part();
		process_lock();
		if (!process.native_for_good)
			process.native_for_good = COW_REASON_SANDBOX;
		(void)freeze_retire();
		process_unlock();
	}
	ret = (int)syscall(SYS_prctl, option, arg[0], arg[1], arg[2], arg[3]);
	in_place_parted(parting);
	return ret;
}
