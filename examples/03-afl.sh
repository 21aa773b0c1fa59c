#!/bin/sh
# 03-afl: AFL++ on a target that holds gigabytes. Fuzzes 03-afl-target for some
# seconds each with nothing in memory, with SIZES under the kernel's fork, and
# with SIZES under cowfork, and prints executions per second and the ratio to
# the target with nothing.
#
# Use:   03-afl.sh [SECONDS [MiB...]]          (default: 20 s; 1024 4096)
# Needs: afl-clang-fast and afl-fuzz (Debian: afl++), and LIBCOWFORK_PRELOAD, the
#        path of libcowfork-preload.so, unless it is in a usual place.
# SPDX-License-Identifier: MIT
set -eu

seconds=${1:-20}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 1024 4096
here=$(cd "$(dirname "$0")" && pwd)

for p in "${LIBCOWFORK_PRELOAD:-}" "$here/../build/lib/.libs/libcowfork-preload.so" \
	/usr/local/lib/libcowfork-preload.so /usr/lib/libcowfork-preload.so; do
	[ -n "$p" ] && [ -e "$p" ] && preload=$p && break
done
[ -n "${preload:-}" ] || { echo "set LIBCOWFORK_PRELOAD to libcowfork-preload.so" >&2; exit 1; }
command -v afl-fuzz >/dev/null || { echo "afl-fuzz is missing (Debian: apt-get install afl++)" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir "$work/in"
printf 'seed' >"$work/in/seed"
AFL_QUIET=1 afl-clang-fast -O2 -o "$work/target" "$here/03-afl-target.c" >"$work/cc.log" 2>&1 ||
	{ cat "$work/cc.log" >&2; exit 1; }

export AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_SKIP_CPUFREQ=1 AFL_NO_UI=1 \
	AFL_NO_AFFINITY=1 AFL_FORKSRV_INIT_TMOUT=120000 AFL_SKIP_CRASHES=1

# run NAME MIB: prints executions per second
run() {
	if ! TARGET_MIB=$2 afl-fuzz -V "$seconds" -t 5000 -i "$work/in" -o "$work/out-$1" \
		-- "$work/target" >"$work/$1.log" 2>&1 && ! grep -q 'execs_per_sec' "$work/out-$1/default/fuzzer_stats" 2>/dev/null; then
		tail -20 "$work/$1.log" >&2
		exit 1
	fi
	awk '/^execs_per_sec/ { print $3 }' "$work/out-$1/default/fuzzer_stats"
}

ratio() { awk "BEGIN { printf \"%.3f\", $1 / $2 }"; }

printf '%-22s %10s %9s\n' target execs/s ratio
tiny=$(run tiny 0)
printf '%-22s %10s %9s\n' "nothing" "$tiny" 1
for mib; do
	rate=$(run "fork-$mib" "$mib")
	printf '%-22s %10s %9s\n' "$mib MiB, real fork" "$rate" "$(ratio "$rate" "$tiny")"
	rate=$(AFL_PRELOAD=$preload run "cowfork-$mib" "$mib")
	printf '%-22s %10s %9s\n' "$mib MiB, cowfork" "$rate" "$(ratio "$rate" "$tiny")"
done
tiny=$(run tiny-again 0)
printf '%-22s %10s\n' "nothing, again" "$tiny"
