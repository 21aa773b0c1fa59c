/*
 * What is known to differ.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_TEST_RAW_CALLS_KNOWN_H
#define COWFORK_TEST_RAW_CALLS_KNOWN_H

#include "raw-calls.h"

/* Letters, see raw-calls-known.c. */
const char *known_of(const char *call, enum kind kind);

#endif
