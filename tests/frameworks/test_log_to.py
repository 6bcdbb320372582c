# SPDX-License-Identifier: MIT
"""attnd.watch(..., log_to=X): the files of the user's own run, read by the tool's own reader, have the numbers of the API for
the same windows, beside what the training logged itself, which attnd has as well."""
import logging
from unittest.mock import Mock

import pytest

torch = pytest.importorskip("torch")

import attnd  # noqa: E402
from attnd.results import alerts, trackers  # noqa: E402
from conftest import PATIENCE_S, Attnd, logged, wait_until  # noqa: E402
from own_runs import TOOLS, Mlflow, TensorBoard, Trackio, Wandb, WandbRows  # noqa: E402
from test_on_alert import RULES, Model  # noqa: E402

STEPS, WINDOW, SHARP_AT = 46, 4, 30  # the last window is cut short by the end
NUMBERS = ("lowest_entropy", "lowest_entropy_layer", "lowest_entropy_head", "failed_checks")


@pytest.fixture
def judging(tmp_path, monkeypatch):
    """An attnd with a page, whose windows are four steps, and which finds sharp attention critical."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(alerts, "LOOK_EVERY_S", 0.02)  # steps are short
    started = Attnd("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "window.rank_grace=0",
                    "http.enabled=true", config=RULES)
    yield started
    started.close()


@pytest.fixture
def writer(tmp_path):
    return TensorBoard(tmp_path).target


class Training:
    """Two layers, the second of which becomes sharp. A context manager, of the watch."""

    def __init__(self, daemon, **options):
        self.model = torch.nn.Sequential(Model(), Model())
        self.model[0].sharpness = 1.0
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01)
        self.watch = attnd.watch(self.model, "mine", address=daemon.directory, every=1, samples=0, tier="raw", wait=PATIENCE_S,
                                 **{"steps": "manual", **options})
        if self.watch._alerts is not None:
            wait_until(lambda: daemon.stats()["subscriptions"], "somebody who hears of windows")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.watch.close()

    def until(self, done):
        wait_until(lambda: [self.step(), done()][1], "it")

    def step(self):
        loss = self.model(torch.randn(2, 8, 8)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.watch.step()
        return loss.item()


def windows_of(daemon, job):
    """{step: {lowest_entropy, lowest_entropy_layer, lowest_entropy_head}} by the API."""
    found = {}
    with attnd.Control(address=daemon.directory, timeout=PATIENCE_S) as control:
        for layer in control.windows(job)["layers"]:
            where = {key: layer[key] for key in ("stack", "layer", "site")}
            past = control.history(job, metric="entropy", **where, statistics=["mean"])
            for place, step in enumerate(past["windows"]["step"]):
                means = past["values"]["mean"][:, place]
                found.setdefault(int(step), []).append((means.min(), layer["layer"], int(means.argmin())))
    return {step: dict(zip(NUMBERS, min(lowest))) for step, lowest in found.items()}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_users_run_has_the_numbers_of_the_api_and_attnd_has_the_users(judging, tmp_path, monkeypatch, tool):
    tool, plan = TOOLS[tool](tmp_path), attnd.Control.plan
    before, losses, plans = getattr(tool.owner, tool.name), [], []
    monkeypatch.setattr(attnd.Control, "plan", lambda it, *given: plans.append((given, plan(it, *given))) or plans[-1][1])
    with Training(judging, log_to=tool.target) as training:
        for step in range(STEPS):
            if step == SHARP_AT:
                training.model[1].sharpness = 1000.0
            losses.append(training.step())
            tool.log(losses[-1], step)
        run = training.watch.publisher.run
    assert getattr(tool.owner, tool.name) == before  # as it was
    firing = judging.call("alerts", job="mine", limit=1)["firing"]
    numbers, texts = tool.read()
    expected = windows_of(judging, "mine")
    assert sorted(expected) == [*range(WINDOW - 1, STEPS, WINDOW), STEPS - 1]
    told = sorted(numbers["attnd/lowest_entropy"])
    assert told == sorted(expected) or (isinstance(tool, WandbRows) and set(told) <= set(expected) and told[-1] == STEPS - 1)
    for step in told:
        found = {name: numbers[f"attnd/{name}"][step] for name in NUMBERS[:3]}
        assert found == {name: pytest.approx(value, rel=1e-6) for name, value in expected[step].items()}
    layers = numbers["attnd/lowest_entropy_layer"]
    assert (layers[WINDOW - 1] if WINDOW - 1 in layers else 0, layers[STEPS - 1]) == (0, 1)
    checks = numbers["attnd/failed_checks"]
    assert checks == {step: sum(alert["since"][1] <= step for alert in firing) for step in told} and checks[STEPS - 1] == 1
    parts = [pytest.approx(answer["cost"]["part"], rel=1e-6) for given, answer in plans if given == ("mine",) and answer["cost"]]
    assert all(value in parts for value in numbers["attnd/capture_cost"].values())
    head = numbers["attnd/lowest_entropy_head"][STEPS - 1]
    assert texts["attnd/lowest_entropy"] == f"head {head:.0f} of encoder.1.self"
    assert texts["attnd/page"].startswith("http://127.0.0.1:") and texts["attnd/page"].endswith(f"/#/overview?job=mine&run={run}")
    assert list(numbers["loss"].items()) == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in enumerate(losses)]
    series, settings = logged(judging, "mine")
    assert list(series) == ["loss"] and list(series["loss"].values()) == pytest.approx(losses, rel=1e-6)
    assert settings == ({} if isinstance(tool, TensorBoard) else {"learning_rate": "0.1" if isinstance(tool, Mlflow) else 0.1})


def test_nothing_that_the_training_logs_itself_is_lost(tmp_path, judging):
    """Windows come while the training has still something to say of its row, and after the watch has ended."""
    tool = WandbRows(tmp_path)
    with Training(judging, log_to=tool.target) as training:
        for step in range(STEPS):
            tool.target.log({"loss": training.step()}, step=step)
            training.watch._alerts.run_log.write()
            tool.target.log({"accuracy": 0.5}, step=step)
    tool.target.log({"final": 1.0}, step=STEPS - 1)
    numbers, _ = tool.read()
    assert list(numbers["loss"]) == list(numbers["accuracy"]) == list(range(STEPS)) and numbers["final"] == {STEPS - 1: 1.0}


def test_a_tool_that_fails_is_told_once_and_gets_no_more(judging, writer, caplog, monkeypatch):
    other, told = writer, []
    writer = type(other)(str(other.log_dir) + "-full")
    monkeypatch.setattr(writer, "add_text", Mock(side_effect=OSError("the disk is full")))
    with caplog.at_level(logging.WARNING, "attnd"), Training(judging, log_to=[writer, other], on_alert=told.append) as training:
        training.model[1].sharpness = 1000.0
        training.until(lambda: told and [record for record in caplog.records if "TensorBoard takes nothing more" in record.getMessage()])
        assert not training.watch._alerts.run_log.is_over and "add_scalar" not in vars(writer)
    said = [record for record in caplog.records if "log_to" in record.getMessage()]
    assert len(said) == 1 and str(said[0].exc_info[1]) == "the disk is full"
    assert [alert["rule"] for alert in told] == ["sharp"]


def test_training_goes_on_and_ends_when_attnd_has_gone(judging, writer, monkeypatch):
    monkeypatch.setattr(alerts, "END_S", 0.1)
    with Training(judging, log_to=writer, linger=0.1) as training:
        judging.stop()
        for _ in range(2 * WINDOW):
            training.step()
    judging.start()  # to be stopped cleanly


def test_only_rank_0_writes(judging, writer):
    watch = attnd.watch(Model(), "mine", address=judging.directory, rank=1, world=2, wait=0, log_to=writer)
    assert watch._alerts is None and "add_scalar" not in vars(writer)
    watch.close()


@pytest.mark.parametrize("given", ["wandb", print, 3, object()])
def test_what_is_no_run_is_told_at_once(given):
    with pytest.raises(TypeError, match="^log_to = .*: must be a run of W&B .wandb.run., a SummaryWriter of TensorBoard, mlflow or a"):
        attnd.watch(Model(), "mine", wait=0, log_to=[given])


def test_a_run_that_has_not_begun_and_an_endpoint_are_told_at_once(writer):
    with pytest.raises(ValueError, match="needs address="):
        attnd.watch(Model(), "mine", "ipc:///nowhere/ingest", wait=0, log_to=writer)
    for name, begin in (("wandb", "wandb.init"), ("mlflow", "mlflow.start_run"), ("trackio", "trackio.init")):
        with pytest.raises(ValueError, match=f"no (active )?run yet: call {begin}.. before attnd.watch"):
            attnd.watch(Model(), "mine", wait=0, log_to=pytest.importorskip(name))


def test_all_forms_of_a_tool_are_taken(tmp_path, judging):
    def kinds(*given):
        return [type(tracker).__name__ for tracker in trackers.check_log_to(given, None)]

    wandb, mlflow, trackio = Wandb(tmp_path), Mlflow(tmp_path), Trackio(tmp_path)
    try:
        assert kinds(wandb.wandb, wandb.target) == ["Wandb"] * 2
        assert kinds(mlflow.mlflow, mlflow.run, mlflow.mlflow.MlflowClient().get_run(mlflow.run.info.run_id)) == ["Mlflow"] * 3
        assert kinds(trackio.trackio, trackio.target) == ["Trackio"] * 2
    finally:
        wandb.target.finish()
        mlflow.mlflow.end_run()
        trackio.trackio.finish()
