# SPDX-License-Identifier: MIT
"""Sketches of the projection matrices: joined over ranks, compared from capture to capture, in `live` and in the
history, after a kill; against numpy in float64."""
import signal

import msgpack
import numpy as np
import pytest
from harness import Attnd, Reader, Trainer, attnctl, observed, ranks_of, wait_log, wait_until

HEADS, KV_HEADS, PLACES = 4, 2, 64
ROWS = {"wq": HEADS, "wk": KV_HEADS, "wv": KV_HEADS, "wo": HEADS}
NOT_FINITE, ALL_ZERO, FROZEN, INCOMPLETE, RANKS_DIFFER = 1, 2, 4, 8, 16


def matrices(rng, scale=1):
    return {name: (scale * rng.normal(size=(rows, PLACES))).astype(np.float32) for name, rows in ROWS.items()}


def hash_of(values):
    """The 64 bits of the places of one head, as PROTOCOL.md says."""
    hashed = 0x9E3779B97F4A7C15
    for word in values.view(np.uint64).tolist():
        hashed = (hashed ^ word) * 0xBF58476D1CE4E5B9 % 2**64
        hashed ^= hashed >> 32
    return f"{hashed:016x}"


def expected(now, before, flags):
    """The numbers of one matrix, [heads, 64] each, in float64; `before` None: there was no capture."""
    moved, cosine = [], []
    for head, values in enumerate(now):
        s, b = values.astype(np.float64), None if before is None else before[head].astype(np.float64)
        known = b is not None and np.isfinite([s, b]).all() and b.any()
        moved.append(np.linalg.norm(s - b) / np.linalg.norm(b) if known else None)
        cosine.append(s @ b / np.linalg.norm(s) / np.linalg.norm(b) if known and s.any() else None)
    return dict(moved=moved, cosine=cosine, hash=[hash_of(values) for values in now], flags=flags)


def assert_same(found, want):
    """Sums of 64 products in float64 differ by their order, by 64 roundings at most."""
    assert found["hash"] == want["hash"] and found["flags"] == want["flags"]
    for name in ("moved", "cosine"):
        assert [value is None for value in found[name]] == [value is None for value in want[name]]
        numbers = [value for value in found[name] if value is not None], [value for value in want[name] if value is not None]
        np.testing.assert_allclose(*numbers, rtol=0, atol=64 * 2.0**-52 * max([1, *numbers[1]]))


def next_sketch(reader):
    """The next one of `live`, without what stands beside it."""
    while True:
        topic, live = reader.next()
        if live["tier"] == "sketch" and not live["snapshot"]:
            assert topic.startswith("live/") and live["shape"] is None and live["heads"] == {}
            assert live["sketch"]["step"] == live["step"]
            return live["sketch"]


def kept(attnd, count, **where):
    """All captures of the job in the history, the oldest first, once there are so many."""
    def ask():
        sketches = attnd.call("sketches", job="job", **where)["sketches"]
        return sketches[::-1] if len(sketches) == count else None
    return wait_until(ask, f"{count} captures in the history")


def test_the_numbers_of_each_capture_are_those_of_numpy(rng):
    attnd, reader, trainer = observed(topic="live/")
    captures = [matrices(rng) for _ in range(5)]
    captures[1]["wq"][0] = captures[0]["wq"][0]  # does not move
    captures[1]["wv"][1] = 0
    captures[2]["wo"][2, 63] = np.nan
    captures[2]["wk"][0, 0] = np.inf
    captures[3]["wq"] *= np.float32(1e30)
    captures[4]["wq"] *= np.float32(1e-38)
    captures[4]["wv"][0] = -0.0
    before, found = dict.fromkeys(ROWS), []
    for step, given in enumerate(captures):
        trainer.sketch(**given, step=10 * step, stored=["f32", "bf16", "f64", "f16"], frozen=["wk"], module="blocks.0.attn")
        sketch = next_sketch(reader)
        found.append(sketch)
        assert list(sketch) == ["step", "stored", "wq", "wk", "wv", "wo"]
        assert sketch["stored"] == ["f32", "bf16", "f64", "f16"]
        for name, values in given.items():
            flags = [NOT_FINITE * (not np.isfinite(head).all()) | ALL_ZERO * (not head.any()) | FROZEN * (name == "wk")
                     for head in values]
            assert_same(sketch[name], expected(values, before[name], flags))
        before = given
    assert found[1]["wq"]["moved"][0] == 0 and found[1]["wq"]["hash"][0] == found[0]["wq"]["hash"][0]
    past = kept(attnd, len(captures))
    assert [row["sketch"] for row in past] == found
    assert all((row["stack"], row["layer"], row["site"], row["epoch"]) == ("decoder", 0, "self", 0) for row in past)
    assert [row["step"] for row in past] == [0, 10, 20, 30, 40]
    assert [row["step"] for row in kept(attnd, 2, **{"from": 10, "to": 25})] == [10, 20]
    assert attnd.call("sketches", job="job", layer=1)["sketches"] == []
    newest = attnd.call("sketches", job="job", limit=1)
    assert newest["more"] and newest["sketches"][0]["step"] == 40
    live, = attnd.call("live", job="job", tier="sketch")
    assert live["sketch"] == found[-1] and live["module"] == "blocks.0.attn"
    stats = attnd.settled(5)
    assert stats["processed"] == 5 and attnd.call("jobs")[0]["layers"][0]["heads"] == HEADS


def test_what_attnd_announces_has_the_type():
    attnd = Attnd()
    trainer = Trainer(attnd, "job")
    limits = wait_until(lambda: next(prefix for prefix in trainer.prefixes if prefix.startswith(b"limits/")), "the limits")
    assert b"sketch" in limits.split(b";")[0].split(b"=")[1].split(b",") and b"header=11" in limits.split(b";")


def test_beside_attention_a_sketch_changes_no_summary(rng):
    attnd, reader, trainer = observed(topic="summary/")
    weights = np.full((1, HEADS, 8, 8), 1 / 8, np.float32)
    for epoch in range(2):
        trainer.attention(weights, epoch=epoch, step=epoch)
        if epoch:
            trainer.sketch(**matrices(rng), epoch=epoch, step=epoch)
        trainer.event("epoch_end", epoch=epoch, step=epoch)
    summaries = [reader.next()[1] for _ in range(2)]
    for key in ("messages", "rows", "heads", "lost", "dropped"):
        assert summaries[0][key] == summaries[1][key]
    assert attnd.call("live", job="job")[0]["tier"] == "attention"
    assert attnd.settled(5)["processed"] == 5


def test_replicas_are_one_capture_and_a_place_that_differs_is_told(rng):
    attnd = Attnd()
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 2)
    first, second = matrices(rng), matrices(rng)
    ranks[0].sketch(**first, step=0)
    attnd.settled(1)
    assert reader.silent()  # the other one is there, as `world` says
    ranks[1].sketch(**first, step=0)
    sketch = next_sketch(reader)
    assert all(sketch[name]["flags"] == [0] * rows for name, rows in ROWS.items())
    other = {name: values.copy() for name, values in second.items()}
    other["wk"][1, 7] = np.nextafter(other["wk"][1, 7], np.float32(9))
    ranks[1].sketch(**other, step=5)
    attnd.settled(3)
    ranks[0].sketch(**second, step=5)
    sketch = next_sketch(reader)
    assert sketch["wk"]["flags"] == [0, RANKS_DIFFER]
    assert_same(sketch["wq"], expected(second["wq"], first["wq"], [0] * HEADS))
    assert_same(sketch["wk"], expected(other["wk"], first["wk"], [0, RANKS_DIFFER]))  # what came first
    assert attnd.settled(4)["processed"] == 4


def test_slices_of_heads_are_joined(rng):
    attnd = Attnd()
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 2)
    captures = [matrices(rng) for _ in range(2)]
    for step, given in enumerate(captures):
        for rank in ranks:
            heads, keys = HEADS // 2, KV_HEADS // 2
            part = {name: values[rank.rank * (heads if name in ("wq", "wo") else keys):][:heads if name in ("wq", "wo") else keys]
                    for name, values in given.items()}
            rank.sketch(**part, step=step, head_offset=rank.rank * heads, heads_total=HEADS)
            attnd.settled(2 * step + rank.rank + 1)
        sketch = next_sketch(reader)
    for name in ROWS:
        assert_same(sketch[name], expected(captures[1][name], captures[0][name], [0] * ROWS[name]))


def test_shards_are_joined_by_the_places_that_they_hold(rng):
    attnd = Attnd()
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 3)
    captures = [matrices(rng) for _ in range(2)]
    for step, given in enumerate(captures):
        owner = rng.integers(0, 3, (sum(ROWS.values()), PLACES))
        for rank in ranks:
            held = (owner == rank.rank).astype(np.uint8)
            junk, at = {}, 0
            for name, rows in ROWS.items():  # what is not held is not looked at
                junk[name] = np.where(held[at:at + rows], given[name], np.float32(np.nan))
                at += rows
            rank.sketch(**junk, held=held, step=step)
        sketch = next_sketch(reader)
    for name in ROWS:
        assert_same(sketch[name], expected(captures[1][name], captures[0][name], [0] * ROWS[name]))
    assert attnd.settled(6)["processed"] == 6


def test_a_capture_without_all_of_its_places_ends_with_a_later_one(rng):
    attnd = Attnd()
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 2)
    whole, held = matrices(rng), np.ones((sum(ROWS.values()), PLACES), np.uint8)
    held[0, 5] = held[-1] = 0
    for rank in ranks:
        rank.sketch(**whole, step=0)
    next_sketch(reader)
    ranks[0].sketch(**whole, held=held, step=1)
    attnd.settled(3)
    assert reader.silent()
    ranks[0].sketch(**whole, step=2)  # of rank 1 nothing more comes: the next capture does not wait for it
    sketch = next_sketch(reader)
    assert sketch["step"] == 1
    assert sketch["wq"]["flags"] == [INCOMPLETE, 0, 0, 0] and sketch["wo"]["flags"] == [0, 0, 0, INCOMPLETE]
    assert sketch["wq"]["moved"] == [None, 0, 0, 0]
    assert sketch["wo"]["hash"][3] == hash_of(np.zeros(PLACES, np.float32))
    sketch = next_sketch(reader)
    assert sketch["step"] == 2 and sketch["wq"]["moved"] == [None, 0, 0, 0]
    assert sketch["wo"]["moved"] == [0, 0, 0, 0]  # against the newest in which a place was held
    assert attnd.settled(4)["processed"] == 4


def test_what_is_late_or_repeated_is_processed_and_changes_nothing(rng):
    attnd, reader, trainer = observed(topic="live/")
    captures = [matrices(rng) for _ in range(3)]
    trainer.sketch(**captures[0], step=10)
    trainer.sketch(**captures[1], step=20)
    trainer.sketch(**captures[2], step=15)
    trainer.sketch(**captures[2], step=20)
    trainer.sketch(**captures[2], step=30)
    steps = [next_sketch(reader) for _ in range(3)]
    assert [sketch["step"] for sketch in steps] == [10, 20, 30]
    assert_same(steps[2]["wq"], expected(captures[2]["wq"], captures[1]["wq"], [0] * HEADS))
    assert attnd.settled(5)["processed"] == 5 and reader.silent()
    trainer.event("epoch_end", epoch=0, step=30)
    trainer.sketch(**captures[0], epoch=1, step=40)
    next_sketch(reader)
    trainer.sketch(**captures[0], epoch=0, step=31)  # its window is closed, as for any message
    stats = attnd.settled(8)
    assert stats["dropped"] == {"late": 1} and stats["processed"] == 7


@pytest.mark.parametrize("how", ("epoch_end", "bye"))
def test_an_open_capture_ends_with_its_window(rng, how):
    attnd = Attnd()
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 2)
    half = {"wq": rng.normal(size=(HEADS // 2, PLACES)).astype(np.float32)}
    ranks[0].sketch(**half, step=3, head_offset=2, heads_total=HEADS)
    attnd.settled(1)
    assert reader.silent()
    ranks[1].event("hello")
    for rank in ranks:
        rank.event(how, epoch=0, step=3)
    sketch = next_sketch(reader)
    assert list(sketch) == ["step", "stored", "wq"]
    assert sketch["wq"]["flags"] == [INCOMPLETE, INCOMPLETE, 0, 0] and sketch["wq"]["moved"] == [None] * HEADS
    row, = kept(attnd, 1)
    assert row["sketch"] == sketch


def test_a_kill_loses_neither_what_was_finished_nor_what_was_open(rng):
    attnd = Attnd("history.checkpoint=100ms", "history.commit=100ms")
    ranks = ranks_of(attnd, 2)
    captures = [matrices(rng) for _ in range(3)]
    for rank in ranks:
        rank.sketch(**captures[0], step=0)
    ranks[0].sketch(**captures[1], step=1)
    wait_until(lambda: attnd.messages_kept() >= 3, "the checkpoint")
    attnd.restart(*ranks, sig=signal.SIGKILL)
    reader = Reader(attnd, "live/")
    other = dict(captures[1], wv=captures[2]["wv"])
    ranks[1].sketch(**other, step=1)
    sketch = next_sketch(reader)
    for name in ROWS:
        flags = [RANKS_DIFFER if name == "wv" else 0] * ROWS[name]
        assert_same(sketch[name], expected(captures[1][name], captures[0][name], flags))
    ranks[1].sketch(**captures[2], step=2)
    attnd.settled(2)
    assert reader.silent()
    ranks[0].sketch(**captures[2], step=2)
    assert_same(next_sketch(reader)["wo"], expected(captures[2]["wo"], captures[1]["wo"], [0] * HEADS))
    assert [row["step"] for row in kept(attnd, 3)] == [0, 1, 2]
    assert kept(attnd, 3)[1]["sketch"] == sketch
    attnd.restart(*ranks)
    assert kept(attnd, 3)[1]["sketch"] == sketch


def test_the_last_of_a_run_stays_in_the_history_when_it_has_ended(rng):
    attnd, reader, trainer = observed(topic="live/")
    trainer.sketch(**matrices(rng), step=1)
    trainer.event("bye", step=1)
    next_sketch(reader)
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")
    attnd.restart()
    assert len(kept(attnd, 1)) == 1


def test_a_layer_that_the_budget_has_no_room_for_keeps_none(rng):
    attnd = Attnd("limits.state_memory=1MiB")
    trainer = Trainer(attnd, "job")
    trainer.sketch(wq=np.ones((256, PLACES), np.float32), step=0)
    trainer.sketch(wq=np.ones((2, PLACES), np.float32), step=0, layer=1)
    stats = attnd.settled(2)
    assert stats["dropped"] == {"state_limit": 1} and stats["processed"] == 1
    wait_log(attnd, "message_dropped", "state_limit")
    kept(attnd, 1, layer=1)


def tensor(name, *shape, dtype="f32"):
    return dict(name=name, dtype=dtype, shape=list(shape))


BAD = {
    "no_matrix": ("tensor_name", dict(tensors=[tensor("held", 4, 64, dtype="u8")], stored=[])),
    "no_tensor": ("tensor_name", dict(tensors=[], stored=[])),
    "unknown": ("tensor_name", dict(tensors=[tensor("wx", 4, 64)])),
    "of_another_type": ("tensor_name", dict(tensors=[tensor("wq", 4, 64), tensor("mask", 1, 4, 64, dtype="u8")])),
    "twice": ("tensor_name", dict(tensors=[tensor("wq", 4, 64)] * 2, stored=["f32"] * 2)),
    "dtype": ("dtype", dict(tensors=[tensor("wq", 4, 64, dtype="bf16")])),
    "dtype_of_held": ("dtype", dict(tensors=[tensor("wq", 4, 64), tensor("held", 4, 64, dtype="i32")])),
    "places": ("shape", dict(tensors=[tensor("wq", 4, 63)])),
    "rank": ("shape", dict(tensors=[tensor("wq", 4, 8, 8)])),
    "heads": ("shape", dict(tensors=[tensor("wq", 4, 64), tensor("wo", 3, 64)], stored=["f32"] * 2)),
    "key_heads": ("shape", dict(tensors=[tensor("wk", 2, 64), tensor("wv", 1, 64)], stored=["f32"] * 2)),
    "rows_of_held": ("shape", dict(tensors=[tensor("wq", 4, 64), tensor("held", 3, 64, dtype="u8")])),
    "gqa": ("gqa", dict(tensors=[tensor("wq", 4, 64), tensor("wk", 3, 64)], stored=["f32"] * 2)),
    "no_stored": ("key_missing", dict(stored=KeyError)),
    "short_stored": ("shape", dict(stored=[])),
    "long_stored": ("shape", dict(stored=["f32", "f32"])),
    "stored_is_text": ("key_type", dict(stored="f32")),
    "stored_has_number": ("key_type", dict(stored=[32])),
    "stored_unknown": ("dtype", dict(stored=["f8"])),
    "stored_no_float": ("dtype", dict(stored=["i32"])),
    "frozen_unknown": ("tensor_name", dict(frozen=["wx"])),
    "frozen_not_there": ("tensor_name", dict(frozen=["wk"])),
    "frozen_twice": ("tensor_name", dict(frozen=["wq", "wq"])),
    "frozen_is_text": ("key_type", dict(frozen="wq")),
    "frozen_has_number": ("key_type", dict(frozen=[1])),
    "slice_beyond": ("key_range", dict(head_offset=2, heads_total=5)),
    "slice_of_key_heads": ("key_range", dict(tensors=[tensor("wq", 4, 64), tensor("wk", 1, 64)], stored=["f32"] * 2, head_offset=2,
                                             heads_total=8)),
    "keys_in_slices": ("key_range", dict(tensors=[tensor("wk", 4, 64)], head_offset=4, heads_total=8)),
    "size": ("size_mismatch", dict(tensors=[tensor("wq", 5, 64)])),
    "too_few": ("frames_missing", dict(tensors=[tensor("wq", 4, 64), tensor("wk", 4, 64)], stored=["f32"] * 2)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_reason(rng, case):
    attnd = Attnd()
    trainer = Trainer(attnd, "job")
    reason, changes = BAD[case]
    frames = trainer.sketch_frames(wq=matrices(rng)["wq"])
    header = {key: value for key, value in {**msgpack.unpackb(frames[1]), **changes}.items() if value is not KeyError}
    if not header["tensors"] or len(header["tensors"]) == 1 and header["tensors"][0]["name"] == "held":
        frames = frames[:2] + [bytes(256)] * len(header["tensors"])
    trainer.send(frames[0], msgpack.packb(header), *frames[2:])
    trainer.event("hello")
    stats = attnd.settled(2)
    assert stats["dropped"] == {reason: 1}, stats["dropped"]


def test_a_number_of_held_is_0_or_1(rng):
    attnd = Attnd()
    trainer = Trainer(attnd, "job")
    held = np.ones((HEADS, PLACES), np.uint8)
    held[3, 63] = 2
    trainer.sketch(wq=matrices(rng)["wq"], held=held)
    trainer.event("hello")
    assert attnd.settled(2)["dropped"] == {"sketch": 1}


def test_another_number_of_key_heads_is_refused(rng):
    attnd = Attnd()
    trainer = Trainer(attnd, "job")
    trainer.sketch(**matrices(rng), step=0)
    trainer.sketch(wq=np.ones((HEADS, PLACES), np.float32), wk=np.ones((1, PLACES), np.float32), step=1)
    trainer.sketch(wk=np.ones((KV_HEADS, PLACES), np.float32), heads_total=HEADS, step=2)  # of keys alone
    stats = attnd.settled(3)
    assert stats["dropped"] == {"heads_changed": 1} and [row["step"] for row in kept(attnd, 2)] == [0, 2]


def test_attnctl_tail_says_how_far_the_heads_moved(rng):
    attnd, reader, trainer = observed(topic="live/")
    now = matrices(rng)
    trainer.sketch(step=0, **now)
    next_sketch(reader)
    now["wq"][:] *= 2
    trainer.sketch(step=1, **now)
    next_sketch(reader)
    said = attnctl(attnd, "tail", "live/", "--count", "1").stdout
    assert "step 1 rank 0: wq moved 1 [1, 1] over 4 heads, wk moved 0 [0, 0] over 2 heads, wv moved 0" in said, said
