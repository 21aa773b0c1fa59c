#!/bin/sh
# tests/preload-threads.c: each scenario under the preload runtime, for a moment;
# `preload-threads.sh --seconds N [--seed N] [SCENARIO...]` for longer.
#
# SPDX-License-Identifier: MIT
set -u
build=$(cd "${top_builddir:-.}" && pwd)
so=$build/lib/.libs/libcowfork-preload.so
program=$build/tests/preload-threads
seconds=1.5 seed=
[ -f "$so" ] || { echo "skip: $so was not built (--disable-shared?)"; exit 77; }
while [ $# -gt 0 ]; do
	case $1 in
	--seconds) seconds=$2; shift 2 ;;
	--seed) seed=$2; shift 2 ;;
	*) break ;;
	esac
done
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
limit=$((${seconds%.*} + 30))
failed=0

for name in ${*:-$("$program" --list)}; do
	timeout -k 2 $limit env LD_PRELOAD="$so" COWFORK_MIN_SIZE=64K "$program" \
		--seconds "$seconds" ${seed:+--seed $seed} "$name" >"$work/out" 2>&1
	result=$?
	[ $result -eq 0 ] || { echo "FAIL: $name: status $result (124, 137: hangs)";
			       failed=$((failed + 1)); }
	head -30 "$work/out"
done
[ $failed -eq 0 ]
