# SPDX-License-Identifier: MIT
"""Makes loss curves, healthy and sick ones, and judges what the rule loss_rises says of them.

    losses.py [--judge build/tests/verdict/judge_losses] [--seeds FIRST-LAST]

A curve has 60 to 8000 logged values, noise up to that of batches of one, and follows from its kind and seed. The bounds of
daemon/alerts/loss.c were chosen on seeds below 300. A table: of each kind how many were told, before the fault (of
healthy ones: at all), and after how many values. Needs numpy.
"""
import argparse
import pathlib
import subprocess
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
Curve = Any  # an array of f64


def values_of(r: Any) -> int:
    """How many are logged."""
    return int(np.exp(r.uniform(np.log(60), np.log(8000))))


def logs(r: Any, low: float, high: float) -> float:
    """Evenly spread by its logarithm."""
    return float(np.exp(r.uniform(np.log(low), np.log(high))))


def falling(r: Any, n: int) -> Tuple[Curve, float, float]:
    """A curve that falls as a power, exponentially, or from a plateau: with where it begins and ends."""
    top = float(r.choice([0.69, 2.3, 4.6, 6.9, 10.8]))
    end, t, kind, tau = top * r.uniform(0.02, 0.75), np.arange(n), r.integers(3), n * r.uniform(0.005, 0.25)
    if kind == 0:
        left = (1 + t / tau) ** -r.uniform(0.3, 1.2)
    elif kind == 1:
        left = np.exp(-t / tau)
    else:
        left = 0.15 * np.exp(-t / tau) + 0.85 / (1 + np.exp((t - n * r.uniform(0.05, 0.4)) / (n * r.uniform(0.005, 0.05))))
    return end + (top - end) * left, top, end


def correlated(r: Any, n: int, a: float) -> Curve:
    """Of variance 1, each as much as `a` like the one before."""
    x = r.normal(size=n)
    for i in range(1, n):
        x[i] = a * x[i - 1] + np.sqrt(1 - a * a) * x[i]
    return x


def fading(n: int, at: float, length: float) -> Curve:
    """1 at a value, 0 before, and less and less behind."""
    t = np.arange(n) - at
    return np.where(t >= 0, np.exp(-np.maximum(t, 0) / length), 0)


def noisy(r: Any, curve: Curve, relative: Optional[float] = None) -> Curve:
    """With the noise of minibatches, in proportion to the level: skewed, with a heavy tail, or as a running mean shows it."""
    relative, n, kind = logs(r, 0.003, 0.35) if relative is None else relative, len(curve), r.integers(4)
    makers: List[Callable[[], Curve]] = [
        lambda: r.normal(size=n), lambda: r.gamma(2, 1, size=n) / np.sqrt(2) - np.sqrt(2),
        lambda: r.standard_t(3, size=n) / np.sqrt(3), lambda: correlated(r, n, r.uniform(0.5, 0.98))]
    return curve + relative * np.abs(curve) * makers[kind]()


def plain(r: Any) -> Curve:
    return noisy(r, falling(r, values_of(r))[0])


def batches_of_one(r: Any) -> Curve:
    return np.maximum(noisy(r, falling(r, values_of(r))[0], r.uniform(0.2, 0.8)), 0)


def negative(r: Any) -> Curve:
    """It is from the start, or becomes so."""
    n = values_of(r)
    curve, top, _ = falling(r, n)
    return curve - top * r.uniform(0.5, 3) + top * logs(r, 0.005, 0.2) * r.normal(size=n)


def flat(r: Any) -> Curve:
    n = values_of(r)
    return noisy(r, r.choice([0.0, 0.69, 3.0]) + 1e-3 * r.normal() * np.arange(n) / n) + 0.1 * r.normal(size=n)


def policy_gradient(r: Any) -> Curve:
    """Around 0, as they go."""
    n, s = values_of(r), logs(r, 0.01, 1)
    return s * r.normal(size=n) * np.linspace(1, r.uniform(0.3, 2), n) + np.cumsum(r.normal(size=n)) / np.sqrt(n) * s * r.uniform(0, 1)


def grpo(r: Any) -> Curve:
    """From 0 up, with the divergence from the reference."""
    n = values_of(r)
    return 0.001 * r.normal(size=n) + r.uniform(0.001, 0.1) * (np.arange(n) / n) ** r.uniform(0.5, 2)


def critic(r: Any) -> Curve:
    """Falls at first, then grows with the returns."""
    n = values_of(r)
    t = np.arange(n) / n
    curve = np.exp(-t / 0.02) + r.uniform(0.05, 0.3) + r.uniform(0.2, 2) * t ** r.uniform(0.7, 1.5)
    return np.maximum(0, curve * (1 + r.uniform(0.1, 0.5) * r.normal(size=n)))


def gan(r: Any) -> Curve:
    """A generator's: falls a little, rises for long, and wanders."""
    n = values_of(r)
    t = np.arange(n) / n
    curve = 0.7 + r.uniform(0, 0.5) * np.exp(-t / 0.01) + r.uniform(0.3, 4) * t ** r.uniform(0.3, 1.2)
    return curve + r.uniform(0.1, 0.5) * correlated(r, n, r.uniform(0.9, 0.99)) + r.uniform(0.05, 0.3) * r.normal(size=n)


def gan_sum(r: Any) -> Curve:
    """Of both players, who take turns."""
    n = values_of(r)
    t = np.arange(n) / n
    turns = r.uniform(0.05, 0.4) * np.sin(2 * np.pi * t * r.uniform(2, 60) + r.uniform(0, 6))
    return 1.4 + r.uniform(-0.3, 0.3) * (1 - np.exp(-t / 0.05)) + turns + r.uniform(0.05, 0.3) * r.normal(size=n)


def contrastive(r: Any) -> Curve:
    """Rises while a queue fills, then falls (MoCo); or falls at once, and rises for long (BYOL, JEPA)."""
    n = values_of(r)
    t = np.arange(n) / n
    if r.integers(2):
        curve = (6 + r.uniform(1, 4) * (1 - np.exp(-t / r.uniform(0.005, 0.05))) - r.uniform(1, 3) * np.maximum(0, t - 0.05) ** 0.7
                 + 0.5 * np.exp(-t / 0.003))
    else:
        top = r.uniform(0.5, 2)
        curve = top * (np.exp(-t / r.uniform(0.003, 0.02)) + 0.1 + r.uniform(0.05, 0.4) * (1 - np.exp(-t / r.uniform(0.1, 0.6))))
    return curve * (1 + r.uniform(0.01, 0.1) * r.normal(size=n))


def distilled(r: Any) -> Curve:
    """From a teacher whose temperature warms up (DINO): falls, rises a little, falls."""
    n = values_of(r)
    t = np.arange(n) / n
    bump = r.uniform(0.2, 1.2) * np.exp(-((t - r.uniform(0.15, 0.4)) / r.uniform(0.05, 0.15)) ** 2)
    return (6.6 * np.exp(-t / r.uniform(0.02, 0.1)) + 4.4 + bump - r.uniform(0, 2) * t) * (1 + r.uniform(0.005, 0.05) * r.normal(size=n))


def summed(r: Any) -> Curve:
    """Over tokens, of which each batch has another number."""
    n = values_of(r)
    return falling(r, n)[0] * 1000 * np.exp(r.normal(0, r.uniform(0.1, 0.8), n)) * (1 + 0.05 * r.normal(size=n))


def curriculum(r: Any) -> Curve:
    """Other data from one to three steps on, which are learned, though they may stay harder."""
    n = values_of(r)
    curve, top, _ = falling(r, n)
    for at in sorted(r.uniform(0.2, 0.85, r.integers(1, 4))):
        k, stays = int(at * n), r.uniform(0, 0.35)
        jump = max(0.0, top - curve[k]) * logs(r, 0.05, 0.9)
        curve = curve + jump * (stays * (np.arange(n) >= k) + (1 - stays) * fading(n, k, n * r.uniform(0.01, 0.1)))
    return noisy(r, curve, logs(r, 0.003, 0.15))


def longer_texts(r: Any) -> Curve:
    """A little worse or better by the token from two steps on."""
    n = values_of(r)
    curve = falling(r, n)[0]
    for at in r.uniform(0.2, 0.9, 2):
        curve = curve * np.where(np.arange(n) >= at * n, r.uniform(0.85, 1.12), 1)
    return noisy(r, curve, logs(r, 0.003, 0.15))


def annealed(r: Any) -> Curve:
    """The weight of a second loss grows from 0, as in a variational autoencoder."""
    n = values_of(r)
    curve, top, end = falling(r, n)
    first, last = r.uniform(0, 0.2), r.uniform(0.2, 0.6)
    share = np.clip((np.arange(n) / n - first) / (last - first), 0, 1)
    return noisy(r, curve + (top - end) * r.uniform(0.05, 0.3) * share, logs(r, 0.003, 0.15))


def outliers(r: Any) -> Curve:
    curve = plain(r)
    for _ in range(r.integers(1, 8)):
        k = r.integers(2, len(curve))
        curve[k:k + r.integers(1, 3)] = curve[0] * np.exp(r.uniform(0, 20))
    return curve


def spikes(r: Any) -> Curve:
    """Up at once, and back within a hundredth of the run, as large models have."""
    curve = plain(r)
    n, top = len(curve), np.median(curve[:5])
    for _ in range(r.integers(1, 4)):
        k = int(r.uniform(0.2, 0.95) * n)
        curve = curve + top * r.uniform(0.1, 0.6) * fading(n, k, max(1.0, n * r.uniform(0.0005, 0.01)))
    return curve


def warm_up(r: Any) -> Curve:
    """A bump as the learning rate reaches its height."""
    n = values_of(r)
    curve, top, _ = falling(r, n)
    k = n * r.uniform(0.02, 0.1)
    bump = (top - curve[int(k)]) * r.uniform(0.05, 0.4) * np.exp(-((np.arange(n) - k) / (k * r.uniform(0.15, 0.4))) ** 2)
    return noisy(r, curve + bump, logs(r, 0.003, 0.1))


def cyclic(r: Any) -> Curve:
    """Restarts (SGDR) or triangles of the learning rate."""
    n = values_of(r)
    curve, top, _ = falling(r, n)
    t, cycles = np.arange(n) / n, r.integers(2, 12)
    phase = (t * cycles) % 1 if r.integers(2) else (np.sqrt(t) * cycles) % 1
    wave = 0.5 * (1 + np.cos(np.pi * phase)) if r.integers(2) else 1 - np.abs(2 * phase - 1)
    return noisy(r, curve + (top - curve) * r.uniform(0.02, 0.25) * wave * np.minimum(1, t * cycles), logs(r, 0.003, 0.1))


def slingshots(r: Any) -> Curve:
    """Next to nothing, with jumps that come back."""
    n = values_of(r)
    curve = 4.6 * fading(n, 0, n * 0.03) + 1e-4
    for k in np.arange(0.2, 0.98, r.uniform(0.08, 0.3)) * n:
        curve = curve + r.uniform(0.05, 1.5) * fading(n, k, max(1, n * r.uniform(0.001, 0.008)))
    return curve * np.exp(r.normal(0, 0.3, n))


def epochs(r: Any) -> Curve:
    """Down with each epoch, and a little up within it."""
    n = values_of(r)
    curve, top, end = falling(r, n)
    t = np.arange(n) / n * r.integers(3, 20)
    return noisy(r, curve * 0.9 ** np.floor(t) + 0.05 * (top - end) * (t % 1), logs(r, 0.01, 0.2))


HEALTHY: List[Callable[[Any], Curve]] = [
    plain, batches_of_one, negative, flat, policy_gradient, grpo, critic, gan, gan_sum, contrastive, distilled, summed,
    curriculum, longer_texts, annealed, outliers, spikes, warm_up, cyclic, slingshots, epochs]


def learned(r: Any) -> Tuple[Curve, int, float, float, float]:
    """A curve that has gone down by 10 times its noise, and learns no more from a step on: with that, the way down, where
    it is, and its noise."""
    while True:
        kind = r.integers(4)
        curve = negative(r) if kind == 0 else cyclic(r) if kind == 1 else noisy(r, falling(r, values_of(r))[0], logs(r, 0.003, 0.15))
        n, begin = len(curve), int(r.uniform(0.25, 0.8) * len(curve))
        newest = curve[begin - max(8, n // 16):begin]
        low = float(np.median(newest))
        way, noise = float(np.median(curve[:5])) - low, 1.48 * float(np.median(np.abs(newest - low)))
        if way >= 10 * noise:
            return np.concatenate([curve[:begin], low + noise * r.normal(size=n - begin)]), begin, way, low, noise


def diverges(r: Any) -> Tuple[Curve, int]:
    """Within some dozens of values to about the first level, with other noise."""
    curve, begin, way, _, noise = learned(r)
    t = np.arange(1, len(curve) - begin + 1)
    rise = r.uniform(0.6, 1.2) * way * (1 - np.exp(-t / r.uniform(1, 20)))
    curve[begin:] += rise + noise * r.uniform(0, 3) * r.normal(size=len(t))
    return curve, begin


def collapses(r: Any) -> Tuple[Curve, int]:
    """At once, with an overshoot."""
    curve, begin, way, _, noise = learned(r)
    t = np.arange(len(curve) - begin)
    rise = r.uniform(0.55, 1.1) * way * (1 + r.uniform(0, 1) * np.exp(-t / r.uniform(1, 30)))
    curve[begin:] += rise + noise * r.uniform(0, 2) * r.normal(size=len(t))
    return curve, begin


def grows(r: Any) -> Tuple[Curve, int]:
    """Without end."""
    curve, begin, way, _, _ = learned(r)
    t = np.arange(len(curve) - begin) / (len(curve) - begin)
    curve[begin:] += way * 0.02 * np.exp(t / r.uniform(0.02, 0.1))
    return curve, begin


def slowly(r: Any) -> Tuple[Curve, int]:
    """Over a twentieth to a fifth of the run."""
    curve, begin, way, _, _ = learned(r)
    curve[begin:] += way * r.uniform(0.6, 1.2) * np.clip(np.arange(len(curve) - begin) / (len(curve) * r.uniform(0.05, 0.2)), 0, 1)
    return curve, begin


def swings(r: Any) -> Tuple[Curve, int]:
    """High up, and widely."""
    curve, begin, way, _, _ = learned(r)
    curve[begin:] += way * r.uniform(0.8, 1.5) * np.abs(1 + r.uniform(0.2, 0.6) * r.normal(size=len(curve) - begin))
    return curve, begin


def explodes(r: Any) -> Tuple[Curve, int]:
    """From the first steps on."""
    n, top = values_of(r), float(r.choice([0.69, 2.3, 4.6, 10.8]))
    begin = int(n * r.uniform(0, 0.1)) + 20
    curve = top * (1 + r.uniform(0.003, 0.03) * r.normal(size=n))
    curve[begin:] += top * np.minimum(1e6, np.expm1(np.minimum(100, np.arange(n - begin) / (n * r.uniform(0.005, 0.05)))))
    return curve, begin


SICK: List[Callable[[Any], Tuple[Curve, int]]] = [diverges, collapses, grows, slowly, swings, explodes]


def judged(judge: str, curves: List[Curve]) -> List[Tuple[int, int, int]]:
    """Of each the value at which it was told, and between which ones it began; -1: it was not."""
    given = b"".join(np.uint64(len(curve)).tobytes() + np.asarray(curve, np.float64).tobytes() for curve in curves)
    lines = subprocess.run([judge], input=given, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    return [(int(step), int(after), int(since)) for step, after, since in (line.split() for line in lines)]


def judge_all(judge: str, seeds: range) -> List[Dict[str, Any]]:
    """A row for each kind."""
    rows = []
    for index, maker in enumerate(HEALTHY):
        told = judged(judge, [maker(np.random.default_rng([seed, index])) for seed in seeds])
        rows.append({"kind": maker.__name__, "sick": False, "curves": len(seeds), "false": sum(step >= 0 for step, _, _ in told)})
    for index, faulty in enumerate(SICK):
        made = [faulty(np.random.default_rng([seed, 100 + index])) for seed in seeds]
        told = judged(judge, [curve for curve, _ in made])
        right = [(step, after, since, begin) for (step, after, since), (_, begin) in zip(told, made) if step >= begin]
        rows.append({"kind": faulty.__name__, "sick": True, "curves": len(seeds), "told": len(right),
                     "false": sum(0 <= step < begin for (step, _, _), (_, begin) in zip(told, made)),
                     "inside": sum(after < begin <= since for _, after, since, begin in right),
                     "delays": [step - begin for step, _, _, begin in right]})
    return rows


def table(rows: List[Dict[str, Any]]) -> List[str]:
    """Markdown."""
    lines = ["| curves | number | told | falsely | onset inside its range | values until it is told, median and nine of ten |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        delays = np.quantile(row["delays"], [0.5, 0.9]) if row.get("delays") else None
        lines.append(f"| {row['kind']} | {row['curves']} | {row.get('told', '')} | {row['false']} | {row.get('inside', '')} | "
                     + ("" if delays is None else f"{delays[0]:.0f}, {delays[1]:.0f}") + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Judges synthetic loss curves by the rule loss_rises.")
    parser.add_argument("--judge", default=str(ROOT / "build/tests/verdict/judge_losses"))
    parser.add_argument("--seeds", default="4000-4059", metavar="FIRST-LAST")
    options = parser.parse_args()
    first, last = (int(x) for x in options.seeds.split("-"))
    print("\n".join(table(judge_all(options.judge, range(first, last + 1)))))


if __name__ == "__main__":
    main()
