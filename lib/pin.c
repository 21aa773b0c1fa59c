/*
 * The detector: a fork shares private pages with the child, but copies pinned ones
 * for it at once, so that the parent's stay its own (mm/memory.c,
 * copy_present_page; Documentation/core-api/pin_user_pages.rst). So while a probe
 * child lives, a page that pagemap calls exclusive is pinned. Who has no pinned
 * private page pays nothing: without private pages nobody is forked.
 *
 * The child runs no handler, sends no signal when it ends and is no child to
 * wait(2) without __WALL; it does nothing until it is killed. It gets none of the
 * frozen memory, whose page tables may be full.
 *
 * SPDX-License-Identifier: MIT
 */
#include <sys/mman.h>

#include "pin.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"

int pin_can_tell(void)
{
	return sys_kernel_is(6, 5);
}

static int probe(uintptr_t start, size_t len, int *ret_probe)
{
	int pid = sys_probe_start(), ret;

	if (pid < 0)
		return pid;
	ret = procfs_unshared(start, len, NULL, NULL);
	sys_probe_kill(pid);
	*ret_probe = pid;
	return ret;
}

int pin_found(uintptr_t at, uintptr_t start, size_t len, int *ret_probe)
{
	int ret = procfs_private(at, len, NULL, NULL);

	if (ret < 1)
		return ret;
	process_each_own(s)
		store_close(s);
	ret = sys_madvise(at, len, MADV_DOFORK);
	if (ret == 0)
		ret = probe(at, len, ret_probe);
	sys_madvise(at, len, MADV_DONTFORK);
	process_each_own(s)
		(void)store_reopen(s, start, start + len); /* else the next freeze does */
	return ret;
}
