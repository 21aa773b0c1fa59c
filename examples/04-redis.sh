#!/bin/sh
# 04-redis: redis-server under writes that saves its memory three times, with the
# kernel's fork and with cowfork's, in turns. Prints what each save cost, and the
# ratio of cowfork to real. Then each saved file is loaded by a plain redis-server
# and has to hold exactly the data of one moment.
#
# Use:   04-redis.sh [--json] [GIB [SECONDS [TURNS]]]          (default: 1 5 1)
#        GIB of values, SECONDS before each save and after the last
# Env:   RATE (SETs per second, 10000; 0: as many as CONNS can), CONNS (8), BYTES of
#        a value (1000), COWFORK_MIN_SIZE (1M here) and the runtime's others,
#        REDIS_OPTIONS for redis-server; TMPDIR has to have room for 3 GIB.
# Needs: redis-server and redis-cli (Debian: redis-server), a C compiler, and
#        cowfork-run in ../build/src or in PATH.
#
# Rows:  fork_us      INFO's latest_fork_usec
#        ms           from BGSAVE until INFO says it is done, looked at 10 times/s
#        sets_per_s, p50_us to max_us
#                     SETs in that time, or outside of it; from when each was due
#        memory_*_mib server and child, files left out: anonymous and shared memory
#                     of a cgroup or, where none can be made, of the whole system
#        native_mib   private anonymous memory of the server before the first save:
#                     all of it, or what did not get into cowfork's store
#
# Which COWFORK_MIN_SIZE: jemalloc maps memory in steps that grow, and the small first
# ones stay native, whatever the size of the data. With 32M, the runtime's default,
# those are 175 MiB and a fork with all else frozen takes 4.5 ms; with 16M 81 MiB and
# 2.6 ms; with 8M 37 and 1.4; with 4M 4 MiB, and from 2M down 1 MiB and 0.9 ms.
#
# A processor for the server and one for the child that saves:
#	REDIS_OPTIONS="--server_cpulist 0 --bgsave_cpulist 1"
#
# Status 1 when a saved file is wrong.
# SPDX-License-Identifier: MIT
set -eu

json=
[ "${1:-}" != --json ] || { json=1; shift; }
gib=${1:-1} seconds=${2:-5} turns=${3:-1}
rate=${RATE:-10000} conns=${CONNS:-8} bytes=${BYTES:-1000}
export COWFORK_MIN_SIZE="${COWFORK_MIN_SIZE:-1M}"
here=$(cd "$(dirname "$0")" && pwd)
PATH=$here/../build/src:$PATH
port=$((20000 + $$ % 10000))
for program in redis-server redis-cli cowfork-run; do
	command -v $program >/dev/null || { echo "$program is missing" >&2; exit 1; }
done

work=$(mktemp -d) server='' load='' cgroup=''
clean_up()
{
	[ -z "$load$server" ] || kill $load $server 2>/dev/null || :
	[ -z "$load$server" ] || { sleep 0.5; kill -KILL $load $server 2>/dev/null || :; }
	wait
	rm -rf "$work"
	sleep 0.2
	[ -z "$cgroup" ] || rmdir "$cgroup"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
${CC:-cc} -O2 -D_GNU_SOURCE -o "$work/load" "$here/04-redis-load.c" \
	"$here/04-redis-write.c" "$here/04-redis-check.c"
for dir in /sys/fs/cgroup/memory /sys/fs/cgroup; do
	[ -f $dir/memory.limit_in_bytes ] ||
		grep -qsw memory $dir/cgroup.subtree_control || continue
	mkdir $dir/cowfork-redis.$$ 2>/dev/null && cgroup=$dir/cowfork-redis.$$ && break
done

say() { echo "$*" >&2; }
redis() { redis-cli -p $port "$@"; }
# In the background: exec, so that $! is the program and not a shell.
load() { exec "$work/load" $port $((gib * 1024)) "$bytes" "$conns" "$@"; }

# start COMMAND...: a server
start()
{
	# shellcheck disable=SC2016,SC2086
	sh -c '[ -z "$0" ] || echo $$ >"$0/cgroup.procs"; exec "$@"' "$cgroup" "$@" \
		--port $port --bind 127.0.0.1 --save "" --dir "$work" --daemonize no \
		${REDIS_OPTIONS:-} >>"$work/log" 2>&1 &
	server=$!
	until redis ping 2>/dev/null | grep -q PONG; do
		kill -0 $server 2>/dev/null || { tail "$work/log" >&2; exit 1; }
		sleep 0.1
	done
}

stop()
{
	redis shutdown nosave 2>/dev/null || :
	wait $server || :
	server=
}

# MiB in use
used()
{
	awk '/^(rss|anon|shmem) / { n += $2 / 1048576 }
	     /^(AnonPages|Shmem):/ { n += $2 / 1024 }
	     END { printf "%.0f", n }' "${cgroup:-/proc/meminfo}${cgroup:+/memory.stat}"
}

note_peak()
{
	now=$(used)
	[ "$now" -le "$peak" ] || peak=$now
}

# save N: into dump-N.rdb
save()
{
	kill -USR1 $load
	redis bgsave >"$work/answer"
	grep -q started "$work/answer" || { cat "$work/answer" >&2; exit 1; }
	until redis info persistence >"$work/info" &&
		grep -q bgsave_in_progress:0 "$work/info"; do
		kill -0 $server
		note_peak
		sleep 0.1
	done
	kill -USR2 $load
	grep -q last_bgsave_status:ok "$work/info" || { tail "$work/log" >&2; exit 1; }
	redis info stats | tr -d '\r' | sed -n "s/^latest_fork_usec:/save$1_fork_us /p"
	ln "$work/dump.rdb" "$work/dump-$1.rdb"
}

# measure [COMMAND...]: prints "name value" lines
measure()
{
	empty=0
	[ -n "$cgroup" ] || empty=$(used)
	start "$@" redis-server
	(load fill)
	load write "$rate" >"$work/figures" &
	load=$!
	sleep "$seconds"
	peak=$(used)
	echo "memory_before_mib $((peak - empty))"
	awk '/^RssAnon/ { printf "native_mib %.0f\n", $2 / 1024 }' /proc/$server/status
	for n in 1 2 3; do
		save $n
		sleep "$seconds"
	done
	note_peak
	echo "memory_peak_mib $((peak - empty))"
	echo "memory_after_mib $(($(used) - empty))"
	kill $load
	wait $load
	load=
	cat "$work/figures"
	stop
}

# check WHAT: each dump of the last measure()
check()
{
	for n in 1 2 3; do
		start redis-server --dbfilename dump-$n.rdb
		low=$(awk "/^save${n}_low/ { print \$2 }" "$work/figures")
		if (load check "$low") >"$work/answer" 2>&1; then
			say "$1, save $n: $(cat "$work/answer")"
		else
			say "$1, save $n: $(cat "$work/answer")"
			status=1
		fi
		stop
		rm "$work/dump-$n.rdb"
	done
}

rows()
{
	for what in before peak after; do echo memory_${what}_mib; done
	echo native_mib
	for what in save1 save2 save3 outside; do
		for row in fork_us ms sets_per_s p50_us p99_us p99.9_us max_us; do
			echo ${what}_$row
		done
	done
}

table()
{
	echo "$gib GiB in values of $bytes bytes, $rate SETs/s over $conns connections," \
		"COWFORK_MIN_SIZE=$COWFORK_MIN_SIZE"
	printf '%-20s %12s %12s %9s\n' '' real cowfork ratio
	rows | awk 'FILENAME != "-" { value[FILENAME, $1] = $2; next }
		(ARGV[1], $1) in value { r = value[ARGV[1], $1]; c = value[ARGV[2], $1]
			printf "%-20s %12d %12d %9.3f\n", $1, r, c, r ? c / r : 0
	}' "$work/real" "$work/cowfork" -
}

object()
{
	awk '{ printf "%s\"%s\": %s", (NR > 1 ? ", " : "{"), $1, $2 }
	     END { print "}" }' "$1"
}

status=0 turn=1 comma=
[ -z "$json" ] || printf '{"gib": %d, "seconds": %d, "bytes": %d, "rate": %d,
 "connections": %d, "min_size": "%s", "turns": [' \
	"$gib" "$seconds" "$bytes" "$rate" "$conns" "$COWFORK_MIN_SIZE"
while [ $turn -le "$turns" ]; do
	measure >"$work/real"
	check real
	measure cowfork-run >"$work/cowfork"
	check cowfork
	if [ -n "$json" ]; then
		printf '%s\n{"real": %s,\n "cowfork": %s}' "$comma" \
			"$(object "$work/real")" "$(object "$work/cowfork")"
		comma=,
	else
		table
	fi
	turn=$((turn + 1))
done
right=true
[ $status = 0 ] || right=false
[ -z "$json" ] || printf '],\n "right": %s}\n' $right
exit $status
