# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest

pytest.importorskip("torch")
from session import Session, assert_right, expected_of, train  # noqa: E402
from zoo import handmade_kinds  # noqa: E402

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()

pytest_plugins = ("one_daemon",)
STEPS = 2


@pytest.mark.parametrize("tier, samples", [("raw", 0), ("raw", 1), ("state", 0), ("state", 2)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_number_of_every_head_is_right(stepwise, kind, tier, samples):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model, samples=samples, tier=tier)
        trained = list(train(model, kind, STEPS))
    by_hand = kind.name == "published-by-hand"
    tiers = ("state",) if tier == "state" and not by_hand else kind.tiers
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained, samples), tiers)
