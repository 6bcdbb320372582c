# SPDX-License-Identifier: MIT
"""hook: what hangs on a module of the model or on an optimizer."""
from __future__ import annotations

import contextlib
import weakref
from typing import Any

# Stands in a copy or pickle of a watched model where the model has a hook of ours: takes anything and does nothing, and
# is no part of attnd, so that a saved model can be loaded without it.
_no_hook = contextlib.nullcontext().__exit__


class Hook:
    """A hook that does not follow into copies of what it hangs on, and does not keep the watch alive."""

    def __init__(self, owner: Any):
        self.owner = weakref.ref(owner)

    def __deepcopy__(self, memo: Any) -> Any:
        return _no_hook

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")
