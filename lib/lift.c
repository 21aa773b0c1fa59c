/*
 * The steps over a piece R of a window, S the scratch, A the shadow's view of it:
 *
 *   1 madvise(R, DONTFORK)		a fork that passes us by has no R from now on,
 *					rather than one that we change
 *   2 the lease once more		... and there was none before
 *   3 UFFDIO_REGISTER(R, missing, and minor: pages that the store has)
 *   4 mremap(R -> S, DONTUNMAP)	R's page tables are empty: who touches it waits
 *   5 private pages of S -> A, none of them pinned (pin.h)
 *   6 mremap(A -> R)			the parked table is back, with the changes; of
 *					adopted memory a private mapping of the store
 *   7 UFFDIO_WAKE(R)
 *
 * Why R is moved away rather than write-protected where it is: a write-protected
 * private file mapping gets a marker in each empty entry, and pagemap shows markers
 * and swapped pages alike, so that all pages had to be populated or copied: 311 us
 * a table against 74 (1 % of the pages changed, 4 KiB pages), 165 against 75 (huge
 * pages). In S an empty entry is empty. The price: readers of this table wait too.
 *
 * MISSING|MINOR keeps fault-around off and sees every access to an empty entry:
 * holes of the store are missing, its pages minor faults (mm/shmem.c,
 * shmem_get_folio_gfp). Anonymous memory knows no minor faults.
 *
 * A registration goes with the mapping that carries it: 6 replaces it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#include "compat.h"
#include "lift.h"
#include "memory.h"
#include "merge.h"
#include "pin.h"
#include "process.h"
#include "sys.h"
#include "uffd.h"

enum { ONTO = MREMAP_MAYMOVE | MREMAP_FIXED, ONTO_STAY = ONTO | MREMAP_DONTUNMAP };

#define SCRATCH_SIZE ((LIFT_TABLES + 1) * TABLE_SIZE)	/* so that tables align */

/* --- the scratch -------------------------------------------------------- */

/* Nothing there, and nothing that a child would inherit. */
static long clear(uintptr_t at, size_t len)
{
	long p = sys_mmap(at, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

	if (!sys_failed(p))
		sys_madvise((uintptr_t)p, len, MADV_DONTFORK);
	return p;
}

int lift_open(struct lift *l)
{
	long p = clear(0, SCRATCH_SIZE);

	if (sys_failed(p))
		return -ENOMEM;
	l->scratch = (uintptr_t)p;
	return 0;
}

void lift_close(struct lift *l)
{
	if (l->scratch)
		sys_munmap(l->scratch, SCRATCH_SIZE);
	l->scratch = 0;
}

static uintptr_t scratch_for(const struct lift *l, uintptr_t addr)
{
	uintptr_t first = (l->scratch + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);

	return first + addr % TABLE_SIZE;
}

/* --- the steps ---------------------------------------------------------- */

static int move(uintptr_t from, uintptr_t to, size_t len, int flags)
{
	long ret = sys_mremap(from, len, len, flags, to);

	return sys_failed(ret) ? (int)ret : 0;
}

/* Nobody ever saw the offsets of memory that is about to be adopted. */
static int may_be_seen(const struct extent *e)
{
	return e->state == EXTENT_FROZEN || e->flags & EXTENT_STALE;
}

/* Steps 1 to 3. */
static int hold(const struct lift *l, struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;
	int ret = sys_madvise(e->start, len, MADV_DONTFORK);

	if (ret == 0 && !l->releases && may_be_seen(e) && !lease_free(&s->lease)) {
		ret = -EBUSY;
	} else if (ret == 0) {
		ret = uffd_hold(l->uffd, e->start, len, !merge_is_overlay(e));
		if (ret == -EBUSY)	/* another userfaultfd has it */
			ret = -EADDRINUSE;
	}
	if (ret < 0)
		store_reopen_piece(s, e->start, len);
	return ret;
}

static int lay_store(struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;

	if (s->adopted) {
		int ret = store_cover(s, e->start, len);

		sys_mprotect(store_alias(s, e->start), len, PROT_NONE);
		return ret;
	}
	return merge_is_overlay(e) ? store_renew(s, e->start, len, e->prot)
				   : store_unpark(s, e->start, len, e->prot);
}

/* The scratch without this part, which is nobody's any more. */
static void lose(struct lift *l, uintptr_t at, size_t len)
{
	uintptr_t end = l->scratch + SCRATCH_SIZE;

	if (at > l->scratch)
		sys_munmap(l->scratch, at - l->scratch);
	if (at + len < end)
		sys_munmap(at + len, end - at - len);
	l->scratch = 0;
	(void)lift_open(l);
}

/* Must succeed: what is there is nowhere else. Other threads may take the maps that
 * it needs; so all of the reserve goes, and it is tried until one is free. The
 * second way needs less, but leaves a hole where the scratch was. */
static void put_back(struct lift *l, struct store *s, const struct extent *e, uintptr_t at)
{
	size_t len = e->end - e->start;

	while (move(at, e->start, len, ONTO_STAY) < 0) {
		if (move(at, e->start, len, ONTO) == 0) {
			lose(l, at, len);
			break;
		}
		spare_release(&s->spare);
		sched_yield();
	}
	store_reopen_piece(s, e->start, len);
}

/* Step 6 of a release. */
static int lay_anonymous(const struct extent *e, uintptr_t at)
{
	size_t len = e->end - e->start;
	int ret = memory_lay_copy(e->start, at, len, e->prot);

	if (ret == 0)
		memory_lock_as(e->start, len, 0);
	return ret;
}

/* Steps 5 and 6. */
static int exchange(struct lift *l, struct store *s, const struct extent *e, uintptr_t at)
{
	size_t len = e->end - e->start;
	uint64_t start = sys_now_ns();
	int ret = pin_found(at, e->start, len, &process.life->mover.probe);

	if (process.life->mover.probe)
		l->probe_ns = sys_now_ns() - start;
	if (ret > 0)
		ret = -EPERM;
	if (ret == 0 && l->releases)
		return lay_anonymous(e, at);
	if (ret == 0)
		ret = merge_piece(s, e, at);
	if (ret < 0)
		return ret;
	ret = lay_store(s, e);
	if (ret < 0 && merge_is_overlay(e))	/* must not show later */
		(void)store_punch(s, e->start, len);
	return ret;
}

void lift_wait(void)
{
	if (process.life->mover.probe)
		sys_probe_wait(process.life->mover.probe);
}

void lift_reap(void)
{
	if (process.life->mover.probe)
		(void)sys_probe_reap(process.life->mover.probe);
	process.life->mover.probe = 0;
}

static int lifted(struct lift *l, struct store *s, const struct extent *e)
{
	uintptr_t at = scratch_for(l, e->start);
	size_t len = e->end - e->start;
	uint64_t start = sys_now_ns();
	int ret = move(e->start, at, len, ONTO_STAY);

	if (ret < 0) {
		uffd_let_go(l->uffd, e->start, len);
		store_reopen_piece(s, e->start, len);
		return ret;
	}
	ret = exchange(l, s, e, at);
	if (ret < 0)
		put_back(l, s, e, at);
	uffd_wake(l->uffd, e->start, len);
	l->held_ns = sys_now_ns() - start;
	if (at >= l->scratch && at < l->scratch + SCRATCH_SIZE)
		(void)clear(at, len);
	return ret;
}

static int lift(struct lift *l, struct store *s, const struct extent *e)
{
	int ret;

	lift_reap();	/* if this is another try under the same lock */
	if (!l->scratch && lift_open(l) < 0)
		return -ENOMEM;
	ret = hold(l, s, e);
	if (ret == 0)
		ret = lifted(l, s, e);
	return ret;
}

int lift_and_thaw(struct lift *l, struct store *s, const struct extent *e)
{
	l->releases = 0;
	return lift(l, s, e);
}

int lift_and_release(struct lift *l, struct store *s, const struct extent *e)
{
	l->releases = 1;
	return lift(l, s, e);
}
