# SPDX-License-Identifier: MIT
"""What nobody would wish for: models without attention, unknown kernels, odd masks, exceptions, copies, threads. The
training never sees an exception of attnd, nor keeps anything of it."""
import copy
import importlib
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.0")
import torch.nn.functional as F  # noqa: E402
from expected import Attended  # noqa: E402
from harness import PATIENCE_S  # noqa: E402
from installed import in_model, in_torch  # noqa: E402
from session import (Session, assert_captured, assert_right, expected_of, of_attention, said,  # noqa: E402
                     snapshot, train)
from torch import nn  # noqa: E402
from zoo import (BATCH, HEADS, LENGTH, LENGTHS, WIDTH, Kind, causal_attended, decoder_kind, decoder_reference,  # noqa: E402
                 eager, fused, generator, multihead_kind, next_token_loss, products, right_padding, seeded, softmax,
                 split, transformer_kind)

pytest_plugins = ("one_daemon",)
KIND = decoder_kind("sdpa", fused)


@pytest.fixture(autouse=True)
def nothing_stays():
    """After every test torch is as it was."""
    yield
    assert in_torch() == []


def train_alone(model, loss, steps=3):
    """Losses of a training by something else than a Kind."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for step in range(steps):
        value = loss(model, step)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.detach())
    return losses


def assert_only_warned(stepwise, caplog, build, loss, *words):
    """Trains as without attnd, nothing is published, and one warning has these words."""
    expected, model = train_alone(build(), loss), build()
    with Session(stepwise) as session:
        session.watch(model)
        losses = train_alone(model, loss)
    assert all(map(torch.equal, losses, expected))
    assert session.summaries() == {} and in_model(model) == []
    message, = said(caplog)
    assert all(word in message for word in words), message


# ------------------------------------------------------------------------------------- nothing to be seen

def test_a_model_without_attention_is_told_once(stepwise, caplog):
    build = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(-1)))
    assert_only_warned(stepwise, caplog, build, lambda model, step: model(
        torch.randn(5, 8, generator=generator(step))).square().mean(), "no attention", "publish_")


class OwnKernel(torch.autograd.Function):
    """Attention by a kernel of its own: nothing of it is seen outside."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return torch.baddbmm(v * 0, torch.exp(q @ k.mT) / torch.exp(q @ k.mT).sum(-1, keepdim=True), v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        return grad, grad, grad


class FlashAttention(nn.Module):
    """Calls it directly."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        return OwnKernel.apply(*self.qkv(x).chunk(3, -1))


def test_an_unknown_kernel_is_named_with_what_to_do(stepwise, caplog):
    build = seeded(lambda: nn.ModuleDict({"mixer": FlashAttention()}))
    assert_only_warned(stepwise, caplog, build, lambda model, step: model["mixer"](
        torch.randn(BATCH, 6, WIDTH, generator=generator(step))).square().mean(), "mixer", "publish_qk")


# ------------------------------------------------------------------------------------------------ odd masks

class Masked(nn.Module):
    """Fused attention with whatever mask comes."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x, mask=None, causal=False, scale=None):
        q, k, v = (part.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
PADDED = torch.from_numpy(right_padding())
BAND = CAUSAL & ~CAUSAL.tril(-5)
RANDOM = torch.rand(BATCH, HEADS, LENGTH, LENGTH, generator=generator(0)) < 0.4
DISTANCE = torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None] * DISTANCE


def added(allowed, ignored):
    """A float mask."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, ignored)


# name: mask, what the header says besides the weights themselves
MASKS = {
    "none": (None, {}),
    "bool-causal": (CAUSAL, {"causal": True}),
    "bool-causal-4d": (CAUSAL[None, None], {"causal": True}),
    "bool-per-sample": ((CAUSAL & PADDED[:, None, :])[:, None], {"causal": True, "q_len": LENGTHS, "k_len": LENGTHS}),
    "bool-broadcast-keys": (PADDED[:, None, None, :], {"q_len": LENGTHS, "k_len": LENGTHS}),
    "bool-one-for-all": (RANDOM[0, 0], {"mask": RANDOM[:1, 0].expand(BATCH, -1, -1)}),
    "bool-per-head": (RANDOM, {"mask": RANDOM.any(1)}),
    "window": (BAND, {"mask": BAND[None].expand(BATCH, -1, -1)}),
    "float-minus-infinity": (added(CAUSAL, -torch.inf), {"causal": True}),
    "float-lowest": (added(CAUSAL, torch.finfo(torch.float32).min), {"causal": True}),
    "float-minus-10000": (added(CAUSAL, -1e4), {"causal": True}),
    "float-bias-per-head": (SLOPES[None], {}),
    "float-bias-and-causal": (SLOPES[None] + added(CAUSAL, -torch.inf), {"causal": True}),
    "float-bias-for-all-heads": (SLOPES[0], {}),
    "float-zero": (torch.zeros(1, 1, LENGTH, LENGTH), {}),
    "rows-that-see-nothing": (CAUSAL & (torch.arange(LENGTH) != 0), {"mask": "as given", "empty": [0]}),
}


def x_batch(step):
    return {"x": torch.randn(BATCH, LENGTH, WIDTH, generator=generator(step))}


def masked_kind(name, mask, header, **call):
    """A Masked with this mask."""
    build = seeded(Masked)

    def reference(state, batch):
        q, k = (split(part, HEADS) for part in F.linear(batch["x"].double(), state["qkv.weight"].double(),
                                                        state["qkv.bias"].double()).chunk(3, -1)[:2])
        return {("decoder", 0, "self"): attended_under(mask, header, products(q, k, call.get("scale")))}

    return Kind(name, build, x_batch, lambda model, batch: model(**batch, mask=mask, **call).square().nansum(), reference,
                ("qk", "attention"))


def attended_under(mask, header, logits):
    """By the definition: the mask ignores keys, or is added."""
    header = dict(header)
    seen = None
    if mask is not None and mask.dtype == torch.bool:
        seen = np.broadcast_to(mask.numpy(), logits.shape)
    elif mask is not None:
        logits = logits + np.maximum(mask.double().numpy(), -1e30)
    if header.pop("empty", None) is not None:
        header["mask"] = torch.broadcast_to(mask, (BATCH, LENGTH, LENGTH))
    lengths = {name: list(header.pop(name)) for name in ("q_len", "k_len") if name in header}
    if "mask" in header:
        header["mask"] = header["mask"].numpy()
    return Attended(softmax(logits, seen), logits, **header, **lengths)


class Grouped(nn.Module):
    """Four heads that share two key heads."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q = self.q(x).view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)
        k, v = (part.view(*x.shape[:2], 2, WIDTH // HEADS).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class Plain(nn.Module):
    """One head, without an axis for it."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), *self.kv(x).chunk(2, -1))


def two_projections_kind(make, q_heads, kv_heads):
    """Of one of these."""
    build = seeded(make)

    def reference(state, batch):
        q, kv = (F.linear(batch["x"].double(), state[f"{name}.weight"].double(), state[f"{name}.bias"].double())
                 for name in ("q", "kv"))
        logits = products(split(q, q_heads), split(kv.chunk(2, -1)[0], kv_heads))
        return {("decoder", 0, "self"): Attended(softmax(logits, None), logits)}

    return Kind(make.__name__, build, x_batch, lambda model, batch: model(**batch).square().mean(), reference)


def shared_kind():
    """Three layers of one module, which are several all the same."""
    def share(model):
        model.blocks = nn.ModuleList([model.blocks[0]] * 3)
        return model

    def reference(state, batch):
        model = share(KIND.build())
        model.load_state_dict(state)
        made = []
        model.double().blocks[0].attn.qkv.register_forward_hook(lambda module, args, output: made.append(output))
        model(batch["tokens"])
        return {("decoder", i, "self"): causal_attended(*(split(part, HEADS) for part in qkv.chunk(3, -1)[:2]))
                for i, qkv in enumerate(made)}

    return Kind("shared", lambda: share(KIND.build()), KIND.batch, KIND.loss, reference)


ODD = [*(masked_kind(name, mask, header) for name, (mask, header) in MASKS.items()), masked_kind("scale", None, {}, scale=0.5),
       two_projections_kind(Grouped, HEADS, 2), two_projections_kind(Plain, 1, 1), shared_kind()]


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.name)
def test_attention_of_every_kind_is_understood(stepwise, kind):
    assert_captured(stepwise, kind, stack="decoder")


# ------------------------------------------------------------------------------------------ shapes and dtypes

@pytest.mark.parametrize("shape", [(BATCH, 0), (0, LENGTH), (0, 0)])
def test_empty_inputs_publish_nothing_and_hurt_nothing(stepwise, shape, caplog):
    model = KIND.build()
    with Session(stepwise) as session:
        session.watch(model)
        model(torch.zeros(shape, dtype=torch.long)).sum().backward()
        trained = list(train(model, KIND, 1))
    assert_right("empty", session.summaries(), expected_of(KIND, trained))
    assert said(caplog) == []


def test_a_sequence_of_one(stepwise):
    model = KIND.build()
    with Session(stepwise) as session:
        session.watch(model)
        model(torch.zeros(BATCH, 1, dtype=torch.long)).sum().backward()
    summaries = session.summaries()
    assert len(summaries) == 3
    for summary in summaries.values():
        heads = summary["heads"]
        assert heads["entropy"]["max"] == [0] * HEADS and heads["confidence"]["min"] == [1] * HEADS


def test_a_model_that_changes_its_dtype(stepwise):
    """Step by step in float32, float64 and bfloat16; what was captured is what the kernel got."""
    sent, references, model = [], {}, KIND.build()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual",
                              on_publish=of_attention(lambda message: sent.append(message.keys.get("tensors"))))
        for step, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16)):
            model.to(dtype)
            KIND.loss(model, KIND.batch(step)).backward()
            watch.step()
            model.zero_grad()
            same = KIND.build()
            same.load_state_dict(model.state_dict())
            references.update({(step, layer): [attended] for layer, attended in
                               decoder_reference(same.to(dtype), KIND.batch(step)).items()})
    assert_right("dtypes", session.summaries(), references)
    assert [tensors[0]["dtype"] for tensors in sent if tensors] == ["f32"] * 3 + ["f64"] * 3 + ["bf16"] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator to move to")
def test_a_model_that_moves_between_devices(stepwise):
    model, trained = KIND.build(), []
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual")
        for step, device in enumerate(("cpu", "cuda", "cpu")):
            model.to(device)
            state = {name: value.cpu() for name, value in snapshot(model).items()}
            trained.append((step, [KIND.batch(step)], state))
            next_token_loss(model, {"tokens": KIND.batch(step)["tokens"].to(device)}).backward()
            watch.step()
    assert_right("devices", session.summaries(), expected_of(KIND, trained))


# ----------------------------------------------------------------------------------------------- two watches

def test_two_watches_on_one_model_both_get_everything(stepwise):
    model = KIND.build()
    with Session(stepwise) as first, Session(stepwise) as second:
        first.watch(model)
        second.watch(model, every=2)
        trained = list(train(model, KIND, 3))
    assert_right("first", first.summaries(), expected_of(KIND, trained))
    assert_right("second", second.summaries(), expected_of(KIND, trained[::2]))
    assert in_model(model) == []


def test_watches_that_end_in_the_order_they_began(stepwise):
    importlib.import_module("torch._dynamo")  # from now on something may be compiled
    model = KIND.build()
    first, second = Session(stepwise), Session(stepwise)
    first.watch(model)
    second.watch(model)
    trained = list(train(model, KIND, 1))
    assert_right("first", first.summaries(), expected_of(KIND, trained))
    more = [(step + 1, *rest) for step, *rest in train(model, KIND, 1)]
    assert_right("second", second.summaries(), expected_of(KIND, trained + more))


def test_of_two_models_each_has_its_own(stepwise):
    """One runs within the other's step, and a third, which nobody watches, besides."""
    model, other, third = KIND.build(), decoder_kind("other", fused, layers=1).build(), KIND.build()
    with Session(stepwise) as first, Session(stepwise) as second:
        first.watch(model, steps="manual")
        second.watch(other, steps="manual")
        for one in (third, model, other, third):
            one(KIND.batch(0)["tokens"]).sum().backward()
    assert sorted(first.summaries()) == [(0, ("decoder", i, "self")) for i in range(3)]
    assert list(second.summaries()) == [(0, ("decoder", 0, "self"))]


# ------------------------------------------------------------------------------------------------ exceptions

class Oops(Exception):
    """The user's own."""


def fail(*args):
    raise Oops("in the model")


@pytest.mark.parametrize("where", ["blocks.0", "blocks.1.attn", "blocks.2.attn.out", ""])
def test_the_users_exception_is_the_users(stepwise, where):
    model = KIND.build()
    with Session(stepwise) as session:
        session.watch(model)
        handle = model.get_submodule(where).register_forward_pre_hook(fail)
        with pytest.raises(Oops, match="^in the model$"):
            KIND.loss(model, KIND.batch(5))
        handle.remove()
        assert torch._C._len_torch_function_stack() == 0
        trained = list(train(model, KIND, 2))
    summaries = session.summaries()
    # The part that had run before it died was attention all the same.
    wanted = expected_of(KIND, trained)
    whole = {key: summary for key, summary in summaries.items() if summary["messages"] == 1}
    assert sorted(summaries) == sorted(wanted)
    assert_right("after an exception", whole, {key: wanted[key] for key in whole})
    assert in_model(model) == [] and len(whole) >= 3


def test_errors_of_bad_calls_are_torchs_own(stepwise):
    model = Masked()
    x, mask = torch.randn(2, 5, WIDTH), torch.ones(3, 7, dtype=torch.bool)
    with pytest.raises(RuntimeError) as unwatched:
        model(x, mask=mask)
    with Session(stepwise) as session:
        session.watch(model)
        with pytest.raises(RuntimeError) as watched:
            model(x, mask=mask)
    assert str(watched.value) == str(unwatched.value)


def test_a_broken_publisher_never_reaches_the_training(stepwise, monkeypatch, caplog):
    expected, model = [state for _, _, state in train(KIND.build(), KIND, 3)], KIND.build()
    with Session(stepwise) as session:
        watch = session.watch(model)
        for name in ("publish_later", "plan_with", "wanted"):
            monkeypatch.setattr(watch.publisher, name, lambda *a, **k: 1 / 0)
        states = [state for _, _, state in train(model, KIND, 3)]
    assert all(torch.equal(state[name], other[name]) for state, other in zip(states, expected) for name in state)
    assert len(said(caplog)) == 1 and in_model(model) == []


def in_thread(function):
    """Runs it in another thread; its exception is raised here."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:  # noqa: B036
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("by", [lambda close: close(), in_thread], ids=["itself", "another thread"])
@pytest.mark.parametrize("where", ["blocks.1", "blocks.1.attn", "head"])
def test_closed_in_the_middle_of_a_forward(stepwise, where, by):
    expected, model = KIND.loss(KIND.build(), KIND.batch(0)), KIND.build()
    with Session(stepwise) as session:
        watch = session.watch(model)
        handle = model.get_submodule(where).register_forward_pre_hook(lambda *args: by(watch.close))
        loss = KIND.loss(model, KIND.batch(0))
        handle.remove()
        loss.backward()
    assert torch.equal(loss, expected) and in_model(model) == []
    assert in_torch() == []


# ------------------------------------------------------------------------------------------ copies and pickles

def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("kind", [KIND, multihead_kind("nn.MultiheadAttention", need_weights=True),
                                  transformer_kind()], ids=lambda kind: kind.name)
def test_copies_of_a_watched_model_are_models(stepwise, kind, duplicate):
    """They train by themselves and publish nothing; the watched one goes on."""
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model)
        twin = duplicate(model)
        list(train(twin, kind, 2))
        trained = list(train(model, kind, 2))
    assert_right("copied", session.summaries(), expected_of(kind, trained), kind.tiers)
    list(train(duplicate(model), kind, 1))
    assert in_model(model) == []


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy], ids=["itself", "a copy"])
def test_a_saved_model_does_not_need_attnd(stepwise, copied):
    model = nn.TransformerEncoderLayer(WIDTH, HEADS, 16)
    with Session(stepwise) as session:
        session.watch(model)
        assert b"attnd" not in pickle.dumps(copied(model))


def test_a_copy_made_within_a_forward(stepwise):
    model, copies = KIND.build(), []
    with Session(stepwise) as session:
        session.watch(model)
        handle = model.blocks[1].register_forward_pre_hook(lambda *args: copies.append(copy.deepcopy(model.blocks[0])))
        trained = list(train(model, KIND, 1))
        handle.remove()
        copies[0](torch.randn(2, 5, WIDTH)).sum().backward()
    assert_right("copied", session.summaries(), expected_of(KIND, trained))


# ---------------------------------------------------------------------------------------------------- threads

def of_another_in_a_thread(model):
    in_thread(lambda: KIND.loss(KIND.build(), KIND.batch(3)).backward())


def of_the_same_in_a_thread(model):
    """What two threads do at once with one model is not taken apart: one of them is captured, whole."""
    in_thread(lambda: KIND.loss(model, KIND.batch(3)).backward())


@pytest.mark.parametrize("forward", [of_another_in_a_thread, of_the_same_in_a_thread])
def test_a_forward_within_that_of_the_model_is_not_captured(stepwise, caplog, forward):
    model, within = KIND.build(), []

    def begins(*args):
        if not within:
            within.append(forward)
            forward(model)
            within.clear()

    handle = model.blocks[1].register_forward_pre_hook(begins)
    assert_captured(stepwise, KIND, model, forward.__name__)
    handle.remove()
    assert said(caplog) == [] and in_model(model) == []


def test_training_in_a_thread_that_did_not_watch(stepwise):
    model, trained = KIND.build(), []
    with Session(stepwise) as session:
        session.watch(model)
        in_thread(lambda: trained.extend(train(model, KIND, 2)))
    assert_right("trained in a thread", session.summaries(), expected_of(KIND, trained))


THREADS = [decoder_kind("sdpa", fused), decoder_kind("eager", eager, ("attention",)), transformer_kind(),
           multihead_kind("nn.MultiheadAttention", need_weights=True)]


def test_several_models_in_several_threads(stepwise):
    sessions = [Session(stepwise) for _ in THREADS]

    def work(kind, session):
        model = kind.build()
        session.watch(model)
        return list(train(model, kind, 8))

    with ThreadPoolExecutor(len(THREADS)) as pool:
        trained = list(pool.map(work, THREADS, sessions, timeout=PATIENCE_S))
    for kind, session, steps in zip(THREADS, sessions, trained):
        assert_right(f"{kind.name}-thread", session.summaries(), expected_of(kind, steps), kind.tiers)


# --------------------------------------------------------------------------- kernels of transformers, checkpointed

def test_checkpointing_does_not_notice_that_a_kernel_is_looked_at(stepwise):
    """A kernel that is registered with transformers; T5 has a learned bias of positions."""
    kind = pytest.importorskip("zoo_transformers").transformers_kind("t5", "own-kernel")

    def build():
        model = kind.build()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def loss(model, step):
        return kind.loss(model, kind.batch(step))

    expected, model = train_alone(build(), loss), build()
    with Session(stepwise) as session:
        watch = session.watch(model)
        losses = train_alone(model, loss)
    assert all(map(torch.equal, losses, expected))
    assert len(watch.layers) == 6 and len(session.summaries()) == 3 * 6
