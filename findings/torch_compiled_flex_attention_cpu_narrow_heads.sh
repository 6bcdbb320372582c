#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# torch 2.13.0 (CPU): compiled flex_attention gives wrong numbers for narrow heads and short blocks of keys.
#
# Expected: torch.compile(flex_attention) computes what flex_attention does, to rounding.
# Seen: with f32, a causal block mask of blocks of 8, 24 keys and code for AVX2 (256 bits), the output of heads of 8 or 16
# dimensions is apart from float64's by more than 1; that of heads of 32 and 64, and that of the call which is not
# compiled, by less than 1e-5. Nothing warns. With blocks of 128, the default, and 40 keys the same widths are wrong as well;
# with 64 keys and blocks of 16 or 32 all are right. Small models, as in tests, are hit; models of the usual widths are not.
#
# Needs a C++ compiler and a CPU with AVX2. Installs the pinned package in a temporary folder. Exit status 0: as described;
# 1: it has changed.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 setuptools
cd -- "$place"
export ATEN_CPU_CAPABILITY=avx2 TORCHINDUCTOR_CACHE_DIR=$place/cache
"$place/env/bin/python" - <<'END'
import sys

import torch
import torch._inductor.config
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

torch._inductor.config.cpp.simdlen = 256
KEYS, BLOCK = 24, 8


def causal(b, h, i, j):
    return i >= j


def apart(width, attention):
    """The largest difference from float64."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(width)
    q, k, v = (torch.randn(2, 2, KEYS, width, generator=generator) for _ in range(3))
    blocks = create_block_mask(causal, None, None, KEYS, KEYS, device="cpu", BLOCK_SIZE=BLOCK)
    with torch.no_grad():
        right = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
        return (attention(q, k, v, block_mask=blocks) - right).abs().max().item()


found = {width: (apart(width, torch.compile(flex_attention)), apart(width, flex_attention)) for width in (8, 16, 32, 64)}
for width, (compiled, eager) in found.items():
    print(f"heads of {width:2}: largest difference from float64: compiled {compiled:.2e}, not compiled {eager:.2e}")
as_described = all(eager < 1e-5 for _, eager in found.values()) and all(
    (not compiled < 0.5) if width < 32 else compiled < 1e-5 for width, (compiled, _) in found.items())
print("as described" if as_described else "changed")
sys.exit(not as_described)
END
