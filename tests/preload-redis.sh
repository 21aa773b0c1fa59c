#!/bin/bash
# redis-server under the runtime, written to all the time: three saves, a rewrite of
# its log and the synchronisation of a replica, each by a forked child. What each
# child wrote has to be the memory of the moment of its fork, which plain servers
# load and 04-redis-load verifies; and the forks must have had frozen memory. All that
# once more with COWFORK_ADOPT=first: its allocator is not the C library's, beside whose
# threads nothing is adopted unasked. And once in place, where a child that reads
# everything soon makes the engine give up.
#
# SPDX-License-Identifier: MIT
set -u
build=${top_builddir:-.}
run=$build/src/cowfork-run
load=$build/examples/04-redis-load
for program in redis-check-rdb redis-cli; do
	command -v $program >/dev/null || { echo "skip: no $program"; exit 77; }
done
[ -x "$run" ] && [ -x "$load" ] || { echo "skip: $run or $load was not built"; exit 77; }

work=$(mktemp -d) || exit 99
# one program under several names; Debian's package of this one starts a service
command -v redis-server >/dev/null || {
	ln -s "$(command -v redis-check-rdb)" "$work/redis-server"
	PATH=$work:$PATH
}
port=$((20000 + $$ % 5000 * 2))
data="100 1000 8"		# MiB, bytes of a value, connections
# A server that gets a signal which it can handle ends its children too.
trap 'end 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

end()
{
	local running
	running=$(jobs -p)
	[ -n "$running" ] || return
	kill $running
	sleep 0.5
	kill -KILL $running
	wait
}

fail()
{
	echo "FAIL: $*"
	tail -n 5 "$work"/log.*
	exit 1
}

redis()	# port, command
{
	redis-cli -p "$@" 2>&1 | tr -d '\r'
}

until_is()	# seconds, regular expression, port, command: its answer has such a line
{
	local tries=$(($1 * 10)) line=$2
	shift 2
	while ! redis "$@" | grep -Eq "$line"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "no $line in $*"
		sleep 0.1
	done
}

start()	# port, command with first options; the pid into $server
{
	local at=$1
	shift
	"$@" --port "$at" --bind 127.0.0.1 --save "" --daemonize no \
		>"$work/log.$at" 2>&1 &
	server=$!
	until_is 20 PONG "$at" ping
	[ "$(redis "$at" info server | sed -n 's/^process_id://p')" = $server ] ||
		fail "another server has port $at"
}

stop()	# port, pid
{
	redis "$1" shutdown nosave
	wait "$2" || fail "the server ended with status $?"
}

verify()	# what, port, least number of writes
{
	echo -n "$1 "
	# shellcheck disable=SC2086
	"$load" "$2" $data check "$3" 2>&1 || fail "$1 is not the data of a moment"
}

save()	# number
{
	kill -USR1 $writer
	redis $port bgsave | grep -q started || fail "no save"
	until_is 30 bgsave_in_progress:0 $port info persistence
	kill -USR2 $writer
	until_is 1 last_bgsave_status:ok $port info persistence
	cp "$work/dump.rdb" "$work/dump.$1"
}

# --- under the runtime, with writes going on ----------------------------------

run_cow()	# engine, adopt
{
	COWFORK_ENGINE=$1 COWFORK_ADOPT=$2 COWFORK_MIN_SIZE=1M COWFORK_STATS="$work/stats" \
		start $port \
		"$run" redis-server --dir "$work" --repl-diskless-sync-delay 0
	cow=$server
	# shellcheck disable=SC2086
	"$load" $port $data fill || fail "it cannot be filled"
	# shellcheck disable=SC2086
	"$load" $port $data write 5000 >"$work/written" &
	writer=$!
	sleep 1
	for number in 1 2 3; do
		save $number
		sleep 0.5
	done

	redis $port config set appendonly yes
	until_is 30 aof_rewrite_in_progress:0 $port info persistence
	until_is 1 aof_last_bgrewrite_status:ok $port info persistence
	mkdir "$work/replica"
	start $((port + 1)) redis-server --dir "$work/replica" --replicaof "127.0.0.1 $port"
	replica=$server
	until_is 30 master_link_status:up $((port + 1)) info replication

	kill $writer
	wait $writer || fail "the writer ended with status $?"
	written=$(awk '/^written/ { print $2 }' "$work/written")
	# the server goes on sending pings, so its own offset grows too
	until_is 30 "^1$" $port eval \
		'local i = redis.call("info", "replication")
		 return i:match("slave0:[^\n]*offset=(%d+)") == i:match("master_repl_offset:(%d+)") and 1 or 0' 0
	stop $port $cow
}

# --- in plain servers ---------------------------------------------------------

verify_all()
{
	verify replica $((port + 1)) "$written"
	stop $((port + 1)) $replica
	start $port redis-server --dir "$work" --appendonly yes
	verify log $port "$written"
	stop $port $server
	for number in 1 2 3; do
		start $port redis-server --dir "$work" --dbfilename dump.$number
		low=$(awk "/^save${number}_low/ { print \$2 }" "$work/written")
		verify "save $number" $port "$low"
		stop $port $server
	done
}

# --- both ---------------------------------------------------------------------

value() { sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$work/stats"; }

look_at_forks()	# engine
{
	echo "$(value forks) forks, $(value forks_freeze) froze, $(value forks_frozen) found" \
		"all frozen, $(($(value bytes_frozen) >> 20)) MiB, $(value adoptions) adoptions," \
		"$(value forks_in_place) in place, $(value pager_faults) faults served"
	[ "$(value forks)" -ge 5 ] || fail "not all forks were seen"
	[ "$(value pager_killed)" = 0 ] || fail "a child was killed"
	if [ "$1" = in-place ]; then
		# unless this user may not
		"$run" --explain | grep -q '^NO .*tells of forks' ||
			[ "$(value forks_in_place)" -gt 0 ] || fail "nothing was armed"
		return
	fi
	[ "$(value forks_native)" = 0 ] || fail "forks without managed memory"
	[ $(($(value forks_freeze) + $(value forks_frozen))) -gt 0 ] || fail "nothing was frozen"
}

for way in "store auto" "store first" "in-place first"; do
	echo "$way:"
	rm -rf "$work"/dump* "$work"/appendonly* "$work"/replica "$work"/log.*
	# shellcheck disable=SC2086
	run_cow $way
	verify_all
	look_at_forks "${way% *}"
done
exit 0
