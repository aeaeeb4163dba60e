"""Everything that is worth knowing on a GPU, within minutes: `python -m benchmarks.gpu --json gpu.json`.

Needs nothing but this repository: images are random, of CIFAR's size, since speed does not depend on what
they show. What is measured is in the table, and with --json on disk, as soon as it is known.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import subjects, timing
from benchmarks.final import PLAIN
from benchmarks.gpu_step import (
    Step,
    as_torch_comes,
    floors,
    machine_limits,
    median_seconds,
    ours,
    require_arithmetic,
    synchronizer,
    waits,
    where,
)
from benchmarks.timing import BenchmarkOptions, Report, Row
from nas import device as devices
from nas.bilevel.search import Search
from nas.training.final import Training
from recipes import FinalOptions, SearchOptions
from recipes.options import option
from recipes.presets import FINAL, SEARCH

CIFAR_PART = 25_000  # images of CIFAR-10 that a search takes its weight steps on
OVERTIME = 30  # seconds that a process may take longer than the budget, to start and compile


@dataclass(kw_only=True)
class GpuOptions(BenchmarkOptions):
    """Searches and a final training as published, extrapolated to their full length."""

    budget_minutes: float = 8.0
    """Minutes that the measurements may take; they decide how many steps each is taken from."""
    device: str = "cuda"
    """cuda, cuda:N or cpu."""
    seeds: int = option(4, at_least=1)
    """Searches at the same time, each in a process of its own."""
    batch_size: int | None = option(None, at_least=2)
    """Images a step (default: the published 64 of a search, 96 of the final training)."""
    channels: int | None = option(None, at_least=1)
    """Channels of the first cells (default: as published)."""
    cells: int | None = option(None, at_least=1)
    """Cells (default: as published)."""
    steps: int = 50
    """Steps of an epoch here; CIFAR-10 has 390."""
    compile: bool = True
    """Also measure what has most to compile, as far as time is left for it: searches with --edge-gradient
    compiled, and captured in darts, and torch.compile of the final network."""


@dataclass
class Budget:
    """Seconds that the measurements may take in all, from now on."""

    seconds: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.start + self.seconds - time.perf_counter()

    def share(self, part: float) -> float:
        """Seconds for a measurement that may take this part of the budget; fewer where it runs out."""
        return max(0.0, min(part * self.seconds, self.left))


def run(options: GpuOptions) -> Report:
    """All measurements, the most important ones first."""
    with devices.prepared(options.device) as device:
        return measure(options, device)


def measure(options: GpuOptions, device: torch.device) -> Report:
    """All rows, on a device that is set up as for a run."""
    budget = Budget(60 * options.budget_minutes)
    report = Announcing("gpu", options)
    bandwidth, rate = machine_limits(report, device, budget.share(0.04))

    searches = {
        "nasbench201, 250 epochs": ("nasbench201-gdas", "<= 10"),
        "darts, 50 epochs": ("darts-first-order", "<= 10"),
    }
    for name, (preset, target) in searches.items():
        search = build_search(options, preset)
        architecture, weight = steps(search)
        require_arithmetic(search.supernet, architecture, ours(device), channels_last=True)
        report.add(
            Row(f"{name}: waits of a weight step", waits(weight, device), "", target="0"),
            # For the gradient, and the loss with it: the logits are on the CPU.
            Row(f"{name}: waits of an architecture step", waits(architecture, device), "", target="1"),
        )

        def both(architecture: Step = architecture, weight: Step = weight) -> None:
            architecture()
            weight()

        seconds = search_time(report, name, search, target, budget.share(0.1))
        floors(report, name, both, seconds, bandwidth, rate)
        where(report, name, both, device)

    def other(name: str, edge_gradient: str, part: float) -> None:
        preset, target = searches[name]
        call = other_search, (options, preset, edge_gradient, budget.share(part))
        found = beside([call], budget.left + OVERTIME / 3)[0]
        report.add(*search_rows(f"{name}, {edge_gradient}", preset, options, found, target))

    first, second = searches
    other(first, "captured", 0.08)
    at_once(report, options, budget)
    final(report, options, device, bandwidth, rate, budget)
    slow = [(second, "captured"), *((name, "compiled") for name in searches)]  # have most to compile
    for name, edge_gradient in slow if options.compile else ():
        if budget.left > 0.1 * budget.seconds:
            other(name, edge_gradient, 0.06)
    return report


class Announcing(Report):
    """A report whose rows are printed as they come."""

    def add(self, *rows: Row) -> None:
        """Append rows, and say so."""
        super().add(*rows)
        for row in rows:
            value = "-" if row.value is None else f"{row.value:.4g} {row.unit}"
            print(f"  {row.what}: {value}", file=sys.stderr, flush=True)


def build_search(options: GpuOptions, preset: str, **changes: Any) -> Search:
    """The search of a preset with ReinMax, in short epochs."""
    endless = {"epochs": 10**6, "evaluate_every": 10**6, "warmup_epochs": 0, "preset": preset}
    recipe = SEARCH[preset] | sizes(options) | endless | {"estimator": "reinmax"} | changes
    search_options = SearchOptions(device=options.device, threads=options.threads, **recipe)
    images = subjects.random_images(2 * options.steps * search_options.batch_size)
    return subjects.search(search_options, images)


def build_final(options: GpuOptions, plain: bool, compiled: bool = False) -> Training:
    """The published training of DARTS_V2: plain eager float32 NCHW, or as this product does it."""
    how = {"channels_last": not plain, "precision": "float32" if plain else "auto", "compile": compiled}
    recipe: dict[str, Any] = FINAL["darts-600"] | sizes(options) | how
    final_options = FinalOptions(
        genotype="darts_v2", device=options.device, threads=options.threads, **recipe
    )
    training = subjects.training(final_options, subjects.random_images(4 * final_options.batch_size))
    training.model.train()
    training.model.set_drop_path(final_options.drop_path / 2)
    return training


def sizes(options: GpuOptions) -> dict[str, int]:
    """The sizes that the options give in place of the published ones."""
    given = {name: getattr(options, name) for name in ("batch_size", "channels", "cells")}
    return {name: value for name, value in given.items() if value is not None}


def steps(search: Search) -> tuple[Step, Step]:
    """An architecture step and a weight step, on batches made for them."""
    train, valid = search.train.endless(0), search.valid.endless(0)
    draws = torch.Generator().manual_seed(0)
    return (
        lambda: search.bilevel.architecture_step(next(valid), next(train), draws),
        lambda: search.bilevel.weight_step(next(train), draws),
    )


def training_step(training: Training) -> Step:
    """A step of a final training, on a batch made for it."""
    batches = training.train.endless(0)
    return lambda: training.step(*next(batches))


def search_time(report: Report, name: str, search: Search, target: str, seconds: float) -> float:
    """Report how long an epoch and the whole search take on CIFAR-10; the seconds of both steps."""
    found = search_seconds(search, seconds)
    report.add(*search_rows(name, search.options.preset or "", report.options, found, target))
    return found[0]


def search_seconds(search: Search, seconds: float) -> tuple[float, float]:
    """Seconds of both steps, and of an evaluation of the cell for each image."""
    per_step = statistics.median(epochs(search, seconds)) / search.steps
    found = search.rule.selected(search)
    search.score(found)  # the first one tries out kernels
    start = time.perf_counter()
    search.score(found)
    return per_step, (time.perf_counter() - start) / len(search.valid.images)


def search_rows(
    name: str, preset: str, options: Any, found: tuple[float, float] | None, target: str
) -> list[Row]:
    """What `search_seconds` has found, extrapolated to the published search; None where it found nothing."""
    if found is None:
        return [Row(f"{name}: extrapolated (no result)", None, "min", target=target)]
    recipe = SEARCH[preset]
    count, every = recipe["epochs"], recipe.get("evaluate_every", 1)
    epoch = found[0] * (CIFAR_PART // (options.batch_size or recipe["batch_size"]))
    evaluation = found[1] * CIFAR_PART
    minutes = (count * epoch + count // every * evaluation) / 60
    return [
        Row(f"{name}: both steps", found[0], "s"),
        Row(f"{name}: epoch", epoch, "s"),
        Row(f"{name}: evaluation of the cell", evaluation, "s"),
        Row(f"{name}: extrapolated", minutes, "min", target=target),
    ]


def other_search(options: GpuOptions, preset: str, edge_gradient: str, seconds: float) -> tuple[float, float]:
    """`search_seconds` of a search whose cells run in another way."""
    with devices.prepared(options.device):
        return search_seconds(build_search(options, preset, edge_gradient=edge_gradient), seconds)


def epochs(search: Search, seconds: float) -> Iterator[float]:
    """Seconds of one epoch after another, at least two, after one to warm up."""
    end = time.perf_counter() + seconds
    subjects.whole_epoch(search, 0)
    number = 1
    while number < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        subjects.whole_epoch(search, number)
        yield time.perf_counter() - start
        number += 1


def beside(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], seconds: float) -> list[Any]:
    """What functions return, each in a process of its own, all at once; None for one that fails, which prints
    why, and for one that takes longer than so many seconds and is ended."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for function, arguments in calls:
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=send, args=(sender, function, *arguments)))
        processes[-1].start()
        sender.close()
        pipes.append(receiver)
    end = time.perf_counter() + seconds
    try:
        return [received(pipe, end - time.perf_counter()) for pipe in pipes]
    finally:
        for process in processes:
            process.join(timeout=max(5.0, end - time.perf_counter()) if process.is_alive() else None)
            if process.is_alive():
                process.kill()
                process.join()


def received(pipe: Any, seconds: float) -> Any:
    """What comes through a pipe within so many seconds; None where nothing does."""
    try:
        return pipe.recv() if pipe.poll(max(0.0, seconds)) else None
    except EOFError:
        return None


def send(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """Send what a function returns."""
    sender.send(function(*arguments))


def at_once(report: Report, options: GpuOptions, budget: Budget) -> None:
    """Several searches of nasbench201 on one device, each in a process of its own."""
    name, preset = f"nasbench201, 250 epochs, {options.seeds} seeds at once", "nasbench201-gdas"
    together = multiprocessing.get_context("spawn").Barrier(options.seeds)
    calls = [
        (one_of_many, (together, options, preset, seed, budget.share(0.15))) for seed in range(options.seeds)
    ]
    found = beside(calls, budget.left + OVERTIME)
    slowest = max((one for one in found if one is not None), default=None)
    done = slowest if None not in found else None
    report.add(*search_rows(name, preset, options, done, "<= 20"))


def one_of_many(
    together: Any, options: GpuOptions, preset: str, seed: int, seconds: float
) -> tuple[float, float]:
    """`search_seconds` of a search that runs beside others."""
    try:
        with devices.prepared(options.device):
            search = build_search(options, preset, seed=seed)
            subjects.whole_epoch(search, 0)
            together.wait(timeout=120)
            return search_seconds(search, seconds / 2)
    except BaseException:
        together.abort()
        raise


def final(
    report: Report, options: GpuOptions, device: torch.device, bandwidth: float, rate: float, budget: Budget
) -> None:
    """Images a second of the final training: plain, ours, ours compiled."""
    wait = synchronizer(device)
    name = "DARTS_V2, final training"
    with as_torch_comes():
        plain = build_final(options, plain=True)
        step = training_step(plain)
        require_arithmetic(plain.model, step, torch.float32, channels_last=False)
        images = plain.options.batch_size
        before = median_seconds(step, budget.share(0.08), wait)
    report.add(Row(f"{name}: {PLAIN}", images / before, "images/s"))
    del plain, step
    training = build_final(options, plain=False)
    step = training_step(training)
    require_arithmetic(training.model, step, ours(device), channels_last=True)
    report.add(Row(f"{name}: waits of a step", waits(step, device), "", target="0"))
    seconds = median_seconds(step, budget.share(0.08), wait)
    report.add(
        Row(f"{name}: ours", images / seconds, "images/s", before / seconds, PLAIN, ">= 5"),
    )
    floors(report, name, step, seconds, bandwidth, rate)
    where(report, name, step, device)
    if options.compile and budget.left > 0.3 * budget.seconds:
        most = min(budget.left, 0.25 * budget.seconds)  # the rest is for searches
        (found,) = beside([(compiled_final, (options, budget.share(0.08)))], most)
        value, ratio = (None, None) if found is None else (images / found, before / found)
        report.add(Row(f"{name}: ours, compiled", value, "images/s", ratio, PLAIN, ">= 5"))


def compiled_final(options: GpuOptions, seconds: float) -> float:
    """Seconds of a step of the final training, compiled."""
    with devices.prepared(options.device) as device:
        step = training_step(build_final(options, plain=False, compiled=True))
        return median_seconds(step, seconds, synchronizer(device))


if __name__ == "__main__":
    sys.exit(timing.main("gpu", GpuOptions, run))
