# SPDX-License-Identifier: MIT
"""mlflow: an MLflow run per attnd run, found again by its tag `attnd.run`.

Pictures and alerts are artifacts under attn/. The run's tags `attnd.bridge.*` say what has been forwarded; they
travel in the same request as the last metrics that they are about.
"""
from __future__ import annotations

import json
import os
import re
import tempfile
from typing import Any, Dict, Optional

from . import heatmap
from .items import Item, Ledger, Note, Picture, Run, Scalars
from .sink import Sink, need

RUN_TAG = "attnd.run"
_POSITION = "attnd.bridge."  # and what it is a position of
_ALERTS = _POSITION + "alerts"
_METRICS_MAX = 1000  # of one request: MLflow refuses more
_TAGS_MAX = 100


class MlflowSink(Sink):
    """uri         tracking store; default $MLFLOW_TRACKING_URI, else what mlflow takes
    experiment  default: one per job, of its name

    MissingPackage when mlflow cannot be imported.
    """

    kind = "mlflow"

    def __init__(self, uri: Optional[str] = None, experiment: Optional[str] = None):
        need("mlflow", "mlflow", "the mlflow bridge")
        self._entities = need("mlflow.entities", "mlflow", "the mlflow bridge")
        self._client = need("mlflow.tracking", "mlflow", "the mlflow bridge").MlflowClient(tracking_uri=uri)
        self._experiment = experiment
        self._ids: Dict[Run, str] = {}
        self._saved: Dict[Run, Dict[str, str]] = {}

    def recall(self, run: Run) -> Ledger:
        found = self._find(run)
        tags = {key: value for key, value in (found.data.tags if found else {}).items() if key.startswith(_POSITION)}
        self._saved[run] = tags
        if found:
            self._ids[run] = found.info.run_id
        positions = {key[len(_POSITION):]: json.loads(value) for key, value in tags.items() if key != _ALERTS}
        return Ledger.of_json({"positions": positions, "notes": json.loads(tags.get(_ALERTS, "[]"))})

    def begin(self, run: Run) -> None:
        if run in self._ids:
            self._client.update_run(self._ids[run], status="RUNNING")
            return
        name = self._experiment or run.job
        found = self._client.get_experiment_by_name(name)
        experiment = str(found.experiment_id if found else self._client.create_experiment(name))
        made = self._client.create_run(experiment, run_name=f"{run.job}-{run.short}",
                                       tags={RUN_TAG: run.run, "attnd.job": run.job})
        self._ids[run] = made.info.run_id

    def _find(self, run: Run) -> Any:
        experiment = self._client.get_experiment_by_name(self._experiment or run.job)
        if experiment is None:
            return None
        found = self._client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{run.run}'", max_results=1)
        return found[0] if found else None

    def write(self, item: Item) -> None:
        if isinstance(item, Scalars):
            self._log(item)
        elif isinstance(item, Picture):
            self._put(item, f"{item.name}/step_{item.step:09d}.png", heatmap.png(item.pixels))
        elif isinstance(item, Note):
            place = "-".join(str(item.result.get(key)) for key in ("rule", "stack", "layer", "site", "head", "state")
                             if item.result.get(key) is not None)
            self._put(item, f"attn/alerts/step_{item.step:09d}-{place}.txt", item.text.encode() + b"\n")

    def _log(self, item: Scalars) -> None:
        """In requests of what MLflow takes; the last one says that all are there."""
        time_ms = item.time_ns // 1000000
        metrics = [self._entities.Metric(key, value, time_ms, item.step) for key, value in item.values.items()]
        parts = [metrics[at:at + _METRICS_MAX - _TAGS_MAX] for at in range(0, len(metrics), _METRICS_MAX - _TAGS_MAX)]
        tag = _POSITION + item.where
        position = json.dumps(list(item.position))
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            self._client.log_batch(self._ids[item.run], metrics=part,
                                   tags=[self._entities.RunTag(tag, position)] if last else [])
        self._saved[item.run][tag] = position

    def _put(self, item: Item, path: str, data: bytes) -> None:
        """An artifact: mlflow takes files only."""
        folder, name = os.path.split(path)
        with tempfile.TemporaryDirectory(prefix="attnd-") as directory:
            local = os.path.join(directory, re.sub(r"[^A-Za-z0-9._-]", "_", name))
            with open(local, "wb") as file:
                file.write(data)
            self._client.log_artifact(self._ids[item.run], local, folder)

    def commit(self, run: Run, ledger: Ledger) -> None:
        tags = {_POSITION + where: json.dumps(list(position)) for where, position in ledger.positions.items()}
        tags[_ALERTS] = json.dumps(ledger.notes)
        news = [self._entities.RunTag(key, value) for key, value in tags.items() if self._saved[run].get(key) != value]
        for at in range(0, len(news), _TAGS_MAX):
            self._client.log_batch(self._ids[run], tags=news[at:at + _TAGS_MAX])
        self._saved[run] = tags

    def end(self, run: Run, final: bool) -> None:
        if final:
            self._client.set_terminated(self._ids[run])

    def finish(self, run: Run) -> None:
        # One that is terminated keeps the time at which it was.
        if self._client.get_run(self._ids[run]).info.status == "RUNNING":
            self._client.set_terminated(self._ids[run])
