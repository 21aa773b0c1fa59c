/*
 * Memory calls on memory in the store, against the same calls on plain
 * anonymous memory. Each script of calls below runs on a plain mapping and on
 * every kind of managed memory (owned, frozen, frozen while a child looks on,
 * inherited by a child, thawed again; the same of adopted memory, where calls that the
 * library does not see are played too). Results and errnos, and for each page
 * its protection and contents, must be the same: right after the script, in a
 * child, in the parent after the child has written, and after a thaw and
 * freeze. What an old child sees must not have changed at all, and new memory
 * must be zero.
 *
 * Protections come from /proc/self/maps: the kernel's view, not the library's.
 * Longer than other files by the scripts, which are the test.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compat.h"
#include "process.h"
#include "support.h"
#include "thaw.h"

#define PAGES 1300u		/* two tables and a part */
#define SPOT (2 * PAGES)	/* where "move" goes */
#define RESULTS 40

/* UNSEEN: adopted, and its owner makes raw calls. */
enum kind { PLAIN, OWNED, FROZEN, WATCHED, INHERITED, THAWED, ADOPTED, ADOPTED_WATCHED,
	    ADOPTED_INHERITED, REFRESHED, UNSEEN, UNSEEN_WATCHED, UNSEEN_INHERITED,
	    UNSEEN_REFRESHED, KINDS };
static const char *const kind_names[] = {
	"plain", "owned", "frozen", "watched", "inherited", "thawed", "adopted",
	"adopted and watched", "adopted and inherited", "adopted and refreshed", "unseen",
	"unseen and watched", "unseen and inherited", "unseen and refreshed",
};
static int unseen;
static int all;		/* live-memory --all: each script on every kind */

static int is_adopted(enum kind kind)
{
	return kind >= ADOPTED;
}

static int is_watched(enum kind kind)
{
	return kind == WATCHED || kind == ADOPTED_WATCHED || kind == UNSEEN_WATCHED;
}

static int is_inherited(enum kind kind)
{
	return kind == INHERITED || kind == ADOPTED_INHERITED || kind == UNSEEN_INHERITED;
}

static int is_refreshed(enum kind kind)
{
	return kind == THAWED || kind == REFRESHED || kind == UNSEEN_REFRESHED;
}

/* Numbers are pages of the area: CALL from length [argument]. */
static const char *const scripts[] = {
	"unmap 0 1", "unmap 1299 1", "unmap 100 50", "unmap 0 700; unmap 700 600",
	"unmap 0 1300", "unmap 512 512", "unmap 511 2; unmap 500 30", "unmap 5 0",
	"unmap 0 2000",
	"prot 100 20 0", "prot 100 20 1", "prot 0 1300 1", "prot 0 1300 0",
	"prot 0 1300 0; prot 0 1300 3", "prot 511 2 0; prot 1024 1 1; write 0 1300",
	"prot 3 1 0; prot 5 1 0; prot 7 1 0; prot 9 1 1; prot 11 1 5",
	"prot 100 9 7; write 100 9", "prot 100 9 2; write 100 9",
	"unmap 100 9; prot 90 30 1", "prot 1290 20 1", "prot 100 9 512",
	"prot 100 9 0; unmap 90 30", "prot 100 30 0; unmap 110 5; prot 0 1300 3",
	"advise 100 4 DONTNEED", "advise 100 16 DONTNEED; write 100 8",
	"advise 100 17 DONTNEED; write 100 8", "advise 512 512 DONTNEED",
	"advise 0 1300 DONTNEED", "advise 0 1300 DONTNEED; write 200 900",
	"prot 90 20 0; advise 80 40 DONTNEED; prot 90 20 3",
	"prot 90 20 1; advise 80 40 DONTNEED; prot 90 20 3",
	"prot 90 200 0; advise 80 400 DONTNEED; prot 90 200 3",
	"unmap 100 4; advise 90 20 DONTNEED", "unmap 100 40; advise 90 200 DONTNEED",
	"advise 7 4 DONTNEED; advise 9 4 DONTNEED; write 8 2; advise 0 30 DONTNEED",
	"advise 1290 20 DONTNEED", "advise 100 9 DONTNEED_LOCKED",
	"advise 100 100 DONTNEED; advise 100 100 DONTNEED; write 120 9",
	"advise 0 9 BAD", "advise 0 9 REMOVE", "advise 0 900 REMOVE",
	"advise 0 1300 NORMAL", "advise 0 1300 RANDOM", "advise 0 1300 WILLNEED",
	"advise 0 1300 COLD", "advise 0 1300 PAGEOUT", "advise 9 9 POPULATE_READ",
	"advise 9 9 POPULATE_WRITE", "advise 0 1300 HUGEPAGE", "advise 0 1300 NOHUGEPAGE",
	"advise 9 90 DONTDUMP; write 8 9", "advise 9 90 DODUMP", "advise 9 90 DOFORK",
	"advise 100 50 DONTFORK", "advise 0 1300 DONTFORK; write 3 99",
	"advise 100 50 DONTFORK; advise 90 30 DOFORK",
	"advise 100 50 DONTFORK; advise 100 50 DONTNEED",
	"advise 100 50 DONTFORK; prot 110 5 0; write 105 5",
	"advise 100 50 DONTFORK; unmap 110 9; write 100 50",
	"advise 100 50 WIPEONFORK", "advise 0 1300 WIPEONFORK; write 500 50",
	"advise 100 50 WIPEONFORK; advise 90 30 KEEPONFORK", "advise 9 9 KEEPONFORK",
	"advise 100 50 WIPEONFORK; advise 100 50 DONTNEED",
	"prot 120 9 0; advise 100 50 WIPEONFORK", "unmap 120 9; advise 100 50 WIPEONFORK",
	"advise 100 50 DONTFORK; advise 100 50 DOFORK; advise 100 50 WIPEONFORK",
	"advise 0 0 DONTNEED",
	"shrink 0 1300 600", "shrink 0 1300 1", "shrink 200 1100 600", "shrink 0 1300 0",
	"shrink 0 1300 1300", "shrink 100 50 9; write 90 30",
	"shrink 0 1300 600; grow 0 600 1200", "shrink 0 1300 600; map 600 700 anon",
	"grow 0 1300 1400", "grow 0 1300 2400", "grow 1200 100 300", "remap 0 600 900 0",
	"advise 100 100 DONTNEED; grow 0 1300 1400", "advise 0 1300 DONTNEED; grow 0 1300 1301",
	"prot 0 1300 1; grow 0 1300 1400", "prot 0 1300 0; grow 0 1300 1400",
	"move 0 1300 1300", "move 0 1300 2000", "move 0 1300 600", "move 600 100 100",
	"move 0 512 512; write 0 1300", "move 511 2 2; map 511 2 anon",
	"prot 0 1300 1; move 0 1300 1300", "prot 100 9 0; move 100 9 9",
	"stay 0 1300 1300", "stay 600 100 100; write 590 30", "stay 0 100 90",
	"advise 0 1300 DONTFORK; move 0 1300 1300", "advise 0 1300 WIPEONFORK; move 0 1300 1300",
	"remap 0 0 1300 1", "remap 0 9 0 1", "remap 0 9 9 8", "remap 0 9 9 2",
	"remap 0 9 9 4", "remap 0 9 18 3", "unmap 5 1; remap 0 9 18 1",
	"map 100 50 anon", "map 100 50 none", "map 0 1300 anon", "map 512 512 anon; write 500 30",
	"map 100 50 shared", "map 100 50 file", "map 100 50 noreplace",
	"unmap 100 50; map 100 50 noreplace", "unmap 100 50; map 90 50 noreplace",
	"unmap 100 50; map 100 50 anon; write 90 90; unmap 90 20",
	"map 100 50 anon; advise 90 90 DONTNEED", "map 100 50 anon; prot 90 90 1",
	"map 100 50 shared; advise 100 50 DONTNEED", "map 100 50 shared; unmap 90 90",
	"map 100 50 shared; shrink 100 50 20", "map 100 50 shared; move 100 50 50",
	"map 100 50 file; move 100 50 50; advise 100 50 DONTNEED",
	"map 100 50 shared; advise 100 50 DONTFORK", "map 100 50 none; prot 100 50 3",
	"lock 100 9", "lock 0 1300; write 0 1300", "lock 100 9; unlock 100 9; write 99 9",
	"lock 100 9; advise 100 9 DONTNEED", "lock 100 50; advise 90 90 DONTNEED",
	"lock 100 9; unmap 90 30", "unmap 100 9; lock 90 30", "lock 100 9; prot 90 30 1",
	"prot 100 9 0; lock 100 9", "lock 100 9; grow 0 100 200", "lock 1290 20",
	"lock 100 9; unlock 100 9; advise 90 40 DONTNEED",
	"prepare; write 7 9; advise 5 9 DONTNEED; fork; write 8 2",
	"fork; unmap 100 9; fork; map 100 9 anon; fork; advise 0 1300 DONTNEED",
	"fork; prot 100 9 0; fork; prot 100 9 3; write 99 9; prepare; fork",
};

struct page {
	char perms[4];
	uint64_t sum;
};

struct view {
	struct page area[PAGES], spot[SPOT], grown[SPOT];
};

struct outcome {
	int results[RESULTS], count;
	struct view views[4];
	int old_child, fresh_is_zero, done;
};

/* --- running a script --------------------------------------------------- */

static char *area, *spot, *grown;
static size_t grown_pages;
static size_t seen_pages = PAGES;	/* of the area; see remap() */
static int foreign;		/* a file of the program's */
static struct outcome *out;

static void result(long ret)
{
	ck_assert_int_lt(out->count, RESULTS);
	out->results[out->count++] = ret == -1 ? errno : 0;
}

static const struct { const char *name; int value; } advices[] = {
	{ "DONTNEED", MADV_DONTNEED }, { "DONTNEED_LOCKED", MADV_DONTNEED_LOCKED },
	{ "BAD", 999 }, { "REMOVE", MADV_REMOVE }, { "NORMAL", MADV_NORMAL },
	{ "RANDOM", MADV_RANDOM }, { "WILLNEED", MADV_WILLNEED }, { "COLD", MADV_COLD },
	{ "PAGEOUT", MADV_PAGEOUT }, { "POPULATE_READ", MADV_POPULATE_READ },
	{ "POPULATE_WRITE", MADV_POPULATE_WRITE }, { "HUGEPAGE", MADV_HUGEPAGE },
	{ "NOHUGEPAGE", MADV_NOHUGEPAGE }, { "DONTDUMP", MADV_DONTDUMP },
	{ "DODUMP", MADV_DODUMP }, { "DONTFORK", MADV_DONTFORK },
	{ "DOFORK", MADV_DOFORK }, { "WIPEONFORK", MADV_WIPEONFORK },
	{ "KEEPONFORK", MADV_KEEPONFORK },
};

static int advice_of(const char *name)
{
	for (int i = 0; i < COUNT(advices); i++)
		if (!strcmp(advices[i].name, name))
			return advices[i].value;
	ck_abort_msg("no advice %s", name);
}

/* --- the calls, seen or not ----------------------------------------------- */

static void *do_mmap(void *at, size_t len, int prot, int flags, int fd)
{
	return unseen ? (void *)syscall(SYS_mmap, at, len, prot, flags, fd, 0)
		      : cow_mmap(at, len, prot, flags, fd, 0);
}

static int do_munmap(void *at, size_t len)
{
	return unseen ? (int)syscall(SYS_munmap, at, len) : cow_munmap(at, len);
}

static int do_mprotect(void *at, size_t len, int prot)
{
	return unseen ? (int)syscall(SYS_mprotect, at, len, prot)
		      : cow_mprotect(at, len, prot);
}

static int do_madvise(void *at, size_t len, int advice)
{
	return unseen ? (int)syscall(SYS_madvise, at, len, advice)
		      : cow_madvise(at, len, advice);
}

static int do_mlock(void *at, size_t len)
{
	return unseen ? (int)syscall(SYS_mlock, at, len) : cow_mlock2(at, len, 0);
}

static void *do_mremap(void *at, size_t old_len, size_t len, int flags, void *to)
{
	return unseen ? (void *)syscall(SYS_mremap, at, old_len, len, flags, to)
		      : cow_mremap(at, old_len, len, flags, to);
}

/* --- steps -------------------------------------------------------------- */

static void map_over(size_t at, size_t n, const char *how)
{
	int flags = MAP_FIXED, fd = -1, prot = PROT_READ | PROT_WRITE;
	void *p;

	if (!strcmp(how, "file") || !strcmp(how, "shared"))
		fd = foreign;
	flags |= strcmp(how, "shared") ? MAP_PRIVATE : MAP_SHARED;
	flags |= fd < 0 ? MAP_ANONYMOUS : 0;
	if (!strcmp(how, "none"))
		prot = PROT_NONE;
	if (!strcmp(how, "noreplace"))
		flags = MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS;
	p = do_mmap(area + at * PAGE, n * PAGE, prot, flags, fd);
	result(p == MAP_FAILED ? -1 : 0);
}

/* Protection letters of pages, from the kernel. */
static void read_perms(const char *base, size_t pages, struct page *page)
{
	uintptr_t from = (uintptr_t)base, to = from + pages * PAGE;
	unsigned long start, end;
	char line[512], perms[5];
	FILE *f = fopen("/proc/self/maps", "r");

	ck_assert_ptr_nonnull(f);
	for (size_t i = 0; i < pages; i++)
		memcpy(page[i].perms, "---", 4);
	while (fgets(line, sizeof(line), f)) {
		ck_assert_int_eq(sscanf(line, "%lx-%lx %4s", &start, &end, perms), 3);
		perms[3] = 0;
		for (; start < end; start += PAGE) {
			if (start >= to)
				break;
			if (start < from && end > from)
				start = from;
			if (start >= from)
				memcpy(page[(start - from) / PAGE].perms, perms, 4);
			else
				break;
		}
	}
	fclose(f);
}

static void look_at(const char *base, size_t pages, struct page *page)
{
	if (!base)
		return;
	read_perms(base, pages, page);
	for (size_t i = 0; i < pages; i++) {
		const uint64_t *p = (const uint64_t *)(base + i * PAGE);

		page[i].sum = 0;
		for (size_t w = 0; page[i].perms[0] == 'r' && w < PAGE / 8; w++)
			page[i].sum = page[i].sum * 31 + p[w];
	}
}

static void look(int number)
{
	struct view *v = &out->views[number];

	look_at(area, seen_pages, v->area);
	look_at(spot, SPOT, v->spot);
	look_at(grown, grown_pages, v->grown);
}

/* Write to every second writable page of what this process sees. */
static void scribble_on(char *base, size_t from, size_t pages, unsigned seed, int each)
{
	static struct page now[SPOT];

	if (!base)
		return;
	read_perms(base + from * PAGE, pages, now);
	for (size_t i = 0; i < pages; i++)
		if (now[i].perms[1] == 'w' && (i + seed) % (unsigned)each == 0)
			*(volatile uint64_t *)(base + (from + i) * PAGE + 64) =
				seed * 1000003u + i;
}

static void scribble(unsigned seed)
{
	scribble_on(area, 0, seen_pages, seed, 3);
	scribble_on(spot, 0, SPOT, seed, 3);
	scribble_on(grown, 0, grown_pages, seed, 3);
}

static void fork_and_check(int child_view)
{
	pid_t pid = cow_fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (child_view)
			look(child_view);
		scribble(7);
		_exit(0);
	}
	ck_assert_int_eq(wait_for(pid), 0);
}

static void remap(const char *call, size_t at, size_t n, size_t to, int flags)
{
	char *from = area + at * PAGE;
	void *where = NULL, *p;

	if (!strcmp(call, "move") || !strcmp(call, "stay")) {
		flags = MREMAP_MAYMOVE | MREMAP_FIXED;
		flags |= *call == 's' ? MREMAP_DONTUNMAP : 0;
		where = spot;
	} else if (!strcmp(call, "grow")) {
		flags = MREMAP_MAYMOVE;
	} else if (flags & MREMAP_FIXED) {
		where = from + PAGE;
	}
	p = do_mremap(from, n * PAGE, to * PAGE, flags, where);
	result(p == MAP_FAILED ? -1 : 0);
	if (*call != 'g' || p == MAP_FAILED)
		return;
	/* it may move (also into what the area gave up) or stay, on plain memory
	 * too: look at the area only up to there */
	grown = p;
	grown_pages = to;
	seen_pages = at;
}

static void step(const char *text)
{
	char call[16], word[32] = "";
	size_t at = 0, n = 0, to;

	ck_assert_int_ge(sscanf(text, " %15s %zu %zu %31s", call, &at, &n, word), 1);
	to = strtoul(word, NULL, 10);
	if (!strcmp(call, "unmap"))
		result(do_munmap(area + at * PAGE, n * PAGE));
	else if (!strcmp(call, "prot"))
		result(do_mprotect(area + at * PAGE, n * PAGE, (int)to));
	else if (!strcmp(call, "advise"))
		result(do_madvise(area + at * PAGE, n * PAGE, advice_of(word)));
	else if (!strcmp(call, "map"))
		map_over(at, n, word);
	else if (!strcmp(call, "lock"))
		result(do_mlock(area + at * PAGE, n * PAGE));
	else if (!strcmp(call, "unlock"))
		result(munlock(area + at * PAGE, n * PAGE));
	else if (!strcmp(call, "write"))
		scribble_on(area, at, n, (unsigned)n, 1);
	else if (!strcmp(call, "prepare"))
		result(cow_prepare());
	else if (!strcmp(call, "fork"))
		fork_and_check(0);
	else if (!strcmp(call, "shrink"))
		remap(call, at, n, to, 0);
	else
		remap(call, at, n, to, *call == 'r' ? atoi(strrchr(text, ' ')) : 0);
}

static void run_script(const char *script)
{
	char text[256], *save = NULL;

	snprintf(text, sizeof(text), "%s", script);
	for (char *s = strtok_r(text, ";", &save); s; s = strtok_r(NULL, ";", &save))
		step(s);
}

/* --- kinds of memory ---------------------------------------------------- */

static char *plain_at(uintptr_t at, size_t pages, int prot)
{
	/* low addresses: nothing else is ever put next to them */
	void *p = mmap((void *)at, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_FIXED_NOREPLACE, -1, 0);

	ck_assert_ptr_eq(p, (void *)at);
	return p;
}

static int thaw(void)
{
	int thawed = 0;

	process_lock();
	if (thaw_allowed())
		thawed = thaw_all();
	process_unlock();
	return thawed;
}

static void make_area(enum kind kind)
{
	const struct cow_options o = { sizeof(o), PAGE, COW_ENGINE_STORE, COW_HUGE_NEVER, COW_THAW_AUTO, COW_ADOPT_NEVER };

	ck_assert_int_eq(cow_options_set(&o), 0);
	foreign = memfd_create("program", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(foreign, (off_t)(PAGES * PAGE)), 0);
	spot = plain_at((uintptr_t)3 << 36, SPOT, PROT_NONE);
	area = kind == PLAIN || is_adopted(kind) ? plain_at((uintptr_t)1 << 37, PAGES, 3)
						 : region(PAGES * PAGE);
	fill(area, PAGES * PAGE, is_refreshed(kind) ? 9 : 1);
	if (is_adopted(kind))
		ck_assert_int_eq(cow_adopt(area, PAGES * PAGE), 0);
	else if (kind != PLAIN && kind != OWNED)
		ck_assert_int_eq(cow_prepare(), 0);
	if (is_refreshed(kind)) {
		fill(area, PAGES * PAGE, 1);
		if (is_adopted(kind))
			fork_and_check(0);	/* else there is nothing to do yet */
		ck_assert_int_eq(thaw(), 1);
	}
	ck_assert_int_eq(cow_region_state(area),
			 kind == PLAIN ? COW_STATE_NATIVE :
			 kind == OWNED || kind == THAWED ? COW_STATE_OWNED :
			 COW_STATE_FROZEN);
	unseen = kind >= UNSEEN;
}

static int area_is_filled(void *arg)
{
	(void)arg;
	return !is_filled(area, PAGES * PAGE, 1);
}

static int all_fresh_is_zero(void)
{
	static const size_t pages[] = { 1, 16, PAGES, 600 };
	int good = 1;

	for (int i = 0; i < COUNT(pages); i++) {
		char *p = cow_mmap(NULL, pages[i] * PAGE, 3,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ck_assert_ptr_ne(p, MAP_FAILED);
		good &= is_zero(p, pages[i] * PAGE);
		fill(p, pages[i] * PAGE, 5);
	}
	return good;
}

/* The script, then everybody writes and looks. */
static void play(enum kind kind, const char *script)
{
	run_script(script);
	look(0);
	fork_and_check(1);
	scribble(8);
	fork_and_check(0);
	look(2);
	if (!is_watched(kind))
		thaw();
	ck_assert_int_eq(cow_prepare(), 0);
	scribble(9);
	fork_and_check(0);
	look(3);
	if (area)
		ck_assert_int_eq(cow_munmap(area, PAGES * PAGE), 0);
	if (grown)
		ck_assert_int_eq(cow_munmap(grown, grown_pages * PAGE), 0);
	out->fresh_is_zero = all_fresh_is_zero();
	out->done = 1;
}

struct run {
	enum kind kind;
	const char *script;
};

static int run(void *arg)
{
	const struct run *r = arg;
	struct reader old = { .pid = -1 };
	pid_t pid;

	make_area(r->kind);
	if (is_watched(r->kind))
		old = reader_start(area_is_filled, NULL);
	if (is_inherited(r->kind)) {
		pid = cow_fork();
		if (pid)
			return wait_for(pid);
	}
	play(r->kind, r->script);
	if (is_watched(r->kind))
		out->old_child = reader_ask(&old) || reader_end(&old);
	return 0;
}

/* --- comparing ---------------------------------------------------------- */

static int differ(const char *what, int view, const struct page *a,
		  const struct page *b, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		if (!memcmp(a[i].perms, b[i].perms, 4) && a[i].sum == b[i].sum)
			continue;
		fprintf(stderr, "  view %d: page %zu of %s is %s, %s contents as on "
			"plain memory, where it is %s\n", view, i, what, b[i].perms,
			a[i].sum == b[i].sum ? "same" : "not the", a[i].perms);
		return 1;
	}
	return 0;
}

static int compare(const struct outcome *a, const struct outcome *b)
{
	int bad = !b->done || b->old_child || !b->fresh_is_zero || a->count != b->count;

	if (bad)
		fprintf(stderr, "  done %d, old child %s, fresh memory %s\n", b->done,
			b->old_child ? "WRONG" : "right",
			b->fresh_is_zero ? "zero" : "NOT ZERO");
	for (int i = 0; i < a->count && i < b->count; i++)
		if (a->results[i] != b->results[i]) {
			fprintf(stderr, "  call %d: errno %d, plain memory %d\n", i + 1,
				b->results[i], a->results[i]);
			bad = 1;
		}
	for (int i = 0; i < 4; i++) {
		const struct view *v = &a->views[i], *w = &b->views[i];

		bad |= differ("area", i, v->area, w->area, PAGES) ||
		       differ("target", i, v->spot, w->spot, SPOT) ||
		       differ("grown", i, v->grown, w->grown, SPOT);
	}
	return bad;
}

static struct outcome *outcome_of(enum kind kind, const char *script)
{
	struct run r = { kind, script };
	int status;

	out = mmap(NULL, sizeof(*out), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(out, MAP_FAILED);
	status = in_child(run, &r);
	if (status)
		fprintf(stderr, "  %s: ended with status %d\n", kind_names[kind], status);
	return out;
}

/* Where the store shows through calls that the library does not see, cowfork(7): old
 * bytes rather than zeros, a part that grows. */
static int may_be_unseen(const char *script)
{
	static const char *const not[] = { "DONTNEED", "WIPEONFORK", "REMOVE", "stay",
					   "shrink 0 1300 600; grow", "lock 100 9; grow" };

	for (int i = 0; i < COUNT(not); i++)
		if (strstr(script, not[i]))
			return 0;
	return 1;
}

/* They take long: one of the unseen for each script. */
static int is_wanted(int kind, int number)
{
	return kind < UNSEEN || (may_be_unseen(scripts[number]) &&
				 (all || kind - UNSEEN == number % (KINDS - UNSEEN)));
}

START_TEST(script)
{
	const struct outcome *plain = outcome_of(PLAIN, scripts[_i]);
	int bad = 0;

	ck_assert(plain->done && plain->fresh_is_zero);
	for (int kind = OWNED; kind < KINDS; kind++)
		if (is_wanted(kind, _i) &&
		    compare(plain, outcome_of((enum kind)kind, scripts[_i]))) {
			fprintf(stderr, "%s: \"%s\" is not as on plain memory\n",
				kind_names[kind], scripts[_i]);
			bad++;
		}
	ck_assert_msg(!bad, "script %d, \"%s\": wrong on %d kinds of memory", _i,
		      scripts[_i], bad);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *suite = suite_create("live-memory");
	TCase *tc = tcase_create("scripts");

	all = argc > 1 && !strcmp(argv[1], "--all");
	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, script, 0, COUNT(scripts));
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
