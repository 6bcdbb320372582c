# SPDX-License-Identifier: MIT
"""merging: the windows of histories, and the merge of several histories by brute force: the oracle of the fleet's tests.

Reads the states of windows (PROTOCOL.md, section 6) and merges them as that page says, in float64. Shares nothing with
attnd. Counts, histograms, minima and maxima must be equal, bit for bit; moments within rounding."""
import contextlib
import functools
import itertools
import math
import sqlite3
import struct
import zlib
from dataclasses import dataclass, field

import msgpack

BOUNDS, SPAN, HALVINGS_MAX, COUNT_MAX = 1280, 47, 3, 2**32 - 1
HISTS = 64  # slots below have histograms
NOTHING = math.nan


# ------------------------------------------------------------------------------------------------ numbers

@dataclass
class Numbers:
    """The numbers of one slot. `hist`: (halvings, {key: count}), None where there is none."""
    n: int
    mean: float
    m2: float
    low: float
    high: float
    last: float
    hist: tuple

    @classmethod
    def without_rows(cls, last, has_hist):
        return cls(0, 0.0, 0.0, math.inf, -math.inf, last, (0, {}) if has_hist else None)


def key_of(value):
    """The key of a value at full resolution."""
    if abs(value) < 2.0**-40:
        return 0
    u = min(max(math.ceil(math.log2(abs(value)) * 32), -BOUNDS), BOUNDS)
    u = next(near for near in (u - 1, u, u + 1) if abs(value) <= 2.0**(near / 32) or near == BOUNDS)
    return int(math.copysign(u + BOUNDS + 1, value))


def key_max(halvings):
    return -(-BOUNDS >> halvings) + (BOUNDS >> halvings) + 1


def coarser(key, times):
    """A key at full resolution, after `times` halvings."""
    if key == 0 or times == 0:
        return key
    u = abs(key) - BOUNDS - 1
    return int(math.copysign(-(-u >> times) + (BOUNDS >> times) + 1, key))


def halved(hist, halvings):
    """A histogram brought to this many halvings, from fewer."""
    before, counts = hist
    out = {}
    for key, count in counts.items():
        if key and before:  # the key of the same bucket at full resolution: its upper bound
            u = (abs(key) - 1 - (BOUNDS >> before)) << before
            key = int(math.copysign(min(u, BOUNDS) + BOUNDS + 1, key))
        at = coarser(key, halvings)
        out[at] = min(out.get(at, 0) + count, COUNT_MAX)
    return halvings, out


def added(one, two, buckets):
    """The histogram of both."""
    halvings = max(one[0], two[0])
    counts = dict(halved(one, halvings)[1])
    for key, count in halved(two, halvings)[1].items():
        counts[key] = min(counts.get(key, 0) + count, COUNT_MAX)
    hist = halvings, counts
    while len(hist[1]) > buckets and hist[0] < HALVINGS_MAX:
        hist = halved(hist, hist[0] + 1)
    return without_small(hist)


def without_small(hist):
    """At the lowest resolution what is far below the largest counts as zero."""
    halvings, counts = hist
    if halvings < HALVINGS_MAX or not counts:
        return hist
    cut, out = max(max(abs(key) for key in counts) - SPAN, 0), {}
    for key, count in counts.items():
        at = 0 if abs(key) <= cut else key
        out[at] = out.get(at, 0) + count
    return halvings, out


def merged_numbers(old, new, takes_last, buckets):
    n = old.n + new.n
    last = new.last if takes_last else old.last
    hist = added(old.hist, new.hist, buckets) if old.hist is not None and new.hist is not None else None
    if n == 0:
        return Numbers.without_rows(last, hist is not None)
    delta = new.mean - old.mean if old.n and new.n else 0.0
    mean = (old.n * old.mean + new.n * new.mean) / n
    m2 = old.m2 + new.m2 + delta * delta * old.n * new.n / n
    return Numbers(n, mean, m2, min(old.low, new.low), max(old.high, new.high), last, hist)


# ------------------------------------------------------------------------------------------------- reading

def read_hist(data):
    halvings, at, block, counts = data[0], 1, 0, {}
    while at < len(data):
        skipped, width = data[at] >> 2, (data[at] & 3) + 1
        at += 1
        if skipped >= 48:
            skipped = (skipped - 48) << 8 | data[at]
            at += 1
        used = data[at]
        at += 1
        block += skipped
        for bit in range(8):
            if used >> bit & 1:
                counts[8 * block + bit - key_max(halvings)] = int.from_bytes(data[at:at + width], "little")
                at += width
        block += 1
    return halvings, counts


def read_record(data, at, has_hist):
    """(numbers, where the next record begins)."""
    flags = data[at]
    at += 1
    same, mean32, range32, kind, size = flags & 1, flags & 2, flags & 4, flags >> 3 & 3, 1 << (flags >> 5 & 3)
    n = int.from_bytes(data[at:at + size], "little")
    at += size

    def real(is_f32):
        nonlocal at
        value, = struct.unpack_from("<f" if is_f32 else "<d", data, at)
        at += 4 if is_f32 else 8
        return value

    mean = real(mean32) if n else 0.0
    m2, low, high = (real(False), real(range32), real(range32)) if not same else (0.0, mean, mean)
    last = {0: lambda: NOTHING, 1: lambda: mean, 2: lambda: real(True), 3: lambda: real(False)}[kind]()
    hist = None
    if has_hist and not same:
        size = 2 if flags & 128 else 1
        length = int.from_bytes(data[at:at + size], "little")
        at += size
        hist = read_hist(data[at:at + length])
        at += length
    elif has_hist:
        hist = (0, {key_of(mean): n}) if n else (0, {})
    if n == 0:
        low, high = math.inf, -math.inf
    return Numbers(n, mean, m2, low, high, last, hist), at


def read_set(data, hists):
    """{slot: numbers} of a bin."""
    if not data:
        return {}
    mask, at, found = int.from_bytes(data[:16], "little"), 16, {}
    for slot in range(128):
        if mask >> slot & 1:
            found[slot], at = read_record(data, at, slot < hists)
    assert at == len(data), "bytes behind the last record"
    return found


@dataclass
class State:
    """A state, its numbers by name."""
    buckets: int
    newest: tuple
    about: dict
    rows: int
    rows_of: int
    invalid_rows: int
    row_sum_error: float
    messages: int
    ranks: frozenset
    lost: int
    source: int
    dropped: dict
    heads: list          # {name: numbers} each
    heads_newest: list   # positions, () where there is none
    heads_invalid: list
    across: dict         # {name: numbers}
    by_rank: dict        # {rank: {head: (n, mean)}} of entropy


@functools.lru_cache(maxsize=4096)  # the same histories are compared until they are right
def read_state(data):
    found = msgpack.unpackb(data, raw=False, strict_map_key=False)
    assert found["v"] == 2
    names = dict(enumerate(found["metrics"]))
    slot = HISTS
    for vector in found["vectors"]:
        names.update({slot + i: f"{vector['name']}.{i}" for i in range(vector["width"])})
        slot += vector["width"]
    newest = tuple(found["newest"] or ())
    bits = found["ranks"] or b""
    count = len(found["heads"])
    heads = [{names[slot]: numbers for slot, numbers in read_set(head, HISTS).items()} for head in found["heads"]]
    ranks = frozenset(found["rank_first"] + i for i in range(8 * len(bits)) if bits[i // 8] >> i % 8 & 1)
    maps = [f"{name}.{statistic}" for name in found["aggregates"] for statistic in ("mean", "max", "min", "std")]
    across = read_set(found["across"], HISTS)
    return State(
        buckets=found["buckets"], newest=newest,
        about={key: found[key] for key in ("time_ns", "shape", "causal", "tier", "local_window")},
        rows=found["rows"], rows_of=found.get("rows_of", found["rows"]), invalid_rows=found["invalid_rows"],
        row_sum_error=NOTHING if found["row_sum_error"] is None else found["row_sum_error"], messages=found["messages"],
        ranks=ranks, lost=found["lost"], source=found["source"], dropped=found["dropped"], heads=heads,
        heads_newest=[tuple(one or ()) for one in found["heads_newest"]] if found["heads_newest"] else [newest] * count,
        heads_invalid=found.get("heads_invalid_rows", [0] * count),
        across={(maps + ["sink_rate"])[slot]: numbers for slot, numbers in across.items()},
        by_rank=read_ranks(found.get("rank_entropy"), ranks, heads))


def read_ranks(listed, ranks, heads):
    """The entropy of each rank: as listed, or, of the only one, that of the heads."""
    if listed is None:
        if len(ranks) != 1:
            return {}
        one = {h: (numbers["entropy"].n, numbers["entropy"].mean) for h, numbers in enumerate(heads)
               if "entropy" in numbers and numbers["entropy"].n}
        return {next(iter(ranks)): one} if one else {}
    found = {}
    for rank, first, n, means in listed:
        means = struct.unpack(f"<{len(means) // 8}d", means)
        counts = [n] * len(means) if isinstance(n, int) else struct.unpack(f"<{len(means)}Q", n)
        found[rank] = {first + i: one for i, one in enumerate(zip(counts, means)) if one[0]}
    return found


# ------------------------------------------------------------------------------------------------- merging

def merged(one, two):
    """Of both; the second is the one that was added later."""
    buckets = max(one.buckets, two.buckets)
    newer = two.newest >= one.newest
    dropped = dict(one.dropped)
    for reason, count in two.dropped.items():
        dropped[reason] = dropped.get(reason, 0) + count
    errors = [error for error in (one.row_sum_error, two.row_sum_error) if not math.isnan(error)]
    heads = [merged_set(a, b, b_newest >= a_newest, buckets)
             for a, b, a_newest, b_newest in zip(one.heads, two.heads, one.heads_newest, two.heads_newest)]
    return State(
        buckets=buckets, newest=max(one.newest, two.newest), about=(two if newer else one).about, rows=one.rows + two.rows,
        rows_of=one.rows_of + two.rows_of, invalid_rows=one.invalid_rows + two.invalid_rows, row_sum_error=max(errors, default=NOTHING),
        messages=one.messages + two.messages, ranks=one.ranks | two.ranks, lost=one.lost + two.lost,
        source=one.source + two.source, dropped=dropped, heads=heads,
        heads_newest=[max(a, b) for a, b in zip(one.heads_newest, two.heads_newest)],
        heads_invalid=[a + b for a, b in zip(one.heads_invalid, two.heads_invalid)],
        across=merged_set(one.across, two.across, newer, buckets), by_rank=merged_ranks(one.by_rank, two.by_rank))


def merged_ranks(one, two):
    found = {}
    for rank in sorted({*one, *two})[:64]:
        a, b = one.get(rank, {}), two.get(rank, {})
        found[rank] = {}
        for head in {**a, **b}:
            (n, mean), (m, other) = a.get(head, (0, 0.0)), b.get(head, (0, 0.0))
            found[rank][head] = n + m, (n * mean + m * other) / (n + m)
    return found


def merged_set(one, two, newer, buckets):
    found = {}
    for name in {**one, **two}:
        has_hist = (one.get(name) or two.get(name)).hist is not None
        nothing = Numbers.without_rows(NOTHING, has_hist)
        numbers = merged_numbers(one.get(name, nothing), two.get(name, nothing), newer, buckets)
        if numbers.n or not math.isnan(numbers.last):
            found[name] = numbers
    return found


def merged_all(states):
    total, *others = states
    for state in others:
        total = merged(total, state)
    return total


@functools.lru_cache(maxsize=4096)
def not_merged(got, *states):
    """differences() of a packed state and the merge of others, which whoever waits asks for again and again."""
    return tuple(differences(read_state(got), merged_all(map(read_state, states))))


# ---------------------------------------------------------------------------------------------- comparison

def near(got, want, scale):
    if math.isnan(got) or math.isnan(want):
        return math.isnan(got) and math.isnan(want)
    return abs(got - want) <= 1e-11 * max(1e-300, scale)


def differences(got, want):
    """Sentences: where a state is not what it must be."""
    found = []
    for key in ("buckets", "newest", "rows", "rows_of", "invalid_rows", "messages", "ranks", "lost", "source", "dropped", "heads_newest",
                "heads_invalid", "about"):
        if getattr(got, key) != getattr(want, key):
            found.append(f"{key}: {getattr(got, key)} instead of {getattr(want, key)}")
    if not near(got.row_sum_error, want.row_sum_error, 1):
        found.append(f"row_sum_error: {got.row_sum_error} instead of {want.row_sum_error}")
    found += ranks_differ(got.by_rank, want.by_rank)
    if len(got.heads) != len(want.heads):
        return found + [f"{len(got.heads)} heads instead of {len(want.heads)}"]
    for place, a, b in zip(itertools.chain(range(len(want.heads)), ("across",)), [*got.heads, got.across],
                           [*want.heads, want.across]):
        if set(a) != set(b):
            found.append(f"head {place}: metrics {sorted(set(a) ^ set(b))} on one side only")
        for name in set(a) & set(b):
            found += [f"head {place}, {name}: {one}" for one in numbers_differ(a[name], b[name])]
    return found


def ranks_differ(got, want):
    if {rank: sorted(heads) for rank, heads in got.items()} != {rank: sorted(heads) for rank, heads in want.items()}:
        yield f"ranks with an entropy: {sorted(got)} instead of {sorted(want)}, or of other heads"
        return
    for rank, heads in want.items():
        for head, (n, mean) in heads.items():
            if got[rank][head][0] != n or not near(got[rank][head][1], mean, abs(mean)):
                yield f"rank {rank}, head {head}: entropy {got[rank][head]} instead of {(n, mean)}"


def numbers_differ(got, want):
    scale = max(abs(want.low), abs(want.high)) if want.n else 1
    for name in ("n", "low", "high", "hist"):
        if getattr(got, name) != getattr(want, name):
            yield f"{name} is {getattr(got, name)} instead of {getattr(want, name)}"
    if not near(got.mean, want.mean, scale):
        yield f"mean is {got.mean!r} instead of {want.mean!r}"
    if not near(got.m2, want.m2, max(abs(want.m2), want.n * scale * scale * 1e-3)):
        yield f"m2 is {got.m2!r} instead of {want.m2!r}"
    if not near(got.last, want.last, scale):
        yield f"last is {got.last!r} instead of {want.last!r}"


# ---------------------------------------------------------------------------------------------- histories

@dataclass
class Window:
    first: int
    partial: bool
    final: bool
    messages: int
    lost: int
    data: bytes = field(repr=False)  # the state, as it is kept

    @property
    def state(self):
        return read_state(self.data)


WINDOWS = """
SELECT job, run, stack, layer, site, unit, length, every, windows.last, windows.first, partial, final, messages, lost,
       states.bytes, states.data
FROM windows JOIN layers USING (layer_id) JOIN runs USING (run_id) JOIN tracks USING (track_id)
LEFT JOIN states USING (window_id)"""


def count_of(path):
    """How many windows a history has."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        return database.execute("SELECT count(*) FROM windows").fetchone()[0]


def windows_of(path, job=None):
    """{(job, run, stack, layer, site, unit, length, every, last): Window} of a history, of whatever is committed."""
    found = {}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        for row in database.execute(WINDOWS + (" WHERE job = ?" if job else ""), (job,) if job else ()):
            first, partial, final, messages, lost, size, data = row[9:]
            if data is not None and len(data) != size:
                data = zlib.decompress(data)
            found[row[:9]] = Window(first, bool(partial), bool(final), messages, lost, data)
    return found


def told(key):
    """A window's key, for people."""
    job, run, stack, layer, site, unit, length, every, last = key
    return f"{job}/{run.hex()[:6]} {'encoder decoder'.split()[stack]}.{layer}.{'self cross'.split()[site]} " \
           f"{length} {('epoch', 'step', 'second')[unit]}s every {every}, last {last}"


def union(histories):
    """{key: [windows of the histories that have it, in their order]}."""
    found = {}
    for windows in histories:
        for key, window in windows.items():
            found.setdefault(key, []).append(window)
    return found


def wrong(hub, nodes, missing=lambda key: (), job=None, replaced=None, gone=False, goes_on=False):
    """Sentences: where the history `hub` is not the merge of the histories `nodes`, a dict of name to path, in the order of
    their ids. missing(key) are the names of nodes that the hub says it lacks something of, in that window: of these any may be
    left out, and a window of which it says nothing must be whole; None: it is not known any more. `replaced`: for a name the
    histories that it had before an older one was restored: their windows are at the hub, unless it has them anew. `gone`: these
    may be gone, as the hub or the stream lost them as well. `goes_on`: a window that all nodes have open is not there yet."""
    have, theirs, now = windows_of(hub, job), {}, {name: windows_of(path, job) for name, path in nodes.items()}
    for name, path in nodes.items():
        theirs[name] = {}
        for one in (*(replaced or {}).get(name, ()), path):
            theirs[name].update({key: window for key, window in windows_of(one, job).items() if window.final or one == path})
    found, there = [f"{told(key)}: no node has it" for key in have if not any(key in one for one in theirs.values())], []
    for key in sorted(union(theirs.values())):
        with_it = {name: one[key] for name, one in theirs.items() if key in one}
        names = missing(key)
        if names is None:
            names = with_it if key in have and have[key].partial else ()
        lacking = [name for name in with_it if name in names]
        optional = lacking + [name for name in with_it if gone and name not in lacking and key not in now[name]]
        if key not in have:
            if len(optional) < len(with_it) and not (goes_on and not any(one.final for one in with_it.values())):
                found.append(f"{told(key)}: not at the hub, of nodes {sorted(with_it)}, missing {lacking}")
            continue
        window = have[key]
        if not window.final or window.data is None:
            found.append(f"{told(key)}: final {window.final}, state {window.data is not None}")
            continue
        there.append((key, window, with_it, lacking, optional))
    if found:  # no need to merge
        return found
    for key, window, with_it, lacking, optional in there:
        best, without = None, ()
        for left_out in subsets(optional):
            states = [one.data for name, one in with_it.items() if name not in left_out]
            if states:
                differ = not_merged(window.data, *states)
                if best is None or len(differ) < len(best):
                    best, without = differ, left_out
        if not window.partial and any(name in lacking for name in without):
            found.append(f"{told(key)}: nodes {without} are missing, and it is not partial")
        found += [f"{told(key)}: {one}" for one in best or ()]
    return found


def subsets(names):
    return itertools.chain.from_iterable(itertools.combinations(names, count) for count in range(len(names) + 1))


def same_bytes(one, two):
    """Sentences: where two histories have not the same windows, state by state, byte by byte."""
    one, two = windows_of(one), windows_of(two)
    return [f"{told(key)}: on one side only" for key in sorted(set(one) ^ set(two))] + [
        f"{told(key)}: other bytes" for key in sorted(set(one) & set(two)) if one[key].data != two[key].data]


def same_numbers(hub, alone):
    """Sentences: where a history is not that of one attnd that got all messages."""
    one, two = windows_of(hub), windows_of(alone)
    found = [f"{told(key)}: on one side only" for key in sorted(set(one) ^ set(two))]
    for key in sorted(set(one) & set(two)):
        found += [f"{told(key)}: {text}" for text in differences(one[key].state, two[key].state)]
        found += [f"{told(key)}: partial" for _ in range(one[key].partial != two[key].partial)]
    return found
