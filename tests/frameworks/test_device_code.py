# SPDX-License-Identifier: MIT
"""What Triton makes of the kernels for cards that are not here: registers, shared memory and instructions. Compiling needs no
card, and running is not tried."""
import pathlib
import re
import subprocess
import tempfile
from typing import NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton")
from attnd.base import plan  # noqa: E402
from attnd.device import kernel, launch  # noqa: E402
from attnd.device.problem import Problem, Rows  # noqa: E402

compiler = pytest.importorskip("triton.backends.compiler")
DUMP = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
NOWHERE = torch.empty(1, 1, 1, device="meta")
HEADS, KEY_HEADS, TOKENS, ROWS = 32, 8, 8192, 256
KIB = 1024
SHARED_MAX = {80: 163 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}  # of a block of threads
# Instructions a logit where no key is hidden, of some rows of bf16, by the width of a head: on these cards, and of few_keys.
# Triton 3.9 makes half an instruction to one less.
PER_LOGIT_MAX = {64: ((27, 27, 27, 24, 27), 22), 128: ((29, 29.5, 28, 25, 29), 24),
                 192: ((32.5, 33, 31, 27, 33.5), 28.5), 256: ((33.5, 34, 31.5, 27, 34.5), 31.5)}
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8", torch.int64: "i64"}

pytestmark = pytest.mark.skipif(not DUMP.exists(), reason="this triton has no cuobjdump")


class Loop(NamedTuple):
    per_logit: float
    spilled: int  # loads and stores of spilled registers


class Code(NamedTuple):
    spilled_bytes: int
    shared: int
    loops: list  # that have a product of matrices, in the order of the program


def problem(dtype=torch.bfloat16, width=128, sampled=True, bias=None, replaces=False, **words):
    q, k = (torch.empty(1, heads, TOKENS, width, dtype=dtype, device="meta") for heads in (HEADS, KEY_HEADS))
    if not sampled:
        return Problem(q, k, causal=True, bias=bias, **words)
    rows = Rows(torch.empty(ROWS, dtype=torch.int64, device="meta"), plan.strata(TOKENS, ROWS))
    found = Problem(q, k, causal=True, **words).sampled(rows, bias)
    found.replaces = replaces
    return found


def compiled(call, capability):
    """The code of a launch, as that of launch.py would compile it."""
    call, tensors = call
    given = {**dict(zip(call.kernel.arg_names, (*tensors, *call.numbers))), **call.how}
    types, constants, attributes = {}, {}, {}
    for number, name in enumerate(call.kernel.arg_names):
        value = given[name]
        if name.isupper() or (value == 1 if isinstance(value, int) and name not in kernel._VARYING else False):
            types[name], constants[(number,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[name], attributes[(number,)] = "*" + TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            types[name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
            if isinstance(value, int) and value % 16 == 0 and name not in kernel._VARYING:
                attributes[(number,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(call.kernel, types, constants, attributes)
    made = triton.compile(source, target=compiler.GPUTarget("cuda", capability, 32),
                          options={name: call.how[name] for name in ("num_warps", "enable_fp_fusion") if name in call.how})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        used, code = (subprocess.run([DUMP, option, file.name], capture_output=True, text=True, check=True).stdout
                      for option in ("-res-usage", "-sass"))
    return Code(int(re.search(r"STACK:(\d+)", used)[1]), made.metadata.shared,
                loops_of(code, call.how.get("ROWS", 1) * call.how["KEYS"] / (32 * call.how["num_warps"])))


def loops_of(code, logits):
    """`logits`: of a thread in one round of the first loop."""
    lines = [(int(found[1], 16), found[2]) for found in re.finditer(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);", code)]
    at, loops = {address: number for number, (address, _) in enumerate(lines)}, []
    for number, (address, text) in enumerate(lines):
        back = re.search(r"BRA.*\s0x([0-9a-f]+)", text)
        if back and int(back[1], 16) < address:
            body = [text for _, text in lines[at[int(back[1], 16)]:number + 1]]
            if any("MMA" in text for text in body):
                loops.append(Loop(len(body) / logits, sum("STL" in text or "LDL" in text for text in body)))
    return loops


@pytest.fixture(autouse=True)
def not_interpreted(monkeypatch):
    monkeypatch.setattr(launch, "_interpreted", lambda: False)


def calls(given, whole=False):
    """The launches of both kernels, with their tensors."""
    tensors, (_, sums, few) = launch._tensors(given), launch._calls(given, slice(0, HEADS), whole)
    return (sums, (*tensors, NOWHERE, NOWHERE)), (few, (*tensors, NOWHERE))


@pytest.mark.parametrize("width", PER_LOGIT_MAX)
@pytest.mark.parametrize("capability", SHARED_MAX)
def test_the_kernels_of_some_rows_are_short_and_fit_the_card(capability, width):
    sums, few = (compiled(call, capability) for call in calls(problem(width=width)))
    assert max(sums.shared, few.shared) <= SHARED_MAX[capability]
    assert sums.spilled_bytes == 0 and few.spilled_bytes <= (24 if width > 128 else 0)
    by_card, of_few = PER_LOGIT_MAX[width]
    assert sums.loops[0].per_logit <= dict(zip(SHARED_MAX, by_card))[capability], sums.loops
    assert few.loops[0].per_logit <= of_few, few.loops


def forms():
    mask = torch.empty(1, 1, ROWS, TOKENS, device="meta")
    yield "all rows", problem(sampled=False)
    yield "all rows, width 192", problem(width=192, sampled=False)
    yield "width 80", problem(width=80)
    yield "f32", problem(torch.float32)
    yield "f32, width 192", problem(torch.float32, 192)
    yield "bias, width 192", problem(width=192, bias=mask.bfloat16())
    yield "bias", problem(bias=mask.bfloat16())
    yield "mask", problem(bias=mask.bool())
    yield "mask of all by head", problem(bias=torch.empty(1, HEADS, TOKENS, TOKENS, device="meta").bool())
    yield "logits", problem(bias=torch.empty(1, HEADS, ROWS, TOKENS, device="meta"), replaces=True)
    yield "documents", problem(documents=torch.empty(1, TOKENS, dtype=torch.int64, device="meta"))
    yield "softcap and window", problem(softcap=30.0, window=1024)


@pytest.mark.parametrize("form, given", list(forms()), ids=[name for name, _ in forms()])
@pytest.mark.parametrize("capability", [80, 90])
def test_no_form_spills_registers_or_needs_much_shared_memory(form, given, capability):
    for call in calls(given, form.startswith("all rows")):
        code = compiled(call, capability)
        assert code.spilled_bytes <= 16 and code.shared <= SHARED_MAX[89], code


@pytest.mark.parametrize("form, given", [
    ("some rows", problem()), ("all rows", problem(sampled=False)), ("width 192", problem(width=192)), ("f32", problem(torch.float32)),
    ("softcap and window", problem(softcap=30.0, window=1024))], ids=str)
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_of_tokens_fits_the_card(form, given, capability):
    tokens = torch.empty(1, TOKENS, dtype=torch.int64, device="meta")
    call = launch._token_call(given, form == "all rows", tokens)
    code = compiled((call, (*launch._tensors(given), tokens, NOWHERE, NOWHERE)), capability)
    assert code.spilled_bytes == 0 and code.shared <= SHARED_MAX[89], code


def beside(given, side):
    """The launches besides those two."""
    q, k, bias, documents, *_, rows, hides_at = launch._tensors(given)
    yield launch._calls(given, slice(0, HEADS), True)[0], (k, NOWHERE, NOWHERE)
    if given.bias is not None:
        yield launch._look(given, given.bias), (bias, rows, hides_at, NOWHERE)
        if given.bias.dtype != torch.bool:
            yield launch._marks(given, given.bias)[0], (bias, rows, torch.empty(1, dtype=torch.uint8, device="meta"))
    if side:
        shown = torch.empty(1, dtype=torch.uint8, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
        yield launch._cells(given, side, True), (q, k, bias, documents, hides_at, NOWHERE, NOWHERE, *shown, NOWHERE.half())


@pytest.mark.parametrize("capability", SHARED_MAX)
def test_what_is_launched_beside_them_is_short_of_no_registers(capability):
    by_head = torch.empty(1, HEADS, TOKENS, TOKENS, device="meta")
    for given, side in ((problem(), 0), (problem(bias=by_head.bool()), 0), (problem(bias=by_head.bfloat16()), 0),
                        (problem(sampled=False), 64), (problem(sampled=False, bias=by_head.bool()), 64), (problem(torch.float32, sampled=False), 64),
                        (problem(width=192, sampled=False), 64)):
        for call in beside(given, side):
            code = compiled(call, capability)
            assert code.spilled_bytes <= 16 and code.shared <= SHARED_MAX[capability], (call[0].kernel, code)
            assert not code.loops or code.loops[0].spilled == 0, (call[0].kernel, code)  # the rounds over keys, within those over rows


@pytest.mark.parametrize("function", [kernel.row_sums, kernel.few_keys], ids=["row_sums", "few_keys"])
def test_lengths_and_offsets_need_no_code_of_their_own(function):
    assert {one.name for one in function.params if one.do_not_specialize} == {
        "first_head", "queries", "keys", "q_offset", "window", "out_stride"}
