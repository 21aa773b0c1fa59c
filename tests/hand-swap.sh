#!/bin/sh
# By hand, as root: stress-thaw with swap, in a memory cgroup smaller than its
# memory, so that pages are swapped out and in all the time. The swap file is a
# system-wide setting while it runs; it goes in every case.
#
#	tests/hand-swap.sh [seconds] [megabytes]	in the build directory
#
# SPDX-License-Identifier: MIT
set -u
stress=${top_builddir:-.}/tests/stress-thaw
. "$(dirname "$0")/cgroup.sh"
swap=$(mktemp /tmp/cowfork-swap.XXXXXX) || exit 99
clean_up()
{
	cgroup_remove
	swapoff "$swap" 2>/dev/null
	rm -f "$swap"
}
trap clean_up EXIT
trap 'exit 99' INT TERM HUP
dd if=/dev/zero of="$swap" bs=1M count=1024 status=none && chmod 600 "$swap" &&
	mkswap "$swap" >/dev/null && swapon "$swap" ||
	{ echo "skip: no swap file can be used here"; exit 77; }
status=0
megabytes=${2:-128}

for part in 50 75 100; do
	cgroup_make $((megabytes * part / 100))
	cgroup_run "$stress" --megabytes "$megabytes" --pressure 32 --seconds "${1:-20}" ||
		status=$?
	grep -E "^(pswpin|pswpout) " /proc/vmstat | tr '\n' ' '
	echo "at $part %: status $status"
	cgroup_remove
done
exit $status
