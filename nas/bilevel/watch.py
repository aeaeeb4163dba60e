"""What a search measures of itself after its epochs, and how it reacts."""

from __future__ import annotations

from typing import Any

import torch

from nas import distributed
from nas.bilevel.architecture import Architecture
from nas.bilevel.curvature import largest_eigenvalue
from nas.bilevel.early_stop import CurvatureStop
from nas.bilevel.steps import Bilevel
from nas.bilevel.unroll import Batch
from nas.data import Batches
from nas.seeding import generator, kept_generators, seed_everything
from recipes import SearchOptions


class Watch:
    """Measures the mixture of all candidates on the first validation images, always the same ones.

    Args:
        options: which measurements there are.
        valid: batches of the validation part.

    Attributes:
        stop: what ends the search before it collapses, if anything does.
    """

    def __init__(self, options: SearchOptions, valid: Batches) -> None:
        self.options, self.valid = options, valid
        self.stop: CurvatureStop | None = None
        if options.stop_curvature is not None:
            every = options.curvature_every
            measurements = (options.epochs - 1) // every - options.warmup // every
            self.stop = CurvatureStop(options.stop_curvature, measurements)

    def measure(self, bilevel: Bilevel, epoch: int) -> dict[str, float]:
        """What is due after so many epochs, for the metrics line; equal on all ranks, each of which has the
        whole batch."""
        found = {}
        every = self.options.curvature_every
        if every and epoch % every == 0:
            draws = generator(self.options.seed, "curvature", epoch)
            with kept_generators():
                seed_everything(self.options.seed, "curvature")  # operations that are random, always alike
                value = largest_eigenvalue(bilevel, self._batch(), draws)
            found["curvature"] = float(distributed.broadcast(value))
            if self.stop is not None and self.options.warmup < epoch < self.options.epochs:
                self.stop.add(epoch, found["curvature"], bilevel.architecture.logits)
        return found

    def _batch(self) -> Batch:
        images, labels = next(iter(self.valid))
        return images[: self.options.batch_size], labels[: self.options.batch_size]

    @property
    def stopped(self) -> bool:
        """Whether the search has begun to collapse and is to end."""
        return self.stop is not None and self.stop.found is not None

    def rewind(self, architecture: Architecture) -> None:
        """Go back to the logits from before, where the search has stopped."""
        if self.stop is not None and self.stop.found is not None:
            with torch.no_grad():
                architecture.logits.copy_(self.stop.logits[self.stop.found])

    def result(self) -> dict[str, Any]:
        """What result.json says."""
        return {"stopped": self.stop.describe()} if self.stop is not None and self.stopped else {}

    def messages(self) -> list[str]:
        """Lines to print in the end."""
        return [
            f"stopped after epoch {stopped['after']}, where the curvature has risen: the logits are those of "
            f"epoch {stopped['logits_of']}"
            for stopped in self.result().values()
        ]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {} if self.stop is None else {"stop": self.stop.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        if self.stop is not None:
            self.stop.restore(state["stop"])
