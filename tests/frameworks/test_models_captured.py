# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest

torch = pytest.importorskip("torch")
from session import Session, assert_right, expected_of, train  # noqa: E402
from attnd import capture  # noqa: E402
from zoo import handmade_kinds  # noqa: E402

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()

pytest_plugins = ("one_daemon",)
STEPS = 2


@pytest.mark.parametrize("tier, samples", [("raw", 0), ("raw", 1), ("state", 0), ("state", 2), ("accelerator", 0)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_number_of_every_head_is_right(stepwise, kind, tier, samples, monkeypatch):
    """`accelerator`: by the code for one, which runs on the CPU as well; what it leaves to tier raw travels as that."""
    model = kind.build()
    if tier == "accelerator":
        if not hasattr(torch.cpu, "Stream"):
            pytest.skip("this torch has no streams of the CPU")
        monkeypatch.setattr(capture, "computes", lambda device: True)
    with Session(stepwise) as session:
        watch = session.watch(model, samples=samples, tier="auto" if tier == "accelerator" else tier)
        trained = list(train(model, kind, STEPS))
    tiers = {"state": ("state",), "accelerator": ("state", *kind.tiers)}.get(tier, kind.tiers)
    if kind.name == "published-by-hand":
        tiers = kind.tiers
    assert watch._accelerator.is_trusted
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained, samples), tiers)
