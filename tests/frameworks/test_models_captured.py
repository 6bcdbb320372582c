# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest
from fixtures import daemon  # noqa: F401
from session import Session, assert_right, expected_of, train
from zoo import handmade_kinds

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()

STEPS = 2


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_number_of_every_head_is_right(daemon, kind, samples):  # noqa: F811
    model = kind.build()
    with Session(daemon) as session:
        session.watch(model, samples=samples)
        trained = list(train(model, kind, STEPS))
    assert_right(kind.name, session.summaries(), expected_of(kind, trained, samples), kind.tiers)
