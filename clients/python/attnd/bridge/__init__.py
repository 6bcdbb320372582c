# SPDX-License-Identifier: MIT
"""bridge: forwards what attnd finds out to where people already look: TensorBoard, Weights & Biases, MLflow, JSON lines.

    python -m attnd.bridge tensorboard runs              # beside a daemon, until Ctrl-C

    from attnd.bridge import Bridge, TensorBoardSink     # or beside the training, in a thread
    with Bridge(TensorBoardSink("runs"), jobs=["gpt-small"]):
        train()

Every run of a job becomes a run there. What is forwarded, and what it is called: bridge/selection.py.
"""
from .jsonl import JsonLinesSink
from .mlflow import MlflowSink
from .pump import Bridge
from .selection import Selection
from .sink import MissingPackage, Sink
from .tensorboard import TensorBoardSink
from .wandb import WandbSink

__all__ = ["Bridge", "JsonLinesSink", "MissingPackage", "MlflowSink", "Selection", "Sink", "TensorBoardSink", "WandbSink"]
