# SPDX-License-Identifier: MIT
"""The keys that a mask of numbers hides, by what it adds: of a fused call, of an explicit softmax, and on an accelerator."""
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.base.hidden import hidden_at
from attnd.base.masks import IGNORED_AT
from attnd.base.plan import EVERYTHING
from attnd.capture import accelerator, rows
from attnd.capture.added import read, with_weight
from attnd.capture.calls import Context
from attnd.capture.cost import Cost
from attnd.device import row_statistics
from attnd.forms import mods
from attnd.forms.seen import Queries, Share, may_be_masked, sees_ahead, visible_keys
from attnd.sending.devices import HostCopy
from device_grid import reference_stands_in
from test_calls import LAYER, cut, message_of, random, rows_of, truth, weights_of
from test_spy import Calls, spied  # noqa: F401

B, H, T, D = 3, 4, 12, 8
Q, K = (random(B, H, T, D, seed=seed) for seed in (0, 1))
PADDING = torch.arange(T) >= torch.tensor([7, 12, 10])[:, None, None, None]  # [B, 1, 1, T]
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
DISTANCE = (torch.arange(T)[:, None] - torch.arange(T)).abs().float()
BIAS = random(1, H, T, T, seed=2)


def added(hidden, value=-100.0, dtype=torch.float32):
    """A mask that says this of hidden keys."""
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, value)


def alibi(length, *slopes):
    return -torch.tensor(slopes).view(1, -1, 1, 1) * (torch.arange(length)[:, None] - torch.arange(length)).abs()


@pytest.mark.parametrize("value, hides", [(-50.0, True), (-100.0, True), (-1000.0, True), (-49.0, False), (-3.0, False), (0.0, False)])
@pytest.mark.parametrize("shape", ["keys", "rows", "bf16", "f16", "integers"])
def test_a_mask_of_two_values_that_are_50_apart_hides_the_lower_one(value, hides, shape):
    mask = added(PADDING if shape != "rows" else CAUSAL, value)
    mask = mask.to({"bf16": torch.bfloat16, "f16": torch.float16, "integers": torch.int64}.get(shape, torch.float32))
    least = float(hidden_at(mask))
    assert (value <= least < 0) if hides else least == IGNORED_AT


@pytest.mark.parametrize("mask", [
    alibi(256, 0.5, 0.25), alibi(256, 0.5), alibi(256, 0.5, 0.25).masked_fill(torch.ones(256, 256).triu(1).bool(), -math.inf),
    alibi(6, 100.0), 8 * random(1, H, 64, 64), (8 * random(1, H, 64, 64)).masked_fill(torch.ones(64, 64).triu(1).bool(), torch.finfo(torch.float32).min),
    added(CAUSAL, -math.inf), added(CAUSAL, -65504.0, torch.float16), added(CAUSAL, -1e4, torch.bfloat16), torch.full((1, 1, T, T), math.nan)],
    ids=["ALiBi", "ALiBi of a head", "causal ALiBi", "a far bias", "relative positions", "T5", "-inf", "f16", "bf16", "NaN"])
def test_a_bias_hides_nothing_however_far_it_reaches(mask):
    assert float(hidden_at(mask)) == IGNORED_AT


@pytest.mark.parametrize("mask", [
    BIAS + added(PADDING), 5 * BIAS + added(PADDING), added(PADDING) + added(CAUSAL), added(PADDING).masked_fill(CAUSAL, -math.inf),
    alibi(T, 0.5, 0.25, 0.1, 0.05) + added(PADDING), added(PADDING).expand(B, H, T, T), added(PADDING) + 30.0],
    ids=["bias", "wide bias", "two masks", "with -inf", "ALiBi", "expanded", "above 0"])
def test_a_bias_and_a_mask_hide_what_the_mask_hides(mask):
    mask = mask.expand(B, -1, T, T)
    hidden = PADDING | (CAUSAL if float(mask[1, 0, 0, -1]) < -50 else torch.zeros(T, T, dtype=torch.bool))
    assert torch.equal(mask <= hidden_at(mask), hidden.expand_as(mask))


def test_what_is_found_of_some_rows_holds_for_these_alone():
    mask = added(CAUSAL)
    found = [float(hidden_at(mask, lambda of, row=row: hidden_at(of[row:row + 1].clone()), row)) for row in (T - 1, 3, T - 1)]
    assert found == [IGNORED_AT, -50.0, IGNORED_AT]


def test_a_mask_of_padding_alone_hides_every_key():
    assert float(hidden_at(torch.full((B, 1, 1, T), -100.0))) >= -100
    assert float(hidden_at(torch.full((B, 1, 1, T), -40.0))) == IGNORED_AT


MASKS = {"keys": (added(PADDING), 0.0), "rows": (added(CAUSAL)[None, None], 0.0), "bias": (BIAS + added(PADDING), BIAS.numpy()),
         "f16": (added(PADDING, dtype=torch.float16), 0.0), "a sample of padding": (added(PADDING | (torch.arange(B) == 1).view(B, 1, 1, 1)), 0.0)}


@pytest.mark.parametrize("name", MASKS)
def test_what_travels_of_a_fused_call_is_what_the_same_mask_of_infinity_says(name):
    """On an accelerator, too: message_of() compares with what it computes."""
    mask, bias = MASKS[name]
    message = message_of(Queries(Q, K, mask))
    same = message_of(Queries(Q, K, torch.where(mask < -50, torch.full_like(mask, -math.inf), mask)))
    np.testing.assert_allclose(weights_of(message), weights_of(same), atol=1e-7)
    for mine, other in zip(rows_of(message, LAYER)[1:], rows_of(same, LAYER)[1:]):
        assert (mine == other).all()
    if name != "a sample of padding":
        hidden = np.broadcast_to((mask < -50).numpy()[:, :1], (B, 1, T, T))
        expected = truth(Q, K, ~hidden, bias)
        valid = rows_of(message, LAYER)[2][:, None, :, None]
        np.testing.assert_allclose(weights_of(message) * valid, expected * valid, atol=1e-6)


@pytest.mark.parametrize("times", [1.0, 40.0])
def test_weights_of_saturated_heads_are_those_of_float64(times):
    """Logits of hundreds give a key that -100 was added to weight: then it is seen. Without a mask nothing is hidden."""
    q = times * Q
    for mask in (None, added(CAUSAL)[None, None]):
        captured, = (one.make(LAYER) for one in cut(Queries(q, K, mask), EVERYTHING, 0, Share(), Context()))
        message = captured.keys(LAYER), {one[0]: frame for one, frame in zip(captured.frames.described, captured.frames.copies())}
        expected = truth(q, K, bias=0.0 if mask is None else mask.numpy())
        np.testing.assert_allclose(weights_of(message), expected, atol=2e-5)


@pytest.mark.parametrize("times, factor", [(1.0, 1.0), (1.0, 10.0), (20.0, 10.0), (40.0, 10.0)])
def test_a_fused_call_and_a_softmax_see_the_same_of_keys_that_minus_100_hides(times, factor):
    q, mask = times * Q, added(CAUSAL)[None, None] * factor / 10
    logits = q @ K.transpose(-1, -2) * D**-0.5 + mask
    found = with_weight(read(HostCopy(mask), (B, H, T, T)), HostCopy(mask), np.ones((1, 1, 1, 1), dtype=bool), q.numpy(), K.numpy(), D**-0.5, 0.0)
    expected = visible_keys(logits.softmax(-1), logits, (CAUSAL & (factor > 5)).expand(B, H, T, T))
    assert (np.broadcast_to(found.allowed, (B, H, T, T)).any(1) == expected.numpy()).all()


@pytest.mark.skipif(not hasattr(torch.cpu, "Stream"), reason="as on an accelerator, whose streams torch.cpu has since 2.0")
@pytest.mark.parametrize("times", [1.0, 4.0, 300.0])
def test_an_accelerator_sends_no_rows_where_hidden_keys_have_weight(monkeypatch, times):
    computer = accelerator.Accelerator("job", Cost())
    monkeypatch.setattr(accelerator, "_CHECKED_ROWS", T)  # few of many, which takes captures
    reference_stands_in(monkeypatch)
    context = Context(sums=rows.Origin(0, 0, computer, False))
    for _ in range(2):
        part, = cut(Queries(times * Q, K, added(CAUSAL)[None, None]), EVERYTHING, 0, Share(), context)
        assert (part.make(LAYER) is not None) == (times < 300)
    assert computer.is_trusted == (times < 300)


def test_a_mask_of_numbers_shuts_off_later_keys():
    assert not sees_ahead(Queries(Q, K, added(CAUSAL)[None, None]))
    assert sees_ahead(Queries(Q, K, added(CAUSAL, -3.0)[None, None]))


def test_rows_of_a_device_count_the_keys_that_minus_100_leaves():
    found, expected = (row_statistics(Q, K, bias=added(PADDING, value))["entropy_normalized"] for value in (-100.0, -math.inf))
    torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------ an explicit softmax

def product(scale=D**-0.5):
    return Q @ K.transpose(-1, -2) * scale


def set_in_place(x):
    x[PADDING.expand_as(x)] = -100.0
    return x


def added_in_place(x):
    x += added(PADDING)
    return x


def windows(x):
    """As of Swin: each window has a mask of its own, and several samples have as many windows."""
    hidden = added(PADDING).view(B, T)[:, None, :].expand(B, T, T)
    return (x.view(1, B, H, T, T) + hidden.unsqueeze(1).unsqueeze(0)).view(-1, H, T, T)


WAYS = {
    "+": lambda x: x + added(PADDING), "+=": added_in_place, "add_": lambda x: x.add_(added(PADDING)),
    "torch.add": lambda x: torch.add(added(PADDING), x), "-": lambda x: x - 100.0 * PADDING.float(),
    "a bias, then a mask": lambda x: x + 3 * BIAS + added(PADDING), "one sum of both": lambda x: x + (BIAS + added(PADDING)),
    "ALiBi of 1/2": lambda x: x + alibi(T, 10.0, 5.0, 2.0, 1.0) + added(PADDING), "integers": lambda x: x + added(PADDING).long(),
    "masked_fill": lambda x: x.masked_fill(PADDING, -100.0), "masked_fill_": lambda x: x.masked_fill_(PADDING, -100.0),
    "where": lambda x: torch.where(PADDING, torch.tensor(-100.0), x), "where with a tensor": lambda x: torch.where(~PADDING, x, torch.full_like(x, -100.0)),
    "x.where": lambda x: x.where(~PADDING, torch.tensor(-100.0)), "an assignment": set_in_place, "windows": windows,
    "in three axes": lambda x: (x.view(B * H, T, T) + added(PADDING).expand(B, H, 1, T).reshape(B * H, 1, T)).view(B, H, T, T),
    "joined and parted": lambda x: (x + added(PADDING)).view(B * H, T, T).view(B, H, T, T), "cast": lambda x: (x + added(PADDING)).double().float(),
    "less the largest": lambda x: (lambda y: y - y.amax(-1, keepdim=True))(x + added(PADDING)), "scaled": lambda x: (x + added(PADDING, -800.0)) / 8,
    "baddbmm": lambda x: torch.baddbmm(added(PADDING).expand(B, H, T, T).reshape(B * H, T, T), Q.view(B * H, T, D),
                                       K.view(B * H, T, D).transpose(1, 2)).view(B, H, T, T)}


def weights_seen(spied, way):  # noqa: F811
    model = Calls()
    watcher = spied(model)
    model(lambda _: torch.softmax(way(product()), -1))
    (_, seen), = watcher.seen
    assert not watcher.failures
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_what_was_added_before_a_softmax_hides_its_keys(spied, way):  # noqa: F811
    seen = weights_seen(spied, WAYS[way])
    assert seen.is_known
    assert torch.equal(visible_keys(seen.weights, seen.logits, seen.hidden), (~PADDING[:, 0]).expand(B, T, T))


@pytest.mark.parametrize("way", [
    lambda x: 300 * x, lambda x: x + added(PADDING, -3.0), lambda x: x + 20 * BIAS, lambda x: x + 40 * alibi(T, 0.5, 0.25, 0.2, 0.1),
    lambda x: (x + added(PADDING)) / 8, lambda x: torch.tanh(x / 5) * 5 + BIAS],
    ids=["saturated heads", "-3", "a wide bias", "ALiBi", "a mask that is scaled down", "softcap"])
def test_logits_that_are_far_apart_hide_nothing(spied, way):  # noqa: F811
    seen = weights_seen(spied, way)
    assert seen.is_known and visible_keys(seen.weights, seen.logits, seen.hidden).all()


def test_a_key_with_weight_is_seen_whatever_was_added(spied):  # noqa: F811
    seen = weights_seen(spied, lambda x: 300 * x + added(PADDING))
    visible = visible_keys(seen.weights, seen.logits, seen.hidden)
    weight = (seen.weights * ~visible[:, None]).sum(-1)
    assert float(weight.max()) < 1e-6 and not visible.all() and (visible & PADDING[:, 0]).any()


def test_what_is_added_by_a_function_that_is_not_known_is_not_guessed_and_told(spied):  # noqa: F811
    for value in (-100.0, 0.0):
        seen = weights_seen(spied, lambda x: torch.cumsum(x, -1) + added(PADDING, value))
        assert not seen.is_known and seen.hidden is None
        assert may_be_masked(seen) == (value < 0)


ALIBI = alibi(256, 1.0, 0.5, 0.25, 0.01)
BEHIND = (torch.arange(256) >= 200).view(1, 1, 1, 256)


@pytest.mark.parametrize("bias, drowned", [
    (ALIBI + added(BEHIND), True), (ALIBI.masked_fill(CAUSAL.new_ones(256, 256).triu(1), -math.inf) + added(BEHIND), True),
    (ALIBI, False), (8 * random(1, 4, 256, 256), False), (ALIBI[:, :1] + added(BEHIND), False), (added(BEHIND), False),
    (ALIBI + added(BEHIND, -math.inf), False), (added(BEHIND) + random(1, 4, 256, 256), False), (added(CAUSAL), False)],
    ids=["ALiBi", "causal ALiBi", "ALiBi alone", "relative positions", "a head", "mask alone", "-inf", "mask that shows", "no heads"])
def test_a_mask_that_a_bias_of_each_head_reaches_below_is_told(spied, bias, drowned):  # noqa: F811
    length = bias.shape[-1]
    q = k = random(1, 4, length, D)
    assert may_be_masked(Queries(q, k, bias)) is drowned
    if bias.dim() == 4:
        model = Calls()
        watcher = spied(model)
        model(lambda _: torch.softmax(q @ k.transpose(-1, -2) + bias, -1))
        assert may_be_masked(watcher.seen[0][1]) is drowned


@pytest.mark.parametrize("shape, shared", [((T, T), True), ((1, 1, T, T), True), ((B, 1, T, T), False), ((B, 1, 1, T), False), ((T,), False)])
def test_whether_samples_share_what_was_added_is_known(spied, shape, shared):  # noqa: F811
    mask = added(PADDING[0, 0, 0].expand(shape).clone(), -math.inf)
    assert weights_seen(spied, lambda x: x + mask).shared is shared
    assert weights_seen(spied, lambda x: x.masked_fill(mask < 0, -math.inf)).shared is shared
    assert not weights_seen(spied, lambda x: x + mask + added(PADDING)).shared


@pytest.mark.skipif(not hasattr(torch, "vmap"), reason="flex attention needs vmap")
@pytest.mark.parametrize("biased", [False, True])
def test_a_score_mod_hides_what_it_is_100_below(biased, monkeypatch):
    monkeypatch.setattr(mods, "_biased", {})
    mask, bias = added(PADDING)[:, 0, 0], BIAS[0] if biased else torch.zeros(H, T, T)
    mod = mods.ScoreMod(lambda score, b, h, i, j: score + bias[h, i, j] + mask[b, j])
    given = Q, K, D**-0.5, mods.where((slice(0, B), slice(0, H), slice(0, T)), T, Q.device)
    assert mod.biased(*given) is biased
    expected = truth(Q, K, (~PADDING).numpy(), bias.numpy())
    np.testing.assert_allclose(mod.weights(*given)[0].numpy(), expected, atol=1e-6)
    assert (mod.logits(*given)[..., :1, :].isinf() == PADDING).all()
