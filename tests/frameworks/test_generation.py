# SPDX-License-Identifier: MIT
"""A decoder that generates with a cache of keys, one query a forward: the query stands behind the keys that are in the cache."""
import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.0")

import attnd  # noqa: E402

PROMPT = torch.randint(2, 50, (2, 12), generator=torch.Generator().manual_seed(3))
NEW, HEADS = 4, 4
FILLED = PROMPT.shape[1] + NEW - 1  # keys of the last forward


def llama(form):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=HEADS, vocab_size=50,
                                      num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=None)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation=form).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(25 if parameter.dim() == 2 else 1)
    return model


def generated(form, padding, cache, **more):
    present = torch.ones_like(PROMPT)
    present[1, :padding] = 0
    return llama(form), lambda model: model.generate(PROMPT * present, attention_mask=present, max_new_tokens=NEW, do_sample=False,
                                                     return_dict_in_generate=True, **cache, **more)


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["growing", "static"])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("form", ["eager", "sdpa"])
def test_a_query_behind_a_cache_is_the_last_one(form, padding, cache, results, daemon):
    model, run = generated("eager", padding, cache, output_attentions=True)
    weights = run(model).attentions[-1][0][:, :, 0].double().numpy()  # [B, H, keys]
    distance = np.abs(FILLED - 1 - np.arange(weights.shape[-1]))
    expected = {"mean_distance": (weights * distance).sum(-1), "diagonal": weights[..., FILLED - 1], "previous_token": weights[..., FILLED - 2],
                "entropy": -(weights * np.log(np.maximum(weights, 1e-300))).sum(-1)}
    model, run = generated(form, padding, cache)
    with attnd.watch(model, job="generates", endpoint=daemon.endpoint("ingest"), every=1, evaluation=True, window=1, samples=0, wait=60.0):
        run(model)
    results.wait_ended()
    last = [one for one in results.live if one["tier"] not in ("weights", "sketch")][-1]
    assert last["shape"][:3] == [2, HEADS, 1]
    for name, right in expected.items():
        np.testing.assert_allclose(last["heads"][name], right.mean(0), atol=2e-4, err_msg=name)


def test_keys_that_are_learned_are_no_cache(results, daemon):
    """Keys that nn.MultiheadAttention puts behind its own have nobody's position."""
    torch.manual_seed(0)
    model = torch.nn.MultiheadAttention(16, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    x = torch.randn(2, 6, 16)
    weights = model.double()(x.double(), x.double(), x.double(), average_attn_weights=False)[1]
    model.float()
    with attnd.watch(model, job="learned", endpoint=daemon.endpoint("ingest"), every=1, evaluation=True, window=1, samples=0, wait=60.0):
        model(x, x, x)
    results.wait_ended()
    last = [one for one in results.live if one["tier"] not in ("weights", "sketch")][-1]
    assert last["shape"][2:] == [6, 8]
    right = weights[..., :6].diagonal(dim1=-2, dim2=-1).mean((0, 2))
    np.testing.assert_allclose(last["heads"]["diagonal"], right.detach().numpy(), atol=1e-4)
