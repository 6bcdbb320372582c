# SPDX-License-Identifier: MIT
"""Heads that ranks share out: which ones these are is taken from DTensors and from weights, else nothing is captured."""
import pytest

torch = pytest.importorskip("torch", minversion="2.4")
pytest.importorskip("torch.testing._internal.distributed.fake_pg", reason="no process group without ranks in this torch")
import attnd  # noqa: E402
from watching import tensor_headers  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RANK, WORLD, H, T, D = 1, 2, 4, 6, 8


@pytest.fixture
def mesh():
    """Of rank 1 of two, the other of which is not there."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=WORLD)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    finally:
        dist.destroy_process_group()


@pytest.fixture
def shares(daemon):
    """shares(model, ...): (first head, heads of the layer) of each message of these calls. `said`: in the settings of the last
    hello, for `python -m attnd`."""
    def found(model, *calls, said=None, **options):
        with attnd.Publisher("job", daemon.endpoint, rank=RANK, world=WORLD) as publisher:
            daemon.attach(publisher)
            with attnd.watch(model, job="job", publisher=publisher, **options):
                for given in calls:
                    model(given)
        messages = daemon.until_bye()
        hello = [header for _, header, _ in messages if header.get("event") == "hello"][-1]
        assert hello.get("settings", {}).get("attnd.not_captured") == said
        return [(header.get("head_offset", 0), header.get("heads_total", header["tensors"][0]["shape"][1]))
                for header in tensor_headers(messages)]

    return found


def spread(mesh, placement, heads=H // WORLD, length=T):
    from torch.distributed.tensor import DTensor
    local = torch.rand(2, heads, length, D, requires_grad=True)
    return DTensor.from_local(local, mesh, [placement], run_check=False)


class Attention(torch.nn.Module):
    """Its heads are those that its weights make."""

    def __init__(self, heads=H // WORLD, **stated):
        super().__init__()
        self.q = torch.nn.Linear(H * D, heads * D)
        for name, count in stated.items():
            setattr(self, name, count)

    def forward(self, x):
        q = self.q(x).unflatten(-1, (-1, D)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q)


class Plain(torch.nn.Module):
    """DTensor may lack the operation, which is of no account: the model has made the call."""

    def forward(self, q):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, q, q)


def test_dtensors_tell_which_heads_these_are(shares, mesh):
    from torch.distributed.tensor import Shard
    assert shares(Plain(), spread(mesh, Shard(1))) == [(H // WORLD, H)]


@pytest.mark.parametrize("axis, why", [
    (2, ", spread over ranks along the sequence (context parallelism): none of them has a whole row. "
        "attnd.publish_qk takes a rank's queries with all keys"),
    (3, "; what to_local() makes of it is captured")])
def test_rows_that_no_rank_has_are_absent_and_said_once(shares, mesh, caplog, axis, why):
    from torch.distributed.tensor import Shard
    given, why = spread(mesh, Shard(axis), heads=H), f"its queries are a DTensor, {Shard(axis)}{why}"
    assert shares(Plain(), given, given, said=f"the model: {why}") == []
    assert len(caplog.records) == 1 and why in caplog.text


def test_weights_tell_which_heads_these_are(shares, mesh):
    """As ColwiseParallel makes them: queries and keys are plain tensors."""
    from torch.distributed.tensor import DTensor, Shard

    class Colwise(Attention):
        def forward(self, x):
            local = {name: getattr(self.q, name).to_local() for name in ("weight", "bias")}
            q = F.linear(x, **local).unflatten(-1, (-1, D)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q)

    model = Colwise()
    for name, parameter in list(model.q.named_parameters()):
        setattr(model.q, name, torch.nn.Parameter(DTensor.from_local(parameter.detach(), mesh, [Shard(0)], run_check=False)))
    assert shares(model, torch.rand(2, T, H * D)) == [(H // WORLD, H)]


class Whole(torch.nn.Module):
    """An output projection beside it, and weights whose axes lie otherwise."""

    def __init__(self, *axes):
        super().__init__()
        self.num_heads = H
        self.q = torch.nn.Parameter(torch.rand(axes))
        self.out = torch.nn.Linear(H // WORLD * D, H * D)

    def forward(self, x):
        q = torch.einsum("bti,hid->bhtd", x, self.q if self.q.dim() == 3 else self.q.unflatten(1, (-1, D)).transpose(0, 1))
        return self.out(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2))


class Gathered(Attention):
    """Ulysses: all weights, some of the positions; attends with some of the heads over all positions."""

    def forward(self, x):
        q = self.q(x).unflatten(-1, (-1, D)).transpose(1, 2)
        q = torch.cat([q[:, :H // WORLD]] * WORLD, 2)
        return F.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize("make", [
    lambda: Attention(num_heads=H), lambda: Gathered(H, num_heads=H), lambda: Whole(H // WORLD, H * D, D),
    lambda: Whole(H * D, H // WORLD * D)])
def test_heads_that_cannot_be_told_apart_are_not_merged(shares, caplog, make):
    x, why = torch.rand(2, T, H * D), "it computes 2 of its 4 heads on each rank. Say which: tensor_parallel=(index, size)"
    assert shares(make(), x, x, said=f"the model: {why}") == []
    assert len(caplog.records) == 1 and why in caplog.text


def test_a_given_share_is_taken(shares):
    assert shares(Attention(num_heads=H), torch.rand(2, T, H * D), tensor_parallel=(RANK, WORLD)) == [(H // WORLD, H)]


@pytest.mark.parametrize("heads, stated", [(H, {"num_heads": H}), (H // WORLD, {}), (H, {"num_heads": 2 * H})])
def test_ranks_with_all_heads_are_captured_as_ever(shares, heads, stated):
    class Halves(Attention):
        """Attends by some of its heads at a time, where it has more than are asked for."""

        def forward(self, x):
            q = self.q(x).unflatten(-1, (-1, D)).transpose(1, 2)[:, :heads]
            return F.scaled_dot_product_attention(q, q, q)

    model = Halves(stated.get("num_heads", heads), **stated)
    assert shares(model, torch.rand(2, T, H * D)) == [(0, heads)]
