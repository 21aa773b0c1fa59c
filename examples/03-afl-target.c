/*
 * 03-afl-target: a fuzzing target with a deferred fork server that holds a lot
 * of memory before it reads its input, as interpreters, databases and emulators
 * do after their start-up. 03-afl.sh compiles and fuzzes it.
 *
 * Environment: TARGET_MIB, how much it fills (default 0); TARGET_BLOCK, the size of the
 * malloc(3) blocks that it fills, at least 2 bytes (default 0: one mapping);
 * TARGET_TOUCH, how many pages or blocks of it an input touches (0 to 1024, default 4);
 * TARGET_READY, a file to make once it is filled.
 * Use: 03-afl-target < input        (status 2: the memory was not as filled)
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __AFL_INIT		/* a compiler without AFL++ */
#define __AFL_INIT() ((void)0)
#endif

static unsigned char *memory, **blocks;
static size_t count, touch = 4;		/* pages, or blocks */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void fill_blocks(size_t size, size_t block)
{
	count = size / block;
	blocks = malloc(count * sizeof(*blocks));
	for (size_t i = 0; blocks && i < count; i++) {
		blocks[i] = malloc(block);
		if (!blocks[i])
			die("malloc");
		memset(blocks[i], (unsigned char)i, block);
	}
	if (!blocks)
		die("malloc");
}

static void fill(size_t size, size_t block)
{
	if (block > 1 && size) {
		fill_blocks(size, block);
		return;
	}
	count = size >> 12;
	if (!count)
		return;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = (unsigned char)(at >> 12);
}

/* Look up what the input names in the memory; write there too, so that every
 * child has pages of its own. */
static void parse(const unsigned char *in, size_t n)
{
	for (size_t i = 0; count && i + 4 <= n && i < 4 * touch; i += 4) {
		size_t page = ((size_t)in[i] << 16 | (size_t)in[i + 1] << 8 | in[i + 2])
			      % count;
		unsigned char *p = blocks ? blocks[page] : memory + (page << 12);

		if (p[0] != (unsigned char)page)
			exit(2);	/* AFL++ calls no crash, the script looks */
		p[1] = in[i + 3];
	}
	if (n > 3 && in[0] == 'c' && in[1] == 'o' && in[2] == 'w')
		puts(in[3] == '!' ? "moo" : "calf");
}

int main(void)
{
	const char *mib = getenv("TARGET_MIB"), *pages = getenv("TARGET_TOUCH");
	const char *ready = getenv("TARGET_READY"), *block = getenv("TARGET_BLOCK");
	unsigned char input[4096];
	ssize_t n;

	fill((mib ? strtoul(mib, NULL, 10) : 0) << 20, block ? strtoul(block, NULL, 10) : 0);
	if (pages)
		touch = strtoul(pages, NULL, 10);
	if (ready)
		close(creat(ready, 0666));
	__AFL_INIT();
	n = read(STDIN_FILENO, input, sizeof(input));
	parse(input, n > 0 ? (size_t)n : 0);
	return 0;
}
