/*
 * The program's side of the in-place engine: what is armed and when. When it is: by the
 * policy of adoption (adopt-when.c), for arming costs about what one native fork costs. When
 * it is no more: where serving has cost more than page tables would have.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include "adopt-when.h"
#include "candidate.h"
#include "compat.h"
#include "in-place.h"
#include "kept.h"
#include "log.h"
#include "memory.h"
#include "options.h"
#include "pager.h"
#include "process.h"
#include "procfs.h"
#include "store.h"
#include "sys.h"

#define SAVED_NS_PER_KIB 18u	/* a fork and the child's end: 18 ms a GiB */
#define PATIENCE_NS 50000000u	/* above which losses count */
#define NEAR ((uintptr_t)8 << 10)	/* a control block */

static const uintptr_t ALL = UINTPTR_MAX & ~(uintptr_t)4095;

int in_place_wanted(void)
{
	return options.engine == COW_ENGINE_IN_PLACE;
}

uint64_t in_place_bytes(void)
{
	return process.life->pager.it ? areas_bytes() : 0;
}

void in_place_tame(void)
{
	if (!in_place_wanted() || !process.malloc_tamed || atomic_load(&process.trim_tamed))
		return;
	mallopt(M_TRIM_THRESHOLD, -1);
	atomic_store(&process.trim_tamed, 1);
}

/* --- arm and release ---------------------------------------------------- */

static enum cow_reason reason_of(int error)
{
	switch (error) {
	case -EPIPE: return COW_REASON_PAGER;
	case -ENOMEM: return COW_REASON_MAPS;
	case -EBUSY: return COW_REASON_KIND;
	default: return COW_REASON_CALL;
	}
}

static int why_not(const struct adopt_what *what, struct candidates *ret_found)
{
	int why = pager_why_not();

	if (why)
		return why;
	if (sys_memory_merges())
		return COW_REASON_CALL;
	if (memory_may_be_pinned())
		return COW_REASON_PINNED;
	if (process.lock_future)
		return COW_REASON_LOCKED;
	if (candidates_find(ret_found, what->from, what->to, what->min) < 0)
		return COW_REASON_CALL;
	return COW_REASON_NONE;
}

/* The library's variables lie in two places, where it is part of a program. */
static char in_bss;

static int holds(const struct candidate *c, const void *what)
{
	return (uintptr_t)what >= c->start && (uintptr_t)what < c->end;
}

/* What the kernel writes to at a thread's end does not wait (fs/userfaultfd.c, PF_EXITING);
 * the pager must not write to what it protects; and the C library unmaps an arena's heap
 * unseen when all of it is free. */
static int is_fit(const struct candidate *c)
{
	return !holds(c, &process) && !holds(c, &in_bss) &&
	       !holds(c, __builtin_frame_address(0)) &&
	       !candidate_has_arena(c->start, c->end) && !adopt_may_be_stack(c->start);
}

/* The larger part of it, on one side of a thread's control block. The first large block of a
 * program lies right below that of its first thread, often in one mapping with it. */
static int keep_off(void *arg, uintptr_t block)
{
	uintptr_t page = sys_page_size(), low = (block - NEAR) & ~(page - 1);
	uintptr_t high = (block + NEAR + page - 1) & ~(page - 1);
	struct candidate *c = arg;

	if (!block)	/* it begins just now, or ends, or has none */
		return -ESRCH;
	if (block - NEAR >= c->end || block + NEAR <= c->start)
		return 0;
	if (low > c->start && (high >= c->end || low - c->start >= c->end - high))
		c->end = low;
	else if (high < c->end)
		c->start = high;
	else
		return -EDOM;
	return 0;
}

/* Of what is mostly holes, children would get pages for them. */
static int is_worth_it(const struct adopt_what *what, const struct candidate *c)
{
	return !c->s && (!what->min || c->bytes >= (c->end - c->start) / 2);
}

/* Those that are fit, kept from the keeper: it is a child. */
static void choose(const struct adopt_what *what, struct candidates *found)
{
	unsigned n = 0;

	for (unsigned i = 0; i < found->count; i++) {
		struct candidate c = found->at[i];

		if (is_worth_it(what, &c) && is_fit(&c) && procfs_threads(keep_off, &c) == 0 &&
		    c.end - c.start >= what->min &&
		    sys_madvise(c.start, c.end - c.start, MADV_DONTFORK) == 0)
			found->at[n++] = c;
	}
	found->count = n;
}

/* All of it but what is kept. A fork has what is not armed. */
static int arm(const struct candidate *c, uint64_t *ret_bytes)
{
	enum pager_op op = c->lazy ? PAGER_ARM_LAZY : PAGER_ARM;
	int result = 0;

	for (uintptr_t at = c->start, from, to; at < c->end; at = to) {
		int ret = 0;

		if (!kept_part(at, c->end, &from, &to))
			from = to = c->end;
		if (from > at)
			ret = pager_ask(op, at, from);
		if (from > at && ret == 0)
			*ret_bytes += from - at;
		else if (from > at)
			sys_madvise(at, from - at, MADV_DOFORK);
		sys_madvise(from, to - from, MADV_DOFORK);
		result = ret < 0 ? ret : result;
	}
	return result;
}

static int arm_chosen(const struct candidates *found, uint64_t *ret_bytes)
{
	int why = found->count ? pager_start() : COW_REASON_NONE, started = !why;

	for (unsigned i = 0; i < found->count; i++) {
		const struct candidate *c = &found->at[i];
		int ret = started ? arm(c, ret_bytes) : 0;

		if (!started)
			sys_madvise(c->start, c->end - c->start, MADV_DOFORK);
		if (ret < 0)
			why = (int)reason_of(ret);
		started &= ret != -EPIPE;
	}
	return why;
}

int in_place_arm(const struct adopt_what *what)
{
	struct candidates found;
	uint64_t start = sys_now_ns(), bytes = 0;
	int why = why_not(what, &found);

	if (!why) {
		choose(what, &found);
		why = arm_chosen(&found, &bytes);
	}
	if (bytes)
		log_line(COW_LOG_INFO, "armed %llu MiB in place in %llu us",
			 (unsigned long long)bytes >> 20,
			 (unsigned long long)(sys_now_ns() - start) / 1000);
	if (why)
		process_native((enum cow_reason)why);
	process.life->stats.adopt_reason = (uint64_t)why;
	adopt_when_done(why, bytes);
	return why;
}

int in_place_release(uintptr_t start, uintptr_t end)
{
	return process.life->pager.it ? pager_ask(PAGER_LEAVE, start, end) : 0;
}

/* --- the fork ----------------------------------------------------------- */

/* Has serving cost more than twice what forks have saved? That is a guess. */
static int is_dear(void)
{
	struct in_place_meter *m = &process.life->in_place;
	uint64_t ns = atomic_load(&process.life->pager.news->ns) - m->ns;
	uint64_t saved = m->forks * (in_place_bytes() >> 10) * SAVED_NS_PER_KIB;

	return ns > 2 * saved + PATIENCE_NS;
}

static void give_up(enum cow_reason why)
{
	uint64_t bytes = in_place_bytes();

	log_line(COW_LOG_INFO, "in place: %s", cow_reason_string(why));
	(void)pager_ask(PAGER_LEAVE, 0, ALL);
	process_native(why);
	process.life->stats.adopt_reason = (uint64_t)why;
	adopt_when_given_back(bytes * 4);
}

/* A child has what it lacked when the pager answers, unless there is no memory. What it
 * lacks and nobody can give any more keeps the pager here: it is asked again at each fork. */
static void end(enum cow_reason why)
{
	int again = process.life->pager.reason != 0, ret;
	uint64_t bytes = in_place_bytes();

	if (!process.life->pager.it)
		return;
	ret = pager_end(why);
	if (again || ret == -EPIPE)
		return;
	log_line(ret < 0 ? COW_LOG_WARN : COW_LOG_INFO, "in place: %s%s", cow_reason_string(why),
		 ret < 0 ? "; it stays until a child has ended that cannot be served" : "");
	process_native(why);
	process.life->stats.adopt_reason = (uint64_t)why;
	adopt_when_given_back(bytes);
}

int in_place_end(enum cow_reason why)
{
	int error = errno;

	if (process_borrowed())
		return 0;
	process_lock();
	end(why);
	atomic_fetch_add(&process.life->parting, 1);
	process_unlock();
	errno = error;
	return sys_getpid();
}

int in_place_part(void)
{
	return in_place_end(COW_REASON_PRIVILEGES);
}

/* Another's: a handler has forked meanwhile. */
void in_place_parted(int parting)
{
	if (parting == sys_getpid())
		atomic_fetch_sub(&process.life->parting, 1);
}

static void count_from_here(void)
{
	process.life->in_place = (struct in_place_meter){
		.ns = atomic_load(&process.life->pager.news->ns),
	};
}

static int open_window(void)
{
	int ret;

	if (process.life->pager.reason)
		end((enum cow_reason)process.life->pager.reason);
	if (!in_place_bytes() && !pager_moves())
		return 0;
	if (memory_may_be_pinned()) {	/* a device does not wait */
		give_up(COW_REASON_PINNED);
		return 0;
	}
	if (sys_memory_merges()) {
		give_up(COW_REASON_CALL);
		return 0;
	}
	if (is_dear()) {
		give_up(COW_REASON_DEAR);
		count_from_here();
		return 0;
	}
	ret = pager_ask(PAGER_OPEN, 0, 0);
	if (ret < 0 && ret != -EPIPE)
		give_up(ret == -EMFILE ? COW_REASON_CHILDREN : reason_of(ret));
	process.life->in_place.forks += ret == 0;
	return ret == 0;
}

int in_place_open(void)
{
	int opens = open_window();

	pager_opens(opens);
	return opens;
}

void in_place_close(void)
{
	if (pager_is_open())
		(void)pager_ask(PAGER_CLOSE, 0, 0);
}

IN_CHILD void in_place_child(void)
{
	pager_in_child();
}

/* --- calls on armed memory ---------------------------------------------- */

int in_place_at(uintptr_t start, size_t len)
{
	uintptr_t end = start + len < start ? UINTPTR_MAX : start + len;

	/* a new child has not touched its life, which would cost it a page fault */
	return areas_meet(start, end) && process.life->pager.it;
}

static uintptr_t whole(uintptr_t *start, size_t len)
{
	uintptr_t page = sys_page_size(), end = (*start + len + page - 1) & ~(page - 1);

	*start &= ~(page - 1);
	return end > *start ? end : ALL;
}

int in_place_is_plain(uintptr_t start, size_t len)
{
	return !len || (!in_place_at(start, len) &&
			(__libc_single_threaded || !in_place_wanted()));
}

int in_place_leave(uintptr_t start, size_t len)
{
	if (in_place_is_plain(start, len))
		return 0;
	process_lock();
	if (in_place_at(start, len)) {
		uintptr_t end = whole(&start, len);

		(void)in_place_release(start, end);
	}
	return 1;
}

void in_place_left(int held)
{
	if (held)
		process_unlock();
}

enum { HELD = 1, GIVEN };

int in_place_empty(uintptr_t start, size_t len)
{
	uintptr_t end;

	if (in_place_is_plain(start, len))
		return 0;
	process_lock();
	if (!in_place_at(start, len))
		return HELD;
	end = whole(&start, len);
	(void)pager_ask(PAGER_GIVE, start, end);
	return GIVEN;
}

/* What the kernel may take when it likes it takes at once, or the pager would not know whether it
 * has. Where it may not take all, that is plain memory from now on. */
void in_place_freed(int held, uintptr_t start, size_t len, int ret)
{
	uintptr_t end;

	if (held != GIVEN || (ret == 0 && sys_madvise(start, len, MADV_DONTNEED) == 0))
		return;
	end = whole(&start, len);
	(void)in_place_release(start, end);
}

void in_place_emptied(int held)
{
	if (held == GIVEN)
		(void)pager_ask(PAGER_GIVEN, 0, 0);
	if (held)
		process_unlock();
}

/* --- in a child --------------------------------------------------------- */

/* The contents of [from, from + len), which may be guarded in parts. */
static void save(uintptr_t to, uintptr_t from, size_t len)
{
	size_t page = sys_page_size();
	int all = sys_madvise(from, len, MADV_POPULATE_READ) == 0;

	for (size_t at = 0; at < len; at += page)
		if (all || sys_madvise(from + at, page, MADV_POPULATE_READ) == 0)
			sys_copy((void *)(to + at), (void *)(from + at), page);
}

static void write_again(uintptr_t to, uintptr_t from, size_t len)
{
	size_t page = sys_page_size();

	for (size_t at = 0; at < len; at += page)
		if (!sys_is_zero((void *)(from + at), page))
			sys_copy((void *)(to + at), (void *)(from + at), page);
}

/* Of no more than a table. */
static int renew(uintptr_t start, size_t len)
{
	int locked = memory_is_locked(start, len), ret;
	long copy = sys_mmap(0, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (sys_failed(copy))
		return -ENOMEM;
	save((uintptr_t)copy, start, len);
	if (locked)
		sys_munlock(start, len);
	ret = sys_madvise(start, len, MADV_DONTNEED);
	if (ret == 0)
		write_again(start, (uintptr_t)copy, len);
	memory_lock_as(start, len, locked);
	sys_munmap((uintptr_t)copy, len);
	return ret;
}

static int renew_mapping(const struct procfs_map *m, uintptr_t start, uintptr_t end)
{
	int ret = sys_mprotect(start, end - start, m->prot | PROT_READ | PROT_WRITE);

	for (uintptr_t at = start, next; ret == 0 && at < end; at = next) {
		next = (at | (TABLE_SIZE - 1)) + 1;
		next = next < end ? next : end;
		ret = renew(at, next - at);
	}
	sys_mprotect(start, end - start, m->prot);
	return ret;
}

int in_place_own(uintptr_t start, size_t len)
{
	uintptr_t end;
	struct procfs_map m;
	int ret = 0;

	if (!len || !pager_is_inherited())
		return 0;
	end = whole(&start, len);
	process_lock();
	for (; ret == 0 && start < end && procfs_map_at(start, &m) == 0; start = m.end)
		if (!m.ino && !m.shared)
			ret = renew_mapping(&m, start, m.end < end ? m.end : end);
	process_unlock();
	return ret;
}
