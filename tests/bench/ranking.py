# SPDX-License-Identifier: MIT
"""bench ranking: does trouble rank heads that have collapsed above every head of a healthy run?

    ranking.py [--attnd build/daemon/attnd] [--set tuning|held-out] [PART...]
    ranking.py --markdown LINES.jsonl...             # the tables of RANKING.md, from lines measured before

Each pair is two trainings of the same small decoder, from the same seed and on the same batches, 150 steps with
attnd.watch and an attnd of its own, every step captured, in windows of 5 steps: one that collapses for a reason, and
its twin without the reason. Parts:

    learning-rate   the learning rate is 30 (post-LN: 100) times the twin's
    warm-up         the twin has a warm-up of 300 steps, at the same learning rate; without Adam's bias correction
    f16             eager attention in f16, whose logits overflow at 150 (300) times the twin's learning rate; see
                    ranking_runs.py
    healthy         no pairs, but 20 runs of 300 steps at two sane learning rates: which default rules fire

Each with pre-LN and post-LN, on made-up text or on copies, ten seeds. Float64 decides whether a head has collapsed, and
nothing of attnd: `entropy_normalized` of eager attention, from the model's own queries and keys, is below 0.05 in three
windows in a row. The first of them is the onset. A pair counts when some head of the one run collapses so and none of
the twin does, and steps of `f16` overflow; others are listed all the same.

A collapsed head is above the twin from the first window on from which its score exceeds every score that any head of
the twin has in any window, and goes on to until the head's entropy is 0.05 again. `lag` counts the windows from the
head's onset to that one, for the slowest of the collapsed heads; a pair holds when it is at most 10. `rank` is the
worst of a collapsed head's places among all heads of the twin, 1 = above all, 10 windows after its onset or in the last
window before that in which it is collapsed. `least_collapsed` is the smallest score of the collapsed heads there,
`most_healthy` the largest score of the twin at all, and `worst_healthy` the rule that gives it.

`reference` is the largest difference between the daemon's scores and those of ranking_trouble.py, from the same
summaries; `error` that between the entropy in the summaries and float64's, which for `f16` has the rows that overflow.

The models and seeds of the set `tuning` are the ones to look at while a constant is chosen: bounds of default rules,
and those of trouble. Those of `held-out` are for the table. One JSON line per pair, and one for all. Exit status 1: a
pair that counts does not hold, fewer than half of the pairs of a part count, a healthy run raises an alert, or the
daemon differs from the reference. Needs torch 1.13 or newer, pyzmq, msgpack; exits 0 without lines where torch is
missing.
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # which torch.set_num_threads does not know of

try:
    import torch
except ImportError:
    print("skipped: no PyTorch in this Python", file=sys.stderr)
    sys.exit(0)

from capture import Daemon, attnd
from ranking_runs import FUSED, Recipe, Shape, Training
from ranking_trouble import Judge

WINDOW, STEPS, HEALTHY_STEPS, PATIENCE_S = 5, 150, 300, 120.0
TOPICS, HIGH_WATER = ("summary/", "alert/", "job/"), 1_000_000
COLLAPSED, COLLAPSED_WINDOWS, LAG_MOST = 0.05, 3, 10
ERROR_MOST = 1e-9  # of scores, computed from the same float64 numbers
NORMS = "pre-LN", "post-LN"
SHAPES = {"tuning": Shape(3, 2, 48), "held-out": Shape(3, 4, 64)}
SEEDS = {"tuning": range(101, 104), "held-out": range(1, 11)}
SANE = 2e-3
# (collapses, does not), by part and norm.
RECIPES = {
    ("learning-rate", "pre-LN"): (Recipe(6e-2, 20), Recipe(SANE, 20)),
    ("learning-rate", "post-LN"): (Recipe(2e-1, 20), Recipe(SANE, 20)),
    ("warm-up", "pre-LN"): (Recipe(1.3e-2, 0, corrected=False), Recipe(1.3e-2, 300, corrected=False)),
    ("warm-up", "post-LN"): (Recipe(1.2e-2, 0, corrected=False), Recipe(1.2e-2, 300, corrected=False)),
    ("f16", "pre-LN"): (Recipe(0.3, 20, half=True), Recipe(SANE, 20, half=True)),
    ("f16", "post-LN"): (Recipe(0.6, 20, half=True), Recipe(SANE, 20, half=True)),
}
PARTS = (*dict.fromkeys(part for part, _ in RECIPES), "healthy")

Head = Tuple[int, int]  # layer, head


class Watched(NamedTuple):
    """A training that attnd has seen: its entropies in float64 and scores, [windows, layers, heads], the alerts, and
    the largest differences between daemon and reference, and between daemon and float64."""
    entropies: torch.Tensor
    scores: torch.Tensor
    alerts: List[Dict[str, Any]]
    losses: List[float]
    skipped: int  # steps, for an overflow
    reference: float
    error: float
    reasons: List[List[Any]]  # [windows][layers]


class Attnd:
    """A daemon with short windows and defaults else, and a subscriber to all that it says."""

    def __init__(self, program: str):
        self._daemon = Daemon(program, "window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}",
                              "window.timeout=1h", "limits.idle=24h")
        self.address = self._daemon.address
        self.control = attnd.Control(address=self.address, timeout=PATIENCE_S)
        self.results = attnd.Subscriber(address=self.address, topics=TOPICS, timeout=PATIENCE_S, high_water=HIGH_WATER)
        deadline = time.monotonic() + PATIENCE_S
        while self.control.stats()["subscriptions"] < len(TOPICS):
            if time.monotonic() > deadline:
                self.close()
                raise SystemExit("ranking: attnd took no subscription")
            time.sleep(0.01)

    def close(self) -> None:
        """Ends it."""
        self.results.close()
        self.control.close()
        self._daemon.close()


def watch(daemon: Attnd, job: str, training: Training) -> Watched:
    """Trains to the end, every step captured and none dropped."""
    rules = daemon.control.call("rules", {"job": job})
    with attnd.watch(training.model, job, address=daemon.address, every=1, samples=0, wait=PATIENCE_S) as captured:
        if not captured.stats()["subscribed"]:
            raise SystemExit("ranking: attnd did not subscribe")
        for _ in range(training.steps):
            training.step()
            captured.step()
            captured.publisher.drain(PATIENCE_S)
        stats = captured.stats()
    if stats["dropped"] or stats["skipped"]:
        raise SystemExit(f"ranking: {stats['dropped'] + stats['skipped']} messages were dropped")
    return gather(daemon.results, job, training, Judge(rules))


def gather(results: "attnd.Subscriber", job: str, training: Training, judge: Judge) -> Watched:
    """Reads until the run has ended and every window of every layer is there."""
    entropies = training.windows(WINDOW)
    windows, layers = entropies.shape[:2]
    scores = torch.full(entropies.shape, math.nan, dtype=torch.float64)
    reasons: List[List[Any]] = [[None] * layers for _ in range(windows)]
    alerts, left, ended, reference, error = [], windows * layers, False, 0.0, 0.0
    while left > 0 or not ended:
        result = results.next(PATIENCE_S)
        if result is None:
            raise SystemExit(f"ranking: {left} of {windows * layers} windows did not come")
        if result["kind"] != "summary" or result["job"] != job:
            alerts += [result] * (result["kind"] == "alert" and result["job"] == job)
            ended = ended or (result["kind"] == "job" and result["job"] == job and result["state"] == "ended")
            continue
        window, layer = result["step"] // WINDOW, result["layer"]
        again = torch.tensor(judge.window(result), dtype=torch.float64)
        trouble = result["trouble"]
        scores[window, layer] = torch.tensor(trouble["score"], dtype=torch.float64)
        reasons[window][layer] = {head["head"]: head for head in trouble["heads"]}
        reference = max(reference, (scores[window, layer] - again).abs().max().item())
        off = torch.tensor(result["heads"]["entropy_normalized"]["mean"]) - entropies[window, layer]
        error = max(error, off[off.isfinite()].abs().max().item() if off.isfinite().any() else 0.0)
        left -= 1
    return Watched(entropies, scores, alerts, training.losses, training.skipped, reference, error, reasons)


def onsets(entropies: torch.Tensor) -> Dict[Head, int]:
    """The first window of the first three in a row in which a head is below the bound."""
    below = entropies < COLLAPSED
    rows = torch.stack([below[i:len(below) - COLLAPSED_WINDOWS + 1 + i] for i in range(COLLAPSED_WINDOWS)]).all(0)
    return {(layer, head): int(rows[:, layer, head].int().argmax())
            for layer, head in rows.any(0).nonzero().tolist()}


def lag(seen: Watched, head: Head, onset: int, most: float) -> Tuple[Optional[int], int]:
    """(windows after the onset from which on its score stays above `most`, or None; the window to rank it in)."""
    end = onset
    while end < len(seen.entropies) and seen.entropies[(end, *head)] < COLLAPSED:
        end += 1
    after = end
    while after > onset and seen.scores[(after - 1, *head)] > most:
        after -= 1
    return (after - onset if after < end else None), min(onset + LAG_MOST, end - 1)


def compare(part: str, bad: Watched, good: Watched) -> Dict[str, Any]:
    """The verdict on a pair; see above."""
    collapsed = onsets(bad.entropies)
    line: Dict[str, Any] = {"collapsed": len(collapsed), "heads": bad.entropies[0].numel(),
                            "onset": min(collapsed.values(), default=None),
                            "twin_collapsed": len(onsets(good.entropies)),
                            "twin_least": round(good.entropies.min().item(), 3)}
    most = good.scores.max().item()
    lags, ranks, least = [], [], math.inf
    for head, onset in collapsed.items():
        windows, at = lag(bad, head, onset, most)
        lags.append(windows)
        ranks.append(1 + int((good.scores[min(at, len(good.scores) - 1)] >= bad.scores[(at, *head)]).sum()))
        least = min(least, bad.scores[(at, *head)].item())
    line["lag"] = None if None in lags else max(lags, default=None)
    line["rank"] = max(ranks, default=None)
    line["least_collapsed"] = round(least, 3) if collapsed else None
    line["most_healthy"], line["worst_healthy"] = round(most, 3), reason(good)
    line["twin_alerts"] = sorted({alert["rule"] for alert in good.alerts})
    line["alerts"] = sorted({alert["rule"] for alert in bad.alerts})
    line["skipped"] = bad.skipped
    above = line["lag"] is not None and line["lag"] <= LAG_MOST
    line["verdict"] = ("did not collapse" if not collapsed else "twin collapsed" if line["twin_collapsed"]
                       else "did not overflow" if part == "f16" and not bad.skipped else "holds" if above else "FAILS")
    return line


def reason(seen: Watched) -> Optional[str]:
    """The rule that gives the largest score of a run, and in which state."""
    window, layer, head = (seen.scores == seen.scores.max()).nonzero()[0].tolist()
    found = seen.reasons[window][layer].get(head)
    return f"{found['rule']} {found['state']}" if found else None


def task_of(part: str, seed: int) -> str:
    """Both tasks, in turns; copies collapse with a warm-up, too."""
    return "text" if part == "warm-up" else ("copies", "text")[seed % 2]


def place(part: str, norm: str, chosen: str, seed: int) -> Dict[str, Any]:
    """The head of a line. `tier`: what attnd gets, queries and keys of a fused kernel or the weights of a softmax."""
    return {"part": part, "norm": norm, "set": chosen, "task": task_of(part, seed), "seed": seed,
            "tier": "qk" if FUSED and part != "f16" else "attention"}


def pair(program: str, part: str, norm: str, chosen: str, seed: int) -> Dict[str, Any]:
    """One line."""
    began = time.process_time()
    with contextlib.closing(Attnd(program)) as daemon:
        seen = [watch(daemon, job, Training(SHAPES[chosen], norm, task_of(part, seed), seed, recipe, STEPS))
                for job, recipe in zip(("collapsing", "healthy"), RECIPES[part, norm])]
    return {**place(part, norm, chosen, seed), **compare(part, *seen), "reference": max(run.reference for run in seen),
            "error": max(run.error for run in seen), "seconds": round(time.process_time() - began, 1)}


def healthy(program: str, part: str, norm: str, chosen: str, seed: int) -> Dict[str, Any]:
    """One line. Half of the seeds are trained at twice the learning rate."""
    began = time.process_time()
    recipe = Recipe(SANE * (1 + seed // 2 % 2), 20)
    with contextlib.closing(Attnd(program)) as daemon:
        seen = watch(daemon, part, Training(SHAPES[chosen], norm, task_of(part, seed), seed, recipe, HEALTHY_STEPS))
    return {**place(part, norm, chosen, seed), "lr": recipe.lr,
            "loss": [round(sum(seen.losses[i:i + 10]) / 10, 2) for i in (0, HEALTHY_STEPS - 10)],
            "entropy": [round(seen.entropies[i].min().item(), 2) for i in (0, -1)],
            "alerts": sorted({alert["rule"] for alert in seen.alerts}),
            "most_healthy": round(seen.scores.max().item(), 3), "worst_healthy": reason(seen),
            "reference": seen.reference, "error": seen.error, "verdict": "FAILS" if seen.alerts else "holds",
            "seconds": round(time.process_time() - began, 1)}


def conclude(lines: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What all lines say together."""
    by_part: Dict[str, Dict[str, int]] = {}
    for line in lines:
        count = by_part.setdefault(line["part"], {})
        count[line["verdict"]] = count.get(line["verdict"], 0) + 1
    enough = all(2 * (count.get("holds", 0) + count.get("FAILS", 0)) >= sum(count.values())
                 for count in by_part.values())
    reference = max(line["reference"] for line in lines)
    good = enough and reference <= ERROR_MOST and not any("FAILS" in count for count in by_part.values())
    return {"parts": by_part, "lag": max((line["lag"] for line in lines if line.get("lag") is not None
                                          and line["verdict"] == "holds"), default=None),
            "reference": reference, "seconds": round(sum(line["seconds"] for line in lines)), "holds": good}


COLUMNS = {
    "pair": {"part": "what", "norm": "model", "task": "task", "seed": "seed", "set": "set", "onset": "onset",
             "collapsed": "collapsed", "lag": "lag", "rank": "worst rank", "least_collapsed": "least score, collapsed",
             "most_healthy": "largest score, healthy", "verdict": "verdict"},
    "healthy": {"norm": "model", "task": "task", "seed": "seed", "set": "set", "lr": "learning rate",
                "loss": "loss", "entropy": "least entropy", "alerts": "alerts", "most_healthy": "largest score",
                "worst_healthy": "of the rule", "verdict": "verdict"},
}


def markdown(lines: List[Dict[str, Any]]) -> Iterator[str]:
    """The lines of pairs and of healthy runs as a table each."""
    for kind, columns in COLUMNS.items():
        rows = [line for line in lines if "part" in line and (line["part"] == "healthy") == (kind == "healthy")]
        yield "| " + " | ".join(columns.values()) + " |"
        yield "|" + "---|" * len(columns)
        yield from ("| " + " | ".join(cell(key, line) for key in columns) + " |" for line in rows)
        if kind == "pair":
            yield ""


def cell(key: str, line: Dict[str, Any]) -> str:
    """One cell of a table."""
    value = line[key]
    if key == "collapsed":
        return f"{value} of {line['heads']}"
    if isinstance(value, list):
        return (" to " if key in ("loss", "entropy") else ", ").join(map(str, value)) or "none"
    return "" if value is None else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []], default=[])
    parser.add_argument("--attnd", default="build/daemon/attnd")
    parser.add_argument("--set", choices=list(SHAPES), default="held-out")
    parser.add_argument("--norm", choices=NORMS, action="append", help="only this one")
    parser.add_argument("--seed", type=int, action="append", help="only this one")
    parser.add_argument("--markdown", metavar="FILE", nargs="+", help="prints tables of these lines; trains nothing")
    options = parser.parse_args()
    if options.markdown:
        texts = [pathlib.Path(file).read_text(encoding="utf-8") for file in options.markdown]
        print("\n".join(markdown([json.loads(line) for text in texts for line in text.splitlines()])))
        return 0
    torch.set_num_threads(1)
    lines = []
    for part in options.parts or PARTS:
        for norm in options.norm or NORMS:
            for seed in options.seed or SEEDS[options.set]:
                measure = healthy if part == "healthy" else pair
                line = measure(options.attnd, part, norm, options.set, seed)
                print(json.dumps(line), flush=True)
                lines.append(line)
    conclusion = conclude(lines)
    print(json.dumps(conclusion), flush=True)
    return 0 if conclusion["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
