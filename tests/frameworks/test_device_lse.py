# SPDX-License-Identifier: MIT
"""The lse that FlexAttention returns, given to attnd.device.lse_statistics: what follows is what the reference computes
from the queries and keys."""
import pathlib
import sys

import pytest
import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "python"))

import attnd  # noqa: E402
from device_grid import NO_TOKENS  # noqa: E402

flex = pytest.importorskip("torch.nn.attention.flex_attention")
if not hasattr(flex, "AuxRequest"):
    pytest.skip("AuxRequest is of torch 2.9 and later", allow_module_level=True)

TEXTS = torch.tensor([[0] * 30 + [1] * 41, [0] * 50 + [1] * 21])
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0])
CASES = {
    "full": (None, None, {}),
    "causal window": (lambda b, h, i, j: (i >= j) & (i - j < 20), None, {"causal": True, "window": 20}),
    "documents": (lambda b, h, i, j: (i >= j) & (TEXTS[b, i] == TEXTS[b, j]), None, {"causal": True, "documents": TEXTS}),
    "softcap": (None, lambda s, b, h, i, j: 3 * torch.tanh(s / 3), {"softcap": 3.0}),
    "bias": (lambda b, h, i, j: i >= j, lambda s, b, h, i, j: s - 0.1 * (i - j),
             {"causal": True, "bias": -0.1 * (torch.arange(71.0)[:, None] - torch.arange(71.0))}),
    "rows without a key": (lambda b, h, i, j: (i >= j) & (i % 7 != 3), None,
                           {"causal": True, "bias": (torch.arange(71) % 7 != 3)[:, None].expand(71, 71)}),
    "sinks": (lambda b, h, i, j: i >= j, None, {"causal": True, "sinks": SINKS}),
}


def attended(case, **more):
    """Queries, keys, their lse by FlexAttention, and the words of it: 4 heads on 2 of the keys."""
    mask, score, words = CASES[case]
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 4, 71, 32, generator=generator), torch.randn(2, 2, 71, 32, generator=generator)
    block = None if mask is None else flex.create_block_mask(mask, 2, None, 71, 71, device="cpu")
    _, aux = flex.flex_attention(q, k, k, score_mod=score, block_mask=block, enable_gqa=True,
                                 return_aux=flex.AuxRequest(lse=True), **more)
    return q, k, aux.lse, words


@pytest.mark.parametrize("case", CASES)
def test_the_lse_of_flex_attention_gives_what_the_reference_gives(case):
    q, k, lse, words = attended(case)
    expected = attnd.device.row_statistics(q, k, **words)
    found = attnd.device.lse_statistics(q, k, lse, **words)
    assert {"local_mass", "first_token", "previous_token", "diagonal", "next_token"} <= set(found) <= set(NO_TOKENS)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, equal_nan=True, msg=name)


def test_the_lse_of_another_scale_is_refused():
    q, k, lse, words = attended("causal window", scale=1.0)
    with pytest.raises(ValueError, match="lse: .* off, by up to .*; it looks as if the scale were missing"):
        attnd.device.lse_statistics(q, k, lse, **words)
