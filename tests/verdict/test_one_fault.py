# SPDX-License-Identifier: MIT
"""One training with a fault in the middle: nothing fires before it, and then its check at its head, first. test_verdict.py,
which is long, has one of each fault."""
import pytest

pytest.importorskip("torch")
import runs  # noqa: E402

SEED, STEPS = 7, 240


def test_a_fault_is_named_first_at_its_head_and_nothing_before_it(capsys):
    with capsys.disabled():
        (line,) = runs.run_all(range(SEED, SEED + 1), ["uniform"], runs.SMALL, STEPS)
    assert line["false"] == 0 and not line["green"] and line["right"] and line["onset"]
