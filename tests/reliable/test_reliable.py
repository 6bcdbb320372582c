# SPDX-License-Identifier: MIT
"""The reliable lane at wire level: messages that are answered are in the history, and none of them is there twice."""
import os
import re
import resource
import signal
import sqlite3
import struct
import subprocess
import time

import msgpack
import pytest

from harness import Reader, Trainer, softmax_maps, wait_log, wait_until
from keyed import Keyed, Pair, Somebody
from lane import Lane

ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")
SMALL = ("window.unit=step", "window.length=1", "window.every=1", "history.checkpoint=200ms", "history.commit=20ms")


def rows_of(attnd, query):
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as history:
        return history.execute(query).fetchall()


def windows_of(attnd):
    """How many messages the history has of each layer and window: [(layer, last, messages)]."""
    return rows_of(attnd, "SELECT layer, last, messages FROM windows JOIN layers USING(layer_id) ORDER BY layer, last")


def messages_of(attnd):
    """How many messages the windows of each length have together."""
    return dict(rows_of(attnd, "SELECT length, sum(messages) FROM windows JOIN tracks USING(track_id) GROUP BY length"))


def points_of(attnd):
    return rows_of(attnd, "SELECT step, value FROM log_points ORDER BY step")


def shown_of(attnd, column):
    """What attnctl jobs shows of the only job."""
    shown = subprocess.run([ATTNCTL, "--address", attnd.directory, "jobs"], capture_output=True, text=True, check=True).stdout
    return dict(zip(*map(str.split, shown.splitlines())))[column]


def kill_and_start(attnd):
    attnd.stop(signal.SIGKILL)
    attnd.start()


def fill_disk(attnd):
    """As if: its files cannot grow."""
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


@pytest.fixture
def small(start):
    """A daemon with a window per step, which answers soon."""
    return start(*SMALL)


def test_messages_that_are_answered_were_taken(small):
    lane = Lane(small, "job")
    assert any(prefix.startswith(b"limits/") and b";reliable=0" in prefix for prefix in lane.prefixes), "not said"
    lane.steps(range(5))
    lane.event("bye")
    lane.settled()
    stats = small.stats()
    assert sorted(lane.acknowledged) == [1, 2, 3, 4, 5, 6]
    assert (stats["received"], stats["processed"], stats["reliable_received"], stats["reliable_acknowledged"]) == (6,) * 4
    assert windows_of(small) == [(0, step, 1) for step in range(5)]


def test_an_end_while_the_disk_is_full_says_what_is_not_kept(start, rng):
    # RLIMIT_FSIZE is an error to it, as a full disk is, and no signal
    small = start(*SMALL, preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    lane = Lane(small, "job")
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    lane.settled()
    assert "reliable_unanswered" not in small.log_text()
    fill_disk(small)
    lane.steps(range(1, 4))
    wait_until(lambda: small.stats()["history"]["reason"] and small.stats()["reliable_received"] >= 4, "the disk is full")
    assert small.stop() == 0
    said = small.log_text()
    assert re.search(r"level=warning .*event=reliable_unanswered messages=3 ", said), said
    assert re.search(r"event=history_not_recovered path=\S+ reason=.* dropped=\d", said), said
    assert re.search(rf"event=history_not_written job=job run={lane.run.hex()} windows=[3-9] records=\d", said), said


def test_a_message_that_comes_twice_counts_once(small):
    lane = Lane(small, "job")
    lane.steps(range(4))
    kept = dict(lane.unanswered)
    lane.settled()
    lane.acknowledged.clear()
    lane.send_again(kept)
    stats = small.stats()
    assert sorted(lane.acknowledged) == sorted(kept)
    assert stats["reliable_duplicates"] == len(kept) and stats["dropped"] == {"repeated": len(kept)}
    assert stats["received"] == stats["processed"] + len(kept) and stats["lost"] == 0
    assert shown_of(small, "RECEIVED") == str(stats["processed"])  # what came again is no other message
    assert re.findall(r"level=(\w+) event=message_dropped reason=repeated", small.log_text()) == 3 * ["info"]  # 1, 2 and 4
    lane.steps((4, 5))
    lane.settled()
    wait_until(lambda: (0, 4, 1) in windows_of(small), "a window in which the rules judge what came until then")
    assert small.call("alerts")["alerts"] == [] and shown_of(small, "DROPPED") == "0"


@pytest.mark.parametrize("waits_for", ["the other lane", "room"])
def test_a_message_that_is_refused_does_not_overtake_those_before_it(waits_for, start, rng):
    attnd = start(*SMALL, "limits.entries=300000", "ingest.budget=1MiB", "ingest.max_message=1MiB", "window.timeout=2s")
    lane = Lane(attnd, "job")
    large = rng.normal(size=(1, 1, 1024, 1)).astype("f4")
    if waits_for == "room":
        for step in range(10):
            lane.qk(large[:, :, :512], large[:, :, :512], scale=1.0, layer=1, step=step)
    else:
        lane.event("epoch_end", after=[1, 9, 0, 5])
    lane.qk(large[:, :, :8], large[:, :, :8], scale=1.0, step=10)
    lane.qk(large, large, scale=1.0, step=11)
    lane.settled()
    refused = lane.next_id - 1
    assert lane.refused == {refused: "entries_limit"} and refused - 1 in lane.acknowledged
    stats = attnd.stats()
    assert stats["dropped"] == {"entries_limit": 1} and stats["received"] == stats["processed"] + 1 == refused
    assert stats["reliable_duplicates"] == 0


def test_what_is_dropped_in_its_turn_is_refused_when_that_is_saved(start, rng):
    attnd = start(*SMALL)
    lane = Lane(attnd, "job")
    lane.steps(range(3))
    lane.settled()
    fill_disk(attnd)
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    lane.attention(softmax_maps(rng, 1, 3, 8, 8), step=3)
    sent = dict(lane.unanswered)
    wait_until(lambda: attnd.stats()["dropped"] == {"late": 1, "heads_changed": 1}, "their turn")
    lane.hear(0.5)
    assert lane.unanswered == sent and lane.refused == {}
    kill_and_start(attnd)
    lane.join()
    lane.settled()
    assert lane.refused == {4: "late", 5: "heads_changed"} and sorted(lane.acknowledged) == [1, 2, 3]
    assert attnd.stats()["reliable_refused"] == 2
    for killed in (False, True):  # as if no answer had come
        if killed:
            kill_and_start(attnd)
        lane.send_again(sent)
    (job,) = attnd.call("jobs")
    assert {reason: job["dropped"].get(reason) for reason in ("late", "heads_changed")} == {"late": 1, "heads_changed": 1}
    assert job["received"] - job["processed"] == 2 + job["dropped"].get("repeated", 0) and job["lost"] == 0
    assert lane.refused == {4: "late", 5: "heads_changed"} and sorted(lane.acknowledged) == [1, 2, 3, 4, 4, 5, 5]


def test_what_two_processes_with_one_rank_send_is_dropped(small, rng):
    """Without the lane a number that came before is another message's, and lost."""
    reader = Reader(small, "alert/")
    first = Trainer(small, "job")
    second = Trainer(small, "job", run=first.run)
    for step in range(2):
        for number, trainer in enumerate((first, second)):
            trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
            small.settled(2 * step + number + 1)
    stats = small.stats()
    assert stats["dropped"] == {"seq_duplicate": 2} and stats["reliable_duplicates"] == 0
    assert shown_of(small, "DROPPED") == "2"
    alert = reader.next()[1]
    assert (alert["rule"], alert["state"]) == ("losses", "firing")
    assert re.findall(r"level=(\w+) event=message_dropped reason=seq_duplicate", small.log_text()) == 2 * ["warning"]


@pytest.mark.parametrize("point", ["store_begin", "store_before_commit", "store_after_commit", "checkpoint_packed",
                                   "checkpoint_submitted", "window_published", "window_submitted"])
def test_each_message_is_there_once_after_a_kill(start, point, rng, monkeypatch):
    """The first attnd kills itself at a point of its own; the second gets everything that was not answered, and is killed when
    it has answered everything; the third has it all."""
    monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:3")
    attnd = start(*SMALL, "window.also=[4 steps]")
    lane = Lane(attnd, "job")
    step = 0
    while attnd.process.poll() is None:
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step, layer=step % 2)
        lane.event("log", step=step, values={"loss": step / 8})
        lane.hear(0.01)
        step += 1
    assert attnd.process.returncode == -signal.SIGKILL and lane.unanswered
    monkeypatch.delenv("ATTND_CRASH_AT")
    attnd.start()
    lane.join()
    for more in range(step + 1, step + 3):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=more, layer=more % 2)
    lane.event("bye", step=step + 3)
    lane.settled()
    assert lane.refused == {}
    kill_and_start(attnd)
    wait_until(lambda: messages_of(attnd) == {1: step + 2, 4: step + 2}, "every message, once")
    assert points_of(attnd) == [(one, one / 8) for one in range(step)]


def test_each_message_is_there_once_after_a_library_aborts_attnd(start, rng):
    attnd = start(*SMALL)
    lane = Lane(attnd, "job")
    for step in range(40):
        if step == 25:
            wait_until(lambda: attnd.stats()["uptime_s"] > 1, "attnd is old enough to begin again")
            attnd.process.send_signal(signal.SIGABRT)
            wait_log(attnd, "event=restarted")
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step, layer=step % 2)
        lane.hear(0.01)
    assert attnd.process.poll() is None and attnd.call("ping")
    lane.join()
    lane.event("bye", step=40)
    lane.settled()
    assert lane.refused == {}
    assert messages_of(attnd) == {1: 40}
    assert attnd.stop() == 0, "its signals reach it"


def test_an_ended_run_knows_its_messages_after_a_restart(start):
    attnd = start(*SMALL)
    lane = Lane(attnd, "job")
    lane.steps(range(3))
    lane.event("bye", step=3)
    everything = dict(lane.unanswered)
    lane.settled()
    before = windows_of(attnd)
    kill_and_start(attnd)
    lane.send_again(everything)
    assert windows_of(attnd) == before and len(before) == 3
    assert [job["state"] for job in attnd.call("jobs")] == ["ended"]
    assert attnd.stats()["reliable_duplicates"] == len(everything)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_that_was_forgotten_does_not_begin_anew(start, restarted, rng):
    attnd = start(*SMALL, "limits.runs=1")
    first, second = Lane(attnd, "job"), Lane(attnd, "job")
    first.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    first.event("bye", step=1)
    everything = dict(first.unanswered)
    first.settled()
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end of the first run")
    second.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    second.settled()
    if restarted:
        kill_and_start(attnd)
    first.send_again(everything)
    assert len(windows_of(attnd)) == 1 and first.refused == {}  # the second one's is open
    assert [job["run"] for job in attnd.call("jobs")] == [second.run.hex()]
    first.attention(softmax_maps(rng, 1, 2, 8, 8), step=5)  # it has more to say: that is no message of the past
    first.settled()
    assert first.refused == {first.next_id - 1: "run_limit"}


def a_forgotten_run(attnd, rng):
    """A run whose three messages are answered, and that has made room for another one, which may go in its turn. Returns its
    lane, what it sent, and that of the other one."""
    first, second = Lane(attnd, "job"), Lane(attnd, "job")
    first.steps(range(3))
    everything = dict(first.unanswered)
    first.settled()
    time.sleep(0.3)  # at least: longer than window.timeout
    second.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    second.settled()
    assert [job["run"] for job in attnd.call("jobs")] == [second.run.hex()]
    time.sleep(0.3)
    return first, everything, second


FORGETFUL = ("window.unit=step", "window.length=4", "window.every=4", "window.timeout=100ms", "limits.runs=1",
             "history.checkpoint=200ms", "history.commit=20ms")


def test_a_run_that_was_forgotten_and_goes_on_is_there_after_a_kill(start, rng):
    attnd = start(*FORGETFUL)
    first, _, second = a_forgotten_run(attnd, rng)
    first.steps((4, 5))
    first.settled()
    kill_and_start(attnd)
    assert [job["run"] for job in attnd.call("jobs")] == [first.run.hex()]
    first.join()
    first.event("bye", step=6)
    first.settled()
    wait_until(lambda: sum(messages for _, _, messages in windows_of(attnd)) == 6, "all windows of both runs")
    assert first.refused == second.refused == {}


@pytest.mark.parametrize("begins", ["hello", "attention"])
def test_a_forgotten_run_is_known_to_both_lanes(start, begins, rng):
    """What comes by the default lane brings it back as well, and takes its place from the other run: with what it knows."""
    attnd = start(*FORGETFUL)
    first, everything, second = a_forgotten_run(attnd, rng)
    before = attnd.stats()
    other = Trainer(attnd, "job", run=first.run)
    if begins == "hello":
        other.event("hello", step=3)
    else:
        other.attention(softmax_maps(rng, 1, 2, 8, 8), step=3)
    wait_until(lambda: attnd.stats()["processed"] == before["processed"] + 1, "what came by the default lane")
    assert [job["run"] for job in attnd.call("jobs")] == [first.run.hex()]
    first.send_again(everything)
    stats = attnd.stats()
    assert stats["processed"] == before["processed"] + 1 and stats["reliable_duplicates"] == len(everything) == 3


def test_what_comes_again_of_a_forgotten_run_is_answered_behind_its_last_batch(start, rng):
    """That waits for a full disk, and is gone with attnd."""
    attnd = start(*FORGETFUL)
    first, second = Lane(attnd, "job"), Lane(attnd, "job")
    first.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    first.settled()
    fill_disk(attnd)
    first.steps(range(1, 4))
    attnd.settled(4)
    time.sleep(0.3)  # at least: longer than window.timeout
    second.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    wait_until(lambda: [job["run"] for job in attnd.call("jobs")] == [second.run.hex()], "the first run to go")
    first.join()
    wait_until(lambda: attnd.stats()["reliable_duplicates"] == 3, "the messages again")
    first.hear(0.5)
    assert first.acknowledged == [1] and len(first.unanswered) == 3
    kill_and_start(attnd)
    first.join()
    first.event("bye", step=4)
    first.settled()
    assert messages_of(attnd) == {4: 4}


def a_forgotten_run_without_history(start, rng, folder):
    """a_forgotten_run, and its attnd, whose history has gone since."""
    history = folder / "history"
    history.mkdir(0o700)
    attnd = start(*FORGETFUL, f"history.path={history / 'history.db'}")
    first, everything, second = a_forgotten_run(attnd, rng)
    attnd.process.send_signal(signal.SIGSTOP)  # it would make the directory anew
    history.rename(folder / "away")
    history.touch()  # nothing can be made there
    attnd.process.send_signal(signal.SIGCONT)
    second.attention(softmax_maps(rng, 1, 2, 8, 8), step=1)
    wait_log(attnd, "history_trouble")
    wait_until(lambda: attnd.stats()["processed"] == len(everything) + 2, "what was sent is in windows")
    return attnd, first, everything, second


def have_history_back(attnd, folder):
    (folder / "history").unlink()
    (folder / "away").rename(folder / "history")
    wait_log(attnd, "history_recovered")


@pytest.mark.parametrize("by", ["reliable", "ingest"])
def test_a_forgotten_run_does_not_begin_anew_while_the_history_is_away(start, by, rng, tmp_path):
    attnd, first, everything, second = a_forgotten_run_without_history(start, rng, tmp_path)
    before = attnd.stats()["processed"]
    other = Trainer(attnd, "job", run=first.run)
    if by == "reliable":
        first.unanswered = dict(everything)
        first.join()
    else:
        other.attention(softmax_maps(rng, 1, 2, 8, 8), step=3)
    wait_until(lambda: sum(attnd.stats()["dropped"].values()) == (3 if by == "reliable" else 1), "the refusals")
    reasons = set(attnd.stats()["dropped"])
    assert reasons == {"history_unread"} or by == "reliable" and reasons == {"history_unread", "again"}  # that came behind the answer
    have_history_back(attnd, tmp_path)
    first.send_again(everything)
    stats = attnd.stats()
    assert (stats["processed"], stats["reliable_duplicates"]) == (before, len(everything))
    assert [job["run"] for job in attnd.call("jobs")] == [second.run.hex()]


def test_nothing_overtakes_a_message_that_is_to_come_again(start, rng, tmp_path):
    """It would be taken for one that came before."""
    attnd, first, _, second = a_forgotten_run_without_history(start, rng, tmp_path)
    first.attention(softmax_maps(rng, 1, 2, 8, 8), step=4)
    wait_until(lambda: attnd.stats()["dropped"] == {"history_unread": 1}, "the first one")
    have_history_back(attnd, tmp_path)
    first.attention(softmax_maps(rng, 1, 2, 8, 8), step=5)  # by the same connection
    wait_until(lambda: attnd.stats()["dropped"] == {"history_unread": 2}, "the other one")
    before = attnd.stats()["processed"]
    first.join()
    first.settled()
    stats = attnd.stats()
    assert (stats["processed"], stats["reliable_duplicates"]) == (before + 2, 0)


def test_without_history_messages_are_acknowledged_when_they_are_taken(start, rng):
    attnd = start("history.enabled=false")
    lane = Lane(attnd, "job")
    lane.attention(softmax_maps(rng, 1, 2, 8, 8))
    lane.event("bye")
    lane.settled()
    assert lane.acknowledged == [1, 2] and attnd.stats()["processed"] == 2


def test_messages_wait_for_a_full_disk(start, rng):
    """None is answered while there is no room, none is lost, and all of them are there in the end, once."""
    attnd = start(*SMALL)
    lane = Lane(attnd, "job")
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    lane.settled()
    fill_disk(attnd)
    for step in range(1, 20):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
        lane.event("log", step=step, values={"loss": step})
    wait_log(attnd, "history_trouble")
    attnd.settled(39)
    wait_until(lambda: lane.hear(0.1) and lane.waits, "why nothing is answered")
    assert lane.waits == [attnd.stats()["history"]["reason"]] and len(lane.unanswered) == 38
    for command in ("jobs",), ("summary", "job"), ("alerts", "job"), ("alerts",):
        shown = subprocess.run([ATTNCTL, "--address", attnd.directory, *command], capture_output=True, text=True, check=True).stdout
        assert shown.endswith(f"\nattnd cannot write its history: {lane.waits[0]}\n"), shown
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lane.event("bye", step=20)
    lane.settled()
    assert windows_of(attnd) == [(0, step, 1) for step in range(20)]
    assert points_of(attnd) == [(step, step) for step in range(1, 20)]
    assert attnd.stats()["store_dropped"] == 0 and len(lane.waits) == 1


def test_a_stop_that_runs_out_of_time_says_what_is_not_kept(start, rng):
    attnd = start("workers.threads=1", "metrics.spectrum_max_size=4096", "metrics.spectrum_budget=0",
                  "metrics.spectrum_effort=eigenvalues", "shutdown.timeout=200ms")
    lane = Lane(attnd, "job")
    lane.attention(softmax_maps(rng, 1, 8, 1200, 1200), step=0)
    wait_until(lambda: attnd.stats()["reliable_received"] == 1, "the heavy message")
    assert attnd.stop() == 0
    said = attnd.log_text()
    assert "stop_timed_out" in said and re.search(r"level=warning .*event=reliable_unanswered messages=1 ", said), said


def test_an_event_waits_for_what_its_rank_sent_before(start, rng):
    attnd = start("window.unit=epoch", "history.checkpoint=200ms")
    lane = Lane(attnd, "job")
    other = Trainer(attnd, "job", run=lane.run)
    other.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=0, step=0)
    attnd.settled(1)
    lane.event("epoch_end", epoch=0, after=[1, 0, 0, 3])
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=1, step=9)  # behind it
    wait_until(lambda: attnd.stats()["received"] == 3, "both")
    lane.hear(0.5)
    assert attnd.stats()["processed"] == 1 and len(lane.unanswered) == 2
    for step in (1, 2):
        other.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=0, step=step)
    lane.settled()
    stats = attnd.settled(5)
    assert stats["processed"] == 5 and stats["dropped"] == {}
    assert wait_until(lambda: windows_of(attnd), "the window") == [(0, 0, 3)]


def test_tensors_that_overtake_others_close_no_window(start, rng):
    attnd = start("window.unit=epoch", "history.checkpoint=200ms", "history.commit=20ms")
    lane = Lane(attnd, "job")
    other = Trainer(attnd, "job", run=lane.run)
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=0)
    attnd.settled(1)
    other.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=2, step=20, seq=5, after=[1, 0, 0, 4])
    attnd.settled(2)
    for epoch, step in ((0, 1), (1, 10), (2, 21)):
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=epoch, step=step)
    lane.settled()
    assert wait_until(lambda: windows_of(attnd)[1:] and windows_of(attnd), "two windows") == [(0, 0, 2), (0, 1, 1)]
    other.attention(softmax_maps(rng, 1, 2, 8, 8), epoch=3, step=30, seq=6, after=[1, 0, 0, 4])  # which has come
    assert wait_until(lambda: windows_of(attnd)[2:], "the third") == [(0, 2, 2)]
    assert attnd.stats()["dropped"] == {}
    assert rows_of(attnd, "SELECT partial FROM windows") == 3 * [(0,)]  # though the first that came was not the first


@pytest.mark.parametrize("killed", [False, True])
def test_ranks_that_kept_much_do_not_close_the_windows_of_each_other(start, rng, killed):
    attnd = start(*SMALL)
    ranks = [Lane(attnd, "job", rank=0, world=2)]
    ranks.append(Lane(attnd, "job", rank=1, world=2, run=ranks[0].run))
    for lane in ranks:
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
        lane.settled()
    if killed:
        kill_and_start(attnd)
        for lane in ranks:
            lane.join()
    for lane in ranks:  # one after the other
        lane.steps(range(1, 100))
        lane.event("bye", step=99)
        lane.settled()
    wait_until(lambda: len(windows_of(attnd)) == 100, "all windows")
    assert windows_of(attnd) == [(0, step, 2) for step in range(100)]
    for lane in ranks:
        assert not lane.refused


def test_an_event_does_not_wait_for_ever(start, rng):
    attnd = start("window.unit=epoch", "window.timeout=500ms", "history.checkpoint=200ms")
    lane = Lane(attnd, "job")
    lane.attention(softmax_maps(rng, 1, 2, 8, 8))
    lane.event("epoch_end", after=[1, 0, 0, 7, 0, 3, 1, 1])
    lane.event("bye")
    lane.settled()
    assert attnd.stats()["processed"] == 3 and windows_of(attnd) == [(0, 0, 1)]


def test_messages_wait_for_the_budget(start, rng):
    attnd = start(*SMALL, "ingest.budget=4MiB", "ingest.max_message=1MiB")
    lane = Lane(attnd, "job")
    for step in range(40):
        lane.attention(softmax_maps(rng, 1, 2, 160, 160), step=step)
    lane.settled()
    stats = attnd.settled(40)
    assert stats["processed"] == 40 and stats["dropped"] == {}


def test_a_message_may_be_larger_than_the_credit(start, rng):
    attnd = start(*SMALL, "ingest.budget=4MiB", "ingest.max_message=1MiB")
    lane = Lane(attnd, "job")
    assert lane.credit == 256 << 10
    for step in range(3):
        lane.attention(softmax_maps(rng, 1, 2, 200, 200), step=step)
        lane.settled()
    assert attnd.stats()["processed"] == 3 and lane.credit == 256 << 10


def test_a_message_of_many_frames_passes_the_least_budget(start, rng):
    """Each byte that is read in a small piece counts for 32 until the message is whole."""
    attnd = start(*SMALL, "ingest.budget=1MiB", "ingest.max_message=1MiB")
    lane = Lane(attnd, "job")
    for step in range(20):
        lane.projections(*rng.standard_normal((4, 64, 64), dtype="f4"), step=step)
    lane.settled()
    assert attnd.settled(20)["unfinished_cut"] == 0


def test_credit_holds_for_those_who_ignore_it(start, rng):
    attnd = start(*SMALL, "ingest.budget=1MiB", "ingest.max_message=1MiB", "workers.threads=1")
    lane, honest = Lane(attnd, "greedy"), Lane(attnd, "honest")
    for step in range(300):
        lane.credit = 1 << 40
        lane.attention(softmax_maps(rng, 1, 2, 64, 64), step=step)
    stats = attnd.settled(300)
    beyond = stats["dropped"]["over_credit"]
    assert 0 < beyond < 300 and stats["reliable_received"] == 300 - beyond
    lane.hear(1)
    wait_until(lambda: lane.hear() and len(lane.acknowledged) == 300 - beyond, "answers to the others")
    honest.attention(softmax_maps(rng, 1, 2, 8, 8))
    honest.settled()


def test_garbage_is_counted_and_answered_where_it_has_an_id(small, rng):
    lane = Lane(small, "job")
    topic, header, *payload = lane.attention_frames(softmax_maps(rng, 1, 2, 8, 8))
    number = struct.pack
    lane.dealer.send_multipart([b"no id", topic, header, *payload])
    lane.dealer.send_multipart([number("<Q", 0), topic, header, *payload])
    lane.dealer.send_multipart([number("<Q", 70)])
    lane.dealer.send_multipart([number("<Q", 71), topic])
    lane.dealer.send_multipart([number("<Q", 72), topic, b"\xc1", *payload])
    lane.dealer.send_multipart([number("<Q", 73), topic, header, *payload])  # the header does not say `reliable`
    lane.dealer.send_multipart([number("<Q", 74), b"tensor/other/", msgpack.packb({**msgpack.unpackb(header), "reliable": True}),
                                *payload])
    wait_until(lambda: lane.hear() and len(lane.refused) == 4, "refusals")
    assert lane.refused == {71: "frames_missing", 72: "header_malformed", 73: "lane", 74: "topic"}
    stats = small.settled(7)
    assert stats["dropped"] == {"frames_missing": 4, "header_malformed": 1, "lane": 1, "topic": 1}
    lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=1)
    lane.settled()


def test_a_malformed_after_is_refused(small):
    lane = Lane(small, "job")
    for after in ([1, 0, 0], [2, 0, 0, 1], [1, 0, 0, -1], [1, 70000, 0, 1], "all", 4001 * [1, 0, 0, 1]):
        lane.event("bye", after=after)
    lane.settled()
    assert list(lane.refused.values()) == ["key_range", "key_range", "key_type", "key_range", "key_type", "key_range"]


def test_nobody_speaks_for_the_job_of_another_key(start, rng):
    owner, other = Pair(), Pair()
    attnd = start((owner, "publish", "mine"), (other, "publish", "other-*"), kind=Keyed)
    strangers = [Somebody(attnd, pair) for pair in (owner, other)]
    victim, forger = Lane(strangers[0], "mine"), Lane(strangers[1], "mine")
    forger.run = victim.run
    victim.attention(softmax_maps(rng, 1, 2, 8, 8))
    forger.event("bye")
    victim.settled()
    forger.settled()
    assert forger.refused == {1: "key"} and victim.acknowledged == [1]
    assert Somebody(attnd, None).is_refused("reliable") and Somebody(attnd, Pair()).is_refused("reliable")
    for stranger in strangers:
        stranger.context.destroy(linger=0)


def test_a_recording_until_the_end_has_what_the_end_waited_for(start, rng, tmp_path):
    attnd = start("history.checkpoint=200ms")
    recorder = subprocess.Popen([ATTNCTL, "--address", attnd.directory, "record", "job", str(tmp_path / "all"), "--until-end"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "recording job" in recorder.stderr.readline()
    lane = Lane(attnd, "job")
    other = Trainer(attnd, "job", run=lane.run)
    lane.event("bye", after=[1, 1, 0, 1])
    wait_until(lambda: attnd.stats()["received"] == 1, "the end")
    other.attention(softmax_maps(rng, 1, 2, 8, 8), layer=1)
    lane.settled()
    assert recorder.communicate(timeout=60)[0].startswith(f"{tmp_path / 'all'}: 2 messages of job")


def test_a_recording_of_both_lanes_gives_the_same_windows(start, rng, tmp_path):
    """It is replayed through ingest, where the reliable lane's messages are taken like the others, and not answered."""
    attnd, again = (start("window.unit=epoch", "history.checkpoint=200ms") for _ in range(2))  # steps need not be in order
    recording = str(tmp_path / "both")
    recorder = subprocess.Popen([ATTNCTL, "--address", attnd.directory, "record", "job", recording], stderr=subprocess.PIPE)
    assert b"recording job" in recorder.stderr.readline()
    lane = Lane(attnd, "job")
    other = Trainer(attnd, "job", run=lane.run)
    for step in range(4):
        other.attention(softmax_maps(rng, 1, 2, 8, 8), step=step, layer=1)
        lane.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    lane.event("bye", after=[1, 1, 0, 4])
    lane.settled()
    wait_until(lambda: attnd.stats()["tapped"] == 9, "the recorder's copies")
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(60) == 0
    replay = subprocess.run([ATTNCTL, "--address", again.directory, "replay", recording], capture_output=True, text=True)
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert again.settled(9)["dropped"] == {}
    wait_until(lambda: windows_of(again) == windows_of(attnd), "the same windows")
    assert windows_of(again) == [(0, 0, 4), (1, 0, 4)]
    recorder.stderr.close()
