# SPDX-License-Identifier: MIT
"""oracle: what the windows of a run must say, by brute force: every row of every message is kept, and a window's
numbers are computed from all rows that belong to it at once, in float64 with numpy.

Nothing is shared with the daemon; the values of a row are those of the kernel tests' formulas.
"""
import math
import os
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from harness import DTYPE_NAME, as_bf16, as_f64, softmax_maps

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "kernels"))
import formulas  # noqa: E402
from formulas import TossUp  # noqa: E402,F401

LOCAL_WINDOW = 8
SENT_DTYPES = (np.float32, np.float64, np.float16, as_bf16)


@dataclass(frozen=True)
class Tolerance:
    """How far values may be off before any window, relative to what is above 1: what the kernels promise."""
    sums: float
    nats: float
    std: float

    def of(self, metric):
        return self.nats if metric in formulas.NATS else self.sums


TOLERANCES = {"scalar": Tolerance(1e-11, 1e-11, 1e-9), "auto": Tolerance(1e-5, 1e-4, 1e-3)}


# ---------------------------------------------------------------------------------------------- messages

@dataclass
class Sent:
    """One message and everything that counts about it."""
    layer: int
    rank: int
    epoch: int
    step: int
    number: int       # how many were sent before it, over all ranks
    lost: int         # messages missing just before it
    withheld: int     # messages the source says it has dropped since
    over_restart: bool  # some of these, and attnd was started again since the one before
    rows: dict = field(repr=False)     # row metric -> per head the values of sound rows
    values: dict = field(repr=False)   # message metric -> [H]
    sound: int = 0
    unsound: int = 0
    row_sum_error: float = math.nan


def spoil(weights, rng):
    """Some rows become what no softmax returns, or what it returns at its worst."""
    spoiled = [lambda row: np.full_like(row, np.nan), lambda row: row * 1.5, np.zeros_like, lambda row: -row,
               lambda row: np.eye(len(row))[rng.integers(len(row))], lambda row: np.full_like(row, 1 / len(row)),
               lambda row: np.where(np.arange(len(row)) == 0, np.inf, row)]
    for place in np.ndindex(weights.shape[:3]):
        if rng.random() < 0.1:
            weights[place] = spoiled[rng.integers(len(spoiled))](weights[place])
    return weights


def random_message(rng, heads):
    """(weights as sent, header keys) of a random shape, dtype, mask and distribution."""
    batch, queries, keys = (int(n) for n in rng.integers(1, (3, 8, 9)))
    causal = bool(rng.random() < 0.4)
    weights = softmax_maps(rng, batch, heads, queries, keys, causal, np.float64)
    if rng.random() < 0.5:
        weights = spoil(weights, rng)
    keywords = {"causal": causal}
    if rng.random() < 0.4:
        keywords["k_len"] = [int(n) for n in rng.integers(0, keys + 1, batch)]
        keywords["q_len"] = [int(n) for n in rng.integers(0, queries + 1, batch)]
        weights = renormalised(weights, keywords["k_len"])
    to_dtype = SENT_DTYPES[rng.integers(len(SENT_DTYPES))]
    with np.errstate(invalid="ignore"):
        sent = to_dtype(weights) if to_dtype is as_bf16 else weights.astype(to_dtype)
    return sent, keywords


def renormalised(weights, k_len):
    """What a softmax over the first k_len keys would have given; padding holds anything."""
    for sample, length in enumerate(k_len):
        with np.errstate(invalid="ignore", divide="ignore"):
            total = weights[sample, ..., :length].sum(-1, keepdims=True)
            weights[sample, ..., :length] /= np.where(total > 0.5, total, 1)
    return weights


def measure(sent, keywords):
    """(rows, values, sound, unsound, row_sum_error) of a message; formulas.TossUp when rounding decides."""
    a = as_f64(sent)
    case = SimpleNamespace(weights=a, dtype=DTYPE_NAME[str(sent.dtype)], is_self=True, window=0, q_offset=0,
                           q_stride=1, mask=None, documents=None, tokens=None, dropout=False, learned_sink=False,
                           **{"q_len": None, "k_len": None, **keywords})
    sound, counted, error = formulas.judge(case, a)
    rows = {name: [finite(value[:, h][sound[:, h] & np.broadcast_to(exists, sound.shape)[:, h]])
                   for h in range(a.shape[1])]
            for name, (value, exists) in formulas.row_values(case, a, LOCAL_WINDOW).items()}
    return rows, formulas.head_values(case, a, sound), int(sound.sum()), int((counted & ~sound).sum()), float(error)


def finite(x):
    return x[np.isfinite(x)]


# --------------------------------------------------------------------------------------------- windows

@dataclass(frozen=True)
class Track:
    """One kind of window."""
    unit: str  # epoch or step; of seconds only totals can be told
    length: int
    every: int

    @property
    def part(self):
        return math.gcd(self.length, self.every)

    @property
    def text(self):
        return f"{self.length} {self.unit}s every {self.every}"

    def unit_of(self, message):
        return message.epoch if self.unit == "epoch" else message.step

    def boundary(self, unit):
        """The last unit of the part at which the window that comes after this unit is due."""
        return unit - unit % self.every + self.every - 1

    def last_units(self, messages):
        """Where windows end, of all layers."""
        return sorted({self.boundary(self.unit_of(m)) for m in messages})

    def members(self, messages, last):
        return [m for m in messages if last - self.length < self.unit_of(m) <= last]

    def is_partial(self, run, last):
        """Of a window of a run that has ended: it reaches back before the first message, or some rank did not see
        all of it."""
        first_part = min(map(self.unit_of, run)) // self.part * self.part
        ends = {}
        for m in run:
            ends[m.rank] = max(ends.get(m.rank, 0), self.unit_of(m))
        complete = min(ends.values())  # in epochs the last one is ended explicitly; a last step is seen whole
        return last - self.length + 1 < first_part or complete < last or any(
            m.over_restart and last - self.length + 1 < (self.unit_of(m) // self.part + 1) * self.part and
            not self.is_closed(run, m, last) for m in run)

    def is_closed(self, run, message, last):
        """Whether all ranks had gone past this window before this message came."""
        if self.unit == "epoch":
            return last < message.epoch
        reached = {m.rank: -1 for m in run}
        for m in run:
            if m.number < message.number:
                reached[m.rank] = max(reached[m.rank], m.step)
        return min(reached.values()) > last


def pool(messages):
    """Everything a summary says about the rows of these messages of one layer, in order of sending."""
    heads = len(messages[0].values["mean"])
    rows = {name: [np.concatenate([m.rows[name][h] for m in messages]) for h in range(heads)]
            for name in formulas.ROW_METRICS}
    values = {name: [finite(np.array([m.values[name][h] for m in messages])) for h in range(heads)]
              for name in messages[0].values}
    errors = finite(np.array([m.row_sum_error for m in messages]))
    return SimpleNamespace(rows=rows, values=values, heads=heads, messages=len(messages), ranks=len({m.rank for m in messages}),
                           lost=sum(m.lost for m in messages), withheld=sum(m.withheld for m in messages),
                           sound=sum(m.sound for m in messages), unsound=sum(m.unsound for m in messages),
                           row_sum_error=errors.max() if len(errors) else None,
                           newest=[[m for m in messages if m.rank == rank][-1] for rank in {m.rank for m in messages}])


# ------------------------------------------------------------------------------------------ comparison

def close(got, want, tolerance, what):
    """nil is for what does not exist."""
    if want is None or math.isnan(want):
        assert got is None, f"{what}: {got} instead of nothing"
    else:
        assert got is not None and abs(got - want) <= tolerance * max(1, abs(want)), f"{what}: {got} instead of {want}"


def check_summary(summary, truth, tolerance, what):
    """Every number of a summary that the oracle knows."""
    assert summary["messages"] == truth.messages, what
    assert (summary["ranks"], summary["lost"]) == (truth.ranks, truth.lost), what
    assert summary["dropped"] == ({"source": truth.withheld} if truth.withheld else {}), what
    assert (summary["rows"], summary["invalid_rows"]) == (truth.sound, truth.unsound), what
    close(summary["row_sum_error"], truth.row_sum_error, tolerance.sums, f"{what} row_sum_error")
    for table in truth.rows, truth.values:
        for name, per_head in table.items():
            for head, values in enumerate(per_head):
                found = {statistic: numbers[head] for statistic, numbers in summary["heads"].get(name, {}).items()}
                within = tolerance.std if name == "std" else tolerance.of(name)
                check_statistics(found, values, within, tolerance.std, f"{what} {name} of head {head}")
                check_quantiles(found, values, within, summary["quantile_error"], f"{what} {name} of head {head}")
                check_last(found, truth, within, name, head, f"{what} {name} of head {head} last")


def check_statistics(found, values, within, std_within, what):
    """count is exact, and everything else but for the rounding of the values themselves."""
    assert found.get("count", 0) == len(values), what
    if len(values) == 0:
        assert all(found.get(statistic) is None for statistic in ("mean", "min", "max", "std", "p10", "p50", "p90", "p99")), what
        return
    scale = max(1, np.abs(values).max())
    close(found["mean"], values.mean(), within * scale, f"{what} mean")
    close(found["min"], values.min(), within, f"{what} min")
    close(found["max"], values.max(), within, f"{what} max")
    close(found["std"], values.std(ddof=1) if len(values) > 1 else None, std_within * scale, f"{what} std")


def check_quantiles(found, values, within, quantile_error, what):
    """The value at rank ceil(share * count), up to the stated relative error; at the lowest resolution what is below
    2^-11.5 of the largest is one."""
    ordered = np.sort(values)
    small = 2.0**-11.5 * np.abs(values).max(initial=0) if quantile_error > 0.09 else 2.0**-40
    for name, share in ("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99):
        if len(ordered):
            want = ordered[max(1, math.ceil(share * len(ordered))) - 1]
            slack = within * max(1, abs(want)) + max(quantile_error * (1 + 1e-9) * abs(want), small)
            assert abs(found[name] - want) <= slack, f"{what} {name}: {found[name]}, {want} within {quantile_error}"


def check_last(found, truth, within, name, head, what):
    """Of ranks that send at the same time any may be the newest."""
    if name in truth.rows:
        wants = [m.rows[name][head].mean() if len(m.rows[name][head]) else math.nan for m in truth.newest]
    else:
        wants = [m.values[name][head] for m in truth.newest]
    got = found.get("last")
    assert any(math.isnan(want) if got is None else abs(got - want) <= within * max(1, abs(want)) for want in wants), (
        f"{what}: {got}, none of {wants}")
