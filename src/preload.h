/*
 * The preload runtime: the C library's names, served by libcowfork. It keeps no
 * state about memory of its own.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PRELOAD_H
#define COWFORK_PRELOAD_H

#include <linux/capability.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <threads.h>

#define INTERPOSED __attribute__((visibility("default")))

/* The C library's own functions, for those that ours call. Bound in the
 * constructor, or by whoever needs one first. */
struct real {
	pid_t (*fork)(void);
	pid_t (*fork_bare)(void);	/* _Fork, glibc 2.34; NULL before */
	int (*clone)(int (*fn)(void *), void *stack, int flags, void *arg, ...);
	int (*setstack)(pthread_attr_t *attr, void *stack, size_t size);
	int (*setstacksize)(pthread_attr_t *attr, size_t size);
	int (*mutex_init)(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
	int (*cond_init)(pthread_cond_t *cond, const pthread_condattr_t *attr);
	int (*rwlock_init)(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attr);
	int (*barrier_init)(pthread_barrier_t *barrier,
			    const pthread_barrierattr_t *attr, unsigned count);
	int (*sem_init)(sem_t *sem, int shared, unsigned value);
	int (*thread_create)(pthread_t *thread, const pthread_attr_t *attr,
			     void *(*fn)(void *), void *arg);
	int (*thrd_create)(thrd_t *thread, thrd_start_t fn, void *arg);
	int (*brk)(void *end);
	void *(*sbrk)(intptr_t increment);
	int (*trim)(size_t pad);
	int (*mallopt)(int param, int value);
	int (*setuid)(uid_t uid);
	int (*setgid)(gid_t gid);
	int (*seteuid)(uid_t uid);
	int (*setegid)(gid_t gid);
	int (*setreuid)(uid_t ruid, uid_t euid);
	int (*setregid)(gid_t rgid, gid_t egid);
	int (*setresuid)(uid_t ruid, uid_t euid, uid_t suid);
	int (*setresgid)(gid_t rgid, gid_t egid, gid_t sgid);
	int (*setfsuid)(uid_t uid);
	int (*setfsgid)(gid_t gid);
	int (*setgroups)(size_t count, const gid_t *groups);
	int (*initgroups)(const char *user, gid_t group);
	int (*capset)(cap_user_header_t header, const cap_user_data_t data);
	int (*chroot)(const char *path);
	int (*unshare)(int flags);
	int (*setns)(int fd, int type);
};

const struct real *preload_real(void);

/* Leave the pages of an object to the kernel for good, contents kept. */
void preload_detach(void *addr, size_t len);

/* Bind malloc's functions; tell the library if they are glibc's. */
void preload_bind_malloc(void);

/* Free what a fork of another thread's has put off. */
void preload_free_put_off(void);

/* Take sanitizers' runtimes out of LD_PRELOAD, for what the program starts. */
void preload_drop_sanitizers(void);

/* Install the log callback before the library reads its options. Cheap once
 * done; called from wherever a program can enter first. */
void preload_start(void);

#endif
