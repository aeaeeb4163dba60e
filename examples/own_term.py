"""A term of your own: what the architecture step minimises beside the loss, here the number of parameters.

python examples/own_term.py
python train_search.py --plugins examples/own_term.py --terms parameter_cost:weight=0.5
"""

from __future__ import annotations

from torch import Tensor

import nas
from estimators import Schedule
from nas.bilevel import SearchView, Term
from search_spaces.cell import candidate_parameters


class ParameterCost(Term):
    """weight * expected number of parameters of the cells, in units of the largest.

    The decisions are independent and the numbers add up, so that the expectation is exact:
    sum over edges and candidates of probability * parameters.
    """

    name = "parameter_cost"

    def __init__(self, weight: Schedule = Schedule(0.5, 0.5)) -> None:  # noqa: B008  (immutable)
        self.weight = weight

    def prepare(self, search: SearchView) -> None:
        """Count the parameters of every candidate, over all cells of the supernet."""
        costs = candidate_parameters(search.supernet, search.space.num_slots, search.space.width)
        self.costs = costs / costs.amax(-1).sum()

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        """The term (), differentiable by the logits (E, K)."""
        return self.weight(progress) * (logits.softmax(-1) * self.costs).sum()


nas.register_term("parameter_cost", ParameterCost)


def main(epochs: int = 40) -> None:
    """Search with and without the term and compare what is found."""
    for terms in ([], ["parameter_cost:weight=0.3"]):  # or [ParameterCost(Schedule(0.3, 0.3))]
        result = nas.search(space="micro", data="digits", terms=terms, epochs=epochs, channels=8)
        network = result.space.network(result.genotype, channels=16, num_classes=10, in_channels=1)
        cost = result.history[-1].get("terms", {}).get("parameter_cost")
        print(f"{result}: {sum(p.numel() for p in network.parameters()):,} parameters, term {cost}")


if __name__ == "__main__":
    main()
