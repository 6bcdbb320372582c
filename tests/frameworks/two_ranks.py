# SPDX-License-Identifier: MIT
"""Trains the model of test_lightning.py or of test_transformers.py in two processes of this machine (DDP over gloo),
watched by the callback. Started by test_ranks.py: two_ranks.py FRAMEWORK ADDRESS DIRECTORY [stop]; with `stop` it ends
at the first alert, and each rank leaves the number of its steps in a file of the directory."""
import pathlib
import sys
from types import SimpleNamespace

import conftest  # noqa: F401 - finds attnd

import attnd  # isort: skip


def train(framework, address, directory, stop=None):
    daemon = SimpleNamespace(endpoint=lambda name: f"ipc://{address}/{name}")
    options = {"endpoint": None, "address": address, "on_alert": attnd.stop_on("critical")} if stop else {}
    epochs = 1000 if stop else 1
    if framework == "lightning":
        import lightning.pytorch as lightning
        from test_lightning import attached, loader, module, trainer
        trained = trainer(lightning, [attached(daemon, **options)], directory, epochs=epochs, devices=2, strategy="ddp")
        trained.fit(module(lightning), loader())
        rank, step = trained.global_rank, trained.global_step
    else:
        from test_transformers import attached, trainer
        trained = trainer(directory, attached(daemon, **options), epochs=epochs)
        trained.train()
        rank, step = trained.args.process_index, trained.state.global_step
    pathlib.Path(directory, f"rank-{rank}").write_text(str(step))


if __name__ == "__main__":
    train(*sys.argv[1:])
