#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real guests, real faults: what a run does when its VMM, its runner or its disk dies.

usage: vm-faults.py ASSAY [unittest arguments]
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ASSAY = str(pathlib.Path(sys.argv[1]).resolve())
TINY = 'local m = machine("m", { image = "tiny", memory = "256M" })\n'
LONG = TINY + 'test("long", function() m:succeed("echo ready; sleep 600") end)\n'


def processes_in(folder):
    """Command lines of live processes that mention the folder, or have it as working directory."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(proc.name) != os.getpid() and (folder in line or os.readlink(proc / "cwd") == folder):
                found.append((int(proc.name), line))
        except OSError:
            continue
    return found


def descendants(pid):
    """Live processes below pid, by /proc."""
    parents = {}
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (proc / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(proc.name))
        except OSError:
            continue
    todo, found = [pid], []
    while todo:
        for child in parents.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def program(pid):
    """File name of the program that a process runs."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


class Fault(unittest.TestCase):
    """Each test runs in a folder of its own."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.folder = os.path.realpath(tmp.name)

    def start(self, text, *args, **kwargs):
        """`assay run` on a file with this text."""
        pathlib.Path(self.folder, "t.lua").write_text(text)
        env = {k: v for k, v in os.environ.items() if k != "CI"} | kwargs.pop("env", {})
        self.out = open(os.path.join(self.folder, "log"), "w+")
        self.addCleanup(self.out.close)
        child = subprocess.Popen([ASSAY, "run", "t.lua", "--json", "r.json", *args], cwd=self.folder, env=env,
                                 stdout=self.out, stderr=subprocess.STDOUT, **kwargs)
        self.addCleanup(child.kill)
        return child

    def log(self):
        """What the run printed."""
        self.out.seek(0)
        return self.out.read()

    def results(self):
        """The tests of results.json."""
        return json.loads(pathlib.Path(self.folder, "r.json").read_text())["tests"]

    def wait_command(self, child, text="ready", seconds=120):
        """Until a command under way has printed text (seen in events.jsonl), or the VMM runs if text is None."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and child.poll() is None:
            if text is None:
                if any(program(p).startswith("qemu") for p in descendants(child.pid)):
                    return
            else:
                for path in pathlib.Path(self.folder).rglob("console-m.log"):
                    if text in path.read_text(errors="replace"):
                        return
            time.sleep(0.05)
        self.fail(f"never got there:\n{self.log()}")

    def qemu(self, child):
        """Process id of the one VMM below the run."""
        pids = [p for p in descendants(child.pid) if program(p).startswith("qemu")]
        self.assertEqual(len(pids), 1)
        return pids[0]

    def gone(self, pids, seconds=5):
        """None of them lives any more, soon."""
        deadline = time.monotonic() + seconds
        while any(os.path.exists(f"/proc/{p}") for p in pids):
            if time.monotonic() > deadline:
                self.fail(f"still running: {[p for p in pids if os.path.exists(f'/proc/{p}')]}")
            time.sleep(0.02)

    MARK = TINY + 'test("long", function() m:succeed("echo ready > /dev/ttyS0; sleep 600") end)\n'

    def test_vmm_killed_in_mid_command(self):
        child = self.start(self.MARK)
        self.wait_command(child)
        os.kill(self.qemu(child), signal.SIGKILL)
        self.assertEqual(child.wait(20), 1)
        (test,) = self.results()
        self.assertEqual(test["verdict"], "failed")
        self.assertEqual(test["error"]["kind"], "crash")
        self.assertIn("signal 9", self.log())

    def test_runner_killed(self):
        for level in ("full", "nopid", "none"):
            with self.subTest(level):
                child = self.start(self.MARK, "--namespaces", level)
                self.wait_command(child)
                below = descendants(child.pid)
                self.assertTrue(any(program(p).startswith("qemu") for p in below))
                child.send_signal(signal.SIGKILL)
                child.wait()
                self.gone(below)
                self.assertEqual(processes_in(self.folder), [])
                mounts = pathlib.Path("/proc/self/mountinfo").read_text()
                self.assertNotIn(self.folder, mounts)
                subprocess.run(["rm", "-rf", os.path.join(self.folder, "assay-out")], check=True)

    def test_interrupted(self):
        for when, text in (("booting", None), ("in a command", "ready")):
            with self.subTest(when):
                child = self.start(self.MARK)
                self.wait_command(child, text)
                below = descendants(child.pid)
                start = time.monotonic()
                child.send_signal(signal.SIGINT)
                self.assertEqual(child.wait(20), 130, self.log())
                self.assertLess(time.monotonic() - start, 5)
                self.gone(below)
                self.assertEqual(len(self.results()), 1)
                subprocess.run(["rm", "-rf", os.path.join(self.folder, "assay-out")], check=True)

    def test_guest_never_boots(self):
        text = TINY.replace("memory", 'cmdline = "assay.init=/nowhere", memory')
        child = self.start(text + 'test("t", function() m:start { timeout = "20s" } m:succeed("true") end)\n',
                           "--timeout-scale", "1")
        self.assertIn(child.wait(100), (1, 3))
        self.assertIn("nowhere", self.log())

    def test_no_kernel_output_at_all(self):
        pathlib.Path(self.folder, "junk").write_bytes(b"\0" * 65536)
        child = self.start('local m = machine("m", { kernel = "junk", autostart = false, memory = "128M" })\n'
                           'test("t", { timeout = "10s" }, function() m:start { timeout = "5s" } end)\n',
                           "--timeout-scale", "1")
        self.assertIn(child.wait(60), (1, 3))
        self.assertNotEqual(self.results()[0]["verdict"], "passed")

    def test_panic_nobody_waited_for(self):
        child = self.start(TINY + 'test("t", function() m:succeed("echo c > /proc/sysrq-trigger || true; sleep 600") '
                           'end)\n')
        self.assertEqual(child.wait(120), 1)
        self.assertEqual(self.results()[0]["error"]["kind"], "crash")
        self.assertIn("sysrq", self.log())

    def test_console_flood(self):
        child = self.start(TINY + 'test("t", function() m:succeed("yes flood | head -c 8000000 > /dev/ttyS0") '
                           'assert_eq(m:succeed("echo alive"), "alive") end)\n')
        self.assertEqual(child.wait(400), 0, self.log())

    def test_no_qemu(self):
        child = self.start(LONG, env={"PATH": "/nowhere"})
        self.assertEqual(child.wait(30), 3, self.log())
        self.assertIn("qemu-system-x86", self.log())

    @unittest.skipUnless(os.geteuid() == 0, "mounts a small tmpfs")
    def test_disk_full_while_running(self):
        # The images of the real cache, the machines' disks on a small file system.
        cache = pathlib.Path(self.folder, "cache")
        scratch = cache / "scratch"
        scratch.mkdir(parents=True)
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        real = pathlib.Path(os.environ.get("ASSAY_CACHE") or os.path.join(home, "assay"))
        for entry in real.iterdir():
            if entry.name != "scratch":
                (cache / entry.name).symlink_to(entry)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", scratch], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", scratch], check=True)
        child = self.start(TINY + 'test("t", function() m:succeed("dd if=/dev/urandom of=/root/big bs=1M count=64; '
                           'sync; sleep 30") end)\n', env={"ASSAY_CACHE": str(cache)})
        self.assertEqual(child.wait(120), 3, self.log())
        self.assertIn("No space left", self.log())
        self.assertEqual(self.results()[0]["error"]["kind"], "infra")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
