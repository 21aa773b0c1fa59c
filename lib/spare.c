/*
 * One mapping, in which every second page gets another protection: each such
 * page costs two maps of the kernel's count. One munmap of the whole lets them
 * go, which needs nothing and so cannot fail.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "spare.h"
#include "sys.h"

#define STEP 4		/* maps; so that not every change is a system call */

static int reserve(struct spare *sp)
{
	size_t pages = SPARE_MAX + 2, n = pages * sys_page_size();
	long p;

	if (sp->at)
		return 0;
	p = sys_mmap(0, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		     -1, 0);
	if (sys_failed(p))
		return -ENOMEM;
	sys_madvise((uintptr_t)p, n, MADV_DONTFORK);
	sys_madvise((uintptr_t)p, n, MADV_DONTDUMP);
	sp->at = (uintptr_t)p;
	return 0;
}

int spare_hold(struct spare *sp, size_t count)
{
	size_t n = sys_page_size();

	if (count > sp->held)
		count += STEP;
	if (count > SPARE_MAX || reserve(sp) < 0)
		return -ENOMEM;
	while (sp->held < count) {
		if (sys_mprotect(sp->at + (sp->held + 1) * n, n, PROT_READ) < 0)
			return -ENOMEM;
		sp->held += 2;
	}
	return 0;
}

/* One call for all: the pages merge with those between them. */
void spare_lend(struct spare *sp, size_t count)
{
	size_t n = sys_page_size(), lent = (count + 1) & ~(size_t)1;

	if (lent > sp->held)
		lent = sp->held;
	if (lent && sys_mprotect(sp->at + (sp->held - lent + 1) * n, lent * n, PROT_NONE) == 0)
		sp->held -= lent;
}

void spare_release(struct spare *sp)
{
	if (sp->at)
		sys_munmap(sp->at, (SPARE_MAX + 2) * sys_page_size());
	sp->at = 0;
	sp->held = 0;
}
