# SPDX-License-Identifier: MIT
"""watch captures what the attention layers did, and changes nothing."""
import copy
import gc
import io
import math
import os
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd import attach, calls, capture, notices, ranks, torch_state
from attnd import tokens as tokens_module
from conftest import FakeDaemon, free_endpoint, identity_holds, wait_until

MHA = torch.nn.MultiheadAttention
D, H = 8, 2
DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "u8": np.uint8, "bf16": np.int16, "i32": np.int32}


class Model(torch.nn.Module):
    """One attention; forward passes everything on."""

    def __init__(self, **options):
        super().__init__()
        self.attn = MHA(D, H, **{"batch_first": True, **options})

    def forward(self, *args, **kwargs):
        return self.attn(*args, **kwargs)


@pytest.fixture
def watched(daemon):
    """watch() on the daemon that plays along; closed at the end."""
    open_watches = []

    def start(model, **options):
        publisher = attnd.Publisher("job", daemon.endpoint)
        daemon.attach(publisher)
        it = attnd.watch(model, job="job", publisher=publisher, **options)
        assert daemon.next()[1]["event"] == "hello"
        open_watches.append((it, publisher))
        return it

    yield start
    for it, publisher in open_watches:
        it.close()
        publisher.close()


def tensors_of(message):
    """{name: array} of a message."""
    _, header, frames = message
    return {t["name"]: np.frombuffer(frame, DTYPES[t["dtype"]]).reshape(t["shape"])
            for t, frame in zip(header["tensors"], frames)}


def shape_of(message):
    """[B, H, Tq, Tk]"""
    shapes = [t["shape"] for t in message[1]["tensors"]]
    return shapes[0] if message[1]["type"] == "attention" else [*shapes[0][:3], shapes[1][2]]


def weights_of(message):
    """The weights that a message has, or that follow from its queries and keys: torch 2 publishes those when nobody
    asks the attention for its weights."""
    tensors = tensors_of(message)
    if "weights" in tensors:
        return tensors["weights"]
    logits = np.einsum("bhid,bhjd->bhij", tensors["q"], tensors["k"]) * message[1]["scale"]
    logits = np.where(visible(message)[:, None], logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def mask_of(message):
    return tensors_of(message).get("mask")


def next_tensors(daemon):
    """The next message that is no event."""
    while (message := daemon.next())[1]["type"] == "event":
        pass
    return message


def tensor_headers(messages):
    return [header for _, header, _ in messages if header["type"] != "event"]


def same(a, b):
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6)


# -------------------------------------------------------------------- nothing changes for the caller

@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False},
                                   {"need_weights": False, "average_attn_weights": False}])
def test_the_caller_gets_what_it_asked_for(daemon, watched, batch_first, batched, asked):
    torch.manual_seed(0)
    model = Model(batch_first=batch_first)
    x = torch.rand(*((3, 5) if batched else (5,)), D)
    expected, expected_weights = model(x, x, x, **asked)
    with watched(model):
        output, weights = model(x, x, x, **asked)
    assert same(output, expected) and same(weights, expected_weights)
    message = next_tensors(daemon)
    truth = model.attn(x, x, x, average_attn_weights=False)[1]
    truth = truth if batched else truth[None]
    np.testing.assert_allclose(weights_of(message), truth.detach().numpy(), atol=1e-6)


def test_positional_arguments_and_gradients_are_the_same(daemon, watched):
    torch.manual_seed(0)
    model = Model()
    x = torch.rand(3, 5, D)

    def gradients():
        model.zero_grad()
        model(x, x, x, None, False)[0].square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    with watched(model):
        got = gradients()
    next_tensors(daemon)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected))


def test_dropout_draws_the_same_random_numbers(daemon, watched):
    model = Model(dropout=0.5)
    x = torch.rand(3, 5, D)
    torch.manual_seed(1)
    expected = model(x, x, x, need_weights=False)[0]
    with watched(model):
        torch.manual_seed(1)
        assert same(model(x, x, x, need_weights=False)[0], expected)
    assert "dropout" not in next_tensors(daemon)[1]  # what travels is before dropout


def test_nothing_is_left_after_close(watched):
    from torch.nn.modules import module as internals
    model = Model()
    it = watched(model)
    model(*[torch.rand(3, 5, D)] * 3)
    assert internals._global_forward_pre_hooks and model._forward_hooks
    it.close()
    it.close()
    assert not internals._global_forward_pre_hooks and not internals._global_forward_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
    assert torch._C._len_torch_function_stack() == 0


def test_a_forward_that_was_already_wrapped_is_kept(daemon, watched):
    model = Model()
    original, calls = model.attn.forward, []

    def wrapped(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                average_attn_weights=True):
        calls.append(1)
        return original(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)

    model.attn.forward = wrapped
    x = torch.rand(3, 5, D)
    with watched(model):
        model(x, x, x)
    next_tensors(daemon)
    assert model.attn.__dict__["forward"] is wrapped and calls == [1]


def test_copies_and_pickles_of_a_watched_model_are_free_of_it(watched):
    model = Model().eval()
    x = torch.rand(3, 5, D)
    with watched(model):
        copied = copy.deepcopy(model)
        pickled = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
    for other in (copied, pickled):
        assert same(other(x, x, x)[0], model(x, x, x)[0])
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(x, x, x)[0].any() and model(x, x, x)[0].any()
        assert not other.attn.forward(x, x, x)[0].any()
        copy.deepcopy(other)


def test_a_watch_lives_and_dies_with_its_model():
    model, x = Model(), torch.rand(3, 5, D)
    alive = weakref.ref(attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0))
    gc.collect()
    model(x, x, x)
    it = alive()
    assert it is not None and capture.innermost() is it
    sender = it.publisher._sender
    hooks = getattr(sys.modules["torch.optim.optimizer"], "_global_optimizer_post_hooks", None)
    before = len(hooks or ())
    del model, it
    gc.collect()
    assert alive() is None and not sender._thread.is_alive() and capture.innermost() is None
    assert hooks is None or len(hooks) == before - 1


@pytest.mark.parametrize("late", [False, True])
def test_what_was_opened_is_closed_when_watch_fails(monkeypatch, late):
    closed = []

    class Starter:
        def wait(self, timeout):
            return 0.0

        def say_next(self):
            return ""

        def close(self):
            closed.append("starter")

    monkeypatch.setattr(attach, "starter_for", lambda *args: Starter())
    if late:  # when hooks are in the model already
        monkeypatch.setattr(capture.Watch, "open", lambda self: 1 / 0)
    senders = {id(thread) for thread in threading.enumerate()}
    model = Model()
    with pytest.raises(ZeroDivisionError if late else ValueError):
        attnd.watch(model, job="job", endpoint=free_endpoint(), start="auto", wait=0, settings={} if late else 7)
    assert closed and set(closed) == {"starter"} and not model._forward_hooks
    assert [thread.name for thread in threading.enumerate() if id(thread) not in senders] == []


def test_watching_again_closes_the_earlier_watch():
    model, endpoint = Model(), free_endpoint()
    first, other, again = (attnd.watch(model, job=job, endpoint=endpoint, wait=0) for job in ("job", "other", "job"))
    assert first._closed and not other._closed and capture.innermost() is again
    assert len(model._forward_hooks) == 2
    again.close()
    other.close()
    assert "_watched_by" not in vars(model)


def test_state_dict_and_modules_do_not_change(watched):
    model = Model()
    keys, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    with watched(model):
        assert list(model.state_dict()) == keys and [name for name, _ in model.named_modules()] == modules


# ------------------------------------------------------------------------- when nothing is captured

class Recorder:
    """Stands in for MHA.forward and keeps the arguments of every call."""

    def __init__(self, module):
        self.calls, self.original = [], module.forward

    def __call__(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                 average_attn_weights=True):
        self.calls.append((need_weights, average_attn_weights))
        return self.original(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)


def test_without_a_subscriber_the_original_call_is_untouched():
    model = Model()
    seen = []
    original = model.attn.forward
    x = torch.rand(3, 5, D)

    def spy(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
            **rest):
        seen.append((query is x, need_weights))
        return original(query, key, value, need_weights=need_weights)

    model.attn.forward = spy
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0) as it:
        model(x, x, x, need_weights=False)
        assert seen == [(True, False)]
        stats = it.stats()
        assert stats["sent"] == 0 and identity_holds(stats)


@pytest.mark.parametrize("train,every,captured", [(True, 1, [0, 1, 2, 3, 4, 5]), (True, 3, [0, 3]), (False, 1, [])])
def test_only_sampled_training_steps_are_captured(daemon, watched, train, every, captured):
    model = Model().train(train)
    model.attn.forward = recorder = Recorder(model.attn)
    x = torch.rand(3, 5, D)
    it = watched(model, every=every)
    with torch.set_grad_enabled(train):
        for _ in range(6):
            model(x, x, x, need_weights=False)
            it.step()
    it.close()
    it.publisher.close()
    assert recorder.calls == [(False, True)] * 6  # whether it is captured or not
    assert [h["step"] for h in tensor_headers(daemon.until_bye())] == captured


def test_a_stalled_daemon_spares_the_capture_and_counts(watched):
    model = Model()
    it = watched(model)
    x = torch.rand(3, 5, D)
    model(x, x, x)
    it.publisher._sender.stalled = True
    it.step()
    published = it.stats()["published"]
    model(x, x, x)
    stats = it.stats()
    assert stats["dropped"] == 1 and stats["published"] == published and identity_holds(stats)


def test_a_stalled_daemon_costs_what_would_have_been_captured_once_a_step():
    fake = FakeDaemon(topics=(b"tensor/job/", b"event/", b"plan/0/*/every=1;layers=encoder.1.self"))
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, H, 16, batch_first=True), 3)
    publisher = attnd.Publisher("job", fake.endpoint)
    fake.attach(publisher)
    with attnd.watch(model, job="job", publisher=publisher, steps="manual") as it:
        model(torch.rand(2, 5, D))
        assert len(it.layers) == 3
        publisher._sender.stalled = True
        for _ in range(3):
            it.step()
            it.rearm()  # as after each microbatch
        assert it.stats()["dropped_by_topic"] == {"tensor/job/encoder/1/self/": 3}
    publisher.close()
    fake.close()


def test_explicit_steps_and_epochs(daemon, watched):
    model = Model()
    x = torch.rand(3, 5, D)
    it = watched(model, steps="manual", weights_every=0)
    for _ in range(2):  # epochs
        for _ in range(2):  # steps
            for _ in range(2):  # microbatches
                model(x, x, x)
            it.step()
        it.epoch_end()
    it.close()
    it.publisher.close()
    got = [(h["epoch"], h["step"], h.get("microbatch", 0), h.get("event", "")) for _, h, _ in daemon.until_bye()
           if h.get("event") != "hello"]
    assert got == [(0, 0, 0, ""), (0, 0, 1, ""), (0, 1, 0, ""), (0, 1, 1, ""), (0, 2, 0, "epoch_end"),
                   (1, 2, 0, ""), (1, 2, 1, ""), (1, 3, 0, ""), (1, 3, 1, ""), (1, 4, 0, "epoch_end"), (1, 4, 0, "bye")]


needs_step_hooks = pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch 1.13 does not tell of steps")


@needs_step_hooks
def test_steps_are_those_of_the_optimizer_of_the_model(daemon, watched):
    model, other = Model(), Model()
    x = torch.rand(3, 5, D)
    optimizers = [torch.optim.SGD(m.parameters(), 1e-3) for m in (model, other)]
    it = watched(model, every=2)
    for _ in range(3):
        for _ in range(2):  # microbatches
            model(x, x, x)[0].sum().backward()
            optimizers[1].step()
        optimizers[0].step()
    assert it.current_step == 3
    it.close()
    it.publisher.close()
    assert [(h["step"], h.get("microbatch", 0)) for h in tensor_headers(daemon.until_bye())] == [
        (0, 0), (0, 1), (2, 0), (2, 1)]
    optimizers[0].step()
    assert it.current_step == 3


def test_who_tells_of_steps_is_not_counted_twice(daemon, watched):
    model, x = Model(), torch.rand(3, 5, D)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    it = watched(model)
    for step in range(3):
        model(x, x, x)[0].sum().backward()
        optimizer.step()
        it.step()
        assert it.current_step == step + 1
    it.close()
    it.publisher.close()
    assert [h["step"] for h in tensor_headers(daemon.until_bye())] == [0, 1, 2]


def test_without_anybody_who_tells_forwards_are_steps(daemon, watched, monkeypatch, caplog):
    monkeypatch.setattr(capture, "FORWARDS_PER_STEP", 2)
    model, x = Model(), torch.rand(3, 5, D)
    it = watched(model)
    for _ in range(5):
        model(x, x, x)
    it.close()
    it.publisher.close()
    steps = [h["step"] for h in tensor_headers(daemon.until_bye())]
    torch_tells = hasattr(torch, "compiler")
    assert steps == ([0, 0, 0, 1, 2] if torch_tells else [0, 1, 2, 3, 4])
    assert [record.message for record in caplog.records if "step()" in record.message] == caplog.messages
    assert len(caplog.messages) == torch_tells


@needs_step_hooks
def test_parameters_that_were_replaced_after_watch_are_known_to_the_step(watched):
    model, x = Model(), torch.rand(3, 5, D)
    it = watched(model)
    model.attn.in_proj_weight = torch.nn.Parameter(model.attn.in_proj_weight.detach().clone())
    optimizer = torch.optim.SGD([model.attn.in_proj_weight], 1e-3)  # as of a model that was sharded meanwhile
    for step in range(3):
        model(x, x, x)[0].sum().backward()
        optimizer.step()
        assert it.current_step == step + 1


@needs_step_hooks
def test_while_nobody_tells_of_steps_few_forwards_are_captured(daemon, watched):
    model, x = Model(), torch.rand(3, 5, D)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    it = watched(model)
    for _ in range(2):
        for _ in range(10):
            model(x, x, x)[0].sum().backward()
        optimizer.step()
    it.close()
    it.publisher.close()
    steps = [h["step"] for h in tensor_headers(daemon.until_bye())]
    assert steps == [0] * capture.FORWARDS_UNTOLD + [1] * 10


def test_forwards_without_gradients_are_steps(daemon, watched):
    model, x = Model(), torch.rand(3, 5, D)
    it = watched(model, evaluation=True)
    with torch.no_grad():
        for _ in range(10):
            model(x, x, x)
    it.close()
    it.publisher.close()
    assert [h["step"] for h in tensor_headers(daemon.until_bye())] == list(range(10))


def test_a_resumed_training_goes_on_where_it_was(daemon, watched):
    model, x = Model(), torch.rand(3, 5, D)
    it = watched(model, first_step=100, first_epoch=3, steps="manual")
    model(x, x, x)
    it.step()
    assert (next_tensors(daemon)[1]["step"], it.current_step, it.epoch) == (100, 101, 3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_publishes_once(daemon, watched, reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Model):
        def forward(self, x):
            return checkpoint(lambda y: self.attn(y, y, y, need_weights=False)[0], x, use_reentrant=reentrant)

    model = Checkpointed()
    it = watched(model)
    model(torch.rand(3, 5, D, requires_grad=True)).sum().backward()
    it.close()
    it.publisher.close()
    assert len(tensor_headers(daemon.until_bye())) == 1


# ------------------------------------------------------------------------- masks, lengths and flags

CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.arange(5)[None, :] >= torch.tensor([5, 3, 1])[:, None]


def captured_call(daemon, watched, model, *args, **kwargs):
    with watched(model):
        model(*args, **kwargs)
    return next_tensors(daemon)


def visible(message):
    """bool [B, Tq, Tk] by the wire's rules."""
    header = message[1]
    batch, _, queries, keys = shape_of(message)
    i, j = np.ogrid[:queries, :keys]
    allowed = np.ones((batch, queries, keys), dtype=bool)
    if header.get("causal"):
        allowed &= j <= i
    if header.get("k_len"):
        allowed &= j < np.array(header["k_len"])[:, None, None]
    mask = mask_of(message)
    return allowed if mask is None else allowed & (mask == 1)


@pytest.mark.parametrize("attn", [CAUSAL, torch.zeros(5, 5).masked_fill(CAUSAL, -math.inf), CAUSAL.repeat(3 * H, 1, 1)])
def test_a_causal_mask_sets_causal(daemon, watched, attn):
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=attn)
    assert message[1]["causal"] is True and mask_of(message) is None and "k_len" not in message[1]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_right_padding_sets_lengths(daemon, watched):
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=CAUSAL, key_padding_mask=PADDING)
    assert message[1]["causal"] is True and mask_of(message) is None
    assert message[1]["q_len"] == message[1]["k_len"] == [5, 3, 1]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_cross_attention_has_key_lengths_only(daemon, watched):
    x, memory = torch.rand(3, 4, D), torch.rand(3, 5, D)
    model = Model()
    with watched(model, layers={"attn": ("decoder", 2, "cross")}):
        model(x, memory, memory, key_padding_mask=PADDING)
    message = next_tensors(daemon)
    topic, header, _ = message
    assert topic == "tensor/job/decoder/2/cross/" and header["k_len"] == [5, 3, 1] and "q_len" not in header
    assert "causal" not in header and shape_of(message) == [3, H, 4, 5]


@pytest.mark.parametrize("attn", ["2d", "3d", None])
@pytest.mark.parametrize("padding", ["left", "right", "holes", None])
def test_every_combination_of_masks_matches_the_weights(daemon, watched, attn, padding):
    """torch gives ignored keys a weight of exactly 0: what we say is visible is what has weight."""
    generator = torch.Generator().manual_seed(3)
    attn = {"2d": torch.rand(5, 5, generator=generator) < 0.4,
            "3d": (torch.rand(3, 1, 5, 5, generator=generator) < 0.4).repeat(1, H, 1, 1).view(-1, 5, 5),
            None: None}[attn]
    padding = {"left": PADDING.flip(1), "right": PADDING, "holes": torch.rand(3, 5, generator=generator) < 0.3,
               None: None}[padding]
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=attn, key_padding_mask=padding)
    weights = weights_of(message)
    rows = np.isfinite(weights).all(axis=(1, 3))  # a row that sees nothing is NaN
    seen = visible(message)
    if padding is not None:  # a padded position asks nothing either
        rows &= ~padding.numpy()
        seen &= ~padding.numpy()[:, :, None]
    assert ((weights > 0).any(axis=1) == seen)[rows].all() and not seen[~rows].any()


def test_unbatched_input_with_masks(daemon, watched):
    x = torch.rand(5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=CAUSAL, key_padding_mask=PADDING[1])
    assert message[1]["tensors"][0]["shape"] == [1, H, 5, 5]
    assert message[1]["causal"] is True and message[1]["k_len"] == [3]


def test_appended_keys(daemon, watched):
    x = torch.rand(3, 5, D)
    model = Model(add_bias_kv=True, add_zero_attn=True)
    message = captured_call(daemon, watched, model, x, x, x, attn_mask=CAUSAL)
    assert message[1]["tensors"][0]["shape"] == [3, H, 5, 7]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_double_precision(daemon, watched):
    x = torch.rand(3, 5, D, dtype=torch.float64)
    message = captured_call(daemon, watched, Model().double(), x, x, x)
    assert message[1]["tensors"][0]["dtype"] == "f64"


def test_bf16(daemon, watched):
    x = torch.rand(3, 5, D).bfloat16()
    message = captured_call(daemon, watched, Model().bfloat16(), x, x, x)
    assert message[1]["tensors"][0]["dtype"] == "bf16"


@needs_step_hooks
def test_a_causal_hint_that_lies_is_taken_as_torch_takes_it(daemon, watched):
    """Without weights torch believes the hint; what it computes is what is published."""
    torch.manual_seed(0)
    model, x = Model(), torch.rand(3, 5, D)
    lie = torch.zeros(5, 5, dtype=torch.bool)
    message = captured_call(daemon, watched, model, x, x, x, attn_mask=lie, is_causal=True, need_weights=False)
    assert message[1]["causal"] is True
    truth = model.attn(x, x, x, attn_mask=CAUSAL, average_attn_weights=False)[1]
    np.testing.assert_allclose(weights_of(message), truth.detach().numpy(), atol=1e-6)


# ------------------------------------------------------------------------------------- whole models

def test_torch_transformer_layers_and_hello(daemon):
    model = torch.nn.Transformer(D, H, 2, 2, 16, dropout=0.0, batch_first=True)
    publisher = attnd.Publisher("job", daemon.endpoint)
    daemon.attach(publisher)
    with attnd.watch(model, job="job", publisher=publisher, weights_every=0) as it:
        source, target = torch.rand(2, 6, D), torch.rand(2, 5, D)
        model(source, target, tgt_mask=CAUSAL)
        it.epoch_end()
    publisher.close()
    got = daemon.until_bye()
    layers = [("encoder", 0, "self"), ("encoder", 1, "self"), ("decoder", 0, "self"), ("decoder", 0, "cross"),
              ("decoder", 1, "self"), ("decoder", 1, "cross")]
    hello = [h for _, h, _ in got if h.get("event") == "hello"][-1]
    assert [(x["stack"], x["layer"], x["site"]) for x in hello["layers"]] == layers
    assert {x["heads"] for x in hello["layers"]} == {H} and hello["client"].startswith("attnd-python/")
    tensors = tensor_headers(got)
    assert [(h["stack"], h["layer"], h["site"]) for h in tensors] == layers
    assert [h.get("causal", False) for h in tensors] == [False, False, True, False, True, False]
    assert [h.get("event") for _, h, _ in got[-2:]] == ["epoch_end", "bye"]


def test_watch_waits_a_bounded_time_and_then_goes_on():
    model = Model()
    x = torch.rand(3, 5, D)
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0.1) as it:
        model(x, x, x)
    assert it.stats()["sent"] == 0


def test_a_daemon_that_comes_later_is_found():
    endpoint = free_endpoint()
    model, x = Model(), torch.rand(3, 5, D)
    with attnd.watch(model, job="job", endpoint=endpoint, wait=0) as it:
        model(x, x, x)
        it.step()
        fake = FakeDaemon(endpoint)
        fake.attach(it.publisher)
        it.step()
        model(x, x, x)
        assert fake.next()[1]["event"] == "hello"
        assert next_tensors(fake)[1]["step"] == 2
    fake.close()


def test_only_the_wanted_layer_is_captured():
    fake = FakeDaemon(topics=(b"tensor/job/encoder/1/",))
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, H, 16, batch_first=True), 3)
    publisher = attnd.Publisher("job", fake.endpoint)
    fake.attach(publisher)
    with attnd.watch(model, job="job", publisher=publisher):
        model(torch.rand(2, 5, D))
    assert fake.next()[0] == "tensor/job/encoder/1/self/" and fake.receive(0.1) is None
    stats = publisher.stats()
    assert stats["sent"] == 1 and identity_holds(stats)
    publisher.close()
    fake.close()


def test_a_model_that_is_itself_an_attention(daemon, watched):
    model = MHA(D, H, batch_first=True)
    x = torch.rand(3, 5, D)
    with watched(model) as it:
        model(x, x, x)
        it.step()
        model(x, x, x)
    assert [next_tensors(daemon)[1]["step"] for _ in range(2)] == [0, 1]


@pytest.mark.skipif(not hasattr(torch, "compile") or not hasattr(torch, "compiler"), reason="needs torch 2")
def test_compiled_code_is_left_alone(watched):
    model = Model()
    x = torch.rand(3, 5, D)
    expected = model(x, x, x, need_weights=False)[0]
    with watched(model) as it:
        compiled = torch.compile(model, backend="eager")
        assert same(compiled(x, x, x, need_weights=False)[0], expected)
    assert it.stats()["dropped"] == 0


@pytest.mark.skipif(not hasattr(getattr(torch, "compiler", None), "set_stance"), reason="needs torch 2.6")
def test_compiled_models_are_captured_eagerly_and_not_compiled_again(daemon, watched):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    model, x = Model(), torch.rand(3, 5, D)
    compiled = torch.compile(model, backend=backend)
    it = watched(compiled, every=3, steps="manual")
    for _ in range(7):
        compiled(x, x, x)[0].sum().backward()
        it.step()
    it.close()
    it.publisher.close()
    assert [h["step"] for h in tensor_headers(daemon.until_bye())] == [0, 3, 6]
    assert len(compilations) == 1


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_left_alone(watched):
    model = Model().requires_grad_(False)
    x = torch.rand(3, 5, D)
    with watched(model) as it:
        torch.jit.trace(lambda y: model(y, y, y, need_weights=False)[0], x, check_trace=False)
        assert it.stats()["published"] == 1


# -------------------------------------------------------------------------------- errors, ours and theirs

@pytest.mark.parametrize("broken", ["wanted", "publish_later", "hello"])
def test_errors_in_our_code_never_reach_the_user(watched, monkeypatch, caplog, broken):
    model = Model()
    x = torch.rand(3, 5, D)
    expected = model(x, x, x)
    it = watched(model)

    def fail(*args, **kwargs):
        raise RuntimeError("our own fault")

    monkeypatch.setattr(it.publisher, broken, fail)
    for _ in range(3):
        output, weights = model(x, x, x)
        assert same(output, expected[0]) and same(weights, expected[1])
    assert len(caplog.records) == 1 and "our own fault" in caplog.text


def test_a_message_that_cannot_be_made_is_counted(watched, monkeypatch, caplog):
    monkeypatch.setattr(calls, "describe", lambda *a, **k: 1 / 0)
    model, x = Model(), torch.rand(3, 5, D)
    it = watched(model)
    for _ in range(2):
        model(x, x, x)
        it.step()
    assert it.publisher.drain(60) and it.stats()["dropped"] == 2 and identity_holds(it.stats())
    assert len(caplog.records) == 1


class Parts(torch.nn.Module):
    """Has no forward of its own: its parts are run one by one."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = torch.nn.Embedding(50, D), MHA(D, H, batch_first=True)

    def training_step(self, tokens, attends=True):
        x = self.embed(tokens)
        return self.attn(x, x, x)[0] if attends else x


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch 1.13 follows no parts that are run alone")
@pytest.mark.parametrize("attends", [True, False])
def test_whether_any_attention_is_seen_is_judged_by_the_step(watched, caplog, attends):
    model = Parts()
    it = watched(model, steps="manual")
    for _ in range(2):
        model.training_step(torch.ones(1, 4, dtype=torch.long), attends)
        assert attends or it.current_step or not caplog.records
        it.step()
    assert [record.message.partition(":")[2][:23] for record in caplog.records] == [
        " no attention was seen "] * (not attends)


def uncalled(caplog):
    return [record.message for record in caplog.records if "is not called itself" in record.message]


@pytest.mark.parametrize("called", [False, True])
def test_a_model_that_is_never_called_itself_is_told_once(watched, caplog, called):
    model = torch.nn.ParameterDict({"q": torch.nn.Parameter(torch.ones(D, D))}) if not called else Model()
    it = watched(model, steps="manual")
    for _ in range(3 * notices.STEPS_UNCALLED):
        if called:
            model(*[torch.ones(1, 4, D)] * 3)
        else:
            x = torch.ones(1, H, 4, D) @ model["q"]
            torch.softmax(x @ x.transpose(2, 3), -1)
        assert called or it.current_step >= notices.STEPS_UNCALLED or not caplog.records
        it.step()
    assert len(uncalled(caplog)) == (not called)
    assert called or "the watched ParameterDict is not called itself" in caplog.text


@pytest.mark.parametrize("unseen", [False, True])
def test_that_compiled_code_is_unseen_before_torch_2_6_is_told(watched, caplog, monkeypatch, unseen):
    monkeypatch.setattr(torch_state, "compiled_is_unseen", unseen)
    it = watched(Model(), steps="manual")
    for _ in range(notices.STEPS_UNCALLED):  # as where the model runs compiled, and its hooks do not
        it.step()
    assert len(uncalled(caplog)) == 1
    assert (", or it is compiled: then this needs torch 2.6 or newer. Watch the" in caplog.text) == unseen


@pytest.mark.skipif(hasattr(torch, "compiler"), reason="torch 2 follows parts that are run alone")
def test_parts_that_run_alone_are_told_where_they_cannot_be_followed(watched, caplog):
    model = Parts()
    watched(model)
    for _ in range(notices.PARTS_UNCALLED):
        with torch.no_grad():  # a validation says nothing
            model.training_step(torch.ones(1, 4, dtype=torch.long))
    assert not caplog.records
    for _ in range(notices.PARTS_UNCALLED):
        model.training_step(torch.ones(1, 4, dtype=torch.long))
    assert len(uncalled(caplog)) == 1 and "before torch 2 its parts cannot be followed alone" in caplog.text


@pytest.mark.parametrize("trained", [False, True])
def test_a_model_that_is_only_evaluated_is_told_at_the_end(watched, caplog, trained):
    model = Model()
    it = watched(model)
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(*[torch.ones(1, 4, D)] * 3)
    if trained:
        model.train()(*[torch.ones(1, 4, D)] * 3)
    assert not caplog.records
    it.close()
    assert ("the model ran only without gradients" in caplog.text) == (not trained)


def test_a_rollout_of_a_model_that_trains_is_no_training(daemon, watched):
    model, x = Model().train(), torch.rand(3, 5, D)
    it = watched(model, steps="manual")
    for _ in range(2):
        with torch.no_grad():
            for _ in range(24):
                model(x, x, x)
        model(x, x, x)[0].sum().backward()
        it.step()
    it.close()
    it.publisher.close()
    assert [(h["step"], h.get("microbatch", 0)) for h in tensor_headers(daemon.until_bye())] == [(0, 0), (1, 0)]


def test_a_validation_after_steps_that_are_not_captured_is_no_evaluation_alone(watched, caplog):
    model = Model()
    it = watched(model, every=50, first_step=1, steps="manual")
    for _ in range(49):
        model.train()(*[torch.ones(1, 4, D)] * 3)
        it.step()
    with torch.no_grad():
        model.eval()(*[torch.ones(1, 4, D)] * 3)
    it.close()
    assert it.current_step == 50 and not caplog.records


class Explicit(torch.nn.Module):
    """Attention by an explicit softmax, of which `breaks` makes something first."""

    def __init__(self, breaks):
        super().__init__()
        self.in_attention, self.breaks = torch.nn.Linear(D, D), breaks

    def forward(self, x):
        q = self.in_attention(x).view(len(x), -1, H, D // H).transpose(1, 2)
        weights = torch.softmax(q @ q.transpose(2, 3), -1)
        self.breaks(weights)
        return weights @ q


def test_what_a_forward_that_raises_did_not_show_is_not_said_to_be_missing(watched, caplog):
    class OwnAttention(Explicit):
        def forward(self, x):
            raise KeyError("of the model")

    model, x = torch.nn.Sequential(OwnAttention(None)), torch.rand(2, 5, D)
    it = watched(model, steps="manual")
    for _ in range(2):
        with pytest.raises(KeyError, match="of the model"):
            model(x)
        it.step()
    it.close()
    assert not caplog.records


def test_weights_that_the_model_writes_to_are_captured_from_the_second_forward_on(daemon, watched, caplog):
    model, x = Explicit(lambda weights: weights.detach().mul_(0.5)), torch.rand(2, 5, D)
    it = watched(model, steps="manual", evaluation=True)
    for _ in range(3):
        with torch.no_grad():
            model(x)
        it.step()
    it.close()
    it.publisher.close()
    assert [header["step"] for header in tensor_headers(daemon.until_bye())] == [1, 2]
    assert not caplog.records


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("tier", ["raw", "state"])
def test_test_points_that_see_training_points_alone_count(daemon, watched, need_weights, tier):
    """As in a PFN, whose mask is one for all samples."""
    model, x, mask = Model(), torch.rand(3, 24, D), torch.zeros(24, 24, dtype=torch.bool)
    mask[:, 16:] = True
    it = watched(model, tier=tier, samples=0)
    model(x, x, x, attn_mask=mask, need_weights=need_weights)
    it.close()
    it.publisher.close()
    header = tensor_headers(daemon.until_bye())[0]
    assert header.get("q_len") is None and header.get("rows", 3 * 24) == 3 * 24, header


def in_vmap(model, x):
    return torch.func.vmap(lambda one: model(one[None]))(x)


def in_gradients_of_samples(model, x):
    return torch.func.vmap(torch.func.grad(lambda one: model(one[None]).sum()))(x)


def in_gradients(model, x):
    return torch.func.grad(lambda given: model(given).sum())(x)


def on_meta(model, x):
    return model.to("meta")(x.to("meta"))


def of_a_subclass(model, x):
    return model(x.as_subclass(type("Tagged", (torch.Tensor,), {})))


def of_fake_tensors(model, x):
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return model(mode.from_tensor(x))


NOT_READ = {in_vmap: "transform of torch.func", in_gradients_of_samples: "transform of torch.func",
            in_gradients: "transform of torch.func", on_meta: "meta tensors", of_a_subclass: "Tagged", of_fake_tensors: "FakeTensor"}


@pytest.mark.skipif(not hasattr(torch, "func"), reason="needs torch 2")
@pytest.mark.parametrize("run", NOT_READ)
def test_what_has_no_numbers_of_its_own_is_not_captured_and_told_once(daemon, watched, caplog, run):
    model = Explicit(lambda weights: None)
    with watched(model) as it:
        assert len(run(model, torch.rand(2, 5, D))) == 2
        assert it.publisher.drain(60) and it.stats()["dropped"] == 0
    it.publisher.close()
    assert tensor_headers(daemon.until_bye()) == []
    assert len(caplog.records) == 1 and NOT_READ[run] in caplog.text and "Traceback" not in caplog.text


def test_a_given_name_is_free_for_whom_it_was_given(daemon, watched, caplog):
    """Though another, which runs before, would be called so by its path."""
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(MHA(D, H, batch_first=True) for _ in range(2))

        def forward(self, x, last):
            x = self.layers[0](x, x, x)[0]
            return self.layers[1](x, x, x)[0] if last else x

    model, x = Two(), torch.rand(1, 5, D)
    with watched(model, layers={"layers.1": ("encoder", 0, "self")}, steps="manual") as it:
        for last in (False, True):
            model(x, last)
            it.step()
        assert it.layers == [("encoder", 1, "self"), ("encoder", 0, "self")] and not caplog.records


@pytest.mark.parametrize("other", ["crossattention", "attn2"])
def test_a_name_given_to_a_module_is_that_of_the_attention_in_it(watched, caplog, other):
    """Of two in it the first one's; the other is called by its path, or by what it reads."""
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = MHA(D, H, batch_first=True)
            setattr(self, other, MHA(D, H, batch_first=True))

        def forward(self, x):
            x, context = self.attn(x, x, x)[0], x[:, :3]
            return getattr(self, other)(x, context, context)[0]

    model = torch.nn.Sequential(Block(), Block())
    with watched(model, layers={str(n): ("decoder", 6 + n, "self") for n in range(2)}, steps="manual") as it:
        model(torch.rand(1, 5, D))
        it.step()
        assert it.layers == [("decoder", 6, "self"), ("decoder", 0, "cross"), ("decoder", 7, "self"), ("decoder", 1, "cross")]
        assert [layer.module for layer in it.layers][::2] == ["0.attn", "1.attn"] and not caplog.records


def test_a_name_may_be_that_of_the_whole_model(watched):
    model = MHA(D, H, batch_first=True)
    with watched(model, layers={"": ("encoder", 3, "self")}, steps="manual") as it:
        x = torch.rand(1, 5, D)
        model(x, x, x)
        it.step()
        assert it.layers == [("encoder", 3, "self")]


def test_the_name_of_an_attention_is_not_that_of_one_within_it(watched):
    class Nested(MHA):
        def __init__(self):
            super().__init__(D, H, batch_first=True)
            self.inner = MHA(D, H, batch_first=True)

        def forward(self, x):
            return super().forward(*[self.inner(x, x, x)[0]] * 3)[0]

    model = torch.nn.Sequential(Nested())
    with watched(model, layers={"0": ("decoder", 6, "self")}, steps="manual") as it:
        model(torch.rand(1, 5, D))
        it.step()
        assert {layer.module: layer[1] for layer in it.layers} == {"0.inner": 0, "0": 6}


class Towers(torch.nn.Module):
    """Two encoders beside each other, as CLIP has them: by number alone they cannot be told apart."""

    def __init__(self):
        super().__init__()
        for tower in ("text_model", "vision_model"):
            self.add_module(tower, torch.nn.ModuleDict({"encoder": torch.nn.ModuleList(
                MHA(D, H, batch_first=True) for _ in range(2))}))

    def forward(self, x):
        for tower in (self.text_model, self.vision_model):
            for layer in tower["encoder"]:
                x = layer(x, x, x)[0]
        return x


TOWERS = [f"{tower}.encoder.{layer}" for tower in ("text_model", "vision_model") for layer in range(2)]


def test_layers_say_which_module_they_are(daemon, watched):
    with watched(Towers(), steps="manual") as it:
        for _ in range(2):
            it._root(torch.rand(1, 5, D))
            it.step()
        assert it.layers == [("encoder", number, "self") for number in range(4)]
        assert [layer.module for layer in it.layers] == TOWERS
        hello = daemon.next()[1]
        assert hello["event"] == "hello" and [layer["module"] for layer in hello["layers"]] == TOWERS
        headers = [daemon.next()[1] for _ in range(8)]
        assert [header["module"] for header in headers] == 2 * TOWERS


def test_each_call_of_a_module_is_told_apart(daemon, watched):
    model = Recurrent()
    model.times = 2
    it = watched(model, steps="manual")
    model(torch.rand(1, H, 5, 5))
    it.step()
    assert daemon.next()[1]["event"] == "hello"
    assert [daemon.next()[1]["module"] for _ in range(2)] == ["attn", "attn#1"] == [x.module for x in it.layers]


class Recurrent(torch.nn.Module):
    """One attention, as often as is asked for."""

    def __init__(self):
        super().__init__()
        self.attn = MHA(D, H, batch_first=True)
        self.attn.forward = self.attend
        self.times = 1

    def attend(self, x):
        for _ in range(self.times):
            torch.softmax(x, -1)
        return x

    def forward(self, x):
        return self.attn(x)


def test_a_module_attends_a_bounded_number_of_times(watched, caplog):
    model = Recurrent()
    model.times = capture.CALLS_PER_FORWARD + 50
    it = watched(model, steps="manual")
    for _ in range(2):
        model(torch.rand(1, H, 5, 5))
        it.step()
    assert len(it.layers) == capture.CALLS_PER_FORWARD and len(caplog.records) == 1 and "attends more" in caplog.text


def test_a_broken_epoch_end_never_reaches_the_user(watched, monkeypatch, caplog):
    it = watched(Model())
    monkeypatch.setattr(it.publisher, "epoch_end", lambda *a: 1 / 0)
    it.epoch_end()
    assert it.epoch == 1 and len(caplog.records) == 1


def test_the_users_own_errors_reach_the_user(watched):
    model, x = Model(), torch.rand(3, 5, D)
    watched(model)
    with pytest.raises((AssertionError, RuntimeError)):
        model(x, x, x, attn_mask=torch.zeros(7, 7))
    with pytest.raises(TypeError):
        model(x)
    with pytest.raises(TypeError):
        model(x, x, x, nonsense=1)
    model(x, x, x)


def test_states_travel_where_they_are_taken_and_nothing_needs_tensors(daemon):
    x = torch.rand(2, 5, D)
    limits = b"limits/accepts=attention,qk,weights,event"
    for accepted, options, tier in ((b"", {"tier": "state"}, "raw"), (b",state", {"tier": "state"}, "state"), (b",state", {}, "raw"),
                                    (b",state", {"tier": "raw"}, "raw"), (b",state", {"plan": b"state"}, "state"),
                                    (b",state", {"plan": b"state", "values": True}, "raw")):
        fake = FakeDaemon(topics=(b"", limits + accepted, b"plan/1/job/every=1;tier=" + options.pop("plan", b"auto")))
        with attnd.Publisher("job", fake.endpoint) as publisher:
            fake.attach(publisher)
            wait_until(lambda: fake.serve() or len(publisher._sender.prefixes) == 3, "the subscriptions arrive")
            model = Model()
            with attnd.watch(model, job="job", publisher=publisher, **options):
                model(x, x, x)
            assert (next_tensors(fake)[1]["type"] == "state") == (tier == "state"), (accepted, options)


def test_a_state_needs_no_room_in_a_message_for_what_it_is_made_of():
    fake = FakeDaemon(topics=(b"", b"limits/accepts=attention,qk,state,event;max_message=4000"))
    model, x = Model(), torch.rand(2, 50, D)
    with attnd.Publisher("job", fake.endpoint) as publisher:
        wait_until(lambda: fake.serve() or publisher.takes_states, "the subscriptions arrive")
        with attnd.watch(model, job="job", publisher=publisher, tier="state"):
            model(x, x, x)
        assert next_tensors(fake)[1]["type"] == "state" and publisher.stats()["too_large"] == 0


@pytest.mark.parametrize("window, own", [(None, None), (200, {"unit": "step", "length": 200}), ("epoch", {"unit": "epoch", "length": 1})])
def test_the_windows_that_a_job_asks_for_are_in_its_hello(daemon, window, own):
    with attnd.Publisher("job", daemon.endpoint) as publisher:
        daemon.attach(publisher)
        with attnd.watch(Model(), job="job", publisher=publisher, window=window):
            assert daemon.next()[1].get("own_window") == own


def test_bad_arguments_are_value_errors():
    model, threads = Model(), threading.active_count()
    for arguments in ({"every": -1}, {"exclude": 3}, {"include": ["a", None]}, {"job": ""}, {"layers": {"nowhere": ("decoder", 0, "self")}},
                      {"stack": "middle"}, {"rank": -1}, {"world": 0}, {"probe": torch.rand(1), "probe_every": 0}, {"window": "auto"}, {"window": 0}):
        with pytest.raises(ValueError):
            attnd.watch(model, **{"job": "job", "endpoint": free_endpoint(), "wait": 0, **arguments})
    for flag in ("evaluation", "values", "gradients", "residual", "tokens", "passive"):
        for value in ("no", "off", [], 5, 0, *[None] * (flag != "tokens")):
            with pytest.raises(ValueError, match=f"{flag} = .*: must be True(, False or None| or False)$"):
                attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, **{flag: value})
    for name, value in (("weights_every", True), ("weights_every", False), ("probe", 5), ("probe", True)):
        with pytest.raises(ValueError, match=f"{name} = {value}: must be"):
            attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, **{name: value})
    for more, said in (({"tier": "device"}, "tier = 'device': must be one of auto, raw, state"),
                       ({"tier": "state", "values": True, "residual": True}, "values and residual need tier 'raw'")):
        with pytest.raises(ValueError, match=said):
            attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, **more)
    with pytest.raises(ValueError):
        attnd.watch("no model", job="job")
    assert not model._forward_hooks and threading.active_count() == threads


def test_rank_and_world_come_from_the_environment(daemon, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    runs = []
    for start in (0, 0, 1):
        monkeypatch.setattr(ranks, "_runs_shared", start)  # as in another rank's process
        with attnd.watch(Model(), job="job", endpoint=daemon.endpoint, wait=0) as it:
            runs.append(it.publisher.run)
            daemon.attach(it.publisher)
            header = daemon.next()[1]
            assert (header["rank"], header["world"]) == (3, 8)
        daemon.until_bye()
    assert runs[0] == runs[1]  # every rank of the launch names the same run
    assert runs[0] != runs[2]  # watching again, after bye, is another run


def test_another_launch_with_the_same_environment_is_another_run(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    first = ranks.shared_run(1, 2)
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    other = os.getppid() + 1
    monkeypatch.setattr(os, "getppid", lambda: other)
    assert ranks.shared_run(1, 2) != first


def test_ranks_on_several_machines_are_told_to_name_their_run(monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    first = ranks.shared_run(1, 2)
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert ranks.shared_run(1, 2) == first and "ATTND_RUN" in caplog.text


@pytest.mark.parametrize("world", [1, 2])
def test_the_environment_names_the_run_of_one_process_too(monkeypatch, world):
    monkeypatch.setenv("ATTND_RUN", "launch-42")
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    first, second = ranks.shared_run(0, world), ranks.shared_run(0, world)
    assert first and second and first != second  # watching again, after bye, is another run
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    assert ranks.shared_run(0, world) == first
    monkeypatch.setattr(ranks, "_runs_shared", 0)
    monkeypatch.setenv("ATTND_RUN", "launch-43")
    assert ranks.shared_run(0, world) not in (first, second)
    monkeypatch.delenv("ATTND_RUN")
    assert ranks.shared_run(0, 1) is None


def test_rank_and_run_come_from_torch_distributed(tmp_path, monkeypatch):
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert ranks.rank_and_world(None, None) == (0, 1)
        assert ranks._run_from_store(0) == ranks._run_from_store(1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_forked_child_trains_on_untouched(daemon, watched):
    import os
    model, x = Model(), torch.rand(3, 5, D)
    torch.set_num_threads(1)
    with watched(model) as it:
        child = os.fork()
        if child == 0:
            model(x, x, x)
            it.step()
            model(x, x, x)
            it.close()
            os._exit(0 if it.stats()["published"] == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        model(x, x, x)
    next_tensors(daemon)


def test_nested_watches_of_two_models_share_a_publisher(daemon):
    publisher = attnd.Publisher("job", daemon.endpoint)
    daemon.attach(publisher)
    first, second, x = Model(), Model(), torch.rand(3, 5, D)
    with attnd.watch(first, job="job", publisher=publisher, stack="decoder"):
        with attnd.watch(second, job="job", publisher=publisher):
            first(x, x, x)
            second(x, x, x)
    assert publisher.stats()["subscribed"]
    publisher.close()
    assert [h["stack"] for h in tensor_headers(daemon.until_bye())] == ["decoder", "encoder"]


def test_two_watches_of_one_model_both_see_it(daemon):
    publisher = attnd.Publisher("job", daemon.endpoint)
    daemon.attach(publisher)
    model, x = Model(), torch.rand(3, 5, D)
    with attnd.watch(model, job="job", publisher=publisher, stack="decoder") as outer:
        with attnd.watch(model, job="job", publisher=publisher) as inner:
            for _ in range(2):
                model(x, x, x)
                outer.step()
                inner.step()
    model(x, x, x)
    publisher.close()
    got = [(h["stack"], h["step"]) for h in tensor_headers(daemon.until_bye())]
    assert got == [("decoder", 0), ("encoder", 0), ("decoder", 1), ("encoder", 1)]
    assert torch._C._len_torch_function_stack() == 0


# --------------------------------------------------------------------------------------------- tokens

class Embedded(torch.nn.Module):
    """Tokens through one attention of each stack; more arguments than it needs."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, D)
        self.encoder, self.decoder = MHA(D, H, batch_first=True), MHA(D, H, batch_first=True)

    def forward(self, attention_mask, input_ids, decoder_input_ids=None):
        x = self.embed(input_ids)
        y = self.embed(input_ids if decoder_input_ids is None else decoder_input_ids)
        return self.encoder(x, x, x, need_weights=False)[0] + self.decoder(y, y, y, need_weights=False)[0]


@pytest.mark.parametrize("own_decoder", [True, False])
def test_tokens_are_those_that_the_stack_reads(daemon, watched, own_decoder):
    model, mask = Embedded(), torch.ones(2, 5, dtype=torch.int64)
    tokens, others = torch.randint(50, (2, 5)), torch.randint(50, (2, 5))
    with watched(model, tokens=True):
        model(mask, tokens, *[others] * own_decoder)
    encoder, decoder = (tensors_of(next_tensors(daemon)).get("tokens") for _ in range(2))
    assert (encoder == tokens.numpy()).all()
    if own_decoder:
        assert (decoder == others.numpy()).all()
    else:
        assert decoder is None, "what the encoder has read"


@pytest.mark.parametrize("options, topic", [({"exclude": "encoder"}, b""), ({}, b"tensor/job/decoder/")])
def test_what_an_encoder_reads_that_is_not_captured_is_not_the_decoders(options, topic):
    fake = FakeDaemon(topics=(topic,))
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    with attnd.Publisher("job", fake.endpoint) as publisher:
        fake.attach(publisher)
        with attnd.watch(model, job="job", publisher=publisher, tokens=True, labels=WORDS, steps="manual", samples=0,
                         **options):
            for _ in range(2):
                model(mask, tokens)
        messages = [next_tensors(fake) for _ in range(2)]
    assert [(m[1]["stack"], "tokens" in tensors_of(m), "labels" in m[1]) for m in messages] == 2 * [("decoder", False, False)]
    fake.close()


def test_an_encoder_of_something_else_leaves_the_decoder_its_tokens(daemon, watched):
    class Captions(Embedded):
        def forward(self, image, input_ids):
            y = self.embed(input_ids)
            return self.encoder(image, image, image)[0].mean() + self.decoder(y, y, y)[0]

    tokens = torch.randint(50, (2, 5))
    with watched(Captions(), tokens=True, exclude="encoder", samples=0) as it:
        it._root(torch.rand(2, 9, D), tokens)
    assert (tensors_of(next_tensors(daemon))["tokens"] == tokens.numpy()).all()


def test_tokens_are_copied_once_and_only_when_they_travel(daemon, watched, monkeypatch):
    copied = []

    class Counted(tokens_module.HostCopy):
        def __init__(self, *args):
            copied.append(args[0])
            super().__init__(*args)

    monkeypatch.setattr(tokens_module, "HostCopy", Counted)
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    it = watched(model, tokens=True, every=2, steps="manual")
    counts = []
    for _ in range(3):
        model(mask, tokens)
        model.eval()
        with torch.no_grad():
            model(mask, tokens)  # a validation
        model.train()
        counts.append(len(copied))
        it.step()
    assert counts == [1, 1, 2] and not model._forward_pre_hooks


def test_tokens_in_a_dict_are_found(daemon, watched):
    class OfBatch(Embedded):
        def forward(self, batch):
            return super().forward(**batch)

    model, tokens = OfBatch(), torch.randint(50, (2, 5))
    with watched(model, tokens=True):
        model({"attention_mask": torch.ones(2, 5, dtype=torch.int64), "input_ids": tokens})
    assert (tensors_of(next_tensors(daemon))["tokens"] == tokens.numpy()).all()


@pytest.mark.parametrize("given, over_ipc, travel", [(None, True, True), (None, False, False), (True, False, True),
                                                     (False, True, False)])
def test_tokens_travel_by_default_through_a_unix_socket_only(tmp_path, given, over_ipc, travel):
    fake = FakeDaemon(f"ipc://{tmp_path}/ingest" if over_ipc else "tcp://127.0.0.1:*")
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    with attnd.Publisher("job", fake.endpoint) as publisher:
        fake.attach(publisher)
        with attnd.watch(model, job="job", publisher=publisher, tokens=given, samples=1):
            model(mask, tokens)
        publisher.close()
        got = [tensors_of(message).get("tokens") for message in fake.until_bye() if message[1]["type"] != "event"]
    assert [numbers is not None for numbers in got] == [travel, False]  # of the encoder, and of the decoder
    assert all(numbers.tolist() == tokens[:1].tolist() for numbers in got if numbers is not None)


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("name", ["attention_mask", "position_ids", "labels", "token_type_ids", "cache_position", "pos",
                                  "targets", "segment_ids", "seq_lens"])
def test_other_integers_are_never_taken_for_tokens(daemon, watched, name, by_name):
    scope = {}
    exec(f"def forward(self, {name}, x=None):\n    return self.attn(x, x, x)", scope)
    model = type("Given", (Model,), {"forward": scope["forward"]})()
    other, x = torch.arange(10).view(2, 5), torch.rand(2, 5, D)
    with watched(model, tokens=True):
        model(**{name: other, "x": x}) if by_name else model(other, x)
        model(**{name: {"input_ids": other}, "x": x})
    assert ["tokens" in tensors_of(next_tensors(daemon)) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("tokens", [torch.ones(3, 5).long(), torch.ones(2, 4).long(), torch.ones(2, 5).long() << 40,
                                    torch.ones(2).long(), torch.ones(2, 5, 1).long()],
                         ids=["samples", "length", "large", "classes", "deep"])
def test_integers_that_fit_no_attention_cost_no_message(daemon, watched, tokens):
    class Given(Model):
        def forward(self, tokens, x):
            return self.attn(x, x, x)

    model = Given()
    with watched(model, tokens=True, samples=0) as it:
        model(tokens, torch.rand(2, 5, D))
    assert "tokens" not in tensors_of(next_tensors(daemon))
    assert it.stats()["dropped"] == 0


def test_tokens_that_are_given_by_name_are_found_after_those_by_place(daemon, watched):
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    with watched(model, tokens=True, samples=0):
        model(mask, input_ids=tokens)
    assert (tensors_of(next_tensors(daemon))["tokens"] == tokens.numpy()).all()


# --------------------------------------------------------------------------------------------- labels

WORDS = [f"word{i}" for i in range(40)]  # the model has 50 tokens


def words(numbers):
    return [WORDS[i] if i < 40 else str(i) for i in numbers]


class Crossing(Embedded):
    """With an attention of the decoder to what the encoder read."""

    def __init__(self):
        super().__init__()
        self.decoder_cross_attn = MHA(D, H, batch_first=True)

    def forward(self, input_ids, decoder_input_ids):
        x, y = self.embed(input_ids), self.embed(decoder_input_ids)
        x = self.encoder(x, x, x, need_weights=False)[0]
        y = self.decoder(y, y, y, need_weights=False)[0]
        return self.decoder_cross_attn(y, x, x, need_weights=False)[0]


@pytest.mark.parametrize("given", [words, WORDS, tuple(WORDS), dict(enumerate(WORDS))])
def test_labels_are_the_texts_of_the_first_samples_keys(daemon, watched, given):
    model, tokens, others = Crossing(), torch.randint(50, (2, 5)), torch.randint(50, (2, 7))
    names = {"encoder": ("encoder", 0, "self"), "decoder": ("decoder", 0, "self"), "decoder_cross_attn": ("decoder", 0, "cross")}
    with watched(model, labels=given, layers=names):
        model(tokens, others)
    seen = {}
    for _ in range(3):
        message = next_tensors(daemon)
        assert "tokens" not in tensors_of(message)
        seen[message[1]["stack"], message[1]["site"]] = message[1]["labels"]
    assert seen == {("encoder", "self"): words(tokens[0].tolist()), ("decoder", "self"): words(others[0].tolist()),
                    ("decoder", "cross"): words(tokens[0].tolist())}


def test_labels_and_tokens_travel_together(daemon, watched):
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    with watched(model, tokens=True, labels=WORDS, samples=0):
        model(mask, tokens)
    message = next_tensors(daemon)
    assert (tensors_of(message)["tokens"] == tokens.numpy()).all() and message[1]["labels"] == words(tokens[0].tolist())


def test_labels_are_asked_once_for_a_captured_forward_and_never_for_others(daemon, watched):
    asked = []

    def texts(numbers):
        asked.append(threading.current_thread() is threading.main_thread())
        return words(numbers)

    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    it = watched(model, labels=texts, every=2, steps="manual")
    for step in range(3):
        model(mask, tokens)
        it.step()
        assert model._forward_pre_hooks == {} or step % 2
    for _ in range(2):
        assert next_tensors(daemon)[1]["labels"] == words(tokens[0].tolist())
        assert "labels" not in next_tensors(daemon)[1]  # of the decoder
    assert asked == [False, False]


@pytest.mark.parametrize("broken", [lambda numbers: 1 / 0, lambda numbers: ["too", "few"], lambda numbers: None,
                                    lambda numbers: [numbers[9]]])
def test_labels_that_fail_cost_the_labels_alone(daemon, watched, broken, caplog):
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    it = watched(model, labels=broken, steps="manual")
    for _ in range(2):
        model(mask, tokens)
        it.step()
    for _ in range(4):
        assert "labels" not in next_tensors(daemon)[1]
    assert it.stats()["dropped"] == 0
    assert len([record for record in caplog.records if "could not be labelled" in record.message]) == 1


def test_labels_of_anything_can_travel(daemon, watched):
    model, mask, tokens = Embedded(), torch.ones(2, 5, dtype=torch.int64), torch.randint(50, (2, 5))
    with watched(model, labels=lambda numbers: ["\ud800", b"a\xff", 7, "naïve", ""]):
        model(mask, tokens)
    assert next_tensors(daemon)[1]["labels"] == ["?", "a\ufffd", "7", "naïve", ""]


def test_labels_that_do_not_fit_the_header_are_left_out(daemon, watched):
    model, mask, tokens = Embedded(), torch.ones(1, 5, dtype=torch.int64), torch.randint(50, (1, 5))
    with watched(model, labels=lambda numbers: ["x" * 20000] * len(numbers)):
        model(mask, tokens)
    assert "labels" not in next_tensors(daemon)[1]


def test_keys_that_are_not_the_tokens_have_no_labels(daemon, watched):
    class Longer(Embedded):
        def forward(self, input_ids):
            x = torch.cat([self.embed(input_ids)] * 2, 1)
            return self.decoder(x, x, x, need_weights=False)[0]

    with watched(Longer(), labels=WORDS) as it:
        it._root(torch.randint(50, (1, 5)))
    assert "labels" not in next_tensors(daemon)[1]


@pytest.mark.parametrize("given", ["text", b"text", 7, {1, 2}])
def test_labels_that_are_none_are_refused_at_once(given):
    with pytest.raises(ValueError, match="labels: must be a function"):
        attnd.watch(Embedded(), job="job", labels=given)
