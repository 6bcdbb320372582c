# SPDX-License-Identifier: MIT
"""The spy by itself: what it sees of the functions of torch, and that it leaves."""
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")

from attnd.forms.spy import Spy
from test_calls import random
from torch.nn import functional

SDPA = getattr(functional, "scaled_dot_product_attention", None)
needs_sdpa = pytest.mark.skipif(SDPA is None, reason="torch has no scaled_dot_product_attention")


class Watcher:
    """Keeps what it is told."""

    def __init__(self):
        self.seen, self.failures, self.forwards, self.grad, self.unread = [], [], 0, [], []
        self.notices = self
        self.is_settled = True

    def passes_over(self):
        pass

    def awaits(self, path):
        return False

    def begins(self, module):
        return True

    def saw(self, path, call, seen):
        self.seen.append((path, seen))
        self.grad.append(torch.is_grad_enabled())

    def cannot_read(self, path, why):
        self.unread.append((path, why))

    def ends(self, unseen):
        self.forwards += 1

    def failed(self, what):
        self.failures.append((what, sys.exc_info()[1]))


@pytest.fixture
def spied():
    """spied(model): a watcher of it."""
    spies = []

    def install(model):
        spies.append(Spy(model, Watcher()))
        spies[-1].install()
        return spies[-1].watcher

    yield install
    for spy in spies:
        spy.remove()
    assert modes() == 0


def modes():
    """How many modes torch has now."""
    return torch._C._len_torch_function_stack() if hasattr(torch._C, "_len_torch_function_stack") else 0


class Calls(torch.nn.Module):
    """Does what it is given."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Identity()

    def forward(self, what):
        return what(self)


def softmax_of(x):
    return lambda _: functional.softmax(x, -1)


def test_a_forward_that_is_interrupted_is_over(spied):
    x, model = torch.randn(1, 2, 4, 4), Calls()
    watcher = spied(model)

    def interrupt(module):
        module.inner(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model(interrupt)
    functional.softmax(x, -1)  # of somebody else
    assert watcher.seen == []
    torch.nn.Identity()(x)  # any module: what was left is taken away
    assert (watcher.forwards, modes()) == (1, 0)
    model(softmax_of(x))
    assert [path for path, _ in watcher.seen] == [""] and watcher.forwards == 2 and not watcher.failures


def test_a_part_that_is_interrupted_is_over_and_the_rest_goes_on(spied):
    x, model = torch.randn(1, 2, 4, 4), Calls()
    model.other = Calls()
    watcher = spied(model)

    def interrupt(_):
        raise KeyboardInterrupt

    def outer(module):
        with pytest.raises(KeyboardInterrupt):
            model.other(interrupt)
        module.inner(x)
        return functional.softmax(x, -1)

    model(outer)
    assert [path for path, _ in watcher.seen] == [""] and watcher.forwards == 1 and modes() == 0


def test_nothing_that_is_looked_at_is_for_autograd(spied):
    model, x = Calls(), torch.randn(1, 2, 4, 4, requires_grad=True)
    watcher = spied(model)
    model(softmax_of(x))
    assert watcher.grad == [False] and torch.is_grad_enabled()


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch cannot compile here")
def test_warnings_that_are_said_once_are_said_once(spied):
    pytest.importorskip("torch._dynamo")
    model, shown = Calls(), []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        spied(model)  # adds the filter
        warnings.showwarning = lambda *args, **kwargs: shown.append(args)
        for _ in range(3):
            spy = Spy(model, Watcher())
            spy.install()
            warnings.warn("said once per place")
            spy.remove()
    assert len(shown) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_is_seen_while_a_cuda_graph_is_captured(spied):
    model, x = Calls(), torch.randn(1, 2, 4, 4, device="cuda")
    watcher = spied(model)
    model(softmax_of(x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(softmax_of(x))
    graph.replay()
    assert len(watcher.seen) == 1 and not watcher.failures


@needs_sdpa
@pytest.mark.parametrize("queries, keys, mask", [
    ((2, 4, 6, 8), (2, 4, 6, 8), (4, 6, 6)), ((2, 4, 6, 8), (2, 4, 6, 8), (2, 1, 6, 6)),
    ((2, 4, 6, 8), (2, 4, 6, 8), (1, 6)), ((3, 6, 8), (3, 6, 8), (3, 6, 6)), ((3, 6, 8), (3, 6, 8), (6, 6)),
    ((6, 8), (6, 8), (6, 6)), ((2, 3, 4, 6, 8), (2, 3, 4, 6, 8), (3, 4, 6, 6)),
    ((2, 3, 4, 6, 8), (3, 4, 6, 8), (2, 1, 1, 6, 6)), ((4, 6, 8), (2, 4, 6, 8), (4, 6, 6)),
    ((2, 3, 4, 6, 8), (1, 1, 4, 6, 8), None), ((2, 3, 4, 6, 8), (2, 3, 4, 6, 8), (4, 6, 6))])
def test_queries_of_any_number_of_axes_mean_what_torch_computes(spied, queries, keys, mask):
    model, q, k = Calls(), random(*queries), random(*keys, seed=1)
    bias = None if mask is None else random(*mask, seed=2)
    watcher = spied(model)
    lead = torch.broadcast_shapes(queries[:-2], keys[:-2])
    values = torch.eye(6).expand(*lead, 6, 6)  # the output is the weights
    weights = model(lambda _: SDPA(q, k, values, attn_mask=bias))
    seen = watcher.seen[0][1]
    logits = seen.q @ seen.k.transpose(2, 3) / 8**0.5 + (0 if seen.mask is None else seen.mask)
    assert logits.dim() == 4 and seen.q.dim() == 4 and (seen.mask is None or seen.mask.dim() == 4)
    heads = 1 if len(lead) < 2 else lead[-1]
    assert torch.allclose(logits.softmax(-1), weights.reshape(-1, heads, 6, 6), atol=1e-6) and not watcher.failures
