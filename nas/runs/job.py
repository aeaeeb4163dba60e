"""What the loop of a run asks of a search and of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes import RunOptions
from search_spaces import Genotype, SearchSpace


class Outcome(NamedTuple):
    """What a run ends with: its genotype, the content of result.json, and lines to print."""

    genotype: Genotype
    result: dict[str, Any]
    messages: list[str]


class Job(ABC):
    """What a run does, step by step.

    Attributes:
        options: of the run, with names in place of what was given as objects.
        device: where it computes.
        space: of its genotype.
        steps: weight steps an epoch.
        documents: JSON files to write into the folder at the start, by name.
        announcement: lines to say before the first step: what was understood of the data, and warnings.
    """

    options: RunOptions
    device: torch.device
    space: SearchSpace
    steps: int
    documents: dict[str, Any]
    announcement: list[str]

    @abstractmethod
    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """Do the steps of epoch number `epoch` (from 0), from step `start` on, and yield after each."""

    @abstractmethod
    def skipped(self) -> int:
        """Steps of this epoch that were skipped because a loss or a gradient was not finite. May wait for
        the device."""

    @abstractmethod
    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""

    @abstractmethod
    def summary(self, metrics: dict[str, Any]) -> str:
        """A few words about a metrics line, for the progress bar."""

    def kept(self, epoch: int) -> dict[str, Tensor] | None:
        """Tensors that are to be kept of the state after so many epochs; None: none of it."""
        return None

    def has_settled(self, epoch: int) -> bool:
        """Whether the run needs no more epochs after so many, all of which its state tells."""
        return False

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that determines the rest of the run, besides its options, the epoch and the step."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""

    def pieces(self) -> int:
        """Pieces of work that `finish` consists of, for the progress bar."""
        return 0

    def finish(self) -> Iterator[None]:
        """What is left to do after the last epoch, piece by piece: yields after each. What was done before a
        `restore` is not done again."""
        yield from ()

    @abstractmethod
    def conclude(self) -> Outcome:
        """The result, after the last epoch and `finish`."""

    @abstractmethod
    def save(self, folder: Path, outcome: Outcome) -> None:
        """Write what only this kind of run has, and add a line to print if there is something to say."""
