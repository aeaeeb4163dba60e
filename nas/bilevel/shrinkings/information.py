"""Candidates are taken out by how little the channels of their outputs tell apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas import distributed
from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, may_go, require_all_edges
from nas.bilevel.view import SearchView
from nas.seeding import seed_everything
from nas.steps import evaluating
from recipes import InputError
from search_spaces.cell import candidates_in
from search_spaces.chain import ChainSpace
from search_spaces.operations import Zero


class ByInformation(Shrinking):
    """Single-level search: there are no architecture steps, and near the end every slot loses one candidate
    every few epochs, the one whose outputs have the largest score, until each has one left; the policy
    `dense` trains what is left.

    The score of an output o is the mean over images, channels and pixels of 3 (o - m)^2 / s^6, where m and s
    are mean and standard deviation over the channels of a pixel, and infinite where s is 0, as for `none`.
    It is taken on the training images without augmentation, where the supernet adds up all candidates that
    are left, and is a mean over the cells that share a slot.

    Args:
        every: epochs between two rounds, and from the last one to the end of the search.

    Source: He et al., 2024, "IS-DARTS: stabilizing DARTS through precise measurement on candidate
    importance", arXiv 2312.12648; 30 epochs there.
    """

    name = "information"
    learns = False

    def __init__(self, every: int = 2) -> None:
        if every < 1:
            raise ValueError(f"every is {every}, expected an integer of at least 1")
        self.every = every

    def prepare(self, search: SearchView) -> None:
        require_all_edges(search, self.name)
        narrow = min(stage.channels // stage.partial_channels for stage in search.growth.stages)
        if narrow < 2 and not isinstance(search.space, ChainSpace):
            raise InputError(
                f"`shrink={self.name}` compares the channels of an output, and candidates have one: raise "
                "`channels`"
            )
        rounds = search.space.width - 1
        if self.every * rounds >= search.options.epochs:
            raise InputError(
                f"`shrink={self.name}` takes {rounds} rounds, {self.every} epochs apart, and `epochs` is "
                f"{search.options.epochs}: give at least {self.every * rounds + 1}, or lower every"
            )

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        left, rest = divmod(search.options.epochs - epoch, self.every)  # rounds after this one, and one
        if rest or not 1 <= left < search.space.width:
            return
        seed_everything(search.options.seed, "information", epoch)
        found = information(search)
        for row in range(search.space.num_slots):
            line = search.architecture.candidates(row)
            line.sort(key=found[row].tolist().__getitem__, reverse=True)
            worst = next((k for k in line if may_go(search, row, k)), None)
            if worst is not None:
                yield row, worst


@torch.no_grad()
def information(search: SearchView) -> Tensor:
    """The scores (E, K) of all candidates; infinite for `none` and where an output is constant over the
    channels of a pixel."""
    supernet, batches, shape = search.supernet, search.train, search.architecture.logits.shape
    weights = search.architecture.dense()
    totals = torch.zeros(shape, dtype=torch.float64, device=search.device)
    passes = torch.zeros(shape, dtype=torch.float64)  # images that every candidate sees

    def add(row: int, k: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        totals[row, k] += scores(output).sum()

    with evaluating(supernet), contextlib.ExitStack() as hooks:
        for row, k, operation in candidates_in(supernet):
            passes[row, k] += len(batches.images)
            if isinstance(operation, Zero):
                totals[row, k] = torch.inf
            else:
                hooks.callback(operation.register_forward_hook(partial(add, row, k)).remove)
        for images, _ in batches.evaluation(distributed.rank(), distributed.world()):
            with search.bilevel.precision():
                supernet(images, weights)
    search.bilevel.work.evaluated += len(batches.images)
    return distributed.gather(totals.cpu().unsqueeze(0)).sum(0) / passes.clamp_min(1)


def scores(output: Tensor) -> Tensor:
    """The score (B,) of each image of an output (B, C, H, W); see ByInformation."""
    output = output.float()
    squared = (output - output.mean(1, keepdim=True)).square()
    found = 3 * squared / output.std(1, keepdim=True).pow(6)
    return found.nan_to_num(nan=torch.inf, posinf=torch.inf).mean((1, 2, 3))
