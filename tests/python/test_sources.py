# SPDX-License-Identifier: MIT
"""An attention is called cross when its keys are of another sequence than its queries, however its module is called."""
import pytest

torch = pytest.importorskip("torch")

from attnd.forms.seen import NotCaptured, Queries, sees_ahead
from attnd.forms.sources import reads_other
from torch import nn
from watching import MHA, TORCH_2, D, H

SHOWS_KEPT = hasattr(torch._C._autograd.SavedTensor, "unpack_hook")  # what is kept for backward
WORDS = torch.arange(27).view(3, 9)
BAND = torch.ones(9, 9).tril()
POSITIONS = torch.rand(9, D)


def attends(q, k, v, mask=None):
    """An explicit softmax."""
    q, k, v = (x.unflatten(-1, (H, D // H)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) / 2
    logits = logits if mask is None else logits.masked_fill(mask == 0, float("-inf"))
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))

    def run(self, q, k, mask=None, v=None):
        return attends(self.q(q), self.k(k), self.v(k if v is None else v), mask)


class QueryKeyValue(Attention):
    def forward(self, query, key, value, mask=None):
        return self.run(query, key, mask, value)


class ValuesKeysQuery(Attention):
    def forward(self, values, keys, query, mask=None):
        return self.run(query, keys, mask, values)


class KeyValueQuery(Attention):
    def forward(self, key, value, query):
        return self.run(query, key)


class Short(Attention):
    def forward(self, v, k, q, mask=None):
        return self.run(q, k, mask)


class Unnamed(Attention):
    def forward(self, x, y):
        return self.run(x, y)


class Reversed(Attention):
    def forward(self, context, x):
        return self.run(x, context)


class ByName(Attention):
    def forward(self, *, memory, hidden):
        return self.run(hidden, memory)


class Core(Attention):
    """Is given what the projections made."""

    def forward(self, query, key, value):
        return self.q(attends(query, key, value))


class Fused(Core):
    def forward(self, query, key, value):
        fused = getattr(nn.functional, "scaled_dot_product_attention", None)
        return fused(*(one.unflatten(-1, (H, D // H)).transpose(1, 2) for one in (query, key, self.v(value)))) if fused \
            else super().forward(query, key, value)


class Resampler(Attention):
    def forward(self, x, latents):
        return self.run(latents, torch.cat([x, latents], 1))


class Recurrent(Attention):
    def forward(self, x, mems):
        return self.run(x, torch.cat([mems, x], 1), torch.ones(9, 9 + mems.shape[1]).tril(mems.shape[1]))


class OfClass(Attention):
    def forward(self, x):
        return self.run(x[:, :1], x)


class CrossAttention(OfClass):
    """timm's CrossViT has it: the class token of one branch reads the patches of another one, put behind it."""


def reads(name, made=lambda m, x, y: y):
    """Its call, after something was stored under a name."""
    def call(m, x, y):
        setattr(m.attn, name, made(m, x, y))
        return m.attn(x)

    return type("Holding", (Attention,), {"forward": lambda self, x: self.run(x, getattr(self, name))}), call


class Whole(nn.Module):
    """What `call` makes of the attention, the sequence, and another one. `data`: the sequence has no history."""

    def __init__(self, attention, call, other=9, data=False):
        super().__init__()
        self.embed, self.attn, self.call, self.other, self.data = nn.Embedding(50, D), attention, call, other, data
        self.norms, self.linear = nn.ModuleList(nn.LayerNorm(D) for _ in range(3)), nn.ModuleList(nn.Linear(D, D) for _ in range(3))
        self.positions = nn.Parameter(torch.rand(1, 9, D))
        for parameter in self.norms.parameters():
            nn.init.uniform_(parameter)

    def forward(self, words):
        x = self.embed(words).detach() if self.data else self.embed(words)
        y = torch.rand(3, self.other, D)
        made = self.call(self, x, y)
        return (made[0] if isinstance(made, tuple) else made).square().sum()


def name_of(watched, model, **options):
    """The stack and the site of its attention; None: it has none."""
    it = watched(model, steps="manual", **options)
    model(WORDS).backward()
    it.step()
    return next((f"{layer[0]} {layer[2]}" for layer in it.layers), None)


def is_named(watched, caplog, model, name):
    """Whether it has this name, and nothing is told; of data an older torch may tell that it cannot know."""
    return (name_of(watched, model) == name and not caplog.messages) or (
        model.data and not SHOWS_KEPT and "nothing tells" in caplog.text)


def dropped(x):
    return nn.functional.dropout(x, 0.5)


SELF = {
    "one": lambda m, x, y: m.attn(x, x, x),
    "views": lambda m, x, y: m.attn(x.transpose(0, 1).transpose(0, 1), x[:], x.view(3, 9, D)),
    "copies": lambda m, x, y: m.attn(x.clone(), x.clone(), x.clone()),
    "a norm each time": lambda m, x, y: m.attn(m.norms[0](x), m.norms[0](x), m.norms[0](x)),
    "a norm each": lambda m, x, y: m.attn(m.norms[0](x), m.norms[1](x), m.norms[2](x)),
    "a dropout each": lambda m, x, y: m.attn(dropped(m.norms[0](x)), dropped(m.norms[0](x)), dropped(m.norms[0](x))),
    "parts": lambda m, x, y: m.attn(*m.linear[0](x).repeat(1, 1, 3).chunk(3, -1)),
    "a matrix each": lambda m, x, y: m.attn(m.linear[0](x), m.linear[1](x), m.linear[2](x)),
    "positions that are added": lambda m, x, y: m.attn(x + POSITIONS, x, x),
    "positions that are learned": lambda m, x, y: m.attn(x + m.positions, x + m.positions, x)}


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("attention", [QueryKeyValue, ValuesKeysQuery, Short, Core, Fused, lambda: MHA(D, H, batch_first=True)])
@pytest.mark.parametrize("form", SELF)
def test_three_inputs_that_are_made_of_one_are_self_attention(watched, caplog, form, attention, data):
    assert is_named(watched, caplog, Whole(attention(), SELF[form], data=data), "encoder self")


@pytest.mark.parametrize("attention, call", [
    (QueryKeyValue, lambda m, x, y: m.attn(m.norms[0](x), m.norms[1](x), m.norms[2](x), BAND)),
    (Recurrent, lambda m, x, y: m.attn(x, y))])
def test_attention_to_what_was_before_is_self_attention(watched, attention, call):
    assert name_of(watched, Whole(attention(), call)) == "decoder self"


def test_a_class_token_that_reads_what_is_behind_it_is_of_an_encoder(watched):
    assert name_of(watched, Whole(OfClass(), lambda m, x, y: m.attn(x))) == "encoder self"


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("other", [9, 11, 4])
@pytest.mark.parametrize("attention, call", [
    (QueryKeyValue, lambda m, x, y: m.attn(x, y, y)),
    (QueryKeyValue, lambda m, x, y: m.attn(m.norms[0](x), m.norms[0](y), m.norms[1](y))),
    (ValuesKeysQuery, lambda m, x, y: m.attn(y, y, x)),
    (ValuesKeysQuery, lambda m, x, y: m.attn(query=x, keys=y, values=y)),
    (KeyValueQuery, lambda m, x, y: m.attn(y, y, x)),
    (Short, lambda m, x, y: m.attn(y, y, x)),
    (Unnamed, lambda m, x, y: m.attn(x, y)),
    (Reversed, lambda m, x, y: m.attn(m.linear[0](y), x)),
    (ByName, lambda m, x, y: m.attn(memory=y, hidden=x)),
    (Resampler, lambda m, x, y: m.attn(y, x)),
    (CrossAttention, lambda m, x, y: m.attn(x)),
    (lambda: MHA(D, H, batch_first=True, add_zero_attn=True), lambda m, x, y: m.attn(x, y, y))])
def test_keys_of_another_sequence_are_cross_attention(watched, caplog, attention, call, other, data):
    assert is_named(watched, caplog, Whole(attention(), call, other, data), "decoder cross")


HELD = {"as it is": lambda m, x, y: y, "recorded": lambda m, x, y: m.linear[0](y), "of a norm": lambda m, x, y: m.norms[0](y)}


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("other", [9, 11, 4])
@pytest.mark.parametrize("made", HELD.values(), ids=HELD)
@pytest.mark.parametrize("name", ["memory", "seen"])
def test_keys_of_a_sequence_that_the_module_holds_are_cross_attention(watched, caplog, name, made, other, data):
    if data and name == "seen" and not SHOWS_KEPT:
        pytest.skip("only its name tells")
    attention, call = reads(name, made)
    assert is_named(watched, caplog, Whole(attention(), call, other, data), "decoder cross")


@pytest.mark.parametrize("made", [lambda m, x, y: x, lambda m, x, y: x.clone(), lambda m, x, y: m.norms[0](x), lambda m, x, y: x + m.positions])
def test_keys_of_what_the_module_holds_of_its_own_sequence_are_self_attention(watched, caplog, made):
    attention, call = reads("memory", made)
    assert is_named(watched, caplog, Whole(attention(), call), "encoder self")


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", ["seen", "memory"])
def test_what_the_module_holds_and_does_not_read_is_nothing(watched, caplog, name, data):
    def call(m, x, y):
        setattr(m.attn, name, y)
        return m.attn(x, x)

    assert is_named(watched, caplog, Whole(Unnamed(), call, data=data), "encoder self")


def test_keys_of_something_that_does_not_show_are_told(watched, caplog):
    """As it was kept elsewhere than on the module."""
    class Elsewhere(Attention):
        def forward(self, x):
            return self.run(x, elsewhere)

    elsewhere = torch.rand(3, 9, D)
    assert name_of(watched, Whole(Elsewhere(), lambda m, x, y: m.attn(x))) is None
    told, = caplog.messages
    assert "reads keys that are not made of x, and nothing tells whether they are of the same sequence" in told and "layers={'attn'" in told


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("mask, stack", [(None, "encoder"), (BAND == 0, "decoder")])
@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_keys_that_the_module_adds_do_not_make_a_decoder(watched, options, mask, stack, asks):
    model = Whole(MHA(D, H, batch_first=True, **options), lambda m, x, y: m.attn(x, x, x, need_weights=asks, attn_mask=mask))
    assert name_of(watched, model) == f"{stack} self"


def test_further_keys_do_not_hide_whether_queries_see_ahead():
    for own, ahead in ((torch.ones(32, 32), True), (torch.ones(32, 32).tril(), False)):
        for keys in ([own, torch.ones(32, 3)], [torch.ones(32, 3), own]):
            mask = torch.cat(keys, 1).bool()
            assert bool(sees_ahead(Queries(torch.rand(2, 2, 32, 4), torch.rand(2, 2, 35, 4), mask))) is ahead


@pytest.mark.skipif(not TORCH_2, reason="of torch 2")
def test_what_a_checkpoint_keeps_is_not_unpacked(watched, caplog):
    from torch.utils.checkpoint import checkpoint
    model = Whole(QueryKeyValue(), lambda m, x, y: m.attn(m.norms[0](m.first(x)), m.norms[1](m.first(x)), m.norms[2](x)), data=True)
    runs = []
    model.first = lambda x: checkpoint(lambda x: (runs.append(0), m_linear(x))[1], x, use_reentrant=False)
    m_linear = model.linear[0]
    name_of(watched, model)
    assert len(runs) == 4 and not [record for record in caplog.records if record.exc_info]  # two, and twice again in backward


@pytest.mark.parametrize("inputs, held, told", [
    (("x", "y"), (), "is given x and y of one length"), (("query", "key"), (), "is given query and key of one length"),
    (("x",), ("memory",), "is given x and holds memory of one length")])
def test_data_of_one_sample_and_of_one_length_is_told(inputs, held, told):
    attention, given = Attention(), {name: torch.rand(1, 9, D) for name in (*inputs, *held)}
    q, k = (linear(given[name]).view(1, 9, H, -1).transpose(1, 2) for linear, name in zip((attention.q, attention.k), given))
    seen = Queries(q, k) if inputs[1:] else Queries(q.detach(), k.detach())
    with pytest.raises(NotCaptured, match=f"{told}, and nothing tells"):
        reads_other({name: given[name] for name in inputs}, seen, {name: given[name] for name in held})


class Unclear(nn.Module):
    """Nothing is left of what its inputs were made of. Its attention has this name."""

    def __init__(self, name):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(3))
        for norm in self.norms:
            nn.init.uniform_(norm.weight)
        self.add_module(name, QueryKeyValue())

    def forward(self):
        x = torch.rand(3, 9, D)
        return list(self.children())[1](*(norm(x) for norm in self.norms))


def names_of(daemon, watched, name, **options):
    """The layers of three forwards, and how many messages came of them."""
    model = Unclear(name)
    it = watched(model, evaluation=True, steps="manual", **options)
    for _ in range(3):
        with torch.no_grad():
            model()
        it.step()
    return [str(layer[2]) for layer in it.layers], len(daemon.captured(it))


def test_that_nothing_tells_which_it_is_is_said_once_with_what_helps(daemon, watched, caplog):
    assert names_of(daemon, watched, "attn") == ([], 0)
    message, = caplog.messages
    assert "the attention of attn is not captured" in message and "given query and key of one length, and nothing tells" in message
    assert message.endswith("Say which, by layers={'attn': ('decoder', 0, 'cross')} or 'self'")


@pytest.mark.parametrize("name, options, site", [
    ("attn", {"layers": {"attn": ("decoder", 0, "cross")}}, "cross"), ("attn", {"layers": {"attn": ("encoder", 0, "self")}}, "self"),
    ("self_attn", {}, "self"), ("cross_attn", {}, "cross")])
def test_who_says_which_it_is_is_told_nothing(daemon, watched, caplog, name, options, site):
    assert names_of(daemon, watched, name, **options) == ([site], 3) and not caplog.messages


@pytest.mark.parametrize("inputs, keys, other", [
    ({"x": (2, 6, 8)}, 2, False), ({"x": (2, 6, 8), "context": (2, 6, 4)}, 6, True), ({"x": (2, 6, 8), "y": (2, 3, 4)}, 3, True),
    ({"x": (2, 6, 8), "y": (2, 6, 4)}, 6, False), ({"x": (2, 6, 8), "position_bias": (2, 3, 6)}, 3, False),
    ({"x": (2, 6, 8), "context": (2, 4, 8)}, 10, False), ({"query": (6, 8), "key": (4, 8)}, 4, True), ({"ids": (2,)}, 6, None)])
def test_without_a_history_names_and_lengths_tell(inputs, keys, other):
    seen = Queries(torch.rand(2, 2, 6, 4), torch.rand(2, 2, keys, 4))
    assert reads_other({name: torch.rand(shape) for name, shape in inputs.items()}, seen) is other
