/*
 * What is known to differ, see raw-calls.c. A letter says how:
 *
 *	W, w	wrong bytes are seen: by who made the call, by a child of it
 *	C, c	SIGSEGV or SIGBUS where there is memory
 *	O, o	memory where there is SIGSEGV or SIGBUS
 *	P	wrong bytes are seen by the parent of who made the call
 *	K, H	the process ends, hangs
 *	E	the call returns another value
 *	L, U	... the one made while a child lives; the one that takes it back
 *	F	a fork fails, or its child ends in another way
 *	M	memory that is given back is held
 *
 * SPDX-License-Identifier: MIT
 */
#include <string.h>

#include "raw-calls-known.h"

static const struct {
	const char *call;
	const char *letters[KINDS - FIRST_KIND];
} known[] = {
	/* owned, frozen, child's, inherited, adopted, its child, heap, its child, armed,
	 * its child */

	/* Memory in a store does not become zeros: what the store holds shows again, and nothing is
	 * given back. */
	{ "dontneed", { "WwM", "WwM", "Ww", "Ww", "WwM", "Ww", "WwM", "Ww", "", "" } },
	{ "dontneed all", { "WwM", "WwM", "Ww", "Ww", "WwM", "Ww", "WwM", "Ww", "", "" } },
	{ "dontneed locked", { "WwM", "WwM", "Ww", "Ww", "WwM", "Ww", "WwM", "Ww", "", "" } },
	{ "dontneed by process", { "WwM", "WwM", "Ww", "Ww", "WwM", "Ww", "WwM", "Ww", "", "" } },
	/* Refused (EINVAL, EACCES) where plain memory takes it, or the other way round: a program
	 * that asks for the result knows. On a shared mapping "remove" does zero. */
	{ "free", { "E", "E", "E", "E", "E", "E", "E", "E", "", "" } },
	{ "remove", { "EWw", "E", "EWw", "E", "E", "E", "E", "E", "", "" } },
	{ "wipeonfork", { "Ew", "Ew", "Ew", "Ew", "Ew", "Ew", "Ew", "Ew", "w", "w" } },
	/* A child sees what it was not to see. */
	{ "dontfork", { "o", "", "o", "", "", "", "", "", "o", "" } },
	/* A fork parks the guards of owned memory with its page tables; where they are taken back
	 * old bytes show. Armed: who touches what its parent cannot read is killed. */
	{ "guard", { "WOwoM", "WwM", "WOwo", "Ww", "WwM", "Ww", "WwM", "Ww", "F", "WOwo" } },
	{ "guard, kept", { "Oo", "", "Oo", "", "", "", "", "", "F", "Oo" } },
	/* A window is behind it, so that it cannot grow (ENOMEM). */
	{ "grow", { "ECc", "ECc", "ECc", "", "", "", "", "", "", "" } },
	{ "grow end", { "ECc", "ECc", "ECc", "", "", "", "", "", "", "" } },
	/* It shows what the store holds behind: old bytes, or a neighbour's, who shares them from
	 * then on where the mapping is a shared one. Armed: children lack what it grew by. */
	{ "grow moving", { "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "c", "" } },
	{ "grow part", { "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "c", "" } },
	{ "shrink, grow", { "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "Ww", "", "" } },
	/* Old bytes rather than zeros where it was. */
	{ "move leaving", { "Wwc", "Ww", "Wwc", "Ww", "Ww", "Ww", "Ww", "Ww", "", "" } },
	/* A fork cannot freeze it, and fails (ENOMEM). */
	{ "mseal", { "F", "", "F", "", "", "", "", "", "", "" } },
	/* As on any shared mapping. */
	{ "duplicate", { "EWOwc", "", "EWOwc", "", "", "", "", "", "", "" } },
	{ "remap_file_pages", { "EWw", "", "EWw", "", "", "", "", "", "", "" } },
	/* An in-place child has nothing in memory at first. */
	{ "mincore", { "", "", "", "", "", "", "", "", "", "E" } },
	/* What is missing in memory is in the file: no fault. Armed memory has a userfaultfd
	 * already (EBUSY). */
	{ "userfaultfd", { "", "", "", "", "", "", "", "", "EU", "EU" } },
	{ "userfaultfd missing", { "WOw", "WOw", "WOw", "WOw", "WOw", "WOw", "WOw", "WOw",
				   "EWOwU", "EWOwU" } },
	/* Device and program have different pages once one was written; children see the device's. */
	{ "io_uring", { "Ww", "", "Ww", "", "", "", "", "", "", "" } },
	/* The kernel does not wait there for whom it protects: EIO, and nothing is written. */
	{ "/proc/self/mem", { "", "", "", "", "", "", "", "", "EWw", "EWw" } },
	/* Its child gets none of that memory (SIGSEGV). */
	{ "fork", { "c", "", "c", "", "", "", "", "", "c", "" } },
	{ "clone", { "c", "", "c", "", "", "", "", "", "c", "" } },
	{ "clone3", { "c", "", "c", "", "", "", "", "", "c", "" } },
};

const char *known_of(const char *call, enum kind kind)
{
	for (int i = 0; i < COUNT(known); i++)
		if (!strcmp(known[i].call, call))
			return known[i].letters[kind - FIRST_KIND];
	return "";
}
