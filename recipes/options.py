"""The options of the two entry points. This package knows numbers only: it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

LARGEST = {
    "seed": 2**63 - 1, "channels": 4096, "cells": 1000, "threads": 1024, "jobs": 1024, "seeds": 10_000,
    "draws": 1_000_000, "problems": 1_000_000, "crop_padding": 4096, "cutout": 4096,
}  # fmt: skip
"""Integers that nobody means to exceed, and that could not be computed with; of other options: a billion."""


@dataclass(kw_only=True)
class RunOptions:
    """Options that searching and final training share."""

    kind: ClassVar[str]

    preset: str | None = None
    """Named recipe that sets the defaults of the options below it (listed in the README)."""
    config: str | None = None
    """JSON file whose values become the defaults, e.g. the config.json of an earlier run."""
    out: str | None = None
    """Run folder; by default a name under runs/ made from space, estimator, data set and seed."""
    resume: bool = False
    """Continue the run in --out at its last checkpoint, with the options stored there."""
    overwrite: bool = False
    """Delete an earlier run in --out first."""
    seed: int = 0
    """Seed of everything random; equal seeds give equal runs on the CPU."""

    dataset: str = "digits"
    """digits, cifar10, cifar100 or folder:PATH (class folders, under train/ and test/ or not)."""
    data_root: str = "data"
    """Folder that holds cifar10 and cifar100."""
    download: bool = False
    """Download cifar10 or cifar100 into --data-root where it is missing."""
    image_size: int = 32
    """Side in pixels that the images of folder:PATH are resized to."""
    test_fraction: float = 0.2
    """Part of the images set aside as test set where the data set (digits, folder:PATH) has none."""
    train_limit: int | None = None
    """Use only so many training images, drawn evenly over the classes (default: all)."""
    data_budget_gb: float = 8.0
    """Data above this size (GB) stay in pinned host memory instead of on the device."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, all processes of a torchrun job together."""
    sync_batch_norm: bool = False
    """Normalise with the statistics of the whole batch, not of the slice of each process; slower."""
    channels: int = 16
    """Channels of the first cells (C)."""
    cells: int | None = None
    """Cells per stage (nasbench201, micro) or cells in all (darts); default: the fewest, 1 or 3."""
    lr: float = 0.05
    """Learning rate of the weights at the start."""
    lr_min: float = 0.0
    """Learning rate of the weights at the end of the cosine decay."""
    momentum: float = 0.9
    """Momentum of the weights."""
    weight_decay: float = 5e-4
    """Weight decay of the weights."""
    clip: float = 5.0
    """Largest norm of the weights' gradient; 0 turns clipping off."""
    crop_padding: int | None = None
    """Pixels that images are padded by before a random crop (default: the data set's)."""
    flip: bool | None = None
    """Mirror training images at random (default: the data set's)."""
    cutout: int = 0
    """Side in pixels of a random square that is blanked in training images; 0 turns it off."""

    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA and float32 on the CPU."""
    channels_last: bool = True
    """Keep feature maps in channels-last memory order; faster on CPU and GPU."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that equal seeds give equal runs on CUDA, too; slower there."""
    max_skipped_steps: int = 20
    """Steps of a run that may be skipped because their loss or gradient is not finite; one more ends it."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the last epoch always leaves one."""
    checkpoint_steps: int = 0
    """Steps between further checkpoints inside epochs; 0: none."""
    checkpoint_minutes: float = 10.0
    """Minutes after which a step leaves a checkpoint wherever it is; 0: none."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    tensorboard: bool = True
    """Write TensorBoard events."""


@dataclass(kw_only=True)
class SearchOptions(RunOptions):
    """Search an architecture."""

    kind: ClassVar[str] = "search"

    epochs: int = 60
    """Passes over the training part of the images."""
    space: str = "nasbench201"
    """Search space: nasbench201, darts or micro."""
    estimator: str = "reinmax"
    """Gradient estimator: reinmax, reinmax_rao, st, st_gumbel, gumbel_rao, gst, softmax, concrete,
    dirichlet, reinforce or reinforce_loo."""
    tau: str | None = None
    """Temperature: a number, or START:END for a linear schedule (default: the estimator's own)."""
    edge_gradient: Literal["lean", "compiled", "dense", "surrogate"] = "lean"
    """Gradient of the draws: lean (exact), compiled (the same by torch.compile, for GPUs), dense (exact,
    plain autograd) or surrogate (GDAS)."""
    draws: int | None = None
    """Independent draws per architecture step, averaged (default: 1, for reinforce_loo 4)."""
    draw_per: Literal["step", "rank", "image"] = "step"
    """step: a step draws for the whole batch; rank: every process of a torchrun job draws its own
    architecture, and the gradients are averaged; image: in architecture steps every image draws its own,
    in one pass over all candidates (the same mean; less variance only where the images agree; the
    memory of all candidates)."""
    order: Literal[1, 2] = 1
    """1: weights are held fixed in architecture steps; 2: one unrolled weight step (DARTS)."""
    nesterov: bool = True
    """Nesterov momentum for the weights."""
    warmup_epochs: int | None = None
    """Epochs at the start with weight steps only (default: half of --epochs)."""
    val_fraction: float = 0.5
    """Part of the training images that serves the architecture steps."""
    arch_lr: float = 0.02
    """Learning rate of the logits (Adam)."""
    arch_weight_decay: float = 1e-3
    """Weight decay of the logits."""
    arch_clip: float = 1.0
    """Largest norm of the logits' gradient; 0 turns clipping off."""
    measure_every: int = 0
    """Epochs between measurements of the architecture gradient: how far is every estimator from the
    truth on a fixed validation batch? 0: none. All architectures of micro are run for it, elsewhere
    a thousand."""
    derive: str = "argmax"
    """argmax, or sample:K to score K drawn architectures with the shared weights."""

    @property
    def warmup(self) -> int:
        """Number of warm-up epochs."""
        return self.epochs // 2 if self.warmup_epochs is None else self.warmup_epochs


@dataclass(kw_only=True)
class FinalOptions(RunOptions):
    """Train an architecture from scratch and test it."""

    kind: ClassVar[str] = "final"

    genotype: str | None = None
    """Architecture: a genotype.json, the name of a published cell, or the genotype itself."""
    space: str | None = None
    """Search space of the genotype (default: found from the genotype)."""
    optimizer: str = "sgd"
    """Any optimizer timm knows, e.g. sgd (Nesterov), momentum, adamw."""
    scheduler: str = "cosine"
    """Learning-rate scheduler of timm: cosine, tanh, step (a tenth at each third of the run) or poly."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises linearly."""
    label_smoothing: float = 0.0
    """Probability mass that is spread over the other classes."""
    drop_path: float = 0.0
    """Drop-path probability that the epochs rise to linearly from 0, as in DARTS (darts)."""
    auxiliary_weight: float = 0.0
    """Weight of the auxiliary head's loss; 0 builds none (darts)."""
    mixup: float = 0.0
    """Mixup alpha; 0 turns it off."""
    cutmix: float = 0.0
    """CutMix alpha; 0 turns it off."""
    auto_augment: str | None = None
    """timm policy such as rand-m9-mstd0.5; images are augmented one by one on the CPU."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then tested; 0: none."""
    compile: bool = False
    """Compile the network with torch.compile; pays for long runs."""
