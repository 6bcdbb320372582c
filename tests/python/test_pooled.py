# SPDX-License-Identifier: MIT
"""The pooled maps of attnd.device against float64 numpy, entry by entry, with padding as workers/base/attention.h has it."""
import device_grid
import numpy as np
import pytest
import torch

from attnd import device
from attnd.device import pooled
from attnd.device.problem import Problem
from attnd.device.weights import Words

SIDE = 8


def extent(q_len, k_len, queries, keys, q_offset, mask, documents, cross):
    """first query, end, first key, end; and the queries that are no padding."""
    def valid(i):
        place = q_offset + i
        own = documents is None or place < keys
        return i < q_len and own and any((mask is None or mask[i, j]) and (documents is None or documents[j] == documents[place])
                                         for j in range(keys))
    end = q_len
    while not cross and end > 0 and k_len <= q_offset + end - 1 < keys:
        end -= 1
    known = [i for i in range(end) if valid(i)]
    rows = range(known[0], known[-1] + 1) if known else range(0)
    seen = range(k_len) if mask is None else [j for j in range(k_len) if any(mask[i, j] for i in rows)]
    if not rows or not seen:
        return 0, queries, 0, keys, [i for i in range(queries) if valid(i)]
    return rows.start, rows.stop, min(seen), max(seen) + 1, [i for i in rows if valid(i)]


def expected(weights, where, side):
    """weights [H, Tq, Tk] in f64, NaN or what does not count in rows that have none."""
    top, bottom, left, right, shown = where
    rows, columns = min(bottom - top, side), min(right - left, side)
    cells = np.full((len(weights), rows, columns), np.nan)
    for r in range(rows):
        i = [i for i in range(top + r * (bottom - top) // rows, top + (r + 1) * (bottom - top) // rows) if i in shown]
        for c in range(columns):
            j = slice(left + c * (right - left) // columns, left + (c + 1) * (right - left) // columns)
            for h in range(len(weights)):
                entries = weights[h, i, j]
                if np.isfinite(entries).any():
                    cells[h, r, c] = entries[np.isfinite(entries)].mean()
    return cells


def where_of(words, sample, queries, keys):
    bias, documents = words.get("bias"), words.get("documents")
    mask = None
    if bias is not None:
        allowed = bias if bias.dtype == torch.bool else bias > -9e3
        while allowed.dim() < 4:
            allowed = allowed[None]
        mask = allowed[sample if len(allowed) > 1 else 0].any(0).expand(queries, keys).numpy()
    q_len, k_len = ((words[name][sample] if name in words else most) for name, most in (("q_len", queries), ("k_len", keys)))
    return extent(q_len, k_len, queries, keys, words.get("q_offset", 0), mask,
                  None if documents is None or words["cross"] else documents[sample].numpy(), words["cross"])


def agree(maps, weights, where, tolerance):
    assert (maps.first_query, maps.first_query + maps.queries, maps.first_key, maps.first_key + maps.keys) == where[:4]
    want = expected(weights, where, SIDE)
    assert maps.values.dtype == np.float16 and maps.values.shape == want.shape
    np.testing.assert_array_equal(np.isnan(maps.values), np.isnan(want))
    error = np.nan_to_num(np.abs(maps.values.astype(float) - want))
    assert (error <= 2.0**-11 * np.nan_to_num(want) + 2.0**-24 + tolerance * np.nan_to_num(want)).all()


@pytest.mark.parametrize("mask", device_grid.MASKS)
@pytest.mark.parametrize("values", device_grid.VALUES)
def test_maps_are_those_of_the_weights(mask, values):
    for shape, dtype in device_grid.problems(mask, values):
        q, k, words = device_grid.make(mask, values, shape, dtype)
        truth, twice_delta = device_grid.truth(q, k, words)
        without = truth["valid"] & np.isnan(truth["entropy"])  # rows that see no key are left out
        weights = np.where(without[..., None], np.nan, truth["weights"])
        for sample in range(shape[0]):
            maps = device.pooled_maps(q, k, sample=sample, side=SIDE, **words)
            maps.check()
            assert (maps.sent(), maps.q_offset, maps.sample) == ((shape[3], shape[4]), words.get("q_offset", 0), sample)
            delta = 0 if dtype == "f64" else float(np.nan_to_num(twice_delta).max())
            agree(maps, weights[sample], where_of(words, sample, shape[3], shape[4]), 1e-5 + np.expm1(delta))


@pytest.mark.parametrize("chunk", [1, 40, 300])
def test_chunks_do_not_change_the_maps(chunk, monkeypatch):
    q, k, words = device_grid.make("sinks softcap bias causal window offset lengths", "plain", (2, 4, 2, 33, 33, 32), "f64")
    whole = device.pooled_maps(q, k, sample=1, side=SIDE, **words)
    monkeypatch.setattr(pooled, "_ENTRIES", chunk)
    monkeypatch.setattr(pooled, "_KEYS", 5)
    parts = device.pooled_maps(q, k, sample=1, side=SIDE, **words)
    np.testing.assert_array_equal(parts.values, whole.values)
    assert parts[1:] == whole[1:]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_maps_of_weights_are_pooled_as_they_are(dtype):
    rng = np.random.default_rng(1)
    weights = torch.as_tensor(rng.random((2, 3, 21, 30))).to(dtype)
    weights[1, 0, 4:9] = float("nan")
    weights[1, 2, 20, 3] = float("inf")
    mask = torch.ones(2, 21, 30, dtype=torch.bool)
    mask[1, :3] = mask[1, 10] = mask[1, :, :4] = mask[1, :, 28:] = False
    words = Words(True, 0, 2, 1, torch.tensor([21, 19]), torch.tensor([30, 27]), mask, True)
    where = extent(19, 27, 21, 30, 2, mask[1].numpy(), None, True)
    agree(pooled.of_weights(weights, words, 1, SIDE).read(), weights[1].double().numpy(), where, 1e-6)


def test_words_say_what_is_padding_instead_of_the_bias():
    q, k, words = device_grid.make("causal hidden", "plain", (1, 1, 1, 40, 40, 256), "f64")
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 5:, 5:] = True
    found = pooled.of_queries(Problem(q, k, **words), 0, SIDE, Words(True, mask=mask)).read()
    assert (found.first_query, found.queries, found.first_key, found.keys) == (5, 35, 5, 35)


@pytest.mark.parametrize("mask", device_grid.MASKS)
def test_nothing_asks_the_device_for_an_answer(mask):
    """A device without numbers cannot give any; shapes are those of the problem alone."""
    q, k, words = device_grid.make(mask, "plain", (2, 4, 2, 33, 20, 32), "f32")
    there = {name: torch.as_tensor(value, device="meta") if name in ("q_len", "k_len") else value.to("meta") if
             isinstance(value, torch.Tensor) else value for name, value in words.items()}
    found = pooled.of_queries(Problem(q.to("meta"), k.to("meta"), **there), 1, SIDE)
    assert found.values.shape == (4, SIDE, SIDE) and found.extent.shape == (4,)
    lengths, allowed = torch.empty(2, dtype=torch.int64, device="meta"), torch.empty(2, 33, 5, dtype=torch.bool, device="meta")
    found = pooled.of_weights(torch.empty(2, 4, 33, 5, device="meta"), Words(True, 3, 2, 1, lengths, lengths, allowed, True), 1, SIDE)
    assert found.values.shape == (4, SIDE, 5)


def test_what_has_no_map_is_refused():
    q = torch.zeros(2, 1, 3, 8)
    for change in ({"sample": 2}, {"sample": -1}, {"side": 65}, {"side": 0}, {"q_stride": 2}, {"window": -1}):
        with pytest.raises(ValueError):
            device.pooled_maps(q, q, **change)


def test_nothing_of_the_size_of_the_map_is_held_and_the_graph_is_left_alone():
    torch.manual_seed(0)
    q = torch.randn(1, 2, 4096, 16, requires_grad=True)
    k = torch.randn(1, 2, 4096, 16)
    largest = [0]
    real = torch.Tensor.exp_

    def spy(tensor):
        largest[0] = max(largest[0], tensor.numel())
        return real(tensor)
    torch.Tensor.exp_ = spy
    try:
        maps = device.pooled_maps(q, k, causal=True)
    finally:
        torch.Tensor.exp_ = real
    assert 0 < largest[0] <= 1 << 20 and maps.values.shape == (2, 64, 64) and q.grad is None
    sums = np.nan_to_num(maps.values.astype(float)).sum(2) * 64
    np.testing.assert_allclose(sums, 1, atol=2e-3)  # a row of cells has the weight of its queries
