/*
 * cowfork.h - a fork whose latency does not grow with memory, in user space.
 *
 * The one public header. Unless a function says otherwise:
 *   - it returns 0 (or what is named) on success and -errno on failure, and
 *     leaves errno alone;
 *   - it may be called from any thread, also while others fork;
 *   - it may be called from a signal handler: the library blocks all signals
 *     wherever it holds its lock, and never calls malloc;
 *   - nothing is printed; see cow_set_log().
 * Concepts, costs and limits: cowfork(7).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_H
#define COWFORK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define COW_MUST_CHECK __attribute__((warn_unused_result))
#define COW_NONNULL(...) __attribute__((nonnull(__VA_ARGS__)))
#pragma GCC visibility push(default)
#else
#define COW_MUST_CHECK
#define COW_NONNULL(...)
#endif

/* Version of this header; cow_version() tells that of the library. */
#define COW_VERSION "0.1.0"

/* Version of the library in use, "major.minor.patch"; a static string. */
const char *cow_version(void);

/* --- options ------------------------------------------------------------ */

enum cow_engine {
	COW_ENGINE_AUTO,	/* the library chooses; now the same as store */
	COW_ENGINE_STORE,	/* memory lives in a private memfd */
	COW_ENGINE_OFF,		/* plain anonymous memory and the kernel's fork */
	COW_ENGINE_IN_PLACE,	/* memory stays where it is, children are filled on
				 * demand; see cow_adopt() */
};

enum cow_huge {
	COW_HUGE_AUTO,		/* collapse tables when forks have paid for it */
	COW_HUGE_ALWAYS,	/* collapse every fully populated table at freeze */
	COW_HUGE_NEVER,		/* stay on base pages */
};

enum cow_thaw {
	COW_THAW_AUTO,		/* a thread thaws beside the program's, see cow_thaw() */
	COW_THAW_NEVER,		/* no thread of the library's, but for cow_thaw() */
};

enum cow_adopt {
	COW_ADOPT_AUTO,		/* when native forks have cost what adopting costs */
	COW_ADOPT_FIRST,	/* ahead of the first fork that finds some, then as auto */
	COW_ADOPT_NEVER,	/* only what cow_adopt() is asked for */
};

/* Set `size` to sizeof(struct cow_options) before a call. */
struct cow_options {
	size_t size;		/* of this struct, in bytes */
	size_t min_size;	/* smallest mapping that cow_mmap() puts into the
				 * store, bytes, >= 1; default 32 MiB */
	enum cow_engine engine;	/* default COW_ENGINE_AUTO */
	enum cow_huge huge;	/* default COW_HUGE_AUTO */
	enum cow_thaw thaw;	/* default COW_THAW_AUTO */
	enum cow_adopt adopt;	/* default COW_ADOPT_AUTO */
};

/*
 * The options in force. The first use of the library reads them from the
 * environment: COWFORK_ENGINE=auto|store|off|in-place, COWFORK_MIN_SIZE=N[K|M|G],
 * COWFORK_HUGE=auto|always|never, COWFORK_THAW=auto|never,
 * COWFORK_ADOPT=auto|first|never. A value that does not parse is reported through the
 * log callback and the default holds.
 * -EINVAL: opts->size is smaller than sizeof(size_t).
 */
int cow_options_get(struct cow_options *opts) COW_NONNULL(1) COW_MUST_CHECK;

/*
 * Replace the options; holds for mappings and forks from then on, memory that
 * exists stays where it is.
 * -EINVAL: opts->size is not that of a known struct cow_options, min_size is 0
 * or above SIZE_MAX / 2, or an enum is out of range; nothing changes then.
 */
int cow_options_set(const struct cow_options *opts) COW_NONNULL(1) COW_MUST_CHECK;

/* --- fork --------------------------------------------------------------- */

/*
 * fork(2), made flat: freezes the memory that the library manages and calls
 * the C library's fork(), so that atfork handlers run as ever. A plain fork(),
 * daemon(3) or forkpty(3) is made flat too, by an atfork handler; only there
 * nothing can be refused, so what cow_fork() reports as an error ends such a
 * child before it runs (with status 127).
 *
 * Returns as fork(2): the child's pid, 0 in the child, -1 with errno set:
 * everything that fork(2) lists, ENOMEM also when the memory could not be
 * frozen (no map or kernel memory left).
 * Safe in a signal handler exactly as far as the C library's fork() is.
 */
pid_t cow_fork(void) COW_MUST_CHECK;

/*
 * Do the work of the next fork now: freeze what is owned. For a fork server,
 * to call once before it takes requests. Harmless when there is nothing to do.
 * -ENOMEM: no map or kernel memory left; memory is as right as before.
 */
int cow_prepare(void) COW_MUST_CHECK;

/*
 * Thaw what is frozen, now, if no descendant looks at it any more: memory is held
 * once again, and writes no longer copy. Not needed as a rule: a program with one
 * thread thaws inside a fork when that pays; one with more threads does it after
 * cow_fork() (or any fork under the preload runtime) when its descendants are gone
 * and forks have been quiet for a while, in a thread of the library's own. That
 * thread needs a userfaultfd(2) which sees faults of the kernel too: CAP_SYS_PTRACE,
 * or vm.unprivileged_userfaultfd=1, or a right to open /dev/userfaultfd; it starts
 * when there is work for it and ends when there is none.
 *
 * Returns when it is done: milliseconds for each GiB. Other threads go on meanwhile;
 * one that touches a table (2 MiB) which is moved just then waits some 0.1 ms.
 * 0 also when nothing was frozen.
 * -EBUSY: a descendant looks. -EPERM: other threads run and there is no such
 * userfaultfd, or mlockall(MCL_FUTURE) is in force, or descendants cannot be counted.
 * -EAGAIN: some memory stays frozen (pages are pinned, no map left), or no thread could
 * be made.
 * Not for signal handlers: it may make a thread.
 */
int cow_thaw(void) COW_MUST_CHECK;

/*
 * For those who make children by clone(2) without CLONE_VM, or by _Fork(3):
 * what the atfork handlers do, to call around it. cow_fork_enter() blocks all
 * signals and holds the library's lock until the same thread calls one of the
 * others: cow_fork_parent() in the parent (also when no child was made),
 * cow_fork_child() in the child, as the first thing. They nest.
 * -ENOMEM from cow_fork_enter(): could not freeze; nothing is held.
 */
int cow_fork_enter(void) COW_MUST_CHECK;
void cow_fork_parent(void);
void cow_fork_child(void);

/* --- regions ------------------------------------------------------------ */

enum cow_state {
	COW_STATE_NATIVE,	/* plain memory; fork copies its page tables */
	COW_STATE_OWNED,	/* in the store, mapped shared, never in a child */
	COW_STATE_FROZEN,	/* in the store, mapped private, flat to fork */
	COW_STATE_ARMED,	/* where it was, write-protected, flat to fork */
};

/* "native", "owned", "frozen", "armed"; "?" for anything else. A static string. */
const char *cow_state_string(enum cow_state state);

/*
 * Make a region of private zero-filled read-write memory whose forks are flat.
 * It behaves as an anonymous private mapping does, with or without the preload
 * runtime; for memory calls on it see cow_mmap() and kin.
 *
 *   size      bytes, 1 to the free address space; rounded up to whole pages
 *   align     bytes, a power of two of at least a page, or 0 for the library's
 *             choice (2 MiB where size is a multiple of that)
 *   ret_addr  where the base address goes; untouched on failure
 *
 * Where the store cannot be used the memory is plain anonymous memory, its
 * state COW_STATE_NATIVE, and cow_stats says why.
 * -EINVAL: size is 0, align is no power of two or below a page.
 * -ENOMEM: no memory or address space; size or align is too large.
 */
int cow_region_create(size_t size, size_t align, void **ret_addr)
	COW_NONNULL(3) COW_MUST_CHECK;

/*
 * Give a region back. Children that live keep seeing what they saw.
 * -EINVAL: addr is not the base of a region of this process (also: destroyed
 * twice). -ENOMEM: the kernel could not split a mapping; the region stays.
 */
int cow_region_destroy(void *addr) COW_MUST_CHECK;

/*
 * State of the memory at any address: an enum cow_state. Addresses that the
 * library does not manage are COW_STATE_NATIVE. Never fails.
 */
int cow_region_state(const void *addr) COW_MUST_CHECK;

/* --- adoption ----------------------------------------------------------- */

/*
 * Move memory that exists already into the store, so that forks of it are flat:
 * private anonymous read-write memory wherever it came from (the brk heap, malloc's
 * arenas and blocks, .bss). Its content and addresses stay. Not needed as a rule, see
 * the option adopt.
 *
 *   addr, len   whole pages, bytes; or NULL and 0: all mappings of at least the option
 *               min_size, and smaller ones that grew next to what was adopted
 *
 * What is no such memory is passed over: stacks, locked memory, memory with
 * MADV_DONTFORK, MADV_WIPEONFORK or MADV_DONTDUMP, huge pages of hugetlbfs, devices,
 * memory of a userfaultfd, pages pinned for I/O, control blocks of threads.
 *
 * With COW_ENGINE_IN_PLACE it is armed where it lies, about 10 ms for each GiB; -EPERM
 * then also when no pager can be had.
 *
 * Returns when it is done, 0.3 to 0.4 s for each GiB in memory. Other threads go on
 * meanwhile; one that touches what is moved just then waits, 1 ms as a rule. With other
 * threads it needs what cow_thaw() needs.
 * 0 also when there was nothing to adopt.
 * While it runs no thread may unmap or replace memory of the range by system calls that
 * the library does not see; the preload runtime sees to malloc's own.
 * -EINVAL: addr or len is not a multiple of the page size, only one of them is 0, or the
 * range wraps around.
 * -EPERM: other threads run, and there is no userfaultfd(2) that sees the kernel's
 * faults; or no store can be had. cow_stats says why (adopt_reason).
 * -EAGAIN: some of it stays native (pages are pinned, no map or memory left).
 * Not for signal handlers: it may make a thread.
 */
int cow_adopt(void *addr, size_t len) COW_MUST_CHECK;

/*
 * Make what lies in the store plain anonymous memory again, content kept. Where the
 * option adopt allows it, it is adopted again when forks have paid for that.
 *
 *   addr, len   as of cow_adopt(); NULL and 0: all that was adopted
 *
 * Children that live keep seeing what they saw. Cost and threads as of cow_adopt().
 * 0 also when there was nothing to release. -EINVAL, -EPERM as above. -EAGAIN: some of
 * it is in the store still. -ENOMEM: no memory or map left; likewise.
 */
int cow_release(void *addr, size_t len) COW_MUST_CHECK;

/* --- memory calls ------------------------------------------------------- */

/*
 * mmap(2), munmap(2), mprotect(2), madvise(2), mremap(2), mlock2(2) and
 * mlockall(2) with their own meaning, results and errno, on any memory of the
 * process. On memory in the store they keep the meaning that they have on
 * anonymous private memory, where the bare system call would not. The preload
 * runtime puts them under the C library's names; a program that calls the
 * library directly uses them on its regions. cow_mmap() puts private anonymous
 * mappings of at least the option min_size into the store.
 */
void *cow_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	COW_MUST_CHECK;
int cow_munmap(void *addr, size_t len) COW_MUST_CHECK;
int cow_mprotect(void *addr, size_t len, int prot) COW_MUST_CHECK;
int cow_madvise(void *addr, size_t len, int advice) COW_MUST_CHECK;
void *cow_mremap(void *addr, size_t old_len, size_t new_len, int flags,
		 void *new_addr) COW_MUST_CHECK;
int cow_mlock2(const void *addr, size_t len, unsigned flags) COW_MUST_CHECK;
int cow_mlockall(int flags) COW_MUST_CHECK;
int cow_munlockall(void) COW_MUST_CHECK;

/* --- statistics --------------------------------------------------------- */

/* Why memory is plain anonymous memory rather than in the store, or stays frozen. */
enum cow_reason {
	COW_REASON_NONE,
	COW_REASON_OFF,		/* engine off */
	COW_REASON_KIND,	/* a kind of mapping that does not belong there */
	COW_REASON_FORKING,	/* asked for while a fork was under way */
	COW_REASON_MEMFD,	/* memfd_create(2) refused */
	COW_REASON_REMAP,	/* the kernel cannot move page tables as needed */
	COW_REASON_OVERCOMMIT,	/* vm.overcommit_memory is 2 */
	COW_REASON_FSIZE,	/* RLIMIT_FSIZE is set */
	COW_REASON_ADDRESS,	/* RLIMIT_AS or RLIMIT_DATA is set, or no
				 * address space left */
	COW_REASON_MAPS,	/* vm.max_map_count reached */
	COW_REASON_LOCKED,	/* mlockall(MCL_FUTURE) or mlock(2) */
	COW_REASON_STORES,	/* too many generations of stores in a process */
	COW_REASON_CALL,	/* a memory call that only plain memory can serve */
	COW_REASON_FOREIGN,	/* another mapping was found where a region was */
	COW_REASON_SANDBOX,	/* the program restricted its system calls */
	COW_REASON_PINNED,	/* a descriptor that pins memory for devices is open,
				 * or a page is pinned */
	COW_REASON_UFFD,	/* no userfaultfd(2) that sees the kernel's faults */
	COW_REASON_THREAD,	/* no thread can be made */
	COW_REASON_LEASE,	/* descendants cannot be counted */
	COW_REASON_OWNER,	/* its owner makes system calls of its own (sanitizers) */
	COW_REASON_PAGER,	/* the process that serves children was killed */
	COW_REASON_DEAR,	/* filling children cost more than page tables would */
	COW_REASON_CHILDREN,	/* more living children than can be served */
	COW_REASON_PRIVILEGES,	/* the program gave up some, which the pager would keep */
	COW_REASON_COUNT,
};

/* One line of plain English for a reason; "?" when out of range. Static. */
const char *cow_reason_string(enum cow_reason reason);

/*
 * Set `size` to sizeof(struct cow_stats) before the call; later versions add
 * fields at the end. Counters belong to this process and start at its birth;
 * times are CLOCK_MONOTONIC nanoseconds, sizes are bytes.
 */
struct cow_stats {
	size_t size;

	uint64_t forks;			/* children made, however (a plain fork()
					 * that the kernel refused counts too) */
	uint64_t forks_native;		/* ... nothing was managed */
	uint64_t forks_frozen;		/* ... everything was frozen already */
	uint64_t forks_freeze;		/* ... something was frozen for it */
	uint64_t forks_refresh;		/* ... page tables were rebuilt for it */
	uint64_t forks_refused;		/* not made: could not freeze (a failed
					 * cow_prepare() counts too) */

	uint64_t fork_ns_total;		/* in the kernel's fork, our work left out */
	uint64_t fork_ns_last;
	uint64_t fork_ns_min;
	uint64_t freezes;		/* freezes that moved something */
	uint64_t freeze_ns_total;
	uint64_t freeze_ns_last;
	uint64_t thaws;
	uint64_t thaw_ns_total;

	uint64_t regions;		/* made by cow_region_create(), alive */
	uint64_t bytes_owned;
	uint64_t bytes_frozen;		/* of this process's own store */
	uint64_t bytes_inherited;	/* frozen, in the store of an ancestor */
	uint64_t bytes_native;		/* within windows, but plain memory */
	uint64_t bytes_deferred;	/* freed, kept for living descendants */
	uint64_t bytes_reserved;	/* address space of windows and shadows */
	uint64_t extents;

	uint64_t tables;		/* page tables (2 MiB) of owned and frozen memory */
	uint64_t tables_huge;		/* ... collapsed into a huge page */
	uint64_t collapse_ns_total;

	uint64_t generation;		/* number of thaws so far, plus 1 once frozen */
	uint64_t generation_forks;	/* children of this generation, dead or alive */
	int64_t generation_live;	/* living descendants that may still see it:
					 * children, grandchildren and so on that
					 * have not exec'd; -1 cannot be told */

	uint64_t native[COW_REASON_COUNT]; /* how often memory stayed or became
					    * plain, or frozen, by reason */

	uint64_t thaw_tables;		/* thawed beside living threads */
	uint64_t thaw_hold_ns_max;	/* longest that one of them was held */
	uint64_t frozen_reason;		/* enum cow_reason: what keeps memory frozen
					 * that nobody looks at; COW_REASON_NONE:
					 * nothing, it will thaw when that pays */

	uint64_t bytes_adopted;		/* of bytes_frozen: memory that was adopted */
	uint64_t adoptions;		/* passes that adopted something */
	uint64_t adopt_ns_total;
	uint64_t adopt_hold_ns_max;	/* longest that a writer may have been held */
	uint64_t adopt_reason;		/* enum cow_reason: what kept memory from being
					 * adopted (or armed), last time */

	uint64_t forks_in_place;	/* children made with armed memory */
	uint64_t bytes_armed;
	uint64_t pager_faults;		/* answered, children's and this process's */
	uint64_t pager_bytes;		/* copied to children */
	uint64_t pager_ns;		/* busy with that */
	uint64_t pager_killed;		/* children that could not be served, and ended */
};

/*
 * Fill *stats. Exact at one moment; takes the library's lock.
 * -EINVAL: stats->size is smaller than sizeof(size_t).
 */
int cow_stats(struct cow_stats *stats) COW_NONNULL(1) COW_MUST_CHECK;

/* What this machine and user have, each 1 or 0. Set `size` before the call. */
struct cow_facilities {
	size_t size;
	int memfd;		/* memfd_create(2) */
	int remap;		/* mremap(MREMAP_DONTUNMAP) on file mappings (5.13) */
	int collapse;		/* madvise(MADV_COLLAPSE) on shared memory (6.1) */
	int maps;		/* /proc/self/maps */
	int pagemap;		/* /proc/self/pagemap */
	int sysvshm;		/* shmget(2): its attach count tells of descendants */
	int mlock;		/* one page may be locked */
	int overcommit;		/* vm.overcommit_memory is not 2 */
	int limits;		/* RLIMIT_AS, RLIMIT_DATA, RLIMIT_FSIZE unlimited */
	int userfaultfd;	/* one that sees faults of the kernel too */
	int in_place;		/* ... and tells of forks */
};

/*
 * Probe the machine (about 2 ms, no lasting effect).
 * -EINVAL: fac->size is smaller than sizeof(size_t).
 */
int cow_facilities(struct cow_facilities *fac) COW_NONNULL(1) COW_MUST_CHECK;

/* --- debug callback ----------------------------------------------------- */

enum cow_log_level { COW_LOG_ERROR, COW_LOG_WARN, COW_LOG_INFO, COW_LOG_DEBUG };

/*
 * Called with one line of text without newline, up to 255 bytes, valid during
 * the call. Runs with all signals blocked and the library's lock held: it must
 * not call the library, allocate memory, or fork.
 */
typedef void cow_log_fn(void *arg, enum cow_log_level level, const char *text);

/* Set the callback, NULL for none (the default). */
void cow_set_log(cow_log_fn *fn, void *arg);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
