"""ListOps: nested operations on lists of digits, and what they evaluate to.

An expression is a list of tokens such as `[MAX 2 9 [MIN 4 7 ] 0 ]`. Its value is a digit.

Source: Nangia & Bowman, 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning", arXiv 1804.06028.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.seeding import derive_seed

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MAX": max,
    "[MIN": min,
    "[MED": lambda values: int(statistics.median(values)),  # of an even count: the mean, rounded down
    "[SM": lambda values: sum(values) % 10,
}
CLOSE = "]"
VOCABULARY = [*map(str, range(10)), *OPERATIONS, CLOSE]
PADDING = len(VOCABULARY)


@dataclass(frozen=True)
class Grammar:
    """Which expressions are generated.

    Attributes:
        depth: most operations inside each other.
        arguments: most arguments of an operation; the fewest are two.
        nesting: probability that an argument is an operation, where the depth allows it.
        shortest, longest: tokens of an expression.
    """

    depth: int = 2
    arguments: int = 3
    nesting: float = 0.4
    shortest: int = 4
    longest: int = 10


def evaluate(tokens: Sequence[str]) -> int:
    """The value of an expression. Raises ValueError where it is malformed."""
    stack: list[tuple[str, list[int]]] = [("", [])]
    for token in tokens:
        if token in OPERATIONS:
            stack.append((token, []))
        elif token == CLOSE:
            operation, values = stack.pop()
            if not values or not stack:
                raise ValueError(f"malformed expression: {' '.join(tokens)[:80]}")
            stack[-1][1].append(OPERATIONS[operation](values))
        elif token in VOCABULARY:
            stack[-1][1].append(int(token))
        else:
            raise ValueError(f"unknown token {token!r} in {' '.join(tokens)[:80]}")
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError(f"malformed expression: {' '.join(tokens)[:80]}")
    return stack[0][1][0]


def generate(count: int, grammar: Grammar, seed: int) -> list[list[str]]:
    """`count` different expressions in random order, a function of the seed.

    Raises:
        ValueError: the grammar does not seem to have that many within its lengths.
    """
    rng = np.random.default_rng(derive_seed(seed, "listops"))
    found: dict[tuple[str, ...], None] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        tokens = _operation(rng, grammar, grammar.depth)
        if grammar.shortest <= len(tokens) <= grammar.longest:
            found.setdefault(tuple(tokens))
    if len(found) < count:
        raise ValueError(f"found {len(found)} different expressions instead of {count}: {grammar}")
    expressions = [list(tokens) for tokens in found]  # short ones, which soon repeat, came first
    return [expressions[i] for i in rng.permutation(count)]


def _operation(rng: np.random.Generator, grammar: Grammar, depth: int) -> list[str]:
    tokens = [list(OPERATIONS)[rng.integers(len(OPERATIONS))]]
    for _ in range(rng.integers(2, grammar.arguments + 1)):
        if depth > 1 and rng.random() < grammar.nesting:
            tokens += _operation(rng, grammar, depth - 1)
        else:
            tokens.append(str(rng.integers(10)))
    return [*tokens, CLOSE]


@dataclass(frozen=True)
class Expressions:
    """N expressions of at most T tokens.

    Attributes:
        tokens: (N, T) int64, positions in `VOCABULARY`, then `PADDING`.
        lengths: (N,) int64, number of tokens.
        labels: (N,) int64, the values.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> Expressions:
        """Some of them, cut to the longest."""
        lengths = self.lengths[indices]
        return Expressions(self.tokens[indices, : int(lengths.max())], lengths, self.labels[indices])

    def repeat(self, count: int) -> Expressions:
        """All of them `count` times, one whole after the other."""
        return Expressions(
            self.tokens.repeat(count, 1), self.lengths.repeat(count), self.labels.repeat(count)
        )

    def batches(self, size: int) -> list[Expressions]:
        """All of them in batches of nearly equal size, each of similar lengths."""
        order = self.lengths.argsort(stable=True)
        return [self[part] for part in order.tensor_split(max(1, len(self) // size))]


def encode(expressions: Sequence[Sequence[str]]) -> Expressions:
    """Expressions as tensors, with their values. Raises ValueError for a malformed one."""
    position = {token: i for i, token in enumerate(VOCABULARY)}
    labels = torch.tensor([evaluate(tokens) for tokens in expressions])
    rows = [torch.tensor([position[token] for token in tokens]) for tokens in expressions]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
    return Expressions(padded, torch.tensor([len(row) for row in rows]), labels)
