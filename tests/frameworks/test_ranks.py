# SPDX-License-Identifier: MIT
"""The callbacks in a training of two processes: one run, to which each rank adds its share of the batches."""
import pathlib
import subprocess
import sys

import pytest

SCRIPT = str(pathlib.Path(__file__).with_name("two_ranks.py"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


# Lightning starts the other process itself.
BOTH = pytest.mark.parametrize("framework, launcher, needs", [("lightning", (), "lightning"), ("transformers", TORCHRUN, "accelerate")])


def train(framework, launcher, daemon, directory, *more):
    done = subprocess.run([sys.executable, *launcher, SCRIPT, framework, daemon.directory, str(directory), *more],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@BOTH
def test_two_ranks_are_one_run(framework, launcher, needs, daemon, results, tmp_path):
    pytest.importorskip(needs)
    model = __import__(f"test_{framework}")
    train(framework, launcher, daemon, tmp_path)
    results.wait_ended()
    assert len({result["run"] for result in results.live}) == 1
    assert {result["rank"] for result in results.live} == {0, 1}
    forwards = model.SAMPLES // model.BATCH  # of both ranks together
    steps = forwards // model.ACCUMULATED // 2
    for layer, windows in results.windows().items():
        assert layer in model.ALL_LAYERS
        messages = windows[0]["messages"] - ("weights" in windows[0])
        assert (windows[0]["ranks"], messages) == (2, forwards)
    assert results.steps().keys() == model.ALL_LAYERS
    assert all(set(seen) == {(0, step) for step in range(steps)} for seen in results.steps().values())


@BOTH
def test_two_ranks_stop_at_the_same_step(framework, launcher, needs, critical, tmp_path):
    pytest.importorskip(needs)
    model = __import__(f"test_{framework}")
    train(framework, launcher, critical, tmp_path, "stop")
    first, second = (int((tmp_path / f"rank-{rank}").read_text()) for rank in range(2))
    assert 0 < first == second < 1000 * model.SAMPLES // model.BATCH // model.ACCUMULATED // 2
