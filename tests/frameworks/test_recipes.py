# SPDX-License-Identifier: MIT
"""Each recipe of deploy/site/pages/recipes.md, run as it stands there with the real framework and a real daemon: every layer
arrives with the steps of the training, and losses and weights are the same bits without attnd."""
import importlib.util
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.6")
import own_runs  # noqa: E402
import ranks  # noqa: E402
import recipes  # noqa: E402
from attnd.results import alerts  # noqa: E402
from attnd.results.control import Control  # noqa: E402
from conftest import logged  # noqa: E402
from harness import Attnd  # noqa: E402
from recipes import ACCUMULATED, HEADS, LAYERS, PAGES, RECIPES, STEPS, TOKENS  # noqa: E402
from test_on_alert import OTHERS  # noqa: E402


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """A daemon that has every step of every job captured, all samples of it."""
    started = Attnd(config="jobs: {'*': {plan.every: 1, plan.samples: 0}}\n")
    monkeypatch.setenv("ATTND_ADDRESS", started.directory)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield started
    started.close()


def test_every_section_of_the_page_is_here():
    text = (PAGES / "recipes.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == list(RECIPES)
    assert text.count("```python\n") == len(RECIPES)


def assert_right(results, job, layers=LAYERS, steps=STEPS, each=ACCUMULATED, window=1):
    """Every layer has `each` messages of each step, in windows of `window` steps."""
    results.wait_ended()
    assert {result["job"] for result in results.live} == {job}
    expected = [(0, step) for step in range(steps) for _ in range(each)]
    assert {layer: sorted(seen) for layer, seen in results.steps().items()} == \
        {("decoder", layer, "self"): expected for layer in range(layers)}
    assert {summary["window"]["length"] for summary in results.summaries} == {window}


def assert_entropy(results, expected, rank=0):
    """The first message of the first layer has these entropies, of the heads that a rank has."""
    first = next(one for one in results.live if (one["layer"], one["rank"], one["tier"] not in ("weights", "sketch")) == (0, rank, True))
    entropy = np.asarray(first["heads"]["entropy"], float)
    assert len(expected) == np.count_nonzero(~np.isnan(entropy))
    assert entropy[~np.isnan(entropy)] == pytest.approx(expected, rel=1e-4) and np.std(expected) > 1e-3


def skip_without(packages):
    for package in packages:
        if any(importlib.util.find_spec(part) is None for part in (package.partition(".")[0], package)):
            pytest.skip(f"{package} is not installed")


def trained(heading, tmp_path, **more):
    """The training that is watched, after which the same has run without attnd."""
    skip_without(RECIPES[heading].needs)
    watched = recipes.train(heading, str(tmp_path / "watched"), True, **more)
    alone = recipes.train(heading, str(tmp_path / "alone"), False)
    assert recipes.same(watched, alone)
    return watched._replace(entropy=alone.entropy)


@pytest.mark.parametrize("heading, job, window", [("Hugging Face Trainer", "trainer", 200), ("Lightning", "lightning", 1),
                                                  ("Accelerate", "accelerate", 1)])
def test_microbatches_are_parts_of_the_steps_of(heading, job, window, results, tmp_path):
    done = trained(heading, tmp_path)
    assert_right(results, job, window=window)
    assert_entropy(results, done.entropy)


def rows_of(results, layer=0):
    return [result["rows"] // HEADS for result in results.live if (result["layer"], result["tier"] not in ("weights", "sketch")) == (layer, True)]


def test_sft_counts_no_padding(results, tmp_path):
    done = trained("TRL: SFT", tmp_path)
    assert_right(results, "sft", each=1)
    assert_entropy(results, done.entropy)
    lengths = sorted(len(row["input_ids"]) for row in done.names["trainer"].train_dataset)
    assert len(set(lengths)) > 1 and all(4 * lengths[0] <= rows < 4 * TOKENS for rows in rows_of(results))


def test_grpo_shows_what_is_trained_on_and_no_rollouts(results, tmp_path):
    tokens, rollouts = [], []

    def see(_, __, given):
        if torch.is_grad_enabled():
            tokens.append(int(given["attention_mask"].sum()))
        else:
            rollouts.append(given["input_ids"].shape)

    done = trained("TRL: GRPO", tmp_path, before=lambda names: names["model"].register_forward_pre_hook(see, with_kwargs=True))
    assert_right(results, "grpo", steps=2 * STEPS, each=1, window=50)
    assert_entropy(results, done.entropy)
    assert len(rollouts) > len(tokens) == 2 * STEPS and rows_of(results) == tokens


def test_a_plain_loop_stays_compiled(daemon, results, tmp_path):
    done = trained("nanoGPT, litgpt, your own loop", tmp_path)
    assert_right(results, "nano", window=200)
    names = recipes.nano(str(tmp_path / "eager"))
    with recipes.first_attention() as entropy:
        names["model"](names["microbatches"](0)[0][0])
    assert_entropy(results, entropy)
    series, _ = logged(daemon, "nano")
    last = done.losses[ACCUMULATED - 1::ACCUMULATED]  # of the microbatches of each step
    assert series["loss"] == {step: pytest.approx(ACCUMULATED * loss, rel=1e-6) for step, loss in enumerate(last)}


def run_ranks(heading, tmp_path, **options):
    """Each rank's report of its training, of which it had one without attnd as well, and what the first one said."""
    skip_without(RECIPES[heading].needs)
    found, said = ranks.run(recipes.__file__, tmp_path / "ranks", RECIPES[heading].world, heading=heading, directory=tmp_path,
                            **options)
    assert all(one["same"] for one in found)
    return found, said


@pytest.mark.parametrize("stage", [1, 3])
def test_ranks_of_deepspeed(stage, results, tmp_path):
    found, said = run_ranks("DeepSpeed", tmp_path, stage=stage)
    assert_right(results, "deepspeed", each=2 * ACCUMULATED)
    for rank, one in enumerate(found):
        assert_entropy(results, one["entropy"], rank)
    sent = {result["layer"] for result in results.live if result["tier"] == "weights"}
    assert sent == (set() if stage == 3 else set(range(LAYERS)))
    assert ("it is sharded (FSDP, ZeRO)" in said) == (stage == 3)


@pytest.mark.parametrize("heading, job, each", [("FSDP2 and tensor parallel", "fsdp-tp", 4), ("Megatron core", "megatron", 2)])
def test_ranks_have_slices_of_the_heads(heading, job, each, results, tmp_path):
    found, _ = run_ranks(heading, tmp_path)
    assert_right(results, job, each=each)
    for rank, one in enumerate(found):
        assert len(one["entropy"]) == HEADS // 2
        assert_entropy(results, one["entropy"], rank)
    assert {summary["ranks"] for summary in results.summaries} == {each}
    assert all(np.isfinite(np.asarray(summary["heads"]["entropy"]["mean"], float)).all() for summary in results.summaries)


def test_the_trainer_of_torchtitan(results, tmp_path):
    run_ranks("torchtitan", tmp_path)
    assert_right(results, "titan", layers=6)


# ------------------------------------------------------------------------------------- the user's own runs

WINDOW, WINDOWED_STEPS = 5, 24  # the last window is cut short by the end
SEEN = "".join(["jobs: {'*': {plan.every: 1, plan.samples: 0}}\nrules:\n", *(f"  {name}: {{enabled: false}}\n" for name in OTHERS),
                "  seen: {metric: confidence, each: layer, above: 0}\n"])


@pytest.fixture
def windowed(tmp_path, monkeypatch):
    """A daemon in which an alert of each layer fires, and what it answered whoever asked for a plan. The tools keep their
    files in tmp_path."""
    started, answers, plan = Attnd("window.rank_grace=0", "http.enabled=true", config=SEEN), [], Control.plan
    monkeypatch.setattr(Control, "plan", lambda *given: answers.append(plan(*given)) or answers[-1])
    monkeypatch.setattr(alerts, "LOOK_EVERY_S", 0.02)  # steps are short
    for name, value in {"ATTND_ADDRESS": started.directory, "XDG_STATE_HOME": tmp_path / "state", "WANDB_DIR": tmp_path,
                        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}.items():
        monkeypatch.setenv(name, str(value))
    yield started, answers
    started.close()


def told_by_attnd(daemon, job):
    """{number of log_to: {step: its value}} by the API, without what capturing cost."""
    found = {name: {} for name in ("lowest_entropy", "lowest_entropy_layer", "lowest_entropy_head", "max_logit", "failed_checks")}
    with Control(address=daemon.directory, timeout=60.0) as control:
        entropy, logits = ([control.history(job, layer=layer, metric=metric) for layer in range(LAYERS)]
                           for metric in ("entropy", "max_logit"))
        firing = control.call("verdict", {"job": job})["alerts"]
    for place, step in enumerate(int(step) for step in entropy[0]["windows"]["step"]):
        means = np.array([layer["values"]["mean"][:, place] for layer in entropy])
        layer, head = np.unravel_index(means.argmin(), means.shape)
        of_window = (means.min(), layer, head, max(layer["values"]["max"][:, place].max() for layer in logits),
                     sum(alert["since"][1] <= step for alert in firing))
        for name, value in zip(found, of_window):
            found[name][step] = pytest.approx(value, rel=1e-6)
    return found


def assert_same_numbers(windowed, job, runs):
    """The files of each tool have attnd's numbers of each window, and a link to the page. Returns the losses that attnd has."""
    daemon, answers = windowed
    series, _ = logged(daemon, job)
    expected = told_by_attnd(daemon, job)
    ends = [*range(WINDOW - 1, WINDOWED_STEPS, WINDOW), WINDOWED_STEPS - 1]
    assert not any(name.startswith(("train/", "attnd/")) for name in series)
    assert list(expected["max_logit"]) == ends and expected["failed_checks"] == {step: LAYERS for step in ends}
    costs = [pytest.approx(answer["cost"]["part"], rel=1e-6) for answer in answers if answer["cost"]]
    for tool, (numbers, texts) in runs.items():
        assert {name: numbers[f"attnd/{name}"] for name in expected} == expected, tool
        cost = numbers["attnd/capture_cost"]
        assert cost and set(cost) <= set(ends) and all(value in costs for value in cost.values()), (tool, cost)
        assert f"/#/overview?job={job}&run=" in texts["attnd/page"], tool
    return series


def test_four_tools_of_report_to_have_the_numbers_of_attnd(windowed, tmp_path):
    skip_without(("accelerate", *(needed := ("tensorboard", "wandb", "mlflow", "trackio"))))
    import mlflow
    import wandb
    wandb.teardown()  # it reads its environment once

    def before(names):
        names["arguments"].report_to, names["arguments"].max_steps = list(needed), WINDOWED_STEPS

    done = recipes.train("Hugging Face Trainer", str(tmp_path / "watched"), True, before,
                         lambda block: block.replace("window=200", f"window={WINDOW}"))
    wandb.finish()
    runs = {"TensorBoard": own_runs.read_tensorboard(tmp_path / "watched"), "W&B": own_runs.read_wandb(tmp_path),
            "MLflow": own_runs.read_mlflow(mlflow.last_active_run().info.run_id), "Trackio": own_runs.read_trackio("huggingface")}
    series = assert_same_numbers(windowed, "trainer", runs)
    losses = [log["loss"] for log in done.names["trainer"].state.log_history if "loss" in log]
    assert list(series["loss"].values()) == losses and len(losses) == WINDOWED_STEPS
    for tool, (numbers, _) in runs.items():
        assert list(numbers["loss" if tool == "MLflow" else "train/loss"].values()) == pytest.approx(losses, rel=1e-6), tool


def test_four_tools_of_a_lightning_training_have_the_numbers_of_attnd(windowed, tmp_path):
    skip_without(("lightning", "transformers", "tensorboard", "wandb", "mlflow", "trackio"))
    import mlflow
    import trackio
    import wandb
    from lightning.pytorch import loggers

    board, bias, flow = (loggers.TensorBoardLogger(tmp_path / "runs"), loggers.WandbLogger(save_dir=tmp_path, offline=True),
                         loggers.MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))
    own = trackio.init(project="own", auto_log_cpu=False)

    def before(names):
        names["arguments"].update(max_epochs=WINDOWED_STEPS // STEPS, logger=[board, bias, flow], log_every_n_steps=1)
        names["runs"] = [board.experiment, bias.experiment, mlflow.get_run(flow.run_id), own]

    recipes.train("Lightning", str(tmp_path / "watched"), True, before,
                  lambda block: block.replace("every=20)", f"every=20, window={WINDOW}, log_to=runs)"))
    wandb.finish()
    trackio.finish()
    runs = {"TensorBoard": own_runs.read_tensorboard(tmp_path / "runs"), "W&B": own_runs.read_wandb(tmp_path),
            "MLflow": own_runs.read_mlflow(flow.run_id), "Trackio": own_runs.read_trackio("own")}
    series = assert_same_numbers(windowed, "lightning", runs)
    losses = list(series["loss"].values())
    assert len(losses) == WINDOWED_STEPS
    for tool in ("TensorBoard", "W&B", "MLflow"):
        assert list(runs[tool][0]["loss"].values()) == pytest.approx(losses, rel=1e-6), tool
