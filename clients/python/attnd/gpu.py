# SPDX-License-Identifier: MIT
"""gpu: `python -m attnd gpu` tries on the accelerator of this machine what attnd does there: whether the kernels compile
and are exact, what a captured layer costs beside the model's own attention, and whether a training is the same to the last
bit with attnd. No attnd needs to run. With TRITON_INTERPRET=1 and `--device cpu` it tries the kernels without an
accelerator, in Triton's interpreter; without that PyTorch's lines.

Nearly all of its time is Triton's, which compiles two kernels for each mask, dtype and width: processes do that side by side,
and try what they have compiled. The cost of a layer is measured when they are done.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import functools
import logging
import math
import multiprocessing
import os
import pathlib
import re
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torch.utils.checkpoint as checkpoints
import zmq
from torch.utils._python_dispatch import TorchDispatchMode

from . import device as on_device, watch
from .capture import origins
from .capture.accelerator import Accelerator, OfQueries, random_rows
from .capture.cost import Cost
from .device import launch
from .doctor import NOTE, OK, WRONG, Finding, Findings, line, verdict
from .sending.publisher import Publisher
from .sending.sender import NotYet

COMPILES_S = 180.0
PROCESSES_MAX = 16
TOKENS, TRAINED_TOKENS, STEPS = 150, 96, 10
TOKENS_ON_CPU, TRAINED_TOKENS_ON_CPU, STEPS_ON_CPU = 50, 24, 3  # where an interpreter takes its time
_NUMBERS = ("entropy", "confidence", "local_mass", "mean_distance", "first_token", "max_logit", "previous_token")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Prints the findings. Exit status: 0 all is well, 1 something is wrong, 2 the arguments are."""
    parser = argparse.ArgumentParser("python -m attnd gpu", description="Tries on an accelerator what attnd does there. Exit "
                                     "status 1: something is wrong; paste the table into an issue then.")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=kind, help="of torch; default here: %(default)s")
    for name, default, text in (("tokens", 8192, "T of the layer whose cost is measured"), ("heads", 32, "its heads"),
                                ("key-heads", 8, "its heads of keys"), ("width", 128, "of a head")):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; default: %(default)s")
    options = parser.parse_args(arguments)
    for name, most in (("tokens", 1 << 20), ("heads", 1 << 10), ("key_heads", options.heads), ("width", 256)):
        if not 1 <= getattr(options, name) <= most:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: must be from 1 to {most}")
    if options.heads % options.key_heads:
        parser.error(f"--key-heads {options.key_heads}: must divide --heads {options.heads}")
    try:
        device = torch.empty(1, device=options.device).device
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {options.device}: {error}")
    findings: List[Finding] = []
    for finding in _findings(device, options):
        findings.append(finding)
        print(line(finding, max(map(len, MODES))), flush=True)
    print(f"\n{verdict(findings)}", flush=True)
    return int(any(finding.state == WRONG for finding in findings))


def _findings(device: torch.device, options: argparse.Namespace) -> Findings:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    yield Finding("device", OK, f"{name}, driver {_driver()}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, "
                                f"Triton {launch.version() or 'none'}")
    if not hasattr(F, "scaled_dot_product_attention"):
        yield Finding("torch", WRONG, "it has no scaled_dot_product_attention", "install torch 2 or later")
        return
    why = launch.unable(device, torch.float32, 1)
    with _as_accelerator(device), _Beside(device) as beside:
        trainings = [(mode, beside.begin(_training, device, mode)) for mode in reversed(MODES)][::-1]  # the longest first
        layers = beside.begin(_ready, device, options)
        exact = [(f"exact {_short(dtype)}", _exact(device, "triton" if why is None else "reference", dtype, beside))
                 for dtype in (torch.float32, torch.float16, torch.bfloat16)]
        yield _compiled(device, why)
        for subject, result in (*exact, *trainings):
            yield _safe(subject, result)
        _safe("cost", layers)
    if device.type != "cuda":
        yield Finding("cost", NOTE, "measured on CUDA only")
        return
    try:
        yield from _costs(device, options)
    except Exception as error:
        yield _failed("cost", error)


def _driver() -> str:
    """The version of Nvidia's driver, by Linux."""
    with contextlib.suppress(OSError):
        found = re.search(r"\d+\.\d[\d.]*", pathlib.Path("/proc/driver/nvidia/version").read_text())
        return found.group() if found else "unknown"
    return "none"


class _Beside:
    """Runs functions in processes of their own, on a GPU: as many at once as there are cores. Where there can be none, here."""

    def __init__(self, device: torch.device):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = concurrent.futures.ProcessPoolExecutor(
            min(cores, PROCESSES_MAX), multiprocessing.get_context("spawn"), _begin_process, (device,)) if device.type == "cuda" else None

    def begin(self, function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        """Begins one; the function that is returned waits for its result."""
        begun = None
        with contextlib.suppress(concurrent.futures.BrokenExecutor):
            begun = None if self._pool is None else self._pool.submit(function, *given)

        def result() -> Any:
            with contextlib.suppress(concurrent.futures.BrokenExecutor):
                if begun is not None:
                    return begun.result()
            return function(*given)

        return result

    def __enter__(self) -> "_Beside":
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _begin_process(device: torch.device) -> None:
    """Raises where no other process may use the device."""
    torch.set_num_threads(1)
    torch.empty(1, device=device)


def _safe(subject: str, result: Callable[[], Finding]) -> Finding:
    try:
        return result()
    except Exception as error:
        return _failed(subject, error)


def _failed(subject: str, error: Exception) -> Finding:
    return Finding(subject, WRONG, f"it fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _compiled(device: torch.device, why: Optional[str]) -> Finding:
    """How long the kernels of this device took to compile; `why` there are none."""
    if why is not None:
        return Finding("kernels", NOTE if device.type == "cpu" else WRONG, f"PyTorch takes their place: {why}",
                       "install triton 3.3 or later" if device.type != "cpu" else "")
    q = torch.randn(1, 2, 64, 64, device=device)
    given = OfQueries(q, q, 0, 1, q.dtype, 0.125, 0.0, True, 0, None, None, 0, False, whole=True)
    begin = time.monotonic()
    try:
        _wait(Accelerator("gpu", Cost()), given)
        _wait(Accelerator("gpu", Cost()), given._replace(rows=random_rows(64, 16, device), whole=False))
    except Exception as error:
        return Finding("kernels", WRONG, f"they do not run: {error}")
    return Finding("kernels", OK, f"there after {time.monotonic() - begin:.1f} s")


def _wait(one: Accelerator, given: OfQueries) -> None:
    """Until what this needs is compiled, and has agreed with the plain way."""
    until = time.monotonic() + COMPILES_S
    while True:
        try:
            if one.launch(given, 0)() is None:
                raise RuntimeError("wrong numbers: see the log above")
            return
        except NotYet:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------ exactness

def _cases(t: int) -> Iterator[Tuple[str, Dict[str, Any], int]]:
    """Name, words of row_statistics, and width of a head; of 2 samples, 4 heads on 2, t queries and keys."""
    yield "full", {}, 64
    for width in (64, 80, 96, 128, 192, 256):
        yield f"causal, width {width}", {"causal": True}, width
    yield "window", {"causal": True, "window": 20}, 64
    yield "softcap", {"causal": True, "softcap": 5.0}, 64
    yield "documents", {"causal": True, "documents": torch.arange(t).expand(2, -1) // 17}, 64
    yield "lengths", {"k_len": [t, t - 19], "q_len": [t, t - 19]}, 64
    yield "mask", {"bias": (torch.arange(t) % 7 != 3).view(1, 1, 1, t)}, 64
    yield "bias", {"causal": True, "bias": torch.linspace(-3, 3, t * t).view(1, 1, t, t)}, 64
    yield "every third row", {"causal": True, "q_offset": 1, "q_stride": 3}, 64
    yield "large logits", {"causal": True, "scale": 20.0}, 64


# The cases that f32 and f16 are tried on, as the kernels have the same lines for all; bf16 is on all cases, but on a CPU.
_MAIN = ("full", "causal, width 80", "causal, width 256", "documents", "bias")


def _exact(device: torch.device, backend: str, dtype: torch.dtype, beside: _Beside) -> Callable[[], Finding]:
    """The numbers of every row against the formula in float64."""
    begun = [beside.begin(_off, device, backend, dtype, name) for name, _, _ in _cases(TOKENS)
             if name in _MAIN or (dtype == torch.bfloat16 and device.type != "cpu")]

    def finding() -> Finding:
        found = [result() for result in begun]
        off, where = max(found)
        state, text = (OK if off <= 1 else WRONG), f"{off:.2g} of what rounding explains, at most ({where})"
        if off == math.inf:
            text = f"{where} is there in other rows than it should be"
        return Finding(f"exact {_short(dtype)}", state, f"{len(found)} shapes and masks by {backend}; {text}")

    return finding


def _off(device: torch.device, backend: str, dtype: torch.dtype, case: str) -> Tuple[float, str]:
    """How far the numbers of a case are off at most, relative to what rounding explains, and which."""
    t = TOKENS_ON_CPU if device.type == "cpu" else TOKENS
    words, width = next((words, width) for name, words, width in _cases(t) if name == case)
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, heads, t, width, generator=generator).to(dtype) for heads in (4, 2))
    if "q_stride" in words:
        q = q[:, :, 1::3]
    expected = _plain(q.double(), k.double(), **words)
    given: Dict[str, Any] = {word: one.to(device) if isinstance(one, torch.Tensor) else one for word, one in words.items()}
    found = on_device.row_statistics(q.to(device), k.to(device), backend=backend, **given)
    scale, worst = words.get("scale", width**-0.5), (0.0, "")
    off = 2.0**-21 * abs(scale) * float(q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max())  # of a logit
    for number in _NUMBERS:
        here, there = found[number].double().cpu(), expected[number]
        allowed = (1e-5 + 2 * off * (1 + math.log(t))) * there.abs().clamp(min=1)
        is_there = torch.equal(torch.isnan(here), torch.isnan(there))
        worst = max(worst, (float(((here - there).abs() / allowed).nan_to_num().max()) if is_there else math.inf, f"{case}, {number}"))
    return worst


def _plain(q: torch.Tensor, k: torch.Tensor, causal: bool = False, window: int = 0, softcap: float = 0.0, scale: float = 0.0,
           documents: Optional[torch.Tensor] = None, bias: Optional[torch.Tensor] = None, q_offset: int = 0, q_stride: int = 1,
           k_len: Sequence[int] = (), q_len: Sequence[int] = ()) -> Dict[str, torch.Tensor]:
    """KERNELS.md, line by line, in float64: [B, H, Tq]."""
    s = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(2, 3) * (scale or q.shape[3]**-0.5)
    s = softcap * torch.tanh(s / softcap) if softcap else s
    i, j = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    p = (q_offset + i * q_stride)[:, None]
    seen = torch.ones(q.shape[0], 1, len(i), len(j), dtype=torch.bool)
    seen = seen & (j <= p) if causal else seen
    seen = seen & (j > p - window) if window else seen
    first = torch.zeros(q.shape[0], 1, len(i), 1, dtype=torch.long)
    if documents is not None:
        same = documents[:, None, p[:, 0], None] == documents[:, None, None]
        seen, first = seen & same, same.long().argmax(-1, keepdim=True)
    if bias is not None:
        seen, s = (seen & bias, s) if bias.dtype == torch.bool else (seen, s + bias)
    if k_len:
        seen = seen & (j < torch.tensor(k_len).view(-1, 1, 1, 1)) & (i[:, None] < torch.tensor(q_len).view(-1, 1, 1, 1))
    s = s.masked_fill(~seen, -math.inf)
    there = seen.any(-1).expand(s.shape[:-1])
    a = torch.where(there[..., None], torch.softmax(s, -1), torch.full_like(s, math.nan))
    distance = (p - j).abs()
    before, at_first = (a.gather(-1, one.expand(*a.shape[:-1], 1))[..., 0] for one in ((p - 1).clamp(min=0), first))
    nan = torch.full_like(before, math.nan)
    return {"entropy": -torch.xlogy(a, a).sum(-1), "confidence": a.amax(-1), "local_mass": (a * (distance <= 8)).sum(-1),
            "mean_distance": (a * distance).sum(-1), "first_token": torch.where(p[:, 0] > first[..., 0], at_first, nan),
            "max_logit": torch.where(there, s.amax(-1), nan), "previous_token": torch.where(p[:, 0] >= 1, before, nan)}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).rpartition(".")[2]


# ----------------------------------------------------------------------------------------------------------- cost

class _Launches(TorchDispatchMode):
    """How many operations a device is given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.name().startswith("aten::empty"))
        return func(*args, **(kwargs or {}))


def _layers(q: torch.Tensor, k: torch.Tensor) -> Iterator[Tuple[str, OfQueries]]:
    """Some rows of a layer, as most captures take, and all."""
    (_, heads, t, width), few = q.shape, min(q.shape[2], origins.ROWS_ON_DEVICE)
    for name, rows in ((f"{few} rows", random_rows(t, few, q.device)), ("all rows", None)):
        yield name, OfQueries(q, k, 0, heads // k.shape[1], q.dtype, width**-0.5, 0.0, True, 0, None, None, 0, False, rows,
                              whole=rows is None)


def _ready(device: torch.device, options: argparse.Namespace) -> Finding:
    """Compiles what _costs() takes, for the cache that Triton has on disk."""
    if device.type == "cuda":
        q, k = (torch.randn(1, n, options.tokens, options.width, device=device, dtype=torch.bfloat16)
                for n in (options.heads, options.key_heads))
        for _, some in _layers(q, k):
            _wait(Accelerator("gpu", Cost()), some)
    return Finding("cost", OK, "compiled")


def _costs(device: torch.device, options: argparse.Namespace) -> Findings:
    """A layer in bf16, beside the forward of the model's own attention: device and thread time, launches, memory."""
    t, heads, key_heads, width = options.tokens, options.heads, options.key_heads, options.width
    q, k = (torch.randn(1, n, t, width, device=device, dtype=torch.bfloat16) for n in (heads, key_heads))
    own = _clocked(lambda: F.scaled_dot_product_attention(q, k.repeat_interleave(heads // key_heads, 1), q, is_causal=True))
    shape = f"1 x {heads} on {key_heads} x {t} x {width}"
    yield Finding("cost", OK, f"causal, bf16, {shape}: the attention itself takes {1e3 * own:.2f} ms")
    for name, some in _layers(q, k):
        one = Accelerator("gpu", Cost())
        _wait(one, some)
        one._captures = 1 << 20  # the check of the first ones apart
        took = _clocked(functools.partial(one.launch, some, 0))
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        with _Launches():  # what is imported for it is no cost
            one.launch(some, 0)()
        with _Launches() as launches:
            begin = time.perf_counter()
            wait = one.launch(some, 0)
            thread = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated(device) - before
        wait()
        held = torch.cuda.memory_allocated(device) - before
        slowed = _slowed(functools.partial(one.launch, some, 0), device)  # cuBLAS keeps some memory for its stream
        torch.cuda.set_sync_debug_mode("error")
        try:
            one.launch(some, 0)
            waits = ""
        except RuntimeError as error:
            waits = f"; the training's thread waits: {error}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        yield Finding(name, WRONG if held or waits else OK,
                      f"{1e3 * took:.2f} ms ({took / own:.2f} of that), {launches.count + 4} launches in {1e3 * thread:.2f} ms of the "
                      f"thread, {peak / 2**20:.1f} MiB at most, {held} bytes after it; products of matrices on another stream take "
                      f"{1e3 * slowed:.2f} ms longer beside it{waits}")


def _clocked(call: Callable[[], Any]) -> float:
    """Seconds of the device, the median of nine. If `call` returns a function, that is called afterwards."""
    event: Any = torch.cuda.Event
    found: List[float] = []
    for _ in range(10):
        began, ended = event(enable_timing=True), event(enable_timing=True)
        began.record()
        then = call()
        ended.record()
        ended.synchronize()
        if callable(then):
            then()
        found.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(found[1:])


def _slowed(call: Callable[[], Callable[[], Any]], device: torch.device) -> float:
    """How many seconds longer some products of matrices take on another stream when a capture is launched beside them."""
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)

    def products(meanwhile: Callable[[], Callable[[], Any]]) -> float:
        torch.cuda.synchronize(device)
        event: Any = torch.cuda.Event
        began, ended = event(enable_timing=True), event(enable_timing=True)
        with torch.cuda.stream(stream):
            began.record()
            for _ in range(50):
                matrix @ matrix
            ended.record()
        then = meanwhile()
        ended.synchronize()
        then()
        return float(began.elapsed_time(ended)) / 1e3

    return statistics.median(products(call) - products(lambda: lambda: None) for _ in range(5))


# ------------------------------------------------------------------------------------------------------- training

class _Layer(torch.nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.norm, self.up, self.down = torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        made: torch.Tensor = x + self.down(F.gelu(self.up(x)))
        return made


class _Model(torch.nn.Module):
    """Two layers; `mode` says how they are run."""

    def __init__(self, mode: str, width: int = 64, heads: int = 4):
        super().__init__()
        self.mode, self.blocks = mode, torch.nn.ModuleList([_Layer(width, heads) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.mode == "full checkpointing":
                x = checkpoints.checkpoint(block, x, use_reentrant=False)
            elif self.mode == "selective checkpointing":
                x = checkpoints.checkpoint(block, x, use_reentrant=False, context_fn=_selective)
            else:
                x = block(x)
        return x


def _selective() -> Any:
    """Each second product of matrices is kept, as torchtitan's "op" policy has it."""
    seen = [0]

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
        seen[0] += op == torch.ops.aten.mm.default
        keeps = op == torch.ops.aten.mm.default and seen[0] % 2
        return checkpoints.CheckpointPolicy.MUST_SAVE if keeps else checkpoints.CheckpointPolicy.PREFER_RECOMPUTE

    create: Any = checkpoints.create_selective_checkpoint_contexts
    return create(policy)


SHARDED, GRAPH, COMPILED = "FSDP2", "CUDA graph", "compiled"
MODES = ("eager", "autocast", "full checkpointing", "selective checkpointing", SHARDED, GRAPH, COMPILED)


class _Listener:
    """Subscribes as an attnd that takes rows of every step, and counts them."""
    skipped = 0  # captures of the training that were not made, as kernels were being compiled

    def __init__(self, endpoint: str):
        self._socket: Any = zmq.Context.instance().socket(zmq.SUB)
        for topic in (b"tensor/", b"event/", b"limits/accepts=rows,event;header=10", b"plan/999999/*/every=1;samples=0;tier=rows"):
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._socket.bind(endpoint)

    def serve(self) -> None:
        """Lets ZeroMQ tell what is subscribed to, which it does when it is asked for something."""
        self._socket.getsockopt(zmq.EVENTS)

    def captures(self) -> int:
        """How many have come, until it has been quiet for a moment."""
        count = 0
        while self._socket.poll(500):
            count += self._socket.recv_multipart()[0].startswith(b"tensor/")
        return count

    def close(self) -> None:
        self._socket.close(0)


def _trained(device: torch.device, mode: str, listener: Optional[_Listener] = None, endpoint: str = "") -> List[torch.Tensor]:
    """Losses, gradients and weights of a few steps."""
    torch.manual_seed(1)
    model = _Model(mode).to(device)
    if mode == COMPILED:
        torch._dynamo.reset()  # what was compiled before watch() shows nothing
        for block in model.blocks:
            block.compile()
    if mode == SHARDED:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    lowered = torch.autocast(device.type, torch.bfloat16) if mode == "autocast" else contextlib.nullcontext()
    found: List[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if mode == GRAPH:
            stack.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))  # type: ignore[no-untyped-call]
        if listener is not None:
            publisher = stack.enter_context(Publisher("gpu", endpoint))
            stack.enter_context(watch(model, "gpu", publisher=publisher, every=1, samples=0, wait=0))
            until = time.monotonic() + 30
            while not publisher.stats()["subscribed"] and time.monotonic() < until:
                listener.serve()
                time.sleep(0.01)
        steps, tokens = (STEPS_ON_CPU, TRAINED_TOKENS_ON_CPU) if device.type == "cpu" else (STEPS, TRAINED_TOKENS)
        for step in range(steps):
            if mode == GRAPH and step == steps - 1:
                torch.cuda._sleep(1 << 29)  # type: ignore[no-untyped-call]
            x = torch.randn(2, tokens, 64, device=device)
            with lowered:
                loss = model(x).float().square().mean()
            loss.backward()
            found += [loss.detach(), *(one.grad for one in model.parameters() if one.grad is not None)]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        del loss  # what autograd keeps of it belongs to this stream
        if mode == GRAPH:
            found += _replayed(model, optimizer, x)
        if listener is not None:
            publisher.drain(30)
            listener.skipped = publisher.stats()["skipped"]
    return [(one.to_local() if mode == SHARDED and hasattr(one, "to_local") else one).clone()
            for one in (*found, *(one.detach() for one in model.parameters()))]


def _replayed(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> List[torch.Tensor]:
    """Captures a step as a CUDA graph, without waiting for the steps before it, of which captures are on their way; losses of
    its replays."""
    graph, found = torch.cuda.CUDAGraph(), []
    with torch.cuda.stream(torch.cuda.Stream(x.device)):  # type: ignore[no-untyped-call]
        graph.capture_begin()
        try:
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
        finally:
            graph.capture_end()
    for _ in range(STEPS):
        x.copy_(torch.randn_like(x))
        graph.replay()
        found.append(loss.detach().clone())
    torch.cuda.synchronize(x.device)
    return found


def _training(device: torch.device, mode: str) -> Finding:
    if mode == "selective checkpointing" and not hasattr(checkpoints, "create_selective_checkpoint_contexts"):
        return Finding(mode, NOTE, "this torch has none")
    if mode in (GRAPH, COMPILED) and device.type != "cuda":
        return Finding(mode, NOTE, "tried on CUDA only")
    return _sharded(device) if mode == SHARDED else _compared(device, mode)


def _sharded(device: torch.device) -> Finding:
    """The training of two ranks, each with a card of its own."""
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError:
        return Finding(SHARDED, NOTE, "this torch has none")
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return Finding(SHARDED, NOTE, "it takes two cards")
    with tempfile.TemporaryDirectory() as directory, \
            concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        ranks = [pool.submit(_rank, rank, device.type, f"{directory}/meet") for rank in range(2)]
        first = concurrent.futures.wait(ranks, return_when=concurrent.futures.FIRST_EXCEPTION).done  # others may wait for it
        try:
            return max((one.result() for one in (*first, *ranks)), key=lambda finding: finding.state == WRONG)
        except concurrent.futures.BrokenExecutor as error:
            raise RuntimeError("a rank has ended") from error


def _rank(rank: int, kind: str, meet: str) -> Finding:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", init_method=f"file://{meet}", rank=rank, world_size=2,
                            timeout=datetime.timedelta(seconds=COMPILES_S + 60))
    try:
        with _as_accelerator(device):
            return _compared(device, SHARDED)
    finally:
        dist.destroy_process_group()


def _compared(device: torch.device, mode: str) -> Finding:
    """A training without and with attnd."""
    are_same = _are_close if mode == COMPILED else _are_same
    plain = _trained(device, mode)
    if mode != COMPILED and not _least(device, are_same(plain, _trained(device, mode))):
        return Finding(mode, NOTE, "this training is not the same twice, without attnd either")
    captures, until = 0, time.monotonic() + COMPILES_S
    while captures == 0:
        with tempfile.TemporaryDirectory() as directory:
            endpoint = f"ipc://{directory}/ingest"
            listener = _Listener(endpoint)
            try:
                watched, captures = _trained(device, mode, listener, endpoint), _least(device, listener.captures())
            finally:
                listener.close()
        if not _least(device, are_same(plain, watched)):
            return Finding(mode, WRONG, "losses, gradients or weights differ with attnd")
        if captures == 0 and _least(device, listener.skipped == 0 or time.monotonic() > until):
            return Finding(mode, WRONG, "nothing was captured", "see the log above")
    same = "agree to rounding" if mode == COMPILED else "have the same bits"
    return Finding(mode, OK, f"losses, gradients and weights {same} with attnd, of which {captures} captures came")


def _least(device: torch.device, number: int) -> int:
    """The least of the ranks of a training, which go on together."""
    if not dist.is_available() or not dist.is_initialized():
        return number
    found = torch.tensor(int(number), device=device)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def _are_close(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(one, other, 1e-3, 1e-4) for one, other in zip(a, b))


def _are_same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(one, other) for one, other in zip(a, b))


@contextlib.contextmanager
def _as_accelerator(device: torch.device) -> Iterator[None]:
    """The processor stands in for one, as far as this torch has streams of it."""
    module: Any = origins
    was = module.computes
    if device.type == "cpu" and hasattr(torch.cpu, "Stream"):
        module.computes = lambda one: True
    logging.basicConfig(level=logging.WARNING)
    try:
        yield
    finally:
        module.computes = was
