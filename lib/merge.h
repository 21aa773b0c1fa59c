/*
 * The pages that this process has of its own in a part of a window, copied into
 * the store, before the store is laid there again. The process lock is held by
 * every caller, and no descendant looks.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_MERGE_H
#define COWFORK_MERGE_H

#include "store.h"

/* Plain anonymous memory that was laid over a window while descendants looked,
 * and on which there is nothing that the store cannot have. */
int merge_is_overlay(const struct extent *e);

/* Has this process pages of its own there? 1 also when it cannot be told. */
int merge_has_pages(const struct extent *e);

/* Where to cut a piece so that merging it is about so many tables or pages of work:
 * at the edge of a table. */
uintptr_t merge_edge(const struct extent *e, size_t tables, size_t pages);

/* Ahead of it, for an overlay on fresh offsets: huge pages where its first MERGE_RUN
 * tables are full, if options allow. A call waits for every processor once. */
#define MERGE_RUN 32u
void merge_prepare(struct store *s, const struct extent *e);

/* Copy the private pages of a piece, which lie at `from` just now: in place, or
 * where they were moved to. Of an overlay nothing but its pages is in the store
 * afterwards. On failure the store holds nothing that would show later. 0, -errno. */
int merge_piece(struct store *s, const struct extent *e, uintptr_t from);

#endif
