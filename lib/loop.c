/*
 * The ring watches by a multishot poll: armed once, it reports each change until
 * the kernel says that it ended. A ring that fails is given up for poll(2).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "loop.h"
#include "sys.h"

static int wait_by_poll(const struct loop *l, uint64_t timeout_ns)
{
	int ret = sys_poll_in(l->fd, timeout_ns);

	return ret == -EINTR ? 0 : ret;
}

#if HAVE_LIBURING

static void give_up(struct loop *l)
{
	io_uring_queue_exit(&l->ring);
	l->on_ring = 0;
}

/* A forked child must not have it: it would be a second user of the ring. */
static void open_ring(struct loop *l)
{
	if (io_uring_queue_init(4, &l->ring, 0) < 0)
		return;
	l->on_ring = 1;
	if (io_uring_ring_dontfork(&l->ring) < 0)
		give_up(l);
}

static int arm(struct loop *l)
{
	struct io_uring_sqe *sqe;

	if (l->armed)
		return 0;
	sqe = io_uring_get_sqe(&l->ring);
	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_multishot(sqe, l->fd, POLLIN);
	l->armed = 1;
	return 0;
}

/* 1: readable; 0: nothing; -errno. */
static int take_completions(struct loop *l)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;
	int ret = 0;

	io_uring_for_each_cqe(&l->ring, head, cqe) {
		n++;
		if (cqe->user_data == LIBURING_UDATA_TIMEOUT)
			continue;
		if (!(cqe->flags & IORING_CQE_F_MORE))
			l->armed = 0;
		if (ret >= 0)
			ret = cqe->res < 0 ? cqe->res : 1;
	}
	io_uring_cq_advance(&l->ring, n);
	return ret;
}

static int wait_on_ring(struct loop *l, uint64_t timeout_ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (int64_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long long)(timeout_ns % 1000000000u),
	};
	struct io_uring_cqe *cqe;
	int ret = arm(l);

	if (ret == 0)
		ret = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
	if (ret == -ETIME || ret == -EINTR)
		return 0;
	return ret < 0 ? ret : take_completions(l);
}

void loop_open(struct loop *l, int fd, int ring)
{
	memset(l, 0, sizeof(*l));
	l->fd = fd;
	if (ring)
		open_ring(l);
}

void loop_close(struct loop *l)
{
	if (l->on_ring)
		give_up(l);
}

int loop_wait(struct loop *l, uint64_t timeout_ns)
{
	int ret;

	if (l->on_ring) {
		ret = wait_on_ring(l, timeout_ns);
		if (ret >= 0)
			return ret;
		give_up(l);
	}
	return wait_by_poll(l, timeout_ns);
}

#else

void loop_open(struct loop *l, int fd, int ring)
{
	(void)ring;
	memset(l, 0, sizeof(*l));
	l->fd = fd;
}

void loop_close(struct loop *l)
{
	(void)l;
}

int loop_wait(struct loop *l, uint64_t timeout_ns)
{
	return wait_by_poll(l, timeout_ns);
}

#endif
