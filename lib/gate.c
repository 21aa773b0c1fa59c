/*
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <sys/single_threaded.h>

#include "gate.h"
#include "options.h"
#include "process.h"
#include "sys.h"

int gate_is_needed(void)
{
	return !__libc_single_threaded && options_use_store();
}

#define CLOSE_NS 2000000u

void gate_enter(uint64_t *ret_signals)
{
	struct gate *g = &process.life->gate;

	if (ret_signals)
		sys_block_signals(ret_signals);
	for (;;) {
		atomic_fetch_add(&g->inside, 1);
		if (!atomic_load(&g->closed))
			return;
		atomic_fetch_sub(&g->inside, 1);
		while (atomic_load(&g->closed))
			sys_futex_wait(&g->closed, 1, UINT64_MAX);
	}
}

void gate_leave(const uint64_t *signals)
{
	atomic_fetch_sub(&process.life->gate.inside, 1);
	if (signals)
		sys_restore_signals(signals);
}

int gate_close(void)
{
	struct gate *g = &process.life->gate;

	atomic_store(&g->closed, 1);
	for (uint64_t end = sys_now_ns() + CLOSE_NS; atomic_load(&g->inside);) {
		if (process_waited_for() || sys_now_ns() > end) {
			gate_open();
			return -EINPROGRESS;
		}
		sched_yield();
	}
	return 0;
}

void gate_open(void)
{
	atomic_store(&process.life->gate.closed, 0);
	sys_futex_wake(&process.life->gate.closed);
}
