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
 * what the pager may not (pager-jail.c): look at other processes, and end them.
 *
 * The kernel tells who faults by a number that holds in the PID namespace of whom it tells
 * (fs/userfaultfd.c, userfault_msg). So the page is poisoned first, and killed is only whose
 * page table shows that, at that very moment; a child that is not found gets the SIGBUS of the
 * poison.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

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
	int of_pager;		/* a pidfd */
	int asked, say;		/* its ends of the pipes */
};

static const char pager_lost[] =
	"cowfork: the pager was lost, and a child that needs it is killed\n";
static const char unmapped[] = "cowfork: a child is killed that needs memory which its parent "
			       "unmapped by a system call of its own\n";
static const char unreadable[] = "cowfork: a child is killed that needs memory of its parent's "
				 "which cannot be read\n";

/* --- to end a child -------------------------------------------------------- */

struct words {
	int fd;
	const char *text;
};

static int writer = -1;		/* a pidfd */

static void write_words(void *arg)
{
	const struct words *w = arg;

	if (w->fd)
		sys_close_range(0, (unsigned)w->fd - 1, 0);
	sys_close_range((unsigned)w->fd + 1, ~0u, 0);
	(void)sys_write(w->fd, w->text, strlen(w->text));
}

static int has_ended(int pidfd)
{
	struct pollfd fd = { pidfd, POLLIN, 0 };

	return sys_poll(&fd, 1, 0) > 0;
}

/* By a process that may wait for whoever should read, as the keeper may not; one at a time,
 * and who cannot be told then is not. */
static void say(int fd, const char *text)
{
	struct words w = { fd, text };
	int pid;

	if (writer >= 0 && !has_ended(writer))
		return;
	if (writer >= 0) {
		sys_close(writer);
		(void)sys_reap_within(-1, 0);
	}
	pid = sys_fork_bare(write_words, &w);
	writer = pid > 0 ? sys_pidfd_open(pid) : -1;
}

/* By its own descriptor, with what that may do: neither pager nor keeper holds one of the
 * program's, which somebody may wait for to be closed. */
static void end_process(int pidfd, const char *words)
{
	int fd = sys_pidfd_getfd(pidfd, 2);

	sys_pidfd_kill(pidfd);
	if (fd < 0)
		return;
	say(fd, words);
	sys_close(fd);
}

/* Whoever reads another's memory by process_vm_readv(2) waits as if it were its own. */
static int waits(int tid)
{
	long call = procfs_call_of(tid, NULL);

	return call != SYS_process_vm_readv && call != SYS_process_vm_writev &&
	       procfs_sleeps_in(tid, "handle_userfault");
}

/* What poisoning a page says. */
static enum kid_end ended_by(int ret)
{
	return ret == -EEXIST ? KID_HAS_IT : ret == -EAGAIN ? KID_MOVES : KID_ENDED;
}

/* Who has this memory, and this number, and lacks that page. A child with another number is
 * not killed: it gets SIGBUS, or, before Linux 6.6, waits. */
static enum kid_end end_child(int uffd, int tid, uintptr_t page, const char *words)
{
	int pidfd = sys_pidfd_open(procfs_process_of(tid));
	int map = procfs_open_of_thread(tid, "/pagemap", O_RDONLY);
	int is_it = waits(tid), was_empty = procfs_has_entry(map, page) == 0;
	size_t done;
	int ret = uffd_poison(uffd, page, sys_page_size(), &done);
	int is_old = ret == -EINVAL || ret == -ENOTTY;

	if (is_old)
		ret = was_empty || map < 0 ? 0 : -EEXIST;
	is_it &= ret == 0 && (is_old || (was_empty && procfs_has_entry(map, page) == 1));
	if (is_it && pidfd >= 0)
		end_process(pidfd, words);
	if (map >= 0)
		sys_close(map);
	if (pidfd >= 0)
		sys_close(pidfd);
	if (!is_old || ret < 0)
		uffd_wake(uffd, page, sys_page_size());
	return ended_by(ret);
}

/* --- when the pager is lost ------------------------------------------------ */

static int is_in(const struct procfs_map *m, uintptr_t at)
{
	return at >= m->start && at < m->end;
}

/* The library's variables, where it is part of a program. */
static char in_bss, in_data = 1;

static int is_needed(const struct pager *p, const struct procfs_map *m)
{
	return is_in(m, (uintptr_t)__builtin_frame_address(0)) || is_in(m, (uintptr_t)p) ||
	       is_in(m, (uintptr_t)p->shared) || is_in(m, (uintptr_t)&in_bss) ||
	       is_in(m, (uintptr_t)&in_data);
}

/* What it has of the program's memory is a copy that nobody needs; and where a store looks
 * for descendants, it is none. */
static int drop(void *arg, const struct procfs_map *m)
{
	int large = m->end - m->start >= LARGE && (!m->ino || m->prot & PROT_WRITE);

	if ((large || m->shared) && !is_needed(arg, m))
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

static void look(struct pager_shared *s, int fd)
{
	const size_t size = sys_page_size();
	struct uffd_msg m;

	while (uffd_read(fd, &m)) {
		uintptr_t page = uffd_page(&m);

		if (m.event == UFFD_EVENT_FORK)
			file_add(s, (int)m.arg.fork.ufd);
		if (m.event == UFFD_EVENT_REMAP && fd == s->uffd)
			let_moved_go(s, &m);
		if (m.event == UFFD_EVENT_PAGEFAULT && fd == s->uffd)	/* in no list */
			uffd_let_go(fd, page, size);
		else if (m.event == UFFD_EVENT_PAGEFAULT)
			(void)end_child(fd, (int)m.arg.pagefault.feat.ptid, page, pager_lost);
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
		each_file(s, fd) {
			look(s, fd);
			if (!uffd_memory_lives(fd))
				file_close(s, fd);
			else if (++living < 64)
				fds[living] = (struct pollfd){ fd, POLLIN, 0 };
		}
		(void)sys_poll(fds, living < 63 ? living + 1 : 64, LOOK_MS);
	} while (living || (s->open && uffd_memory_lives(s->uffd)));
}

/* --- what the pager asks ------------------------------------------------- */

static long reply(const struct keeper_question *q)
{
	switch (q->op) {
	case KEEPER_GROWS:
		return procfs_call_of(q->tid, NULL) == SYS_mremap &&
		       procfs_sleeps_in(q->tid, "handle_userfault");
	case KEEPER_MOVES:
	case KEEPER_MOVES_AWAY:
		return movers_concern(q);
	case KEEPER_WAITS:
		return movers_wait(q);
	case KEEPER_KILL_UNMAPPED:
		return end_child(q->uffd, q->tid, q->page, unmapped);
	case KEEPER_KILL_UNREADABLE:
		return end_child(q->uffd, q->tid, q->page, unreadable);
	case KEEPER_LEAVE:
		return 0;
	default:
		return -EINVAL;
	}
}

/* 0: no more of it. */
static int serve(const struct ends *e)
{
	struct keeper_question q;
	long said;

	if (sys_read(e->asked, &q, sizeof(q)) != (long)sizeof(q))
		return 1;
	said = reply(&q);
	(void)sys_write(e->say, &said, sizeof(said));
	return q.op != KEEPER_LEAVE;
}

static long hear(const struct pager *p)
{
	struct pollfd fds[] = { { p->said, POLLIN, 0 }, { p->keeper, POLLIN, 0 } };
	long said;

	while (sys_poll(fds, 2, -1) < 0)
		;
	if (!fds[0].revents || sys_read(p->said, &said, sizeof(said)) != (long)sizeof(said))
		return -EPIPE;
	return said;
}

long keeper_ask(const struct pager *p, const struct keeper_question *q)
{
	/* the pager has the pipe's other end too, so that it would fill */
	if (p->keeper < 0 || has_ended(p->keeper) ||
	    sys_write(p->ask, q, sizeof(*q)) != (long)sizeof(*q))
		return -EPIPE;
	return hear(p);
}

/* It gets SIGBUS, or, before Linux 6.6, waits; as who is not found. */
static enum kid_end end_without_keeper(int uffd, uintptr_t page)
{
	size_t done;
	int ret = uffd_poison(uffd, page, sys_page_size(), &done);

	if (ret == 0 || ended_by(ret) != KID_ENDED)
		uffd_wake(uffd, page, sys_page_size());
	return ended_by(ret);
}

/* A fault can be told of that is none any more (fs/userfaultfd.c, handle_userfault: it queues
 * first, and looks then). */
enum kid_end keeper_kill(struct pager *p, int uffd, unsigned lost, const struct uffd_msg *m)
{
	const struct keeper_question q = {
		.op = lost & LOST_UNMAPPED ? KEEPER_KILL_UNMAPPED : KEEPER_KILL_UNREADABLE,
		.tid = (int)m->arg.pagefault.feat.ptid, .uffd = uffd, .page = uffd_page(m),
	};
	long ended;

	atomic_fetch_add(&p->news.killed, 1);	/* before somebody hears of its end */
	ended = keeper_ask(p, &q);
	if (ended < 0)
		ended = end_without_keeper(uffd, q.page);
	if (ended != KID_ENDED)
		atomic_fetch_sub(&p->news.killed, 1);
	return (enum kid_end)ended;
}

static void main_of_keeper(void *arg)
{
	const struct ends e = *(const struct ends *)arg;
	struct pager *p = e.pager;
	struct pager_shared *s = p->shared;
	uintptr_t bell_page = p->bell_page;
	struct pollfd fds[] = { { e.of_pager, POLLIN, 0 }, { e.asked, POLLIN, 0 } };
	long jailed;

	sys_name_thread("cowfork-keeper");
	(void)procfs_maps(drop, p);
	jailed = jail_keeper();
	(void)sys_write(e.say, &jailed, sizeof(jailed));
	if (jailed < 0)
		return;
	/* it may have ended by now, and another process have its number */
	while (sys_getppid() == p->self && !fds[0].revents) {
		int n = sys_poll(fds, 2, STUCK_MS);

		if (n == 0 && procfs_sleeps_in(p->self, "handle_userfault"))
			sys_pidfd_kill(e.of_pager);
		if (n > 0 && fds[1].revents && !serve(&e)) {
			if (writer >= 0)
				sys_pidfd_kill(writer);
			return;
		}
	}
	atomic_store(&s->lost, 1);
	let_program_go(s, bell_page);
	files_find(s, writer);
	each_file(s, fd)	/* whose fault the pager had read, and did not come to serve */
		uffd_wake_all(fd);
	watch(s);
}

/* Its stack, and what it has to know, is the pager's. */
int keeper_start(struct pager *p)
{
	uintptr_t mine = p->bell_page + sys_page_size();
	size_t len = p->bytes - sys_page_size(), shared = sys_whole_pages(sizeof(*p->shared));
	int there[2], back[2], of_pager = sys_pidfd_open(p->self), ret = sys_pipe(there);
	struct ends e;

	if (ret == 0)
		ret = sys_pipe(back);
	if (ret < 0 || of_pager < 0)
		return ret < 0 ? ret : of_pager;
	p->ask = there[1];
	p->said = back[0];
	e = (struct ends){ p, of_pager, there[0], back[1] };
	sys_madvise(mine, len, MADV_DOFORK);
	sys_madvise((uintptr_t)p->shared, shared, MADV_DOFORK);
	ret = sys_fork_with_files(main_of_keeper, &e);
	sys_madvise((uintptr_t)p->shared, shared, MADV_DONTFORK);
	sys_madvise(mine, len, MADV_DONTFORK);
	if (ret < 0)
		return ret;
	p->keeper_pid = ret;
	p->keeper = sys_pidfd_open(ret);
	return p->keeper < 0 ? p->keeper : (int)hear(p);
}

/* So that it is nobody else's child when it ends. */
void keeper_end(struct pager *p)
{
	if (p->keeper_pid <= 0 || p->keeper < 0)	/* it sees the pager end, and ends */
		return;
	if (keeper_ask(p, &(struct keeper_question){ .op = KEEPER_LEAVE }) < 0)
		sys_pidfd_kill(p->keeper);
	(void)sys_probe_reap(p->keeper_pid);
}
