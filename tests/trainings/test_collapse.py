# SPDX-License-Identifier: MIT
"""Training with a learning rate that makes attention collapse: attnd says so before the loss does, and says nothing
about the same training at a sane one. Default rules, fixed seed (clients/python/examples/collapse.py)."""
import contextlib
import functools
import io
import json
import pathlib
import sys

import numpy as np
import pytest
from harness import ATTND, PATIENCE_S, Attnd, Reader, wait_until

pytest.importorskip("torch")
EXAMPLES = pathlib.Path(__file__).parents[2] / "clients/python/examples"
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES), str(pathlib.Path(__file__).parents[1] / "bench")]
import attnd  # noqa: E402
import collapse  # noqa: E402
from test_short import wait_worked_off  # noqa: E402

collapse.collapse_text.text = functools.lru_cache(collapse.collapse_text.text)  # takes long to make
WINDOW, SEED = 5, 1
BAD_LR, GOOD_LR = "3e-2", "1e-3"
STEPS, TIERS_STEPS = 80, 50
SMOOTHED_OVER, DEPARTED_BY = 20, 0.2  # steps; nats per character


def train_and_watch(daemon, job, lr, tiers):
    """collapse.py as a job of its own, which publishes by other tiers, too, each as a job, for the first TIERS_STEPS steps. Its
    losses, and [(step, alert)] as it saw them come."""
    command = ["collapse.py", "--lr", lr, "--steps", str(STEPS), "--seed", str(SEED), "--job", job,
               "--endpoint", daemon.endpoint("ingest"), "--alerts", daemon.endpoint("publish")]
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        others, publish = jobs_of(daemon, stack, tiers), collapse.publish

        def publish_all(publisher, model, step, tier):
            publish(publisher, model, step, tier)
            for other in others if step < TIERS_STEPS else ():
                publish(others[other], model, step, other)
            wait_worked_off(daemon, job, step)
        patch.setattr(sys, "argv", command)
        patch.setattr(collapse, "publish", publish_all)
        said = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        assert collapse.main() == 0
        for publisher in others.values():
            publisher.epoch_end(0, TIERS_STEPS - 1)
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    losses = np.array([line["loss"] for line in lines if "loss" in line])
    assert len(losses) == STEPS and lines[-1]["dropped"] == 0, "everything was published"
    return losses, [(line["seen_at_step"], line["alert"]) for line in lines if "alert" in line]


def jobs_of(daemon, stack, tiers):
    """A publisher for each, by-TIER, which the stack closes."""
    publishers = {}
    for tier in tiers:
        publishers[tier] = stack.enter_context(attnd.Publisher(f"by-{tier}", daemon.endpoint("ingest")))
        assert publishers[tier].wait_for_subscriber(PATIENCE_S)
        publishers[tier].hello([("decoder", layer, "self", collapse.HEADS) for layer in range(collapse.LAYERS)])
    return publishers


def train_by_qk(daemon, lr):
    """The same training as the job by-qk, without anybody who hears alerts; its losses."""
    with contextlib.ExitStack() as stack:
        (publisher,) = jobs_of(daemon, stack, ["qk"]).values()
        losses = []
        for step, loss, model in collapse.train(float(lr), STEPS, SEED):
            losses.append(loss)
            collapse.publish(publisher, model, step, "qk")
        publisher.epoch_end(0, STEPS - 1)
    return np.array(losses)


def smoothed(losses):
    """The mean of the last 20 losses; [i] is known at step i + 19."""
    return np.convolve(losses, np.ones(SMOOTHED_OVER) / SMOOTHED_OVER, "valid")


def departure(bad, good):
    """(first step at which the smoothed loss of `bad` exceeds that of `good` by 0.2 nats, first from which it stays so)."""
    apart = smoothed(bad) - smoothed(good) > DEPARTED_BY
    assert apart[-1], "the collapsed run is not worse"
    below = np.flatnonzero(~apart)
    stays = below[-1] + 1 if len(below) else 0
    return int(np.argmax(apart)) + SMOOTHED_OVER - 1, int(stays) + SMOOTHED_OVER - 1


def first_firing(alerts, rule):
    """The last step of the first window that made the rule fire."""
    return min(alert["step"] for alert in alerts if alert["rule"] == rule and alert["state"] == "firing")


def entropies(summaries):
    """[windows, layers]: means over heads and rows."""
    by_layer = {}
    for summary in summaries:
        by_layer.setdefault(summary["layer"], []).append(np.mean(summary["heads"]["entropy_normalized"]["mean"]))
    return np.array(list(by_layer.values())).T


@pytest.fixture(scope="module")
def trained():
    """A bad and a good training by queries and keys, the bad one by weights and by rows as well: losses, what the bad one saw,
    and {job: (alerts, summaries)} in the order of publication. Rows have no ranks of maps."""
    jobs = ("bad", "by-qk", "by-attention", "by-rows")
    plain = "".join(f"  {job}: {{spectrum: false}}\n" for job in jobs if job != "by-qk")
    daemon = Attnd("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "window.timeout=1h", "limits.idle=24h",
                   "ingest.budget=4GiB", config="jobs:\n" + plain)
    reader = Reader(daemon, "alert/", "summary/")
    bad, seen = train_and_watch(daemon, "bad", BAD_LR, ["attention", "rows"])
    good = train_by_qk(daemon, GOOD_LR)
    assert bad[:5].tolist() == [loss for _, loss, _ in collapse.train(float(BAD_LR), 5, SEED)], "the same, whether attnd listens or not"
    wait_until(lambda: [job["state"] for job in daemon.call("jobs")] == ["ended"] * len(jobs), "the end of the runs")
    found = {job: ([], []) for job in jobs}
    for topic, result in reader.everything():
        found[result["job"]][topic.startswith("summary/")].append(result)
    stats = daemon.stats()
    again = stats["dropped"].pop("repeated", 0)  # acknowledged late, and sent again
    assert stats["lost"] == 0 and stats["dropped"] == {} and 20 * again <= stats["received"], "silence is not loss"
    daemon.close()
    return bad, good, seen, found


def test_a_collapse_is_told_before_the_loss_tells_it_and_a_sane_run_is_silent(trained, capsys):
    bad, good, seen, found = trained
    alerts, shown = found["bad"]
    silence, sane = found["by-qk"]
    assert silence == []
    assert len(sane) == 4 * STEPS // WINDOW and entropies(sane).min() > 0.5 and entropies(sane)[-1].mean() > 0.7
    assert len(shown) == 4 * STEPS // WINDOW and entropies(shown)[-1].mean() < 0.15

    crossed, departed = departure(bad, good)
    fired = {rule: first_firing(alerts, rule) for rule in ("max_logit_growth", "entropy_falls", "entropy_collapse")}
    heard = min(step for step, alert in seen if alert["rule"] == "entropy_falls")
    with capsys.disabled():
        print(f"\nloss 0.2 nats above the sane run's: first at step {crossed}, for good from step {departed}; "
              f"windows that fire end with step {fired}; the training hears of entropy_falls in step {heard}; "
              f"lead {departed - fired['entropy_falls'] - 1} steps")
    # A window is closed by the first message of the next step.
    assert fired["entropy_falls"] + 1 < crossed <= departed, "before the loss departs, even for a moment"
    assert fired["max_logit_growth"] + 1 < crossed and fired["entropy_collapse"] + 1 < departed
    assert heard < departed, "in time for whoever trains"


def told(alerts):
    """{(rule, what became of it, layer, head, last step of the window, since which step)}, while all tiers train."""
    return {(alert["rule"], alert["state"], alert["layer"], alert["head"], alert["step"], alert["since"][1])
            for alert in alerts if alert["step"] < TIERS_STEPS and alert["state"] != "firing_at_end"}


def test_weights_and_rows_tell_it_as_queries_and_keys_do_at_the_same_windows(trained):
    by_qk, by_weights, by_rows = (trained[3][job] for job in ("bad", "by-attention", "by-rows"))
    assert first_firing(by_weights[0], "entropy_falls") < SMOOTHED_OVER - 1, "before there are losses enough to smooth"
    assert told(by_rows[0]) == told(by_qk[0]) != set()
    assert "entropy_collapse" in {alert["rule"] for alert in by_weights[0]}, "without logits"
    falls = [{one for one in told(alerts) if one[0] == "entropy_falls"} for alerts in (by_weights[0], by_rows[0])]
    assert falls[0] == falls[1] != set()
