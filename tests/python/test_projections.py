# SPDX-License-Identifier: MIT
"""W_q, W_k, W_v and W_o of watched models: where they are found, when they are sent, and what is skipped and said."""
import re

import numpy as np
import pytest
import zmq

torch = pytest.importorskip("torch")

import attnd
from attnd.capture import projections
from conftest import FakeDaemon, wait_until
from test_reliable import Daemon as ReliableDaemon
from torch import nn

T, D, H = 6, 16, 4
READ = "q_proj", "k_proj", "v_proj"


class Attention(nn.Module):
    """Attention by an explicit softmax, of one or several projections, which `names` has; `split` makes q, k and v."""

    def __init__(self, names, split, kv_heads=H):
        super().__init__()
        self.split, self.kv_heads = split, kv_heads
        for name, (rows, columns) in names.items():
            setattr(self, name, nn.Linear(columns, rows, bias=False))

    def forward(self, x):
        q, k, v = self.split(self, x)
        k, v = (part.repeat_interleave(H // self.kv_heads, dim=1) for part in (k, v))
        return ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def heads(x, count=H):
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def separate(q, k, v, kv_heads=H):
    return lambda self, x: [heads(getattr(self, name)(x), count) for name, count in
                            ((q, H), (k, kv_heads), (v, kv_heads))]


class Model(nn.Module):
    def __init__(self, make, layers=2):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": make()}) for _ in range(layers))

    def forward(self, x):
        for block in self.blocks:
            x = x + block["attn"](x).mean()
        return x


def simple(q="q_proj", k="k_proj", v="v_proj", o="o_proj"):
    """An attention of four Linears of these names."""
    return Attention({name: (D, D) for name in (q, k, v, o)}, separate(q, k, v))


def attn(model, layer=0):
    return model.blocks[layer]["attn"]


@pytest.fixture
def watched(daemon):
    """Watches a model that takes [B, T, D], which is its `.model`; what is published is in its `.messages`."""
    opened = []

    def watch(model=None, to=daemon, **options):
        messages, model = [], model or Model(simple)
        it = attnd.watch(model, job="job", endpoint=to.endpoint, every=1, steps="manual", wait=0,
                         on_publish=messages.append, **options)
        to.attach(it.publisher)
        it.rearm()  # now somebody listens
        it.messages, it.model = messages, model
        opened.append(it)
        return it

    yield watch
    for it in opened:
        it.close()


def steps(it, count):
    for _ in range(count):
        it.step()


def train(it, count=1):
    for _ in range(count):
        it.model(torch.rand(1, T, D))
        it.step()


def sent(it):
    """[(layer, epoch, step, {name: matrix})] of the matrices that were published so far."""
    assert it.publisher.drain(60)
    return [(m.keys["layer"], m.epoch, m.step, dict(zip((t["name"] for t in m.keys["tensors"]), m.frames)))
            for m in it.messages if m.kind == "weights"]


def trained(it, epochs=1):
    """The same after epochs of one step."""
    for _ in range(epochs):
        train(it)
        it.epoch_end()
    return sent(it)


def matrices_of(it):
    """{name: matrix} of the first layer, and its keys, after a step and an epoch."""
    found = trained(it)
    assert [layer for layer, *_ in found] == [0, 1]
    keys = next(m.keys for m in it.messages if m.kind == "weights")
    assert keys["module"] == "blocks.0.attn"
    return found[0][3], keys


def assert_equal(got, *want):
    """They are these: of queries, keys, values and the output."""
    assert set(got) == {"wq", "wk", "wv", "wo"}
    for name, matrix in zip(("wq", "wk", "wv", "wo"), want):
        np.testing.assert_array_equal(got[name], matrix.detach().numpy(), err_msg=name)


def weights_of(it, *names):
    return [getattr(it, name).weight for name in names]


# ------------------------------------------------------------------------------------------ where they are

class Conv1D(nn.Module):
    """As GPT-2 has it: the weight is transposed."""

    def __init__(self, rows, columns):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(columns, rows))

    def forward(self, x):
        return x @ self.weight


def of_gpt2():
    it = Attention({}, lambda self, x: [heads(part) for part in self.c_attn(x).chunk(3, -1)])
    it.c_attn, it.c_proj = Conv1D(3 * D, D), Conv1D(D, D)
    return it


class OfTorch(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(D, H, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x)[0]


@pytest.mark.parametrize("names", [*(names for names in projections.SEPARATE if not names[0].endswith("weight"))])
@pytest.mark.parametrize("out", ["out_proj", "wo", "proj"])
def test_linears_are_found_by_their_names(watched, names, out):
    model = Model(lambda: simple(*names, out))
    assert_equal(matrices_of(watched(model))[0], *weights_of(attn(model), *names, out))


@pytest.mark.parametrize("make, told, want", [
    (of_gpt2, {}, lambda it: [*it.c_attn.weight.T.chunk(3), it.c_proj.weight.T]),  # transposed and split
    (OfTorch, {}, lambda it: [*it.in_proj_weight.chunk(3), it.out_proj.weight]),
    (lambda: simple(o="mixer"), {"wo": "mixer"}, lambda it: weights_of(it, "q_proj", "k_proj", "v_proj", "mixer")),
    (lambda: Attention(dict.fromkeys(("mine", "k_proj", "v_proj", "o_proj"), (D, D)), separate("mine", "k_proj", "v_proj")),
     {"wq": "mine"}, lambda it: weights_of(it, "mine", "k_proj", "v_proj", "o_proj"))],
    ids=["fused of GPT-2", "fused of torch", "one is told, the others found", "one is told before the one of its row"])
def test_they_are_found_and_split(watched, make, told, want):
    model = Model(make)
    assert_equal(matrices_of(watched(model, projections=told))[0], *want(attn(model)))


def test_fewer_heads_of_keys_are_told_by_the_shapes(watched):
    names = {"q_proj": (D, D), "k_proj": (D // 2, D), "v_proj": (D // 2, D), "o_proj": (D, D)}
    model = Model(lambda: Attention(names, separate(*READ, 2), kv_heads=2))
    got, keys = matrices_of(watched(model))
    assert (keys["heads"], keys["kv_heads"], keys["head_dim"]) == (4, 2, 4)
    assert got["wk"].shape == (D // 2, D)


def in_turn(x):
    return [heads(part) for part in x.chunk(3, -1)]


def by_head(x):
    return x.view(*x.shape[:2], H, 3, D // H).permute(3, 0, 2, 1, 4)


def assert_parts(got, it):
    """What the matrices make of a tensor is how the attention splits it."""
    x = torch.rand(1, T, D)
    for name, part in zip(("wq", "wk", "wv"), it.split(it, x)):
        np.testing.assert_allclose(x.numpy() @ got[name].T, part.transpose(1, 2).flatten(2).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("order, split", [("wqkv", in_turn), ("wqkv_by_head", by_head)])
def test_names_that_are_told_go_before_all(watched, order, split):
    model = Model(lambda: Attention({"mix": (3 * D, D), "back": (D, D), "q_proj": (D, D)}, lambda self, x: split(self.mix(x))))
    got, _ = matrices_of(watched(model, projections={order: "mix", "wo": "back"}))
    assert_parts(got, attn(model))
    np.testing.assert_array_equal(got["wo"], attn(model).back.weight.detach().numpy())


fused = getattr(nn.functional, "scaled_dot_product_attention", None)


@pytest.mark.skipif(fused is None, reason="torch 1.13 has no fused attention")
@pytest.mark.parametrize("split", [in_turn, by_head, lambda x: heads(x).chunk(3, -1),
                                   lambda x: x.view(*x.shape[:2], 3, H, D // H).permute(2, 0, 3, 1, 4)])
def test_the_order_of_a_fused_projection_is_told_by_where_queries_and_keys_lie(watched, split):
    class Fused(Attention):
        def forward(self, x):
            return fused(*self.split(self, x)).transpose(1, 2).flatten(2)

    model = Model(lambda: Fused({"qkv": (3 * D, D)}, lambda self, x: split(self.qkv(x))))
    assert_parts(matrices_of(watched(model))[0], attn(model))


def test_projections_around_a_module_that_only_attends_are_found(watched):
    class Core(nn.Module):
        def forward(self, q, k, v):
            return (q @ k.transpose(2, 3)).softmax(-1) @ v

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))
            self.core = Core()

        def forward(self, x):
            return self.o(self.core(*(heads(part(x)) for part in (self.q, self.k, self.v))).transpose(1, 2).flatten(2))

    model = Model(Around)
    assert_equal(trained(watched(model))[0][3], *weights_of(attn(model), *"qkvo"))


class LoraLinear(nn.Module):
    """As peft makes them."""

    def __init__(self, base, disabled=False, merged=False):
        super().__init__()
        self.base_layer, self.merged, self.disable_adapters = base, merged, disabled
        self.lora_A = nn.ModuleDict({name: nn.Linear(D, 2, bias=False) for name in "abc"})
        self.lora_B = nn.ModuleDict({name: nn.Linear(2, D, bias=False) for name in "abc"})
        self.scaling, self.active_adapters = {"a": 2.0, "b": 0.5, "c": 1.0}, ["a", "b"]

    def forward(self, x):
        return self.base_layer(x) + sum(self.scaling[name] * self.lora_B[name](self.lora_A[name](x))
                                        for name in self.active_adapters)



@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lora_adds_is_added(watched, dtype):
    model = Model(simple).to(dtype)
    for block in model.blocks:
        block["attn"].q_proj = LoraLinear(block["attn"].q_proj).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    it = watched(model)
    model(torch.rand(1, T, D, dtype=dtype))
    it.step()
    it.epoch_end()
    got = sent(it)[0][3]
    q = attn(model).q_proj
    want = q.base_layer.weight.double() + sum(
        q.scaling[name] * q.lora_B[name].weight.double() @ q.lora_A[name].weight.double() for name in "ab")
    assert got["wq"].dtype == np.float32
    np.testing.assert_allclose(got["wq"], want.detach().numpy(), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("state", [{"disabled": True}, {"merged": True}])
def test_an_adapter_that_adds_nothing_adds_nothing(watched, state):
    model = Model(simple)
    for block in model.blocks:
        block["attn"].q_proj = LoraLinear(block["attn"].q_proj, **state)
    got, _ = matrices_of(watched(model))
    np.testing.assert_array_equal(got["wq"], attn(model).q_proj.base_layer.weight.detach().numpy())


# ------------------------------------------------------------------------------------------ when

def times(it):
    return [(epoch, step) for layer, epoch, step, _ in sent(it) if layer == 0]


@pytest.mark.parametrize("every,expected", [(None, [(0, 1), (1, 3), (2, 5), (3, 7)]), (2, [(1, 3), (3, 7)]), (0, [])])
def test_they_are_sent_at_the_end_of_every_so_manyth_epoch(watched, every, expected):
    it = watched(weights_every=every)
    for _ in range(4):
        train(it, 2)
        it.epoch_end()
    assert times(it) == expected


def test_without_epochs_they_are_sent_early_and_then_a_thousand_steps_are_one(watched):
    it = watched()
    train(it)
    steps(it, 2 * projections.STEPS_WITHOUT_EPOCH)
    assert times(it) == [(0, 99), (0, 999), (0, 1999)]
    it.epoch_end()
    steps(it, projections.STEPS_WITHOUT_EPOCH)
    assert times(it) == [(0, 99), (0, 999), (0, 1999), (0, 2000)]


def test_they_are_sent_early_in_a_long_epoch_and_by_who_was_seen_late(watched):
    it = watched(weights_every=3)
    steps(it, 150)
    train(it)
    steps(it, 60)
    assert times(it) == [(0, 199)]


def test_they_are_those_of_the_moment(watched):
    it = watched()
    train(it)
    before = attn(it.model).q_proj.weight.detach().clone()
    it.epoch_end()
    with torch.no_grad():
        attn(it.model).q_proj.weight.zero_()
    np.testing.assert_array_equal(sent(it)[0][3]["wq"], before.numpy())


def test_only_wanted_layers_are_sent_and_none_when_nothing_is_captured(watched):
    fake = FakeDaemon(topics=(b"tensor/job/", b"event/", b"plan/0/job/layers=encoder.1.*"))
    it = watched(to=fake)
    wait_until(lambda: fake.serve() or it.plan.layers != ("*",), "the plan")
    it.rearm()
    assert [layer for layer, *_ in trained(it)] == [1]
    fake.socket.setsockopt(zmq.SUBSCRIBE, b"plan/0/job/every=0")
    fake.socket.setsockopt(zmq.UNSUBSCRIBE, b"plan/0/job/layers=encoder.1.*")
    wait_until(lambda: fake.serve() or it.plan.every == 0, "the plan")
    it.epoch_end()
    assert len(sent(it)) == 1


def test_by_default_none_that_is_larger_than_attnd_decomposes(watched):
    fake = FakeDaemon(topics=(b"", f"limits/weights_max_size={D - 1}".encode()))
    for options, count in (({}, 0), ({"weights_every": 1}, 2)):
        it = watched(to=fake, **options)
        wait_until(lambda: fake.serve() or it.publisher.limits.weights_max_size == D - 1, "the limits")
        assert len(trained(it)) == count, options


def test_layers_wait_for_the_ends_of_steps_when_the_queue_has_no_room(daemon, monkeypatch):
    model, published = Model(simple, layers=3), []
    nbytes = 4 * D * D * 4
    publisher = attnd.Publisher("job", daemon.endpoint, queue_bytes=2 * nbytes)
    daemon.attach(publisher)
    later = attnd.Publisher.publish_later
    monkeypatch.setattr(attnd.Publisher, "publish_later", lambda self, layer, epoch, step, count, copy, kind:
                        published.append((layer[1], step, count)) or later(self, layer, epoch, step, count, copy))
    with attnd.watch(model, job="job", publisher=publisher, every=1, steps="manual") as it:
        it.model = model
        train(it)
        assert publisher.drain(60)
        published.clear()
        held = publisher._outbox.reserve(b"tensor/job/x/", 1)  # the queue is not empty: one layer fills half of it
        it.epoch_end()
        assert held and published == []
        publisher._outbox.cancel(b"tensor/job/x/", 1)
        for _ in range(3):
            assert publisher.drain(60)
            it.step()
        assert [layer for layer, *_ in published] == [0, 1, 2]
        assert all(step > 0 and count == nbytes for _, step, count in published)
        assert publisher.stats()["dropped_by_topic"] == {"tensor/job/x/": 1}
    publisher.close()


@pytest.mark.parametrize("rank, count", [(0, 2), (1, 0)])
def test_one_rank_sends_them(watched, rank, count):
    assert len(trained(watched(rank=rank, world=2, run=b"r" * 16))) == count


@pytest.mark.parametrize("is_full", [False, True])
def test_while_attnd_is_away_they_are_skipped_and_not_dropped(tmp_path, is_full):
    (tmp_path / "a").mkdir(0o700)
    daemon, model = ReliableDaemon(str(tmp_path / "a")), Model(simple)
    it = attnd.watch(model, job="job", address=daemon.directory, every=1, steps="manual", tier="rows", wait=0,
                     linger=0.1, reliable_bytes=8192 if is_full else 1 << 30)
    try:
        daemon.attach(it.publisher)
        it.rearm()
        it.model = model
        train(it)
        daemon.wait(lambda: it.publisher.stats()["queued"] == 0, "all is acknowledged")
        daemon.close()
        wait_until(lambda: it.publisher._sender.is_away, "attnd is away")
        if is_full:
            train(it, 20)
            wait_until(lambda: it.publisher.stalled, "no more finds room")
        wait_until(lambda: (now := it.publisher.stats())["queued"] == now["unacknowledged"], "the queue is worked off")
        before = it.publisher.stats()
        for _ in range(3):
            it.epoch_end()
        wait_until(lambda: it.publisher.stats()["skipped"] >= before["skipped"] + 6, "both layers, three times, are skipped")
        assert it.publisher.stats()["dropped"] == before["dropped"]
    finally:
        it.close()
        daemon.close()


# ------------------------------------------------------------------------------------------ what is skipped

class Int8(nn.Linear):
    def __init__(self):
        super().__init__(D, D, bias=False)
        del self.weight
        self.weight = nn.Parameter(torch.ones(D, D, dtype=torch.int8), requires_grad=False)

    def forward(self, x):
        return x @ self.weight.float().T


def having(make, **parts):
    """A model whose attentions have these parts, each made for it."""
    model = Model(make)
    for layer in range(2):
        for name, part in parts.items():
            setattr(attn(model, layer), name, part())
    return model


@pytest.mark.parametrize("make, said", [
    (lambda: having(lambda: simple("a", "b", "c", "d")),
     "^job job: W_q, W_k, W_v and W_o of blocks.0.attn [(]Attention, and 1 more layer[)] are not published: it has none of "
     "q_proj k_proj v_proj, query key value, .*projections={'wq': 'NAME', 'wk': 'NAME', 'wv': 'NAME', 'wo': 'NAME'} tells their "
     "names within an attention, weights_every=0 silences this$"),
    (lambda: having(lambda: Attention({"qkv": (3 * D, D)}, lambda self, x: in_turn(self.qkv(x)))),  # an explicit softmax
     "qkv has them in one, in an order that is not certain. projections={'wqkv': 'qkv'}"),
    (lambda: having(simple, k_proj=Int8), "k_proj is quantised [(]Parameter, torch.int8[)]"),
    (lambda: torch.ao.quantization.quantize_dynamic(Model(simple), {nn.Linear}, dtype=torch.qint8), "q_proj is quantised"),
    (lambda: having(lambda: Attention(dict.fromkeys(READ, (D, D)), separate(*READ)), v_proj=lambda: nn.Linear(D, 2 * D)),
     r"wv \[32, 16\] do not fit 4 heads of 4 dimensions")],
    ids=["other names", "uncertain order", "int8", "quantised by torch", "shapes"])
def test_what_is_skipped_is_told_once(watched, caplog, make, said):
    assert trained(watched(make()), 2) == []
    text, = caplog.messages
    assert re.search(said, text)


def test_matrices_of_a_layer_that_was_moved_are_told_as_gone(watched, caplog):
    """As by an adapter that is put around the model in mid-run."""
    it = watched()
    train(it)
    it.model.blocks = nn.ModuleList(nn.ModuleDict({"wrapped": block}) for block in it.model.blocks)
    it.epoch_end()
    text, = caplog.messages
    assert sent(it) == [] and "no module is there any more" in text and "NoneType" not in text


def test_a_parametrised_matrix_is_that_of_now_and_its_state_is_left_alone(watched):
    model = having(simple, q_proj=lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(D, D, bias=False)))
    it = watched(model)
    train(it)
    before = attn(model).q_proj.parametrizations.weight[0]._u.clone()
    it.epoch_end()
    got = sent(it)[0][3]["wq"]
    assert torch.equal(before, attn(model).q_proj.parametrizations.weight[0]._u)
    np.testing.assert_allclose(got, attn(model.eval()).q_proj.weight.detach().numpy(), atol=1e-6)


def test_what_is_sharded_away_is_skipped_and_not_touched(watched, caplog):
    it = watched()
    train(it)
    for layer in range(2):
        weight = attn(it.model, layer).q_proj.weight  # as FSDP leaves views of what it frees
        (weight.untyped_storage() if hasattr(weight, "untyped_storage") else weight.storage()).resize_(0)
    it.epoch_end()
    it.epoch_end()
    assert sent(it) == []
    assert [message.partition("published: ")[2] for message in caplog.messages] == [
        "this process has no matrix q_proj now: it is sharded (FSDP, ZeRO), or none"]


@pytest.mark.parametrize("shared, layers, said", [
    (["q_proj"], [0, 1], []), (READ, [0, 1], []),
    ([*READ, "o_proj"], [0], ["job job: W_q, W_k, W_v and W_o of blocks.1.attn (Attention) are not published: they are those "
                              "of blocks.0.attn, of which they are published"])])
def test_matrices_that_layers_share_are_sent_once_unless_some_are_a_layers_own(watched, caplog, shared, layers, said):
    model = Model(simple)
    for name in shared:
        setattr(attn(model, 1), name, getattr(attn(model), name))
    found = trained(watched(model), 2)
    assert [(epoch, layer) for layer, epoch, *_ in found] == [(epoch, layer) for epoch in (0, 1) for layer in layers]
    assert caplog.messages == said
    assert_equal(found[-1][3], *weights_of(attn(model, 1), *READ, "o_proj"))


def test_an_output_that_does_not_fit_is_left_out(watched):
    got, _ = matrices_of(watched(having(simple, o_proj=lambda: nn.Linear(2 * D, D))))
    assert set(got) == {"wq", "wk", "wv"}


def test_frozen_matrices_are_sent_all_the_same(watched):
    assert len(trained(watched(Model(simple).requires_grad_(False)), 2)) == 4


def test_a_broken_model_is_told_and_never_raises(watched, monkeypatch, caplog):
    it = watched()
    train(it)
    monkeypatch.setattr(projections, "_find", lambda *a: 1 / 0)
    it.epoch_end()
    assert it.epoch == 1 and caplog.messages == [
        "job job: W_q, W_k, W_v and W_o of blocks.0.attn (Attention, and 1 more layer) are not published: reading them failed "
        "(ZeroDivisionError: division by zero)"]


@pytest.mark.parametrize("given,why", [({"wx": "q_proj"}, "must map some of wq, wk, wv, wo, wqkv, wqkv_by_head"),
                                       ({"wq": "q_proj", "wqkv": "q_proj"}, "so one of them goes with wo alone"),
                                       ({"wqkv": "q_proj", "wqkv_by_head": "q_proj"}, "so one of them goes with wo alone"),
                                       ({"wq": 3}, "must map some of"), (["q_proj"], "must map some of"),
                                       ({"wq": "missing"}, "no module or parameter of the model is called 'missing'")])
def test_bad_names_and_a_bad_count_of_epochs_are_errors_at_once(given, why):
    with pytest.raises(ValueError, match=why):
        attnd.watch(Model(simple), job="job", projections=given, wait=0)
    with pytest.raises(ValueError, match="weights_every = -1"):
        attnd.watch(Model(simple), job="job", weights_every=-1, wait=0)


def test_a_block_of_a_fused_matrix_falls_into_parts_of_those_it_consists_of():
    from attnd.capture.shards import blocks
    matrix = np.arange(48.0).reshape(12, 4)
    by_head = [("wq", np.array([0, 1, 6, 7])), ("wk", np.array([2, 3, 8, 9])), ("wv", np.array([4, 5, 10, 11]))]
    together = {name: np.zeros((4, 4)) for name, _ in by_head}
    for first, last in ((0, 3), (3, 9), (9, 12)):
        for name, (row, column), numbers in blocks(by_head, matrix[first:last, 1:], (first, 1)):
            together[name][row:row + len(numbers), column:] = numbers
    for name, rows in by_head:
        assert np.array_equal(together[name][:, 1:], matrix[rows, 1:])
    assert [name for name, _, _ in blocks(by_head, matrix[:2], (0, 0))] == ["wq"]


# ------------------------------------------------------------------------------------------ W_o under another name

class Unnamed(nn.Module):
    """Attention whose W_o is `far`, if anything: `end` is what becomes of its heads' outputs and its input."""

    def __init__(self, end, **parts):
        super().__init__()
        self.num_heads, self.end = H, end
        for name in READ:
            setattr(self, name, nn.Linear(D, D))
        for name, part in parts.items():
            setattr(self, name, part())

    def forward(self, x):
        q, k, v = (heads(getattr(self, name)(x)) for name in READ)
        return self.end(self, ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2), x)


class Finish(nn.Module):
    """As BERT has it: of two inputs."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm = nn.Linear(D, D), nn.LayerNorm(D)

    def forward(self, y, x):
        return self.norm(self.dense(y) + x)


def square():
    return nn.Linear(D, D)


@pytest.mark.parametrize("end, parts, where", [
    (lambda self, y, x: self.far(y), {"far": square}, "far"),
    (lambda self, y, x: self.far(y * self.gate(x).sigmoid()), {"gate": square, "far": square}, "far"),
    (lambda self, y, x: self.far(self.norm(nn.functional.dropout(y, 0.1))), {"norm": lambda: nn.LayerNorm(D), "far": square}, "far"),
    (lambda self, y, x: self.far(y), {"far": lambda: nn.Sequential(nn.Linear(D, D), nn.Dropout(0.1)), "other": square}, "far.0"),
    (lambda self, y, x: self.far(y, x), {"far": Finish}, "far.dense"),
    (lambda self, y, x: self.far(y.transpose(1, 2)).transpose(1, 2), {"far": lambda: nn.Conv1d(D, D, 1)}, "far")],
    ids=["alone", "a gate", "a norm", "a dropout", "two inputs", "a convolution"])
def test_the_output_matrix_is_the_one_that_takes_what_the_attention_gives(watched, caplog, end, parts, where):
    model = Model(lambda: Unnamed(end, **parts))
    it = watched(model)
    model(torch.rand(1, T, D)).sum().backward()
    it.step()
    it.epoch_end()
    for layer, _, _, got in sent(it):
        want = attn(model, layer).get_submodule(where).weight.detach().flatten(1).numpy()
        np.testing.assert_array_equal(got["wo"], want)
    assert caplog.messages == []


def test_the_output_matrix_of_the_module_around_is_found(watched):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.mixer = Unnamed(lambda self, y, x: y), square()
            self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.Linear(2 * D, D))

        def forward(self, x):
            x = x + self.mixer(self.core(x))
            return x + self.mlp(x)

    it = watched(Model(Around))
    assert_equal(trained(it)[0][3], *weights_of(attn(it.model).core, *READ), attn(it.model).mixer.weight)


@pytest.mark.parametrize("end, parts, said", [
    (lambda self, y, x: self.far(y * self.gate(y).sigmoid()), {"gate": square, "far": square},
     r"job job: W_o of blocks.0.attn \(Unnamed, and 1 more layer\) is not published: blocks.0.attn.gate and blocks.0.attn.far "
     r"take what it gives. projections={'wo': 'NAME'} tells which$"),
    (lambda self, y, x: self.far(x + y), {"far": square},
     r"it has none of out_proj, .*, and blocks.0.attn.far has its shape, but nothing tells that it takes what the attention "
     r"gives. projections={'wo': 'NAME'} tells its name$"),
    (lambda self, y, x: self.far(y.detach()), {"far": square}, "projections={'wo': 'NAME'} tells its name$"),
    (lambda self, y, x: self.far(y), {"far": lambda: nn.Linear(D, 3 * D)},
     "blocks.0.attn.far takes what the attention gives, but gives no 16 numbers"),
    (lambda self, y, x: y, {"far": lambda: nn.Linear(D, 2)}, None)],
    ids=["two take it", "a residual", "cut off", "another width", "there is none"])
def test_an_output_matrix_that_is_not_certain_is_told_once_and_one_that_is_not_there_is_no_fault(watched, caplog, end, parts, said):
    it = watched(Model(lambda: Unnamed(end, **parts)))
    assert [set(matrices) for *_, matrices in trained(it, 2)] == [set(("wq", "wk", "wv"))] * 4
    assert [bool(re.search(said or "none", message)) for message in caplog.messages] == [True] * (said is not None)


class ByHead(nn.Module):
    """A projection by 3-D weights, one for each head."""

    def __init__(self, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(H, D // H, D // H)), nn.Parameter(torch.zeros(H, 1, D // H)) if bias else None

    def forward(self, y):
        y = heads(y).transpose(0, 1).flatten(1, 2)
        y = y @ self.weight if self.bias is None else torch.baddbmm(self.bias, y, self.weight)
        return y.transpose(0, 1)[None].flatten(2)


@pytest.mark.parametrize("near", [lambda: ByHead(False), lambda: ByHead(True), None], ids=["3-D weights", "and a bias", "what is computed"])
def test_a_product_with_anything_but_the_values_is_a_layer(watched, caplog, near):
    parts = {"far": square, **({"near": near} if near else {})}
    it = watched(Model(lambda: Unnamed(lambda self, y, x: self.far(self.near(y) if near else (y @ y.transpose(1, 2)).tanh() @ y), **parts)))
    assert [set(matrices) for *_, matrices in trained(it)] == [set(("wq", "wk", "wv"))] * 2
    assert "blocks.0.attn.far has its shape, but nothing tells that it takes what the attention gives" in caplog.text


@pytest.mark.parametrize("names, told, got, said", [
    (("q_proj", "other", "v_proj"), {}, {"wq", "wv", "wo"},
     "W_k of blocks.0.attn .* is not published: it has none of k_proj, key, .*projections={'wk': 'NAME'}"),
    (("q_net", "k_net", "v_net"), {}, None,
     "it has none of q_proj k_proj v_proj, .*; in it are q_net, k_net, v_net, o_proj. projections="),
    (("q_net", "k_net", "v_net"), {"wo": "o_proj"}, {"wo"},
     "W_q of blocks.0.attn .* is not published: it has none of q_proj, ")],
    ids=["one is missing", "all are", "all but W_o"])
def test_names_that_are_not_known_are_told_beside_those_that_are(watched, caplog, names, told, got, said):
    found = trained(watched(Model(lambda: simple(*names)), projections=told), 2)
    assert [set(matrices) for *_, matrices in found] == ([] if got is None else [got] * 4)
    assert re.search(said, caplog.messages[0]) and len(caplog.messages) == len(set(caplog.messages))


def test_what_has_a_name_and_is_no_matrix_is_told_as_what_it_is(watched, caplog):
    class Each(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(D, D) for _ in range(3))

        def forward(self, x, scale):
            return torch.cat([part(x) for part in self.parts], -1) * scale

    model = Model(lambda: Attention({}, lambda self, x: in_turn(self.qkv(x, 1.0))))
    for block in model.blocks:
        block["attn"].qkv = Each()
    assert trained(watched(model), 2) == []
    said, = caplog.messages
    assert "; its qkv is Each of test_projections around parts.0 (Linear); in it are qkv.parts.0, qkv.parts.1, qkv.parts.2. " in said
    assert "Wqkv" in said and " qkv," not in said


def test_a_failure_in_reading_one_layer_names_it_and_loses_no_attention(watched, caplog):
    class Broken(nn.Linear):
        @property
        def in_features(self):
            raise OSError("no such file")

        @in_features.setter
        def in_features(self, value):
            pass

    it = watched(Model(simple))
    train(it)
    attn(it.model, 0).k_proj.__class__ = Broken
    it.epoch_end()
    train(it)
    assert [layer for layer, *_ in sent(it)] == [1]
    assert caplog.messages == ["job job: W_q, W_k, W_v and W_o of blocks.0.attn (Attention) are not published: k_proj (Broken of "
                               "test_projections) could not be read (OSError: no such file)"]
    assert sum(message.kind == "attention" for message in it.messages) == 4
