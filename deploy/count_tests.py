# SPDX-License-Identifier: MIT
"""Prints "PASSED FAILED" for a meson testlog.json (one JSON object per line).

A meson test is a program; what counts are the tests in it: cmocka and pytest say how many there were. A
program that says nothing counts as one, and one that failed without saying so counts as one failure.
"""
import json
import re
import sys

CMOCKA = {"passed": r"^\[  PASSED  \] (\d+) test\(s\)", "failed": r"^\[  FAILED  \] (\d+) test\(s\)"}
PYTEST = {"passed": r"^=* ?(?:.*, )?(\d+) passed.* in [\d.]+", "failed": r"^=* ?(?:.*, )?(\d+) (?:failed|error).* in [\d.]+"}


def said(patterns, text):
    """(passed, failed) by the program's own words, or None."""
    counts = [sum(int(n) for n in re.findall(patterns[key], text, re.M)) for key in ("passed", "failed")]
    return counts if any(counts) else None


def count(entry):
    if entry["result"] == "SKIP":
        return 0, 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", entry.get("stdout", "") + "\n" + entry.get("stderr", ""))
    good = entry["result"] in ("OK", "EXPECTEDFAIL")
    passed, failed = said(CMOCKA, text) or said(PYTEST, text) or (int(good), 0)
    return passed, failed if good else max(failed, 1)


def main():
    with open(sys.argv[1], encoding="utf-8") as log:
        counts = [count(json.loads(line)) for line in log if line.strip()]
    print(sum(passed for passed, _ in counts), sum(failed for _, failed in counts))


main()
