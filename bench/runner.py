#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The runner's own cost: 200 trivial tests on the fake backend, and a worker's memory.

usage: bench/runner.py ASSAY
"""
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TESTS = 200
RUNS = 5
FILE = """
local m = machine("m", { backend = "fake", fake = { exec = { ["true"] = { code = 0 } } } })
for i = 1, %d do
  test("trivial " .. i, function() m:succeed("true") end)
end
"""
MEMORY = """
local m = machine("m", { backend = "fake", fake = { exec = { ["true"] = { code = 0 } } } })
test("waits", function() m:succeed("true") sleep(3) end)
"""


def run(assay, folder, text):
    """Seconds of one `assay run`."""
    (folder / "t.lua").write_text(text)
    start = time.monotonic()
    subprocess.run([assay, "run", "t.lua"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def workers(assay):
    """Process ids of `assay worker`s; what prepares one (`assay ns-init … -- assay worker`) is none."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (proc / "cmdline").read_bytes().split(b"\0")
            if os.readlink(proc / "exe") == str(assay) and argv[1:2] == [b"worker"] and b"--plan" not in argv:
                found.append(proc)
        except OSError:
            continue
    return found


def status_kib(proc, key):
    """A value of /proc/PID/status, in KiB."""
    for line in (proc / "status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def private_kib(proc):
    """Memory that the process shares with nobody."""
    return sum(int(line.split()[1]) for line in (proc / "smaps_rollup").read_text().splitlines()
               if line.startswith(("Private_Clean:", "Private_Dirty:")))


def main():
    assay = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        seconds = [run(assay, folder, FILE % TESTS) for _ in range(RUNS)]
        (folder / "t.lua").write_text(MEMORY)
        with subprocess.Popen([assay, "run", "t.lua"], cwd=folder, stdout=subprocess.DEVNULL) as child:
            time.sleep(1.5)  # well inside the test's own sleep
            memory = [(status_kib(p, "VmHWM"), private_kib(p)) for p in workers(assay)]
            child.wait()
    print("| the runner's own cost | |\n|---|---|")
    print(f"| {TESTS} trivial tests, fake backend, median of {RUNS} (aim: under 2 s on 2 cores) | "
          f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} – {max(seconds):.2f}) |")
    for resident, private in memory:
        print(f"| memory of a worker (aim: 10 MiB): private | {private / 1024:.1f} MiB |")
        print(f"| … resident, libraries that all share included | {resident / 1024:.1f} MiB |")


if __name__ == "__main__":
    main()
