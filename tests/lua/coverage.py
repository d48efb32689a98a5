#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every function of the API that is built is called in api/*.lua, every one that is not is tried.

usage: coverage.py ASSAY
"""
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def code(path):
    """The file without comments and texts, in which a name proves nothing."""
    text = path.read_text()
    text = re.sub(r'"(\\.|[^"\\\n])*"', '""', text)
    return re.sub(r"--[^\n]*", "", text)


def pattern(name):
    mark = re.search("[:.]", name)
    if not mark:
        # At the start of a name: neither x.test nor x:test.
        return rf"(?<![\w.:]){name}\b"
    left, right = name[:mark.start()], name[mark.start() + 1:]
    if mark[0] == ":":
        return rf"[\w)\]]\s*:{right}\b"
    if left in ("machine", "network", "process"):
        return rf"[\w)\]]\.{right}\b"
    return rf"\b{left}\.{right}\b"


def main():
    docs = json.loads(subprocess.run([sys.argv[1], "doc", "--json"], check=True, capture_output=True, text=True).stdout)
    files = sorted((HERE / "api").glob("*.lua"))
    text = "\n".join(code(f) for f in files)
    raw = (HERE / "api" / "unsupported.lua").read_text()
    bad = 0
    for doc in docs:
        name = doc["name"]
        if doc["built"]:
            if not re.search(pattern(name), text):
                print(f"{name} is called in none of {HERE.name}/api/*.lua")
                bad += 1
        elif name.startswith(("network.", "network:", "capture:")):
            continue  # nobody can get at such an object
        elif not re.search(rf"\b{re.escape(re.split('[:.]', name)[-1])}\b", raw):
            print(f"{name} is not built, and unsupported.lua does not try it")
            bad += 1
    print(f"{len(docs) - bad} of {len(docs)} names covered")
    return 1 if bad or len(docs) < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
