# SPDX-License-Identifier: MIT
"""chars_model: two small transformers over characters, made of torch.nn's own layers.

Nothing in here knows that somebody watches.
"""
from __future__ import annotations

import torch
from torch import nn

from chars_data import PAD


class Embedding(nn.Module):
    """Characters and their positions: i64 [B,T] -> [B,T,width]."""

    def __init__(self, vocabulary: int, positions: int, width: int):
        super().__init__()
        self.character = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.character(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))


def causal_mask(length: int) -> torch.Tensor:
    """bool [length, length], True = ignore."""
    return torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)


def _options(width: int, heads: int, dropout: float) -> dict:
    return {"d_model": width, "nhead": heads, "dim_feedforward": 4 * width, "dropout": dropout,
            "batch_first": True, "norm_first": True}


class EncoderDecoder(nn.Module):
    """Reads a damaged line, writes the whole one: encoder self, decoder self (causal) and cross attention."""

    def __init__(self, vocabulary: int, positions: int, width: int, heads: int, layers: int, dropout: float):
        super().__init__()
        options = _options(width, heads, dropout)
        self.embedding = Embedding(vocabulary, positions, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**options), layers, nn.LayerNorm(width),
                                             enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**options), layers, nn.LayerNorm(width))
        self.output = nn.Linear(width, vocabulary)

    def forward(self, source: torch.Tensor, decoder_inputs: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, vocabulary]."""
        source_padding, target_padding = source == PAD, decoder_inputs == PAD
        memory = self.encoder(self.embedding(source), src_key_padding_mask=source_padding)
        hidden = self.decoder(self.embedding(decoder_inputs), memory, tgt_mask=causal_mask(decoder_inputs.shape[1]),
                              tgt_key_padding_mask=target_padding, memory_key_padding_mask=source_padding)
        return self.output(hidden)


class DecoderOnly(nn.Module):
    """Continues text: causal self-attention only."""

    def __init__(self, vocabulary: int, positions: int, width: int, heads: int, layers: int, dropout: float):
        super().__init__()
        self.embedding = Embedding(vocabulary, positions, width)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**_options(width, heads, dropout))
                                    for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, vocabulary]."""
        hidden, mask = self.embedding(inputs), causal_mask(inputs.shape[1])
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.output(self.norm(hidden))


MODELS = {"encoder-decoder": EncoderDecoder, "decoder-only": DecoderOnly}
TASKS = {"encoder-decoder": "restore", "decoder-only": "continue"}
