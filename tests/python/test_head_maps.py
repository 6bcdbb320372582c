# SPDX-License-Identifier: MIT
"""Maps that come with rows: what fits, when it is their turn, and that they go to those who want them alone."""
import numpy as np
import pytest

from attnd.sending.head_maps import WEIGHTS_MAX, HeadMaps, Turns
from conftest import limited, uniform_rows

GOOD = HeadMaps(np.zeros((2, 4, 3), np.float16), 9, 3, first_key=1, keys_sent=5)


@pytest.mark.parametrize("change", [
    {"values": np.zeros((2, 4, 3))}, {"values": np.zeros((4, 3), np.float16)}, {"values": np.zeros((2, 5, 3), np.float16), "keys": 9},
    {"values": np.zeros((2, 65, 3), np.float16)}, {"queries": 3}, {"queries": 0},
    {"keys": 4}, {"keys_sent": 3}, {"queries_sent": 8}, {"first_query": -1}, {"q_offset": 2**32 - 9},
    {"sample": 2**31}, {"queries": 2.5}])
def test_maps_that_do_not_fit_are_refused(change):
    GOOD.check()
    with pytest.raises(ValueError):
        GOOD._replace(**change).check()


def test_every_layer_has_its_turn_at_every_nth_captured_step():
    now = [100.0]
    turns = Turns(lambda: now[0])
    assert [turns.take(layer, 0, 5, 5, 10, 1) for layer in "abab"] == [True, True, False, False]
    taken = {"a": [], "b": [], "c": []}
    for step in range(10, 200, 5):
        now[0] += 3
        for layer in "abc" if step >= 35 else "ab":
            if turns.take(layer, step // 50, step, 5, 10, 1):
                taken[layer].append(step)
    assert taken["a"] == taken["b"] == list(range(20, 200, 20))  # 12 s apart
    assert taken["c"] == [35] + taken["a"][1:]  # its first time


def test_what_is_too_much_for_a_step_waits_for_the_next():
    now, half = [100.0], WEIGHTS_MAX // 2
    turns = Turns(lambda: now[0])

    def took(step, weights):
        now[0] += 20
        return "".join(layer for layer in "abcde" if turns.take(layer, 0, step, 1, 10, weights))
    assert [took(step, half) for step in range(8)] == ["ab", "cd", "e", "", "ab", "cd", "e", ""]
    assert [took(step, 3 * half) for step in range(8, 24)][8:] == ["a", "b", "c", "d", "e", "", "", ""]  # one at least


@pytest.mark.parametrize("layers", [1, 5])  # of which two go at one step
@pytest.mark.parametrize("every", [1, 1.6, 1.7])
@pytest.mark.parametrize("interval", [0.1, 0.25, 0.3, 0.4, 0.9, 2])
@pytest.mark.parametrize("skew", [0.0005, 0.01])
def test_rounds_of_ranks_with_clocks_of_their_own_meet(skew, interval, every, layers):
    rng = np.random.default_rng(1)
    clocks = [0.0, 0.0]
    ranks = [Turns(lambda rank=rank: clocks[rank]) for rank in range(2)]
    now, rounds = 10.0, {layer: [] for layer in range(layers)}
    for step in range(0, 20000, 10):
        now += interval * rng.uniform(0.95, 1.05)
        clocks = [now + skew * rng.random() for _ in ranks]
        for layer in range(layers):
            took = [turns.take(layer, 0, step, 10, every, WEIGHTS_MAX // 2) for turns in ranks]
            if any(took):
                rounds[layer].append((now, all(took)))
    for found in rounds.values():
        met = [at for at, both in found if both]
        assert len(met) > 0.95 * len(found)
        apart = np.diff(met[5:])
        assert apart.min() > every and apart.max() < max(3.3 * every, 2.2 * interval * (1 if layers == 1 else 2))


@pytest.mark.parametrize("said, sent", [("maps=4;maps_every=500", True), ("maps=0", False), ("", False)])
def test_maps_go_to_those_who_want_them(said, sent):
    rows, seen = uniform_rows(queries=9, keys=5), []
    with limited(b"accepts=rows,event;" + said.encode(), on_publish=seen.append) as (_, publisher):
        assert publisher.maps_side == (4 if sent else 0) and publisher.maps_every == (0.5 if sent else 0)
        labels = list("abcde")
        of_slice = {"head_offset": 2, "heads_total": 4}
        assert publisher.publish_rows(rows._replace(maps=GOOD._replace(labels=labels)), stack="decoder", layer=0, **of_slice)
        with pytest.raises(ValueError):
            publisher.publish_rows(rows._replace(maps=GOOD._replace(keys=4)), stack="decoder", layer=0)
    message, = seen
    assert [one["name"] for one in message.keys["tensors"]] == ["sums", "places", *["maps"] * sent]
    assert [message.keys.get(key) for key in ("labels", "map_queries", "map_keys", "first_key")] == ([labels, 9, 3, 1] if sent else 4 * [None])
    assert [message.keys[key] for key in ("queries", "keys", "head_offset", "heads_total")] == [9, 5, 2, 4]


def test_maps_are_of_the_heads_queries_and_keys_that_the_rows_are_of():
    rows = uniform_rows(queries=9, keys=5)
    with limited(b"accepts=rows,event") as (_, publisher):
        assert publisher.publish_rows(rows._replace(maps=GOOD), stack="decoder", layer=0, head_offset=1)
        for one in (GOOD.values, "x", {}):
            with pytest.raises(ValueError, match=f"maps of type {type(one).__name__}: must be HeadMaps"):
                publisher.publish_rows(rows._replace(maps=one), stack="decoder", layer=0)
        with pytest.raises(ValueError, match="maps: values of type list"):
            publisher.publish_rows(rows._replace(maps=GOOD._replace(values=[[[0.0]]])), stack="decoder", layer=0)
        for heads, change in ((1, {}), (3, {}), (2, {"keys_sent": 6}), (2, {"queries_sent": 10})):
            with pytest.raises(ValueError, match="maps of .*must be of"):
                publisher.publish_rows(uniform_rows(heads, 9, 5)._replace(maps=GOOD._replace(**change)), stack="decoder", layer=0)
