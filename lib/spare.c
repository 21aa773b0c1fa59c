/*
 * One mapping, in which every second page gets another protection: each such
 * page costs two maps of the kernel's count. One mprotect of the whole makes it
 * a single map again, which needs nothing and so cannot fail.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "spare.h"
#include "sys.h"

#define STEP 16		/* maps; so that not every change is a system call */

int spare_open(struct spare *sp, size_t limit)
{
	size_t n = sys_page_size();
	size_t pages = limit + 2;
	long p = sys_mmap(0, pages * n, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (sys_failed(p))
		return (int)p;
	sp->at = (uintptr_t)p;
	sp->pages = pages;
	sp->held = 0;
	sys_madvise(sp->at, pages * n, MADV_DONTFORK);
	return 0;
}

void spare_close(struct spare *sp)
{
	sys_munmap(sp->at, sp->pages * sys_page_size());
}

int spare_hold(struct spare *sp, size_t count)
{
	size_t n = sys_page_size();

	if (count > sp->held)
		count += STEP;
	while (sp->held < count) {
		if (sp->held + 2 > sp->pages)
			return -ENOMEM;
		if (sys_mprotect(sp->at + (sp->held + 1) * n, n, PROT_READ) < 0)
			return -ENOMEM;
		sp->held += 2;
	}
	return 0;
}

void spare_release(struct spare *sp)
{
	if (sp->held)
		sys_mprotect(sp->at, sp->pages * sys_page_size(), PROT_NONE);
	sp->held = 0;
}
