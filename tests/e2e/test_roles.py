# SPDX-License-Identifier: MIT
"""The role of a head, the evidence for it, and since when: of heads that change what they do at known steps."""
import json
import sqlite3

import numpy as np
import pytest
from harness import Attnd, Trainer, attnctl, wait_until

LENGTH, PERIOD = 16, 8
TOKENS = np.tile(np.arange(PERIOD, dtype=np.int32), LENGTH // PERIOD)[None]
# The key that a query of a head with the role attends to; below 0: it has none.
KEY = {"previous_token": lambda i: i - 1, "first_token": lambda i: 0 if i else -1, "diagonal": lambda i: i,
       "induction": lambda i: i - PERIOD + 1 if i >= PERIOD else -1}


def head(role, weight=0.8):
    """Causal weights [T,T]: `weight` on the role's key, the rest even. `mixed`: some, and not most, on the token before."""
    key, weight = (KEY["previous_token"], 0.4) if role == "mixed" else (KEY.get(role, lambda i: -1), weight)
    maps = np.zeros((LENGTH, LENGTH), np.float32)
    for i in range(LENGTH):
        only = key(i) >= 0 and i > 0
        maps[i, :i + 1] = (1 - weight if only else 1) / (i + 1)
        maps[i, key(i) if only else i] += weight if only else 0
    return maps


def train(attnd, heads, job="gpt", trainer=None, first=0, tokens=lambda step: TOKENS, of=lambda step: dict(step=step)):
    """A step for each entry of `heads`, which has a role, or (role, weight), per head."""
    trainer = trainer or Trainer(attnd, job)
    for step, roles in enumerate(heads, first):
        maps = np.stack([head(*([role] if isinstance(role, str) else role)) for role in roles])
        trainer.attention(maps[None], tokens=tokens(step), causal=True, **of(step))
    return trainer


def ended(attnd, trainer, windows, **where):
    """The run's roles, by head, once the history has all its windows."""
    trainer.event("bye")
    wait_until(lambda: [run["state"] for run in attnd.call("jobs")] == ["ended"], "the end")
    return kept(attnd, windows, **where)


def kept(attnd, windows, **where):
    def all_there():
        layers = attnd.call("windows", job="gpt")["layers"]
        return layers and all(track["windows"] >= windows for layer in layers for track in layer["tracks"])
    wait_until(all_there, f"{windows} windows")
    return attnd.call("roles", job="gpt", **where)["heads"]


def spans(found):
    """(role, first step, last step, windows, others) of each span."""
    return [(span["role"], span["since"]["step"], span["until"]["step"], span["windows"], span["others"])
            for span in found["spans"]]


@pytest.fixture
def attnd():
    return Attnd("window.unit=step", "window.length=1", "window.every=1", "window.timeout=1h")


def test_a_role_has_evidence_and_emerges_at_a_step(attnd):
    steps = [("previous_token", "mixed" if step < 5 else ("induction", 0.83), "first_token", "uniform") for step in range(12)]
    found = ended(attnd, train(attnd, steps), 12)
    assert [one["role"] for one in found] == ["previous_token", "induction", "first_token", "uniform"]
    assert [(one["stack"], one["layer"], one["site"], one["head"]) for one in found] == [
        ("decoder", 0, "self", head) for head in range(4)]
    assert spans(found[1]) == [("mixed", 0, 4, 5, 0), ("induction", 5, 11, 7, 0)]
    assert found[1]["emerged"] == {"window": 5, "epoch": 0, "step": 5} and found[1]["changes"] == 1
    for one in (found[0], found[2], found[3]):
        assert one["emerged"] is None and one["changes"] == 0 and len(one["spans"]) == 1
    (evidence,) = found[1]["evidence"]
    means = attnd.call("history", job="gpt", head=1, metric="induction", statistics=["mean"])["values"]["mean"]
    assert evidence == {"metric": "induction", "value": means[-1], "at_least": 0.5} and 0.83 < evidence["value"] < 0.86
    (evidence,) = found[3]["evidence"]
    assert (evidence["metric"], evidence["at_least"]) == ("entropy_normalized", 0.95)
    for place, why in (({"layer": 9}, "no such layer; it has decoder.0.self"), ({"head": 9}, "no such head")):
        with pytest.raises(RuntimeError, match="no_history") as refused:
            attnd.call("roles", job="gpt", **place)
        assert why in refused.value.sentence


def test_one_window_of_another_role_is_no_change(attnd):
    flicker = ["previous_token"] * 10
    flicker[3] = flicker[7] = "mixed"
    flicker[9] = "first_token"  # the newest window alone
    in_turns = ["first_token"] * 3 + ["previous_token", "mixed"] * 3 + ["previous_token"]
    passing = ["first_token"] * 3 + ["diagonal"] + ["previous_token"] * 6
    first_alone = ["diagonal"] + ["previous_token"] * 9
    found = ended(attnd, train(attnd, list(zip(flicker, in_turns, passing, first_alone))), 10)
    assert spans(found[0]) == [("previous_token", 0, 8, 7, 3)] and found[0]["role"] == "previous_token"
    assert spans(found[1]) == [("first_token", 0, 2, 3, 0), ("previous_token", 3, 9, 4, 3)]
    assert spans(found[2]) == [("first_token", 0, 2, 3, 0), ("diagonal", 3, 3, 1, 0), ("previous_token", 4, 9, 6, 0)]
    assert spans(found[3]) == [("diagonal", 0, 0, 1, 0), ("previous_token", 1, 9, 9, 0)]
    assert found[0]["evidence"][0]["value"] == pytest.approx(
        attnd.call("history", job="gpt", head=0, metric="previous_token")["values"]["mean"][8])


def test_a_number_that_did_not_exist_before_shows_no_emergence(attnd):
    steps = [(("induction", 0.9), "mixed" if step < 9 else ("induction", 0.9)) for step in range(12)]
    found = ended(attnd, train(attnd, steps, tokens=lambda step: None if step < 6 else TOKENS), 12)
    for one, since, emerged in zip(found, (6, 9), (None, 9)):
        assert one["role"] == "induction" and one["spans"][-1]["since"]["step"] == since
        assert (one["emerged"] and one["emerged"]["step"]) == emerged


def test_a_window_without_attention_is_passed_over(attnd, rng):
    """As one that has projection matrices only."""
    trainer, matrix = Trainer(attnd, "gpt"), rng.normal(size=(8, 8)).astype(np.float32)
    for step in range(12):
        if step % 2:
            trainer.projections(wq=matrix, wk=matrix, heads=2, kv_heads=2, head_dim=4, step=step)
        else:
            train(attnd, [["diagonal" if step < 6 else "previous_token", "mixed"]], trainer=trainer, first=step)
    found = ended(attnd, trainer, 12)
    assert [spans(one) for one in found] == [[("diagonal", 0, 4, 3, 0), ("previous_token", 6, 10, 3, 0)],
                                             [("mixed", 0, 10, 6, 0)]]


def test_old_windows_and_new_ones_are_one_history_and_outlive_a_restart(attnd):
    """64 windows make a chunk; the newest are states of their own."""
    def roles(step):
        return ["diagonal" if step < 40 else "previous_token" if step < 139 else "first_token", "mixed"]
    trainer = train(attnd, map(roles, range(70)))
    assert spans(kept(attnd, 69)[0])[0] == ("diagonal", 0, 39, 40, 0)
    attnd.restart(trainer)
    train(attnd, map(roles, range(70, 150)), trainer=trainer, first=70)
    found = ended(attnd, trainer, 150)
    assert spans(found[0]) == [("diagonal", 0, 39, 40, 0), ("previous_token", 40, 138, 99, 0), ("first_token", 139, 149, 11, 0)]
    assert spans(found[1]) == [("mixed", 0, 149, 150, 0)]
    attnd.restart()
    assert attnd.call("roles", job="gpt")["heads"] == found
    assert attnd.call("roles", job="gpt", head=0, layer=0)["heads"] == found[:1]
    assert attnd.stop() == 0
    with sqlite3.connect(attnd.history_path) as database:  # the oldest chunk, as history.max_size takes it away
        (oldest,) = database.execute("SELECT chunk_id FROM chunks ORDER BY last LIMIT 1").fetchone()
        for table in ("series", "windows", "chunks"):
            database.execute(f"DELETE FROM {table} WHERE chunk_id = ?", (oldest,))
    database.close()
    attnd.start()
    diagonal, mixed = attnd.call("roles", job="gpt")["heads"]
    assert spans(diagonal) == [("previous_token", 64, 138, 75, 0), ("first_token", 139, 149, 11, 0)]
    assert spans(mixed) == [("mixed", 64, 149, 86, 0)] and mixed["emerged"] is None


def test_the_newest_spans_are_told_and_all_changes_counted(attnd):
    found = ended(attnd, train(attnd, [["diagonal" if step // 2 % 2 else "first_token"] for step in range(40)]), 40)
    assert found[0]["changes"] == 19 and len(found[0]["spans"]) == 8
    assert spans(found[0])[-1] == ("diagonal", 38, 39, 2, 0) and spans(found[0])[0] == ("first_token", 24, 25, 2, 0)


def test_a_window_has_the_role_of_its_means():
    """Of an epoch of four messages, three attend to the token before: the mean does, whichever came last."""
    attnd = Attnd()
    order = [["diagonal"]] * 8 + [["previous_token"], ["previous_token"], ["previous_token"], ["diagonal"]] * 2
    trainer = Trainer(attnd, "gpt")
    for epoch in range(4):
        train(attnd, order[4 * epoch:4 * epoch + 4], trainer=trainer, first=4 * epoch,
              of=lambda step, epoch=epoch: dict(epoch=epoch, step=step))
        trainer.event("epoch_end", epoch=epoch, step=4 * epoch + 3)
    found = ended(attnd, trainer, 4)
    assert found[0]["role"] == "previous_token" and found[0]["evidence"][0]["value"] > 0.5
    assert found[0]["emerged"] == {"window": 2, "epoch": 2, "step": 11}
    answer = attnd.call("roles", job="gpt")
    assert (answer["unit"], answer["length"], answer["every"], answer["more"]) == ("epoch", 1, 1, False)


def test_one_token_attends_to_itself(attnd):
    trainer = Trainer(attnd, "gpt")
    for step in range(3):
        trainer.attention(np.ones((1, 2, 1, 1), np.float32), step=step, causal=True)
    found = ended(attnd, trainer, 3)
    assert [spans(one) for one in found] == [[("diagonal", 0, 2, 3, 0)]] * 2 and found[0]["emerged"] is None


def test_what_is_not_there_is_said(attnd):
    ended(attnd, train(attnd, [["mixed", "uniform"]]), 1)
    found = attnd.call("roles", job="gpt")["heads"]
    assert found[0]["evidence"] == [] and spans(found[0]) == [("mixed", 0, 0, 1, 0)]
    for params, code in ((dict(job="nobody"), "job_unknown"), (dict(job="gpt", run="ff"), "run_unknown"),
                         (dict(job="gpt", layer=3), "no_history"), (dict(job="gpt", head=2), "no_history"),
                         (dict(job="gpt", metric="induction"), "argument"), (dict(), "argument")):
        with pytest.raises(RuntimeError, match=code):
            attnd.call("roles", **params)


def test_without_numbers_of_rows_there_is_no_role():
    attnd = Attnd("window.unit=step", "window.length=1", "window.every=1", "metrics.core=false")
    trainer = train(attnd, [["mixed"]] * 3)
    with pytest.raises(RuntimeError, match="no_history"):
        ended(attnd, trainer, 3)


def test_attnctl_prints_a_line_per_head(attnd):
    steps = [("mixed" if step < 5 else ("induction", 0.83), "mixed" if step == 3 else "first_token") for step in range(8)]
    ended(attnd, train(attnd, steps), 8)
    shown = attnctl(attnd, "roles", "gpt")
    assert (shown.returncode, shown.stdout.splitlines()) == (0, [
        "HEAD               ROLE         EVIDENCE  SINCE             WINDOWS  BEFORE  CHANGES",
        "decoder.0.self.h0  induction    0.8441    step 5            3/3      mixed   1",
        "decoder.0.self.h1  first_token  0.8317    step 0 or before  7/8      -       0"])
    one = attnctl(attnd, "roles", "gpt", "--head", "0", "--json")
    assert one.returncode == 0 and json.loads(one.stdout)["heads"] == attnd.call("roles", job="gpt", head=0)["heads"]
