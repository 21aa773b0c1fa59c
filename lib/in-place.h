/*
 * The in-place engine: memory stays anonymous where it lies. It is write-protected, a child
 * begins with empty memory, and the pager (pager.h) copies what either side needs.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_IN_PLACE_H
#define COWFORK_IN_PLACE_H

#include <stddef.h>
#include <stdint.h>

#include "adopt.h"

/* All under the process lock, but where it says otherwise. */

/* Is it the engine for memory that comes from now on? */
int in_place_wanted(void);

/* Before the first of them, without the lock, for it takes malloc's: the heap does not shrink
 * by itself from now on, which nobody would see. */
void in_place_tame(void);

/* Arm all candidates of a range; 0, or the enum cow_reason that keeps some of it plain. */
int in_place_arm(const struct adopt_what *what);

/* Make what is armed of a range plain memory again. */
int in_place_release(uintptr_t start, uintptr_t end);

/* Before and after a fork. 1: it is one of armed memory. */
int in_place_open(void);
void in_place_close(void);
void in_place_child(void);	/* no lock */

/* Around a call by which the program gives up privileges, or enters namespaces or a sandbox,
 * where the pager cannot follow, or has the kernel merge its memory: it ends, and for that reason
 * there is none from now on; none begins before in_place_parted(), which gets what the first
 * gave. That takes the lock and lets it go, since setuid(2) and its kin wait for all threads;
 * neither changes errno. */
int in_place_end(enum cow_reason why);
int in_place_part(void);	/* COW_REASON_PRIVILEGES */
void in_place_parted(int parting);

/* Is a byte of it armed? Without the lock. */
int in_place_at(uintptr_t start, size_t len);

/* Nothing is armed there, and no other thread can arm it meanwhile. Without the lock. */
int in_place_is_plain(uintptr_t start, size_t len);

/* [start, start + len) is about to be unmapped, replaced, moved or given other attributes:
 * children get what they lack, and it is plain memory. Until in_place_left() it stays so:
 * the lock is kept, or another thread might arm it and fork before that is done, and its
 * child would need what is gone. What it returns is for in_place_left(). */
__attribute__((warn_unused_result)) int in_place_leave(uintptr_t start, size_t len);
void in_place_left(int held);

/* ... is about to be emptied; it stays armed. In the same way until in_place_emptied(). Where that
 * was MADV_FREE, and what it returned, is told before. */
__attribute__((warn_unused_result)) int in_place_empty(uintptr_t start, size_t len);
void in_place_freed(int held, uintptr_t start, size_t len, int ret);
void in_place_emptied(int held);

/* In a child: what it has of its ancestors' in [start, start + len) becomes its own, of
 * which the pager serves nothing to its children. What another thread writes there meanwhile
 * can be lost. Takes the lock. 0, -errno. */
int in_place_own(uintptr_t start, size_t len);

uint64_t in_place_bytes(void);

#endif
