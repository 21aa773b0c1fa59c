/*
 * The forks. libcowfork's atfork handlers do the work inside fork(), daemon()
 * and forkpty() alike; the wrapper of fork() is there to fail where a handler
 * cannot. _Fork() and clone() run no handlers, so they are called here around
 * the real ones. vfork(), posix_spawn() and what is made of them share memory
 * until exec and need nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <unistd.h>

#include "compat.h"
#include "cowfork.h"
#include "fork.h"
#include "preload.h"

INTERPOSED IN_CHILD pid_t fork(void)
{
	pid_t pid = fork_by(preload_real()->fork);

	if (pid)
		preload_free_put_off();
	return pid;
}

static pid_t fork_bare(void)
{
	const struct real *real = preload_real();

	if (real->fork_bare)
		return real->fork_bare();
	errno = ENOSYS;
	return -1;
}

INTERPOSED IN_CHILD pid_t _Fork(void)
{
	int ret = cow_fork_enter(), failed;
	pid_t pid;

	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	pid = fork_bare();
	failed = errno;
	if (pid == 0)
		cow_fork_child();
	else
		cow_fork_parent();
	errno = failed;
	return pid;
}

/* What the child of a clone starts with. It lies on the caller's stack, of
 * which the child has a copy. */
struct start {
	int (*fn)(void *);
	void *arg;
};

IN_CHILD static int start_child(void *arg)
{
	struct start start = *(struct start *)arg;

	cow_fork_child();
	return start.fn(start.arg);
}

INTERPOSED int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	struct start start = { fn, arg };
	const struct real *real = preload_real();
	pid_t *parent_tid, *child_tid;
	int ret, failed;
	va_list args;
	void *tls;

	va_start(args, arg);
	parent_tid = va_arg(args, pid_t *);
	tls = va_arg(args, void *);
	child_tid = va_arg(args, pid_t *);
	va_end(args);
	if (flags & CLONE_VM || !fn)
		return real->clone(fn, stack, flags, arg, parent_tid, tls, child_tid);
	ret = cow_fork_enter();
	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	ret = real->clone(start_child, stack, flags, &start, parent_tid, tls, child_tid);
	failed = errno;
	cow_fork_parent();
	errno = failed;
	return ret;
}
