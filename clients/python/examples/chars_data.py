# SPDX-License-Identifier: MIT
"""chars_data: lines of source text as batches of characters.

The text is this repository's own source (or any folder's). Two tasks:

    restore   a line with damaged characters -> the line itself (encoder-decoder); lines differ in length,
              so batches are padded on the right
    continue  a window of text -> the same window one character later (decoder-only); never padded
"""
from __future__ import annotations

import pathlib
import random
from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch

PAD, BOS, EOS = 0, 1, 2
SUFFIXES = {".c", ".h", ".py", ".def", ".md", ".build", ".yaml", ".js", ".css", ".html"}
SKIPPED_FOLDERS = ("build", ".", "__pycache__")
TEXT_BYTES_MAX = 4 << 20
DAMAGE = 0.15  # share of characters that are lost, doubled or replaced


class Corpus(NamedTuple):
    """The text and its alphabet: characters are numbered from 3, after PAD, BOS and EOS."""
    lines: List[str]
    alphabet: List[str]

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return len(self.alphabet) + 3

    @property
    def texts(self) -> List[str]:
        """The readable text of each token."""
        return ["<pad>", "<begin>", "<end>", *("\\n" if character == "\n" else character for character in self.alphabet)]


class Batch(NamedTuple):
    """i64 [B, T] each; `source` is None for the decoder-only task. `inputs` and `targets` are shifted by one."""
    source: Optional[torch.Tensor]
    inputs: torch.Tensor
    targets: torch.Tensor

    @property
    def given(self) -> Tuple[torch.Tensor, ...]:
        """The input of the model."""
        return (self.inputs,) if self.source is None else (self.source, self.inputs)


def load(folder: pathlib.Path, longest: int) -> Corpus:
    """Every line of 8 to `longest` characters of the source files under `folder`, in a fixed order."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()
                   and not any(part.startswith(SKIPPED_FOLDERS) for part in path.relative_to(folder).parts))
    text = "\n".join(path.read_text(errors="ignore") for path in files)[:TEXT_BYTES_MAX]
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [line for line in lines if 8 <= len(line.strip()) and len(line) <= longest and line.isascii()]
    if len(lines) < 100:
        raise SystemExit(f"{folder}: only {len(lines)} usable lines of source text; try --text DIRECTORY")
    return Corpus(lines, sorted(set("".join(lines)) | {"\n"}))


def batches(corpus: Corpus, task: str, size: int, context: int, seed: int) -> Iterator[Batch]:
    """Batches without end, the same for the same seed."""
    rng = random.Random(seed)
    number = {character: i + 3 for i, character in enumerate(corpus.alphabet)}
    if task == "restore":
        while True:
            yield _restore(rng.choices(corpus.lines, k=size), number, corpus.alphabet, context, rng)
    stream = torch.tensor([number[c] for c in "\n".join(corpus.lines)])
    while True:
        begins = [rng.randrange(len(stream) - context - 1) for _ in range(size)]
        yield Batch(None, torch.stack([stream[i:i + context] for i in begins]),
                    torch.stack([stream[i + 1:i + 1 + context] for i in begins]))


def _restore(lines: List[str], number: dict, alphabet: List[str], context: int, rng: random.Random) -> Batch:
    damaged = [[number[c] for c in _damage(line, alphabet, rng)][:context] for line in lines]
    whole = [[number[c] for c in line] for line in lines]
    return Batch(_pad(damaged), _pad([[BOS, *line] for line in whole]), _pad([[*line, EOS] for line in whole]))


def _damage(line: str, alphabet: List[str], rng: random.Random) -> str:
    def one(character: str) -> str:
        if rng.random() >= DAMAGE:
            return character
        return rng.choice(("", 2 * character, rng.choice(alphabet)))
    return "".join(map(one, line)) or line


def _pad(rows: List[List[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
