/*
 * Operations that make and await processes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cowfork.h"
#include "diff-beside.h"
#include "diff-run.h"

extern char **environ;

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

/* Who works meanwhile. */
static enum beside_kind beside_of(unsigned how)
{
	switch (how) {
	case FORK_WRITER:
		return BESIDE_WRITER;
	case FORK_MAPPER:
		return BESIDE_MAPPER;
	case FORK_ALLOCATOR:
		return BESIDE_ALLOCATOR;
	default:
		return BESIDE_NOBODY;
	}
}

int do_fork(struct world *w, const struct op *op)
{
	unsigned how = (unsigned)op->v[1] % FORK_COUNT;
	struct beside b = { .kind = beside_of(how) };
	int ret = 0;
	pid_t pid;

	if (op->v[0] <= w->proc || op->v[0] >= PROCS_MAX || w->children == CHILDREN_MAX)
		return SKIPPED;
	if (b.kind == BESIDE_WRITER)
		b.slot = slot_of(w, op->v[2]);
	if (b.slot && !b.slot->at)
		return SKIPPED;
	if (b.kind && beside_start(&b))
		return WRONG;
	pid = fork_by((int)how);
	if (pid == 0)
		become(w, op->v[0], b.slot);
	ret = outcome(pid);
	if (b.kind && beside_end(&b))
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
