# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of each kind of model while it trains, and the daemon makes of it: every row metric of
every layer and head equals that of float64 weights computed independently."""
import pytest
from session import SETTINGS, Attnd, Session, assert_right, expected_of, report, train
from zoo import handmade_kinds

try:
    from zoo_transformers import transformers_kinds
    KINDS = [*handmade_kinds(), *transformers_kinds()]
except ImportError:
    KINDS = handmade_kinds()

STEPS = 2


@pytest.fixture(scope="module")
def daemon():
    """One for all kinds: each has a job of its own."""
    daemon = Attnd(*SETTINGS)
    Attnd.all.remove(daemon)  # it outlives a test
    yield daemon
    daemon.close()
    for name, summaries, worst in report:
        print(f"{name:<40} {summaries:>4} summaries, largest relative error {worst:.2e}")


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_number_of_every_head_is_right(daemon, kind, samples):
    model = kind.build()
    with Session(daemon) as session:
        session.watch(model, samples=samples)
        trained = list(train(model, kind, STEPS))
    assert_right(kind.name, session.summaries(), expected_of(kind, trained, samples), kind.tiers)
