#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is told, and what still works, on hosts that refuse namespaces. No guest is needed.

usage: host-faults.py ASSAY [unittest arguments]
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ASSAY = str(pathlib.Path(sys.argv[1]).resolve())
TEST = 'local m = machine("m", { backend = "fake", memory = "64M" })\n' \
       'test("a", function() m:start() end)\n'
# With a mount namespace of its own; root needs no user namespace for that.
UNSHARE = ["unshare", "--mount"] + (["--map-root-user"] if os.geteuid() != 0 else [])
# A user (in a user namespace of one id) that no file knows.
NOBODY = ["unshare", "--map-user=4242", "--map-group=4242", "--keep-caps"]
# Everything of the host's below ./root but its root directory, which is an ordinary one.
CHROOT = """
for dir in /*; do
	case $dir in /mnt|/media|/lost+found) continue ;; esac
	if [ -L "$dir" ]; then cp -P "$dir" root/; continue; fi
	[ -d "$dir" ] || continue
	mkdir "root$dir"
	mount --rbind "$dir" "root$dir"
done
PATH=$PATH:/usr/sbin:/sbin exec chroot root "$@"
"""


def possible(argv):
    return subprocess.run([*argv, "true"], capture_output=True, check=False).returncode == 0


class Host(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="assay-fault-")
        # What is mounted below it is so in namespaces that are gone; should that ever be untrue …
        self.addCleanup(subprocess.run, ["rm", "-rf", "--one-file-system", self.folder], check=False)
        self.env = {k: v for k, v in os.environ.items() if k not in ("CI", "ASSAY_DEBUG")}
        self.env["ASSAY_CACHE"] = f"{self.folder}/cache"
        self.env["XDG_RUNTIME_DIR"] = self.folder
        self.env["ASSAY_TMPFS"] = self.folder
        pathlib.Path(self.folder, "a.lua").write_text(TEST, encoding="utf-8")

    def run_in(self, wrapper, *args):
        """The program with its arguments, by way of another."""
        done = subprocess.run([*wrapper, ASSAY, *args], cwd=self.folder, env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    def doctor(self, wrapper):
        """What it found, by name."""
        status, output, errors = self.run_in(wrapper, "doctor", "--json")
        self.assertIn(status, (0, 3), errors)
        return {finding["what"]: finding for finding in json.loads(output)}

    def test_chroot(self):
        if not possible(UNSHARE):
            self.skipTest("needs a mount namespace")
        pathlib.Path(self.folder, "root").mkdir()
        wrapper = [*UNSHARE, "sh", "-ec", CHROOT, "sh"]
        found = self.doctor(wrapper)
        self.assertEqual(found["namespaces"]["state"], "less")
        self.assertIn("nopid: cannot make mounts private", found["namespaces"]["found"])
        self.assertIn("chroot in an ordinary directory", found["namespaces"]["fix"])
        self.assertEqual(found["image building"]["state"], "fail")
        self.assertIn("making a namespace to build in failed: unshare: ", found["image building"]["found"])
        self.assertIn("systemd-nspawn", found["image building"]["fix"])

    def test_chroot_runs_tests(self):
        if not possible(UNSHARE):
            self.skipTest("needs a mount namespace")
        pathlib.Path(self.folder, "root").mkdir()
        status, output, errors = self.run_in([*UNSHARE, "sh", "-ec", CHROOT, "sh"], "run", "-o",
                                             f"{self.folder}/out", f"{self.folder}/a.lua")
        self.assertEqual(status, 0, output + errors)

    def test_user_without_subordinate_ids(self):
        if not possible(NOBODY):
            self.skipTest("needs a user namespace")
        found = self.doctor(NOBODY)
        self.assertEqual(found["image building"]["state"], "fail")
        self.assertIn("--add-subuids", found["image building"]["fix"])

    def test_no_user_namespaces(self):
        wrapper = [*NOBODY, "sh", "-ec",
                   'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
        if not possible(wrapper):
            self.skipTest("needs a user namespace with its own limit")
        found = self.doctor(wrapper)
        self.assertEqual(found["namespaces"]["state"], "less")
        self.assertIn("nopid: cannot make namespaces: No space left", found["namespaces"]["found"])
        self.assertIn("max_user_namespaces", found["namespaces"]["fix"])
        status, output, errors = self.run_in(wrapper, "run", "a.lua")
        self.assertEqual(status, 0, output + errors)
        self.assertIn("namespaces: nopid", output + errors)

    def test_no_network(self):
        wrapper = ["unshare", "--net"] + (["--map-current-user"] if os.geteuid() != 0 else [])
        if not possible(wrapper):
            self.skipTest("needs a network namespace")
        status, output, errors = self.run_in(wrapper, "run", "a.lua")
        self.assertEqual(status, 0, output + errors)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
