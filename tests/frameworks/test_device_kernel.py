# SPDX-License-Identifier: MIT
"""The Triton kernels of attnd.device by triton's interpreter, in a process of its own: torch.compile uses triton, too. And
compiled for a GPU that is not here: the interpreter takes what the compiler refuses."""
import os
import pathlib
import subprocess
import sys

import pytest


def test_the_interpreted_kernel():
    pytest.importorskip("triton")
    cases = pathlib.Path(__file__).with_name("device_kernel.py")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)], timeout=1200,
                         env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


SWITCHES = ("CAUSAL", "WINDOW", "SOFTCAP", "BIAS", "DOCUMENTS", "Q_LEN", "K_LEN", "WIDEN", "ENTRIES")
KINDS = {"scale": "fp32", "softcap": "fp32", "bias": "*fp32", "documents": "*i64", "q_len": "*i64", "k_len": "*i64",
         "inverse_k": "*fp32", "out": "*fp32"}


@pytest.mark.parametrize("name", ["row_sums", "top_sums"])
@pytest.mark.parametrize("dtype, size, switches", [("bf16", 64, {"CAUSAL", "ENTRIES"}), ("fp32", 32, set(SWITCHES) - {"WIDEN"})])
def test_the_kernels_compile_for_sm_90(name, dtype, size, switches):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from attnd.device import kernel
    function = getattr(kernel, name)
    fixed = {"ROWS": size, "KEYS": size, "WIDTH": 64, **{one: int(one in switches) for one in SWITCHES}}
    fixed = {one: value for one, value in fixed.items() if one in function.arg_names}
    kinds = {one: "constexpr" if one in fixed else f"*{dtype}" if one in ("q", "k") else KINDS.get(one, "i32")
             for one in function.arg_names}
    varying = {one.name for one in function.params if one.do_not_specialize}
    assert varying == {"first_head", "queries", "keys", "q_offset", "window", "out_stride"}  # no new compilation for another
    source = ASTSource(function, kinds, {(function.arg_names.index(one),): value for one, value in fixed.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
