# SPDX-License-Identifier: MIT
"""attnd saves before its time for those who wait for an answer, so that a publisher is not bound to what it may keep."""
import pathlib
import sys

import numpy as np
import pytest
from harness import Attnd, softmax_maps, wait_until

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
import attnd as client  # noqa: E402
from attnd.sending import reliable  # noqa: E402

KEPT, COUNT, ROWS = 16, 64, 512  # messages of 1 MiB


@pytest.fixture
def attnd():
    """Nothing would be saved by time, and no window ends."""
    return Attnd("history.checkpoint=1h", "window.unit=step", "window.length=1000000", "window.every=1000000",
                 "metrics.spectrum=false")


def rows_in_history(attnd):
    try:
        answer = attnd.call("history", job="job", metric="entropy", statistics=["count"])
    except RuntimeError as error:
        assert str(error) == "no_history"
        return 0
    return np.max(answer["values"]["count"])


@pytest.mark.parametrize("paced", [True, False], ids=["paced", "at_once"])
def test_more_than_is_kept_is_taken_without_a_drop(attnd, rng, monkeypatch, paced):
    """Whether the publisher looks for room itself, or leaves its messages to the queue."""
    monkeypatch.setattr(reliable, "WAIT_S", 60)  # the machine may stand still meanwhile
    weights = softmax_maps(rng, 1, 1, ROWS, ROWS)
    with client.Publisher("job", address=attnd.directory, reliable=True, reliable_bytes=KEPT * (weights.nbytes + 4096),
                          linger=0) as publisher:
        assert publisher.wait_for_subscriber(60)
        for step in range(COUNT):
            if paced:
                wait_until(lambda: publisher.stats()["queued"] < KEPT - 1, "room")
            assert publisher.publish_attention(weights, stack="decoder", layer=0, step=step)
        wait_until(lambda: publisher.stats()["sent"] > COUNT - 4, "those are acknowledged of which 4 MiB wait")
        assert publisher.stats()["dropped"] == 0
        wait_until(lambda: attnd.stats()["processed"] == COUNT, "they are processed")
    attnd.call("flush")
    wait_until(lambda: rows_in_history(attnd) == COUNT * ROWS, "they are in the history")


def test_who_leaves_is_answered_while_others_go_on(attnd, rng):
    """Nothing counts as dropped at the end of a rank only because the next checkpoint comes later."""
    weights = softmax_maps(rng, 1, 1, 8, 8)
    ranks = [client.Publisher("job", address=attnd.directory, reliable=True, rank=rank, world=2, run=b"r" * 16, linger=60)
             for rank in range(2)]
    for rank in ranks:
        assert rank.wait_for_subscriber(60)
        assert rank.publish_attention(weights, stack="decoder", layer=0, step=0)
    ranks[0].close()
    assert ranks[0].stats()["dropped"] == 0 and ranks[0].stats()["sent"] > 1
    ranks[1].close()
