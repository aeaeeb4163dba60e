"""A search in stages of equal length, each with a supernet of its own size.

Where its cells or its channels become more, a stage begins with new weights and a learning-rate schedule of
its own. Where only more of the channels go through the candidates, the weights are widened: channel j of a
candidate begins as a copy of channel j mod n of the n that there were, and a weight that reads one of c
copies is divided by c, so that a candidate whose new inputs were copies would give copies of its outputs. The
two halves of a skip connection of stride 2 read different pixels, and are widened each for itself.

Sources: Chen et al., 2019, "Progressive Differentiable Architecture Search", arXiv 1904.12760 (new weights);
Chen et al., 2021, "DrNAS", arXiv 2006.10355, and Chen et al., 2016, "Net2Net", arXiv 1511.05641 (widening).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas.genotypes import cells_of
from recipes import InputError, SearchOptions
from recipes.growth import parse_growth
from search_spaces import SearchSpace


@dataclass(frozen=True)
class Growth:
    """The stages of a search; one, if its supernet keeps its size.

    Attributes:
        stages: the options of each, with its sizes.
        renews: whether each begins with new weights.
    """

    stages: tuple[SearchOptions, ...]
    renews: bool = False

    @staticmethod
    def of(options: SearchOptions, space: SearchSpace) -> Growth:
        """What the options ask for. Raises InputError where a size does not grow, or the space has it not."""
        earlier = parse_growth(options.grow)
        for name, sizes in earlier.items():
            last = cells_of(space, options.cells) if name == "cells" else getattr(options, name)
            steps = [*sizes, last][:: -1 if name == "partial_channels" else 1]
            if any(after <= before for before, after in itertools.pairwise(steps)):
                raise InputError(
                    f"`grow={options.grow}` goes before `{name}={last}`, expected sizes that "
                    f"{'fall' if name == 'partial_channels' else 'rise'} to it"
                )
        if not earlier:
            return Growth((options,))
        stages = [
            replace(options, **dict(zip(earlier, sizes, strict=True)))
            for sizes in zip(*earlier.values(), strict=True)
        ]
        for stage in stages:
            cells_of(space, stage.cells)
        return Growth((*stages, options), set(earlier) != {"partial_channels"})

    @property
    def epochs(self) -> int:
        """Of each stage."""
        return self.stages[0].epochs // len(self.stages)

    def stage(self, epoch: int) -> int:
        """The number of the stage that an epoch is in."""
        return min(epoch // self.epochs, len(self.stages) - 1)

    @property
    def schedule(self) -> int:
        """Epochs of a learning-rate schedule: it begins anew where the weights do."""
        return self.epochs if self.renews else self.stages[0].epochs


def widen(
    old: nn.Module, new: nn.Module, old_optimizer: torch.optim.Optimizer, new_optimizer: torch.optim.Optimizer
) -> None:
    """Give a supernet the weights of an equal one with fewer channels for candidates, and its optimizer their
    momentum."""
    known = dict(old.named_parameters())
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            parameter.copy_(widened(known[name], parameter.shape, shared=True))
            state = old_optimizer.state.get(known[name], {})
            if (momentum := state.get("momentum_buffer")) is not None:
                buffer = torch.empty_like(parameter)
                buffer.copy_(widened(momentum, parameter.shape))
                new_optimizer.state[parameter]["momentum_buffer"] = buffer


def widened(tensor: Tensor, shape: torch.Size, shared: bool = False) -> Tensor:
    """A tensor of at least the shape of `tensor`, whose entry j along every dimension is entry j mod n of it.

    Args:
        shared: whether entries that read copies, along the second dimension, share what one of them had.
    """
    for dim, (before, after) in enumerate(zip(tensor.shape, shape, strict=True)):
        if before == after:
            continue
        index = torch.arange(after) % before
        tensor = tensor.index_select(dim, index.to(tensor.device))
        if shared and dim == 1:
            copies = index.bincount()[index].view(-1, *[1] * (tensor.dim() - 2))
            tensor = tensor / copies.to(tensor)
    return tensor
