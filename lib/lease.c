/*
 * The lease: two witnesses that no descendant of this process is left.
 *
 * 1. A System V shared memory segment of one page, attached here and marked for
 *    removal at once. Every fork duplicates the attachment, exit and exec end
 *    it however the process died, and the kernel keeps the count (shm_nattch,
 *    ipc/shm.c: shm_open and shm_close of the vma). It needs no descriptor, so
 *    none can be lost, and no /proc; asking costs 0.13 us.
 * 2. A locked anonymous page that this process wrote once. fork shares it, so it
 *    is exclusive again (bit 56 of its pagemap entry, Documentation/admin-guide/
 *    mm/pagemap.rst) only when no child holds it. It sees forks that changed
 *    the IPC namespace, and children that dropped the attachment. It is locked
 *    because the bit of a page that was swapped out and in again lies; an entry
 *    that is not present counts as shared.
 *
 * A thaw wants both. Never written again, or the kernel would copy the page.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "lease.h"
#include "procfs.h"
#include "sys.h"

static uintptr_t make_marker(void)
{
	size_t n = sys_page_size();
	long p = sys_mmap(0, n, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (sys_failed(p))
		return 0;
	if (sys_mlock2((uintptr_t)p, n, 0) < 0) {
		sys_munmap((uintptr_t)p, n);
		return 0;
	}
	*(volatile char *)p = 1;
	return (uintptr_t)p;
}

static int64_t read_segment(const struct lease *l, struct shmid_ds *ds)
{
	int before = errno;
	int ret = shmctl(l->id, IPC_STAT, ds);

	errno = before;
	return ret;
}

static void make_segment(struct lease *l)
{
	int before = errno;
	struct shmid_ds ds;
	void *p = (void *)-1;

	/* where a filter refuses shmctl, a segment could not be removed again */
	l->id = -1;
	if (shmctl(-1, IPC_RMID, NULL) == 0 || errno != EINVAL) {
		errno = before;
		return;
	}
	l->id = shmget(IPC_PRIVATE, sys_page_size(), IPC_CREAT | 0400);
	if (l->id >= 0) {
		p = shmat(l->id, NULL, SHM_RDONLY);
		shmctl(l->id, IPC_RMID, NULL);
	}
	errno = before;
	if (p == (void *)-1) {
		l->id = -1;
		return;
	}
	l->attached = (uintptr_t)p;
	sys_mprotect(l->attached, sys_page_size(), PROT_NONE);
	if (read_segment(l, &ds) < 0)
		lease_close(l);
	else
		l->born = ds.shm_ctime;
}

void lease_open(struct lease *l)
{
	memset(l, 0, sizeof(*l));
	make_segment(l);
	l->marker = make_marker();
}

void lease_close(struct lease *l)
{
	if (l->attached)
		sys_munmap(l->attached, sys_page_size());
	if (l->marker)
		sys_munmap(l->marker, sys_page_size());
	memset(l, 0, sizeof(*l));
	l->id = -1;
}

int64_t lease_count(const struct lease *l)
{
	struct shmid_ds ds;

	/* another IPC namespace may hold a stranger under our number */
	if (l->id < 0 || read_segment(l, &ds) < 0 || ds.shm_ctime != l->born ||
	    ds.shm_segsz != sys_page_size() || ds.shm_nattch < 1)
		return -1;
	return (int64_t)ds.shm_nattch - 1;
}

int lease_free(const struct lease *l)
{
	return l->marker && lease_count(l) == 0 && procfs_exclusive(l->marker) == 1;
}

int lease_tells(const struct lease *l)
{
	return l->marker && lease_count(l) >= 0 && procfs_exclusive(l->marker) >= 0;
}
