# SPDX-License-Identifier: MIT
"""A watched model whose rows go by the reliable lane: a kill of attnd costs none of them."""
import os
import pathlib
import signal
import sys

import pytest
from harness import Attnd, wait_until
from keeper import SETTINGS

torch = pytest.importorskip("torch")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
import attnd as client  # noqa: E402


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.head = torch.nn.Linear(8, 1)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, x, x)[0]
        return self.head(x).mean()


@pytest.fixture
def attnd():
    return Attnd(*SETTINGS)


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_a_kill_of_attnd_costs_no_rows_of_a_watched_model(attnd, tmp_path, spool):
    model, published = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)  # with a greater one the numbers overflow
    run = os.urandom(16)
    watch = client.watch(model, "watched", address=attnd.directory, every=1, samples=0, tier="rows", run=run, linger=60, wait=60,
                         spool=tmp_path / "spool" if spool else None, weights_every=0,
                         on_publish=lambda message: published.append((message.keys["layer"], message.step)))

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(2, 5, 8)).backward()
            optimizer.step()
            watch.step()

    train(20)
    attnd.stop(signal.SIGKILL)
    wait_until(lambda: not watch.stats()["subscribed"], "the end is seen")
    train(20)
    attnd.start()
    train(20)
    wait_until(lambda: watch.stats()["subscribed"], "attnd is back")
    train(20)
    watch.close()
    stats = watch.stats()
    assert stats["dropped"] == 0 and stats["queued"] == 0 and stats["published"] == stats["sent"] + stats["skipped"]
    assert {step for _, step in published} >= set(range(1, 80)) and len(published) == len(set(published))
    attnd.call("flush")
    for layer in range(2):
        answer = attnd.call("history", job="watched", run=run.hex(), layer=layer, head=0, metric="entropy", statistics=["count"],
                            limit=200000)
        there = dict(zip(answer["windows"]["last"], answer["values"]["count"]))
        assert there == {step: 10 for named, step in published if named == layer}  # 2 samples of 5 rows, each once
