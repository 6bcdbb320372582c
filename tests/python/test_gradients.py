# SPDX-License-Identifier: MIT
"""gradients=True: what backward brings goes along with what was captured before it, and nothing is kept for longer."""
import gc
import logging
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.model import hooks
from attnd.sending import devices
from conftest import FakeDaemon, samples_of
from watching import tensors_of
from torch.utils.checkpoint import checkpoint

B, T, H, D = 3, 6, 2, 8
NEWEST = b"limits/accepts=attention,qk,weights,event;header=10"
SDPA = getattr(torch.nn.functional, "scaled_dot_product_attention", None)
needs_sdpa = pytest.mark.skipif(SDPA is None, reason="torch has no scaled_dot_product_attention")


def is_idle(gradients):
    """Whether nothing waits, or is kept for that."""
    return not gradients._waiting and not gradients._unrepeated and gradients._copied_bytes == 0


class Attention(torch.nn.Module):
    """Computes its weights, keeps them for the test, and drops some if it is told to."""

    def __init__(self, dropout=0.0, fused=False):
        super().__init__()
        self.qkv = torch.nn.Linear(D, 3 * D)
        self.dropout, self.fused, self.made = dropout, fused, []

    def forward(self, x):
        q, k, v = (part.view(B, T, H, D // H).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.fused:
            y = SDPA(q, k, v, dropout_p=self.dropout)
            self.made.append((y, v))
        else:
            weights = torch.softmax(q @ k.transpose(2, 3), -1)
            self.made.append((weights, None))
            y = torch.nn.functional.dropout(weights, self.dropout) @ v
        if y.requires_grad:
            self.made[-1][0].retain_grad()
        return y.transpose(1, 2).flatten(2)


class Model(torch.nn.Module):
    """Two of them, and what is trained in any case."""

    def __init__(self, **options):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Attention(**options) for _ in range(2))
        self.head = torch.nn.Linear(D, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture
def watched():
    """watched(model, ...): a watch of every step on a daemon of its own; `it.sent()` are the messages of tensors that have
    come, `it.names()` the names of these."""
    opened = []

    def start(model=None, limits=NEWEST, **options):
        daemon, model = FakeDaemon(topics=(b"", limits)), model or Model()
        publisher = attnd.Publisher("job", daemon.endpoint)
        daemon.attach(publisher)
        it = attnd.watch(model, job="job", publisher=publisher, **{"every": 1, "samples": 0, "gradients": True, **options})
        it.model, it.sent = model, lambda: sent(it, daemon)
        it.names = lambda: names(it.sent())
        opened.append((it, publisher))
        return it

    yield start
    for it, publisher in opened:
        it.close()
        publisher.close()


def sent(it, daemon):
    """The messages of tensors since the last time, by layer and microbatch."""
    assert it.publisher.drain(60)
    it.publisher.epoch_end(0, 0)  # the last that comes
    messages = [daemon.next()]
    while messages[-1][1].get("event") != "epoch_end":
        messages.append(daemon.next())
    found = [message for message in messages if message[1]["type"] != "event"]
    return sorted(found, key=lambda message: (message[1]["layer"], message[1].get("microbatch", 0)))


def names(messages):
    return [set(tensors_of(message)) for message in messages]


def assert_gradients(messages, model):
    """They have those of the weights of each call, in the order of layers."""
    for message, (weights, _) in zip(messages, [made for block in model.blocks for made in block.made]):
        np.testing.assert_array_equal(tensors_of(message)["grad"], weights.grad.numpy())


def end_step(it):
    """As an optimizer does, which torch 1 does not tell of."""
    torch.optim.SGD(it.model.parameters(), lr=0.0).step()
    if hooks.register_optimizer_hook is None:
        it.step()


def x(seed=0):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("plan, samples", [({}, B), ({"samples": 2}, 2)])
def test_the_gradient_of_weights_goes_along(watched, plan, samples):
    it = watched(**plan)
    it.model(x()).square().sum().backward()
    for message, block in zip(it.sent(), it.model.blocks):
        tensors, weights, taken = tensors_of(message), block.made[0][0], samples_of(message[1], B)
        assert len(taken) == samples
        np.testing.assert_array_equal(tensors["weights"], weights.detach()[taken].numpy())
        np.testing.assert_array_equal(tensors["grad"], weights.grad[taken].numpy())


@needs_sdpa
def test_the_gradient_of_a_fused_output_goes_along_with_values(watched):
    it = watched(Model(fused=True))
    it.model(x()).square().sum().backward()
    messages = it.sent()
    assert names(messages) == 2 * [{"q", "k", "v", "dout"}]
    for message, block in zip(messages, it.model.blocks):
        (y, v), tensors = block.made[0], tensors_of(message)
        np.testing.assert_array_equal(tensors["dout"], y.grad.numpy())
        np.testing.assert_array_equal(tensors["v"], v.detach().numpy())


def test_dropout_of_explicit_weights_is_part_of_the_gradient(watched):
    it = watched(Model(dropout=0.5))
    it.model(x()).square().sum().backward()
    gradient = tensors_of(it.sent()[0])["grad"]
    np.testing.assert_array_equal(gradient, it.model.blocks[0].made[0][0].grad.numpy())
    assert 0.2 < (gradient == 0).mean() < 0.8


def test_microbatches_have_their_own_gradients(watched):
    it = watched()
    for seed in range(2):
        it.model(x(seed)).square().sum().backward()
    end_step(it)
    messages = it.sent()
    assert [(m[1]["layer"], m[1].get("microbatch", 0), m[1]["step"]) for m in messages] == [
        (0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)] or hooks.register_optimizer_hook is None
    assert_gradients(messages, it.model)


def test_two_forwards_before_their_backwards_keep_theirs_apart(watched):
    it = watched(steps="manual")
    sum([it.model(x(seed)).square().sum() for seed in range(2)]).backward()
    assert_gradients(it.sent(), it.model)


def held_copies():
    gc.collect()
    return sum(type(one).__name__ == "HeldCopy" for one in gc.get_objects())


def test_without_backward_the_step_ends_without_gradients_and_nothing_is_kept(watched):
    """The loss keeps the graph, which keeps nothing of ours."""
    before = held_copies()
    it = watched(steps="manual")
    loss = it.model(x()).sum()
    graph = weakref.ref(it.model.blocks[0].made[0][0])
    assert it.sent() == []
    it.step()
    assert it.names() == 2 * [{"weights", "v"}] and it.stats()["dropped"] == 0
    loss.backward()  # too late
    assert it.sent() == [] and held_copies() <= before
    for block in it.model.blocks:
        block.made.clear()
    del loss
    assert graph() is None


def test_what_the_graph_kept_goes_with_it_by_the_next_forward(watched):
    """As in a validation that forgets no_grad: its forwards do not pile up."""
    it = watched(steps="manual")
    it.model(x())
    graph = weakref.ref(it.model.blocks[0].made.pop()[0])
    it.model.blocks[1].made.clear()
    assert graph() is None and it.sent() == []
    loss = it.model(x(1)).sum()
    assert it.names() == 2 * [{"weights", "v"}]
    loss.backward()
    assert it.names() == 2 * [{"weights", "v", "grad"}]


def test_a_forward_that_breaks_off_does_no_harm(watched):
    it = watched(steps="manual")
    it.model.head.forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        it.model(x())
    del it.model.head.forward
    it.model(x()).sum().backward()
    it.step()
    assert set(map(frozenset, it.names())) == {frozenset({"weights", "v"}), frozenset({"weights", "v", "grad"})}


def test_closing_sends_what_waits(watched):
    it = watched()
    loss = it.model(x()).sum()
    it.close()
    assert it.names() == 2 * [{"weights", "v"}]
    loss.backward()


def test_what_is_frozen_has_no_gradient_and_does_not_wait(watched):
    model = Model()
    model.blocks.requires_grad_(False)
    it = watched(model)
    loss = model(x()).sum()
    assert it.names() == 2 * [{"weights", "v"}]
    loss.backward()
    model.blocks[1].requires_grad_(True)
    model(x()).sum().backward()
    assert it.names() == [{"weights", "v"}, {"weights", "v", "grad"}]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_left_out_and_counted(watched, caplog, bad):
    it = watched()
    for _ in range(2):
        (it.model(x()).sum() * bad).backward()
        end_step(it)
    assert it.names() == 4 * [{"weights", "v"}] and it.stats()["gradients_not_finite"] == 4
    said, = [text for text in caplog.messages if "not finite" in text]
    assert "encoder.1.self at step 0" in said


def test_a_scaled_loss_scales_the_gradient(watched):
    it, found = watched(), []
    for scale in (1.0, 2.0**16):
        (it.model(x()).square().sum() * scale).backward()
        found.append([tensors_of(message)["grad"] for message in it.sent()])
    for plain, scaled in zip(*found):
        np.testing.assert_array_equal(plain * 2.0**16, scaled)


def test_a_second_backward_of_the_same_graph_sends_nothing_more(watched):
    it = watched()
    loss = it.model(x()).square().sum()
    loss.backward(retain_graph=True)
    assert len(it.sent()) == 2
    loss.backward()
    assert it.sent() == []


def test_a_sample_of_rows_has_no_gradient(watched):
    it = watched(rows=3)
    it.model(x()).sum()
    assert it.names() == 2 * [{"weights", "v"}]


def test_what_fits_only_without_its_gradient_goes_without(watched):
    it = watched(limits=NEWEST + b";max_message=%d" % (B * H * T * T * 4 + B * T * T + B * T * D * 4 + 600))
    it.model(x()).sum().backward()
    assert it.names() == 2 * [{"weights", "v"}] and it.stats()["too_large"] == 0


def test_a_failure_in_a_hook_is_not_the_trainings(watched, monkeypatch, caplog):
    it = watched()
    loss = it.model(x()).sum()
    monkeypatch.setattr(it.publisher, "publish_later", lambda *_: 1 / 0)
    loss.backward()
    assert it.model.blocks[0].qkv.weight.grad is not None
    assert sum("could not be sent with its gradient" in text for text in caplog.messages) == 1


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="this torch does not tell")
@pytest.mark.parametrize("room", [1 << 20, 100])
def test_where_autograd_keeps_something_else_a_copy_waits_if_there_is_room(watched, room):
    """The copy of the first call fills 432 + 108 of the bytes."""
    it = watched()
    it.model(x()).sum().backward()
    assert len(it.sent()) == 2
    it.publisher._queue_bytes = room  # the sender has its own
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        loss = it.model(x()).sum()
    before = [block.made[1][0].detach().clone() for block in it.model.blocks]
    if room == 100:
        assert it.names() == 2 * [{"weights", "v"}]
    loss.backward()
    messages = it.sent()
    assert names(messages) == (2 * [{"weights", "v", "grad"}] if room > 100 else [])
    for message, weights in zip(messages, before):
        np.testing.assert_array_equal(tensors_of(message)["weights"], weights.numpy())


@needs_sdpa
def test_why_fused_attention_goes_without_is_told_once(watched, caplog):
    it = watched(Model(fused=True, dropout=0.5))
    it.model(x()).sum().backward()
    assert it.names() == 2 * [{"q", "k", "v"}]
    said, = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "blocks.0 drops weights within its kernel" in said


def test_nothing_waits_in_steps_that_are_not_captured(watched):
    it, hooked = watched(steps="manual", every=2), []
    for _ in range(2):
        loss = it.model(x()).sum()
        hooked.append(len(it.model.blocks[0].made[-1][0]._backward_hooks or {}))
        loss.backward()
        it.step()
    assert hooked == [1, 0] and len(it.sent()) == 2


def test_a_long_training_leaves_nothing_waiting(watched):
    before = held_copies()
    it = watched()
    for step in range(20):
        it.model(x(step)).square().sum().backward()
        end_step(it)
    assert len(it.sent()) == 40
    for block in it.model.blocks:
        block.made.clear()
    assert is_idle(it.forwards.gradients) and held_copies() <= before


def test_a_probe_waits_for_nothing(watched):
    it = watched()
    it.model(x()).sum().backward()
    it.sent()
    it.probe(x(1))
    assert it.names() == 2 * [{"weights", "v"}]


class Reentrant(torch.nn.Module):
    """Runs an attention without gradients, and again in backward."""

    def __init__(self, attention):
        super().__init__()
        self.attention, self.made = attention, []

    def forward(self, x):
        return checkpoint(self.attention, x, use_reentrant=True)


def test_reentrant_checkpoints_that_wait_together_go_without(watched):
    """Nothing tells which of them is repeated. Before torch 2 nothing tells that it is."""
    model = Model()
    model.blocks = torch.nn.ModuleList(map(Reentrant, model.blocks))
    it = watched(model, steps="manual")
    is_told = hooks.register_optimizer_hook is not None
    losses = [model(x(seed).requires_grad_()).sum() for seed in range(2)]
    assert len(it.sent()) == (0 if is_told else 4)
    sum(losses).backward()
    model(x(2).requires_grad_()).sum().backward()
    it.step()
    assert it.names() == (6 if is_told else 2) * [{"weights", "v"}]
    model(x(3).requires_grad_()).sum().backward()
    assert it.names() == 2 * [{"weights", "v", "grad"} if is_told else {"weights", "v"}]
    it.step()
    assert is_idle(it.forwards.gradients)


def test_nothing_is_copied_while_the_training_captures_a_cuda_graph(watched, monkeypatch, caplog):
    captures, copied, copy = [], [], devices._copied
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(captures))
    monkeypatch.setattr(devices, "_copied", lambda *given: copied.append(bool(captures)) or copy(*given))
    it = watched(tokens=True)
    captures.append(1)
    it.model(x()).sum().backward()  # the whole step
    it.step()
    it.forwards.spy.is_looking = True  # as in compiled code
    it.forwards.calls_compiled((torch.ones(2, 3, dtype=torch.int64),), {})
    it.forwards.spy.is_looking = False
    captures.clear()
    assert copied == [] and it.current_step == 0 and it.sent() == []
    loss = it.model(x()).sum()
    captures.append(1)
    loss.backward()
    captures.clear()
    it.step()
    assert not any(copied) and it.sent() == [] and it.current_step == 1
    handles = [it.model.blocks[0].register_forward_pre_hook(lambda *given: captures.append(1)),
               it.model.blocks[0].register_forward_hook(lambda *given: captures.clear())]
    it.model(x()).sum().backward()
    assert not any(copied) and [message[1]["layer"] for message in it.sent()] == [1]
    assert "it runs in a part of the model that is captured as a CUDA graph" in caplog.text
    while handles:
        handles.pop().remove()
    it.step()
    it.model(x()).sum().backward()
    assert [message[1]["layer"] for message in it.sent()] == [0, 1] and not any(copied)
