/*
 * Operations on memory that is there: advice, locks, and system calls that look
 * at memory or write it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "compat.h"
#include "cowfork.h"
#include "diff-state.h"

#define LOCK_PAGES 16		/* limits on locked memory are small */
#define PIPE_PAGES 8		/* fits a pipe at any offset */

/* --- advice ------------------------------------------------------------- */

/* A call whose result does not matter. */
static void forget(int ret)
{
	(void)ret;
}

/* What MADV_FREE leaves is either: make it one. */
static void rewrite(const struct range *r)
{
	for (int i = 0; i < r->count; i++) {
		unsigned char *at = r->at + (size_t)i * PAGE;

		if (may_write(&r->s->page[r->first + i]))
			memset(at, 3, PAGE);
		else
			forget(cow_madvise(at, PAGE, MADV_DONTNEED));
	}
}

/* Refused half-way: which pages have a guard now is hard to say, so none has. */
static void remove_guards(const struct range *r)
{
	for (int i = 0; i < r->count; i++)
		forget(cow_madvise(r->at + (size_t)i * PAGE, PAGE, MADV_GUARD_REMOVE));
	range_flag(r, 0, PAGE_GUARD);
}

static void after_advice(struct world *w, const struct range *r, int advice, int ret)
{
	switch (advice) {
	case MADV_FREE:
		rewrite(r);
		break;
	case MADV_DONTFORK:
		range_flag(r, ret ? 0 : PAGE_DONTFORK, 0);
		break;
	case MADV_DOFORK:
		range_flag(r, 0, ret ? 0 : PAGE_DONTFORK);
		break;
	case MADV_WIPEONFORK:
		range_flag(r, PAGE_WIPED, 0);
		break;
	case MADV_GUARD_INSTALL:
		if (ret)
			remove_guards(r);
		else
			range_flag(r, PAGE_GUARD, 0);
		break;
	case MADV_GUARD_REMOVE:
		range_flag(r, 0, ret ? 0 : PAGE_GUARD);
		break;
	case MADV_DONTNEED: case MADV_DONTNEED_LOCKED:
	case MADV_POPULATE_READ: case MADV_POPULATE_WRITE:
		return;		/* these cut nothing */
	default:
		break;
	}
	range_split(w, r);
}

int do_advise(struct world *w, const struct op *op)
{
	int advice = op->v[3], ret;
	struct range r;

	/* 100 and 101 take pages away from the machine; and what is shared must
	 * stay as it is */
	if (advice == 100 || advice == 101 || !range_of(w, op, &r) ||
	    (advice == MADV_REMOVE && has_backing(&r, BACK_SHARED)))
		return SKIPPED;
	ret = outcome(cow_madvise(r.at, r.len, advice));
	after_advice(w, &r, advice, ret);
	/* whether a huge page can be had hangs on addresses and free memory */
	return advice == MADV_COLLAPSE ? 0 : ret;
}

/* --- locks -------------------------------------------------------------- */

static int small_range(struct world *w, const struct op *op, int most, struct range *r)
{
	if (!range_of(w, op, r))
		return 0;
	if (r->count > most) {
		r->count = most;
		r->len = (size_t)most * PAGE;
	}
	return 1;
}

int do_lock(struct world *w, const struct op *op)
{
	struct range r;
	int ret;

	if (!small_range(w, op, LOCK_PAGES, &r))
		return SKIPPED;
	ret = outcome(cow_mlock2(r.at, r.len, (unsigned)op->v[3]));
	range_split(w, &r);
	range_flag(&r, ret == EINVAL ? 0 : PAGE_LOCKED, 0);
	return ret;
}

int do_unlock(struct world *w, const struct op *op)
{
	struct range r;
	int ret;

	if (!range_of(w, op, &r))
		return SKIPPED;
	ret = outcome(munlock(r.at, r.len));
	range_split(w, &r);
	range_flag(&r, 0, PAGE_LOCKED);
	return ret;
}

int do_lockall(struct world *w, const struct op *op)
{
	int ret;

	if (!diff_lock_all)
		return SKIPPED;
	ret = outcome(cow_mlockall(op->v[0]));
	if (ret == 0)
		world_lock(w, op->v[0]);
	return ret;
}

/* --- calls that look ---------------------------------------------------- */

int do_sync(struct world *w, const struct op *op)
{
	struct range r;

	return range_of(w, op, &r) ? outcome(msync(r.at, r.len, op->v[3])) : SKIPPED;
}

/* What was just written is in memory. */
int do_resident(struct world *w, const struct op *op)
{
	unsigned char in[PAGES_MAX];
	struct range r;
	int ret;

	if (!range_of(w, op, &r))
		return SKIPPED;
	for (int i = 0; i < r.count; i++)
		if (may_write(&r.s->page[r.first + i]))
			r.at[(size_t)i * PAGE + 8] = 7;
	ret = outcome(mincore(r.at, r.len, in));
	for (int i = 0; i < r.count && !ret; i++)
		if (may_write(&r.s->page[r.first + i]) && !(in[i] & 1))
			ret = WRONG;
	return ret;
}

static int write_from(const struct range *r, int offset)
{
	static unsigned char seen[PIPE_PAGES * PAGE];
	int fd[2], ret;
	ssize_t n;

	if (pipe(fd) < 0)
		return WRONG;
	n = write(fd[1], r->at + offset, r->len - (size_t)offset);
	ret = n < 0 ? errno : (int)n << 8;
	if (n > 0 && read(fd[0], seen, (size_t)n) != n)
		ret = WRONG;
	close(fd[0]);
	close(fd[1]);
	for (ssize_t i = 0; i < n; i++)
		ret = (int)(((unsigned)ret * 31 + seen[i]) & 0x3fffffff);
	return ret;
}

static int read_into(const struct range *r, int offset)
{
	static unsigned char from[PIPE_PAGES * PAGE];
	int fd[2], ret = WRONG;
	size_t len = r->len - (size_t)offset;
	ssize_t n;

	if (has_backing(r, BACK_SHARED))
		return SKIPPED;
	if (pipe(fd) < 0)
		return WRONG;
	memset(from, 0x33, len);
	if (write(fd[1], from, len) == (ssize_t)len) {
		n = read(fd[0], r->at + offset, len);
		ret = n < 0 ? errno : (int)n << 8;
	}
	close(fd[0]);
	close(fd[1]);
	return ret;
}

static int vm_read(const struct range *r, int offset)
{
	static unsigned char seen[PIPE_PAGES * PAGE];
	struct iovec to = { seen, sizeof(seen) };
	struct iovec from = { r->at + offset, r->len - (size_t)offset };
	ssize_t n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	int ret = n < 0 ? errno : (int)n << 8;

	for (ssize_t i = 0; i < n; i++)
		ret = (int)(((unsigned)ret * 31 + seen[i]) & 0x3fffffff);
	return ret;
}

int do_syscall(struct world *w, const struct op *op)
{
	int offset = (int)((unsigned)op->v[4] % PAGE);
	struct range r;

	if (!small_range(w, op, PIPE_PAGES, &r))
		return SKIPPED;
	switch ((unsigned)op->v[3] % SYSCALL_COUNT) {
	case SYSCALL_WRITE:
		return write_from(&r, offset);
	case SYSCALL_READ:
		return read_into(&r, offset);
	default:
		return vm_read(&r, offset);
	}
}
