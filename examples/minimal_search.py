"""A whole search on one screen: draw, architecture step, weight step, derive.

    python examples/minimal_search.py

The library does the same with checkpoints, schedules and reports: `nas.search(space="micro", data="digits")`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import estimators
import search_spaces
from nas import data
from search_spaces import Genotype


def search(epochs: int = 20, seed: int = 0) -> Genotype:
    """Search a cell of three nodes on scikit-learn's digits."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)  # of the draws

    digits = data.load("digits").train
    images, labels = digits.pixels.float() / 255 - 0.5, digits.labels
    train, valid = data.split(labels, 0.5, seed)

    space = search_spaces.get("micro")
    supernet = space.supernet(channels=8, cells=1, num_classes=10, in_channels=1)
    logits = torch.zeros(space.num_slots, space.width, requires_grad=True)  # a row for each edge
    estimator = estimators.get("reinmax", tau=1.0)
    weights = torch.optim.SGD(supernet.parameters(), 0.05, momentum=0.9, nesterov=True)
    architecture = torch.optim.Adam([logits], 0.02, (0.5, 0.999))

    for epoch in range(epochs):
        batches = zip(shuffled(train, rng), shuffled(valid, rng), strict=False)
        for train_batch, valid_batch in batches:
            # Architecture step: one drawn network runs, yet every candidate of every edge gets the exact
            # gradient of the loss at the draw; the estimator turns it into one of the logits.
            if epoch >= epochs // 2:
                draw = estimator(logits, rng)  # (edges, candidates), one-hot
                loss = F.cross_entropy(supernet(images[valid_batch], draw), labels[valid_batch])
                (logits.grad,) = torch.autograd.grad(loss, logits)
                architecture.step()

            # Weight step: another drawn network is trained.
            choice = estimator(logits.detach(), rng).argmax(-1).tolist()
            loss = F.cross_entropy(supernet(images[train_batch], choice), labels[train_batch])
            weights.zero_grad()
            loss.backward()
            weights.step()
        print(
            f"epoch {epoch + 1:2}: loss {loss.item():.3f}, {space.format(space.discretise(logits.detach()))}"
        )

    return space.discretise(logits.detach())


def shuffled(part: torch.Tensor, rng: torch.Generator, batch_size: int = 64) -> tuple[torch.Tensor, ...]:
    """The indices of a part of the images in random batches."""
    return part[torch.randperm(len(part), generator=rng)].split(batch_size)


if __name__ == "__main__":
    genotype = search()
    print(f"found {search_spaces.get('micro').format(genotype)}")
    network = search_spaces.get("micro").network(genotype, channels=16, num_classes=10, in_channels=1)
    print(f"its network has {sum(p.numel() for p in network.parameters()):,} parameters")
