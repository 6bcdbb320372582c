# SPDX-License-Identifier: MIT
"""What is a softmax of attention, and what is none; patterns of module paths; and the arguments of watch()."""
import functools

import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.capture import calls
from attnd.sending.scalars import NOT_CAPTURED
from conftest import free_endpoint
from torch.nn import functional

B, H, T, D, SLOTS = 2, 4, 6, 8, 5


class Attention(torch.nn.Module):
    """Explicit attention; `product` multiplies weights [B, H, T, T] with values [B, H, T, d]."""

    def __init__(self, product=torch.matmul, heads=H):
        super().__init__()
        self.qkv, self.product, self.num_heads = torch.nn.Linear(H * D, 3 * heads * D), product, heads

    def forward(self, x):
        q, k, v = (heads_of(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        return x + functional.pad(self.attend(q, k, v).transpose(1, 2).flatten(2), (0, (H - self.num_heads) * D))

    def attend(self, q, k, v):
        return self.product((q @ k.transpose(-1, -2) / D**0.5).softmax(-1), v)


def block(product):
    """One that is not called an attention."""
    return type("Block", (Attention,), {})(product)


class Layer(torch.nn.Module):
    """Something before an attention, and the attention."""

    def __init__(self, before):
        super().__init__()
        self.before, self.attn = before, Attention()

    def forward(self, x):
        self.before(x)
        return self.attn(x)


class Model(torch.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def heads_of(x, count=H):
    """[B, T, H * d] as [B, H, T, d]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class Router(torch.nn.Module):
    """Experts by group and token: [B, G, S, E]."""

    def __init__(self, experts=SLOTS):
        super().__init__()
        self.gate = torch.nn.Linear(D, experts)

    def forward(self, x):
        weights, chosen = self.gate(heads_of(x)).softmax(-1).topk(2)
        return weights.sum(), chosen


class RouterAttention(Router):
    """The same, called an attention."""


class Codebook(torch.nn.Module):
    def __init__(self, slots=SLOTS):
        super().__init__()
        self.codes = torch.nn.Parameter(torch.randn(slots, D))

    def forward(self, x):
        return (heads_of(x) @ self.codes.t()).softmax(-1) @ self.codes


class CodebookAttention(Codebook):
    """Of as many codes as tokens, and called an attention."""

    def __init__(self):
        super().__init__(T)


class Mixture(torch.nn.Module):
    """Experts whose outputs are mixed by token."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = torch.nn.Linear(D, T), torch.nn.Linear(D, T * D)

    def forward(self, x):
        x = heads_of(x)
        return torch.einsum("bgse,bgsed->bgsd", self.gate(x).softmax(-1), self.experts(x).unflatten(-1, (T, D)))


class MatrixMixture(Mixture):
    def forward(self, x):
        x = heads_of(x)
        return self.gate(x).softmax(-1).unsqueeze(-2) @ self.experts(x).unflatten(-1, (T, D))


class LinearAttention(torch.nn.Module):
    """A softmax over features, and one over tokens by feature."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(H * D, 3 * H * D)

    def forward(self, x):
        q, k, v = (heads_of(part) for part in self.qkv(x).chunk(3, -1))
        return q.softmax(-1) @ (k.transpose(-1, -2).softmax(-1) @ v)


class Classes(torch.nn.Module):
    def forward(self, x):
        return heads_of(x).softmax(-1).log().mean()


NONE = [Router, RouterAttention, Codebook, CodebookAttention, Mixture, MatrixMixture, LinearAttention, Classes]


@pytest.fixture
def watched(watched):
    """In which each test says when a step ends."""
    return functools.partial(watched, steps="manual")


def train(it, model, steps=2, tokens=T):
    for _ in range(steps):
        model(torch.randn(B, tokens, H * D)).sum().backward()
        it.step()


def weights_in(messages):
    """[(number of the layer, its weights), ...]"""
    return [(header["layer"], torch.frombuffer(bytearray(frames[0]), dtype=torch.float32).view(header["tensors"][0]["shape"]))
            for _, header, frames in messages if header["type"] == "attention"]


def shapes(messages):
    """{number of the layer: [shape of each message's weights]}"""
    found = {}
    for layer, weights in weights_in(messages):
        found.setdefault(layer, []).append(list(weights.shape))
    return found


@pytest.fixture
def trained(daemon, watched):
    """trained(model, ...): the watch of some steps of training, which has ended, and all that it has sent."""
    def run(model, steps=2, tokens=T, **options):
        it = watched(model, **options)
        train(it, model, steps, tokens)
        return it, daemon.captured(it)

    return run


@pytest.mark.parametrize("kind", NONE, ids=lambda kind: kind.__name__)
def test_what_is_no_attention_is_no_layer_and_renumbers_none(trained, caplog, kind):
    it, sent = trained(Model(Layer(kind()), Layer(kind())))
    assert it.layers == [("encoder", 0, "self"), ("encoder", 1, "self")]
    assert shapes(sent) == {0: [[B, H, T, T]] * 2, 1: [[B, H, T, T]] * 2}
    assert len(caplog.records) == 1
    assert f"the softmax of layers.0.before ({kind.__name__}, and 1 more like it) is not captured" in caplog.text
    assert "include='layers.*.before'" in caplog.text and "exclude='layers.*.before' silences this" in caplog.text


PRODUCTS = {
    "matmul": torch.matmul, "@": lambda w, v: w @ v, "method": lambda w, v: w.matmul(v),
    "einsum": lambda w, v: torch.einsum("bhij,bhjd->bhid", w, v),
    "einsum with dots": lambda w, v: torch.einsum("... i j, ... j d -> ... i d", w, v),
    "bmm": lambda w, v: torch.bmm(w.flatten(0, 1), v.reshape(-1, T, D)).unflatten(0, (B, H)),
    "baddbmm": lambda w, v: torch.baddbmm(torch.zeros(1), w.flatten(0, 1), v.reshape(-1, T, D)).unflatten(0, (B, H)),
    "transposed": lambda w, v: (v.transpose(-1, -2) @ w.transpose(-1, -2)).transpose(-1, -2),
    "after dropout and a cast": lambda w, v: functional.dropout(w.to(torch.float64), 0.5).to(v.dtype) @ v,
    "one head of values": lambda w, v: w @ v[:, :1],
    "beside a penalty": lambda w, v: w @ v + 0 * (w @ w.transpose(-1, -2)).sum(),
    "after a penalty": lambda w, v: 0 * (w @ w.transpose(-1, -2)).sum() + w @ v,
    "half of the keys at a time": lambda w, v: w[..., :3] @ v[:, :, :3] + w[..., 3:] @ v[:, :, 3:],
    "masked and sliced": lambda w, v: (w * torch.ones(1, H, 1, 1))[..., 1:] @ v[:, :, 1:]}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_weights_that_are_multiplied_with_values_are_attention_whatever_their_name(trained, caplog, product):
    _, sent = trained(Model(block(product)))
    assert shapes(sent) == {0: [[B, H, T, T]] * 2} and not caplog.records


def by_sum(weights, values):
    """A product that is none of torch's."""
    return (weights.unsqueeze(-1) * values.unsqueeze(-3)).sum(-2)


def test_without_a_product_in_sight_the_name_decides(trained, caplog):
    _, sent = trained(Model(block(by_sum), Attention(by_sum)))
    assert shapes(sent) == {1: [[B, H, T, T]] * 2}
    assert len(caplog.records) == 1 and "the softmax of layers.0 (Block) is not captured" in caplog.text


class Scores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.softmax, self.drop = torch.nn.Softmax(-1), torch.nn.Dropout(0.5)

    def forward(self, logits):
        return self.drop(self.softmax(logits))


class Outer(Attention):
    """Whose softmax is in a module in it."""

    def __init__(self):
        super().__init__()
        self.scores = Scores()

    def attend(self, q, k, v):
        return self.scores(q @ k.transpose(-1, -2)) @ v


class CachedAttention(Attention):
    """With a key cache: more keys than queries."""

    def attend(self, q, k, v):
        return functional.pad((q[:, :, -2:] @ k.transpose(-1, -2)).softmax(-1) @ v, (0, 0, T - 2, 0))


class PrefixAttention(Attention):
    """With as many keys of a prefix as of the text, whose values are multiplied apart."""

    def attend(self, q, k, v):
        weights = (q @ torch.cat([k, k], 2).transpose(-1, -2)).softmax(-1)
        return weights[..., T:] @ v + weights[..., :T] @ (2 * v)


def test_keys_whose_values_are_multiplied_later_are_no_sinks(trained, caplog):
    _, sent = trained(Model(PrefixAttention()))
    assert shapes(sent) == {0: [[B, H, T, 2 * T]] * 2} and not caplog.records
    assert not any(header.get("learned_sink") for _, header, _ in sent)


@pytest.mark.parametrize("layers, expected", [
    ((Outer(),), [[H, T]]), ((CachedAttention(),), [[H, 2]]),
    ([Attention(heads=heads) for heads in (4, 3, 1)], [[4, T], [3, T], [1, T]])],
    ids=["the product around the softmax", "a key cache", "heads that differ between layers"])
def test_heads_and_queries_are_each_layers_own(trained, caplog, layers, expected):
    _, sent = trained(Model(*layers))
    assert shapes(sent) == {layer: [[B, *shape, T]] * 2 for layer, shape in enumerate(expected)} and not caplog.records


def test_layers_are_named_in_the_order_in_which_they_run(trained):
    """Though what is judged by its name is judged when the forward is over."""
    model = torch.nn.Sequential()
    model.first_attn, model.second_attn = Attention(by_sum), Attention()
    it, _ = trained(model)
    assert list(it.forwards.names.layers.items()) == [("first_attn", ("encoder", 0, "self")),
                                              ("second_attn", ("encoder", 1, "self"))]


class Masked(Attention):
    """With a mask that may change from step to step."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def attend(self, q, k, v):
        return (q @ k.transpose(-1, -2)).masked_fill(~self.mask, -torch.inf).softmax(-1) @ v


def test_masks_that_change_between_layers_and_steps_are_each_calls_own(daemon, watched, caplog):
    everything = torch.ones(T, T, dtype=torch.bool)
    masks = [everything.tril(), everything, everything.tril().triu(-2), torch.rand(B, 1, T, T) < 0.5]
    masks[3] |= torch.eye(T, dtype=torch.bool)
    model = Model(*[Masked(mask) for mask in masks])
    it = watched(model)
    train(it, model, 1)
    model.layers[0].mask, model.layers[1].mask = everything, everything.tril()
    train(it, model, 1)
    said = {}
    for _, header, _ in daemon.captured(it):
        names = [tensor["name"] for tensor in header["tensors"]]
        said.setdefault(header["layer"], []).append((header.get("causal", False), header.get("window", 0), names))
    plain, masked = ["weights"], ["weights", "mask"]
    assert said == {0: [(True, 0, plain), (False, 0, plain)], 1: [(False, 0, plain), (True, 0, plain)],
                    2: [(True, 3, plain)] * 2, 3: [(False, 0, masked)] * 2}
    assert not caplog.records


def test_a_length_that_changes_between_steps_changes_no_verdict(daemon, watched, caplog):
    model = Model(Layer(Router(experts=T)))
    it = watched(model)
    for tokens in (T + 1, T, SLOTS):
        train(it, model, 1, tokens)
    assert shapes(daemon.captured(it)) == {0: [[B, H, tokens, tokens] for tokens in (T + 1, T, SLOTS)]}
    assert len(caplog.records) == 1


def test_a_forward_that_fails_judges_nothing(daemon, watched, caplog):
    def fail(weights, values):
        if fail.broken:
            raise RuntimeError("the user's own mistake")
        return weights @ values

    fail.broken = True
    model = Model(block(fail))
    it = watched(model)
    with pytest.raises(RuntimeError):
        model(torch.randn(B, T, H * D))
    fail.broken = False
    train(it, model)
    assert shapes(daemon.captured(it)) == {0: [[B, H, T, T]] * 2} and not caplog.records


def test_weights_that_the_model_overwrites_are_not_sent_as_they_are_then(trained):
    """Once it is known what they are they are copied before."""
    _, sent = trained(Model(Attention(lambda weights, values: weights.detach().mul_(2) @ values)))
    (_, weights), = weights_in(sent)
    assert torch.allclose(weights.sum(-1), torch.ones(()))


def test_nothing_is_copied_before_it_is_needed(trained, monkeypatch):
    copied, before = [], []
    own = calls._cut_weights
    monkeypatch.setattr(calls, "_cut_weights", lambda *given: copied.append(given) or own(*given))

    def product(weights, values):
        before.append(len(copied))
        return weights @ values

    _, sent = trained(Model(Layer(Router()), Attention(product)), steps=1)
    assert before == [1] and len(copied) == 2 and set(shapes(sent)) == {0, 1}


# ------------------------------------------------------------------------------------------------ layouts

class HeadsFirst(torch.nn.Module):
    """Weights [H, B, T, T]."""

    def __init__(self, says=None, contiguous=False, product=torch.matmul):
        super().__init__()
        self.qkv, self.contiguous, self.product = torch.nn.Linear(H * D, 3 * H * D), contiguous, product
        if says:
            self.n_heads = says

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (H, D)).permute(2, 0, 1, 3) for part in self.qkv(x).chunk(3, -1))
        v = v.contiguous() if self.contiguous else v
        self.weights = (q @ k.transpose(-1, -2)).softmax(-1)
        return x + self.product(self.weights, v).permute(1, 2, 0, 3).flatten(2)


@pytest.mark.parametrize(
    "model", [HeadsFirst(), HeadsFirst(product=PRODUCTS["einsum"]), HeadsFirst(H, contiguous=True), HeadsFirst(B)],
    ids=["by the values", "by an einsum's values", "by the module's count", "the values before the count"])
def test_weights_of_heads_and_samples_in_the_other_order_are_understood(trained, model):
    _, sent = trained(model, rows=0)
    assert shapes(sent) == {0: [[B, H, T, T]] * 2}
    assert torch.equal(weights_in(sent)[1][1], model.weights.detach().transpose(0, 1))


def test_as_many_samples_as_heads_are_understood_by_the_values(daemon, watched):
    model = HeadsFirst(says=H)
    it = watched(model)
    model(torch.randn(H, T, H * D)).sum().backward()
    assert torch.equal(weights_in(daemon.captured(it))[0][1], model.weights.detach().transpose(0, 1))


def test_an_unknown_layout_whose_heads_change_is_told(watched, caplog):
    model = HeadsFirst(contiguous=True, product=lambda weights, values: weights @ values.detach())
    it = watched(model)
    for samples in (3, 5, 3):
        model(torch.randn(samples, T, H * D)).sum().backward()
        it.step()
    it.close()
    assert len(caplog.records) == 1
    assert "the weights of the model were [4, 3, 6, 6] and are [4, 5, 6, 6]" in caplog.text
    assert "num_heads = 4" in caplog.text


class QueriesFirst(torch.nn.Module):
    """Weights [B, T, H, T]."""

    def __init__(self, product, says=None):
        super().__init__()
        self.qkv, self.product = torch.nn.Linear(H * D, 3 * H * D), product
        if says:
            self.num_heads = says

    def forward(self, x):
        q, k, self.v = (part.unflatten(-1, (H, D)) for part in self.qkv(x).chunk(3, -1))
        self.weights = torch.einsum("bqhd,bkhd->bqhk", q, k).softmax(-1)
        self.weights.retain_grad()
        return x + self.product(self.weights, self.v).flatten(2)


def sum_of_each_head(weights, values):
    """A product that is none of torch's."""
    return (weights.unsqueeze(-1) * values.transpose(1, 2).unsqueeze(1)).sum(-2)


OF_QUERIES_FIRST = {
    "einsum": lambda w, v: torch.einsum("bqhk,bkhd->bqhd", w, v),
    "einsum of other names": lambda w, v: torch.einsum("nthj,njhd->nthd", w, v),
    "transposed": lambda w, v: (w.transpose(1, 2) @ v.transpose(1, 2)).transpose(1, 2),
    "permuted after dropout": lambda w, v: (functional.dropout(w, 0.0).permute(2, 0, 1, 3) @ v.permute(2, 0, 1, 3)).permute(1, 2, 0, 3),
    "turned values": lambda w, v: (v.permute(0, 2, 3, 1) @ w.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}


@pytest.mark.parametrize("include", [None, "layers.*"])
@pytest.mark.parametrize("product", OF_QUERIES_FIRST.values(), ids=OF_QUERIES_FIRST)
def test_queries_before_heads_are_understood_by_the_product(trained, caplog, product, include):
    model = Model(QueriesFirst(product))
    _, sent = trained(model, tokens=9, include=include)
    assert shapes(sent) == {0: [[B, H, 9, 9]] * 2} and not caplog.records
    assert torch.equal(weights_in(sent)[1][1], model.layers[0].weights.detach().transpose(1, 2))


def test_queries_before_heads_are_understood_by_the_modules_count(trained, caplog):
    _, sent = trained(Model(QueriesFirst(sum_of_each_head, says=H)), tokens=9, include="layers.*")
    assert shapes(sent) == {0: [[B, H, 9, 9]] * 2} and not caplog.records


def test_where_nothing_tells_queries_from_heads_nothing_is_captured(trained, caplog):
    it, _ = trained(Model(QueriesFirst(sum_of_each_head), Attention()), tokens=9, include="layers.0")
    assert it.layers == [("encoder", 1, "self")] and len(caplog.records) == 1
    assert "the softmax of layers.0 (QueriesFirst) is not captured, as nothing tells the heads of its result [2, 9, 4, 9] from its " \
        "queries. Let the module say num_heads" in caplog.text


# ------------------------------------- in parts: none of their softmaxes has all queries and keys

class WindowsAttention(Attention):
    """As Longformer: [B, T, H, window], summed up by diagonals."""

    def attend(self, q, k, v):
        near = [functional.pad(tensor, (0, 0, 1, 1)).unfold(2, 3, 1) for tensor in (k, v)]
        weights = torch.einsum("bhtd,bhtdw->bthw", q, near[0]).softmax(-1)
        return (weights.transpose(1, 2).unsqueeze(-2) * near[1]).sum(-1)


class GlobalAttention(Attention):
    """As Longformer with global tokens: the first two keys, and a window."""

    def attend(self, q, k, v):
        near = [functional.pad(tensor, (0, 0, 1, 1)).unfold(2, 3, 1) for tensor in (k, v)]
        weights = torch.cat([q @ k[:, :, :2].transpose(-1, -2), torch.einsum("bhtd,bhtdw->bhtw", q, near[0])], -1).softmax(-1)
        return weights.narrow(-1, 0, 2) @ v[:, :, :2] + (weights[..., 2:].unsqueeze(-2) * near[1]).sum(-1)


class BlocksAttention(Attention):
    """As BigBird: the first block sees all, the others see themselves and the first."""

    def attend(self, q, k, v):
        first = (q[:, :, :2] @ k.transpose(-1, -2)).softmax(-1) @ v
        q, k, v = (tensor.unflatten(2, (-1, 2)) for tensor in (q, k, v))
        k, v = (torch.cat([tensor[:, :, :1].expand(-1, -1, 2, -1, -1), tensor[:, :, 1:]], 3) for tensor in (k, v))
        return torch.cat([first, ((q[:, :, 1:] @ k.transpose(-1, -2)).softmax(-1) @ v).flatten(2, 3)], 2)


class LandmarksAttention(Attention):
    """As Nystroem: of queries and landmarks, of landmarks, of landmarks and keys."""

    def attend(self, q, k, v):
        few = [tensor[:, :, ::2] for tensor in (q, k)]
        left, among, right = (one.softmax(-1) for one in (q @ few[1].transpose(-1, -2), few[0] @ few[1].transpose(-1, -2),
                                                          few[0] @ k.transpose(-1, -2)))
        inverse = among.transpose(-1, -2)
        inverse = inverse @ (2 * torch.eye(T // 2) - among @ inverse)
        return left @ inverse @ (right @ v)


PARTS = {WindowsAttention: "has 6 queries and 3 columns, which are not all keys",
         GlobalAttention: "is multiplied with values of 2 of its 5 columns",
         BlocksAttention: "another softmax of this module has 5 axes",
         LandmarksAttention: "is multiplied with nothing but what is made of it"}


@pytest.mark.parametrize("include", [None, "layers.*"])
@pytest.mark.parametrize("kind", PARTS)
def test_attention_in_parts_is_no_layer_and_the_reason_is_said_once(trained, caplog, kind, include):
    it, sent = trained(Model(kind(), Attention(), kind()), include=include)
    assert it.layers == [("encoder", 1, "self")] and shapes(sent) == {1: [[B, H, T, T]] * 2}
    said, = caplog.messages
    assert said.startswith(f"job job: the softmax of layers.0 ({kind.__name__}, and 1 more like it) is not captured, as")
    assert PARTS[kind] in said and "include=" not in said and "exclude='layers.*' silences this" in said


# ----------------------------------------------------------------------------------------------- patterns

def test_included_modules_are_attention(trained, caplog):
    it, sent = trained(Model(Layer(Router()), Layer(Classes())), include=["*.0.before"], exclude="*.1.before")
    assert not caplog.records and len(it.layers) == 3
    assert sorted(list(weights.shape) for _, weights in weights_in(sent)) == [[B, H, T, SLOTS]] * 2 + [[B, H, T, T]] * 4


class Fused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(H * D, H, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


@pytest.mark.parametrize("exclude, left", [
    ("layers.0", ["layers.1.attn"]), ("*.0.attn", ["layers.1.attn"]), (("layers.?.attn",), []),
    (["layers.0.attn#1"], ["layers.0.attn", "layers.1.attn"])])
def test_excluded_modules_and_what_is_in_them_are_never_captured(trained, exclude, left):
    it, _ = trained(Model(Fused(), Fused()), exclude=exclude, include="layers.0.attn")
    assert list(it.forwards.names.layers) == left


class SilentAttention(Attention):
    """Does what nobody sees."""

    def forward(self, x):
        return self.qkv(x)[..., :H * D]


class SigmoidAttention(Attention):
    """Weights that compete with nobody."""

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.sigmoid(q @ k.transpose(1, 2)) @ v


class GatedDeltaNet(SilentAttention):
    """By its name."""


class MambaMixer(SilentAttention):
    """By its name, which does not say attention."""


class SoftLinearAttention(Attention):
    """Softmaxes over features and over positions, with no weight for a pair."""

    def attend(self, q, k, v):
        return q @ (k.transpose(2, 3).softmax(-1) @ v)


@pytest.mark.parametrize("kind, said", [
    (SigmoidAttention, "is sigmoid attention: no softmax, its weights sum to no 1: not captured"),
    (GatedDeltaNet, "is linear attention: no softmax, no weights: not captured"),
    (MambaMixer, "is a state space model: no softmax, no weights: not captured"),
    (SoftLinearAttention, "is not captured, as its name says linear attention, which has no weights for queries and keys. If the name is wrong, pass include=")])
def test_attention_without_weights_is_named_once_and_not_half_captured(trained, caplog, kind, said):
    it, _ = trained(Model(kind(), kind(), Attention()), steps=6)
    message, = caplog.messages
    assert it.layers == [("encoder", 2, "self")] and said in message and f"layers.0 ({kind.__name__}, and 1 more" in message
    told = it.publisher._settings.get(NOT_CAPTURED, "")
    assert told.startswith("layers.0: ") or kind is SoftLinearAttention


def test_an_excluded_module_is_not_missed(trained, caplog):
    it, _ = trained(Model(SilentAttention(), Attention()), exclude="layers.0")
    assert it.layers == [("encoder", 1, "self")] and not caplog.records


def test_a_probe_is_judged_as_the_training_is():
    model = Model(Layer(Router()))
    it = attnd.watch(model, job="job", endpoint=free_endpoint(), wait=0, exclude="*.before",
                     probe=torch.randn(B, T, H * D), probe_every=1)
    assert it._probe._watch.forwards.judge is it.forwards.judge is it._probe._watch.forwards.spy.judge
    it.close()


def test_a_named_layer_is_attention(trained, caplog):
    it, _ = trained(Model(Layer(Router())), layers={"layers.0.before": ("decoder", 7, "cross")})
    assert ("decoder", 7, "cross") in it.layers and not caplog.records


def test_a_pattern_that_matches_nothing_is_told_with_the_nearest_path(watched, caplog):
    it = watched(Model(Layer(Router())), exclude=["layer.0.befor", "layers.*.attn"], include="layers.0.before#1")
    it.close()
    assert caplog.messages == [
        "job job: exclude='layer.0.befor' matches no module of the model; the nearest path is 'layers.0.before'"]


@pytest.mark.parametrize("given", [3, ["a", 3], {"a": 1}, b"a"])
@pytest.mark.parametrize("name", ["include", "exclude"])
def test_patterns_that_are_none_are_refused(name, given):
    with pytest.raises(ValueError, match=f"{name} = .*: must be a pattern of module paths"):
        attnd.watch(Model(), job="job", endpoint=free_endpoint(), wait=0, **{name: given})


# ---------------------------------------------------------------------------------------------- arguments

@pytest.mark.parametrize("name, near", [("evry", "every"), ("sample", "samples"), ("linge", "linger"), ("excludes", "exclude"),
                                        ("tensor_paralel", "tensor_parallel"), ("zzz", None)])
def test_a_misspelt_argument_is_told_with_the_nearest(name, near):
    hint = rf"; did you mean '{near}'\?" if near else ""
    with pytest.raises(TypeError, match=rf"watch\(\) has no argument '{name}'{hint}$"):
        attnd.watch(Model(), "job", free_endpoint(), wait=0, **{name: 1})


def test_an_argument_that_is_given_twice_names_watch():
    with pytest.raises(TypeError, match=r"watch\(\) got multiple values for argument 'job'"):
        attnd.watch(Model(), "job", job="job")


def test_every_0_captures_nothing_as_in_a_plan(trained, caplog):
    it, sent = trained(Model(Attention()), every=0)
    assert not it.layers and sent == [] and not caplog.records
