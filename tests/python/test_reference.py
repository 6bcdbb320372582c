# SPDX-License-Identifier: MIT
"""The trainer's own reference against cases that can be worked out by hand, and its comparison against lies."""
import copy
import functools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference
import reference_qk
from reference import Attention, Settings, measure, pool
from reference_heads import patterns, sink_rate
from reference_rows import ROW_METRICS

EVERYTHING = Settings(similarity=True, head_pairs=True, head_weights=[0.5, -1, 2])


def one(weights, settings=Settings(), **options):
    """The numbers of one message [H,Tq,Tk] or [B,H,Tq,Tk]."""
    weights = torch.as_tensor(np.asarray(weights), dtype=torch.float64)
    return measure(Attention(weights if weights.dim() == 4 else weights[None], **options), settings)


def causal_uniform(size):
    return np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]


def vectors(q, k, v=None, scale=1.0, dtype="f32", **options):
    """An Attention of q [H,T,d], k [Hkv,T,d] and maybe v."""
    tensors = {name: torch.as_tensor(np.asarray(x, dtype=np.float64))[None]
               for name, x in (("q", q), ("k", k), ("v", v)) if x is not None}
    return reference_qk.attention(tensors, dtype, scale, **options)


near = pytest.approx
NONE = near(math.nan, nan_ok=True)
UNIFORM = np.full((1, 4, 4), 0.25)

# name: (the map or vectors, options, {number of the first head: what it is}); rows are lists, of those that have it
BY_HAND = {
    "uniform rows": (UNIFORM, {"settings": Settings(local_window=1)}, {
        "entropy": near([math.log(4)] * 4), "entropy_normalized": near([1] * 4), "effective_keys": near([4] * 4),
        "confidence": near([0.25] * 4), "mean_distance": near([1.5, 1.0, 1.0, 1.5]),
        "mean_distance_normalized": near([1.5 / 3, 1 / 2, 1 / 2, 1.5 / 3]), "first_token": near([0.25] * 3),
        "local_mass": near([0.5, 0.75, 0.75, 0.5]),  # of both sides
        "locality": near(0.25), "variance": near(0), "spectral_norm": near(1), "rank": 1,
        "condition_number": NONE,  # short of rank
        "rows": (4, 0), "row_sum_error": near(0)}),
    "a causal uniform head is not focused": (causal_uniform(8)[None], {"causal": True}, {
        "entropy_normalized": near([1] * 7),  # the first row sees one key only
        "min": near(1 / 8), "mean": near(8 / 36)}),  # what is excluded does not count
    "padding and lengths": ([[[[1 / 3] * 3] * 3], [[[0.5, 0.5, 0]] * 3]], {"q_len": [3, 2], "k_len": [3, 2]}, {
        "rows": (5, 0), "entropy": near([math.log(3)] * 3 + [math.log(2)] * 2), "locality": near((4 / 3 + 2 * 0.5) / 6)}),
    "a mask hides keys and a row without keys is padding": (
        [[[1, 0], [0, 0]]], {"mask": torch.tensor([[[1, 0], [0, 0]]])}, {"rows": (1, 0), "entropy_normalized": []}),
    "a row that sees itself only has no normalized distance": (np.eye(3)[None], {"window": 1, "causal": True}, {
        "mean_distance_normalized": [], "mean_distance": near([0] * 3)}),
    "a perfect previous-token head": ((np.eye(5, k=-1) + np.diag([1, 0, 0, 0, 0]))[None], {"causal": True}, {
        "previous_token": near([1] * 4), "next_token": near([0] * 4), "patterns": [{"previous_token"}],
        "locality": near(0.5)}),
    "tail mass is what the eight largest leave": (np.full((1, 1, 10), 0.1), {"site": "cross"}, {"tail_mass": near([0.2])}),
    "eight leave nothing": (np.full((1, 1, 8), 1 / 8), {"site": "cross"}, {"tail_mass": near([0])}),
    "a learned sink takes a share": (np.full((1, 2, 2), 0.1), {"learned_sink": True}, {
        "sink_deficit": near([0.8, 0.8]), "rows": (2, 0)}),
    "without a sink nothing is missing": (np.full((1, 2, 2), 0.5), {}, {"sink_deficit": []}),
    "queries of length zero attend uniformly": (vectors(np.zeros((1, 4, 2)), np.ones((1, 4, 2)), causal=True), {}, {
        "entropy": near(np.log([1, 2, 3, 4])), "max_logit": near([0] * 4), "q_norm": 0, "k_norm": near(math.sqrt(2)),
        "qk_cosine": NONE, "max_abs_logit": 0, "output_norm": NONE, "rows": (4, 0), "row_sum_error": near(0)}),
    "rows without a finite logit are unsound": (vectors([[[1.0], [math.nan]]], np.ones((1, 2, 1))), {}, {
        "rows": (1, 1), "max_logit": near([1])}),
    "what values become": (vectors(np.zeros((1, 2, 1)), np.ones((1, 2, 1)), [[[3.0, 0.0], [0.0, 1.0]]]), {}, {
        "output_norm": near(math.hypot(1.5, 0.5)),
        "norm_weighted_entropy": near(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_numbers_by_hand(name):
    given, options, numbers = BY_HAND[name]
    m = measure(given) if isinstance(given, Attention) else one(given, **options)
    for number, want in numbers.items():
        if number in m.rows:
            found = list(m.rows[number][0])
        elif number in m.values:
            found = m.values[number][0]
        else:
            found = (m.sound, m.unsound) if number == "rows" else getattr(m, number)
        assert found == want, number


def test_the_identity():
    m = one(np.eye(4)[None])
    assert m.rows["entropy"][0] == pytest.approx([0] * 4) and m.rows["diagonal"][0] == pytest.approx([1] * 4)
    assert m.values["locality"][0] == 0 and m.rows["mean_distance"][0] == pytest.approx([0] * 4)
    assert m.values["condition_number"][0] == 0 and m.values["rank"][0] == m.values["effective_rank"][0] == 4
    values = m.vectors["singular_values"][0]
    assert values[:4] == pytest.approx([1] * 4) and np.isnan(values[4:]).all()
    assert m.values["effective_rank_entropy"][0] == pytest.approx(4) and m.values["nuclear_norm"][0] == 4
    assert m.values["stable_rank"][0] == 4 and m.values["eigenvalue_2"][0] == 1
    assert m.vectors["low_rank_error"][0] == pytest.approx([math.sqrt(3 / 4), math.sqrt(2 / 4), 0, 0, 0])
    assert m.aggregate["sum"] == pytest.approx({"mean": 0.25, "max": 1, "min": 0, "std": math.sqrt(0.2)})


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


def test_cross_attention_has_no_diagonal_and_no_locality():
    m = one(np.full((2, 3, 4), 0.25), site="cross")
    assert all(len(rows) == 0 for rows in m.rows["diagonal"]) and np.isnan(m.values["locality"]).all()


def test_without_its_first_key_a_row_is_normalized_again():
    m = one([[[0.5, 0.25, 0.25]] * 3, [[1, 0, 0]] * 3])
    assert m.rows["entropy_sans_first"][0] == pytest.approx([1] * 3)
    assert len(m.rows["entropy_sans_first"][1]) == 0  # nothing is left
    windowed = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0.5, 0.25, 0.25]])
    later = one(windowed[None], causal=True, window=3)  # the last row, unlike the one before, does not see key 0
    assert later.rows["entropy_sans_first"][0] == pytest.approx([0, 1.5 * math.log(2) / math.log(3)])


def test_earlier_occurrences_of_the_querys_token():
    weights = np.array([[0.1, 0.2, 0.3, 0.4]] * 4)
    m = one(weights[None], tokens=torch.tensor([[5, 7, 5, 5]]))
    assert m.rows["duplicate_token"][0] == pytest.approx([0.1, 0.1 + 0.3])
    assert m.rows["induction"][0] == pytest.approx([0.2, 0.2 + 0.4])
    short = one(weights[None], tokens=torch.tensor([[5, 7, 5, 5]]), q_len=[3], dropout=True)
    assert short.rows["duplicate_token"][0] == pytest.approx([0.1])
    assert all(len(one(weights[None], tokens=torch.tensor([[5] * 4]), site="cross").rows[name][0]) == 0
               for name in ("induction", "duplicate_token"))


def test_documents_see_themselves_only():
    blocks = np.kron(np.eye(2), np.full((2, 2), 0.5))
    documents = torch.tensor([[3, 3, 9, 9]])
    m = one(blocks[None], documents=documents)
    assert m.rows["entropy_normalized"][0] == pytest.approx([1] * 4) and m.patterns == [{"uniform"}]
    assert m.rows["previous_token"][0] == pytest.approx([0.5, 0, 0.5])  # across the border nothing is seen
    everywhere = one(np.full((1, 4, 4), 0.25), documents=documents)
    assert (everywhere.sound, everywhere.unsound) == (0, 4)  # half of the weight is on other documents
    assert one(np.full((1, 4, 4), 0.25), documents=documents, site="cross").sound == 4


def test_an_offset_moves_the_queries():
    weights = np.full((1, 2, 5), 0.2)
    m = one(weights * 5 / 4, q_offset=3, causal=True, dropout=True)
    assert m.rows["entropy_normalized"][0] == pytest.approx([1, 1.25 * math.log(4) / math.log(5)])
    assert m.rows["mean_distance"][0] == pytest.approx([0.25 * 6, 0.25 * 10])
    assert len(m.rows["first_token"][0]) == 2 and len(m.rows["next_token"][0]) == 1


def test_the_gradient_score_is_a_unit_vector():
    weights, grad = np.full((2, 2, 2), 0.5), np.zeros((1, 2, 2, 2))
    grad[0, 0], grad[0, 1] = 3, -4
    grad[0, 0, 0, 1] = np.inf
    got = one(weights, grad=torch.as_tensor(grad)).values["importance_gradient"]
    assert got == pytest.approx(np.array([4.5, 8]) / math.hypot(4.5, 8))
    assert np.isnan(one(weights).values["importance_gradient"]).all()
    assert np.isnan(one(weights, grad=torch.zeros(1, 2, 2, 2)).values["importance_gradient"]).all()


def test_importance_of_equal_heads_is_equal_and_others_by_hand():
    assert one(np.full((4, 3, 3), 1 / 3)).values["importance"] == pytest.approx([0.25] * 4)
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


def test_maps_with_weights():
    maps = np.stack([np.eye(2), np.full((2, 2), 0.5)])
    m = one(maps, Settings(head_weights=[2, -1]))
    assert m.aggregate["weighted"] == pytest.approx({"mean": 0.5, "max": 1.5, "min": -0.5, "std": math.sqrt(4 / 3)})
    share = m.values["importance"]
    assert m.aggregate["importance"]["max"] == pytest.approx(share[0] + share[1] / 2)
    assert "weighted" not in one(maps, Settings(head_weights=[1, 2, 3])).aggregate
    broken = maps.copy()
    broken[1, 0, 0] = np.nan
    assert one(broken, Settings(head_weights=[1, 0])).aggregate["weighted"]["max"] == 1


def test_similar_heads():
    one_way, other_way = np.array([[1, 0], [1, 0.0]]), np.array([[0, 1], [0, 1.0]])
    m = one(np.stack([one_way, other_way, one_way]), EVERYTHING).similarity
    assert m["head_similarity"] == pytest.approx(np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]))
    assert m["head_js"] == pytest.approx(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) * math.log(2))
    assert m["redundant_pairs"] == [{"heads": [0, 2], "js": 0}] and m["redundant_total"] == 1


def test_similarity_by_hand():
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = one(np.stack([[p], [q]]), EVERYTHING, site="cross").similarity
    middle = (p + q) / 2
    js = (p * np.log(p / middle)).sum() / 2 + (q * np.log(q / middle)).sum() / 2
    assert m["head_js"][0, 1] == pytest.approx(js)
    assert m["head_similarity"][0, 1] == pytest.approx((p @ q) / (np.linalg.norm(p) * np.linalg.norm(q)))


def test_similarity_takes_rows_that_are_sound_in_both_heads():
    weights = np.full((2, 2, 2), 0.5)
    weights[0, 0] = np.nan
    weights[1, 1] = 3
    m = one(weights, EVERYTHING).similarity
    assert math.isnan(m["head_js"][0, 1]) and m["head_js"][0, 0] == 0 and m["redundant_total"] == 0


def test_spectrum_by_hand():
    m = one(np.array([[[0.6, 0.4], [0.2, 0.8]]]))
    s = np.sqrt(np.array([1.2 + math.sqrt(1.44 - 4 * 0.16), 1.2 - math.sqrt(1.44 - 4 * 0.16)]) / 2)
    share = s / s.sum()
    assert m.values["spectral_norm"][0] == pytest.approx(s[0]) and m.values["nuclear_norm"][0] == pytest.approx(s.sum())
    assert m.values["stable_rank"][0] == pytest.approx(1.2 / s[0]**2)
    assert m.values["effective_rank_entropy"][0] == pytest.approx(math.exp(-(share * np.log(share)).sum()))
    assert m.values["condition_number"][0] == pytest.approx(math.log10(s[0] / s[1]))
    assert m.values["eigenvalue_2"][0] == pytest.approx(0.4)  # 1 and the determinant
    assert m.vectors["low_rank_error"][0] == pytest.approx([s[1] / math.sqrt(1.2), 0, 0, 0, 0], abs=1e-12)


def test_eigenvalues_of_causal_and_of_circular_maps():
    assert one(causal_uniform(6)[None], causal=True).values["eigenvalue_2"][0] == 0.5
    assert one(np.roll(np.eye(4), 1, 1)[None]).values["eigenvalue_2"][0] == pytest.approx(1)
    assert np.isnan(one(np.full((1, 2, 3), 1 / 3), site="cross").values["eigenvalue_2"]).all()
    assert np.isnan(one(np.ones((1, 1, 1))).values["eigenvalue_2"]).all()


def test_ranks_near_the_threshold_have_a_slack():
    below = one(np.diag([1, 0.01 * (1 - 1e-4)])[None], dropout=True)
    assert below.values["effective_rank"][0] == 1 and below.slack["effective_rank"][0] == 1
    assert one(np.diag([1, 0.02])[None], dropout=True).slack["effective_rank"][0] == 0


HEAD = {"entropy": 1.0, "entropy_normalized": 0.5, "previous_token": 0.1, "next_token": 0.1, "diagonal": 0.1,
        "first_token": 0.1, "induction": math.nan, "duplicate_token": math.nan, "local_mass": 0.5,
        "mean_distance_normalized": 0.5}


@pytest.mark.parametrize("names, numbers", [
    ({None}, {"entropy": math.nan}),
    ({"uniform"}, {"entropy_normalized": 0.96, "diagonal": 0.9}),
    ({"diagonal"}, {"diagonal": 0.7, "first_token": 0.6}),
    ({"induction"}, {"induction": 0.51}),
    ({"duplicate_token"}, {"duplicate_token": 0.9, "local_mass": 0.9, "mean_distance_normalized": 0.1}),
    ({"local"}, {"local_mass": 0.8, "mean_distance_normalized": 0.2}),
    ({"mixed"}, {"local_mass": 0.8, "mean_distance_normalized": 0.3}),
    ({"long_range"}, {"mean_distance_normalized": 0.61}),
    ({"mixed"}, {"mean_distance_normalized": math.nan}),
    ({"uniform", "next_token"}, {"entropy_normalized": 0.94999, "next_token": 0.6}),
    ({"first_token", "mixed"}, {"first_token": 0.500001}),
    ({"first_token", "diagonal"}, {"first_token": 0.6, "diagonal": 0.600001}),
    ({"local", "mixed"}, {"local_mass": 0.75, "mean_distance_normalized": 0.2}),
    ({"long_range", "mixed"}, {"mean_distance_normalized": 0.599995}),
])
def test_patterns_and_what_is_too_near_to_call(names, numbers):
    assert patterns({**HEAD, **numbers}, 1e-4, 1e-5) == names


def test_the_sink_rate_counts_heads_that_have_a_first_token():
    assert sink_rate([0.31, 0.3, 0.9, math.nan]) == pytest.approx(2 / 3)
    assert math.isnan(sink_rate([math.nan]))
    near = np.array([[0.3000001, 0.6999999]] * 2)
    assert one(np.stack([near, np.eye(2)])).slack["sink_rate"] == pytest.approx(0.5)


def test_top_pairs_break_ties_by_query_then_key():
    pairs = reference.top_pairs(torch.tensor([[0.5, 0.5], [0.9, 0.5]]), 3)
    assert [(p["query"], p["key"], p["weight"]) for p in pairs] == [
        (1, 0, pytest.approx(0.9)), (0, 0, 0.5), (0, 1, 0.5)]


def test_statistics_of_a_window():
    values = reference.describe(np.array([3.0, 1.0, 2.0, np.nan, 4.0]), last=7.0)
    assert values == pytest.approx({"mean": 2.5, "std": math.sqrt(5 / 3), "min": 1, "max": 4, "p10": 1, "p50": 2, "p90": 4,
                                    "p99": 4, "last": 7, "count": 4, "width": 2 ** (1 / 32) - 1, "small": 0})
    assert reference.describe(np.arange(1.0, 101), 0)["p90"] == 90
    assert reference.describe(np.arange(1.0, 101), 0)["p10"] == 10
    assert math.isnan(reference.describe(np.array([5.0]), 5.0)["std"])
    assert reference.describe(np.array([]), math.nan)["count"] == 0


def test_the_resolution_of_quantiles_follows_the_spread():
    widths = [reference.describe(np.geomspace(1, 2.0**octaves, 1000), 0)["width"] for octaves in (1, 2, 4, 8, 30)]
    assert widths == pytest.approx([2.0**step - 1 for step in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 4)])
    assert reference.describe(np.geomspace(1, 2.0**30, 1000), 0)["small"] == pytest.approx(2.0**18.5)
    assert reference.describe(np.array([0.0, 1e-20, 5.0]), 0)["width"] == widths[0]


def test_rows_are_pooled_over_messages_and_last_is_the_newest():
    window = pool([one(np.eye(4)[None]), one(np.full((1, 4, 4), 0.25))])
    entropy = window["heads"]["entropy"]
    assert entropy["count"][0] == 8 and entropy["mean"][0] == pytest.approx(math.log(4) / 2)
    assert entropy["last"][0] == pytest.approx(math.log(4))
    assert window["heads"]["variance"]["count"][0] == 2 and window["messages"] == 2 and window["rows"] == 8
    assert window["spectrum"]["singular_values"]["count"][0, :5].tolist() == [2, 2, 2, 2, 0]


@pytest.fixture(scope="module")
def window():
    """Three messages of a layer in which every number exists, with a learned sink."""
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(3):
        logits = rng.normal(size=(2, 3, 6, 6)) + np.where(np.tril(np.ones((6, 6))), 0, -np.inf)
        weights = np.exp(logits) / (np.exp(logits).sum(-1, keepdims=True) + 0.3)
        weights[:, 2] = weights[:, 1] * 0.98 + 0.02 * weights[:, 0]
        messages.append(one(weights, EVERYTHING, causal=True, q_len=[6, 4], k_len=[6, 4], learned_sink=True,
                            tokens=torch.tensor(rng.integers(0, 3, (2, 6))),
                            grad=torch.tensor(rng.normal(size=weights.shape))))
    return pool(messages)


def summary_of(window):
    """What a daemon would send: the window without what only the comparison needs."""
    if not isinstance(window, dict):
        return copy.deepcopy(window)
    return {k: summary_of(v) for k, v in window.items()
            if k not in ("pair_map", "head_maps", "patterns", "slack", "width", "small")}


def is_right(summary, window):
    return all(d.ok for d in reference.compare(summary, window))


def test_every_number_of_the_window_exists_and_a_summary_that_is_right_compares_well(window):
    assert all((window["heads"][name]["count"] > 0).all() for name in window["heads"] if name != "pattern")
    assert all((window["spectrum"][name]["count"] > 0).any() for name in window["spectrum"])
    assert set(ROW_METRICS) < set(window["heads"]) and window["similarity"]["redundant_total"] > 0
    assert is_right(summary_of(window), window) and len(reference.compare(summary_of(window), window)) > 1500


def paths_of(value, path=()):
    """Every number and name of a summary, as the path to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, (*path, index))
    elif isinstance(value, np.ndarray):
        yield from ((*path, index) for index in np.ndindex(value.shape))
    else:
        yield path


def a_lie_instead_of(value, path):
    """A little more off than any tolerance; None for what does not exist."""
    if isinstance(value, str):
        return "mixed" if value != "mixed" else "local"
    value = float(value)
    if math.isnan(value):
        return None
    counts = path[-1] in ("query", "key", "redundant_total") or set(path) & {"count", "rank"}
    if counts or path[-2:-1] == ("heads",):
        return int(value) + 1
    if set(path) & {"p10", "p50", "p90", "p99"}:
        return value * 1.25 + 0.025  # the widest buckets
    deviation = path[0] == "spectrum" and "std" in path  # as wrong as the values are, which are around 10
    return value * 1.0025 + (0.025 if deviation else 0.0025)


def only_with(window, path):
    """The window with no other statistics than those in which the number of that path is."""
    return {group: {name: stats for name, stats in value.items() if (group, name) == path[:2]}
            if group in ("heads", "spectrum", "aggregate") else value for group, value in window.items()}


def nothing_instead_of(value, path):
    return math.nan if isinstance(value, float) and not math.isnan(value) else None


@pytest.mark.parametrize("wrong_instead_of", [a_lie_instead_of, nothing_instead_of])
def test_no_number_can_be_wrong_unnoticed(window, wrong_instead_of):
    """Every single number of the window, changed by a little more than its tolerance, or NaN, is found where it is."""
    checked, lie = 0, summary_of(window)
    for path in list(paths_of(lie)):
        inside = functools.reduce(lambda value, key: value[key], path[:-1], lie)
        right = inside[path[-1]]
        wrong = wrong_instead_of(right, path)
        if wrong is None:
            continue
        inside[path[-1]] = wrong
        assert not is_right(lie, only_with(window, path)), path
        inside[path[-1]] = right
        checked += 1
    assert checked > 1000


def test_a_number_where_there_is_none_is_wrong(window):
    empty = pool([one(np.full((3, 6, 6), np.nan), EVERYTHING)])
    for name in ROW_METRICS + ("importance", "locality"):
        lie = summary_of(empty)
        lie["heads"][name]["mean"] = [0.0] * 3
        assert not is_right(lie, empty), name
    assert is_right(summary_of(empty), empty)


def test_what_is_missing_is_wrong(window):
    paths = [("heads", "entropy", "count"), *((group,) for group in (
        "heads", "spectrum", "aggregate", "sink_rate", "top_pairs", "head_top_pairs", "similarity", "messages"))]
    paths += [(group, name) for group in ("heads", "spectrum", "aggregate", "similarity") for name in window[group]]
    for *around, name in paths:
        summary = summary_of(window)
        del functools.reduce(dict.__getitem__, around, summary)[name]
        assert not is_right(summary, window), (*around, name)


def test_what_is_wrong_is_said_in_the_unit_of_the_number(window):
    summary = summary_of(window)
    summary["heads"]["entropy"]["mean"][0] += 0.5
    summary["heads"]["confidence"]["mean"][1] *= 1.25
    summary["heads"]["tail_mass"]["max"][2] += 0.25
    summary["heads"]["pattern"]["last"][0] = "sideways"
    wrong = [d for d in reference.compare(summary, window) if not d.ok]
    assert [(d.name, pytest.approx(d.error)) for d in wrong] == [
        ("entropy", 0.5), ("confidence", 0.25), ("tail_mass", 0.25), ("pattern", math.inf)]
    assert wrong[0].text.startswith("entropy mean: got ")
    assert wrong[3].text == f"pattern: sideways where it should be {window['heads']['pattern']['last'][0]}"


def test_places_outside_the_map_and_repeated_places_are_wrong(window):
    for pair in ({"query": 99, "key": 0, "weight": 0.5}, dict(window["top_pairs"][1])):
        summary = summary_of(window)
        summary["top_pairs"][0] = pair
        assert not is_right(summary, window)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 0.0, 1e300, -1.0])
def test_hostile_maps_have_no_rows_and_nothing_raises(fill):
    m = one(np.full((2, 3, 3), fill), EVERYTHING, grad=torch.full((1, 2, 3, 3), fill, dtype=torch.float64))
    assert (m.sound, m.unsound) == (0, 6) and m.patterns == [{None}] * 2
    assert is_right(summary_of(pool([m])), pool([m]))


# ---------------------------------------------------------------------------------- queries and keys

def test_logits_are_scaled_then_capped_and_only_those_that_are_visible_count():
    q, k = [[[2.0, 0.0], [0.0, 1.0]]], [[[3.0, 0.0], [0.0, -1.0]]]  # products: 6 0 / 0 -1
    m = measure(vectors(q, k, scale=0.5))
    assert m.rows["max_logit"][0] == pytest.approx([3, 0])
    assert m.values["mean_logit"][0] == pytest.approx(2.5 / 4) and m.values["max_abs_logit"][0] == 3
    assert m.values["std_logit"][0] == pytest.approx(np.std([3, 0, 0, -0.5], ddof=1))
    assert m.values["qk_cosine"][0] == 0 and m.values["qk_cosine_max"][0] == 1
    assert m.rows["confidence"][0] == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-0.5))])
    causal = measure(vectors(q, k, scale=0.5, causal=True))
    assert causal.values["mean_logit"][0] == pytest.approx(2.5 / 3)
    capped = measure(vectors(q, k, scale=0.5, softcap=2.0))
    assert capped.rows["max_logit"][0] == pytest.approx([2 * math.tanh(1.5), 0])


def test_heads_share_key_heads():
    q = np.ones((4, 2, 1))
    m = measure(vectors(q, [[[1.0], [1.0]], [[5.0], [5.0]]]))
    assert m.values["k_norm"] == pytest.approx([1, 1, 5, 5])
    assert [m.rows["max_logit"][h][0] for h in range(4)] == pytest.approx([1, 1, 5, 5])


def test_padding_has_no_vectors_and_its_rows_are_zero():
    q, k = np.ones((1, 3, 1)), np.array([[[1.0], [2.0], [90.0]]])
    a = vectors(q, k, q_len=[2], k_len=[2])
    assert (a.weights[0, 0, 2] == 0).all() and (a.weights[0, 0, :, 2] == 0).all()
    m = measure(a)
    assert (m.sound, m.unsound) == (2, 0) and m.values["k_norm"][0] == pytest.approx(1.5)
    assert m.values["max_abs_logit"][0] == 2


def test_what_heads_write_and_what_of_it_matters():
    q, v = np.zeros((2, 2, 1)), torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]], dtype=torch.float64)  # outputs (1.5, 0.5)
    sent = dict(q=torch.as_tensor(q)[None], k=torch.ones(1, 1, 2, 1), v=v,
                dout=torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [math.nan, 1.0]]]]),
                wo_r=torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]]), x_norm=torch.tensor([[2.0, 0.0]]))
    m = measure(reference_qk.attention(sent, "f32", 1.0))
    assert m.values["write_norm"] == pytest.approx([3, 2]) and m.values["residual_share"] == pytest.approx([1.5, 1])
    # A = 1/2: head 0 has 3/2, head 1 2/2, and nothing from the row that is not finite
    assert m.values["importance_gradient"] == pytest.approx(np.array([1.5, 1]) / math.hypot(1.5, 1))
    without = measure(reference_qk.attention({name: sent[name] for name in "qkv"}, "f32", 1.0))
    assert np.isnan([without.values[name] for name in ("write_norm", "residual_share", "importance_gradient")]).all()
    weights = torch.full((1, 2, 2, 2), 0.5, dtype=torch.float64)
    beside = measure(Attention(weights, values=reference_qk.values_of({**sent, "weights": weights}, "weights")))
    assert all(beside.values[name] == pytest.approx(m.values[name]) for name in reference_qk.VALUE_METRICS)


def test_the_gradient_by_the_output_says_what_autograd_says_of_the_weights():
    generator = torch.Generator().manual_seed(1)
    q, k, v, wo = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                   for shape in ((2, 4, 6, 8), (2, 4, 6, 8), (2, 4, 6, 5), (4, 5, 20)))
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    weights = (q @ k.transpose(-1, -2) / 3).masked_fill(hidden, -math.inf).softmax(-1).requires_grad_()
    output = weights @ v
    output.retain_grad()
    torch.einsum("bhid,hdo->bio", output, wo).tanh().square().sum().backward()
    sent = dict(q=q, k=k, v=v, dout=output.grad)
    by_output = measure(reference_qk.attention(sent, "f64", 1 / 3, causal=True)).values["importance_gradient"]
    by_weights = measure(Attention(weights.detach(), "f64", causal=True, grad=weights.grad)).values["importance_gradient"]
    assert by_output == pytest.approx(by_weights, rel=1e-12) and by_output.min() > 0.1


def test_the_spectrum_of_queries_times_keys_is_unmasked():
    q = np.array([[[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    m = measure(vectors(q, np.array([np.eye(3, 2)]), scale=3.0, causal=True))
    values = m.vectors["qk_singular_values"][0]
    assert values[:2] == pytest.approx([6, 3]) and np.isnan(values[2:]).all()  # of head_dim 2: not more
    assert m.values["qk_rank"][0] == 2 and m.values["qk_condition_number"][0] == pytest.approx(math.log10(2))
    assert m.values["qk_stable_rank"][0] == pytest.approx(1.25) and m.values["qk_nuclear_norm"][0] == pytest.approx(9)
    assert "qk_eigenvalue_2" not in m.values and m.values["eigenvalue_2"][0] > 0


def test_from_the_weights_on_it_is_as_if_they_had_been_sent():
    rng = np.random.default_rng(0)
    a = vectors(rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 4)), scale=0.5, causal=True, q_len=[5], k_len=[5])
    by_qk, by_weights = measure(a), measure(a._replace(qk=None))
    assert all(np.array_equal(by_qk.rows[name][h], by_weights.rows[name][h]) for name in ROW_METRICS for h in range(2))
    assert by_qk.aggregate == by_weights.aggregate and by_qk.patterns == by_weights.patterns
    assert all(np.array_equal(by_qk.values[name], by_weights.values[name], equal_nan=True) for name in by_weights.values)
    assert set(by_qk.values) - set(by_weights.values) == {*reference_qk.QK_METRICS, *reference_qk.QK_SPECTRUM_METRICS}
