# SPDX-License-Identifier: MIT
"""A real Trainer of Hugging Face transformers with the callback, and a real daemon: every layer arrives, with the
trainer's own steps and epochs. The model is a GPT-2 with random weights, the data random tokens."""
import logging
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # Trainer does not do without

import attnd  # noqa: E402
from attnd.integrations.session import Session  # noqa: E402
from attnd.integrations.transformers import AttndCallback  # noqa: E402
from conftest import PATIENCE_S, logged, wait_until  # noqa: E402

LAYERS, HEADS, TOKENS, VOCABULARY = 3, 4, 16, 40
SAMPLES, BATCH, ACCUMULATED = 24, 2, 2
STEPS = SAMPLES // BATCH // ACCUMULATED  # of an epoch
ALL_LAYERS = {("decoder", layer, "self") for layer in range(LAYERS)}


class Tokens(torch.utils.data.Dataset):
    """Random tokens; reading sample `broken` fails."""

    def __init__(self, broken=None):
        self.rows = torch.randint(0, VOCABULARY, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(3))
        self.broken = broken

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if index == self.broken:
            raise RuntimeError("the user's own mistake")
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def gpt2():
    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_layer=LAYERS, n_head=HEADS, n_embd=32, n_positions=TOKENS, vocab_size=VOCABULARY))


def trainer(directory, callback, epochs=2, data=None, **more):
    arguments = transformers.TrainingArguments(
        str(directory), num_train_epochs=epochs, per_device_train_batch_size=BATCH, use_cpu=True,
        gradient_accumulation_steps=ACCUMULATED, disable_tqdm=True, **{"save_strategy": "no", "report_to": [], **more})
    return transformers.Trainer(gpt2(), arguments, train_dataset=data or Tokens(), eval_dataset=Tokens(),
                                callbacks=[callback] if callback else [])


def attached(daemon, **more):
    return AttndCallback("gpt-tiny", **{"endpoint": daemon.endpoint("ingest"), "every": 1, "wait": PATIENCE_S, **more})


def expected_steps(epochs):
    """(epoch, step) of each forward."""
    return [(epoch, epoch * STEPS + step) for epoch in epochs for step in range(STEPS) for _ in range(ACCUMULATED)]


def test_every_layer_arrives_with_the_steps_and_epochs_of_the_trainer(daemon, results, tmp_path):
    trained = trainer(tmp_path, attached(daemon), eval_strategy="epoch")
    trained.train()
    results.wait_ended()
    assert trained.state.global_step == 2 * STEPS
    assert results.steps() == {layer: expected_steps((0, 1)) for layer in ALL_LAYERS}
    windows = results.windows()
    assert set(windows) == ALL_LAYERS
    for summaries in windows.values():
        assert set(summaries) == {0, 1}
        for summary in summaries.values():
            messages = STEPS * ACCUMULATED + 1  # one of the layer's projection matrices
            assert (summary["tier"], summary["messages"], summary["causal"]) == ("qk", messages, True)
            assert set(summary["weights"]) == {"wq", "wk", "wv", "wo", "wq_wk", "wv_wo"}
            entropy = summary["heads"]["entropy"]["mean"]
            assert entropy.shape == (HEADS,) and np.all((entropy > 0) & (entropy < math.log(TOKENS)))


def test_the_induction_probe_is_one_argument_of_the_callback(daemon, results, tmp_path):
    with attached(daemon, probe="induction", probe_every=2) as callback:
        trainer(tmp_path, callback).train()
    results.wait_ended()
    wait_until(lambda: [job["state"] for job in daemon.call("jobs") if job["job"] == "gpt-tiny.probe"] == ["ended"], "its end")
    found = daemon.call("summary", job="gpt-tiny.probe")
    assert {(summary["stack"], summary["layer"], summary["site"]) for summary in found} == ALL_LAYERS
    assert all(summary["shape"] == [1, HEADS, TOKENS, TOKENS] and min(summary["heads"]["induction"]["count"]) >= TOKENS // 2
               for summary in found)


@pytest.mark.parametrize("first, seen", [
    pytest.param({"epochs": 1, "save_strategy": "epoch"}, 0, id="at the end of an epoch"),
    pytest.param({"max_steps": STEPS + 2, "save_strategy": "steps", "save_steps": STEPS + 2}, 2, id="in the middle of one")])
def test_a_training_that_goes_on_from_a_checkpoint_goes_on_counting(daemon, results, tmp_path, first, seen):
    trainer(tmp_path, None, **first).train()
    trainer(tmp_path, attached(daemon)).train(resume_from_checkpoint=True)
    results.wait_ended()
    assert results.steps() == {layer: expected_steps((1,))[seen * ACCUMULATED:] for layer in ALL_LAYERS}


def test_what_the_trainer_logs_arrives_and_is_what_it_logs_when_nobody_watches(daemon, results, tmp_path):
    runs = []
    for callback in (None, attached(daemon, settings={"seed": 7, "note": "mine"})):
        runs.append(trainer(tmp_path, callback, epochs=1, logging_steps=1, eval_strategy="epoch", learning_rate=1e-3,
                            warmup_steps=2))
        runs[-1].train()
    results.wait_ended()
    alone, run = runs
    series, settings = logged(daemon, "gpt-tiny")
    for name in ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_runtime", "train_loss"):
        assert series[name] == {log["step"]: log[name] for log in run.state.log_history if name in log}, name
    assert list(series["loss"]) == list(range(1, STEPS + 1)) and list(series["eval_loss"]) == [STEPS]
    assert list(series["loss"].values()) == [log["loss"] for log in alone.state.log_history if "loss" in log]
    weights = alone.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
    assert settings.items() >= {"learning_rate": 1e-3, "warmup_steps": 2, "per_device_train_batch_size": BATCH,
                                "gradient_accumulation_steps": ACCUMULATED, "precision": "fp32", "model_type": "gpt2",
                                "lr_scheduler_type": "linear", "seed": 7, "note": "mine"}.items()


def test_all_numbers_that_a_trainer_logs_arrive_under_their_names(daemon, results, tmp_path):
    class Rewarded(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            trained.log({"reward": 0.5 * state.global_step, "objective/kl": torch.tensor(2.0), "note": "mine", "done": True})

    trained = trainer(tmp_path, attached(daemon), epochs=1, logging_steps=1)
    trained.add_callback(Rewarded())
    trained.train()
    results.wait_ended()
    series, _ = logged(daemon, "gpt-tiny")
    steps = range(1, STEPS + 1)
    assert series["reward"] == {step: 0.5 * step for step in steps}
    assert series["objective/kl"] == {step: 2.0 for step in steps}
    assert not {"note", "done", "epoch"} & set(series)


MANY = 4000  # steps, which nobody waits for


def watched(daemon, *acts):
    return attached(daemon, endpoint=None, address=daemon.directory, on_alert=list(acts))


def test_an_alert_saves_a_checkpoint_and_stops_the_trainer(critical, tmp_path):
    trained = trainer(tmp_path, watched(critical, attnd.checkpoint_on("critical"), attnd.stop_on("critical")), max_steps=MANY)
    trained.train()
    step = trained.state.global_step
    assert 0 < step < MANY
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{step}"]


def test_a_function_that_fails_stops_no_trainer_and_is_told_once(critical, tmp_path, caplog):
    called = []

    def fails(alert):
        called.append(alert["rule"])
        if len(called) > 1:
            raise attnd.StopTraining("enough")
        raise RuntimeError("the user's own mistake")

    with caplog.at_level(logging.WARNING, "attnd"):
        trained = trainer(tmp_path, watched(critical, fails), max_steps=MANY)
        trained.train()
    assert len(called) >= 2 and trained.state.global_step < MANY
    said = [record.getMessage() for record in caplog.records if record.name == "attnd"]
    assert [text.partition(": ")[2].partition(";")[0] for text in said] == [
        "a function of on_alert failed", f"training stops after step {trained.state.global_step}: enough"]


def test_a_failed_training_raises_the_users_own_error_and_the_context_ends_the_watch(daemon, results, tmp_path):
    with attached(daemon) as callback:
        with pytest.raises(RuntimeError, match="the user's own mistake"):
            trainer(tmp_path, callback, data=Tokens(broken=7)).train()
        assert callback.watch is not None
    assert callback.watch is None
    results.wait_ended()


def test_the_next_training_with_the_same_callback_is_a_run_of_its_own(daemon, results, tmp_path):
    callback = attached(daemon)
    with pytest.raises(RuntimeError):
        trainer(tmp_path, callback, data=Tokens(broken=7)).train()
    trainer(tmp_path, callback, epochs=1).train()
    results.wait_ended(runs=2)
    last = results.jobs[-1]["run"]
    assert {result["step"] for result in results.live if result["run"] == last} == set(range(STEPS))


@pytest.mark.parametrize("options", [{"every": -1}, {"endpoint": "nonsense"}])
def test_what_cannot_be_watched_is_said_once_and_the_training_goes_on(options, daemon, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "attnd"):
        trained = trainer(tmp_path, attached(daemon, **options), epochs=1)
        trained.train()
    assert trained.state.global_step == STEPS
    message, = (record.getMessage() for record in caplog.records if record.name == "attnd")
    assert "gpt-tiny: the model could not be watched" in message


def test_several_devices_in_one_process_are_not_watched(daemon, tmp_path, caplog):
    callback = attached(daemon)
    run = trainer(tmp_path, None)
    run.args._n_gpu = 2  # as Trainer finds it on such a machine
    with caplog.at_level(logging.WARNING, "attnd"):
        callback.on_train_begin(run.args, run.state, run.control, model=run.model)
    assert callback.watch is None
    assert "gpt-tiny: not watched: torch.nn.DataParallel" in caplog.text


@pytest.mark.parametrize("options, error, text", [
    ({"job": ""}, ValueError, "job name"), ({"window": "50"}, ValueError, "window"),
    ({"first_step": 3}, TypeError, "first_step: the callback takes it from the trainer"),
    ({"evry": 5}, TypeError, "no argument 'evry'; did you mean 'every'"),
    ({"on_alert": "critical"}, ValueError, "on_alert = 'critical': must be a function"),
    ({"on_alert": attnd.stop_on}, ValueError, 'must say from which severity on, as stop_on."critical"'),
    ({"log_to": "wandb"}, TypeError, 'log_to = \'wandb\': must be .* "report_to"')])
def test_mistakes_of_the_callback_are_told_before_the_training(options, error, text):
    with pytest.raises(error, match=text):
        AttndCallback(**{"job": "gpt-tiny", **options})


def test_alerts_of_one_step_save_one_checkpoint():
    saved, session = [], Session("gpt-tiny", {})
    alert = {"rule": "mine", "message": "it is so"}
    session.watch = SimpleNamespace(current_step=0, step=lambda: [session._checkpoint(alert) for _ in range(2)], close=lambda: None)
    session.reached(1, save=lambda: saved.append(1))
    session.reached(1, save=lambda: saved.append(1))
    assert saved == [1, 1]


def test_a_callback_can_be_sent_to_another_process():
    acts = [attnd.checkpoint_on("critical"), attnd.stop_on("warning")]
    assert pickle.loads(pickle.dumps(AttndCallback("gpt-tiny", every=5, on_alert=acts))).watch is None
