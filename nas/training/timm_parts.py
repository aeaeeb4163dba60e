"""What final training takes from timm, by the names that the options give."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.data import Mixup
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import SGD, Adam, AdamW

from nas import data, distributed
from recipes import FinalOptions, InputError, one_of

SCHEDULERS = ("cosine", "tanh", "step", "poly")


def build_optimizer(model: nn.Module, options: FinalOptions, device: torch.device) -> torch.optim.Optimizer:
    """timm's optimizer of that name. Raises InputError."""
    try:
        name = one_of("optimizer", options.optimizer, list_optimizers())
        if name == "sgd" and not options.momentum:
            name = "momentum"  # without one there is nothing for Nesterov's to look ahead with
        # Fused, it skips a step without the host; timm's own optimizers cannot.
        fusible = get_optimizer_class(name, bind_defaults=False) in (SGD, Adam, AdamW)
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            name,
            options.lr,
            options.weight_decay,
            options.momentum,
            filter_bias_and_bn=False,
            **({"fused": True} if fusible and device.type == "cuda" else {}),
        )
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        raise InputError(
            f"optimizer '{options.optimizer}' cannot be used ({error}): give another `optimizer`"
        ) from None
    if getattr(optimizer, "is_second_order", False):
        raise InputError(
            f"optimizer '{options.optimizer}' needs second derivatives: give another `optimizer`"
        )
    return optimizer


def build_scheduler(optimizer: torch.optim.Optimizer, options: FinalOptions) -> Any:
    """timm's learning-rate scheduler of that name. Raises InputError."""
    with quiet_scheduler():
        scheduler, _ = create_scheduler_v2(
            optimizer,
            one_of("scheduler", options.scheduler, SCHEDULERS),
            num_epochs=options.epochs,
            decay_epochs=max(1, options.epochs // 3),
            min_lr=options.lr_min,
            warmup_epochs=options.warmup_epochs,
            warmup_lr=options.lr / 100,
        )
    return scheduler


@contextmanager
def quiet_scheduler() -> Iterator[None]:
    """Without timm's warning that a run of one epoch, which is a legitimate one, does not decay its rate."""
    logger = logging.getLogger("timm.scheduler")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def build_mixup(options: FinalOptions, num_classes: int) -> Mixup | None:
    """timm's Mixup and CutMix, or None where the options ask for neither. Raises InputError."""
    if not options.mixup and not options.cutmix:
        return None
    ranks = distributed.world()
    if options.batch_size % (2 * ranks):
        expected = "even" if ranks == 1 else f"a multiple of {2 * ranks} for {ranks} processes"
        raise InputError(
            f"`mixup` and `cutmix` pair the images of a batch: `batch_size` must be {expected}, not "
            f"{options.batch_size}"
        )
    # The task smooths labels, mixed ones too.
    return Mixup(options.mixup, options.cutmix, label_smoothing=0.0, num_classes=num_classes)


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
            f"`auto_augment` is '{text}', expected a timm policy such as rand-m9-mstd0.5 ({error})"
        ) from None
    return policy  # type: ignore[no-any-return]
