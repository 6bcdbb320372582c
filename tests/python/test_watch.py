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
import types
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd import attach
from attnd.base import ranks
from attnd.capture import calls, watch as watches
from conftest import FakeDaemon, free_endpoint, identity_holds, limited, wait_until
from watching import (MHA, D, H, Model, Recorder, X, needs_step_hooks, next_tensors, same, shape_of, steps_of,
                      tensor_headers, tensors_of, visible, weights_of)

# -------------------------------------------------------------------- nothing changes for the caller


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False},
                                   {"need_weights": False, "average_attn_weights": False}])
def test_the_caller_gets_what_it_asked_for(daemon, watched, batch_first, batched, asked):
    torch.manual_seed(0)
    model, x = Model(batch_first=batch_first), X if batched else X[0]
    expected, expected_weights = model(x, x, x, **asked)
    with watched(model):
        output, weights = model(x, x, x, **asked)
    assert same(output, expected) and same(weights, expected_weights)
    truth = model.attn(x, x, x, average_attn_weights=False)[1]
    truth = truth if batched else truth[None]
    np.testing.assert_allclose(weights_of(next_tensors(daemon)), truth.detach().numpy(), atol=1e-6)


def test_positional_arguments_and_gradients_are_the_same(daemon, watched):
    torch.manual_seed(0)
    model = Model()

    def gradients():
        model.zero_grad()
        model(X, X, X, None, False)[0].square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    with watched(model):
        got = gradients()
    next_tensors(daemon)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected))


def test_dropout_draws_the_same_random_numbers(daemon, watched):
    model = Model(dropout=0.5)
    torch.manual_seed(1)
    expected = model(X, X, X, need_weights=False)[0]
    with watched(model):
        torch.manual_seed(1)
        assert same(model(X, X, X, need_weights=False)[0], expected)
    assert "dropout" not in next_tensors(daemon)[1]  # what travels is before dropout


def test_the_model_has_the_same_parts_and_nothing_is_left_after_close(watched):
    from torch.nn.modules import module as internals
    model = Model()
    before = list(model.state_dict()), [name for name, _ in model.named_modules()]
    it = watched(model)
    assert (list(model.state_dict()), [name for name, _ in model.named_modules()]) == before
    assert internals._global_forward_pre_hooks and model._forward_hooks
    model(X, X, X)
    assert not internals._global_forward_pre_hooks and model.attn._forward_hooks  # what attends is known
    it.close()
    it.close()
    assert not internals._global_forward_pre_hooks and not internals._global_forward_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
    assert torch._C._len_torch_function_stack() == 0


def test_a_forward_that_was_already_wrapped_is_kept(daemon, watched):
    model = Model()
    model.attn.forward = recorder = Recorder(model.attn)
    with watched(model):
        model(X, X, X)
    next_tensors(daemon)
    assert model.attn.__dict__["forward"] is recorder and len(recorder.calls) == 1


def test_without_a_subscriber_the_original_call_is_untouched():
    model = Model()
    model.attn.forward = recorder = Recorder(model.attn)
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0) as it:
        model(X, X, X, need_weights=False)
        (query, need_weights, _), = recorder.calls
        assert query is X and need_weights is False
        assert it.stats()["sent"] == 0 and identity_holds(it.stats())


def test_copies_and_pickles_of_a_watched_model_are_free_of_it(watched):
    model = Model().eval()
    with watched(model):
        copied = copy.deepcopy(model)
        pickled = pickle.loads(pickle.dumps(model))
        torch.save(model, io.BytesIO())
    for other in (copied, pickled):
        assert same(other(X, X, X)[0], model(X, X, X)[0])
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(X, X, X)[0].any() and model(X, X, X)[0].any()
        assert not other.attn.forward(X, X, X)[0].any()
        copy.deepcopy(other)


def test_a_watch_lives_and_dies_with_its_model():
    model = Model()
    alive = weakref.ref(attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0))
    gc.collect()
    model(X, X, X)
    it = alive()
    assert it is not None and watches.innermost() is it
    sender = it.publisher._sender
    hooks = getattr(sys.modules["torch.optim.optimizer"], "_global_optimizer_post_hooks", None)
    before = len(hooks or ())
    del model, it
    gc.collect()
    assert alive() is None and not sender._thread.is_alive() and watches.innermost() is None
    assert hooks is None or len(hooks) == before - 1


@pytest.mark.parametrize("late", [False, True])
def test_what_was_opened_is_closed_when_watch_fails(monkeypatch, late):
    closed = []
    starter = types.SimpleNamespace(wait=lambda timeout: 0.0, say_next=str, close=lambda: closed.append("starter"))
    monkeypatch.setattr(attach, "starter_for", lambda *args: starter)
    if late:  # when hooks are in the model already
        monkeypatch.setattr(watches.Watch, "open", lambda self: 1 / 0)
    senders = {id(thread) for thread in threading.enumerate()}
    model = Model()
    with pytest.raises(ZeroDivisionError if late else ValueError):
        attnd.watch(model, job="job", endpoint=free_endpoint(), start="auto", wait=0, settings={} if late else 7)
    assert closed and set(closed) == {"starter"} and not model._forward_hooks
    assert [thread.name for thread in threading.enumerate() if id(thread) not in senders] == []


class SharedOut(torch.nn.Module):
    """Half of the heads that it states, over twice the positions that it is given, as Ulysses has it."""
    num_heads = 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(32, 64)
        self.outputs = []

    def forward(self, x):
        both = self.weight(x).view(1, 16, 8, 4, 2).unbind(-1)
        q, k = (torch.cat([one[:, :, :4], one[:, :, 4:]], 1).transpose(1, 2) for one in both)
        result = torch.softmax(q @ k.transpose(-1, -2), -1) @ k
        self.outputs.append(weakref.ref(result))
        return result


def test_heads_that_are_not_known_are_not_kept(daemon):
    model = torch.nn.ModuleDict({"self_attn": SharedOut()})
    module = model["self_attn"]
    with attnd.Publisher("job", daemon.endpoint, rank=0, world=2) as publisher:
        daemon.attach(publisher)
        with attnd.watch(model, "job", publisher=publisher, every=1, steps="manual", wait=30) as it:
            model.forward = lambda x: module(x)
            for _ in range(5):
                model(torch.rand(1, 16, 32)).sum().backward()
                it.step()
        assert not it.layers and "of its 8 heads" in str(it.forwards._shares._found)
    gc.collect()
    assert len(module.outputs) == 5 and not any(output() is not None for output in module.outputs)


def test_watching_again_closes_the_earlier_watch():
    model, endpoint = Model(), free_endpoint()
    first, other, again = (attnd.watch(model, job=job, endpoint=endpoint, wait=0) for job in ("job", "other", "job"))
    assert first.forwards.is_closed and not other.forwards.is_closed and watches.innermost() is again
    assert len(model._forward_hooks) == 2
    again.close()
    other.close()
    assert "_watched_by" not in vars(model)


# ------------------------------------------------------------------------- masks, lengths and flags

CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.arange(5)[None, :] >= torch.tensor([5, 3, 1])[:, None]


@pytest.fixture
def captured(daemon, watched):
    """captured(model, ...): what is sent of a call with these arguments."""
    def call(model, *args, options=None, **kwargs):
        with watched(model, **(options or {})):
            model(*args, **kwargs)
        return next_tensors(daemon)

    return call


@pytest.mark.parametrize("x, masks, said", [
    (X, {"attn_mask": CAUSAL}, {"causal": True}),
    (X, {"attn_mask": torch.zeros(5, 5).masked_fill(CAUSAL, -math.inf)}, {"causal": True}),
    (X, {"attn_mask": CAUSAL.repeat(3 * H, 1, 1)}, {"causal": True}),
    (X, {"attn_mask": CAUSAL, "key_padding_mask": PADDING}, {"causal": True, "q_len": [5, 3, 1], "k_len": [5, 3, 1]}),
    (X[0], {"attn_mask": CAUSAL, "key_padding_mask": PADDING[1]}, {"causal": True, "q_len": [3], "k_len": [3]})],
    ids=["causal", "added", "of each head", "right padding", "unbatched"])
def test_masks_become_flags_and_lengths(captured, x, masks, said):
    message = captured(Model(), x, x, x, **masks)
    assert {key: message[1][key] for key in ("causal", "q_len", "k_len") if key in message[1]} == said
    assert message[1]["tensors"][0]["shape"] == [3 if x is X else 1, H, 5, 5] and "mask" not in tensors_of(message)
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_cross_attention_has_key_lengths_only(captured):
    layers = {"attn": ("decoder", 2, "cross")}
    message = captured(Model(), X[:, :4], X, X, key_padding_mask=PADDING, options={"layers": layers})
    topic, header, _ = message
    assert topic == "tensor/job/decoder/2/cross/" and header["k_len"] == [5, 3, 1] and "q_len" not in header
    assert "causal" not in header and shape_of(message) == [3, H, 4, 5]


@pytest.mark.parametrize("attn", ["2d", "3d", None])
@pytest.mark.parametrize("padding", ["left", "right", "holes", None])
def test_every_combination_of_masks_matches_the_weights(captured, attn, padding):
    """torch gives ignored keys a weight of exactly 0: what we say is visible is what has weight."""
    generator = torch.Generator().manual_seed(3)
    attn = {"2d": torch.rand(5, 5, generator=generator) < 0.4,
            "3d": (torch.rand(3, 1, 5, 5, generator=generator) < 0.4).repeat(1, H, 1, 1).view(-1, 5, 5),
            None: None}[attn]
    padding = {"left": PADDING.flip(1), "right": PADDING, "holes": torch.rand(3, 5, generator=generator) < 0.3,
               None: None}[padding]
    message = captured(Model(), X, X, X, attn_mask=attn, key_padding_mask=padding)
    weights = weights_of(message)
    rows = np.isfinite(weights).all(axis=(1, 3))  # a row that sees nothing is NaN
    seen = visible(message)
    if padding is not None:  # a padded position asks nothing either
        rows &= ~padding.numpy()
        seen &= ~padding.numpy()[:, :, None]
    assert ((weights > 0).any(axis=1) == seen)[rows].all() and not seen[~rows].any()


def test_appended_keys(captured):
    message = captured(Model(add_bias_kv=True, add_zero_attn=True), X, X, X, attn_mask=CAUSAL)
    assert message[1]["tensors"][0]["shape"] == [3, H, 5, 7]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("attn", [CAUSAL, None])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_padded_queries_are_none_beside_keys_that_the_module_adds(captured, options, attn, side, need_weights):
    torch.manual_seed(0)
    model, padding = Model(**options), PADDING if side == "right" else PADDING.flip(1)
    message = captured(model, X, X, X, attn_mask=attn, key_padding_mask=padding, need_weights=need_weights)
    truth = model.double().attn(X.double(), X.double(), X.double(), attn_mask=attn, key_padding_mask=padding, average_attn_weights=False)[1]
    here = ~padding.numpy()[:, None, :, None]
    assert (visible(message).any(axis=2) == here[:, 0, :, 0]).all() and message[1].get("q_offset", 0) == 0
    np.testing.assert_allclose(np.where(here, weights_of(message), 0), np.where(here, truth.detach().numpy(), 0), atol=1e-6)


@pytest.mark.parametrize("dtype, name", [(torch.float64, "f64"), (torch.bfloat16, "bf16")])
def test_other_precisions_are_kept(captured, dtype, name):
    x = X.to(dtype)
    assert captured(Model().to(dtype), x, x, x)[1]["tensors"][0]["dtype"] == name


@needs_step_hooks
def test_a_causal_hint_that_lies_is_taken_as_torch_takes_it(captured):
    """Without weights torch believes the hint; what it computes is what is published."""
    torch.manual_seed(0)
    model = Model()
    message = captured(model, X, X, X, attn_mask=torch.zeros(5, 5, dtype=torch.bool), is_causal=True, need_weights=False)
    assert message[1]["causal"] is True
    truth = model.attn(X, X, X, attn_mask=CAUSAL, average_attn_weights=False)[1]
    np.testing.assert_allclose(weights_of(message), truth.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("tier", ["raw", "rows"])
def test_test_points_that_see_training_points_alone_count(need_weights, tier):
    """As in a PFN, whose mask is one for all samples."""
    x, mask, model = torch.rand(3, 24, D), torch.zeros(24, 24, dtype=torch.bool), Model()
    mask[:, 16:] = True
    with limited(b"accepts=attention,qk,rows,event") as (fake, publisher):
        with attnd.watch(model, job="job", publisher=publisher, tier=tier, samples=0):
            model(x, x, x, attn_mask=mask, need_weights=need_weights)
        message = next_tensors(fake)
    assert message[1].get("q_len") is None and (message[1]["type"] == "rows") == (tier == "rows")
    if tier == "rows":
        position, *_, valid, _ = np.broadcast_to(tensors_of(message)["places"], (8, 3, 24))
        assert (position == np.arange(24)).all() and valid.all()


# ------------------------------------------------------------------------------------- whole models

@pytest.mark.parametrize("epoch_end", [False, True])
def test_bye_tells_the_last_step_that_was_done(daemon, epoch_end):
    """Captured or not, so that a window of which no capture is missing is whole."""
    with attnd.watch(Model(), job="job", endpoint=daemon.endpoint, wait=0, every=10, steps="manual") as it:
        daemon.attach(it.publisher)
        for _ in range(15):
            it.step()
        if epoch_end:
            it.epoch_end()
    assert [(h["event"], h["step"]) for _, h, _ in daemon.until_bye()[-1:]] == [("bye", 14)]


def test_torch_transformer_layers_and_hello(daemon):
    model = torch.nn.Transformer(D, H, 2, 2, 16, dropout=0.0, batch_first=True)
    with daemon.publisher() as publisher:
        with attnd.watch(model, job="job", publisher=publisher, weights_every=0) as it:
            model(torch.rand(2, 6, D), torch.rand(2, 5, D), tgt_mask=CAUSAL)
            it.epoch_end()
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
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0.1) as it:
        model(X, X, X)
    assert it.stats()["sent"] == 0


def test_a_daemon_that_comes_later_is_found():
    endpoint, model = free_endpoint(), Model()
    with attnd.watch(model, job="job", endpoint=endpoint, wait=0) as it:
        model(X, X, X)
        it.step()
        fake = FakeDaemon(endpoint)
        fake.attach(it.publisher)
        it.step()
        model(X, X, X)
        assert fake.next()[1]["event"] == "hello"
        assert next_tensors(fake)[1]["step"] == 2


def test_only_the_wanted_layer_is_captured():
    fake = FakeDaemon(topics=(b"tensor/job/encoder/1/",))
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, H, 16, batch_first=True), 3)
    with fake.publisher() as publisher:
        with attnd.watch(model, job="job", publisher=publisher):
            model(torch.rand(2, 5, D))
        assert fake.next()[0] == "tensor/job/encoder/1/self/" and fake.receive(0.1) is None
        stats = publisher.stats()
        assert stats["sent"] == 1 and identity_holds(stats)


@pytest.mark.parametrize("layers, name", [(None, ("encoder", 0, "self")),
                                          ({"": ("encoder", 3, "self")}, ("encoder", 3, "self"))])
def test_a_model_that_is_itself_an_attention(daemon, watched, layers, name):
    model = MHA(D, H, batch_first=True)
    with watched(model, layers=layers) as it:
        model(X, X, X)
        it.step()
        model(X, X, X)
        assert it.layers == [name]
    assert steps_of(next_tensors(daemon) for _ in range(2)) == [0, 1]


@needs_step_hooks
def test_compiled_code_is_left_alone(watched):
    model = Model()
    expected = model(X, X, X, need_weights=False)[0]
    with watched(model) as it:
        compiled = torch.compile(model, backend="eager")
        assert same(compiled(X, X, X, need_weights=False)[0], expected)
    assert it.stats()["dropped"] == 0


@pytest.mark.skipif(not hasattr(getattr(torch, "compiler", None), "set_stance"), reason="needs torch 2.6")
def test_compiled_models_are_captured_eagerly_and_not_compiled_again(daemon, watched):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(Model(), backend=backend)
    it = watched(compiled, every=3, steps="manual")
    for _ in range(7):
        compiled(X, X, X)[0].sum().backward()
        it.step()
    assert steps_of(daemon.captured(it)) == [0, 3, 6]
    assert len(compilations) == 1


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_left_alone(watched):
    model = Model().requires_grad_(False)
    with watched(model) as it:
        torch.jit.trace(lambda y: model(y, y, y, need_weights=False)[0], X, check_trace=False)
        assert it.stats()["published"] == 1


def test_rows_travel_where_they_are_taken_and_nothing_needs_tensors():
    limits = b"limits/accepts=attention,qk,weights,event"
    for accepted, options, tier in ((b"", {"tier": "rows"}, "raw"), (b",rows", {"tier": "rows"}, "rows"), (b",rows", {}, "raw"),
                                    (b",rows", {"tier": "raw"}, "raw"), (b",rows", {"plan": b"rows"}, "rows"),
                                    (b",rows", {"plan": b"rows", "values": True}, "raw"), (b",state", {"tier": "rows"}, "raw")):
        fake = FakeDaemon(topics=(b"", limits + accepted, b"plan/1/job/every=1;tier=" + options.pop("plan", b"auto")))
        with fake.publisher() as publisher:
            wait_until(lambda: fake.serve() or len(publisher._sender.prefixes) == 3, "the subscriptions arrive")
            model = Model()
            with attnd.watch(model, job="job", publisher=publisher, **options):
                model(X, X, X)
            assert (next_tensors(fake)[1]["type"] == "rows") == (tier == "rows"), (accepted, options)


def test_rows_need_no_room_in_a_message_for_what_they_are_made_of():
    model, x = Model(), torch.rand(2, 500, D)
    with limited(b"accepts=attention,qk,rows,event;max_message=500000") as (fake, publisher):
        for tier in ("raw", "rows"):
            with attnd.watch(model, job="job", publisher=publisher, tier=tier):
                model(x, x, x)
            wait_until(lambda: publisher.stats()["queued"] == 0, "it is sent, or dropped")
            assert publisher.stats()["too_large"] == 1, tier
        assert next_tensors(fake)[1]["type"] == "rows"


# -------------------------------------------------------------------------------- errors, ours and theirs

@pytest.mark.parametrize("broken", ["wanted", "publish_later", "hello"])
def test_errors_in_our_code_never_reach_the_user(watched, monkeypatch, caplog, broken):
    model = Model()
    expected = model(X, X, X)
    it = watched(model)

    def fail(*args, **kwargs):
        raise RuntimeError("our own fault")

    monkeypatch.setattr(it.publisher, broken, fail)
    for _ in range(3):
        output, weights = model(X, X, X)
        assert same(output, expected[0]) and same(weights, expected[1])
    assert len(caplog.records) == 1 and "our own fault" in caplog.text


def test_a_broken_epoch_end_never_reaches_the_user(watched, monkeypatch, caplog):
    it = watched(Model())
    monkeypatch.setattr(it.publisher, "epoch_end", lambda *a: 1 / 0)
    it.epoch_end()
    assert it.epoch == 1 and len(caplog.records) == 1


def test_a_message_that_cannot_be_made_is_counted(watched, monkeypatch, caplog):
    monkeypatch.setattr(calls, "describe", lambda *a, **k: 1 / 0)
    model = Model()
    it = watched(model)
    for _ in range(2):
        model(X, X, X)
        it.step()
    assert it.publisher.drain(60) and it.stats()["dropped"] == 2 and identity_holds(it.stats())
    assert len(caplog.records) == 1


def test_the_users_own_errors_reach_the_user(watched):
    model = Model()
    watched(model)
    with pytest.raises((AssertionError, RuntimeError)):
        model(X, X, X, attn_mask=torch.zeros(7, 7))
    with pytest.raises(TypeError):
        model(X)
    with pytest.raises(TypeError):
        model(X, X, X, nonsense=1)
    model(X, X, X)


@pytest.mark.parametrize("window, own", [(None, None), (200, {"unit": "step", "length": 200}), ("epoch", {"unit": "epoch", "length": 1})])
def test_the_windows_that_a_job_asks_for_are_in_its_hello(daemon, window, own):
    with daemon.publisher() as publisher, attnd.watch(Model(), job="job", publisher=publisher, window=window):
        assert daemon.next()[1].get("own_window") == own


BAD = [*(({name: value}, None) for name, value in (
    ("every", -1), ("job", ""), ("layers", {"nowhere": ("decoder", 0, "self")}),
    ("stack", "middle"), ("rank", -1), ("world", 0), ("window", "auto"), ("window", 0))),
    ({"probe": torch.rand(1), "probe_every": 0}, None),
    *(({flag: value}, f"{flag} = .*: must be True(, False or None| or False)$")
      for flag in ("evaluation", "values", "gradients", "residual", "tokens", "passive")
      for value in ("no", "off", [], 5, 0, *[None] * (flag != "tokens"))),
    *(({name: value}, f"{name} = {value}: must be")
      for name, value in (("weights_every", True), ("weights_every", False), ("probe", 5), ("probe", True))),
    ({"tier": "device"}, "tier = 'device': must be one of auto, raw, rows"),
    ({"tier": "rows", "values": True, "residual": True}, "values and residual need tier 'raw'")]


@pytest.mark.parametrize("arguments, said", BAD)
def test_bad_arguments_are_value_errors(arguments, said):
    model, threads = Model(), threading.active_count()
    with pytest.raises(ValueError, match=said):
        attnd.watch(model, **{"job": "job", "endpoint": free_endpoint(), "wait": 0, **arguments})
    assert not model._forward_hooks and threading.active_count() == threads


def test_a_text_is_no_model():
    with pytest.raises(ValueError):
        attnd.watch("no model", job="job")


# ------------------------------------------------------------------------------------- ranks and runs

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


@pytest.fixture
def first_run(monkeypatch):
    """first_run(rank, world): the run that a new process names."""
    def name(rank, world):
        monkeypatch.setattr(ranks, "_runs_shared", 0)
        return ranks.shared_run(rank, world)

    return name


def test_another_launch_with_the_same_environment_is_another_run(first_run, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    first, other = first_run(1, 2), os.getppid() + 1
    monkeypatch.setattr(os, "getppid", lambda: other)
    assert first_run(1, 2) != first


def test_ranks_on_several_machines_are_told_to_name_their_run(first_run, monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    first = first_run(1, 2)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert first_run(1, 2) == first and "ATTND_RUN" in caplog.text


@pytest.mark.parametrize("world", [1, 2])
def test_the_environment_names_the_run_of_one_process_too(first_run, monkeypatch, world):
    monkeypatch.setenv("ATTND_RUN", "launch-42")
    first, second = first_run(0, world), ranks.shared_run(0, world)
    assert first and second and first != second  # watching again, after bye, is another run
    assert first_run(0, world) == first
    monkeypatch.setenv("ATTND_RUN", "launch-43")
    assert first_run(0, world) not in (first, second)
    monkeypatch.delenv("ATTND_RUN")
    assert ranks.shared_run(0, 1) is None


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_rank_and_run_come_from_torch_distributed():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert ranks.rank_and_world(None, None) == (0, 1)
        assert ranks._run_from_store(0) == ranks._run_from_store(1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_forked_child_trains_on_untouched(daemon, watched):
    model = Model()
    torch.set_num_threads(1)
    with watched(model) as it:
        child = os.fork()
        if child == 0:
            model(X, X, X)
            it.step()
            model(X, X, X)
            it.close()
            os._exit(0 if it.stats()["published"] == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        model(X, X, X)
    next_tensors(daemon)


def test_nested_watches_of_two_models_share_a_publisher(daemon):
    first, second = Model(), Model()
    with daemon.publisher() as publisher:
        with attnd.watch(first, job="job", publisher=publisher, stack="decoder"):
            with attnd.watch(second, job="job", publisher=publisher):
                first(X, X, X)
                second(X, X, X)
        assert publisher.stats()["subscribed"]
    assert [h["stack"] for h in tensor_headers(daemon.until_bye())] == ["decoder", "encoder"]


def test_two_watches_of_one_model_both_see_it(daemon):
    model = Model()
    with daemon.publisher() as publisher:
        with attnd.watch(model, job="job", publisher=publisher, stack="decoder") as outer:
            with attnd.watch(model, job="job", publisher=publisher) as inner:
                for _ in range(2):
                    model(X, X, X)
                    outer.step()
                    inner.step()
        model(X, X, X)
    got = [(h["step"], h["stack"]) for h in tensor_headers(daemon.until_bye())]
    assert sorted(got) == [(0, "decoder"), (0, "encoder"), (1, "decoder"), (1, "encoder")]
    assert torch._C._len_torch_function_stack() == 0
