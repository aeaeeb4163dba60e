"""Slots: the decisions that a search space consists of, one for each row of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = -1  # in a choice: the edge of the slot is not part of the architecture


@dataclass(frozen=True)
class Slot:
    """A decision: which operation reads node `source` of a cell and is added to node `target`.

    Attributes:
        cell: kind of cell.
        source, target: nodes, of which the inputs of a cell come first.
        candidates: operations of which one is chosen; the first columns of the row of logits are theirs.
        label: what reports call it.

    Raises:
        ValueError: no candidates, or two of the same name.
    """

    cell: str
    source: int
    target: int
    candidates: tuple[str, ...]
    label: str

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise ValueError(f"slot '{self.label}' needs one or more distinct candidates: {self.candidates}")


def cell_slots(
    cell: str, inputs: int, nodes: int, candidates: Sequence[Sequence[str]] | Sequence[str], label: str = ""
) -> tuple[Slot, ...]:
    """The slots of a cell in which an edge leads to every later node from all nodes before it.

    Args:
        cell: kind of cell.
        inputs, nodes: number of input nodes, and of all nodes.
        candidates: operations of all edges, or a list of them for each edge: 0→2, 1→2, 0→3, ...
        label: what their labels begin with.
    """
    ends = [(source, target) for target in range(inputs, nodes) for source in range(target)]
    each: Sequence[Sequence[str]] = list(candidates)
    if isinstance(candidates[0], str):
        each = [candidates] * len(ends)  # type: ignore[list-item]
    return tuple(
        Slot(cell, source, target, tuple(names), f"{label}{source}→{target}")
        for (source, target), names in zip(ends, each, strict=True)
    )


def require_slots(space: Any, slots: Any) -> None:
    """Raise ValueError unless `slots` are those of a space: some, each between two nodes of its own, of which
    the earlier is its source."""
    if not isinstance(slots, Sequence) or not slots or not all(isinstance(slot, Slot) for slot in slots):
        raise ValueError(f"the space {space!r} has no slots, expected `slots`, a tuple of one or more Slot")
    seen = set()
    for slot in slots:
        place = (slot.cell, slot.source, slot.target)
        if not 0 <= slot.source < slot.target:
            raise ValueError(
                f"the slot {slot.label!r} of the space {space!r} leads from node {slot.source} to node "
                f"{slot.target}, expected a later one"
            )
        if place in seen:
            raise ValueError(
                f"the space {space!r} has two slots from node {slot.source} to node {slot.target} of "
                f"{slot.cell!r}: give them one, or nodes of their own"
            )
        seen.add(place)
