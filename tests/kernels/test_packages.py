# SPDX-License-Identifier: MIT
"""Agreement with packages that compute the same things. Each test is skipped without its package, and all without
ATTNCTL; to run them all:

    python3 -m venv /tmp/packages && /tmp/packages/bin/pip install pytest torch transformer_lens weightwatcher
    ATTNCTL=build/clients/cli/attnctl /tmp/packages/bin/python tests/kernels/test_packages.py

Where definitions differ, the test says how one follows from the other; KERNELS.md has the same in words."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

ATTNCTL = os.environ.get("ATTNCTL", "")
pytestmark = pytest.mark.skipif(not ATTNCTL, reason="ATTNCTL is not set: it names the attnctl to compare with")
HEADS, LENGTH = 4, 48


def analyze(path, *options, **arrays):
    np.savez(path, **arrays)
    done = subprocess.run([ATTNCTL, "analyze", "--json", *options, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["layers"][0]


@pytest.fixture
def pattern():
    """A causal pattern [1, H, T, T], and tokens that repeat."""
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(1, HEADS, LENGTH, LENGTH)) * np.array([0.5, 1, 2, 4]).reshape(1, HEADS, 1, 1)
    logits = np.where(np.tril(np.ones((LENGTH, LENGTH), bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    half = rng.permutation(1000)[: LENGTH // 2]
    return weights.astype(np.float32), np.concatenate([half, half]).astype(np.int32)


def test_head_scores_agree_with_transformer_lens(pattern, tmp_path):
    """Their score is the weight on the detected entries over the weight of all rows; ours is the mean over the
    rows that have such an entry at all."""
    detector = pytest.importorskip("transformer_lens.head_detector")
    torch = pytest.importorskip("torch")
    weights, tokens = pattern
    got = analyze(tmp_path / "a.npz", "--causal", "--groups", "core",
                  **{"decoder.0.self": weights, "decoder.0.self.tokens": tokens[None]})["heads"]
    kinds = {
        "previous_token": detector.get_previous_token_head_detection_pattern,
        "duplicate_token": detector.get_duplicate_token_head_detection_pattern,
        "induction": detector.get_induction_head_detection_pattern,
    }
    rows = {"previous_token": LENGTH - 1, "duplicate_token": LENGTH // 2, "induction": LENGTH // 2}
    for name, detect in kinds.items():
        wanted = detect(torch.from_numpy(tokens.astype(np.int64))[None])
        for head in range(HEADS):
            score = detector.compute_head_attention_similarity_score(
                torch.from_numpy(weights[0, head]).clone(), wanted,
                exclude_bos=False, exclude_current_token=False, error_measure="mul")
            assert got[name][head] == pytest.approx(score * LENGTH / rows[name], rel=2e-5)


def test_spectra_agree_with_weightwatcher(tmp_path):
    """Their spectral_norm is the largest eigenvalue of W^T W, the square of ours; sv_max is ours. Stable rank is the same."""
    watcher = pytest.importorskip("weightwatcher")
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(96, 64, bias=False))
    details = watcher.WeightWatcher(model=model).analyze().iloc[0]
    got = analyze(tmp_path / "w.npz", "--heads", "4", **{"weights.0.wq": model[0].weight.detach().numpy()})
    whole = got["weights"]["wq"]["whole"]
    assert whole["stable_rank"] == pytest.approx(float(details["stable_rank"]), rel=1e-4)
    assert whole["spectral_norm"] == pytest.approx(float(details["sv_max"]), rel=1e-4)
    assert whole["spectral_norm"] ** 2 == pytest.approx(float(details["spectral_norm"]), rel=2e-4)


def test_spectra_agree_with_torch(pattern, tmp_path):
    torch = pytest.importorskip("torch")
    weights, _ = pattern
    got = analyze(tmp_path / "s.npz", "--groups", "spectrum", **{"decoder.0.self": weights})["spectrum"]
    for head in range(HEADS):
        matrix = torch.from_numpy(weights[0, head]).double()
        values = torch.linalg.svdvals(matrix)
        assert got["spectral_norm"][head] == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)
        assert got["nuclear_norm"][head] == pytest.approx(float(torch.linalg.matrix_norm(matrix, "nuc")), rel=1e-3)
        assert got["singular_values"][head] == pytest.approx(values[:16].tolist(), rel=1e-3)
        assert got["rank"][head] == int(torch.linalg.matrix_rank(matrix.float()))


if __name__ == "__main__":
    sys.exit(pytest.main(["-rs", __file__]))
