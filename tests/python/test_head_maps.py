# SPDX-License-Identifier: MIT
"""Maps that come with states: what fits, when it is their turn, and that they go to those who want them alone."""
import numpy as np
import pytest

import attnd
from attnd.head_maps import WEIGHTS_MAX, HeadMaps, Turns
from attnd.layer_state import LayerState
from conftest import FakeDaemon, wait_until

GOOD = HeadMaps(np.zeros((2, 4, 3), np.float16), 9, 3, first_key=1, keys_sent=5)


@pytest.mark.parametrize("change", [
    {"values": np.zeros((2, 4, 3))}, {"values": np.zeros((4, 3), np.float16)}, {"values": np.zeros((2, 5, 3), np.float16), "keys": 9},
    {"values": np.zeros((2, 65, 3), np.float16)}, {"values": np.zeros((4, 4, 3), np.float16)}, {"queries": 3}, {"queries": 0},
    {"keys": 4}, {"keys_sent": 3}, {"queries_sent": 8}, {"first_query": -1}, {"head_offset": 2}, {"q_offset": 2**32 - 9},
    {"sample": 2**31}, {"queries": 2.5}])
def test_maps_that_do_not_fit_are_refused(change):
    GOOD.check(3)
    with pytest.raises(ValueError):
        GOOD._replace(**change).check(3)


def test_every_layer_has_a_turn_in_a_round_and_rounds_begin_with_a_step():
    now = [100.0]
    turns = Turns(lambda: now[0])
    assert [turns.take(layer, 0, 5, 10, 1) for layer in "abab"] == [True, True, False, False]
    now[0] = 109
    assert not turns.take("a", 0, 6, 10, 1) and turns.take("c", 0, 6, 10, 1)  # whose first time it is
    now[0] = 110
    assert not turns.take("a", 0, 6, 10, 1)  # in the middle of a step
    assert [turns.take(layer, 1, 5, 10, 1) for layer in "aabc"] == [True, False, True, True]


def test_what_is_too_much_for_a_step_waits_for_the_next():
    now, half = [100.0], WEIGHTS_MAX // 2
    turns = Turns(lambda: now[0])
    assert [turns.take(layer, 0, 1, 10, half) for layer in "abcd"] == [True, True, False, False]
    now[0] = 115  # the round is not over
    assert [turns.take(layer, 0, 2, 10, half) for layer in "abcd"] == [False, False, True, True]
    assert [turns.take(layer, 0, 3, 10, 3 * half) for layer in "abcd"] == [True, False, False, False]  # one at least
    assert [turns.take(layer, 0, 4, 10, half) for layer in "ab"] == [False, True]
    assert not turns.take("a", 0, 5, 10, half)
    now[0] = 125
    assert turns.take("a", 0, 6, 10, half)  # of c and d nothing was seen again


@pytest.mark.parametrize("said, sent", [("header=9;maps=4;maps_every=500", True), ("header=9;maps=0", False), ("header=9", False),
                                        ("header=8;maps=4", False)])
def test_maps_go_to_those_who_want_them(said, sent):
    state = LayerState(3)
    state.add({"entropy": np.ones((1, 3, 4))}, keys=4)
    daemon = FakeDaemon(topics=(b"", b"limits/accepts=state,event;" + said.encode()))
    seen = []
    with attnd.Publisher("job", daemon.endpoint, on_publish=seen.append) as publisher:
        daemon.attach(publisher)
        wait_until(lambda: daemon.serve() or publisher._sender.limits.header > 1, "the limits arrive")
        assert publisher.maps_side == (4 if sent else 0) and publisher.maps_every == (0.5 if sent else 0)
        labels = list("abcde")
        assert publisher.publish_state(state, stack="decoder", layer=0, maps=GOOD._replace(labels=labels))
        with pytest.raises(ValueError):
            publisher.publish_state(state, stack="decoder", layer=0, maps=GOOD._replace(keys=4))
    message, = seen
    assert [one["name"] for one in message.keys["tensors"]] == (["state", "maps"] if sent else ["state"])
    assert message.keys.get("labels") == (labels if sent else None) and message.keys.get("keys_sent") == (5 if sent else None)
