# SPDX-License-Identifier: MIT
"""Trackio in a folder: its database, read with its own API, holds every window once."""
import pytest

trackio = pytest.importorskip("trackio", reason="trackio is not installed")

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402

from bridged import interrupted_run, ledger_has  # noqa: E402

# Its folder is known when it is imported, so what was written is read by another process.
READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs("heads")
print(json.dumps({"runs": runs, "rows": SQLiteStorage.get_logs("heads", runs[0]), "alerts": SQLiteStorage.get_alerts("heads")}))
"""


def test_every_window_once_in_one_trackio_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    training = interrupted_run("trackio", "--project", "heads", cwd=tmp_path, written=lambda training, epoch: ledger_has(
        tmp_path / f"attnd-heads-{training.run}.json", epoch))
    told = json.loads(subprocess.run([sys.executable, "-c", READ], capture_output=True, check=True, text=True,
                                     timeout=120).stdout.splitlines()[-1])
    assert told["runs"] == [f"gpt-small-{training.run[:8]}"]
    training.check(lambda name: sorted((row["step"], row[name]) for row in told["rows"] if name in row))
    pictures = [row for row in told["rows"] if "attn/heatmap/entropy_normalized" in row]
    assert sorted(row["step"] for row in pictures) == training.steps()
    assert len(list(tmp_path.glob("media/**/*.png"))) >= len(pictures)
    assert any("firing: entropy_normalized" in str(row.get("attn/alerts/flat")) for row in told["rows"])
    assert [alert["title"] for alert in told["alerts"]][:1] == ["gpt-small: flat"]
