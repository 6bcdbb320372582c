# SPDX-License-Identifier: MIT
"""attnd: the health of attention heads, while a model trains.

    with attnd.watch(model, job="gpt-small"):      # PyTorch, one line
        train()

    publisher = attnd.Publisher("gpt-small")       # anything that has the weights
    for summary in attnd.Subscriber(): ...         # what the daemon found out
    attnd.Control().summary("gpt-small")           # questions and answers
    attnd.frame(attnd.Control().summary("gpt-small"))   # as a pandas DataFrame
    attnd.live_plot("gpt-small")                   # a notebook cell that follows a run
    attnd.device.row_statistics(q, k)              # the numbers of every row, computed where q and k are

Importing attnd imports neither torch nor ZeroMQ; each name loads its module when it is first used.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:  # what type checkers see of the names below
    from . import bridge as bridge, device as device, notebook as notebook
    from .attach import watch as watch
    from .capture.watch import Watch as Watch
    from .manual import publish_attention as publish_attention, publish_qk as publish_qk, publish_weights as publish_weights
    from .model.induction import repeated_tokens as repeated_tokens
    from .notebook import live_plot as live_plot
    from .results.alerts import StopTraining as StopTraining, checkpoint_on as checkpoint_on, stop_on as stop_on
    from .results.control import Control as Control, ControlError as ControlError
    from .results.frames import frame as frame
    from .results.subscriber import Subscriber as Subscriber
    from .sending.publisher import Publisher as Publisher

__version__ = "0.1.0"

_HOME = {
    "Publisher": "sending.publisher",
    "Subscriber": "results.subscriber",
    "Control": "results.control",
    "ControlError": "results.control",
    "watch": "attach",
    "Watch": "capture.watch",
    "StopTraining": "results.alerts",
    "stop_on": "results.alerts",
    "checkpoint_on": "results.alerts",
    "publish_attention": "manual",
    "publish_qk": "manual",
    "publish_weights": "manual",
    "repeated_tokens": "model.induction",
    "frame": "results.frames",
    "live_plot": "notebook",
}

_MODULES = ("bridge", "device", "notebook")

__all__ = ["__version__", *_MODULES, *_HOME]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"attnd.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'attnd' has no attribute {name!r}")
    value = getattr(import_module(f"attnd.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
