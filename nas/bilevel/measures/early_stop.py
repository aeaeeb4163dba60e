"""The end of a search before it collapses: where the curvature of the validation loss rises.

Source: Zela et al., 2020, "Understanding and robustifying differentiable architecture search", arXiv
1909.09656, DARTS-ES, by the code of automl/RobustDARTS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recipes import InputError

HALF = 2  # measurements on each side that an average is over, besides its own
DELAY = 4  # measurements between two averages that are compared
FIRST = 5  # measurements before the first whose average is compared
FEWEST = FIRST + DELAY + HALF + 1  # measurements before a search can stop


class CurvatureStop:
    """Ends a search when the mean curvature of five measurements is `factor` times that of four measurements
    before; the architecture is that of then.

    Args:
        factor: above 1; 1.3 in the paper's code.
        measurements: how many there will be, that of the last epoch left out. Raises InputError if too few.

    Attributes:
        found: the number of the measurement whose architecture it is; None as long as the search goes on.
    """

    def __init__(self, factor: float, measurements: int) -> None:
        if measurements < FEWEST:
            raise InputError(
                f"`stop_curvature` needs {FEWEST} measurements between warm-up and the last epoch, with "
                f"`curvature_every` and `epochs` as they are there are {max(0, measurements)}: measure more "
                "often, or drop it"
            )
        self.factor = factor
        self.epochs: list[int] = []
        self.values: list[float] = []
        self.learned: list[dict[str, Tensor]] = []
        self.found: int | None = None

    def add(self, epoch: int, value: float, learned: Mapping[str, Tensor]) -> None:
        """Take up the measurement after so many epochs, and what the architecture is there."""
        self.epochs.append(epoch)
        self.values.append(value)
        self.learned.append({name: tensor.clone() for name, tensor in learned.items()})
        now = len(self.values) - 1 - HALF
        before = now - DELAY
        if before >= FIRST and self.average(now) > self.factor * self.average(before):
            self.found = before

    def average(self, number: int) -> float:
        """The mean of the measurements around one."""
        around = self.values[max(0, number - HALF) : number + HALF + 1]
        return sum(around) / len(around)

    def describe(self) -> dict[str, Any]:
        """What result.json says of a search that has stopped."""
        assert self.found is not None
        return {"after": self.epochs[-1], "logits_of": self.epochs[self.found]}

    def state(self) -> dict[str, Any]:
        """All measurements, for a checkpoint."""
        return {
            "found": self.found,
            "epochs": self.epochs,
            "values": self.values,
            "learned": self.learned,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.found, self.epochs, self.values = state["found"], list(state["epochs"]), list(state["values"])
        self.learned = list(state["learned"])
