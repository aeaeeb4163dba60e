"""What becomes of the candidates between the epochs of a search: fewer and fewer of them are left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from functools import cached_property
from typing import Any, ClassVar

import torch

from nas.bilevel.view import SearchView
from recipes import InputError
from search_spaces import SearchSpace, operations

Pair = tuple[int, int]  # row and candidate


class Shrinking(ABC):
    """Takes candidates out of a search at the ends of epochs.

    No estimator, policy or rule draws them from then on; weights and logits stay as they are. It is part of
    every checkpoint, so that a search goes on after an interruption where it was.

    Attributes:
        name: in reports.
        learns: whether architecture steps have a part in the search.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = True

    @cached_property
    def taken(self) -> list[tuple[int, int, int]]:
        """Epoch, row and candidate of all that was taken out, in this order."""
        return []

    def prepare(self, search: SearchView) -> None:  # noqa: B027  (few need it)
        """Look at the search, once before the first step. Raises InputError where it has no meaning."""

    def rests(self, search: SearchView, epoch: int) -> bool:
        """Whether there are no architecture steps in epoch number `epoch`, from 0."""
        return not self.learns

    def begin(self, search: SearchView, epoch: int) -> None:  # noqa: B027
        """Do what is to be done right before the first step of epoch number `epoch`, on all ranks alike."""

    @abstractmethod
    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        """Row and candidate of what is to be taken out after `epoch` epochs, 0 before the first; each is,
        before the next is asked for. On all ranks alike."""

    def work(self, search: SearchView, epoch: int) -> None:
        """Do what is to be done after `epoch` epochs."""
        pairs = self.after(search, epoch)
        if not isinstance(pairs, Iterable):
            raise InputError(
                f"`after` of the shrinking '{self.name}' returns no iterator, expected one: give it a "
                "`yield`, or `yield from ()`"
            )
        for row, candidate in pairs:
            if candidate not in search.architecture.candidates(row) or not may_go(search, row, candidate):
                raise InputError(
                    f"the shrinking '{self.name}' takes out candidate {candidate} of slot {row}, which is "
                    "not there or has to stay: ask `may_go` before"
                )
            search.architecture.take_out(row, candidate)
            self.taken.append((epoch, row, candidate))

    def named(self, space: SearchSpace, epochs: Container[int] | None = None) -> list[dict[str, Any]]:
        """What was taken out, after some epochs or after all, as `epoch`, `slot` and `candidate`."""
        return [
            {"epoch": when, "slot": space.slots[row].label, "candidate": space.slots[row].candidates[k]}
            for when, row, k in self.taken
            if epochs is None or when in epochs
        ]

    def state(self) -> dict[str, Any]:
        """What has been done, for a checkpoint: tensors, numbers and texts in dicts and lists."""
        return {"taken": [list(entry) for entry in self.taken]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises LookupError or ValueError if it is not of this kind."""
        self.taken = [(epoch, row, candidate) for epoch, row, candidate in state["taken"]]


class NoShrinking(Shrinking):
    """Every candidate stays to the end."""

    name = "none"

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        yield from ()


def may_go(search: SearchView, row: int, candidate: int) -> bool:
    """Whether a search goes on without a candidate: its slot has another that a derived network can have, and
    an architecture of what is left is within the budgets."""
    slot, architecture = search.space.slots[row], search.architecture
    others = [k for k in architecture.candidates(row) if k != candidate]
    derivable = search.space.derivable(slot)
    if not any(slot.candidates[k] in derivable for k in others):
        return False
    left = torch.zeros(architecture.logits.shape, dtype=torch.bool)
    for other in range(search.space.num_slots):
        left[other, others if other == row else architecture.candidates(other)] = True
    return search.tightest.reaches(left)


def nones(search: SearchView) -> Iterator[Pair]:
    """`none` of every slot that goes on without it."""
    for row, slot in enumerate(search.space.slots):
        for k, name in enumerate(slot.candidates):
            if operations.family(name) == "none" and may_go(search, row, k):
                yield row, k


def require_all_edges(search: SearchView, name: str) -> None:
    """Raise InputError where architectures keep only some edges, of which a shrinking says nothing."""
    if search.space.contested():
        raise InputError(
            f"`shrink={name}` does not say which edges the nodes of '{search.space.name}' keep: take a space "
            "whose cells keep all"
        )


def require_kept(search: SearchView, name: str, keep: int) -> None:
    """Raise InputError where no slot has more candidates than are kept, or nothing that is kept tells which
    edges a node is to keep."""
    space = search.space
    if space.contested() and space.width <= 2:
        raise InputError(
            f"`shrink={name}` cannot shrink '{space.name}': its slots have {space.width} candidates, and its "
            "nodes choose their edges by how likely these are: choose another space"
        )
    if keep >= space.width:
        raise InputError(
            f"`shrink={name}` keeps {keep} candidates of every slot, and the slots of '{space.name}' have "
            f"{space.width} at most: lower keep"
        )
    if keep == 1 and space.contested():
        raise InputError(
            f"`shrink={name}` keeps one candidate of every slot, and the nodes of '{space.name}' choose "
            "their edges by how likely these are: raise keep to 2"
        )


def require_positive(keep: int) -> None:
    """Raise ValueError where no candidate would be kept."""
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected an integer of at least 1")
