# SPDX-License-Identifier: MIT
"""The numbers of one layer in float64, by the reference of clients/python/examples, for the tests of attnctl analyze: enough
to see that files, names, masks and options reach the engine as they should."""
import pathlib
import sys

import numpy as np
import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "kernels"))
from formulas import NATS  # noqa: E402,F401
from reference import Attention, Settings, measure  # noqa: E402
from reference_rows import visible  # noqa: E402


def valid_keys(shape, mask=None, documents=None, **limits):
    """[B, Tq, Tk]: whether key j takes part in row i; rows of queries that are padding are empty. `limits`: as of Attention."""
    mask, documents = (None if x is None else torch.from_numpy(np.array(x)) for x in (mask, documents))
    queries, seen = visible(Attention(torch.zeros(shape), mask=mask, documents=documents, **limits))
    return (seen & queries[..., None]).expand(shape[0], 1, *shape[2:])[:, 0].numpy()


def softmax(logits, valid):
    logits = np.where(valid, logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    return np.where(valid, np.nan_to_num(weights), 0)


def measured(a, valid, q_len=None, k_len=None, tokens=None, **settings):
    """Everything about weights [B, H, Tq, Tk] of self-attention at offset 0, of keys that are `valid`; sums of rows are right as
    far as those of bf16 are. `settings`: as of Settings."""
    tokens = None if tokens is None else torch.from_numpy(tokens)
    return measure(Attention(torch.from_numpy(np.array(a, float)), "bf16", mask=torch.from_numpy(np.array(valid)), q_len=q_len,
                             k_len=k_len, tokens=tokens), Settings(**settings))


def row_means(found):
    """{name: [H]} of row metrics; None: there is none."""
    return {name: [x.mean() if x.size else None for x in heads] for name, heads in found.rows.items()}
