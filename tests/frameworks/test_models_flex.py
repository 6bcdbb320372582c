# SPDX-License-Identifier: MIT
"""Flex attention, compiled or not: what its mask_mod and score_mod do arrives as what they did, compared with float64;
what the model computes stays as it is, bit for bit, and nothing is compiled again.

On the CPU flex attention has no backward pass, so the models here run in training mode without gradients."""
import inspect
import shutil
import threading
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.6")
flex = pytest.importorskip("torch.nn.attention.flex_attention")
from attnd.capture import origins  # noqa: E402
from attnd.forms import flex as of_attnd, mods  # noqa: E402
from attnd.forms.spy import Spy  # noqa: E402
from expected import Attended  # noqa: E402
from installed import in_model, in_torch  # noqa: E402
from session import Session, assert_right, said, wait_until  # noqa: E402
from torch import nn  # noqa: E402
from zoo import generator, products, seeded, softmax, triangle  # noqa: E402

pytest_plugins = ("one_daemon",)
pytestmark = pytest.mark.filterwarnings("ignore")
# Heads are 32 wide: of narrower ones torch 2.13 compiles wrong numbers for a CPU with AVX2 and blocks of 8 keys, without attnd as well.
BATCH, LENGTH, WIDTH, HEADS, KEY_HEADS, LAYERS = 2, 24, 128, 4, 2, 2
flex_attention, OWN_CODE = flex.flex_attention, flex.flex_attention.__code__

I, J = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None]
DOCUMENTS = torch.arange(LENGTH) // 10
SLOPES = 2.0**-torch.arange(1, HEADS + 1)
TABLE = torch.randn(BATCH, HEADS, 2 * LENGTH, generator=generator(1))
LENGTHS = torch.tensor([LENGTH, 15])


@pytest.fixture(autouse=True)
def nothing_stays():
    """After every test torch is as it was."""
    torch._dynamo.reset()
    mods._biased.clear()
    yield
    assert in_torch() == [] and flex_attention.__code__ is OWN_CODE


class Case(NamedTuple):
    """Arguments of flex attention and what they do to logits, in numpy. `tier`: how it travels."""
    options: Callable[[], Any]
    allowed: Any = True
    changed: Callable[[np.ndarray], np.ndarray] = lambda logits: logits
    tier: str = "qk"
    causal: bool = False
    scale: Optional[float] = None
    lengths: Any = None


def block_mask(mask_mod, batch=None, heads=None):
    return flex.create_block_mask(mask_mod, batch, heads, LENGTH, LENGTH, device="cpu", BLOCK_SIZE=8)


def causal(b, h, i, j):
    return i >= j


def hides(score, b, h, i, j):
    return torch.where(i >= j, score, -torch.inf)


def caps(score, b, h, i, j):
    return 2.0 * torch.tanh(score / 2.0)


OF_DOCUMENT = (DOCUMENTS[:, None] == DOCUMENTS[None]).numpy()
OF_SAMPLE = (J < LENGTHS.numpy()[:, None, None])[:, None]
PER_HEAD = np.stack([(I >= J) & (I - J < 3 + h) for h in range(HEADS)])[None]
DISTANCES = TABLE.numpy()[:, :, (I - J) % (2 * LENGTH)]

CASES = {
    "nothing": Case(dict),
    "scale": Case(lambda: {"scale": 0.5}, scale=0.5),
    "causal": Case(lambda: {"block_mask": block_mask(causal)}, I >= J, causal=True),
    "documents": Case(lambda: {"block_mask": block_mask(lambda b, h, i, j: (DOCUMENTS[i] == DOCUMENTS[j]) & (i >= j))},
                      OF_DOCUMENT & (I >= J)),
    "window": Case(lambda: {"block_mask": block_mask(lambda b, h, i, j: (i - j < 5) & (i >= j))},
                   (I - J < 5) & (I >= J)),
    "samples": Case(lambda: {"block_mask": block_mask(lambda b, h, i, j: (j < LENGTHS[b]) & (j <= i), BATCH)},
                    OF_SAMPLE & (I >= J), causal=True, lengths=LENGTHS.tolist()),
    "mask by head": Case(lambda: {"block_mask": block_mask(lambda b, h, i, j: (i >= j) & (i - j < 3 + h), None, HEADS)},
                         PER_HEAD, tier="attention"),
    "identity": Case(lambda: {"score_mod": lambda score, b, h, i, j: score, "block_mask": block_mask(causal)}, I >= J,
                     causal=True),
    "score_mod that hides": Case(lambda: {"score_mod": hides}, I >= J, causal=True),
    "and one that shows": Case(lambda: {"score_mod": lambda s, b, h, i, j: s * 1, "block_mask": block_mask(causal)},
                               I >= J, causal=True),
    "alibi": Case(lambda: {"score_mod": lambda s, b, h, i, j: s - SLOPES[h] * (i - j),
                           "block_mask": block_mask(causal)},
                  I >= J, lambda x: x - SLOPES.double().numpy()[:, None, None] * (I - J), "attention"),
    "table": Case(lambda: {"score_mod": lambda s, b, h, i, j: s + TABLE[b, h, (i - j) % (2 * LENGTH)]}, True,
                  lambda x: x + DISTANCES, "attention"),
    "softcap": Case(lambda: {"score_mod": caps, "block_mask": block_mask(causal)}, I >= J,
                    lambda x: 2 * np.tanh(x / 2), "attention"),
}


class Layer(nn.Module):
    """Attention by a kernel that was bound when the model was made."""

    def __init__(self, kernel):
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, WIDTH)
        self.kernel = kernel

    def forward(self, x, options):
        q, kv = (f(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for f in (self.q, self.kv))
        out = self.kernel(q, *kv.chunk(2, 1), enable_gqa=True, **options)
        out = out[0] if isinstance(out, tuple) else out
        return x + out.transpose(1, 2).flatten(2)


class Decoder(nn.Module):
    """Layers of them."""

    def __init__(self, kernel):
        super().__init__()
        self.layers = nn.ModuleList(Layer(kernel) for _ in range(LAYERS))

    def forward(self, x, options):
        for layer in self.layers:
            x = layer(x, options)
        return x


def made(kernel):
    return seeded(lambda: Decoder(kernel))()


def inputs(step=0):
    return 0.5 * torch.randn(BATCH, LENGTH, WIDTH, generator=generator(step))


def reference(case, x):
    """{layer: what it attends to}, in float64 by the definition."""
    found = []

    def kernel(q, k, v, enable_gqa, **options):
        logits = case.changed(products(q.numpy(), k.numpy(), case.scale))
        allowed = np.broadcast_to(case.allowed, logits.shape)
        weights = softmax(logits, allowed)
        mask = allowed.any(1)
        found.append(Attended(weights, logits, "self", case.causal, case.lengths, case.lengths,
                              None if case.causal or mask.all() else mask))
        return torch.from_numpy(weights) @ v.repeat_interleave(HEADS // KEY_HEADS, 1)

    with torch.no_grad():
        made(kernel).double()(x.double(), {})
    return {("decoder", i, "self"): [attended] for i, attended in enumerate(found)}


def graphs():
    """How many have been compiled."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


WAYS = {  # in which models call it: the kernel, and what has to be called then
    "eager": lambda: (flex_attention, lambda model: model),
    "compiled": lambda: (torch.compile(flex_attention, backend="eager"), lambda model: model),
    "within a compiled model": lambda: (flex_attention, lambda model: torch.compile(model, backend="eager"))}


@torch.no_grad()
def captured(stepwise, way, options, steps=1, **watched):
    """The summaries of some steps of a model that has run before. It computes what it computes without attnd, and
    what was compiled for that is all."""
    kernel, wrap = WAYS[way]()
    model = made(kernel)
    outer = wrap(model)
    expected = [outer(inputs(step), options) for step in range(steps)]
    before = graphs()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", evaluation=True, stack="decoder", **watched)
        for step in range(steps):
            assert torch.equal(outer(inputs(step), options), expected[step])
            watch.step()
        assert graphs() == before or outer is not model
    outer(inputs(), options)
    assert in_model(model) == [] and (graphs() == before or outer is not model)
    return session.summaries()


def assert_captured(stepwise, name, way="eager", travels_as="", options=None, **watched):
    """One step of a case, by the definition."""
    case = CASES[name]
    summaries = captured(stepwise, way, options or case.options(), **watched)
    expected = {(0, layer): attended for layer, attended in reference(case, inputs()).items()}
    assert_right(f"flex-{name}-{way}", summaries, expected, (travels_as or case.tier,))


@pytest.mark.parametrize("tier", ["raw", "rows"])
@pytest.mark.parametrize("name", CASES)
def test_flex_attention_is_captured(stepwise, name, tier, caplog):
    assert_captured(stepwise, name, "eager", CASES[name].tier if tier == "raw" else tier, tier=tier)
    assert not said(caplog)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"mask by head"}))  # which needs the kernel: device_kernel.py
def test_on_an_accelerator_it_is_captured_there_whatever_its_functions_do(stepwise, name, monkeypatch, caplog):
    monkeypatch.setattr(origins, "computes", lambda device: True)
    monkeypatch.setattr(mods.ScoreMod, "biased", None)  # asking for an answer would wait for the device
    assert_captured(stepwise, name, travels_as="rows")
    assert not said(caplog)


def test_a_score_mod_takes_so_many_rows_there_as_make_a_bounded_number_of_logits(stepwise, monkeypatch):
    monkeypatch.setattr(origins, "computes", lambda device: True)
    for most in ("MADE_MAX", "MADE_WHOLE_MAX"):
        monkeypatch.setattr(origins, most, 6 * HEADS * LENGTH)
    summaries = captured(stepwise, "eager", CASES["alibi"].options(), steps=2)
    assert len(summaries) == 2 * LAYERS
    assert {(found["tier"], found["rows"], found["rows_of"]) for found in summaries.values()} == {("rows", HEADS * 6, HEADS * BATCH * LENGTH)}  # 3 of each sample


@pytest.mark.parametrize("way", ["compiled", "within a compiled model"])
@pytest.mark.parametrize("name", ["causal", "documents", "score_mod that hides", "alibi"])
def test_compiled_flex_attention_is_captured_and_runs_as_it_is_compiled(stepwise, name, way, caplog):
    assert_captured(stepwise, name, way)
    assert not said(caplog)


@pytest.mark.parametrize("name", [name for name in ("return_lse", "return_aux")
                                  if name in inspect.signature(flex_attention).parameters])
def test_what_it_returns_besides_does_no_harm(stepwise, name):
    options = {"return_lse": True} if name == "return_lse" else {"return_aux": flex.AuxRequest(lse=True)}
    assert_captured(stepwise, "nothing", options=options)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@torch.no_grad()
def test_a_compiled_kernel_attends_within_its_blocks(stepwise):
    """A BlockMask without a mask_mod: eager code would ignore it. This one test compiles by inductor."""
    count, chosen = torch.tensor([[[1, 2]]], dtype=torch.int32), torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.int32)
    options = {"block_mask": flex.BlockMask.from_kv_blocks(count, chosen, BLOCK_SIZE=128)}
    x = 0.5 * torch.randn(1, 256, WIDTH, generator=generator(2))
    case = Case(dict, np.kron(triangle(2), np.ones((128, 128), bool)))
    model = made(torch.compile(flex_attention))
    output, before = model(x, options), graphs()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", evaluation=True)
        assert torch.equal(model(x, options), output) and graphs() == before
        watch.step()
    expected = {(0, ("encoder", *layer[1:])): attended for layer, attended in reference(case, x).items()}  # most see the next
    assert_right("flex-blocks", session.summaries(), expected)


# ------------------------------------------------------------------------------- a model that only names it

compiled_flex = torch.compile(flex_attention, backend="eager")


class Naming(nn.Module):
    """Has a branch for it that is not taken."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.attend = compiled_flex
        self.flexible = False

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.attn(x).chunk(3, -1))
        attend = compiled_flex if self.flexible else nn.functional.scaled_dot_product_attention
        return attend(q, k, v)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_model_that_only_names_it_is_captured(stepwise, is_compiled, caplog):
    model = seeded(Naming)()
    outer = torch.compile(model, backend="eager") if is_compiled else model
    with torch.no_grad(), Session(stepwise) as session:
        watch = session.watch(model, steps="manual", evaluation=True)
        for step in range(2):
            outer(inputs(step))
            watch.step()
    assert sorted(step for step, _ in session.summaries()) == [0, 1] and not said(caplog)


@pytest.mark.parametrize("name", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_transformers_with_flex_attention_is_captured_like_with_sdpa(stepwise, monkeypatch, name, is_compiled, caplog):
    pytest.importorskip("transformers")
    from transformers.integrations import flex_attention as of_transformers
    from zoo_transformers import builder, plain_batch
    from zoo_transformers import reference as of_model
    # It compiles flex attention by inductor, for a minute; what is captured does not depend on that.
    compiled = torch.compile(flex_attention, backend="eager")
    monkeypatch.setattr(of_transformers, "WrappedFlexAttention", lambda training: lambda: compiled)
    model, batch = builder("llama", name)(), plain_batch(0)
    outer = torch.compile(model, backend="eager") if is_compiled else model
    with torch.no_grad():
        loss = outer(**batch).loss
        with Session(stepwise) as session:
            watch = session.watch(model, steps="manual", evaluation=True)
            assert torch.equal(outer(**batch).loss, loss)
            watch.step()
    expected = {(0, layer): [attended] for layer, attended in of_model("llama", model.state_dict(), batch).items()}
    assert_right(f"llama-{name}", session.summaries(), expected, ("qk",))
    assert not said(caplog)


# -------------------------------------------------------------------------------------------------- failures

def raises_by_itself(score, b, h, i, j):
    """Fine where torch traces it, and not where it is called."""
    if not torch.compiler.is_compiling():
        raise ZeroDivisionError("no good")
    return score + 1


def test_a_score_mod_that_raises_is_said_once_with_its_module(stepwise, caplog):
    assert captured(stepwise, "compiled", {"score_mod": raises_by_itself}, steps=3) == {}
    message, = said(caplog)
    assert "the attention of layers.0 could not be captured" in message and "no good" in caplog.text


def test_large_logits_and_own_blocks_are_compiled_within_a_compiled_model(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, backend: backend)
    monkeypatch.setattr(of_attnd, "_compiled", {})
    small, large = (torch.empty(1, 1, length, 8, device="meta") for length in (64, 4096))
    blocks = flex.BlockMask.from_kv_blocks(*(torch.ones(1, 1, 1, *more, dtype=torch.int32) for more in ((), (1,))))
    chosen = [of_attnd._within_compiled(flex_attention, {"query": q, "key": q, "block_mask": mask})
              for q, mask in ((small, None), (large, None), (small, blocks))]
    assert chosen == ["eager", "inductor", "inductor"]


def test_a_compiler_that_fails_is_said_once_and_the_model_goes_on(stepwise, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(of_attnd, "_within_compiled", lambda original, given: fails)
    monkeypatch.setattr(of_attnd, "_told", False)
    assert_captured(stepwise, "causal", "within a compiled model")
    message, = said(caplog)
    assert "could not be compiled" in message and "no compiler here" in caplog.text


def test_the_exceptions_of_the_model_are_its_own(stepwise, caplog):
    model = made(flex_attention)
    with torch.no_grad(), Session(stepwise) as session:
        session.watch(model, steps="manual", evaluation=True)
        with pytest.raises(Exception, match="kv_len|BlockMask|block_mask"):
            model(inputs()[:, :5], {"block_mask": block_mask(causal)})
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    assert not any("could not" in message for message in said(caplog))


def test_watches_may_end_while_flex_attention_runs_in_another_thread(monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def device_is_valid(*given):
        begun.set()
        assert ended.wait(60)

    monkeypatch.setattr(flex, "_validate_device", device_is_valid)
    spy = Spy(nn.Identity(), None)
    spy.install()
    q = torch.zeros(1, 1, 4, 8)
    other = threading.Thread(target=flex_attention, args=(q, q, q))
    other.start()
    assert begun.wait(60)
    spy.remove()
    ended.set()
    other.join()  # the fixture looks at the compiler's stance


def test_a_bias_that_was_0_is_one_from_the_second_time_on(stepwise):
    bias = torch.zeros(())
    options = {"score_mod": lambda score, b, h, i, j: score + bias * i * (j + 1)}
    model = made(flex_attention)
    with torch.no_grad(), Session(stepwise) as session:
        watch = session.watch(model, steps="manual", evaluation=True)
        for value in (0.0, 0.01, 0.01):
            bias.fill_(value)
            model(inputs(), options)
            watch.step()
            wait_until(lambda: not watch.stats()["queued"], "the sender thread has judged it")
    assert watch.stats()["dropped"] == LAYERS  # those between are not sent as what they are not
    assert {step: summary["tier"] for (step, _), summary in session.finished().items()} == {0: "qk", 2: "attention"}


# ------------------------------------------------------------------------------------------------ mods alone

PART = (slice(1, 2), slice(1, 3), slice(2, 20, 3))


@pytest.fixture
def one_by_one(monkeypatch):
    """Rows come so."""
    monkeypatch.setattr(mods, "ELEMENTS", 1)


def all_of(heads, length):
    """Every place of one sample."""
    return mods.where([slice(0, 1), slice(0, heads), slice(0, length)], length, torch.device("cpu"))


@pytest.mark.parametrize("name", ["causal", "documents", "samples", "mask by head"])
def test_a_part_of_a_mask_is_that_part(one_by_one, name):
    case = CASES[name]
    found = mods.visible(case.options()["block_mask"].mask_mod, mods.where(PART, LENGTH, torch.device("cpu")))
    whole = np.broadcast_to(case.allowed, (BATCH, HEADS, LENGTH, LENGTH))[PART]
    assert (np.broadcast_to(found.numpy(), whole.shape) == whole).all()
    assert found.shape[:2] == (1, 2 if name == "mask by head" else 1)


@pytest.mark.parametrize("name", ["alibi", "table", "softcap", "score_mod that hides"])
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0])], ids=["", "sinks"])
def test_a_part_of_the_weights_is_that_part(one_by_one, name, sinks):
    case, g = CASES[name], generator(7)
    q, k = torch.randn(BATCH, HEADS, LENGTH, 8, generator=g), torch.randn(BATCH, KEY_HEADS, LENGTH, 8, generator=g)
    options = case.options()
    mask_mod = options["block_mask"].mask_mod if "block_mask" in options else None
    mod = mods.ScoreMod(options["score_mod"], mask_mod, sinks)
    at = mods.where(PART, LENGTH, torch.device("cpu"))
    keys = k[PART[0], :].repeat_interleave(2, 1)[:, PART[1]]
    weights, _ = mod.weights(q[PART], keys, 8**-0.5, at)
    logits = np.where(case.allowed, case.changed(products(q.double().numpy(), k.double().numpy())), -np.inf)[PART]
    if sinks is not None:
        column = np.broadcast_to(sinks.double().numpy()[PART[1]][None, :, None, None], (*logits.shape[:3], 1))
        logits = np.concatenate([logits, column], -1)
    np.testing.assert_allclose(weights.numpy(), softmax(logits, None), atol=1e-6)
    assert mod.biased(q[PART], keys, 8**-0.5, at) == (case.tier == "attention" or sinks is not None)


def test_rows_that_see_nothing_are_0():
    mod = mods.ScoreMod(lambda s, b, h, i, j: torch.where(i > 3, s + 1, -torch.inf))
    q = torch.randn(1, 2, 6, 8)
    weights, _ = mod.weights(q, q, 1.0, all_of(2, 6))
    assert (weights[:, :, :4] == 0).all() and torch.allclose(weights[:, :, 4:].sum(-1), torch.ones(2))


def test_blocks_hide_what_is_outside_of_them():
    blocks = torch.tensor([[True, False], [False, True]])[None, None]
    found = mods.visible(mods.within_blocks(causal, blocks, (4, 4)), all_of(2, 8))
    assert (found[0, 0].numpy() == triangle(8) & np.kron(np.eye(2, dtype=bool), np.ones((4, 4), bool))).all()


def test_a_function_in_place_is_no_identity():
    def adds(score, b, h, i, j):
        score += 1
        return score

    here = torch.device("cpu")
    assert mods.is_identity(lambda score, *numbers: score, here) and not mods.is_identity(adds, here)
    assert not mods.is_identity(lambda score, *numbers: score + 0, here) and not mods.is_identity(lambda s: s, here)


def test_autocast_lowers_nothing_that_is_computed_here():
    q, mod = torch.randn(1, 2, 6, 64), mods.ScoreMod(lambda s, b, h, i, j: s + h)
    plain = mod.weights(q, q, 1.0, all_of(2, 6))[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mod.weights(q, q, 1.0, all_of(2, 6))[0], plain)
