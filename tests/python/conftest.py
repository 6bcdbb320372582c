# SPDX-License-Identifier: MIT
"""What the tests share: a stand-in for the daemon, and bounded waits on conditions."""
import contextlib
import logging
import pathlib
import subprocess
import sys
import textwrap
import time

import msgpack
import numpy as np
import pytest
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
sys.path[:0] = [str(PACKAGE), str(PACKAGE / "examples")]

import attnd  # noqa: E402
from attnd.base import limits  # noqa: E402
from attnd.sending.rows import Rows  # noqa: E402

WAIT_S = 60.0
# A process may stand still for longer than a publisher lingers by default: then what it sends last would be lost.
attnd.Publisher.__init__.__kwdefaults__["linger"] = 20.0


def wait_until(condition, what, timeout_s=WAIT_S):
    """Polls `condition` until it holds; fails the test with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.002)


def samples_of(header, batch):
    """Which of a batch the samples of a message are."""
    first, stride, count = header.get("sample", 0), header.get("sample_stride", 1), header["tensors"][0]["shape"][0]
    assert header["batch"] == batch if count < batch else "batch" not in header
    return list(range(batch))[first::stride][:count]


class Fake:
    """A socket where one of the daemon's would be."""

    started = []

    def __init__(self, kind, endpoint="tcp://127.0.0.1:*", options=()):
        self.started.append(self)
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        for option, value in ((zmq.LINGER, 0), *options):
            self.socket.setsockopt(option, value)
        self.socket.bind(endpoint)
        self.endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def close(self):
        if not self.context.closed:
            self.socket.close(linger=0)
            self.context.term()


class FakeDaemon(Fake):
    """A SUB socket where the daemon would be: it subscribes, and keeps what it gets."""

    def __init__(self, endpoint="tcp://127.0.0.1:*", topics=(b"",), high_water=1000, receive_buffer=None):
        super().__init__(zmq.SUB, endpoint, [(zmq.RCVHWM, high_water), *[(zmq.RCVBUF, receive_buffer)] * bool(receive_buffer),
                                             *((zmq.SUBSCRIBE, topic) for topic in topics)])

    def serve(self):
        """Lets ZeroMQ pass subscriptions on, without receiving anything: a SUB does it only when asked."""
        self.socket.getsockopt(zmq.EVENTS)

    def attach(self, publisher):
        """Waits until the publisher knows of the subscription."""
        wait_until(lambda: self.serve() or publisher.stats()["subscribed"], "the subscription arrives")

    def publisher(self, **options):
        """A publisher of the job `job` that knows of the subscription."""
        publisher = attnd.Publisher("job", self.endpoint, **options)
        self.attach(publisher)
        return publisher

    def receive(self, timeout_s=WAIT_S):
        """(topic, header, frames) of the next message, or None."""
        if not self.socket.poll(timeout_s * 1000):
            return None
        topic, header, *frames = self.socket.recv_multipart()
        return topic.decode(), msgpack.unpackb(header, raw=False), frames

    def next(self, kind=None):
        """The next message, or the next of a type; fails the test when it does not come."""
        while True:
            message = self.receive()
            assert message is not None, f"no message (of type {kind}) came"
            if kind is None or message[1]["type"] == kind:
                return message

    def rest(self, timeout_s=0.2):
        """Everything until it is quiet for a moment."""
        found = []
        while (message := self.receive(timeout_s)) is not None:
            found.append(message)
        return found

    def until_bye(self):
        """Everything up to and with `bye`."""
        found = [self.next()]
        while found[-1][1].get("event") != "bye":
            found.append(self.next())
        return found

    def tensors_until_bye(self):
        """The messages of tensors among these."""
        return [message for message in self.until_bye() if message[1]["type"] != "event"]

    def captured(self, watch):
        """Ends a watch: all that it has sent but events, and that was not received yet."""
        watch.close()
        watch.publisher.close()
        return self.tensors_until_bye()


@pytest.fixture
def daemon():
    return FakeDaemon()


@pytest.fixture
def publisher(daemon):
    with daemon.publisher() as it:
        yield it


@contextlib.contextmanager
def limited(said, **options):
    """(daemon, publisher): these limits of the daemon have arrived."""
    daemon = FakeDaemon(topics=(b"", b"limits/" + said))
    with attnd.Publisher("job", daemon.endpoint, **options) as publisher:
        daemon.attach(publisher)
        meant = limits.strictest([b"limits/" + said])
        wait_until(lambda: daemon.serve() or publisher._outbox.limits == meant, "the limits arrive")
        yield daemon, publisher


@pytest.fixture(autouse=True)
def drawn_alike():
    """Random numbers of PyTorch are the same in a test whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(1)


@pytest.fixture(autouse=True)
def close_fakes():
    """Also those of a test that failed: a context with an open socket would keep the interpreter from ending."""
    yield
    while Fake.started:
        Fake.started.pop().close()


@pytest.fixture
def watched(daemon):
    """watch() on `daemon`, which has heard its hello; closed at the end."""
    opened = []

    def start(model, **options):
        opened.append(daemon.publisher())
        opened.append(attnd.watch(model, job="job", publisher=opened[-1], **options))
        assert daemon.next()[1]["event"] == "hello"
        return opened[-1]

    yield start
    for one in reversed(opened):
        one.close()


def uniform(batch=2, heads=3, queries=4, keys=4, dtype=np.float32):
    """Attention weights whose rows are uniform."""
    return np.full((batch, heads, queries, keys), 1.0 / keys, dtype=dtype)


def uniform_rows(heads=2, queries=3, keys=3):
    """The sums of the rows of such weights, of one sample."""
    p, ones = np.arange(queries), np.ones(queries)
    distances = abs(p[:, None] - np.arange(keys))
    sums = {"largest": 0 * p, "total": (keys - 1) * ones, "weighted": 0 * p, "distance": distances[:, 1:].sum(1), "first": 0 * p}
    places = [p, min(queries, keys) * ones, 0 * p, ones, keys * ones, distances.max(1), ones, 0 * p]
    of_heads = np.repeat(np.array(list(sums.values()), np.float32)[:, None, None], heads, 2)
    return Rows(tuple(sums), of_heads, np.array(places, np.int32)[:, None], queries, keys)


def free_endpoint():
    """An endpoint nobody listens on."""
    fake = FakeDaemon()
    fake.close()
    return fake.endpoint


def run_python(source, timeout_s=WAIT_S, fake=None):
    """Runs a script in a new interpreter of this kind, while serving `fake`: (seconds, exit code, stderr)."""
    begin = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], stderr=subprocess.PIPE, text=True,
                          env={"PYTHONPATH": str(PACKAGE), "PATH": "/usr/bin:/bin"}) as process:
        try:
            wait_until(lambda: (fake and fake.serve()) or process.poll() is not None, "the script ends", timeout_s)
        finally:
            process.kill()
        return time.monotonic() - begin, process.wait(), process.stderr.read()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def identity_holds(stats):
    return stats["published"] == stats["sent"] + stats["dropped"] + stats["skipped"] + stats["queued"]
