# SPDX-License-Identifier: MIT
"""States as the client packs them: the golden bytes, and what is refused. tests/e2e compares them with the daemon's."""
import runpy
import sys

import msgpack
import numpy as np
import pytest

from attnd.sending import layer_state
from attnd.sending.layer_state import LayerState, bucket_keys
from conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
NAN = float("nan")


def pack_state(rows, heads=None, **about):
    """The bytes of a state of one capture; of as many heads as the rows, unless they are said."""
    state = LayerState(heads or max((int(array.shape[1]) for array in rows.values()), default=1))
    state.add(rows, **about)
    return state.pack()


def test_golden_bytes_are_written_again():
    made = runpy.run_path(str(GOLDEN / "make.py"))
    assert made["layer_state_of"]().pack() == (GOLDEN / "layer_state.msgpack").read_bytes()


def test_metrics_are_those_of_the_daemon_in_its_order():
    lines = (ROOT / "proto" / "metric.def").read_text().split("\n")
    known = [line.split('"')[1] for line in lines if line.startswith("METRIC(")]
    rows = [line.split('"')[1] for line in lines if line.startswith("METRIC(") and ", ROW," in line]
    assert list(layer_state.METRICS) == known[:len(layer_state.METRICS)]
    assert list(layer_state.ROW_METRICS) == rows


def test_buckets_hold_their_upper_bound():
    bounds = np.array([2.0**-40, 2.0**-3, 1.0, 2.0, 2.0**40])
    keys = bucket_keys(bounds)
    assert list(keys) == [1, 1185, 1281, 1313, 2561]
    assert list(bucket_keys(np.nextafter(bounds[1:4], np.inf))) == [1186, 1282, 1314]
    assert list(bucket_keys(-bounds)) == list(-keys)
    assert list(bucket_keys([0.0, 2.0**-41, -0.0, 1e300, -1e300])) == [0, 0, 0, 2561, -2561]


def test_what_was_not_computed_is_absent():
    packed = msgpack.unpackb(pack_state({"entropy": np.full((1, 2, 4), NAN), "max_logit": np.ones((1, 2, 4))}, keys=4))
    assert packed["metrics"] == [name if name in ("entropy", "max_logit") else None for name in layer_state.ROW_METRICS]
    assert packed["rows"] == 8 and packed["invalid_rows"] == 0 and packed["messages"] == 1
    mask = int.from_bytes(packed["heads"][0][:16], "little")
    assert mask == 1 << layer_state.METRICS.index("max_logit")


def test_rows_without_numbers_are_padding_unless_they_are_valid():
    rows = {"entropy": np.array([[[1.0, NAN, NAN]]])}
    assert msgpack.unpackb(pack_state(rows, keys=3))["invalid_rows"] == 0
    packed = msgpack.unpackb(pack_state(rows, keys=3, valid=np.array([[True, True, False]])))
    assert (packed["rows"], packed["invalid_rows"], packed["heads_invalid_rows"]) == (1, 1, [1])


def test_a_sample_says_of_how_many_rows_it_is():
    state = LayerState(2)
    state.add({"entropy": np.ones((3, 2, 4))}, keys=64, sampled_of=64)
    assert msgpack.unpackb(state.pack())["rows_of"] == 3 * 2 * 64
    state.add({"entropy": np.ones((1, 2, 64))}, keys=64, step=1)  # all of one sample
    packed = msgpack.unpackb(state.pack())
    assert (packed["rows"], packed["rows_of"]) == (2 * (3 * 4 + 64), 2 * (3 * 64 + 64))
    for of in (None, 4):  # all rows are no sample
        assert "rows_of" not in msgpack.unpackb(pack_state({"entropy": np.ones((1, 2, 4))}, keys=4, sampled_of=of)), of


def test_values_beyond_1e300_do_not_exist():
    def packed(beyond):
        return pack_state({"max_logit": np.array([[[1.0, beyond, 3.0, beyond]]])}, keys=4, time_ns=1, row_sum_error=beyond,
                          valid=np.array([[True, True, True, False]]), values={"q_norm": np.array([beyond])})
    assert packed(1e305) == packed(np.inf) == packed(NAN)


def test_a_state_of_many_captures_has_the_counts_of_all():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(6, 2, 3, 50)) * rng.choice([1.0, -1.0], size=(6, 2, 3, 50))
    state = LayerState(3)
    for step in rng.permutation(6):
        state.add({"max_logit": values[step]}, keys=50, step=int(step), rank=int(step) * 20)
    whole = msgpack.unpackb(pack_state({"max_logit": values.reshape(12, 3, 50)}, keys=50))
    packed = msgpack.unpackb(state.pack())
    assert packed["messages"] == 6 and packed["rows"] == whole["rows"] == 6 * 2 * 3 * 50
    assert packed["newest"] == [0, 5, 0, 100] and state.first == (0, 0)
    assert packed["rank_first"] == 0 and int.from_bytes(packed["ranks"], "little") == sum(1 << 20 * i for i in range(6))
    for one, other in zip(packed["heads"], whole["heads"]):
        assert one[-40:] == other[-40:]  # the end of the histograms: counts do not depend on the order


@pytest.mark.parametrize("rows, about, word", [
    ({}, {}, "no metric"),
    ({"entropie": np.ones((1, 1, 1))}, {}, "entropie"),
    ({"mean": np.ones((1, 1, 1))}, {}, "mean"),
    ({"entropy": np.ones((1, 1))}, {}, "shape"),
    ({"entropy": np.ones((1, 1, 2)), "max_logit": np.ones((1, 1, 3))}, {}, "several shapes"),
    ({"entropy": np.ones((1, 2, 2))}, {"heads": 1}, "1 heads"),
    ({"entropy": np.ones((1, 1, 2))}, {"rank": 1 << 20}, "rank = 1048576: must be 0 to 1048575"),
    ({"entropy": np.ones((1, 1, 2))}, {"values": {"importance": np.ones(2)}}, "importance"),
])
def test_what_does_not_fit_is_refused(rows, about, word):
    with pytest.raises(ValueError, match=word):
        pack_state(rows, keys=4, **about)


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    rows = torch.rand(2, 3, 8, dtype=torch.float32)
    assert pack_state({"confidence": rows}, keys=8, time_ns=1) == pack_state({"confidence": rows.numpy()}, keys=8, time_ns=1)


def test_many_heads_are_packed_without_a_call_for_each():
    """Whoever packs has the interpreter's lock for as long as it calls: counted, as a clock would count a busy machine, too."""
    state, rng, calls = LayerState(1024), np.random.default_rng(1), []
    state.add({name: rng.lognormal(size=(1, 1024, 64)) for name in layer_state.ROW_METRICS}, keys=256)
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event in ("call", "c_call") else None)
    try:
        state.pack()
    finally:
        sys.setprofile(None)
    assert len(calls) < 17 * 1024  # records; a call of each was 170000
