# SPDX-License-Identifier: MIT
"""The numbers of the projection matrices over a run: in summaries, in the history, judged by rules, after a restart;
against numpy."""
import numpy as np
import pytest
from harness import Reader, attnctl, observed, softmax_maps, wait_until

HEADS, KV_HEADS, HEAD_DIM, MODEL = 4, 2, 4, 24
SHAPES = {"wq": (HEADS * HEAD_DIM, MODEL), "wk": (KV_HEADS * HEAD_DIM, MODEL), "wv": (KV_HEADS * HEAD_DIM, MODEL),
          "wo": (MODEL, HEADS * HEAD_DIM)}
SIZES = dict(heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM)
SHARED = HEADS // KV_HEADS
NUMBERS = {
    "spectral_norm": lambda s: s[0],
    "condition_number": lambda s: np.log10(s[0] / s[-1]),
    "effective_rank_entropy": lambda s: np.exp(-(s / s.sum() * np.log(s / s.sum())).sum()),
    "stable_rank": lambda s: (s**2).sum() / s[0]**2,
}


def matrices(rng):
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def slice_of(given, name, head):
    """The part of a matrix that a head reads, [HEAD_DIM, MODEL] or, of W_o, [MODEL, HEAD_DIM]."""
    at = head if name in ("wq", "wo") else head // SHARED
    part = slice(at * HEAD_DIM, (at + 1) * HEAD_DIM)
    return given[name][:, part] if name == "wo" else given[name][part]


def expected(given):
    """{name: [HEADS]} of all that can be said of the matrices that are given, by numpy in float64."""
    found = {}

    def add(name, make):
        spectra = [np.linalg.svd(make(head), compute_uv=False)[:HEAD_DIM] for head in range(HEADS)]
        found.update({f"{name}.{number}": [of(s) for s in spectra] for number, of in NUMBERS.items()})

    for name in given:
        flat = np.array([slice_of(given, name, head).ravel() for head in range(HEADS)])
        cosines = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
        shared = 1 if name in ("wq", "wo") else SHARED
        others = [[cosines[head, g] for g in range(0, HEADS, shared) if g // shared != head // shared] for head in range(HEADS)]
        found.update({f"{name}.correlation_mean": [np.mean(row) for row in others],
                      f"{name}.correlation_max": [np.max(row) for row in others]})
        add(name, lambda head, name=name: slice_of(given, name, head))
    if {"wq", "wk"} <= set(given):
        add("wq_wk", lambda head: slice_of(given, "wq", head).T @ slice_of(given, "wk", head))
    if {"wv", "wo"} <= set(given):
        add("wv_wo", lambda head: slice_of(given, "wo", head) @ slice_of(given, "wv", head))
    return found


def of_matrices(names):
    return {name for name in names if "." in name and not name.startswith("aggregate.")}


def send_epoch(trainer, epoch, **given):
    """Attention, the matrices, and the end."""
    trainer.attention(softmax_maps(np.random.default_rng(3), 1, HEADS, 8, 8), epoch=epoch, step=10 * epoch)
    if given:
        trainer.projections(**given, **SIZES, epoch=epoch, step=10 * epoch + 9)
    trainer.event("epoch_end", epoch=epoch, step=10 * epoch + 9)


def kept(attnd, metric, epochs):
    """The mean of a metric, [HEADS][epochs], nil where there is none, when the history has that number."""
    def ask():
        answer = attnd.call("history", job="job", metric=metric)
        return answer if len(answer["windows"]["last"]) == epochs else None
    return wait_until(ask, f"{epochs} windows of {metric}")["values"]["mean"]


def test_several_epochs_of_changing_matrices_against_numpy(rng):
    attnd, reader, trainer = observed()
    epochs = [matrices(rng) for _ in range(4)]
    for epoch, given in enumerate(epochs):
        send_epoch(trainer, epoch, **given)
        heads, want = reader.next()[1]["heads"], expected(given)
        assert of_matrices(heads) == set(want) and "entropy" in heads
        for name, numbers in want.items():
            for statistic in ("mean", "min", "max", "last", "p50"):
                np.testing.assert_allclose(heads[name][statistic], numbers, rtol=1e-9, err_msg=name)
            assert heads[name]["count"] == [1] * HEADS
    for name in expected(epochs[0]):
        np.testing.assert_allclose(kept(attnd, name, 4), np.transpose([expected(given)[name] for given in epochs]), rtol=1e-9)
    grid = attnd.call("grid", job="job", metric="wv_wo.stable_rank", packed=True)["layers"][0]
    np.testing.assert_allclose(np.frombuffer(grid["values"], np.float32).reshape(HEADS, 4),
                               np.transpose([expected(given)["wv_wo.stable_rank"] for given in epochs]), rtol=1e-6)
    assert of_matrices(attnd.call("windows", job="job")["layers"][0]["metrics"]) == set(expected(epochs[0]))


def test_a_window_has_the_newest_matrices(rng):
    """Also one that is put together of others."""
    attnd, reader, trainer = observed("window.also=[2 epochs]")
    steps = [matrices(rng) for _ in range(6)]
    for step, given in enumerate(steps):
        trainer.projections(**given, **SIZES, epoch=step // 3, step=step)
        if step % 3 == 2:
            trainer.event("epoch_end", epoch=step // 3, step=step)
    windows = sorted((reader.next()[1] for _ in range(3)), key=lambda summary: summary["window"]["last"])
    for summary, given in zip(windows, (steps[2], steps[5], steps[5])):
        numbers = summary["heads"]["wq_wk.spectral_norm"]
        for statistic in ("mean", "min", "max", "last"):
            np.testing.assert_allclose(numbers[statistic], expected(given)["wq_wk.spectral_norm"], rtol=1e-9)
        assert (summary["messages"], numbers["count"]) == (3 * summary["window"]["length"], [1] * HEADS)


def test_what_is_missing_is_absent_and_not_zero(rng):
    attnd, reader, trainer = observed()
    given = matrices(rng)
    only, spoilt = {"wq": given["wq"]}, dict(given, wk=given["wk"].copy())
    spoilt["wk"][1, 1] = np.nan
    for epoch, sent in enumerate(({}, only, spoilt, given)):
        send_epoch(trainer, epoch, **sent)
        heads = reader.next()[1]["heads"]
        want = {name for name in expected(given)
                if sent is given or sent is spoilt and not name.startswith(("wk.", "wq_wk."))
                or sent is only and name.startswith("wq.")}
        assert of_matrices(heads) == want
    for name, there in (("wq.stable_rank", (1, 2, 3)), ("wv_wo.stable_rank", (2, 3)), ("wk.stable_rank", (3,)),
                        ("wq_wk.stable_rank", (3,))):
        numbers = kept(attnd, name, 4)
        assert [[number is not None for number in head] for head in numbers] == [[e in there for e in range(4)]] * HEADS
        np.testing.assert_allclose([head[3] for head in numbers], expected(given)[name], rtol=1e-9)


def test_a_slice_of_the_heads_has_no_place_among_them(rng):
    """A rank of two that has half of them: its matrices are shown, and are not taken for those of the first heads."""
    attnd, reader, trainer = observed()
    live = Reader(attnd, "live/")
    trainer.projections(wq=matrices(rng)["wq"], heads=HEADS, head_dim=HEAD_DIM, heads_total=2 * HEADS)
    trainer.event("epoch_end")
    for one in (live, reader):
        result = one.next()[1]
        assert set(result["weights"]) == {"wq"} and of_matrices(result["heads"]) == set()


def test_a_restart_goes_on_in_the_window_and_with_the_baseline(rng):
    attnd, reader, trainer = observed("drift.windows=2", "history.checkpoint=100ms")
    given = matrices(rng)
    for epoch in range(2):
        send_epoch(trainer, epoch, **given)
        reader.next()
    trainer.projections(**given, **SIZES, epoch=2, step=20)
    wait_until(lambda: attnd.call("jobs")[0]["processed"] == 7, "the matrices")
    attnd.restart(trainer)
    reader = Reader(attnd, "summary/")
    send_epoch(trainer, 2, **dict(given, wq=3 * given["wq"]))
    summary = reader.next()[1]
    while summary["window"]["last"] < 2 or summary["window"]["partial"]:  # what was published before, as a snapshot
        summary = reader.next()[1]
    want = np.array(expected(given)["wq.spectral_norm"])
    numbers, drift = summary["heads"]["wq.spectral_norm"], summary["drift"]["wq.spectral_norm"]
    np.testing.assert_allclose(numbers["mean"], 3 * want, rtol=1e-9)
    np.testing.assert_allclose([drift["delta"], drift["shift"]], [2 * want, 2 * want / np.maximum(0.05 * want, 0.01)],
                               rtol=1e-9)
    wait_until(lambda: np.allclose(kept(attnd, "wq.spectral_norm", 3), np.outer(want, [1, 1, 3]), rtol=1e-9),
               "the whole window in the history")


RULE = "rules: {rank_of_qk_halves: {metric: wq_wk.stable_rank, statistic: shift, each: head, below: -10}}\n"


def test_a_rule_judges_what_became_of_the_baseline_and_attnctl_shows_it(rng):
    """The stable rank of one head's W_q^T W_k falls below half of what it was: 10 times 5 % of the baseline."""
    attnd, reader, trainer = observed("drift.windows=3", topic="alert/job/", config=RULE)
    given = matrices(rng)
    first = expected(given)["wq_wk.stable_rank"]
    u, s, vt = np.linalg.svd(slice_of(given, "wq", 2), full_matrices=False)
    fallen = dict(given, wq=given["wq"].copy())
    fallen["wq"][2 * HEAD_DIM:3 * HEAD_DIM] = u * (s * [1, 0.01, 0.01, 0.01]) @ vt
    now = expected(fallen)["wq_wk.stable_rank"]
    assert now[2] < first[2] / 2 and now[2] < first[2] - 10 * 0.1
    for epoch in range(5):
        send_epoch(trainer, epoch, **(given if epoch < 4 else fallen))
    alert = reader.next()[1]
    assert (alert["rule"], alert["state"], alert["head"], alert["epoch"]) == ("rank_of_qk_halves", "firing", 2, 4)
    assert alert["value"] == pytest.approx((now[2] - first[2]) / max(0.05 * first[2], 0.1))
    told = attnctl(attnd, "summary", "job", "--metric", "wq_wk.stable_rank")
    assert (told.returncode, told.stderr) == (0, "")
    assert "decoder.0.self " + " ".join(f"{value:.4f}" for value in now) in " ".join(told.stdout.split())
