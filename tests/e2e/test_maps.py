# SPDX-License-Identifier: MIT
"""The newest map of each head, what is made of them across heads and layers, against numpy; and what they may not be."""
import numpy as np
import pytest
from harness import Attnd, Trainer, as_bf16, as_f64, softmax_maps, wait_until

EVERY = "maps.every=0s"


@pytest.fixture
def attnd():
    daemon = Attnd(EVERY)
    yield daemon
    daemon.close()


def pooled(map_, size=128):
    """Means of the finite entries of the cells, NaN without any: each entry looked at."""
    def bounds(length):
        n = min(length, size)
        return [(r * length // n, (r + 1) * length // n) for r in range(n)]
    out = []
    for top, bottom in bounds(map_.shape[0]):
        row = []
        for left, right in bounds(map_.shape[1]):
            entries = map_[top:bottom, left:right].astype(np.float64).ravel()
            finite = entries[np.isfinite(entries)]
            row.append(finite.mean() if len(finite) else np.nan)
        out.append(row)
    return np.array(out)


def ask(attnd, **params):
    answer = attnd.call("maps", job="job", **params)
    values = answer.pop("values")
    return answer, np.array([[[np.nan if x is None else x for x in row] for row in map_]
                             for map_ in (values if answer["kind"] == "heads" else [values])])


def send(attnd, weights, **keys):
    trainer = Trainer(attnd, "job")
    trainer.attention(weights, **keys)
    attnd.settled(1)
    return trainer


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 1, 5, 7), (2, 4, 16, 16), (1, 2, 129, 128), (1, 2, 200, 131), (1, 2, 300, 517),
                                   (1, 2, 1, 400)])
def test_heads_are_what_was_sent_in_cells(attnd, rng, shape):
    weights = softmax_maps(rng, *shape)
    send(attnd, weights, step=7, epoch=2)
    answer, values = ask(attnd)
    assert (answer["queries"], answer["keys"]) == shape[2:] and answer["heads"] == list(range(shape[1]))
    assert (answer["epoch"], answer["step"], answer["tier"], answer["sample"]) == (2, 7, "attention", 0)
    assert values.shape == (shape[1], min(shape[2], 128), min(shape[3], 128))
    for head in range(shape[1]):
        np.testing.assert_allclose(values[head], pooled(weights[0, head]), rtol=1e-6, atol=1e-9)
    for kind, expected in (("mean", weights[0].mean(0)), ("sum", weights[0].sum(0)), ("max", weights[0].max(0))):
        np.testing.assert_allclose(ask(attnd, kind=kind)[1][0], pooled(expected), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["f2", "f8", "bf16"])
def test_every_dtype(attnd, rng, dtype):
    weights = softmax_maps(rng, 1, 2, 9, 140, dtype=np.float64)
    sent = as_bf16(weights) if dtype == "bf16" else weights.astype(dtype)
    send(attnd, sent)
    values = ask(attnd)[1]
    for head in range(2):
        np.testing.assert_allclose(values[head], pooled(as_f64(sent)[0, head]), rtol=1e-6, atol=1e-9)


def test_what_is_not_finite_is_left_out(attnd, rng):
    weights = softmax_maps(rng, 1, 2, 4, 200)
    weights[0, 0, 1] = np.nan
    weights[0, 0, 2, 3] = np.inf
    weights[0, 1, 3] = -np.inf
    send(attnd, weights)
    values = ask(attnd)[1]
    for head in range(2):
        np.testing.assert_allclose(values[head], pooled(weights[0, head]), rtol=1e-6, atol=1e-9)
    assert np.isnan(values[0, 1]).all()
    largest = np.fmax(weights[0, 0], weights[0, 1])
    np.testing.assert_allclose(ask(attnd, kind="max")[1][0], pooled(largest), rtol=1e-6, atol=1e-9)


def test_importance_and_weights_across_heads(rng):
    daemon = Attnd(EVERY, "metrics.head_weights=[1,0.5,0]")
    weights = softmax_maps(rng, 1, 3, 12, 12)
    send(daemon, weights)
    importance = np.array(daemon.call("live", job="job")[0]["heads"]["importance"])
    for kind, by in (("importance", importance), ("weighted", np.array([1, 0.5, 0]))):
        np.testing.assert_allclose(ask(daemon, kind=kind)[1][0], np.einsum("h,hij->ij", by, weights[0]), rtol=1e-5, atol=1e-8)
    daemon.close()


def test_the_sample_the_size_and_one_head_can_be_chosen(rng):
    daemon = Attnd(EVERY, "maps.sample=1", "maps.size=8")
    weights = softmax_maps(rng, 3, 2, 20, 20)
    send(daemon, weights)
    answer, values = ask(daemon, head=1)
    assert answer["heads"] == [1] and answer["sample"] == 1 and values.shape == (1, 8, 8)
    np.testing.assert_allclose(values[0], pooled(weights[1, 1], 8), rtol=1e-6)
    daemon.close()


def test_packed_is_the_same_in_f32(attnd, rng):
    send(attnd, softmax_maps(rng, 1, 2, 6, 7))
    values = ask(attnd)[1]
    packed = np.frombuffer(attnd.call("maps", job="job", packed=True)["values"], "<f4").reshape(2, 6, 7)
    np.testing.assert_array_equal(packed, values.astype("f4"))


def test_queries_and_keys_give_the_maps_that_they_stand_for(attnd, rng):
    q, k = rng.normal(size=(1, 4, 10, 8)).astype("f4"), rng.normal(size=(1, 2, 10, 8)).astype("f4")
    trainer = Trainer(attnd, "job")
    trainer.send(*trainer.tensor_frames("qk", dict(q=q, k=k), scale=8**-0.5, causal=True))
    attnd.settled(1)
    answer, values = ask(attnd)
    logits = np.einsum("hid,hjd->hij", q[0].astype("f8"), k[0].repeat(2, 0).astype("f8")) * 8**-0.5
    logits[:, np.triu_indices(10, 1)[0], np.triu_indices(10, 1)[1]] = -np.inf
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    assert answer["tier"] == "qk" and answer["causal"] is True
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_labels_come_with_the_maps(attnd, rng):
    labels = ["the", "", "\x00cut", "naïve", "日本", "\u202eabc", "<b>"]
    send(attnd, softmax_maps(rng, 1, 1, 7, 7), labels=labels)
    assert ask(attnd)[0]["labels"] == ["the", "", "", "naïve", "日本", "\u202eabc", "<b>"]
    trainer = Trainer(attnd, "other")
    trainer.attention(softmax_maps(rng, 1, 1, 7, 7))
    attnd.settled(2)
    assert attnd.call("maps", job="other")["labels"] is None


def test_at_most_so_often(rng):
    daemon = Attnd("maps.every=1h")
    trainer = Trainer(daemon, "job")
    for step in range(3):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)
        daemon.settled(step + 1)
    assert ask(daemon)[0]["step"] <= 1, "a layer that is not known yet may be asked twice"
    daemon.close()


def test_the_stalest_make_room(rng):
    daemon = Attnd(EVERY, "maps.memory=1MiB")
    trainer = Trainer(daemon, "job")
    for layer in range(4):
        trainer.attention(softmax_maps(rng, 1, 5, 128, 128), layer=layer)  # 7 maps of 64 KiB
    daemon.settled(4)
    there = []
    for layer in range(4):
        try:
            there.append(ask(daemon, layer=layer)[0]["layer"])
        except RuntimeError as error:
            assert str(error) == "no_map"
    assert there == [2, 3]
    daemon.close()


def test_why_there_is_none(attnd, rng):
    for params, code in ((dict(job="nobody"), "job_unknown"), (dict(), "argument"), (dict(job="job", kind="median"), "argument"),
                         (dict(job="job", head=9), "argument"), (dict(job="job", kind="mean", head=0), "argument"),
                         (dict(job="job", layer=5), "no_map"), (dict(job="job", run="f" * 32), "run_unknown"),
                         (dict(job="job", kind="weighted"), "no_map"), (dict(job="job", color=1), "argument")):
        send(attnd, softmax_maps(rng, 1, 2, 4, 4)).close()
        with pytest.raises(RuntimeError, match=code):
            attnd.call("maps", **params)
    trainer = Trainer(attnd, "split")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), head_offset=2, heads_total=4)
    wait_until(lambda: attnd.stats()["in_flight"] == 0, "the slice")
    with pytest.raises(RuntimeError, match="no_map|job_unknown"):
        attnd.call("maps", job="split")


def rollout(maps):
    """Abnar and Zuidema: of mean maps [L, T, T], in float64."""
    now, out = np.eye(maps.shape[-1]), []
    for map_ in maps.astype(np.float64):
        residual = 0.5 * (map_ + np.eye(len(map_)))
        now = residual / residual.sum(-1, keepdims=True) @ now
        out.append(now)
    return np.array(out)


@pytest.mark.parametrize("length, size, exact", [(1, 128, True), (13, 128, True), (60, 10, False), (130, 128, False)])
def test_rollout_is_the_product_over_layers(rng, length, size, exact):
    daemon = Attnd(EVERY, f"maps.size={size}")
    trainer, means = Trainer(daemon, "job"), []
    for layer in range(4):
        weights = softmax_maps(rng, 1, 3, length, length, causal=True)
        trainer.attention(weights, layer=layer, causal=True)
        mean = pooled(weights[0].mean(0), size)
        means.append(mean * length / len(mean))
    daemon.settled(4)
    answer = daemon.call("rollout", job="job")
    assert answer["layers"] == [0, 1, 2, 3] and answer["exact"] is exact and answer["stack"] == "decoder"
    np.testing.assert_allclose(answer["values"], rollout(np.array(means)), rtol=1e-5, atol=1e-7)
    packed = np.frombuffer(daemon.call("rollout", job="job", packed=True)["values"], "<f4")
    np.testing.assert_array_equal(packed.reshape(np.shape(answer["values"])), np.float32(answer["values"]))
    daemon.close()


def test_rollout_needs_square_maps_of_all_layers(attnd, rng):
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), layer=0)
    trainer.attention(softmax_maps(rng, 1, 2, 4, 6), layer=1)
    attnd.settled(2)
    for params, code in ((dict(job="job"), "no_map"), (dict(job="job", stack="encoder"), "no_map"), (dict(job="x"), "job_unknown")):
        with pytest.raises(RuntimeError, match=code):
            attnd.call("rollout", **params)


def test_maps_go_with_their_run(rng):
    """Nothing is left of jobs that made room for others."""
    daemon = Attnd(EVERY, "limits.jobs=2", "limits.idle=1s")
    for number in range(5):
        trainer = Trainer(daemon, f"job{number}")
        trainer.attention(softmax_maps(rng, 1, 2, 64, 64))
        trainer.event("bye")
        wait_until(lambda: daemon.stats()["received"] >= 2 * (number + 1), "both messages")
    wait_until(lambda: daemon.stats()["jobs"] <= 2, "the others are gone")
    daemon.close()
