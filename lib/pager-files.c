/*
 * Which of the pager's descriptors are userfaultfds of children, for the keeper too, who has
 * the same: a bit for each. One that is closed while its child lacks something gives zeros, and
 * one that is not known lets that wait for ever: the pager may be killed before it has noted
 * what it has just read, so all that are open and not its own are looked for then.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

void file_add(struct pager_shared *s, int fd)
{
	atomic_fetch_or(&s->files[fd / 64], 1ull << fd % 64);
}

void file_close(struct pager_shared *s, int fd)
{
	atomic_fetch_and(&s->files[fd / 64], ~(1ull << fd % 64));
	sys_close(fd);
}

static int is_open(int fd)
{
	return uffd_protect(fd, 1, 1, 0) != -EBADF;
}

void files_own(struct pager_shared *s)
{
	for (int fd = 0; fd < 64; fd++)
		if (is_open(fd))
			s->own |= 1ull << fd;
}

void files_find(struct pager_shared *s, int but)
{
	for (int fd = 0; fd < (int)FILES; fd++)
		if ((fd >= 64 || !(s->own >> fd & 1)) && fd != but && is_open(fd))
			file_add(s, fd);
}

int file_next(const struct pager_shared *s, int fd)
{
	for (unsigned i = (unsigned)fd / 64; i < FILES / 64; i++) {
		uint64_t bits = atomic_load(&s->files[i]);

		if (i == (unsigned)fd / 64)
			bits &= ~0ull << fd % 64;
		if (bits)
			return (int)(i * 64) + __builtin_ctzll(bits);
	}
	return -1;
}
