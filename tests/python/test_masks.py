# SPDX-License-Identifier: MIT
"""What models say about masking, in the words of the wire: whatever the words, the visible keys are the same."""
import numpy as np
import pytest

from attnd.base.masks import Visibility, describe

B, T = 3, 6


def visible_by(seen, shape, stride=1):
    """bool [B, Tq, Tk] from a Visibility of queries so far apart, by the wire's own rules."""
    batch, queries, keys = shape
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    p = i * stride + seen.q_offset
    allowed = np.ones(shape, dtype=bool)
    if seen.causal:
        allowed &= j <= p
    if seen.window:
        allowed &= j > p - seen.window
    if seen.k_len is not None:
        allowed &= j < np.asarray(seen.k_len)[:, None, None]
    if seen.q_len is not None:
        allowed &= i < np.asarray(seen.q_len)[:, None, None]
    return allowed if seen.mask is None else allowed & seen.mask.astype(bool)


def triangle(queries=T, keys=T, first=0):
    return np.broadcast_to(np.arange(keys) <= np.arange(queries)[:, None] + first, (B, queries, keys)).copy()


def padding(lengths, keys=T):
    return np.arange(keys) < np.array(lengths)[:, None]


WHOLE = triangle(8, 8)
BAND = WHOLE & (np.arange(8) > np.arange(8)[:, None] - 2)


@pytest.mark.parametrize("allowed, where, seen", [
    *((np.ones(shape, dtype=bool), (), Visibility()) for shape in ((B, T, T), (B, 9, T), (B, T, 1), (1, 1, 1))),
    # a cache: the queries are the last ones, unless the mask says otherwise
    *((np.ones((B, queries, 9), dtype=bool), (), Visibility(q_offset=9 - queries)) for queries in (1, 2, T)),
    (np.ones((B, 2, 9), dtype=bool), (1, 2, 4), Visibility(q_offset=6)),
    (triangle(4, 9), (), Visibility(causal=True)), (triangle(4, 9, first=2), (), Visibility(causal=True, q_offset=2)),
    (triangle(4, 9, first=2)[:, 1::2], (1, 2, 4), Visibility(causal=True, q_offset=3)),
    (triangle(T, T), (), Visibility(causal=True)), (triangle(9, T), (), Visibility(causal=True)),
    (triangle(2, T, first=T - 2), (), Visibility(causal=True, q_offset=T - 2)),  # one that ends at the last key
    (BAND, (), Visibility(causal=True, window=2)),
    # a block of rows stands where it was
    (WHOLE[:, 2:5], (2, 1, 8), Visibility(causal=True, q_offset=2)),
    (WHOLE[:, 5:], (5, 1, 8), Visibility(causal=True, q_offset=5)),
    (np.ones((B, 3, 8), dtype=bool), (2, 1, 8), Visibility(q_offset=2)),
    # and a sample of rows where its rows did, also of a cache
    *((WHOLE[:, first::3], (first, 3, 8), Visibility(causal=True, q_offset=first)) for first in range(3)),
    *((triangle(6, 8, 2)[:, first::3], (first, 3, 6), Visibility(causal=True, q_offset=first + 2)) for first in range(3)),
    *((BAND[:, first::3], (first, 3, 8), Visibility(causal=True, window=2, q_offset=first)) for first in range(3))])
def test_maps_that_are_told_in_words(allowed, where, seen):
    said = describe(allowed, *where)
    assert all(x is None and y is None or np.array_equal(x, y) for x, y in zip(said, seen)), said


@pytest.mark.parametrize("filled", [5, 9])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("chunk", ["causal", "both ways"])
def test_queries_of_a_cache_stand_at_the_end_of_what_is_filled(filled, queries, chunk):
    """Samples are padded on the left, as where they generate; the cache may be longer than what is in it."""
    allowed = triangle(queries, 9, filled - queries) if chunk == "causal" else np.ones((B, queries, 9), dtype=bool)
    allowed = allowed & ~padding([0, 1, 2], 9)[:, None] & (np.arange(9) < filled)
    said = describe(allowed)
    assert said.q_offset == filled - queries
    assert (visible_by(said, allowed.shape) == allowed).all()
    assert describe(np.ones((B, queries, 9), dtype=bool), self_attention=False).q_offset == 0


@pytest.mark.parametrize("side", ["right", "left", "left opened"])
@pytest.mark.parametrize("first", range(3))
def test_a_sample_of_padded_rows_is_the_whole_maps_sample(first, side):
    """The padding is the same whichever rows tell of it: what is visible, and to whom."""
    lengths = np.array([12, 5, 3, 9])[:, None]
    keys = np.arange(12) < lengths if side == "right" else np.arange(12) >= 12 - lengths
    allowed = keys[:, None, :] & (np.arange(12) <= np.arange(12)[:, None])
    if side == "left opened":
        allowed = np.where(allowed.any(2, keepdims=True), allowed, True)
    truth = visible_by(describe(allowed), allowed.shape)[:, first::3]
    told = describe(allowed[:, first::3], first, 3, 12)
    assert (visible_by(told, truth.shape, stride=3) == truth).all()
    if side == "right":
        assert told.k_len[0] == 12 and told.mask is None


@pytest.mark.parametrize("causal", [False, True])
def test_right_padding_is_lengths(causal):
    lengths = [6, 2, 1]
    allowed = padding(lengths)[:, None, :] & (triangle() if causal else True) & np.ones((B, T, T), dtype=bool)
    seen = describe(allowed)
    assert seen.causal == causal and seen.mask is None
    assert list(seen.k_len) == list(seen.q_len) == lengths
    cross = describe(allowed, self_attention=False)
    assert cross.q_len is None and (visible_by(cross, allowed.shape) == allowed).all()


def test_a_sample_without_keys_has_length_0():
    allowed = np.repeat(padding([6, 0, 3])[:, None, :], T, axis=1)
    assert list(describe(allowed).k_len) == [6, 0, 3]


@pytest.mark.parametrize("opened", [False, True])
def test_left_padding_is_a_mask_whether_or_not_its_rows_were_opened(opened):
    present = ~padding([0, 2, 5])
    truth = triangle() & present[:, None, :] & present[:, :, None]
    given = triangle() & present[:, None, :]
    if opened:  # as libraries do, lest the rows become NaN
        given |= ~given.any(axis=2, keepdims=True)
    assert (visible_by(describe(given), truth.shape) == truth).all()


@pytest.mark.parametrize("seed", range(40))
def test_any_map_means_the_same_to_both_sides(seed):
    """These are random, so that none is a mask of keys alone: each query that sees some key counts."""
    rng = np.random.default_rng(seed)
    queries, keys = (T, T) if seed % 2 else (int(rng.integers(1, 8)), int(rng.integers(1, 8)))
    allowed = rng.random((B, queries, keys)) < rng.choice([0.2, 0.6, 0.95])
    seen = describe(allowed, self_attention=bool(seed % 4 == 1))
    assert (visible_by(seen, allowed.shape) == allowed).all()


@pytest.mark.parametrize("allowed", [triangle() & ~np.eye(T, dtype=bool), np.eye(T, dtype=bool)[[0, 1, 1, 2, 3, 2]]],
                         ids=["strictly causal", "top-k"])
def test_queries_whose_own_key_nobody_sees_count(allowed):
    allowed = np.broadcast_to(allowed, (B, T, T))
    assert (visible_by(describe(allowed), allowed.shape) == allowed).all()


def test_a_mask_of_all_samples_tells_of_no_padding():
    """Test points attend to training points alone, as in a PFN: they are what is asked for."""
    allowed = np.broadcast_to(np.arange(T) < 4, (B, T, T))
    seen = describe(allowed, shared=True)
    assert seen.q_len is None and (visible_by(seen, allowed.shape) == allowed).all()
    assert list(describe(allowed).q_len) == [4] * B


@pytest.mark.parametrize("lengths", [[6, 2, 1], [4, 4, 4]])
def test_a_mask_of_keys_alone_is_padding_on_either_side(lengths):
    for present in (padding(lengths), padding(lengths)[:, ::-1]):
        seen = describe(np.repeat(present[:, None], T, axis=1))
        assert (visible_by(seen, (B, T, T)) == present[:, None] & present[:, :, None]).all()


@pytest.mark.parametrize("window", [T, 3])
@pytest.mark.parametrize("opened", [False, True])
def test_a_causal_mask_of_keys_is_padding_on_both_sides(opened, window):
    """As of prompts that are padded on the left, and what was generated on the right."""
    present = ~padding([0, 2, 1]) & padding([6, 5, 4])
    given = triangle() & ~np.tri(T, k=-window, dtype=bool) & present[:, None]
    truth = given & present[:, :, None]
    if opened:
        given |= ~given.any(axis=2, keepdims=True)
    assert (visible_by(describe(given), truth.shape) == truth).all()


SIDES = {"right": padding([6, 3, 1]), "left": padding([6, 3, 1])[:, ::-1], "alike": padding([4, 4, 4])}


@pytest.mark.parametrize("where", ["behind", "behind, by hand", "before, by hand", "two before, by hand"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_padded_queries_are_none_beside_learned_keys(side, causal, where):
    """All queries see the learned keys."""
    if (side, causal, where) in (("left", False, "behind, by hand"), ("alike", False, "two before, by hand")):
        pytest.skip("a cache may look like it")
    present, learned = SIDES[side], np.ones((B, T, 2 if "two" in where else 1), dtype=bool)
    own = np.broadcast_to(present[:, None] & (triangle() if causal else True), (B, T, T))
    given = np.concatenate([own, learned] if "behind" in where else [learned, own], axis=2)
    said = describe(given, total=T, extra=int(where == "behind"))
    assert said.q_offset == (0 if "behind" in where else learned.shape[2])
    assert (visible_by(said, given.shape) == given & present[:, :, None]).all()
    for first in range(2):  # of a sample of rows
        part = given[:, first::2]
        said = describe(part, first, 2, T, extra=int(where == "behind"))
        assert (visible_by(said, part.shape, stride=2) == (given & present[:, :, None])[:, first::2]).all()


def apart(*lengths):
    """bool [T', T']: texts of these lengths that do not see each other, and whatever is behind them sees nothing."""
    number = np.repeat(np.arange(len(lengths)), lengths)
    return np.pad(number[:, None] == number, (0, 8 - len(number)))


def opened(truth):
    """As libraries do, lest rows become NaN."""
    return truth | ~truth.any(axis=-1, keepdims=True)


BOTH_WAYS = {"left": [apart(8), apart(5)[::-1, ::-1], apart(2)[::-1, ::-1]], "right": [apart(8), apart(5), apart(2)],
             "both sides": [apart(8), np.roll(apart(4), 2, (0, 1)), np.roll(apart(5), 1, (0, 1))],
             "packed": [apart(3, 5), apart(2, 2, 3), apart(1, 3)], "packed and whole": [apart(8), apart(4, 3), apart(6)],
             "packed behind padding": [apart(3, 5), apart(3, 3)[::-1, ::-1], apart(1, 2, 1)[::-1, ::-1]]}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_padding_whose_rows_were_opened_is_padding(name, causal):
    truth = np.stack(BOTH_WAYS[name]) & (np.tri(8, dtype=bool) if causal else True)
    given = opened(truth)
    assert (visible_by(describe(given), truth.shape) == truth).all()


@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("sample", range(1, B))
def test_one_sample_alone_tells_of_the_same_padding_but_behind_one_text(name, sample):
    truth = np.array(BOTH_WAYS[name])[sample:sample + 1]
    given, means_all = opened(truth), name == "right" or (name, sample) == ("packed and whole", 2)
    assert (visible_by(describe(given), given.shape) == (given if means_all else truth)).all()
    assert (visible_by(describe(given, shared=True), given.shape) == given).all()


def kept_apart(context, total=8):
    """What follows a context sees all, and no other row sees it."""
    return (np.arange(total) < context) | (np.arange(total)[:, None] >= context)


PRESENT = padding([8, 8, 5], 8)[:, None]
GLOBAL = np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
BLOCKS = np.arange(8) // 3 <= np.arange(8)[:, None] // 3
READOUT = np.where(np.arange(8)[:, None] < 7, np.arange(8) < 7, True)
ORDERED = np.argsort([[3, 0, 6, 1, 7, 2, 5, 4], [5, 4, 3, 7, 6, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]])


@pytest.mark.parametrize("given", [
    np.stack(BOTH_WAYS["packed"]) | GLOBAL | GLOBAL[:, None], np.repeat(kept_apart(5)[None], B, 0), np.repeat(BLOCKS[None], B, 0),
    np.repeat(np.tri(8, dtype=bool)[None], B, 0),
    np.stack([np.tri(8), np.tri(8).T, np.ones((8, 8))]) > 0, ORDERED[:, :, None] >= ORDERED[:, None]],
    ids=["global token", "target", "blocks", "causal", "backward", "permuted"])
def test_a_row_that_sees_all_by_itself_counts(given):
    assert (visible_by(describe(given), given.shape) == given).all()


@pytest.mark.parametrize("given", [kept_apart(5), BLOCKS, READOUT, np.tri(8, dtype=bool)], ids=["target", "blocks", "readout", "causal"])
def test_beside_padded_samples_it_counts_too(given):
    given = given & PRESENT
    assert (visible_by(describe(given), given.shape)[:2] == given[:2]).all()


@pytest.mark.parametrize("first", range(2))
@pytest.mark.parametrize("name", ["left", "right", "packed"])
def test_a_sample_of_opened_rows_is_the_whole_maps_sample(name, first):
    truth = np.stack(BOTH_WAYS[name])
    part = opened(truth)[:, first::2]
    assert (visible_by(describe(part, first, 2, 8), part.shape, stride=2) == truth[:, first::2]).all()
