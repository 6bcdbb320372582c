# SPDX-License-Identifier: MIT
"""The messages that the kernels are tried on: shapes, dtypes, masks and distributions, crossed."""

import itertools
import zlib
from dataclasses import dataclass, field

import numpy as np

from driver import DTYPES, SHARE
from formulas import places, visible


@dataclass
class Case:
    """One message. `weights` is float64, before it is rounded to `dtype`."""

    weights: np.ndarray
    dtype: str = "f32"
    is_self: bool = True
    causal: bool = False
    window: int = 0
    q_offset: int = 0
    q_stride: int = 1
    q_len: list = None
    k_len: list = None
    mask: np.ndarray = None
    documents: np.ndarray = None
    tokens: np.ndarray = None
    dropout: bool = False
    learned_sink: bool = False
    maps: bool = True
    local_window: int = 8
    top_pairs: int = 10
    offset: int = 0
    groups: str = "cip"
    spectrum: bool = False
    cuts: list = field(default_factory=list)


SHAPES = [(1, 1, 1, 1), (2, 3, 1, 1), (1, 1, 2, 2), (1, 2, 3, 3), (2, 1, 1, 5), (1, 2, 5, 1), (1, 3, 7, 7),
          (2, 2, 8, 8), (3, 2, 17, 17), (1, 12, 33, 33), (2, 3, 6, 11), (2, 3, 11, 6), (1, 4, 65, 65),
          (4, 1, 31, 31), (1, 2, 96, 96), (1, 3, 131, 131), (1, 1, 3, 517)]
MASKS = ["full", "causal", "lengths", "causal lengths", "window", "causal window", "explicit",
         "causal lengths window explicit", "nothing", "documents", "causal documents lengths",
         "causal offset", "offset lengths window", "causal offset documents explicit", "blocks", "causal blocks window"]
# samples of rows
STRIDED = ["causal stride", "causal stride offset lengths", "stride offset window documents explicit", "stride blocks", "stride band"]


def set_mask(case, kind, rng):
    batch, _, queries, keys = case.weights.shape
    case.causal = "causal" in kind
    if "lengths" in kind:
        case.k_len = [int(n) for n in rng.integers(0, keys + 1, batch)]
        case.q_len = case.k_len if queries == keys else [int(n) for n in rng.integers(0, queries + 1, batch)]
    if "window" in kind:
        case.window = int(rng.integers(1, keys + 2))
    if "explicit" in kind:
        case.mask = (rng.random((batch, queries, keys)) < 0.6).astype(np.uint8)
        case.mask[rng.random(case.mask.shape) < 0.02] = 7  # neither 0 nor 1: excluded
        case.mask[rng.random((batch, queries)) < 0.1] = 0  # a row without keys is padding
    if "documents" in kind:
        case.documents = random_documents(batch, keys, rng)
    if "offset" in kind:
        case.q_offset = int(rng.integers(0, keys + 2))
    if "stride" in kind:
        case.q_stride = int(rng.integers(2, max(3, 2 * keys // queries)))
    if "blocks" in kind:
        case.mask = random_blocks(case, rng)
    if "band" in kind:
        p, j = places(case)
        case.mask = np.repeat((abs(p - j) < 2)[None], batch, 0).astype(np.uint8)
    if kind == "nothing":
        case.k_len = [0] * batch


def random_blocks(case, rng):
    """Texts packed into a mask, behind padding on the left."""
    (p, j), (batch, _, queries, keys) = places(case), case.weights.shape
    mask = np.empty((batch, queries, keys), np.uint8)
    for b in range(batch):
        text = np.sort(rng.integers(0, 1 + keys // 4, keys + 1))
        mask[b] = (text[np.minimum(p, keys)] == text[j]) & (j >= rng.integers(0, 1 + keys // 3))
    return mask


def random_documents(batch, keys, rng):
    """Packed one after the other, in half of the samples in any order; the numbers mean nothing."""
    names = rng.integers(-3, 1000, keys)
    place = np.sort(rng.integers(0, max(1, keys // 3), (batch, keys)))
    for b in range(batch):
        if rng.random() < 0.5:
            rng.shuffle(place[b])
    return names[place].astype("<i4")


def random_tokens(batch, keys, rng):
    vocabulary = int(rng.choice([1, 2, 5, 50, 2**31]))
    return rng.integers(-vocabulary, vocabulary, (batch, keys)).astype("<i4")


def softmax_rows(case, logits):
    """Weights over the visible keys, zero elsewhere."""
    seen = visible(case)[0][:, None]
    logits = np.where(seen, logits, -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(logits - np.where(seen.any(-1, keepdims=True), logits.max(-1, keepdims=True), 0))
        return np.where(seen, e / e.sum(-1, keepdims=True), 0.0)


def random_rows(case, rng, sharpness):
    return softmax_rows(case, rng.normal(0, sharpness, case.weights.shape))


def some_rows(case, rng, share=0.3):
    return rng.random(case.weights.shape[:3]) < share


def plain(case, rng):
    return random_rows(case, rng, 1.5)


def sharp(case, rng):
    return random_rows(case, rng, 40)


def uniform(case, rng):
    return random_rows(case, rng, 0)


def one_hot(case, rng):
    x = random_rows(case, rng, 1)
    return (x == x.max(-1, keepdims=True)) * (x > 0).astype(float)


def previous(case, rng):
    """Everything on the key before the query's; on key 0 where there is none."""
    p, j = places(case)
    keys = case.weights.shape[3]
    return np.broadcast_to(np.where(j == np.clip(p - 1, 0, keys - 1), 1.0, 0.0), case.weights.shape).copy()


def leaning(score):
    """Softmax of a score of (p, j), over the visible keys, with a little noise."""

    def fill(case, rng):
        p, j = places(case)
        return softmax_rows(case, score(p.astype(float), j.astype(float)) + rng.normal(0, 0.3, case.weights.shape))

    return fill


def induction(case, rng):
    """Half of each row on the token after the latest earlier occurrence, the rest as plain."""
    x = plain(case, rng)
    if case.tokens is None:
        return x
    p, _ = places(case)
    keys, seen = x.shape[3], visible(case)[0]
    for b, i in np.ndindex(x.shape[0], x.shape[2]):
        at = int(p[i, 0])
        before = np.nonzero(case.tokens[b, :at] == case.tokens[b, at])[0] if at < keys else []
        if len(before) and seen[b, i, before[-1] + 1]:
            x[b, :, i] *= 0.5
            x[b, :, i, before[-1] + 1] += 0.5
    return x


def tied(case, rng):
    """Few distinct weights, exact in every dtype: top_pairs is all ties."""
    return rng.integers(0, 3, case.weights.shape) * 0.25


def denormal(case, rng):
    tiny = {"f32": 2.0**-149, "f64": 2.0**-1074, "f16": 2.0**-24, "bf16": 2.0**-133}[case.dtype]
    x = one_hot(case, rng)
    return np.where(x == 0, tiny * rng.integers(0, 5, x.shape), x)


def nan_rows(case, rng):
    x = plain(case, rng)
    x[some_rows(case, rng)] = np.nan
    return x


def nan_entries(case, rng):
    x = plain(case, rng)
    x[rng.random(x.shape) < 0.01] = np.nan
    return x


def infinities(case, rng):
    x = plain(case, rng)
    x[rng.random(x.shape) < 0.01] = np.inf
    x[rng.random(x.shape) < 0.01] = -np.inf
    return x


def wrong_sums(case, rng):
    factors = np.array([1, 1.0009, 0.9991, 1.0011, 0.9989, 1.018, 0.982, 1.022, 0.978, 0.5, 2, 0])
    return plain(case, rng) * rng.choice(factors, case.weights.shape[:3])[..., None]


def negative(case, rng):
    x = plain(case, rng)
    hit = rng.random(x.shape) < 0.02
    return np.where(hit, rng.choice([-5e-7, -2e-6, -5e-4, -2e-3, -0.1], x.shape), x)


def huge(case, rng):
    top = {"f32": 1e30, "f64": 1e60, "f16": 6e4, "bf16": 1e30}[case.dtype]
    x = plain(case, rng)
    return np.where(rng.random(x.shape) < 0.01, top * rng.random(x.shape), x)


def padded_with(value):
    """The rows of padded queries, and the keys nobody may see, hold what some backends leave there."""

    def fill(case, rng):
        seen, query = visible(case)
        x = plain(case, rng)
        junk = 1 / x.shape[-1] if value == "uniform" else value
        return np.where((seen & query[..., None])[:, None], x, junk)

    return fill


def dropped(case, rng):
    case.dropout = True
    x = plain(case, rng)
    return np.where(rng.random(x.shape) < 0.1, 0, x / 0.9)


def sink(case, rng):
    case.learned_sink = True
    return plain(case, rng) * rng.choice([1, 0.7, 0.1, 1.0005, 1.3], case.weights.shape[:3])[..., None]


DISTRIBUTIONS = {
    "plain": plain, "sharp": sharp, "uniform": uniform, "one_hot": one_hot, "previous": previous,
    "tied": tied, "denormal": denormal, "nan_rows": nan_rows, "nan_entries": nan_entries,
    "infinities": infinities, "wrong_sums": wrong_sums, "negative": negative, "huge": huge,
    "padded_nan": padded_with(np.nan), "padded_zero": padded_with(0.0), "padded_inf": padded_with(np.inf),
    "padded_uniform": padded_with("uniform"), "dropout": dropped, "learned_sink": sink,
    "sink_head": leaning(lambda p, j: np.where(j == 0, 4.0, 0.0)),
    "local_head": leaning(lambda p, j: -np.abs(p - j)), "far_head": leaning(lambda p, j: np.abs(p - j) / 2),
    "diagonal_head": leaning(lambda p, j: np.where(p == j, 5.0, 0.0)), "induction": induction,
}


def build(shape, dtype, mask, distribution):
    rng = np.random.default_rng(zlib.crc32(repr((shape, dtype, mask, distribution)).encode()))
    square = shape[2] == shape[3] or "offset" in mask
    case = Case(np.zeros(shape), dtype, is_self=square and rng.random() < 0.9)
    set_mask(case, mask, rng)
    if rng.random() < 0.8:
        case.tokens = random_tokens(shape[0], shape[3], rng)
    case.weights = DISTRIBUTIONS[distribution](case, rng)
    case.local_window = int(rng.choice([0, 1, 3, 8, 10**6]))
    case.maps = rng.random() < 0.8
    case.top_pairs = int(rng.choice([1, 3, 10, 100]))
    case.offset = int(rng.integers(0, 8))
    case.groups = str(rng.choice(["cip", "cip", "cip", "c", "c", "i", "p", ""]))
    case.spectrum = rng.random() < 0.5
    cuts = rng.integers(0, shape[2] + 1, rng.integers(1, 6))
    case.cuts = sorted(int(c) for c in cuts)
    return case


def grid(shapes=SHAPES, masks=MASKS, names=tuple(DISTRIBUTIONS), strided=STRIDED):
    """Every shape with every dtype and mask, distributions in turn; then every distribution with every
    dtype and mask, shapes in turn."""
    cells = []
    for turn, (shape, dtype, mask) in enumerate(itertools.product(shapes, DTYPES, masks)):
        cells.append((shape, dtype, mask, names[turn % len(names)]))
    for turn, (name, dtype, mask) in enumerate(itertools.product(names, DTYPES, masks), len(cells)):
        cells.append((shapes[turn % len(shapes)], dtype, mask, name))
    for turn, (shape, mask) in enumerate(itertools.product(shapes, strided), len(cells)):
        cells.append((shape, DTYPES[turn % 4], mask, names[turn % len(names)]))
    cells = list(dict.fromkeys(cells))
    return cells[:: max(1, round(1 / SHARE))]


def title(cell):
    shape, dtype, mask, name = cell
    return f"{name}-{mask.replace(' ', '+')}-{dtype}-{'x'.join(map(str, shape))}"
