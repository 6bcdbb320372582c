# SPDX-License-Identifier: MIT
"""Commands that the tests of this folder run."""
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command, timeout=300, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options)


def output(*command, **options):
    """Of one that must not fail."""
    result = run(*command, **options)
    assert result.returncode == 0, f"{command}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result.stdout
