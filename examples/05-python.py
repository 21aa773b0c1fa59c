#!/usr/bin/env python3
"""05-python: os.fork and multiprocessing in a program that holds a large array.

The array is malloc's memory, which never passes mmap(3): cowfork adopts it. Forks are
timed with the array and, in the same turn, before it was made; every child checks some of
what it inherited. Without cowfork the ratio grows with the array, with it it does not
after the first forks (COWFORK_ADOPT=auto) or from the first one on (first).

Use:  05-python.py [GiB [FORKS]]                                  (default 2; 200)
      cowfork-run 05-python.py 2
      cowfork-run --adopt=first --stats 05-python.py 2
      05-python.py --compare [GiB [FORKS]]    (all three; COWFORK_RUN names cowfork-run)

SPDX-License-Identifier: MIT
"""
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

PAGE = 4096


def cycle(check):
    """One fork, its child's end and the wait: seconds of the call and of it all."""
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    called = time.perf_counter() - start
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("a child saw other bytes than its parent")
    return called, time.perf_counter() - start


def measure(forks, check):
    times = [cycle(check) for _ in range(forks)]
    # what comes after the first half: adoption is done by then, if it comes at all
    late = times[forks // 2:]
    return {
        "first": times[0][1],
        "fork": statistics.median(t[0] for t in late),
        "cycle": statistics.median(t[1] for t in late),
        "most": max(t[1] for t in late),
        "sum": sum(t[1] for t in times),
    }


def task(args):
    index, value = args
    return array[index] == value


def pool(pages):
    """A pool of two processes, made anew: its forks, and what they inherited."""
    start = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(2) as p:
        if not all(p.map(task, [(i * PAGE, i % 251) for i in range(0, pages, pages // 16)])):
            sys.exit("a worker saw other bytes than its parent")
    return time.perf_counter() - start


def run(gib, forks):
    global array
    without = measure(forks, lambda: True)
    array = bytearray(int(gib * (1 << 30)))
    pages = len(array) // PAGE
    for i in range(pages):
        array[i * PAGE] = i % 251
    held = measure(forks, lambda: array[(pages - 1) * PAGE] == (pages - 1) % 251)
    print(f"{held['fork'] * 1e6:9.0f} {held['cycle'] * 1e6:9.0f} {held['most'] * 1e6:9.0f} "
          f"{held['cycle'] / without['cycle']:7.1f} {held['first'] * 1e3:9.1f} "
          f"{held['sum']:7.2f} {pool(pages) * 1e3:8.1f}", flush=True)


def compare(args):
    tool = os.environ.get("COWFORK_RUN", "cowfork-run")
    print(f"{'':14} {'fork us':>9} {'cycle us':>9} {'longest':>9} {'ratio':>7} "
          f"{'first ms':>9} {'all s':>7} {'pool ms':>8}")
    for name, prefix in (("real fork", []), ("cowfork auto", [tool, "--adopt=auto"]),
                         ("cowfork first", [tool, "--adopt=first"])):
        print(f"{name:14} ", end="", flush=True)
        subprocess.run(prefix + [sys.executable, os.path.abspath(__file__), *args], check=True)


array = bytearray()
if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--compare"]:
        compare(words[1:])
    else:
        run(float(words[0]) if words else 2, int(words[1]) if len(words) > 1 else 200)
