# SPDX-License-Identifier: MIT
"""One training of each fault and a healthy one, judged as runs.py judges many; README.md has the table of those. Its
runs have 400 steps; these end as soon as the latest fault has been in force for five windows."""
import pytest

pytest.importorskip("torch")
import runs  # noqa: E402

SEED, STEPS = 7, 240
CAPTURED = [name for name, kind in runs.KINDS.items()
            if not kind.logits or hasattr(runs.torch.nn.functional, "scaled_dot_product_attention")]


def test_each_fault_is_named_first_at_its_head_and_healthy_runs_have_no_alert(capsys):
    with capsys.disabled():
        lines = runs.run_all(range(SEED, SEED + 1), ["healthy", *CAPTURED], runs.SMALL, STEPS)
        print("\n".join(runs.table(lines)))
    assert [line["job"] for line in lines if line["false"]] == [], "alerts where nothing is wrong"
    sick = [line for line in lines if line["kind"] != "healthy"]
    assert len(sick) == len(CAPTURED) and not any(line["green"] for line in sick)
    assert [line["job"] for line in sick if not line["right"]] == []
