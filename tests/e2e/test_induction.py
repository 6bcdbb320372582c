# SPDX-License-Identifier: MIT
"""probe="induction": what attnd says of the probe is what numpy says of the model's weights on it."""
import numpy as np
import pytest
from harness import Attnd, Reader, wait_until

torch = pytest.importorskip("torch")
import attnd  # noqa: E402

WORDS, LAYERS, HEADS, WIDTH, LENGTH = 40, 2, 2, 16, 23


class Decoder(torch.nn.Module):
    """Attention and nothing else, of which it keeps the weights of its last forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.place, self.word = torch.nn.Embedding(64, WIDTH), torch.nn.Embedding(WORDS, WIDTH)
        self.qkv = torch.nn.ModuleList(torch.nn.Linear(WIDTH, 3 * WIDTH) for _ in range(LAYERS))
        self.seen, self.weights = None, []

    def forward(self, tokens):
        x, self.seen, self.weights = self.word(tokens) + self.place.weight[:tokens.shape[1]], tokens, []
        for qkv in self.qkv:
            q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv(x).chunk(3, -1))
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            weights = (q @ k.transpose(2, 3)).masked_fill(later, -torch.inf).softmax(-1)
            self.weights.append(weights.detach().double().numpy()[0])
            x = x + (weights @ v).transpose(1, 2).flatten(2)
        return x @ self.word.weight.T


def scores(weights, tokens):
    """(induction, duplicate_token) of each head [H]: the means over the queries whose token came before."""
    each = []
    for i, token in enumerate(tokens):
        before = [j for j in range(i) if tokens[j] == token]
        if before:
            each.append([[weights[h, i, [j + shift for j in before]].sum() for h in range(HEADS)] for shift in (1, 0)])
    return np.mean(each, 0)


def test_the_score_of_the_induction_probe_is_that_of_the_weights():
    daemon, model = Attnd("window.unit=step", "window.length=1"), Decoder()
    reader = Reader(daemon, "summary/")
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    expected = {}
    with attnd.watch(model, job="small", address=daemon.directory, probe="induction", probe_every=2, steps="manual",
                     wait=20.0, linger=20.0) as watch:
        assert watch.publisher.wait_for_subscriber(20.0) and watch._probe._watch.publisher.wait_for_subscriber(20.0)
        for step in range(1, 7):
            batch = torch.randint(WORDS, (4, LENGTH))
            torch.nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.roll(1).flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step()
            if step % 2 == 0:
                assert model.seen.tolist() == [attnd.repeated_tokens(WORDS, 12)[0, :LENGTH].tolist()] and model.training
                expected[step] = [scores(weights, model.seen[0].tolist()) for weights in model.weights]
    wait_until(lambda: sum(run["state"] == "ended" for run in daemon.call("jobs")) == 2, "the end of both")
    found = {(s["window"]["first"], s["layer"]): s for _, s in reader.everything()
             if s["job"] == "small.probe" and not s["snapshot"]}
    assert sorted(found) == [(step, layer) for step in (2, 4, 6) for layer in range(LAYERS)]
    for (step, layer), summary in found.items():
        for metric, score in zip(("induction", "duplicate_token"), expected[step][layer]):
            np.testing.assert_allclose(summary["heads"][metric]["mean"], score, rtol=0, atol=1e-5)
