/*
 * cowfork-run --explain.
 *
 * SPDX-License-Identifier: MIT
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cowfork.h"
#include "explain.h"

struct line {
	size_t offset;		/* of the field in struct cow_facilities */
	const char *name;
	int needed;		/* without it everything stays native */
	const char *without;
};

#define FIELD(name) offsetof(struct cow_facilities, name)

static const struct line lines[] = {
	{ FIELD(memfd), "memfd_create(2)", 1, "there is no file for memory to live in" },
	{ FIELD(remap), "mremap(2) of file page tables (Linux 5.13)", 1,
	  "page tables cannot be parked" },
	{ FIELD(overcommit), "vm.overcommit_memory is 0 or 1", 1,
	  "the kernel would charge the reserved address space" },
	{ FIELD(limits), "no RLIMIT_AS, RLIMIT_DATA, RLIMIT_FSIZE", 1,
	  "windows and shadows do not fit the limit" },
	{ FIELD(collapse), "MADV_COLLAPSE on shared memory (Linux 6.1)", 0,
	  "no huge pages: children read page by page" },
	{ FIELD(sysvshm), "System V shared memory", 0,
	  "descendants cannot be counted: nothing thaws, freed frozen memory "
	  "is kept until exit" },
	{ FIELD(mlock), "one lockable page (RLIMIT_MEMLOCK)", 0,
	  "the second witness is missing: as above" },
	{ FIELD(pagemap), "/proc/self/pagemap", 0,
	  "changed pages cannot be found: as above" },
	{ FIELD(maps), "/proc/self/maps", 0,
	  "raw system calls on regions go unnoticed" },
	{ FIELD(userfaultfd), "userfaultfd(2) for faults of the kernel too", 0,
	  "programs with threads stay frozen once they have forked, and nothing of theirs "
	  "is adopted; root has it, others "
	  "by a right to open /dev/userfaultfd (Linux 6.1) or by "
	  "vm.unprivileged_userfaultfd=1" },
	{ FIELD(in_place), "userfaultfd(2) that tells of forks (CAP_SYS_PTRACE)", 0,
	  "COWFORK_ENGINE=in-place makes native forks" },
};

int explain_machine(void)
{
	struct cow_facilities f = { .size = sizeof(f) };
	int usable = 1, ret = cow_facilities(&f);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		const struct line *l = &lines[i];
		int have = *(const int *)((const char *)&f + l->offset);

		printf("%-4s %s\n", have ? "yes" : "NO", l->name);
		if (!have)
			printf("       so: %s%s\n", l->without,
			       l->needed ? "; all memory stays native" : "");
		if (!have && l->needed)
			usable = 0;
	}
	printf("%s\n", usable ? "Forks of large anonymous memory will be flat." :
	       "Programs run as ever, with the kernel's plain fork.");
	puts("Memory that never passes mmap(3), such as the C library's heap, is adopted "
	     "once forks\nhave cost what that costs; a sanitizer's only with "
	     "COWFORK_ADOPT=first.\n"
	     "Out of reach of the preload: static programs and setuid programs.");
	return usable;
}

static int has_interpreter(int fd, const Elf64_Ehdr *h)
{
	for (int i = 0; i < h->e_phnum; i++) {
		Elf64_Phdr p;
		off_t at = (off_t)h->e_phoff + i * (off_t)sizeof(p);

		if (pread(fd, &p, sizeof(p), at) != (ssize_t)sizeof(p))
			return 0;
		if (p.p_type == PT_INTERP)
			return 1;
	}
	return 0;
}

const char *explain_out_of_reach(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const char *why = NULL;
	struct stat st;
	Elf64_Ehdr h;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && st.st_mode & (S_ISUID | S_ISGID) &&
	    (st.st_uid != geteuid() || st.st_mode & S_ISGID))
		why = "it is setuid or setgid, so the loader ignores the preload";
	else if (pread(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) &&
		 !memcmp(h.e_ident, ELFMAG, SELFMAG)) {
		if (h.e_ident[EI_CLASS] != ELFCLASS64)
			why = "it is not a 64-bit program";
		else if (!has_interpreter(fd, &h))
			why = "it is statically linked";
	}
	close(fd);
	return why;
}
