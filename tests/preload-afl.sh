#!/bin/sh
# The main job on real input: afl-fuzz drives a target that holds memory, with a
# deferred fork server, under the runtime. No child may find a wrong page (the target
# exits 2 then, which AFL++ is told to count as a crash) or hang.
#
# SPDX-License-Identifier: MIT
set -u
preload=$(cd "${top_builddir:-.}" && pwd)/lib/.libs/libcowfork-preload.so
command -v afl-fuzz >/dev/null && command -v afl-clang-fast >/dev/null ||
	{ echo "skip: AFL++ is not installed"; exit 77; }
[ -f "$preload" ] || { echo "skip: $preload was not built"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT

mkdir "$work/in"
printf 'seed' >"$work/in/seed"
AFL_QUIET=1 afl-clang-fast -O2 -o "$work/target" \
	"${srcdir:-.}/examples/03-afl-target.c" >"$work/cc.log" 2>&1 ||
	{ cat "$work/cc.log"; exit 1; }

export AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_SKIP_CPUFREQ=1 AFL_NO_UI=1 \
	AFL_NO_AFFINITY=1 AFL_FORKSRV_INIT_TMOUT=120000 AFL_CRASH_EXITCODE=2
export TARGET_MIB=256 COWFORK_LOG=error
AFL_PRELOAD=$preload timeout -s INT 120 afl-fuzz -V 8 -t 5000 \
	-i "$work/in" -o "$work/out" -- "$work/target" >"$work/afl.log" 2>&1

stats=$work/out/default/fuzzer_stats
[ -f "$stats" ] || { tail -30 "$work/afl.log"; echo "FAIL: no statistics"; exit 1; }
value() { awk -v key="$1" '$1 == key { print $3 }' "$stats"; }
execs=$(value execs_done) crashes=$(value saved_crashes) hangs=$(value saved_hangs)
echo "$execs executions, $crashes crashes, $hangs hangs"
[ "$crashes" = 0 ] || { echo "FAIL: a child found a wrong page"; exit 1; }
[ "$hangs" = 0 ] || { echo "FAIL: a child hung"; exit 1; }
[ "$execs" -gt 100 ] || { tail -30 "$work/afl.log"; echo "FAIL: hardly anything ran"; exit 1; }

exit 0
