# SPDX-License-Identifier: MIT
"""Models that are compiled after watch() stay compiled: captured steps and others run the same code, which is compiled once,
without a graph break, and shows numbers that agree with float64."""
import contextlib
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
import modes  # noqa: E402
import ranks  # noqa: E402
from compiling import compilations, forget, from_anew, regional, whole  # noqa: E402, F401
from session import (PATIENCE_S, Session, assert_captured, assert_right, attnd, expected_of, of_attention,  # noqa: E402
                     said, train)
from attnd.forms import look  # noqa: E402
from test_models_untouched import HAS_HEADERS  # noqa: E402
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # noqa: E402
from torch._inductor import config as inductor_config  # noqa: E402
from zoo import decoder_kind, eager, fused, fused_imported  # noqa: E402

if not look._is_supported():
    pytest.skip("torch 2.13 or later", allow_module_level=True)
pytest_plugins = ("one_daemon",)
pytestmark = pytest.mark.skipif(not HAS_HEADERS, reason="inductor needs the headers of PyTorch")
KIND = decoder_kind("sdpa", fused)
KINDS = [KIND, decoder_kind("sdpa, imported by name", fused_imported)]
WAYS = {"whole": whole, "regional": regional}


def checkpointed(model, way, **options):
    """As torchtitan does it."""
    for name, block in list(model.blocks.named_children()):
        model.blocks.register_module(name, checkpoint_wrapper(block, preserve_rng_state=False, **options))
    return way(model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_layer_of_a_compiled_model_is_right(stepwise, kind, way):
    watch = assert_captured(stepwise, kind, name=f"{kind.name}, {way}", steps=5, wrap=WAYS[way], every=2)
    assert [layer.module for layer in watch.layers] == [f"blocks.{n}.attn" for n in range(3)]
    assert compilations() == (1, 0)


@pytest.mark.parametrize("way", WAYS)
def test_another_sample_at_each_step_compiles_nothing_again(stepwise, way):
    assert_captured(stepwise, KIND, name=f"samples, {way}", steps=6, wrap=WAYS[way], samples=1)
    assert compilations() == (1, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("saves", ["full", "selective"])
def test_recomputation_shows_an_attention_once(stepwise, way, saves):
    options = {"context_fn": modes.every_second_product} if saves == "selective" else {}
    assert_captured(stepwise, KIND, name=f"{saves}, {way}", steps=3,
                    wrap=lambda model: checkpointed(model, WAYS[way], **options))


def test_two_microbatches_of_a_step_are_two(stepwise):
    assert_captured(stepwise, KIND, name="microbatches", microbatches=2, wrap=whole)


def losses(model, lengths=(), steps=6):
    optimizer, found = torch.optim.Adam(model.parameters(), lr=0.02), []
    for step in range(steps):
        tokens = KIND.batch(step)["tokens"]
        loss = KIND.loss(model, {"tokens": tokens[:, :lengths[step % len(lengths)]] if lengths else tokens})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return torch.stack(found), [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [(), (10, 12, 7)], ids=["one shape", "dynamic shapes"])
def test_nothing_is_compiled_more_often_and_steps_have_the_bits_of_an_empty_operator(stepwise, way, lengths, monkeypatch):
    alone = losses(WAYS[way](KIND.build()), lengths)
    expected = compilations()
    results = []
    for every in (1, 0):  # 0: the operators do nothing
        forget()
        with Session(stepwise) as session:
            model = KIND.build()
            session.watch(model, every=every)
            results.append(losses(WAYS[way](model), lengths))
        assert compilations() == expected
    for found in results:
        assert torch.equal(found[0], results[-1][0]) and all(map(torch.equal, found[1], results[-1][1]))
        torch.testing.assert_close(found[0], alone[0], rtol=1e-5, atol=1e-6)


@pytest.fixture
def shown(stepwise):
    """Watches a model; the list of (path, call, what is seen) to which each of its attentions comes."""
    with Session(stepwise) as session:
        def begin(model):
            watch, calls = session.watch(model), []
            saw = watch.forwards.saw
            watch.forwards.saw = lambda *given: (calls.append(given), saw(*given))
            return calls

        yield begin


def test_autocast_lowers_what_is_shown(shown):
    """What travels has the numbers that the kernel of the model gets, which are rounded to bf16."""
    found = []
    for way in (whole, lambda model: model):
        model = KIND.build()
        found.append(shown(model))
        with torch.autocast("cpu", torch.bfloat16):
            KIND.loss(way(model), KIND.batch(0)).backward()
    assert [len(calls) for calls in found] == [3, 3]
    for (_, _, compiled), (_, _, plain) in zip(*found):
        assert compiled.q.dtype == compiled.k.dtype == torch.bfloat16
        torch.testing.assert_close(compiled.q, plain.q.bfloat16(), rtol=0.05, atol=0.05)


def test_a_validation_is_not_captured(stepwise):
    with Session(stepwise) as session:
        model = KIND.build()
        watch = session.watch(model)
        compiled = whole(model)
        trained = list(train(compiled, KIND, 1))
        with torch.no_grad():
            KIND.loss(compiled, KIND.batch(7))
        trained += [(1, *rest) for _, *rest in train(compiled, KIND, 1)]
        assert len(watch.layers) == 3
    assert_right("validated", session.summaries(), expected_of(KIND, trained), KIND.tiers)


def test_a_model_that_was_compiled_before_is_told_how_and_is_left_alone(stepwise, caplog):
    compiled = whole(KIND.build())
    with inductor_config.patch(pre_grad_custom_pass=None):  # as before the first watch of a process
        losses(compiled, steps=2)
    before = compilations()
    with Session(stepwise) as session:
        watch = session.watch(compiled, steps="manual")
        for _ in range(5):
            losses(compiled, steps=1)
            watch.step()
        assert watch.layers == [] and compilations() == before
    assert sum("It is seen where attnd.watch came before the first forward" in text for text in said(caplog)) == 1, caplog.text


def test_it_runs_eagerly_where_that_is_wanted(stepwise):
    compiled = whole(KIND.build())
    losses(compiled, steps=2)
    assert_captured(stepwise, KIND, compiled, "eager", compiled="eager")


def test_two_models_that_share_code_are_two(shown):
    one, other = KIND.build(), KIND.build()
    calls = shown(one)
    for compiled in [torch.compile(model) for model in (one, other)]:
        KIND.loss(compiled, KIND.batch(0)).backward()
    assert [path for path, _, _ in calls] == [f"blocks.{n}.attn" for n in range(3)]


@pytest.mark.parametrize("way", WAYS)
def test_blocks_that_share_an_attention_show_it_twice(shown, way):
    model = KIND.build()
    model.blocks[1].attn = model.blocks[0].attn
    calls = shown(model)
    KIND.loss(WAYS[way](model), KIND.batch(0)).backward()
    assert [(path, call) for path, call, _ in calls] == [("blocks.0.attn", 0), ("blocks.0.attn", 1), ("blocks.2.attn", 0)]


def test_a_model_of_which_only_a_part_is_compiled_loses_no_layer_but_in_the_first_capture(stepwise):
    with Session(stepwise) as session:
        model = KIND.build()
        watch = session.watch(model)
        model.blocks[1].compile()
        list(train(model, KIND, 3))
        assert len(watch.layers) == 3
    steps = [step for step, _ in session.summaries()]
    assert [steps.count(step) for step in range(3)] == [1, 3, 3] and len(steps) == 7


def test_functions_that_take_graphs_compile_as_ever(stepwise):
    attend = lambda x: fused(x, x, x)  # noqa: E731
    either = torch.compile(lambda x: torch.cond(x.sum() > 0, attend, lambda x: -attend(x), (x,)))
    x = torch.randn(1, 2, 5, 4)
    with Session(stepwise) as session:
        session.watch(KIND.build())
        with torch.no_grad():
            torch.testing.assert_close(either(x), attend(x) if x.sum() > 0 else -attend(x))


def test_a_model_that_compiles_itself_without_a_word_before_is_captured(stepwise):
    """In a process that has not imported torch's compiler yet."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from session import attnd, train
from zoo import decoder_kind, fused
kind = decoder_kind("sdpa", fused)
model = kind.build()
with attnd.watch(model, job="itself", endpoint={stepwise.endpoint("ingest")!r}, every=1, wait={PATIENCE_S}) as watch:
    assert "torch._dynamo" not in sys.modules
    model.compile()
    list(train(model, kind, 4))
    print([layer.module for layer in watch.layers])
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=250)
    assert made.stdout.strip() == str([f"blocks.{n}.attn" for n in range(3)]), made.stdout + made.stderr


def test_attention_by_other_means_runs_eagerly_from_the_second_captured_step_on(stepwise):
    kind = decoder_kind("eager", eager, tiers=("attention",))
    with Session(stepwise) as session:
        model = kind.build()
        session.watch(model)
        trained = list(train(torch.compile(model), kind, 4))
    assert_right("softmax", session.summaries(), expected_of(kind, trained[1:]), kind.tiers)


def test_graphs_that_are_replayed_get_no_operator(stepwise):
    count = len(look._sites)
    with Session(stepwise) as session:
        model = KIND.build()
        session.watch(model)
        losses(torch.compile(model, mode="reduce-overhead"), steps=2)
    assert len(look._sites) == count


RANKED = ("DDP", "FSDP2", "compiled DDP")


def ranked(mode, model):
    """Each block is compiled before the model is shared out, as torchtitan does it; or all of it afterwards."""
    return torch.compile(modes.distributed("DDP", model)) if mode == "compiled DDP" else modes.distributed(mode, regional(model))


@pytest.mark.parametrize("mode", RANKED)
def test_ranks_compile_once_and_show_every_layer(stepwise, tmp_path, mode):
    made, _ = ranks.run(__file__, tmp_path / "ranks", mode=mode, endpoint=stepwise.endpoint("ingest"), caches=tmp_path)
    for found in made:
        assert found["kinds"] == modes.LAYERS * modes.STEPS and found["layers"] == [f"blocks.{n}.attn" for n in range(modes.LAYERS)]
        assert found["watched"] == found["alone"] and (found["alone"][1] == 0 or mode == "compiled DDP")
        for one, other in zip(*found["met"]):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def train_rank(rank, world, mode, endpoint, caches):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{caches}/cache"  # what one rank has compiled the other need not
    found, kinds = {"met": []}, []
    for name in ("alone", "watched"):
        forget()
        model = modes.build(mode)
        with contextlib.ExitStack() as stack:
            if name == "watched":
                watch = stack.enter_context(attnd.watch(model, job=f"compiled {mode}", endpoint=endpoint, every=1, wait=PATIENCE_S, weights_every=0,
                                                        on_publish=of_attention(lambda message: kinds.append(message.kind))))
            found["met"].append(modes.train(ranked(mode, model), mode, rank=rank))
            torch.distributed.barrier()
            found[name] = compilations()
            if name == "watched":
                found["layers"] = [layer.module for layer in watch.layers]
    return {**found, "kinds": len(kinds)}


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="compiled = 'no': must be 'eager' or left out"):
        attnd.watch(torch.nn.Linear(2, 2), "job", compiled="no")


if __name__ == "__main__":
    ranks.main(train_rank)
