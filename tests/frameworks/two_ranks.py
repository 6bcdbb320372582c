# SPDX-License-Identifier: MIT
"""Trains the model of test_lightning.py or of test_transformers.py in two processes of this machine (DDP over gloo),
watched by the callback. Started by test_ranks.py: two_ranks.py FRAMEWORK ENDPOINT DIRECTORY"""
import sys
from types import SimpleNamespace

import conftest  # noqa: F401 - finds attnd


def train(framework, endpoint, directory):
    daemon = SimpleNamespace(endpoint=lambda name: endpoint)
    if framework == "lightning":
        import lightning.pytorch as lightning
        from test_lightning import attached, loader, module, trainer
        trainer(lightning, [attached(daemon)], directory, epochs=1, devices=2, strategy="ddp").fit(
            module(lightning), loader())
    else:
        from test_transformers import attached, trainer
        trainer(directory, attached(daemon), epochs=1).train()


if __name__ == "__main__":
    train(*sys.argv[1:])
