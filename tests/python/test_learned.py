# SPDX-License-Identifier: MIT
"""Captures that follow only what attends show what full captures show; what they cannot show makes the next one full."""
import copy
import pickle
import threading

import pytest

torch = pytest.importorskip("torch")

from attnd.capture import calls
from attnd.capture.forwards import Forwards
from attnd.forms import learned
from attnd.forms.spy import Spy
from conftest import FakeDaemon
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from watching import MHA, D, H, tensors_of

import attnd

X = torch.rand(2, 5, D)
SDPA = getattr(functional, "scaled_dot_product_attention", None)
BOUND = SDPA
needs_sdpa = pytest.mark.skipif(SDPA is None, reason="torch has no scaled_dot_product_attention")


def by_name(*args, **kwargs):
    """As most models call it; a function that was bound at import is seen by a mode alone."""
    return functional.scaled_dot_product_attention(*args, **kwargs)


@pytest.fixture(autouse=True, params=[by_name, BOUND], ids=["by name", "bound"])
def way(request, monkeypatch):
    """How the models below find the function."""
    monkeypatch.setitem(globals(), "SDPA", request.param if BOUND is not None else None)
    return request.param


class Attention(torch.nn.Module):
    """Self-attention by one function of torch, or by a softmax; `inner` may attend in its place."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(D, 3 * D), torch.nn.Linear(D, D)
        self.inner = torch.nn.Identity()
        self.is_explicit = False

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        if self.is_explicit:
            mixed = torch.softmax(q @ k.transpose(2, 3) * (D // H)**-0.5, -1) @ v
        else:
            mixed = SDPA(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(torch.nn.Module):
    """With a residual, and what is no attention."""

    def __init__(self, attention=None):
        super().__init__()
        self.norm, self.attn, self.mlp = torch.nn.LayerNorm(D), attention or Attention(), torch.nn.Sequential(torch.nn.Linear(D, D))

    def forward(self, x):
        return self.mlp(x + self.attn(self.norm(x)))


class Stack(torch.nn.Module):
    """Blocks, of which a forward may leave out some."""

    def __init__(self, blocks=3):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(blocks))
        self.left_out = ()

    def forward(self, x):
        for number, block in enumerate(self.blocks):
            x = x if number in self.left_out else block(x)
        return x


def train(change=lambda model, step: None, steps=8, build=Stack, run=lambda model, x: model(x), **options):
    """What a training sends, [(step, layer, module, numbers)], and which of its captures were full."""
    torch.manual_seed(3)
    model, full, daemon = build(), [], FakeDaemon()
    with daemon.publisher() as publisher, attnd.watch(model, job="job", publisher=publisher, steps="manual", weights_every=0, **options) as it:
        assert daemon.next()[1]["event"] == "hello"
        for step in range(steps):
            change(model, step)
            full.append(it.forwards.spy.is_full)
            try:
                run(model, X + step)
            except ZeroDivisionError:
                pass
            it.step()
        sent = [(header["step"], header["layer"], header["stack"], tensors) for _, header, tensors in (
            (None, message[1], {name: one.tobytes() for name, one in tensors_of(message).items()}) for message in daemon.captured(it))]
    return sent, full


def both(monkeypatch, **options):
    """(what is sent, which captures were full) as it is, and as it would be were all full."""
    narrow = train(**options)
    monkeypatch.setattr(learned, "FULL_EVERY", 1)
    return narrow, train(**options)


def grown(model, step):
    if step == 3:
        model.blocks.append(Block())


def dropped(model, step):
    model.left_out = {step % 3, 2} if step else {1, 2}


def reordered(model, step):
    if step == 4:
        model.blocks = torch.nn.ModuleList(reversed(model.blocks))


@needs_sdpa
@pytest.mark.parametrize("change", [lambda model, step: None, dropped, reordered])
def test_what_is_sent_is_the_same(monkeypatch, change):
    """Layers that a forward leaves out, that come later, and in another order."""
    (sent, full), (expected, all_full) = both(monkeypatch, change=change)
    assert sent == expected and len(sent) > 8 and all(all_full)
    assert full[0] and not full[1] and sum(full) <= 2


@needs_sdpa
def test_one_of_sixteen_captures_is_full():
    _, full = train(steps=34)
    assert [step for step, is_full in enumerate(full) if is_full] == [0, 16, 32]
    _, full = train(steps=34, every=2)
    assert [step for step, is_full in enumerate(full[::2]) if is_full] == [0, 16]


def explicit(model, step):
    model.blocks[1].attn.is_explicit = step >= 3


def replaced(model, step):
    if step == 3:
        model.blocks[1].attn = torch.nn.Sequential(Attention())


class Inner(torch.nn.Module):
    """Attends for the module that it is in, to something else."""

    def forward(self, x):
        x = x.unsqueeze(1)
        return SDPA(x, x, x).squeeze(1)


def deeper(model, step):
    if step == 3:
        attention = model.blocks[1].attn
        attention.inner = Inner()
        attention.forward = lambda x: attention.out(attention.inner(x))


@needs_sdpa
@pytest.mark.parametrize("change,lost", [(explicit, {(3, 1)}), (deeper, {(3, 1)})])
def test_what_was_not_learned_is_not_guessed(monkeypatch, change, lost):
    """An attention of another form or of another module is missing in one capture; the next one is full."""
    (sent, full), (expected, _) = both(monkeypatch, change=change)
    missing = [one for one in expected if one not in sent]
    assert [one for one in sent if one not in expected] == []
    assert {one[:2] for one in missing} <= lost and full[4] and not full[3]


@needs_sdpa
@pytest.mark.parametrize("change", [replaced, grown])
def test_a_model_that_has_other_modules_is_learned_anew(monkeypatch, change):
    (sent, full), (expected, _) = both(monkeypatch, change=change, every=2)
    assert sent == expected and full[2::2] == [False, True, False]


class Late(Attention):
    """Of another class than those that a full capture has shown."""


class Turns(Attention):
    """Attends by its softmax, or by one function of torch, in turns."""
    number = 0

    def forward(self, x):
        self.number += 1
        self.is_explicit = self.number % 2 == 0
        return super().forward(x)


@needs_sdpa
def test_forms_that_take_turns_are_missing_twice(monkeypatch, caplog):
    """And told; after that, full captures have shown both."""
    def build():
        model = Stack()
        model.blocks[1].attn = Turns()
        return model

    caplog.set_level("INFO", "attnd")
    (sent, full), (expected, _) = both(monkeypatch, build=build, steps=40)
    assert [message[:2] for message in expected if message not in sent] == [(1, 1), (3, 1)]
    assert [message for message in sent if message not in expected] == []
    assert [step for step, is_full in enumerate(full) if is_full] == [0, 2, 4, 5, 6, 7, 23, 39]
    assert caplog.text.count("blocks.1.attn (Turns) showed no attention") == 1


@needs_sdpa
def test_a_form_that_a_mode_alone_sees_is_not_forgotten(monkeypatch, way):
    """By a full capture that shows the other one, of the function that is looked up by its name."""
    def build():
        model = Stack()
        model.blocks[1].attn = Turns()
        model.blocks[1].attn.number = 1
        return model

    (sent, full), (expected, _) = both(monkeypatch, build=build, steps=40)
    assert {message[0] for message in expected if message not in sent} == ({2, 4} if way is by_name else set())
    assert sum(full) == (7 if way is by_name else 4) and not all(full[-9:])


def shared():
    model = Stack()
    model.blocks[1].attn = model.blocks[0].attn
    return model


@needs_sdpa
@pytest.mark.parametrize("place,build,what", [("mlp", Stack, Late), ("mlp", Stack, Attention), ("attn", shared, Late), ("attn", shared, Attention)])
def test_attention_where_none_was_is_missing_once(monkeypatch, place, build, what):
    """In a place that is not followed, as that of a part that is another one's too, a module is told by its class."""
    def change(model, step):
        if step == 2:
            torch.manual_seed(4)
            setattr(model.blocks[1], place, what())

    sent, full = train(change=change, build=build, steps=6)
    assert full == [True, False, False, True, False, False]
    assert [sum(step == at for at, *_ in sent) for step in (2, 3, 4, 5)] == ([3, 4, 4, 4] if place == "mlp" else [2, 3, 3, 3])


@needs_sdpa
def test_a_class_that_runs_later_is_missing_once(monkeypatch):
    class Either(Block):
        def __init__(self):
            super().__init__()
            self.late, self.is_late = Late(), False

        def forward(self, x):
            return self.mlp(x + (self.late if self.is_late else self.attn)(self.norm(x)))

    def build():
        model = Stack()
        model.blocks[1] = Either()
        return model

    def change(model, step):
        model.blocks[1].is_late = step >= 3

    (sent, full), (expected, _) = both(monkeypatch, change=change, build=build)
    assert [one[0] for one in expected if one not in sent] == [3] and full[3:6] == [False, True, False]
    assert [one for one in sent if one not in expected] == []


@needs_sdpa
def test_a_module_that_is_none_of_the_model_keeps_captures_full(monkeypatch):
    class Outside(Attention):
        def forward(self, x):
            return Inner()(x)

    def build():
        model = Stack()
        model.blocks[1].attn = Outside()
        return model

    (sent, full), (expected, _) = both(monkeypatch, build=build)
    assert sent == expected and len(sent) == 24 and all(full)


@needs_sdpa
def test_a_forward_without_attention_makes_the_next_capture_full(monkeypatch):
    class Fused(Block):
        def forward(self, x):
            return Inner.forward(None, x) if self.is_fused else super().forward(x)

    def change(model, step):
        for block in model.blocks:
            block.is_fused = step in (3, 4)

    def build():
        model = Stack()
        model.blocks = torch.nn.ModuleList(Fused() for _ in range(2))
        return model

    (sent, full), (expected, _) = both(monkeypatch, change=change, build=build)  # at 5 the blocks attend no more themselves
    assert {one[0] for one in expected if one not in sent} == {3, 5} and full[3:7] == [False, True, False, True]
    assert [one for one in sent if one not in expected] == []


class Masked(Attention):
    """By a softmax, of logits to which the model adds something: hidden keys, and a bias that differs by head."""
    added, bias = None, None

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        logits = q @ k.transpose(2, 3) * (D // H)**-0.5 + self.added
        if self.bias is not None:
            logits = logits + self.bias
        return self.out((torch.softmax(logits, -1) @ v).transpose(1, 2).flatten(2))


class OfMasked(Stack):
    def __init__(self):
        super().__init__()
        self.by_product = False
        for block in self.blocks:
            block.attn = Masked()

    def forward(self, x):
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1) * -1e4
        for number, block in enumerate(self.blocks):
            block.attn.added = hidden if number else hidden - 100.0 * (torch.arange(x.shape[1]) == 1)
            block.attn.bias = None if not self.by_product else torch.ones(1, H, x.shape[1], 2) @ torch.rand(1, H, 2, x.shape[1])
        return super().forward(x)


def test_a_softmax_that_is_judged_is_followed_narrowly(monkeypatch):
    (sent, full), (expected, _) = both(monkeypatch, build=OfMasked)
    assert sent == expected and len(sent) == 24 and full == [True, True, *[False] * 6]


class Explicit(Attention):
    """By a softmax, in another way at each step."""
    at, times, is_lowered = 0, 1, False

    def weights(self, x):
        q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        logits = q @ k.transpose(2, 3) * (0.3 if self.at in (5, 6) else 0.5)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1 + self.at % 2)
        if self.at % 3 == 0:
            logits = logits + hidden * -1000.0
        elif self.at % 3 == 1:
            logits = logits.masked_fill(hidden[None, None], -1000.0)
        return torch.softmax(logits, -1), v

    def forward(self, x):
        for _ in range(self.times):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.is_lowered):
                weights, v = self.weights(x)
                mixed = functional.dropout(weights, 0.5 if self.at in (3, 4) else 0.0) @ v.to(weights.dtype)
                x = self.out(mixed.transpose(1, 2).flatten(2)).to(x.dtype)
        return x


class OfExplicit(Stack):
    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.attn = Explicit()

    def forward(self, x):
        torch.manual_seed(5)
        return super().forward(x)


def at(model, step):
    for block in model.blocks:
        block.attn.at = step


def longer(model, x):
    step = model.blocks[0].attn.at
    model(x.repeat(1, 2, 1) if step in (5, 6) else x[:1] if step == 7 else x)


def lowered(model, x):
    for block in model.blocks:
        block.attn.is_lowered = block.attn.at in (4, 7)
    model(x)


def doubled(model, x):
    is_double = model.blocks[0].attn.at == 5
    model.to(torch.float64 if is_double else torch.float32)(x.double() if is_double else x)


def without_gradient(model, x):
    with torch.set_grad_enabled(model.blocks[0].attn.at % 3 > 0):
        model(x)


@pytest.mark.parametrize("small,options", [(0, {}), (1 << 20, {}), (1 << 20, {"samples": 1}), (1 << 20, {"rows": 2})])
@pytest.mark.parametrize("run", [lambda model, x: model(x), longer, lowered, doubled, without_gradient])
def test_softmaxes_like_one_before_are_taken_so(monkeypatch, small, run, options):
    """Whatever changes from step to step: mask, scale, dropout, shape, precision, gradients."""
    monkeypatch.setattr(calls, "TENSOR_MIN", small)
    monkeypatch.setattr(attnd.Publisher, "run", "0" * 32)  # by which samples are drawn
    options = {**options, "evaluation": True}
    (sent, full), (expected, _) = both(monkeypatch, build=OfExplicit, change=at, run=run, steps=9, **options)
    assert sent == expected and len(sent) == 27 and full == [True, True, *[False] * 7]


def test_a_softmax_like_one_before_is_told_of_without_being_judged(monkeypatch):
    told = []
    monkeypatch.setattr(Forwards, "saw", lambda self, path, call, seen, own=Forwards.saw: told.append(self.step) or own(self, path, call, seen))
    sent, _ = train(build=OfExplicit, steps=6)
    assert len(sent) == 18 and told == [0] * 3 + [1] * 3


def test_a_module_that_attends_twice_has_two_layers(monkeypatch):
    def build():
        model = OfExplicit()
        model.blocks[1].attn.times = 2
        return model

    (sent, full), (expected, _) = both(monkeypatch, build=build, change=at)
    assert sent == expected and len(sent) == 32 and full == [True, True, *[False] * 6]


def test_a_second_softmax_of_a_module_makes_the_next_capture_full(monkeypatch):
    def change(model, step):
        at(model, step)
        model.blocks[1].attn.times = 1 + (step >= 4)

    (sent, full), (expected, _) = both(monkeypatch, build=OfExplicit, change=change)
    assert {one[0] for one in expected if one not in sent} <= {4} and full == [True, True, False, False, False, True, True, False]
    assert [one for one in sent if one not in expected] == []


@pytest.mark.parametrize("after", [False, True], ids=["before the softmax", "after"])
def test_a_softmax_of_a_forward_that_breaks_off(monkeypatch, after):
    class Breaking(Explicit):
        def weights(self, x):
            if self.at == 4 and not after:
                raise ZeroDivisionError
            weights, v = super().weights(x)
            if self.at == 4:
                raise ZeroDivisionError
            return weights, v

    def build():
        model = OfExplicit()
        model.blocks[1].attn = Breaking()
        return model

    (sent, full), (expected, _) = both(monkeypatch, build=build, change=at)
    assert sent == expected and len(sent) == 22 + after and [step for step, is_full in enumerate(full) if is_full] == [0, 1, 5]
    assert not hasattr(torch._C, "_len_torch_function_stack") or torch._C._len_torch_function_stack() == 0


def test_a_softmax_of_logits_from_elsewhere_makes_the_next_capture_full(monkeypatch):
    """It is not known any more what was added to them."""
    class Elsewhere(Explicit):
        def weights(self, x):
            if self.at < 4:
                return super().weights(x)
            q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
            return torch.softmax(torch.kron(torch.ones(1), (q[..., None, :] * k[..., None, :, :]).sum(-1)) - 1000.0 * torch.ones(5, 5).triu(1), -1), v

    def build():
        model = OfExplicit()
        model.blocks[1].attn = Elsewhere()
        return model

    (sent, full), (expected, _) = both(monkeypatch, build=build, change=at)
    assert {one[:2] for one in expected if one not in sent} == {(4, 1)} and full[:6] == [True, True, False, False, False, True]
    assert [one for one in sent if one not in expected] == []


def test_a_softmax_of_what_was_multiplied_elsewhere_keeps_captures_full(monkeypatch):
    """It is not known in the module that this is no product of queries and keys."""
    def change(model, step):
        model.by_product = True

    _, full = train(change, build=OfMasked)
    assert all(full)


def test_a_softmax_that_changes_makes_the_next_capture_full(monkeypatch):
    def change(model, step):
        model.blocks[2].attn.qkv.weight.data.mul_(1.0 if step < 5 else -1.0)
        model.by_product = step >= 5

    (sent, full), (expected, _) = both(monkeypatch, build=OfMasked, change=change, steps=20)
    assert sent[:15] == expected[:15] and not full[5] and all(full[17:])


@needs_sdpa
def test_a_forward_that_breaks_off_makes_the_next_capture_full(monkeypatch):
    def run(model, x):
        if x[0, 0, 0] > 3 > x[0, 0, 0] - 1:
            model.blocks[0](x)
            raise ZeroDivisionError
        model(x)

    class Breaking(Stack):
        def forward(self, x):
            x = self.blocks[0](x)
            if 3 < x.new_tensor(0) + float(self.at):
                raise ZeroDivisionError
            return self.blocks[2](self.blocks[1](x))

    def change(model, step):
        model.at = 4 * (step == 3)

    (sent, full), (expected, _) = both(monkeypatch, change=change, build=Breaking)
    assert sent == expected and full[:6] == [True, False, False, False, True, False]


@needs_sdpa
def test_parts_that_are_called_alone_are_followed(monkeypatch):
    def run(model, x):
        for block in model.blocks:
            x = block(x)

    (sent, full), (expected, _) = both(monkeypatch, run=run)
    assert sent == expected and sent and not full[1]


@needs_sdpa
@pytest.mark.parametrize("odd", [lambda step: step >= 4, lambda step: step % 2])
def test_a_forward_that_begins_elsewhere_makes_the_next_capture_full(monkeypatch, odd):
    def run(model, x):
        (model.blocks[1].attn if odd(int(x[0, 0, 0])) else model)(x)

    (sent, full), (expected, _) = both(monkeypatch, run=run)
    assert sent == expected and sent and full[1] is False and any(full[2:7])


@needs_sdpa
def test_what_runs_within_a_module_that_is_not_followed_begins_no_forward(monkeypatch):
    """The module around is none that a full capture has shown to hold or to call an attention."""
    class Around(torch.nn.Module):
        def forward(self, x):
            return self.held[0](self.held[0](x))

    def build():
        model = Stack()
        model.around = Around()
        model.around.held = [model.blocks[1].attn]
        return model

    def run(model, x):
        (model if x[0, 0, 0] < 2 else model.around)(x)

    (sent, full), (expected, _) = both(monkeypatch, build=build, run=run, steps=6)
    assert {one[0] for one in expected if one not in sent} == {2} and full[:5] == [True, False, False, True, False]
    assert [one for one in sent if one not in expected] == []


@pytest.mark.parametrize("needs_weights", [False, True])
def test_attention_of_torch_is_learned(monkeypatch, needs_weights):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(MHA(D, H, batch_first=True) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x, x, x, need_weights=needs_weights)[0]
            return x

    (sent, full), (expected, _) = both(monkeypatch, build=Model)
    assert sent == expected and len(sent) == 16 and full == [True] + [False] * 7


class Varied(Attention):
    """Calls the function in another way at each step."""
    calls = (dict(), dict(is_causal=True), dict(attn_mask=torch.ones(5, 5).tril().bool()), dict(scale=0.5), dict(), dict(is_causal=True))

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        if self.at % 7 == 6:
            q = q.contiguous()
        return self.out(SDPA(q, k, v, **self.calls[self.at % len(self.calls)]).transpose(1, 2).flatten(2))


@needs_sdpa
def test_a_call_that_is_made_in_another_way_is_looked_at_anew(monkeypatch):
    """Longer, of another precision, causal, under a mask, or with a scale."""
    def change(model, step):
        for block in model.blocks:
            block.attn.at = step

    def build():
        model = Stack()
        for block in model.blocks:
            block.attn = Varied()
        return model

    def run(model, x):
        step = model.blocks[0].attn.at
        x = x.repeat(1, 2, 1) if step in (9, 10) else x[:1] if step == 11 else x
        model.to(torch.float64 if step == 14 else torch.float32)(x.double() if step == 14 else x)

    (sent, full), (expected, all_full) = both(monkeypatch, change=change, build=build, run=run, steps=16)
    assert sent == expected and len(sent) == 48 and sum(full) == 1 and all(all_full)


class Nested(Attention):
    """Packs its samples in a nested tensor at one step, whose shape nobody can ask for."""
    at = 0

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        if self.at == 5:
            q, k, v = (torch.nested.nested_tensor([row.detach() for row in one]) for one in (q, k, v))
            return self.out(torch.stack(SDPA(q, k, v).unbind()).transpose(1, 2).flatten(2))
        return self.out(SDPA(q, k, v).transpose(1, 2).flatten(2))


@needs_sdpa
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_call_with_nested_tensors_does_not_meet_what_is_known(monkeypatch):
    """Of a narrow capture: nothing is raised in the model."""
    def change(model, step):
        for block in model.blocks:
            block.attn.at = step

    def build():
        model = Stack()
        for block in model.blocks:
            block.attn = Nested()
        return model

    (sent, _), (expected, _) = both(monkeypatch, change=change, build=build, steps=8)
    assert sent == expected and len(sent) == 3 * 7


@needs_sdpa
def test_calls_like_one_before_are_taken_so(monkeypatch, way):
    """Once the layer has a name."""
    told = []
    monkeypatch.setattr(Forwards, "saw", lambda self, path, call, seen, own=Forwards.saw: told.append(self.step) or own(self, path, call, seen))
    sent, _ = train(steps=18)
    assert len(sent) == 54 and told == ([0] * 3 + [1] * 3 + [16] * 3 if way is by_name else [step for step in range(18) for _ in range(3)])


class Lowered(Attention):
    """Computes in bf16 by autocast, or not, as the model says at each step."""
    is_lowered = False

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_lowered):
            return super().forward(x).float()


@needs_sdpa
@pytest.mark.parametrize("options", [{}, {"samples": 1}, {"rows": 2}, {"samples": 1, "rows": 3}])
@pytest.mark.parametrize("small", [0, 300, 1 << 20], ids=["large", "both", "small"])
def test_the_same_part_is_taken_of_calls_like_one_before(monkeypatch, options, small):
    """Of small tensors and of large ones, where some blocks attend in another dtype, or with other heads, and change that."""
    class Few(Attention):
        def forward(self, x):
            q, k, v = (one.unflatten(-1, (1, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
            return self.out(SDPA(q[..., :2], k[..., :2], v).transpose(1, 2).flatten(2))

    def build():
        model = Stack(5)
        model.blocks[1].attn, model.blocks[2].attn, model.blocks[3].attn = Lowered(), Lowered(), Few()
        return model

    def change(model, step):
        model.blocks[1].attn.is_lowered, model.blocks[2].attn.is_lowered = step in (1, 3, 4, 6), step % 2 == 0

    monkeypatch.setattr(calls, "TENSOR_MIN", small)
    monkeypatch.setattr(attnd.Publisher, "run", "0" * 32)  # by which samples are drawn
    (sent, full), (expected, _) = both(monkeypatch, change=change, build=build, **options)
    assert sent == expected and len(sent) == 40 and sum(full) <= 2


@needs_sdpa
def test_what_the_model_writes_to_after_it_has_attended_is_not_what_is_sent(monkeypatch):
    """Also where autograd does not know of it."""
    class Writes(Attention):
        def forward(self, x):
            q, k, v = (one.unflatten(-1, (H, -1)).transpose(1, 2).clone() for one in self.qkv(x).chunk(3, -1))
            mixed = SDPA(q, k, v)
            k.mul_(3)
            q.data.mul_(3)
            return self.out(mixed.transpose(1, 2).flatten(2))

    def build():
        model = Stack()
        model.blocks[1].attn = Writes()
        return model

    (sent, _), (expected, _) = both(monkeypatch, build=build)
    assert sent == expected and len(sent) == 24


@needs_sdpa
def test_functions_are_looked_at_only_within_what_needs_it(way):
    """In a narrow capture no mode is there while other modules run, nor within those whose attention comes by its name."""
    model, modes = Stack(), []

    class Looks(torch.nn.Module):
        def forward(self, x):
            modes.append(torch._C._len_torch_function_stack() if hasattr(torch._C, "_len_torch_function_stack") else 0)
            return x

    model.blocks[1].mlp[0] = Looks()
    model.blocks[1].attn.out = torch.nn.Sequential(Looks(), model.blocks[1].attn.out)

    def change(given, step):
        pass

    _, full = train(change, steps=4, build=lambda: model)
    assert full == [True, False, False, False] and modes == [1, 1, *[int(way is BOUND), 0] * 3]
    assert functional.scaled_dot_product_attention is BOUND


@needs_sdpa
def test_copies_of_the_model_have_no_hook_and_nothing_stays():
    """A copy, or a pickle, that is made while a narrow capture is awaited computes and loads as ever."""
    copies = []

    def change(model, step):
        copies.append((copy.deepcopy(model), pickle.dumps(model)))
        assert b"attnd" not in copies[-1][1]

    models = []

    def build():
        models.append(Stack())
        return models[0]

    sent, full = train(change, steps=4, build=build)
    assert full == [True, False, False, False] and len(sent) == 12
    expected = models[0](X)
    for copied, pickled in copies:
        assert torch.equal(copied(X), expected) and torch.equal(pickle.loads(pickled)(X), expected)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in models[0].modules())
    assert functional.scaled_dot_product_attention is BOUND


class Compares:
    """Compares the function of each attention, as modes and tensors of users do, with torch's: looked up by name, and by identity."""
    seen = []

    @classmethod
    def note(cls, func):
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            cls.seen.append((func is functional.scaled_dot_product_attention, func is BOUND))


class Subclass(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Compares.note(func)
        return super().__torch_function__(func, types, args, kwargs or {})


class Counting(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        Compares.note(func)
        return func(*args, **(kwargs or {}))


class InAMode(Attention):
    def forward(self, x):
        with Counting():
            return super().forward(x)


class WithSubclass(Attention):
    def forward(self, x):
        return super().forward(x.as_subclass(Subclass)).as_subclass(torch.Tensor)


@needs_sdpa
@pytest.mark.parametrize("kind,layers", [(InAMode, [0, 1, 2]), (WithSubclass, [0, 2])])
def test_modes_and_kinds_of_tensors_see_the_function_of_torch(monkeypatch, way, kind, layers):
    """Whatever stands in the place of the function. But a mode or tensor that looks up by name what the model has bound at import finds
    the function of attnd. attnd reads no numbers of such a kind of tensor."""
    def build():
        model = Stack()
        model.blocks[1].attn = kind()
        return model

    monkeypatch.setattr(Compares, "seen", [])
    (sent, full), (expected, _) = both(monkeypatch, build=build, steps=6)
    assert sent == expected and [message[1] for message in sent] == 6 * layers and all(full) == (kind is WithSubclass)
    assert Compares.seen == [(way is not BOUND, True)] * (2 * 6)


@needs_sdpa
def test_a_function_that_is_kept_while_ours_stands_in_is_pickled_as_that_of_torch(way):
    kept = []

    class Keeps(Attention):
        def forward(self, x):
            kept.append(functional.scaled_dot_product_attention)
            return super().forward(x)

    def build():
        model = Stack()
        model.blocks[1].attn = Keeps()
        return model

    train(build=build, steps=3)
    if way is not BOUND:
        assert kept[1] is not BOUND  # so that this tests something
    assert all(pickle.loads(pickle.dumps(one)) is BOUND and copy.deepcopy(one) is BOUND for one in kept)
    q = torch.rand(1, H, 3, 4)
    assert all(torch.equal(one(q, q, q), BOUND(q, q, q)) for one in kept)


@needs_sdpa
def test_a_function_that_somebody_replaces_stays_replaced(monkeypatch):
    """As a library does that has a faster one; what that does not show is not guessed."""
    def faster(*args, **kwargs):
        return BOUND(*args, **kwargs)

    def change(model, step):
        if step == 3:
            functional.scaled_dot_product_attention = faster

    try:
        (sent, full), (expected, _) = both(monkeypatch, change=change)
        assert functional.scaled_dot_product_attention is faster
    finally:
        functional.scaled_dot_product_attention = BOUND
    assert {one[0] for one in expected if one not in sent} <= {3} and not full[3]
    assert [one for one in sent if one not in expected] == []


def test_encoder_layers_of_torch_have_no_hooks(monkeypatch):
    """With hooks they take another path in validation."""
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True)

        def forward(self, x):
            return self.layers(x)

    def change(model, step):
        assert not any(one._forward_pre_hooks for one in model.layers.modules())

    sent, full = train(change, build=Model)
    assert len(sent) == 8 and all(full)


@needs_sdpa
def test_two_models_in_two_threads(monkeypatch):
    found = {}

    def work(name, blocks):
        found[name] = train(build=lambda: Stack(blocks), steps=20)

    threads = [threading.Thread(target=work, args=(name, name)) for name in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: len(sent) for name, (sent, _) in found.items()} == {2: 40, 3: 60}


def test_links_hold_no_module():
    """A module that the model has lost is not kept alive, nor taken for another one at its place in memory."""
    import gc
    import weakref

    class Seen:
        def __init__(self, module):
            self.module = module

    root = Stack() if SDPA is not None else torch.nn.Sequential(MHA(D, H))
    it = learned.Learned()
    it.begins()
    inner = next(iter(root.modules())) if SDPA is None else root.blocks[0].attn
    it.attended([Seen(root), Seen(inner)], True)
    it.forward_ends(True)
    it.ends(root)
    assert it.suffices and it.narrow() and it.modules()
    if SDPA is not None:
        gone = weakref.ref(inner)
        root.blocks[0].attn = None
        del inner
        gc.collect()
        assert gone() is None and not it.suffices
    assert Spy(root, None).is_full


@needs_sdpa
@pytest.mark.skipif(not hasattr(torch.nn.Module, "compile"), reason="before torch 2.2 no module compiles itself")
@pytest.mark.parametrize("part", ["blocks.1", "blocks.1.mlp", "blocks.1.attn"])
def test_a_part_that_is_compiled_makes_the_next_capture_full(part):
    def change(model, step):
        if step == 3:
            model.get_submodule(part).compile(backend="eager")

    _, full = train(change)
    assert full == [True, False, False, False, True, True, True, True]


@needs_sdpa
@pytest.mark.skipif(not hasattr(getattr(torch, "compiler", None), "set_stance"), reason="before torch 2.6 nothing compiled is seen")
def test_a_model_that_is_compiled_makes_the_next_capture_full():
    """By what holds it, which is none of its modules."""
    import torch._dynamo  # as the first step of an optimizer does

    called = []

    def run(model, x):
        if x[0, 0, 0] >= 3 and not called:
            called.append(torch.compile(model, backend="eager"))
        (called[0] if called else model)(x)

    try:
        sent, full = train(run=run, steps=6)
    finally:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    assert full[:5] == [True, False, False, False, True] and {one[0] for one in sent} == set(range(6))
