# SPDX-License-Identifier: MIT
"""A collapse made of maps: control and HTTP give the same verdict on it, worst first, before and after restarts, after
kill -9, and from the history when the run is no longer in memory."""
import json
import signal

import numpy as np
import pytest
from harness import Trainer, attnctl, sharp_maps, wait_until
from web import Web

RULES = "rules: {mine: {metric: entropy_normalized, each: head, below: 0.3}, entropy_collapse: {for: 2}}\n"
HEADS = 4
FLAT = 1
WELL, COLLAPSED = [FLAT] * HEADS, [1000, 50, 400, 150]
UNMEASURED = "No numbers came in the last captures of decoder.1.self, decoder.2.self"
FIRING = [("entropy_collapse", None), ("mine", 0), ("mine", 2), ("mine", 3), ("mine", 1)]  # rule and head, worst first


def judging(*settings, config=None):
    return Web("window.unit=step", "window.rank_grace=0", "history.commit=50ms", "history.checkpoint=100ms", *settings,
               config=config)


def send(trainer, sharpness, steps):
    """Layer 1 has these heads, layer 0 is well."""
    for step in steps:
        for layer, sharp in enumerate((WELL, sharpness)):
            maps = sharp_maps(sharp, HEADS)
            trainer.attention(maps, step=step, causal=True, layer=layer, tokens=np.arange(maps.shape[2], dtype=np.int32)[None] % 5)


def collapse(attnd):
    """All is well for 5 steps; then the heads of layer 1 look at one key each."""
    trainer = Trainer(attnd, "gpt")
    send(trainer, WELL, range(5))
    send(trainer, COLLAPSED, range(5, 9))
    return trainer


def ended(attnd):
    trainer = collapse(attnd)
    trainer.event("bye", step=8)
    wait_until(lambda: [job["state"] for job in attnd.call("jobs")] == ["ended"], "the run to end")
    return trainer


def by_control(attnd, **params):
    return attnd.call("verdict", job="gpt", **params)


def by_http(attnd, query=""):
    return attnd.json("/api/v1/verdict?job=gpt" + query)


def by_attnctl(attnd, command):
    return attnctl(attnd, command, "gpt").stdout


def flat(text):
    """Without the breaks of lines."""
    return " ".join(text.split())


def judged(attnd, step):
    """The answer once the capture of this step has been judged, and a checkpoint has that."""
    def done():
        if not attnd.call("jobs") or by_control(attnd)["step"] != step or attnd.stats()["in_flight"] > 0:
            return False
        return attnd.messages_kept() == attnd.call("jobs")[0]["processed"]
    wait_until(done, f"step {step} to be judged")
    return by_control(attnd)


def firing(answer):
    return [(alert["rule"], alert["head"]) for alert in answer["alerts"] if alert["severity"] != "info"]


def test_it_is_the_same_everywhere_and_the_worst_comes_first():
    attnd = judging(config=RULES)
    trainer = collapse(attnd)
    answer = judged(attnd, 8)
    assert (answer["state"], answer["epoch"], answer["step"], answer["more"]) == ("active", 0, 8, False)
    assert firing(answer) == FIRING
    for alert in answer["alerts"]:
        assert (alert["stack"], alert["layer"], alert["site"], alert["state"]) == ("decoder", 1, "self", "firing")
        assert alert["since"] == [4, 5]
    worst, mine = answer["alerts"][:2]
    assert "head 0 has the lowest" in worst["message"] and worst["why"].endswith(".") and "learning rate" in worst["advice"]
    assert "why" not in mine, "it is no rule of attnd's own"
    assert answer["checks"]["judged"] > 5 and "head_silent" in answer["checks"]["unjudged"]
    assert by_http(attnd) == answer and attnd.call("alerts", job="gpt")["firing"] == answer["alerts"]
    said = flat(by_attnctl(attnd, "summary").split("\n\n")[0])
    assert said == f"critical entropy_collapse between steps 4 and 5: {worst['message']}; 4 more: attnctl alerts gpt"
    few = by_control(attnd, limit=2)
    assert (few["alerts"], few["more"]) == (answer["alerts"][:2], True) and by_http(attnd, "&limit=2") == few
    assert by_control(attnd, limit=len(answer["alerts"])) == answer, "a limit that all fit in leaves none out"


def test_a_run_in_which_nothing_fires_says_how_much_was_checked():
    attnd = judging()
    trainer = Trainer(attnd, "gpt")
    trainer.event("hello")
    wait_until(lambda: attnd.call("jobs"), "the run")
    assert (by_control(attnd)["step"], by_control(attnd)["checks"]["judged"]) == (None, 0)
    assert by_attnctl(attnd, "alerts").splitlines()[1] == "Not monitoring yet: the first check comes with the first capture"
    send(trainer, WELL, range(4))
    answer = judged(attnd, 3)
    assert (answer["alerts"], answer["more"]) == ([], False) and answer["checks"]["judged"] > 5
    passed, missing = answer["checks"]["judged"], answer["checks"]["unjudged"]
    said = flat(by_attnctl(attnd, "summary").split("\n\n")[0])
    assert said == f"No alerts: {passed} checks passed; {len(missing)} not measured: {', '.join(missing)}"
    said = by_attnctl(attnd, "alerts").splitlines()[1:]
    assert said[0] == f"{passed} checks passed; {len(missing)} not measured:"
    assert "  rank_odd: needs two windows, and three ranks or more" in said
    assert [line.split(":")[0].strip() for line in said[1:] if line[2] != " "] == missing


def test_checks_that_pass_say_nothing_of_layers_whose_numbers_have_stopped():
    """As where the rank that has them hangs, and the others go on. Layer 2 has never begun. A kill forgets none of it."""
    attnd = judging(config=RULES)
    trainer = Trainer(attnd, "gpt")
    trainer.event("hello", layers=[dict(stack="decoder", layer=layer, site="self", heads=HEADS) for layer in range(3)])
    send(trainer, WELL, range(3))

    def go_on(steps, sharpness=WELL):
        for step in steps:
            trainer.attention(sharp_maps(sharpness, HEADS), step=step, causal=True, layer=0)

    go_on(range(3, 18))
    assert judged(attnd, 17)["checks"]["unmeasured"] == ["decoder.2.self"]
    go_on([18])
    stopped = judged(attnd, 18)
    assert stopped["checks"]["unmeasured"] == ["decoder.1.self", "decoder.2.self"]
    attnd.restart(trainer, sig=signal.SIGKILL)
    assert by_control(attnd) == stopped
    said, = json.loads(attnctl(attnd, "alerts", "--json").stdout)["unmeasured"]
    assert said == {"job": "gpt", "run": trainer.run.hex(), "layers": stopped["checks"]["unmeasured"]}
    assert attnd.metric('attnd_training_layers_unmeasured{job="gpt"}') == 2
    assert f" gpt, run {trainer.run.hex()[:8]}: " + UNMEASURED in flat(attnctl(attnd, "alerts").stdout)
    attnd.call("plan.set", job="gpt", layers="decoder.[02].*")
    assert by_control(attnd)["checks"]["unmeasured"] == ["decoder.2.self"], "a plan may leave layers out"
    attnd.call("plan.reset", job="gpt")
    for command in ("summary", "alerts"):
        assert UNMEASURED in flat(by_attnctl(attnd, command))
    go_on(range(19, 22), COLLAPSED)
    assert firing(judged(attnd, 21)) == FIRING, "of layer 0"
    for command in ("summary", "alerts"):
        assert UNMEASURED in flat(by_attnctl(attnd, command))
    send(trainer, COLLAPSED, [22, 23])
    assert judged(attnd, 23)["checks"]["unmeasured"] == ["decoder.2.self"]


def test_a_layer_that_never_came_is_not_measured_when_its_run_ends():
    """However short the run is."""
    attnd = judging()
    trainer = Trainer(attnd, "gpt")
    trainer.event("hello", layers=[dict(stack="decoder", layer=layer, site="self", heads=HEADS) for layer in range(3)])
    send(trainer, WELL, range(3))
    assert judged(attnd, 2)["checks"]["unmeasured"] == [], "it may yet come"
    trainer.event("bye", step=2)
    assert judged(attnd, 2)["checks"]["unmeasured"] == ["decoder.2.self"]


def test_two_runs_of_a_job_are_told_apart_by_layers_that_are_not_measured():
    attnd = judging()
    trainers = [Trainer(attnd, "gpt") for _ in range(2)]
    for trainer in trainers:
        trainer.event("hello", layers=[dict(stack="decoder", layer=layer, site="self", heads=HEADS) for layer in range(3)])
        for step in range(19):
            trainer.attention(sharp_maps(WELL, HEADS), step=step, causal=True)
    attnd.settled(40)
    said = flat(attnctl(attnd, "alerts").stdout)
    assert all(f"gpt, run {trainer.run.hex()[:8]}: {UNMEASURED}" in said for trainer in trainers)


def test_a_run_that_ends_before_its_first_window_says_so():
    attnd = judging()
    trainer = Trainer(attnd, "gpt")
    trainer.event("hello", layers=[dict(stack="decoder", layer=layer, site="self", heads=HEADS) for layer in (1, 2)])
    trainer.event("bye")
    attnd.settled(2)
    assert by_attnctl(attnd, "alerts").splitlines()[1:] == [
        UNMEASURED, "The run ended before the first check, which comes with the first capture"]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_answers_the_same(sig):
    attnd = judging(config=RULES)
    trainer = collapse(attnd)
    before = judged(attnd, 8)
    attnd.restart(trainer, sig=sig)
    assert by_control(attnd) == by_http(attnd) == before
    send(trainer, COLLAPSED, range(9, 12))  # and goes on from there
    after = judged(attnd, 11)
    assert firing(after) == FIRING and {alert["since"][1] for alert in after["alerts"]} == {5}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_has_ended_keeps_its_verdict(sig):
    attnd = judging(config=RULES)
    trainer = ended(attnd)
    before = judged(attnd, 8)
    assert firing(before) == FIRING and {alert["state"] for alert in before["alerts"]} == {"firing_at_end"}
    attnd.restart(trainer, sig=sig)
    assert by_control(attnd) == by_http(attnd) == before and (before["state"], before["step"]) == ("ended", 8)


def test_the_history_says_the_same_of_a_run_that_is_no_longer_in_memory():
    attnd = judging("limits.runs=1", config=RULES)
    trainer = ended(attnd)
    before = judged(attnd, 8)
    other = Trainer(attnd, "gpt")
    send(other, WELL, range(3))
    wait_until(lambda: [job["run"] for job in attnd.call("jobs")] == [other.run.hex()], "room for the other")
    after = by_control(attnd, run=before["run"])
    assert firing(after) == FIRING and after == dict(before, checks=None), "the history does not know those"
    assert by_http(attnd, "&run=" + before["run"][:8]) == after
    assert by_control(attnd, run=before["run"], limit=1)["more"]
    assert by_control(attnd)["alerts"] == []


def test_bad_questions_are_refused():
    attnd = judging()
    for params in ({"limit": 0}, {"limit": -1}, {"head": 1}):
        with pytest.raises(RuntimeError, match="argument"):
            by_control(attnd, **params)
    with pytest.raises(RuntimeError, match="job_unknown"):
        by_control(attnd)
