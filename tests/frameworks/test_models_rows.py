# SPDX-License-Identifier: MIT
"""Tier rows of the models that have every kind of attention there is (all keys or a window, shared key heads, a bias,
padding, a learned sink), fused and eager, in f32 and bf16, through a real attnd, beside the tier whose tensors travel.
`pytest -s` prints the table of workers/KERNELS.md: how far off every row metric is, by mean, min, max, std and count.

In f32 the truth is a second, eager model in float64: what its attentions were given, and softmax by the definition. In
bf16 a model of such a width is another model, so the truth begins with the queries and keys, in bf16, of a second
model of the same arithmetic; from there on it is float64.

A fused kernel takes these as they are, and so does attnd: the tolerance is that of f32. An eager model in bf16 rounds
its logits four times at most (product, scale, bias or mask, the largest subtracted), each by 2^-9 of at most the largest
logit, or of twice that after the subtraction: delta = 5 2^-9 largest. Its weights are then off by the factor
e^(2 delta), and once more by 2^-8 of themselves, where it rounds these, and their sums as much; an entropy by
(2 delta + 2^-8) (H + 1), as in KERNELS.md, and H is at most ln T.
"""
import dataclasses
import math
import os
import pathlib
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Tuple
from unittest import mock

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", minversion="5.0")
import torch  # noqa: E402
from expected import Attended, Tolerance, case_of, differences, formulas  # noqa: E402
from session import Session, expected_of, train, wait_until  # noqa: E402
from zoo import LENGTH, Batch, Kind, References, doubled, products  # noqa: E402
from zoo_models import model_kind  # noqa: E402
from zoo_transformers import transformers_kinds  # noqa: E402

pytest_plugins = ("one_daemon",)
STEPS = 2
NAMES = {"gpt2": "GPT-2", "llama": "Llama, GQA", "Mistral": "Mistral, window", "t5": "T5, bias",
         "bert-right-padded": "BERT, padding", "GptOss": "gpt-oss, learned sinks"}
KINDS = {kind.name: kind for kind in (*transformers_kinds(), model_kind("Mistral", "eager"), model_kind("Mistral", "sdpa"), model_kind("GptOss", "eager"))
         if kind.name.rpartition("-")[0] in NAMES}
Call = Tuple[torch.nn.Module, torch.Tensor, torch.Tensor, float, Any]


class Compared(NamedTuple):
    """A row of the table."""
    model: str
    attention: str
    dtype: str
    tier: str
    worst: float
    rows: float
    apart: float
    tolerance: Tolerance


@pytest.fixture(scope="module")
def table():
    rows: List[Compared] = []
    yield rows
    print("\n\n| model | attention | dtype | raw tier | its worst error | worst error of tier `rows` | between the two |"
          " allowed: sums, nats |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.model} | {row.attention} | {row.dtype} | `{row.tier}` | {row.worst:.1e} | {row.rows:.1e} | "
              f"{row.apart:.1e} | {row.tolerance.sums:.1g}, {row.tolerance.nats:.1g} |")


def calls_of(model: torch.nn.Module, batch: Batch) -> List[Call]:
    """What the attentions of a model are given."""
    calls: List[Call] = []
    interfaces = type(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS)
    choose = interfaces.get_interface

    def listened(self: Any, name: str, default: Any) -> Any:
        attention = choose(self, name, default)

        def attend(module, query, key, value, mask, scaling=None, position_bias=None, **more):  # type: ignore[no-untyped-def]
            calls.append((module, query, key, query.shape[-1]**-0.5 if scaling is None else scaling, position_bias))
            given = {} if position_bias is None else {"position_bias": position_bias}
            return attention(module, query, key, value, mask, scaling=scaling, **given, **more)

        return attend

    with mock.patch.object(interfaces, "get_interface", listened):
        model(**batch)
    return calls


def of_call(call: Call, like: Attended) -> Tuple[Attended, float]:
    """What a call does, where what it sees is known already, and the largest number on the way to its logits."""
    module, q, k, scale, bias = call
    q, k = (x.detach().double().numpy() for x in (q, k))
    product = products(q, k, scale)
    logits = product + (0 if bias is None else bias.detach().double().numpy())
    seen = formulas.visible(case_of(like))[0][:, None]
    masked = np.where(seen, logits, -np.inf)
    top = masked.max(-1, keepdims=True)
    exps = np.exp(masked - np.where(np.isfinite(top), top, 0))
    total = exps.sum(-1, keepdims=True)
    if like.learned_sink:
        total = total + np.exp(module.sinks.detach().double().numpy()[None, :, None, None] - top)
    made = dataclasses.replace(like, weights=exps / np.where(total > 0, total, 1), logits=logits)
    return made, float((np.maximum(np.abs(product), np.abs(logits)) * seen).max())


def truth(kind: Kind, eager: Kind, dtype: torch.dtype, largest: List[float], state: Dict[str, torch.Tensor],
          batch: Batch) -> References:
    """What the attentions of a model of this state do. Notes the size of its logits."""
    model = (kind if dtype == torch.bfloat16 else eager).build().to(torch.float64 if dtype == torch.float32 else dtype)
    model.load_state_dict(state)
    about = eager.reference(state, batch)
    found: References = {}
    for call in calls_of(model, doubled(batch) if dtype == torch.float32 else batch):
        shape = (*call[1].shape[:3], call[2].shape[2])
        layer = next(layer for layer, one in about.items() if layer not in found and one.weights.shape == shape)
        found[layer], size = of_call(call, about[layer])
        largest.append(size)
        off = np.abs(found[layer].weights - about[layer].weights) * (found[layer].weights > 0)
        assert off.max() < (1e-5 if dtype == torch.float32 else 0.2), "what is seen is what the model says"
    assert found.keys() == about.keys()
    return found


def allowed(kind: Kind, dtype: torch.dtype, largest: float) -> Tolerance:
    """How far off numbers of this model may be."""
    if dtype == torch.float32 or not kind.name.endswith("-eager"):
        return Tolerance()
    off = 2 * 5 * 2**-9 * largest + 2**-8
    return Tolerance(sums=off, nats=off * (math.log(LENGTH) + 1))


def between(raw: Dict[str, Any], other: Dict[str, Any]) -> float:
    """The largest difference of two summaries, relative to the larger of 1 and the value; infinite where one has a row
    that the other has not. Sums of queries and keys know no token numbers."""
    worst = 0.0
    metrics = {name for name in raw["heads"].keys() & set(formulas.ROW_METRICS) if any(raw["heads"][name]["count"])}
    assert metrics - other["heads"].keys() <= {"induction", "duplicate_token"}
    for metric in metrics & other["heads"].keys():
        one, two = (summary["heads"][metric] for summary in (raw, other))
        if one["count"] != two["count"]:
            return math.inf
        for name in ("mean", "min", "max", "std"):
            a, b = (np.array([np.nan if x is None else x for x in values[name]], float) for values in (one, two))
            if (np.isnan(a) != np.isnan(b)).any():
                return math.inf
            worst = max(worst, float(np.nan_to_num(np.abs(a - b) / np.maximum(1, np.abs(a))).max()))
    return worst


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", KINDS)
def test_rows_say_what_float64_says(stepwise, table, name, dtype):
    kind, (model, _, attention) = KINDS[name], name.rpartition("-")
    largest: List[float] = []
    watched = dataclasses.replace(kind, build=lambda: kind.build().to(dtype),
                                  reference=lambda *given: truth(kind, KINDS[f"{model}-eager"], dtype, largest, *given))
    found, worst, expected = {}, {}, None
    for tier in ("raw", "rows"):
        one = watched.build()
        with Session(stepwise) as session:
            session.watch(one, tier=tier)
            trained = list(train(one, watched, STEPS))
        found[tier] = session.summaries()
        expected = expected or expected_of(watched, trained)
        assert sorted(found[tier]) == sorted(expected)
    tolerance = allowed(kind, dtype, max(largest))
    said = []
    for tier, tiers in (("raw", kind.tiers), ("rows", ("rows",))):
        assert {summary["tier"] for summary in found[tier].values()} <= set(tiers)
        several = [differences(summary, expected[key], tolerance) for key, summary in found[tier].items()]
        said += [f"{tier}: {text}" for texts, _ in several for text in texts]
        worst[tier] = max(error for _, error in several)
    apart = max(between(summary, found["rows"][key]) for key, summary in found["raw"].items())
    table.append(Compared(NAMES[model], attention, "f32" if dtype == torch.float32 else "bf16",
                          "`, `".join(sorted({summary["tier"] for summary in found["raw"].values()})), worst["raw"],
                          worst["rows"], apart, tolerance))
    assert not said, f"{len(said)} wrong:\n" + "\n".join(said[:20])
    assert apart <= Tolerance().nats


def test_no_map_is_held_of_a_step_of_8192_tokens(stepwise):
    """The map of the one head is 256 MiB in f32, and 64 MiB as a mask."""
    script = pathlib.Path(__file__).with_name("long_step.py")
    run = subprocess.run([sys.executable, str(script), stepwise.endpoint("ingest")], capture_output=True, text=True,
                         timeout=600, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                                            "MALLOC_MMAP_THRESHOLD_": "65536"})  # what was freed is given back
    assert run.returncode == 0, run.stderr
    print(f"\nT = 8192: {int(run.stdout)} KiB more than without the watch")
    assert int(run.stdout) < 64 << 10
    one, = wait_until(lambda: stepwise.call("summary", job="long"), "its summary")
    assert (one["tier"], one["rows"], one["shape"]) == ("rows", 8192, [1, 1, 8192, 8192])
