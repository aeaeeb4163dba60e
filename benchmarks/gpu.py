"""Everything that is worth knowing on a GPU, within minutes: `python -m benchmarks.gpu --json gpu.json`.

Needs nothing but this repository: images are random, of CIFAR's size, since speed does not depend on what
they show. What is measured is in the table, and with --json on disk, as soon as it is known.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import subjects, timing
from benchmarks.final import PLAIN
from benchmarks.timing import BenchmarkOptions, Report, Row
from nas import device as devices
from nas.bilevel.search import Search
from nas.training.final import Training
from recipes import FinalOptions, SearchOptions
from recipes.options import option
from recipes.presets import FINAL, SEARCH

CIFAR_PART = 25_000  # images of CIFAR-10 that a search takes its weight steps on
Step = Callable[[], object]


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
    """Also measure searches with --edge-gradient compiled, and torch.compile of the final network if time is
    left for compiling it."""


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
    budget = Budget(60 * options.budget_minutes)
    device = devices.select(options.device)
    report = Announcing("gpu", options)
    bandwidth, rate = machine_limits(report, device, budget.share(0.04))

    searches = {
        "nasbench201, 250 epochs": ("nasbench201-gdas", "<= 10"),
        "darts, 50 epochs": ("darts-first-order", "<= 10"),
    }
    for name, (preset, target) in searches.items():
        search = build_search(options, preset)
        architecture, weight = steps(search)
        report.add(
            Row(f"{name}: waits of a weight step", waits(weight, device), "", target="0"),
            # For the gradient, and for whether the loss is finite: the logits are on the CPU.
            Row(f"{name}: waits of an architecture step", waits(architecture, device), "", target="<= 2"),
        )

        def both(architecture: Step = architecture, weight: Step = weight) -> None:
            architecture()
            weight()

        seconds = search_time(report, name, search, target, budget.share(0.1))
        floors(report, name, both, seconds, bandwidth, rate)
        where(report, name, both, device)
    at_once(report, options, budget.share(0.15))
    final(report, options, device, bandwidth, rate, budget)
    for name, (preset, target) in searches.items():
        if options.compile and budget.left > 0.1 * budget.seconds:
            search = build_search(options, preset, edge_gradient="compiled")
            search_time(report, f"{name}, compiled", search, target, budget.share(0.06))
    return report


class Announcing(Report):
    """A report whose rows are printed as they come."""

    def add(self, *rows: Row) -> None:
        """Append rows, and say so."""
        super().add(*rows)
        for row in rows:
            value = "-" if row.value is None else f"{row.value:.4g} {row.unit}"
            print(f"  {row.what}: {value}", file=sys.stderr, flush=True)


def machine_limits(report: Report, device: torch.device, seconds: float) -> tuple[float, float]:
    """Bytes a second that a copy moves, and operations a second of a product of bfloat16 matrices."""
    large = device.type == "cuda"
    source = torch.empty(2**28 if large else 2**22, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    n = 8192 if large else 256
    matrix = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    wait = synchronizer(device)
    copying = median_seconds(lambda: copy.copy_(source), seconds / 2, wait)
    multiplying = median_seconds(lambda: matrix @ matrix, seconds / 2, wait)
    bandwidth, rate = 2 * source.numel() / copying, 2 * n**3 / multiplying
    report.add(
        Row("bandwidth of a copy", bandwidth / 1e9, "GB/s"),
        Row("rate of a matrix product, bfloat16", rate / 1e12, "TFLOP/s"),
    )
    return bandwidth, rate


def build_search(options: GpuOptions, preset: str, **changes: Any) -> Search:
    """The search of a preset with ReinMax, in short epochs."""
    endless = {"epochs": 10**6, "evaluate_every": 10**6, "warmup_epochs": 0}
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
    per_step = statistics.median(epochs(search, seconds)) / search.steps
    start = time.perf_counter()
    search.score(search.rule.selected(search))
    evaluation = (time.perf_counter() - start) / len(search.valid.images) * CIFAR_PART
    count, every = (250, 5) if search.space.name == "nasbench201" else (50, 1)
    epoch = per_step * (CIFAR_PART // search.options.batch_size)
    minutes = (count * epoch + count // every * evaluation) / 60
    report.add(
        Row(f"{name}: both steps", per_step, "s"),
        Row(f"{name}: epoch", epoch, "s"),
        Row(f"{name}: evaluation of the cell", evaluation, "s"),
        Row(f"{name}: extrapolated", minutes, "min", target=target),
    )
    return per_step


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


def at_once(report: Report, options: GpuOptions, seconds: float) -> None:
    """Several searches of nasbench201 on one device, each in a process of its own."""
    name = f"nasbench201, 250 epochs, {options.seeds} seeds at once"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(options.seeds)
    pipes = [context.Pipe(duplex=False) for _ in range(options.seeds)]
    processes = [
        context.Process(target=one_of_many, args=(sender, together, options, seed, seconds))
        for seed, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    try:
        found = [receiver.recv() for receiver, _ in pipes]
    except EOFError:
        raise RuntimeError("one of the searches at once failed") from None
    finally:
        for process in processes:
            process.join()
    epoch = max(found) * (CIFAR_PART // (options.batch_size or 64))
    report.add(
        Row(f"{name}: epoch of the slowest", epoch, "s"),
        Row(f"{name}: extrapolated", 250 * epoch / 60, "min", target="<= 20"),
    )


def one_of_many(sender: Any, together: Any, options: GpuOptions, seed: int, seconds: float) -> None:
    """Send the seconds of both steps of a search that runs beside others."""
    try:
        search = build_search(options, "nasbench201-gdas", seed=seed)
        subjects.whole_epoch(search, 0)
        together.wait(timeout=120)
        sender.send(statistics.median(epochs(search, seconds / 2)) / search.steps)
    except BaseException:
        together.abort()
        raise


def final(
    report: Report, options: GpuOptions, device: torch.device, bandwidth: float, rate: float, budget: Budget
) -> None:
    """Images a second of the final training: plain, ours, ours compiled."""
    wait = synchronizer(device)
    name = "DARTS_V2, final training"
    plain = build_final(options, plain=True)
    images = plain.options.batch_size
    before = median_seconds(training_step(plain), budget.share(0.08), wait)
    report.add(Row(f"{name}: {PLAIN}", images / before, "images/s"))
    del plain
    step = training_step(build_final(options, plain=False))
    report.add(Row(f"{name}: waits of a step", waits(step, device), "", target="0"))
    seconds = median_seconds(step, budget.share(0.08), wait)
    report.add(
        Row(f"{name}: ours", images / seconds, "images/s", before / seconds, PLAIN, ">= 5"),
    )
    floors(report, name, step, seconds, bandwidth, rate)
    where(report, name, step, device)
    if options.compile and budget.left > 0.3 * budget.seconds:
        compiled = training_step(build_final(options, plain=False, compiled=True))
        compiled()
        seconds = median_seconds(compiled, budget.share(0.08), wait)
        report.add(
            Row(f"{name}: ours, compiled", images / seconds, "images/s", before / seconds, PLAIN, ">= 5")
        )


def median_seconds(step: Step, seconds: float, wait: Step) -> float:
    """Median time of a step over so many seconds, at least three steps, after two to warm up."""
    for _ in range(2):
        step()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronizer(device: torch.device) -> Step:
    """What waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def waits(step: Step, device: torch.device) -> int | None:
    """How often the host waits for the GPU in a step."""
    if device.type != "cuda":
        return None
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in found)


class WorkCounter(TorchDispatchMode):
    """Floating-point operations of convolutions and matrix products, and bytes that all operations read
    and write if each reads its inputs and writes its outputs once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(t.nbytes for t in leaves if isinstance(t, torch.Tensor))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        return out


def floors(report: Report, name: str, step: Step, seconds: float, bandwidth: float, rate: float) -> None:
    """How far a step is from what moving its bytes, and its operations, would take at least."""
    with WorkCounter() as work:
        step()
    moving, computing = work.bytes / bandwidth, work.operations / rate
    measured = f"{name}: a step"
    report.add(
        Row(f"{name}: bytes of a step / bandwidth", moving, "s", moving / seconds, measured),
        Row(f"{name}: operations of a step / rate", computing, "s", computing / seconds, measured),
    )


def where(report: Report, name: str, step: Step, device: torch.device, top: int = 12) -> None:
    """Profile a few steps: how busy the device is, kernels a step, and what takes the time (in the JSON)."""
    cuda, steps, wait = device.type == "cuda", 5, synchronizer(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    wait()
    start = time.perf_counter()
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        wait()
    wall = (time.perf_counter() - start) / steps

    def own(event: FunctionEventAvg) -> float:
        return (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6 / steps

    events = [e for e in profiler.key_averages() if own(e) > 0]
    events.sort(key=own, reverse=True)
    total = sum(map(own, events))
    report.add(Row(f"{name}: device busy, of a profiled step", total, "s", total / wall, "its wall time"))
    lines = [
        {"what": e.key[:100], "seconds": own(e), "share": own(e) / total, "calls": e.count / steps}
        for e in events[:top]
    ]
    report.extra.setdefault("profile", {})[name] = lines
    report.write()
    for line in lines:
        print("    {share:6.1%} {calls:7.1f} calls  {what}".format(**line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(timing.main("gpu", GpuOptions, run))
