"""A step of the search, against the same step as public code takes it: `python -m benchmarks.step`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import subjects, timing
from benchmarks.timing import Action, BenchmarkOptions, Report, Row, timed
from nas import device
from nas.bilevel.search import Search
from nas.bilevel.unroll import Batch, frozen
from nas.genotypes import cells_of, planned_size_of
from nas.seeding import generator
from recipes import SearchOptions, one_of
from recipes.options import option
from search_spaces.mixed_edge import Choice, Draw

SPACES = {"nasbench201": 5, "darts": 8, "nasbench_macro": 1, "mobile": 1}  # cells of the published searches
DRAWS = 8
STEPS = 50  # of an epoch in which time outside the network is taken
TARGETS = {
    "nasbench201": {"weight": "0.12", "architecture": "0.20", "memory": "0.25"},
    "darts": {"weight": "0.06", "architecture": "0.15", "memory": "0.20"},
    "nasbench_macro": {"weight": "0.30", "architecture": "0.40", "memory": "0.50"},
    "mobile": {"weight": "0.10", "architecture": "0.30", "memory": "0.30"},
}


@dataclass(kw_only=True)
class StepOptions(BenchmarkOptions):
    """Weight step and architecture step of a supernet on random images of 32 x 32."""

    space: str = "nasbench201"
    """Search space: nasbench201, darts, nasbench_macro or mobile."""
    channels: int = option(16, at_least=1)
    """Channels of the first cells."""
    cells: int | None = option(None, at_least=1)
    """Cells (default: 5 per stage in nasbench201, 8 in all in darts, 1 in the others)."""
    batch_size: int = option(64, at_least=2)
    """Images a step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of our steps and of their floors; the public ones stay in float32."""
    memory: bool = True
    """Also measure peak memory, each in a process of its own."""


def run(options: StepOptions) -> Report:
    """All rows."""
    one_of("search space", options.space, SPACES)
    options = replace(options, cells=options.cells or SPACES[options.space])
    target = TARGETS[options.space]
    times = timing.alternate(actions(options), options.repeats)
    weight, architecture = "weight step, dense", "architecture step, dense"
    pair = [a + b for a, b in zip(times["architecture step"], times["weight step"], strict=True)]
    rows = [
        timed(times, weight),
        timed(times, "weight step, GDAS", weight),
        timed(times, "sampled network alone", weight),
        timed(times, "weight step", weight, f"<= {target['weight']}"),
        timed(times, "weight step", "sampled network alone", "<= 1.05"),
        timed(times, architecture),
        timed(times, "architecture step, dense, weights frozen", architecture),
        timed(times, "architecture step, GDAS (wrong gradient)", architecture),
        timed(times, "architecture step, surrogate (wrong gradient)", architecture),
        timed(times, "candidates' forward pass", architecture),
        timed(times, "architecture step", architecture, f"<= {target['architecture']}"),
        timed(times, "architecture step, second order", "architecture step", "<= 4"),
        *outside(options, pair),
    ]
    report = Report("step", options, rows)
    if options.memory:
        report.add(*memory_rows(options, f"<= {target['memory']}"))
    return report


def actions(options: StepOptions) -> dict[str, Action]:
    """What is timed, by the names of the rows. The number of a call determines its draw."""
    ours, second = build(options, "lean"), build(options, "lean", order=2)
    surrogate, mixture = build(options, "surrogate"), build(options, "dense")
    dense, gdas = build(options, "dense", public=True), build(options, "surrogate", public=True)
    batch, public_batch = one_batch(ours), one_batch(dense)
    networks = [alone(ours, call) for call in range(DRAWS)]
    uniform = torch.full_like(ours.architecture.logits, 1 / ours.architecture.logits.shape[1]).detach()

    def sampled_alone(call: int) -> None:
        network, optimizer = networks[call % DRAWS]
        with ours.bilevel.precision():
            loss = F.cross_entropy(network(batch[0]), batch[1])
        descend(loss, network, optimizer, ours.options.clip)

    def candidates(call: int) -> None:
        with torch.no_grad(), ours.bilevel.precision():
            mixture.supernet(batch[0], uniform)

    def weights_frozen(call: int) -> None:
        with frozen(dense.supernet.parameters()):
            public_architecture_step(dense, public_batch, call)

    def architecture_step(search: Search) -> Action:
        return lambda call: search.bilevel.architecture_step(batch, batch, draws(call))

    return {
        "weight step, dense": lambda call: public_weight_step(dense, public_batch, call),
        "weight step, GDAS": lambda call: public_weight_step(gdas, public_batch, call),
        "weight step": lambda call: ours.bilevel.weight_step(batch, draws(call)),
        "sampled network alone": sampled_alone,
        "architecture step, dense": lambda call: public_architecture_step(dense, public_batch, call),
        "architecture step, dense, weights frozen": weights_frozen,
        "architecture step, GDAS (wrong gradient)": lambda call: public_architecture_step(
            gdas, public_batch, call
        ),
        "candidates' forward pass": candidates,
        "architecture step, surrogate (wrong gradient)": architecture_step(surrogate),
        "architecture step": architecture_step(ours),
        "architecture step, second order": architecture_step(second),
    }


def build(
    options: StepOptions, edge_gradient: Any, order: Any = 1, public: bool = False, steps: int = 1
) -> Search:
    """A search with epochs of so many steps. Its logits stay where they are, so that the number of a call
    means a draw."""
    search_options = SearchOptions(
        space=options.space,
        channels=options.channels,
        cells=options.cells,
        batch_size=options.batch_size,
        epochs=2,
        warmup_epochs=0,
        evaluate_every=2,
        lr=0.025,
        arch_lr=0.0,
        edge_gradient=edge_gradient,
        order=order,
        channels_last=not public,
        precision="float32" if public else options.precision,
        device="cpu",
    )
    images = subjects.random_images(2 * steps * options.batch_size)
    return subjects.search(search_options, images)


def alone(search: Search, call: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network that the weight step of this call draws, in the memory order of the supernet, and an
    optimizer as that of the supernet."""
    chosen = (
        search.architecture.estimator(search.architecture.masked().detach(), draws(call)).argmax(-1).tolist()
    )
    options = search.options
    network = subjects.sampled_network(
        search.space,
        chosen,
        options.channels,
        cells_of(search.space, options.cells),
        planned_size_of(search.space, options.planned_size, search.dataset),
    )
    network = device.place(network, search.device, search.options.channels_last)
    defaults = search.weight_optimizer.defaults
    return network, type(search.weight_optimizer)(network.parameters(), **defaults)


def one_batch(search: Search) -> Batch:
    """A training batch."""
    return next(search.train.epoch(0))


def draws(call: int) -> torch.Generator:
    """The source of the draw of a call."""
    return generator(0, "draw", call % DRAWS)


def public_weight_step(search: Search, batch: Batch, call: int) -> None:
    """All candidates (GDAS: the drawn one) mixed with the weights of the draw, plain backward, SGD."""
    loss, _ = search.bilevel.loss(
        search.architecture.estimator(search.architecture.masked(), draws(call)), batch
    )
    descend(loss, search.supernet, search.weight_optimizer, search.options.clip)


def public_architecture_step(search: Search, batch: Batch, call: int) -> None:
    """First order as in DARTS: backward through everything, the weights' gradients included, Adam."""
    search.architecture_optimizer.zero_grad()
    loss, _ = search.bilevel.loss(
        search.architecture.estimator(search.architecture.masked(), draws(call)), batch
    )
    loss.backward()
    search.architecture_optimizer.step()


def descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """A step of SGD with clipped gradients."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


class EmptyNetwork(nn.Module):
    """A supernet of which nothing is left but its interface."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """Logits (B, 10); differentiable in weight and draw."""
        weights = draw.weights if isinstance(draw, Choice) else None
        total = 0.0 if weights is None else weights.sum()
        return (self.weight + total).expand(len(images), 10)


def outside(options: StepOptions, pair: list[float]) -> Iterator[Row]:
    """What a pair of steps spends outside the network: for data, and for all else; `pair` are the
    seconds of both steps in each round."""
    search = build(options, "lean", steps=STEPS)
    search.bilevel.supernet = EmptyNetwork()
    train, valid = search.train.epoch, search.valid.epoch
    batch = one_batch(search)

    def batches(call: int) -> None:
        for _ in zip(train(call), valid(call), strict=True):
            pass

    search.train.epoch = search.valid.epoch = lambda epoch, start=0: repeat(batch, STEPS)  # type: ignore
    actions = {"two batches": batches, "all else": lambda call: subjects.whole_epoch(search, 0)}
    times = timing.alternate(actions, len(pair))
    per_step = {name: [seconds / STEPS for seconds in found] for name, found in times.items()}
    per_step["sampling, estimator, bookkeeping"] = per_step.pop("all else")
    per_step["both steps"] = pair
    yield timed(per_step, "sampling, estimator, bookkeeping", "both steps", "<= 0.01")
    yield timed(per_step, "two batches", "both steps")


def memory(options: StepOptions, public: bool) -> None:
    """Four steps of each kind, for their peak memory."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    search = build(options, "dense" if public else "lean", public=public)
    batch = one_batch(search)
    for call in range(4):
        if public:
            public_architecture_step(search, batch, call)
            public_weight_step(search, batch, call)
        else:
            search.bilevel.architecture_step(batch, batch, draws(call))
            search.bilevel.weight_step(batch, draws(call))


def memory_rows(options: StepOptions, target: str) -> list[Row]:
    """Peak memory of a search process beyond that of one that only imports torch."""
    dense, ours = (timing.in_fresh_process(memory, options, public).bytes / 2**20 for public in (True, False))
    name = "peak memory, dense"
    return [Row(name, dense, "MiB"), Row("peak memory", ours, "MiB", ours / dense, name, target)]


if __name__ == "__main__":
    sys.exit(timing.main("step", StepOptions, run))
