# SPDX-License-Identifier: MIT
"""Publishing by hand from within a model, and the probe batch."""
import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.integrations.session import Session
from conftest import FakeDaemon, free_endpoint, samples_of

T, D, H = 6, 8, 2


class AttentionByHand(torch.nn.Module):
    """Attention of its own making, which no spy sees (it is no softmax of torch's)."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(D, 2 * D)

    def forward(self, x):
        q, k = self.project(x).view(*x.shape[:2], 2, H, D // H).permute(2, 0, 3, 1, 4)
        weights = torch.exp(q @ k.transpose(2, 3))
        weights = weights / weights.sum(-1, keepdim=True)
        self.queued = attnd.publish_attention(weights), attnd.publish_qk(q, k, layer=7, scale=1.0)
        return x + weights.mean()


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(AttentionByHand() for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_without_a_watch_nothing_happens():
    model = Model()
    model(torch.rand(1, T, D))
    assert model.layers[0].queued == (False, False)


def test_by_hand_goes_to_the_watch_with_the_name_of_the_module(daemon, publisher, caplog):
    model = Model()
    with attnd.watch(model, job="job", publisher=publisher, every=2, steps="manual", first_epoch=1) as it:
        for step in range(3):
            model(torch.rand(1, T, D))
            assert model.layers[0].queued == (step != 1, step != 1)
            it.step()
    publisher.close()
    got = [(h["type"], h["layer"], h["epoch"], h["step"]) for _, h, _ in daemon.tensors_until_bye()]
    assert got == [(kind, layer, 1, step) for step in (0, 2) for index in (0, 1)
                   for kind, layer in (("attention", index), ("qk", 7))]
    assert not caplog.records  # nothing that was told is called unseen


def test_by_hand_sends_as_many_samples_as_the_plan_says(daemon, publisher):
    q, weights = torch.rand(3, H, T, D), torch.full((3, H, T, T), 1 / T)
    with attnd.watch(Model(), job="job", publisher=publisher, samples=2):
        assert attnd.publish_qk(q, q, q, layer=0, k_len=[T, 2, 1], tokens=np.zeros((3, T), np.int64), dout=q,
                                wo_r=torch.ones(H, D, D), x_norm=torch.ones(3, T))
        assert attnd.publish_attention(weights, layer=0)
    publisher.close()
    got = [h for _, h, _ in daemon.tensors_until_bye()]
    assert [t["shape"][0] for h in got for t in h["tensors"]] == [2] * 8
    assert got[0]["k_len"] == [[T, 2, 1][n] for n in samples_of(got[0], 3)]


@pytest.mark.parametrize("given", [True, None])
def test_by_hand_has_the_tokens_of_the_input_as_what_is_captured(daemon, publisher, given):
    class OfTokens(Model):
        def forward(self, tokens):
            return super().forward(torch.nn.functional.one_hot(tokens, D).float())

    tokens = torch.randint(D, (2, T))
    with attnd.watch(OfTokens(), job="job", publisher=publisher, samples=1, tokens=given) as it:
        it._root(tokens)
        attnd.publish_qk(torch.rand(2, H, T, D), torch.rand(2, H, T, D), layer=9)  # of no forward
    publisher.close()
    messages = daemon.tensors_until_bye()
    sent = [[frame for t, frame in zip(h["tensors"], frames) if t["name"] == "tokens"] for _, h, frames in messages]
    expected = [[tokens[samples_of(h, 2)].numpy().astype("<i4").tobytes()] if given else [] for _, h, _ in messages[:4]]
    assert sent == [*expected, []]


def test_what_an_encoder_by_hand_reads_that_is_not_wanted_is_not_the_decoders():
    class TwoStacks(torch.nn.Module):
        def forward(self, tokens):
            q = torch.rand(*tokens.shape[:1], H, tokens.shape[1], D)
            self.queued = [attnd.publish_qk(q, q, stack=stack, layer=0) for stack in ("encoder", "decoder")]

    fake, model = FakeDaemon(topics=(b"tensor/job/decoder/",)), TwoStacks()
    with attnd.Publisher("job", fake.endpoint) as publisher:
        fake.attach(publisher)
        with attnd.watch(model, job="job", publisher=publisher, tokens=True):
            model(torch.randint(50, (2, T)))
        assert model.queued == [False, True]
        assert [t["name"] for t in fake.next()[1]["tensors"]] == ["q", "k"]


class Checkpointed(torch.nn.Module):
    """One attention that is run again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.attend, x, use_reentrant=False)

    def attend(self, x):
        attnd.publish_qk(x * self.scale, x, layer=0)
        return torch.sin(torch.sin(x * self.scale))


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch 1.13 does not tell of repeated forwards")
def test_by_hand_repeated_forwards_and_validations_do_not_count(daemon, publisher):
    model, x = Checkpointed(), torch.rand(1, H, T, D)
    with attnd.watch(model, job="job", publisher=publisher, steps="manual"):
        model(x).sum().backward()
        with torch.no_grad():
            model.eval()(x)
        model.train()(x).sum().backward()
    publisher.close()
    assert len(daemon.tensors_until_bye()) == 2


def test_bad_arguments_by_hand_do_not_reach_the_training(daemon, publisher, caplog):
    with attnd.watch(Model(), job="job", publisher=publisher):
        for _ in range(2):
            assert attnd.publish_attention(torch.rand(3), layer=0) is False
    assert len(caplog.records) == 1 and "weights" in caplog.text


class Lookup(torch.nn.Module):
    """Tokens through one attention, with dropout."""
    forwards = 0

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, D)
        self.layer = torch.nn.TransformerEncoderLayer(D, H, 16, 0.5, batch_first=True)

    def forward(self, tokens):
        self.forwards += 1
        return self.layer(self.embed(tokens))


@pytest.fixture
def probing(daemon, publisher):
    """probing(model, ...): a watch, for as long as it lasts, whose probe the daemon knows."""
    @contextlib.contextmanager
    def watch(model, **options):
        with attnd.watch(model, job="job", endpoint=daemon.endpoint, publisher=publisher,
                         **{"steps": "manual", **options}) as it:
            daemon.attach(it._probe._watch.publisher)
            yield it
        publisher.close()

    return watch


def losses(model, watching):
    torch.manual_seed(1)
    model.load_state_dict(STATE)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    result = []
    with watching as it:
        for _ in range(4):
            loss = model(torch.randint(50, (2, T))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            it.step()
            result.append(loss.item())
    return result


STATE = Lookup().state_dict()


def test_repeated_tokens_come_twice():
    tokens = attnd.repeated_tokens(50, 5, batch=3, seed=2)
    assert tokens.shape == (3, 10) and (tokens[:, :5] == tokens[:, 5:]).all() and tokens.max() < 50
    assert (tokens != attnd.repeated_tokens(50, 5, batch=3, seed=3)).any()


def test_a_probe_is_a_job_of_its_own_and_leaves_the_training_alone(daemon, probing):
    model, tokens = Lookup(), attnd.repeated_tokens(50, 4)
    plain = losses(model, attnd.watch(model, job="other", endpoint="tcp://127.0.0.1:1", wait=0, steps="manual"))
    assert losses(model, probing(model, probe=tokens, probe_every=2, tokens=True)) == plain
    assert model.training and model.layer.training
    probes = [(h, dict(zip((t["name"] for t in h["tensors"]), frames)))
              for topic, h, frames in until_byes(daemon, 2) if topic.startswith("tensor/job.probe/")]
    assert [h["step"] for h, _ in probes] == [2, 4]
    assert (np.frombuffer(probes[0][1]["tokens"], np.int32) == tokens[0].numpy()).all()
    assert probes[0][1]["q" if "q" in probes[0][1] else "weights"] != b""


def test_a_probe_may_take_as_long_for_its_end_as_the_training():
    with attnd.Publisher("job", "tcp://127.0.0.1:1", linger=7.5) as publisher, \
            attnd.watch(Lookup(), job="job", endpoint="tcp://127.0.0.1:1", wait=0, publisher=publisher,
                        probe=attnd.repeated_tokens(50, 4)) as it:
        assert it._probe._watch.publisher.linger == 7.5


def until_byes(daemon, count):
    found = []
    while sum(h.get("event") == "bye" for _, h, _ in found) < count:
        found.append(daemon.next())
    return found


def test_a_probe_that_fails_does_not_reach_the_training(probing, caplog):
    model = Lookup()
    with probing(model, probe=torch.rand(1, T), probe_every=1) as it:
        model(torch.randint(50, (1, T)))
        it.step()
        it.step()
    assert "probe" in caplog.text and model.training


# ----------------------------------------------------------------------------------- probe="induction"

class Placed(Lookup):
    """With places, whose table comes first and is the larger one."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.place, self.embed = torch.nn.Embedding(300, D), torch.nn.Embedding(50, D)
        self.layer = torch.nn.TransformerEncoderLayer(D, H, 16, 0.5, batch_first=True)

    def forward(self, input_ids, attention_mask=None):
        assert input_ids.max() < 50, "an index that is none would end the training"
        return self.layer(self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1])[None]))


class OfDict(Placed):
    def forward(self, batch):
        return super().forward(batch["input_ids"])


class Padded(Placed):
    def __init__(self):
        super().__init__()
        self.embed.padding_idx = 7


class Said(Placed):
    """As models of transformers say it."""

    class config:
        max_position_embeddings, vocab_size, pad_token_id = 10, 40, None

    def get_input_embeddings(self):
        return self.embed


def probed_tokens(daemon, probing, model, call, **options):
    """Trains three steps with probe="induction"; the tokens of the job's messages (None: none), and of its probe's."""
    with probing(model, probe="induction", probe_every=1, **options) as it:
        for _ in range(3):
            call(model)
            it.step()
    found = {"job": [], "job.probe": []}
    for topic, h, frames in until_byes(daemon, 2):
        if h["type"] != "event":
            tensors = dict(zip((t["name"] for t in h["tensors"]), frames))
            found[topic.split("/")[1]].append(
                np.frombuffer(tensors["tokens"], np.int32) if "tokens" in tensors else None)
    return found["job"], found["job.probe"]


def repeated(vocabulary, length):
    return attnd.repeated_tokens(vocabulary, (length + 1) // 2)[0, :length].tolist()


@pytest.mark.parametrize("make, length, call", [
    (Lookup, 6, lambda model, tokens: model(tokens)),
    (Placed, 7, lambda model, tokens: model(tokens, attention_mask=torch.ones_like(tokens))),
    (Placed, 200, lambda model, tokens: model(input_ids=tokens)),
    (OfDict, 9, lambda model, tokens: model({"attention_mask": torch.ones_like(tokens), "input_ids": tokens})),
    (Said, 9, lambda model, tokens: model(tokens % 40)),
])
def test_the_induction_probe_fits_the_model(daemon, probing, make, length, call):
    tokens = torch.randint(50, (2, length))
    training, probes = probed_tokens(daemon, probing, make(), lambda model: call(model, tokens), tokens=False)
    assert training == [None] * 3 and len(probes) == 3
    assert all(numbers.tolist() == repeated(40 if make is Said else 50, min(length, 128)) for numbers in probes)


def test_the_induction_probe_has_no_padding(daemon, probing):
    tokens = torch.randint(50, (1, 128))
    _, probes = probed_tokens(daemon, probing, Padded(), lambda model: model(tokens))
    assert 7 in repeated(50, 128) and probes[0].tolist() == [8 if n == 7 else n for n in repeated(50, 128)]


@pytest.mark.parametrize("make, options, why", [
    (Model, {}, "Model has no torch.nn.Embedding that tokens are looked up in; probe=attnd.repeated_tokens"),
    (lambda: torch.nn.Sequential(torch.nn.Embedding(50, D), torch.nn.Transformer(D, H, 1, 1, 8)), {}, "an encoder and a decoder"),
    (Lookup, {"world": 2, "rank": 0, "run": bytes(16)}, "does not say, in get_input_embeddings"),
    (Lookup, {"probe": "repetition"}, "probe = 'repetition': must be inputs of the model, or 'induction'"),
])
def test_models_that_cannot_be_asked_for_induction_are_refused_at_once(make, options, why):
    with pytest.raises(ValueError, match=why):
        attnd.watch(make(), job="job", endpoint=free_endpoint(), wait=0, **{"probe": "induction", **options})


@pytest.mark.parametrize("options", [{}, {"world": 2, "rank": 0, "run": bytes(16)}])
def test_a_trainer_gives_up_the_induction_probe_alone(daemon, caplog, options):
    model = Model() if not options else Lookup()
    session = Session("job", {"endpoint": daemon.endpoint, "wait": 0, "probe": "induction", **options})
    session.begin(model, 7, 1)
    daemon.attach(session.watch.publisher)
    session.reached(8)
    model(torch.rand(1, T, D) if not options else torch.randint(50, (1, T)))
    session.end()
    assert daemon.tensors_until_bye()[0][1]["step"] == 8
    assert [("probe='induction'" in record.message, "everything else is watched" in record.message)
            for record in caplog.records] == [(True, True)]


def test_ranks_run_what_the_model_says_without_a_captured_step():
    model, given = Said(), []
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, steps="manual", probe="induction", world=2,
                     rank=1, run=bytes(16), probe_every=1) as it:
        model.register_forward_pre_hook(lambda module, args: given.append(args[0].tolist()))
        it.step()
    assert given == [[repeated(40, 10)]]


class Unindexed(Lookup):
    def forward(self, tokens):
        return self.layer(self.embed(tokens * 0 + 3))


class OfFloats(Lookup):
    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("make, given, why", [
    (Unindexed, torch.randint(4, 50, (1, T)), "no torch.nn.Embedding of the model is indexed by its tokens"),
    (OfFloats, torch.rand(1, T, D), "no captured step has shown yet that the model is given tokens, 4 or more"),
    (Lookup, torch.randint(50, (1, 3)), "no captured step has shown yet that the model is given tokens, 4 or more"),
])
def test_why_the_induction_probe_is_not_run_is_told_once(daemon, probing, caplog, make, given, why):
    training, probes = probed_tokens(daemon, probing, make(), lambda model: [model(given) for _ in range(3)])
    assert len(training) == 9 and probes == []
    assert [why in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("world, forwards", [(1, 0), (2, 3)])
def test_a_probe_that_nobody_listens_to_is_run_only_as_one_of_several_ranks(world, forwards):
    model, tokens = Lookup(), torch.randint(50, (1, T))
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, steps="manual", probe=tokens, probe_every=2,
                     world=world, rank=0, run=bytes(16)) as it:
        for _ in range(6):
            it.step()
    assert model.forwards == forwards


def test_a_probe_is_no_forward_of_the_training(daemon, probing):
    model, tokens = Lookup().eval(), torch.randint(50, (1, T))
    with probing(model, steps="auto", evaluation=True, probe=tokens, probe_every=1) as it:
        with torch.no_grad():
            for _ in range(3):
                model(tokens)
        assert (model.forwards, it.current_step) == (6, 3)
        it.probe(tokens)
        assert it.current_step == 3
    topics = [topic for topic, h, _ in until_byes(daemon, 2) if h["type"] != "event"]
    assert [topics.count(f"tensor/{job}/encoder/0/self/") for job in ("job", "job.probe")] == [4, 3]
