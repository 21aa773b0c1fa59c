/*
 * Making a store and the single steps on it; see store.h for the picture.
 * (Longer than others, so that its three address ranges are re-mapped here alone,
 * but for what lift.c takes away and brings back.)
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "compat.h"
#include "log.h"
#include "own.h"
#include "process.h"
#include "procfs.h"
#include "store.h"
#include "sys.h"

/* Page tables move whole where both ends are congruent to 1 GiB (PUD entries;
 * mm/mremap.c, get_extent), else to 2 MiB (PMD entries). */
#define WINDOW_ALIGN ((size_t)1 << 30)
#define WINDOW_MIN ((size_t)64 << 30)
#define EXTENT_MAX 65536	/* more cannot be mapped (vm.max_map_count) */
#define STORES_AT 4u		/* each store makes forks dearer by some us */

enum { MOVE = MREMAP_MAYMOVE | MREMAP_FIXED,
       MOVE_STAY = MOVE | MREMAP_DONTUNMAP };

/* --- what speaks against a store ---------------------------------------- */

static int unlimited(int resource)
{
	struct rlimit limit;

	return getrlimit((__rlimit_resource_t)resource, &limit) == 0 &&
	       limit.rlim_cur == RLIM_INFINITY;
}

/* Unlocked before it is writable, or mlockall(MCL_FUTURE) would fill it. */
static int can_map(size_t size, int prot)
{
	long p = sys_mmap(0, size, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int can;

	if (sys_failed(p))
		return 0;
	sys_munlock((uintptr_t)p, size);
	can = prot == PROT_NONE || sys_mprotect((uintptr_t)p, size, prot) == 0;
	sys_munmap((uintptr_t)p, size);
	return can;
}

/* Under vm.overcommit_memory=2 a shared store would die of SIGBUS where malloc
 * gets ENOMEM. Where /proc does not tell: even a MAP_NORESERVE mapping is charged
 * then, so a writable one far above all memory fails. (Not asked so first, since
 * in that mode others' allocations fail during the question.) */
int store_strict_overcommit(void)
{
	uint64_t least = sys_ram_and_swap() * 2, want = least * 32;
	int mode = procfs_overcommit();

	if (mode >= 0)
		return mode == 2;
	if (!least || want > (uint64_t)1 << 44)
		want = (uint64_t)1 << 44;
	while (!can_map(want, PROT_NONE) && want / 2 > least)
		want /= 2;	/* an address space that is almost full */
	return can_map(want, PROT_NONE) && !can_map(want, PROT_READ | PROT_WRITE);
}

int store_unlimited(void)
{
	return unlimited(RLIMIT_FSIZE) && unlimited(RLIMIT_AS) && unlimited(RLIMIT_DATA);
}

int store_why_not(void)
{
	if (process.native_for_good)
		return process.native_for_good;
	if (!unlimited(RLIMIT_FSIZE))
		return COW_REASON_FSIZE;
	if (!unlimited(RLIMIT_AS) || !unlimited(RLIMIT_DATA))
		return COW_REASON_ADDRESS;
	if (process.lock_future)
		return COW_REASON_LOCKED;
	if (atomic_load(&process.store_count) == PROCESS_STORES)
		return COW_REASON_STORES;
	if (store_strict_overcommit())
		return COW_REASON_OVERCOMMIT;
	return COW_REASON_NONE;
}

/* --- making one --------------------------------------------------------- */

/* Reserve size bytes of address space, as far above a multiple of WINDOW_ALIGN as
 * `like`. */
static uintptr_t reserve(size_t size, uintptr_t like)
{
	long p = sys_mmap(0, size + WINDOW_ALIGN, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t start, at;

	if (sys_failed(p))
		return 0;
	start = (uintptr_t)p;
	at = start + (like - start) % WINDOW_ALIGN;
	if (at > start)
		sys_munmap(start, at - start);
	sys_munmap(at + size, start + WINDOW_ALIGN - at);
	return at;
}

/* An inherited window is mostly a hole here, where the kernel would gladly put
 * the next one. Windows must not overlap, so such places are held for the
 * moment and another one is asked for. */
static uintptr_t reserve_window(size_t size)
{
	uintptr_t refused[PROCESS_STORES + 1], at = 0;
	unsigned n = 0;

	while (n <= PROCESS_STORES && (at = reserve(size, 0)) &&
	       process_store_at(at, size)) {
		refused[n++] = at;
		at = 0;
	}
	while (n > 0)
		sys_munmap(refused[--n], size);
	return at;
}

/* Exactly there, or nowhere: 0. */
static uintptr_t claim(uintptr_t at, size_t size)
{
	long p;

	if (process_store_at(at, size))
		return 0;
	p = sys_mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
		     MAP_FIXED_NOREPLACE, -1, 0);
	if (sys_failed(p))
		return 0;
	if ((uintptr_t)p == at)
		return at;
	sys_munmap((uintptr_t)p, size);	/* before Linux 4.17 */
	return 0;
}

static uintptr_t map_range(uintptr_t at, size_t size, int prot, int flags, int fd)
{
	if (!at)
		return 0;
	if (sys_failed(sys_mmap(at, size, prot, flags | MAP_FIXED | MAP_NORESERVE,
				fd, 0)) ||
	    sys_madvise(at, size, MADV_DONTFORK) < 0 ||
	    sys_madvise(at, size, MADV_DONTDUMP) < 0) {
		sys_munmap(at, size);
		return 0;
	}
	sys_munlock(at, size);	/* mlockall(2) that passed us by */
	return at;
}

/* Behind an adopted window: where mremap(2) grows what the program has there, behind
 * the library's back, it finds zeros. */
#define HOLE ((size_t)1 << 45)

static int make_file(size_t size)
{
	int fd = sys_memfd("cowfork");

	if (fd >= 0 && sys_ftruncate(fd, (off_t)size) < 0) {
		sys_close(fd);
		fd = -ENOMEM;
	}
	return fd;
}

/* Enough for all memory four times over, so that one window serves a process
 * and neighbours merge; at least twice what is asked for. */
static size_t window_size(size_t need)
{
	uint64_t want = sys_ram_and_swap() * 4;
	size_t size = WINDOW_MIN;

	if (need < SIZE_MAX / 4 && want < need * 2)
		want = need * 2;
	while (size < want && size < (size_t)1 << 46)
		size *= 2;
	return size;
}

void store_keep_out(uintptr_t start, size_t len)
{
	uintptr_t end = start + len;

	process_each_own(s) {
		uintptr_t from = start > s->base ? start : s->base;
		uintptr_t to = end < s->base + s->size ? end : s->base + s->size;

		if (!s->adopted || from >= to)
			continue;
		extents_each(e, &s->extents, from, to) {
			int stale = e.state == EXTENT_FROZEN ||
				    e.flags & (EXTENT_STALE | EXTENT_PINNED);

			if (e.state == EXTENT_FREE || e.flags & EXTENT_FOREIGN ||
			    !store_have_room(s))
				continue;
			extents_set(&s->extents, e.start, e.end, EXTENT_FREE, 0,
				    stale ? EXTENT_STALE : 0);
			s->stale |= stale;
		}
	}
}

/* The store's own memory: one page for this struct and the first extents, since
 * every fork copies it; more room for extents comes when it is needed. */
static struct store *make_record(size_t size)
{
	size_t page = sys_page_size();
	long p = own_map(page);
	struct store *s;

	if (sys_failed(p))
		return NULL;
	s = (struct store *)p;
	s->size = size;
	s->extents.at = (struct extent *)(s + 1);
	s->extents.capacity = (page - sizeof(*s)) / sizeof(struct extent);
	return s;
}

int store_have_room(struct store *s)
{
	struct extents *x = &s->extents;
	long p;

	if (extents_have_room(x))
		return 1;
	if (x->capacity == EXTENT_MAX)
		return 0;
	p = own_map(EXTENT_MAX * sizeof(struct extent));
	if (sys_failed(p))
		return 0;
	memcpy((void *)p, x->at, x->count * sizeof(struct extent));
	x->at = (struct extent *)p;
	x->capacity = EXTENT_MAX;
	return 1;
}

unsigned char *store_huge_map(struct store *s)
{
	long p;

	if (!s->huge) {
		p = own_map(s->size / TABLE_SIZE);
		s->huge = sys_failed(p) ? NULL : (unsigned char *)p;
	}
	return s->huge;
}

void store_keep_records_out(void)
{
	own_keep_out();
	process_each_own(s) {
		store_keep_out((uintptr_t)s, sys_page_size());
		store_keep_out((uintptr_t)s->extents.at,
			       s->extents.capacity * sizeof(struct extent));
		if (s->huge)
			store_keep_out((uintptr_t)s->huge, s->size / TABLE_SIZE);
	}
}

static void free_record(struct store *s)
{
	own_unmap((uintptr_t)s, sys_page_size());
}

static int map_file(struct store *s, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -EBADF;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	if (!s->adopted)
		s->base = map_range(s->base ? claim(s->base, s->size)
					    : reserve_window(s->size),
				    s->size, PROT_NONE, MAP_SHARED, fd);
	s->shadow = map_range(reserve(s->size, s->base), s->size, PROT_NONE, MAP_SHARED, fd);
	s->template = map_range(reserve(s->size, s->base), s->size, PROT_NONE, MAP_PRIVATE,
				fd);
	return s->base && s->shadow && s->template ? 0 : -ENOMEM;
}

static void unmap_file(struct store *s)
{
	if (s->base && !s->adopted)
		sys_munmap(s->base, s->size);
	if (s->shadow)
		sys_munmap(s->shadow, s->size);
	if (s->template)
		sys_munmap(s->template, s->size);
}

/* Try the whole cycle once, on the first page: the kernel may lack it. */
static int try_cycle(struct store *s)
{
	size_t page = sys_page_size();
	int prot = PROT_READ | PROT_WRITE;

	if (store_commit(s, s->base, page, prot) < 0)
		return -1;
	*(volatile char *)s->base = 1;
	extents_set(&s->extents, s->base, s->base + page, EXTENT_OWNED, prot, 0);
	if (store_park(s, s->base, page) < 0)
		return -1;
	if (store_unpark(s, s->base, page, prot) < 0 ||
	    *(volatile char *)s->base != 1)
		return -1;
	extents_set(&s->extents, s->base, s->base + page, EXTENT_FREE, 0, 0);
	if (store_decommit(s, s->base, page) < 0)
		return -1;
	return store_punch(s, s->base, page);
}

/* All adopted memory has one lease: each costs every fork some us. */
static void share_lease(struct store *s)
{
	process_each_own(other)
		if (other->adopted) {
			s->lease = other->lease;
			return;
		}
	lease_open(&s->lease);
}

static int build(struct store *s)
{
	int fd = make_file(s->size + (s->adopted ? HOLE : 0));
	int ret;

	if (fd < 0)
		return COW_REASON_MEMFD;
	ret = map_file(s, fd);
	sys_close(fd);
	if (ret < 0) {
		unmap_file(s);
		return COW_REASON_ADDRESS;
	}
	extents_init(&s->extents, s->extents.at, s->extents.capacity, s->base,
		     s->base + s->size);
	if (s->adopted) {
		share_lease(s);
		return COW_REASON_NONE;
	}
	if (try_cycle(s) < 0) {
		unmap_file(s);
		process.native_for_good = COW_REASON_REMAP;
		return COW_REASON_REMAP;
	}
	lease_open(&s->lease);
	return COW_REASON_NONE;
}

/* A store of the smallest size, made and thrown away. */
int store_kernel_can(void)
{
	struct store *s = make_record(WINDOW_ALIGN);
	int can;

	if (!s)
		return 0;
	can = build(s) == COW_REASON_NONE;
	if (can) {
		lease_close(&s->lease);
		unmap_file(s);
	}
	free_record(s);
	return can;
}

static int make(uintptr_t base, size_t window, struct store **ret_store)
{
	struct store *s = make_record(window);
	int why;

	if (!s)
		return COW_REASON_ADDRESS;
	s->base = base;
	why = build(s);
	if (why)
		free_record(s);
	else
		*ret_store = s;
	return why;
}

static void add(struct store *s)
{
	unsigned n = atomic_load(&process.store_count);

	procfs_dump_private();
	process.stores[n] = s;
	atomic_store(&process.store_count, n + 1);
	log_line(COW_LOG_INFO, "store %u: window of %zu GiB at %#lx", n, s->size >> 30,
		 (unsigned long)s->base);
}

int store_open(size_t size, size_t align, struct store **ret_store)
{
	size_t need = size + (align > WINDOW_ALIGN ? align : 0);
	int why = store_why_not();

	if (why)
		return why;
	if (need < size || need > (size_t)1 << 46)
		return COW_REASON_ADDRESS;
	need = (need + WINDOW_ALIGN - 1) & ~(WINDOW_ALIGN - 1);
	why = make(0, window_size(need), ret_store);
	if (why == COW_REASON_ADDRESS)
		why = make(0, need, ret_store);
	if (!why)
		add(*ret_store);
	return why;
}

int store_open_at(uintptr_t at, size_t size, struct store **ret_store)
{
	uintptr_t base = at & ~(WINDOW_ALIGN - 1);
	size_t need = (at + size - base + WINDOW_ALIGN - 1) & ~(WINDOW_ALIGN - 1);
	size_t window = need > WINDOW_MIN ? need : WINDOW_MIN;
	int why = store_why_not();

	if (!why && (!base || process.stores_at == STORES_AT || need < size ||
		     need > (size_t)1 << 46))
		why = COW_REASON_ADDRESS;
	if (why)
		return why;
	do {
		why = make(base, window, ret_store);
		window = window > need && window / 2 < need ? need : window / 2;
	} while (why == COW_REASON_ADDRESS && window >= need);
	if (why)
		return why;
	process.stores_at++;
	add(*ret_store);
	return COW_REASON_NONE;
}

/* A range of whole tables, as much of [low, high) around [start, end) as is no other
 * window's. */
static int cut_window(uintptr_t start, uintptr_t end, uintptr_t *low, uintptr_t *high)
{
	uintptr_t from = *low & ~(TABLE_SIZE - 1), to = (*high + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);
	struct store *s;

	while (from < start && (s = process_store_at(from, start - from)))
		from = (s->base + s->size + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);
	s = from < to ? process_store_at(from, to - from) : NULL;
	if (s)
		to = s->base & ~(TABLE_SIZE - 1);
	*low = from;
	*high = to;
	return from < to && from < end;
}

int store_open_over(uintptr_t start, uintptr_t end, uintptr_t low, uintptr_t high,
		    struct store **ret_store)
{
	struct store *s;
	int why = store_why_not();

	if (why)
		return why;
	if (!cut_window(start, end, &low, &high) || !(s = make_record(high - low)))
		return COW_REASON_ADDRESS;
	s->base = low;
	s->adopted = 1;
	why = build(s);
	if (why) {
		free_record(s);
		return why;
	}
	add(s);
	*ret_store = s;
	return COW_REASON_NONE;
}

int store_may_move(struct store *s, size_t len)
{
	long p;

	if (unlimited(RLIMIT_AS) && unlimited(RLIMIT_DATA))
		return 1;
	store_shrink(s);
	p = sys_mmap(0, len, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sys_failed(p))
		return 0;
	sys_munmap((uintptr_t)p, len);
	return 1;
}

void store_shrink(struct store *s)
{
	struct extent *last = &s->extents.at[s->extents.count - 1];
	uintptr_t end = (last->start + TABLE_SIZE) & ~(TABLE_SIZE - 1);
	size_t keep = end - s->base;

	if (s->adopted || last->state != EXTENT_FREE || last->flags || end >= last->end)
		return;
	sys_munmap(end, s->size - keep);
	sys_munmap(s->shadow + keep, s->size - keep);
	sys_munmap(s->template + keep, s->size - keep);
	last->end = end;
	s->size = keep;
}

/* What grows there in a child the child adopts into a store of its own. */
static void cut_room(struct store *s)
{
	struct extent *last = &s->extents.at[s->extents.count - 1];
	uintptr_t end = (last->start + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);

	if (last->state != EXTENT_FREE || end >= last->end || end == s->base)
		return;
	if (end == last->start)
		s->extents.count--;
	else
		last->end = end;
	s->size = end - s->base;
}

void store_inherit(struct store *s)
{
	s->inherited = 1;
	s->closed = 0;
	/* its spare maps are the parent's (MADV_DONTFORK) */
	s->spare = (struct spare){ 0 };
	if (!store_have_room(s))
		return;
	extents_each(e, &s->extents, s->base, s->base + s->size)
		if (e.flags & EXTENT_DONTFORK)
			extents_set(&s->extents, e.start, e.end, EXTENT_FREE, 0, 0);
	if (s->adopted)
		cut_room(s);
}

void store_retire(struct store *s)
{
	for (size_t i = 0; i < s->extents.count; i++) {
		const struct extent *e = &s->extents.at[i];

		if (e->state == EXTENT_FREE && !s->adopted)
			sys_munmap(e->start, e->end - e->start);
	}
	sys_munmap(s->shadow, s->size);
	sys_munmap(s->template, s->size);
	spare_release(&s->spare);
	s->inherited = 1;
	process_each_own(other)
		if (s->adopted && other->adopted)	/* the last one closes it */
			return;
	lease_close(&s->lease);
}

int store_by_halves(store_step *step, struct store *s, uintptr_t start, size_t len,
		    void *arg)
{
	size_t half = len / 2 & ~(sys_page_size() - 1);
	int ret = step(s, start, len, arg);

	if (ret != -EFAULT || !half)
		return ret;
	ret = store_by_halves(step, s, start, half, arg);
	return ret ? ret : store_by_halves(step, s, start + half, len - half, arg);
}

/* Where memory is in many pieces, a probe that copies its page tables is cheaper. */
#define CLOSE_MAX 64u

void store_close(struct store *s)
{
	if (s->extents.count > CLOSE_MAX)
		return;
	for (size_t i = 0; i < s->extents.count; i++) {
		const struct extent *e = &s->extents.at[i];

		if (e->state == EXTENT_FROZEN ||
		    (s->adopted && e->state == EXTENT_NATIVE && !e->flags))
			sys_madvise(e->start, e->end - e->start, MADV_DONTFORK);
	}
	s->closed = 1;
}

/* Advice of the program's own stays, and such memory is not FROZEN. ENOMEM is what the
 * kernel says of holes, once it has done the rest (mm/madvise.c): the owner of adopted
 * memory may unmap some at any moment. */
static int reopen(struct store *s, uintptr_t from, uintptr_t to)
{
	int ret = 0;

	extents_each(e, &s->extents, from, to) {
		int did = 0;

		if (e.state == EXTENT_FROZEN ||
		    (e.state == EXTENT_NATIVE && !(e.flags & ~EXTENT_STALE)))
			did = sys_madvise(e.start, e.end - e.start, MADV_DOFORK);
		if (did < 0 && !(s->adopted && did == -ENOMEM))
			ret = -ENOMEM;
	}
	return ret;
}

int store_reopen(struct store *s, uintptr_t but_from, uintptr_t but_to)
{
	uintptr_t end = s->base + s->size;
	int ret;

	if (!s->closed)
		return 0;
	if (but_from < s->base || but_from >= end)
		but_from = but_to = end;
	ret = reopen(s, s->base, but_from) | reopen(s, but_to, end);
	s->closed = ret < 0;
	s->owns |= s->closed;
	return ret < 0 ? -ENOMEM : 0;
}

void store_reopen_piece(struct store *s, uintptr_t start, size_t len)
{
	if (sys_madvise(start, len, MADV_DOFORK) < 0)
		s->closed = s->owns = 1;
}

/* --- single steps ------------------------------------------------------- */

int store_commit(struct store *s, uintptr_t start, size_t len, int prot)
{
	(void)s;
	if (sys_mprotect(start, len, prot) < 0)
		return -ENOMEM;
	if (sys_madvise(start, len, MADV_DODUMP) < 0) {
		sys_mprotect(start, len, PROT_NONE);
		return -ENOMEM;
	}
	return 0;
}

int store_decommit(struct store *s, uintptr_t start, size_t len)
{
	int ret = sys_mprotect(start, len, PROT_NONE);

	(void)s;
	if (ret < 0)
		return ret;
	sys_madvise(start, len, MADV_DONTDUMP);
	return 0;
}

/* Lay a second view of the shadow's file pages over the window: mremap with
 * old size 0 duplicates a shared mapping, whatever lies there goes. */
static int lay_view(struct store *s, uintptr_t start, size_t len, int prot)
{
	uintptr_t alias = store_alias(s, start);
	long ret = sys_mprotect(alias, len, prot);

	if (ret == 0)
		ret = sys_mremap(alias, 0, len, MOVE, start);
	if (prot != PROT_NONE)
		sys_mprotect(alias, len, PROT_NONE);
	return sys_failed(ret) ? (int)ret : 0;
}

int store_reserve(struct store *s, uintptr_t start, size_t len)
{
	int ret = lay_view(s, start, len, PROT_NONE);

	if (ret == 0)
		sys_madvise(start, len, MADV_DONTDUMP);
	return ret;
}

int store_renew(struct store *s, uintptr_t start, size_t len, int prot)
{
	int ret = lay_view(s, start, len, prot);

	if (ret == 0)
		sys_madvise(start, len, MADV_DODUMP);
	return ret;
}

int store_punch(struct store *s, uintptr_t start, size_t len)
{
	size_t first = (start - s->base) / TABLE_SIZE;
	size_t last = (start + len - 1 - s->base) / TABLE_SIZE;
	uintptr_t alias = store_alias(s, start);
	int ret;

	for (size_t t = first; s->huge && t <= last; t++) {
		s->huge_count -= s->huge[t] == 1;
		s->huge[t] = 0;
	}
	ret = sys_madvise(alias, len, MADV_REMOVE);
	if (ret == -EACCES) {	/* kernels that want it writable just now */
		ret = sys_mprotect(alias, len, PROT_READ | PROT_WRITE);
		if (ret == 0)
			ret = sys_madvise(alias, len, MADV_REMOVE);
		sys_mprotect(alias, len, PROT_NONE);
	}
	return ret;
}

static long take_piece(uintptr_t piece, size_t len, int prot)
{
	long ret = sys_mprotect(piece, len, prot);

	sys_munlock(piece, len);
	if (ret == 0)
		ret = sys_madvise(piece, len, MADV_DODUMP);
	return ret == 0 ? sys_madvise(piece, len, MADV_DOFORK) : ret;
}

static void put_piece(uintptr_t piece, size_t len)
{
	sys_mprotect(piece, len, PROT_NONE);
	sys_madvise(piece, len, MADV_DONTDUMP);
	sys_madvise(piece, len, MADV_DONTFORK);
}

/* At rest the template is inaccessible and unlocked, so that no mlockall(2), not
 * even one made behind our back, fills it: it would show what it was filled with
 * ever after. Each piece gets its extent's protection and advice before it moves, so
 * that there is no instant in which a guard page could be touched, and nothing can
 * fail once other threads write to it. */
int store_cover(struct store *s, uintptr_t start, size_t len)
{
	uintptr_t to_template = s->template - s->base;
	int prot = extents_piece(&s->extents, start, start + len).prot;
	long ret = take_piece(start + to_template, len, prot);

	extents_each(e, &s->extents, start, start + len)
		if (ret == 0 && e.prot != prot)
			ret = sys_mprotect(e.start + to_template, e.end - e.start, e.prot);
	if (ret == 0)
		ret = sys_mremap(start + to_template, len, len, MOVE_STAY, start);
	put_piece(start + to_template, len);
	return sys_failed(ret) ? (int)ret : 0;
}

/* What was not parked, or not all, comes back with empty page tables at worst. */
static void take_back(struct store *s, uintptr_t start, size_t len)
{
	extents_each(e, &s->extents, start, start + len)
		store_unpark(s, e.start, e.end - e.start, e.prot);
}

int store_park(struct store *s, uintptr_t start, size_t len)
{
	uintptr_t alias = store_alias(s, start);
	long moved = sys_mremap(start, len, len, MOVE_STAY, alias);
	int ret = sys_failed(moved) ? (int)moved : 0;

	if (ret == 0) {
		sys_madvise(alias, len, MADV_DONTDUMP);
		ret = store_cover(s, start, len);
	}
	if (ret < 0)
		take_back(s, start, len);
	return ret;
}

int store_park_moved(struct store *s, uintptr_t at, size_t len, size_t offset, int prot)
{
	uintptr_t alias = s->shadow + offset, piece = s->template + offset;
	long ret;

	if (!store_may_move(s, len))
		return -ENOMEM;
	ret = sys_mremap(at, len, len, MOVE_STAY, alias);
	if (sys_failed(ret))
		return (int)ret;
	sys_mprotect(alias, len, PROT_NONE);
	sys_madvise(alias, len, MADV_DONTDUMP);
	ret = take_piece(piece, len, prot);
	if (ret == 0)
		ret = sys_mremap(piece, len, len, MOVE_STAY, at);
	put_piece(piece, len);
	return sys_failed(ret) ? (int)ret : 0;
}

int store_unpark(struct store *s, uintptr_t start, size_t len, int prot)
{
	uintptr_t alias = store_alias(s, start);
	long ret = sys_mprotect(alias, len, prot);

	if (ret < 0)
		return (int)ret;
	ret = sys_mremap(alias, len, len, MOVE_STAY, start);
	if (sys_failed(ret))
		return (int)ret;
	sys_madvise(start, len, MADV_DODUMP);
	sys_mprotect(alias, len, PROT_NONE);	/* so that the shadow is one map again */
	return 0;
}
