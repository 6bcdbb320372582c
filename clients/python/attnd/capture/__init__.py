# SPDX-License-Identifier: MIT
"""capture: a watched model in training: which steps are captured (watch.py), what its forwards show (forwards.py), and how a call of
attention becomes a message (calls.py), with its numbers (origins.py, rows.py, accelerator.py), its gradients, its padding, and the
matrices of its layer."""
