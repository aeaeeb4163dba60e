"""What a search writes down: a line of metrics after each epoch, and its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from estimators.base import one_hot_argmax
from nas.bilevel.budget_term import BudgetTerm
from nas.bilevel.rules.front import Front, front_messages
from nas.bilevel.rules.names import collapse_warnings
from nas.bilevel.skips import limit_warnings
from nas.bilevel.terms import draw_value, logits_value
from nas.confusion import Confusion, of_classes
from recipes.registry import name_of
from search_spaces import Genotype, operations

if TYPE_CHECKING:
    from nas.bilevel.search import Search


def metrics(search: Search, epoch: int) -> dict[str, Any]:
    """The line of an epoch whose steps are done."""
    options, architecture = search.options, search.architecture
    progress = (epoch + 1) / options.epochs
    genotype = search.would_find()
    train_loss, train_accuracy = search.train_mean.read()
    valid_loss, valid_accuracy = search.valid_mean.read()
    extra: dict[str, Any] = {}
    if options.measure_every and (epoch + 1) % options.measure_every == 0:
        extra["gradient"] = search.measure(epoch)
    extra |= search.watch.measure(epoch + 1)
    score: tuple[float, float] | tuple[None, None] = (None, None)
    last = epoch + 1 == options.epochs or search.has_settled(epoch + 1)
    if last or (epoch + 1) % options.evaluate_every == 0:
        score = search.score_uncounted(genotype)
    if search.growth.stages[1:]:
        extra["stage"] = search.stage + 1
    if values := term_values(search, progress):
        extra["terms"] = values
    if taken := search.shrinking.named(search.space, (epoch + 1,) if epoch else (0, 1)):
        extra["taken_out"] = taken
    for term in search.bilevel.terms:
        if isinstance(term, BudgetTerm):
            extra["budget"] = term.describe(architecture, progress)
    if (edges := architecture.edge_weights()) is not None:
        extra["edge_weights"] = [round(weight, 6) for weight in edges.tolist()]
    widths = [len(slot.candidates) for slot in search.space.slots]
    return extra | {
        "epoch": epoch + 1,
        "step": (epoch + 1) * search.steps,
        **images(search),
        "tau": architecture.estimator.tau,
        "lr": search.weight_optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "valid_loss": valid_loss,
        "valid_accuracy": valid_accuracy,
        "skipped_steps": search.skipped(),
        "derived_loss": score[0],
        "derived_accuracy": score[1],
        "genotype": search.space.format(genotype),
        "entropy": architecture.entropy(),
        "skip_connects": operations.count(genotype, "skip"),
        "nones": operations.count(genotype, "none"),
        "probabilities": [
            [round(p, 6) for p in row[:width]]
            for row, width in zip(architecture.log_probabilities().exp().tolist(), widths, strict=True)
        ],
    }


def images(search: Search) -> dict[str, int]:
    """Images of all passes so far, with and without a backward; see `nas.steps.Work`."""
    work = search.bilevel.work
    return {"images_trained": work.trained, "images_evaluated": work.evaluated}


def term_values(search: Search, progress: float) -> dict[str, float]:
    """The value of every term that has one by its name: at the logits, and at the most probable draw."""
    logits = search.architecture.masked().detach()
    draw = one_hot_argmax(logits)
    values: dict[str, float] = {}
    for number, term in enumerate(search.bilevel.terms, 1):
        parts = (logits_value(term, logits, progress), draw_value(term, draw, progress), term.report())
        if known := [float(part) for part in parts if part is not None]:
            name = name_of(term)
            name = f"{name}_{number}" if name in values else name
            values[name] = sum(known)
    return values


def result(search: Search, genotype: Genotype) -> tuple[dict[str, Any], list[str]]:
    """What result.json says of a search that found `genotype`, and the lines that are printed."""
    options, text = search.options, search.space.format(genotype)
    collapsed = collapse_warnings(genotype)
    if search.budget.counts:
        probable = search.space.discretise(search.architecture.scores())
        collapsed += limit_warnings(search.space, probable, genotype)
    classes = search.dataset.classes
    confusion = Confusion(len(classes)) if search.task.outputs == len(classes) else None
    found = {
        "kind": "search",
        "space": search.space.name,
        "estimator": options.estimator,
        "dataset": options.dataset,
        "seed": options.seed,
        "genotype": text,
        "derived_accuracy": search.score_uncounted(genotype, confusion)[1],
        **images(search),
        **search.watch.result(),
        "parameters": sum(p.numel() for p in search.supernet.parameters()),
        "data": str(search.dataset),
        **of_classes(confusion, search.dataset, search.labels, "valid"),
        "warnings": [*search.concerns, *collapsed],
        "collapsed": bool(collapsed),
    }
    if search.budget.costs:
        found["budget"] = {
            "limits": dict(search.budget.limits),
            "costs": search.budget.cost(genotype),
            "size": asdict(search.budget.size),
        }
    if taken := search.shrinking.named(search.space):
        found |= {"shrink": options.shrink, "taken_out": taken}
    messages = [f"found {text}", *search.watch.messages(), *(f"warning: {w}" for w in collapsed)]
    if isinstance(search.rule, Front):
        front = search.rule.describe(search, lambda one: search.score_uncounted(one)[1])
        found["front"] = front
        messages += front_messages(front)
    if considered := search.rule.considered(search):
        rows = [
            {key: value if key == "genotype" else float(value) for key, value in row.items()}
            for row in considered
        ]
        found |= {"rule": options.derive, "considered": rows}
    return found, messages
