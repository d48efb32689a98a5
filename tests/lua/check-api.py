#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs api/*.lua on the fake backend and looks at each verdict.

usage: check-api.py ASSAY [FILE…]

Exit status 0 is not enough: a test that must be skipped could have passed.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# All others pass.
VERDICTS = {
    "control-flow/skip cannot be caught": "skipped",
    "control-flow/fail_test raises expect": "xfail",
    "control-flow/a computing script is stopped at the deadline": "xfail",
    "sandbox/skip goes through pcall, xpcall and coroutines": "skipped",
    "power/a panic that nobody waits for fails the test": "xfail",
    "groups/is skipped for want of a capability": "skipped",
    "groups/is expected to fail": "xfail",
    "unsupported/an error of that kind that nobody catches skips the test": "skipped",
}
LIMIT_S = 240


def main():
    assay = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="assay-api-") as out:
        results = pathlib.Path(out) / "results.json"
        argv = [assay, "run", "-o", out, "--json", str(results), "--timeout-scale", "1", "--color", "never",
                "--param", "greeting=hello world"] + (sys.argv[2:] or ["api"])
        env = {k: v for k, v in os.environ.items() if k != "CI"}
        env |= {"ASSAY_CACHE": f"{out}/cache", "ASSAY_TMPFS": out}  # templates of these go with it
        done = subprocess.run(argv, cwd=HERE, env=env, check=False, timeout=LIMIT_S)
        if not results.exists():
            print(f"exit status {done.returncode}, and no results")
            return 1
        tests = json.loads(results.read_text())["tests"]
        bad, seen = 0, set()
        for t in tests:
            name = pathlib.Path(t["file"]).stem + "/" + t["test"]
            want = VERDICTS.get(name, "passed")
            seen.add(name)
            if t["verdict"] != want:
                bad += 1
                print(f"{name}: {t['verdict']}, not {want}")
        if not sys.argv[2:]:
            for name in VERDICTS.keys() - seen:
                bad += 1
                print(f"{name}: was not run")
        print(f"{len(tests) - bad} of {len(tests)} verdicts as expected, exit status {done.returncode}")
        return 1 if bad or done.returncode or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
