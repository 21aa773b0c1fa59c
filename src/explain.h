/*
 * What this machine, this user and a program's file mean for cowfork, in words.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_EXPLAIN_H
#define COWFORK_EXPLAIN_H

/* Print what the machine has and what follows. Returns 1 when the store engine
 * can be used, 0 when everything would stay native, -errno. */
int explain_machine(void);

/* Why the preload runtime cannot reach this executable file, or NULL. */
const char *explain_out_of_reach(const char *path);

#endif
