# SPDX-License-Identifier: MIT
"""attnd: the health of attention heads, while a model trains.

    with attnd.watch(model, job="gpt-small"):      # PyTorch, one line
        train()

    publisher = attnd.Publisher("gpt-small")       # anything that has the weights
    for summary in attnd.Subscriber(): ...         # what the daemon found out
    attnd.Control().summary("gpt-small")           # questions and answers

Importing attnd imports neither torch nor ZeroMQ; each name loads its module when it is first used.
"""
from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Publisher": "publisher",
    "Subscriber": "subscriber",
    "Control": "control",
    "ControlError": "control",
    "watch": "capture",
    "Watch": "capture",
    "publish_attention": "manual",
    "publish_qk": "manual",
    "publish_weights": "manual",
    "repeated_tokens": "probe",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'attnd' has no attribute {name!r}")
    value = getattr(import_module(f"attnd.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
