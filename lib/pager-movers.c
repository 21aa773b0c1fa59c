/*
 * Who moves memory just now, as the keeper can see it: threads in calls that change what lies
 * where. Such a call has done that when the pager is to be told, and does not return before it
 * was; so who was in one when the pager read memory is in it still. As long as it waits, it
 * can be seen (proc_pid_syscall(5), proc_pid_wchan(5)), and whom it waits for.
 *
 * Of who runs, or is about to, nothing can be seen; and whoever waits for an event runs for a
 * moment whenever another was read (fs/userfaultfd.c, userfaultfd_event_complete). So it is
 * looked at until it is seen, or has run for so long that it is in no such moment any more
 * (proc_pid_schedstat(5), as of the last tick or switch).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "compat.h"
#include "pager-run.h"
#include "procfs.h"
#include "sys.h"

#define UNSEEN 256u		/* threads that run at once */
#define LOOK_MS 1000u		/* until they are seen */
#define QUICK_LOOKS 4u		/* ... each ms, but for the first ones */
#define EVENT "userfaultfd_event_wait_completion"
#define RUN_NS 1000000u		/* a thousand times what is left of such a call */

struct unseen {
	int tid;
	uint64_t ran;		/* at the first look; how long, ns */
	uint64_t since;		/* ... at the first look that shows more */
};

/* As far as it concerns a range. */
struct movers {
	const struct keeper_question *of;
	unsigned onto;		/* who moves memory there (MREMAP_FIXED) */
	unsigned anywhere;	/* ... where the kernel finds room, */
	unsigned away;		/* who makes room there, perhaps */
	unsigned swaps;		/* ... of these, who does both */
	unsigned waiting;	/* whoever waits for the pager */
	unsigned count;		/* of unseen ones */
	struct unseen unseen[UNSEEN];
};

static int meets(const struct movers *m, uint64_t start, uint64_t len)
{
	return start < m->of->end && start + len > m->of->start;
}

/* 0: it is in the midst of it, and does not wait for the pager. */
static int add_mover(struct movers *m, const uint64_t *args, int waits)
{
	int onto = args[3] & MREMAP_FIXED && meets(m, args[4], args[2]);
	int anywhere = !(args[3] & MREMAP_FIXED), away = meets(m, args[0], args[1]);

	if (!waits)
		return !onto && !anywhere && !away;
	m->onto += (unsigned)onto;
	m->anywhere += (unsigned)anywhere;
	m->away += (unsigned)away;
	m->swaps += (unsigned)(anywhere && away);
	return 1;
}

/* What moved from the page was told, and but for MREMAP_DONTUNMAP it is no more there. 0: nothing
 * can be seen, or not by who asks. */
static int see(struct movers *m, int tid)
{
	uint64_t args[6];
	long call = procfs_call_of(tid, args);
	int waits = procfs_sleeps_in(tid, EVENT);

	m->waiting += (unsigned)waits;
	if (call == SYS_mremap && waits && args[0] == m->of->page && !(args[3] & MREMAP_DONTUNMAP))
		return 1;
	if (call == SYS_mremap)
		return add_mover(m, args, waits);
	if (call == SYS_munmap)
		m->away += (unsigned)meets(m, args[0], args[1]);
	else if (call != SYS_madvise)
		m->away += (unsigned)waits;
	return call >= 0 || call == -ENOENT || call == -ESRCH;
}

static int first_look(void *arg, int tid)
{
	struct movers *m = arg;

	if (see(m, tid))
		return 0;
	if (m->count == UNSEEN)
		return -ENOSPC;
	m->unseen[m->count++] = (struct unseen){ tid, procfs_ran(tid), 0 };
	return 0;
}

static int has_run(struct unseen *u)
{
	uint64_t ran = procfs_ran(u->tid);

	if (!u->since && ran != u->ran)
		u->since = ran;
	return u->since && ran - u->since >= RUN_NS;
}

static void look_again(struct movers *m)
{
	unsigned left = 0;

	for (unsigned i = 0; i < m->count; i++)
		if (!see(m, m->unseen[i].tid) && !has_run(&m->unseen[i]))
			m->unseen[left++] = m->unseen[i];
	m->count = left;
}

static int is_concerned(const struct movers *m)
{
	int only_itself = m->anywhere == 1 && m->away == 1 && m->swaps == 1;

	return m->onto || (m->away && m->of->op == KEEPER_MOVES_AWAY) ||
	       (m->anywhere && m->away && !only_itself);
}

int movers_concern(const struct keeper_question *q)
{
	uint64_t until = sys_now_ns() + LOOK_MS * 1000000u;
	struct movers m = { .of = q };
	int ret = procfs_each_thread(q->tid, first_look, &m);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; m.count && !is_concerned(&m) && sys_now_ns() < until; i++) {
		sys_poll(NULL, 0, i >= QUICK_LOOKS);
		look_again(&m);
	}
	/* somebody waits, or something would not be about to be told: one who is no thread of
	 * that process (CLONE_VM), or whom the list has left out, since another ended */
	return is_concerned(&m) ? 1 : m.count ? 2 : !m.waiting;
}

static int is_waiting(void *arg, int tid)
{
	const struct keeper_question *q = arg;

	return tid != q->but && procfs_sleeps_in(tid, EVENT);
}

int movers_wait(const struct keeper_question *q)
{
	struct keeper_question copy = *q;

	return procfs_each_thread(q->tid, is_waiting, &copy);
}
