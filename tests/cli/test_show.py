# SPDX-License-Identifier: MIT
"""attnctl show as a user sees it: its numbers against numpy, what it prints at any width, and what it says when it
cannot. In a terminal: test_show_screen.py."""
import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from invoke import ATTNCTL, attend, attnctl, npz, sentence
from numbers_f64 import softmax

B, H, T = 2, 4, 6


def run(*words, **environment):
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLORTERM", "LC_ALL")}
    return attnctl("show", *words, env={**env, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **environment})


def show(*words, **environment):
    done = run(*words, **environment)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


def numbers(*words):
    return json.loads(show(*words, "--json"))


def refuse(*words, code=2):
    return sentence(run(*words), code)


def of_shape(seed, *shape, causal=False):
    return attend(seed, np.tri(*shape[-2:], dtype=bool) if causal else True, shape).astype(np.float32)


MAPS = {"decoder.0.self": of_shape(1, B, H, T, T), "decoder.1.self": of_shape(2, B, H, T, T, causal=True)}


@pytest.fixture
def path():
    """To these."""
    return npz(**MAPS)


def expect_numbers(got, weights, sample, head, query):
    """What --json says of one sample [H,Tq,Tk] against numpy."""
    one = weights[sample].astype(np.float64)
    shown = one.mean(0) if head == "mean" else one[head]
    assert got["sample"] == sample and got["head"] == head and got["token"]["query"] == query
    np.testing.assert_allclose(got["token"]["weights"], shown[query], rtol=1e-6)
    for h in range(len(one)):
        best = np.argsort(-one[h, query], kind="stable")[:3]
        assert [top["key"] for top in got["top_keys"][h]] == list(best)
        np.testing.assert_allclose([top["weight"] for top in got["top_keys"][h]], one[h, query, best], rtol=1e-6)
    order = np.argsort(-shown.astype(np.float32), axis=None, kind="stable")[:len(got["top_pairs"])]
    np.testing.assert_allclose([pair["weight"] for pair in got["top_pairs"]], shown.ravel()[order], rtol=1e-6)
    places = [divmod(int(n), shown.shape[1]) for n in order]
    assert [(pair["query"], pair["key"]) for pair in got["top_pairs"]] == places
    sums = got["row_sums"]
    assert sums["rows"] == sums["sound"] == one.shape[0] * one.shape[1] and not sums["other"]
    np.testing.assert_allclose([sums["min"], sums["max"]], [one.sum(-1).min(), one.sum(-1).max()], rtol=1e-9)
    np.testing.assert_allclose(sums["mean_deviation"], abs(one.sum(-1) - 1).mean(), rtol=1e-6, atol=1e-12)


# Numbers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sample, head, token", [(0, "mean", 0), (1, 2, 3), (1, "mean", 5), (0, 0, 1)])
def test_the_numbers_are_those_of_numpy(path, sample, head, token):
    got = numbers(path, "--sample", sample, "--head", head, "--token", token, "--layer", "0")
    assert got["schema"] == "attnd.show/1" and got["layer"] == "decoder.0.self"
    assert got["layers"] == ["decoder.0.self", "decoder.1.self"]
    assert got["shape"] == dict(batch=B, heads=H, query=T, key=T) and got["rows"] == got["columns"] == T
    expect_numbers(got, MAPS["decoder.0.self"], sample, head, token)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("fortran", [False, True])
def test_every_kind_of_archive_gives_the_same(dtype, save, fortran):
    weights = of_shape(3, 2, 3, 20, 30).astype(dtype)
    save("x.npz", **{"decoder.3.cross": np.asfortranarray(weights) if fortran else weights})
    got = numbers("x.npz", "--sample", 1, "--head", 2, "--token", 19)
    if dtype == "float16":
        np.testing.assert_allclose(got["token"]["weights"], weights[1, 2, 19], rtol=1e-6)
        assert got["row_sums"]["tolerance"] == 0.02
    else:
        expect_numbers(got, weights, 1, 2, 19)


def test_queries_and_keys_become_their_map():
    rng = np.random.default_rng(4)
    q, k = rng.normal(size=(1, 4, 9, 8)).astype(np.float32), rng.normal(size=(1, 2, 9, 8)).astype(np.float32)
    file = npz(**{"decoder.0.self.q": q, "decoder.0.self.k": k})
    logits = np.einsum("bhid,bhjd->bhij", q.astype(np.float64), np.repeat(k, 2, 1)) / np.sqrt(8)
    weights = softmax(logits, np.tri(9, dtype=bool))
    got = numbers(file, "--causal", "--head", 3, "--token", 8)
    np.testing.assert_allclose(got["token"]["weights"], weights[0, 3, 8], atol=1e-6)
    assert got["row_sums"]["sound"] == 36
    unmasked = numbers(file, "--head", 3, "--token", 2, "--scale", 1)
    np.testing.assert_allclose(unmasked["token"]["weights"], softmax(logits * np.sqrt(8), True)[0, 3, 2], atol=1e-6)


def test_rows_that_are_none_are_counted_and_passed_over():
    weights = of_shape(5, 1, 2, 5, 5)
    weights[0, 0, 1], weights[0, 1, 2, 3], weights[0, 1, 4] = 0, np.nan, weights[0, 1, 4] / 2
    sums = numbers(npz(**{"encoder.0.self": weights}))["row_sums"]
    assert (sums["rows"], sums["sound"], sums["zero"], sums["missing"], sums["other"]) == (10, 7, 1, 1, 1)
    text = show("x.npz")
    assert "7 of 10 rows" in text and "1 row is all 0" in text and "head 1, query 4" in text
    assert "\u00b7 no number" in text


def test_a_first_query_with_one_key_gives_way_to_the_last(path):
    got = numbers(path, "--layer", 1)
    assert got["token"]["query"] == T - 1
    assert numbers(path, "--layer", 1, "--token", 0)["token"]["weights"][0] == 1
    assert "query 0 attends to one key at most" in show(path, "--layer", 1)


@pytest.mark.parametrize("padding, query", [(slice(5, None), 4), (slice(0, 3), T - 1)])
def test_padding_is_not_the_query_that_is_shown(padding, query):
    weights = of_shape(6, 1, 2, T, T, causal=True)
    weights[0, :, padding] = 0
    np.save("x.npy", weights)
    got = numbers("x.npy")["token"]
    assert got["query"] == query and np.allclose(got["weights"], weights[0].mean(0)[query], atol=1e-6)


def test_a_map_of_zeros_says_so():
    np.save("x.npy", np.zeros((1, 2, 5, 5), np.float32))
    text = show("x.npy")
    assert "no row of sample 0 attends to anything" in text and "10 rows are all 0" in text
    assert "no entry is above 0" in text and "nothing: all of its weights are 0" in text
    assert text.count("nothing: all 0") == 2 and "0.0 %" not in text


def test_a_pipe_is_refused_and_not_waited_for():
    os.mkfifo("pipe.npz")
    assert refuse("pipe.npz").endswith("pipe.npz: is not a regular file")


def peak_memory(command):
    """In KiB. Linux counts what a process was forked from: it is started by a small one."""
    small = ("import resource, subprocess, sys\n"
             "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    return int(subprocess.run([sys.executable, "-c", small, *command], check=True, capture_output=True).stdout)


def test_memory_does_not_grow_with_the_file():
    """160 MB, packed and not: of either 64 MB are in memory at most."""
    row = np.full(1024, 1 / 1024, np.float32)
    for name, method in (("stored", zipfile.ZIP_STORED), ("packed", zipfile.ZIP_DEFLATED)):
        path = f"{name}.npz"
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
            for layer in range(4):
                with archive.open(f"decoder.{layer}.self.npy", "w") as file:
                    np.lib.format.write_array_header_1_0(
                        file, dict(descr="<f4", fortran_order=False, shape=(1, 10, 1024, 1024)))
                    for _ in range(10 * 1024):
                        file.write(row.tobytes())
        most = peak_memory([ATTNCTL, "show", path, "--layer", "2", "--json"])
        assert most < 64 * 1024 or "ATTND_TEST_SANITIZED" in os.environ, (name, most)


# Text -----------------------------------------------------------------------------------------------------------

WILD = ["\u65e5\u672c\u8a9e", "\x1b[31mred\x07", "\u05e9\u05dc\u05d5\u05dd", "e\u0301\u0302clair", "",
        " lead and trail ", "\U0001f600\u200d\U0001f600", "\u202egnp.exe", "a" * 70, "\t\n"]


def columns(text):
    return sum(0 if unicodedata.combining(c) or unicodedata.category(c) == "Cf"
               else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@pytest.fixture
def wild():
    Path("labels").write_text("\n".join(label.replace("\n", "") for label in WILD) + "\n")
    return npz(**{"decoder.0.self": of_shape(6, 1, 3, 10, 10)}), "--labels", "labels"


@pytest.mark.parametrize("width", [20, 34, 40, 60, 80, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_lines_keep_to_the_width(wild, width, ascii):
    text = show(*wild, "--width", width, *(["--ascii"] if ascii else []))
    # A word that is wider than the screen is printed as it is: a file's name, an escaped token.
    long = [line for line in text.split("\n") if columns(line) > width and len(line.split()) > 1]
    assert not long, long
    assert text.isascii() == ascii
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "\u202e" not in text and "\u200d" not in text


def test_text_from_right_to_left_is_isolated_everywhere(wild):
    text = show(*wild)
    assert "\u2068\u05e9\u05dc\u05d5\u05dd\u2069" in text
    outside = re.sub("\u2068[^\u2068\u2069]*\u2069", "", text)
    assert not re.search("[\u0590-\u08ff]", outside)
    assert text.count("\u2068") == text.count("\u2069")


def test_the_locale_and_ascii_decide_about_characters(path):
    assert "\u2588" in show(path)
    assert show(path, LC_ALL="C").isascii()
    assert show(path, LC_ALL="POSIX") == show(path, "--ascii")
    assert not show(path, LC_ALL="en_US.UTF-8").isascii()


def test_colours_are_asked_for_outside_of_terminals(path):
    assert "\x1b" not in show(path)
    assert "\x1b[48;5;" in show(path, "--color", "always")
    assert "\x1b[48;2;253;231;37m" in show(path, "--color", "always", COLORTERM="truecolor")  # viridis' last
    assert "\x1b" not in show(path, "--color", "never", COLORTERM="truecolor")


def shades(cells):
    """By the square root of each cell's share of the largest."""
    return ["".join(" .:-=+*#%@"[min(int(share * 10), 9)] for share in row) for row in np.sqrt(cells / cells.max())]


def test_the_map_is_that_of_the_numbers():
    weights = of_shape(7, 1, 1, 12, 12)
    lines = show(npz(**{"decoder.0.self": weights}), "--only", "map", "--ascii").split("\n")
    rows = [line.split("|")[1] for line in lines if "|" in line]
    assert rows == ["".join(2 * shade for shade in row) for row in shades(weights[0, 0])]


@pytest.mark.parametrize("ascii, lightest", [((), "\u2591"), (("--ascii",), ".")])
@pytest.mark.parametrize("keys", [30, 300])
def test_a_row_that_attends_to_all_keys_alike_is_visible_beside_a_sharp_one(keys, ascii, lightest):
    weights = np.full((1, 1, 8, keys), 1 / keys, np.float32)
    weights[..., 0, :] = np.eye(1, keys)
    weights[..., 1, :] = 0
    text = show(npz(**{"decoder.0.cross": weights}), "--only", "map", *ascii, "--width", 800)
    sharp, none, *even = [re.split("[|\u2502]", line)[1] for line in text.split("\n") if re.match(" *[0-9]+ [|\u2502]", line)]
    assert sharp.strip() and not none.strip() and {cell for row in even for cell in row} <= {lightest, ":"}
    assert f"from {0.5 / keys:.2g}" in text or ascii and keys == 30


def test_a_large_map_is_pooled_and_says_so():
    weights = of_shape(8, 1, 2, 128, 128, causal=True)
    text = show(npz(**{"decoder.0.self": weights}), "--only", "map", "--ascii", "--head", 1)
    rows = [line.split("|")[1][::2] for line in text.split("\n") if "|" in line]
    assert rows == shades(weights[0, 1].reshape(32, 4, 32, 4).mean((1, 3)))
    assert "each cell is the mean of about 4 x 4 entries" in " ".join(text.split())


def test_many_keys_are_shown_from_the_largest():
    weights = of_shape(9, 1, 1, 3, 100)
    lines = show(npz(**{"decoder.0.cross": weights}), "--only", "token", "--token", 1).split("\n")
    keys = [int(line.split()[0]) for line in lines if " % " in line and "other" not in line]
    assert keys == list(np.argsort(-weights[0, 0, 1], kind="stable")[:12])
    rest = 100 * (1 - np.sort(weights[0, 0, 1])[-12:].sum())
    assert f"the other 88 keys: {rest:.1f} %" in lines[-2]


def test_parts_are_chosen(path):
    text = show(path, "--only", "pairs,report", "--pairs", 2)
    assert "row sums" in text and text.count("\u2192") == 3  # the heading and two
    assert "map of" not in text and "attends to" not in text


def test_labels_come_with_every_token(path):
    text = show(path, "--layer", 0, "--tokens", "the cat sat on a mat", "--token", 1)
    assert "query 1 'cat'" in text and re.search(r"^  2 sat +\d", text, re.M)
    got = numbers(path, "--layer", 0, "--tokens", "the cat sat on a mat")
    assert got["labels"] == ["the", "cat", "sat", "on", "a", "mat"]


def test_queries_of_cross_attention_have_tokens_of_their_own():
    np.save("decoder.0.cross.npy", np.full((1, 2, 2, 3), 1 / 3, np.float32))
    words = ["decoder.0.cross.npy", "--tokens", "the old hat", "--token", 1]
    assert "of query 1 'Hut'" in show(*words, "--query-tokens", "der Hut")
    assert refuse(*words, "--query-tokens", "Hut") == "1 token was given for queries, but decoder.0.cross has 2 queries"


def test_one_token_is_enough():
    text = show(npz(**{"decoder.0.self": np.ones((1, 2, 1, 1), np.float32)}), "--tokens", "hi")
    assert "top 1 key of query 0 'hi'" in text and "100.0 %" in text


# Refusals -------------------------------------------------------------------------------------------------------

def test_what_is_not_there_is_refused_with_what_is(path):
    assert refuse(path, "--layer", 7) == "--layer: there is no '7' (valid: decoder.0.self, decoder.1.self)"
    assert refuse(path, "--layer", "decoder") == "--layer: 'decoder' may be any of decoder.0.self, decoder.1.self: say which"
    assert refuse(path, "--head", 4) == "--head: decoder.0.self has no head 4 (valid: 0 to 3)"
    assert refuse(path, "--sample", 2) == "--sample: decoder.0.self has no sample 2 (valid: 0 to 1)"
    assert refuse(path, "--token", 6) == "--token: decoder.0.self has no query 6 (valid: 0 to 5)"
    assert refuse(path, "--tokens", "a b c d e f g") == "7 tokens were given, but decoder.0.self has 6 keys"
    assert refuse(path, "--tokens", "a b c d e") == "5 tokens were given, but decoder.0.self has 6 keys"
    assert refuse(path, "--query-tokens", "a") == ("--query-tokens, --query-labels: in decoder.0.self the queries are "
                                                   "the keys: give --tokens or --labels")
    assert refuse(path, "--step", 1) == "--step: array files have no runs and steps"
    assert refuse(path, "--labels", "none").endswith("none: No such file or directory")


def test_options_that_are_none_are_refused(path):
    assert refuse(path, "--head", "x") == "--head: 'x': not accepted (valid: a number from 0, or mean)"
    assert refuse(path, "--only", "map,foo").endswith("(valid: report, map, token, heads, pairs, with commas between them)")
    assert refuse(path, "--width", 19).endswith("(valid: 20 to 1000)")
    assert refuse(path, "--nothing") == "no option --nothing (see attnctl show --help)"
    assert refuse(path, "--layer") == "--layer needs a value (see attnctl show --help)"
    assert refuse(path, "--scale", 0).endswith("(valid: a number but 0)")


def test_maps_with_nothing_in_them_are_refused():
    assert refuse(npz(**{"decoder.0.self": np.ones((1, 2, 0, 0), np.float32)})) == (
        "decoder.0.self is empty: its shape is [1, 2, 0, 0]; --ignore leaves arrays out")
    file = npz(**{"decoder.0.self": np.full((1, 2, 3, 3), np.nan, np.float32)})
    done = run(file)
    assert done.returncode == 1 and "6 rows have entries that are no number" in done.stdout
    assert done.stderr == ("attnctl: decoder.0.self, sample 0, the mean over 2 heads: no entry is a number: "
                           "there is nothing to show\n")
    done = run(file, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["token"]["weights"] == [None] * 3


def test_a_word_is_a_file_or_a_job():
    assert refuse("nothing.npz") == "nothing.npz: No such file or directory"
    Path("gpt").write_text("no arrays")
    assert refuse("gpt") == "gpt: not a .npy, .npz or .safetensors file"
    said = refuse("bert", "--endpoint", "ipc:///nowhere/none", "--timeout", "0.05", code=3)
    assert said.startswith("cannot reach attnd at ipc:///nowhere/none")
    assert said.endswith("nor is there a file 'bert'")
    assert refuse("bert", "--timeout", "x") == "--timeout: 'x': not accepted (valid: 1ms to 3600s)"


def test_without_words_there_is_the_usage():
    assert refuse() == "FILE or JOB is missing; usage: attnctl show FILE... | JOB [OPTIONS]"
    assert "A word is a file when" in show("--help")
    assert max(map(len, show("--help").split("\n"))) <= 90


def test_an_output_that_is_full_is_said(path):
    with open("/dev/full", "w") as full:
        done = attnctl("show", path, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr == "attnctl: cannot write the output\n"
