#!/bin/bash
# Programs built with sanitizers start under cowfork-run and behave as they do
# without: memory is right in children, a real error is reported, nothing else is.
# gcc's shared runtimes must come before ours in LD_PRELOAD, which the launcher has
# to see in the program's file, whatever that file is.
#
# SPDX-License-Identifier: MIT
set -u
build=$(cd "${top_builddir:-.}" && pwd)
run=$build/src/cowfork-run
[ -x "$run" ] || { echo "skip: $run was not built"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 99
export COWFORK_MIN_SIZE=1M ASAN_OPTIONS=symbolize=0 TSAN_OPTIONS=symbolize=0
status=0 tried=

fail()
{
	echo "FAIL: $*"
	status=1
}

# --- the programs -----------------------------------------------------------

cat >memory.c <<'END'
/* Memory by mmap and malloc, changed by a child, a grandchild and the parent, each
 * of which must see its own. With an argument, the error it names. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 6 << 20, PAGE = 4096 };

static int is(const unsigned char *p, int add)
{
	for (int i = 0; i < SIZE; i += PAGE)
		if (p[i] != (unsigned char)(i / PAGE + add))
			return 0;
	return 1;
}

static void fill(unsigned char *p, int add)
{
	for (int i = 0; i < SIZE; i += PAGE)
		p[i] = (unsigned char)(i / PAGE + add);
}

static int wait_for(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

static int descend(unsigned char *m, unsigned char *h, int depth)
{
	pid_t pid;

	if (!is(m, depth) || !is(h, depth))
		return 10 + depth;
	if (depth == 3)
		return 0;
	pid = fork();
	if (!pid) {
		fill(m, depth + 1);
		fill(h, depth + 1);
		exit(descend(m, h, depth + 1));
	}
	if (wait_for(pid))
		return 20 + depth;
	return is(m, depth) && is(h, depth) ? 0 : 30 + depth;
}

/* Until forks have paid for adoption. */
static int forks(void)
{
	char *h = malloc(64 << 20);
	int n = 0;

	memset(h, 1, 64 << 20);
	for (pid_t pid = 0; n < 300; n++) {
		pid = fork();
		if (!pid)
			_exit(h[SIZE] != 1);
		if (wait_for(pid))
			break;
	}
	free(h);
	return n < 300;
}

static int use_after_free(void)
{
	volatile char *p = malloc(SIZE), *q = malloc(40);

	free((void *)q);
	free((void *)p);
	return q[3];
}

int main(int argc, char **argv)
{
	unsigned char *h = malloc(SIZE), *m = NULL;
	volatile int n = INT_MAX;

	for (int i = 0; i < 3; i++) {
		m = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (m == MAP_FAILED || !h)
			return 1;
		fill(m, 0);
		fill(h, 0);
		printf("%d\n", descend(m, h, 0));
		fflush(stdout);
		munmap(m, SIZE);
	}
	free(h);
	if (argc > 1 && !strcmp(argv[1], "forks"))
		return forks();
	if (argc > 1 && !strcmp(argv[1], "free"))
		return use_after_free();
	if (argc > 1 && !strcmp(argv[1], "overflow"))
		return ++n == 0;
	return 0;
}
END

cat >threads.c <<'END'
/* Two threads map, write and unmap in turns, at addresses that are used again: no
 * race, though nothing but the memory calls orders them. With an argument, a race. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 4 << 20, PAGE = 4096, TURNS = 20 };

static atomic_int turn;
static int shared;

static void *work(void *arg)
{
	for (int me = (int)(intptr_t)arg; me < TURNS; me += 2) {
		volatile char *p;

		while (atomic_load_explicit(&turn, memory_order_relaxed) != me)
			;
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < SIZE; i += PAGE)
			p[i] = 1;
		munmap((void *)p, SIZE);
		atomic_store_explicit(&turn, me + 1, memory_order_relaxed);
	}
	return NULL;
}

static void *race(void *arg)
{
	shared += (int)(intptr_t)arg;
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*fn)(void *) = argc > 1 ? race : work;
	volatile char *m = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t t[2];
	int status;
	pid_t pid;

	(void)argv;
	m[PAGE] = 7;
	for (intptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, fn, (void *)i);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	pid = fork();
	if (!pid)
		_exit(m[PAGE] == 7 ? 0 : 1);
	return waitpid(pid, &status, 0) == pid && status == 0 && shared >= 0 ? 0 : 3;
}
END

# --- the checks -------------------------------------------------------------

build()	# name, source, compiler and flags
{
	local name=$1 source=$2
	shift 2
	command -v "$1" >/dev/null || { echo "left out: $name: no $1"; return 1; }
	"$@" -pthread -o "$name" "$source.c" 2>"$name.cc" || {
		echo "left out: $name: $(grep -m1 -i error "$name.cc" || head -1 "$name.cc")"
		return 1
	}
	# a runtime that does not run here by itself says nothing about ours
	"./$name" >"$name.native" 2>&1 || {
		echo "left out: $name: fails natively: $(head -1 "$name.native")"
		return 1
	}
	tried="$tried $name"
}

same()	# name
{
	COWFORK_STATS=$work/$1.json "$run" "./$1" >"$1.cow" 2>&1 ||
		{ fail "$1: status $?"; head -5 "$1.cow"; return; }
	cmp -s "$1.native" "$1.cow" ||
		{ fail "$1: output differs"; diff "$1.native" "$1.cow" | head; return; }
	if grep -q '"forks_freeze": [1-9]' "$1.json"; then
		echo "equal, in the store: $1"
	else
		echo "equal, native: $1: $(grep -o '"native": {[^}]*}' "$1.json")"
	fi
}

# Memory is adopted by itself where no runtime of a sanitizer's owns it.
adopted()	# 0 or 1, name
{
	COWFORK_STATS=$work/$2.json "$run" "./$2" forks >"$2.cow" 2>&1 ||
		{ fail "$2: forks: status $?"; head -5 "$2.cow"; }
	case $1$(grep -o '"adoptions": [0-9]*' "$2.json") in
	0*' 0' | 1*' '[1-9]*) ;;
	*) fail "$2: forks: is adopted, or is not"; cat "$2.json" ;;
	esac
}

reports()	# name, argument, text
{
	"./$1" "$2" >"$1.native.$2" 2>&1
	grep -q "$3" "$1.native.$2" || { echo "left out: $1 finds no $2 natively"; return; }
	"$run" "./$1" "$2" >"$1.cow.$2" 2>&1
	grep -q "$3" "$1.cow.$2" ||
		{ fail "$1: no report of $2"; head -5 "$1.cow.$2"; }
}

clang_runtimes=$(command -v clang >/dev/null && clang -print-runtime-dir 2>/dev/null)
[ -d "$clang_runtimes" ] || clang_runtimes=$(command -v clang >/dev/null &&
	echo "$(clang -print-resource-dir)/lib/linux")
dynamic="-shared-libsan -Wl,-rpath,$clang_runtimes"

address()	# name, compiler and flags
{
	build "$1" memory "${@:2}" || return
	same "$1"
	adopted 0 "$1"
	reports "$1" free heap-use-after-free
}

address asan-gcc gcc -fsanitize=address
address asan-gcc-static gcc -fsanitize=address -static-libasan
address asan-clang clang -fsanitize=address
address asan-clang-shared clang -fsanitize=address $dynamic
address asan-ubsan-gcc gcc -fsanitize=address,undefined

undefined()
{
	build "$1" memory "${@:2}" || return
	same "$1"
	adopted 1 "$1"
	reports "$1" overflow "signed integer overflow"
}

undefined ubsan-gcc gcc -fsanitize=undefined
undefined ubsan-clang clang -fsanitize=undefined
undefined ubsan-gcc-static gcc -fsanitize=undefined -static-libubsan
build plain memory gcc && same plain && adopted 1 plain

threads()
{
	build "$1" threads "${@:2}" || return
	same "$1"
	reports "$1" race "data race"
}

threads tsan-gcc gcc -fsanitize=thread
threads tsan-clang clang -fsanitize=thread
build leak-gcc memory gcc -fsanitize=leak && same leak-gcc && adopted 0 leak-gcc
build msan-clang memory clang -fsanitize=memory && same msan-clang && adopted 0 msan-clang

[ -n "$tried" ] || { echo "skip: no sanitizer works here"; exit 77; }

# --- what the launcher has to see ---------------------------------------------

expect()	# order of initialization, command
{
	local expected=$1 said
	shift
	LD_DEBUG=files LD_DEBUG_OUTPUT=$work/debug "$@" >out 2>&1 ||
		fail "$*: status $?: $(head -1 out)"
	said=$(cat debug.* | grep -oE 'calling init: [^ ]*(asan|cowfork-preload)[^ ]*' |
		grep -oE '[^/]*$' | tr '\n' ' ')
	rm -f debug.*
	[ "$said" = "$expected" ] || fail "$*: initialized: $said"
}

if [ -x asan-gcc ]; then
	asan=$(ldd asan-gcc | awk '$1 ~ /^libasan/ { print $1 }')
	ours=libcowfork-preload.so
	printf '#!%s\n' "$work/asan-gcc" >script
	printf '#! /usr/bin/env\tasan-gcc\nx\n' >script-env
	printf '#!%s\n' "$work/script" >script-script
	chmod +x script script-env script-script
	# what comes last in the list is initialized first
	for program in ./asan-gcc ./script ./script-script; do
		expect "$ours $asan " "$run" "$program"
	done
	# what env(1) got for the program's sake is not inherited, and need not be
	expect "$ours $asan $asan $ours " env "PATH=$work:$PATH" "$run" script-env
	expect "$ours $asan " env "PATH=$work:$PATH" "$run" asan-gcc
	# what was there is inherited
	list=$(env ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$asan libm.so.6" \
		"$run" sh -c 'echo "$LD_PRELOAD"')
	[ "$list" = "$build/lib/.libs/$ours:$asan libm.so.6" ] ||
		fail "what is inherited as LD_PRELOAD is $list"
	printf '%s\n' '#!/bin/sh' ./asan-gcc >starter
	chmod +x starter
	"$run" ./starter >out 2>&1 && cmp -s out asan-gcc.native ||
		fail "started by a shell: $(head -1 out)"
	expect "$ours " "$run" true
fi

# --- files that are no programs -----------------------------------------------

odd()	# file
{
	chmod +x "$1"
	timeout 10 "$run" "./$1" </dev/null >odd.out 2>&1
	case $? in
	0|1|2|126|127) ;;
	*) fail "$1: status $?: $(tail -1 odd.out)" ;;
	esac
}

program=$work/$(set -- $tried; echo "$1")
size=$(stat -c %s "$program")
for bytes in 0 1 3 16 63 64 65 120 500 $((size / 2)) $((size - 1)); do
	head -c $bytes "$program" >odd-$bytes
	# not run by the kernel, but read by us: the interpreter of a script
	printf '#!%s\n' "$work/odd-$bytes" >odd-script
	odd odd-script
done
printf '#!' >odd-empty; odd odd-empty
printf '#!\n' >odd-empty; odd odd-empty
printf '#! \t \n' >odd-empty; odd odd-empty
printf '#!%s\n' "$work/odd-loop" >odd-loop; odd odd-loop
printf '#!%0300d\n' 0 >odd-long; odd odd-long
# the tables full of nonsense; which bytes is told by the seed
seed=${SEED:-$$}
for i in 1 2 3 4 5 6 7 8 9 10; do
	RANDOM=$((seed + i))
	cp "$program" odd-random
	for j in 1 2 3 4 5 6 7 8; do
		printf "\\x$(printf %x $((RANDOM % 256)))" |
			dd of=odd-random bs=1 seek=$((16 + RANDOM % 800)) conv=notrunc status=none
	done
	chmod -x odd-random
	printf '#!%s\n' "$work/odd-random" >odd-script
	odd odd-script
done
[ $status = 0 ] || echo "seed $seed"

exit $status
