# SPDX-License-Identifier: MIT
"""The reliable lane with a spool: what a process keeps in files, and what others have left there."""
import errno
import os
import signal
import subprocess
import sys

import msgpack
import pytest

from attnd.sending import spool
from conftest import PACKAGE, identity_holds, uniform_rows, wait_until
from test_reliable import AT, attached, daemons, place, publish_rows, publishers, said, unanswered  # noqa: F401

NO_MEMORY = [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")]
LEFT = {"reliable": True, "type": "event"}


def left_by(spool_directory, job, count):
    """The places of `count` messages that a process of this job left when it ended."""
    store = spool.Spool(str(spool_directory))
    places = [store.append([f"event/{job}/".encode(), msgpack.packb(LEFT)]) for _ in range(count)]
    store.close()
    return places


def left_in(spool_directory):
    """How many messages the next process finds."""
    store = spool.Spool(str(spool_directory))
    store.look()
    count = len(store.next_orphan().messages)
    store.close()
    return count


@pytest.mark.parametrize("error", NO_MEMORY)
def test_what_there_is_no_memory_to_read_is_sent_later(attached, tmp_path, monkeypatch, error):
    daemon, publisher = attached(spool=tmp_path / "spool")
    failed = []

    def fails(*_):
        monkeypatch.undo()
        failed.append(error)
        raise error

    monkeypatch.setattr(os, "pread", fails)
    publish_rows(publisher, 3)
    daemon.wait_sent(publisher, 3)
    assert failed and publisher.stats()["dropped"] == 0


@pytest.mark.parametrize("error", NO_MEMORY)
def test_what_others_left_and_there_is_no_memory_to_read_is_sent_later(attached, tmp_path, said, monkeypatch, error):
    left_by(tmp_path / "spool", "job", 1)

    def fails(*_):
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(os, "pread", fails)
    daemon, publisher = attached(spool=tmp_path / "spool")
    wait_until(lambda: said("cannot be read (Cannot allocate memory)"), "it is told")
    publish_rows(publisher, 1)
    daemon.wait(lambda: LEFT in daemon.headers, "it is sent")


def test_closing_without_attnd_keeps_them_in_the_spool(attached, tmp_path, said):
    spool = tmp_path / "spool"
    daemon, publisher = attached(linger=60, spool=spool)
    unanswered(daemon, publisher, 4)
    daemon.leave(publisher)
    publisher.close()  # at once: there is nobody to wait for
    stats = publisher.stats()
    assert stats["queued"] == stats["unacknowledged"] == 5 and stats["dropped"] == 0 and identity_holds(stats)
    assert any(str(spool) in message for message in said("5 messages"))
    again, other = attached(spool=spool)
    taken = again.wait_taken(5)
    assert [frames for _, _, frames in taken[:4]] == [frames for _, _, frames in daemon.taken]
    assert taken[4][1]["event"] == "bye" and taken[4][1]["run"] == bytes.fromhex(publisher.run)
    again.wait(lambda: other.stats()["spooled"] == 0, "they are acknowledged")
    assert other.stats()["published"] == 0
    wait_until(lambda: len({path.name[:16] for path in spool.iterdir()}) == 1, "only its own files are there")


def test_a_killed_process_leaves_what_the_next_one_sends(daemons, publishers, place, tmp_path):
    daemon, spool = daemons(), tmp_path / "spool"
    daemon.acknowledges = False
    source = f"""
import sys
import attnd
from conftest import uniform_rows
publisher = attnd.Publisher("other", address={place!r}, spool={str(spool)!r})
publisher.wait_for_subscriber(60)
for step in range(50):
    publisher.publish_rows(uniform_rows(), stack="decoder", layer=0, step=step)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE,
                               env={"PYTHONPATH": f"{PACKAGE}:{os.path.dirname(__file__)}", "PATH": os.environ["PATH"]})
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


def test_damage_in_what_was_left_is_told(attached, tmp_path, said):
    places = left_by(tmp_path / "spool", "job", 5)
    with open(places[0].segment.path, "r+b") as file:
        file.seek(places[3].found.at)
        file.write(b"X")
    daemon, _ = attached(spool=tmp_path / "spool")
    daemon.wait_taken(3)
    assert any("the 3 messages" in message for message in said("is not whole"))


def test_what_others_left_and_cannot_be_read_now_stays(attached, tmp_path, said, monkeypatch):
    left_by(tmp_path / "spool", "job", 1)

    def fails(segment, found):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.Segment, "read", fails)
        _, publisher = attached(spool=tmp_path / "spool")
        wait_until(lambda: said("cannot be read"), "it is told")
        publisher.close()
    assert left_in(tmp_path / "spool") == 1


@pytest.mark.parametrize("reason", ["key", "job_limit"])
def test_what_others_left_and_is_not_taken_of_us_stays_for_whoever_may_send_it(daemons, publishers, tmp_path, said, reason):
    left_by(tmp_path / "spool", "mine", 5)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool")
    daemon.acknowledges = False
    daemon.attach(publisher)
    first = daemon.wait_taken(5)[0][0]
    daemon.answer(ack=[first + 1], refused=[[first, reason], [first + 2, reason]])
    daemon.wait(lambda: publisher.stats()["spooled"] == 0, "it lets go of them")
    (told,) = said("refuses messages of job mine")
    assert str(tmp_path / "spool") in told and "stay there" in told
    daemon.taken.clear()
    publish_rows(publisher, 2)
    daemon.wait_taken(2)
    publisher.hello([])
    daemon.wait_taken(3)
    assert all(header["job"] == "job" for header in daemon.headers), "they are not sent again"
    assert publisher.stats()["refused_by_reason"] == {}
    assert left_in(tmp_path / "spool") == 5  # while the first one is there


def test_what_another_process_left_is_told_when_it_is_sent(attached, tmp_path, said):
    left_by(tmp_path / "spool", "mine", 2)
    left_by(tmp_path / "spool", "mine", 1)
    daemon, _ = attached(spool=tmp_path / "spool")
    daemon.wait_taken(3)
    assert said("messages of job mine") == [
        f"job job: messages of job mine, which another process left in {tmp_path}/spool, are sent now"]


@pytest.mark.parametrize("is_file, why", [(False, "others can write to it: chmod 700 it"), (True, "")])
def test_a_spool_that_cannot_be_used_is_told_in_one_line_and_memory_serves(attached, tmp_path, said, is_file, why):
    directory = tmp_path / "spool"
    if is_file:
        directory.write_text("")
    else:
        left_by(directory, "planted", 1)
        directory.chmod(0o777)
    daemon, publisher = attached(spool=directory / "spool" if is_file else directory)
    publish_rows(publisher, 3)
    daemon.wait_sent(publisher, 3)
    assert [header["job"] for header in daemon.headers] == ["job"] * 3
    (told,) = said("spool")
    assert "cannot be used" in told and why in told and "kept in memory" in told


@pytest.mark.parametrize("acknowledges", [True, False])
def test_what_others_left_and_stays_is_told_at_the_end(daemons, publishers, tmp_path, said, acknowledges):
    left_by(tmp_path / "spool", "job", 1)
    daemon, publisher = daemons(), publishers(spool=tmp_path / "spool", linger=0.1)
    daemon.acknowledges = acknowledges
    daemon.attach(publisher)
    daemon.wait_taken(1)
    daemon.wait(lambda: publisher.stats()["spooled"] == (0 if acknowledges else 1), "it is, or is not, acknowledged")
    publisher.close()
    assert len(said("other processes left")) == (not acknowledges)


def test_a_fork_is_inert_and_holds_nothing(attached, tmp_path):
    daemon, publisher = attached(spool=tmp_path / "spool")
    unanswered(daemon, publisher, 3)
    child = os.fork()
    if not child:
        locks = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        fine = publisher.stats()["unacknowledged"] == 0 and not any(".lock" in name or ".rec" in name for name in locks)
        publisher.publish_rows(uniform_rows(), **AT)
        publisher.close()
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    daemon.answer(ack=daemon.numbers)
    daemon.wait_sent(publisher, 3)
