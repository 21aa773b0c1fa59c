/*
 * Delta debugging: drop chunks of operations, large ones first, then simplify
 * operands, as long as the two engines still differ. Any sub-list of a program
 * is a program, so nothing else has to be kept right.
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "diff-shrink.h"

#define CANDIDATE_SECONDS 4	/* a candidate may hang */

struct search {
	struct program *best;
	enum verdict want;
	int tries;		/* for one candidate: some differ now and then */
	time_t end;
	unsigned runs;
};

static int is_over(const struct search *s)
{
	return run_stopped || time(NULL) >= s->end;
}

static int shows(struct search *s, const struct program *p)
{
	for (int i = 0; i < s->tries && !is_over(s); i++) {
		s->runs++;
		if (run_program(p, CANDIDATE_SECONDS) == s->want)
			return 1;
	}
	return 0;
}

static int try_candidate(struct search *s, const struct program *candidate)
{
	if (!shows(s, candidate))
		return 0;
	*s->best = *candidate;
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\rshrinking: %d operations, %u runs  ",
			s->best->count, s->runs);
	return 1;
}

/* Operations of processes that nobody forks. */
static void drop_unreachable(struct program *p)
{
	int count = 0, lives[PROCS_MAX] = { 1 };

	for (int round = 0; round < PROCS_MAX; round++)
		for (int i = 0; i < p->count; i++)
			if (p->op[i].kind == OP_FORK && lives[p->op[i].proc])
				lives[p->op[i].v[0] % PROCS_MAX] = 1;
	for (int i = 0; i < p->count; i++)
		if (lives[p->op[i].proc])
			p->op[count++] = p->op[i];
	p->count = count;
}

static int drop_chunk(struct search *s, int first, int count)
{
	static struct program candidate;

	candidate = *s->best;
	if (count > candidate.count - first)
		count = candidate.count - first;
	memmove(candidate.op + first, candidate.op + first + count,
		(size_t)(candidate.count - first - count) * sizeof(*candidate.op));
	candidate.count -= count;
	drop_unreachable(&candidate);
	return try_candidate(s, &candidate);
}

/* From the end, so that a fork goes after what its child did. */
static int drop_chunks(struct search *s, int size)
{
	int progress = 0;

	for (int first = s->best->count - size; first > -size && !is_over(s);
	     first -= size)
		if (first < s->best->count)
			progress |= drop_chunk(s, first < 0 ? 0 : first,
					       first < 0 ? size + first : size);
	return progress;
}

static void drop_operations(struct search *s)
{
	for (int size = (s->best->count + 1) / 2; size >= 1 && !is_over(s); size /= 2)
		while (drop_chunks(s, size) && size == 1 && !is_over(s))
			;
}

static int try_operand(struct search *s, int op, int field, int value)
{
	static struct program candidate;

	candidate = *s->best;
	candidate.op[op].v[field] = value;
	return try_candidate(s, &candidate);
}

/* The first that does as well. Pages and the like may be halved again. */
static int simplify_operand(struct search *s, int op, int field)
{
	int *v = &s->best->op[op].v[field];

	if (*v <= 1 || (field == 0 && s->best->op[op].kind == OP_FORK))
		return 0;
	if (try_operand(s, op, field, 0) || try_operand(s, op, field, 1))
		return 1;
	while (*v > 4 && !is_over(s) && try_operand(s, op, field, *v / 2))
		;
	while (*v > 2 && *v < 64 && !is_over(s) && try_operand(s, op, field, *v - 1))
		;
	return 0;
}

static void simplify_operands(struct search *s)
{
	for (int i = 0; i < s->best->count; i++)
		for (int field = 0; field < FIELDS_MAX && !is_over(s); field++)
			simplify_operand(s, i, field);
}

static void try_header(struct search *s, int check, int huge, int adopt, int min)
{
	static struct program candidate;

	candidate = *s->best;
	candidate.check = check;
	candidate.huge = huge;
	candidate.adopt = adopt;
	candidate.min = min;
	try_candidate(s, &candidate);
}

static void simplify_header(struct search *s)
{
	const struct program *p = s->best;
	const int never = 2;

	try_header(s, 0, p->huge, p->adopt, p->min);
	try_header(s, p->check, never, p->adopt, p->min);
	try_header(s, p->check, p->huge, never, p->min);
	try_header(s, p->check, p->huge, p->adopt, 1);
}

enum verdict program_shrink(struct program *p, enum verdict verdict, int seconds)
{
	struct search s = { p, verdict, 1, time(NULL) + seconds, 0 };
	int seen = 0;

	for (int i = 0; i < 3; i++)
		seen += run_program(p, CANDIDATE_SECONDS) == verdict;
	if (!seen && !run_stopped)
		seen = (s.tries = 10, shows(&s, p));
	if (!seen)
		return VERDICT_SAME;
	s.tries = seen == 3 ? 1 : 6;
	drop_operations(&s);
	simplify_header(&s);
	simplify_operands(&s);
	drop_operations(&s);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\n");
	if (!run_stopped)	/* the transcripts shall be those of *p */
		for (int i = 0; i < s.tries; i++)
			if (run_program(p, CANDIDATE_SECONDS) == verdict)
				break;
	return verdict;
}
