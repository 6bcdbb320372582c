# SPDX-License-Identifier: MIT
"""attnctl plot: the files that it writes and reads, what it says when it cannot, and its help."""
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from figures import Svg, read_png
from invoke import ATTNCTL, attnctl, npz, sentence
from plotted import LAYERS, MAPS, PAST, H, T, file, file_of, history, maps, maps_of, plot, refuse, run  # noqa: F401


@pytest.fixture(scope="module")
def many(file, tmp_path_factory):
    """All layers and heads, on a terminal: (folder, lines of --json, what the terminal was shown)."""
    folder = tmp_path_factory.mktemp("many") / "many"
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run([ATTNCTL, "plot", "heatmap", file, "--every-layer", "--every-head", "--json", "-o", f"{folder}/"],
                          stdout=subprocess.PIPE, stderr=other, timeout=120)
    os.close(other)
    shown = b""
    try:
        while chunk := os.read(main, 65536):
            shown += chunk
    except OSError:
        pass
    os.close(main)
    assert done.returncode == 0
    return folder, [json.loads(line) for line in done.stdout.splitlines()], shown


def test_every_layer_and_head(file, many):
    expected = {f"heatmap-{layer}-h{head:02}.png" for layer in LAYERS for head in range(H)}
    assert set(os.listdir(many[0])) == expected
    plot("heads", file, "--every-layer", "-o", "{layer}/a.svg")
    assert "decoder.1.cross" in Svg("decoder.1.cross/a.svg").texts
    plot("heatmap", file, "--layer", "encoder.0", "--every-head", "-o", "{head}.svg")
    assert "encoder.0.self, head 3" in Svg("03.svg").texts


def test_a_flow_is_of_a_number_and_not_of_one_layer(file):
    plot("flow", file, "--every-layer", "-o", "many/")
    assert set(os.listdir("many")) == {"flow-0.png", "flow-1.png"}
    done = run("flow", file_of(np.full((1, 1, 2, 2), np.nan, np.float32)), "--every-layer", "-o", "many/")
    assert done.returncode == 1 and done.stderr.startswith("attnctl: layer 0, head mean: left out: ")
    plot("flow", file, "--layer", 1, "-o", "{layer}.svg")
    assert "layer 1, mean of 4 heads" in Svg("1.svg").texts


def test_what_was_written_as_json(file, many, history):
    def receipts(*arguments):
        done = run(*arguments, "--json")
        assert done.returncode == 0
        return [json.loads(line) for line in (done.stderr if "-" in arguments else done.stdout).splitlines()]
    folder, told, _ = many
    assert sorted(told, key=str) == sorted((
        {"figure": f"{folder}/heatmap-{layer}-h{head:02}.png", "kind": "heatmap", "layer": layer, "head": head}
        for layer in LAYERS for head in range(H)), key=str)
    assert all(os.path.exists(one["figure"]) for one in told)
    one, = receipts("heads", file, "--layer", "decoder.1.self", "-o", "a \"b\".svg")
    assert one == {"figure": "a \"b\".svg", "kind": "heads", "layer": "decoder.1.self", "head": None}
    one, = receipts("series", history, "--head", 1, "--layer", 0, "-o", "a.svg")
    assert one == {"figure": "a.svg", "kind": "series", "layer": None, "head": None}
    one, = receipts("flow", file, "--format", "svg", "-o", "-")
    assert (one["figure"], one["kind"], one["layer"]) == ("-", "flow", None)


def test_the_format_of_figures_in_a_folder(file):
    plot("heatmap", file, "--every-layer", "--format", "svg", "-o", "many/")
    assert set(os.listdir("many")) == {f"heatmap-{layer}.svg" for layer in LAYERS}
    plot("heatmap", file, "--format", "pdf", "-o", "a.pdf")
    assert refuse(2, "heatmap", file, "--format", "pdf", "-o", "a.svg") == (
        "--format pdf: but a.svg is to be svg")
    assert refuse(2, "heatmap", file, "--format", "jpg", "-o", "many/") == (
        "--format: 'jpg': not accepted (valid: png, svg, pdf)")


def test_a_map_without_a_number_does_not_stop_the_others():
    weights = np.full((1, 3, 4, 4), 0.25, np.float32)
    weights[0, 1] = np.nan
    file = npz(**{"decoder.0.self": weights, "decoder.1.self": weights})
    done = run("heatmap", file, "--every-layer", "--every-head", "-o", "many/")
    why = "left out: there is nothing to draw: no entry of the map is a number"
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f"attnctl: decoder.0.self, head 01: {why}", f"attnctl: decoder.1.self, head 01: {why}",
        "attnctl: 2 of 6 figures were left out"]
    assert set(os.listdir("many")) == {f"heatmap-decoder.{layer}.self-h{head:02}.png"
                                                  for layer in (0, 1) for head in (0, 2)}


def test_one_of_many_is_the_same_as_alone(file, many):
    plot("heatmap", file, "--layer", "decoder.1.self", "--head", 2, "-o", "alone.png")
    assert Path("alone.png").read_bytes() == (many[0] / "heatmap-decoder.1.self-h02.png").read_bytes()


def test_progress_is_for_terminals(many):
    """Half a second must have passed: many figures."""
    assert b" of 24" in many[2] and many[2].endswith(b"\r\x1b[K")


def test_an_interrupted_batch_leaves_whole_figures():
    """More figures than there is time for, also where this test stands still for a while."""
    file = npz(**{f"decoder.{layer}.self": maps_of(layer, T, T, True) for layer in range(200)})
    batch = subprocess.Popen([ATTNCTL, "plot", "heatmap", file, "--every-layer", "--every-head", "-o", "./"])
    deadline = time.monotonic() + 60
    while not list(Path().glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.005)
    batch.send_signal(signal.SIGINT)
    assert batch.wait(60) == -signal.SIGINT, "130, as shells count"
    for path in Path().glob("*.png"):
        read_png(path.read_bytes())


def test_nothing_is_left_half_written(file):
    os.makedirs("closed/a.png")
    assert "cannot write" in refuse(1, "heatmap", file, "-o", "closed/a.png")
    assert os.listdir("closed") == ["a.png"]
    assert "No such file" in refuse(1, "heatmap", file, "-o", "nowhere/a.png")
    before, usual = Path("b.png"), Path("usual")
    before.write_bytes(b"before")
    refuse(2, "heatmap", file, "--head", 99, "-o", before)
    assert before.read_bytes() == b"before"
    plot("heatmap", file, "-o", before)
    usual.touch()
    assert before.stat().st_mode == usual.stat().st_mode
    assert sorted(os.listdir()) == ["b.png", "closed", "usual"]


def pipe(data, *arguments):
    """Data that a pipe holds at once."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        return run(*arguments, stdin=reader)
    finally:
        os.close(reader)


@pytest.mark.parametrize("ending, piped", [("npz", True), ("npy", False)])
def test_standard_input_and_output(piped, ending):
    weights = maps_of(3, T, T)
    path = Path(file_of(weights) if ending == "npy" else npz(**{"decoder.0.self": weights}))
    plot("heads", path, "-o", "a.svg")
    words = ["heads", "-", "--format", "svg", "-o", "-"]
    with open(path, "rb") as file:
        done = pipe(path.read_bytes(), *words) if piped else attnctl("plot", *words, stdin=file)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == Path("a.svg").read_text()


def test_an_export_from_standard_input(history):
    plot("series", history, "-o", "a.svg")
    done = pipe(history.read_bytes(), "series", "-", "--format", "svg", "-o", "-")
    assert done.returncode == 0 and done.stdout == Path("a.svg").read_text()


def test_what_is_wrong_with_standard_input_and_output(file):
    said = pipe(b"nonsense", "heatmap", "-", "--format", "svg", "-o", "-")
    assert (said.returncode, said.stderr) == (2, "attnctl: -: not a .npy, .npz or .safetensors file\n")
    assert refuse(2, "heatmap", file, "-o", "-") == "-o -: in which format? give --format png, svg or pdf"
    assert "of many figures needs -o FOLDER/" in refuse(2, "heatmap", file, "--every-head", "--format", "png", "-o", "-")
    main, other = pty.openpty()
    for words, sentence in ((["heatmap", "-", "-o", "a.png"], b"-: standard input is a terminal: give a file or a pipe"),
                            (["heatmap", file, "--format", "png", "-o", "-"], b"-o -: png is not for a terminal")):
        done = subprocess.run([ATTNCTL, "plot", *words], stdin=other, stdout=other, stderr=subprocess.PIPE, timeout=120)
        assert done.returncode == 2 and sentence in done.stderr
    os.close(main)
    os.close(other)


def test_a_full_disk_is_said(file):
    os.symlink("/dev/full", "full.png")
    assert "No space left" in refuse(1, "heatmap", file, "-o", "full.png")


def test_the_date_of_a_pdf(file):
    plot("heatmap", file, "-o", "a.pdf")
    plot("heatmap", file, "-o", "b.pdf", SOURCE_DATE_EPOCH="1700000000")
    assert b"CreationDate" not in Path("a.pdf").read_bytes()
    assert b"20231114221320Z" in Path("b.pdf").read_bytes()


# Figures that cannot be drawn


@pytest.mark.parametrize("words, says", [
    (["heatmap", "FILE", "--layer", "decoder.7.self", "-o", "a.png"], "valid: encoder.0.self"),
    (["heatmap", "FILE", "--layer", "1", "-o", "a.png"], "may be any of"),
    (["heatmap", "FILE", "--head", "4", "-o", "a.png"], "has no head 4 (valid: 0 to 3)"),
    (["heatmap", "FILE", "--sample", "2", "-o", "a.png"], "has no sample 2 (valid: 0 to 1)"),
    (["tokens", "FILE", "--query", "8", "-o", "a.png"], "--query: there is no query 8: they are 0 to 7"),
    (["heatmap", "FILE", "-o", "a.gif"], "must end in .png, .svg or .pdf"),
    (["heatmap", "FILE", "-o", "a"], "must end in .png, .svg or .pdf"),
    (["heatmap", "FILE"], "where to? give -o"),
    (["picture", "FILE", "-o", "a.png"], "no kind 'picture' (valid: heatmap, heads"),
    (["heatmpa", "FILE", "-o", "a.png"], "no kind 'heatmpa': did you mean 'heatmap'?"),
    (["heatmap", "FILE", "--query", "3", "-o", "a.png"], "--query is not an option of heatmap (it is of tokens)"),
    (["heatmap", "FILE", "--tokens", "a b c d e", "-o", "a.png"], "5 tokens were given, but encoder.0.self has 8 keys"),
    (["heatmap", "FILE", "--query-tokens", "a", "-o", "a.png"], "in encoder.0.self the queries are the keys"),
    (["rollout", "FILE", "--query-tokens", "a", "-o", "a.png"], "--query-tokens is not an option of rollout"),
    (["heatmap", "FILE", "--head-weights", "1,2", "-o", "a.png"], "is not an option of heatmap (it is of aggregate)"),
    (["similarity", "FILE", "--head", "3", "-o", "a.png"], "--head is not an option of similarity"),
    (["layers", "FILE", "--layer", "1", "-o", "a.png"], "--layer is not an option of layers"),
    (["entropy", "HISTORY", "--causal", "-o", "a.png"], "--causal is not an option of entropy"),
    (["heatmap", "FILE", "--metric", "entropy", "-o", "a.png"], "of heatmap (it is of entropy, series)"),
    (["spectrum", "FILE", "--tokens", "a", "-o", "a.png"], "--tokens is not an option of spectrum"),
    (["heatmap"], "heatmap of what"),
    ([], "draw what? attnctl plot KIND"),
    (["heatmap", "FILE", "--colormap", "jet", "-o", "a.png"], "valid: viridis, cividis"),
    (["heatmap", "FILE", "--cmap", "hot", "-o", "a.png"], "no option --cmap: did you mean --colormap?"),
    (["heatmap", "FILE", "--vmin", "1", "--vmax", "1", "-o", "a.png"], "--vmin must be less"),
    (["heatmap", "FILE", "--size", "3.3x", "-o", "a.png"], "valid: inches such as 3.3x2.8"),
    (["heatmap", "FILE", "--dpi", "nan", "-o", "a.png"], "valid: a number from"),
    (["heatmap", "FILE", "--dpi", "2400", "--size", "50x50", "-o", "a.png"], "million pixels"),
    (["heatmap", "FILE", "--every-head", "-o", "a.png"], "needs -o FOLDER/"),
    (["heatmap", "FILE", "--every-layer", "--every-head", "-o", "{layer}.png"], "needs {head}"),
    (["similarity", "FILE", "--every-head", "-o", "x/"], "--every-head is not an option of similarity"),
    (["heatmap", "FILE", "--every-head", "--head", "1", "-o", "x/"], "either --head or --every-head"),
    (["layers", "FILE", "--site", "encoder.cross", "-o", "a.png"],
     "no 'encoder.cross' (valid: encoder.self, decoder.self, decoder.cross)"),
    (["layers", "FILE", "--site", "self", "-o", "a.png"], "may be any of encoder.self, decoder.self: say which"),
    (["layers", "FILE", "--site", "1", "-o", "a.png"], "--site: there is no '1' (valid: encoder.self"),
    (["rollout", "FILE", "--site", "cross", "-o", "a.png"], "no 'cross' (valid: encoder.self, decoder.self)"),
    (["aggregate", "FILE", "--head-weights", "1,2", "-o", "a.png"], "2 of them, but 4 heads"),
    (["aggregate", "FILE", "--head-weights", "1,x", "-o", "a.png"], "one per head"),
    (["heatmap", "nothing.npz", "-o", "a.png"], "No such file"),
    (["heatmap", "FILE", "--nonsense", "-o", "a.png"], "no option --nonsense"),
    (["heatmap", "FILE", "-o"], "-o needs a value"),
    (["series", "FILE", "-o", "a.png"], "line 1: not the names of an export's columns"),
    (["series", "LABELS", "-o", "a.png"], "line 1: not the names of an export's columns"),
    (["series", "HISTORY", "--metric", "entropy_normalised", "-o", "a.png"], "did you mean 'entropy_normalized'?"),
    (["series", "HISTORY", "--metric", "loss", "-o", "a.png"], "valid: entropy_normalized"),
    (["series", "HISTORY", "--layer", "9", "-o", "a.png"], "in layer 9"),
    (["entropy", "nothing.csv", "-o", "a.png"], "No such file"),
    (["entropy", "HISTORY", "-o", "x/"], "is one figure"),
])
def test_bad_input(words, says, file, history):
    names = {"FILE": file, "HISTORY": history, "LABELS": __file__}
    says = says.replace("FILE", str(file))
    assert says in sentence(run(*[names.get(word, word) for word in words]))
    assert os.listdir() == []


def test_a_source_answers_each_request_once(file, maps, monkeypatch):
    from attnd import plots
    from attnd.plots.read import SourceError

    monkeypatch.setenv("ATTND_ATTNCTL", os.path.abspath(ATTNCTL))
    with plots.Source(file) as source:
        for head in ("max", -1, "0x1"):
            with pytest.raises(SourceError, match="no such head .valid: a number from 0, mean, all."):
                source.maps("decoder.0.self", head=head)
        for text in ("x" * 600, "x\nmap 0 0 0"):
            with pytest.raises(SourceError, match="xxxx|x map 0 0 0"):
                source.find(text)
        assert np.array_equal(source.maps("decoder.0.self", head=1).weights[0], maps["decoder.0.self"][0, 1])


def test_a_source_that_cannot_be_run_leaves_nothing_open(file, monkeypatch):
    from attnd import plots

    monkeypatch.setenv("ATTND_ATTNCTL", "/nonexistent/attnctl")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        plots.Source(file)
    assert os.listdir("/proc/self/fd") == before


def test_a_recording_has_no_history():
    Path("run.rec").write_bytes(b"\x89attnd\r\n")
    assert refuse(2, "entropy", "run.rec", "-o", "a.png") == (
        "run.rec: line 1: not the names of an export's columns (expected is what attnctl export --csv or --json writes)")


@pytest.mark.parametrize("words, asked", [(["--from", 99], " from 99"), (["--to", 3], " to 3"),
                                          (["--from", 50, "--to", 60], " from 50 to 60")])
def test_a_range_without_a_window_is_a_finding(words, asked, history):
    said = refuse(1, "series", history, *words, "-o", "a.png")
    assert said == f"{history} has no window of entropy_normalized{asked}: its windows end at 4 to 49"


def test_a_long_list_of_metrics_is_cut_between_names(history):
    row = json.loads(history.read_text().splitlines()[0])
    names = [f"metric_number_{i}" for i in range(85)]
    Path("many.jsonl").write_text("".join(json.dumps(dict(row, metric=name)) + "\n" for name in names))
    said = refuse(2, "series", "many.jsonl", "--metric", "loss", "-o", "a.png")
    assert said == (f"--metric: 'loss': not in many.jsonl (valid: {', '.join(names[:10])}, ..., 85 in all: "
                    "see its column metric)")


def test_nothing_to_draw():
    assert "no entry of the map is a number" in refuse(1, "heatmap", np.full((1, 2, 3, 3), np.nan, np.float32), "-o", "a.png")
    assert "is empty" in refuse(2, "heatmap", np.zeros((1, 2, 0, 0), np.float32), "-o", "a.png")


@pytest.mark.parametrize("kind", ["heatmap", "entropy"])
def test_what_attnd_is_asked_needs_attnd(kind):
    said = sentence(run(kind, "some-job", "--endpoint", "ipc:///nowhere/attnd", "--timeout", "0.2", "-o", "never.png"), code=3)
    assert "cannot reach attnd at ipc:///nowhere/attnd" in said


def test_help_names_every_kind():
    done = run("--help")
    assert done.returncode == 0 and all(f"  {kind} " in done.stdout for kind in MAPS + PAST)


def options_of(*words):
    done = run(*words, "--help")
    assert done.returncode == 0 and done.stderr == ""
    return {line.split()[0][2:] for line in done.stdout.splitlines() if line.startswith("  --")}, done.stdout


@pytest.mark.parametrize("kind", MAPS + PAST)
def test_the_help_of_a_kind_is_of_its_options(kind):
    every, _ = options_of()
    own, text = options_of(kind)
    assert own < every and {"output", "format", "title", "size", "run", "endpoint", "help"} <= own
    assert ("query" in own) == (kind == "tokens") and ("metric" in own) == (kind in PAST)
    assert max(map(len, text.splitlines())) <= 80
    assert f"usage: attnctl plot {kind} " in text and f"  attnctl plot {kind} " in text


def test_completion_offers_the_options_of_a_kind():
    done = attnctl("__complete", "plot", "entropy", "gpt", "--")
    offered = {line.split("\t")[0][2:] for line in done.stdout.splitlines()}
    assert offered == options_of("entropy")[0]
