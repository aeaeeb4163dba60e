"""The architecture search as a job: a supernet, its architecture, the data, and the steps over them."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor

from nas import device, distributed, latency_table
from nas.bilevel import budget
from nas.bilevel.architecture import Architecture
from nas.bilevel.budget_term import BudgetTerm
from nas.bilevel.growth import Growth, widen
from nas.bilevel.measures.gradient import GradientMeasure
from nas.bilevel.measures.watch import Watch
from nas.bilevel.parts import SearchParts, build
from nas.bilevel.records import metrics, result
from nas.bilevel.rules.front import Front, write_front
from nas.bilevel.skips import SkipSchedules, most_skips
from nas.bilevel.steps import Bilevel
from nas.bilevel.two_parts import TwoParts
from nas.bilevel.unroll import unrolled_gradient, unrolled_gradient_exact
from nas.confusion import Confusion
from nas.genotypes import cells_of, planned_size_of
from nas.given import digests
from nas.large_images import warn_of_large_images
from nas.runs.files import write_json
from nas.runs.job import Job, Outcome
from nas.seeding import generator, kept_generators, seed_everything
from nas.steps import Mean, Work, evaluate
from nas.task import require_numbers
from nas.training.timm_parts import quiet_scheduler
from recipes import InputError, SearchOptions
from recipes.registry import name_of
from search_spaces import Genotype
from search_spaces.cell import candidate_parameters, leave_out
from search_spaces.mixed_edge import Draw
from search_spaces.skeleton import Skeleton


class Search(Job):
    """A supernet, its architecture, the data, and the bi-level steps over them.

    Args:
        parts: what the options name, as objects.
        options: numbers; those that `parts` stand for are not read.
        place: the device.

    Attributes:
        space, dataset, task, rule, shrinking: see SearchParts.
        growth, stage: the stages of the search, and the one that it is in.
        budget: what the derived network may cost.
        tightest: the budget, or the least of several.
        architecture: the logits.
        unlearned: the state of the estimator before the first step.
        supernet: on the device.
        bilevel: the two steps.
        train, valid: batches of the two parts of the training images.
        announcement: what its user should know before it starts.
    """

    options: SearchOptions

    def __init__(self, parts: SearchParts, options: SearchOptions, place: torch.device) -> None:
        self.options, self.device = options, place
        self.space, self.dataset, self.task, self.rule = parts.space, parts.dataset, parts.task, parts.rule
        self.schedule, self.shrinking = parts.schedule, parts.shrinking
        dataset, batches = parts.dataset, TwoParts.of(parts.dataset, options, place)
        self.train, self.valid, self.concerns = batches.train, batches.valid, batches.concerns
        self.steps, self.labels = len(self.train), batches.labels
        require_numbers(self.task, dataset.test.labels[:2].to(place))
        self.documents: dict[str, Any] = {"splits.json": batches.split}
        self.announcement = [f"data: {dataset}", *(f"warning: {text}" for text in self.concerns)]
        self.train_mean, self.valid_mean = Mean(), Mean()  # of the current epoch
        self.progress = 0.0  # that the strengths of skips are set for
        latencies = None
        if options.latency_table is not None:
            latencies = latency_table.read(options.latency_table, self.space)
            self.documents["latency.json"] = latencies.to_json(self.space)
        self.budget, budgets = budget.build(self.space, options, dataset, self.task.outputs, latencies)
        self.tightest = budgets[0] if budgets else self.budget
        if budgets:
            self.rule = Front(self.rule, budgets)

        self.skips = SkipSchedules.of(options, self.space)
        self.growth = Growth.of(options, self.space)
        if options.edge_gradient == "compiled" or (
            options.edge_gradient == "captured" and place.type == "cuda"
        ):
            device.require_compiler(place, f"`edge_gradient={options.edge_gradient}`")
        self._begin(0)
        shape = dataset.train.pixels.shape[1:]
        with torch.device("meta"), kept_generators():
            largest = self._made(options) if self.growth.stages[1:] else self.supernet
        warned = warn_of_large_images(self.space, largest, shape, options.batch_size)
        self.announcement += [f"warning: {text}" for text in warned]
        self.architecture = Architecture(self.space, parts.estimator)
        self.unlearned = copy.deepcopy(parts.estimator.state())
        if options.edge_normalisation:
            self.architecture.start_edges()
        if options.prior:
            sizes = candidate_parameters(self.supernet, self.space.num_slots, self.space.width)
            self.architecture.start_near(sizes, options.prior)
        self.architecture_optimizer = torch.optim.Adam(
            self.architecture.leaves, options.arch_lr, (0.5, 0.999), weight_decay=options.arch_weight_decay
        )
        terms = parts.terms
        if self.budget.limits:
            steps = (options.epochs - options.warmup) * self.steps
            begin = options.warmup / options.epochs
            terms = (*terms, BudgetTerm(self.budget, self.architecture, begin, steps))
        self.bilevel = Bilevel(
            self.supernet,
            self.architecture,
            self.task,
            self.weight_optimizer,
            self.architecture_optimizer,
            terms=terms,
            policy=parts.policy,
            draws=options.draws,
            draw_per=options.draw_per,
            coupling=options.coupling,
            architecture_loss=options.architecture_loss,
            order=options.order,
            clip=options.clip,
            architecture_clip=options.arch_clip,
            precision=device.autocast(options.precision, place),
            unroll=unrolled_gradient_exact if options.edge_gradient == "dense" else unrolled_gradient,
        )
        self.watch = Watch(options, self.bilevel, self.valid)
        for term in terms:
            term.prepare(self)
        self.shrinking.prepare(self)
        self.rule.prepare(self)

    @classmethod
    def of(
        cls, options: SearchOptions, given: dict[str, Any] | None = None, place: torch.device | None = None
    ) -> Search:
        """The search that the options describe, with objects for some of its parts: see `parts.build`."""
        found, stated = build(options, given or {})
        made = cls(found, stated, place or torch.device("cpu"))
        made.documents |= digests(found.dataset, given or {})
        return made

    def _made(self, options: SearchOptions) -> Skeleton:
        """A supernet in the sizes of the options, with new weights from the global generator."""
        return self.space.supernet(
            channels=options.channels,
            cells=cells_of(self.space, options.cells),
            num_classes=self.task.outputs,
            in_channels=self.dataset.in_channels,
            edge_gradient=options.edge_gradient,
            planned_size=planned_size_of(self.space, options.planned_size, self.dataset),
            auxiliary_skip=self.skips.auxiliary is not None,
            skip_dropout=self.skips.dropout is not None,
            partial_channels=options.partial_channels,
        )

    def _begin(self, stage: int) -> None:
        """Make the supernet of a stage, with new weights, their optimizer and its learning rates."""
        options, self.stage = self.growth.stages[stage], stage
        seed_everything(options.seed, "initial weights", *([stage] if stage else []))
        supernet = self._made(options)
        if options.sync_batch_norm:
            distributed.synchronise(supernet)
        self.supernet = device.place(supernet, self.device, options.channels_last)
        self._move_skips(stage / len(self.growth.stages))
        self.weight_optimizer = torch.optim.SGD(
            self.supernet.parameters(),
            options.lr,
            options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov and options.momentum > 0,
            fused=self.device.type == "cuda",  # so that a step is skipped without the host
        )
        with quiet_scheduler():
            self.rates = CosineLRScheduler(
                self.weight_optimizer, t_initial=self.growth.schedule, lr_min=options.lr_min
            )

    def _move_skips(self, progress: float) -> None:
        """Set the strengths of auxiliary skips and of the dropout behind skips."""
        self.progress = progress
        self.skips.move(self.supernet, progress)

    def _enter(self, stage: int) -> None:
        """Go on in another stage, with the supernet of which all are told."""
        self._begin(stage)
        self.bilevel.take_up(self.supernet, self.weight_optimizer)
        for term in self.bilevel.terms:
            term.prepare(self)

    def _grow(self, stage: int) -> None:
        """Go on in the next stage."""
        supernet, optimizer = self.supernet, self.weight_optimizer
        self._enter(stage)
        if self.growth.renews:
            self.architecture.estimator.load_state(copy.deepcopy(self.unlearned))  # of other weights
        else:
            widen(supernet, self.supernet, optimizer, self.weight_optimizer)
        del supernet, optimizer
        gc.collect()  # captured cells refer to themselves

    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """One pass over the training part, with an architecture step before every weight step, and what is
        taken out then."""
        seed, warmup = self.options.seed, self.options.warmup
        if start == 0:
            self.train_mean, self.valid_mean = Mean(), Mean()
            if (stage := self.growth.stage(epoch)) != self.stage:
                self._grow(stage)
            self.shrinking.begin(self, epoch)
        self.rates.step(epoch % self.growth.schedule)
        first, total = epoch * self.steps + start, self.options.epochs * self.steps
        if epoch == start == 0:
            self.shrinking.work(self, 0)
        leave_out(self.supernet, self.architecture.mask)
        learns = epoch >= warmup and not self.shrinking.rests(self, epoch)
        valid_batches = self.valid.endless(max(0, first - warmup * self.steps))
        for step, train_batch in enumerate(self.train.epoch(epoch, start), first):
            seed_everything(seed, "step", step)  # for operations that are random themselves
            self.architecture.estimator.tau = self.schedule.at(step, total)
            self._move_skips(step / total)
            if learns:
                draws = generator(seed, "architecture draw", *self.draw_position(step))
                valid_batch = next(valid_batches)
                self.valid_mean.add(
                    self.bilevel.architecture_step(valid_batch, train_batch, draws, step / total)
                )
            draws = generator(seed, "weight draw", *self.draw_position(step))
            self.train_mean.add(self.bilevel.weight_step(train_batch, draws, step, step / total))
            yield
        self.shrinking.work(self, epoch + 1)

    def draw_position(self, step: int) -> tuple[int, ...]:
        """What the draws of a step are seeded by: equal on all ranks, unless each has its own."""
        own = self.options.draw_per == "rank" and distributed.rank() > 0
        return (step, distributed.rank()) if own else (step,)

    def skipped(self) -> int:
        """Steps of this epoch that were skipped."""
        return int(self.train_mean.skipped) + int(self.valid_mean.skipped)

    def score(self, genotype: Genotype) -> tuple[float, float]:
        """Loss and accuracy (%) of an architecture with the shared weights, on the validation part."""
        return self.score_draw(self.space.path(genotype))

    def score_draw(self, draw: Draw) -> tuple[float, float]:
        """`score` of what a supernet takes, such as a mixture (E, K)."""
        self.bilevel.work.evaluated += len(self.valid.images)
        return self._score(draw)

    def score_uncounted(self, genotype: Genotype, confusion: Confusion | None = None) -> tuple[float, float]:
        """`score` for the record, which is not part of the work that the search takes."""
        return self._score(self.space.path(genotype), confusion)

    def _score(self, draw: Draw, confusion: Confusion | None = None) -> tuple[float, float]:
        seed_everything(self.options.seed, "score")
        return evaluate(self.supernet, self.valid, self.task, self.bilevel.precision, draw, confusion)

    def measure(self, epoch: int) -> dict[str, Any]:
        """How far every estimator is from the gradient of the logits now; see measures.gradient."""
        seed_everything(self.options.seed, "measure", epoch)
        images, labels = next(iter(self.valid))
        batch = (images[: self.options.batch_size], labels[: self.options.batch_size])
        work = copy.copy(self.bilevel.work)
        measure = GradientMeasure(self.bilevel, batch, self.options.seed, epoch)
        found = measure.describe((epoch + 1) / self.options.epochs)
        self.bilevel.work = work  # that of the search alone
        return found

    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""
        return metrics(self, epoch)

    def kept(self, epoch: int) -> dict[str, Tensor] | None:
        """The shared weights and the logits, if they are to be kept after so many epochs."""
        every = self.options.keep_weights_every
        return self.weights() if every and epoch % every == 0 else None

    def has_settled(self, epoch: int) -> bool:
        """Whether the decisions are as clear as the options ask for, or make as many skip connections, after
        so many epochs, or the search has begun to collapse."""
        if self.watch.stopped:
            return True
        if epoch <= self.options.warmup:
            return False
        if most := self.options.stop_skips:
            likely = self.space.discretise(self.architecture.scores())
            if most_skips(self.space, likely) >= most:
                return True
        return self.architecture.entropy() < self.options.stop_entropy

    def would_find(self) -> Genotype:
        """The architecture of the most probable candidates that are within the budget now."""
        return self.budget.derive(self.architecture.scores())

    def weights(self) -> dict[str, Tensor]:
        """The shared weights by their names after `supernet.`, and `logits` (`edge_logits`), as they are: not
        copied."""
        shared = {f"supernet.{name}": tensor for name, tensor in self.supernet.state_dict().items()}
        return shared | self.architecture.state()

    def take(self, weights: Mapping[str, Tensor], epoch: int | None = None) -> None:
        """Take up `weights`, of this search or of an equal one, after so many epochs (None: in this stage).
        Raises InputError where they do not fit."""
        if epoch is not None and (stage := self.growth.stage(epoch - 1)) != self.stage:
            self._enter(stage)
        if epoch is not None:
            self._move_skips((epoch * self.steps - 1) / (self.options.epochs * self.steps))
        own = self.weights()
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in own.items()}
        found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
        if wrong := sorted(dict(expected.items() ^ found.items())):
            raise InputError(f"the weights are not of this search, {wrong[0][:60]} first: restore them")
        for name, tensor in own.items():
            tensor.copy_(weights[name])

    def state(self) -> dict[str, Any]:
        """All that determines the rest of the search, besides its options and the position."""
        return {
            "stage": self.stage,
            "supernet": self.supernet.state_dict(),
            **self.architecture.state(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "estimator": self.architecture.estimator.state(),
            "tau": self.architecture.estimator.tau,
            "progress": self.progress,
            "train_mean": self.train_mean.state(),
            "valid_mean": self.valid_mean.state(),
            "rule": self.rule.state(),
            "shrinking": self.shrinking.state(),
            "terms": [term.state() for term in self.bilevel.terms],
            "watch": self.watch.state(),
            "work": asdict(self.bilevel.work),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        if state["stage"] != self.stage:
            self._enter(state["stage"])
        for name in ("supernet", "weight_optimizer", "architecture_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            for name, tensor in self.architecture.state().items():
                tensor.copy_(state[name])
        self.architecture.estimator.load_state(state["estimator"])
        self.architecture.estimator.tau = state["tau"]
        self._move_skips(state["progress"])
        self.train_mean, self.valid_mean = (Mean.restored(state[m]) for m in ("train_mean", "valid_mean"))
        self.bilevel.work = Work(**state["work"])
        if state.get("rule"):
            self.rule.restore(state["rule"])
        self.watch.restore(state["watch"])
        self.shrinking.restore(state["shrinking"])
        for _, row, candidate in self.shrinking.taken:
            self.architecture.take_out(row, candidate)
        for term, known in zip(self.bilevel.terms, state["terms"], strict=True):
            term.restore(known)

    def summary(self, metrics: dict[str, Any]) -> str:
        """The current cell, for the progress bar."""
        return str(metrics["genotype"])[:80]

    def pieces(self) -> int:
        """Pieces of work after the last epoch."""
        return self.rule.pieces(self)

    def finish(self) -> Iterator[None]:
        """What the rule of selection does after the last epoch, piece by piece."""
        self._move_skips(1.0)
        self.watch.rewind()
        leave_out(self.supernet, self.architecture.mask)
        work = self.rule.select(self)
        if not isinstance(work, Iterable):
            raise InputError(
                f"`select` of the rule '{name_of(self.rule)}' returns no iterator, expected one: give it "
                "a `yield` after each piece of work, or `yield from ()`"
            )
        yield from work

    def conclude(self) -> Outcome:
        """The architecture that was found."""
        genotype = self.rule.selected(self)
        if not isinstance(genotype, Genotype):
            raise InputError(
                f"the rule '{name_of(self.rule)}' selects a {type(genotype).__name__}, expected a Genotype: "
                "`search.space` parses, discretises and draws them"
            )
        genotype = self.space.validate(genotype)
        if self.budget.fit(genotype) != genotype:
            raise InputError(
                f"the rule '{name_of(self.rule)}' selects an architecture above the budget, "
                f"{self.space.format(genotype)}: `search.budget.fit` says which are within it"
            )
        return Outcome(genotype, *result(self, genotype))

    def save(self, folder: Path, outcome: Outcome) -> None:
        """Write the architecture."""
        text = outcome.result["genotype"]
        write_json(folder / "genotype.json", outcome.genotype.to_json() | {"text": text})
        if front := outcome.result.get("front"):
            write_front(folder, self.space, front)
