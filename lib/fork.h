/*
 * The fork itself: atfork handlers and what is measured around them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_FORK_H
#define COWFORK_FORK_H

/* Register the atfork handlers. 0 or an errno, as pthread_atfork(3). */
int fork_register(void);

#endif
