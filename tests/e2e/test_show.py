# SPDX-License-Identifier: MIT
"""attnctl show of a job that attnd knows and of its recording, against what the trainer sent."""
import json

import numpy as np
import pytest

from harness import Attnd, Trainer, as_bf16, as_f64, attnctl, ranks_of, softmax_maps, softmax_of
from test_maps import pooled
from test_record import Recorder

LABELS = ["the", "cat", "sat", "\u65e5\u672c", "\x1b[31m", "on"]


@pytest.fixture
def attnd():
    return Attnd("maps.every=0s")


def show(attnd, *arguments, code=0):
    done = attnctl(attnd, "show", *arguments, LC_ALL="C.UTF-8")
    assert done.returncode == code, done
    return done.stderr if code else done.stdout


def numbers(attnd, *arguments):
    return json.loads(show(attnd, *arguments, "--json"))


def send_recorded(attnd, path, send, *options, world=1):
    """What `send` sends by the trainers of the ranks is recorded, and is the whole run."""
    recorder = Recorder(attnd, "gpt", path, "--until-end", *options)
    trainers = ranks_of(attnd, world, "gpt")
    attnd.settled(send(*trainers))
    for trainer in trainers:
        trainer.event("bye")
    assert recorder.end()[0] == 0


def map_of(q, k, scale):
    """The map of queries and keys, causal, in f64."""
    logits = scale * np.einsum("bhid,bhjd->bhij", q.astype(np.float64), np.repeat(k, q.shape[1] // k.shape[1], 1))
    return softmax_of(logits, True, np.float64)


def expect_heads(attnd, source, weights, sample=0, *arguments):
    """Every head's weights of every third query."""
    for head in range(weights.shape[1]):
        for query in range(0, weights.shape[2], 3):
            got = numbers(attnd, *source, "--sample", sample, "--head", head, "--token", query, *arguments)
            np.testing.assert_allclose(got["token"]["weights"], weights[sample, head, query], atol=2e-6)
    return got


def test_a_jobs_newest_maps_are_shown_with_its_labels(attnd, rng):
    weights = softmax_maps(rng, 2, 3, 6, 6, causal=True)
    trainer = Trainer(attnd, "gpt")
    trainer.attention(softmax_maps(rng, 2, 3, 6, 6), epoch=1, step=7, causal=True)
    attnd.settled(1)
    trainer.attention(weights, epoch=1, step=8, causal=True, labels=LABELS)
    trainer.attention(weights[:, :, :, :5], epoch=1, step=8, site="cross")
    attnd.settled(3)
    got = expect_heads(attnd, ["gpt"], weights, 0, "--layer", "self")
    assert got["layers"] == ["decoder.0.self", "decoder.0.cross"]
    assert got["labels"] == LABELS and (got["epoch"], got["step"]) == (1, 8) and got["run"] == trainer.run.hex()
    assert got["row_sums"]["sound"] == 18
    mean = numbers(attnd, "gpt", "--layer", "self", "--token", 5)
    np.testing.assert_allclose(mean["token"]["weights"], weights[0, :, 5].mean(0), atol=1e-6)
    text = show(attnd, "gpt", "--layer", "self", "--token", 3)
    assert "decoder.0.self of gpt, epoch 1, step 8, run" in text
    assert "query 3 '\u65e5\u672c'" in text and "\\x1b[31m" in text and "\x1b" not in text


def test_a_pooled_map_is_shown_in_cells_and_says_so(attnd, rng):
    weights = softmax_maps(rng, 1, 2, 200, 200)
    trainer = Trainer(attnd, "gpt")
    trainer.attention(weights, labels=["x"] * 200)
    attnd.settled(1)
    cells = pooled(weights[0, 1])
    got = numbers(attnd, "gpt", "--head", 1, "--token", 130)
    assert (got["rows"], got["columns"], got["shape"]["key"]) == (128, 128, 200) and got["labels"] is None
    row = next(r for r in range(128) if r * 200 // 128 <= 130 < (r + 1) * 200 // 128)
    np.testing.assert_allclose(got["token"]["weights"], cells[row], rtol=1e-5)
    assert got["row_sums"]["sound"] == 256  # a cell's mean counts as often as it has keys
    text = " ".join(show(attnd, "gpt", "--head", 1, "--token", 130).split())
    assert "attnd has pooled it into 128 x 128 cells (maps.size)" in text
    assert "what queries 129-130 attend to, head 1, the largest first (where a cell has several keys: " in text


def test_what_a_job_has_not_is_refused(attnd, rng):
    trainer = Trainer(attnd, "gpt")
    said = "attnctl: no such job: 'gpt' (see attnctl jobs); nor is there a file 'gpt'\n"
    assert show(attnd, "gpt", code=1) == said
    trainer.attention(softmax_maps(rng, 3, 2, 4, 4))
    attnd.settled(1)
    said = "attnctl: --sample: decoder.0.self has no sample 1 (valid: 0)\n"
    assert show(attnd, "gpt", "--sample", 1, code=2) == said
    assert "the newest maps only; attnctl record keeps all" in show(attnd, "gpt", "--step", 1, code=2)
    assert "knows no run ffff of a job 'gpt'" in show(attnd, "gpt", "--run", "ffff", code=1)
    assert "--causal: is about array files" in show(attnd, "gpt", "--causal", code=2)


def test_maps_that_attnd_does_not_keep_are_explained(rng):
    daemon = Attnd("maps.enabled=false")
    trainer = Trainer(daemon, "gpt")
    trainer.attention(softmax_maps(rng, 1, 2, 4, 4))
    daemon.settled(1)
    assert "there is no map: maps.enabled is false" in show(daemon, "gpt", code=1)


@pytest.mark.parametrize("compress", [False, True])
def test_a_recording_has_every_step_and_sample(attnd, rng, tmp_path, compress):
    path = tmp_path / "run.rec"
    steps = [softmax_maps(rng, 2, 2, 9, 9, causal=True) for _ in range(3)]
    q, k = rng.normal(size=(2, 4, 9, 8)).astype(np.float32), rng.normal(size=(2, 2, 9, 8)).astype(np.float32)

    def send(trainer):
        for step, weights in enumerate(steps):
            trainer.attention(weights, step=10 * step, causal=True, labels=LABELS)
            trainer.qk(q + step, k, step=10 * step, layer=1, scale=0.3, causal=True)
        trainer.attention(as_bf16(steps[0]), step=20, layer=2)
        return 7

    send_recorded(attnd, path, send, *(["--compress"] if compress else []))
    got = expect_heads(attnd, [path], steps[2], 1, "--layer", 0)
    assert got["layers"] == [f"decoder.{layer}.self" for layer in range(3)] and got["step"] == 20
    assert got["labels"] is None and numbers(attnd, path, "--layer", 0)["labels"][:6] == LABELS
    expect_heads(attnd, [path], steps[1], 0, "--layer", 0, "--step", 10)
    expect_heads(attnd, [path], map_of(q + 2, k, 0.3), 1, "--layer", 1)
    expect_heads(attnd, [path], as_f64(as_bf16(steps[0])), 0, "--layer", 2)
    assert "has no map of step 11 (the nearest: 10, 20)" in show(attnd, path, "--step", 11, code=2)
    assert "decoder.0.self of" in show(attnd, path)


def test_padding_and_masks_of_queries_and_keys_count(attnd, rng, tmp_path):
    path = tmp_path / "run.rec"
    q, k = rng.normal(size=(2, 1, 5, 4)).astype(np.float32), rng.normal(size=(2, 1, 5, 4)).astype(np.float32)
    mask = np.ones((2, 5, 5), np.uint8)
    mask[1, :, 1] = 0
    send_recorded(attnd, path, lambda trainer: trainer.qk(q, k, mask=mask, scale=1.0, q_len=[5, 4], k_len=[5, 4]) or 1)
    logits = np.einsum("id,jd->ij", q[1, 0].astype(np.float64), k[1, 0])
    logits[:, [1, 4]] = -np.inf
    expected = softmax_of(logits, dtype=np.float64)
    got = numbers(attnd, path, "--sample", 1, "--token", 2)
    np.testing.assert_allclose(got["token"]["weights"], expected[2, :4], atol=2e-6)
    assert got["row_sums"]["sound"] == 4 and got["row_sums"]["zero"] == 0
    assert "without the padding of sample 1: 1 query and 1 key (--padding shows them)" in " ".join(
        show(attnd, path, "--sample", 1).split())
    got = numbers(attnd, path, "--sample", 1, "--token", 2, "--padding")
    np.testing.assert_allclose(got["token"]["weights"], expected[2], atol=2e-6)
    assert got["row_sums"]["sound"] == 4 and got["row_sums"]["zero"] == 1  # the query that is padding


def test_heads_in_slices_over_ranks_are_one_layer(attnd, rng, tmp_path):
    path = tmp_path / "run.rec"
    weights = softmax_maps(rng, 1, 4, 6, 6)

    def send(*ranks):
        for first, trainer in zip((0, 2), ranks):
            trainer.attention(np.ascontiguousarray(weights[:, first:first + 2]), head_offset=first, heads_total=4)
        return 2

    send_recorded(attnd, path, send, world=2)
    for source in ("gpt", path):
        got = expect_heads(attnd, [source], weights)
        assert got["shape"]["heads"] == 4 and got["row_sums"]["rows"] == 24
