/*
 * mremap(2) on memory in the store. The bare call must never see a window:
 * it would carry a shared mapping out of it, or map the neighbour's offsets. So
 * memory shrinks and grows in place where the window allows, and is copied to
 * fresh memory where it has to move. What the program mapped there itself the
 * kernel moves, by way of reserved address space, so that a call which it
 * refuses has touched neither source nor target. (Longer than others: all these
 * ways share the checks, and the way back where one is refused.)
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
#include "gate.h"
#include "in-place.h"
#include "memory.h"
#include "options.h"
#include "pager.h"
#include "process.h"
#include "procfs.h"
#include "region.h"
#include "sys.h"
#include "verify.h"

enum { ONTO = MREMAP_MAYMOVE | MREMAP_FIXED,
       MOVES_ALONG = EXTENT_PROGRAM | EXTENT_KEEP | EXTENT_DONTFORK | EXTENT_DONTDUMP };

/* What the source is made of, and so how it moves. */
enum kind { KIND_OURS, KIND_NATIVE, KIND_MIXED };

struct move {
	struct store *s;	/* that holds the source */
	struct extent source;	/* [addr, addr + old_len) */
	uintptr_t addr, new_addr;
	size_t old_len, new_len;
	int flags;
	enum kind kind;
};

static enum kind kind_of(const struct extent *e)
{
	return e->state == EXTENT_NATIVE && !(e->flags & EXTENT_PINNED) ? KIND_NATIVE
									: KIND_OURS;
}

static size_t lesser(const struct move *m)
{
	return m->old_len < m->new_len ? m->old_len : m->new_len;
}

/* --- memory of ours ----------------------------------------------------- */

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
	if (next.state != EXTENT_FREE || next.flags || next.end - next.start < more)
		return -ENOMEM;
	return memory_commit(s, end, more, m->source.prot) ? -ENOMEM : 0;
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

/* The contents are at the target whatever happens to the rest. */
static long move_away(const struct move *m)
{
	int prot = m->source.prot, ret = 0;
	int locked = m->source.flags & EXTENT_PINNED &&
		     memory_is_locked(m->addr, m->old_len);
	long target;

	if (!(prot & PROT_READ))
		ret = sys_mprotect(m->addr, m->old_len, prot | PROT_READ);
	if (ret < 0)
		return ret;
	target = make_target(m);
	if (!sys_failed(target))
		memory_copy(m->s, (uintptr_t)target, m->addr, lesser(m), 1);
	if (!(prot & PROT_READ))
		sys_mprotect(m->addr, m->old_len, prot);
	if (sys_failed(target))
		return target;
	if (prot != (PROT_READ | PROT_WRITE))
		(void)!cow_mprotect((void *)target, m->new_len, prot);
	if (m->flags & MREMAP_DONTUNMAP)
		(void)memory_zero(m->s, m->addr, m->addr + m->old_len);
	else
		(void)memory_unmap(m->s, m->addr, m->addr + m->old_len);
	if (locked)
		(void)!cow_mlock2((void *)target, m->new_len, 0);
	else
		memory_lock_as((uintptr_t)target, m->new_len, 0);
	return target;
}

/* --- the program's own mappings ----------------------------------------- */

static int overlaps(uintptr_t a, size_t a_len, uintptr_t b, size_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* Address space for the way, off a target that is free: three ranges of its length
 * cannot all meet it but in one way each. */
static long reserve(const struct move *m)
{
	long at[4];
	int n = 0;

	do
		at[n] = sys_mmap(0, m->new_len, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	while (!sys_failed(at[n]) && m->flags & MREMAP_FIXED && n < 3 &&
	       overlaps((uintptr_t)at[n], m->new_len, m->new_addr, m->new_len) && ++n);
	for (int i = 0; i < n; i++)
		sys_munmap((uintptr_t)at[i], m->new_len);
	return at[n];
}

/* Grow what was moved to `at`. The kernel wants one mapping; overlays lie in
 * pieces, but they are anonymous, and so is more of them. */
static long grow_at(const struct move *m, uintptr_t at)
{
	const int plain = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t more = m->new_len - m->old_len;
	long ret;

	sys_munmap(at + m->old_len, more);
	ret = sys_mremap(at, m->old_len, m->new_len, MREMAP_MAYMOVE, 0);
	if (ret != -EFAULT || m->source.flags & EXTENT_PROGRAM)
		return ret;
	ret = sys_mmap(at + m->old_len, more, m->source.prot,
		       plain | MAP_FIXED_NOREPLACE, -1, 0);
	if (sys_failed(ret))
		return -ENOMEM;
	memory_advise_again(at + m->old_len, more, m->source.flags);
	return (long)at;
}

/* From reserved address space to where it belongs. A window's table is told that
 * the place is the program's. */
static long settle(const struct move *m, uintptr_t at)
{
	const int none = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED |
			 MEMORY_NATIVE;
	uintptr_t to = m->new_addr, end = to + m->new_len, from;
	struct store *s;
	long ret;

	if (!(m->flags & MREMAP_FIXED))
		return (long)at;
	if (cow_mmap((void *)to, m->new_len, PROT_NONE, none, -1, 0) == MAP_FAILED)
		return -ENOMEM;
	ret = sys_mremap(at, m->new_len, m->new_len, ONTO, to);
	while (!sys_failed(ret) && m->s && (s = process_next_window(&to, end, &from)))
		if (store_have_room(s))
			memory_yield(s, from, to, m->source.prot,
				     m->source.flags & MOVES_ALONG);
	return ret;
}

/* MREMAP_DONTUNMAP of a part unlocks the whole mapping, here and what stays. */
struct locks {
	struct extent low, high;
	int moved, low_locked, high_locked;
};

static struct locks locks_around(const struct move *m, size_t len)
{
	const struct extent *e = &m->s->extents.at[extents_find(&m->s->extents, m->addr)];
	struct locks l = { .moved = memory_is_locked(m->addr, len) };

	if (!l.moved || m->addr + len > e->end)
		return l;
	l.low = (struct extent){ .start = e->start, .end = m->addr };
	l.high = (struct extent){ .start = m->addr + len, .end = e->end };
	l.low_locked = l.low.start < l.low.end &&
		       memory_is_locked(l.low.start, l.low.end - l.low.start);
	l.high_locked = l.high.start < l.high.end &&
			memory_is_locked(l.high.start, l.high.end - l.high.start);
	return l;
}

static void lock_again(const struct locks *l, const struct move *m, uintptr_t now)
{
	if (l->moved)
		sys_mlock2(now, m->new_len, 0);
	if (l->low_locked)
		sys_mlock2(l->low.start, l->low.end - l->low.start, 0);
	if (l->high_locked)
		sys_mlock2(l->high.start, l->high.end - l->high.start, 0);
}

/* The kernel moves it, but leaves it in place too (MREMAP_DONTUNMAP), so that no
 * hole opens in the window before memory_unmap() closes it. */
static long move_native(const struct move *m)
{
	size_t len = lesser(m);
	struct locks locks = locks_around(m, len);
	long at = reserve(m), ret;

	if (sys_failed(at))
		return -ENOMEM;
	/* several mappings move one by one: none may meet the limit of maps */
	if (!m->s->inherited)
		spare_release(&m->s->spare);
	ret = sys_mremap(m->addr, len, len, ONTO | MREMAP_DONTUNMAP, (uintptr_t)at);
	if (!m->s->inherited)
		(void)freeze_reserve(m->s, 0);
	if (sys_failed(ret)) {
		sys_munmap((uintptr_t)at, m->new_len);
		return ret;
	}
	if (m->new_len > len) {
		ret = grow_at(m, (uintptr_t)at);
		at = sys_failed(ret) ? at : ret;
	}
	if (!sys_failed(ret))
		ret = settle(m, (uintptr_t)at);
	if (sys_failed(ret)) {	/* back again */
		sys_mremap((uintptr_t)at, len, len, ONTO, m->addr);
		return ret;
	}
	lock_again(&locks, m, (uintptr_t)ret);
	if (!(m->flags & MREMAP_DONTUNMAP) &&
	    memory_unmap(m->s, m->addr, m->addr + m->old_len) < 0)
		return -ENOMEM;
	return ret;
}

/* --- pieces of both ----------------------------------------------------- */

/* Plain memory over reserved address space. */
static long lay_plain(uintptr_t at, size_t len, int prot)
{
	return sys_mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			MAP_FIXED, -1, 0);
}

/* The kernel carries overlays, guards on them included; the rest is copied. */
static long carry_piece(struct store *s, const struct extent *e, uintptr_t to)
{
	const int rw = PROT_READ | PROT_WRITE;
	size_t len = e->end - e->start;
	long ret;

	if (kind_of(e) == KIND_NATIVE)
		return sys_mremap(e->start, len, len, ONTO | MREMAP_DONTUNMAP, to);
	ret = lay_plain(to, len, rw);
	if (!sys_failed(ret) && !(e->prot & PROT_READ))
		ret = sys_mprotect(e->start, len, e->prot | PROT_READ);
	if (sys_failed(ret))
		return ret;
	memory_copy(s, to, e->start, len, 0);
	if (!(e->prot & PROT_READ))
		sys_mprotect(e->start, len, e->prot);
	return e->prot == rw ? 0 : sys_mprotect(to, len, e->prot);
}

static void carry_back(const struct move *m, uintptr_t at, uintptr_t end)
{
	extents_each(e, &m->s->extents, m->addr, end)
		if (kind_of(&e) == KIND_NATIVE)
			sys_mremap(at + (e.start - m->addr), e.end - e.start,
				   e.end - e.start, ONTO, e.start);
	sys_munmap(at, m->new_len);
}

static long move_mixed(const struct move *m)
{
	uintptr_t end = m->addr + lesser(m), done = m->addr;
	long at = reserve(m), ret = 0;

	if (sys_failed(at))
		return -ENOMEM;
	extents_each(e, &m->s->extents, m->addr, end) {
		ret = carry_piece(m->s, &e, (uintptr_t)at + (e.start - m->addr));
		if (sys_failed(ret))
			break;
		done = e.end;
	}
	if (!sys_failed(ret) && m->new_len > m->old_len)
		ret = lay_plain((uintptr_t)at + m->old_len, m->new_len - m->old_len,
				m->source.prot);
	if (!sys_failed(ret)) {
		memory_advise_again((uintptr_t)at, m->new_len, m->source.flags);
		ret = settle(m, (uintptr_t)at);
	}
	if (sys_failed(ret)) {
		carry_back(m, (uintptr_t)at, done);
		return ret;
	}
	if (m->flags & MREMAP_DONTUNMAP)
		(void)memory_zero(m->s, m->addr, m->addr + m->old_len);
	else
		(void)memory_unmap(m->s, m->addr, m->addr + m->old_len);
	return ret;
}

/* --- which way ---------------------------------------------------------- */

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
		return ret < 0 ? ret : (long)m->addr;
	}
	if (!move && grow_in_place(m) == 0)
		return (long)m->addr;
	if (!(m->flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	switch (m->kind) {
	case KIND_NATIVE: return move_native(m);
	case KIND_MIXED: return move_mixed(m);
	case KIND_OURS: break;
	}
	return move_away(m);
}

/* The kernel wants one mapping. An overlay (memory.c) lies in pieces where plain
 * memory would be one, so pieces of one protection and advice count as one. */
static int find_source(struct move *m)
{
	const unsigned apart = EXTENT_DONTFORK | EXTENT_DONTDUMP | EXTENT_PROGRAM;
	unsigned flags = 0, count = 0;

	if (!m->s || m->addr < m->s->base || m->addr + m->old_len > m->s->base + m->s->size)
		return -EFAULT;
	m->source = extents_piece(&m->s->extents, m->addr, m->addr + m->old_len);
	m->kind = kind_of(&m->source);
	extents_each(e, &m->s->extents, m->addr, m->addr + m->old_len) {
		if (e.state == EXTENT_FREE || e.prot != m->source.prot ||
		    (e.flags ^ m->source.flags) & apart)
			return -EFAULT;
		if (kind_of(&e) != m->kind)
			m->kind = KIND_MIXED;
		flags |= e.flags;
		count++;
	}
	if (count > 1)
		m->source.state = EXTENT_NATIVE;	/* cannot grow in place */
	m->source.flags = (uint8_t)flags;
	return 0;
}

/* Several mappings to one place, holes between them left out: since Linux 6.17. */
static long move_pieces(const struct move *all)
{
	extents_each(e, &all->s->extents, all->addr, all->addr + all->old_len) {
		struct move m = *all;
		long ret;

		if (e.state == EXTENT_FREE)
			continue;
		m.addr = e.start;
		m.old_len = m.new_len = e.end - e.start;
		m.new_addr += e.start - all->addr;
		ret = find_source(&m);
		if (ret == 0)
			ret = remap_ours(&m);
		if (sys_failed(ret))
			return ret;
	}
	return (long)all->new_addr;
}

static long remap_from_window(struct move *m)
{
	uintptr_t end = m->addr + m->old_len;
	int ret = check(m);

	if (ret < 0)
		return ret;
	if (m->addr < m->s->base || end > m->s->base + m->s->size ||
	    extents_piece(&m->s->extents, m->addr, end).state == EXTENT_FREE)
		return -EFAULT;
	/* shrinking is an munmap, and crosses mappings as one does */
	if (!(m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && m->new_len <= m->old_len)
		return remap_ours(m);
	ret = find_source(m);
	if (ret == 0)
		return remap_ours(m);
	return m->flags & MREMAP_FIXED && m->old_len == m->new_len ? move_pieces(m) : ret;
}

/* Is the source a mapping that the library did not make? In an inherited window
 * all that is not FROZEN is the kernel's, and a shared mapping of the program's
 * may be asked for a second view (old size 0). */
static int is_foreign(const struct move *m)
{
	uintptr_t start = m->addr, end = start + (m->old_len ? m->old_len : 1);

	if (!m->s)
		return 1;
	if (!m->s->inherited && (m->old_len || start < m->s->base))
		return 0;
	start = start < m->s->base ? m->s->base : start;
	end = end < m->s->base + m->s->size ? end : m->s->base + m->s->size;
	extents_each(e, &m->s->extents, start, end)
		if ((e.state != EXTENT_NATIVE || e.flags & EXTENT_PINNED) &&
		    !(e.state == EXTENT_FREE && m->s->inherited))
			return 0;
	return 1;
}

static long remap_foreign(const struct move *m, int into_window)
{
	struct move whole = *m;
	long at, ret;

	if (!whole.old_len)	/* a second view of a shared mapping */
		whole.old_len = whole.new_len;
	if (!into_window || check(&whole) < 0)
		return sys_mremap(m->addr, m->old_len, m->new_len, m->flags, m->new_addr);
	at = reserve(m);
	if (sys_failed(at))
		return -ENOMEM;
	ret = sys_mremap(m->addr, m->old_len, m->new_len, m->flags, (uintptr_t)at);
	if (sys_failed(ret)) {
		sys_munmap((uintptr_t)at, m->new_len);
		return ret;
	}
	if (!m->old_len || find_source(&whole) < 0)
		whole.s = NULL;	/* no table knows what it is */
	ret = settle(&whole, (uintptr_t)at);
	if (sys_failed(ret) && m->old_len)	/* back again */
		sys_mremap((uintptr_t)at, lesser(m), lesser(m), ONTO, m->addr);
	return ret;
}

/* --- adopted memory ----------------------------------------------------- */

static int is_plain(const struct procfs_map *m)
{
	return !m->ino && !m->shared;
}

static int is_mapped(uintptr_t start, uintptr_t end)
{
	struct procfs_map m;

	for (uintptr_t at = start; at < end; at = m.end)
		if (procfs_map_at(at, &m) < 0)
			return 0;
	return 1;
}

/* Was it one mapping before a part of it was adopted? */
static int was_one(uintptr_t start, uintptr_t end)
{
	struct procfs_map first, m;

	if (procfs_map_at(start, &first) < 0 || !is_plain(&first))
		return 0;
	for (uintptr_t at = first.end; at < end; at = m.end)
		if (procfs_map_at(at, &m) < 0 || !is_plain(&m) || m.prot != first.prot)
			return 0;
	return 1;
}

/* Over the target, mapping by mapping; the last one grows. Back again where one is
 * refused. */
static long carry_mappings(const struct move *m, uintptr_t to)
{
	uintptr_t at = m->addr, end = at + lesser(m), off = to - at;
	struct procfs_map p;
	long ret = 0;

	for (; at < end; at = p.end) {
		size_t len, new_len;

		if (procfs_map_at(at, &p) < 0)
			break;
		p.end = p.end < end ? p.end : end;
		len = p.end - at;
		new_len = p.end < end || m->new_len < m->old_len ? len :
			  len + (m->new_len - m->old_len);
		ret = sys_mremap(at, len, new_len, ONTO | (m->flags & MREMAP_DONTUNMAP),
				 at + off);
		if (sys_failed(ret))
			break;
	}
	if (at >= end)
		return (long)to;
	for (end = at, at = m->addr; at < end; at = p.end)
		if (procfs_map_at(at + off, &p) == 0) {
			p.end = p.end - off < end ? p.end - off : end;
			sys_mremap(at + off, p.end - at, p.end - at, ONTO, at);
		}
	return sys_failed(ret) ? ret : -EFAULT;
}

static long move_mappings(const struct move *m)
{
	const int none = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED |
			 MEMORY_NATIVE;
	long to = (long)m->new_addr, ret;

	if (!(m->flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	if (!(m->flags & MREMAP_FIXED))
		to = reserve(m);
	else if (cow_mmap((void *)to, m->new_len, PROT_NONE, none, -1, 0) == MAP_FAILED)
		return -errno;
	if (sys_failed(to))
		return -ENOMEM;
	ret = carry_mappings(m, (uintptr_t)to);
	if (sys_failed(ret) && !(m->flags & MREMAP_FIXED))
		sys_munmap((uintptr_t)to, m->new_len);
	if (!sys_failed(ret) && m->new_len < m->old_len)
		sys_munmap(m->addr + m->new_len, m->old_len - m->new_len);
	return ret;
}

static int is_given_back(uintptr_t start, uintptr_t end)
{
	uintptr_t from;
	struct store *s;

	while ((s = process_next_window(&start, end, &from)))
		extents_each(e, &s->extents, from, start)
			if (memory_is_ours(s, &e) || e.flags & EXTENT_PINNED)
				return 0;
	return 1;
}

/* As the plain memory that it was: out of its window it would show the store and be looked
 * after by nobody. */
static void make_plain(const struct move *m)
{
	if (check(m) == 0 && (m->new_len > m->old_len ||
			      m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)))
		adopt_give_back(m->addr, m->addr + m->old_len);
}

/* The kernel moves it. What is FREE there is the kernel's anyway. Where it could not be made
 * plain, more of it, and what stays, would be the store's bytes rather than zeros. */
static long remap_adopted(struct move *m, int into_window)
{
	int zeros = m->new_len > m->old_len || m->flags & MREMAP_DONTUNMAP;
	uintptr_t end = m->addr + m->old_len, at = m->addr, from;
	struct store *s;
	long ret;

	while ((s = process_next_window(&at, end, &from)))
		if (!s->adopted)	/* not one mapping */
			return -EFAULT;
	make_plain(m);
	if (check(m) == 0 && zeros && !is_given_back(m->addr, end))
		return -ENOMEM;
	ret = remap_foreign(m, into_window);
	return ret == -EFAULT && was_one(m->addr, end) ? move_mappings(m) : ret;
}

/* The mover may be about to adopt what is there. */
static long remap_natively(uintptr_t addr, size_t old_len, size_t new_len, int flags,
			   uintptr_t new_addr)
{
	uint64_t signals;
	long ret;

	if (!gate_is_needed())
		return sys_mremap(addr, old_len, new_len, flags, new_addr);
	gate_enter(&signals);
	ret = sys_mremap(addr, old_len, new_len, flags, new_addr);
	gate_leave(&signals);
	return ret;
}

/* The in-place engine's registrations, and pages that left it, make more mappings of one.
 * Several at a time, which the kernel moves since 6.17, it leaves half-way at the first one
 * that is registered (mm/mremap.c, vma_multi_allowed). */
static int is_several(const struct move *m)
{
	uintptr_t end = m->addr + m->old_len;
	struct procfs_map first;

	return pager_ever && check(m) == 0 && m->flags & MREMAP_FIXED &&
	       m->old_len == m->new_len && procfs_map_at(m->addr, &first) == 0 &&
	       first.end < end && is_mapped(first.end, end) && sys_kernel_is(6, 17);
}

static long remap_parts(const struct move *m)
{
	return pager_ever && was_one(m->addr, m->addr + m->old_len) ? move_mappings(m) :
								      -EFAULT;
}

/* --- public ------------------------------------------------------------- */

static void tell_regions(const struct move *m, uintptr_t now)
{
	if (now != m->addr && m->old_len && !(m->flags & MREMAP_DONTUNMAP))
		region_cut(m->addr, m->addr + m->old_len);
	else if (now == m->addr && m->new_len < m->old_len)
		region_cut(m->addr + m->new_len, m->addr + m->old_len);
}

static void *remap(struct move m, size_t old_len, size_t new_len, uintptr_t hint)
{
	int fixed = m.flags & MREMAP_FIXED;
	struct store *target;
	long ret;

	m.s = process_store_at(m.addr, m.old_len ? m.old_len : 1);
	if (!m.s)
		make_plain(&m);
	target = fixed ? process_store_at(m.new_addr, m.new_len) : NULL;
	if (!m.s && !target && !region_near(m.addr, m.addr + m.old_len) && !is_several(&m)) {
		ret = remap_natively(m.addr, old_len, new_len, m.flags, hint);
		if (ret != -EFAULT || !pager_ever)
			return call_address(ret);
	}
	process_lock();
	m.s = process_store_at(m.addr, m.old_len ? m.old_len : 1);	/* a new child's are fewer */
	target = fixed ? process_store_at(m.new_addr, m.new_len) : NULL;
	if (target && target->adopted)
		(void)verify_store(target);
	if (m.s && m.s->adopted)
		ret = remap_adopted(&m, target != NULL);
	else if (!m.s && is_several(&m))
		ret = move_mappings(&m);
	else
		ret = is_foreign(&m) ? remap_foreign(&m, target != NULL)
				     : remap_from_window(&m);
	if (ret == -EFAULT)
		ret = remap_parts(&m);
	if (!sys_failed(ret))
		tell_regions(&m, (uintptr_t)ret);
	process_unlock();
	return call_address(ret);
}

void *cow_mremap(void *addr, size_t old_len, size_t new_len, int flags, void *new_addr)
{
	int fixed = flags & MREMAP_FIXED;
	struct move m = {
		.addr = (uintptr_t)addr,
		.old_len = sys_whole_pages(old_len), .new_len = sys_whole_pages(new_len),
		.flags = flags,
		/* elsewhere it is no more than a hint */
		.new_addr = fixed ? (uintptr_t)new_addr : 0,
	};
	int held = in_place_leave(m.addr, m.old_len);
	int held_too = fixed ? in_place_leave(m.new_addr, m.new_len) : 0;
	void *ret = remap(m, old_len, new_len, (uintptr_t)new_addr);

	in_place_left(held_too);
	in_place_left(held);
	return ret;
}
