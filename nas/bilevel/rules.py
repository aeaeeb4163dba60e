"""From a search to the architecture that it ends with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nas.bilevel.view import SearchView
from nas.seeding import generator
from nas.training.final import Training
from recipes import FinalOptions, RunOptions
from recipes.registry import Registry
from search_spaces import Genotype, SearchSpace

MOST = 100_000  # architectures that a rule looks at


class Rule(ABC):
    """Selects an architecture after the last epoch, at once or in many pieces of work.

    A rule may evaluate and train: the supernet and its optimizer are part of the checkpoint, and so is what
    `state` returns, so that a rule goes on after an interruption where it was.
    """

    name: ClassVar[str]

    @abstractmethod
    def select(self, search: SearchView) -> Iterator[None]:
        """Do the pieces of work that are not done yet, and yield after each of them."""

    @abstractmethod
    def selected(self, search: SearchView) -> Genotype:
        """The architecture, once `select` has ended."""

    def pieces(self, search: SearchView) -> int:
        """How many pieces of work there are in all, for the progress bar."""
        return 0

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        """What was looked at, for the report: rows with `genotype` and what was found about it."""
        return []

    def state(self) -> dict[str, Any]:
        """What the work done so far has brought: tensors, numbers and texts in dicts and lists."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises ValueError if it is not this rule's."""
        if state:
            raise ValueError(f"the rule '{self.name}' has no state, got {sorted(state)}")


class ArgMax(Rule):
    """The architecture that the log-probabilities speak for."""

    name = "argmax"

    def select(self, search: SearchView) -> Iterator[None]:
        yield from ()

    def selected(self, search: SearchView) -> Genotype:
        return search.space.discretise(search.architecture.log_probabilities())


class Sample(Rule):
    """The best of `count` drawn architectures, by the accuracy of the shared weights on the validation
    part."""

    name = "sample"

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"count is {count}, expected 1 to {MOST}")
        self.count = count
        self.accuracies: list[float] = []

    def pieces(self, search: SearchView) -> int:
        return len(drawn(search, self.count))

    def select(self, search: SearchView) -> Iterator[None]:
        for genotype in drawn(search, self.count)[len(self.accuracies) :]:
            self.accuracies.append(search.score(genotype)[1])
            yield

    def selected(self, search: SearchView) -> Genotype:
        best = max(range(len(self.accuracies)), key=self.accuracies.__getitem__)
        return drawn(search, self.count)[best]

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": search.space.format(genotype), "accuracy": accuracy}
            for genotype, accuracy in zip(drawn(search, self.count), self.accuracies, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = list(state["accuracies"])


class Ascent(Rule):
    """Coordinate ascent from the arg-max architecture on the accuracy of the shared weights.

    One slot after another takes the candidate with which the architecture is most accurate on the validation
    part, until no slot has a better one. Where a space keeps only the strongest edges (darts), candidates
    take each other's place in the log-probabilities.
    """

    name = "ascent"

    def __init__(self) -> None:
        self.scores: dict[str, tuple[float, float]] = {}  # loss and accuracy, by the notation
        self.found = ""

    def select(self, search: SearchView) -> Iterator[None]:
        space = search.space
        logits = search.architecture.log_probabilities()
        slot, settled = 0, 0  # so many slots in a row have no better candidate
        while settled < space.num_slots:
            line, best = [logits], int(logits[slot].argmax())
            for candidate in range(len(space.slots[slot].candidates)):
                line.append(logits.clone())
                line[-1][slot, [best, candidate]] = logits[slot, [candidate, best]]
            texts = [space.format(space.discretise(one)) for one in line]
            for text in texts:
                if text not in self.scores:
                    self.scores[text] = search.score(space.parse(text))
                    yield
            found = max(range(len(line)), key=lambda i: self.scores[texts[i]][1])
            logits, settled = line[found], settled + 1 if found == 0 else 1
            self.found = texts[found]
            slot = (slot + 1) % space.num_slots

    def selected(self, search: SearchView) -> Genotype:
        return search.space.parse(self.found)

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": text, "loss": loss, "accuracy": accuracy}
            for text, (loss, accuracy) in self.scores.items()
        ]

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores, "found": self.found}

    def restore(self, state: dict[str, Any]) -> None:
        self.scores = {text: (loss, accuracy) for text, (loss, accuracy) in state["scores"].items()}
        self.found = state["found"]


class Halving(Rule):
    """The best of `count` architectures by successive halving of trainings from scratch.

    They are the most accurate ones with shared weights of those that `ascent` looks at. All are trained on
    the training part of the search, in its size; the better half by the accuracy on the validation part is
    trained anew for twice as long, and so on until one is left. All trainings have the same batches.

    Args:
        count: trained first.
        epochs: of the first trainings.

    Source: Jamieson & Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
    optimization", arXiv 1502.07943.
    """

    name = "halving"

    def __init__(self, count: int, epochs: int = 2) -> None:
        if not 2 <= count <= MOST:
            raise ValueError(f"count is {count}, expected 2 to {MOST}")
        if not 1 <= epochs <= MOST:
            raise ValueError(f"epochs is {epochs}, expected 1 to {MOST}")
        self.count, self.epochs = count, epochs
        self.ascent = Ascent()
        self.rounds: list[dict[str, float]] = []  # accuracies of what has been trained, by the notation
        self._under_way: tuple[Training, int, int] | None = None  # with epochs and steps done
        self._restored: dict[str, Any] | None = None

    def sizes(self, count: int) -> list[int]:
        """Trainings of each round if there are `count` architectures."""
        sizes = [count]
        while sizes[-1] > 3:
            sizes.append(sizes[-1] // 2)
        return sizes

    def pieces(self, search: SearchView) -> int:
        sizes = enumerate(self.sizes(self.count))
        return sum(size * self._length(number) for number, size in sizes) * len(search.train)

    def _length(self, number: int) -> int:
        """Epochs of the trainings of a round."""
        return self.epochs << number

    def select(self, search: SearchView) -> Iterator[None]:
        yield from self.ascent.select(search)
        shared = {text: accuracy for text, (_, accuracy) in self.ascent.scores.items()}
        entrants = _best(shared, self.count)
        for number, size in enumerate(self.sizes(len(entrants))):
            if number == len(self.rounds):
                self.rounds.append({})
            accuracies = self.rounds[number]
            for text in entrants[len(accuracies) :]:
                training = self._training(search, text, self._length(number))
                yield from self._train(training)
                accuracies[text] = training.test_now()[1]
            entrants = _best(accuracies, size // 2)

    def _training(self, search: SearchView, text: str, epochs: int) -> Training:
        dataset = replace(search.dataset, train=search.train.images, test=search.valid.images)
        shared = {entry.name: getattr(search.options, entry.name) for entry in fields(RunOptions)}
        options = FinalOptions(**shared | {"epochs": epochs})
        return Training(search.space.parse(text), dataset, search.task, options, search.device)

    def _train(self, training: Training) -> Iterator[None]:
        epoch, step = 0, 0
        if self._restored is not None:
            epoch, step = self._restored["epoch"], self._restored["step"]
            training.restore(self._restored["training"])
            self._restored = None
        for number in range(epoch, training.options.epochs):
            for done, _ in enumerate(training.epoch(number, step), step + 1):
                self._under_way = training, number, done
                yield
            step = 0
        self._under_way = None

    def selected(self, search: SearchView) -> Genotype:
        return search.space.parse(_best(self.rounds[-1], 1)[0])

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        rows = []
        for number, accuracies in enumerate(self.rounds):
            for text, accuracy in accuracies.items():
                _, shared = self.ascent.scores[text]
                row = {"genotype": text, "epochs": self._length(number), "accuracy": accuracy}
                rows.append(row | {"shared": shared})
        return rows

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"ascent": self.ascent.state(), "rounds": self.rounds}
        if self._under_way is not None:
            training, epoch, step = self._under_way
            state["under_way"] = {"training": training.state(), "epoch": epoch, "step": step}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self.ascent.restore(state["ascent"])
        self.rounds = [dict(accuracies) for accuracies in state["rounds"]]
        self._restored = state.get("under_way")


def _best(scores: Mapping[str, float], count: int) -> list[str]:
    """The `count` of highest score, the first of equals first."""
    return sorted(scores, key=scores.__getitem__, reverse=True)[:count]


RULES: Registry[type[Rule]] = Registry(
    "rule of selection", {r.name: r for r in (ArgMax, Sample, Ascent, Halving)}, Rule
)


def drawn(search: SearchView, count: int) -> list[Genotype]:
    """The different ones among `count` draws by the probabilities of a search, in their order."""
    draws = generator(search.options.seed, "derivation")
    log_p = search.architecture.log_probabilities()
    return list(dict.fromkeys(sample(search.space, log_p, draws) for _ in range(count)))


def sample(space: SearchSpace, log_p: Tensor, generator: torch.Generator) -> Genotype:
    """An architecture drawn from log-probabilities (E, K).

    Gumbel noise makes the arg-max of every edge a draw from its distribution; where a space keeps
    only the strongest edges (darts), these are drawn along with it.
    """
    return space.discretise(log_p - torch.empty_like(log_p).exponential_(generator=generator).log())


def collapse_warnings(genotype: Genotype) -> list[str]:
    """Warnings about a derived cell most of whose edges are skip-connects or nothing."""
    warnings = []
    for cell in genotype.cells:
        idle = {o: sum(e.operation == o for e in cell.edges) for o in ("skip_connect", "none")}
        if 2 * sum(idle.values()) > len(cell.edges):
            warnings.append(
                f"the search has collapsed: {idle['skip_connect']} skip_connect and {idle['none']} none "
                f"on the {len(cell.edges)} edges of the cell '{cell.name}'"
            )
    return warnings
