#!/bin/sh
# A program that gives up privileges, or enters a sandbox or a namespace, while a child lives
# that the in-place engine has still to fill: the process that serves it keeps nothing of what
# the program gave up, for it ends, and memory is right. Also without the runtime.
#
# SPDX-License-Identifier: MIT
set -u
run=${top_builddir:-.}/src/cowfork-run
part=${top_builddir:-.}/tests/parting
[ -x "$run" ] || { echo "skip: $run was not built"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skip: it has no privileges to give up"; exit 77; }
pagers=1 status=0
"$run" --explain | grep -q '^NO .*tells of forks' && pagers=0

for way in uid caps nnp filter chroot newuser fsuid bound merge files; do
	"$part" 0 $way || { echo "FAIL: $way without the runtime"; status=1; }
	"$run" --engine=in-place --adopt=first --min-size=1M "$part" $pagers $way ||
		{ echo "FAIL: $way in place"; status=1; }
	"$run" --adopt=first --min-size=1M "$part" 0 $way ||
		{ echo "FAIL: $way in the store"; status=1; }
done
exit $status
