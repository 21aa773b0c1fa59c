#!/bin/sh
# By hand, as root, on a machine that does nothing else with cowfork meanwhile:
# vm.overcommit_memory=2 for some seconds. Memory must stay native then, what was in
# the store before must stay right; the setting is put back in every case. Other
# programs are given a limit that they do not notice.
#
#	tests/hand-overcommit.sh	in the build directory
#
# SPDX-License-Identifier: MIT
set -u
tests=${top_builddir:-.}/tests
vm=/proc/sys/vm
exec 9>/tmp/cowfork-overcommit.lock && flock 9 || exit 99
mode=$(cat $vm/overcommit_memory) kbytes=$(cat $vm/overcommit_kbytes)
ratio=$(cat $vm/overcommit_ratio)
put_back()
{
	echo "$mode" >$vm/overcommit_memory
	# writing one of the two sets the other to 0
	[ "$kbytes" = 0 ] && echo "$ratio" >$vm/overcommit_ratio ||
		echo "$kbytes" >$vm/overcommit_kbytes
}
trap put_back EXIT
trap 'exit 99' INT TERM HUP
status=0

"$tests/stress-thaw" --seconds 4 --seed 1 & before=$!
sleep 1
echo $((1 << 29)) >$vm/overcommit_kbytes && echo 2 >$vm/overcommit_memory ||
	{ kill $before; echo "skip: only root may set it"; exit 77; }
"$tests/fault-nth" --life 1 || { echo "FAIL: life: $?"; status=1; }
"$tests/diff-random" --seeds 1-20 || { echo "FAIL: diff-random: $?"; status=1; }
wait $before || { echo "FAIL: one that began before: $?"; status=1; }
exit $status
