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

from estimators import CategoricalEstimator
from nas import distributed
from nas.bilevel.architecture import Architecture, chosen_by
from nas.bilevel.policies import DrawPolicy, Policy, Probe
from nas.bilevel.terms import Term, WeightStep, gradient_of_draw, gradient_of_logits, value_of_draw
from nas.bilevel.unroll import Batch, Unroll, frozen, unrolled_gradient
from nas.device import Precision, autocast
from nas.guard import guarded_step
from nas.steps import StepResult, Work
from nas.task import Task
from recipes import InputError
from recipes.registry import name_of
from search_spaces import ABSENT
from search_spaces.mixed_edge import Choice, Draw, with_leaf
from search_spaces.skeleton import Skeleton


class _Evaluated(NamedTuple):
    """A pass on the validation batch: its result, what is minimised for each draw in it (N,), and the
    gradients: at the draws, unless the estimator makes do with values, then at the weights of the edges."""

    result: StepResult
    losses: Tensor
    gradients: Tensor | None


class Bilevel:
    """The state of a search and its two steps, each with draws of its own.

    Args:
        supernet: called as supernet(images, draw).
        architecture: logits, estimator and space.
        task: the loss.
        terms: what the steps minimise besides.
        policy: what a weight step trains; default: a draw.
        draws: independent draws per architecture step, whose estimates are averaged; default: the
            estimator's.
        draw_per: `step`: all ranks have the same draws. `rank`: every rank has its own, and their estimates
            are averaged, which is an average over more draws. `image`: draw an architecture for every image
            of the batch, all in one pass over all candidates. The images share only the normalisation
            statistics. The mean is the same; the variance is less where the images agree, and more where
            their gradients would cancel.
        coupling: `independent` draws of a step, or `systematic` ones, which cover the probabilities evenly.
        architecture_loss: what an architecture step minimises: the `loss` of the task, or its `error`, for
            estimators that make do with values.
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
        coupling: str = "independent",
        architecture_loss: str = "loss",
        order: int = 1,
        clip: float = 0.0,
        architecture_clip: float = 0.0,
        precision: Precision | None = None,
        unroll: Unroll | None = None,
    ) -> None:
        self.architecture, self.task, self.architecture_optimizer = architecture, task, architecture_optimizer
        self.terms, self.policy = tuple(terms), policy or DrawPolicy()
        self.draws, self.order = draws or architecture.estimator.default_draws, order
        self.draw_per, self.coupling, self.architecture_loss = draw_per, coupling, architecture_loss
        self.clip, self.architecture_clip = clip, architecture_clip
        self.precision = precision or autocast("float32", torch.device("cpu"))
        self.unroll = unroll or unrolled_gradient
        self.work = Work()
        self.take_up(supernet, weight_optimizer)

    def take_up(self, supernet: nn.Module, weight_optimizer: torch.optim.Optimizer) -> None:
        """Go on with another supernet of the same space, and the optimizer of its weights."""
        self.supernet, self.weight_optimizer = supernet, weight_optimizer
        self.parameters = [p for group in weight_optimizer.param_groups for p in group["params"]]
        self.weigh_edges()

    def restart_logits(self, generator: torch.Generator) -> None:
        """Forget what architecture steps have learned, and the momentum of their optimizer."""
        self.architecture.restart(generator)
        self.architecture_optimizer.state.clear()
        self.weigh_edges()

    def architecture_step(
        self, valid: Batch, train: Batch, generator: torch.Generator, progress: float = 0.0
    ) -> StepResult:
        """Move the logits down the gradient of the loss on `valid` and of the terms, and those of the edges
        down the gradient of the loss of what is drawn.

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
        if self.coupling == "systematic":
            assert isinstance(estimator, CategoricalEstimator)
            draws = estimator.systematic(masked, count, generator)
        else:
            draws = estimator(masked.expand(count, *masked.shape), generator)
        mine = draws.tensor_split(distributed.world())[distributed.rank()] if per_image else draws
        edges = self.architecture.edge_weights()
        choices = self._choices(mine, edges, valid[0].device)
        passes = [self._evaluate(choice, valid, train) for choice in choices]
        loss, losses, slopes, at_edges = self._fetch(passes, mine)
        if estimator.signal != "loss" and (extra := gradient_of_draw(self.terms, mine, progress)) is not None:
            slopes = slopes + extra
        if estimator.signal == "gradient":
            (gradient,) = torch.autograd.grad(mine, logits, slopes)
        else:
            draws = draws.detach()
            if (value := value_of_draw(self.terms, mine.detach(), progress)) is not None:
                losses = losses + value.to(losses)
            signals = [losses] if estimator.signal == "loss" else [losses, slopes * len(passes)]
            if self.draw_per == "step":
                distributed.average(signals)
            else:
                draws = draws if per_image else distributed.gather(draws)
                signals = [distributed.gather(signal) for signal in signals]
            gradient = estimator.gradient(masked.detach(), draws, signals[0], None, *signals[1:])
        correct = torch.stack([one.result.correct for one in passes]).sum()
        gradients = [gradient]
        if edges is not None:
            gradients += torch.autograd.grad(edges, self.architecture.leaves[1:], at_edges)
        result = StepResult(loss, correct, len(passes) * len(valid[1])).over_ranks(gradients)
        if self.terms:
            extra = gradient_of_logits(self.terms, self.architecture.masked(), logits, progress)
            gradients[0] = gradient if extra is None else gradient + extra
        for leaf, found in zip(self.architecture.leaves, gradients, strict=True):
            leaf.grad = found
        skipped = guarded_step(self.architecture_optimizer, result.loss, self.architecture_clip)
        self.weigh_edges()
        for term in self.terms:
            term.learn(self.architecture, progress)
        return replace(result, skipped=skipped)

    def weigh_edges(self) -> None:
        """Tell the supernet what its edges weigh, where the architecture says so."""
        if (weights := self.architecture.edge_weights()) is not None:
            assert isinstance(self.supernet, Skeleton)
            self.supernet.weigh_edges(weights)

    def _choices(self, draws: Tensor, edges: Tensor | None, device: torch.device) -> list[Choice]:
        """Draws (N, E, K) on the CPU, one for each pass or for each image of a single one, read there; their
        weights, and those of the edges, are on `device`, where their gradients stay."""
        weights = draws.detach().to(device, non_blocking=True)
        there = None if edges is None else edges.detach().to(device, non_blocking=True)
        if self.draw_per == "image":
            return [Choice(weights, None, there)]
        chosen = chosen_by(self.architecture.estimator, draws)
        return [Choice(*pair, there) for pair in zip(weights.unbind(), chosen, strict=True)]

    def _fetch(self, passes: Sequence[_Evaluated], draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the host needs of all passes, in one copy, the only one that it waits for.

        Returns:
            Mean loss (), what is minimised for each draw (N,), and the gradients of the mean at the draws
            (N, E, K), and at the weights of the edges (E,), each empty where there is none.
        """
        loss = torch.stack([one.result.loss for one in passes]).mean()
        losses = torch.cat([one.losses for one in passes])
        slopes = [one.gradients.flatten() / len(passes) for one in passes if one.gradients is not None]
        together = torch.cat([loss.view(1), losses, *slopes]).to(draws.device)
        values, rest = together[: 1 + len(losses)], together[1 + len(losses) :].to(draws.dtype)
        size = 0 if self.architecture.estimator.signal == "loss" else draws.numel() // len(passes)
        found = rest.view(len(passes), rest.numel() // len(passes))
        at_draws = found[:, :size]
        return (
            values[0],
            values[1:],
            at_draws.reshape(draws.shape) if size else at_draws,
            found[:, size:].sum(0),
        )

    def _evaluate(self, choice: Choice, valid: Batch, train: Batch) -> _Evaluated:
        """What a draw, or one per image, gives on `valid`."""
        images, target = valid
        per_image = self.draw_per == "image"
        if self.architecture.estimator.signal == "loss":
            edges = None if choice.edges is None else choice.edges.requires_grad_()
            choice = choice if per_image else choice._replace(weights=None)
            with torch.set_grad_enabled(edges is not None), frozen(self.parameters):
                with self.precision():
                    output = self.supernet(images, choice)
                    losses = self.task.loss(output, target, "none")
                    self.work.add(len(target))
                at_edges = None if edges is None else torch.autograd.grad(losses.mean(), edges)[0]
            losses, output = losses.detach(), output.detach()
            result = self._result(losses.mean(), output, target)
            if self.architecture_loss == "error":
                losses = self.task.error(output, target).where(losses.isfinite(), torch.nan)
            return _Evaluated(result, losses if per_image else losses.mean().view(1), at_edges)
        if self.order == 2:
            rate = self.weight_optimizer.param_groups[0]["lr"]
            with self.precision():
                loss, output, found = self.unroll(self.supernet, self.task.loss, choice, valid, train, rate)
            self.work.add(len(target) + 3 * len(train[1]))  # the mixed derivative costs two passes
        else:
            loss, output, found = self.gradient_at(choice, valid)
        return _Evaluated(self._result(loss, output, target), loss.detach().view(1), found)

    def gradient_at(self, draw: Draw, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a draw (E, K), or one per image (B, E, K), on `batch`, output (B, outputs), and the
        exact gradient at the draw, of its shape and on the device (or at the leaf of a choice with weights of
        edges, see `with_leaf`); weights are held fixed."""
        choice, leaf = with_leaf(draw, batch[0].device)
        with frozen(self.parameters):
            loss, output = self.loss(choice, batch)
            (at_draw,) = torch.autograd.grad(loss, leaf)
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
        probe = Probe(self, train)
        paths = self.policy.paths_on(probe, self.architecture, generator, step, progress)
        self._require_paths(paths)
        results = []
        for path in paths:
            loss, output = self.loss(path, train)
            (loss / len(paths)).backward()
            results.append(self._result(loss, output, train[1]))
        for term in self.terms:
            term.of_weights(WeightStep(self, self.parameters, train, paths, step, progress))
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
