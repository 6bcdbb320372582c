# SPDX-License-Identifier: MIT
"""States that attnd.device makes of queries and keys are, in attnd, what it makes of these itself (tier qk), or of their
weights where a message of queries and keys has no word for the mask: counts and histograms bit for bit where the rows'
values agree in f32, else to the tolerances of the kernels.

They agree where both sides compute in f64. attnd then counts what a state has in f32, which is another bucket where a
number is at a bound: all weights together are 1 + 2^-53, so local_mass is that of one key here."""
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


def send_state(trainer, q, k, words, step, layer, site, device="cpu", **about):
    """As a state, which is computed on this device."""
    q, k, words = q.to(device), k.to(device), {name: one.to(device) if torch.is_tensor(one) else one for name, one in words.items()}
    state = attnd.device.layer_state(q, k, step=step, time_ns=1, rank=trainer.rank, **words, **about)
    trainer.send(*trainer.tensor_frames("state", {"state": np.frombuffer(state, dtype=np.uint8)}, step=step, heads=HEADS,
                                        first_epoch=0, first_step=step, layer=layer, site=site))


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
    """{mask: (summary of the raw tier, of tier state)}; each of `world` ranks has its share of the heads."""
    raw, states = ranks_of(daemon, "raw", world), ranks_of(daemon, "states", world)
    for layer, mask in enumerate(MASKS):
        for step, microbatch, *whole in captures(mask, values, dtype):
            for rank in range(world):
                *tensors, words, first = share(*whole, rank, world)
                about = {"layer": layer, "site": "cross" if words["cross"] else "self", "step": step, "microbatch": microbatch}
                part = {"head_offset": first, "heads_total": HEADS} if world > 1 else {}
                send_raw(raw[rank], *tensors, words, **part, **about)
                send_state(states[rank], *tensors, words, heads=HEADS, head_offset=first, **about, **how)
    for trainer in (*raw, *states):
        trainer.event("bye", step=len(values))
    assert daemon.settled(2 * world * (1 + len(MASKS) * len(values)))["dropped"] == {}
    of_raw, of_states = summaries_of(daemon, "raw"), summaries_of(daemon, "states")
    return {mask: (of_raw[layer], of_states[layer]) for layer, mask in enumerate(MASKS)}


def compared(daemon):
    """The heads of both jobs, compared by the histograms in the history."""
    wait_until(lambda: all(daemon.call("runs", job=job)["runs"][0]["state"] == "ended" for job in ("raw", "states")), "both ends")
    heads = daemon.call("compare", job="raw", job_b="states", limit=HEADS * len(MASKS))["heads"]
    assert len(heads) == HEADS * len(MASKS)
    return heads


def same_layer(raw, state, mask, without=()):
    """What is said of the layer as a whole, and how many rows have each number, of these."""
    for key in ("rows", "invalid_rows", "messages", "ranks", "step", "epoch", "shape", "causal", "lost"):
        assert raw[key] == state[key], (mask, key)
    one, two = ({name: number and round(number, 9) for name, number in each["sink_rate"].items()} for each in (raw, state))
    assert one == two, mask
    assert state["tier"] == "state" and raw["tier"] in ("qk", "attention")
    there = {name for name in NO_TOKENS if name in raw["heads"] and any(raw["heads"][name]["count"])} - set(without)
    assert there <= set(state["heads"]) and not set(without) & set(state["heads"]), mask
    for name in there:
        assert raw["heads"][name]["count"] == state["heads"][name]["count"], (mask, name)
    return there


def same_numbers(raw, state, mask):
    """To the tolerances of the kernels."""
    if "importance" in state["heads"]:
        one, two = (summary["heads"].pop("importance")["mean"] for summary in (raw, state))
        assert two == pytest.approx(one, rel=IMPORTANCE, nan_ok=True), mask
    assert differences(state, raw) == [], mask


def test_rows_computed_in_f64_are_counted_into_the_same_buckets():
    daemon = Attnd(*SETTINGS, "workers.isa=scalar", "metrics.local_window=0")
    measured = measured_twice(daemon, 6 * ["plain"], "f64", local_window=0)
    heads = compared(daemon)
    for layer, (mask, (raw, state)) in enumerate(measured.items()):
        names = same_layer(raw, state, mask)
        apart = {(head["head"], name): one["js"] for head in heads if head["layer"] == layer
                 for name, one in head["metrics"].items() if name in names}
        assert len(apart) == HEADS * len(names), mask
        assert {key: js for key, js in apart.items() if js} == {}, mask
        for name in names:
            for statistic in ("mean", "std", "min", "max", "last"):
                a, b = (np.array(one["heads"][name][statistic], dtype=float) for one in (raw, state))
                assert np.allclose(a, b, rtol=1e-6, atol=1e-6), (mask, name, statistic, a, b)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_rows_computed_in_f32_agree_as_far_as_the_kernels_promise(dtype):
    daemon = Attnd(*SETTINGS)
    for mask, (raw, state) in measured_twice(daemon, TAME, dtype).items():
        same_layer(raw, state, mask)
        assert "importance" in state["heads"]
        same_numbers(raw, state, mask)


def test_ranks_that_have_slices_of_the_heads_make_one_layer():
    daemon = Attnd(*SETTINGS)
    for mask, (raw, state) in measured_twice(daemon, TAME[:2], "f32", world=2).items():
        same_layer(raw, state, mask)
        same_numbers(raw, state, mask)
        assert "importance" not in state["heads"], "a softmax over all heads"
