/*
 * What is the same in what the kernel tells of the program's memory (pager-told.c) and of a
 * child's (pager-kids.c): how they touch it, who is to wait, and what is odd about mremap(2).
 *
 * SPDX-License-Identifier: MIT
 */
#include "compat.h"
#include "pager-run.h"
#include "sys.h"
#include "uffd.h"

#define TELL_MS 100		/* in which more is told of a move */

struct pager_area track_range(struct tracks *t, uintptr_t page)
{
	uintptr_t first = page & ~(TABLE_SIZE - 1), edge = first + TABLE_SIZE;
	uint8_t *count = &t->scattered[first / TABLE_SIZE % SCATTERED_TABLES];
	unsigned many = t->full < SCATTERED_TABLES_FULL ? SCATTERED_MANY : SCATTERED_FEW;
	struct track *found = NULL;

	for (unsigned i = 0; i < TRACKS && !found; i++)
		if (t->at[i].next == page)
			found = &t->at[i];
	if (!found && ++*count >= many) {
		*count = 0;
		t->full++;
		return (struct pager_area){ first, edge };
	}
	if (found) {
		found->size = found->size * 4 < TABLE_SIZE ? found->size * 4 : TABLE_SIZE;
	} else {
		found = &t->at[t->turn++ % TRACKS];
		found->size = sys_page_size();
	}
	found->next = edge - page > found->size ? page + found->size : edge;
	return (struct pager_area){ page, found->next };
}

void waiting_add(struct pager_area *waits, uintptr_t page)
{
	if (!waits->end || page < waits->start)
		waits->start = page;
	if (page >= waits->end)
		waits->end = page + sys_page_size();
}

void waiting_wake(int uffd, struct pager_area *waits)
{
	if (waits->end)
		uffd_wake(uffd, waits->start, waits->end - waits->start);
	waits->end = 0;
}

void fault_let_grow(const struct pager *p, int fd, const struct uffd_msg *m)
{
	uintptr_t page = uffd_page(m);
	const struct keeper_question q = {
		.op = KEEPER_GROWS, .tid = (int)m->arg.pagefault.feat.ptid,
	};

	if (keeper_ask(p, &q) == 1)
		uffd_let_go(fd, page, sys_page_size());
}

/* What of it is told as unmapped did not move. */
static size_t length_by(const struct uffd_msg *m, const struct uffd_msg *next)
{
	uintptr_t from = (uintptr_t)m->arg.remap.from, end = from + (uintptr_t)m->arg.remap.len;
	uintptr_t start = (uintptr_t)next->arg.remove.start;

	if (next->event != UFFD_EVENT_UNMAP || (uintptr_t)next->arg.remove.end != end)
		return 0;
	return start > from ? start - from : end - from;
}

size_t move_length(const struct pager *p, int uffd, const struct uffd_msg *m,
		   struct uffd_msg *ret_next)
{
	uint64_t until = sys_now_ns() + TELL_MS * 1000000u;
	size_t len = (size_t)m->arg.remap.len;
	int faulted = 0;

	ret_next->event = 0;
	while (!p->tells_lengths && !ret_next->event && len && uffd_memory_changes(uffd)) {
		if (!uffd_read(uffd, ret_next)) {
			sys_poll(NULL, 0, 1);
			len = sys_now_ns() > until ? 0 : len;
		} else if (ret_next->event == UFFD_EVENT_PAGEFAULT) {
			ret_next->event = 0;	/* told before events; it faults again, later */
			faulted = 1;
		} else {
			len = length_by(m, ret_next);
		}
	}
	if (faulted)
		uffd_wake_all(uffd);
	return len;
}
