# SPDX-License-Identifier: MIT
"""The same-host lane: tensors are read where they are, with the numbers of frames; nobody who lends memory can harm
attnd, and whoever dies leaves nothing behind."""
import contextlib
import fcntl
import mmap
import os
import re
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading

import numpy as np
import pytest
from harness import PATIENCE_S, Attnd, Reader, Trainer, softmax_maps, wait_log, wait_until
from row_sums import rows_of
from test_record import STEADY, Recorder, attnctl, collect_results, read_recording, results_of

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "clients", "python"))
import attnd as package  # noqa: E402

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | 0x10  # and F_SEAL_FUTURE_WRITE
LENDS, TAKES_BACK, FREE, REFUSED = 1, 2, 3, 4
MIB = 1 << 20


def descriptors(pid, of_history=False):
    """Those of the history, which attnd reads from the first run on, or the others."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += ("/history.db" in os.readlink(f"/proc/{pid}/fd/{fd}")) == of_history
    return count


def lent_to(pid):
    """Mappings of memfds that have the client's name, or that of these tests."""
    with open(f"/proc/{pid}/maps") as maps:
        return sum("/memfd:attnd" in line for line in maps)


class Peer:
    """A connection to `memory`, at the level of packets."""

    def __init__(self, attnd):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(f"{attnd.directory}/memory")
        magic, version, self.buffers_max, self.bytes_max, self.token = struct.unpack("<8sIIQ16s", self.socket.recv(40))
        assert (magic, version) == (b"attndmem", 1)

    def lend(self, number=0, nbytes=MIB, seals=SEALS, fd=None, copies=1, make=os.posix_fallocate):
        fd = os.memfd_create("attnd-test", os.MFD_ALLOW_SEALING) if fd is None else fd
        try:
            make(fd, 0, nbytes)
            mapped = mmap.mmap(fd, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            mapped = None
        socket.send_fds(self.socket, [struct.pack("<II", LENDS, number)], [fd] * copies)
        if mapped is None:
            os.close(fd)
            return None
        return mapped, fd

    def heard(self):
        """What attnd says next, of which buffer; None: it has hung up."""
        try:
            said = self.socket.recv(40)
        except ConnectionResetError:
            said = b""
        return struct.unpack("<II", said) if said else None

    def reference(self, number, offset, nbytes):
        return self.token + struct.pack("<IIQQ", number, 0, offset, nbytes)


def lending_trainer(attnd, peer, tensors, number=0):
    """A function that sends these tensors as a message, from one buffer that was filled with them."""
    sizes = [-(-one.nbytes // 64) * 64 for one in tensors.values()]
    starts = np.cumsum([0, *sizes])
    mapped, fd = peer.lend(number, int(starts[-1]))
    assert peer.heard() == (FREE, number)
    for one, start in zip(tensors.values(), starts):
        mapped[start:start + one.nbytes] = one.tobytes()

    def frames(trainer, kind, **keys):
        plain = trainer.tensor_frames(kind, tensors, **keys)
        return plain[:2] + [peer.reference(number, int(start), one.nbytes) if one.nbytes > 65536 else frame
                            for frame, one, start in zip(plain[2:], tensors.values(), starts)]

    return frames, mapped, fd


def taken_back(attnd, publisher):
    """Waits until attnd has done with what was sent: the memory that was lent can be lent again."""
    assert publisher.drain(30)
    attnd.settled(publisher.stats()["sent"])


def publish_all(attnd, publisher, rng, steps):
    """Messages of every kind of tensor, large and small, in every dtype."""
    import torch

    for step in range(steps):
        whole = dict(stack="decoder", epoch=step, step=step)
        weights = softmax_maps(rng, 1, 2, 160, 160, causal=True)
        mask = np.tril(np.ones((3, 160, 160), np.uint8))
        tokens = rng.integers(0, 1000, (2, 9000))
        publisher.publish_attention(weights, layer=0, causal=True, **whole)
        publisher.publish_attention(weights.astype(np.float64), layer=1, grad=weights.astype(np.float64), **whole)
        publisher.publish_attention(torch.from_numpy(weights.repeat(3, 0)).bfloat16(), layer=2, mask=mask, **whole)
        publisher.publish_attention(softmax_maps(rng, 2, 1, 4, 9000).astype(np.float16), layer=3, tokens=tokens, **whole)
        q, k, v = (rng.standard_normal((2, heads, 200, 64)).astype(np.float32) for heads in (4, 2, 2))
        publisher.publish_qk(q, k, v, layer=4, causal=True, **whole)
        publisher.publish_weights(heads=2, head_dim=64, wq=rng.standard_normal((128, 300)), layer=5, **whole)
        publisher.publish_rows(rows_of(rng.standard_normal((1, 2, 160, 160)), causal=True), layer=6, **whole)
        taken_back(attnd, publisher)
    publisher.epoch_end(steps - 1)


def run_python(attnd, rng):
    pytest.importorskip("torch")
    with package.Publisher("gpt", address=attnd.directory) as publisher:
        assert publisher.wait_for_subscriber(30)
        publish_all(attnd, publisher, rng, 6)
        sent = publisher.stats()
        assert sent["lent"] > sent["sent"] / 3 and sent["dropped"] == 0


def run_watch(attnd, rng):
    torch = pytest.importorskip("torch")
    model = torch.nn.MultiheadAttention(128, 2, batch_first=True)
    with package.Publisher("gpt", address=attnd.directory) as publisher:
        with package.watch(model, "gpt", publisher=publisher, steps="manual", stack="encoder", every=1, samples=0, wait=60,
                           values=True, gradients=True) as watch:
            for _ in range(8):
                x = torch.rand(2, 200, 128)
                model(x, x, x)[0].sum().backward()
                watch.step()
                taken_back(attnd, publisher)
            sent = publisher.stats()
            assert sent["lent"] > sent["sent"] / 3 and sent["dropped"] == 0


@pytest.mark.parametrize("run", [run_python, run_watch])
def test_numbers_are_those_of_frames_bit_by_bit(run, tmp_path, rng):
    """A recording has frames: what attnd says of it again is what it said."""
    attnd = Attnd(*STEADY)
    reader = results_of(attnd)
    recorder = Recorder(attnd, "gpt", tmp_path / "run.rec", "--until-end")
    run(attnd, rng)
    assert recorder.end()[0] == 0
    recorded = read_recording(tmp_path / "run.rec")
    shared = attnd.settled(len(recorded))["shared"]
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the run to end")
    assert len(recorded) / 3 < shared <= len(recorded)
    results = collect_results(reader)
    attnd.close()
    assert all(len(frame) != 40 for _, frames in recorded for frame in frames)
    fresh = Attnd(*STEADY)
    reader = results_of(fresh)
    assert attnctl(fresh, "replay", tmp_path / "run.rec").returncode == 0
    assert collect_results(reader) == results != []
    assert fresh.stats()["shared"] == 0
    fresh.close()


def take_place(path):
    """Puts a directory there: attnd makes its socket again, but not over that."""
    while not os.path.isdir(path):
        os.unlink(path)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)


@pytest.mark.parametrize("why", ["switched off", "gone", "full", "too small"])
def test_without_the_lane_tensors_are_frames(why, rng):
    settings = {"switched off": ["ingest.memory=0"], "full": ["ingest.memory=1"], "too small": ["ingest.memory=400KiB"]}
    attnd = Attnd(*settings.get(why, ()))
    assert ('event=memory_off reason="ingest.memory is 0"' in attnd.log_text()) == (why == "switched off")
    if why == "gone":
        take_place(f"{attnd.directory}/memory")
    with package.Publisher("gpt", address=attnd.directory) as publisher:
        assert publisher.wait_for_subscriber(30)
        for step in range(20):
            publisher.publish_attention(softmax_maps(rng, 1, 2, 128, 128), stack="decoder", layer=0, step=step)
            assert publisher.drain(30)
        sent = publisher.stats()["sent"]
        assert sent > 0 and publisher.stats()["lent"] == 0
        assert attnd.settled(sent)["dropped"] == {}
    attnd.close()


class Elsewhere(Attnd):
    """Its ingest socket has a name of its own."""

    def endpoint(self, name):
        return f"ipc://{self.directory}/other" if name == "ingest" else super().endpoint(name)


def test_an_ingest_socket_of_another_name_has_the_lane_as_well(rng):
    directory = tempfile.mkdtemp(prefix="attnd-")
    attnd = Elsewhere(f"ingest.endpoint=ipc://{directory}/other", directory=directory)
    with package.Publisher("gpt", attnd.endpoint("ingest")) as publisher:
        assert publisher.wait_for_subscriber(30)

        def publish():
            publisher.publish_attention(softmax_maps(rng, 1, 2, 128, 128), stack="decoder", layer=0)
            return publisher.drain(30) and publisher.stats()["lent"] > 0
        wait_until(publish, "a message in shared memory")
    wait_until(lambda: attnd.stats()["shared"] > 0, "that attnd reads it")
    assert f"event=memory_on path={directory}/other.memory" in attnd.log_text()
    attnd.close()


UNMEASURED = [f"metrics.{group}=false" for group in ("core", "importance", "spectrum")]
TRAINER = """
    import os, sys, time
    import numpy as np
    import attnd
    publisher = attnd.Publisher("gpt", address=sys.argv[1], queue_bytes=8 << 20)
    publisher.tell_absences(lambda: "Start it again")
    weights = np.full((1, 2, 256, 256), 1 / 256, np.float32)
    step, forks = 0, len(sys.argv) > 2
    while True:
        publisher.publish_attention(weights, stack="decoder", layer=0, step=step)
        publisher.drain(60)
        step += 1
        if forks and publisher.stats()["lent"] > 10:
            forks = False
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                time.sleep(600)
"""


@contextlib.contextmanager
def training(attnd, *options):
    """A trainer that goes on until it is killed."""
    python = [sys.executable, "-c", textwrap.dedent(TRAINER), attnd.directory, *options]
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(package.__file__)))
    with open(f"{attnd.directory}/trainer", "wb") as said:
        trainer = subprocess.Popen(python, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        yield trainer
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()


def wait_shared(attnd, more=50):
    before = attnd.stats()["shared"]
    wait_until(lambda: attnd.stats()["shared"] > before + more, "messages in shared memory")


def test_a_killed_trainer_leaves_nothing_in_attnd():
    attnd = Attnd(*UNMEASURED)
    attnd.stats()
    before, of_history = descriptors(attnd.process.pid), set()
    for _ in range(2):
        with training(attnd):
            wait_shared(attnd)
            assert lent_to(attnd.process.pid) > 0
            of_history.add(descriptors(attnd.process.pid, of_history=True))
    assert len(of_history) == 1 and max(of_history) > 0
    wait_until(lambda: lent_to(attnd.process.pid) == 0, "the mappings to go")
    wait_until(lambda: descriptors(attnd.process.pid) <= before, "the descriptors to be closed")
    attnd.close()


def test_a_killed_attnd_costs_the_trainer_nothing_and_the_next_one_reads_in_place():
    attnd = Attnd(*UNMEASURED)
    with training(attnd) as trainer:
        wait_shared(attnd)
        for _ in range(2):
            attnd.stop(signal.SIGKILL)
            wait_until(lambda: lent_to(trainer.pid) == 0, "the trainer to forget its buffers")
            attnd.start()
            wait_shared(attnd)
            assert lent_to(trainer.pid) <= 128
        assert trainer.poll() is None
    attnd.close()


def test_a_stopped_attnd_is_told():
    attnd = Attnd(*UNMEASURED)
    with training(attnd):
        wait_shared(attnd)
        attnd.process.send_signal(signal.SIGSTOP)
        at = re.escape(f"job gpt: attnd at {attnd.endpoint('ingest')} ")
        sentence = re.compile(at + "(is stopped, or too busy: it takes nothing, and tensors are dropped and counted until it does; "
                              "training goes on. Further times are not told|has gone, or does not answer: .+)\n")
        with open(f"{attnd.directory}/trainer") as said:  # whichever is noticed first
            wait_until(lambda: sentence.search(said.read()) or said.seek(0), "the sentence")
        attnd.process.send_signal(signal.SIGCONT)
    attnd.close()


def test_a_child_of_the_trainer_does_not_keep_the_connection():
    """It outlives a trainer that is killed, as workers of a data loader do."""
    attnd = Attnd(*UNMEASURED)
    with training(attnd, "forks") as trainer:
        child = int(trainer.stdout.readline())
        assert lent_to(attnd.process.pid) > 0
    try:
        wait_until(lambda: lent_to(attnd.process.pid) == 0, "the connection to end")
    finally:
        os.kill(child, signal.SIGKILL)
    attnd.close()


def test_hostile_packets_end_their_own_connection_only(attnd, rng):
    attnd.stats()
    before = descriptors(attnd.process.pid)
    plain = os.open("/proc/self/exe", os.O_RDONLY)
    attacks = {
        "unsealed": lambda peer: peer.lend(seals=0),
        "can shrink": lambda peer: peer.lend(seals=SEALS & ~fcntl.F_SEAL_SHRINK),
        "can have holes": lambda peer: peer.lend(seals=SEALS & ~0x10),
        "all hole": lambda peer: peer.lend(nbytes=64 * MIB, make=lambda fd, _, nbytes: os.ftruncate(fd, nbytes)),
        "no memfd": lambda peer: peer.lend(fd=os.dup(plain)),
        "a socket": lambda peer: peer.lend(fd=socket.socket().detach()),
        "too many descriptors": lambda peer: peer.lend(copies=2),
        "very many descriptors": lambda peer: peer.lend(copies=250),
        "number too large": lambda peer: peer.lend(number=peer.buffers_max),
        "no descriptor": lambda peer: peer.socket.send(struct.pack("<II", LENDS, 0)),
        "not lent": lambda peer: peer.socket.send(struct.pack("<II", TAKES_BACK, 5)),
        "unknown": lambda peer: peer.socket.send(struct.pack("<II", 77, 0)),
        "short": lambda peer: peer.socket.send(b"abc"),
        "long": lambda peer: peer.socket.send(b"a" * 60000),
        "empty": lambda peer: peer.socket.send(b""),
    }
    for name, attack in attacks.items():
        peer = Peer(attnd)
        attack(peer)
        assert peer.heard() is None, name
        peer.socket.close()
    os.close(plain)
    peer = Peer(attnd)
    frames, mapped, fd = lending_trainer(attnd, peer, {"weights": softmax_maps(rng, 1, 2, 128, 128)})
    trainer = Trainer(attnd, "healthy")
    trainer.send(*frames(trainer, "attention"))
    assert peer.heard() == (FREE, 0)
    assert attnd.settled(1)["shared"] == 1
    os.close(fd)
    peer.socket.close()
    trainer.close()
    wait_until(lambda: descriptors(attnd.process.pid) <= before and lent_to(attnd.process.pid) == 0, "all to be closed")


def test_messages_name_only_what_their_sender_has_lent(attnd, rng):
    weights = {"weights": softmax_maps(rng, 1, 2, 128, 128)}
    mine, others = Peer(attnd), Peer(attnd)
    frames, _, _ = lending_trainer(attnd, mine, weights)
    lending_trainer(attnd, others, weights, number=1)
    trainer = Trainer(attnd, "gpt")
    guess = frames(trainer, "attention")
    guess[2] = os.urandom(16) + guess[2][16:]
    trainer.send(*guess)
    stolen = trainer.attention_frames(weights["weights"], step=1)
    stolen[2] = mine.reference(1, 0, weights["weights"].nbytes)  # a buffer of the other connection
    trainer.send(*stolen)
    assert mine.heard() is None
    wait_until(lambda: attnd.stats()["dropped"].get("buffer") == 2, "both to be refused")
    trainer.attention(weights["weights"], step=2)
    attnd.settled(3)
    wait_log(attnd, "memory_refused", "not in a free buffer")


def test_a_buffer_comes_back_whatever_becomes_of_the_message(attnd, rng):
    """Refused by its header, of a run that has ended, beyond a limit, or too large for the budget."""
    peer = Peer(attnd)
    frames, _, _ = lending_trainer(attnd, peer, {"weights": softmax_maps(rng, 1, 2, 128, 128)})
    trainer = Trainer(attnd, "gpt")
    good = frames(trainer, "attention")
    for broken in (good, [good[0], b"\xc1", good[2]], [b"tensor/x/decoder/0/self/", *good[1:]], good,
                   good + [good[2]], frames(trainer, "attention", batch=3, q_len=[9999])):
        trainer.send(*broken)
        assert peer.heard() == (FREE, 0)
    trainer.event("bye")
    trainer.send(*frames(trainer, "attention", step=5))
    assert peer.heard() == (FREE, 0)
    dropped = attnd.settled(8)["dropped"]
    assert sum(dropped.values()) == 6 and "buffer" not in dropped


def test_what_changes_while_it_is_read_harms_nothing(rng):
    """All tensors of a message, the validated ones too, are overwritten all the time."""
    attnd = Attnd("metrics.spectrum_budget=10ms")
    peer, trainer = Peer(attnd), Trainer(attnd, "gpt")
    weights = softmax_maps(rng, 2, 2, 32, 9000)
    messages = [
        ("attention", dict(weights=weights, grad=weights, tokens=np.ones((2, 9000), np.int32),
                           mask=np.ones((2, 32, 9000), np.uint8)), {}),
        ("attention", dict(weights=softmax_maps(rng, 1, 4, 256, 256)), dict(layer=1)),
        ("qk", dict(q=rng.standard_normal((9, 2, 512, 32), np.float32), k=rng.standard_normal((9, 2, 512, 32), np.float32),
                    v=rng.standard_normal((9, 2, 512, 32), np.float32), documents=np.zeros((9, 512), np.int32),
                    tokens=np.ones((36, 512), np.int32)[:9]), dict(layer=2, scale=0.2, causal=True)),
        ("weights", dict(wq=rng.standard_normal((128, 512)).astype(np.float32)), dict(layer=3, heads=2, head_dim=64)),
    ]
    made = [(*lending_trainer(attnd, peer, tensors, number=i), kind, keys) for i, (kind, tensors, keys) in enumerate(messages)]
    ended = threading.Event()

    def write():
        random_bits = random.Random(1)
        while not ended.is_set():
            for _, mapped, _, _, _ in made:
                at = random_bits.randrange(0, max(1, len(mapped) - 65536)) // 64 * 64
                mapped[at:at + 4096] = random_bits.randbytes(4096)
                mapped[at + 4096:at + 8192] = b"\xff\xff\xff\x7f" * 1024

    writer = threading.Thread(target=write)
    writer.start()
    count = 0
    for step in range(4):
        for frames, _, _, kind, keys in made:
            trainer.send(*frames(trainer, kind, epoch=step, step=step, **keys))
            count += 1
            assert peer.heard()[0] == FREE
    ended.set()
    writer.join()
    attnd.settled(count)
    assert attnd.stats()["shared"] == count
    attnd.close()


def test_large_and_silent_peers_cannot_grow_attnd(rng):
    """Memory is bounded by connection and in all, connections by number, and answers that nobody reads by nothing: a
    peer that does not read is cut off."""
    attnd = Attnd("ingest.memory=64MiB")
    peers = [Peer(attnd) for _ in range(6)]
    said = []
    for peer in peers:
        for number in range(3):
            peer.lend(number, 8 * MIB)[0].close()
            said.append(peer.heard()[0])
    assert said == [FREE, FREE, REFUSED] * 4 + [REFUSED] * 6
    greedy = []
    while True:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.settimeout(PATIENCE_S)
        peer.connect(f"{attnd.directory}/memory")
        greedy.append(peer)
        if not peer.recv(40):
            break
        assert len(greedy) <= 256
    trainer = Trainer(attnd, "gpt")
    trainer.attention(softmax_maps(rng, 1, 2, 128, 128))
    attnd.settled(1)
    for one in (*greedy, *(peer.socket for peer in peers)):
        one.close()
    wait_until(lambda: lent_to(attnd.process.pid) == 0, "the mappings to go")
    attnd.close()
