"""The architecture search: `run(options)` is what train_search.py calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

import estimators
import search_spaces
from estimators import Estimator, Schedule
from nas import data, distributed, runtime
from nas.bilevel import derive
from nas.bilevel.measure import GradientMeasure
from nas.bilevel.steps import Bilevel, unrolled_gradient, unrolled_gradient_exact
from nas.data import Batches
from nas.runs import loop
from nas.runs.files import write_json
from nas.runtime import Mean
from nas.seeding import generator, seed_everything
from recipes import InputError, SearchOptions, one_of
from search_spaces import Genotype


def run(options: SearchOptions) -> None:
    """Search as the options say and leave the result in the run folder. Raises InputError."""
    loop.run(options, f"search-{options.space}-{options.estimator}", Search)


class Search:
    """A supernet, its logits, the data, and the bi-level steps over them."""

    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self.space = search_spaces.get(options.space)
        estimator, self.schedule = build_estimator(options)
        self.samples = derive.parse_derive(options.derive)
        self.device = runtime.select_device(options)
        with distributed.one_first():
            dataset = data.load(options)
        parts = data.split(dataset.train.labels, options.val_fraction, options.seed)
        self.documents = {"splits.json": {"train": parts[0].tolist(), "valid": parts[1].tolist()}}
        train, valid = (dataset.train[part] for part in parts)
        common = (options.batch_size, data.delivery(dataset, options, self.device))
        share = (distributed.rank(), distributed.world())
        self.train = Batches(train, *common, dataset.augmentation, options.seed, share)
        self.steps = len(self.train)
        self.train_mean, self.valid_mean = Mean(), Mean()  # of the current epoch
        self.valid = Batches(valid, *common, data.Augmentation(), options.seed + 1, share)

        seed_everything(options.seed, "initial weights")
        supernet = self.space.supernet(
            channels=options.channels,
            cells=runtime.cells(options, self.space),
            num_classes=len(dataset.classes),
            in_channels=dataset.in_channels,
            edge_gradient=options.edge_gradient,
        )
        if options.edge_gradient == "compiled":
            runtime.require_compiler(self.device, "--edge-gradient compiled")
        if options.sync_batch_norm:
            distributed.synchronise(supernet)
        self.supernet = runtime.place(supernet, options, self.device)
        self.logits = nn.Parameter(1e-3 * torch.randn(self.space.num_slots, self.space.width))
        self.weight_optimizer = torch.optim.SGD(
            self.supernet.parameters(),
            options.lr,
            options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov and options.momentum > 0,
            fused=self.device.type == "cuda",  # so that a step is skipped without the host
        )
        self.architecture_optimizer = torch.optim.Adam(
            [self.logits], options.arch_lr, (0.5, 0.999), weight_decay=options.arch_weight_decay
        )
        self.rates = CosineLRScheduler(self.weight_optimizer, t_initial=options.epochs, lr_min=options.lr_min)
        self.bilevel = Bilevel(
            self.supernet,
            self.logits,
            estimator,
            self.weight_optimizer,
            self.architecture_optimizer,
            options.draws,
            options.draw_per,
            options.order,
            options.clip,
            options.arch_clip,
            runtime.autocast(options, self.device),
            unrolled_gradient_exact if options.edge_gradient == "dense" else unrolled_gradient,
        )

    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """One pass over the training part, with an architecture step before every weight step."""
        seed, warmup = self.options.seed, self.options.warmup
        if start == 0:
            self.train_mean, self.valid_mean = Mean(), Mean()
        self.rates.step(epoch)
        first = epoch * self.steps + start
        valid_batches = self.valid.endless(max(0, first - warmup * self.steps))
        for step, train_batch in enumerate(self.train.epoch(epoch, start), first):
            self.bilevel.estimator.tau = self.schedule.at(step, self.options.epochs * self.steps)
            if epoch >= warmup:
                draws = generator(seed, "architecture draw", *self.draw_position(step))
                valid_batch = next(valid_batches)
                self.valid_mean.add(self.bilevel.architecture_step(valid_batch, train_batch, draws))
            draws = generator(seed, "weight draw", *self.draw_position(step))
            self.train_mean.add(self.bilevel.weight_step(train_batch, draws))
            yield

    def draw_position(self, step: int) -> tuple[int, ...]:
        """What the draws of a step are seeded by: equal on all ranks, unless each has its own."""
        own = self.options.draw_per == "rank" and distributed.rank() > 0
        return (step, distributed.rank()) if own else (step,)

    def skipped(self) -> int:
        """Steps of this epoch that were skipped."""
        return int(self.train_mean.skipped) + int(self.valid_mean.skipped)

    def score(self, genotype: Genotype) -> tuple[float, float]:
        """Loss and accuracy (%) of an architecture with the shared weights, on the validation part."""
        return runtime.evaluate(self.supernet, self.valid, self.bilevel.autocast, self.space.choice(genotype))

    def measure(self, epoch: int) -> dict[str, Any]:
        """How far every estimator is from the gradient of the logits now; see `nas.bilevel.measure`."""
        images, labels = next(iter(self.valid))
        batch = (images[: self.options.batch_size], labels[: self.options.batch_size])
        measure = GradientMeasure(self.bilevel, batch, self.options.seed, epoch)
        return measure.describe((epoch + 1) / self.options.epochs)

    def log_probabilities(self) -> Tensor:
        """Log-probability of every operation on every edge, (E, K)."""
        p = self.bilevel.estimator.probabilities(self.logits.detach())
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()

    def derive(self) -> Genotype:
        """The architecture found, by the rule that the options name."""
        if self.samples == 0:
            return self.space.discretise(self.log_probabilities())
        draws = generator(self.options.seed, "derivation")
        log_p = self.log_probabilities()
        return derive.best_of(self.space, log_p, self.samples, draws, lambda g: self.score(g)[1])

    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""
        options = self.options
        log_p = self.log_probabilities()
        genotype = self.space.discretise(log_p)
        train_loss, train_accuracy = self.train_mean.read()
        valid_loss, valid_accuracy = self.valid_mean.read()
        score: tuple[float, float] | tuple[None, None] = (None, None)
        if (epoch + 1) % options.evaluate_every == 0 or epoch + 1 == options.epochs:
            score = self.score(genotype)
        measured = {}
        if options.measure_every and (epoch + 1) % options.measure_every == 0:
            measured = {"gradient": self.measure(epoch)}
        return measured | {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "tau": self.bilevel.estimator.tau,
            "lr": self.weight_optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "valid_loss": valid_loss,
            "valid_accuracy": valid_accuracy,
            "skipped_steps": self.skipped(),
            "derived_loss": score[0],
            "derived_accuracy": score[1],
            "genotype": self.space.format(genotype),
            "entropy": float(-(log_p.exp() * log_p).sum(-1).mean()),
            "skip_connects": genotype.count("skip_connect"),
            "nones": genotype.count("none"),
            "probabilities": [[round(p, 6) for p in row] for row in log_p.exp().tolist()],
        }

    def state(self) -> dict[str, Any]:
        """All that determines the rest of the search, besides its options and the position."""
        return {
            "supernet": self.supernet.state_dict(),
            "logits": self.logits.detach(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "estimator": self.bilevel.estimator.state(),
            "train_mean": self.train_mean.state(),
            "valid_mean": self.valid_mean.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        for name in ("supernet", "weight_optimizer", "architecture_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.bilevel.estimator.load_state(state["estimator"])
        self.train_mean, self.valid_mean = (Mean.restored(state[m]) for m in ("train_mean", "valid_mean"))

    def summary(self, metrics: dict[str, Any]) -> str:
        """The current cell, for the progress bar."""
        return str(metrics["genotype"])[:80]

    def conclude(self) -> loop.Outcome:
        """Derive the architecture."""
        genotype = self.derive()
        text = self.space.format(genotype)
        warnings = derive.collapse_warnings(genotype)
        result = {
            "kind": "search",
            "space": self.space.name,
            "estimator": self.options.estimator,
            "dataset": self.options.dataset,
            "seed": self.options.seed,
            "genotype": text,
            "derived_accuracy": self.score(genotype)[1],
            "parameters": sum(p.numel() for p in self.supernet.parameters()),
            "warnings": warnings,
        }
        return loop.Outcome(genotype, result, [f"found {text}", *(f"warning: {w}" for w in warnings)])

    def save(self, folder: Path, outcome: loop.Outcome) -> None:
        """Write the architecture."""
        text = outcome.result["genotype"]
        write_json(folder / "genotype.json", outcome.genotype.to_json() | {"text": text})


def build_estimator(options: SearchOptions) -> tuple[Estimator, Schedule]:
    """The estimator and its temperature schedule. Raises InputError."""
    family = estimators.family(one_of("estimator", options.estimator, estimators.names()))
    schedule = family.default_schedule
    edge_gradient = f"--edge-gradient {options.edge_gradient}"
    if options.edge_gradient in ("compiled", "surrogate") and not family.discrete:
        raise InputError(f"{edge_gradient} needs an estimator that draws, '{family.name}' mixes all")
    if options.edge_gradient == "compiled" and family.uses_loss:
        raise InputError(f"{edge_gradient} needs an estimator that differentiates, not '{family.name}'")
    if options.edge_gradient == "compiled" and options.sync_batch_norm:
        raise InputError(f"{edge_gradient} does not go with --sync-batch-norm: drop one of the two")
    if options.draw_per == "image":
        for name, given in (
            ("--draws", options.draws is not None),
            ("--order 2", options.order == 2),
            (edge_gradient, options.edge_gradient in ("compiled", "surrogate")),
            ("--estimator softmax, which draws nothing,", options.estimator == "softmax"),
        ):
            if given:
                raise InputError(f"{name} does not go with --draw-per image: drop one of the two")
    if options.draw_per == "rank":
        for name, given in (
            ("--order 2", options.order == 2),
            ("--sync-batch-norm", options.sync_batch_norm),
            ("--estimator softmax, which draws nothing,", options.estimator == "softmax"),
        ):
            if given:
                raise InputError(f"{name} does not go with --draw-per rank: drop one of the two")
    if options.order == 2 and family.uses_loss:
        raise InputError(f"--order 2 needs an estimator that differentiates, not '{family.name}'")
    if options.draws is not None and options.draws < family.fewest_draws:
        raise InputError(f"--draws is {options.draws}, '{family.name}' needs at least {family.fewest_draws}")
    try:
        if options.tau is not None:
            schedule = Schedule.parse(options.tau)
    except ValueError:
        raise InputError(f"--tau is '{options.tau}', expected a number or START:END") from None
    try:
        for tau in (schedule.start, schedule.end):
            family.check_tau(tau)
    except ValueError as error:
        raise InputError(f"--tau: {error}") from None
    return family(schedule.start), schedule
