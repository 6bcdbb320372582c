# SPDX-License-Identifier: MIT
"""Results of a real daemon as DataFrames: every number has its row, and none another's."""
import numpy as np
import pytest

pytest.importorskip("pandas", reason="pandas is not installed")

from bridged import EPOCHS, HEADS, JOB, LAYERS, PATIENCE_S, Training, daemon, wait_until  # noqa: E402

import attnd as client  # noqa: E402


@pytest.fixture
def trained():
    attnd = daemon()
    training = Training(attnd)
    training.epochs(0, EPOCHS)
    yield attnd, training
    training.trainer.close()
    attnd.close()


def test_summaries_of_the_control_socket(trained):
    attnd, training = trained
    with client.Control(attnd.endpoint("control"), PATIENCE_S) as control:
        table = client.frame(control.summary(JOB))
    last = training.steps()[-1]
    means = table[(table.metric == "entropy") & (table.statistic == "mean")]
    assert len(means) == LAYERS * HEADS and set(means["step"]) == {last} and set(means["unit"]) == {"epoch"}
    for layer in range(LAYERS):
        rows = means[means["layer"] == layer].sort_values("head")
        np.testing.assert_allclose(rows["value"], training.expected[layer, last], atol=1e-5)
    assert table[table.metric == "sink_rate"]["head"].isna().all()
    assert {"drift.shift", "p90", "count"} <= set(table["statistic"]) and "pattern" not in set(table["metric"])
    assert {"singular_values.1", "low_rank_error.16", "aggregate.mean.std"} <= set(table["metric"])
    assert str(table["head"].dtype) == "Int64" and str(table["time"].dtype) == "datetime64[ns, UTC]"


def kept(control):
    """Windows of layer 1 that the history has."""
    try:
        return len(control.history(JOB, layer=1, metric="entropy")["windows"]["step"])
    except client.ControlError as error:
        assert error.code in ("no_history", "run_unknown")
        return 0


def test_the_history_of_a_metric(trained):
    attnd, training = trained
    with client.Control(attnd.endpoint("control"), PATIENCE_S) as control:
        wait_until(lambda: kept(control) == EPOCHS, "the history")
        table = client.frame(control.history(JOB, layer=1, metric="entropy"))
        single = client.frame(control.history(JOB, layer=1, metric="entropy", head=3, statistics=["mean"]))
    means = table[table.statistic == "mean"].pivot(index="step", columns="head", values="value")
    assert means.shape == (EPOCHS, HEADS) and list(means.index) == training.steps()
    np.testing.assert_allclose(means.to_numpy(), [training.expected[1, step] for step in training.steps()], atol=1e-5)
    assert set(single["head"]) == {3} and list(single["value"]) == list(means[3])


def test_a_subscriber_reads_frames(trained):
    attnd, training = trained
    with client.Subscriber(attnd.endpoint("publish"), f"summary/{JOB}/") as subscriber:
        table = subscriber.frame(count=LAYERS, timeout=PATIENCE_S)
        assert set(table["layer"]) == set(range(LAYERS)) and set(table["kind"]) == {"summary"}
        assert len(subscriber.frame(timeout=0.1)) == 0


def test_what_is_no_result():
    with pytest.raises(TypeError, match="takes results"):
        client.frame(5)
    with pytest.raises(TypeError, match="no other dict"):
        client.frame({"jobs": []})
    table = client.frame([{"kind": "alert"}])
    assert len(table) == 0 and str(table["step"].dtype) == "Int64"
