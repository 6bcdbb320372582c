# SPDX-License-Identifier: MIT
"""collapse_text: text to train on that is the same everywhere and for ever, made of words that nobody uses.

Prose, lines of a programming language and rows of numbers take turns, so that the characters that come next are hard
enough to tell: a model has to look back for some hundred steps. Only `random()` is asked of the generator, the one
method whose numbers Python promises never to change.
"""
from __future__ import annotations

import random
from typing import Sequence

BEGINNINGS = [*"b c d f g h j k l m n p qu r s t v w x y z".split(),
              *"bl br ch cl cr dr fl gr ph pl pr sc sh sk sp st str th tr".split()]
MIDDLES = "a e i o u ai au ea ee ei ia io oa oo ou y".split()
ENDS = ["", "", "", "", *"b ck d g l m n nd ng nt p r rk s ss st t tch x".split()]
OPERATORS = "+ - * / % & | ^ = < > == != <= >= -> && || += ::".split()
NAMES, WORDS = 60, 3000
PASSAGE = 400  # characters, about


class _Writer:
    def __init__(self, seed: int):
        self.random = random.Random(seed).random
        self.words = [self.word() for _ in range(WORDS)]
        self.passages = (self.sentence, self.statement, self.row)

    def pick(self, choices: Sequence) -> str:
        return choices[int(self.random() * len(choices))]

    def below(self, count: int) -> int:
        return int(self.random() * count)

    def word(self) -> str:
        return "".join(self.pick(BEGINNINGS) + self.pick(MIDDLES) + self.pick(ENDS) for _ in range(1 + self.below(3)))

    def name(self) -> str:
        word = self.words[self.below(NAMES)]
        two = f"{word}_{self.words[self.below(NAMES)]}"
        return self.pick((word, word, two, word.upper(), word.capitalize(), word[0]))

    def number(self) -> str:
        return self.pick((str(int(10**(5 * self.random()))), f"{self.random():.3f}", hex(self.below(65536))))

    def sentence(self) -> str:
        words = [self.words[int(self.random()**3 * WORDS)] for _ in range(3 + self.below(9))]  # the first are the frequent ones
        return " ".join(words).capitalize() + self.pick((". ", ".\n", "? ", ": ", "; ", "! "))

    def expression(self, depth: int = 0) -> str:
        kind = self.random()
        if kind < 0.4 or depth > 2:
            return self.name()
        if kind < 0.55:
            return self.number()
        if kind < 0.65:
            return f"{self.name()}[{self.expression(depth + 1)}]"
        if kind < 0.8:
            return f"{self.name()}({', '.join(self.expression(depth + 1) for _ in range(self.below(3)))})"
        return f"{self.expression(depth + 1)} {self.pick(OPERATORS)} {self.expression(depth + 1)}"

    def statement(self) -> str:
        indent = " " * (4 * self.below(4))
        comment = f"  # {self.sentence().strip()}" if self.random() < 0.2 else ""
        return f"{indent}{self.name()} = {self.expression()}{comment}\n"

    def row(self) -> str:
        return f"{self.name()}\t" + "\t".join(self.number() for _ in range(1 + self.below(5))) + "\n"

    def passage(self) -> str:
        write, pieces = self.pick(self.passages), []
        while sum(map(len, pieces)) < PASSAGE:
            pieces.append(write())
        return "".join(pieces) + "\n"


def text(size: int, seed: int = 0) -> str:
    """The first `size` characters of what `seed` writes; plain ASCII."""
    writer, pieces, length = _Writer(seed), [], 0
    while length < size:
        pieces.append(writer.passage())
        length += len(pieces[-1])
    return "".join(pieces)[:size]
