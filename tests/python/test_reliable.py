# SPDX-License-Identifier: MIT
"""The reliable lane of a publisher, against a daemon that does as it is told: what is kept, sent again, and counted."""
import itertools
import os
import random
import types

import msgpack
import numpy as np
import pytest
import zmq

import attnd
from attnd.sending import presence, reliable, turn
from conftest import identity_holds, uniform, uniform_rows, wait_until, warnings

AT = {"stack": "decoder", "layer": 0}
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
            self.socket.subscribe(f"limits/accepts=attention,qk,weights,rows,event;header=10;reliable={port}".encode())
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

    def wait_rows(self, step):
        """The header of the rows of this step."""
        found = []

        def look():
            found.extend(header for header in self.headers if (header["type"], header["step"]) == ("rows", step))
            return found

        self.wait(look, f"rows of step {step}")
        return found[0]

    def wait_sent(self, publisher, count):
        self.wait(lambda: publisher.stats()["sent"] == count, f"{count} messages are acknowledged")

    def wait_all_sent(self, publisher, count):
        self.wait(lambda: publisher.stats()["queued"] == 0, "all are acknowledged")
        assert publisher.stats()["sent"] == count and identity_holds(publisher.stats())

    def leave(self, publisher):
        """Ends, and waits until the publisher has seen it."""
        self.close()
        wait_until(lambda: not publisher.stats()["subscribed"], "the end is seen")

    @property
    def numbers(self):
        return [number for number, _, _ in self.taken]

    @property
    def headers(self):
        return [header for _, header, _ in self.taken]

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


@pytest.fixture
def attached(daemons, publishers):
    """attached(credit=..., OPTIONS): a daemon, and a publisher that has joined it."""
    def make(credit=CREDIT, **options):
        daemon, publisher = daemons(credit=credit), publishers(**options)
        daemon.attach(publisher)
        return daemon, publisher

    return make


@pytest.fixture
def said(caplog):
    """said(text): the messages of the log that have it."""
    return lambda text: [message for message in caplog.messages if text in message]


def publish_rows(publisher, count, first=0):
    for step in range(first, first + count):
        assert publisher.publish_rows(uniform_rows(), step=step, **AT)


def unanswered(daemon, publisher, count):
    """The numbers of `count` messages that the daemon has taken, and has not acknowledged."""
    daemon.acknowledges = False
    publish_rows(publisher, count)
    daemon.wait_taken(count)
    return daemon.numbers


def test_rows_and_events_go_by_the_lane_and_tensors_do_not(attached):
    daemon, publisher = attached()
    publish_rows(publisher, 2)
    publisher.publish_attention(uniform(), **AT)
    publisher.log({"loss": 1.0})
    publisher.epoch_end(0)
    daemon.wait_taken(4)
    assert [(header["type"], header["seq"]) for header in daemon.headers] == [
        ("rows", 0), ("rows", 1), ("event", 0), ("event", 1)]
    header = daemon.ingested()
    assert header["type"] == "attention" and header["seq"] == 0 and "reliable" not in header
    assert daemon.numbers == sorted(set(daemon.numbers)) and daemon.numbers[0] > 0
    daemon.wait_all_sent(publisher, 5)
    assert publisher.stats()["unacknowledged"] == 0


@pytest.mark.parametrize("key, value", [("own_window", {"unit": "step", "length": 200}), ("own_every", 3)])
def test_a_hello_by_which_a_run_is_cut_is_before_everything_on_both_lanes(attached, key, value):
    daemon, publisher = attached()
    publisher.tell(**{key: value})
    publisher.hello([])
    publisher.hello([])  # by the reliable lane alone: one that a broken connection loses would count as a loss
    publisher.publish_attention(uniform(), **AT)
    publish_rows(publisher, 1)
    daemon.wait_taken(3)
    assert [(header["type"], header.get(key)) for header in daemon.headers] == 2 * [("event", value)] + [("rows", None)]
    first, second = daemon.ingested(), daemon.ingested()
    assert (first["event"], first[key], second["type"]) == ("hello", value, "attention")
    daemon.wait_all_sent(publisher, 4)


def test_tensors_name_what_they_overtake(attached):
    daemon, publisher = attached()
    daemon.acknowledges = False

    def said_now():
        publisher.publish_attention(uniform(), **AT)
        return daemon.ingested().get("after")

    assert said_now() is None
    publish_rows(publisher, 1)
    daemon.wait(lambda: daemon.numbers and publisher.stats()["unacknowledged"] == 1, "it is kept")
    assert said_now() == [1, 0, 0, 1]
    daemon.answer(ack=daemon.numbers)
    daemon.wait(lambda: publisher.stats()["unacknowledged"] == 0, "it is acknowledged")
    assert said_now() is None


def test_an_epoch_ends_after_the_tensors_before_it(attached):
    daemon, publisher = attached()
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
    names = [publisher._sender.link.context.socket(zmq.PAIR) for _ in range(2)]
    for socket, name in zip(names, ("inproc://attnd-lane", "inproc://attnd-lane-0")):
        socket.bind(name)
    try:
        daemon = daemons()
        daemon.attach(publisher)
        publish_rows(publisher, 2)
        daemon.wait_taken(2)
    finally:
        for socket in names:
            socket.close(linger=0)


def test_what_has_gathered_is_sent_in_turns(attached, daemons, monkeypatch):
    """The training would wait for the lock of the interpreter as long as all of it takes. Here a turn is over at once."""
    daemon, publisher = attached()
    daemon.leave(publisher)
    publish_rows(publisher, 20)
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
    daemon.wait_all_sent(publisher, 20)


@pytest.mark.parametrize("asked", [True, False])
def test_the_job_says_what_goes_by_the_lane(attached, asked):
    daemon, publisher = attached(reliable=asked)
    publisher.publish_attention(uniform(), **AT)
    publisher.epoch_end(0)
    if asked:
        assert [header["type"] for _, header, _ in daemon.wait_taken(2)] == ["attention", "event"]
    else:
        assert [daemon.ingested()["type"] for _ in range(2)] == ["attention", "event"]
        assert daemon.joins == 0


@pytest.mark.parametrize("asks", [True, False])
def test_an_attnd_without_the_lane_gets_everything_as_ever(daemons, publishers, said, asks):
    daemon, publisher = daemons(port=None), publishers(**({"reliable": True} if asks else {}))
    daemon.attach(publisher)
    publisher.epoch_end(0)
    assert "reliable" not in daemon.ingested()
    assert len(said("has no reliable lane")) == asks
    daemon.leave(publisher)
    assert not publisher.wanted("decoder", 0, "self") and not publisher.listened_to


def test_a_lane_that_does_not_answer_is_done_without(daemons, publishers):
    daemon, publisher = daemons(), publishers()
    wait_until(lambda: daemon.socket.getsockopt(zmq.EVENTS) is not None and publisher.stats()["subscribed"], "subscribed")
    publisher.epoch_end(0)
    wait_until(lambda: daemon.socket.poll(0), "the event comes by the other lane")
    assert "reliable" not in msgpack.unpackb(daemon.socket.recv_multipart()[1])
    daemon.wait(lambda: publisher._sender._lane.joined, "it has answered at last")
    publisher.epoch_end(1)
    assert daemon.wait_taken(1)[0][1]["seq"] == 0


def test_no_more_is_sent_than_there_is_credit_for(attached):
    daemon, publisher = attached(credit=12000)
    taken = []
    publish_rows(publisher, 20)
    wait_until(lambda: publisher.stats()["unacknowledged"] == 20, "all are kept")
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
    daemon.wait_sent(publisher, 20)


def test_one_message_may_be_larger_than_all_credit(attached):
    daemon, publisher = attached(credit=1000, reliable=True)
    for step in range(3):
        publisher.publish_attention(uniform(queries=50, keys=50), step=step, **AT)
    assert len(daemon.wait_taken(3)) == 3


def test_what_is_not_acknowledged_is_sent_again_by_the_same_ids(attached, daemons):
    daemon, publisher = attached()
    unanswered(daemon, publisher, 5)
    assert publisher.stats()["unacknowledged"] == 5
    daemon.leave(publisher)
    assert publisher.listened_to and publisher.wanted("decoder", 0, "self")
    publish_rows(publisher, 3, first=5)  # while nobody is there
    assert not publisher.publish_attention(uniform(), **AT)  # these do not go by the lane
    assert publisher.stats()["skipped"] == 1
    again = daemons()
    again.wait_taken(8)
    assert again.taken[:5] == daemon.taken
    assert [header["seq"] for header in again.headers] == list(range(8))
    again.wait_sent(publisher, 8)
    assert identity_holds(publisher.stats())


@pytest.mark.parametrize("bound", [1 << 20, 8192])
def test_a_return_tells_what_was_kept_and_what_was_not(daemons, publishers, caplog, monkeypatch, bound):
    monkeypatch.setattr(presence, "GONE_AFTER_S", 0)
    daemon, publisher = daemons(), publishers(reliable_bytes=bound)
    publisher.tell_absences(lambda: "Start it")
    daemon.attach(publisher)
    publish_rows(publisher, 1)
    daemon.wait(lambda: publisher.stats()["queued"] == 0, "it is acknowledged")
    daemon.close()
    wait_until(lambda: caplog.messages, "its end is told")
    publish_rows(publisher, 20, first=1)
    for _ in range(3):
        assert not publisher.publish_attention(uniform(), **AT)
    wait_until(lambda: publisher.stats()["unacknowledged"] + publisher.stats()["dropped"] == 20, "all are kept, or dropped")
    kept, dropped = (publisher.stats()[name] for name in ("unacknowledged", "dropped"))
    daemon = daemons()
    daemon.wait(lambda: "attnd is back" in caplog.text, "its return is told")
    lost = f"; dropped: {dropped}" if dropped else ""
    assert bool(dropped) is (bound == 8192)
    assert caplog.messages[-1].endswith(f" s; messages kept for it, and sent now: {kept}; not captured: 3{lost}")


def test_the_end_of_a_job_waits_idle_for_an_attnd_that_has_gone(attached, monkeypatch):
    monkeypatch.setattr(presence, "GONE_AFTER_S", 3600)
    daemon, publisher = attached(linger=1)
    publisher.tell_absences(lambda: "Start it")
    unanswered(daemon, publisher, 1)
    daemon.leave(publisher)
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


def test_the_bound_drops_the_newest_and_tells_it_in_the_next(attached, said, monkeypatch):
    monkeypatch.setattr(reliable, "WAIT_S", 0)  # else they wait so long for the first answer
    daemon, publisher = attached(reliable_bytes=8000)
    daemon.acknowledges = False
    publish_rows(publisher, 20)
    daemon.wait(lambda: publisher.stats()["dropped"] > 0 and publisher.stats()["queued"] == publisher.stats()["unacknowledged"], "")
    stats = publisher.stats()
    kept = stats["unacknowledged"]
    assert 0 < kept < 20 and stats["dropped"] == 20 - kept and identity_holds(stats)
    assert stats["dropped_by_topic"] == {"tensor/job/decoder/0/self/": 20 - kept}
    (told,) = said("reliable_bytes")
    assert "Remedy: a larger reliable_bytes" in told
    daemon.wait_taken(kept)
    daemon.answer(ack=[number for number, header, _ in daemon.taken if header["type"] == "rows"])
    daemon.wait_sent(publisher, kept)
    publish_rows(publisher, 1, first=20)
    header = daemon.wait_rows(20)
    assert header["seq"] == kept and header["dropped"] == 20 - kept


def test_what_finds_no_room_waits_while_answers_come(attached, monkeypatch):
    monkeypatch.setattr(reliable, "WAIT_S", 60)
    daemon, publisher = attached(reliable_bytes=8000)
    daemon.acknowledges = False
    publish_rows(publisher, 20)
    daemon.wait_taken(2)
    assert publisher.stats()["dropped"] == 0
    daemon.acknowledges = True
    daemon.answer(ack=daemon.numbers)
    daemon.wait_taken(20)
    assert publisher.stats()["dropped"] == 0 and not publisher.stalled
    assert [header["seq"] for header in daemon.headers] == list(range(20))


def test_what_finds_no_room_waits_for_an_attnd_that_is_back(daemons, publishers, monkeypatch):
    """However long it was away."""
    monkeypatch.setattr(reliable, "WAIT_S", 600)
    daemon, publisher = daemons(), publishers(reliable_bytes=8000)
    lane = publisher._sender._lane
    daemon.attach(publisher)
    daemon.acknowledges = False
    publish_rows(publisher, 20)
    daemon.wait_taken(2)
    daemon.close()
    wait_until(lambda: not publisher.stats()["subscribed"] and publisher.stats()["queued"] == lane.unacknowledged, "the end")
    dropped, kept = publisher.stats()["dropped"], lane.unacknowledged
    assert dropped > 0
    lane._answered_at = -1e9
    again = daemons()
    again.acknowledges = False
    again.wait(lambda: publisher.stats()["subscribed"] and lane._first_credit is not None, "it is back")
    publish_rows(publisher, 1, first=20)
    again.wait(lambda: lane.is_awaited, "it waits for room")
    again.wait_taken(kept)
    again.acknowledges = True
    again.answer(ack=again.numbers)
    again.wait_rows(20)
    assert publisher.stats()["dropped"] == dropped


def test_what_is_refused_is_counted_and_not_sent_again(attached, said):
    daemon, publisher = attached()
    numbers = unanswered(daemon, publisher, 3)
    daemon.answer(refused=[[numbers[0], "heads_limit"], [numbers[1], "key"], [999, "key"]], ack=[numbers[2]], later={"a": 1})
    daemon.wait_sent(publisher, 3)
    stats = publisher.stats()
    assert stats["refused_by_reason"] == {"heads_limit": 1, "key": 1} and identity_holds(stats)
    assert len(said("refuses a message")) == 1


def test_control_characters_of_an_answer_are_not_logged(attached, caplog):
    daemon, publisher = attached()
    numbers = unanswered(daemon, publisher, 1)
    daemon.answer(waits="\x1b]0;full\a\x9b2J\nforged line é")
    daemon.answer(refused=[[numbers[0], "\x1b[2J"]])
    daemon.wait_sent(publisher, 1)
    told = "".join(caplog.messages)
    assert "(?]0;full??2J?forged line é)" in told and "(reason: ?[2J)" in told and told.isprintable()
    assert publisher.stats()["refused_by_reason"] == {"?[2J": 1}


def test_a_late_message_is_told_by_its_reason(attached, said):
    daemon, publisher = attached()
    daemon.answer(refused=[[number, "late"] for number in unanswered(daemon, publisher, 2)])
    daemon.wait_sent(publisher, 2)
    assert publisher.stats()["refused_by_reason"] == {"late": 2} and identity_holds(publisher.stats())
    (told,) = said("refuses a message")
    assert told.endswith("attnd refuses a message (reason: late: its window was closed already), which is not sent again. Further ones "
                         "are only counted, as refused_by_reason")


def test_what_another_process_sent_in_its_place_counts_as_refused(attached, caplog):
    """One that went by a connection that has ended may be what attnd had already: in doubt it counts, too."""
    daemon, publisher = attached()
    numbers = unanswered(daemon, publisher, 2)
    daemon.answer(repeated=numbers, ack=[])
    daemon.answer(repeated=[numbers[0]], ack=[numbers[0]])
    daemon.wait_sent(publisher, 1)
    assert publisher.stats()["refused_by_reason"] == {"repeated": 2} and identity_holds(publisher.stats())
    publish_rows(publisher, 1, first=2)
    third = daemon.wait_taken(3)[2][0]
    daemon.answer(again=True)
    daemon.wait_taken(5)
    daemon.answer(repeated=[numbers[1], third], ack=[numbers[1], third])
    daemon.wait_sent(publisher, 3)
    assert publisher.stats()["refused_by_reason"] == {"repeated": 3} and identity_holds(publisher.stats())  # numbers[1] once
    assert warnings(caplog) == [
        "job job: attnd has a message of another process with the same run and rank in the place of one of ours, which it does not "
        "take. Further ones are only counted, as refused_by_reason. Remedy: a new run for each launch: another run= or ATTND_RUN, "
        "or neither"]


def test_what_was_in_doubt_counts_once_another_process_has_shown(attached, caplog):
    """Before, it counts as what attnd has of this one."""
    daemon, publisher = attached()
    numbers = unanswered(daemon, publisher, 3)
    daemon.answer(again=True)
    daemon.wait_taken(6)
    daemon.answer(repeated=numbers[:2], ack=numbers[:1])
    daemon.answer(repeated=numbers[1:2], ack=numbers[1:])
    daemon.wait_sent(publisher, 3)
    assert publisher.stats()["refused_by_reason"] == {} and "another process" not in caplog.text
    publish_rows(publisher, 1, first=3)
    last = daemon.wait_taken(7)[6][0]
    daemon.answer(repeated=[last], ack=[last])
    daemon.wait_sent(publisher, 4)
    assert publisher.stats()["refused_by_reason"] == {"repeated": 3} and identity_holds(publisher.stats())
    assert "another process" in caplog.text


@pytest.mark.parametrize("answer, sent_again, told", [
    (lambda first, second, third: {"again": True, "ack": [second]}, (0, 2), None),
    *((lambda *numbers, reason=reason: {"refused": [[number, reason] for number in numbers]}, (0, 1, 2), setting)
      for reason, setting in (("job_limit", "limits.jobs"), ("run_limit", "limits.runs")))], ids=["lost", "job_limit", "run_limit"])
def test_what_attnd_has_lost_or_had_no_room_for_is_sent_again_by_a_new_connection(attached, said, answer, sent_again, told):
    daemon, publisher = attached()
    numbers = unanswered(daemon, publisher, 3)
    daemon.acknowledges = True
    daemon.answer(**answer(*numbers))
    daemon.wait_sent(publisher, 3)
    assert daemon.numbers == [*numbers, *(numbers[at] for at in sent_again)] and daemon.joins == 2
    assert publisher.stats()["refused_by_reason"] == {} and identity_holds(publisher.stats())
    assert told is None or len(said(told)) == 1


@pytest.mark.parametrize("answer", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"credit": -5}), msgpack.packb({"ack": 7}),
                                    msgpack.packb({"ack": ["x"], "credit": 10}), msgpack.packb({"refused": [[1]]}),
                                    b"\xdd\xff\xff\xff\xff"])
def test_an_answer_that_is_none_changes_nothing(attached, answer):
    daemon, publisher = attached()
    unanswered(daemon, publisher, 2)
    daemon.lane.send_multipart([daemon.peer, answer])
    daemon.lane.send_multipart([daemon.peer, answer, answer])
    daemon.answer(ack=daemon.numbers)
    daemon.wait_sent(publisher, 2)


def test_an_answer_that_there_is_no_memory_for_is_asked_for_again(attached, monkeypatch):
    daemon, publisher = attached()
    unanswered(daemon, publisher, 2)

    def fails(*_, **__):
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(reliable, "msgpack", types.SimpleNamespace(unpackb=fails))
    daemon.acknowledges = True
    daemon.answer(ack=daemon.numbers)
    daemon.wait(lambda: publisher.stats()["sent"] == 2 and daemon.joins == 2, "they are acknowledged, and it has joined again")
    assert identity_holds(publisher.stats())


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


def test_closing_waits_for_acknowledgements_and_tells_without(attached, said):
    daemon, publisher = attached(linger=0.3)
    unanswered(daemon, publisher, 4)
    publisher.close()
    stats = publisher.stats()
    assert stats["dropped"] == 5 and stats["queued"] == 0 and identity_holds(stats)  # and the bye
    assert said("attnd did not acknowledge 5 messages within 0.3 s of the end (linger): they count as dropped, though it has been sent "
                "5 of them and may have them")


def test_a_mere_event_for_nobody_is_not_waited_for(attached, caplog):
    daemon, publisher = attached(linger=60)
    publisher.hello([])
    daemon.wait_taken(1)
    daemon.wait(lambda: publisher.stats()["unacknowledged"] == 0, "it is acknowledged")
    daemon.leave(publisher)
    publisher.close()
    assert publisher.stats()["skipped"] == 1 and warnings(caplog) == []


def test_a_late_refusal_puts_off_that_the_key_is_let_in_again(attached, said, monkeypatch):
    """It was judged before attnd read its list again; its answer comes after attnd has dropped the prefix."""
    monkeypatch.setattr(presence, "HOPE_S", 0.1)
    daemon, publisher = attached()
    first, second = unanswered(daemon, publisher, 2)
    publisher._sender.link.keys = types.SimpleNamespace(public=40 * b"k")

    def told():
        return said("the messages of job job")

    daemon.socket.subscribe(b"refused/" + 40 * b"k" + b"/job")
    daemon.wait(lambda: len(told()) == 1, "that the key is refused")
    daemon.socket.unsubscribe(b"refused/" + 40 * b"k" + b"/job")
    daemon.wait(lambda: publisher._sender.presence.hope is not None, "that the prefix has gone")
    daemon.answer(refused=[[first, "key"]])
    daemon.wait(lambda: publisher.stats()["refused_by_reason"] == {"key": 1}, "the late answer")
    assert len(told()) == 1, "nothing was taken yet"
    daemon.answer(ack=[second])
    daemon.wait(lambda: len(told()) == 2, "that it is let in again")
    assert "takes the messages of job job again" in told()[1]


def test_a_message_that_never_fits_is_told_so(attached, said):
    daemon, publisher = attached(reliable=True, reliable_bytes=1 << 16)
    publisher.publish_attention(np.full((1, 1, 256, 256), 1 / 256, np.float32), **AT)
    daemon.wait(lambda: publisher.stats()["dropped"] == 1, "it is dropped")
    publish_rows(publisher, 1)
    daemon.wait_taken(1)
    (told,) = said("reliable_bytes")
    assert "more than may ever wait" in told and "has not acknowledged" not in told


@pytest.mark.parametrize("options", [{"reliable": "no"}, {"reliable_bytes": 0}, {"spool": 7}], ids=list)
def test_bad_arguments_are_refused_at_once(place, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        attnd.Publisher("job", address=place, **options)


@pytest.mark.parametrize("ingest, ports, lane", [
    ("ipc:///run/attnd/ingest", (0,), "ipc:///run/attnd/reliable"), ("tcp://[::1]:5570", (5574,), "tcp://[::1]:5574"),
    ("tcp://host:5570", (0,), None), ("tcp://host:5570", (-1,), None), (None, (5574,), None),
    ("tcp://host:5575", (5574, 5579), "tcp://host:5579"), ("tcp://host:5570", (5574, 5579), "tcp://host:5574")])
def test_where_the_lane_is(ingest, ports, lane):
    assert reliable.endpoint_of(ingest, *ports) == lane
