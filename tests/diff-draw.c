/*
 * Programs from a seed. Nothing here knows what state the memory will be in:
 * operands are drawn wide and cut to size when the operation runs.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "diff-program.h"

#define FORKS_MAX 4		/* of one process */
#define DEPTH_MAX 3

struct chance {
	uint64_t state;
};

/* One draw is as good as the next (splitmix64). */
static unsigned draw(struct chance *c, unsigned below)
{
	uint64_t z = c->state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (unsigned)((z ^ (z >> 31)) >> 33) % below;
}

#define PICK(c, array) \
	((array)[draw(c, (unsigned)(sizeof(array) / sizeof(*(array))))])

static int draw_prot(struct chance *c)
{
	static const int prots[] = {
		PROT_NONE, PROT_NONE, PROT_READ, PROT_READ, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
		PROT_WRITE, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC };

	return PICK(c, prots);
}

static int draw_map_prot(struct chance *c)
{
	return draw(c, 4) ? PROT_READ | PROT_WRITE : draw_prot(c);
}

static int draw_map_flags(struct chance *c)
{
	static const int flags[] = { MAP_POPULATE, MAP_NORESERVE, MAP_STACK,
		MAP_GROWSDOWN, MAP_NONBLOCK | MAP_POPULATE, MAP_NORESERVE | MAP_POPULATE,
		MAP_LOCKED };

	return draw(c, 3) ? 0 : PICK(c, flags);
}

static int draw_backing(struct chance *c)
{
	unsigned which = draw(c, 10);

	return which == 0 ? BACK_FILE : which == 1 ? BACK_SHARED : BACK_ANON;
}

static int draw_advice(struct chance *c)
{
	static const int often[] = { MADV_DONTNEED, MADV_DONTNEED, MADV_FREE,
		MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_DONTFORK, MADV_DOFORK,
		MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_DONTNEED_LOCKED,
		MADV_POPULATE_WRITE, MADV_POPULATE_READ, MADV_COLLAPSE, MADV_DONTDUMP };
	static const int unknown[] = { -1, 5, 26, 99, 104, 12345, 1 << 30 };

	if (draw(c, 2))
		return PICK(c, often);
	if (!draw(c, 8))
		return PICK(c, unknown);
	return (int)draw(c, 26);	/* 100 and 101 poison real pages: never */
}

/* Lengths: mostly a few pages, sometimes tables. */
static int draw_count(struct chance *c)
{
	static const unsigned most[] = { 2, 8, 40, 300, PAGES_MAX };

	return 1 + (int)draw(c, PICK(c, most));
}

static int draw_first(struct chance *c)
{
	return draw(c, 4) ? (int)draw(c, PAGES_MAX) : 0;
}

/* Around sizes at which malloc takes another way. */
static int draw_size(struct chance *c)
{
	static const unsigned most[] = { 100, 1000, 5000, 40000, 140000, 300000,
		3 << 20, BLOCK_MAX };

	return 1 + (int)draw(c, PICK(c, most));
}

static int draw_less(struct chance *c)
{
	return draw(c, 4) ? 0 : (int)draw(c, (unsigned)PAGE);
}

static int draw_pages(struct chance *c)
{
	return 1 + (int)draw(c, draw(c, 2) ? 8 : 700);
}

static int draw_how(struct chance *c)
{
	static const int hows[] = { REMAP_MAYMOVE, REMAP_MAYMOVE, REMAP_MAYMOVE,
		REMAP_MAYMOVE | REMAP_FIXED, REMAP_MAYMOVE | REMAP_FIXED,
		REMAP_MAYMOVE | REMAP_DONTUNMAP,
		REMAP_MAYMOVE | REMAP_FIXED | REMAP_DONTUNMAP,
		REMAP_MAYMOVE | REMAP_ZERO, REMAP_MAYMOVE | REMAP_FIXED | REMAP_ZERO, 0 };

	return PICK(c, hows);
}

/* Operands that belong to one kind; those that many kinds have come first. */
static void draw_operands(struct chance *c, struct op *op)
{
	static const char *const first_fields[] = { "first", "dfirst" };
	static const char *const slots[] = { "slot", "dest" };
	int *f;

	for (int i = 0; i < 2; i++) {
		if ((f = op_field(op, slots[i])))
			*f = (int)draw(c, SLOTS);
		if ((f = op_field(op, first_fields[i])))
			*f = draw_first(c);
	}
	if ((f = op_field(op, "count")))
		*f = draw(c, 6) ? draw_count(c) : PAGES_MAX;
	if ((f = op_field(op, "pages")))
		*f = draw_pages(c);
	if ((f = op_field(op, "less")))
		*f = draw_less(c);
	if ((f = op_field(op, "prot")))
		*f = op->kind == OP_PROTECT ? draw_prot(c) : draw_map_prot(c);
	if ((f = op_field(op, "backing")))
		*f = draw_backing(c);
	if ((f = op_field(op, "advice")))
		*f = draw_advice(c);
	if ((f = op_field(op, "step")))
		*f = draw(c, 3) ? 1 : 1 + (int)draw(c, 12);
	if ((f = op_field(op, "value")))
		*f = 1 + (int)draw(c, 255);
	if ((f = op_field(op, "offset")))
		*f = (int)draw(c, (unsigned)PAGE);
	if ((f = op_field(op, "edge")))
		*f = (int)draw(c, 5);
	if ((f = op_field(op, "new")))
		*f = draw(c, 3) ? draw_count(c) : -(int)draw(c, 2);
	if ((f = op_field(op, "block")))
		*f = (int)draw(c, BLOCKS);
	if ((f = op_field(op, "size")))
		*f = op->kind == OP_TRIM && draw(c, 2) ? 0 : draw_size(c);
	if ((f = op_field(op, "thread")))
		*f = !draw(c, 4);
	if ((f = op_field(op, "beside")))
		*f = (int)draw(c, op->kind == OP_THAW ? BESIDE_COUNT : 2 * BESIDE_COUNT);
}

static void draw_flags(struct chance *c, struct op *op)
{
	static const int lock_flags[] = { 0, 0, 1, 1, 4 };
	static const int all_flags[] = { MCL_CURRENT, MCL_FUTURE, MCL_FUTURE,
		MCL_CURRENT | MCL_FUTURE, MCL_CURRENT | 4 };
	int *f = op_field(op, "flags");

	if (!f)
		return;
	if (op->kind == OP_LOCK)
		*f = PICK(c, lock_flags);
	else if (op->kind == OP_LOCKALL)
		*f = PICK(c, all_flags);
	else if (op->kind == OP_SYNC)
		*f = (int)draw(c, 8);
	else
		*f = draw_map_flags(c);
	if (op->kind == OP_FIXED)
		*f |= draw(c, 6) ? MAP_FIXED : MAP_FIXED_NOREPLACE;
}

static void draw_choices(struct chance *c, struct op *op)
{
	switch (op->kind) {
	case OP_MAP:
		*op_field(op, "near") = draw(c, 6) ? -1 : (int)draw(c, SLOTS);
		break;
	case OP_REGION:
		*op_field(op, "align") = draw(c, 3) ? 0 : 1 << (12 + draw(c, 11));
		break;
	case OP_HOLE:
		*op_field(op, "what") = (int)draw(c, HOLE_COUNT);
		break;
	case OP_REMAP:
		*op_field(op, "how") = draw_how(c);
		break;
	case OP_SYSCALL:
		*op_field(op, "how") = (int)draw(c, SYSCALL_COUNT);
		break;
	case OP_FORK:
		*op_field(op, "how") = draw(c, 2) ? FORK_COW : (int)draw(c, FORK_COUNT);
		break;
	case OP_EXEC:
		*op_field(op, "how") = (int)draw(c, EXEC_COUNT);
		break;
	case OP_NATIVE:
		*op_field(op, "where") = (int)draw(c, WHERE_COUNT);
		break;
	case OP_RAW:
		*op_field(op, "call") = (int)draw(c, RAW_COUNT);
		break;
	case OP_MALLOC:
		*op_field(op, "by") = (int)draw(c, ALLOCATE_COUNT);
		break;
	case OP_ADOPT: case OP_RELEASE:
		*op_field(op, "of") = (int)draw(c, ADOPT_COUNT);
		break;
	case OP_BAD:
		*op_field(op, "what") = (int)draw(c, BAD_COUNT);
		break;
	default:
		break;
	}
}

/* native: memory that the library did not make, too. */
static int draw_kind(struct chance *c, int native)
{
	static const unsigned char weight[OP_COUNT] = {
		[OP_MAP] = 26, [OP_REGION] = 6, [OP_DESTROY] = 1, [OP_WRITE] = 44,
		[OP_HASH] = 8, [OP_UNMAP] = 10, [OP_PROTECT] = 14, [OP_ADVISE] = 26,
		[OP_FIXED] = 12, [OP_HOLE] = 6, [OP_REMAP] = 16, [OP_LOCK] = 4,
		[OP_UNLOCK] = 3, [OP_LOCKALL] = 1, [OP_UNLOCKALL] = 2, [OP_SYNC] = 1,
		[OP_RESIDENT] = 2, [OP_SYSCALL] = 6, [OP_FORK] = 14, [OP_WAIT] = 5,
		[OP_EXEC] = 1, [OP_PREPARE] = 3, [OP_STATS] = 1, [OP_BAD] = 3,
		[OP_LEAVE] = 0, [OP_CREDIT] = 3, [OP_THAW] = 6,
		[OP_NATIVE] = 20, [OP_RAW] = 24, [OP_BRK] = 5, [OP_MALLOC] = 24,
		[OP_REALLOC] = 12, [OP_FREE] = 12, [OP_FILL] = 16, [OP_TRIM] = 3,
		[OP_ADOPT] = 6, [OP_RELEASE] = 3,
	};
	unsigned total = 0, pick;
	int kind = 0, end = native ? OP_COUNT : OP_NATIVE;

	for (int i = 0; i < end; i++)
		total += weight[i];
	for (pick = draw(c, total); pick >= weight[kind]; kind++)
		pick -= weight[kind];
	return kind;
}

struct author {
	struct program *p;
	struct chance chance;
	int procs, native;
};

static struct op *append(struct author *a, int kind, int proc)
{
	struct op *op = &a->p->op[a->p->count++];

	memset(op, 0, sizeof(*op));
	op->kind = (uint8_t)kind;
	op->proc = (uint8_t)proc;
	draw_operands(&a->chance, op);
	draw_flags(&a->chance, op);
	draw_choices(&a->chance, op);
	return op;
}

/* A process and then, in the list behind it, its children. */
static void write_process(struct author *a, int proc, int depth, int steps)
{
	int child[FORKS_MAX], forks = 0;

	for (int i = 0; i < steps && a->p->count < OPS_MAX - 4; i++) {
		int kind = draw_kind(&a->chance, a->native);

		/* these only while no child lives */
		if (kind == OP_CREDIT || (kind == OP_THAW && draw(&a->chance, 3)))
			append(a, OP_WAIT, proc);
		if (kind == OP_CREDIT) {
			append(a, kind, proc);
			kind = OP_FORK;
		}
		if (kind != OP_FORK) {
			append(a, kind, proc);
		} else if (forks < FORKS_MAX && depth < DEPTH_MAX &&
			   a->procs < PROCS_MAX) {
			child[forks] = a->procs++;
			*op_field(append(a, kind, proc), "to") = child[forks++];
		}
	}
	if (!draw(&a->chance, 8))
		append(a, OP_LEAVE, proc);
	for (int i = 0; i < forks; i++)
		write_process(a, child[i], depth + 1, steps > 40 ? steps / 4 : 10);
}

/* A third has only what the library was asked for. */
void program_draw(struct program *p, uint64_t seed, int steps)
{
	static const int mins[] = { 1, 1, 4, 16, 64 };
	enum { AUTO, FIRST, NEVER };
	static const int adopts[] = { AUTO, FIRST, FIRST, NEVER };
	struct author a = { p, { seed * 0x2545f4914f6cdd1du + 1 }, 1, 1 };

	a.native = draw(&a.chance, 3) != 0;
	p->seed = seed;
	p->count = 0;
	p->huge = (int)(seed % 3);
	p->check = (int)(seed / 3 % 3);
	p->adopt = a.native ? PICK(&a.chance, adopts) : NEVER;
	p->min = a.native ? PICK(&a.chance, mins) : 1;
	write_process(&a, 0, 0, steps);
}
