#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make: trains a small transformer under attnd and draws every kind of figure of it, and induction heads as they emerge
in another one, as README.md here shows them.

    clients/python/gallery/make.py                   # after ninja -C build
    clients/python/gallery/make.py --build elsewhere --to /tmp/gallery

Needs an interpreter with PyTorch and matplotlib. Takes about two minutes. The commands are those that README.md names.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
EXAMPLES = ROOT / "clients" / "python" / "examples"
TRAIN, EMERGE = EXAMPLES / "train_chars.py", EXAMPLES / "induction_heads.py"
JOB = "chars-encoder-decoder"
WINDOWS = ("window.unit=step", "window.length=5", "window.every=5", "maps.size=256")
RULES = "rules: {sharp: {metric: confidence, each: head, layer: 'decoder.*.cross', above: 0.5, clear: 0.45}}\n"

# The figures: the file's name, then attnctl plot's arguments. {run} is the recording.
FIGURES = {
    "heatmap": "heatmap {run} --layer decoder.0.cross --head 1 --size 3.3",
    "heads": "heads {run} --layer decoder.1.self",
    "layers": "layers {run} --site decoder.cross",
    "flow": "flow {run} --layer 1",
    "aggregate": "aggregate {run} --layer decoder.1.cross",
    "rollout": "rollout {run} --site encoder.self --colormap magma",
    "similarity": "similarity {run} --layer decoder.1.self",
    "spectrum": "spectrum {run} --layer decoder.1.cross",
    "tokens": "tokens {run} --layer decoder.1.cross --query 12",
    "entropy": "entropy " + JOB,
    "series": "series " + JOB + " --layer decoder.1.cross --metric confidence",
}


def wait_for(path):
    """The daemon's socket."""
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)
    raise SystemExit(f"make: {path} did not appear")


class Attnd:
    """A daemon of its own, on sockets in a folder that goes with it."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        config = folder / "attnd.yaml"
        config.write_text(RULES)
        words = [build / "daemon" / "attnd", "--config", config, "--address", folder, "--set",
                 f"history.path={folder}/history.db", "--set", "http.enabled=false"]
        for setting in WINDOWS:
            words += ["--set", setting]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        wait_for(folder / "control")

    def attnctl(self, *words, **options):
        return subprocess.Popen([self.build / "clients" / "cli" / "attnctl", *words, "--address", self.folder],
                                env={**os.environ, "ATTND_PYTHON": sys.executable}, **options)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def train(attnd, steps):
    """A run, recorded as it goes; returns the recording."""
    recording = attnd.folder / "run.rec"
    recorder = attnd.attnctl("record", JOB, str(recording), "--until-end", stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, TRAIN, "--address", attnd.folder, "--epochs", "2", "--steps-per-epoch",
                    str(steps // 2), "--context", "24", "--text", ROOT / "workers"],
                   check=True, stdout=subprocess.DEVNULL)
    if recorder.wait(timeout=60) != 0:
        raise SystemExit("make: the run was not recorded")
    return recording


def draw(attnd, recording, to, dpi):
    for name, words in FIGURES.items():
        command = [word.format(run=recording) for word in words.split()]
        target = to / f"{name}.png"
        if attnd.attnctl("plot", *command, "--dpi", str(dpi), "-o", str(target)).wait(timeout=120) != 0:
            raise SystemExit(f"make: {name} was not drawn")
        print(f"{target}: {os.path.getsize(target)} bytes")


def emerge(attnd, target):
    subprocess.run([sys.executable, EMERGE, "--address", attnd.folder, "--figure", target], check=True,
                   stdout=subprocess.DEVNULL)
    print(f"{target}: {os.path.getsize(target)} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="where attnd was built")
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where the figures go")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--dpi", type=int, default=144)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attnd-gallery-") as folder:
        attnd = Attnd(arguments.build.resolve(), pathlib.Path(folder))
        try:
            draw(attnd, train(attnd, arguments.steps), arguments.to, arguments.dpi)
            emerge(attnd, arguments.to / "induction.png")
        finally:
            attnd.close()


if __name__ == "__main__":
    main()
