/*
 * Children of the in-place engine, as the pager knows them: for each a userfaultfd, which
 * the kernel made at the fork (UFFD_EVENT_FORK), and the ranges in which a missing page is
 * one that the program had at the fork and nobody has touched since; anywhere else it is
 * zeros. What is there already, the kernel knows (-EEXIST).
 *
 * A page that some child lacks is write-protected in the program's memory. So its content
 * is still the one of every fork that lacks it, and there are no generations.
 *
 * A child's own fork is the kernel's: it copies what is there, and what is missing is
 * missing in the grandchild, which is one more child.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "compat.h"
#include "pager-run.h"
#include "procfs.h"
#include "sys.h"
#include "uffd.h"

#define POISON_MS 500u
#define TURN (KIDS - ROOM) / 4	/* messages of a child at a time */

static void note(struct pager *p, struct kid *k);

static long copy_part(struct pager *p, struct kid *k, const struct kid_range *part)
{
	long ret = kid_copy(p, k, part->start, part->source, part->end - part->start);

	if (ret == -ESRCH)
		kid_close(p, k);
	else if (ret < 0)
		note(p, k);
	return ret < 0 ? 0 : ret;
}

/* It has that by now, but for what is lost. */
static void close_kept(struct kid *k, uintptr_t start, uintptr_t end)
{
	struct kid_range part;

	while (range_kept(k, start, end, &part))
		range_close(k, part.start, part.end);
}

/* What it lacks of [from, to), addresses of the program's. Is that to be forgotten, then also
 * where some of it is gone: the next event would find it open. */
static void give(struct pager *p, struct kid *k, uintptr_t from, uintptr_t to, int forget)
{
	struct kid_range part;
	int gone = 0;

	while (k->fd && from < to && range_by_source(k, from, to, &part)) {
		uintptr_t len;

		k->gone = 0;
		len = (uintptr_t)copy_part(p, k, &part);
		if (forget && len && !k->gone && k->count < MANY_RANGES)
			close_kept(k, part.start, part.start + len);
		gone |= k->gone;
		from = part.source + len;
	}
	k->gone = gone;
}

/* The same by its own addresses. 0, or -EAGAIN: not now. */
static int fill(struct pager *p, struct kid *k, uintptr_t from, uintptr_t to)
{
	struct kid_range part;

	while (k->fd && from < to && range_kept(k, from, to, &part)) {
		long done = copy_part(p, k, &part);

		if (!done)
			return -EAGAIN;
		from = part.start + (uintptr_t)done;
	}
	return 0;
}

/* --- who there is ------------------------------------------------------- */

void kid_close(struct pager *p, struct kid *k)
{
	if (!k->fd)
		return;
	file_close(p->shared, k->fd);
	k->fd = 0;
	range_end(k);
	p->kids--;
	p->hurried -= (unsigned)k->hurries;
	k->hurries = 0;
	if (p->newest == k)
		p->newest = NULL;
	while (p->top && !p->kid[p->top - 1].fd)
		p->top--;
}

/* Of a child of the program's: what is armed now, and what may have been when it was made.
 * With no window open the library knows nothing of that fork, and nobody kept what was there
 * from being written since. */
static void open_as(struct pager *p, struct kid *k, const struct kid *of)
{
	range_begin(k, p->large, of);
	if (of) {
		k->suspect = of->suspect;
		if (of->suspect)
			range_lose_all(k);
		return;
	}
	each_area(a)
		range_add(k, a->start, a->end, a->start);
	for (unsigned i = 0; i < p->left_count; i++)
		range_lose(k, p->left[i].start, p->left[i].end, LOST_UNMAPPED);
	k->suspect = !p->shared->open;
	if (k->suspect)
		range_lose_all(k);
}

static struct kid *place(struct pager *p)
{
	for (struct kid *k = p->kid; k < p->kid + KIDS; k++)
		if (!k->fd)
			return k;
	return NULL;
}

/* It may have lost all of it: so much is known without a place. */
static struct kid *kid_without_place(struct pager *p, int fd)
{
	p->placeless++;
	if (sys_epoll_add(p->epoll, fd, FIRST_KID + KIDS + (uint64_t)fd) < 0)
		p->deaf = 1;
	return NULL;
}

void kid_hurries(struct pager *p, struct kid *k)
{
	p->hurried += !k->hurries;
	k->hurries = 1;
}

/* As many as there are descriptors for. */
static unsigned room(const struct pager *p)
{
	return ROOM * p->most / KIDS;
}

struct kid *kid_new(struct pager *p, int fd, const struct kid *of)
{
	struct kid *k = place(p);
	int is_heard;

	file_add(p->shared, fd);
	if (!k)
		return kid_without_place(p, fd);
	memset(k, 0, offsetof(struct kid, own));
	k->fd = fd;
	open_as(p, k, of);
	p->kids++;
	p->born++;
	if (p->top <= (unsigned)(k - p->kid))
		p->top = (unsigned)(k - p->kid) + 1;
	is_heard = sys_epoll_add(p->epoll, fd, FIRST_KID + (uint64_t)(k - p->kid)) == 0;
	p->deaf |= !is_heard;
	if (!is_heard || k >= p->kid + room(p) || k->count > MANY_RANGES)
		kid_hurries(p, k);
	return k;
}

/* --- what comes from them ----------------------------------------------- */

/* Those who waited while others were served: they fault again. */
static void kid_wake(struct kid *k)
{
	if (k->fd)
		waiting_wake(k->fd, &k->waits);
	k->waits.end = 0;
}

static int zero(struct kid *k, uintptr_t page)
{
	size_t done;
	int ret;

	do
		ret = uffd_zero(k->fd, page, sys_page_size(), &done);
	while (ret == -ENOMEM && sys_poll(NULL, 0, NO_MEMORY_MS) >= 0);
	return ret;
}

static int fill_for(struct pager *p, struct kid *k, uintptr_t page, const struct pager_area *range)
{
	int ret;

	k->wanted = page;
	ret = fill(p, k, range->start, range->end);
	k->wanted = 0;
	return ret;
}

/* Of memory that moves nobody knows which page that was. */
static void end_kid(struct pager *p, struct kid *k, unsigned lost, const struct uffd_msg *m)
{
	uintptr_t page = uffd_page(m);

	if (keeper_kill(p, k->fd, lost, m) == KID_HAS_IT && !uffd_memory_changes(k->fd))
		range_close(k, page, page + sys_page_size());
}

static void fault(struct pager *p, struct kid *k, const struct uffd_msg *m)
{
	size_t size = sys_page_size();
	uintptr_t page = uffd_page(m);
	struct pager_area range = track_range(&k->tracks, page);
	int is_there = (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0, ret;
	struct kid_range part;

	atomic_fetch_add(&p->news.faults, 1);
	p->by_hand = (struct pager_area){ 0 };
	if (is_there)
		(void)uffd_protect(k->fd, page, size, 0);
	if (!range_open(k, page, page + size, &part)) {
		ret = zero(k, page);
		if (ret == -EAGAIN)	/* other faults would be told before that again */
			note(p, k);
	} else {
		ret = fill_for(p, k, page, &range);
	}
	if (k->fd && ret == -EAGAIN)
		fault_let_grow(p, k->fd, m);
	if (k->fd && !is_there && range_open(k, page, page + size, &part) && range_lost(&part))
		end_kid(p, k, range_lost(&part), m);
	else if (k->fd)
		uffd_wake(k->fd, page, size);
}

/* The largest range that is not lost. 0: there is none. */
static int largest(const struct kid *k, struct kid_range *ret_range)
{
	const struct kid_range *found = NULL;

	for (const struct kid_range *r = k->open; r < k->open + k->count; r++)
		if (!range_lost(r) && (!found || r->end - r->start > found->end - found->start))
			found = r;
	if (found)
		*ret_range = *found;
	return found != NULL;
}

/* It has memory in many pieces: it gets all that it lacks. What it does meanwhile is noted,
 * and makes the more pieces the larger those are. */
static void complete(struct pager *p, struct kid *k)
{
	int gone = k->gone;	/* as whoever serves it just now knows */
	uintptr_t wanted = k->wanted;
	struct kid_range r;

	p->by_hand = (struct pager_area){ 0 };
	k->completing = 1;
	k->gone = 0;
	k->wanted = 0;
	while (k->fd && !k->gone && largest(k, &r)) {
		uintptr_t end = r.start + (uintptr_t)copy_part(p, k, &r);

		if (end > r.start && !k->gone)
			close_kept(k, r.start, end);
	}
	k->completing = 0;
	k->gone |= gone;
	k->wanted = wanted;
	range_shrink(k);
}

static void event(struct pager *p, struct kid *k, const struct uffd_msg *m);

/* Does nobody know where all of it is, then it is lost, and so may be what it lacks there. */
static void moved(struct pager *p, struct kid *k, const struct uffd_msg *m)
{
	uintptr_t from = (uintptr_t)m->arg.remap.from, to = (uintptr_t)m->arg.remap.to;
	size_t told = (size_t)m->arg.remap.len;
	struct uffd_msg next;
	size_t len = move_length(p, k->fd, m, &next);

	if (len) {
		range_move(k, from, to, len);
	} else {
		range_close(k, from, from + told);
		range_lose(k, to, to + told, LOST_UNMAPPED);
	}
	if (next.event)
		event(p, k, &next);
}

static void event(struct pager *p, struct kid *k, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_FORK:
		(void)kid_new(p, (int)m->arg.fork.ufd, k);
		break;
	case UFFD_EVENT_REMAP:
		moved(p, k, m);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		range_close(k, (uintptr_t)m->arg.remove.start, (uintptr_t)m->arg.remove.end);
		break;
	default:
		break;
	}
	if (k->count > MANY_RANGES && !k->completing)
		complete(p, k);
}

/* A fork is told with a descriptor: where there is none, those of who has ended go. */
static int read_from(struct pager *p, struct kid *k, struct uffd_msg *ret_msg)
{
	if (k->fd && uffd_read(k->fd, ret_msg))
		return 1;
	if (!k->fd || p->kids + 1 < p->most)
		return 0;
	kids_sweep(p);
	return k->fd && uffd_read(k->fd, ret_msg);
}

/* In the midst of serving: what the child did with its memory. Faults, which are told
 * before that, wait. */
static void note(struct pager *p, struct kid *k)
{
	struct uffd_msg m;

	while (read_from(p, k, &m)) {
		if (m.event != UFFD_EVENT_PAGEFAULT) {
			event(p, k, &m);
			continue;
		}
		fault_let_grow(p, k->fd, &m);
		waiting_add(&k->waits, uffd_page(&m));
	}
}

/* Some of them, and then it is the others' turn: what it waits for may be gone until the program
 * has told where to, and one that forks on and on must not take all places before there is room
 * made. */
static void kid_events(struct pager *p, struct kid *k)
{
	struct uffd_msg m;

	for (unsigned i = 0; i < TURN && read_from(p, k, &m); i++) {
		if (m.event == UFFD_EVENT_PAGEFAULT)
			fault(p, k, &m);
		else
			event(p, k, &m);
		kid_wake(k);
	}
}

/* The number may be another's by now. */
static int has_place(const struct pager *p, int fd)
{
	for (const struct kid *k = p->kid; k < p->kid + p->top; k++)
		if (k->fd == fd)
			return 1;
	return 0;
}

static void end_placeless(struct pager *p, int fd)
{
	struct uffd_msg m;

	while (!has_place(p, fd) && uffd_read(fd, &m)) {
		if (m.event == UFFD_EVENT_FORK)
			(void)kid_without_place(p, (int)m.arg.fork.ufd);
		if (m.event == UFFD_EVENT_PAGEFAULT)
			(void)keeper_kill(p, fd, LOST_UNREADABLE, &m);
	}
}

/* --- all of them -------------------------------------------------------- */

#define each_kid(p, k)								\
	for (struct kid *k = (p)->kid; k < (p)->kid + (p)->top; k++)		\
		if (k->fd)

/* A child's child may have taken a place that was passed already. */
static int give_all(struct pager *p, uintptr_t start, uintptr_t end, int forget)
{
	unsigned born;
	int gone;

	p->by_hand = (struct pager_area){ 0 };
	do {
		born = p->born;
		gone = 0;
		each_kid(p, k) {
			give(p, k, start, end, forget);
			gone |= k->gone;
			kid_wake(k);
		}
	} while (p->born != born);
	return gone ? -EAGAIN : 0;
}

int kids_give(struct pager *p, uintptr_t start, uintptr_t end)
{
	return give_all(p, start, end, 0);
}

/* It has that by now, but for what is gone. */
static void forget_source(struct kid *k, uintptr_t start, uintptr_t end)
{
	struct kid_range part;

	while (!k->gone && k->fd && range_by_source(k, start, end, &part))
		range_close(k, part.start, part.end);
}

void kids_moved(struct pager *p, uintptr_t from, uintptr_t to, size_t len)
{
	struct kid_range part;

	each_kid(p, k)
		while (range_by_source(k, from, from + len, &part)) {
			range_close(k, part.start, part.end);
			range_add(k, part.start, part.end, part.source + (to - from));
		}
}

int kids_leave(struct pager *p, uintptr_t start, uintptr_t end)
{
	int ret = give_all(p, start, end, 1);

	each_kid(p, k)
		forget_source(k, start, end);
	return ret;
}

void kids_complete(struct pager *p)
{
	(void)kids_leave(p, 0, UINTPTR_MAX);
}

void kids_lose(struct pager *p, uintptr_t start, uintptr_t end)
{
	struct kid_range part;

	each_kid(p, k)
		while (range_by_source(k, start, end, &part))
			range_lose(k, part.start, part.end, LOST_UNMAPPED);
}

void kids_lose_solid(struct pager *p, uintptr_t start, uintptr_t end)
{
	for (uintptr_t next; start < end; start = next) {
		size_t hollow = area_hollow(p, start, end - start);

		next = hollow ? start + hollow : area_next_hollow(p, start, end);
		if (!hollow)
			kids_lose(p, start, next);
	}
}

static int lost_range(const struct kid *k, struct kid_range *ret_range)
{
	for (unsigned i = 0; i < k->count; i++)
		if (range_lost(&k->open[i])) {
			*ret_range = k->open[i];
			return 1;
		}
	return 0;
}

/* Some of it, or -errno. One mapping at a time; what is in none, or there, needs nothing. */
static int poison(struct pager *p, struct kid *k, uintptr_t start, size_t len)
{
	size_t page = sys_page_size(), done;
	int ret = uffd_poison(k->fd, start, len, &done);

	if (ret == -ENOENT && !done && len > page)
		return poison(p, k, start, len / 2 & ~(page - 1));
	if (ret == -ENOENT && !done && uffd_memory_changes(k->fd))
		ret = -EAGAIN;
	if ((ret == -ENOENT || ret == -EEXIST) && !done)
		done = page;
	if (!done && ret != -EAGAIN)
		return ret;
	if (done) {
		uffd_wake(k->fd, start, done);
		range_close(k, start, start + done);
	}
	note(p, k);
	return 0;
}

/* All of a child's memory may be lost: where that is, nobody knows. */
void kids_poison(struct pager *p)
{
	uint64_t end = sys_now_ns() + POISON_MS * 1000000u;
	struct kid_range r;

	each_kid(p, k) {
		while (k->fd && lost_range(k, &r) && r.end != UINTPTR_MAX &&
		       sys_now_ns() < end && poison(p, k, r.start, r.end - r.start) == 0)
			;
		kid_wake(k);
	}
}

int kids_lack(const struct pager *p)
{
	for (unsigned i = 0; i < p->top; i++)
		if (p->kid[i].fd && p->kid[i].count)
			return 1;
	return p->placeless != 0;
}

void kids_sweep(struct pager *p)
{
	each_kid(p, k)
		if (!uffd_memory_lives(k->fd))
			kid_close(p, k);
	if (!p->placeless)
		return;
	each_file(p->shared, fd)
		if (!has_place(p, fd) && !uffd_memory_lives(fd)) {
			file_close(p->shared, fd);
			p->placeless--;
		}
}

/* Not in the midst of serving, or places would change hands there. */
void kids_hurry(struct pager *p)
{
	if (p->kids > room(p) && p->swept != p->born) {
		p->swept = p->born;
		kids_sweep(p);
	}
	if (!p->hurried)
		return;
	each_kid(p, k) {
		if (!k->hurries)
			continue;
		k->hurries = 0;
		p->hurried--;
		complete(p, k);
		kid_wake(k);
		if (k->fd && !k->count)
			kid_close(p, k);
	}
}

void kid_comes(struct pager *p, uint64_t number)
{
	if (number >= FIRST_KID + KIDS)
		end_placeless(p, (int)(number - FIRST_KID - KIDS));
	else if (p->kid[number - FIRST_KID].fd)
		kid_events(p, &p->kid[number - FIRST_KID]);
}

void kids_come(struct pager *p)
{
	each_kid(p, k)
		kid_events(p, k);
	if (p->placeless)
		each_file(p->shared, fd)
			end_placeless(p, fd);
	kids_hurry(p);
	p->deaf = p->kids || p->placeless;
}
