/*
 * The ioctls of Documentation/admin-guide/mm/userfaultfd.rst, one a function.
 *
 * UFFDIO_UNREGISTER wakes nobody where nothing was mapped, nor does a mapping that
 * replaces a held one: UFFDIO_WAKE always follows.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>

#include "compat.h"
#include "sys.h"
#include "uffd.h"

/* A range that the kernel looks at, for it may not lie below vm.mmap_min_addr, whole pages of any
 * size, and that no program has. */
#define LOWEST ((uintptr_t)65536)

static int create(void)
{
	int uffd = sys_userfaultfd(O_CLOEXEC | O_NONBLOCK), dev;

	if (uffd != -EPERM && uffd != -ENOSYS)
		return uffd;
	dev = sys_open("/dev/userfaultfd", O_RDWR);
	if (dev < 0)
		return uffd;
	uffd = sys_ioctl(dev, USERFAULTFD_IOC_NEW, (void *)(O_CLOEXEC | O_NONBLOCK));
	sys_close(dev);
	return uffd;
}

static int open_with(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = create(), ret;

	if (uffd < 0)
		return uffd;
	ret = sys_ioctl(uffd, UFFDIO_API, &api);
	if (ret == 0)
		return uffd;
	sys_close(uffd);
	return ret;
}

int uffd_open(void)
{
	return open_with(UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM);
}

int uffd_open_in_place(void)
{
	return open_with(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
			 UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
			 UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP);
}

int uffd_open_bell(void)
{
	return open_with(0);
}

uintptr_t uffd_page(const struct uffd_msg *m)
{
	return (uintptr_t)m->arg.pagefault.address & ~(sys_page_size() - 1);
}

int uffd_register(int uffd, uintptr_t start, size_t len, unsigned modes)
{
	struct uffdio_register reg = { .range = { start, len }, .mode = modes };

	return sys_ioctl(uffd, UFFDIO_REGISTER, &reg);
}

int uffd_hold(int uffd, uintptr_t start, size_t len, int minor)
{
	return uffd_register(uffd, start, len, UFFDIO_REGISTER_MODE_MISSING |
			     (minor ? (unsigned)UFFDIO_REGISTER_MODE_MINOR : 0));
}

int uffd_protect(int uffd, uintptr_t start, size_t len, int on)
{
	struct uffdio_writeprotect w = {
		.range = { start, len }, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return sys_ioctl(uffd, UFFDIO_WRITEPROTECT, &w);
}

int uffd_copy(int uffd, uintptr_t to, uintptr_t from, size_t len, size_t *ret_done)
{
	struct uffdio_copy c = {
		.dst = to, .src = from, .len = len, .mode = UFFDIO_COPY_MODE_DONTWAKE,
	};
	int ret = sys_ioctl(uffd, UFFDIO_COPY, &c);

	*ret_done = c.copy > 0 ? (size_t)c.copy : 0;
	return ret;
}

int uffd_zero(int uffd, uintptr_t start, size_t len, size_t *ret_done)
{
	struct uffdio_zeropage z = { .range = { start, len } };
	int ret = sys_ioctl(uffd, UFFDIO_ZEROPAGE, &z);

	*ret_done = z.zeropage > 0 ? (size_t)z.zeropage : 0;
	return ret;
}

int uffd_poison(int uffd, uintptr_t start, size_t len, size_t *ret_done)
{
	struct uffdio_poison p = {
		.range = { start, len }, .mode = UFFDIO_POISON_MODE_DONTWAKE,
	};
	int ret = sys_ioctl(uffd, UFFDIO_POISON, &p);

	*ret_done = p.updated > 0 ? (size_t)p.updated : 0;
	return ret;
}

int uffd_read(int uffd, struct uffd_msg *ret_msg)
{
	return sys_read(uffd, ret_msg, sizeof(*ret_msg)) == (long)sizeof(*ret_msg);
}

/* Of a range that no program has, the kernel asks after the memory first (fs/userfaultfd.c,
 * userfaultfd_writeprotect), and before that whether it changes. */
int uffd_memory_lives(int uffd)
{
	return uffd_protect(uffd, LOWEST, LOWEST, 0) != -ESRCH;
}

/* ... and before it looks at the range, which no program can have, and takes a lock. */
int uffd_memory_changes(int uffd)
{
	return uffd_protect(uffd, 1, 1, 0) == -EAGAIN;
}

void uffd_wake(int uffd, uintptr_t start, size_t len)
{
	struct uffdio_range range = { start, len };

	sys_ioctl(uffd, UFFDIO_WAKE, &range);
}

void uffd_let_go(int uffd, uintptr_t start, size_t len)
{
	struct uffdio_range range = { start, len };

	sys_ioctl(uffd, UFFDIO_UNREGISTER, &range);
	uffd_wake(uffd, start, len);
}

/* The top of what a process can have is told by no call, and a range that reaches beyond wakes
 * nobody. */
void uffd_wake_all(int uffd)
{
	const size_t page = sys_page_size();

	for (unsigned bit = 20; bit < 63; bit++) {
		uffd_wake(uffd, (uintptr_t)1 << bit, (size_t)1 << bit);
		uffd_wake(uffd, (uintptr_t)1 << bit, ((size_t)1 << bit) - page);
	}
}
