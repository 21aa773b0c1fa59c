/*
 * Pages that are pinned for a device (O_DIRECT in flight, io_uring's registered
 * buffers, RDMA): the device writes to the page, not to the address, so such a page
 * must not be exchanged.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PIN_H
#define COWFORK_PIN_H

#include <stddef.h>
#include <stdint.h>

/* Is a page of [start, start + len) pinned, private memory that a fork would give
 * to the child? 1, 0, -errno. Costs a fork. */
int pin_found(uintptr_t start, size_t len);

#endif
