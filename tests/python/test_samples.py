# SPDX-License-Identifier: MIT
"""Which samples of a batch are captured: others at each step, and all that an attention's batch has of each."""
import random

import attnd
import numpy as np
import pytest
from attnd.base.plan import FOLDED_MAX, Folds, Plan
from conftest import FakeDaemon, samples_of

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402
from watching import MHA, needs_step_hooks, tensors_of, weights_of  # noqa: E402

WIDTH, HEADS = 8, 2
ONE = (b"", b"plan/999999/*/every=1;samples=1")  # as attnd has it by default
GRAPH = hasattr(torch.zeros(1, requires_grad=True).exp().grad_fn, "_input_metadata")


def taken(samples, forward, batch, folds=Folds(), logits=1):
    found = Plan(samples=samples).take(forward, batch, folds, logits)
    return list(range(batch))[found.rows]


def messages(model, inputs, topics=ONE, steps=1, backward=True, **options):
    """What one forward a step sends."""
    daemon = FakeDaemon(topics=topics)
    publisher = daemon.publisher(run=b"\7" * 16, **{name: options.pop(name) for name in ("rank", "world") if name in options})
    watch = attnd.watch(model, job="job", publisher=publisher, steps="manual", **options)
    for _ in range(steps):
        for given in inputs if isinstance(inputs, list) else [inputs]:
            made = model(*given) if isinstance(given, tuple) else model(given)
            if backward:
                made.square().sum().backward()
        watch.step()
    return daemon.captured(watch)


@pytest.mark.parametrize("samples, batch", [(1, 8), (1, 7), (2, 8), (3, 8), (2, 7), (1, 1), (9, 4)])
def test_each_sample_has_its_turn_about_as_often(samples, batch):
    rows = [taken(samples, ("run", step, 0), batch) for step in range(4000)]
    assert {len(some) for some in rows} == {min(samples, batch)} and all(some == sorted(set(some)) for some in rows)
    counts = np.bincount(np.concatenate(rows), minlength=batch) / (4000 * min(samples, batch) / batch)
    assert counts.min() > (0.85 if batch % min(samples, batch) == 0 else 0.5)


def test_two_samples_are_a_text_and_its_other_half():
    assert all(second - first == 4 for first, second in (taken(2, ("run", step, 0), 8) for step in range(50)))


def test_run_step_microbatch_and_size_alone_say_which():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    of = {key: [taken(1, (key[0], step, key[1]), key[2])[0] for step in range(64)] for key in
          (("a", 0, 64), ("b", 0, 64), ("a", 1, 64), ("a", 0, 63))}
    assert len(set(map(tuple, of.values()))) == 4 and of["a", 0, 64] == [taken(1, ("a", step, 0), 64)[0] for step in range(64)]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("apart", [1, 8])
def test_all_rows_of_a_folded_sample_are_taken(samples, apart):
    for step in range(40):
        rows = taken(samples, ("run", step, 0), 48, Folds(6, apart))
        of = [row // 6 if apart == 1 else row % 8 for row in rows]
        assert len(set(of)) == (2 if samples == 3 and apart == 8 else samples) and all(of.count(one) == 6 for one in of)
    assert {taken(1, ("run", step, 0), 48, Folds(6, apart))[0] for step in range(99)} == set(range(0, 48, 6) if apart == 1 else range(8))


@pytest.mark.parametrize("apart", [0, 1, 4])
def test_rows_of_too_many_logits_are_taken_evenly_and_in_turn(apart):
    rows = [taken(1, ("run", step, 0), 400, Folds(100, apart), FOLDED_MAX // 30) for step in range(900)]
    assert {len(some) for some in rows} <= {25, 28, 29, 30} and set(np.concatenate(rows)) == set(range(400))
    assert apart == 0 or all(len({row // 100 if apart == 1 else row % 4 for row in some}) == 1 for some in rows)


def test_a_batch_of_one_and_one_of_unknown_order_are_taken_whole():
    assert taken(1, ("run", 3, 0), 6, Folds(6, 0)) == taken(1, ("run", 3, 0), 6, Folds(2, 0)) == list(range(6))


class Halves(torch.nn.Module):
    """Two layers over a batch whose second half is apart."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([MHA(WIDTH, HEADS, batch_first=True) for _ in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        return x


def numbers_of(found, batch):
    """By layer, which samples each message has."""
    return [[samples_of(header, batch) for _, header, _ in found if header["layer"] == layer] for layer in (0, 1)]


def test_over_time_both_halves_are_seen_alike_in_all_layers_and_ranks():
    x = torch.rand(8, 5, WIDTH)
    first, second = (numbers_of(messages(Halves(), x, steps=24, rank=rank, world=2), 8) for rank in (0, 1))
    assert first == second and first[0] == first[1] and len(first[0]) == 24
    assert {row // 4 for row, in first[0]} == {0, 1}


FOLDS = {
    "rows": lambda x: x.reshape(-1, *x.shape[2:]),
    "columns": lambda x: x.permute(0, 2, 1, 3).reshape(-1, x.shape[1], WIDTH),
    "rows outermost": lambda x: x.permute(1, 0, 2, 3).reshape(-1, *x.shape[2:]),
    "windows": lambda x: x.unflatten(1, (2, 3)).unflatten(3, (2, 5)).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)}


class Axial(torch.nn.Module):
    """Attention along an axis of a picture [B, 6, 10, width], whose other one is in the batch."""

    def __init__(self, fold, kind, options=None):
        super().__init__()
        self.stem, self.norm, self.qkv = torch.nn.Linear(WIDTH, WIDTH), torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.attention, self.fold, self.kind = MHA(WIDTH, HEADS, **{"batch_first": True, **(options or {})}), fold, kind

    def forward(self, x):
        x = self.fold(self.norm(self.stem(x)))
        if self.kind in ("MHA", "MHA without weights"):
            x = x if self.attention.batch_first else x.transpose(0, 1)
            return self.attention(x, x, x, need_weights=self.kind == "MHA")[0]
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            return functional.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-1, -2) / q.shape[-1]**0.5).softmax(-1) @ v


KINDS = ["explicit", "MHA", "MHA without weights", *["fused"] * hasattr(functional, "scaled_dot_product_attention")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fold", FOLDS)
def test_all_that_is_folded_into_the_batch_of_one_picture_is_taken(fold, kind):
    """That picture alone gives the same weights. Where torch does not tell what is one picture's, it is all pictures'."""
    model, x = Axial(FOLDS[fold], kind), torch.randn(4, 6, 10, WIDTH)
    of_all, = messages(model, x, topics=(b"",))
    batch, pictures = len(weights_of(of_all)), set()
    for step, message in enumerate(messages(model, x, steps=6)):
        rows = samples_of(message[1], batch)
        np.testing.assert_allclose(weights_of(message), weights_of(of_all)[rows], atol=1e-6)
        if GRAPH:
            alone = [weights_of(messages(model, x[n:n + 1])[0]) for n in range(4)]
            pictures.update(n for n in range(4) if np.allclose(alone[n], weights_of(message), atol=1e-6))
        else:
            assert rows == list(range(batch))
    assert len(pictures) > 1 if GRAPH else not pictures


@pytest.mark.parametrize("backward", [True, False])
def test_where_nothing_tells_which_rows_are_one_pictures_all_are_taken_and_it_is_said(backward, caplog):
    model, x = Axial(FOLDS["columns"], "explicit"), torch.randn(4, 6, 10, WIDTH)
    with torch.set_grad_enabled(backward):
        found = messages(model, x, steps=2, backward=backward, evaluation=True)
    assert [len(samples_of(header, 40)) for _, header, _ in found] == [10 if backward and GRAPH else 40] * 2
    assert [("has 40 rows in its batch, where the model has 4 samples" in text) for text in caplog.messages] \
        == [True] * (not (backward and GRAPH))


class Permuted(torch.autograd.Function):
    """Called as an operation of torch."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient


def test_a_function_in_python_does_not_tell_which_rows_are_one_pictures(caplog):
    model = Axial(lambda x: Permuted.apply(FOLDS["columns"](Permuted.apply(x))), "explicit")
    message, = messages(model, torch.randn(4, 6, 10, WIDTH))
    assert samples_of(message[1], 40) == list(range(40)) and "has 40 rows in its batch" in caplog.text


def test_rows_of_one_picture_need_no_graph(caplog):
    with torch.no_grad():
        message, = messages(Axial(FOLDS["columns"], "explicit"), torch.randn(1, 6, 10, WIDTH), backward=False, evaluation=True)
    assert len(weights_of(message)) == 10 and not caplog.messages


class Towers(torch.nn.Module):
    """Of texts and of pictures, with one sample of one for several of the other."""

    def __init__(self):
        super().__init__()
        self.embed, self.texts, self.pictures = torch.nn.Embedding(50, WIDTH), *(MHA(WIDTH, HEADS, batch_first=True) for _ in range(2))

    def forward(self, texts, pictures):
        y = self.embed(texts)
        return self.texts(y, y, y)[0].sum() + self.pictures(pictures, pictures, pictures)[0].sum()


def test_two_towers_have_a_sample_of_their_own_batch_each():
    texts, pictures = torch.randint(50, (12, 5)), torch.rand(4, 7, WIDTH)
    found = messages(Towers(), (texts, pictures), steps=8)
    batches = {7: 4, 5: 12}
    rows = {keys: [samples_of(m[1], batch)[0] for m in found if weights_of(m).shape[3] == keys] for keys, batch in batches.items()}
    assert all(len(weights_of(m)) == 1 for m in found) and all(len(set(some)) > 1 for some in rows.values())


class Beams(torch.nn.Module):
    """A decoder with three beams for each sample of its encoder."""

    def __init__(self):
        super().__init__()
        self.embed, self.encoder, self.decoder, self.decoder_cross_attn = (torch.nn.Embedding(50, WIDTH), *(
            MHA(WIDTH, HEADS, batch_first=True) for _ in range(3)))

    def forward(self, input_ids, decoder_input_ids):
        x, y = self.embed(input_ids), self.embed(decoder_input_ids)
        x = self.encoder(x, x, x, need_weights=False)[0].repeat_interleave(3, 0)
        y = self.decoder(y, y, y, need_weights=False)[0]
        return self.decoder_cross_attn(y, x, x, need_weights=False)[0]


def test_texts_and_tokens_are_those_of_the_sample():
    """Of a cross-attention whose keys are repeated for each beam nobody knows which text they are."""
    ids, beams = torch.arange(20).view(4, 5), torch.arange(36).view(12, 3) + 10
    names = {"encoder": ("encoder", 0, "self"), "decoder": ("decoder", 0, "self"), "decoder_cross_attn": ("decoder", 0, "cross")}
    found = messages(Beams(), (ids, beams), steps=6, layers=names, labels=lambda numbers: [f"t{n}" for n in numbers], tokens=True)
    for message in found:
        header, given = message[1], {"encoder": ids, "decoder": beams}[message[1]["stack"]]
        row, = samples_of(header, len(given))
        if header["site"] == "cross":
            assert "labels" not in header and header["q_labels"] == [f"t{n}" for n in beams[row].tolist()]
        else:
            assert header["labels"] == [f"t{n}" for n in given[row].tolist()]
            assert tensors_of(message)["tokens"].tolist() == [given[row].tolist()]
    assert len(found) == 18 and len({m[1].get("sample", 0) for m in found}) > 2


def test_microbatches_have_others_and_a_ragged_last_one_is_drawn_from_what_it_has():
    batches = [torch.rand(size, 5, WIDTH) for size in (8, 8, 8, 3)]
    found = [message[1] for message in messages(Halves(), batches, steps=4)]
    rows = {(h["layer"], h["step"], h.get("microbatch", 0)): samples_of(h, 3 if h.get("microbatch") == 3 else 8)[0] for h in found}
    assert len(rows) == 32 and all(rows[0, step, n] == rows[1, step, n] for step in range(4) for n in range(4))
    assert any(len({rows[0, step, n] for n in range(3)}) > 1 for step in range(4))


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=needs_step_hooks)])
def test_a_forward_that_is_repeated_has_the_gradient_of_its_sample(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Repeated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Axial(lambda x: x.flatten(1, 2), "explicit")

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model, x = Repeated(), torch.randn(8, 6, 4, WIDTH, requires_grad=True)
    whole = messages(model, x, topics=(b"",), gradients=True)[0]
    for message in messages(model, x, steps=4, gradients=True):
        row, = samples_of(message[1], 8)
        assert tensors_of(message)["grad"].shape[0] == 1
        np.testing.assert_allclose(tensors_of(message)["grad"][0], tensors_of(whole)["grad"][row], atol=1e-6)


def test_what_is_published_by_hand_is_drawn_but_for_what_has_labels():
    daemon, q = FakeDaemon(topics=ONE), torch.rand(8, HEADS, 5, WIDTH)
    publisher = daemon.publisher()
    watch = attnd.watch(Halves(), job="job", publisher=publisher, steps="manual")
    for _ in range(12):
        assert attnd.publish_qk(q, q, layer=7) and attnd.publish_qk(q, q, layer=8, labels=list("abcde"))
        watch.step()
    found = daemon.captured(watch)
    rows = {layer: [samples_of(m[1], 8)[0] for m in found if m[1]["layer"] == layer] for layer in (7, 8)}
    assert len(set(rows[7])) > 3 and rows[8] == [0] * 12
    for message in found:
        np.testing.assert_array_equal(tensors_of(message)["q"][0], q[samples_of(message[1], 8)[0]].numpy())
