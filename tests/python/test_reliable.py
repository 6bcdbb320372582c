# SPDX-License-Identifier: MIT
"""The reliable lane of a publisher, against a daemon that does as it is told: what is kept, sent again, and counted."""
import errno
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import types

import msgpack
import numpy as np
import pytest
import zmq

import attnd
from attnd import layer_state
from attnd.sending import presence, reliable, spool, turn
from conftest import PACKAGE, identity_holds, uniform, wait_until

AT = {"stack": "decoder", "layer": 0}
EVENTS = "event/job/"
CREDIT = 1 << 20


class Daemon:
    """attnd's sockets for trainers in a directory. It takes what comes by the lane, and acknowledges it when it is told to."""

    def __init__(self, directory, port=0, credit=CREDIT):
        self.directory, self.port, self.credit = directory, port, credit
        self.context = zmq.Context()
        self.acknowledges = True
        self.taken = []  # (id, header, frames) that came by the lane, in order
        self.joins = 0
        self.lane = None
        if port is not None:
            self.lane = self.context.socket(zmq.ROUTER)
            self.lane.bind(f"ipc://{directory}/reliable")
        self.socket = self.context.socket(zmq.SUB)
        if port is not None:
            self.socket.subscribe(f"limits/accepts=attention,qk,weights,state,event;header=10;reliable={port}".encode())
        for topic in (b"tensor/", b"event/"):
            self.socket.subscribe(topic)
        self.socket.bind(f"ipc://{directory}/ingest")

    def serve(self):
        """Does what is to be done; always true."""
        self.socket.getsockopt(zmq.EVENTS)
        while self.lane is not None and self.lane.poll(0):
            peer, number, *frames = self.lane.recv_multipart()
            number = int.from_bytes(number, "little")
            if not number:
                self.joins += 1
                self.peer = peer
                self.answer(credit=self.credit)
                continue
            header = msgpack.unpackb(frames[1], raw=False)
            assert header["reliable"] is True
            self.taken.append((number, header, frames))
            self.answer(credit=max(sum(map(len, frames)), 4096), **({"ack": [number]} if self.acknowledges else {}))
        return True

    def answer(self, **keys):
        self.lane.send_multipart([self.peer, msgpack.packb(keys)])

    def wait(self, condition, what):
        wait_until(lambda: self.serve() and condition(), what)

    def attach(self, publisher):
        self.wait(lambda: publisher.stats()["subscribed"], "the subscription arrives")
        if self.lane is not None and publisher.reliable.asked is not False:
            self.wait(lambda: publisher._sender._lane.joined, "it joins")

    def wait_taken(self, count):
        self.wait(lambda: len(self.taken) >= count, f"{count} messages by the lane, {len(self.taken)} came")
        return self.taken

    def ingested(self):
        """The next header by the other lane."""
        self.wait(lambda: self.socket.poll(0), "a message by the other lane")
        return msgpack.unpackb(self.socket.recv_multipart()[1], raw=False)

    def close(self):
        self.context.destroy(linger=0)
        for name in ("ingest", "reliable"):
            if os.path.exists(f"{self.directory}/{name}"):
                os.unlink(f"{self.directory}/{name}")


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "a"
    directory.mkdir(0o700)
    return str(directory)


@pytest.fixture
def daemons(place):
    made = []

    def make(**settings):
        made.append(Daemon(place, **settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def publishers(place):
    made = []

    def make(**options):
        made.append(attnd.Publisher("job", **{"address": place, "linger": 0.2, **options}))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


def state(step=0):
    one = layer_state.LayerState(2)
    one.add({"entropy": np.full((1, 2, 3), 0.5)}, keys=3, valid=np.ones((1, 3), bool), epoch=0, step=step)
    return one


def publish_states(publisher, count, first=0):
    for step in range(first, first + count):
        assert publisher.publish_state(state(step), **AT)


def unanswered(daemon, publisher, count):
    """The numbers of `count` messages that the daemon has taken, and has not acknowledged."""
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, count)
    return [number for number, _, _ in daemon.wait_taken(count)]


def test_states_and_events_go_by_the_lane_and_tensors_do_not(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    publish_states(publisher, 2)
    publisher.publish_attention(uniform(), **AT)
    publisher.log({"loss": 1.0})
    publisher.epoch_end(0)
    taken = daemon.wait_taken(4)
    assert [header["type"] for _, header, _ in taken] == ["state", "state", "event", "event"]
    assert [header["seq"] for _, header, _ in taken] == [0, 1, 0, 1]
    header = daemon.ingested()
    assert header["type"] == "attention" and header["seq"] == 0 and "reliable" not in header
    numbers = [number for number, _, _ in taken]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    daemon.wait(lambda: publisher.stats()["queued"] == 0, "all are acknowledged")
    stats = publisher.stats()
    assert stats["sent"] == 5 and stats["unacknowledged"] == 0 and identity_holds(stats)


@pytest.mark.parametrize("key, tell, value", [
    ("own_window", "tell_window", {"unit": "step", "length": 200}), ("own_every", "tell_every", 3)])
def test_a_hello_by_which_a_run_is_cut_is_before_everything_on_both_lanes(daemons, publishers, key, tell, value):
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    getattr(publisher, tell)(value)
    publisher.hello([])
    publisher.publish_attention(uniform(), **AT)
    publish_states(publisher, 1)
    assert [(header["type"], header.get(key)) for _, header, _ in daemon.wait_taken(2)] == [("event", value), ("state", None)]
    first, second = daemon.ingested(), daemon.ingested()
    assert (first["event"], first[key], second["type"]) == ("hello", value, "attention")
    daemon.wait(lambda: publisher.stats()["queued"] == 0, "all are acknowledged")
    stats = publisher.stats()
    assert stats["sent"] == 3 and identity_holds(stats)


def test_tensors_name_what_they_overtake(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    daemon.acknowledges = False
    said = []
    for publish in (lambda: publish_states(publisher, 1), lambda: daemon.answer(ack=[daemon.taken[0][0]])):
        publisher.publish_attention(uniform(), **AT)
        said.append(daemon.ingested().get("after"))
        publish()
        daemon.wait(lambda: publisher.stats()["unacknowledged"] == len(said) % 2, "it is kept, and acknowledged")
    publisher.publish_attention(uniform(), **AT)
    assert [*said, daemon.ingested().get("after")] == [None, [1, 0, 0, 1], None]


def test_an_epoch_ends_after_the_tensors_before_it(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    for layer in (3, 3, 7):
        publisher.publish_attention(uniform(), stack="decoder", layer=layer)
    publisher.publish_attention(uniform(), stack="encoder", layer=1, site="cross")
    publisher.log({"loss": 1.0})  # may overtake
    publisher.epoch_end(0)
    publisher.epoch_end(1)
    log, first, second = (header for _, header, _ in daemon.wait_taken(3))
    assert "after" not in log and "after" not in second
    assert first["after"] == [1, 3, 0, 2, 1, 7, 0, 1, 0, 1, 1, 1]


def test_a_monitor_that_cannot_be_made_does_not_end_publishing(daemons, publishers, monkeypatch):
    """The name of the one before may still be in use."""
    monkeypatch.setattr(reliable, "_connections", itertools.count(), raising=False)
    publisher = publishers()
    taken = [publisher._sender.link.context.socket(zmq.PAIR) for _ in range(2)]
    for socket, name in zip(taken, ("inproc://attnd-lane", "inproc://attnd-lane-0")):
        socket.bind(name)
    try:
        daemon = daemons()
        daemon.attach(publisher)
        publish_states(publisher, 2)
        assert len(daemon.wait_taken(2)) == 2
    finally:
        for socket in taken:
            socket.close(linger=0)


def test_what_has_gathered_is_sent_in_turns(daemons, publishers, monkeypatch):
    """The training would wait for the lock of the interpreter as long as all of it takes. Here a turn is over at once."""
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    publish_states(publisher, 20)
    wait_until(lambda: publisher.stats()["unacknowledged"] == 20, "all are kept")
    monkeypatch.setattr(turn, "WORK_S", 0.0)
    lane, sent = publisher._sender._lane, []
    send = lane._send

    def counted():
        before = len(lane._own)
        send()
        sent.append(before - len(lane._own))

    monkeypatch.setattr(lane, "_send", counted)
    daemon = daemons()
    assert [header["step"] for _, header, _ in daemon.wait_taken(20)] == list(range(20))
    assert max(sent) == 1
    daemon.wait(lambda: publisher.stats()["queued"] == 0, "all are acknowledged")
    assert publisher.stats()["sent"] == 20 and identity_holds(publisher.stats())


@pytest.mark.parametrize("asked", [True, False])
def test_the_job_says_what_goes_by_the_lane(daemons, publishers, asked):
    daemon, publisher = daemons(), publishers(reliable=asked)
    daemon.attach(publisher)
    publisher.publish_attention(uniform(), **AT)
    publisher.epoch_end(0)
    if asked:
        assert [header["type"] for _, header, _ in daemon.wait_taken(2)] == ["attention", "event"]
    else:
        assert [daemon.ingested()["type"] for _ in range(2)] == ["attention", "event"]
        assert daemon.joins == 0


@pytest.mark.parametrize("asks", [True, False])
def test_an_attnd_without_the_lane_gets_everything_as_ever(daemons, publishers, caplog, asks):
    daemon, publisher = daemons(port=None), publishers(**({"reliable": True} if asks else {}))
    daemon.attach(publisher)
    publisher.epoch_end(0)
    assert "reliable" not in daemon.ingested()
    assert sum("has no reliable lane" in record.getMessage() for record in caplog.records) == asks
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    assert not publisher.wanted("decoder", 0, "self") and not publisher.listened_to


def test_a_lane_that_does_not_answer_is_done_without(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    wait_until(lambda: daemon.socket.getsockopt(zmq.EVENTS) is not None and publisher.stats()["subscribed"], "subscribed")
    publisher.epoch_end(0)
    wait_until(lambda: daemon.socket.poll(0), "the event comes by the other lane")
    assert "reliable" not in msgpack.unpackb(daemon.socket.recv_multipart()[1])
    daemon.serve()  # at last
    daemon.wait(lambda: publisher._sender._lane.joined, "it has answered")
    publisher.epoch_end(1)
    assert daemon.wait_taken(1)[0][1]["seq"] == 0


def test_no_more_is_sent_than_there_is_credit_for(daemons, publishers):
    daemon, publisher = daemons(credit=12000), publishers()
    daemon.attach(publisher)
    daemon.wait(lambda: daemon.joins, "it joins")
    taken, publisher_stats = [], publisher.stats
    publish_states(publisher, 20)
    wait_until(lambda: publisher_stats()["unacknowledged"] == 20, "all are kept")
    while len(taken) < 20:  # each batch without giving anything back
        batch, nbytes = [], 0
        wait_until(lambda: daemon.lane.poll(0), "a message")
        while daemon.lane.poll(100):
            _, number, *frames = daemon.lane.recv_multipart()
            batch.append(int.from_bytes(number, "little"))
            nbytes += max(sum(map(len, frames)), 4096)
        assert nbytes <= 12000 and batch
        taken += batch
        daemon.answer(credit=nbytes)
    assert taken == sorted(taken)
    daemon.answer(ack=taken)
    daemon.wait(lambda: publisher.stats()["sent"] == 20, "all are acknowledged")


def test_one_message_may_be_larger_than_all_credit(daemons, publishers):
    daemon, publisher = daemons(credit=1000), publishers(reliable=True)
    daemon.attach(publisher)
    for step in range(3):
        publisher.publish_attention(uniform(queries=50, keys=50), step=step, **AT)
    assert len(daemon.wait_taken(3)) == 3


def test_what_is_not_acknowledged_is_sent_again_by_the_same_ids(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, 5)
    first = list(daemon.wait_taken(5))
    assert publisher.stats()["unacknowledged"] == 5
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    assert publisher.listened_to and publisher.wanted("decoder", 0, "self")
    publish_states(publisher, 3, first=5)  # while nobody is there
    assert not publisher.publish_attention(uniform(), **AT)  # these do not go by the lane
    assert publisher.stats()["skipped"] == 1
    again = daemons()
    taken = again.wait_taken(8)
    assert [number for number, _, _ in taken[:5]] == [number for number, _, _ in first]
    assert [frames for _, _, frames in taken[:5]] == [frames for _, _, frames in first]
    assert [header["seq"] for _, header, _ in taken] == list(range(8))
    again.wait(lambda: publisher.stats()["sent"] == 8, "all are acknowledged")
    assert identity_holds(publisher.stats())


@pytest.mark.parametrize("bound", [1 << 20, 8192])
def test_a_return_tells_what_was_kept_and_what_was_not(daemons, publishers, caplog, monkeypatch, bound):
    monkeypatch.setattr(presence, "GONE_AFTER_S", 0)
    daemon, publisher = daemons(), publishers(reliable_bytes=bound)
    publisher.tell_absences(lambda: "Start it")
    daemon.attach(publisher)
    publish_states(publisher, 1)
    daemon.wait(lambda: publisher.stats()["queued"] == 0, "it is acknowledged")
    daemon.close()
    wait_until(lambda: caplog.messages, "its end is told")
    publish_states(publisher, 20, first=1)
    for _ in range(3):
        assert not publisher.publish_attention(uniform(), **AT)
    wait_until(lambda: publisher.stats()["unacknowledged"] + publisher.stats()["dropped"] == 20, "all are kept, or dropped")
    kept, dropped = (publisher.stats()[name] for name in ("unacknowledged", "dropped"))
    daemon = daemons()
    daemon.wait(lambda: "attnd is back" in caplog.text, "its return is told")
    lost = f"; dropped: {dropped}" if dropped else ""
    assert bool(dropped) is (bound == 8192)
    assert caplog.messages[-1].endswith(f" s; messages kept for it, and sent now: {kept}; not captured: 3{lost}")


def test_the_end_of_a_job_waits_idle_for_an_attnd_that_has_gone(daemons, publishers, monkeypatch):
    monkeypatch.setattr(presence, "GONE_AFTER_S", 3600)
    daemon, publisher = daemons(), publishers(linger=1)
    publisher.tell_absences(lambda: "Start it")
    unanswered(daemon, publisher, 1)
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    link, turns = publisher._sender.link, []
    tend = link.tend

    def count():
        tend()
        if publisher._sender._deadline is not None:
            presence.GONE_AFTER_S = 0
            turns.append(0)

    monkeypatch.setattr(link, "tend", count)
    publisher.close()
    assert 0 < len(turns) < 1000


def test_the_bound_drops_the_newest_and_tells_it_in_the_next(daemons, publishers, caplog, monkeypatch):
    monkeypatch.setattr(reliable, "WAIT_S", 0)  # else they wait so long for the first answer
    daemon, publisher = daemons(), publishers(reliable_bytes=8000)
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, 20)
    daemon.wait(lambda: publisher.stats()["dropped"] > 0 and publisher.stats()["queued"] == publisher.stats()["unacknowledged"], "")
    stats = publisher.stats()
    kept = stats["unacknowledged"]
    assert 0 < kept < 20 and stats["dropped"] == 20 - kept and identity_holds(stats)
    assert stats["dropped_by_topic"] == {"tensor/job/decoder/0/self/": 20 - kept}
    said = [record.getMessage() for record in caplog.records if "reliable_bytes" in record.getMessage()]
    assert len(said) == 1 and "Remedy: a larger reliable_bytes" in said[0]
    daemon.wait_taken(kept)
    states = [number for number, header, _ in daemon.taken if header["type"] == "state"]
    daemon.answer(ack=states)
    daemon.wait(lambda: publisher.stats()["sent"] == kept, "they are acknowledged")
    publish_states(publisher, 1, first=20)
    daemon.wait(lambda: any(header["step"] == 20 and header["type"] == "state" for _, header, _ in daemon.taken), "the next")
    header = next(header for _, header, _ in daemon.taken if header["step"] == 20 and header["type"] == "state")
    assert header["seq"] == kept and header["dropped"] == 20 - kept


def test_what_finds_no_room_waits_while_answers_come(daemons, publishers, monkeypatch):
    monkeypatch.setattr(reliable, "WAIT_S", 60)
    daemon, publisher = daemons(), publishers(reliable_bytes=8000)
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, 20)
    first = [number for number, _, _ in daemon.wait_taken(2)]
    assert publisher.stats()["dropped"] == 0
    daemon.acknowledges = True
    daemon.answer(ack=first)
    daemon.wait_taken(20)
    assert publisher.stats()["dropped"] == 0 and not publisher.stalled
    assert [header["seq"] for _, header, _ in daemon.taken] == list(range(20))


def test_what_finds_no_room_waits_for_an_attnd_that_is_back(daemons, publishers, monkeypatch):
    """However long it was away."""
    monkeypatch.setattr(reliable, "WAIT_S", 600)
    daemon, publisher = daemons(), publishers(reliable_bytes=8000)
    lane = publisher._sender._lane
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, 20)
    daemon.wait_taken(2)
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"] and publisher.stats()["queued"] == lane.unacknowledged, "the end")
    dropped, kept = publisher.stats()["dropped"], lane.unacknowledged
    assert dropped > 0
    lane._answered_at = -1e9
    again = daemons()
    again.acknowledges = False
    again.wait(lambda: publisher.stats()["subscribed"] and lane._first_credit is not None, "it is back")
    publish_states(publisher, 1, first=20)
    again.wait(lambda: lane.is_awaited, "it waits for room")
    again.wait_taken(kept)
    again.acknowledges = True
    again.answer(ack=[number for number, _, _ in again.taken])
    again.wait(lambda: any(header["step"] == 20 and header["type"] == "state" for _, header, _ in again.taken), "it comes")
    assert publisher.stats()["dropped"] == dropped


def test_what_is_refused_is_counted_and_not_sent_again(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers()
    numbers = unanswered(daemon, publisher, 3)
    daemon.answer(refused=[[numbers[0], "heads_limit"], [numbers[1], "key"], [999, "key"]], ack=[numbers[2]], later={"a": 1})
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are settled")
    stats = publisher.stats()
    assert stats["refused_by_reason"] == {"heads_limit": 1, "key": 1} and identity_holds(stats)
    assert sum("refuses a message" in record.getMessage() for record in caplog.records) == 1


def test_control_characters_of_an_answer_are_not_logged(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers()
    numbers = unanswered(daemon, publisher, 1)
    daemon.answer(waits="\x1b]0;full\a\x9b2J\nforged line é")
    daemon.answer(refused=[[numbers[0], "\x1b[2J"]])
    daemon.wait(lambda: publisher.stats()["sent"] == 1, "it is settled")
    said = "".join(record.getMessage() for record in caplog.records)
    assert "(?]0;full??2J?forged line é)" in said and "(reason: ?[2J)" in said and said.isprintable()
    assert publisher.stats()["refused_by_reason"] == {"?[2J": 1}


def test_a_late_message_is_told_by_its_reason(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers()
    daemon.answer(refused=[[number, "late"] for number in unanswered(daemon, publisher, 2)])
    daemon.wait(lambda: publisher.stats()["sent"] == 2, "they are settled")
    assert publisher.stats()["refused_by_reason"] == {"late": 2} and identity_holds(publisher.stats())
    (said,) = [record.getMessage() for record in caplog.records if "refuses a message" in record.getMessage()]
    assert said.endswith("attnd refuses a message (reason: late: its window was closed already), which is not sent again. Further ones "
                         "are only counted, as refused_by_reason")


def test_what_another_process_sent_in_its_place_counts_as_refused(daemons, publishers, caplog):
    """One that went by a connection that has ended may be what attnd had already: in doubt it counts, too."""
    daemon, publisher = daemons(), publishers()
    numbers = unanswered(daemon, publisher, 2)
    daemon.answer(repeated=numbers, ack=[])
    daemon.answer(repeated=[numbers[0]], ack=[numbers[0]])
    daemon.wait(lambda: publisher.stats()["sent"] == 1, "the first is settled")
    assert publisher.stats()["refused_by_reason"] == {"repeated": 2} and identity_holds(publisher.stats())
    publish_states(publisher, 1, first=2)
    third = daemon.wait_taken(3)[2][0]
    daemon.answer(again=True)
    daemon.wait_taken(5)
    daemon.answer(repeated=[numbers[1], third], ack=[numbers[1], third])
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "all are settled")
    assert publisher.stats()["refused_by_reason"] == {"repeated": 3} and identity_holds(publisher.stats())  # numbers[1] once
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["job job: attnd has a message of another process with the same run and rank in the place of one of ours, which it "
                    "does not take. Further ones are only counted, as refused_by_reason. Remedy: a new run for each launch: another run= "
                    "or ATTND_RUN, or neither"]


def test_what_was_in_doubt_counts_once_another_process_has_shown(daemons, publishers, caplog):
    """Before, it counts as what attnd has of this one."""
    daemon, publisher = daemons(), publishers()
    numbers = unanswered(daemon, publisher, 3)
    daemon.answer(again=True)
    daemon.wait_taken(6)
    daemon.answer(repeated=numbers[:2], ack=numbers[:1])
    daemon.answer(repeated=numbers[1:2], ack=numbers[1:])
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are settled")
    assert publisher.stats()["refused_by_reason"] == {} and "another process" not in caplog.text
    publish_states(publisher, 1, first=3)
    last = daemon.wait_taken(7)[6][0]
    daemon.answer(repeated=[last], ack=[last])
    daemon.wait(lambda: publisher.stats()["sent"] == 4, "the last is settled")
    assert publisher.stats()["refused_by_reason"] == {"repeated": 3} and identity_holds(publisher.stats())
    assert "another process" in caplog.text


def test_messages_that_attnd_has_lost_are_sent_again_by_a_new_connection(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    first, second, third = unanswered(daemon, publisher, 3)
    daemon.acknowledges = True
    daemon.answer(again=True, ack=[second])
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are acknowledged, over the next connection")
    assert [number for number, _, _ in daemon.taken] == [first, second, third, first, third]
    assert daemon.joins == 2 and identity_holds(publisher.stats())


@pytest.mark.parametrize("answer", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"credit": -5}), msgpack.packb({"ack": 7}),
                                    msgpack.packb({"ack": ["x"], "credit": 10}), msgpack.packb({"refused": [[1]]}),
                                    b"\xdd\xff\xff\xff\xff"])
def test_an_answer_that_is_none_changes_nothing(daemons, publishers, answer):
    daemon, publisher = daemons(), publishers()
    unanswered(daemon, publisher, 2)
    daemon.lane.send_multipart([daemon.peer, answer])
    daemon.lane.send_multipart([daemon.peer, answer, answer])
    daemon.answer(ack=[number for number, _, _ in daemon.taken])
    daemon.wait(lambda: publisher.stats()["sent"] == 2, "they are acknowledged")


def test_an_answer_that_there_is_no_memory_for_is_asked_for_again(daemons, publishers, monkeypatch):
    daemon, publisher = daemons(), publishers()
    unanswered(daemon, publisher, 2)

    def fails(*_, **__):
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(reliable, "msgpack", types.SimpleNamespace(unpackb=fails))
    daemon.acknowledges = True
    daemon.answer(ack=[number for number, _, _ in daemon.taken])
    daemon.wait(lambda: publisher.stats()["sent"] == 2 and daemon.joins == 2, "they are acknowledged, and it has joined again")
    assert identity_holds(publisher.stats())


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_what_there_is_no_memory_to_read_is_sent_later(daemons, publishers, tmp_path, monkeypatch, error):
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.attach(publisher)
    failed = []

    def fails(*_):
        monkeypatch.undo()
        failed.append(error)
        raise error

    monkeypatch.setattr(os, "pread", fails)
    publish_states(publisher, 3)
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are acknowledged")
    assert failed and publisher.stats()["dropped"] == 0


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_what_others_left_and_there_is_no_memory_to_read_is_sent_later(daemons, publishers, tmp_path, caplog, monkeypatch, error):
    store = spool.Spool(str(tmp_path / "spool"))
    left = {"reliable": True, "type": "event"}
    store.append([b"event/job/", msgpack.packb(left)])
    store.close()

    def fails(*_):
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(os, "pread", fails)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.attach(publisher)
    wait_until(lambda: any("cannot be read (Cannot allocate memory)" in record.getMessage() for record in caplog.records), "it is told")
    publish_states(publisher, 1)
    daemon.wait(lambda: any(header == left for _, header, _ in daemon.taken), "it is sent")


def test_any_bytes_are_an_answer_or_none():
    """Changed at random."""
    rng, read = random.Random(1), 0
    good = msgpack.packb({"credit": 65536, "ack": [1, 2, 300], "repeated": [2], "refused": [[4, "topic"], [5, "key"]], "again": True,
                          "waits": "full"})
    for _ in range(20000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = reliable._read_answer([bytes(data[:rng.randint(1, len(data))] if rng.random() < 0.3 else data)])
        if answer is not None:
            credit, acknowledged, repeated, refused, again, why = answer
            assert credit >= 0 and type(again) is bool and isinstance(why, str)
            assert all(type(number) is int for number in (*acknowledged, *repeated))
            assert all(type(number) is int and isinstance(reason, str) for number, reason in refused)
            read += 1
    assert read > 1000


def test_closing_waits_for_acknowledgements_and_tells_without(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers(linger=0.3)
    unanswered(daemon, publisher, 4)
    publisher.close()
    stats = publisher.stats()
    assert stats["dropped"] == 5 and stats["queued"] == 0 and identity_holds(stats)  # and the bye
    assert any(record.getMessage().endswith("attnd did not acknowledge 5 messages within 0.3 s of the end (linger): they count as "
                                            "dropped, though it has been sent 5 of them and may have them") for record in caplog.records)


def test_closing_without_attnd_keeps_them_in_the_spool(daemons, publishers, tmp_path, caplog):
    spool = tmp_path / "spool"
    daemon, publisher = daemons(), publishers(linger=60, spool=spool)
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_states(publisher, 4)
    first = list(daemon.wait_taken(4))
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    publisher.close()  # at once: there is nobody to wait for
    stats = publisher.stats()
    assert stats["queued"] == stats["unacknowledged"] == 5 and stats["dropped"] == 0 and identity_holds(stats)
    assert any("5 messages" in record.getMessage() and str(spool) in record.getMessage() for record in caplog.records)
    again, other = daemons(), publishers(spool=spool)
    again.attach(other)
    taken = again.wait_taken(5)
    assert [frames for _, _, frames in taken[:4]] == [frames for _, _, frames in first]
    assert taken[4][1]["event"] == "bye" and taken[4][1]["run"] == bytes.fromhex(publisher.run)
    again.wait(lambda: other.stats()["spooled"] == 0, "they are acknowledged")
    assert other.stats()["published"] == 0
    wait_until(lambda: len({path.name[:16] for path in spool.iterdir()}) == 1, "only its own files are there")


def test_a_mere_event_for_nobody_is_not_waited_for(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers(linger=60)
    daemon.attach(publisher)
    publisher.hello([])
    daemon.wait_taken(1)
    daemon.wait(lambda: publisher.stats()["unacknowledged"] == 0, "it is acknowledged")
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")
    publisher.close()
    assert publisher.stats()["skipped"] == 1 and not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_killed_process_leaves_what_the_next_one_sends(daemons, publishers, place, tmp_path):
    daemon, spool = daemons(), tmp_path / "spool"
    daemon.acknowledges = False
    source = f"""
import sys
import numpy as np, attnd
from attnd import layer_state
publisher = attnd.Publisher("other", address={place!r}, spool={str(spool)!r})
publisher.wait_for_subscriber(60)
for step in range(50):
    one = layer_state.LayerState(2)
    one.add({{"entropy": np.full((1, 2, 3), 0.5)}}, keys=3, valid=np.ones((1, 3), bool), epoch=0, step=step)
    publisher.publish_state(one, stack="decoder", layer=0)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE,
                               env={"PYTHONPATH": str(PACKAGE), "PATH": os.environ["PATH"]})
    first = {header["seq"]: frames for _, header, frames in daemon.wait_taken(50)}
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    daemon.taken.clear()
    daemon.acknowledges = True
    publisher = publishers(spool=spool)
    daemon.wait_taken(50)
    assert {header["seq"]: frames for _, header, frames in daemon.taken} == first
    daemon.wait(lambda: publisher.stats()["spooled"] == 0, "they are acknowledged")
    assert identity_holds(publisher.stats())


def test_damage_in_what_was_left_is_told(daemons, publishers, place, tmp_path, caplog):
    from attnd.sending.spool import Spool
    spool = tmp_path / "spool"
    store = Spool(str(spool))
    header = msgpack.packb({"reliable": True, "type": "event"})
    places = [store.append([b"event/job/", header]) for _ in range(5)]
    store.close()
    with open(places[0].segment.path, "r+b") as file:
        file.seek(places[3].found.at)
        file.write(b"X")
    daemon, publisher = daemons(), publishers(spool=spool)
    daemon.attach(publisher)
    daemon.wait_taken(3)
    assert any("is not whole" in record.getMessage() and "the 3 messages" in record.getMessage() for record in caplog.records)


def test_what_others_left_and_cannot_be_read_now_stays(daemons, publishers, tmp_path, caplog, monkeypatch):
    store = spool.Spool(str(tmp_path / "spool"))
    store.append([b"event/job/", msgpack.packb({"reliable": True, "type": "event"})])
    store.close()

    def fails(segment, found):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.Segment, "read", fails)
        daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
        daemon.attach(publisher)
        wait_until(lambda: any("cannot be read" in record.getMessage() for record in caplog.records), "it is told")
        publisher.close()
    again = spool.Spool(str(tmp_path / "spool"))
    again.look()
    assert len(again.next_orphan().messages) == 1
    again.close()


def left_by(spool_directory, job, count):
    """Messages of a process of this job that has ended."""
    store = spool.Spool(str(spool_directory))
    header = msgpack.packb({"reliable": True, "type": "event"})
    for _ in range(count):
        store.append([f"event/{job}/".encode(), header])
    store.close()


@pytest.mark.parametrize("reason", ["key", "job_limit"])
def test_what_others_left_and_is_not_taken_of_us_stays_for_whoever_may_send_it(daemons, publishers, tmp_path, caplog, reason):
    left_by(tmp_path / "spool", "mine", 5)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.acknowledges = False
    daemon.attach(publisher)
    first = daemon.wait_taken(5)[0][0]
    daemon.answer(ack=[first + 1], refused=[[first, reason], [first + 2, reason]])
    daemon.wait(lambda: publisher.stats()["spooled"] == 0, "it lets go of them")
    said = [record.getMessage() for record in caplog.records if "refuses messages of job mine" in record.getMessage()]
    assert len(said) == 1 and str(tmp_path / "spool") in said[0] and "stay there" in said[0]
    daemon.taken.clear()
    publish_states(publisher, 2)
    daemon.wait_taken(2)
    publisher.hello([])
    daemon.wait_taken(3)
    assert all(header["job"] == "job" for _, header, _ in daemon.taken), "they are not sent again"
    assert publisher.stats()["refused_by_reason"] == {}
    others = spool.Spool(str(tmp_path / "spool"))  # while the first one is there
    others.look()
    assert len(others.next_orphan().messages) == 5
    others.close()


def test_what_another_process_left_is_told_when_it_is_sent(daemons, publishers, tmp_path, caplog):
    left_by(tmp_path / "spool", "mine", 2)
    left_by(tmp_path / "spool", "mine", 1)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.attach(publisher)
    daemon.wait_taken(3)
    said = [record.getMessage() for record in caplog.records if "messages of job mine" in record.getMessage()]
    assert said == [f"job job: messages of job mine, which another process left in {tmp_path}/spool, are sent now"]


@pytest.mark.parametrize("reason", ["job_limit", "run_limit"])
def test_what_there_is_no_room_for_is_sent_again(daemons, publishers, caplog, reason):
    daemon, publisher = daemons(), publishers()
    first, second, third = unanswered(daemon, publisher, 3)
    daemon.acknowledges = True
    daemon.answer(refused=[[number, reason] for number in (first, second, third)])
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are acknowledged, over the next connection")
    assert [number for number, _, _ in daemon.taken] == 2 * [first, second, third]
    assert publisher.stats()["refused_by_reason"] == {} and identity_holds(publisher.stats())
    setting = "limits.jobs" if reason == "job_limit" else "limits.runs"
    assert sum(setting in record.getMessage() for record in caplog.records) == 1


def test_a_late_refusal_puts_off_that_the_key_is_let_in_again(daemons, publishers, caplog, monkeypatch):
    """It was judged before attnd read its list again; its answer comes after attnd has dropped the prefix."""
    monkeypatch.setattr(presence, "HOPE_S", 0.1)
    daemon, publisher = daemons(), publishers()
    first, second = unanswered(daemon, publisher, 2)
    publisher._sender.link.keys = types.SimpleNamespace(public=40 * b"k")

    def said():
        return [record.getMessage() for record in caplog.records if "the messages of job job" in record.getMessage()]

    daemon.socket.subscribe(b"refused/" + 40 * b"k" + b"/job")
    daemon.wait(lambda: len(said()) == 1, "that the key is refused")
    daemon.socket.unsubscribe(b"refused/" + 40 * b"k" + b"/job")
    daemon.wait(lambda: publisher._sender.presence.hope is not None, "that the prefix has gone")
    daemon.answer(refused=[[first, "key"]])
    daemon.wait(lambda: publisher.stats()["refused_by_reason"] == {"key": 1}, "the late answer")
    assert len(said()) == 1, "nothing was taken yet"
    daemon.answer(ack=[second])
    daemon.wait(lambda: len(said()) == 2, "that it is let in again")
    assert "takes the messages of job job again" in said()[1]


def test_a_message_that_never_fits_is_told_so(daemons, publishers, caplog):
    daemon, publisher = daemons(), publishers(reliable=True, reliable_bytes=1 << 16)
    daemon.attach(publisher)
    publisher.publish_attention(np.full((1, 1, 256, 256), 1 / 256, np.float32), **AT)
    daemon.wait(lambda: publisher.stats()["dropped"] == 1, "it is dropped")
    publish_states(publisher, 1)
    daemon.wait_taken(1)
    said = [record.getMessage() for record in caplog.records if "reliable_bytes" in record.getMessage()]
    assert len(said) == 1 and "more than may ever wait" in said[0] and "has not acknowledged" not in said[0]


def test_a_spool_that_others_can_write_to_is_not_used(daemons, publishers, tmp_path, caplog):
    left_by(tmp_path / "spool", "planted", 1)
    (tmp_path / "spool").chmod(0o777)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.attach(publisher)
    publish_states(publisher, 1)
    daemon.wait_taken(1)
    daemon.wait(lambda: publisher.stats()["sent"] == 1, "it is acknowledged")
    assert [header["job"] for _, header, _ in daemon.taken] == ["job"]
    said = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert len(said) == 1 and "others can write to it: chmod 700 it" in said[0] and "kept in memory" in said[0]


@pytest.mark.parametrize("acknowledges", [True, False])
def test_what_others_left_and_stays_is_told_at_the_end(daemons, publishers, tmp_path, caplog, acknowledges):
    from attnd.sending.spool import Spool
    store = Spool(str(tmp_path / "spool"))
    store.append([b"event/job/", msgpack.packb({"reliable": True, "type": "event"})])
    store.close()
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool", linger=0.1)
    daemon.acknowledges = acknowledges
    daemon.attach(publisher)
    daemon.wait_taken(1)
    daemon.wait(lambda: publisher.stats()["spooled"] == (0 if acknowledges else 1), "it is, or is not, acknowledged")
    publisher.close()
    said = [record.getMessage() for record in caplog.records if "other processes left" in record.getMessage()]
    assert len(said) == (not acknowledges)


def test_a_spool_that_cannot_be_used_is_told_in_one_line_and_memory_serves(daemons, publishers, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    daemon, publisher = daemons(), publishers(spool=tmp_path / "file" / "spool")
    daemon.attach(publisher)
    publish_states(publisher, 3)
    daemon.wait_taken(3)
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "they are acknowledged")
    said = [record.getMessage() for record in caplog.records if "spool" in record.getMessage()]
    assert len(said) == 1 and "cannot be used" in said[0] and "kept in memory" in said[0]


def test_a_fork_is_inert_and_holds_nothing(daemons, publishers, tmp_path):
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    unanswered(daemon, publisher, 3)
    child = os.fork()
    if not child:
        locks = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        fine = publisher.stats()["unacknowledged"] == 0 and not any(".lock" in name or ".rec" in name for name in locks)
        publisher.publish_state(state(), **AT)
        publisher.close()
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    daemon.answer(ack=[number for number, _, _ in daemon.taken])
    daemon.wait(lambda: publisher.stats()["sent"] == 3, "the parent goes on")


def test_bad_arguments_are_refused_at_once(place):
    for options, match in (({"reliable": "no"}, "reliable"), ({"reliable_bytes": 0}, "reliable_bytes"), ({"spool": 7}, "spool")):
        with pytest.raises(ValueError, match=match):
            attnd.Publisher("job", address=place, **options)


def test_where_the_lane_is():
    assert reliable.endpoint_of("ipc:///run/attnd/ingest", 0) == "ipc:///run/attnd/reliable"
    assert reliable.endpoint_of("tcp://[::1]:5570", 5574) == "tcp://[::1]:5574"
    assert reliable.endpoint_of("tcp://host:5570", 0) is None
    assert reliable.endpoint_of("tcp://host:5570", -1) is None
    assert reliable.endpoint_of(None, 5574) is None
    assert reliable.endpoint_of("tcp://host:5575", 5574, 5579) == "tcp://host:5579"
    assert reliable.endpoint_of("tcp://host:5570", 5574, 5579) == "tcp://host:5574"
