# SPDX-License-Identifier: MIT
"""The trainer's own reference against cases that can be worked out by hand, and its comparison against lies."""
import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference
from reference import Attention, measure, pool


def one(weights, **options):
    """The numbers of one message [H,Tq,Tk] or [B,H,Tq,Tk]."""
    weights = torch.as_tensor(np.asarray(weights), dtype=torch.float64)
    return measure(Attention(weights if weights.dim() == 4 else weights[None], **options))


def causal_uniform(size):
    return np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]


def test_uniform_rows():
    m = one(np.full((1, 4, 4), 0.25))
    assert m.rows["entropy"][0] == pytest.approx([math.log(4)] * 4)
    assert m.rows["entropy_normalized"][0] == pytest.approx([1] * 4)
    assert m.rows["confidence"][0] == pytest.approx([0.25] * 4)
    assert m.rows["mean_distance"][0] == pytest.approx([1.5, 1.0, 1.0, 1.5])
    assert m.rows["first_token"][0] == pytest.approx([0.25] * 3)
    assert m.values["locality"][0] == pytest.approx(0.25) and m.values["variance"][0] == pytest.approx(0)
    assert m.values["spectral_norm"][0] == pytest.approx(1) and m.values["rank"][0] == 1
    assert math.isnan(m.values["condition_number"][0])  # short of rank
    assert m.sound == 4 and m.unsound == 0 and m.row_sum_error == pytest.approx(0)


def test_the_identity():
    m = one(np.eye(4)[None])
    assert m.rows["entropy"][0] == pytest.approx([0] * 4) and m.rows["diagonal"][0] == pytest.approx([1] * 4)
    assert m.values["locality"][0] == 0 and m.rows["mean_distance"][0] == pytest.approx([0] * 4)
    assert m.values["condition_number"][0] == 0 and m.values["rank"][0] == m.values["effective_rank"][0] == 4
    assert m.singular_values[0, :4] == pytest.approx([1] * 4) and np.isnan(m.singular_values[0, 4:]).all()
    assert m.aggregate["sum"] == pytest.approx({"mean": 0.25, "max": 1, "min": 0, "std": math.sqrt(0.2)})


def test_a_causal_uniform_head_is_not_focused():
    m = one(causal_uniform(8)[None], causal=True)
    assert m.rows["entropy_normalized"][0] == pytest.approx([1] * 7)  # the first row sees one key only
    assert m.values["min"][0] == pytest.approx(1 / 8)  # what is excluded does not count
    assert m.values["mean"][0] == pytest.approx(8 / 36)


def test_padding_and_lengths():
    weights = np.zeros((2, 1, 3, 3))
    weights[0, 0] = 1 / 3
    weights[1, 0, :, :2] = 0.5
    m = one(weights, q_len=[3, 2], k_len=[3, 2])
    assert m.sound == 5 and m.unsound == 0
    assert m.rows["entropy"][0] == pytest.approx([math.log(3)] * 3 + [math.log(2)] * 2)
    assert m.values["locality"][0] == pytest.approx((4 / 3 + 2 * 0.5) / 6)


def test_unsound_rows_are_counted_and_left_out():
    weights = np.full((1, 5, 5), 0.2)
    weights[0, 0, 0] = np.nan
    weights[0, 1] *= 1.01
    weights[0, 2, :2] = [-0.1, 0.5]
    m = one(weights)
    assert (m.sound, m.unsound) == (2, 3) and m.row_sum_error == pytest.approx(0.01)
    assert len(m.rows["entropy"][0]) == 2
    after_dropout = one(weights, dropout=True)
    assert (after_dropout.sound, after_dropout.unsound) == (3, 2)
    sink = one(np.full((1, 2, 2), 0.1), learned_sink=True)
    assert sink.sound == 2


def test_a_mask_hides_keys_and_a_row_without_keys_is_padding():
    weights = np.zeros((1, 2, 2))
    weights[0, 0] = [1, 0]
    m = one(weights, mask=torch.tensor([[[1, 0], [0, 0]]]))
    assert (m.sound, m.unsound) == (1, 0)
    assert len(m.rows["entropy_normalized"][0]) == 0


def test_cross_attention_has_no_diagonal_and_no_locality():
    m = one(np.full((2, 3, 4), 0.25), site="cross")
    assert all(len(rows) == 0 for rows in m.rows["diagonal"]) and np.isnan(m.values["locality"]).all()


def test_importance_of_equal_heads_is_equal():
    assert one(np.full((4, 3, 3), 1 / 3)).values["importance"] == pytest.approx([0.25] * 4)


def test_importance_by_hand():
    weights = np.stack([np.eye(2), np.full((2, 2), 0.5)])
    p = math.e / (math.e + 1)
    focused = -2 * (p * math.log(p + 1e-8) + (1 - p) * math.log(1 - p + 1e-8))
    flat = -4 * 0.5 * math.log(0.5 + 1e-8)
    scores = np.exp([(1 / 3 + focused) / 2, (0 + flat) / 2])
    assert one(weights).values["importance"] == pytest.approx(scores / scores.sum())


def test_maps_across_heads():
    m = one(np.stack([np.eye(2), np.full((2, 2), 0.5)]))
    assert m.aggregate["max"] == pytest.approx({"mean": 0.75, "max": 1, "min": 0.5, "std": math.sqrt(1 / 12)})
    assert m.aggregate["mean"]["max"] == 0.75 and m.aggregate["sum"]["max"] == 1.5


def test_top_pairs_break_ties_by_query_then_key():
    pairs = reference.top_pairs(torch.tensor([[0.5, 0.5], [0.9, 0.5]]), 3)
    assert [(p["query"], p["key"], p["weight"]) for p in pairs] == [
        (1, 0, pytest.approx(0.9)), (0, 0, 0.5), (0, 1, 0.5)]


def test_statistics_of_a_window():
    values = reference.describe(np.array([3.0, 1.0, 2.0, np.nan, 4.0]), last=7.0)
    assert values == pytest.approx({"mean": 2.5, "std": math.sqrt(5 / 3), "min": 1, "max": 4, "p50": 2, "p90": 4,
                                    "p99": 4, "last": 7, "count": 4})
    assert reference.describe(np.arange(1.0, 101), 0)["p90"] == 90
    assert math.isnan(reference.describe(np.array([5.0]), 5.0)["std"])
    assert reference.describe(np.array([]), math.nan)["count"] == 0


def test_rows_are_pooled_over_messages_and_last_is_the_newest():
    window = pool([one(np.eye(4)[None]), one(np.full((1, 4, 4), 0.25))])
    entropy = window["heads"]["entropy"]
    assert entropy["count"][0] == 8 and entropy["mean"][0] == pytest.approx(math.log(4) / 2)
    assert entropy["last"][0] == pytest.approx(math.log(4))
    assert window["heads"]["variance"]["count"][0] == 2 and window["messages"] == 2 and window["rows"] == 8
    assert window["spectrum"]["singular_values"]["count"][0, :5].tolist() == [2, 2, 2, 2, 0]


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(3):
        logits = rng.normal(size=(2, 2, 6, 6)) + np.where(np.tril(np.ones((6, 6))), 0, -np.inf)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        messages.append(one(weights, causal=True, q_len=[6, 4], k_len=[6, 4]))
    return pool(messages)


def test_a_summary_that_is_right_compares_well(window):
    summary = copy.deepcopy(window)
    found = reference.compare(summary, window)
    assert len(found) > 300 and all(d.ok for d in found)
    del summary["heads"]["entropy"]["count"]
    assert any(not d.ok for d in reference.compare(summary, window))


def paths_of(value, path=()):
    """Every number of a summary, as the path to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, np.ndarray):
        yield from ((*path, index) for index in np.ndindex(value.shape))
    else:
        yield path


def test_no_number_can_be_wrong_unnoticed(window):
    """Every single number of the window, changed by a little more than its tolerance, is found."""
    numbers = {k: window[k] for k in ("heads", "spectrum", "aggregate", "messages", "rows", "invalid_rows")}
    checked = 0
    for path in paths_of(numbers):
        lie = copy.deepcopy(window)
        inside = lie
        for key in path[:-1]:
            inside = inside[key]
        value = float(inside[path[-1]])
        if math.isnan(value):
            continue
        whole = value == int(value) and "last" not in path
        inside[path[-1]] = value + 1 if whole else value * 1.05 + 0.001
        assert any(not d.ok for d in reference.compare(lie, window)), path
        checked += 1
    assert checked > 300


def test_what_is_missing_is_wrong(window):
    for group in ("heads", "spectrum", "aggregate", "top_pairs", "messages"):
        summary = {k: v for k, v in window.items() if k != group}
        assert any(not d.ok for d in reference.compare(summary, window)), group
