# SPDX-License-Identifier: MIT
"""Random streams, split at random over ranks, microbatches, windows and starts of attnd, against brute force.

ORACLE_CASES=n tries n streams instead of a few; ORACLE_FIRST=k begins at the k-th."""
import math
import os
import sqlite3

import numpy as np
import pytest
from harness import SANITIZED, Attnd, Reader, Trainer, wait_until
from oracle import TOLERANCES, Sent, TossUp, Track, check_summary, measure, pool, random_message

FIRST = int(os.environ.get("ORACLE_FIRST", "0"))
CASES = int(os.environ.get("ORACLE_CASES", "2" if SANITIZED else "6"))
SECONDS = Track("second", 1, 1)
SETTLE_EVERY = 5  # steps: less than the parts of windows that may be open at once, whatever one socket is ahead


class Stream:
    """A random run on attnd, and what was sent and came back."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        draw = lambda low, high: int(self.rng.integers(low, high + 1))  # noqa: E731
        self.heads = [draw(1, 3) for _ in range(draw(1, 3))]  # of each layer
        self.world = draw(1, 3)
        self.first_step = int(self.rng.choice([0, draw(0, 40)]))
        self.steps, self.steps_per_epoch = draw(12, 30), draw(3, 9)
        tracks = [Track(str(self.rng.choice(["step", "epoch"])), draw(1, 9), draw(1, 9)) for _ in range(draw(1, 4))]
        self.tracks = list(dict.fromkeys(tracks))
        self.isa = str(self.rng.choice(list(TOLERANCES)))
        primary, *others = self.tracks
        others = [track.text for track in others] + ["1 seconds"]
        self.attnd = Attnd(f"window.unit={primary.unit}", f"window.length={primary.length}", f"window.every={primary.every}",
                           f"window.also=[{', '.join(others)}]", f"window.buckets={draw(8, 200)}", "window.timeout=1h",
                           "metrics.spectrum=false", "metrics.importance=false", "publish.send_queue=100000",
                           f"workers.isa={self.isa}")
        self.run = self.rng.bytes(16)
        self.sent, self.events = [], 0
        self.lives = []   # (messages sent when the summaries were read, summaries)
        self.trainers, self.withheld = [], {}
        self.restored = set()  # (rank, topic) that attnd has not heard of since it was started again
        self.begin()

    # ----------------------------------------------------------------------------------- starts of attnd

    def begin(self):
        """Ranks connect to an attnd that has just started, and go on with their sequence numbers."""
        self.reader = Reader(self.attnd, "summary/")
        sequences = [trainer.sequence for trainer in self.trainers] or [{} for _ in range(self.world)]
        self.trainers = [Trainer(self.attnd, "job", rank, self.world, self.run) for rank in range(self.world)]
        self.received = 0
        for trainer, sequence in zip(self.trainers, sequences):
            trainer.sequence = sequence
            self.event(trainer, "hello")
        self.settle()

    def restart(self):
        """A clean stop, at which open windows are shown as they are, and a start on the same history."""
        self.settle()
        self.keep(self.reader.rest())
        self.reader.close()
        for trainer in self.trainers:
            trainer.close()
        self.attnd.log.close()
        self.attnd.start()
        self.restored = {(m.rank, f"tensor/job/decoder/{m.layer}/self/") for m in self.sent}
        self.begin()

    def settle(self):
        self.attnd.settled(self.received)
        self.read()

    def read(self):
        """Everything that was published; attnd is at rest."""
        self.keep(self.reader.everything())

    def keep(self, results):
        self.lives.append((len(self.sent), [summary for _, summary in results if not summary["snapshot"]]))

    def flush(self):
        """Shows all windows as they are; they go on."""
        self.settle()
        self.attnd.call("flush")
        self.read()

    # -------------------------------------------------------------------------------------------- sending

    def event(self, trainer, event, **keys):
        trainer.event(event, **keys)
        self.received += 1

    def message(self, trainer, layer, step):
        while True:
            weights, keywords = random_message(self.rng, self.heads[layer])
            try:
                measured = measure(weights, keywords)
                break
            except TossUp:
                continue
        topic = f"tensor/job/decoder/{layer}/self/"
        key = trainer.rank, topic
        lost, withheld = self.losses(trainer, topic)
        over_restart = key in self.restored and lost + withheld > 0
        self.restored.discard(key)
        if over_restart:  # which windows it makes partial depends on which are closed when it comes
            self.settle()
        epoch = step // self.steps_per_epoch
        trainer.attention(weights, layer=layer, epoch=epoch, step=step, dropped=self.withheld.get(key, 0), **keywords)
        self.received += 1
        self.sent.append(Sent(layer, trainer.rank, epoch, step, len(self.sent), lost, withheld, over_restart, *measured))
        if over_restart:
            self.settle()

    def losses(self, trainer, topic):
        """Now and then messages of a topic never arrive, or the source says that it has dropped some."""
        lost = int(self.rng.integers(1, 4)) if topic in trainer.sequence and self.rng.random() < 0.05 else 0
        withheld = int(self.rng.integers(1, 4)) if self.rng.random() < 0.05 else 0
        trainer.sequence[topic] = trainer.sequence.get(topic, 0) + lost
        key = trainer.rank, topic
        self.withheld[key] = self.withheld.get(key, 0) + withheld
        return lost, withheld

    def one_step(self, step):
        """Each rank has up to three microbatches of some layers; ranks take turns in any order."""
        plan = [(trainer, layer) for trainer in self.trainers for layer in range(len(self.heads))
                for _ in range(self.rng.integers(0, 4))]
        self.rng.shuffle(plan)
        for trainer, layer in plan:
            self.message(trainer, layer, step)
        if (step + 1) % self.steps_per_epoch == 0:
            self.end_epoch(step)

    def end_epoch(self, step):
        for trainer in self.trainers:
            self.event(trainer, "epoch_end", epoch=step // self.steps_per_epoch, step=step)

    def play(self):
        last = self.first_step + self.steps - 1
        for step in range(self.first_step, last + 1):
            self.one_step(step)
            if step % SETTLE_EVERY == 0:
                self.settle()
            if self.rng.random() < 0.1:
                self.restart()
            if self.rng.random() < 0.1:
                self.flush()
        self.finish(last)

    def finish(self, last):
        """Every rank ends in the last step: what all have seen of a window is then easy to tell."""
        for trainer in self.trainers:
            self.message(trainer, 0, last + 1)
        self.settle()
        self.end_epoch(last + 1)
        for trainer in self.trainers:
            self.event(trainer, "bye", step=last + 1)
        self.settle()
        wait_until(lambda: self.attnd.call("jobs")[0]["state"] == "ended", "the end")
        self.read()
        assert self.attnd.stop() == 0

    # ----------------------------------------------------------------------------------------- comparison

    def check_all_published(self):
        """Whatever was shown, whole or partial, has the numbers of what was sent until then."""
        shown = 0
        for count, summaries in self.lives:
            for summary in summaries:
                track = track_of(summary)
                if track != SECONDS:
                    self.check_one(summary, track, self.sent[:count])
                    shown += 1
        return shown

    def check_one(self, summary, track, sent):
        window, layer = summary["window"], summary["layer"]
        mine = [m for m in track.members(sent, window["last"]) if m.layer == layer]
        what = f"layer {layer}, {track.text}, {window}"
        assert window["first"] == max(0, window["last"] + 1 - track.length), what
        assert mine, f"{what}: a summary of nothing"
        check_summary(summary, pool(mine), TOLERANCES[self.isa], what)

    def final(self, track):
        """{(layer, last unit): the summary that was published last}"""
        return {(s["layer"], s["window"]["last"]): s for _, summaries in self.lives for s in summaries
                if track_of(s) == track}

    def expected(self, track):
        """{(layer, last unit): its messages} of all windows of the run."""
        found = {}
        for last in track.last_units(self.sent):
            for m in track.members(self.sent, last):
                found.setdefault((m.layer, last), []).append(m)
        return found

    def check_windows(self, track):
        """The windows are those that there must be, each with all of its messages."""
        final, expected = self.final(track), self.expected(track)
        assert sorted(final) == sorted(expected), track.text
        for (layer, last), summary in final.items():
            assert summary["messages"] == len(expected[layer, last]), (track.text, layer, last)
            assert summary["window"]["partial"] == track.is_partial(self.sent, last), (track.text, layer, last)

    def check_seconds(self):
        """Which second a message falls in is the clock's business; but it falls in one."""
        final = self.final(SECONDS)
        for layer in range(len(self.heads)):
            mine = [s for (of, _), s in final.items() if of == layer]
            sent = [m for m in self.sent if m.layer == layer]
            if not sent:
                assert not mine
                continue
            truth = pool(sent)
            for key, want in ("messages", truth.messages), ("lost", truth.lost), ("rows", truth.sound), (
                    "invalid_rows", truth.unsound):
                assert sum(s[key] for s in mine) == want, key
            for head, values in enumerate(truth.rows["entropy"]):
                counts = [s["heads"]["entropy"]["count"][head] for s in mine]
                means = [s["heads"]["entropy"]["mean"][head] or 0 for s in mine]
                assert sum(counts) == len(values)
                assert math.isclose(np.dot(counts, means), values.sum(), rel_tol=1e-5, abs_tol=1e-5 * max(1, len(values)))

    def check_history(self):
        """The database has each window once, and what it says is what was sent."""
        with sqlite3.connect(f"file:{self.attnd.history_path}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT layers.layer, tracks.length, tracks.every, last, messages, lost FROM windows "
                                    "JOIN layers USING (layer_id) JOIN tracks USING (track_id) WHERE tracks.unit != ?",
                                    (UNITS.index("second"),)).fetchall()
        expected = sorted((layer, track.length, track.every, last, len(mine), sum(m.lost for m in mine))
                          for track in self.tracks for (layer, last), mine in self.expected(track).items())
        assert sorted(rows) == expected


UNITS = ["epoch", "step", "second"]


def track_of(summary):
    window = summary["window"]
    return Track(window["unit"], window["length"], window["every"])


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
def test_any_split_gives_what_one_pass_over_all_rows_gives(seed):
    stream = Stream(seed)
    stream.play()
    shown = stream.check_all_published()
    assert shown >= sum(len(stream.expected(track)) for track in stream.tracks) > 0
    for track in stream.tracks:
        stream.check_windows(track)
    stream.check_seconds()
    stream.check_history()
