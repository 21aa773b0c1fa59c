/*
 * 04-redis-load: a load for redis-server whose snapshots can be verified. KEYS =
 * MIB / BYTES keys are filled with value number 0. Half of them are divided among
 * CONNS connections; write number k of a connection (1, 2...) sets the key that
 * key_of() names to value number k. So the data tells how many writes of each
 * connection it has seen, and whether it holds exactly those.
 *
 * Use: 04-redis-load PORT MIB BYTES CONNS fill
 *      04-redis-load PORT MIB BYTES CONNS check [LOW]
 *		status 1 unless all is as at one moment, after LOW or more writes
 *      04-redis-load PORT MIB BYTES CONNS write [SETS_PER_SECOND]
 *		until SIGTERM; SIGUSR1 tells it that a save begins, SIGUSR2 that it
 *		has ended. Prints "name value" lines for each save and other time.
 *		Latency counts from when a SET was due: a server that stands still
 *		does not slow its clients down. Without a rate, each connection
 *		sends the next SET when it has the answer to the last.
 *
 * SPDX-License-Identifier: MIT
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "04-redis-load.h"

uint64_t keys, size, conns;
static uint64_t port;

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

uint64_t key_of(uint64_t c, uint64_t k)
{
	return c + 2 * conns * (mix(k * conns + c) % (keys / (2 * conns)));
}

void make_value(char *to, uint64_t key, uint64_t k)
{
	uint64_t word = mix(key << 32 ^ k);

	memcpy(to, &k, sizeof(k));
	for (size_t i = sizeof(k); i < size; i += sizeof(word)) {
		word = word * 6364136223846793005u + 1442695040888963407u;
		memcpy(to + i, &word, size - i < sizeof(word) ? size - i : sizeof(word));
	}
}

size_t make_set(char *to, uint64_t key, uint64_t k)
{
	int n = sprintf(to, "*3\r\n$3\r\nSET\r\n$12\r\nkey:%08lu\r\n$%lu\r\n", key, size);

	make_value(to + n, key, k);
	memcpy(to + n + size, "\r\n", 2);
	return (size_t)n + size + 2;
}

int dial(void)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		err(1, "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

void put(int fd, const char *data, size_t len)
{
	for (ssize_t n; len > 0; data += n, len -= (size_t)n) {
		n = send(fd, data, len, MSG_NOSIGNAL);
		if (n < 0)
			err(1, "send");
	}
}

uint64_t get_answers(int fd)
{
	char data[8192];
	ssize_t n = recv(fd, data, sizeof(data), 0);
	uint64_t lines = 0;

	if (n <= 0)
		errx(1, "the server is gone");
	for (ssize_t i = 0; i < n; i++) {
		if (data[i] == '-')
			errx(1, "the server says %.*s", (int)(n - i), data + i);
		lines += data[i] == '\n';
	}
	return lines;
}

static void fill(void)
{
	static char data[BATCH * COMMAND_MAX];
	int fd = dial();

	for (uint64_t key = 0, done = 0; key < keys; ) {
		size_t len = 0;

		for (int i = 0; i < BATCH && key < keys; i++)
			len += make_set(data + len, key++, 0);
		put(fd, data, len);
		while (done < key)
			done += get_answers(fd);
	}
}

int main(int argc, char **argv)
{
	uint64_t number[5] = { 0 };

	for (int i = 0; i < 4 && i + 1 < argc; i++)
		number[i] = strtoul(argv[i + 1], NULL, 10);
	port = number[0];
	size = number[2];
	conns = number[3];
	if (argc < 6 || size < 32 || size > VALUE_MAX || conns < 1 || conns > CONNS_MAX)
		errx(1, "use: 04-redis-load PORT MIB BYTES CONNS "
			"fill|check|write [NUMBER]");
	keys = (number[1] << 20) / size;
	if (keys < 2 * conns || keys > 99999999)
		errx(1, "%lu keys are too few or too many", keys);
	number[4] = argc > 6 ? strtoul(argv[6], NULL, 10) : 0;
	if (!strcmp(argv[5], "fill"))
		fill();
	else if (!strcmp(argv[5], "check"))
		check(number[4]);
	else
		write_until_told(number[4]);
	return 0;
}
