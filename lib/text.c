/*
 * Names and sentences for what the library reports.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cowfork.h"

const char *cow_version(void)
{
	return COW_VERSION;
}

const char *cow_state_string(enum cow_state state)
{
	switch (state) {
	case COW_STATE_NATIVE: return "native";
	case COW_STATE_OWNED: return "owned";
	case COW_STATE_FROZEN: return "frozen";
	case COW_STATE_ARMED: return "armed";
	}
	return "?";
}

const char *cow_reason_string(enum cow_reason reason)
{
	static const char *const text[COW_REASON_COUNT] = {
		[COW_REASON_NONE] = "nothing stays native",
		[COW_REASON_OFF] = "the engine is off",
		[COW_REASON_KIND] = "a kind of mapping that does not belong in the store",
		[COW_REASON_FORKING] = "mapped while a fork was under way",
		[COW_REASON_MEMFD] = "memfd_create(2) was refused",
		[COW_REASON_REMAP] = "this kernel cannot move the page tables of a file mapping",
		[COW_REASON_OVERCOMMIT] = "vm.overcommit_memory is 2",
		[COW_REASON_FSIZE] = "a file size limit (RLIMIT_FSIZE) is set",
		[COW_REASON_ADDRESS] = "an address space limit is set, or the address space is full",
		[COW_REASON_MAPS] = "no memory map left (vm.max_map_count)",
		[COW_REASON_LOCKED] = "locked memory",
		[COW_REASON_STORES] = "too many ancestors' stores in this process",
		[COW_REASON_CALL] = "a memory call that only plain memory can serve",
		[COW_REASON_FOREIGN] = "another mapping was found where a region was",
		[COW_REASON_SANDBOX] = "the program restricted its system calls",
		[COW_REASON_PINNED] = "memory may be pinned for devices",
		[COW_REASON_UFFD] = ("no userfaultfd(2) that sees the kernel's faults "
				     "(CAP_SYS_PTRACE, vm.unprivileged_userfaultfd, "
				     "/dev/userfaultfd)"),
		[COW_REASON_THREAD] = "no thread can be made",
		[COW_REASON_LEASE] = ("descendants cannot be counted (System V shared memory, "
				      "a locked page, /proc/self/pagemap)"),
		[COW_REASON_OWNER] = ("its owner makes system calls of its own (a sanitizer): "
				      "adopted only when asked for"),
		[COW_REASON_PAGER] = "the process that serves children was killed",
		[COW_REASON_DEAR] = "filling children cost more than copying page tables would",
		[COW_REASON_CHILDREN] = "more living children than can be served",
		[COW_REASON_PRIVILEGES] = "the program gave up privileges, which the pager "
					  "would keep",
	};

	return (unsigned)reason < COW_REASON_COUNT ? text[reason] : "?";
}
