# SPDX-License-Identifier: MIT
"""States of a run: it failed, with the exception; there is no news of it; it ended."""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from harness import PATIENCE_S, Attnd, Trainer, attnctl, sharp_maps, wait_until

torch = pytest.importorskip("torch")
import attnd as client  # noqa: E402
from attnd.base import endings  # noqa: E402

CLIENT = str(pathlib.Path(client.__file__).parents[1])
SCRIPT = """
import sys, torch, attnd
model = torch.nn.MultiheadAttention(8, 2)
def train(steps):
    for _ in range(steps):
        model(*[torch.randn(4, 2, 8)] * 3)[0].sum().backward()
        watch.step()
watch = attnd.watch(model, "job", address=sys.argv[1], every=1, steps="manual", wait=20)
def main():
    train(3)
    BODY
main()
"""


def run_script(attnd, body, *options):
    text = SCRIPT.replace("    BODY", textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.Popen([sys.executable, *options, "-c", text, str(attnd.directory)], stdin=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": CLIENT})


def state_after(attnd, body, *options):
    process = run_script(attnd, body, *options)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert "ModuleNotFound" not in said, said
    return wait_until(lambda: next((job for job in attnd.call("jobs") if job["state"] not in ("active", "idle")), None), "an end")


@pytest.mark.parametrize("body, sentence, place", [
    ("raise ValueError('bad loss\\nand more')", "ValueError: bad loss, at step 2", "main"),
    ("with watch:\n    watch.publisher.frobnicate()", "AttributeError: 'Publisher' object has no attribute 'frobnicate', at step 2", "main"),
    ("sys.excepthook = lambda *_: None\nraise KeyError()", "KeyError, at step 2", "main"),
    ("import threading\ndef work():\n    train(2)\n    raise RuntimeError('in a thread')\n"
     "thread = threading.Thread(target=work)\nthread.start()\nthread.join()", "RuntimeError: in a thread, at step 4", "work"),
    ("try:\n    raise OSError('gone')\nfinally:\n    watch.close()", "OSError: gone, at step 2", "main")])
def test_a_training_that_ends_by_an_exception_is_failed(body, sentence, place):
    with contextlib.closing(Attnd()) as attnd:
        job = state_after(attnd, body)
        assert job["state"] == "failed"
        failure = job["failure"]
        assert (failure["sentence"], failure["rank"]) == (sentence, 0)
        assert failure["where"].startswith("<string>:") and failure["where"].endswith(f": {place}")
        assert f"failed: {sentence}" in attnctl(attnd, "jobs").stdout
        for _ in range(2):
            verdict = attnd.call("verdict", job="job")
            assert (verdict["state"], verdict["failure"]) == ("failed", failure)
            past = wait_until(lambda: attnd.call("runs")["runs"], "a run in the history")
            assert (past[0]["state"], past[0]["failure"]) == ("failed", failure)
            attnd.restart(sig=signal.SIGKILL)


@pytest.mark.parametrize("body, options", [
    ("raise KeyboardInterrupt", ()), ("sys.exit(0)", ()), ("pass", ()),
    ("raise attnd.StopTraining('enough')", ()),
    ("try:\n    raise OSError('mended')\nexcept OSError:\n    pass\nwatch.close()", ()),
    ("sys.ps1 = '>>> '\nsys.last_value = ValueError('of a cell')", ())])
def test_other_ends_are_no_failures(body, options):
    with contextlib.closing(Attnd()) as attnd:
        assert state_after(attnd, body, *options)["state"] == "ended"


def test_a_watch_that_began_within_a_handler_did_not_fail_by_what_is_handled():
    with contextlib.closing(Attnd()) as attnd:
        try:
            raise MemoryError("the batch before")
        except MemoryError:
            watch = client.watch(torch.nn.Linear(2, 2), "job", address=attnd.directory, wait=PATIENCE_S)
            watch.close()
        wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "its end")


def test_a_killed_training_has_no_news_at_once_and_one_that_goes_on_has():
    with contextlib.closing(Attnd("limits.no_news=12s")) as attnd:
        trainer = Trainer(attnd, "killed")
        trainer.one_epoch(sharp_maps(1, 2), 0)
        process = run_script(attnd, "import time\ntime.sleep(600)")
        state = lambda name: next((job for job in attnd.call("jobs") if job["job"] == name), {})  # noqa: E731
        wait_until(lambda: state("job").get("received", 0) > 3, "numbers")
        wait_until(lambda: state("killed")["state"] == "no_news", "no news", 40)
        assert state("killed")["silent_s"] >= 12
        assert "killed: no news for 1" in attnctl(attnd, "jobs").stdout
        assert state("job")["state"] == "active"  # nothing is captured, but the process is there
        process.kill()
        process.communicate()
        wait_until(lambda: state("job")["state"] == "no_news", "no news", 40)
        stored = lambda: {run["job"]: run["state"] for run in attnd.call("runs")["runs"]}  # noqa: E731
        wait_until(lambda: stored() == {"job": "no_news", "killed": "no_news"}, "the states in the history")
        trainer.event("hello", layers=[])
        wait_until(lambda: state("killed")["state"] == "active", "news")
        trainer.close()


def test_a_rank_that_fails_makes_the_run_failed_when_the_others_fall_silent():
    with contextlib.closing(Attnd("limits.no_news=2s")) as attnd:
        first, other = (Trainer(attnd, "job", rank=rank, world=2, run=b"r" * 16) for rank in (0, 1))
        for trainer in (first, other):
            trainer.one_epoch(sharp_maps(1, 2), 0)
        first.event("bye", step=7, failure={"type": "ValueError", "message": "bad", "where": ""})
        wait_until(lambda: attnd.call("jobs")[0]["state"] == "failed", "the failure", 20)
        assert attnd.call("jobs")[0]["failure"]["sentence"] == "ValueError: bad, at step 7"
        other.event("bye", step=9, failure={"type": "RuntimeError", "message": "Connection closed by peer", "where": ""})
        wait_until(lambda: attnd.call("jobs")[0]["received"] >= 6, "the second bye")
        assert attnd.call("jobs")[0]["failure"]["type"] == "ValueError"
        first.close()
        other.close()


def test_a_failure_is_said_in_plain_and_bounded_text():
    said = endings.failure_of(ValueError("\x1b[31mred\x07\n" + "line 2"))
    assert said["message"] == "?[31mred?"
    long = endings.failure_of(type("E" * 500, (Exception,), {})("ü" * 500))
    assert len(long["type"]) == 128 and long["message"] == "ü" * 128
    thread = threading.Thread(target=lambda: None)
    assert endings.failure_of(SystemExit(3))["message"] == "3" and thread is not None
