"""A small grid for every estimator: trials that are made once, kept, and chosen among on validation."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch

import estimators
from estimators import Estimator
from nas.report.page import Picture
from nas.runs.files import read_json, write_json
from recipes import InputError
from studies.pool import workers

RAO_SAMPLES = 10  # draws of the Rao-Blackwellised estimators; with their default of 100 they take the time
Result = dict[str, Any]


class Setting(NamedTuple):
    """An estimator, its temperature (constant over a run) and the learning rate of Adam."""

    estimator: str
    tau: float
    lr: float

    def build(self) -> Estimator:
        """The estimator, with at most `RAO_SAMPLES` inner samples."""
        estimator = estimators.get(self.estimator, self.tau)
        estimator.inner_samples = min(estimator.inner_samples, RAO_SAMPLES)
        return estimator


@dataclass(frozen=True)
class Task(ABC):
    """A problem to train on. Its fields are all that a result depends on beside setting and seed.

    Attributes:
        family: name on the command line.
        taus, lrs: the grid; every estimator is given the temperatures in its range.
        controls: what is trained beside the estimators, by names of the task's own.
        one_problem: whether all draws of a run are of one problem, whose past an estimator can learn from.
        heading, validated, figures, digits: for tables: what the results are, what the validation figure
            is, the keys of the results that are shown, and their decimals.
    """

    family: ClassVar[str]
    taus: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5)
    lrs: ClassVar[tuple[float, ...]]
    controls: ClassVar[tuple[str, ...]] = ()
    one_problem: ClassVar[bool] = False
    heading: ClassVar[str]
    validated: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    digits: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the problem: part of file names, key of the results."""

    @property
    def title(self) -> str:
        """What tells the task from others of its family, in a table."""
        return ""

    @property
    @abstractmethod
    def budget(self) -> str:
        """What a run sees, in words."""

    @classmethod
    def note(cls, tasks: Sequence[Self]) -> str:
        """What there is to say about the table of some tasks of this family."""
        return ""

    @classmethod
    @abstractmethod
    def pictures(cls, parts: Sequence[Comparison[Self]]) -> list[Picture]:
        """Figures of the results on tasks of this family."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a stored result must have been computed with to be used again: the fields."""
        return asdict(self)

    @abstractmethod
    def train(self, setting: Setting, seed: int) -> Result:
        """Train once; the result is JSON. Its entry "validation" is what settings are chosen by, lower
        is better; a run that fails has a value that is not finite."""

    def selection_seed(self, seed: int) -> int:
        """The seed of the runs to choose from: the first of those reported, since figures are on test."""
        return seed

    def takes(self, estimator: str) -> bool:
        """Whether an estimator fits the task."""
        return self.one_problem or not estimators.family(estimator).learns

    def grid(self, estimator: str) -> list[Setting]:
        """The settings tried for an estimator, or a control."""
        if estimator in self.controls:
            return [Setting(estimator, 1.0, lr) for lr in self.lrs]
        low, high = estimators.family(estimator).tau_range
        taus = [tau for tau in self.taus if low <= tau <= high]
        return [Setting(estimator, tau, lr) for tau in taus for lr in self.lrs]


SomeTask = TypeVar("SomeTask", bound=Task)


class Trial(NamedTuple):
    """One training run."""

    task: Task
    setting: Setting
    seed: int

    def path(self, folder: Path) -> Path:
        """Where its result is kept."""
        name, tau, lr = self.setting
        return folder / self.task.name / f"{name}-tau{tau:g}-lr{lr:g}-seed{self.seed}.json"

    def identity(self) -> dict[str, Any]:
        """All that its result depends on, as JSON gives it back."""
        identity = {"task": self.task.name, **self.task.identity, **self.setting._asdict(), "seed": self.seed}
        return dict(json.loads(json.dumps(identity | {"rao_samples": RAO_SAMPLES})))


class Comparison(NamedTuple, Generic[SomeTask]):
    """All runs on one task.

    Attributes:
        tried: results of the grid of every estimator.
        chosen: the setting of every estimator.
        runs: results of that setting, by seed.
    """

    task: SomeTask
    tried: Mapping[str, Mapping[Setting, Result]]
    chosen: Mapping[str, Setting]
    runs: Mapping[str, Mapping[int, Result]]


def choose(results: Mapping[Setting, Result]) -> Setting:
    """The setting with the lowest finite "validation"; the first of them where no run was finite."""

    def key(setting: Setting) -> float:
        value = float(results[setting]["validation"])
        return value if math.isfinite(value) else math.inf

    return min(results, key=key)


def stored(trial: Trial, folder: Path) -> Result | None:
    """The result of a trial in `folder`, if it was computed with the same settings. Raises InputError where
    the file is damaged."""
    path = trial.path(folder)
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        if content["identity"] != trial.identity():
            return None
        float(content["result"]["validation"])
        return dict(content["result"])
    except (ValueError, TypeError, LookupError):
        raise InputError(f"{path} is damaged: delete it, and the same command trains it again") from None


def compute(trial: Trial, folder: Path, threads: int) -> Result:
    """Train a trial with `threads` CPU threads and keep its result in `folder`."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    result = trial.task.train(trial.setting, trial.seed)
    result["seconds"] = round(time.perf_counter() - start, 2)
    path = trial.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"identity": trial.identity(), "result": result})
    return result


def complete(
    trials: Sequence[Trial], folder: Path, jobs: int, threads: int, plugins: Sequence[str] = ()
) -> Iterator[tuple[Trial, Result]]:
    """Every trial with its result; stored ones first. When interrupted, runs under way are still kept.

    Args:
        jobs: processes that train at the same time.
        threads: CPU threads of each.
        plugins: see `workers`.
    """
    missing = []
    for trial in trials:
        result = stored(trial, folder)
        if result is None:
            missing.append(trial)
        else:
            yield trial, result
    if jobs == 1 or len(missing) < 2:
        for trial in missing:
            yield trial, compute(trial, folder, threads)
        return
    with workers(min(jobs, len(missing)), plugins) as pool:
        futures = {pool.submit(compute, trial, folder, threads): trial for trial in missing}
        for future in as_completed(futures):
            yield futures[future], future.result()
