#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# peft 0.21.2 (torch 2.13.0): LoRA on torch.nn.MultiheadAttention adds its change of the output projection twice.
#
# Expected: with target_modules=["attn"] a forward computes with in_proj_weight + delta_in and out_proj.weight + delta_out,
# where delta_in and delta_out are what get_delta_weight("default") returns, scaling included.
# Seen: the output is that of in_proj_weight + delta_in and out_proj.weight + 2 delta_out, to rounding, in training and in
# evaluation. merge_and_unload() leaves out_proj.weight + 2 delta_out as well, so the merged model agrees with the adapted
# one, and a LoRA that is moved elsewhere by its two factors does not. Whoever computes the effective matrix from base,
# factors and scaling gets another one than the model has.
#
# Installs the pinned packages in a temporary folder. Exit status 0: as described; 1: it has changed.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet torch==2.13.0 peft==0.21.2 transformers==5.24.0 numpy==2.4.6
cd -- "$place"
"$place/env/bin/python" - <<'END'
import sys

import peft
import torch

WIDTH, HEADS = 16, 2


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


torch.manual_seed(0)
base = Model()
w_in, w_out = base.attn.in_proj_weight.detach().clone(), base.attn.out_proj.weight.detach().clone()
b_in, b_out = base.attn.in_proj_bias.detach().clone(), base.attn.out_proj.bias.detach().clone()
adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["attn"], init_lora_weights=False))
layer = adapted.base_model.model.attn
delta_in = layer.get_delta_weight("default").detach()
delta_out = layer.base_layer.out_proj.get_delta_weight("default").detach()
x = torch.randn(2, 5, WIDTH)


def by_hand(times):
    plain = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(w_in + delta_in)
        plain.out_proj.weight.copy_(w_out + times * delta_out)
        plain.in_proj_bias.copy_(b_in)
        plain.out_proj.bias.copy_(b_out)
        return plain(x, x, x, need_weights=False)[0]


apart = {}
with torch.no_grad():
    for mode in (True, False):
        adapted.train(mode)
        made = adapted(x)
        for times in (0, 1, 2):
            apart[mode, times] = (made - by_hand(times)).abs().max().item()
            print(f"{'train' if mode else 'eval'}: largest difference from the output with {times} x delta_out: {apart[mode, times]:.2e}")
    merged = adapted.merge_and_unload()
    left = (merged.attn.out_proj.weight - (w_out + 2 * delta_out)).abs().max().item()
print(f"merge_and_unload: out_proj.weight is apart from base + 2 delta_out by {left:.2e}")
twice = all(apart[mode, 2] < 1e-5 < 0.1 < apart[mode, 1] for mode in (True, False)) and left < 1e-5
print("as described" if twice else "changed")
sys.exit(not twice)
END
