/*
 * The public memory calls: mmap, munmap, mprotect, madvise, the mlock family.
 * (mremap has a file of its own.) A range is cut into what lies in a window and
 * what does not; outside, and for memory that is the kernel's to serve, the
 * bare system call is made. A call that touches no window takes no lock.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "freeze.h"
#include "log.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "region.h"
#include "sys.h"

static int posix_result(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

static void *posix_address(long ret)
{
	if (!sys_failed(ret))
		return (void *)ret;
	errno = (int)-ret;
	return MAP_FAILED;
}

/* Page-aligned, not empty, no wrap-around: what is worth looking at. The rest
 * is the kernel's to refuse (or to ignore). */
static int proper(uintptr_t start, size_t len)
{
	return len && !(start & (sys_page_size() - 1)) && start + len > start;
}

static int in_window(uintptr_t start, size_t len)
{
	return proper(start, len) && process_store_at(start, len);
}

/* --- a call over a range ------------------------------------------------ */

struct call {
	int (*native)(uintptr_t start, size_t len, int value);
	int (*managed)(struct store *s, uintptr_t start, uintptr_t end, int value);
	int value;
	int goes_on;	/* past ENOMEM, as madvise(2) does past holes */
};

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

static int locked_over_range(const struct call *call, uintptr_t start, size_t len)
{
	int ret;

	process_lock();
	ret = over_range(call, start, len);
	process_unlock();
	return posix_result(ret);
}

/* --- mmap --------------------------------------------------------------- */

/* Kinds of mapping that may live in the store: private, anonymous, read-write,
 * placed by the kernel. */
static int is_candidate(const void *addr, size_t len, int prot, int flags)
{
	const int fine = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE |
			 MAP_NONBLOCK;

	return len >= options.min_size && (flags & MAP_ANONYMOUS) &&
	       (flags & MAP_TYPE) == MAP_PRIVATE && !(flags & ~fine) && !addr &&
	       prot == (PROT_READ | PROT_WRITE);
}

/* Large and anonymous, but of a kind that stays native: worth a count. */
static void count_kind(size_t len, int prot, int flags)
{
	if (len >= options.min_size && (flags & MAP_ANONYMOUS) &&
	    (flags & MAP_TYPE) == MAP_PRIVATE && (prot & PROT_WRITE) &&
	    process_lock_unless_forking()) {
		process_native(COW_REASON_KIND);
		process_unlock();
	}
}

/* What the default overcommit heuristic refuses is the kernel's to refuse. */
static int is_obvious_overcommit(size_t len, int flags)
{
	return !(flags & MAP_NORESERVE) && len > sys_ram_and_swap();
}

static void *place(size_t len, int flags)
{
	uintptr_t at = 0;
	int why;

	if (!process_lock_unless_forking())
		return NULL;
	why = len < options.min_size ? COW_REASON_KIND : memory_place(len, 0, &at);
	if (why)
		process_native((enum cow_reason)why);
	process_unlock();
	if (why)
		return NULL;
	if (flags & MAP_POPULATE && !(flags & MAP_NONBLOCK))
		sys_madvise(at, len, MADV_POPULATE_WRITE);
	return (void *)at;
}

/* The program put something of its own over part of a window. */
static void mark_native(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	extents_each(e, &s->extents, start, end) {
		unsigned stale = e.state == EXTENT_FROZEN ||
				 (e.flags & (EXTENT_STALE | EXTENT_PINNED));

		if (s->inherited && e.state == EXTENT_FREE)
			continue;
		if (e.state == EXTENT_OWNED && !s->inherited)
			store_punch(s, e.start, e.end - e.start);
		if (s->inherited)
			stale = 0;
		if (!(e.flags & EXTENT_FOREIGN))
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE,
				    prot & 7, stale ? EXTENT_STALE : 0);
		s->stale |= stale;
	}
}

/* Would MAP_FIXED_NOREPLACE find the window empty there? To the program, what
 * is FREE is not mapped. */
static int is_vacant(struct store *s, uintptr_t start, uintptr_t end)
{
	extents_each(e, &s->extents, start, end)
		if (e.state != EXTENT_FREE)
			return 0;
	return 1;
}

static long map_over_windows(uintptr_t start, size_t len, int prot, int flags,
			     int fd, off_t off)
{
	uintptr_t end = start + sys_whole_pages(len);
	struct store *s = process_store_at(start, end - start);
	long ret;

	if (!store_have_room(s))
		return -ENOMEM;
	/* a range that is not all in this window would need more than one call
	 * to the kernel to be refused as a whole */
	if (flags & MAP_FIXED_NOREPLACE && !s->inherited) {
		if (start < s->base || end > s->base + s->size ||
		    !is_vacant(s, start, end))
			return -EEXIST;
		flags = (flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
	}
	ret = sys_mmap(start, len, prot, flags, fd, off);
	while (!sys_failed(ret) && s) {
		uintptr_t from = start > s->base ? start : s->base;
		uintptr_t to = end < s->base + s->size ? end : s->base + s->size;

		mark_native(s, from, to, prot);
		start = to;
		s = start < end ? process_store_at(start, end - start) : NULL;
	}
	return ret;
}

void *cow_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	uintptr_t start = (uintptr_t)addr;
	int fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	void *p;
	long ret;

	process_start();
	if (is_candidate(addr, len, prot, flags) && !is_obvious_overcommit(len, flags)) {
		p = sys_whole_pages(len) ? place(sys_whole_pages(len), flags) : NULL;
		if (p)
			return p;
	} else if (!fixed) {
		count_kind(len, prot, flags);
	} else if (in_window(start, len)) {
		process_lock();
		ret = map_over_windows(start, len, prot, flags, fd, off);
		process_unlock();
		return posix_address(ret);
	}
	return posix_address(sys_mmap(start, len, prot, flags, fd, off));
}

/* --- munmap ------------------------------------------------------------- */

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

int cow_munmap(void *addr, size_t len)
{
	const struct call call = { native_munmap, managed_munmap, 0, 0 };
	uintptr_t start = (uintptr_t)addr;

	if (!in_window(start, sys_whole_pages(len)) &&
	    !(region_total() && proper(start, sys_whole_pages(len))))
		return posix_result(sys_munmap(start, len));
	return locked_over_range(&call, start, sys_whole_pages(len));
}

/* --- mprotect ----------------------------------------------------------- */

static int managed_mprotect(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	extents_each(e, &s->extents, start, end) {
		int ours = memory_is_ours(s, &e), ret = 0;

		if (e.state == EXTENT_FREE && !s->inherited)
			return -ENOMEM;
		if ((ours || e.flags & EXTENT_PINNED) && (prot & ~7 || !store_have_room(s)))
			return prot & ~7 ? -EINVAL : -ENOMEM;
		if (ours && !s->inherited && e.state == EXTENT_OWNED)
			ret = freeze_reserve(s, 2);
		if (ret == 0)
			ret = sys_mprotect(e.start, e.end - e.start, prot);
		if (ret < 0)
			return ret;
		if (ours || e.flags & EXTENT_PINNED)
			extents_set(&s->extents, e.start, e.end,
				    (enum extent_state)e.state, prot, e.flags);
	}
	return 0;
}

int cow_mprotect(void *addr, size_t len, int prot)
{
	const struct call call = { sys_mprotect, managed_mprotect, prot, 0 };
	uintptr_t start = (uintptr_t)addr;

	if (!in_window(start, sys_whole_pages(len)))
		return posix_result(sys_mprotect(start, len, prot));
	return locked_over_range(&call, start, sys_whole_pages(len));
}

/* --- madvise ------------------------------------------------------------ */

/* What an advice asks for on memory in the store. */
enum meaning {
	MEANS_EINVAL,	/* as on anonymous memory, or as on older kernels */
	MEANS_NOTHING,	/* a hint, or already so */
	MEANS_KERNEL,	/* the kernel does the same on our mapping */
	MEANS_ZERO,
	MEANS_DETACH,	/* an attribute that a thaw would lose */
	MEANS_ANONYMOUS,/* only anonymous memory can have it */
};

static enum meaning meaning(int advice)
{
	switch (advice) {
	case MADV_DONTNEED: case MADV_DONTNEED_LOCKED: case MADV_FREE:
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
	default: /* MADV_REMOVE, MADV_GUARD_INSTALL, what we do not know */
		return MEANS_EINVAL;
	}
}

/* Copy a piece to anonymous memory and put that in its place. What another
 * thread writes to the piece during the call can be lost; nobody asks for
 * MADV_WIPEONFORK on memory in use. */
static int make_anonymous(struct store *s, const struct extent *e)
{
	size_t len = e->end - e->start;
	long p = sys_mmap(0, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int ret;

	if (sys_failed(p))
		return -ENOMEM;
	ret = sys_mprotect(e->start, len, e->prot | PROT_READ);
	if (ret == 0) {
		memcpy((void *)p, (void *)e->start, len);
		ret = sys_mprotect((uintptr_t)p, len, e->prot);
	}
	if (ret == 0)
		ret = sys_failed(sys_mremap((uintptr_t)p, len, len,
				MREMAP_MAYMOVE | MREMAP_FIXED, e->start)) ? -ENOMEM : 0;
	if (ret < 0) {
		sys_munmap((uintptr_t)p, len);
		sys_mprotect(e->start, len, e->prot);
		return ret;
	}
	process_native(COW_REASON_CALL);
	mark_native(s, e->start, e->end, e->prot);
	return 0;
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

/* The kernel knows whether it is locked, and then refuses; otherwise what it
 * drops shows the store's bytes again, until a fresh mapping lies over them. */
static int zero_pinned(struct store *s, const struct extent *e, int advice)
{
	size_t len = e->end - e->start;
	int ret = sys_madvise(e->start, len, MADV_DONTNEED);

	if (ret == 0)
		return memory_zero(s, e->start, e->end);
	if (advice != MADV_DONTNEED_LOCKED ||
	    (e->prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
		return ret;
	memset((void *)e->start, 0, len);
	return 0;
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
		ret = make_anonymous(s, e);
		break;
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
		ret = make_anonymous(s, e);
		break;
	case MEANS_DETACH:
		ret = memory_detach(s, e->start, e->end, COW_REASON_CALL);
		pinned.flags = EXTENT_PINNED;
		return ret ? ret : advise_attribute(s, &pinned, advice);
	case MEANS_KERNEL:
		break;
	}
	return ret ? ret : sys_madvise(e->start, e->end - e->start, advice);
}

static int advise_piece(struct store *s, const struct extent *e, int advice)
{
	if (!store_have_room(s))
		return -ENOMEM;
	if (memory_is_ours(s, e))
		return advise_ours(s, e, advice);
	if (e->state == EXTENT_FREE && !s->inherited)
		return -ENOMEM;
	if (e->flags & EXTENT_PINNED)
		return advise_pinned(s, e, advice);
	return sys_madvise(e->start, e->end - e->start, advice);
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

int cow_madvise(void *addr, size_t len, int advice)
{
	const struct call call = { sys_madvise, managed_madvise, advice, 1 };
	uintptr_t start = (uintptr_t)addr;

	if (!in_window(start, sys_whole_pages(len)))
		return posix_result(sys_madvise(start, len, advice));
	return locked_over_range(&call, start, sys_whole_pages(len));
}

/* --- locking ------------------------------------------------------------ */

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
		if (e.state == EXTENT_FREE && !s->inherited)
			return -ENOMEM;
	return sys_mlock2(start, end - start, (unsigned)flags);
}

int cow_mlock2(const void *addr, size_t len, unsigned flags)
{
	const struct call call = { native_mlock, managed_mlock, (int)flags, 0 };
	uintptr_t page = sys_page_size();
	uintptr_t start = (uintptr_t)addr & ~(page - 1);
	size_t rounded = sys_whole_pages(len + ((uintptr_t)addr - start));

	if (!in_window(start, rounded))
		return posix_result(sys_mlock2((uintptr_t)addr, len, flags));
	return locked_over_range(&call, start, rounded);
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
	return posix_result(ret);
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
	return posix_result(ret);
}
