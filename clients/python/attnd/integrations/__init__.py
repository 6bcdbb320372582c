# SPDX-License-Identifier: MIT
"""integrations: callbacks that attach attnd to trainers which have their own training loop.

    from attnd.integrations.lightning import AttndCallback       # Lightning, and pytorch_lightning
    from attnd.integrations.transformers import AttndCallback    # Hugging Face Trainer

Importing this package imports neither of them.
"""
