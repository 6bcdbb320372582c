# SPDX-License-Identifier: MIT
"""attnd tells when induction heads emerge (clients/python/examples/induction_heads.py)."""
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from harness import Attnd

pytest.importorskip("torch")
EXAMPLE = pathlib.Path(__file__).parents[2] / "clients/python/examples/induction_heads.py"
TRAINING_S = 500


def test_induction_heads_are_found_where_the_loss_bends(capsys):
    daemon = Attnd("window.unit=step", "window.length=10", "window.every=10", "window.timeout=1h", "limits.idle=24h")
    run = subprocess.run([sys.executable, EXAMPLE, "--steps", "260", "--lr", "6e-3", "--address", daemon.directory], capture_output=True,
                         text=True, check=True, timeout=TRAINING_S)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    heads = {line["head"]: line for line in lines if "head" in line}
    (bend,) = (line["loss_fell_most_at"] for line in lines if "loss_fell_most_at" in line)
    with capsys.disabled():
        print(f"\nloss {losses[0]:.2f} to {np.mean(losses[-20:]):.2f} nats, falls fastest at step {bend}; induction since "
              + ", ".join(f"{line['since']} ({name}, {line['score']:.2f})" for name, line in sorted(heads.items())))
    assert heads and all(name.startswith("decoder.1.self.") for name in heads), "the first layer cannot"
    assert all(line["score"] >= 0.5 for line in heads.values())
    assert abs(min(line["since"] for line in heads.values()) - bend) <= 60
    assert np.mean(losses[bend - 60:bend - 40]) - np.mean(losses[bend + 40:bend + 60]) > 1.0
    daemon.close()
