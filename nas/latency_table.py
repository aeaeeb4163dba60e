"""Latencies of the networks of a space on one machine: a model that was fitted to measurements, and its
file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from nas.timing import Settings
from recipes import InputError, first_line
from recipes.config_file import check_types
from recipes.latency import LatencyOptions
from recipes.options import check_numbers
from recipes.text_files import parse_json, read_text
from search_spaces import SearchSpace
from search_spaces.cost import CostTable, NetworkSize
from search_spaces.slot import ABSENT

_PRIOR = 0.02  # weight of the measured candidates against one measured network
_LONGEST = 10**15  # ns


@dataclass(frozen=True)
class LatencyTable:
    """The model, and what it was fitted to.

    A network takes `fixed` and, for every candidate in it, `table`: what the candidate took by itself in its
    places, times a factor of its operation, which is fitted to whole networks.

    Attributes:
        costs: of the model, in ns.
        candidates: (E, K) int64, measured one by one, in ns.
        networks: notation, measured and predicted ns, and whether the model was fitted to it.
        quality: of the model on the other networks; see `quality`.
        machine: what it was measured on.
    """

    space: str
    size: NetworkSize
    settings: Settings
    costs: CostTable
    candidates: Tensor
    factors: Mapping[str, float]
    networks: Sequence[Mapping[str, Any]]
    quality: Mapping[str, float]
    machine: Mapping[str, Any]

    def to_json(self, space: SearchSpace) -> dict[str, Any]:
        """What the file holds."""

        def rows(table: Tensor) -> list[dict[str, int]]:
            return [
                dict(zip(slot.candidates, row, strict=False))
                for slot, row in zip(space.slots, table.tolist(), strict=True)
            ]

        return {
            "kind": "latency",
            "space": self.space,
            "size": asdict(self.size) | {"image_size": list(self.size.image_size)},
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
            "quality": dict(self.quality),
            "unit": "ns",
            "fixed": self.costs.fixed,
            "table": rows(self.costs.table),
            "factors": dict(self.factors),
            "candidates": rows(self.candidates),
            "networks": list(self.networks),
        }

    def require_size(self, size: NetworkSize) -> None:
        """Raise InputError where networks of that size are not those that were measured; classes hardly
        count."""
        mine, theirs = ({k: v for k, v in asdict(s).items() if k != "num_classes"} for s in (size, self.size))
        if wrong := [name for name in mine if mine[name] != theirs[name]]:
            (here, there) = (", ".join(f"{n}={values[n]}" for n in wrong) for values in (mine, theirs))
            raise InputError(
                f"`latency_table` is of networks with {there}, these have {here}: measure it for these, or "
                "search with `budget_channels`, `budget_cells`, `budget_image_size` and train with "
                "`channels`, `cells` as it says"
            )


def read(path: str | Path, space: SearchSpace) -> LatencyTable:
    """The table in a file. Raises InputError where it is none, or of another space."""
    try:
        data = parse_json(read_text(Path(path)))
        if data["kind"] != "latency":
            raise ValueError(f"its kind is {str(data['kind'])[:40]!r}")
        if data["space"] != space.name:
            raise InputError(
                f"`latency_table` {path} is of the space '{str(data['space'])[:40]}', not of '{space.name}': "
                f"measure it with nas latency --space {space.name}"
            )
        size = dict(data["size"])
        height, width = size.pop("image_size")
        settings = _settings(data["settings"])
        costs = CostTable(_nanoseconds(data["fixed"]), _table(space, data["table"]))
        return LatencyTable(
            space.name, NetworkSize(**{k: _positive(v) for k, v in size.items()}, image_size=(height, width)),
            settings, costs, _table(space, data["candidates"]), dict(data["factors"]), list(data["networks"]),
            dict(data["quality"]), dict(data["machine"]),
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"`latency_table` {path} cannot be read ({first_line(error)}): expected a file of nas latency"
        ) from None


def _settings(values: Any) -> Settings:
    settings = Settings(**values)
    try:
        for kind in (Settings, LatencyOptions):  # by type, and by what is a choice
            check_types(kind, asdict(settings))
        check_numbers(LatencyOptions(**asdict(settings)))
    except InputError as error:
        raise ValueError(str(error)) from None
    return settings


def _positive(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 10**9:
        raise ValueError(f"{str(value)[:40]} is no size")
    return value


def _nanoseconds(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LONGEST:
        raise ValueError(f"{str(value)[:40]} is no time in ns")
    return value


def _table(space: SearchSpace, rows: Any) -> Tensor:
    table = torch.zeros(space.num_slots, space.width, dtype=torch.int64)
    for e, (slot, row) in enumerate(zip(space.slots, rows, strict=True)):
        if list(row) != list(slot.candidates):
            raise ValueError(f"the candidates of {slot.label} are others: {str(list(row))[:60]}")
        for k, value in enumerate(row.values()):
            table[e, k] = _nanoseconds(value)
    return table


# The model


def fit(
    space: SearchSpace,
    candidates: Tensor,
    frame: float,
    choices: Sequence[Sequence[int]],
    measured: np.ndarray,
) -> tuple[CostTable, dict[str, float]]:
    """The additive model that is closest to whole networks in relative error, and the factors of its
    operations.

    What the candidates took one by one is the prior of these factors: they are 1 unless the networks say
    otherwise, and never negative.

    Args:
        candidates: (E, K) ns.
        frame: ns of a network without edges.
        choices: candidates of every network, measured (N,) ns.
    """
    names = [n for n in space.operations if any(_times(space, candidates, n))]
    columns = [[float(sum(_times(space, candidates, n, choice))) for n in names] for choice in choices]
    design = np.column_stack([np.full(len(choices), max(frame, 1.0)), columns])
    weights = 1 / np.asarray(measured, float)
    share = (design * weights[:, None]).mean(0)  # a factor matters as much as its part of a network
    prior = np.diag(np.sqrt(_PRIOR) * share)
    found = lsq_linear(
        np.concatenate([design * weights[:, None], prior]),
        np.concatenate([np.ones(len(choices)), prior @ np.ones(len(share))]),
        bounds=(0, np.inf),
    ).x
    factors = dict(zip(names, found[1:].tolist(), strict=True))
    table = torch.zeros_like(candidates)
    for e, slot in enumerate(space.slots):
        for k, name in enumerate(slot.candidates):
            table[e, k] = round(float(candidates[e, k]) * factors.get(name, 1.0))
    return CostTable(round(float(found[0]) * max(frame, 1)), table), {"frame": float(found[0]), **factors}


def _times(
    space: SearchSpace, candidates: Tensor, name: str, choice: Sequence[int] | None = None
) -> list[int]:
    """Of every slot's candidate of that name; of those in `choice` only."""
    return [
        int(candidates[e, slot.candidates.index(name)])
        for e, slot in enumerate(space.slots)
        if name in slot.candidates
        and (choice is None or (choice[e] != ABSENT and slot.candidates[choice[e]] == name))
    ]


def quality(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How far predictions are from measured latencies: R² (coefficient of determination), median and worst
    relative error, and the share of networks within 10 %."""
    errors = np.abs(predicted / measured - 1)
    spread = ((measured - measured.mean()) ** 2).sum()
    return {
        "networks": len(measured),
        "r2": float(1 - ((measured - predicted) ** 2).sum() / spread) if spread > 0 else 0.0,
        "median_error": float(np.median(errors)),
        "worst_error": float(errors.max()),
        "within_10_percent": float((errors <= 0.1).mean()),
    }
