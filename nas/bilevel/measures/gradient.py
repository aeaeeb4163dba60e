"""The architecture gradient of a search, measured: how far is every estimator from the truth?

The truth is the gradient of E[L(D)] with respect to the logits, D the drawn architecture and L the loss
of the supernet on one fixed batch. Where all architectures can be run, it is exact; elsewhere it is an
unbiased reference, REINFORCE with the leave-one-out baseline over many draws, whose own error is
reported. The passes through the supernet are shared: an architecture that was run once serves every
estimator that draws it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import estimators
from estimators import Estimator
from estimators.compare import Errors
from estimators.exact import count_outcomes, mean_and_gradient
from nas.bilevel.steps import Bilevel
from nas.bilevel.unroll import Batch
from nas.seeding import generator

REFERENCE = "reinforce_loo"
ENUMERABLE = 1000  # most architectures that are all run
ESTIMATES = 2000  # of each estimator where all architectures are run
DRAWS, REFERENCE_DRAWS = 64, 1024  # of each estimator, and of the reference, elsewhere
DENSE_DRAWS = 32  # of an estimator that mixes at random: each is a pass of its own
_TOO_NOISY = 0.5  # relative error of a reference that says nothing


class GradientMeasure:
    """Measures one moment of a search.

    Args:
        bilevel: the supernet, its precision, and the architecture whose logits (E, K) are measured.
        batch: the images and labels that the loss is taken on.
        seed, position: of the draws; equal ones give equal results.
    """

    def __init__(self, bilevel: Bilevel, batch: Batch, seed: int, position: int) -> None:
        self.bilevel, self.batch, self.seed, self.position = bilevel, batch, seed, position
        self.logits = bilevel.architecture.masked().detach()
        self.evaluated: dict[tuple[int, ...], tuple[float, Tensor]] = {}  # by the choice on every edge
        self.enumerated = count_outcomes(self.logits) <= ENUMERABLE
        self.mean, self.gradient, self.noise = self._enumerate() if self.enumerated else self._sample()

    def describe(self, progress: float) -> dict[str, Any]:
        """What a metrics line tells of this moment.

        Args:
            progress: of the search, in [0, 1]; it sets the temperature of every other estimator than that of
                the search by its schedule.

        Returns:
            `loss`, its mean over the architectures; `norm` of the gradient; `reference`, "enumeration"
            or "reinforce_loo", with its relative standard error `reference_error`; and `estimators`: by
            name tau and, as in `estimators.compare`, bias, bias2, std, rmse, cosine, length, draw_cosine and
            standard_error, in units of the norm. The estimator of the search is as it is, with its settings,
            temperature, draws and what it remembers; another one that learns is left out.
            Where the reference is too noisy there are no estimators.
        """
        square = float(self.gradient.square().sum() - self.noise)
        error = float(self.noise) ** 0.5 / square**0.5 if square > 0 else float("inf")
        usable = square > 0 and error < _TOO_NOISY
        found = {}
        own = self.bilevel.architecture.estimator
        for name in estimators.names() if usable else ():
            family = estimators.family(name)
            if name == own.name:
                found[name] = self.compare(own)
            elif not family.learns:
                found[name] = self.compare(family(family.default_schedule(progress)))
        return {
            "loss": float(self.mean),
            "norm": max(square, 0.0) ** 0.5,
            "reference": "enumeration" if self.enumerated else REFERENCE,
            "reference_error": error if usable else None,
            "estimators": found,
        }

    def compare(self, estimator: Estimator) -> dict[str, float]:
        """Bias, spread and direction of an estimator, see `describe`."""
        errors = Errors(self.gradient.unsqueeze(0), self.noise.view(1))
        errors.add(self.estimates(estimator).unsqueeze(1))
        metrics = (measured := errors.measured()).metrics() | {"bias2": measured.bias2}
        names = ("bias", "bias2", "std", "rmse", "cosine", "length", "draw_cosine", "standard_error")
        return {"tau": estimator.tau} | {name: float(metrics[name]) for name in names}

    def estimates(self, estimator: Estimator) -> Tensor:
        """Independent estimates (N, E, K) of the gradient, in float64."""
        rng = generator(self.seed, "measured draw", self.position)
        count = ESTIMATES if self.enumerated else DRAWS
        if not estimator.discrete:
            count = DENSE_DRAWS if estimator.stochastic else 2
        own = estimator is self.bilevel.architecture.estimator and estimator.signal != "gradient"
        n = self.bilevel.draws if own else estimator.default_draws
        leaf = self.logits.repeat(count * n, 1, 1).requires_grad_()
        draws = estimator(leaf, rng)
        if estimator.signal == "loss":
            signals = [draws.detach(), self._losses(draws)]
        else:
            evaluate = self._evaluate_once if estimator.discrete else self._evaluate
            evaluated = [evaluate(draw) for draw in draws.detach()]
            at_draws = torch.stack([at_draw for _, at_draw in evaluated])
            losses = torch.tensor([loss for loss, _ in evaluated], dtype=torch.float64)
            signals = [draws.detach(), losses, at_draws]
        if estimator.signal != "gradient":
            signals = [x.view(count, n, *x.shape[1:]).transpose(0, 1) for x in signals]
            drawn, losses, *slopes = signals
            return estimator.gradient(self.logits.double(), drawn, losses, self.mean, *slopes)
        return torch.autograd.grad(draws, leaf, at_draws)[0].double()

    def _enumerate(self) -> tuple[Tensor, Tensor, Tensor]:
        """E[L], its gradient (E, K) and the squared error of that, 0, from all architectures."""

        def losses(draws: Tensor) -> Tensor:
            return torch.tensor([self._evaluate_once(draw.float())[0] for draw in draws], dtype=torch.float64)

        return *mean_and_gradient(self.logits.double(), losses), torch.zeros((), dtype=torch.float64)

    def _sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same, estimated: REINFORCE over many draws, the baseline of each the mean of the others."""
        rng = generator(self.seed, "reference draw", self.position)
        reference, n = estimators.get(REFERENCE), REFERENCE_DRAWS
        draws = reference(self.logits.expand(n, -1, -1), rng).double()
        losses = self._losses(draws)
        scores = draws - self.logits.double().softmax(-1)
        terms = reference.advantages(losses).view(-1, 1, 1) * scores
        return losses.mean(), terms.mean(0), terms.var(0).sum() / n

    def _losses(self, draws: Tensor) -> Tensor:
        """Losses (N,) of one-hot draws (N, E, K), without gradients, which most of them need not."""
        return torch.tensor([self._loss(draw) for draw in draws], dtype=torch.float64)

    def _loss(self, draw: Tensor) -> float:
        choice = tuple(draw.argmax(-1).tolist())
        if choice in self.evaluated:
            return self.evaluated[choice][0]
        with torch.no_grad():
            return float(self.bilevel.loss(list(choice), self.batch)[0])

    def _evaluate_once(self, draw: Tensor) -> tuple[float, Tensor]:
        """`_evaluate` for a one-hot draw, which is remembered."""
        choice = tuple(draw.argmax(-1).tolist())
        if choice not in self.evaluated:
            self.evaluated[choice] = self._evaluate(draw)
        return self.evaluated[choice]

    def _evaluate(self, draw: Tensor) -> tuple[float, Tensor]:
        """Loss of a draw (E, K), one-hot or a mixture, and the gradient at the draw (E, K)."""
        loss, _, at_draw = self.bilevel.gradient_at(draw.detach().clone(), self.batch)
        return float(loss), at_draw.to(draw.device)
