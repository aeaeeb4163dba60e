"""What every gradient estimator for a categorical choice has in common.

Setting: logits theta in R^K, pi = softmax(theta), a one-hot draw D ~ Cat(pi) and a loss f(D).
An estimator turns logits into a draw whose backward pass maps g = df/dD (all K entries) to an
estimate of the gradient of E[f(D)] with respect to theta.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from estimators.schedule import Schedule

VectorJacobianProduct = Callable[[Tensor], Tensor]


class Estimator(ABC):
    """A gradient estimator; call it with logits (..., K) to get a draw (..., K).

    Subclasses set the class attributes and implement `sample`. Hyperparameters beside the temperature are
    arguments of their constructors, with defaults and annotations, so that a text can give them.

    A logit of -inf is a candidate that does not exist: it is never drawn, its gradient is 0, and the
    other entries of the row get what they would get without it. Every row needs a finite logit.

    Attributes:
        name: registry name.
        discrete: whether draws are one-hot. A dense estimator returns a mixture instead.
        stochastic: whether draws are random.
        exclusive: whether candidates of a row exclude each other, so that its draws sum to one; where not,
            each has a probability of its own, and there is no choice whose mean loss has a gradient.
        signal: what the estimate is made from: the `gradient` at the draw, which its backward pass takes,
            or the value of the `loss`, or `both`, which go to the method `gradient`.
        learns: whether it remembers past draws of the problem at hand, and estimates better for it.
        tau_range: smallest and largest valid temperature; both ends are inclusive.
        default_schedule: temperature schedule a search uses unless told otherwise.
        default_draws, fewest_draws: independent draws per architecture step.
        inner_samples: samples of noise that one backward pass averages over.
        keeps_tau: whether a temperature was asked for, which no schedule is to move.
    """

    name: ClassVar[str]
    discrete: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    signal: Literal["gradient", "loss", "both"] = "gradient"
    learns: ClassVar[bool] = False
    tau_range: ClassVar[tuple[float, float]] = (1e-3, 1e3)
    default_schedule: ClassVar[Schedule] = Schedule(1.0, 1.0)
    default_draws: ClassVar[int] = 1
    fewest_draws: ClassVar[int] = 1
    inner_samples: int = 1
    keeps_tau: bool = False

    def __init__(self, tau: float | None = None) -> None:
        self.keeps_tau = tau is not None
        self.tau = self.default_schedule.start if tau is None else tau

    @property
    def tau(self) -> float:
        """Temperature (dimensionless). Raises ValueError when set outside `tau_range`."""
        return self._tau

    @tau.setter
    def tau(self, value: float) -> None:
        self._tau = self.check_tau(value)

    @classmethod
    def check_tau(cls, value: float) -> float:
        """Return `value` as a float, or raise ValueError where it is not a valid temperature."""
        low, high = cls.tau_range
        if not low <= value <= high:
            raise ValueError(
                f"temperature {value:g} is out of range for the estimator '{cls.name}': "
                f"expected a value from {low:g} to {high:g}"
            )
        return float(value)

    def __call__(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw one sample per row.

        Args:
            logits: (..., K), floating point, any strides.
            generator: source of randomness on the device of `logits`.

        Returns:
            (..., K), in the dtype of `logits`: exactly one-hot for discrete estimators.
        """
        if not logits.is_floating_point():
            raise TypeError(f"logits must be floating point, got {logits.dtype}")
        if logits.dim() == 0 or logits.shape[-1] == 0:
            raise ValueError(f"logits must have shape (..., K) with K >= 1, got {tuple(logits.shape)}")
        return self.sample(logits, generator)

    @abstractmethod
    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Implement `__call__` for checked logits."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Mean of the draws, or of what they relax: (..., K), rows sum to one if candidates are exclusive."""
        return widen(logits).softmax(-1)

    def gradient(
        self,
        logits: Tensor,
        draws: Tensor,
        losses: Tensor,
        mean: Tensor | None = None,
        at_draws: Tensor | None = None,
    ) -> Tensor:
        """The estimate of an estimator whose signal is the loss, or both: from values, no backward pass.

        Args:
            logits: (..., K).
            draws: (N, ..., K), N independent draws.
            losses: (N,), the loss of each draw; or (N, *P) where the rows are P independent problems, each
                with losses of its own: the first dimensions of logits and draws (after N) are P, or
                broadcast to it.
            mean: as in `advantages`.
            at_draws: (N, ..., K), the gradients at the draws, where the signal is `both`.

        Returns:
            (..., K), the mean over the draws, in the dtype of `logits`.
        """
        weights = self.advantages(losses.detach().to(logits.device, torch.float64), mean)
        scores = draws.detach().double() - logits.detach().double().softmax(-1)
        return (per_row(weights, scores) * scores).mean(0).to(logits.dtype)

    def learn(self, logits: Tensor, draws: Tensor, losses: Tensor, at_draws: Tensor | None = None) -> None:
        """Remember the draws of a step, as `gradient` does after its estimate; arguments as there."""
        if self.learns:
            raise NotImplementedError(f"the estimator '{self.name}' does not say what it learns")

    def advantages(self, losses: Tensor, mean: Tensor | None = None) -> Tensor:
        """What weights the scores, the gradients of log p(draw): the losses less a baseline.

        Args:
            losses: (N, *P), of N independent draws for each of P problems.
            mean: the expected losses (*P) where they are known. A baseline that is learned over many
                steps is then taken as settled there, and nothing is remembered.

        Returns:
            (N, *P); the mean over N of their products with the scores is the estimate.
        """
        raise NotImplementedError(f"the estimator '{self.name}' does not weight scores by losses alone")

    def state(self) -> dict[str, Any]:
        """What the estimator remembers from step to step, for a checkpoint: numbers and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a `state`. Raises ValueError if it is not this estimator's."""
        if state:
            raise ValueError(f"the estimator '{self.name}' has no state, got {sorted(state)}")


class ScoreEstimator(Estimator):
    """D ~ Cat(softmax(logits)), and an estimate from the values of the loss at several draws, weights of the
    scores D - pi. There is no temperature."""

    signal: Literal["gradient", "loss", "both"] = "loss"
    tau_range = (1.0, 1.0)
    default_draws = 4
    fewest_draws = 2

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return categorical(widen(logits.detach()), generator).to(logits.dtype)

    def require_draws(self, losses: Tensor) -> int:
        """How many draws there are losses (N, *P) of. Raises ValueError where these are too few."""
        if len(losses) < self.fewest_draws:
            raise ValueError(f"'{self.name}' needs at least {self.fewest_draws} draws, got {len(losses)}")
        return len(losses)


class CategoricalEstimator(Estimator):
    """An estimator with D ~ Cat(softmax(logits)) and a backward formula that is given D.

    The estimate from N draws is a mean of N terms with one draw each, so that the draws may depend on each
    other. Subclasses implement `given`.
    """

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.given(logits, categorical(widen(logits.detach()), generator), generator)

    @abstractmethod
    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        """`draw` (..., K), one-hot, with the backward formula of the estimator.

        Args:
            logits: (..., K).
            generator: of what else is random in the formula.
        """

    def systematic(self, logits: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """`count` draws (count, ..., K) that are systematic in each row; see below. logits: (..., K)."""
        repeated = logits.expand(count, *logits.shape)
        return self.given(repeated, systematic(widen(logits.detach()), count, generator), generator)


class _Draw(torch.autograd.Function):
    """A given one-hot draw in forward, a given vector-Jacobian product in backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, draw: Tensor, vjp: VectorJacobianProduct) -> Tensor:
        ctx.vjp = vjp
        ctx.dtype = logits.dtype
        return draw.to(logits.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.vjp(widen(grad)).to(ctx.dtype), None, None


def draw_with_gradient(logits: Tensor, draw: Tensor, vjp: VectorJacobianProduct) -> Tensor:
    """`draw` (..., K), with `vjp` as its backward towards `logits` (..., K)."""
    return _Draw.apply(logits, draw, vjp)  # type: ignore[no-any-return, no-untyped-call]


def widen(x: Tensor) -> Tensor:
    """`x` in at least float32: half-precision noise and softmax would be too coarse."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def jacobian_product(p: Tensor, v: Tensor) -> Tensor:
    """J(p) v = p * v - p <p, v>, the Jacobian of softmax at output p; p, v (..., K)."""
    pv = p * v
    return pv - p * pv.sum(-1, keepdim=True)


def per_row(values: Tensor, rows: Tensor) -> Tensor:
    """`values` (N, *P) with as many dimensions as `rows` (N, *P, ..., K), to multiply them."""
    return values.reshape(*values.shape, *(1 for _ in range(rows.dim() - values.dim())))


def gumbel(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent standard Gumbel noise of the shape and device of `logits`."""
    exponential = torch.empty_like(logits, memory_format=torch.contiguous_format)
    exponential.exponential_(generator=generator)
    return -exponential.clamp_min_(torch.finfo(exponential.dtype).tiny).log_()


def gumbel_given_argmax(
    logits: Tensor, draw: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    """`count` samples of logits + G, G standard Gumbel noise, given that its arg-max is `draw`.

    With E_k ~ Exp(1) and Z = sum exp(logits), the chosen coordinate is -log(E_D / Z) and any other
    -log(E_k / exp(logits_k) + E_D / Z) (Paulus et al., 2021, arXiv 2010.04838).

    Args:
        logits, draw: (..., K); `draw` is one-hot.

    Returns:
        (count, ..., K).
    """
    log_e = -gumbel(logits.expand(count, *logits.shape), generator)
    top = (log_e * draw).sum(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
    return -torch.where(draw.bool(), top, torch.logaddexp(log_e - logits, top))


def checked_samples(samples: int) -> int:
    """Return a number of samples. Raises ValueError where there would be none, or more than memory holds."""
    if not 1 <= samples <= 100_000:
        raise ValueError(f"samples is {samples}, expected an integer from 1 to 100000")
    return samples


def one_hot_argmax(scores: Tensor) -> Tensor:
    """One-hot (..., K) of the largest entry of each row."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


def categorical(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """One-hot D ~ Cat(softmax(logits)) by the Gumbel-max trick; (..., K), no gradient."""
    return one_hot_argmax(logits + gumbel(logits, generator))


def systematic(logits: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` draws of every row of logits (..., K) that cover its distribution evenly: (count, ..., K).

    One uniform u for a row; its draws are those of (u + i) / count, i = 0 ... count - 1, by the inverse
    distribution function over its candidates in random order. Each draw is Cat(softmax(logits)), and a
    candidate comes up count * pi_k times, rounded up or down. The i are shuffled for every row by itself, so
    that rows stay independent within a draw, and the mean of any estimate of single draws is unchanged.

    Source: Madow, 1949, "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20;
    with rows shuffled against each other as in Latin hypercube sampling (McKay et al., 1979).
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64, device=logits.device)

    order = uniform(*logits.shape).argsort(-1)
    cumulated = logits.double().softmax(-1).gather(-1, order).cumsum(-1)
    cumulated = cumulated / cumulated[..., -1:]  # ends at 1, exactly
    ranks = uniform(count, *logits.shape[:-1]).argsort(0)
    u = (uniform(*logits.shape[:-1]) + ranks) / count
    u = u.clamp_max(1 - 2.0**-53).unsqueeze(-1)
    place = (cumulated <= u).sum(-1, keepdim=True)
    chosen = order.expand(count, *order.shape).gather(-1, place)
    return torch.zeros(count, *logits.shape, dtype=logits.dtype, device=logits.device).scatter_(
        -1, chosen, 1.0
    )
