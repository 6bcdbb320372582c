# SPDX-License-Identifier: MIT
"""The example trainings, cut short: test_collapse.py and test_prune.py, which are long, judge them to the end."""
import json
import pathlib
import re
import sys

import pytest
from harness import PATIENCE_S, Attnd, wait_until

pytest.importorskip("torch")
EXAMPLES = pathlib.Path(__file__).parents[2] / "clients/python/examples"
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES)]
import attnd  # noqa: E402
import collapse  # noqa: E402
import prune_heads  # noqa: E402

attnd.Publisher.__init__.__kwdefaults__["linger"] = PATIENCE_S  # what is sent last is waited for on a busy machine too


def wait_worked_off(daemon, job, step):
    """Until attnd has worked off what it was sent, up to this step: a training that is far ahead of it hears nothing in time."""
    wait_until(lambda: any(one["job"] == job and one["step"] >= step for one in daemon.call("jobs")), f"step {step}")
    daemon.settled(0)


@pytest.fixture
def said_by(monkeypatch, capsys):
    def run(example, *words, **smaller):
        monkeypatch.setattr(sys, "argv", [example.__name__, *words])
        for name, value in smaller.items():
            monkeypatch.setattr(example, name, value)
        assert example.main() == 0
        return capsys.readouterr().out
    return run


@pytest.mark.parametrize("lr, falls", [("3e-2", True), ("1e-3", False)])
def test_falling_entropy_is_told_to_the_training_within_20_steps(said_by, lr, falls):
    daemon = Attnd("window.unit=step", "window.length=5", "window.every=5", "window.timeout=1h", "limits.idle=24h")
    publish = collapse.publish

    def publish_in_time(publisher, model, step, tier):
        publish(publisher, model, step, tier)
        wait_worked_off(daemon, publisher.job, step)

    said = said_by(collapse, "--lr", lr, "--steps", "20", "--seed", "1", "--endpoint", daemon.endpoint("ingest"),
                   "--alerts", daemon.endpoint("publish"), publish=publish_in_time, SUBSCRIBER_WAIT_S=PATIENCE_S)
    lines = [json.loads(line) for line in said.splitlines()]
    told = {line["alert"]["rule"] for line in lines if "alert" in line}
    assert lines[-1]["dropped"] == 0 and ("entropy_falls" in told if falls else told == set())
    daemon.close()


def test_the_cost_of_each_mask_is_told(said_by):
    daemon = Attnd("window.timeout=1h", "limits.idle=24h")
    said = said_by(prune_heads, "--epochs", "1", "--address", daemon.directory, EPOCH=10, DRAWS=2, HELD_OUT_BATCHES=1)
    rows = re.findall(r"^(.*?) +(\d\.\d{4}) ([+-]\d\.\d{4})$", said, re.M)
    whole = float(rows[0][1])
    assert len(rows) == 5 and rows[0][2] == "+0.0000"
    assert all(float(cost) == pytest.approx(float(loss) - whole, abs=2e-4) for _, loss, cost in rows)
    daemon.close()
