# SPDX-License-Identifier: MIT
"""Maps that come with states: what fits, when it is their turn, and that they go to those who want them alone."""
import numpy as np
import pytest

import attnd
from attnd.head_maps import HeadMaps, Turns
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


def test_turns_are_of_one_step_and_of_each_layer_once():
    now = [100.0]
    turns = Turns(lambda: now[0])
    assert [turns.take(layer, 0, 5, 10) for layer in "abab"] == [True, True, False, False]
    now[0] = 109
    assert not turns.take("c", 0, 6, 10)
    assert turns.take("c", 0, 5, 10)  # late, of the same step
    now[0] = 110
    assert [turns.take(layer, 1, 5, 10) for layer in "aab"] == [True, False, True]


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
