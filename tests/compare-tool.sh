#!/bin/bash
# cowfork-compare as its user meets it: arguments, refusals, JSON against the man
# page, the plot, terminals, and that a wrong byte does end it.
#
# SPDX-License-Identifier: MIT
set -u
srcdir=${srcdir:-.}
tool=${top_builddir:-.}/src/cowfork-compare
[ -x "$tool" ] || { echo "skip: $tool was not built"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
status=0

fail()
{
	echo "FAIL: $*"
	status=1
}

show()
{
	sed 's/^/    /' "$work/out" "$work/err" | head -20
}

run()	# arguments of the tool; leaves what it said in $work
{
	"$tool" "$@" >"$work/out" 2>"$work/err" </dev/null
	got=$?
}

expect()	# status, text that the first line of stderr has, arguments
{
	local want=$1 text=$2
	shift 2
	run "$@"
	[ $got = "$want" ] || { fail "status $got, not $want: $*"; show; }
	head -1 "$work/err" | grep -qF -- "$text" ||
		{ fail "no \"$text\" in the first line that says what is wrong with: $*"; show; }
}

# --- arguments ----------------------------------------------------------------

refused()	# text, arguments: nothing was run, and one line says why
{
	expect 2 "$@"
	shift
	[ ! -s "$work/out" ] || { fail "said something on stdout: $*"; show; }
	grep -v '^Try\|^information' "$work/err" | awk 'END { exit NR != 1 }' ||
		{ fail "more than one line: $*"; show; }
}

refused "unrecognized option" --bogus
refused '"nosuch" is no case' nosuch
refused '"nosuch" is no engine' --engine=floor,nosuch
refused 'the list is empty' --engine=
refused 'the list is empty' --size=
refused '"1M" is no size' --size=64M,1M
refused '"17T" is no size' --size=17T
refused '"-4M" is no size' --size=-4M
refused '"64Q" is no size' --size=64Q
refused '"4MB" is no size' --size=4MB
refused 'more than 16 sizes' --size=2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M,2M
refused 'rounds: "0"' --rounds=0
refused 'rounds: "x"' --rounds=x
refused 'seed: "-1"' --seed=-1
refused 'forks: "1001"' --forks=1001
refused 'forks: "101"' --forks=101 server
refused 'threads: "65"' --threads=65
refused 'rate: "0"' --rate=0
refused 'no engine that was asked for takes part in case tax' --engine=floor tax
refused 'no engine that was asked for takes part in case cycle' --engine=adopt cycle
refused '--goals chooses' --goals fork
refused '--goals chooses' --goals --size=64M
refused '--plot needs' --plot="$work/no.svg" --size=2M fork
refused '--plot needs' --plot="$work/no.svg" --size=2M,4M cycle
[ ! -e "$work/no.svg" ] || fail "a refused run left a plot file"

# --- refused before anything runs ---------------------------------------------

started=$(date +%s)
echo kept >"$work/old"
expect 2 'does not fit: case cycle at 16T' --size=16T cycle
expect 2 'does not fit: case cycle at 16T' --size=2M,16T --json="$work/old" cycle
grep -qx kept "$work/old" || fail "a refused run emptied its --json file"
expect 2 "--json: $work/none/rows" --size=2M --json="$work/none/rows" cycle
expect 2 "--plot: $work/none/plot" --size=2M,4M --plot="$work/none/plot" fork
[ $(($(date +%s) - started)) -le 5 ] || fail "what cannot be done took long to refuse"

# --- list ---------------------------------------------------------------------

run --list
[ $got = 0 ] || fail "--list: status $got"
page=$srcdir/src/cowfork-compare.1
for name in $(awk '/^  / { print $1 }' "$work/out"); do
	grep -qE "^\.It Cm (.* )?$name( |\$)" "$page" ||
		fail "$name of --list is not in ${page##*/}"
done
for name in $(sed -n '/^\.Sh ENGINES/,/^\.Ss JSON/s/^\.It Cm//p' "$page" | tr -d ,); do
	grep -q "^  $name " "$work/out" || fail "$name of ${page##*/} is not in --list"
done

# --- JSON ---------------------------------------------------------------------

fields_of()	# heading in the man page
{
	sed -n "/^\.Ss $1\$/,/^\.S[hs]/s/^\.Va//p" "$page" | tr -d ,. | xargs -n1
}

fields=$(fields_of JSON | sort)

keys()	# of each row, "name name ..." a line, sorted
{
	if python3 -c 'import json' 2>/dev/null; then
		python3 -c 'import json, sys
for line in sys.stdin: print(*sorted(json.loads(line)))'
	elif command -v jq >/dev/null; then
		jq -er 'keys | join(" ")'
	else
		grep '^{.*}$' | while read -r row; do
			grep -oE '"[a-z0-9_]+":' <<<"$row" | tr -d '":' | sort | xargs
		done
	fi
}

run --quick --rounds=1 --json --seed=7 tax calls first fork vmpte old-child child-read
[ $got = 0 ] || { fail "--quick --json: status $got"; show; }
keys <"$work/out" >"$work/keys" || fail "rows do not parse"
[ "$(wc -l <"$work/keys")" = "$(wc -l <"$work/out")" ] || fail "rows do not parse"
[ "$(sort -u "$work/keys")" = "$(echo $fields)" ] ||
	fail "fields are not those of ${page##*/} ($(echo $fields)): $(sort -u "$work/keys")"
for name in tax calls first fork vmpte old-child child-read; do
	grep -q "\"case\":\"$name\"" "$work/out" || fail "no row of $name"
done
# 32 page tables; none, were the memory adopted
grep '"case":"vmpte","engine":"fork-4k"' "$work/out" | grep -qE '"vmpte_kib":1[3-9][0-9]\.' ||
	fail "real fork copies no page tables: $(grep '"case":"vmpte"' "$work/out")"
grep -q '"size_bytes":67108864' "$work/out" || fail "--quick is not of 64M"
head -1 "$work/err" | grep -q 'seed 7$' || fail "the first line does not tell the seed"

server=(--quick --rounds=1 --forks=2 --size=16M --threads=3 --rate=2000 server)
run "${server[@]}" --json
[ $got = 0 ] || { fail "server --json: status $got"; show; }
[ "$(keys <"$work/out" | sort -u)" = \
	"$({ fields_of JSON; fields_of 'JSON of server'; } | LC_ALL=C sort -u | xargs)" ] ||
	fail "fields of server are not those of ${page##*/}: $(keys <"$work/out" | sort -u)"
for engine in fork-4k store; do
	for part in before 'fork 1' 'fork 2' 'whole run'; do
		[ "$(grep -c "\"engine\":\"$engine\".*\"part\":\"$part\"" "$work/out")" = 1 ] ||
			fail "not one row of $engine, $part"
	done
done
for key in during_max_us rest_p999_us cpu_us memory_left writes_done; do
	[ "$(grep '"part":"whole run"' "$work/out" | grep -c "\"$key\":[0-9]")" = 2 ] ||
		fail "no $key of the whole run of each engine"
done
grep -q '"memory_curve":\[\[[0-9.]*,[0-9]*\],' "$work/out" || fail "no memory_curve"

run --quick --rounds=1 --size=16M --json heap heap-adopt heap-forks
[ $got = 0 ] || { fail "heap --json: status $got"; show; }
[ "$(keys <"$work/out" | sort -u)" = \
	"$({ fields_of JSON; fields_of 'JSON of heap'; } | LC_ALL=C sort -u | xargs)" ] ||
	fail "fields of heap are not those of ${page##*/}: $(keys <"$work/out" | sort -u)"
one_row()	# case, engine, part
{
	[ "$(grep -c "\"case\":\"$1\",\"engine\":\"$2\".*\"part\":\"$3\"" "$work/out")" = 1 ] ||
		fail "not one row of $1, $2, $3"
}
for part in 'brk 1K' 'malloc 1M' 'malloc whole' 'arena 1K' 'raw mmap'; do
	for engine in floor fork-4k adopt; do
		one_row heap $engine "$part"
	done
	awk -F'"adopted_bytes":' -v part="\"$part\"" -v least=$((12 << 20)) '
		/"case":"heap","engine":"adopt"/ && index($0, part) && $2 + 0 < least { exit 1 }
		' "$work/out" || fail "$part is not adopted: $(grep "\"$part\"" "$work/out")"
done
one_row heap-adopt adopt alone
one_row heap-adopt adopt '2 writers'
one_row heap-adopt adopt '2 busy writers'
for part in '1 fork' '10 forks' '100 forks' '1000 forks'; do
	for engine in fork-4k adopt adopt-auto; do
		one_row heap-forks $engine "$part"
	done
done
[ "$(grep 'writers"' "$work/out" | grep -c '"writes_done":[1-9]')" = 2 ] ||
	fail "no writer wrote"

run --size=2M --rounds=1 --json="$work/rows" --engine=fork-4k cycle review
[ $got = 0 ] && grep -q '^case' "$work/out" && [ "$(wc -l <"$work/rows")" = 2 ] ||
	{ fail "--json=FILE does not give both table and rows"; show; }

# --- plot ---------------------------------------------------------------------

if command -v gnuplot >/dev/null; then
	run --size=2M,4M --rounds=1 --engine=floor,fork-4k --plot="$work/plot.svg" fork
	[ $got = 0 ] && grep -q '</svg>' "$work/plot.svg" && grep -q fork-4k "$work/plot.svg" ||
		{ fail "--plot: status $got, or no SVG"; show; }
	run "${server[@]}" --engine=fork-4k --plot="$work/plot.svg"
	[ $got = 0 ] && grep -q '</svg>' "$work/plot.svg" &&
		grep -q 'memory, GiB' "$work/plot.svg" && grep -q 'p99.9' "$work/plot.svg" ||
		{ fail "--plot of server: status $got, or no SVG"; show; }
else
	echo "left out: no gnuplot"
fi
mkdir "$work/bin"
printf '#!/bin/sh\nexit 1\n' >"$work/bin/gnuplot"
chmod +x "$work/bin/gnuplot"
PATH=$work/bin:$PATH expect 2 '--plot: gnuplot failed' --size=2M,4M --plot="$work/p" fork
[ ! -s "$work/out" ] || { fail "a gnuplot that fails is found out late"; show; }

# --- terminals ----------------------------------------------------------------

escape=$(printf '\033')
small=(--size=2M --rounds=1 --engine=floor,store fork)
run "${small[@]}"
! grep -q "$escape" "$work/out" "$work/err" || fail "escape codes where no terminal is"
if command -v script >/dev/null; then
	script -qec "env -u NO_COLOR TERM=xterm '$tool' ${small[*]}" /dev/null \
		>"$work/out" 2>&1 </dev/null
	grep -q "$escape\[[0-9]*m" "$work/out" || fail "no colours on a terminal"
	script -qec "env NO_COLOR=1 TERM=xterm '$tool' ${small[*]}" /dev/null \
		>"$work/out" 2>&1 </dev/null
	! grep -q "$escape\[[0-9]*m" "$work/out" || fail "colours in spite of NO_COLOR"
else
	echo "left out: no script(1) to make a terminal"
fi

# --- faults -------------------------------------------------------------------

# Laid under the tool: spoils page 5 after a fork, as FAULT says, or what the first
# writer of `server` has left, or part of the brk heap.
cat >"$work/fault.c" <<'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned char *base;	/* of the memory under test */

int madvise(void *addr, size_t len, int advice)
{
	if (advice == MADV_NOHUGEPAGE)
		base = addr;
	return (int)syscall(SYS_madvise, addr, len, advice);
}

int cow_region_create(size_t size, size_t align, void **ret_addr)
{
	int (*create)(size_t, size_t, void **) = dlsym(RTLD_NEXT, "cow_region_create");
	int ret = create(size, align, ret_addr);

	base = *ret_addr;
	return ret;
}

static void spoil_heap(unsigned long most)	/* words up to that */
{
	unsigned long *end = (unsigned long *)((char *)sbrk(0) - (1 << 18));

	for (unsigned long *word = end - (1 << 15); word < end; word++)
		if (*word <= most)
			*word = 0;
}

int cow_adopt(void *addr, size_t len)
{
	int (*adopt)(void *, size_t) = dlsym(RTLD_NEXT, "cow_adopt");
	const char *fault = getenv("FAULT");
	int ret = adopt(addr, len);

	if (fault && !strcmp(fault, "lost"))
		spoil_heap(1 << 20);	/* no pattern is that small */
	return ret;
}

static pid_t spoil(pid_t pid)
{
	const char *fault = getenv("FAULT");

	if (fault && !strcmp(fault, "heap") && !pid &&
	    strstr(program_invocation_short_name, "compare"))	/* not its script */
		spoil_heap(-1ul);
	if (!fault || !base || pid < 0)
		return pid;
	if (!strcmp(fault, pid ? "parent" : "child"))
		base[5 * 4096] ^= 1;
	if (!strcmp(fault, "early") && !pid)
		*(unsigned long *)(base + 5 * 4096 + 16) = 1ul << 40;
	for (int page = 0; !strcmp(fault, "late") && !pid && page < 512; page++)
		*(unsigned long *)(base + page * 4096 + 16) = 0;
	if (!strcmp(fault, "fork") && !pid)
		_exit(0);
	if (!strcmp(fault, pid ? "worker-dies" : "child-dies"))
		kill(getpid(), SIGKILL);
	errno = EAGAIN;
	return strcmp(fault, "fork") ? pid : -1;
}

pid_t fork(void)		/* cow_fork() comes here too */
{
	pid_t (*real)(void) = dlsym(RTLD_NEXT, "fork");

	return spoil(real());
}
EOF

fault()	# fault, status, text, engine, case and options
{
	FAULT=$1 LD_PRELOAD=$work/fault.so "$tool" --size=2M --rounds=1 --engine="$4" "${@:5}" \
		>"$work/out" 2>"$work/err" </dev/null
	got=$?
	[ $got = "$2" ] && grep -qE -- "$3" "$work/err" ||
		{ fail "fault $1 of $4 in $5: status $got, not $2 with \"$3\""; show; }
}

if ! ${CC:-cc} -shared -fPIC -o "$work/fault.so" "$work/fault.c" -ldl 2>"$work/err"; then
	echo "left out: faults, no compiler"
elif ! LD_PRELOAD=$work/fault.so "$tool" --version >/dev/null 2>&1; then
	echo "left out: faults, the tool cannot be preloaded (a sanitizer?)"
else
	engines=fork-4k
	[ -f "${top_builddir:-.}/lib/.libs/libcowfork.so" ] && engines="$engines store"
	fault heap 1 "engine fork-4k, 2M, case heap brk 1K: in the child, page .* word" \
		fork-4k heap
	if [ "$engines" != fork-4k ]; then
		fault heap 1 "engine adopt, 2M, case heap brk 1K: in the child, page .* word" \
			adopt heap
		fault lost 1 "engine adopt, 2M, case heap-adopt 2 writers: in the parent, page .* word" \
			adopt heap-adopt
	fi
	for engine in $engines; do
		fault child 1 "WRONG BYTE: engine $engine, 2M, case child-read.*: in the child, page 5 word 0" \
			$engine child-read
		fault parent 1 "WRONG BYTE: engine $engine, 2M, .*page 5 word 0" $engine child-write
		fault parent 1 "WRONG BYTE: engine $engine, 2M, .*case fork: in the .*, page 5 word 0" \
			$engine fork
		fault fork 2 "engine $engine, 2M, case cycle: fork: " $engine cycle
		fault child-dies 2 "case cycle: a child was killed: Killed" $engine cycle
		fault worker-dies 2 "case cycle: the worker was killed: Killed" $engine cycle
		fault child 1 "case server: in the child, page 5 word 0" $engine server --quick
		fault parent 1 "case server: in the parent, page 5 word 0" $engine server \
			--quick --forks=1
		fault early 1 "case server: in the child, page .* word 2" $engine server --quick
		fault late 1 "case server: in the child, page .* word 2" $engine server --quick
	done
fi

[ $status != 0 ] || echo "$(wc -l <"$work/keys") rows, $(echo $fields | wc -w) fields each"
exit $status
