#!/bin/sh
# Whole lives without what the library builds upon: the scripted lives of
# fault-nth, alone and beside another thread, and the differential test, with one
# facility taken away for good. There may be less speed, never a wrong byte.
# SEEDS=1-200 LIMIT=600 by hand takes longer.
#
# SPDX-License-Identifier: MIT
set -u
tests=${top_builddir:-.}/tests
[ -x "$tests/without" ] || { echo "skip: $tests/without was not built"; exit 77; }
status=0 tried=

# Nobody must be able to reach them.
place=$(mktemp -d /tmp/cowfork-test.XXXXXX) || exit 99
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
cp "$tests/without" "$tests/fault-nth" "$tests/diff-random" "$place" || exit 99

one()	# facility, program with arguments
{
	# each takes a second, and what hangs is to be told by name
	timeout "${LIMIT:-60}" "$place/without" "$@" >"$place/out" 2>&1
	result=$?
	[ $result -eq 0 ] && return
	if [ $result -eq 77 ]; then
		cat "$place/out"
		return
	fi
	echo "FAIL: without $*: status $result"
	tail -5 "$place/out"
	status=1
}

for facility in $("$place/without" --list); do
	for life in 1 beside adopt adopt-beside; do
		one "$facility" "$place/fault-nth" --life $life
	done
	# diff-random maps a file of its own, which is a memfd
	[ $facility = memfd ] || one "$facility" "$place/diff-random" --seeds "${SEEDS:-1-4}"
	[ $facility = memfd ] || one "$facility" "$place/diff-random" --engine in-place \
		--seeds "${SEEDS:-1-4}"
	tried="$tried $facility"
done
echo "tried without:$tried"
exit $status
