# SPDX-License-Identifier: MIT
"""Hostile and broken messages: each is refused or counted with its own reason, and nobody else notices."""
import os
import random
import re

import msgpack
import numpy as np
import pytest
from harness import SANITIZED, Attnd, Reader, Trainer, observed, softmax_maps, wait_log, wait_until

# Sanitizer builds set a smaller number: they are many times slower.
RANDOM_MESSAGES = int(os.environ.get("ATTND_TEST_MESSAGES", "40000"))


def good_frames(trainer, rng):
    return trainer.attention_frames(softmax_maps(rng, 1, 2, 4, 4))


def with_header(frames, **changes):
    header = msgpack.unpackb(frames[1])
    for key, value in changes.items():
        if value is KeyError:
            del header[key]
        else:
            header[key] = value
    return [frames[0], msgpack.packb(header)] + frames[2:]


def weights_of_shape(*shape, dtype="f32"):
    return [dict(name="weights", dtype=dtype, shape=list(shape))]


HEADER_CASES = {
    "version": dict(v=2),
    "type_unknown": dict(type="thoughts"),
    "key_missing": dict(epoch=KeyError),
    "key_type": dict(epoch="three"),
    "key_range": dict(layer=1 << 40),
    "job_name": dict(job="../etc/passwd"),
    "dtype": dict(tensors=weights_of_shape(1, 2, 4, 4, dtype="q4")),
    "shape": dict(tensors=weights_of_shape(2, 4, 4)),
    "shape_zero": dict(tensors=weights_of_shape(1, 0, 4, 4)),
    "shape_overflow": dict(tensors=weights_of_shape(2**31 - 1, 2**31 - 1, 2**31 - 1, 4)),
    "size_mismatch": dict(tensors=weights_of_shape(1, 2, 4, 5)),
    "tensor_name": dict(tensors=[dict(name="wights", dtype="f32", shape=[1, 2, 4, 4])]),
    "gqa": dict(type="qk", scale=1.0, tensors=[dict(name="q", dtype="f32", shape=[1, 2, 4, 4]),
                                               dict(name="k", dtype="f32", shape=[1, 3, 4, 4])]),
    "head_dim": dict(type="weights", heads=2, head_dim=4, tensors=[dict(name="wq", dtype="f32", shape=[7, 4])]),
    "documents": dict(site="cross", tensors=[dict(name="weights", dtype="f32", shape=[1, 2, 4, 4]),
                                             dict(name="documents", dtype="i32", shape=[1, 4])]),
    "tensor_needs": dict(type="qk", scale=1.0, tensors=[dict(name=name, dtype="f32", shape=[1, 2, 4, 4])
                                                        for name in ("q", "k", "dout")]),
    "lengths": dict(k_len=[5]),
    "topic_mismatch": dict(layer=7),
}

RAW_HEADERS = {
    "header_size": b"\xdb" + (65536 - 4).to_bytes(4, "big") + b"x" * (65536 - 4),
    "header_truncated": msgpack.packb({"v": 1, "type": "attention"})[:-1],
    "header_malformed": b"\xc1",
    "header_depth": b"\x91" * 60000 + b"\xc0",
    "header_elements": b"\xdc\xff\xff" + b"\xc0" * 65000,
    "header_trailing": msgpack.packb({"v": 1}) + b"\xc0",
    "header_not_map": msgpack.packb([1, 2, 3]),
}


def test_a_bad_header_has_its_own_reason(attnd, rng):
    """A value of it, or the bytes."""
    trainer = Trainer(attnd, "job")
    for count, reason in enumerate((*HEADER_CASES, *RAW_HEADERS), 1):
        frames = good_frames(trainer, rng)
        if reason in HEADER_CASES:
            trainer.send(*with_header(frames, **HEADER_CASES[reason]))
        else:
            trainer.send(frames[0], RAW_HEADERS[reason], *frames[2:])
        assert attnd.settled(count)["dropped"].get(reason) == 1, reason
        wait_log(attnd, f"reason={reason}")
    assert sum(attnd.stats()["dropped"].values()) == count


@pytest.mark.parametrize("key, value, wanted", [
    ("time_ns", 1.7e18, "an integer of nanoseconds since 1970, no float"), ("step", 3.0, "an integer, no float"),
    ("run", "text", "a binary of 16 bytes"), ("causal", 1, "true or false")])
def test_the_log_says_what_a_key_of_another_type_must_be(attnd, rng, key, value, wanted):
    trainer = Trainer(attnd, "job")
    trainer.send(*with_header(good_frames(trainer, rng), **{key: value}))
    attnd.settled(1)
    wait_log(attnd, f'detail="a key\'s value has the wrong type; needed is {wanted}" key={key}')


def test_more_pairs_of_queries_and_keys_than_allowed_are_refused(rng):
    """A message of queries and keys asks for more the longer it is, by the square."""
    attnd = Attnd("limits.entries=10000")
    trainer = Trainer(attnd, "job")
    for length in (70, 71):  # two heads
        q = rng.normal(size=(1, 2, length, 4)).astype(np.float32)
        trainer.qk(q, q, scale=0.5)
    assert attnd.settled(2)["dropped"] == {"entries_limit": 1}


def test_what_computing_a_message_takes_counts_against_the_budget(rng):
    """Few queries and many keys: a row is laid out several times over."""
    attnd = Attnd("ingest.budget=64MiB", "ingest.max_message=64MiB")
    trainer = Trainer(attnd, "job")
    trainer.attention(np.full((1, 1, 2, 1 << 20), 2.0**-20, np.float16))
    assert attnd.settled(1)["dropped"] == {"too_large": 1}


def send_frames(trainer, rng):
    frames = good_frames(trainer, rng)
    for sent in (frames[:1], frames[:2], [*frames, b"more"], [*frames, *[b"more"] * 20]):
        trainer.send(*sent)


def send_seqs(trainer, rng):
    for seq in (0, 1, 1, 0, 2):
        trainer.attention(softmax_maps(rng, 1, 2, 4, 4), seq=seq)


def send_heads(trainer, rng):
    for heads in (2, 3, 2):
        trainer.attention(softmax_maps(rng, 1, heads, 4, 4))


def send_after_bye(trainer, rng):
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4))
    trainer.event("bye")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), seq=0)


# No argument of any method has one of these values; each with its words.
NO_VALUES = ((-1, "-1"), (1.5, "1.5"), ([1, 2], "a list of 2"), ({"a": 1}, "a map"), (b"z", "a binary"))
METHOD_DEF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto", "method.def")


def arguments_of_methods(*kinds):
    """(method, argument) of the table, of methods of these kinds."""
    with open(METHOD_DEF, encoding="utf-8") as file:
        rows = re.findall(r'(?:METHOD|ROUTED|CHANGES)\("([\w.]+)", \w+, (\w+), \w+,(?: \w+,)?\s+"([^"]*)"', file.read())
    words = [(method, word) for method, when, takes in rows if when in kinds for word in takes.replace("!", "").split()]
    return [(method, word) for method, word in words if word != "..."]


@pytest.mark.parametrize("kinds, settings", [(("PRESENT", "BOTH", "PAST"), ()),
                                             (("PRESENT", "BOTH"), ("history.enabled=false",))])
def test_an_argument_that_is_refused_is_named_with_its_value(rng, kinds, settings):
    attnd, arguments = Attnd(*settings), arguments_of_methods(*kinds)
    trainer = Trainer(attnd, "job")
    trainer.send(*good_frames(trainer, rng))
    wait_until(lambda: attnd.call("jobs"), "the job")
    assert {("summary", "window"), ("maps", "packed"), ("alerts", "limit"), ("baseline", "to")} <= set(arguments)
    for method, name in arguments:
        for value, shown in NO_VALUES:
            with pytest.raises(RuntimeError, match="^argument") as caught:
                attnd.call(method, **{**({"job": "job"} if (method, "job") in arguments else {}), name: value})
            assert name in caught.value.sentence and shown in caught.value.sentence, (method, name, value)


def test_a_number_that_comes_as_text_is_refused_as_that(attnd):
    for method, name, valid in (
            ("summary", "layer", "0 to 65535"), ("live", "layer", "0 to 65535"), ("maps", "head", "0 to 1048575"),
            ("maps", "heads", "1 to 1048576"), ("maps", "size", "1 to 4294967295"), ("verdict", "limit", "1 to 200000"),
            ("maps", "packed", "true, false"), ("summary", "site", "self, cross"), ("live", "stack", "encoder, decoder")):
        with pytest.raises(RuntimeError, match="^argument") as caught:
            attnd.call(method, job="job", **{name: "1"})
        assert caught.value.sentence == f"{name} is not accepted: the text '1' (valid: {valid})"


@pytest.mark.parametrize("send, count, dropped", [
    (send_frames, 4, {"frames_missing": 2, "frames_extra": 2}),
    (lambda trainer, rng: trainer.send(b"tensor/job/middle/0/self/", *good_frames(trainer, rng)[1:]), 1, {"topic": 1}),
    (send_seqs, 5, {"seq_duplicate": 1, "seq_order": 1}),
    (send_heads, 3, {"heads_changed": 1}),
    (send_after_bye, 3, {"ended": 1}),
], ids=["frames", "topic", "seqs", "heads", "after bye"])
def test_what_is_out_of_place_is_dropped_and_no_loss(attnd, rng, send, count, dropped):
    send(Trainer(attnd, "job"), rng)
    stats = attnd.settled(count)
    assert stats["dropped"] == dropped and stats["lost"] == 0


def test_limits_refuse_and_count(rng):
    attnd = Attnd("limits.jobs=2", "limits.layers=2", "limits.heads=4", "limits.ranks=2")
    trainer = Trainer(attnd, "job")
    for layer in range(3):
        trainer.attention(softmax_maps(rng, 1, 2, 4, 4), layer=layer)
    trainer.attention(softmax_maps(rng, 1, 8, 4, 4), layer=0)
    for rank in (1, 2):
        Trainer(attnd, "job", rank, world=3, run=trainer.run).event("hello")
    attnd.settled(6)
    for name in ("job2", "job3"):
        Trainer(attnd, name).attention(softmax_maps(rng, 1, 2, 4, 4))
        attnd.settled(7)
    wait_until(lambda: attnd.stats()["received"] == 8, "all messages")
    assert attnd.settled(8)["dropped"] == {"stream_limit": 1, "heads_limit": 1, "rank_limit": 1,
                                           "job_limit": 1}


def mutate(randomly, frames):
    """One random change to a valid message."""
    frames = [bytearray(frame) for frame in frames]
    kind = randomly.randrange(7)
    if kind == 0:
        frames.pop(randomly.randrange(len(frames)))
    elif kind == 1:
        frames.insert(randomly.randrange(len(frames) + 1), bytearray(randomly.randbytes(randomly.randrange(64))))
    elif kind == 2:
        frame = frames[randomly.randrange(len(frames))]
        del frame[randomly.randrange(len(frame) + 1):]
    elif kind == 3:
        randomly.shuffle(frames)
    elif kind == 4:
        frames[1:2] = [bytearray(randomly.randbytes(randomly.randrange(200)))]
    else:
        frame = frames[min(randomly.choice([0, 1, 1, 1, 2]), len(frames) - 1)]
        for _ in range(randomly.randrange(1, 4)):
            frame[randomly.randrange(len(frame))] = randomly.randrange(256)
    if not frames or not bytes(frames[0]).startswith((b"tensor/", b"event/")):
        frames.insert(0, bytearray(b"tensor/"))  # otherwise ZeroMQ filters it out before attnd
    return [bytes(frame) for frame in frames]


def send_mutations(trainer, rng, randomly, count):
    for _ in range(count):
        if randomly.random() < 0.1:
            topic = f"event/{trainer.job}/"
            header = trainer.common(topic, "event", 0, 0, event=randomly.choice(["hello", "epoch_end"]))
            trainer.send(*mutate(randomly, [topic.encode(), msgpack.packb(header)]))
        else:
            frames = good_frames(trainer, rng)
            trainer.send(*(mutate(randomly, frames) if randomly.random() < 0.9 else frames))


def test_random_and_mutated_messages_cost_a_counter_and_nothing_else(rng):
    attnd = Attnd("limits.jobs=8", "limits.layers=64", "log.level=error")
    healthy = Trainer(attnd, "healthy")
    reader = Reader(attnd, "summary/healthy/")
    hostile = Trainer(attnd, "hostile")
    randomly = random.Random(1)
    before, grown = 0, []
    for turn in range(1, 7):  # what waited while attnd stood still makes it grow once, what it forgets to free each time
        send_mutations(hostile, rng, randomly, RANDOM_MESSAGES // 2)
        stats = attnd.settled(turn * (RANDOM_MESSAGES // 2))
        grown.append(attnd.rss_kb() - before)
        before += grown[-1]
        if turn > 1 and (SANITIZED or grown[-1] < 2048):
            break
    assert stats["received"] == turn * (RANDOM_MESSAGES // 2) and len(stats["dropped"]) > 15
    if not SANITIZED:  # a sanitizer keeps freed memory back on purpose; it looks for leaks at exit
        assert grown[-1] < 2048, "memory must be flat"
    healthy.attention(softmax_maps(rng, 1, 1, 4, 4))
    healthy.event("epoch_end", epoch=0)
    assert reader.next()[1]["messages"] == 1


def test_many_heads_cannot_use_up_the_memory(rng):
    attnd = Attnd("limits.state_memory=2MiB", "metrics.spectrum=false")  # a run may use a quarter of it
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for layer in range(16):
        trainer.attention(softmax_maps(rng, 1, 50, 4, 4), layer=layer)
    refused = attnd.settled(16)["dropped"]["state_limit"]
    assert 0 < refused < 15
    trainer.event("epoch_end", epoch=0)
    assert [reader.next()[1]["layer"] for _ in range(16 - refused)] == list(range(16 - refused))
    trainer.attention(softmax_maps(rng, 1, 50, 4, 4), layer=15, epoch=1)
    assert attnd.settled(18)["dropped"] == {"state_limit": refused}, "closed windows gave their states back"


def test_layers_that_are_only_named_cannot_use_up_the_memory():
    attnd = Attnd("limits.state_memory=4MiB")
    layers = [dict(stack="decoder", layer=layer, site="self", heads=1) for layer in range(1000)]
    for _ in range(12):
        Trainer(attnd, "job").event("hello", layers=layers)
    assert attnd.settled(12)["dropped"]["state_limit"] > 0
    assert sum(len(job["layers"]) for job in attnd.call("jobs")) < (4 << 20) / 1000


def test_runs_of_one_job_leave_memory_to_the_windows_of_another(rng):
    attnd = Attnd("limits.state_memory=1MiB", "metrics.spectrum=false")
    for run in range(8):
        trainer = Trainer(attnd, "hog")
        for layer in range(16):
            trainer.attention(softmax_maps(rng, 1, 50, 4, 4), layer=layer)
        attnd.settled(16 * (run + 1))
    Trainer(attnd, "other").attention(softmax_maps(rng, 1, 32, 4, 4))  # a ninth of the memory is free, at least
    assert attnd.settled(129)["dropped"]["state_limit"] > 0
    [job] = [job for job in attnd.call("jobs") if job["job"] == "other"]
    assert job["processed"] == 1 and not job["dropped"]


def test_windows_go_on_when_the_memory_for_states_is_used_up(rng):
    attnd, reader, trainer = observed("limits.state_memory=1MiB", "metrics.spectrum_budget=0",
                                      "window.unit=step", "window.length=4", "window.every=4")
    trainer.attention(softmax_maps(rng, 2, 64, 32, 32), step=0)
    attnd.settled(1)  # its histograms alone are more than a run may use
    for step in range(1, 16):  # one after the other: a window closes once what it has is processed
        trainer.attention(softmax_maps(rng, 2, 64, 32, 32), step=step)
        stats = attnd.settled(step + 1)
    assert stats["dropped"]["state_limit"] > 0
    assert [reader.next()[1]["window"]["last"] for _ in range(3)][-1] > 7, "later windows have data again"
