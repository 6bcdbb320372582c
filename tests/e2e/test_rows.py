# SPDX-License-Identifier: MIT
"""A plan with `rows`: what a sample of the rows says is what all rows say, through attnd.watch and a real attnd, on
models that do not change.

A window's mean may be off by 4 standard errors of a random sample of as many rows: evenly spaced rows whose first one
rotates are off by less than 3, blocks of rows by up to 25.
"""
import numpy as np
import pytest
from harness import Attnd, Reader, wait_until

import formulas
from cases import Case

torch = pytest.importorskip("torch")

import attnd  # noqa: E402

B, H, T, D, ROWS, WINDOW = 2, 2, 512, 16, 32, 4
TURNS = T // ROWS
SETTINGS = ("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", f"window.also=[{TURNS} steps]",
            "drift.windows=2", "metrics.head_pairs=true", "maps.every=100ms")
RULES = """
rules:
  drift:
    metric: entropy
    statistic: abs_shift
    above: 2
  entropy_rises:
    metric: entropy
    each: head
    rises_by: 0.3
    within: 16
    for: 8
"""
ROW_ONLY = set(formulas.ROW_METRICS) - {"sink_deficit", "max_logit"}


class Softmax(torch.nn.Module):
    """Heads that look near themselves, at a sink and at what they are like; the weights themselves travel."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.like = torch.nn.Parameter(torch.randn(16, D, generator=generator))
        distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
        self.register_buffer("near", torch.stack([-0.05 * distance, torch.zeros(T, T) + 5 * (torch.arange(T) == 0)]))
        self.register_buffer("hidden", distance < 0)
        self.weights = None

    def forward(self, tokens):
        x = self.like[tokens]
        logits = (x @ x.transpose(1, 2))[:, None] / 4 + self.near
        weights = torch.softmax(logits.masked_fill(self.hidden, float("-inf")), dim=-1)
        self.weights = weights.detach()
        return (weights @ x[:, None]).mean()


class Attention(torch.nn.Module):
    """torch's own, fused: queries and keys travel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embed = torch.nn.Embedding(16, H * D)
        self.place = torch.nn.Embedding(T, H * D)
        self.attention = torch.nn.MultiheadAttention(H * D, H, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight[:2 * H * D] *= 2
        self.register_buffer("hidden", torch.arange(T)[None, :] > torch.arange(T)[:, None])

    def forward(self, tokens):
        x = self.embed(tokens) + self.place.weight
        return self.attention(x, x, x, attn_mask=self.hidden, need_weights=False)[0].mean()

    @property
    def weights(self):
        x = self.embed(TOKENS) + self.place.weight
        with torch.no_grad():
            return self.attention(x, x, x, attn_mask=self.hidden, average_attn_weights=False)[1]


TOKENS = torch.randint(16, (B, T), generator=torch.Generator().manual_seed(5))


def train(daemon, job, model, steps, rows):
    """All summaries of `steps` steps of a model that stays as it is, by length of the window."""
    reader = Reader(daemon, f"summary/{job}/")
    with attnd.watch(model, job=job, address=daemon.directory, every=1, rows=rows, samples=0, tokens=True, wait=20.0,
                     linger=20.0) as watch:
        assert watch.publisher.wait_for_subscriber(20.0)
        for _ in range(steps):
            model(TOKENS)
            watch.step()
    stats = watch.stats()
    assert stats["dropped"] == 0 and stats["sent"] == stats["published"], stats
    wait_until(lambda: any(run["job"] == job and run["state"] == "ended" for run in daemon.call("jobs")), "the end")
    found = {}
    for _, summary in reader.everything():
        if not summary["window"]["partial"] and not summary["snapshot"]:
            found.setdefault(summary["window"]["length"], []).append(summary)
    return found


def truth(weights):
    """{metric: [B, H, T] values of all rows, NaN where there is none}, float64."""
    case = Case(weights.double().numpy(), causal=True, tokens=TOKENS.numpy().astype("<i4"))
    sound, _, _ = formulas.judge(case, case.weights)
    assert sound.all()
    values = formulas.row_values(case, case.weights, 8)
    return {name: np.where(np.broadcast_to(exists, sound.shape), value, np.nan)
            for name, (value, exists) in values.items()}


def mean_of(summary, metric):
    return np.array(summary["heads"][metric]["mean"], np.float64)


@pytest.mark.parametrize("make, rotation", [(Softmax, 1e-12), (Attention, 1e-6)])
def test_a_constant_model_stays_where_it_is_and_its_map_is_unknown(make, rotation):
    daemon, model = Attnd(*SETTINGS, config=RULES), make()
    sampled = train(daemon, "sampled", model, 2 * TURNS, ROWS)
    whole = train(daemon, "whole", model, WINDOW, 0)[WINDOW][0]
    rows = truth(model.weights)
    windows, rotations = sampled[WINDOW], sampled[TURNS]
    assert len(windows) == 2 * TURNS // WINDOW and len(rotations) == 2
    assert all((window["rows"], window["rows_of"]) == (WINDOW * ROWS * B * H, WINDOW * T * B * H) for window in windows)
    assert "rows_of" not in whole
    assert ROW_ONLY <= set(windows[0]["heads"])
    largest = {}
    for metric in ROW_ONLY:
        mean, count = np.nanmean(rows[metric], axis=(0, 2)), np.isfinite(rows[metric]).sum((0, 2))
        error = np.nanstd(rows[metric], axis=(0, 2), ddof=1) * np.sqrt((1 - WINDOW / TURNS) / (count * WINDOW / TURNS))
        for window in windows:
            off = np.abs(mean_of(window, metric) - mean)
            assert (off <= 4 * error + 1e-5).all(), f"{metric}: {off / error} standard errors off {mean}"
            largest[metric] = max(largest.get(metric, 0), (off / np.maximum(error, 1e-12)).max())
        for one in rotations:
            np.testing.assert_allclose(mean_of(one, metric), mean, 1e-4, 1e-5, err_msg=metric)
            np.testing.assert_allclose(mean_of(one, metric), mean_of(whole, metric), rotation, err_msg=metric)
            assert one["heads"][metric]["count"] == list(count)
            for end in ("min", "max"):
                got, want = one["heads"][metric][end], whole["heads"][metric][end]
                np.testing.assert_allclose(got, want, rotation, err_msg=metric)
    print(make.__name__, "standard errors", {name: round(float(n), 2) for name, n in sorted(largest.items())})
    assert daemon.call("alerts", job="sampled")["alerts"] == [] == daemon.call("alerts", job="sampled")["firing"]
    assert_nothing_of_the_map(daemon, windows[0])


def assert_nothing_of_the_map(daemon, summary):
    """Which a sample of rows cannot tell."""
    assert summary["shape"] == [B, H, ROWS, T] and summary["causal"]
    assert not {"aggregate", "spectrum", "top_pairs", "head_top_pairs", "similarity"} & set(summary)
    assert not {"importance", "importance_gradient"} & set(summary["heads"])
    assert summary["sink_rate"] and ROW_ONLY <= set(summary["heads"])
    for method in ("maps", "rollout", "map"):
        with pytest.raises(RuntimeError, match="no_map|no_history"):
            daemon.call(method, job="sampled")
