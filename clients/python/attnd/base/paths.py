# SPDX-License-Identifier: MIT
"""paths: the names of modules and of their calls."""
from __future__ import annotations

import re
from typing import Dict, Optional

import torch

# The parts that wrappers add to a module's path.
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


def call_name(path: str, call: int) -> str:
    """How a call of a module is named among its calls of a forward: "blocks.0", "blocks.0#1", ..."""
    return f"{path}#{call}" if call else path


def module_paths(root: torch.nn.Module) -> Dict[int, str]:
    """{id of a module: its path, without what wrappers add}."""
    return {id(module): clean_path(path) for path, module in root.named_modules()}


def clean_path(path: str) -> str:
    """A module's path as it is without wrappers."""
    if "_orig_mod" not in path and "_wrapped_module" not in path:
        return path  # nearly all are, and each is asked for at every captured step
    return _WRAPPERS.sub("", path).lstrip(".")


def module_at(root: torch.nn.Module, path: str) -> Optional[torch.nn.Module]:
    """The module whose path without wrappers this is."""
    return next((module for name, module in root.named_modules() if clean_path(name) == path), None)
