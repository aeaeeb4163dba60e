"""Every estimator against the exact gradient: `python ablate.py gradient`.

On random problems whose outcomes can be enumerated, the estimate of an estimator is drawn many times
and compared with the exact gradient of E f(D); `estimators.compare` says how. An estimator that learns has
seen PAST draws of every problem before.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor
from tqdm import tqdm

import estimators
from ablation import cost, cost_plots, gradient_plots
from ablation.cost import Way
from ablation.objectives import Problems, draw_problems
from estimators import CategoricalEstimator, Estimator
from estimators.compare import Errors, Measured
from nas.report import page
from nas.seeding import generator
from recipes import InputError
from recipes.ablation import GradientOptions

USUAL = "temperature 1 (if an estimator does not take it, where its schedule begins)"
TAUS = (0.25, 0.5, 1.0, 1.3, 2.0, 4.0)
SUITES: dict[int, tuple[str, ...]] = {  # number of choices: objectives
    1: ("linear", "quadratic", "cubic", "tanh"),
    3: ("power1.5", "power2", "power3", "network"),
}
CANDIDATES = 5
SWEEP, SWEPT = (2, 4, 8, 16, 32, 64), ("quadratic", "tanh")
FEWEST_DRAWS = 20
PAST = 256  # as many draws as a search makes in 64 steps of four

_CHUNK = 250_000  # numbers in the largest tensor that is worked on at a time: it stays in the cache


def run(options: GradientOptions) -> None:
    """Measure, and write the report. Raises InputError."""
    folder = _folder(options)
    if options.draws < FEWEST_DRAWS:
        raise InputError(f"--draws is {options.draws}, expected an integer of at least {FEWEST_DRAWS}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    began = time.perf_counter()
    records = list(measure_all(options))
    seconds = time.perf_counter() - began
    write_report(folder, records, options, seconds)
    print(f"report: {folder / 'report.html'}")


def _folder(options: GradientOptions) -> Path:
    folder = Path(options.out or f"runs/ablation-{options.command}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the folder {folder}: {error}; give another --out") from None
    return folder


# Measuring


def methods(texts: Sequence[str] = ()) -> list[tuple[str, Estimator]]:
    """Every estimator, or those of some texts, at its usual temperature and every one of TAUS in its range,
    each with its name or `name,setting=value,...`. Raises InputError."""
    found = []
    for text in dict.fromkeys(texts or estimators.names()):
        cls = type(estimators.get(text))
        if not cls.exclusive:
            raise InputError(
                f"the candidates of '{text}' do not exclude each other: there is no gradient of a choice"
            )
        name = text.replace(":", ",", 1)
        taus = {tau for tau in TAUS if cls.tau_range[0] <= tau <= cls.tau_range[1]}
        found += [
            (name, estimators.get(text, tau)) for tau in sorted(taus | {gradient_plots.usual_tau(name)})
        ]
    return found


def measure_all(options: GradientOptions) -> Iterator[dict[str, Any]]:
    """The rows of results.csv: temperatures at CANDIDATES candidates, then tau = 1 over SWEEP, then over the
    draws of an estimate."""
    everyone = [(name, method, cost.default(method)) for name, method in methods(options.estimators)]
    at_one = [one for one in everyone if one[1].tau == gradient_plots.usual_tau(one[0])]
    by_cost = [(name, method, way) for name, method, _ in at_one for way in cost.ways(method)]
    parts = [("temperature", names, choices, CANDIDATES, everyone) for choices, names in SUITES.items()]
    parts += [("candidates", SWEPT, 1, k, at_one) for k in SWEEP]
    parts += [("cost", names, choices, CANDIDATES, by_cost) for choices, names in SUITES.items()]
    total = sum(len(chosen) for *_, chosen in parts)
    with tqdm(total=total, unit="estimator", file=sys.stderr, disable=None) as bar:
        for part, names, choices, k, chosen in parts:
            problems = draw_problems(names, options.problems, choices, k, options.seed)
            for called, method, way in chosen:
                bar.set_description(f"K = {k}, {called}")
                rng = generator(options.seed, f"draws of {called} at {method.tau}", choices, k)
                count = options.draws
                if part == "cost":
                    count = max(FEWEST_DRAWS, count // way.draws)
                for name, measured in measure(method, problems, count, rng, way).items():
                    about = {"part": part, "objective": name, "choices": choices, "candidates": k}
                    about |= {"estimator": called, "tau": method.tau}
                    about |= cost.passes(method, way, options.price, options.mixture_price)
                    yield about | summary(measured)
                bar.update()


def measure(
    estimator: Estimator,
    problems: Mapping[str, Problems],
    draws: int,
    rng: torch.Generator,
    way: Way | None = None,
) -> dict[str, Measured]:
    """Compare `draws` estimates with the exact gradient of every problem.

    An estimator that averages over M inner samples draws a fifth of `draws`: it costs M times as much,
    and spreads less. A dense estimator sees f of its mixture, and is compared with the same gradient as
    the others, that of E f over one-hot draws.

    Args:
        problems: objectives that share their logits (P, L, K), and so the draws.
        way: what an estimate is made of; default: as in a search.
    """
    logits = next(iter(problems.values())).logits
    way = way or cost.default(estimator)
    draws = max(2, draws // 5) if estimator.inner_samples > 1 else draws
    numbers = logits.numel() * estimator.inner_samples * way.draws
    if estimator.learns:
        numbers = len(logits) * way.draws * PAST
    chunk = max(1, _CHUNK // numbers)
    taught = teach(estimator, problems, rng) if estimator.learns else {}
    sums = {name: Errors(problem.gradient) for name, problem in problems.items()}
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        for name, some in estimates(estimator, problems, count, rng, way, taught).items():
            sums[name].add(some)
    return {name: total.measured() for name, total in sums.items()}


def estimates(
    estimator: Estimator,
    problems: Mapping[str, Problems],
    count: int,
    rng: torch.Generator,
    way: Way | None = None,
    taught: Mapping[str, Estimator] | None = None,
) -> dict[str, Tensor]:
    """`count` independent estimates (count, P, L, K) for every objective, from the same draws.

    Args:
        way: as in `measure`.
        taught: see `teach`.
    """
    logits, n = next(iter(problems.values())).logits, (way or cost.default(estimator)).draws
    if estimator.signal != "gradient":
        return _score_estimates(estimator, problems, count, n, rng, taught or {})
    leaf = logits.float().repeat(count, 1, 1, 1).requires_grad_()  # as in a search, and twice as fast
    if way is not None and way.systematic:
        assert isinstance(estimator, CategoricalEstimator)
        draw = estimator.systematic(leaf, n, rng).double()
    else:
        draw = estimator(leaf.expand(n, *leaf.shape), rng).double()
    return {
        name: torch.autograd.grad(problem.loss(draw).sum() / n, leaf, retain_graph=True)[0].double()
        for name, problem in problems.items()
    }


def _score_estimates(
    estimator: Estimator,
    problems: Mapping[str, Problems],
    count: int,
    n: int,
    rng: torch.Generator,
    taught: Mapping[str, Estimator],
) -> dict[str, Tensor]:
    """Estimates from losses, or from losses and gradients, of n draws each."""
    logits = next(iter(problems.values())).logits
    draw = estimator(logits.repeat(count * n, 1, 1, 1), rng)
    found = {}
    for name, problem in problems.items():
        known = taught.get(name, estimator)
        signals = [x.view(count, n, *x.shape[1:]).transpose(0, 1) for x in _signals(known, problem, draw)]
        draws, losses, *slopes = signals
        found[name] = known.gradient(logits, draws, losses, problem.mean, *slopes)
    return found


def _signals(estimator: Estimator, problem: Problems, draws: Tensor) -> list[Tensor]:
    """Draws (N, P, L, K), their losses (N, P) and, where the estimator needs them, gradients at them."""
    if estimator.signal == "loss":
        return [draws, problem.loss(draws)]
    leaf = draws.detach().requires_grad_()
    losses = problem.loss(leaf)
    return [draws, losses.detach(), *torch.autograd.grad(losses.sum(), leaf)]


def teach(
    estimator: Estimator, problems: Mapping[str, Problems], rng: torch.Generator, past: int | None = None
) -> dict[str, Estimator]:
    """For every objective a copy of an estimator that has learned from draws of its problems.

    Args:
        past: how many; default: PAST.
    """
    logits, n = next(iter(problems.values())).logits, estimator.default_draws
    before = estimator(logits.repeat(PAST if past is None else past, 1, 1, 1), rng)
    found = {}
    for name, problem in problems.items():
        found[name] = copy.deepcopy(estimator)
        steps = zip(*(signal.split(n) for signal in _signals(estimator, problem, before)), strict=True)
        for draws, losses, *slopes in steps:
            found[name].learn(logits, draws, losses, *slopes)
    return found


def summary(measured: Measured) -> dict[str, Any]:
    """Medians over the problems with their 95 % intervals, `METRIC`, `METRIC_low` and `METRIC_high`."""
    row: dict[str, Any] = {"problems": len(measured.mse), "draws": measured.draws}
    for name, values in measured.metrics().items():
        low, high = median_interval(values)
        row |= {name: float(values.quantile(0.5)), f"{name}_low": low, f"{name}_high": high}
    return row


def median_interval(values: Tensor) -> tuple[float, float]:
    """A 95 % interval of the median behind a sample (n,): two of its order statistics.

    How many of n values lie below the median is binomial, whatever their distribution. Of fewer than 6
    values it is their range, and covers less.
    """
    n = len(values)
    rank = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)
    ordered = values.sort().values
    return float(ordered[rank]), float(ordered[n - 1 - rank])


# Reporting


def write_report(
    folder: Path, records: Sequence[Mapping[str, Any]], options: GradientOptions, seconds: float
) -> None:
    """Pictures and tables of `records`, rows of `measure_all`."""
    threads = torch.get_num_threads()
    page.write(
        folder,
        kind="Estimator ablation",
        title="Estimators against the exact gradient",
        lead=f"Bias and spread of {'chosen' if options.estimators else 'all'} gradient estimators, on "
        f"{options.problems} random problems with {options.draws} draws each (a fifth for those that "
        "average over inner samples), against the gradient by enumeration of all outcomes; medians over the "
        f"problems. {seconds:.0f} s on a CPU with {threads} thread{'s'[: threads != 1]}.",
        pictures=_pictures(records),
        tables=_tables(records, options),
        records=records,
        configuration={
            "command": "ablate.py gradient",
            "estimators": options.estimators or "all",
            "plugins": options.plugins,
            "problems": options.problems,
            "draws": options.draws,
            "price": options.price,
            "mixture_price": options.mixture_price,
            "seed": options.seed,
        },
    )


def _pictures(records: Sequence[Mapping[str, Any]]) -> list[page.Picture]:
    temperature = [record for record in records if record["part"] == "temperature"]
    return [
        page.Picture(
            "Bias against spread",
            gradient_plots.plot_trade_off(temperature),
            "The black dot is the exact gradient, whose norm is the unit of both axes; the diamond is the "
            f"estimate 0. A line follows an estimator from temperature {TAUS[0]:g}, its thin end, to "
            f"{TAUS[-1]:g}. The dot with the name is {USUAL}, with 95 % intervals. Arcs join equal "
            "root mean squared errors. Estimators without a temperature are dots. Polynomials and the ReLU "
            f"network have 3 choices, all choices {CANDIDATES} candidates.",
        ),
        page.Picture(
            "More candidates",
            gradient_plots.plot_candidates([r for r in records if r["part"] == "candidates"]),
            f"One choice among K candidates, at {USUAL}. Bands are 95 % intervals.",
        ),
        page.Picture(
            "Error of a single estimate",
            gradient_plots.plot_ranking(
                [r for r in temperature if r["tau"] == gradient_plots.usual_tau(r["estimator"])]
            ),
            f"At {USUAL}, sorted by the mean of the right table. Left: in units of the norm of the "
            "exact gradient; the estimate 0 has 1. Right: what no step size changes.",
        ),
        page.Picture(
            "Error over cost",
            cost_plots.plot_costs([record for record in records if record["part"] == "cost"]),
            "The root mean squared error of an estimate, in units of the norm of the exact gradient, over "
            "what its passes cost; points are estimates of 1, 2, 4, ... draws. In colour: what is the best "
            "for some cost, and what learns; dashed: with systematic draws. The estimate 0 has 1. Estimators "
            f"that learn have seen {PAST} draws of the same loss; in a search it changes from step to step.",
        ),
    ]


def _tables(records: Sequence[Mapping[str, Any]], options: GradientOptions) -> list[page.Table]:
    temperature = [record for record in records if record["part"] == "temperature"]
    noise = max(record["standard_error"] for record in temperature)
    return [
        _table(
            "Bias / standard deviation",
            "bias",
            "std",
            "In units of the norm of the exact gradient. Bias is freed of what the finite number of draws "
            f"adds to it; the standard error of a mean estimate is at most {noise:.2f}.",
            temperature,
        ),
        _table(
            "Cosine with the exact gradient: of the mean estimate / mean of single estimates",
            "cosine",
            "draw_cosine",
            "An estimate of zero counts 0.",
            temperature,
        ),
        *_cost_tables([record for record in records if record["part"] == "cost"], options),
    ]


def _cost_tables(records: Sequence[Mapping[str, Any]], options: GradientOptions) -> list[page.Table]:
    """The best estimates for a cost, without and with those that learn, by error and by direction."""
    passes = (
        f"Of all estimators at {USUAL} and numbers of draws (×N). A pass without a gradient costs 1, "
        f"one with the exact gradient {options.price:g}, one of all candidates {options.mixture_price:g}."
    )
    fresh = [record for record in records if not cost.learns(record)]
    known = (
        f"With those that learn, after {PAST} draws of the same loss, and reinforce, whose baseline is E f. "
        "In a search the loss changes in every step, and they know less."
    )
    heading = "The best estimate for a cost"
    return [
        cost.table(fresh, "rmse", f"{heading}: root mean squared error", passes),
        cost.table(fresh, "draw_cosine", f"{heading}: mean cosine with the exact gradient", passes),
        cost.table(records, "rmse", f"{heading} and a past: root mean squared error", known),
    ]


def _table(
    heading: str, first: str, second: str, note: str, records: Sequence[Mapping[str, Any]]
) -> page.Table:
    """Two metrics, estimators with their temperatures by objectives."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    cells = {(r["estimator"], r["tau"], r["objective"]): f"{r[first]:.2f} / {r[second]:.2f}" for r in records}
    rows = dict.fromkeys((record["estimator"], record["tau"]) for record in records)
    return page.Table(
        heading=heading,
        columns=("estimator", "τ", *objectives),
        rows=[
            [gradient_plots.label(name), f"{tau:g}", *(cells[name, tau, o] for o in objectives)]
            for name, tau in rows
        ],
        note=note,
    )
