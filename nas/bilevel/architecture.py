"""The variables of the upper level: the logits of all decisions of a space, and draws from them."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from estimators import Estimator
from estimators.base import gumbel
from recipes import InputError
from recipes.registry import name_of
from search_spaces import SearchSpace
from search_spaces.mixed_edge import Draw, chosen_in

_NEVER = -1e6  # score of what is not there: below all log-probabilities, with Gumbel noise, too


class Architecture:
    """The logits of a search, the estimator that draws from them, and the space that gives them a meaning.

    Args:
        space: its slots are the rows of the logits.
        estimator: turns logits into draws.
        logits: (E, K) on the CPU, so that reading a draw never waits for a device; default: small and random,
            from the global generator. Columns that a slot has no candidate for are ignored.
        edge_logits: (E,) on the CPU, where the edges into a node are weighed against each other (see
            `edge_weights`).

    Attributes:
        mask: (E, K), bool, where there is a candidate that was not taken out; None where every slot has K
            of them.
    """

    def __init__(
        self,
        space: SearchSpace,
        estimator: Estimator,
        logits: Tensor | None = None,
        edge_logits: Tensor | None = None,
    ) -> None:
        self.space, self.estimator, self.mask = space, estimator, space.mask()
        if logits is None:
            logits = 1e-3 * torch.randn(space.num_slots, space.width)
        self.logits = logits if isinstance(logits, nn.Parameter) else nn.Parameter(logits)
        self.edge_logits = None if edge_logits is None else nn.Parameter(edge_logits)

    def start_edges(self) -> None:
        """Weigh edges from now on, with logits that are small and random, from the global generator."""
        self.edge_logits = nn.Parameter(1e-3 * torch.randn(self.space.num_slots))

    def restart(self, generator: torch.Generator) -> None:
        """Make all that is learned small and random again; what was taken out stays out."""
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.copy_(1e-3 * torch.randn(leaf.shape, generator=generator))

    def state(self) -> dict[str, Tensor]:
        """All that is learned, by name, as it is: not copied."""
        names = ("logits", "edge_logits")
        return {name: leaf.detach() for name, leaf in zip(names, self.leaves, strict=False)}

    @property
    def leaves(self) -> list[nn.Parameter]:
        """What an architecture step learns: the logits, and those of the edges where there are such."""
        return [self.logits] if self.edge_logits is None else [self.logits, self.edge_logits]

    def start_near(self, sizes: Tensor, weight: float) -> None:
        """Add `weight` times the size of a candidate, as a share of its slot's largest, to its logit.

        The search then starts around the largest architecture, which is hard to beat where it can be trained
        long enough.

        Args:
            sizes: (E, K), not negative, such as numbers of parameters; a slot without any is left alone.
        """
        with torch.no_grad():
            self.logits.add_(sizes / sizes.amax(-1, keepdim=True).clamp_min(1), alpha=weight)

    def candidates(self, row: int) -> list[int]:
        """The candidates of a slot that are there, ascending."""
        count = len(self.space.slots[row].candidates)
        return list(range(count)) if self.mask is None else self.mask[row].nonzero().flatten().tolist()

    def take_out(self, row: int, candidate: int) -> None:
        """Leave a candidate out of all that is drawn and trained from now on."""
        if self.mask is None:
            self.mask = torch.ones(self.logits.shape, dtype=torch.bool)
        self.mask[row, candidate] = False

    def masked(self) -> Tensor:
        """The logits (E, K), -inf where there is no candidate: what estimators see. Has a graph."""
        return self.logits if self.mask is None else self.logits.masked_fill(~self.mask, -math.inf)

    def probabilities(self) -> Tensor:
        """(E, K), the mean of the draws; 0 where there is no candidate."""
        return self.estimator.probabilities(self.masked().detach())

    def log_probabilities(self) -> Tensor:
        """(E, K), finite, and far below all others where there is no candidate."""
        p = self.probabilities()
        return self.among(p.clamp_min(torch.finfo(p.dtype).tiny).log())

    def among(self, scores: Tensor) -> Tensor:
        """Scores (E, K), far below all others where there is no candidate, so that none is ever the best."""
        return scores if self.mask is None else scores.masked_fill(~self.mask, _NEVER)

    def edge_weights(self) -> Tensor | None:
        """(E,), what the value of every edge is multiplied by: softmax of the logits of the edges into the
        same node. Has a graph. None: nothing.

        Source: Xu et al., 2020, "PC-DARTS", arXiv 1907.05737, edge normalisation.
        """
        if self.edge_logits is None:
            return None
        logits = self.edge_logits.expand_as(self._rivals)
        return logits.masked_fill(~self._rivals, -math.inf).softmax(-1).diagonal()

    @cached_property
    def _rivals(self) -> Tensor:
        """(E, E), bool: whether two edges lead into the same node."""
        rivals = torch.zeros(self.space.num_slots, self.space.num_slots, dtype=torch.bool)
        for rows in self.space.into_nodes():
            rivals[torch.tensor(rows).unsqueeze(1), rows] = True
        return rivals

    def scores(self) -> Tensor:
        """(E, K), finite, what an architecture is derived by: the log-probabilities, each with the logarithm
        of the weight of its edge."""
        weights = self.edge_weights()
        if weights is None:
            return self.log_probabilities()
        tiny = torch.finfo(weights.dtype).tiny
        return self.log_probabilities() + weights.detach().clamp_min(tiny).log().unsqueeze(1)

    def entropy(self) -> float:
        """Mean entropy of the decisions, in nats; where candidates do not exclude each other, each of them is
        a decision."""
        log_p = self.log_probabilities()
        terms = -log_p.exp() * log_p
        if self.estimator.exclusive:
            return float(terms.sum(-1).mean())
        q = (1 - self.probabilities()).clamp(torch.finfo(log_p.dtype).tiny, 1)
        terms = terms - q * q.log()
        return float((terms if self.mask is None else terms[self.mask]).mean())

    def draw(self, generator: torch.Generator) -> Draw:
        """A draw that nothing is learned from: the chosen indices, or a dense mixture (E, K)."""
        draw = self.estimator(self.masked().detach(), generator)
        return draw.argmax(-1).tolist() if self.estimator.discrete else draw

    def uniform(self, generator: torch.Generator) -> list[int]:
        """Indices of candidates, all with equal probability."""
        numbers = torch.rand(self.space.num_slots, generator=generator, dtype=torch.float64).tolist()
        lines = (self.candidates(row) for row in range(self.space.num_slots))
        return [line[int(number * len(line))] for number, line in zip(numbers, lines, strict=True)]

    def dense(self) -> Tensor:
        """The mixture (E, K) of all candidates, each with the weight 1 / n, where n is how many its slot had
        before any was taken out."""
        counts = torch.tensor([[len(slot.candidates)] for slot in self.space.slots])
        weights = torch.ones_like(self.logits.detach()) / counts
        mask = self.space.mask() if self.mask is None else self.mask
        return weights if mask is None else weights.masked_fill(~mask, 0.0)

    def noise(self, generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise (E, K), far below all others where there is no candidate: its arg-max is any
        candidate of a slot with equal probability."""
        return self.among(gumbel(self.logits.detach(), generator))


def chosen_by(estimator: Estimator, draws: Tensor) -> list[list[int] | None]:
    """The candidate of every slot in each of some draws (N, E, K) on the CPU, None for a mixture.

    Raises InputError where an estimator makes a mixture whose draws are said to be one-hot: every candidate
    would be run.
    """
    chosen = [chosen_in(draw) for draw in draws.detach()]
    if estimator.discrete and estimator.exclusive and None in chosen:
        raise InputError(
            f"the estimator '{name_of(estimator)}' draws {draws[chosen.index(None), 0].tolist()}, expected a "
            "one-hot vector for each slot: correct it (d + p - p.detach() is rounded), or set `discrete = "
            "False`"
        )
    return chosen
