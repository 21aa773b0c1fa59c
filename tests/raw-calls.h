/*
 * System calls that pass the library by, and what is seen after them.
 *
 * A cell is one kind of memory and one call. It runs in a process of its own, and what it
 * finds goes into shared memory, step by step, so that a crash leaves what came before. The
 * same steps on plain memory with the kernel's fork say what should be there.
 *
 * The memory: an area, room behind it, and other memory beyond that. Calls are made on the
 * area or a part of it that crosses a page table's edge.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_RAW_CALLS_H
#define COWFORK_TEST_RAW_CALLS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)
#define AREA (3 * MIB)
#define ROOM (MIB / 2)
#define BEYOND (MIB / 2)
#define ALL (AREA + ROOM + BEYOND)
#define PART (MIB + MIB / 2)		/* where it begins */
#define PART_SIZE MIB
#define ELSEWHERE (6 * MIB)
#define PAGES (ALL / PAGE)
#define PAGES_ELSEWHERE (ELSEWHERE / PAGE)
#define COUNT(array) ((int)(sizeof(array) / sizeof(*(array))))

enum kind {
	PLAIN, PLAIN_CHILD, PLAIN_HEAP, PLAIN_HEAP_CHILD,	/* what should be */
	OWNED,		/* in the store, before a fork */
	FROZEN,		/* ... after one */
	CHILDS,		/* made by a child, in a store of its own */
	INHERITED,	/* frozen, in a child */
	ADOPTED, ADOPTED_CHILD,
	HEAP, HEAP_CHILD,	/* adopted, from the break */
	ARMED, ARMED_CHILD,	/* by the in-place engine */
	KINDS,
};
#define FIRST_KIND OWNED

/* When the memory is looked at; LOOK_CHILD and two more are one child's, of each fork. */
enum look {
	LOOK_CALLED, LOOK_WROTE,
	LOOK_CHILD, LOOK_CHILD_WROTE, LOOK_CHILD_AFTER, LOOK_AFTER,
	LOOK_THAWED = LOOK_CHILD + 3 * 4,
	LOOK_UNDONE,
	LOOK_RELEASED,
	LOOK_PARENT,	/* of a child in which all of it happened */
	LOOKS,
};
#define NOT_DONE (-1000000)

struct notes {
	long called, late, undone;	/* what the calls returned */
	int forks[3];		/* what became of each child */
	long freed;		/* bytes, by a call that frees */
	int step;		/* enum look, the last one begun */
	char seen[LOOKS][PAGES + PAGES_ELSEWHERE];
};

struct cell {
	enum kind kind;
	char *area;
	char *elsewhere;	/* where memory moves to */
	size_t elsewhere_size;	/* of it, that may be looked at */
	size_t shift;		/* where in the area that was */
	int fd;			/* of the call's */
	char *rings[3];
	struct notes *notes;
};

typedef long raw_fn(struct cell *c);

enum {
	FREES = 1,	/* memory: what is held is compared */
	REFUSED = 2,	/* on plain memory */
	LOOSE = 4,	/* the result is the kernel's to choose */
	MAY_STAY = 8,	/* what was there may be seen for a while */
};

struct call {
	const char *name;
	raw_fn *call;
	raw_fn *late;		/* while the first child lives */
	raw_fn *undo;
	int flags;
	pid_t (*fork)(void);	/* instead of a call: a fork of its own */
};

extern const struct call calls[];
extern const int calls_count;

extern const char *const kind_names[KINDS];

int is_plain(enum kind kind);
int is_child(enum kind kind);
enum kind plain_of(enum kind kind);

/* This process is the cell's. What a call gives back is weighed instead of played. */
_Noreturn void run_cell(enum kind kind, const struct call *call, struct notes *notes,
			int weighs);

/* End with a line on standard error. */
_Noreturn void give_up(const char *what);

/* Status or 128 + the signal. */
int wait_for(pid_t pid);

/* The tag of a page: of its place and whoever wrote it ('1' to '9'). */
void write_page(char *page, size_t index, char who);

#endif
