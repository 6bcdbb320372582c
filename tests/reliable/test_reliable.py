# SPDX-License-Identifier: MIT
"""The reliable lane at wire level: what is answered is in the history, and nothing of it twice."""
from harness import Attnd, softmax_maps, wait_until
from lane import Lane


def test_what_is_answered_was_taken(attnd, rng):
    lane = Lane(attnd, "job")
    for step in range(5):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    lane.event("epoch_end")
    lane.settled()
    stats = attnd.stats()
    assert lane.acknowledged == [1, 2, 3, 4, 5, 6] or sorted(lane.acknowledged) == [1, 2, 3, 4, 5, 6]
    assert (stats["received"], stats["processed"], stats["reliable_acknowledged"]) == (6, 6, 6)
    lane.close()
