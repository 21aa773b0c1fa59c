/*
 * The fork itself: atfork handlers and what is measured around them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_FORK_H
#define COWFORK_FORK_H

#include <sys/types.h>

/* Register the atfork handlers. 0 or an errno, as pthread_atfork(3). */
int fork_register(void);

/* Have forks cost above a flat one what a thaw of all will cost? */
int fork_thaw_pays(void);

/* All was thawed: forks are flat again. */
void fork_thawed(void);

/* cow_fork() by this fork of the C library. */
pid_t fork_by(pid_t (*libc_fork)(void));

#endif
