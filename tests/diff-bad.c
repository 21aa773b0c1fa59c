/*
 * Arguments that the kernel refuses or ignores.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "compat.h"
#include "cowfork.h"
#include "diff-state.h"

#define NONSENSE 0x40		/* no protection, no flag of mremap(2) or mlock2(2) */

static int bad_protect(unsigned char *at, unsigned what)
{
	switch (what) {
	case 0:
		return cow_mprotect(at + 1, PAGE, PROT_READ);
	case 1:
		return cow_mprotect(at, 0, PROT_NONE);
	case 2:
		return cow_mprotect(at, PAGE, PROT_READ | NONSENSE);
	case 3:
		return cow_mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP);
	default:
		return cow_mprotect(at, SIZE_MAX - 100, PROT_NONE);
	}
}

static int bad_unmap(unsigned char *at, unsigned what)
{
	switch (what) {
	case 5:
		return cow_munmap(at + 1, PAGE);
	case 6:
		return cow_munmap(at, 0);
	default:
		return cow_munmap(at, SIZE_MAX - 100);
	}
}

static int bad_advise(unsigned char *at, unsigned what)
{
	switch (what) {
	case 8:
		return cow_madvise(at + 1, PAGE, MADV_DONTNEED);
	case 9:
		return cow_madvise(at, 0, MADV_DONTNEED);
	case 10:
		return cow_madvise(at, 0, 77);
	default:
		return cow_madvise(at, SIZE_MAX - 100, MADV_DONTNEED);
	}
}

static int bad_lock(unsigned char *at, unsigned what)
{
	switch (what) {
	case 12:
		return cow_mlock2(at, PAGE, NONSENSE);
	case 13:
		return cow_mlock2(at, 0, 0);
	case 14:
		return cow_mlockall(0);
	default:
		return cow_mlockall(4);	/* MCL_ONFAULT says how, not what */
	}
}

static void *bad_remap(unsigned char *at, unsigned what)
{
	switch (what) {
	case 16:
		return cow_mremap(at, PAGE, 0, 0, NULL);
	case 17:
		return cow_mremap(at + 1, PAGE, PAGE, 0, NULL);
	case 18:
		return cow_mremap(at, PAGE, PAGE, NONSENSE, NULL);
	case 19:
		return cow_mremap(at, PAGE, PAGE, MREMAP_DONTUNMAP, NULL);
	case 20:
		return cow_mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	default:
		return cow_mremap(at, PAGE, 2 * PAGE,
				  MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	}
}

static void *bad_map(unsigned char *at, unsigned what)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	if (what == 22)
		return cow_mmap(NULL, 0, PROT_READ, flags, -1, 0);
	return cow_mmap(at + 1, PAGE, PROT_READ, flags | MAP_FIXED, -1, 0);
}

static int bad_adopt(unsigned char *at, unsigned what)
{
	switch (what) {
	case 24:
		return -cow_adopt(at + 1, PAGE);
	case 25:
		return -cow_adopt(NULL, PAGE);
	case 26:
		return -cow_release(at, 0);
	default:
		return -cow_release(at, PAGE / 2);
	}
}

int do_bad(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	unsigned what = (unsigned)op->v[1] % BAD_COUNT;

	if (!s->at || s->page[0].back != BACK_ANON)
		return SKIPPED;
	if (what < 5)
		return outcome(bad_protect(s->at, what));
	if (what < 8)
		return outcome(bad_unmap(s->at, what));
	if (what < 12)
		return outcome(bad_advise(s->at, what));
	if (what < 16)
		return outcome(bad_lock(s->at, what));
	if (what < 22)
		return failed(bad_remap(s->at, what));
	return what < 24 ? failed(bad_map(s->at, what)) : bad_adopt(s->at, what);
}
