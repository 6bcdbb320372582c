# SPDX-License-Identifier: MIT
"""Every number of tier attention through the daemon, of whole maps and of some rows; what is switched on and off; the
spectrum's budget."""
import numpy as np
import pytest
from harness import Attnd, DTYPE_NAME, Reader, Trainer, as_f64, observed
from tiers import (ALL_ON, EVERYTHING, HEADS, LENGTH, MASKS, ROUND, Masks, attention_of, differences, header_of, news,
                   numbers, of_window, random_logits, softmax, tensors_of, visible, wrong)

import formulas
import reference
from cases import Case

# ------------------------------------------------------------------------------------- tier attention

@pytest.mark.parametrize("name, dtype", [*((name, "f32") for name in MASKS), ("causal", "f64"), ("causal-lengths", "f16"),
                                         ("documents", "bf16")])
def test_every_number_of_attention_is_right(rng, name, dtype):
    attnd, m = Attnd(*ALL_ON), MASKS[name]
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    measured = []
    for step in range(2):
        weights = ROUND[dtype](softmax(random_logits(rng), visible(m)))
        tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
        grad = rng.normal(size=weights.shape)
        trainer.attention(weights, step=step, tokens=tokens, grad=grad, **tensors_of(m), **header_of(m))
        measured.append(reference.measure(attention_of(weights, m, tokens, grad), EVERYTHING))
    summary = of_window(reader, trainer)
    assert summary["tier"] == "attention" and summary["rows"] > 0
    assert wrong(summary, measured) == []
    attnd.settled(3)


@pytest.mark.parametrize("reason", ["dropout", "learned_sink", "unsound"])
def test_rows_that_do_not_sum_to_one(rng, reason):
    attnd, m, flags = Attnd(*ALL_ON), MASKS["causal"], {} if reason == "unsound" else {reason: True}
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    weights = softmax(random_logits(rng), visible(m))
    if reason == "dropout":
        weights *= rng.integers(0, 2, weights.shape) * 2
    elif reason == "learned_sink":
        weights *= rng.uniform(0.2, 1, weights.shape[:3] + (1,))
    else:
        weights[rng.random(weights.shape) < 0.01] = np.nan
        weights[0, 0, 3] *= 1.1
        weights[1, 2, 5, 0] = -0.5
    weights = weights.astype(np.float32)
    trainer.attention(weights, **header_of(m), **flags)
    summary = of_window(reader, trainer)
    assert wrong(summary, [reference.measure(attention_of(weights, m, **flags), EVERYTHING)]) == []
    assert (summary["invalid_rows"] > 0) == (reason == "unsound")


def test_long_rows_and_many_heads(rng):
    """Past the sizes of tiles and vectors, and cut into several blocks."""
    _, reader, trainer = observed("metrics.spectrum_budget=0", "workers.block_entries=20000", "metrics.spectrum_max_size=1024")
    weights = softmax(rng.normal(0, 2, (1, 5, 131, 259)), np.ones((1, 131, 259), bool)).astype(np.float32)
    trainer.attention(weights, site="cross")
    summary = of_window(reader, trainer)
    assert wrong(summary, [reference.measure(attention_of(weights, Masks(site="cross")))]) == []


def test_patterns_of_heads_that_do_one_thing(attnd):
    """One head each: previous token, next token, itself, first token, everything alike, far away."""
    eye = np.eye(16)
    far = np.roll(eye, 8, 1)
    maps = [np.roll(eye, -1, 1), np.roll(eye, 1, 1), eye, np.tile(eye[0], (16, 1)), np.full((16, 16), 1 / 16), far]
    reader, trainer = Reader(attnd, "live/", "summary/"), Trainer(attnd, "job")
    trainer.attention(np.stack(maps)[None])
    _, live = reader.next()
    names = ["previous_token", "next_token", "diagonal", "first_token", "uniform", "long_range"]
    assert live["heads"]["pattern"] == names and live["sink_rate"] == pytest.approx(1 / 6)
    trainer.event("epoch_end")
    _, summary = reader.next()
    assert summary["heads"]["pattern"] == {"last": names} and summary["sink_rate"]["last"] == pytest.approx(1 / 6)


def test_slices_of_the_heads_have_row_metrics_and_nothing_across_heads(rng):
    attnd, m = Attnd("metrics.similarity=true", "metrics.head_pairs=true"), MASKS["causal"]
    reader = Reader(attnd, "summary/")
    ranks = [Trainer(attnd, "job", rank, world=HEADS, run=b"r" * 16) for rank in range(HEADS)]
    weights = softmax(random_logits(rng), visible(m))
    for rank, trainer in enumerate(ranks):
        trainer.attention(weights[:, rank:rank + 1].copy(), head_offset=rank, heads_total=HEADS, **header_of(m))
    for trainer in ranks:
        trainer.event("epoch_end")
    _, summary = reader.next()
    want = reference.pool([reference.measure(attention_of(weights, m))])
    assert summary["rows"] == want["rows"] and "importance" not in summary["heads"]
    assert differences(summary, want) == []
    assert not {"aggregate", "top_pairs", "head_top_pairs", "similarity"} & set(summary)


# ------------------------------------------------------------------------------------- blocks of rows

def case_of(sent, m, tokens):
    return Case(as_f64(sent), DTYPE_NAME[str(sent.dtype)], is_self=m.site == "self", causal=m.causal, window=m.window,
                q_len=m.q_len, k_len=m.k_len, mask=m.mask, documents=m.documents, tokens=tokens)


def block_keys(m, rows):
    """The header's keys and tensors of these rows."""
    q_len = m.q_len and [len(range(n)[rows]) for n in m.q_len]
    mask = m.mask if m.mask is None else m.mask[:, rows].copy()
    stride = {"q_stride": rows.step} if rows.step else {}
    return dict(header_of(m._replace(q_len=q_len)), q_offset=rows.start, mask=mask, documents=m.documents, **stride)


def first_keys_of_rows(case, rows):
    """[B, Tq]: a mask's blocks are those of the rows that come."""
    case.first = None
    whole = formulas.attention(case, case.weights)
    first = formulas.rows.first_keys(whole)
    if case.mask is not None:
        first[:, rows] = formulas.rows.first_keys(whole._replace(
            weights=whole.weights[:, :, rows], mask=whole.mask[:, rows], q_offset=rows.start, q_stride=rows.step or 1,
            q_len=whole.q_len and [len(range(n)[rows]) for n in whole.q_len]))
    return first


def means_of_rows(case, rows, query_ends):
    """metric -> [H], float64: means over the sound ones of these rows of the whole map."""
    sound, _, _ = formulas.judge(case, case.weights)
    p = np.arange(sound.shape[2])
    inside = sound & np.isin(p, p[rows])
    found = {"rows": int(inside.sum())}
    case.first = first_keys_of_rows(case, rows)
    for name, (values, exists) in formulas.row_values(case, case.weights, 8).items():
        counted = inside & np.broadcast_to(exists, sound.shape)
        if name == "next_token" and not rows.step:  # the query after the block's last one is not known to be one
            counted &= (p + 1 < np.minimum(query_ends, rows.stop)[:, None])[:, None]
        found[name] = [values[:, h][counted[:, h]].mean() if counted[:, h].any() else np.nan
                       for h in range(sound.shape[1])]
    return found


@pytest.mark.parametrize("isa", ("scalar", "auto"))
def test_some_rows_give_what_these_rows_of_the_whole_map_give(rng, isa):
    """Every row metric of every block or sample against float64 numpy on the whole map: previous_token, diagonal,
    distances, causal bound, window, documents and tokens count from where the rows stand."""
    _, reader, trainer = observed(f"workers.isa={isa}", "metrics.spectrum=false", topic="live/")
    relative, absolute = (1e-11, 1e-11) if isa == "scalar" else (1e-5, 1e-4)
    for layer, (name, m) in enumerate(MASKS.items()):
        weights = softmax(random_logits(rng), visible(m)).astype(np.float32)
        tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
        case = case_of(weights, m, tokens)
        cuts = [0, *sorted(rng.choice(np.arange(1, LENGTH), 4, replace=False).tolist()), LENGTH]
        seen_metrics = set()
        for step, rows in enumerate([*map(slice, cuts, cuts[1:]), *(slice(first, LENGTH, 3) for first in range(3))]):
            part = weights[:, :, rows].copy()
            trainer.attention(part, tokens=tokens, layer=layer, step=step, microbatch=step, **block_keys(m, rows))
            _, live = reader.next()
            want = means_of_rows(case, rows, np.array(m.q_len or [LENGTH] * 2))
            assert live["shape"] == list(part.shape) and live["rows"] == want.pop("rows")
            for metric, numbers_wanted in want.items():
                if metric in live["heads"]:
                    got = numbers(live["heads"][metric])
                    np.testing.assert_allclose(got, numbers_wanted, relative, absolute, err_msg=f"{name} {metric} {rows}")
                    seen_metrics |= {metric} if np.isfinite(got).any() else set()
                else:
                    assert np.isnan(numbers_wanted).all(), metric
        of_self = {"diagonal", "previous_token", "duplicate_token"} if m.site == "self" else set()
        assert {"entropy", "mean_distance", "first_token", "local_mass"} | of_self <= seen_metrics


# ---------------------------------------------------------------------------- what is switched on and off

# group -> keys of a result: (place, name)
GROUP_KEYS = {
    "core": {("heads", "entropy"), ("heads", "pattern"), ("heads", "variance"), ("aggregate", "sum")},
    "importance": {("heads", "importance"), ("aggregate", "importance")},
    "pairs": {(None, "top_pairs")},
    "spectrum": {(None, "spectrum")},
    "similarity": {(None, "similarity")},
}


def groups_in(result):
    """The groups whose keys are all there; a group must be there or gone as a whole."""
    there = set()
    for group, keys in GROUP_KEYS.items():
        found = {name in (result if place is None else result.get(place, {})) for place, name in keys}
        if group == "importance" and "core" not in there:
            found = {"importance" in result["heads"]}  # its map is one of core's
        assert len(found) == 1, (group, result)
        there |= {group} if found.pop() else set()
    return there


def one_message(attnd, job, rng):
    """A live result and a summary of one random message."""
    reader, trainer = Reader(attnd, f"live/{job}/", f"summary/{job}/"), Trainer(attnd, job)
    trainer.attention(softmax(rng.normal(size=(2, HEADS, 8, 8)), np.ones((2, 8, 8), bool)))
    live = news(reader)[1]
    return live, of_window(reader, trainer)


def test_a_group_can_be_switched(rng):
    default = set(GROUP_KEYS) - {"similarity"}
    attnd = Attnd("metrics.pairs=false", "metrics.similarity=true")
    assert [groups_in(result) for result in one_message(attnd, "job", rng)] == [set(GROUP_KEYS) - {"pairs"}] * 2
    attnd.close()
    attnd = Attnd(config="jobs:\n" + "".join(f"  {group}: {{{group}: {str(group not in default).lower()}}}\n" for group in GROUP_KEYS))
    for group in GROUP_KEYS:
        assert [groups_in(result) for result in one_message(attnd, group, rng)] == [default ^ {group}] * 2


def test_jobs_have_groups_of_their_own(rng):
    attnd = Attnd(config="""
metrics: {pairs: false}
jobs:
  'quiet-*': {spectrum: false, importance: false}
  '*-curious': {similarity: true, pairs: true, head_pairs: true, top_pairs: 3}
""")
    usual = one_message(attnd, "plain", rng)
    assert [groups_in(result) for result in usual] == [{"core", "importance", "spectrum"}] * 2
    assert [groups_in(result) for result in one_message(attnd, "quiet-curious", rng)] == [{"core"}] * 2
    curious = one_message(attnd, "very-curious", rng)
    assert [groups_in(result) for result in curious] == [set(GROUP_KEYS)] * 2
    assert all(len(r["top_pairs"]) == 3 and [len(p) for p in r["head_top_pairs"]] == [3] * HEADS for r in curious)
    again = one_message(attnd, "plain-too", rng)
    assert [groups_in(result) for result in again] == [{"core", "importance", "spectrum"}] * 2


def test_the_local_window_is_that_of_the_config(rng):
    _, reader, trainer = observed("metrics.local_window=2", topic="live/")
    trainer.attention(np.full((1, 1, 9, 9), 1 / 9))
    keys = [3, 4, 5, 5, 5, 5, 5, 4, 3]
    assert reader.next()[1]["heads"]["local_mass"] == pytest.approx([np.mean(keys) / 9])


# -------------------------------------------------------------------------------- the spectrum's budget

SIZE, MANY = 160, 6


def big_maps(rng):
    return softmax(rng.normal(size=(1, MANY, SIZE, SIZE)), np.ones((1, SIZE, SIZE), bool)).astype(np.float32)


def test_under_a_budget_heads_take_turns_and_rows_are_never_late(rng):
    """A budget that one head uses up: every message has all row metrics, and within some messages every head had
    its turn."""
    _, reader, trainer = observed("metrics.spectrum_budget=1ms", "workers.threads=1", topic="live/")
    covered, partly = np.zeros(MANY, int), 0
    for step in range(8 * MANY):
        trainer.attention(big_maps(rng), step=step)
        live = reader.next()[1]
        assert None not in live["heads"]["entropy"] and live["rows"] == MANY * SIZE
        has = np.array([x is not None for x in live["spectrum"]["spectral_norm"]])
        assert has.any(), "somebody has a turn with every message"
        partly += not has.all()
        covered += has
        if (covered > 1).all():
            break
    assert (covered > 1).all() and partly > 0, covered
    assert max(covered) <= 2 * min(covered) + 1, "turns are fair"


def test_turns_go_on_across_other_tiers_and_slices(rng):
    """Neither a message without spectra nor another rank's slice sends a layer back to its first head."""
    attnd = Attnd("metrics.spectrum_budget=1ms", "workers.threads=1")
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "whole")
    ranks = [Trainer(attnd, "sliced", rank=rank, world=2) for rank in range(2)]
    whole, sliced = np.zeros(MANY, int), np.zeros(MANY, int)
    wq = np.eye(4, dtype=np.float32).repeat(MANY, 0)
    for step in range(4 * MANY):
        trainer.projections(wq=wq, heads=MANY, head_dim=4, step=step)
        trainer.attention(big_maps(rng), step=step)
        for rank, at in enumerate((0, MANY // 2)):
            ranks[rank].attention(big_maps(rng)[:, at:at + MANY // 2], head_offset=at, heads_total=MANY, step=step)
        for _ in range(4):
            live = reader.next()[1]
            if "spectrum" in live:
                has = [x is not None for x in live["spectrum"]["spectral_norm"]]
                (whole if live["job"] == "whole" else sliced)[has] += 1
        if whole.all() and sliced.all():
            break
    assert whole.all() and sliced.all(), (whole, sliced)


def test_without_a_budget_every_head_has_everything_every_time(rng):
    _, reader, trainer = observed("metrics.spectrum_budget=0", "metrics.spectrum_effort=eigenvalues", "workers.threads=2")
    for step in range(4):
        trainer.attention(big_maps(rng), step=step)
    spectrum = of_window(reader, trainer)["spectrum"]
    for name in ("spectral_norm", "effective_rank_entropy", "eigenvalue_2", "rank"):
        assert spectrum[name]["count"] == [4] * MANY
    assert spectrum["singular_values"]["count"] == [[4] * 16] * MANY


@pytest.mark.parametrize("effort, missing", [("norm", {"singular_values", "rank", "eigenvalue_2"}),
                                             ("leading", {"rank", "eigenvalue_2"}), ("full", {"eigenvalue_2"}),
                                             ("eigenvalues", set())])
def test_the_effort_says_which_numbers_there_are(rng, effort, missing):
    _, reader, trainer = observed("metrics.spectrum_budget=0", f"metrics.spectrum_effort={effort}", topic="live/")
    weights = big_maps(rng)
    trainer.attention(weights)
    spectrum = reader.next()[1]["spectrum"]
    s = np.linalg.svd(as_f64(weights)[0], compute_uv=False)
    np.testing.assert_allclose(spectrum["spectral_norm"], s[:, 0], rtol=1e-4)
    np.testing.assert_allclose(spectrum["stable_rank"], (s**2).sum(1) / s[:, 0]**2, rtol=1e-4)
    empty = {name for name in ("singular_values", "rank", "eigenvalue_2")
             if all(x is None or x == [] for x in spectrum.get(name, []))}
    assert empty == missing
    if effort != "norm":
        np.testing.assert_allclose(spectrum["singular_values"], s[:, :16], rtol=1e-3)
