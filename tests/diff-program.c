/*
 * Programs as text: one operation a line, the number of its process first, its
 * operands by name. What comes behind # is a comment.
 *
 * SPDX-License-Identifier: MIT
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "diff-program.h"

static const struct shape {
	const char *name, *field[FIELDS_MAX + 1];
} shapes[OP_COUNT] = {
	[OP_MAP]	= { "map", { "slot", "pages", "prot", "flags", "backing",
				     "near" } },
	[OP_REGION]	= { "region", { "slot", "pages", "align" } },
	[OP_DESTROY]	= { "destroy", { "slot" } },
	[OP_WRITE]	= { "write", { "slot", "first", "count", "step", "value" } },
	[OP_HASH]	= { "hash", { "slot", "first", "count" } },
	[OP_UNMAP]	= { "unmap", { "slot", "first", "count", "less" } },
	[OP_PROTECT]	= { "protect", { "slot", "first", "count", "prot", "less" } },
	[OP_ADVISE]	= { "advise", { "slot", "first", "count", "advice", "less" } },
	[OP_FIXED]	= { "fixed", { "slot", "first", "count", "prot", "flags",
				       "backing" } },
	[OP_HOLE]	= { "hole", { "slot", "first", "count", "what", "edge",
				      "prot" } },
	[OP_REMAP]	= { "remap", { "slot", "first", "count", "new", "how",
				       "dest", "dfirst" } },
	[OP_LOCK]	= { "lock", { "slot", "first", "count", "flags" } },
	[OP_UNLOCK]	= { "unlock", { "slot", "first", "count" } },
	[OP_LOCKALL]	= { "lockall", { "flags" } },
	[OP_UNLOCKALL]	= { "unlockall", { NULL } },
	[OP_SYNC]	= { "sync", { "slot", "first", "count", "flags" } },
	[OP_RESIDENT]	= { "resident", { "slot", "first", "count" } },
	[OP_SYSCALL]	= { "syscall", { "slot", "first", "count", "how", "offset" } },
	[OP_FORK]	= { "fork", { "to", "how", "slot" } },
	[OP_WAIT]	= { "wait", { NULL } },
	[OP_EXEC]	= { "exec", { "how" } },
	[OP_PREPARE]	= { "prepare", { NULL } },
	[OP_STATS]	= { "stats", { NULL } },
	[OP_BAD]	= { "bad", { "slot", "what" } },
	[OP_LEAVE]	= { "leave", { NULL } },
	[OP_CREDIT]	= { "credit", { NULL } },
	[OP_THAW]	= { "thaw", { "slot", "beside" } },
	[OP_NATIVE]	= { "native", { "slot", "pages", "prot", "flags", "where" } },
	[OP_RAW]	= { "raw", { "slot", "first", "count", "call", "prot",
				     "dest", "dfirst" } },
	[OP_BRK]	= { "brk", { "slot", "count" } },
	[OP_MALLOC]	= { "malloc", { "block", "size", "by", "thread", "value" } },
	[OP_REALLOC]	= { "realloc", { "block", "size", "thread", "value" } },
	[OP_FREE]	= { "free", { "block", "thread" } },
	[OP_FILL]	= { "fill", { "block", "first", "count", "step", "value" } },
	[OP_TRIM]	= { "trim", { "size" } },
	[OP_ADOPT]	= { "adopt", { "slot", "first", "count", "of", "beside" } },
	[OP_RELEASE]	= { "release", { "slot", "first", "count", "of", "beside" } },
};

static const char *const huge_names[] = { "auto", "always", "never" };
static const char *const adopt_names[] = { "auto", "first", "never" };

const char *op_name(int kind)
{
	return shapes[kind].name;
}

int *op_field(struct op *op, const char *name)
{
	const struct shape *s = &shapes[op->kind];

	for (int i = 0; s->field[i]; i++)
		if (!strcmp(s->field[i], name))
			return &op->v[i];
	return NULL;
}

/* --- writing ------------------------------------------------------------ */

static const char *advice_name(int advice)
{
	static const struct { int advice; const char *name; } known[] = {
		{ MADV_NORMAL, "NORMAL" }, { MADV_RANDOM, "RANDOM" },
		{ MADV_SEQUENTIAL, "SEQUENTIAL" }, { MADV_WILLNEED, "WILLNEED" },
		{ MADV_DONTNEED, "DONTNEED" }, { MADV_FREE, "FREE" },
		{ MADV_REMOVE, "REMOVE" }, { MADV_DONTFORK, "DONTFORK" },
		{ MADV_DOFORK, "DOFORK" }, { MADV_MERGEABLE, "MERGEABLE" },
		{ MADV_UNMERGEABLE, "UNMERGEABLE" }, { MADV_HUGEPAGE, "HUGEPAGE" },
		{ MADV_NOHUGEPAGE, "NOHUGEPAGE" }, { MADV_DONTDUMP, "DONTDUMP" },
		{ MADV_DODUMP, "DODUMP" }, { MADV_WIPEONFORK, "WIPEONFORK" },
		{ MADV_KEEPONFORK, "KEEPONFORK" }, { MADV_COLD, "COLD" },
		{ MADV_PAGEOUT, "PAGEOUT" }, { MADV_POPULATE_READ, "POPULATE_READ" },
		{ MADV_POPULATE_WRITE, "POPULATE_WRITE" },
		{ MADV_DONTNEED_LOCKED, "DONTNEED_LOCKED" },
		{ MADV_COLLAPSE, "COLLAPSE" }, { MADV_GUARD_INSTALL, "GUARD_INSTALL" },
		{ MADV_GUARD_REMOVE, "GUARD_REMOVE" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (known[i].advice == advice)
			return known[i].name;
	return "unknown";
}

static void print_flags(FILE *to, int flags)
{
	static const struct { int flag; const char *name; } known[] = {
		{ MAP_FIXED, "FIXED" }, { MAP_FIXED_NOREPLACE, "FIXED_NOREPLACE" },
		{ MAP_POPULATE, "POPULATE" }, { MAP_NONBLOCK, "NONBLOCK" },
		{ MAP_NORESERVE, "NORESERVE" }, { MAP_STACK, "STACK" },
		{ MAP_GROWSDOWN, "GROWSDOWN" }, { MAP_LOCKED, "LOCKED" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (flags & known[i].flag)
			fprintf(to, " %s", known[i].name);
}

static void print_how(FILE *to, int how)
{
	static const char *const names[] = { "MAYMOVE", "FIXED", "DONTUNMAP", "ZERO" };

	for (int i = 0; i < 4; i++)
		if (how >> i & 1)
			fprintf(to, " %s", names[i]);
}

/* Operands that choose one of a few, and what the numbers mean. */
static const struct choice {
	uint8_t kind;		/* OP_COUNT: any */
	const char *field;
	unsigned count;
	const char *name[9];
} choices[] = {
	{ OP_COUNT, "backing", 4, { NULL, NULL, "file", "shared" } },
	{ OP_HOLE, "what", HOLE_COUNT, { "advise", "protect", "lock", "remap", "grow",
		"noreplace", "hint", "none" } },
	{ OP_SYSCALL, "how", SYSCALL_COUNT, { "write", "read", "process_vm_readv" } },
	{ OP_FORK, "how", FORK_COUNT, { "cow_fork", "fork", "enter, _Fork",
		"cow_fork, a thread writes", "cow_fork, a thread maps",
		"cow_fork, a thread allocates" } },
	{ OP_EXEC, "how", EXEC_COUNT, { "vfork", "posix_spawn", "cow_fork" } },
	{ OP_NATIVE, "where", WHERE_COUNT, { "mmap", "mmap, alone", "brk", "bss" } },
	{ OP_RAW, "call", RAW_COUNT, { "munmap", "mprotect", "mmap", "mmap a file",
		"mremap", "mremap to half", "mremap to more" } },
	{ OP_MALLOC, "by", ALLOCATE_COUNT, { "malloc", "calloc", "aligned_alloc" } },
	{ OP_COUNT, "of", ADOPT_COUNT, { "the slot", "the block", "all" } },
	{ OP_COUNT, "thread", 2, { NULL, "in a thread" } },
	{ OP_COUNT, "beside", BESIDE_COUNT, { NULL, "a thread writes", "a thread maps",
		"a thread allocates" } },
};

static int has_choice(const struct choice *c, struct op *op)
{
	return (c->kind == OP_COUNT || c->kind == op->kind) && op_field(op, c->field);
}

/* For the reader. */
static void print_comment(FILE *to, struct op *op)
{
	const int *prot = op_field(op, "prot");

	fputs("\t#", to);
	if (prot)
		fprintf(to, " %c%c%c", *prot & PROT_READ ? 'r' : '-',
			*prot & PROT_WRITE ? 'w' : '-', *prot & PROT_EXEC ? 'x' : '-');
	if (op->kind == OP_MAP || op->kind == OP_FIXED || op->kind == OP_NATIVE)
		print_flags(to, *op_field(op, "flags"));
	if (op->kind == OP_ADVISE)
		fprintf(to, " %s", advice_name(*op_field(op, "advice")));
	if (op->kind == OP_REMAP)
		print_how(to, *op_field(op, "how"));
	for (size_t i = 0; i < sizeof(choices) / sizeof(*choices); i++) {
		const struct choice *c = &choices[i];
		unsigned number = has_choice(c, op) ?
			(unsigned)*op_field(op, c->field) % c->count : 0;

		if (has_choice(c, op) && c->name[number])
			fprintf(to, " %s", c->name[number]);
	}
}

static int has_comment(struct op *op)
{
	for (size_t i = 0; i < sizeof(choices) / sizeof(*choices); i++)
		if (has_choice(&choices[i], op))
			return 1;
	return op_field(op, "prot") || op_field(op, "advice") || op_field(op, "how");
}

void op_print(FILE *to, const struct op *op)
{
	const struct shape *s = &shapes[op->kind];
	struct op copy = *op;

	fprintf(to, "%d %s", op->proc, s->name);
	for (int i = 0; s->field[i]; i++)
		fprintf(to, !strcmp(s->field[i], "flags") ? " %s=%#x" : " %s=%d",
			s->field[i], op->v[i]);
	if (has_comment(&copy))
		print_comment(to, &copy);
	fputc('\n', to);
}

void program_print(FILE *to, const struct program *p)
{
	if (p->seed)
		fprintf(to, "# seed %llu\n", (unsigned long long)p->seed);
	fprintf(to, "huge %s\nadopt %s\nmin %d\ncheck %d\n", huge_names[p->huge],
		adopt_names[p->adopt], p->min, p->check);
	for (int i = 0; i < p->count; i++)
		op_print(to, &p->op[i]);
}

/* --- reading ------------------------------------------------------------ */

static int read_choice(const char *word, const char *const *names, int *ret)
{
	for (int i = 0; i < 3; i++)
		if (!strcmp(word, names[i])) {
			*ret = i;
			return 0;
		}
	return -1;
}

static int read_header(const char *line, struct program *p)
{
	char word[16];

	if (sscanf(line, "check %d", &p->check) == 1)
		return p->check >= 0 && p->check <= 2 ? 0 : -1;
	if (sscanf(line, "min %d", &p->min) == 1)
		return p->min > 0 ? 0 : -1;
	if (sscanf(line, "huge %15s", word) == 1)
		return read_choice(word, huge_names, &p->huge);
	if (sscanf(line, "adopt %15s", word) == 1)
		return read_choice(word, adopt_names, &p->adopt);
	return -1;
}

static int read_kind(const char *name, struct op *op)
{
	for (int i = 0; i < OP_COUNT; i++)
		if (!strcmp(shapes[i].name, name)) {
			op->kind = (uint8_t)i;
			return 0;
		}
	return -1;
}

static int read_fields(struct op *op)
{
	char *word, *end;

	while ((word = strtok(NULL, " \t\n"))) {
		char *value = strchr(word, '=');
		int *field;

		if (!value)
			return -1;
		*value++ = 0;
		field = op_field(op, word);
		if (!field)
			return -1;
		*field = (int)strtol(value, &end, 0);
		if (*end)
			return -1;
	}
	return 0;
}

static int read_op(char *line, struct program *p)
{
	struct op op = { 0 };
	const char *name;
	char *end;
	long proc = strtol(strtok(line, " \t\n"), &end, 10);

	name = strtok(NULL, " \t\n");
	if (*end || proc < 0 || proc >= PROCS_MAX || !name || read_kind(name, &op) < 0 ||
	    p->count == OPS_MAX || read_fields(&op) < 0)
		return -1;
	op.proc = (uint8_t)proc;
	/* a tree: each process is forked once, by an older one */
	if (op.kind == OP_FORK) {
		if (op.v[0] <= proc || op.v[0] >= PROCS_MAX)
			return -1;
		for (int i = 0; i < p->count; i++)
			if (p->op[i].kind == OP_FORK && p->op[i].v[0] == op.v[0])
				return -1;
	}
	p->op[p->count++] = op;
	return 0;
}

int program_read(FILE *from, struct program *p)
{
	char line[256];

	memset(p, 0, sizeof(*p));
	p->adopt = 2;		/* never */
	p->min = 1;
	for (int number = 1; fgets(line, sizeof(line), from); number++) {
		char *start = line;

		line[strcspn(line, "#")] = 0;
		while (isspace((unsigned char)*start))
			start++;
		if (!*start)
			continue;
		if (isdigit((unsigned char)*start) ? read_op(start, p) < 0
						   : read_header(start, p) < 0)
			return number;
	}
	return 0;
}
