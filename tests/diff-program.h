/*
 * Programs of the differential test: a list of operations for each process of a
 * tree. Operands are numbers that mean something only when the operation runs
 * (slots, pages of a slot), and what makes no sense then does nothing, so that
 * any sub-list of a program is a program too: it can be cut, written and read.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_DIFF_PROGRAM_H
#define COWFORK_DIFF_PROGRAM_H

#include <stdint.h>
#include <stdio.h>

#define PAGE 4096ul
#define SLOTS 6
#define BLOCKS 12		/* of malloc */
#define BLOCK_MAX (6 << 20)
#define PAGES_MAX 1300		/* of a slot: more than two tables */
#define PROCS_MAX 24		/* processes of one program, the first is 0 */
#define OPS_MAX 1200		/* of all processes together */
#define FIELDS_MAX 7

enum op_kind {
	OP_MAP, OP_REGION, OP_DESTROY, OP_WRITE, OP_HASH, OP_UNMAP, OP_PROTECT,
	OP_ADVISE, OP_FIXED, OP_HOLE, OP_REMAP, OP_LOCK, OP_UNLOCK, OP_LOCKALL,
	OP_UNLOCKALL, OP_SYNC, OP_RESIDENT, OP_SYSCALL, OP_FORK, OP_WAIT, OP_EXEC,
	OP_PREPARE, OP_STATS, OP_BAD, OP_LEAVE, OP_CREDIT, OP_THAW,
	OP_NATIVE, OP_RAW, OP_BRK, OP_MALLOC, OP_REALLOC, OP_FREE, OP_FILL, OP_TRIM,
	OP_ADOPT, OP_RELEASE,
	OP_COUNT
};

struct op {
	uint8_t kind;		/* enum op_kind */
	uint8_t proc;		/* the process that does it */
	int v[FIELDS_MAX];	/* operands, by the table in diff-program.c */
};

struct program {
	uint64_t seed;		/* where it came from; 0: a file */
	int huge;		/* enum cow_huge */
	int adopt;		/* enum cow_adopt */
	int min;		/* pages of the smallest mapping that goes to the store */
	int check;		/* what is hashed after each operation: 0 nothing,
				 * 1 the slot it worked on, 2 all slots */
	int count;
	struct op op[OPS_MAX];
};

/* What kind of memory a mapping is. */
enum backing { BACK_NONE, BACK_ANON, BACK_FILE, BACK_SHARED };

/* How memory is probed where a hole was just made. */
enum hole { HOLE_ADVISE, HOLE_PROTECT, HOLE_LOCK, HOLE_REMAP, HOLE_GROW,
	    HOLE_NOREPLACE, HOLE_HINT, HOLE_NONE, HOLE_COUNT };

enum remap { REMAP_MAYMOVE = 1, REMAP_FIXED = 2, REMAP_DONTUNMAP = 4,
	     REMAP_ZERO = 8 };	/* old size 0 */

enum syscall { SYSCALL_WRITE, SYSCALL_READ, SYSCALL_VMREAD, SYSCALL_COUNT };

enum fork { FORK_COW, FORK_PLAIN, FORK_ENTER, FORK_WRITER, FORK_MAPPER,
	    FORK_ALLOCATOR, FORK_COUNT };

/* A thread that works meanwhile. */
enum beside_kind { BESIDE_NOBODY, BESIDE_WRITER, BESIDE_MAPPER, BESIDE_ALLOCATOR,
		   BESIDE_COUNT };

/* Memory that no call of the library's made: by mmap(2), between two pages that belong
 * to nobody, by brk(2), in .bss. */
enum where { WHERE_MAP, WHERE_ALONE, WHERE_BRK, WHERE_BSS, WHERE_COUNT };

/* System calls on such memory that the library does not see. */
enum raw { RAW_UNMAP, RAW_PROTECT, RAW_FIXED, RAW_FILE, RAW_MOVE, RAW_SHRINK, RAW_GROW,
	   RAW_COUNT };

enum allocate { ALLOCATE_MALLOC, ALLOCATE_CALLOC, ALLOCATE_ALIGNED, ALLOCATE_COUNT };

/* What cow_adopt() and cow_release() are asked for. */
enum adopt_of { ADOPT_SLOT, ADOPT_BLOCK, ADOPT_ALL, ADOPT_COUNT };

enum exec { EXEC_VFORK, EXEC_SPAWN, EXEC_FORK, EXEC_COUNT };

#define BAD_COUNT 28

void program_draw(struct program *p, uint64_t seed, int steps);

void program_print(FILE *to, const struct program *p);
void op_print(FILE *to, const struct op *op);

/* 0, or the number of the first line that is not understood. */
int program_read(FILE *from, struct program *p);

/* The value of a field of that name; NULL when the kind has none. */
int *op_field(struct op *op, const char *name);

const char *op_name(int kind);

#endif
