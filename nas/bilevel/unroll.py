"""The second-order gradient of the architecture: through one weight step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas import distributed
from nas.seeding import kept_generators
from search_spaces.mixed_edge import Draw, with_leaf

Batch = tuple[Tensor, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Unroll = Callable[[nn.Module, LossFunction, Draw, Batch, Batch, float], tuple[Tensor, Tensor, Tensor]]
"""(supernet, loss, draw, valid, train, rate) to the loss (), the output (B, outputs) and the gradient at the
leaf of the draw (see `with_leaf`)."""


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep autograd from computing gradients of parameters."""
    held = [p for p in parameters if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def unrolled_gradient(
    supernet: nn.Module,
    loss_of: LossFunction,
    draw: Draw,
    valid: Batch,
    train: Batch,
    rate: float,
    epsilon: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of L_valid(w', D) with respect to D, w' = w - rate * dL_train(w, D)/dw.

    The mixed second derivative is applied to a vector by central finite differences, which keeps
    the cost at four passes and works with the lean edge gradient (Liu et al., 2019, eq. 7-8).

    Args:
        loss_of: (output, target) to the loss ().
        draw: (E, K), or what was read of it.
        rate: learning rate of the unrolled step.
        epsilon: length of the differences' step in weight space. Shorter steps are worse, not
            better, in a network of ReLUs: every kink on the way adds an error divided by the step.

    Returns:
        the loss on `valid` after the unrolled step, the output there (B, classes), and the
        gradient (E, K), or that at the leaf of a choice with weights of edges (see `with_leaf`).
    """
    parameters = [p for p in supernet.parameters() if p.requires_grad]

    seed = int(torch.randint(2**62, ()))

    choice, leaf = with_leaf(draw, valid[0].device)

    def at_train(draw: Draw, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        with kept_generators():
            torch.manual_seed(seed)  # operations that are random draw the same in every pass
            loss = loss_of(supernet(train[0], draw), train[1])
            return torch.autograd.grad(loss, inputs, allow_unused=True)

    gradients = at_train(choice.detached(), parameters)
    touched = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    distributed.average([g for _, g in touched])
    saved = [p.detach().clone() for p, _ in touched]

    def move(directions: Sequence[Tensor], scale: float | Tensor) -> None:
        with torch.no_grad():
            for (p, _), value, direction in zip(touched, saved, directions, strict=True):
                p.copy_(value - scale * direction)

    try:
        move([g for _, g in touched], rate)
        output = supernet(valid[0], choice)
        loss = loss_of(output, valid[1])
        direct, *vector = torch.autograd.grad(loss, [leaf, *(p for p, _ in touched)])
        distributed.average(vector)
        scale = epsilon / torch.stack([v.norm() for v in vector]).norm().clamp_min(1e-12)
        with frozen(supernet.parameters()):
            move(vector, -scale)
            (above,) = at_train(choice, [leaf])
            move(vector, scale)
            (below,) = at_train(choice, [leaf])
    finally:
        with torch.no_grad():
            for (p, _), value in zip(touched, saved, strict=True):
                p.copy_(value)
    assert above is not None
    assert below is not None
    implicit = (above - below) / (2 * scale)
    return loss.detach(), output.detach(), direct - rate * implicit


def unrolled_gradient_exact(
    supernet: nn.Module, loss_of: LossFunction, draw: Draw, valid: Batch, train: Batch, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What `unrolled_gradient` approximates, by double backward; needs the dense edge gradient."""
    weights = {name: p for name, p in supernet.named_parameters() if p.requires_grad}
    choice, leaf = with_leaf(draw, valid[0].device)
    loss = loss_of(supernet(train[0], choice), train[1])
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    moved = {
        name: p if g is None else p - rate * distributed.mean_with_graph(g)
        for (name, p), g in zip(weights.items(), gradients, strict=True)
    }
    output = torch.func.functional_call(supernet, moved, (valid[0], choice))
    loss = loss_of(output, valid[1])
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), output.detach(), gradient
