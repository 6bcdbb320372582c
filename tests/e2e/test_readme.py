# SPDX-License-Identifier: MIT
"""The Python of the README, as it stands there, on a real model and a real daemon."""
import functools
import os
import re

import pytest
from harness import Reader

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
torch = pytest.importorskip("torch")


def python_block():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        return re.search(r"```python\n(.*?)```", readme.read(), re.S).group(1)


def train_one_epoch(model):
    model.train()
    for _ in range(2):
        model(torch.rand(3, 5, 8)).sum().backward()


def test_attach_in_one_line(attnd, monkeypatch):
    import attnd as package
    attnd.call("plan.set", job="gpt-small", every=1)  # of its four steps the default plan takes the first alone
    watch = functools.partial(package.watch, endpoint=attnd.endpoint("ingest"))
    monkeypatch.setattr(package, "watch", watch)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 2))
    reader = Reader(attnd, "summary/")
    exec(python_block(), {"model": model, "epochs": 2, "train_one_epoch": train_one_epoch})
    seen = [reader.next() for _ in range(4)]
    assert {topic for topic, _ in seen} == {f"summary/gpt-small/encoder/{n}/self/" for n in range(2)}
    assert [summary["window"]["last"] for _, summary in seen] == [0, 0, 1, 1]
    # two forwards, and the matrices at the end of the epoch
    assert all(summary["messages"] == 3 and not summary["window"]["partial"] for _, summary in seen)
