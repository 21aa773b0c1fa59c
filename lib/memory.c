/*
 * What the public memory calls are built of: place, unmap, zero, detach. Each
 * works on one store, piece by piece of its extents, and leaves every piece in
 * a correct state also when it fails half-way.
 *
 * Bytes of the store that a descendant may see are never changed here: freeing
 * FROZEN memory only marks it stale; freeze_reap() punches it later.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "freeze.h"
#include "huge.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

/* Above this, zeros come by mapping rather than by writing them. */
#define ZERO_BY_HAND ((size_t)64 << 10)
#define PIECES_MANY 1024u

/* May a descendant see the store's bytes there? */
static int may_be_seen(const struct extent *e)
{
	return e->state == EXTENT_FROZEN || (e->flags & (EXTENT_STALE | EXTENT_PINNED));
}

static void note_owned(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	extents_set(&s->extents, start, end, EXTENT_OWNED, prot, 0);
	s->owns = 1;
	huge_restart(s);
}

int memory_commit(struct store *s, uintptr_t at, size_t size, int prot)
{
	if (!store_have_room(s) || freeze_reserve(s, 2) < 0 ||
	    store_commit(s, at, size, prot) < 0)
		return COW_REASON_MAPS;
	note_owned(s, at, at + size, prot);
	if (!atomic_load(&process.in_use))
		atomic_store(&process.in_use, 1);
	return COW_REASON_NONE;
}

static int place_in(struct store *s, size_t size, size_t align, int prot,
		    uintptr_t *ret_addr)
{
	uintptr_t at = extents_fit(&s->extents, size, align);
	int why = at ? memory_commit(s, at, size, prot) : COW_REASON_ADDRESS;

	if (!why)
		*ret_addr = at;
	return why;
}

/* It costs some microseconds a descriptor: looked at once a second at most, and
 * for no more than a thousandth of the time. */
int memory_may_be_pinned(void)
{
	struct life *life = process.life;
	uint64_t now = sys_now_ns(), took;

	if (now >= life->pins_next) {
		life->pins = procfs_pins() > 0;
		took = sys_now_ns() - now;
		life->pins_next = now + (took > 1000000u ? took * 1000u : 1000000000u);
	}
	return life->pins;
}

static int why_not(void)
{
	if (!options_use_store())
		return COW_REASON_OFF;
	if (process_forking())
		return COW_REASON_FORKING;
	if (process.lock_future)
		return COW_REASON_LOCKED;
	return memory_may_be_pinned() ? COW_REASON_PINNED : COW_REASON_NONE;
}

/* Whole tables where that leaves no gap: neighbours merge, and one move freezes
 * them all. */
size_t memory_align(size_t size)
{
	return size % TABLE_SIZE ? sys_page_size() : TABLE_SIZE;
}

int memory_place(size_t size, size_t align, int prot, uintptr_t *ret_addr)
{
	struct store *fresh;
	int why = why_not();

	if (why)
		return why;
	why = COW_REASON_ADDRESS;
	if (!align)
		align = memory_align(size);
	freeze_reap();
	process_each_own(s) {
		if (!store_reserves(s))
			continue;
		why = place_in(s, size, align, prot, ret_addr);
		if (why != COW_REASON_ADDRESS)
			return why;
	}
	why = store_open(size, align, &fresh);
	return why ? why : place_in(fresh, size, align, prot, ret_addr);
}

int memory_place_at(uintptr_t at, size_t size, int prot)
{
	struct store *s;
	int why = why_not();

	if (!why)
		why = store_open_at(at, size, &s);
	return why ? why : memory_commit(s, at, size, prot);
}

/* --- renew -------------------------------------------------------------- */

static int renew_piece(struct store *s, const struct extent *e, int prot)
{
	size_t len = e->end - e->start;
	int seen = may_be_seen(e);
	int ret = freeze_reserve(s, 2);

	if (ret == 0 && (e->flags & EXTENT_FOREIGN || (seen && !lease_free(&s->lease))))
		ret = -EAGAIN;
	if (ret < 0)
		return ret;
	if (e->state == EXTENT_OWNED || seen)
		ret = store_punch(s, e->start, len);
	if (ret == 0 && (e->state == EXTENT_OWNED || e->state == EXTENT_FREE))
		ret = store_commit(s, e->start, len, prot);
	else if (ret == 0)
		ret = store_renew(s, e->start, len, prot);
	if (ret == 0)
		note_owned(s, e->start, e->end, prot);
	return ret;
}

int memory_renew(struct store *s, uintptr_t start, uintptr_t end, int prot)
{
	if (!store_reserves(s) || process_forking() || process.lock_future ||
	    !options_use_store())
		return -EAGAIN;
	extents_each(e, &s->extents, start, end) {
		int ret = store_have_room(s) ? renew_piece(s, &e, prot) : -ENOMEM;

		if (ret < 0)
			return ret;
	}
	return 0;
}

void memory_yield(struct store *s, uintptr_t start, uintptr_t end, int prot,
		  unsigned flags)
{
	extents_each(e, &s->extents, start, end) {
		int stale = may_be_seen(&e);

		if (s->adopted && e.state == EXTENT_FREE)
			continue;
		if (e.state == EXTENT_OWNED && !s->inherited)
			stale |= store_punch(s, e.start, e.end - e.start) < 0;
		if (s->inherited)
			stale = 0;
		if (s->adopted && flags && !(e.flags & EXTENT_FOREIGN))
			extents_set(&s->extents, e.start, e.end, EXTENT_FREE, 0,
				    stale ? EXTENT_STALE : 0);
		else if (!(e.flags & EXTENT_FOREIGN))
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE,
				    prot & 7, flags | (stale ? EXTENT_STALE : 0));
		s->stale |= stale;
	}
}

/* --- unmap -------------------------------------------------------------- */

/* OWNED memory was never seen by a descendant: its bytes can go at once. */
static int unmap_owned(struct store *s, const struct extent *e)
{
	int ret = freeze_reserve(s, 2), stale;

	if (ret == 0)
		ret = store_decommit(s, e->start, e->end - e->start);
	if (ret < 0)
		return ret;
	/* refused (a filter?): try again later, and do not use it again till then */
	stale = store_punch(s, e->start, e->end - e->start) < 0;
	extents_set(&s->extents, e->start, e->end, EXTENT_FREE, 0,
		    stale ? EXTENT_STALE : 0);
	s->stale |= stale;
	return 0;
}

/* No address space or map for a reservation (RLIMIT_AS): the place is the
 * kernel's for good, and the store's bytes are kept if anybody looks. */
static int give_up(struct store *s, const struct extent *e)
{
	if (sys_munmap(e->start, e->end - e->start) < 0)
		return -ENOMEM;
	if (lease_free(&s->lease))
		(void)store_punch(s, e->start, e->end - e->start);
	extents_set(&s->extents, e->start, e->end, EXTENT_NATIVE, 0, EXTENT_FOREIGN);
	return 0;
}

static int unmap_other(struct store *s, const struct extent *e)
{
	int stale = may_be_seen(e);

	if (store_reserve(s, e->start, e->end - e->start) < 0)
		return give_up(s, e);
	extents_set(&s->extents, e->start, e->end, EXTENT_FREE, 0,
		    stale ? EXTENT_STALE : 0);
	s->stale |= stale;
	return 0;
}

static int unmap_inherited(struct store *s, const struct extent *e)
{
	int ret = sys_munmap(e->start, e->end - e->start);

	if (ret == 0 && e->state != EXTENT_FREE)
		extents_set(&s->extents, e->start, e->end, EXTENT_FREE, 0, 0);
	return ret;
}

static int unmap_adopted(struct store *s, const struct extent *e)
{
	int ret = sys_munmap(e->start, e->end - e->start), stale = may_be_seen(e);

	if (ret < 0 || e->state == EXTENT_FREE || e->flags & EXTENT_FOREIGN)
		return ret;
	extents_set(&s->extents, e->start, e->end, EXTENT_FREE, 0, stale ? EXTENT_STALE : 0);
	s->stale |= stale;
	return 0;
}

static int unmap_piece(struct store *s, const struct extent *e)
{
	if (s->inherited)
		return unmap_inherited(s, e);
	if (s->adopted)
		return unmap_adopted(s, e);
	if (e->flags & EXTENT_FOREIGN)
		return sys_munmap(e->start, e->end - e->start);
	if (e->state == EXTENT_FREE)
		return 0;
	if (e->state == EXTENT_OWNED)
		return unmap_owned(s, e);
	return unmap_other(s, e);
}

int memory_unmap(struct store *s, uintptr_t start, uintptr_t end)
{
	extents_each(e, &s->extents, start, end) {
		int ret = store_have_room(s) ? unmap_piece(s, &e) : -ENOMEM;

		if (ret < 0)
			return ret;
	}
	if (s->stale)
		freeze_reap();
	return 0;
}

/* --- zero --------------------------------------------------------------- */

void memory_advise_again(uintptr_t start, size_t len, unsigned flags)
{
	if (flags & EXTENT_DONTFORK)
		sys_madvise(start, len, MADV_DONTFORK);
	if (flags & EXTENT_DONTDUMP)
		sys_madvise(start, len, MADV_DONTDUMP);
}

/* MADV_COLD changes no byte, and is refused on locked memory (mm/madvise.c). */
int memory_is_locked(uintptr_t start, size_t len)
{
	return sys_madvise(start, len, MADV_COLD) == -EINVAL;
}

void memory_lock_as(uintptr_t start, size_t len, int locked)
{
	if (locked)
		sys_mlock2(start, len, 0);
	else if (process.lock_future)
		sys_munlock(start, len);
}

/* The store's bytes wait for descendants. */
int memory_empty(struct store *s, const struct extent *e, unsigned flags)
{
	long p = sys_mmap(e->start, e->end - e->start, e->prot,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
			  -1, 0);

	if (sys_failed(p))
		return (int)p;
	process_native(COW_REASON_CALL);
	flags |= e->flags & (EXTENT_DONTFORK | EXTENT_DONTDUMP);
	extents_set(&s->extents, e->start, e->end, EXTENT_NATIVE, e->prot,
		    flags | (s->inherited ? 0 : EXTENT_STALE));
	s->stale = 1;
	memory_lock_as(e->start, e->end - e->start, 0);
	memory_advise_again(e->start, e->end - e->start, e->flags);
	return 0;
}

/* Where nothing can be mapped. Never fails half-way. */
int memory_zero_by_hand(const struct extent *e)
{
	const int rw = PROT_READ | PROT_WRITE;
	size_t len = e->end - e->start;
	int ret = (e->prot & rw) == rw ? 0 : sys_mprotect(e->start, len, e->prot | rw);

	if (ret < 0)
		return ret;
	sys_zero((void *)e->start, len);
	return (e->prot & rw) == rw ? 0 : sys_mprotect(e->start, len, e->prot);
}

/* Each piece that is zeroed by mapping costs maps: where there are many already,
 * only whole tables are worth one. */
static int is_small(const struct store *s, const struct extent *e)
{
	const int rw = PROT_READ | PROT_WRITE;
	size_t limit = s->extents.count < PIECES_MANY ? ZERO_BY_HAND : TABLE_SIZE;

	return e->end - e->start <= limit && (e->prot & rw) == rw;
}

static int zero_ours(struct store *s, const struct extent *e)
{
	int ret;

	if (e->state == EXTENT_OWNED)
		ret = store_punch(s, e->start, e->end - e->start);
	else if (is_small(s, e))
		return memory_zero_by_hand(e);
	else
		ret = memory_renew(s, e->start, e->end, e->prot);
	if (ret < 0)
		ret = memory_empty(s, e, 0);
	return ret < 0 ? memory_zero_by_hand(e) : ret;
}

static int zero_piece(struct store *s, const struct extent *e)
{
	int ret;

	if (memory_is_ours(s, e))
		return zero_ours(s, e);
	if (e->flags & EXTENT_PINNED) {
		ret = memory_empty(s, e, 0);
		return ret < 0 ? memory_zero_by_hand(e) : ret;
	}
	if (e->state == EXTENT_FREE && store_reserves(s))
		return -ENOMEM;
	return sys_madvise(e->start, e->end - e->start, MADV_DONTNEED);
}

int memory_zero(struct store *s, uintptr_t start, uintptr_t end)
{
	int result = 0;

	extents_each(e, &s->extents, start, end) {
		int ret = store_have_room(s) ? zero_piece(s, &e) : -ENOMEM;

		if (ret < 0)
			result = ret;
	}
	return result;
}

/* --- copy --------------------------------------------------------------- */

/* A page of zeros is not written. Reading a hole would fill it, so the kernel is
 * asked what is in memory; with swap that tells nothing (mincore(2)). */
static void copy_table(uintptr_t to, uintptr_t from, size_t len, int all)
{
	const size_t page = 4096;
	unsigned char present[TABLE_SIZE / 4096];

	all = all || sys_mincore(from, len, present) < 0;
	for (size_t at = 0; at < len; at += page)
		if ((all || present[at / page] & 1) && !sys_is_zero((void *)(from + at), page))
			sys_copy((void *)(to + at), (void *)(from + at), page);
}

void memory_copy_pages(uintptr_t to, uintptr_t from, size_t len)
{
	int all = sys_has_swap() || sys_page_size() != 4096;

	for (size_t at = 0; at < len; at += TABLE_SIZE)
		copy_table(to + at, from + at, len - at < TABLE_SIZE ? len - at : TABLE_SIZE,
			   all);
}

void memory_copy(struct store *s, uintptr_t to, uintptr_t from, size_t len, int gone)
{
	int all = sys_has_swap() || sys_page_size() != 4096;

	extents_each(e, &s->extents, from, from + len)
		for (uintptr_t at = e.start; at < e.end; at += TABLE_SIZE) {
			size_t n = e.end - at < TABLE_SIZE ? e.end - at : TABLE_SIZE;

			copy_table(to + (at - from), at, n, all);
			if (gone && e.state == EXTENT_OWNED && !s->inherited)
				(void)store_punch(s, at, n);
		}
}

static int pass(void *arg, uintptr_t start, size_t len)
{
	(void)arg;
	(void)start;
	(void)len;
	return 0;
}

/* The program's own, by a call that nobody saw: to be left there. */
static int has_guards(uintptr_t start, size_t len)
{
	return procfs_private(start, len, pass, NULL) == -EPERM;
}

int memory_lay_copy(uintptr_t to, uintptr_t from, size_t len, int prot)
{
	long p;
	int ret;

	if (has_guards(from, len))
		return -EAGAIN;
	p = sys_mmap(0, len, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sys_failed(p))
		return -ENOMEM;
	ret = sys_mprotect(from, len, prot | PROT_READ);
	if (ret == 0) {
		memory_copy_pages((uintptr_t)p, from, len);
		ret = sys_mprotect((uintptr_t)p, len, prot);
	}
	if (ret == 0)
		ret = sys_failed(sys_mremap((uintptr_t)p, len, len,
				MREMAP_MAYMOVE | MREMAP_FIXED, to)) ? -ENOMEM : 0;
	if (ret < 0) {
		sys_munmap((uintptr_t)p, len);
		sys_mprotect(from, len, prot);
	}
	return ret;
}

int memory_make_anonymous(struct store *s, const struct extent *e, unsigned flags)
{
	size_t len = e->end - e->start;
	int locked = e->flags & EXTENT_PINNED && memory_is_locked(e->start, len);
	int ret = memory_lay_copy(e->start, e->start, len, e->prot);

	if (ret < 0)
		return ret;
	process_native(COW_REASON_CALL);
	flags |= e->flags & (EXTENT_DONTFORK | EXTENT_DONTDUMP);
	memory_yield(s, e->start, e->end, e->prot, flags);
	memory_lock_as(e->start, len, locked);
	memory_advise_again(e->start, len, e->flags);
	return 0;
}

/* --- detach ------------------------------------------------------------- */

/* A FROZEN mapping is right with the kernel's copy-on-write alone. So memory
 * that the kernel is to serve is frozen and then left alone for good: nothing
 * is copied, and no writer needs to be stopped. */
int memory_detach(struct store *s, uintptr_t start, uintptr_t end,
		  enum cow_reason reason)
{
	if (s->closed && store_reopen(s, 0, 0) < 0)
		return -ENOMEM;
	extents_each(e, &s->extents, start, end) {
		int ret = 0;

		if (!store_have_room(s))
			return -ENOMEM;
		if (e.state == EXTENT_NATIVE && !(e.flags & EXTENT_FOREIGN))
			extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
				    e.flags | EXTENT_KEEP);
		if (!memory_is_ours(s, &e))
			continue;
		if (e.state == EXTENT_OWNED)
			ret = freeze_range(s, e.start, e.end - e.start);
		if (ret == 0 && !store_have_room(s))
			ret = -ENOMEM;
		if (ret < 0)
			return -ENOMEM;
		process_native(reason);
		extents_set(&s->extents, e.start, e.end, EXTENT_NATIVE, e.prot,
			    EXTENT_PINNED);
	}
	return s->inherited || !s->owns ? 0 : freeze_reserve(s, 0);
}
