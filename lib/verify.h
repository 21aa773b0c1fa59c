/*
 * Is memory still what the library left there? Asked before it is re-mapped.
 * Where /proc is missing it cannot be told, and is taken for granted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_VERIFY_H
#define COWFORK_VERIFY_H

#include "store.h"

/* Look at a whole window; what is another mapping than it should be is the
 * program's from now on (EXTENT_FOREIGN; in an adopted window the kernel's, FREE). 0 or
 * -ENOMEM: also where there is no /proc any more to look at an adopted window, which is
 * to stay as it is then. */
int verify_store(struct store *s);

/* The same if there is anything to find in this part of an adopted window. */
int verify_range(struct store *s, uintptr_t start, uintptr_t end);

/* Is the beginning of this piece of an extent a mapping of the kind, and if it was adopted
 * of the protection, that it should be? The piece is cut where that mapping ends. */
int verify_piece(const struct store *s, struct extent *e);

#endif
