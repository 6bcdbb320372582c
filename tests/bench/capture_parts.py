# SPDX-License-Identifier: MIT
"""bench capture_parts: where the cost of attnd.watch lies, piece by piece, in processor time of the calling thread.

    capture_parts.py [--device cpu] [--shape gpt2] [--profile] [--added PAIRS]

    between    microseconds that a step is longer by when nothing is captured: hook of the optimizer, hook of the forward
    arming     microseconds to install and remove the spy, by the number of modules
    following  microseconds a captured forward is longer by per module and per torch function, nothing captured in it
    structure  microseconds that a captured step of GPT-2's 12 layers is longer by, when the layers are so narrow that
               nothing else counts: what it takes of the training thread beside the copies, in the median, and in the
               mean of 320, of which every 16th is a full one; and the step without; by fused and by explicit attention
    rows       microseconds that the sums of 256 rows of 32 heads take of the sender's thread, from the copy's arrival on
    calls      microseconds a captured call takes of the training thread, and of the sender's, by the size of q and k
    sketch     microseconds of the training thread, for each of GPT-2's 12 layers, that the values of its matrices take after
               a captured step, in the median; and in the mean of 128, of which 7 look for the matrices again
    epoch      milliseconds that the end of an epoch takes, in which the projection matrices of GPT-2's 12 layers are
               copied, and microseconds that a step is longer by because they may be waiting
    added      with --added alone: what a captured step of GPT-2 small (T = 256, batch 1, every sample captured) takes,
               relative to the next, which is not: of the training thread and, the sender included, of the process; as it
               is, with values, with gradients, and with the residual stream, by fused and by explicit attention

With --profile a captured step of the model is profiled (cProfile) and what attnd does in it is listed. JSON lines.
"""
import argparse
import contextlib
import cProfile
import json
import pathlib
import pstats
import statistics
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

try:
    import torch
except ImportError:
    print("skipped: no PyTorch in this Python", file=sys.stderr)
    sys.exit(0)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
import attnd  # noqa: E402
import zmq  # noqa: E402
from attnd.base import wire  # noqa: E402
from attnd.base.plan import Plan  # noqa: E402
from attnd.capture import calls  # noqa: E402
from attnd.forms import spy  # noqa: E402
from attnd.sending import devices  # noqa: E402
import full_rate  # noqa: E402
from capture_model import SHAPES, Attention, Decoder, Training, explicit  # noqa: E402


def microseconds(what: Callable[[], Any], times: int, rounds: int = 9) -> float:
    """Of one call, processor time of this thread: the median of `rounds` rounds of `times` calls."""
    found = []
    for _ in range(rounds):
        begin = time.thread_time()
        for _ in range(times):
            what()
        found.append((time.thread_time() - begin) / times)
    return round(1e6 * statistics.median(found), 2)


class Nobody:
    """A watcher that follows everything and keeps nothing."""
    sends_values = False
    is_settled = True

    @property
    def notices(self) -> "Nobody":
        return self

    def begins(self, module: torch.nn.Module) -> bool:
        return True

    def saw(self, path: str, call: int, seen: calls.Seen) -> None:
        pass

    def awaits(self, path: str) -> bool:
        return False

    def saw_again(self, path: str, call: int, seen: calls.Seen) -> None:
        pass

    def expects(self, path: str, call: int) -> None:
        pass

    def ends(self, unseen: Any) -> None:
        pass

    def failed(self, what: str) -> None:
        raise AssertionError(what)


class Listener:
    """A subscriber to everything, which throws it away."""

    def __init__(self, folder: str, says: bytes):
        self.endpoint = f"ipc://{folder}/listener"
        self._context: "zmq.Context[Any]" = zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 8)
        self.socket.setsockopt(zmq.SUBSCRIBE, says)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.bind(self.endpoint)

    def discard(self, publisher: attnd.Publisher) -> None:
        """Takes all that was published, so that the publisher does not stall."""
        while not publisher.drain(0.02) or self.socket.poll(0):
            while self.socket.poll(0):
                self.socket.recv_multipart(copy=False)

    def close(self) -> None:
        """Ends it."""
        self._context.destroy(linger=0)


@contextlib.contextmanager
def listened(folder: str, says: bytes = b"limits/header=10") -> Iterator[Tuple[Listener, attnd.Publisher]]:
    """A listener, and a publisher that knows of it. `says`: of itself."""
    with contextlib.closing(Listener(folder, says)) as listener:
        with contextlib.closing(attnd.Publisher("bench", listener.endpoint, linger=0.0)) as publisher:
            while not publisher.stats()["subscribed"]:
                listener.socket.getsockopt(zmq.EVENTS)  # a SUB passes subscriptions on when it is asked something
                time.sleep(0.01)
            yield listener, publisher


class _Empty(torch.nn.Module):
    """Does nothing, so that its hooks are what it costs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def between(folder: str) -> Dict[str, Any]:
    """Nobody subscribed; and somebody, between two captured steps."""
    training = Training(SHAPES["tiny"]._replace(layers=1, tokens=16), "cpu", False)
    line: Dict[str, Any] = {}
    plain = torch.nn.Sequential(*[_Empty() for _ in range(2)])

    def hooks_of(name: str, publisher: attnd.Publisher) -> None:
        with attnd.watch(training.model, "bench", publisher=publisher, every=10**8, first_step=1, wait=0):
            hooks = list(training.model._forward_hooks.values())
            after = getattr(sys.modules["torch.optim.optimizer"], "_global_optimizer_post_hooks", {})
            line[f"{name}: optimizer_us"] = microseconds(lambda: [hook(training.optimizer, (), {}) for hook in after.values()], 2000)
            line[f"{name}: forward_us"] = microseconds(lambda: [hook(training.model, (), plain) for hook in hooks], 2000)

    with contextlib.closing(attnd.Publisher("bench", f"ipc://{folder}/none", linger=0.0)) as publisher:
        hooks_of("alone", publisher)
    with listened(folder) as (_, publisher):
        hooks_of("subscribed", publisher)
    return line


def arming(folder: str) -> Dict[str, Any]:
    """Of models of more and more layers, for captures that are full and for those that are not."""
    line: Dict[str, Any] = {}
    for layers in (1, 12, 48):
        root, found = Decoder(SHAPES["tiny"]._replace(layers=layers, width=16, words=16, tokens=8)), {True: [], False: []}
        with listened(folder) as (listener, publisher), attnd.watch(root, "bench", publisher=publisher, every=10**8, steps="manual", wait=0) as it:
            for _ in range(170):
                begin = time.thread_time()
                it.forwards.arm()
                took, full = time.thread_time() - begin, it.forwards.spy.is_full
                root(torch.zeros(1, 8, dtype=torch.long))
                begin = time.thread_time()
                it.forwards.disarm()
                found[full].append(1e6 * (took + time.thread_time() - begin))
                listener.discard(publisher)
        line[f"{len(list(root.modules()))} modules"] = {
            name: round(statistics.median(found[full]), 1) for name, full in (("full_us", True), ("narrow_us", False))}
    return line


def following() -> Dict[str, Any]:
    """Empty modules, and torch functions that do next to nothing, with a spy and without."""
    root = torch.nn.Sequential(*[_Empty() for _ in range(100)])
    x = torch.zeros(1)

    class Functions(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(100):
                torch.neg(x)
            return x

    line: Dict[str, Any] = {}
    for name, model in (("module", root), ("function", Functions())):
        bare = microseconds(lambda: model(x), 100)
        it = spy.Spy(model, Nobody())
        it.install()
        line[f"{name}_us"] = round((microseconds(lambda: model(x), 100) - bare) / 100, 3)
        it.remove()
        line[f"{name}_bare_us"] = round(bare / 100, 3)
    return line


def structure(folder: str) -> Dict[str, Any]:
    """Captured steps and others in turns, of fused and of explicit attention."""
    line: Dict[str, Any] = {}
    for name, attend in (("fused", Attention.attend), ("explicit", explicit)):
        training = Training(SHAPES["gpt2"]._replace(width=24, words=16, tokens=8, batch=2), "cpu", False)
        for block in training.model.blocks:
            block.attn.attend = attend
        found: List[List[float]] = [[], []]
        with listened(folder) as (listener, publisher), \
                attnd.watch(training.model, "bench", publisher=publisher, every=2, samples=1, wait=0):
            for step in range(660):
                begin = time.thread_time()
                training.step()
                found[step % 2].append(time.thread_time() - begin)
                listener.discard(publisher)
        with_, without = (times[10:] for times in found)
        line[name] = {"captured_us": round(1e6 * (statistics.median(with_) - statistics.median(without))),
                      "mean_us": round(1e6 * (statistics.mean(with_) - statistics.mean(without))),
                      "step_us": round(1e6 * statistics.median(without))}
    return line


def rows() -> Dict[str, Any]:
    """Of T = 4096, as on an accelerator whose kernels have run."""
    captures, layer, found = full_rate.Captures(32, 256, 4096), wire.NamedLayer("decoder", 0, "self", "model.layers.0.self_attn"), []
    for step in range(300):
        make = captures.take(step)
        begin = time.thread_time()
        made = make()
        frames = made.frames.copies()
        wire.pack_header(made.keys(layer))
        found.append(time.thread_time() - begin)
    return {"sender_us": round(1e6 * statistics.median(found[20:])), "bytes": sum(frame.nbytes for frame in frames)}


def captured(device: str) -> List[Dict[str, Any]]:
    """Of one sample of some sizes, in f32 and in bf16."""
    lines = []
    for heads, tokens, width in ((4, 256, 64), (12, 1024, 64), (32, 2048, 128)):
        for dtype in (torch.float32, torch.bfloat16):
            q, k = (torch.randn(2, tokens, heads, width, device=device, dtype=dtype, requires_grad=True).transpose(1, 2)
                    for _ in range(2))
            seen = calls.Queries(q, k, causal=True)

            def take() -> List[calls.Cut]:
                return [part.copy() for part in calls.parts(seen, Plan(samples=1), 0, calls.Share(), calls.Context())]

            cuts = take()
            made = microseconds(lambda: cuts[0].make(("decoder", 0, "self")), 20)
            lines.append({"q": [1, heads, tokens, width], "dtype": devices.DTYPE_NAMES[dtype], "MiB": cuts[0].nbytes / 2**20,
                          "training_us": microseconds(take, 20), "sender_us": made,
                          "copy_us": microseconds(lambda: (q[:1].detach().clone(), k[:1].detach().clone()), 20)})
    return lines


def epoch(folder: str, device: str) -> Dict[str, Any]:
    """Ends of epochs after one captured step."""
    training = Training(SHAPES["gpt2"]._replace(words=16, tokens=8, batch=1), device, False)
    found: List[List[float]] = []
    with listened(folder) as (listener, publisher), \
            attnd.watch(training.model, "bench", publisher=publisher, every=1, samples=1, wait=0) as watch:
        training.step()
        listener.discard(publisher)
        before = publisher.stats()["sent_bytes"]
        for _ in range(9):
            begin = time.thread_time(), time.perf_counter()
            watch.epoch_end()
            found.append([1e3 * (time.thread_time() - begin[0]), 1e3 * (time.perf_counter() - begin[1])])
            listener.discard(publisher)
        sent = publisher.stats()["sent_bytes"] - before
        step = microseconds(lambda: watch._guarded(watch.forwards.projections.step_ends, watch._wanted_layers, *watch._position), 2000)
    own, whole = (sorted(times) for times in zip(*found))
    return {"MiB": round(sent / len(found) / 2**20, 1), "training_ms": round(statistics.median(own), 1),
            "wall_ms": round(statistics.median(whole), 1), "step_us": step}


def sketch(folder: str, device: str) -> Dict[str, Any]:
    """After captured steps whose layers have one."""
    training = Training(SHAPES["gpt2"]._replace(words=16, tokens=8, batch=1), device, False)
    with listened(folder, b"limits/accepts=qk,weights,sketch,event;header=11") as (listener, publisher), \
            attnd.watch(training.model, "bench", publisher=publisher, every=1, samples=1, wait=0) as watch:
        training.step()
        of_step = {path: (layer, calls.Share()) for path, layer in watch.forwards.names.layers.items()}
        found: List[float] = []
        for _ in range(128):
            listener.discard(publisher)
            begin = time.thread_time()
            watch.forwards.sketches.step_ends(of_step, 0, 1)
            found.append(1e6 * (time.thread_time() - begin) / len(of_step))
    return {"layers": len(of_step), "layer_us": round(statistics.median(found), 1), "mean_us": round(statistics.mean(found), 1)}


WATCHED: Dict[str, Dict[str, Any]] = {"plain": {}, "values": {"values": True}, "gradients": {"gradients": True},
                                      "residual too": {"gradients": True, "residual": True}}


def added(folder: str, device: str, pairs: int) -> Iterator[Dict[str, Any]]:
    """Captured steps and others in turns; models with each kind of attention."""
    for kind, attend in (("fused", Attention.attend), ("explicit", explicit)):
        training = Training(SHAPES["gpt2"]._replace(tokens=256, batch=1), device, False)
        for block in training.model.blocks:
            block.attn.attend = attend
        for name, options in WATCHED.items():
            if kind == "explicit" and name in ("values", "residual too"):  # of fused attention
                continue
            found: List[List[float]] = [[], []]
            before = 0
            with listened(folder) as (listener, publisher), \
                    attnd.watch(training.model, "bench", publisher=publisher, every=2, samples=0, wait=0, **options):
                for step in range(2 * pairs + 2):
                    begin = time.thread_time(), time.process_time()
                    training.step()
                    own = time.thread_time() - begin[0]
                    publisher.drain(60)
                    found[step % 2] += [own, time.process_time() - begin[1]]
                    listener.discard(publisher)
                    before = publisher.stats()["sent_bytes"]
            ratios = [[a / b for a, b in zip(found[0][at::2][1:], found[1][at::2][1:])] for at in (0, 1)]
            yield {"attention": kind, "watched": name, "step_ms": round(1e3 * statistics.median(found[1][2::2])),
                   "training": round(statistics.median(ratios[0]), 3), "process": round(statistics.median(ratios[1]), 3),
                   "from": round(min(ratios[1]), 3), "to": round(max(ratios[1]), 3), "MiB": round(before / (pairs + 1) / 2**20, 1)}


def profile(device: str, shape: str, folder: str) -> None:
    """What attnd's functions take of captured steps, by their own time."""
    training = Training(SHAPES[shape], device, False)
    steps = 10
    with listened(folder) as (listener, publisher), \
            attnd.watch(training.model, "bench", publisher=publisher, every=1, samples=1, wait=0):
        for _ in range(2):
            training.step()
        profiler = cProfile.Profile(time.thread_time)
        for _ in range(steps):
            listener.discard(publisher)
            profiler.enable()
            training.step()
            profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = stats.total_tt
    rows = sorted(((own, cumulative, count, f"{pathlib.Path(file).name}:{name}")
                   for (file, _, name), (_, count, own, cumulative, _) in stats.stats.items() if file.startswith(OURS)), reverse=True)
    print(json.dumps({"profile": shape, "step_ms": round(1e3 * total / steps, 2), "attnd_us": round(1e6 * sum(row[0] for row in rows) / steps)}))
    for own, cumulative, count, where in rows[:25]:
        print(json.dumps({"where": where, "calls": count / steps, "own_us": round(1e6 * own / steps, 1),
                          "with_callees_us": round(1e6 * cumulative / steps, 1)}))


OURS = str(pathlib.Path(attnd.__file__).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--added", type=int, metavar="PAIRS", default=0, help="number of pairs of steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.profile:
            profile(options.device, options.shape, folder)
            return
        if options.added:
            for line in added(folder, options.device, options.added):
                print(json.dumps({"added": line}), flush=True)
            return
        parts = {"between": lambda: between(folder), "arming": lambda: arming(folder), "following": following,
                 "structure": lambda: structure(folder), "rows": rows, "sketch": lambda: sketch(folder, options.device),
                 "epoch": lambda: epoch(folder, options.device)}
        for name, part in parts.items():
            print(json.dumps({name: part()}), flush=True)
        for line in captured(options.device):
            print(json.dumps({"call": line}), flush=True)


if __name__ == "__main__":
    main()
