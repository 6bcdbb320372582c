# SPDX-License-Identifier: MIT
"""attnd.notebook.view: what it takes, what it refuses, and what is in the document; tests/browser shows it."""
import base64
import json
import pathlib
import re
import types

import numpy as np
import pytest

from attnd.notebook import cell
from attnd.notebook.cell import view

PAGE = pathlib.Path(cell.__file__).parents[1] / "page"
pytestmark = pytest.mark.skipif(not any(map(pathlib.Path.is_file, map(pathlib.Path, cell._D3))), reason="no D3")


def softmax(*shape):
    x = np.exp(np.random.default_rng(3).normal(size=shape))
    return x / x.sum(-1, keepdims=True)


def data_of(shown):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown.document, re.DOTALL)
    data = json.loads(found[1])
    values = np.frombuffer(base64.b64decode(data["values"]), "<f4")
    maps = [values[x["first"]:x["first"] + x["heads"] * x["rows"] * x["columns"]].reshape(x["heads"], x["rows"], x["columns"])
            for x in data["layers"]]
    return data, maps


@pytest.mark.parametrize("given", [
    lambda w: w, list, tuple, lambda w: [x[None] for x in w], lambda w: list(w.astype(np.float32)),
    lambda w: types.SimpleNamespace(attentions=tuple(x[None] for x in w)),
    lambda w: {f"decoder.{i}.self": x for i, x in enumerate(w)}])
def test_arrays_of_any_form_are_the_numbers_of_the_document(given):
    weights = softmax(3, 2, 4, 5)
    data, maps = data_of(view(given(weights)))
    assert [(x["stack"], x["layer"], x["site"], x["queries"], x["keys"]) for x in data["layers"]] == [
        ("decoder", i, "self", 4, 5) for i in range(3)]
    np.testing.assert_array_equal(maps, weights.astype(np.float32))
    entropy = -(weights * np.log(weights)).sum(-1).mean(-1)
    np.testing.assert_allclose(data["metrics"][0]["values"], entropy, rtol=1e-6)
    np.testing.assert_allclose(data["metrics"][1]["values"], weights.max(-1).mean(-1), rtol=1e-6)


def test_tensors_of_half_the_width_and_with_gradients():
    torch = pytest.importorskip("torch")
    weights = torch.softmax(torch.randn(1, 2, 3, 3), -1).bfloat16().requires_grad_()
    np.testing.assert_array_equal(data_of(view([weights]))[1][0], weights.detach().float().numpy()[0])


def test_an_encoder_decoder_has_three_kinds_and_two_lists_of_tokens():
    output = types.SimpleNamespace(encoder_attentions=[softmax(2, 2, 4, 4)], decoder_attentions=[softmax(2, 2, 3, 3)],
                                   cross_attentions=[softmax(2, 2, 3, 4)], attentions=None)
    data, maps = data_of(view(output, tokens={"encoder": list("abcd"), "decoder": list("xyz")}, sample=1))
    assert [(x["stack"], x["site"], x["labels"], x["q_labels"]) for x in data["layers"]] == [
        ("encoder", "self", list("abcd"), None), ("decoder", "self", list("xyz"), None),
        ("decoder", "cross", list("abcd"), list("xyz"))]
    np.testing.assert_array_equal(maps[2], output.cross_attentions[0][1].astype(np.float32))


def test_rows_that_are_no_distribution_have_no_numbers():
    weights = softmax(1, 2, 3, 3)
    weights[0, 0, 1] = np.nan
    weights[0, 1] = 7
    values = data_of(view(weights))[0]["metrics"][0]["values"]
    rows = weights[0, 0, [0, 2]]
    np.testing.assert_allclose(values[0][0], -(rows * np.log(rows)).sum(-1).mean(), rtol=1e-6)
    assert values[0][1] is None


def test_negative_weights_are_refused_with_the_reason():
    maps = np.full((1, 2, 4, 4), 0.25)
    maps[0, 1, 2, 3] = np.nan  # is shown as none
    view(maps - 1e-6)  # rounding
    with pytest.raises(ValueError, match=r"decoder.0.self has weights below 0, down to -0.75: .* not logits or differences"):
        view(maps - 1)


def test_many_heads_are_shown_in_larger_cells():
    weights = softmax(2, 2048, 40, 40).astype(np.float32)
    data, maps = data_of(view(weights))
    assert data["layers"][0]["rows"] == 31 and data["layers"][0]["queries"] == 40
    edges = np.arange(32) * 40 // 31
    want = [[weights[1, 5, a:b, c:d].mean() for c, d in zip(edges, edges[1:])] for a, b in zip(edges, edges[1:])]
    np.testing.assert_allclose(maps[1][5], want, rtol=1e-5)


@pytest.mark.parametrize("what, more, says", [
    (np.zeros((2, 3)), {}, r"shape \[2, 3\].*queries, keys"), (np.zeros((1, 1, 1, 1, 2)), {}, "queries, keys"),
    ([], {}, "there are no maps"), ({}, {}, "there are no maps"), (3, {}, "int: pass the name of a job, or arrays"),
    ([np.zeros(2)], {}, r"decoder.0.self: maps are .* not of the shape \[2\]"), ([None], {}, "attn_implementation='eager'"),
    ([np.zeros((2, 0, 3))], {}, "shape"), ([np.array([[["a"]]])], {}, "maps are numbers"),
    ({"layer3": np.zeros((1, 2, 2))}, {}, "'layer3' names no layer"),
    (np.zeros((1, 1, 2, 2)), {"tokens": ["a"]}, "1 texts, but decoder.0.self has 2 keys"),
    (np.zeros((1, 1, 2, 2)), {"tokens": "ab"}, "list of texts"),
    (np.zeros((1, 1, 2, 2)), {"tokens": {"source": ["a", "b"]}}, "'source' is no stack"),
    ([np.zeros((1, 1, 2, 2))], {"sample": 1}, "no sample 1: they are 0 to 0"), (np.zeros((1, 1, 2, 2)), {"height": 5}, "height"),
    ("job", {"tokens": ["a"]}, "attnd.watch"), ("", {}, "job")])
def test_what_is_wrong_is_said_with_what_to_pass(what, more, says):
    with pytest.raises(ValueError, match=says):
        view(what, **more)


@pytest.mark.parametrize("axes, remedies", [(5, ["list(array)", "array[0]"]), (6, ["array[0, 0]"]), (2, ["array[None]"])])
def test_an_array_of_other_axes_is_refused_with_what_works(axes, remedies):
    array = softmax(*[1] * 4, 2, 2)[(0,) * (6 - axes)]
    with pytest.raises(ValueError, match="queries, keys") as caught:
        view(array)
    for remedy in remedies:
        assert remedy in str(caught.value)
        assert data_of(view(eval(remedy, {"array": array, "list": list})))[0]["layers"][0]["queries"] == 2


def test_the_document_stands_alone(tmp_path):
    shown = view(softmax(1, 1, 2, 2), tokens=["</script><script>", "<!--"], title="</title><script>")
    assert "default-src 'none'" in shown.document
    assert shown.document.count("</script>") == 3 and "</title><script>" not in shown.document
    assert not re.search(r'(src|href)="(?!#)', shown.document.split('id="data"')[0])
    assert 'sandbox="allow-scripts allow-downloads"' in shown._repr_html_() and "allow-same-origin" not in shown._repr_html_()
    shown.save(tmp_path / "view.html")
    assert (tmp_path / "view.html").read_text(encoding="utf-8") == shown.document


def test_a_module_in_another_form_is_named(tmp_path):
    (tmp_path / "a.js").write_text('import * as b from "./b.js";\n')
    with pytest.raises(ImportError, match="a.js"):
        cell.bundle(tmp_path, "a.js")


def test_without_the_page_or_d3_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(cell, "_PAGE", tmp_path)
    with pytest.raises(ImportError, match="pip install"):
        view(softmax(1, 1, 2, 2))
    monkeypatch.setattr(cell, "_PAGE", PAGE)
    (tmp_path / "d3.js").write_text("// https://d3js.org v7.0.0")
    monkeypatch.setenv("ATTND_D3", str(tmp_path / "d3.js"))
    with pytest.raises(ImportError, match="version 5"):
        view(softmax(1, 1, 2, 2))
