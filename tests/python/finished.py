# SPDX-License-Identifier: MIT
"""The numbers of the sums of rows (PROTOCOL.md, type rows), in numpy and float64: what attnd makes of them, once more."""
import numpy as np

from attnd.sending.rows import PLACES

POWERS = 7


def fitted(function):
    """Coefficients of x, x^2, ... that are the function between 0 and 1, but for 3e-8 x."""
    chebyshev = np.polynomial.Chebyshev.interpolate(function, POWERS - 1, domain=[0, 1])
    return chebyshev.convert(kind=np.polynomial.Polynomial).coef


GROWN, TILTED = fitted(lambda x: np.expm1(x) / x), fitted(np.exp)


def only(values, there):
    return np.where(there & np.isfinite(values), values, np.nan)


def finish(rows, cross=False, whole=True):
    """name -> [B, H, R], and [H] of a message; NaN where there is none. Also `sound` and `invalid`, bool [B, H, R]."""
    with np.errstate(all="ignore"):
        return _finish(rows, cross, whole)


def _finish(rows, cross, whole):
    c = {name: rows.sums[n].astype(np.float64) for n, name in enumerate(rows.names) if name}
    batch, heads, _ = next(iter(c.values())).shape
    t = {name: np.broadcast_to(one[:, None], c["largest"].shape).astype(np.float64) for name, one in zip(PLACES, rows.places)}
    apart = c.get("apart", t["first"])
    aside = np.where(apart < 0, -1 - apart, apart)
    unknown = t["first"] < 0
    first_key = np.where(unknown, aside - (apart < 0), t["first"])
    with_first = np.where(unknown, apart >= 0, t["with_first"] > 0)
    with_first = c["with_first"] > 0 if "with_first" in c else with_first
    n, farthest = c.get("seen", t["seen"]), c.get("farthest", t["farthest"])
    p, keys = t["position"], rows.keys
    valid = t["valid"] > 0
    top = np.maximum(c["largest"], c["first"])
    if rows.weights is None:
        sound = valid & np.isfinite(top) & (n > 0)
        share, one = np.exp(c["largest"] - top), np.exp(c["first"] - top)
        z = share * c["total"] + one
        unit, first = share / z, one / z
        log_unit = np.log(unit)
        nats_of_first = np.where(first > 0, -first * np.log(first), 0)
        rest = unit * c["total"]
        nats = np.where(rest > 0, -(unit * c["weighted"] + rest * log_unit), 0)
        sans = np.log(c["total"]) - c["weighted"] / c["total"]
        e_of = {name: np.exp(c[name] - c["largest"]) for name in ("previous", "own", "next")}
        confidence = np.maximum(share, one) / z
    else:
        share, first = np.exp(c["largest"]), np.exp(c["first"])
        total = np.where(share > 0, share * c["total"], 0) + first
        off, most = total - 1, 2e-2 if rows.weights in ("f16", "bf16") else 1e-3
        sound = valid & (n > 0) & ~np.isnan(top) & ((off if rows.learned_sink else np.abs(off)) <= most)
        z = total if rows.learned_sink else np.ones_like(total)
        unit, first = share / z, first / z
        nats_of_first = np.where(first > 0, -first * np.log(first), 0)
        rest = unit * c["total"]
        nats = np.where(rest > 0, -(unit * c["weighted"] + rest * np.log(unit)), 0)
        sans = np.log(c["total"]) - c["weighted"] / c["total"]
        e_of = {name: np.exp(c[name] - c["largest"]) for name in ("previous", "own", "next")}
        confidence = np.exp(top) / z
    is_first = aside == first_key
    gap, at_first = np.abs(p - aside), np.where(is_first, first, 0)
    entropy = np.maximum(nats, 0) + np.maximum(nats_of_first, 0)
    distance = unit * c["distance"] + first * gap
    found = {
        "entropy": (entropy, n > 0), "entropy_normalized": (entropy / np.log(n), n >= 2), "effective_keys": (np.exp(entropy), n > 0),
        "confidence": (confidence, n > 0), "tail_mass": (1 - unit * c["top"] - first + np.minimum(unit * c["eighth"], first), n > 0),
        "local_mass": (unit * c["local"] + np.where(gap <= rows.local_window, first, 0), n > 0), "mean_distance": (distance, n > 0),
        "mean_distance_normalized": (distance / farthest, farthest > 0), "first_token": (at_first, p > first_key),
        "entropy_sans_first": (np.maximum(np.where(is_first, sans, entropy), 0) / np.log(n - with_first), (n >= 3) & ((rest > 0) | ~is_first))}
    for name, of, step in (("previous_token", "previous", -1), ("diagonal", "own", 0), ("next_token", "next", 1)):
        there = (p + step >= 0) & (p + step < t["positions"]) & (not cross)
        found[name] = unit * np.nan_to_num(e_of[of]) + np.where(p + step == aside, first, 0), there
    bits = t["occurrence"].astype(int)
    for name, of, bit in (("duplicate_token", "duplicate", 2), ("induction", "induction", 4)):
        if of in c:
            found[name] = unit * c[of] + np.where(bits & bit, first, 0), bits & 1 > 0
    shift = np.where(np.isfinite(top), top, 0)
    if rows.weights is None:
        found["max_logit"] = top, np.ones_like(sound)
        if rows.sinks is not None:
            found["sink_deficit"] = 1 / (1 + np.exp(shift + np.log(z) - rows.sinks[:, None])), np.ones_like(sound)
    elif rows.learned_sink:
        found["sink_deficit"] = 1 - total, np.ones_like(sound)
    result = {name: only(value, exists & sound & ((z > 0) | (name == "sink_deficit"))) for name, (value, exists) in found.items()}
    result["sound"], result["invalid"] = sound, valid & ~sound
    result["message"] = _of_message(rows, c, result, sound, valid, n, shift, keys, cross, whole) if rows.weights is None and "finite" in c else {}
    return result


def _sum(values, there):
    return np.where(there & np.isfinite(values), values, 0).sum((0, 2))


def _mean(values, there):
    there = there & np.isfinite(values)
    return np.where(there, values, 0).sum((0, 2)) / there.sum((0, 2))


def _moments(count, total, squares):
    mean = total / count
    return np.where(count > 0, mean, np.nan), np.where(count > 1, np.maximum((squares - total * mean) / (count - 1), 0), np.nan)


def _of_message(rows, c, result, sound, valid, n, shift, keys, cross, whole):
    """By head; the weights have the learned sinks among them."""
    sinks = np.full(sound.shape[1], -np.inf) if rows.sinks is None else rows.sinks.astype(np.float64)
    shift = np.maximum(shift, sinks[:, None])
    share, first = np.exp(c["largest"] - shift), np.exp(c["first"] - shift)
    z = first + share * c["total"] + np.exp(sinks[:, None] - shift)
    unit, first, log_z = share / z, first / z, shift + np.log(z)
    squares, weight = unit**2 * c["square"] + first**2, unit * c["total"] + first
    mean, variance = _moments(_sum(n, sound), _sum(weight, sound), _sum(squares, sound))
    least = np.where(c["finite"] < n, 0, np.exp(c["smallest"] - log_z))
    known, top = c["finite"], np.maximum(c["largest"], c["first"])
    logits = c["logits"] + known * c["shift"]
    mean_logit, logit_variance = _moments(_sum(known, sound), _sum(logits, sound), _sum(
        c["logit_squares"] + c["shift"] * (c["logits"] + logits), sound))
    length = c["query_length"]
    has_length = sound & (length > 0) & np.isfinite(length)
    cosines = _sum(c["cosine_count"], has_length)
    cosine_max = np.where(has_length & (c["cosine_count"] > 0), c["cosine_max"] / length, -np.inf).max((0, 2))
    of_keys = np.repeat(rows.key_lengths, sound.shape[1] // rows.key_lengths.shape[1], 1)
    found = {
        "mean": mean, "variance": variance, "std": np.sqrt(variance), "min": only(np.where(sound, least, np.inf).min((0, 2)), True),
        "max": only(np.where(sound, np.maximum(unit, first), -np.inf).max((0, 2)), True),
        "mean_logit": mean_logit, "std_logit": np.sqrt(logit_variance),
        "max_abs_logit": only(np.where(sound & (known > 0), np.maximum(np.abs(c["smallest"]), np.abs(top)), -np.inf).max((0, 2)), True),
        "qk_cosine": _sum(c["cosines"] / length, has_length) / cosines, "qk_cosine_max": only(cosine_max, cosines > 0),
        "q_norm": _mean(length, valid), "k_norm": _mean(of_keys.astype(np.float64), np.ones(of_keys.shape, bool))}
    if not cross:
        both = np.concatenate([result["previous_token"], result["next_token"]], 2)
        found["locality"] = _mean(both, np.ones(both.shape, bool))
    if whole and "power_7" in c:
        found["importance"] = _importance(rows, c, sound, valid & ~sound & (n > 0), unit, first, squares, weight, keys)
    return found


def _importance(rows, c, sound, broken, unit, first, squares, weight, keys):
    powers = [c["total"], c["square"], *(c[f"power_{n}"] for n in range(3, POWERS + 1))]
    grown = sum(a * unit**(n + 1) * power for n, (a, power) in enumerate(zip(GROWN, powers))) + np.expm1(first)
    tilted = sum(a * unit**(n + 1) * power for n, (a, power) in enumerate(zip(TILTED, powers))) + first * np.exp(first)
    entropy = np.log(keys) + np.log1p(grown / keys) - tilted / (keys + grown) - 1e-8 * keys
    count = sound.sum(2)
    empty = sound.shape[2] - count - broken.sum(2)
    entropy = np.where(sound, entropy, 0).sum(2) - empty * np.log(1 / keys + 1e-8)
    entries = (count + empty) * keys
    variance = (np.where(sound, squares, 0).sum(2) - np.where(sound, weight, 0).sum(2)**2 / entries) / (entries - 1)
    there = entries >= 2
    scores = np.where(there, variance + entropy, 0).sum(0) / there.sum(0) / 2
    known = np.isfinite(scores)
    e = np.where(known, np.exp(scores - np.max(scores, where=known, initial=-np.inf)), 0)
    return np.where(known, e / e.sum(), np.nan)
