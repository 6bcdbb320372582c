# SPDX-License-Identifier: MIT
"""A training that needs numpy only: deploy/attnd-bin/check runs it where attnd is installed from wheels. One layer of
attention with 4 heads learns to look at the token before, by gradient descent on its queries and keys.

Usage: train.py JOB STEPS
"""
import sys

import numpy as np

import attnd

HEADS, TOKENS, SIZE, RATE = 4, 24, 16, 2.0


def softmax(scores):
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def main(job, steps):
    rng = np.random.default_rng(7)
    query, key = (rng.normal(size=(HEADS, TOKENS, SIZE)) * 0.3 for _ in range(2))
    wanted = np.eye(TOKENS, k=-1)
    wanted[0, 0] = 1
    future = np.triu(np.full((TOKENS, TOKENS), -np.inf), 1)
    with attnd.Publisher(job, linger=30) as publisher:
        if not publisher.wait_for_subscriber(60):
            sys.exit("attnd does not listen")
        for step in range(steps):
            weights = softmax(query @ key.transpose(0, 2, 1) / SIZE**0.5 + future)
            publisher.publish_attention(weights.astype(np.float32)[None], stack="decoder", layer=0, step=step, causal=True)
            error = (weights - wanted) / SIZE**0.5
            query, key = query - RATE * error @ key, key - RATE * error.transpose(0, 2, 1) @ query
    print(f"loss {-np.log(weights[:, np.arange(1, TOKENS), np.arange(TOKENS - 1)]).mean():.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
