# SPDX-License-Identifier: MIT
"""The whole path: tensors in, live values and summaries out."""
import numpy as np
from harness import Reader, Trainer, softmax_maps


def entropy(weights):
    return -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)


def test_an_epoch_comes_back_as_a_summary_that_matches_numpy(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    weights = [softmax_maps(rng, 2, 4, 16, 16, causal=True) for _ in range(3)]
    for step, w in enumerate(weights):
        trainer.attention(w, epoch=0, step=step, causal=True)
    trainer.event("epoch_end", epoch=0, step=2)
    topic, summary = reader.next()
    rows = np.concatenate([entropy(w.astype(np.float64)) for w in weights]).transpose(1, 0, 2).reshape(4, -1)
    assert topic == "summary/job/decoder/0/self/"
    assert summary["window"] == dict(unit="epoch", first=0, last=0, length=1, every=1, partial=False)
    assert summary["messages"] == 3 and summary["ranks"] == 1
    assert summary["rows"] == 3 * 2 * 4 * 16 and summary["invalid_rows"] == 0
    assert summary["heads"]["entropy"]["count"] == [3 * 2 * 16] * 4
    np.testing.assert_allclose(summary["heads"]["entropy"]["mean"], rows.mean(1), rtol=1e-5)
    np.testing.assert_allclose(summary["heads"]["entropy"]["std"], rows.std(1, ddof=1), rtol=1e-4)
    attnd.settled(4)


def test_live_values_come_with_every_message(attnd, rng):
    reader = Reader(attnd, "live/")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=3, step=7)
    topic, live = reader.next()
    assert topic == "live/job/decoder/0/self/"
    assert (live["epoch"], live["step"], live["kind"], live["snapshot"]) == (3, 7, "live", False)
    assert len(live["heads"]["entropy"]) == 2
