"""Training a derived network from scratch, as a job."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn

import search_spaces
from nas import data, device, distributed, latency_table
from nas.confusion import Confusion, balanced_message, of_classes
from nas.data import Batches, DataSet
from nas.genotypes import cells_of, planned_size_of, read_cell
from nas.given import build_task, digests, load_data
from nas.guard import KeptBuffers, guarded_step
from nas.large_images import warn_of_large_images
from nas.latency_table import LatencyTable
from nas.runs import checkpoint
from nas.runs.files import read_json
from nas.runs.job import Job, Outcome
from nas.seeding import seed_everything
from nas.steps import Mean, StepResult, evaluate
from nas.task import Task, of_task, require_numbers
from nas.timing import machine, network_latency, place_of, require_engine
from nas.training.average import Average
from nas.training.model import LARGEST, save
from nas.training.timm_parts import build_mixup, build_optimizer, build_scheduler, image_policy
from nas.training.weights import described, file_of, summary, take, timm_layers
from recipes import FinalOptions, InputError
from recipes.budget import format_cost
from search_spaces import Genotype, GenotypeError
from search_spaces.cost import NetworkSize, count_macs, count_parameters
from search_spaces.skeleton import Skeleton

WEIGHTS = "weights.json"  # what was taken from a file


class Training(Job):
    """A derived network, its data and its optimizer.

    Args:
        genotype: the architecture.
        dataset: its training and test images.
        task: what it is trained for.
        options: numbers; those that the arguments stand for are not read.
        place: the device.
    """

    options: FinalOptions

    def __init__(
        self, genotype: Genotype, dataset: DataSet, task: Task, options: FinalOptions, place: torch.device
    ) -> None:
        self.options, self.genotype, self.task, self.device = options, genotype, task, place
        self.space = space = search_spaces.get(self.genotype.space)
        self.text = space.format(self.genotype)
        self.documents = {"genotype.json": self.genotype.to_json() | {"text": self.text}}
        for name, feature, wanted in (
            ("drop_path", "drop_path", options.drop_path),
            ("auxiliary_weight", "auxiliary", options.auxiliary_weight),
        ):
            if wanted and feature not in space.features:
                able = [n for n in search_spaces.names() if feature in search_spaces.get(n).features]
                raise InputError(
                    f"`{name}` is for the spaces {', '.join(able)}, this is '{space.name}': drop it"
                )
        self.dataset = dataset
        delivery = data.delivery(
            dataset, device=place, data_budget_gb=options.data_budget_gb, channels_last=options.channels_last
        )
        augmentation = replace(dataset.augmentation, policy=image_policy(options.auto_augment))
        share = (distributed.rank(), distributed.world())
        balanced = options.sampling == "balanced"
        self.train = Batches(
            dataset.train, options.batch_size, delivery, augmentation, options.seed, share, balanced
        )
        self.steps = len(self.train)
        self.mean = Mean()  # of the current epoch
        self.test = Batches(dataset.test, options.batch_size, delivery)
        require_numbers(task, dataset.test.labels[:2].to(place))
        own = dataset.valid
        self.valid = None if own is None else Batches(own, options.batch_size, delivery)
        self.description: dict[str, Any] = {
            "genotype": self.genotype.to_json(),
            "text": self.text,
            "channels": options.channels,
            "cells": cells_of(space, options.cells),
            "num_classes": task.outputs,
            "planned_size": planned_size_of(space, options.planned_size, dataset),
            "dataset": dataset.name,
            **of_task(task, dataset.classes),
            **dataset.preprocessing.to_json(),
        }
        self.unmeasured = ""  # why the latency cannot be measured
        self.latencies = self._latencies()
        self.concerns = data.concerns(
            dataset.classes,
            {name: part.labels for name, part in dataset.parts.items()},
            balanced or options.class_weights == "balanced",
        )
        if self.unmeasured:
            self.concerns.append(f"no latency will be measured: {self.unmeasured}")
        self.announcement = [f"data: {dataset}", *(f"warning: {text}" for text in self.concerns)]
        self.mixup = build_mixup(options, task.outputs)

        self.model: Any = self.build()
        if isinstance(self.model, Skeleton):
            shape = dataset.train.pixels.shape[1:]
            warned = warn_of_large_images(space, self.model, shape, options.batch_size)
            self.announcement += [f"warning: {text}" for text in warned]
        self.taken: str | None = None  # what weights were taken from a file
        if options.weights is not None:
            self.taken = self._start_from(options.weights)
        self.ema = Average(self.model, options.ema_decay) if options.ema_decay else None
        self.forward: nn.Module = self.model
        if options.compile:
            device.require_compiler(place, "`compile`")
            self.forward = torch.compile(self.model)  # type: ignore[assignment]
        # Walking through the modules at every step would take the host longer than a small step a GPU.
        self.parameters = list(self.model.parameters())
        self.statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        self.kept_buffers = KeptBuffers(self.model)
        self.precision = device.autocast(options.precision, place)
        self.optimizer = build_optimizer(self.model, options, place)
        self.rates = build_scheduler(self.optimizer, options)

    def _latencies(self) -> LatencyTable | None:
        """The table that the options name. Raises InputError where it is not of this network, or where its
        device or its engine is missing."""
        if self.options.latency_table is None:
            return None
        table = latency_table.read(self.options.latency_table, self.space)
        height, width = self.description["image_size"]
        channels, cells, classes, inputs, planned = (
            self.description[k] for k in ("channels", "cells", "num_classes", "in_chans", "planned_size")
        )
        table.require_size(NetworkSize(channels, cells, classes, inputs, (height, width), planned))
        try:
            self.space.choice(self.genotype)
        except GenotypeError as error:
            raise InputError(f"`latency_table` knows cells of supernets, and {error}: drop it") from None
        settings = replace(table.settings, device=str(device.select(place_of(table.settings))))
        here, there = machine(settings), table.machine
        others = [f"{n} {there.get(n)}" for n in ("processor", "gpu") if there.get(n) != here[n]]
        if others := distributed.broadcast(others):
            self.unmeasured = f"the table is of another machine, {', '.join(others)}"
        else:
            require_engine(settings)
        return table

    @classmethod
    def of(
        cls, options: FinalOptions, given: Mapping[str, Any] | None = None, place: torch.device | None = None
    ) -> Self:
        """The training that the options describe, with objects for some of its parts.

        Args:
            given: `dataset` or `task`, in place of what the options name.
        """
        if options.genotype is None:
            raise InputError(
                "`genotype` is missing, expected a genotype.json, the name of a published cell or a genotype"
            )
        genotype, notes = read_cell(options.genotype, options.space)
        if distributed.rank() == 0:
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
        given = given or {}
        dataset = load_data(options, given)
        stated = replace(options, dataset=dataset.name) if "dataset" in given else options
        task = build_task(options, dataset, given)
        made = cls(genotype, dataset, task, stated, place or torch.device("cpu"))
        made.documents |= digests(dataset, given)
        return made

    def build(self) -> nn.Module:
        """The network that is trained."""
        return self.build_network(self.genotype)

    def build_network(self, genotype: Genotype) -> Skeleton:
        """The network of `genotype` with the initial weights of this run's seed."""
        options = self.options
        seed_everything(options.seed, "initial weights")
        model: Skeleton = timm.create_model(
            "nas_net",
            genotype=genotype,
            **{name: self.description[name] for name in LARGEST},
            auxiliary=options.auxiliary_weight > 0,
            drop_path_rate=options.drop_path,
        )
        if options.sync_batch_norm:
            distributed.synchronise(model)
        return device.place(model, self.device, options.channels_last)

    def _start_from(self, weights: str) -> str:
        """Take weights from a file, unless those of a checkpoint take their place, and say so. Raises
        InputError."""
        out = Path(self.options.out or "")
        saved = any((out / name).exists() for name in (checkpoint.NEWEST, checkpoint.PREVIOUS))
        if self.options.resume and saved and (out / WEIGHTS).exists():
            taken = self.documents[WEIGHTS] = read_json(out / WEIGHTS)
            try:
                return summary(taken)
            except (LookupError, TypeError):
                raise InputError(f"{out / WEIGHTS} is damaged: delete it, and resume again") from None
        path = file_of(weights)
        if self.options.out and out.resolve() in path.resolve().parents:
            raise InputError(
                f"`weights` lies in the folder of this run, {self.options.out}: give another `out`"
            )
        theirs, mine = (described(path) or {}).get("image_size"), self.description["image_size"]
        if theirs not in (None, mine):
            self.announcement.append(
                f"warning: the network in {path} was trained on images of {theirs} pixels, these have "
                f"{mine}: `image_size` says what files are resized to"
            )
        taken = take(self.model, path, timm_layers(self.description), self.dataset.classes)
        self.documents[WEIGHTS] = taken
        if distributed.rank() == 0 and (taken["new"] or taken["unused"] or "new_classes" in taken):
            print(f"note: {summary(taken)}", file=sys.stderr)
        return summary(taken)

    @property
    def tested(self) -> Skeleton:
        """The network that is tested and saved: the averaged one where there is one."""
        averaged: Skeleton = self.model if self.ema is None else self.ema.module
        return averaged

    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """One pass over the training images."""
        options = self.options
        if start == 0:
            self.mean = Mean()
        self.rates.step(epoch)
        if options.drop_path:
            self.model.set_drop_path(options.drop_path * epoch / options.epochs)
        self.model.train()
        own = (distributed.rank(),) if distributed.rank() else ()  # masks and mixing are each rank's own
        for step, batch in enumerate(self.train.epoch(epoch, start), epoch * self.steps + start):
            seed_everything(options.seed, "step", step, *own)
            self.mean.add(self.step(*batch))
            yield

    def skipped(self) -> int:
        """Steps of this epoch that were skipped."""
        return int(self.mean.skipped)

    def step(self, images: Tensor, labels: Tensor) -> StepResult:
        """Move the weights down the gradient of the loss on one batch."""
        options = self.options
        target = labels
        if self.mixup is not None:
            images, target = self.mixup(images, labels)
        with self.kept_buffers as kept:
            with self.precision():
                output = self.forward(images)
                output, auxiliary = output if isinstance(output, tuple) else (output, None)
                loss = self.task.loss(output, target)
                objective = loss
                if auxiliary is not None:
                    objective = loss + options.auxiliary_weight * self.task.loss(auxiliary, target)
            self.optimizer.zero_grad(set_to_none=True)
            objective.backward()
            objective = objective.detach()
            shared = [*distributed.gradients(self.parameters), *self.statistics, objective]
            result = StepResult(loss.detach(), self.task.correct(output, labels), len(labels))
            result = result.over_ranks(shared)
            skipped = guarded_step(self.optimizer, objective, options.clip)
            kept.restore(skipped)
        if self.ema is not None:
            self.ema.update()
        return replace(result, skipped=skipped)

    def test_now(self) -> tuple[float, float]:
        """Loss and accuracy (%) on the test images."""
        return self._test(None)

    def _test(self, confusion: Confusion | None) -> tuple[float, float]:
        seed_everything(self.options.seed, "test")  # for operations that are random themselves
        return evaluate(self.tested, self.test, self.task, self.precision, confusion=confusion)

    def validate_now(self) -> dict[str, float]:
        """Loss and accuracy (%) on the validation part of the data set, where it has one."""
        if self.valid is None:
            return {}
        seed_everything(self.options.seed, "validation")
        loss, accuracy = evaluate(self.tested, self.valid, self.task, self.precision)
        return {"valid_loss": loss, "valid_accuracy": accuracy}

    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""
        options = self.options
        train_loss, train_accuracy = self.mean.read()
        test: tuple[float, float] | tuple[None, None] = (None, None)
        watched: dict[str, Any] = dict.fromkeys(("valid_loss", "valid_accuracy") if self.valid else ())
        if (epoch + 1) % options.evaluate_every == 0 or epoch + 1 == options.epochs:
            watched |= self.validate_now()
            test = self.test_now()
        return {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "drop_path": options.drop_path * epoch / options.epochs,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "skipped_steps": self.skipped(),
            **watched,
            "test_loss": test[0],
            "test_accuracy": test[1],
        }

    def state(self) -> dict[str, Any]:
        """All that determines the rest of the training, besides its options and the position."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean.state(),
        }
        return state if self.ema is None else state | {"ema": self.ema.module.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean = Mean.restored(state["mean"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])

    def summary(self, metrics: dict[str, Any]) -> str:
        """The accuracies so far, for the progress bar."""
        known = ((name, metrics.get(f"{name}_accuracy")) for name in ("train", "valid", "test"))
        return ", ".join(f"{name} {value:.2f} %" for name, value in known if value is not None)

    def conclude(self) -> Outcome:
        """Test the network of the last epoch."""
        classes = self.dataset.classes
        confusion = Confusion(len(classes)) if self.task.outputs == len(classes) else None
        loss, accuracy = self._test(confusion)
        network = self.tested
        shape = (self.description["in_chans"], *self.description["image_size"])
        result = {
            "kind": "final",
            "space": self.genotype.space,
            "dataset": self.options.dataset,
            "seed": self.options.seed,
            "genotype": self.text,
            "test_accuracy": accuracy,
            "test_loss": loss,
            **self.validate_now(),
            "parameters": count_parameters(network),
            "macs": count_macs(network, shape),
            "data": str(self.dataset),
            **of_classes(confusion, self.dataset, {}, "test"),
            "warnings": self.concerns,
        }
        messages = [] if self.taken is None else [self.taken]
        messages.append(f"test accuracy {accuracy:.2f} % (of the last epoch, {len(self.test.images)} images)")
        messages += balanced_message(result)
        if self.latencies is not None:
            predicted = self.latencies.costs.of(self.space.choice(self.genotype))
            measured = self.unmeasured or network_latency(
                copy.deepcopy(network), shape, self.latencies.settings
            )
            said = f"{format_cost('latency', predicted)} predicted"
            if isinstance(measured, int):
                result["latency"] = {"measured": measured, "predicted": predicted}
                messages.append(f"latency {format_cost('latency', measured)} measured, {said}")
            else:
                result["latency"] = {"predicted": predicted}
                messages.append(f"warning: latency {said}, not measured: {measured}")
        return Outcome(self.genotype, result, messages)

    def save(self, folder: Path, outcome: Outcome) -> None:
        """Write the network."""
        path = folder / "model.safetensors"
        save(path, self.tested, self.description | {"test_accuracy": outcome.result["test_accuracy"]})
        outcome.messages.append(f"network {path}")
