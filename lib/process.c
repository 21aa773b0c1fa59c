/*
 * The lock, and how a process learns that it is a forked child.
 *
 * A child made by a fork that the library saw runs process_fork_child(). One
 * that was made behind its back (a bare clone) has an empty birth page: the
 * page is MADV_WIPEONFORK. It is noticed at the next lock. Never by pid: a
 * vfork child has a pid of its own in its parent's memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "compat.h"
#include "fork.h"
#include "log.h"
#include "options.h"
#include "process.h"
#include "sys.h"

struct process process;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t signals_before;		/* of the thread that holds the mutex */
static _Atomic(uintptr_t) owner;	/* that thread, 0 for none */
static unsigned depth;			/* its nested locks */
static atomic_uint forking;		/* its nested forks */
static _Atomic(unsigned char) *birth;	/* reads BIRTH_WIPED in a new child */

enum { BIRTH_WIPED = 0, BIRTH_OK, BIRTH_BUSY };

static uintptr_t self(void)
{
	return (uintptr_t)pthread_self();
}

int process_forking(void)
{
	return atomic_load(&forking) != 0;
}

static int newborn(void)
{
	return birth && atomic_load(birth) == BIRTH_WIPED;
}

static void become_child(void)
{
	for (unsigned i = 0; i < atomic_load(&process.store_count); i++)
		if (process.stores[i] && !process.stores[i]->inherited)
			store_inherit(process.stores[i]);
	memset(&process.stats, 0, sizeof(process.stats));
	process.lock_future = 0;
	if (birth)
		atomic_store(birth, BIRTH_OK);
}

/* The page that an unseen fork wipes. Without it such children are not
 * noticed, which is one reason not to make a store; see store_open(). */
static int make_birth_page(void)
{
	size_t n = sys_page_size();
	long p;

	if (birth)
		return 1;
	p = sys_mmap(0, n, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sys_failed(p))
		return 0;
	if (sys_madvise((uintptr_t)p, n, MADV_WIPEONFORK) < 0) {
		sys_munmap((uintptr_t)p, n);
		return 0;
	}
	birth = (_Atomic(unsigned char) *)p;
	atomic_store(birth, BIRTH_OK);
	return 1;
}

/* Once in a process image, with the lock held. */
static void start(void)
{
	static int options_read, birth_tried;

	if (!options_read)
		options_read = options_read_environment();
	if (!birth_tried && !make_birth_page())
		process.native_for_good = COW_REASON_ADDRESS;
	birth_tried = 1;
}

/* The atfork handlers register as early as possible, so that ours run last of
 * all prepare handlers (reverse order of registration). Without the lock:
 * registering may allocate, and an allocator may map memory through us. */
static void register_once(void)
{
	static atomic_flag registered = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&registered) && fork_register() != 0)
		process.native_for_good = COW_REASON_ADDRESS;
}

/* A child made unseen while another thread held the mutex finds it locked by
 * nobody; whoever comes first makes it anew, others wait for that. */
static void recover_child(void)
{
	unsigned char wiped = BIRTH_WIPED;

	if (!birth || atomic_load(birth) == BIRTH_OK)
		return;
	if (atomic_compare_exchange_strong(birth, &wiped, BIRTH_BUSY)) {
		mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
		atomic_store(&owner, 0);
		atomic_store(&forking, 0);
		depth = 0;
		become_child();
	}
	while (atomic_load(birth) != BIRTH_OK)
		sched_yield();
}

void process_lock(void)
{
	uint64_t before;

	if (atomic_load(&owner) == self() && !newborn()) {
		depth++;
		return;
	}
	register_once();
	sys_block_signals(&before);
	recover_child();
	pthread_mutex_lock(&mutex);
	atomic_store(&owner, self());
	signals_before = before;
	start();
}

void process_unlock(void)
{
	uint64_t before = signals_before;

	if (depth) {
		depth--;
		return;
	}
	atomic_store(&owner, 0);
	pthread_mutex_unlock(&mutex);
	sys_restore_signals(&before);
}

void process_fork_begin(void)
{
	process_lock();
	atomic_fetch_add(&forking, 1);
}

void process_fork_parent(void)
{
	atomic_fetch_sub(&forking, 1);
	process_unlock();
}

void process_fork_child(void)
{
	if (!birth || newborn())
		become_child();
	process_fork_parent();
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

void process_native(enum cow_reason reason)
{
	process.stats.native[reason]++;
}
