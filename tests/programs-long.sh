#!/bin/bash
# Large programs that were not made for it, natively and under the runtime with a low
# threshold: the results have to be equal. Takes many minutes, so it is no part of
# make check.
#
# usage: programs-long.sh [NAME...]     default: all; from the top of a build tree
# Env:   WAYS="cow adopt", or one of them
#
# Each program is a function job_NAME that prints a result which can be compared to
# standard output, and anything else to standard error. It runs programs by `under`,
# which is empty in one run and cowfork-run in the others, in an empty directory of the
# same name. need_NAME says what is missing.
#
# Heaps get into the store in two ways. In `cow` most programs run with jemalloc beside
# the runtime, where it is installed: its memory passes mmap. In `adopt` they have the C
# library's malloc and COWFORK_ADOPT=first.
#
# SPDX-License-Identifier: MIT
set -u
srcdir=$(cd "${srcdir:-$(dirname "$0")/..}" && pwd)
build=$(cd "${top_builddir:-.}" && pwd)
run=$build/src/cowfork-run
preload=$build/lib/.libs/libcowfork-preload.so
[ -x "$run" ] && [ -f "$preload" ] ||
	{ echo "skip: $run or $preload was not built"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
stats=${STATS_DIR:-$work/stats}
mkdir -p "$stats" && chmod 777 "$stats"
export LC_ALL=C.UTF-8 COWFORK_MIN_SIZE=${COWFORK_MIN_SIZE:-1M}
equal=0 differs=0 skipped=0

lacks()	# programs: print the first that is not there
{
	for program; do
		command -v "$program" >/dev/null || { echo "no $program"; return; }
	done
}

has_library()
{
	ldconfig -p 2>/dev/null | grep -q "lib$1\.so\.2"
}

say_status()
{
	"$@"
	echo "status $?"
}

# --- CPython's own tests ------------------------------------------------------

python=
for candidate in /usr/bin/python3 python3 python3.11 python3.13; do
	path=$(command -v $candidate) &&
		"$path" -c 'import test.test_mmap, test.test_multiprocessing_fork' 2>/dev/null &&
		python=$("$path" -c 'import sys; print(sys.executable)') && break
done

need_cpython()
{
	[ -n "$python" ] || echo "no python3 with its test package"
}

cpython_tests()	# tests; prints the outcomes of those that did not pass
{
	$under "$python" -m test -j2 --timeout 300 --junit-xml tests.xml "$@" >&2
	"$python" - <<-'END'
	import xml.etree.ElementTree as tree
	cases = [c for c in tree.parse("tests.xml").iter("testcase")]
	print(len(cases) > 100)
	bad = {c.get("name") for c in cases if c.find("failure") is not None or
	       c.find("error") is not None or c.get("status") not in (None, "run")}
	print("\n".join(sorted(bad)))
	END
}

job_cpython()
{
	[ -z "$under" ] || export PYTHONMALLOC=malloc	# jemalloc's
	cpython_tests test_os test_mmap test_posix test_fork1 test_wait3 test_wait4 \
		test_subprocess test_threading test_multiprocessing_fork \
		test_multiprocessing_spawn test_multiprocessing_forkserver
}

# --- SQLite -------------------------------------------------------------------

need_sqlite()
{
	python3 -c 'import sqlite3' 2>/dev/null || echo "no sqlite3 in python3"
}

job_sqlite()
{
	$under python3 - "${ROWS_MIB:-500}" <<-'END'
	import hashlib, os, sqlite3, sys
	mib = int(sys.argv[1])
	db = sqlite3.connect(":memory:")
	db.execute("create table t (k integer primary key, h integer, v blob)")
	db.execute("create index i on t (h)")
	row = lambda k: (k, k * 7919 % 10007, hashlib.sha1(b"%d" % k).digest() * 48)
	db.executemany("insert into t values (?, ?, ?)", map(row, range(mib * 1024)))
	db.commit()
	print(db.execute("pragma page_count").fetchone(), flush=True)
	def sums(lo):
	    return (db.execute("select count(*), sum(h), sum(length(v)) from t where k >= ?",
	                       (lo,)).fetchone(),
	            db.execute("select count(*) from t indexed by i where h < 99").fetchone(),
	            hashlib.sha1(b"".join(v for v, in db.execute(
	                "select v from t where k % 97 = 3 order by k"))).hexdigest())
	for turn in range(4):
	    seen, children = sums(0), []
	    for child in range(3):
	        pid = os.fork()
	        if not pid:
	            good = sums(0) == seen
	            if child == 2:    # a writer of its own
	                db.execute("delete from t where k % 3 = 0")
	                good = good and db.execute("pragma integrity_check").fetchone() == ("ok",)
	            os._exit(0 if good else 1)
	        children.append(pid)
	    db.execute("update t set h = h + 1, v = ? where k % 50 = ?",
	               (b"turn %d" % turn, turn))
	    db.commit()
	    print([os.waitpid(pid, 0)[1] for pid in children], sums(0), flush=True)
	print(db.execute("pragma integrity_check").fetchone())
	END
}

# --- Redis --------------------------------------------------------------------

need_redis()
{
	lacks redis-server redis-cli
}

redis()
{
	redis-cli -s "$PWD/redis.sock" "$@"
}

redis_start()	# command...
{
	"$@" redis-server --port 0 --unixsocket "$PWD/redis.sock" --dir "$PWD" \
		--save '' --enable-debug-command local >>server.log 2>&1 &
	for i in $(seq 100); do
		[ "$(redis ping 2>/dev/null)" = PONG ] && return
		sleep 0.1
	done
	echo "no server" >&2
	tail -5 server.log >&2
	return 1
}

redis_saved()
{
	while [ "$(redis info persistence | grep -c 'rdb_bgsave_in_progress:1')" = 1 ]; do
		sleep 0.2
	done
	redis info persistence | grep -E '^rdb_last_bgsave_status' | tr -d '\r'
}

redis_stop()
{
	redis shutdown nosave
	wait
}

# The saved file has to hold the memory of the moment of the fork, whatever was
# written while it was saved.
job_redis()
{
	redis_start $under || return
	redis debug populate 400000 key 600
	redis set a 1; redis incr a; redis get a; redis strlen key:399999
	for turn in 1 2 3; do
		redis debug digest >digest.$turn
		redis bgsave >&2
		redis eval 'for i = 0, 60000 do
				redis.call("set", "key:" .. i * 3, "turn " .. ARGV[1])
				redis.call("del", "key:" .. i * 3 + 1)
				redis.call("rpush", "list:" .. i % 50, i)
			end return redis.call("dbsize")' 0 $turn
		redis_saved
		cp dump.rdb dump.$turn
	done
	redis debug digest >digest.4
	redis debug reload
	redis debug digest | cmp - digest.4 && echo "same after reload"
	redis_stop
	for turn in 1 2 3; do	# a native server reads what was saved
		cp dump.$turn dump.rdb
		redis_start || return
		redis debug digest | cmp - digest.$turn && echo "saved as it was"
		redis_stop
	done
	cat digest.4
}

# --- PostgreSQL ---------------------------------------------------------------

pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)

need_postgresql()
{
	[ -x "$pg_bin/initdb" ] || echo "no PostgreSQL server in /usr/lib/postgresql"
	id postgres >/dev/null 2>&1 || echo "no user postgres"
	[ "$(id -u)" = 0 ] || echo "not root, so not able to become postgres"
	lacks pgbench psql runuser
	runuser -u postgres -- test -r "$preload" 2>/dev/null ||
		echo "the user postgres cannot read $preload"
}

pg()
{
	runuser -u postgres -- "$@"
}

job_postgresql()
{
	local options="-c listen_addresses='' -c unix_socket_directories=$PWD"

	options="$options -c work_mem=64MB -c fsync=off"
	chown postgres . && chmod 755 .
	export PGHOST=$PWD PGDATABASE=postgres
	pg $under "$pg_bin/initdb" -D "$PWD/data" --auth=trust >&2
	pg $under "$pg_bin/pg_ctl" -w -D "$PWD/data" -o "$options" -l "$PWD/log" start >&2 ||
		{ cat log >&2; return; }
	say_status pg $under pgbench -i -s 10 >/dev/null
	pg $under pgbench -c 4 -j 2 -t 500 >bench.log 2>&1
	echo "status $?"
	cat bench.log >&2
	grep -E 'processed|failed' bench.log
	pg $under psql -At <<-'END'
	select sum(abalance) = (select sum(delta) from pgbench_history),
	       sum(abalance) = (select sum(bbalance) from pgbench_branches),
	       sum(abalance) = (select sum(tbalance) from pgbench_tellers),
	       count(*) from pgbench_accounts;
	set max_parallel_workers_per_gather = 2;
	select md5(string_agg(x::text, ',' order by x)) from
	       (select aid::bigint * 7919 % 1000003 as x from pgbench_accounts) s;
	select count(*) from pgbench_accounts a join pgbench_accounts b
	       on a.aid = b.aid + 1;
	create index on pgbench_accounts (bid, aid);
	vacuum analyze pgbench_accounts;
	END
	say_status pg $under "$pg_bin/pg_ctl" -w -m fast -D "$PWD/data" stop >&2
	grep -cE 'PANIC|FATAL|terminated by signal' log
}

# --- a compiler ---------------------------------------------------------------

need_gcc()
{
	lacks gcc make
	[ -x "$srcdir/configure" ] || echo "no $srcdir/configure"
	[ -f "$srcdir/config.status" ] && echo "$srcdir was configured in place"
}

job_gcc()
{
	$under "$srcdir/configure" CC=gcc CFLAGS='-O2 -g0' >&2 || return
	say_status $under make -j2 >&2
	find lib src examples -name '*.so*' -type f -o -name '*.o' -type f -o \
		-name '01-hello' -type f | LC_ALL=C sort | xargs sha256sum
}

# --- Node ---------------------------------------------------------------------

need_node()
{
	lacks node
}

job_node()
{
	cat >job.js <<-'END'
	const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
	const { fork, execFileSync, spawn } = require('child_process');
	const crypto = require('crypto');
	const sum = (b) => crypto.createHash('sha1').update(b).digest('hex');
	const make = (n, mib) => Buffer.alloc(mib << 20, Buffer.from(`seed ${n} `));
	function churn(n) {
		let keep = [], total = 0;
		for (let i = 0; i < 300000; i++) {
			keep[i % 20000] = { i, s: 'x'.repeat(i % 60), a: [i, n] };
			total = (total + keep[(i * 31) % Math.min(i + 1, 20000)].i) % 1000003;
		}
		return total;
	}
	if (process.argv[2] === 'child') {
		const n = +process.argv[3];
		process.send([n, churn(n), sum(make(n, 24))], () => process.exit(0));
	} else if (!isMainThread) {
		parentPort.postMessage([workerData, churn(workerData), sum(make(workerData, 24))]);
	} else {
		const big = make(0, 64), before = sum(big), jobs = [];
		for (let n = 0; n < 4; n++)
			jobs.push(new Promise((y, no) => new Worker(__filename,
				{ workerData: n }).on('message', y).on('error', no)));
		for (let n = 0; n < 4; n++)
			jobs.push(new Promise((y, no) => fork(__filename, ['child', n])
				.on('message', y).on('error', no)
				.on('exit', c => c && no(new Error('exit ' + c)))));
		for (let n = 0; n < 20; n++)
			jobs.push(new Promise(y => { let out = ''; const c = spawn('sh',
				['-c', `echo ${n}; exit ${n}`]); c.stdout.on('data', d => out += d);
				c.on('close', code => y([out, code])); }));
		Promise.all(jobs).then(r => { console.log(JSON.stringify(r));
			console.log(execFileSync('echo', ['end']).toString(), sum(big) === before,
				churn(9)); });
	}
	END
	say_status $under node job.js
	say_status $under node --max-old-space-size=600 -e '
		let a = []; for (let i = 0; i < 3e6; i++) a.push({ i });
		console.log(a.reduce((s, x) => s + x.i, 0)); a = null;
		if (global.gc) gc(); console.log("done")'
}

# --- smaller ones -------------------------------------------------------------

need_perl()
{
	lacks perl
}

job_perl()
{
	say_status $under perl -e '
	my @big = map { join ",", map { $_ * 31 % 997 } $_ .. $_ + 2000 } 1 .. 12000;
	my $str = "abc" x 30_000_000;
	for my $n (1 .. 12) {
		pipe my $r, my $w or die;
		my $pid = fork // die;
		if (!$pid) {
			my $sum = 0;
			$sum = ($sum * 31 + length($_) + ord substr $_, -1) % 1000003 for @big;
			substr($str, $n, 3) = "xyz";
			print $w "$n $sum ", substr($str, 0, 9 + $n), "\n";
			exit $n;
		}
		$big[$n] = "changed";
		close $w;
		print <$r>;
		waitpid $pid, 0;
		print $? >> 8, " ", substr($str, 0, 12), "\n";
	}'
}

need_git()
{
	lacks git
}

git_repository()	# directory, commits
{
	export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
		GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' \
		GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_CONFIG_GLOBAL=/dev/null \
		GIT_CONFIG_SYSTEM=/dev/null
	$under git init -q -b trunk "$1"
	cd "$1" || return
	for i in $(seq "$2"); do
		for f in $(seq 40); do
			awk -v f=$f -v i=$i 'BEGIN { for (n = 0; n < 900; n++)
				print n, (n * f) % (97 + i), n % 60 == i ? "changed " i : "" }' >file$f
		done
		$under git add . && $under git commit -qm "commit $i"
	done
}

job_git()
{
	git_repository tree 25 >&2
	$under git config pack.threads 2
	say_status $under git gc -q --aggressive --prune=now
	say_status $under git fsck --full --strict
	$under git rev-parse HEAD
	$under git count-objects -v | grep -E 'in-pack|garbage|count'
	$under git log --oneline --stat | sha1sum
	$under git grep -c 'changed 7'  | sha1sum
	say_status $under git clone -q --no-local . ../copy
	$under git -C ../copy fsck
}

need_text()
{
	lacks sort awk xz make
}

job_text()
{
	$under awk 'BEGIN { srand(7); for (i = 0; i < 1500000; i++)
		print int(rand() * 1e9), i % 7919, "text of line " i }' >lines
	sha1sum lines
	say_status $under sort -S 500M --parallel=2 -k1n -k3 lines | sha1sum
	say_status $under sort -S 4M -T . -k3r lines | sha1sum
	say_status $under awk '{ n[$2] += $1; s[$1] = $3 }
		END { for (k in n) t += n[k] * k; printf "%.0f %d\n", t, length(s) }' lines
	$under xz -T2 --block-size=4MiB -c lines >lines.xz; echo "status $?"
	$under xz -T2 -dc lines.xz | sha1sum
	printf 'all: %s\n%s: ; @sleep 0.01; echo $@ $$(expr $(@:f%%=%%) + 1)\n' \
		"$(seq -f 'f%g' -s' ' 200)" "$(seq -f 'f%g' -s' ' 200)" >Makefile
	$under make -j4 | LC_ALL=C sort | sha1sum
	$under tar cf - lines Makefile | $under tar tf -
}

# --- allocators beside us -----------------------------------------------------

need_threads()
{
	lacks "${CC:-gcc}"
}

heap_threads()
{
	${CC:-gcc} -O2 -pthread "$srcdir/tests/heap-threads.c" -o heap-threads
}

job_threads()
{
	heap_threads || return
	say_status $under ./heap-threads 3 30 200
}

beside()	# library
{
	heap_threads || return
	if [ -z "$under" ]; then
		LD_PRELOAD=$1 say_status ./heap-threads 3 20 200
		LD_PRELOAD=$1 say_status ./heap-threads 3 20 200
	else
		LD_PRELOAD=$preload:$1 say_status ./heap-threads 3 20 200
		LD_PRELOAD=$1:$preload say_status ./heap-threads 3 20 200
	fi
}

need_jemalloc()
{
	has_library jemalloc || echo "no libjemalloc"
	need_threads
}

job_jemalloc()
{
	beside libjemalloc.so.2
}

need_mimalloc()
{
	has_library mimalloc || echo "no libmimalloc"
	need_threads
}

job_mimalloc()
{
	beside libmimalloc.so.2
}

own_heap=" threads jemalloc mimalloc redis node "	# no jemalloc for these

# --- the comparison -----------------------------------------------------------

once()	# name, "native", "cow" or "adopt"
{
	rm -rf "$work/job"
	mkdir "$work/job"
	if [ "$2" = native ]; then
		under=
	else
		under="$run --stats=$stats/$1.$2.%p.json"
	fi
	(
		cd "$work/job" || exit 99
		[ "$2" = native ] || export COWFORK_STATS="$stats/$1.$2.%p.json"
		[ "$2" != adopt ] || export COWFORK_ADOPT=first
		[ "$2" = cow ] && [[ $own_heap != *" $1 "* ]] && has_library jemalloc &&
			export LD_PRELOAD=libjemalloc.so.2
		"job_$1"
	) >"$work/$1.$2" 2>"$work/$1.$2.err" </dev/null
}

adoptions()	# name: in all of its programs
{
	cat "$stats/$1.adopt".*.json 2>/dev/null | sed 's/.*"adoptions": \([0-9]*\).*/\1/' |
		awk '{ n += $1 } END { print n + 0 }'
}

compare()	# name
{
	local reason way
	reason=$("need_$1" | head -1)
	if [ -n "$reason" ]; then
		echo "skipped  $1: $reason"
		skipped=$((skipped + 1))
		return
	fi
	once "$1" native
	for way in ${WAYS:-cow adopt}; do
		once "$1" "$way"
		if cmp -s "$work/$1.native" "$work/$1.$way"; then
			echo -n "equal    $1, $way"
			[ "$way" = cow ] || echo -n ": $(adoptions "$1") adoptions"
			echo
			equal=$((equal + 1))
			continue
		fi
		echo "differs  $1, $way"
		differs=$((differs + 1))
		diff "$work/$1.native" "$work/$1.$way" | head -20
		tail -5 "$work/$1.$way.err"
	done
}

all="text perl git threads jemalloc mimalloc node sqlite redis postgresql gcc cpython"
for name in ${*:-$all}; do
	[ "$(type -t "job_$name")" = function ] ||
		{ echo "no such program: $name; there are: $all" >&2; exit 99; }
	compare "$name"
done
[ -z "${KEEP:-}" ] || cp -r "$work"/*.* "$KEEP"
echo "$equal equal, $differs differ, $skipped skipped"
[ $differs = 0 ]
