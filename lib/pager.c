/*
 * The pager's life, and the questions.
 *
 * It waits by epoll(7): reading userfaultfds by io_uring(7) instead, one system call a
 * fault rather than three, was tried and is no faster, for what a fault costs is two
 * switches between processes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>

#include "compat.h"
#include "cowfork.h"
#include "pager.h"
#include "pager-run.h"
#include "process.h"
#include "procfs.h"
#include "sys.h"
#include "uffd.h"

#define STACK_SIZE ((size_t)128 << 10)
#define TLS_SIZE ((size_t)16 << 10)	/* what is never used, on both sides of its base */
#define IDLE_MS 1000			/* has the program become another by execve(2)? */
#define DEAF_MS 10			/* a child may wait so long that epoll has no room for */
#define BUDGET 64u			/* of its faults before children have a turn */
#define BEGIN_NS 100000000u
#define END_MS 2000
#define OWN_FILES 24u			/* more than pager and keeper open for themselves */

int pager_ever;
static const struct pager_areas none;
static const struct pager_shared *seen;	/* of the process's own pager, or its parent's */

static size_t shared_size(void)
{
	return sys_whole_pages(sizeof(struct pager_shared));
}

/* In memory: the bell, the stack, thread-local storage, struct pager. */
static size_t block_size(void)
{
	return sys_whole_pages(sys_page_size() + STACK_SIZE + TLS_SIZE + sizeof(struct pager));
}

/* --- the pager's side --------------------------------------------------- */

void pager_answer(struct pager *p, int answer)
{
	size_t done;

	p->answer = answer;
	atomic_store(&p->answered, p->asked);
	(void)uffd_zero(p->bell, p->bell_page, sys_page_size(), &done);
}

static void question(struct pager *p)
{
	struct uffd_msg m;

	if (!uffd_read(p->bell, &m))
		return;
	if (atomic_load(&p->answered) == p->asked) {	/* another thread looked */
		pager_answer(p, p->answer);
		return;
	}
	switch (p->op) {
	case PAGER_ARM:
	case PAGER_ARM_LAZY:
		pager_answer(p, area_arm(p, p->start, p->end, p->op == PAGER_ARM_LAZY));
		break;
	case PAGER_GIVE:
		area_give(p, p->start, p->end);
		p->announced = (struct pager_area){ p->start, p->end };
		pager_answer(p, 0);
		break;
	case PAGER_GIVEN:	/* it was told of before this, or the call had not ended */
		p->announced.end = 0;
		pager_answer(p, 0);
		break;
	case PAGER_LEAVE:
		area_leave(p, p->start, p->end);
		pager_answer(p, 0);
		break;
	case PAGER_END:
		area_leave(p, 0, UINTPTR_MAX);
		kids_sweep(p);
		kids_poison(p);
		p->unwanted = 1;
		p->ends = !kids_lack(p);
		pager_answer(p, p->ends ? 0 : -EBUSY);
		break;
	case PAGER_OPEN:
		window(p);
		break;
	case PAGER_CLOSE:
	case PAGER_NOTHING:
		pager_answer(p, 0);
		break;
	}
}

static void forget_program(struct pager *p)
{
	if (p->pidfd >= 0)
		sys_close(p->pidfd);
	p->pidfd = -1;
}

static void serve(struct pager *p, uint64_t data)
{
	uint64_t start = sys_now_ns();

	if (data == 0)
		for (unsigned i = 0; i < BUDGET && parent_event(p); i++)
			;
	else if (data == 1)
		question(p);
	else if (data == 2)
		forget_program(p);
	else
		kid_comes(p, data);
	kids_hurry(p);
	parent_wake(p);
	if (data != 1)
		atomic_fetch_add(&p->news.ns, sys_now_ns() - start);
}

/* Its memory is for the children alone now, if there are any; or so it has been told. */
static int is_needed(struct pager *p)
{
	if (!p->unwanted && !sys_alone_in_mm())
		return 1;
	kids_sweep(p);
	return kids_lack(p);
}

static void run(struct pager *p)
{
	struct epoll_event events[16];
	int n, lives;

	do {
		lives = p->pidfd >= 0;
		n = sys_epoll_wait(p->epoll, events, 16, p->deaf ? DEAF_MS : IDLE_MS);
		for (int i = 0; i < n; i++)
			serve(p, events[i].data.u64);
		if (p->deaf)
			kids_come(p);
		if (n == 0)
			copies_rest(p);
	} while (!p->ends && ((n > 0 && lives == (p->pidfd >= 0)) || is_needed(p)));
}

/* Of a descriptor below 10. No snprintf(3): it looks at thread-local storage. */
static int open_fdinfo(int fd)
{
	char path[] = "/proc/self/fdinfo/0";

	path[sizeof(path) - 2] = (char)('0' + fd);
	return fd < 10 ? sys_open(path, O_RDONLY) : -EMFILE;
}

/* 0 is for the epoll: no child has that number. */
static int open_all(struct pager *p)
{
	unsigned files;
	int ret;

	sys_close_range(0, ~0u, 0);
	files = sys_many_files(FILES);
	p->most = files < KIDS + OWN_FILES ? files - OWN_FILES : KIDS;
	if (files <= OWN_FILES)
		return -EMFILE;
	p->epoll = sys_epoll_create();
	if (p->epoll)
		return -EMFILE;
	if (procfs_self() != p->self)
		return -ESRCH;
	p->pidfd = sys_pidfd_open(p->parent);
	p->mem = sys_open("/proc/self/mem", O_RDONLY);
	if (p->mem < 0)
		return p->mem;
	p->pagemap = sys_open("/proc/self/pagemap", O_RDONLY);
	if (p->pagemap < 0)
		return p->pagemap;
	p->uffd = uffd_open_in_place();
	if (p->uffd < 0)
		return p->uffd;
	p->bell = uffd_open_bell();
	if (p->bell < 0)
		return p->bell;
	p->fdinfo = open_fdinfo(p->uffd);
	if (p->fdinfo < 0)
		return p->fdinfo;
	ret = uffd_register(p->bell, p->bell_page, sys_page_size(),
			    UFFDIO_REGISTER_MODE_MISSING);
	if (ret == 0)
		ret = sys_epoll_add(p->epoll, p->uffd, 0);
	if (ret == 0)
		ret = sys_epoll_add(p->epoll, p->bell, 1);
	if (ret == 0 && p->pidfd >= 0)
		ret = sys_epoll_add(p->epoll, p->pidfd, 2);
	p->shared->uffd = p->uffd;
	p->shared->bell = p->bell;
	return ret;
}

static int main_of_pager(void *arg)
{
	struct pager *p = arg;

	p->self = sys_getpid();
	copies_begin(p);
	sys_name_thread("cowfork-pager");
	sys_hurry();	/* whoever faults waits for it */
	sys_new_session();
	sys_go_to_root();
	if (open_all(p) < 0)
		p->why = COW_REASON_UFFD;
	/* before there is anything of which the kernel would tell */
	else if (keeper_start(p) < 0 || jail_pager() < 0)
		p->why = COW_REASON_THREAD;
	files_own(p->shared);
	atomic_store(&p->state, p->why ? PAGER_FAILED : PAGER_RUNS);
	sys_futex_wake(&p->state);
	if (!p->why)
		run(p);
	keeper_end(p);
	sys_exit(0);
}

/* --- the program's side ------------------------------------------------- */

static void unmap(uintptr_t start, size_t len)
{
	if (start)
		sys_munmap(start, len);
}

/* It ends by itself, or is killed: not by the program, whose user may be another by now. Where
 * it does not, its memory stays. */
static void undo(struct pager *p)
{
	uintptr_t shared = (uintptr_t)p->shared, visible = (uintptr_t)p->seen;

	if (p->pid > 0 && !sys_reap_within(p->pid, END_MS))
		return;
	unmap(p->bell_page, block_size());
	unmap(shared, shared_size());
	unmap(visible, shared_size());
}

static uintptr_t map_shared(int fd, int prot)
{
	long p = sys_mmap(0, shared_size(), prot, MAP_SHARED, fd, 0);

	return sys_failed(p) ? 0 : (uintptr_t)p;
}

/* Children can read it, and never write: the seal takes even the right to ask for that. */
static const struct pager_shared *make_shared(struct pager *p)
{
	const int seals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	const struct pager_shared *to_see = NULL;
	struct rlimit limit;
	int fd = -EFBIG;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur >= shared_size())
		fd = sys_memfd("pager-cowfork");
	if (fd < 0)
		return NULL;
	if (sys_ftruncate(fd, (off_t)shared_size()) == 0) {
		p->shared = (struct pager_shared *)map_shared(fd, PROT_READ | PROT_WRITE);
		if (sys_seal(fd, seals) == 0)
			to_see = (const struct pager_shared *)map_shared(fd, PROT_READ);
	}
	sys_close(fd);
	return to_see;
}

/* Nothing of this is in a child, but for what it may see. */
static struct pager *make(void)
{
	long block = sys_mmap(0, block_size(), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct pager *p;

	if (sys_failed(block))
		return NULL;
	sys_madvise((uintptr_t)block, block_size(), MADV_DONTFORK);
	sys_madvise((uintptr_t)block, block_size(), MADV_DONTDUMP);
	p = (struct pager *)((uintptr_t)block + sys_page_size() + STACK_SIZE + TLS_SIZE);
	p->bell_page = (uintptr_t)block;
	p->bytes = block_size();
	p->seen = make_shared(p);
	if (p->seen && p->shared &&
	    sys_madvise((uintptr_t)p->shared, shared_size(), MADV_DONTFORK) == 0)
		return p;
	undo(p);
	return NULL;
}

/* A compiler's stack protector, and nothing else, reads what this points at. */
static void *fake_tls(struct pager *p)
{
	void **base = (void **)((uintptr_t)p - TLS_SIZE / 2);

	base[0] = base[2] = base;	/* as on x86-64 */
	return base;
}

static int has_begun(struct pager *p)
{
	unsigned state;

	while ((state = atomic_load(&p->state)) == PAGER_BEGINS) {
		sys_futex_wait(&p->state, PAGER_BEGINS, BEGIN_NS);
		if (!sys_lives(p->pid))
			return 0;
	}
	return state == PAGER_RUNS;
}

int pager_why_not(void)
{
	struct pager_of_life *mine = &process.life->pager;
	int uffd;

	if (mine->it || mine->reason)
		return mine->reason;
	if (procfs_is_filtered())	/* and may kill it */
		return mine->reason = COW_REASON_SANDBOX;
	uffd = uffd_open_in_place();
	if (uffd == -EPERM || uffd == -ENOSYS || uffd == -EINVAL)
		return mine->reason = COW_REASON_UFFD;
	if (uffd >= 0)
		sys_close(uffd);
	return COW_REASON_NONE;
}

int pager_start(void)
{
	struct pager_of_life *mine = &process.life->pager;
	struct pager *p;

	if (mine->it)
		return 0;
	if (pager_why_not())
		return mine->reason;
	if (process.life->parting)
		return COW_REASON_PRIVILEGES;
	p = make();
	if (!p)
		return COW_REASON_ADDRESS;
	areas_set(&pager_lists, &none);
	p->parent = sys_getpid();
	p->tells_lengths = sys_kernel_is(6, 15);	/* by thread-local storage, so not there */
	p->pid = clone(main_of_pager, (void *)((uintptr_t)p - TLS_SIZE),
		       CLONE_VM | CLONE_SETTLS, p, NULL, fake_tls(p), NULL);
	if (p->pid < 0 || !has_begun(p)) {
		mine->reason = p->pid > 0 && p->why ? (int)p->why : COW_REASON_THREAD;
		undo(p);
		return mine->reason;
	}
	unmap((uintptr_t)seen, shared_size());	/* of an ancestor's, or one that was lost */
	seen = p->seen;
	mine->it = p;
	mine->news = &p->news;
	pager_ever++;
	return 0;
}

int pager_is_inherited(void)
{
	const struct pager_of_life *mine = &process.life->pager;

	return pager_ever > (mine->it != NULL) + (int)mine->lost;
}

void pager_count(struct cow_stats *st, const struct pager_news *n)
{
	st->pager_faults += atomic_load(&n->faults);
	st->pager_bytes += atomic_load(&n->bytes);
	st->pager_ns += atomic_load(&n->ns);
	st->pager_killed += atomic_load(&n->killed);
}

int pager_end(enum cow_reason why)
{
	struct pager *p = process.life->pager.it;
	int ret = pager_ask(PAGER_END, 0, 0);

	if (ret != -EPIPE)
		process.life->pager.reason = (int)why;
	if (ret < 0)
		return ret;
	pager_count(&process.life->stats, &p->news);	/* it stays */
	process.life->pager = (struct pager_of_life){ .reason = (int)why };
	seen = NULL;
	undo(p);
	return 0;
}

/* The keeper has let its memory go, or the kernel has with the last descriptor. */
static int forget(struct pager *p)
{
	const struct pager_areas *all = areas_now(&p->shared->areas);	/* moved ones too */
	struct pager_of_life *mine = &process.life->pager;

	for (const struct pager_area *a = all->at; a < all->at + all->count; a++) {
		sys_madvise(a->start, a->end - a->start, MADV_KEEPONFORK);
		sys_madvise(a->start, a->end - a->start, MADV_DOFORK);
	}
	areas_set(&pager_lists, &none);
	if (mine->reason)	/* it was to end */
		*mine = (struct pager_of_life){ .reason = mine->reason, .lost = mine->lost };
	else
		*mine = (struct pager_of_life){ .reason = COW_REASON_PAGER,
						.lost = mine->lost + 1 };
	process_native((enum cow_reason)mine->reason);
	pager_count(&process.life->stats, &p->news);	/* it stays */
	sys_probe_kill(p->pid);
	unmap((uintptr_t)p->shared, shared_size());
	if (sys_reap_within(p->pid, END_MS))	/* what children see stays */
		unmap(p->bell_page, block_size());
	return -EPIPE;
}

/* mlockall(2) locks it as well. */
static void lift_bell(uintptr_t page)
{
	if (sys_madvise(page, sys_page_size(), MADV_DONTNEED) == 0)
		return;
	sys_munlock(page, sys_page_size());
	sys_madvise(page, sys_page_size(), MADV_DONTNEED);
}

int pager_ask(enum pager_op op, uintptr_t start, uintptr_t end)
{
	struct pager *p = process.life->pager.it;

	if (!p)
		return -EPIPE;
	p->op = op;
	p->start = start;
	p->end = end;
	p->asker = sys_gettid();
	p->alone = __libc_single_threaded;
	p->asked++;
	lift_bell(p->bell_page);
	(void)*(volatile char *)p->bell_page;
	return atomic_load(&p->answered) == p->asked ? p->answer : forget(p);
}

int pager_moves(void)
{
	const struct pager *p = process.life->pager.it;

	return p && atomic_load(&p->moving);
}

int pager_is_open(void)
{
	const struct pager *p = process.life->pager.it;

	return p && atomic_load(&p->shared->open);
}

/* Written where it changes, for a child has a copy of it. */
static int opens;

void pager_opens(int it_does)
{
	if (opens != it_does)
		opens = it_does;
}

IN_CHILD void pager_in_child(void)
{
	static const char last[] = "cowfork: the pager was lost while a child was made, which "
				   "ends\n";

	if (!opens)
		return;
	each_area(a)
		sys_madvise(a->start, a->end - a->start, MADV_KEEPONFORK);
	if (!atomic_load(&seen->lost) || !atomic_load(&seen->open))
		return;
	(void)sys_write(2, last, sizeof(last) - 1);
	sys_probe_kill(sys_getpid());
}
