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

int uffd_open(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
	};
	int uffd = create(), ret;

	if (uffd < 0)
		return uffd;
	ret = sys_ioctl(uffd, UFFDIO_API, &api);
	if (ret == 0)
		return uffd;
	sys_close(uffd);
	return ret;
}

int uffd_hold(int uffd, uintptr_t start, size_t len, int minor)
{
	struct uffdio_register reg = {
		.range = { start, len },
		.mode = UFFDIO_REGISTER_MODE_MISSING |
			(minor ? UFFDIO_REGISTER_MODE_MINOR : 0),
	};

	return sys_ioctl(uffd, UFFDIO_REGISTER, &reg);
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
