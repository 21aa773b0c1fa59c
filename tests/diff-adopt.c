/*
 * Calls that move memory into the store and out of it, alone or beside a thread that
 * works. No program can tell that they did anything, so their result is not looked
 * at, but for one that they must not give.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include "cowfork.h"
#include "diff-beside.h"

/* 0, or WRONG: the thread saw what it should not. */
static int beside(struct world *w, const struct op *op, int kind, int (*call)(struct world *,
		  const struct op *))
{
	struct beside b = { .kind = (enum beside_kind)((unsigned)kind % BESIDE_COUNT) };
	int ret;

	if (b.kind == BESIDE_WRITER)
		b.slot = slot_of(w, op->v[0]);
	if (b.slot && !b.slot->at)
		b.kind = BESIDE_MAPPER;
	if (b.kind && beside_start(&b))
		return WRONG;
	ret = call(w, op);
	if (b.kind && beside_end(&b))
		ret = WRONG;
	return ret;
}

/* --- thaw --------------------------------------------------------------- */

static int thaw(struct world *w, const struct op *op)
{
	(void)w;
	(void)op;
	(void)!cow_thaw();
	return 0;
}

int do_thaw(struct world *w, const struct op *op)
{
	return beside(w, op, op->v[1], thaw);
}

/* --- adoption ----------------------------------------------------------- */

struct piece {
	void *at;
	size_t len;
};

static int piece_of(struct world *w, const struct op *op, struct piece *p)
{
	const struct block *b = block_of(w, op->v[0]);
	uintptr_t start = (uintptr_t)b->at & ~(PAGE - 1);
	struct range r;

	*p = (struct piece){ NULL, 0 };
	switch ((enum adopt_of)((unsigned)op->v[3] % ADOPT_COUNT)) {
	case ADOPT_SLOT:
		if (!range_of(w, op, &r))
			return 0;
		*p = (struct piece){ r.at, r.len };
		break;
	case ADOPT_BLOCK:
		if (!b->at)
			return 0;
		*p = (struct piece){ (void *)start,
			((uintptr_t)b->at + b->size - start + PAGE - 1) & ~(PAGE - 1) };
		break;
	case ADOPT_ALL: case ADOPT_COUNT:
		break;
	}
	return 1;
}

static int adopt(struct world *w, const struct op *op)
{
	struct piece p;

	if (!piece_of(w, op, &p))
		return SKIPPED;
	return cow_adopt(p.at, p.len) == -EINVAL ? WRONG : 0;
}

static int release(struct world *w, const struct op *op)
{
	struct piece p;

	if (!piece_of(w, op, &p))
		return SKIPPED;
	return cow_release(p.at, p.len) == -EINVAL ? WRONG : 0;
}

int do_adopt(struct world *w, const struct op *op)
{
	return beside(w, op, op->v[4], adopt);
}

int do_release(struct world *w, const struct op *op)
{
	return beside(w, op, op->v[4], release);
}
