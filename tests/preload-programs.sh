#!/bin/sh
# Programs that were not made for it, under the runtime with a threshold of one
# page: same output and status as without.
#
# SPDX-License-Identifier: MIT
set -u
run=${top_builddir:-.}/src/cowfork-run
[ -x "$run" ] || { echo "skip: $run was not built"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
status=0 tried=

same()	# name, command with arguments
{
	name=$1
	shift
	command -v "$1" >/dev/null || { echo "left out: no $1"; return; }
	tried="$tried $name"
	"$@" >"$work/plain" 2>&1
	echo "status $?" >>"$work/plain"
	"$run" --min-size=4K "$@" >"$work/cow" 2>&1
	echo "status $?" >>"$work/cow"
	cmp -s "$work/plain" "$work/cow" && return
	echo "FAIL: $name differs:"
	diff "$work/plain" "$work/cow" | head -20
	status=1
}

i=0
while [ $i -lt 20000 ]; do echo "$i $((i * 7919 % 10007))"; i=$((i + 1)); done >"$work/numbers"

same sort sort -k2n --parallel=2 "$work/numbers"
same awk awk '{ s += $2 } END { print s }' "$work/numbers"
same sh sh -c 'for i in 1 2 3; do (echo $i; exit $i); echo $?; done; ls / | wc -l'
same perl perl -e '@a = map { fork // die } 1 .. 3; print "x" if !grep { !$_ } @a; 1 while wait > 0; exit 0 if grep { !$_ } @a; print "done\n"'
same python python3 -c '
import mmap, os
m = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, len(m), 4096): m[i] = i >> 12 & 255
for k in range(4):
    pid = os.fork()
    if not pid:
        ok = all(m[i] == (i >> 12 & 255) for i in range(0, len(m), 4096))
        m[0] = 99
        os._exit(0 if ok else 1)
    print(os.waitpid(pid, 0)[1], m[0])
m.resize(32 << 20); print(len(m), m[4096])
m.close()'
same tar sh -c 'tar cf - /usr/include/linux 2>/dev/null | md5sum'
same xz sh -c 'xz -T2 -c "$0" | xz -dc | md5sum' "$work/numbers"
same git git --no-pager log --oneline -1 --no-decorate

[ -n "$tried" ] || { echo "skip: none of the programs is here"; exit 77; }
echo "tried:$tried"
exit $status
