#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Forks and their templates, over several runs, on the scripted backend: what is made again, what
is found, what is left when something breaks. No guest is needed.

usage: fork-faults.py ASSAY [unittest arguments]
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ASSAY = str(pathlib.Path(sys.argv[1]).resolve())


def machine(name="m", options="", fake=""):
    return f'local {name} = machine("{name}", {{ backend = "fake", memory = "64M", {options} ' \
           f'fake = {{ {fake} }} }})\n'


def wait_for(condition, seconds=20):
    """Until the condition holds; what it returned last."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.01)


class Forks(unittest.TestCase):
    def setUp(self):
        top = tempfile.mkdtemp(prefix="assay-forks-")
        self.addCleanup(shutil.rmtree, top, ignore_errors=True)
        self.folder, self.cache = pathlib.Path(top, "tests"), pathlib.Path(top, "cache")
        self.tmpfs = pathlib.Path(top, "tmpfs")
        for d in (self.folder, self.tmpfs):
            d.mkdir()
        self.word = f"ASSAY_FORKS_{os.getpid()}_{time.monotonic_ns()}"
        self.env = {k: v for k, v in os.environ.items() if k not in ("CI", "ASSAY_DEBUG")}
        self.env |= {self.word: "1", "ASSAY_CACHE": str(self.cache), "ASSAY_TMPFS": str(self.tmpfs)}

    def write(self, text, name="a.lua"):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *args):
        return subprocess.Popen([ASSAY, "run", "--timeout-scale", "1", *args], cwd=self.folder,
                                env=self.env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def finish(self, process, status=0, timeout=60):
        output, _ = process.communicate(timeout=timeout)
        self.assertEqual(process.returncode, status, output)
        return output

    def run_assay(self, *args, status=0):
        return self.finish(self.start(*args), status)

    def results(self, out="assay-out"):
        with open(self.folder / out / "latest/results.json", encoding="utf-8") as f:
            return json.load(f)

    def made(self, out="assay-out"):
        """Levels of the templates that the last run has made, and of those that it has found."""
        ends = self.results(out)["templates"]
        return (sorted(t["level"] for t in ends if not t["cached"] and t["state"] == "ready"),
                sorted(t["level"] for t in ends if t["cached"]))

    def verdicts(self):
        return {t["test"]: t["verdict"] for t in self.results()["tests"]}

    def end_of(self, test):
        return next(t for t in self.results()["tests"] if t["test"] == test)

    def stored(self):
        return sorted(p.name for p in (self.cache / "templates").glob("*") if len(p.name) == 12)

    def processes(self):
        found = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
                if self.word.encode() in (proc / "environ").read_bytes() and state != "Z":
                    found.append((int(proc.name), (proc / "cmdline").read_bytes()))
            except OSError:
                continue
        return found

    def assert_nothing_made(self):
        self.assertTrue(wait_for(lambda: not self.processes(), 5), self.processes())
        self.assertEqual(self.stored(), [])
        self.assertEqual([p for p in self.tmpfs.rglob("*") if p.is_file()], [])

    def wait_for_event(self, text, folder="*"):
        def find():
            return [e for e in self.folder.glob(f"assay-out/*/{folder}/events.jsonl")
                    if text in e.read_text(encoding="utf-8")]
        self.assertTrue(wait_for(find), f"no {text} in {folder}")

    # --- what makes a template anew ------------------------------------------------------------

    SETUP = ('setup(function()\n  m:write_file("/made", "%s")\n  log("setup ran")\n'
             '  return { n = %s }\nend)\n')
    TEST = ('test("t", function(s)\n  assert_eq(m:read_file("/made"), "%s")\n'
            '  assert_eq(s.n, %s)\nend)\n')

    def test_found_again(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["boot", "setup"], []))
        self.assertEqual(self.end_of("t")["isolation"], "fork")
        self.assertGreater(self.end_of("t")["fork_seconds"], 0)
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        found = next(t for t in self.results()["templates"] if t["level"] == "setup")
        self.assertEqual(found["log"], [{"text": "setup ran"}])

    def test_a_test_is_edited(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.write("-- a line more\n\n" + machine() + self.SETUP % ("x", 1) + "\n" + self.TEST % ("x", 1) +
                   'test("u", function(s) assert_eq(s.n, 1) end)\n')
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        self.assertEqual(self.verdicts(), {"t": "passed", "u": "passed"})

    def test_setup_is_edited(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.write(machine() + self.SETUP % ("y", 2) + self.TEST % ("y", 2))
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_a_helper_of_setup_is_edited(self):
        text = 'local h = require("h")\n' + machine() + \
               'setup(function() m:write_file("/made", h.value()) end)\n' \
               'test("t", function() assert_eq(m:read_file("/made"), h.other()) end)\n'
        helper = 'return { value = function() return "%s" end, other = function() return "%s" end }\n'
        (self.folder / "lib").mkdir()
        self.write(helper % ("x", "x"), "lib/h.lua")
        self.write(text)
        self.run_assay("a.lua")
        self.write("-- nothing else\n" + helper % ("x", "x"), "lib/h.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        self.write(helper % ("y", "y"), "lib/h.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_a_machine_is_edited(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.write(machine(options="cpus = 2,") + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["boot", "setup"], []))

    def test_a_host_file_is_edited(self):
        self.write("one", "data")
        self.write(machine() + 'setup(function() m:copy_from_host("data", "/data") end)\n'
                   'test("t", function() log(m:read_file("/data")) end)\n')
        self.run_assay("a.lua")
        os.utime(self.folder / "data", (1, 1))
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        self.write("two", "data")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))
        self.assertEqual(self.end_of("t")["log"], [{"text": "two"}])
        # The same setup in another folder has files of its own.
        (self.folder / "other").mkdir()
        self.write("three", "other/data")
        shutil.copy(self.folder / "a.lua", self.folder / "other/a.lua")
        self.run_assay("other/a.lua")
        self.assertEqual(self.end_of("t")["log"], [{"text": "three"}])

    def test_a_host_file_appears(self):
        """What setup has looked for in vain is a file that it depends on."""
        self.write(machine() + 'setup(function()\n'
                   '  if not pcall(m.copy_from_host, m, "data", "/data") then m:write_file("/data", "none") end\n'
                   '  if not pcall(require, "extra") then log("no module") end\nend)\n'
                   'test("t", function() log(m:read_file("/data")) end)\n')
        self.run_assay("a.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        self.assertEqual(self.end_of("t")["log"], [{"text": "none"}])
        self.write("one", "data")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))
        self.assertEqual(self.end_of("t")["log"], [{"text": "one"}])
        self.write("return 1", "extra.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_a_folder_with_a_socket_is_edited(self):
        """What is not copied must not hide what is."""
        (self.folder / "src").mkdir()
        self.write("one", "src/data")
        os.mkfifo(self.folder / "src/pipe")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(os.path.relpath(self.folder / "src/socket"))
            self.write(machine() + 'setup(function() m:copy_from_host("src", "/src") end)\ntest("t", print)\n')
            self.run_assay("a.lua")
            self.run_assay("a.lua")
            self.assertEqual(self.made(), ([], ["boot", "setup"]))
            self.write("two", "src/data")
            self.run_assay("a.lua")
            self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_setup_reads_what_the_run_writes(self):
        """Never found again, but good for the run that made it."""
        self.write(machine() + 'setup(function() m:copy_from_host(".", "/src") end)\n'
                   'test("t", function() m:read_file("/src/a.lua") end)\n')
        for _ in range(2):
            self.run_assay("a.lua")
            self.assertEqual(self.made()[0][-1], "setup")
        self.assertEqual(len(self.stored()), 2)

    def test_params_and_seed(self):
        self.write(machine() + 'setup(function() return { p = params.p } end)\n'
                   'test("t", function(s) assert_eq(s.p, params.p) end)\n')
        self.run_assay("--param", "p=1", "a.lua")
        self.run_assay("--param", "p=2", "a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))
        self.run_assay("--param", "p=2", "--seed", "7", "a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        self.write(machine() + 'setup(function() return math.random() end)\ntest("t", print)\n')
        self.run_assay("a.lua")
        self.run_assay("--seed", "7", "a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_too_old(self):
        self.write(machine() + 'setup({ cache = "1h" }, function() end)\ntest("t", print)\n')
        self.run_assay("a.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        for manifest in self.cache.glob("templates/*/manifest.json"):
            text = json.loads(manifest.read_text())
            text["notes"]["created"] = int(time.time()) - 3700
            manifest.write_text(json.dumps(text))
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))

    def test_setup_uses_the_host(self):
        """Not kept for later runs, unless it says so."""
        reach = '  if params.never then host:succeed("true") end\n'
        self.write(machine() + f'setup(function()\n{reach}end)\ntest("t", print)\n')
        self.run_assay("a.lua")
        self.assertEqual(len(self.stored()), 1)
        self.run_assay("a.lua")
        self.assertEqual(self.made(), (["setup"], ["boot"]))
        self.write(machine() + f'setup({{ cache = "1d" }}, function()\n{reach}end)\ntest("t", print)\n')
        self.run_assay("a.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.made(), ([], ["boot", "setup"]))

    # --- what setup leaves ---------------------------------------------------------------------

    def test_values(self):
        self.write(machine() +
                   'group("none", function()\n'
                   '  local n = machine("n", { backend = "fake", memory = "64M" })\n'
                   '  setup(function() end)\n'
                   '  test("t", function(s) assert_eq(s, nil) end)\nend)\n'
                   'setup(function() return { 1, 2.5, true, json.null, { a = "ä" } } end)\n'
                   'test("t", function(s)\n'
                   '  assert_eq(s, { 1, 2.5, true, json.null, { a = "ä" } })\n'
                   '  assert_eq(math.type(s[1]), "integer")\nend)\n')
        self.run_assay("a.lua")
        self.run_assay("a.lua")
        self.assertEqual(self.verdicts(), {"t": "passed", "none/t": "passed"})

    def test_changed_variables(self):
        self.write(machine() + 'local address\nsetup(function() address = "x" end)\n'
                   'test("t", function() assert_eq(address, nil) end)\n')
        warning = "setup changes local 'address', which tests do not see"
        self.assertIn(warning, self.run_assay("a.lua"))
        # Somebody who comes later must know as well.
        self.assertIn(warning, self.run_assay("a.lua"))
        self.assertEqual(self.made(), ([], ["boot", "setup"]))
        # Where setup and test are one process there is nothing to warn of.
        self.write(machine() + 'suite { isolation = "boot" }\nlocal address\n'
                   'setup(function() address = "x" end)\n'
                   'test("t", function() assert_eq(address, "x") end)\n')
        self.assertNotIn("warning", self.run_assay("a.lua"))

    def test_artifacts(self):
        self.write(machine() + 'setup(function()\n  artifact("small.txt", "hello")\n'
                   '  artifact("big.txt", ("x"):rep(100000))\n  metric("m", 3)\n'
                   '  subtest("s", function() end)\nend)\ntest("t", print)\n')
        for _ in range(2):
            self.run_assay("a.lua")
            end = next(t for t in self.results()["templates"] if t["level"] == "setup")
            path = self.folder / "assay-out/latest" / end["dir"] / "artifacts/small.txt"
            self.assertEqual(path.read_text(), "hello")
            self.assertEqual([a["name"] for a in end["artifacts"]], ["small.txt", "big.txt"])
            self.assertEqual(end["metrics"]["m"]["samples"], [3])
            self.assertEqual([s["name"] for s in end["subtests"]], ["s"])
        self.assertTrue(end["cached"])

    # --- which machines, which tests -------------------------------------------------------------

    def test_groups(self):
        """Each has machines and a setup of its own; a machine that is the same is booted once."""
        group = ('group("%s", function()\n' + machine() +
                 '  setup(function() m:write_file("/g", "%s") end)\n'
                 '  test("one", function() assert_eq(m:read_file("/g"), "%s")\n'
                 '    m:write_file("/g", "changed") end)\n'
                 '  test("two", function() assert_eq(m:read_file("/g"), "%s") end)\nend)\n')
        self.write(group % (("a",) * 4) + group % (("b",) * 4) +
                   'group("bare", function()\n' + machine() +
                   '  test("t", function() assert_true(m:is_up())\n'
                   '    assert_eq(m:execute("cat /g").code, 1) end)\nend)\n')
        self.run_assay("a.lua")
        self.assertEqual(set(self.verdicts().values()), {"passed"})
        self.assertEqual(self.made()[0], ["boot", "setup", "setup"])

    def test_autostart(self):
        """Off is a state to start from, too; setup may start what it needs, or stop it."""
        self.write(machine("a") + machine("b", "autostart = false,") + machine("c", "autostart = false,") +
                   machine("d") +
                   'setup(function() c:write_file("/c", "1") d:write_file("/d", "1") d:shutdown() end)\n'
                   'test("t", function()\n'
                   '  assert_eq(a:state(), "up") assert_eq(b:state(), "off")\n'
                   '  assert_eq(c:state(), "up") assert_eq(d:state(), "off")\n'
                   '  assert_eq(c:read_file("/c"), "1") assert_eq(d:read_file("/d"), "1")\n'
                   '  b:start()\nend)\n')
        for _ in range(2):
            self.run_assay("a.lua")
            self.assertEqual(self.verdicts(), {"t": "passed"})

    def test_own_isolation(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1) +
                   'test("own", { isolation = "boot" }, function() assert_eq(m:state(), "up") end)\n'
                   'teardown(function() log("torn down") end)\n')
        self.run_assay("a.lua")
        self.assertEqual(self.end_of("t")["isolation"], "fork")
        self.assertEqual(self.end_of("own")["isolation"], "boot")
        self.assertEqual(self.end_of("t")["log"], [{"text": "torn down"}])

    def test_cannot_be_saved(self):
        self.write(machine(fake='unsavable = "it is made of glass",') + 'test("t", print)\n')
        self.run_assay("a.lua")
        self.assertEqual(self.end_of("t")["isolation"], "boot")
        self.wait_for_event("machines are booted anew: ", "a.t")
        self.assert_nothing_made()

    def test_again_and_again(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("--repeat", "5", "a.lua")
        self.assertEqual(len(self.results()["tests"]), 5)
        self.write(machine() + 'test("t", { retries = 1 }, function()\n'
                   '  fail_test("no") end)\n')
        self.run_assay("a.lua", status=1)
        self.assertEqual(len(self.end_of("t")["attempts"]), 2)

    def test_many_at_once(self):
        self.write(machine() + 'for i = 1, 50 do test("t" .. i, function() m:succeed("true") end) end\n')
        self.run_assay("-j", "50", "a.lua")
        self.assertEqual(set(self.verdicts().values()), {"passed"})
        self.assertEqual(self.made(), (["boot"], []))

    def test_two_runs_at_once(self):
        """One makes it, the other waits for it."""
        self.write(machine(fake="boot_delay = 1,") +
                   'setup(function() sleep(0.5) end)\ntest("t", print)\n')
        runs = [self.start("-o", f"out{i}", "a.lua") for i in range(2)]
        for process in runs:
            self.finish(process)
        made = [self.made(f"out{i}") for i in range(2)]
        self.assertEqual(sorted(made[0][0] + made[1][0]), ["boot", "setup"], made)
        self.assertEqual(sorted(made[0][1] + made[1][1]), ["boot", "setup"], made)

    def test_ready_groups_do_not_wait(self):
        slow = machine(fake="boot_delay = 2,")
        self.write('group("slow", function()\n' + slow + '  test("t", print)\nend)\n'
                   'group("quick", function()\n' + machine() + '  test("t", print)\nend)\n')
        self.run_assay("-j", "4", "a.lua")
        self.assertEqual([t["test"] for t in self.results()["tests"]], ["quick/t", "slow/t"])

    # --- what goes wrong -------------------------------------------------------------------------

    def test_setup_fails(self):
        """One entry for it; its tests fail with it; nothing is kept; other groups go on."""
        self.write('group("bad", function()\n' + machine() +
                   '  setup(function() m:succeed("false") end)\n'
                   '  test("one", print)\n  test("two", print)\n'
                   '  test("three", { xfail = "known" }, print)\nend)\n'
                   'group("good", function()\n' + machine() + '  test("t", print)\nend)\n')
        for _ in range(2):
            output = self.run_assay("a.lua", status=1)
            self.assertEqual(self.verdicts(), {"bad/one": "failed", "bad/two": "failed",
                                               "bad/three": "xfail", "good/t": "passed"})
            self.assertEqual(output.count("its setup failed, see above"), 1)
            failed = [t for t in self.results()["templates"] if t["state"] == "failed"]
            self.assertEqual(len(failed), 1)
            self.assertEqual(failed[0]["error"]["phase"], "setup")
            self.assertEqual(self.end_of("bad/one")["dir"], failed[0]["dir"])
        self.assertEqual(len(self.stored()), 1)

    def test_setup_skips(self):
        """So do its tests; there is nothing to explain."""
        self.write(machine() + 'setup(function() skip("not today") end)\n'
                   'test("one", print)\ntest("two", { xfail = "known" }, print)\n')
        self.assertIn("(not today)", self.run_assay("a.lua"))
        self.assertEqual(self.verdicts(), {"one": "skipped", "two": "skipped"})
        self.assertEqual(len(self.stored()), 1)
        events = self.folder / "assay-out/latest/a.setup/events.jsonl"
        self.assertNotIn('"diagnostic"', events.read_text(encoding="utf-8"))

    def test_boot_fails(self):
        self.write(machine(fake='start_fails = "no room",') + 'test("one", print)\ntest("two", print)\n')
        output = self.run_assay("a.lua", status=3)
        self.assertEqual(output.count("no room"), 1)
        self.assertEqual(output.count("its boot failed, see above"), 1)
        self.assert_nothing_made()

    def test_value_is_no_json(self):
        self.write(machine() + 'setup(function() return { f = print } end)\ntest("t", print)\n')
        self.assertIn("'f': a function cannot be stored as JSON", self.run_assay("a.lua", status=3))

    def test_setup_takes_its_time(self):
        """… which is not the test's."""
        self.write('suite { timeout = "1s" }\n' + machine() +
                   'setup(function() sleep(2) end)\ntest("t", print)\n')
        self.run_assay("a.lua")

    def test_panic_in_setup(self):
        self.write(machine(fake='exec = { crash = { panic = true } },') +
                   'setup(function() m:spawn("crash") sleep(0.5) end)\ntest("t", print)\n')
        self.assertIn("panic", self.run_assay("a.lua", status=1))
        self.assertEqual(len(self.stored()), 1)

    def test_save_fails(self):
        for fake in ('save_fails = "no room",', "save_dies = true,"):
            with self.subTest(fake=fake):
                self.write(machine(fake=fake) + 'test("t", print)\n')
                process = self.start("a.lua")
                output, _ = process.communicate(timeout=60)
                self.assertIn(process.returncode, (1, 3), output)
                self.assert_nothing_made()

    def break_template(self, level="setup"):
        """Damages the state files of those of a level; how many there are."""
        n = 0
        for manifest in self.cache.glob("templates/*/manifest.json"):
            if json.loads(manifest.read_text())["title"].startswith("setup") == (level == "setup"):
                for path in manifest.parent.glob("*.devices"):
                    path.write_bytes(b"x" * path.stat().st_size)
                    n += 1
        return n

    def test_broken_between_runs(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.TEST % ("x", 1))
        self.run_assay("a.lua")
        self.assertEqual(self.break_template(), 1)
        self.assertIn("was broken and is made again", self.run_assay("a.lua"))
        self.assertEqual(self.made(), (["setup"], ["boot"]))
        self.assertNotIn("warning", self.run_assay("a.lua"))

    SLOW = ('test("first", function() sleep(1) end)\n'
            'for i = 1, 3 do test("then" .. i, function(s)\n'
            '  assert_eq(m:read_file("/made"), "x") assert_eq(s.n, 1)\nend) end\n')

    def test_broken_during_a_run(self):
        """It is made again, the tests wait for it, and nobody calls them flaky."""
        self.write(machine() + self.SETUP % ("x", 1) + self.SLOW)
        process = self.start("-j", "1", "a.lua")
        self.wait_for_event('"name":"test"', "a.first")
        self.assertEqual(self.break_template(), 1)
        output = self.finish(process)
        self.assertEqual(output.count("its template is broken and is made again"), 1, output)
        self.assertEqual(set(self.verdicts().values()), {"passed"})
        self.assertEqual(self.made()[0], ["boot", "setup", "setup"])
        self.assertEqual(len(self.end_of("then1")["attempts"]), 1)

    def test_broken_between_attempts(self):
        """A test that was tried before it had to wait has been tried."""
        self.write(machine() + self.SETUP % ("x", 1) +
                   'test("t", { retries = 1 }, function() sleep(1) fail_test("no") end)\n')
        process = self.start("a.lua")
        self.wait_for_event('"name":"test"', "a.t")
        self.assertEqual(self.break_template(), 1)
        output = self.finish(process, 1)
        self.assertIn("is broken and is made again", output)
        self.assertEqual([a["dir"] for a in self.end_of("t")["attempts"]], ["a.t", "a.t/attempt-2"])

    def test_retried_while_a_template_is_made(self):
        """It waits like those that have not begun."""
        self.write(machine() + 'setup(function() m:write_file("/made", "x") sleep(2) end)\n'
                   'test("first", { retries = 1 }, function()\n'
                   '  assert_eq(m:read_file("/made"), "x") sleep(1.5) fail_test("no")\nend)\n'
                   'test("second", function() sleep(0.7) end)\n'
                   'test("third", function() m:read_file("/made") end)\n')
        process = self.start("-j", "2", "a.lua")
        self.wait_for_event('"name":"test"', "a.first")
        self.wait_for_event('"name":"test"', "a.second")
        self.assertEqual(self.break_template(), 1)
        self.finish(process, 1)
        self.assertEqual(self.verdicts(), {"first": "failed", "second": "passed", "third": "passed"})
        self.assertEqual([a["error"]["message"] for a in self.end_of("first")["attempts"]], ["no", "no"])

    def test_cache_vanishes_during_a_run(self):
        self.write(machine() + self.SETUP % ("x", 1) + self.SLOW)
        process = self.start("-j", "2", "a.lua")
        self.wait_for_event('"name":"test"', "a.first")
        wait_for(lambda: len(self.stored()) == 2)
        # Nobody adds to it while it goes.
        shutil.rmtree(self.cache.rename(self.cache.with_name("gone")))
        output = self.finish(process)
        self.assertEqual(set(self.verdicts().values()), {"passed"}, output)

    def test_never_restores(self):
        """Once is an accident."""
        self.write(machine(fake='restore_fails = "bad memory",') + 'test("t", print)\n')
        output = self.run_assay("a.lua", status=3)
        self.assertIn("its template is broken, and so was the last one", output)
        self.assertIn("bad memory", output)
        self.assertEqual(self.made(), (["boot", "boot"], []))
        # A setup starts from such a one, too.
        self.write(machine(fake='restore_fails = "bad memory",') +
                   'setup(function() end)\ntest("t", print)\n')
        output = self.run_assay("a.lua", status=3)
        self.assertIn("templates break or vanish as soon as they are made", output)
        self.assertTrue(wait_for(lambda: not self.processes(), 5))

    # --- who is stopped ------------------------------------------------------------------------

    def interrupt(self, text, event, folder):
        self.write(text)
        process = self.start("a.lua")
        self.wait_for_event(event, folder)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        output = self.finish(process, 130)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertIn("1 not run", output)
        self.assertTrue(wait_for(lambda: not self.processes(), 5), self.processes())

    def test_interrupted_boot(self):
        self.interrupt(machine(fake="never_boot = true,") + 'test("t", print)\n', '"starting"', "a.boot-m")
        self.assert_nothing_made()

    def test_interrupted_setup(self):
        self.interrupt(machine() + 'setup(function() sleep(60) end)\ntest("t", print)\n',
                       '"name":"setup"', "a.setup")
        self.assertEqual(len(self.stored()), 1)

    def test_runner_killed(self):
        self.write(machine(fake="never_boot = true,") + 'test("t", print)\n')
        process = self.start("a.lua")
        self.wait_for_event('"starting"', "a.boot-m")
        process.kill()
        process.communicate(timeout=10)
        self.assert_nothing_made()

    def test_worker_killed(self):
        """A crash in the making is the tests' error, and the next run makes it."""
        text = machine() + 'setup(function() if params.slow then sleep(60) end end)\ntest("t", print)\n'
        self.write(text)
        process = self.start("--param", "slow=1", "a.lua")
        self.wait_for_event('"name":"setup"', "a.setup")
        workers = [pid for pid, line in self.processes() if b"\0worker\0" in line and b"ns-init" not in line]
        self.assertEqual(len(workers), 1)
        os.kill(workers[0], signal.SIGKILL)
        self.assertIn("killed by signal 9", self.finish(process, 3))
        self.run_assay("a.lua")

    def test_stops_with_the_first_failure(self):
        self.write('group("a", function()\n' + machine() + '  test("t", function() fail_test("x") end)\nend)\n'
                   'group("b", function()\n' + machine(fake="never_boot = true,") + '  test("t", print)\nend)\n')
        begin = time.monotonic()
        self.run_assay("-j", "2", "--fail-fast", "a.lua", status=1)
        self.assertLess(time.monotonic() - begin, 10)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
