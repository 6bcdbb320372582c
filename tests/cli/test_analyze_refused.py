# SPDX-License-Identifier: MIT
"""attnctl analyze when it cannot: what it says of options, files, names and shapes, and its exit status."""
import json
import os
import pathlib
import re
import resource
import struct
import subprocess
import zipfile

import numpy as np
import pytest
from invoke import ATTNCTL, attend, attnctl, npz, sentence, write_safetensors
from test_analyze import B, H, T, analyze, refuse, run


@pytest.fixture
def good():
    return npz(attend(26))


def run_within(megabytes, *words):
    """With no more address space than that."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    return attnctl(*words, preexec_fn=limit, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


def test_a_shortage_of_memory_is_no_mistake_of_the_user():
    if run_within(400, "--version").returncode != 0:
        pytest.skip("the program does not start with 400 MB (a sanitizer's does not)")
    np.savez_compressed("reader.npz", arr_0=np.zeros((1, 8, 4096, 4096), "<f4"))
    np.savez("engine.npz", arr_0=np.ones((1, 20000, 1, 1), "<f4"))
    for name in ("reader", "engine"):
        assert sentence(run_within(400, "analyze", f"{name}.npz"), code=1).endswith("out of memory")


def test_output_that_cannot_be_written(good):
    for options in ([], ["--json"], ["--statistics"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = run(good, *options, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (1, "attnctl: cannot write the output\n")


# what cannot be followed


@pytest.mark.parametrize("option, text, says", [
    ("lengths", "3,x", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "3,", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "-3,4", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "99999999999,4", "valid: numbers such as 12,9,16, one per sample"),
    ("head-weights", "1,nan,1,1", "valid: numbers such as 0.5,0.25,0.25, one per head"),
    ("window", "0", "valid: 1 to 2147483647"),
    ("window", "1.5", "valid: 1 to 2147483647"),
    ("top-pairs", "101", "valid: 1 to 100"),
    ("scale", "inf", "valid: a number from -1e+30 to 1e+30"),
    ("softcap", "-1", "valid: a number from 0 to 1e+30"),
    ("groups", "core,spectra", "valid: core, importance, pairs, similarity, spectrum, all, none, with commas"),
    ("spectrum", "half", "valid: full, eigenvalues, leading, norm"),
    ("stack", "both", "valid: encoder, decoder"),
    ("threads", "0", "valid: 1 to 256"),
    ("name", "probs", "not PATTERN=TARGET, such as 'h.{layer}.attn=decoder.{layer}.self'"),
])
def test_bad_values_are_named(good, option, text, says):
    reason = f"not accepted ({says})" if says.startswith("valid: ") else says
    assert refuse(good, f"--{option}", text) == f"--{option}: '{text}': {reason}"


@pytest.mark.parametrize("command", ["analyze", "show", "plot"])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5, 5), (3, 2, 1, 4, 5, 5)])
def test_an_array_of_more_axes_is_refused_with_calls_that_work(tmp_path, command, shape):
    array, path = np.full(shape, 0.2, np.float32), str(tmp_path / "maps.npy")
    np.save(path, array)
    words = ["plot", "heads", "-o", str(tmp_path / "x.png")] if command == "plot" else [command]
    done = attnctl(*words, path)
    assert done.returncode != 0 and f"its shape is {list(shape)}, not [B,H,Tq,Tk]" in done.stderr
    calls = re.findall(r"np\.\w+\(file, .*?\)+(?= saves| makes)", done.stderr)
    assert len(calls) == 2, done.stderr
    for call, layers in zip(calls, (3, 1)):
        file = str(tmp_path / f"again{layers}.np{'z' if 'savez' in call else 'y'}")
        eval(call, {"np": np, "file": file, "array": array})
        assert [one["shape"] for one in analyze(file)] == [[2, 4, 5, 5] if layers == 3 else [6, 4, 5, 5]] * layers


def test_bad_command_lines(good):
    assert refuse() == "FILE is missing; usage: attnctl analyze FILE... [OPTIONS]"
    assert refuse(good, "--cuasal") == "no option --cuasal: did you mean --causal? (see attnctl analyze --help)"
    assert refuse(good, "--frobnicate") == "no option --frobnicate (see attnctl analyze --help)"
    assert refuse(good, "--lengths") == "--lengths needs a value (see attnctl analyze --help)"
    assert refuse(good, "--lengths", "3") == "decoder.0.self: --lengths: 1 given for a batch of 2"
    assert refuse(good, "--lengths", "3,25") == "decoder.0.self: --lengths: 25 is more than the 24 queries"
    assert refuse(good, "--k-lengths", "3,25") == "decoder.0.self: --k-lengths: 25 is more than the 24 keys"
    assert refuse(good, "--head-weights", "1,2") == "decoder.0.self: --head-weights: not one number per head"


def test_standard_input_is_a_file(good):
    with open(good, "rb") as file:
        done = subprocess.run(f"cat | {ATTNCTL} analyze - --json", shell=True, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["layers"] == analyze(good)


def test_files_that_cannot_be_opened():
    os.mkfifo("pipe.npy")
    pathlib.Path("empty.npy").touch()
    assert refuse("none.npz") == "none.npz: No such file or directory"
    assert refuse(".") == ".: is a directory"
    assert refuse("pipe.npy") == "pipe.npy: is not a regular file"
    assert refuse("empty.npy") == "empty.npy: the file is empty"
    if os.geteuid() != 0:
        pathlib.Path("secret.npy").touch(0)
        assert refuse("secret.npy") == "secret.npy: Permission denied"


@pytest.mark.parametrize("writer", ["npy", "npz", "npz_compressed", "safetensors"])
def test_a_file_cut_short_or_damaged_anywhere_is_refused_or_right(writer):
    a = attend(27, shape=(1, 2, 6, 6))
    path = pathlib.Path({"npy": "decoder.0.self.npy", "safetensors": "x.safetensors"}.get(writer, "x.npz"))
    if writer == "npy":
        np.save(path, a)
    elif writer == "safetensors":
        write_safetensors(path, {"decoder.0.self": ("F64", a)})
    else:
        {"npz": np.savez, "npz_compressed": np.savez_compressed}[writer](path, arr_0=a)
    whole = path.read_bytes()
    assert run(path).returncode == 0
    for cut in [*range(0, len(whole), max(1, len(whole) // 25)), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        refuse(path)
    for at in range(0, min(len(whole), 120), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1:])
        done = run(path)
        assert done.returncode in (0, 2) and (done.returncode == 0 or done.stdout == ""), (at, done)
    path.write_bytes(whole + b"\0")
    if not writer.startswith("npz"):  # a zip archive may have a comment behind it
        refuse(path)


@pytest.mark.parametrize("side, name", [(4, "arr_1.npy"), (64, "arr_1")])  # read with its header, and read apart
def test_damage_in_the_last_layer_leaves_no_result_of_the_first(side, name):
    last = np.full((1, 1, side, side), 1 / side)
    file = pathlib.Path(npz(attend(28), last))
    content = file.read_bytes()
    assert content.count(last.tobytes()) == 1
    file.write_bytes(content.replace(last.tobytes(), last.tobytes()[:-1] + b"\x3e"))
    for options in ([], ["--json"]):
        assert refuse(file, *options) == f"x.npz: {name}: corrupt: CRC error"


def test_files_that_are_something_else():
    pathlib.Path("notes.txt").write_text("attention is all you need\n")
    assert refuse("notes.txt") == "notes.txt: not a .npy, .npz or .safetensors file"
    with zipfile.ZipFile("model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    assert refuse("model.pt").startswith("model.pt: its entry archive/data.pkl is not a .npy array")
    assert refuse(npz()) == "there is no attention in what was given"


def write_bomb(declared, content):
    """A .npz whose directory says that its entry has `declared` bytes."""
    path = pathlib.Path("bomb.npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)
    packed = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = packed.index(signature) + at
        packed[place:place + 4] = struct.pack("<I", declared)
    path.write_bytes(bytes(packed))


@pytest.mark.parametrize("shape, declared, packed, says", [
    ((1, 4, 10000, 20000), 3200000000, 1000, "cannot be packed into"),
    ((1, 1, 2, 2), 16, 10_000_000, "bomb.npz: arr_0: corrupt: "),
    ((1, 1, 2, 2), 17, 17, "the array takes")])
def test_zip_bombs(shape, declared, packed, says):
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    header = np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text
    write_bomb(len(header) + declared, header + bytes(packed))
    assert says in refuse("bomb.npz")


def test_instruction_sets_that_are_not_here_are_answered_with_those_that_are(good):
    says = refuse(good, "--isa", "sse9")
    assert says.startswith("--isa: 'sse9': not accepted (valid: auto, scalar, portable")
    for isa in says[says.index("valid: ") + 7:-1].split(", "):
        assert len(analyze(good, "--isa", isa, "--groups", "core")) == 1


def test_patterns_that_are_about_no_array(good):
    assert refuse(good, "--name", "blocks.{layer}.p=decoder.{layer}.self") == (
        "--name: blocks.{layer}.p=decoder.{layer}.self: no array has a name like blocks.{layer}.p")
    assert refuse(good, "--ignore", "embed*") == "--ignore: embed*: no array has a name like embed*"
    assert len(analyze(good, "--name", "arr_{}=encoder.{}.self", "--ignore", "arr*", "--groups", "core")) == 1


def test_hints_are_about_what_the_array_may_be():
    a = attend(29, shape=(1, 1, 4, 4))

    def says(name, array):
        return refuse(npz(**{"arr_0": a, name: array}))
    assert "; to map it: --name 'decoder_attention_mask=mask' (see" in says("decoder_attention_mask", np.ones((1, 4), int))
    assert "'encoder_attention_mask=decoder.0.cross.mask'" in says("encoder_attention_mask", np.ones((1, 4), int))
    assert "--name 'decoder_input_ids=tokens'" in says("decoder_input_ids", np.ones((1, 4), int))
    assert "'l.{layer}.mask=decoder.{layer}.self.mask'" in says("l.3.mask", np.ones((4, 4), int))
    assert "'masked.{layer}=decoder.{layer}.self'" in says("masked.3", a)
    assert "; to leave it out: --ignore 'labels' (see" in says("labels", np.ones((1, 4), int))
    assert "--name 'run20240101.{layer}=decoder.{layer}.self'" in says("run20240101.3", a)


def test_names_that_have_no_place():
    a = attend(29, shape=(1, 1, 4, 4))
    assert refuse(npz(**{"blocks.7.probs": a})) == (
        "x.npz: cannot place array 'blocks.7.probs': names are <encoder|decoder>.<layer>.<self|cross>[.q|.k|.v|.mask|...], "
        "weights.<layer>.wq, attentions.<layer>, arr_<layer>; to map it: "
        "--name 'blocks.{layer}.probs=decoder.{layer}.self' (see --help)")
    layer, = analyze("x.npz", "--name", "blocks.{layer}.probs=encoder.{layer}.self")
    assert (layer["stack"], layer["layer"]) == ("encoder", 7)
    np.save("probs.npy", a)
    np.save("more.npy", a)
    assert "--name 'probs=decoder.0.self'" in refuse("probs.npy", "more.npy")
    assert len(analyze("probs.npy", "--name", "probs=decoder.0.self")) == 1
    assert "'bad?[31m'" in refuse(npz(**{"bad\x1b[31m": a}))


@pytest.mark.parametrize("axes", [4, 3, 2])
def test_a_map_that_is_alone_needs_no_name(axes):
    a = attend(31, shape=(1, 1, 4, 4))
    np.save("decoder.0.self.npy", a)
    np.save("my attention.npy", a.reshape(a.shape[4 - axes:]))
    assert analyze("my attention.npy") == analyze("decoder.0.self.npy")
    np.save("mask.npy", np.ones((1, 4), bool))
    layer, = analyze("my attention.npy", "mask.npy", "--stack", "encoder")
    assert (layer["stack"], layer["layer"], layer["site"]) == ("encoder", 0, "self")
    assert "cannot place array 'my attention'" in refuse("my attention.npy", "decoder.0.self.npy")
    for other in (a[0, 0, 0], a.astype(int)):
        np.save("other.npy", other)
        assert "no attention map (valid: [[batch,] heads,] queries, keys" in refuse("other.npy")


@pytest.mark.parametrize("shape", [(1, 1_000_000, 1, 0), (65537, 1, 1)])
def test_more_heads_than_there_can_be(shape):
    np.save("x.npy", np.zeros(shape, np.float32))
    assert refuse("x.npy", "--json") == (
        f"x.npy: x: has {shape[-3]} heads, and at most 65536 can be read")


def test_the_same_place_twice():
    a = attend(30, shape=(1, 1, 4, 4))
    npz(a)
    np.save("decoder.0.self.npy", a)
    assert refuse("x.npz", "decoder.0.self.npy").startswith("decoder.0.self is there twice: ")
    assert refuse("x.npz", "x.npz").startswith("decoder.0.self is there twice: arr_0 in x.npz, ")


def test_dtypes_that_cannot_be_read():
    for array, text in ((np.zeros((1, 1, 2, 2), ">f4"), ">f4"), (np.zeros((1, 1, 2, 2), complex), "<c16"),
                        (np.array([None]), "|O"), (np.zeros(2, [("a", "f4")]), "a record")):
        assert refuse(npz(array)) == (
            f"x.npz: arr_0: dtype {text} cannot be read (known: f32, f64, f16, bf16, bool and integers, little-endian)")
    assert refuse(npz(np.zeros((1, 1, 2, 2), int))) == "x.npz: arr_0: its dtype is <i8, not f32, f64, f16 or bf16"


def test_shapes_that_do_not_fit():
    a = attend(31)
    q = np.ones((B, H, T, 8))

    def says(**arrays):
        return refuse(npz(**{f"decoder.0.self.{name}": array for name, array in arrays.items()}))
    assert says(weights=a[0, 0, 0]).endswith("self.weights: its shape is [24], not [B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]")
    assert "its shape is [1, 2, 4, 24, 24], not [B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]; where" in says(weights=a[None])
    assert says(weights=a, mask=np.ones((T, 9), bool)).endswith(
        "decoder.0.self.mask: its shape is [24, 9], not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.ones((3, T, T), bool)).endswith("not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.ones((B, H, T, T), bool)).endswith("not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.full((B, T), 2)).endswith("decoder.0.self.mask: there is a 2 in it, not 0 or 1")
    assert says(weights=a, mask=np.ones((T, T))).endswith("its dtype is <f8, not bool or an integer")
    assert says(weights=a, mask=np.full((T, T), 2)).endswith("decoder.0.self.mask: there is a 2 in it, not 0 or 1")
    assert says(weights=a, tokens=np.zeros(T, int)).endswith("its shape is [24], not [B,Tk] = [2, 24]")
    assert says(weights=a, tokens=np.full((B, T), 2**40)).endswith("there is a 1099511627776 in it, not a 32-bit number")
    assert says(weights=a, grad=a[:1]).endswith("decoder.0.self.grad: its shape is [1, 4, 24, 24], not that of the weights")
    assert says(grad=a) == "decoder.0.self: there is .grad but no attention weights"
    assert says(mask=np.ones((T, T), bool)) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(q=q) == "decoder.0.self: there is .q but no .k"
    assert says(k=q) == "decoder.0.self: there is .k but no .q"
    assert says(v=q) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(wq=np.eye(8), v=q) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(weights=a, dout=q) == "decoder.0.self: there is .dout but no .q and .k"
    assert says(q=q, k=q, dout=q) == "decoder.0.self: there is .dout but no .v"
    assert says(weights=a, wo_r=np.ones((H, 8, 8))) == "decoder.0.self: there is .wo_r but no .v"
    assert says(weights=a, v=q, x_norm=np.ones((B, T))) == "decoder.0.self: there is .x_norm but no .wo_r"
    assert says(weights=a, v=q[:, :3]).endswith(
        "not of the B and Tk of the weights, and a number of heads that divides theirs")
    assert says(q=q, k=q, v=q, dout=q[..., :7]).endswith("not of the B, H and T of .q and the d of .v")
    for wrong in (np.ones((H, 9, 8)), np.ones((H, 0, 8)), np.ones((2, 8, 8)), np.ones((H, 8, 7)), np.ones((1, H, 8))):
        assert says(weights=a, v=q, wo_r=wrong).endswith("not [H,r,d] of the d of .v, r at most that")
    assert says(weights=a, v=q, wo_r=np.ones((H, 8, 8)), x_norm=np.ones((B, 9))).endswith("not [B,Tq]")
    assert says(weights=a, v=q, wo_r=np.ones((H, 8, 8), int)).endswith("its dtype is <i8, not f32, f64, f16 or bf16")
    assert says(q=q, k=q[..., :4]).endswith("decoder.0.self.k: its shape is [2, 4, 24, 4], not of the same B and d as .q")
    assert says(q=q[..., :0], k=q[..., :0]).endswith("its shape is [2, 4, 24, 0], not of a d of at least 1")
    assert says(q=q, k=q, v=q[..., :0]).endswith("its shape is [2, 4, 24, 0], not of a d of at least 1")
    assert says(q=q, k=q[:, :0]).endswith("not of a number of heads that divides those of .q")
    assert says(wq=np.ones((0, 8))).endswith("its shape is [0, 8], not [out,in], neither of them 0")
    assert says(q=q, k=q[:, :3]).endswith("not of a number of heads that divides those of .q")
    assert says(q=q, k=q, v=q[:, :, :9]).endswith("not of the same B, H and T as .k")
    assert says(wq=np.eye(8)) == (
        "decoder.0.self: wq, wk, wv, wo do not say how many heads they have: give --heads N")
    assert refuse(npz(**{"weights.0.wq": np.ones((8, 8)), "weights.0.wk": np.ones((6, 8))}), "--heads", 3) == (
        "decoder.0.self: the projections do not fit 3 heads, 3 key and value heads, 2 rows per head: wq [8, 8] wk [6, 8]")
    file = npz(**{"decoder.0.cross": a, "decoder.0.cross.documents": np.zeros((B, T), int)})
    assert refuse(file) == "decoder.0.cross: documents are a matter of self-attention"
    assert refuse(npz(**{"decoder.0.cross": a}), "--causal") == "--causal: there is no self-attention that it is about"
    file = npz(**{"decoder.0.cross": a, "encoder.0.self": a})
    assert refuse(file, "--window", 3) == "--window: there is no self-attention that it is about"
    file = npz(**{"decoder.0.cross": a, "mask": np.ones((T, T), bool)})
    assert refuse(file) == "x.npz: mask: there is no self-attention it belongs to"
