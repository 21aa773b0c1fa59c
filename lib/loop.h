/*
 * Waiting for one descriptor to become readable, or for time to pass: on an
 * io_uring, or by poll(2) where there is none. Belongs to one thread.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_LOOP_H
#define COWFORK_LOOP_H

#include <stdint.h>
#if HAVE_LIBURING
#include <liburing.h>
#endif

struct loop {
	int fd;			/* nonblocking */
	int on_ring;		/* else by poll(2) */
	int armed;		/* the ring watches the descriptor */
#if HAVE_LIBURING
	struct io_uring ring;
#endif
};

/* Never fails: without a ring it polls. ring 0 asks for that. */
void loop_open(struct loop *l, int fd, int ring);
void loop_close(struct loop *l);

/* 1: readable, and it was not before; read until it says EAGAIN. 0: the time has
 * passed, or a signal came. -errno. */
int loop_wait(struct loop *l, uint64_t timeout_ns);

#endif
