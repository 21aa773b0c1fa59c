/*
 * Which of the pager's descriptors are userfaultfds of children, for the keeper too, who has
 * the same: a bit for each. One that is closed while its child lacks something gives zeros.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pager-run.h"
#include "sys.h"

void file_add(struct pager_shared *s, int fd)
{
	atomic_fetch_or(&s->files[fd / 64], 1ull << fd % 64);
}

void file_close(struct pager_shared *s, int fd)
{
	atomic_fetch_and(&s->files[fd / 64], ~(1ull << fd % 64));
	sys_close(fd);
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
