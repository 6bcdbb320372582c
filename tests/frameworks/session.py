# SPDX-License-Identifier: MIT
"""session: a real attnd, a watched model that trains, and what the summaries say about it."""
from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict
from typing import AbstractSet, Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from expected import Attended, Layer, Tolerance, differences

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
sys.path[:0] = [os.path.join(ROOT, *folder) for folder in (("clients", "python"), ("tests", "e2e"), ("tests", "python"))]
import attnd  # noqa: E402
import attnd.capture.origins  # noqa: E402
from attnd.base.plan import Folds, Plan  # noqa: E402
from device_grid import reference_stands_in  # noqa: E402
from harness import PATIENCE_S, Attnd, Reader, wait_until  # noqa: E402
from zoo import Batch, Kind  # noqa: E402

attnd.Publisher.__init__.__kwdefaults__["linger"] = PATIENCE_S  # what is sent last is waited for on a busy machine too

# A window per step, shown once however long the next step takes to compile; no spectra, which other tests are about.
SETTINGS = ("window.unit=step", "window.timeout=1h", "metrics.spectrum=false", "history.enabled=false",
            "alerts.enabled=false")

torch.set_num_threads(1)  # the models are small; threads would only wait for each other

State = Dict[str, torch.Tensor]
Summaries = Dict[Tuple[int, Layer], Dict[str, Any]]

report: List[Tuple[str, int, float]] = []  # what was compared: name, summaries, largest relative error


def of_attention(take: Callable[[Any], Any]) -> Callable[[Any], None]:
    """For on_publish: takes messages but for the values of weights that a captured step sends."""
    def told(message: Any) -> None:
        if message.kind != "sketch":
            take(message)

    return told


class Session:
    """A job of its own on a daemon that several tests share. A context manager: what is watched within is over at its
    end, and then summaries() has what came of it."""

    all: List["Session"] = []

    def __init__(self, daemon: Attnd):
        Session.all.append(self)
        self.daemon = daemon
        self.job = f"job-{len(Session.all)}"
        self.reader = Reader(daemon, f"summary/{self.job}/", f"job/{self.job}/")
        self.watches: List[attnd.Watch] = []

    @property
    def endpoint(self) -> str:
        """Where the daemon takes messages."""
        return self.daemon.endpoint("ingest")

    def watch(self, model: torch.nn.Module, **options: Any) -> attnd.Watch:
        """Everything of every step, unless told otherwise."""
        watch = attnd.watch(model, job=self.job, endpoint=self.endpoint,
                            **{"every": 1, "samples": 0, "wait": PATIENCE_S, **options})
        self.watches.append(watch)
        assert watch.publisher.wait_for_subscriber(PATIENCE_S)
        return watch

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends all watches."""
        for watch in self.watches:
            watch.close()

    def summaries(self) -> Summaries:
        """{(step, layer): summary} of all that was published, after the end of all watches."""
        for watch in self.watches:
            watch.close()
            stats = watch.stats()
            assert stats["dropped"] == 0 and stats["published"] == stats["sent"] + stats["skipped"], stats
        runs = {watch.publisher.run for watch in self.watches if watch.stats()["sent"]}
        return self.finished(runs) if runs else {}

    def finished(self, runs: AbstractSet[str] = frozenset()) -> Summaries:
        """The summaries of these runs of the job, when they have ended; without any, of one that other processes publish."""
        left = set(runs) or wait_until(self._ended, f"the end of {self.job}")
        found: Summaries = {}
        while left:
            result = self.reader.next()[1]
            if result["kind"] == "job":  # the last that is published of a run says that it ended
                left -= {result["run"]} if result["state"] == "ended" else set()
            elif not result["snapshot"]:  # the daemon may say again what is known
                key = result["window"]["first"], (result["stack"], result["layer"], result["site"])
                assert key not in found, f"{key} came twice"
                found[key] = result
        self.reader.close()
        return found

    def _ended(self) -> Set[str]:
        return {job["run"] for job in self.daemon.call("jobs") if job["job"] == self.job and job["state"] == "ended"}


TIERS = ("raw", "rows", *(("accelerator",) if hasattr(torch.cpu, "Stream") else ()))


def tier_options(tier: str, patch: Any) -> Dict[str, str]:
    """Arguments of watch() for one of TIERS. `accelerator`: tier rows by the code for one, which runs on the CPU as well,
    the reference in the kernel's place; what that leaves to tier raw travels as such."""
    if tier == "accelerator":
        patch.setattr(attnd.capture.origins, "computes", lambda device: True)
        reference_stands_in(patch)
        return {}
    return {"tier": tier}


def tiers_of(kind: Kind, tier: str) -> Tuple[str, ...]:
    """As what the attention of a kind may travel then."""
    return ("rows",) if tier != "raw" else kind.tiers


def snapshot(model: torch.nn.Module) -> State:
    """The state as it is now, by the names of the model itself."""
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train(model: torch.nn.Module, kind: Kind, steps: int,
          microbatches: int = 1) -> Iterator[Tuple[int, List[Batch], State]]:
    """Trains by Adam and yields (step, its batches, the state they met) after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        state, batches = snapshot(model), [kind.batch(step * microbatches + m) for m in range(microbatches)]
        for batch in batches:
            kind.loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step, batches, state


def assert_right(name: str, summaries: Summaries, expected: Dict[Tuple[int, Layer], Sequence[Attended]],
                 tiers: Sequence[str] = ("qk", "attention"), tolerance: Tolerance = Tolerance()) -> None:
    """Exactly these windows and layers, each of these messages, every metric of every head right."""
    assert sorted(summaries) == sorted(expected), f"{name}: {sorted(set(summaries) ^ set(expected))}"
    wrong, worst = defaultdict(list), 0.0
    for key, messages in expected.items():
        summary = summaries[key]
        assert summary["tier"] in tiers, (key, summary["tier"])
        count = len(messages) + ("weights" in summary)  # one more, of the layer's matrices
        assert (summary["messages"], summary["invalid_rows"]) == (count, 0), (key, summary["messages"])
        assert tuple(summary["shape"]) == messages[-1].weights.shape
        found, error = differences(summary, messages, tolerance)
        worst = max(worst, error)
        wrong[key] += found
    report.append((name, len(expected), worst))
    said = [f"{key}: {text}" for key, texts in wrong.items() for text in texts]
    assert not said, f"{len(said)} of {name} wrong, worst {worst:.3g}:\n" + "\n".join(said[:20])


def assert_captured(daemon: Attnd, kind: Kind, model: Optional[torch.nn.Module] = None, name: str = "", steps: int = 2,
                    microbatches: int = 1, wrap: Callable[[torch.nn.Module], Any] = lambda model: model,
                    tiers: Sequence[str] = (), tolerance: Tolerance = Tolerance(), **options: Any) -> attnd.Watch:
    """Watches a model, and trains what `wrap` then makes of it: all that was captured is right. Returns the watch."""
    model = kind.build() if model is None else model
    with Session(daemon) as session:
        watch = session.watch(model, **options)
        trained = list(train(wrap(model), kind, steps, microbatches))
    expected = expected_of(kind, trained[::options.get("every", 1)], options.get("samples", 0), watch.publisher.run)
    assert_right(name or kind.name, session.summaries(), expected, tiers or kind.tiers, tolerance)
    return watch


def said(caplog: Any) -> List[str]:
    """The warnings of attnd."""
    return [record.getMessage() for record in caplog.records
            if record.name.startswith("attnd") and record.levelno >= logging.WARNING]


def tokens_of(batch: Batch, layer: Layer, shape: Sequence[int]) -> Any:
    """The token numbers that travel with an attention, as they are told by the names of the arguments; None: none. What
    a model with an encoder makes of its targets by itself nobody sees."""
    names = ("source", "input_ids") if layer[0] == "encoder" else ("tokens", "input_ids")
    found = next((batch[name] for name in names if name in batch), None)
    fits = layer[2] == "self" and found is not None and tuple(found.shape) == (shape[0], shape[3])
    return found.numpy() if fits else None


def expected_of(kind: Kind, trained: Sequence[Tuple[int, List[Batch], State]],
                samples: int = 0, run: str = "") -> Dict[Tuple[int, Layer], List[Attended]]:
    """What the summaries of these steps must say, of so many samples of the `run`."""
    expected: Dict[Tuple[int, Layer], List[Attended]] = {}
    for step, batches, state in trained:
        for number, batch in enumerate(batches):
            for layer, attended in kind.reference(state, batch).items():
                attended.tokens = tokens_of(batch, layer, attended.weights.shape)
                expected.setdefault((step, layer), []).append(
                    attended.of(Plan(samples=samples).take((run, step, number), len(attended.weights), Folds(), 0).rows))
    return expected
