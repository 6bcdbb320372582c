# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of further architectures of transformers while they train: layers, heads and every row
metric equal those of eager float64 weights."""
import pytest

pytest.importorskip("transformers")
from session import Session, assert_right, expected_of, train  # noqa: E402
from zoo_architectures import architecture_kinds  # noqa: E402

pytest_plugins = ("one_daemon",)


@pytest.mark.parametrize("tier", ["raw", "state"])
@pytest.mark.parametrize("kind", architecture_kinds(), ids=lambda kind: kind.name)
def test_layers_heads_and_numbers_of_an_architecture_are_right(stepwise, caplog, kind, tier):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model, tier=tier)
        trained = list(train(model, kind, 2))
    tiers = ("state",) if tier == "state" else kind.tiers
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained), tiers)
    assert not [record for record in caplog.records if record.name == "attnd"]
