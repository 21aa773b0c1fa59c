/*
 * userfaultfd(2): to hold whoever touches a range.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_UFFD_H
#define COWFORK_UFFD_H

#include <stddef.h>
#include <stdint.h>

/* A descriptor that sees the faults of the kernel too; without that read(2) into a
 * held range would fail with EFAULT. Needs CAP_SYS_PTRACE, or
 * vm.unprivileged_userfaultfd=1, or a right to open /dev/userfaultfd. -errno. */
int uffd_open(void);

/* Hold who touches an empty page-table entry of [start, start + len): missing
 * pages, and, if minor, those that the file behind the mapping has. */
int uffd_hold(int uffd, uintptr_t start, size_t len, int minor);

/* Undo that, and wake who waits. */
void uffd_let_go(int uffd, uintptr_t start, size_t len);

/* Wake who waits there: what they touched is mapped now. */
void uffd_wake(int uffd, uintptr_t start, size_t len);

#endif
