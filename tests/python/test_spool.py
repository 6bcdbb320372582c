# SPDX-License-Identifier: MIT
"""The files of the reliable lane: what a process that was killed had written is there, whole, and once."""
import contextlib
import errno
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest

from attnd.sending import spool
from conftest import PACKAGE, ROOT, wait_until

GOLDEN = ROOT / "tests" / "golden" / "spool"


def contents_at(data, message):
    """Its frames."""
    frames, at = [], message.at
    for size in message.sizes:
        frames.append(data[at:at + size])
        at += size
    return frames


def contents(data):
    """The messages in a segment's bytes as lists of frames, and the flaw."""
    found, flaw = spool.messages_in(data)
    return [contents_at(data, message) for message in found], flaw


def contents_of(place):
    """The messages of the file that a message is in, and the flaw."""
    return contents(pathlib.Path(place.segment.path).read_bytes())


def headers(messages):
    return [header.decode() for _, header, *_ in messages]


@pytest.fixture
def store(tmp_path):
    it = spool.Spool(str(tmp_path))
    yield it
    it.close()


@contextlib.contextmanager
def limited(resource_number, soft):
    before, hard = resource.getrlimit(resource_number)
    resource.setrlimit(resource_number, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource_number, (before, hard))


def frames_of(number):
    return [b"tensor/job/decoder/0/self/", b"header %d" % number, np.arange(number, dtype=np.float32)]


def taken(store):
    """All messages that others have left, as the numbers of frames_of()."""
    numbers = []
    store.look()
    while (orphan := store.next_orphan()) is not None:
        for message in orphan.messages:
            topic, header, tensor = orphan.segment.read(message)
            number = int(header.split()[1])
            assert [topic, header, np.frombuffer(tensor, np.float32).tolist()] == [*frames_of(number)[:2], list(range(number))]
            numbers.append(number)
            store.release(spool.Place(orphan.segment, message))
    return numbers


def writer(directory, count, then="os.kill(os.getpid(), signal.SIGKILL)"):
    """A process that keeps a number of messages, and is killed."""
    source = f"""
import os, signal, sys
import numpy as np
from attnd.sending.spool import Spool
store = Spool({str(directory)!r})
for number in range(1, {count} + 1):
    store.append([b"tensor/job/decoder/0/self/", b"header %d" % number, np.arange(number, dtype=np.float32)])
print("written", flush=True)
{then}
"""
    return subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={"PYTHONPATH": str(PACKAGE), "PATH": os.environ["PATH"]})


def test_the_format_is_that_of_the_golden_file(tmp_path):
    said, data = json.loads((GOLDEN / "segment.json").read_text()), (GOLDEN / "segment.rec").read_bytes()
    messages, flaw = contents(data)
    assert [[frame.hex() for frame in frames] for frames in messages] == said["messages"] and flaw == ""
    store = spool.Spool(str(tmp_path), now_ns=lambda: said["time_ns"])
    for message in said["messages"]:
        place = store.append([bytes.fromhex(frame) for frame in message])
    assert pathlib.Path(place.segment.path).read_bytes() == data
    store.close()


def test_what_was_written_is_read_and_deleted_when_it_is_released(tmp_path):
    store = spool.Spool(str(tmp_path), segment_bytes=4096)
    places = [store.append(frames_of(number)) for number in range(1, 100)]
    assert len({place.segment for place in places}) > 3
    for number, place in enumerate(places, 1):
        assert place.segment.read(place.found)[2] == frames_of(number)[2].tobytes()
        store.release(place)
    assert len(list(tmp_path.glob("*.rec"))) <= 1  # the one that is written to, which is empty
    store.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_taken_over_once(tmp_path):
    process = writer(tmp_path, 200)
    assert process.wait(60) == -signal.SIGKILL
    first, second = spool.Spool(str(tmp_path)), spool.Spool(str(tmp_path))
    assert taken(first) == list(range(1, 201))
    assert taken(second) == []
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


def test_what_a_living_process_has_is_its_own(tmp_path, store):
    process = writer(tmp_path, 5, "sys.stdin.read()")
    assert process.stdout.readline() == "written\n"
    assert taken(store) == []
    process.kill()
    process.wait(60)
    assert taken(store) == [1, 2, 3, 4, 5]


def test_a_fork_does_not_keep_the_files_of_its_parent(tmp_path, store):
    """The child lives on when its parent is killed; in it the store was told."""
    process = writer(tmp_path, 3, "child = os.fork()\nif not child:\n    store.forget()\n    print('child', os.getpid(), flush=True)\n"
                                  "    signal.pause()\nsignal.pause()")
    assert process.stdout.readline() == "written\n"
    child = int(process.stdout.readline().split()[1])
    process.kill()
    process.wait(60)
    try:
        assert taken(store) == [1, 2, 3]
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_processes_share_what_others_left(tmp_path):
    for _ in range(4):
        writer(tmp_path, 10).wait(60)
    stores = [spool.Spool(str(tmp_path)) for _ in range(2)]
    found = [taken(store) for store in stores]
    assert sorted(found[0] + found[1]) == sorted(4 * list(range(1, 11)))
    for store in stores:
        store.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [1, 20, 33, 100, 400])
def test_a_message_that_was_not_written_whole_is_left_out(store, cut):
    for number in range(100, 103):
        place = store.append(frames_of(number))
    messages, flaw = contents(pathlib.Path(place.segment.path).read_bytes()[:-cut])
    assert headers(messages) == ["header 100", "header 101"]
    assert flaw == "its last message was not written whole"


@pytest.mark.parametrize("where", [-40, 5], ids=["in the head", "in the frames"])
def test_damage_ends_a_segment_and_is_told(store, where):
    places = [store.append(frames_of(number)) for number in range(100, 104)]
    broken = bytearray(pathlib.Path(places[0].segment.path).read_bytes())
    broken[places[2].found.at + where] ^= 1
    messages, flaw = contents(bytes(broken))
    assert headers(messages) == ["header 100", "header 101"]
    assert flaw.endswith("bytes of it are damaged")


def test_every_cut_and_every_bit_of_a_small_segment():
    data = (GOLDEN / "segment.rec").read_bytes()
    whole, _ = contents(data)
    for size in range(len(data)):
        messages, _ = contents(data[:size])
        assert messages == whole[:len(messages)] and len(messages) < len(whole)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        try:
            messages, flaw = contents(bytes(broken))
        except spool.Unreadable:
            assert at < 12
            continue
        unread = 16 <= at < 20
        assert (messages == whole[:len(messages)] and flaw) or unread or at < spool.HEADER_BYTES


def sealed(data):
    """With checksums that are right, as far as the sizes lead."""
    data, at = bytearray(data), spool.HEADER_BYTES
    data[28:32] = zlib.crc32(data[:28]).to_bytes(4, "little")
    while len(data) - at >= spool.RECORD_BYTES:
        begin = at + spool.RECORD_BYTES
        end = min(len(data), begin + int.from_bytes(data[at + 8:at + 16], "little"))
        data[at + 4:at + 8] = zlib.crc32(data[begin:end]).to_bytes(4, "little")
        data[at:at + 4] = zlib.crc32(data[at + 4:begin]).to_bytes(4, "little")
        at = end
    return bytes(data)


def changed(rng, data):
    """A few bytes of it are others, and it may end early."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 8, 16, 0x7f, 0x80, 0xff, rng.randrange(256)))
    return bytes(data[:rng.randint(1, len(data))] if rng.random() < 0.3 else data)


def test_any_bytes_are_messages_within_them_or_none():
    """Changed at random, with checksums that are right."""
    rng, golden, read = random.Random(1), (GOLDEN / "segment.rec").read_bytes(), 0
    for _ in range(20000):
        data = sealed(changed(rng, golden))
        try:
            found, flaw = spool.messages_in(data)
        except spool.Unreadable:
            continue
        at = spool.HEADER_BYTES
        for message in found:
            frames = contents_at(data, message)
            begin = at + spool.RECORD_BYTES + 8 * len(frames)
            assert len(frames) > 1 and message.at == begin and data[begin:begin + sum(message.sizes)] == b"".join(frames)
            assert spool.record_head(frames, int.from_bytes(data[at + 16:at + 24], "little")) == data[at:begin]
            at = begin + sum(message.sizes)
        assert at == len(data) or flaw
        read += len(found)
    assert read > 10000


def test_a_file_of_something_else_stays_where_it_is(tmp_path, store):
    path = tmp_path / "0123456789abcdef-00000001.rec"
    path.write_bytes(b"no recording at all, and longer than its header")
    (tmp_path / "notes.txt").write_text("mine")
    store.look()
    with pytest.raises(spool.Unreadable, match="no file of attnd"):
        store.next_orphan()
    store.look()
    assert store.next_orphan() is None
    store.close()
    assert path.exists() and (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("change", [lambda path: os.chmod(path, 0o620), lambda path: os.chmod(path, 0o602),
                                    pytest.param(lambda path: os.chown(path, 65534, 65534), marks=pytest.mark.skipif(
                                        os.geteuid() != 0, reason="root gives files away"))])
def test_a_file_of_others_stays_where_it_is(tmp_path, store, change):
    left = spool.Spool(str(tmp_path))
    path = left.append(frames_of(1)).segment.path
    left.close()
    change(path)
    store.look()
    with pytest.raises(spool.Unreadable, match="belongs to another user, or others can write to it"):
        store.next_orphan()
    store.close()
    assert os.path.exists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives directories away")
def test_a_directory_of_others_is_not_used(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(OSError, match="belongs to another user"):
        spool.Spool(str(tmp_path))


def test_a_full_disk_leaves_what_was_there(store):
    """RLIMIT_FSIZE cuts a write short as a full disk does, and then fails it."""
    place = store.append(frames_of(1000))
    with limited(resource.RLIMIT_FSIZE, 6000):
        with pytest.raises(OSError) as caught:
            store.append(frames_of(1001))
        assert caught.value.errno == errno.EFBIG
        assert os.path.getsize(place.segment.path) == place.segment.size
        small = store.append(frames_of(1))  # for which there is room
    store.append(frames_of(1002))
    messages, flaw = contents_of(place)
    assert headers(messages) == ["header 1000", "header 1", "header 1002"] and flaw == ""
    assert small.segment.read(small.found)[1] == b"header 1"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_full(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("there is no tmpfs to be mounted here")
    try:
        store = spool.Spool(str(tmp_path))
        kept = 0
        with pytest.raises(OSError) as caught:
            while True:
                store.append(frames_of(1000))
                kept += 1
        assert caught.value.errno == errno.ENOSPC and 0 < kept < 17
        store.close()
        again = spool.Spool(str(tmp_path))
        assert taken(again) == kept * [1000]
        again.close()
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        spool.Spool(str(tmp_path / "file" / "spool"))


def test_a_killed_process_in_the_middle_of_writing(tmp_path):
    """At whatever moment: what is whole is a prefix of what it wrote."""
    for _ in range(5):
        process = writer(tmp_path, 100000)
        wait_until(lambda: any(path.stat().st_size > 100000 for path in tmp_path.glob("*.rec")), "it writes")
        process.kill()
        process.wait(60)
        store = spool.Spool(str(tmp_path))
        numbers = taken(store)
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 100
        store.close()
        assert not list(tmp_path.iterdir())


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def orphans(directory, count):
    """`count` processes that were killed, each with a message."""
    frames = frames_of(1)
    data = spool.file_header(1) + spool.record_head(frames, 1) + b"".join(bytes(memoryview(frame).cast("B")) for frame in frames)
    for number in range(count):
        (directory / f"{number:016x}-00000001.rec").write_bytes(data)


def test_few_files_are_open_however_many_were_killed(tmp_path):
    orphans(tmp_path, 300)
    before, found = descriptors(), 0
    store = spool.Spool(str(tmp_path))
    store.look()
    while batch := list(iter(store.next_orphan, None)):
        assert descriptors() < before + 25
        for orphan in batch:
            assert orphan.segment.read(orphan.messages[0])[1] == b"header 1"
            store.release(spool.Place(orphan.segment, orphan.messages[0]))
        found += len(batch)
    assert found == 300
    store.close()
    assert descriptors() == before and not list(tmp_path.iterdir())


def test_few_files_of_its_own_are_open(tmp_path):
    before = descriptors()
    store = spool.Spool(str(tmp_path), segment_bytes=4096)
    places = [store.append(frames_of(1000)) for _ in range(100)]
    assert descriptors() < before + 25
    assert all(place.segment.read(place.found)[1] == b"header 1000" for place in places)
    store.close()
    assert descriptors() == before


def test_too_many_open_files_cost_nothing_that_was_left(tmp_path, store):
    orphans(tmp_path, 3)
    store.look()
    with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(OSError) as caught:
        store.next_orphan()
    assert spool.is_passing(caught.value)
    assert taken(store) == [1, 1, 1]


def test_what_cannot_be_read_holds_nothing_up(tmp_path, store):
    for number in range(50):
        (tmp_path / f"{number:016x}-00000001.rec").write_bytes(bytes(100))
    (tmp_path / "00000000000000d1-00000001.rec").mkdir()
    os.mkfifo(tmp_path / "00000000000000d2-00000001.rec")
    with open(tmp_path / "00000000000000d3-00000001.rec", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "0000000000000000.lock").mkdir()
    (tmp_path / "00000000000000d4.lock").symlink_to("nowhere")
    writer(tmp_path, 1).wait(60)
    store.look()
    unreadable, found = 0, []
    while True:
        try:
            orphan = store.next_orphan()
        except spool.Unreadable:
            unreadable += 1
            continue
        if orphan is None:
            break
        found += orphan.messages
        store.release(spool.Place(orphan.segment, orphan.messages[0]))
    assert unreadable == 52 and len(found) == 1
