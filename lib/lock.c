/*
 * mlock(2) and its family. Locked memory does not belong in the store: it is
 * detached first.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "call.h"
#include "freeze.h"
#include "in-place.h"
#include "memory.h"
#include "process.h"
#include "sys.h"

static int native_mlock(uintptr_t start, size_t len, int flags)
{
	return sys_mlock2(start, len, (unsigned)flags);
}

static int managed_mlock(struct store *s, uintptr_t start, uintptr_t end, int flags)
{
	int ret = memory_detach(s, start, end, COW_REASON_LOCKED);

	if (ret < 0)
		return ret;
	extents_each(e, &s->extents, start, end)
		if (e.state == EXTENT_FREE && store_reserves(s))
			return -ENOMEM;
	return sys_mlock2(start, end - start, (unsigned)flags);
}

static int lock_range(uintptr_t addr, size_t len, unsigned flags, uintptr_t start,
		      size_t rounded)
{
	const struct call call = { native_mlock, managed_mlock, (int)flags, 0 };
	int ret;

	if (flags & ~(unsigned)MLOCK_ONFAULT || !call_in_window(start, rounded))
		return call_natively(native_mlock, addr, len, (int)flags);
	ret = sys_mlock2(0, 0, flags);	/* may it lock anything? */
	return ret < 0 ? call_result(ret) : call_over_range(&call, start, rounded);
}

int cow_mlock2(const void *addr, size_t len, unsigned flags)
{
	uintptr_t page = sys_page_size();
	uintptr_t start = (uintptr_t)addr & ~(page - 1);
	size_t rounded = sys_whole_pages(len + ((uintptr_t)addr - start));
	int held = in_place_leave(start, rounded);
	int ret = lock_range((uintptr_t)addr, len, flags, start, rounded);

	in_place_left(held);
	return ret;
}

/* What the kernel asks before it looks at memory (mm/mlock.c). */
static int may_lock_all(int flags)
{
	if (!flags || flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) ||
	    flags == MCL_ONFAULT)
		return -EINVAL;
	return sys_mlock2(0, 0, 0);	/* may it lock anything? */
}

/* Reservations are no memory of the program's: neither its limit nor its memory
 * is to pay for them. */
static int make_lockable(void)
{
	unsigned n = atomic_load(&process.store_count);

	for (unsigned i = 0; i < n; i++) {
		struct store *s = process.stores[i];
		int ret = memory_detach(s, s->base, s->base + s->size,
					COW_REASON_LOCKED);

		if (ret < 0)
			return ret;
	}
	return freeze_retire();
}

static int lock_all(int flags)
{
	int ret = may_lock_all(flags);

	if (ret == 0)
		(void)in_place_release(0, UINTPTR_MAX);
	if (ret == 0 && flags & MCL_CURRENT)
		ret = make_lockable();
	if (ret < 0)
		return ret;
	ret = sys_mlockall(flags);
	if (ret == 0)
		process.lock_future = (flags & MCL_FUTURE) != 0;
	return ret;
}

int cow_mlockall(int flags)
{
	int ret;

	process_lock();
	ret = lock_all(flags);
	process_unlock();
	return call_result(ret);
}

int cow_munlockall(void)
{
	int ret;

	process_lock();
	ret = sys_munlockall();
	if (ret == 0) {
		process.lock_future = 0;
		/* the markers of the leases must stay locked */
		process_each_own(s)
			if (s->lease.marker)
				sys_mlock2(s->lease.marker, sys_page_size(), 0);
	}
	process_unlock();
	return call_result(ret);
}
