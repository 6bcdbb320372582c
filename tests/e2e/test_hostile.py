# SPDX-License-Identifier: MIT
"""Peers that speak ZMTP by hand: bytes that are none, messages without an end, readers that never read, connections that
break. attnd stays, within its budgets, and so do the trainings and readers of both clients."""
import contextlib
import http.client
import json
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time

import msgpack
import numpy as np
import pytest
import zmq
import zmtp
from edge import Witness
from harness import ATTNCTL, PATIENCE_S, SANITIZED, Attnd, Reader, Trainer, free_ports, softmax_maps, wait_log, wait_until

TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
PUBLISH = os.environ.get("ATTN_PUBLISH_ARRAYS", "build/tests/e2e/publish_arrays")
CLIENT = os.path.join(os.path.dirname(__file__), "..", "..", "clients", "python")
CONNECTIONS = int(os.environ.get("ATTND_TEST_CONNECTIONS", "48"))
NOBODY = 65534
NOT_COMPILED = pytest.mark.skipif(SANITIZED, reason="it runs nothing that a sanitizer has been compiled into")
# By socket of attnd: who may connect to it, and a message of such a peer.
PEERS = {
    "ingest": (b"PUB", zmtp.frame(b"tensor/x/decoder/0/self/", zmtp.MORE) + zmtp.frame(b"\xc1")),
    "publish": (b"SUB", zmtp.subscription(b"job/")),
    "control": (b"DEALER", zmtp.frame(msgpack.packb([0, 1, "ping", {}]))),
    "tap": (b"SUB", zmtp.subscription(b"tap/x/")),
    "reliable": (b"DEALER", zmtp.frame(bytes(8))),
}


class TcpAttnd(Attnd):
    """On ports of loopback."""

    def __init__(self, *settings, preexec_fn=None):
        self.first = free_ports(len(PEERS))
        super().__init__(*settings, "insecure=true", *(f"{name}.endpoint={self.endpoint(name)}" for name in PEERS),
                         preexec_fn=preexec_fn)

    def endpoint(self, name):
        return f"tcp://127.0.0.1:{self.first + list(PEERS).index(name)}"


on_both = pytest.mark.parametrize("kind", [Attnd, TcpAttnd], ids=["ipc", "tcp"])
memory_comes_back = pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory back")


@pytest.fixture(params=[Attnd, TcpAttnd], ids=["ipc", "tcp"])
def attacked(request):
    return request.param("log.level=error")


def intruder(attnd, name):
    """A peer of this socket that has introduced itself."""
    return zmtp.introduce(zmtp.connect(attnd.endpoint(name)), PEERS[name][0])


@pytest.mark.parametrize("name", PEERS)
def test_connections_that_break_harm_no_other(attacked, name):
    healthy = Witness(attacked)
    for number in range(CONNECTIONS):
        zmtp.say(intruder(attacked, name), number % 5 * PEERS[name][1], reset=number % 3 == 0)
        healthy.go_on()
    healthy.check()


def test_a_browser_passes_for_no_peer_where_everybody_is_let_in():
    """As a page's request does for ZMTP 1.0: a length, flags, and so on."""
    attnd = TcpAttnd()
    healthy = Witness(attnd)
    for name in PEERS:
        for opening in (b"\x01\0", b"GET / HTTP/1.1\r\n", zmtp.greeting(version=(0, 0)), zmtp.greeting(version=(1, 0))):
            peer = zmtp.connect(attnd.endpoint(name), timeout=4)  # less than a handshake may take
            peer.sendall(opening)
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(100):
                    pass  # attnd's own greeting; then the end: the time does not run out
            peer.close()
    healthy.go_on()
    healthy.check()


@pytest.mark.parametrize("name", PEERS)
def test_bytes_that_are_no_zmtp(attacked, name):
    kind, message = PEERS[name]
    randomly = random.Random(1)
    whole = zmtp.opening(kind) + 3 * message + zmtp.PING
    healthy = Witness(attacked)
    said = [
        b"", b"\0", b"\xff", zmtp.greeting()[:40], zmtp.greeting(mechanism=b"PLAIN"), zmtp.greeting(version=(9, 9)),
        b"POST /x HTTP/1.1\r\nHost: localhost\r\n\r\n" + message, b"\x01\0" + 20 * message,  # ZMTP/1.0
        zmtp.greeting() + message, zmtp.opening(b"NOSUCH") + message, zmtp.opening(kind) + zmtp.ready(kind),
        zmtp.opening(kind) + zmtp.frame(b"", zmtp.COMMAND), zmtp.opening(kind) + zmtp.frame(b"\xffPING", zmtp.COMMAND),
        zmtp.opening(kind) + zmtp.command(b"PING"), zmtp.opening(kind) + zmtp.command(b"PONG", bytes(300)),
        zmtp.opening(kind) + b"\x02" + (2**62).to_bytes(8, "big"), zmtp.opening(kind) + b"\x02" + 8 * b"\xff",
        zmtp.opening(kind) + b"\xf8\x01x",
    ] + [whole[:cut] for cut in range(0, len(whole), 7)] + [
        bytes(byte ^ (randomly.random() < 0.02) * randomly.randrange(256) for byte in whole) for _ in range(40)]
    for data in said:
        zmtp.say(zmtp.connect(attacked.endpoint(name)), data)
        healthy.go_on()
    healthy.check()


@pytest.mark.parametrize("name", PEERS)
def test_what_is_never_finished_is_freed_with_its_connection(attnd, name):
    """ZeroMQ bounds neither parts of a message, nor empty frames, nor subscriptions: only the own user gets so far."""
    parts = 200 * zmtp.frame(bytes(1 << 16), zmtp.MORE)
    empty = 100_000 * zmtp.frame(b"", zmtp.MORE)
    distinct = b"".join(zmtp.subscription(b"job/%x/" % number) for number in range(50_000))
    healthy = Witness(attnd)
    before = attnd.rss_kb()
    for data, times in ((parts, 10), (empty, 2), (distinct, 2)):
        for _ in range(times):
            zmtp.say(intruder(attnd, name), data)
            healthy.go_on()
    healthy.check()
    if not SANITIZED:  # a sanitizer keeps freed memory back on purpose
        wait_until(lambda: attnd.rss_kb() < before + 128 * 1024, "the memory to come back")


@memory_comes_back
@on_both
@pytest.mark.parametrize("name", PEERS)
def test_what_is_never_finished_takes_no_more_than_the_budget(kind, name):
    """Twelve peers go on with one message each, for three seconds; a frame without bytes takes 64 in ZeroMQ."""
    attnd = kind("ingest.budget=32MiB", "ingest.max_message=16MiB")
    healthy = Witness(attnd)
    said = [count * zmtp.frame(bytes(size), zmtp.MORE) for size, count in ((0, 100_000), (1000, 1000), (1 << 16, 16))]
    peers, before, peak, end = [None] * 12, attnd.rss_kb(), 0, time.monotonic() + 3
    while time.monotonic() < end:
        for place, peer in enumerate(peers):
            if peer is None:
                peer = peers[place] = intruder(attnd, name)
                peer.settimeout(0.001)
            try:
                peer.sendall(said[place % 3])
            except TimeoutError:  # it is not read, for now; what was cut off in the middle is bytes of parts as well
                pass
            except OSError:
                peer.close()
                peers[place] = None
        healthy.go_on()
        peak = max(peak, attnd.rss_kb())
    healthy.check()
    assert peak < before + 256 * 1024
    assert attnd.stats()["unfinished_cut"] > 0
    wait_log(attnd, "event=unfinished_cut")


@memory_comes_back
@on_both
def test_subscribers_that_never_read_are_cut_off_and_others_miss_nothing(kind, rng):
    """Windows of 512 heads, 0.9 MB each, 20 a second: more than half of the budget in the half second before the cut would not
    fit. Those that never read come one after the other."""
    attnd = kind("publish.budget=32MiB", "metrics.spectrum=false", "window.unit=step", "window.length=1", "history.enabled=false")
    reader, trainer, weights = Reader(attnd, "summary/"), Trainer(attnd, "gpt"), softmax_maps(rng, 1, 512, 4, 4)
    before, silent, step = attnd.rss_kb(), [], 0

    def show(more):
        nonlocal step
        for step in range(step + 1, step + more + 1):
            time.sleep(0.05)
            trainer.attention(weights, step=step)
            if step > 1:  # the one before is complete
                assert reader.next()[1]["window"] is not None
    for count in range(1, 4):
        silent.append(intruder(attnd, "publish"))
        silent[-1].sendall(zmtp.subscription(b"summary/"))
        show(32)
        wait_until(lambda: attnd.stats()["subscribers_cut"] == count, "it to be cut off")
    show(32)
    stats = attnd.stats()
    assert stats["publish_failed"] == 0 and stats["subscribers_cut"] == 3
    reader.everything()  # waits for each that attnd counts
    assert attnd.rss_kb() < before + 64 * 1024
    wait_log(attnd, "event=subscribers_cut")


@memory_comes_back
@on_both
def test_clients_that_never_read_their_answers_are_cut_off_and_others_have_theirs(kind, rng):
    """Maps of 128 heads, 8 MiB an answer: what they ask for are 800 MB."""
    attnd = kind("publish.budget=64MiB", "metrics.spectrum=false", "history.enabled=false", "maps.size=128")
    Trainer(attnd, "gpt").attention(softmax_maps(rng, 1, 128, 128, 128))
    attnd.settled(1)
    answer = attnd.call("maps", job="gpt", packed=True)
    assert len(answer["values"]) >= 8 << 20
    before, peak = attnd.rss_kb(), 0
    ask = zmtp.frame(msgpack.packb([0, 1, "maps", {"job": "gpt", "packed": True}]))
    silent = [intruder(attnd, "control") for _ in range(10)]
    for peer in silent:
        peer.sendall(10 * ask)
        peak = max(peak, attnd.rss_kb())
        assert attnd.stats()["jobs"] == 1
    wait_until(lambda: attnd.stats()["subscribers_cut"] > 0, "them to be cut off")
    wait_until(lambda: attnd.call("maps", job="gpt", packed=True) == answer, "room for the answer")
    assert max(peak, attnd.rss_kb()) < before + 400 * 1024


def test_a_recorder_that_never_reads_is_cut_off_and_others_go_on(rng):
    attnd = Attnd("publish.budget=4MiB", "metrics.spectrum=false", "history.enabled=false")
    silent, recorder = intruder(attnd, "tap"), attnd.connected(zmq.SUB, "tap")
    silent.sendall(zmtp.subscription(b"tap/gpt/"))
    recorder.subscribe(b"tap/gpt/")
    assert recorder.poll(1000 * PATIENCE_S)  # the greeting
    trainer, weights, sent = Trainer(attnd, "gpt"), softmax_maps(rng, 1, 4, 128, 128), 0

    def goes_by():
        """Whether the next message goes to recorders."""
        nonlocal sent
        sent += 1
        before = attnd.stats()["tapped"]
        trainer.attention(weights)
        tapped = attnd.settled(sent)["tapped"]
        while recorder.poll(0):
            recorder.recv_multipart()
        return tapped > before
    wait_until(lambda: not goes_by(), "the budget to be used up")
    wait_until(lambda: attnd.stats()["subscribers_cut"] == 1, "it to be cut off")
    wait_until(goes_by, "room in the budget")
    lost = attnd.stats()["tap_dropped"]
    assert all(goes_by() for _ in range(20)) and attnd.stats()["tap_dropped"] == lost
    wait_log(attnd, "event=recorders_cut")


def test_only_a_recorder_ends_its_subscription(attnd, rng):
    recorder, stranger = attnd.connected(zmq.SUB, "tap"), intruder(attnd, "tap")
    recorder.subscribe(b"tap/job/")
    assert recorder.poll(1000 * PATIENCE_S)  # the greeting
    end = zmtp.frame(b"\0tap/job/")
    stranger.sendall(zmtp.subscription(b"tap/job/") + 2 * end + zmtp.subscription(b"tap/other/"))
    said = b""
    while b"tap/other/" not in said:
        said += zmtp.receive(stranger, 1)
    trainer, weights = Trainer(attnd, "job"), softmax_maps(rng, 1, 1, 4, 4)
    trainer.attention(weights)
    assert attnd.settled(1)["tapped"] == 1
    stranger.close()
    recorder.close()

    def goes_by():
        before = attnd.stats()
        trainer.attention(weights)
        return attnd.settled(before["received"] + 1)["tapped"] > before["tapped"]
    wait_until(lambda: not goes_by(), "nobody to record for")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_does_not_get_in(attnd):
    knock = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        print("refused")
"""
    said = subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", knock,
                           *(attnd.endpoint(name).removeprefix("ipc://") for name in PEERS)], capture_output=True, text=True, cwd="/")
    assert (said.stdout, said.stderr) == ("refused\n" * len(PEERS), "")
    assert attnd.call("ping")["version"]


def test_idle_connections_leave_control_and_http_reachable():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attnd = Attnd("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*")
    healthy = Witness(attnd)
    page = attnd.call("config")["http.endpoint"]
    idle = []
    try:
        for name in ("control", "ingest", "http"):
            endpoint = page if name == "http" else attnd.endpoint(name)
            for number in range(1000):
                idle.append(zmtp.connect(endpoint))
                if name != "http" and number % 2:
                    idle[-1].sendall(zmtp.opening(PEERS[name][0]))
        healthy.go_on()
        healthy.check()
        connection = http.client.HTTPConnection("127.0.0.1", int(page.rsplit(":", 1)[1]), timeout=PATIENCE_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        for peer in idle:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    healthy.check()


def cpu_s(attnd):
    with open(f"/proc/{attnd.process.pid}/stat") as stat:
        return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_dear_patterns_are_matched_with_each_job_once(rng):
    """On the loop's thread: with each of its runs it took a second a question."""
    attnd, weights = Attnd(), softmax_maps(rng, 1, 1, 2, 2)
    trainer = Trainer(attnd, "")
    for number in range(64 * 16):
        trainer.job, trainer.run, trainer.sequence = f"{number // 16:02}" + "a" * 126, os.urandom(16), {}
        trainer.attention(weights)
    attnd.settled(64 * 16)
    assert len(attnd.call("jobs")) == 64 * 16
    patterns, before = " ".join(["*[!" * 40 + "b"] * 16), cpu_s(attnd)
    for _ in range(4):
        assert attnd.call("jobs", jobs=patterns) == []
        assert attnd.call("alerts", jobs=patterns)["firing"] == []
    assert cpu_s(attnd) - before < 2


@on_both
def test_connections_beyond_the_descriptors_are_refused_said_and_cost_nothing(kind):
    attnd = kind(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
    healthy, peers = Witness(attnd), []
    control = intruder(attnd, "control")
    try:
        for name in PEERS:
            peers += [zmtp.connect(attnd.endpoint(name)) for _ in range(100)]
        wait_until(lambda: "event=descriptors_used_up" in attnd.log_text(), "a line of the log")
        began, used = time.monotonic(), cpu_s(attnd)
        healthy.go_on()
        wait_until(lambda: time.monotonic() > began + 1, "a second")
        assert cpu_s(attnd) - used < (2 if SANITIZED else 0.2)
        control.sendall(zmtp.frame(msgpack.packb([0, 1, "stats", {}])))
        size, = struct.unpack(">xQ", zmtp.receive(control, 9))
        stats = msgpack.unpackb(zmtp.receive(control, size), strict_map_key=False)[3]
        assert stats["connections_beyond"] > 300 and stats["processed"] == 1
    finally:
        for peer in [control, *peers]:
            peer.close()
    healthy.check()


# ------------------------------------------------------------------------------------------------------- trainers

# Trains until its input has a line, then as many steps once more at an address of nobody, and prints the losses of both.
PYTHON_TRAINING = """
import json, select, sys
import torch
import attnd

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(16, 16)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = torch.nn.Linear(16, 16)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.out(self.attention(x, x, x)[0])

def train(address, goes_on):
    torch.manual_seed(1)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with attnd.watch(model, job="attacked", address=address, every=1):
        while goes_on(len(losses)):
            tokens = torch.randint(16, (4, 12))
            loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses

torch.set_num_threads(1)
attacked = train(sys.argv[1], lambda _: not select.select([sys.stdin], [], [], 0.01)[0])
json.dump([attacked, train(sys.stdin.readline().strip(), lambda steps: steps < len(attacked))], sys.stdout)
"""


class PythonTraining:
    """Two in one: what it says while it is attacked, and what the same training says alone."""

    def __init__(self, address):
        pytest.importorskip("torch")
        self.process = subprocess.Popen([sys.executable, "-c", PYTHON_TRAINING, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=dict(os.environ, PYTHONPATH=CLIENT))

    def results(self, alone):
        out, _ = self.process.communicate(alone + "\n", timeout=4 * PATIENCE_S)
        assert self.process.returncode == 0
        return json.loads(out)


class CTraining:
    """A line per epoch, written at once because it goes to a terminal."""

    def __init__(self, address):
        self.terminal, output = os.openpty()
        self.process = subprocess.Popen([TRAIN, "--address", address, "30000", str(10**9)], stdout=output)
        os.close(output)
        self.said = b""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        with contextlib.suppress(OSError):  # the end of a terminal
            while True:
                self.said += os.read(self.terminal, 1 << 16)

    def results(self, alone):
        wait_until(lambda: self.said.count(b"\n") > 12, "some epochs")
        self.process.kill()
        self.reader.join()
        os.close(self.terminal)
        lines = self.said.decode().splitlines()[:-1]  # the last one may be cut
        alone = subprocess.run([TRAIN, "--address", alone, "0", str(len(lines))], capture_output=True, text=True).stdout
        return lines, alone.splitlines()


def next_connection(listener, process, number, socket_type):
    def comes():
        assert process.poll() is None, f"ended with {process.returncode} after connection {number}"
        return select.select([listener], [], [], 0.1)[0]

    while True:
        wait_until(comes, "it to connect again")
        with contextlib.suppress(ConnectionError):  # who only asks what listens here
            return zmtp.introduce(listener.accept()[0], socket_type)


def read_until_a_tensor(peer):
    received = b""
    while b"tensor/" not in received:
        received = received[-16:] + zmtp.receive(peer, 1)


def publishes(listener, trainer, wanted):
    """Whether a tensor comes on the next connection. Its pings are not answered, so it may end that before."""
    peer = next_connection(listener, trainer.process, 25, b"SUB")
    peer.sendall(wanted)
    try:
        read_until_a_tensor(peer)
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("training, transport", [pytest.param(PythonTraining, "tcp", marks=NOT_COMPILED), (CTraining, "ipc")])
def test_who_listens_in_the_place_of_attnd_and_hangs_up_does_not_end_a_training(tmp_path, training, transport):
    address, endpoint = str(tmp_path), f"ipc://{tmp_path}/ingest"
    if transport == "tcp":
        address = endpoint = f"tcp://127.0.0.1:{free_ports(1)}"
    listener = zmtp.listen(endpoint)
    wanted = zmtp.subscription(b"tensor/") + zmtp.subscription(b"event/")
    trainer = training(address)
    try:
        for number in range(8):
            peer = next_connection(listener, trainer.process, number, b"SUB")
            zmtp.say(peer, (b"", wanted)[number % 2], reset=number % 4 < 2)
        assert any(publishes(listener, trainer, wanted) for _ in range(10)), "it still publishes"
        attacked, alone = trainer.results(str(tmp_path / "nobody"))
    finally:
        trainer.process.kill()
        trainer.process.wait()
        listener.close()
    assert len(attacked) > 10 and attacked == alone


PYTHON_FULL = """
import os
import sys
import attnd

for left in range(8):
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(left):
            os.close(held.pop())
    try:
        attnd.Publisher("x", address=sys.argv[1]).close()
    except OSError as error:
        reason = error.strerror
    for file in held:
        os.close(file)
    print(reason)
    del reason
"""


@NOT_COMPILED
def test_a_process_with_few_descriptors_left_is_refused(tmp_path):
    def few(count):
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    in_python = subprocess.run([sys.executable, "-c", PYTHON_FULL, tmp_path], preexec_fn=few(100), capture_output=True, text=True,
                               env=dict(os.environ, PYTHONPATH=CLIENT))
    assert (in_python.returncode, in_python.stdout, in_python.stderr) == (0, "Too many open files\n" * 8, "")
    for left in range(8):
        in_c = subprocess.run([TRAIN, "--address", tmp_path, "0", "1"], preexec_fn=few(4 + left), capture_output=True, text=True)
        assert (in_c.returncode, in_c.stderr) == (1, f"train: no publisher: is {tmp_path} an address?\n")


@NOT_COMPILED
def test_a_daemon_that_hangs_is_noticed_by_its_pings(attnd):
    """Nothing is published to it, so no queue fills."""
    sys.path.append(CLIENT)
    import attnd as client
    with client.Publisher("x", address=attnd.directory, reliable=False) as publisher:
        wait_until(lambda: publisher.wanted("decoder", 0, "self"), "the subscription")
        with zmtp.introduce(zmtp.connect(attnd.endpoint("ingest")), b"PUB") as later:
            said = b""
            while said.count(b"\x04PING") < 2:  # so the publisher has had one
                said += zmtp.receive(later, 1)
        attnd.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not publisher.wanted("decoder", 0, "self"), "its end")
        attnd.process.send_signal(signal.SIGCONT)
        wait_until(lambda: publisher.wanted("decoder", 0, "self"), "the next one")


# -------------------------------------------------------------------------------------------------------- readers

RESULT = zmtp.frame(b"job/x/", zmtp.MORE) + zmtp.frame(b"\xc1")
PYTHON_READER = "import attnd, sys\nfor result in attnd.Subscriber(sys.argv[1], topics='job/'): pass"
READERS = {
    "attnctl": [ATTNCTL, "tail", "job/", "--summaries"],
    "Subscriber": [sys.executable, "-c", PYTHON_READER],
}


@pytest.mark.parametrize("reader", ["attnctl", pytest.param("Subscriber", marks=NOT_COMPILED)])
def test_who_publishes_in_the_place_of_attnd_and_hangs_up_does_not_end_a_reader(tmp_path, reader):
    endpoint = f"ipc://{tmp_path}/publish"
    listener = zmtp.listen(endpoint)
    process = subprocess.Popen([*READERS[reader], endpoint], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=dict(os.environ, PYTHONPATH=CLIENT, ATTND_ADDRESS=str(tmp_path)))
    try:
        for number in range(8):
            peer = next_connection(listener, process, number, b"PUB")
            zmtp.say(peer, number % 4 * RESULT, reset=number % 2 == 0)
        next_connection(listener, process, 8, b"PUB").close()
    finally:
        process.kill()
        process.wait()
        listener.close()
