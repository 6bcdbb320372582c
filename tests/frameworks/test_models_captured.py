# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest

pytest.importorskip("torch")
from session import TIERS, Session, assert_right, expected_of, tier_options, train  # noqa: E402
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
    model = kind.build()
    if tier not in TIERS:
        pytest.skip("this torch has no streams of the CPU")
    with Session(stepwise) as session:
        watch = session.watch(model, samples=samples, **tier_options(tier, monkeypatch))
        trained = list(train(model, kind, STEPS))
    tiers = {"state": ("state",), "accelerator": ("state", *kind.tiers)}.get(tier, kind.tiers)
    if kind.name == "published-by-hand":
        tiers = kind.tiers
    assert watch._accelerator.is_trusted
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained, samples), tiers)
