/*
 * cow_facilities(): what this machine and user have, found out by trying.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "lease.h"
#include "store.h"
#include "sys.h"
#include "uffd.h"

static int readable(const char *path)
{
	int fd = sys_open(path, O_RDONLY);

	if (fd < 0)
		return 0;
	sys_close(fd);
	return 1;
}

static int has_memfd(void)
{
	int fd = sys_memfd("cowfork-probe");

	if (fd < 0)
		return 0;
	sys_close(fd);
	return 1;
}

static void probe_lease(struct cow_facilities *f)
{
	struct lease l;

	lease_open(&l);
	f->sysvshm = lease_count(&l) >= 0;
	f->mlock = l.marker != 0;
	lease_close(&l);
}

/* A table of shared memory, filled, collapsed. */
static int has_collapse(void)
{
	size_t len = 2 * TABLE_SIZE;
	int fd = sys_memfd("cowfork-probe"), ret = -1;
	uintptr_t at;
	long p;

	if (fd < 0)
		return 0;
	/* aligned in memory as in the file: look for an address first */
	p = sys_mmap(0, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!sys_failed(p) && sys_ftruncate(fd, (off_t)TABLE_SIZE) == 0) {
		at = ((uintptr_t)p + TABLE_SIZE - 1) & ~(TABLE_SIZE - 1);
		if (!sys_failed(sys_mmap(at, TABLE_SIZE, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_FIXED, fd, 0))) {
			memset((void *)at, 1, TABLE_SIZE);
			ret = sys_madvise(at, TABLE_SIZE, MADV_COLLAPSE);
		}
		sys_munmap((uintptr_t)p, len);
	}
	sys_close(fd);
	return ret == 0;
}

static int has_userfaultfd(int (*open)(void))
{
	int uffd = open();

	if (uffd < 0)
		return 0;
	sys_close(uffd);
	return 1;
}

int cow_facilities(struct cow_facilities *fac)
{
	struct cow_facilities f = { .size = sizeof(f) };
	size_t n = fac->size < sizeof(f) ? fac->size : sizeof(f);

	if (fac->size < sizeof(size_t))
		return -EINVAL;
	f.memfd = has_memfd();
	f.limits = store_unlimited();
	/* a file above the limit is no error, but a signal */
	f.remap = f.limits && store_kernel_can();
	f.collapse = f.limits && has_collapse();
	f.maps = readable("/proc/thread-self/maps");
	f.pagemap = readable("/proc/thread-self/pagemap");
	f.userfaultfd = has_userfaultfd(uffd_open);
	f.in_place = has_userfaultfd(uffd_open_in_place);
	f.overcommit = !store_strict_overcommit();
	probe_lease(&f);
	memcpy((char *)fac + sizeof(size_t), (char *)&f + sizeof(size_t),
	       n - sizeof(size_t));
	return 0;
}
