# SPDX-License-Identifier: MIT
"""A publisher of a daemon that takes little, or nothing, or what cannot be copied: it neither blocks nor loses count."""
import threading
import time

import numpy as np
import pytest
import zmq

from attnd.base import wire
from attnd.sending import sender, tensors, turn
from attnd.sending.contents import Captured
from conftest import FakeDaemon, identity_holds, run_python, uniform, wait_until

AT = {"stack": "decoder", "layer": 0}
TOPIC = "tensor/job/decoder/0/self/"


def narrow_daemon():
    """One that takes little while nobody reads from it."""
    return FakeDaemon(high_water=1, receive_buffer=1 << 14)


def fill(publisher):
    """Publishes until ZeroMQ and the kernel take no more; how many messages that were."""
    count = 0

    def publish_or_look():
        nonlocal count
        since = publisher._sender._blocked_since
        if since is None:
            count += publisher.publish_attention(uniform(4, 4, 128, 128), **AT)
        return since is not None and time.monotonic() - since > 0.2  # the kernel's buffers grow for a while

    wait_until(publish_or_look, "the pipe stays full")
    return count


def read_all(fake, publisher):
    wait_until(lambda: fake.receive(0.01) is None and publisher.stats()["queued"] == 0, "the daemon wakes up")


@pytest.fixture
def full():
    """(a daemon that takes nothing any more, its publisher, how many messages were published)"""
    fake = narrow_daemon()
    with fake.publisher(high_water=1, linger=0.3) as publisher:
        yield fake, publisher, fill(publisher)


def test_a_stalled_daemon_never_blocks_and_every_message_is_accounted_for():
    fake = narrow_daemon()
    publisher = fake.publisher(queue_bytes=4 << 20, high_water=2)
    weights = uniform(4, 4, 128, 128)  # 1 MiB
    training = threading.Thread(target=lambda: [publisher.publish_attention(weights, step=step, **AT) for step in range(60)],
                                daemon=True)
    training.start()
    wait_until(lambda: not training.is_alive(), "all to be published: who waits for room waits as long as the daemon sleeps")
    publisher.epoch_end(0)
    stats = publisher.stats()
    assert stats["dropped"] > 0 and stats["skipped"] == 0 and identity_holds(stats)
    assert stats["queued_bytes"] <= 4 << 20

    got = [fake.next("attention")]  # the daemon wakes up
    while got[-1][1].get("event") != "epoch_end":  # never dropped for lack of room
        got.append(fake.receive())
    tensors = [h for _, h, _ in got if h["type"] == "attention"]
    assert [h["seq"] for h in tensors] == list(range(len(tensors)))
    assert publisher.drain(60)
    stats = publisher.stats()
    assert stats["sent"] == len(tensors) + 1 and stats["sent"] + stats["dropped"] == stats["published"] == 61

    publisher.publish_attention(weights, step=99, **AT)  # the next header tells
    header = fake.next("attention")[1]
    assert header["dropped"] == stats["dropped"] == stats["dropped_by_topic"][TOPIC]
    publisher.close()


def test_what_zeromq_holds_is_part_of_the_queue():
    fake = narrow_daemon()
    with fake.publisher(queue_bytes=4 << 20, high_water=64, linger=0.1) as publisher:
        weights = uniform(4, 4, 128, 128)  # 1 MiB
        for step in range(30):
            publisher.publish_attention(weights, step=step, **AT)
            wait_until(lambda: publisher.stats()["queued_bytes"] == 0 or publisher._sender._blocked_since is not None, "a try")
        counts = publisher.stats()
        assert counts["dropped"] >= 20 and identity_holds(counts)  # fewer than 4, and what is on its way, are kept
        read_all(fake, publisher)
        wait_until(lambda: publisher.publish_attention(weights, step=30, **AT), "there is room again")


def test_nothing_is_lent_to_a_daemon_that_takes_nothing(full, monkeypatch):
    _, publisher, _ = full
    tries, flush = [], publisher._sender._flush
    monkeypatch.setattr(publisher._sender, "_flush", lambda: tries.append("flush") or flush())
    monkeypatch.setattr(publisher._sender.memory, "tend", lambda *_: tries.append("tend"))
    wait_until(lambda: len(tries) >= 3, "some tries")
    assert "tend" not in tries


def test_a_stalled_daemon_is_noticed_and_told_once_and_noticed_again_when_it_moves(monkeypatch, caplog):
    monkeypatch.setattr(sender, "STALLED_AFTER_S", 0.1)
    fake = narrow_daemon()
    with fake.publisher(high_water=1, linger=0.1) as publisher:
        assert not publisher.give_up("decoder", 0, "self")
        count = fill(publisher)
        wait_until(lambda: publisher._sender.stalled, "the stall is noticed")
        assert publisher.give_up("decoder", 0, "self")
        stats = publisher.stats()
        assert stats["dropped"] == 1 and stats["published"] == count + 1 and identity_holds(stats)

        def said():
            return [message for message in caplog.messages if "takes nothing" in message]

        wait_until(said, "the stall is told")
        read_all(fake, publisher)
        wait_until(lambda: not publisher._sender.stalled, "that it moves again is noticed")
        assert not publisher.give_up("decoder", 0, "self") and publisher.stats()["sent"] == count
        fill(publisher)
        wait_until(lambda: publisher._sender.stalled, "the next stall is noticed")
        assert len(said()) == 1 and fake.endpoint in said()[0]


def test_a_stalled_daemon_is_hardly_asked_any_more(full, monkeypatch):
    _, publisher, _ = full
    monkeypatch.setattr(sender, "STALLED_AFTER_S", 0.1)
    monkeypatch.setattr(sender, "PAUSE_STALLED_S", 600.0)
    attempts, flush = [], publisher._sender._flush
    monkeypatch.setattr(publisher._sender, "_flush", lambda: attempts.append(0) or flush())
    time.sleep(1.0)
    assert len(attempts) < 15  # were there 20 a second, and the pause not doubled: more
    begin = time.monotonic()
    publisher.close()
    assert time.monotonic() - begin < 30  # it does not wait for the pause to end


def test_what_is_queued_is_sent_in_turns(monkeypatch):
    """The training would wait for the lock of the interpreter as long as all of it takes. Here a turn is over at once."""
    fake = FakeDaemon()
    with fake.publisher(linger=5) as publisher:
        flush, sent = publisher._sender._flush, []
        monkeypatch.setattr(publisher._sender, "_flush", lambda: (0, True))
        for step in range(20):
            assert publisher.publish_attention(uniform(), step=step, **AT)
        monkeypatch.setattr(turn, "WORK_S", 0.0)
        monkeypatch.setattr(publisher._sender, "_flush", lambda: sent.append(flush()) or sent[-1])
        assert [fake.next("attention")[1]["step"] for _ in range(20)] == list(range(20))
        assert max(count for count, _ in sent) == 1 and identity_holds(publisher.stats())


def test_who_waits_for_the_queue_waits_for_no_rest(full, monkeypatch):
    fake, publisher, _ = full
    rests, tries, flush = [], [], publisher._sender._flush
    monkeypatch.setattr(turn, "WORK_S", 0.0)
    monkeypatch.setattr(turn.Turn, "rest_s", property(lambda _: rests.append(0) or 0.0))
    monkeypatch.setattr(publisher._sender, "_flush", lambda: tries.append(0) or flush())
    wait_until(lambda: rests, "a rest")
    waiting = threading.Thread(target=publisher.drain, args=(60,))
    waiting.start()
    wait_until(lambda: publisher._outbox.is_waited_for, "it waits")
    before, after = len(rests), len(tries) + 10
    wait_until(lambda: len(tries) >= after, "some tries")
    assert len(rests) <= before + 1  # one may have begun
    wait_until(lambda: fake.receive(0.01) is None and not publisher._outbox.is_waited_for, "all is sent")
    waiting.join()


def test_only_one_warning_about_drops(caplog):
    with FakeDaemon().publisher(queue_bytes=10) as publisher:
        for _ in range(5):
            assert publisher.publish_attention(uniform(), **AT) is False
        assert publisher.stats()["dropped"] == 5
    assert len(caplog.records) == 1 and "dropped" in caplog.text


def publish_made(publisher, layers, nbytes=4):
    """W_q of some layers, in one call."""
    def make():
        frames = tensors.Frames()
        frames.add_owned("wq", "f32", np.ones((1, nbytes // 4), np.float32))
        return Captured("weights", frames, lambda layer: wire.weights_keys(layer, frames.described, heads=1, head_dim=1, kv_heads=1))
    publisher.publish_made([nbytes] * layers, lambda: [(("decoder", layer, "self"), nbytes, make) for layer in range(layers)], 0, 7, "weights")


def test_messages_that_are_queued_at_once_are_sent_and_counted_one_by_one():
    fake = FakeDaemon()
    with fake.publisher() as publisher:
        publish_made(publisher, 3)
        assert [(header["layer"], header["step"]) for header in (fake.next("weights")[1] for _ in range(3))] == [(0, 7), (1, 7), (2, 7)]
        assert publisher.drain(60)
        stats = publisher.stats()
        assert (stats["published"], stats["sent"], stats["sent_bytes"], stats["queued_bytes"]) == (3, 3, 12, 0)


def test_messages_that_are_queued_at_once_are_dropped_one_by_one(full):
    with FakeDaemon().publisher(queue_bytes=10) as publisher:
        publish_made(publisher, 3, 12)
        stats = publisher.stats()
        assert stats["published"] == stats["dropped"] == 3 and set(stats["dropped_by_topic"].values()) == {1}
    _, publisher, count = full
    publish_made(publisher, 3)
    assert publisher.stats()["published"] == count + 3
    publisher.close()
    stats = publisher.stats()
    assert identity_holds(stats) and stats["queued"] == stats["queued_bytes"] == 0
    assert [stats["dropped_by_topic"][f"tensor/job/decoder/{layer}/self/"] for layer in (1, 2)] == [1, 1]


def test_failing_copies_are_drops_and_not_errors(publisher, monkeypatch, caplog):
    def no_memory(_):
        raise MemoryError

    monkeypatch.setattr(tensors, "copy_weights", no_memory)
    for _ in range(3):
        assert publisher.publish_attention(uniform(), **AT) is False
    stats = publisher.stats()
    assert stats["dropped"] == 3 and stats["queued_bytes"] == 0 and identity_holds(stats)
    assert len(caplog.records) == 1


def test_what_was_captured_for_a_subscriber_who_left_is_dropped(full):
    fake, publisher, count = full
    count += sum(publisher.publish_attention(uniform(), **AT) for _ in range(5))
    fake.socket.setsockopt(zmq.UNSUBSCRIBE, b"")
    wait_until(lambda: fake.serve() or publisher.stats()["queued"] == 0, "the queue is given up")
    stats = publisher.stats()
    assert stats["dropped"] >= 5 and stats["sent"] + stats["dropped"] == count and identity_holds(stats)


def test_a_daemon_that_dies_leaves_every_message_accounted_for(full):
    """Some may still go into the connection that just ended: they count as sent, and seq tells of the gap."""
    fake, publisher, count = full
    count += sum(publisher.publish_attention(uniform(), **AT) for _ in range(5))
    fake.close()
    wait_until(lambda: publisher.stats()["queued"] == 0, "the queue is given up")
    stats = publisher.stats()
    assert stats["sent"] + stats["dropped"] == count and identity_holds(stats)


def test_closing_is_bounded_with_a_stalled_daemon(full):
    _, publisher, _ = full
    begin = time.monotonic()
    publisher.close()
    assert time.monotonic() - begin < 30
    stats = publisher.stats()
    assert stats["queued"] == 0 and identity_holds(stats)


def test_an_interpreter_with_a_stalled_daemon_still_ends():
    fake = narrow_daemon()
    seconds, code, _ = run_python(f"""
        import attnd, numpy as np
        p = attnd.Publisher("job", {fake.endpoint!r}, linger=0.5)
        p.wait_for_subscriber(60)
        for step in range(50):
            p.publish_attention(np.full((4, 4, 128, 128), 1/128, np.float32), stack="decoder", layer=0)
        raise SystemExit(7)
    """, fake=fake)
    assert code == 7 and seconds < 60
