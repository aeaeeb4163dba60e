"""Which operations of a supernet overfit: their gradients on training and validation images are compared.

Source: Jiang et al., 2023, "Operation-level early stopping for robustifying differentiable NAS", by the code
of PasaLab/oles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.cell import candidates_in


class OperationStops:
    """Stops an operation, in each cell for itself, after so many comparisons whose mean is below a threshold.

    Args:
        supernet: its candidates with weights are the operations.
        threshold: of the mean cosine.
        comparisons: after which an operation is judged, and the next mean begins.

    Attributes:
        operations: the weights of each.
        stopped: whether each is stopped.
    """

    def __init__(self, supernet: nn.Module, threshold: float, comparisons: int) -> None:
        self.threshold, self.comparisons = threshold, comparisons
        self.operations = [
            weights
            for _, _, operation in candidates_in(supernet)
            if (weights := list(operation.parameters()))
        ]
        self.sums: list[Tensor | float] = [0.0] * len(self.operations)  # on the device
        self.counts = [0] * len(self.operations)
        self.stopped = [False] * len(self.operations)

    def trained(self) -> list[int]:
        """The numbers of the operations that have gradients and are not stopped; those of stopped ones are
        dropped, so that an optimizer leaves their weights alone."""
        for weights, stopped in zip(self.operations, self.stopped, strict=True):
            if stopped:
                for weight in weights:
                    weight.grad = None
        return [
            number
            for number, weights in enumerate(self.operations)
            if not self.stopped[number] and all(weight.grad is not None for weight in weights)
        ]

    def compare(self, numbers: Sequence[int], train: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """Take up the gradients of operations, those of all their weights one after the other. Waits for the
        device where an operation is judged.

        Args:
            numbers: of the operations.
            train: of the training images.
            other: what they are compared with.
        """
        cosines = (F.cosine_similarity(a, b, 0).mean() for a, b in zip(train, other, strict=True))
        for number in numbers:
            found = torch.stack([next(cosines) for _ in self.operations[number]])
            self.sums[number] = self.sums[number] + found.double().mean()
            self.counts[number] += 1
        judged = [number for number in numbers if self.counts[number] == self.comparisons]
        sums = (
            torch.stack([torch.as_tensor(self.sums[number]) for number in judged]).tolist() if judged else []
        )
        for number, total in zip(judged, sums, strict=True):
            self.stopped[number] = total / self.comparisons < self.threshold
            self.sums[number], self.counts[number] = 0.0, 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": [float(total) for total in self.sums], "counts": self.counts, "stopped": self.stopped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises ValueError if it is that of other operations."""
        if len(state["stopped"]) != len(self.operations):
            raise ValueError(f"a state of {len(state['stopped'])} operations, not of {len(self.operations)}")
        self.sums, self.counts, self.stopped = (list(state[name]) for name in ("sums", "counts", "stopped"))
