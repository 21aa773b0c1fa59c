/*
 * Children of a worker. A child touches nothing but the memory under test, side
 * mappings and its stack, and leaves by _exit: 0, or 1 with a wrong byte noted.
 * It dies with the worker.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compare.h"

static void child_main(struct bench *b, child_body *body, void *arg)
{
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != b->pid)	/* it died before that */
		_exit(0);
	ret = body(arg);
	if (ret < 0)
		b->memory.wrong->in_child = 1;
	_exit(ret < 0);
}

pid_t child_start(struct bench *b, struct reply *reply, child_body *body, void *arg)
{
	pid_t pid = b->engine->fork();

	if (pid == 0)
		child_main(b, body, arg);
	if (pid < 0)
		return reply_fail(reply, "fork: %s", strerror(errno));
	return pid;
}

int child_end(const struct bench *b, struct reply *reply, pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return reply_fail(reply, "wait: %s", strerror(errno));
	if (WIFSIGNALED(status))
		return reply_fail(reply, "a child was killed: %s",
				  strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status) == CHILD_NO_MEMORY)
		return reply_fail(reply, "a child had no memory to check with");
	if (WEXITSTATUS(status))
		return reply_wrong(reply, &b->memory);
	return 0;
}
