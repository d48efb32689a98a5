#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Wrong test files: exit status and error text against golden files.

usage: check-bad.py ASSAY GOLDEN_DIR [NAME…]

Each bad/*.lua says in its first line how it is tried: "-- check, 2" is `assay check`, which must
exit with 2; "-- run --strict, 3" has options, too. GOLDEN_UPDATE=1 rewrites the golden files; one that is not used fails.
"""
import concurrent.futures
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_S = 60


def how(path):
    first = path.read_bytes().split(b"\n", 1)[0].decode(errors="replace")
    match = re.fullmatch(r"-- (check|run)((?: \S+)*), (\d+)", first)
    return (match[1], match[2].split(), int(match[3])) if match else ("check", [], 2)


def plain(text, out, assay):
    """Without what differs from run to run."""
    text = text.replace(out, "OUT").replace(assay, "assay").replace(str(HERE), "HERE")
    text = re.sub(r"OUT/[0-9A-Za-z:._-]+", "OUT/RUN", text)
    # How long something took, but not a time-out or a size that the message is about.
    text = re.sub(r"(  |\(|after )\d+(\.\d+)? (ms|µs|ns|s)\b", r"\1N s", text)
    return text


def run(assay, path):
    command, options, status = how(path)
    with tempfile.TemporaryDirectory(prefix="assay-bad-") as out:
        argv = [assay, command, f"bad/{path.name}", *options]
        if command == "run":
            argv[2:2] = ["-j", "1", "-o", out, "--color", "never", "--timeout-scale", "1"]
        env = {**os.environ, "CI": "", "XDG_CACHE_HOME": out, "ASSAY_TMPFS": out}
        env.pop("CI")
        started = time.monotonic()
        try:
            done = subprocess.run(argv, cwd=HERE, env=env, capture_output=True, text=True, check=False,
                                  timeout=LIMIT_S, errors="replace")
        except subprocess.TimeoutExpired:
            return f"did not end within {LIMIT_S} s\n", ["it did not end"]
        text = f"$ assay {' '.join([command, f'bad/{path.name}', *options])}\n"
        text += plain(done.stdout, out, assay) + plain(done.stderr, out, assay) + f"exit status {done.returncode}\n"
        problems = []
        if done.returncode != status:
            problems.append(f"exit status {done.returncode} instead of {status}")
        if re.search(r"Sanitizer|Assertion|core dumped", done.stderr):
            problems.append("it crashed")
        if time.monotonic() - started > 30:
            problems.append("it took more than 30 s")
        return text, problems


def check(assay, golden, path):
    text, problems = run(assay, path)
    file = golden / f"{path.stem}.txt"
    if os.environ.get("GOLDEN_UPDATE"):
        file.write_text(text)
    elif not file.exists():
        problems.append(f"there is no {file}; GOLDEN_UPDATE=1 writes it")
    elif file.read_text() != text:
        diff = difflib.unified_diff(file.read_text().splitlines(), text.splitlines(), "golden", "now", lineterm="")
        problems.append("\n".join(diff))
    if problems and not os.environ.get("GOLDEN_UPDATE"):
        problems.append(text)
    return problems


def main():
    # Not resolved: a wrapper may look at the name that it is called by.
    assay, golden, names = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    golden.mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in (HERE / "bad").glob("*.lua") if not names or p.stem in names)
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for path, problems in zip(paths, pool.map(lambda p: check(assay, golden, p), paths)):
            if problems:
                bad += 1
                print(f"--- {path.name}: " + "\n".join(problems))
    if not names:
        for file in golden.iterdir():
            if file.stem not in {p.stem for p in paths}:
                bad += 1
                print(f"{file} is not used")
    print(f"{len(paths) - bad} of {len(paths)} files as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
