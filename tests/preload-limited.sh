#!/bin/sh
# A program that limits, locks or sandboxes itself (limited.c), without and with
# the runtime: it must get on equally well.
#
# SPDX-License-Identifier: MIT
set -u
run=${top_builddir:-.}/src/cowfork-run
program=${top_builddir:-.}/tests/limited
[ -x "$run" ] && [ -x "$program" ] || { echo "skip: $run was not built"; exit 77; }
status=0

for what in as data lock nnp seccomp; do
	for when in early late child freed; do
		"$program" $what $when ||
			{ echo "left out: $what $when fails without the runtime"; continue; }
		"$run" --huge=always "$program" $what $when && continue
		echo "FAIL: $what $when: status $?"
		status=1
	done
done
exit $status
