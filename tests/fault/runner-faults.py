#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a run does when its workers, its user or its disk misbehave. No guest is needed.

usage: runner-faults.py ASSAY [unittest arguments]
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ASSAY = str(pathlib.Path(sys.argv[1]).resolve())
FAKE = 'local m = machine("m", { backend = "fake", memory = "64M" })\n'
LEVELS = ("full", "nopid", "none")
# An instrumented build shall crash and use memory as any other: the kernel's SIGSEGV, no report of
# its own; and freed memory is kept for a little while only (256 MiB by default).
SANITIZER = "handle_segv=0:quarantine_size_mb=4:thread_local_quarantine_size_kb=64"


def probe(level):
    return subprocess.run([ASSAY, "ns-init", level, "--probe"], stdin=subprocess.DEVNULL,
                          capture_output=True, check=False).returncode == 0


def processes_with(word):
    """Live processes whose command line or environment has the word."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            text = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
            state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in text and state != "Z" and int(proc.name) != os.getpid():
            found.append((int(proc.name), (proc / "cmdline").read_bytes()))
    return found


def wait_for(condition, seconds=20):
    """Until the condition holds; what it returned last."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.01)


class Fault(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="assay-fault-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.word = f"ASSAY_FAULT_{os.getpid()}_{time.monotonic_ns()}"
        self.env = {k: v for k, v in os.environ.items() if k not in ("CI", "ASSAY_DEBUG")}
        self.env[self.word] = "1"
        self.cache = tempfile.mkdtemp(prefix="assay-fault-cache-")
        self.addCleanup(shutil.rmtree, self.cache, ignore_errors=True)
        self.env |= {"ASSAY_CACHE": self.cache, "ASSAY_TMPFS": self.cache}
        self.env["ASAN_OPTIONS"] = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), SANITIZER)))

    def write(self, text, name="a.lua"):
        path = pathlib.Path(self.folder, name)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *args):
        # A shell in the background ignores SIGINT, and we would inherit that.
        return subprocess.Popen([ASSAY, "run", *args], cwd=self.folder, env=self.env, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def run_assay(self, *args, timeout=60):
        process = self.start(*args)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def results(self):
        with open(pathlib.Path(self.folder, "assay-out/latest/results.json"), encoding="utf-8") as f:
            return json.load(f)

    def worker(self):
        """Pid of the one worker, once it runs its test."""
        def find():
            events = list(pathlib.Path(self.folder, "assay-out").glob("*/*/events.jsonl"))
            ready = any('"name":"test"' in e.read_text(encoding="utf-8") for e in events)
            return [pid for pid, line in processes_with(self.word)
                    if ready and b"\0worker\0" in line and b"ns-init" not in line]
        found = wait_for(find)
        self.assertEqual(len(found), 1)
        return found[0]

    def assert_nothing_left(self):
        self.assertTrue(wait_for(lambda: not processes_with(self.word), 5), processes_with(self.word))

    # --- workers -------------------------------------------------------------------------------

    def test_worker_crash(self):
        """A crash is its test's verdict; the run goes on."""
        self.write(FAKE + 'test("a", function() sleep(60) end)\ntest("b", function() end)\n')
        for level in LEVELS:
            if not probe(level) and level != "none":
                continue
            with self.subTest(level=level):
                shutil.rmtree(os.path.join(self.folder, "assay-out"), ignore_errors=True)
                process = self.start("-j1", "--namespaces", level, "a.lua")
                os.kill(self.worker(), signal.SIGSEGV)
                output, _ = process.communicate(timeout=30)
                self.assertEqual(process.returncode, 3, output)
                self.assertIn("killed by signal 11", output)
                self.assertIn("1 passed, 0 failed, 1 errored", output)
                self.assert_nothing_left()

    def test_runaway_script(self):
        """The instruction hook ends a script that computes; the runner's SIGKILL is not needed."""
        self.write('test("a", { timeout = "1s" }, function() while true do end end)\n')
        begin = time.monotonic()
        status, output = self.run_assay("a.lua")
        self.assertEqual(status, 1, output)
        self.assertIn("time-out of 1 s", output)
        self.assertLess(time.monotonic() - begin, 10)

    def test_few_descriptors(self):
        """Snapshots that are held need many; the soft limit is not what counts."""
        self.write(FAKE + 'test("a", function() local held = {}\n'
                   'm:start() for i = 1, 30 do held[i] = m:snapshot() end m:restore(held[1]) end)\n')
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        status, output = self.run_assay(".")
        self.assertEqual(status, 0, output)

    def test_stopped_worker(self):
        """One that does not keep its own deadline is killed 15 s later."""
        self.write('test("a", { timeout = "1s" }, function() sleep(60) end)\n')
        process = self.start("a.lua")
        os.kill(self.worker(), signal.SIGSTOP)
        output, _ = process.communicate(timeout=40)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("did not end 15 s after its time-out of 1 s and was killed", output)
        self.assert_nothing_left()

    def test_flood(self):
        """A worker that tells too much neither grows the runner nor fills the disk."""
        self.write('test("a", function()\n'
                   '  local s = ("x"):rep(100000)\n  for i = 1, 1800 do log(s) end\nend)\n')
        process = self.start("a.lua")
        output = process.stdout.read()
        process.stdout.close()
        # Of this run's processes alone; RUSAGE_CHILDREN is the peak of all tests before.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, output)
        events = pathlib.Path(self.folder, "assay-out/latest/a.a/events.jsonl")
        self.assertLess(events.stat().st_size, 80 << 20)
        self.assertTrue('"events-dropped"' in events.read_text(encoding="utf-8")[-5000:])
        self.assertLess(usage.ru_maxrss, 140 << 10)  # KiB

    def test_bench_timeout(self):
        """It bounds each repetition, not all of them together."""
        self.write('bench("a", { runs = 4, timeout = "1s" }, function() sleep(0.3) end)\n'
                   'bench("b", { runs = 4, timeout = "0.5s" }, function() sleep(60) end)\n')
        status, output = self.run_assay("a.lua")
        self.assertEqual(status, 1, output)
        self.assertIn("1 passed, 1 failed", output)
        self.assertIn("the repetition's time-out of 0.5 s", output)

    def test_start_fails_beside_others(self):
        """The first machine that cannot start ends the wait for those that still boot."""
        self.write('machine("a", { backend = "fake", memory = "64M", fake = { never_boot = true } })\n'
                   'machine("b", { backend = "fake", memory = "64M", '
                   'fake = { start_fails = "no room" } })\n'
                   'test("t", function() end)\n')
        begin = time.monotonic()
        status, output = self.run_assay("a.lua")
        self.assertEqual(status, 3, output)
        self.assertIn("no room", output)
        self.assertLess(time.monotonic() - begin, 10)

    # --- files -----------------------------------------------------------------------------------

    def test_declares_nothing(self):
        self.write("local x = 1\n")
        status, output = self.run_assay("a.lua")
        self.assertEqual(status, 2, output)
        self.assertIn("a.lua declares no test", output)

    def test_module_in_a_folder(self):
        """What tests require may lie beside them."""
        self.write("return { x = 1 }\n", "helper.lua")
        self.write('local h = require("helper")\ntest("a", function() assert_eq(h.x, 1) end)\n')
        status, output = self.run_assay(".")
        self.assertEqual(status, 0, output)

    def test_changed_in_between(self):
        """The file is evaluated again by the worker and must declare the same."""
        body = 'test("a", function() sleep(1) end)\ntest("b", { timeout = "%s" }, function() end)\n'
        self.write(body % "5s")
        process = self.start("-j1", "a.lua")
        self.worker()
        self.write(body % "6s")
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 3, output)
        self.assertIn("does not declare what it declared when the run was planned", output)
        self.assertIn("test 'b': timeout_ms is 6000 and was 5000", output)
        self.assertIn("1 passed, 0 failed, 1 errored", output)

    def test_unwritable_output(self):
        self.write('test("a", function() end)\n')
        pathlib.Path(self.folder, "assay-out").write_text("a file", encoding="utf-8")
        status, output = self.run_assay("a.lua")
        self.assertEqual(status, 3, output)
        self.assertIn("the output folder", output)
        self.assertIn("--out DIR", output)
        self.assertNotIn("PASS", output)

    def test_full_disk(self):
        """The run ends cleanly and says what happened."""
        small = pathlib.Path(self.folder, "small")
        small.mkdir()
        if os.geteuid() != 0 or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)],
                capture_output=True, check=False).returncode != 0:
            self.skipTest("needs a small file system")
        self.addCleanup(subprocess.run, ["umount", "-l", str(small)], check=False)
        self.write('test("a", function() for i = 1, 3000 do log(("x"):rep(1000)) end end)\n'
                   'test("b", function() end)\n')
        status, output = self.run_assay("-j1", "-o", "small", "a.lua")
        self.assertEqual(status, 3, output)
        self.assertIn("No space left on device", output)
        # Nobody has interrupted it.
        self.assertNotIn("interrupted", output)
        self.assertRegex(output, r"ERROR a.lua: a .*\n  the run cannot go on: cannot write to ")
        self.assert_nothing_left()

    # --- Ctrl-C ------------------------------------------------------------------------------------

    def interrupted(self, process, at_most=3.0):
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        took = time.monotonic() - begin
        self.assertEqual(process.returncode, 130, output)
        self.assertLess(took, at_most)
        self.assert_nothing_left()
        return output

    def test_interrupt_while_planning(self):
        self.write('local x = 0\nwhile true do x = x + 1 end\n')
        process = self.start("a.lua")
        wait_for(lambda: [1 for _, line in processes_with(self.word) if b"\0worker\0" in line])
        self.assertIn("interrupted", self.interrupted(process))

    def test_interrupt_in_a_test(self):
        self.write(FAKE + 'test("a", function() sleep(60) end)\ntest("b", function() end)\n')
        for level in LEVELS:
            if not probe(level) and level != "none":
                continue
            with self.subTest(level=level):
                shutil.rmtree(os.path.join(self.folder, "assay-out"), ignore_errors=True)
                process = self.start("-j1", "--namespaces", level, "a.lua")
                self.worker()
                output = self.interrupted(process)
                self.assertIn("(interrupted)", output)
                results = self.results()
                self.assertEqual([t["verdict"] for t in results["tests"]], ["errored"])
                self.assertEqual(results["not_run"], [{"file": "a.lua", "test": "b"}])
                self.assertTrue(results["summary"]["interrupted"])

    def test_interrupt_in_a_boot(self):
        self.write('suite { isolation = "shared" }\n'
                   'local m = machine("m", { backend = "fake", memory = "64M", '
                   'fake = { never_boot = true } })\n'
                   'test("a", function() end)\n')
        process = self.start("a.lua")
        wait_for(lambda: [e for e in pathlib.Path(self.folder, "assay-out").glob("*/*/events.jsonl")
                          if '"starting"' in e.read_text(encoding="utf-8")])
        self.assertIn("(interrupted)", self.interrupted(process))

    def test_interrupt_of_a_computing_script(self):
        self.write('test("a", function() while true do end end)\n')
        process = self.start("a.lua")
        self.worker()
        self.assertIn("(interrupted)", self.interrupted(process))

    # --- SIGKILL -----------------------------------------------------------------------------------

    def test_runner_killed(self):
        """Nothing stays: no process, no mount, no interface, no file but the report."""
        self.write(FAKE + 'test("a", function() sleep(60) end)\n')
        for level in LEVELS:
            if not probe(level) and level != "none":
                continue
            with self.subTest(level=level):
                shutil.rmtree(os.path.join(self.folder, "assay-out"), ignore_errors=True)
                mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8")
                links = sorted(os.listdir("/sys/class/net"))
                process = self.start("--namespaces", level, "a.lua")
                self.worker()
                process.kill()
                process.communicate()
                self.assertTrue(wait_for(lambda: not processes_with(self.word), 5),
                                processes_with(self.word))
                self.assertEqual(mounts, pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
                self.assertEqual(links, sorted(os.listdir("/sys/class/net")))
                left = {p.name for p in pathlib.Path(self.folder).rglob("*") if p.is_file()}
                self.assertEqual(left - {"a.lua", "events.jsonl", "console-m.log"}, set())

    def test_left_behind(self):
        """What a worker leaves behind goes, also where the kernel has no list of children."""
        hide = 'mount -t tmpfs tmpfs "/proc/$$/task"; '
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
        for name, script in (("list", ""), ("no list", hide)):
            with self.subTest(name):
                if script and subprocess.run([*inside, script], capture_output=True,
                                             check=False).returncode != 0:
                    self.skipTest("needs a mount namespace")
                # The shell becomes ns-init, with a child already.
                script += 'sleep 300 & exec "$0" ns-init nopid -- assay --version'
                process = subprocess.Popen([*(inside if name == "no list" else ["sh", "-ec"]), script,
                                            ASSAY], env=self.env, stdin=subprocess.DEVNULL, text=True,
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                try:
                    output, _ = process.communicate(timeout=20)
                finally:
                    for pid, _ in processes_with(self.word):
                        os.kill(pid, signal.SIGKILL)
                self.assertEqual(process.returncode, 0, output)
                self.assertRegex(output, r"^assay \S+\n$")

    def test_ns_init_killed(self):
        """Nor when it is the process between that dies."""
        self.write(FAKE + 'test("a", function() sleep(60) end)\n')
        for level in ("full", "nopid"):
            if not probe(level):
                continue
            with self.subTest(level=level):
                shutil.rmtree(os.path.join(self.folder, "assay-out"), ignore_errors=True)
                process = self.start("--namespaces", level, "a.lua")
                self.worker()
                outer = [pid for pid, line in processes_with(self.word) if b"\0ns-init\0" in line]
                os.kill(min(outer), signal.SIGKILL)
                output, _ = process.communicate(timeout=30)
                self.assertEqual(process.returncode, 3, output)
                self.assertIn("killed by signal 9", output)
                self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
