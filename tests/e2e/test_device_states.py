# SPDX-License-Identifier: MIT
"""What attnd makes of the sums that attnd.device leaves of rows is what it makes of their queries and keys (tier qk), or of
their weights where a message of queries and keys has no word for the mask: counts of rows are the same, and numbers to the
tolerances of the kernels."""
import os

import numpy as np
import pytest
from harness import Attnd, Trainer, wait_until

torch = pytest.importorskip("torch")
import attnd  # noqa: E402
from device_grid import MASKS, NO_TOKENS, make, truth  # noqa: E402
from test_tiers import differences  # noqa: E402

HEADS, MICROBATCHES = 4, 2
SQUARE, WIDE = (2, HEADS, 2, 20, 20, 16), (2, HEADS, 2, 7, 20, 16)
SETTINGS = ("window.unit=step", "window.length=16", "window.every=16", "window.timeout=1h", "metrics.spectrum=false",
            "history.commit=100ms")
STD = 4e-4  # of the largest weight: where all are equal it is the root of what sums of squares in f32 are off by
IMPORTANCE = 2e-6 * SQUARE[3] * np.log(SQUARE[4])  # of the largest score, which its exponential turns into a relative error
TAME = ("plain", "uniform", "sink", "infinities")  # whose logits f32 has to five digits


def problem(mask, values, dtype):
    """(q, k, arguments); what a bias hides it hides from all heads, and queries of documents are among the keys."""
    q, k, words = make(mask, values, WIDE if "offset" in mask or "cross" in mask else SQUARE, dtype)
    if "documents" in words and "q_offset" in words:
        words["q_offset"] = min(words["q_offset"], k.shape[2] - q.shape[2])
    if "bias" in mask:
        shared = torch.isinf(words["bias"][:1])
        words["bias"] = torch.where(torch.isinf(words["bias"]), torch.ones(()), words["bias"]).masked_fill(shared, -torch.inf)
    return q, k, words


def captures(mask, values, dtype):
    """(step, microbatch, q, k, arguments): of each kind of values one, of sharper and sharper rows, two microbatches a step."""
    for number, one in enumerate(values):
        q, k, words = problem(mask, one, dtype)
        yield number // MICROBATCHES, number % MICROBATCHES, q * (number + 1) / 2, k, words


def tensor_of(x):
    """As harness.Trainer takes it."""
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def send_raw(trainer, q, k, words, **about):
    """As queries and keys, or as weights."""
    header = {name: words[name] for name in ("causal", "window", "q_offset", "q_len", "k_len") if name in words}
    documents, bias = words.get("documents"), words.get("bias")
    also = {"documents": None if documents is None else documents.numpy().astype(np.int32)}
    if bias is not None:
        seen = (bias if bias.dtype == torch.bool else bias > -9e3)[..., :1, :, :].expand(q.shape[0], 1, -1, -1)
        also["mask"] = np.ascontiguousarray(seen[:, 0].numpy().astype(np.uint8))
    if "sinks" in words or (bias is not None and bias.dtype != torch.bool and ((bias != 0) & (bias > -9e3)).any()):
        header.update({"learned_sink": True} if "sinks" in words else {})
        trainer.attention(truth(q, k, words)[0]["weights"], **also, **header, **about)
        return
    header["softcap"] = words.get("softcap", 0.0)
    trainer.qk(tensor_of(q), tensor_of(k), scale=q.shape[3]**-0.5, **also, **header, **about)


def send_rows(trainer, q, k, words, step, microbatch, layer, site, heads, head_offset, device="cpu", **about):
    """As sums of rows, which are computed on this device."""
    q, k, words = q.to(device), k.to(device), {name: one.to(device) if torch.is_tensor(one) else one for name, one in words.items()}
    rows = attnd.device.rows(q, k, heads=heads, **words, **about)
    part = {} if heads == q.shape[1] else {"head_offset": head_offset, "heads_total": heads}
    trainer.rows(rows, step=step, microbatch=microbatch, layer=layer, site=site, **part)


def share(q, k, words, rank, world):
    """What a rank has of the heads."""
    heads, key_heads = (slice(rank * x.shape[1] // world, (rank + 1) * x.shape[1] // world) for x in (q, k))
    mine = {name: words[name][heads] for name in ("sinks", "bias") if name in words and words[name].shape[0] == HEADS}
    return q[:, heads], k[:, key_heads], {**words, **mine}, heads.start


def ranks_of(daemon, job, world):
    run = os.urandom(16)
    return [Trainer(daemon, job, rank, world, run) for rank in range(world)]


def summaries_of(daemon, job):
    """{layer: its summary}, of one window each, which ends with the run."""
    def found():
        all_of_it = {summary["layer"]: summary for summary in daemon.call("summary", job=job)}
        return all_of_it if len(all_of_it) == len(MASKS) else None
    return wait_until(found, f"the summaries of {job}")


def measured_twice(daemon, values, dtype, world=1, **how):
    """{mask: (summary of the raw tier, of tier rows)}; each of `world` ranks has its share of the heads."""
    raw, sums = ranks_of(daemon, "raw", world), ranks_of(daemon, "rows", world)
    for layer, mask in enumerate(MASKS):
        for step, microbatch, *whole in captures(mask, values, dtype):
            for rank in range(world):
                *tensors, words, first = share(*whole, rank, world)
                about = {"layer": layer, "site": "cross" if words["cross"] else "self", "step": step, "microbatch": microbatch}
                part = {"head_offset": first, "heads_total": HEADS} if world > 1 else {}
                send_raw(raw[rank], *tensors, words, **part, **about)
                send_rows(sums[rank], *tensors, words, heads=HEADS, head_offset=first, **about, **how)
    for trainer in (*raw, *sums):
        trainer.event("bye", step=len(values))
    assert daemon.settled(2 * world * (1 + len(MASKS) * len(values)))["dropped"] == {}
    of_raw, of_rows = summaries_of(daemon, "raw"), summaries_of(daemon, "rows")
    return {mask: (of_raw[layer], of_rows[layer]) for layer, mask in enumerate(MASKS)}


def compared(daemon):
    """The heads of both jobs, compared by the histograms in the history."""
    wait_until(lambda: all(daemon.call("runs", job=job)["runs"][0]["state"] == "ended" for job in ("raw", "rows")), "both ends")
    heads = daemon.call("compare", job="raw", job_b="rows", limit=HEADS * len(MASKS))["heads"]
    assert len(heads) == HEADS * len(MASKS)
    return heads


def same_layer(raw, rows, mask, without=()):
    """What is said of the layer as a whole, and how many rows have each number, of these."""
    for key in ("rows", "invalid_rows", "messages", "ranks", "step", "epoch", "shape", "causal", "lost"):
        assert raw[key] == rows[key], (mask, key)
    one, two = ({name: number and round(number, 9) for name, number in each["sink_rate"].items()} for each in (raw, rows))
    assert one == two, mask
    assert rows["tier"] == "rows" and raw["tier"] in ("qk", "attention")
    there = {name for name in NO_TOKENS if name in raw["heads"] and any(raw["heads"][name]["count"])} - set(without)
    assert there <= set(rows["heads"]) and not set(without) & set(rows["heads"]), mask
    for name in there:
        assert raw["heads"][name]["count"] == rows["heads"][name]["count"], (mask, name)
    return there


def floats(values):
    return np.array(values, float)  # None, where a head has none, becomes NaN


def same_numbers(raw, rows, mask):
    """To the tolerances of the kernels."""
    if "importance" in rows["heads"]:
        one, two = (summary["heads"].pop("importance")["mean"] for summary in (raw, rows))
        assert floats(two) == pytest.approx(floats(one), rel=IMPORTANCE, nan_ok=True), mask
    largest = max(one for one in raw["heads"]["max"]["max"] if one is not None)
    one, two = (summary["heads"].pop("std") for summary in (raw, rows))
    for statistic in ("mean", "std", "min", "max", "last"):
        assert floats(two[statistic]) == pytest.approx(floats(one[statistic]), rel=1e-4, abs=STD * largest, nan_ok=True), (
            mask, statistic)
    assert differences(rows, raw) == [], mask


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64"])
def test_rows_agree_as_far_as_the_kernels_promise(dtype):
    daemon = Attnd(*SETTINGS)
    for mask, (raw, rows) in measured_twice(daemon, TAME, dtype).items():
        same_layer(raw, rows, mask)
        assert "importance" in rows["heads"]
        same_numbers(raw, rows, mask)


def test_ranks_that_have_slices_of_the_heads_make_one_layer():
    daemon = Attnd(*SETTINGS)
    for mask, (raw, rows) in measured_twice(daemon, TAME[:2], "f32", world=2).items():
        same_layer(raw, rows, mask)
        same_numbers(raw, rows, mask)
        assert "importance" not in rows["heads"], "a softmax over all heads"
