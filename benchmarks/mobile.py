"""Steps of a search in `mobile` on large images, beside a training step: `python -m benchmarks.mobile`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F

from benchmarks import step, subjects, timing
from benchmarks.timing import Action, BenchmarkOptions, Report, Row, ratio
from nas import device as devices
from nas.bilevel.search import Search
from recipes import SearchOptions
from recipes.options import option

ALONE = "sampled network alone"


@dataclass(kw_only=True)
class MobileOptions(BenchmarkOptions):
    """Images a second and, on a GPU, the memory of a step, on random images."""

    space: Literal["mobile", "mobile_se"] = "mobile"
    """Search space."""
    image_size: int = option(224, at_least=8)
    """Side of the images in pixels."""
    channels: int = option(16, at_least=1)
    """Channels of the stem."""
    batch_size: int = option(64, at_least=2)
    """Images a step."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks."""


def run(options: MobileOptions) -> Report:
    """All rows."""
    with devices.prepared(options.device) as place:
        return measured(options, place)


def measured(options: MobileOptions, place: torch.device) -> Report:
    """All rows, as on a device that is prepared as for a run."""
    search, cuda = build(options), place.type == "cuda"
    found, wait = actions(search), partial(torch.cuda.synchronize, place) if cuda else lambda: None
    times = timing.alternate(found, options.repeats, wait)
    report = Report("mobile", options)
    for name in found:
        rate = options.batch_size / sorted(times[name])[len(times[name]) // 2]
        target = "<= 1.05" if name == "weight step" else None
        slower = None if name == ALONE else ratio(times, name, ALONE)
        report.add(Row(name, rate, "images/s", slower, None if name == ALONE else ALONE, target))
    if cuda:
        peaks = {name: peak(action, search.device) for name, action in found.items()}
        for name, size in peaks.items():
            more = None if name == ALONE else size / peaks[ALONE]
            to = None if name == ALONE else f"peak memory, {ALONE}"
            report.add(Row(f"peak memory, {name}", size, "GiB", more, to))
    return report


def build(options: MobileOptions) -> Search:
    """The search; its logits stay where they are."""
    search_options = SearchOptions(
        space=options.space,
        channels=options.channels,
        batch_size=options.batch_size,
        epochs=2,
        warmup_epochs=0,
        evaluate_every=2,
        arch_lr=0.0,
        device=options.device,
        precision=options.precision,
    )
    images = subjects.random_images(2 * options.batch_size, size=options.image_size)
    return subjects.search(search_options, images)


def actions(search: Search) -> dict[str, Action]:
    """A training step of the sampled network, and the steps of the search; a call's number is its draw."""
    batch = step.one_batch(search)
    networks = [step.alone(search, call) for call in range(step.DRAWS)]

    def alone(call: int) -> None:
        network, optimizer = networks[call % step.DRAWS]
        with search.bilevel.precision():
            loss = F.cross_entropy(network(batch[0]), batch[1])
        step.descend(loss, network, optimizer, search.options.clip)

    return {
        ALONE: alone,
        "weight step": lambda call: search.bilevel.weight_step(batch, step.draws(call)),
        "architecture step": lambda call: search.bilevel.architecture_step(batch, batch, step.draws(call)),
    }


def peak(action: Action, place: torch.device) -> float:
    """GiB that the steps of all draws take at most beyond what is there before them."""
    torch.cuda.synchronize(place)
    before = torch.cuda.memory_allocated(place)
    torch.cuda.reset_peak_memory_stats(place)
    for call in range(step.DRAWS):
        action(call)
    return (torch.cuda.max_memory_allocated(place) - before) / 2**30


if __name__ == "__main__":
    sys.exit(timing.main("mobile", MobileOptions, run))
