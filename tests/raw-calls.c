/*
 * Each kind of memory and each raw call, see raw-calls.h, held against the same on plain
 * memory: what differs must be what raw-calls-known.c says, no more and no less. So a mend
 * takes a letter from there.
 *
 *	raw-calls [-v] [CALL [KIND]]
 *
 * -v shows what was seen wherever that differs.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cowfork.h"
#include "raw-calls.h"
#include "raw-calls-known.h"

#define AT_ONCE 3
#define TIMEOUT_MS 10000
#define HANGS 256		/* a status that no process has */

/* --- running them ------------------------------------------------------- */

struct job {
	enum kind kind;
	int weighs;
	pid_t pid;
	int status;
	struct timespec began;
};

static struct notes *notes;	/* of each kind */
static struct job jobs[2 * KINDS];
static int jobs_count;

static long ms_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000 + (now.tv_nsec - then->tv_nsec) / 1000000;
}

static void start(struct job *j, const struct call *call)
{
	fflush(NULL);
	clock_gettime(CLOCK_MONOTONIC, &j->began);
	j->pid = fork();
	if (j->pid == 0)
		run_cell(j->kind, call, &notes[j->kind], j->weighs);
	if (j->pid < 0)
		give_up("fork");
}

/* 1: it is over. */
static int is_over(struct job *j)
{
	int status, hangs = ms_since(&j->began) > TIMEOUT_MS;
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)j->pid, &info, WEXITED | WNOWAIT | (hangs ? 0 : WNOHANG)) < 0)
		give_up("wait");
	if (!info.si_pid)
		return 0;
	kill(-j->pid, SIGKILL);	/* what is left of it */
	waitpid(j->pid, &status, 0);
	j->status = hangs ? HANGS : WIFSIGNALED(status) ? 128 + WTERMSIG(status)
							: WEXITSTATUS(status);
	j->pid = 0;
	return 1;
}

static void run_all(const struct call *call)
{
	const struct timespec nap = { .tv_nsec = 300000 };
	int next = 0, running = 0;

	while (next < jobs_count || running) {
		for (; next < jobs_count && running < AT_ONCE; running++)
			start(&jobs[next++], call);
		for (int i = 0; i < next; i++) {
			struct job *j = &jobs[i];

			if (j->pid && ms_since(&j->began) > TIMEOUT_MS)
				kill(-j->pid, SIGKILL);
			running -= j->pid && is_over(j);
		}
		nanosleep(&nap, NULL);
	}
}

static void add_job(enum kind kind, int weighs)
{
	jobs[jobs_count++] = (struct job){ .kind = kind, .weighs = weighs };
}

static void begin(const struct call *call, int only)
{
	jobs_count = 0;
	for (int k = 0; k < KINDS; k++) {
		struct notes *n = &notes[k];

		memset(n, 0, sizeof(*n));
		n->called = n->late = n->undone = n->freed = NOT_DONE;
		n->forks[0] = n->forks[1] = n->forks[2] = NOT_DONE;
		if (only >= 0 && k != only && k != (int)plain_of((enum kind)only))
			continue;
		add_job((enum kind)k, 0);
		if (call->flags & FREES && (!is_child((enum kind)k)))
			add_job((enum kind)k, 1);
	}
}

/* --- comparing ---------------------------------------------------------- */

static int is_childs(int which)
{
	return which >= LOOK_CHILD && which < LOOK_THAWED && (which - LOOK_CHILD) % 4 < 3;
}

static void add_letter(char *letters, char letter)
{
	if (!strchr(letters, letter))
		letters[strlen(letters)] = letter;
}

static int is_fault(char seen)
{
	return seen == 'X' || seen == 'B';
}

static char difference(char is, char should, int flags)
{
	if (!is || is == should)
		return 0;
	if (flags & MAY_STAY && (is == '.' || is == '1') && (should == '.' || should == '1'))
		return 0;
	if (is_fault(is))
		return 'C';
	return is_fault(should) || !should ? 'O' : 'W';
}

static void compare_looks(const struct notes *is, const struct notes *should, int flags,
			  char *letters)
{
	for (int l = 0; l < LOOKS; l++)
		for (size_t i = 0; i < sizeof(is->seen[l]); i++) {
			char d = difference(is->seen[l][i], should->seen[l][i], flags);

			if (d && l == LOOK_PARENT)
				add_letter(letters, 'P');
			else if (d)
				add_letter(letters, is_childs(l) ? (char)(d | 32) : d);
		}
}

static void compare(const struct call *call, enum kind kind, int status, char *letters)
{
	const struct notes *is = &notes[kind], *should = &notes[plain_of(kind)];

	if (status == HANGS)
		add_letter(letters, 'H');
	else if (status)
		add_letter(letters, 'K');
	if (is->called != should->called && !(call->flags & LOOSE))
		add_letter(letters, 'E');
	compare_looks(is, should, call->flags, letters);
	for (int i = 0; i < 3; i++)
		if (is->forks[i] != should->forks[i])
			add_letter(letters, 'F');
	if (is->late != should->late)
		add_letter(letters, 'L');
	if (is->undone != should->undone)
		add_letter(letters, 'U');
	if (is->freed != NOT_DONE && is->freed < should->freed / 2)
		add_letter(letters, 'M');
}

/* --- telling ------------------------------------------------------------ */

static void print_look(const char *seen)
{
	for (size_t i = 0, n; i < PAGES + PAGES_ELSEWHERE; i += n) {
		size_t end = i < PAGES ? PAGES : PAGES + PAGES_ELSEWHERE, unit = 1;

		for (n = 1; i + n < end && seen[i + n] == seen[i]; n++)
			;
		for (unit = 5; n < 5 && i + unit < end && seen[i + unit] == seen[i + unit - 5];)
			unit++;
		if (n < 5 && unit >= 15) {
			printf(" (%.5s)*%zu", seen + i, unit / 5);
			n = unit;
		} else if (seen[i]) {
			printf(" %c*%zu", seen[i], n);
		}
		if (i < PAGES && i + n >= PAGES)
			printf(" |");
	}
	printf("\n");
}

static void show(const struct call *call, enum kind kind)
{
	const struct notes *is = &notes[kind], *should = &notes[plain_of(kind)];

	printf("  called %ld (%ld), late %ld (%ld), undone %ld (%ld), freed %ld (%ld)\n"
	       "  forks %d %d %d (%d %d %d), last step %d (%d)\n",
	       is->called, should->called, is->late, should->late, is->undone, should->undone,
	       is->freed, should->freed, is->forks[0], is->forks[1], is->forks[2],
	       should->forks[0], should->forks[1], should->forks[2], is->step, should->step);
	for (int l = 0; l < LOOKS; l++) {
		char letters[16] = { 0 };

		for (size_t i = 0; i < sizeof(is->seen[l]); i++) {
			char d = difference(is->seen[l][i], should->seen[l][i], call->flags);

			if (d)
				add_letter(letters, d);
		}
		if (!*letters)
			continue;
		printf("  look %d (%s): is    ", l, letters);
		print_look(is->seen[l]);
		printf("              should be");
		print_look(should->seen[l]);
	}
}

static int is_same_set(const char *a, const char *b)
{
	return strlen(a) == strlen(b) && strspn(a, b) == strlen(a);
}

/* Did the call do on plain memory what it is to do there? */
static int is_there(const struct call *call, const struct job *plain)
{
	long ret = notes[plain->kind].called;

	if (plain->status) {
		printf("plain memory itself: %s, %s: status %d\n", call->name,
		       kind_names[plain->kind], plain->status);
		exit(1);
	}
	return call->flags & (REFUSED | LOOSE) || ret >= 0 || ret == NOT_DONE;
}

static int check(const struct call *call, enum kind kind, int status, int verbose)
{
	const char *known = known_of(call->name, kind);
	char letters[16] = { 0 };

	compare(call, kind, status, letters);
	if (verbose && *letters) {
		printf("%s, %s: %s\n", call->name, kind_names[kind], letters);
		show(call, kind);
	}
	if (is_same_set(letters, known))
		return 0;
	printf("%s, %s: differs by \"%s\", known is \"%s\"\n", call->name, kind_names[kind],
	       letters, known);
	return 1;
}

static int run_call(const struct call *call, int only, int verbose)
{
	int bad = 0, skipped = 0, status[KINDS] = { 0 }, there[KINDS] = { 0 };

	begin(call, only);
	run_all(call);
	for (int i = 0; i < jobs_count; i++) {
		struct job *j = &jobs[i];

		status[j->kind] |= j->status;
		if (is_plain(j->kind) && !j->weighs)
			there[j->kind] = is_there(call, j);
		else if (is_plain(j->kind) || j->weighs)
			continue;
		else
			skipped += !there[plain_of(j->kind)];
	}
	for (int k = FIRST_KIND; k < KINDS; k++)
		if ((only < 0 || k == only) && there[plain_of((enum kind)k)])
			bad += check(call, (enum kind)k, status[k], verbose);
	if (skipped && strcmp(call->name, "brk"))
		printf("%s: not on this machine (%ld)\n", call->name, notes[PLAIN].called);
	return bad;
}

static int kind_named(const char *name)
{
	for (int k = 0; k < KINDS; k++)
		if (!strcmp(kind_names[k], name))
			return k;
	printf("no kind %s\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	struct cow_facilities f = { .size = sizeof(f) };
	int verbose = argc > 1 && !strcmp(argv[1], "-v"), bad = 0;
	const char *name = argc > 1 + verbose ? argv[1 + verbose] : NULL;
	int only = argc > 2 + verbose ? kind_named(argv[2 + verbose]) : -1;
	pid_t pid = fork();	/* here the library is not to be used */

	if (pid == 0)
		_exit(cow_facilities(&f) < 0 || !f.in_place || !f.remap || !f.pagemap);
	if (wait_for(pid) != 0) {
		printf("skip: no userfaultfd for the in-place engine, or no pagemap\n");
		return 77;
	}
	notes = mmap(NULL, sizeof(*notes) * KINDS, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (notes == MAP_FAILED)
		give_up("no memory");
	for (int i = 0; i < calls_count; i++)
		if (!name || !strcmp(name, calls[i].name))
			bad += run_call(&calls[i], only, verbose);
	printf("%d cells differ from what is known\n", bad);
	return bad != 0;
}
