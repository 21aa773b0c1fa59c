/*
 * How a child gets pages: straight from where they lie in the program's memory, or by hand
 * where that might wait for a userfaultfd, which is the pager's own, or is not allowed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define PAGEMAP_PRESENT ((uint64_t)1 << 63)	/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define PAGEMAP_PROTECTED ((uint64_t)1 << 57)	/* by a userfaultfd */

/* Something is about to be told: what a child lacks may lie elsewhere by now, or nowhere, and
 * something else there. */
static int is_unsure(const struct pager *p)
{
	return uffd_memory_changes(p->uffd);
}

static int is_there(uint64_t entry, int unsure)
{
	return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) &&
	       (!unsure || entry & PAGEMAP_PROTECTED);
}

/* How much of [from, from + len) comes before the first hole: where the entry of the page table
 * is empty. One of a page that was lost is not: a poisoned page, one that could not be swapped
 * in, and a guard leave a mark there. While nothing is sure, what is not protected is one too:
 * a page that a child lacks is. */
static size_t look(struct pager *p, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), n = len / page, i = 0, size = n * sizeof(p->entries[0]);
	unsigned char there[TABLE_SIZE / 4096];
	int unsure = is_unsure(p);

	if (n > 1 && !unsure && sys_mincore(from, len, there) == 0)	/* a tenth of the price */
		while (i < n && there[i] & 1)
			i++;
	if (i == n)
		return len;
	i = 0;
	if (sys_pread(p->pagemap, p->entries, size,
		      (off_t)(from / page * sizeof(p->entries[0]))) != (long)size)
		return 0;
	while (i < n && !is_there(p->entries[i], unsure))
		i++;
	if (n > 1)
		p->by_hand = (struct pager_area){ from, from + i * page };
	if (i)
		return 0;
	while (i < n && is_there(p->entries[i], unsure))
		i++;
	return i * page;
}

static int is_by_hand(const struct pager *p, uintptr_t from)
{
	return from >= p->by_hand.start && from < p->by_hand.end;
}

/* How much need not be tried before something was told, since a page of it need not. */
static size_t rest_by_hand(const struct pager *p, uintptr_t from, size_t len)
{
	size_t rest = is_by_hand(p, from) ? p->by_hand.end - from : sys_page_size();

	return rest < len ? rest : len;
}

/* The same. A look takes a tenth of the time that it takes to serve one page, and next to
 * nothing of what a table takes: at one page only where there is reason to. */
static size_t before_hole(struct pager *p, uintptr_t from, size_t len)
{
	if (len == sys_page_size() && area_is_solid(p, from, from + len) &&
	    !is_unsure(p))
		return len;
	if (is_by_hand(p, from))	/* filled since? no matter */
		return 0;
	return look(p, from, len);
}

/* What a hole holds. A move that is not told yet may have left it (MREMAP_DONTUNMAP), or
 * something that nobody tells of, as a guard does that was there and is no more. */
static int copy_hole(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from)
{
	size_t page = sys_page_size(), done;

	if (is_unsure(p))
		return -EBUSY;
	return area_is_solid(p, from, from + page) ? -EIO : uffd_zero(k->fd, to, page, &done);
}

/* A page that the program may not read itself, or that may be a hole: reading it by that
 * file does not wait for a userfaultfd (FAULT_FLAG_ALLOW_RETRY is not set, mm/memory.c,
 * __access_remote_vm). -EIO: it cannot be read, or is a hole that nobody knows of; -EBUSY: not
 * before something was told. Only memory that is short is waited for; asking why is safe, for
 * what is no hole does not wait either. */
static int copy_by_hand(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from)
{
	size_t page = sys_page_size(), done;
	unsigned char there;

	if (is_unsure(p) && !look(p, from, page))
		return -EBUSY;
	if (sys_pread(p->mem, p->bounce, page, (off_t)from) == (long)page) {
		if (is_unsure(p) && !look(p, from, page))	/* which made it a hole? */
			return -EBUSY;
		return uffd_copy(k->fd, to, (uintptr_t)p->bounce, page, &done);
	}
	if (sys_mincore(from, page, &there) < 0)
		return -EFAULT;
	if (!look(p, from, page))
		return copy_hole(p, k, to, from);
	return sys_madvise(from, page, MADV_POPULATE_READ) == -ENOMEM ? -ENOMEM : -EIO;
}

/* Of what may become a hole in the midst of it, at which the pager would wait for itself: what
 * was moved, and may move on (MREMAP_DONTUNMAP), and what was emptied once. A removal that was
 * told of goes on when that was read, and takes its time. */
static int copy_shaky(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len,
		      size_t *ret_done)
{
	size_t solid = look(p, from, len < sizeof(p->bounce) ? len : sizeof(p->bounce));
	int ret;

	*ret_done = 0;
	if (!solid || sys_pread(p->mem, p->bounce, solid, (off_t)from) != (long)solid ||
	    look(p, from, solid) != solid)
		return -EFAULT;
	ret = uffd_copy(k->fd, to, (uintptr_t)p->bounce, solid, ret_done);
	if (ret == 0)
		*ret_done = solid;
	return ret;
}

static int copy_directly(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len,
			 size_t *ret_done)
{
	size_t solid = before_hole(p, from, len);
	int ret = -EFAULT;

	*ret_done = 0;
	if (solid && (p->moving || !area_is_solid(p, from, from + solid)))
		ret = copy_shaky(p, k, to, from, solid, ret_done);
	else if (solid)
		ret = uffd_copy(k->fd, to, from, solid, ret_done);
	if (ret == 0 && !*ret_done)
		*ret_done = solid;
	if (ret == -EFAULT && !*ret_done) {
		ret = copy_by_hand(p, k, to, from);
		*ret_done = ret == 0 ? sys_page_size() : 0;
	}
	return ret;
}

long kid_copy(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), done;
	int ret;

	len = len < TABLE_SIZE ? len : TABLE_SIZE;
	ret = copy_directly(p, k, to, from, len, &done);
	atomic_fetch_add(&p->news.bytes, done);
	if (k->wanted - to < done)
		k->wanted = 0;
	if (done)
		return (long)done;
	switch (ret) {
	case -EAGAIN:
	case -ESRCH:
		return ret;
	case -ENOENT:	/* more than one mapping, or none; moved this moment? */
		if (len > page)
			return kid_copy(p, k, to, from, len / 2 & ~(page - 1));
		return uffd_memory_changes(k->fd) ? -EAGAIN : (long)page;
	case -ENOMEM:
		sys_poll(NULL, 0, NO_MEMORY_MS);
		return 0;
	case -EEXIST:	/* it has this page */
		return (long)page;
	case -EBUSY:
		k->gone = 1;
		return (long)rest_by_hand(p, from, len);
	case -EFAULT:	/* it may only have moved, which is told next */
		if (uffd_memory_changes(p->uffd))
			k->gone = 1;
		else
			range_lose(k, to, to + page, LOST_UNMAPPED);
		return (long)page;
	default:
		range_lose(k, to, to + page, LOST_UNREADABLE);
		return (long)page;
	}
}
