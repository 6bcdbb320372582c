# SPDX-License-Identifier: MIT
"""torch's masks in the words of the wire: whatever the form, the visible keys are the same."""
import numpy as np
import pytest

from attnd import masks

B, H, T, S = 3, 2, 5, 5


def visible_by(seen, batch=B, queries=T, keys=S):
    """bool [B, Tq, Tk] from a Visibility, by the wire's own rules, and the valid queries."""
    i, j = np.ogrid[:queries, :keys]
    allowed = np.ones((batch, queries, keys), dtype=bool)
    if seen.causal:
        allowed &= j <= i
    if seen.window:
        allowed &= j > i - seen.window
    if seen.k_len is not None:
        allowed &= (j < np.asarray(seen.k_len)[:, None, None])
    if seen.mask is not None:
        allowed &= seen.mask.astype(bool)
    return allowed


def describe(attn=None, padding=None, self_attention=True, batch=B, queries=T, keys=S):
    return masks.describe(attn, padding, batch, H, queries, keys, self_attention)


def causal(dtype, queries=T, keys=S):
    ignored = np.triu(np.ones((queries, keys), dtype=bool), 1)
    if dtype in (bool, np.uint8):
        return ignored.astype(dtype)
    return np.where(ignored, -np.inf, 0).astype(dtype)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 5), (3, 5), (5, 3)])
def test_the_causal_triangle_is_causal(dtype, shape):
    seen = describe(causal(dtype, *shape), queries=shape[0], keys=shape[1])
    assert seen == (True, 0, None, None, None)


def test_a_causal_mask_for_every_head_and_sample_is_causal():
    assert describe(np.repeat(causal(bool)[None], B * H, axis=0)) == (True, 0, None, None, None)
    assert describe(causal(bool)[None], batch=1) == (True, 0, None, None, None)


def test_a_causal_band_is_a_window():
    i, j = np.ogrid[:T, :S]
    seen = describe(~((j <= i) & (j > i - 2)))
    assert seen == (True, 2, None, None, None)


def test_no_mask_and_masks_that_ignore_nothing_say_nothing():
    nothing = masks.Visibility()
    assert describe() == describe(np.zeros((T, S), dtype=bool)) == nothing
    assert describe(np.random.default_rng(0).normal(size=(T, S)).astype(np.float32)) == nothing  # a bias
    assert describe(None, np.zeros((B, S), dtype=bool)) == nothing


@pytest.mark.parametrize("as_float", [False, True])
def test_right_padding_is_lengths(as_float):
    padding = np.arange(S)[None, :] >= np.array([5, 2, 0])[:, None]
    padding = np.where(padding, -np.inf, 0.0) if as_float else padding
    seen = describe(causal(bool), padding)
    assert seen.causal and seen.mask is None
    assert list(seen.k_len) == list(seen.q_len) == [5, 2, 0]
    cross = describe(None, padding, self_attention=False)
    assert list(cross.k_len) == [5, 2, 0] and cross.q_len is None


def test_left_padding_is_a_mask():
    padding = np.arange(S)[None, :] < np.array([0, 2, 4])[:, None]
    seen = describe(causal(bool), padding)
    assert seen.causal and seen.k_len is None
    assert (visible_by(seen) == (~causal(bool)[None] & ~padding[:, None, :])).all()


@pytest.mark.parametrize("seed", range(20))
def test_any_masks_mean_the_same_to_both_sides(seed):
    rng = np.random.default_rng(seed)
    attn = rng.random([(T, S), (B * H, T, S)][seed % 2]) < 0.4
    if attn.ndim == 3:
        attn = np.repeat(attn.reshape(B, H, T, S)[:, :1], H, axis=1).reshape(B * H, T, S)
    padding = [None, rng.random((B, S)) < 0.3, np.arange(S)[None, :] >= np.array([3, 5, 1])[:, None]][seed % 3]
    ignored = attn[None] if attn.ndim == 2 else attn.reshape(B, H, T, S)[:, 0]
    expected = ~(ignored | (padding[:, None, :] if padding is not None else False)) & np.ones((B, 1, 1), dtype=bool)
    as_float = np.where(attn, -np.inf, rng.normal(size=attn.shape))
    asking = ~padding[:, :T, None] if padding is not None else True  # a padded position asks nothing
    for given in (attn, as_float):
        assert ((visible_by(describe(given, padding)) & asking) == (expected & asking)).all()


def test_heads_that_differ_are_joined():
    attn = np.ones((B, H, T, S), dtype=bool)
    attn[:, 0, :, 0] = False
    attn[:, 1, :, 1] = False
    seen = describe(attn.reshape(B * H, T, S))
    assert (visible_by(seen).sum(axis=-1) == 2).all()


def test_appended_keys_are_visible():
    padding = np.arange(S)[None, :] >= np.array([5, 2, 0])[:, None]
    seen = describe(causal(bool), padding, keys=S + 1)
    assert not seen.causal and seen.k_len is None
    allowed = visible_by(seen, keys=S + 1)
    asking = ~padding[:, :T]
    assert (allowed[:, :, S] == asking).all()
    assert (allowed[:, :, :S] == (~causal(bool)[None] & ~padding[:, None, :] & asking[:, :, None])).all()


@pytest.mark.parametrize("attn,padding", [(np.ones((T, S + 1)), None), (np.ones((7, T, S)), None),
                                          (None, np.ones((B, S + 2))), (None, np.ones((B + 1, S)))])
def test_masks_that_do_not_fit_are_refused(attn, padding):
    with pytest.raises(ValueError):
        describe(attn.astype(bool) if attn is not None else None, padding.astype(bool) if padding is not None else None)
