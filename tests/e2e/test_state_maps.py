# SPDX-License-Identifier: MIT
"""Pooled maps that come with a state are kept and shown as those that attnd makes itself of the same weights, to the
rounding of half precision; and what pooled maps do not tell is said."""
import numpy as np
import pytest
from harness import Attnd, Trainer, softmax_maps, wait_until
from test_maps import ask, pooled, refused
from test_show import numbers, show

from attnd.sending.head_maps import HeadMaps
from attnd.sending.layer_state import LayerState
from attnd.sending.publisher import Publisher

HEADS, SIDE = 3, 16
SETTINGS = ("maps.every=0s", f"maps.size={SIDE}", "window.unit=step", "window.length=2", "window.every=2", "history.commit=100ms",
            "history.head_maps=8")
HALF = dict(rtol=2**-10, atol=2**-24)  # of a number in half precision


@pytest.fixture
def attnd():
    return Attnd(*SETTINGS)


def state_of(weights, step, importance=True):
    entropy = -(weights * np.log(weights + 1e-30)).sum(-1)
    state = LayerState(HEADS)
    state.add({"entropy": entropy}, keys=weights.shape[3], step=step, causal=True,
              values={"importance": np.array([0.5, 0.25, 0.25])} if importance else None)
    return state


def cells_of(weights, side=SIDE):
    return np.array([pooled(one, side) for one in weights]).astype(np.float16)


def publisher_of(attnd, job="job"):
    publisher = Publisher(job, endpoint=attnd.endpoint("ingest"))
    assert publisher.wait_for_subscriber(60)
    wait_until(lambda: publisher.maps_side == SIDE, "attnd says what maps it wants")
    return publisher


@pytest.mark.parametrize("queries, keys", [(40, 50), (5, 30), (7, 7)])
def test_maps_of_a_state_are_those_of_the_weights(attnd, rng, queries, keys):
    weights = softmax_maps(rng, 1, HEADS, queries, keys)
    labels = [f"k{j}" for j in range(keys)]
    trainer = Trainer(attnd, "raw")
    trainer.attention(weights, step=3, causal=True, labels=labels)
    with publisher_of(attnd) as publisher:
        maps = HeadMaps(cells_of(weights[0]), queries, keys, labels=labels)
        assert publisher.publish_state(state_of(weights, 3), stack="decoder", layer=0, maps=maps)
        attnd.settled(2)
        answer, values = ask(attnd)
        expected = attnd.call("maps", job="raw")
        np.testing.assert_allclose(values, np.array(expected["values"], float), **HALF)
        same = set(expected) - {"values", "job", "run", "tier", "time_ns"}
        assert {key: answer[key] for key in same} == {key: expected[key] for key in same}
        assert (answer["tier"], answer["heads"], answer["labels"]) == ("state", [0, 1, 2], labels)
        for kind in ("mean", "sum"):
            np.testing.assert_allclose(ask(attnd, kind=kind)[1],
                                       [np.array(attnd.call("maps", job="raw", kind=kind)["values"])], **HALF)
        heads = cells_of(weights[0]).astype(float)
        importance = np.array([0.5, 0.25, 0.25])[:, None, None]
        np.testing.assert_allclose(ask(attnd, kind="importance")[1][0], (importance * heads).sum(0), rtol=1e-6)
        if max(queries, keys) <= SIDE:
            np.testing.assert_allclose(ask(attnd, kind="max")[1][0], weights[0].max(0), **HALF)
        else:
            refused(attnd, "no_map", "maps that were pooled before they came", job="job", kind="max")


def test_labels_are_of_the_sample_where_its_batch_is_said(attnd, rng):
    weights, labels = softmax_maps(rng, 1, HEADS, 4, 4)[0], list("abcd")
    with publisher_of(attnd) as publisher:
        for step, (said, shown) in enumerate([({"sample": 5, "batch": 8}, labels), ({"sample": 5}, None), ({}, labels)]):
            maps = HeadMaps(weights.astype(np.float16), 4, 4, labels=labels, **said)
            assert publisher.publish_state(state_of(weights[None], step), stack="decoder", layer=step, maps=maps)
            attnd.settled(step + 1)
            answer = ask(attnd, layer=step)[0]
            assert (answer["sample"], answer.get("batch"), answer["labels"]) == (said.get("sample", 0), said.get("batch"), shown)


def test_padding_and_slices_of_heads_are_put_where_they_belong(attnd, rng):
    """Two ranks with two and one of three heads; a text of 4 after 2 of padding."""
    weights = softmax_maps(rng, 1, HEADS, 4, 4)[0]
    with publisher_of(attnd) as publisher:
        for first, end in ((1, 3), (0, 1)):
            maps = HeadMaps(weights[first:end].astype(np.float16), 4, 4, first_query=2, first_key=2, queries_sent=9,
                            keys_sent=9, head_offset=first, labels=list("__abcd___"))
            assert publisher.publish_state(state_of(weights[None], 5), stack="decoder", layer=0, maps=maps)
        attnd.settled(2)
        answer, values = ask(attnd)
        np.testing.assert_allclose(values, weights, **HALF)
        assert answer["labels"] == list("abcd") and answer["q_offset"] == 0 and answer["causal"]
        assert [answer[key] for key in ("first_query", "first_key", "queries_sent", "keys_sent", "step")] == [2, 2, 9, 9, 5]
        np.testing.assert_allclose(ask(attnd, kind="max")[1][0], weights.max(0), **HALF)
        refused(attnd, "no_map", "heads in slices have no importance", job="job", kind="importance")


def test_a_number_that_does_not_exist_is_nil_and_importance_may_be_missing(attnd, rng):
    weights = softmax_maps(rng, 1, HEADS, 6, 6)
    cells = weights[0].astype(np.float16)
    cells[1, 2], cells[0, 0, 0], cells[2, 5, 5] = np.nan, np.inf, -np.inf
    with publisher_of(attnd) as publisher:
        assert publisher.publish_state(state_of(weights, 0, importance=False), stack="decoder", layer=0,
                                       maps=HeadMaps(cells, 6, 6))
        attnd.settled(1)
        expected = np.where(np.isfinite(cells), cells, np.nan)
        np.testing.assert_array_equal(ask(attnd)[1], expected)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(ask(attnd, kind="max")[1][0], np.nanmax(expected, axis=0))
        refused(attnd, "no_map", "the state that they came with has no importance", job="job", kind="importance")


def test_rollout_and_history_have_maps_of_states(attnd, rng):
    layers = [softmax_maps(rng, 1, HEADS, 40, 40, causal=True) for _ in range(2)]
    raw = Trainer(attnd, "raw")
    with publisher_of(attnd) as publisher:
        for step in range(4):
            for number, weights in enumerate(layers):
                raw.attention(weights, step=step, layer=number, causal=True)
                maps = HeadMaps(cells_of(weights[0]), 40, 40) if step % 2 == 0 else None  # each window has one
                assert publisher.publish_state(state_of(weights, step), stack="decoder", layer=number, maps=maps)
        raw.event("bye", step=4)
        publisher.bye()
        attnd.settled(18)
    one, two = (attnd.call("rollout", job=job) for job in ("raw", "job"))
    np.testing.assert_allclose(np.array(two["values"]), np.array(one["values"]), rtol=2**-8, atol=1e-6)
    wait_until(lambda: all(attnd.call("runs", job=job)["runs"][0]["state"] == "ended" for job in ("raw", "job")), "both runs' ends")
    for kind in ("mean", "heads"):
        one, two = (attnd.call("map", job=job, layer=1, kind=kind) for job in ("raw", "job"))
        assert (two["last"], two["queries"], two["keys"], two["step"]) == (3, 40, 40, 2)
        values = np.array(two["values"])
        if kind == "heads":  # 16 cells a side pooled to 8, as of the weights
            np.testing.assert_allclose(values, np.array(one["values"]), rtol=2**-8)
            assert values.shape == (HEADS, 8, 8)
        else:
            np.testing.assert_allclose(values, pooled(layers[1][0].mean(0), SIDE), rtol=2**-8)


def test_attnctl_shows_them_and_says_where_they_were_pooled(attnd, rng):
    weights = softmax_maps(rng, 1, HEADS, 40, 40)
    with publisher_of(attnd) as publisher:
        maps = HeadMaps(cells_of(weights[0]), 40, 40)
        assert publisher.publish_state(state_of(weights, 3), stack="decoder", layer=0, maps=maps)
        attnd.settled(1)
        got = numbers(attnd, "job", "--head", 1, "--token", 39)
        np.testing.assert_allclose(got["token"]["weights"], pooled(weights[0, 1], SIDE)[-1], **HALF)
        assert got["row_sums"]["sound"] == HEADS * SIDE  # in spite of the rounding
        text = " ".join(show(attnd, "job", "--head", 1, "--token", 39).split())
        assert "the training has pooled it into 16 x 16 cells (maps.size): each is the mean of its entries, so single tokens " \
            "are not to be seen " in text


def test_a_layer_whose_states_bring_none_says_so_and_keeps_what_it_has(attnd, rng):
    weights = softmax_maps(rng, 1, HEADS, 6, 6)
    with publisher_of(attnd) as publisher:
        assert publisher.publish_state(state_of(weights, 0), stack="decoder", layer=0)
        attnd.settled(1)
        refused(attnd, "no_map", "the states of this layer came without maps", job="job")
        maps = HeadMaps(weights[0].astype(np.float16), 6, 6)
        assert publisher.publish_state(state_of(weights, 1), stack="decoder", layer=0, maps=maps)
        assert publisher.publish_state(state_of(weights, 2), stack="decoder", layer=0)
        attnd.settled(3)
        assert ask(attnd)[0]["step"] == 1


def test_maps_come_no_more_often_than_they_are_wanted(rng):
    attnd = Attnd("maps.every=1h", "maps.size=8")
    weights = softmax_maps(rng, 1, HEADS, 6, 6)
    with Publisher("job", endpoint=attnd.endpoint("ingest")) as publisher:
        assert publisher.wait_for_subscriber(60)
        wait_until(lambda: (publisher.maps_side, publisher.maps_every) == (8, 3600), "attnd says what maps it wants")
        for step in range(3):
            maps = HeadMaps(weights[0].astype(np.float16), 6, 6)
            assert publisher.publish_state(state_of(weights, step), stack="decoder", layer=0, maps=maps)
            assert attnd.settled(1 + step)["dropped"] == {}  # of a layer that is not known any may be taken
        assert ask(attnd)[0]["step"] <= 1  # it had not been asked for the first


def test_maps_that_do_not_fit_are_refused_and_counted(attnd, rng):
    trainer = Trainer(attnd, "job")
    state = np.frombuffer(state_of(softmax_maps(rng, 1, HEADS, 6, 6), 0).pack(), dtype=np.uint8)
    good = {"queries": 6, "keys": 6, "queries_sent": 6, "keys_sent": 6}

    def send(maps, **keys):
        trainer.send(*trainer.tensor_frames("state", {"state": state, "maps": maps}, heads=HEADS, first_epoch=0, first_step=0,
                                            **{**good, **keys}))

    cells = np.zeros((HEADS, 6, 6), np.float16)
    send(cells)
    for keys in ({"queries": 5}, {"keys": 0}, {"queries_sent": 5}, {"first_key": 1}, {"head_offset": 1}, {"q_offset": 2**32 - 2}):
        send(cells, **keys)
    send(cells[:, :5])
    send(cells.astype(np.float32))
    send(np.zeros((HEADS, 65, 65), np.float16), queries=65, keys=65, queries_sent=65, keys_sent=65)
    trainer.send(*trainer.tensor_frames("state", {"maps": cells}, heads=HEADS, first_epoch=0, first_step=0, **good))
    assert attnd.settled(11)["dropped"] == {"shape": 3, "key_range": 5, "dtype": 1, "tensor_name": 1}
    assert ask(attnd)[1].shape == (HEADS, 6, 6)
