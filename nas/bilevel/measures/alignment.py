"""Whether the cells of a supernet want the same architecture: the alignment of their gradients.

All cells of a kind share the weights pi of their candidates. With a copy of pi for each cell, g_l = dL/dpi_l
is the gradient of cell l alone; the alignment is the mean cosine of g_i and g_j over all pairs of cells.

Source: Movahedi et al., 2023, "Lambda-DARTS: mitigating performance collapse by harmonizing operation
selection among cells", arXiv 2210.07998, by the code of dr-faustus/Lambda-DARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.cell import Cell
from search_spaces.mixed_edge import Choice, Draw


def repeated_cells(supernet: nn.Module) -> list[Cell]:
    """The cells of the kind that occurs most often; none if no kind occurs twice."""
    kinds: dict[tuple[int, ...], list[Cell]] = {}
    for module in supernet.modules():
        if isinstance(module, Cell):
            kinds.setdefault(tuple(edge.row for edge in module.plan.edges), []).append(module)
    most = max(kinds.values(), key=len, default=[])
    return most if len(most) > 1 else []


@contextmanager
def own_weights(cells: Sequence[Cell], weights: Sequence[Tensor]) -> Iterator[None]:
    """Let each cell combine its candidates by weights (E, K) of its own, on the device."""

    def hook(own: Tensor) -> Callable[[nn.Module, Any], Any]:
        return lambda _, args: (args[0], args[1]._replace(weights=own, chosen=None))

    handles = [cell.register_forward_pre_hook(hook(own)) for cell, own in zip(cells, weights, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cell_gradients(loss_of: Callable[[Draw], Tensor], cells: Sequence[Cell], weights: Tensor) -> list[Tensor]:
    """The gradient (E, K) of the loss by the weights of each cell, all of which are `weights`.

    Args:
        loss_of: the loss () of a draw, of one pass.
        weights: (E, K), of a mixture, on the device.
    """
    copies = [weights.detach().clone().requires_grad_() for _ in cells]
    with own_weights(cells, copies):
        return list(torch.autograd.grad(loss_of(Choice(weights.detach(), None)), copies))


def alignment(gradients: Sequence[Tensor]) -> Tensor:
    """The mean cosine () over all pairs of L gradients; one that is 0 is at right angles to all."""
    units, _ = _units(gradients)
    total: Tensor = units.sum(0).square().sum() - units.square().sum()
    return total / (len(units) * (len(units) - 1))


def directions(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the alignment by each of L gradients: (2 / (L (L - 1))) (I - u u^T) sum of u / |g|."""
    units, inverse = _units(gradients)
    total, share = units.sum(0), 2 / (len(units) * (len(units) - 1))
    return [
        (share * one * (total - unit * (unit @ total))).view_as(gradient)
        for gradient, unit, one in zip(gradients, units, inverse, strict=True)
    ]


def _units(gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Unit vectors (L, E * K), and one over the lengths (L,); both 0 where a gradient is."""
    flat = torch.stack([gradient.flatten() for gradient in gradients])
    lengths = flat.norm(dim=-1)
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    return flat * inverse.unsqueeze(-1), inverse
