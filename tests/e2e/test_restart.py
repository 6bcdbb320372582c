# SPDX-License-Identifier: MIT
"""attnd is killed and comes back: windows go on, none appears twice, and what is missing was counted."""
import contextlib
import itertools
import os
import resource
import socket
import sqlite3
import subprocess
import threading
import time

import numpy as np
import pytest
import zmq
from harness import ATTND, PATIENCE_S, SANITIZED, Attnd, Reader, Trainer, attnctl, ranks_of, wait_log, wait_until

LAYERS, RANKS = 2, 2
SETTINGS = ("window.unit=step", "window.length=10", "window.every=10", "window.also=[25 steps, 20 steps every 10]",
            "history.checkpoint=100ms", "history.commit=20ms", "window.timeout=60s", "metrics.spectrum=false",
            "ingest.budget=4GiB")  # whatever waits: what is dropped would be in no window
KILLS = int(os.environ.get("RESTART_KILLS", "5" if SANITIZED else "12"))
WEIGHTS = np.full((1, 2, 4, 4), 0.25, np.float32)


class Training:
    """Ranks that go from step to step in a thread until they are told to wait."""

    def __init__(self, attnd, pause_s=0.002):
        self.ranks = ranks_of(attnd, RANKS)
        self.step, self.pause_s = 0, pause_s
        self.sent = {layer: 0 for layer in range(LAYERS)}
        self.sent_at = []
        self.may_run, self.is_waiting, self.ends = threading.Event(), threading.Event(), False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ends:
            if not self.may_run.wait(0.05):
                self.is_waiting.set()
                continue
            self.one_step()
            time.sleep(self.pause_s)

    def one_step(self):
        for trainer in self.ranks:
            for layer in range(LAYERS):
                with contextlib.suppress(zmq.Again):  # one that the pipe has no room for is numbered, and lost
                    trainer.socket.send_multipart(trainer.attention_frames(WEIGHTS, step=self.step, layer=layer), zmq.DONTWAIT)
                self.sent[layer] += 1
                self.sent_at.append(time.monotonic())
        self.step += 1

    def go(self):
        self.may_run.set()

    def begin(self, attnd):
        """Until a checkpoint knows every rank: attnd cannot count as lost what it has nothing saved of."""
        self.go()
        wait_until(lambda: attnd.messages_kept() >= 10 * RANKS * LAYERS, "the first checkpoint")

    def wait(self):
        self.may_run.clear()
        self.is_waiting.clear()  # the thread may say only now that it was waiting before it could go
        assert self.is_waiting.wait(60)

    def finish(self, attnd):
        """A last step that shows every gap, and the end."""
        self.ends = True
        self.go()
        self.thread.join(60)
        self.one_step()
        for trainer in self.ranks:
            trainer.event("bye", step=self.step)
        self.job = stop_after_the_run(attnd)


def stop_after_the_run(attnd):
    """The run as it has ended; attnd stops, so that everything is committed."""
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end of the run")
    job, = attnd.call("jobs")
    assert attnd.stop() == 0
    return job


def kill(attnd):
    attnd.process.kill()
    attnd.process.wait()


def windows(attnd):
    """[(layer, length, every, last, messages, lost, final)] of the database."""
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return database.execute(
            "SELECT layers.layer, tracks.length, tracks.every, last, messages, lost, final FROM windows "
            "JOIN layers USING (layer_id) JOIN tracks USING (track_id) ORDER BY 1, 2, 3, 4").fetchall()


def check_windows(attnd, training):
    rows = windows(attnd)
    keys = [row[:4] for row in rows]
    assert len(keys) == len(set(keys)), "no window appears twice"
    assert all(row[6] for row in rows), "the run has ended: all windows are final"
    for layer in range(LAYERS):
        for length, every in (10, 10), (25, 25):
            mine = [row for row in rows if row[:3] == (layer, length, every)]
            assert sum(row[4] + row[5] for row in mine) == training.sent[layer], (layer, length)
    job, events = training.job, RANKS
    assert job["processed"] + sum(job["dropped"].values()) == job["received"]
    assert job["received"] + job["lost"] == sum(training.sent.values()) + events
    return sum(row[5] for row in rows if row[1] == 10)


def start_again(attnd, *trainers):
    """What was sent before is gone with the connection; what is sent from now on arrives."""
    for trainer in trainers:
        trainer.wait_forgotten()
    attnd.start()
    for trainer in trainers:
        trainer.wait_subscribed()


def test_killed_at_random_moments_under_load(rng):
    attnd = Attnd(*SETTINGS)
    training = Training(attnd)
    training.begin(attnd)
    for _ in range(KILLS):
        training.go()
        time.sleep(rng.uniform(0.02, 0.4))
        kill(attnd)
        training.wait()
        start_again(attnd, *training.ranks)
    training.finish(attnd)
    assert check_windows(attnd, training) > 0, "kills without losses test nothing"
    attnd.start()
    assert [job["state"] for job in attnd.call("jobs")] == ["ended"], "it comes back as it was"


def keeps_up(attnd, seconds):
    """Waits until one checkpoint has come after the other for so long, as they do unless the machine stands still; when
    the newest one was seen."""
    began = last = time.monotonic()
    deadline, kept = began + PATIENCE_S, attnd.messages_kept()
    while last - began < seconds:
        time.sleep(0.02)
        now, newest = time.monotonic(), attnd.messages_kept()
        assert now < deadline, "checkpoints come too rarely"
        if newest > kept:
            began, last, kept = began if now - last < 0.5 else now, now, newest
    return last


def test_nothing_older_than_the_loss_window_is_missing(rng):
    """history.checkpoint + history.commit; a busy machine may be a second late."""
    attnd = Attnd(*SETTINGS)
    training = Training(attnd, pause_s=0.02)
    training.begin(attnd)
    ends = []
    for _ in range(4):
        training.go()
        time.sleep(rng.uniform(1.3, 1.8))
        kept_at = keeps_up(attnd, 1.2)
        kill(attnd)
        training.wait()
        ends.append((kept_at - 1.12, time.monotonic()))
        start_again(attnd, *training.ranks)
    young = sum(any(first < t < last for first, last in ends) for t in training.sent_at)
    training.finish(attnd)
    assert 0 < check_windows(attnd, training) <= young < len(training.sent_at) - 4 * 40


POINTS = ["window_published", "window_submitted", "checkpoint_packed", "checkpoint_submitted", "store_begin",
          "store_before_commit", "store_after_commit"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("passing", [4] if SANITIZED else [4, 9])
def test_killed_at_a_named_point(monkeypatch, point, passing):
    """By an attnd that has found something saved: what nothing was saved of is not known to have been."""
    attnd = Attnd(*SETTINGS)
    training = Training(attnd)
    training.begin(attnd)
    training.wait()
    assert attnd.stop() == 0
    monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:{passing}")
    start_again(attnd, *training.ranks)
    training.go()
    assert attnd.process.wait(60) == -9
    training.wait()
    monkeypatch.delenv("ATTND_CRASH_AT")
    start_again(attnd, *training.ranks)
    training.go()
    time.sleep(0.2)
    training.finish(attnd)
    check_windows(attnd, training)


def test_a_clean_stop_goes_on_with_the_same_windows():
    attnd = Attnd(*SETTINGS, "history.checkpoint=1h")
    training = Training(attnd)
    for _ in range(3):
        training.go()
        time.sleep(0.3)
        training.wait()
        attnd.settled(1)
        wait_until(lambda: attnd.call("jobs")[0]["received"] + attnd.call("jobs")[0]["lost"] ==
                   sum(training.sent.values()), "what was sent")
        assert attnd.stop() == 0
        start_again(attnd, *training.ranks)
    training.finish(attnd)
    assert check_windows(attnd, training) == 0


def test_a_restored_window_is_summed_over_the_kill():
    attnd = Attnd("history.checkpoint=100ms", "history.commit=10ms")
    trainer = Trainer(attnd, "job")
    trainer.attention(WEIGHTS, step=0)
    trainer.attention(WEIGHTS, step=1)
    attnd.settled(2)
    wait_until(lambda: attnd.messages_kept() == 2, "a checkpoint with both")
    kill(attnd)
    start_again(attnd, trainer)
    reader = Reader(attnd, "summary/")
    trainer.attention(WEIGHTS, step=2)
    trainer.event("epoch_end", epoch=0)
    summary = reader.next()[1]
    assert (summary["messages"], summary["lost"], summary["window"]["partial"]) == (3, 0, False)


@pytest.mark.parametrize("lost", [0, 1, 6])
def test_windows_that_lack_what_a_kill_lost_are_partial(lost):
    """attnd cannot know which of them lacks it: that of the last message before, that of the next one, or one between."""
    attnd = Attnd("window.unit=step", "window.length=5", "window.every=5", "history.checkpoint=100ms", "history.commit=10ms")
    trainer = Trainer(attnd, "job")
    for step in range(7):
        trainer.attention(WEIGHTS, step=step)
    attnd.settled(7)
    wait_until(lambda: attnd.messages_kept() == 7, "a checkpoint with all")
    kill(attnd)
    for step in range(7, 7 + lost):
        trainer.attention_frames(WEIGHTS, step=step)
    start_again(attnd, trainer)
    for step in range(7 + lost, 25):
        trainer.attention(WEIGHTS, step=step)
    trainer.event("bye", step=24)
    stop_after_the_run(attnd)
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as database:
        found = dict(database.execute("SELECT last, partial FROM windows ORDER BY last").fetchall())
    assert found == {4: 0, 9: int(lost > 0), 14: int(lost == 6), 19: 0, 24: 0}


def test_a_window_that_is_no_longer_configured_is_dropped_aloud():
    attnd = Attnd("window.also=[10 epochs]")
    Trainer(attnd, "job").attention(WEIGHTS)
    attnd.settled(1)
    assert attnd.stop() == 0
    attnd.settings = ("window.also=[5 epochs]",)
    attnd.start()
    wait_log(attnd, "event=windows_dropped", "window=epoch-10-10")
    assert attnd.call("jobs")[0]["state"] == "active"


@pytest.mark.parametrize("after", [("window.length=5", "window.every=5"), ("window.also=[20 steps, 30 steps]",)])
def test_windows_may_change_while_attnd_is_away(after):
    """Every rank is still who it was, whichever is heard first."""
    before = ("window.unit=step", "window.length=10", "window.every=10", "window.also=[20 steps]")
    attnd = Attnd(*before)
    ranks = ranks_of(attnd, 12)
    for step in range(3):
        for trainer in ranks:
            trainer.attention(WEIGHTS, step=step)
    attnd.settled(36)
    assert attnd.stop() == 0
    attnd.settings = before + after
    start_again(attnd, *ranks)
    for step in range(3, 11):
        for trainer in reversed(ranks):
            trainer.attention(WEIGHTS, step=step)
    stats = attnd.settled(96)
    assert stats["processed"] == 96 and stats["lost"] == 0 and stats["dropped"] == {}


def test_what_was_captured_in_other_windows_is_not_said_to_be_nothing():
    attnd = Attnd("window.unit=step", "window.length=2", "window.every=2", "window.rank_grace=0")
    trainer = Trainer(attnd, "job")
    for step in range(6):
        trainer.attention(WEIGHTS, step=step)
    trainer.event("bye", step=5)
    stop_after_the_run(attnd)
    attnd.settings = ("window.unit=epoch",)
    for _ in range(2):
        attnd.start()
        done = attnctl(attnd, "summary", "job")
        assert done.returncode == 1 and done.stderr.startswith(
            "attnctl: nothing has come since attnd was started again with other windows"), done
        assert attnd.stop() == 0
    attnd.start()
    history = attnd.call("history", job="job")
    assert history["unit"] == "step" and len(history["windows"]["last"]) == 3


def test_clients_find_the_sockets_while_a_history_is_being_opened(tmp_path):
    attnd = subprocess.Popen([ATTND, "--address", tmp_path, "--set", f"history.path={tmp_path}/history.db"],
                             env={**os.environ, "ATTND_STALL_AT": "history"}, stderr=subprocess.DEVNULL)
    try:
        for name in ("ingest", "reliable", "publish", "control", "tap"):
            with socket.socket(socket.AF_UNIX) as client:
                wait_until(lambda: client.connect_ex(os.path.join(tmp_path, name)) == 0, f"the socket {name}")
        assert not os.path.exists(tmp_path / "history.db")
    finally:
        attnd.kill()
        attnd.wait()


def rolling(*settings):
    """An attnd that keeps windows of 8 steps every 2, a trainer, and a function that sends some further steps."""
    attnd = Attnd("window.unit=step", "window.length=8", "window.every=2", "history.checkpoint=100ms", "history.commit=20ms",
                  *settings)
    trainer, steps = Trainer(attnd, "job"), itertools.count()

    def send(count):
        before = attnd.stats()["received"]
        for _ in range(count):
            trainer.attention(WEIGHTS, step=next(steps))
        attnd.settled(before + count)
    return attnd, trainer, send


def test_what_a_full_disk_swallowed_is_saved_again():
    attnd, trainer, send = rolling()
    send(4)
    wait_until(lambda: attnd.messages_kept() == 4, "a checkpoint")
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    send(5)
    wait_until(lambda: attnd.stats()["store_dropped"] > 0, "a write that failed")
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    send(2)
    wait_until(lambda: attnd.messages_kept() == 11, "a checkpoint with all")
    send(1)
    wait_until(lambda: attnd.messages_kept() == 12, "one more round")
    kill(attnd)
    start_again(attnd, trainer)
    send(7)
    trainer.event("bye", step=19)
    stop_after_the_run(attnd)
    full = [row for row in windows(attnd) if row[3] >= 9]
    assert full and all(row[4] + row[5] == 8 and row[5] == 0 for row in full if row[3] <= 17), full


@pytest.mark.parametrize("how", ["removed", "replaced", "with its directory"])
def test_a_database_that_is_gone_is_written_again(tmp_path, how):
    """Windows and checkpoints from then on, and what runs have open: a kill after that costs nothing."""
    path = tmp_path / "state" / "attnd" / "history.db"
    if how == "replaced":
        older = Attnd(f"history.path={tmp_path}/older/history.db", "window.unit=step")
        Trainer(older, "older").event("bye")
        older.settled(1)
        older.close()
    attnd, trainer, send = rolling(f"history.path={path}")

    def kept():
        """The parts of windows that are saved, by what units they begin with."""
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                return [2 * int(key.split("/")[2]) for key, in database.execute("SELECT key FROM kept WHERE key LIKE 'part/%'")]
        except sqlite3.OperationalError:
            return []

    send(5)
    wait_until(lambda: kept() == [0, 2, 4], "a checkpoint")
    if how == "removed":
        for name in path.parent.glob("history.db*"):
            name.unlink()
    else:
        path.parent.rename(tmp_path / "away")
    if how == "replaced":
        (tmp_path / "older").rename(path.parent)
    send(1)
    wait_until(lambda: attnd.stats()["store_replaced"] == 1, "it is noticed")
    wait_until(lambda: kept() == [0, 2, 4], "a checkpoint with all")
    wait_until(lambda: attnd.log_text().count("event=history_gone") == 1, "one line about it")
    assert {run["job"] for run in attnd.call("runs")["runs"]} == ({"job", "older"} if how == "replaced" else {"job"})
    send(1)
    wait_until(lambda: kept() == [0, 2, 4, 6], "one more round")
    kill(attnd)
    start_again(attnd, trainer)
    send(7)
    trainer.event("bye", step=14)
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end of the run")
    assert attnd.stats()["lost"] == 0 and attnd.stats()["store_dropped"] == 0
    assert attnd.stop() == 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        full = database.execute("SELECT last, messages, lost FROM windows JOIN layers USING(layer_id) JOIN runs USING(run_id)"
                                " WHERE job = 'job' AND last BETWEEN 7 AND 13").fetchall()
    assert sorted(full) == [(last, 8, 0) for last in (7, 9, 11, 13)]


def test_without_history_nothing_comes_back():
    attnd = Attnd("history.enabled=false")
    Trainer(attnd, "job").attention(WEIGHTS)
    attnd.settled(1)
    assert attnd.stop() == 0
    assert not os.path.exists(attnd.history_path)
    attnd.start()
    assert attnd.call("jobs") == []
