"""A search and a training as functions: what the entry points call, and what a notebook calls."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import search_spaces
from estimators import Estimator
from nas.bilevel.policies import Policy
from nas.bilevel.rules.names import RULES
from nas.bilevel.rules.rule import Rule
from nas.bilevel.search import Search
from nas.bilevel.shrinkings.shrinking import Shrinking
from nas.bilevel.terms import Term
from nas.device import alone
from nas.runs import loop
from nas.runs.loop import Announce, Callback, Ended
from nas.runs.run_folder import METRICS, NoFolder, new_folder
from nas.seeding import kept_generators
from nas.task import Task
from nas.training.final import Training
from nas.training.model import describe, save
from nas.training.weights import require_task, with_architecture
from recipes import FinalOptions, InputError, RunOptions, SearchOptions, one_of
from recipes.config_file import check_types, require_same, starting_options
from recipes.options import check
from search_spaces import Genotype, GenotypeError, SearchSpace
from search_spaces.skeleton import Skeleton

Options = TypeVar("Options", bound=RunOptions)


@dataclass
class Result:
    """A run that has ended.

    Attributes:
        genotype: the architecture.
        options: all options of the run.
        history: the metrics of every epoch.
        summary: the content of result.json.
        stopped: None, or what stopped the run early and how it goes on.
        messages: what an entry point prints.
    """

    genotype: Genotype
    options: RunOptions
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    stopped: str | None
    messages: list[str]
    ended: Ended[Any]

    def __str__(self) -> str:
        return search_spaces.get(self.genotype.space).format(self.genotype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.history)} epochs: {self}>"

    def save(self, out: str | Path) -> Path:
        """Write the run folder of a run that had none: configuration, metrics, checkpoint, report, network.

        A run that was stopped can be continued from it with `resume`. Raises InputError where `out` is
        occupied or cannot be written; then nothing is left of what was.
        """
        if not isinstance(out, str | Path) or not str(out):
            raise InputError(f"`out` is {out!r}, expected the path of a folder")
        folder = self.ended.folder
        if not isinstance(folder, NoFolder):
            raise InputError(f"this run has its folder already, {folder.path}: copy that")
        options = replace(folder.options, out=str(out))
        with new_folder(options, folder.objects) as written:
            folder.write_to(written, self.ended.job)
            if self.ended.outcome is not None:
                loop.leave(replace(self.ended, folder=written))
        return written.path


@dataclass(repr=False)
class SearchResult(Result):
    """A search that has ended."""

    @property
    def search(self) -> Search:
        """The search itself: data, optimizers and steps."""
        found: Search = self.ended.job
        return found

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.search.space

    @property
    def supernet(self) -> nn.Module:
        """The supernet with its weights; called with images and a draw."""
        return self.search.supernet

    @property
    def logits(self) -> Tensor:
        """The logits (E, K), a row for each slot of the space; columns beyond its candidates mean nothing."""
        return self.search.architecture.logits.detach()

    @property
    def edge_weights(self) -> Tensor | None:
        """What the edges weigh, (E,), together 1 for the edges into a node; None if they weigh nothing."""
        weights = self.search.architecture.edge_weights()
        return None if weights is None else weights.detach()

    def log_probabilities(self) -> Tensor:
        """(E, K), of the candidates of every slot."""
        return self.search.architecture.log_probabilities()

    def select(self, rule: str | Rule) -> Genotype:
        """The architecture that another rule of selection finds, e.g. `sample:50`. May train the supernet."""
        if not isinstance(rule, str | Rule):
            raise InputError(_wrong_object("rule", rule, Rule))
        chosen = RULES.build(rule) if isinstance(rule, str) else copy.deepcopy(rule)
        with alone(), kept_generators():
            chosen.prepare(self.search)
            for _ in chosen.select(self.search):
                pass
            return chosen.selected(self.search)

    def score(self, genotype: Genotype) -> tuple[float, float]:
        """Loss and accuracy (%) of an architecture with the shared weights, on the validation part."""
        if not isinstance(genotype, Genotype):
            raise InputError(
                f"`genotype` is {str(genotype)[:60]!r}, expected a Genotype: `space.parse` reads texts"
            )
        try:
            self.space.choice(self.space.validate(genotype))
        except GenotypeError as error:
            raise InputError(f"`genotype`: {error}") from None
        with alone(), kept_generators():
            return self.search.score(genotype)


@dataclass(repr=False)
class TrainResult(Result):
    """A training that has ended."""

    @property
    def model(self) -> Skeleton:
        """The network, in evaluation mode, with `description` as that of `nas.load`."""
        training: Training = self.ended.job
        network = training.tested.eval()
        return describe(network, training.description | {"test_accuracy": self.accuracy})

    @property
    def accuracy(self) -> float | None:
        """Test accuracy in % after the last epoch; None where the training was stopped."""
        return self.summary.get("test_accuracy")

    def save_model(self, path: str | Path) -> None:
        """Write the network alone, for `nas.load`."""
        network: Any = self.model
        try:
            save(path, network, network.description)
        except OSError as error:
            raise InputError(f"cannot write the network {path}: {error}; give another path") from None


def search(
    space: str | SearchSpace | None = None,
    data: Any = None,
    estimator: str | Estimator | None = None,
    *,
    terms: Sequence[str | Term] | None = None,
    policy: str | Policy | None = None,
    derive: str | Rule | None = None,
    shrink: str | Shrinking | None = None,
    task: Task | None = None,
    callback: Callback | None = None,
    progress: bool | None = None,
    announce: Announce | None = None,
    **options: Any,
) -> SearchResult:
    """Search an architecture.

    Args:
        space, estimator, terms, policy, derive, shrink: names as on the command line of train_search.py, or
            objects.
        data: a name (`digits`, `cifar10`, `folder:PATH`, ...), or images: see `nas.data.load`.
        task: what is learned; default: classification.
        callback: gets the metrics of every epoch (those of metrics.jsonl); where it returns what is true the
            search stops, exactly as if it had been asked to by a signal; in the last epoch there is nothing
            to stop.
        progress: whether to show a bar; None: on a terminal and in a notebook.
        announce: gets the lines that are to be read before the first step, what was understood of the data;
            None: they are printed.
        options: any other option of train_search.py by its name: `epochs=20`, `precision="bfloat16"`,
            `preset="nasbench201-gdas"`. With `out`, the run is written into that folder while it goes on, and
            `resume=True` continues it.

    Raises:
        InputError: bad input, in one line.
    """
    if isinstance(terms, str | Term):
        terms = (terms,)
    if isinstance(options.get("budget"), str):
        options["budget"] = (options["budget"],)
    named: dict[str, Any] = {"space": space, "estimator": estimator, "policy": policy, "derive": derive}
    named |= {
        "shrink": shrink,
        "dataset": data,
        "terms": None if terms is None else tuple(terms),
        "task": task,
    }
    chosen, given = _options(SearchOptions, named, options, callback)
    ended = loop.run(
        chosen,
        partial(Search.of, chosen, given),
        objects=given,
        callback=callback,
        progress=progress,
        announce=announce,
    )
    return _result(SearchResult, ended, ended.job.would_find())


def train(
    genotype: str | Path | Genotype | Result | None = None,
    data: Any = None,
    *,
    task: Task | None = None,
    callback: Callback | None = None,
    progress: bool | None = None,
    announce: Announce | None = None,
    **options: Any,
) -> TrainResult:
    """Train an architecture, from scratch or from saved `weights`, and test it.

    Args:
        genotype: a Genotype, the result of a search, or a text as for `--genotype` of train_final.py: a
            notation, the name of a published cell, a file; None: that of `weights`.
        data, task, callback, progress, announce: see `search`.
        options: any other option of train_final.py by its name.

    Raises:
        InputError: bad input, in one line.
    """
    if isinstance(genotype, Result):
        genotype = genotype.genotype
    if isinstance(genotype, Genotype):
        space = search_spaces.get(genotype.space)
        genotype, options = space.format(genotype), {"space": space.name} | options
    if genotype is not None:
        options = {"genotype": genotype} | options
    chosen, given = _options(FinalOptions, {"dataset": data, "task": task}, options, callback)
    require_task(chosen, "task" in given)
    chosen = with_architecture(chosen)
    ended = loop.run(
        chosen,
        partial(Training.of, chosen, given),
        objects=given,
        callback=callback,
        progress=progress,
        announce=announce,
    )
    return _result(TrainResult, ended, ended.job.genotype)


AResult = TypeVar("AResult", bound=Result)


def _result(kind: Callable[..., AResult], ended: Ended[Any], genotype: Genotype) -> AResult:
    """The result of a run; `genotype` is that of a run that was stopped."""
    outcome = ended.outcome
    return kind(
        genotype if outcome is None else outcome.genotype,
        ended.folder.options,
        ended.folder.lines(METRICS),
        {} if outcome is None else outcome.result,
        ended.stopped,
        [] if outcome is None else outcome.messages,
        ended,
    )


OBJECTS: dict[str, type] = {
    "space": SearchSpace,
    "estimator": Estimator,
    "terms": Term,
    "policy": Policy,
    "derive": Rule,
    "shrink": Shrinking,
    "task": Task,
}
"""What may be given as an object besides data, by the name of its option."""


def _options(
    kind: type[Options], named: Mapping[str, Any], options: Mapping[str, Any], callback: Any
) -> tuple[Options, dict[str, Any]]:
    """The checked options, and what was given as an object, by the name of its option.

    Args:
        named: values that are names or objects; None: not given.
        options: values of other options.
    """
    if callback is not None and not callable(callback):
        raise InputError(f"`callback` is {callback!r}, expected a function of the metrics of an epoch")
    fields = {f.name for f in dataclasses.fields(kind)}
    for name in options:
        one_of("option", name, sorted(fields))
    values = {name: _plain(value) for name, value in options.items()}
    for name in ("tau", "auxiliary_skip", "skip_dropout", "channels_in"):  # whose text may be a number
        if isinstance(values.get(name), int | float):
            values[name] = str(values[name])
    given: dict[str, Any] = {}
    for name, value in named.items():
        if value is not None:
            (values if _is_name(name, value) else given)[name] = value
    check_types(kind, values)
    if values.get("out") == "":
        raise InputError("`out` is empty, expected the path of a folder")
    defaults, stored = starting_options(kind, values, objects=given)
    chosen = check(kind(**(defaults | values)))
    if stored is not None:
        names = {name: stored[name] for name in given if name in stored}
        require_same(replace(chosen, **names), stored)
    return chosen, given


def _is_name(option: str, value: Any) -> bool:
    """Whether a value is the name of something, not the thing. Raises InputError for a wrong thing."""
    kind = OBJECTS.get(option)
    if kind is None:  # data: any object may be images
        return isinstance(value, str)
    things = value if option == "terms" else (value,)
    for thing in things:
        if not isinstance(thing, kind) and (not isinstance(thing, str) or option == "task"):
            raise InputError(_wrong_object(option, thing, kind))
    return all(isinstance(thing, str) for thing in things)


def _wrong_object(option: str, thing: Any, kind: type) -> str:
    if isinstance(thing, type):
        return f"`{option}` is the class {thing.__name__}, expected an object of it: {thing.__name__}(...)"
    names = "" if option == "task" else "a name or "
    return f"`{option}` is {str(thing)[:60]!r}, expected {names}an object of a subclass of {kind.__name__}"


def _plain(value: Any) -> Any:
    """A number of NumPy, a device, a path or a list as what the options are made of."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, torch.device):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
