# SPDX-License-Identifier: MIT
"""The bridge against a real daemon, through JSON lines: every window once, whatever is started again; and attnctl bridge."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from harness import ATTNCTL, Attnd, Reader, Trainer, softmax_maps, wait_until

from attnd.bridge import Bridge, JsonLinesSink, Selection, Sink
from attnd.bridge.items import Ledger, Note, Picture, Scalars

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"
RULES = "rules:\n  flat:\n    metric: entropy_normalized\n    above: 0.01\n"
LAYERS, HEADS = 2, 3


def epochs(trainer, rng, first, count):
    for epoch in range(first, first + count):
        for layer in range(LAYERS):
            trainer.attention(softmax_maps(rng, 1, HEADS, 6, 6, causal=True), epoch=epoch, step=10 * epoch + 9, layer=layer,
                              causal=True)
        trainer.event("epoch_end", epoch=epoch, step=10 * epoch + 9)


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(PACKAGE), "ATTND_PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1", **more}


def attnctl(attnd, *arguments, named=None):
    """attnctl bridge as a process, once it has subscribed."""
    before = attnd.stats()["subscriptions"]
    named = ["--endpoint", attnd.endpoint("control")] if named is None else named
    process = subprocess.Popen([ATTNCTL, "bridge", *arguments, *named], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or attnd.stats()["subscriptions"] >= before + 3, "the subscriptions", 60)
    return process


def refused(*arguments, **more):
    """Of a bridge that cannot start: exit status and what it says."""
    done = subprocess.run([ATTNCTL, "bridge", *arguments], env=environment(**more), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def points(path, layer=0):
    """[step] of the windows of a layer, in the order of the file."""
    return [line["step"] for line in lines(path) if line["kind"] == "values" and f".{layer}." in line["where"]]


def steps_of(count):
    return [10 * epoch + 9 for epoch in range(count)]


class Kept(Sink):
    """Keeps items, to be looked at."""
    kind = "kept"

    def __init__(self):
        self.items = []

    def recall(self, run):
        return Ledger()

    def begin(self, run):
        pass

    def write(self, item):
        self.items.append(item)

    def commit(self, run, ledger):
        pass

    def of(self, kind):
        return [item for item in self.items if isinstance(item, kind)]


def bridge(attnd, *sinks, **options):
    return Bridge(sinks, attnd.endpoint("publish"), control=attnd.endpoint("control"), **options)


def forwarded(attnd, train, *sinks, **options):
    """The bridge of a run that has trained and ended, all of which it has had."""
    before = attnd.stats()["subscriptions"]
    with bridge(attnd, *sinks, **options) as running:
        wait_until(lambda: attnd.stats()["subscriptions"] >= before + 3 + options.get("live", False), "the bridge")
        train()
        assert running.wait(60)
    return running


def epochs_to_the_end(trainer, rng, count):
    epochs(trainer, rng, 0, count)
    trainer.event("bye", epoch=count - 1)


def test_every_window_once_whatever_is_started_again(tmp_path, rng):
    attnd, path = Attnd(), tmp_path / "out.jsonl"
    trainer = Trainer(attnd, "gpt")
    epochs(trainer, rng, 0, 2)
    first = attnctl(attnd, "jsonl", str(path))
    epochs(trainer, rng, 2, 1)
    wait_until(lambda: points(path, 1) == steps_of(3), "the first three")
    first.kill()
    first.communicate()
    epochs(trainer, rng, 3, 1)
    second = attnctl(attnd, "jsonl", str(path), "--until-end")
    wait_until(lambda: points(path, 1) == steps_of(4), "the fourth, which nobody saw")
    attnd.restart(trainer)
    wait_until(lambda: attnd.stats()["subscriptions"] >= 3, "the bridge is back")  # what comes before that it misses
    epochs(trainer, rng, 4, 2)
    trainer.event("bye", epoch=5)
    _, said = second.communicate(timeout=60)
    assert (second.returncode, points(path, 0), points(path, 1)) == (0, steps_of(6), steps_of(6)), said


def test_a_run_that_ends_as_the_bridge_begins_is_not_waited_for(rng):
    """The first that the subscription brings may be that it has ended: that it went on was asked before."""
    attnd, kept = Attnd(), Kept()
    trainer = Trainer(attnd, "gpt")
    epochs(trainer, rng, 0, 1)
    wait_until(lambda: attnd.call("jobs"), "the job")
    running = bridge(attnd, kept)
    asked = running._ask_alive

    def ask_and_end():
        asked()
        trainer.event("bye", epoch=0)
        wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")
    running._ask_alive = ask_and_end
    running.run(until_end=True)
    running.close()


def test_jobs_are_named_by_patterns(tmp_path, rng):
    attnd, kept = Attnd(), Kept()
    path = tmp_path / "out.jsonl"
    process = attnctl(attnd, "jsonl", str(path), "--job", "run-*", "--job", "gpt", "--until-end")
    with bridge(attnd, kept, jobs=["run-?", "gp[st]"]):
        wait_until(lambda: attnd.stats()["subscriptions"] >= 6 + 3, "the subscriptions")
        for job in ("other-run-1", "gpt-2", "run-22", "run-1", "gpt"):
            epochs_to_the_end(Trainer(attnd, job), rng, 1)
        _, said = process.communicate(timeout=60)
        wait_until(lambda: {item.run.job for item in kept.items} >= {"run-1", "gpt"}, "the items")
    assert process.returncode == 0, said
    assert {"run-22"} <= {line["job"] for line in lines(path)} <= {"run-1", "run-22", "gpt"}
    assert {item.run.job for item in kept.items} == {"run-1", "gpt"}


@pytest.mark.parametrize("job", ["", "run 1", "run-[1", "run/*"])
def test_no_job_matches_such_a_pattern(job):
    with pytest.raises(ValueError, match="job name"):
        Bridge(Kept(), "ipc:///nowhere/publish", control=None, jobs=[job])


def test_the_tally_as_json(tmp_path, rng):
    attnd = Attnd()
    trainer = Trainer(attnd, "gpt")
    to_file = attnctl(attnd, "jsonl", str(tmp_path / "out.jsonl"), "--json", "--until-end")
    to_stdout = attnctl(attnd, "jsonl", "--json", "--until-end")
    epochs_to_the_end(trainer, rng, 2)
    in_file, out = to_file.communicate(timeout=60)[0], to_stdout.communicate(timeout=60)
    expected = {"sink": "jsonl", "written": len(lines(tmp_path / "out.jsonl")), "skipped": 0, "lost": 0}
    assert json.loads(in_file) == expected and expected["written"] > 0
    assert json.loads(out[1]) == expected and len(out[0].splitlines()) == expected["written"]


def test_numbers_are_those_of_the_summaries(rng):
    attnd, kept = Attnd(), Kept()
    reader = Reader(attnd, "summary/gpt/")
    trainer = Trainer(attnd, "gpt")
    everything = Selection(metrics="*", statistics="*", images=())
    forwarded(attnd, lambda: epochs_to_the_end(trainer, rng, 7), kept, selection=everything)
    summaries = [reader.next()[1] for _ in range(7 * LAYERS)]
    scalars = {(item.where, item.step): item for item in kept.of(Scalars)}
    assert len(scalars) == len(summaries)
    for summary in summaries:
        found = scalars[f"decoder.{summary['layer']}.self 1 epoch", summary["step"]]
        prefix = f"attn/decoder.{summary['layer']}.self/"
        for head in range(HEADS):
            for statistic, suffix in (("mean", ""), ("p90", ".p90"), ("count", ".count")):
                assert found.values[f"{prefix}entropy{suffix}/head_{head}"] == summary["heads"]["entropy"][statistic][head]
        assert found.values[prefix + "aggregate.max.std"] == summary["aggregate"]["max"]["std"]["mean"]
        assert (found.time_ns, found.epoch) == (summary["time_ns"], summary["epoch"])
    drift = summaries[-1]["drift"]["entropy"]
    for head in range(HEADS):
        assert found.values[f"{prefix}entropy.drift.shift/head_{head}"] == drift["shift"][head]
        assert found.values[f"{prefix}entropy.drift.js/head_{head}"] == drift["js"][head]


def test_the_past_is_told_to_a_bridge_that_comes_late(rng):
    attnd, kept = Attnd(config=RULES), Kept()
    reader = Reader(attnd, "job/")
    trainer = Trainer(attnd, "gpt")
    epochs_to_the_end(trainer, rng, 4)
    wait_until(lambda: reader.next()[1]["state"] == "ended", "the end")
    wait_until(lambda: whole_history(attnd, 4), "the history")
    with bridge(attnd, kept):
        wait_until(lambda: len(kept.of(Picture)) == 3 * 4, "all pictures")
        wait_until(lambda: len(kept.of(Note)) == len(attnd.call("alerts", job="gpt")["alerts"]) > 0, "all alerts")
    assert [item.step for item in kept.of(Scalars)] == [step for step in steps_of(4) for _ in range(LAYERS)]
    assert {item.step for item in kept.of(Picture)} == set(steps_of(4))
    assert kept.of(Note)[0].text.startswith("warning, firing: entropy_normalized")


def whole_history(attnd, count):
    """The alerts, once the history has that number of windows of both layers."""
    layers = attnd.call("windows", job="gpt")["layers"]
    done = len(layers) == LAYERS and all(layer["tracks"][0]["last"] == count - 1 for layer in layers)
    return attnd.call("alerts", job="gpt")["alerts"] if done else None


@pytest.mark.parametrize("window,expected", [(None, "1 epoch"), ("2 epochs every 1", "2 epochs every 1")])
def test_windows_of_one_kind_make_a_series(rng, window, expected):
    attnd, kept = Attnd("window.also=[2 epochs every 1]"), Kept()
    trainer = Trainer(attnd, "gpt")
    forwarded(attnd, lambda: epochs_to_the_end(trainer, rng, 3), kept, window=window, live=True)
    windows = {item.where for item in kept.of(Scalars) if "window" in item.about}
    assert windows == {f"decoder.{layer}.self {expected}" for layer in range(LAYERS)}
    live = [item for item in kept.of(Scalars) if item.where == "decoder.0.self live 0"]
    assert [item.step for item in live] == steps_of(3) and "attn/decoder.0.self/entropy.live/head_0" in live[0].values


def test_each_run_is_forwarded_in_the_windows_that_it_is_judged_by(rng):
    attnd, kept = Attnd("window.unit=auto", "window.rank_grace=0", "plan.every=1"), Kept()
    trainers = {"own": Trainer(attnd, "own"), "silent": Trainer(attnd, "silent")}

    def train():
        trainers["own"].event("hello", own_window={"unit": "step", "length": 5})
        for step in range(32):
            for trainer in trainers.values():
                trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)
        for trainer in trainers.values():
            trainer.event("bye", step=31)

    forwarded(attnd, train, kept)
    got = {(item.run.job, item.where) for item in kept.of(Scalars)}
    assert got == {("own", "decoder.0.self 5 steps"), ("silent", "decoder.0.self 16 steps")}


def test_a_sink_that_fails_stops_no_other(rng):
    class Failing(Kept):
        kind = "failing"

        def write(self, item):
            raise OSError("no space left")

    attnd, kept = Attnd(), Kept()
    trainer = Trainer(attnd, "gpt")
    stats = forwarded(attnd, lambda: epochs_to_the_end(trainer, rng, 3), Failing(), kept).stats()
    assert len(kept.of(Scalars)) == 3 * LAYERS and stats["kept"]["failed"] == 0
    assert stats["failing"]["failed"] >= 3 * LAYERS and stats["failing"]["written"] == 0


def test_ctrl_c_ends_cleanly_and_flushes(rng):
    attnd = Attnd(config=RULES)
    trainer = Trainer(attnd, "gpt")
    process = attnctl(attnd, "jsonl", "--metrics", "entropy,sink_rate", "--layers", "decoder.1.*")
    epochs(trainer, rng, 0, 1)
    values = {}
    while values.get("kind") != "values":
        values = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and " 0 lost" in said, said
    assert set(values["values"]) == {f"attn/decoder.1.self/{name}" for name in (
        "sink_rate", "entropy/head_0", "entropy/head_1", "entropy/head_2", "entropy/heads_mean", "entropy/heads_min",
        "entropy/heads_max")}
    assert np.isclose(values["values"]["attn/decoder.1.self/entropy/heads_mean"], np.mean(
        [values["values"][f"attn/decoder.1.self/entropy/head_{head}"] for head in range(HEADS)]))


@pytest.mark.parametrize("how", ["endpoint", "address", "found"])
def test_a_reader_of_stdout_that_leaves_ends_it(how, rng):
    place = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "attnd"
    place.mkdir(mode=0o700)
    attnd = Attnd(directory=str(place))
    trainer = Trainer(attnd, "gpt")
    process = attnctl(attnd, "jsonl", named={"address": ["--address", str(place)], "found": []}.get(how))
    process.stdout.close()
    epochs(trainer, rng, 0, 1)
    assert process.wait(60) == 0
    process.stderr.close()


@pytest.mark.parametrize("words, code, sentence", [
    ("--endpoint ipc://{}/nobody", 3, "cannot reach attnd at"), ("--address localhost:5570", 2, "write tcp://localhost:5570"),
    ("--address {} --endpoint ipc://{}/nobody", 2, "give one of them"),
    ("--window sometimes --summaries ipc://{}/nobody", 2, "window 'sometimes': must be such as")])
def test_what_cannot_be_started_says_why(tmp_path, words, code, sentence):
    got, said = refused("jsonl", *words.replace("{}", str(tmp_path)).split())
    assert got == code and sentence in said


def test_a_package_that_is_missing_is_named(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('not here')\n")
    code, said = refused("wandb", "--summaries", f"ipc://{tmp_path}/nobody", PYTHONPATH=f"{tmp_path}:{PACKAGE}")
    assert code == 2 and said == "attnd.bridge: the wandb bridge needs wandb: pip install 'wandb>=0.20'\n"
    (tmp_path / "msgpack.py").write_text("raise ModuleNotFoundError('not here', name='msgpack')\n")
    code, said = refused("jsonl", PYTHONPATH=f"{tmp_path}:{PACKAGE}")
    assert code == 2 and "has no msgpack: pip install numpy pyzmq msgpack" in said


def test_attnctl_finds_the_package_in_its_source_tree(tmp_path):
    place = tmp_path / "build" / "clients" / "cli"
    place.mkdir(parents=True)
    shutil.copy(ATTNCTL, place / "attnctl")
    command = [str(place / "attnctl"), "bridge", "jsonl", "--help"]
    alone = environment(PYTHONPATH="")
    away = subprocess.run(command, env=alone, cwd=tmp_path, capture_output=True, text=True)
    installed = subprocess.run([sys.executable, "-c", "import attnd.bridge"], env=alone, cwd=tmp_path, capture_output=True)
    if installed.returncode != 0:
        assert away.returncode == 2 and "has no attnd with a bridge" in away.stderr
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "python").symlink_to(PACKAGE)
    found = subprocess.run(command, env=alone, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout.startswith("usage: attnctl bridge")


def test_attnctl_takes_the_python_of_its_own_environment(tmp_path):
    """In a virtual environment that is not activated another Python is in PATH."""
    for place, says in (("own", "beside"), ("path", "in PATH"), ("named", "named")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "python3").write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / place / "python3").chmod(0o755)
    shutil.copy(ATTNCTL, tmp_path / "own/attnctl")
    (tmp_path / "path/attnctl").symlink_to(tmp_path / "own/attnctl")
    there = {"PATH": f"{tmp_path}/path:/usr/bin:/bin"}

    def asked(program="own/attnctl", **more):
        return subprocess.run([tmp_path / program, "bridge", "jsonl"], env={**there, **more}, capture_output=True, text=True).stdout

    assert asked() == asked("path/attnctl") == asked(ATTND_PYTHON="") == "beside\n"
    assert asked(ATTND_PYTHON=f"{tmp_path}/named/python3") == "named\n"
    (tmp_path / "own/python3").chmod(0o644)
    assert asked() == "in PATH\n", "what may not be executed is no Python"


def test_attnctl_without_a_python():
    code, said = refused("jsonl", ATTND_PYTHON="/nonexistent/python")
    assert code == 2 and said.startswith("attnctl: cannot run '/nonexistent/python': No such file or directory; ")


def test_a_file_that_is_no_file_of_lines_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine\n")
    code, said = refused("jsonl", str(tmp_path / "notes.txt"), "--summaries", f"ipc://{tmp_path}/nobody")
    assert code == 2 and "notes.txt:1: not a line of this bridge" in said
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    with pytest.raises(ValueError):
        JsonLinesSink(str(tmp_path / "notes.txt"))
