/*
 * mremap(2) on memory in the store. The bare call must never see a window:
 * it would carry a shared mapping out of it, or map the neighbour's offsets. So
 * memory shrinks and grows in place where the window allows, and is copied to
 * fresh memory where it has to move.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "freeze.h"
#include "memory.h"
#include "process.h"
#include "region.h"
#include "sys.h"

struct move {
	struct store *s;	/* that holds the source */
	struct extent source;	/* [addr, addr + old_len) */
	uintptr_t addr, new_addr;
	size_t old_len, new_len;
	int flags;
	int native;		/* the source is the program's own mapping */
};

/* Grow into clean free window behind, if the last piece is plain OWNED. */
static int grow_in_place(const struct move *m)
{
	struct store *s = m->s;
	uintptr_t end = m->addr + m->old_len;
	size_t more = m->new_len - m->old_len;
	struct extent next;

	if (s->inherited || m->source.state != EXTENT_OWNED || process_forking() ||
	    end + more < end || end + more > s->base + s->size)
		return -ENOMEM;
	next = extents_piece(&s->extents, end, s->base + s->size);
	if (next.state != EXTENT_FREE || next.flags || next.end - next.start < more ||
	    !store_have_room(s) || freeze_reserve(s, 2) < 0 ||
	    store_commit(s, end, more, m->source.prot) < 0)
		return -ENOMEM;
	extents_set(&s->extents, end, end + more, EXTENT_OWNED, m->source.prot, 0);
	s->owns = 1;
	return 0;
}

/* Where the moved memory goes. Advice on it moves along. */
static long make_target(const struct move *m)
{
	const int rw = PROT_READ | PROT_WRITE;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *p;

	if (m->flags & MREMAP_FIXED)
		flags |= MAP_FIXED;
	if (m->source.flags & (EXTENT_DONTFORK | EXTENT_DONTDUMP))
		flags |= MEMORY_NATIVE;
	p = cow_mmap((void *)m->new_addr, m->new_len, rw, flags, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	memory_advise_again((uintptr_t)p, m->new_len, m->source.flags);
	return (long)p;
}

/* Copy page by page; pages of zeros are not written, so that holes stay. */
static void copy(uintptr_t to, uintptr_t from, size_t len)
{
	static const char zeros[4096];

	for (size_t at = 0; at < len; at += sizeof(zeros))
		if (memcmp((void *)(from + at), zeros, sizeof(zeros)))
			memcpy((void *)(to + at), (void *)(from + at), sizeof(zeros));
}

static long move_away(const struct move *m)
{
	size_t len = m->old_len < m->new_len ? m->old_len : m->new_len;
	int prot = m->source.prot, ret = 0;
	long target;

	if (!(prot & PROT_READ))
		ret = sys_mprotect(m->addr, m->old_len, prot | PROT_READ);
	if (ret < 0)
		return ret;
	target = make_target(m);
	if (sys_failed(target)) {
		sys_mprotect(m->addr, m->old_len, prot);
		return target;
	}
	copy((uintptr_t)target, m->addr, len);
	if (prot != (PROT_READ | PROT_WRITE))
		ret = cow_mprotect((void *)target, m->new_len, prot);
	if (!(prot & PROT_READ))
		sys_mprotect(m->addr, m->old_len, prot);
	if (m->flags & MREMAP_DONTUNMAP)
		ret |= memory_zero(m->s, m->addr, m->addr + m->old_len);
	else
		ret |= memory_unmap(m->s, m->addr, m->addr + m->old_len);
	if (!(m->flags & MREMAP_DONTUNMAP))
		region_cut(m->addr, m->addr + m->old_len);
	/* the contents are at the target whatever happened to the rest */
	return target;
}

/* Grow what was moved to target. The kernel wants one mapping; overlays lie in
 * pieces, but they are anonymous, and so is more of them. */
static long grow_at(const struct move *m, uintptr_t target, size_t len)
{
	const int plain = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t more = m->new_len - len;
	long ret;

	sys_munmap(target + len, more);
	ret = sys_mremap(target, len, m->new_len,
			 m->flags & MREMAP_FIXED ? 0 : MREMAP_MAYMOVE, 0);
	if (ret != -EFAULT)
		return ret;
	ret = sys_mmap(target + len, more, m->source.prot,
		       plain | MAP_FIXED_NOREPLACE, -1, 0);
	if (sys_failed(ret))
		return -ENOMEM;
	memory_advise_again(target + len, more, m->source.flags);
	return (long)target;
}

/* The program's own mapping within a window: the kernel moves it, but leaves it
 * in place too (MREMAP_DONTUNMAP), so that no hole opens in the window before
 * memory_unmap() closes it. */
static long move_native(const struct move *m)
{
	const int none = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MEMORY_NATIVE;
	size_t len = m->old_len < m->new_len ? m->old_len : m->new_len;
	int fixed = m->flags & MREMAP_FIXED;
	void *p = cow_mmap((void *)m->new_addr, m->new_len, PROT_NONE,
			   none | (fixed ? MAP_FIXED : 0), -1, 0);
	uintptr_t target = (uintptr_t)p;
	long ret;

	if (p == MAP_FAILED)
		return -ENOMEM;
	/* several mappings move one by one: none may meet the limit of maps */
	spare_release(&m->s->spare);
	ret = sys_mremap(m->addr, len, len,
			 MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, target);
	if (!m->s->inherited)
		(void)freeze_reserve(m->s, 0);
	if (sys_failed(ret)) {
		sys_munmap(target, m->new_len);
		return ret;
	}
	if (m->new_len > len)
		ret = grow_at(m, target, len);
	if (sys_failed(ret)) {	/* back again */
		sys_mremap(target, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, m->addr);
		return ret;
	}
	if (!(m->flags & MREMAP_DONTUNMAP) &&
	    memory_unmap(m->s, m->addr, m->addr + m->old_len) < 0)
		return -ENOMEM;
	if (!(m->flags & MREMAP_DONTUNMAP))
		region_cut(m->addr, m->addr + m->old_len);
	return ret;
}

static int overlaps(uintptr_t a, size_t a_len, uintptr_t b, size_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static int check(const struct move *m)
{
	const int known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
	size_t page = sys_page_size();

	if (m->flags & ~known || m->addr & (page - 1) || !m->old_len || !m->new_len)
		return -EINVAL;
	if (m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(m->flags & MREMAP_MAYMOVE))
		return -EINVAL;
	if (m->flags & MREMAP_DONTUNMAP && m->old_len != m->new_len)
		return -EINVAL;
	if (m->flags & MREMAP_FIXED &&
	    (m->new_addr & (page - 1) || m->new_addr + m->new_len < m->new_addr ||
	     overlaps(m->addr, m->old_len, m->new_addr, m->new_len)))
		return -EINVAL;
	return 0;
}

static long remap_ours(const struct move *m)
{
	int move = m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP);
	int ret;

	if (!move && m->new_len <= m->old_len) {
		ret = m->new_len == m->old_len ? 0 :
			memory_unmap(m->s, m->addr + m->new_len, m->addr + m->old_len);
		if (ret < 0)
			return ret;
		region_cut(m->addr + m->new_len, m->addr + m->old_len);
		return (long)m->addr;
	}
	if (!move && grow_in_place(m) == 0)
		return (long)m->addr;
	if (!(m->flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	return m->native ? move_native(m) : move_away(m);
}

/* The kernel wants one mapping. An overlay (memory.c) lies in pieces where plain
 * memory would be one, so pieces of one protection count as one. */
static int find_source(struct move *m)
{
	unsigned flags = 0;

	m->source = extents_piece(&m->s->extents, m->addr, m->addr + m->old_len);
	m->native = m->source.end == m->addr + m->old_len &&
		    m->source.state == EXTENT_NATIVE &&
		    !(m->source.flags & EXTENT_PINNED);
	extents_each(e, &m->s->extents, m->addr, m->addr + m->old_len) {
		if (e.state == EXTENT_FREE || e.prot != m->source.prot)
			return -EFAULT;
		flags |= e.flags;
	}
	if (m->source.end != m->addr + m->old_len)
		m->source.state = EXTENT_NATIVE;	/* cannot grow in place */
	m->source.flags = (uint8_t)flags;
	return 0;
}

static long remap_from_window(struct move *m)
{
	uintptr_t end = m->addr + m->old_len;
	int ret = check(m);

	if (ret < 0)
		return ret;
	if (m->addr < m->s->base || end > m->s->base + m->s->size)
		return -EFAULT;
	/* shrinking is an munmap, and crosses mappings as one does */
	if (!(m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && m->new_len < m->old_len)
		return remap_ours(m);
	ret = find_source(m);
	return ret < 0 ? ret : remap_ours(m);
}

/* Is the source a mapping that the library did not make? In an inherited window
 * all that is FREE is the kernel's, and a shared mapping of the program's may be
 * asked for a second view (old size 0). */
static int is_foreign(const struct move *m)
{
	size_t len = m->old_len ? m->old_len : 1;
	struct extent e;

	if (!m->s)
		return 1;
	if (m->addr < m->s->base)
		return 0;
	e = extents_piece(&m->s->extents, m->addr, m->addr + len);
	if (e.state == EXTENT_FREE)
		return m->s->inherited && e.end == m->addr + len;
	return e.state == EXTENT_NATIVE && !(e.flags & EXTENT_PINNED) && !m->old_len;
}

/* The kernel moves it. A target in a window is made native first, so that the
 * window's table says so. */
static long remap_foreign(const struct move *m, int into_window)
{
	struct move whole = *m;
	void *p;

	if (!whole.old_len)	/* a second view of a shared mapping */
		whole.old_len = whole.new_len;
	if (!into_window || check(&whole) < 0)
		return sys_mremap(m->addr, m->old_len, m->new_len, m->flags, m->new_addr);
	p = cow_mmap((void *)m->new_addr, m->new_len, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE |
		     MEMORY_NATIVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	return sys_mremap(m->addr, m->old_len, m->new_len, m->flags, m->new_addr);
}

void *cow_mremap(void *addr, size_t old_len, size_t new_len, int flags, void *new_addr)
{
	struct move m = {
		.addr = (uintptr_t)addr,
		.old_len = sys_whole_pages(old_len), .new_len = sys_whole_pages(new_len),
		.flags = flags,
	};
	int fixed = flags & MREMAP_FIXED;
	struct store *target;
	long ret;

	/* elsewhere it is no more than a hint */
	m.new_addr = fixed ? (uintptr_t)new_addr : 0;
	m.s = process_store_at(m.addr, m.old_len ? m.old_len : 1);
	target = fixed ? process_store_at(m.new_addr, m.new_len) : NULL;
	if (!m.s && !target) {
		ret = sys_mremap(m.addr, old_len, new_len, flags, (uintptr_t)new_addr);
	} else {
		process_lock();
		ret = is_foreign(&m) ? remap_foreign(&m, target != NULL)
				     : remap_from_window(&m);
		process_unlock();
	}
	if (!sys_failed(ret))
		return (void *)ret;
	errno = (int)-ret;
	return MAP_FAILED;
}
