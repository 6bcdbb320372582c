# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest

pytest.importorskip("torch")
from session import TIERS, assert_captured, tier_options  # noqa: E402
from zoo import handmade_kinds  # noqa: E402

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()

pytest_plugins = ("one_daemon",)


@pytest.mark.parametrize("tier, samples", [("raw", 0), ("raw", 1), ("rows", 0), ("rows", 2), ("accelerator", 0)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_number_of_every_head_is_right(stepwise, kind, tier, samples, monkeypatch):
    if tier not in TIERS:
        pytest.skip("this torch has no streams of the CPU")
    tiers = {"rows": ("rows",), "accelerator": ("rows", *kind.tiers)}.get(tier, kind.tiers)
    watch = assert_captured(stepwise, kind, name=f"{kind.name}, {tier}", samples=samples, **tier_options(tier, monkeypatch),
                            tiers=kind.tiers if kind.name == "published-by-hand" else tiers)
    assert watch.forwards.origins.accelerator.is_trusted
