/*
 * Thread stacks never live in the store: the kernel wakes pthread_join(3)
 * through a futex in the stack by its shared key (kernel/fork.c, mm_release),
 * which is another one once the memory is frozen.
 *
 * SPDX-License-Identifier: MIT
 */
#include "preload.h"

INTERPOSED int pthread_attr_setstack(pthread_attr_t *attr, void *stack, size_t size)
{
	preload_detach(stack, size);
	return preload_real()->setstack(attr, stack, size);
}
