/*
 * Pages that are pinned: a device (O_DIRECT in flight, io_uring's registered
 * buffers, RDMA) or another process (process_vm_writev(2)) writes to the page, not to
 * the address, so such a page must not be exchanged.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PIN_H
#define COWFORK_PIN_H

#include <stddef.h>
#include <stdint.h>

/* Can pins be told on this kernel? Before Linux 6.5 direct I/O takes references
 * that look like any others. */
int pin_can_tell(void);

/* Is a private page pinned that was in [start, start + len) of a window and now lies
 * at `at`, where nobody else reaches it, MADV_DONTFORK both? 1, 0, -errno. Costs the
 * fork of a process without what is frozen. *ret_probe: a child that has been killed
 * and is to be reaped, before a lease is asked, or 0. The process lock is held. */
int pin_found(uintptr_t at, uintptr_t start, size_t len, int *ret_probe);

#endif
