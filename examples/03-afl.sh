#!/bin/sh
# 03-afl: AFL++ on a target that holds gigabytes. Fuzzes 03-afl-target for some
# seconds each with nothing in memory, with SIZES under the kernel's fork, and
# with SIZES under cowfork, in turns, and prints executions per second and the
# ratio to the target with nothing in the same turn. The last row of each size
# has every input touch four of its pages at random: page faults, not forks.
# Seconds count from when the target has filled its memory. All runs on one
# processor, the last.
#
# KIND of memory: mmap, one mapping; malloc, blocks of 1 KiB, which cowfork adopts; asan,
# the same with AddressSanitizer and COWFORK_ADOPT=first; in-place, the same as malloc with
# COWFORK_ENGINE=in-place.
#
# Use:   03-afl.sh [-k KIND] [SECONDS [TURNS [MiB...]]]  (default: mmap; 20 s; 1; 1024 4096)
# Needs: afl-clang-fast and afl-fuzz (Debian: afl++), and LIBCOWFORK_PRELOAD, the
#        path of libcowfork-preload.so, unless it is in a usual place.
# SPDX-License-Identifier: MIT
set -eu

kind=mmap
if [ "${1:-}" = -k ] && [ $# -gt 1 ]; then
	kind=$2
	shift 2
fi
case $kind in
mmap) ;;
malloc) export TARGET_BLOCK=1024 ;;
asan) export TARGET_BLOCK=1024 AFL_USE_ASAN=1 COWFORK_ADOPT=first ;;
in-place) export TARGET_BLOCK=1024 COWFORK_ENGINE=in-place ;;
*) echo "$kind is none of mmap, malloc, asan, in-place" >&2; exit 1 ;;
esac
seconds=${1:-20} turns=${2:-1}
[ $# -gt 0 ] && shift
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
AFL_QUIET=1 afl-clang-fast -O2 -g -o "$work/target" "$here/03-afl-target.c" >"$work/cc.log" 2>&1 ||
	{ cat "$work/cc.log" >&2; exit 1; }

export AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_SKIP_CPUFREQ=1 AFL_NO_UI=1 \
	AFL_NO_AFFINITY=1 AFL_FORKSRV_INIT_TMOUT=120000 AFL_SKIP_CRASHES=1 \
	TARGET_READY="$work/ready"
cpu=$(($(nproc --all) - 1))

# run MIB TOUCH: prints executions per second
run() {
	rm -rf "$work/ready" "$work/out"
	TARGET_MIB=$1 TARGET_TOUCH=$2 taskset -c "$cpu" afl-fuzz -V "$((seconds + $1 / 512))" -t 5000 \
		-i "$work/in" -o "$work/out" -- "$work/target" >"$work/log" 2>&1 || :
	if ! grep -q '^execs_done' "$work/out/default/fuzzer_stats" 2>/dev/null; then
		tail -20 "$work/log" >&2
		exit 1
	fi
	awk -v ready="$(stat -c %.3Y "$work/ready")" '
		/^last_update/ { end = $3 }
		/^execs_done/ { n = $3 }
		END { printf "%.0f", n / (end + 0.5 - ready) }' "$work/out/default/fuzzer_stats"
}

row() { printf '%-22s %10s %9.3f\n' "$1" "$2" "$(awk "BEGIN { print $2 / $tiny }")"; }

printf '%-22s %10s %9s\n' target execs/s ratio
for turn in $(seq "$turns"); do
	tiny=$(run 0 0)
	row nothing "$tiny"
	for mib; do
		row "$mib MiB, real fork" "$(run "$mib" 0)"
		row "$mib MiB, cowfork" "$(AFL_PRELOAD=$preload run "$mib" 0)"
		row "the same, 4 touched" "$(AFL_PRELOAD=$preload run "$mib" 4)"
	done
done
