/*
 * See stress-pages.h. Owners have single pages between those of others, and whole
 * blocks that are no tables.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cowfork.h"
#include "stress-pages.h"

#define BLOCK 300u		/* pages of one owner in a row */

static const size_t region_pages[REGIONS] = { 5 * 512, 4 * 512 + 77, 130 };
static const unsigned places[] = { 0, 8, 255, 511 };	/* words of a page that tell */

size_t pages;
unsigned char *owner_of;
static char *regions[REGIONS];
static _Atomic uint32_t *words;

unsigned draw(struct random *r, size_t below)
{
	r->state = r->state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((r->state >> 33) % below);
}

void die(const char *what)
{
	if (errno)
		perror(what);
	else
		printf("%s\n", what);
	_exit(99);
}

/* --- pages -------------------------------------------------------------- */

char *page_at(size_t i)
{
	int r = 0;

	while (i >= region_pages[r])
		i -= region_pages[r++];
	return regions[r] + i * PAGE;
}

static void *plain(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

void pages_create(pages_get *get)
{
	pages = 0;
	for (int r = 0; r < REGIONS; r++) {
		regions[r] = get(r, region_pages[r] * PAGE);
		pages += region_pages[r];
	}
	words = plain(pages * sizeof(*words));
	owner_of = plain(pages);
	for (size_t i = 0; i < pages; i++) {
		owner_of[i] = (unsigned char)((i < region_pages[0] ? i : i / BLOCK) % OWNERS);
		words[i] = IS_ZERO;
	}
}

void pages_destroy(pages_put *put)
{
	for (int r = 0; r < REGIONS; r++)
		put(regions[r]);
	munmap(words, pages * sizeof(*words));
	munmap(owner_of, pages);
}

static uint64_t tag(size_t i, uint32_t word)
{
	return word & IS_ZERO ? 0 : (uint64_t)(i + 1) << 32 | word >> 2;
}

void pages_note(uint32_t *ret_words)
{
	for (size_t i = 0; i < pages; i++)
		ret_words[i] = atomic_load(&words[i]);
}

static int is_between(size_t i, uint64_t value, uint32_t before, uint32_t after)
{
	uint32_t version = (uint32_t)value;

	if (before == after && !(before & IN_FLIGHT))
		return value == tag(i, before);
	return !value || (value >> 32 == i + 1 && version >= before >> 2 &&
			  version <= (after >> 2) + 1);
}

int page_check(size_t i, uint32_t before, uint32_t after, const char *who)
{
	const volatile uint64_t *p = (const uint64_t *)page_at(i);

	for (int k = 0; k < 4; k++) {
		uint64_t value = p[places[k]];

		if (is_between(i, value, before, after))
			continue;
		printf("%s: page %zu at %p, owner %u, word %u is %#llx, not %#llx (%#x to %#x)\n",
		       who, i, page_at(i), owner_of[i], places[k], (unsigned long long)value,
		       (unsigned long long)tag(i, before), before, after);
		return 1;
	}
	return 0;
}

int pages_check(const uint32_t *before, const uint32_t *after, const char *who)
{
	int bad = 0;

	for (size_t i = 0; i < pages && bad < 5; i++)
		bad += page_check(i, before[i], after[i], who);
	return bad;
}

/* What they said after the look is known only then. */
int pages_look(struct random *r, size_t count)
{
	for (size_t n = 0; n < count; n++) {
		size_t i = draw(r, pages);
		uint32_t before = atomic_load(&words[i]), after;
		uint64_t seen[4];

		for (int k = 0; k < 4; k++)
			seen[k] = ((const volatile uint64_t *)page_at(i))[places[k]];
		after = atomic_load(&words[i]);
		for (int k = 0; k < 4; k++)
			if (!is_between(i, seen[k], before, after)) {
				printf("reader: page %zu, owner %u, word %u is %#llx (%#x to %#x)\n",
				       i, owner_of[i], places[k], (unsigned long long)seen[k],
				       before, after);
				return 1;
			}
	}
	return 0;
}

uint64_t pages_sum(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < pages; i++)
		for (int k = 0; k < 4; k++)
			sum = sum * 31 + ((const volatile uint64_t *)page_at(i))[places[k]];
	return sum;
}

/* --- owners ------------------------------------------------------------- */

static void begin_write(size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		atomic_fetch_or(&words[i], IN_FLIGHT);
}

/* The next version of a page that is in flight; it is over when this is stored. */
static uint32_t next_word(size_t i, int zero)
{
	return ((atomic_load(&words[i]) >> 2) + 1) << 2 | (zero ? IS_ZERO : 0);
}

static int is_mine(const struct owner *o, size_t i)
{
	return i < pages && owner_of[i] == o->number;
}

/* A run of own pages in one region, at most `most`. */
static size_t choose(struct owner *o, size_t most, size_t *ret_first)
{
	size_t first, count = 1;

	do
		first = draw(&o->random, pages);
	while (!is_mine(o, first));
	while (count < most && is_mine(o, first + count) &&
	       page_at(first + count) == page_at(first) + count * PAGE)
		count++;
	*ret_first = first;
	return count;
}

static int write_by_hand(struct owner *o)
{
	size_t first, count = choose(o, 1 + draw(&o->random, 40), &first);

	for (size_t i = first; i < first + count; i++) {
		volatile uint64_t *p = (uint64_t *)page_at(i);
		uint32_t word = atomic_load(&words[i]), next;

		if (page_check(i, word, word, "owner"))
			return 1;
		begin_write(i, 1);
		next = next_word(i, 0);
		for (int k = 0; k < 4; k++)
			p[places[k]] = tag(i, next);
		atomic_store(&words[i], next);
	}
	return 0;
}

static int zero_some(struct owner *o)
{
	size_t first, count = choose(o, 1 + draw(&o->random, BLOCK), &first);
	uint32_t next;

	begin_write(first, count);
	if (cow_madvise(page_at(first), count * PAGE, MADV_DONTNEED) < 0)
		die("MADV_DONTNEED");
	for (size_t i = first; i < first + count; i++) {
		next = next_word(i, 1);
		atomic_store(&words[i], next);
		if (page_check(i, next, next, "after MADV_DONTNEED"))
			return 1;
	}
	return 0;
}

/* Others only read them meanwhile. */
static int protect_some(struct owner *o)
{
	size_t first, count = choose(o, 1 + draw(&o->random, BLOCK), &first);

	if (cow_mprotect(page_at(first), count * PAGE, PROT_READ) < 0)
		die("mprotect");
	for (size_t i = first; i < first + count; i += 7) {
		uint32_t word = atomic_load(&words[i]);

		if (page_check(i, word, word, "read-only"))
			return 1;
	}
	if (cow_mprotect(page_at(first), count * PAGE, PROT_READ | PROT_WRITE) < 0)
		die("mprotect");
	return 0;
}

static int advise_some(struct owner *o)
{
	static const int advice[] = { MADV_PAGEOUT, MADV_COLD, MADV_WILLNEED,
				      MADV_POPULATE_READ, MADV_POPULATE_WRITE };
	size_t first, count = choose(o, 1 + draw(&o->random, BLOCK), &first);

	/* it fails where compaction has a page just now */
	(void)!cow_madvise(page_at(first), count * PAGE, advice[draw(&o->random, 5)]);
	return 0;
}

/* --- owners whose pages the kernel writes -------------------------------- */

static int is_all(const char *what, size_t i, size_t count, ssize_t n)
{
	if (n == (ssize_t)(count * PAGE))
		return 1;
	printf("%s of %zu pages at %zu: %zd of %zu bytes: %s\n", what, count, i, n,
	       count * PAGE, n < 0 ? strerror(errno) : "short");
	return 0;
}

static void fill_buffer(struct owner *o, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < PAGE / 8; k++)
			o->buffer[i * PAGE / 8 + k] = tag(first + i, next_word(first + i, 0));
}

static int is_buffer_right(const struct owner *o, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < PAGE / 8; k++) {
			uint64_t value = o->buffer[i * PAGE / 8 + k];
			uint64_t want = tag(first + i, atomic_load(&words[first + i]));

			if (value == want)
				continue;
			printf("the kernel read %#llx, not %#llx from page %zu, word %zu\n",
			       (unsigned long long)value, (unsigned long long)want, first + i, k);
			return 0;
		}
	return 1;
}

static int through_pipe(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	return is_all("write to a pipe", i, n, write(o->pipe[1], from, n * PAGE)) &&
	       is_all("read from a pipe", i, n, read(o->pipe[0], to, n * PAGE));
}

static int through_pair(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	return is_all("send", i, n, send(o->pair[1], from, n * PAGE, 0)) &&
	       is_all("recv", i, n, recv(o->pair[0], to, n * PAGE, MSG_WAITALL));
}

static int through_file(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	off_t at = (off_t)(draw(&o->random, 64) * PAGE);

	return is_all("pwrite", i, n, pwrite(o->file, from, n * PAGE, at)) &&
	       is_all("pread", i, n, pread(o->file, to, n * PAGE, at));
}

static int through_vector(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	struct iovec vector[RUN];

	for (size_t k = 0; k < n; k++)
		vector[k] = (struct iovec){ (char *)to + k * PAGE, PAGE };
	return is_all("write to a pipe", i, n, write(o->pipe[1], from, n * PAGE)) &&
	       is_all("readv", i, n, readv(o->pipe[0], vector, (int)n));
}

/* As a debugger does, by pages that are pinned for the moment. */
static int through_process(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	const struct iovec local = { (void *)(uintptr_t)from, n * PAGE }, remote = { to, n * PAGE };

	(void)o;
	return is_all("process_vm_writev", i, n,
		      process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
}

static int by_some_way(struct owner *o, const void *from, void *to, size_t i, size_t n)
{
	switch (draw(&o->random, 5)) {
	case 0: return through_process(o, from, to, i, n);
	case 3: return through_pipe(o, from, to, i, n);
	case 1: return through_pair(o, from, to, i, n);
	case 2: return through_vector(o, from, to, i, n);
	default: return through_file(o, from, to, i, n);
	}
}

static int write_by_kernel(struct owner *o)
{
	size_t first, count = choose(o, 1 + draw(&o->random, RUN), &first);

	if (!by_some_way(o, page_at(first), o->buffer, first, count) ||
	    !is_buffer_right(o, first, count))
		return 1;
	begin_write(first, count);
	fill_buffer(o, first, count);
	if (!by_some_way(o, o->buffer, page_at(first), first, count))
		return 1;
	for (size_t i = first; i < first + count; i++)
		atomic_store(&words[i], next_word(i, 0));
	return 0;
}

/* --- an owner ----------------------------------------------------------- */

void owner_open(struct owner *o, unsigned number, uint64_t seed)
{
	char name[] = "/tmp/cowfork-stress.XXXXXX";

	o->number = number;
	o->random.state = seed * 1000 + number;
	o->file = mkstemp(name);
	if (o->file < 0 || unlink(name) < 0 || pipe2(o->pipe, O_CLOEXEC) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, o->pair) < 0)
		die("pipe, socketpair or file");
}

void owner_close(struct owner *o)
{
	close(o->pipe[0]);
	close(o->pipe[1]);
	close(o->pair[0]);
	close(o->pair[1]);
	close(o->file);
}

int owner_step(struct owner *o)
{
	switch (draw(&o->random, 60)) {
	case 0: return zero_some(o);
	case 1: return protect_some(o);
	case 2: return advise_some(o);
	default:
		return o->number < USERS ? write_by_hand(o) : write_by_kernel(o);
	}
}
