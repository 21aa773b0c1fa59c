# Read by shell tests: a memory cgroup of a test's own. For v2 only where the
# controller is handed down already; nothing of the system's is changed.
#
#	cgroup_make MIB		or exit 77; the trap of the caller calls
#	cgroup_remove
#	cgroup_run command...	in it
#
# SPDX-License-Identifier: MIT
cgroup_make()
{
	cgroup=
	[ "$(id -u)" = 0 ] || { echo "skip: only root makes cgroups"; exit 77; }
	for root in /sys/fs/cgroup/memory /sys/fs/cgroup /sys/fs/cgroup/unified; do
		[ -f $root/memory.limit_in_bytes ] ||
			grep -qw memory $root/cgroup.subtree_control 2>/dev/null || continue
		mkdir $root/cowfork-test.$$ 2>/dev/null && cgroup=$root/cowfork-test.$$ && break
	done
	[ -n "$cgroup" ] || { echo "skip: no memory cgroup can be made here"; exit 77; }
	cgroup_limit "$1"
}

cgroup_limit()
{
	file=$cgroup/memory.limit_in_bytes
	[ -f $file ] || file=$cgroup/memory.max
	echo $(($1 << 20)) >$file
}

cgroup_run()
{
	sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$cgroup" "$@"
}

cgroup_remove()
{
	[ -n "${cgroup:-}" ] || return
	for i in 1 2 3 4 5 6 7 8 9 10; do
		rmdir "$cgroup" 2>/dev/null && return
		sleep 0.2
	done
}
