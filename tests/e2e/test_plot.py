# SPDX-License-Identifier: MIT
"""attnctl plot of a job that attnd knows, of its recording and of its history, and figures out of a training loop."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import harness
from figures import Svg, bar_table, steps_of
from harness import ATTNCTL, PATIENCE_S, SANITIZED, Attnd, Trainer, softmax_maps, wait_until
from test_maps import pooled
from test_record import Recorder
from warm import Warm

ROOT = pathlib.Path(__file__).parents[2]
WARM = Warm(ATTNCTL)
EXAMPLE = ROOT / "clients" / "python" / "examples" / "save_figures.py"


def attnctl(attnd, *arguments, code=0):
    if arguments[0] == "plot":
        done = WARM.plot(*arguments[1:], ATTND_ADDRESS=attnd.directory)
    else:
        done = harness.attnctl(attnd, *arguments)
    assert done.returncode == code, done
    return done.stderr if code else done.stdout


def plot(attnd, path, *arguments):
    attnctl(attnd, "plot", *arguments, "-o", path)
    return Svg(path)


def expect_map(svg, index, values, high=None):
    expected = np.clip(np.floor(256 * values.astype(np.float64) / (high or values.max())), 0, 255)
    assert np.abs(steps_of(svg.maps[index][1], bar_table(svg)) - expected).max() <= 1


def test_a_jobs_newest_maps(rng, tmp_path):
    attnd = Attnd("maps.every=0s")
    weights = softmax_maps(rng, 1, 3, 6, 6)
    Trainer(attnd, "gpt").attention(weights, epoch=1, step=8, labels=["the", "cat", "<sat>", "on", "\x07", ""])
    attnd.settled(1)
    svg = plot(attnd, tmp_path / "a.svg", "heatmap", "gpt", "--head", 2)
    expect_map(svg, 0, weights[0, 2])
    assert {"decoder.0.self, head 2, step 8", "cat", "<sat>", "\u00b7", "\u2205"} <= set(svg.texts)
    svg = plot(attnd, tmp_path / "a.svg", "heads", "gpt")
    for head in range(3):
        expect_map(svg, head, weights[0, head], weights.max())
    said = attnctl(attnd, "plot", "heatmap", "gpt", "--head", 3, "-o", "x.svg", code=2)
    assert "has no head 3 (valid: 0 to 2)" in said
    assert "no such job: 'gpd'" in attnctl(attnd, "plot", "heatmap", "gpd", "-o", "x.svg", code=1)


def test_maps_that_attnd_has_pooled_say_so(rng, tmp_path):
    attnd = Attnd("maps.every=0s")
    weights = softmax_maps(rng, 1, 2, 200, 200)
    Trainer(attnd, "gpt").attention(weights)
    attnd.settled(1)
    svg = plot(attnd, tmp_path / "a.svg", "heatmap", "gpt", "--head", 1)
    expect_map(svg, 0, np.array(pooled(weights[0, 1])))
    assert "decoder.0.self, head 1, step 0, pooled to 128 x 128" in svg.texts
    assert "150" in svg.texts, "positions are those of queries and keys"
    said = attnctl(attnd, "plot", "similarity", "gpt", "-o", tmp_path / "b.svg", code=1)
    assert "similarity needs whole maps" in said and "raise maps.size to 200" in said
    assert not (tmp_path / "b.svg").exists()


def test_a_recording(rng, tmp_path):
    attnd = Attnd()
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", tmp_path / "run.rec", "--until-end")
    steps = [softmax_maps(rng, 2, 2, 5, 7) for _ in range(3)]
    for step, weights in enumerate(steps):
        trainer.attention(weights, step=step, site="cross")
    trainer.event("bye")
    assert recorder.end()[0] == 0
    attnd.close()
    svg = plot(attnd, tmp_path / "a.svg", "heatmap", tmp_path / "run.rec", "--head", 1, "--sample", 1)
    expect_map(svg, 0, steps[2][1, 1])
    assert "decoder.0.cross, head 1, sample 1, step 2" in svg.texts
    svg = plot(attnd, tmp_path / "a.svg", "heatmap", tmp_path / "run.rec", "--head", 0, "--step", 1)
    expect_map(svg, 0, steps[1][0, 0])


def test_the_queries_of_cross_attention_are_the_tokens_of_their_stack(rng, tmp_path):
    attnd = Attnd("maps.enabled=true")
    trainer = Trainer(attnd, "gpt")
    recorder = Recorder(attnd, "gpt", tmp_path / "run.rec", "--until-end")
    trainer.attention(softmax_maps(rng, 1, 2, 3, 3), labels=["ein", "alter", "Hut"])
    trainer.attention(softmax_maps(rng, 1, 2, 3, 4), site="cross", labels=["an", "old", "grey", "hat"])
    trainer.event("bye")
    assert recorder.end()[0] == 0
    for source in (tmp_path / "run.rec", "gpt"):
        svg = plot(attnd, tmp_path / "a.svg", "heatmap", source, "--layer", "cross")
        assert {"an", "old", "grey", "hat", "ein", "alter", "Hut"} <= set(svg.texts)


def sharpen(rng, step):
    """Attention that looks at everything alike, and from step 20 on at one key."""
    logits = rng.normal(size=(1, 3, 12, 12)) * (0.1 if step < 20 else 50)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def collapsed():
    """A run of 40 steps in windows of 4, with an alert in the history."""
    attnd = Attnd("window.unit=step", "window.length=4", "window.every=4", "window.rank_grace=0",
                  config="rules: {mine: {metric: entropy_normalized, each: head, below: 0.3}}\n")
    Attnd.all.remove(attnd)  # it outlives a test
    trainer, rng = Trainer(attnd, "gpt"), np.random.default_rng(7)
    for step in range(40):
        for layer in range(2):
            trainer.attention(sharpen(rng, step), step=step, layer=layer)
    trainer.event("bye")
    wait_until(lambda: attnd.call("jobs"), "the job")
    wait_until(lambda: attnd.call("alerts", job="gpt")["alerts"], "an alert in the history")
    wait_until(lambda: len(attnd.call("history", job="gpt", layer=1)["windows"]["last"]) == 10, "all windows")
    yield attnd
    attnd.close()
    attnd.discard()


def test_the_history_of_all_heads(collapsed, tmp_path):
    svg = plot(collapsed, tmp_path / "a.svg", "entropy", "gpt")
    cells = steps_of(svg.maps[0][1], bar_table(svg))
    assert cells.shape == (6, 10) and np.all(cells[:, :5] > 200) and np.all(cells[:, 5:] < 80)
    assert {"gpt, heads over time", "decoder.0", "decoder.1", "step"} <= set(svg.texts)


def test_the_history_of_a_layer_with_alerts(collapsed, tmp_path):
    svg = plot(collapsed, tmp_path / "a.svg", "series", "gpt", "--layer", "decoder.1", "--metric", "entropy")
    assert {"gpt, entropy", "entropy (nats)", "decoder.1.self, median of heads"} <= set(svg.texts)
    assert not any("alert" in text for text in svg.texts), "the alert is about another metric"
    svg = plot(collapsed, tmp_path / "b.svg", "series", "gpt", "--layer", "1", "--metric", "entropy_normalized")
    assert "alert (faint: resolved)" in svg.texts
    said = attnctl(collapsed, "plot", "series", "gpt", "--metric", "loss", "-o", "x.svg", code=2)
    assert ", ..., " in said and said.endswith(" in all: see attnctl summary gpt --json)\n")
    for command in ("plot series gpt -o x.svg", "history gpt", "export gpt --csv", "summary gpt"):
        assert "did you mean 'entropy'?" in attnctl(collapsed, *command.split(), "--metric", "entrpy", code=2)
    said = attnctl(collapsed, "plot", "series", "gpt", "--from", 99999, "-o", "x.svg", code=1)
    assert said == "attnctl: gpt has no window of entropy_normalized from 99999: its windows end at 3 to 39\n"
    said = attnctl(collapsed, "plot", "series", "gpt", "--layer", 7, "-o", "x.svg", code=2)
    assert "has nothing of entropy_normalized in layer 7" in said


def test_what_export_writes_gives_the_same_figure(collapsed, tmp_path):
    (tmp_path / "run.csv").write_text(attnctl(collapsed, "export", "gpt", "--csv"))
    (tmp_path / "run.jsonl").write_text(attnctl(collapsed, "export", "gpt", "--json"))
    for kind in ("entropy", "series"):
        plots = [plot(collapsed, tmp_path / f"{i}.svg", kind, source, "--metric", "mean_distance", "--head", 1)
                 for i, source in enumerate(("gpt", tmp_path / "run.csv", tmp_path / "run.jsonl"))]
        assert len(plots[0].texts) > 10
        assert len({(tmp_path / f"{i}.svg").read_bytes() for i in range(3)}) == 1


@pytest.mark.skipif(SANITIZED, reason="it is PyTorch that takes the time")
def test_a_training_loop_saves_a_figure_per_layer(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, EXAMPLE, tmp_path, "--epochs", "2", "--every", "1", "--ending", "svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")})
    assert done.returncode == 0, done
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg"))
    assert files == [f"epoch-00{epoch}/heads-decoder.{layer}.self.svg" for epoch in (1, 2) for layer in (0, 1)]
    maps = [[cells for _, cells in Svg(tmp_path / file).maps] for file in files]
    assert [len(of_layer) for of_layer in maps] == [4] * 4
    assert not np.array_equal(maps[0], maps[2]), "training changes attention"


@pytest.mark.skipif(subprocess.run(["/usr/bin/python3", "-c", "import matplotlib, numpy"], capture_output=True).returncode != 0,
                    reason="the distribution's Python has no matplotlib")
def test_a_python_without_matplotlib_is_passed_over(rng, tmp_path):
    for place in ("in-path", "named"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", tmp_path / place], check=True)
    np.save(tmp_path / "maps.npy", softmax_maps(rng, 1, 2, 6, 6)[0])

    def plotted(**more):
        environment = {"PATH": f"{tmp_path}/in-path/bin:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "clients" / "python"), **more}
        done = subprocess.run([ATTNCTL, "plot", "heads", tmp_path / "maps.npy", "-o", tmp_path / "a.svg"], capture_output=True, text=True,
                              timeout=4 * PATIENCE_S, env=environment)
        assert done.returncode == 0, done
        return len(Svg(tmp_path / "a.svg").maps)

    assert plotted() == plotted(ATTND_PYTHON=f"{tmp_path}/named/bin/python3") == 2
    assert plotted(PATH=f"{tmp_path}/in-path/bin:/nonexistent") == 2
