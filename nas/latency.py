"""Latencies of the networks of a space on this machine: `nas latency --help`.

Every candidate is timed in its places, with the addition that follows it, and so are some dozens of whole
networks; an additive model is fitted to them, and tested on others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import search_spaces
from nas import device
from nas.genotypes import cells_of
from nas.latency_table import LatencyTable, fit, quality
from nas.runs.files import write_json
from nas.timing import Settings, machine, runner, timed
from recipes import InputError
from recipes.budget import format_cost
from recipes.latency import LatencyOptions
from search_spaces import Genotype, SearchSpace
from search_spaces.cost import Candidate, CostTable, NetworkSize, Place, added_up, frame
from search_spaces.operations import Zero


class _InPlace(nn.Module):
    """A candidate, and the addition of its output to that of other edges."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self.operation = candidate.build()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.operation(x)
        return y + y


def candidate_times(
    space: SearchSpace, places: Sequence[Place], settings: Settings, progress: bool | None = None
) -> Tensor:
    """(E, K) ns of every candidate, in all its places together."""
    different = list(dict.fromkeys(c for place in places for c in place.candidates()))
    work = [c for c in different if not isinstance(c.build(), Zero)]
    times = timed([runner(_InPlace(c), c.shape, settings) for c in work], settings, progress)
    known = {candidate: round(t) for candidate, t in zip(work, times.tolist(), strict=True)}
    return added_up(space, places, lambda candidate: known.get(candidate, 0))


def random_networks(space: SearchSpace, count: int, seed: int) -> list[Genotype]:
    """Different architectures whose output depends on the input: one half uniform, the other with operations
    that are likely for each of them, so that there are fast and slow ones."""
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    found: dict[Genotype, None] = {}
    for number in range(20 * count):
        if number % 2:
            taste = {name: 3 * float(torch.randn((), generator=noise)) for name in space.operations}
            scores = torch.randn(space.num_slots, space.width, generator=noise)
            for row, slot in enumerate(space.slots):
                scores[row, : len(slot.candidates)] += torch.tensor([taste[n] for n in slot.candidates])
            genotype = space.discretise(scores)
        else:
            genotype = space.random(rng)
        if space.is_connected(genotype):
            found.setdefault(genotype)
        if len(found) == count:
            break
    return list(found)


def measure(
    space: SearchSpace,
    size: NetworkSize,
    settings: Settings,
    *,
    networks: int = 40,
    check: int = 20,
    seed: int = 0,
    progress: bool | None = None,
) -> LatencyTable:
    """The latency table of a space.

    Args:
        networks: random networks that the model is fitted to.
        check: further ones that it is tested on.

    Raises:
        InputError: the device or the engine is missing, or the space has too few networks.
    """
    genotypes = random_networks(space, networks + check, seed)
    if len(genotypes) < networks + check:
        raise InputError(f"the space '{space.name}' has only {len(genotypes)} networks: lower `networks`")
    random.Random(seed).shuffle(genotypes)
    with device.prepared(settings.device, settings.threads):
        _, places = frame(space, size)
        candidates = candidate_times(space, places, settings, progress)
        runs = [runner(size.network(space, genotype), size.shape, settings) for genotype in genotypes]
        measured = timed(runs, settings, progress)
    choices = [space.choice(genotype) for genotype in genotypes]
    alone = CostTable(0, candidates)  # what is around the edges takes the rest
    around = max(1.0, float(np.median(measured[:networks] - [alone.of(c) for c in choices[:networks]])))
    costs, factors = fit(space, candidates, around, choices[:networks], measured[:networks])
    predicted = np.array([costs.of(choice) for choice in choices], float)
    rows = [
        {
            "genotype": space.format(genotype),
            "measured": round(took),
            "predicted": round(said),
            "fitted": number < networks,
        }
        for number, (genotype, took, said) in enumerate(
            zip(genotypes, measured.tolist(), predicted.tolist(), strict=True)
        )
    ]
    return LatencyTable(
        space.name, size, settings, costs, candidates, factors, rows,
        quality(measured[networks:], predicted[networks:]), machine(settings),
    )  # fmt: skip


def settings_of(options: LatencyOptions) -> Settings:
    """How networks are run, with the device and the number of threads that are meant. Raises InputError."""
    place = device.select(options.device)
    if options.engine == "onnxruntime" and place.type != "cpu":
        raise InputError("`engine=onnxruntime` runs on the CPU: give `device=cpu`")
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if place.type == "cuda" else "float32"
    if options.engine == "onnxruntime" and precision != "float32":
        raise InputError("`engine=onnxruntime` computes in float32: leave `precision` out")
    return Settings(
        options.engine, str(place), options.threads or torch.get_num_threads(), precision,
        options.channels_last, options.batch_size, options.rounds,
    )  # fmt: skip


def run(options: LatencyOptions) -> None:
    """Measure, write the table, and say how good the model is. Raises InputError."""
    space = search_spaces.get(options.space)
    size = NetworkSize(
        options.channels, cells_of(space, options.cells), options.classes, options.in_channels,
        (options.image_size, options.image_size), options.planned_size or 0,
    )  # fmt: skip
    if options.planned_size is not None and not space.plans_size:
        raise InputError(f"`planned_size` means nothing to the space '{space.name}': drop it")
    path = Path(options.out)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"`out` is {path}, expected a file in a folder that exists: give another")
    if path.exists() and not options.overwrite:
        raise InputError(f"`out` {path} is there already: give `overwrite` to replace it, or another `out`")
    settings = settings_of(options)
    table = measure(space, size, settings, networks=options.networks, check=options.check, seed=options.seed)
    try:
        write_json(path, table.to_json(space))
    except OSError as error:
        raise InputError(f"cannot write `out` {path}: {error}") from None
    print("\n".join(summary(table)), f"table {path}", sep="\n")


def summary(table: LatencyTable) -> list[str]:
    """What was measured and how good the model is, in a few lines."""
    taken = [row["measured"] for row in table.networks]
    found, settings = table.quality, table.settings
    ends = [format_cost("latency", value) for value in (min(taken), max(taken))]
    return [
        f"{len(taken)} networks of '{table.space}' take {ends[0]} to {ends[1]} "
        f"({settings.engine} on {settings.device}, {settings.threads} threads, {settings.precision}, "
        f"batch size {settings.batch_size})",
        f"on {found['networks']} networks that it was not fitted to, the model is within 10 % for "
        f"{100 * found['within_10_percent']:.0f} %, median error {100 * found['median_error']:.1f} %, worst "
        f"{100 * found['worst_error']:.1f} %, R² {found['r2']:.3f}",
    ]
