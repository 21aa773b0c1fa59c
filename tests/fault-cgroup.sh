#!/bin/sh
# A memory cgroup's limit reached at any moment of a process that writes, forks,
# freezes and thaws: killed as with plain memory, or it lives; never SIGBUS, never a
# wrong byte.
#
# SPDX-License-Identifier: MIT
set -u
stress=${top_builddir:-.}/tests/stress-thaw
. "${srcdir:-.}/tests/cgroup.sh"
trap cgroup_remove EXIT
trap 'exit 99' INT TERM HUP
cgroup_make 64
status=0

for limit in 12 40 56 72 88 120 160; do
	cgroup_limit $limit
	out=$(cgroup_run "$stress" --megabytes 48 --seconds 1.5 --seed $limit 2>&1)
	result=$?
	echo "$limit MiB: status $result: $out" | tr '\n' ' '
	echo
	case $result in
	0 | 137) ;;
	*) echo "FAIL: at $limit MiB"; status=1 ;;
	esac
done
exit $status
