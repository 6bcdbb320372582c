# SPDX-License-Identifier: MIT
"""bench full_rate: every step captured as the sums of its rows, through the sender and a real attnd.

    full_rate.py [steps=1000] [layers=24] [heads=16] [rows=256] [keys=1024] [step_ms=50] [SETTING=VALUE ...]

What a card's kernels leave is there before (from random queries and keys): the client does with it what it does in a training,
from the launch of a capture on. Settings go to attnd. JSON line: messages and how many of them were dropped, processor time a layer of
the training's thread, of the sender's and of attnd, and by how much the steps were late. $ATTND_BIN: the daemon.
"""
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "clients" / "python"), str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "python")]
try:
    import torch
except ImportError:
    print("skipped: no PyTorch in this Python", file=sys.stderr)
    sys.exit(0)
import attnd  # noqa: E402
from attnd.base.plan import strata  # noqa: E402
from attnd.capture import accelerator, calls  # noqa: E402
from attnd.capture.cost import Cost  # noqa: E402
from attnd.device import launch  # noqa: E402
from attnd.device.problem import Rows  # noqa: E402
from device_grid import launched  # noqa: E402
from harness import Attnd  # noqa: E402

DEFAULTS = {"steps": 1000, "layers": 24, "heads": 16, "rows": 256, "keys": 1024, "step_ms": 50}


class Captures:
    """Captures of an attention whose kernels have run."""

    def __init__(self, heads, rows, keys):
        generator = torch.Generator().manual_seed(1)
        q, k = (torch.randn(1, heads, keys, 64, generator=generator) for _ in range(2))
        here = strata(keys, rows)
        self.asked = accelerator.OfQueries(q, k, 0, 1, torch.float32, 0.125, 0.0, True, 0, None, None, 0, False, Rows(torch.from_numpy(here), here))
        self.computer = accelerator.Accelerator("bench", Cost())
        launch.unable, launch.is_ready, room = (lambda *given: None), (lambda *given: True), []

        def left(problem, powers):
            if not room:
                room.append(launched(problem, powers))
            launch.parts_of(problem, powers, room[0])
            return room[0]

        launch.launched = left
        accelerator.CHECKED_FIRST, accelerator.CHECKED_EVERY = 0, 1 << 30
        self.keys, self.heads = keys, heads

    def take(self, step):
        """Launches one; what makes its message."""
        wait = self.computer.launch(self.asked, step)

        def make():
            return wait()._replace(queries=self.keys).message(0, self.heads)
        return make


def processor_seconds(pid):
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main():
    options, settings = dict(DEFAULTS), []
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name in options:
            options[name] = int(value)
        else:
            settings.append(argument)
    torch.set_num_threads(1)
    captures = Captures(options["heads"], options["rows"], options["keys"])
    daemon = Attnd("plan.cost_max=1", *settings)
    layers = [("decoder", layer, "self") for layer in range(options["layers"])]
    late, own, count = [], 0.0, 0
    with attnd.Publisher("bench", endpoint=daemon.endpoint("ingest"), linger=60) as publisher:
        while not publisher.wanted(*layers[0]):
            time.sleep(0.01)
        own_before, theirs_before, begun = time.process_time(), processor_seconds(daemon.process.pid), time.perf_counter()
        for step in range(options["steps"]):
            began = time.thread_time()
            for layer in layers:
                publisher.publish_later(layer, 0, step, calls.ROW_BYTES * options["heads"] * options["rows"],
                                        lambda: captures.take(step), "rows")
                count += 1
            publisher.hurry()
            own += time.thread_time() - began
            due = begun + (step + 1) * options["step_ms"] / 1e3
            late.append(max(0.0, time.perf_counter() - due))
            time.sleep(max(0.0, due - time.perf_counter()))
        publisher.drain(60)
        all_own = time.process_time() - own_before
        stats = publisher.stats()
    theirs = processor_seconds(daemon.process.pid) - theirs_before
    found = daemon.stats()
    dropped = sum(found["dropped"].values()) + stats["dropped"]
    daemon.close()
    print(json.dumps({"bench": "full_rate", **options, "settings": settings, "messages": count, "sent": stats["sent"], "dropped": dropped,
                      "training_us_per_layer": round(1e6 * own / count), "sender_us_per_layer": round(1e6 * (all_own - own) / count),
                      "attnd_us_per_layer": round(1e6 * theirs / count), "late_ms": [round(1e3 * statistics.median(late), 2), round(1e3 * max(late), 2)]}))
    sys.exit(dropped > 0 or stats["sent"] < count)


if __name__ == "__main__":
    main()
