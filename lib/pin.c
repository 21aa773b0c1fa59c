/*
 * The detector: a fork shares private pages with the child, but copies pinned ones
 * for it at once, so that the parent's stay its own (mm/memory.c,
 * copy_present_page; Documentation/core-api/pin_user_pages.rst). So while a probe
 * child lives, a page that pagemap calls exclusive is pinned.
 *
 * The child runs no handler, sends no signal when it ends and is no child to
 * wait(2) without __WALL; it does nothing until it is killed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <sys/mman.h>

#include "pin.h"
#include "procfs.h"
#include "sys.h"

int pin_found(uintptr_t start, size_t len)
{
	int ret = sys_madvise(start, len, MADV_DOFORK), pid;

	if (ret < 0)
		return ret;
	pid = sys_probe_start();
	if (pid > 0) {
		ret = procfs_unshared(start, len);
		sys_probe_end(pid);
	} else {
		ret = pid;
	}
	sys_madvise(start, len, MADV_DONTFORK);
	return ret;
}
