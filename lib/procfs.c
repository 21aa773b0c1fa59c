/*
 * Parsing of /proc/self/maps and /proc/self/pagemap with buffers on the stack.
 * Bits of a pagemap entry: Documentation/admin-guide/mm/pagemap.rst. (Longer than others, since
 * all that is read there is read by one small reader.)
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "compat.h"
#include "procfs.h"
#include "sys.h"

#define PM_EXCLUSIVE	(1ull << 56)
#define PM_GUARD	(1ull << 58)	/* Linux 6.15 */
#define PM_FILE		(1ull << 61)
#define PM_SWAP		(1ull << 62)
#define PM_PRESENT	(1ull << 63)

/* A reader of characters over a small buffer. */
struct reader {
	int fd;
	long have, used;
	char buf[4096];
};

static int next(struct reader *r)
{
	if (r->used >= r->have) {
		r->have = sys_read(r->fd, r->buf, sizeof(r->buf));
		r->used = 0;
		if (r->have <= 0)
			return -1;
	}
	return (unsigned char)r->buf[r->used++];
}

/* Read digits of a base up to the first other character, which is returned. */
static int number(struct reader *r, unsigned base, uint64_t *ret)
{
	uint64_t n = 0;
	int c;

	for (;;) {
		unsigned digit;

		c = next(r);
		if (c >= '0' && c <= '9')
			digit = (unsigned)(c - '0');
		else if (c >= 'a' && c <= 'f' && base == 16)
			digit = (unsigned)(c - 'a') + 10;
		else
			break;
		n = n * base + digit;
	}
	*ret = n;
	return c;
}

/* start-end perms offset major:minor inode [path] */
static int line(struct reader *r, struct procfs_map *m)
{
	uint64_t start, end, offset, major_, minor_, ino;
	int c;

	if (number(r, 16, &start) != '-')
		return 0;
	number(r, 16, &end);
	m->prot = next(r) == 'r' ? PROT_READ : 0;
	m->prot |= next(r) == 'w' ? PROT_WRITE : 0;
	m->prot |= next(r) == 'x' ? PROT_EXEC : 0;
	m->shared = next(r) == 's';
	next(r);
	number(r, 16, &offset);
	number(r, 16, &major_);
	number(r, 16, &minor_);
	c = number(r, 10, &ino);
	while (c != '\n' && c >= 0)
		c = next(r);
	m->start = (uintptr_t)start;
	m->end = (uintptr_t)end;
	m->offset = offset;
	m->dev = makedev((unsigned)major_, (unsigned)minor_);
	m->ino = (ino_t)ino;
	return c == '\n';
}

int procfs_maps(procfs_map_fn *fn, void *arg)
{
	struct reader r = { .fd = sys_open("/proc/thread-self/maps", O_RDONLY) };
	struct procfs_map m;
	int ret = 0;

	if (r.fd < 0)
		return r.fd;
	while (!ret && line(&r, &m))
		ret = fn(arg, &m);
	if (!ret && r.have < 0)
		ret = (int)r.have;
	sys_close(r.fd);
	return ret;
}

/* Mappings of which the kernel says no more than this are ordinary memory; the advice
 * on huge pages is a hint (Documentation/filesystems/proc.rst, VmFlags). */
static int is_ordinary(const char *flag)
{
	static const char known[] = "rd wr mr mw me ac nr sd hg nh ";

	for (const char *k = known; *k; k += 3)
		if (flag[0] == k[0] && flag[1] == k[1])
			return 1;
	return 0;
}

/* The rest of a line, as much as there is room for. -1 at the end. */
static int text(struct reader *r, char *buf, size_t size)
{
	size_t n = 0;
	int c;

	while ((c = next(r)) >= 0 && c != '\n')
		if (n + 1 < size)
			buf[n++] = (char)c;
	buf[n] = '\0';
	return c < 0 ? -1 : (int)n;
}

static uint64_t kib(const char *p)
{
	uint64_t n = 0;

	while (*p == ' ')
		p++;
	for (; *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	return n << 10;
}

/* An entry's lines up to its last. */
static int details(struct reader *r, struct procfs_smap *m)
{
	char buf[256];

	m->anonymous = 0;
	m->lazy = 0;
	m->special = 0;
	while (text(r, buf, sizeof(buf)) >= 0) {
		if (!strncmp(buf, "Anonymous:", 10))
			m->anonymous += kib(buf + 10);
		else if (!strncmp(buf, "Swap:", 5))
			m->anonymous += kib(buf + 5);
		else if (!strncmp(buf, "LazyFree:", 9))
			m->lazy += kib(buf + 9);
		if (strncmp(buf, "VmFlags: ", 9))
			continue;
		for (const char *f = buf + 9; f[0] && f[1]; f += f[2] ? 3 : 2)
			m->special |= !is_ordinary(f);
		return 1;
	}
	return 0;
}

int procfs_smaps(procfs_smap_fn *fn, void *arg)
{
	struct reader r = { .fd = sys_open("/proc/thread-self/smaps", O_RDONLY) };
	struct procfs_smap m;
	int ret = 0;

	if (r.fd < 0)
		return r.fd;
	while (!ret && line(&r, &m.map) && details(&r, &m))
		ret = fn(arg, &m);
	if (!ret && r.have < 0)
		ret = (int)r.have;
	sys_close(r.fd);
	return ret;
}

/* Asking for one map is a hundredth of reading them all (Linux 6.11). */
static int query(int fd, uintptr_t addr, struct procfs_map *ret_map)
{
	struct procmap_query q = { .size = sizeof(q), .query_addr = addr };
	int ret = sys_ioctl(fd, PROCMAP_QUERY, &q);

	if (ret < 0)
		return ret;
	*ret_map = (struct procfs_map){
		.start = (uintptr_t)q.vma_start, .end = (uintptr_t)q.vma_end,
		.offset = q.vma_offset, .dev = makedev(q.dev_major, q.dev_minor),
		.ino = (ino_t)q.inode, .shared = (q.vma_flags & PROCMAP_QUERY_VMA_SHARED) != 0,
		.prot = (int)(q.vma_flags & PROCMAP_QUERY_VMA_PROT),
	};
	return 0;
}

struct search {
	uintptr_t addr;
	struct procfs_map *ret_map;
};

static int is_there(void *arg, const struct procfs_map *m)
{
	struct search *s = arg;

	if (s->addr < m->start || s->addr >= m->end)
		return 0;
	*s->ret_map = *m;
	return 1;
}

int procfs_map_at(uintptr_t addr, struct procfs_map *ret_map)
{
	struct search s = { addr, ret_map };
	int fd = sys_open("/proc/thread-self/maps", O_RDONLY);
	int ret;

	if (fd < 0)
		return fd == -ENOENT ? -EACCES : fd;
	ret = query(fd, addr, ret_map);
	sys_close(fd);
	if (ret == 0 || ret == -ENOENT)
		return ret;
	ret = procfs_maps(is_there, &s);
	return ret == 0 ? -ENOENT : ret < 0 ? ret : 0;
}

long procfs_anonymous_pages(void)
{
	struct reader r = { .fd = sys_open("/proc/thread-self/statm", O_RDONLY) };
	uint64_t size, resident, shared;

	if (r.fd < 0)
		return r.fd;
	number(&r, 10, &size);
	number(&r, 10, &resident);
	number(&r, 10, &shared);
	sys_close(r.fd);
	return resident > shared ? (long)(resident - shared) : 0;
}

int procfs_overcommit(void)
{
	struct reader r = { .fd = sys_open("/proc/sys/vm/overcommit_memory", O_RDONLY) };
	uint64_t mode = 0;

	if (r.fd < 0)
		return r.fd;
	number(&r, 10, &mode);
	sys_close(r.fd);
	return r.have < 0 ? (int)r.have : (int)mode;
}

static int open_pagemap(void)
{
	return sys_open("/proc/thread-self/pagemap", O_RDONLY);
}

static off_t entry_at(uintptr_t addr)
{
	return (off_t)(addr / sys_page_size() * sizeof(uint64_t));
}

int procfs_has_entry(int pagemap, uintptr_t addr)
{
	uint64_t entry;

	if (sys_pread(pagemap, &entry, sizeof(entry), entry_at(addr)) != sizeof(entry))
		return -EIO;
	return (entry & (PM_PRESENT | PM_SWAP)) != 0;
}

int procfs_exclusive(uintptr_t addr)
{
	uint64_t entry = 0;
	int fd = open_pagemap();
	long n;

	if (fd < 0)
		return fd;
	n = sys_pread(fd, &entry, sizeof(entry), entry_at(addr));
	sys_close(fd);
	if (n != sizeof(entry))
		return n < 0 ? (int)n : -EIO;
	return (entry & PM_PRESENT) && (entry & PM_EXCLUSIVE);
}

/* Private unless it is the file's own page or nothing at all. */
static int is_private(uint64_t entry)
{
	return (entry & PM_SWAP) || ((entry & PM_PRESENT) && !(entry & PM_FILE));
}

static int is_unshared(uint64_t entry)
{
	return (entry & PM_PRESENT) && !(entry & PM_FILE) && (entry & PM_EXCLUSIVE);
}

/* A guard looks like a swapped page else, and who reads it gets SIGSEGV. */
static int is_guard(uint64_t entry)
{
	return (entry & PM_GUARD) && !(entry & PM_PRESENT);
}

/* Call fn for each run of pages whose entry passes the test; without fn: 1 if there
 * is one. */
static int each_run(uintptr_t start, size_t len, int (*test)(uint64_t entry),
		    procfs_run_fn *fn, void *arg)
{
	size_t page = sys_page_size();
	uintptr_t end = start + len, run = 0;
	uint64_t entries[512];
	int ret = 0, fd = open_pagemap();

	if (fd < 0)
		return fd;
	for (uintptr_t at = start; !ret && at < end;) {
		size_t want = (end - at) / page;
		long n;

		if (want > 512)
			want = 512;
		n = sys_pread(fd, entries, want * sizeof(*entries), entry_at(at));
		if (n < (long)(want * sizeof(*entries))) {
			ret = n < 0 ? (int)n : -EIO;
			break;
		}
		for (size_t i = 0; !ret && i < want; i++, at += page) {
			if (is_guard(entries[i])) {
				ret = -EPERM;
			} else if (test(entries[i])) {
				run = run ? run : at;
				ret = !fn;
			} else if (run) {
				ret = fn(arg, run, at - run);
				run = 0;
			}
		}
	}
	if (!ret && run)
		ret = fn(arg, run, end - run);
	sys_close(fd);
	return ret;
}

int procfs_private(uintptr_t start, size_t len, procfs_run_fn *fn, void *arg)
{
	return each_run(start, len, is_private, fn, arg);
}

int procfs_unshared(uintptr_t start, size_t len, procfs_run_fn *fn, void *arg)
{
	return each_run(start, len, is_unshared, fn, arg);
}

/* --- core files --------------------------------------------------------- */

#define FILTER_ANON_PRIVATE	1u	/* Documentation/filesystems/proc.rst */
#define FILTER_ANON_SHARED	2u
#define FILTER_FILE_PRIVATE	4u

void procfs_dump_private(void)
{
	struct reader r = { .fd = sys_open("/proc/self/coredump_filter", O_RDWR) };
	static const char digits[] = "0123456789abcdef";
	char text[] = "0x00000000\n";
	uint64_t filter = 0;

	if (r.fd < 0)
		return;
	number(&r, 16, &filter);
	if (filter & FILTER_ANON_PRIVATE) {
		filter |= FILTER_ANON_SHARED | FILTER_FILE_PRIVATE;
		for (int i = 0; i < 8; i++)
			text[9 - i] = digits[filter >> 4 * i & 15];
		(void)sys_write(r.fd, text, sizeof(text) - 1);
	}
	sys_close(r.fd);
}

/* --- names in directories ----------------------------------------------- */

struct entry {		/* linux_dirent64, getdents64(2) */
	uint64_t ino;
	int64_t off;
	uint16_t size;
	uint8_t type;
	char name[];
};

/* For each name that a directory holds, until fn returns something else than 0. That, or -errno. */
static int each_name(const char *path, int (*fn)(void *arg, int dir, const char *name), void *arg)
{
	int dir = sys_open(path, O_RDONLY), ret = 0;
	_Alignas(struct entry) char buf[2048];
	long n = 0;

	if (dir < 0)
		return dir;
	while (!ret && (n = sys_getdents(dir, buf, sizeof(buf))) > 0)
		for (long at = 0; !ret && at < n;) {
			const struct entry *e = (struct entry *)(buf + at);

			ret = e->name[0] != '.' ? fn(arg, dir, e->name) : 0;
			at += e->size;
		}
	sys_close(dir);
	return n < 0 ? (int)n : ret;
}

/* --- descriptors that pin memory ---------------------------------------- */

/* The number behind a name in an fdinfo file, in the base that it is written in;
 * 0 when it is not there. */
static uint64_t field(struct reader *r, const char *name, unsigned base)
{
	uint64_t value = 0;
	size_t at = 0;
	int c;

	while (name[at] && (c = next(r)) >= 0)
		at = c == name[at] ? at + 1 : 0;
	if (name[at])
		return 0;
	while ((c = next(r)) == ' ' || c == '\t')
		;
	for (; c >= '0' && c <= '9'; c = next(r))
		value = value * base + (unsigned)(c - '0');
	return value;
}

static int pins(void *arg, int dir, const char *name)
{
	struct reader r = { .fd = sys_open_at(dir, name, O_RDONLY) };
	int found;

	(void)arg;
	if (r.fd < 0)
		return 0;
	found = (field(&r, "flags:", 8) & O_DIRECT) || field(&r, "UserBufs:", 10);
	sys_close(r.fd);
	return found;
}

static int is_ring(void *arg, int dir, const char *name)
{
	struct reader r = { .fd = sys_open_at(dir, name, O_RDONLY) };
	char line[256];
	int found = 0;

	(void)arg;
	if (r.fd < 0)
		return 0;
	while (!found && text(&r, line, sizeof(line)) >= 0)
		found = !strncmp(line, "SqMask:", 7);
	sys_close(r.fd);
	return found;
}

int procfs_pins(void)
{
	return each_name("/proc/thread-self/fdinfo", pins, NULL);
}

int procfs_rings(void)
{
	return each_name("/proc/thread-self/fdinfo", is_ring, NULL);
}

#define PF_IO_WORKER 0x10u	/* include/linux/sched.h: of io_uring, never in the program */

/* pid (name) state and numbers, of which the seventh are its flags (proc(5)). */
static int is_worker(int dir, const char *tid)
{
	struct reader r = { 0 };
	char path[32], line[256], *p;
	unsigned flags = 0;

	snprintf(path, sizeof(path), "%s/stat", tid);
	r.fd = sys_open_at(dir, path, O_RDONLY);
	if (r.fd < 0)
		return 0;
	text(&r, line, sizeof(line));
	sys_close(r.fd);
	p = strrchr(line, ')');
	return p && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
	       flags & PF_IO_WORKER;
}

static int number_of(const char *name)
{
	int n = 0;

	for (const char *p = name; *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (*p - '0');
	return n;
}

struct blocks {
	int (*fn)(void *arg, uintptr_t block);
	void *arg;
};

/* The C library keeps a thread's list of robust locks in its control block. What a filter hides
 * may be anywhere. */
static int look_at_block(void *arg, int dir, const char *tid)
{
	const struct blocks *b = arg;
	uintptr_t block = 0;

	if (sys_robust_list(number_of(tid), &block) != -ESRCH && (block || !is_worker(dir, tid)))
		return b->fn(b->arg, block);
	return 0;
}

int procfs_threads(int (*fn)(void *arg, uintptr_t block), void *arg)
{
	return each_name("/proc/thread-self/..", look_at_block, &(struct blocks){ fn, arg });
}

/* No snprintf(3): it looks at thread-local storage, which the pager has not. */
int procfs_open_of_thread(int tid, const char *name, int flags)
{
	char path[64] = "/proc/", digits[16];
	size_t at = 6, n = 0;

	do
		digits[n++] = (char)('0' + tid % 10);
	while ((tid /= 10));
	while (n)
		path[at++] = digits[--n];
	while (at < sizeof(path) - 1 && *name)
		path[at++] = *name++;
	return sys_open(path, flags);
}

/* Its number and arguments; "running", or -1 where it waits for its own access. */
long procfs_call_of(int tid, uint64_t *ret_args)
{
	struct reader r = { .fd = procfs_open_of_thread(tid, "/syscall", O_RDONLY) };
	uint64_t call, zero;
	int c;

	if (r.fd < 0)
		return r.fd;
	c = number(&r, 10, &call);
	for (unsigned i = 0; c == ' ' && ret_args && i < 6; i++) {
		(void)number(&r, 16, &zero);	/* 0x */
		(void)number(&r, 16, &ret_args[i]);
	}
	sys_close(r.fd);
	switch (c) {
	case ' ': return (long)call;
	case 'r': return -EAGAIN;
	case '-': return -ENOENT;
	default: return -EACCES;
	}
}

uint64_t procfs_ran(int tid)
{
	struct reader r = { .fd = procfs_open_of_thread(tid, "/schedstat", O_RDONLY) };
	uint64_t ns = 0;

	if (r.fd < 0)
		return 0;
	(void)number(&r, 10, &ns);
	sys_close(r.fd);
	return ns;
}

struct tids {
	int (*fn)(void *arg, int tid);
	void *arg;
};

static int look_at_tid(void *arg, int dir, const char *tid)
{
	const struct tids *t = arg;

	(void)dir;
	return t->fn(t->arg, number_of(tid));
}

int procfs_each_thread(int pid, int (*fn)(void *arg, int tid), void *arg)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return each_name(path, look_at_tid, &(struct tids){ fn, arg });
}

int procfs_sleeps_in(int tid, const char *function)
{
	int fd = procfs_open_of_thread(tid, "/wchan", O_RDONLY);
	char where[64] = "";

	if (fd < 0)
		return 0;
	(void)sys_read(fd, where, sizeof(where) - 1);
	sys_close(fd);
	return !strcmp(where, function);
}

static int process_in(int fd)
{
	struct reader r = { .fd = fd };
	int pid;

	if (fd < 0)
		return 0;
	pid = (int)field(&r, "\nTgid:", 10);
	sys_close(fd);
	return pid;
}

int procfs_process_of(int tid)
{
	return process_in(procfs_open_of_thread(tid, "/status", O_RDONLY));
}

int procfs_self(void)
{
	return process_in(sys_open("/proc/self/status", O_RDONLY));
}

int procfs_pid_of(int pidfd)
{
	char path[64];
	struct reader r = { 0 };
	int pid;

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", pidfd);
	r.fd = sys_open(path, O_RDONLY);
	if (r.fd < 0)
		return r.fd;
	pid = (int)field(&r, "\nPid:", 10);
	sys_close(r.fd);
	return pid;
}

int procfs_is_filtered(void)
{
	struct reader r = { .fd = sys_open("/proc/thread-self/status", O_RDONLY) };
	int is;

	if (r.fd < 0)
		return 1;
	is = field(&r, "\nSeccomp:", 10) != 0;
	sys_close(r.fd);
	return is;
}
