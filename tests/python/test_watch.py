# SPDX-License-Identifier: MIT
"""watch captures what the attention layers did, and changes nothing."""
import copy
import io
import math
import os
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd import capture
from conftest import FakeDaemon, free_endpoint, identity_holds

MHA = torch.nn.MultiheadAttention
D, H = 8, 2
DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16}


class Model(torch.nn.Module):
    """One attention; forward passes everything on."""

    def __init__(self, **options):
        super().__init__()
        self.attn = MHA(D, H, **{"batch_first": True, **options})

    def forward(self, *args, **kwargs):
        return self.attn(*args, **kwargs)


@pytest.fixture
def watched(daemon):
    """watch() on the daemon that plays along; closed at the end."""
    open_watches = []

    def start(model, **options):
        publisher = attnd.Publisher("job", daemon.endpoint)
        daemon.attach(publisher)
        it = attnd.watch(model, job="job", publisher=publisher, **options)
        assert daemon.next()[1]["event"] == "hello"
        open_watches.append((it, publisher))
        return it

    yield start
    for it, publisher in open_watches:
        it.close()
        publisher.close()


def weights_of(message):
    _, header, frames = message
    described = header["tensors"][0]
    return np.frombuffer(frames[0], DTYPES[described["dtype"]]).reshape(described["shape"])


def mask_of(message):
    _, header, frames = message
    return np.frombuffer(frames[1], np.uint8).reshape(header["tensors"][1]["shape"]) if len(frames) > 1 else None


def same(a, b):
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6)


# -------------------------------------------------------------------- nothing changes for the caller

@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False},
                                   {"need_weights": False, "average_attn_weights": False}])
def test_the_caller_gets_what_it_asked_for(daemon, watched, batch_first, batched, asked):
    torch.manual_seed(0)
    model = Model(batch_first=batch_first)
    x = torch.rand(*((3, 5) if batched else (5,)), D)
    expected, expected_weights = model(x, x, x, **asked)
    with watched(model):
        output, weights = model(x, x, x, **asked)
    assert same(output, expected) and same(weights, expected_weights)
    message = daemon.next("attention")
    truth = model.attn(x, x, x, average_attn_weights=False)[1]
    truth = truth if batched else truth[None]
    np.testing.assert_allclose(weights_of(message), truth.detach().numpy(), atol=1e-6)


def test_positional_arguments_and_gradients_are_the_same(daemon, watched):
    torch.manual_seed(0)
    model = Model()
    x = torch.rand(3, 5, D)

    def gradients():
        model.zero_grad()
        model(x, x, x, None, False)[0].square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    with watched(model):
        got = gradients()
    daemon.next("attention")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected))


def test_dropout_draws_the_same_random_numbers(daemon, watched):
    model = Model(dropout=0.5)
    x = torch.rand(3, 5, D)
    torch.manual_seed(1)
    expected = model(x, x, x, need_weights=False)[0]
    with watched(model):
        torch.manual_seed(1)
        assert same(model(x, x, x, need_weights=False)[0], expected)
    assert daemon.next("attention")[1]["dropout"] is True


def test_forward_is_restored_exactly(watched):
    model = Model()
    own = model.attn.forward
    it = watched(model)
    assert "forward" in model.attn.__dict__ and "forward" in model.__dict__
    it.close()
    it.close()
    assert "forward" not in model.attn.__dict__ and "forward" not in model.__dict__
    assert model.attn.forward == own


def test_a_forward_that_was_already_wrapped_is_kept(daemon, watched):
    model = Model()
    original, calls = model.attn.forward, []

    def wrapped(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                average_attn_weights=True):
        calls.append(1)
        return original(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)

    model.attn.forward = wrapped
    x = torch.rand(3, 5, D)
    with watched(model):
        model(x, x, x)
    daemon.next("attention")
    assert model.attn.__dict__["forward"] is wrapped and calls == [1]


def test_somebody_who_wrapped_us_keeps_working_after_close(watched):
    model = Model()
    it = watched(model)
    ours = model.attn.forward
    model.attn.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    it.close()
    x = torch.rand(3, 5, D)
    assert same(model(x, x, x)[0], MHA.forward(model.attn, x, x, x)[0])
    assert it.stats()["published"] == 1  # hello


def test_copies_and_pickles_of_a_watched_model_are_free_of_it(watched):
    model = Model().eval()
    x = torch.rand(3, 5, D)
    with watched(model):
        copied = copy.deepcopy(model)
        pickled = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
    for other in (copied, pickled):
        assert same(other(x, x, x)[0], model(x, x, x)[0])
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(x, x, x)[0].any() and model(x, x, x)[0].any()
        assert not other.attn.forward(x, x, x)[0].any()


def test_state_dict_and_modules_do_not_change(watched):
    model = Model()
    keys, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    with watched(model):
        assert list(model.state_dict()) == keys and [name for name, _ in model.named_modules()] == modules


# ------------------------------------------------------------------------- when nothing is captured

class Recorder:
    """Stands in for MHA.forward and keeps the arguments of every call."""

    def __init__(self, module):
        self.calls, self.original = [], module.forward

    def __call__(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                 average_attn_weights=True):
        self.calls.append((need_weights, average_attn_weights))
        return self.original(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)


def test_without_a_subscriber_the_original_call_is_untouched():
    model = Model()
    seen = []
    original = model.attn.forward
    x = torch.rand(3, 5, D)

    def spy(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
            **rest):
        seen.append((query is x, need_weights))
        return original(query, key, value, need_weights=need_weights)

    model.attn.forward = spy
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0) as it:
        model(x, x, x, need_weights=False)
        assert seen == [(True, False)]
        stats = it.stats()
        assert stats["sent"] == 0 and identity_holds(stats)


@pytest.mark.parametrize("train,every,captured", [(True, 1, [0, 1, 2, 3, 4, 5]), (True, 3, [0, 3]), (False, 1, [])])
def test_only_sampled_training_steps_are_captured(daemon, watched, train, every, captured):
    model = Model().train(train)
    model.attn.forward = recorder = Recorder(model.attn)
    x = torch.rand(3, 5, D)
    it = watched(model, every=every)
    for _ in range(6):
        model(x, x, x, need_weights=False)
    it.close()
    it.publisher.close()
    assert recorder.calls == [(True, False) if step in captured else (False, True) for step in range(6)]
    assert [h["step"] for _, h, _ in daemon.until_bye() if h["type"] == "attention"] == captured


def test_a_stalled_daemon_spares_the_capture_and_counts(watched):
    model = Model()
    model.attn.forward = recorder = Recorder(model.attn)
    it = watched(model)
    it.publisher._sender.stalled = True
    x = torch.rand(3, 5, D)
    model(x, x, x, need_weights=False)
    assert recorder.calls == [(False, True)] and it.stats()["dropped"] == 1


def test_explicit_steps_and_epochs(daemon, watched):
    model = Model()
    x = torch.rand(3, 5, D)
    it = watched(model)
    for _ in range(2):  # epochs
        for _ in range(2):  # steps
            for _ in range(2):  # microbatches
                model(x, x, x)
            it.step()
        it.epoch_end()
    it.close()
    it.publisher.close()
    got = [(h["epoch"], h["step"], h.get("event", "")) for _, h, _ in daemon.until_bye()]
    # Until the first step() nobody knows that there are microbatches: the second one counted as a step.
    assert got == [(0, 0, ""), (0, 1, ""), (0, 1, ""), (0, 1, ""), (0, 2, "epoch_end"),
                   (1, 2, ""), (1, 2, ""), (1, 3, ""), (1, 3, ""), (1, 4, "epoch_end"), (1, 4, "bye")]


def test_activation_checkpointing_publishes_once(daemon, watched):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Model):
        def forward(self, x):
            return checkpoint(lambda y: self.attn(y, y, y, need_weights=False)[0], x, use_reentrant=True)

    model = Checkpointed()
    it = watched(model)
    model(torch.rand(3, 5, D, requires_grad=True)).sum().backward()
    it.close()
    it.publisher.close()
    assert [h["type"] for _, h, _ in daemon.until_bye()] == ["attention", "event"]


# ------------------------------------------------------------------------- masks, lengths and flags

CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.arange(5)[None, :] >= torch.tensor([5, 3, 1])[:, None]


def captured_call(daemon, watched, model, *args, **kwargs):
    with watched(model):
        model(*args, **kwargs)
    return daemon.next("attention")


def visible(message):
    """bool [B, Tq, Tk] by the wire's rules."""
    header = message[1]
    batch, _, queries, keys = header["tensors"][0]["shape"]
    i, j = np.ogrid[:queries, :keys]
    allowed = np.ones((batch, queries, keys), dtype=bool)
    if header.get("causal"):
        allowed &= j <= i
    if header.get("k_len"):
        allowed &= j < np.array(header["k_len"])[:, None, None]
    mask = mask_of(message)
    return allowed if mask is None else allowed & (mask == 1)


@pytest.mark.parametrize("attn", [CAUSAL, torch.zeros(5, 5).masked_fill(CAUSAL, -math.inf), CAUSAL.repeat(3 * H, 1, 1)])
def test_a_causal_mask_sets_causal(daemon, watched, attn):
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=attn)
    assert message[1]["causal"] is True and mask_of(message) is None and "k_len" not in message[1]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_right_padding_sets_lengths(daemon, watched):
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=CAUSAL, key_padding_mask=PADDING)
    assert message[1]["causal"] is True and mask_of(message) is None
    assert message[1]["q_len"] == message[1]["k_len"] == [5, 3, 1]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


def test_cross_attention_has_key_lengths_only(daemon, watched):
    x, memory = torch.rand(3, 4, D), torch.rand(3, 5, D)
    with watched(Model(), layers={"attn": ("decoder", 2, "cross")}) as it:
        it._wrappers[0].module(x, memory, memory, key_padding_mask=PADDING)
    topic, header, _ = daemon.next("attention")
    assert topic == "tensor/job/decoder/2/cross/" and header["k_len"] == [5, 3, 1] and "q_len" not in header
    assert "causal" not in header and header["tensors"][0]["shape"] == [3, H, 4, 5]


@pytest.mark.parametrize("attn", ["2d", "3d", None])
@pytest.mark.parametrize("padding", ["left", "right", "holes", None])
def test_every_combination_of_masks_matches_the_weights(daemon, watched, attn, padding):
    """torch gives ignored keys a weight of exactly 0: what we say is visible is what has weight."""
    generator = torch.Generator().manual_seed(3)
    attn = {"2d": torch.rand(5, 5, generator=generator) < 0.4,
            "3d": (torch.rand(3, 1, 5, 5, generator=generator) < 0.4).repeat(1, H, 1, 1).view(-1, 5, 5),
            None: None}[attn]
    padding = {"left": PADDING.flip(1), "right": PADDING, "holes": torch.rand(3, 5, generator=generator) < 0.3,
               None: None}[padding]
    x = torch.rand(3, 5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=attn, key_padding_mask=padding)
    weights = weights_of(message)
    rows = np.isfinite(weights).all(axis=(1, 3))  # a row that sees nothing is NaN
    seen = visible(message)
    if padding is not None:  # a padded position asks nothing either
        rows &= ~padding.numpy()
        seen &= ~padding.numpy()[:, :, None]
    assert ((weights > 0).any(axis=1) == seen)[rows].all() and not seen[~rows].any()


def test_unbatched_input_with_masks(daemon, watched):
    x = torch.rand(5, D)
    message = captured_call(daemon, watched, Model(), x, x, x, attn_mask=CAUSAL, key_padding_mask=PADDING[1])
    assert message[1]["tensors"][0]["shape"] == [1, H, 5, 5]
    assert message[1]["causal"] is True and message[1]["k_len"] == [3]


def test_appended_keys(daemon, watched):
    x = torch.rand(3, 5, D)
    model = Model(add_bias_kv=True, add_zero_attn=True)
    message = captured_call(daemon, watched, model, x, x, x, attn_mask=CAUSAL)
    assert message[1]["tensors"][0]["shape"] == [3, H, 5, 7]
    assert ((weights_of(message) > 0).any(axis=1) == visible(message)).all()


@pytest.mark.parametrize("dropout,flag", [(0.0, None), (0.3, True)])
def test_the_dropout_flag(daemon, watched, dropout, flag):
    x = torch.rand(3, 5, D)
    assert captured_call(daemon, watched, Model(dropout=dropout), x, x, x)[1].get("dropout") is flag


def test_double_precision(daemon, watched):
    x = torch.rand(3, 5, D, dtype=torch.float64)
    message = captured_call(daemon, watched, Model().double(), x, x, x)
    assert message[1]["tensors"][0]["dtype"] == "f64"


def test_bf16(daemon, watched):
    x = torch.rand(3, 5, D).bfloat16()
    message = captured_call(daemon, watched, Model().bfloat16(), x, x, x)
    assert message[1]["tensors"][0]["dtype"] == "bf16"


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch 1.13 has no causal hint")
def test_a_wrong_causal_hint_is_left_alone(watched):
    torch.manual_seed(0)
    model = Model()
    x = torch.rand(3, 5, D)
    lie = torch.zeros(5, 5, dtype=torch.bool)
    expected = model(x, x, x, attn_mask=lie, is_causal=True, need_weights=False)[0]
    with watched(model) as it:
        assert same(model(x, x, x, attn_mask=lie, is_causal=True, need_weights=False)[0], expected)
        assert same(model(x, x, x, attn_mask=CAUSAL, is_causal=True, need_weights=False)[0], expected)
        assert it.stats()["published"] == 2  # hello and the honest one


# ------------------------------------------------------------------------------------- whole models

def test_torch_transformer_layers_and_hello(daemon):
    model = torch.nn.Transformer(D, H, 2, 2, 16, dropout=0.0, batch_first=True)
    publisher = attnd.Publisher("job", daemon.endpoint)
    daemon.attach(publisher)
    with attnd.watch(model, job="job", publisher=publisher) as it:
        source, target = torch.rand(2, 6, D), torch.rand(2, 5, D)
        model(source, target, tgt_mask=CAUSAL)
        it.epoch_end()
    publisher.close()
    got = daemon.until_bye()
    layers = [("encoder", 0, "self"), ("encoder", 1, "self"), ("decoder", 0, "self"), ("decoder", 0, "cross"),
              ("decoder", 1, "self"), ("decoder", 1, "cross")]
    hello = got[0][1]
    assert [(x["stack"], x["layer"], x["site"]) for x in hello["layers"]] == layers
    assert {x["heads"] for x in hello["layers"]} == {H} and hello["client"].startswith("attnd-python/")
    tensors = [h for _, h, _ in got if h["type"] == "attention"]
    assert [(h["stack"], h["layer"], h["site"]) for h in tensors] == layers
    assert [h.get("causal", False) for h in tensors] == [False, False, True, False, True, False]
    assert [h.get("event") for _, h, _ in got[-2:]] == ["epoch_end", "bye"]


def test_watch_waits_a_bounded_time_and_then_goes_on():
    model = Model()
    x = torch.rand(3, 5, D)
    with attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0.1) as it:
        model(x, x, x)
    assert it.stats()["sent"] == 0


def test_a_daemon_that_comes_later_is_found():
    endpoint = free_endpoint()
    model, x = Model(), torch.rand(3, 5, D)
    with attnd.watch(model, job="job", endpoint=endpoint, wait=0) as it:
        model(x, x, x)
        fake = FakeDaemon(endpoint)
        fake.attach(it.publisher)
        model(x, x, x)
        assert fake.next()[1]["event"] == "hello"
        assert fake.next("attention")[1]["step"] == 1
    fake.close()


def test_only_the_wanted_layer_is_captured():
    fake = FakeDaemon(topics=(b"tensor/job/decoder/1/",))
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, H, 16, batch_first=True), 3)
    publisher = attnd.Publisher("job", fake.endpoint)
    fake.attach(publisher)
    with attnd.watch(model, job="job", publisher=publisher):
        model(torch.rand(2, 5, D))
    assert fake.next()[0] == "tensor/job/decoder/1/self/" and fake.receive(0.1) is None
    stats = publisher.stats()
    assert stats["sent"] == 1 and identity_holds(stats)
    publisher.close()
    fake.close()


def test_a_model_that_is_itself_an_attention(daemon, watched):
    model = MHA(D, H, batch_first=True)
    x = torch.rand(3, 5, D)
    with watched(model):
        model(x, x, x)
        model(x, x, x)
    assert [daemon.next("attention")[1]["step"] for _ in range(2)] == [0, 1]
    assert "forward" not in model.__dict__


@pytest.mark.skipif(not hasattr(torch, "compile") or not hasattr(torch, "compiler"), reason="needs torch 2")
def test_compiled_code_is_left_alone(watched):
    model = Model()
    x = torch.rand(3, 5, D)
    expected = model(x, x, x, need_weights=False)[0]
    with watched(model) as it:
        compiled = torch.compile(model, backend="eager")
        assert same(compiled(x, x, x, need_weights=False)[0], expected)
    assert it.stats()["dropped"] == 0


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_left_alone(watched):
    model = Model().requires_grad_(False)
    x = torch.rand(3, 5, D)
    with watched(model) as it:
        torch.jit.trace(lambda y: model(y, y, y, need_weights=False)[0], x, check_trace=False)
        assert it.stats()["published"] == 1


# -------------------------------------------------------------------------------- errors, ours and theirs

@pytest.mark.parametrize("broken", ["wanted", "publish_attention"])
def test_errors_in_our_code_never_reach_the_user(watched, monkeypatch, caplog, broken):
    model = Model()
    x = torch.rand(3, 5, D)
    expected = model(x, x, x)
    it = watched(model)

    def fail(*args, **kwargs):
        raise RuntimeError("our own fault")

    monkeypatch.setattr(it.publisher, broken, fail)
    for _ in range(3):
        output, weights = model(x, x, x)
        assert same(output, expected[0]) and same(weights, expected[1])
    assert len(caplog.records) == 1 and "our own fault" in caplog.text


def test_a_broken_mask_description_never_reaches_the_user(watched, monkeypatch, caplog):
    monkeypatch.setattr(capture.masks, "describe", lambda *a, **k: 1 / 0)
    model, x = Model(), torch.rand(3, 5, D)
    watched(model)
    model(x, x, x)
    model(x, x, x)
    assert len(caplog.records) == 1


def test_a_broken_epoch_end_never_reaches_the_user(watched, monkeypatch, caplog):
    it = watched(Model())
    monkeypatch.setattr(it.publisher, "epoch_end", lambda *a: 1 / 0)
    it.epoch_end()
    assert it.epoch == 1 and len(caplog.records) == 1


def test_an_original_that_fails_only_when_asked_for_weights_is_asked_again(watched, caplog):
    model, x = Model(), torch.rand(3, 5, D)
    original = model.attn.forward

    def stingy(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
               average_attn_weights=True):
        if need_weights:
            raise MemoryError("too much")
        return original(query, key, value, need_weights=False)

    model.attn.forward = stingy
    watched(model)
    for _ in range(2):
        assert model(x, x, x, need_weights=False)[1] is None
    assert len(caplog.records) == 1


def test_the_users_own_errors_reach_the_user(watched):
    model, x = Model(), torch.rand(3, 5, D)
    watched(model)
    with pytest.raises((AssertionError, RuntimeError)):
        model(x, x, x, attn_mask=torch.zeros(7, 7))
    with pytest.raises(TypeError):
        model(x)
    with pytest.raises(TypeError):
        model(x, x, x, nonsense=1)
    model(x, x, x)


def test_bad_arguments_are_value_errors():
    model = Model()
    for arguments in ({"every": 0}, {"job": "a/b"}, {"layers": {"nowhere": ("decoder", 0, "self")}},
                      {"stack": "middle"}, {"rank": -1}, {"world": 0}):
        with pytest.raises(ValueError):
            attnd.watch(model, **{"job": "job", "endpoint": free_endpoint(), "wait": 0, **arguments})
    with pytest.raises(ValueError):
        attnd.watch("no model", job="job")
    assert "forward" not in model.attn.__dict__


def test_rank_and_world_come_from_the_environment(daemon, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    runs = []
    for start in (0, 0, 1):
        monkeypatch.setattr(capture, "_runs_shared", start)  # as in another rank's process
        with attnd.watch(Model(), job="job", endpoint=daemon.endpoint, wait=0) as it:
            runs.append(it.publisher.run)
            daemon.attach(it.publisher)
            header = daemon.next()[1]
            assert (header["rank"], header["world"]) == (3, 8)
        daemon.until_bye()
    assert runs[0] == runs[1]  # every rank of the launch names the same run
    assert runs[0] != runs[2]  # watching again, after bye, is another run


def test_another_launch_with_the_same_environment_is_another_run(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(capture, "_runs_shared", 0)
    first = capture._shared_run(1, 2)
    monkeypatch.setattr(capture, "_runs_shared", 0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert capture._shared_run(1, 2) != first


def test_ranks_on_several_machines_are_told_to_name_their_run(monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(capture, "_runs_shared", 0)
    first = capture._shared_run(1, 2)
    monkeypatch.setattr(capture, "_runs_shared", 0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert capture._shared_run(1, 2) == first and "ATTND_RUN" in caplog.text


def test_rank_and_run_come_from_torch_distributed(tmp_path, monkeypatch):
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert capture._rank_and_world(None, None) == (0, 1)
        assert capture._run_from_store(0) == capture._run_from_store(1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_forked_child_trains_on_untouched(daemon, watched):
    import os
    model, x = Model(), torch.rand(3, 5, D)
    torch.set_num_threads(1)
    with watched(model) as it:
        child = os.fork()
        if child == 0:
            model(x, x, x)
            it.close()
            os._exit(0 if it.stats()["published"] == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        model(x, x, x)
    daemon.next("attention")


def test_nested_watches_of_two_models_share_a_publisher(daemon):
    publisher = attnd.Publisher("job", daemon.endpoint)
    daemon.attach(publisher)
    first, second, x = Model(), Model(), torch.rand(3, 5, D)
    with attnd.watch(first, job="job", publisher=publisher, stack="encoder"):
        with attnd.watch(second, job="job", publisher=publisher):
            first(x, x, x)
            second(x, x, x)
    assert publisher.stats()["subscribed"]
    publisher.close()
    got = [h["stack"] for _, h, _ in daemon.until_bye() if h["type"] == "attention"]
    assert got == ["encoder", "decoder"]
