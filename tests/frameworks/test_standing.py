# SPDX-License-Identifier: MIT
"""Numbers of a real attnd for queries that stand in front of their keys, and for keys that are no positions."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import attnd

B, H, T, D = 2, 2, 12, 4


class Attention(nn.Module):
    """`queries`, `keys`: what these are made of, by the sequence."""

    def __init__(self, queries, keys):
        super().__init__()
        self.norm, self.q, self.kv = nn.LayerNorm(H * D), nn.Linear(H * D, H * D), nn.Linear(H * D, 2 * H * D)
        self.queries, self.keys = queries, keys

    def forward(self, x):
        x = self.norm(x)
        parts = 4 * self.q(self.queries(x)), *self.kv(self.keys(x)).chunk(2, -1)
        q, k, v = (one.unflatten(-1, (H, D)).transpose(1, 2) for one in parts)
        self.seen = q.detach().double(), k.detach().double()
        return functional.scaled_dot_product_attention(q, k, v)


def heads_of(results, daemon, model, **options):
    """The numbers of its heads by attnd, and its weights in float64."""
    with attnd.watch(model, job="stands", endpoint=daemon.endpoint("ingest"), every=1, window=1, samples=0, steps="manual", wait=60.0, **options) as it:
        model(torch.randn(B, T, H * D)).sum().backward()
        it.step()
    results.wait_ended()
    q, k = model.seen
    weights = (q @ k.transpose(2, 3) / D**0.5).softmax(-1).numpy()
    return [one for one in results.live if one["tier"] not in ("weights", "sketch")][-1]["heads"], weights


def assert_rows_are_exact(heads, weights):
    entropy = -(weights * np.log(weights)).sum(-1)
    np.testing.assert_allclose(heads["entropy"], entropy.mean((0, 2)), atol=1e-4)
    np.testing.assert_allclose(heads["confidence"], weights.max(-1).mean((0, 2)), atol=1e-4)


@pytest.mark.parametrize("tier", ["raw", "rows"])
def test_a_class_token_stands_at_the_first_position(results, daemon, tier):
    heads, weights = heads_of(results, daemon, Attention(lambda x: x[:, :1], lambda x: x), tier=tier)
    assert_rows_are_exact(heads, weights)
    np.testing.assert_allclose(heads["mean_distance"], (weights * np.arange(T)).sum(-1).mean((0, 2)), atol=1e-3)
    np.testing.assert_allclose(heads["diagonal"], weights[..., 0].mean((0, 2)), atol=1e-4)


@pytest.mark.parametrize("tier", ["raw", "rows"])
@pytest.mark.parametrize("keys", [lambda x: x[:, ::3], lambda x: x.unflatten(1, (4, 3)).mean(2)], ids=["strided", "pooled"])
def test_rows_of_keys_that_are_no_positions_have_no_neighbours(results, daemon, keys, tier):
    heads, weights = heads_of(results, daemon, Attention(lambda x: x, keys), tier=tier)
    assert_rows_are_exact(heads, weights)
    for name in ("diagonal", "previous_token", "next_token", "induction"):
        assert name not in heads or np.isnan(np.array(heads[name], dtype=float)).all(), name
