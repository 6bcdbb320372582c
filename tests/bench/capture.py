# SPDX-License-Identifier: MIT
"""bench capture: what attnd.watch costs a training: step times with it against step times without, in one process.

    capture.py [--attnd build/daemon/attnd] [--device cpu] [--compile] [--tier rows] [--pairs 20] [--minute 60]
               [SITUATION...]

    idle      attached, nobody is subscribed
    plan      attached to a daemon on this machine, its default plan: every 50th step, all layers, 1 sample
    sampled   a captured step itself against the two before it that were not
    killed    the daemon was killed: the minute after
    stopped   the daemon was stopped by SIGSTOP: the minute after
    memory    the memory of the process in such minutes, when every step was to be captured until then, and that of processes that
              it has started

Blocks of steps with and without take turns: with, without, with, ...; a ratio is that of a block with to the mean of its
two neighbours without. `null` is the same figure for a block without among blocks without: what noise alone gives.
Each figure is [median, lowest, highest] of the middle 95 % for medians of that many ratios, by three clocks:

    wall      elapsed time: what counts, and of no use where others use the processors
    process   processor time of the whole process, attnd's own threads included
    thread    processor time of the training thread

`others` is what other threads than the training's take of the processor time of a step, in percent: with it, attnd's.
They share the interpreter's lock with the training, so it is what they can cost where no processor is short.

One JSON line per situation. Needs torch 2, pyzmq, msgpack; exits 0 without figures where torch is missing.
"""
import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

try:
    import torch
except ImportError:
    print("skipped: no PyTorch in this Python", file=sys.stderr)
    sys.exit(0)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
import attnd  # noqa: E402
from capture_model import SHAPES, Training  # noqa: E402

EVERY = 50  # of the daemon's default plan
SAMPLED_EVERY = 4  # for `sampled`: one captured, one after it, two to compare with
QUEUE_BYTES = 32 << 20  # for `memory`
CLOCKS = {"wall": time.perf_counter, "process": time.process_time, "thread": time.thread_time}
LIMITS = {"idle": 1.002, "plan": 1.02, "sampled": 1.10, "killed": 1.002, "stopped": 1.002}


class Times(NamedTuple):
    """Seconds of one block, by each clock."""
    wall: float
    process: float
    thread: float


# ---------------------------------------------------------------------------------------- measuring

def timed(training: Training, steps: int) -> Times:
    """Trains `steps` steps; seconds per step."""
    training.finish()
    begin = [clock() for clock in CLOCKS.values()]
    for _ in range(steps):
        training.step()
    training.finish()
    return Times(*((clock() - at) / steps for clock, at in zip(CLOCKS.values(), begin)))


def ratios(times: Sequence[Times], ours: int) -> Dict[str, List[float]]:
    """By clock: each block whose number modulo 2 is `ours`, to the mean of its neighbours."""
    inner = [i for i in range(1, len(times) - 1) if i % 2 == ours]
    return {name: [2 * times[i][c] / (times[i - 1][c] + times[i + 1][c]) for i in inner]
            for c, name in enumerate(Times._fields)}


def middle(values: Sequence[float]) -> List[float]:
    """[median, lowest, highest]: the median's interval at 95 % by the order of the values."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    return [round(value, 4) for value in (statistics.median(ordered), ordered[low], ordered[high])]


def alternate(training: Training, attach: Callable[[], Any], pairs: int, steps: int, without: int = 0) -> Dict[str, Any]:
    """Blocks with (`attach` gives a context manager) and without in turns, and then only without for `null`."""
    without = without or steps
    times = [timed(training, without)]
    for _ in range(pairs):
        with attach():
            times.append(timed(training, steps))
        times.append(timed(training, without))
    bare = times[::2] + [timed(training, without) for _ in range(pairs)]
    return {"pairs": pairs, "steps": steps, "step_ms": round(1e3 * statistics.median(t.thread for t in bare), 3),
            "ratio": {name: middle(values) for name, values in ratios(times, 1).items()},
            "null": {name: middle(values) for name, values in ratios(bare[pairs:], 1).items()},
            "others": {"with": others(times[1::2]), "without": others(times[::2])}}


def others(times: Sequence[Times]) -> float:
    """Percent of the processor time that is not the training thread's."""
    return round(100 * statistics.median(1 - t.thread / t.process for t in times), 4)


def resident(pid: int = 0) -> int:
    """Bytes of memory of a process, by default of this one."""
    with open(f"/proc/{pid or 'self'}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> List[int]:
    """The processes that this one has started and that run."""
    return [int(pid) for task in pathlib.Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def processor_seconds(pid: int) -> float:
    """What a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ----------------------------------------------------------------------------------------- the daemon

class Daemon:
    """A real one, on ipc sockets in a folder of its own, its `address`."""

    def __init__(self, program: str, *further: str):
        self._folder = tempfile.TemporaryDirectory(prefix="attnd-bench-")
        self.address = self._folder.name
        self.endpoint = f"ipc://{self._folder.name}/ingest"
        settings = [*further]
        settings += [f"{name}.endpoint=ipc://{self._folder.name}/{name}" for name in ("ingest", "publish", "control", "tap")]
        settings += [f"history.path={self._folder.name}/history.db", "http.enabled=false"]
        with open(f"{self._folder.name}/log", "wb") as log:
            self.process = subprocess.Popen([program, *(word for s in settings for word in ("--set", s))], stderr=log)

    def close(self) -> None:
        """Kills it, stopped or not."""
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()


class Bench:
    """The situations. Each returns what its line says."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.training = Training(SHAPES[options.shape], options.device, options.compile)
        self.block = options.block

    def warm_up(self) -> None:
        """Everything compiled, allocated and seen once, captured steps included: compiled code shows what it does where a watch
        was there first."""
        daemon = Daemon(self.options.attnd)
        with contextlib.closing(daemon), self.watch(daemon.endpoint, every=2):
            timed(self.training, 4)
        timed(self.training, 3)

    def watch(self, endpoint: str, wait: float = 10.0, **options: Any) -> "attnd.Watch":
        """A watch that is subscribed to when it should be; without options it obeys the daemon's default plan."""
        watch = attnd.watch(self.training.model, "bench", endpoint, wait=wait, linger=0.05, tier=self.options.tier, **options)
        assert wait == 0 or watch.stats()["subscribed"], "the daemon did not subscribe"
        return watch

    def idle(self) -> Dict[str, Any]:
        """Nobody listens at the endpoint."""
        with tempfile.TemporaryDirectory() as folder:
            return alternate(self.training, lambda: self.watch(f"ipc://{folder}/none", wait=0), self.options.pairs, self.block)

    def plan(self) -> Dict[str, Any]:
        """Blocks of as many steps as have one captured."""
        daemon, sent = Daemon(self.options.attnd), []

        @contextlib.contextmanager
        def attach() -> Iterator[None]:
            with self.watch(daemon.endpoint) as watch:
                yield
                watch.publisher.drain(10)
                sent.append(watch.stats())

        with contextlib.closing(daemon):
            before = processor_seconds(daemon.process.pid)
            line = alternate(self.training, attach, max(4, self.options.pairs // 4), EVERY, max(10, EVERY // 5))
            used = processor_seconds(daemon.process.pid) - before
        return {**line, "messages_per_block": sent[-1]["sent"], "bytes_per_block": sent[-1]["sent_bytes"],
                "dropped": sum(stats["dropped"] for stats in sent), "daemon_ms_per_block": round(1e3 * used / len(sent), 1)}

    def sampled(self) -> Dict[str, Any]:
        """Step by step: of four the first is captured; compared with the last two of the four before."""
        daemon, times = Daemon(self.options.attnd), []
        with contextlib.closing(daemon), self.watch(daemon.endpoint, every=SAMPLED_EVERY) as watch:
            for _ in range(SAMPLED_EVERY * (self.options.pairs + 1)):
                times.append(timed(self.training, 1))
            stats = watch.stats()
        line: Dict[str, Any] = {"pairs": self.options.pairs, "messages": stats["sent"], "dropped": stats["dropped"]}
        line["step_ms"] = round(1e3 * statistics.median(t.thread for t in times[2::4] + times[3::4]), 3)
        for name, ours in (("ratio", 4), ("after", 5), ("null", 3)):
            line[name] = {clock: middle(self._against(times, c, ours)) for c, clock in enumerate(Times._fields)}
        return line

    def _against(self, times: Sequence[Times], clock: int, ours: int) -> List[float]:
        """Steps 4 n + `ours` to the mean of steps 4 n + 2 and 4 n + 3; step 3 to step 2."""
        rows = range(0, len(times) - SAMPLED_EVERY, SAMPLED_EVERY)
        others = (2,) if ours == 3 else (2, 3)
        return [times[n + ours][clock] * len(others) / sum(times[n + other][clock] for other in others) for n in rows]

    def killed(self) -> Dict[str, Any]:
        """See _outage."""
        return self._outage(signal.SIGKILL)

    def stopped(self) -> Dict[str, Any]:
        """See _outage."""
        return self._outage(signal.SIGSTOP)

    def _outage(self, sent: signal.Signals) -> Dict[str, Any]:
        """Blocks of a part of a minute, each after the loss of a daemon that was captured for."""
        @contextlib.contextmanager
        def attach() -> Iterator[None]:
            daemon = Daemon(self.options.attnd)
            with contextlib.closing(daemon), self.watch(daemon.endpoint):
                timed(self.training, 2)
                daemon.process.send_signal(sent)
                yield

        pairs = max(4, self.options.pairs // 4)
        steps = max(self.block, int(self.options.minute / pairs / timed(self.training, 2).wall))
        return alternate(self.training, attach, pairs, steps)

    def memory(self) -> Dict[str, Any]:
        """MiB of the process before, at most during, and after a minute without the daemon."""
        line: Dict[str, Any] = {"minute": self.options.minute, "queue_MiB": QUEUE_BYTES >> 20}
        for name, sent in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
            daemon = Daemon(self.options.attnd)
            with contextlib.closing(daemon), self.watch(daemon.endpoint, every=1, queue_bytes=QUEUE_BYTES) as watch:
                timed(self.training, 5)
                before, most, queued = resident(), 0, 0
                daemon.process.send_signal(sent)
                end = time.monotonic() + self.options.minute
                while time.monotonic() < end:
                    timed(self.training, 1)
                    most, queued = max(most, resident()), max(queued, watch.stats()["queued_bytes"])
                stats = watch.stats()
                beside = sum(resident(pid) for pid in children() if pid != daemon.process.pid)
            line[name] = {"before_MiB": before >> 20, "most_MiB": most >> 20, "after_MiB": resident() >> 20, "beside_MiB": beside >> 20,
                          "queued_MiB": round(queued / 2**20, 1), "sent": stats["sent"], "dropped": stats["dropped"]}
        return line


def main() -> None:
    situations = ("idle", "plan", "sampled", "killed", "stopped", "memory")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("situations", nargs="*", default=[], metavar="SITUATION", choices=[*situations, []])
    parser.add_argument("--attnd", default="build/daemon/attnd")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--tier", help="as of attnd.watch")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the processor")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--block", type=int, default=4, help="steps of a block of `idle`")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds that the daemon is away")
    options = parser.parse_args()
    options.shape = options.shape or ("tiny" if options.device == "cpu" else "gpt2")
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    bench.warm_up()
    for name in options.situations or situations:
        line = {"situation": name, "device": options.device, "shape": options.shape, "compiled": options.compile}
        print(json.dumps({**line, **getattr(bench, name)(), "limit": LIMITS.get(name)}), flush=True)


if __name__ == "__main__":
    main()
