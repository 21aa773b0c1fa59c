/*
 * How many descendants still look at this process's store?
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_LEASE_H
#define COWFORK_LEASE_H

#include <stdint.h>

struct lease {
	int id;			/* System V segment, -1 when there is none */
	int64_t born;		/* its creation time, to know it again */
	uintptr_t attached;	/* its one page, PROT_NONE */
	uintptr_t marker;	/* locked anonymous page, 0 when there is none */
};

/* Never fails; a lease without a segment or a marker never falls free. */
void lease_open(struct lease *l);
void lease_close(struct lease *l);

/* Living descendants that inherited the attachment; -1 when unknown. */
int64_t lease_count(const struct lease *l);

/* Can both witnesses be asked? */
int lease_tells(const struct lease *l);

/* Do both witnesses say that nobody looks? 0 also when one cannot be asked. */
int lease_free(const struct lease *l);

#endif
