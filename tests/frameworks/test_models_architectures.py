# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of further architectures of transformers while they train: layers, heads and every row
metric equal those of eager float64 weights."""
import pytest

pytest.importorskip("transformers")
from session import Session, assert_right, expected_of, train  # noqa: E402
from zoo_architectures import architecture_kinds  # noqa: E402

pytest_plugins = ("one_daemon",)


@pytest.mark.parametrize("kind", architecture_kinds(), ids=lambda kind: kind.name)
def test_layers_heads_and_numbers_of_an_architecture_are_right(stepwise, caplog, kind):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model)
        trained = list(train(model, kind, 2))
    assert_right(kind.name, session.summaries(), expected_of(kind, trained), kind.tiers)
    assert not [record for record in caplog.records if record.name == "attnd"]
