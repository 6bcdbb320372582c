# SPDX-License-Identifier: MIT
"""A real Lightning trainer with the callback, and a real daemon: every layer arrives, with the trainer's own steps and
epochs. The model is a decoder written by hand, with fused attention; the data are random tokens."""
import logging
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("lightning")

import lightning.pytorch  # noqa: E402
import pytorch_lightning  # noqa: E402

import attnd  # noqa: E402
from attnd.integrations.lightning import AttndCallback  # noqa: E402
from conftest import PATIENCE_S, logged  # noqa: E402
from zoo import HEADS, WORDS, Decoder  # noqa: E402

LAYERS, TOKENS = 2, 16
SAMPLES, BATCH, ACCUMULATED = 16, 2, 2
STEPS = SAMPLES // BATCH // ACCUMULATED  # of an epoch
ALL_LAYERS = {("decoder", layer, "self") for layer in range(LAYERS)}
MANY = 1000  # epochs, which nobody waits for
BOTH = pytest.mark.parametrize("framework", [lightning.pytorch, pytorch_lightning], ids=lambda module: module.__name__)


def module(framework, broken=None, by_hand=False):
    """A LightningModule; training batch `broken` fails. `by_hand`: two optimizers, stepped by the module."""

    class Model(framework.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.decoder = Decoder(layers=LAYERS)
            self.automatic_optimization = not by_hand

        def loss(self, tokens):
            return functional.cross_entropy(self.decoder(tokens).flatten(0, 1), tokens.flatten())

        def training_step(self, batch, index):
            if index == broken:
                raise RuntimeError("the user's own mistake")
            loss = self.loss(batch)
            if by_hand:
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()
            return loss

        def validation_step(self, batch, index):
            self.log("validation", self.loss(batch))

        def configure_optimizers(self):
            halves = self.decoder.blocks.parameters(), self.decoder.head.parameters()
            return [torch.optim.SGD(half, lr=0.1) for half in halves] if by_hand else torch.optim.SGD(
                self.parameters(), lr=0.1)

    return Model()


def loader():
    tokens = torch.randint(0, WORDS, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(3))
    return torch.utils.data.DataLoader(tokens, BATCH)


def trainer(framework, callbacks, directory, epochs=2, **more):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return framework.Trainer(callbacks=callbacks, default_root_dir=directory, max_epochs=epochs,
                             **{"accumulate_grad_batches": ACCUMULATED, **quiet, **more})


def attached(daemon, **more):
    return AttndCallback("tiny", **{"endpoint": daemon.endpoint("ingest"), "every": 1, "wait": PATIENCE_S, **more})


def expected_steps(epochs):
    """(epoch, step) of each forward."""
    return [(epoch, epoch * STEPS + step) for epoch in epochs for step in range(STEPS) for _ in range(ACCUMULATED)]


@BOTH
def test_every_layer_arrives_with_the_steps_and_epochs_of_the_trainer(framework, daemon, results, tmp_path):
    fitted = trainer(framework, [attached(daemon)], tmp_path)
    fitted.fit(module(framework), loader(), loader())  # with validation, which is not captured
    results.wait_ended()
    assert fitted.global_step == 2 * STEPS
    assert results.steps() == {layer: expected_steps((0, 1)) for layer in ALL_LAYERS}
    windows = results.windows()
    assert set(windows) == ALL_LAYERS
    for summaries in windows.values():
        assert set(summaries) == {0, 1}
        for summary in summaries.values():
            messages = STEPS * ACCUMULATED + 1  # one of the layer's projection matrices
            assert (summary["tier"], summary["messages"], summary["causal"]) == ("qk", messages, True)
            entropy = summary["heads"]["entropy"]["mean"]
            assert entropy.shape == (HEADS,) and np.all((entropy > 0) & (entropy < math.log(TOKENS)))


@BOTH
def test_a_training_that_goes_on_from_a_checkpoint_goes_on_counting(framework, daemon, results, tmp_path):
    first = trainer(framework, [], tmp_path, epochs=1)
    first.fit(module(framework), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    trainer(framework, [attached(daemon)], tmp_path).fit(module(framework), loader(), ckpt_path=tmp_path / "last.ckpt")
    results.wait_ended()
    assert results.steps() == {layer: expected_steps((1,)) for layer in ALL_LAYERS}


@BOTH
def test_a_failed_training_raises_the_users_own_error_and_ends_the_watch(framework, daemon, results, tmp_path):
    callback = attached(daemon)
    with pytest.raises(RuntimeError, match="the user's own mistake"):
        trainer(framework, [callback], tmp_path).fit(module(framework, broken=2), loader())
    assert callback.watch is None
    results.wait_ended()
    assert results.jobs[-1]["failure"]["sentence"].startswith("RuntimeError: the user's own mistake, at step ")
    assert results.steps() == {layer: [(0, 0), (0, 0)] for layer in ALL_LAYERS}


def test_steps_are_lightnings_own_with_several_optimizers(daemon, results, tmp_path):
    fitted = trainer(lightning.pytorch, [attached(daemon)], tmp_path, epochs=1, accumulate_grad_batches=1)
    fitted.fit(module(lightning.pytorch, by_hand=True), loader())
    results.wait_ended()
    assert fitted.global_step == 2 * (SAMPLES // BATCH)
    assert results.steps() == {layer: [(0, 2 * batch) for batch in range(SAMPLES // BATCH)] for layer in ALL_LAYERS}


@pytest.mark.parametrize("options", [{"every": -1}, {"endpoint": "nonsense"}])
def test_what_cannot_be_watched_is_said_once_and_the_training_goes_on(options, daemon, tmp_path, caplog):
    fitted = trainer(lightning.pytorch, [attached(daemon, **options)], tmp_path, epochs=1)
    with caplog.at_level(logging.WARNING, "attnd"):
        fitted.fit(module(lightning.pytorch), loader())
    assert fitted.global_step == STEPS
    message, = (record.getMessage() for record in caplog.records if record.name == "attnd")
    assert "tiny: the model could not be watched" in message


def test_an_option_that_nobody_has_is_told_before_the_training(daemon):
    with pytest.raises(TypeError, match="no argument 'no_such_option'"):
        attached(daemon, no_such_option=1)


def test_an_optimizer_without_a_learning_rate_is_watched_like_any_other(daemon, results, tmp_path):
    class Signs(torch.optim.Optimizer):
        def step(self, closure=None):
            return closure()

    model = module(lightning.pytorch)
    model.configure_optimizers = lambda: Signs(model.parameters(), {})
    trainer(lightning.pytorch, [attached(daemon)], tmp_path, epochs=1, log_every_n_steps=2).fit(model, loader())
    results.wait_ended()
    assert results.steps() == {layer: expected_steps((0,)) for layer in ALL_LAYERS}
    series, settings = logged(daemon, "tiny")
    assert set(series) == {"loss"} and settings["model_type"] == "Model" and "learning_rate" not in settings


def keep_losses(model, logged=False):
    """The list to which the loss of each batch goes, as training_step returned it; `logged`: under names of its own."""
    kind, losses = type(model), []
    train, validate = kind.training_step, kind.validation_step

    def training_step(self, batch, index):
        loss = train(self, batch, index)
        losses.append(float(loss))
        if logged:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        validate(self, batch, index)
        if logged:
            self.log("val_loss", 2.5)

    kind.training_step, kind.validation_step = training_step, validation_step
    return losses


@BOTH
def test_the_loss_and_the_learning_rate_arrive_with_the_settings(framework, daemon, results, tmp_path):
    model = module(framework)
    losses = keep_losses(model)
    trainer(framework, [attached(daemon)], tmp_path, epochs=1, log_every_n_steps=2).fit(model, loader(), loader())
    results.wait_ended()
    series, settings = logged(daemon, "tiny")
    steps = range(2, STEPS + 1, 2)
    assert series["loss"] == pytest.approx({step: losses[ACCUMULATED * step - 1] for step in steps}, rel=1e-6)
    assert series["learning_rate"] == {step: 0.1 for step in steps}
    assert "validation" not in series
    assert settings.items() >= {"learning_rate": 0.1, "batch_size": BATCH, "accumulate_grad_batches": ACCUMULATED,
                                "model_type": "Model", "precision": "32-true", "max_epochs": 1}.items()


@BOTH
def test_losses_that_the_module_logs_go_by_their_names(framework, daemon, results, tmp_path):
    model = module(framework)
    losses = keep_losses(model, logged=True)
    trainer(framework, [attached(daemon)], tmp_path, epochs=2, log_every_n_steps=1).fit(model, loader(), loader())
    results.wait_ended()
    series, _ = logged(daemon, "tiny")
    assert set(series) == {"train_loss", "val_loss", "learning_rate"}
    assert series["train_loss"] == pytest.approx(
        {step: losses[ACCUMULATED * step - 1] for step in range(1, 2 * STEPS + 1)}, rel=1e-6)
    assert series["val_loss"] == {STEPS: 2.5, 2 * STEPS: 2.5}


@BOTH
def test_two_optimizers_stepped_by_hand_log_the_loss_as_it_is(framework, daemon, results, tmp_path):
    model = module(framework, by_hand=True)
    losses = keep_losses(model)
    trainer(framework, [attached(daemon)], tmp_path, epochs=1, log_every_n_steps=1,
            accumulate_grad_batches=1).fit(model, loader())
    results.wait_ended()
    series, _ = logged(daemon, "tiny")
    assert list(series["loss"].values()) == pytest.approx(losses, rel=1e-6)


@BOTH
def test_an_alert_saves_a_checkpoint_and_stops_the_trainer(framework, critical, tmp_path):
    acts = [attnd.checkpoint_on("critical"), attnd.stop_on("critical")]
    fitted = trainer(framework, [attached(critical, endpoint=None, address=critical.directory, on_alert=acts)], tmp_path, epochs=MANY)
    fitted.fit(module(framework), loader())
    assert 0 < fitted.global_step < MANY * STEPS and fitted.should_stop
    saved = torch.load(tmp_path / f"attnd-step-{fitted.global_step}.ckpt", weights_only=False)
    assert saved["global_step"] == fitted.global_step
