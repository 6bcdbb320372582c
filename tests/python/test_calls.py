# SPDX-License-Identifier: MIT
"""A seen attention as a message: what travels means what the model computed, and the sums of its rows, which travel instead
with tier `rows`, have the numbers of the same words."""
import itertools
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.base.plan import EVERYTHING, Plan, some
from attnd.capture import accelerator, rows as of_rows
from attnd.capture.calls import Context, beyond_device, parts
from attnd.capture.cost import Cost
from attnd.device.sums import COLUMNS, FEW_COLUMNS, POWERS
from attnd.forms import interface, mods
from attnd.forms.seen import NotCaptured, Queries, Share, Weights, heads_of, queries_of, sees_ahead
from attnd.sending.devices import HeldCopy, HostCopy
from attnd.sending.rows import Rows
from conftest import ROOT
from device_grid import reference_stands_in
from finished import finish

sys.path.append(str(ROOT / "tests" / "kernels"))
import formulas  # noqa: E402

B, H, T, D = 3, 4, 10, 8
LAYER = ("decoder", 0, "self")


def cut(*arguments):
    """All parts of a call, copied."""
    return [part.copy() for part in parts(*arguments)]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


Q, K = random(B, H, T, D), random(B, H, T, D, seed=1)


def truth(q, k, allowed=None, bias=0.0, scale=None, softcap=0.0):
    """Weights in float64; rows without a key are 0."""
    q, k = (np.asarray(x.double()) for x in (q, k))
    k = np.repeat(np.broadcast_to(k, (q.shape[0], *k.shape[1:])), q.shape[1] // k.shape[1], axis=1)
    logits = np.einsum("bhid,bhjd->bhij", q, k) * (q.shape[3]**-0.5 if scale is None else scale)
    logits = (softcap * np.tanh(logits / softcap) if softcap else logits) + bias
    logits = logits if allowed is None else np.where(allowed, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


def message_of(seen, *given, **options):
    """The only one."""
    message, = messages(seen, *given, **options)
    return message


def messages(seen, plan=EVERYTHING, step=0, share=Share(), context=Context(), layer=LAYER):
    if plan.samples:
        context = context._replace(samples=some(range(plan.samples), queries_of(seen)[0]))
    found = [made_of(part, layer) for part in cut(seen, plan, step, share, context)]
    context = context._replace(sums=of_rows.Origin(step))
    values = [says_the_same(made_of(part, layer), message, layer, queries_of(seen)[1])
              for message, part in zip(found, cut(seen, plan, step, share, context))]
    if hasattr(torch.cpu, "Stream"):  # as on an accelerator
        computer = accelerator.Accelerator("job", Cost())
        context = context._replace(sums=of_rows.Origin(step, 0, computer, layer[2] == "cross"))
        mask = getattr(seen, "mask", None)
        by_head = mask is not None and mask.dtype == torch.bool and mask.dim() > 2 and mask.shape[-3] > 1  # device_kernel.py has these
        if beyond_device(seen, plan, layer[2] == "cross", context) is None and not by_head:
            with pytest.MonkeyPatch.context() as patched:
                reference_stands_in(patched)
                patched.setattr(accelerator, "strata",  # the rows that the message has
                                lambda queries, rows: np.arange(queries)[plan.row_slice(step, queries)])
                for message, part, on_cpu in zip(found, cut(seen, plan, step, share, context), values):
                    says_the_same_of_a_message(says_the_same(made_of(part, layer), message, layer, queries_of(seen)[1]), on_cpu)
            assert computer._trusted == ["triton", "reference"]
    return found


def made_of(part, layer):
    """(keys, {name: array}) of the message of a part."""
    captured = part.make(layer)
    return captured.keys(layer), {one[0]: frame for one, frame in zip(captured.frames.described, captured.frames.copies())}


def sums_of(made):
    """The Rows that a message of them has."""
    keys, tensors = made
    return Rows(tuple(keys["sums"]), tensors["sums"], tensors["places"], keys["queries"], keys["keys"], keys.get("causal", False),
                tensors.get("key_lengths"), tensors.get("sinks"), keys.get("weights"), keys.get("learned_sink", False), keys.get("local_window", 8))


def says_the_same_of_a_message(values, on_cpu):
    """The numbers of a message are those that the sender thread computes."""
    known = {name: one for name, one in values.items() if np.isfinite(one).any()}
    assert known.keys() == {name for name, one in on_cpu.items() if np.isfinite(one).any()}
    for name, one in known.items():
        np.testing.assert_allclose(one, on_cpu[name], rtol=2e-4, atol=2e-5, err_msg=name)


def about(message, heads):
    keys, _ = message
    return keys.get("microbatch", 0), (keys.get("head_offset", 0), keys.get("heads_total", heads)), {
        name: keys.get(name) for name in ("sample", "sample_stride", "batch")}


def says_the_same(made, message, layer, queries):
    """The rows whose sums were made are those that a message tells, of a call of so many queries. Their numbers of a message."""
    rows, (expected, sound, query) = sums_of(made), rows_of(message, layer)
    _, heads, count, keys = weights_of(message).shape
    valid = np.broadcast_to(query[:, None], sound.shape)
    assert rows.keys == keys and rows.queries == queries >= count and rows.sums.shape[1:] == sound.shape
    assert rows.causal == message[0].get("causal", False) and about(made, heads) == about(message, heads)
    whole = made[0].get("heads_total", heads) == heads and count == queries
    assert ("power_7" in rows.names) <= whole
    found = finish(rows, layer[2] == "cross", whole)
    values = found.pop("message")
    assert (found.pop("sound") == sound).all() and (found.pop("invalid") == (valid & ~sound)).all()
    needed = {name for name, one in expected.items() if np.isfinite(one).any()}
    assert needed - {name for name, one in found.items() if np.isfinite(one).any()} <= {"induction", "duplicate_token"}
    for name in found.keys() - {"max_logit"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-4, err_msg=name)
    assert bool(values) == (rows.weights is None)
    if values:
        for name, value in values_of(message, layer).items():
            if name in values:
                np.testing.assert_allclose(values[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
    return values


def values_of(message, layer):
    """name: f64 [H], the numbers of a message that follow from its weights, queries and keys."""
    case = case_of(message, layer)
    sound, query, _ = formulas.judge(case, case.weights)
    found = formulas.head_values(case, case.weights, sound)
    found["importance"] = formulas.importance(np.where(sound[..., None], case.weights, np.where(query, np.nan, 0)[..., None]))[0]
    return {name: value for name, value in found.items() if name != "locality" or case.is_self}


def rows_of(message, layer):
    """(name: f64 [B, H, Tq], NaN where there is none; which rows are sound; which queries are no padding)."""
    case = case_of(message, layer)
    query, (sound, _, _) = formulas.visible(case)[1], formulas.judge(case, case.weights)
    return {name: np.where(sound & exists, value, np.nan)
            for name, (value, exists) in formulas.row_values(case, case.weights, 8).items()}, sound, query


def case_of(message, layer):
    """As formulas wants it."""
    keys, tensors = message
    weights = np.array(weights_of(message))
    case = SimpleNamespace(
        weights=weights, dtype="f64", is_self=layer[2] == "self", documents=tensors.get("documents"),
        mask=tensors.get("mask"), tokens=tensors.get("tokens"), dropout=False, causal=False, window=0, q_offset=0,
        q_stride=1, learned_sink=False, q_len=None, k_len=None)
    vars(case).update({name: keys[name] for name in vars(case) if name in keys and keys[name] is not None})
    return case


def weights_of(message):
    """What a reader of the message computes: weights [B, H, Tq, Tk] in float64."""
    keys, tensors = message
    allowed = visible(message)[:, None]
    if "weights" in tensors:
        return tensors["weights"].astype(np.float64)
    q, k = (torch.from_numpy(tensors[name].copy()) for name in "qk")
    q, k = (x.view(torch.bfloat16) if x.dtype == torch.int16 else x for x in (q, k))
    return truth(q, k, allowed, scale=keys["scale"], softcap=keys.get("softcap", 0))


def visible(message):
    keys, tensors = message
    shapes = {name: array.shape for name, array in tensors.items()}
    batch, _, queries, count = shapes.get("weights") or (*shapes["q"][:3], shapes["k"][2])
    i, j = np.arange(queries)[:, None], np.arange(count)[None, :]
    p = i * keys.get("q_stride", 1) + keys.get("q_offset", 0)
    allowed = np.ones((batch, queries, count), dtype=bool)
    if keys.get("causal"):
        allowed &= j <= p
    if keys.get("window"):
        allowed &= j > p - keys["window"]
    if "k_len" in keys:
        allowed &= j < np.array(keys["k_len"])[:, None, None]
    if "documents" in tensors:
        allowed &= tensors["documents"][:, p[:, 0]][:, :, None] == tensors["documents"][:, None, :]
    return allowed & (tensors["mask"] == 1) if "mask" in tensors else allowed


def check(message, expected, atol=2e-6):
    rows = visible(message).any(axis=2)[:, None, :, None]
    np.testing.assert_allclose(weights_of(message) * rows, expected * rows, atol=atol)


CAUSAL = torch.ones(T, T).tril().bool()
PADDING = torch.arange(T)[None] < torch.tensor([10, 4, 1])[:, None]
ALLOWED = {
    "none": None, "causal": CAUSAL, "padding": PADDING[:, None, None, :], "both": CAUSAL & PADDING[:, None, None, :],
    "window": CAUSAL & ~CAUSAL.tril(-3), "left": CAUSAL & PADDING.flip(1)[:, None, None, :],
    "holes": random(B, 1, T, T, seed=3) > -0.5, "one sample": (random(1, 1, T, T, seed=4) > 0),
    "every head the same": CAUSAL[None, None].repeat(B, H, 1, 1)}


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("additive", [False, True])
def test_masks_of_every_form_travel_with_queries_and_keys(name, additive):
    k, mask = random(B, 2, T, D, seed=1), ALLOWED[name]
    allowed = None if mask is None else mask.numpy()
    if additive and mask is not None:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    message = message_of(Queries(Q, k, mask))
    assert set(message[1]) <= {"q", "k", "mask"} and message[1]["k"].shape[1] == 2
    assert ("mask" in message[1]) == (name in ("left", "holes", "one sample"))
    check(message, truth(Q, k, allowed))


@pytest.mark.parametrize("side, packed, causal", [*itertools.product(["left", "right"], [False, True], [False, True])])
@pytest.mark.parametrize("form", [Queries, Weights])
def test_padding_whose_rows_were_opened_counts_as_no_rows(form, side, packed, causal):
    present, number = (PADDING if side == "right" else PADDING.flip(1))[:, None], torch.arange(T) > 4 * packed
    there = present & present.transpose(1, 2) & (number[:, None] == number) & (CAUSAL if causal else True)
    mask = (there | ~there.any(-1, keepdim=True))[:, None]
    if form is Weights:
        logits = (Q @ K.transpose(-1, -2) * D**-0.5).masked_fill(~mask, -math.inf)
        message = message_of(Weights(logits.softmax(-1), logits))
    else:
        message = message_of(Queries(Q, K, mask))
    assert (rows_of(message, LAYER)[2] == present[:, 0].numpy()).all()
    check(message, truth(Q, K, there[:, None].numpy()))


def test_attnd_knows_every_sum_that_is_sent_and_gets_those_that_it_needs():
    known = re.findall(r'^ROW_SUM\(\w+, "(\w+)", (true|false)', (ROOT / "proto" / "row_sum.def").read_text(), re.M)
    needed, sent = {name for name, is_needed in known if is_needed == "true"}, {*COLUMNS, *FEW_COLUMNS, *POWERS}
    logits = Q @ K.transpose(2, 3)
    for seen in (Queries(Q, K), Queries(Q, K, random(1, H, T, T)), Weights(logits.softmax(-1), logits)):
        part, = cut(seen, EVERYTHING, 0, Share(), Context(tokens=HostCopy(torch.arange(B * T).view(B, T)), sums=of_rows.Origin(0)))
        names = sums_of(made_of(part, LAYER)).names
        assert needed <= set(names)
        sent.update(names)
    assert needed and sent - {""} <= {name for name, _ in known}


@pytest.mark.parametrize("shape", [(H, 1, T), (1, H, T, T), (B, 1, T, T), (T, T), (T,)])
def test_a_bias_travels_as_weights(shape):
    bias = random(*shape, seed=2)
    message = message_of(Queries(Q, K, bias, causal=True))
    assert set(message[1]) == {"weights"} and message[0]["causal"]
    check(message, truth(Q, K, CAUSAL.numpy(), bias.numpy()))


def test_heads_that_may_see_different_keys_travel_as_weights():
    mask = random(B, H, T, T, seed=2) > 0
    message = message_of(Queries(Q, K, mask))
    assert "weights" in message[1]
    check(message, truth(Q, K, mask.numpy()))


def test_importance_of_padded_samples_with_a_bias_is_the_same_in_both_tiers():
    """As in T5's encoder: rows of padding are rows of zeros."""
    there = np.arange(T) < np.array([T, 7, 4])[:, None]
    bias = random(1, H, T, T, seed=2)
    seen = Queries(Q, K, bias.masked_fill(~torch.from_numpy(there)[:, None, None], torch.finfo(torch.float32).min))
    _, tensors = message_of(seen)
    part, = cut(seen, EVERYTHING, 0, Share(), Context(sums=of_rows.Origin(0)))
    measured = finish(sums_of(made_of(part, LAYER)))["message"]
    zeros = np.where(there[:, None, :, None], truth(Q, K, there[:, None, None], bias.numpy()), 0)
    expected = formulas.importance(zeros)[0]
    np.testing.assert_allclose(measured["importance"], expected, rtol=1e-5)
    np.testing.assert_allclose(formulas.importance(tensors["weights"])[0], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype):
    q = Q.to(dtype)
    _, tensors = message_of(Queries(q, K.to(dtype)))
    bits = q.view(torch.int16).numpy() if dtype == torch.bfloat16 else q.numpy()
    assert (tensors["q"] == bits).all()


def test_scale_softcap_and_window():
    check(message_of(Queries(Q, K, None, True, 0.7, 3, 5.0)), truth(Q, K, ALLOWED["window"].numpy(), scale=0.7, softcap=5.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_classic_mask_of_minus_10000_is_one_in_every_dtype(dtype):
    mask = ((1 - PADDING.float()) * -10000.0)[:, None, None, :].to(dtype)
    keys, tensors = message_of(Queries(Q.to(dtype), K.to(dtype), mask))
    assert set(tensors) == {"q", "k"} and list(keys["k_len"]) == [10, 4, 1]


@pytest.mark.parametrize("kind", ["queries", "biased", "weights"])
@pytest.mark.parametrize("mask", ["none", "both", "holes"])
def test_a_plan_cuts_samples_heads_and_rows(kind, mask):
    q, k, mask = Q, random(B, 2, T, D, seed=1), ALLOWED[mask]
    allowed = np.ones((T, T), dtype=bool) if mask is None else mask.numpy()
    bias = random(H, T, T, seed=5) if kind == "biased" else torch.zeros(())
    whole = truth(q, k, allowed, bias.numpy())
    if kind == "biased" and mask is not None:  # rows of padding, whose own key nobody sees
        whole = np.where(np.broadcast_to(allowed, whole.shape).any(2)[..., None], whole, 0)
    if kind == "weights":
        logits = torch.where(torch.from_numpy(np.broadcast_to(allowed, whole.shape).copy()), 0.0, -1e9)
        seen = Weights(torch.from_numpy(whole), logits)
    else:
        given = mask if kind == "queries" else torch.zeros(B, H, T, T).masked_fill(
            ~torch.from_numpy(np.broadcast_to(allowed, (B, H, T, T)).copy()), -1e9) + bias
        seen = Queries(q, k, given)
    plan = Plan(every=1, samples=2, rows=4, heads=((1, 1), (3, 3)))
    for step, rows in ((0, slice(0, T, 3)), (1, slice(2, T, 3)), (2, slice(1, T, 3))):
        parts = messages(seen, plan, step)
        assert [(keys["head_offset"], keys["heads_total"]) for keys, _ in parts] == [(1, H), (3, H)]
        for head, part in zip((1, 3), parts):
            assert (part[0].get("q_offset", 0), part[0].get("q_stride", 1)) == (rows.start, rows.step)
            check(part, whole[:2, head:head + 1, rows])


def test_slices_of_heads_of_several_processes_fit_together():
    keys = [messages(Queries(Q, K), Plan(heads=((2, 5),)), share=Share(i, 3))[0:1] for i in range(3)]
    assert [(k[0][0]["head_offset"], k[0][1]["q"].shape[1], k[0][0]["heads_total"]) for k in keys[:2]] == [
        (2, 2, 12), (4, 2, 12)]
    assert keys[2] == []


@pytest.mark.parametrize("ignored", [-float("inf"), -1e9, -1e4, torch.finfo(torch.float16).min])
def test_a_softmax_tells_what_is_visible_by_its_logits(ignored):
    logits = (Q @ K.transpose(2, 3)).masked_fill(~CAUSAL, ignored)
    keys, tensors = message_of(Weights(logits.softmax(-1), logits))
    assert keys["causal"] and "mask" not in tensors
    np.testing.assert_array_equal(tensors["weights"], logits.softmax(-1).numpy())


def test_a_learned_sink_is_no_key():
    logits = random(B, H, T, T + 1)
    keys, tensors = message_of(Weights(logits.softmax(-1), logits).of_keys(0, 1))
    assert keys["learned_sink"] and tensors["weights"].shape[3] == T


def test_tokens_and_microbatches_go_along():
    tokens = torch.arange(B * T).view(B, T)
    context, seen = Context(2, HostCopy(tokens)), Queries(Q, Q)
    keys, tensors = message_of(seen, Plan(samples=2), context=context)
    assert keys["microbatch"] == 2 and (tensors["tokens"] == tokens[:2].numpy()).all()
    assert "tokens" not in message_of(seen, context=context, layer=("decoder", 0, "cross"))[1]


@pytest.mark.parametrize("shape", [(0, H, T, D), (B, 0, T, D), (B, H, 0, D)])
def test_what_is_empty_is_no_message(shape):
    q = torch.zeros(shape)
    assert messages(Queries(q, q)) == [] and messages(Weights(q, q)) == []


@pytest.mark.parametrize("kind", [Queries, Weights])
def test_a_sample_of_rows_copies_only_them(kind):
    q = random(B, H, T, T)
    part, = parts(kind(q, q), Plan(rows=4), 1, Share(), Context())
    rows, keys = B * H * 3 * T * 4, B * H * T * T * 4 if kind is Queries else B * 3 * T
    assert part.nbytes == part.copy().nbytes == rows + keys


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("heads", [None, ((0, 1),), ((1, 2),)])
def test_values_are_cut_as_keys_are(heads, batch):
    k, v = random(B, 2, T, D, seed=1), random(batch, 2, T, 5, seed=2)
    _, tensors = message_of(Queries(Q, k, v=v), Plan(samples=2, rows=4, heads=heads))
    of_heads = {None: [0, 1], ((0, 1),): [0], ((1, 2),): [0, 1]}[heads]  # of 4 heads, two read the same keys
    for name, whole in (("k", k), ("v", v.expand(B, -1, -1, -1))):
        np.testing.assert_array_equal(tensors[name], whole[:2, of_heads].numpy())


def test_keys_that_share_a_head_and_values_that_do_not_travel_one_per_head():
    k, v = random(B, 1, T, D, seed=1), random(B, H, T, D, seed=2)
    _, tensors = message_of(Queries(Q, k, v=v))
    np.testing.assert_array_equal(tensors["k"], k.expand_as(Q).numpy())
    np.testing.assert_array_equal(tensors["v"], v.numpy())


@pytest.mark.parametrize("shape", [(2, H, T, D), (B, 3, T, D), (B, H, T - 1, D), (B, H, T, 0)])
def test_values_that_fit_no_message_are_left_out(shape):
    assert set(message_of(Queries(Q, Q, v=torch.zeros(shape)))[1]) == {"q", "k"}


@pytest.mark.parametrize("copy", [HostCopy, HeldCopy])
@pytest.mark.parametrize("kind", ["plain", "biased", "score_mod"])
def test_the_gradient_of_an_output_goes_along_or_becomes_that_of_weights(kind, copy):
    """Two samples; two of four heads, which read two of two key heads."""
    q, k, v = random(B, H, T, D), random(B, 2, T, D, seed=1), random(B, 2, T, 5, seed=2)
    dout, bias = random(B, H, T, 5, seed=3), random(H, T, T, seed=4)
    seen = Queries(q, k, bias if kind == "biased" else None, v=v)
    if kind == "score_mod":
        if not hasattr(torch, "func"):
            pytest.skip("torch has no flex attention")
        seen = seen._replace(score_mod=mods.ScoreMod(lambda score, b, h, i, j: score + bias[h, i, j]))
    part, = parts(seen, Plan(heads=((1, 2),)), 0, Share(), Context(samples=some(range(2), B)))
    assert part.whole and part.kept == (kind != "score_mod")
    cut = part.copy(copy if part.kept else HostCopy)
    cut.take()
    captured = cut.make(LAYER, HostCopy(dout[cut.part]))
    tensors = dict(zip((name for name, _, _ in captured.frames.described), captured.frames.copies()))
    mine = dout[:2, 1:3]
    if kind == "plain":
        np.testing.assert_array_equal(tensors["dout"], mine.numpy())
    else:
        np.testing.assert_allclose(tensors["grad"], (mine.double() @ v[:2].double().mT).numpy(), atol=2e-6)
        check((captured.keys(LAYER), tensors), truth(q, k, bias=bias.numpy())[:2, 1:3])


def test_what_is_held_is_copied_late_and_not_when_it_was_written_to():
    x = torch.arange(6.0)
    held = HeldCopy(x[::2], torch.float64)
    assert (held.shape, held.nbytes, held.dtype_name) == ((3,), 24, "f64")
    held.take()
    x += 1
    assert held.numpy().tolist() == [0, 2, 4] and held.is_finite()
    held = HeldCopy(x[::2])
    x += 1
    with pytest.raises(RuntimeError, match="wrote to what it attends with"):
        held.take()


def test_the_copy_is_the_trainings_own_no_longer():
    q, k = random(B, H, T, D), random(B, H, T, D, seed=1)
    parts = cut(Queries(q, k), EVERYTHING, 0, Share(), Context())
    before = q.clone()
    q.zero_()
    assert (dict(zip("qk", parts[0].make(LAYER).frames.copies()))["q"] == before.numpy()).all()
    assert parts[0].nbytes == 2 * before.numel() * 4


@pytest.mark.parametrize("queries, keys, mask", [
    ((1, H), (B, H), None), ((B, 1), (B, H), None), ((1, 1), (B, H), None), ((1, 1), (1, 1), (B, H)),
    ((B, H), (1, 1), None), ((B, H), (1, H), None), ((1, H), (1, 2), (B, 1))])
def test_what_torch_broadcasts_is_broadcast(queries, keys, mask):
    q, k = random(*queries, T, D), random(*keys, T, D, seed=1)
    bias = torch.zeros(()) if mask is None else random(*mask, T, T, seed=2)
    seen = Queries(q, k, None if mask is None else bias)
    assert heads_of(seen) == H
    check(message_of(seen), truth(q.expand(B, H, T, D), k, bias=bias.numpy()))


@pytest.mark.parametrize("queries, keys", [((B, H), (B, 3)), ((B, 2), (B, 4)), ((2, H), (B, H)), ((B, H), (B, 8))])
def test_what_does_not_fit_together_is_refused(queries, keys):
    with pytest.raises(ValueError, match="do not fit together"):
        messages(Queries(random(*queries, T, D), random(*keys, T, D)))


I, J = np.arange(T)[:, None], np.arange(T)[None]
NUMBERS = torch.tensor([[0] * 3 + [1] * 5 + [2] * 2])
OWN = (NUMBERS[0][:, None] == NUMBERS[0][None]).numpy()


@pytest.mark.parametrize("plan, rows", [(EVERYTHING, slice(0, T)), (Plan(rows=4), slice(0, T, 3))], ids=["all rows", "some rows"])
def test_a_window_without_causal_is_to_both_sides(plan, rows):
    assert (visible(message_of(Queries(Q, K, window=3), plan)) == (abs(I - J) < 3)[rows]).all()


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_queries_stand_where_they_are_said_to_stand(window, padding):
    q, mask = random(B, H, 4, D), None if padding is None else padding[:, None, None]
    allowed = (CAUSAL.numpy() & (J > I - (window or T)))[-4:]
    allowed = allowed if padding is None else allowed & mask.numpy()
    seen = Queries(q, K, mask, True, window=window, offset=T - 4)
    check(message_of(seen), truth(q, K, allowed))
    part = message_of(seen, Plan(rows=2), step=1)
    assert (part[0]["q_offset"], part[0]["q_stride"]) == (T - 3, 2)
    check(part, truth(q[:, :, 1::2], K, allowed[..., 1::2, :]))


def test_more_queries_than_keys_leave_the_first_without():
    message = message_of(Queries(Q, K[:, :, :4], None, True, offset=4 - T), layer=("decoder", 0, "cross"))
    assert (visible(message) == CAUSAL.numpy()[:, -4:]).all()


@pytest.mark.parametrize("form", [{"causal": True}, {"causal": True, "window": 2}, {}, {"window": 2}])
def test_documents_go_along_by_their_numbers(form):
    allowed = OWN & (CAUSAL.numpy() if form.get("causal") else True) & (abs(I - J) < form.get("window", T))
    seen = Queries(Q[:1], K[:1], documents=(NUMBERS, NUMBERS), **form)
    message = message_of(seen)
    assert ("documents" in message[1]) == (form != {"window": 2}) and ("mask" in message[1]) == (form == {"window": 2})
    assert (visible(message) == allowed).all()
    assert (visible(message_of(seen, Plan(rows=4), step=1)) == allowed[2::3]).all()


def test_one_document_is_none():
    one = torch.zeros(1, T, dtype=torch.int64)
    assert set(message_of(Queries(Q[:1], Q[:1], documents=(one, one)))[1]) == {"q", "k"}


def test_documents_of_queries_and_keys_may_be_of_other_lengths():
    q, k, numbers = Q[:1, :, :4], K[:1], torch.tensor([[0, 1, 1, 2]])
    message = message_of(Queries(q, k, documents=(numbers, NUMBERS)), layer=("decoder", 0, "cross"))
    assert (visible(message) == (numbers[0][:, None] == NUMBERS[0][None]).numpy()).all()
    part, = cut(Queries(q, k, None, True, documents=(numbers, NUMBERS)), EVERYTHING, 0, Share(), Context())
    with pytest.raises(ValueError, match="packed in another way"):
        part.make(LAYER)


class OfModule:
    is_causal = True


def through_interface(q, k, mask=None, plan=EVERYTHING, **options):
    return visible(message_of(interface._queries(OfModule(), q, k, k, mask, options), plan))


@pytest.mark.parametrize("options", [
    {"cu_seq_lens_q": torch.tensor([0, 3, 8, 10], dtype=torch.int32),
     "cu_seq_lens_k": torch.tensor([0, 3, 8, 10], dtype=torch.int32)},
    {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1]])}], ids=["lengths", "positions"])
def test_packed_sequences_of_kernels_are_documents(options):
    q = Q[:1]
    assert (through_interface(q, q, **options) == (OWN & CAUSAL.numpy())).all()
    assert (through_interface(q, q, position_ids=torch.arange(T)[None]) == CAUSAL.numpy()).all()


@pytest.mark.parametrize("names", [("cu_seq_lens_q", "cu_seq_lens_k"), ("cu_seq_lens_k",)])
def test_packed_sequences_that_are_not_understood_are_refused(names):
    with pytest.raises(NotCaptured, match="where packed sequences begin"):
        through_interface(Q, Q, **dict.fromkeys(names, torch.tensor([0, 3, 10])))


def test_kernels_align_the_last_query_with_the_last_key():
    q, k = Q[:1], K[:1]
    assert (through_interface(q[:, :, :2], k) == CAUSAL.numpy()[-2:]).all()
    assert (through_interface(q[:, :, :1], k, sliding_window=3) == (J > T - 4)).all()
    assert (through_interface(q, k, sliding_window=3, is_causal=False) == (abs(I - J) < 3)).all()


@pytest.mark.parametrize("samples", [0, 1])
def test_a_block_mask_is_that_of_each_sample(samples):
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    numbers = torch.cat([NUMBERS * 0, NUMBERS])
    block_mask = flex.create_block_mask(lambda b, h, i, j: (numbers[b, i] == numbers[b, j]) & (j <= i), 2, 1, T, T,
                                        device="cpu")
    seen = through_interface(Q[:2], Q[:2], block_mask, Plan(samples=samples))
    expected = np.stack([CAUSAL.numpy(), CAUSAL.numpy() & OWN])
    assert (seen == expected[:samples or 2]).all()


def test_queries_see_ahead_when_nothing_hides_later_keys():
    q, band, late = torch.rand(2, 2, 32, 4), torch.ones(32, 32).tril().bool(), torch.rand(2, 2, 32, 32)
    keys = (torch.arange(32) < 20)[None, None, None]
    ends = torch.block_diag(*[torch.ones(16, 16)] * 2).bool()  # two documents
    masks = {None: True, band: False, keys: True, keys & ends: True, keys & band: False, torch.zeros(32, 32).masked_fill(~band, -1e9): False}
    for mask, ahead in masks.items():
        assert bool(sees_ahead(Queries(q, q, mask))) is ahead
    assert not sees_ahead(Queries(q, q, late_mask=lambda cut: band[None, None][:, :, cut[2]]))
    assert sees_ahead(Queries(q, q, causal=True)) is False
    assert sees_ahead(Queries(q[:, :, -1:], q)) is None and sees_ahead(Queries(q, q, score_mod=mods.ScoreMod(None))) is None
    sink = torch.cat([late.masked_fill(~band, -1e9), late[..., :1]], -1)
    assert not sees_ahead(Weights(sink.softmax(-1), sink, sink=True))
    for logits, ahead in ((late, True), (late.masked_fill(~band, float("-inf")), False)):
        assert bool(sees_ahead(Weights(logits.softmax(-1), logits))) is ahead
