# SPDX-License-Identifier: MIT
"""Captured right in the set-ups of real training: compiled, checkpointed, accumulated, autocast, with dropout, in eval
mode, on several ranks."""
import contextlib

import pytest

torch = pytest.importorskip("torch", minversion="2.0")
import distributed_worker  # noqa: E402
import ranks  # noqa: E402
from expected import differences  # noqa: E402
from session import (TIERS, Session, assert_captured, assert_right, attnd, expected_of, of_attention, said, tier_options,  # noqa: E402
                     tiers_of, train, wait_until)
from zoo import (HEADS, LENGTH, WORDS, CheckpointedBlock, Decoder, Kind, ReentrantBlock, decoder_kind,  # noqa: E402
                 decoder_reference, eager, fused, next_token_loss, seeded, token_batch, transformer_kind)

try:
    from zoo_transformers import transformers_kind
except ImportError:
    transformers_kind = None

pytest_plugins = ("one_daemon",)
needs_transformers = pytest.mark.skipif(transformers_kind is None, reason="transformers is not there")
BIG = ("gpt2", "llama")


# ------------------------------------------------------------------------------------------------ compiled

@pytest.fixture
def compiler():
    """torch.compile, forgetting what other tests had compiled; compiling anything twice is an error."""
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters
    dynamo.reset()
    counters.clear()
    with dynamo.config.patch(error_on_recompile=True):
        yield lambda model: torch.compile(model, backend="aot_eager")
    dynamo.reset()


def graphs():
    """How many graphs have been compiled."""
    from torch._dynamo.utils import counters
    return counters["stats"]["unique_graphs"]


@needs_transformers
@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("outside", [True, False])
def test_compiled_models_run_eagerly_on_captured_steps_only(stepwise, compiler, name, outside):
    """Whether the compiled model is watched or the one within."""
    kind = transformers_kind(name, "sdpa")
    list(train(compiler(kind.build()), kind, 1))
    unwatched = graphs()
    torch._dynamo.reset()
    model = kind.build()
    compiled = compiler(model)
    made = []
    with Session(stepwise) as session:
        session.watch(compiled if outside else model, every=3)
        trained = []
        for step in train(compiled, kind, 8):
            trained.append(step)
            made.append(graphs() - unwatched)
    assert unwatched > 0 and made == [0] + [unwatched] * 7, (unwatched, made)  # all of them in step 1
    assert_right(f"{kind.name}-compiled", session.summaries(), expected_of(kind, trained[::3]), kind.tiers)


@needs_transformers
@pytest.mark.parametrize("name", BIG)
def test_watching_what_is_compiled_already_compiles_nothing_again(stepwise, compiler, name):
    kind = transformers_kind(name, "sdpa")
    compiled = compiler(kind.build())
    list(train(compiled, kind, 2))
    before = graphs()
    assert_captured(stepwise, kind, compiled, f"{kind.name}-compiled-before", steps=5, every=2)
    list(train(compiled, kind, 1))
    assert graphs() == before


@pytest.mark.parametrize("tier", TIERS)
def test_a_compiled_decoder_whose_every_step_is_captured(stepwise, compiler, tier, monkeypatch):
    kind = decoder_kind("sdpa-compiled", fused)
    assert_captured(stepwise, kind, compiler(kind.build()), steps=3, tiers=tiers_of(kind, tier),
                    **tier_options(tier, monkeypatch))


# -------------------------------------------------------------------------------------------- checkpointed

@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("block", [CheckpointedBlock, ReentrantBlock])
@pytest.mark.parametrize("attend", [fused, eager])
def test_a_recomputed_block_is_not_captured_twice(stepwise, attend, block, tier, monkeypatch):
    kind = decoder_kind(f"{attend.__name__}-{block.__name__}", attend, ("qk", "attention"))
    model = kind.build()
    for one in model.blocks:
        one.__class__ = block
    assert_captured(stepwise, kind, model, tiers=tiers_of(kind, tier), **tier_options(tier, monkeypatch))


@needs_transformers
@pytest.mark.parametrize("implementation, reentrant, microbatches", [
    ("eager", False, 1), ("eager", True, 1), ("sdpa", False, 1), ("sdpa", True, 1), ("sdpa", False, 2)])
@pytest.mark.parametrize("name", BIG)
def test_gradient_checkpointing_is_not_captured_twice(stepwise, name, implementation, reentrant, microbatches):
    kind = transformers_kind(name, implementation)
    model = kind.build()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_captured(stepwise, kind, model, f"{kind.name}-checkpointed", microbatches=microbatches)


# --------------------------------------------------------------------------------------------- accumulated

def test_forwards_of_one_step_are_its_microbatches(stepwise):
    kind, sent = decoder_kind("sdpa-accumulated", fused), []
    assert_captured(stepwise, kind, microbatches=3, on_publish=of_attention(lambda message: sent.append((message.step, message.keys))))
    numbers = [(step, keys["layer"], keys.get("microbatch", 0)) for step, keys in sent if "layer" in keys]
    assert numbers == [(step, layer, m) for step in range(2) for m in range(3) for layer in range(3)]


# ------------------------------------------------------------------------------------ autocast and dropout

def recorded_kind(name, attend, context=contextlib.nullcontext, dropout=0.0):
    """A decoder whose reference runs in its own dtype, under the same autocast and the same random numbers: the very
    queries and keys; logits and weights of them are in float64 as ever."""
    build = seeded(lambda: Decoder(attend, dropout=dropout))

    def run(function, batch):
        torch.manual_seed(int(batch["tokens"].sum()))
        with context():
            return function()

    def reference(state, batch):
        model = build()
        model.load_state_dict(state)
        return run(lambda: decoder_reference(model, batch), batch)

    return Kind(name, build, token_batch,
                lambda model, batch: run(lambda: next_token_loss(model, batch), batch), reference)


def test_under_autocast_what_the_kernel_got_is_captured(stepwise):
    sent = []
    kind = recorded_kind("sdpa-autocast", fused, lambda: torch.autocast("cpu", torch.bfloat16))  # as training on a CPU has it
    assert_captured(stepwise, kind, on_publish=of_attention(lambda message: sent.extend(message.keys.get("tensors", ()))))
    assert {tensor["dtype"] for tensor in sent if tensor["name"] != "tokens"} == {"bf16"}


@pytest.mark.parametrize("attend", [fused, eager])
def test_weights_are_those_before_dropout(stepwise, attend):
    assert_captured(stepwise, recorded_kind(f"{attend.__name__}-dropout", attend, dropout=0.3), tiers=("qk", "attention"))


# ------------------------------------------------------------------------------------------------ eval mode

@pytest.mark.parametrize("kind", [decoder_kind("sdpa-eval", fused), transformer_kind("nn.Transformer-eval")],
                         ids=lambda kind: kind.name)
def test_training_in_eval_mode_is_captured(stepwise, kind):
    assert_captured(stepwise, kind, kind.build().eval())


def validate(model, kind):
    """A forward as validation has it."""
    model.eval()
    with torch.no_grad():
        kind.loss(model, kind.batch(77))
    model.train()


def test_validation_is_not_captured(stepwise):
    kind = decoder_kind("sdpa-validated", fused)
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model)
        trained = []
        for step in train(model, kind, 2):
            trained.append(step)
            validate(model, kind)
    assert_right(kind.name, session.summaries(), expected_of(kind, trained))


@pytest.mark.parametrize("kind", [decoder_kind("sdpa-evaluation", fused),
                                  transformer_kind("nn.Transformer-evaluation")], ids=lambda kind: kind.name)
def test_validation_is_captured_when_it_is_asked_for(stepwise, kind):
    """nn.TransformerEncoder has a fast path then, which shows nothing; it is not taken."""
    model = kind.build()
    with Session(stepwise) as session:
        watch = session.watch(model, evaluation=True, steps="manual")
        state = {name: value.clone() for name, value in model.state_dict().items()}
        validate(model, kind)
        watch.step()
    expected = expected_of(kind, [(0, [kind.batch(77)], state)])
    assert_right(kind.name, session.summaries(), expected, kind.tiers)


# --------------------------------------------------------------------------------------------------- ranks

def run_ranks(session, how, tmp_path, tier="raw"):
    """(states that the steps met, publishers' counters, messages with matrices) of two ranks."""
    return ranks.run(distributed_worker.__file__, tmp_path / "ranks", how=how, tier=tier, endpoint=session.endpoint,
                     job=session.job)[0]


@pytest.mark.parametrize("how, tier", [("ddp", "raw"), ("fsdp2", "raw"), ("fsdp2", "rows"), ("fsdp2", "accelerator")])
def test_two_ranks_make_one_summary(stepwise, tmp_path, how, tier):
    if how == "fsdp2":
        pytest.importorskip("torch.distributed.fsdp", reason="no FSDP in this torch").fully_shard
    session, world, kind = Session(stepwise), 2, distributed_worker.KIND
    results = run_ranks(session, how, tmp_path, tier=tier)
    states = results[0][0]
    trained = [(step, [distributed_worker.batch_of(step, rank, world) for rank in range(world)], states[step])
               for step in range(distributed_worker.STEPS)]
    summaries = session.finished()
    assert {summary["ranks"] for summary in summaries.values()} == {2}
    assert_right(how, summaries, expected_of(kind, trained), tiers_of(kind, tier))
    for _, stats, _ in results:
        assert stats["dropped"] == 0 and stats["sent"] == stats["published"]
    layers = len(kind.build().blocks)  # their matrices: what all have one rank sends, of what is shared out each its part
    assert [sent for _, _, sent in results] == [layers, 0 if how == "ddp" else layers]


@pytest.mark.parametrize("tier", TIERS)
def test_ranks_that_have_a_share_of_the_heads_make_whole_layers(stepwise, tmp_path, tier):
    session, kind = Session(stepwise), distributed_worker.KIND
    states = run_ranks(session, "heads", tmp_path, tier=tier)[0][0]
    summaries = session.finished()
    expected = expected_of(kind, [(step, [distributed_worker.batch_of(step, 0, 1)], state) for step, state in enumerate(states)])
    assert sorted(summaries) == sorted(expected)
    for key, messages in expected.items():
        wrong, _ = differences(summaries[key], messages)
        assert wrong == [] and summaries[key]["tier"] in tiers_of(kind, tier) and summaries[key]["ranks"] == 2


class AlongTheSequence(torch.nn.Module):
    """Its queries and keys are spread over ranks, as context parallelism does it."""

    def forward(self, x):
        scores = (x @ x.transpose(2, 3)).softmax(-1)
        return scores @ x


@pytest.mark.parametrize("tier", TIERS)
def test_context_parallelism_is_absent_and_said_once(stepwise, tmp_path, tier, monkeypatch, caplog):
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Shard
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        model = torch.nn.Sequential(AlongTheSequence(), AlongTheSequence())
        with Session(stepwise) as session:
            watch = session.watch(model, include=["0", "1"], steps="manual", **tier_options(tier, monkeypatch))
            for _ in range(3):
                model(DTensor.from_local(torch.randn(1, HEADS, 8, 4), mesh, [Shard(2)]))
                watch.step()
            assert watch.layers == []
    finally:
        dist.destroy_process_group()
    message, = said(caplog)
    assert "along the sequence (context parallelism)" in message


# ----------------------------------------------------------------------------------------- probe="induction"

def assert_probed(stepwise, kind, model, **options):
    """Trains with the probe, which then has the score of each head of each layer."""
    with Session(stepwise) as session:
        watch = session.watch(model, probe="induction", probe_every=1, **options)
        assert watch._probe._watch.publisher.wait_for_subscriber(60.0)
        layers = {layer for _, layer in expected_of(kind, list(train(model, kind, 2)))}
    probed, sent = f"{session.job}.probe", watch._probe._watch.publisher.stats()
    wait_until(lambda: any((job["job"], job["state"]) == (probed, "ended") for job in stepwise.call("jobs")),
               f"the end of {probed}, which has sent {sent}")
    found = stepwise.call("summary", job=probed)
    assert {(summary["stack"], summary["layer"], summary["site"]) for summary in found} == layers
    assert {tuple(summary["shape"]) for summary in found} == {(1, HEADS, LENGTH, LENGTH)}
    tokens = attnd.repeated_tokens(WORDS, LENGTH // 2)[0].tolist()
    again = sum(token in tokens[:i] for i, token in enumerate(tokens))
    assert again >= LENGTH // 2
    assert all(summary["heads"]["induction"]["count"] == [again] * HEADS for summary in found)


@pytest.mark.parametrize("attend", [eager, fused])
def test_the_induction_probe_runs_in_a_decoder_that_is_compiled(stepwise, compiler, attend):
    kind = decoder_kind(attend.__name__, attend)
    assert_probed(stepwise, kind, compiler(kind.build()))


@pytest.mark.parametrize("tier", TIERS)
def test_the_induction_probe_has_its_number_whatever_the_training_sends(stepwise, tier, monkeypatch):
    kind, options = decoder_kind("fused", fused), tier_options(tier, monkeypatch)
    assert_probed(stepwise, kind, kind.build(), **options)


@needs_transformers
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [*BIG, "bert"])
def test_the_induction_probe_runs_in_models_of_transformers(stepwise, name, implementation):
    kind = transformers_kind(name, implementation)
    assert_probed(stepwise, kind, kind.build())


@needs_transformers
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_induction_probe_refuses_an_encoder_with_a_decoder(stepwise, name):
    with Session(stepwise) as session, pytest.raises(ValueError, match="has an encoder and a decoder"):
        session.watch(transformers_kind(name, "sdpa").build(), probe="induction")


@needs_transformers
def test_the_induction_probe_refuses_a_model_of_images(stepwise):
    import transformers
    model = transformers.ViTForImageClassification(transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    with Session(stepwise) as session, pytest.raises(ValueError, match="no torch.nn.Embedding that tokens are looked up"):
        session.watch(model, probe="induction")
