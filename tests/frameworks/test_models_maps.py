# SPDX-License-Identifier: MIT
"""With tier `rows` attnd shows the maps of the heads that it makes itself of what tier `raw` sends: of every kind of model,
with what is said of them, up to the rounding of half precision."""
import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from session import SETTINGS, Attnd, Session, train  # noqa: E402
from zoo import handmade_kinds  # noqa: E402

from attnd.capture import origins  # noqa: E402

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()


@pytest.fixture(scope="module")
def pooling():
    daemon = Attnd(*SETTINGS, "maps.size=8", "maps.every=0s")
    Attnd.all.remove(daemon)  # it outlives a test
    yield daemon
    daemon.close()


def maps_of(daemon, kind, tier):
    """{layer: the answer of attnd} after a step."""
    model = kind.build()
    with Session(daemon) as session:
        session.watch(model, tier=tier, labels=lambda numbers: [f"t{number}" for number in numbers])
        list(train(model, kind, 1))
    layers = [layer for _, layer in session.summaries()]
    return {layer: daemon.call("maps", job=session.job, stack=layer[0], layer=layer[1], site=layer[2]) for layer in layers}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "published-by-hand"], ids=lambda kind: kind.name)
@pytest.mark.parametrize("where", ["cpu", "accelerator"])
def test_maps_of_rows_are_those_of_the_tensors(pooling, kind, where, monkeypatch):
    """`accelerator`: by the code for one, which runs on the CPU as well; what it leaves to tier raw is not looked at."""
    raw = maps_of(pooling, kind, "raw")
    if where == "accelerator":
        if not hasattr(torch.cpu, "Stream"):
            pytest.skip("this torch has no streams of the CPU")
        monkeypatch.setattr(origins, "computes", lambda device: True)
    made = maps_of(pooling, kind, "auto" if where == "accelerator" else "rows")
    assert raw and set(raw) == set(made)
    for layer, expected in raw.items():
        got = made[layer]
        assert got["tier"] == "rows" or where == "accelerator"
        assert max(got["rows"], got["columns"]) <= 8
        same = set(expected) - {"job", "run", "tier", "time_ns", "values"}
        assert {key: got[key] for key in same} == {key: expected[key] for key in same}, layer
        one, two = (np.array(answer["values"], dtype=float) for answer in (expected, got))
        np.testing.assert_allclose(two, one, rtol=2**-10, atol=2e-6, err_msg=str(layer))
