# SPDX-License-Identifier: MIT
"""Benches that start attnd end, and touch nothing that the user has."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PIPELINE, PUBLISH, ODD = (os.environ[f"BENCH_{name}"] for name in ("PIPELINE", "PUBLISH", "ODD"))
ATTND = os.environ["ATTND_BIN"]
TIMEOUT_S = 200


@pytest.fixture
def home():
    """A user whose files would be seen to change. Its path is short, for sockets."""
    with tempfile.TemporaryDirectory(prefix="ab", dir="/tmp") as folder:
        for name in ("home", "state", "runtime", "tmp"):
            (Path(folder) / name).mkdir()
        yield Path(folder)


def run(home, *command):
    """Runs a bench; it leaves nothing."""
    environment = {**os.environ, "HOME": str(home / "home"), "XDG_STATE_HOME": str(home / "state"),
                   "XDG_RUNTIME_DIR": str(home / "runtime"), "TMPDIR": str(home / "tmp")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert [path for path in home.rglob("*") if path.parent != home] == []
    return result


def test_pipeline_ends_after_its_second_pair(home):
    result = run(home, PIPELINE, ATTND, "2", "seconds=0.2", "metrics.spectrum=false")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["way"] for line in lines] == ["frames", "memory"], result.stderr
    assert result.returncode == 0 and all(line["pairs"] == 2 and line["ratio"] > 0 for line in lines), lines


@pytest.mark.parametrize("setting, said", [("limits.heads=1", "bench: attnd dropped messages: heads_limit\n"),
                                           ("limits.heads=none", "attnd: --set: limits.heads: ")])
def test_pipeline_says_what_went_wrong_and_ends(home, setting, said):
    result = run(home, PIPELINE, ATTND, "1", "seconds=0.2", setting)
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.startswith(said), result


def test_publish_ends(home):
    result = run(home, PUBLISH, "pairs=1")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 5, result


def test_rows_with_nan_or_infinities_cost_no_multiple_of_others(home):
    """About 2 at most on a quiet machine; the scalar reference takes some 50 times as long."""
    lines = [json.loads(line) for line in run(home, ODD, "heads=4", "size=256", "runs=3").stdout.splitlines()]
    assert {(line["tier"], line["kind"]) for line in lines} >= {("attention", "nan"), ("qk", "inf"), ("qk", "channel")}
    assert [line for line in lines if line["ratio"] > 10] == []


def test_reliable_ends(home):
    bench, few = Path(__file__).with_name("reliable.py"), ("lane=reliable", "heads=2", "length=64", "seconds=0.2", "history.checkpoint=200ms")
    line = json.loads(run(home, sys.executable, bench, *few).stdout)
    assert line["messages"] > 0 and line["mb_per_s"] > 0 and line["dropped_by_attnd"] == {}, line


@pytest.mark.parametrize("whole", [0, 1])
def test_tiers_ends(home, whole):
    bench, few = Path(__file__).with_name("tiers.py"), ("heads=2", "rows=4", "keys=16", "dim=8", "layers=2", "steps=2", "queries=1")
    result = run(home, sys.executable, bench, *few, f"whole={whole}")
    line = json.loads(result.stdout)
    assert result.returncode == 0 and line["rows_ms_per_step"] > 0 and line["qk_ms_per_layer"] > 0, result.stderr
