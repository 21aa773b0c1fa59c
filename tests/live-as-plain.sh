#!/bin/sh
# The live tests of the store as they are, without an engine and in place. Many of their
# cases ask for the store's states and fail in both; none may fail in place alone, or in
# another way (E: it crashed), for there memory is to be as plain memory. But who looks at it
# from outside without waiting finds less, and so does a core file (cowfork(7)).
#
# SPDX-License-Identifier: MIT
set -u
build=${top_builddir:-.}
[ -x "$build/tests/live-fork" ] || { echo "skip: no tests/live-fork (no Check?)"; exit 77; }
"$build/src/cowfork-run" --explain | grep -q '^NO .*tells of forks' &&
	{ echo "skip: no userfaultfd that tells of forks"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
export COWFORK_ADOPT=first COWFORK_MIN_SIZE=64K
status=0

from_outside='F:from outside:in_a_core_file:2
F:from outside:in_a_core_file:5
F:from outside:into_a_child:0
F:from outside:into_a_child:2
F:from outside:into_a_parent:0
F:from outside:into_a_parent:2
F:from outside:into_oneself:0'

# failures ENGINE NAME: "F:CASE:TEST:NUMBER" a line; a test that hangs is a failure, too
failures()
{
	COWFORK_ENGINE=$1 timeout -k 2 60 "$build/tests/$2" </dev/null >"$work/out" 2>&1
	[ $? -le 1 ] && grep -q '^[0-9]*%: Checks' "$work/out" || echo "E:$2 as a whole"
	sed -n 's/^[^ ]*\.c:[0-9]*:\([FE]:[^:]*:[^:]*:[0-9]*\).*/\1/p' "$work/out"
}

for name in fork futex inspect map odd region remap retire; do
	{ failures off live-$name; [ $name = inspect ] && echo "$from_outside"; } |
		sort >"$work/off"
	failures in-place live-$name | sort >"$work/in-place"
	comm -13 "$work/off" "$work/in-place" >"$work/new"
	echo "live-$name: $(sed -n 's/^[0-9]*%: //p' "$work/out")," \
	     "$(wc -l <"$work/new") in place alone"
	[ -s "$work/new" ] || continue
	cat "$work/new"
	head -30 "$work/out"
	status=1
done
exit $status
