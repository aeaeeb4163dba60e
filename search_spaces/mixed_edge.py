"""A mixed edge: all candidate operations between two nodes, combined by a draw.

With D the draw of the edge, y = sum_k D_k o_k(x). Where D is one-hot, only the chosen candidate is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_spaces.operations import Zero
from search_spaces.skips import AuxiliarySkip
from search_spaces.slot import ABSENT
from search_spaces.split import NOTHING, Split

EDGE_GRADIENTS = ("lean", "compiled", "captured", "dense", "surrogate")
RECORDED = EDGE_GRADIENTS[:3]  # added by the cell, not by its edges


class Choice(NamedTuple):
    """A draw, read.

    Attributes:
        weights: (E, K), or (B, E, K) for each image, on the device of the features; None where nothing is
            to be learned from them.
        chosen: the candidate of every slot, if all weights are one-hot and equal for all images.
        edges: (E,), what the value of every edge is multiplied by, on the device; None: what the supernet
            says.
        absent: slots of a mixture whose weights are all 0.
    """

    weights: Tensor | None
    chosen: Sequence[int] | None
    edges: Tensor | None = None
    absent: frozenset[int] = frozenset()

    def is_absent(self, row: int) -> bool:
        """Whether the edge of a slot is no part of the architecture."""
        return row in self.absent if self.chosen is None else self.chosen[row] == ABSENT

    def weighed(self, y: Tensor, row: int) -> Tensor:
        """y, a part of the value of the edge of a slot, by the weight of the edge."""
        return y if self.edges is None else self.edges[row] * y

    def detached(self) -> Choice:
        """The same without a graph."""
        weights, edges = (None if x is None else x.detach() for x in (self.weights, self.edges))
        return self._replace(weights=weights, edges=edges)


Draw = Tensor | Sequence[int] | Choice


def read_draw(draw: Draw, device: torch.device) -> Choice:
    """The choice in a draw.

    Args:
        draw: either indices into the candidates of every slot (only these are run, and nothing where
            that is ABSENT), or a tensor (E, K) of weights, or (B, E, K) with the weights of each image.
            Keep the tensor on the CPU: the choice is read from it. A choice is returned as it is.
        device: where the features are.
    """
    if isinstance(draw, Choice):
        return draw
    if not isinstance(draw, Tensor):
        return Choice(None, draw)
    weights = draw.to(device, non_blocking=True)
    if draw.dim() == 3:
        return Choice(weights, None)
    chosen = chosen_in(draw)
    return Choice(weights, chosen, absent=_absent_in(draw) if chosen is None else frozenset())


def with_leaf(draw: Draw, device: torch.device) -> tuple[Choice, Tensor]:
    """The choice in a draw that has weights, and these as a leaf that gets a gradient on `device`: of the
    shape of the draw, or flat with the weights of the edges behind it, where the choice has them."""
    choice = read_draw(draw, device).detached()
    assert choice.weights is not None
    if choice.edges is None:
        leaf = choice.weights.requires_grad_()
        return choice._replace(weights=leaf), leaf
    leaf = torch.cat([choice.weights.flatten(), choice.edges.to(choice.weights.dtype)]).requires_grad_()
    weights, edges = leaf.split([choice.weights.numel(), len(choice.edges)])
    return choice._replace(weights=weights.view_as(choice.weights), edges=edges), leaf


def chosen_in(draw: Tensor) -> list[int] | None:
    """The candidate of every slot in a draw (E, K) on the CPU; None where not all its rows are one-hot."""
    one_hot = ((draw != 0).sum(-1) == 1) & (draw.amax(-1) == 1)
    return draw.argmax(-1).tolist() if all(one_hot.tolist()) else None


def _absent_in(draw: Tensor) -> frozenset[int]:
    """The rows of a mixture (E, K) on the CPU that are all 0."""
    return frozenset(row for row, gone in enumerate((draw == 0).all(-1).tolist()) if gone)


class MixedEdge(nn.Module):
    """The candidates of one edge; `forward` combines them by the edge's row of a choice.

    Args:
        candidates: (name, module) of every candidate operation, in the order of the logits.
        nothing: the value of the edge where it is absent.
        partial: the candidates have the first 1 / partial of the channels, and the cell looks after the
            others (see `partial_channels`).

    Attributes:
        left_out: candidates that no draw gives a weight to: they are not run in a mixture, and have no
            product.
        auxiliary: what the cell adds to the value of the edge, whatever is drawn; None: nothing.
        edge_gradient: where the gradient of one-hot weights comes from: `lean`, the cell adds it (see
            `exact_gradient`); `compiled`, likewise, by a compiled function; `captured`, likewise, and all
            passes of a cell in few launches (see `captured`); `dense`, plain autograd
            through all candidates; `surrogate`, the approximation of GDAS.
    """

    edge_gradient = "lean"

    def __init__(self, candidates: Iterable[tuple[str, nn.Module]], nothing: Zero, partial: int = 1) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict(dict(candidates))
        self.operations = list(self.candidates.values())
        self.nothing, self.partial = nothing, partial
        self.auxiliary: AuxiliarySkip | None = None
        self.left_out: frozenset[int] = frozenset()

    @cached_property
    def splits(self) -> list[Split]:
        """The candidates taken apart."""
        return [Split.of(operation) for operation in self.operations]

    def with_products(self, chosen: int) -> list[Split]:
        """The candidates taken apart, NOTHING in the place of those that are left out and not chosen."""
        gone = self.left_out - {chosen}
        return [NOTHING if k in gone else split for k, split in enumerate(self.splits)]

    def mixes(self, choice: Choice) -> bool:
        """Whether the value of the edge is more than that of the chosen candidate."""
        return choice.chosen is None or (choice.weights is not None and self.edge_gradient not in RECORDED)

    def forward(self, x: Tensor, choice: Choice, row: int) -> Tensor:
        """The value of an edge that mixes, by its row of the choice."""
        assert choice.weights is not None
        weights = choice.weights[..., row, : len(self.operations)]
        if choice.chosen is not None and self.edge_gradient == "surrogate":
            chosen = choice.chosen[row]
            others = weights.sum() - weights[chosen]
            return weights[chosen] * self.operations[chosen](x) + others  # type: ignore[no-any-return]
        gone = self.left_out if choice.chosen is None else self.left_out - {choice.chosen[row]}
        terms: list[Tensor] = []
        for k, (operation, weight) in enumerate(zip(self.operations, weights.unbind(-1), strict=True)):
            if k not in gone and not isinstance(operation, Zero):
                y = operation(x)
                terms.append(weight.view(-1, 1, 1, 1).to(y.dtype) * y)
        return sum(terms[1:], start=terms[0]) if terms else self.nothing(x)
