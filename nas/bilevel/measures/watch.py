"""What a search measures of itself after its epochs, and how it reacts."""

from __future__ import annotations

from typing import Any

import torch

from nas import distributed
from nas.bilevel.measures.alignment import alignment, cell_gradients, repeated_cells
from nas.bilevel.measures.curvature import largest_eigenvalue
from nas.bilevel.measures.early_stop import CurvatureStop
from nas.bilevel.steps import Bilevel
from nas.bilevel.unroll import Batch, frozen
from nas.data import Batches
from nas.seeding import generator, kept_generators, seed_everything
from nas.steps import evaluating
from recipes import InputError, SearchOptions


class Watch:
    """Measures the mixture of all candidates on the first validation images, always the same ones.

    Args:
        options: which measurements there are.
        bilevel: supernet and logits.
        valid: batches of the validation part.

    Attributes:
        stop: what ends the search before it collapses, if anything does.
    """

    def __init__(self, options: SearchOptions, bilevel: Bilevel, valid: Batches) -> None:
        self.options, self.bilevel, self.valid = options, bilevel, valid
        if options.alignment_every and not repeated_cells(bilevel.supernet):
            raise InputError(
                f"`alignment_every` compares cells of a kind, and in the space '{options.space}' of "
                f"so few `cells` none occurs twice: add cells, or drop it"
            )
        self.stop: CurvatureStop | None = None
        if options.stop_curvature is not None:
            every = options.curvature_every
            measurements = (options.epochs - 1) // every - options.warmup // every
            self.stop = CurvatureStop(options.stop_curvature, measurements)

    def measure(self, epoch: int) -> dict[str, float]:
        """What is due after so many epochs, for the metrics line; equal on all ranks, each of which has the
        whole batch."""
        options, found = self.options, dict[str, float]()
        with kept_generators():
            if options.curvature_every and epoch % options.curvature_every == 0:
                draws = generator(options.seed, "curvature", epoch)
                found["curvature"] = largest_eigenvalue(self.bilevel, self._batch(), draws)
            if options.alignment_every and epoch % options.alignment_every == 0:
                found["alignment"] = self._alignment()
        found = dict(distributed.broadcast(found))
        if self.stop is not None and "curvature" in found and options.warmup < epoch < options.epochs:
            self.stop.add(epoch, found["curvature"], self.bilevel.architecture.state())
        return found

    def _alignment(self) -> float:
        """See `nas.bilevel.measures.alignment`."""
        bilevel, (images, target) = self.bilevel, self._batch()
        weights = bilevel.architecture.masked().detach().softmax(-1).to(images.device)
        cells = repeated_cells(bilevel.supernet)
        with evaluating(bilevel.supernet), frozen(bilevel.parameters):
            found = cell_gradients(
                lambda draw: bilevel.task.loss(bilevel.supernet(images, draw), target), cells, weights
            )
        bilevel.work.trained += len(target)
        return float(alignment([gradient.double() for gradient in found]))

    def _batch(self) -> Batch:
        seed_everything(self.options.seed, "watch")  # operations that are random, always alike
        images, labels = next(iter(self.valid))
        return images[: self.options.batch_size], labels[: self.options.batch_size]

    @property
    def stopped(self) -> bool:
        """Whether the search has begun to collapse and is to end."""
        return self.stop is not None and self.stop.found is not None

    def rewind(self) -> None:
        """Go back to the architecture from before, where the search has stopped."""
        if self.stop is not None and self.stop.found is not None:
            with torch.no_grad():
                for name, tensor in self.bilevel.architecture.state().items():
                    tensor.copy_(self.stop.learned[self.stop.found][name])
            self.bilevel.weigh_edges()

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
