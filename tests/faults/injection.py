#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""injection: a short life of attnd, and the same once more for each of its allocations, system calls and calls of
libraries, where that one fails.

    ATTND_BIN=build/daemon/attnd FAULTS_LIB=build/tests/faults/libfaults.so (and more: meson.build) \\
        python3 tests/faults/injection.py [--scenario NAME] [--every K] [--from N] [--to N] [--modules PARTS] [--jobs N]

After each: attnd has refused to start with a sentence, or it answers, has counted every message as processed or
dropped, and ends when it is told to; nothing has leaked; its history is sound, and has every window of a life in which
nothing was said to be missing, and every message that a trainer on the reliable lane said to be kept. Prints a JSON line per failure that breaks this, and one of totals.
"""
import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

import msgpack
import numpy as np
import zmq

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "e2e"), os.path.join(HERE, "..", "e2e", "access"), os.path.join(HERE, "..", "reliable"),
                os.path.join(HERE, "..", "..", "clients", "python")]
import keyed  # noqa: E402
import keeper  # noqa: E402
from harness import ATTND, PATIENCE_S, Trainer, free_ports, softmax_maps  # noqa: E402
from row_sums import rows_of  # noqa: E402

from attnd.sending.head_maps import HeadMaps  # noqa: E402
from attnd.sending.spool import Spool  # noqa: E402

LIBRARY = os.environ.get("FAULTS_LIB", "build/tests/faults/libfaults.so")
TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
STEPS = 12  # of a trainer on the reliable lane
LENT = 6  # messages of one on the same-host lane
LENDER = """
import sys
import numpy as np
import attnd
weights, q = np.full((1, 2, 160, 160), 1 / 160, np.float32), np.ones((2, 2, 160, 128), np.float32)
with attnd.Publisher("lent", address=sys.argv[1], linger=60) as publisher:
    step, taken = 0, publisher.wait_for_subscriber(60)
    while taken and step < int(sys.argv[2]):
        if step % 2:
            publisher.publish_qk(q, q, q, stack="decoder", layer=1, step=step, causal=True)
        else:
            publisher.publish_attention(weights, stack="decoder", layer=0, step=step)
        step, taken = step + 1, publisher.drain(60)
sys.exit(not taken)
"""
RECORDING = os.path.join(HERE, "..", "golden", "recordings", "header-6.rec")
LAYOUT = struct.Struct("<8Q32s")  # struct faults of faults.h
RUN = bytes(range(16))
ASK_S = 5  # an answer may be what failed: then it is asked for again
LONG_S = max(60, 2 * PATIENCE_S)
LINGER_S = 3 * LONG_S  # a trainer's last message may be what attnd has lost
SETTINGS = ("http.endpoint=tcp://127.0.0.1:*", "history.commit=10ms", "history.checkpoint=100ms", "plan.cost_max=0",
            "window.also=[2 steps]", "metrics.similarity=true", "workers.threads=2",
            "metrics.head_pairs=true", "shutdown.timeout=60s", "maps.every=0s")


class Broken(AssertionError):
    """Something that a failure must not do."""


class NothingLent(Broken):
    """A trainer was done before attnd had greeted it."""


class Program:
    """A program in whose run the nth call fails. Its files are in a directory of its own."""

    def __init__(self, nth, modules, directory, command, stdin=subprocess.DEVNULL, **environment):
        self.directory = directory
        self.state = os.path.join(directory, "faults")
        with open(self.state, "wb") as file:
            file.write(LAYOUT.pack(nth, 0, 0, 0, 0, 0, 0, 0, b""))
        faults = dict(LD_PRELOAD=os.path.abspath(LIBRARY), FAULTS_FILE=self.state, FAULTS_MODULES=modules)
        environment = {**os.environ, **faults, **environment}
        with open(self.path("log"), "wb") as log, open(self.path("out"), "wb") as out:
            self.process = subprocess.Popen(command, stdin=stdin, stderr=log, stdout=out, env=environment)

    def path(self, name):
        return os.path.join(self.directory, name)

    def text(self, name):
        with open(self.path(name), errors="replace") as file:
            return file.read()

    def log(self):
        return self.text("log")

    def faults(self):
        with open(self.state, "rb") as file:
            names = ("nth", "count", "failed", "caller", "live", "live_caller", "open", "pid", "what")
            found = dict(zip(names, LAYOUT.unpack(file.read())))
        return dict(found, what=found["what"].rstrip(b"\0").decode())

    def has_ended(self):
        return self.process.poll() is not None

    def wait_end(self, seconds=LONG_S):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Broken("it does not end") from None

    def discard(self):
        if not self.has_ended():
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Life(Program):
    """One attnd from its start to its end."""

    def __init__(self, nth, modules="", directory=None, settings=()):
        directory = directory or tempfile.mkdtemp(prefix="attnd-")
        command = [ATTND, "--address", directory, "--set", f"history.path={directory}/history.db"]
        for setting in (*SETTINGS, *settings):
            command += ["--set", setting]
        self.context, self.number = zmq.Context(), 0
        super().__init__(nth, modules, directory, command)

    history = property(lambda self: self.path("history.db"))

    def endpoint(self, name):
        return f"ipc://{self.directory}/{name}"

    def wait(self, condition, what):
        deadline, pause_s = time.monotonic() + LONG_S, 0.005
        while not condition():
            if self.has_ended():
                raise Broken(f"it ended with {self.process.returncode} while it was waited for {what}")
            if time.monotonic() > deadline:
                raise Broken(f"no {what}")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 0.1)

    def ask(self, method, **params):
        """The result, or the code of the error, as text. None: it has ended."""
        deadline = time.monotonic() + LONG_S
        while time.monotonic() < deadline:
            self.number += 1
            socket = self.context.socket(zmq.DEALER)
            socket.linger = 0
            try:
                socket.connect(self.endpoint("control"))
                socket.send(msgpack.packb([0, self.number, method, params]))
                until = time.monotonic() + ASK_S
                while time.monotonic() < until and not self.has_ended():
                    if socket.poll(50):
                        _, _, error, result = msgpack.unpackb(socket.recv(), strict_map_key=False)
                        return error["code"] if error else result
            finally:
                socket.close()
            if self.has_ended():
                return None
        raise Broken(f"no answer to {method}")

    def started(self):
        """Whether it answers; it may refuse to start, with a sentence."""
        if self.ask("ping") is not None:
            return True
        if self.process.returncode not in (1, 2):
            raise Broken(f"it ended with {self.process.returncode} at its start")
        if not re.search(r"^attnd: .{10,}", self.log(), re.M):
            raise Broken("it did not say why it does not start")
        return False

    def stats(self):
        """Asks again when that is what has failed."""
        stats = self.ask("stats")
        return stats if isinstance(stats, dict) else self.ask("stats")

    def settled(self, received):
        def rests():
            stats = self.stats()
            return (stats and stats["received"] >= received and stats["in_flight"] == 0 and stats["in_flight_bytes"] == 0
                    and stats["received"] == stats["processed"] + sum(stats["dropped"].values()))
        self.wait(rests, f"{received} messages as processed and dropped (now {self.stats()})")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.wait_end()
        if code != 0:
            raise Broken(f"it ended with {code}")

    def discard(self):
        self.context.destroy(linger=0)
        super().discard()

    def windows(self):
        """What the history says of each window: job, layer, what it is a window of, last unit, messages, lost."""
        if not os.path.exists(self.history):
            return None
        with contextlib.closing(sqlite3.connect(f"file:{self.history}?mode=ro", uri=True)) as db:
            sound, = db.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise Broken(f"its history: {sound}")
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'windows'").fetchone():
                return None
            return sorted(db.execute("SELECT job, layer, stack, unit, length, every, last, messages, lost FROM windows "
                                     "JOIN layers USING(layer_id) JOIN runs USING(run_id) JOIN tracks USING(track_id)"))


def messages_of(trainer):
    """Every kind of message, of two layers."""
    rng = np.random.default_rng(1)
    frames = []

    def event(name, **keys):
        topic = f"event/{trainer.job}/"
        frames.append([topic.encode(), msgpack.packb(trainer.common(topic, "event", keys.pop("epoch", 0),
                                                                    keys.pop("step", 0), event=name, **keys))])

    event("hello")
    for step in range(4):
        weights = softmax_maps(rng, 1, 2, 6, 6, causal=True)
        frames.append(trainer.attention_frames(weights, step=step, causal=True, labels=list("abcdef"),
                                               tokens=np.arange(6, dtype=np.int32)[None]))
        q = rng.normal(size=(1, 2, 6, 4)).astype(np.float32)
        frames.append(trainer.tensor_frames("qk", dict(q=q, k=q, v=q), layer=1, step=step, heads=2, scale=0.5))
        event("log", step=step, values={"loss": 2.0 - step})
    matrix = rng.normal(size=(8, 8)).astype(np.float32)
    frames.append(trainer.tensor_frames("weights", dict(wq=matrix, wk=matrix, wv=matrix, wo=matrix), step=4, heads=2, kv_heads=2,
                                        head_dim=4))
    maps = HeadMaps(softmax_maps(rng, 1, 2, 6, 6, causal=True)[0].astype(np.float16), 6, 6)
    frames.append(trainer.rows_frames(rows_of(rng.normal(size=(1, 2, 6, 6)), causal=True, maps=maps), layer=2, step=4))
    event("epoch_end", step=4)
    event("bye", epoch=1, step=4)
    return frames


def browse(life):
    """Requests as a browser and Prometheus make them; one of them may fail."""
    config = life.ask("config")
    port = config["http.endpoint"].rsplit(":", 1)[1] if isinstance(config, dict) else ""
    if not port.isdigit():
        return
    for path in ("/", "/metrics", "/api/v1/jobs", "/api/v1/history?job=injected", "/api/v1/maps?job=injected", "/readyz",
                 "/api/v1/openapi.json"):
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=ASK_S)
        try:
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()


QUESTIONS = (("jobs", {}), ("stats", {}), ("summary", dict(job="injected")), ("maps", dict(job="injected")),
             ("windows", dict(job="injected")), ("history", dict(job="injected")), ("alerts", dict(job="injected")),
             ("log", dict(job="injected")), ("rollout", dict(job="injected")), ("verdict", dict(job="injected")),
             ("compare", dict(job="injected")), ("roles", dict(job="injected")), ("plan.get", {}),
             ("plan.set", dict(job="injected", every=7)), ("plan.reset", dict(job="injected")), ("rules", {}),
             ("fleet", {}))


def train(life):
    """Sends everything; how many messages that were."""
    reader = life.context.socket(zmq.SUB)
    reader.linger = 0
    for topic in (b"summary/", b"live/", b"alert/"):
        reader.subscribe(topic)
    reader.connect(life.endpoint("publish"))
    tap = life.context.socket(zmq.SUB)
    tap.linger = 0
    tap.subscribe(b"tap/injected/")
    tap.connect(life.endpoint("tap"))
    trainer = Trainer(life, "injected", run=RUN)
    frames = messages_of(trainer)
    for message in frames:
        trainer.send(*message)
    life.settled(len(frames))
    for method, params in QUESTIONS:
        life.ask(method, **params)
    browse(life)
    life.ask("flush")
    trainer.socket.close(linger=0)
    reader.close()
    tap.close()
    return len(frames)


def check_leaks(life, expected):
    faults = life.faults()
    if faults["live"] > (expected[0]["live"] if expected else 0):
        raise Broken(f"it leaks {faults['live']} blocks")
    if expected and faults["open"] > expected[0]["open"]:
        raise Broken(f"it leaks {faults['open'] - expected[0]['open']} descriptors")


# Scenarios: begin(nth, modules) starts a program, and run(life, expected) returns what it says in the end. `expected` is
# (faults, said) of a life without a failure, or None for that life.

def serve(life, go, expected):
    """An attnd that may refuse to start; else it does what `go` asks of it, ends, and its history says all."""
    if not life.started():
        if not expected:
            raise Broken("it does not start")
        return None
    go(life)
    stats = life.stats()
    life.stop()
    windows = life.windows()
    quiet = not stats["dropped"] and not stats["store_dropped"] and not SAYS_SO.search(life.log())
    if expected and quiet and windows != expected[1]:
        raise Broken(f"nothing is said to be missing, but there is {windows} instead of {expected[1]}")
    return windows


def begin_restored(nth, modules):
    """It comes back to the open windows of an attnd that has ended."""
    life = Life(0)
    trainer = Trainer(life, "injected", run=RUN)
    life.frames = messages_of(trainer)
    half = len(life.frames) // 2
    for message in life.frames[:half]:
        trainer.send(*message)
    life.settled(half)
    life.stop()
    trainer.socket.close(linger=0)
    life.context.destroy(linger=0)
    again = Life(nth, modules, life.directory)
    again.rest = life.frames[half:]
    return again


def go_on(life):
    trainer = Trainer(life, "injected", run=RUN)
    for message in life.rest:
        trainer.send(*message)
    life.settled(len(life.rest))
    life.ask("flush")
    trainer.socket.close(linger=0)


class KeyedLife(Life):
    """On TCP, with keys; its list is read once more."""

    def __init__(self, nth, modules):
        directory = tempfile.mkdtemp(prefix="attnd-")
        self.server, self.owner, self.first = keyed.Pair(), keyed.Pair(), free_ports(len(keyed.SOCKETS))
        files = {name: os.path.join(directory, name) for name in ("server", "access")}
        keyed.write_secret(files["server"], self.server)
        with open(files["access"], "w") as file:
            file.write(f"{self.owner.public} admin *\n")
        super().__init__(nth, modules, directory, [
            "http.enabled=false", *(f"keys.{name}={path}" for name, path in files.items()),
            *(f"{name}.endpoint={self.endpoint(name)}" for name in keyed.SOCKETS)])
        keyed.give_key(self.context, self.server, self.owner)

    def endpoint(self, name):
        return f"tcp://127.0.0.1:{self.first + list(keyed.SOCKETS).index(name)}"


def go_with_keys(life):
    trainer = Trainer(life, "injected", run=RUN)
    frames = messages_of(trainer)
    life.process.send_signal(signal.SIGHUP)
    for message in frames:
        trainer.send(*message)
    life.settled(len(frames))
    trainer.socket.close(linger=0)


def judged(life, expected):
    """The verdict is right, or there is a sentence that says why there is none."""
    said = life.wait_end(), re.sub(r'"time_ns":\d+', "", life.text("out"))
    if expected and said != expected[1] and '"dropped":{"' not in said[1] and not SAYS_SO.search(life.log()) and not re.search("^attnd: .{10,}", life.log(), re.M):
        raise Broken(f"a wrong verdict, and nothing is said: {said}")
    if said[0] not in (0, 1, 2):
        raise Broken(f"it ended with {said[0]}")
    return said


def begin_libattn(nth, modules):
    """A training in C that publishes to an attnd in which nothing fails."""
    attnd = Life(0)
    attnd.started()
    directory = tempfile.mkdtemp(prefix="attnd-")
    life = Program(nth, modules, directory, [TRAIN, "--address", attnd.directory, "5000", "2"])
    life.attnd = attnd
    return life


def trained(life, expected):
    """It trains all the same, and what attnd does not have the client has counted."""
    try:
        code, losses = life.wait_end(), re.findall(r'"loss": ?[0-9.e+-]+', life.text("out"))
        stats = life.attnd.stats()
        life.attnd.settled(stats["received"])
        jobs = life.attnd.ask("jobs")
        counted = sum(job["processed"] + job["lost"] + sum(job["dropped"].values()) for job in jobs)
        life.attnd.stop()
    finally:
        life.attnd.discard()
    if code != 0 and not (code == 1 and life.log()):
        raise Broken(f"it ended with {code}")
    if expected and code == 0 and losses != expected[1][0]:
        raise Broken(f"it trained otherwise: {losses}")
    if expected and jobs and abs(expected[1][1] - counted) > 1:  # nobody tells of the last one; a hello may be repeated
        raise Broken(f"{counted} messages instead of {expected[1][1]}: {jobs}")
    return losses, counted


def trainer_in_python(command, stdin=subprocess.DEVNULL, **environment):
    """None of its calls fails."""
    return Program(0, "", tempfile.mkdtemp(prefix="attnd-"), command, stdin, LD_PRELOAD="", PYTHONPATH=keeper.PACKAGE, **environment)


def keep(life, job, run, spool, steps=STEPS, stdin=subprocess.DEVNULL):
    """A trainer all of whose messages go by the reliable lane, with a spool. It ends after the end of its input."""
    return trainer_in_python(keeper.keeper_command(life.directory, job, run, steps, 1000, 5000), stdin, ATTND_SPOOL=spool)


def leave_orphan(life, spool):
    """A message that a trainer that was killed has left there."""
    trainer = Trainer(life, "orphan", run=RUN[::-1])
    topic, header, *tensors = trainer.attention_frames(np.full((1, 1, 1, 1), 1, np.float32), step=0)
    left = Spool(spool)
    left.append([topic, msgpack.packb(dict(msgpack.unpackb(header), reliable=True)), *tensors])
    left.close()
    trainer.socket.close(linger=0)


def steps_of(life, job):
    """How many messages the history has of each step: one window each."""
    with contextlib.closing(sqlite3.connect(f"file:{life.history}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT last, sum(messages) FROM windows JOIN layers USING(layer_id) JOIN runs USING(run_id) "
                               "JOIN tracks USING(track_id) WHERE job = ? AND length = 1 GROUP BY last", (job,)))


def said_of_steps(program):
    """(kept, dropped, steps that were not published), as the trainer said last."""
    lines = re.findall(r"^P \d+ K (\d+) D (\d+) R \d+$", program.text("out"), re.M)
    return (*map(int, lines[-1] if lines else (0, 0)), {int(step) for step in re.findall(r"^X (\d+)$", program.text("out"), re.M)})


def check_steps(life, job, program, lost=0):
    """What it said to be kept is there, once; but for those that attnd has counted as dropped."""
    there, (kept, dropped, refused) = steps_of(life, job), said_of_steps(program)
    missing = set(range(STEPS)) - set(there) - refused
    if program.process.returncode == 0 and kept + dropped + len(refused) < STEPS:
        raise Broken(f"{kept} were kept, {dropped} dropped, {refused} refused of {STEPS} steps, and it ended well")
    if any(count != 1 for count in there.values()) or len(missing) > lost + dropped + (STEPS - kept - dropped - len(refused)):
        raise Broken(f"{there} of {STEPS} steps are in the history; {kept} were kept, {dropped} dropped, {refused} refused: {program.log()}")
    return sorted(there)


def left_in(spool):
    return [name for name in os.listdir(spool) if name.endswith(".rec")] if os.path.isdir(spool) else []


def send_left(attnd, spool):
    """What a trainer did not send in its life the next ones do, which have nothing of their own: the work of a life is fixed."""
    until, said = time.monotonic() + LONG_S, []
    while left_in(spool):
        if time.monotonic() > until:
            raise Broken(f"{left_in(spool)} are left: {said[-3:]}")
        following = keep(attnd, "following", os.urandom(16), spool, steps=0, stdin=subprocess.PIPE)
        again = time.monotonic() + ASK_S
        while left_in(spool) and not following.has_ended() and time.monotonic() < again:
            time.sleep(0.01)
        following.process.stdin.close()
        following.wait_end()
        said.append(following.log())
        following.discard()


def go_reliably(life):
    """A trainer and an orphan, whose messages are all answered, whatever fails in attnd."""
    spool = life.path("spool")
    leave_orphan(life, spool)
    life.trainer = keep(life, "reliable", RUN, spool)
    if life.trainer.wait_end() != 0:
        raise Broken(f"its trainer ended otherwise: {life.trainer.log()}")
    if "event=plan_not_announced" not in life.log():  # else nobody knows that there is a lane
        send_left(life, spool)


def come_back(life):
    """The next attnd shows windows that are open, and in the checkpoints alone: the one before had no memory to show them."""
    again = Life(0, settings=[*keeper.SETTINGS, f"history.path={life.history}"])
    try:
        again.started()
        again.stop()
    finally:
        again.discard()


def served_reliably(life, expected):
    try:
        windows = serve(life, go_reliably, expected)
        if windows is not None and not IS_WITHOUT.search(life.log()):
            lost = int(re.search("event=stopped .*dropped=([0-9]+)", life.log())[1])
            check_steps(life, "reliable", life.trainer, lost)
            if not steps_of(life, "orphan"):
                come_back(life)
            if steps_of(life, "orphan") not in ({0: 1}, {} if lost else {0: 1}):
                raise Broken("the message that was left is lost")
        return windows
    finally:
        if hasattr(life, "trainer"):
            life.trainer.discard()


def check_shared(life):
    if life.faults()["nth"] == 0 and life.stats()["shared"] == 0:
        raise NothingLent("nothing went by the same-host lane")


def go_lent(life):
    trainer = trainer_in_python([sys.executable, "-c", LENDER, life.directory, str(LENT)])
    try:
        if trainer.wait_end(LINGER_S) not in (0, 1):
            raise Broken(f"its trainer ended with {trainer.process.returncode}")
        life.settled(0)
        check_shared(life)
    finally:
        trainer.discard()


def begin_judge(nth, modules):
    return Program(nth, modules, tempfile.mkdtemp(prefix="attnd-"), [ATTND, "--judge", RECORDING, "--json"])


def begin_with(*settings):
    return lambda nth, modules: Life(nth, modules, settings=settings)


SCENARIOS = {
    "training": (Life, lambda life, expected: serve(life, train, expected)),
    "restored": (begin_restored, lambda life, expected: serve(life, go_on, expected)),
    "keyed": (KeyedLife, lambda life, expected: serve(life, go_with_keys, expected)),
    "judge": (begin_judge, judged),
    "libattn": (begin_libattn, trained),
    "reliable": (begin_with(*keeper.SETTINGS), served_reliably),
    "lending": (begin_with("metrics.spectrum=false"), lambda life, expected: serve(life, go_lent, expected)),
}
KEEPS_OUT = "keys_handler_failed"  # nobody would ask for keys any more: attnd aborts, as its documentation says
SAYS_SO = re.compile(r"level=(warning|error)")
# The lane is not known of, or there is no history: then attnd acknowledges what it takes.
IS_WITHOUT = re.compile("event=(history_off|history_lost|plan_not_announced)")


def live(scenario, nth, modules="", expected=None):
    """One life. Returns (its faults, what it said); raises Broken."""
    begin, run = SCENARIOS[scenario]
    life = begin(nth, modules)
    try:
        try:
            said = run(life, expected)
        except AssertionError:
            if life.has_ended() and life.process.returncode == -signal.SIGABRT and KEEPS_OUT in life.log():
                return life.faults(), None
            raise
        check_leaks(life, expected)
        return life.faults(), said
    except (Broken, AssertionError) as error:
        error.life = dict(life.faults(), log=life.log()[-3000:])
        raise
    finally:
        life.discard()


def live_first(scenario, modules):
    """A life without a failure, which the others are compared with: one in which what it is about comes to pass."""
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            return live(scenario, 0, modules)
        except NothingLent:
            if time.monotonic() > deadline:
                raise


def place(offset):
    """Function and line of an offset, where there are symbols."""
    said = subprocess.run(["addr2line", "-f", "-p", "-s", "-e", ATTND, hex(offset - 1)], capture_output=True, text=True)
    return said.stdout.strip()


def outcome(task):
    """(faults, None), or what broke."""
    try:
        return live(*task)[0], None
    except AssertionError as error:
        about = error.life
        return about, dict(nth=about["nth"], what=about["what"], at=place(about["caller"]), error=str(error),
                           leaked=place(about["live_caller"]) if about["live"] else None, log=about["log"])


def inject(scenario, numbers, modules="", jobs=2):
    """Lives with each of these failing. Returns (failures injected, what broke)."""
    expected = live_first(scenario, modules)
    count, injected, broken = expected[0]["count"], 0, []
    with multiprocessing.Pool(jobs) as pool:
        tasks = ((scenario, nth, modules, expected) for nth in numbers(count))
        for faults, error in pool.imap_unordered(outcome, tasks):
            injected += faults["failed"]
            if error:
                broken.append(dict(error, scenario=scenario))
                print(json.dumps(broken[-1]), flush=True)
    print(json.dumps(dict(scenario=scenario, calls=count, injected=injected, broken=len(broken))), flush=True)
    return injected, broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: all")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every Kth call")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="N")
    parser.add_argument("--to", type=int, default=10**9, dest="last", metavar="N")
    parser.add_argument("--modules", default="", help="libraries whose own calls fail as well: parts of names, by commas")
    parser.add_argument("--jobs", type=int, default=2, help="lives at a time")
    arguments = parser.parse_args()
    broken = []
    for scenario in arguments.scenario or SCENARIOS:
        broken += inject(scenario, lambda count: range(arguments.first, min(count, arguments.last) + 1, arguments.every),
                         arguments.modules, arguments.jobs)[1]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
