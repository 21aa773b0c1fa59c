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

/* The in-place engine's: forks, removals and moves are told too, and the new memory of a
 * fork gets a descriptor of its own. Needs CAP_SYS_PTRACE for that. */
int uffd_open_in_place(void);

/* One that tells of faults alone. */
int uffd_open_bell(void);

/* UFFDIO_REGISTER_MODE_*. */
int uffd_register(int uffd, uintptr_t start, size_t len, unsigned modes);

/* Hold writers, or let them go. */
int uffd_protect(int uffd, uintptr_t start, size_t len, int on);

/* Fill missing pages of the descriptor's memory from this one, or with zeros; who waits
 * goes on where they are zeros, and else when woken. -EEXIST: the first is there; -EAGAIN: so many were filled, or a fork, removal or
 * move of that memory is to be read first; -ENOENT: not one mapping that is registered;
 * -ESRCH: nobody has that memory any more. */
int uffd_copy(int uffd, uintptr_t to, uintptr_t from, size_t len, size_t *ret_done);
int uffd_zero(int uffd, uintptr_t start, size_t len, size_t *ret_done);

/* Whoever touches missing pages there gets SIGBUS from now on, and a system call EFAULT; who
 * waits is not woken. -EEXIST: the first is there. Linux 6.6; before, -EINVAL or -ENOTTY. */
int uffd_poison(int uffd, uintptr_t start, size_t len, size_t *ret_done);

/* 1, or 0 when there is nothing to read. */
struct uffd_msg;
int uffd_read(int uffd, struct uffd_msg *ret_msg);
uintptr_t uffd_page(const struct uffd_msg *m);	/* of a fault */

/* Does anybody have the descriptor's memory still? */
int uffd_memory_lives(int uffd);

/* ... and is the kernel about to tell of what was done with it? */
int uffd_memory_changes(int uffd);

/* Undo a registration, and wake who waits. */
void uffd_let_go(int uffd, uintptr_t start, size_t len);

/* Wake who waits there: what they touched is mapped now. */
void uffd_wake(int uffd, uintptr_t start, size_t len);

/* ... anywhere above a MiB: they fault again. */
void uffd_wake_all(int uffd);

#endif
