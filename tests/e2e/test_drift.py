# SPDX-License-Identifier: MIT
"""What summaries say of drift, against numpy; and after a restart."""
import numpy as np
import pytest
from harness import Reader, observed, softmax_maps

HEADS = 3
UNIFORM = {"entropy_normalized", "entropy_sans_first"}  # compared with uniform attention before there is a baseline


def entropies(weights):
    """[H, rows], in nats."""
    p = weights.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return -(p * logs).sum(-1).swapaxes(0, 1).reshape(weights.shape[1], -1)


def expected(windows, epoch, learned):
    """delta and shift of entropy and of max, [H], with the first `learned` windows as the baseline."""
    for name, of in (("entropy", lambda w: entropies(w).mean(-1)), ("max", lambda w: w.max((0, 2, 3)))):
        means = np.array([of(window) for window in windows], np.float64)
        baseline = means[:learned].mean(0)
        grain = np.maximum(0.05, 0.05 * baseline) if name == "entropy" else 0.05  # entropy has no end, max is at most 1
        delta = means[epoch] - baseline
        yield name, delta, delta / np.maximum(means[:learned].std(0, ddof=1), grain)


def test_windows_are_compared_with_the_first_ones(rng):
    attnd, reader, trainer = observed("drift.windows=3")
    windows = [softmax_maps(rng, 2, HEADS, 16, 16) for _ in range(5)] + [softmax_maps(rng, 2, HEADS, 16, 16) ** 4] * 4
    windows = [w / w.sum(-1, keepdims=True) for w in windows]
    windows[2] = windows[0]  # so that no metric rises or falls over the baseline
    for epoch, weights in enumerate(windows):
        trainer.one_epoch(weights, epoch)
        summary = reader.next()[1]
        drift = summary["drift"]
        if epoch < 3:
            assert set(drift) == UNIFORM
            entropy = np.array(summary["heads"]["entropy_normalized"]["mean"])
            np.testing.assert_allclose(drift["entropy_normalized"]["shift"], (entropy - 1) / 0.05, rtol=1e-12)
            continue
        assert {"entropy", "mean", "importance", "spectral_norm"} <= set(drift)
        assert set(drift) <= set(summary["heads"]) | set(summary["spectrum"])
        for name, delta, shift in expected(windows, epoch, 3):
            np.testing.assert_allclose(drift[name]["delta"], delta, atol=1e-4)
            np.testing.assert_allclose(drift[name]["shift"], shift, rtol=0.02, atol=0.02)
        assert "js" not in drift["max"]
        js = np.array(drift["entropy"]["js"])
        assert (js >= 0).all() and (js <= np.log(2) + 1e-12).all()
        assert (js > 0.4).all() == (epoch >= 5)
    assert set(drift["entropy"]["change"]) <= {3.0, 4.0, 5.0}  # noise may have begun what 5 went on with


def test_rolling_windows_learn_those_that_share_nothing(rng):
    attnd, reader, trainer = observed("drift.windows=2", "window.length=2")
    parts = [softmax_maps(rng, 1, 1, 8, 8) for _ in range(6)]
    means = [entropies(part).mean() for part in parts]
    for epoch, weights in enumerate(parts):
        trainer.one_epoch(weights, epoch)
        summary = reader.next()[1]
        assert ("entropy" in summary["drift"]) == (epoch >= 4)  # epochs 0 and 1, 2 and 3 are the baseline
        if epoch >= 4:
            delta = np.mean(means[epoch - 1:epoch + 1]) - np.mean(means[:4])
            np.testing.assert_allclose(summary["drift"]["entropy"]["delta"], [delta], atol=1e-4)


def test_the_baseline_outlives_a_restart(rng):
    attnd, reader, trainer = observed("drift.windows=2")
    windows = [softmax_maps(rng, 1, HEADS, 8, 8) for _ in range(4)]
    windows[1] = windows[0]
    for epoch in range(3):
        trainer.one_epoch(windows[epoch], epoch)
        reader.next()
    attnd.restart(trainer)
    reader = Reader(attnd, "summary/")
    trainer.one_epoch(windows[3], 3)
    summary = reader.next()[1]
    while summary["window"]["last"] < 3:  # what was published before, as a snapshot
        summary = reader.next()[1]
    for name, delta, _ in expected(windows, 3, 2):
        np.testing.assert_allclose(summary["drift"][name]["delta"], delta, atol=1e-4)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_restart_says_the_same_of_the_newest_window(epochs, rng):
    """Of one that was only compared with uniform attention, of the one that completes the baseline, and of the next."""
    attnd, reader, trainer = observed("drift.windows=2")
    for epoch in range(epochs):
        trainer.one_epoch(softmax_maps(rng, 1, HEADS, 8, 8), epoch)
        said = reader.next()[1]["drift"]
    assert set(said) >= ({"entropy"} if epochs > 2 else {"entropy_normalized"})
    attnd.restart(trainer)
    assert [summary["drift"] for summary in attnd.call("summary", job="job")] == [said]
