/*
 * Reading executable files for the one thing that the launcher must know before
 * it runs them: a sanitizer's shared runtime among DT_NEEDED. Such a runtime
 * wraps the memory calls and has to come before the preload runtime, which it
 * then calls: gcc's AddressSanitizer refuses to run otherwise, ThreadSanitizer
 * would miss what happens to memory and report races that are none.
 *
 * The file can be anything: nothing in it is believed before it is checked, and
 * it is read by pread(2), so that one that shrinks meanwhile does no harm.
 *
 * SPDX-License-Identifier: MIT
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "needed.h"

enum {
	LINE_MAX_KERNEL = 256,	/* of "#!", BINPRM_BUF_SIZE */
	SCRIPTS_MAX = 5,	/* scripts whose interpreter is one */
	DYNAMIC_MAX = 4096,	/* entries that are looked at */
};

const char *needed_program(const char *name, char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/'))
		return name;
	for (const char *d = dirs ? dirs : "/bin:/usr/bin"; ; d += strcspn(d, ":") + 1) {
		size_t n = strcspn(d, ":");

		snprintf(path, PATH_MAX, "%.*s/%s", n ? (int)n : 1, n ? d : ".", name);
		if (access(path, X_OK) == 0)
			return path;
		if (!d[n])
			return NULL;
	}
}

/* --- names -------------------------------------------------------------- */

static int begins(const char *name, size_t len, const char *with)
{
	size_t n = strlen(with);

	return len >= n && !memcmp(name, with, n);
}

int needed_is_sanitizer(const char *name, size_t len)
{
	static const char *const runtimes[] = {
		"libasan.so", "libhwasan.so", "liblsan.so", "libtsan.so",
		"libclang_rt.asan", "libclang_rt.hwasan", "libclang_rt.tsan",
	};
	const char *slash = memrchr(name, '/', len);

	if (slash) {
		len -= (size_t)(slash + 1 - name);
		name = slash + 1;
	}
	for (size_t i = 0; i < sizeof(runtimes) / sizeof(*runtimes); i++)
		if (begins(name, len, runtimes[i]))
			return 1;
	return 0;
}

/* --- an ELF file -------------------------------------------------------- */

struct elf {
	int fd;
	Elf64_Ehdr header;
};

static int read_at(int fd, void *to, size_t len, uint64_t at)
{
	return at < INT64_MAX - len &&
	       pread(fd, to, len, (off_t)at) == (ssize_t)len;
}

static int is_elf(struct elf *elf)
{
	const Elf64_Ehdr *h = &elf->header;
	const uint16_t one = 1;
	int order = *(const char *)&one ? ELFDATA2LSB : ELFDATA2MSB;

	return read_at(elf->fd, &elf->header, sizeof(elf->header), 0) &&
	       !memcmp(h->e_ident, ELFMAG, SELFMAG) &&
	       h->e_ident[EI_CLASS] == ELFCLASS64 && h->e_ident[EI_DATA] == order &&
	       h->e_phentsize == sizeof(Elf64_Phdr) && h->e_phoff < INT64_MAX / 2;
}

static int segment(const struct elf *elf, unsigned i, Elf64_Phdr *ret_segment)
{
	return i < elf->header.e_phnum &&
	       read_at(elf->fd, ret_segment, sizeof(*ret_segment),
		       elf->header.e_phoff + i * sizeof(*ret_segment));
}

/* Where in the file the byte for an address lies, and how many follow it. */
static int file_offset(const struct elf *elf, uint64_t address, uint64_t *ret_offset,
		       uint64_t *ret_len)
{
	Elf64_Phdr p;

	for (unsigned i = 0; segment(elf, i, &p); i++) {
		if (p.p_type != PT_LOAD || address < p.p_vaddr ||
		    address - p.p_vaddr >= p.p_filesz)
			continue;
		*ret_offset = p.p_offset + (address - p.p_vaddr);
		*ret_len = p.p_filesz - (address - p.p_vaddr);
		return 1;
	}
	return 0;
}

/* Entry i of the dynamic section that `where` describes; 0 at its end. */
static int entry(const struct elf *elf, const Elf64_Phdr *where, unsigned i,
		 Elf64_Dyn *ret_entry)
{
	return i < DYNAMIC_MAX && i < where->p_filesz / sizeof(*ret_entry) &&
	       where->p_offset < INT64_MAX / 2 &&
	       read_at(elf->fd, ret_entry, sizeof(*ret_entry),
		       where->p_offset + i * sizeof(*ret_entry)) &&
	       ret_entry->d_tag != DT_NULL;
}

struct strings {
	uint64_t offset, len;
};

static int find_strings(const struct elf *elf, const Elf64_Phdr *where,
			struct strings *ret_strings)
{
	Elf64_Dyn d;

	for (unsigned i = 0; entry(elf, where, i, &d); i++)
		if (d.d_tag == DT_STRTAB)
			return file_offset(elf, d.d_un.d_ptr, &ret_strings->offset,
					   &ret_strings->len);
	return 0;
}

/* A string of the table; what does not end within PATH_MAX bytes is none. */
static int string_at(const struct elf *elf, const struct strings *strings,
		     uint64_t at, char ret_text[PATH_MAX])
{
	uint64_t len;

	if (at >= strings->len || strings->offset > INT64_MAX - at)
		return 0;
	len = strings->len - at < PATH_MAX ? strings->len - at : PATH_MAX;
	len = (uint64_t)pread(elf->fd, ret_text, len, (off_t)(strings->offset + at));
	return len <= PATH_MAX && memchr(ret_text, '\0', len);
}

/* --- where the loader will find it -------------------------------------- */

/* One directory of a run path. $ORIGIN is where the program's file lies. */
static int in_directory(const char *program, const char *dir, size_t len,
			const char *name, char ret_path[PATH_MAX])
{
	size_t mark = begins(dir, len, "$ORIGIN") ? 7 :
		      begins(dir, len, "${ORIGIN}") ? 9 : 0;
	char real[PATH_MAX] = "", *slash;
	int n;

	if (mark && !realpath(program, real))
		return 0;
	slash = strrchr(real, '/');
	if (slash)
		*slash = '\0';
	n = snprintf(ret_path, PATH_MAX, "%s%.*s/%s", real, (int)(len - mark),
		     dir + mark, name);
	return n < PATH_MAX && ret_path[0] == '/' && !strpbrk(ret_path, ": $") &&
	       access(ret_path, R_OK) == 0;
}

/* A path, so that programs which are started later and have another run path
 * find it too; else the bare name, for the loader to look up. */
static void resolve(const char *program, const char *dirs, const char *name,
		    char ret_name[PATH_MAX])
{
	for (const char *d = dirs; *d; d += strcspn(d, ":"), d += *d == ':')
		if (in_directory(program, d, strcspn(d, ":"), name, ret_name))
			return;
	snprintf(ret_name, PATH_MAX, "%s", name);
}

static int look_at_dynamic(const struct elf *elf, const Elf64_Phdr *where,
			   const char *path, char ret_name[PATH_MAX])
{
	char text[PATH_MAX], name[PATH_MAX] = "", dirs[PATH_MAX] = "";
	struct strings strings;
	Elf64_Dyn d;

	if (!find_strings(elf, where, &strings))
		return 0;
	for (unsigned i = 0; entry(elf, where, i, &d); i++) {
		if ((d.d_tag != DT_NEEDED && d.d_tag != DT_RUNPATH &&
		     d.d_tag != DT_RPATH) ||
		    !string_at(elf, &strings, d.d_un.d_val, text))
			continue;
		if (d.d_tag != DT_NEEDED)
			strcpy(dirs, text);
		else if (!*name && needed_is_sanitizer(text, strlen(text)) &&
			 !strpbrk(text, ": "))
			strcpy(name, text);
	}
	if (!*name)
		return 0;
	resolve(path, dirs, name, ret_name);
	return 1;
}

static int look_at_elf(int fd, const char *path, char ret_name[PATH_MAX])
{
	struct elf elf = { .fd = fd };
	Elf64_Phdr p;

	if (!is_elf(&elf))
		return 0;
	for (unsigned i = 0; segment(&elf, i, &p); i++)
		if (p.p_type == PT_DYNAMIC)
			return look_at_dynamic(&elf, &p, path, ret_name);
	return 0;
}

/* --- a script ----------------------------------------------------------- */

/* The program that env(1) will run: the first word that is neither an option nor
 * a variable. */
static const char *run_by_env(char *words)
{
	char *save, *word = strtok_r(words, " \t", &save);

	while (word && (*word == '-' || strchr(word, '=')))
		word = strtok_r(NULL, " \t", &save);
	return word;
}

static int is_env(const char *path)
{
	const char *slash = strrchr(path, '/');

	return !strcmp(slash ? slash + 1 : path, "env");
}

/* Returns 1 and the interpreter's file when this is a script. */
static int interpreter(int fd, char ret_path[PATH_MAX])
{
	char line[LINE_MAX_KERNEL + 1], *word, *rest, place[PATH_MAX];
	ssize_t n = pread(fd, line, LINE_MAX_KERNEL, 0);
	const char *found;

	if (n < 3 || line[0] != '#' || line[1] != '!')
		return 0;
	line[n] = '\0';
	line[2 + strcspn(line + 2, "\n")] = '\0';
	word = strtok_r(line + 2, " \t", &rest);
	if (!word)
		return 0;
	found = word;
	if (is_env(word)) {
		found = run_by_env(rest);
		found = found ? needed_program(found, place) : NULL;
	}
	if (!found)
		return 0;
	snprintf(ret_path, PATH_MAX, "%s", found);
	return 1;
}

int needed_sanitizer(const char *path, char ret_name[PATH_MAX])
{
	char at[PATH_MAX], next[PATH_MAX];
	int found = 0, script = 1;

	snprintf(at, sizeof(at), "%s", path);
	for (int i = 0; i < SCRIPTS_MAX && script; i++) {
		int fd = open(at, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

		if (fd < 0)
			return 0;
		script = interpreter(fd, next);
		if (!script)
			found = look_at_elf(fd, at, ret_name);
		close(fd);
		if (script)
			strcpy(at, next);
	}
	return found;
}
