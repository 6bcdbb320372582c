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
    from .alerts import StopTraining as StopTraining, checkpoint_on as checkpoint_on, stop_on as stop_on
    from .attach import watch as watch
    from .capture import Watch as Watch
    from .control import Control as Control, ControlError as ControlError
    from .frames import frame as frame
    from .induction import repeated_tokens as repeated_tokens
    from .manual import publish_attention as publish_attention, publish_qk as publish_qk
    from .manual import publish_weights as publish_weights
    from .notebook import live_plot as live_plot
    from .publisher import Publisher as Publisher
    from .subscriber import Subscriber as Subscriber

__version__ = "0.1.0"

_HOME = {
    "Publisher": "publisher",
    "Subscriber": "subscriber",
    "Control": "control",
    "ControlError": "control",
    "watch": "attach",
    "Watch": "capture",
    "StopTraining": "alerts",
    "stop_on": "alerts",
    "checkpoint_on": "alerts",
    "publish_attention": "manual",
    "publish_qk": "manual",
    "publish_weights": "manual",
    "repeated_tokens": "induction",
    "frame": "frames",
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
