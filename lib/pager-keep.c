/*
 * The keeper: who has the pager's descriptors too. When the last descriptor of a userfaultfd
 * is closed, the kernel turns what was not served into zeros; so if the pager is lost, which
 * nothing but a SIGKILL from outside can do, the keeper holds them, and kills who touches a
 * page that nobody can serve any more.
 *
 * It loses the pager by itself where that waits for a userfaultfd, which is its own. The pager
 * looks before it copies, but memory may be moved in the midst of that (MREMAP_DONTUNMAP), and
 * nobody tells where a guard was.
 *
 * It shares no memory with the program: whatever is killed for that (by the OOM killer),
 * it is not, and whoever takes the program over has not taken over the keeper. So it also does
 * what the pager may not (pager-jail.c).
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
#define STUCK_MS 500
#define LARGE ((size_t)1 << 20)

/* What the keeper is told at its start. */
struct ends {
	struct pager *pager;
	int asked, say;		/* its ends of the pipes */
};

/* By its own descriptor: neither pager nor keeper holds one of the program's, which somebody
 * may wait for to be closed. */
static void kid_kill(int tid, const char *last_words)
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

/* Where it moved to, as the program is to know. */
static void let_moved_go(struct pager_shared *s, const struct uffd_msg *m)
{
	struct pager_areas a = *areas_now(&s->areas);
	uintptr_t to = (uintptr_t)m->arg.remap.to;

	uffd_let_go(s->uffd, to, (size_t)m->arg.remap.len);
	if (a.count == PAGER_AREAS)
		return;
	a.at[a.count++] = (struct pager_area){ to, to + (uintptr_t)m->arg.remap.len };
	areas_set(&s->areas, &a);
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
		if (m.event == UFFD_EVENT_REMAP && fd == s->uffd)
			let_moved_go(s, &m);
		if (m.event != UFFD_EVENT_PAGEFAULT || fd == s->uffd)
			continue;
		kid_kill((int)m.arg.pagefault.feat.ptid, "cowfork: the pager was lost, and a "
			 "child that needs it is killed\n");
	}
}

/* Whose fault the pager had read, and did not come to serve: they fault again. The top of what
 * a process can have is told by no call, and a range that reaches beyond wakes nobody. */
static void wake_all(int fd)
{
	const size_t page = sys_page_size();

	for (unsigned bit = 20; bit < 63; bit++) {
		uffd_wake(fd, (uintptr_t)1 << bit, (size_t)1 << bit);
		uffd_wake(fd, (uintptr_t)1 << bit, ((size_t)1 << bit) - page);
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

/* --- what the pager asks ------------------------------------------------- */

struct question {
	int op, tid;
};

static long reply(const struct question *q)
{
	switch (q->op) {
	case KEEPER_CALL_OF:
		return procfs_call_of(q->tid);
	case KEEPER_KILL_UNMAPPED:
		kid_kill(q->tid, "cowfork: a child is killed that needs memory which its parent "
				 "unmapped by a system call of its own\n");
		return 0;
	case KEEPER_KILL_UNREADABLE:
		kid_kill(q->tid, "cowfork: a child is killed that needs memory of its parent's "
				 "which cannot be read\n");
		return 0;
	default:
		return -EINVAL;
	}
}

static void serve(const struct ends *e)
{
	struct question q;
	long said;

	if (sys_read(e->asked, &q, sizeof(q)) != (long)sizeof(q))
		return;
	said = reply(&q);
	(void)sys_write(e->say, &said, sizeof(said));
}

long keeper_ask(const struct pager *p, enum keeper_op op, int tid)
{
	const struct question q = { (int)op, tid };
	struct pollfd fds[] = { { p->said, POLLIN, 0 }, { p->keeper, POLLIN, 0 } };
	long said;

	if (p->keeper < 0 || sys_write(p->ask, &q, sizeof(q)) != (long)sizeof(q))
		return -EPIPE;
	while (sys_poll(fds, 2, -1) < 0)
		;
	if (!fds[0].revents || sys_read(p->said, &said, sizeof(said)) != (long)sizeof(said))
		return -EPIPE;
	return said;
}

static void main_of_keeper(void *arg)
{
	const struct ends e = *(const struct ends *)arg;
	struct pager *p = e.pager;
	struct pager_shared *s = p->shared;
	uintptr_t bell_page = p->bell_page;
	struct pollfd fds[] = { { sys_pidfd_open(p->self), POLLIN, 0 }, { e.asked, POLLIN, 0 } };

	sys_name_thread("cowfork-keeper");
	(void)procfs_maps(drop, p);
	/* it may have ended by now, and another process have its number */
	while (fds[0].fd >= 0 && sys_getppid() == p->self && !fds[0].revents)
		if (sys_poll(fds, 2, STUCK_MS) > 0 && fds[1].revents)
			serve(&e);
		else if (procfs_sleeps_in(p->self, "handle_userfault"))
			sys_kill(p->self);
	if (atomic_load(&s->done))
		return;
	atomic_store(&s->lost, 1);
	let_program_go(s, bell_page);
	for (unsigned i = 0; i < KIDS; i++)
		if (s->kid_fd[i])
			wake_all(s->kid_fd[i]);
	watch(s);
}

/* Its stack, and what it has to know, is the pager's. */
int keeper_start(struct pager *p)
{
	uintptr_t mine = p->bell_page + sys_page_size();
	size_t len = p->bytes - sys_page_size();
	int there[2], back[2], ret = sys_pipe(there);
	struct ends e;

	if (ret == 0)
		ret = sys_pipe(back);
	if (ret < 0)
		return ret;
	p->ask = there[1];
	p->said = back[0];
	e = (struct ends){ p, there[0], back[1] };
	sys_madvise(mine, len, MADV_DOFORK);
	ret = sys_fork_with_files(main_of_keeper, &e);
	sys_madvise(mine, len, MADV_DONTFORK);
	p->keeper = ret < 0 ? ret : sys_pidfd_open(ret);
	return ret < 0 ? ret : 0;
}
