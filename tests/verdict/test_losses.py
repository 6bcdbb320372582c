# SPDX-License-Identifier: MIT
"""Loss curves of all kinds: losses.py judges many, daemon/alerts/README.md has the table of those."""
import os

import losses


def test_healthy_losses_are_silent_and_sick_ones_are_told_after_they_began(capsys):
    rows = losses.judge_all(os.environ["ATTND_JUDGE_LOSSES"], range(300, 306))
    with capsys.disabled():
        print("\n".join(losses.table(rows)))
    healthy, sick = ([row for row in rows if row["sick"] == is_sick] for is_sick in (False, True))
    assert sum(row["false"] for row in healthy) <= 0.02 * sum(row["curves"] for row in healthy)
    assert sum(row["false"] for row in sick) == 0, "told before the fault"
    assert sum(row["told"] for row in sick) >= 0.8 * sum(row["curves"] for row in sick)
    sudden = [row for row in sick if row["kind"] in ("collapses", "swings")]
    assert sum(row["inside"] for row in sudden) >= 0.9 * sum(row["told"] for row in sudden)
