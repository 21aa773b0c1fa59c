/*
 * Memory that the library did not make, as a program has it that makes system calls of
 * its own, and what such a program does with it unseen.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "diff-state.h"
#include "gate.h"
#include "in-place.h"

static unsigned char bss[PAGES_MAX * PAGE] __attribute__((aligned(PAGE)));

/* --- behind the library's back ------------------------------------------ */

/* No table may be replaced while the mover has it lifted, and the in-place engine's children
 * that lack what is unmapped are killed. Who makes such calls sees to that, as the preload
 * runtime does for malloc's (src/preload-malloc.c). */
static long unseen(long number, long a, long b, long c, long d, long e)
{
	uint64_t signals;
	long ret;
	int error;

	gate_enter(&signals);
	ret = syscall(number, a, b, c, d, e, 0L);
	error = errno;
	gate_leave(&signals);
	errno = error;
	return ret;
}

void *raw_mmap(void *at, size_t len, int prot, int flags, int fd)
{
	int held = flags & MAP_FIXED ? in_place_leave((uintptr_t)at, len) : 0;
	long ret = unseen(SYS_mmap, (long)at, (long)len, prot, flags | MAP_PRIVATE, fd);

	in_place_left(held);
	return (void *)ret;
}

void *raw_mremap(void *at, size_t len, size_t new_len, int flags, void *to)
{
	int held = new_len < len ? in_place_leave((uintptr_t)at + new_len, len - new_len) : 0;
	int held_too = flags & MREMAP_FIXED ? in_place_leave((uintptr_t)to, new_len) : 0;
	long ret = unseen(SYS_mremap, (long)at, (long)len, (long)new_len, flags, (long)to);

	in_place_left(held_too);
	in_place_left(held);
	return (void *)ret;
}

int raw_munmap(void *at, size_t len)
{
	int held = in_place_leave((uintptr_t)at, len);
	int ret = (int)unseen(SYS_munmap, (long)at, (long)len, 0, 0, 0);

	in_place_left(held);
	return ret;
}

int raw_mprotect(void *at, size_t len, int prot)
{
	return (int)unseen(SYS_mprotect, (long)at, (long)len, prot, 0, 0);
}

/* --- making it ---------------------------------------------------------- */

static void *protect(void *p, size_t len, int prot)
{
	return p == MAP_FAILED || raw_mprotect(p, len, prot) == 0 ? p : MAP_FAILED;
}

/* With a neighbour on neither side that it could become one mapping with; and as far from
 * a control block as that adoption takes all of it or nothing. */
static void *make_alone(size_t len, int prot, int flags)
{
	const size_t apart = 32 * PAGE;
	unsigned char *p = raw_mmap(NULL, len + 2 * apart, PROT_NONE, flags, -1);

	return protect(p == MAP_FAILED ? p : p + apart, len, prot);
}

static void *make_by_brk(size_t len, int prot)
{
	size_t less = (size_t)-(uintptr_t)sbrk(0) % PAGE;
	unsigned char *p = sbrk((intptr_t)(len + less));

	return protect(p == (void *)-1 ? MAP_FAILED : p + less, len, prot);
}

static void *make(size_t len, int prot, int flags, enum where where)
{
	const int known = MAP_NORESERVE | MAP_POPULATE;

	flags = (flags & known) | MAP_ANONYMOUS;
	switch (where) {
	case WHERE_ALONE:
		return make_alone(len, prot, flags);
	case WHERE_BRK:
		return make_by_brk(len, prot);
	case WHERE_BSS:
		return protect(bss, len, prot);
	default:
		return raw_mmap(NULL, len, prot, flags, -1);
	}
}

int do_native(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int pages = op->v[1], prot = op->v[2];
	enum where where = (enum where)((unsigned)op->v[4] % WHERE_COUNT);
	struct range all = { .s = s, .count = pages };
	void *p;

	if (s->at || pages <= 0 || pages > PAGES_MAX || (where == WHERE_BSS && w->bss_given))
		return SKIPPED;
	p = make((size_t)pages * PAGE, prot, op->v[3], where);
	if (p == MAP_FAILED)
		return errno;
	slot_take(s, p, pages);
	s->where = where;
	s->alone = where == WHERE_ALONE ? pages : 0;
	w->bss_given |= where == WHERE_BSS;
	range_map(w, &all, prot, BACK_ANON);
	range_flag(&all, PAGE_RAW, 0);
	return 0;
}

/* --- the heap's end ----------------------------------------------------- */

/* Its last pages go. Where malloc has grown behind them, which must not be known, they
 * are only forgotten. */
int do_brk(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	int first = s->pages, count = op->v[1];
	struct range r;

	if (!s->at || s->where != WHERE_BRK)
		return SKIPPED;
	while (first > 0 && count-- > 0 && s->page[first - 1].back != BACK_NONE)
		first--;
	if (!range_at(s, first, s->pages, &r))
		return SKIPPED;
	range_unmap(&r);
	slot_trim(s);
	if (r.at + r.len != (unsigned char *)sbrk(0))
		return 0;
	return sbrk(-(intptr_t)r.len) == (void *)-1 ? WRONG : 0;
}

/* --- changing it -------------------------------------------------------- */

static int unmap(const struct range *r)
{
	int ret = outcome(raw_munmap(r->at, r->len));

	if (ret == 0) {
		range_unmap(r);
		slot_trim(r->s);
	}
	return ret;
}

static int protect_pages(struct world *w, const struct range *r, int prot)
{
	int ret = outcome(raw_mprotect(r->at, r->len, prot));

	if (ret == 0)
		range_protect(w, r, prot);
	return ret;
}

static int fixed(struct world *w, const struct range *r, int prot, int back)
{
	int flags = MAP_FIXED | (back == BACK_FILE ? 0 : MAP_ANONYMOUS);
	void *p = raw_mmap(r->at, r->len, prot, flags, back == BACK_FILE ? diff_file : -1);

	if (p == MAP_FAILED)
		return errno;
	if (p != r->at)
		return WRONG;
	range_map(w, r, prot, back);
	return 0;
}

/* To half of it, where it is. */
static int shrink(const struct range *r)
{
	struct range tail = *r;
	size_t keep;
	void *p;

	tail.first += r->count / 2;
	tail.count -= r->count / 2;
	keep = (size_t)(r->count / 2) * PAGE;
	if (!keep)
		return SKIPPED;
	p = raw_mremap(r->at, r->len, keep, 0, NULL);
	if (p != r->at)
		return p == MAP_FAILED ? errno : WRONG;
	range_unmap(&tail);
	slot_trim(tail.s);
	return 0;
}

int do_raw(struct world *w, const struct op *op)
{
	struct range r;

	if (!range_of(w, op, &r) || !is_raw(&r))
		return SKIPPED;
	switch ((enum raw)((unsigned)op->v[3] % RAW_COUNT)) {
	case RAW_UNMAP:
		return unmap(&r);
	case RAW_PROTECT:
		return protect_pages(w, &r, op->v[4]);
	case RAW_FIXED:
		return fixed(w, &r, op->v[4], BACK_ANON);
	case RAW_FILE:
		return fixed(w, &r, op->v[4], BACK_FILE);
	case RAW_MOVE:
		return do_raw_move(w, op);
	case RAW_SHRINK:
		return shrink(&r);
	case RAW_GROW: case RAW_COUNT:
		break;
	}
	return do_raw_grow(w, op);
}
