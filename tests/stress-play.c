/*
 * See stress-play.h. Every page says which mapping it was made for and how often it
 * was written; a page of zeros was never written, or given back.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cowfork.h"
#include "stress-play.h"

#define PIECES 6
#define PIECE_PAGES 1600u	/* three tables and a bit */

static struct piece {
	char *at;		/* NULL: none */
	size_t count;		/* pages */
	uint32_t name;
	struct page { uint8_t prot, pad[3]; uint32_t version; } page[PIECE_PAGES];
} pieces[PIECES];
static uint32_t names;

enum { RW = PROT_READ | PROT_WRITE };

/* --- pages -------------------------------------------------------------- */

static uint64_t value_of(const struct piece *p, size_t i)
{
	return p->page[i].version ? (uint64_t)p->name << 32 | p->page[i].version : 0;
}

static int is_right(const struct piece *p, size_t i, const char *who)
{
	const volatile uint64_t *at = (const uint64_t *)(p->at + i * PAGE);
	uint64_t want = value_of(p, i);

	if (!(p->page[i].prot & PROT_READ) || (at[0] == want && at[511] == want))
		return 1;
	printf("%s: page %zu of piece %u at %p says %#llx and %#llx, not %#llx\n", who, i,
	       p->name, (void *)p->at, (unsigned long long)at[0], (unsigned long long)at[511],
	       (unsigned long long)want);
	return 0;
}

static int are_right(const struct piece *p, const char *who)
{
	for (size_t i = 0; i < p->count; i++)
		if (!is_right(p, i, who))
			return 0;
	return 1;
}

static void write_page(struct piece *p, size_t i)
{
	volatile uint64_t *at = (uint64_t *)(p->at + i * PAGE);

	if (p->page[i].prot != RW)
		return;
	p->page[i].version++;
	at[0] = at[511] = value_of(p, i);
}

static void set(struct piece *p, size_t first, size_t count, int prot, int zero)
{
	for (size_t i = first; i < first + count; i++) {
		p->page[i].prot = (uint8_t)prot;
		if (zero)
			p->page[i].version = 0;
	}
}

static size_t range(struct random *r, const struct piece *p, size_t *ret_first)
{
	size_t first = draw(r, p->count), n = 1 + draw(r, draw(r, 3) ? 40 : PIECE_PAGES);

	*ret_first = first;
	return first + n > p->count ? p->count - first : n;
}

/* --- calls -------------------------------------------------------------- */

static void make(struct random *r, struct piece *p)
{
	size_t n = 70 + draw(r, PIECE_PAGES - 70);
	void *at = cow_mmap(NULL, n * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("cow_mmap");
	p->at = at;
	p->count = n;
	p->name = ++names;
	set(p, 0, n, RW, 1);
}

static void cut(struct random *r, struct piece *p)
{
	size_t keep = draw(r, p->count);

	if (draw(r, 3) == 0)
		keep = 0;
	if (cow_munmap(p->at + keep * PAGE, (p->count - keep) * PAGE) < 0)
		die("cow_munmap");
	p->count = keep;
	if (!keep)
		p->at = NULL;
}

/* One mapping at a time, so of one protection. */
static void resize(struct random *r, struct piece *p)
{
	size_t n = 1 + draw(r, PIECE_PAGES);
	void *at;

	if (cow_mprotect(p->at, p->count * PAGE, RW) < 0)
		die("cow_mprotect before cow_mremap");
	set(p, 0, p->count, RW, 0);
	at = cow_mremap(p->at, p->count * PAGE, n * PAGE, MREMAP_MAYMOVE, NULL);
	if (at == MAP_FAILED && errno == EFAULT)
		return;		/* plain memory in the middle of it */
	if (at == MAP_FAILED)
		die("cow_mremap");
	p->at = at;
	if (n > p->count)
		set(p, p->count, n - p->count, RW, 1);
	p->count = n;
}

static void protect(struct random *r, struct piece *p)
{
	static const int prots[] = { PROT_NONE, PROT_READ, RW, RW };
	size_t first, n = range(r, p, &first);
	int prot = prots[draw(r, 4)];

	if (cow_mprotect(p->at + first * PAGE, n * PAGE, prot) < 0)
		die("cow_mprotect");
	set(p, first, n, prot, 0);
}

static void give_back(struct random *r, struct piece *p)
{
	size_t first, n = range(r, p, &first);

	if (cow_madvise(p->at + first * PAGE, n * PAGE, MADV_DONTNEED) < 0)
		die("MADV_DONTNEED");
	for (size_t i = first; i < first + n; i++)
		p->page[i].version = 0;
}

static void map_over(struct random *r, struct piece *p)
{
	size_t first, n = range(r, p, &first);

	if (cow_mmap(p->at + first * PAGE, n * PAGE, RW,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("cow_mmap(MAP_FIXED)");
	set(p, first, n, RW, 1);
}

static void advise(struct random *r, struct piece *p)
{
	static const int advice[] = { MADV_PAGEOUT, MADV_COLD, MADV_WILLNEED, MADV_NORMAL };
	size_t first, n = range(r, p, &first);

	(void)!cow_madvise(p->at + first * PAGE, n * PAGE, advice[draw(r, 4)]);
}

static void write_some(struct random *r, struct piece *p)
{
	size_t first, n = range(r, p, &first);

	for (size_t i = first; i < first + n; i++)
		write_page(p, i);
}

/* --- public ------------------------------------------------------------- */

int play_step(struct random *r)
{
	typedef void call(struct random *r, struct piece *p);
	static call *const calls[] = { cut, resize, protect, protect, give_back, map_over,
				       advise };
	struct piece *p = &pieces[draw(r, PIECES)];

	if (!p->at)
		make(r, p);
	else if (draw(r, 3))
		write_some(r, p);
	else
		calls[draw(r, sizeof(calls) / sizeof(*calls))](r, p);
	return p->at && draw(r, 4) == 0 && !are_right(p, "player");
}

int play_check(const char *who)
{
	for (int i = 0; i < PIECES; i++)
		if (pieces[i].at && !are_right(&pieces[i], who))
			return 1;
	return 0;
}

void play_end(void)
{
	for (int i = 0; i < PIECES; i++) {
		if (pieces[i].at && cow_munmap(pieces[i].at, pieces[i].count * PAGE) < 0)
			die("cow_munmap at the end");
		pieces[i].at = NULL;
	}
}
