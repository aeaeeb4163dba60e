"""The two steps of the bi-level search.

min over logits of  E[ L_valid(w*, D) ],  D ~ Cat(softmax(logits))
w* = argmin over w of  E[ L_train(w, D) ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import Estimator
from nas import distributed
from nas.guard import guarded_step
from search_spaces.mixed_edge import Draw

Batch = tuple[Tensor, Tensor]
Unroll = Callable[[nn.Module, Tensor, Batch, Batch, float], tuple[Tensor, Tensor, Tensor]]


@dataclass
class StepResult:
    """What a step saw, still on the device: mean loss, correct predictions, images, and whether it was
    skipped (see `nas.guard`)."""

    loss: Tensor
    correct: Tensor
    images: int
    skipped: Tensor | None = None

    def over_ranks(self, tensors: Sequence[Tensor]) -> StepResult:
        """The result of the step on the slices of all ranks; `tensors` become their means, in place."""
        ranks = distributed.world()
        if ranks == 1:
            return self
        loss, correct = self.loss.float().clone(), self.correct.float()
        distributed.average([*tensors, loss, correct])
        return replace(self, loss=loss, correct=(correct * ranks).round(), images=self.images * ranks)


class _Look(NamedTuple):
    """A pass on the validation batch: its result, the loss of each draw in it (N,), and the gradient at
    the draws unless the estimator makes do with the loss."""

    result: StepResult
    losses: Tensor
    at_draw: Tensor | None


class Bilevel:
    """The state of a search and its two steps, each with a draw of its own.

    Args:
        supernet: called as supernet(images, draw).
        logits: (E, K) on the CPU, so that reading a choice never waits for the device.
        estimator: turns logits into draws.
        draws: independent draws per architecture step, whose estimates are averaged; default: the
            estimator's.
        draw_per: `step`: all ranks have the same draws. `rank`: every rank has its own, and their estimates
            are averaged, which is an average over more draws. `image`: draw an architecture for every image
            of the batch, all in one pass over all candidates. The images share only the normalisation
            statistics. The mean is the same; the variance is less where the images agree, and more where
            their gradients would cancel.
        order: 1, or 2 for the gradient through one unrolled weight step.
        clip, architecture_clip: largest norm of the gradient of the weights, of the logits; 0: any.
        autocast: precision of forward passes.
        unroll: what computes the second-order gradient; default `unrolled_gradient`.
    """

    def __init__(
        self,
        supernet: nn.Module,
        logits: nn.Parameter,
        estimator: Estimator,
        weight_optimizer: torch.optim.Optimizer,
        architecture_optimizer: torch.optim.Optimizer,
        draws: int | None = None,
        draw_per: str = "step",
        order: int = 1,
        clip: float = 0.0,
        architecture_clip: float = 0.0,
        autocast: torch.autocast | nullcontext[None] | None = None,
        unroll: Unroll | None = None,
    ) -> None:
        self.supernet, self.logits, self.estimator = supernet, logits, estimator
        self.weight_optimizer, self.architecture_optimizer = weight_optimizer, architecture_optimizer
        self.parameters = [p for group in weight_optimizer.param_groups for p in group["params"]]
        self.draws, self.order = draws or estimator.default_draws, order
        self.draw_per = draw_per
        self.clip, self.architecture_clip = clip, architecture_clip
        self.autocast = autocast or nullcontext()
        self.unroll = unroll or unrolled_gradient

    def architecture_step(self, valid: Batch, train: Batch, generator: torch.Generator) -> StepResult:
        """Move the logits down the gradient of the loss on `valid`; `train` serves order 2.

        With several ranks the batches are slices, and `generator` is the same on all of them unless every
        rank has draws of its own.
        """
        estimator, per_image = self.estimator, self.draw_per == "image"
        count = len(valid[1]) * distributed.world() if per_image else self.draws
        draws = estimator(self.logits.expand(count, *self.logits.shape), generator)
        mine = draws.tensor_split(distributed.world())[distributed.rank()] if per_image else draws
        parts = [mine.detach()] if per_image else list(mine.detach().unbind())
        with self.autocast:
            looks = [self._look(part, valid, train) for part in parts]
        if estimator.signal == "loss":
            losses = torch.cat([look.losses for look in looks])
            if self.draw_per == "step":
                distributed.average([losses])
            else:
                losses = distributed.gather(losses)
                draws = draws if per_image else distributed.gather(draws.detach())
            gradient = estimator.gradient(self.logits, draws, losses)
        else:
            at_draws = torch.stack([look.at_draw for look in looks if look.at_draw is not None])
            (gradient,) = torch.autograd.grad(mine, self.logits, at_draws.view_as(mine) / len(parts))
        loss = torch.stack([look.result.loss for look in looks]).mean()
        correct = torch.stack([look.result.correct for look in looks]).sum()
        result = StepResult(loss, correct, len(looks) * len(valid[1])).over_ranks([gradient])
        self.logits.grad = gradient
        skipped = guarded_step(self.architecture_optimizer, result.loss, self.architecture_clip)
        return replace(result, skipped=skipped)

    def _look(self, draw: Tensor, valid: Batch, train: Batch) -> _Look:
        """What a draw (E, K), or one per image (B, E, K), gives on `valid`."""
        images, labels = valid
        if self.estimator.signal == "loss":
            with torch.no_grad():
                output = self.supernet(images, draw if draw.dim() == 3 else draw.argmax(-1).tolist())
                losses = F.cross_entropy(output, labels, reduction="none")
            result = _result(losses.mean(), output, labels)
            return _Look(result, losses if draw.dim() == 3 else result.loss.view(1), None)
        leaf = draw.requires_grad_()
        if self.order == 2:
            rate = self.weight_optimizer.param_groups[0]["lr"]
            loss, output, at_draw = self.unroll(self.supernet, leaf, valid, train, rate)
        else:
            loss, output, at_draw = self.gradient_at(leaf, valid)
        return _Look(_result(loss, output, labels), loss.detach().view(1), at_draw)

    def gradient_at(self, draw: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a draw (E, K), or one per image (B, E, K), on `batch`, output (B, classes), and the
        exact gradient at the draw, of its shape; weights are held fixed."""
        draw.requires_grad_()
        with frozen(self.parameters):
            loss, output = self.loss(draw, batch)
            (at_draw,) = torch.autograd.grad(loss, draw)
        return loss.detach(), output.detach(), at_draw

    def loss(self, draw: Draw, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of a draw on `batch`, and output (B, classes)."""
        with self.autocast:
            output = self.supernet(batch[0], draw)
            return F.cross_entropy(output, batch[1]), output

    def weight_step(self, train: Batch, generator: torch.Generator) -> StepResult:
        """Move the weights of a drawn architecture down the gradient of the loss on `train`."""
        loss, output = self.loss(self.draw(generator), train)
        self.weight_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = distributed.gradients(self.parameters, union=self.draw_per == "rank")
        result = _result(loss, output, train[1]).over_ranks(gradients)
        skipped = guarded_step(self.weight_optimizer, result.loss, self.clip)
        return replace(result, skipped=skipped)

    def draw(self, generator: torch.Generator) -> Draw:
        """A draw that nothing is learned from: the chosen indices, or a dense mixture."""
        draw = self.estimator(self.logits.detach(), generator)
        return draw.argmax(-1).tolist() if self.estimator.discrete else draw


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
    supernet: nn.Module, draw: Tensor, valid: Batch, train: Batch, rate: float, epsilon: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of L_valid(w', D) with respect to D, w' = w - rate * dL_train(w, D)/dw.

    The mixed second derivative is applied to a vector by central finite differences, which keeps
    the cost at four passes and works with the lean edge gradient (Liu et al., 2019, eq. 7-8).

    Args:
        draw: (E, K), a leaf that requires a gradient.
        rate: learning rate of the unrolled step.
        epsilon: length of the differences' step in weight space. Shorter steps are worse, not
            better, in a network of ReLUs: every kink on the way adds an error divided by the step.

    Returns:
        the loss on `valid` after the unrolled step, the output there (B, classes), and the
        gradient (E, K).
    """
    parameters = [p for p in supernet.parameters() if p.requires_grad]

    def train_loss(draw: Tensor) -> Tensor:
        return F.cross_entropy(supernet(train[0], draw), train[1])

    gradients = torch.autograd.grad(train_loss(draw.detach()), parameters, allow_unused=True)
    touched = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    distributed.average([g for _, g in touched])
    saved = [p.detach().clone() for p, _ in touched]

    def move(directions: Sequence[Tensor], scale: float | Tensor) -> None:
        with torch.no_grad():
            for (p, _), value, direction in zip(touched, saved, directions, strict=True):
                p.copy_(value - scale * direction)

    try:
        move([g for _, g in touched], rate)
        output = supernet(valid[0], draw)
        loss = F.cross_entropy(output, valid[1])
        direct, *vector = torch.autograd.grad(loss, [draw, *(p for p, _ in touched)])
        distributed.average(vector)
        scale = epsilon / torch.stack([v.norm() for v in vector]).norm().clamp_min(1e-12)
        with frozen(supernet.parameters()):
            move(vector, -scale)
            (above,) = torch.autograd.grad(train_loss(draw), draw)
            move(vector, scale)
            (below,) = torch.autograd.grad(train_loss(draw), draw)
    finally:
        with torch.no_grad():
            for (p, _), value in zip(touched, saved, strict=True):
                p.copy_(value)
    implicit = (above - below) / (2 * scale).to(above.device)
    return loss.detach(), output.detach(), direct - rate * implicit


def unrolled_gradient_exact(
    supernet: nn.Module, draw: Tensor, valid: Batch, train: Batch, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What `unrolled_gradient` approximates, by double backward; needs the dense edge gradient."""
    weights = {name: p for name, p in supernet.named_parameters() if p.requires_grad}
    loss = F.cross_entropy(supernet(train[0], draw), train[1])
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    moved = {
        name: p if g is None else p - rate * distributed.mean_with_graph(g)
        for (name, p), g in zip(weights.items(), gradients, strict=True)
    }
    output = torch.func.functional_call(supernet, moved, (valid[0], draw))
    loss = F.cross_entropy(output, valid[1])
    (gradient,) = torch.autograd.grad(loss, draw)
    return loss.detach(), output.detach(), gradient


def _result(loss: Tensor, output: Tensor, labels: Tensor) -> StepResult:
    return StepResult(loss.detach(), (output.argmax(1) == labels).sum(), len(labels))
