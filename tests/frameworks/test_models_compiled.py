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
from compiling import compilations, from_anew, regional, whole  # noqa: E402, F401
from session import PATIENCE_S, Session, assert_right, attnd, expected_of, train  # noqa: E402
from attnd.forms import look  # noqa: E402
from test_models_untouched import HAS_HEADERS  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # noqa: E402
from torch._inductor import config as inductor_config  # noqa: E402
from zoo import decoder_kind, eager, fused, fused_imported  # noqa: E402

if not look._is_supported():
    pytest.skip("torch 2.13 or later", allow_module_level=True)
pytest_plugins = ("one_daemon",)
pytestmark = pytest.mark.skipif(not HAS_HEADERS, reason="inductor needs the headers of PyTorch")
KINDS = [decoder_kind("sdpa", fused), decoder_kind("sdpa, imported by name", fused_imported)]


WAYS = {"whole": whole, "regional": regional}


def checkpointed(model, way, **options):
    """As torchtitan does it."""
    for name, block in list(model.blocks.named_children()):
        model.blocks.register_module(name, checkpoint_wrapper(block, preserve_rng_state=False, **options))
    return way(model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_layer_of_a_compiled_model_is_right(stepwise, kind, way):
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model, every=2)
        trained = list(train(WAYS[way](model), kind, 5))
        assert [layer.module for layer in watch.layers] == [f"blocks.{n}.attn" for n in range(3)]
    assert compilations() == (1, 0)
    assert_right(f"{kind.name}, {way}", session.summaries(), expected_of(kind, trained[::2]), kind.tiers)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("saves", ["full", "selective"])
def test_recomputation_shows_an_attention_once(stepwise, way, saves):
    kind = KINDS[0]
    options = {"context_fn": modes.every_second_product} if saves == "selective" else {}
    with Session(stepwise) as session:
        model = kind.build()
        session.watch(model)
        trained = list(train(checkpointed(model, WAYS[way], **options), kind, 3))
    assert_right(f"{saves}, {way}", session.summaries(), expected_of(kind, trained), kind.tiers)


def test_two_microbatches_of_a_step_are_two(stepwise):
    kind = KINDS[0]
    with Session(stepwise) as session:
        model = kind.build()
        session.watch(model)
        trained = list(train(whole(model), kind, 2, microbatches=2))
    assert_right("microbatches", session.summaries(), expected_of(kind, trained), kind.tiers)


def losses(model, kind, lengths=(), steps=6):
    optimizer, found = torch.optim.Adam(model.parameters(), lr=0.02), []
    for step in range(steps):
        batch = kind.batch(step)
        if lengths:
            batch = {"tokens": batch["tokens"][:, :lengths[step % len(lengths)]]}
        loss = kind.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return torch.stack(found), [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [(), (10, 12, 7)], ids=["one shape", "dynamic shapes"])
def test_nothing_is_compiled_more_often_and_steps_have_the_bits_of_an_empty_operator(stepwise, way, lengths, monkeypatch):
    kind = KINDS[0]
    alone = losses(WAYS[way](kind.build()), kind, lengths)
    expected = compilations()
    results = []
    for every in (1, 0):  # 0: the operators do nothing
        torch._dynamo.reset()
        counters.clear()
        with Session(stepwise) as session:
            model = kind.build()
            session.watch(model, every=every)
            results.append(losses(WAYS[way](model), kind, lengths))
        assert compilations() == expected
    for found in results:
        assert torch.equal(found[0], results[-1][0]) and all(map(torch.equal, found[1], results[-1][1]))
        torch.testing.assert_close(found[0], alone[0], rtol=1e-5, atol=1e-6)


def test_autocast_lowers_what_is_shown(stepwise, monkeypatch):
    """What travels has the numbers that the kernel of the model gets, which are rounded to bf16."""
    kind, shown = KINDS[0], []
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model)
        saw = watch.saw
        monkeypatch.setattr(watch, "saw", lambda path, call, seen: (shown.append(seen), saw(path, call, seen)))
        with torch.autocast("cpu", torch.bfloat16):
            kind.loss(whole(model), kind.batch(0)).backward()
        watch.step()
        eager = kind.build()
        session.watch(eager)
        monkeypatch.setattr(session.watches[1], "saw", lambda path, call, seen: shown.append(seen))
        with torch.autocast("cpu", torch.bfloat16):
            kind.loss(eager, kind.batch(0)).backward()
    assert len(shown) == 6
    for compiled, plain in zip(shown[:3], shown[3:]):
        assert compiled.q.dtype == compiled.k.dtype == torch.bfloat16
        torch.testing.assert_close(compiled.q, plain.q.bfloat16(), rtol=0.05, atol=0.05)


def test_a_validation_is_not_captured(stepwise):
    kind = KINDS[0]
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model)
        compiled = whole(model)
        trained = list(train(compiled, kind, 1))
        with torch.no_grad():
            kind.loss(compiled, kind.batch(7))
        trained += [(1, *rest) for _, *rest in train(compiled, kind, 1)]
        assert len(watch.layers) == 3
    assert_right("validated", session.summaries(), expected_of(kind, trained), kind.tiers)


@contextlib.contextmanager
def said_once(caplog, text):
    caplog.clear()
    yield
    assert sum(text in record.getMessage() for record in caplog.records) == 1, caplog.text


def test_a_model_that_was_compiled_before_is_told_how_and_is_left_alone(stepwise, caplog):
    kind = KINDS[0]
    compiled = whole(kind.build())
    with inductor_config.patch(pre_grad_custom_pass=None):  # as before the first watch of a process
        losses(compiled, kind, steps=2)
    before = compilations()
    with said_once(caplog, "It is seen where attnd.watch came before the first forward"), Session(stepwise) as session:
        watch = session.watch(compiled, steps="manual")
        for _ in range(5):
            losses(compiled, kind, steps=1)
            watch.step()
        assert watch.layers == [] and compilations() == before


def test_it_runs_eagerly_where_that_is_wanted(stepwise):
    kind = KINDS[0]
    compiled = whole(kind.build())
    losses(compiled, kind, steps=2)
    with Session(stepwise) as session:
        session.watch(compiled, compiled="eager")
        trained = list(train(compiled, kind, 2))
    assert_right("eager", session.summaries(), expected_of(kind, trained), kind.tiers)


def test_two_models_that_share_code_are_two(stepwise):
    kind, shown = KINDS[0], []
    with Session(stepwise) as session:
        one, other = kind.build(), kind.build()
        watch = session.watch(one)
        saw = watch.saw
        watch.saw = lambda path, call, seen: (shown.append(path), saw(path, call, seen))
        compiled = [torch.compile(model) for model in (one, other)]
        for model in compiled:
            kind.loss(model, kind.batch(0)).backward()
        watch.step()
    assert shown == [f"blocks.{n}.attn" for n in range(3)]


@pytest.mark.parametrize("way", WAYS)
def test_blocks_that_share_an_attention_show_it_twice(stepwise, way):
    kind, shown = KINDS[0], []
    with Session(stepwise) as session:
        model = kind.build()
        model.blocks[1].attn = model.blocks[0].attn
        watch = session.watch(model)
        saw = watch.saw
        watch.saw = lambda path, call, seen: (shown.append((path, call)), saw(path, call, seen))
        kind.loss(WAYS[way](model), kind.batch(0)).backward()
        watch.step()
    assert shown == [("blocks.0.attn", 0), ("blocks.0.attn", 1), ("blocks.2.attn", 0)]


def test_a_model_of_which_only_a_part_is_compiled_loses_no_layer_but_in_the_first_capture(stepwise):
    kind = KINDS[0]
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model)
        model.blocks[1].compile()
        trained = list(train(model, kind, 3))
        assert len(watch.layers) == 3
    summaries = session.summaries()
    assert {step for step, _ in summaries} == {0, 1, 2}
    later = {key: one for key, one in summaries.items() if key[0] > 0}
    assert len(later) == 6 and len(summaries) == 7


def test_functions_that_take_graphs_compile_as_ever(stepwise):
    attend = lambda x: fused(x, x, x)  # noqa: E731
    either = torch.compile(lambda x: torch.cond(x.sum() > 0, attend, lambda x: -attend(x), (x,)))
    x = torch.randn(1, 2, 5, 4)
    with Session(stepwise) as session:
        session.watch(KINDS[0].build())
        with torch.no_grad():
            torch.testing.assert_close(either(x), attend(x) if x.sum() > 0 else -attend(x))


def test_a_model_that_compiles_itself_without_a_word_before_is_captured(stepwise):
    """In a process that has not imported torch's compiler yet."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import torch, attnd
from zoo import decoder_kind, fused
kind = decoder_kind("sdpa", fused)
model = kind.build()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with attnd.watch(model, job="itself", endpoint={stepwise.endpoint("ingest")!r}, every=1, wait={PATIENCE_S}) as watch:
    model.compile()
    for step in range(4):
        kind.loss(model, kind.batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
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


def test_graphs_that_are_replayed_get_no_operator(stepwise, caplog):
    kind, count = KINDS[0], len(look._sites)
    with Session(stepwise) as session:
        model = kind.build()
        session.watch(model)
        losses(torch.compile(model, mode="reduce-overhead"), kind, steps=2)
    assert len(look._sites) == count


RANKED = ("DDP", "FSDP2", "compiled DDP")


def ranked(mode, model):
    """Each block is compiled before the model is shared out, as torchtitan does it; or all of it afterwards."""
    return torch.compile(modes.distributed("DDP", model)) if mode == "compiled DDP" else modes.distributed(mode, regional(model))


@pytest.mark.parametrize("mode", RANKED)
def test_ranks_compile_once_and_show_every_layer(stepwise, tmp_path, mode):
    run = [subprocess.Popen([sys.executable, __file__, mode, str(rank), str(tmp_path / "store"), stepwise.endpoint("ingest"),
                             str(tmp_path / str(rank))], stderr=subprocess.PIPE,
                            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache-{rank}")}) for rank in range(2)]
    said = [one.communicate(timeout=280)[1].decode() for one in run]
    assert [one.returncode for one in run] == [0, 0], "\n".join(said)
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        assert found["kinds"] == modes.LAYERS * modes.STEPS and found["layers"] == [f"blocks.{n}.attn" for n in range(modes.LAYERS)]
        assert found["watched"] == found["alone"] and (found["alone"][1] == 0 or mode == "compiled DDP")
        for one, other in zip(*found["met"]):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def as_rank(mode, rank, store, endpoint, results):
    dist = torch.distributed
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
    found, kinds = {"met": []}, []
    for name in ("alone", "watched"):
        torch._dynamo.reset()
        counters.clear()
        model = modes.build(mode)
        with contextlib.ExitStack() as stack:
            if name == "watched":
                watch = stack.enter_context(attnd.watch(model, job=f"compiled {mode}", endpoint=endpoint, every=1, wait=PATIENCE_S, weights_every=0,
                                                        on_publish=lambda message: kinds.append(message.kind)))
            found["met"].append(modes.train(ranked(mode, model), mode, rank=int(rank)))
            dist.barrier()
            found[name] = compilations()
            if name == "watched":
                found["layers"] = [layer.module for layer in watch.layers]
    torch.save({**found, "kinds": len(kinds)}, results)
    dist.destroy_process_group()


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="compiled = 'no': must be 'eager' or left out"):
        attnd.watch(torch.nn.Linear(2, 2), "job", compiled="no")


if __name__ == "__main__":
    as_rank(*sys.argv[1:])
