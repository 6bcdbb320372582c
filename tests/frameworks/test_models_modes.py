# SPDX-License-Identifier: MIT
"""In whatever way a model trains, a watched training is the same training: 20 steps, each captured, have the same bits of
losses, gradients and weights, 50 as on an accelerator, and a mode of the user sees the same operations."""
import functools

import pytest

torch = pytest.importorskip("torch")
import modes  # noqa: E402
import ranks  # noqa: E402
from session import Session, attnd, of_attention  # noqa: E402

pytest_plugins = ("one_daemon",)


@pytest.fixture(scope="module")
def alone():
    """What a training of a mode met that nobody watches, by its steps; made when first asked for."""
    return functools.lru_cache(None)(lambda mode, steps: modes.train(modes.build(mode), mode, steps))


@pytest.mark.parametrize("capture", modes.CAPTURES)
@pytest.mark.parametrize("mode", modes.ALONE)
def test_a_watched_training_has_the_same_bits(stepwise, alone, caplog, monkeypatch, mode, capture):
    model, kinds, steps = modes.build(mode), [], modes.steps_of(capture)
    with Session(stepwise) as session:
        watch = session.watch(model, weights_every=0, on_publish=of_attention(lambda message: kinds.append(message.kind)),
                              **modes.options_of(capture, monkeypatch))
        met = modes.train(model, mode, steps)
    assert modes.same_bits(met, alone(mode, steps))
    forwards = steps * (2 if mode == "accumulation" else 1)
    expected = 0 if mode in modes.UNSEEN else modes.LAYERS * forwards
    assert len(kinds) == expected and ("rows" in kinds) == (capture in ("rows", "accelerator") and expected > 0), set(kinds)
    assert watch.stats()["dropped"] == 0
    assert len(caplog.records) == (mode in modes.UNSEEN), caplog.text


@pytest.mark.parametrize("capture", modes.CAPTURES)
@pytest.mark.parametrize("mode", [mode for mode in ("eager", "selective checkpointing") if mode in modes.ALONE])
def test_a_mode_of_the_user_sees_the_operations_of_the_model_alone(stepwise, monkeypatch, mode, capture):
    def operations(model):
        with modes.Operations() as seen:
            modes.train(model, mode)
        return seen.seen

    expected, model = operations(modes.build(mode)), modes.build(mode)
    with Session(stepwise) as session:
        session.watch(model, **modes.options_of(capture, monkeypatch))
        assert operations(model) == expected


def test_without_a_way_around_modes_nothing_is_captured_under_one(stepwise, caplog, monkeypatch):
    monkeypatch.setattr(attnd.base.torch_state, "_disable_modes", None)
    model = modes.build("eager")
    with Session(stepwise) as session, modes.Operations():
        watch = session.watch(model)
        modes.train(model, "eager")
        assert watch.layers == [] and "runs under a TorchDispatchMode" in caplog.text


def test_ranks_have_the_same_bits(stepwise, tmp_path):
    for found in ranks.run(modes.__file__, tmp_path / "ranks", endpoint=stepwise.endpoint("ingest"))[0]:
        assert sorted(found) == sorted((mode, capture) for mode in modes.RANKED for capture in modes.CAPTURES)
        for (mode, capture), (same, kinds) in found.items():
            assert same and len(kinds) == modes.LAYERS * modes.steps_of(capture), (mode, capture, same, len(kinds))
