/*
 * The keeper: who has the pager's descriptors too. When the last descriptor of a userfaultfd
 * is closed, the kernel turns what was not served into zeros; so if the pager is lost, which
 * nothing but a SIGKILL from outside can do, the keeper holds them, and kills who touches a
 * page that nobody can serve any more.
 *
 * It shares no memory with the program: whatever is killed for that (by the OOM killer),
 * it is not.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "procfs.h"
#include "sys.h"
#include "uffd.h"

#define LOOK_MS 100
#define LARGE ((size_t)1 << 20)

/* By its own descriptor: neither pager nor keeper holds one of the program's, which somebody
 * may wait for to be closed. */
void kid_kill(int tid, const char *last_words)
{
	int fd = procfs_open_of_thread(tid, "/fd/2",
				       O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0) {
		(void)sys_write(fd, last_words, strlen(last_words));
		sys_close(fd);
	}
	sys_kill(tid);
}

static int is_in(const struct procfs_map *m, uintptr_t at)
{
	return at >= m->start && at < m->end;
}

/* What it has of the program's memory is a copy that nobody needs; and where a store looks
 * for descendants, it is none. */
static int drop(void *arg, const struct procfs_map *m)
{
	const struct pager *p = arg;
	int large = m->end - m->start >= LARGE && (!m->ino || m->prot & PROT_WRITE);

	if ((large || m->shared) && !is_in(m, (uintptr_t)__builtin_frame_address(0)) &&
	    !is_in(m, (uintptr_t)p) && !is_in(m, (uintptr_t)p->shared))
		sys_munmap(m->start, m->end - m->start);
	return 0;
}

static void let_program_go(struct pager_shared *s, uintptr_t bell_page)
{
	const struct pager_areas *a = areas_now(&s->areas);

	for (unsigned i = 0; i < a->count; i++)
		uffd_let_go(s->uffd, a->at[i].start, a->at[i].end - a->at[i].start);
	uffd_let_go(s->bell, bell_page, sys_page_size());
}

static int add(struct pager_shared *s, int fd)
{
	for (unsigned i = 0; i < KIDS; i++)
		if (!s->kid_fd[i]) {
			s->kid_fd[i] = fd;
			return 0;
		}
	return -EMFILE;	/* it stays open: who touches something waits for ever */
}

static void look(struct pager_shared *s, int fd)
{
	struct uffd_msg m;

	while (uffd_read(fd, &m)) {
		if (m.event == UFFD_EVENT_FORK)
			(void)add(s, (int)m.arg.fork.ufd);
		if (m.event != UFFD_EVENT_PAGEFAULT || fd == s->uffd)
			continue;
		kid_kill((int)m.arg.pagefault.feat.ptid, "cowfork: the pager was lost, and a "
			 "child that needs it is killed\n");
	}
}

/* Until nobody is left that could touch something. */
static void watch(struct pager_shared *s)
{
	unsigned living;

	do {
		struct pollfd fds[64] = { { s->uffd, POLLIN, 0 } };

		living = 0;
		look(s, s->uffd);
		for (unsigned i = 0; i < KIDS; i++) {
			int fd = s->kid_fd[i];

			if (!fd)
				continue;
			look(s, fd);
			if (uffd_memory_lives(fd)) {
				if (++living < 64)
					fds[living] = (struct pollfd){ fd, POLLIN, 0 };
			} else {
				s->kid_fd[i] = 0;
				sys_close(fd);
			}
		}
		(void)sys_poll(fds, living < 63 ? living + 1 : 64, LOOK_MS);
	} while (living || uffd_memory_lives(s->uffd));
}

static void main_of_keeper(void *arg)
{
	struct pager *p = arg;
	struct pager_shared *s = p->shared;
	uintptr_t bell_page = p->bell_page;
	struct pollfd pager = { sys_pidfd_open(p->self), POLLIN, 0 };

	sys_name_thread("cowfork-keeper");
	(void)procfs_maps(drop, p);
	/* it may have ended by now, and another process have its number */
	while (pager.fd >= 0 && sys_getppid() == p->self && sys_poll(&pager, 1, -1) <= 0)
		;
	if (atomic_load(&s->done))
		return;
	atomic_store(&s->lost, 1);
	let_program_go(s, bell_page);
	watch(s);
}

/* Its stack, and what it has to know, is the pager's. */
int keeper_start(struct pager *p)
{
	uintptr_t mine = p->bell_page + sys_page_size();
	size_t len = p->bytes - sys_page_size();
	int ret;

	sys_madvise(mine, len, MADV_DOFORK);
	ret = sys_fork_with_files(main_of_keeper, p);
	sys_madvise(mine, len, MADV_DONTFORK);
	return ret < 0 ? ret : 0;
}
