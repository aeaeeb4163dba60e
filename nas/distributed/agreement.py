"""What ranks do in step: fail, wait for each other, and hold the same values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nas.distributed.collectives import barrier, gather_texts
from nas.distributed.processes import local_rank, rank, world
from recipes import InputError


def agreed(error: Exception, code: int) -> BaseException:
    """What to raise for an error that all ranks run into at once: on rank 0 the error, on the others a
    silent exit with `code`."""
    return error if rank() == 0 else SystemExit(code)


@contextmanager
def together() -> Iterator[None]:
    """A block whose InputErrors are those of all ranks: rank 0 raises the first, the others exit."""
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    failures = gather_texts("" if failure is None else str(failure))
    failed = [r for r, text in enumerate(failures) if text]
    if not failed:
        return
    raise agreed(failure or InputError(f"on rank {failed[0]}: {failures[failed[0]]}"), 2)


@contextmanager
def one_first() -> Iterator[None]:
    """Let one rank of every machine do the block before the others, which find what it has cached."""
    if local_rank():
        barrier()
    try:
        yield
    finally:
        if not local_rank():
            barrier()


def require_agreement(content: Any, what: str) -> None:
    """Raise InputError if `content`, as for `broadcast`, is not the same to the last bit on all ranks."""
    if world() == 1:
        return
    digest = hashlib.sha256()
    _digest(content, digest.update)
    found = gather_texts(digest.hexdigest())
    if different := [r for r, text in enumerate(found) if text != found[0]]:
        error = InputError(
            f"{what} differ between rank 0 and rank {different[0]}: every rank must read the same data with "
            "the same versions on the same kind of device; the last checkpoint is kept"
        )
        raise agreed(error, 2)


def _digest(content: Any, update: Any) -> None:
    if isinstance(content, Tensor):
        flat = content.detach().cpu().contiguous().view(-1)
        update(str((tuple(content.shape), content.dtype)).encode())
        update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(content, dict):
        for key in sorted(content, key=str):
            update(repr(key).encode())
            _digest(content[key], update)
    elif isinstance(content, list | tuple):
        update(str(len(content)).encode())
        for part in content:
            _digest(part, update)
    else:
        update(repr(content).encode())
