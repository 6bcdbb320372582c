# SPDX-License-Identifier: MIT
"""Training with a learning rate that makes attention collapse: attnd says so before the loss does, and says nothing
about the same training at a sane one. Default rules, fixed seed (clients/python/examples/collapse.py)."""
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from harness import ATTND, SANITIZED, Attnd, Reader, wait_until

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(SANITIZED, reason="numbers, not memory: it takes half a minute")

EXAMPLE = pathlib.Path(__file__).parents[2] / "clients/python/examples/collapse.py"
RANKING = pathlib.Path(__file__).parents[1] / "bench/ranking.py"
WINDOW, SEED = 5, 1
BAD_LR, GOOD_LR = "3e-2", "1e-3"
BAD_STEPS, GOOD_STEPS = 100, 300
SMOOTHED_OVER, DEPARTED_BY = 20, 0.2  # steps; nats per character
TRAINING_S = 500


class Training:
    """collapse.py as a job of its own."""

    def __init__(self, attnd, job, lr, steps, tier="qk"):
        self.job, self.steps, self.directory = job, steps, pathlib.Path(attnd.directory)
        self.output = open(self.directory / f"{job}.jsonl", "wb")
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLE, "--lr", lr, "--steps", str(steps), "--seed", str(SEED), "--tier", tier, "--job", job,
             "--endpoint", attnd.endpoint("ingest"), "--alerts", attnd.endpoint("publish")], stdout=self.output)

    def finish(self):
        """Waits for its end; `losses` and `seen`, [(step, alert)] as the training saw them come, are there then."""
        assert self.process.wait(TRAINING_S) == 0
        self.output.close()
        lines = [json.loads(line) for line in (self.directory / f"{self.job}.jsonl").read_text().splitlines()]
        self.losses = np.array([line["loss"] for line in lines if "loss" in line])
        self.seen = [(line["seen_at_step"], line["alert"]) for line in lines if "alert" in line]
        assert len(self.losses) == self.steps and lines[-1]["dropped"] == 0, "everything was published"


def smoothed(losses):
    """The mean of the last 20 losses; [i] is known at step i + 19."""
    return np.convolve(losses, np.ones(SMOOTHED_OVER) / SMOOTHED_OVER, "valid")


def departure(bad, good):
    """(first step at which the smoothed loss of `bad` exceeds that of `good` by 0.2 nats, first from which it stays so)."""
    steps = min(len(bad), len(good))
    apart = smoothed(bad[:steps]) - smoothed(good[:steps]) > DEPARTED_BY
    assert apart[-1], "the collapsed run is not worse"
    below = np.flatnonzero(~apart)
    stays = below[-1] + 1 if len(below) else 0
    return int(np.argmax(apart)) + SMOOTHED_OVER - 1, int(stays) + SMOOTHED_OVER - 1


def collect(reader, attnd, jobs):
    """{job: ([alert], [summary])} once the jobs have ended; in the order of publication."""
    wait_until(lambda: all(job["state"] == "ended" for job in attnd.call("jobs")), "the end of the runs")
    found = {job: ([], []) for job in jobs}
    for topic, result in reader.everything():
        found[result["job"]][topic.startswith("summary/")].append(result)
    return found


def first_firing(alerts, rule):
    """The last step of the first window that made the rule fire."""
    return min(alert["step"] for alert in alerts if alert["rule"] == rule and alert["state"] == "firing")


def entropies(summaries):
    """[windows, layers]: means over heads and rows."""
    by_layer = {}
    for summary in summaries:
        by_layer.setdefault(summary["layer"], []).append(np.mean(summary["heads"]["entropy_normalized"]["mean"]))
    return np.array(list(by_layer.values())).T


def watch(*trainings, settings=()):
    """Runs trainings (job, lr, steps, tier) side by side; returns them with their alerts and summaries."""
    attnd = Attnd("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "window.timeout=1h",
                  "limits.idle=24h", "ingest.budget=4GiB", *settings)
    reader = Reader(attnd, "alert/", "summary/")
    running = [Training(attnd, *training) for training in trainings]
    for training in running:
        training.finish()
    found = collect(reader, attnd, [training.job for training in running])
    stats = attnd.stats()
    assert stats["lost"] == 0 and stats["dropped"] == {}, "silence is not loss"
    attnd.close()
    return [(training, *found[training.job]) for training in running]


def test_a_collapse_is_told_before_the_loss_tells_it_and_a_sane_run_is_silent(capsys):
    (bad, alerts, shown), (good, silence, seen) = watch(("bad", BAD_LR, BAD_STEPS), ("good", GOOD_LR, GOOD_STEPS))
    assert silence == [] and good.seen == []
    assert len(seen) == 4 * GOOD_STEPS // WINDOW and entropies(seen).min() > 0.5 and entropies(seen)[-1].mean() > 0.7
    assert len(shown) == 4 * BAD_STEPS // WINDOW and entropies(shown)[-1].mean() < 0.15

    crossed, departed = departure(bad.losses, good.losses)
    fired = {rule: first_firing(alerts, rule) for rule in ("max_logit_growth", "entropy_falls", "entropy_collapse")}
    heard = min(step for step, alert in bad.seen if alert["rule"] == "entropy_falls")
    with capsys.disabled():
        print(f"\nloss 0.2 nats above the sane run's: first at step {crossed}, for good from step {departed}; "
              f"windows that fire end with step {fired}; the training hears of entropy_falls in step {heard}; "
              f"lead {departed - fired['entropy_falls'] - 1} steps")
    # A window is closed by the first message of the next step.
    assert fired["entropy_falls"] + 1 < crossed <= departed, "before the loss departs, even for a moment"
    assert fired["max_logit_growth"] + 1 < crossed and fired["entropy_collapse"] + 1 < departed
    assert heard < departed, "in time for whoever trains"


def told(alerts):
    """{(rule, what became of it, layer, head, last step of the window, since which step)}"""
    return {(alert["rule"], alert["state"], alert["layer"], alert["head"], alert["step"], alert["since"]["step"])
            for alert in alerts}


def heads_in_trouble(summaries):
    """{(layer, last step of the window, head, rule, state, since which step)}"""
    return {(summary["layer"], summary["step"], head["head"], head["rule"], head["state"], head["since"]["step"])
            for summary in summaries for head in summary["trouble"]["heads"]}


def test_weights_and_states_tell_it_as_queries_and_keys_do_at_the_same_windows():
    tiers = ("qk", "attention", "state")
    (qk, *by_qk), (weights, *by_weights), (state, *by_state) = watch(
        *((tier, BAD_LR, 40, tier) for tier in tiers), settings=["metrics.spectrum=false"])  # states have no ranks of maps
    assert (qk.losses == weights.losses).all() and (qk.losses == state.losses).all(), "the same training"
    assert first_firing(by_weights[0], "entropy_falls") < SMOOTHED_OVER - 1, "before there are losses enough to smooth"
    assert told(by_state[0]) == told(by_qk[0]) and heads_in_trouble(by_state[1]) == heads_in_trouble(by_qk[1]) != set()
    rules = {alert["rule"] for alert in by_weights[0]}
    assert rules == {"entropy_falls", "entropy_collapse"}, "weights tell nothing of logits"
    assert told(by_weights[0]) == {one for one in told(by_state[0]) if one[0] in rules}
    of_weights = {one for one in heads_in_trouble(by_state[1]) if one[3] in rules}  # most troubled otherwise: by logits
    assert set() != of_weights <= heads_in_trouble(by_weights[1])


def test_every_head_that_collapsed_ranks_above_every_head_of_the_healthy_run(capsys):
    """One pair of tests/bench/ranking.py, where float64 decides which heads have collapsed."""
    words = ["--attnd", ATTND, "--norm", "pre-LN", "--seed", "1", "learning-rate"]
    result = subprocess.run([sys.executable, RANKING, *words], capture_output=True, text=True, timeout=TRAINING_S)
    assert result.returncode == 0, result.stdout + result.stderr
    pair, conclusion = map(json.loads, result.stdout.splitlines())
    with capsys.disabled():
        print(f"\n{pair['collapsed']} of {pair['heads']} heads have collapsed, the first in window {pair['onset']}; "
              f"their least score is {pair['least_collapsed']}, the largest of the healthy run {pair['most_healthy']}")
    assert (pair["verdict"], pair["rank"], pair["twin_collapsed"], pair["twin_alerts"]) == ("holds", 1, 0, [])
    assert pair["collapsed"] > 0 and pair["lag"] <= 10 and pair["least_collapsed"] > pair["most_healthy"]
    assert conclusion["reference"] <= 1e-9, "the daemon's scores are those of the definition"
