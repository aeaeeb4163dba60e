"""A trained network, and what is known of how it came about."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nas import device
from nas.data.preprocessing import Preprocessing
from nas.runs.files import read_json
from nas.training.model import load
from nas.training.weights import NETWORK, file_of
from recipes import FinalOptions, InputError
from recipes.command_line import words
from recipes.config_file import config_json
from search_spaces.cost import count_macs, count_parameters
from search_spaces.skeleton import Skeleton

if TYPE_CHECKING:
    from nas.api import TrainResult


@dataclass
class Trained:
    """A network in evaluation mode on the CPU, in plain memory order, without an auxiliary head.

    Attributes:
        name: for titles.
        preprocessing: of its pictures.
        result: the content of result.json, empty where it is not known.
        command: the one that trains this network; None where it is not known.
    """

    network: Skeleton
    name: str
    preprocessing: Preprocessing
    result: dict[str, Any] = field(default_factory=dict)
    command: str | None = None

    @property
    def description(self) -> dict[str, Any]:
        """That of `nas.load`."""
        return self.network.description

    @property
    def classes(self) -> list[str]:
        """Names of the outputs."""
        known = self.description.get("classes", [])
        count = self.description["num_classes"]
        return known if len(known) == count else [str(i) for i in range(count)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture."""
        return self.preprocessing.in_chans, *self.preprocessing.image_size

    def cost(self) -> dict[str, int]:
        """Parameters, and multiply-accumulates for one picture."""
        return {
            "parameters": count_parameters(self.network), "macs": count_macs(self.network, self.shape),
        }  # fmt: skip

    def example(self, count: int) -> torch.Tensor:
        """(count, C, H, W), always the same normalised noise."""
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0))


def of_path(text: str) -> Trained:
    """The network in the folder of a training or of an export, or in a file.

    Raises:
        InputError: there is none, or it does not say how its pictures are prepared.
    """
    if not text:
        raise InputError("no model is given, expected the folder of a training or its model.safetensors")
    path = file_of(text)
    network = load(path)
    folder, result, command = path.parent, {}, None
    if path.name == NETWORK and (folder / "config.json").exists() and (folder / "result.json").exists():
        result = _object(folder / "result.json")
        command = _command(_object(folder / "config.json"))
    return _trained(network, folder.resolve().name, str(path), result, command)


def _object(path: Path) -> dict[str, Any]:
    """What a run has left in a file of JSON. Raises InputError where it is damaged."""
    found: dict[str, Any] = read_json(path)
    latency = found.get("latency", {}) if isinstance(found, dict) else None
    if not isinstance(latency, dict) or not all(type(value) is int for value in latency.values()):
        raise InputError(f"{path} is damaged, it is not what a training writes: restore it, or delete it")
    return found


def of_result(result: TrainResult) -> Trained:
    """The network of a training in this process. Raises InputError where that was stopped."""
    if result.stopped is not None:
        raise InputError("the training was stopped: continue it with `resume`, then export its network")
    command = _command(config_json(result.options, result.ended.folder.objects))
    return _trained(result.model, "network", "of this training", result.summary, command)


def _trained(
    network: Skeleton, name: str, where: str, result: dict[str, Any], command: str | None
) -> Trained:
    preprocessing = Preprocessing.of(network.description)
    if preprocessing is None:
        raise InputError(f"the network {where} does not say how its pictures are prepared: train it anew")
    plain = device.place(copy.deepcopy(network), torch.device("cpu"), channels_last=False)
    plain.auxiliary = None
    return Trained(plain.eval(), name, preprocessing, result, command)


def _command(config: dict[str, Any]) -> str | None:
    """The command that repeats a training, from its config.json; None where that was given objects."""
    if config.get("objects"):
        return None
    usual = config_json(FinalOptions())
    elsewhere = ("kind", "out", "preset", "config")
    changed = {k: v for k, v in config.items() if k not in elsewhere and v != usual.get(k)}
    return " ".join(["nas train", *words(changed)])
