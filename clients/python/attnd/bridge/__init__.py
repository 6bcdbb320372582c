# SPDX-License-Identifier: MIT
"""bridge: forwards what attnd finds out to TensorBoard, Weights & Biases, Trackio, MLflow, or as JSON lines.

    python -m attnd.bridge tensorboard runs              # beside a daemon, until Ctrl-C

    from attnd.bridge import Bridge, TensorBoardSink     # or beside the training, in a thread
    with Bridge(TensorBoardSink("runs"), jobs=["gpt-small"]):
        train()

Every run of a job becomes a run there. A bridge that starts late takes earlier results from the history; results
published between a daemon's restart and the bridge's return to it are missed. bridge/selection.py selects and names the
forwarded numbers. Importing this imports none of their packages; each name loads its module when it is first used.
"""
from importlib import import_module
from typing import Any, List

_HOME = {
    "Bridge": "pump",
    "JsonLinesSink": "jsonl",
    "MissingPackage": "sink",
    "MlflowSink": "mlflow",
    "Selection": "selection",
    "Sink": "sink",
    "TensorBoardSink": "tensorboard",
    "TrackioSink": "trackio",
    "WandbSink": "wandb",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attnd.bridge' has no attribute {name!r}")
    value = getattr(import_module(f"attnd.bridge.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
