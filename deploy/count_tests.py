# SPDX-License-Identifier: MIT
"""Prints "PASSED FAILED SKIPPED" for a meson testlog.json (one JSON object per line), or with --text for the logs of
programs.

A meson test is a program; what counts are the tests in it: cmocka and pytest say how many there were. A
program that says nothing counts as one, and one that failed without saying so counts as one failure.
"""
import json
import re
import sys

CMOCKA = {"passed": r"^\[  PASSED  \] (\d+) test\(s\)", "failed": r"^\[  FAILED  \] (\d+) test\(s\)",
          "skipped": r"^\[  SKIPPED \] (\d+) test\(s\)"}
# On pytest's last line, "1 failed, 3 passed, 2 errors in 1.00s": all of them count.
PYTEST_END = re.compile(r"^=* ?(\d+ [a-z]+(?:, \d+ [a-z]+)*) in [\d.]+", re.M)
PYTEST = {"passed": r"\b(\d+) passed", "failed": r"\b(\d+) (?:failed|error)", "skipped": r"\b(\d+) skipped"}


def said(patterns, text):
    """(passed, failed, skipped) by the program's own words, or None."""
    counts = [sum(int(n) for n in re.findall(patterns[key], text, re.M)) for key in ("passed", "failed", "skipped")]
    return counts if any(counts) else None


def said_by_pytest(text):
    return said(PYTEST, "\n".join(PYTEST_END.findall(text)))


def count(entry):
    if entry["result"] == "SKIP":
        return 0, 0, 1
    text = plain(entry.get("stdout", "") + "\n" + entry.get("stderr", ""))
    good = entry["result"] in ("OK", "EXPECTEDFAIL")
    passed, failed, skipped = said(CMOCKA, text) or said_by_pytest(text) or (int(good), 0, 0)
    return passed, failed if good else max(failed, 1), skipped


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        return log.read()


def main():
    if sys.argv[1] == "--text":
        counts = [said_by_pytest(plain(read(path))) or (0, 1, 0) for path in sys.argv[2:]]
    else:
        counts = [count(json.loads(line)) for line in read(sys.argv[1]).split("\n") if line.strip()]
    print(*(sum(numbers) for numbers in zip(*counts)))


main()
