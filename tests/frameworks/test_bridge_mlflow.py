# SPDX-License-Identifier: MIT
"""MLflow's own client finds what the bridge wrote to a store in a file: one run, every window once."""
import json
import pathlib
import time

import pytest

pytest.importorskip("mlflow", reason="mlflow is not installed")

from bridged import JOB, LAYERS, interrupted_run  # noqa: E402
from attnd.bridge import MlflowSink  # noqa: E402
from attnd.bridge.items import Run, Scalars  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402


def tags_have(client, epoch):
    """Whether the run's tags say that all layers and pictures are written up to this epoch."""
    experiment = client.get_experiment_by_name(JOB)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    tags = {key: json.loads(value) for run in runs for key, value in run.data.tags.items()
            if key.startswith("attnd.bridge.") and not key.endswith(".alerts")}
    return len(tags) >= LAYERS + 3 and all(position[0] >= epoch for position in tags.values())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(training, client, its run, where the bridge ran)"""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/store.db"
    client = MlflowClient(tracking_uri=uri)
    training = interrupted_run("mlflow", "--uri", uri, cwd=folder, written=lambda training, epoch: tags_have(client, epoch))
    run, = client.search_runs([client.get_experiment_by_name(JOB).experiment_id])
    return training, client, run, folder


def test_every_window_once_in_one_mlflow_run(written):
    training, client, run, _ = written
    assert run.info.status == "FINISHED" and run.data.tags["attnd.run"] == training.run
    training.check(lambda name: sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)))


def test_pictures_and_alerts_are_artifacts(written, monkeypatch):
    training, client, run, folder = written
    monkeypatch.chdir(folder)  # mlflow's artifacts are relative to it
    pictures = client.list_artifacts(run.info.run_id, "attn/heatmap/confidence")
    assert sorted(item.path for item in pictures) == [
        f"attn/heatmap/confidence/step_{step:09d}.png" for step in training.steps()]
    picture = pathlib.Path(client.download_artifacts(run.info.run_id, pictures[0].path))
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    alerts = [item.path for item in client.list_artifacts(run.info.run_id, "attn/alerts")]
    assert any("flat-decoder-0-self" in path and path.endswith("-firing.txt") for path in alerts)


def test_a_run_that_ends_after_it_was_closed_is_finished_and_once(tmp_path):
    uri, run = f"sqlite:///{tmp_path}/store.db", Run("gpt", "0123456789abcdef" * 2)
    sink, client = MlflowSink(uri), MlflowClient(tracking_uri=uri)
    ledger, item = sink.recall(run), Scalars(run, "decoder.0.self 1 epoch", (1,), 0, 9, 5, {"attn/x": 1.0}, {})
    sink.begin(run)
    sink.write(item)
    ledger.mark(item)
    sink.commit(run, ledger)
    sink.end(run, False)
    experiment = client.get_experiment_by_name("gpt").experiment_id

    def found():
        return client.search_runs([experiment])[0].info

    assert found().status == "RUNNING"
    ends = set()
    for _ in range(2):  # a bridge that is started again hears of the end again
        later = MlflowSink(uri)
        assert later.recall(run).positions == ledger.positions
        later.finish(run)
        assert found().status == "FINISHED"
        ends.add(found().end_time)
        time.sleep(0.01)
    assert len(ends) == 1
