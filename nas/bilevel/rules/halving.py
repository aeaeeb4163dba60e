"""Selection by short trainings of derived networks."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from nas import device, distributed
from nas.bilevel.rules.rule import MOST, Rule, derived_network, pool
from nas.bilevel.view import SearchView
from nas.data import DataSet
from nas.seeding import kept_generators, seed_everything
from nas.training.final import Training
from nas.zero_cost import SCORES, ZeroCost
from recipes import FinalOptions, RunOptions
from search_spaces import Genotype

SHARED = "shared"


class Halving(Rule):
    """The best of `count` architectures by successive halving of trainings from scratch.

    They are chosen among the arg-max, its neighbours and `draws` draws, and trained on the training part of
    the search, in its size; the better half by the accuracy on the validation part is trained anew for twice
    as long, and so on until one is left. All trainings start from the same seed and have the same batches.

    Args:
        count: trained first; 1: nothing is trained, and what chooses among them decides.
        draws: architectures drawn by the probabilities that the search has learned.
        by: what chooses among them: `shared`, the lowest loss of the shared weights on the validation part,
            or a zero-cost score of `nas.zero_cost`, with one setting if wanted: naswot:images=64.
        epochs: of the first trainings.

    Source: Jamieson & Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
    optimization", arXiv 1502.07943.
    """

    name = "halving"

    def __init__(self, count: int, draws: int = 100, by: str = "shared", epochs: int = 2) -> None:
        for name, value, least in (("count", count, 1), ("draws", draws, 0), ("epochs", epochs, 1)):
            if not least <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected {least} to {MOST}")
        name = by.partition(":")[0]
        if name not in (SHARED, *SCORES.names()) or (name == SHARED and by != name):
            raise ValueError(f"by is '{by[:60]}', expected {SHARED} or {' or '.join(SCORES.names())}")
        self.count, self.draws, self.by, self.epochs = count, draws, name, epochs
        self.score: ZeroCost | None = None if name == SHARED else SCORES.build(by)
        self.scores: dict[str, float] = {}  # the higher the better, by the notation
        self.rounds: list[dict[str, float]] = []  # accuracies of what has been trained
        self._under_way: tuple[Training, int, int] | None = None  # with epochs and steps done
        self._restored: dict[str, Any] | None = None
        self._dataset: DataSet | None = None  # of all trainings, which need its statistics once

    def prepare(self, search: SearchView) -> None:
        if self.score is not None:
            with kept_generators():
                network = derived_network(search, search.space.random(random.Random(0))).to(search.device)
                self.score(network, *search.valid.first(self.score.images), search.task)

    def pieces(self, search: SearchView) -> int:
        entrants = len(pool(search, self.draws))
        sizes = enumerate(self._sizes(min(self.count, entrants)))
        return entrants + sum(size * self._length(number) for number, size in sizes) * len(search.train)

    def _sizes(self, count: int) -> list[int]:
        """Trainings of each round if there are `count` architectures; none of a single one."""
        if count == 1:
            return []
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
        batch = search.valid.first(1 if self.score is None else self.score.images)
        for genotype in pool(search, self.draws)[len(self.scores) :]:
            if self.score is None:
                value = -search.score(genotype)[0]
            else:
                seed_everything(search.options.seed, "zero-cost")
                network = device.place(
                    derived_network(search, genotype), search.device, search.options.channels_last
                )
                value = distributed.broadcast(self.score(network, *batch, search.task))
                search.bilevel.work.trained += min(self.score.images, len(batch[1]))
            self.scores[search.space.format(genotype)] = value if math.isfinite(value) else -math.inf
            yield

    def _training(self, search: SearchView, text: str, epochs: int) -> Training:
        if self._dataset is None:
            self._dataset = replace(
                search.dataset, train=search.train.images, test=search.valid.images, valid=None, notes=()
            )
        shared = {entry.name: getattr(search.options, entry.name) for entry in fields(RunOptions)}
        optimizer = "sgd" if search.options.nesterov else "momentum"  # timm's names
        options = FinalOptions(**shared | {"epochs": epochs, "optimizer": optimizer, "latency_table": None})
        return Training(search.space.parse(text), self._dataset, search.task, options, search.device)

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
        return search.space.parse(_best(self.rounds[-1] if self.rounds else self.scores, 1)[0])

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        name, sign = ("shared_loss", -1) if self.by == SHARED else (self.by, 1)
        if not self.rounds:
            best = (text for text in _best(self.scores, len(self.scores)) if math.isfinite(self.scores[text]))
            return [{"genotype": text, name: sign * self.scores[text]} for text in best]
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


def _best(scores: Mapping[str, float], count: int) -> list[str]:
    """The `count` of highest score, the first of equals first."""
    return sorted(scores, key=scores.__getitem__, reverse=True)[:count]
