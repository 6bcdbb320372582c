# SPDX-License-Identifier: MIT
"""The fixtures of the end-to-end tests."""
import importlib.util
import os
import sys

E2E = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e")
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), E2E]

_spec = importlib.util.spec_from_file_location("e2e_conftest", os.path.join(E2E, "conftest.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
attnd, rng = _module.attnd, _module.rng
nothing_left_behind, state_of_its_own = _module.nothing_left_behind, _module.state_of_its_own
