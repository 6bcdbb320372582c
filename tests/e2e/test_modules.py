# SPDX-License-Identifier: MIT
"""The paths of modules on their way: from `attnd.watch` to summaries, `attnctl --json`, the API, /metrics, alerts and
the past, over a restart. The model has two towers as CLIP has them, which their numbers alone do not tell apart."""
import json

import pytest
from harness import PATIENCE_S, Trainer, attnctl, softmax_maps, wait_until
from web import Web

torch = pytest.importorskip("torch")

import attnd as client  # noqa: E402

JOB = "clip"
PATHS = [f"{tower}.encoder.layers.{layer}.self_attn" for tower in ("text_model", "vision_model") for layer in range(2)]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return x + self.self_attn(x, x, x)[0]


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.layers = torch.nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x):
        for layer in self.encoder.layers:
            x = layer(x)
        return x


class Clip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text_model, self.vision_model = Tower(), Tower()

    def forward(self, text, image):
        return self.text_model(text).mean(1) @ self.vision_model(image).mean(1).T


def train(attnd, steps):
    torch.manual_seed(1)
    model = Clip()
    with client.watch(model, job=JOB, endpoint=attnd.endpoint("ingest"), every=1, steps="manual", wait=PATIENCE_S) as w:
        assert w.publisher.stats()["subscribed"]
        for _ in range(steps):
            model(torch.rand(2, 5, 8), torch.rand(2, 7, 8)).sum().backward()
            w.step()
        assert w.layers == [("encoder", number, "self") for number in range(4)]
        assert [layer.module for layer in w.layers] == PATHS
        w.epoch_end()


def of(layers):
    """{number: path} of a list of layers."""
    return {layer["layer"]: layer.get("module") for layer in layers}


def said(attnd, *arguments):
    done = attnctl(attnd, *arguments)
    assert done.returncode == 0, done
    return done.stdout


def json_of(attnd, *arguments):
    return json.loads(said(attnd, *arguments, "--json"))


def assert_the_past_says_it(attnd):
    expected = dict(enumerate(PATHS))
    assert of(attnd.call("windows", job=JOB)["layers"]) == expected
    assert of(attnd.call("grid", job=JOB)["layers"]) == expected
    assert attnd.call("history", job=JOB, layer=2)["heads"][0]["module"] == PATHS[2]
    assert attnd.call("map", job=JOB, layer=3)["module"] == PATHS[3]


def test_all_views_name_the_modules_of_two_towers():
    attnd = Web("window.unit=epoch", "maps.every=0ms")
    expected = dict(enumerate(PATHS))
    train(attnd, 3)
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end of the run")
    assert of(attnd.call("jobs")[0]["layers"]) == expected
    for method in ("summary", "live"):
        assert of(attnd.call(method, job=JOB)) == expected
    assert attnd.call("maps", job=JOB, layer=2)["module"] == PATHS[2]
    assert of(json_of(attnd, "summary", JOB)) == expected
    table = [line.split() for line in said(attnd, "summary", JOB, "--metric", "sink_rate").splitlines()[-4:]]
    assert [(row[0], row[-1]) for row in table] == [(f"encoder.{n}.self", path) for n, path in expected.items()]
    assert f"  module {PATHS[3]}\n" in said(attnd, "show", JOB, "--layer", "3")
    assert json_of(attnd, "show", JOB, "--layer", "2")["module"] == PATHS[2]
    assert of(next(job for job in json_of(attnd, "jobs") if job["job"] == JOB)["layers"]) == expected
    for kind in ("summary", "live"):
        assert of(attnd.json(f"/api/v1/{kind}?job={JOB}")) == expected
    wait_until(lambda: attnd.stats()["history"]["waiting"] == 0, "the windows on the disk")
    assert_the_past_says_it(attnd)
    attnd.restart()
    assert_the_past_says_it(attnd)


def test_a_run_that_goes_on_after_a_restart_knows_its_modules(rng):
    """A trainer that says them no more: what was kept says them."""
    attnd = Web("window.unit=step", "window.length=1", "window.every=1",
                config="rules:\n  high:\n    metric: entropy\n    above: 0.01\n")
    trainer = Trainer(attnd, JOB)
    for step in range(2):
        trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=step, layer=1, module=PATHS[1])
    wait_until(lambda: attnd.call("jobs"), "the job")
    wait_until(lambda: attnd.call("alerts", job=JOB)["firing"], "the alert")
    assert {alert["module"] for alert in attnd.call("alerts", job=JOB)["firing"]} == {PATHS[1]}
    page = attnd.get("/metrics")[1].decode()
    assert f'attnd_layer_info{{job="{JOB}",stack="decoder",layer="1",site="self",module="{PATHS[1]}"}} 1' in page
    attnd.restart(trainer)
    assert of(attnd.call("jobs")[0]["layers"]) == {1: PATHS[1]}
    for step in range(2, 5):
        trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=step, layer=1)
    attnd.settled(3)
    assert of(attnd.call("summary", job=JOB)) == {1: PATHS[1]}
    assert {alert["module"] for alert in attnd.call("alerts", job=JOB)["alerts"]} == {PATHS[1]}


@pytest.mark.parametrize("module", ["", "a\x1b[2J", "m" * 257, "a\x85b"])
def test_a_module_that_would_move_a_cursor_is_refused(attnd, rng, module):
    trainer = Trainer(attnd, JOB)
    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), module=module)
    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), layer=1, module="blocks.1.attn")
    attnd.settled(2)
    assert attnd.stats()["dropped"] == {"key_range": 1}
    assert of(attnd.call("jobs")[0]["layers"]) == {1: "blocks.1.attn"}
