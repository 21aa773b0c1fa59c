#!/bin/sh
# tests/preload-odd.c: each case under the preload runtime, and without it where
# that makes sense. A case that hangs is ended.
#
# SPDX-License-Identifier: MIT
set -u
build=$(cd "${top_builddir:-.}" && pwd)
so=$build/lib/.libs/libcowfork-preload.so
program=$build/tests/preload-odd
[ -f "$so" ] || { echo "skip: $so was not built (--disable-shared?)"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
failed=0

run()	# how, name, command
{
	how=$1 name=$2
	shift 2
	timeout -k 2 30 "$@" "$program" "$name" >"$work/out" 2>&1
	result=$?
	case $result in
	0) return ;;
	77) echo "not here: $name ($how)"; return ;;
	124 | 137) echo "FAIL: $name ($how): hangs" ;;
	*) echo "FAIL: $name ($how): status $result" ;;
	esac
	head -20 "$work/out"
	failed=$((failed + 1))
}

library=$build/tests/.libs/preload-odd-lib.so
if [ -f "$library" ]; then
	for copy in first last opened; do cp "$library" "$work/$copy.so"; done
	export ODD_LIBRARY="$work/opened.so"
fi

for name in ${*:-$("$program" --list)}; do
	run preloaded "$name" env LD_PRELOAD="$so" COWFORK_MIN_SIZE=1M
done
[ $# -gt 0 ] || for name in $("$program" --list-native); do
	run native "$name" env
done
in_place="free-while-forking realloc-while-forking robust-in-the-heap \
robust-from-before"
[ $# -eq 0 ] || in_place=
for name in $in_place; do
	run "preloaded, in place" "$name" env LD_PRELOAD="$so" COWFORK_ENGINE=in-place \
		COWFORK_ADOPT=first COWFORK_MIN_SIZE=1M
done
if [ $# -eq 0 ] && [ -f "$library" ]; then
	run "preloaded and logging" no-cancellation-points env COWFORK_LOG=debug \
		LD_PRELOAD="$so" COWFORK_MIN_SIZE=1M
	run "preloaded among libraries" libraries-fork env COWFORK_MIN_SIZE=1M \
		LD_PRELOAD="$work/first.so $so $work/last.so"
	run "native among libraries" libraries-fork env \
		LD_PRELOAD="$work/first.so $work/last.so"
fi
echo "$failed failed"
[ $failed -eq 0 ]
