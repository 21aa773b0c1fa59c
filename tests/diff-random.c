/*
 * The differential test: a program drawn from a seed (map, write, read, unmap,
 * protect, advise, lock, move, fork, nested fork, wait) runs once on plain
 * memory under the kernel's fork (engine off) and once in the store. Every
 * process of the tree keeps a transcript of results, errnos and content hashes;
 * the two must be equal line by line. Addresses never enter a transcript.
 *
 * Use: diff-random [--seed N] [--seeds FROM-TO] [--verbose]
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compat.h"
#include "cowfork.h"

#define SLOTS 6
#define PAGES_MAX 1300		/* of a slot: more than two tables */
#define LANES 256		/* processes of one run */
#define STEPS 120		/* of the first process; children do fewer */
#define PAGE 4096ul

enum op { OP_MAP, OP_WRITE, OP_HASH, OP_UNMAP, OP_PROTECT, OP_DONTNEED, OP_FREE,
	  OP_GROW, OP_SHRINK, OP_MOVE, OP_FORK, OP_WAIT, OP_FIXED, OP_WIPE, OP_KEEP,
	  OP_HINT, OP_PREPARE, OP_LOCK, OP_BAD, OP_COUNT };

static const char *const names[] = {
	"map", "write", "hash", "unmap", "protect", "dontneed", "free", "grow",
	"shrink", "move", "fork", "wait", "fixed", "wipeonfork", "keeponfork",
	"hint", "prepare", "lock", "bad",
};

struct record {
	uint32_t op, result;
	uint64_t hash;
};

struct transcript {
	uint32_t count[LANES];
	struct record at[LANES][STEPS + 2];
};

struct slot {
	unsigned char *at;
	size_t pages;
	int whole;			/* still one mapping with one protection */
	unsigned char prot[PAGES_MAX];
};

struct program {
	uint64_t random;
	struct transcript *out;
	unsigned lane, depth, forks;
	struct slot slot[SLOTS];
	pid_t child[8];
	unsigned children;
};

static unsigned draw(struct program *p, unsigned below)
{
	p->random = p->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(p->random >> 33) % below;
}

static void note(struct program *p, enum op op, long result, uint64_t hash)
{
	uint32_t *n = &p->out->count[p->lane];

	p->out->at[p->lane][(*n)++] = (struct record){ op, (uint32_t)result, hash };
}

/* 0 or the errno of a call that returns -1. */
static long outcome(long ret)
{
	return ret == -1 ? errno : 0;
}

static uint64_t hash_page(uint64_t h, const unsigned char *page)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t word;

		memcpy(&word, page + i, 8);
		h = (h ^ word) * 0x100000001b3u;
		h ^= h >> 29;
	}
	return h;
}

static uint64_t hash_slot(const struct slot *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < s->pages; i++)
		if (s->prot[i] & PROT_READ)
			h = hash_page(h ^ i, s->at + i * PAGE);
	return h;
}

static void hash_all(struct program *p)
{
	for (int i = 0; i < SLOTS; i++)
		if (p->slot[i].at)
			note(p, OP_HASH, i, hash_slot(&p->slot[i]));
}

static void set_prot(struct slot *s, size_t first, size_t count, int prot)
{
	memset(s->prot + first, prot, count);
}

/* --- the operations ----------------------------------------------------- */

static void do_map(struct program *p, struct slot *s)
{
	size_t pages = 1 + draw(p, draw(p, 2) ? 8 : 700);

	if (s->at)
		return;
	s->at = cow_mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | (draw(p, 8) ? 0 : MAP_POPULATE),
			 -1, 0);
	if (s->at == MAP_FAILED)
		s->at = NULL;
	s->pages = s->at ? pages : 0;
	s->whole = 1;
	set_prot(s, 0, s->pages, PROT_READ | PROT_WRITE);
	note(p, OP_MAP, s->at != NULL, pages);
}

static void do_write(struct program *p, struct slot *s)
{
	unsigned count = draw(p, 4) ? 1 + draw(p, 20) : (unsigned)s->pages;
	unsigned first = draw(p, (unsigned)s->pages), value = 1 + draw(p, 255);

	for (unsigned i = 0; i < count; i++) {
		size_t page = (first + (count > 20 ? i : i * 7)) % s->pages;

		if (s->prot[page] & PROT_WRITE)
			memset(s->at + page * PAGE + value, (int)(value + i), 64);
	}
}

static void unmap_slot(struct program *p, struct slot *s, size_t first, size_t count)
{
	int ret = cow_munmap(s->at + first * PAGE, count * PAGE);

	note(p, OP_UNMAP, outcome(ret), count);
	if (first) {				/* the tail went */
		s->pages = first;
	} else {				/* the head went */
		s->at += count * PAGE;
		s->pages -= count;
		memmove(s->prot, s->prot + count, s->pages);
	}
	if (!s->pages)
		s->at = NULL;
}

static void do_unmap(struct program *p, struct slot *s)
{
	size_t count = draw(p, 3) ? 1 + draw(p, (unsigned)s->pages) : s->pages;

	unmap_slot(p, s, draw(p, 2) ? s->pages - count : 0, count);
}

static void do_range(struct program *p, struct slot *s, enum op op)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
				     PROT_READ | PROT_WRITE };
	static const int hints[] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL,
				     MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DODUMP,
				     MADV_DOFORK, MADV_COLD };
	unsigned first = draw(p, (unsigned)s->pages);
	unsigned count = 1 + draw(p, (unsigned)s->pages - first);
	unsigned char *at = s->at + first * PAGE;
	int prot = prots[draw(p, 4)], hint = hints[draw(p, 8)], ret = 0;
	void *q;

	switch (op) {
	case OP_PROTECT:
		ret = cow_mprotect(at, count * PAGE, prot);
		if (ret == 0)
			set_prot(s, first, count, prot);
		s->whole = 0;
		break;
	case OP_DONTNEED:
		ret = cow_madvise(at, count * PAGE, MADV_DONTNEED);
		s->whole = 0;
		break;
	case OP_FREE:	/* what is read back is either: so write it all */
		ret = cow_madvise(at, count * PAGE, MADV_FREE);
		for (unsigned i = first; i < first + count; i++)
			if (s->prot[i] & PROT_WRITE)
				memset(s->at + i * PAGE, 3, PAGE);
		for (unsigned i = first; i < first + count; i++)
			if (!(s->prot[i] & PROT_WRITE))
				ret |= cow_madvise(s->at + i * PAGE, PAGE, MADV_DONTNEED);
		s->whole = 0;
		break;
	case OP_FIXED:
		q = cow_mmap(at, count * PAGE, prot,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		ret = q == at ? 0 : -1;
		set_prot(s, first, count, prot);
		s->whole = 0;
		break;
	case OP_WIPE:
		ret = cow_madvise(at, count * PAGE, MADV_WIPEONFORK);
		s->whole = 0;
		break;
	case OP_KEEP:
		ret = cow_madvise(at, count * PAGE, MADV_KEEPONFORK);
		s->whole = 0;
		break;
	case OP_LOCK:
		if (count > 16)
			count = 16;
		ret = cow_mlock2(at, count * PAGE, 0);
		munlock(at, count * PAGE);
		s->whole = 0;
		break;
	default:
		ret = cow_madvise(at, count * PAGE, hint);
		s->whole = 0;
		break;
	}
	note(p, op, outcome(ret), count);
}

static void do_remap(struct program *p, struct slot *s, enum op op)
{
	size_t pages = s->pages;
	int flags = MREMAP_MAYMOVE;
	void *q;

	if (!s->whole)		/* the kernel wants one mapping */
		return;
	if (op == OP_GROW)
		pages += 1 + draw(p, 300);
	else if (op == OP_SHRINK)
		pages = 1 + draw(p, (unsigned)pages);
	else
		flags |= MREMAP_DONTUNMAP;
	if (pages > PAGES_MAX)
		return;
	q = cow_mremap(s->at, s->pages * PAGE, pages * PAGE, flags, NULL);
	note(p, op, q == MAP_FAILED ? errno : 0, pages);
	if (q == MAP_FAILED)
		return;
	if (op == OP_MOVE) {	/* what is left behind reads as zeros */
		note(p, op, -1, hash_slot(s));
		note(p, op, outcome(cow_munmap(s->at, s->pages * PAGE)), 0);
	}
	s->at = q;
	if (pages > s->pages)
		set_prot(s, s->pages, pages - s->pages, PROT_READ | PROT_WRITE);
	s->pages = pages;
}

static void run(struct program *p, unsigned steps);

static void do_fork(struct program *p)
{
	unsigned lane = p->lane * 4 + 1 + p->forks;
	pid_t pid;

	if (p->forks == 4 || p->depth == 3 || lane >= LANES)
		return;
	p->forks++;
	pid = cow_fork();
	if (pid == 0) {
		p->random ^= lane * 0x9e3779b97f4a7c15u;
		p->lane = lane;
		p->depth++;
		p->forks = p->children = 0;
		run(p, STEPS / 4);
		_exit(0);
	}
	note(p, OP_FORK, pid < 0 ? errno : 0, lane);
	if (pid > 0)
		p->child[p->children++] = pid;
}

static void do_wait(struct program *p)
{
	for (unsigned i = 0; i < p->children; i++) {
		int status = -1;

		waitpid(p->child[i], &status, 0);
		note(p, OP_WAIT, status, i);
	}
	p->children = 0;
}

static void do_bad(struct program *p, struct slot *s)
{
	note(p, OP_BAD, outcome(cow_mprotect(s->at + 1, PAGE, PROT_READ)), 0);
	note(p, OP_BAD, outcome(cow_munmap(s->at + 1, PAGE)), 1);
	note(p, OP_BAD, outcome(cow_madvise(s->at, PAGE, 12345)), 2);
	note(p, OP_BAD, outcome(cow_madvise(s->at, PAGE, MADV_REMOVE)), 3);
	note(p, OP_BAD, outcome(cow_mremap(s->at, PAGE, 0, 0, NULL) == MAP_FAILED ?
				-1 : 0), 4);
}

static void step(struct program *p)
{
	/* how often each comes, in OP_... order */
	static const unsigned char weight[OP_COUNT] = {
		14, 24, 10, 6, 7, 7, 3, 4, 4, 3, 7, 3, 3, 2, 1, 3, 1, 2, 1 };
	unsigned pick = draw(p, 105), op = 0;
	struct slot *s = &p->slot[draw(p, SLOTS)];

	while (op < OP_COUNT - 1 && pick >= weight[op])
		pick -= weight[op++];
	if (op == OP_MAP)
		do_map(p, s);
	else if (op == OP_FORK)
		do_fork(p);
	else if (op == OP_WAIT)
		do_wait(p);
	else if (op == OP_PREPARE)
		note(p, OP_PREPARE, cow_prepare(), 0);
	else if (!s->at)
		return;
	else if (op == OP_WRITE)
		do_write(p, s);
	else if (op == OP_HASH)
		note(p, OP_HASH, 0, hash_slot(s));
	else if (op == OP_UNMAP)
		do_unmap(p, s);
	else if (op == OP_GROW || op == OP_SHRINK || op == OP_MOVE)
		do_remap(p, s, (enum op)op);
	else if (op == OP_BAD)
		do_bad(p, s);
	else
		do_range(p, s, (enum op)op);
}

static void run(struct program *p, unsigned steps)
{
	uint32_t *n = &p->out->count[p->lane];

	while (steps-- && *n < STEPS - 2 * SLOTS - 8)
		step(p);
	hash_all(p);
	do_wait(p);
}

/* --- two runs, compared ------------------------------------------------- */

static int configure(enum cow_engine engine, enum cow_huge huge)
{
	struct cow_options opts = { .size = sizeof(opts), .min_size = PAGE,
				    .engine = engine, .huge = huge };

	return cow_options_set(&opts);
}

static int run_once(struct transcript *out, uint64_t seed, enum cow_engine engine)
{
	static struct program p;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (configure(engine, (enum cow_huge)(seed % 3)) < 0)
			_exit(9);
		p.random = seed * 0x9e3779b97f4a7c15u + 1;
		p.out = out;
		run(&p, STEPS);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -1;
	return status;
}

static int compare(const struct transcript *a, const struct transcript *b, int verbose)
{
	for (unsigned lane = 0; lane < LANES; lane++) {
		unsigned n = a->count[lane] > b->count[lane] ? a->count[lane] : b->count[lane];

		for (unsigned i = 0; i < n; i++) {
			const struct record *x = &a->at[lane][i], *y = &b->at[lane][i];
			int same = x->op == y->op && x->result == y->result &&
				   x->hash == y->hash;

			if (verbose || !same)
				printf("process %u line %u: %s %d %llx%s%s %d %llx\n",
				       lane, i, names[x->op], (int)x->result,
				       (unsigned long long)x->hash,
				       same ? " =" : " but in the store ",
				       names[y->op], (int)y->result,
				       (unsigned long long)y->hash);
			if (!same)
				return 1;
		}
	}
	return 0;
}

static int try_seed(struct transcript *t, uint64_t seed, int verbose)
{
	int native, store;

	memset(t, 0, 2 * sizeof(*t));
	native = run_once(&t[0], seed, COW_ENGINE_OFF);
	store = run_once(&t[1], seed, COW_ENGINE_STORE);
	if (native == store && !compare(&t[0], &t[1], verbose))
		return 0;
	printf("seed %llu differs (wait status: native %d, store %d); replay: "
	       "diff-random --seed %llu --verbose\n", (unsigned long long)seed,
	       native, store, (unsigned long long)seed);
	return 1;
}

int main(int argc, char **argv)
{
	unsigned long long from = 1, to = 300, bad = 0;
	struct transcript *t;
	int verbose = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--verbose"))
			verbose = 1;
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			from = to = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--seeds") && i + 1 < argc &&
			 sscanf(argv[++i], "%llu-%llu", &from, &to) == 2)
			continue;
		else
			return fprintf(stderr, "usage: diff-random [--seed N] "
				       "[--seeds FROM-TO] [--verbose]\n"), 2;
	}
	setvbuf(stdout, NULL, _IONBF, 0);
	t = mmap(NULL, 2 * sizeof(*t), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t == MAP_FAILED)
		return perror("mmap"), 2;
	for (unsigned long long seed = from; seed <= to && bad < 5; seed++) {
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "\rseed %llu of %llu", seed, to);
		bad += (unsigned long long)try_seed(t, seed, verbose);
	}
	printf("%sseeds %llu to %llu: %llu differ\n", isatty(STDERR_FILENO) ? "\n" : "",
	       from, to, bad);
	return bad != 0;
}
