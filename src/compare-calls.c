/*
 * The case `calls`: what memory calls cost a program that never forks, as the C
 * library makes them and as cowfork does. A region of the size given exists all
 * the while. Off it are kinds of memory that stay the kernel's; on it is what
 * the store holds, owned and frozen.
 *
 * Mappings live through all the calls in order, one alone (each call is a
 * sample) and many side by side (the mean of a burst is one). Each carries a
 * word, which proves that the call did what it should; that, and what has to
 * come before a call, is not timed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compare.h"

#define SMALL ((size_t)64 << 10)	/* cowfork takes 256 KiB and more */
#define SINGLES 40			/* lives of one mapping, in a turn */
#define BURSTS 8			/* lives of many */
#define BURST 32
#define GIB ((size_t)1 << 30)

struct life {
	const struct engine *engine;
	const struct kind *kind;
	struct reply *reply;
	uint64_t seed;
	size_t size;		/* of each mapping */
	int fd;
	unsigned n;		/* mappings that live side by side */
	uint64_t *at[BURST];
};

struct kind {
	const char *name;
	int flags, small, file;
	int kept;		/* MADV_DONTNEED leaves the contents */
	int frozen;		/* all is frozen before each call */
};

static const struct kind kinds[CALLS_PARTS / CALL_COUNT] = {
	{ .name = "small", .flags = MAP_PRIVATE | MAP_ANONYMOUS, .small = 1 },
	{ .name = "shared", .flags = MAP_SHARED | MAP_ANONYMOUS, .kept = 1 },
	{ .name = "file", .flags = MAP_PRIVATE, .file = 1 },
	{ .name = "region", .flags = MAP_PRIVATE | MAP_ANONYMOUS },
	{ .name = "frozen", .flags = MAP_PRIVATE | MAP_ANONYMOUS, .frozen = 1 },
};

/* --- what stands in a mapping ------------------------------------------- */

static uint64_t word(const struct life *l, unsigned i)
{
	return memory_pattern(l->seed, i, 0, 0);
}

static int expect(const struct life *l, unsigned i, uint64_t expected)
{
	uint64_t found = *l->at[i];

	if (found == expected)
		return 0;
	l->reply->status = STATUS_WRONG_BYTE;
	l->reply->wrong = (struct wrong){ .page = i, .expected = expected, .found = found };
	return -1;
}

static int has_word(struct life *l, unsigned i)
{
	return expect(l, i, word(l, i));
}

static int write_word(struct life *l, unsigned i)
{
	*l->at[i] = word(l, i);
	return 0;
}

/* --- the calls ---------------------------------------------------------- */

static int map(struct life *l, unsigned i)
{
	l->at[i] = l->engine->calls->mmap(NULL, l->size, PROT_READ | PROT_WRITE,
					  l->kind->flags | MAP_NORESERVE, l->fd, 0);
	return l->at[i] == MAP_FAILED ? -1 : 0;
}

static int protect(struct life *l, unsigned i)
{
	return l->engine->calls->mprotect(l->at[i], l->size, PROT_READ);
}

static int unprotect(struct life *l, unsigned i)
{
	if (has_word(l, i) < 0)
		return -1;
	return l->engine->calls->mprotect(l->at[i], l->size, PROT_READ | PROT_WRITE);
}

static int advise(struct life *l, unsigned i)
{
	return l->engine->calls->madvise(l->at[i], l->size, MADV_DONTNEED);
}

static int is_gone(struct life *l, unsigned i)
{
	if (expect(l, i, l->kind->kept ? word(l, i) : 0) < 0)
		return -1;
	return write_word(l, i);
}

static int shrink(struct life *l, unsigned i)
{
	return l->engine->calls->mremap(l->at[i], l->size, l->size / 2, 0) == l->at[i] ? 0 : -1;
}

static int grow(struct life *l, unsigned i)
{
	return l->engine->calls->mremap(l->at[i], l->size / 2, l->size, 0) == l->at[i] ? 0 : -1;
}

static int unmap(struct life *l, unsigned i)
{
	return l->engine->calls->munmap(l->at[i], l->size);
}

struct step {
	const char *name;
	int (*before)(struct life *l, unsigned i);
	int (*call)(struct life *l, unsigned i);
	int (*after)(struct life *l, unsigned i);
};

static const struct step steps[CALL_COUNT] = {
	{ "mmap", NULL, map, write_word },
	{ "mprotect", NULL, protect, unprotect },
	{ "madvise", NULL, advise, is_gone },
	{ "mremap", shrink, grow, has_word },
	{ "munmap", NULL, unmap, NULL },
};

const char *calls_part(unsigned part, char *buf, size_t size)
{
	snprintf(buf, size, "%s %s", kinds[part / CALL_COUNT].name,
		 steps[part % CALL_COUNT].name);
	return buf;
}

/* --- lives -------------------------------------------------------------- */

static int each(struct life *l, int (*call)(struct life *l, unsigned i))
{
	for (unsigned i = 0; call && i < l->n; i++)
		if (call(l, i) < 0)
			return -1;
	return 0;
}

static int fail(struct life *l, const struct step *step)
{
	if (l->reply->status != STATUS_OK)
		return -1;
	return reply_fail(l->reply, "%s of %s memory: %s", step->name, l->kind->name,
			  strerror(errno));
}

static int take(struct life *l, const struct step *step)
{
	unsigned part = (unsigned)(l->kind - kinds) * CALL_COUNT + (unsigned)(step - steps);
	double start, us;

	if (each(l, step->before) < 0)
		return fail(l, step);
	start = clock_us();
	if (each(l, step->call) < 0)
		return fail(l, step);
	us = (clock_us() - start) / l->n;
	if (each(l, step->after) < 0)
		return fail(l, step);
	reply_add(l->reply, part, l->n == 1 ? METRIC_CALL : METRIC_CYCLE, us);
	return 0;
}

static int live(struct life *l, unsigned n)
{
	l->n = n;
	for (const struct step *step = steps; step < steps + CALL_COUNT; step++) {
		int ret = l->kind->frozen ? l->engine->prepare() : 0;

		if (ret < 0)
			return reply_fail(l->reply, "cow_prepare: %s", strerror(-ret));
		if (l->kind->frozen && step->call == grow)
			continue;	/* only owned memory can, in place */
		if (take(l, step) < 0)
			return -1;
	}
	return 0;
}

/* How many page tables a call walks depends on where a mapping lies within the
 * GiB that the next level of tables covers (1.7 times the cost of munmap,
 * measured). A spacer makes the next mapping, of any engine, begin with one. */
static void *space(size_t size, size_t *ret_size)
{
	void *next = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*ret_size = (uintptr_t)next & (GIB - 1);
	if (next == MAP_FAILED)
		return next;
	munmap(next, size);
	return *ret_size ? mmap(NULL, *ret_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
				-1, 0) : MAP_FAILED;
}

static int live_all(struct life *l, size_t size)
{
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		int file = l->fd;

		l->kind = &kinds[k];
		l->size = l->kind->small ? SMALL : size;
		l->fd = l->kind->file ? file : -1;
		for (unsigned i = 0; i < SINGLES; i++)
			if (live(l, 1) < 0)
				return -1;
		for (unsigned i = 0; i < BURSTS; i++)
			if (live(l, BURST) < 0)
				return -1;
		l->fd = file;
	}
	return 0;
}

int measure_calls(struct bench *b, const struct job *job, struct reply *reply)
{
	struct life l = { .engine = b->engine, .reply = reply, .seed = job->seed };
	const char *why = NULL;
	void *region, *spacer;
	size_t spacer_size;
	int ret;

	l.fd = memfd_create("cowfork-compare", MFD_CLOEXEC);
	if (l.fd < 0 || ftruncate(l.fd, (off_t)job->size) < 0)
		return reply_fail(reply, "memfd: %s", strerror(errno));
	ret = b->engine->create(job->size, &region, &why);
	if (ret < 0) {
		reply_fail(reply, "memory: %s", why ? why : strerror(-ret));
	} else {
		spacer = space(job->size, &spacer_size);
		ret = live_all(&l, job->size);
		if (spacer != MAP_FAILED)
			munmap(spacer, spacer_size);
		if (b->engine->destroy(region, job->size) < 0 && ret == 0)
			ret = reply_fail(reply, "giving memory back failed");
	}
	close(l.fd);
	return ret;
}
