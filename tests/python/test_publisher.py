# SPDX-License-Identifier: MIT
"""The publisher never blocks, never raises at runtime, and every message is sent, dropped or skipped."""
import logging
import os
import re
import threading
import time

import numpy as np
import pytest
import zmq

import attnd
from attnd.base import address, wire
from attnd.sending import presence, sender
from conftest import FakeDaemon, free_endpoint, identity_holds, limited, run_python, uniform, uniform_rows, wait_until

AT = {"stack": "decoder", "layer": 0}
TOPIC = "tensor/job/decoder/0/self/"


def described(header):
    return [(t["name"], t["dtype"], t["shape"]) for t in header["tensors"]]


# ---------------------------------------------------------------------------------- what is published

def test_a_message_arrives_as_it_was_published(daemon, publisher):
    weights = np.random.default_rng(1).random((2, 3, 4, 5), dtype=np.float32)
    mask = np.ones((2, 4, 5), dtype=bool)
    mask[0, 1, 2] = False
    assert publisher.publish_attention(weights, stack="encoder", layer=7, site="cross", epoch=3, step=11,
                                       causal=True, window=2, q_len=[4, 2], k_len=[5, 0], mask=mask, dropout=True,
                                       learned_sink=True, head_offset=3, heads_total=9,
                                       labels=["a", "b", "c", "d", "é"])
    topic, header, frames = daemon.next()
    assert topic == "tensor/job/encoder/7/cross/"
    assert header.pop("time_ns") == pytest.approx(time.time_ns(), abs=60e9)
    assert header.pop("run").hex() == publisher.run
    assert header == {
        "v": 1, "type": "attention", "job": "job", "rank": 0, "world": 1, "seq": 0, "dropped": 0, "epoch": 3,
        "step": 11, "stack": "encoder", "layer": 7, "site": "cross",
        "tensors": [{"name": "weights", "dtype": "f32", "shape": [2, 3, 4, 5]},
                    {"name": "mask", "dtype": "u8", "shape": [2, 4, 5]}],
        "causal": True, "window": 2, "q_len": [4, 2], "k_len": [5, 0], "head_offset": 3, "heads_total": 9,
        "dropout": True, "learned_sink": True, "labels": ["a", "b", "c", "d", "é"]}
    assert frames[0] == weights.tobytes()
    assert frames[1] == mask.astype(np.uint8).tobytes()


@pytest.mark.parametrize("dtype,name", [(np.float32, "f32"), (np.float64, "f64"), (np.float16, "f16"), (">f4", "f32")])
def test_numpy_dtypes_travel_little_endian_and_contiguous(daemon, publisher, dtype, name):
    weights = np.random.default_rng(1).random((2, 3, 4, 5)).astype(dtype).transpose(1, 0, 3, 2)
    publisher.publish_attention(weights, **AT)
    _, header, frames = daemon.next()
    assert described(header) == [("weights", name, [3, 2, 5, 4])]
    assert frames[0] == weights.astype(weights.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_torch_dtypes_travel(daemon, publisher, name):
    torch = pytest.importorskip("torch")
    weights = torch.rand(2, 3, 4, 5).to(getattr(torch, name)).transpose(0, 1).requires_grad_()
    publisher.publish_attention(weights, **AT)
    _, header, frames = daemon.next()
    assert described(header) == [("weights", name.replace("float", "f"), [3, 2, 4, 5])]
    raw = weights.detach().contiguous()
    raw = raw.view(torch.int16) if name == "bfloat16" else raw
    assert frames[0] == raw.numpy().tobytes()


def test_bf16_bits_in_numpy(daemon, publisher):
    bits = np.full((1, 1, 2, 2), 0x3F00, dtype=np.uint16)
    publisher.publish_attention(bits, dtype="bf16", **AT)
    _, header, frames = daemon.next()
    assert header["tensors"][0]["dtype"] == "bf16" and frames[0] == bits.tobytes()


def test_gradients_tokens_and_documents_travel_with_the_weights(daemon, publisher):
    tokens, documents = np.array([[5, -1, 2**31 - 1]]), np.array([[0, 0, 1]], dtype=np.uint8)
    grad = np.ones((1, 2, 3, 3), dtype=np.float64)
    assert publisher.publish_attention(uniform(1, 2, 3, 3), grad=grad, tokens=tokens, documents=documents, **AT)
    _, header, frames = daemon.next()
    assert described(header) == [
        ("weights", "f32", [1, 2, 3, 3]), ("grad", "f64", [1, 2, 3, 3]), ("tokens", "i32", [1, 3]),
        ("documents", "i32", [1, 3])]
    assert frames[1] == grad.tobytes()
    assert frames[2] == tokens.astype("<i4").tobytes() and frames[3] == documents.astype("<i4").tobytes()


def test_queries_and_keys_arrive_as_they_were_published(daemon, publisher):
    generator = np.random.default_rng(2)
    q, k = generator.random((2, 4, 3, 8), dtype=np.float32), generator.random((2, 2, 5, 8)).astype(np.float16)
    v, mask = generator.random((2, 2, 5, 6)), np.ones((2, 3, 5), dtype=bool)
    assert publisher.publish_qk(q, k, v, stack="decoder", layer=3, epoch=1, step=9, softcap=30, q_offset=2, causal=True,
                                window=4, q_len=[3, 1], k_len=[5, 4], mask=mask, documents=np.zeros((2, 5), np.int64))
    topic, header, frames = daemon.next()
    assert topic == "tensor/job/decoder/3/self/" and header["type"] == "qk"
    assert header["scale"] == pytest.approx(8**-0.5) and header["softcap"] == 30.0 and header["q_offset"] == 2
    assert described(header) == [
        ("q", "f32", [2, 4, 3, 8]), ("k", "f16", [2, 2, 5, 8]), ("v", "f64", [2, 2, 5, 6]), ("mask", "u8", [2, 3, 5]),
        ("documents", "i32", [2, 5])]
    assert header["causal"] is True and header["window"] == 4 and header["k_len"] == [5, 4]
    assert frames[:3] == [q.tobytes(), k.tobytes(), v.tobytes()]


def test_the_tensors_of_the_output_go_beside_queries_and_keys(daemon):
    generator = np.random.default_rng(5)
    q, k = generator.random((2, 4, 3, 8), dtype=np.float32), generator.random((2, 2, 5, 8), dtype=np.float32)
    v, dout = generator.random((2, 2, 5, 6)).astype(np.float16), generator.random((2, 4, 3, 6))
    wo_r, x_norm = generator.random((4, 6, 6)), generator.random((2, 3), dtype=np.float32)
    with daemon.publisher() as publisher:
        daemon.attach(publisher)
        assert publisher.publish_qk(q, k, v, dout=dout, wo_r=wo_r, x_norm=x_norm, **AT)
        _, header, frames = daemon.next("qk")
    assert described(header)[3:] == [
        ("dout", "f64", [2, 4, 3, 6]), ("wo_r", "f32", [4, 6, 6]), ("x_norm", "f32", [2, 3])]
    assert frames[3:] == [dout.tobytes(), wo_r.astype(np.float32).tobytes(), x_norm.tobytes()]


def test_values_go_beside_weights(daemon):
    generator = np.random.default_rng(6)
    v, wo_r = generator.random((2, 2, 5, 6)).astype(np.float16), generator.random((4, 3, 6))
    x_norm, weights = generator.random((2, 3), dtype=np.float32), generator.random((2, 4, 3, 5), dtype=np.float32)
    with daemon.publisher() as publisher:
        daemon.attach(publisher)
        assert publisher.publish_attention(weights, v=v, wo_r=wo_r, x_norm=x_norm, **AT)
        _, header, frames = daemon.next("attention")
        for bad, says in ((dict(v=v[:, :, :4]), r"must be \[2, key heads, 5, value_dim\]"),
                          (dict(v=generator.random((2, 3, 5, 6))), "key heads divide 4"),
                          (dict(wo_r=wo_r), "wo_r: needs v"), (dict(v=v, x_norm=x_norm), "x_norm: needs wo_r"),
                          (dict(v=v, wo_r=wo_r[:2]), r"must be \[heads, r, value_dim\]")):
            with pytest.raises(ValueError, match=says):
                publisher.publish_attention(weights, **bad, **AT)
    assert described(header)[1:] == [("v", "f16", [2, 2, 5, 6]), ("wo_r", "f32", [4, 3, 6]), ("x_norm", "f32", [2, 3])]
    assert frames[1:] == [v.tobytes(), wo_r.astype(np.float32).tobytes(), x_norm.tobytes()]


def test_torch_queries_and_keys_travel(daemon, publisher):
    torch = pytest.importorskip("torch")
    q, k = torch.rand(1, 2, 3, 4).bfloat16(), torch.rand(1, 1, 3, 4).bfloat16().requires_grad_()
    assert publisher.publish_qk(q, k, scale=1, **AT)
    _, header, frames = daemon.next()
    assert header["scale"] == 1.0 and [t["dtype"] for t in header["tensors"]] == ["bf16", "bf16"]
    assert frames[0] == q.view(torch.int16).numpy().tobytes()


def test_the_sums_of_rows_arrive_as_they_were_published():
    rows = uniform_rows(2, 3, 4)._replace(causal=True, key_lengths=np.full((1, 1, 4), 2, np.float64), sinks=np.zeros(2, np.float32), local_window=4)
    with limited(b"accepts=rows,event") as (daemon, publisher):
        assert publisher.publish_rows(rows, stack="encoder", layer=7, site="cross", epoch=3, step=11, microbatch=2, head_offset=3, heads_total=9,
                                      module="blocks.0.attn")
        topic, header, frames = daemon.next("rows")
        assert publisher.publish_rows(rows._replace(weights="bf16", learned_sink=True, causal=False), **AT)
        of_weights = daemon.next("rows")[1]
    assert topic == "tensor/job/encoder/7/cross/"
    assert described(header) == [("sums", "f32", [5, 1, 2, 3]), ("places", "i32", [8, 1, 3]), ("key_lengths", "f32", [1, 1, 4]), ("sinks", "f32", [2])]
    own = {key: value for key, value in header.items() if key in (
        "step", "epoch", "microbatch", "sums", "queries", "keys", "weights", "causal", "learned_sink", "local_window", "head_offset", "heads_total", "module")}
    assert own == {"step": 11, "epoch": 3, "microbatch": 2, "sums": list(rows.names), "queries": 3, "keys": 4, "causal": True, "local_window": 4,
                   "head_offset": 3, "heads_total": 9, "module": "blocks.0.attn"}
    assert frames == [rows.sums.tobytes(), rows.places.tobytes(), np.full(4, 2, np.float32).tobytes(), bytes(8)]
    assert (of_weights["weights"], of_weights["learned_sink"], "causal" in of_weights) == ("bf16", True, False)


def test_projections_arrive_as_they_were_published(daemon, publisher):
    wq, wk = np.random.default_rng(3).random((2, 8, 6), dtype=np.float32)
    assert publisher.publish_weights(wq=wq, wk=wk[:4], wo=wq.T, heads=4, kv_heads=2, head_dim=2, **AT)
    _, header, frames = daemon.next("weights")
    assert (header["heads"], header["kv_heads"], header["head_dim"]) == (4, 2, 2)
    assert [(t["name"], t["shape"]) for t in header["tensors"]] == [("wq", [8, 6]), ("wk", [4, 6]), ("wo", [6, 8])]
    assert frames == [wq.tobytes(), wk[:4].tobytes(), wq.T.tobytes()]


def test_the_payload_is_copied_when_captured(daemon, publisher):
    weights = uniform(8, 8, 64, 64)
    expected = weights.tobytes()
    publisher.publish_attention(weights, **AT)
    weights[:] = -1
    assert daemon.next()[2][0] == expected


def test_seq_is_contiguous_per_topic_and_events_keep_their_place(daemon, publisher):
    publisher.hello([("decoder", 0, "self", 3)])
    for step in range(5):
        publisher.publish_attention(uniform(), epoch=0, step=step, **AT)
        publisher.publish_attention(uniform(), stack="encoder", layer=1, epoch=0, step=step)
    publisher.epoch_end(0)
    publisher.publish_attention(uniform(), epoch=1, step=5, **AT)
    publisher.close()
    got = daemon.until_bye()
    order = [h.get("event", h.get("stack")) for _, h, _ in got]
    assert order == ["hello"] + ["decoder", "encoder"] * 5 + ["epoch_end", "decoder", "bye"]
    for topic in {t for t, _, _ in got}:
        assert [h["seq"] for t, h, _ in got if t == topic] == list(range(sum(t == topic for t, _, _ in got)))
    assert got[-3][1]["epoch"] == 0 and got[-3][1]["step"] == 4
    assert got[-1][1]["epoch"] == 1 and got[-1][1]["step"] == 5
    assert got[0][1]["layers"] == [{"stack": "decoder", "layer": 0, "site": "self", "heads": 3}]


def test_the_module_travels_with_every_kind_of_message(daemon, publisher):
    q, w = np.ones((1, 2, 3, 4), np.float32), np.ones((8, 6), np.float32)
    publisher.publish_attention(uniform(), module="blocks.0.attn", **AT)
    publisher.publish_qk(q, q, module="blocks.0.attn", **AT)
    publisher.publish_weights(wq=w, heads=2, head_dim=4, module="blocks.0.attn", **AT)
    assert [daemon.next()[1]["module"] for _ in range(3)] == ["blocks.0.attn"] * 3
    publisher.publish_attention(uniform(), **AT)
    assert "module" not in daemon.next()[1]
    with pytest.raises(ValueError, match="module"):
        publisher.publish_attention(uniform(), module="a\x1b[2J", **AT)


def test_a_hello_says_modules_as_long_as_they_fit(daemon, publisher):
    for count, fits in ((200, True), (400, False)):
        publisher.hello([("decoder", i, "self", 3, f"{i:04}" + "m" * 200) for i in range(count)])
        layers = daemon.next()[1]["layers"]
        assert [layer["layer"] for layer in layers] == list(range(count))
        assert [layer.get("module", "")[:4] for layer in layers] == [f"{i:04}" if fits else "" for i in range(count)]


@pytest.mark.parametrize("given, sent", [(["the", "é"], ["the", "é"]), (["x" * 40000] * 2, None)])
def test_labels_travel_as_far_as_they_fit_a_header(daemon, publisher, given, sent):
    q, k = np.ones((1, 2, 3, 4), np.float32), np.ones((1, 1, 2, 4), np.float32)
    publisher.publish_attention(uniform(1, 1, 1, 2), labels=given, **AT)
    publisher.publish_qk(q, k, labels=given, **AT)
    assert [daemon.next()[1].get("labels") for _ in range(2)] == [sent, sent]
    with pytest.raises(ValueError, match="labels"):
        publisher.publish_qk(q, k, labels=["of", "queries", "?"], **AT)


def test_a_message_queued_while_the_wake_up_is_taken_does_not_silence_the_next(publisher, monkeypatch):
    """The sender would wait for a wake-up that the publisher believes is under way."""
    read, raced = os.read, []

    def read_after_a_put(descriptor, size):
        if not raced and threading.current_thread().name == "attnd-sender":
            raced.append(publisher.publish_attention(uniform(), **AT))
        return read(descriptor, size)

    monkeypatch.setattr(sender.os, "read", read_after_a_put)
    for step in range(3):
        publisher.publish_attention(uniform(), step=step, **AT)
        assert publisher.drain(60), f"step {step} was not sent"
    assert raced == [True]


def test_arguments_that_no_header_could_carry_end_nothing(daemon, publisher):
    heads = np.int64(9)
    assert publisher.publish_attention(uniform(), head_offset=np.int32(3), heads_total=heads, labels=["\ud800"] * 4, **AT)
    assert publisher.publish_weights(heads=np.int16(1), head_dim=2, heads_total=heads, wq=np.ones((2, 2)), **AT)
    _, header, _ = daemon.next()
    assert (header["head_offset"], header["heads_total"], header["labels"]) == (3, 9, ["?"] * 4)
    assert daemon.next()[1]["heads_total"] == 9


def test_a_message_that_cannot_be_sent_is_dropped_and_the_next_one_is_sent(daemon, publisher, monkeypatch, caplog):
    pack = sender.wire.pack_header
    monkeypatch.setattr(sender.wire, "pack_header", lambda keys: 1 / 0 if keys["step"] == 0 and keys["type"] != "event" else pack(keys))
    for step in range(2):
        assert publisher.publish_attention(uniform(), step=step, **AT)
    assert daemon.next()[1]["step"] == 1 and publisher.drain(60)
    assert publisher.stats()["dropped"] == 1 and identity_holds(publisher.stats()) and "could not be sent" in caplog.text


@pytest.mark.parametrize("what", ["stats", "log", "epoch_end", "publish", "drain", "close"])
def test_a_handler_of_a_signal_may_use_the_publisher_that_it_interrupts(what):
    _, code, said = run_python(f"""
        import signal, sys, threading
        import numpy as np
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from conftest import FakeDaemon
        publisher, weights = FakeDaemon().publisher(linger=0.5), np.full((1, 2, 16, 16), 1 / 16, np.float32)
        assert publisher.wait_for_subscriber(60)
        use = {{"stats": publisher.stats, "log": lambda: publisher.log(loss=1.0), "epoch_end": lambda: publisher.epoch_end(0),
               "publish": lambda: publisher.publish_attention(weights, stack="decoder", layer=1),
               "drain": lambda: publisher.drain(0.001), "close": publisher.close}}[{what!r}]
        handled = 0

        def handler(*_):
            global handled
            use()
            handled += 1
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while handled < 300:
            publisher.publish_attention(weights, stack="decoder", layer=0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a handler that runs now would set the timer once more
        publisher.close()
        stats = publisher.stats()
        assert stats["published"] == stats["sent"] + stats["dropped"] + stats["skipped"] + stats["queued"], stats
        assert stats["queued"] == 0 == stats["queued_bytes"], stats
        """)
    assert code == 0, said


def test_an_interruption_gives_the_room_in_the_queue_back(daemon):
    def interrupted(message):
        raise KeyboardInterrupt

    with daemon.publisher(on_publish=interrupted) as publisher:
        with pytest.raises(KeyboardInterrupt):
            publisher.publish_attention(uniform(), **AT)
        stats = publisher.stats()
        assert (stats["queued"], stats["queued_bytes"], stats["dropped"]) == (0, 0, 1) and identity_holds(stats)


def test_a_publisher_that_cannot_be_made_leaves_no_descriptor():
    def refused():
        with pytest.raises(ValueError):
            attnd.Publisher("job", address="tcp://nowhere")
        return len(os.listdir("/proc/self/fd"))

    assert refused() == refused()


# ------------------------------------------------------------------------------ subscriptions and skips

def test_without_a_subscriber_publishing_is_a_counted_no_op():
    with attnd.Publisher("job", free_endpoint()) as publisher:
        assert not publisher.wanted("decoder", 0, "self")
        for _ in range(100):
            assert publisher.publish_attention(uniform(), **AT) is False
        publisher.epoch_end(0)
        wait_until(lambda: publisher.stats()["queued"] == 0, "the event is looked at")
        stats = publisher.stats()
        assert stats["skipped"] == 101 and stats["sent"] == stats["dropped"] == 0
        assert identity_holds(stats)


def test_without_a_subscriber_nothing_is_read():
    class Untouched(np.ndarray):
        def __ne__(self, other):
            pytest.fail("read")

    with attnd.Publisher("job", free_endpoint()) as publisher:
        assert not publisher.publish_attention(uniform(), mask=np.ones((2, 4, 4)).view(Untouched), **AT)


def test_only_subscribed_layers_are_wanted():
    fake = FakeDaemon(topics=(b"tensor/job/decoder/3/", b"event/"))
    with fake.publisher() as publisher:
        assert publisher.wanted("decoder", 3, "self") and publisher.wanted("decoder", 3, "cross")
        assert not publisher.wanted("decoder", 31, "self") and not publisher.wanted("encoder", 3, "self")
        assert not publisher.publish_attention(uniform(), **AT)
        assert publisher.publish_attention(uniform(), stack="decoder", layer=3)
        assert fake.next()[0] == "tensor/job/decoder/3/self/"


def test_waiting_for_a_subscriber_is_bounded_and_sees_a_late_one():
    endpoint = free_endpoint()
    with attnd.Publisher("job", endpoint) as publisher:
        begin = time.monotonic()
        assert publisher.wait_for_subscriber(0.1) is False
        assert time.monotonic() - begin < 30
        fake = FakeDaemon(endpoint)
        seen = []
        waiter = threading.Thread(target=lambda: seen.append(publisher.wait_for_subscriber(60)))
        waiter.start()
        fake.attach(publisher)
        waiter.join()
        assert seen == [True]
        publisher.publish_attention(uniform(), **AT)
        assert fake.next("attention")[1]["seq"] == 0  # nothing before it was lost: nothing was sent
        fake.close()


def test_a_subscriber_of_another_job_is_not_one_of_ours():
    fake = FakeDaemon(topics=(b"tensor/job2/",))
    with attnd.Publisher("job", fake.endpoint) as publisher:
        wait_until(lambda: fake.serve() or publisher._sender.prefixes, "the subscription arrives")
        assert publisher.wait_for_subscriber(0.01) is False


def test_a_daemon_that_restarts_hears_hello_again_and_seq_goes_on():
    fake = FakeDaemon()
    with fake.publisher() as publisher:
        publisher.hello([("decoder", 0, "self", 3)])
        publisher.publish_attention(uniform(), **AT)
        assert fake.next()[1]["event"] == "hello" and fake.next()[1]["seq"] == 0
        fake.close()
        wait_until(lambda: not publisher.wanted("decoder", 0, "self"), "the publisher notices")
        assert publisher.publish_attention(uniform(), **AT) is False
        fake = FakeDaemon(fake.endpoint)
        fake.attach(publisher)
        assert fake.next()[1]["event"] == "hello"
        publisher.publish_attention(uniform(), **AT)
        header = fake.next()[1]
        assert header["seq"] == 1 and header["dropped"] == 0
        assert identity_holds(publisher.stats())


# -------------------------------------------------------------------------------- daemons that go away

@pytest.mark.parametrize("after_s", [0, 3600])
def test_a_daemon_that_is_away_for_long_is_told_once_and_one_that_restarts_is_not(after_s, monkeypatch, caplog):
    monkeypatch.setattr(presence, "GONE_AFTER_S", after_s)
    fake = FakeDaemon()
    with attnd.Publisher("job", fake.endpoint) as p:
        p.tell_absences(lambda: "Start it")
        fake.attach(p)
        for count in (1, 3):
            fake.close()
            wait_until(lambda: not p.stats()["subscribed"], "its end is known")
            wait_until(lambda: after_s or len(caplog.messages) == count, "its end is told")
            fake = FakeDaemon(fake.endpoint)
            fake.attach(p)
            wait_until(lambda: after_s or len(caplog.messages) == count + 1, "its return is told")
    said = [f"job job: attnd at {fake.endpoint} has gone, or does not answer: nothing is captured until it is back; training "
            "goes on. Start it", f"job job: attnd is back, at {fake.endpoint}: what follows is captured, 0 s were not"]
    assert [re.sub(r"\d+ s were", "0 s were", message) for message in caplog.messages] == ([] if after_s else 2 * said)


def test_of_an_attnd_elsewhere_the_network_is_told(monkeypatch, caplog):
    monkeypatch.setattr(presence, "GONE_AFTER_S", 0)
    monkeypatch.setattr(address, "is_here", lambda endpoint: False)
    fake = FakeDaemon()
    with attnd.Publisher("job", fake.endpoint) as p:
        p.tell_absences(lambda: pytest.fail("it is not here to be started"))
        fake.attach(p)
        fake.close()
        wait_until(lambda: caplog.messages, "its end is told")
    assert caplog.messages[0].endswith("See whether attnd runs there, and whether the network and the firewalls let it through")


@pytest.mark.parametrize("endpoint, is_here", [("ipc:///run/attnd/ingest", True), ("tcp://127.0.0.1:5570", True),
                                               ("tcp://localhost:5570", True), ("tcp://[::1]:5570", True),
                                               ("tcp://10.0.0.1:5570", False), ("tcp://localhost.example:5570", False)])
def test_what_is_reached_without_a_network(endpoint, is_here):
    assert address.is_here(endpoint) is is_here


# ------------------------------------------------------------------------------------------- the end

def test_the_end_is_told_though_messages_are_slow_to_make(monkeypatch, caplog):
    daemon = FakeDaemon(topics=(b"", b"limits/header=10"))
    monkeypatch.setattr(sender, "PARTING", 0.95)  # a loaded machine has long pauses
    publisher = daemon.publisher(linger=20)
    queue = publisher._outbox
    made = []

    def make():
        made.append(time.monotonic())
        time.sleep(0.1)
        return sender.Message(TOPIC.encode(), "attention", {}, 0, 0, (), 0)

    for left in reversed(range(400)):
        assert queue.reserve(TOPIC.encode(), 0)
        queue.put(sender.Later(TOPIC.encode(), 0, 0, 0, make), more=left > 0)
    wait_until(lambda: made, "the first message")
    begin = time.monotonic()
    publisher.close()
    assert time.monotonic() - begin < 30
    wait_until(lambda: not publisher._sender._thread.is_alive(), "the thread's end")
    stats = publisher.stats()
    assert len(made) == stats["sent"] - 1 < 400 and stats["dropped"] == 400 - len(made)
    assert stats["queued"] == 0 and identity_holds(stats)
    assert daemon.until_bye()[-1][1]["dropped_total"] == stats["dropped"]
    assert f"{stats['dropped']} messages were not ready within 20 s of the end" in caplog.text


def test_after_close_publishing_is_skipped(daemon):
    publisher = daemon.publisher()
    publisher.close()
    publisher.close()
    assert publisher.publish_attention(uniform(), **AT) is False
    publisher.epoch_end(1)
    assert publisher.wait_for_subscriber(0.1) is False
    assert identity_holds(publisher.stats())


@pytest.mark.parametrize("where", ["nobody", "daemon"])
def test_an_interpreter_that_forgets_to_close_still_ends(where):
    fake = FakeDaemon()
    endpoint = fake.endpoint
    if where == "nobody":
        fake.close()
    seconds, code, errors = run_python(f"""
        import attnd, numpy as np
        p = attnd.Publisher("job", {endpoint!r}, linger={60 if where == "daemon" else 1.0})
        p.wait_for_subscriber({60 if where == "daemon" else 0.1})
        for step in range(10):
            p.publish_attention(np.full((8, 8, 64, 64), 1/64, np.float32), stack="decoder", layer=0, step=step)
    """, fake=fake if where == "daemon" else None)
    assert code == 0 and errors == ""
    assert seconds < 60
    if where == "daemon":
        assert [h["type"] for _, h, _ in fake.until_bye()] == ["attention"] * 10 + ["event"]


def test_a_forked_child_is_inert_and_the_parent_goes_on(daemon, publisher):
    publisher.publish_attention(uniform(), **AT)
    child = os.fork()
    if child == 0:
        try:
            ok = (not publisher.wanted("decoder", 0, "self")
                  and not publisher.publish_attention(uniform(), **AT)
                  and publisher.wait_for_subscriber(0.01) is False)
            publisher.epoch_end(0)
            publisher.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    publisher.publish_attention(uniform(), **AT)
    publisher.close()
    assert [h.get("event", h["seq"]) for _, h, _ in daemon.until_bye()] == [0, 1, "bye"]


def test_a_forked_child_that_ends_normally_does_not_hang(daemon):
    _, code, errors = run_python(f"""
        import os, sys, attnd, numpy as np
        p = attnd.Publisher("job", {daemon.endpoint!r})
        p.wait_for_subscriber(60)
        p.publish_attention(np.full((8, 8, 64, 64), 1/64, np.float32), stack="decoder", layer=0)
        child = os.fork()
        if child == 0:
            sys.exit(3)                  # with all exit handlers and destructors
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        p.publish_attention(np.full((8, 8, 64, 64), 1/64, np.float32), stack="decoder", layer=0)
    """, fake=daemon)
    assert code == 0, errors
    assert [h.get("event", h["seq"]) for _, h, _ in daemon.until_bye()] == [0, 1, "bye"]


def test_an_idle_publisher_does_not_wake_up(daemon, publisher, monkeypatch):
    poll_calls, poll = [], zmq.Poller.poll
    wait_until(lambda: publisher.stats()["queued"] == 0, "idle")

    def count(self, timeout=None):
        if threading.current_thread().name == "attnd-sender":
            poll_calls.append(timeout)
        return poll(self, timeout)

    monkeypatch.setattr(zmq.Poller, "poll", count)
    publisher.publish_attention(uniform(), **AT)
    daemon.next()
    wait_until(lambda: poll_calls, "back to sleep")
    assert set(poll_calls) == {None}  # no timeout: sleeps until something happens


# ----------------------------------------------------------------------------------------- arguments

@pytest.mark.parametrize("arguments", [
    {"job": ""}, {"endpoint": "nonsense"}, {"endpoint": "tcp://"}, {"endpoint": 5}, {"rank": 1},
    {"world": 0}, {"rank": -1}, {"queue_bytes": 0}, {"linger": -1}, {"run": b"short"}, {"run": "xy"},
    {"high_water": 0}])
def test_bad_constructor_arguments_are_value_errors(arguments):
    with pytest.raises(ValueError):
        attnd.Publisher(**{"job": "job", "endpoint": "tcp://127.0.0.1:1", **arguments})


@pytest.mark.parametrize("arguments,says", [
    ({"weights": np.ones((2, 2, 2))}, "batch, heads"), ({"weights": np.ones((1, 1, 0, 1))}, "none of them 0"),
    ({"weights": np.ones((1, 1, 1, 1), dtype=np.int64)}, "dtype"), ({"weights": [[[[1.0]]]]}, "numpy array"),
    ({"stack": "both"}, "stack"), ({"layer": -1}, "layer"), ({"site": "x"}, "site"), ({"epoch": -1}, "epoch"),
    ({"step": 1.5}, "step"), ({"window": -1}, "window"), ({"q_len": [1]}, "q_len"), ({"q_len": [1, 5]}, "q_len"),
    ({"k_len": [1.0, 2.0]}, "k_len"), ({"mask": np.ones((4, 4))}, "mask"),
    ({"head_offset": 2, "heads_total": 4}, "heads"),
    ({"labels": ["a"]}, "labels"), ({"dtype": "u8"}, "dtype")])
@pytest.mark.parametrize("listening", [True, False])
def test_bad_arguments_are_value_errors_whether_or_not_anybody_listens(arguments, says, listening, daemon):
    with attnd.Publisher("job", daemon.endpoint if listening else free_endpoint()) as publisher:
        if listening:
            daemon.attach(publisher)
        with pytest.raises(ValueError, match=says):
            publisher.publish_attention(**{"weights": uniform(), **AT, **arguments})
        assert publisher.stats()["published"] == 0


def maps(*shape):
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize("arguments,says", [
    ({"k": maps(1, 2, 3)}, "key heads"), ({"k": maps(2, 2, 4, 8)}, "batch"), ({"k": maps(1, 2, 4, 7)}, "head_dim"),
    ({"k": maps(1, 3, 4, 8)}, "divide"), ({"v": maps(1, 2, 3, 8)}, "those of k"), ({"q": maps(1, 4, 8)}, "queries"),
    ({"scale": float("nan")}, "scale"), ({"scale": "x"}, "scale"), ({"softcap": -1}, "softcap"),
    ({"q_offset": -1}, "q_offset"), ({"q_offset": 2**32 - 3}, "q_offset"), ({"q_stride": 0}, "q_stride"),
    ({"q_stride": 2**31}, "q_stride"), ({"mask": np.ones((1, 4, 3))}, "mask"),
    ({"tokens": [[1, 2]]}, "tokens"), ({"labels": 5}, "labels"), ({"tokens": np.full((1, 4), 2**31)}, "32 bits"),
    ({"documents": np.zeros((1, 4), int), "q_offset": 2}, "documents"),
    ({"documents": np.zeros((1, 4), int), "q_stride": 2}, "documents"),
    ({"documents": np.zeros((1, 4), int), "site": "cross"}, "documents"),
    ({"dout": maps(1, 4, 3, 8)}, "dout: needs v"), ({"wo_r": maps(4, 8, 8)}, "wo_r: needs v"),
    ({"v": maps(1, 2, 4, 8), "x_norm": maps(1, 3)}, "x_norm: needs wo_r"),
    ({"v": maps(1, 2, 4, 8), "dout": maps(1, 2, 3, 8)}, "dout: must be"),
    ({"v": maps(1, 2, 4, 6), "dout": maps(1, 4, 3, 8)}, "dout: must be"),
    ({"v": maps(1, 2, 4, 6), "wo_r": maps(4, 7, 6)}, "at most 6"),
    ({"v": maps(1, 2, 4, 6), "wo_r": maps(2, 6, 6)}, "wo_r of shape"),
    ({"v": maps(1, 2, 4, 6), "wo_r": maps(4, 6, 6), "x_norm": maps(1, 4)}, "x_norm: must be"),
    ({"v": maps(1, 2, 4, 6), "wo_r": np.ones((4, 6, 6), int)}, "dtype")])
def test_bad_queries_and_keys_are_value_errors(arguments, says, publisher):
    with pytest.raises(ValueError, match=says):
        publisher.publish_qk(**{"q": maps(1, 4, 3, 8), "k": maps(1, 2, 4, 8), **AT, **arguments})
    assert publisher.stats()["published"] == 0


@pytest.mark.parametrize("arguments,says", [
    ({}, "at least one"), ({"wq": maps(8)}, "out, in"), ({"wq": maps(7, 6)}, "4 \\* 2"), ({"wk": maps(8, 6)}, "2 \\* 2"),
    ({"wo": maps(8, 6)}, "in must be"), ({"wq": maps(8, 6), "kv_heads": 3}, "kv_heads"),
    ({"wq": maps(8, 6), "heads": 0}, "heads"), ({"wq": maps(8, 6), "head_dim": 0}, "head_dim"),
    ({"wq": maps(8, 6), "heads_total": 3}, "heads_total")])
def test_bad_projections_are_value_errors(arguments, says, publisher):
    with pytest.raises(ValueError, match=says):
        publisher.publish_weights(**{"heads": 4, "kv_heads": 2, "head_dim": 2, **AT, **arguments})
    assert publisher.stats()["published"] == 0


@pytest.mark.parametrize("changes,says", [
    ({"names": ("largest",)}, "sums"), ({"sums": maps(5, 2, 3)}, "sums"), ({"sums": maps(5, 1, 0, 3)}, "sums"),
    ({"sums": np.ones((5, 1, 2, 3), np.int64)}, "sums"), ({"sums": [[[[1.0]]]]}, "sums"), ({"places": np.ones((8, 1, 3))}, "places"),
    ({"places": np.ones((7, 1, 3), np.int32)}, "places"), ({"places": np.ones((8, 2, 3), np.int32)}, "places"),
    ({"places": np.ones((8, 1, 2), np.int32)}, "places"), ({"places": None}, "places"), ({"queries": 2}, "queries"), ({"queries": 3.5}, "queries"),
    ({"keys": 0}, "keys"), ({"key_lengths": maps(1, 1, 3)}, "key_lengths"), ({"key_lengths": maps(1, 3, 4)}, "key_lengths"),
    ({"key_lengths": maps(2, 1, 4)}, "key_lengths"), ({"sinks": maps(3)}, "sinks"), ({"sinks": 1.0}, "sinks")])
def test_bad_rows_are_value_errors(changes, says, publisher):
    with pytest.raises(ValueError, match=says):
        publisher.publish_rows(uniform_rows(2, 3, 4)._replace(**changes), **AT)
    assert publisher.stats()["published"] == 0


@pytest.mark.parametrize("arguments,says", [
    ({"rows": "rows"}, "rows of type str: must be Rows"), ({"rows": None}, "rows of type NoneType"), ({"rows": tuple(uniform_rows())}, "rows of type tuple"),
    ({"rows": 7}, "rows of type int"), ({"stack": "both"}, "stack"), ({"layer": -1}, "layer"), ({"site": "x"}, "site"), ({"epoch": -1}, "epoch"),
    ({"step": 1.5}, "step"), ({"microbatch": -1}, "microbatch"), ({"head_offset": 1, "heads_total": 2}, "heads"), ({"module": 5}, "module")])
def test_bad_arguments_beside_rows_are_value_errors(arguments, says, publisher):
    with pytest.raises(ValueError, match=says):
        publisher.publish_rows(**{"rows": uniform_rows(), **AT, **arguments})
    assert publisher.stats()["published"] == 0


def test_lengths_that_do_not_fit_a_header_are_refused(publisher):
    with pytest.raises(ValueError, match="lengths"):
        publisher.publish_attention(uniform(20000, 1, 1, 1), k_len=[1] * 20000, **AT)


def test_importing_the_package_imports_neither_torch_nor_zmq():
    _, code, errors = run_python("""
        import attnd, sys
        assert "torch" not in sys.modules and "zmq" not in sys.modules
        attnd.Publisher, attnd.Subscriber, attnd.Control
        assert "torch" not in sys.modules
        assert set(attnd.__all__) <= set(dir(attnd))
        try: attnd.nothing
        except AttributeError: pass
        else: raise SystemExit(1)
    """)
    assert code == 0, errors


def test_a_job_with_a_name_that_is_none_gets_one_and_is_told(daemon, caplog):
    with caplog.at_level(logging.WARNING, "attnd"), attnd.Publisher("org/model lr=3e-4", daemon.endpoint) as publisher:
        assert publisher.job == wire.job_name("org/model lr=3e-4") != "org-model-lr-3e-4"
    assert f"'org/model lr=3e-4' is named {publisher.job} here" in caplog.text
