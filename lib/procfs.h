/*
 * What /proc/thread-self tells: maps and pagemap (/proc/self is empty once the
 * first thread has left by pthread_exit). Every call opens and closes its
 * file, so that no descriptor can be lost or inherited.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PROCFS_H
#define COWFORK_PROCFS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One line of /proc/self/maps. */
struct procfs_map {
	uintptr_t start, end;
	uint64_t offset;
	dev_t dev;
	ino_t ino;
	int shared, prot;
};

/* One entry of /proc/self/smaps, which costs as much as copying page tables. */
struct procfs_smap {
	struct procfs_map map;
	uint64_t anonymous;	/* bytes of this process's own, in memory or swap */
	uint64_t lazy;		/* of these, what the kernel may take (MADV_FREE) */
	int special;		/* it is locked, never forked, wiped on fork, left out of
				 * core files, of a userfaultfd, a stack, and so on */
};

typedef int procfs_map_fn(void *arg, const struct procfs_map *map);

/* vm.overcommit_memory, or -errno. */
int procfs_overcommit(void);

/* Have core files hold what stands for private memory here, if they hold that. */
void procfs_dump_private(void);

/* Does the process hold a descriptor through which devices may write to pinned
 * memory: one with O_DIRECT, an io_uring with registered buffers? -errno. */
int procfs_pins(void);

/* Does it hold an io_uring? What one completes is written by this very thread, at the end
 * of any system call. -errno. */
int procfs_rings(void);

/* Call fn for the control block of each thread; 0 of one that is about to begin or to end,
 * or has none. A result other than 0 ends the walk and is returned; -errno. */
int procfs_threads(int (*fn)(void *arg, uintptr_t block), void *arg);

/* Does a filter for system calls hold for this thread (seccomp(2))? 1 also when it
 * cannot be told. Asked here, since a filter may kill for prctl(2). */
int procfs_is_filtered(void);

/* The system call in which a thread waits. -ENOENT: in none; -EAGAIN: it runs, or is about to;
 * -EACCES: that may not be known; -errno: there is no such thread. */
long procfs_call_of(int tid, uint64_t *ret_args);	/* six of them, or NULL */

/* How long it has run, as of when the kernel last looked; ns. 0: it is not known. */
uint64_t procfs_ran(int tid);

/* For each thread of a process, until fn returns something else than 0. That, or -errno. */
int procfs_each_thread(int pid, int (*fn)(void *arg, int tid), void *arg);

/* Does it sleep in that function of the kernel's? As far as that may be known. */
int procfs_sleeps_in(int tid, const char *function);

/* /proc/TID and that name; a descriptor or -errno. For the pager too. */
int procfs_open_of_thread(int tid, const char *name, int flags);

/* Is there something in a page table's entry? Of an open /proc/PID/pagemap. 1, 0, -errno. */
int procfs_has_entry(int pagemap, uintptr_t addr);

/* The process of a thread; 0: there is none. And this one's own number, there: another than
 * the kernel tells where that /proc is of another PID namespace. */
int procfs_process_of(int tid);
int procfs_self(void);

/* The process that a pidfd stands for; 0 for another descriptor, -errno. */
int procfs_pid_of(int pidfd);

/* Call fn for each map in order of address; a result other than 0 ends the
 * walk and is returned. -errno when the file cannot be read. */
int procfs_maps(procfs_map_fn *fn, void *arg);

typedef int procfs_smap_fn(void *arg, const struct procfs_smap *map);
int procfs_smaps(procfs_smap_fn *fn, void *arg);

/* The map that holds addr. -ENOENT when there is none, -errno. */
int procfs_map_at(uintptr_t addr, struct procfs_map *ret_map);

/* Is the page at addr present and mapped by this process alone? 1, 0, -errno. */
int procfs_exclusive(uintptr_t addr);

/* Anonymous pages in memory, -errno. */
long procfs_anonymous_pages(void);

typedef int procfs_run_fn(void *arg, uintptr_t start, size_t len);

/* Call fn for each run of pages of [start, start + len), a private file
 * mapping, that are private to this process now (in memory, swap or migration
 * alike). A result other than 0 ends the walk and is returned; -errno. Without fn:
 * is there one? -EPERM: a guard is there (MADV_GUARD_INSTALL). */
int procfs_private(uintptr_t start, size_t len, procfs_run_fn *fn, void *arg);

/* The same for those of them that are in memory, and mapped by this process alone. */
int procfs_unshared(uintptr_t start, size_t len, procfs_run_fn *fn, void *arg);

#endif
