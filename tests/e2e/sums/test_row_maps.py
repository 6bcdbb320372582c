# SPDX-License-Identifier: MIT
"""Pooled maps that come with rows are kept and shown as those that attnd makes itself of the same weights, to the
rounding of half precision; and what pooled maps do not tell is said."""
import numpy as np
import pytest
from harness import Attnd, Trainer, softmax_maps, wait_until
from row_sums import of_weights
from test_maps import ask, pooled, refused
from test_show import numbers, show

from attnd.sending.head_maps import HeadMaps
from attnd.sending.publisher import Publisher

HEADS, SIDE = 3, 16
SETTINGS = ("maps.every=0s", f"maps.size={SIDE}", "window.unit=step", "window.length=2", "window.every=2", "history.commit=100ms",
            "history.head_maps=8")
HALF = dict(rtol=2**-10, atol=2**-24)  # of a number in half precision


@pytest.fixture
def attnd():
    return Attnd(*SETTINGS)


def rows_of(weights, maps=None, importance=True):
    """`importance`: with the sums that it is made of."""
    rows = of_weights(weights, causal=True, maps=maps)
    return rows if importance else rows._replace(names=tuple(name.replace("power_3", "") for name in rows.names))


def cells_of(weights, side=SIDE):
    return np.array([pooled(one, side) for one in weights]).astype(np.float16)


def publisher_of(attnd, job="job"):
    publisher = Publisher(job, endpoint=attnd.endpoint("ingest"))
    assert publisher.wait_for_subscriber(60)
    wait_until(lambda: publisher.maps_side == SIDE, "attnd says what maps it wants")
    return publisher


@pytest.mark.parametrize("queries, keys", [(40, 50), (5, 30), (7, 7)])
def test_maps_that_come_with_rows_are_those_of_the_weights(attnd, rng, queries, keys):
    weights = softmax_maps(rng, 1, HEADS, queries, keys)
    labels = [f"k{j}" for j in range(keys)]
    trainer = Trainer(attnd, "raw")
    trainer.attention(weights, step=3, causal=True, labels=labels)
    with publisher_of(attnd) as publisher:
        maps = HeadMaps(cells_of(weights[0]), queries, keys, labels=labels)
        assert publisher.publish_rows(rows_of(weights, maps), stack="decoder", layer=0, step=3)
        attnd.settled(2)
        answer, values = ask(attnd)
        expected = attnd.call("maps", job="raw")
        np.testing.assert_allclose(values, np.array(expected["values"], float), **HALF)
        same = set(expected) - {"values", "job", "run", "tier", "time_ns"}
        assert {key: answer[key] for key in same} == {key: expected[key] for key in same}
        assert (answer["tier"], answer["heads"], answer["labels"]) == ("rows", [0, 1, 2], labels)
        for kind in ("mean", "sum"):
            np.testing.assert_allclose(ask(attnd, kind=kind)[1],
                                       [np.array(attnd.call("maps", job="raw", kind=kind)["values"])], **HALF)
        heads = cells_of(weights[0]).astype(float)
        importance = np.array(attnd.call("live", job="job")[0]["heads"]["importance"])
        np.testing.assert_allclose(importance.sum(), 1, rtol=1e-6)
        np.testing.assert_allclose(ask(attnd, kind="importance")[1][0], (importance[:, None, None] * heads).sum(0), rtol=1e-6)
        if max(queries, keys) <= SIDE:
            np.testing.assert_allclose(ask(attnd, kind="max")[1][0], weights[0].max(0), **HALF)
        else:
            refused(attnd, "no_map", "maps that were pooled before they came", job="job", kind="max")


def test_labels_are_of_the_sample_whatever_its_number(attnd, rng):
    weights, labels = softmax_maps(rng, 1, HEADS, 4, 4)[0], list("abcd")
    with publisher_of(attnd) as publisher:
        for step, said in enumerate([{"sample": 5, "batch": 8}, {"sample": 5}, {}]):
            maps = HeadMaps(weights.astype(np.float16), 4, 4, labels=labels, **said)
            assert publisher.publish_rows(rows_of(weights[None], maps), stack="decoder", layer=step, step=step)
            attnd.settled(step + 1)
            answer = ask(attnd, layer=step)[0]
            assert (answer["sample"], answer.get("batch"), answer["labels"]) == (said.get("sample", 0), said.get("batch"), labels)


def test_padding_and_slices_of_heads_are_put_where_they_belong(attnd, rng):
    """Two ranks with two and one of three heads; a text of 4 after 2 of padding."""
    weights = softmax_maps(rng, 1, HEADS, 4, 4)[0]
    sent = np.zeros((1, HEADS, 9, 9))
    sent[0, :, 2:6, 2:6] = weights
    valid = (np.arange(9) >= 2) & (np.arange(9) < 6)
    with publisher_of(attnd) as publisher:
        for first, end in ((1, 3), (0, 1)):
            maps = HeadMaps(weights[first:end].astype(np.float16), 4, 4, first_query=2, first_key=2, queries_sent=9,
                            keys_sent=9, labels=list("__abcd___"))
            rows = of_weights(sent[:, first:end], causal=True, valid=valid, maps=maps)
            assert publisher.publish_rows(rows, stack="decoder", layer=0, step=5, head_offset=first, heads_total=HEADS)
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
        assert publisher.publish_rows(rows_of(weights, HeadMaps(cells, 6, 6), importance=False), stack="decoder", layer=0)
        attnd.settled(1)
        expected = np.where(np.isfinite(cells), cells, np.nan)
        np.testing.assert_array_equal(ask(attnd)[1], expected)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(ask(attnd, kind="max")[1][0], np.nanmax(expected, axis=0))
        refused(attnd, "no_map", "the rows that they came with are not all, or do not tell it", job="job", kind="importance")


def test_rollout_and_history_have_maps_of_rows(attnd, rng):
    layers = [softmax_maps(rng, 1, HEADS, 40, 40, causal=True) for _ in range(2)]
    raw = Trainer(attnd, "raw")
    with publisher_of(attnd) as publisher:
        for step in range(4):
            for number, weights in enumerate(layers):
                raw.attention(weights, step=step, layer=number, causal=True)
                maps = HeadMaps(cells_of(weights[0]), 40, 40) if step % 2 == 0 else None  # each window has one
                assert publisher.publish_rows(rows_of(weights, maps), stack="decoder", layer=number, step=step)
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
        assert publisher.publish_rows(rows_of(weights, maps), stack="decoder", layer=0, step=3)
        attnd.settled(1)
        got = numbers(attnd, "job", "--head", 1, "--token", 39)
        np.testing.assert_allclose(got["token"]["weights"], pooled(weights[0, 1], SIDE)[-1], **HALF)
        assert got["row_sums"]["sound"] == HEADS * SIDE  # in spite of the rounding
        text = " ".join(show(attnd, "job", "--head", 1, "--token", 39).split())
        assert "the training has pooled it into 16 x 16 cells (maps.size): each is the mean of its entries, so single tokens " \
            "are not to be seen " in text


def test_a_layer_whose_rows_bring_none_says_so_and_keeps_what_it_has(attnd, rng):
    weights = softmax_maps(rng, 1, HEADS, 6, 6)
    with publisher_of(attnd) as publisher:
        assert publisher.publish_rows(rows_of(weights), stack="decoder", layer=0)
        attnd.settled(1)
        refused(attnd, "no_map", "the rows of this layer came without maps", job="job")
        maps = HeadMaps(weights[0].astype(np.float16), 6, 6)
        assert publisher.publish_rows(rows_of(weights, maps), stack="decoder", layer=0, step=1)
        assert publisher.publish_rows(rows_of(weights), stack="decoder", layer=0, step=2)
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
            assert publisher.publish_rows(rows_of(weights, maps), stack="decoder", layer=0, step=step)
            assert attnd.settled(1 + step)["dropped"] == {}  # of a layer that is not known any may be taken
        assert ask(attnd)[0]["step"] <= 1  # it had not been asked for the first


def test_maps_that_do_not_fit_are_refused_and_counted(attnd, rng):
    trainer = Trainer(attnd, "job")
    rows = of_weights(softmax_maps(rng, 1, HEADS, 6, 6), causal=True)

    def send(maps, **keys):
        frames = trainer.rows_frames(rows._replace(maps=HeadMaps(maps, 6, 6)), **keys)
        trainer.send(*frames)

    cells = np.zeros((HEADS, 6, 6), np.float16)
    send(cells)
    for keys in ({"map_queries": 7}, {"map_queries": 5}, {"map_keys": 0}, {"first_query": 6}, {"first_key": 1},
                 {"head_offset": 1, "heads_total": HEADS}, {"q_offset": 2**32 - 2}):
        send(cells, **keys)
    send(cells[:, :5])
    send(cells[:2])
    send(cells.astype(np.float32))
    large = of_weights(softmax_maps(rng, 1, HEADS, 65, 65), causal=True)
    trainer.rows(large._replace(maps=HeadMaps(np.zeros((HEADS, 65, 65), np.float16), 65, 65)))
    trainer.send(*trainer.tensor_frames("rows", {"maps": cells}, sums=list(rows.names), queries=6, keys=6))
    assert attnd.settled(13)["dropped"] == {"shape": 4, "key_range": 6, "dtype": 1, "tensor_name": 1}
    assert ask(attnd)[1].shape == (HEADS, 6, 6)
