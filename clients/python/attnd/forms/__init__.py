# SPDX-License-Identifier: MIT
"""forms: sees the attentions of a model (spy.py, lookout.py), judges what is one (judge.py, evidence.py), says which heads this rank
has of it (shares.py), and what a call of each form means.

    sdpa                 F.scaled_dot_product_attention
    flex, mods           flex attention, and its mask_mod and score_mod
    interface            attention functions of Hugging Face transformers
    kernels_of_others    flash_attn, xFormers, torch's varlen_attn; with transformer_engine, and bands for what they see
    detours              how calls of these are led past us
    look                 what Inductor compiled
"""
