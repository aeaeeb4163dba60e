"""Candidates are taken out before the first step, by how well small untrained supernets could be trained and
how much they could express without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas import device, distributed
from nas.bilevel.rules.rule import MOST
from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, may_go, nones, require_all_edges
from nas.bilevel.shrinkings.untrained import Mixture
from nas.bilevel.view import SearchView
from nas.genotypes import planned_size_of
from nas.seeding import generator, kept_generators, seed_everything
from nas.zero_cost import relu_codes
from recipes import InputError
from search_spaces.cell import Cell
from search_spaces.mixed_edge import Choice
from search_spaces.skeleton import Skeleton


class ByTrainability(Shrinking):
    """Before the first step, `none` is taken out, and then in every round one candidate of each slot, until
    each has one left: that of the lowest sum of two ranks among all candidates.

    The first rank orders candidates by how much the condition number of the neural tangent kernel becomes
    lower without them, the most first; the second by how much the number of linear regions becomes lower, the
    least first. Equal changes have equal ranks. Changes are relative, and means over fresh weights.

    Args:
        images: of the validation part that the kernel is of.
        repeats: fresh weights, equal for all candidates of a round.

    Source: Chen et al., 2021, "Neural architecture search on ImageNet in four GPU hours: a theoretically
    inspired perspective", arXiv 2102.11535. As there, the kernel is that of a supernet with 3 channels, and
    regions are those of one cell with 1 channel, on 3000 patches of 3 x 3 pixels. There every candidate has
    fresh weights and images of its own.
    """

    name = "te_nas"
    learns = False
    CHANNELS, PATCHES, SIDE, DIGITS = 3, (3, 1000), 3, 3

    def __init__(self, images: int = 72, repeats: int = 3) -> None:
        for name, value, least in (("images", images, 2), ("repeats", repeats, 1)):
            if not least <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected {least} to {MOST}")
        self.images, self.repeats = images, repeats

    def prepare(self, search: SearchView) -> None:
        require_all_edges(search, self.name)
        cell = next(module for module in search.supernet.modules() if isinstance(module, Cell))
        if len(cell.plan.edges) < search.space.num_slots:
            raise InputError(
                f"`shrink={self.name}` counts the regions of a cell, and none of '{search.space.name}' has "
                "all slots: take a space of one kind of cell, such as nasbench201"
            )

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch:
            return
        architecture = search.architecture
        yield from nones(search)
        for number in range(search.space.width):
            lines = [architecture.candidates(row) for row in range(search.space.num_slots)]
            pairs = [(row, k) for row, line in enumerate(lines) if len(line) > 1 for k in line]
            if not pairs:
                return
            conditions, regions = self.changes(search, pairs, number)
            sums = [a + b for a, b in zip(ranks([-c for c in conditions]), ranks(regions), strict=True)]
            known = dict(zip(pairs, sums, strict=True))
            for row in sorted({row for row, _ in pairs}):
                line = sorted(lines[row], key=lambda k, row=row: known[row, k])  # type: ignore[misc]
                worst = next((k for k in line if may_go(search, row, k)), None)
                if worst is not None:
                    yield row, worst

    def changes(
        self, search: SearchView, pairs: Sequence[Pair], number: int
    ) -> tuple[list[float], list[float]]:
        """How much lower the condition number and the number of regions are without each of the pairs, as a
        share of what they are with all, in round `number`."""
        images, _ = search.valid.first(self.images)
        kernel_images, weights = images[: self.images], search.architecture.probabilities()
        totals = torch.zeros(2, len(pairs), dtype=torch.float64)
        with kept_generators():
            for repeat in range(self.repeats):
                seed_everything(search.options.seed, "te-nas", number, repeat)
                wide = _fresh(search, self.CHANNELS, search.dataset.in_channels, "fan_out")
                thin = Alone(_fresh(search, 1, 1, "fan_in"))
                draws = generator(search.options.seed, "patches", number, repeat)
                seen = patches(images, self.PATCHES, self.SIDE, draws)
                whole = (
                    condition(Mixture(wide, weights), kernel_images),
                    regions_of(Mixture(thin, weights), seen),
                )
                for n, pair in enumerate(pairs):
                    less = weights.clone()
                    less[pair] = 0.0
                    less[pair[0]] /= less[pair[0]].sum()
                    now = (
                        condition(Mixture(wide, less), kernel_images),
                        regions_of(Mixture(thin, less), seen),
                    )
                    for measure in range(2):
                        totals[measure, n] += round(1 - now[measure] / whole[measure], self.DIGITS)
                search.bilevel.work.trained += (1 + len(pairs)) * len(kernel_images)
        distributed.average([totals])
        lower = (totals / self.repeats).tolist()
        return lower[0], lower[1]


class Alone(nn.Module):
    """The first cell of a supernet of one channel, with a normalisation and a ReLU behind it."""

    def __init__(self, supernet: nn.Module) -> None:
        super().__init__()
        self.cell = next(module for module in supernet.modules() if isinstance(module, Cell))
        self.norm, self.relu = nn.BatchNorm2d(1, affine=False, track_running_stats=False), nn.ReLU()

    def forward(self, x: Tensor, choice: Choice) -> Tensor:
        out: Tensor = self.relu(self.norm(self.cell([x], choice)))
        return out


def ranks(values: Sequence[float]) -> list[int]:
    """The rank of each value, from 0 for the lowest; equal ones share one, and the next has the next."""
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [order[value] for value in values]


def condition(network: nn.Module, images: Tensor) -> float:
    """The largest eigenvalue of the neural tangent kernel over the smallest.

    The kernel (B, B) is that of the gradients of the sum of the outputs for an image by all weights, where
    normalisations take the statistics of the batch.
    """
    network.train()
    weights = [p for p in network.parameters() if p.dim() > 1]
    sums, rows = network(images).sum(-1), []
    for one in sums:
        found: Any = torch.autograd.grad(one, weights, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]).double())
    kernel = torch.stack(rows)
    values = torch.linalg.eigvalsh(kernel @ kernel.T)  # ascending
    smallest = values[0].clamp_min(torch.finfo(values.dtype).eps * values[-1])
    return float(values[-1] / smallest) if values[-1] > 0 else 1 / torch.finfo(values.dtype).eps


def regions_of(network: nn.Module, batches: Tensor) -> int:
    """How many different patterns the ReLUs show over all images of batches (N, B, C, H, W), each of which is
    normalised alone."""
    codes = torch.cat([torch.cat(relu_codes(network, images), 1) for images in batches])
    return len(torch.unique(codes, dim=0))


def patches(images: Tensor, count: tuple[int, int], side: int, draws: torch.Generator) -> Tensor:
    """Random squares of random channels of random images (B, C, H, W): (*count, 1, side, side)."""
    every = images.unfold(2, side, 1).unfold(3, side, 1)
    index = [torch.randint(size, count, generator=draws).to(images.device) for size in every.shape[:4]]
    return every[tuple(index)].unsqueeze(2)


def _fresh(search: SearchView, channels: int, in_channels: int, mode: str) -> Skeleton:
    """A small supernet with new weights, from the global generators."""
    space = search.space
    supernet = space.supernet(
        channels=channels,
        cells=space.fewest_cells,
        num_classes=search.task.outputs,
        in_channels=in_channels,
        planned_size=planned_size_of(space, search.options.planned_size, search.dataset),
    )
    for module in supernet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return device.place(supernet, search.device, search.options.channels_last)
