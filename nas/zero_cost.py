"""Scores of a derived network at its initialisation, from a few images and without any training.

    score = nas.zero_cost.SCORES.build("naswot:images=64")
    value = score(space.network(genotype), images, labels, task)

Abdelfattah et al., 2021, "Zero-cost proxies for lightweight NAS", arXiv 2101.08134, gave them their name.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nas.seeding import kept_generators
from nas.task import Task
from recipes import InputError
from recipes.registry import Registry


class ZeroCost(ABC):
    """Says how promising a network is before it is trained: the higher the better.

    Attributes:
        images: how many it looks at, at most.
    """

    name: ClassVar[str]
    images: int = 32

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        """The score of a network, which stays as it is, as the global random generators do.

        Args:
            images: (B, C, H, W), normalised, on the device of the network; the first `self.images` count.
            labels: (B,).
            task: what the network would be trained for.

        Returns:
            a number; -inf and NaN are worse than all others.
        """
        with kept_generators():
            return self.score(copy.deepcopy(network), images[: self.images], labels[: self.images], task)

    @abstractmethod
    def score(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        """The score of a network with which everything may be done: see `__call__`."""


class Synflow(ZeroCost):
    """log of the sum of |w dR/dw| over all weights w of convolutions and linear layers.

    R is the sum of the outputs for an image of ones, where every parameter has its absolute value and no
    normalisation is left: the sum over all paths from input to output of the product of the weights on them.
    In float64, as R grows exponentially with the depth. Of the data only the size of an image matters.

    Source: Tanaka et al., 2020, arXiv 2006.05467, to prune weights; Abdelfattah et al., 2021, arXiv
    2101.08134, to compare networks.
    """

    name = "synflow"
    images = 1

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        _remove_norms(network.double().eval())
        with torch.no_grad():
            for p in network.parameters():
                p.abs_()
        weights = [p for p in network.parameters() if p.dim() > 1]
        flow = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(flow, weights, allow_unused=True)
        total = sum(
            float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True) if g is not None
        )
        return math.log(total) if total > 0 else -math.inf


class Naswot(ZeroCost):
    """log of the determinant of the matrix (B, B) that counts the ReLUs which two images agree on, by both
    switching them on or both leaving them off: large where the network tells all images apart. ReLU6,
    Hardswish, SiLU and GELU count as ReLUs.

    Args:
        images: B.

    Source: Mellor et al., 2021, arXiv 2006.04647; as there, normalisations take the statistics of the batch.
    """

    name = "naswot"

    def __init__(self, images: int = 32) -> None:
        if images < 2:
            raise ValueError(f"images is {images}, expected an integer of at least 2")
        self.images = images

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        agreeing = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
        for on in relu_codes(network, images, (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)):
            sign = 2.0 * on.float() - 1.0
            agreeing += (sign @ sign.T).double().add_(sign.shape[1]) / 2
        return float(torch.linalg.slogdet(agreeing)[1])


class Zico(ZeroCost):
    """Sum over the layers of the log of sum_w E|g_w| / std|g_w|, where g_w is the gradient of the loss at the
    weight w on a batch, and mean and standard deviation are over batches: large where all batches agree on
    what has to change.

    Weights whose gradient does not differ between the batches are left out.

    Args:
        images: of all batches together.
        batches: how many of (nearly) equal size.

    Source: Li et al., 2023, "ZiCo: zero-shot NAS via inverse coefficient of variation on gradients", arXiv
    2301.11300; normalisations take the statistics of the batch.
    """

    name = "zico"

    def __init__(self, images: int = 32, batches: int = 2) -> None:
        if not 2 <= batches <= images // 2:
            raise ValueError(f"batches is {batches}, expected 2 to {images // 2}, half of the images")
        self.images, self.batches = images, batches

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        _use_batch_statistics(network)
        weights = [p for p in network.parameters() if p.dim() > 1]
        parts = zip(images.tensor_split(self.batches), labels.tensor_split(self.batches), strict=True)
        gradients = [
            torch.autograd.grad(task.loss(network(part), target), weights, allow_unused=True)
            for part, target in parts
        ]
        total = 0.0
        for layer in zip(*gradients, strict=True):
            sizes = torch.stack([g.abs().double() for g in layer if g is not None] or [torch.zeros(1)])
            mean, std = sizes.mean(0), sizes.std(0, correction=0)
            certainty = float((mean / std)[std > 0].sum())
            total += math.log(certainty) if certainty > 0 else 0.0
        return total


SCORES: Registry[type[ZeroCost]] = Registry(
    "zero-cost score", {s.name: s for s in (Synflow, Naswot, Zico)}, ZeroCost
)


def relu_codes(
    network: nn.Module, images: Tensor, kinds: tuple[type[nn.Module], ...] = (nn.ReLU,)
) -> list[Tensor]:
    """Which inputs of every ReLU are above 0, (B, n) bool, in one pass with the statistics of the batch.

    Args:
        kinds: of modules that are taken for a ReLU.

    Raises:
        InputError: the network has none.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append((inputs[0] > 0).flatten(1))

    _use_batch_statistics(network)
    relus = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_pre_hook(keep) for module in relus]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    if not found:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"the network has no {names}, whose signs are looked at: take another score")
    return found


def _use_batch_statistics(network: nn.Module) -> None:
    """Let normalisations take the statistics of the batch, and leave nothing else to chance."""
    network.eval()
    for module in network.modules():
        if isinstance(module, _NormBase):
            module.train()


def _remove_norms(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _NormBase | nn.GroupNorm | nn.LayerNorm):
                setattr(module, name, nn.Identity())
