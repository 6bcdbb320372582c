# SPDX-License-Identifier: MIT
"""Questions about the past: what is asked, and arrays out of packed answers."""
import numpy as np
import pytest
from test_subscriber import FakeControl

import attnd

RUN = "ab" * 16


@pytest.fixture
def router():
    fake = FakeControl()
    yield fake
    fake.close()


def answer(last, more=False, heads=None):
    """An answer of `history` whose mean is the unit, plus 100 per head."""
    def pack(values, kind):
        return np.array(values, kind).tobytes()

    means = pack(last, "<f8") if heads is None else [pack([u + 100 * h for u in last], "<f8") for h in range(heads)]
    windows = {name: pack(last, "<u8") for name in ("first", "last", "epoch", "step", "time_ns")}
    return {"job": "a", "run": RUN, "metric": "entropy", "more": more, "heads": [],
            "windows": {**windows, "partial": [False] * (len(last) - 1) + [True]}, "values": {"mean": means}}


@pytest.fixture
def asked(router):
    """asked(call, ...): what a call of a control returns when these results are answered in turn."""
    def ask(call, *results):
        router.answer_each(*(lambda number, result=result: [1, number, None, result] for result in results))
        with attnd.Control(router.endpoint) as control:
            return call(control)

    return ask


def test_a_series_is_arrays(router, asked):
    past = asked(lambda control: control.history("a", "ab", layer=3, head=2, metric="entropy", window="1 epoch", from_=3, to=9,
                                                 limit=7, statistics=("mean",)), answer([3, 4, 5]))
    assert past["values"]["mean"].dtype == np.float64 and past["values"]["mean"].tolist() == [3, 4, 5]
    assert past["windows"]["step"].dtype == np.uint64 and past["windows"]["step"].tolist() == [3, 4, 5]
    assert past["windows"]["partial"].tolist() == [False, False, True]
    assert router.seen == [[0, 1, "history", {
        "job": "a", "run": "ab", "layer": 3, "head": 2, "metric": "entropy", "window": "1 epoch", "from": 3, "to": 9,
        "limit": 7, "statistics": ["mean"], "packed": True}]]
    past["values"]["mean"][0] = 1  # an array of its own


def test_several_heads_are_rows(asked):
    past = asked(lambda control: control.history("a", limit=2), answer([1, 2], heads=3))
    assert past["values"]["mean"].tolist() == [[1, 2], [101, 102], [201, 202]]


def test_long_histories_come_in_pages(router, asked):
    past = asked(lambda control: control.history("a"), answer([1, 2], True, 2), answer([5], True, 2), answer([6, 7], False, 2))
    assert past["windows"]["last"].tolist() == [1, 2, 5, 6, 7] and not past["more"]
    assert past["values"]["mean"].tolist() == [[1, 2, 5, 6, 7], [101, 102, 105, 106, 107]]
    assert past["windows"]["partial"].tolist() == [False, True, True, False, True]
    assert [request[3]["from"] for request in router.seen] == [0, 3, 6]
    assert [request[3].get("run") for request in router.seen] == [None, RUN, RUN]


def test_a_map_is_an_array(router, asked):
    values = np.array([[1, 0.5], [0.25, 0], [0, 1]], "<f2")
    found = asked(lambda control: control.map("a", layer=1, last=4), {"rows": 3, "columns": 2, "values": values.tobytes()})
    assert found.dtype == np.float32 and np.array_equal(found, values.astype(np.float32))
    assert router.seen == [[0, 1, "map", {"job": "a", "layer": 1, "last": 4, "packed": True}]]


SERIES = [{"name": "loss", "step": [1], "epoch": [0], "time_ns": [5], "value": [None]}]


@pytest.mark.parametrize("call, method, params, result, found", [
    (lambda control: control.alerts("a", rule="r", from_=3), "alerts", {"job": "a", "rule": "r", "from": 3}, {}, {}),
    (lambda control: control.alerts(), "alerts", {}, {}, {}),
    (lambda control: control.compare("a/12", "b", windows=5), "compare",
     {"job": "a", "run": "12", "job_b": "b", "windows": 5}, {}, {}),
    (lambda control: control.compare("a", "a/34"), "compare", {"job": "a", "job_b": "a", "run_b": "34"}, {}, {}),
    (lambda control: control.windows("a", layer=1), "windows", {"job": "a", "layer": 1}, {}, {}),
    (lambda control: control.log("a", RUN[:8]), "log", {"job": "a", "run": RUN[:8]},
     {"job": "a", "run": RUN, "series": SERIES}, SERIES),
    (lambda control: control.runs("a"), "runs", {"job": "a", "limit": 200000},
     {"runs": [{"run": RUN}], "more": False}, [{"run": RUN}])])
def test_what_is_asked_and_returned(router, asked, call, method, params, result, found):
    assert asked(call, result) == found and router.seen == [[0, 1, method, params]]


def test_a_refusal_tells_what_there_is(router):
    router.answer(lambda n: [1, n, {"code": "no_history", "message": "it has entropy"}, None])
    with attnd.Control(router.endpoint) as control, pytest.raises(attnd.ControlError, match="it has entropy") as error:
        control.history("a", metric="x")
    assert error.value.code == "no_history"
