# SPDX-License-Identifier: MIT
"""`python -m attnd gpu` without one: the kernels in Triton's interpreter, and whether it tells what is wrong."""
import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
if not hasattr(torch.cpu, "Stream") or not hasattr(torch, "get_device_module"):
    pytest.skip("this torch has no streams of the CPU", allow_module_level=True)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "clients" / "python")]
from attnd import gpu  # noqa: E402

CPU = torch.device("cpu")


def run(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "attnd", "gpu", *arguments], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python"), **environment})


def test_all_is_well_in_the_interpreter():
    triton = pytest.importorskip("triton")
    found = run("--device", "cpu", TRITON_INTERPRET="1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"cpu, driver none, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, Triton {triton.__version__}\n" in found.stdout
    states = [line.split("  ")[0].strip() for line in found.stdout.splitlines() if " ok " in line]
    assert states == ["device", "kernels", "exact float32", "exact float16", "exact bfloat16", *gpu.MODES[:5]]
    assert found.stdout.count(" by triton") == 3 and found.stdout.count("the same bits") == 5


@pytest.mark.parametrize("wrong", ["--device cuda:99", "--tokens -5", "--width 0", "--key-heads 5"])
def test_a_wrong_argument_is_said(wrong):
    found = run(*wrong.split())
    assert found.returncode == 2 and f"error: {wrong}: " in found.stderr


def exact():
    return gpu._exact(CPU, "reference", torch.float32, gpu._Beside(CPU))()


def test_wrong_numbers_are_found(monkeypatch):
    rows = gpu.on_device.row_statistics
    assert exact().state == gpu.OK
    for name in ("entropy", "max_logit", "previous_token"):
        monkeypatch.setattr(gpu.on_device, "row_statistics", lambda *given, **words: {
            **rows(*given, **words), name: rows(*given, **words)[name] + 1e-3})
        found = exact()
        assert found.state == gpu.WRONG and name in found.text
    monkeypatch.setattr(gpu.on_device, "row_statistics", lambda *given, **words: {
        name: values.nan_to_num() for name, values in rows(*given, **words).items()})
    assert "in other rows" in exact().text


def test_a_training_that_ends_before_its_kernels_are_compiled_runs_again(monkeypatch):
    launch, calls = gpu.Accelerator.launch, []

    def late(self, *given, **options):
        calls.append(1)
        if len(calls) <= 3 * gpu.STEPS_ON_CPU:
            raise gpu.NotYet("the kernels are being compiled")
        return launch(self, *given, **options)

    monkeypatch.setattr(gpu.Accelerator, "launch", late)
    with gpu._as_accelerator(CPU):
        assert gpu._training(CPU, "eager").state == gpu.OK
    assert len(calls) > 3 * gpu.STEPS_ON_CPU


def test_a_training_that_differs_or_of_which_nothing_comes_is_found(monkeypatch):
    watch = gpu.watch

    def disturbs(model, *given, **options):
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-6
        return watch(model, *given, **options)

    with gpu._as_accelerator(CPU):
        assert gpu._training(CPU, "eager").state == gpu.OK
        monkeypatch.setattr(gpu, "watch", disturbs)
        assert "differ with attnd" in gpu._training(CPU, "eager").text
        monkeypatch.setattr(gpu, "watch", lambda model, *given, **options: watch(model, *given, **{**options, "every": 0}))
        assert "nothing was captured" in gpu._training(CPU, "eager").text
