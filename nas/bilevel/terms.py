"""What the steps minimise beside the loss.

The objective is  E[ loss(D) + sum of terms of the draw D ] + sum of terms of the logits. A term of the draw,
such as a cost, is differentiated at the draw and reaches the logits through the estimator, like the loss; a
term of the logits, such as a regulariser, is differentiated exactly. A term of the weights adds its gradient
to that of a weight step.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from estimators import Schedule
from nas import device, distributed
from nas.bilevel.architecture import Architecture
from nas.bilevel.measures.alignment import cell_gradients, directions, own_weights, repeated_cells
from nas.bilevel.measures.operation_stopping import OperationStops
from nas.bilevel.unroll import Batch, frozen
from nas.bilevel.view import SearchView
from nas.seeding import kept_generators
from recipes import InputError
from recipes.registry import Registry, name_of
from search_spaces import operations
from search_spaces.mixed_edge import Choice, Draw

if TYPE_CHECKING:
    from nas.bilevel.steps import Bilevel


@dataclass(frozen=True)
class WeightStep:
    """A weight step after its backward pass, before the gradients of all ranks are averaged.

    Attributes:
        steps: that it is one of.
        parameters: of the supernet, with their gradients.
        batch: this rank's images and labels.
        paths: what was trained on them; the gradients are the mean of theirs.
        number, progress: of the step, and the part of the search before it, in [0, 1].
    """

    steps: Bilevel
    parameters: Sequence[torch.nn.Parameter]
    batch: Batch
    paths: Sequence[Draw]
    number: int
    progress: float


class Term(ABC):
    """A part of the objective of the architecture step or of the weight step.

    Attributes:
        name: in reports.
    """

    name: ClassVar[str]

    def prepare(self, search: SearchView) -> None:  # noqa: B027  (few terms need it)
        """Look at the space and the supernet, before the first step and whenever there is a new supernet."""

    def of_logits(self, logits: Tensor, progress: float) -> Tensor | None:
        """The value (), differentiable by the logits.

        Args:
            logits: (E, K), -inf where a slot has no candidate.
            progress: of the search, in [0, 1].
        """
        return None

    def of_draw(self, draw: Tensor, progress: float) -> Tensor | None:
        """The value (...), differentiable by the draw: (..., E, K), one-hot or a mixture, on the CPU."""
        return None

    def of_weights(self, step: WeightStep) -> None:  # noqa: B027
        """Change the gradients of the weights, on all ranks alike. `step.steps` counts the passes."""

    def learn(self, architecture: Architecture, progress: float) -> None:  # noqa: B027
        """Adapt to the architecture after a step of it, on all ranks alike."""

    def report(self) -> float | None:
        """What else a metrics line says under its name."""
        return None

    def state(self) -> dict[str, Any]:
        """What `learn` has brought, for a checkpoint: numbers and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises ValueError if it is not this term's."""
        if state:
            raise ValueError(f"the term '{self.name}' has no state, got {sorted(state)}")


class BetaDecay(Term):
    """weight * mean over the slots of logsumexp of their logits: leaders are decayed most.

    Source: Ye et al., 2022, "beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search",
    arXiv 2203.01665; there the weight rises linearly from 0 to 50.
    """

    name = "beta_decay"

    def __init__(self, weight: Schedule = Schedule(0.0, 50.0)) -> None:  # noqa: B008  (immutable)
        self.weight = weight

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        return self.weight(progress) * logits.logsumexp(-1).mean()


class Entropy(Term):
    """weight * mean entropy of the slots' probabilities softmax(logits), in nats.

    A positive weight makes a search commit itself, a negative one keeps it exploring.
    """

    name = "entropy"

    def __init__(self, weight: Schedule = Schedule(0.0, 1.0)) -> None:  # noqa: B008
        self.weight = weight

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        log_p = logits.log_softmax(-1)
        return -self.weight(progress) * (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1).mean()


class UniformDecay(Term):
    """weight / 2 * the squared distance of the logits from those of equal probabilities."""

    name = "uniform_decay"

    def __init__(self, weight: Schedule = Schedule(1e-3, 1e-3)) -> None:  # noqa: B008
        self.weight = weight

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        there = logits.isfinite()
        known = torch.where(there, logits, 0.0)
        centred = torch.where(there, known - known.sum(-1, keepdim=True) / there.sum(-1, keepdim=True), 0.0)
        return self.weight(progress) / 2 * centred.square().sum()


class ZeroOne(Term):
    """-weight * mean distance of the candidates' sigmoid(logits) from 1/2, by default its square: pushes each
    of them to 0 or 1, for an estimator whose candidates do not exclude each other.

    `none` does not count: whatever its weight, it adds nothing.

    Args:
        norm: l2, the squared distance, as in the code of FairDARTS; l1, the distance itself.

    Source: Chu et al., 2020, "Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture
    Search", arXiv 1911.12126.
    """

    name = "zero_one"

    def __init__(
        self,
        weight: Schedule = Schedule(10.0, 10.0),  # noqa: B008
        norm: Literal["l2", "l1"] = "l2",
    ) -> None:
        self.weight, self.norm = weight, norm
        self.nothing: Tensor | None = None

    def prepare(self, search: SearchView) -> None:
        space, estimator = search.space, search.architecture.estimator
        if estimator.exclusive:
            raise InputError(
                f"the term 'zero_one' needs an estimator that weighs every candidate by itself, sigmoid, not "
                f"'{name_of(estimator)}': drop one of the two"
            )
        self.nothing = torch.zeros(space.num_slots, space.width, dtype=torch.bool)
        for row, slot in enumerate(space.slots):
            for k, name in enumerate(slot.candidates):
                self.nothing[row, k] = operations.family(name) == "none"

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        there = logits.isfinite() if self.nothing is None else logits.isfinite() & ~self.nothing
        distance = logits.sigmoid() - 0.5
        distance = distance.square() if self.norm == "l2" else distance.abs()
        return -self.weight(progress) * torch.where(there, distance, 0.0).sum() / there.sum()


class Alignment(Term):
    """-weight * alignment of the cells' gradients (see `nas.bilevel.measures.alignment`), in the weight step.

    Its gradient is that of Lambda-DARTS: with d_l the gradient of the alignment by g_l, and e = `epsilon`
    over the norm of all d_l together, [grad L(pi_l - e d_l) - grad L(pi_l + e d_l)] / (2 e). A step takes
    three passes more, in float32 whatever the precision of the search, which could not tell apart what they
    compare. For cells of the kind that occurs most often, and policies that train a mixture.
    """

    name = "alignment"

    def __init__(self, weight: Schedule = Schedule(0.0, 0.25), epsilon: float = 1e-4) -> None:  # noqa: B008
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}, expected a number above 0 and at most 1")
        self.weight, self.epsilon = weight, epsilon

    def prepare(self, search: SearchView) -> None:
        self.cells = repeated_cells(search.supernet)
        if not self.cells:
            raise InputError(f"the term '{self.name}' compares cells of one kind: add `cells`, or drop it")
        paths = search.bilevel.policy.paths(search.architecture, torch.Generator().manual_seed(0), 0, 0.0)
        if not all(isinstance(path, Tensor) for path in paths):
            raise InputError(
                f"the term '{self.name}' needs weight steps that train a mixture of all candidates: give "
                "`estimator=softmax` or another that mixes, or `policy=perturbed`"
            )

    def of_weights(self, step: WeightStep) -> None:
        if not (weight := self.weight(step.progress)):
            return
        own = step.steps.precision
        step.steps.precision = device.autocast("float32", step.batch[0].device)
        try:
            self._add(step, weight)
        finally:
            step.steps.precision = own

    def _add(self, step: WeightStep, weight: float) -> None:
        """Add the gradient of the term, `weight` times that of the alignment, to those of the parameters."""
        parameters, seed = list(step.parameters), int(torch.randint(2**62, ()))

        def loss_of(draw: Draw) -> Tensor:
            torch.manual_seed(seed)  # operations that are random draw the same in every pass
            return step.steps.loss(draw, step.batch)[0]

        for path in step.paths:
            assert isinstance(path, Tensor)
            pi = path.detach().to(step.batch[0].device, non_blocking=True)
            with kept_generators():
                with frozen(parameters):
                    found = cell_gradients(loss_of, self.cells, pi)
                distributed.average(found)
                ways = directions(found)
                epsilon = self.epsilon / torch.stack(ways).norm().clamp_min(1e-12)
                for sign in (-1, 1):
                    with own_weights(self.cells, [pi + sign * epsilon * way for way in ways]):
                        gradients = torch.autograd.grad(
                            loss_of(Choice(pi, None)), parameters, allow_unused=True
                        )
                    scale = -sign * weight / (2 * epsilon * len(step.paths))
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            added = scale * gradient
                            parameter.grad = added if parameter.grad is None else parameter.grad + added


class OperationStopping(Term):
    """Operations that overfit are trained no more, while the logits go on (OLES).

    After each `every`-th weight step the gradient of an operation's weights is compared with that on
    validation images, by the mean cosine of their columns, and an operation is stopped for good whose mean
    over `comparisons` is below `threshold`. A comparison takes one pass more for each path.

    Args:
        against: the training gradient is compared with the `sum` of both, as in the authors' code, where the
            threshold of 0.4 belongs, or with that on `validation` images alone.
    """

    name = "oles"
    stops: OperationStops

    def __init__(
        self,
        threshold: float = 0.4,
        comparisons: int = 20,
        every: int = 1,
        against: Literal["sum", "validation"] = "sum",
    ) -> None:
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a cosine, from -1 to 1")
        if comparisons < 1 or every < 1:
            raise ValueError(f"comparisons={comparisons},every={every}, expected at least 1 of both")
        self.threshold, self.comparisons, self.every, self.against = threshold, comparisons, every, against

    def prepare(self, search: SearchView) -> None:
        options = search.options
        for what, wrong in (
            ("`order=2`, which moves all weights,", options.order == 2),
            ("`draw_per=rank`", options.draw_per == "rank"),
        ):
            if wrong:
                raise InputError(f"{what} does not go with the term '{self.name}': drop one of the two")
        self.valid = search.valid
        widened = hasattr(self, "stops") and not search.growth.renews  # in a later stage
        before = self.stops.state() if widened else None
        self.stops = OperationStops(search.supernet, self.threshold, self.comparisons)
        if before is not None:
            self.stops.restore(before)

    def of_weights(self, step: WeightStep) -> None:
        numbers = self.stops.trained()
        if step.number % self.every or not numbers:
            return
        weights = [weight for number in numbers for weight in self.stops.operations[number]]
        train = [weight.grad.clone() for weight in weights if weight.grad is not None]
        batch, valid = next(self.valid.endless(step.number)), [torch.zeros_like(weight) for weight in weights]
        for path in step.paths:
            loss, _ = step.steps.loss(path, batch)
            found = torch.autograd.grad(loss / len(step.paths), weights, allow_unused=True)
            for total, gradient in zip(valid, found, strict=True):
                if gradient is not None:
                    total += gradient
        distributed.average([*train, *valid])
        other = valid if self.against == "validation" else torch._foreach_add(train, valid)
        self.stops.compare(numbers, train, other)
        self.stops.trained()

    def report(self) -> float:
        return float(sum(self.stops.stopped))

    def state(self) -> dict[str, Any]:
        return self.stops.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.stops.restore(state)


TERMS: Registry[type[Term]] = Registry(
    "term",
    {t.name: t for t in (BetaDecay, Entropy, UniformDecay, ZeroOne, Alignment, OperationStopping)},
    Term,
)


def gradient_of_logits(terms: Sequence[Term], logits: Tensor, leaf: Tensor, progress: float) -> Tensor | None:
    """d/d leaf of the terms of the logits (E, K), which have a graph to the leaf; None where there are
    none."""
    values = [v for term in terms if (v := logits_value(term, logits, progress)) is not None]
    if not any(value.requires_grad for value in values):
        return None
    return torch.autograd.grad(torch.stack(values).sum(), leaf)[0]


def value_of_draw(terms: Sequence[Term], draw: Tensor, progress: float) -> Tensor | None:
    """The sum (...) of the terms of draws (..., E, K); None where there are none."""
    values = [v for term in terms if (v := draw_value(term, draw, progress)) is not None]
    return torch.stack(values).sum(0) if values else None


def gradient_of_draw(terms: Sequence[Term], draw: Tensor, progress: float) -> Tensor | None:
    """d/d draw of the mean over (...) of the terms of draws (..., E, K); None where there are none."""
    leaf = draw.detach().requires_grad_()
    value = value_of_draw(terms, leaf, progress)
    if value is None or not value.requires_grad:
        return None
    return torch.autograd.grad(value.mean(), leaf)[0]


def logits_value(term: Term, logits: Tensor, progress: float) -> Tensor | None:
    """`of_logits` of a term, checked: (). Raises InputError."""
    return _checked(term, "of_logits", term.of_logits(logits, progress), logits, ())


def draw_value(term: Term, draw: Tensor, progress: float) -> Tensor | None:
    """`of_draw` of a term, checked: (...) for draws (..., E, K). Raises InputError."""
    return _checked(term, "of_draw", term.of_draw(draw, progress), draw, tuple(draw.shape[:-2]))


def _checked(term: Term, part: str, value: Any, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        value = torch.full(shape, float(value), dtype=like.dtype)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"the term '{name_of(term)}': {part} of {tuple(like.shape)} is {found}, expected a tensor of "
            f"shape {shape}: sum over slots and candidates only, the last two dimensions"
        )
    return value.to(like.dtype)
