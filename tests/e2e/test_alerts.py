# SPDX-License-Identifier: MIT
"""Rules against real streams: what fires, what is resolved, and who is told."""
import http.server
import json
import os
import signal
import subprocess
import threading

import numpy as np
import pytest

from harness import ATTND, PATIENCE_S, Attnd, Reader, Trainer, attnctl, sharp_maps, wait_log, wait_until
from row_sums import of_entropies

from attnd.sending.head_maps import HeadMaps

HEADS, T = 2, 16
SOON = "rules: {entropy_collapse: {for: 2}}\n"


def judging(*settings, config=SOON):
    """An attnd whose windows are steps, a reader of alerts, and a trainer."""
    attnd = Attnd("window.unit=step", "window.rank_grace=0", *settings, config=config)
    return attnd, Reader(attnd, "alert/gpt/"), Trainer(attnd, "gpt")


def wait_ended(attnd, state="ended"):
    wait_until(lambda: attnd.call("jobs")[0]["state"] == state, f"that the run is {state}")


def send_steps(trainer, sharpness, steps):
    for step in steps:
        trainer.attention(sharp_maps(sharpness, HEADS), step=step, causal=True)


def next_alert(reader, rule):
    """The next alert of a rule; others are skipped."""
    while True:
        topic, alert = reader.next()
        assert topic == "alert/gpt/" and alert["kind"] == "alert"
        if alert["rule"] == rule:
            return alert


def kept(attnd):
    """What the history has of the job, newest first."""
    return attnd.call("alerts", job="gpt")["alerts"] or []


def kept_states(attnd):
    return [one["state"] for one in kept(attnd)]


def told(attnd, **where):
    """What fires or fired at the end: the keys that may not change."""
    return [{key: one[key] for key in ("run", "rule", "state", "step", "since", "value", "bound", "message", "layer")}
            for one in attnd.call("alerts", **where)["firing"]]


MASKS = {"causal": np.tri(T, dtype=bool), "prefix": np.tri(T, dtype=bool) | (np.arange(T) < 5),
         "picture": np.tri(T, dtype=bool) | np.equal.outer(np.arange(T) // 8, np.arange(T) // 8) & (np.arange(T) < 8), "none": None}


def send_masked(trainer, masks, steps, qk):
    """Of each layer a message a step, with this mask: as queries and keys, or as weights without any flag of it."""
    for step in steps:
        for layer, name in enumerate(masks):
            rng, mask = np.random.default_rng(step), MASKS[name]
            q, k = rng.standard_normal((2, 1, HEADS, T, 4), dtype=np.float32)
            if qk:
                causal = name == "causal"
                visible = {} if causal or mask is None else dict(mask=mask[None].astype(np.uint8))
                trainer.qk(q, k, scale=0.5, layer=layer, step=step, causal=causal, **visible)
            else:
                seen = np.exp(q @ k.swapaxes(2, 3) / 2) * (1 if mask is None else mask)
                trainer.attention((seen / seen.sum(-1, keepdims=True)).astype(np.float32), layer=layer, step=step)


@pytest.mark.parametrize("qk", [True, False])
@pytest.mark.parametrize("first, then, ahead", [
    (["causal"] * 4, ["picture"] * 4, []), (["prefix"] * 4, ["prefix"] * 4, []), (["causal", "picture"] * 2, ["causal", "prefix"] * 2, []),
    (["causal"] * 4, ["none"] * 4, [0, 1, 2, 3]), (["causal", "none"] * 2, ["causal", "none"] * 2, []),
    (["causal", "none", "causal"], ["causal", "none", "causal"], [1]), (["picture"] * 3, ["none", "picture", "prefix"], [0])])
def test_a_mask_that_is_meant_is_none_that_is_lost(first, then, ahead, qk):
    attnd, _, trainer = judging()
    send_masked(trainer, first, range(16), qk)
    send_masked(trainer, then, range(16, 20), qk)
    attnd.settled(20 * len(first))
    wait_until(lambda: attnd.call("verdict", job="gpt")["step"] >= 18, "the windows")
    found = [(one["layer"], one["severity"]) for one in attnd.call("verdict", job="gpt")["alerts"] if one["rule"] == "looks_ahead"]
    assert found == [(layer, "critical") for layer in ahead]


def test_a_collapse_fires_and_is_resolved():
    """By eight captures, the first window of which is open all the while."""
    attnd, reader, trainer = judging("window.length=1000", "window.every=1000",
                                     config="rules: {entropy_falls: {within: 2, for: 1}}\n")
    send_steps(trainer, 1, range(5))
    send_steps(trainer, 500, range(5, 14))
    falls = next_alert(reader, "entropy_falls")
    assert (falls["state"], falls["step"], falls["since"]) == ("firing", 5, [4, 5])
    assert falls["value"] > falls["bound"] == 0.5
    collapse = next_alert(reader, "entropy_collapse")
    assert (collapse["state"], collapse["severity"], collapse["step"]) == ("firing", "warning", 12)  # no token numbers
    assert (collapse["stack"], collapse["layer"], collapse["site"], collapse["head"]) == ("decoder", 0, "self", None)
    assert collapse["value"] < 0.25 and collapse["since"] == [4, 5]
    assert collapse["message"].startswith("each query looks at one key: saturated_entropy of decoder.0.self (mean of its heads, head ")
    assert collapse["message"].endswith(", below 0.25 for 8 captures; or it is induction, which token numbers would tell (tokens=)")
    send_steps(trainer, 1, range(14, 16))
    resolved = next_alert(reader, "entropy_collapse")
    assert (resolved["state"], resolved["step"], resolved["bound"]) == ("resolved", 14, 0.25)
    assert resolved["message"].endswith(", no longer below 0.25 (clear at 0.4)")
    assert "entropy_collapse" not in [one["rule"] for one in attnd.call("alerts", job="gpt")["firing"]]
    wait_log(attnd, " event=alert job=gpt rule=entropy_collapse state=firing severity=warning ")
    assert attnd.stats()["alerts"] >= 4


def test_rows_that_became_invalid_are_told_long_before_their_window_ends():
    attnd, reader, trainer = judging("window.length=1000", "window.every=1000")
    sound = sharp_maps(1, HEADS)
    broken = sound.copy()
    broken[0, 1, 3] = np.nan
    for step in (50, 100, 150):
        for layer in (0, 1):
            trainer.attention(broken if step >= 100 and layer == 1 else sound, step=step, layer=layer, causal=True)
    first = next_alert(reader, "first_invalid")
    assert (first["state"], first["step"], first["since"]) == ("firing", 100, [50, 100])
    assert (first["layer"], first["head"], first["value"]) == (1, 1, 1 / T)
    assert first["message"] == ("rows became invalid: first in head 1 of decoder.1.self, between steps 50 and 100: "
                                "6.25 % of its rows")
    assert [one["message"] for one in attnd.call("alerts", job="gpt")["firing"]][0] == first["message"]
    trainer.event("bye", step=150)
    ended = next_alert(reader, "first_invalid")
    assert (ended["state"], ended["since"], ended["message"]) == ("firing_at_end", first["since"], first["message"])


def test_ranks_with_slices_of_heads_tell_of_theirs_in_rows_with_maps():
    """Each rank sends its own heads; `head_offset` is of them and of their maps."""
    attnd, reader, _ = judging("window.length=1000", "window.every=1000")
    run = os.urandom(16)
    ranks = [Trainer(attnd, "gpt", rank, 2, run) for rank in range(2)]
    maps = HeadMaps(np.zeros((2, 4, 4), np.float16), 4, 4, queries_sent=10, keys_sent=10)
    for sent, (step, rank) in enumerate((step, rank) for step in (50, 100, 150, 200) for rank in range(2)):
        invalid = np.zeros((1, 2, 10), bool)
        invalid[0, 1, :5] = (step, rank) == (100, 1)
        rows = of_entropies(np.ones((1, 2, 10)), keys=10, invalid=invalid, maps=maps)
        ranks[rank].rows(rows, step=step, head_offset=2 * rank, heads_total=4)
        attnd.settled(1 + sent)
    first = next_alert(reader, "first_invalid")
    assert (first["step"], first["layer"], first["head"], first["value"]) == (100, 0, 3, 0.5)
    assert first["message"].endswith("first in head 3 of decoder.0.self, between steps 50 and 100: 50 % of its rows")


def test_what_fires_when_the_run_ends_stays_so_after_a_restart_and_a_kill():
    attnd, reader, trainer = judging("history.commit=20ms")
    send_steps(trainer, 500, range(4))
    fired = next_alert(reader, "entropy_collapse")
    assert fired["state"] == "firing"
    trainer.event("bye", step=7)
    ended = next_alert(reader, "entropy_collapse")
    assert ended["state"] == "firing_at_end"
    assert (ended["since"], ended["bound"]) == (fired["since"], fired["bound"]) == ([None, 0], 0.25)
    assert 0 <= ended["value"] < 0.25 and ", below 0.25 for 4 captures, when the run ended; or " in ended["message"]
    wait_ended(attnd)
    firing, jobs, summary = told(attnd), attnd.call("jobs"), attnd.call("summary", job="gpt")
    assert [one["state"] for one in firing] == ["firing_at_end"] and firing[0]["run"] == trainer.run.hex()
    assert jobs[0]["step"] == 7 and summary[0]["step"] == 3
    wait_until(lambda: kept_states(attnd) == ["firing_at_end", "firing"], "the history")
    with pytest.raises(RuntimeError):
        attnd.call("alerts", state="over")
    assert [one["step"] for one in attnd.call("alerts", state="firing_at_end")["alerts"]] == [7]
    for sig in (signal.SIGTERM, signal.SIGKILL):
        attnd.restart(sig=sig)
        assert told(attnd) == told(attnd, job="gpt", run=trainer.run.hex()) == firing
        assert attnd.call("jobs") == jobs
        assert attnd.call("summary", job="gpt") == summary
        assert kept_states(attnd) == ["firing_at_end", "firing"]
        assert [(run["state"], run["step"]) for run in attnd.call("runs", job="gpt")["runs"]] == [("ended", 7)]
        monitored, = attnd.call("monitor")["jobs"]
        assert monitored["state"] == "ended" and monitored["heard_ns"] < jobs[0]["time_ns"] + 60e9
        assert monitored["firing"] == [{"rule": "entropy_collapse", "severity": "warning", "state": "firing_at_end",
                                        "count": 1}]


def test_what_fires_when_a_run_goes_idle_is_told_anew_when_it_goes_on():
    attnd, reader, trainer = judging("limits.idle=4s")
    send_steps(trainer, 500, range(4))
    states = [next_alert(reader, "entropy_collapse")["state"] for _ in range(2)]
    assert states == ["firing", "firing_at_end"]
    wait_ended(attnd, "idle")
    assert [one["state"] for one in told(attnd)] == ["firing_at_end"]
    send_steps(trainer, 500, range(4, 6))
    again = next_alert(reader, "entropy_collapse")
    assert (again["state"], again["since"]) == ("firing", [None, 0])
    send_steps(trainer, 1, range(6, 8))
    while again["state"] != "resolved":  # this machine may be so slow that the run is idle once more
        again = next_alert(reader, "entropy_collapse")
    assert told(attnd) == []


def test_what_fired_at_the_end_counts_until_the_job_has_a_newer_run():
    attnd, _, first = judging("history.commit=20ms")
    send_steps(first, 500, range(4))
    first.event("bye", step=3)
    wait_until(lambda: [one["state"] for one in told(attnd)] == ["firing_at_end"], "the end")

    def alerts(*arguments):
        done = attnctl(attnd, "alerts", *arguments)
        return done.returncode, done.stdout
    code, text = alerts()
    assert code == 1 and "firing at end" in text
    second = Trainer(attnd, "gpt")
    send_steps(second, 1, range(2))
    wait_until(lambda: attnd.call("alerts")["older"] == 1, "the newer run")
    assert told(attnd)[0]["run"] == first.run.hex()
    for arguments in ((), ("gpt",)):
        code, text = alerts(*arguments)
        assert code == 0 and text.startswith("nothing is firing; attnctl alerts --all shows earlier ones\n")
        assert text.endswith("\n1 fired at the end of runs of a job of which another goes on or ended later\n")
        assert (" checks passed; " in text) == bool(arguments)
    wait_until(lambda: "firing_at_end" in kept_states(attnd), "the history")
    assert "firing at end" in alerts("--all")[1]
    assert alerts("gpt", "--run", first.run.hex()[:8])[0] == 1, "who asks for it is told"
    send_steps(second, 500, range(2, 6))
    both = [(one.run.hex(), "entropy_collapse") for one in (second, first)]
    wait_until(lambda: [(one["run"], one["rule"]) for one in told(attnd)] == both, "the newer run's own")
    code, text = alerts()
    assert code == 1 and second.run.hex()[:8] in text and first.run.hex()[:8] not in text
    third = Trainer(attnd, "gpt")
    send_steps(third, 1, range(2))
    wait_until(lambda: len(attnd.call("jobs")) == 3, "a run beside it")
    assert attnd.call("alerts")["older"] == 1 and alerts()[0] == 1, "the second still runs"


def test_the_name_of_a_job_with_two_runs_at_once_means_the_same_one_everywhere():
    attnd, _, sick = judging("history.commit=20ms")
    send_steps(sick, 500, range(4))
    wait_until(lambda: told(attnd), "an alert")
    healthy = Trainer(attnd, "gpt")
    healthy.event("hello", step_seconds=1.0, capture_seconds=0.25)
    send_steps(healthy, 1, range(3))

    def meant():
        monitored, = attnd.call("monitor")["jobs"]
        answers = [monitored, attnd.call("verdict", job="gpt"), *attnd.call("summary", job="gpt"),
                   *attnd.call("live", job="gpt"), attnd.call("windows", job="gpt"), attnd.call("log", job="gpt")]
        return {bytes.fromhex(one["run"]) for one in answers}

    def fires():
        return sum(one["count"] for one in attnd.call("monitor")["jobs"][0]["firing"])
    wait_until(lambda: meant() == {healthy.run}, "the newest of those that are active")
    assert attnd.call("plan.get", job="gpt")["cost"]["capture_seconds"] == 0.25
    healthy.event("bye", step=2)
    wait_until(lambda: meant() == {sick.run}, "the one that is active")
    assert attnd.call("plan.get", job="gpt")["cost"] is None
    assert sick.run.hex()[:8] in attnctl(attnd, "summary", "gpt").stdout
    sick.event("bye", step=3)
    wait_until(lambda: [one["state"] for one in told(attnd)] == ["firing_at_end"], "the end")
    wait_until(lambda: meant() == {sick.run}, "the one that ended last")
    assert attnd.call("alerts")["older"] == 0 and fires() == 1
    assert attnctl(attnd, "alerts", "gpt").returncode == 1
    send_steps(healthy, 1, range(3, 5))
    wait_until(lambda: meant() == {healthy.run}, "the one that goes on")
    assert attnd.call("alerts")["older"] == 1 and fires() == 0
    healthy.event("bye", step=4)
    wait_until(lambda: attnd.call("verdict", job="gpt")["state"] == "ended", "the end of both")
    assert meant() == {healthy.run} and attnctl(attnd, "alerts", "gpt").returncode == 0


def test_healthy_heads_and_uniform_beginnings_raise_nothing():
    attnd, reader, trainer = judging()
    for step in range(40):  # from uniform to a little sharp, as training does
        trainer.attention(sharp_maps(step / 10, HEADS), step=step, causal=True)
    attnd.settled(40)
    trainer.event("bye", step=39)
    wait_ended(attnd)
    assert reader.silent()
    assert attnd.stats()["alerts"] == 0


def test_rows_of_nan_and_wrong_sums_are_told_at_once():
    _, reader, trainer = judging()
    weights = sharp_maps(1, HEADS)
    weights[0, 0, 3] = np.nan
    weights[0, 1, 4] *= 1.5
    send_steps(trainer, 1, [0])
    trainer.attention(weights, step=1, causal=True)
    send_steps(trainer, 1, [2, 3])
    invalid = next_alert(reader, "invalid_rows")
    assert (invalid["state"], invalid["severity"], invalid["step"]) == ("firing", "critical", 1)
    assert invalid["value"] == pytest.approx(2 / (HEADS * T))
    sums = next_alert(reader, "row_sums")
    assert sums["state"] == "firing" and sums["value"] == pytest.approx(0.5, abs=1e-6)
    assert next_alert(reader, "invalid_rows")["state"] == "resolved"


def test_silence_and_its_end_are_told():
    attnd, reader, trainer = judging(config="rules: {silence: {above: 0.3, clear: 0.2}}\n")
    send_steps(trainer, 1, [0])
    fired = next_alert(reader, "silence")
    assert fired["state"] == "firing" and fired["value"] > 0.3
    assert [fired[key] for key in ("stack", "layer", "site", "head")] == [None] * 4
    assert fired["message"].startswith("the run is silent: nothing has been heard of it for ")

    def resolved():
        send_steps(trainer, 1, [resolved.step])
        resolved.step += 1
        return not reader.silent(0.05)

    resolved.step = 1
    wait_until(resolved, "the end of the silence")
    assert next_alert(reader, "silence")["message"] == "the run has been heard of again"


@pytest.mark.parametrize("before, after", [(4, 2), (2, 4)])
def test_heads_that_are_removed_or_added_are_told_as_that(before, after):
    attnd, reader, trainer = judging()
    for step in range(8):
        for layer in range(2):  # the first stays as it is
            trainer.attention(sharp_maps(1, after if layer and step > 2 else before), layer=layer, step=step, causal=True)
    losses = next_alert(reader, "losses")
    assert losses["message"].startswith("layers have other numbers of heads than before: ") and "heads_changed" in losses["message"]
    assert "another number of heads" in losses["why"] and "begin another" in losses["advice"], "and not that attnd is slow"
    wait_until(lambda: told(attnd, job="gpt"), "it fires")
    assert [one["message"][:42] for one in told(attnd, job="gpt") if one["rule"] == "losses"] == ["layers have other numbers of heads than be"]


def test_losses_are_told():
    attnd, reader, trainer = judging()
    send_steps(trainer, 1, range(3))
    trainer.sequence["tensor/gpt/decoder/0/self/"] += 3  # as if three had been lost
    send_steps(trainer, 1, range(3, 6))
    losses = next_alert(reader, "losses")
    assert losses["state"] == "firing" and losses["value"] > 0.05 and losses["layer"] is None


def test_a_rule_of_ones_own_that_nothing_was_sent_for_is_named_once():
    attnd, _, trainer = judging(config="rules: {mine: {metric: residual_share, each: head, above: 3}, "
                                       "known: {metric: confidence, above: 0.999, clear: 0.99}, "
                                       "nowhere: {metric: confidence, layer: decoder.7.*, above: 0.999, clear: 0.99}}\n")
    send_steps(trainer, 1, range(12))
    attnd.settled(12)
    assert "rule_not_measured" not in attnd.log_text(), "it may come yet"
    send_steps(trainer, 1, range(12, 24))
    wait_log(attnd, " event=rule_not_measured job=gpt rule=mine metric=residual_share ")
    wait_log(attnd, " rule=nowhere metric=confidence layer=decoder.7.* ")
    trainer.event("bye", step=23)
    wait_ended(attnd)
    assert attnd.log_text().count("event=rule_not_measured") == 2 and 'reason="needs watch(residual=True)"' in attnd.log_text()


def test_a_flood_is_held_back_and_told_later():
    attnd, reader, trainer = judging("alerts.per_window=1", config="rules: {mine: {metric: confidence, each: head, above: 0}, "
                                     "entropy_collapse: {enabled: false}}\n")
    send_steps(trainer, 1, range(4))
    first, second = next_alert(reader, "mine"), next_alert(reader, "mine")
    assert [(one["head"], one["since"][1]) for one in (first, second)] == [(0, 0), (1, 0)]
    assert first["step"] == 0 and second["step"] in (1, 2), "in the capture after the end of the first window"
    assert attnd.stats()["alerts_dropped"] == 1


def test_a_restart_tells_nothing_twice():
    attnd, reader, trainer = judging("history.checkpoint=100ms")
    send_steps(trainer, 500, range(4))
    assert next_alert(reader, "entropy_collapse")["state"] == "firing"
    wait_until(lambda: kept(attnd) and attnd.messages_kept() == 4, "the history, and a checkpoint with it")
    attnd.restart(trainer, sig=signal.SIGKILL)
    reader = Reader(attnd, "alert/gpt/")
    assert [one["rule"] for one in attnd.call("alerts", job="gpt")["firing"]] == ["entropy_collapse"]
    send_steps(trainer, 500, range(4, 6))
    send_steps(trainer, 1, range(6, 8))
    told = next_alert(reader, "entropy_collapse")
    while told["snapshot"]:
        told = next_alert(reader, "entropy_collapse")
    assert (told["state"], told["since"][1]) == ("resolved", 0)


def refused(status, *arguments):
    ended = subprocess.run([ATTND, *arguments], capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert ended.returncode == status
    return ended.stderr


def test_bad_rules_are_refused_at_the_start(tmp_path):
    """The messages are those of tests/unit/config."""
    path = tmp_path / "attnd.yaml"
    path.write_text("rules:\n  mine:\n    metric: entropi\n    above: 1\n")
    assert f"{path}:3: rules.mine.metric: 'entropi': no such metric (valid: the metrics of PROTOCOL.md and those of " \
        "config/README.md; close: entropy)" in refused(2, "--config", path)


def test_a_command_that_is_not_there_is_refused_at_the_start(tmp_path):
    assert "alerts.command: '/nowhere/notify': cannot be run: No such file or directory" in refused(
        1, "--address", tmp_path, "--set=alerts.command=/nowhere/notify", "--set=http.enabled=false")


def test_config_and_the_log_do_not_tell_secrets():
    config = SOON + "alerts: {command: /bin/true --token secret, webhook: 'http://me:secret@127.0.0.1:1/secret?key=secret', retries: 0}\n"
    attnd, _, trainer = judging("log.level=debug", config=config)
    told = attnd.call("config")
    assert (told["alerts.command"], told["alerts.webhook"]) == ("true ...", "http://127.0.0.1:1/...")
    send_steps(trainer, 500, range(4))
    send_steps(trainer, 1, range(4, 7))
    wait_until(lambda: attnd.stats()["notify_failed"] >= 1, "a webhook that fails")
    attnd.rewrite(config.replace("http:", "gopher:"))
    wait_until(lambda: "event=config_refused" in attnd.log_text(), "the refusal")
    attnd.close()
    assert "secret" not in attnd.log_text() and "event=notify_failed" in attnd.log_text()


def test_a_command_and_a_webhook_get_each_event(tmp_path):
    posted = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script, lines = tmp_path / "script", tmp_path / "lines"
    script.write_text(f"#!/bin/sh\ncat >> {lines}\n")
    script.chmod(0o755)
    os.environ["no_proxy"] = "127.0.0.1"
    attnd, _, trainer = judging(f"alerts.command={script}", f"alerts.webhook=http://127.0.0.1:{server.server_port}/hook")
    send_steps(trainer, 500, range(4))
    send_steps(trainer, 1, range(4, 7))
    wait_until(lambda: attnd.stats()["notified"] >= 4, "the notifications")
    attnd.close()
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert told == posted
    assert [one["state"] for one in told if one["rule"] == "entropy_collapse"] == ["firing", "resolved"]
    server.shutdown()
