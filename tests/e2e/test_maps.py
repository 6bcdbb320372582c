# SPDX-License-Identifier: MIT
"""The newest map of each head, what is made of them across heads and layers, against numpy; and what they may not be."""
import os
import sys

import msgpack
import numpy as np
import pytest
import zmq
from harness import Attnd, Trainer, attnctl, ranks_of, softmax_maps, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))
import attnd as package  # noqa: E402

EVERY = "maps.every=0s"


@pytest.fixture
def attnd():
    return Attnd(EVERY)


def pooled(map_, size=128):
    """Means of the finite entries of the cells, NaN without any: each entry looked at."""
    def bounds(length):
        n = min(length, size)
        return [slice(r * length // n, (r + 1) * length // n) for r in range(n)]

    def mean(entries):
        finite = entries[np.isfinite(entries)].astype(np.float64)
        return finite.mean() if len(finite) else np.nan

    return np.array([[mean(map_[rows, columns]) for columns in bounds(map_.shape[1])] for rows in bounds(map_.shape[0])])


def ask(attnd, **params):
    answer = attnd.call("maps", job="job", **params)
    values = answer.pop("values")
    return answer, np.array([[[np.nan if x is None else x for x in row] for row in map_]
                             for map_ in (values if answer["kind"] == "heads" else [values])])


ACROSS_HEADS = {"mean": lambda maps: maps.mean(0), "sum": lambda maps: maps.sum(0), "max": lambda maps: maps.max(0)}


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
    for kind, across in ACROSS_HEADS.items():
        np.testing.assert_allclose(ask(attnd, kind=kind)[1][0], pooled(across(weights[0])), rtol=1e-5, atol=1e-8)


def test_padding_is_not_shown(attnd, rng):
    """Neither of queries nor of keys, whatever it holds: in maps, pairs and labels."""
    weights = softmax_maps(rng, 2, 2, 6, 8)
    weights[:, :, :, 5:] = 7.5
    weights[:, :, 4:] = 9.0
    keys, queries = [f"k{j}" for j in range(8)], [f"q{i}" for i in range(6)]
    weights[:, :, :4, :5] /= weights[:, :, :4, :5].sum(-1, keepdims=True)
    trainer = send(attnd, weights, site="cross", q_len=[4, 3], k_len=[5, 2], labels=keys, q_labels=queries)
    answer, values = ask(attnd)
    np.testing.assert_allclose(values, weights[0, :, :4, :5], rtol=1e-6)
    assert (answer["queries"], answer["keys"], answer["rows"], answer["columns"]) == (4, 5, 4, 5)
    assert (answer["first_query"], answer["first_key"], answer["queries_sent"], answer["keys_sent"]) == (0, 0, 6, 8)
    assert answer["labels"] == keys[:5] and answer["q_labels"] == queries[:4]
    trainer.event("epoch_end")
    wait_until(lambda: attnd.stats()["summaries"], "the window is published")
    pairs = attnd.call("summary", job="job")[0]["top_pairs"]
    shown = np.array([[[i < q and j < k for j in range(8)] for i in range(6)] for q, k in ((4, 5), (3, 2))])
    mean = (weights.mean(1) * shown).sum(0) / np.maximum(1, shown.sum(0))
    assert len(pairs) == 10 and max(pair["weight"] for pair in pairs) <= 1
    for pair in pairs:
        assert abs(pair["weight"] - mean[pair["query"], pair["key"]]) < 1e-6


def test_padding_before_a_text_is_not_shown(attnd, rng):
    """Positions are counted from the text on; rollout is that of the text alone."""
    weights = np.zeros((1, 2, 7, 7), np.float32)
    weights[:, :, 2:, 2:] = softmax_maps(rng, 1, 2, 5, 5)
    weights[:, :, :2] = 1 / 7
    mask = np.zeros((1, 7, 7), np.uint8)
    mask[:, 2:, 2:] = 1
    send(attnd, weights, mask=mask, labels=list("__abcde"))
    answer, values = ask(attnd)
    np.testing.assert_allclose(values, weights[0, :, 2:, 2:], rtol=1e-6)
    assert answer["labels"] == list("abcde") and answer["q_labels"] is None and answer["q_offset"] == 0
    assert (answer["first_query"], answer["first_key"], answer["queries"], answer["keys_sent"]) == (2, 2, 5, 7)
    np.testing.assert_allclose(attnd.call("rollout", job="job")["values"], rollout(weights.mean(1)[:, 2:, 2:]), rtol=1e-5)


def test_importance_and_weights_across_heads(rng):
    daemon = Attnd(EVERY, "metrics.head_weights=[1,0.5,0]")
    weights = softmax_maps(rng, 1, 3, 12, 12)
    send(daemon, weights)
    importance = np.array(daemon.call("live", job="job")[0]["heads"]["importance"])
    for kind, by in (("importance", importance), ("weighted", np.array([1, 0.5, 0]))):
        np.testing.assert_allclose(ask(daemon, kind=kind)[1][0], np.einsum("h,hij->ij", by, weights[0]), rtol=1e-5, atol=1e-8)


def test_the_sample_the_size_and_one_head_can_be_chosen(rng):
    daemon = Attnd(EVERY, "maps.sample=1", "maps.size=8")
    weights = softmax_maps(rng, 3, 2, 20, 20)
    send(daemon, weights, labels=list("abcdefghijklmnopqrst"))
    answer, values = ask(daemon, head=1)
    assert answer["heads"] == [1] and answer["sample"] == 1 and values.shape == (1, 8, 8)
    np.testing.assert_allclose(values[0], pooled(weights[1, 1], 8), rtol=1e-6)
    assert answer["labels"] is None, "they are of the first sample"


def test_a_sample_is_shown_by_its_number_in_the_batch(rng):
    """The second of three, 3, 5 and 7 of eight."""
    daemon = Attnd(EVERY, "maps.sample=1")
    weights = softmax_maps(rng, 3, 2, 5, 5)
    send(daemon, weights, sample=3, sample_stride=2, batch=8)
    answer, values = ask(daemon)
    assert (answer["sample"], answer["batch"]) == (5, 8)
    np.testing.assert_allclose(values, weights[1], rtol=1e-6)
    assert "sample 5 of 8" in attnctl(daemon, "show", "job").stdout


def test_the_python_client_gives_arrays(attnd, rng):
    weights = softmax_maps(rng, 1, 3, 5, 5)
    send(attnd, weights, labels=list("abcde"))
    with package.Control(attnd.endpoint("control")) as control:
        answer = control.maps("job", layer=0)
        assert answer["values"].dtype == np.float32 and answer["labels"] == list("abcde") and answer["heads"] == [0, 1, 2]
        np.testing.assert_allclose(answer["values"], weights[0], rtol=1e-6)
        np.testing.assert_allclose(control.maps("job", head=2)["values"], weights[0, 2], rtol=1e-6)
        np.testing.assert_allclose(control.maps("job", kind="max")["values"], weights[0].max(0), rtol=1e-6)
        np.testing.assert_allclose(control.rollout("job")["values"], rollout(weights.mean(1)), rtol=1e-5)


def test_queries_and_keys_give_the_maps_that_they_stand_for(attnd, rng):
    q, k = rng.normal(size=(1, 4, 10, 8)).astype("f4"), rng.normal(size=(1, 2, 10, 8)).astype("f4")
    Trainer(attnd, "job").qk(q, k, scale=8**-0.5, causal=True)
    attnd.settled(1)
    answer, values = ask(attnd)
    logits = np.einsum("hid,hjd->hij", q[0].astype("f8"), k[0].repeat(2, 0).astype("f8")) * 8**-0.5
    logits[:, np.triu(np.ones((10, 10), bool), 1)] = -np.inf
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
    trainer.attention(softmax_maps(rng, 1, 1, 7, 7), layer=1, labels=[])
    trainer.attention(softmax_maps(rng, 1, 1, 7, 3), layer=2, labels=list("abcdef"))
    attnd.settled(4)
    assert attnd.call("maps", job="other")["labels"] is None
    assert attnd.call("maps", job="other", layer=1)["labels"] is None
    assert attnd.call("maps", job="other", layer=2)["labels"] == ["a", "b", "c"]
    assert attnd.call("rollout", job="job")["labels"] == ask(attnd)[0]["labels"]


def refused(attnd, code, sentence, method="maps", **params):
    with package.Control(attnd.endpoint("control")) as control:
        with pytest.raises(package.ControlError, match=sentence) as caught:
            control.call(method, params)
        assert caught.value.code == code


def test_some_heads_in_larger_cells(attnd, rng):
    weights = softmax_maps(rng, 1, 5, 200, 90, dtype=np.float64)
    send(attnd, weights)
    answer, values = ask(attnd, head=1, heads=3, size=24)
    assert answer["heads"] == [1, 2, 3] and (answer["rows"], answer["columns"], answer["queries"], answer["keys"]) == (24, 24, 200, 90)
    for at, head in enumerate((1, 2, 3)):
        np.testing.assert_allclose(values[at], pooled(pooled(weights[0, head]), 24), rtol=1e-5, atol=1e-8)
    packed = attnd.call("maps", job="job", head=3, heads=9, size=8, packed=True)
    assert packed["heads"] == [3, 4], "as many as there are"
    cells = np.frombuffer(packed["values"], "<f4").reshape(2, 8, 8)
    np.testing.assert_allclose(cells[1], pooled(pooled(weights[0, 4]), 8), rtol=1e-5, atol=1e-8)
    assert ask(attnd, kind="mean", size=10)[1].shape == (1, 10, 10)
    assert ask(attnd, heads=2)[0]["heads"] == [0, 1]


def test_why_there_is_none(attnd, rng):
    send(attnd, softmax_maps(rng, 1, 2, 4, 4))
    for params, code, sentence in (
            (dict(job="nobody"), "job_unknown", ""), (dict(), "argument", ""), (dict(job="job", color=1), "argument", "color"),
            (dict(job="job", kind="median"), "argument", "heads, mean, sum"), (dict(job="job", head=2), "argument", "0 to 1"),
            (dict(job="job", kind="mean", head=0), "argument", "with kind heads"), (dict(job="job", run="f" * 32), "run_unknown", ""),
            (dict(job="job", size=0), "argument", "size is not accepted"), (dict(job="job", head=0, heads=0), "argument", "heads is not accepted"),
            (dict(job="job", kind="mean", heads=2), "argument", "with kind heads"),
            (dict(job="job", layer=5), "no_map", "no such layer"), (dict(job="job", site="cross"), "no_map", "no such layer"),
            (dict(job="job", kind="weighted"), "no_map", "head_weights is empty")):
        refused(attnd, code, sentence, **params)


@pytest.mark.parametrize("settings, sentence", [
    (("metrics.qk_maps_max_size=8",), "longer than metrics.qk_maps_max_size"), (("maps.enabled=false",), "maps.enabled is false"),
    (("maps.memory=1MiB", "maps.size=512", "metrics.qk_maps_max_size=512"), "larger than maps.memory"),
    (("ingest.max_message=4MiB", "ingest.budget=32MiB", "metrics.qk_maps_max_size=512"), "a quarter of ingest.budget")])
def test_why_queries_and_keys_have_none(rng, settings, sentence):
    daemon = Attnd(EVERY, *settings)
    trainer = Trainer(daemon, "job")
    q = rng.normal(size=(1, 16, 500, 4)).astype("f4")
    trainer.qk(q, q, scale=0.5)
    daemon.settled(1)
    refused(daemon, "no_map", sentence, job="job")


def test_only_what_comes_in_one_step_is_one_layer(attnd, rng):
    """Heads split over two ranks: those that are there, and all of one step across heads."""
    trainers = ranks_of(attnd, 2)
    weights = softmax_maps(rng, 1, 5, 6, 6)

    def part(rank, step):
        cut = slice(0, 3) if rank == 0 else slice(3, 5)
        trainers[rank].attention(weights[:, cut] if step == 0 else weights[:, cut][..., ::-1].copy(), step=step, head_offset=cut.start,
                                 heads_total=5)

    part(1, 0)
    attnd.settled(1)
    answer = attnd.call("maps", job="job")
    assert answer["heads"] == list(range(5)) and answer["values"][:3] == [None] * 3
    np.testing.assert_allclose(answer["values"][3:], weights[0, 3:], rtol=1e-6)
    packed = np.frombuffer(attnd.call("maps", job="job", packed=True)["values"], "<f4").reshape(5, 6, 6)
    assert np.isnan(packed[:3]).all() and np.isfinite(packed[3:]).all()
    refused(attnd, "no_map", "not all heads", job="job", kind="mean")
    refused(attnd, "no_map", "this head", job="job", head=1)
    refused(attnd, "no_map", "not all heads", job="job", method="rollout")
    part(0, 0)
    attnd.settled(2)
    np.testing.assert_allclose(ask(attnd)[1], weights[0], rtol=1e-6)
    for kind, across in ACROSS_HEADS.items():
        np.testing.assert_allclose(ask(attnd, kind=kind)[1][0], across(weights[0]), rtol=1e-5)
    refused(attnd, "no_map", "no importance", job="job", kind="importance")
    np.testing.assert_allclose(attnd.call("rollout", job="job")["values"], rollout(weights[:, :5].mean(1)), rtol=1e-5)
    part(0, 1)
    attnd.settled(3)
    assert ask(attnd)[0]["step"] == 0, "what is whole is shown until the next one is"
    part(1, 1)
    attnd.settled(4)
    answer, values = ask(attnd)
    assert answer["step"] == 1
    np.testing.assert_allclose(values, weights[0][..., ::-1], rtol=1e-6)


def test_the_largest_of_pooled_slices_is_not_made_up(rng):
    daemon = Attnd(EVERY, "maps.size=8")
    trainer = Trainer(daemon, "job")
    weights = softmax_maps(rng, 1, 4, 20, 20)
    for first in (0, 2):
        trainer.attention(weights[:, first:first + 2], head_offset=first, heads_total=4)
    daemon.settled(2)
    np.testing.assert_allclose(ask(daemon, kind="mean")[1][0], pooled(weights[0].mean(0), 8), rtol=1e-5)
    refused(daemon, "no_map", "in slices", job="job", kind="max")


def test_an_answer_that_no_client_takes_is_refused(rng):
    daemon = Attnd(EVERY, "maps.size=512")
    send(daemon, softmax_maps(rng, 1, 9, 512, 512))
    refused(daemon, "argument", "one head or another kind, or packed", job="job")
    assert ask(daemon, head=8)[1].shape == (1, 512, 512)
    assert len(daemon.call("maps", job="job", packed=True)["values"]) == 4 * 9 * 512 * 512


def test_weights_of_heads_are_the_jobs_own(rng):
    daemon = Attnd(EVERY, config="metrics:\n  head_weights: [1, 1]\njobs:\n  job:\n    head_weights: [2, 0.25]\n")
    weights = softmax_maps(rng, 1, 2, 5, 5)
    send(daemon, weights)
    np.testing.assert_allclose(ask(daemon, kind="weighted")[1][0], 2 * weights[0, 0] + 0.25 * weights[0, 1], rtol=1e-6)


def rollout(maps):
    """Abnar and Zuidema: of mean maps [L, T, T], in float64."""
    now, out = np.eye(maps.shape[-1]), []
    for map_ in maps.astype(np.float64):
        residual = 0.5 * (map_ + np.eye(len(map_)))
        now = residual / residual.sum(-1, keepdims=True) @ now
        out.append(now)
    return np.array(out)


def keys_in_cells(length, size):
    n = min(length, size)
    return np.array([(c + 1) * length // n - c * length // n for c in range(n)])


@pytest.mark.parametrize("length, size, exact", [(1, 128, True), (13, 128, True), (60, 10, False), (130, 128, False)])
def test_rollout_is_the_product_over_layers(rng, length, size, exact):
    daemon = Attnd(EVERY, f"maps.size={size}")
    trainer, means = Trainer(daemon, "job"), []
    for layer in range(4):
        weights = softmax_maps(rng, 1, 3, length, length, causal=True)
        trainer.attention(weights, layer=layer, causal=True)
        means.append(pooled(weights[0].mean(0), size) * keys_in_cells(length, size))
    daemon.settled(4)
    answer = daemon.call("rollout", job="job")
    assert answer["layers"] == [0, 1, 2, 3] and answer["exact"] is exact and answer["stack"] == "decoder"
    np.testing.assert_allclose(answer["values"], rollout(np.array(means)), rtol=1e-5, atol=1e-7)
    packed = np.frombuffer(daemon.call("rollout", job="job", packed=True)["values"], "<f4")
    np.testing.assert_array_equal(packed.reshape(np.shape(answer["values"])), np.float32(answer["values"]))


def test_a_rollout_with_a_layer_missing_or_of_other_steps_is_not_exact(attnd, rng):
    trainer = Trainer(attnd, "job")
    weights = [softmax_maps(rng, 1, 2, 5, 5) for _ in range(3)]
    trainer.attention(weights[0], layer=0)
    trainer.attention(weights[2], layer=2)
    attnd.settled(2)
    answer = attnd.call("rollout", job="job")
    assert answer["layers"] == [0, 2] and answer["exact"] is False
    np.testing.assert_allclose(answer["values"], rollout(np.array([w[0].mean(0) for w in (weights[0], weights[2])])), rtol=1e-5)
    trainer.attention(weights[1], layer=1, step=1)
    attnd.settled(3)
    answer = attnd.call("rollout", job="job")
    assert answer["layers"] == [0, 1, 2] and answer["exact"] is False


def test_rollout_needs_square_maps_of_all_layers(attnd, rng):
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), layer=0)
    trainer.attention(softmax_maps(rng, 1, 2, 4, 6), layer=1)
    attnd.settled(2)
    for params, code in ((dict(job="job"), "no_map"), (dict(job="job", stack="encoder"), "no_map"), (dict(job="x"), "job_unknown")):
        with pytest.raises(RuntimeError, match=code):
            attnd.call("rollout", **params)


def test_a_stop_with_answers_on_their_way(attnd, rng):
    """Answers that libuv's pool still works on when attnd ends: they come or do not, and it ends as ever."""
    trainer, asking = Trainer(attnd, "job"), attnd.connected(zmq.DEALER, "control")
    for layer in range(6):
        trainer.attention(softmax_maps(rng, 1, 8, 128, 128), layer=layer)
    attnd.settled(6)
    for number in range(20):
        asking.send(msgpack.packb([0, number, ("maps", "rollout")[number % 2], dict(job="job")]))
    assert asking.poll(60000), "an answer"
    assert attnd.stop() == 0


def test_answers_on_their_way_take_no_more_than_the_maps(rng):
    """What is asked beyond that is refused, and answered again later."""
    daemon = Attnd(EVERY, "maps.memory=6MiB", "maps.size=512")
    send(daemon, softmax_maps(rng, 1, 3, 512, 512))
    sockets = [daemon.connected(zmq.DEALER, "control") for _ in range(12)]

    def all_ask(method, **params):
        for socket in sockets:
            socket.send(msgpack.packb([0, 1, method, params]))
        for socket in sockets:
            assert socket.poll(60000), "an answer"
            error = msgpack.unpackb(socket.recv())[2]
            yield error and error["code"]

    assert list(all_ask("ping")) == [None] * 12
    assert set(all_ask("maps", job="job")) == {None, "again"}
    assert ask(daemon)[1].shape == (3, 512, 512)
