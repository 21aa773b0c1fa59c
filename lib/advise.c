/*
 * madvise(2). Most advice is a hint that the store can ignore, or something that
 * the kernel does alike on its mappings; what only anonymous memory can have is
 * given to anonymous memory that takes the place.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "adopt.h"
#include "call.h"
#include "compat.h"
#include "freeze.h"
#include "in-place.h"
#include "memory.h"
#include "process.h"
#include "sys.h"

/* What an advice asks for on memory in the store. */
enum meaning {
	MEANS_EINVAL,	/* as on anonymous memory */
	MEANS_NOTHING,	/* a hint, or already so */
	MEANS_KERNEL,	/* the kernel does the same on our mapping */
	MEANS_ZERO,
	MEANS_DETACH,	/* an attribute that a thaw would lose */
	MEANS_ANONYMOUS,/* only anonymous memory can have it */
	MEANS_EMPTY,	/* ... and what was there is gone */
};

/* The kernel looks at the advice before the range. */
static int is_known(int advice)
{
	return sys_madvise(0, 0, advice) == 0;
}

static enum meaning meaning(int advice)
{
	switch (advice) {
	case MADV_DONTNEED: case MADV_FREE:
		return MEANS_ZERO;
	case MADV_NORMAL: case MADV_RANDOM: case MADV_SEQUENTIAL:
	case MADV_WILLNEED: case MADV_HUGEPAGE: case MADV_NOHUGEPAGE:
	case MADV_MERGEABLE: case MADV_UNMERGEABLE: case MADV_DODUMP:
	case MADV_DOFORK: case MADV_KEEPONFORK:
		return MEANS_NOTHING;
	case MADV_COLD: case MADV_PAGEOUT: case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE: case MADV_COLLAPSE: case MADV_HWPOISON:
		return MEANS_KERNEL;
	case MADV_DONTFORK: case MADV_DONTDUMP:
		return MEANS_DETACH;
	case MADV_WIPEONFORK:
		return MEANS_ANONYMOUS;
	case MADV_REMOVE:
		return MEANS_EINVAL;
	default: /* what not every kernel knows */
		break;
	}
	if (!is_known(advice))
		return MEANS_EINVAL;
	switch (advice) {
	case MADV_DONTNEED_LOCKED:
		return MEANS_ZERO;
	case MADV_GUARD_INSTALL:
		return MEANS_EMPTY;
	case MADV_GUARD_REMOVE:
		return MEANS_NOTHING;
	default:
		return MEANS_ANONYMOUS;
	}
}

/* On detached memory: the kernel does it, we remember what a later overlay or
 * move would lose. */
static int advise_attribute(struct store *s, const struct extent *e, int advice)
{
	unsigned flag = advice == MADV_DONTFORK || advice == MADV_DOFORK ?
			EXTENT_DONTFORK : EXTENT_DONTDUMP;
	int on = advice == MADV_DONTFORK || advice == MADV_DONTDUMP;
	int ret = sys_madvise(e->start, e->end - e->start, advice);

	if (ret == 0)
		extents_set(&s->extents, e->start, e->end, EXTENT_NATIVE, e->prot,
			    on ? e->flags | flag : e->flags & ~flag);
	return ret;
}

static int zero_unlocked(struct store *s, const struct extent *e)
{
	return memory_zero(s, e->start, e->end);
}

/* The kernel knows guards on anonymous memory, and on none that is locked. */
static int guard(struct store *s, const struct extent *e)
{
	int ret = memory_empty(s, e, EXTENT_KEEP);

	return ret ? ret : sys_madvise(e->start, e->end - e->start, MADV_GUARD_INSTALL);
}

/* The kernel goes up to the first page that is locked. */
static int up_to_lock(struct store *s, struct extent e,
		      int (*step)(struct store *s, const struct extent *e))
{
	size_t len = e.end - e.start, half = len / 2 & ~(sys_page_size() - 1);
	struct extent low = e, high = e;
	int ret;

	if (!memory_is_locked(e.start, len))
		return step(s, &e);
	if (!half)
		return -EINVAL;
	low.end = high.start = e.start + half;
	ret = up_to_lock(s, low, step);
	return ret ? ret : up_to_lock(s, high, step);
}

static int zero_pinned(struct store *s, const struct extent *e, int advice)
{
	if (advice == MADV_DONTNEED_LOCKED && memory_is_locked(e->start, e->end - e->start))
		return memory_zero_by_hand(e);
	return up_to_lock(s, *e, zero_unlocked);
}

static int advise_pinned(struct store *s, const struct extent *e, int advice)
{
	int ret = 0;

	switch (advice) {
	case MADV_DONTFORK: case MADV_DOFORK: case MADV_DONTDUMP: case MADV_DODUMP:
		return advise_attribute(s, e, advice);
	default:
		break;
	}
	switch (meaning(advice)) {
	case MEANS_EINVAL:
		return -EINVAL;
	case MEANS_ZERO:
		return zero_pinned(s, e, advice);
	case MEANS_ANONYMOUS:
		ret = memory_make_anonymous(s, e, EXTENT_PROGRAM);
		break;
	case MEANS_EMPTY:
		return up_to_lock(s, *e, guard);
	case MEANS_NOTHING: case MEANS_KERNEL: case MEANS_DETACH:
		break;
	}
	return ret ? ret : sys_madvise(e->start, e->end - e->start, advice);
}

static int advise_ours(struct store *s, const struct extent *e, int advice)
{
	struct extent pinned = *e;
	int ret = 0;

	switch (meaning(advice)) {
	case MEANS_EINVAL:
		return -EINVAL;
	case MEANS_NOTHING:
		return 0;
	case MEANS_ZERO:
		return memory_zero(s, e->start, e->end);
	case MEANS_ANONYMOUS:
		ret = memory_make_anonymous(s, e, EXTENT_PROGRAM);
		break;
	case MEANS_EMPTY:
		return guard(s, e);
	case MEANS_DETACH:
		ret = memory_detach(s, e->start, e->end, COW_REASON_CALL);
		pinned.flags = EXTENT_PINNED;
		return ret ? ret : advise_attribute(s, &pinned, advice);
	case MEANS_KERNEL:
		break;
	}
	return ret ? ret : sys_madvise(e->start, e->end - e->start, advice);
}

/* The kernel serves it. The table remembers what taking it back into the store
 * would lose. */
static int advise_native(struct store *s, const struct extent *e, int advice)
{
	unsigned flags = e->flags;
	int ret;

	switch (advice) {
	case MADV_DONTFORK: case MADV_DOFORK: case MADV_DONTDUMP: case MADV_DODUMP:
		return advise_attribute(s, e, advice);
	case MADV_GUARD_INSTALL:
		flags |= EXTENT_KEEP;
		break;
	default:
		if (meaning(advice) == MEANS_ANONYMOUS)
			flags |= EXTENT_PROGRAM;
		break;
	}
	ret = sys_madvise(e->start, e->end - e->start, advice);
	if (ret == 0 && flags != e->flags)
		extents_set(&s->extents, e->start, e->end, EXTENT_NATIVE, e->prot, flags);
	return ret;
}

/* Adopted memory can have been moved here by a system call of its owner's own: a private
 * mapping of the store, which is to be plain memory first. */
static int advise_natively(uintptr_t start, size_t len, int advice)
{
	switch (meaning(advice)) {
	case MEANS_NOTHING: case MEANS_KERNEL: case MEANS_DETACH:
		break;
	case MEANS_EINVAL: case MEANS_ZERO: case MEANS_ANONYMOUS: case MEANS_EMPTY:
		adopt_give_back_moved(start, start + len);
		break;
	}
	return sys_madvise(start, len, advice);
}

static int advise_piece(struct store *s, const struct extent *e, int advice)
{
	if (!store_have_room(s))
		return -ENOMEM;
	if (memory_is_ours(s, e))
		return advise_ours(s, e, advice);
	if (e->state == EXTENT_FREE && store_reserves(s))
		return -ENOMEM;
	if (e->flags & EXTENT_PINNED)
		return advise_pinned(s, e, advice);
	if (e->state == EXTENT_NATIVE && !(e->flags & EXTENT_FOREIGN))
		return advise_native(s, e, advice);
	return advise_natively(e->start, e->end - e->start, advice);
}

static int managed_madvise(struct store *s, uintptr_t start, uintptr_t end, int advice)
{
	int result = 0;

	extents_each(e, &s->extents, start, end) {
		int ret = advise_piece(s, &e, advice);

		if (ret < 0)
			result = ret;
		if (ret < 0 && ret != -ENOMEM)
			break;
	}
	return result;
}

/* ... that a lift would lose; some of it takes long. */
static int changes_nothing(int advice)
{
	switch (advice) {
	case MADV_WILLNEED: case MADV_COLD: case MADV_PAGEOUT: case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE: case MADV_COLLAPSE:
		return 1;
	default:
		return 0;
	}
}

/* Where the in-place engine is: what empties memory, and what gives it an attribute that
 * the engine has a use of its own for. */
static int empties(int advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
	       advice == MADV_DONTNEED_LOCKED;
}

static int is_harmless(int advice)
{
	switch (advice) {
	case MADV_NORMAL: case MADV_RANDOM: case MADV_SEQUENTIAL: case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE: case MADV_DODUMP:
		return 1;
	default:
		return changes_nothing(advice) || empties(advice);
	}
}

/* It changes what is there, and the kernel does not tell the pager of a child's. */
static int is_untold(int advice)
{
	return advice == MADV_WIPEONFORK || advice == MADV_GUARD_INSTALL;
}

static int advise_bare(uintptr_t start, size_t len, int advice)
{
	if (is_untold(advice) && in_place_own(start, len) < 0)
		return call_result(-ENOMEM);
	return changes_nothing(advice) ? call_result(sys_madvise(start, len, advice))
				       : call_natively(advise_natively, start, len, advice);
}

static int advise_outside(uintptr_t start, size_t len, int advice)
{
	int emptied = empties(advice) ? in_place_empty(start, len) : 0;
	int held = is_harmless(advice) ? 0 : in_place_leave(start, len);
	int ret = advise_bare(start, len, advice);

	if (advice == MADV_FREE)
		in_place_freed(emptied, start, len, ret);
	in_place_left(held);
	in_place_emptied(emptied);
	return ret;
}

int cow_madvise(void *addr, size_t len, int advice)
{
	const struct call call = { advise_natively, managed_madvise, advice, 1 };
	uintptr_t start = (uintptr_t)addr;

	if (!call_in_window(start, sys_whole_pages(len)))
		return advise_outside(start, len, advice);
	return call_over_range(&call, start, sys_whole_pages(len));
}
