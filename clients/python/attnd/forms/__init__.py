# SPDX-License-Identifier: MIT
"""forms: the ways in which models call attention, beside those that spy.py sees by itself, and how each is seen.

    sdpa                 F.scaled_dot_product_attention
    flex, mods           flex attention, and its mask_mod and score_mod
    interface            attention functions of Hugging Face transformers
    kernels_of_others    flash_attn, xFormers, torch's varlen_attn; with transformer_engine, and bands for what they see
    detours              how calls of these are led past us
    look                 what Inductor compiled
"""
