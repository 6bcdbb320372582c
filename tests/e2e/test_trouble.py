# SPDX-License-Identifier: MIT
"""A collapse made of maps: the heads that cause it are named, by the summary, control and HTTP alike, before and after
restarts, after kill -9, and long after the run has ended."""
import http.client
import json
import signal
import sqlite3

import numpy as np
import pytest
from harness import PATIENCE_S, Attnd, Trainer, wait_until

SETTINGS = ("window.unit=step", "window.rank_grace=0", "http.enabled=true", "http.endpoint=tcp://127.0.0.1:*",
            "history.commit=50ms", "history.checkpoint=100ms")
HEADS, T = 12, 16
FLAT, SHARP = 1, 500
WELL, COLLAPSED = [FLAT] * HEADS, [SHARP] * (HEADS - 1) + [FLAT]
CAUSES = {(1, head) for head in range(HEADS - 1)}  # layer and head


def maps(sharpness):
    """Causal attention [1, HEADS, T, T], of each head its own sharpness: 0 looks at everything alike, 500 at one key."""
    logits = np.random.default_rng(3).permuted(np.tile(np.arange(T, dtype=float), (1, HEADS, T, 1)), axis=-1)
    logits = np.asarray(sharpness, float).reshape(1, HEADS, 1, 1) * logits / T
    logits = np.where(np.arange(T) > np.arange(T)[:, None], -np.inf, logits)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def send(trainer, sharpness, steps):
    """Layer 1 has these heads, layer 0 is well."""
    for step in steps:
        trainer.attention(maps(WELL), step=step, causal=True, layer=0)
        trainer.attention(maps(sharpness), step=step, causal=True, layer=1)


def collapse(attnd, job="gpt"):
    """All is well for 5 steps; then all heads of layer 1 but the last look at one key each."""
    trainer = Trainer(attnd, job)
    send(trainer, WELL, range(5))
    send(trainer, COLLAPSED, range(5, 9))
    return trainer


def by_control(attnd, **params):
    return attnd.call("trouble", job="gpt", **params)


def by_http(attnd, query=""):
    port = int(attnd.call("config")["http.endpoint"].rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/api/v1/trouble?job=gpt" + query)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert response.status == 200, body
    return body


def judged(attnd, step):
    """The answer once the window of this step has been judged, and is on the disk."""
    def done():
        known = any(job["job"] == "gpt" for job in attnd.call("jobs"))
        return known and by_control(attnd)["step"] == step and attnd.stats()["history"]["waiting"] == 0
    wait_until(done, f"step {step} to be judged")
    return by_control(attnd)


def by_summary(attnd):
    """The firing heads of the last summaries, with the keys of an answer."""
    found = []
    for summary in attnd.call("summary", job="gpt"):
        trouble = summary["trouble"]
        assert (trouble["epoch"], trouble["step"]) == (summary["epoch"], summary["step"])
        found += [{"stack": summary["stack"], "layer": summary["layer"], "site": summary["site"],
                   "score": trouble["score"][one["head"]]} | one for one in trouble["heads"] if one["state"] == "firing"]
    return sorted(found, key=lambda one: (-one["score"], one["layer"], one["head"]))


def without_words(answer):
    return [{key: value for key, value in head.items() if key not in ("why", "advice")} for head in answer["heads"]]


def restart(attnd, trainer, sig):
    attnd.stop(sig)
    trainer.wait_forgotten()
    attnd.start()
    trainer.wait_subscribed()


def test_the_heads_that_cause_a_collapse_are_named_everywhere_alike():
    attnd = Attnd(*SETTINGS)
    trainer = collapse(attnd)
    answer = judged(attnd, 7)
    assert (answer["state"], answer["epoch"], answer["step"]) == ("active", 0, 7)
    assert {(head["layer"], head["head"]) for head in answer["heads"]} == CAUSES
    assert not answer["more"] and answer["watched"] == 0
    scores = [head["score"] for head in answer["heads"]]
    assert scores == sorted(scores, reverse=True) and scores[0] >= 1
    for head in answer["heads"]:
        assert (head["stack"], head["site"], head["state"]) == ("decoder", "self", "firing")
        assert head["since"] == {"epoch": 0, "step": 5} and head["windows"] == 3
        assert head["why"].endswith(".") and "learning rate" in head["advice"]
    assert by_http(attnd) == answer
    assert by_summary(attnd) == without_words(answer)
    del trainer
    attnd.close()


def test_all_is_well_says_so():
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, "gpt")
    send(trainer, WELL, range(4))
    answer = judged(attnd, 2)
    assert (answer["heads"], answer["others"], answer["watched"], answer["more"]) == ([], [], 0, False)
    attnd.close()


def test_one_head_beyond_the_bound_of_its_layer_is_watched():
    attnd = Attnd(*SETTINGS, config="rules: {head_saturated: {enabled: false}}\n")
    trainer = Trainer(attnd, "gpt")
    send(trainer, [SHARP] + WELL[1:], range(5))
    answer = judged(attnd, 3)
    assert (answer["heads"], answer["watched"]) == ([], 1)
    beyond, = by_control(attnd, state="beyond")["heads"]
    assert (beyond["layer"], beyond["head"], beyond["state"], beyond["rule"]) == (1, 0, "beyond", "entropy_collapse")
    assert by_http(attnd, "&state=beyond")["heads"] == [beyond]
    assert by_control(attnd, state="beyond", limit=0)["more"]
    attnd.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_answers_the_same(sig):
    attnd = Attnd(*SETTINGS)
    trainer = collapse(attnd)
    before = judged(attnd, 7)
    assert before["heads"]
    restart(attnd, trainer, sig)
    after = by_control(attnd)
    assert after["heads"] == before["heads"] and after["step"] == before["step"]
    assert by_http(attnd)["heads"] == before["heads"]
    send(trainer, COLLAPSED, range(9, 12))  # and goes on from there
    for head in judged(attnd, 10)["heads"]:
        assert head["since"] == {"epoch": 0, "step": 5} and head["windows"] >= 5
    attnd.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_has_ended_stays_in_trouble(sig):
    attnd = Attnd(*SETTINGS)
    trainer = collapse(attnd)
    trainer.event("bye", step=8)
    wait_until(lambda: [job["state"] for job in attnd.call("jobs")] == ["ended"], "the run to end")
    before = judged(attnd, 8)
    assert {(head["layer"], head["head"]) for head in before["heads"]} == CAUSES
    assert {head["state"] for head in before["heads"]} == {"firing_at_end"}
    restart(attnd, trainer, sig)
    after = by_control(attnd)
    assert after == before and (after["state"], after["step"]) == ("ended", 8)
    assert by_http(attnd) == after
    assert [dict(head, state="firing_at_end") for head in by_summary(attnd)] == without_words(after)
    attnd.close()


def test_a_run_that_is_no_longer_in_memory_is_answered_from_the_history():
    attnd = Attnd(*SETTINGS, "limits.runs=1")
    trainer = collapse(attnd)
    wrong = maps(WELL)
    wrong[0, 0, 4] *= 2  # its sum is that of no head, but of the layer
    trainer.attention(wrong, step=8, causal=True, layer=2)
    trainer.event("bye", step=8)
    wait_until(lambda: [job["state"] for job in attnd.call("jobs")] == ["ended"], "the run to end")
    before = judged(attnd, 8)
    assert [(one["rule"], one["layer"], one["state"]) for one in before["others"]
            if one["layer"] == 2] == [("row_sums", 2, "firing_at_end")]
    assert [(head["head"], head["rule"]) for head in before["heads"] if head["layer"] == 2] == [(0, "invalid_rows")]
    other = Trainer(attnd, "gpt")
    send(other, WELL, range(3))
    wait_until(lambda: [job["run"] for job in attnd.call("jobs")] == [other.run.hex()], "room for the other")
    after = by_control(attnd, run=before["run"])
    assert before.pop("checks")["judged"] > 0 and after.pop("checks") is None, "the history does not know"
    assert after == before
    assert by_http(attnd, "&run=" + before["run"][:8]) == dict(before, checks=None)
    assert by_control(attnd)["heads"] == []
    attnd.close()


def unsound(rows_of_head_0):
    """Maps of 4 heads: so many rows of head 0 are NaN, head 1 has two rows that do not sum to 1, head 2 looks at one key,
    head 3 is well."""
    weights = maps([FLAT, FLAT, 1e6, FLAT] + [FLAT] * (HEADS - 4))[:, :4]
    weights[0, 0, :rows_of_head_0] = np.nan
    weights[0, 1, 4:6] *= 3
    return weights


def test_heads_with_unsound_rows_are_named_and_one_without_a_sound_row_is_the_worst():
    rule = "  mine: {metric: entropy_normalized, each: head, below: 0.1, for: 1, severity: critical}\n  first_invalid: {enabled: false}\n"
    attnd = Attnd(*SETTINGS, config="rules:\n" + rule)
    trainer = Trainer(attnd, "gpt")
    for step in range(6):
        trainer.attention(unsound(T if step == 5 else 0), step=step, causal=True, layer=1)
    judged(attnd, 4)

    def ranked():
        return [(head["head"], head["rule"], head["metric"], head["value"]) for head in by_control(attnd)["heads"]]
    flat = (2, "mine", "entropy_normalized", 0.0)
    assert [(head, rule) for head, rule, _, _ in ranked()] == [(2, "mine"), (1, "invalid_rows")]
    for step in (6, 7, 8):
        trainer.attention(unsound(T), step=step, causal=True, layer=1)
    judged(attnd, 7)
    assert ranked() == [(0, "invalid_rows", "invalid_share", 1.0), flat, (1, "invalid_rows", "invalid_share", 2 / T)]
    answer = by_control(attnd)
    assert [one["rule"] for one in answer["others"]] == ["row_sums"]  # a head stands for invalid_rows
    assert answer["heads"][0]["since"] == {"epoch": 0, "step": 5} and "NaN" in answer["heads"][0]["why"]
    assert by_http(attnd) == answer and by_summary(attnd) == without_words(answer)
    restart(attnd, trainer, signal.SIGKILL)
    assert by_control(attnd)["heads"] == answer["heads"]
    trainer.attention(unsound(T), step=9, causal=True, layer=1)
    trainer.attention(unsound(T), step=10, causal=True, layer=1)
    assert [head["windows"] for head in judged(attnd, 9)["heads"]][0] == 5
    attnd.close()


def test_scores_are_a_series_of_the_history():
    attnd = Attnd(*SETTINGS)
    trainer = collapse(attnd)
    answer = judged(attnd, 7)
    layer = {"stack": "decoder", "layer": 1, "site": "self"}
    series = attnd.call("history", job="gpt", metric="trouble", statistics=["mean", "count"], **layer)
    assert series["windows"]["last"] == list(range(8))
    for head in answer["heads"]:
        scores = series["values"]["mean"][head["head"]]
        assert scores[-1] == head["score"] and max(scores[:5]) < 0.1 <= scores[5]
    assert series["values"]["count"] == [[1] * 8] * HEADS
    grid = attnd.call("grid", job="gpt", metric="trouble")
    assert [one["values"] for one in grid["layers"] if one["layer"] == 1] == [series["values"]["mean"]]
    assert "trouble" in attnd.call("windows", job="gpt")["layers"][0]["metrics"]
    del trainer
    attnd.close()


LONG = 150  # windows: two chunks of 64, and some whose states are still there
ONLY_TWO_RULES = "rules:\n" + "".join(f"  {name}: {{enabled: false}}\n" for name in (
    "first_invalid", "sink_takeover", "looks_ahead", "head_saturated", "head_silent", "head_twins", "never_learned",
    "entropy_falls", "head_uniform", "sink_emergence", "max_logit_growth", "rank_collapse", "redundant_heads",
    "invalid_rows", "row_sums", "silence", "losses")) + """\
  entropy_collapse: {metric: entropy_normalized, below: 0.3, clear: 0.45, for: 2}
  own: {metric: entropy_normalized, each: head, below: 0.2, clear: 0.25, for: 3, severity: warning}
"""


def entropy_of(weights):
    """[HEADS], float64: the mean over rows of what causal maps have; a row with one key has none."""
    p = weights[0].astype(np.float64)[:, 1:]
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return (-terms.sum(-1) / np.log(np.arange(2, T + 1))).mean(-1)


def firing_windows(values, bound, clear, needed):
    """Whether a rule of values below `bound` fires, window by window."""
    fires, held, found = False, 0, []
    for x in values:
        held = held + 1 if x < bound else 0
        fires = held >= needed or (fires and x < clear)
        found.append(fires)
    return found


def scores_of(values, bound, clear, severity, own_fires=None, layer_fires=None):
    """The scores of one head by one rule of values below `bound`, by the definition in daemon/alerts/trouble.h."""
    found = []
    for w, x in enumerate(values):
        def level(y):
            return 1 + (bound - y) / bound if y < bound else max(0, (clear - y) / (clear - bound))
        held = min(level(y) for y in values[max(0, w - 2):w + 1])
        if own_fires[w] if own_fires else layer_fires[w] and x < bound:
            found.append(severity + min(0.99, max(0, held - 1)))
        elif layer_fires and all(y < bound for y in values[max(0, w - 2):w + 1]):
            found.append(0.5 + 0.5 * min(0.99, held - 1))
        else:
            near = values[max(0, w - 4):w + 1]
            slope = np.polyfit(range(len(near)), near, 1)[0] if len(near) >= 3 else 0
            approach = min(1, level(x))
            if slope < 0 and -slope * (len(near) - 1) > 0.01 and x >= bound:
                approach = max(approach, 1 - (x - bound) / -slope / 10)
            found.append(0.5 * min(0.99, max(0, approach)))
    return np.array(found)


def test_scores_of_many_windows_are_those_of_the_definition_in_chunks_and_without_states():
    attnd = Attnd(*SETTINGS, "history.states=1", "workers.isa=scalar", config=ONLY_TWO_RULES)
    trainer, rng = Trainer(attnd, "gpt"), np.random.default_rng(7)
    level, values = np.full(HEADS, 2.0), []
    for step in range(LONG):
        target = 7 if step // 20 % 2 else 2  # of all heads, in logarithms of the sharpness
        level = np.clip(level + rng.normal(0, 0.8, HEADS) + 0.3 * (target - level), -2, 9)
        weights = maps(np.exp(level))
        values.append(entropy_of(weights))
        trainer.attention(weights, step=step, causal=True, layer=1)
    judged(attnd, LONG - 2)
    values = np.array(values[:-1]).T
    with sqlite3.connect(f"file:{attnd.history_path}?mode=ro", uri=True) as database:
        def chunks():
            return database.execute("SELECT count(*), sum(bare) FROM chunks").fetchone()
        wait_until(lambda: chunks() == (2, 1), "two chunks, the first without states")
    layer_fires = firing_windows(values.mean(0), 0.3, 0.45, 2)
    wanted = np.array([np.maximum(
        scores_of(one, 0.3, 0.45, 3, layer_fires=layer_fires),
        scores_of(one, 0.2, 0.25, 2, own_fires=firing_windows(one, 0.2, 0.25, 3))) for one in values])
    assert all(np.mean(wanted[:, :64] // 1 == kind) > 0.02 for kind in (0, 2, 3))  # of each, in the first chunk
    layer = {"stack": "decoder", "layer": 1, "site": "self"}
    series = attnd.call("history", job="gpt", metric="trouble", statistics=["mean", "last", "count"], **layer)
    assert series["windows"]["last"] == list(range(LONG - 1))
    assert np.allclose(series["values"]["mean"], wanted, rtol=0, atol=1e-9)  # the scalar kernels count in float64
    assert series["values"]["last"] == series["values"]["mean"]
    assert series["values"]["count"] == [[1] * (LONG - 1)] * HEADS
    grid = attnd.call("grid", job="gpt", metric="trouble")
    assert [one["values"] for one in grid["layers"]] == [series["values"]["mean"]]
    attnd.close()


def test_bad_questions_are_refused():
    attnd = Attnd(*SETTINGS)
    for params in ({"state": "resolved"}, {"limit": -1}, {"head": 1}):
        with pytest.raises(RuntimeError, match="argument"):
            by_control(attnd, **params)
    with pytest.raises(RuntimeError, match="job_unknown"):
        by_control(attnd)
    attnd.close()
