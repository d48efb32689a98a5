#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Forks against cold boots: how soon a test has a machine, what a hundred tests and a fork cost.

Everything is measured through `assay run`, as a user has it; cold boots and forks of one guest
alternate in one run. Raw numbers go to a JSON file beside the tables.

usage: bench/forks.py ASSAY [RAW.json]
"""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FORKS = 100
COLD = 5
IMAGES = ("tiny", "debian-13")
MACHINE = 'local m = machine("m", { image = "%s", memory = "%s" })\n'
MEMORY = {"tiny": "256M", "debian-13": "1G"}
TRIVIAL = """
for i = 1, %d do
  test("trivial " .. i, function() m:succeed("true") end)
end
"""
BOOT = """
test("boots", { isolation = "boot" }, function()
  m:start()
  for phase, seconds in pairs(m:boot_times()) do metric(phase, seconds, { unit = "s" }) end
  m:succeed("true")
end)
"""
SNAPSHOT = """
test("snapshots", { timeout = "10m" }, function()
  m:succeed("true")
  for i = 1, 10 do
    local t0 = time.now()
    local s = m:snapshot()
    local t1 = time.now()
    m:restore(s)
    local t2 = time.now()
    m:succeed("true")
    metric("snapshot", t1 - t0, { unit = "s" })
    metric("restore", t2 - t1, { unit = "s" })
  end
end)
"""
ALIVE = """
for i = 1, %d do
  test("alive " .. i, { timeout = "10m" }, function() m:succeed("true") sleep(%d) end)
end
"""


class Bench:
    """A folder with one test file, run again and again."""

    def __init__(self, assay, folder):
        self.assay, self.folder = assay, folder

    def run(self, text, *options):
        """Seconds of one `assay run`, and its report folder."""
        (self.folder / "t.lua").write_text(text)
        start = time.monotonic()
        done = subprocess.run([self.assay, "run", *options, "t.lua"], cwd=self.folder, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = time.monotonic() - start
        if done.returncode != 0:
            sys.exit(f"bench: a run failed:\n{done.stdout}")
        return seconds, (self.folder / "assay-out/latest").resolve()


def events(path):
    """An events.jsonl as a list."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_answers(report):
    """For each test: seconds until its machines ran, and until its first command was answered."""
    running, answered = [], []
    for path in sorted(report.glob("*/events.jsonl")):
        begin = None
        for event in events(path):
            if event["type"] == "phase" and event["name"] == "fork":
                begin = event["t"]
            elif event["type"] == "fork":
                running.append(event["seconds"])
            elif event["type"] == "command" and event["phase"] == "end" and begin is not None:
                answered.append(event["t"] - begin)
                break
    return running, answered


def metrics(report, name):
    """All samples of a metric in a run."""
    return [e["value"] for p in report.glob("*/events.jsonl") for e in events(p)
            if e["type"] == "metric" and e["name"] == name]


def percentile(values, part):
    """The value below which that part of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def private_mib(word):
    """Mean private memory of the VMMs whose command line has the word."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (proc / "cmdline").read_bytes()
            if b"qemu-system" not in argv.split(b"\0")[0] or word not in argv:
                continue
            found.append(sum(int(line.split()[1]) for line in (proc / "smaps_rollup").read_text().splitlines()
                             if line.startswith(("Private_Clean:", "Private_Dirty:"))) / 1024)
        except OSError:
            continue
    return found


def available_mib():
    """What the host has left."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0


def ms(values):
    """Median and 99th percentile in ms."""
    return f"{statistics.median(values) * 1000:.0f} | {percentile(values, .99) * 1000:.0f}"


def measure_starts(bench, image, raw):
    """Cold boots and forks, alternated."""
    head = MACHINE % (image, MEMORY[image])
    agent, total, running, answered, walls = [], [], [], [], []
    bench.run(head + TRIVIAL % 1)  # makes the template
    for _ in range(COLD):
        wall, report = bench.run(head + BOOT)
        walls.append(wall)
        agent += metrics(report, "agent")
        total += metrics(report, "total")
        _, report = bench.run(head + TRIVIAL % (FORKS // COLD), "-j1")
        more_running, more_answered = first_answers(report)
        running += more_running
        answered += more_answered
    raw[image] = {"agent": agent, "total": total, "cold_run": walls, "running": running, "answered": answered}
    print(f"| {image} | {statistics.median(agent):.2f} | {statistics.median(total):.2f} | {ms(running)} | "
          f"{ms(answered)} | {statistics.median(total) / statistics.median(answered):.0f} |")
    return statistics.median(walls)


def measure_hundred(bench, image, cold, raw):
    """A hundred trivial tests."""
    text = MACHINE % (image, MEMORY[image]) + TRIVIAL % FORKS
    seconds = {jobs: bench.run(text, f"-j{jobs}")[0] for jobs in (1, 2, 4)}
    raw[image]["hundred"] = seconds
    print(f"| {image} | {seconds[1]:.1f} | {seconds[2]:.1f} | {seconds[4]:.1f} | {cold * FORKS:.0f} |")


def measure_memory(bench, image, raw):
    """Forks alive at once: what each takes for itself, and what the host misses."""
    rows = []
    for count in (10, 50):
        text = MACHINE % (image, MEMORY[image]) + ALIVE % (count, 15 if count == 10 else 30)
        (bench.folder / "t.lua").write_text(text)
        before = available_mib()
        with subprocess.Popen([bench.assay, "run", f"-j{count}", "t.lua"], cwd=bench.folder,
                              stdout=subprocess.DEVNULL) as child:
            private, after = [], before
            while child.poll() is None:
                found = private_mib(b"guest=m")
                if len(found) >= len(private):
                    private, after = found, available_mib()
                time.sleep(1)
        rows.append((len(private), statistics.mean(private) if private else 0, before - after, child.returncode))
    raw[image]["memory"] = rows
    for alive, private, missing, status in rows:
        print(f"| {image} | {alive} | {private:.0f} | {missing / max(alive, 1):.0f} | "
              f"{'all passed' if status == 0 else 'FAILED'} |")


def measure_save(bench, image, raw):
    """Making a template from nothing, in a cache of its own that shares the images."""
    cache = pathlib.Path(os.environ.get("ASSAY_CACHE") or
                         pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "assay")
    saves, sizes = [], {}
    for _ in range(3):
        shutil.rmtree(cache / "templates", ignore_errors=True)
        _, report = bench.run(MACHINE % (image, MEMORY[image]) + TRIVIAL % 1)
        for path in report.glob("**/events.jsonl"):
            begin = None
            for event in events(path):
                if event["type"] == "phase" and event["name"] == "save":
                    begin = event["t"]
                elif begin is not None and event["type"] in ("template-made", "phase", "template-end"):
                    saves.append(event["t"] - begin)
                    begin = None
    for path in (cache / "templates").glob("*/*"):
        sizes[path.name] = path.stat().st_blocks * 512
    raw[image]["save"] = {"seconds": saves, "bytes": sizes}
    text = ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in sorted(sizes.items()))
    print(f"| {image} | {statistics.median(saves) * 1000 if saves else 0:.0f} | {text} |")


def measure_snapshots(bench, image, raw):
    """snapshot() and restore() within a test."""
    _, report = bench.run(MACHINE % (image, MEMORY[image]) + SNAPSHOT)
    took, back = metrics(report, "snapshot"), metrics(report, "restore")
    raw[image]["snapshot"], raw[image]["restore"] = took, back
    print(f"| {image} | {ms(took)} | {ms(back)} |")


def main():
    assay = pathlib.Path(sys.argv[1]).resolve()
    raw = {}
    with tempfile.TemporaryDirectory() as tmp:
        bench = Bench(assay, pathlib.Path(tmp))
        print(f"| a machine for a test, median of {COLD} boots and {FORKS} forks | cold boot to agent, s | to multi-user, s | "
              "fork running, ms | p99 | first command answered, ms | p99 | times faster |\n"
              "|---|---|---|---|---|---|---|---|")
        cold = {image: measure_starts(bench, image, raw) for image in IMAGES}
        print(f"\n| {FORKS} trivial tests, s | -j 1 | -j 2 | -j 4 | booted each (from {COLD}) |\n|---|---|---|---|---|")
        for image in IMAGES:
            measure_hundred(bench, image, cold[image], raw)
        print("\n| forks alive at once | forks | private, MiB each | the host's memory, MiB each | |\n|---|---|---|---|---|")
        for image in IMAGES:
            measure_memory(bench, image, raw)
        print("\n| within a test, 10 times | snapshot, ms | p99 | restore, ms | p99 |\n|---|---|---|---|---|")
        for image in IMAGES:
            measure_snapshots(bench, image, raw)
        print("\n| making a template, median of 3 | save, ms | files |\n|---|---|---|")
        for image in IMAGES:
            measure_save(bench, image, raw)
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
