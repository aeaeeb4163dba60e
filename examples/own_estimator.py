"""An estimator from outside: straight-through at beta = 0, ReinMax at beta = 1/2, and all between.

Once registered it has a name like any other: `estimators.get("st_to_reinmax:beta=0.25")`.
"""

import torch
from torch import Tensor

import estimators
from estimators.base import categorical, draw_with_gradient, jacobian_product, widen
from estimators.compare import Errors
from estimators.exact import mean_and_gradient


class StraightThroughToReinMax(estimators.Estimator):
    """D ~ Cat(pi); backward (1 - beta) J(pi) g + beta <g, D - pi> (D - pi).

    Args:
        beta: weight of the second term. Arguments with a default and an annotation can be given by text.
    """

    tau_range = (1.0, 1.0)  # no temperature

    def __init__(self, tau: float | None = None, beta: float = 0.25) -> None:
        super().__init__(tau)
        self.beta = beta

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = widen(logits.detach())  # noise and softmax in at least float32
        pi, draw = theta.softmax(-1), categorical(theta, generator)  # (..., K)

        def vjp(g: Tensor) -> Tensor:
            score = draw - pi
            along = (g * score).sum(-1, keepdim=True)
            return (1 - self.beta) * jacobian_product(pi, g) + self.beta * along * score

        return draw_with_gradient(logits, draw, vjp)


estimators.register("st_to_reinmax", StraightThroughToReinMax)


def main() -> None:
    """Bias and spread on a quadratic loss of two choices among five, against the exact gradient."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 5, generator=rng, dtype=torch.float64)  # (problems, choices, candidates)
    m = torch.randn(10, 10, generator=rng, dtype=torch.float64)
    _, exact = mean_and_gradient(logits, lambda d: (d.flatten(-2) @ m * d.flatten(-2)).sum(-1))
    for name in ("st", *(f"st_to_reinmax:beta={beta}" for beta in (0, 0.25, 0.5)), "reinmax"):
        leaf = logits.expand(50_000, 1, 2, 5).clone().requires_grad_()
        draws = estimators.get(name)(leaf, rng).flatten(-2)
        errors = Errors(exact)
        errors.add(torch.autograd.grad((draws @ m * draws).sum(), leaf)[0])
        found = errors.measured().metrics()
        print(f"{name:24} bias {found['bias'].item():.2f}  std {found['std'].item():.2f}  x |gradient|")


if __name__ == "__main__":
    main()
