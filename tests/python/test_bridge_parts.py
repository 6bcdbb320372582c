# SPDX-License-Identifier: MIT
"""The parts of the bridge that need no daemon: names, pictures, memory, and sinks that misbehave."""
import contextvars
import enum
import io
import math
import sys
import threading
import time
import types

import numpy as np
import pytest
from attnd.base import flat, wire
from attnd.bridge import Bridge, JsonLinesSink, MissingPackage, Selection, Sink, TrackioSink, heatmap, pump
from attnd.bridge.items import End, Ledger, Note, Picture, Run, Scalars
from attnd.bridge.past import window_text
from attnd.bridge.pictures import Pictures
from attnd.bridge.pump import checked_window
from attnd.bridge.sink import SinkGone, read_ledger, write_ledger
from attnd.bridge.worker import RUNS_OPEN_MAX, Worker
from attnd.notebook.live import POINTS_MAX, Course
from conftest import wait_until

RUN = Run("gpt", "0123456789abcdef0123456789abcdef")


def summary(layer=0, last=0, heads=12, step=None, stack="decoder", **more):
    mean = (np.arange(heads) + layer) / 100.0
    return {"kind": "summary", "job": RUN.job, "run": RUN.run, "epoch": last,
            "step": last * 10 + 9 if step is None else step, "time_ns": 1000 + last, "stack": stack, "layer": layer, "site": "self",
            "window": {"unit": "epoch", "first": last, "last": last, "length": 1, "every": 1, "partial": False},
            "heads": {"entropy": {"mean": mean, "p90": mean * 2}, "pattern": {"last": ["local"] * heads}}, **more}


def scalars(position=1, where="decoder.0.self 1 epoch", run=RUN):
    return Scalars(run, where, (position,), 0, position, 5, {"attn/x": 1.0}, {})


# ------------------------------------------------------------------------------------------- names

def test_names_are_padded_to_the_layers_heads():
    values = Selection(metrics="entropy").values(summary())
    assert [name for name in values if "head_" in name][:2] == [
        "attn/decoder.0.self/entropy/head_00", "attn/decoder.0.self/entropy/head_01"]
    assert values["attn/decoder.0.self/entropy/head_11"] == 0.11
    assert "attn/decoder.0.self/entropy/head_7" in Selection(metrics="entropy").values(summary(heads=8))


def test_aggregates_over_heads_leave_out_what_is_missing():
    result = summary(heads=3)
    result["heads"]["entropy"]["mean"] = np.array([1.0, np.nan, 2.0])
    values = Selection(metrics="entropy").values(result)
    assert {name.rpartition("/")[2]: value for name, value in values.items()} == {
        "head_0": 1.0, "head_2": 2.0, "heads_mean": 1.5, "heads_min": 1.0, "heads_max": 2.0}


def test_statistics_drift_and_numbers_of_the_layer_have_names_of_their_own():
    result = summary(heads=2, sink_rate={"mean": 0.5, "last": 1.0}, drift={"entropy": {"shift": np.array([3.0, np.nan])}},
                     aggregate={"mean": {"std": {"mean": 0.25}}})
    values = Selection(metrics="*", statistics=("mean", "p90", "drift.shift")).values(result)
    assert values["attn/decoder.0.self/entropy.p90/head_1"] == pytest.approx(0.02)
    assert values["attn/decoder.0.self/entropy.drift.shift/head_0"] == 3.0
    assert "attn/decoder.0.self/entropy.drift.shift/head_1" not in values
    assert values["attn/decoder.0.self/sink_rate"] == 0.5
    assert values["attn/decoder.0.self/aggregate.mean.std"] == 0.25


def test_live_numbers_say_so_and_of_which_rank():
    live = {"kind": "live", "stack": "decoder", "layer": 0, "site": "self", "rank": 1, "heads": {"entropy": np.ones(1)}}
    assert "attn/decoder.0.self/entropy.live.rank1/head_0" in Selection().values(live)
    assert "attn/decoder.0.self/entropy.live/head_0" in Selection().values({**live, "rank": 0})


def test_lists_of_numbers_are_flattened_by_place_and_answers_of_the_control_socket_become_arrays():
    result = summary(spectrum={"singular_values": {"mean": np.array([[3.0, 2.0], [5.0, 4.0]])},
                               "low_rank_error": {"mean": np.array([[0.5, 0.4, 0.3, 0.2, 0.1]] * 2)}})
    found = {metric: value for metric, _, value in flat.numbers(result)}
    assert list(found["singular_values.2"]) == [2.0, 4.0] and list(found["low_rank_error.16"]) == [0.1, 0.1]
    found = wire.with_arrays({"heads": {"entropy": {"mean": [1.0, None]}}, "shape": [1, 2, 3, 3]})
    assert np.isnan(found["heads"]["entropy"]["mean"][1]) and found["shape"] == [1, 2, 3, 3]


@pytest.mark.parametrize("make, said", [(lambda: Selection(statistics="median"), "must be"), (lambda: Selection(every=0), "must be"),
                                        (lambda: checked_window("sometimes"), "must be such as")])
def test_a_selection_and_a_window_that_cannot_be(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_every_nth_window_is_the_same_one_for_all():
    selection = Selection(every=3)
    assert [n for n in range(10) if selection.wants_window({"last": n, "every": 1})] == [0, 3, 6, 9]
    steps = [last for last in range(99, 1000, 100) if selection.wants_window({"last": last, "every": 100})]
    assert steps == [99, 399, 699, 999]


def test_pictures_thin_out_in_long_runs():
    drawn = sum(Selection().has_picture({"last": n, "every": 1}) for n in range(100000))
    assert 100 <= drawn <= 1200
    assert all(Selection().has_picture({"last": n, "every": 1}) for n in range(200))


@pytest.mark.parametrize("text,canonical", [("1 epoch", "1 epoch"), ("100 steps every 10", "100 steps every 10"),
                                            (" 5 second  every 5", "5 seconds"), (None, None)])
def test_windows_are_named_as_the_daemon_names_them(text, canonical):
    assert checked_window(text) == canonical
    assert window_text({"unit": "step", "length": 10, "every": 5}) == "10 steps every 5"


# ---------------------------------------------------------------------------------------- pictures

def test_every_cell_has_the_colour_of_its_number():
    colormaps = pytest.importorskip("matplotlib").colormaps
    layers = {f"decoder.{n}.self": np.linspace(0, 1, 4) * (n + 1) / 3 for n in range(3)}
    layers["decoder.1.self"][2] = np.nan
    image = heatmap.render("confidence", layers, 7)
    for name, values in layers.items():
        for share in values[np.isfinite(values)]:
            colour = np.round(255 * np.array(colormaps["viridis"](min(int(256 * share), 255))[:3]))
            assert (image == colour).all(-1).sum() >= 20 * 20, (name, share)


def test_a_picture_says_what_it_shows():
    pytest.importorskip("matplotlib")
    layers = {"encoder.0.self": np.array([1.0, 2.0]), "decoder.0.cross": np.array([3.0])}
    figure = heatmap.draw("max_logit", layers, "max_logit, step 120")
    texts = {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}
    assert {"max_logit, step 120", "encoder.0.self", "decoder.0.cross", "head", "max logit"} <= texts


def test_a_picture_is_a_png():
    images = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(np.asarray(images.open(io.BytesIO(heatmap.png(image)))), image)


def test_large_models_are_shown_whole():
    pytest.importorskip("matplotlib")
    assert max(heatmap.render("entropy", {f"decoder.{n}.self": np.ones(96) for n in range(96)}, 1).shape) < 1200
    assert heatmap.render("entropy", {"decoder.0.self": np.arange(5000.0)}, 1).shape[1] < 1200
    with pytest.raises(ValueError, match="needs a layer"):
        heatmap.render("entropy", {}, 1)


def test_without_matplotlib_there_are_no_pictures_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(heatmap, "can_draw", lambda: False)
    pictures = Pictures(Selection(images="entropy"))
    assert list(pictures.add(RUN, summary(), (0, 9, 1))) == list(pictures.flush()) == []
    assert "matplotlib is missing" in caplog.text


def test_layers_are_in_the_models_order():
    names = ["decoder.10.self", "decoder.2.self", "decoder.0.cross", "encoder.0.self"]
    assert sorted(names, key=heatmap.model_order) == ["encoder.0.self", "decoder.2.self", "decoder.10.self",
                                                      "decoder.0.cross"]


def test_a_picture_of_what_there_is_when_the_next_window_begins_or_nothing_comes():
    pictures = Pictures(Selection(images="entropy"))
    assert list(pictures.add(RUN, summary(0), (0, 9, 1))) == []
    assert [picture.step for picture in pictures.add(RUN, summary(0, last=1), (1, 19, 1))] == [9]
    assert [picture.step for picture in pictures.flush()] == [19]
    again = list(pictures.add(RUN, summary(1, last=1), (1, 19, 1))) + list(pictures.flush())
    assert [picture.position for picture in again] == [(1, 19, 1, 2)]
    assert list(pictures.add(RUN, summary(1, last=0), (0, 9, 1))) == []


# ------------------------------------------------------------------------------------------ memory

def note(step=3, head=0):
    return Note(RUN, "alert", (), 0, step, 5, "attn/alerts/r", "text", {"rule": "r", "step": step, "head": head})


def test_a_ledger_knows_what_it_has(tmp_path):
    ledger = Ledger()
    for item in (scalars(3), note(), note(head=1)):
        assert ledger.is_new(item)
        ledger.mark(item)
    path = str(tmp_path / "deep" / "ledger.json")
    write_ledger(path, ledger)
    again = read_ledger(path)
    assert again == ledger and again.written == 3
    assert not again.is_new(scalars(3)) and not again.is_new(scalars(2)) and again.is_new(scalars(4))
    assert not again.is_new(note()) and again.is_new(note(step=4))
    assert again.is_new(scalars(1, "decoder.1.self 1 epoch"))


def test_a_ledger_that_is_none_says_what_to_do(tmp_path):
    path = tmp_path / "ledger.json"
    assert read_ledger(str(path)) == Ledger()
    for text in ("{", "[]", '{"positions": 5, "notes": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="remove it"):
            read_ledger(str(path))


def test_a_file_of_lines_is_its_own_memory_and_heals(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = JsonLinesSink(str(path))
    sink.recall(RUN)
    sink.write(scalars(3))
    sink.close()
    with open(path, "ab") as file:
        file.write(b'{"kind":"values","job":')  # killed in the middle
    again = JsonLinesSink(str(path))
    assert not again.recall(RUN).is_new(scalars(3)) and again.recall(RUN).is_new(scalars(4))
    again.close()
    assert path.read_bytes().count(b"\n") == 1 and path.read_bytes().endswith(b"\n")
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="out.jsonl:1: not a line of this bridge"):
        JsonLinesSink(str(path))


def test_a_course_keeps_the_newest_point_and_thins_the_others():
    course = Course()
    for step in range(5000):
        course.add(step, np.array([float(step)]))
    assert len(course.steps) <= POINTS_MAX + 1 and course.steps[-1] == 4999 and course.steps[0] == 0
    assert {step % 16 for step in course.steps[:-1]} == {0, 15}, "the ends of buckets, where a line rises"
    assert course.table()[:, 0].tolist() == course.steps


@pytest.mark.parametrize("odd", [50.0, -50.0, math.nan])
def test_a_course_keeps_what_one_head_did_in_one_step(odd):
    course = Course()
    for step in range(20000):
        course.add(step, np.array([1.0, odd if step % 401 == 7 else step * 7919 % 101 / 100]))
    assert len(course.steps) <= POINTS_MAX
    assert {step for step in range(20000) if step % 401 == 7} <= set(course.steps)


# ------------------------------------------------------------------------------- sinks that misbehave

class Memory(Sink):
    """Keeps what it gets, and what is called; hangs while `gate` is closed. `more`: methods instead of its own."""
    kind = "memory"

    def __init__(self, **more):
        self.items, self.calls, self.gate = [], [], threading.Event()
        self.gate.set()
        vars(self).update(more)

    def recall(self, run):
        return Ledger()

    def begin(self, run):
        self.calls.append(("begin", run.run))

    def write(self, item):
        assert self.gate.wait(60)
        self.items.append(item)

    def commit(self, run, ledger):
        self.calls.append(("commit", run.run))

    def end(self, run, final):
        self.calls.append(("end", run.run, final))

    def finish(self, run):
        self.calls.append(("finish", run.run))

    def close(self):
        self.calls.append(("close",))


def fails(*_):
    raise OSError("no space left")


def numbered(number):
    return Run("gpt", f"{number:032x}")


def end(run):
    return End(run, "", (), 0, 0, 0)


def closed(worker, *items, seconds=10.0):
    """What it counts once it has been offered these and is closed."""
    for item in items:
        worker.offer(item)
    worker.begin_close()
    worker.finish_close(time.monotonic() + seconds)
    return worker.stats()


class Trackio(types.ModuleType):
    """Stands in for the package: its signatures, and that it finishes its current run when it begins another."""

    class AlertLevel(str, enum.Enum):
        INFO, WARN, ERROR = "info", "warn", "error"

    class Image:
        def __init__(self, value, caption=None):
            assert value.dtype == np.uint8
            self.caption = caption

    class Run:
        def __init__(self):
            self.open, self.logs, self.alerts = True, [], []

        def log(self, metrics, step=None):
            assert self.open
            self.logs.append((step, metrics))

        def alert(self, title, text=None, level=None, step=None, webhook_url=None):
            assert self.open
            self.alerts.append((title, text, level))

        def finish(self):
            self.open = False

    def __init__(self, folder):
        super().__init__("trackio")
        self.__version__, self.folder, self.runs, self.begun = "0.43.0", folder, {}, []
        self.current = contextvars.ContextVar("current_run", default=None)
        self.utils = types.ModuleType("trackio.utils")
        self.utils.TRACKIO_DIR = folder

    def init(self, project, name=None, group=None, space_id=None, server_url=None, dataset_id=None, bucket_id=None, config=None,
             resume="never", settings=None, private=None, embed=True, auto_log_gpu=None, gpu_log_interval=10.0,
             auto_log_cpu=None, cpu_log_interval=10.0, webhook_url=None, webhook_min_level=None):
        if self.current.get() is not None:
            self.current.get().finish()
        self.begun.append((project, name, group, space_id, config, embed, auto_log_gpu, auto_log_cpu))
        run = self.runs.get(name) if resume == "allow" else None
        run = self.runs[name] = run or self.Run()
        run.open = True
        self.current.set(run)
        return run


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    made = Trackio(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", made)
    monkeypatch.setitem(sys.modules, "trackio.utils", made.utils)
    return made


def test_trackio_has_several_runs_open_and_resumes_them(trackio, tmp_path):
    runs = [RUN, Run("bert", "ab" * 16)]
    names = ["gpt-01234567", "bert-abababab"]
    for last in (1, 2):  # a second bridge goes on where the first ended
        stats = closed(Worker(TrackioSink("heads", space="me/here")),
                       *(scalars(position, run=run) for run in runs + runs for position in range(last + 1)))
        assert (stats["written"], stats["failed"], stats["dropped"]) == (4 if last == 1 else 2, 0, 0)
    for run, name in zip(runs, names):
        assert trackio.runs[name].logs == [(step, {"attn/x": 1.0, "attnd/epoch": 0}) for step in range(3)]
        assert not trackio.runs[name].open and (tmp_path / f"attnd-heads-{run.run}.json").is_file()
    assert trackio.begun[0] == ("heads", names[0], "gpt", "me/here", {"attnd": {"job": "gpt", "run": RUN.run}}, False, False,
                                False)
    assert len(trackio.begun) == 4


def test_trackio_gets_pictures_and_alerts(trackio):
    sink = TrackioSink()
    sink.begin(RUN)
    sink.write(Picture(RUN, "map", (1,), 3, 7, 5, "attn/heatmap/x", np.zeros((2, 2, 3), np.uint8)))
    for state in ("firing", "resolved"):
        sink.write(Note(RUN, "alert", (), 3, 8, 6, "attn/alerts/flat", "it is flat",
                        {"state": state, "severity": "critical", "rule": "flat"}))
    (step, picture), *notes = trackio.runs["gpt-01234567"].logs
    assert (step, picture["attnd/epoch"], picture["attn/heatmap/x"].caption) == (7, 3, "step 7")
    assert notes == [(8, {"attn/alerts/flat": "it is flat", "attnd/epoch": 3})] * 2
    assert trackio.runs["gpt-01234567"].alerts == [("gpt: flat", "it is flat", Trackio.AlertLevel.ERROR)]


def test_a_trackio_run_of_the_callers_stays_open(trackio, tmp_path):
    mine = trackio.init("mine", name="mine")
    assert closed(Worker(TrackioSink(run=mine)), scalars(4))["written"] == 1
    assert mine.open and mine.logs == [(4, {"attn/x": 1.0, "attnd/epoch": 0})] and not list(tmp_path.iterdir())


def test_a_trackio_that_cannot_resume_is_named(trackio, monkeypatch):
    monkeypatch.setattr(trackio, "init", lambda project, name=None, config=None: None)
    with pytest.raises(MissingPackage, match="needs a trackio that resumes runs, this is 0.43.0: pip install -U trackio"):
        TrackioSink()


def test_items_are_written_once_committed_and_ended():
    worker = Worker(Memory())
    assert closed(worker, scalars(1), scalars(2), scalars(2), end(RUN)) == {
        "written": 2, "skipped": 1, "failed": 0, "dropped": 0, "waiting": 0}
    assert worker.sink.calls == [("begin", RUN.run), ("commit", RUN.run), ("end", RUN.run, True), ("close",)]


def test_what_is_not_new_begins_no_run_and_the_end_of_one_that_is_not_open_reaches_the_sink():
    known = Ledger({"decoder.0.self 1 epoch": (9,)})
    worker = Worker(Memory(recall=lambda run: known if run == RUN else Ledger()))
    assert closed(worker, scalars(9), end(RUN), end(numbered(1)))["skipped"] == 1  # of the latter the sink has nothing
    assert worker.sink.calls == [("finish", RUN.run), ("close",)]


@pytest.mark.parametrize("failing", ["end", "commit"])
def test_a_run_that_cannot_be_closed_keeps_no_other_out(failing):
    worker = Worker(Memory())
    original = getattr(worker.sink, failing)
    setattr(worker.sink, failing, lambda run, *more: (fails if run == numbered(0) else original)(run, *more))
    stats = closed(worker, *(scalars(1, run=numbered(number)) for number in range(RUNS_OPEN_MAX + 3)))
    assert (stats["written"], stats["failed"]) == (RUNS_OPEN_MAX + 3, 0)
    ended = [call[1] for call in worker.sink.calls if call[0] == "end"]
    assert len(ended) == len(set(ended)) == RUNS_OPEN_MAX + (2 if failing == "end" else 3)


def test_what_could_not_be_committed_is_not_written_twice():
    stats = closed(Worker(Memory(commit=fails)), scalars(1), end(RUN), scalars(1))
    assert (stats["written"], stats["skipped"]) == (1, 1)


def test_a_failure_is_said_once_and_counted(caplog):
    worker = Worker(Memory(write=fails))
    for position in range(1, 6):
        worker.offer(scalars(position))
    wait_until(lambda: worker.stats()["failed"] == 5, "the failures")
    del worker.sink.write
    stats = closed(worker, scalars(6))
    assert (stats["failed"], stats["written"]) == (5, 1)
    first, last = caplog.messages
    assert "no space left" in first and "5 results were not written, 1 were" in last


def test_a_sink_that_hangs_drops_and_counts_and_holds_nobody_up():
    worker = Worker(Memory(), queue_items=10)
    worker.sink.gate.clear()
    for position in range(1, 101):
        worker.offer(scalars(position))
    stats = worker.stats()
    assert stats["waiting"] <= 10 and stats["dropped"] >= 89
    worker.sink.gate.set()
    stats = closed(worker)
    assert stats["written"] + stats["dropped"] == 100 and stats["written"] >= 10


def test_a_sink_that_hangs_for_good_is_left_behind():
    worker = Worker(Memory())
    worker.sink.gate.clear()
    worker.offer(scalars(1))
    worker.offer(scalars(2))
    wait_until(lambda: worker.stats()["waiting"] == 1, "the first is being written")
    assert closed(worker, seconds=0.1)["dropped"] == 1
    worker.sink.gate.set()


def test_a_sink_that_is_gone_is_quiet(caplog):
    def write(item):
        raise SinkGone("no reader")

    worker = Worker(Memory(write=write))
    worker.offer(scalars(1))
    wait_until(lambda: worker.gone, "the sink to go")
    closed(worker, scalars(2))
    assert caplog.records == []


# ------------------------------------------------------------------------------------------- the bridge

def job(run, state, time_ns=1):
    return {"kind": "job", "job": run.job, "run": run.run, "state": state, "epoch": 0, "step": 0, "time_ns": time_ns,
            "layers": []}


@pytest.fixture
def bridge(tmp_path):
    made = Bridge(Memory(), f"ipc://{tmp_path}/nobody", control=f"ipc://{tmp_path}/nobody.control")
    yield made
    made.close()


def fed(bridge, *results):
    bridge._past = False
    bridge._ahead.extend(results)
    while bridge._ahead:
        bridge._step(0.0)


def test_a_run_that_goes_on_is_not_forgotten_for_those_that_ended(bridge, monkeypatch):
    monkeypatch.setattr(pump, "RUNS_KNOWN_MAX", 4)
    fed(bridge, job(RUN, "active"), *(job(numbered(n), "ended") for n in range(8)))
    assert not bridge.wait(0)
    fed(bridge, job(RUN, "ended"))
    assert bridge.wait(0)


def test_a_run_that_ended_before_the_subscription_has_ended_if_it_went_on_beside_the_bridge(bridge):
    fed(bridge, job(numbered(1), "ended"))
    assert not bridge.wait(0)
    fed(bridge, job(numbered(2), "ended", time.time_ns()))
    assert bridge.wait(0)


def test_runs_that_are_forgotten_keep_nobody_waiting(bridge, monkeypatch):
    monkeypatch.setattr(pump, "RUNS_KNOWN_MAX", 2)
    fed(bridge, *(job(numbered(n), "active") for n in range(3)))
    fed(bridge, *(job(numbered(n), "ended") for n in (1, 2)))
    assert bridge.wait(0)


def test_the_past_is_told_from_where_the_sink_that_has_least_ended(tmp_path):
    sinks = [Memory(recall=lambda run, last=last: Ledger({"decoder.0.self 1 epoch": (last,)})) for last in (9, 4)]
    with Bridge(sinks, f"ipc://{tmp_path}/nobody", control=None) as bridge:
        assert bridge._seen(RUN, "1 epoch") == {"decoder.0.self": 4}


@pytest.mark.parametrize("answer", [{"heads": []}, {"heads": None}, {}, [], {"heads": [None]}])
def test_a_past_that_is_none_costs_neither_the_bridge_nor_the_result(bridge, answer, caplog):
    """The daemon answers, and to one question nonsense."""
    layer = {"stack": "decoder", "layer": 0, "site": "self", "metrics": ["entropy"],
             "tracks": [{"unit": "epoch", "length": 1, "every": 1, "first": 0, "last": 5}]}
    bridge._window = "1 epoch"
    bridge._control.close()
    bridge._control = types.SimpleNamespace(windows=lambda *_: {"layers": [layer]}, history=lambda *_, **question: answer,
                                            alerts=lambda *_, limit: {"alerts": []}, close=lambda: None)
    bridge._ahead.append(summary(last=6))
    assert bridge._step(0.0)
    worker = bridge._workers[0]
    wait_until(lambda: worker.stats()["written"] >= 1, "the result")
    assert bridge.stats()["malformed"] == 0
    said = [text for text in caplog.messages if "cannot be told" in text]
    assert len(said) == (0 if answer in ({"heads": []}, {"heads": None}) else 1)


def test_a_bridge_whose_thread_ends_says_so(bridge, monkeypatch, caplog):
    monkeypatch.setattr(bridge, "_step", fails)
    bridge.start()
    wait_until(bridge._done.is_set, "the end")
    wait_until(lambda: any("the bridge ended" in text for text in caplog.messages), "the word")
