# SPDX-License-Identifier: MIT
"""The example job: what it trains on, what it prints, and that it ends with or without a daemon."""
import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import chars_data
import chars_report
import reference
import train_chars
from attnd.sender import Message
from chars_model import MODELS, TASKS
from conftest import PACKAGE, FakeDaemon, free_endpoint, wait_until

SCRIPT = PACKAGE / "examples" / "train_chars.py"


@pytest.fixture(scope="module")
def corpus():
    return chars_data.load(PACKAGE, 32)


@pytest.mark.parametrize("task", ["restore", "continue"])
def test_batches_are_the_same_for_the_same_seed(corpus, task):
    streams = [chars_data.batches(corpus, task, 4, 32, seed) for seed in (1, 1, 2)]
    a, b, c = ([next(stream) for _ in range(3)] for stream in streams)
    assert all(torch.equal(x.inputs, y.inputs) and torch.equal(x.targets, y.targets) for x, y in zip(a, b))
    assert not all(x.inputs.shape == y.inputs.shape and torch.equal(x.inputs, y.inputs) for x, y in zip(a, c))


def test_what_models_are_given_can_be_read(corpus):
    for task, length in (("restore", 2), ("continue", 1)):
        batch = next(chars_data.batches(corpus, task, 4, 32, 1))
        assert len(batch.given) == length and batch.given[-1] is batch.inputs
        text = [corpus.texts[number] for number in batch.inputs[0].tolist()]
        assert (text[0] == "<begin>") is (task == "restore") and all(text)
        assert "".join(text[1:]).partition("<pad>")[0].replace("\\n", "\n") in "\n".join(corpus.lines)


def test_the_restoring_task_is_padded_and_shifted(corpus):
    batch = next(chars_data.batches(corpus, "restore", 8, 32, 1))
    assert (batch.source == chars_data.PAD).any() and (batch.inputs == chars_data.PAD).any()
    assert (batch.inputs[:, 0] == chars_data.BOS).all() and batch.source.shape[1] <= 32
    for inputs, targets in zip(batch.inputs, batch.targets):
        length = int((inputs != chars_data.PAD).sum())
        assert torch.equal(inputs[1:length], targets[:length - 1]) and targets[length - 1] == chars_data.EOS


@pytest.mark.parametrize("name", list(MODELS))
def test_models_learn(corpus, name):
    torch.manual_seed(0)
    model = MODELS[name](corpus.vocabulary, 33, 32, 2, 1, 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for batch in itertools.islice(chars_data.batches(corpus, TASKS[name], 8, 32, 1), 30):
        loss = torch.nn.functional.cross_entropy(model(*batch.given).flatten(0, 1), batch.targets.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * losses[0]


def test_tables_fit_80_columns():
    row = {"heads": {"entropy_normalized": {"mean": np.array([0.5, float("nan"), 1.0] * 7)}}}
    lines = chars_report.entropy_table({("encoder", 11, "cross"): row, ("decoder", 0, "self"): row})
    assert max(map(len, lines)) <= 80 and len(lines) == 9
    assert lines[1].split() == ["encoder.11.cross", "0.50", "-", "1.00", "0.50", "-", "1.00", "0.50", "-"]


@pytest.mark.parametrize("words", [["--heads", "3"], ["--every", "0"], ["--dropout", "1"], ["--model", "x"]])
def test_bad_arguments_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        train_chars.parse_arguments(words)
    assert end.value.code == 2 and "error" in capsys.readouterr().err


LAYER = ("decoder", 1, "self")


def message_of(weights, dtype, epoch, **keys):
    """What the publisher hands out for [B,H,T,T] weights; bf16 travels as 16-bit integers."""
    raw = weights.to(getattr(torch, {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}[dtype]))
    frame = raw.view(torch.int16).numpy().view(np.uint16) if dtype == "bf16" else raw.numpy()
    header = dict(stack=LAYER[0], layer=LAYER[1], site=LAYER[2],
                  tensors=[dict(name="weights", dtype=dtype, shape=list(frame.shape))], **keys)
    return Message(b"", "attention", header, epoch, epoch, (frame,), frame.nbytes)


def verified(epochs, summary_of, **keys):
    """A verifier that has seen one message per epoch and one summary of all, made of what the reference says."""
    torch.manual_seed(0)
    weights = [torch.rand(2, 2, 5, 5).softmax(-1) for _ in range(epochs)]
    verifier = train_chars.Verifier()
    for epoch, w in enumerate(weights):
        verifier.take(message_of(w, "f64", epoch, **keys))
    summary = reference.pool([reference.measure(reference.Attention(w.double(), "f64", **keys)) for w in weights])
    summary["window"] = {"first": 0, "last": epochs - 1}
    verifier.check(LAYER, summary_of(summary))
    return verifier


def test_verification_finds_right_summaries_right(capsys):
    assert verified(3, lambda summary: summary, q_len=[5, 3], k_len=[5, 3]).wrong == 0
    assert "all right" in capsys.readouterr().out


def test_verification_says_which_number_is_wrong(capsys):
    def lie(summary):
        summary["heads"]["tail_mass"]["mean"][1] += 1e-3
        return summary

    assert verified(2, lie).wrong == 1
    output = capsys.readouterr().out
    assert "1 WRONG" in output and "wrong: tail_mass mean: got" in output


def test_verification_wants_the_messages_of_the_window_only(capsys):
    other = {"window": {"first": 7, "last": 7}}
    assert verified(1, lambda summary: {**summary, **other}).wrong == 1
    assert "a summary of nothing that was published" in capsys.readouterr().out


def qk_message(epoch, **keys):
    """What the publisher hands out for 4 heads that share 2 key heads, of 5 positions."""
    generator = torch.Generator().manual_seed(epoch)
    frames = tuple(torch.randn(2, heads, 5, 3, generator=generator).numpy() for heads in (4, 2))
    header = dict(stack=LAYER[0], layer=LAYER[1], site=LAYER[2], scale=0.5, **keys,
                  tensors=[dict(name=n, dtype="f32", shape=list(f.shape)) for n, f in zip("qk", frames)])
    return Message(b"", "qk", header, epoch, epoch, frames, sum(f.nbytes for f in frames))


def verified_qk(epochs, summary_of):
    """As verified(), of queries and keys."""
    verifier = train_chars.Verifier()
    messages = [qk_message(epoch, causal=True, softcap=2.0) for epoch in range(epochs)]
    for message in messages:
        verifier.take(message)
    summary = reference.pool([reference.measure(reference.from_message(message)) for message in messages])
    summary["window"] = {"first": 0, "last": epochs - 1}
    verifier.check(LAYER, summary_of(summary))
    return verifier


def test_verification_finds_right_summaries_of_queries_and_keys_right(capsys):
    assert verified_qk(2, lambda summary: summary).wrong == 0
    assert "all right" in capsys.readouterr().out


@pytest.mark.parametrize("group, metric, error", [
    ("heads", "max_logit", 1e-3), ("heads", "mean_logit", 1e-3), ("heads", "std_logit", 1e-3), ("heads", "qk_cosine", 1e-3),
    ("heads", "k_norm", 1e-3), ("heads", "entropy", 1e-3), ("heads", "mean", 1e-3), ("heads", "importance", 1e-3),
    ("spectrum", "qk_nuclear_norm", 0.1), ("spectrum", "nuclear_norm", 0.1), ("spectrum", "qk_rank", 1)])
def test_verification_says_which_number_of_queries_and_keys_is_wrong(group, metric, error, capsys):
    def lie(summary):
        summary[group][metric]["mean"][3] += error
        return summary

    assert verified_qk(1, lie).wrong == 1
    assert f"wrong: {metric} mean: got" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_messages_are_measured_as_they_were_sent(dtype):
    weights = torch.rand(1, 2, 4, 4).softmax(-1)
    sent = reference.from_message(message_of(weights, dtype, 0, causal=True, q_offset=2))
    exact = {"f32": 0, "f64": 0, "f16": 2**-12, "bf16": 2**-9}[dtype]
    assert sent.dtype == dtype and sent.causal and sent.q_offset == 2
    assert (sent.weights - weights.double()).abs().max() <= exact


def test_a_sample_of_rows_is_not_verified():
    message = message_of(torch.rand(1, 2, 4, 8).softmax(-1), "f32", 0, causal=True, q_stride=2)
    with pytest.raises(ValueError, match="capture all rows"):
        reference.from_message(message)


def start(*words):
    return subprocess.Popen([sys.executable, str(SCRIPT), "--steps-per-epoch", "2", "--batch", "2", "--layers", "1",
                             "--width", "16", "--heads", "2", "--text", str(PACKAGE), *words],
                            stdout=subprocess.PIPE, text=True)


def test_without_a_daemon_it_trains_says_so_and_fails():
    begin = time.monotonic()
    with start("--epochs", "2", "--endpoint", free_endpoint(), "--summaries", free_endpoint()) as job:
        output = job.communicate(timeout=60)[0]
    assert job.returncode == 1 and "does not listen" in output and "epoch 1  loss" in output
    assert time.monotonic() - begin < 60


def test_summaries_that_do_not_come_are_missed_and_messages_are_right():
    fake = FakeDaemon()
    with start("--epochs", "1", "--wait", "0.2", "--endpoint", fake.endpoint, "--summaries", free_endpoint()) as job:
        wait_until(lambda: fake.serve() or job.poll() is not None, "the job ends", 60)
        output = job.stdout.read()
    assert job.returncode == 1 and "MISSING" in output and "encoder.0.self" in output
    got = fake.until_bye()
    tensors = [h for _, h, _ in got if h["type"] not in ("event", "weights")]
    assert len({(h["stack"], h["site"]) for _, h, _ in got if h["type"] == "weights"}) == 3
    assert {h["type"] for h in tensors} == {"qk" if hasattr(torch.nn.functional, "scaled_dot_product_attention")
                                            else "attention"}
    assert [(h["stack"], h["site"]) for h in tensors] == [("encoder", "self"), ("decoder", "self"),
                                                          ("decoder", "cross")] * 2
    own = {h["step"]: h for h in tensors if (h["stack"], h["site"]) == ("decoder", "self")}
    for h in tensors:
        sent = {tensor["name"]: tensor["shape"] for tensor in h["tensors"]}
        batch, keys = (sent["k"][0], sent["k"][2]) if "k" in sent else (sent["weights"][0], sent["weights"][3])
        padded = "k_len" in h
        assert set(sent) in ({"q", "k"}, {"weights"}) and h.get("causal", False) == (h["stack"] == "decoder" and h["site"] == "self")
        # The queries of cross-attention are the decoder's, and so is their padding.
        assert h.get("q_len") == (h.get("k_len") if h["site"] == "self" else own[h["step"]].get("k_len"))
        assert not padded or (len(h["k_len"]) == batch and max(h["k_len"]) == keys)
    assert any("k_len" in h for h in tensors)
    assert [h.get("event") for _, h, _ in got if h["type"] == "event"] == ["hello", "hello", "epoch_end", "bye"]
    fake.close()
