/*
 * The window of a fork, in which armed memory is in a child: empty, with a userfaultfd of its
 * own before the child runs (UFFD_EVENT_FORK), and the fork waits until that is read.
 *
 * Who writes while the window is open waits: no child of it is known yet that had to be given
 * what is changed. But the fork may wait for that writer (for its lock of malloc's), and the
 * forking thread itself takes locks that may lie in armed memory. What these write becomes
 * plain memory, page by page, which the kernel's fork copies.
 *
 * What another thread does by calls of its own meanwhile may be told after the fork was made
 * and before that is told (dup_mmap, kernel/fork.c, lets go of the memory first): a child has
 * lost what was unmapped or moved in the window, and what was emptied if it may be so.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>

#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define LOOK_MS 100		/* whether the program lives still */
#define PATIENCE_MS 2		/* of a writer, while the program should be forking */

static int let_fork(void)
{
	int result = 0;

	each_area(a) {
		int ret = sys_madvise(a->start, a->end - a->start, MADV_DOFORK);

		result = result ? result : ret;
	}
	return result;
}

/* Removals that may be done before that fork or after it, but before the next. */
static void late_leave(struct pager *p)
{
	if (p->late_count > LEFT)	/* of which some are not known any more */
		p->late[0] = (struct pager_area){ 0, UINTPTR_MAX };
	for (unsigned i = 0; i < p->late_count && i < LEFT; i++) {
		area_left(p, p->late[i].start, p->late[i].end);
		area_vacate(p, p->late[i].start, p->late[i].end);
	}
	p->late_count = 0;
}

static int open_window(struct pager *p)
{
	int ret;

	area_leave_growth(p);
	if (p->late_count && parent_settles(p, SETTLE_MS))
		p->late_count = 0;	/* who removes something takes the lock of that memory */
	ret = let_fork();		/* next, for which this waits */
	for (int i = 0; ret == -ENOMEM && uffd_memory_changes(p->uffd) && i < LOOKS; i++) {
		(void)parent_event(p);	/* some is unmapped by now */
		ret = let_fork();
	}
	area_fill(p);
	p->opens = 1;
	late_leave(p);
	return ret < 0 ? ret : area_rearm(p);
}

static void close_window(struct pager *p)
{
	each_area(a) {
		sys_madvise(a->start, a->end - a->start, MADV_DONTFORK);
		uffd_wake(p->uffd, a->start, a->end - a->start);
	}
	while (p->waiting_count)	/* some are of no area any more */
		uffd_wake(p->uffd, p->waiting[--p->waiting_count], sys_page_size());
}

/* A child may have been made before the page is copied, and lack it: of that fork, as of
 * anything that the kernel is about to tell, -EAGAIN warns (fs/userfaultfd.c,
 * mmap_changing). 0: not now, then. */
static int leave_page(struct pager *p, uintptr_t page, uintptr_t end)
{
	struct pager_area part = area_unwipe(page, end);

	if (uffd_protect(p->uffd, page, sys_page_size(), 1) == -EAGAIN) {
		sys_madvise(part.start, part.end - part.start, MADV_WIPEONFORK);
		return 0;
	}
	area_leave(p, part.start, part.end);
	return 1;
}

static int let_write(struct pager *p, uintptr_t page)
{
	uintptr_t end = area_part(page, page + sys_page_size());

	if (!end)	/* of what a bare mremap(2) made it grow by */
		area_leave_growth(p);
	else if (!leave_page(p, page, end))
		return 0;
	uffd_wake(p->uffd, page, sys_page_size());
	return 1;
}

/* In the window; it is woken when that closes. Too many wait: no matter, they are as if
 * each had come later. */
void window_put_off(struct pager *p, const struct uffd_msg *m)
{
	uintptr_t page = uffd_page(m);
	int hurries = (int)m->arg.pagefault.feat.ptid == p->asker ||
		      sys_now_ns() > p->patience || p->waiting_count == WAITING;

	if (hurries && let_write(p, page))
		return;
	if (p->waiting_count < WAITING)
		p->waiting[p->waiting_count++] = page;
	else			/* it faults again */
		uffd_wake(p->uffd, page, sys_page_size());
}

static void lose_patience(struct pager *p)
{
	while (p->waiting_count && let_write(p, p->waiting[p->waiting_count - 1]))
		p->waiting_count--;
}

/* The program forks, or rings once more, or is no more, or another by execve(2). */
static void wait_for_fork(struct pager *p)
{
	struct pollfd fds[] = { { p->uffd, POLLIN, 0 }, { p->bell, POLLIN, 0 } };
	struct uffd_msg m;
	int forked = 0;

	p->patience = sys_now_ns() + PATIENCE_MS * 1000000u;
	p->waiting_count = 0;
	while (!forked && !fds[1].revents) {
		if (sys_poll(fds, 2, p->waiting_count ? PATIENCE_MS : LOOK_MS) == 0) {
			if (sys_getppid() != p->parent || sys_alone_in_mm())
				return;
			lose_patience(p);
		}
		if (parent_read(p, &m))
			forked = parent_told(p, &m);
		p->prepared = 0;
	}
}

void window(struct pager *p)
{
	int ret;

	p->left_count = 0;
	p->tracks = (struct tracks){ 0 };
	if (p->kids > p->most / 2)
		kids_sweep(p);
	ret = p->kids > p->most / 2 ? -EMFILE : open_window(p);
	p->opens = 0;
	if (ret == 0)
		area_forks(p);
	parent_wake(p);		/* and is put off, as others are */
	atomic_store(&p->shared->open, ret == 0);
	pager_answer(p, ret);
	if (ret == 0)
		wait_for_fork(p);
	close_window(p);
	atomic_store(&p->shared->open, 0);
}
