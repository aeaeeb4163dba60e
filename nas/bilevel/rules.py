"""From a search to the architecture that it ends with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nas import device
from nas.bilevel.view import SearchView
from nas.genotypes import cells_of
from nas.seeding import generator, seed_everything
from nas.training.final import Training
from nas.zero_cost import SCORES
from recipes import FinalOptions, RunOptions
from recipes.registry import Registry
from search_spaces import Genotype, SearchSpace
from search_spaces.skeleton import Skeleton
from search_spaces.space import EnumerableSpace

MOST = 100_000  # architectures that a rule looks at
SHARED = "shared"


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
            line = [logits, *_variants(space, logits, slot)]
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

    They are chosen among the arg-max, its neighbours and `draws` draws, and trained on the training part of
    the search, in its size; the better half by the accuracy on the validation part is trained anew for twice
    as long, and so on until one is left. All trainings start from the same seed and have the same batches.

    Args:
        count: trained first.
        draws: architectures drawn by the probabilities that the search has learned.
        by: what chooses among them: `shared`, the lowest loss of the shared weights on the validation part,
            or a zero-cost score of `nas.zero_cost`.
        epochs: of the first trainings.

    Source: Jamieson & Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
    optimization", arXiv 1502.07943.
    """

    name = "halving"

    def __init__(self, count: int, draws: int = 100, by: str = "shared", epochs: int = 2) -> None:
        for name, value, least in (("count", count, 2), ("draws", draws, 0), ("epochs", epochs, 1)):
            if not least <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected {least} to {MOST}")
        if by != SHARED and by not in SCORES.names():
            raise ValueError(f"by is '{by[:60]}', expected {SHARED} or {' or '.join(SCORES.names())}")
        self.count, self.draws, self.by, self.epochs = count, draws, by, epochs
        self.scores: dict[str, float] = {}  # the higher the better, by the notation
        self.rounds: list[dict[str, float]] = []  # accuracies of what has been trained
        self._under_way: tuple[Training, int, int] | None = None  # with epochs and steps done
        self._restored: dict[str, Any] | None = None

    def pieces(self, search: SearchView) -> int:
        entrants = len(pool(search, self.draws))
        sizes = enumerate(self._sizes(min(self.count, entrants)))
        return entrants + sum(size * self._length(number) for number, size in sizes) * len(search.train)

    def _sizes(self, count: int) -> list[int]:
        """Trainings of each round if there are `count` architectures."""
        sizes = [count]
        while sizes[-1] > 3:
            sizes.append(sizes[-1] // 2)
        return sizes

    def _length(self, number: int) -> int:
        """Epochs of the trainings of a round."""
        return self.epochs << number

    def select(self, search: SearchView) -> Iterator[None]:
        yield from self._score(search)
        entrants = _best(self.scores, self.count)
        if any(math.isfinite(self.scores[text]) for text in entrants):  # -inf: nothing to be said for it
            entrants = [text for text in entrants if math.isfinite(self.scores[text])]
        for number, size in enumerate(self._sizes(len(entrants))):
            if number == len(self.rounds):
                self.rounds.append({})
            accuracies = self.rounds[number]
            for text in entrants[len(accuracies) :]:
                training = self._training(search, text, self._length(number))
                yield from self._train(training)
                accuracies[text] = training.test_now()[1]
                work, options = search.bilevel.work, training.options
                work.trained += options.epochs * training.steps * options.batch_size
                work.evaluated += len(search.valid.images)
            entrants = _best(accuracies, size // 2)

    def _score(self, search: SearchView) -> Iterator[None]:
        """Score what has no score yet, each in a piece of work."""
        score = None if self.by == SHARED else SCORES.build(self.by)
        batch = next(iter(search.valid))
        for genotype in pool(search, self.draws)[len(self.scores) :]:
            if score is None:
                value = -search.score(genotype)[0]
            else:
                seed_everything(search.options.seed, "zero-cost")
                network = device.place(
                    _network(search, genotype), search.device, search.options.channels_last
                )
                value = score(network, *batch, search.task)
                search.bilevel.work.trained += min(score.images, len(batch[1]))
            self.scores[search.space.format(genotype)] = value if math.isfinite(value) else -math.inf
            yield

    def _training(self, search: SearchView, text: str, epochs: int) -> Training:
        dataset = replace(search.dataset, train=search.train.images, test=search.valid.images)
        shared = {entry.name: getattr(search.options, entry.name) for entry in fields(RunOptions)}
        optimizer = "sgd" if search.options.nesterov else "momentum"  # timm's names
        options = FinalOptions(**shared | {"epochs": epochs, "optimizer": optimizer})
        return Training(search.space.parse(text), dataset, search.task, options, search.device)

    def _train(self, training: Training) -> Iterator[None]:
        """Train, from where a training was interrupted on, each step a piece of work."""
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
        name, sign = ("shared_loss", -1) if self.by == SHARED else (self.by, 1)
        return [
            {"genotype": text, "epochs": self._length(number), "accuracy": accuracy}
            | ({name: sign * self.scores[text]} if math.isfinite(self.scores[text]) else {})
            for number, accuracies in enumerate(self.rounds)
            for text, accuracy in accuracies.items()
        ]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"scores": self.scores, "rounds": self.rounds}
        if self._under_way is not None:
            training, epoch, step = self._under_way
            state["under_way"] = {"training": training.state(), "epoch": epoch, "step": step}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self.scores = dict(state["scores"])
        self.rounds = [dict(accuracies) for accuracies in state["rounds"]]
        self._restored = state.get("under_way")


def _network(search: SearchView, genotype: Genotype) -> Skeleton:
    """A derived network in the size of the search."""
    return search.space.network(
        genotype,
        channels=search.options.channels,
        cells=cells_of(search.space, search.options.cells),
        num_classes=search.task.outputs,
        in_channels=search.dataset.in_channels,
    )


def _best(scores: Mapping[str, float], count: int) -> list[str]:
    """The `count` of highest score, the first of equals first."""
    return sorted(scores, key=scores.__getitem__, reverse=True)[:count]


RULES: Registry[type[Rule]] = Registry(
    "rule of selection", {r.name: r for r in (ArgMax, Sample, Ascent, Halving)}, Rule
)


def _variants(space: SearchSpace, logits: Tensor, slot: int) -> Iterator[Tensor]:
    """The logits (E, K) with each candidate of a slot in the place of the best and the other way round."""
    best = int(logits[slot].argmax())
    for candidate in range(len(space.slots[slot].candidates)):
        changed = logits.clone()
        changed[slot, [best, candidate]] = logits[slot, [candidate, best]]
        yield changed


def pool(search: SearchView, draws: int) -> list[Genotype]:
    """The arg-max of a search, what differs from it in one slot, and draws; of those that compute the same
    only the first."""
    space, log_p = search.space, search.architecture.log_probabilities()
    around = (v for slot in range(space.num_slots) for v in _variants(space, log_p, slot))
    cells = [space.discretise(scores) for scores in (log_p, *around)] + drawn(search, draws)
    if not isinstance(space, EnumerableSpace):
        return list(dict.fromkeys(cells))
    different: dict[str, Genotype] = {}
    for cell in cells:
        different.setdefault(space.canonical(cell), cell)
    return list(different.values())


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
