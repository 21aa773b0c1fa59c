/*
 * 04-redis-write: SETs that are due at their time whatever the server does, and
 * how long they took, during saves and otherwise. One thread serves all connections.
 *
 * SPDX-License-Identifier: MIT
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "04-redis-load.h"

#define PENDING 65536		/* unanswered SETs of a connection, at most */
#define SLOWEST 8000000		/* microseconds that a histogram tells apart */

static struct conn {
	int fd;
	uint64_t sent, acked, due[PENDING];
} conn[CONNS_MAX];

static struct histogram {
	uint32_t at[SLOWEST];
	uint64_t sets, max, us;
} outside, during, *current = &outside;

static volatile sig_atomic_t signalled;

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void send_set(struct conn *c, uint64_t due)
{
	static char data[COMMAND_MAX];
	uint64_t k = ++c->sent;

	c->due[k % PENDING] = due;
	put(c->fd, data, make_set(data, key_of((uint64_t)(c - conn), k), k));
}

/* Send what is due, and tell when the next one is. */
static uint64_t send_due(uint64_t start, uint64_t rate)
{
	static uint64_t turn;
	uint64_t now = now_us(), due;

	for (struct conn *c = conn; !rate && c < conn + conns; c++)
		if (c->sent == c->acked)
			send_set(c, now);
	for (; rate; turn++) {
		struct conn *c = conn + turn % conns;

		due = start + turn * 1000000 / rate;
		if (due > now)
			return due;
		if (c->sent - c->acked == PENDING)
			break;
		send_set(c, due);
	}
	return now + 100000;
}

static void take_answers(struct conn *c)
{
	uint64_t n = get_answers(c->fd), now = now_us();

	for (; n > 0; n--) {
		uint64_t us = now - c->due[++c->acked % PENDING];

		current->at[us < SLOWEST ? us : SLOWEST - 1]++;
		current->sets++;
		if (us > current->max)
			current->max = us;
	}
}

static void wait_until(uint64_t until)
{
	struct pollfd fds[CONNS_MAX];
	uint64_t now = now_us(), us = until > now ? until - now : 0;
	struct timespec ts = { (time_t)(us / 1000000), (long)(us % 1000000) * 1000 };

	for (uint64_t i = 0; i < conns; i++)
		fds[i] = (struct pollfd){ .fd = conn[i].fd, .events = POLLIN };
	if (ppoll(fds, conns, &ts, NULL) <= 0)	/* or a signal */
		return;
	for (uint64_t i = 0; i < conns; i++)
		if (fds[i].revents)
			take_answers(conn + i);
}

static uint64_t percentile(const struct histogram *h, double part)
{
	uint64_t sum = 0, us = 0;

	while (us < SLOWEST - 1 && (double)(sum += h->at[us]) < part * (double)h->sets)
		us++;
	return us < h->max ? us : h->max;
}

static void report(const char *what, const struct histogram *h)
{
	printf("%s_ms %lu\n", what, h->us / 1000);
	printf("%s_sets_per_s %.0f\n", what, (double)h->sets * 1e6 / (double)h->us);
	printf("%s_p50_us %lu\n", what, percentile(h, 0.5));
	printf("%s_p99_us %lu\n", what, percentile(h, 0.99));
	printf("%s_p99.9_us %lu\n", what, percentile(h, 0.999));
	printf("%s_max_us %lu\n", what, h->max);
}

/* Only what was used: clearing all would keep SETs waiting. */
static void clear(struct histogram *h)
{
	memset(h->at, 0, (h->max < SLOWEST ? h->max + 1 : SLOWEST) * sizeof(h->at[0]));
	h->sets = h->max = h->us = 0;
}

static uint64_t all_acked(void)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < conns; i++)
		sum += conn[i].acked;
	return sum;
}

static void note(int sig)
{
	signalled = sig;
}

/* A save begins or ends, or (SIGTERM) that was all. */
static void change(int sig)
{
	static uint64_t since, save;
	uint64_t now = now_us();
	char name[32];

	current->us += since ? now - since : 0;
	since = now;
	save += sig == SIGUSR1;
	snprintf(name, sizeof(name), "save%lu", save);
	if (sig == SIGUSR1)
		printf("%s_low %lu\n", name, all_acked());
	if (sig == SIGUSR2) {
		report(name, &during);
		clear(&during);
	}
	if (sig == SIGTERM)
		report("outside", &outside);
	current = sig == SIGUSR1 ? &during : &outside;
	fflush(stdout);
}

void write_until_told(uint64_t rate)
{
	static const int which[] = { SIGUSR1, SIGUSR2, SIGTERM };
	struct sigaction action = { .sa_handler = note, .sa_flags = SA_RESTART };
	uint64_t start;

	for (int i = 0; i < 3; i++)
		sigaction(which[i], &action, NULL);
	prctl(PR_SET_TIMERSLACK, 1000);
	for (uint64_t i = 0; i < conns; i++)
		conn[i].fd = dial();
	change(0);
	start = now_us();
	while (signalled != SIGTERM) {
		if (signalled)
			change(signalled);
		signalled = 0;
		wait_until(send_due(start, rate));
	}
	change(SIGTERM);
	for (uint64_t i = 0; i < conns; i++)
		while (conn[i].acked < conn[i].sent)
			take_answers(conn + i);
	printf("written %lu\n", all_acked());
}
