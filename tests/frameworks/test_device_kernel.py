# SPDX-License-Identifier: MIT
"""The Triton kernels of attnd.device by triton's interpreter, in a process of its own: torch.compile uses triton, too.
test_device_code.py compiles them: the interpreter takes what the compiler refuses."""
import os
import pathlib
import subprocess
import sys

import pytest


def test_the_interpreted_kernel():
    pytest.importorskip("triton")
    cases = pathlib.Path(__file__).with_name("device_kernel.py")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)], timeout=2300,
                         env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
