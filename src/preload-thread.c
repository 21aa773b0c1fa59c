/*
 * Memory that the kernel wakes threads through by a shared futex never lives in
 * the store: such a futex is known by the page's owner, which is the store's file
 * while memory is owned, and the process once it is frozen, so a thread that went
 * to sleep before a freeze would not be woken after it. That is a thread's stack
 * (pthread_join(3), kernel/fork.c, mm_release), and every object of the C library
 * that is process-shared or robust. Private futexes know the process and address.
 *
 * SPDX-License-Identifier: MIT
 */
#include <semaphore.h>

#include "gate.h"
#include "preload.h"
#include "process.h"

INTERPOSED int pthread_attr_setstack(pthread_attr_t *attr, void *stack, size_t size)
{
	preload_detach(stack, size);
	return preload_real()->setstack(attr, stack, size);
}

INTERPOSED int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
{
	int shared = 0, robust = 0;

	if (attr && (pthread_mutexattr_getpshared(attr, &shared) || shared ||
		     pthread_mutexattr_getrobust(attr, &robust) || robust))
		preload_detach(mutex, sizeof(*mutex));
	return preload_real()->mutex_init(mutex, attr);
}

INTERPOSED int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr)
{
	int shared = 0;

	if (attr && (pthread_condattr_getpshared(attr, &shared) || shared))
		preload_detach(cond, sizeof(*cond));
	return preload_real()->cond_init(cond, attr);
}

INTERPOSED int pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attr)
{
	int shared = 0;

	if (attr && (pthread_rwlockattr_getpshared(attr, &shared) || shared))
		preload_detach(lock, sizeof(*lock));
	return preload_real()->rwlock_init(lock, attr);
}

INTERPOSED int pthread_barrier_init(pthread_barrier_t *barrier,
				    const pthread_barrierattr_t *attr, unsigned count)
{
	int shared = 0;

	if (attr && (pthread_barrierattr_getpshared(attr, &shared) || shared))
		preload_detach(barrier, sizeof(*barrier));
	return preload_real()->barrier_init(barrier, attr, count);
}

INTERPOSED int sem_init(sem_t *sem, int shared, unsigned value)
{
	if (shared)
		preload_detach(sem, sizeof(*sem));
	return preload_real()->sem_init(sem, shared, value);
}

/* The C library unmaps stacks unseen; how large they are tells where they may be. */
INTERPOSED int pthread_attr_setstacksize(pthread_attr_t *attr, size_t size)
{
	size_t most = atomic_load(&process.stack_most);

	while (size > most && !atomic_compare_exchange_weak(&process.stack_most, &most, size))
		;
	return preload_real()->setstacksize(attr, size);
}

/* A control block must not come to lie in what the mover has lifted. The signal mask is
 * the new thread's too, so it is left alone. */
INTERPOSED int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			      void *(*fn)(void *), void *arg)
{
	const struct real *real = preload_real();
	int ret;

	gate_enter(NULL);
	ret = real->thread_create(thread, attr, fn, arg);
	gate_leave(NULL);
	return ret;
}

INTERPOSED int thrd_create(thrd_t *thread, thrd_start_t fn, void *arg)
{
	const struct real *real = preload_real();
	int ret;

	gate_enter(NULL);
	ret = real->thrd_create(thread, fn, arg);
	gate_leave(NULL);
	return ret;
}
