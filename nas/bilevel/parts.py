"""What the options of a search name, as objects: one place where names become things, and are checked
together."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

import estimators
import search_spaces
from estimators import CategoricalEstimator, Estimator, Schedule
from nas.bilevel.architecture import chosen_by
from nas.bilevel.growth import Growth
from nas.bilevel.policies import POLICIES, Policy
from nas.bilevel.rules.argmax import ArgMax
from nas.bilevel.rules.names import RULES
from nas.bilevel.rules.rule import Rule
from nas.bilevel.shrinkings.names import SHRINKINGS
from nas.bilevel.shrinkings.shrinking import NoShrinking, Shrinking
from nas.bilevel.skips import SkipSchedules
from nas.bilevel.terms import TERMS, Term
from nas.data import DataSet
from nas.genotypes import cells_of
from nas.given import build_task, load_data
from nas.task import Task
from recipes import InputError, SearchOptions
from recipes.registry import Registry, name_of
from search_spaces import SearchSpace

PARTS: dict[str, Registry[Any]] = {
    "terms": TERMS, "policy": POLICIES, "derive": RULES, "shrink": SHRINKINGS,
}  # fmt: skip
"""What the options of these names name."""

_NO_ESTIMATE = (Estimator.advantages, Estimator.gradient)


@dataclass(frozen=True)
class NamedParts:
    """What a search is made of, besides data and task.

    Attributes:
        schedule: temperature of the estimator over the search.
        terms: of the architecture step.
        policy: of the weight step.
        rule: of selection, after the last epoch.
        shrinking: what is taken out between epochs.
    """

    space: SearchSpace
    estimator: Estimator
    schedule: Schedule
    terms: tuple[Term, ...]
    policy: Policy
    rule: Rule
    shrinking: Shrinking


@dataclass(frozen=True)
class SearchParts(NamedParts):
    """What a search is made of."""

    dataset: DataSet
    task: Task


def build(options: SearchOptions, given: dict[str, Any]) -> tuple[SearchParts, SearchOptions]:
    """The parts that the options name, `given` in place of names, and the options with the names of these.

    Args:
        given: objects by the name of their option: space, estimator, dataset, terms, policy, derive, shrink;
            and task.

    Raises:
        InputError: no such name, or things that do not go together.
    """
    named = without_data(options, given)
    dataset = load_data(options, given)
    parts = SearchParts(**vars(named), dataset=dataset, task=build_task(options, dataset, given))
    names: dict[str, Any] = {"space": parts.space.name, "estimator": parts.estimator.name}
    names |= {"policy": name_of(parts.policy), "derive": name_of(parts.rule)}
    names |= {"shrink": name_of(parts.shrinking)}
    names = {option: name for option, name in names.items() if option in given}
    if "terms" in given:
        names["terms"] = tuple(t if isinstance(t, str) else name_of(t) for t in given["terms"])
    if "dataset" in given:
        names["dataset"] = dataset.name
    return parts, replace(options, **names)


def without_data(options: SearchOptions, given: dict[str, Any]) -> NamedParts:
    """All parts but those that need the data; see `build`. Raises InputError.

    Objects are copied: what one remembers of a search is not for the next.
    """
    given = given | {
        name: copy.deepcopy(given[name])
        for name in ("estimator", "terms", "policy", "derive", "shrink")
        if name in given
    }
    space = _space(given["space"]) if "space" in given else search_spaces.get(options.space)
    estimator = given["estimator"] if "estimator" in given else estimators.get(options.estimator)
    schedule = temperature(options, estimator)
    estimator.tau = schedule.start
    _require_draws(estimator, space)
    for stage in Growth.of(options, space).stages:
        check(stage, estimator)
        check_edges(stage, space)
    terms = tuple(_named("terms", term) for term in given.get("terms", options.terms))
    policy, rule, shrinking = (
        _named(name, given.get(name, getattr(options, name))) for name in ("policy", "derive", "shrink")
    )
    parts = NamedParts(space, estimator, schedule, terms, policy, rule, shrinking)
    _require_no_need_of_steps(options, parts)
    cells_of(space, options.cells)
    SkipSchedules.of(options, space)
    return parts


def _require_no_need_of_steps(options: SearchOptions, parts: NamedParts) -> None:
    """Raise InputError where a search without architecture steps has something that needs them."""
    shrink, warm = f"`shrink={name_of(parts.shrinking)}`", options.warmup == options.epochs
    learns = parts.shrinking.learns
    if learns and not warm:
        return
    cause = f"`warmup_epochs={options.warmup}` of as many epochs" if warm else shrink
    for what, needed in (
        *((f"the term '{name_of(t)}'", type(t).of_weights is Term.of_weights) for t in parts.terms),
        ("`edge_normalisation`", options.edge_normalisation),
        ("`stop_entropy`", options.stop_entropy > 0 and warm),
        ("`stop_skips`", options.stop_skips > 0 and warm),
        (shrink, learns and not isinstance(parts.shrinking, NoShrinking)),
        (f"`derive={name_of(parts.rule)}`", learns and isinstance(parts.rule, ArgMax)),
    ):
        if needed:
            raise InputError(
                f"{what} goes by architecture steps, and {cause} leaves none: drop one of the two, or choose "
                "another"
            )


def _require_draws(estimator: Estimator, space: SearchSpace) -> None:
    """Raise InputError where draws do not have the shape of the logits or no gradient, or are not one-hot but
    said to be, or where nothing makes an estimate of losses."""
    if type(estimator).__module__.startswith("estimators."):
        return  # its draws are tested
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(100, space.num_slots, space.width, generator=rng)  # rounding shows at some of them
    draw = estimator(logits.requires_grad_(), rng)
    if draw.shape != logits.shape:
        raise InputError(
            f"the estimator '{name_of(estimator)}' makes a draw of shape {tuple(draw.shape)} of logits "
            f"{tuple(logits.shape)}, expected an equal one"
        )
    kind = type(estimator)
    if estimator.signal == "gradient" and not draw.requires_grad:
        raise InputError(
            f"the estimator '{name_of(estimator)}' makes a draw without a gradient: give it one with "
            "`draw_with_gradient`"
        )
    if estimator.signal == "loss" and (kind.advantages, kind.gradient) == _NO_ESTIMATE:
        raise InputError(
            f"the estimator '{name_of(estimator)}' has the signal 'loss' and no `advantages` or `gradient`: "
            "add one of them"
        )
    chosen_by(estimator, draw.detach())


def _named(option: str, thing: Any) -> Any:
    """What a text means as a value of `option`; an object is itself. Raises InputError."""
    if not isinstance(thing, str):
        return thing
    try:
        return PARTS[option].build(thing)
    except InputError as error:
        raise InputError(f"`{option}`: {error}") from None


def _space(space: SearchSpace) -> SearchSpace:
    """A space given as an object, registered for this process: its genotypes name it."""
    if space.name not in search_spaces.names():
        try:
            return search_spaces.register(space)
        except ValueError as error:
            raise InputError(f"`space`: {error}") from None
    known = search_spaces.get(space.name)
    if known is not space and (type(known), known.slots) != (type(space), space.slots):
        raise InputError(f"`space` is named '{space.name}', as another space is: give it another name")
    return space


def temperature(options: SearchOptions, estimator: Estimator) -> Schedule:
    """The temperature of the estimator over the search. Raises InputError."""
    schedule = estimator.default_schedule
    if options.tau is not None:
        try:
            schedule = Schedule.parse(str(options.tau))
        except ValueError:
            raise InputError(f"`tau` is '{options.tau}', expected a number or START:END") from None
    elif estimator.keeps_tau or estimator.tau != schedule.start:  # an object with a temperature of its own
        schedule = Schedule(estimator.tau, estimator.tau)
    try:
        for tau in (schedule.start, schedule.end):
            estimator.check_tau(tau)
    except ValueError as error:
        raise InputError(f"`tau`: {error}") from None
    return schedule


def check_edges(options: SearchOptions, space: SearchSpace) -> None:
    """Raise InputError where the edges of the space cannot be what the options want of them."""
    if options.edge_normalisation and all(len(rows) == 1 for rows in space.into_nodes()):
        raise InputError(
            f"`edge_normalisation` weighs the edges into a node against each other, in the space "
            f"'{space.name}' one leads to each: drop it"
        )
    if options.partial_channels > 1:
        try:
            with torch.device("meta"):
                space.supernet(
                    channels=options.channels,
                    cells=space.fewest_cells,
                    partial_channels=options.partial_channels,
                    auxiliary_skip=options.auxiliary_skip is not None and space.skip is not None,
                )
        except ValueError as error:
            raise InputError(
                f"`partial_channels={options.partial_channels}` does not go with the space '{space.name}' of "
                f"`channels={options.channels}`: {error}"
            ) from None


def check(options: SearchOptions, estimator: Estimator) -> None:
    """Raise InputError where options and estimator do not go together."""
    name = estimator.name
    edge_gradient = f"`edge_gradient={options.edge_gradient}`"
    compiled = options.edge_gradient == "compiled"
    one_path = options.edge_gradient in ("compiled", "captured", "surrogate")
    if one_path and not estimator.discrete:
        raise InputError(
            f"{edge_gradient} needs an estimator that draws, '{name}' mixes all: give another `estimator`"
        )
    if compiled and estimator.signal == "loss":
        raise InputError(
            f"{edge_gradient} needs an estimator that differentiates, not '{name}': drop one of the two"
        )
    if options.edge_gradient in ("compiled", "captured") and options.sync_batch_norm:
        raise InputError(f"{edge_gradient} does not go with `sync_batch_norm`: drop one of the two")
    for what, given in (
        (f"`partial_channels={options.partial_channels}`", options.partial_channels > 1),
        ("`edge_normalisation`", options.edge_normalisation),
    ):
        if given and options.edge_gradient == "captured":
            raise InputError(f"{edge_gradient} does not go with {what}: drop one of the two")
    if options.edge_normalisation and options.architecture_loss == "error":
        raise InputError(
            "`edge_normalisation` needs a gradient, which `architecture_loss=error` has not: drop one of both"
        )
    unfit = {
        "image": (
            ("`draws`", options.draws is not None),
            ("`order=2`", options.order == 2),
            (edge_gradient, one_path),
            (f"`estimator={name}`, which draws nothing,", not estimator.stochastic),
            (f"`estimator={name}`, which differentiates each draw,", estimator.signal == "both"),
        ),
        "rank": (
            ("`order=2`", options.order == 2),
            ("`sync_batch_norm`", options.sync_batch_norm),
            (f"`estimator={name}`, which draws nothing,", not estimator.stochastic),
        ),
    }
    for what, wrong in unfit.get(options.draw_per, ()):
        if wrong:
            raise InputError(f"{what} does not go with `draw_per={options.draw_per}`: drop one of the two")
    values = estimator.signal == "loss"  # without a gradient
    if options.architecture_loss == "error" and not values:
        raise InputError(
            f"`architecture_loss=error` needs an estimator that makes do with values, such as "
            f"reinforce_loo or reinforce_critic, not '{name}': drop one of the two"
        )
    if options.architecture_loss == "error" and options.measure_every:
        raise InputError(
            "`measure_every` measures the gradient of the loss, not of `architecture_loss=error`: drop one"
        )
    if options.coupling == "systematic":
        if not isinstance(estimator, CategoricalEstimator):
            raise InputError(
                f"`coupling=systematic` needs an estimator that averages over single draws of the "
                f"probabilities, such as reinmax, not '{name}': drop one of the two"
            )
        if (options.draws or estimator.default_draws) < 2 and options.draw_per != "image":
            raise InputError("`coupling=systematic` needs `draws` of at least 2")
    if options.order == 2 and values:
        raise InputError(
            f"`order=2` needs an estimator that differentiates, not '{name}': drop one of the two"
        )
    if options.draws is not None and options.draws < estimator.fewest_draws:
        raise InputError(f"`draws` is {options.draws}, '{name}' needs at least {estimator.fewest_draws}")
    if (options.draws or 1) > 1 and not estimator.stochastic:
        raise InputError(
            f"`draws={options.draws}` averages over draws, and '{name}' draws nothing: drop one of the two"
        )
