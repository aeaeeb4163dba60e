"""How curved the validation loss is where the logits are: the largest eigenvalue of its Hessian.

In DARTS it rises when a search collapses (Zela et al., 2020, "Understanding and robustifying differentiable
architecture search", arXiv 1909.09656). The function is L(w, softmax(logits)), the loss of the mixture of all
candidates, whatever the estimator is, so that searches can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.bilevel.architecture import Architecture
from nas.bilevel.steps import Bilevel
from nas.bilevel.unroll import Batch, frozen
from nas.steps import evaluating
from search_spaces.mixed_edge import Choice

MOST = 30  # products of the Hessian and a vector
TOLERANCE = 0.02  # of the residual, relative to the eigenvalue, whose own error is of second order in it
NOTHING = 1e-6  # length, relative to the map's, of what is left of a vector once the space is exhausted
_PASSES = 2  # forward and backward, which a product costs about as much as


class Hessian:
    """The Hessian of the loss of the mixture softmax(logits) on a batch, by the logits.

    By double backward: a network of ReLUs is full of kinks, and differences of its gradients, at steps that
    float32 can tell apart, are those of the kinks. In float32 whatever the precision of the search. It keeps
    the graph of a forward and a backward pass of all candidates.

    Args:
        bilevel: the supernet, the task and the logits. Its count of images grows.
        batch: images and labels.
    """

    def __init__(self, bilevel: Bilevel, batch: Batch) -> None:
        images, target = batch
        self.work, self.images = bilevel.work, len(target)
        self.logits = bilevel.architecture.masked().detach().requires_grad_()
        weights = self.logits.softmax(-1).to(images.device)
        with evaluating(bilevel.supernet), frozen(bilevel.parameters):  # every rank has the whole batch
            loss = bilevel.task.loss(bilevel.supernet(images, Choice(weights, None)), target)
            (self.gradient,) = torch.autograd.grad(loss, self.logits, create_graph=True)
        self.work.trained += self.images

    def __call__(self, vector: Tensor) -> Tensor:
        """The product (E, K) with a vector (E, K)."""
        self.work.trained += _PASSES * self.images
        (product,) = torch.autograd.grad(
            self.gradient, self.logits, vector.to(self.gradient), retain_graph=True
        )
        return product


def largest_eigenvalue(bilevel: Bilevel, batch: Batch, draws: torch.Generator) -> float:
    """The largest eigenvalue of the Hessian, which is never below 0: adding a number to all logits of a slot
    changes nothing.

    Args:
        draws: of the vector to begin with.
    """
    hessian = Hessian(bilevel, batch)
    return max(0.0, lanczos(hessian, _start(bilevel.architecture, draws)))


def _start(architecture: Architecture, draws: torch.Generator) -> Tensor:
    """A random vector (E, K) without a part in the directions that change nothing."""
    shape = architecture.logits.shape
    vector = torch.randn(shape, generator=draws, dtype=torch.float64)
    there = torch.ones(shape) if architecture.mask is None else architecture.mask
    vector = vector * there
    return vector - there * (vector.sum(-1, keepdim=True) / there.sum(-1, keepdim=True))


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """The largest eigenvalue of a symmetric map, in the space that it spans from a vector.

    Lanczos' method with full orthogonalisation, in float64, until the residual of the eigenvector is small,
    the space is exhausted, or `MOST` products are spent: then it is from below.

    Args:
        product: of the map and a vector of the shape of `start`.
        start: any vector. 0 gives 0.
    """
    length = start.norm()
    if length == 0:
        return 0.0
    basis, diagonal, beside = [start.double().flatten() / length], list[Tensor](), list[Tensor]()
    while True:
        image = product(basis[-1].view_as(start)).double().cpu().flatten()
        diagonal.append(basis[-1] @ image)
        known = torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors
            image = image - known.T @ (known @ image)
        beside.append(image.norm())
        matrix = torch.diag(torch.stack(diagonal))
        if len(basis) > 1:
            edge = torch.diag(torch.stack(beside[:-1]), 1)
            matrix = matrix + edge + edge.T
        values, vectors = torch.linalg.eigh(matrix)
        residual = beside[-1] * vectors[-1, -1].abs()
        exhausted = beside[-1] <= NOTHING * values.abs().max()
        if exhausted or residual <= TOLERANCE * values[-1].abs() or len(basis) == MOST:
            return float(values[-1])
        basis.append(image / beside[-1])
