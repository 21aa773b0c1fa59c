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
same sort-large sort -S 500M --parallel=2 -k2n "$work/numbers"

# each run gets a fresh, empty directory, of the same name
in_directory()	# name, program it needs, script
{
	command -v "$2" >/dev/null || { echo "left out: no $2"; return; }
	same "$1" sh -c "rm -rf '$work/job' && mkdir '$work/job' && cd '$work/job' && $3"
}

in_directory git git '
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
	GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
	GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z
git init -q -b trunk . && git config pack.threads 2
for i in 1 2 3 4 5 6; do
	for f in a b c d e; do seq $i $((i * 300)) >$f; done
	git add . && git commit -qm "commit $i"
done
git gc -q --aggressive --prune=now; echo $?
git fsck --full --strict; echo $?
git log --stat | md5sum
git count-objects -v | grep -E "in-pack|count"
git clone -q --no-local . copy && git -C copy rev-parse HEAD'

in_directory make make '
echo "all: a b c d" >Makefile
echo "a b c d: ; @sleep 0.05; echo \$@ \$\$(expr 1 + 1)" >>Makefile
make -j2 | sort'

in_directory sqlite python3 '
cat >job.py <<END
import os, sqlite3
db = sqlite3.connect(":memory:")
db.execute("create table t (k integer primary key, v blob)")
db.executemany("insert into t values (?, ?)", ((k, b"%d" % (k % 97) * 300) for k in range(20000)))
total = lambda: db.execute("select count(*), sum(length(v)), max(v) from t").fetchone()
for turn in range(3):
    pid = os.fork()
    if not pid:
        before = total()
        db.execute("delete from t where k % 3 = 0")
        os._exit(0 if before[0] == 20000 and total()[0] == 13333 else 1)
    db.execute("update t set v = ? where k % 5 = ?", (b"turn %d" % turn, turn))
    print(os.waitpid(pid, 0)[1], total())
print(db.execute("pragma integrity_check").fetchone())
END
export LD_PRELOAD=$LD_PRELOAD:libjemalloc.so.2
python3 job.py 2>/dev/null'

in_directory node node '
cat >job.js <<END
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { fork, execFileSync } = require("child_process");
const big = Buffer.alloc(16 << 20, "some text ");
const job = () => { let a = []; for (let i = 0; i < 1e5; i++) a[i % 999] = { i };
	return a.reduce((s, x) => s + x.i, big[12345678]); };
if (process.argv[2]) process.send(job(), () => process.exit(3));
else if (!isMainThread) parentPort.postMessage(job());
else new Worker(__filename).on("message", (m) => fork(__filename, ["child"])
	.on("message", (n) => console.log(m, n)).on("exit", (c) =>
	console.log(c, job(), execFileSync("echo", ["end"]).toString())));
END
node job.js'

# What is saved is the memory of the moment of the fork.
in_directory redis redis-server '
start() { redis-server --port 0 --unixsocket $PWD/s --save "" --enable-debug-command local \
	--dir $PWD >>log & for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	[ "$(c ping 2>/dev/null)" = PONG ] && return; sleep 0.1; done; tail -3 log; exit 1; }
c() { redis-cli -s s "$@"; }
start
c debug populate 20000 key 300
c debug digest >before; c bgsave >/dev/null
c eval "for i = 1, 9999 do redis.call(\"set\", \"key:\" .. i, i) end return 1" 0
while [ ! -s dump.rdb ]; do sleep 0.1; done
cp dump.rdb kept.rdb
c debug digest; c debug reload; c debug digest
c shutdown nosave; wait
mv kept.rdb dump.rdb
start; c debug digest | cmp - before && echo saved; c dbsize; c shutdown nosave; wait'

if ${CC:-cc} -O2 -pthread -o "$work/heap-threads" "${srcdir:-.}/tests/heap-threads.c"; then
	same threads "$work/heap-threads" 2 6 32
	for library in jemalloc mimalloc; do
		file=lib$library.so.2
		ldconfig -p 2>/dev/null | grep -q "$file" ||
			{ echo "left out: no $file"; continue; }
		export file heap="$work/heap-threads"
		same $library-behind sh -c 'LD_PRELOAD=$LD_PRELOAD:$file exec $heap 2 6 32'
		same $library-before sh -c 'LD_PRELOAD=$file:$LD_PRELOAD exec $heap 2 6 32'
	done
fi

[ -n "$tried" ] || { echo "skip: none of the programs is here"; exit 77; }
echo "tried:$tried"
exit $status
