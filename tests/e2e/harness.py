# SPDX-License-Identifier: MIT
"""Starts a real attnd and talks to it at wire level: trainers, subscribers and control, without the client package.

Everything waits on a condition with a bound; nothing sleeps and hopes.
"""
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time

import msgpack
import numpy as np
import zmq

ATTND = os.environ.get("ATTND_BIN", "build/daemon/attnd")
ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")
# Sanitizer builds are slower by an order of magnitude.
SANITIZED = "ATTND_TEST_SANITIZED" in os.environ
PATIENCE_S = float(os.environ.get("ATTND_TEST_PATIENCE", "30"))
NOT_YET = ("again", "job_unknown", "run_unknown", "no_summary", "no_history")  # from control, by whichever client


def free_ports(count):
    """The first of `count` ports in a row that were free a moment ago; below those the kernel gives to connections."""
    start = 10000 + os.getpid() * 1009 % 20000  # processes that begin together are far apart
    for first in (*range(start, 32000, count + 1), *range(10000, start, count + 1)):
        taken = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(taken):
                one.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    raise AssertionError("no free ports")


def began(alert):
    """When an alert began, as people read it."""
    after, step = alert["since"]
    return "from the start" if after is None else f"between steps {after} and {step}"


def wait_until(condition, what, timeout=None):
    """Polls `condition` until it returns something true, and returns that; ever more rarely, since asking costs.

    What attnd does not know, and what is not in an answer, is not there yet.
    """
    deadline, pause_s, missing = time.monotonic() + (timeout or PATIENCE_S), 0.01, None
    while True:
        try:
            value = condition()
            if value:
                return value
        except Exception as error:
            if not isinstance(error, LookupError) and getattr(error, "code", str(error)) not in NOT_YET:
                raise
            missing = error
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out waiting for {what}") from missing
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.1)


def wait_log(attnd, *texts):
    """Waits until one line of the log has all of the texts."""
    wait_until(lambda: any(all(text in line for text in texts) for line in attnd.log_text().splitlines()),
               f"a line of the log with {texts}")


def softmax_of(logits, causal=False, dtype=np.float32):
    if causal:
        queries, keys = logits.shape[-2:]
        logits = np.where(np.arange(keys) > np.arange(queries)[:, None], -np.inf, logits)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(dtype)


def softmax_maps(rng, batch, heads, queries, keys, causal=False, dtype=np.float32):
    """Random attention weights [B, H, Tq, Tk] whose rows sum to 1."""
    return softmax_of(rng.normal(size=(batch, heads, queries, keys)), causal, dtype)


def sharp_maps(sharpness, heads, length=16, causal=True):
    """Weights [1, H, T, T], of each head its sharpness, or one for all: 0 looks at everything alike, 1000 at one key."""
    logits = np.random.default_rng(3).permuted(np.tile(np.arange(length, dtype=float), (1, heads, length, 1)), axis=-1)
    return softmax_of(np.reshape(np.broadcast_to(sharpness, heads), (1, heads, 1, 1)) * logits / length, causal)


# numpy has no bf16: its upper halves of f32 travel as u16, which is no dtype of tensors.
DTYPE_NAME = {"float32": "f32", "float64": "f64", "float16": "f16", "uint16": "bf16", "uint8": "u8", "int32": "i32"}


def as_bf16(x):
    """The nearest bf16, as u16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def as_f64(x):
    """What was sent, bf16 included."""
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if x.dtype == np.uint16 else x.astype(
        np.float64)


class Attnd:
    """One daemon with its sockets in a directory of its own."""

    all = []  # every one of this test, so that a failed test leaves nothing behind

    def __init__(self, *settings, directory=None, config=None, preexec_fn=None):
        self.directory = directory or tempfile.mkdtemp(prefix="attnd-")
        self.settings = settings
        self.config = config  # text of a config file
        self.preexec_fn = preexec_fn  # as of subprocess
        self.process = None
        self.context = zmq.Context()
        self.request_id = 0
        Attnd.all.append(self)
        self.start()

    def endpoint(self, name):
        return f"ipc://{self.directory}/{name}"

    @property
    def history_path(self):
        return os.path.join(self.directory, "history.db")

    def start(self):
        arguments = [ATTND, "--address", self.directory]
        arguments += ["--set", f"history.path={self.history_path}", "--set", "http.enabled=false"]
        if "cost_max" not in (self.config or ""):  # models of tests are small: each capture costs them much
            arguments += ["--set", "plan.cost_max=0"]
        if "unit:" not in (self.config or ""):  # epochs end when a test says so
            arguments += ["--set", "window.unit=epoch"]
        for setting in self.settings:
            arguments += ["--set", setting]
        if self.config is not None:
            path = os.path.join(self.directory, "attnd.yaml")
            with open(path, "w") as file:
                file.write(self.config)
            arguments += ["--config", path]
        self.log = open(os.path.join(self.directory, "log"), "a+b")
        self.process = subprocess.Popen(arguments, stderr=self.log, preexec_fn=self.preexec_fn)
        assert self.call("ping")["version"]

    def rewrite(self, config):
        """Another text of its config file, which it is told to read."""
        with open(os.path.join(self.directory, "attnd.yaml"), "w") as file:
            file.write(config)
        self.process.send_signal(signal.SIGHUP)

    def log_text(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as log:
            return log.read()

    def connected(self, kind, name):
        """A ZeroMQ socket of this kind at this endpoint."""
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.connect(self.endpoint(name))
        return socket

    def call(self, method, timeout=None, **params):
        """One control request. Returns the result; raises RuntimeError with the error's code, and its `sentence`."""
        socket = self.connected(zmq.DEALER, "control")
        try:
            self.request_id += 1
            socket.send(msgpack.packb([0, self.request_id, method, params]))
            timeout_ms = int(1000 * (timeout or PATIENCE_S))
            assert socket.poll(timeout_ms), f"no answer to {method}:\n{self.log_text()}"
            kind, request_id, error, result = msgpack.unpackb(socket.recv(), strict_map_key=False)
        finally:
            socket.close()
        assert (kind, request_id) == (1, self.request_id)
        if error is not None:
            raised = RuntimeError(error["code"])
            raised.sentence = error["message"]
            raise raised
        return result

    def describe(self):
        """Everything worth knowing when a test fails."""
        if self.process.poll() is not None:
            return f"attnd has ended with {self.process.returncode}:\n{self.log_text()}"
        return f"{self.stats()}\n{self.call('jobs')}\n{self.log_text()}"

    def stats(self):
        return self.call("stats")

    def settled(self, received):
        """Waits until `received` messages have come in and none is in flight; checks the identity.

        A refused message is settled before the loop has read that it was, and its note has some bytes until then.
        """
        def done():
            stats = self.stats()
            quiet = stats["in_flight"] == 0 and stats["in_flight_bytes"] == 0
            return stats if stats["received"] >= received and quiet else None

        stats = wait_until(done, f"{received} messages (now {self.stats()})")
        assert stats["received"] == stats["processed"] + sum(stats["dropped"].values())
        return stats

    def messages_kept(self):
        """How many messages the newest checkpoint has of the only run: after a kill it goes on from there."""
        with contextlib.closing(sqlite3.connect(f"file:{self.history_path}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT value FROM kept WHERE key = 'about'").fetchone()
            return msgpack.unpackb(row[0])["taken"] if row else 0

    def rss_kb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

    def stop(self, sig=signal.SIGTERM):
        """Sends the signal and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(PATIENCE_S)

    def restart(self, *trainers, sig=signal.SIGTERM):
        """Ends it by the signal and starts it anew; the trainers have seen both, and go on."""
        assert self.stop(sig) == (0 if sig == signal.SIGTERM else -sig)
        for trainer in trainers:
            trainer.wait_forgotten()
        self.log.close()
        self.start()
        for trainer in trainers:
            trainer.wait_subscribed()

    def discard(self):
        """Whatever state it is in: no process and no files are left."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.context.destroy(linger=0)
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self):
        code = self.stop()
        self.context.destroy(linger=0)
        self.log.close()
        assert code == 0, f"attnd exited with {code}:\n{self.log_text()}"


class Trainer:
    """A publisher at wire level: an XPUB with the settings of the contract."""

    def __init__(self, attnd, job, rank=0, world=1, run=None):
        self.job, self.rank, self.world = job, rank, world
        self.run = run or os.urandom(16)
        self.sequence = {}
        self.prefixes = set()
        self.socket = attnd.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        # A trainer that a test lets go of still sends what it has: it is the test's end that cuts it off.
        self.socket.setsockopt(zmq.LINGER, 10000)
        self.socket.setsockopt(zmq.SNDHWM, 1000)
        self.socket.connect(attnd.endpoint("ingest"))
        self.wait_subscribed()

    def wait_subscribed(self):
        while not {b"tensor/", b"event/"} <= self.prefixes:
            self._take_notice("attnd did not subscribe")

    def wait_forgotten(self):
        """attnd has ended: what is sent from now on goes to the next one, once that has subscribed."""
        while self.prefixes:
            self._take_notice("the end of the connection was not seen")

    def _take_notice(self, otherwise):
        assert self.socket.poll(int(1000 * PATIENCE_S)), otherwise
        frame = self.socket.recv()
        (self.prefixes.add if frame[:1] == b"\x01" else self.prefixes.discard)(frame[1:])

    def send(self, *frames):
        """Raw frames, waiting for room (tests want them all to arrive)."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                assert time.monotonic() < deadline, "the pipe stayed full"
                time.sleep(0.001)

    def common(self, topic, kind, epoch, step, **keys):
        seq = self.sequence.get(topic, 0)
        self.sequence[topic] = seq + 1
        header = dict(v=1, type=kind, job=self.job, run=self.run, rank=self.rank, world=self.world,
                      seq=seq, dropped=0, time_ns=time.time_ns(), epoch=epoch, step=step)
        header.update(keys)
        return header

    def tensor_frames(self, kind, tensors, epoch=0, step=0, stack="decoder", layer=0, site="self", **keys):
        """A message of tensors by name, those that are None left out; further keys go into the header."""
        topic = f"tensor/{self.job}/{stack}/{layer}/{site}/"
        tensors = {name: array for name, array in tensors.items() if array is not None}
        header = self.common(topic, kind, epoch, step, stack=stack, layer=layer, site=site)
        header["tensors"] = [dict(name=name, dtype=DTYPE_NAME[str(a.dtype)], shape=list(a.shape))
                             for name, a in tensors.items()]
        header.update(keys)
        return [topic.encode(), msgpack.packb(header)] + [a.tobytes() for a in tensors.values()]

    def attention_frames(self, weights, mask=None, tokens=None, documents=None, grad=None, v=None, wo_r=None, x_norm=None,
                         **keys):
        tensors = dict(weights=weights, mask=mask, tokens=tokens, documents=documents, grad=grad, v=v, wo_r=wo_r, x_norm=x_norm)
        return self.tensor_frames("attention", tensors, **keys)

    def attention(self, weights, **keys):
        self.send(*self.attention_frames(weights, **keys))

    def qk(self, q, k, v=None, mask=None, tokens=None, documents=None, dout=None, wo_r=None, x_norm=None, **keys):
        """Queries [B,H,Tq,d], keys and values [B,Hkv,Tk,d]; `scale` is a key that must be given."""
        tensors = dict(q=q, k=k, v=v, dout=dout, wo_r=wo_r, x_norm=x_norm, mask=mask, tokens=tokens, documents=documents)
        self.send(*self.tensor_frames("qk", tensors, **keys))

    def rows_frames(self, rows, **keys):
        """Sums of rows, as attnd.sending.rows.Rows."""
        tensors = dict(sums=rows.sums, places=rows.places, key_lengths=rows.key_lengths, sinks=rows.sinks)
        said = dict(sums=list(rows.names), queries=rows.queries, keys=rows.keys, causal=rows.causal, local_window=rows.local_window)
        if rows.maps is not None:
            tensors["maps"] = rows.maps.values
            said.update(rows.maps.keys_of_header())
        if rows.weights is not None:
            said.update(weights=rows.weights, learned_sink=rows.learned_sink)
        return self.tensor_frames("rows", tensors, **{**said, **keys})

    def rows(self, rows, **keys):
        self.send(*self.rows_frames(rows, **keys))

    def projections(self, wq=None, wk=None, wv=None, wo=None, **keys):
        """Projection matrices [out,in]; `heads`, `kv_heads` and `head_dim` are keys."""
        self.send(*self.tensor_frames("weights", dict(wq=wq, wk=wk, wv=wv, wo=wo), **keys))

    def sketch_frames(self, wq=None, wk=None, wv=None, wo=None, held=None, **keys):
        """Places of heads in the projection matrices, [heads, 64]; `stored` is f32 unless it is a key."""
        matrices = dict(wq=wq, wk=wk, wv=wv, wo=wo)
        keys.setdefault("stored", ["f32" for matrix in matrices.values() if matrix is not None])
        return self.tensor_frames("sketch", dict(matrices, held=held), **keys)

    def sketch(self, **keys):
        self.send(*self.sketch_frames(**keys))

    def event(self, event, epoch=0, step=0, **keys):
        topic = f"event/{self.job}/"
        header = self.common(topic, "event", epoch, step, event=event, **keys)
        self.send(topic.encode(), msgpack.packb(header))

    def one_epoch(self, weights, epoch, **keys):
        """A message, which is all of this epoch, and its end; the step is the epoch's number."""
        self.attention(weights, epoch=epoch, step=epoch, **keys)
        self.event("epoch_end", epoch=epoch, step=epoch)

    def close(self):
        self.socket.close(linger=0)


def ranks_of(attnd, world, job="job"):
    """A trainer for each rank of one run."""
    return [Trainer(attnd, job, rank, world, job.encode().ljust(16)) for rank in range(world)]


def observed(*settings, topic="summary/", config=None):
    """An attnd with these settings, a reader of this topic, and a trainer of the job "job"."""
    attnd = Attnd(*settings, config=config)
    return attnd, Reader(attnd, topic), Trainer(attnd, "job")


def attnctl(attnd, *words, **environment):
    """What attnctl has said to these words about this attnd, or about none."""
    address = attnd.directory if attnd else "/nobody"
    return subprocess.run([ATTNCTL, *map(str, words)], env={**os.environ, "ATTND_ADDRESS": address, **environment},
                          capture_output=True, encoding="utf-8", timeout=4 * PATIENCE_S)


def elsewhere(attnd, work):
    """Calls work(attnd) in a process of its own, whose messages are not this one's, and waits for what it sends."""
    pid = os.fork()
    if pid == 0:
        try:
            attnd.context = zmq.Context()
            work(attnd)
            attnd.context.destroy(linger=int(1000 * PATIENCE_S))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Reader:
    """A subscriber to results."""

    def __init__(self, attnd, *topics):
        self.attnd, self.topics, self.taken = attnd, topics, 0
        self.before = self.counted()
        before = attnd.stats()["subscriptions"]
        self.socket = attnd.connected(zmq.SUB, "publish")
        for topic in topics:
            self.socket.subscribe(topic.encode())
        wait_until(lambda: attnd.stats()["subscriptions"] >= before + len(topics), "the subscription")

    def next(self, timeout=None):
        timeout_ms = int(1000 * (timeout or PATIENCE_S))
        assert self.socket.poll(timeout_ms), f"no result came; {self.attnd.describe()}"
        topic, body = self.socket.recv_multipart()
        result = msgpack.unpackb(body)
        self.taken += not result["snapshot"]
        return topic.decode(), result

    def everything(self):
        """[(topic, result)] of all summaries and alerts until now: as many as attnd counts since the reader came."""
        count, found = self.counted() - self.before, []
        while self.taken < count:
            found.append(self.next())
        return found

    def counted(self):
        stats = self.attnd.stats()
        return sum(stats[count] for kind, count in (("summary/", "summaries"), ("alert/", "alerts"))
                   if any(topic.startswith(kind) for topic in self.topics))

    def rest(self):
        """Stops attnd; all that comes until its connection has ended."""
        end = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        assert self.attnd.stop() == 0
        assert end.poll(int(1000 * PATIENCE_S)), "the end of the connection was not seen"
        self.socket.disable_monitor()
        found = []
        while not self.silent(0):
            found.append(self.next())
        return found

    def silent(self, seconds=0.2):
        return not self.socket.poll(int(1000 * seconds))

    def close(self):
        self.socket.close()
