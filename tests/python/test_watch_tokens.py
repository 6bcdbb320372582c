# SPDX-License-Identifier: MIT
"""The tokens that a watched model reads, and their texts."""
import threading

import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.model import tokens as tokens_module
from conftest import FakeDaemon, samples_of
from watching import MHA, D, H, Model, next_tensors, tensors_of

TOKENS, OTHERS = torch.randint(50, (2, 5)), torch.randint(50, (2, 5))
MASK = torch.ones(2, 5, dtype=torch.int64)


class Embedded(torch.nn.Module):
    """Tokens through one attention of each stack; more arguments than it needs."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, D)
        self.encoder, self.decoder = MHA(D, H, batch_first=True), MHA(D, H, batch_first=True)

    def forward(self, attention_mask, input_ids, decoder_input_ids=None):
        x = self.embed(input_ids)
        y = self.embed(input_ids if decoder_input_ids is None else decoder_input_ids)
        return self.encoder(x, x, x, need_weights=False)[0] + self.decoder(y, y, y, need_weights=False)[0]


def tokens_in(message):
    """As lists; None: there are none."""
    found = tensors_of(message).get("tokens")
    return None if found is None else found.tolist()


@pytest.mark.parametrize("own_decoder", [True, False])
def test_tokens_are_those_that_the_stack_reads(daemon, watched, own_decoder):
    model = Embedded()
    with watched(model, tokens=True):
        model(MASK, TOKENS, *[OTHERS] * own_decoder)
    encoder, decoder = (tokens_in(next_tensors(daemon)) for _ in range(2))
    assert encoder == TOKENS.tolist()
    assert decoder == (OTHERS.tolist() if own_decoder else None), "what the encoder has read"


@pytest.mark.parametrize("options, topic", [({"exclude": "encoder"}, b""), ({}, b"tensor/job/decoder/")])
def test_what_an_encoder_reads_that_is_not_captured_is_not_the_decoders(options, topic):
    fake, model = FakeDaemon(topics=(topic,)), Embedded()
    with fake.publisher() as publisher:
        with attnd.watch(model, job="job", publisher=publisher, tokens=True, labels=WORDS, steps="manual", samples=0,
                         **options):
            for _ in range(2):
                model(MASK, TOKENS)
        messages = [next_tensors(fake) for _ in range(2)]
    assert [(m[1]["stack"], tokens_in(m), "labels" in m[1]) for m in messages] == 2 * [("decoder", None, False)]


class Captions(Embedded):
    """Whose encoder reads something else."""

    def forward(self, image, input_ids):
        y = self.embed(input_ids)
        return self.encoder(image, image, image)[0].mean() + self.decoder(y, y, y)[0]


class OfBatch(Embedded):
    def forward(self, batch):
        return super().forward(**batch)


@pytest.mark.parametrize("model, args, kwargs, options", [
    (Captions(), (torch.rand(2, 9, D), TOKENS), {}, {"exclude": "encoder"}),
    (OfBatch(), ({"attention_mask": MASK, "input_ids": TOKENS},), {}, {}),
    (Embedded(), (MASK,), {"input_ids": TOKENS}, {})],
    ids=["an encoder of something else", "in a dict", "by name after by place"])
def test_tokens_are_found(daemon, watched, model, args, kwargs, options):
    with watched(model, tokens=True, samples=0, **options):
        model(*args, **kwargs)
    assert tokens_in(next_tensors(daemon)) == TOKENS.tolist()


def test_tokens_are_copied_once_and_only_when_they_travel(watched, monkeypatch):
    copied = []

    class Counted(tokens_module.HostCopy):
        def __init__(self, *args):
            copied.append(args[0])
            super().__init__(*args)

    monkeypatch.setattr(tokens_module, "HostCopy", Counted)
    model = Embedded()
    it = watched(model, tokens=True, every=2, steps="manual")
    counts = []
    for _ in range(3):
        model(MASK, TOKENS)
        model.eval()
        with torch.no_grad():
            model(MASK, TOKENS)  # a validation
        model.train()
        counts.append(len(copied))
        it.step()
    assert counts == [1, 1, 2] and not model._forward_pre_hooks


@pytest.mark.parametrize("given, over_ipc, travel", [(None, True, True), (None, False, False), (True, False, True),
                                                     (False, True, False)])
def test_tokens_travel_by_default_through_a_unix_socket_only(tmp_path, given, over_ipc, travel):
    fake, model = FakeDaemon(f"ipc://{tmp_path}/ingest" if over_ipc else "tcp://127.0.0.1:*"), Embedded()
    it = attnd.watch(model, job="job", publisher=fake.publisher(), tokens=given, samples=1)
    model(MASK, TOKENS)
    sent = fake.captured(it)
    encoder, decoder = map(tokens_in, sent)
    assert encoder == (TOKENS[samples_of(sent[0][1], len(TOKENS))].tolist() if travel else None) and decoder is None


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("name", ["attention_mask", "position_ids", "labels", "token_type_ids", "cache_position", "pos",
                                  "targets", "segment_ids", "seq_lens"])
def test_other_integers_are_never_taken_for_tokens(daemon, watched, name, by_name):
    scope = {}
    exec(f"def forward(self, {name}, x=None):\n    return self.attn(x, x, x)", scope)
    model = type("Given", (Model,), {"forward": scope["forward"]})()
    other, x = torch.arange(10).view(2, 5), torch.rand(2, 5, D)
    with watched(model, tokens=True):
        model(**{name: other, "x": x}) if by_name else model(other, x)
        model(**{name: {"input_ids": other}, "x": x})
    assert [tokens_in(next_tensors(daemon)) is None for _ in range(2)] == [True, False]


@pytest.mark.parametrize("tokens", [torch.ones(3, 5).long(), torch.ones(2, 4).long(), torch.ones(2, 5).long() << 40,
                                    torch.ones(2).long(), torch.ones(2, 5, 1).long()],
                         ids=["samples", "length", "large", "classes", "deep"])
def test_integers_that_fit_no_attention_cost_no_message(daemon, watched, tokens):
    class Given(Model):
        def forward(self, tokens, x):
            return self.attn(x, x, x)

    model = Given()
    with watched(model, tokens=True, samples=0) as it:
        model(tokens, torch.rand(2, 5, D))
    assert tokens_in(next_tensors(daemon)) is None
    assert it.stats()["dropped"] == 0


# --------------------------------------------------------------------------------------------- labels

WORDS = [f"word{i}" for i in range(40)]  # the model has 50 tokens


def words(numbers):
    return [WORDS[i] if i < 40 else str(i) for i in numbers]


class Crossing(Embedded):
    """With an attention of the decoder to what the encoder read."""

    def __init__(self):
        super().__init__()
        self.decoder_cross_attn = MHA(D, H, batch_first=True)

    def forward(self, input_ids, decoder_input_ids):
        x, y = self.embed(input_ids), self.embed(decoder_input_ids)
        x = self.encoder(x, x, x, need_weights=False)[0]
        y = self.decoder(y, y, y, need_weights=False)[0]
        return self.decoder_cross_attn(y, x, x, need_weights=False)[0]


@pytest.mark.parametrize("given", [words, WORDS, tuple(WORDS), dict(enumerate(WORDS))])
def test_labels_are_the_texts_of_the_first_samples_keys(daemon, watched, given):
    model, others = Crossing(), torch.randint(50, (2, 7))
    names = {"encoder": ("encoder", 0, "self"), "decoder": ("decoder", 0, "self"), "decoder_cross_attn": ("decoder", 0, "cross")}
    with watched(model, labels=given, layers=names):
        model(TOKENS, others)
    messages = [next_tensors(daemon) for _ in range(3)]
    assert {(header["stack"], header["site"]): header["labels"] for _, header, _ in messages} == {
        ("encoder", "self"): words(TOKENS[0].tolist()), ("decoder", "self"): words(others[0].tolist()),
        ("decoder", "cross"): words(TOKENS[0].tolist())}
    assert not any(map(tokens_in, messages))


def test_labels_and_tokens_travel_together(daemon, watched):
    model = Embedded()
    with watched(model, tokens=True, labels=WORDS, samples=0):
        model(MASK, TOKENS)
    message = next_tensors(daemon)
    assert tokens_in(message) == TOKENS.tolist() and message[1]["labels"] == words(TOKENS[0].tolist())


def test_labels_are_asked_once_for_a_captured_forward_and_never_for_others(daemon, watched):
    asked = []

    def texts(numbers):
        asked.append(threading.current_thread() is threading.main_thread())
        return words(numbers)

    model = Embedded()
    it = watched(model, labels=texts, every=2, steps="manual")
    for step in range(3):
        model(MASK, TOKENS)
        it.step()
        assert model._forward_pre_hooks == {} or step % 2
    for _ in range(2):
        assert next_tensors(daemon)[1]["labels"] == words(TOKENS[0].tolist())
        assert "labels" not in next_tensors(daemon)[1]  # of the decoder
    assert asked == [False, False]


@pytest.mark.parametrize("broken", [lambda numbers: 1 / 0, lambda numbers: ["too", "few"], lambda numbers: None,
                                    lambda numbers: [numbers[9]]])
def test_labels_that_fail_cost_the_labels_alone(daemon, watched, broken, caplog):
    model = Embedded()
    it = watched(model, labels=broken, steps="manual")
    for _ in range(2):
        model(MASK, TOKENS)
        it.step()
    for _ in range(4):
        assert "labels" not in next_tensors(daemon)[1]
    assert it.stats()["dropped"] == 0
    assert sum("could not be labelled" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("given, sent", [(["\ud800", b"a\xff", 7, "naïve", ""], ["?", "a\ufffd", "7", "naïve", ""]),
                                         (["x" * 20000] * 5, None)], ids=["anything", "more than a header holds"])
def test_labels_are_sent_as_they_can_be(daemon, watched, given, sent):
    model = Embedded()
    with watched(model, labels=lambda numbers: given):
        model(MASK, TOKENS)
    assert next_tensors(daemon)[1].get("labels") == sent


def test_keys_that_are_not_the_tokens_have_no_labels(daemon, watched):
    class Longer(Embedded):
        def forward(self, input_ids):
            x = torch.cat([self.embed(input_ids)] * 2, 1)
            return self.decoder(x, x, x, need_weights=False)[0]

    with watched(Longer(), labels=WORDS) as it:
        it._root(torch.randint(50, (1, 5)))
    assert "labels" not in next_tensors(daemon)[1]


@pytest.mark.parametrize("given", ["text", b"text", 7, {1, 2}])
def test_labels_that_are_none_are_refused_at_once(given):
    with pytest.raises(ValueError, match="labels: must be a function"):
        attnd.watch(Embedded(), job="job", labels=given)
