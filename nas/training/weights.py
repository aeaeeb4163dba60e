"""Weights that a training starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from timm.models import load_state_dict
from torch import Tensor, nn

import search_spaces
from nas.data.preprocessing import Preprocessing
from nas.timm_string import arch_of, timm_names
from nas.training.model import size_of
from recipes import FinalOptions, InputError, first_line
from recipes.text_files import parse_json
from search_spaces import Genotype

NETWORK = "model.safetensors"  # in the folder of a training
FACTS = "model.json"  # in the folder of an export


def file_of(text: str) -> Path:
    """The file with the network that `text` names: a file, or the folder of a training or of an export.

    Raises:
        InputError: there is none.
    """
    path = Path(text)
    if path.is_dir():
        found = path / NETWORK
        if not found.is_file():
            if (path / FACTS).is_file():
                raise InputError(
                    f"{path} is an export without {NETWORK}: export with the format safetensors as well, or "
                    "give the folder of the training"
                )
            kind = "a search" if (path / "splits.json").exists() else "no finished training"
            raise InputError(
                f"{path} is the folder of {kind} and holds no {NETWORK}: give that of a training, or train "
                "the genotype"
            )
        return found
    if not path.is_file():
        raise InputError(
            f"there is no file or folder {path}, expected a {NETWORK} or the folder of a training"
        )
    return path


def described(path: Path) -> dict[str, Any] | None:
    """What `nas.save` wrote about the network in a file; None where something else has written it.

    Raises:
        InputError: the file is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description = parse_json(metadata["nas"]) if "nas" in metadata else None
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot read the weights {path}: {first_line(error)}; check `weights` and your rights to read it"
        ) from None
    return description if isinstance(description, dict) and "genotype" in description else None


def options_of(weights: str) -> dict[str, Any]:
    """Architecture and size of the network that `weights` names, as options, with the side of its images
    where these were square.

    Raises:
        InputError: the file does not say its architecture.
    """
    path = file_of(weights)
    description = described(path)
    if description is None:
        raise InputError(f"{path} does not say which architecture its weights are of: give `genotype`, too")
    try:
        genotype = Genotype.from_json(description["genotype"])
        size = size_of(description)
        space = search_spaces.get(genotype.space)
        text = space.format(genotype)
        preprocessing = Preprocessing.of(description)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the description in {path} is damaged: {first_line(error)}; restore it, or give other `weights`"
        ) from None
    sizes = ("channels", "cells", *(("planned_size",) if space.plans_size else ()))
    rows, columns = preprocessing.image_size if preprocessing else (0, 0)
    images = {"image_size": rows} if rows == columns and 4 <= rows <= 4096 else {}  # what the option takes
    return {"genotype": text, "space": genotype.space, **{k: size[k] for k in sizes}, **images}


def with_architecture(options: FinalOptions) -> FinalOptions:
    """The options with the architecture of the network that `weights` names, where they name no genotype.

    Raises:
        InputError: the file does not say its architecture, or options contradict it.
    """
    if options.weights is None or options.genotype is not None:
        return options
    taken = options_of(options.weights)
    for name in taken.keys() - {"genotype", "image_size"}:
        if getattr(options, name) != taken[name]:
            raise InputError(
                f"`{name}` is {getattr(options, name)}, but the network in {file_of(options.weights)} has "
                f"{taken[name]}: drop it, or give `genotype`, too, for a network that takes what fits"
            )
    return replace(options, genotype=taken["genotype"])


def take(model: nn.Module, path: Path, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Give a network the weights in a file that fit: those of the same name and shape.

    Args:
        names: the network's names of layers that the file calls otherwise.
        path: a safetensors file, or what torch.save has written of tensors alone, such as timm's checkpoints.

    Returns:
        JSON-ready: `file`, its `sha256`, the number of tensors `taken`, and those of the network that are
        `new` and those of the file that are `unused`, with their shapes.

    Raises:
        InputError: the file cannot be read, or nothing in it fits.
    """
    own = model.state_dict()
    found = {_renamed(name, names or {}): tensor for name, tensor in read(path).items()}
    fitting = {name: t for name, t in found.items() if name in own and own[name].shape == t.shape}
    if not any(name in fitting for name, _ in model.named_parameters()):
        raise InputError(
            f"no weight in {path} has the name and shape of one of this network, e.g. {_some(found)}: the "
            f"network has {_some(own)}"
        )
    model.load_state_dict(fitting, strict=False)
    return {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "taken": len(fitting),
        "new": [_shaped(name, t) for name, t in own.items() if name not in fitting],
        "unused": [_shaped(name, t) for name, t in found.items() if name not in fitting],
    }


def timm_layers(description: Mapping[str, Any]) -> dict[str, str]:
    """The names of a network's layers by those that timm gives them, where it has such networks."""
    try:
        return {theirs: ours for ours, theirs in timm_names(arch_of(description)).items()}
    except InputError:
        return {}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer, dot, kind = name.rpartition(".")
    return f"{names.get(layer, layer)}{dot}{kind}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, on the CPU; nothing in it is executed. Raises InputError."""
    try:
        found = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # whatever a file that something else has written makes of torch.load
        raise InputError(
            f"cannot read the weights {path}: {first_line(error)}; expected a safetensors file, or a "
            "state dict saved by torch"
        ) from None
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def summary(taken: Mapping[str, Any]) -> str:
    """What `take` returned, in one line."""
    line = f"weights {taken['file']}: {taken['taken']} tensors"
    for name, what in (("new", "not in the file, trained from scratch"), ("unused", "in the file only")):
        if names := taken[name]:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            line += f"; {what}: {', '.join(names[:4])}{more}"
    return line


def _shaped(name: str, tensor: Tensor) -> str:
    return f"{name} {tuple(tensor.shape)}"


def _some(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(_shaped(name, tensor) for name, tensor in list(tensors.items())[:2]) or "nothing"
