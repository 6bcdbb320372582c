# SPDX-License-Identifier: MIT
"""The problems that attnd.device is tried on, and their row metrics in float64 numpy: the formulas of
tests/kernels/formulas.py, which are those of workers/KERNELS.md, over logits made here.

Tolerances are KERNELS.md's for tier qk: a logit from an f32 product is off by up to delta = 2^-21 lambda, lambda =
scale max |q| |k|; a weight by the factor e^delta, an entropy by at most 2 delta (H + 1)."""
import pathlib
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "kernels"))
import formulas  # noqa: E402
from attnd.base.hidden import hidden_at
from attnd.capture import accelerator  # noqa: E402
from attnd.device import launch, pooled, reference, visible  # noqa: E402
from attnd.device.arrived import of_reference  # noqa: E402
from attnd.device.problem import Problem, norms  # noqa: E402
from attnd.device.sums import COLUMNS, EMPTY, FEW_COLUMNS, POWERS  # noqa: E402
from attnd.device.visible import valid_rows  # noqa: E402
from finished import finish  # noqa: E402

NO_TOKENS = [name for name in formulas.ROW_METRICS if name not in ("induction", "duplicate_token")]
DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}
# B, H, Hk, Tq, Tk, d
SHAPES = [(1, 1, 1, 1, 1, 16), (2, 4, 2, 33, 33, 32), (1, 2, 1, 5, 70, 64), (1, 2, 2, 67, 67, 128), (1, 1, 1, 40, 40, 256),
          (2, 3, 3, 17, 17, 80), (1, 2, 1, 66, 200, 24), (1, 2, 1, 150, 700, 16), (1, 1, 1, 66, 200, 192)]
MASKS = ["full", "causal", "causal offset", "window", "causal window offset", "lengths", "causal lengths", "documents",
         "causal documents lengths", "documents offset", "documents hidden", "blocks", "blocks lengths window", "bias", "causal hidden", "hidden bool lengths", "softcap",
         "sinks causal", "cross lengths",
         "sinks softcap bias causal window offset lengths"]
VALUES = ["plain", "one_hot", "uniform", "offset_200", "sink", "infinities", "narrow_200"]


def problems(mask, values, dtypes=tuple(DTYPES)):
    """(shape, dtype): shapes in turn, so that each mask and each kind of values meets all of them, in every dtype."""
    turn = 2 * MASKS.index(mask) + 3 * VALUES.index(values)
    return [(SHAPES[at % len(SHAPES)], dtypes[at % len(dtypes)]) for at in (turn, turn + 1)]


def make(mask, values, shape, dtype):
    """(q, k, arguments) of row_statistics: torch tensors, always the same."""
    rng = np.random.default_rng(zlib.crc32(f"{mask} {values} {shape} {dtype}".encode()))
    batch, heads, key_heads, queries, keys, width = shape
    q, k = rng.normal(size=(batch, heads, queries, width)), rng.normal(size=(batch, key_heads, keys, width))
    if values == "one_hot":
        q, k = 40 * q, 40 * k
    elif values == "uniform":
        q[:] = 0
    elif values == "narrow_200":
        q *= 0.01
        q[..., 0], k[..., 0] = 200 * width**0.5 / 4, 4
    elif values == "offset_200":
        q[..., 0], k[..., 0] = 200 * width**0.5 / 4, 4
    elif values == "sink":
        q[..., 0], k[..., 0], k[:, :, 0, 0] = 4, 0, 6 * width**0.5
    elif values == "infinities":
        k[rng.random(k.shape) < 0.5 / (keys * width)] = -np.inf
        q[rng.random(q.shape) < 0.5 / (queries * width)] = np.nan
        q[..., 0], k[:, :, rng.integers(keys), 0] = np.abs(q[..., 0]), -np.inf  # a weight of 0 for all but NaN
    words = {"causal": "causal" in mask, "cross": "cross" in mask}
    if "offset" in mask:
        words["q_offset"] = int(rng.integers(0, keys + 2))
    if "window" in mask:
        words["window"] = int(rng.integers(1, keys + 2))
    if "lengths" in mask:
        words["k_len"] = [int(n) for n in rng.integers(0, keys + 1, batch)]
        words["q_len"] = words["k_len"] if queries == keys else [int(n) for n in rng.integers(0, queries + 1, batch)]
    if "documents" in mask:
        words["documents"] = torch.as_tensor(np.sort(rng.integers(0, 1 + keys // 8, (batch, keys))))
    if "bias" in mask:
        bias = rng.normal(size=(heads, queries, keys))
        bias[rng.random(bias.shape) < 0.1] = -np.inf
        words["bias"] = torch.as_tensor(bias, dtype=torch.float32)
    if "hidden" in mask:
        allowed = rng.random((batch, 1, queries, keys)) < 0.6
        allowed[rng.random((batch, 1, queries)) < 0.1] = False
        words["bias"] = torch.as_tensor(allowed if "bool" in mask else np.where(allowed, 0, -1e4).astype(np.float32))
    if "blocks" in mask:  # texts behind padding on the left
        text = np.sort(rng.integers(0, 1 + keys // 8, (batch, keys)))
        p, j = np.arange(queries)[:, None], np.arange(keys)
        allowed = (text[:, p % keys] == text[:, None, :]) & (j >= rng.integers(0, 1 + keys // 3, (batch, 1, 1)))
        words["bias"] = torch.as_tensor(allowed[:, None])
    if "softcap" in mask:
        words["softcap"] = 5.0
    if "sinks" in mask:
        words["sinks"] = torch.as_tensor(rng.normal(0, 2, heads), dtype=torch.float32)
    kind = DTYPES[dtype]
    return torch.as_tensor(q).to(kind), torch.as_tensor(k).to(kind), words


def truth(q, k, words, local_window=8):
    """name -> float64 [B, H, Tq], NaN where there is none; also `valid`, the queries that are no padding, and `weights`
    [B, H, Tq, Tk], zeros of padding and where a query sees no key. And 2 delta of each row, [B, H, Tq]."""
    q, k = q.double().numpy(), k.double().numpy()
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scale = q.shape[3] ** -0.5
    with np.errstate(all="ignore"):
        s = scale * np.einsum("bhid,bhjd->bhij", q, k)
        size = scale * np.linalg.norm(np.where(np.isfinite(q), q, 0), axis=-1) * np.linalg.norm(
            np.where(np.isfinite(k), k, 0), axis=-1).max(-1)[..., None]
        if words.get("softcap"):
            s = words["softcap"] * np.tanh(s / words["softcap"])
    bias = words.get("bias")
    bias = np.zeros((1, 1, 1, 1)) if bias is None else np.where(bias, 0, -np.inf) if bias.dtype == torch.bool else bias.numpy()
    shown = np.broadcast_to(bias > -9e3, s.shape)
    s = np.where(shown, s, 0) + bias
    mask = None if words.get("bias") is None else shown.any(1, keepdims=True)
    first = formulas.rows.first_keys(formulas.attention(_case(s, mask, 0, words), s))  # that of all heads
    found = [_head(s, shown, h, words, local_window, first) for h in range(q.shape[1])]
    names = [*NO_TOKENS, "valid", "weights"]
    result = {name: np.concatenate([one[name] for one in found], 1) for name in names}
    result["message"] = {name: np.array([one["message"][name] for one in found]) for name in found[0]["message"]}
    result["message"].update(_norms(q, k, result["valid"], words))
    result["message"].update(_cosines(q, k, [one["logits"] for one in found]))
    return result, 2 * 2.0**-21 * size


def _norms(q, k, valid, words):
    """q_norm, k_norm [H]; k has been repeated for each head."""
    there = np.broadcast_to(np.arange(k.shape[2]) < np.array(words.get("k_len") or [k.shape[2]] * len(k))[:, None, None], k.shape[:3])
    return {name: np.array([_mean(length[:, h][counts[:, h]]) for h in range(q.shape[1])])
            for name, length, counts in (("q_norm", np.linalg.norm(q, axis=-1), valid), ("k_norm", np.linalg.norm(k, axis=-1), there))}


def _cosines(q, k, logits):
    """qk_cosine, qk_cosine_max [H]."""
    with np.errstate(all="ignore"):
        cosine = np.einsum("bhid,bhjd->bhij", q, k) / (
            np.linalg.norm(q, axis=-1)[..., None] * np.linalg.norm(k, axis=-1)[:, :, None])
    some = [cosine[:, h][np.isfinite(one) & np.isfinite(cosine[:, h])] for h, one in enumerate(logits)]
    return {"qk_cosine": np.array([_mean(one) for one in some]),
            "qk_cosine_max": np.array([one.max() if one.size else np.nan for one in some])}


def _mean(values):
    values = values[np.isfinite(values)]
    return values.mean() if values.size else np.nan


def _case(s, shown, h, words, first=None):
    """The message of a head."""
    documents, sinks = words.get("documents"), words.get("sinks")
    return SimpleNamespace(
        weights=s[:, h:h + 1], is_self=not words["cross"], causal=words["causal"], window=words.get("window", 0),
        q_offset=words.get("q_offset", 0), q_stride=1, q_len=words.get("q_len"), k_len=words.get("k_len"),
        mask=None if shown is None else shown[:, h],
        documents=None if documents is None else documents.numpy(), tokens=None, learned_sink=sinks is not None, dtype="f64",
        dropout=False, first=first)


def _head(s, shown, h, words, local_window, first):
    sinks, case = words.get("sinks"), _case(s, shown, h, words, first)
    seen, query = formulas.visible(case)
    logits = np.where(seen, s[:, h], -np.inf)[:, None]
    with np.errstate(all="ignore"):
        largest = logits.max(-1, keepdims=True)
        sound = (query & np.isfinite(largest[:, 0, :, 0]) & ~np.isnan(logits).any(-1)[:, 0])[:, None]
        sink = -np.inf if sinks is None else float(sinks[h])
        shift = np.where(sound[..., None], largest, 0)
        e = np.exp(logits - shift)
        weights = e / (e.sum(-1, keepdims=True) + np.exp(sink - shift))
        among, case_among = e / e.sum(-1, keepdims=True), SimpleNamespace(**{**vars(case), "learned_sink": False})
        values = formulas.row_values(case_among, among, local_window)
        beside = formulas.head_values(case_among, among, sound)["locality"][0]
    values["max_logit"] = largest[..., 0], True
    values["sink_deficit"] = 1 - weights.sum(-1), sinks is not None
    query = query[:, None]
    broken = query & seen.any(-1)[:, None]
    result = {"valid": query, "weights": np.where(sound[..., None], weights, np.where(broken, np.nan, 0)[..., None])}
    result["logits"] = np.where(sound[:, 0, :, None] & seen, logits[:, 0], np.nan)
    finite = result["logits"][np.isfinite(result["logits"])]
    result["message"] = {**{name: values[0] for name, values in formulas.head_values(case, weights, sound).items()}, "locality": beside,
                         "max_abs_logit": np.abs(finite).max() if finite.size else np.nan, "mean_logit": _mean(finite),
                         "std_logit": finite.std(ddof=1) if finite.size > 1 else np.nan}
    for name in NO_TOKENS:
        value, exists = values[name]
        value = np.where(np.broadcast_to(exists, value.shape) & sound, value, np.nan)
        result[name] = np.where(np.isfinite(value), value, np.nan)
    return result


def agree(found, q, k, words, without=(), is_exact=True):
    """`is_exact`: f64 is computed in f64 all the way. AssertionError where numbers are further from the truth than their tolerance, or exist when they should not."""
    expected, twice_delta = truth(q, k, words)
    exact = q.dtype == torch.float64 and is_exact
    assert set(found) == set(NO_TOKENS)
    entropy = np.nan_to_num(expected["entropy"])
    for name in NO_TOKENS:
        got, want = found[name].double().cpu().numpy(), expected[name]
        assert found[name].dtype == torch.float32 and got.shape == want.shape
        if name in without:
            assert np.isnan(got).all()
            continue
        delta = 0 if exact else twice_delta
        size = np.maximum(1, np.abs(np.nan_to_num(want)))
        bound = size * (1e-6 if exact else 1e-5) + size * delta
        if name in formulas.NATS and not exact:
            bound = size * (1e-4 + delta * (entropy + 1))
        assert (np.isnan(got) == np.isnan(want)).all(), f"{name}: {got} instead of {want}"
        error = np.nan_to_num(np.abs(got - want))
        assert (error <= bound).all(), f"{name}: off by {error.max()}, {(error / bound).max()} of what is allowed"


def message(q, k, words, made=of_reference):
    """The numbers that attnd makes of the sums of a backend: of rows as agree() wants them, and of a message, name -> [H]."""
    problem = Problem(q, k, **words)
    found = finish(made(problem, True, problem.queries, valid_rows(problem).any(1)), problem.cross)
    nothing = np.full(found["entropy"].shape, np.nan)
    return {name: torch.as_tensor(found.get(name, nothing)).float() for name in NO_TOKENS}, found["message"]


def agree_of_message(found, q, k, words):
    """Compares numbers of a message, name -> [H]: all that need no map."""
    expected, twice_delta = truth(q, k, words)
    message = expected["message"]
    assert set(found) == {*message, "importance"} - ({"locality"} if words["cross"] else set())
    delta = np.nan_to_num(twice_delta).max()
    size = delta * 2.0**20  # the largest lambda
    largest = np.nan_to_num(message["max"])
    for name, got in found.items():
        if name == "importance":
            want, scores = formulas.importance(expected["weights"])
            bound = (2e-6 + delta) * np.nanmax(np.abs(scores), initial=1)
        else:
            want = message[name]
            bound = 1e-5 * np.maximum(1, np.abs(np.nan_to_num(want))) + 1e-5 * size + delta
            if name in ("std", "std_logit"):
                bound = 1e-3 * (largest if name == "std" else np.nan_to_num(want)) + delta
        assert (np.isnan(got) == np.isnan(want)).all(), f"{name}: {got} instead of {want}"
        assert (np.nan_to_num(np.abs(got - want)) <= bound).all(), f"{name}: {got} instead of {want}, {bound}"


def can_run(patch):
    """The kernels can run here, or what stands in for them."""
    patch.setattr(launch, "unable", lambda *given: None)
    patch.setattr(launch, "is_ready", lambda *asked: True)


def reference_stands_in(patch):
    """The reference computes what the kernels would."""
    def looked_at(problem, mask):
        at = problem.number(torch.arange(problem.queries))
        mask = mask[:, :, at] if problem.bias_of_all else mask
        least = None if mask.dtype == torch.bool else problem.hides_at
        allowed = accelerator._allowed(mask, least, problem.keys, problem.causal, problem.window, at, problem.q_offset)
        return visible.looked_at(allowed, problem.queries, problem.keys)

    can_run(patch)
    patch.setattr(launch, "launched", launched)
    patch.setattr(launch, "of_tokens", of_tokens)
    patch.setattr(launch, "looked_at", looked_at)
    patch.setattr(launch, "hides_at", lambda problem, mask: hidden_at(mask))
    patch.setattr(launch, "maps", lambda p, left, side, shown: pooled.of_queries(
        p, 0, side, None, None if shown is None else shown.queries[None]).values)


def of_tokens(p, powers, tokens, room):
    """The same of the kernel for tokens, in float64."""
    one, at, j = p.taken(), p.position(torch.arange(p.queries)), torch.arange(p.keys)
    s = p.scale * torch.einsum("bhid,bhjd->bhij", one.q.double(), p.k.double().repeat_interleave(p.group, 1))
    s = p.softcap * torch.tanh(s / p.softcap) if p.softcap else s
    seen = (j <= at[:, None] if p.causal else torch.ones(len(at), p.keys, dtype=torch.bool)) & (j > 0)
    s = s.masked_fill(~(seen & (j > at[:, None] - p.window) if p.window else seen), -torch.inf)
    e = torch.exp(s - s.amax(-1, keepdim=True)).nan_to_num()
    earlier = (tokens[:, None] == tokens[:, at][..., None]) & (j < at[:, None])
    follows = torch.nn.functional.pad(earlier[..., :-1], (1, 0))
    return torch.stack([(e * one[:, None]).sum(-1) for one in (earlier, follows)]).float()


def launched(p, powers):
    """What the kernels leave, by the reference."""
    room, left, of_keys = launch.parts_of(p, powers)
    one = p if p.first is not None else visible.placed(p)
    found = reference.columns(one, True, powers)
    shape, names = (p.batch, p.heads, p.queries), (*COLUMNS, *(POWERS if powers else ()))
    if p.bias is not None or p.documents is not None:
        key = torch.zeros(shape) if one.first is None else one.first[:, None].expand(shape)
        found["apart"] = torch.where(found["with_first"] > 0, key, -2 - key)  # of one that is not there nothing is in the sums
    for into, wanted in ((left.sums, names), (left.few, FEW_COLUMNS)):
        rows = [found.get(name, torch.full(shape, EMPTY.get(name, 0.0))) for name in wanted]
        into.copy_(torch.stack(rows).float().flatten())
    of_keys.copy_(norms(p.k))
    return room
