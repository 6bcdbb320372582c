# SPDX-License-Identifier: MIT
"""The forms of attention that large trainings have, within models that are compiled or not: varlen_attn, flex attention of one
long sequence with documents, and MLA with its keys absorbed. On the CPU varlen_attn has no kernel: one of plain torch stands in
for it, below the operator, so that what torch traces is what it traces on a GPU."""
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")  # compiled models show themselves from there on
varlen = pytest.importorskip("torch.nn.attention.varlen")
F = torch.nn.functional
from compiling import compilations, forget, from_anew, regional, whole  # noqa: E402, F401
from session import Session, assert_captured, assert_right, tier_options, tiers_of  # noqa: E402
from attnd.forms import look, mods  # noqa: E402
from expected import Attended  # noqa: E402
from test_models_untouched import HAS_HEADERS  # noqa: E402
import test_models_flex as flexible  # noqa: E402
from zoo import decoder_kind, seeded, softmax, triangle  # noqa: E402

pytest_plugins = ("one_daemon",)
pytestmark = pytest.mark.skipif(not HAS_HEADERS, reason="inductor needs the headers of PyTorch")


def sequences(q, k, starts, keys_starts, scale, window):
    """(slice of queries, slice of keys, weights [H, T, Tk]) of each sequence by itself."""
    repeated = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    for a, b, c, d in zip(starts, starts[1:], keys_starts, keys_starts[1:]):
        ahead = torch.arange(d - c)[None] - torch.arange(b - a)[:, None] - (d - c - b + a)
        hidden = ((ahead > window[1]) & (window[1] >= 0)) | ((-ahead > window[0]) & (window[0] >= 0))
        logits = torch.einsum("qhd,khd->hqk", q[a:b], repeated[c:d]) * (q.shape[2]**-0.5 if scale is None else scale)
        yield slice(a, b), slice(c, d), logits.masked_fill(hidden, -torch.inf).softmax(-1)


@varlen._varlen_attn.register_kernel("cpu")
def _forward(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, scale=None, window_size=None, *more):
    out, values = torch.empty_like(query), value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    for rows, keys, weights in sequences(query, key, cu_seq_q.tolist(), cu_seq_k.tolist(), scale, window_size or (-1, -1)):
        out[rows] = torch.einsum("hqk,khd->qhd", weights, values[keys])
    return out, torch.zeros(query.shape[1], query.shape[0]), torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def _backward(grad_out, query, key, value, out, lse, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, rng_state, scale=None,
              window_size=None):
    scale, (heads, group) = query.shape[2]**-0.5 if scale is None else scale, (key.shape[1], query.shape[1] // key.shape[1])
    grads = [torch.zeros_like(one) for one in (query, key, value)]
    repeated, values = (one.repeat_interleave(group, 1) for one in (key, value))
    for rows, keys, weights in sequences(query, key, cu_seq_q.tolist(), cu_seq_k.tolist(), scale, window_size or (-1, -1)):
        of_weights = torch.einsum("qhd,khd->hqk", grad_out[rows], values[keys])
        of_logits = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
        grads[0][rows] = torch.einsum("hqk,khd->qhd", of_logits, repeated[keys])
        for grad, made in ((grads[1], torch.einsum("hqk,qhd->khd", of_logits, query[rows])),
                           (grads[2], torch.einsum("hqk,qhd->khd", weights, grad_out[rows]))):
            grad[keys] = made.unflatten(1, (heads, group)).sum(2)
    return tuple(grads)


def packed(q, k, v, dropout=0.0, attend=varlen.varlen_attn):
    """The samples of a batch, one behind another."""
    batch, heads, length, width = q.shape
    starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32)
    q, k, v = (one.transpose(1, 2).reshape(batch * length, heads, width) for one in (q, k, v))
    out = attend(q, k, v, starts, starts, length, length, window_size=(-1, 0))
    return out.unflatten(0, (batch, length)).transpose(1, 2)


def block_diagonal(x, beside):
    """[1, H, B * T, B * T] of [B, H, T, T]."""
    batch, heads, length = x.shape[:3]
    made = np.full((1, heads, batch, length, batch, length), beside)
    for sample in range(batch):
        made[0, :, sample, :, sample] = x[sample]
    return made.reshape(1, heads, batch * length, batch * length)


def in_one_sequence(kind):
    """The kind, whose samples are documents of one sequence."""
    def reference(state, batch):
        return {layer: Attended(block_diagonal(one.weights, 0.0), block_diagonal(one.logits, -np.inf), causal=True,
                                documents=np.arange(one.weights.shape[0]).repeat(one.weights.shape[2])[None])
                for layer, one in kind.reference(state, batch).items()}

    return replace(kind, reference=reference)


KIND = in_one_sequence(decoder_kind("varlen", packed))


def as_it_is(model):
    return model


def kernel(model):
    """The function alone, as torchtitan does it where no block is compiled."""
    compiled = torch.compile(varlen.varlen_attn)
    for block in model.blocks:
        block.attn.attend = lambda *given: packed(*given, attend=compiled)
    return model


WAYS = {"eager": as_it_is, "whole": whole, "regional": regional, "kernel": kernel}


@pytest.mark.parametrize("tier", ["raw", "accelerator"])
@pytest.mark.parametrize("way", WAYS)
def test_sequences_of_varlen_attn_are_documents(stepwise, way, tier, monkeypatch):
    assert_captured(stepwise, KIND, name=f"varlen, {way}, {tier}", steps=3, wrap=WAYS[way], tiers=tiers_of(KIND, tier),
                    **tier_options(tier, monkeypatch))
    assert compilations() == (1, 0) or way not in ("whole", "regional")


# --------------------------------------------------------------------------------------- flex attention

def flex_attention(*given, **options):
    """Of tensors as they are laid out: torch 2.13 compiles none of views of a product for the CPU."""
    return flexible.flex_attention(*(one.contiguous() for one in given), **options)


@torch.no_grad()
@pytest.mark.parametrize("name", ["documents", "samples", "mask by head", "score_mod that hides", "alibi", "table"])
def test_flex_attention_in_compiled_layers_is_captured_and_nothing_is_compiled_again(stepwise, name):
    """On the CPU it has no backward pass. The layers share code; each has its own numbers."""
    case = flexible.CASES[name]
    options = case.options()

    def run(model, after=lambda: None):
        forget()
        for layer in model.layers:
            layer.compile(fullgraph=True)
        for step in range(2):
            model(flexible.inputs(step), options)
            after()
        return compilations()

    alone = run(flexible.made(flex_attention))
    with Session(stepwise) as session:
        model = flexible.made(flex_attention)
        watch = session.watch(model, steps="manual", evaluation=True)
        assert run(model, watch.step) == alone
    expected = {(step, layer): attended for step in range(2)
                for layer, attended in flexible.reference(case, flexible.inputs(step)).items()}
    assert_right(f"flex-{name}, compiled", session.summaries(), expected, (case.tier,))


@torch.no_grad()
def test_flex_attention_of_other_lengths_is_captured_by_the_code_that_torch_compiles_for_all(stepwise):
    lengths = (64, 96, 128, 64)
    inputs = [0.5 * torch.randn(2, length, flexible.WIDTH, generator=flexible.generator(step)) for step, length in enumerate(lengths)]
    masks = [{"block_mask": flexible.flex.create_block_mask(flexible.causal, None, None, n, n, device="cpu", BLOCK_SIZE=32)}
             for n in lengths]
    with Session(stepwise) as session:
        model = flexible.made(flex_attention)
        watch = session.watch(model, steps="manual", evaluation=True)
        compiled = torch.compile(model)
        for x, options in zip(inputs, masks):
            compiled(x, options)
            watch.step()
        assert watch.forwards.spy.is_looking
    expected = {}
    for step, (x, length) in enumerate(zip(inputs, lengths)):
        case = flexible.Case(dict, triangle(length), causal=True)
        expected.update({(step, layer): attended for layer, attended in flexible.reference(case, x).items()})
    assert_right("flex, other lengths", session.summaries(), expected)


class Mixer(torch.nn.Module):
    """Says nothing of attention."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(flexible.WIDTH, 3 * flexible.WIDTH)

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (4, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        return x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Windowed(Mixer):
    """Is given how far it looks back, which torch takes for a number that changes from the second value on."""

    def forward(self, x, left):
        starts = torch.arange(0, (len(x) + 1) * x.shape[1], x.shape[1], dtype=torch.int32)
        q, k, v = (one.flatten(0, 1).unflatten(-1, (4, -1)) for one in self.qkv(x).chunk(3, -1))
        out = varlen.varlen_attn(q, k, v, starts, starts, x.shape[1], x.shape[1], window_size=(left, 0))
        return x + out.flatten(1).unflatten(0, x.shape[:2])


def test_a_number_that_torch_does_not_fix_makes_captured_steps_run_eagerly(stepwise, caplog):
    with Session(stepwise) as session, caplog.at_level("INFO", "attnd"):
        model = Windowed()
        session.watch(model)
        compiled, optimizer = torch.compile(model), torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(4):
            compiled(flexible.inputs(step), 4 + step).square().mean().backward()
            optimizer.step()
    assert "captured steps run eagerly" in caplog.text
    assert {step for step, _ in session.summaries()} >= {0, 2, 3}


def test_layers_like_one_that_shows_itself_in_compiled_code_are_not_lost(stepwise):
    """One of three is compiled; the other two are seen from the next capture on, when all run eagerly."""
    with Session(stepwise) as session:
        model = torch.nn.Sequential(*(Mixer() for _ in range(3)))
        session.watch(model)
        model[1].compile()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(3):
            model(flexible.inputs(step)).square().mean().backward()
            optimizer.step()
    assert {(step, layer[1]) for step, layer in session.summaries()} >= {(2, n) for n in range(3)}


def test_what_is_compiled_of_a_model_that_nobody_watches_has_no_operator(stepwise):
    with Session(stepwise) as session:
        watched, alone = torch.nn.Sequential(Mixer()), torch.nn.Sequential(Mixer())
        session.watch(watched)
        count = len(look._sites)
        torch.compile(alone)(flexible.inputs())
        assert len(look._sites) == count
        torch.compile(watched)(flexible.inputs()).sum().backward()
        assert len(look._sites) == count + 1
    torch._dynamo.reset()
    torch.compile(watched)(flexible.inputs())
    assert len(look._sites) == count + 1


LONG, DOCUMENT, BLOCK = 65_536, 512, 128


def documents_of_512():
    """A causal mask within documents of one sequence, as create_block_mask would find it by all 2^32 pairs."""
    blocks, within = LONG // BLOCK, DOCUMENT // BLOCK
    own = torch.arange(blocks) // within * within
    indices = (own[:, None] + torch.arange(blocks)[None]) % blocks
    number = torch.arange(LONG) // DOCUMENT
    return flexible.flex.BlockMask.from_kv_blocks(
        (torch.arange(blocks) - own + 1).int()[None, None], indices.int()[None, None], BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, i, j: (i >= j) & (number[i] == number[j]))


def entropies(model, x, rows):
    """[layers, H, rows] in float64, document by document."""
    found = []

    def kernel(q, k, v, enable_gqa, **options):
        group = q.shape[1] // k.shape[1]
        of_rows = torch.empty(q.shape[1], LONG, dtype=torch.float64)
        out = torch.empty_like(q)
        for first in range(0, LONG, DOCUMENT):
            own = slice(first, first + DOCUMENT)
            q_own, k_own, v_own = q[0, :, own], *(one[0, :, own].repeat_interleave(group, 0) for one in (k, v))
            hidden = torch.ones(DOCUMENT, DOCUMENT, dtype=torch.bool).triu(1)
            weights = (q_own @ k_own.mT * q.shape[3]**-0.5).masked_fill(hidden, -torch.inf).softmax(-1)
            of_rows[:, own], out[0, :, own] = -torch.xlogy(weights, weights).sum(-1), weights @ v_own
        found.append(of_rows[:, rows])
        return out

    reference = flexible.made(kernel).double()
    reference(x.double(), {})
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("tier", ["raw", "accelerator"])
def test_a_long_sequence_of_documents_is_captured_by_some_of_its_rows(stepwise, tier, monkeypatch):
    """The logits are 2^34 over 4 heads; the mask is evaluated for the rows alone."""
    options, evaluated, visible = tier_options(tier, monkeypatch), [], mods.visible
    monkeypatch.setattr(mods, "visible", lambda function, at: (evaluated.append(len(at.queries)), visible(function, at))[1])
    x, mask = torch.randn(1, LONG, flexible.WIDTH, generator=flexible.generator(3)), documents_of_512()
    with Session(stepwise) as session:
        model = flexible.made(flex_attention)
        watch = session.watch(model, steps="manual", evaluation=True, rows=256, **options)
        chosen = watch.plan.row_slice(0, LONG)
        for layer in model.layers:
            layer.compile(fullgraph=True)
        model(x, {"block_mask": mask})
        watch.step()
    assert sorted(evaluated) == [32] * flexible.LAYERS + [256] * flexible.LAYERS  # for the name of each layer, and for its rows
    everywhere = tier == "accelerator"  # random rows: their mean is near that of all
    expected = entropies(model, x, slice(None) if everywhere else chosen)
    summaries = session.summaries()
    assert len(summaries) == flexible.LAYERS and all(one["tier"] == ("rows" if everywhere else "qk") for one in summaries.values())
    for (_, layer), summary in summaries.items():
        metric, rows = summary["heads"]["entropy"], expected[layer[1]]
        assert metric["count"] == [256] * len(rows)
        error = abs(np.array(metric["mean"]) - rows.mean(-1).numpy())
        assert (error < (5 * rows.std(-1).numpy() / 16 if everywhere else 2e-4)).all(), (layer, error)


# --------------------------------------------------------------------------------------------------- MLA

class Absorbed(torch.nn.Module):
    """Multi-head latent attention of DeepSeek V2 with the keys' projection absorbed by the queries: all heads read one latent
    vector of 512 and one rotated key of 64 numbers; the values are the latent."""
    LATENT, ROTATED, NOPE = 512, 64, 16

    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(32, 4 * (self.NOPE + self.ROTATED))
        self.down = torch.nn.Linear(32, self.LATENT + self.ROTATED)
        self.k_up = torch.nn.Parameter(torch.zeros(4, self.NOPE, self.LATENT))
        self.v_up = torch.nn.Parameter(torch.zeros(4, self.LATENT, 8))

    def scaled(self):
        return (self.NOPE + self.ROTATED)**-0.5

    def forward(self, x):
        q, latent = self.q(x).unflatten(-1, (4, -1)).transpose(1, 2), self.down(x)[:, None]
        q = torch.cat([q[..., :self.NOPE] @ self.k_up, q[..., self.NOPE:]], -1)
        out = F.scaled_dot_product_attention(q, latent, latent[..., :self.LATENT], is_causal=True, scale=self.scaled(),
                                             enable_gqa=True)
        return (out @ self.v_up).transpose(1, 2).flatten(2)

    def weights(self, x):
        """Not absorbed: keys of 16 + 64 numbers for each head."""
        q, (latent, rotated) = self.q(x).unflatten(-1, (4, -1)).transpose(1, 2), self.down(x).split((self.LATENT, self.ROTATED), -1)
        k = torch.cat([torch.einsum("btl,hnl->bhtn", latent, self.k_up), rotated[:, None].expand(-1, 4, -1, -1)], -1)
        logits = (q @ k.mT * self.scaled()).detach().numpy()
        return Attended(softmax(logits, triangle(logits.shape[2])), logits, causal=True)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tier", ["raw", "accelerator"])
def test_absorbed_mla_is_captured(stepwise, tier, compiled, monkeypatch):
    options = tier_options(tier, monkeypatch)
    x = torch.randn(2, 24, 32, generator=flexible.generator(4))
    with Session(stepwise) as session:
        model = torch.nn.Sequential(seeded(Absorbed)())
        watch = session.watch(model, **options)
        (torch.compile(model, fullgraph=True) if compiled else model)(x).sum().backward()
        watch.step()
    expected = {(0, ("decoder", 0, "self")): [seeded(Absorbed)().double().weights(x.double())]}
    assert_right(f"MLA, {tier}", session.summaries(), expected, ("qk" if tier == "raw" else "rows",))
