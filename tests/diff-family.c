/*
 * Operations that make and await processes, and threads beside a fork.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-run.h"
#include "diff-state.h"

#define STACK_SIZE (128ul << 10)

extern char **environ;

/* --- a thread that is busy while its process forks ----------------------- */

struct helper {
	pthread_t thread;
	struct slot *slot;	/* to write; NULL: it maps and unmaps */
	atomic_int stop, rounds;
	int wrong;
};

static void write_slot(struct slot *s, int value)
{
	for (int i = 0; i < s->pages; i++)
		if (may_write(&s->page[i]))
			memset(s->at + (size_t)i * PAGE + 64, value, 256);
}

static int map_and_unmap(int round)
{
	size_t len = (size_t)(1 + round % 90) * PAGE;
	unsigned char *p = cow_mmap(NULL, len, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int wrong = 0;

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < len; i += PAGE) {
		wrong |= p[i];
		p[i] = (unsigned char)(round | 1);
	}
	if (round & 1 && cow_madvise(p, len, MADV_DONTNEED) == 0)
		wrong |= p[0] | p[len - PAGE];
	return wrong | (cow_munmap(p, len) < 0);
}

static void *help(void *arg)
{
	struct helper *h = arg;

	for (int i = 0; !atomic_load(&h->stop); i++) {
		if (h->slot)
			write_slot(h->slot, i);
		else
			h->wrong |= map_and_unmap(i);
		atomic_fetch_add(&h->rounds, 1);
	}
	return NULL;
}

static int helper_start(struct helper *h)
{
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	ret = pthread_create(&h->thread, &attr, help, h);
	pthread_attr_destroy(&attr);
	while (!ret && !atomic_load(&h->rounds))
		usleep(20);
	return ret;
}

/* What it wrote in the parent is not for anybody to know: write it again. */
static int helper_end(struct helper *h)
{
	atomic_store(&h->stop, 1);
	pthread_join(h->thread, NULL);
	if (h->slot)
		write_slot(h->slot, 99);
	return h->wrong;
}

/* --- fork --------------------------------------------------------------- */

static pid_t fork_between(void)
{
	pid_t pid;

	if (cow_fork_enter() < 0)
		return -1;
	pid = _Fork();
	if (pid == 0)
		cow_fork_child();
	else
		cow_fork_parent();
	return pid;
}

/* Memory is what it was, but for what fork leaves out or wipes. */
static void inherit(struct slot *s)
{
	for (int i = 0; s->at && i < s->pages; i++) {
		struct page *page = &s->page[i];

		if (page->flags & PAGE_DONTFORK)
			*page = (struct page){ .flags = page->flags & PAGE_REGION };
		/* the kernel wipes guards too, or never knew of them */
		if (page->flags & PAGE_GUARD &&
		    (page->flags & PAGE_WIPED || page->back == BACK_SHARED))
			page->flags |= PAGE_UNKNOWN;
	}
	if (s->at)
		slot_trim(s);
}

static void become(struct world *w, int proc, struct slot *racing)
{
	if (racing) {
		racing->at = NULL;
		racing->region = NULL;
		racing->pages = 0;
	}
	world_lock(w, 0);	/* children inherit none */
	for (int i = 0; i < SLOTS; i++)
		inherit(&w->slot[i]);
	w->proc = proc;
	w->children = 0;
	run_in_time();
	process_run(w);
	_exit(0);
}

static pid_t fork_by(int how)
{
	switch (how) {
	case FORK_PLAIN:
		return fork();
	case FORK_ENTER:
		return fork_between();
	default:
		return cow_fork();
	}
}

/* Beside a thread that writes what is thawed, or maps and unmaps. Whether a thaw can
 * be had is the library's. */
int do_thaw(struct world *w, const struct op *op)
{
	struct slot *s = slot_of(w, op->v[0]);
	struct helper h = { .slot = s && s->at ? s : NULL };

	if (helper_start(&h))
		return WRONG;
	(void)!cow_thaw();
	return helper_end(&h) ? WRONG : 0;
}

int do_fork(struct world *w, const struct op *op)
{
	unsigned how = (unsigned)op->v[1] % FORK_COUNT;
	struct helper h = { .slot = how == FORK_WRITER ? slot_of(w, op->v[2]) : NULL };
	int ret = 0, with_thread = how == FORK_WRITER || how == FORK_MAPPER;
	pid_t pid;

	if (op->v[0] <= w->proc || op->v[0] >= PROCS_MAX || w->children == CHILDREN_MAX)
		return SKIPPED;
	if (h.slot && !h.slot->at)
		return SKIPPED;
	if (with_thread && helper_start(&h))
		return WRONG;
	pid = fork_by((int)how);
	if (pid == 0)
		become(w, op->v[0], h.slot);
	ret = outcome(pid);
	if (with_thread && helper_end(&h))
		ret = WRONG;
	if (pid > 0)
		w->child[w->children++] = pid;
	return ret;
}

int do_wait(struct world *w, const struct op *op)
{
	int result = 0, status;

	(void)op;
	for (int i = 0; i < w->children; i++) {
		status = -1;
		waitpid(w->child[i], &status, 0);
		result = result * 31 + status;
	}
	w->children = 0;
	return result;
}

/* --- exec --------------------------------------------------------------- */

static char *const command[] = { "/bin/true", NULL };

static int await(pid_t pid)
{
	int status = -1;

	return pid < 0 || waitpid(pid, &status, 0) != pid ? WRONG : status;
}

int do_exec(struct world *w, const struct op *op)
{
	pid_t pid;

	(void)w;
	switch ((unsigned)op->v[0] % EXEC_COUNT) {
	case EXEC_VFORK:
		pid = vfork();
		break;
	case EXEC_FORK:
		pid = cow_fork();
		break;
	default:
		if (posix_spawn(&pid, *command, NULL, NULL, command, environ))
			return WRONG;
		break;
	}
	if (pid == 0) {
		execv(*command, command);
		_exit(127);
	}
	return await(pid);
}
