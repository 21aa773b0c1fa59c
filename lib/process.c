/*
 * The lock, and how a process learns that it is a forked child: at its first
 * lock, when it finds its life page wiped. Until then a child pays nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "fork.h"
#include "options.h"
#include "process.h"
#include "sys.h"

enum { LIFE_NEW = 0, LIFE_KNOWN, LIFE_BUSY };

/* Used where no page can be had that the kernel wipes. Then no store is ever
 * made, and only the lock and the counters are of use. */
static struct life plain_life = { .known = LIFE_KNOWN };

struct process process = { .life = &plain_life };

/* The forking thread's signal mask, for its child, which has lost the life
 * page. Written only when it changes, to save the page from being copied. */
static uint64_t signals_for_child;

IN_CHILD int process_is_plain(void)
{
	return process.life == &plain_life;
}

static uintptr_t self(void)
{
	return (uintptr_t)pthread_self();
}

static int newborn(void)
{
	return atomic_load(&process.life->known) != LIFE_KNOWN;
}

int process_forking(void)
{
	return atomic_load(&process.life->forking) != 0;
}

int process_waited_for(void)
{
	return atomic_load(&process.life->waiting) != 0;
}

int process_borrowed(void)
{
	return process.life->pid && process.life->pid != sys_getpid();
}

/* Once in a process image, without the lock. The atfork handlers register as
 * early as possible, so that ours run last of all prepare handlers (reverse
 * order of registration). Registering may allocate, and an allocator may map
 * memory through us: that call goes on, other threads wait. */
static void start(void)
{
	static atomic_int done;
	static _Atomic(uintptr_t) starter;
	uintptr_t nobody = 0;
	long p;

	/* read first: a write after a fork copies the page */
	if (atomic_load(&done) || atomic_load(&starter) == self())
		return;
	if (!atomic_compare_exchange_strong(&starter, &nobody, self())) {
		while (!atomic_load(&done))
			sched_yield();
		return;
	}
	p = sys_mmap(0, sys_page_size(), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sys_failed(p) ||
	    sys_madvise((uintptr_t)p, sys_page_size(), MADV_WIPEONFORK) < 0) {
		process.native_for_good = COW_REASON_ADDRESS;
	} else {
		((struct life *)p)->pid = sys_getpid();
		atomic_store(&((struct life *)p)->known, LIFE_KNOWN);
		process.life = (struct life *)p;
	}
	if (fork_register() != 0)
		process.native_for_good = COW_REASON_ADDRESS;
	atomic_store(&done, 1);
}

static atomic_int options_read;

/* With the lock held, until the C library has set environ. */
static void read_options(void)
{
	if (!atomic_load(&options_read) && options_read_environment())
		atomic_store(&options_read, 1);
}

/* Early, so that the program's own atfork handlers come after ours. The first
 * call does it where another constructor is earlier still. */
__attribute__((constructor(101))) static void begin(void)
{
	start();
}

void process_start(void)
{
	if (atomic_load(&options_read))
		return;
	process_lock();
	process_unlock();
}

/* The first thread here does it, others that the child made meanwhile wait.
 * What the parent owned does not exist here, what it froze is inherited. */
static void become_child(void)
{
	unsigned char new = LIFE_NEW;

	if (atomic_compare_exchange_strong(&process.life->known, &new, LIFE_BUSY)) {
		for (unsigned i = 0; i < atomic_load(&process.store_count); i++)
			store_inherit(process.stores[i]);
		process.lock_future = 0;
		atomic_store(&process.in_use, 0);
		process.life->pid = sys_getpid();
		atomic_store(&process.life->known, LIFE_KNOWN);
	}
	while (newborn())
		sched_yield();
}

/* What comes before locking. 1: this thread holds the lock already. */
static int approach(void)
{
	uint64_t before;

	start();
	if (newborn()) {
		sys_block_signals(&before);
		become_child();
		sys_restore_signals(&before);
	}
	if (atomic_load(&process.life->owner) != self())
		return 0;
	process.life->depth++;
	return 1;
}

static void locked(uint64_t signals)
{
	atomic_store(&process.life->owner, self());
	process.life->signals = signals;
	/* a probe of the mover's is no descendant: it was killed, and dies now */
	if (process.life->mover.probe)
		sys_probe_wait(process.life->mover.probe);
}

void process_lock_bare(void)
{
	uint64_t before;

	if (approach())
		return;
	sys_block_signals(&before);
	/* no trylock before it: this is where a sanitizer that interposes it begins */
	atomic_fetch_add(&process.life->waiting, 1);
	pthread_mutex_lock(&process.life->mutex);
	atomic_fetch_sub(&process.life->waiting, 1);
	locked(before);
}

void process_lock(void)
{
	process_lock_bare();
	read_options();
}

int process_lock_unless_forking(void)
{
	int held;
	uint64_t before;

	if (approach())
		return 1;
	sys_block_signals(&before);
	atomic_fetch_add(&process.life->waiting, 1);
	while ((held = !pthread_mutex_trylock(&process.life->mutex)) == 0 &&
	       !process_forking())
		sched_yield();
	atomic_fetch_sub(&process.life->waiting, 1);
	if (!held) {
		sys_restore_signals(&before);
		return 0;
	}
	locked(before);
	read_options();
	return 1;
}

void process_unlock(void)
{
	struct life *life = process.life;
	uint64_t before = life->signals;

	if (life->depth) {
		life->depth--;
		return;
	}
	atomic_store(&life->owner, 0);
	pthread_mutex_unlock(&life->mutex);
	sys_restore_signals(&before);
}

int process_fork_begin(void)
{
	/* a fork before the first use reads no options */
	process_lock_bare();
	if (atomic_fetch_add(&process.life->forking, 1))
		return 0;
	if (signals_for_child != process.life->signals)
		signals_for_child = process.life->signals;
	return 1;
}

void process_fork_parent(void)
{
	atomic_fetch_sub(&process.life->forking, 1);
	process_unlock();
}

/* The lock was wiped open; plain_life was not, and is still held. Nothing is
 * written here, and the wiped page not read: each would cost a page fault. */
IN_CHILD void process_fork_child(void)
{
	if (process_is_plain()) {
		memset(&plain_life.stats, 0, sizeof(plain_life.stats));
		process_fork_parent();
	} else {
		sys_restore_signals(&signals_for_child);
	}
}

struct store *process_store_at(uintptr_t addr, size_t len)
{
	struct store *found = NULL;
	unsigned n = atomic_load(&process.store_count);

	for (unsigned i = 0; i < n; i++) {
		struct store *s = process.stores[i];

		if (addr < s->base + s->size && addr + len > s->base &&
		    (!found || s->base < found->base))
			found = s;
	}
	return found;
}

struct store *process_next_window(uintptr_t *start, uintptr_t end, uintptr_t *ret_from)
{
	struct store *s = *start < end ? process_store_at(*start, end - *start) : NULL;

	if (!s)
		return NULL;
	*ret_from = *start > s->base ? *start : s->base;
	*start = end < s->base + s->size ? end : s->base + s->size;
	return s;
}

void process_native(enum cow_reason reason)
{
	process.life->stats.native[reason]++;
}
