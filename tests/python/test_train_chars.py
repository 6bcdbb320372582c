# SPDX-License-Identifier: MIT
"""The example job: what it trains on, what it prints, and that it ends with or without a daemon."""
import itertools
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import chars_data
import chars_report
import reference
import train_chars
from attnd.sending.sender import Message
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


def message_of(kind, epoch, frames, dtype, **keys):
    """What the publisher hands out for these frames, by name."""
    header = dict(stack=LAYER[0], layer=LAYER[1], site=LAYER[2], **keys,
                  tensors=[dict(name=name, dtype=dtype, shape=list(frame.shape)) for name, frame in frames.items()])
    return Message(b"", kind, header, epoch, epoch, tuple(frames.values()), sum(frame.nbytes for frame in frames.values()))


def weights_message(weights, dtype, epoch=0, **keys):
    """Of [B,H,T,T] weights; bf16 travels as 16-bit integers."""
    raw = weights.to(getattr(torch, {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}[dtype]))
    frame = raw.view(torch.int16).numpy().view(np.uint16) if dtype == "bf16" else raw.numpy()
    return message_of("attention", epoch, {"weights": frame}, dtype, **keys)


def of_weights(epoch):
    weights = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(epoch)).softmax(-1)
    return weights_message(weights, "f64", epoch, q_len=[5, 3], k_len=[5, 3])


def of_queries_and_keys(epoch):
    """4 heads that share 2 key heads, of 5 positions."""
    generator = torch.Generator().manual_seed(epoch)
    frames = {name: torch.randn(2, heads, 5, 3, generator=generator).numpy() for name, heads in (("q", 4), ("k", 2))}
    return message_of("qk", epoch, frames, "f32", scale=0.5, causal=True, softcap=2.0)


def verified(make, epochs, change=lambda summary: None):
    """A verifier that has seen one message per epoch and one summary of all, made of what the reference says and changed."""
    verifier, messages = train_chars.Verifier(), [make(epoch) for epoch in range(epochs)]
    for message in messages:
        verifier.take(message)
    summary = reference.pool([reference.measure(reference.from_message(message)) for message in messages])
    summary["window"] = {"first": 0, "last": epochs - 1}
    change(summary)
    verifier.check(LAYER, summary)
    return verifier


@pytest.mark.parametrize("make, epochs", [(of_weights, 3), (of_queries_and_keys, 2)])
def test_verification_finds_right_summaries_right(make, epochs, capsys):
    assert verified(make, epochs).wrong == 0
    assert "all right" in capsys.readouterr().out


@pytest.mark.parametrize("make, group, metric, error", [
    (of_weights, "heads", "tail_mass", 1e-3),
    *((of_queries_and_keys, "heads", metric, 1e-3) for metric in (
        "max_logit", "mean_logit", "std_logit", "qk_cosine", "k_norm", "entropy", "mean", "importance")),
    (of_queries_and_keys, "spectrum", "qk_nuclear_norm", 0.1), (of_queries_and_keys, "spectrum", "nuclear_norm", 0.1),
    (of_queries_and_keys, "spectrum", "qk_rank", 1)])
def test_verification_says_which_number_is_wrong(make, group, metric, error, capsys):
    def lie(summary):
        summary[group][metric]["mean"][-1] += error

    assert verified(make, 2 if make is of_weights else 1, lie).wrong == 1
    output = capsys.readouterr().out
    assert "1 WRONG" in output and f"wrong: {metric} mean: got" in output


def test_verification_wants_the_messages_of_the_window_only(capsys):
    assert verified(of_weights, 1, lambda summary: summary.update(window={"first": 7, "last": 7})).wrong == 1
    assert "a summary of nothing that was published" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_messages_are_measured_as_they_were_sent(dtype):
    weights = torch.rand(1, 2, 4, 4).softmax(-1)
    sent = reference.from_message(weights_message(weights, dtype, causal=True, q_offset=2))
    exact = {"f32": 0, "f64": 0, "f16": 2**-12, "bf16": 2**-9}[dtype]
    assert sent.dtype == dtype and sent.causal and sent.q_offset == 2
    assert (sent.weights - weights.double()).abs().max() <= exact
    with pytest.raises(ValueError, match="capture all rows"):
        reference.from_message(weights_message(weights, dtype, causal=True, q_stride=2))


def start(*words):
    return subprocess.Popen([sys.executable, str(SCRIPT), "--steps-per-epoch", "2", "--batch", "2", "--layers", "1",
                             "--width", "16", "--heads", "2", "--text", str(PACKAGE), *words],
                            stdout=subprocess.PIPE, text=True)


def test_without_a_daemon_it_trains_says_so_and_fails():
    with start("--epochs", "2", "--endpoint", free_endpoint(), "--summaries", free_endpoint()) as job:
        output = job.communicate(timeout=60)[0]
    assert job.returncode == 1 and "does not listen" in output and "epoch 1  loss" in output


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
    assert [h["event"] for _, h, _ in got if h["type"] == "event" and h["event"] != "log"] == ["hello", "hello", "epoch_end", "bye"]
