#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench reliable: attention maps by the reliable lane, against the default one and against bare DEALER and ROUTER.

    ATTND_BIN=build/daemon/attnd python3 tests/bench/reliable.py [lane=reliable|default|raw]
        [heads=12] [length=512] [layers=12] [seconds=5] [rate=0] [kept=64] [SECTION.KEY=VALUE...]

A process of its own publishes [1, heads, length, length] f32, the layers in turn, to a real attnd on ipc sockets with its own
settings but those that are given. `rate` in MB/s; 0: as fast as nothing is dropped, which is to say as there is room in `kept`
MiB (reliable_bytes), or, on the default lane, less than 224 MiB before attnd. Without `lane` all three. Prints a JSON
line for each: MB/s until the last message was processed, and on the reliable lane acknowledged; milliseconds from publishing to
the acknowledgement; MiB of the publisher's process at most, beyond what it had before it published; attnd's processor time per
GB.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
import attnd  # noqa: E402
import harness  # noqa: E402

AHEAD_BYTES = 224 << 20  # less than half of ingest.budget, over which attnd drops
OPTIONS = {"heads": 12, "length": 512, "layers": 12, "seconds": 5.0, "rate": 0.0, "kept": 64}


def resident():
    """The most MiB that this process has had in memory; forgets it."""
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak / 1024


def weights_of(options):
    rng = np.random.default_rng(1)
    return harness.softmax_maps(rng, 1, options["heads"], options["length"], options["length"])


class Pace:
    """Publishes until the time is over, and looks when messages are done: `done()` of them, in their order."""

    def __init__(self, options, nbytes, room, done):
        self.options, self.nbytes, self.room, self.done = options, nbytes, room, done
        self.at, self.latencies = [], []

    def look(self):
        done = self.done()
        now = time.monotonic()
        while len(self.latencies) < min(done, len(self.at)):
            self.latencies.append(now - self.at[len(self.latencies)])

    def run(self, publish):
        """Returns seconds."""
        begin = time.monotonic()
        while time.monotonic() < begin + self.options["seconds"]:
            self.look()
            published, rate = len(self.at), 1e6 * self.options["rate"]
            if rate and (time.monotonic() - begin) * rate < published * self.nbytes or not rate and \
                    (published - len(self.latencies) + 1) * self.nbytes > self.room:
                time.sleep(0.0005)
                continue
            self.at.append(time.monotonic())
            publish(published)
        end = time.monotonic() + 60
        while len(self.latencies) < len(self.at) and time.monotonic() < end:
            self.look()
            time.sleep(0.0005)
        return time.monotonic() - begin


def publish(lane, address, options):
    """A publisher's process: says what became of it."""
    weights = weights_of(options)
    daemon = attnd.Control(address=address)
    publisher = attnd.Publisher("bench", address=address, reliable=lane == "reliable", reliable_bytes=options["kept"] << 20)
    assert publisher.wait_for_subscriber(60)

    def put(i):
        publisher.publish_attention(weights, stack="decoder", layer=i % options["layers"], step=1 + i // options["layers"])

    publisher.publish_attention(weights, stack="decoder", layer=0)
    assert publisher.drain(60)
    before, first = resident(), publisher.stats()["sent"]

    def settled():
        stats = publisher.stats()
        return stats["sent"] - first + stats["dropped"]

    def processed():
        return daemon.stats()["processed"] - first

    on_lane = lane == "reliable"
    pace = Pace(options, weights.nbytes + 4096, options["kept"] << 20 if on_lane else AHEAD_BYTES, settled if on_lane else processed)
    seconds = pace.run(put)
    peak, stats = resident(), publisher.stats()
    publisher.close()
    print(json.dumps({"seconds": seconds, "messages": len(pace.at), "dropped": stats["dropped"],
                      "ms": [round(1e3 * at, 1) for at in np.percentile(pace.latencies, [50, 99])],
                      "mib": round(peak - before)}))


def raw(options, folder):
    """The same messages by bare sockets, four of them on their way."""
    context, count, weights = zmq.Context(), 400, weights_of(options)
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (router, dealer):
        socket.setsockopt(zmq.RCVHWM, 4)
        socket.setsockopt(zmq.SNDHWM, 4)
    router.bind(f"ipc://{folder}/raw")
    dealer.connect(f"ipc://{folder}/raw")

    def receive():
        for _ in range(count):
            router.recv_multipart(copy=False)

    receiver = threading.Thread(target=receive)
    begin = time.monotonic()
    receiver.start()
    for i in range(count):
        dealer.send_multipart([i.to_bytes(8, "little"), b"tensor/bench/decoder/0/self/", bytes(300), weights], copy=False)
    receiver.join()
    seconds = time.monotonic() - begin
    for socket in (router, dealer):
        socket.close(linger=0)
    context.term()
    return {"lane": "raw", "mb_per_s": round(count * weights.nbytes / seconds / 1e6)}


def measure(lane, options, settings, folder):
    if lane == "raw":
        return raw(options, folder)
    daemon = harness.Attnd(*settings, directory=folder)
    arguments = [f"{name}={value}" for name, value in options.items()]
    child = subprocess.run([sys.executable, __file__, "publish", lane, folder, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    said = json.loads(child.stdout)
    stats = daemon.call("stats")
    with open(f"/proc/{daemon.process.pid}/stat") as file:
        ticks = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    with open(f"/proc/{daemon.process.pid}/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) // 1024
    daemon.close()
    nbytes = 4 * options["heads"] * options["length"] ** 2
    gigabytes = said["messages"] * nbytes / 1e9
    line = {"lane": lane, "mb_per_s": round(1e3 * gigabytes / said["seconds"]), "messages": said["messages"],
            "dropped": said["dropped"], "dropped_by_attnd": stats["dropped"], "publisher_mib": said["mib"], "attnd_mib": peak,
            "attnd_cpu_s_per_gb": round(ticks / os.sysconf("SC_CLK_TCK") / gigabytes, 3), "checkpoints": stats["checkpoints"]}
    return {**line, "acknowledged_ms": said["ms"]} if lane == "reliable" else line


def main():
    options, settings, lanes = dict(OPTIONS), [], None
    child = sys.argv[2:4] if sys.argv[1:2] == ["publish"] else None
    for argument in sys.argv[4 if child else 1:]:
        name, value = argument.split("=", 1)
        if name in options:
            options[name] = type(OPTIONS[name])(value)
        elif name == "lane":
            lanes = [value]
        else:
            settings.append(argument)
    if child:
        publish(*child, options)
        return
    for lane in lanes or ["raw", "default", "reliable"]:
        with tempfile.TemporaryDirectory(prefix="attnd-bench-") as folder:
            line = measure(lane, options, settings, folder)
        print(json.dumps({"bench": "reliable", **line,
                          "shape": [1, options["heads"], options["length"], options["length"]], "layers": options["layers"],
                          "rate": options["rate"], "settings": settings}), flush=True)


if __name__ == "__main__":
    main()
