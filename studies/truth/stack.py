"""Many small networks trained as one: what makes the accuracy of every cell of a space affordable.

A network of a few channels keeps a processor busy with bookkeeping instead of arithmetic. A stack runs
the modules that its networks have in the same place as one (a grouped convolution, in effect); nothing
passes from one network to another, and each learns what it would learn alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nas.given import build_task, load_data
from nas.steps import StepResult
from nas.training.final import Training
from recipes import FinalOptions, InputError
from search_spaces import Genotype
from search_spaces.cell import Cell
from search_spaces.nasbench201 import StagedSkeleton
from search_spaces.skeleton import Skeleton


class StackedTraining(Training):
    """The final trainings of many cells of one space, with equal options and equal batches.

    Args:
        options: as for `Training`; `genotype` is ignored. Only what acts on each network by itself is
            supported: no clipping, mixing, averaging, auxiliary head or drop-path.
        genotypes: A cells of nasbench201 or of micro.

    Raises:
        InputError: an option that a stack does not support.
    """

    def __init__(self, options: FinalOptions, genotypes: Sequence[Genotype]) -> None:
        for name in ("clip", "mixup", "cutmix", "ema_decay", "compile", "auxiliary_weight", "drop_path"):
            if getattr(options, name):
                raise InputError(f"`{name}` cannot be used where networks are stacked")
        self.genotypes = genotypes
        dataset = load_data(options, {})
        task = build_task(options, dataset, {})
        super().__init__(genotypes[0], dataset, task, options, torch.device("cpu"))

    def build(self) -> nn.Module:
        """The stack of the networks, each with the initial weights that it would have alone."""
        return Stack([self.build_network(genotype) for genotype in self.genotypes])

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Move the weights of every network down the gradient of its own loss."""
        with self.precision():
            output = self.model(images)
            losses = self._losses(output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()
        correct = (output.argmax(-1) == labels).sum() / len(self.genotypes)
        return StepResult(losses.detach().mean(), correct, len(labels))

    def _losses(self, output: Tensor, labels: Tensor) -> Tensor:
        """Loss of every network (A,) from their logits (A, B, classes)."""
        repeated = labels.expand(len(output), -1).flatten()
        losses = self.task.loss(output.flatten(0, 1), repeated, "none")
        return losses.view(len(output), -1).mean(1)

    @torch.no_grad()
    def test_each(self) -> tuple[Tensor, Tensor]:
        """Loss (A,) and accuracy in % (A,) of every network on the test images."""
        self.model.eval()
        loss = torch.zeros((), dtype=torch.float64)
        correct = torch.zeros((), dtype=torch.int64)
        for images, labels in self.test:
            with self.precision():
                output = self.model(images)
            each = torch.stack([self.task.plain_loss(one, labels) for one in output.float()])
            loss = loss.to(output.device) + each.double() * len(labels)
            correct = correct.to(output.device) + (output.argmax(-1) == labels).sum(1)
        self.model.train()
        count = len(self.test.images)
        return loss / count, 100.0 * correct.double() / count

    def test_now(self) -> tuple[float, float]:
        """Mean loss and accuracy (%) of the networks on the test images."""
        loss, accuracy = self.test_each()
        return float(loss.mean()), float(accuracy.mean())


class Stack(nn.Module):
    """Derived networks of a dense cell space and of equal size, run on the same images.

    Args:
        networks: A networks; their weights are copied.

    Attributes:
        sizes: number of parameters of each network (A).
    """

    def __init__(self, networks: Sequence[Skeleton]) -> None:
        super().__init__()
        staged = [network for network in networks if isinstance(network, StagedSkeleton)]
        self.sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
        convolutions, norms = zip(*(network.stem for network in staged), strict=True)
        self.stem = nn.Sequential(stacked(convolutions, shared_input=True), stacked(norms))
        self.blocks = nn.ModuleList()
        for blocks in zip(*(network.blocks for network in staged), strict=True):
            cells = [block for block in blocks if isinstance(block, Cell)]
            self.blocks.append(StackedCell(cells) if cells else stacked(blocks))
        self.last = stacked([network.last for network in staged])
        heads = [cast(nn.Linear, network.classifier) for network in staged]
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (A, B, classes) of images (B, C, H, W)."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        features = self.last(x).mean((2, 3)).unflatten(1, (len(self.sizes), -1))
        return torch.baddbmm(self.bias.unsqueeze(1), features.transpose(0, 1), self.weight.transpose(1, 2))


class StackedCell(nn.Module):
    """A cell of every network: on each edge, the networks with equal operations are run as one.

    Args:
        cells: A cells of equal topology and size.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.count, self.plan = len(cells), cells[0].plan
        self.layers = nn.ModuleList()
        self.terms: list[tuple[int, int, Tensor]] = []  # source, target and networks of each layer
        for i, edge in enumerate(self.plan.edges):
            operations = [cell.plan.edges[i].operation for cell in cells]
            for operation in dict.fromkeys(operations):
                if operation != "none":
                    members = [a for a, name in enumerate(operations) if name == operation]
                    self.layers.append(stacked([cells[a].edges[i] for a in members]))
                    self.terms.append((edge.source, edge.target, torch.tensor(members)))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (B, A * C, H, W) to the same."""
        x = x.unflatten(1, (self.count, -1))
        states = [x] + [torch.zeros_like(x) for _ in range(1, self.plan.nodes)]
        for layer, (source, target, members) in zip(self.layers, self.terms, strict=True):
            members = members.to(x.device)
            y = layer(states[source].index_select(1, members).flatten(1, 2))
            states[target] = states[target].index_add(1, members, y.unflatten(1, (len(members), -1)))
        return states[-1].flatten(1, 2)


def stacked(modules: Sequence[nn.Module], shared_input: bool = False) -> nn.Module:
    """One module that does on (B, A * C, H, W) what A modules of equal structure do on (B, C, H, W).

    Args:
        modules: made of convolutions, normalisations and what has no weights.
        shared_input: give all modules the same (B, C, H, W) instead; for a single convolution.
    """
    first = modules[0]
    if isinstance(first, nn.Conv2d):
        count = len(modules)
        groups = 1 if shared_input else count
        sizes = {"in_channels": first.in_channels * groups, "out_channels": first.out_channels * count}
        return _joined(first, modules, groups=groups, **sizes)
    if isinstance(first, nn.BatchNorm2d):
        return _joined(first, modules, num_features=first.num_features * len(modules))
    if isinstance(first, nn.AvgPool2d) and first.stride == 1:
        return _PoolingMatrix(first)
    result = copy.deepcopy(first)
    for name, _ in first.named_children():
        setattr(result, name, stacked([module.get_submodule(name) for module in modules]))
    return result


def _joined(first: nn.Module, modules: Sequence[nn.Module], **attributes: int) -> nn.Module:
    """`first` with new attributes and the weights and running statistics of all modules, joined."""
    result = copy.deepcopy(first)
    for name, value in attributes.items():
        setattr(result, name, value)
    for name, _ in first.named_parameters(recurse=False):
        parts = [module.get_parameter(name).detach() for module in modules]
        setattr(result, name, nn.Parameter(torch.cat(parts)))
    for name, buffer in first.named_buffers(recurse=False):
        if buffer.dim():
            setattr(result, name, torch.cat([module.get_buffer(name) for module in modules]))
    return result


class _PoolingMatrix(nn.Module):
    """A pooling as one product with a matrix over the pixels, which is faster for tiny images."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        basis = torch.eye(h * w, dtype=x.dtype, device=x.device).view(-1, 1, h, w)
        matrix: Tensor = self.pooling(basis).view(h * w, h * w)
        return (x.flatten(2) @ matrix).view_as(x)
