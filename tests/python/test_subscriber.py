# SPDX-License-Identifier: MIT
"""The subscriber reads what a daemon publishes, once."""
import threading
import time

import msgpack
import numpy as np
import pytest
import zmq

import attnd
from attnd.connection.link import Link
from conftest import ROOT, Fake, free_endpoint, wait_until


class FakePublisher(Fake):
    """An XPUB where the daemon's would be."""

    def __init__(self):
        super().__init__(zmq.XPUB)

    def subscription(self):
        assert self.socket.poll(60000)
        return self.socket.recv()

    def send(self, topic, content):
        payload = content if isinstance(content, bytes) else msgpack.packb(content)
        self.socket.send_multipart([topic.encode(), payload])


@pytest.fixture
def source():
    return FakePublisher()


@pytest.fixture
def subscriber(source):
    with attnd.Subscriber(source.endpoint) as it:
        assert source.subscription() == b"\x01summary/"
        yield it


def summary(run="aa", first=0, last=0, snapshot=False, **more):
    return {"v": 1, "kind": "summary", "run": run, "window": {"unit": "epoch", "first": first, "last": last}, **more,
            "snapshot": snapshot}


TOPIC = "summary/job/decoder/0/self/"


def test_a_result_arrives_as_a_dict_with_arrays(source, subscriber):
    source.send(TOPIC, (ROOT / "tests" / "golden" / "summary.msgpack").read_bytes())
    result = subscriber.next(60)
    assert result["topic"] == TOPIC and result["kind"] == "summary"
    assert result["shape"] == [2, 2, 8, 8] and result["dropped"] == {"late": 3, "size_mismatch": 70000}
    entropy = result["heads"]["entropy"]
    assert entropy["mean"].dtype == np.float64 and entropy["count"].dtype == np.int64
    assert np.isnan(entropy["last"]).all()
    assert result["aggregate"]["mean"]["std"]["mean"] == 1.75
    assert result["top_pairs"][0] == {"query": 7, "key": 0, "weight": 0.5}


def test_next_is_bounded(subscriber):
    begin = time.monotonic()
    assert subscriber.next(0.05) is None and subscriber.next(0) is None
    assert time.monotonic() - begin < 30


def test_iteration_ends_after_silence(source, monkeypatch):
    with attnd.Subscriber(source.endpoint, timeout=0.3) as subscriber:
        came, pass_on = [], subscriber._drain._pass_on
        monkeypatch.setattr(subscriber._drain, "_pass_on", lambda frames: came.append(pass_on(frames)))
        source.subscription()
        source.send(TOPIC, summary(last=0))
        source.send(TOPIC, summary(last=1))
        wait_until(lambda: len(came) == 2, "both have come")
        assert [r["window"]["last"] for r in subscriber] == [0, 1]


def test_a_snapshot_of_what_is_known_is_skipped(source, subscriber):
    source.send(TOPIC, summary(last=3, snapshot=True))  # the first news about the topic, if old
    source.send(TOPIC, summary(last=3, snapshot=True))
    source.send(TOPIC, summary(last=4))
    source.send(TOPIC, summary(last=4, snapshot=True))
    source.send(TOPIC + "x/", summary(last=4, snapshot=True))  # another topic
    source.send(TOPIC, summary(last=4, run="bb", snapshot=True))  # another run
    source.send(TOPIC, summary(last=4, run="bb"))  # not a snapshot: always news
    source.send(TOPIC, summary(last=5, run="bb", snapshot=True))  # missed it live
    got = [subscriber.next(60) for _ in range(6)]
    assert [(r["run"], r["window"]["last"], r["snapshot"]) for r in got] == [
        ("aa", 3, True), ("aa", 4, False), ("aa", 4, True), ("bb", 4, True), ("bb", 4, False), ("bb", 5, True)]
    assert subscriber.next(0.05) is None


LIVE = {"kind": "live", "run": "aa", "epoch": 0, "step": 7, "rank": 0, "time_ns": 5}
ALERT = {"v": 1, "kind": "alert", "run": "aa", "epoch": 3, "step": 9, "time_ns": 1, "rule": "r", "state": "firing", "head": 0}


@pytest.mark.parametrize("prefix, first, others", [
    ("live/", LIVE, [{**LIVE, "step": 8}]), ("alert/", ALERT, [{**ALERT, "head": 1}, {**ALERT, "head": 1, "state": "resolved"}])])
def test_snapshots_of_other_results_are_told_apart(source, prefix, first, others):
    """By the step, and by what an alert of one window is about."""
    topic = f"{prefix}job/decoder/0/self/"
    with attnd.Subscriber(source.endpoint, topics=prefix) as subscriber:
        assert source.subscription() == b"\x01" + prefix.encode()
        source.send(topic, {**first, "snapshot": False})
        for known_or_new in (first, *others):
            source.send(topic, {**known_or_new, "snapshot": True})
        told = [subscriber.next(timeout=60) for _ in range(1 + len(others))]
    assert [{key: one[key] for key in first} for one in told] == [first, *others]


def test_what_is_no_result_is_counted_and_skipped(source, subscriber, caplog):
    source.send(TOPIC, b"\xc1")
    source.send(TOPIC, b"\x05")
    source.socket.send(b"summary/alone")
    source.send(TOPIC, summary())
    assert subscriber.next(60)["kind"] == "summary"
    assert subscriber.malformed == 3 and len(caplog.records) == 1


def test_only_the_topics_asked_for(source):
    with attnd.Subscriber(source.endpoint, topics=["summary/a/", "alert/"]):
        assert {source.subscription(), source.subscription()} == {b"\x01summary/a/", b"\x01alert/"}


@pytest.mark.parametrize("arguments", [{"endpoint": "nonsense"}, {"topics": [5]}, {"topics": "ä"}])
def test_bad_arguments_are_value_errors(arguments):
    with pytest.raises(ValueError):
        attnd.Subscriber(**arguments)


# ------------------------------------------------------------------------------------------- control

class FakeControl(Fake):
    """A ROUTER that answers requests in the background, as told: by functions of the request's id, or bytes."""

    def __init__(self):
        super().__init__(zmq.ROUTER)
        self.seen = []

    def answer(self, *replies):
        """Takes one request and sends these replies."""
        self._serve([replies])

    def answer_each(self, *replies):
        """Takes one request after the other, each with its reply."""
        self._serve([[reply] for reply in replies])

    def _serve(self, requests):
        def work():
            for replies in requests:
                assert self.socket.poll(60000)
                peer, request = self.socket.recv_multipart()
                self.seen.append(msgpack.unpackb(request))
                for reply in replies:
                    payload = reply if isinstance(reply, bytes) else msgpack.packb(reply(self.seen[-1][1]))
                    self.socket.send_multipart([peer, payload])

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def close(self):
        self.thread.join()
        super().close()


@pytest.fixture
def router():
    return FakeControl()


def test_a_call_returns_the_result_and_skips_late_answers(router):
    router.answer(lambda n: [1, n - 1, None, "late"], lambda n: [1, n, None, {"jobs": []}])
    with attnd.Control(router.endpoint) as control:
        assert control.jobs() == {"jobs": []}
    assert router.seen == [[0, 1, "jobs", {}]]


@pytest.mark.parametrize("sent, told", [(("job_unknown", "no such job"), ("job_unknown", "no such job")),
                                        (("no\x1b[2J", "clear\x9b2J\a"), ("no?[2J", "clear?2J?"))])
def test_a_refusal_is_an_error_with_its_code_and_no_control_characters(router, sent, told):
    router.answer(lambda n: [1, n, dict(zip(("code", "message"), sent)), None])
    with attnd.Control(router.endpoint) as control, pytest.raises(attnd.ControlError) as refused:
        control.summary("x")
    assert refused.value.code == told[0] and told[1] in str(refused.value) and str(refused.value).isprintable()


FUNCTIONS = {"plan.get": "plan", "plan.set": "set_plan", "plan.reset": "reset_plan"}


@pytest.mark.parametrize("method,arguments,params", [
    ("ping", {}, {}), ("stats", {}, {}), ("fleet", {}, {}), ("config", {}, {}), ("flush", {}, {}), ("flush", {"job": "a"}, {"job": "a"}),
    ("summary", {"job": "a", "layer": 3}, {"job": "a", "layer": 3}),
    ("ranks", {"job": "a", "layer": 3, "last": 9}, {"job": "a", "layer": 3, "last": 9}),
    ("plan.get", {}, {}), ("plan.get", {"job": "a"}, {"job": "a"}), ("plan.reset", {"job": "a*"}, {"job": "a*"}),
    ("plan.set", {"job": "a*", "every": 10, "layers": "decoder.*", "rows": None},
     {"job": "a*", "every": 10, "layers": "decoder.*"})])
def test_methods_and_their_parameters(router, method, arguments, params):
    router.answer(lambda n: [1, n, None, 5])
    with attnd.Control(router.endpoint) as control:
        assert getattr(control, FUNCTIONS.get(method, method))(**arguments) == 5
    assert router.seen == [[0, 1, method, params]]


def test_a_key_that_no_plan_has_is_a_type_error():
    with attnd.Control(free_endpoint()) as control, pytest.raises(TypeError, match=r"'evry' \(valid: every, layers"):
        control.set_plan("a", evry=3)


def test_nobody_there_is_a_timeout():
    with attnd.Control(free_endpoint(), timeout=0.1) as control, pytest.raises(TimeoutError, match="ping"):
        control.ping()


@pytest.mark.parametrize("reply", [b"\xc1", b"", msgpack.packb([1, 2]), msgpack.packb([0, 1, None, None])])
def test_something_else_is_a_connection_error(router, reply):
    router.answer(reply)
    with attnd.Control(router.endpoint) as control, pytest.raises(ConnectionError):
        control.ping()


def test_results_that_nobody_takes_are_kept_up_to_a_number(source):
    source.socket.setsockopt(zmq.XPUB_NODROP, 1)  # none is lost on the way
    with attnd.Subscriber(source.endpoint, timeout=0.1, high_water=100) as idle:
        source.subscription()
        for number in range(5000):
            source.send(TOPIC, summary(first=number, last=number))
        wait_until(lambda: idle.dropped >= 4900, "all have come")
        assert 4900 <= idle.dropped < 4960
        assert [result["window"]["first"] for result in idle] == list(range(5000 - idle.dropped))


def test_one_that_its_own_thread_collects_ends_too(source, monkeypatch):
    """Garbage is collected on whichever thread makes some."""
    subscriber = attnd.Subscriber(source.endpoint)
    drain = subscriber._drain
    source.subscription()
    monkeypatch.setattr(drain, "_pass_on", lambda frames: subscriber.close())
    source.send(TOPIC, summary())
    drain._thread.join(60)
    assert drain.socket.closed and drain._link.context.closed


@pytest.mark.parametrize("client", [attnd.Subscriber, attnd.Control, lambda endpoint: attnd.Publisher("x", endpoint=endpoint)],
                         ids=["Subscriber", "Control", "Publisher"])
def test_no_receive_queue_has_a_limit_and_no_socket_pings(client, monkeypatch):
    """libzmq needs both to be safe; daemon/base/README.md."""
    links, opened = [], Link.__init__
    monkeypatch.setattr(Link, "__init__", lambda link, *args, **more: (opened(link, *args, **more), links.append(link)) and None)
    with client(free_endpoint()):
        wait_until(lambda: links, "a link")
        for link in links:
            assert link.socket.getsockopt(zmq.RCVHWM) == 0 and link.socket.getsockopt(zmq.HEARTBEAT_IVL) == 0


def test_with_keys_an_attnd_that_is_away_is_tried_as_zeromq_would_and_its_keys_once_a_second(monkeypatch):
    (server, _), (_, secret) = zmq.curve_keypair(), zmq.curve_keypair()
    monkeypatch.setenv("ATTND_KEY", secret.decode())
    monkeypatch.setenv("ATTND_SERVER_KEY", server.decode())
    link, knocks, looks = Link(zmq.SUB, "publish", free_endpoint(), None, lambda socket: None, on_keys=pytest.fail), [], set()
    monkeypatch.setattr(link, "wrong_keys", lambda: knocks.append(link._knock_at))
    link._was_let_in = True
    while len(looks) < 12 or len(knocks) < 2:
        link.wait(1)
        looks.add(link._look_at)
        assert link._look_at <= time.monotonic() + 0.1
    assert all(after - before >= 0.999 for before, after in zip(knocks, knocks[1:]))
    link.close()
