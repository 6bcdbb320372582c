# SPDX-License-Identifier: MIT
"""Module paths become layers: stack, number, site."""
import pytest

from attnd.model.layers import Shown, guess_layer, name_layers

TORCH_DECODER = ["decoder.layers.0.self_attn", "decoder.layers.0.multihead_attn"]


@pytest.mark.parametrize("path,layer", [
    ("encoder.layers.3.self_attn", ("encoder", 3, "self")),
    ("module.encoder.layers.11.self_attn", ("encoder", 11, "self")),
    ("transformer.decoder.layers.2.self_attn", ("decoder", 2, "self")),
    ("decoder.layers.2.cross_attn", ("decoder", 2, "cross")),
    ("decoder.layers.2.cross.mha", ("decoder", 2, "cross")),
    ("crossencoder.layers.2.attn", ("encoder", 2, "self")),
    ("encoder_decoder.decoder.blocks.4.attn", ("decoder", 4, "self")),
    ("blocks.5.attn", ("decoder", 5, "self")),
    ("h.7.mha.0", ("decoder", 0, "self")),
    ("h.7.attn2", ("decoder", 7, "self")),
    ("attn2", ("decoder", 2, "self")),
    ("attn", ("decoder", 0, "self")),
    ("", ("decoder", 0, "self")),
    ("blocks.5.multihead_attn", ("decoder", 5, "self"))])
def test_paths(path, layer):
    assert guess_layer(path) == layer


AHEAD, BEHIND, OTHER = Shown(ahead=True), Shown(ahead=False), Shown(cross=True, ahead=True)


@pytest.mark.parametrize("shown, layers", [
    ({"layers.0.attn": AHEAD, "layers.1.attn": AHEAD}, ["encoder.0.self", "encoder.1.self"]),
    ({"layers.0.attn": AHEAD, "layers.1.attn": BEHIND}, ["decoder.0.self", "decoder.1.self"]),  # one has lost its mask
    ({"layers.0.attn": AHEAD, "layers.1.attn": Shown()}, ["encoder.0.self", "encoder.1.self"]),
    ({"layers.0.attn": Shown()}, ["decoder.0.self"]),
    ({"vision.0.attn": AHEAD, "text.0.attn": BEHIND}, ["encoder.0.self", "decoder.0.self"]),
    ({"blocks.0.attn1": AHEAD, "blocks.0.attn2": OTHER}, ["decoder.0.self", "decoder.0.cross"]),
    ({"blocks.0.self_attn": OTHER}, ["encoder.0.self"]),
    ({"decoder.0.attn": AHEAD, "encoder.0.attn": BEHIND}, ["decoder.0.self", "encoder.0.self"])])
def test_what_calls_show_names_a_layer_whose_path_does_not(shown, layers):
    assert [".".join(map(str, layer)) for layer in name_layers(list(shown), shown=shown).values()] == layers


def test_a_layer_that_comes_later_is_of_the_stack_of_its_like():
    before = {"layers.0.attn": ("decoder", 0, "self")}
    assert name_layers(["layers.0.attn", "layers.1.attn"], before, shown={"layers.1.attn": AHEAD})["layers.1.attn"][0] == "decoder"


@pytest.mark.parametrize("paths, given, layers", [
    (TORCH_DECODER, {}, ["decoder.0.self", "decoder.0.cross"]),  # multihead_attn beside self_attn is cross
    (["stage.0.block.0.attn", "stage.0.block.1.attn", "stage.1.block.0.attn", "encoder.0.attn"], {},
     ["decoder.0.self", "decoder.1.self", "decoder.2.self", "encoder.0.self"]),  # colliding ones in module order
    (["a.0.attn", "a.1.attn"], {"named": {"a.1.attn": ("decoder", 0, "self")}}, ["decoder.1.self", "decoder.0.self"]),
    (["a.0.attn"], {"reserved": [("decoder", 0, "self")]}, ["decoder.1.self"]),
    (["blocks.0.attn"], {"stack": "encoder"}, ["encoder.0.self"])])
def test_layers_of_several_paths(paths, given, layers):
    named = name_layers(paths, **given)
    assert list(named) == paths and [".".join(map(str, layer)) for layer in named.values()] == layers


def test_thousands_of_paths_are_named_in_linear_time(monkeypatch):
    looked_at = []

    class Path(str):
        def __eq__(self, other):
            looked_at.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    paths = [Path(f"layers.{i}.attn") for i in range(2000)]
    names = name_layers(paths, {Path("layers.1999.attn"): ("decoder", 1999, "self")})
    assert [layer for _, layer, _ in names.values()] == list(range(2000)) and len(looked_at) < 20 * len(paths)


@pytest.mark.parametrize("named", [{"x": ("decoder", 0, "self")}, {"a.0": ("decoder", -1, "self")},
                                   {"a.0": ("decoder", 0, "self"), "a.1": ("decoder", 0, "self")}])
def test_bad_names_are_value_errors(named):
    torch = pytest.importorskip("torch")
    from attnd.model.names import check_names
    model = torch.nn.ModuleDict({"a": torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])})
    check_names(model, {"a.0": ("decoder", 0, "self"), "a.1": ("decoder", 1, "self")}, None)
    with pytest.raises(ValueError):
        check_names(model, named, None)


@pytest.mark.parametrize("path, plain", [
    ("_orig_mod.blocks.0._checkpoint_wrapped_module.attn", "blocks.0.attn"), ("blocks.0._fsdp_wrapped_module", "blocks.0"),
    ("_fsdp_wrapped_module._checkpoint_wrapped_module.attn", "attn"), ("_orig_mod", ""), ("blocks.0.attn", "blocks.0.attn")])
def test_wrappers_are_no_part_of_a_path(path, plain):
    pytest.importorskip("torch")
    from attnd.base.paths import clean_path
    assert clean_path(path) == plain
