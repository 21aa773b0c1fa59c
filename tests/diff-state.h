/*
 * One process of a program while it runs: what its slots hold, as far as a
 * program may know (which pages may be touched, and how), and the transcript.
 * Contents are not modelled: plain memory, engine off, says what they must be.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_DIFF_STATE_H
#define COWFORK_DIFF_STATE_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "diff-program.h"

enum {
	PAGE_GUARD = 1,		/* MADV_GUARD_INSTALL: touching it kills */
	PAGE_UNKNOWN = 2,	/* may kill too */
	PAGE_DONTFORK = 4,	/* children do not have it */
	PAGE_WIPED = 8,		/* MADV_WIPEONFORK was asked for at some time */
	PAGE_REGION = 16,	/* cow_region_destroy() takes it away */
	PAGE_LOCKED = 32,	/* as far as one can tell */
	PAGE_RAW = 64,		/* a place that the library never gave out: system calls
				 * that it does not see may be made there */
	PAGE_PLACE = PAGE_REGION | PAGE_RAW,	/* of the address, not what is there */
};

struct page {
	uint8_t prot, back;
	uint16_t flags, map;	/* pages of one number are one mapping to the kernel */
};

/* Addresses of the program's own. Holes (BACK_NONE) in it may have been given to
 * others by the kernel, so nothing is done to them. */
struct slot {
	unsigned char *at;	/* NULL: empty */
	int pages;
	void *region;		/* by cow_region_create(), or NULL */
	enum where where;
	int alone;		/* pages that it has while it is one mapping of its own */
	struct page page[PAGES_MAX];
};

/* Of malloc. */
struct block {
	unsigned char *at;	/* NULL: none */
	size_t size;
};

/* One for each operation, at its place in the program. */
struct record {
	uint32_t state;		/* 0 not reached, 1 begun, 2 done */
	int32_t result;		/* an errno mostly */
	uint64_t hash;
};

struct transcript {
	struct record op[OPS_MAX];
	struct record end[PROCS_MAX];
	atomic_ullong forks, refreshed, thawed, adopted, in_place;	/* not compared */
};

#define SKIPPED (-1)		/* made no sense here */
#define WRONG 7777		/* a result that no engine may have */

#define CHILDREN_MAX PROCS_MAX

struct world {
	const struct program *program;
	struct transcript *out;
	int proc;
	uint64_t fold;		/* what an operation has seen, beside its result */
	uint16_t maps;		/* numbers of mappings given out */
	struct slot slot[SLOTS];
	struct block block[BLOCKS];
	int bss_given;
	pid_t child[CHILDREN_MAX];
	int children;
	int lock_future;	/* mlockall(MCL_FUTURE) holds */
	int done;		/* no more operations: it leaves */
};

/* What the machine can do, found out once by diff_probe(). */
extern int diff_multi_move;	/* mremap(2) moves several mappings (6.17) */
extern int diff_lock_all;	/* mlockall(2) without a limit */
extern int diff_file;		/* to map: patterns, then zeros */
void diff_probe(void);

/* A range of live pages of one slot, cut to what is there. */
struct range {
	struct slot *s;
	int first, count;
	unsigned char *at;
	size_t len;
};

/* From the operands slot, first, count, less. 0: there is none. */
int range_of(struct world *w, const struct op *op, struct range *ret_range);
int range_at(struct slot *s, int first, int count, struct range *ret_range);
struct slot *slot_of(struct world *w, int number);

int is_one_mapping(const struct range *r);	/* for sure */
int is_many_mappings(const struct range *r);	/* for sure */
int has_backing(const struct range *r, int back);
int has_flag(const struct range *r, int flag);
int is_raw(const struct range *r);	/* all of it */
int may_read(const struct page *page);
int may_write(const struct page *page);

/* Locks, of all pages there are. */
void world_lock(struct world *w, int flags);

/* What the kernel may have cut at the ends of a range. */
void range_split(struct world *w, const struct range *r);
/* A mapping of its own. */
void range_map(struct world *w, const struct range *r, int prot, int back);
void range_protect(struct world *w, const struct range *r, int prot);
void range_flag(const struct range *r, int set, int clear);
void range_unmap(const struct range *r);
/* An empty slot gets pages that the table does not know yet. */
void slot_take(struct slot *s, void *at, int pages);
/* Drop holes at the ends. Moves numbers of pages: call it last. */
void slot_trim(struct slot *s);

uint64_t fold(uint64_t h, uint64_t word);
uint64_t range_hash(const struct range *r);	/* every word */
uint64_t slot_hash(const struct slot *s, int every_word);
uint64_t block_hash(const struct block *b, int every_word);
uint64_t world_hash(const struct world *w, int every_word);

struct block *block_of(struct world *w, int number);

/* System calls that the library does not see. */
void *raw_mmap(void *at, size_t len, int prot, int flags, int fd);
void *raw_mremap(void *at, size_t len, size_t new_len, int flags, void *to);
int raw_munmap(void *at, size_t len);
int raw_mprotect(void *at, size_t len, int prot);

/* 0 or the errno of a call that returns -1. */
int outcome(long ret);
int failed(const void *p);	/* the same for a mapping */

/* What the library is known to do otherwise, and so is left out. diff-known.c */
extern int diff_strict;		/* leave nothing out */
int known_remap(const struct range *from, int how);

/* The operations, one file a family. */
int do_map(struct world *w, const struct op *op);	/* diff-map.c */
int do_region(struct world *w, const struct op *op);
int do_destroy(struct world *w, const struct op *op);
int do_fixed(struct world *w, const struct op *op);
int do_hole(struct world *w, const struct op *op);
int do_remap(struct world *w, const struct op *op);	/* diff-remap.c */
int do_raw_move(struct world *w, const struct op *op);
int do_raw_grow(struct world *w, const struct op *op);
int do_native(struct world *w, const struct op *op);	/* diff-native.c */
int do_raw(struct world *w, const struct op *op);
int do_brk(struct world *w, const struct op *op);
int do_malloc(struct world *w, const struct op *op);	/* diff-heap.c */
int do_realloc(struct world *w, const struct op *op);
int do_free(struct world *w, const struct op *op);
int do_fill(struct world *w, const struct op *op);
int do_trim(struct world *w, const struct op *op);
int do_adopt(struct world *w, const struct op *op);	/* diff-adopt.c */
int do_release(struct world *w, const struct op *op);
int do_thaw(struct world *w, const struct op *op);
int do_advise(struct world *w, const struct op *op);	/* diff-calls.c */
int do_lock(struct world *w, const struct op *op);
int do_unlock(struct world *w, const struct op *op);
int do_lockall(struct world *w, const struct op *op);
int do_sync(struct world *w, const struct op *op);
int do_resident(struct world *w, const struct op *op);
int do_syscall(struct world *w, const struct op *op);
int do_bad(struct world *w, const struct op *op);	/* diff-bad.c */
int do_fork(struct world *w, const struct op *op);	/* diff-family.c */
int do_wait(struct world *w, const struct op *op);
int do_exec(struct world *w, const struct op *op);

/* All operations of a process, and its end. diff-ops.c */
void process_run(struct world *w);

#endif
