"""Weights that a training starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from torch import Tensor, nn

import search_spaces
from nas.data.names import quoted
from nas.data.preprocessing import Preprocessing
from nas.genotypes import description_in
from nas.timm_string import arch_of, timm_names
from nas.training.model import size_of
from recipes import FinalOptions, InputError, first_line
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
        return description_in(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the weights {path}: {first_line(error)}; check `weights` and your rights to read it"
        ) from None


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


def take(
    model: nn.Module, path: Path, names: Mapping[str, str] | None = None, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Give a network the weights in a file that fit: those of the same name and shape, in the head those of
    the same class.

    Args:
        names: the network's names of layers that the file calls otherwise.
        path: a safetensors file, or what torch.save has written of tensors alone, such as timm's checkpoints.
        classes: the network's.

    Returns:
        JSON-ready: `file`, its `sha256`, the number of tensors `taken`, those of the network that are `new`
        and those of the file that are `unused`, with their shapes, and, where the classes of both differ,
        the `new_classes`.

    Raises:
        InputError: the file cannot be read, nothing in it fits, or it holds what is not finite.
    """
    own = model.state_dict()
    found = {_renamed(name, names or {}): tensor for name, tensor in read(path).items()}
    theirs = (described(path) or {}).get("classes")
    moved = _by_class(found, own, theirs, list(classes)) if isinstance(theirs, list) else {}
    fitting = {name: t for name, t in found.items() if name in own and own[name].shape == t.shape}
    if not any(name in fitting for name, _ in model.named_parameters()):
        raise InputError(
            f"no weight in {path} has the name and shape of one of this network, e.g. {_some(found)}: the "
            f"network has {_some(own)}"
        )
    if wrong := [name for name, t in fitting.items() if not t.isfinite().all()]:
        raise InputError(f"{wrong[0]} in {path} is infinite or not a number: give other `weights`")
    model.load_state_dict(fitting, strict=False)
    return {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "taken": len(fitting),
        "new": [_shaped(name, t) for name, t in own.items() if name not in fitting],
        "unused": [_shaped(name, t) for name, t in found.items() if name not in fitting],
        **moved,
    }


def _by_class(
    found: dict[str, Tensor], own: Mapping[str, Tensor], theirs: list[str], ours: list[str]
) -> dict[str, list[str]]:
    """Arrange the head in `found` by the names of as many other classes, and say which are new; nothing where
    the names are numbers, which stand for none."""
    numbers = [str(i) for i in range(len(ours))]
    if theirs == ours or len(theirs) != len(ours) or numbers in (theirs, ours):
        return {}
    rows = {str(name): row for row, name in enumerate(theirs)}
    for key in ("classifier.weight", "classifier.bias"):
        if key in found and key in own and found[key].shape == own[key].shape and len(own[key]) == len(ours):
            old, found[key] = found[key], own[key].clone()
            for row, name in enumerate(ours):
                if name in rows:
                    found[key][row] = old[rows[name]]
    return {"new_classes": [name for name in ours if name not in rows]}


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
    if "new_classes" in taken:
        line += f"; head arranged by class, new: {quoted(taken['new_classes']) or 'none'}"
    return line


def _shaped(name: str, tensor: Tensor) -> str:
    return f"{name} {tuple(tensor.shape)}"


def _some(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(_shaped(name, tensor) for name, tensor in list(tensors.items())[:2]) or "nothing"


def require_task(options: FinalOptions, given: bool) -> None:
    """Raise InputError where a network that is trained on has a task of its own, and none is given."""
    if options.weights is not None and options.genotype is None and not given:
        path = file_of(options.weights)
        if (task := (described(path) or {}).get("task")) is not None:
            raise InputError(f"the network in {path} was trained for the task {task}: give `task`, too")
