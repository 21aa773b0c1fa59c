/*
 * One cell: the memory, what is done to it and what is seen, in this process and its
 * children.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cowfork.h"
#include "raw-calls.h"

const char *const kind_names[KINDS] = {
	"plain", "plain, child", "plain heap", "plain heap, child", "owned", "frozen",
	"child's", "inherited", "adopted", "adopted, child", "heap", "heap, child", "armed",
	"armed, child",
};

/* --- pages -------------------------------------------------------------- */

static uint64_t tag(size_t index, char who)
{
	return (index + 1) * 0x9e3779b97f4a7c15u << 8 | (unsigned char)who;
}

void write_page(char *page, size_t index, char who)
{
	volatile uint64_t *p = (uint64_t *)page;

	p[0] = p[255] = p[511] = tag(index, who);
}

/* Who wrote it, '.' for nobody; a letter for a page of another place. */
static char who_wrote(const char *page, size_t index)
{
	const volatile uint64_t *p = (const uint64_t *)page;
	uint64_t first = p[0], middle = p[255], last = p[511];
	char who = (char)(first & 255);

	if (first != middle || middle != last)
		return '?';
	if (!first)
		return '.';
	return first == tag(index, who) ? who : (char)(who - '1' + 'a');
}

static sigjmp_buf faulted;

static void on_fault(int sig)
{
	siglongjmp(faulted, sig);
}

static void catch_faults(void)
{
	const struct sigaction act = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static char look_at(const char *page, size_t index)
{
	int sig = sigsetjmp(faulted, 0);

	if (sig)
		return sig == SIGBUS ? 'B' : 'X';
	return who_wrote(page, index);
}

static void look(const struct cell *c, int which)
{
	char *seen = c->notes->seen[which];

	c->notes->step = which;
	for (size_t i = 0; i < PAGES; i++)
		seen[i] = look_at(c->area + i * PAGE, i);
	for (size_t i = 0; i < c->elsewhere_size / PAGE; i++)
		seen[PAGES + i] = look_at(c->elsewhere + i * PAGE, i + c->shift / PAGE);
}

static void try_write(char *page, size_t index, char who)
{
	if (!sigsetjmp(faulted, 0))
		write_page(page, index, who);
}

/* Every fifth page, from two of five on. */
static void write_some(const struct cell *c, char who, unsigned turn)
{
	for (size_t i = 0; i < PAGES + c->elsewhere_size / PAGE; i++) {
		size_t at = i < PAGES ? i : i - PAGES;

		if (at % 5 != turn % 5 && at % 5 != (turn + 1) % 5)
			continue;
		if (i < PAGES)
			try_write(c->area + at * PAGE, at, who);
		else
			try_write(c->elsewhere + at * PAGE, at + c->shift / PAGE, who);
	}
}

/* --- kinds -------------------------------------------------------------- */

_Noreturn void give_up(const char *what)
{
	fprintf(stderr, "raw-calls: %s: %s\n", what, strerror(errno));
	_exit(99);
}

int is_plain(enum kind kind)
{
	return kind < FIRST_KIND;
}

static int is_heap(enum kind kind)
{
	return kind == HEAP || kind == HEAP_CHILD || kind == PLAIN_HEAP || kind == PLAIN_HEAP_CHILD;
}

int is_child(enum kind kind)
{
	return kind == PLAIN_CHILD || kind == PLAIN_HEAP_CHILD || kind == CHILDS ||
	       kind == INHERITED || kind == ADOPTED_CHILD || kind == HEAP_CHILD ||
	       kind == ARMED_CHILD;
}

enum kind plain_of(enum kind kind)
{
	if (is_heap(kind))
		return is_child(kind) ? PLAIN_HEAP_CHILD : PLAIN_HEAP;
	return is_child(kind) ? PLAIN_CHILD : PLAIN;
}

static int is_adopted(enum kind kind)
{
	return kind >= ADOPTED && kind <= ARMED_CHILD;
}

static pid_t fork_of(enum kind kind)
{
	return is_plain(kind) ? fork() : cow_fork();
}

static void set_options(enum kind kind)
{
	struct cow_options o = { .size = sizeof(o) };

	if (cow_options_get(&o) < 0)
		give_up("options");
	o.engine = kind >= ARMED ? COW_ENGINE_IN_PLACE : COW_ENGINE_STORE;
	o.adopt = COW_ADOPT_NEVER;
	o.huge = COW_HUGE_NEVER;
	o.min_size = MIB;
	if (cow_options_set(&o) < 0)
		give_up("options");
}

static char *get_heap(void)
{
	uintptr_t end = (uintptr_t)sbrk(0), start = (end + 2 * MIB) & ~(2 * MIB - 1);

	return brk((void *)(start + ALL)) < 0 ? MAP_FAILED : (char *)start;
}

/* At a table's edge, with nothing just below, which would look like a stack's guard. */
static char *get_plain(void)
{
	char *p = mmap(NULL, ALL + 4 * MIB, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start = (char *)(((uintptr_t)p + 2 * MIB) & ~(2 * MIB - 1));

	if (p == MAP_FAILED)
		return p;
	munmap(p, (size_t)(start - p));
	munmap(start + ALL, (size_t)(p + 4 * MIB - start));
	return start;
}

static char *get_region(void)
{
	void *p;

	return cow_region_create(ALL, 2 * MIB, &p) < 0 ? MAP_FAILED : p;
}

static void get_memory(struct cell *c)
{
	int region = c->kind >= OWNED && c->kind <= INHERITED, ret;

	c->area = region ? get_region() : is_heap(c->kind) ? get_heap() : get_plain();
	if (c->area == MAP_FAILED)
		give_up("no memory");
	ret = region ? cow_munmap(c->area + AREA, ROOM) : munmap(c->area + AREA, ROOM);
	if (ret < 0)
		give_up("room");
	for (size_t i = 0; i < PAGES; i++)
		try_write(c->area + i * PAGE, i, i < AREA / PAGE ? '1' : '7');
}

static void must_be(const struct cell *c, int state)
{
	if (cow_region_state(c->area) == state)
		return;
	fprintf(stderr, "%s: %s, not %s\n", kind_names[c->kind],
		cow_state_string((enum cow_state)cow_region_state(c->area)),
		cow_state_string((enum cow_state)state));
	_exit(99);
}

int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void fork_once(const struct cell *c)
{
	pid_t pid = fork_of(c->kind);

	if (pid == 0)
		_exit(0);
	if (wait_for(pid) != 0)
		give_up("a fork");
}

/* 1: this is to be the one who plays. The parent of a child comes back when that is over. */
static int become(struct cell *c)
{
	pid_t pid;

	if (!is_plain(c->kind))
		set_options(c->kind);
	c->elsewhere = mmap(NULL, ELSEWHERE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	get_memory(c);
	if (c->kind == FROZEN)
		fork_once(c);
	if (is_adopted(c->kind) && cow_adopt(c->area, ALL) < 0)
		give_up("adopt");
	if (!is_plain(c->kind))
		must_be(c, c->kind >= ARMED ? COW_STATE_ARMED :
			   is_adopted(c->kind) || c->kind == FROZEN ? COW_STATE_FROZEN :
			   COW_STATE_OWNED);
	if (!is_child(c->kind))
		return 1;
	pid = fork_of(c->kind);
	if (pid == 0 && c->kind == CHILDS)
		get_memory(c);
	if (pid == 0)
		return 1;
	c->notes->forks[0] = wait_for(pid);
	look(c, LOOK_PARENT);
	return 0;
}

/* --- one cell ----------------------------------------------------------- */

static void tell(int fd)
{
	(void)!write(fd, "", 1);
}

static void hear(int fd)
{
	char c;

	(void)!read(fd, &c, 1);
}

static _Noreturn void be_child(const struct cell *c, int turn, int ready, int go)
{
	int first = LOOK_CHILD + 4 * turn;

	look(c, first);
	write_some(c, "357"[turn], (unsigned)turn);
	look(c, first + 1);
	tell(ready);
	hear(go);
	look(c, first + 2);
	_exit(0);
}

/* A child looks, both write, and both look again. */
static void fork_and_look(struct cell *c, int turn, pid_t (*how)(void), raw_fn *late)
{
	int ready[2], go[2];
	pid_t pid;

	if (pipe(ready) < 0 || pipe(go) < 0)
		give_up("pipe");
	pid = how ? how() : fork_of(c->kind);
	if (pid == 0) {
		close(ready[0]);
		close(go[1]);
		be_child(c, turn, ready[1], go[0]);
	}
	close(ready[1]);
	close(go[0]);
	hear(ready[0]);
	write_some(c, "468"[turn], (unsigned)turn + 1);
	if (late)
		c->notes->late = late(c);
	tell(go[1]);
	c->notes->forks[turn] = pid < 0 ? -errno : wait_for(pid);
	look(c, LOOK_CHILD + 4 * turn + 3);
	close(ready[0]);
	close(go[1]);
}

static void play(struct cell *c, const struct call *call)
{
	if (call->call)
		c->notes->called = call->call(c);
	look(c, LOOK_CALLED);
	write_some(c, '2', 0);
	look(c, LOOK_WROTE);
	if (call->fork)
		fork_and_look(c, 0, call->fork, NULL);
	fork_and_look(c, 1, NULL, call->late);
	if (!is_plain(c->kind))
		(void)!cow_thaw();
	look(c, LOOK_THAWED);
	if (call->undo)
		c->notes->undone = call->undo(c);
	look(c, LOOK_UNDONE);
	fork_and_look(c, 2, NULL, NULL);
	if (!is_plain(c->kind))
		(void)!cow_release(NULL, 0);
	look(c, LOOK_RELEASED);
}

/* --- memory that is held ------------------------------------------------ */

/* Of the stores' files, each once, and anonymous. -1: the files cannot be asked. */
static long held(void)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	char line[512], path[64];
	unsigned long start, end, kib;
	long bytes = 0;
	ino_t last[8] = { 0 };
	struct stat st;
	int n = 0, i;

	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "Anonymous: %lu", &kib) == 1)
			bytes += (long)kib << 10;
		if (sscanf(line, "%lx-%lx", &start, &end) != 2 || !strstr(line, "/memfd:cowfork"))
			continue;
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", start, end);
		if (stat(path, &st) < 0)
			return -1;
		for (i = 0; i < n && last[i] != st.st_ino; i++)
			;
		if (i == n && n < COUNT(last)) {
			last[n++] = st.st_ino;
			bytes += (long)st.st_blocks * 512;
		}
	}
	if (maps)
		fclose(maps);
	return bytes;
}

/* What is to go goes at a fork, once no child lives, and not more often than every 50 ms.
 * Frozen memory is looked at by a thaw. */
static void weigh(struct cell *c, const struct call *call)
{
	const struct timespec nap = { .tv_nsec = 60000000 };
	long before = held();

	(void)call->call(c);
	fork_once(c);
	nanosleep(&nap, NULL);
	if (!is_plain(c->kind))
		(void)!cow_thaw();
	fork_once(c);
	c->notes->freed = before < 0 ? NOT_DONE : before - held();
}

void run_cell(enum kind kind, const struct call *call, struct notes *notes, int weighs)
{
	static struct cell c;

	setpgid(0, 0);
	catch_faults();
	c.kind = kind;
	c.notes = notes;
	if (become(&c))
		(weighs ? weigh : play)(&c, call);
	_exit(0);
}
