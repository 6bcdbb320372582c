# SPDX-License-Identifier: MIT
"""Which queries of a cross-attention are padding: what the decoder's own masks say, and nothing that they do not."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.base.masks import Visibility
from attnd.capture.padding import with_queries
from conftest import FakeDaemon, samples_of
from test_masks import visible_by

WIDTH, HEADS, SOURCE, TARGET = 8, 2, 7, 5
LENGTHS, SOURCES = [5, 2, 3], [4, 7, 2]
LATER = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)


def right(lengths, width):
    """True where there is nothing, as torch wants it."""
    return torch.arange(width) >= torch.tensor(lengths)[:, None]


LEFT = right([1, 4, 2], TARGET).flip(1)  # the texts are 1, 4 and 2 long and end the row


def made():
    torch.manual_seed(1)
    return torch.nn.Transformer(WIDTH, HEADS, 1, 2, 16, dropout=0.0, batch_first=True)


def called(model, target_padding=None, causal=LATER):
    generator = torch.Generator().manual_seed(2)
    model(torch.rand(3, SOURCE, WIDTH, generator=generator), torch.rand(3, TARGET, WIDTH, generator=generator),
          tgt_mask=causal, src_key_padding_mask=right(SOURCES, SOURCE), memory_key_padding_mask=right(SOURCES, SOURCE),
          tgt_key_padding_mask=target_padding)


def crossings(plan=b"every=1", steps=1, learned=None, **masks):
    """The cross-attentions of some steps, as they arrive: (header, frames by name) in their order. `learned`: options of the
    decoder's self-attention."""
    model, daemon = made(), FakeDaemon(topics=(b"", b"plan/5/*/" + plan, b"limits/header=10"))
    for layer in model.decoder.layers if learned else ():
        layer.self_attn = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **learned)
    with attnd.Publisher("job", daemon.endpoint) as publisher:
        daemon.attach(publisher)
        with attnd.watch(model, job="job", publisher=publisher, steps="manual") as watched:
            for _ in range(steps):
                called(model, **masks)
                watched.step()
    return [(header, dict(zip((tensor["name"] for tensor in header["tensors"]), frames)))
            for _, header, frames in daemon.tensors_until_bye() if header["site"] == "cross"]


def test_the_queries_of_cross_attention_are_those_of_the_decoder():
    found = crossings(steps=2, target_padding=right(LENGTHS, TARGET))
    assert [(h["step"], h["layer"]) for h, _ in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(h["q_len"] == LENGTHS and h["k_len"] == SOURCES for h, _ in found)


@pytest.mark.parametrize("learned", [{"add_zero_attn": True}, {"add_bias_kv": True}])
@pytest.mark.parametrize("causal", [None, LATER])
def test_learned_keys_of_the_decoder_hide_no_padding(learned, causal):
    found = crossings(learned=learned, target_padding=right(LENGTHS, TARGET), causal=causal)
    assert found and all(h["q_len"] == LENGTHS for h, _ in found)


def test_a_plan_of_cross_attention_alone_and_of_some_samples():
    found = crossings(b"every=1;layers=*.*.cross;samples=2", steps=2, target_padding=right(LENGTHS, TARGET))
    assert len(found) == 4 and all(h["q_len"] == [LENGTHS[n] for n in samples_of(h, 3)] for h, _ in found)


def test_of_a_sample_of_rows_those_count_that_are_there():
    found = crossings(b"every=1;rows=2", steps=3, target_padding=right(LENGTHS, TARGET))
    for header, _ in found:
        rows = np.arange(header.get("q_offset", 0), TARGET, header["q_stride"])
        assert header["q_len"] == [int((rows < length).sum()) for length in LENGTHS]


def test_padding_before_the_text_is_said_by_a_mask():
    """Rows of padding may be NaN in torch 1.13, and then hide the keys as well as the queries."""
    there, keys = ~LEFT.numpy(), ~right(SOURCES, SOURCE).numpy()
    for header, frames in crossings(b"every=1;layers=*.0.*", steps=2, target_padding=LEFT):
        seen = np.frombuffer(frames["mask"], np.uint8).reshape(len(there), TARGET, SOURCE) == 1
        if "k_len" in header:
            seen = seen & (np.arange(SOURCE) < np.array(header["k_len"])[:, None, None])
        assert "q_len" not in header and (seen == there[:, :, None] & keys[:, None, :]).all()


@pytest.mark.parametrize("causal", [None, LATER])
def test_without_a_mask_of_the_decoder_nothing_is_said(causal):
    assert all("q_len" not in h and "mask" not in frames for h, frames in crossings(steps=2, causal=causal))


@pytest.mark.parametrize("lengths", [[5, 2, 3], [0, 5, 1], [5, 5, 5]])
@pytest.mark.parametrize("given", [Visibility(), Visibility(k_len=np.array([4, 7, 2], np.int32)),
                                   Visibility(mask=np.random.default_rng(1).random((3, TARGET, SOURCE)) < 0.5)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_others_see_stays_as_it_was(given, lengths, side):
    valid = ~right(lengths, TARGET).numpy()
    valid = valid if side == "right" else valid[:, ::-1]
    shape = (3, TARGET, SOURCE)
    want = visible_by(given, shape) & valid[:, :, None]
    assert (visible_by(with_queries(given, valid, SOURCE), shape) == want).all()


def test_labels_of_the_queries_are_the_decoders_tokens(daemon, publisher):
    class Translator(torch.nn.Module):
        """From tokens to tokens."""

        def __init__(self):
            super().__init__()
            self.words, self.core = torch.nn.Embedding(20, WIDTH), made()

        def forward(self, input_ids, decoder_input_ids):
            return self.core(self.words(input_ids), self.words(decoder_input_ids), tgt_mask=LATER)

    source, target = torch.randint(20, (2, SOURCE)), torch.randint(20, (2, TARGET))
    with attnd.watch(Translator(), job="job", publisher=publisher, labels=lambda ids: [f"t{i}" for i in ids]) as watched:
        watched._root(source, target)
    publisher.close()
    headers = [h for _, h, _ in daemon.tensors_until_bye()]
    crossing = [h for h in headers if h["site"] == "cross"]
    assert len(crossing) == 2 and all("q_labels" not in h for h in headers if h["site"] == "self")
    for header in crossing:
        assert header["labels"] == [f"t{i}" for i in source[0].tolist()]
        assert header["q_labels"] == [f"t{i}" for i in target[0].tolist()]


@pytest.mark.parametrize("where", [(slice(None), 3), (0, slice(None)), (slice(None), slice(None))])
def test_numbers_that_are_none_are_no_padding(daemon, publisher, where):
    """A model that has become NaN says so in its rows: they are there, and not valid."""
    class Explicit(torch.nn.Module):
        def forward(self, logits):
            return logits.masked_fill(LATER, float("-inf")).softmax(-1) @ torch.ones(2, 4, TARGET, 3)

    logits = torch.zeros(2, 4, TARGET, TARGET)
    logits.transpose(0, 1)[(slice(None), *where)] = float("nan")
    with attnd.watch(torch.nn.Sequential(Explicit()), job="job", publisher=publisher) as watched:
        watched._root(logits)
    publisher.close()
    (_, header, frames), = daemon.tensors_until_bye()
    assert header["causal"] and "q_len" not in header and "mask" not in [tensor["name"] for tensor in header["tensors"]]
    weights = np.frombuffer(frames[0], np.float32).reshape(2, 4, TARGET, TARGET)
    assert np.isnan(weights.swapaxes(0, 1)[(slice(None), *where)]).all()
