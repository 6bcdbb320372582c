# SPDX-License-Identifier: MIT
"""What a training reports itself: its loss, which is judged, and its settings."""
import math
import signal

import pytest
from harness import Attnd, Reader, Trainer, attnctl, softmax_maps, wait_until
from test_record import Recorder


def series_of(attnd, **params):
    """Name to {step: value} of what is stored of a run."""
    answer = attnd.call("log", **params)
    return {one["name"]: dict(zip(one["step"], one["value"])) for one in answer["series"]}


def await_steps(attnd, steps, job="gpt"):
    """The history commits now and then, and knows nothing of the run before."""
    def stored():
        known = any(run["job"] == job for run in attnd.call("runs")["runs"])
        return known and list(series_of(attnd, job=job).get("loss", {})) == steps
    wait_until(stored, f"a loss of steps {steps}")


def test_a_loss_is_published_and_kept(attnd):
    reader, trainer = Reader(attnd, "log/gpt/"), Trainer(attnd, "gpt")
    trainer.event("log", epoch=1, step=40, values={"loss": 2.5, "lr": 3e-4})
    topic, result = reader.next()
    assert topic == "log/gpt/"
    assert (result["kind"], result["run"], result["epoch"], result["step"]) == ("log", trainer.run.hex(), 1, 40)
    assert result["values"] == {"loss": 2.5, "lr": 3e-4} and result["snapshot"] is False
    trainer.event("log", epoch=1, step=50, values={"loss": None})
    assert reader.next()[1]["values"] == {"loss": None}
    await_steps(attnd, [40, 50])
    assert series_of(attnd, job="gpt") == {"loss": {40: 2.5, 50: None}, "lr": {40: 3e-4}}
    late = Reader(attnd, "log/").next()[1]
    assert (late["step"], late["values"], late["snapshot"]) == (50, {"loss": None}, True)
    attnd.settled(2)
    assert attnd.stats()["events"] == 2


def test_only_what_is_new_may_be_asked_for(attnd):
    trainer = Trainer(attnd, "gpt")
    for step in (10, 20, 30):
        trainer.event("log", step=step, values={"loss": float(step)} if step < 30 else {"lr": 0.5})
    wait_until(lambda: any(run["job"] == "gpt" for run in attnd.call("runs")["runs"])
               and len(series_of(attnd, job="gpt")) == 2, "both names")
    assert series_of(attnd, job="gpt", **{"from": 20}) == {"loss": {20: 20.0}, "lr": {30: 0.5}}
    assert series_of(attnd, job="gpt", **{"from": 2**64 - 1}) == {"loss": {}, "lr": {}}


def test_few_points_may_be_asked_for(attnd):
    trainer = Trainer(attnd, "gpt")
    for step in range(21):
        trainer.event("log", step=step, values={"loss": float(step)})
    await_steps(attnd, list(range(21)))
    assert list(series_of(attnd, job="gpt", points=5)["loss"]) == [0, 9, 10, 20], "the first and the last of two halves"
    assert list(series_of(attnd, job="gpt", points=2)["loss"]) == [0, 20]
    assert len(series_of(attnd, job="gpt", points=100)["loss"]) == 21
    with pytest.raises(RuntimeError, match="argument"):
        attnd.call("log", job="gpt", points=1)


@pytest.mark.parametrize("points", [4, 6, 40, 120, 900])
def test_few_points_keep_the_jump_and_what_is_not_finite(attnd, points):
    trainer, odd = Trainer(attnd, "gpt"), {777: None, 1234: 50.0}
    for step in range(1900):
        trainer.event("log", step=step, values={"loss": odd.get(step, 1 + step * 7919 % 101 / 100)})
    await_steps(attnd, list(range(1900)))
    few = series_of(attnd, job="gpt", points=points)["loss"]
    assert points / 2 < len(few) <= points
    assert {0, 777, 1234, 1899} <= set(few) and few[777] is None and few[1234] == 50.0


def test_a_log_moves_neither_windows_nor_the_position_of_the_run(attnd, rng):
    reader, trainer = Reader(attnd, "summary/", "job/"), Trainer(attnd, "gpt")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), epoch=0, step=7)
    trainer.event("log", epoch=5, step=10**6, values={"loss": 1.0})
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4), epoch=0, step=8)
    trainer.event("epoch_end", epoch=0, step=8)
    summary = next(result for topic, result in iter(reader.next, None) if topic.startswith("summary/"))
    assert (summary["messages"], summary["window"]["partial"], summary["step"]) == (2, False, 8)
    assert [job["step"] for job in attnd.call("jobs")] == [8]
    attnd.settled(4)


BAD = {"nan": ({"loss": float("nan")}, "key_range"), "infinite": ({"loss": float("inf")}, "key_range"),
       "none": ({}, "key_range"), "33": ({f"n{i}": 0 for i in range(33)}, "key_range"),
       "long": ({"n" * 65: 0}, "key_range"), "control": ({"\x1b[2J": 0}, "key_range"), "text": ({"loss": "1"}, "key_type"),
       "list": ([1], "key_type")}


def test_what_is_no_log_is_refused_and_counted(attnd):
    trainer, expected = Trainer(attnd, "gpt"), {}
    trainer.event("log", step=1, values={"loss": 1.0})
    for count, (name, (values, reason)) in enumerate(BAD.items(), 2):
        trainer.event("log", step=2, values=values)
        expected[reason] = expected.get(reason, 0) + 1
        assert attnd.settled(count)["dropped"] == expected, name
    await_steps(attnd, [1])


def test_names_beyond_64_are_counted(attnd):
    trainer = Trainer(attnd, "gpt")
    for first in range(0, 96, 32):
        trainer.event("log", step=1, values={f"n{first + i}": i for i in range(32)})
    wait_until(lambda: attnd.stats()["log_refused"] == 32, "the names beyond")
    assert len(attnd.call("log", job="gpt")["series"]) == 64


def test_settings_are_kept_with_their_run(attnd):
    settings = {"learning_rate": 3e-4, "warmup_steps": 100, "fp16": True, "model_type": "<b>gpt2"}
    first = Trainer(attnd, "gpt")
    first.event("hello", settings=settings)
    second = Trainer(attnd, "gpt")
    second.event("hello", settings={**settings, "learning_rate": 1e-2})
    third = Trainer(attnd, "gpt")
    third.event("hello")
    third.event("log", step=1, values={"loss": 1.0})

    def found():
        return {run["run"]: run["settings"] for run in attnd.call("runs", job="gpt")["runs"]}
    wait_until(lambda: len(found()) == 3 and found()[second.run.hex()], "the runs")
    assert found() == {first.run.hex(): settings, second.run.hex(): {**settings, "learning_rate": 1e-2},
                       third.run.hex(): {}}


def test_a_restart_keeps_the_log_and_goes_on(attnd):
    trainer = Trainer(attnd, "gpt")
    trainer.event("log", step=1, values={"loss": 3.0})
    attnd.settled(1)
    attnd.restart(trainer)
    trainer.event("log", step=2, values={"loss": 2.0})
    await_steps(attnd, [1, 2])
    assert attnd.stats()["lost"] == 0


def firing(attnd):
    return [(one["rule"], one["severity"], one["since"], one["message"]) for one in attnd.call("alerts", job="gpt")["firing"]]


def kept(attnd, messages):
    """A kill loses none of the run's, nor an alert."""
    wait_until(lambda: attnd.messages_kept() == messages, "a checkpoint")


def test_a_loss_that_is_not_finite_is_an_alert_with_its_steps_after_a_kill_as_well():
    attnd = Attnd("history.commit=20ms", "history.checkpoint=100ms")
    reader, trainer = Reader(attnd, "alert/gpt/"), Trainer(attnd, "gpt")
    trainer.event("log", step=400, values={"loss": 2.5, "eval_loss": None, "reward": None})
    trainer.event("log", step=450, values={"loss": None})
    told = reader.next()[1]
    assert (told["rule"], told["state"], told["severity"], told["since"]) == ("loss_invalid", "firing", "critical", [400, 450])
    assert (told["step"], told["value"], told["layer"], told["head"]) == (450, 0.5, None, None)
    before = [("loss_invalid", "critical", [400, 450],
               "loss is NaN or infinite since step 450, at step 400 it was finite")]
    assert firing(attnd) == before
    kept(attnd, 2)
    attnd.restart(trainer, sig=signal.SIGKILL)
    assert firing(attnd) == before
    again = Reader(attnd, "alert/gpt/")
    for step in range(500, 500 + 32 * 50, 50):
        trainer.event("log", step=step, values={"loss": 2.5})
    over = again.next()[1]
    assert (over["state"], over["step"], over["message"]) == ("resolved", 2050, "loss is finite again")
    assert firing(attnd) == []


def test_a_loss_that_rises_is_an_alert_with_its_steps_whatever_is_killed_on_the_way():
    attnd = Attnd("history.commit=20ms", "history.checkpoint=100ms")
    trainer = Trainer(attnd, "gpt")

    def log(steps):
        for step in steps:
            noise = (step * 7919 % 101 - 50) / 1000
            trainer.event("log", step=10 * step, values={"loss": 1 + 3 * math.exp(-step / 40) + 2.5 * (step >= 200) + noise})
    log(range(0, 205))
    kept(attnd, 205)
    attnd.restart(trainer, sig=signal.SIGKILL)
    assert firing(attnd) == []
    log(range(205, 260))
    kept(attnd, 260)
    (rule, severity, since, message), = firing(attnd)
    assert (rule, severity, since) == ("loss_rises", "warning", [1990, 2000]) and message.startswith("loss has risen to 3.")
    attnd.restart(trainer, sig=signal.SIGKILL)
    assert firing(attnd) == [(rule, severity, since, message)]
    assert attnd.call("verdict", job="gpt")["alerts"][0]["rule"] == "loss_rises"
    assert "loss_rises" in attnctl(attnd, "alerts", "gpt").stdout


def test_a_recording_has_what_was_logged_and_replays_it(attnd, rng, tmp_path):
    path = tmp_path / "run.rec"
    recorder = Recorder(attnd, "gpt", path, "--until-end")
    trainer = Trainer(attnd, "gpt")
    trainer.event("hello", settings={"lr": 0.5})
    for step in range(4):
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
        trainer.event("log", step=step, values={"loss": 4.0 - step, "norm": None})
    trainer.event("bye", step=3)
    assert recorder.end()[0] == 0
    await_steps(attnd, [0, 1, 2, 3])
    fresh = Attnd()
    assert attnctl(fresh, "replay", path).returncode == 0
    await_steps(fresh, [0, 1, 2, 3])
    assert fresh.call("log", job="gpt")["series"] == attnd.call("log", job="gpt")["series"]
    assert [run["settings"] for run in fresh.call("runs")["runs"]] == [{"lr": 0.5}]
    judged = attnctl(attnd, "check", path)
    assert judged.returncode == 0, judged


def test_a_recording_is_judged_by_its_loss_as_the_run_was(attnd, rng, tmp_path):
    path = tmp_path / "run.rec"
    recorder, trainer = Recorder(attnd, "gpt", path, "--until-end"), Trainer(attnd, "gpt")
    for step in range(6):
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
        trainer.event("log", step=step, values={"loss": None if step in (3, 5) else 4.0 - step})
    trainer.event("bye", step=5)
    assert recorder.end()[0] == 0

    def told(of):
        return [{key: one[key] for key in ("rule", "state", "step", "value", "since", "message")}
                for one in of.call("alerts", job="gpt")["alerts"]]
    wait_until(lambda: any(run["job"] == "gpt" for run in attnd.call("runs")["runs"]) and len(told(attnd)) == 2, "the alerts")
    assert [(one["state"], one["step"], one["since"]) for one in told(attnd)] == [("firing_at_end", 5, [2, 3]), ("firing", 3, [2, 3])]
    fresh = Attnd()
    assert attnctl(fresh, "replay", path).returncode == 0
    wait_until(lambda: any(run["job"] == "gpt" for run in fresh.call("runs")["runs"]) and len(told(fresh)) == 2, "the alerts")
    assert told(fresh) == told(attnd)
    judged = attnctl(attnd, "check", path)
    assert judged.returncode == 1 and judged.stdout.splitlines()[0] == (
        "critical loss_invalid between steps 2 and 3: loss is NaN or infinite since step 3, at step 2 it was finite")


def test_tail_prints_what_is_logged(attnd):
    trainer = Trainer(attnd, "gpt")
    trainer.event("log", step=40, values={"loss": 2.5, "norm": None})
    attnd.settled(1)
    tail = attnctl(attnd, "tail", "log/gpt/", "--count", 1, TZ="UTC")
    assert (tail.returncode, tail.stdout) == (0, "log     gpt step 40: loss 2.5 norm - (last value)\n"), tail
    assert "no topic begins with 'lo/'" in attnctl(attnd, "tail", "lo/").stderr
