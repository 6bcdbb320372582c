# SPDX-License-Identifier: MIT
"""libattn to a real attnd: what C publishes gives the numbers that the same arrays give from Python, and the example
in C trains, is watched, and knows its own entropies."""
import json
import os
import subprocess

import numpy as np
import pytest
from harness import DTYPE_NAME, Attnd, Reader, as_bf16, softmax_maps

import attnd as package

PUBLISH = os.environ.get("ATTN_PUBLISH_ARRAYS", "build/tests/e2e/publish_arrays")
TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
B, H, G, T, D, R = 2, 6, 3, 12, 8, 5
LENGTHS = np.array([12, 7], np.int32)
# Whose the message is, and when it came.
OWN = ("job", "run", "time_ns", "window")


def from_c(daemon, tmp_path, tier, **fields):
    """Publishes by the helper in C; arrays travel as files."""
    arguments = []
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            path = tmp_path / name
            path.write_bytes(np.ascontiguousarray(value).tobytes())
            value = f"@{path}"
        arguments.append(f"{name}={value}")
    subprocess.run([PUBLISH, daemon.endpoint("ingest"), "c", tier, *arguments], check=True, timeout=60)


def from_python(daemon, tier, arrays, **keys):
    with package.Publisher("python", daemon.endpoint("ingest"), linger=10) as publisher:
        assert publisher.wait_for_subscriber(20)
        assert getattr(publisher, f"publish_{tier}")(*arrays, stack="decoder", layer=0, **keys)
        publisher.epoch_end(0)


def assert_same(tmp_path, tier, c, arrays, **python):
    """What C publishes and what Python does have one summary, but for what is its own."""
    daemon = Attnd("metrics.spectrum_budget=0", "metrics.similarity=true", "metrics.head_pairs=true")  # computes all it can
    reader, found = Reader(daemon, "summary/"), {}
    from_c(daemon, tmp_path, tier, **c)
    from_python(daemon, tier, arrays, **python)
    while len(found) < 2:
        _, summary = reader.next()
        assert summary["messages"] == 1 and (summary["rows"] > 0 or summary["tier"] == "weights")
        found[summary["job"]] = {key: value for key, value in summary.items() if key not in OWN}
    assert found["c"].get("heads") or found["c"]["weights"], "there is something to compare"
    # As JSON, in which numbers that do not exist are equal.
    assert json.dumps(found["c"], sort_keys=True) == json.dumps(found["python"], sort_keys=True)


SHAPE = dict(batch=B, heads=H, queries=T, keys=T)


MAPS = {
    "plain": {},
    "causal": dict(causal=True, window=5, learned_sink=True),
    "lengths": dict(q_len=LENGTHS, k_len=LENGTHS),
    "documents": dict(causal=True, documents=np.repeat([[1, 1, 7], [4, 5, 5]], T // 3, axis=1).astype(np.int32)),
    "slice": dict(head_offset=2, heads_total=16, dropout=True),
}


def as_numbers(said):
    """As the helper takes them."""
    return {key: int(value) if isinstance(value, bool) else value for key, value in said.items()}


def as_arrays(kind, *arrays):
    """As Python publishes them: bf16 is a dtype of torch's."""
    if kind == "f32":
        return arrays
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(as_bf16(x).astype(np.int16)).view(torch.bfloat16) for x in arrays]


def of_output(rng):
    """What the output is judged by, besides values."""
    return dict(wo_r=rng.normal(size=(H, R, D)).astype(np.float32), x_norm=rng.random((B, T), np.float32))


@pytest.mark.parametrize("case", MAPS)
def test_attention_from_c_is_that_from_python(case, rng, tmp_path):
    weights = softmax_maps(rng, B, H, T, T, causal="causal" in MAPS[case]).astype(np.float16)
    extra = dict(tokens=rng.integers(0, 5, (B, T), np.int32), grad=rng.normal(size=weights.shape),
                 mask=np.ones((B, T, T), np.uint8), v=rng.normal(size=(B, G, T, D)), **of_output(rng))
    c = dict(weights=weights, dtype="f16", grad_dtype="f64", v_dtype="f64", kv_heads=G, value_dim=D, written_dim=R,
             **SHAPE, **extra, **as_numbers(MAPS[case]))
    assert_same(tmp_path, "attention", c, [weights], **extra, **MAPS[case])


@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_queries_and_keys_from_c_are_those_from_python(case, kind, rng, tmp_path):
    cast, dtype = (as_bf16, "bf16") if kind == "bf16" else (np.asarray, "f32")
    q = rng.normal(size=(B, H, T, D)).astype(np.float32)
    k, v = (rng.normal(size=(B, G, T, D)).astype(np.float32) for _ in range(2))
    said = {key: value for key, value in MAPS[case].items() if key not in ("dropout", "learned_sink")}
    output = dict(dout=rng.normal(size=(B, H, T, D)), **of_output(rng))
    c = dict(q=cast(q), k=cast(k), v=cast(v), q_dtype=dtype, k_dtype=dtype, v_dtype=dtype, dout_dtype="f64", written_dim=R,
             head_dim=D, kv_heads=G, softcap=20, scale=0.3, **output, **SHAPE, **as_numbers(said))
    assert_same(tmp_path, "qk", c, as_arrays(kind, q, k, v), softcap=20.0, scale=0.3, **output, **said)


def test_what_a_plan_leaves_is_that_part_published_from_python(rng, tmp_path):
    """One sample, heads 1 to 3 (key heads 0, 1 and 1), of the 12 rows 1, 4, 7 and 10."""
    q = rng.normal(size=(B, H, T, D)).astype(np.float32)
    k, v = (rng.normal(size=(B, G, T, D)).astype(np.float32) for _ in range(2))
    dout, output = rng.normal(size=(B, H, T, D)).astype(np.float32), of_output(rng)
    c = dict(q=q, k=k, v=v, dout=dout, written_dim=R, head_dim=D, kv_heads=G, causal=1, scale=0.3, q_len=LENGTHS,
             k_len=LENGTHS, step=2, plan_samples=1, plan_rows=4, plan_first=1, plan_last=3, **output, **SHAPE)
    assert_same(tmp_path, "qk", c, [q[:1, 1:4, 1::3], k[:1, [0, 1, 1]], v[:1, [0, 1, 1]]], causal=True, scale=0.3, q_len=[4],
                k_len=[12], q_offset=1, q_stride=3, step=2, head_offset=1, heads_total=H, dout=dout[:1, 1:4, 1::3],
                wo_r=output["wo_r"][1:4], x_norm=output["x_norm"][:1, 1::3])


def test_matrices_from_c_are_those_from_python(rng, tmp_path):
    wq = rng.normal(size=(H * D, 24)).astype(np.float32)
    wk, wv = (rng.normal(size=(G * D, 24)) for _ in range(2))
    wo = rng.normal(size=(24, H * D)).astype(np.float16)
    both = dict(heads=H, head_dim=D, kv_heads=G, wq=wq, wk=wk, wv=wv, wo=wo)
    dtypes = {f"{name}_dtype": DTYPE_NAME[str(x.dtype)] for name, x in dict(wk=wk, wv=wv, wo=wo).items()}
    assert_same(tmp_path, "weights", dict(both, **dtypes, wq_width=24, wk_width=24, wv_width=24, wo_width=24), [], **both)


def test_the_example_is_measured_as_it_measures_itself(attnd):
    reader = Reader(attnd, "summary/example-c/")
    done = subprocess.run([TRAIN, "--address", attnd.directory, "20000", "4"], check=True, capture_output=True, text=True,
                          timeout=120)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["loss"] > 1 and lines[-1]["loss"] < 0.01, "it has learned"
    for line in lines:
        topic, summary = reader.next()
        assert topic == "summary/example-c/decoder/0/self/"
        assert summary["window"]["last"] == line["epoch"] and summary["messages"] == 20
        # Both from the same f32 weights; attnd's entropy is right to 1e-4 nats.
        assert np.allclose(summary["heads"]["entropy"]["mean"], line["entropy"], rtol=0, atol=1e-4)
    assert done.stderr == ""
    assert attnd.stats()["reliable_acknowledged"] == 0, "all of it came by the default lane"
    assert summary["heads"]["previous_token"]["mean"][0] > 0.5, "it looks where it should"
