# SPDX-License-Identifier: MIT
"""Cross-attention of real encoder-decoders: its numbers are of the queries that exist, by their weights in float64."""
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from bridged import wait_until  # noqa: E402
from harness import Attnd  # noqa: E402
from session import TIERS, tier_options  # noqa: E402

import attnd  # noqa: E402

SOURCES, TARGETS = [20, 9, 14, 3], [24, 5, 12, 8]
COMMON = dict(vocab_size=100, d_model=32)


def bart():
    return transformers.BartForConditionalGeneration(transformers.BartConfig(
        **COMMON, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32,
        decoder_ffn_dim=32, dropout=0.0, attention_dropout=0.0, init_std=0.5, max_position_embeddings=64))


def t5():
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        **COMMON, d_kv=8, num_layers=2, num_decoder_layers=2, num_heads=4, d_ff=32, dropout_rate=0.0, initializer_factor=2.0))


def batch(with_decoder_mask):
    generator = torch.Generator().manual_seed(3)

    def tokens(lengths):
        width = max(lengths)
        there = torch.arange(width) < torch.tensor(lengths)[:, None]
        return torch.randint(4, 90, (len(lengths), width), generator=generator), there.long()

    source, source_mask = tokens(SOURCES)
    target, target_mask = tokens(TARGETS)
    given = dict(input_ids=source, attention_mask=source_mask, decoder_input_ids=target)
    return {**given, "decoder_attention_mask": target_mask} if with_decoder_mask else given


def entropies(model, given, valid):
    """Mean over the valid queries, of each head of each cross-attention."""
    eager = type(model)(model.config)
    eager.load_state_dict(model.state_dict())
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        weights = eager.double().eval()(**given, output_attentions=True).cross_attentions
    rows = [-(a * a.clamp_min(1e-300).log()).sum(-1) for a in weights]
    return [[row[:, head][valid].mean().item() for head in range(row.shape[1])] for row in rows]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("with_decoder_mask", [True, False])
@pytest.mark.parametrize("build", [bart, t5])
def test_padding_queries_count_only_where_nothing_tells_of_them(build, with_decoder_mask, tier, monkeypatch):
    torch.manual_seed(0)
    model, given = build(), batch(with_decoder_mask)
    daemon = Attnd("metrics.spectrum_budget=0")
    with attnd.watch(model.train(), job="job", endpoint=daemon.endpoint("ingest"), every=1, samples=0, steps="manual",
                     wait=60.0, **tier_options(tier, monkeypatch)) as w:
        model(**given).logits.sum().backward()
        w.step()
    with attnd.Control(daemon.endpoint("control"), 60.0) as control:
        wait_until(lambda: len(control.summary("job", site="cross")) == 2, "both cross-attentions")
        found = sorted(control.summary("job", site="cross"), key=lambda one: one["layer"])
        maps = control.maps("job", stack="decoder", layer=0, site="cross")
    assert {one["tier"] for one in found} <= ({"qk", "attention"} if tier == "raw" else {"rows"})
    valid = torch.arange(max(TARGETS)) < torch.tensor(TARGETS)[:, None]
    if not with_decoder_mask:
        valid = torch.ones_like(valid)
    want = entropies(model, given, valid)
    np.testing.assert_allclose([one["heads"]["entropy"]["mean"] for one in found], want, atol=2e-5)
    assert [one["rows"] for one in found] == [4 * int(valid.sum())] * 2
    assert (maps["queries"], maps["keys"]) == (int(valid[0].sum()), SOURCES[0])
