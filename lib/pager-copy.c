/*
 * How a child gets pages: as they lie in the program's memory, or by hand where reading might
 * wait for a userfaultfd, which is the pager's own, or is not allowed. What was read is looked
 * at once more before the child gets it: every page that a child lacks is write-protected, and
 * what is not was put there since.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define ASK_MS 2000u		/* for questions that take long */
#define LONG_NS 2000000u
#define SLOW_NS 200000u		/* for a page: of thousands of mappings */
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)	/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define PAGEMAP_PROTECTED ((uint64_t)1 << 57)	/* by a userfaultfd */

/* Something is about to be told: what a child lacks may lie elsewhere by now, or nowhere, and
 * something else there. */
static int is_unsure(const struct pager *p)
{
	return uffd_memory_changes(p->uffd);
}

static int is_there(uint64_t entry, int strictly)
{
	return entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) &&
	       (!strictly || entry & PAGEMAP_PROTECTED);
}

/* ... and so is what was moved there, armed as well (MREMAP_FIXED), until that is told: who moves
 * it is in the call for as long. Asked when something has been read, and before a child gets
 * it. Where that takes long it is not asked again before an event was read. */
static int is_moved(struct pager *p, enum keeper_op how, uintptr_t start, size_t len)
{
	const struct keeper_question q = {
		.op = how, .tid = p->parent, .page = p->moving ? p->moving->from : 0,
		.start = start, .end = start + len,
	};
	uint64_t ns = sys_now_ns();
	long answer;

	if (p->unanswered)
		return 1;
	answer = keeper_ask(p, &q);
	ns = sys_now_ns() - ns;
	p->asking += ns > LONG_NS ? ns : 0;
	p->unanswered = answer == 2 || p->asking > ASK_MS * 1000000u;
	return answer != 0;
}

/* The entries of up to a table. How many; 0: it failed. */
static size_t read_entries(struct pager *p, uintptr_t from, size_t len)
{
	size_t n = len / sys_page_size(), size = n * sizeof(p->entries[0]);
	off_t at = (off_t)(from / sys_page_size() * sizeof(p->entries[0]));

	return sys_pread(p->pagemap, p->entries, size, at) == (long)size ? n : 0;
}

void copies_find_holes(struct pager *p, uintptr_t from, size_t len, unsigned char *ret_there)
{
	size_t page = sys_page_size(), n = len / page;
	int is_mapped = sys_mincore(from, len, ret_there) == 0, all = 1;

	for (size_t i = 0; i < n; i++) {
		if (!is_mapped && sys_mincore(from + i * page, page, &ret_there[i]) < 0)
			ret_there[i] = 1;
		all &= ret_there[i];
	}
	if (all & 1)
		return;
	all = !read_entries(p, from, len);	/* it failed: nothing is known to be a hole */
	for (size_t i = 0; i < n; i++)
		ret_there[i] = (unsigned char)((ret_there[i] & 1) || all ||
					       is_there(p->entries[i], 0));
}

/* How much of a range is holes, from its start on. */
static size_t holes(struct pager *p, uintptr_t from, size_t len)
{
	size_t n = read_entries(p, from, len), i = 0;

	while (i < n && !is_there(p->entries[i], 0))
		i++;
	return i * sys_page_size();
}

/* How much of [from, from + len) comes before the first hole: where the entry of the page table
 * is empty. One of a page that was lost is not: a poisoned page, one that could not be swapped
 * in, and a guard leave a mark there. While nothing is sure, what is not protected is one too. */
static size_t look(struct pager *p, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), n = len / page, i = 0;
	unsigned char there[TABLE_SIZE / 4096];
	int strictly = is_unsure(p);

	if (!strictly && sys_mincore(from, len, there) == 0)	/* a tenth of the price */
		while (i < n && there[i] & 1)
			i++;
	if (i == n)
		return len;
	i = 0;
	n = read_entries(p, from, len);
	while (i < n && !is_there(p->entries[i], strictly))
		i++;
	if (n > 1)
		p->by_hand = (struct pager_area){ from, from + i * page };
	if (i)
		return 0;
	while (i < n && is_there(p->entries[i], strictly))
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

/* The same, as was seen before, maybe: filled since? no matter. */
static size_t before_hole(struct pager *p, uintptr_t from, size_t len)
{
	return is_by_hand(p, from) ? 0 : look(p, from, len);
}

/* Of what was read: which pages are not as they were at the fork any more. */
static void look_again(struct pager *p, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), n;

	for (size_t at = 0; at < len; at += n) {
		unsigned char *read = &p->read[at / page];
		size_t known;

		n = len - at < TABLE_SIZE ? len - at : TABLE_SIZE;
		known = read_entries(p, from + at, n);
		for (size_t i = 0; i < n / page; i++)
			if (read[i] == PAGE_READ && (i >= known || !is_there(p->entries[i], 1)))
				read[i] = PAGE_GONE;
	}
}

/* As many pages from there on as are alike. */
static size_t alike(const struct pager *p, size_t at, size_t len)
{
	size_t page = sys_page_size(), n = page;

	while (n < len && p->read[(at + n) / page] == p->read[at / page])
		n += page;
	return n;
}

/* As many as are not gone. */
static size_t before_gone(const struct pager *p, size_t len)
{
	const unsigned char *gone = memchr(p->read, PAGE_GONE, len / sys_page_size());

	return gone ? (size_t)(gone - p->read) * sys_page_size() : len;
}

static enum keeper_op question_of(const struct pager *p, size_t len)
{
	return memchr(p->read, PAGE_ZEROS, len / sys_page_size()) ? KEEPER_MOVES_AWAY
								  : KEEPER_MOVES;
}

/* What is armed lies where it did, as long as nothing is to be told: what was unmapped or moved
 * since was told of, and was not if a thread was killed in that call. Then what was moved onto
 * armed memory looks as if it had been there. */
static int is_intact(struct pager *p)
{
	uint64_t ns = sys_now_ns();
	int missing = 0;

	if (p->moving || p->going)	/* and that is told just now */
		return 1;
	each_area(a)
		missing |= sys_msync(a->start, a->end - a->start, MS_ASYNC) < 0;
	p->slow = sys_now_ns() - ns > SLOW_NS;
	return !missing;
}

/* Was what has been read there at the fork? 0, and *len is how much of it is known: what is gone of
 * that children have had, or it is lost. Or it is told next what was instead: -ESTALE: what was
 * moved there; -EBUSY: nothing was. -ENODATA: nobody tells any more. */
static int is_still(struct pager *p, uintptr_t from, size_t *len)
{
	look_again(p, from, *len);	/* and waits for who is moving something just now */
	if (!is_unsure(p))
		return is_intact(p) ? 0 : is_unsure(p) ? -EBUSY : -ENODATA;
	*len = before_gone(p, *len);
	if (!*len)
		return -EBUSY;
	return is_moved(p, question_of(p, *len), from, *len) ? -ESTALE : 0;
}

/* What is not protected was written before, and the child has it; or a thread that was killed has
 * emptied it, and filled it again. The child faults on the latter alone, or as good as that (who
 * is served for a fault), so the rest of a range need not be lost to it: in pieces that would be
 * too many. */
static int has_page(struct kid *k, uintptr_t to)
{
	size_t done;
	int ret;

	if (k->wanted)
		return to != k->wanted;
	ret = uffd_poison(k->fd, to, sys_page_size(), &done);
	return ret == -EEXIST || ret == -ESRCH;
}

/* What was read (NULL: zeros), but for pages that the child has, and those that it has no mapping
 * for; a mapping at a time. */
static int hand_out(struct pager *p, struct kid *k, uintptr_t to, const char *data, size_t len,
		    size_t *ret_done)
{
	size_t page = sys_page_size(), at = 0, n = len, done;
	int ret = 0;

	while (at < len) {
		ret = data ? uffd_copy(k->fd, to + at, (uintptr_t)data + at, n, &done)
			   : uffd_zero(k->fd, to + at, n, &done);
		atomic_fetch_add(&p->news.bytes, done);
		if (ret == -ENOENT && !done && n > page) {
			n = n / 2 & ~(page - 1);
			continue;
		}
		if (ret == -ENOENT && !done && uffd_memory_changes(k->fd))
			ret = -EAGAIN;	/* it moved this moment */
		if (ret == -EEXIST || ret == -ENOENT)
			done = done ? done : page;
		if (!done && ret < 0)
			break;
		at += ret == 0 ? n : done;
		n = len - at;
	}
	*ret_done = at;
	return at == len ? 0 : ret;
}

/* What is gone, and nobody tells why. */
static void pass_over(struct kid *k, uintptr_t to, size_t len)
{
	size_t page = sys_page_size();

	for (size_t at = 0; at < len; at += page)
		if (!has_page(k, to + at))
			range_lose(k, to + at, to + at + page, LOST_UNREADABLE);
}

static int hand_out_read(struct pager *p, struct kid *k, uintptr_t to, size_t len,
			 size_t *ret_done)
{
	size_t at = 0, done;
	int ret = 0;

	for (; ret == 0 && at < len; at += done) {
		unsigned char what = p->read[at / sys_page_size()];

		done = alike(p, at, len - at);
		if (what == PAGE_GONE)
			pass_over(k, to + at, done);
		else
			ret = hand_out(p, k, to + at, what == PAGE_ZEROS ? NULL : p->bounce + at,
				       done, &done);
	}
	*ret_done = at;
	return ret;
}

/* How much of a range children get as zeros, from its start on: holes, as far as they are known. */
static size_t known_holes(struct pager *p, uintptr_t from, size_t len)
{
	return holes(p, from, area_hollow(p, from, rest_by_hand(p, from, len)));
}

/* ... as far as it is still what it was. */
static int give_read(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len,
		     size_t *ret_done)
{
	int ret = is_still(p, from, &len);

	return ret < 0 ? ret : hand_out_read(p, k, to, len, ret_done);
}

/* What a hole holds, and a run of them that a look has found: only the pager fills one. A move
 * that is not told yet may have left it (MREMAP_DONTUNMAP), or something that nobody tells of,
 * as a guard does that was there and is no more. Not while what lies there may be another's. */
static int copy_hole(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len,
		     size_t *ret_done)
{
	size_t hollow = known_holes(p, from, len);

	if (is_unsure(p) && (!hollow || is_moved(p, KEEPER_MOVES_AWAY, from, hollow)))
		return -EBUSY;
	return hollow ? hand_out(p, k, to, NULL, hollow, ret_done) : -EIO;
}

/* A page that the program may not read itself, or that may be a hole: reading it by that
 * file does not wait for a userfaultfd (FAULT_FLAG_ALLOW_RETRY is not set, mm/memory.c,
 * __access_remote_vm). -EIO: it cannot be read, or is a hole that nobody knows of; -EBUSY: not
 * before something was told. Only memory that is short is waited for; asking why is safe, for
 * what is no hole does not wait either. */
static int copy_by_hand(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len,
			size_t *ret_done)
{
	size_t page = sys_page_size();
	unsigned char there;

	if (is_unsure(p) && !look(p, from, page))
		return copy_hole(p, k, to, from, len, ret_done);
	if (sys_pread(p->mem, p->bounce, page, (off_t)from) == (long)page) {
		p->read[0] = PAGE_READ;
		return give_read(p, k, to, from, page, ret_done);
	}
	if (sys_mincore(from, page, &there) < 0)
		return -EFAULT;
	if (!look(p, from, page))
		return copy_hole(p, k, to, from, len, ret_done);
	return sys_madvise(from, page, MADV_POPULATE_READ) == -ENOMEM ? -ENOMEM : -EIO;
}

/* What may become a hole in the midst of it, at which the pager would wait for itself: what
 * was moved, and may move on (MREMAP_DONTUNMAP), and what was emptied once. A removal that was
 * told of goes on when that was read, and takes its time. */
static int is_shaky(const struct pager *p, uintptr_t from, size_t len)
{
	return p->moving || is_unsure(p) || !area_is_solid(p, from, from + len);
}

/* Up to a table. */
static size_t read_piece(struct pager *p, char *to, uintptr_t from, size_t len)
{
	int shaky = is_shaky(p, from, len);
	long n = shaky ? sys_pread(p->mem, to, len, (off_t)from)
		       : sys_fetch_some(p->self, to, (const void *)from, len);

	len = n > 0 ? (size_t)n & ~(sys_page_size() - 1) : 0;
	return shaky && len && look(p, from, len) != len ? 0 : len;
}

/* Up to what is to be had by hand; while nothing is unsure also up to a hole, for those are asked
 * about with the rest. How much. */
static size_t read_some(struct pager *p, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), at = 0, n = 1;

	while (n && at < len) {
		size_t size = len - at < TABLE_SIZE ? len - at : TABLE_SIZE;
		int what;

		n = before_hole(p, from + at, size);
		what = n ? PAGE_READ : PAGE_ZEROS;
		if (n)
			n = read_piece(p, p->bounce + at, from + at, n);
		else if (is_unsure(p))
			n = known_holes(p, from + at, size);
		memset(&p->read[at / page], what, n / page);
		at += n;
	}
	p->bounced = at > p->bounced ? at : p->bounced;
	return at;
}

/* Not straight from there into the child: something else may be mapped there in the midst of it,
 * and a child that has got that may have seen it. It costs one copy more. */
static int copy_directly(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t most,
			 size_t *ret_done)
{
	size_t len = read_some(p, from, most);

	*ret_done = 0;
	return len ? give_read(p, k, to, from, len, ret_done)
		   : copy_by_hand(p, k, to, from, most, ret_done);
}

/* How much to read at once: more where the keeper is asked about it, and most where that takes long;
 * but what a child that changes its memory does not take is read in vain. Most, too, where it
 * takes long to see that what is armed is there. */
static size_t piece_most(const struct pager *p, const struct kid *k, size_t len)
{
	size_t most = CACHED;

	if (p->slow)
		most = BOUNCE;
	else if (is_unsure(p))
		most = p->asking && !uffd_memory_changes(k->fd) ? BOUNCE : TABLE_SIZE;
	return len < most ? len : most;
}

long kid_copy(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len)
{
	size_t page = sys_page_size(), done;
	int ret;

	len = len > CACHED ? piece_most(p, k, len) : len;
	ret = copy_directly(p, k, to, from, len, &done);
	if (p->slow)
		kid_hurries(p, k);
	if (done)
		return (long)done;
	switch (ret) {
	case -EAGAIN:
	case -ESRCH:
		return ret;
	case -ENOMEM:
		sys_poll(NULL, 0, NO_MEMORY_MS);
		return 0;
	case -ESTALE:
		p->stale = 1;
		k->gone = 1;
		return (long)len;
	case -EBUSY:
		k->gone = 1;
		return (long)rest_by_hand(p, from, len);
	case -EFAULT:	/* it may only have moved, which is told next */
		if (uffd_memory_changes(p->uffd))
			k->gone = 1;
		else
			range_lose(k, to, to + page, LOST_UNMAPPED);
		return (long)page;
	case -ENODATA:		/* and nobody knows what lies where */
		kids_lose(p, 0, UINTPTR_MAX);
		return (long)page;
	default:
		range_lose(k, to, to + page, LOST_UNREADABLE);
		return (long)page;
	}
}

void copies_begin(struct pager *p)
{
	uintptr_t room = (uintptr_t)p->bounce_room;

	p->bounce = p->bounce_room + (-room & (TABLE_SIZE - 1));
	sys_madvise((uintptr_t)p->bounce, TABLE_SIZE, MADV_HUGEPAGE);
}

void copies_rest(struct pager *p)
{
	if (p->bounced > TABLE_SIZE)
		sys_madvise((uintptr_t)p->bounce + TABLE_SIZE, BOUNCE - TABLE_SIZE, MADV_DONTNEED);
	p->bounced = 0;
}
