/*
 * Others that look into the memory of a process and write there: /proc/PID/mem,
 * process_vm_readv(2) and process_vm_writev(2), ptrace(2), for memory owned and
 * frozen, in a parent and in its child, by itself and by a tracer. What is
 * written into one process must stay there, as with anonymous memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define SIZE (4 * MIB)
#define WORD sizeof(uint64_t)

/* --- ways to look and to write ------------------------------------------- */

/* Both return 0 or -errno. The other process may be ourselves. */
struct way {
	const char *name;
	int (*look)(pid_t pid, const void *at, uint64_t *ret_word);
	int (*write)(pid_t pid, void *at, uint64_t word);
	int forces;		/* writes also to what is read-only */
};

static int open_mem(pid_t pid, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	return open(path, flags | O_CLOEXEC);
}

static int mem_look(pid_t pid, const void *at, uint64_t *ret_word)
{
	int fd = open_mem(pid, O_RDONLY);
	ssize_t n = pread(fd, ret_word, WORD, (off_t)(uintptr_t)at);
	int ret = n == (ssize_t)WORD ? 0 : -errno;

	close(fd);
	return ret;
}

static int mem_write(pid_t pid, void *at, uint64_t word)
{
	int fd = open_mem(pid, O_RDWR);
	ssize_t n = pwrite(fd, &word, WORD, (off_t)(uintptr_t)at);
	int ret = n == (ssize_t)WORD ? 0 : -errno;

	close(fd);
	return ret;
}

static int vm_look(pid_t pid, const void *at, uint64_t *ret_word)
{
	const struct iovec here = { ret_word, WORD };
	const struct iovec there = { (void *)(uintptr_t)at, WORD };

	return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)WORD ? 0 : -errno;
}

static int vm_write(pid_t pid, void *at, uint64_t word)
{
	const struct iovec here = { &word, WORD }, there = { at, WORD };

	return process_vm_writev(pid, &here, 1, &there, 1, 0) == (ssize_t)WORD ? 0 : -errno;
}

static int trace_look(pid_t pid, const void *at, uint64_t *ret_word)
{
	errno = 0;
	*ret_word = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, at, NULL);
	return -errno;
}

static int trace_write(pid_t pid, void *at, uint64_t word)
{
	return ptrace(PTRACE_POKEDATA, pid, at, (void *)word) < 0 ? -errno : 0;
}

static const struct way ways[] = {
	{ "/proc/PID/mem", mem_look, mem_write, 1 },
	{ "process_vm_*", vm_look, vm_write, 0 },
	{ "ptrace", trace_look, trace_write, 1 },
};

/* --- on oneself ----------------------------------------------------------- */

static char *area;

static uint64_t *word_of(size_t page)
{
	return (uint64_t *)(area + page * PAGE) + 7;
}

/* A child that was there before sees what was, one made after sees what is. */
static int sees(void *word)
{
	for (size_t i = 0; i < 10; i++)
		NEED(*word_of(i) == *(uint64_t *)word);
	return 0;
}

static void write_ten(const struct way *way, uint64_t word)
{
	for (size_t i = 0; i < 10; i++) {
		uint64_t got = 0;

		ck_assert_int_eq(way->write(getpid(), word_of(i), word), 0);
		ck_assert_int_eq(way->look(getpid(), word_of(i), &got), 0);
		ck_assert_uint_eq(got, word);
		ck_assert_uint_eq(*word_of(i), word);
	}
}

START_TEST(into_oneself)
{
	const struct way *way = &ways[_i];
	struct reader early, late;
	uint64_t first = 1, second = 2, third = 3;

	area = region(SIZE);
	fill(area, SIZE, 1);
	write_ten(way, first);
	ck_assert(has_state(area, COW_STATE_OWNED));
	early = reader_start(sees, &first);
	ck_assert(has_state(area, COW_STATE_FROZEN));
	write_ten(way, second);
	ck_assert_int_eq(reader_ask(&early), 0);
	late = reader_start(sees, &second);
	write_ten(way, third);
	ck_assert_int_eq(reader_ask(&early), 0);
	ck_assert_int_eq(reader_ask(&late), 0);
	ck_assert_int_eq(in_child(sees, &third), 0);
	ck_assert_int_eq(reader_end(&early), 0);
	ck_assert_int_eq(reader_end(&late), 0);
}
END_TEST

/* --- on another ----------------------------------------------------------- */

/* Stopped, so that all ways may look at it. */
static pid_t stopped_child(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		raise(SIGSTOP);
		_exit(*word_of(0) == 5 && *word_of(1) == 1 ? 0 : 1);
	}
	ck_assert_int_eq(ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	return pid;
}

static int end_stopped(pid_t pid)
{
	ptrace(PTRACE_DETACH, pid, 0, 0);
	kill(pid, SIGCONT);
	return wait_for(pid);
}

START_TEST(into_a_child)
{
	const struct way *way = &ways[_i];
	uint64_t got = 0, one = 1;
	pid_t first, second;

	area = region(SIZE);
	fill(area, SIZE, 1);
	for (size_t i = 0; i < 10; i++)
		*word_of(i) = 1;
	first = stopped_child();
	second = stopped_child();
	ck_assert_int_eq(way->look(first, word_of(3), &got), 0);
	ck_assert_uint_eq(got, 1);
	ck_assert_int_eq(way->write(first, word_of(0), 5), 0);
	ck_assert_int_eq(way->look(first, word_of(0), &got), 0);
	ck_assert_uint_eq(got, 5);
	ck_assert_int_eq(way->look(second, word_of(0), &got), 0);
	ck_assert_uint_eq(got, 1);
	ck_assert_uint_eq(*word_of(0), 1);
	ck_assert_int_eq(in_child(sees, &one), 0);
	*word_of(1) = 9;
	ck_assert_int_eq(way->look(first, word_of(1), &got), 0);
	ck_assert_uint_eq(got, 1);
	ck_assert_int_eq(end_stopped(first), 0);
	ck_assert_int_eq(end_stopped(second), 1);
}
END_TEST

/* A debugger on the parent: attach, write while it is owned and while it is
 * frozen; its children see what it sees, and only those made later. */
static int live_under_a_tracer(int in, int out)
{
	struct reader early;
	char c = 0;

	area = region(SIZE);
	fill(area, SIZE, 1);
	for (size_t i = 0; i < 10; i++)
		*word_of(i) = 1;
	NEED(has_state(area, COW_STATE_OWNED));
	NEED(write(out, &area, sizeof(area)) == sizeof(area) && read(in, &c, 1) == 1);
	NEED(sees(&(uint64_t){ 2 }) == 0);
	early = reader_start(sees, &(uint64_t){ 2 });
	NEED(reader_ask(&early) == 0);
	NEED(has_state(area, COW_STATE_FROZEN));
	NEED(write(out, &area, sizeof(area)) == sizeof(area) && read(in, &c, 1) == 1);
	NEED(sees(&(uint64_t){ 3 }) == 0);
	NEED(reader_ask(&early) == 0);
	NEED(in_child(sees, &(uint64_t){ 3 }) == 0);
	return reader_end(&early);
}

/* The tracee hands over its address of the area, and waits. */
static void write_into(const struct way *way, pid_t pid, int answer, int ask, uint64_t word)
{
	char *there;
	int status;

	ck_assert_int_eq(read(answer, &there, sizeof(there)), sizeof(there));
	area = there;
	ck_assert_int_eq(ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
	ck_assert_int_eq(ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	for (size_t i = 0; i < 10; i++) {
		uint64_t got = 0;

		ck_assert_int_eq(way->write(pid, word_of(i), word), 0);
		ck_assert_int_eq(way->look(pid, word_of(i), &got), 0);
		ck_assert_uint_eq(got, word);
	}
	ck_assert_int_eq(ptrace(PTRACE_DETACH, pid, 0, 0), 0);
	ck_assert_int_eq(write(ask, "g", 1), 1);
}

START_TEST(into_a_parent)
{
	int ask[2], answer[2];
	pid_t pid;

	ck_assert(pipe(ask) == 0 && pipe(answer) == 0);
	pid = fork();
	if (pid == 0)
		_exit(live_under_a_tracer(ask[0], answer[1]));
	write_into(&ways[_i], pid, answer[0], ask[1], 2);
	write_into(&ways[_i], pid, answer[0], ask[1], 3);
	ck_assert_int_eq(wait_for(pid), 0);
}
END_TEST

/* --- protection ------------------------------------------------------------ */

/* What is read-only to the process itself can be written by force into private
 * memory: so do debuggers set breakpoints, and some compilers write their code. */
START_TEST(by_force)
{
	const struct way *way = &ways[_i];
	uint64_t one = 1, got = 0;

	area = region(SIZE);
	for (size_t i = 0; i < 10; i++)
		*word_of(i) = 1;
	ck_assert_int_eq(in_child(sees, &one), 0);
	ck_assert_int_eq(cow_mprotect(area, SIZE, PROT_READ), 0);
	for (size_t i = 0; i < 10; i++)
		ck_assert_int_eq(way->write(getpid(), word_of(i), 4) == 0, way->forces);
	got = way->forces ? 4 : 1;
	ck_assert_int_eq(in_child(sees, &got), 0);
	ck_assert_int_eq(sees(&got), 0);
	/* and reading what nobody may read */
	ck_assert_int_eq(cow_mprotect(area, SIZE, PROT_NONE), 0);
	ck_assert_int_eq(way->look(getpid(), word_of(0), &got) == 0, way->forces);
}
END_TEST

/* --- core files ------------------------------------------------------------- */

/* Where the core goes: a plain name in the directory of the process; anything
 * else is the system's, and none of a test's business. */
static int cores_go_here(void)
{
	char text[200] = "";
	int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 && strcspn(text, "|/%") == strlen(text) && !strncmp(text, "core", 4);
}

/* Every page of [start, start + SIZE) is in the file, as it is in our area. */
static int core_holds(int fd, uintptr_t start)
{
	uint64_t page[PAGE / WORD];
	Elf64_Ehdr head;
	Elf64_Phdr part;

	NEED(pread(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head));
	for (size_t done = 0; done < SIZE; done += PAGE) {
		uintptr_t at = start + done;
		int found = 0;

		for (size_t i = 0; i < head.e_phnum && !found; i++) {
			NEED(pread(fd, &part, sizeof(part),
				   (off_t)(head.e_phoff + i * sizeof(part))) == sizeof(part));
			found = part.p_type == PT_LOAD && at >= part.p_vaddr &&
				at + PAGE <= part.p_vaddr + part.p_filesz;
		}
		NEED(found);
		NEED(pread(fd, page, PAGE, (off_t)(part.p_offset + at - part.p_vaddr)) ==
		     (ssize_t)PAGE);
		NEED(!memcmp(page, area + done, PAGE));
	}
	return 0;
}

enum whose { OWNED, FROZEN_PARENT, FROZEN_CHILD, WHOSE_COUNT };

/* Ends itself; *where lies in memory shared with the test. */
static int dump_core(enum whose whose, char **where)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	char *mine = area;

	NEED(setrlimit(RLIMIT_CORE, &all) == 0);
	signal(SIGABRT, SIG_DFL);
	if (whose != FROZEN_CHILD) {
		mine = region(SIZE);
		fill(mine, SIZE, 1);
	}
	if (whose == FROZEN_PARENT)
		NEED(cow_prepare() == 0);
	NEED(has_state(mine, whose == OWNED ? COW_STATE_OWNED : COW_STATE_FROZEN));
	*where = mine;
	abort();
}

static int open_core(pid_t pid)
{
	char name[40] = "core";
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		snprintf(name, sizeof(name), "core.%d", (int)pid);
		fd = open(name, O_RDONLY | O_CLOEXEC);
	}
	unlink(name);
	return fd;
}

/* By the default filter, and by one that only asks for private anonymous memory,
 * which is what regions are to the program. */
START_TEST(in_a_core_file)
{
	char dir[] = "/tmp/cowfork-core-XXXXXX";
	char **where = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	int status, fd;
	FILE *filter;
	pid_t pid;

	if (!cores_go_here())
		return;
	if (_i >= WHOSE_COUNT) {
		filter = fopen("/proc/self/coredump_filter", "w");
		ck_assert(filter && fputs("0x31", filter) >= 0 && fclose(filter) == 0);
	}
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	area = region(SIZE);
	fill(area, SIZE, 1);
	pid = fork();
	if (pid == 0)
		_exit(dump_core((enum whose)(_i % WHOSE_COUNT), where));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	fd = open_core(pid);
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(core_holds(fd, (uintptr_t)*where), 0);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("live-inspect");
	TCase *tc = tcase_create("from outside");

	tcase_set_timeout(tc, 60);
	/* ptrace has no way into oneself */
	tcase_add_loop_test(tc, into_oneself, 0, 2);
	tcase_add_loop_test(tc, into_a_child, 0, COUNT(ways));
	tcase_add_loop_test(tc, into_a_parent, 0, COUNT(ways));
	tcase_add_loop_test(tc, by_force, 0, 2);
	tcase_add_loop_test(tc, in_a_core_file, 0, 2 * WHOSE_COUNT);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
