#!/bin/sh
# Programs whose memory is malloc's, under the runtime with COWFORK_ADOPT=first and a small
# threshold, adopted and in place: the same output as without, and something was adopted.
# They fork in between, and change everything afterwards.
#
# SPDX-License-Identifier: MIT
set -u
run=${top_builddir:-.}/src/cowfork-run
[ -x "$run" ] || { echo "skip: $run was not built"; exit 77; }
command -v python3 >/dev/null || { echo "skip: no python3"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
status=0

number() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$work/stats" 2>/dev/null; }

# under ENGINE COUNTER MUST NAME COMMAND...: MUST 1: the counter is not 0
under()
{
	engine=$1 counter=$2 must=$3 name=$4
	shift 4
	"$run" --engine="$engine" --adopt=first --min-size=1M --stats="$work/stats" \
		"$@" >"$work/cow" 2>&1
	echo "status $?" >>"$work/cow"
	count=$(number "$counter")
	echo "$name, $engine: $counter ${count:-0}"
	if ! cmp -s "$work/plain" "$work/cow"; then
		echo "FAIL: $name, $engine differs:"
		diff "$work/plain" "$work/cow" | head -20
		status=1
	elif [ "$must" = 1 ] && [ "${count:-0}" = 0 ]; then
		echo "FAIL: $name, $engine: nothing was adopted"
		status=1
	fi
	rm -f "$work/stats"
}

in_place=1
"$run" --explain | grep -q '^NO .*tells of forks' && in_place=0

# same NAME ADOPTS COMMAND...: does it adopt? 1: it must
same()
{
	name=$1 adopts=$2
	shift 2
	"$@" >"$work/plain" 2>&1
	echo "status $?" >>"$work/plain"
	under store adoptions "$adopts" "$name" "$@"
	under in-place forks_in_place $in_place "$name" "$@"
}

# lists, strings and arrays that grow and shrink between forks; generations of children
same python 1 python3 -c '
import hashlib, os
def digest(things):
    h = hashlib.sha256()
    for t in things: h.update(t if isinstance(t, (bytes, bytearray)) else str(t).encode())
    return h.hexdigest()[:16]
big, small = bytearray(b"x" * (24 << 20)), [str(i * 7919) for i in range(200000)]
for turn in range(6):
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(r)
        if turn % 2 and os.fork():
            os.wait(); os._exit(0)
        for i in range(0, len(big), 65536): big[i] = turn
        small.append("child"); os.write(w, digest([big] + small).encode()); os._exit(0)
    os.close(w); print(turn, digest([big] + small), os.read(r, 99).decode(), os.waitpid(pid, 0)[1])
    os.close(r)
    big += bytes([turn]) * (4 << 20)
    for i in range(turn, len(big), 4099): big[i] = (i + turn) & 255
    small = small[turn::2] + [str(i) * 3 for i in range(60000)]
    if turn == 3: del big[8 << 20:]
print(digest([big] + small))'

# the same with threads that work meanwhile
same threads 1 python3 -c '
import os, threading
data = [bytearray(b"%d" % i * (1 << 19)) for i in range(64)]
def work(k):
    for n in range(300):
        b = data[(n * 7 + k * 16) % 16 + k * 16]
        for i in range(0, len(b), 9973): b[i] = (b[i] + 1) & 255
ts = [threading.Thread(target=work, args=(k,)) for k in range(4)]
for t in ts: t.start()
codes = []
for turn in range(5):
    pid = os.fork()
    if not pid: os._exit(sum(len(b) for b in data) & 63)
    codes.append(os.waitpid(pid, 0)[1])
for t in ts: t.join()
print(codes, sum(sum(b) for b in data))'

same sqlite 1 python3 -c '
import os, sqlite3
d = sqlite3.connect(":memory:")
d.execute("create table t(k integer primary key, v text)")
for turn in range(5):
    d.executemany("insert into t values(?, ?)",
                  ((turn * 40000 + i, "v" * (i % 97)) for i in range(40000)))
    d.execute("delete from t where k % 7 = ?", (turn,))
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        d.execute("update t set v = v || k where k % 3 = 0")
        os.write(w, repr(d.execute("select count(*), sum(length(v)), sum(k) from t").fetchall()).encode())
        os._exit(0)
    os.close(w); print(os.read(r, 999).decode(), os.waitpid(pid, 0)[1]); os.close(r)
    print(d.execute("select count(*), sum(length(v)), sum(k) from t").fetchall())
print(d.execute("pragma integrity_check").fetchall())'

same multiprocessing 1 python3 -c '
import multiprocessing, os
table = {i: str(i) * 5 for i in range(150000)}
def look(i): return len(table[i]) + len(table)
if __name__ == "__main__":
    for turn in range(3):
        with multiprocessing.get_context("fork").Pool(2) as p:
            print(sum(p.map(look, range(turn, 150000, 501))))
        for i in range(turn * 1000, turn * 1000 + 500): table[-i - 1] = "more"
        for i in range(turn, 150000, 11): table[i] += "x"'

command -v perl >/dev/null && same perl 1 perl -e '
my %h = map { $_ => "v" x ($_ % 50) } 1 .. 100000;
for my $turn (1 .. 4) {
	pipe(my $r, my $w);
	if (!fork) { $h{$_} .= "c" for 1 .. 1000; print $w join(",", scalar(keys %h), length(join "", values %h)); close $w; exit }
	close $w; print $turn, " ", <$r>, " ", length(join "", values %h), "\n"; wait;
	delete $h{$_ * 3} for 1 .. 5000 * $turn; $h{"n$turn-$_"} = "w" x 20 for 1 .. 20000;
}'

exit $status
