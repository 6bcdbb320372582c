# SPDX-License-Identifier: MIT
"""A run ends in collapse: every reader agrees about it, also after a restart of attnd and after kill -9."""
import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest

from harness import ATTNCTL, Trainer, attnctl, wait_until
from web import Web

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux: apt install tmux")
T, HEADS, BYE = 16, 4, 9


def one_key():
    weights = np.zeros((1, HEADS, T, T), np.float32)
    weights[..., 1] = 1
    return weights


def facts(alert):
    return {key: alert[key] for key in ("run", "rule", "state", "layer", "head", "since", "value", "bound", "message")}


class Readers:
    """What each of them says of the run."""

    def __init__(self, attnd, run, open_top):
        self.attnd, self.run, self.open_top = attnd, run, open_top

    def page(self, path):
        return self.attnd.json(f"/api/v1/{path}")

    def top(self):
        """The header and what needs attention."""
        terminal = self.open_top(self.attnd, "gpt", size=(120, 24))
        state = terminal.wait_for(r"^ gpt  (\w+)  .*  run ([0-9a-f]{8}) ").groups()[::-1]
        worst = terminal.wait_for(r"^ !! (\S+)  (entropy_collapse) (from the start|between steps \d+ and \d+)").groups()
        terminal.wait_for(r"saturated_entropy of decoder\.0\.self is 0, below 0\.25[^\0]*when the run\s+ended")
        terminal.close()
        return state, worst

    def series(self):
        """The marks of a figure, as attnd.plots reads them."""
        from attnd.plots.read import timeline

        data = timeline("gpt", run=self.run, endpoint=self.attnd.endpoint("control"))
        return sorted(data.alerts)

    def all(self):
        text, plain = attnctl(self.attnd, "alerts"), attnctl(self.attnd, "alerts", "gpt", "--json")
        told = json.loads(plain.stdout)
        answer = self.page("alerts?job=gpt")
        return {
            "states": (text.returncode, plain.returncode,
                       re.findall(r"gpt +([0-9a-f]{8}) +(\S+) +\S+ +(firing at end)", text.stdout)),
            "json": [facts(one) for one in told["firing"]],
            "page": [facts(one) for one in answer["firing"]],
            "past": ([facts(one) for one in told["alerts"]], [facts(one) for one in answer["alerts"]]),
            "runs": self.page("runs?job=gpt"),
            "jobs": self.page("jobs"),
            "summary": self.page("summary?job=gpt"),
            "verdict": self.page("verdict?job=gpt"),
            "top": self.top(),
            "series": self.series(),
        }


def test_a_run_that_ended_in_collapse_is_so_for_all_readers_and_after_restarts(open_top, monkeypatch):
    monkeypatch.setenv("ATTND_ATTNCTL", os.path.abspath(ATTNCTL))
    attnd = Web("window.unit=step", "window.rank_grace=0", "history.commit=20ms")
    trainer = Trainer(attnd, "gpt")
    for step in range(BYE + 1):
        trainer.attention(one_key(), step=step, tokens=np.arange(T, dtype=np.int32)[None] % 5)
    trainer.event("bye", step=BYE)
    attnd.settled(BYE + 2)
    run = trainer.run.hex()
    readers = Readers(attnd, run, open_top)
    wait_until(lambda: len(attnd.call("alerts", job="gpt")["alerts"] or ()) == 2, "the end in the history")
    before = readers.all()
    (alert,) = before["page"]
    assert (alert["run"], alert["rule"], alert["state"]) == (run, "entropy_collapse", "firing_at_end")
    assert (alert["since"], alert["value"], alert["bound"]) == ([None, 0], 0, 0.25)
    assert before["json"] == before["page"] and before["past"][0] == before["past"][1]
    assert before["states"] == (1, 1, [(run[:8], "entropy_collapse", "firing at end")])
    assert before["top"] == ((run[:8], "ended"), ("decoder.0.self", "entropy_collapse", "from the start"))
    assert before["series"] == [(0, "firing"), (BYE, "firing_at_end")]
    assert [one["state"] for one in before["jobs"]] == [one["state"] for one in before["runs"]["runs"]] == ["ended"]
    assert before["summary"][0]["step"] == before["jobs"][0]["step"] == BYE
    for sig in (signal.SIGTERM, signal.SIGKILL):
        attnd.restart(sig=sig)
        assert readers.all() == before
