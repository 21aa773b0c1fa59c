/*
 * 04-redis-load.h: what the files of 04-redis-load share. 04-redis-load.c knows
 * the data and the command line, 04-redis-write.c the load and its figures,
 * 04-redis-check.c what a snapshot must hold.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef REDIS_LOAD_H
#define REDIS_LOAD_H

#include <stddef.h>
#include <stdint.h>

#define CONNS_MAX 64
#define VALUE_MAX 65536
#define COMMAND_MAX (VALUE_MAX + 80)
#define BATCH 256		/* commands in a pipeline */

extern uint64_t keys, size, conns;

/* The key of write k of connection c; those of another are others. */
uint64_t key_of(uint64_t c, uint64_t k);
void make_value(char *to, uint64_t key, uint64_t k);
size_t make_set(char *to, uint64_t key, uint64_t k);

int dial(void);
void put(int fd, const char *data, size_t len);
/* How many answers to SET have come: +OK, or an error. */
uint64_t get_answers(int fd);

void write_until_told(uint64_t rate);
void check(uint64_t low);

#endif
