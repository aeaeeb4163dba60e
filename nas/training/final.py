"""Training a derived network from scratch: `run(options)` is what train_final.py calls."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from nas import data, distributed, runtime
from nas.bilevel.steps import StepResult
from nas.data import Batches
from nas.genotypes import read_genotype
from nas.guard import KeptBuffers, guarded_step
from nas.runs import loop
from nas.runtime import Mean
from nas.seeding import seed_everything
from nas.training.model import save
from recipes import FinalOptions, InputError, one_of
from search_spaces import Genotype
from search_spaces.skeleton import Skeleton

SCHEDULERS = ("cosine", "tanh", "step", "poly")


def run(options: FinalOptions) -> None:
    """Train and test as the options say, and leave the network in the run folder."""
    genotype = options.genotype or ""
    short = genotype if re.fullmatch(r"\w{1,40}", genotype) else f"{zlib.crc32(genotype.encode()):08x}"
    loop.run(options, f"final-{short}", Training)


class Training:
    """A derived network, its data and its optimizer."""

    def __init__(self, options: FinalOptions) -> None:
        self.options = options
        if options.genotype is None:
            raise InputError(
                "--genotype is missing, expected a genotype.json, the name of a published cell or a genotype"
            )
        self.genotype = read_genotype(options.genotype, options.space)
        space = search_spaces.get(self.genotype.space)
        self.text = space.format(self.genotype)
        self.documents = {"genotype.json": self.genotype.to_json() | {"text": self.text}}
        features = {"drop_path": options.drop_path, "auxiliary": options.auxiliary_weight}
        if any(wanted and name not in space.features for name, wanted in features.items()):
            raise InputError(
                f"--drop-path and --auxiliary-weight are not for the space '{space.name}': drop them"
            )
        self.device = runtime.select_device(options)
        with distributed.one_first():
            dataset = data.load(options)
        delivery = data.delivery(dataset, options, self.device)
        augmentation = replace(dataset.augmentation, policy=image_policy(options.auto_augment))
        share = (distributed.rank(), distributed.world())
        self.train = Batches(dataset.train, options.batch_size, delivery, augmentation, options.seed, share)
        self.steps = len(self.train)
        self.mean = Mean()  # of the current epoch
        self.test = Batches(dataset.test, options.batch_size, delivery)
        self.description: dict[str, Any] = {
            "genotype": self.genotype.to_json(),
            "text": self.text,
            "channels": options.channels,
            "cells": runtime.cells(options, space),
            "num_classes": len(dataset.classes),
            "in_chans": dataset.in_channels,
            "image_size": list(dataset.test.pixels.shape[-2:]),
            "classes": list(dataset.classes),
            "mean": delivery.mean,
            "std": delivery.std,
        }
        self.mixup = build_mixup(options, len(dataset.classes))

        self.model: Any = self.build()
        self.ema = ModelEmaV3(self.model, options.ema_decay) if options.ema_decay else None
        self.forward: nn.Module = self.model
        if options.compile:
            runtime.require_compiler(self.device, "--compile")
            self.forward = torch.compile(self.model)  # type: ignore[assignment]
        self.precision = runtime.autocast(options, self.device)
        try:
            name = one_of("optimizer", options.optimizer, list_optimizers())
            # Fused, it skips a step without the host; timm's own optimizers cannot.
            fusible = get_optimizer_class(name, bind_defaults=False) in (SGD, Adam, AdamW)
            self.optimizer = create_optimizer_v2(
                self.model,
                name,
                options.lr,
                options.weight_decay,
                options.momentum,
                filter_bias_and_bn=False,
                **({"fused": True} if fusible and self.device.type == "cuda" else {}),
            )
        except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
            raise InputError(f"optimizer '{options.optimizer}' cannot be used: {error}") from None
        if getattr(self.optimizer, "is_second_order", False):
            raise InputError(f"optimizer '{options.optimizer}' needs second derivatives: choose another")
        self.rates, _ = create_scheduler_v2(
            self.optimizer,
            one_of("scheduler", options.scheduler, SCHEDULERS),
            num_epochs=options.epochs,
            decay_epochs=max(1, options.epochs // 3),
            min_lr=options.lr_min,
            warmup_epochs=options.warmup_epochs,
            warmup_lr=options.lr / 100,
        )

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
            **{k: self.description[k] for k in ("channels", "cells", "num_classes", "in_chans")},
            auxiliary=options.auxiliary_weight > 0,
            drop_path_rate=options.drop_path,
        )
        if options.sync_batch_norm:
            distributed.synchronise(model)
        return runtime.place(model, options, self.device)

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
        smoothing = options.label_smoothing if self.mixup is None else 0.0  # Mixup smooths itself
        with KeptBuffers(self.model) as kept:
            with self.precision:
                output = self.forward(images)
                output, auxiliary = output if isinstance(output, tuple) else (output, None)
                loss = F.cross_entropy(output, target, label_smoothing=smoothing)
                objective = loss
                if auxiliary is not None:
                    extra = F.cross_entropy(auxiliary, target, label_smoothing=smoothing)
                    objective = loss + options.auxiliary_weight * extra
            self.optimizer.zero_grad(set_to_none=True)
            objective.backward()
            objective = objective.detach()
            statistics = [b for b in self.model.buffers() if b.is_floating_point()]
            shared = [*distributed.gradients(self.model.parameters()), *statistics, objective]
            result = StepResult(loss.detach(), (output.argmax(1) == labels).sum(), len(labels))
            result = result.over_ranks(shared)
            skipped = guarded_step(self.optimizer, objective, options.clip)
            kept.restore(skipped)
        if self.ema is not None:
            self.ema.update(self.model)
        return replace(result, skipped=skipped)

    def test_now(self) -> tuple[float, float]:
        """Loss and accuracy (%) on the test images."""
        return runtime.evaluate(self.tested, self.test, self.precision)

    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""
        options = self.options
        train_loss, train_accuracy = self.mean.read()
        test: tuple[float, float] | tuple[None, None] = (None, None)
        if (epoch + 1) % options.evaluate_every == 0 or epoch + 1 == options.epochs:
            test = self.test_now()
        return {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "drop_path": options.drop_path * epoch / options.epochs,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "skipped_steps": self.skipped(),
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
        known = ((name, metrics[f"{name}_accuracy"]) for name in ("train", "test"))
        return ", ".join(f"{name} {value:.2f} %" for name, value in known if value is not None)

    def conclude(self) -> loop.Outcome:
        """Test the network of the last epoch."""
        loss, accuracy = self.test_now()
        network = self.tested
        shape = (self.description["in_chans"], *self.description["image_size"])
        counted = (p.numel() for n, p in network.named_parameters() if not n.startswith("auxiliary."))
        result = {
            "kind": "final",
            "space": self.genotype.space,
            "dataset": self.options.dataset,
            "seed": self.options.seed,
            "genotype": self.text,
            "test_accuracy": accuracy,
            "test_loss": loss,
            "parameters": sum(counted),
            "macs": count_macs(network, shape),
            "warnings": [],
        }
        tested = f"test accuracy {accuracy:.2f} % (of the last epoch, {len(self.test.images)} images)"
        return loop.Outcome(self.genotype, result, [tested])

    def save(self, folder: Path, outcome: loop.Outcome) -> None:
        """Write the network."""
        path = folder / "model.safetensors"
        save(path, self.tested, self.description | {"test_accuracy": outcome.result["test_accuracy"]})
        outcome.messages.append(f"network {path}")


def build_mixup(options: FinalOptions, num_classes: int) -> Mixup | None:
    """timm's Mixup and CutMix, or None where the options ask for neither. Raises InputError."""
    if not options.mixup and not options.cutmix:
        return None
    if options.batch_size % 2:
        raise InputError(f"--mixup and --cutmix pair the images of a batch: --batch-size must be even, "
                         f"not {options.batch_size}")  # fmt: skip
    return Mixup(
        options.mixup, options.cutmix, label_smoothing=options.label_smoothing, num_classes=num_classes
    )


def image_policy(text: str | None) -> data.Policy | None:
    """timm's policy of that name: rand-..., augmix-... or an AutoAugment name. Raises InputError."""
    if text is None:
        return None
    parameters = {"translate_const": 10, "img_mean": (128, 128, 128)}
    try:
        if re.search(r"\d{4}", text):
            raise ValueError("numbers have at most three digits")  # timm would try a billion operations
        if text.startswith("rand"):
            policy = rand_augment_transform(text, parameters)
        elif text.startswith("augmix"):
            policy = augment_and_mix_transform(text, parameters)
        else:
            policy = auto_augment_transform(text, parameters)
    except (AssertionError, ValueError, IndexError, KeyError) as error:
        raise InputError(
            f"--auto-augment is '{text}', expected a timm policy such as rand-m9-mstd0.5 ({error})"
        ) from None
    return policy  # type: ignore[no-any-return]


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image (C, H, W)."""
    shadow = copy.deepcopy(model).to("meta").eval()  # computes nothing, and knows no short cuts
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.zeros(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2
