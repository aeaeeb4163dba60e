"""The two steps of the bi-level search.

min over logits of  E[ L_valid(w*, D) ],  D ~ Cat(softmax(logits))
w* = argmin over w of  E[ L_train(w, D) ]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas import distributed
from nas.bilevel.architecture import Architecture
from nas.bilevel.policies import DrawPolicy, Policy
from nas.bilevel.terms import Term, gradient_of_draw, gradient_of_logits, value_of_draw
from nas.bilevel.unroll import Batch, Unroll, frozen, unrolled_gradient
from nas.device import Precision, autocast
from nas.guard import guarded_step
from nas.steps import StepResult, Work
from nas.task import Task
from recipes import InputError
from recipes.registry import name_of
from search_spaces import ABSENT
from search_spaces.mixed_edge import Draw


class _Evaluated(NamedTuple):
    """A pass on the validation batch: its result, the loss of each draw in it (N,), and the gradient at
    the draws unless the estimator makes do with the loss."""

    result: StepResult
    losses: Tensor
    at_draw: Tensor | None


class Bilevel:
    """The state of a search and its two steps, each with draws of its own.

    Args:
        supernet: called as supernet(images, draw).
        architecture: logits, estimator and space.
        task: the loss.
        terms: what the architecture step minimises besides.
        policy: what a weight step trains; default: a draw.
        draws: independent draws per architecture step, whose estimates are averaged; default: the
            estimator's.
        draw_per: `step`: all ranks have the same draws. `rank`: every rank has its own, and their estimates
            are averaged, which is an average over more draws. `image`: draw an architecture for every image
            of the batch, all in one pass over all candidates. The images share only the normalisation
            statistics. The mean is the same; the variance is less where the images agree, and more where
            their gradients would cancel.
        order: 1, or 2 for the gradient through one unrolled weight step.
        clip, architecture_clip: largest norm of the gradient of the weights, of the logits; 0: any.
        precision: makes the context of forward passes; default: float32.
        unroll: what computes the second-order gradient; default `unrolled_gradient`.

    Attributes:
        work: the images of all passes so far.
    """

    def __init__(
        self,
        supernet: nn.Module,
        architecture: Architecture,
        task: Task,
        weight_optimizer: torch.optim.Optimizer,
        architecture_optimizer: torch.optim.Optimizer,
        *,
        terms: Sequence[Term] = (),
        policy: Policy | None = None,
        draws: int | None = None,
        draw_per: str = "step",
        order: int = 1,
        clip: float = 0.0,
        architecture_clip: float = 0.0,
        precision: Precision | None = None,
        unroll: Unroll | None = None,
    ) -> None:
        self.supernet, self.architecture, self.task = supernet, architecture, task
        self.weight_optimizer, self.architecture_optimizer = weight_optimizer, architecture_optimizer
        self.parameters = [p for group in weight_optimizer.param_groups for p in group["params"]]
        self.terms, self.policy = tuple(terms), policy or DrawPolicy()
        self.draws, self.order = draws or architecture.estimator.default_draws, order
        self.draw_per = draw_per
        self.clip, self.architecture_clip = clip, architecture_clip
        self.precision = precision or autocast("float32", torch.device("cpu"))
        self.unroll = unroll or unrolled_gradient
        self.work = Work()

    def architecture_step(
        self, valid: Batch, train: Batch, generator: torch.Generator, progress: float = 0.0
    ) -> StepResult:
        """Move the logits down the gradient of the loss on `valid` and of the terms.

        With several ranks the batches are slices, and `generator` is the same on all of them unless every
        rank has draws of its own.

        Args:
            train: serves order 2.
            progress: of the search, in [0, 1].
        """
        logits, estimator = self.architecture.logits, self.architecture.estimator
        per_image = self.draw_per == "image"
        count = len(valid[1]) * distributed.world() if per_image else self.draws
        masked = self.architecture.masked()
        draws = estimator(masked.expand(count, *masked.shape), generator)
        mine = draws.tensor_split(distributed.world())[distributed.rank()] if per_image else draws
        parts = [mine.detach()] if per_image else list(mine.detach().unbind())
        passes = [self._evaluate(part, valid, train) for part in parts]
        if estimator.signal == "loss":
            losses = torch.cat([one.losses for one in passes])
            if (value := value_of_draw(self.terms, mine.detach(), progress)) is not None:
                losses = losses + value.to(losses)
            if self.draw_per == "step":
                distributed.average([losses])
            else:
                losses = distributed.gather(losses)
                draws = draws if per_image else distributed.gather(draws.detach())
            gradient = estimator.gradient(masked.detach(), draws, losses)
        else:
            at_draws = torch.stack([one.at_draw for one in passes if one.at_draw is not None])
            at_draws = at_draws.view_as(mine) / len(parts)
            if (extra := gradient_of_draw(self.terms, mine, progress)) is not None:
                at_draws = at_draws + extra
            (gradient,) = torch.autograd.grad(mine, logits, at_draws)
        loss = torch.stack([one.result.loss for one in passes]).mean()
        correct = torch.stack([one.result.correct for one in passes]).sum()
        result = StepResult(loss, correct, len(passes) * len(valid[1])).over_ranks([gradient])
        if self.terms:
            extra = gradient_of_logits(self.terms, self.architecture.masked(), logits, progress)
            gradient = gradient if extra is None else gradient + extra
        logits.grad = gradient
        skipped = guarded_step(self.architecture_optimizer, result.loss, self.architecture_clip)
        for term in self.terms:
            term.learn(self.architecture, progress)
        return replace(result, skipped=skipped)

    def _evaluate(self, draw: Tensor, valid: Batch, train: Batch) -> _Evaluated:
        """What a draw (E, K), or one per image (B, E, K), gives on `valid`."""
        images, target = valid
        per_image = draw.dim() == 3
        if self.architecture.estimator.signal == "loss":
            with torch.no_grad(), self.precision():
                output = self.supernet(images, draw if per_image else draw.argmax(-1).tolist())
                losses = self.task.loss(output, target, "none")
                self.work.add(len(target))
            result = self._result(losses.mean(), output, target)
            return _Evaluated(result, losses if per_image else result.loss.view(1), None)
        leaf = draw.requires_grad_()
        if self.order == 2:
            rate = self.weight_optimizer.param_groups[0]["lr"]
            with self.precision():
                loss, output, at_draw = self.unroll(self.supernet, self.task.loss, leaf, valid, train, rate)
            self.work.add(len(target) + 3 * len(train[1]))  # the mixed derivative costs two passes
        else:
            loss, output, at_draw = self.gradient_at(leaf, valid)
        return _Evaluated(self._result(loss, output, target), loss.detach().view(1), at_draw)

    def gradient_at(self, draw: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a draw (E, K), or one per image (B, E, K), on `batch`, output (B, outputs), and the
        exact gradient at the draw, of its shape; weights are held fixed."""
        draw.requires_grad_()
        with frozen(self.parameters):
            loss, output = self.loss(draw, batch)
            (at_draw,) = torch.autograd.grad(loss, draw)
        return loss.detach(), output.detach(), at_draw

    def loss(self, draw: Draw, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of a draw on `batch`, and output (B, outputs)."""
        with self.precision():
            output = self.supernet(batch[0], draw)
            self.work.add(len(batch[1]))
            return self.task.loss(output, batch[1]), output

    def weight_step(
        self, train: Batch, generator: torch.Generator, step: int = 0, progress: float = 0.0
    ) -> StepResult:
        """Move the weights of the policy's architectures down the mean gradient of their loss on `train`.

        Args:
            generator: of the draws.
            step, progress: number of the step, and the part of the search before it, in [0, 1].
        """
        self.weight_optimizer.zero_grad(set_to_none=True)
        paths = self.policy.paths(self.architecture, generator, step, progress)
        self._require_paths(paths)
        results = []
        for path in paths:
            loss, output = self.loss(path, train)
            (loss / len(paths)).backward()
            results.append(self._result(loss, output, train[1]))
        gradients = distributed.gradients(self.parameters, union=self.draw_per == "rank")
        result = results[0]
        if len(results) > 1:
            result = StepResult(
                torch.stack([one.loss for one in results]).mean(),
                torch.stack([one.correct for one in results]).sum(),
                sum(one.images for one in results),
            )
        result = result.over_ranks(gradients)
        skipped = guarded_step(self.weight_optimizer, result.loss, self.clip)
        return replace(result, skipped=skipped)

    def _require_paths(self, paths: Any) -> None:
        """Raise InputError if what the policy returned is not a list of architectures."""
        slots = self.architecture.space.slots
        for path in paths if isinstance(paths, list | tuple) and paths else (None,):
            if isinstance(path, Tensor) and path.dim() > 1:
                continue
            fits = isinstance(path, list | tuple) and len(path) == len(slots)
            if not fits or not all(
                type(k) is int and ABSENT <= k < len(slot.candidates)
                for k, slot in zip(path or (), slots, strict=True)
            ):
                raise InputError(
                    f"the policy '{name_of(self.policy)}' returns {str(paths)[:100]}, expected a list of "
                    f"architectures, each a list with the index of a candidate for each of the {len(slots)} "
                    "slots, or weights (E, K)"
                )

    def _result(self, loss: Tensor, output: Tensor, target: Tensor) -> StepResult:
        return StepResult(loss.detach(), self.task.correct(output, target), len(target))
