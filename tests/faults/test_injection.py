# SPDX-License-Identifier: MIT
"""Some of the failures of injection.py, spread over the whole life of attnd and of trainings in C."""
import pytest
from injection import inject

LIVES = {"training": 15, "restored": 8, "keyed": 8, "judge": 6, "libattn": 7, "reliable": 4, "lending": 3}


@pytest.mark.parametrize("scenario", LIVES)
def test_a_call_that_fails_ends_nothing_and_hides_nothing(scenario):
    def spread(count):
        step = max(1, count // LIVES[scenario])
        return range(1 + step // 2, count + 1, step)

    injected, broken = inject(scenario, spread)
    assert broken == []
    assert injected >= LIVES[scenario] // 2, "few of the calls came in that life"
