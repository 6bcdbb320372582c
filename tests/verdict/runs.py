# SPDX-License-Identifier: MIT
"""Trains models under attnd, some with a planted fault, and judges what attnd says of them.

    runs.py [--attnd build/daemon/attnd] [--seeds FIRST-LAST] [--kinds KIND,...] [--models NAME,...] [--steps N]

Each run has an architecture (models.py), a fault or none (faults.py), a learning rate and a seed, which decide all of
it. Windows are 16 captures, and each step is captured. The verdict is what fires five windows after the fault began, or
at any time of a healthy run: warnings and worse, the worst first, by severity and then by the order of the default
rules. A run is right when the first one is the check of the fault, at its layer and head; its onset is right when the
window in which the alert began is at most two after the one in which the fault did; its delay is the time from the
fault to that alert, in windows. One JSON line per run, and a table.
Exit status 1: something is green or false, or a share is below LEAST. Needs torch 1.13 or newer, pyzmq and msgpack.
"""
import argparse
import json
import math
import os
import pathlib
import random
import statistics
import sys
import warnings
from typing import Any, Dict, List, Optional

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "clients/python"), str(ROOT / "tests/e2e"), str(pathlib.Path(__file__).parent)]

import torch  # noqa: E402

import attnd  # noqa: E402
from faults import KINDS, Fault, moved, plant  # noqa: E402
from models import ARCHITECTURES, Model  # noqa: E402

WINDOW, WARMUP, EPOCH, STEPS, PATIENCE_S = 16, 40, 20, 400, 120.0
# Matrices are sent at the end of epochs; in a run without epochs at step 100, and then each 1000 steps.
RATES = (2e-3, 3e-3, 4e-3)
IN_FORCE = 5  # windows after which nothing may be green
SETTINGS = ("window.unit=auto", "window.timeout=1h", "limits.idle=24h")
SEVERITIES = ("critical", "warning", "info")
LEAST = {"right": 0.95, "onset": 0.9}  # shares of the sick runs
# The wide one takes minutes, and healthy heads of pure induction may be called saturated (README.md).
SMALL = [name for name in ARCHITECTURES if name not in ("wide", "induction")]


class Missed(Exception):
    """A run of which attnd has not got everything says nothing of its verdicts."""


def train(daemon: Any, job: str, architecture: str, kind: str, steps: int, seed: int,
          logs: bool = False) -> Optional[Dict[str, Any]]:
    """One run, which `logs` its loss: its fault, its last loss, and the alerts in their order. None: the model has no place
    for this fault, or does not feel it. Raises Missed when a step was not captured, as happens to an attnd that gets no
    processor."""
    torch.manual_seed(seed)
    shape, task = ARCHITECTURES[architecture]
    model = Model(shape, task, seed)
    fault = None if kind == "healthy" else plant(kind, model, steps, seed)
    if fault is None and kind != "healthy":
        return None
    rate = random.Random(seed).choice(RATES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    seen, losses = 0, []  # messages; of each step
    with attnd.watch(model, job, address=daemon.directory, every=1, samples=4, wait=PATIENCE_S, linger=PATIENCE_S) as watch:
        for step in range(steps):
            if fault is not None and step == fault.begin and KINDS[kind].learned:
                fault = moved(fault, model, step, seed)
                if fault is None:
                    return None
            if fault is not None and step >= fault.begin:
                with torch.no_grad():
                    KINDS[kind].before(model, optimizer, fault, step - fault.begin)
            loss = model(step)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if logs:
                watch.log(loss=losses[-1])
            if step < WARMUP:
                schedule.step()
            taken = watch.stats()["published"]
            if taken < seen + len(model.attentions()):
                raise Missed(f"{job}: step {step} was not captured whole")
            seen = taken
            if step % EPOCH == EPOCH - 1:
                watch.epoch_end()
    stats = watch.stats()
    if stats["dropped"] or stats["skipped"]:
        raise Missed(f"{job}: messages were dropped: {stats}")
    if fault is not None and KINDS[kind].hurts and not feels(losses, fault.begin):
        print(f"set aside: {job}: the loss did not rise", file=sys.stderr, flush=True)
        return None
    place = model.attentions()[fault.place][:3] if fault is not None and fault.place >= 0 else None
    return {"job": job, "kind": kind, "rate": rate, "fault": fault, "place": place, "loss": losses[-1],
            "alerts": daemon.alerts(job)}


def feels(losses: List[float], begin: int) -> bool:
    """Whether a training feels what began: its loss is higher in the IN_FORCE windows after it than in the one before. A
    model that has learned all gets gradients too small for a higher learning rate to harm it."""
    after = losses[begin:begin + IN_FORCE * WINDOW]
    return statistics.mean(after) > statistics.mean(losses[begin - WINDOW:begin])


class Daemon:
    """attnd with its default windows, here of WINDOW steps, and what it says of a job."""

    def __init__(self, attnd: Any = None) -> None:
        from harness import Attnd, wait_until
        self._attnd, self._wait_until = attnd or Attnd(*SETTINGS), wait_until
        self.directory = self._attnd.directory

    def alerts(self, job: str) -> List[Dict[str, Any]]:
        """All that began to fire, in this order, each with its place among the rules. The history has it a moment after the
        run has ended: what fires then is known at once."""
        rules = [rule["name"] for rule in self._attnd.call("rules", job=job)]

        def written() -> Any:
            ended = self._attnd.call("runs", job=job)["runs"][0]["state"] == "ended"  # first: until then more may fire
            answer = self._attnd.call("alerts", job=job, limit=1000)
            at_end = [one for one in answer["alerts"] or () if one["state"] == "firing_at_end"]
            return ended and answer["alerts"] is not None and len(at_end) == len(answer["firing"]) and answer
        told: List[Dict[str, Any]] = self._wait_until(written, "the end in the history", PATIENCE_S)["alerts"]
        return [dict(alert, order=(SEVERITIES.index(alert["severity"]), rules.index(alert["rule"]), alert["step"]))
                for alert in reversed(told) if alert["state"] == "firing" and alert["severity"] != "info"]

    def close(self) -> None:
        """Ends it."""
        self._attnd.close()


def is_of(alert: Dict[str, Any], fault: Fault, place: Any) -> bool:
    """Whether the alert is the check of the fault at its place."""
    if alert["rule"] != fault.check or fault.place < 0:
        return bool(alert["rule"] == fault.check)
    where = (alert["stack"], alert["layer"], alert["site"]) == tuple(place)
    return where and (fault.head < 0 or alert["head"] in fault.heads)


def judge(run: Dict[str, Any]) -> Dict[str, Any]:
    """The line of a run."""
    fault, told = run["fault"], sorted(run["alerts"], key=lambda alert: alert["order"])
    line = {"job": run["job"], "kind": run["kind"], "rate": run["rate"], "loss": run["loss"]}
    names = [(alert["rule"], alert["layer"], alert["head"], alert["step"]) for alert in told]
    if fault is None:
        return dict(line, false=len(told), told=names)
    from_start = KINDS[run["kind"]].from_start  # seen once the rest of the model has learned
    until = math.inf if from_start else fault.begin + IN_FORCE * WINDOW
    then = [alert for alert in told if fault.begin <= alert["step"] <= until]
    own = [alert for alert in told if is_of(alert, fault, run["place"])]
    return dict(line, fault=fault._asdict(), place=run["place"], told=names, green=not then,
                false=sum(alert["step"] < fault.begin for alert in told), right=bool(then) and is_of(then[0], fault, run["place"]),
                onset=None if from_start else bool(own) and abs(own[0]["since"][1] // WINDOW - fault.begin // WINDOW) <= 2,
                delay=(own[0]["step"] - fault.begin) / WINDOW if own else None)


def table(lines: List[Dict[str, Any]]) -> List[str]:
    """Markdown: a row for each kind, and one for all that are sick."""
    rows = ["| fault | runs | right and first | onset within two windows | delay in windows, median | green | false |",
            "|---|---|---|---|---|---|---|"]
    for kind in [*dict.fromkeys(line["kind"] for line in lines), "all faults"]:
        some = [line for line in lines if line["kind"] == kind or (kind == "all faults" and line["kind"] in KINDS)]
        false = sum(line["false"] > 0 for line in some)
        if kind == "healthy":
            rows.append(f"| healthy | {len(some)} | | | | | {false} |")
        elif some:
            delays = [line["delay"] for line in some if line["delay"] is not None]
            onsets = [line["onset"] for line in some if line["onset"] is not None]
            rows.append(f"| {kind} | {len(some)} | {sum(line['right'] for line in some)} | {sum(onsets)} of {len(onsets)} | "
                        f"{statistics.median(delays) if delays else math.nan:.1f} | {sum(line['green'] for line in some)} | {false} |")
    return rows


def train_again(daemon: Any, job: str, *which: Any) -> Optional[Dict[str, Any]]:
    """train(), until attnd has got everything; at most three times."""
    for attempt in range(3):
        try:
            return train(daemon, job if attempt == 0 else f"{job}.{attempt}", *which)
        except Missed as error:
            print(f"once more: {error}", file=sys.stderr, flush=True)
    raise SystemExit(f"{job}: the machine is too busy")


def run_all(seeds: range, kinds: List[str], names: List[str], steps: int) -> List[Dict[str, Any]]:
    """A line for each kind and seed, the architectures in turns; a fault that one has no place for takes the next."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    daemon, lines = Daemon(), []
    try:
        for seed in seeds:
            for index, kind in enumerate(kinds):
                for turn in range(len(names)):
                    architecture = names[(seed + index + turn) % len(names)]
                    run = train_again(daemon, f"{kind}.{architecture}.{seed}", architecture, kind, steps, seed)
                    if run is not None:
                        lines.append(judge(run))
                        print(json.dumps(lines[-1]), flush=True)
                        break
    finally:
        daemon.close()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Plants faults in trainings and judges what attnd says of them.")
    parser.add_argument("--attnd", default=str(ROOT / "build/daemon/attnd"))
    parser.add_argument("--seeds", default="101-120", metavar="FIRST-LAST")
    parser.add_argument("--kinds", default=",".join(["healthy", *KINDS]))
    parser.add_argument("--models", default=",".join(SMALL))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    os.environ["ATTND_BIN"] = options.attnd
    first, last = (int(x) for x in options.seeds.split("-"))
    lines = run_all(range(first, last + 1), options.kinds.split(","), options.models.split(","), options.steps)
    print("\n".join(table(lines)))
    sick = [line for line in lines if line["kind"] != "healthy"]
    bad = any(line["false"] for line in lines) or any(line["green"] for line in sick)
    known = {key: [line[key] for line in sick if line[key] is not None] for key in LEAST}
    sys.exit(bad or any(sum(known[key]) < least * len(known[key]) for key, least in LEAST.items()))


if __name__ == "__main__":
    main()
