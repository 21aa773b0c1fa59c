/*
 * Slots, pages and hashes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compat.h"
#include "diff-state.h"

#define FILE_PAGES 64		/* with something in them */
#define FILE_SIZE ((off_t)16384 * (off_t)PAGE)

int diff_multi_move, diff_lock_all, diff_file = -1;

/* --- what the machine can do -------------------------------------------- */

static int can_move_several(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *p = mmap(NULL, 4 * PAGE, PROT_READ, flags, -1, 0);
	int can;

	if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) < 0)
		return 0;
	can = mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     p + 2 * PAGE) != MAP_FAILED;
	munmap(p, 4 * PAGE);
	return can;
}

static int can_lock_all(void)
{
	const size_t much = 64ul << 20;
	void *p = mmap(NULL, much, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int can;

	if (p == MAP_FAILED)
		return 0;
	can = mlock2(p, much, MLOCK_ONFAULT) == 0;
	munmap(p, much);
	return can;
}

static int make_file(void)
{
	uint64_t page[PAGE / 8];
	int fd = memfd_create("diff-file", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, FILE_SIZE) < 0)
		return -1;
	for (unsigned i = 0; i < FILE_PAGES; i++) {
		for (unsigned j = 0; j < PAGE / 8; j++)
			page[j] = i * 1000003ull + j;
		if (pwrite(fd, page, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE)
			return -1;
	}
	return fd;
}

void diff_probe(void)
{
	diff_multi_move = can_move_several();
	diff_lock_all = can_lock_all();
	diff_file = make_file();
}

/* --- ranges ------------------------------------------------------------- */

struct slot *slot_of(struct world *w, int number)
{
	return &w->slot[(unsigned)number % SLOTS];
}

int range_at(struct slot *s, int first, int count, struct range *r)
{
	int end;

	if (!s->at || first < 0 || first >= s->pages || count <= 0 ||
	    s->page[first].back == BACK_NONE)
		return 0;
	for (end = first; end < s->pages && end - first < count; end++)
		if (s->page[end].back == BACK_NONE)
			break;
	r->s = s;
	r->first = first;
	r->count = end - first;
	r->at = s->at + (size_t)first * PAGE;
	r->len = (size_t)r->count * PAGE;
	return 1;
}

int range_of(struct world *w, const struct op *op, struct range *r)
{
	struct op copy = *op;
	struct slot *s = slot_of(w, op->v[0]);
	const int *less = op_field(&copy, "less");

	if (!s->at || !range_at(s, (int)((unsigned)op->v[1] % (unsigned)s->pages),
				op->v[2], r))
		return 0;
	if (less)
		r->len -= (unsigned)*less % PAGE;
	return 1;
}

int is_one_mapping(const struct range *r)
{
	const struct page *page = r->s->page + r->first;

	for (int i = 1; i < r->count; i++)
		if (page[i].map != page[0].map)
			return 0;
	return 1;
}

int is_many_mappings(const struct range *r)
{
	const struct page *page = r->s->page + r->first;

	for (int i = 1; i < r->count; i++)
		if (page[i].prot != page[0].prot || page[i].back != page[0].back)
			return 1;
	return 0;
}

int has_backing(const struct range *r, int back)
{
	for (int i = 0; i < r->count; i++)
		if (r->s->page[r->first + i].back == back)
			return 1;
	return 0;
}

int has_flag(const struct range *r, int flag)
{
	for (int i = 0; i < r->count; i++)
		if (r->s->page[r->first + i].flags & flag)
			return 1;
	return 0;
}

int is_raw(const struct range *r)
{
	for (int i = 0; i < r->count; i++)
		if (!(r->s->page[r->first + i].flags & PAGE_RAW))
			return 0;
	return 1;
}

int may_read(const struct page *page)
{
	return page->back != BACK_NONE && page->prot & PROT_READ &&
	       !(page->flags & (PAGE_GUARD | PAGE_UNKNOWN));
}

/* Shared pages are written once, when they are made: two processes that write
 * them would race. */
int may_write(const struct page *page)
{
	return (page->back == BACK_ANON || page->back == BACK_FILE) &&
	       page->prot & PROT_WRITE && !(page->flags & (PAGE_GUARD | PAGE_UNKNOWN));
}

static void split_at(struct world *w, struct slot *s, int at)
{
	uint16_t old;

	if (at <= 0 || at >= s->pages || s->page[at].map != s->page[at - 1].map)
		return;
	old = s->page[at].map;
	for (w->maps++; at < s->pages && s->page[at].map == old; at++)
		s->page[at].map = w->maps;
}

void range_split(struct world *w, const struct range *r)
{
	split_at(w, r->s, r->first);
	split_at(w, r->s, r->first + r->count);
}

void range_map(struct world *w, const struct range *r, int prot, int back)
{
	uint16_t lock = w->lock_future ? PAGE_LOCKED : 0;

	range_split(w, r);
	w->maps++;
	for (int i = r->first; i < r->first + r->count; i++) {
		struct page *page = &r->s->page[i];

		*page = (struct page){ (uint8_t)prot, (uint8_t)back,
				       (uint16_t)((page->flags & PAGE_PLACE) | lock),
				       w->maps };
	}
}

void range_protect(struct world *w, const struct range *r, int prot)
{
	range_split(w, r);
	for (int i = 0; i < r->count; i++)
		r->s->page[r->first + i].prot = (uint8_t)prot;
}

void range_flag(const struct range *r, int set, int clear)
{
	for (int i = 0; i < r->count; i++) {
		uint16_t *flags = &r->s->page[r->first + i].flags;

		*flags = (uint16_t)((*flags | set) & ~clear);
	}
}

void range_unmap(const struct range *r)
{
	memset(r->s->page + r->first, 0, (size_t)r->count * sizeof(struct page));
}

void world_lock(struct world *w, int flags)
{
	struct range r;

	w->lock_future = flags & MCL_FUTURE;
	for (int i = 0; i < SLOTS; i++) {
		r = (struct range){ &w->slot[i], 0, w->slot[i].pages, NULL, 0 };
		if (flags & MCL_CURRENT)
			range_flag(&r, PAGE_LOCKED, 0);
		else if (!flags)
			range_flag(&r, 0, PAGE_LOCKED);
	}
}

/* A region that lost pages to fork is better not destroyed; see do_destroy(). */
static int is_gone(struct slot *s, int page)
{
	if (s->page[page].back != BACK_NONE)
		return 0;
	if (s->page[page].flags & PAGE_REGION)
		s->region = NULL;
	return 1;
}

void slot_take(struct slot *s, void *at, int pages)
{
	memset(s->page, 0, (size_t)pages * sizeof(*s->page));
	s->at = at;
	s->pages = pages;
	s->region = NULL;
	s->where = WHERE_MAP;
	s->alone = 0;
}

void slot_trim(struct slot *s)
{
	int head = 0;

	while (s->pages && is_gone(s, s->pages - 1))
		s->pages--;
	while (head < s->pages && is_gone(s, head))
		head++;
	if (!s->pages) {
		s->at = NULL;
		s->region = NULL;
	} else if (head) {
		s->at += (size_t)head * PAGE;
		s->pages -= head;
		memmove(s->page, s->page + head, (size_t)s->pages * sizeof(*s->page));
	}
}

/* --- hashes ------------------------------------------------------------- */

uint64_t fold(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0x100000001b3u;
	return h ^ h >> 29;
}

static uint64_t hash_page(uint64_t h, const unsigned char *page, size_t step)
{
	for (size_t i = 0; i < PAGE; i += step) {
		uint64_t word;

		memcpy(&word, page + i, 8);
		h = fold(h, word);
	}
	return h;
}

uint64_t range_hash(const struct range *r)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (int i = 0; i < r->count; i++)
		if (may_read(&r->s->page[r->first + i]))
			h = hash_page(fold(h, (uint64_t)i), r->at + (size_t)i * PAGE, 8);
	return h;
}

/* Without every word: both ends and the middle. */
uint64_t slot_hash(const struct slot *s, int every_word)
{
	uint64_t h = 0xcbf29ce484222325u, word;

	for (int i = 0; s->at && i < s->pages; i++) {
		const unsigned char *page = s->at + (size_t)i * PAGE;

		if (!may_read(&s->page[i]))
			continue;
		h = hash_page(fold(h, (uint64_t)i), page, every_word ? 8 : PAGE / 2);
		memcpy(&word, page + PAGE - 8, 8);
		h = fold(h, word);
	}
	return h;
}

struct block *block_of(struct world *w, int number)
{
	return &w->block[(unsigned)number % BLOCKS];
}

/* Without every word: one of 64, and the end. */
uint64_t block_hash(const struct block *b, int every_word)
{
	size_t step = every_word || b->size < PAGE ? 8 : 512;
	uint64_t h = fold(0xcbf29ce484222325u, b->size), word;

	for (size_t i = 0; i + 8 <= b->size; i += step) {
		memcpy(&word, b->at + i, 8);
		h = fold(h, word);
	}
	for (size_t i = b->size & ~(size_t)7; i < b->size; i++)
		h = fold(h, b->at[i]);
	return h;
}

uint64_t world_hash(const struct world *w, int every_word)
{
	uint64_t h = 0;

	for (int i = 0; i < SLOTS; i++)
		h = fold(h, slot_hash(&w->slot[i], every_word));
	for (int i = 0; i < BLOCKS; i++)
		h = fold(h, block_hash(&w->block[i], every_word));
	return h;
}

int outcome(long ret)
{
	return ret == -1 ? errno : 0;
}

int failed(const void *p)
{
	return p == MAP_FAILED ? errno : 0;
}
