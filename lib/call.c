/*
 * The walk over a range (call.h), munmap and mprotect. Outside a window, and for
 * memory that is the kernel's to serve, the bare system call is made.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "call.h"
#include "freeze.h"
#include "gate.h"
#include "in-place.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "region.h"
#include "sys.h"
#include "verify.h"

int call_result(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

void *call_address(long ret)
{
	if (!sys_failed(ret))
		return (void *)ret;
	errno = (int)-ret;
	return MAP_FAILED;
}

int call_is_proper(uintptr_t start, size_t len)
{
	return len && !(start & (sys_page_size() - 1)) && start + len > start;
}

int call_in_window(uintptr_t start, size_t len)
{
	return call_is_proper(start, len) && process_store_at(start, len);
}

int call_natively(int (*native)(uintptr_t start, size_t len, int value), uintptr_t start,
		  size_t len, int value)
{
	uint64_t signals;
	int ret;

	if (!gate_is_needed())
		return call_result(native(start, len, value));
	gate_enter(&signals);
	ret = native(start, len, value);
	gate_leave(&signals);
	return call_result(ret);
}

static int over_range(const struct call *call, uintptr_t start, size_t len)
{
	uintptr_t end = start + len;
	int result = 0;

	while (start < end) {
		struct store *s = process_store_at(start, end - start);
		uintptr_t stop = end;
		int ret;

		if (s && s->base > start) {
			stop = s->base;
			s = NULL;
		}
		if (s && s->base + s->size < end)
			stop = s->base + s->size;
		if (s && s->adopted)
			(void)verify_range(s, start, stop);
		ret = s ? call->managed(s, start, stop, call->value)
			: call->native(start, stop - start, call->value);
		if (ret < 0)
			result = ret;
		if (ret < 0 && !(call->goes_on && ret == -ENOMEM))
			break;
		start = stop;
	}
	return result;
}

int call_over_range(const struct call *call, uintptr_t start, size_t len)
{
	int ret;

	process_lock();
	process.maps_short = 0;
	ret = over_range(call, start, len);
	if (ret == -ENOMEM && process.maps_short && freeze_relieve() == 0)
		ret = over_range(call, start, len);
	process_unlock();
	return call_result(ret);
}

/* --- munmap ------------------------------------------------------------- */

static int bare_munmap(uintptr_t start, size_t len, int value)
{
	(void)value;
	return sys_munmap(start, len);
}

static int native_munmap(uintptr_t start, size_t len, int value)
{
	int ret = sys_munmap(start, len);

	(void)value;
	if (ret == 0)
		region_cut(start, start + len);
	return ret;
}

static int managed_munmap(struct store *s, uintptr_t start, uintptr_t end, int value)
{
	int ret = memory_unmap(s, start, end);

	(void)value;
	if (ret == 0)
		region_cut(start, end);
	return ret;
}

static int unmap(uintptr_t start, size_t len, size_t size)
{
	const struct call call = { native_munmap, managed_munmap, 0, 0 };

	if (!process_store_at(start, size) && !region_near(start, start + size))
		return call_natively(bare_munmap, start, len, 0);
	return call_over_range(&call, start, size);
}

int cow_munmap(void *addr, size_t len)
{
	uintptr_t start = (uintptr_t)addr;
	size_t size = sys_whole_pages(len);
	int held, ret;

	if (!call_is_proper(start, size))
		return call_result(sys_munmap(start, len));
	held = in_place_leave(start, size);
	ret = unmap(start, len, size);
	in_place_left(held);
	return ret;
}

/* --- mprotect ----------------------------------------------------------- */

static int managed_mprotect(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	extents_each(e, &s->extents, start, end) {
		int ours = memory_is_ours(s, &e), ret = 0;

		if (e.state == EXTENT_FREE && store_reserves(s))
			return -ENOMEM;
		if ((ours || e.flags & EXTENT_PINNED) && prot & ~7)
			return -EINVAL;
		if (e.state != EXTENT_FREE && !store_have_room(s))
			return -ENOMEM;
		/* a debugger writes to code, which a shared mapping refuses */
		if (ours && prot & PROT_EXEC) {
			ret = memory_detach(s, e.start, e.end, COW_REASON_CALL);
			if (ret < 0 || !store_have_room(s))
				return -ENOMEM;
			e = extents_piece(&s->extents, e.start, e.end);
		}
		if (ours && !s->inherited && e.state == EXTENT_OWNED)
			ret = freeze_reserve(s, 2);
		if (ret == 0)
			ret = sys_mprotect(e.start, e.end - e.start, prot);
		if (ret < 0)
			return ret;
		if (e.state != EXTENT_FREE && !(e.flags & EXTENT_FOREIGN))
			extents_set(&s->extents, e.start, e.end,
				    (enum extent_state)e.state, prot & 7, e.flags);
	}
	return 0;
}

int cow_mprotect(void *addr, size_t len, int prot)
{
	const struct call call = { sys_mprotect, managed_mprotect, prot, 0 };
	uintptr_t start = (uintptr_t)addr;

	if (!call_in_window(start, sys_whole_pages(len)))
		return call_natively(sys_mprotect, start, len, prot);
	return call_over_range(&call, start, sys_whole_pages(len));
}
