#!/bin/bash
# cowfork-run as its user meets it: options, reports, status and signal of the
# program passed through, and bad values of the environment.
#
# SPDX-License-Identifier: MIT
set -u
run=${top_builddir:-.}/src/cowfork-run
so=${top_builddir:-.}/lib/.libs/libcowfork-preload.so
[ -x "$run" ] || { echo "skip: $run was not built"; exit 77; }
[ -f "$so" ] || { echo "skip: $so was not built (--disable-shared?)"; exit 77; }
so=$(realpath "$so")
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
unset "${!COWFORK_@}" LD_PRELOAD
status=0 checks=0

fail()
{
	echo "FAIL: $*"
	sed 's/^/    /' "$work/out" "$work/err" | head -10
	status=1
}

try()	# command; leaves what it said in $work
{
	"$@" >"$work/out" 2>"$work/err" </dev/null
	got=$?
	checks=$((checks + 1))
}

expect()	# status, text on stderr ("" for silence), command
{
	local want=$1 text=$2
	shift 2
	try "$@"
	[ $got = "$want" ] || fail "status $got, not $want: $*"
	if [ -z "$text" ]; then
		[ ! -s "$work/err" ] || fail "not silent: $*"
	else
		grep -qF -- "$text" "$work/err" || fail "does not say \"$text\": $*"
	fi
}

said()	# number of lines on stderr, what was tried
{
	[ "$(wc -l <"$work/err")" = "$1" ] || fail "$2: not $1 lines on stderr"
}

parses()	# file of JSON
{
	if python3 -c 'import json' 2>/dev/null; then
		python3 -c 'import json, sys
for line in open(sys.argv[1]): json.loads(line)' "$1"
	elif command -v jq >/dev/null; then
		jq -e . "$1" >/dev/null
	else
		grep -qx '{.*}' "$1"
	fi
}

number()	# file of JSON, field
{
	grep -o "\"$2\": [0-9]*" "$1" | grep -o '[0-9]*$'
}

# A program with memory to take: 64 MiB written, as many forks as asked for.
cat >"$work/forks.c" <<'EOF'
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	size_t size = (size_t)64 << 20;
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int wrong = argc < 2 || p == MAP_FAILED, status;

	if (wrong)
		return 1;
	memset(p, 1, size);
	for (int i = atoi(argv[1]); i > 0; i--) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(p[size - 1] != 1);
		wrong |= pid < 0 || waitpid(pid, &status, 0) != pid || status;
	}
	return wrong;
}
EOF
forks=$work/forks
${CC:-cc} -O1 -o "$forks" "$work/forks.c" 2>"$work/err" || { echo "left out: no compiler"; forks=; }

# --- options ------------------------------------------------------------------

for options in --bogus --min-size= --min-size=0 --min-size=-1 --min-size=1Q \
	--min-size=99999999999999999999 --engine=nosuch --huge=nosuch; do
	expect 125 "cowfork-run" "$run" $options true
	[ ! -s "$work/out" ] || fail "says something on stdout: $options"
done
expect 125 "no program to run" "$run"
expect 125 "no program to run" "$run" --
expect 125 "COWFORK_MIN_SIZE=1Q is no size" "$run" --min-size=1Q true
said 1 --min-size=1Q
expect 125 "COWFORK_ENGINE=nosuch is none of auto, store, off" "$run" --engine=nosuch true
said 1 --engine=nosuch
expect 125 "COWFORK_HUGE=nosuch is none of auto, always, never" "$run" --huge=nosuch true
said 1 --huge=nosuch
expect 125 "COWFORK_LOG=nosuch is none of error, warn, info, debug" "$run" --log=nosuch true
said 1 --log=nosuch
for options in --min-size=1 --min-size=4K --min-size=64m --min-size=1G --engine=auto \
	--engine=store --engine=off --huge=auto --huge=always --huge=never --log=error; do
	expect 0 "" "$run" $options true
done
for option in --help --usage --version; do
	expect 0 "" "$run" $option
	[ -s "$work/out" ] || fail "says nothing: $option"
done

# options of the program are not ours, nor is "--" before it passed on
expect 0 "" "$run" echo --help --stats
[ "$(cat "$work/out")" = "--help --stats" ] || fail "took the program's options"
expect 0 "" "$run" -- echo a
[ "$(cat "$work/out")" = a ] || fail "passed -- on"

# options win over the environment, and become it; what was preloaded stays
expect 0 "" env COWFORK_MIN_SIZE=1G "$run" --min-size=2M --engine=store \
	sh -c 'echo $COWFORK_MIN_SIZE $COWFORK_ENGINE'
[ "$(cat "$work/out")" = "2M store" ] || fail "options are not in the environment"
expect 0 "" env LD_PRELOAD="${so%-preload.so}.so" "$run" sh -c 'echo $LD_PRELOAD'
[ "$(cat "$work/out")" = "$so:${so%-preload.so}.so" ] || fail "LD_PRELOAD is not as documented"
expect 0 "" "$run" sh -c "grep -c ${so##*/} /proc/self/maps >/dev/null"

# --- status and signal --------------------------------------------------------

for code in 0 1 42 125 255; do
	expect $code "" "$run" sh -c "exit $code"
done
expect 127 "cowfork-run: nosuchprogram: No such file" "$run" nosuchprogram
expect 127 "cowfork-run: $work/none: No such file" "$run" "$work/none"
: >"$work/plain"
expect 126 "cowfork-run: $work/plain: Permission denied" "$run" "$work/plain"
expect 126 "cowfork-run: $work: Permission denied" "$run" "$work"
for signal in TERM KILL ABRT; do
	try sh -c "$run sh -c 'kill -$signal \$\$'; exit \$?"
	[ $got = $((128 + $(kill -l $signal))) ] || fail "SIG$signal: status $got"
done
try bash -c "$run sleep 100 & sleep 0.3; kill -INT \$!; kill -TERM \$!; wait \$!"
[ $got = 143 ] || fail "a signal from outside: status $got"

# --- explain ------------------------------------------------------------------

try "$run" --explain
[ $got = 0 ] && [ ! -s "$work/err" ] || fail "--explain: status $got"
[ "$(grep -cE '^(yes |NO  ) ' "$work/out")" -ge 9 ] || fail "--explain: fewer than nine facilities"
grep -qE '^(Forks of large|Programs run as ever)' "$work/out" || fail "--explain: no conclusion"
flat=$(grep '^Forks of large' "$work/out")	# empty where no memory can be taken
expect 0 "" "$run" --explain sh -c 'echo not run'
! grep -q 'not run' "$work/out" || fail "--explain ran the program"
if [ -n "$forks" ] && ${CC:-cc} -static -o "$work/static" "$work/forks.c" 2>/dev/null; then
	expect 0 "$work/static is out of reach: it is statically linked" \
		"$run" --explain "$work/static"
	expect 0 "it runs with plain fork" "$run" "$work/static" 1
else
	echo "left out: a static program"
fi

# --- reports ------------------------------------------------------------------

if [ -n "$forks" ]; then
	expect 0 "cowfork: 3 forks: " "$run" --stats "$forks" 3
	[ ! -s "$work/out" ] || fail "--stats wrote to stdout"
	grep -qv '^cowfork: ' "$work/err" && fail "--stats: a line without its prefix"
	expect 0 "" "$run" --stats="$work/stats.%p.json" "$forks" 3
	file=$(echo "$work"/stats.*.json)
	[ -f "$file" ] || fail "--stats=FILE: no file"
	parses "$file" || fail "--stats=FILE does not parse: $(cat "$file")"
	[[ $file = *".$(number "$file" pid).json" ]] || fail "%p is not the process id"
	[ "$(number "$file" forks)" = 3 ] || fail "--stats=FILE: not 3 forks"
	expect 0 "" "$run" --engine=off --stats="$work/off.json" "$forks" 2
	parses "$work/off.json" && [ "$(number "$work/off.json" forks_native)" = 2 ] ||
		fail "--engine=off: not 2 native forks: $(cat "$work/off.json")"
	grep -q '"native": {"the engine is off": [1-9]' "$work/off.json" ||
		fail "--engine=off is no reason in $(cat "$work/off.json")"
	try "$run" --log=debug "$forks" 1
	[ $got = 0 ] && ! grep -qv '^cowfork: ' "$work/err" ||
		fail "--log=debug: a line without its prefix"
	expect 0 "" "$run" --min-size=1G --stats="$work/small.json" "$forks" 1
	[ "$(number "$work/small.json" bytes_frozen)" = 0 ] || fail "--min-size=1G takes 64 MiB"
	expect 0 "" "$run" --min-size=64M --stats="$work/large.json" "$forks" 1
	[ -z "$flat" ] || [ "$(number "$work/large.json" forks_freeze)" = 1 ] ||
		fail "--min-size=64M does not take 64 MiB: $(cat "$work/large.json")"
	expect 0 "cowfork: cannot write $work/none/x: No such file" \
		"$run" --stats="$work/none/x" "$forks" 1
	said 1 "--stats to nowhere"
fi
expect 0 "cowfork: 0 forks: " "$run" --stats true
[ -z "$forks" ] || expect 1 "cowfork: 0 forks: " "$run" --stats "$forks"

# --- bad values of the environment --------------------------------------------

bad()	# variable, value, text, a value that is the default
{
	expect 125 "cowfork-run: $3" env "$1=$2" "$run" true
	said 1 "$1=$2 under cowfork-run"
	expect 0 "cowfork: $3" env "$1=$2" LD_PRELOAD="$so" "${forks:-true}" 1
	said 1 "$1=$2 under the runtime"
	expect 0 "" env "$1=$4" LD_PRELOAD="$so" "${forks:-true}" 1
}

bad COWFORK_MIN_SIZE 1Q "COWFORK_MIN_SIZE=1Q is no size" 32M
bad COWFORK_MIN_SIZE "" "COWFORK_MIN_SIZE= is no size" 32M
bad COWFORK_ENGINE nosuch "COWFORK_ENGINE=nosuch is none of auto, store, off: using auto" auto
bad COWFORK_HUGE nosuch "COWFORK_HUGE=nosuch is none of auto, always, never: using auto" auto
expect 0 "cowfork: COWFORK_LOG is none of error, warn, info, debug" \
	env COWFORK_LOG=nosuch LD_PRELOAD="$so" true
said 1 COWFORK_LOG=nosuch
if [ -n "$forks" ]; then	# and the default holds
	try env COWFORK_MIN_SIZE=1Q COWFORK_ENGINE=nosuch COWFORK_STATS="$work/default.json" \
		LD_PRELOAD="$so" "$forks" 2
	said 2 "two bad values"
	[ $got = 0 ] && [ "$(number "$work/default.json" forks)" = 2 ] &&
		{ [ -z "$flat" ] || [ "$(number "$work/default.json" forks_freeze)" = 1 ]; } ||
		fail "bad values: not the default: $(cat "$work/default.json")"
fi

[ $status != 0 ] || echo "$checks runs"
exit $status
