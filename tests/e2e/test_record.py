# SPDX-License-Identifier: MIT
"""What was recorded is what came, and replaying it gives the same summaries and alerts, byte for byte."""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

TESTS = Path(__file__).resolve().parents[1]
RECORDINGS = TESTS / "golden" / "recordings"
sys.path[:0] = [str(TESTS / "fuzz"), str(RECORDINGS)]
import make_recording as golden  # noqa: E402
from make_recordings import header, record  # noqa: E402
from harness import ATTNCTL, ATTND, PATIENCE_S, Attnd, Reader, Trainer, attnctl, ranks_of, softmax_maps, wait_until

# Nothing that depends on how busy the machine is.
STEADY = ("metrics.spectrum_budget=0", "history.enabled=false")
SHARP = "rules: {sharp: {metric: entropy_normalized, each: head, below: 0.9}}\n"  # some heads of random maps are


def write_recording(path, messages):
    """A recording of (received_ns, frames)."""
    path.write_bytes(header() + b"".join(record(frames, received=received) for received, frames in messages))


def read_recording(path):
    """The messages of a recording, by what proto/recording.h says of it, and not by its code."""
    content = path.read_bytes()
    assert content[:32] == header(created=struct.unpack_from("<Q", content, 16)[0])
    at, messages = 32, []
    while len(content) - at >= 32:
        own, crc, stored, received, flags, count = struct.unpack_from("<IIQQII", content, at)
        body = content[at + 32:at + 32 + stored]
        if len(body) < stored:
            break
        assert zlib.crc32(content[at + 4:at + 32]) == own and zlib.crc32(body) == crc
        sizes = struct.unpack_from(f"<{count}Q", body)
        payload = zlib.decompress(body[8 * count:]) if flags & 1 else body[8 * count:]
        assert len(payload) == sum(sizes)
        ends = np.cumsum(sizes)
        messages.append((received, [payload[end - size:end] for end, size in zip(ends, sizes)]))
        at += 32 + stored
    return messages


def count_records(path):
    return len(read_recording(path))


def common_keys(kind, seq, epoch, step, **keys):
    return dict(v=1, type=kind, job="gpt", run=bytes(range(16)), rank=0, world=1, seq=seq, dropped=0, time_ns=5,
                epoch=epoch, step=step, **keys)


def event_frames(event, seq, epoch=0, step=0):
    return [b"event/gpt/", msgpack.packb(common_keys("event", seq, epoch, step, event=event))]


def attention_frames(weights, seq, epoch, step):
    tensors = [dict(name="weights", dtype="f32", shape=list(weights.shape))]
    keys = common_keys("attention", seq, epoch, step, stack="decoder", layer=0, site="self", tensors=tensors)
    return [b"tensor/gpt/decoder/0/self/", msgpack.packb(keys), weights.tobytes()]


def training(rng, collapses_at=None, ends=True, epochs=6):
    """A run of one message per epoch, whose heads look at one key only from an epoch on."""
    messages = []
    for epoch in range(epochs):
        weights = softmax_maps(rng, 1, 2, 16, 16)
        if collapses_at is not None and epoch >= collapses_at:
            weights = np.broadcast_to(np.eye(16, dtype=np.float32), (1, 2, 16, 16))
        messages.append((epoch, attention_frames(weights, epoch, epoch, epoch)))
        if ends or epoch + 1 < epochs:
            messages.append((epoch, event_frames("epoch_end", epoch, epoch, epoch)))
    return messages + ([(epochs, event_frames("bye", epochs, epochs - 1, epochs - 1))] if ends else [])


class Recorder:
    """attnctl record in the background, from the moment that it hears."""

    def __init__(self, attnd, job, path, *options):
        environment = dict(os.environ, ATTND_ADDRESS=attnd.directory)
        self.process = subprocess.Popen([ATTNCTL, "record", job, str(path), *map(str, options)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.started = self.process.stderr.readline()
        assert self.started == f"attnctl: recording {job} to {path}; Ctrl-C ends\n"

    def end(self, sig=None):
        if sig:
            self.process.send_signal(sig)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


class Tap:
    """A recorder of our own, which sees frames."""

    def __init__(self, attnd, job):
        self.socket = attnd.context.socket(zmq.SUB)
        self.socket.rcvhwm = 0
        self.socket.connect(attnd.endpoint("tap"))
        self.socket.subscribe(f"tap/{job}/".encode())
        greeting = self.next()
        assert len(greeting) == 2
        self.first = greeting[1]["n"]

    def next(self):
        assert self.socket.poll(int(1000 * PATIENCE_S)), "nothing came from the tap"
        frames = self.socket.recv_multipart()
        return [frames[0], msgpack.unpackb(frames[1]), *frames[2:]]

    def silent(self):
        return not self.socket.poll(100)


def test_nobody_else_reads_what_is_written(tmp_path, rng):
    """Whatever the umask: history, what SQLite puts beside it, the directories made for it, sockets and recordings."""
    umask = os.umask(0)
    try:
        attnd = Attnd(f"history.path={tmp_path}/made/for/history.db", "history.commit=10ms")
        recorder = Recorder(attnd, "gpt", tmp_path / "gpt.rec")
        trainer = Trainer(attnd, "gpt")
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8))
        trainer.event("epoch_end", epoch=0)
        attnd.settled(2)
        wait_until(lambda: attnd.stats()["stored"] > 0, "the window to be stored")
        written = [*tmp_path.rglob("*"), *Path(attnd.directory).iterdir()]
        assert {"history.db", "history.db-wal", "history.db-shm", "history.db.lock", "gpt.rec", "made", "for"} <= {
            path.name for path in written}
        assert [path for path in written if path.name != "log" and path.stat().st_mode & 0o077] == []
        recorder.end(signal.SIGINT)
    finally:
        os.umask(umask)


def test_token_numbers_are_in_recordings_and_in_nothing_that_attnd_says(tmp_path, rng):
    """Results, answers, exports, what is on the disk: nothing has them, in no encoding of a number."""
    numbers = [0x5EA1C0DE + i for i in range(5)]
    looks = [form for n in numbers for form in (struct.pack("<i", n), struct.pack(">i", n), struct.pack("<d", n),
                                                struct.pack(">d", n), str(n).encode())]
    attnd = Attnd("history.commit=10ms", "window.unit=step", "window.length=1",
                  config="rules: {copies: {metric: induction, each: head, above: 0.0, for: 1, severity: warning}}\n")
    everything = Reader(attnd, "summary/", "alert/", "live/")
    recorder = Recorder(attnd, "gpt", tmp_path / "gpt.rec", "--until-end")
    trainer = Trainer(attnd, "gpt")
    for step in range(3):
        trainer.attention(softmax_maps(rng, 1, 2, 10, 10, causal=True), causal=True, step=step,
                          tokens=np.array([numbers * 2], np.int32))
    trainer.event("epoch_end", step=2)
    trainer.event("bye", step=2)
    attnd.settled(5)
    code, out, _ = recorder.end()
    assert code == 0 and out.endswith("\ntoken numbers of the training's data are in it\n")
    assert all(struct.pack("<i", n) in (tmp_path / "gpt.rec").read_bytes() for n in numbers)
    (tmp_path / "gpt.rec").unlink()
    wait_until(lambda: any(run["state"] == "ended" for run in attnd.call("jobs")), "the end of the run")
    said = [everything.socket.recv_multipart() for _ in iter(lambda: everything.socket.poll(500), 0)]
    assert {topic.split(b"/")[0] for topic, _ in said} == {b"summary", b"alert", b"live"}
    place = dict(job="gpt", stack="decoder", layer=0, site="self")
    wait_until(lambda: attnd.stats()["history"]["waiting"] == 0, "the windows on the disk")
    asked = [attnd.call(method, **place) for method in ("summary", "live", "map", "maps", "windows")]
    asked += [attnd.call(method, **place, metric="induction") for method in ("history", "grid")]
    asked += [attnd.call(method, job="gpt") for method in ("runs", "alerts", "verdict", "rollout")] + [attnd.call("jobs")]
    exports = [attnctl(attnd, "export", "gpt", form) for form in ("--csv", "--json")]
    assert all(export.returncode == 0 and "induction" in export.stdout for export in exports)
    files = [path for path in Path(attnd.directory).rglob("*") if path.is_file()]
    assert {"history.db", "history.db-wal", "log"} <= {path.name for path in files}
    for text in (b"".join(body for _, body in said), msgpack.packb(asked, default=repr),
                 "".join(export.stdout for export in exports).encode(), *(path.read_bytes() for path in files)):
        assert not [look for look in looks if look in text]


def publish_run(attnd, rng, slowly, epochs=3):
    """Random messages of two ranks, several layers and tiers, which begin and end as a run does; `slowly` waits for attnd
    after each step, without which parts of matrices of two ranks might overtake each other. Returns how many."""
    trainers, sent = ranks_of(attnd, 2, "gpt"), 0
    for trainer in trainers:
        trainer.event("hello", client="test")
        sent += 1
    for epoch in range(epochs):
        for step in range(3 * epoch, 3 * epoch + 3):
            shared = rng.normal(size=(8, 12)).astype(np.float32)
            for first_row, trainer in zip((0, 4), trainers):
                place = dict(epoch=epoch, step=step)
                trainer.attention(softmax_maps(rng, 2, 3, 7, 7, causal=True), causal=True, layer=0, **place)
                trainer.attention(softmax_maps(rng, 1, 2, 5, 9), layer=0, site="cross", **place)
                q, k = rng.normal(size=(2, 1, 4, 6, 8)).astype(np.float32)
                trainer.qk(q, k[:, :2], scale=0.35, causal=True, layer=1, **place)
                trainer.projections(wq=rng.normal(size=(8, 12)).astype(np.float32), heads=2, head_dim=4, layer=2, **place)
                of_parts = trainer if slowly else trainers[0]
                of_parts.projections(wq=shared[first_row:first_row + 4], heads=2, head_dim=4, layer=3,
                                     parts={"wq": [8, 12, first_row, 0]}, **place)
                sent += 5
            if slowly:
                attnd.settled(sent)
        for trainer in trainers:
            trainer.event("epoch_end", epoch=epoch, step=3 * epoch + 2)
            sent += 1
    for trainer in trainers:
        trainer.event("bye", epoch=epochs - 1, step=3 * epochs - 1)
        sent += 1
    attnd.settled(sent)
    return sent


def collect_results(reader):
    """Every summary and alert that was published, as bytes, until the run has ended."""
    results = []
    while True:
        assert reader.socket.poll(int(1000 * PATIENCE_S)), f"only {len(results)} results"
        topic, body = reader.socket.recv_multipart()
        if topic.startswith(b"job/"):
            if msgpack.unpackb(body)["state"] == "ended":
                return results
        elif body[-1:] == b"\xc2":  # not a snapshot
            results.append((topic, body))


def results_of(attnd):
    return Reader(attnd, "summary/", "alert/", "job/")


def record_run(path, rng, slowly):
    """A recording of a run with byes, its number of messages, what was published of it, and the verdict; beside it one
    that is compressed."""
    attnd = Attnd(*STEADY, config=SHARP)
    reader = results_of(attnd)
    recorder = Recorder(attnd, "gpt", path, "--until-end")
    packed = Recorder(attnd, "gpt", f"{path}.packed", "--until-end", "--compress")
    messages = publish_run(attnd, rng, slowly)
    code, out, err = recorder.end()
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(path))}: {messages} messages of gpt, .* in .*, 0 lost\n", out)
    assert packed.end()[0] == 0 and os.path.getsize(f"{path}.packed") < os.path.getsize(path)
    results, verdict = collect_results(reader), attnd.call("verdict", job="gpt")
    assert {topic.split(b"/")[0] for topic, _ in results} == {b"summary", b"alert"} and verdict["alerts"]
    attnd.close()
    return path, messages, results, verdict


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("recorded") / "run.rec", np.random.default_rng(20261), slowly=True)


def test_the_file_is_as_its_picture_says_and_holds_what_was_sent(tmp_path, attnd, rng):
    trainer = Trainer(attnd, "gpt")
    sent = [trainer.attention_frames(softmax_maps(rng, 1, 2, 12, 12), step=step) for step in range(5)]
    for options in ((), ("--compress",)):
        path = tmp_path / f"run{len(options)}.rec"
        recorder = Recorder(attnd, "gpt", path, "--count", len(sent), *options)
        for frames in sent:
            trainer.send(*frames)
        assert recorder.end()[0] == 0
        messages = read_recording(path)
        assert [frames for _, frames in messages] == sent
        times = [received / 1e9 for received, _ in messages]
        assert times == sorted(times) and abs(times[-1] - time.time()) < 60


@pytest.mark.parametrize("slowly, packed", [(False, ""), (True, ""), (True, ".packed")])
def test_replaying_gives_the_same_summaries_and_verdict_byte_for_byte(recorded, tmp_path, rng, slowly, packed):
    path, messages, results, verdict = recorded if slowly else record_run(tmp_path / "run.rec", rng, slowly=False)
    fresh = Attnd(*STEADY, config=SHARP)
    reader = results_of(fresh)
    result = attnctl(fresh, "replay", f"{path}{packed}")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(path))}{packed}: {messages} messages sent, .*; attnd processed {messages}, dropped 0\n",
                        result.stdout)
    assert collect_results(reader) == results
    assert msgpack.packb(fresh.call("verdict", job="gpt")) == msgpack.packb(verdict)


def test_a_run_that_is_known_already_is_refused_and_said_to_be(recorded):
    path, messages, *_ = recorded
    fresh = Attnd(*STEADY)
    assert attnctl(fresh, "replay", path).returncode == 0
    again = attnctl(fresh, "replay", path)
    assert again.returncode == 1
    assert f"attnd processed 0, dropped {messages}: " in again.stdout
    assert again.stdout.endswith("attnd had these runs already: restart it, or replay to another one\n")


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.rec")), ids=lambda path: path.stem)
def test_a_recording_of_an_earlier_version_says_what_it_always_said(path):
    """None is ever edited: see its README. States of layers, which trainers of one unreleased revision sent, are refused."""
    headers = [msgpack.unpackb(frames[1]) for _, frames in read_recording(path)]
    assert {header["type"] for header in headers} - {"state", "rows", "sketch"} == {"attention", "qk", "weights", "event"}
    assert {header.get("event") for header in headers} - {"log"} == {None, "hello", "epoch_end", "bye"}
    states = sum(header["type"] == "state" for header in headers)
    assert states == (path.stem == "header-9")
    fresh = Attnd(*golden.SETTINGS)
    assert attnctl(fresh, "replay", path).returncode == states
    said, expected = golden.said(fresh, len(headers)), json.loads(path.with_suffix(".json").read_text())
    if states:
        expected["job"]["processed"] -= states
        expected["job"]["dropped"]["type_unknown"] = states
        expected["layers"] = [layer for layer in expected["layers"] if layer["tier"] != "state"]
    assert len(said["layers"]) == len(expected["layers"])
    for layer, known in zip(said["layers"], expected["layers"]):
        assert layer.pop("entropy") == pytest.approx(known.pop("entropy"), abs=1e-5)
    assert said == expected
    result = attnctl(None, "check", path, "--json")
    assert result.returncode in (0, 1) and json.loads(result.stdout)["messages"] == len(headers)


def test_the_tap_passes_on_every_frame_as_it_came(attnd, rng):
    trainer = Trainer(attnd, "gpt")
    tap, other = Tap(attnd, "gpt"), Tap(attnd, "other")
    sent = [trainer.attention_frames(softmax_maps(rng, 1, 2, 40, 40), epoch=0, step=step) for step in range(5)]
    for frames in sent:
        trainer.send(*frames)
    for n, frames in enumerate(sent):
        topic, map_, *got = tap.next()
        assert topic == b"tap/gpt/" and got == frames
        assert (map_["v"], map_["n"], map_["dropped"]) == (1, n, 0)
        assert abs(map_["received_ns"] / 1e9 - time.time()) < 60
    assert tap.silent() and other.silent()
    assert attnd.settled(5)["tapped"] == 5


def test_a_killed_recorder_leaves_whole_messages(tmp_path, attnd, rng):
    path = tmp_path / "run.rec"
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", path)
    for step in range(20):
        trainer.attention(softmax_maps(rng, 1, 2, 60, 60), step=step)
    wait_until(lambda: path.stat().st_size > 20 * 2 * 60 * 60 * 4, "the messages in the file")
    assert recorder.end(signal.SIGKILL)[0] == -signal.SIGKILL
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    fresh = Attnd(*STEADY)
    result = attnctl(fresh, "replay", path)
    assert result.returncode == 0
    assert re.fullmatch(rf"attnctl: {re.escape(str(path))}: message 20, at byte \d+: "
                        "the recording ends in the middle of a record\n", result.stderr)
    assert "19 messages sent" in result.stdout and "processed 19, dropped 0" in result.stdout


def test_a_damaged_recording_is_replayed_up_to_there(recorded, tmp_path):
    whole, messages, *_ = recorded
    path, content = tmp_path / "run.rec", bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fresh = Attnd(*STEADY)
    result = attnctl(fresh, "replay", path, "--json")
    assert result.returncode == 2
    assert "a record of the recording is damaged" in result.stderr
    assert 0 < json.loads(result.stdout)["processed"] < messages
    assert fresh.stats()["received"] == json.loads(result.stdout)["sent"]


def test_recording_ends_as_it_is_told_to(tmp_path, attnd, rng):
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", tmp_path / "count.rec", "--count", 3, "--json")
    for step in range(5):
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    code, out, _ = recorder.end()
    summary = json.loads(out)
    assert code == 0 and (summary["messages"], summary["lost"], summary["breaks"]) == (3, 0, 0)
    assert summary["file_bytes"] == (tmp_path / "count.rec").stat().st_size > summary["bytes"]
    attnd.settled(5)
    code, out, err = Recorder(attnd, "gpt", tmp_path / "seconds.rec", "--seconds", 0.2).end()
    assert code == 0 and "0 messages of gpt" in out
    assert err == "attnctl: no message of gpt arrived: is it running? (see attnctl jobs)\n"
    for sig in (signal.SIGINT, signal.SIGTERM):
        assert Recorder(attnd, "gpt", tmp_path / f"{sig}.rec").end(sig)[0] == 0


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, attnd):
    path = tmp_path / "run.rec"
    path.write_text("precious")
    result = attnctl(attnd, "record", "gpt", path, "--seconds", 0.1)
    assert result.returncode == 2
    assert result.stderr == f"attnctl: {path}: File exists; choose another name, or replace it with --force\n"
    assert path.read_text() == "precious"
    assert attnctl(attnd, "record", "gpt", path, "--seconds", 0.1, "--force").returncode == 0
    assert path.stat().st_size == 32


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_recorder_that_is_too_slow_says_what_it_lost(tmp_path, rng, goes_on):
    """It is stopped until attnd has had to drop; also when nothing comes after that, the numbers tell."""
    attnd = Attnd("publish.budget=4MiB", "metrics.spectrum=false")
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", tmp_path / "run.rec", "--json")
    recorder.process.send_signal(signal.SIGSTOP)
    sent = 0
    while attnd.stats()["tap_dropped"] < 5:
        trainer.attention(softmax_maps(rng, 1, 4, 256, 256), step=sent)
        sent += 1
        attnd.settled(sent)
        assert sent < 1000
    recorder.process.send_signal(signal.SIGCONT)
    if goes_on:
        wait_until(lambda: count_records(tmp_path / "run.rec") == attnd.stats()["tapped"], "the recorder to go on")
        trainer.event("epoch_end")
        sent += 1
        attnd.settled(sent)
    stats = attnd.stats()
    code, out, _ = recorder.end(signal.SIGINT)
    summary = json.loads(out)
    assert (code, summary["lost"], summary["breaks"]) == (1, stats["tap_dropped"], 0)
    assert summary["messages"] == stats["tapped"] == count_records(tmp_path / "run.rec")
    assert stats["tapped"] + stats["tap_dropped"] == sent


def test_what_is_on_its_way_is_recorded_before_the_end(tmp_path, attnd, rng):
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", tmp_path / "run.rec", "--json")
    recorder.process.send_signal(signal.SIGSTOP)
    for step in range(50):
        trainer.attention(softmax_maps(rng, 1, 2, 32, 32), step=step)
    attnd.settled(50)
    recorder.process.send_signal(signal.SIGINT)
    code, out, _ = recorder.end(signal.SIGCONT)
    assert (code, json.loads(out)["messages"]) == (0, 50)


def test_a_restart_of_attnd_is_noticed_by_the_recorder(tmp_path, rng):
    attnd = Attnd("history.enabled=false")
    path = tmp_path / "run.rec"
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", path, "--json")
    for step in range(3):
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    attnd.settled(3)
    size = wait_until(lambda: path.stat().st_size if path.stat().st_size > 3 * 512 else 0, "three messages")
    assert attnd.stop() == 0
    trainer.close()
    attnd.start()
    trainer = Trainer(attnd, "gpt")

    def heard_again():
        trainer.event("hello")
        return path.stat().st_size > size

    wait_until(heard_again, "the recorder to be there again")
    code, out, _ = recorder.end(signal.SIGINT)
    assert code == 1 and json.loads(out)["breaks"] == 1


def test_the_rhythm_is_that_of_the_recording(tmp_path):
    """Half a second between two messages; once twice as fast, once half as fast. Time that goes back is no time."""
    path = tmp_path / "run.rec"
    messages = [(0, event_frames("hello", 0)), (500_000_000, event_frames("hello", 1)), (0, event_frames("hello", 2))]
    write_recording(path, messages)
    for arguments, at_least in ((("--rhythm", 2), 0.25), (("--rhythm", 0.5), 1.0)):
        fresh = Attnd(*STEADY)
        tap = Tap(fresh, "gpt")
        began = time.monotonic()
        assert attnctl(fresh, "replay", path, *arguments).returncode == 0
        assert at_least <= time.monotonic() - began < at_least + PATIENCE_S
        assert [msgpack.unpackb(tap.next()[3])["seq"] for _ in messages] == [0, 1, 2]


def test_replay_needs_somebody_who_asks(tmp_path, recorded):
    path = recorded[0]
    result = attnctl(None, "replay", path, "--endpoint", "ipc:///nobody", "--timeout", 0.2)
    assert result.returncode == 3 and "cannot reach attnd" in result.stderr
    fresh = Attnd(*STEADY)
    result = attnctl(fresh, "replay", path, "--ingest", f"ipc://{tmp_path}/nobody", "--timeout", 0.2)
    assert result.returncode == 3
    assert result.stderr == (f"attnctl: attnd does not subscribe at ipc://{tmp_path}/nobody, its ingest.endpoint, "
                             "within 0.2 s\n")


# check


EPOCHS = "window: {unit: epoch}\n"  # of a few messages each
SOON = EPOCHS + "rules: {entropy_collapse: {for: 2}}\n"


def check(tmp_path, messages, *options, rules=EPOCHS):
    path = tmp_path / "run.rec"
    write_recording(path, messages)
    (tmp_path / "rules.yaml").write_text(rules)
    return attnctl(None, "check", path, "--rules", tmp_path / "rules.yaml", *options)


def test_a_healthy_recording_passes_the_check(tmp_path, rng):
    result = check(tmp_path, training(rng))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path}/run.rec: 0 alerts in 6 captures of 13 messages\n"


@pytest.mark.parametrize("ends", [True, False])
def test_a_collapse_fails_the_check(tmp_path, rng, ends):
    """Also when the run is cut short: its last capture is judged."""
    result = check(tmp_path, training(rng, collapses_at=4, ends=ends), rules=SOON)
    assert (result.returncode, result.stderr) == (1, "")
    assert "warning  entropy_collapse between steps 3 and 4: " in result.stdout
    assert result.stdout.endswith(f" in 6 captures of {13 if ends else 11} messages\n")
    alerts = json.loads(attnctl(None, "check", tmp_path / "run.rec", "--rules", tmp_path / "rules.yaml", "--json").stdout)
    assert "entropy_collapse" in [alert["rule"] for alert in alerts["alerts"]]
    assert all(alert["state"] == "firing" for alert in alerts["alerts"])
    assert (alerts["captures"], alerts["dropped"]) == (6, {})


def test_a_check_names_the_layers_that_no_numbers_came_of(tmp_path, rng):
    """It is no finding: the recorded training may have had a plan that leaves them out."""
    layers = [dict(stack="decoder", layer=layer, site="self", heads=2) for layer in range(2)]
    hello = [b"event/gpt/", msgpack.packb(common_keys("event", 0, 0, 0, event="hello", layers=layers))]
    messages = [(0, hello), *((time, frames) for time, frames in training(rng, ends=False) if frames[0] != b"event/gpt/")]
    result = check(tmp_path, messages)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (f"{tmp_path}/run.rec: 0 alerts in 6 captures of 7 messages\n"
                             "gpt, run 00010203: no numbers came in the last captures of decoder.1.self\n")
    unmeasured = [dict(job="gpt", run=bytes(range(16)).hex(), layers=["decoder.1.self"])]
    assert json.loads(check(tmp_path, messages, "--json").stdout)["unmeasured"] == unmeasured
    assert json.loads(check(tmp_path, training(rng), "--json").stdout)["unmeasured"] == []
    planned = check(tmp_path, messages, rules=EPOCHS + "plan: {layers: 'decoder.0.*'}\n")
    assert planned.stdout == f"{tmp_path}/run.rec: 0 alerts in 6 captures of 7 messages\n"


def test_nothing_is_lost_behind_the_end_of_a_recording(tmp_path, rng):
    """The end that a check adds to a run takes the lane of its last event: the lanes count apart."""
    frames = [b"event/gpt/", msgpack.packb(common_keys("event", 900, 5, 5, reliable=True, event="log", values={"loss": 1.0}))]
    result = check(tmp_path, [*training(rng, ends=False), (6, frames)])
    assert (result.returncode, result.stdout) == (0, f"{tmp_path}/run.rec: 0 alerts in 6 captures of 12 messages\n")


def test_the_rules_of_a_file_decide(tmp_path, rng):
    mine = EPOCHS + "rules:\n  mine: {metric: entropy_normalized, above: 0.5}\n"
    off = EPOCHS + "rules:\n  entropy_collapse: {enabled: false}\n  entropy_falls: {enabled: false}\n"
    assert check(tmp_path, training(rng, collapses_at=3), rules=off).returncode == 0
    result = check(tmp_path, training(rng), rules=mine)
    assert result.returncode == 1 and result.stdout.startswith("warning  mine from the start: ")
    assert check(tmp_path, training(rng), rules="window: {unit: epoch, length: 6, every: 6}\n").stdout.endswith(
        " in 6 captures of 13 messages\n")


def larger_than_the_budget(rng):
    """20 MB for a budget of 3 MiB. Shapes change, and some messages take more than half of it."""
    weights = [softmax_maps(rng, 1, 4, size, size) for size in (8, 64, 128, 176, 256)]
    messages = [(step, attention_frames(weights[step % 5], step, 0, step)) for step in range(60)]
    return [*messages, (60, event_frames("bye", 0, 0, 59))]


def test_a_recording_larger_than_the_budget_is_replayed_and_checked_without_loss(tmp_path, rng):
    path, rules = tmp_path / "run.rec", tmp_path / "rules.yaml"
    rules.write_text("ingest: {budget: 3MiB, max_message: 2MiB}\n")
    messages = larger_than_the_budget(rng)
    write_recording(path, messages)
    fresh = Attnd(*STEADY, "ingest.budget=3MiB", "ingest.max_message=2MiB", "workers.threads=1")
    result = attnctl(fresh, "replay", path, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["processed"] == len(messages) and json.loads(result.stdout)["dropped"] == {}
    assert fresh.stats()["lost"] == 0
    result = attnctl(None, "check", path, "--json", "--rules", rules)
    assert result.stderr == "" and json.loads(result.stdout)["dropped"] == {}
    assert json.loads(result.stdout)["messages"] == len(messages)


def test_a_check_is_not_about_silence(tmp_path, rng):
    """However long computing takes."""
    rules = "rules:\n  silence: {above: 0.0001, clear: 0.00005}\n"
    assert check(tmp_path, training(rng), rules=rules).returncode == 0


def test_a_check_that_cannot_judge_says_so(tmp_path, rng):
    result = check(tmp_path, [])
    assert result.returncode == 2
    assert result.stderr == ("attnctl: the recording has no capture to judge\n")
    result = check(tmp_path, training(rng), rules="window: {unit: second}\n")
    assert result.returncode == 2
    assert result.stderr == (f"attnctl: {tmp_path}/rules.yaml: window.unit: 'second': a recording is judged "
                             "faster than it was recorded (valid: auto, epoch, step)\n")
    result = check(tmp_path, training(rng), rules="rules:\n  mine: {metric: entropie, above: 1}\n")
    assert result.returncode == 2 and result.stderr.startswith(f"attnctl: {tmp_path}/rules.yaml:2: ")
    assert "entropie" in result.stderr
    result = attnctl(None, "check", tmp_path / "run.rec", "--rules", tmp_path / "none.yaml")
    assert result.returncode == 2 and "none.yaml" in result.stderr
    path = tmp_path / "run.rec"
    path.write_bytes(path.read_bytes()[:-5] + b"xxxxx")
    result = attnctl(None, "check", path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.endswith("a record of the recording is damaged\n")


def test_a_check_leaves_nothing_behind(tmp_path, rng):
    (tmp_path / "tmp").mkdir()
    write_recording(tmp_path / "run.rec", training(rng))
    assert attnctl(None, "check", tmp_path / "run.rec", TMPDIR=str(tmp_path / "tmp"), HOME=str(tmp_path),
                   XDG_STATE_HOME=str(tmp_path)).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["run.rec", "tmp"] and os.listdir(tmp_path / "tmp") == []


def test_attnd_judges_what_attnctl_checks(tmp_path, rng):
    checked = check(tmp_path, training(rng, collapses_at=4, epochs=13), "--json", rules="window: {unit: epoch, length: 2, every: 2}\n")

    def judge(*words):
        return subprocess.run([ATTND, "--judge", *words], capture_output=True, text=True, timeout=PATIENCE_S)

    judged = judge(tmp_path / "run.rec", "--json", "--set=window.unit=epoch", "--set=window.length=2", "--set=window.every=2")
    said, expected = json.loads(judged.stdout), json.loads(checked.stdout)
    assert (judged.returncode, judged.stderr) == (1, "") and said["captures"] == 13
    for alert in said.pop("alerts"):
        known = expected["alerts"].pop(0)
        assert {**alert, "time_ns": 0} == {**known, "time_ns": 0}
    assert said.items() < expected.items() and expected["alerts"] == []
    judged = judge(tmp_path / "none.rec")
    assert (judged.returncode, judged.stderr) == (2, f"attnd: {tmp_path}/none.rec: No such file or directory\n")
    assert judge("\33[31mnone.rec").stderr == "attnd: ?[31mnone.rec: No such file or directory\n"


def test_a_check_looks_for_attnd_beside_attnctl_and_in_the_path(tmp_path, rng):
    write_recording(tmp_path / "run.rec", training(rng))
    for place in ("alone", "path", "beside"):
        (tmp_path / place).mkdir()
    for place in ("alone", "beside"):
        shutil.copy(ATTNCTL, tmp_path / place / "attnctl")
    for place in ("path", "beside"):
        (tmp_path / place / "attnd").symlink_to(os.path.abspath(ATTND))

    def alone(place, path):
        return subprocess.run([tmp_path / place / "attnctl", "check", tmp_path / "run.rec"], capture_output=True,
                              text=True, env=dict(os.environ, PATH=str(path)), timeout=PATIENCE_S)

    assert alone("beside", tmp_path).returncode == 0
    assert alone("alone", tmp_path / "path").returncode == 0
    missing = alone("alone", tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == ("attnctl: cannot run attnd, which judges recordings: No such file or directory; install it "
                              "beside attnctl or in a directory of PATH\n")


def test_a_check_that_is_interrupted_has_no_verdict(tmp_path, rng):
    """Rank 1 is waited for: the window stays open."""
    topic, keys, weights = attention_frames(softmax_maps(rng, 1, 2, 8, 8), 0, 0, 0)
    write_recording(tmp_path / "run.rec", [(0, [topic, msgpack.packb({**msgpack.unpackb(keys), "world": 2}), weights])])
    (tmp_path / "rules.yaml").write_text("window: {rank_grace: 1h}\n")
    process = subprocess.Popen([ATTNCTL, "check", tmp_path / "run.rec", "--rules", tmp_path / "rules.yaml"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def caught():
        return int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16)

    wait_until(lambda: caught() & 1 << signal.SIGINT - 1, "attnd to be ready for it")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (1, "") and err.startswith("attnctl: interrupted")


def test_errors_name_the_file_and_the_reason(tmp_path):
    attnd = Attnd(*STEADY)
    for command in ("replay", "check"):
        path = tmp_path / "run.rec"
        for content, reason in ((None, "No such file or directory"), (b"", "the file is not a recording of attnd"),
                                (b"x" * 100, "the file is not a recording of attnd"),
                                (header(version=2), "the recording is of a newer version")):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            result = attnctl(attnd, command, path)
            assert (result.returncode, result.stderr) == (2, f"attnctl: {path}: {reason}\n")
        result = attnctl(attnd, command, tmp_path)
        assert (result.returncode, result.stderr) == (2, f"attnctl: {tmp_path}: not a regular file\n")
    result = attnctl(attnd, "record", "a job", tmp_path / "run.rec")
    assert (result.returncode, result.stderr) == (
        2, "attnctl: 'a job' is no name of a job (valid: 1 to 128 of A-Z a-z 0-9 . _ -)\n")
    result = attnctl(attnd, "record", "gpt", "/dev/full", "--force")
    assert (result.returncode, result.stderr) == (
        2, "attnctl: /dev/full: No space left on device; what was written before can be used\n")
