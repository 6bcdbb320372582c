# SPDX-License-Identifier: MIT
"""The page tells layers apart by the paths of their modules: two towers as CLIP has them, and a model of one kind."""
import numpy as np
import pytest
from harness import Trainer, softmax_maps, wait_until

TOWERS = [f"{tower}.encoder.layers.{layer}.self_attn" for tower in ("text_model", "vision_model") for layer in range(4)]
BLOCKS = [f"transformer.h.{layer}.attn" for layer in range(4)]


@pytest.fixture(scope="module")
def named(module_site):
    one, rng = module_site("window.unit=step", "window.length=2", "window.every=2"), np.random.default_rng(3)
    for job, stack, modules in (("clip", "encoder", TOWERS), ("gpt", "decoder", BLOCKS)):
        trainer = Trainer(one.daemon, job)
        for step in range(8):
            for layer, module in enumerate(modules):
                trainer.attention(softmax_maps(rng, 1, 6, 12, 12), step=step, stack=stack, layer=layer, module=module)
        wait_until(lambda: len(one.api("summary", job=job, or_null=1) or []) == len(modules), "the windows")
    return one


def test_two_towers_have_a_block_each(named, page):
    page.open(named, "#overview?job=clip").ready()
    kinds = "return [...document.querySelectorAll('svg text.modules title')].map((e) => e.textContent)"
    assert page.js(kinds) == [f"{tower}.encoder.layers.*.self_attn" for tower in ("text_model", "vision_model")]
    rows = page.texts("svg[aria-label='layers by heads'] text.soft")
    assert [text for text in rows if text.startswith("L")] == [f"L{layer}" for layer in range(8)]


def test_a_model_of_one_kind_looks_as_before(named, page):
    page.open(named, "#overview?job=gpt").ready()
    assert page.count("svg text.modules") == 0


@pytest.mark.parametrize("view", ["layer", "head"])
def test_a_layer_says_its_module(named, page, view):
    page.open(named, f"#{view}?job=clip&stack=encoder&layer=5&site=self").ready()
    wait_until(lambda: any(TOWERS[5] in text for text in page.texts(".figure > header .sub")), "the module")
    options = page.js("return [...document.querySelector(\"select[aria-label='layer']\").options].map((o) => o.text)")
    assert options == [f"encoder.{layer}.self · {module}" for layer, module in enumerate(TOWERS)]
