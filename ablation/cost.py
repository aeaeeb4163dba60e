"""Level 1 by cost: what an estimate of several draws is worth, and what its passes cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from estimators import CategoricalEstimator, Estimator, family
from nas.report import page

COUNTS = (1, 2, 4, 8, 16, 32)  # draws of an estimate
MORE = (64, 128)  # of those that cost no gradient, so that they reach the cost of the others
BUDGETS = (2, 5, 10, 20, 40, 80, 160)  # forward passes

Record = Mapping[str, Any]


class Way(NamedTuple):
    """An estimate: of how many draws, and whether these are systematic."""

    draws: int
    systematic: bool = False

    @property
    def coupling(self) -> str:
        """As the option of a search."""
        return "systematic" if self.systematic else "independent"


def default(estimator: Estimator) -> Way:
    """The estimate of one step of a search by default."""
    return Way(estimator.default_draws)


def ways(estimator: Estimator) -> Iterator[Way]:
    """All that are measured."""
    for count in (*COUNTS, *MORE) if estimator.signal == "loss" else COUNTS:
        if count >= estimator.fewest_draws and (count == 1 or estimator.stochastic):
            yield Way(count)
            if count > 1 and isinstance(estimator, CategoricalEstimator):
                yield Way(count, systematic=True)


def passes(estimator: Estimator, way: Way, price: float, mixture_price: float) -> dict[str, Any]:
    """Forward and backward passes of an estimate, and their cost in forward passes of one architecture.

    Args:
        price: of a pass with the exact gradient at a draw.
        mixture_price: of a forward and backward pass of all candidates.
    """
    backward = 0 if estimator.signal == "loss" else way.draws
    each = 1.0 if not backward else price if estimator.discrete else mixture_price
    return {"coupling": way.coupling, "forward": way.draws, "backward": backward, "cost": way.draws * each}


def name_of(record: Record) -> str:
    """The estimator of a record, with how it draws where it has a choice."""
    return f"{record['estimator']}, systematic" if record["coupling"] == "systematic" else record["estimator"]


def best(records: Sequence[Record], objective: str, budget: float, metric: str = "rmse") -> Record | None:
    """The estimate of an objective that is best by a metric, of those that cost at most `budget`."""
    fitting = [r for r in records if r["objective"] == objective and r["cost"] <= budget]
    sign = 1 if metric == "rmse" else -1
    return min(fitting, key=lambda record: (round(sign * record[metric], 3), record["cost"]), default=None)


def learns(record: Record) -> bool:
    """Whether the estimator of a record knows more of the problem than the draws of the estimate: by others
    that it has seen, or, `reinforce`, by its baseline, which is E f here."""
    return record["estimator"] == "reinforce" or family(record["estimator"].partition(",")[0]).learns


def winners(records: Sequence[Record], objective: str, metric: str = "rmse") -> set[str]:
    """Names of all that are the best for some budget, and of those that learn."""
    costs = {record["cost"] for record in records}
    others = [record for record in records if not learns(record)]
    found = (best(others, objective, cost, metric) for cost in costs)
    names = {name_of(record) for record in found if record is not None}
    return names | {name_of(record) for record in records if learns(record)}


def table(records: Sequence[Record], metric: str, heading: str, note: str) -> page.Table:
    """The best estimate of every objective for every budget."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    rows = []
    for budget in BUDGETS:
        chosen = [best(records, objective, budget, metric) for objective in objectives]
        rows.append([f"{budget:g}", *("–" if one is None else _cell(one, metric) for one in chosen)])
    return page.Table(heading, ["cost, forward passes", *objectives], rows, note)


def _cell(record: Record, metric: str) -> str:
    draws = f" ×{record['forward']}" if record["forward"] > 1 else ""
    return f"{name_of(record)}{draws}: {record[metric]:.2f}"
