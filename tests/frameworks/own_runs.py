# SPDX-License-Identifier: MIT
"""own_runs: the runs that a user has in TensorBoard, W&B, MLflow and Trackio, and what is in their files, by the reader of
each tool: ({name: {step: number}}, {name: text}), texts by attnd alone. Numbers of attnd in W&B stand at their `attnd/step`,
others at the number of their row."""
from __future__ import annotations

import json
from typing import Any, Dict, Tuple

import pytest
from conftest import wait_until

Found = Tuple[Dict[str, Dict[int, float]], Dict[str, str]]


def read_tensorboard(folder: Any) -> Found:
    """The one run that is in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    files, = {file.parent for file in folder.rglob("events.out.tfevents.*")}
    found = EventAccumulator(str(files), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    texts = {name.partition("/text_summary")[0]: found.Tensors(name)[-1].tensor_proto.string_val[0].decode()
             for name in found.Tags()["tensors"] if name.startswith("attnd/")}
    return {name: {event.step: event.value for event in found.Scalars(name)} for name in found.Tags()["scalars"]}, texts


def read_wandb(folder: Any) -> Found:
    """The one offline run of a folder, which has finished: attnd makes no run of its own."""
    from google.protobuf.message import DecodeError
    from test_bridge_wandb import lines, records
    file, = folder.glob("wandb/offline-run-*/*.wandb")

    def is_whole() -> bool:  # a process of its own writes it
        try:
            return any(record.WhichOneof("record_type") == "exit" for record in records(file))
        except DecodeError:
            return False

    wait_until(is_whole, "the whole file")
    numbers: Dict[str, Dict[int, float]] = {}
    for number, row in lines(file):
        for name, value in row.items():
            if not name.startswith("_"):
                numbers.setdefault(name, {})[row["attnd/step"] if name.startswith("attnd/") else number] = value
    return numbers, {item.key: json.loads(item.value_json) for record in records(file) for item in record.config.update
                     if item.key.startswith("attnd/")}


def read_mlflow(run: str) -> Found:
    """A run of the store in use."""
    import mlflow
    mlflow.flush_async_logging()
    client = mlflow.MlflowClient()
    data = client.get_run(run).data
    return ({name: {metric.step: metric.value for metric in client.get_metric_history(run, name)} for name in data.metrics},
            {name: text for name, text in data.tags.items() if name.startswith("attnd/")})


def read_trackio(project: str) -> Found:
    """The one run of a project, which has finished."""
    from trackio.sqlite_storage import SQLiteStorage
    run, = SQLiteStorage.get_runs(project)
    numbers: Dict[str, Dict[int, float]] = {}
    for row in SQLiteStorage.get_logs(project, run):
        for name, value in row.items():
            numbers.setdefault(name, {})[row["step"]] = value
    return numbers, {name: text for name, text in SQLiteStorage.get_run_config(project, run).items() if name.startswith("attnd/")}


class TensorBoard:
    """A SummaryWriter."""

    def __init__(self, folder: Any):
        pytest.importorskip("tensorboard")
        from torch.utils.tensorboard import SummaryWriter
        self.folder, self.target = folder / "runs", SummaryWriter(str(folder / "runs"))
        self.owner, self.name = self.target, "add_scalar"

    def log(self, loss: float, step: int) -> None:
        self.target.add_scalar("loss", loss, step)

    def read(self) -> Found:
        self.target.close()
        return read_tensorboard(self.folder)


class Wandb:
    """An offline run. `step`: the training numbers its rows itself."""

    def __init__(self, folder: Any, step: bool = False):
        self.wandb = pytest.importorskip("wandb")
        self.folder, self.step = folder, step
        self.target = self.wandb.init(project="heads", mode="offline", dir=str(folder), config={"learning_rate": 0.1})
        self.owner, self.name = self.target, "log"

    def log(self, loss: float, step: int) -> None:
        if self.step:
            self.target.log({"loss": loss}, step=step)
        else:
            self.wandb.log({"loss": loss})

    def read(self) -> Found:
        self.target.finish()
        return read_wandb(self.folder)


class WandbRows(Wandb):
    """A run whose rows the training numbers."""

    def __init__(self, folder: Any):
        super().__init__(folder, step=True)


class Mlflow:
    """A run in an SQLite store."""

    def __init__(self, folder: Any):
        self.mlflow = self.target = self.owner = pytest.importorskip("mlflow")
        self.mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        self.run, self.name = self.mlflow.start_run(), "log_metric"
        self.mlflow.log_param("learning_rate", 0.1)

    def log(self, loss: float, step: int) -> None:
        self.mlflow.log_metric("loss", loss, step)

    def read(self) -> Found:
        self.mlflow.end_run()
        return read_mlflow(self.run.info.run_id)


class Trackio:
    """The run of a project."""

    def __init__(self, folder: Any):
        self.trackio = pytest.importorskip("trackio")
        self.target = self.owner = self.trackio.init(project=folder.name, config={"learning_rate": 0.1}, auto_log_cpu=False)
        self.name = "log"

    def log(self, loss: float, step: int) -> None:
        self.trackio.log({"loss": loss})

    def read(self) -> Found:
        self.trackio.finish()
        return read_trackio(self.target.project)


TOOLS = {tool.__name__: tool for tool in (TensorBoard, Wandb, WandbRows, Mlflow, Trackio)}
