"""The score-function estimators for a batch of independent problems, each with draws of its own."""

from __future__ import annotations

from torch import Tensor

from estimators import Estimator
from estimators.reinforce import Reinforce


class ScoreFunction:
    """A surrogate whose gradient is the estimate of `reinforce` or `reinforce_loo`, averaged over problems.

    `Estimator.gradient` takes draws from one tensor of logits. Here every problem of a batch has its own
    logits, and with several choices in a row the logits depend on the choices before; the gradient of the
    log-probability of all choices of a draw is the score in either case. With `reinforce` the baseline is
    a moving average of past batches, with `reinforce_loo` the mean over the other draws of the problem.

    Sources: Williams, 1992; Kool, van Hoof & Welling, 2019 (as in `estimators.reinforce`).
    """

    def __init__(self, estimator: Estimator) -> None:
        self.draws = estimator.default_draws
        self.decay = Reinforce.decay
        self.baseline: Tensor | None = None

    def __call__(self, losses: Tensor, log_probabilities: Tensor) -> Tensor:
        """The surrogate, a scalar.

        Args:
            losses: (N, B), of N draws for each of B problems; not differentiated.
            log_probabilities: (N, B), of these draws; differentiated.
        """
        losses = losses.detach()
        if self.draws > 1:
            advantages = (losses - losses.mean(0)) * (self.draws / (self.draws - 1))
        else:
            mean = losses.mean()
            advantages = losses - self.baseline if self.baseline is not None else losses * 0
            previous = mean if self.baseline is None else self.baseline
            self.baseline = self.decay * previous + (1 - self.decay) * mean
        return (advantages * log_probabilities).mean()
