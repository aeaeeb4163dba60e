"""Derived networks as timm models, saved as safetensors with everything needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from torch import nn

import search_spaces
from nas.data.preprocessing import Preprocessing
from nas.genotypes import read_genotype
from nas.runs.files import atomic_path
from recipes import InputError, first_line
from recipes.text_files import parse_json
from search_spaces import Genotype
from search_spaces.skeleton import Skeleton

# The size of a network, with the largest that a file to be loaded may have.
LARGEST = {"channels": 4096, "cells": 1000, "num_classes": 10**6, "in_chans": 10**6, "planned_size": 10**6}

# Keyword arguments of timm.create_model that are for timm.
_FOR_TIMM = {
    "cache_dir", "features_only", "feature_cls", "out_indices", "pretrained_cfg_overlay",
    "pretrained_model_args", "pretrained_strict",
}  # fmt: skip


@register_model  # type: ignore[untyped-decorator]
def nas_net(
    pretrained: bool = False,
    genotype: Genotype | str | None = None,
    space: str | None = None,
    channels: int | None = None,
    cells: int | None = None,
    num_classes: int = 10,
    in_chans: int = 3,
    auxiliary: bool = False,
    drop_path_rate: float = 0.0,
    planned_size: int = 32,
    pretrained_cfg: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Skeleton:
    """The network of a genotype: `timm.create_model("nas_net", genotype="darts_v2")`.

    Args:
        genotype: a Genotype, the name of a published cell, a file or the notation itself.
        space: the genotype's search space (default: found from the genotype).
        channels, cells: size; default: that of the space's final network.
        auxiliary: add the auxiliary classifier (darts).
        drop_path_rate: drop-path probability in training (darts, mobile, nasbench_macro).
        planned_size: side in pixels of the images that stem and strides are meant for (darts, mobile).
        pretrained, pretrained_cfg: weights and preprocessing, where timm loads an exported folder:
            `timm.create_model("local-dir:FOLDER", pretrained=True)`.
        kwargs: of timm: `features_only=True` makes a backbone, which gives the feature maps of all stages or
            those of `out_indices`.

    Raises:
        InputError: the genotype cannot be read.
        ValueError: `pretrained` without a place of the weights, or an option that does not exist.
    """
    if pretrained and not any((pretrained_cfg or {}).get(k) for k in ("file", "hf_hub_id", "url")):
        raise ValueError("nas_net has no weights of its own: nas.load(path) loads a trained network")
    if unknown := sorted(kwargs.keys() - _FOR_TIMM):
        raise ValueError(f"nas_net does not know the option(s) {', '.join(unknown)}")
    if genotype is None:
        raise ValueError("nas_net needs a genotype, e.g. genotype='darts_v2'")
    if isinstance(genotype, str):
        genotype = read_genotype(genotype, space)
    network = search_spaces.get(genotype.space).network(
        genotype,
        channels=channels,
        cells=cells,
        num_classes=num_classes,
        in_channels=in_chans,
        auxiliary=auxiliary,
        drop_path=drop_path_rate > 0,
        planned_size=planned_size,
    )
    network.set_drop_path(drop_path_rate)
    built: Skeleton = build_model_with_cfg(
        lambda **_: network,
        "nas_net",
        pretrained,
        pretrained_cfg=_layers(network) | {"num_classes": num_classes} | (pretrained_cfg or {}),
        feature_cfg={"feature_cls": "getter", "out_indices": len(network.stages)},
        num_classes=num_classes,
        in_chans=in_chans,
        **kwargs,
    )
    return built


def _layers(network: Skeleton) -> dict[str, Any]:
    """The layers that timm exchanges for other channels or classes."""
    first = next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return {"first_conv": first, "classifier": "classifier"}


def describe(network: Skeleton, description: dict[str, Any]) -> Skeleton:
    """Give a network its description, for users and, as its `pretrained_cfg`, for timm.

    Raises:
        TypeError, ValueError: its preprocessing makes no sense.
    """
    network.description = description
    preprocessing = Preprocessing.of(description)
    if preprocessing is not None:
        network.pretrained_cfg = network.pretrained_cfg | preprocessing.for_timm()
    if "classes" in description:
        network.pretrained_cfg = network.pretrained_cfg | {"label_names": tuple(description["classes"])}
    network.default_cfg = network.pretrained_cfg
    return network


def save(path: Path | str, model: Skeleton, description: dict[str, Any]) -> None:
    """Write the weights of `model`, without an auxiliary head, and `description` to `path`.

    Args:
        description: JSON-ready: `genotype` (its `to_json`), `channels`, `cells`, `num_classes`,
            `in_chans`, `planned_size` (32 where it is missing), those of its `Preprocessing`, `classes` by
            name, and what else a user should know.
    """
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("auxiliary.")
    }
    with atomic_path(Path(path)) as temporary:
        save_file(weights, temporary, {"nas": json.dumps(description)})


def load(path: Path | str, device: torch.device | str = "cpu") -> Skeleton:
    """The network saved at `path`, a file or the folder of a training, in evaluation mode;
    `model.description` tells what it is.

    Nothing in the file is executed: weights are plain tensors, the rest is JSON.

    Raises:
        InputError: the file is missing, damaged or not one of ours.
    """
    path = Path(path, "model.safetensors") if Path(path).is_dir() else path
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            description = parse_json(file.metadata()["nas"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        size = size_of(description)
        with torch.device("meta"):  # whatever size it claims, the weights are those in the file
            model: Skeleton = nas_net(genotype=Genotype.from_json(description["genotype"]), **size).float()
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
        found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
        if wrong := sorted(dict(expected.items() ^ found.items())):
            raise ValueError(f"the weights do not fit the description, {wrong[0]} first")
        model.load_state_dict(weights, assign=True)
        describe(model, description)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot load the network {path}: {first_line(error)}; expected a model.safetensors written by "
            "train_final.py"
        ) from None
    return model.to(device).eval()


def size_of(description: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of `nas_net` beside the genotype, of a saved network. Raises KeyError, ValueError."""
    size = {key: description[key] for key in LARGEST if key != "planned_size"}
    size["planned_size"] = description.get("planned_size", 32)  # older files have none
    for key, value in size.items():
        if type(value) is not int or not 1 <= value <= LARGEST[key]:
            raise ValueError(f"its {key} is not an integer from 1 to {LARGEST[key]}")
    return size
