/*
 * Finding the C library's functions behind ours. dlsym(3) may allocate, so it
 * is never called from a memory call, only from the constructor and the forks.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "preload.h"

static struct real real;

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

/* ISO C has no conversion from void * to a function pointer; POSIX has. */
#define BIND(slot, name) (*(void **)(&real.slot) = next(name))

const struct real *preload_real(void)
{
	if (real.fork)
		return &real;
	BIND(clone, "clone");
	BIND(setstack, "pthread_attr_setstack");
	BIND(setstacksize, "pthread_attr_setstacksize");
	BIND(mutex_init, "pthread_mutex_init");
	BIND(cond_init, "pthread_cond_init");
	BIND(rwlock_init, "pthread_rwlock_init");
	BIND(barrier_init, "pthread_barrier_init");
	BIND(sem_init, "sem_init");
	BIND(thread_create, "pthread_create");
	BIND(thrd_create, "thrd_create");
	BIND(brk, "brk");
	BIND(sbrk, "sbrk");
	BIND(trim, "malloc_trim");
	BIND(mallopt, "mallopt");
	BIND(setuid, "setuid");
	BIND(setgid, "setgid");
	BIND(seteuid, "seteuid");
	BIND(setegid, "setegid");
	BIND(setreuid, "setreuid");
	BIND(setregid, "setregid");
	BIND(setresuid, "setresuid");
	BIND(setresgid, "setresgid");
	BIND(setfsuid, "setfsuid");
	BIND(setfsgid, "setfsgid");
	BIND(setgroups, "setgroups");
	BIND(initgroups, "initgroups");
	BIND(capset, "capset");
	BIND(chroot, "chroot");
	BIND(unshare, "unshare");
	BIND(setns, "setns");
	BIND(fork_bare, "_Fork");
	BIND(fork, "fork");
	if (!real.fork || !real.clone) {
		static const char text[] = "cowfork: no fork in the C library?\n";

		(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
		abort();
	}
	return &real;
}
