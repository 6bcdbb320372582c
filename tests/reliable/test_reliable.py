# SPDX-License-Identifier: MIT
"""The reliable lane at wire level: messages that are answered are in the history, and none of them is there twice."""
import os
import signal
import sqlite3
import struct

import msgpack
import pytest
import zmq

from harness import Attnd, Trainer, softmax_maps, wait_log, wait_until
from lane import Lane

SMALL = ("window.unit=step", "window.length=1", "window.every=1", "history.checkpoint=200ms", "history.commit=20ms")


def windows_of(attnd):
    """How many messages the history has of each layer and window: [(layer, last, messages)]."""
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as history:
        return history.execute("SELECT layer, last, messages FROM windows JOIN layers USING(layer_id) "
                               "ORDER BY layer, last").fetchall()


def points_of(attnd):
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as history:
        return history.execute("SELECT step, value FROM log_points ORDER BY step").fetchall()


@pytest.fixture
def small():
    """A daemon with a window per step, which answers soon."""
    daemon = Attnd(*SMALL)
    yield daemon
    daemon.close()


def test_messages_that_are_answered_were_taken(small, rng):
    lane = Lane(small, "job")
    for step in range(5):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    lane.event("bye")
    lane.settled()
    stats = small.stats()
    assert sorted(lane.acknowledged) == [1, 2, 3, 4, 5, 6]
    assert (stats["received"], stats["processed"], stats["reliable_received"], stats["reliable_acknowledged"]) == (6,) * 4
    assert windows_of(small) == [(0, step, 1) for step in range(5)]
    lane.close()


def test_the_limits_say_that_there_is_a_lane(small):
    lane = Lane(small, "job")
    assert any(prefix.startswith(b"limits/") and b";reliable=0" in prefix for prefix in lane.prefixes)
    lane.close()


def test_a_message_that_comes_twice_counts_once(small, rng):
    lane = Lane(small, "job")
    for step in range(4):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    kept = dict(lane.unanswered)
    lane.settled()
    lane.unanswered = dict(kept)  # as if no answer had come
    lane.acknowledged.clear()
    lane.join()
    lane.settled()
    stats = small.stats()
    assert sorted(lane.acknowledged) == sorted(kept)
    assert stats["reliable_duplicates"] == len(kept) and stats["dropped"] == {"seq_duplicate": len(kept)}
    assert stats["received"] == stats["processed"] + len(kept) and stats["lost"] == 0
    assert small.call("alerts")["alerts"] == []
    lane.close()


@pytest.mark.parametrize("point", ["store_begin", "store_before_commit", "store_after_commit", "checkpoint_packed",
                                   "checkpoint_submitted", "window_published", "window_submitted"])
def test_each_message_is_there_once_after_a_kill(point, rng, monkeypatch):
    """The first attnd kills itself at a point of its own; the second gets everything that was not answered."""
    monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:3")
    attnd = Attnd(*SMALL, "window.also=[4 steps]")
    lane = Lane(attnd, "job")
    step = 0
    while attnd.process.poll() is None and step < 2000:
        try:
            lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step, layer=step % 2)
            lane.event("log", step=step, values={"loss": step / 8})
        except AssertionError:
            break  # no credit: nobody is there
        step += 1
        lane.hear(0.01)
    attnd.process.wait(30)
    assert attnd.process.returncode == -signal.SIGKILL
    monkeypatch.delenv("ATTND_CRASH_AT")
    attnd.start()
    lane.join()
    for more in range(step + 1, step + 3):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=more, layer=more % 2)
    lane.event("bye", step=step + 3)
    lane.settled()
    attnd.settled(1)
    counts = {}
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as history:
        for length, messages in history.execute("SELECT length, sum(messages) FROM windows JOIN tracks USING(track_id) "
                                                "GROUP BY length").fetchall():
            counts[length] = messages
    sent = len({number for number in range(1, lane.next_id)})
    tensors = sum(1 for topic in lane.sent if topic.startswith(b"tensor/"))
    assert sent == tensors + sum(1 for topic in lane.sent if topic.startswith(b"event/"))
    assert counts == {1: tensors, 4: tensors}
    assert len(points_of(attnd)) == sum(1 for topic in lane.sent if topic.startswith(b"event/")) - 1
    assert lane.refused == {}
    lane.close()
    attnd.close()
