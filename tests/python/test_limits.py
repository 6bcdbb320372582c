# SPDX-License-Identifier: MIT
"""A message that the daemon does not take is not copied, is said once with what helps, and is told to the daemon."""
import numpy as np
import pytest

import attnd
from attnd.base import limits, wire
from conftest import identity_holds, limited, uniform, wait_until

AT = {"stack": "decoder", "layer": 0}
SAID = b"accepts=attention,qk,weights,event;header=10;max_message=4000;max_entries=300;max_heads=4"


def refusal(said, kind="attention", nbytes=100, shape=(1, 2, 3, 4), **keys):
    described = [{"name": "weights" if kind == "attention" else "q", "shape": list(shape)}]
    return limits.strictest([said]).refusal(kind, nbytes, {"tensors": described, **keys})


def test_a_daemon_that_says_nothing_has_no_bounds():
    assert limits.strictest([b"", b"tensor/", b"plan/0/*/every=1"]) == limits.Limits()
    assert limits.Limits().refusal("qk", 2**62, {}) is None


def test_each_bound_holds():
    said = b"limits/accepts=attention,event,smell;header=10;max_message=100;max_entries=24;max_heads=2;max_smell=1"
    assert refusal(said) is None
    assert "101 bytes is larger than the 100 that attnd takes (ingest.max_message)" in refusal(said, nbytes=101)
    assert "limits.entries" in refusal(said, shape=(1, 2, 3, 5))
    assert "limits.heads" in refusal(said, heads_total=3) and "limits.heads" in refusal(said, shape=(1, 3, 1, 1))
    assert "does not know messages of type qk" in refusal(said, kind="qk")
    assert limits.strictest([said]).refusal("event", 100, {"event": "bye"}) is None
    old, new = (limits.strictest([b"limits/header=%d" % revision]) for revision in (9, 11))
    assert old.refusal("qk", 0, {}) == "the attnd that listens is too old for this client: update attnd"
    assert new.refusal("qk", 0, {}) is None and old.refusal("event", 0, {}) is None


def test_pairs_of_queries_and_keys_are_counted_by_the_keys_that_there_are():
    tensors = [{"name": "q", "shape": [2, 4, 3, 64]}, {"name": "k", "shape": [2, 2, 10, 64]}]
    assert limits.Limits(max_entries=240).refusal("qk", 1, {"tensors": tensors}) is None
    assert limits.Limits(max_entries=239).refusal("qk", 1, {"tensors": tensors}) is not None


def test_rows_have_the_heads_of_their_sums_and_no_pairs():
    keys = {"tensors": [{"name": "sums", "shape": [28, 5, 2, 300]}, {"name": "places", "shape": [8, 5, 300]}], "queries": 300, "keys": 300}
    taken = limits.Limits(frozenset(["rows"]), max_entries=2, max_heads=2)
    assert taken.rows and taken.refusal("rows", 1, keys) is None and "limits.heads" in taken._replace(max_heads=1).refusal("rows", 1, keys)
    assert not limits.Limits().rows and "messages of type rows" in limits.Limits().refusal("rows", 1, keys)


def test_of_several_the_strictest_holds():
    got = limits.strictest([b"limits/accepts=attention,qk;header=11;max_message=50;max_heads=9",
                            b"limits/accepts=qk,event;max_message=70;max_heads=3"])
    assert got == limits.Limits(frozenset(["qk"]), max_message=50, max_heads=3)
    got = limits.strictest([b"limits/maps=32;maps_every=7", b"limits/maps=16;maps_every=900"])
    assert (got.maps, got.maps_every) == (16, 900) and limits.strictest([b"limits/maps=32", b"limits/header=9"]).maps == 0


@pytest.mark.parametrize("said", [b"max_heads=x", b"header=", b"header", b"max_message=99999999999999999999",
                                  b"max_heads=-1", b"=;header=1x", b"\xff=1", b"a=" + b"1" * 1024])
def test_a_malformed_prefix_counts_for_nothing(said):
    assert limits.strictest([b"limits/max_message=1;" + said]) == limits.Limits()


@pytest.fixture
def strict():
    with limited(SAID) as both:
        yield both


def test_a_message_that_is_too_large_is_said_once_and_told(strict, caplog):
    daemon, publisher = strict
    for _ in range(3):
        assert not publisher.publish_attention(uniform(1, 4, 16, 16), **AT)
    assert caplog.messages == [
        "job job: a message of 4122 bytes is larger than the 4000 that attnd takes (ingest.max_message): dropped, and so "
        "is all that follows like it. Remedy: fewer query rows (rows=512 of attnd.watch, or now: attnctl plan set job "
        "rows=512; or still fewer; what is published by hand is cut by hand), fewer samples (samples=1), or a fused "
        "kernel, of which queries and keys are sent instead of weights; or larger limits in attnd's config"]
    stats = publisher.stats()
    assert (stats["dropped"], stats["too_large"], stats["queued_bytes"]) == (3, 3, 0) and identity_holds(stats)
    topic, header, _ = daemon.next()  # nothing else is said: a hello tells
    assert topic == "event/job/" and header["event"] == "hello" and header["dropped_total"] >= 1
    publisher.publish_attention(uniform(1, 4, 2, 2), **AT)
    assert daemon.next("attention")[1]["dropped"] == 3
    publisher.close()
    assert daemon.until_bye()[-1][1]["dropped_total"] == 3


def test_an_attnd_that_is_too_old_gets_events_only(caplog):
    with limited(b"header=9") as (daemon, publisher):
        assert not publisher.publish_attention(uniform(1, 4, 2, 2), **AT) and publisher.log({"loss": 1.0})
    assert caplog.messages == [
        "job job: the attnd that listens is too old for this client: update attnd: dropped, and so is all that follows like it"]
    messages = [header for _, header, _ in daemon.until_bye()]
    assert {header["type"] for header in messages} == {"event"} and "log" in [header["event"] for header in messages]


def test_a_message_that_is_too_large_is_not_copied(strict, monkeypatch):
    _, publisher = strict
    monkeypatch.setattr("attnd.sending.tensors.Frames.copies", lambda self: pytest.fail("copied"))
    assert not publisher.publish_attention(np.zeros((1, 1, 32, 32), np.float32), **AT)
    assert not publisher.publish_attention(uniform(1, 5, 2, 2), **AT), "more heads"
    assert not publisher.publish_attention(uniform(1, 4, 10, 8, np.float16), **AT), "more pairs"
    assert not publisher.publish_later(("decoder", 0, "self"), 0, 0, 4000, lambda: pytest.fail("copied"))
    assert publisher.stats()["too_large"] == 4


def test_the_header_counts(strict):
    daemon, publisher = strict
    weights = uniform(1, 1, 7, 35, np.float64)
    assert publisher.publish_attention(weights, grad=weights, **{**AT, "layer": 1})  # 3920 bytes without it
    publisher.publish_attention(uniform(1, 4, 2, 2), **AT)
    assert daemon.next("attention")[1]["layer"] == 0
    stats = publisher.stats()
    assert (stats["dropped"], stats["too_large"]) == (1, 1) and identity_holds(stats)


def test_a_hello_that_is_too_large_is_not_tried_without_end(monkeypatch):
    tried = []
    too_large = limits.Limits.too_large
    monkeypatch.setattr(limits.Limits, "too_large", lambda self, nbytes: tried.append(nbytes) or too_large(self, nbytes))
    with limited(b"header=10;max_message=40") as (daemon, publisher):
        assert not publisher.publish_attention(uniform(), **AT)
        wait_until(lambda: len(tried) > 1, "the hello that tells")
        assert daemon.receive(0.3) is None and len(tried) == 2


def test_an_event_that_is_too_large_is_counted_as_dropped():
    with limited(b"header=10;max_message=900") as (_, publisher):
        publisher.hello([("decoder", layer, "self", 2) for layer in range(40)])
        assert publisher.drain(60)
        stats = publisher.stats()
        assert (stats["dropped"], stats["too_large"], stats["skipped"]) == (1, 1, 0) and identity_holds(stats)


def test_a_full_queue_says_what_helps(daemon, caplog):
    with attnd.Publisher("job", daemon.endpoint, queue_bytes=64) as publisher:
        daemon.attach(publisher)
        for _ in range(2):
            publisher.publish_attention(uniform(), **AT)
        assert publisher.stats()["too_large"] == 0
    assert daemon.until_bye()[-1][1]["dropped_total"] == 2 and wire.event_keys({"event": "bye"}, 0) == {"event": "bye"}
    message, = caplog.messages
    assert "the queue of 64 bytes is full" in message
    for remedy in ("rows=512", "attnctl plan set job rows=512", "samples=1", "fused kernel"):
        assert remedy in message
