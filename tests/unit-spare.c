/*
 * The reserve of memory maps: what it says that it holds, the kernel's
 * /proc/self/maps must show; releasing gives all of it back; at vm.max_map_count
 * holding more fails with -ENOMEM, and releasing works even there and leaves
 * room for as many new maps as were held, which is what it is for.
 *
 * Links lib/spare.c and lib/sys.c alone.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "spare.h"
#include "sys.h"
#include "support.h"

static struct spare spare;

/* Lines of /proc/self/maps, without stdio, which may map memory itself. */
static size_t maps(void)
{
	char buf[8192];
	size_t lines = 0;
	ssize_t n;
	int fd = open("/proc/self/maps", O_RDONLY);

	ck_assert_int_ge(fd, 0);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			lines += buf[i] == '\n';
	close(fd);
	return lines;
}

/* Give every second page of a mapping another protection until the kernel
 * refuses; the number of the page that was refused. */
static char *fill_maps(size_t *ret_pages)
{
	size_t page = sys_page_size(), limit = 200000, i;
	char *p = mmap(NULL, limit * page, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	for (i = 1; i < limit; i += 2)
		if (mprotect(p + i * page, page, PROT_READ) < 0)
			break;
	ck_assert_msg(i < limit, "vm.max_map_count is above %zu", limit);
	*ret_pages = i;
	return p;
}

START_TEST(holds_what_it_says)
{
	size_t before = maps(), counts[] = { 1, 2, 17, 16, 100, 99, 500 };

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		ck_assert_int_eq(spare_hold(&spare, counts[i]), 0);
		ck_assert_uint_ge(spare.held, counts[i]);
		ck_assert_uint_ge(maps(), before + spare.held);
	}
	spare_release(&spare);
	ck_assert_uint_eq(spare.held, 0);
	ck_assert_uint_le(maps(), before + 1);
	spare_release(&spare);
	ck_assert_int_eq(spare_hold(&spare, 40), 0);
	ck_assert_uint_ge(maps(), before + spare.held);
	spare_release(&spare);
	ck_assert_uint_le(maps(), before + 1);
}
END_TEST

START_TEST(zero_is_nothing)
{
	size_t before = maps();

	ck_assert_int_eq(spare_hold(&spare, 0), 0);
	ck_assert_uint_eq(spare.held, 0);
	ck_assert_uint_le(maps(), before + 1);
}
END_TEST

/* Its own size is a limit too, reached without harm. */
START_TEST(own_limit)
{
	ck_assert_int_eq(spare_hold(&spare, 48), 0);
	ck_assert_int_eq(spare_hold(&spare, SPARE_MAX + 1), -ENOMEM);
	ck_assert_int_eq(spare_hold(&spare, SIZE_MAX - 64), -ENOMEM);
	ck_assert_uint_ge(spare.held, 48);
	spare_release(&spare);
	ck_assert_int_eq(spare_hold(&spare, 48), 0);
}
END_TEST

START_TEST(kernel_limit)
{
	size_t page = sys_page_size(), pages, made = 0;
	char *rest;

	ck_assert_int_eq(spare_hold(&spare, 2000), 0);
	rest = fill_maps(&pages);
	ck_assert_int_eq(spare_hold(&spare, 3000), -ENOMEM);
	ck_assert_uint_ge(spare.held, 2000);
	spare_release(&spare);
	/* go on where fill_maps() had to stop: each page is two maps */
	for (size_t i = pages; made < 2000; i += 2, made += 2)
		if (mprotect(rest + i * page, page, PROT_READ) < 0)
			break;
	ck_assert_uint_ge(made, 2000);
	/* nothing can be held now, and saying so leaves no ruin */
	ck_assert_int_eq(spare_hold(&spare, 3000), -ENOMEM);
	spare_release(&spare);
	ck_assert_uint_eq(spare.held, 0);
}
END_TEST

START_TEST(not_in_a_child)
{
	unsigned char resident;

	ck_assert_int_eq(spare_hold(&spare, 100), 0);
	ck_assert_int_eq(mincore((void *)spare.at, sys_page_size(), &resident), 0);
	if (check_fork() > 0)
		check_waitpid_and_exit(0);
	ck_assert_int_eq(mincore((void *)spare.at, sys_page_size(), &resident), -1);
	ck_assert_int_eq(errno, ENOMEM);
	_exit(0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("unit-spare");
	TCase *tc = tcase_create("spare");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, holds_what_it_says);
	tcase_add_test(tc, zero_is_nothing);
	tcase_add_test(tc, own_limit);
	tcase_add_test(tc, kernel_limit);
	tcase_add_test(tc, not_in_a_child);
	suite_add_tcase(suite, tc);
	return support_run(suite);
}
