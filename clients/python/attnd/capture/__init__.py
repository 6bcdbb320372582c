# SPDX-License-Identifier: MIT
"""capture: a watched model in training (watch.py): when a call of attention is captured, and how it becomes a message (calls.py), with
its numbers (states.py, accelerator.py), its gradients, its padding, and the matrices of its layer."""
